//! What is asked about messages between members.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::timeout_at};
use volume::{
    Letter, Volume,
    letters::{ALL, MAX_TEXT},
};

use super::{protocol::Reply, request::AboutLetters};
use crate::{
    daemon::{Shared, blocking},
    failure::{Failure, Outcome},
};

/// Bytes of messages in one answer: however their texts are escaped, it is shorter than an answer may be.
const PAGE: usize = 1 << 20;
/// How long a client waits for the next one before it asks anew.
const PATIENCE: Duration = Duration::from_secs(20);

/// Wakes those who wait for the next message.
pub(crate) type Arrivals = Arc<watch::Sender<u64>>;

/// Has whoever waits told of what comes.
pub(crate) fn watch(volume: &Volume) -> Arrivals {
    let arrivals = Arrivals::new(watch::Sender::new(0));
    let told = arrivals.clone();
    volume.on_letter(Box::new(move || told.send_modify(|count| *count = count.wrapping_add(1))));
    arrivals
}

/// Answers what needs no waiting.
pub(crate) fn answer(volume: &Volume, asked: &AboutLetters) -> Outcome<Reply> {
    match asked {
        AboutLetters::Send { to, text } => {
            let text = std::str::from_utf8(&text.0).map_err(|_| Failure::new("a message is text, in UTF-8"))?;
            let to = (to != ALL).then_some(to.as_str());
            Ok(Reply::Sent(volume.send_letter(to, text)?))
        }
        AboutLetters::List { from } | AboutLetters::Await { from } => Ok(Reply::Letters(volume.letters(*from, PAGE)?)),
        AboutLetters::Read { numbers } => Ok(Reply::Acknowledged(volume.read_letters(numbers.as_deref())?)),
    }
}

/// Answers, and waits for what is asked for that has not come.
pub(crate) async fn serve(shared: &Arc<Shared>, asked: AboutLetters) -> Outcome<Reply> {
    let waits = matches!(asked, AboutLetters::Await { .. });
    let mut arrivals = shared.letters.subscribe();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let (volume, question) = (shared.volume.clone(), asked.clone());
        let answered = blocking(move || answer(&volume, &question)).await?;
        let is_empty = matches!(&answered, Reply::Letters(letters) if letters.is_empty());
        if !waits || !is_empty || !matches!(timeout_at(deadline, arrivals.changed()).await, Ok(Ok(()))) {
            return Ok(answered);
        }
    }
}

/// Whether a text can be sent.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn check(text: &[u8]) -> Outcome<()> {
    match text.len() {
        0 => Err(Failure::new("there is nothing to send: the message is empty")),
        len if len > MAX_TEXT => Err(Failure::new(format!(
            "a message has at most {} KiB: put a longer text into a file of the volume",
            MAX_TEXT >> 10
        ))),
        _ => Ok(()),
    }
}

/// Whether a message is one with this member.
pub(crate) fn is_with(letter: &Letter, name: &str) -> bool {
    letter.to == name || (name != ALL && letter.from == name)
}
