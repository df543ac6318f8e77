//! Append-only pack files: the block store on disk.
//!
//! A pack is a header (`magic 8 ‖ version u32 ‖ number u32`) and records (`magic u32 ‖ length u32 ‖ name 32 ‖ bytes`),
//! integers little-endian. Where a block lies is a row of the sealed store, and so are its first bytes: they
//! hold key id and salt, which the tags of all its pages depend on. So a block that was moved or exchanged on the
//! disk doesn't open, and reading needs no hash.
//!
//! Invariants:
//! - Records are written in order, under one lock (the kernel serialises writers of one file anyway): after the
//!   death of the process all but the last are whole. Rows follow their records.
//! - A pack that a crash may have shortened is never appended to again, and numbers are never used twice. So a row that outlived
//!   its record points past the end of its pack, and is dropped when it is met.
//! - `(synced pack, synced end)` in [`Space::Meta`] is a point up to which all packs are known to be on the disk. What
//!   lies behind it is checked by hash when the store is opened after a crash.

mod format;
mod holes;
mod recovery;

use std::{
    fs::{self, File, OpenOptions},
    io::{self, IoSlice},
    num::{NonZeroU64, NonZeroUsize},
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use lru::LruCache;
use parking_lot::Mutex;
use rustix::io::Errno;

use crate::{
    content::{BlockHash, BlockHead, BlockStore},
    error::{Error, Result},
    sealed_store::SealedStore,
    store::{Batch, Space, prefix_end},
};

use format::{PACK_HEADER, Place, RECORD_HEADER, RECORD_MAX, SyncPoint};
pub use recovery::Recovery;

/// A pack that has this many bytes is followed by the next.
const PACK_BYTES: u64 = 256 << 20;
/// Rows kept in memory (about 130 bytes each).
const INDEX_ROWS: usize = 48 << 10;
/// Packs kept open.
const OPEN_PACKS: usize = 64;
/// Writing out to the disk begins each time this much was appended, so that a sync has little left to do.
const WRITE_OUT_BYTES: u64 = 8 << 20;
/// Pages of the kernel's cache, or a multiple of them.
const PAGE: u64 = 64 << 10;
/// The synced point is recorded each time it moved this far: what lies behind is checked again after a crash.
const RECORD_SYNC_BYTES: u64 = 4 << 20;
/// Key in [`Space::Meta`], before the hash, of the row of a block that was put aside.
const ASIDE: &[u8] = b"aside/";
/// Shorter pieces of a block make no run: who reads here and there comes again.
const RUN_PART: usize = 32 << 10;
/// The kernel is told to forget pages in parts of so much, aligned to it: it keeps each of its larger pages that a range cuts.
const PART: u64 = 4 << 20;
/// Parts of packs in which it is followed what was read.
const PARTS: usize = 8;
/// Of the 64 pieces of a part, those that may seem not to have been read: list nodes and headers lie between blocks.
const UNREAD: u32 = 2;
/// Blocks written with one system call.
const GROUP: usize = 256;

/// The rows of the packs, decoded and encoded again.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn recode_row(row: &[u8]) -> Result<Vec<u8>> {
    Ok(Place::decode(row)?.encode().to_vec())
}

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn recode_point(row: &[u8]) -> Result<Vec<u8>> {
    Ok(SyncPoint::decode(row)?.encode().to_vec())
}

/// A directory of pack files with its index in the sealed store.
pub struct Packs {
    dir: PathBuf,
    store: SealedStore,
    pack_bytes: u64,
    /// Packs from this number on are written by this process, so their rows need no check.
    first_own: u32,
    recovery: Recovery,
    lacks_synced: bool,
    rows: Mutex<LruCache<BlockHash, Place>>,
    /// How often blocks were removed.
    removals: AtomicU64,
    files: Mutex<LruCache<u32, Arc<Pack>>>,
    reading: Mutex<Reading>,
    /// The pack continued from the time before, if it was closed in order.
    continued: Option<u32>,
    // Locks, in the order in which they may be taken while another is held.
    sync_turn: Mutex<()>,
    tail: Mutex<Tail>,
    synced: Mutex<Synced>,
}

/// An open pack file.
struct Pack {
    number: u32,
    file: File,
    /// Its length when it was opened.
    len: u64,
}

/// The parts of packs read last: what was wholly read is forgotten as soon as reading goes on in others.
#[derive(Default)]
struct Reading {
    /// The one read last at the end: which part of which pack, and which pieces of it were read.
    parts: Vec<(u32, u64, u64)>,
}

impl Reading {
    /// Notes that bytes of a pack were read; which ones the kernel may forget now.
    ///
    /// Several threads and peers read side by side, and blocks lie in the order in which they came: so the order of
    /// reads says nothing, only what was read of a part before it is left for others.
    fn read(&mut self, pack: u32, from: u64, to: u64) -> Option<(u32, Range<u64>)> {
        const PIECE: u64 = PART / 64;
        let mut past = None;
        // A piece was read by whoever read its middle.
        let pieces = (from + PIECE / 2) / PIECE..(to + PIECE / 2) / PIECE;
        for piece in pieces {
            let (part, bit) = (piece / 64, 1 << (piece % 64));
            match self.parts.iter().rposition(|known| (known.0, known.1) == (pack, part)) {
                Some(at) => {
                    self.parts[at].2 |= bit;
                    let last = self.parts.len() - 1;
                    self.parts[at..].rotate_left(usize::from(at < last));
                }
                None => {
                    if self.parts.len() == PARTS {
                        let (pack, part, read) = self.parts.remove(0);
                        if read.count_zeros() <= UNREAD {
                            past = Some((pack, part * PART..(part + 1) * PART));
                        }
                    }
                    self.parts.push((pack, part, bit));
                }
            }
        }
        past
    }
}

/// The end at which blocks are appended.
struct Tail {
    /// The pack being written; none yet when nothing was put since opening.
    pack: Option<Arc<Pack>>,
    end: u64,
    next_number: u32,
    /// Packs written since the last sync, but for `pack`, and where they end.
    unsynced: Vec<(Arc<Pack>, u64)>,
    /// Whether the directory has entries that weren't synced.
    new_entries: bool,
    /// Up to where writing out was begun.
    written_out: u64,
    /// Appends so far.
    appends: u64,
}

/// What the last sync reached.
struct Synced {
    appends: u64,
    point: SyncPoint,
    /// The point as the store has it.
    recorded: Option<SyncPoint>,
    /// A sync failed: the kernel may have dropped what it couldn't write, and a second try would hide that.
    failed: bool,
}

impl Packs {
    /// Opens the packs in `dir`, making it when it isn't there, and checks what a crash may have damaged.
    ///
    /// # Errors
    /// The disk fails, or a pack is of a newer version of the format.
    pub fn open(dir: &Path, store: &SealedStore) -> Result<Self> {
        Self::open_with(dir, store, PACK_BYTES)
    }

    fn open_with(dir: &Path, store: &SealedStore, pack_bytes: u64) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let opened = recovery::recover(dir, store)?;
        let point = opened.point;
        let mut packs = Self {
            dir: dir.to_owned(),
            store: store.clone(),
            pack_bytes,
            first_own: opened.next_number,
            recovery: opened.recovery,
            lacks_synced: opened.lacks_synced,
            removals: AtomicU64::new(0),
            rows: Mutex::new(LruCache::new(NonZeroUsize::new(INDEX_ROWS).expect("a positive constant"))),
            files: Mutex::new(LruCache::new(NonZeroUsize::new(OPEN_PACKS).expect("a positive constant"))),
            reading: Mutex::default(),
            tail: Mutex::new(Tail {
                end: 0,
                written_out: 0,
                pack: None,
                next_number: opened.next_number,
                unsynced: Vec::new(),
                new_entries: false,
                appends: 0,
            }),
            continued: opened.append_to,
            sync_turn: Mutex::new(()),
            synced: Mutex::new(Synced { appends: 0, point, recorded: opened.recorded, failed: false }),
        };
        packs.forget_holes(opened.checked_from)?;
        if let Some(number) = opened.append_to {
            // Closed in order: every row that points into this pack was made before its end was recorded.
            let pack = packs.pack(number)?.ok_or_else(|| Error::damaged(format!("pack {number:08x} went away")))?;
            let tail = packs.tail.get_mut();
            (tail.end, tail.written_out) = (pack.len, pack.len);
            tail.pack = Some(pack);
        }
        Ok(packs)
    }

    /// What opening found after a crash.
    pub fn recovery(&self) -> Recovery {
        self.recovery
    }

    /// Whether opening found less than the store knows to have been synced: an older copy of the packs, or damage.
    pub fn lacks_synced(&self) -> bool {
        self.lacks_synced
    }

    /// Syncs and records that nothing is left to check. The next append takes that back.
    pub fn close(&self) -> Result<()> {
        self.sync()?;
        let tail = self.tail.lock();
        let synced = &mut *self.synced.lock();
        if tail.pack.is_some() && tail.appends == synced.appends {
            synced.point.closed = true;
            self.record(synced)?;
        }
        Ok(())
    }

    fn record(&self, synced: &mut Synced) -> Result<()> {
        if synced.recorded != Some(synced.point) {
            let mut batch = Batch::new();
            self.store.put(&mut batch, Space::Meta, SyncPoint::KEY, &synced.point.encode());
            self.store.apply(batch)?;
            synced.recorded = Some(synced.point);
        }
        Ok(())
    }

    /// The pack with this number, if there is one.
    fn pack(&self, number: u32) -> Result<Option<Arc<Pack>>> {
        let mut files = self.files.lock();
        if let Some(pack) = files.get(&number) {
            return Ok(Some(pack.clone()));
        }
        let path = format::path(&self.dir, number);
        let file = match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let len = file.metadata()?.len();
        let pack = Arc::new(Pack { number, file, len });
        files.put(number, pack.clone());
        Ok(Some(pack))
    }

    /// Where a block lies; nowhere if its row outlived its record.
    fn place(&self, hash: &BlockHash) -> Result<Option<Place>> {
        if let Some(place) = self.rows.lock().get(hash) {
            return Ok(Some(*place));
        }
        let removals = self.removals.load(Ordering::Acquire);
        let Some(row) = self.store.get(Space::Blocks, hash.as_bytes())? else {
            return Ok(None);
        };
        let place = Place::decode(&row)?;
        if place.pack < self.first_own
            && Some(place.pack) != self.continued
            && self.pack(place.pack)?.is_none_or(|pack| place.end() > pack.len)
        {
            return Ok(None);
        }
        let mut rows = self.rows.lock();
        // Whoever removes blocks counts that before it forgets their rows.
        if self.removals.load(Ordering::Acquire) == removals {
            rows.put(*hash, place);
        }
        drop(rows);
        Ok(Some(place))
    }

    /// Appends records to the tail, all to one pack; returns its number and the offset of the first record.
    fn append(&self, parts: &mut [IoSlice<'_>], len: u64) -> Result<(u32, u64)> {
        let tail = &mut *self.tail.lock();
        let full = tail.end > PACK_HEADER && tail.end.saturating_add(len) > self.pack_bytes;
        if tail.pack.is_none() || full {
            self.next_pack(tail)?;
        } else {
            let synced = &mut *self.synced.lock();
            if synced.recorded.is_some_and(|point| point.closed) {
                // From now on it may end anywhere.
                synced.point.closed = false;
                self.record(synced)?;
            }
        }
        let pack = tail.pack.as_ref().expect("made above");
        // When this fails, what was written of it lies past the end and is written over by the next append.
        write_all(&pack.file, parts, tail.end).map_err(no_space)?;
        let offset = tail.end;
        tail.end += len;
        tail.appends += 1;
        if tail.end - tail.written_out >= WRITE_OUT_BYTES {
            // Whole pages: the next append must not wait for the last one's way to the disk.
            let end = tail.end / PAGE * PAGE;
            write_out(&pack.file, tail.written_out, end);
            tail.written_out = end;
        }
        Ok((pack.number, offset))
    }

    /// Starts the next pack.
    fn next_pack(&self, tail: &mut Tail) -> Result<()> {
        let number = tail.next_number;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(format::path(&self.dir, number))
            .map_err(no_space)?;
        file.write_all_at(&format::pack_header(number), 0).map_err(no_space)?;
        // Recorded before any row can point into it, so that this number is never given again.
        let synced = &mut *self.synced.lock();
        synced.point.newest = number;
        synced.point.closed = false;
        self.record(synced)?;
        tail.next_number = number.checked_add(1).ok_or(Error::NoSpace)?;
        let pack = Arc::new(Pack { number, file, len: PACK_HEADER });
        self.files.lock().put(number, pack.clone());
        let end = tail.end;
        tail.unsynced.extend(tail.pack.replace(pack).map(|full| (full, end)));
        tail.new_entries = true;
        (tail.end, tail.written_out) = (PACK_HEADER, PACK_HEADER);
        Ok(())
    }

    /// Writes what the last good sync didn't reach once more: after one that failed, the kernel takes what it couldn't
    /// write for written. What it no longer has is found by hash; then only opening anew helps.
    fn write_again(&self, tail: &Tail) -> Result<()> {
        let point = self.synced.lock().point;
        let newest = tail.pack.iter().map(|pack| (pack, tail.end));
        for (pack, end) in tail.unsynced.iter().map(|(pack, end)| (pack, *end)).chain(newest) {
            let mut at = if pack.number == point.pack { point.end } else { 0 };
            if at < PACK_HEADER {
                pack.file.write_all_at(&format::pack_header(pack.number), 0).map_err(no_space)?;
                at = PACK_HEADER;
            }
            while at < end {
                let lost = || Error::damaged(format!("pack {:08x} after a failed sync", pack.number));
                let mut header = [0; RECORD_HEADER as usize];
                pack.file.read_exact_at(&mut header, at)?;
                let (hash, len) = format::parse_record_header(&header).ok_or_else(lost)?;
                let mut record = vec![0; header.len() + len];
                pack.file.read_exact_at(&mut record, at)?;
                if !format::is_named(&hash, &record[header.len()..]) {
                    return Err(lost());
                }
                pack.file.write_all_at(&record, at).map_err(no_space)?;
                at += record.len() as u64;
            }
        }
        Ok(())
    }

    /// Has the kernel forget blocks that were read one after the other. What a program read lies in the mount's pages as
    /// well, and what a peer was sent will not be sent to it again: memory would fill with second copies.
    fn was_read(&self, place: &Place) {
        let past = self.reading.lock().read(place.pack, place.offset, place.end());
        if let Some((number, range)) = past
            && let Ok(Some(pack)) = self.pack(number)
        {
            write_out(&pack.file, range.start, range.end);
        }
    }

    fn put_group(&self, blocks: &[(BlockHash, &[u8])]) -> Result<()> {
        let headers: Vec<_> = blocks.iter().map(|(hash, bytes)| format::record_header(hash, bytes)).collect();
        let mut parts = Vec::with_capacity(2 * blocks.len());
        for (header, (_, bytes)) in headers.iter().zip(blocks) {
            parts.push(IoSlice::new(header));
            parts.push(IoSlice::new(bytes));
        }
        let len = parts.iter().map(|part| part.len() as u64).sum();
        let (pack, mut offset) = self.append(&mut parts, len)?;
        let mut batch = Batch::new();
        let mut places = Vec::with_capacity(blocks.len());
        for (hash, bytes) in blocks {
            let place = Place { pack, offset: offset + RECORD_HEADER, head: BlockHead::of(bytes) };
            self.store.put(&mut batch, Space::Blocks, *hash.as_bytes(), &place.encode());
            places.push((*hash, place));
            offset = place.end();
        }
        self.store.apply(batch).map_err(|error| match error {
            Error::Io(error) => no_space(error),
            other => other,
        })?;
        let mut rows = self.rows.lock();
        for (hash, place) in places {
            rows.put(hash, place);
        }
        Ok(())
    }
}

impl BlockStore for Packs {
    fn head(&self, hash: &BlockHash) -> Result<Option<BlockHead>> {
        Ok(self.place(hash)?.map(|place| place.head))
    }

    fn read(&self, hash: &BlockHash, offset: usize, out: &mut [u8]) -> Result<bool> {
        let Some(place) = self.place(hash)? else {
            return Ok(false);
        };
        if offset.saturating_add(out.len()) > place.head.len {
            return Err(Error::damaged(format!("block {} is shorter than its content says", hash.short())));
        }
        let Some(pack) = self.pack(place.pack)? else {
            return Ok(false);
        };
        pack.file.read_exact_at(out, place.offset + offset as u64).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => Error::damaged(format!("pack {:08x} ends inside a block", place.pack)),
            _ => Error::Io(error),
        })?;
        // The first bytes are taken from the row, whatever the pack says.
        if let Some(known) = place.head.first[..place.head.len.min(place.head.first.len())].get(offset..) {
            let known = &known[..known.len().min(out.len())];
            out[..known.len()].copy_from_slice(known);
        }
        if out.len() >= RUN_PART {
            self.was_read(&place);
        }
        Ok(true)
    }

    fn put_many(&self, blocks: &[(BlockHash, &[u8])]) -> Result<()> {
        for (hash, bytes) in blocks {
            if bytes.is_empty() || bytes.len() > RECORD_MAX || hash.is_hole() {
                return Err(Error::damaged("a block of a length that no block has"));
            }
        }
        blocks.chunks(GROUP).try_for_each(|group| self.put_group(group))
    }

    fn set_aside(&self, hash: &BlockHash) -> Result<()> {
        let mut batch = Batch::new();
        if let Some(row) = self.store.get(Space::Blocks, hash.as_bytes())? {
            self.store.put(&mut batch, Space::Meta, [ASIDE, hash.as_bytes()].concat(), &row);
        }
        batch.remove(Space::Blocks, *hash.as_bytes());
        self.store.apply(batch)?;
        self.rows.lock().pop(hash);
        Ok(())
    }

    fn names(&self, from: &BlockHash, limit: usize) -> Result<Vec<(BlockHash, BlockHead)>> {
        let rows = self.store.scan(Space::Blocks, from.as_bytes(), &[], limit)?;
        let named = |(key, row): (Vec<u8>, Vec<u8>)| {
            let hash =
                BlockHash::try_from(key.as_slice()).map_err(|_| Error::damaged("a name in the index of the packs"))?;
            Ok((hash, Place::decode(&row)?.head))
        };
        rows.into_iter().map(named).collect()
    }

    fn has_aside(&self) -> Result<bool> {
        Ok(!self.store.raw().scan(Space::Meta, ASIDE, &prefix_end(ASIDE), 1)?.is_empty())
    }

    fn remove(&self, hashes: &[BlockHash]) -> Result<()> {
        self.make_holes(hashes)
    }

    fn give_back(&self, pace: &mut dyn FnMut() -> bool) -> Result<()> {
        self.punch_holes(pace)
    }

    fn reconsider(&self) -> Result<u64> {
        let mut back = 0;
        for (key, row) in self.store.scan(Space::Meta, ASIDE, &prefix_end(ASIDE), usize::MAX)? {
            let mut batch = Batch::new();
            let Some(hash) = key.get(ASIDE.len()..).and_then(|bytes| BlockHash::try_from(bytes).ok()) else { continue };
            if self.store.get(Space::Blocks, hash.as_bytes())?.is_none() {
                let place = Place::decode(&row)?;
                let mut bytes = vec![0; place.head.len];
                let whole = self.pack(place.pack)?.is_some_and(|pack| {
                    pack.file.read_exact_at(&mut bytes, place.offset).is_ok() && format::is_named(&hash, &bytes)
                });
                if !whole {
                    continue;
                }
                self.store.put(&mut batch, Space::Blocks, *hash.as_bytes(), &row);
                back += 1;
            }
            batch.remove(Space::Meta, key);
            self.store.apply(batch)?;
        }
        Ok(back)
    }

    fn sync(&self) -> Result<()> {
        let wanted = self.tail.lock().appends;
        // Who waits here finds, more often than not, that the one before has synced for both.
        let _turn = self.sync_turn.lock();
        if self.synced.lock().appends >= wanted {
            return Ok(());
        }
        let mut tail = self.tail.lock();
        if self.synced.lock().failed {
            self.write_again(&tail)?;
            self.synced.lock().failed = false;
        }
        let Some(pack) = tail.pack.clone() else {
            return Ok(());
        };
        let (end, appends) = (tail.end, tail.appends);
        let older = tail.unsynced.clone();
        let new_entries = std::mem::take(&mut tail.new_entries);
        tail.written_out = end;
        drop(tail);

        let mut files = older.iter().map(|(older, _)| older).chain([&pack]);
        let mut outcome = files.try_for_each(|pack| pack.file.sync_data());
        if outcome.is_ok() && new_entries {
            outcome = File::open(&self.dir).and_then(|dir| dir.sync_all());
        }
        if let Err(error) = outcome {
            self.synced.lock().failed = true;
            self.tail.lock().new_entries |= new_entries;
            return Err(error.into());
        }
        self.tail.lock().unsynced.retain(|(pack, _)| older.iter().all(|(older, _)| older.number != pack.number));
        let synced = &mut *self.synced.lock();
        synced.appends = appends;
        (synced.point.pack, synced.point.end) = (pack.number, end);
        let near = |recorded: SyncPoint| recorded.pack == pack.number && end - recorded.end < RECORD_SYNC_BYTES;
        if !synced.recorded.is_some_and(near) {
            self.record(synced)?;
        }
        Ok(())
    }

    /// Where each pack ends that isn't synced: `number u32 ‖ end u64`, little-endian.
    fn unsynced(&self) -> Result<Option<Vec<u8>>> {
        let tail = self.tail.lock();
        let Some(pack) = tail.pack.as_ref().filter(|_| self.synced.lock().appends < tail.appends) else {
            return Ok(None);
        };
        let ends = tail.unsynced.iter().map(|(pack, end)| (pack.number, *end)).chain([(pack.number, tail.end)]);
        Ok(Some(ends.flat_map(|(number, end)| [&number.to_le_bytes()[..], &end.to_le_bytes()].concat()).collect()))
    }

    fn are_here(&self, mark: &[u8]) -> Result<bool> {
        let (ends, rest) = mark.as_chunks::<12>();
        if !rest.is_empty() {
            return Err(Error::damaged("a mark of blocks"));
        }
        for end in ends {
            let (number, end) = end.split_first_chunk().ok_or_else(|| Error::damaged("a mark of blocks"))?;
            let end = end.try_into().map(u64::from_le_bytes).map_err(|_| Error::damaged("a mark of blocks"))?;
            // Opening has cut every pack at the first record that isn't whole.
            let len = self.pack(u32::from_le_bytes(*number))?.map_or(0, |pack| pack.len);
            if len < end {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Writes all parts from `offset` on.
fn write_all(file: &File, mut parts: &mut [IoSlice<'_>], mut offset: u64) -> io::Result<()> {
    while !parts.is_empty() {
        match rustix::io::pwritev(file, parts, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                offset += written as u64;
                IoSlice::advance_slices(&mut parts, written);
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Has the kernel begin to write out a range of a file; only a hint.
fn write_out(file: &File, start: u64, end: u64) {
    // "Won't need" begins the writing and drops only pages that are clean already; these are not.
    let _ = rustix::fs::fadvise(file, start, NonZeroU64::new(end - start), rustix::fs::Advice::DontNeed);
}

/// Tells a full disk (or quota) from a failing one.
fn no_space(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::NoSpace,
        _ => Error::Io(error),
    }
}

#[cfg(test)]
mod tests;
