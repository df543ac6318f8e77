//! The streams of sends, for threads that block: files are read and written by calls that do.
//!
//! A thread holds one end; what moves packets runs beside it and holds so much as the transport's windows allow. Whoever
//! ends a send from outside uses its [`Stop`].

use std::io::{self, BufReader, Read};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use crypto::DeviceId;
use quinn::{Connection, RecvStream, SendStream, WriteError};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use super::contents::Failed;
use super::manifest::{ClaimedManifest, Entry, MAX_ENTRIES, Manifest};
use super::{Answer, Have, KIND, MAX_FRAME, MAX_OPENING, Opening, Report, TakesSends};
use crate::close::Abandoned;
use crate::frame::{self, FrameError, FrameReader};
use crate::peer::Ended;

/// How long the other end may take to say what it knows.
const PROMPT: Duration = Duration::from_secs(30);
/// How long a sender may take to read again what it sent before the cut.
const PATIENCE: Duration = Duration::from_secs(600);
/// Bytes that any disk reads in a second.
const SLOWEST_DISK: u64 = 10 << 20;
/// How much is taken off the stream at a time.
const BUFFER: usize = 512 << 10;
/// Everything of the volume goes first.
const PRIORITY: i32 = -1;

/// Ends what a thread waits for.
#[derive(Debug, Clone)]
pub struct Stop(Arc<watch::Sender<bool>>);

impl Default for Stop {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }
}

impl Stop {
    /// Ends it.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }

    /// Whether it is ended.
    pub fn is_stopped(&self) -> bool {
        *self.0.borrow()
    }
}

/// Has a thread wait.
#[derive(Debug, Clone)]
struct Waiting {
    runtime: Handle,
    stop: Stop,
}

impl Waiting {
    fn on<T>(&self, limit: Option<Duration>, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        let mut stopped = self.stop.0.subscribe();
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                _ = stopped.wait_for(|stopped| *stopped) => Err(io::Error::new(io::ErrorKind::ConnectionAborted, "stopped")),
                done = work => done,
                () = async { match limit {
                    Some(limit) => tokio::time::sleep(limit).await,
                    None => std::future::pending().await,
                } } => Err(io::ErrorKind::TimedOut.into()),
            }
        })
    }
}

fn told(error: FrameError) -> io::Error {
    match error {
        FrameError::Io(error) => error,
        FrameError::Truncated => io::ErrorKind::UnexpectedEof.into(),
        other => io::Error::new(io::ErrorKind::InvalidData, other.to_string()),
    }
}

fn written(error: WriteError) -> io::Error {
    io::Error::from(error)
}

/// One connection with a device.
#[derive(Debug, Clone)]
pub struct Line {
    connection: Connection,
    number: u64,
}

impl Line {
    pub(crate) fn new(connection: Connection, number: u64) -> Self {
        Self { connection, number }
    }

    /// Which connection it is: no other has this number.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Whether it is over.
    pub fn is_closed(&self) -> bool {
        self.connection.close_reason().is_some()
    }

    /// Opens a stream and says what for. Called on a thread that may block.
    ///
    /// # Errors
    /// The connection broke, or the other end lets no stream be opened.
    pub fn open(&self, runtime: Handle, stop: Stop, opening: &Opening) -> io::Result<Outgoing> {
        let waiting = Waiting { runtime, stop };
        let (send, receive) =
            waiting.on(Some(PROMPT), async { self.connection.open_bi().await.map_err(io::Error::from) })?;
        let _ended = send.set_priority(PRIORITY);
        let mut out = Outgoing {
            waiting,
            send: Abandoned::new(send),
            replies: Replies::Frames(FrameReader::new(receive, MAX_FRAME)),
        };
        out.write(vec![KIND])?;
        out.say(opening)?;
        Ok(out)
    }
}

/// Where what the receiver says is read.
#[derive(Debug)]
enum Replies {
    Frames(FrameReader<RecvStream>),
    /// By a task, while contents go out.
    Last(oneshot::Receiver<Report>),
}

/// The sender's end.
#[derive(Debug)]
pub struct Outgoing {
    waiting: Waiting,
    send: Abandoned,
    replies: Replies,
}

impl Outgoing {
    /// Sends bytes; waits for as long as there is no room on the way.
    ///
    /// # Errors
    /// The stream broke, the receiver wants no more, or it was stopped.
    pub fn write(&mut self, bytes: Vec<u8>) -> io::Result<()> {
        let Self { waiting, send, .. } = self;
        waiting.on(None, async { send.write_chunk(Bytes::from(bytes)).await.map_err(written) })
    }

    fn say<T: Serialize + ?Sized>(&mut self, value: &T) -> io::Result<()> {
        let value = frame::encode(&value);
        let len = u32::try_from(value.len()).map_err(io::Error::other)?;
        self.write([&len.to_le_bytes()[..], &value].concat())
    }

    fn hear<T: DeserializeOwned>(&mut self, limit: Option<Duration>) -> io::Result<T> {
        match &mut self.replies {
            Replies::Frames(frames) => self.waiting.on(limit, async { frames.expect_value().await.map_err(told) }),
            Replies::Last(_) => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    /// What the receiver says to an offer.
    ///
    /// # Errors
    /// The stream broke.
    pub fn answer(&mut self) -> io::Result<Answer> {
        self.hear(Some(PROMPT))
    }

    /// Sends the manifest, and hears what of it is there already.
    ///
    /// # Errors
    /// The stream broke, or what comes back is not about this manifest.
    pub fn manifest(&mut self, manifest: &Manifest) -> io::Result<Vec<Have>> {
        for part in manifest.parts() {
            self.say(part)?;
        }
        self.say(&[] as &[Entry])?;
        let mut all: Vec<Have> = Vec::new();
        loop {
            // It may have to read much.
            let part: Vec<Have> = self.hear(None)?;
            if part.is_empty() {
                return Ok(all);
            }
            all.extend(part);
            let in_order = all.windows(2).all(|two| two[0].entry < two[1].entry);
            if all.len() > MAX_ENTRIES || !in_order {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a list of what is there that is none"));
            }
        }
    }

    /// From now on `got` is told how much is there.
    pub fn listen(&mut self, got: impl Fn(u64) + Send + 'static) {
        let (tell, last) = oneshot::channel();
        if let Replies::Frames(mut frames) = std::mem::replace(&mut self.replies, Replies::Last(last)) {
            self.waiting.runtime.spawn(async move {
                while let Ok(report) = frames.expect_value::<Report>().await {
                    match report {
                        Report::Got(bytes) => got(bytes),
                        last => {
                            let _nobody_waits = tell.send(last);
                            return;
                        }
                    }
                }
            });
        }
    }

    /// Says that this is all, and waits until the receiver has said how it ended.
    ///
    /// # Errors
    /// The stream broke.
    pub fn finish(self) -> io::Result<Report> {
        let Self { waiting, send, replies } = self;
        let gone = || io::Error::from(io::ErrorKind::UnexpectedEof);
        send.finish().map_err(|_| gone())?;
        let Replies::Last(last) = replies else { return Err(gone()) };
        waiting.on(None, async { last.await.map_err(|_| gone()) })
    }

    /// What the receiver's last word was, when sending failed.
    pub fn last_word(self) -> Option<Report> {
        let Replies::Last(last) = self.replies else { return None };
        self.waiting.on(Some(PROMPT), async { last.await.map_err(io::Error::other) }).ok()
    }
}

/// The receiver's end.
#[derive(Debug)]
pub struct Incoming {
    /// What comes.
    pub from: BufReader<From>,
    /// What is said to it.
    pub back: Back,
    fault: oneshot::Sender<String>,
}

/// What the sender says.
#[derive(Debug)]
pub struct From {
    waiting: Waiting,
    receive: RecvStream,
    patience: Duration,
}

/// What is said to the sender.
#[derive(Debug)]
pub struct Back {
    waiting: Waiting,
    send: Abandoned,
}

impl Read for From {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Self { waiting, receive, patience } = self;
        let read = waiting.on(Some(*patience), async { receive.read(buffer).await.map_err(io::Error::from) })?;
        Ok(read.unwrap_or(0))
    }
}

impl Back {
    fn say<T: Serialize + ?Sized>(&mut self, value: &T) -> io::Result<()> {
        let Self { waiting, send } = self;
        waiting.on(Some(PROMPT), async { frame::write_value(&mut **send, &value).await.map_err(told) })
    }

    /// Answers an offer.
    ///
    /// # Errors
    /// The stream broke.
    pub fn answer(&mut self, answer: Answer) -> io::Result<()> {
        self.say(&answer)
    }

    /// Says some of what is there already; nothing at the end.
    ///
    /// # Errors
    /// The stream broke.
    pub fn have(&mut self, part: &[Have]) -> io::Result<()> {
        self.say(part)
    }

    /// Says how far it is.
    ///
    /// # Errors
    /// The stream broke.
    pub fn report(&mut self, report: Report) -> io::Result<()> {
        self.say(&report)
    }
}

impl Incoming {
    /// Whoever stops it from now on does so with this.
    pub fn stop_with(&mut self, stop: &Stop) {
        self.from.get_mut().waiting.stop = stop.clone();
        self.back.waiting.stop = stop.clone();
    }

    /// The sender reads so many bytes again, from a disk that may be slow, before it says anything.
    pub fn expect_silence_of(&mut self, bytes: u64) {
        self.from.get_mut().patience = PATIENCE + Duration::from_secs(bytes / SLOWEST_DISK);
    }

    /// Reads the manifest.
    ///
    /// # Errors
    /// The stream broke, or the sender does what an honest one never does.
    pub fn manifest(&mut self) -> Result<Manifest, Failed> {
        read_manifest(&mut self.from).inspect_err(|failed| log::debug!("a manifest did not come: {failed:?}"))
    }

    /// The last word was said: what is on the way may arrive.
    pub fn finish(self) {
        let Self { back: Back { send, .. }, .. } = self;
        let _gone = send.finish();
    }

    /// The sender does what an honest one never does: ends the connection.
    pub fn misbehaved(self, what: impl Into<String>) {
        let _ended = self.fault.send(what.into());
    }
}

/// Reads a manifest, part by part, until an empty one.
pub(crate) fn read_manifest(from: &mut impl Read) -> Result<Manifest, Failed> {
    let mut claimed = ClaimedManifest::default();
    loop {
        let mut head = [0; 4];
        from.read_exact(&mut head)?;
        let len = u32::from_le_bytes(head) as usize;
        if len > MAX_FRAME {
            return Err(Failed::Misbehaved("a part of a manifest longer than may be"));
        }
        let mut part = vec![0; len];
        from.read_exact(&mut part)?;
        let part: Vec<Entry> =
            frame::decode(&part).map_err(|_| Failed::Misbehaved("a part of a manifest that is none"))?;
        let malformed = |why: String| {
            log::debug!("a manifest is refused: {why}");
            Failed::Misbehaved("a manifest that is none")
        };
        if part.is_empty() {
            return claimed.check().map_err(malformed);
        }
        claimed.add(part).map_err(malformed)?;
    }
}

/// Has the daemon serve a stream, of which the first byte was read, and waits until it has.
pub(crate) async fn serve(
    device: DeviceId,
    taker: &dyn TakesSends,
    send: SendStream,
    receive: RecvStream,
) -> Result<(), Ended> {
    let mut frames = FrameReader::new(receive, MAX_OPENING);
    let opening: Opening = match timeout(PROMPT, frames.expect_value()).await {
        Ok(Ok(opening)) => opening,
        Ok(Err(error @ (FrameError::TooLong { .. } | FrameError::Malformed(_)))) => return Err(error.into()),
        _ => return Ok(()),
    };
    opening.check().map_err(Ended::Misbehaved)?;
    let waiting = Waiting { runtime: Handle::current(), stop: Stop::default() };
    let (fault, ended) = oneshot::channel();
    let stream = Incoming {
        from: BufReader::with_capacity(
            BUFFER,
            From { waiting: waiting.clone(), receive: frames.into_inner(), patience: PATIENCE },
        ),
        back: Back { waiting, send: Abandoned::new(send) },
        fault,
    };
    taker.opened(device, opening, stream);
    match ended.await {
        Ok(why) => Err(Ended::Misbehaved(why)),
        Err(_) => Ok(()),
    }
}
