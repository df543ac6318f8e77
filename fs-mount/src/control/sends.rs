//! What is asked about direct sends.

use std::{
    ffi::OsString,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use tokio::{net::unix::OwnedWriteHalf, time::timeout};

use super::{
    protocol::{Line, Reply},
    request::{AboutSends, Bytes},
    server::send,
};
use crate::{
    daemon::{
        Shared, blocking,
        sends::{Sends, Transfer, Wish},
    },
    failure::Outcome,
};

/// How often whoever follows a send is told how far it is.
const PAUSE: Duration = Duration::from_millis(100);

fn path(bytes: Bytes) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes.0))
}

/// Answers what needs no waiting.
fn answer(sends: &Sends, asked: AboutSends, wish: &Wish) -> Outcome<Reply> {
    let one = |transfer: Outcome<Transfer>| transfer.map(|transfer| Reply::Transfer(Box::new(transfer)));
    match asked {
        AboutSends::Offer { paths, user } | AboutSends::Send { paths, user } => {
            one(sends.offer(&paths.into_iter().map(path).collect::<Vec<_>>(), &user, wish))
        }
        AboutSends::List => Ok(Reply::Transfers(sends.list())),
        AboutSends::Accept { id, to } => one(sends.accept(id, to.map(path))),
        AboutSends::Decline { id } => one(sends.decline(id)),
        AboutSends::Cancel { id } => one(sends.cancel(id)),
        AboutSends::Follow { id, .. } => one(sends.get(id)),
        AboutSends::Always { user, to } => {
            let to = sends.always(&user, to.map(path))?;
            Ok(Reply::Folder(Bytes(to.as_os_str().as_bytes().to_vec())))
        }
        AboutSends::Unasked => Ok(Reply::Unasked(sends.unasked())),
        AboutSends::AskAgain { user } => Ok(Reply::Acknowledged(u64::from(sends.ask_again(&user)?))),
    }
}

/// Answers.
pub(crate) async fn serve(shared: &Arc<Shared>, asked: AboutSends) -> Outcome<Reply> {
    let guard = Guard::new(&shared.sends, Wish::default());
    let (sends, wish) = (shared.sends.clone(), guard.wish.clone());
    let reply = blocking(move || answer(&sends, asked, &wish)).await;
    guard.wish.let_go();
    reply
}

/// Offers something, and tells how far it is until it is over. Whoever goes away before that takes it back.
pub(crate) async fn send_and_follow(
    shared: &Arc<Shared>,
    asked: AboutSends,
    writer: &mut OwnedWriteHalf,
) -> Outcome<Reply> {
    let guard = Guard::new(&shared.sends, Wish::default());
    let (sends, wish) = (shared.sends.clone(), guard.wish.clone());
    let reply = match blocking(move || answer(&sends, asked, &wish)).await? {
        Reply::Transfer(made) => follow(shared, made.id, writer).await,
        other => Ok(other),
    };
    guard.wish.let_go();
    reply
}

/// Tells how far a send is until it is over.
pub(crate) async fn follow(shared: &Arc<Shared>, id: u64, writer: &mut OwnedWriteHalf) -> Outcome<Reply> {
    let mut changes = shared.sends.changes();
    let mut told = None;
    loop {
        let sends = shared.sends.clone();
        let now = blocking(move || sends.get(id)).await?;
        if !now.state.is_open() {
            return Ok(Reply::Transfer(Box::new(now)));
        }
        if told.as_ref() != Some(&now) {
            told = Some(now.clone());
            send(writer, &Line::Sending(Box::new(now))).await;
        }
        // How far it is changes without that.
        let _ = timeout(PAUSE, changes.changed()).await;
    }
}

/// Ends a send when its client goes away.
struct Guard {
    sends: Arc<Sends>,
    wish: Wish,
}

impl Guard {
    fn new(sends: &Arc<Sends>, wish: Wish) -> Self {
        Self { sends: sends.clone(), wish }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // It may be made right now, which takes no longer than a write.
        let (sends, wish) = (self.sends.clone(), self.wish.clone());
        tokio::task::spawn_blocking(move || wish.go().map(|id| sends.cancel(id)));
    }
}
