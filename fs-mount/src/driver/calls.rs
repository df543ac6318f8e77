//! Calls on the volume: guarded against panics, and repeated once absent content has come.

use std::{
    collections::HashMap,
    fmt, io,
    panic::{self, AssertUnwindSafe},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use fuser::{Errno, INodeNo};
use log::{error, trace, warn};
use parking_lot::Mutex;
use volume::{
    Deed, Error, Result, Volume,
    content::BlockHash,
    node::{Caller, Ino},
};

use super::{counts::Kind, past, pool::Pool, waits::Waits};
use crate::errno::{errno, errno_of_node};

/// Threads that wait for content. One reader's read-ahead is a handful of requests, and the kernel has at most
/// `MAX_BACKGROUND` of all such under way.
const WAITING_MAX: usize = 64;
/// Pause before trying again when the blocks were said to be here and the call still lacks the same ones.
const STUCK_PAUSE: Duration = Duration::from_millis(20);

/// For how long after waiting for a file's content in vain nobody waits for it again. A failed read-ahead makes the kernel
/// ask once more, page by page, and the program should not wait for each.
const GIVEN_UP: Duration = Duration::from_millis(100);

/// How often the volume has changed, as far as the kernel can have noticed. What was fetched at another count may be
/// out of date.
#[derive(Clone, Default)]
pub(super) struct Changes(Arc<AtomicU64>);

impl Changes {
    pub(super) fn count(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    pub(super) fn one_more(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }
}

/// What is being done, for the log: never a name.
#[derive(Clone, Copy)]
pub(super) struct Request {
    what: &'static str,
    ino: u64,
    /// Nothing for what the kernel didn't ask for.
    kind: Option<Kind>,
}

impl Request {
    /// One of the kernel's, which is counted.
    pub(super) fn new(what: &'static str, ino: INodeNo) -> Self {
        let kind = Kind::named(what);
        if let Some(kind) = kind {
            kind.begun();
        }
        Self { what, ino: ino.0, kind }
    }

    /// What the driver does by itself.
    pub(super) fn own(what: &'static str, ino: INodeNo) -> Self {
        Self { what, ino: ino.0, kind: None }
    }

    fn failed(self, errno: Errno) -> Errno {
        if let Some(kind) = self.kind {
            kind.failed(errno);
        }
        errno
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of inode {}", self.what, self.ino)
    }
}

/// The volume, as handlers call it.
#[derive(Clone)]
pub(super) struct Calls {
    volume: Volume,
    changes: Changes,
    absent_timeout: Duration,
    waiting: Pool,
    given_up: GivenUp,
    waits: Waits,
}

impl Calls {
    pub(super) fn new(volume: Volume, changes: Changes, absent_timeout: Duration, waits: Waits) -> Self {
        Self {
            volume,
            changes,
            absent_timeout,
            waiting: Pool::new("p2pfs-waiting", WAITING_MAX),
            given_up: GivenUp::default(),
            waits,
        }
    }

    pub(super) fn changes(&self) -> u64 {
        self.changes.count()
    }

    /// Whether the volume may have changed in ways of which nobody was told yet.
    pub(super) fn is_telling(&self) -> bool {
        self.volume.is_telling()
    }

    /// Makes a call that changes nothing.
    pub(super) fn read<T>(&self, request: Request, call: impl FnOnce(&Volume) -> Result<T>) -> Result<T> {
        panic::catch_unwind(AssertUnwindSafe(|| call(&self.volume))).unwrap_or_else(|_| {
            error!("{request}: the handler panicked");
            Err(Error::Io(io::Error::other("the handler panicked")))
        })
    }

    /// Makes a call that may change what other replies told: counted before the reply to it can leave.
    pub(super) fn change<T>(&self, request: Request, call: impl FnOnce(&Volume) -> Result<T>) -> Result<T> {
        let result = self.read(request, call);
        self.changes.one_more();
        result
    }

    /// Has recorded what a process did, or what kept it from that. What this mount makes up, like `.p2pfs`, is nothing of
    /// the volume.
    pub(super) fn told<T>(&self, deed: Deed<'_>, who: &Caller, result: &Result<T>) {
        if !past::is_ours(deed.at) {
            let told = self.read(Request::own("telling", INodeNo(deed.at.0)), |volume| {
                volume.tell_deed(deed, who, result.as_ref().err());
                Ok(())
            });
            // A panic has been logged.
            drop(told);
        }
    }

    /// The same, of what is recorded only when it is denied.
    pub(super) fn told_if_denied<T>(&self, deed: Deed<'_>, who: &Caller, result: &Result<T>) {
        if is_denial(result) {
            self.told(deed, who, result);
        }
    }

    /// Counts an entry of `ino` that is about to be told to the kernel.
    pub(super) fn remember(&self, request: Request, ino: Ino) -> Result<()> {
        self.read(request, |volume| {
            volume.remember(ino);
            Ok(())
        })
    }

    /// Takes back `times` such counts.
    pub(super) fn forget(&self, request: Request, ino: Ino, times: u64) {
        let forgotten = self.read(request, |volume| {
            volume.forget(ino, times);
            Ok(())
        });
        // There is no reply to this, and a panic has been logged.
        drop(forgotten);
    }

    /// Makes a changing call and answers with its result, from a waiting thread if it lacks content.
    pub(super) fn patiently<T: 'static>(
        &self,
        request: Request,
        mut call: impl FnMut(&Volume) -> Result<T> + Send + 'static,
        answer: impl FnOnce(Result<T>) + Send + 'static,
    ) {
        match self.change(request, &mut call) {
            Err(Error::Absent(hashes)) => self.wait(request, hashes, call, answer),
            result => answer(result),
        }
    }

    /// Goes on with a call that lacks the content `absent`, on a waiting thread: fetches it, makes the call again, and
    /// so on until nothing has come for as long as is waited.
    pub(super) fn wait<T: 'static>(
        &self,
        request: Request,
        absent: Vec<BlockHash>,
        call: impl FnMut(&Volume) -> Result<T> + Send + 'static,
        answer: impl FnOnce(Result<T>) + Send + 'static,
    ) {
        let now = Instant::now();
        let deadline = if self.given_up.lately(request.ino, now) { now } else { now + self.absent_timeout };
        let (calls, ino) = (self.clone(), Ino(request.ino));
        self.waits.begin(ino, &absent, now);
        self.waiting.run(move || {
            let result = calls.retry_until(deadline, request, absent, call);
            let still = if let Err(Error::Absent(still)) = &result { Some(still.as_slice()) } else { None };
            calls.waits.end(ino, still, Instant::now());
            answer(result);
        });
    }

    fn retry_until<T>(
        &self,
        mut deadline: Instant,
        request: Request,
        mut absent: Vec<BlockHash>,
        mut call: impl FnMut(&Volume) -> Result<T>,
    ) -> Result<T> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let came = self.read(request, |volume| Ok(volume.await_blocks(&absent, left)))?;
            // Also when the time is up: another reader may have fetched them while this one waited for a thread.
            match self.change(request, &mut call) {
                Err(Error::Absent(still)) => {
                    let now = Instant::now();
                    if is_progress(came, &absent, &still) {
                        deadline = now + self.absent_timeout;
                    } else if now >= deadline {
                        if self.given_up.add(request.ino, now) {
                            let first = still.first().map(ToString::to_string).unwrap_or_default();
                            let who = self.who_has(request);
                            warn!(
                                "{request}: {} block(s) came from no peer in time, the first is {first}; {who}",
                                still.len()
                            );
                        }
                        return Err(Error::Absent(still));
                    }
                    if came && still == absent {
                        thread::sleep(STUCK_PAUSE);
                    }
                    absent = still;
                }
                result => return result,
            }
        }
    }

    /// Which devices have the content that a request lacks, for the log.
    fn who_has(&self, request: Request) -> String {
        match self.read(request, |volume| volume.holders(Ino(request.ino))) {
            Ok(holders) => {
                let made = format!("device {} made the version", holders.author.short());
                let said = holders.complete.iter().map(|device| format!(", {} said to have all", device.short()));
                std::iter::once(made).chain(said).collect()
            }
            Err(_) => "nobody is known to have it".to_owned(),
        }
    }

    /// Takes no more waiting calls and drops those that have no thread yet.
    pub(super) fn close(&self) {
        self.waiting.close();
    }
}

/// Whether something came of the blocks `absent`, all of them (`came`) or some, when a call lacks the blocks `still` now:
/// over a slow line, or of a file that others write to as fast as it comes, there is something newer to wait for.
fn is_progress(came: bool, absent: &[BlockHash], still: &[BlockHash]) -> bool {
    if came {
        return still != absent;
    }
    still.len() < absent.len() && still.iter().all(|hash| absent.contains(hash))
}

/// Whether somebody may not.
pub(super) fn is_denial<T>(result: &Result<T>) -> bool {
    matches!(result, Err(Error::Denied | Error::NotPermitted | Error::ReadOnly))
}

/// The files whose content was waited for in vain, and when.
#[derive(Clone, Default)]
struct GivenUp(Arc<Mutex<HashMap<u64, Instant>>>);

impl GivenUp {
    fn lately(&self, ino: u64, now: Instant) -> bool {
        self.0.lock().get(&ino).is_some_and(|when| now.duration_since(*when) < GIVEN_UP)
    }

    /// Whether this is the first of several requests for the file that fail together.
    fn add(&self, ino: u64, now: Instant) -> bool {
        let mut files = self.0.lock();
        files.retain(|_, when| now.duration_since(*when) < GIVEN_UP);
        files.insert(ino, now).is_none()
    }
}

/// The errno of a failed call that names an entry, which is logged once, here.
pub(super) fn failed(request: Request, error: &Error) -> Errno {
    log_failure(request, error);
    request.failed(errno(error))
}

/// The errno of a failed call that names a node by its number, which is logged once, here.
pub(super) fn node_failed(request: Request, error: &Error) -> Errno {
    log_failure(request, error);
    request.failed(errno_of_node(error))
}

fn log_failure(request: Request, error: &Error) {
    match error {
        Error::Damaged(_) | Error::Io(_) => error!("{request}: {error}"),
        // Told when the time was up.
        Error::Absent(_) => {}
        _ => trace!("{request}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_waits_again_right_after_it_was_in_vain() {
        let given_up = GivenUp::default();
        let now = Instant::now();
        assert!(given_up.add(5, now));
        assert!(!given_up.add(5, now), "two requests that fail together are told once");
        assert!(given_up.lately(5, now + GIVEN_UP / 2));
        assert!(!given_up.lately(6, now + GIVEN_UP / 2));
        assert!(!given_up.lately(5, now + GIVEN_UP));
    }

    #[test]
    fn who_waits_is_given_time_for_as_long_as_something_comes() {
        let [a, b, c] = [1, 2, 3].map(|byte| BlockHash::of_block(&[byte]));
        assert!(is_progress(true, &[a, b], &[c]), "all came, and there is a newer version");
        assert!(is_progress(false, &[a, b], &[b]), "one came");
        assert!(!is_progress(false, &[a, b], &[a, b]), "nothing came");
        assert!(!is_progress(true, &[a], &[a]), "what came was of no use");
        assert!(!is_progress(false, &[a, b], &[c]), "there is a newer version, but nothing came");
    }

    #[test]
    fn what_was_given_up_is_forgotten() {
        let given_up = GivenUp::default();
        let now = Instant::now();
        given_up.add(5, now);
        given_up.add(6, now + GIVEN_UP);
        assert_eq!(given_up.0.lock().len(), 1);
    }
}
