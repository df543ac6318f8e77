//! The store on disk: fjall behind [`Store`].
//!
//! Each batch is with the operating system before `apply` returns (fjall flushes its journal
//! buffer then), `sync` is one `fdatasync` of the journal. Memory is bounded by the sizes below.
//!
//! After an error of the disk fjall takes nothing more until it is opened again. So the next call opens it again, in
//! place: the batch that failed is cut off its journal, all before it are there. Invariant: what the store holds is what
//! was applied with success, in that order, whatever failed in between.

use std::{
    fs::File,
    io,
    ops::Bound,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
    },
    thread,
    time::Duration,
};

use fjall::{
    CompressionType, Database, Keyspace, KeyspaceCreateOptions, PersistMode,
    compaction::Leveled,
    config::{
        BloomConstructionPolicy, CompressionPolicy, FilterPolicy, FilterPolicyEntry, PartitioningPolicy, PinningPolicy,
    },
};
use parking_lot::{Mutex, MutexGuard, RwLock};

use crate::store::{Batch, Row, Space, Store};

use ahead::Ahead;

mod ahead;
mod journal;
mod tail;

/// Block cache of the store, in bytes.
const CACHE_BYTES: u64 = 24 << 20;
/// A key space's write buffer, in bytes, before it is written out as a table.
const MEMTABLE_BYTES: u64 = 3 << 20;
/// That of changes. Their keys rise, so that their tables stay as they are written out, and each is opened with the store.
const CHANGES_MEMTABLE_BYTES: u64 = 16 << 20;
/// Length of the tables that are made of others. Four of them are the first level that is merged with what is written out:
/// a row that is always written, as the root's, has all of that level written again.
const TABLE_BYTES: u64 = 8 << 20;
/// That of changes.
const CHANGES_TABLE_BYTES: u64 = 32 << 20;
/// From this size on fjall asks its own worker for that. It never gets there: it asks with every batch, and a worker that
/// is busy for a thousand of them finds its queue full, waits to put one more thing into it, and with it for itself. Then
/// nothing is written out any more, and memory and journal grow without end (3.1.13).
const MEMTABLE_BYTES_OF_FJALL: u64 = 64 << 20;
/// What a row takes in a write buffer beside its key and value; rather more than less.
const ROW_BYTES: u64 = 128;
/// Journals may grow to this before the oldest write buffers are written out to let them go.
const JOURNAL_BYTES: u64 = 128 << 20;
/// At rest, so much is not left to be read from the journals again.
const REST_BYTES: u64 = 4 << 20;
/// How often it is looked whether that is written out, and the pause between: ten seconds in all.
const REST_LOOKS: usize = 2000;
const REST_PAUSE: Duration = Duration::from_millis(5);
/// Tables kept open. With the packs' and the sockets' this stays far below the 1024 descriptors of a usual process.
const OPEN_TABLES: usize = 128;

/// An ordered store in a directory of its own.
pub struct DiskStore {
    dir: PathBuf,
    // Locks in this order.
    health: Mutex<Health>,
    /// Nothing while it could not be opened again.
    open: RwLock<Option<Open>>,
    /// What the system said last when something failed; 0 before.
    cause: AtomicI32,
}

/// What has to be done before the next batch.
struct Health {
    /// The disk failed, and fjall has to be opened again.
    broken: bool,
    /// Batches from this number on were not applied with success.
    failed_from: u64,
    /// A batch has at least this number and was applied with success; none has a greater one.
    newest: Option<u64>,
    /// The same of the last batch that a sync reached, until the next batch has told it ([`journal::SYNCED`]).
    synced: Option<u64>,
    /// Batches applied so far.
    applied: u64,
    /// How many of them a sync has reached; `None` before the first since opening: what is in a journal from before may
    /// never have been synced.
    reached: Option<u64>,
    ahead: Ahead,
}

impl Health {
    fn good() -> Self {
        Self {
            broken: false,
            failed_from: u64::MAX,
            newest: None,
            synced: None,
            applied: 0,
            reached: None,
            ahead: Ahead::default(),
        }
    }
}

/// How often in a row a store is opened again for one write.
const REOPENED: usize = 4;

struct Open {
    database: Database,
    spaces: Vec<Keyspace>,
    /// By key space, about how many bytes its write buffer has.
    buffered: Mutex<Vec<u64>>,
    syncing: Mutex<Syncing>,
}

/// What is synced, one sync at a time: the kernel tells an error of writing once, and whoever comes next must not take
/// silence for success.
#[derive(Default)]
struct Syncing {
    /// The newest journal as it was last seen, and the one before while fjall may still write to that: it goes on with it
    /// when it could not begin the newer one.
    journals: Vec<(PathBuf, File)>,
    failed: Option<i32>,
}

enum SyncError {
    /// What was to be synced could not be opened; nothing is known to be lost.
    NotBegun(io::Error),
    Failed(io::Error),
}

impl Syncing {
    /// Looks which journals are to be synced.
    fn look(&mut self, dir: &Path) -> io::Result<()> {
        if let [(newest, _)] = &self.journals[..]
            && !tail::next(newest)?.try_exists()?
        {
            return Ok(());
        }
        let mut newest = tail::newest_first(dir)?;
        newest.truncate(2);
        self.journals.retain(|(path, _)| newest.contains(path));
        for path in &newest {
            if self.journals.iter().all(|(known, _)| known != path) {
                let file = File::open(path)?;
                self.journals.push((path.clone(), file));
            }
        }
        self.journals.sort_by_key(|(path, _)| newest.iter().position(|other| other == path));
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let (_, newest) = self.journals.first().ok_or_else(|| io::Error::other("the store has no journal"))?;
        let mut first = [0];
        let begun = self.journals.len() == 1 || newest.read_at(&mut first, 0)? == 1 && first != [0];
        self.journals.iter().try_for_each(|(_, file)| file.sync_data())?;
        if begun {
            // fjall is done with the one before. Each file synced costs a flush of the disk, also one with nothing new.
            self.journals.truncate(1);
        }
        Ok(())
    }
}

fn memtable_bytes(space: Space) -> u64 {
    if space == Space::Changes { CHANGES_MEMTABLE_BYTES } else { MEMTABLE_BYTES }
}

fn table_bytes(space: Space) -> u64 {
    if space == Space::Changes { CHANGES_TABLE_BYTES } else { TABLE_BYTES }
}

/// What tells of most keys that they are not in a table. Whoever asks for a commit or a change knows that it is there, and
/// few tables have keys on both sides of it.
fn filter(space: Space) -> FilterPolicyEntry {
    match space {
        Space::Commits | Space::Changes => FilterPolicyEntry::None,
        _ => FilterPolicyEntry::Bloom(BloomConstructionPolicy::BitsPerKey(10.0)),
    }
}

impl Open {
    fn new(dir: &Path) -> fjall::Result<Self> {
        let database = Database::builder(dir)
            .cache_size(CACHE_BYTES)
            .max_journaling_size(JOURNAL_BYTES)
            .max_cached_files(Some(OPEN_TABLES))
            .worker_threads(1)
            .open()?;
        let mut spaces = Vec::with_capacity(Space::ALL.len());
        for space in Space::ALL {
            let options = || {
                KeyspaceCreateOptions::default()
                    .max_memtable_size(MEMTABLE_BYTES_OF_FJALL)
                    .compaction_strategy(Arc::new(Leveled::default().with_table_target_size(table_bytes(space))))
                    // Of a large table what leads to a row is read, not all that leads to any.
                    .filter_block_partitioning_policy(PartitioningPolicy::new([false, true]))
                    .index_block_partitioning_policy(PartitioningPolicy::new([false, true]))
                    .filter_block_pinning_policy(PinningPolicy::all(true))
                    .index_block_pinning_policy(PinningPolicy::all(true))
                    // What is stored is sealed: it doesn't compress.
                    .data_block_compression_policy(CompressionPolicy::all(CompressionType::None))
                    .filter_policy(FilterPolicy::all(filter(space)))
            };
            spaces.push(database.keyspace(space.name(), options)?);
        }
        // What the journals had: of any of them.
        let buffered = Mutex::new(vec![database.write_buffer_size(); spaces.len()]);
        Ok(Self { database, spaces, buffered, syncing: Mutex::default() })
    }

    /// Makes what was applied so far durable. Each batch has reached the journal's file by then, and fjall syncs a
    /// journal before it begins the next: what is left is to sync the newest. fjall would hold its lock for that, and
    /// all calls would wait for the disk.
    fn sync(&self, dir: &Path) -> Result<(), SyncError> {
        let mut syncing = self.syncing.lock();
        if let Some(number) = syncing.failed {
            return Err(SyncError::Failed(if number == 0 { closed() } else { io::Error::from_raw_os_error(number) }));
        }
        syncing.look(dir).or_else(|_| syncing.look(dir)).map_err(SyncError::NotBegun)?;
        // An error that fjall met in the background was perhaps told to it alone.
        let synced = syncing.sync().and_then(|()| self.database.persist(PersistMode::Buffer).map_err(to_io));
        syncing.failed = synced.as_ref().err().map(|error| error.raw_os_error().unwrap_or(0));
        synced.map_err(SyncError::Failed)
    }

    fn space(&self, space: Space) -> &Keyspace {
        &self.spaces[space as usize]
    }

    fn apply(&self, batch: &Batch, synced: Option<u64>) -> fjall::Result<()> {
        let mut write = self.database.batch();
        if let Some(number) = synced {
            write.insert(self.space(Space::Index), journal::SYNCED, number.to_le_bytes());
        }
        for (space, key, value) in &batch.writes {
            match value {
                Some(value) => write.insert(self.space(*space), key.as_slice(), value.as_slice()),
                None => write.remove(self.space(*space), key.as_slice()),
            }
        }
        write.durability(Some(PersistMode::Buffer)).commit()?;
        if synced.is_some() {
            self.buffered(Space::Index, journal::SYNCED.len() + size_of::<u64>());
        }
        for (space, key, value) in &batch.writes {
            self.buffered(*space, key.len() + value.as_ref().map_or(0, Vec::len));
        }
        Ok(())
    }

    /// Counts a row of so many bytes, and has its space's write buffer written out once that has grown enough.
    fn buffered(&self, space: Space, row: usize) {
        let mut buffered = self.buffered.lock();
        let bytes = &mut buffered[space as usize];
        *bytes += row as u64 + ROW_BYTES;
        if *bytes > memtable_bytes(space) {
            *bytes = 0;
            if let Err(error) = self.space(space).rotate_memtable() {
                // What failed is met by the next batch.
                log::debug!("store: not written out: {error}");
            }
        }
    }

    /// Writes out what the journals would have to be read for at the next opening, if it is much, and empties them: whole
    /// batches are read there and checked, needed or not. No batch may come meanwhile.
    fn rest(&self, dir: &Path, ahead: &mut Ahead) {
        let journals = || -> io::Result<Vec<u64>> {
            tail::newest_first(dir)?.iter().map(|path| tail::written(&File::open(path)?)).collect()
        };
        let written = journals().map_or(u64::MAX, |journals| journals.iter().sum());
        if self.database.write_buffer_size() < REST_BYTES && written < REST_BYTES {
            return;
        }
        for space in &self.spaces {
            if let Err(error) = space.rotate_memtable() {
                log::debug!("store: not written out: {error}");
                return;
            }
        }
        // A disk that fails, or is very slow, must not keep anybody from ending.
        for _ in 0..REST_LOOKS {
            // (Those before the newest go when all in them is written out.)
            if self.spaces.iter().all(|space| space.sealed_memtable_count() == 0)
                && journals().is_ok_and(|journals| journals.len() == 1)
            {
                if let Err(error) = ahead.empty(dir) {
                    log::debug!("store: the journal is not emptied: {error}");
                }
                return;
            }
            thread::sleep(REST_PAUSE);
        }
    }
}

impl DiskStore {
    /// Opens the store in `dir`, making it when it isn't there.
    ///
    /// # Errors
    /// The directory is in use by another process (`WouldBlock`), damaged (`InvalidData`), or the disk fails.
    pub fn open(dir: &Path) -> io::Result<Self> {
        journal::check(dir)?;
        check_lists(dir)?;
        let open = match Open::new(dir) {
            Err(fjall::Error::JournalRecovery(_)) => {
                let cut = tail::cut(dir, u64::MAX)?;
                log::warn!("store: power failed while its journal was written: {cut} bytes at its end are not whole");
                Open::new(dir)
            }
            opened => opened,
        };
        let open = RwLock::new(Some(open.map_err(to_io)?));
        // As the kernel names what is in it, wherever this process goes.
        let dir = dir.canonicalize()?;
        Ok(Self { dir, health: Mutex::new(Health::good()), open, cause: AtomicI32::new(0) })
    }

    /// Takes what is damaged out of the journals of the closed store in `dir`, keeping them as they were in `kept`, so
    /// that what else is in it can be read. Tells whether something was: the store then lacks records, and is only
    /// good to be salvaged.
    ///
    /// # Errors
    /// The disk fails.
    pub fn mend_journals(dir: &Path, kept: &Path) -> io::Result<bool> {
        Ok(journal::mend(dir, kept)? > 0)
    }

    /// Opens fjall again after an error. Until that succeeds, every call tries it again.
    fn reopen(&self, health: &mut Health) -> io::Result<()> {
        let open = &mut *self.open.write();
        // Closing lets its threads and its lock go.
        *open = None;
        health.broken = true;
        tail::cut(&self.dir, health.failed_from)?;
        // Whatever failed, a sync may have failed with it, and have been told to fjall alone.
        tail::rewrite(&self.dir)?;
        *open = Some(Open::new(&self.dir).map_err(to_io)?);
        // A sync that was under way may yet tell how far it came.
        *health = Health { applied: health.applied, ..Health::good() };
        log::warn!("store: goes on after an error of the disk");
        Ok(())
    }

    /// The right to write, to a store that takes something.
    fn writing(&self) -> io::Result<MutexGuard<'_, Health>> {
        let mut health = self.health.lock();
        if health.broken {
            self.reopen(&mut health)?;
        }
        Ok(health)
    }

    /// What the system said, of what failed only since something else had before: a disk that is full is told as such to all.
    fn told<R>(&self, result: io::Result<R>) -> io::Result<R> {
        let Err(error) = &result else { return result };
        if let Some(number) = error.raw_os_error() {
            self.cause.store(number, Ordering::Relaxed);
        } else if error.get_ref().is_some_and(|inner| inner.is::<Aftermath>()) {
            // Whoever met it first may be about to say so.
            drop(self.health.lock());
            let number = self.cause.load(Ordering::Relaxed);
            if number != 0 {
                return Err(io::Error::from_raw_os_error(number));
            }
        }
        result
    }

    fn read<R>(&self, f: impl Fn(&Open) -> fjall::Result<R>) -> io::Result<R> {
        self.told(self.try_read(f))
    }

    fn try_read<R>(&self, f: impl Fn(&Open) -> fjall::Result<R>) -> io::Result<R> {
        if let Some(open) = &*self.open.read() {
            return f(open).map_err(to_io);
        }
        let _health = self.writing()?;
        match &*self.open.read() {
            Some(open) => f(open).map_err(to_io),
            None => Err(closed()),
        }
    }

    fn try_apply(&self, batch: &Batch) -> io::Result<()> {
        let mut health = self.writing()?;
        let attempt = |health: &mut Health| {
            let open = self.open.read();
            let Some(open) = &*open else { return Err(fjall::Error::Io(closed())) };
            let number = open.database.seqno();
            open.apply(batch, health.synced).inspect_err(|error| {
                if let Some(number) = system_number(error) {
                    self.cause.store(number, Ordering::Relaxed);
                }
                health.broken = true;
                health.failed_from = health.failed_from.min(number);
            })?;
            (health.newest, health.synced) = (Some(number), None);
            health.applied += 1;
            health.ahead.wrote(&self.dir, batch.bytes());
            Ok(())
        };
        let mut done = attempt(&mut health);
        for _ in 0..REOPENED {
            // Something else failed before, in the background, and may again: opening it anew tells what.
            let Err(fjall::Error::Poisoned) = done else { break };
            self.reopen(&mut health)?;
            done = attempt(&mut health);
        }
        done.map_err(to_io)
    }

    fn try_sync(&self) -> io::Result<()> {
        let (newest, applied) = {
            let health = self.writing()?;
            if health.reached == Some(health.applied) {
                // Nothing new. (SQLite syncs the folder right after its journal.)
                return Ok(());
            }
            (health.newest, health.applied)
        };
        let result = match &*self.open.read() {
            Some(open) => open.sync(&self.dir),
            None => Err(SyncError::NotBegun(closed())),
        };
        match result {
            Ok(()) => {
                let mut health = self.health.lock();
                if newest.is_some() {
                    health.synced = newest;
                }
                health.reached = health.reached.max(Some(applied));
                Ok(())
            }
            Err(SyncError::NotBegun(error)) => Err(error),
            Err(SyncError::Failed(error)) => {
                self.health.lock().broken = true;
                Err(error)
            }
        }
    }

    fn bounds<'a>(from: &'a [u8], to: &'a [u8]) -> (Bound<&'a [u8]>, Bound<&'a [u8]>) {
        let end = if to.is_empty() { Bound::Unbounded } else { Bound::Excluded(to) };
        (Bound::Included(from), end)
    }
}

/// Checks that every key space has its list of tables: the library takes one without for a new one, and would begin it
/// empty. (One that was never finished is in no store that was ever used: stores are made in a folder of their own.)
fn check_lists(dir: &Path) -> io::Result<()> {
    let entries = match std::fs::read_dir(dir.join("keyspaces")) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    for entry in entries {
        let folder = entry?.path();
        if folder.is_dir() && !folder.join("current").exists() {
            let text = "the list of tables of one of the store's key spaces is missing";
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
    }
    Ok(())
}

/// Something failed before this was tried.
#[derive(Debug, thiserror::Error)]
#[error("the store could not be opened again after an error of the disk")]
struct Aftermath;

fn closed() -> io::Error {
    io::Error::other(Aftermath)
}

fn to_io(error: fjall::Error) -> io::Error {
    match error {
        fjall::Error::Io(e) => e,
        fjall::Error::Poisoned => closed(),
        fjall::Error::Locked => io::Error::new(io::ErrorKind::WouldBlock, "the store is in use by another process"),
        other => system_error(&other).unwrap_or_else(|| io::Error::other(format!("store: {other}"))),
    }
}

/// The number of what the system said.
fn system_number(error: &fjall::Error) -> Option<i32> {
    match error {
        fjall::Error::Io(e) => e.raw_os_error(),
        other => system_error(other)?.raw_os_error(),
    }
}

/// What the system said, below what fjall makes of it: what has run out must reach the program as such.
fn system_error(error: &fjall::Error) -> Option<io::Error> {
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        if let Some(number) = inner.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            return Some(io::Error::from_raw_os_error(number));
        }
        cause = inner.source();
    }
    None
}

impl Store for DiskStore {
    fn get(&self, space: Space, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        self.read(|open| Ok(open.space(space).get(key)?.map(|v| v.to_vec())))
    }

    fn scan(&self, space: Space, from: &[u8], to: &[u8], limit: usize) -> io::Result<Vec<Row>> {
        if !to.is_empty() && from >= to {
            return Ok(Vec::new());
        }
        self.read(|open| {
            let mut rows = Vec::new();
            for guard in open.space(space).range::<&[u8], _>(Self::bounds(from, to)).take(limit) {
                let (key, value) = guard.into_inner()?;
                rows.push((key.to_vec(), value.to_vec()));
            }
            Ok(rows)
        })
    }

    fn last(&self, space: Space, from: &[u8], to: &[u8]) -> io::Result<Option<Row>> {
        if !to.is_empty() && from >= to {
            return Ok(None);
        }
        self.read(|open| {
            let last = open.space(space).range::<&[u8], _>(Self::bounds(from, to)).next_back();
            let row = last.map(|guard| guard.into_inner()).transpose()?;
            Ok(row.map(|(key, value)| (key.to_vec(), value.to_vec())))
        })
    }

    fn apply(&self, batch: Batch) -> io::Result<()> {
        self.told(self.try_apply(&batch))
    }

    fn rest(&self) {
        if let Ok(mut health) = self.writing()
            && let Some(open) = &*self.open.read()
        {
            open.rest(&self.dir, &mut health.ahead);
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.told(self.try_sync())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each journal synced costs a flush of the disk; one that may still be written to must be.
    #[test]
    fn the_journal_before_the_newest_is_synced_until_that_is_begun() {
        let folder = tempfile::tempdir().unwrap();
        let journal = |number: u32| folder.path().join(format!("{number}.jnl"));
        let mut syncing = Syncing::default();
        let mut synced = || {
            syncing.look(folder.path()).unwrap();
            let paths: Vec<_> = syncing.journals.iter().map(|(path, _)| path.clone()).collect();
            syncing.sync().unwrap();
            paths
        };
        std::fs::write(journal(8), [1]).unwrap();
        std::fs::write(journal(9), [1]).unwrap();
        assert_eq!(synced(), [journal(9), journal(8)]);
        assert_eq!(synced(), [journal(9)]);
        std::fs::write(journal(10), [0; 100]).unwrap();
        assert_eq!(synced(), [journal(10), journal(9)]);
        assert_eq!(synced(), [journal(10), journal(9)]);
        std::fs::write(journal(10), [1]).unwrap();
        assert_eq!(synced(), [journal(10), journal(9)], "it may have been written to before");
        assert_eq!(synced(), [journal(10)]);
    }

    #[test]
    fn only_what_is_new_is_synced_and_once_after_each_start() {
        let folder = tempfile::tempdir().unwrap();
        let put = |store: &DiskStore| {
            let mut batch = Batch::new();
            batch.put(Space::Nodes, [1], [2]);
            store.apply(batch).unwrap();
        };
        // Whether the store asks the disk.
        let syncs = |store: &DiskStore| {
            let open = store.open.read();
            let syncing = &open.as_ref().unwrap().syncing;
            syncing.lock().journals.clear();
            store.sync().unwrap();
            !syncing.lock().journals.is_empty()
        };
        for _ in 0..2 {
            let store = DiskStore::open(folder.path()).unwrap();
            assert!(syncs(&store), "whoever was here before may not have");
            assert!(!syncs(&store));
            put(&store);
            assert!(syncs(&store));
            assert!(!syncs(&store));
            put(&store);
        }
    }

    /// fjall's own way to do it can come to a stop: see [`MEMTABLE_BYTES_OF_FJALL`].
    #[test]
    fn write_buffers_are_written_out_long_before_fjall_would_see_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let left = |store: &DiskStore| store.open.read().as_ref().unwrap().database.write_buffer_size();
        let settles = |store: &DiskStore| {
            let settled = |_: &usize| {
                thread::sleep(REST_PAUSE);
                left(store) < 2 * CHANGES_MEMTABLE_BYTES
            };
            (0..REST_LOOKS).find(settled).is_some()
        };
        for round in 0..3_u8 {
            let store = DiskStore::open(folder.path()).unwrap();
            for i in 0..40_u8 {
                let mut batch = Batch::new();
                batch.put(Space::Changes, [round, i], vec![i; 256 << 10]);
                store.apply(batch).unwrap();
            }
            assert!(settles(&store), "{} bytes are left", left(&store));
            assert_eq!(store.scan(Space::Changes, &[], &[], 1000).unwrap().len(), 40 * (usize::from(round) + 1));
        }
    }

    #[test]
    fn what_was_put_to_rest_is_there_and_need_not_be_read_from_the_journals() {
        let folder = tempfile::tempdir().unwrap();
        // Less than a write buffer in each of them.
        let spaces = [Space::Changes, Space::Nodes];
        let put = |store: &DiskStore, round: u8| {
            for i in 0..4_u8 {
                let mut batch = Batch::new();
                batch.put(spaces[usize::from(i % 2)], [round, i], vec![i; 1 << 20]);
                store.apply(batch).unwrap();
            }
        };
        let left = |store: &DiskStore| store.open.read().as_ref().unwrap().database.write_buffer_size();
        for (round, rests) in [(0, false), (1, true)] {
            let store = DiskStore::open(folder.path()).unwrap();
            put(&store, round);
            if rests {
                store.rest();
            }
            drop(store);
            let store = DiskStore::open(folder.path()).unwrap();
            assert_eq!(left(&store) < REST_BYTES, rests, "{} bytes are left", left(&store));
            for i in 0..4_u8 {
                assert_eq!(store.get(spaces[usize::from(i % 2)], &[round, i]).unwrap(), Some(vec![i; 1 << 20]));
            }
        }
    }

    /// What is in tables need not be read from the journals, and isn't: they are emptied, with the store open.
    #[test]
    fn at_rest_the_journals_are_emptied_and_what_follows_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let journals = || -> u64 {
            let journals = tail::newest_first(folder.path()).unwrap();
            journals.iter().map(|path| tail::written(&File::open(path).unwrap()).unwrap()).sum()
        };
        let put = |store: &DiskStore, number: u32, bytes: usize| {
            let mut batch = Batch::new();
            batch.put(Space::Nodes, number.to_be_bytes(), vec![number as u8; bytes]);
            store.apply(batch).unwrap();
        };
        for round in 0..4_u32 {
            let store = DiskStore::open(folder.path()).unwrap();
            assert_eq!(store.scan(Space::Nodes, &[], &[], 1000).unwrap().len(), round as usize * 120);
            for number in 0..100 {
                put(&store, round * 120 + number, 64 << 10);
            }
            assert!(journals() > REST_BYTES);
            store.rest();
            assert_eq!(journals(), 0);
            for number in 100..120 {
                put(&store, round * 120 + number, 10);
                store.sync().unwrap();
            }
            assert!(journals() > 0);
            // Once in order, once not.
            if round % 2 == 0 {
                store.rest();
            }
        }
        let store = DiskStore::open(folder.path()).unwrap();
        let rows = store.scan(Space::Nodes, &[], &[], 1000).unwrap();
        assert_eq!(rows.len(), 480);
        assert!(rows.iter().all(|(key, value)| value.iter().all(|byte| *byte == key[3])));
    }

    #[test]
    fn a_key_space_without_its_list_of_tables_is_damage_and_not_new() {
        let folder = tempfile::tempdir().unwrap();
        drop(DiskStore::open(folder.path()).unwrap());
        drop(DiskStore::open(folder.path()).unwrap());
        let spaces: Vec<_> = std::fs::read_dir(folder.path().join("keyspaces")).unwrap().collect();
        assert!(spaces.len() >= Space::ALL.len());
        for space in spaces {
            let current = space.unwrap().path().join("current");
            let bytes = std::fs::read(&current).unwrap();
            std::fs::remove_file(&current).unwrap();
            let error = DiskStore::open(folder.path()).err().map(|e| e.kind());
            assert_eq!(error, Some(io::ErrorKind::InvalidData));
            std::fs::write(current, bytes).unwrap();
        }
    }
}
