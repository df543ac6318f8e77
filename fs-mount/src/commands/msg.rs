//! `p2pfs msg`: messages between members.

use std::{
    collections::VecDeque,
    io::{self, IsTerminal, Read},
};

use fs_mount::moment;
use jiff::Zoned;
use volume::{
    Letter,
    letters::{ALL, MAX_TEXT},
};

use crate::{
    cli::letters::{ListMsg, Msg, MsgDeed, ReadMsg, SendMsg},
    control::{
        client::unexpected,
        letters::{check, is_with},
        protocol::{Reply, Request},
        request::{AboutLetters, Bytes},
    },
    failure::{Because, Failure, Outcome},
    home::Home,
    open_volume::{Session, ask_or_open},
    output::{self, count, printable},
    report,
};

/// Numbers in one request: it is bounded.
const NUMBERS: usize = 1000;

pub(crate) fn run(home: &Home, args: Msg) -> Outcome<()> {
    match args.deed {
        MsgDeed::Send(args) => send(home, &args),
        MsgDeed::List(args) => list(home, &args),
        MsgDeed::Read(args) => read(home, &args),
    }
}

fn send(home: &Home, args: &SendMsg) -> Outcome<()> {
    let text = match args.text.as_slice() {
        [only] if only == "-" => typed()?,
        words => words.join(" ").into_bytes(),
    };
    check(&text)?;
    let asked = AboutLetters::Send { to: args.to.clone(), text: Bytes(text) };
    let Reply::Sent(devices) = ask_or_open(home, &args.which, &Request::Letters(asked))? else {
        return Err(unexpected());
    };
    match devices {
        0 if args.to == ALL => output::line("kept here: there is no other device that it could go to"),
        0 => output::line(&format!("kept here: {} has no other device that it could go to", args.to)),
        _ => output::line(&format!("on its way to {}", count(devices, "device"))),
    }
}

/// What standard input says.
fn typed() -> Outcome<Vec<u8>> {
    let mut text = Vec::new();
    let limit = MAX_TEXT as u64 + 2;
    io::stdin().lock().take(limit).read_to_end(&mut text).because(|| "reading standard input".to_owned())?;
    if text.ends_with(b"\n") {
        text.pop();
    }
    Ok(text)
}

fn page(reply: Reply) -> Outcome<Vec<Letter>> {
    match reply {
        Reply::Letters(letters) => Ok(letters),
        _ => Err(unexpected()),
    }
}

/// What of the messages is meant, as it was understood.
struct Wanted<'a> {
    args: &'a ListMsg,
    search: Option<String>,
    since: Option<jiff::Timestamp>,
}

impl<'a> Wanted<'a> {
    fn new(args: &'a ListMsg) -> Outcome<Self> {
        let since = match &args.since {
            Some(text) => Some(moment::parse(text, &Zoned::now()).ok_or_else(|| {
                Failure::new(format!("`{text}` is no time: 2026-11-22, 09:15, yesterday or 2h-ago is one"))
            })?),
            None => None,
        };
        Ok(Self { args, search: args.search.as_ref().map(|text| text.to_lowercase()), since })
    }

    fn has(&self, letter: &Letter) -> bool {
        self.args.with.as_ref().is_none_or(|name| is_with(letter, name))
            && self.search.as_ref().is_none_or(|text| letter.text.to_lowercase().contains(text))
            && self.since.is_none_or(|since| letter.came.secs >= since.as_second())
            && (!self.args.unread || !letter.read)
    }
}

fn list(home: &Home, args: &ListMsg) -> Outcome<()> {
    let wanted = Wanted::new(args)?;
    let session = Session::begin(home, &args.which)?;
    let ask = |asked| {
        let request = Request::Letters(asked);
        if args.follow { session.ask_daemon(&request) } else { session.ask(&request) }
    };
    // Whoever sees them has read them; a program that gets them may not show them to anybody.
    let reads = !args.json && io::stdout().is_terminal();
    let show = |letters: &[Letter]| {
        for letter in letters {
            let lines = if args.json { vec![as_json(letter)] } else { lines(letter) };
            output::lines(&lines)?;
        }
        let seen: Vec<u64> = letters.iter().filter(|letter| !letter.read).map(|letter| letter.n).collect();
        if reads { note_read(&session, &seen).map(drop) } else { Ok(()) }
    };
    let mut newest = VecDeque::new();
    let mut from = 1;
    loop {
        let letters = page(ask(AboutLetters::List { from })?)?;
        let Some(last) = letters.last() else { break };
        from = last.n.saturating_add(1);
        newest.extend(letters.into_iter().filter(|letter| wanted.has(letter)));
        let too_many = newest.len().saturating_sub(args.lines.unwrap_or(usize::MAX));
        newest.drain(..too_many);
    }
    if newest.is_empty() && !args.follow && !args.json {
        return output::line(if from == 1 { "no messages" } else { "none of the messages is meant by that" });
    }
    show(newest.make_contiguous())?;
    if !args.follow {
        return Ok(());
    }
    while output::is_read() {
        let letters = page(ask(AboutLetters::Await { from })?)?;
        if let Some(last) = letters.last() {
            from = last.n.saturating_add(1);
        }
        show(&letters.into_iter().filter(|letter| wanted.has(letter)).collect::<Vec<_>>())?;
    }
    Ok(())
}

/// A message for programs.
fn as_json(letter: &Letter) -> String {
    serde_json::to_string(letter).expect("a message can be encoded")
}

/// A message for people. Its lines stay lines, and nothing in them does anything to a terminal.
fn lines(letter: &Letter) -> Vec<String> {
    let whom = match (letter.to.as_str(), letter.own) {
        (ALL, _) => " to all".to_owned(),
        (to, true) => format!(" to {to}"),
        (_, false) => String::new(),
    };
    let mark = if letter.read { "" } else { " (new)" };
    let waits = match letter.waiting {
        0 => String::new(),
        waiting => format!(" ({} still to get it)", count(waiting, "device")),
    };
    let head = format!("{}  {}  {}{whom}{mark}{waits}:", letter.n, report::moment(letter.sent), letter.from);
    let mut text = letter.text.lines();
    let mut lines = vec![format!("{head} {}", printable(text.next().unwrap_or_default()))];
    lines.extend(text.map(|line| format!("    {}", printable(line))));
    lines
}

/// Notes that these were read; how many nobody had read before.
fn note_read(session: &Session, numbers: &[u64]) -> Outcome<u64> {
    let mut done = 0;
    for numbers in numbers.chunks(NUMBERS) {
        match session.ask(&Request::Letters(AboutLetters::Read { numbers: Some(numbers.to_vec()) }))? {
            Reply::Acknowledged(read) => done += read,
            _ => return Err(unexpected()),
        }
    }
    Ok(done)
}

fn read(home: &Home, args: &ReadMsg) -> Outcome<()> {
    let session = Session::begin(home, &args.which)?;
    let done = match args.numbers.as_slice() {
        [] => match session.ask(&Request::Letters(AboutLetters::Read { numbers: None }))? {
            Reply::Acknowledged(done) => done,
            _ => return Err(unexpected()),
        },
        numbers => note_read(&session, numbers)?,
    };
    output::line(&format!("{} read", count(done, "message")))
}

#[cfg(test)]
mod tests {
    use volume::Timestamp;

    use super::*;
    use crate::cli::Which;

    fn letter() -> Letter {
        Letter {
            n: 7,
            from: "bob".to_owned(),
            device: "4f2a".to_owned(),
            to: "alice".to_owned(),
            sent: Timestamp { secs: 0, nanos: 0 },
            came: Timestamp { secs: 100, nanos: 0 },
            text: "one\n\u{1b}[2Jtwo".to_owned(),
            own: false,
            read: false,
            waiting: 0,
        }
    }

    #[test]
    fn a_message_keeps_its_lines_and_moves_no_cursor() {
        assert_eq!(lines(&letter()), ["7  1970-01-01T00:00:00Z  bob (new): one", "    \\u{1b}[2Jtwo"]);
        let own = Letter { own: true, read: true, waiting: 2, text: "x".to_owned(), ..letter() };
        assert_eq!(lines(&own), ["7  1970-01-01T00:00:00Z  bob to alice (2 devices still to get it): x"]);
        let to_all = Letter { to: ALL.to_owned(), read: true, text: "x".to_owned(), ..letter() };
        assert_eq!(lines(&to_all), ["7  1970-01-01T00:00:00Z  bob to all: x"]);
    }

    #[test]
    fn what_is_meant_is_found() {
        let wanted = |change: fn(&mut ListMsg)| {
            let which = Which { volume: None, passphrase_file: None };
            let mut args = ListMsg {
                with: None,
                search: None,
                since: None,
                unread: false,
                lines: None,
                follow: false,
                which,
                json: false,
            };
            change(&mut args);
            Wanted::new(&args).map(|wanted| wanted.has(&letter()))
        };
        assert!(wanted(|_| ()).unwrap() && wanted(|a| a.unread = true).unwrap());
        assert!(wanted(|a| a.with = Some("bob".to_owned())).unwrap());
        assert!(wanted(|a| a.with = Some("alice".to_owned())).unwrap());
        assert!(!wanted(|a| a.with = Some("carol".to_owned())).unwrap());
        assert!(!wanted(|a| a.with = Some(ALL.to_owned())).unwrap());
        assert!(wanted(|a| a.search = Some("TWO".to_owned())).unwrap());
        assert!(!wanted(|a| a.search = Some("three".to_owned())).unwrap());
        assert!(wanted(|a| a.since = Some("1970-01-01T00:01:00Z".to_owned())).unwrap());
        assert!(!wanted(|a| a.since = Some("1970-01-01T00:02:00Z".to_owned())).unwrap());
        assert!(wanted(|a| a.since = Some("someday".to_owned())).is_err());
    }
}
