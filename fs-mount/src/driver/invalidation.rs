//! Tells the kernel what it must forget: whatever changed other than by its own requests.
//!
//! Invariant: no notification is sent from a thread that serves requests, nor with a lock held. The kernel takes the
//! locks of the directory or the pages meant, and may wait for a request that holds them.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ffi::OsStr,
    io,
    os::unix::ffi::OsStrExt,
    sync::{
        Arc,
        mpsc::{self, Receiver, Sender},
    },
    thread,
    time::Instant,
};

use fuser::{INodeNo, Notifier};
use log::debug;
use parking_lot::{Condvar, Mutex};
use volume::{
    Changed, Volume,
    node::{Ino, NodeKind},
};

use super::{calls::Changes, pool::Pool, set_ids::SetIds};

/// Events taken together, so that a file that changes often is told once.
const BATCH: usize = 1024;
/// Threads that drop pages. They wait for pages which are being read, so possibly for a peer.
const PAGE_THREADS: usize = 8;

/// What of an inode the kernel must forget: an offset below 0 means attributes only.
const ATTRIBUTES_ONLY: i64 = -1;
const ALL_PAGES: i64 = 0;
const TO_THE_END: i64 = 0;

/// What the thread that tells the kernel is handed.
#[derive(Debug)]
pub(super) enum Event {
    Changed(Changed),
    /// Somebody wants to know in which batch it went by.
    Passed(Sender<u64>),
}

/// Events on their way from the volume to the kernel.
pub(super) struct Invalidation {
    events: Receiver<Event>,
    volume: Volume,
    outdated: Outdated,
    open: Arc<Open>,
}

/// What handlers know of events, and add to them.
pub(super) struct Noticed {
    /// Counts those events and the kernel's own changes.
    pub(super) changes: Changes,
    /// Files whose pages the kernel must still drop.
    pub(super) outdated: Outdated,
    /// Files whose mode it must ask for again after some writes.
    pub(super) set_ids: SetIds,
}

/// Files whose content changed and whose pages the kernel hasn't dropped yet: opening one mustn't keep them.
#[derive(Clone, Default)]
pub(super) struct Outdated(Arc<Mutex<HashMap<u64, usize>>>);

impl Outdated {
    pub(super) fn contains(&self, ino: INodeNo) -> bool {
        self.0.lock().contains_key(&ino.0)
    }

    fn add(&self, ino: Ino) {
        *self.0.lock().entry(ino.0).or_default() += 1;
    }

    /// Takes back `times` of the calls to `add`.
    fn settle(&self, ino: u64, times: usize) {
        let mut files = self.0.lock();
        if let Some(left) = files.get_mut(&ino) {
            *left = left.saturating_sub(times);
            if *left == 0 {
                files.remove(&ino);
            }
        }
    }
}

/// How far the kernel was told of what had changed.
#[derive(Clone, Debug)]
pub(super) struct Told {
    events: Sender<Event>,
    open: Arc<Open>,
}

/// By batch, how many of its files' pages are still to be dropped. One of which nothing is left isn't there.
#[derive(Debug, Default)]
struct Open {
    batches: Mutex<BTreeMap<u64, usize>>,
    fewer: Condvar,
}

/// One file's pages of a batch, until they were dropped or never will be.
struct Dropping {
    batch: u64,
    open: Arc<Open>,
}

impl Drop for Dropping {
    fn drop(&mut self) {
        let mut batches = self.open.batches.lock();
        if let Some(jobs) = batches.get_mut(&self.batch) {
            *jobs -= 1;
            if *jobs == 0 {
                batches.remove(&self.batch);
                self.open.fewer.notify_all();
            }
        }
    }
}

impl Told {
    /// Waits until the kernel was told of everything that was handed on before this, at most until `deadline`. Tells
    /// whether it was; when the mount is gone, there is nothing to wait for.
    pub(super) fn wait(&self, deadline: Instant) -> bool {
        let (sender, passed) = mpsc::channel();
        if self.events.send(Event::Passed(sender)).is_err() {
            return true;
        }
        let last = match passed.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(batch) => batch,
            Err(mpsc::RecvTimeoutError::Disconnected) => return true,
            Err(mpsc::RecvTimeoutError::Timeout) => return false,
        };
        let mut batches = self.open.batches.lock();
        while batches.first_key_value().is_some_and(|(first, _)| *first <= last) {
            if self.open.fewer.wait_until(&mut batches, deadline).timed_out() {
                return false;
            }
        }
        true
    }
}

impl Invalidation {
    /// Collects the volume's events from now on.
    pub(super) fn subscribe(volume: &Volume) -> (Self, Noticed, Told) {
        let (sender, events) = mpsc::channel();
        let (changes, outdated, open) = (Changes::default(), Outdated::default(), Arc::<Open>::default());
        let told = Told { events: sender.clone(), open: open.clone() };
        let noticed =
            Noticed { changes: changes.clone(), outdated: outdated.clone(), set_ids: SetIds::new(sender.clone()) };
        let handed_on = outdated.clone();
        volume.on_change(Box::new(move |event| {
            changes.one_more();
            if let Changed::Content(ino) = &event {
                outdated.add(*ino);
            }
            // Nobody listens any more once the mount has ended.
            let _ = sender.send(Event::Changed(event));
        }));
        (Self { events, volume: volume.clone(), outdated: handed_on, open }, noticed, told)
    }

    /// Takes the volume's events to nobody: the thread of the subscription before gets no more.
    pub(super) fn unsubscribe(volume: &Volume) {
        volume.on_change(Box::new(|_| {}));
    }

    /// Hands the events to the kernel, until nobody can hand on any more or the mount is gone.
    pub(super) fn start(self, notifier: Notifier) -> io::Result<()> {
        let pages = Pool::new("p2pfs-pages", PAGE_THREADS);
        thread::Builder::new().name("p2pfs-notify".to_owned()).spawn(move || {
            let mut number = 0;
            while let Ok(event) = self.events.recv() {
                number += 1;
                let mut batch = Batch { number, ..Batch::default() };
                batch.add(event);
                self.events.try_iter().take(BATCH - 1).for_each(|event| batch.add(event));
                if batch.send(&notifier, &self.volume, &self.outdated, &self.open, &pages).is_err() {
                    break;
                }
            }
            pages.close();
        })?;
        Ok(())
    }
}

/// Events without repetitions.
#[derive(Default)]
struct Batch {
    number: u64,
    entries: HashSet<(u64, Vec<u8>)>,
    directories: HashSet<u64>,
    attributes: HashSet<u64>,
    /// With how many events there were of each.
    contents: HashMap<u64, usize>,
    /// Who asked in which batch they are.
    passed: Vec<Sender<u64>>,
}

impl Batch {
    fn add(&mut self, event: Event) {
        let changed = match event {
            Event::Changed(changed) => changed,
            Event::Passed(sender) => return self.passed.push(sender),
        };
        match changed {
            Changed::Content(ino) => *self.contents.entry(ino.0).or_default() += 1,
            Changed::Attributes(ino) => {
                self.attributes.insert(ino.0);
            }
            Changed::Entry { parent, name } => {
                self.directories.insert(parent.0);
                self.entries.insert((parent.0, name));
            }
            // Nothing that the kernel keeps.
            Changed::Members => {}
        }
    }

    /// Fails once the mount is gone.
    fn send(
        self,
        notifier: &Notifier,
        volume: &Volume,
        outdated: &Outdated,
        open: &Arc<Open>,
        pages: &Pool,
    ) -> io::Result<()> {
        for (parent, name) in &self.entries {
            check(notifier.inval_entry(INodeNo(*parent), OsStr::from_bytes(name)))?;
        }
        for directory in &self.directories {
            // A name that the kernel never met tells it nothing of the directory; its cached listing must go all the same.
            check(notifier.inval_inode(INodeNo(*directory), ALL_PAGES, TO_THE_END))?;
        }
        for ino in self.attributes.iter().chain(self.contents.keys()) {
            // Where a link leads is in a page; who may know that is asked of nobody while it is there.
            let is_link = volume.attributes(Ino(*ino)).is_ok_and(|about| about.kind == NodeKind::Symlink);
            let from = if is_link { ALL_PAGES } else { ATTRIBUTES_ONLY };
            check(notifier.inval_inode(INodeNo(*ino), from, TO_THE_END))?;
        }
        if !self.contents.is_empty() {
            open.batches.lock().insert(self.number, self.contents.len());
        }
        for (ino, times) in self.contents {
            let (notifier, volume, outdated) = (notifier.clone(), volume.clone(), outdated.clone());
            let dropping = Dropping { batch: self.number, open: open.clone() };
            let job = move || {
                // Stores into these pages come here meanwhile.
                let from = volume.before_pages_drop(Ino(ino));
                let _ = check(notifier.inval_inode(INodeNo(ino), ALL_PAGES, TO_THE_END));
                if let Some(from) = from {
                    volume.pages_dropped(Ino(ino), from);
                }
                outdated.settle(ino, times);
                drop(dropping);
            };
            if let Err(job) = pages.offer(Box::new(job)) {
                job();
            }
        }
        for asked in self.passed {
            // Whoever asked may have given up.
            let _ = asked.send(self.number);
        }
        Ok(())
    }
}

/// Lets pass what the kernel can't do about one inode; fails when there is no mount any more.
fn check(sent: io::Result<()>) -> io::Result<()> {
    match sent {
        Err(failure) if matches!(failure.raw_os_error(), Some(libc::ENODEV | libc::ENOTCONN | libc::EPERM)) => {
            Err(failure)
        }
        Err(failure) => {
            debug!("the kernel keeps what it was told to forget: {failure}");
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn entry(parent: u64, name: &str) -> Changed {
        Changed::Entry { parent: Ino(parent), name: name.as_bytes().to_vec() }
    }

    #[test]
    fn events_are_told_once_a_batch() {
        let mut batch = Batch::default();
        for event in [Changed::Content(Ino(5)), Changed::Content(Ino(5)), entry(1, "a"), entry(1, "b"), entry(1, "a")] {
            batch.add(Event::Changed(event));
        }
        assert_eq!(batch.contents, HashMap::from([(5, 2)]));
        assert_eq!(batch.entries.len(), 2);
        assert_eq!(batch.directories, HashSet::from([1]));
    }

    #[test]
    fn a_file_is_outdated_until_every_event_is_settled() {
        let outdated = Outdated::default();
        outdated.add(Ino(5));
        outdated.add(Ino(5));
        outdated.settle(5, 1);
        assert!(outdated.contains(INodeNo(5)));
        outdated.settle(5, 1);
        assert!(!outdated.contains(INodeNo(5)));
    }

    /// The thread that tells the kernel, with so many batches behind it.
    fn asked_after(batches: u64, pages_of: &[u64]) -> (Told, Vec<Dropping>) {
        let (sender, events) = mpsc::channel();
        let told = Told { events: sender, open: Arc::default() };
        let dropping = pages_of.iter().map(|batch| {
            *told.open.batches.lock().entry(*batch).or_default() += 1;
            Dropping { batch: *batch, open: told.open.clone() }
        });
        let dropping = dropping.collect();
        thread::spawn(move || {
            while let Ok(Event::Passed(asked)) = events.recv() {
                asked.send(batches).unwrap();
            }
        });
        (told, dropping)
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(50)
    }

    fn late() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[test]
    fn the_kernel_is_told_once_all_pages_of_earlier_batches_are_dropped() {
        let (told, mut dropping) = asked_after(3, &[2, 2, 4]);
        assert!(!told.wait(soon()));
        dropping.remove(0);
        assert!(!told.wait(soon()));
        dropping.remove(0);
        assert!(told.wait(late()), "what came later isn't waited for");
    }

    #[test]
    fn when_the_mount_is_gone_nothing_is_waited_for() {
        let (sender, events) = mpsc::channel();
        let told = Told { events: sender, open: Arc::default() };
        drop(events);
        assert!(told.wait(late()));
    }
}
