//! The audit log: what was done with the volume on this device and by its peers, allowed or not.
//!
//! Owns the entries, the thread that writes them and what is on the disk of them ([`file`]). Whoever records one never
//! waits: what the thread can't keep up with is dropped, and counted in an entry of its own.
//!
//! Invariants: entries are numbered without a gap, and each one's text enters the hash of the chain after it, so what is
//! cut off, left out or rewritten doesn't lead to the hash that a later entry was written under. That hash gets into the
//! device's signed commits ([`Head`]), only ever of entries that are on the disk.

mod detect;
mod entry;
pub(crate) mod file;
pub(crate) mod mass;
pub(crate) mod sample;

use std::{
    fs, io, mem,
    num::NonZeroUsize,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crypto::{Entropy, Hash, SymmetricKey};
use lru::LruCache;
use parking_lot::{Condvar, Mutex};

pub use detect::{Detectors, Finding, Kind, Sure};
pub use entry::{Act, Entry, Op, Outcome, Process};
pub use file::{Found, Limits};

use file::Log;

/// Events that wait for the thread at most.
const WAITING_MAX: usize = 16_384;
/// For how long the thread lets events gather once there is one: a wake-up costs whoever records more than the event.
const GATHERS: Duration = Duration::from_millis(250);
/// Entries are on the disk after as long as this.
const SYNCS_AFTER: Duration = Duration::from_secs(2);
/// Processes whose programs are remembered, and for how long: one may run another program later.
const PROGRAMS: NonZeroUsize = NonZeroUsize::new(256).unwrap();
const PROGRAM_FOR: Duration = Duration::from_millis(200);
const HOUR: Duration = Duration::from_secs(3600);
/// Entries sealed as one record.
const TOGETHER: usize = 128;

/// How far the log of a device goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Entries so far.
    pub count: u64,
    /// The hash of the chain after the last of them.
    pub hash: Hash,
}

/// The log of one volume on this device.
pub struct Audit {
    thread: Mutex<Option<thread::JoinHandle<()>>>,
    programs: Mutex<Programs>,
    shared: Arc<Shared>,
}

/// By the number of a thread: when its process was looked up, its number, and the name of its program.
type Programs = LruCache<u32, (Instant, u32, Option<Arc<str>>)>;

/// Called with the number of every entry once it is in the log, and with what it says.
pub type Watcher = Box<dyn Fn(u64, &Act) + Send + Sync>;

/// What the thread is to do.
#[derive(Default)]
struct Waiting {
    acts: Vec<Act>,
    /// What was left out since the last entry.
    dropped: u64,
    /// How many flushes were asked for.
    flushes: u64,
    /// The thread sleeps until there is something.
    idle: bool,
    closed: bool,
}

struct Shared {
    waiting: Mutex<Waiting>,
    /// There is something for the thread, which was idle; or it shall not let more gather.
    work: Condvar,
    /// As many of the flushes are done.
    flushed: Mutex<u64>,
    done: Condvar,
    log: Mutex<Log>,
    /// Entries that were left out since the start.
    all_dropped: AtomicU64,
    /// The last append failed, and that was told.
    failing: AtomicBool,
    synced: Mutex<Head>,
    watcher: Mutex<Option<Watcher>>,
}

impl Audit {
    /// Opens the log in `directory`, making it when it isn't there, and starts what writes it.
    ///
    /// # Errors
    /// The disk failed, or no thread could be started.
    pub fn open(
        directory: &Path,
        secret: &SymmetricKey,
        entropy: Arc<dyn Entropy>,
        limits: Limits,
    ) -> io::Result<Arc<Self>> {
        let log = Log::open(directory, secret, entropy, limits)?;
        let synced = Mutex::new(log.head());
        let shared = Arc::new(Shared {
            waiting: Mutex::default(),
            work: Condvar::new(),
            flushed: Mutex::new(0),
            done: Condvar::new(),
            log: Mutex::new(log),
            all_dropped: AtomicU64::new(0),
            failing: AtomicBool::new(false),
            synced,
            watcher: Mutex::new(None),
        });
        let task = shared.clone();
        let thread = thread::Builder::new().name("p2pfs-audit".to_owned()).spawn(move || task.write_all())?;
        Ok(Arc::new(Self { thread: Mutex::new(Some(thread)), programs: Mutex::new(LruCache::new(PROGRAMS)), shared }))
    }

    /// Records something that happened. Never waits.
    pub fn record(&self, act: Act) {
        let mut waiting = self.shared.waiting.lock();
        if waiting.closed {
            return;
        }
        if waiting.acts.len() >= WAITING_MAX {
            waiting.dropped += 1;
            return;
        }
        waiting.acts.push(act);
        // (What gathers is taken before there is no more room.)
        let is_much = waiting.acts.len() == WAITING_MAX / 4;
        if mem::take(&mut waiting.idle) || is_much {
            drop(waiting);
            self.shared.work.notify_one();
        }
    }

    /// The process that a thread belongs to, of an account. One that is gone has its thread's number and no program.
    pub fn process(&self, uid: u32, thread: u32) -> Process {
        let known = self.programs.lock().get(&thread).cloned();
        if let Some((since, pid, program)) = known
            && since.elapsed() < PROGRAM_FOR
        {
            return Process { uid, pid, program };
        }
        let status = fs::read_to_string(format!("/proc/{thread}/status")).unwrap_or_default();
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let pid = field("Tgid:").and_then(|pid| pid.parse().ok()).unwrap_or(thread);
        let program: Option<Arc<str>> = match pid == thread {
            true => field("Name:").map(Into::into),
            // (Threads have names of their own.)
            false => fs::read_to_string(format!("/proc/{pid}/comm")).ok().map(|name| name.trim_end().into()),
        };
        self.programs.lock().put(thread, (Instant::now(), pid, program.clone()));
        Process { uid, pid, program }
    }

    /// Waits until everything that was recorded so far is in the log and on the disk.
    pub fn flush(&self) {
        let mut waiting = self.shared.waiting.lock();
        if waiting.closed {
            return;
        }
        waiting.flushes += 1;
        let nth = waiting.flushes;
        drop(waiting);
        self.shared.work.notify_one();
        let mut flushed = self.shared.flushed.lock();
        self.shared.done.wait_while(&mut flushed, |flushed| *flushed < nth);
    }

    /// Writes out what is left and records nothing more.
    pub fn close(&self) {
        // (Also what is recorded last is looked at.)
        self.flush();
        self.shared.waiting.lock().closed = true;
        self.shared.work.notify_one();
        // (It may hold what holds this.)
        let watcher = self.shared.watcher.lock().take();
        drop(watcher);
        if let Some(thread) = self.thread.lock().take() {
            // A panic of it was logged as it happened.
            let _ = thread.join();
        }
    }

    /// How far the log goes on the disk.
    pub fn synced(&self) -> Head {
        *self.shared.synced.lock()
    }

    /// How many entries were dropped since the start: more came than could be written.
    pub fn dropped(&self) -> u64 {
        self.shared.all_dropped.load(Ordering::Relaxed)
    }

    /// Has `watcher` called with every entry from now on, on the thread that writes.
    pub fn watch(&self, watcher: Watcher) {
        *self.shared.watcher.lock() = Some(watcher);
    }

    /// Up to `limit` entries from number `from` (the first one is 1) on, of those that are still kept.
    ///
    /// # Errors
    /// The disk failed. Places that don't open are in what was found.
    pub fn read(&self, from: u64, limit: usize) -> io::Result<Found> {
        self.shared.log.lock().reader().read(from, limit)
    }

    /// How many entries were ever written: the number of the last.
    pub fn written(&self) -> u64 {
        self.shared.log.lock().head().count
    }

    /// Reads everything and follows the chain. `heads` are those that were signed, by number of entries.
    ///
    /// # Errors
    /// The disk failed.
    pub fn verify(&self, heads: &[Head]) -> io::Result<Vec<String>> {
        // Nothing is appended meanwhile: half a record would look like a torn one.
        let log = self.shared.log.lock();
        log.reader().verify(heads)
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn write_all(&self) {
        // Whoever waits for a flush is woken however this ends.
        let _ended = Ended(self);
        let mut unsynced: Option<Instant> = None;
        let mut acts = Vec::new();
        // Entries that are missing, which no entry has told of.
        let mut missing = 0;
        loop {
            let (dropped, flushes, closed) = self.take_in(&mut acts, unsynced);
            if dropped > 0 {
                log::warn!("{dropped} entries of the audit log were dropped: more came than could be written");
            }
            self.all_dropped.fetch_add(dropped, Ordering::Relaxed);
            missing += dropped;
            if !acts.is_empty() {
                unsynced = unsynced.or(Some(Instant::now()));
                missing += self.append_all(&mut acts, mem::take(&mut missing));
            }
            acts.clear();
            let is_asked = *self.flushed.lock() < flushes;
            if is_asked || closed || unsynced.is_some_and(|since| since.elapsed() >= SYNCS_AFTER) {
                unsynced = None;
                self.sync();
                *self.flushed.lock() = flushes;
                self.done.notify_all();
            }
            if closed {
                return;
            }
        }
    }

    /// Waits for something to do, and for a moment more, and takes it. Returns how many were left out, up to which flush
    /// that goes, and whether it was the last.
    fn take_in(&self, acts: &mut Vec<Act>, unsynced: Option<Instant>) -> (u64, u64, bool) {
        let flushed = *self.flushed.lock();
        let is_urgent = |waiting: &Waiting| waiting.closed || waiting.flushes > flushed;
        let mut waiting = self.waiting.lock();
        if waiting.acts.is_empty() && !is_urgent(&waiting) {
            waiting.idle = true;
            let until = Instant::now() + unsynced.map_or(HOUR, |since| SYNCS_AFTER.saturating_sub(since.elapsed()));
            let is_idle = |waiting: &mut Waiting| waiting.idle && !is_urgent(waiting);
            self.work.wait_while_until(&mut waiting, is_idle, until);
            waiting.idle = false;
        }
        let until = Instant::now() + GATHERS;
        let may_gather = |waiting: &mut Waiting| !is_urgent(waiting) && waiting.acts.len() < WAITING_MAX / 4;
        self.work.wait_while_until(&mut waiting, may_gather, until);
        mem::swap(&mut waiting.acts, acts);
        (mem::take(&mut waiting.dropped), waiting.flushes, waiting.closed)
    }

    /// Appends what happened, and how many entries are missing before it. Returns how many are missing now.
    fn append_all(&self, acts: &mut Vec<Act>, missing: u64) -> u64 {
        if missing > 0 {
            acts.push(Act::dropped(missing));
        }
        let mut left_out = 0;
        for together in acts.chunks(TOGETHER) {
            if !self.append(together) {
                let notes = u64::from(together.last().is_some_and(|act| act.op == Op::Dropped));
                let entries = together.len() as u64 - notes;
                self.all_dropped.fetch_add(entries, Ordering::Relaxed);
                left_out += entries + notes * missing;
            }
        }
        left_out
    }

    fn append(&self, acts: &[Act]) -> bool {
        let appended = self.log.lock().append(acts);
        match appended {
            Ok(first) => {
                self.failing.store(false, Ordering::Relaxed);
                if let Some(watcher) = &*self.watcher.lock() {
                    let each = |(n, act)| watcher(n, act);
                    let watched = catch_unwind(AssertUnwindSafe(|| (first..).zip(acts).for_each(each)));
                    if watched.is_err() {
                        log::error!("what watches the audit log broke down: it goes on with the next entries");
                    }
                }
                true
            }
            Err(e) => {
                // As soon as there is room it is told how many.
                if !self.failing.swap(true, Ordering::Relaxed) {
                    log::error!("the audit log can't be written: {e}: entries are counted until it can be");
                }
                false
            }
        }
    }

    fn sync(&self) {
        let synced = self.log.lock().sync();
        match synced {
            Ok(head) => *self.synced.lock() = head,
            Err(e) => log::error!("the audit log can't be synced: {e}"),
        }
    }
}

/// That the thread has ended.
struct Ended<'a>(&'a Shared);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.waiting.lock().closed = true;
        *self.0.flushed.lock() = u64::MAX;
        self.0.done.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use crypto::OsEntropy;

    use super::*;
    use crate::time::Timestamp;

    fn open(directory: &Path) -> Arc<Audit> {
        let secret = SymmetricKey::from_bytes([7; 32]);
        Audit::open(directory, &secret, Arc::new(OsEntropy), Limits::default()).unwrap()
    }

    fn act(nth: u64) -> Act {
        Act { path: Some(nth.to_string().into_bytes()), ..Act::new(Timestamp { secs: 1, nanos: 0 }, Op::Read) }
    }

    #[test]
    fn what_is_too_much_is_counted_and_nobody_waits() {
        const ACTS: u64 = 200_000;
        let directory = tempfile::tempdir().unwrap();
        let audit = open(directory.path());
        (0..ACTS).for_each(|nth| audit.record(act(nth)));
        audit.flush();
        // What was left out before is told with the next entry.
        audit.record(act(ACTS));
        audit.flush();
        let entries = audit.read(1, usize::MAX).unwrap().entries;
        let kept = entries.iter().filter(|entry| entry.op == Op::Read).count() as u64;
        let notes = entries.iter().filter(|entry| entry.op == Op::Dropped).filter_map(|entry| entry.note.as_ref());
        let dropped: u64 = notes.map(|note| note.split(' ').next().unwrap().parse::<u64>().unwrap()).sum();
        assert_eq!(kept + dropped, ACTS + 1);
        assert!(dropped > 0, "more than anybody writes at once");
        assert_eq!(audit.dropped(), dropped, "told to those who watch over it, too");
        assert_eq!(audit.verify(&[audit.synced()]).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn what_was_flushed_is_on_the_disk_and_watched() {
        let directory = tempfile::tempdir().unwrap();
        let audit = open(directory.path());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let watcher = seen.clone();
        audit.watch(Box::new(move |n, _| watcher.lock().push(n)));
        (0..5).for_each(|nth| audit.record(act(nth)));
        audit.flush();
        assert_eq!(audit.synced().count, 5);
        assert_eq!(*seen.lock(), [1, 2, 3, 4, 5]);
        audit.close();
        audit.record(act(9));
        assert_eq!(open(directory.path()).read(1, 9).unwrap().entries.len(), 5);
    }
}
