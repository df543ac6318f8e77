//! Runs one established connection: drives a [`Session`] with what comes in, and writes what it gives out.
//!
//! The session is pulled: it is asked for the next message only when the last one is written, so a slow peer slows
//! itself and nobody else. All calls of the session may touch the disk and run on blocking threads, those that apply
//! commits one after the other; signatures of the next ones are checked meanwhile. Nothing here polls, but for
//! room on a full disk: the session wakes the writer and the fetchers.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::{Connection, SendStream};
use thiserror::Error;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use volume::sync::{CheckedMessage, MAX_MESSAGE, Message, Session, SessionError};

use crate::block_stream::{self, BlockError, MAX_BATCH};
use crate::blocking::blocking;
use crate::close::{self, Abandoned};
use crate::frame::{self, FrameError, FrameReader};
use crate::handshake::Control;
use crate::letter_stream;
use crate::pace::Pace;
use crate::registry_client::one_line;
use crate::sends::{self, Taker, pipe};

/// Requests for blocks under way at once.
const FETCHERS: usize = 4;
/// Messages that are read and checked before those before them are taken in; together no longer than the longest one.
const READ_AHEAD: usize = 8;
/// Commits of so many bytes are taken in and synced together if they wait. Local calls wait meanwhile.
const TAKEN_TOGETHER: usize = 1 << 20;
/// How much is encoded before it is written.
const WRITE_AHEAD: usize = 256 << 10;
/// How long to wait for the reason after a stream broke.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long a peer that was removed may take for what it is told yet, each time.
const HEARING: Duration = Duration::from_secs(30);
/// How long a peer that is shut out has for taking in what tells it so.
const TAKING: Duration = Duration::from_millis(500);
/// Streams about sends that a peer may have open at once, and how often it may open one.
const SENDS: usize = 4;
const SENDS_AT_ONCE: f64 = 50.0;
const SENDS_PER_SECOND: f64 = 10.0;
/// The first request of each fetcher; see [`Batch`].
const FIRST_BATCH: usize = 8;

/// Called whenever something about the peer or the volume may have changed. Must be quick.
pub(crate) type OnChange = Arc<dyn Fn() + Send + Sync>;

/// Why a connection ended.
#[derive(Debug, Error)]
pub(crate) enum Ended {
    /// The other end, or the network.
    #[error("{0}")]
    Connection(#[from] quinn::ConnectionError),
    /// The peer was removed from the volume.
    #[error("was removed from the volume")]
    RemovedPeer,
    /// The peer did what an honest one never does.
    #[error("misbehaved: {0}")]
    Misbehaved(String),
    /// A stream broke or stood still, or this device can't go on with it.
    #[error("{0}")]
    Stream(String),
}

impl From<FrameError> for Ended {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::TooLong { .. } | FrameError::Malformed(_) => Ended::Misbehaved(error.to_string()),
            FrameError::Truncated | FrameError::Io(_) => Ended::Stream(error.to_string()),
        }
    }
}

impl From<SessionError> for Ended {
    fn from(error: SessionError) -> Self {
        match error {
            SessionError::Misbehaved(rule) => Ended::Misbehaved(rule),
            SessionError::Failed(why) => Ended::Stream(why),
        }
    }
}

impl From<BlockError> for Ended {
    fn from(error: BlockError) -> Self {
        if error.is_misbehaviour() { Ended::Misbehaved(error.to_string()) } else { Ended::Stream(error.to_string()) }
    }
}

impl Ended {
    /// Whether the peer said that this device was removed.
    pub(crate) fn is_removal(&self) -> bool {
        matches!(self, Ended::Connection(quinn::ConnectionError::ApplicationClosed(closed)) if closed.error_code == close::REMOVED)
    }

    /// Text for people and logs; a peer's own words are made fit for that.
    pub(crate) fn reason(&self) -> String {
        match self {
            Ended::Connection(quinn::ConnectionError::ApplicationClosed(closed))
                if closed.error_code == close::GOODBYE =>
            {
                "said goodbye".to_owned()
            }
            other => one_line(&other.to_string()),
        }
    }
}

/// What wakes the tasks of one peer.
#[derive(Default)]
struct Wake {
    writer: Notify,
    fetchers: Notify,
    letters: Notify,
}

/// Runs the connection until it ends, and closes the session.
pub(crate) async fn run(
    connection: Connection,
    control: Control,
    session: Arc<Session>,
    fetches: bool,
    taker: Taker,
    on_change: OnChange,
) -> Ended {
    let wake = Arc::new(Wake::default());
    session.on_wake(Box::new({
        let (wake, on_change) = (wake.clone(), on_change.clone());
        move || {
            wake.writer.notify_one();
            wake.fetchers.notify_one();
            wake.letters.notify_one();
            on_change();
        }
    }));
    let Control { send, receive } = control;
    // Commits overtake blocks.
    if let Err(error) = send.set_priority(1) {
        log::trace!("control stream: {error}");
    }
    let mut tasks = JoinSet::new();
    let (queue, came) = mpsc::channel(READ_AHEAD);
    tasks.spawn(read(receive, queue));
    tasks.spawn(take(session.clone(), came, on_change.clone()));
    tasks.spawn(write(session.clone(), Abandoned::new(send), wake.clone()));
    tasks.spawn(serve(connection.clone(), session.clone(), taker));
    tasks.spawn(write_letters(connection.clone(), session.clone(), wake.clone()));
    tasks.spawn(take_letters(connection.clone(), session.clone()));
    for _ in 0..if fetches { FETCHERS } else { 0 } {
        tasks.spawn(fetch(connection.clone(), session.clone(), wake.clone(), on_change.clone()));
    }
    let ended = tokio::select! {
        error = connection.closed() => Ended::Connection(error),
        ended = tasks.join_next() => match ended {
            Some(Ok(Err(ended))) => ended,
            Some(Err(error)) => Ended::Stream(error.to_string()),
            Some(Ok(Ok(never))) => match never {},
            None => Ended::Stream("no tasks".to_owned()),
        },
    };
    tasks.shutdown().await;
    let ended = match ended {
        // Whoever ends a connection abandons its streams first: what there is to say comes right after.
        Ended::Stream(_) => match tokio::time::timeout(LAST_WORDS, connection.closed()).await {
            Ok(reason) => Ended::Connection(reason),
            Err(_) => ended,
        },
        ended => ended,
    };
    match &ended {
        Ended::Connection(_) => {}
        Ended::RemovedPeer => {
            close::drain(&connection).await;
            connection.close(close::REMOVED, b"removed from the volume");
        }
        Ended::Misbehaved(_) => {
            close::drain(&connection).await;
            connection.close(close::MISBEHAVED, b"misbehaved");
        }
        Ended::Stream(_) => connection.close(close::FAILED, b"stream broke"),
    }
    blocking({
        let session = session.clone();
        move || session.close()
    })
    .await;
    on_change();
    ended
}

/// What a task that only ends with an error returns otherwise.
type Never = std::convert::Infallible;

/// A message on its way from the stream to the session, or why none follows; and how long it was on the wire.
struct Came {
    message: Result<CheckedMessage, Ended>,
    bytes: usize,
    room: Option<OwnedSemaphorePermit>,
}

/// Reads messages and checks what can be checked of each while those before it are taken in.
async fn read(mut frames: FrameReader<quinn::RecvStream>, queue: mpsc::Sender<Came>) -> Result<Never, Ended> {
    frames.set_max(MAX_MESSAGE);
    let room = Arc::new(Semaphore::new(MAX_MESSAGE));
    loop {
        let came = match next_message(&mut frames, &room).await {
            Ok(came) => came,
            Err(ended) => Came { message: Err(ended), bytes: 0, room: None },
        };
        let last = came.message.is_err();
        // What came before is taken in first, then the other task ends the connection.
        if queue.send(came).await.is_err() || last {
            return std::future::pending().await;
        }
    }
}

async fn next_message(frames: &mut FrameReader<quinn::RecvStream>, room: &Arc<Semaphore>) -> Result<Came, Ended> {
    let frame = frames.next().await?.ok_or_else(|| Ended::Stream("control stream ended".to_owned()))?;
    let bytes = frame.len();
    let permits = u32::try_from(bytes).unwrap_or(u32::MAX);
    let room = room.clone().acquire_many_owned(permits).await.map_err(|error| Ended::Stream(error.to_string()))?;
    let message = blocking(move || Message::decode(&frame).map(CheckedMessage::from)).await;
    let message = message.map_err(|error| Ended::Misbehaved(error.to_string()));
    Ok(Came { message, bytes, room: Some(room) })
}

/// Has the session take messages in, one after the other: commits are applied in the order in which they were sent.
/// Those that wait together are synced together.
async fn take(session: Arc<Session>, mut queue: mpsc::Receiver<Came>, on_change: OnChange) -> Result<Never, Ended> {
    let mut next = None;
    loop {
        let came = match next.take() {
            Some(came) => came,
            None => queue.recv().await.ok_or_else(|| Ended::Stream("control stream ended".to_owned()))?,
        };
        let mut group = vec![came.room];
        let (mut message, mut bytes) = (came.message?, came.bytes);
        while bytes < TAKEN_TOGETHER
            && let Ok(more) = queue.try_recv()
        {
            match more.message.map(|more| message.join(more)) {
                Ok(Ok(())) => {
                    bytes += more.bytes;
                    group.push(more.room);
                }
                Ok(Err(other)) => {
                    next = Some(Came { message: Ok(other), ..more });
                    break;
                }
                Err(ended) => {
                    next = Some(Came { message: Err(ended), ..more });
                    break;
                }
            }
        }
        let session = session.clone();
        blocking(move || session.receive(message)).await?;
        drop(group);
        on_change();
    }
}

async fn write(session: Arc<Session>, mut send: Abandoned, wake: Arc<Wake>) -> Result<Never, Ended> {
    let opening = session.clone();
    let mut frames = blocking(move || opening.opening().iter().map(Message::encode).collect::<Vec<_>>()).await;
    loop {
        for frame in frames {
            let mut written = pin!(frame::write_frame(&mut *send, &frame));
            loop {
                if let Ok(done) = tokio::time::timeout(HEARING, &mut written).await {
                    done?;
                    break;
                }
                let source = session.clone();
                if blocking(move || source.is_removed()).await {
                    return Err(Ended::RemovedPeer);
                }
            }
        }
        let source = session.clone();
        let cut;
        (frames, cut) = blocking(move || (next_frames(&source), source.is_cut())).await;
        if frames.is_empty() && cut {
            // It is to have what tells it so before the connection goes.
            if SendStream::finish(&mut send).is_ok() {
                let _too_slow = tokio::time::timeout(LAST_WORDS, send.stopped()).await;
                tokio::time::sleep(TAKING).await;
            }
            return Err(Ended::RemovedPeer);
        }
        if frames.is_empty() {
            match session.retry_in() {
                None => wake.writer.notified().await,
                // This disk is full: the session looks now and then whether it still is.
                Some(pause) => drop(tokio::time::timeout(pause, wake.writer.notified()).await),
            }
        }
    }
}

fn next_frames(session: &Session) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let mut size = 0;
    while size < WRITE_AHEAD
        && let Some(message) = session.next_outgoing()
    {
        let frame = message.encode();
        size += frame.len();
        frames.push(frame);
    }
    frames
}

/// How many blocks to ask for at a time: so many as come in a fraction of a second. On a slow link, a block that a
/// reader waits for must not queue behind megabytes asked for earlier.
struct Batch(usize);

impl Batch {
    const QUICK: Duration = Duration::from_millis(100);
    const SLOW: Duration = Duration::from_millis(400);

    fn took(&mut self, asked: usize, time: Duration) {
        if time > Self::SLOW {
            self.0 = (self.0 / 2).max(1);
        } else if time < Self::QUICK && asked >= self.0 {
            self.0 = (self.0 * 2).min(MAX_BATCH);
        }
    }
}

async fn fetch(
    connection: Connection,
    session: Arc<Session>,
    wake: Arc<Wake>,
    on_change: OnChange,
) -> Result<Never, Ended> {
    let mut batch = Batch(FIRST_BATCH);
    loop {
        let (asker, most) = (session.clone(), batch.0);
        let hashes = blocking(move || asker.wanted(most)).await;
        if hashes.is_empty() {
            wake.fetchers.notified().await;
            continue;
        }
        // There may be more: let another fetcher look.
        wake.fetchers.notify_one();
        let (asked, started) = (hashes.len(), Instant::now());
        block_stream::fetch(&connection, &session, hashes, &*on_change).await?;
        batch.took(asked, started.elapsed());
    }
}

/// Sends what there is of letters, on a stream of its own. A peer that takes none doesn't let it be opened, or stops it: then
/// they are kept.
async fn write_letters(connection: Connection, session: Arc<Session>, wake: Arc<Wake>) -> Result<Never, Ended> {
    let mut stream = None;
    loop {
        let source = session.clone();
        let frames = blocking(move || source.next_letters()).await;
        if frames.is_empty() {
            wake.letters.notified().await;
            continue;
        }
        let open = match stream.take() {
            None => letter_stream::open(&connection).await,
            Some(stream) => Ok(stream),
        };
        let sent = match open {
            Ok(open) => letter_stream::send(stream.insert(open), &frames).await,
            Err(error) => Err(error),
        };
        if let Err(error) = sent {
            log::debug!("device {}: messages wait for the next connection: {error}", session.peer().short());
            return std::future::pending().await;
        }
    }
}

/// Takes in what comes of letters.
async fn take_letters(connection: Connection, session: Arc<Session>) -> Result<Never, Ended> {
    // As many at a time as the transport lets the peer open.
    let mut streams = JoinSet::new();
    let pace = Arc::new(parking_lot::Mutex::new(letter_stream::pace()));
    loop {
        tokio::select! {
            stream = connection.accept_uni() => {
                streams.spawn(letter_stream::receive(session.clone(), stream?, pace.clone()));
            }
            Some(ended) = streams.join_next() => match ended {
                Ok(done) => done?,
                Err(error) => return Err(Ended::Stream(error.to_string())),
            },
        }
    }
}

/// Serves the streams that the peer opens.
async fn serve(connection: Connection, session: Arc<Session>, taker: Taker) -> Result<Never, Ended> {
    // As many at a time as the transport lets the peer open.
    let mut streams = JoinSet::new();
    let places = Arc::new(Semaphore::new(SENDS));
    let pace = Arc::new(tokio::sync::Mutex::new(Pace::new(SENDS_AT_ONCE, SENDS_PER_SECOND, Instant::now())));
    loop {
        tokio::select! {
            stream = connection.accept_bi() => {
                let (send, receive) = stream?;
                let (session, taker, places, pace) = (session.clone(), taker.clone(), places.clone(), pace.clone());
                streams.spawn(async move {
                    let mut receive = receive;
                    let mut kind = [0];
                    if block_stream::read_exact(&mut receive, &mut kind).await.is_err() {
                        return Ok(());
                    }
                    match (kind[0], taker) {
                        (block_stream::KIND, _) => block_stream::serve(session, send, receive).await.or_else(|error| {
                            log::trace!("serving blocks: {error}");
                            if error.is_misbehaviour() { Err(error.into()) } else { Ok(()) }
                        }),
                        (sends::KIND, Some(taker)) => {
                            // Who opens more is refused, and tries again.
                            let Ok(_place) = places.try_acquire() else { return Ok(()) };
                            let wait = pace.lock().await.took(1, Instant::now());
                            tokio::time::sleep(wait).await;
                            pipe::serve(session.peer(), &*taker, send, receive).await
                        }
                        (kind, _) => {
                            let peer = session.peer();
                            log::debug!("device {}: a stream of kind {kind}, which is not taken here", peer.short());
                            let _gone = receive.stop(close::GOODBYE);
                            Ok(())
                        }
                    }
                });
            }
            Some(served) = streams.join_next() => match served {
                Ok(done) => done?,
                Err(error) => return Err(Ended::Stream(error.to_string())),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_follow_the_speed_of_the_link() {
        let mut batch = Batch(FIRST_BATCH);
        for _ in 0..10 {
            batch.took(batch.0, Duration::from_millis(5));
        }
        assert_eq!(batch.0, MAX_BATCH);
        batch.took(batch.0, Duration::from_millis(200));
        assert_eq!(batch.0, MAX_BATCH);
        for _ in 0..10 {
            batch.took(batch.0, Duration::from_secs(2));
        }
        assert_eq!(batch.0, 1);
        batch.took(0, Duration::from_millis(5));
        assert_eq!(batch.0, 1, "a short request says nothing");
    }
}
