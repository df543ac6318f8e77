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

use std::{
    fs, io,
    num::NonZeroUsize,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use crypto::{Entropy, Hash, SymmetricKey};
use lru::LruCache;
use parking_lot::Mutex;

pub use detect::{Detectors, Finding, Kind, Sure};
pub use entry::{Act, Entry, Op, Outcome, Process};
pub use file::{Found, Limits};

use file::Log;

/// Events that wait for the thread at most.
const WAITING_MAX: usize = 16_384;
/// For how long the thread lets events gather once there is one: a wake-up costs whoever records more than the event.
const GATHERS: Duration = Duration::from_millis(25);
/// Entries are on the disk after as long as this.
const SYNCS_AFTER: Duration = Duration::from_secs(2);
/// Processes whose programs are remembered, and for how long: one may run another program later.
const PROGRAMS: NonZeroUsize = NonZeroUsize::new(256).unwrap();
const PROGRAM_FOR: Duration = Duration::from_millis(200);
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

enum Told {
    Act(Box<Act>),
    /// Answered once everything before is on the disk.
    Flush(SyncSender<()>),
}

/// The log of one volume on this device.
pub struct Audit {
    to_thread: Mutex<Option<SyncSender<Told>>>,
    thread: Mutex<Option<thread::JoinHandle<()>>>,
    programs: Mutex<Programs>,
    shared: Arc<Shared>,
}

/// When the program of a process was looked up, and what it was.
type Programs = LruCache<u32, (Instant, Option<Arc<str>>)>;

/// Called with every entry once it is in the log.
pub type Watcher = Box<dyn Fn(&Entry) + Send + Sync>;

struct Shared {
    log: Mutex<Log>,
    dropped: AtomicU64,
    /// Since the start, while the other is counted anew after each entry that tells of it.
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
            log: Mutex::new(log),
            dropped: AtomicU64::new(0),
            all_dropped: AtomicU64::new(0),
            failing: AtomicBool::new(false),
            synced,
            watcher: Mutex::new(None),
        });
        let (to_thread, events) = sync_channel(WAITING_MAX);
        let task = shared.clone();
        let thread = thread::Builder::new().name("p2pfs-audit".to_owned()).spawn(move || task.write_all(&events))?;
        Ok(Arc::new(Self {
            to_thread: Mutex::new(Some(to_thread)),
            thread: Mutex::new(Some(thread)),
            programs: Mutex::new(LruCache::new(PROGRAMS)),
            shared,
        }))
    }

    /// Records something that happened. Never waits.
    pub fn record(&self, act: Act) {
        let to_thread = self.to_thread.lock();
        let Some(to_thread) = to_thread.as_ref() else { return };
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = to_thread.try_send(Told::Act(Box::new(act)))
        {
            self.shared.drop_some(1);
        }
    }

    /// The name of a process's program. One that is gone has none.
    pub fn program(&self, pid: u32) -> Option<Arc<str>> {
        let mut programs = self.programs.lock();
        if let Some((since, program)) = programs.get(&pid)
            && since.elapsed() < PROGRAM_FOR
        {
            return program.clone();
        }
        let program = fs::read_to_string(format!("/proc/{pid}/comm")).ok();
        let program: Option<Arc<str>> = program.map(|name| name.trim_end().into());
        programs.put(pid, (Instant::now(), program.clone()));
        program
    }

    /// Waits until everything that was recorded so far is in the log and on the disk.
    pub fn flush(&self) {
        let to_thread = self.to_thread.lock().clone();
        let (done, wait) = sync_channel(1);
        if let Some(to_thread) = to_thread
            && to_thread.send(Told::Flush(done)).is_ok()
        {
            // The thread ended otherwise, having written everything.
            let _ = wait.recv();
        }
    }

    /// Writes out what is left and records nothing more.
    pub fn close(&self) {
        drop(self.to_thread.lock().take());
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
    fn drop_some(&self, count: u64) {
        self.dropped.fetch_add(count, Ordering::Relaxed);
        self.all_dropped.fetch_add(count, Ordering::Relaxed);
    }

    fn write_all(&self, events: &Receiver<Told>) {
        let mut unsynced: Option<Instant> = None;
        loop {
            let patience =
                unsynced.map_or(Duration::from_secs(3600), |since| SYNCS_AFTER.saturating_sub(since.elapsed()));
            let first = match events.recv_timeout(patience) {
                Ok(first) => first,
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {
                    if unsynced.take().is_some() {
                        self.sync();
                    }
                    continue;
                }
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => break,
            };
            let flushed = self.take_in(first, events);
            unsynced = unsynced.or(Some(Instant::now()));
            if !flushed.is_empty() || unsynced.is_some_and(|since| since.elapsed() >= SYNCS_AFTER) {
                unsynced = None;
                self.sync();
                for done in flushed {
                    let _ = done.send(());
                }
            }
        }
        self.sync();
    }

    /// Writes one event and those that come within a moment. Returns who waits for that.
    fn take_in(&self, first: Told, events: &Receiver<Told>) -> Vec<SyncSender<()>> {
        let mut flushed = Vec::new();
        let mut acts = Vec::new();
        let mut note = |told: Told| match told {
            Told::Act(act) => acts.push(*act),
            Told::Flush(done) => flushed.push(done),
        };
        note(first);
        if !events.try_iter().take(WAITING_MAX).any(|told| {
            let ends = matches!(told, Told::Flush(_));
            note(told);
            ends
        }) {
            thread::sleep(GATHERS);
            events.try_iter().take(WAITING_MAX).for_each(&mut note);
        }
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            log::warn!("{dropped} entries of the audit log were dropped: more came than could be written");
            acts.push(Act::dropped(dropped));
        }
        for acts in acts.chunks(TOGETHER) {
            self.append(acts);
        }
        flushed
    }

    fn append(&self, acts: &[Act]) {
        let appended = self.log.lock().append(acts);
        match appended {
            Ok(entries) => {
                self.failing.store(false, Ordering::Relaxed);
                if let Some(watcher) = &*self.watcher.lock() {
                    let watched = catch_unwind(AssertUnwindSafe(|| entries.iter().for_each(watcher)));
                    if watched.is_err() {
                        log::error!("what watches the audit log broke down: it goes on with the next entries");
                    }
                }
            }
            Err(e) => {
                // As soon as there is room it is told how many.
                if !self.failing.swap(true, Ordering::Relaxed) {
                    log::error!("the audit log can't be written: {e}: entries are counted until it can be");
                }
                self.drop_some(acts.len() as u64);
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
        audit.watch(Box::new(move |entry| watcher.lock().push(entry.n)));
        (0..5).for_each(|nth| audit.record(act(nth)));
        audit.flush();
        assert_eq!(audit.synced().count, 5);
        assert_eq!(*seen.lock(), [1, 2, 3, 4, 5]);
        audit.close();
        audit.record(act(9));
        assert_eq!(open(directory.path()).read(1, 9).unwrap().entries.len(), 5);
    }
}
