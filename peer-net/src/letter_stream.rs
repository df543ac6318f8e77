//! Messages between members over a stream of their own, one in each direction.
//!
//! `kind u8 = 1`, then frames ([`crate::frame`]) that the session makes and takes; this module never looks inside. A stream of
//! another kind is refused and nothing more: later versions may have further ones. Versions before this one let no such
//! stream be opened.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use quinn::{Connection, RecvStream, SendStream};
use tokio::time::{sleep, timeout};
use volume::letters::Took;
use volume::sync::Session;

use crate::blocking::blocking;
use crate::close::{self, Abandoned};
use crate::frame::{self, FrameError, FrameReader};
use crate::pace::Pace;
use crate::peer::Ended;

const KIND_LETTERS: u8 = 1;
/// The longest frame: a text of the greatest length, padded, with what seals it.
const MAX_FRAME: usize = 32 << 10;
/// Frames that are taken in and synced together if they wait.
const TOGETHER: usize = 64;
/// A peer may send so many frames at once, and so many more each second. More are left on the wire until their time comes.
const AT_ONCE: f64 = 500.0;
const PER_SECOND: f64 = 100.0;

/// Opens the stream; waits for as long as the peer doesn't let it.
pub(crate) async fn open(connection: &Connection) -> Result<Abandoned, FrameError> {
    let send = connection.open_uni().await.map_err(std::io::Error::from)?;
    // People wait for it.
    let _ended = send.set_priority(2);
    let mut send = Abandoned::new(send);
    SendStream::write_all(&mut send, &[KIND_LETTERS]).await.map_err(std::io::Error::from)?;
    Ok(send)
}

/// Sends frames.
pub(crate) async fn send(stream: &mut Abandoned, frames: &[Vec<u8>]) -> Result<(), FrameError> {
    for frame in frames {
        frame::write_frame(&mut **stream, frame).await?;
    }
    Ok(())
}

/// How many frames a peer may send, on all streams of a connection together.
pub(crate) fn pace() -> Pace {
    Pace::new(AT_ONCE, PER_SECOND, Instant::now())
}

/// Takes in what comes on a stream that the peer opened, until it ends.
///
/// # Errors
/// The peer did what an honest one never does.
pub(crate) async fn receive(
    session: Arc<Session>,
    mut stream: RecvStream,
    pace: Arc<Mutex<Pace>>,
) -> Result<(), Ended> {
    let mut kind = [0];
    if stream.read_exact(&mut kind).await.is_err() {
        return Ok(());
    }
    if kind != [KIND_LETTERS] {
        log::debug!("device {}: a stream of kind {}, which this version doesn't know", session.peer().short(), kind[0]);
        let _gone = stream.stop(close::GOODBYE);
        return Ok(());
    }
    let mut frames = FrameReader::new(stream, MAX_FRAME);
    loop {
        let mut group = match frames.next().await {
            Ok(Some(frame)) => vec![frame],
            ended => return end(ended),
        };
        // What is there already.
        while group.len() < TOGETHER
            && let Ok(next) = timeout(Duration::ZERO, frames.next()).await
        {
            match next {
                Ok(Some(frame)) => group.push(frame),
                ended => return end(ended),
            }
        }
        let count = group.len();
        let group = Arc::new(group);
        loop {
            let (taker, frames) = (session.clone(), group.clone());
            match blocking(move || taker.letters_came(&frames)).await? {
                Took::All => break,
                Took::Later(pause) => sleep(pause).await,
                Took::Never => return Ok(()),
            }
        }
        let pause = pace.lock().took(count, Instant::now());
        sleep(pause).await;
    }
}

/// A stream that broke says nothing of the connection: what was on it comes again.
fn end(ended: Result<Option<Vec<u8>>, FrameError>) -> Result<(), Ended> {
    match ended {
        Err(error @ (FrameError::TooLong { .. } | FrameError::Malformed(_))) => Err(error.into()),
        _ => Ok(()),
    }
}
