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
        sends::{Sends, Transfer},
    },
    failure::Outcome,
};

/// How often whoever follows a send is told how far it is.
const PAUSE: Duration = Duration::from_millis(100);

fn path(bytes: Bytes) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes.0))
}

/// Answers what needs no waiting.
fn answer(sends: &Sends, asked: AboutSends) -> Outcome<Reply> {
    let one = |transfer: Outcome<Transfer>| transfer.map(|transfer| Reply::Transfer(Box::new(transfer)));
    match asked {
        AboutSends::Offer { paths, user } => one(sends.offer(&paths.into_iter().map(path).collect::<Vec<_>>(), &user)),
        AboutSends::List => Ok(Reply::Transfers(sends.list())),
        AboutSends::Accept { id, to } => one(sends.accept(id, to.map(path))),
        AboutSends::Decline { id } => one(sends.decline(id)),
        AboutSends::Cancel { id } => one(sends.cancel(id)),
        AboutSends::Follow { id, .. } => one(sends.get(id)),
        AboutSends::Always { user, to } => {
            let to = sends.always(&user, to.map(path))?;
            Ok(Reply::Folder(Bytes(to.as_os_str().as_bytes().to_vec())))
        }
        AboutSends::AskAgain { user } => Ok(Reply::Acknowledged(u64::from(sends.ask_again(&user)?))),
    }
}

/// Answers.
pub(crate) async fn serve(shared: &Arc<Shared>, asked: AboutSends) -> Outcome<Reply> {
    let sends = shared.sends.clone();
    blocking(move || answer(&sends, asked)).await
}

/// Tells how far a send is until it is over. Whoever goes away before that ends it, if they said so.
pub(crate) async fn follow(
    shared: &Arc<Shared>,
    id: u64,
    cancels: bool,
    writer: &mut OwnedWriteHalf,
) -> Outcome<Reply> {
    let mut guard = Guard(cancels.then(|| (shared.sends.clone(), id)));
    let mut changes = shared.sends.changes();
    let mut told = None;
    loop {
        let sends = shared.sends.clone();
        let now = blocking(move || sends.get(id)).await?;
        if !now.state.is_open() {
            guard.0 = None;
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
struct Guard(Option<(Arc<Sends>, u64)>);

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some((sends, id)) = self.0.take() {
            tokio::task::spawn_blocking(move || drop(sends.cancel(id)));
        }
    }
}
