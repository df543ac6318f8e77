//! The archive of commits: a second copy of every commit, in files of its own beside the store.
//!
//! Owns: appending commits once they are synced in the store, finding what is whole again, and mending it from the
//! store. Does not own: the store's copy, or what to do when that is damaged ([`crate::salvage`]).
//!
//! A *segment* is a header and records, each sealed with its place in the order (`docs/format.md`, "Commit archive").
//! Its name tells the *run* and the arrival number of its first record. A store that was built anew numbers commits
//! anew, and has a run of its own: the segments of the run before go when all that is in them is in the new one.
//!
//! Invariants: a record gets in only after its commit is synced in the store, in the order of arrival; so a store that
//! lacks what the archive has is damaged, however whole it looks. What is still at hand comes as it was signed, all else
//! is read back from the store. Segments before the last one are on the disk. Nothing here is on the way of a call: the
//! committer appends when everybody who waited has been answered.

use std::{
    fs::{self, File, OpenOptions},
    io::Read,
    ops::Range,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
};

use crypto::{Entropy, Label, SymmetricKey, random_array};
use parking_lot::Mutex;

use crate::{
    Volume,
    commit::{ClaimedCommit, commit_hash, encode},
    core::{arrival_key, stored_commit},
    error::{Error, Result},
    sealed_store::SealedStore,
    store::{Batch, Space},
    version::Dot,
};

const SEGMENT_MAGIC: &[u8; 8] = b"P2PFSARC";
const VERSION: u32 = 1;
const SEGMENT_HEADER: usize = 24;
const RECORD_MAGIC: &[u8; 4] = b"CMT\x01";
/// Bytes of a record before its commit.
const RECORD_HEADER: usize = 16;
/// No sealed commit is longer.
const RECORD_MAX: usize = 4 << 20;
/// A segment that has this many bytes is followed by the next.
const SEGMENT_BYTES: usize = 16 << 20;
/// Commits are read from the store and appended about this many bytes at a time.
const CHUNK: usize = 1 << 20;
/// The run that the store's arrival numbers belong to, in [`Space::Meta`].
const RUN: &[u8] = b"archive";
/// Ends the name of a segment of an earlier run that holds what the store hasn't.
const KEPT: &str = "kept";

/// The archive of one volume.
pub struct Archive {
    dir: PathBuf,
    key: SymmetricKey,
    entropy: Arc<dyn Entropy>,
    segment_bytes: usize,
    state: Mutex<State>,
}

/// The end at which commits are appended.
#[derive(Default)]
struct State {
    run: u32,
    /// The segment that is being written, and where it ends.
    tail: Option<(File, usize)>,
    /// The arrival number of the newest commit in it.
    end: u64,
    /// There may be segments of earlier runs.
    others: bool,
    /// The last append failed, and that was told.
    failing: bool,
}

/// Which commits a segment is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Name {
    run: u32,
    /// Arrival number of the first one.
    first: u64,
    kept: bool,
}

impl Name {
    fn parse(name: &str) -> Option<Self> {
        let (stem, extension) = name.split_once('.')?;
        let (run, first) = stem.split_once('-').filter(|(run, first)| run.len() == 8 && first.len() == 16)?;
        let kept = match extension {
            "log" => false,
            KEPT => true,
            _ => return None,
        };
        let first = u64::from_str_radix(first, 16).ok().filter(|first| *first > 0)?;
        Some(Self { run: u32::from_str_radix(run, 16).ok()?, first, kept })
    }

    fn path(&self, dir: &Path) -> PathBuf {
        dir.join(format!("{:08x}-{:016x}.{}", self.run, self.first, if self.kept { KEPT } else { "log" }))
    }

    fn header(&self) -> [u8; SEGMENT_HEADER] {
        let mut header = [0; SEGMENT_HEADER];
        header[..8].copy_from_slice(SEGMENT_MAGIC);
        header[8..12].copy_from_slice(&VERSION.to_le_bytes());
        header[12..16].copy_from_slice(&self.run.to_le_bytes());
        header[16..].copy_from_slice(&self.first.to_le_bytes());
        header
    }
}

/// What stands at one place of a segment.
enum Piece {
    Record {
        arrival: u64,
        commit: Box<ClaimedCommit>,
    },
    /// No whole record.
    Damage,
}

/// A record that is whole.
pub(crate) struct Place {
    segment: Name,
    pub(crate) arrival: u64,
    at: Range<usize>,
}

impl Place {
    pub(crate) fn run(&self) -> u32 {
        self.segment.run
    }
}

/// What was found when an archive was opened.
enum Bound {
    /// It goes on where it ended.
    Whole,
    /// The store had no run yet, and gets this one.
    NewRun(u32),
    /// The newest segment, which begins with this number, has whole records behind a place that is none.
    Torn(u64),
}

/// Damage of the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Places of a segment are no whole records, or not those of the store's commits.
    Segment(u64),
    /// The records of these commits are missing.
    Missing(Range<u64>),
    /// The store lacks the commit of this whole record.
    Lost(u64),
}

impl Archive {
    /// The archive in `dir`, made when it isn't there; what is in it is looked at when a volume is opened.
    ///
    /// # Errors
    /// The disk fails.
    pub fn open(dir: &Path, device_secret: &SymmetricKey, entropy: Arc<dyn Entropy>) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let key = device_secret.derive(Label::CommitArchive, b"");
        Ok(Self { dir: dir.to_owned(), key, entropy, segment_bytes: SEGMENT_BYTES, state: Mutex::default() })
    }

    /// With segments of another size.
    pub fn with_segments_of(self, bytes: usize) -> Self {
        Self { segment_bytes: bytes.min(SEGMENT_BYTES), ..self }
    }

    /// The segments, in the order of runs and commits.
    fn segments(&self) -> Result<Vec<Name>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            names.extend(entry?.file_name().to_str().and_then(Name::parse));
        }
        names.sort_unstable();
        Ok(names)
    }

    fn read(&self, segment: &Name) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        // Longer than any that was written here: what is beyond is no record.
        let most = (SEGMENT_BYTES + CHUNK + 2 * RECORD_MAX) as u64;
        File::open(segment.path(&self.dir))?.take(most).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn aad(run: u32, arrival: u64) -> [u8; 12] {
        let mut aad = [0; 12];
        aad[..4].copy_from_slice(&run.to_le_bytes());
        aad[4..].copy_from_slice(&arrival.to_le_bytes());
        aad
    }

    fn put_record(&self, bytes: &mut Vec<u8>, run: u32, arrival: u64, commit: &[u8]) {
        let sealed = crypto::seal(&self.key, &Self::aad(run, arrival), commit, &*self.entropy);
        bytes.extend_from_slice(RECORD_MAGIC);
        bytes.extend_from_slice(&(sealed.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&arrival.to_le_bytes());
        bytes.extend_from_slice(&sealed);
    }

    /// The record that begins `bytes`, and its length.
    fn record(&self, run: u32, bytes: &[u8]) -> Option<(u64, ClaimedCommit, usize)> {
        let (magic, rest) = bytes.split_first_chunk::<4>()?;
        let (len, rest) = rest.split_first_chunk::<4>()?;
        let (arrival, rest) = rest.split_first_chunk::<8>()?;
        let (len, arrival) = (u32::from_le_bytes(*len) as usize, u64::from_le_bytes(*arrival));
        if magic != RECORD_MAGIC || len > RECORD_MAX {
            return None;
        }
        let plain = crypto::open(&self.key, &Self::aad(run, arrival), rest.get(..len)?).ok()?;
        Some((arrival, rmp_serde::from_slice(&plain).ok()?, RECORD_HEADER + len))
    }

    /// Gives all that is in a segment to `each`, in order.
    fn pieces(&self, segment: &Name, bytes: &[u8], mut each: impl FnMut(Range<usize>, Piece)) {
        if !bytes.starts_with(&segment.header()) {
            each(0..SEGMENT_HEADER.min(bytes.len()), Piece::Damage);
        }
        let mut at = SEGMENT_HEADER;
        let mut damaged = None;
        while at < bytes.len() {
            match self.record(segment.run, &bytes[at..]) {
                Some((arrival, commit, len)) => {
                    if let Some(from) = damaged.take() {
                        each(from..at, Piece::Damage);
                    }
                    each(at..at + len, Piece::Record { arrival, commit: Box::new(commit) });
                    at += len;
                }
                None => {
                    damaged.get_or_insert(at);
                    let next = bytes[at + 1..].windows(RECORD_MAGIC.len()).position(|four| four == RECORD_MAGIC);
                    at = next.map_or(bytes.len(), |next| at + 1 + next);
                }
            }
        }
        if let Some(from) = damaged {
            each(from..bytes.len(), Piece::Damage);
        }
    }

    /// Makes this the archive of a store whose numbers are those of `run`, up to `last`.
    ///
    /// # Errors
    /// [`Error::Damaged`] when the archive has commits that the store should have and hasn't.
    fn bind(&self, run: Option<u32>, last: u64) -> Result<Bound> {
        let segments = self.segments()?;
        let state = &mut *self.state.lock();
        *state = State { others: !segments.is_empty(), ..State::default() };
        let Some(run) = run else {
            if !segments.is_empty() {
                return Err(Error::damaged("the store: it lacks all that is in the archive of commits"));
            }
            state.run = new_run(&*self.entropy);
            return Ok(Bound::NewRun(state.run));
        };
        state.run = run;
        let mut own = segments.iter().filter(|name| name.run == run && !name.kept);
        let Some(newest) = own.next_back() else { return Ok(Bound::Whole) };
        state.others = segments.iter().any(|name| name.run != run && !name.kept);
        let bytes = self.read(newest)?;
        // Up to where all is whole; and whatever is whole.
        let (mut end, mut known, mut seen) = (SEGMENT_HEADER.min(bytes.len()), newest.first - 1, newest.first - 1);
        let (mut sound, mut more) = (true, false);
        self.pieces(newest, &bytes, |at, piece| match piece {
            Piece::Record { arrival, .. } => {
                seen = seen.max(arrival);
                sound &= arrival > known;
                if sound {
                    (end, known) = (at.end, arrival);
                }
                more |= !sound;
            }
            Piece::Damage => sound &= at.start < SEGMENT_HEADER,
        });
        if seen > last {
            return Err(Error::damaged("the store: it lacks the newest commits that are in the archive"));
        }
        let file = OpenOptions::new().read(true).write(true).open(newest.path(&self.dir))?;
        if more {
            // Perhaps the only copy of a commit whose record in the store is damaged.
            log::warn!("archive of commits: the newest part of it is not whole; what follows the hole is kept");
            file.sync_data()?;
            state.end = seen;
            return Ok(Bound::Torn(newest.first));
        }
        if end < bytes.len() {
            log::warn!("archive of commits: {} bytes at its end are not whole and are written anew", bytes.len() - end);
            file.set_len(end as u64)?;
        }
        if !bytes.starts_with(&newest.header()) {
            file.write_all_at(&newest.header(), 0)?;
        }
        (state.end, state.tail) = (known, Some((file, end.max(SEGMENT_HEADER))));
        Ok(Bound::Whole)
    }

    /// The arrival number of the newest commit in the archive.
    fn end(&self) -> u64 {
        self.state.lock().end
    }

    /// Appends the commits behind number `after`, up to `upto`; nothing if somebody else did meanwhile. What fails is
    /// tried again by the next append.
    fn append(&self, commits: &[(u64, Vec<u8>)], after: u64, upto: u64) -> Result<()> {
        let state = &mut *self.state.lock();
        if state.end != after {
            return Ok(());
        }
        let full = state.tail.as_ref().is_none_or(|(_, len)| *len >= self.segment_bytes);
        if let Some((first, _)) = commits.first().filter(|_| full) {
            let name = Name { run: state.run, first: *first, kept: false };
            let file = private().truncate(true).open(name.path(&self.dir))?;
            file.write_all_at(&name.header(), 0)?;
            // What fails here is done again by the next append: the segment before stays the last one until then.
            if let Some((before, _)) = &state.tail {
                before.sync_data()?;
            }
            File::open(&self.dir)?.sync_all()?;
            state.tail = Some((file, SEGMENT_HEADER));
        }
        if let Some((file, len)) = &mut state.tail {
            let mut bytes = Vec::with_capacity(commits.iter().map(|(_, commit)| commit.len() + 64).sum());
            for (arrival, commit) in commits {
                self.put_record(&mut bytes, state.run, *arrival, commit);
            }
            // When this fails, what was written of it is written over the next time.
            file.write_all_at(&bytes, *len as u64)?;
            *len += bytes.len();
        }
        state.end = upto;
        Ok(())
    }

    /// Makes what was appended survive power loss.
    fn sync(&self) -> Result<()> {
        if let Some((file, _)) = &self.state.lock().tail {
            file.sync_data()?;
        }
        Ok(())
    }

    /// All records that are whole, of any run.
    pub(crate) fn whole(&self) -> Vec<Place> {
        let mut places = Vec::new();
        for segment in self.segments().unwrap_or_default() {
            match self.read(&segment) {
                Ok(bytes) => self.pieces(&segment, &bytes, |at, piece| {
                    if let Piece::Record { arrival, .. } = piece {
                        places.push(Place { segment, arrival, at });
                    }
                }),
                Err(e) => log::error!("a part of the archive of commits can't be read: {e}"),
            }
        }
        places
    }

    /// The commit of a record.
    pub(crate) fn load(&self, place: &Place) -> Result<ClaimedCommit> {
        let mut bytes = vec![0; place.at.len()];
        File::open(place.segment.path(&self.dir))?.read_exact_at(&mut bytes, place.at.start as u64)?;
        let record = self.record(place.segment.run, &bytes).filter(|(arrival, ..)| *arrival == place.arrival);
        record.map(|(_, commit, _)| commit).ok_or_else(|| Error::damaged("a record of the archive of commits"))
    }

    /// Lets segments of earlier runs go, whose commits are all in `store`.
    fn leave_earlier_runs(&self, store: &SealedStore) -> Result<()> {
        self.sync()?;
        let run = self.state.lock().run;
        for segment in self.segments()?.into_iter().filter(|name| name.run != run && !name.kept) {
            let bytes = self.read(&segment)?;
            let mut all = true;
            self.pieces(&segment, &bytes, |_, piece| {
                all &= match piece {
                    Piece::Record { commit, .. } => {
                        let key = [b"h", &commit_hash(&commit.header).as_bytes()[..]].concat();
                        matches!(store.raw().get(Space::Index, &key), Ok(Some(_)))
                    }
                    Piece::Damage => false,
                };
            });
            let path = segment.path(&self.dir);
            if all {
                fs::remove_file(path)?;
            } else {
                let kept = Name { kept: true, ..segment };
                log::warn!("a part of the archive of commits holds what the store lacks, and is kept");
                fs::rename(path, kept.path(&self.dir))?;
            }
        }
        File::open(&self.dir)?.sync_all()?;
        self.state.lock().others = false;
        Ok(())
    }

    /// Checks the archive against the store's commits, up to the newest one it should have.
    pub(crate) fn check(&self, store: &SealedStore) -> Result<Vec<Fault>> {
        // What is appended from now on isn't looked at: it may be there in part.
        let (run, end, len) = {
            let state = self.state.lock();
            (state.run, state.end, state.tail.as_ref().map(|(_, len)| *len))
        };
        let mut faults = Vec::new();
        let mut next = 1;
        let own = |name: &Name| name.run == run && !name.kept && name.first <= end;
        let segments: Vec<Name> = self.segments()?.into_iter().filter(own).collect();
        for (number, segment) in segments.iter().enumerate() {
            let until = segments.get(number + 1).map_or(end + 1, |name| name.first);
            missing(&mut faults, next..segment.first, store);
            next = segment.first;
            let mut sound = true;
            let bytes = self.read(segment).map(|mut bytes| {
                if let Some(len) = len.filter(|_| number + 1 == segments.len()) {
                    bytes.truncate(len);
                }
                bytes
            });
            match bytes {
                Ok(bytes) => self.pieces(segment, &bytes, |_, piece| match piece {
                    // Appended since this began.
                    Piece::Record { arrival, .. } if arrival > end => {}
                    Piece::Record { arrival, commit } if (next..until).contains(&arrival) => {
                        sound &= !any_stored(next..arrival, store);
                        match stored_at(store, arrival) {
                            Ok(Some(stored)) => sound &= stored == *commit || stored.check().is_err(),
                            Ok(None) => faults.push(Fault::Lost(arrival)),
                            // It is told by whoever looks at the store.
                            Err(_) => {}
                        }
                        next = arrival + 1;
                    }
                    Piece::Record { .. } | Piece::Damage => sound = false,
                }),
                Err(_) => sound = false,
            }
            if sound {
                // What is behind its last record belongs to no other one.
                missing(&mut faults, next..until, store);
            } else {
                faults.push(Fault::Segment(segment.first));
            }
            next = until;
        }
        missing(&mut faults, next..end + 1, store);
        Ok(faults)
    }

    /// Writes what is damaged anew, from the store; from what is whole of the archive what the store hasn't whole.
    pub(crate) fn mend(&self, faults: &[Fault], store: &SealedStore) -> Result<()> {
        let state = &mut *self.state.lock();
        let segments = self.segments()?;
        let own: Vec<&Name> = segments.iter().filter(|name| name.run == state.run && !name.kept).collect();
        for fault in faults {
            let mut commits = match fault {
                Fault::Lost(_) => continue,
                Fault::Missing(range) => range.clone(),
                Fault::Segment(first) => {
                    let next = own.iter().find(|name| name.first > *first);
                    *first..next.map_or(state.end + 1, |name| name.first)
                }
            };
            let old = own.iter().find(|name| matches!(fault, Fault::Segment(first) if name.first == *first));
            let mut whole = std::collections::BTreeMap::new();
            if let Some(old) = old
                && let Ok(bytes) = self.read(old)
            {
                self.pieces(old, &bytes, |at, piece| {
                    if let Piece::Record { arrival, .. } = piece {
                        whole.insert(arrival, Place { segment: **old, arrival, at });
                    }
                });
            }
            // A part that was missing may be longer than a segment.
            while !commits.is_empty() {
                let name = Name { run: state.run, first: commits.start, kept: false };
                let mut bytes = name.header().to_vec();
                while bytes.len() < self.segment_bytes || old.is_some() {
                    let Some(arrival) = commits.next() else { break };
                    let stored = stored_at(store, arrival).ok().flatten().filter(|c| c.clone().check().is_ok());
                    let commit = match (stored, whole.get(&arrival)) {
                        (Some(commit), _) => commit,
                        (None, Some(place)) => self.load(place)?,
                        (None, None) => continue,
                    };
                    self.put_record(&mut bytes, state.run, arrival, &encode(&commit));
                }
                let fresh = self.dir.join("segment.new");
                let file = private().truncate(true).open(&fresh)?;
                file.write_all_at(&bytes, 0)?;
                file.sync_all()?;
                fs::rename(&fresh, name.path(&self.dir))?;
                let is_tail = own.last().is_none_or(|last| last.first <= name.first);
                if is_tail {
                    state.tail = Some((file, bytes.len()));
                }
            }
        }
        File::open(&self.dir)?.sync_all()?;
        Ok(())
    }
}

/// Notes a range of which the store has commits.
fn missing(faults: &mut Vec<Fault>, range: Range<u64>, store: &SealedStore) {
    if any_stored(range.clone(), store) {
        faults.push(Fault::Missing(range));
    }
}

/// Whether the store knows a commit of these numbers.
fn any_stored(range: Range<u64>, store: &SealedStore) -> bool {
    !range.is_empty()
        && store
            .raw()
            .scan(Space::Index, &arrival_key(range.start), &arrival_key(range.end), 1)
            .is_ok_and(|rows| !rows.is_empty())
}

/// The commit with an arrival number, as the store has it.
fn stored_at(store: &SealedStore, arrival: u64) -> Result<Option<ClaimedCommit>> {
    let Some(key) = store.raw().get(Space::Index, &arrival_key(arrival))? else { return Ok(None) };
    stored_commit(store, Dot::from_key(&key).ok_or_else(|| Error::damaged("arrival index"))?)
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).mode(0o600);
    options
}

/// A number that no earlier run has, but for one chance in four billion (then numbers are taken up where it ended).
fn new_run(entropy: &dyn Entropy) -> u32 {
    u32::from_le_bytes(random_array(entropy))
}

/// The run in a store; none yet in one that never had an archive.
pub(crate) fn run_of(store: &SealedStore) -> Result<Option<u32>> {
    let Some(row) = store.get(Space::Meta, RUN)? else { return Ok(None) };
    row.try_into().map(|bytes| Some(u32::from_le_bytes(bytes))).map_err(|_| Error::damaged("the archive's run"))
}

/// Has a store that is built anew number its commits in a run of its own.
pub(crate) fn start_run(store: &SealedStore, entropy: &dyn Entropy) -> Result<()> {
    put_run(store, new_run(entropy))
}

fn put_run(store: &SealedStore, run: u32) -> Result<()> {
    let mut batch = Batch::new();
    store.put(&mut batch, Space::Meta, RUN, &run.to_le_bytes());
    store.apply(batch)
}

/// Has `archive` go on where it is behind `store`, whose newest commit is `last`. A store that is given a run must be
/// synced before its archive is written to.
pub(crate) fn attach(archive: Option<&Arc<Archive>>, store: &SealedStore, last: u64) -> Result<()> {
    let Some(archive) = archive else { return Ok(()) };
    match archive.bind(run_of(store)?, last)? {
        Bound::Whole => Ok(()),
        Bound::NewRun(run) => put_run(store, run),
        Bound::Torn(first) => {
            if let Err(e) = archive.mend(&[Fault::Segment(first)], store) {
                // As it is, it keeps what it has: the next commit begins a segment of its own.
                log::error!("the archive of commits can't be mended now: {e}");
            }
            Ok(())
        }
    }
}

impl Volume {
    /// Whether the archive lacks commits that are synced.
    pub(crate) fn archive_is_behind(&self) -> bool {
        let Some(archive) = &self.inner.archive else { return false };
        archive.end() < self.inner.synced_arrival.load(Ordering::Acquire)
    }

    /// Appends some of what the archive lacks. Tells whether there is more to do.
    pub(crate) fn archive_some(&self) -> bool {
        let Some(archive) = &self.inner.archive else { return false };
        let done = self.archive_chunk(archive);
        let failing = std::mem::replace(&mut archive.state.lock().failing, done.is_err());
        match done {
            Ok(more) => more,
            Err(e) => {
                // Tried again with the next commit.
                if !failing {
                    log::error!("commits can't be written to their archive: {e}");
                }
                false
            }
        }
    }

    fn archive_chunk(&self, archive: &Archive) -> Result<bool> {
        let synced = self.inner.synced_arrival.load(Ordering::Acquire);
        let store = &self.inner.store;
        let after = archive.end();
        let mut at = after;
        if at >= synced {
            if archive.state.lock().others {
                archive.leave_earlier_runs(store)?;
            }
            return Ok(false);
        }
        let mut fresh = self.inner.core.lock().take_fresh(after, synced, CHUNK);
        let (mut commits, mut bytes) = (Vec::new(), 0);
        while at < synced && (bytes < CHUNK || !fresh.is_empty()) {
            at += 1;
            let commit = match fresh.pop_front_if(|commit| commit.arrival == at) {
                Some(fresh) => Ok(Some(fresh.encoded())),
                None => stored_at(store, at).map(|commit| commit.map(|commit| encode(&commit))),
            };
            match commit {
                Ok(Some(commit)) => {
                    bytes += commit.len();
                    commits.push((at, commit));
                }
                Ok(None) => {}
                Err(e) => log::error!("a commit can't be read to be archived: {e}"),
            }
        }
        archive.append(&commits, after, at)?;
        Ok(at < synced || archive.state.lock().others)
    }

    /// Appends all that the archive lacks, and syncs it.
    pub(crate) fn archive_all(&self) {
        while self.archive_some() {}
        if let Some(archive) = &self.inner.archive
            && let Err(e) = archive.sync()
        {
            log::error!("the archive of commits can't be synced: {e}");
        }
    }
}

/// A segment by itself, under a fixed key.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing {
    use crypto::SeededEntropy;

    use super::*;
    use crate::memory_store::MemoryStore;

    const SECRET: SymmetricKey = SymmetricKey::from_bytes([0x66; 32]);
    const NAME: Name = Name { run: 7, first: 1, kept: false };

    /// One that looks at nothing but bytes.
    fn detached() -> Archive {
        let (key, entropy) = (SECRET.derive(Label::CommitArchive, b""), Arc::new(SeededEntropy::new(5)));
        Archive { dir: PathBuf::new(), key, entropy, segment_bytes: SEGMENT_BYTES, state: Mutex::default() }
    }

    pub(crate) fn segment(records: &[(u64, Vec<u8>)]) -> Vec<u8> {
        let (archive, mut bytes) = (detached(), NAME.header().to_vec());
        records.iter().for_each(|(arrival, commit)| archive.put_record(&mut bytes, NAME.run, *arrival, commit));
        bytes
    }

    pub(crate) fn pieces(segment: &[u8]) -> (Vec<(u64, Vec<u8>)>, usize) {
        let (mut records, mut damaged) = (Vec::new(), 0);
        detached().pieces(&NAME, segment, |at, piece| match piece {
            Piece::Record { arrival, commit } => records.push((arrival, encode(&*commit))),
            Piece::Damage => damaged += at.len(),
        });
        (records, damaged)
    }

    /// The records of a segment, written anew.
    pub(crate) fn recode(bytes: &[u8]) -> Result<Vec<u8>> {
        let (records, damaged) = pieces(bytes);
        if damaged > 0 {
            return Err(Error::damaged(format!("{} records are whole, {damaged} bytes are not", records.len())));
        }
        if !records.is_sorted_by(|a, b| a.0 < b.0) {
            return Err(Error::damaged("the records are out of order"));
        }
        Ok(segment(&records))
    }

    pub(crate) fn open(dir: &Path, last: u64) -> Result<u64> {
        let archive = Arc::new(Archive::open(dir, &SECRET, Arc::new(SeededEntropy::new(5)))?);
        let store = SealedStore::new(Arc::new(MemoryStore::new()), &SECRET, Arc::new(SeededEntropy::new(5)));
        put_run(&store, NAME.run)?;
        attach(Some(&archive), &store, last)?;
        Ok(archive.end())
    }
}
