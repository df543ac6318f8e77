//! Opening packs: finding out what a crash left of those that were being written.

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io,
    ops::Range,
    os::unix::fs::FileExt,
    path::Path,
};

use crate::{
    content::{BlockHash, BlockHead},
    error::Result,
    sealed_store::SealedStore,
    store::{Batch, Space},
    undo,
};

use super::{
    ASIDE,
    format::{self, PACK_HEADER, Place, RECORD_HEADER, SyncPoint},
};

/// Bytes in which the next record is looked for at a time.
const SEARCH: usize = 1 << 20;
/// Rows written in one batch while recovering.
const BATCH_ROWS: usize = 1024;

/// What opening the packs found after a crash; all zero when they were closed in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Blocks past the synced point that were checked and are whole.
    pub checked: u64,
    /// Blocks among them whose index rows were lost and are there again.
    pub indexed: u64,
    /// Bytes at the ends of packs that were no whole records and were cut off.
    pub cut: u64,
}

/// What the packs go on from.
pub(super) struct Opened {
    pub(super) recovery: Recovery,
    pub(super) point: SyncPoint,
    /// The point as the store has it now.
    pub(super) recorded: Option<SyncPoint>,
    pub(super) next_number: u32,
    /// The pack to append to: the newest, if it was closed in order.
    pub(super) append_to: Option<u32>,
    /// Not all is there that the store knows to have been synced.
    pub(super) lacks_synced: bool,
    /// Pack and offset from which on records were checked.
    pub(super) checked_from: (u32, u64),
}

/// What is done where a pack holds no whole record.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Broken {
    /// It is passed over.
    Pass,
    /// It is passed over if whole records follow, and cut off at the end.
    PassIfMoreFollows,
    /// It is cut off with all that follows: contents may need what stood there, and are taken back.
    Cut,
}

pub(super) fn recover(dir: &Path, store: &SealedStore) -> Result<Opened> {
    let mut numbers = BTreeSet::new();
    for entry in fs::read_dir(dir)? {
        numbers.extend(entry?.file_name().to_str().and_then(format::number));
    }
    let known = match store.get(Space::Meta, SyncPoint::KEY)? {
        Some(row) => Some(SyncPoint::decode(&row)?),
        None => None,
    };
    // Without a point (the store is new, or was lost) everything is checked, and gets its rows again. What is damaged
    // then is no torn end, and whole blocks may follow: nothing is cut off. Nor is it where no content needs blocks that
    // were not synced: a block that broke must not take those behind it along.
    let broken = match known {
        _ if undo::is_needed(store)? => Broken::Cut,
        None => Broken::Pass,
        Some(_) => Broken::PassIfMoreFollows,
    };
    let mut point = known.unwrap_or_default();
    let checked_from = (point.pack, point.end);
    let synced = fs::metadata(format::path(dir, point.pack)).map_or(0, |meta| meta.len());
    let lacks_synced = synced < point.end;
    if lacks_synced {
        log::warn!("the packs lack blocks that were synced: an older copy of them, or damage");
    }
    let newest = numbers.last().copied().max(known.map(|point| point.newest));
    let next_number = newest.map_or(0, |newest| newest.saturating_add(1));
    if point.closed {
        let newest = point.newest;
        let len = fs::metadata(format::path(dir, newest)).map_or(0, |meta| meta.len());
        if len == point.end && point.pack == newest && numbers.last() == Some(&newest) {
            let recovery = Recovery::default();
            return Ok(Opened {
                recovery,
                point,
                recorded: known,
                next_number,
                append_to: Some(newest),
                lacks_synced,
                checked_from,
            });
        }
    }
    let mut recovery = Recovery::default();
    for &number in numbers.range(point.pack..) {
        let from = if number == point.pack { point.end } else { 0 };
        let end = check_pack(dir, number, from.max(PACK_HEADER), broken, store, &mut recovery)?;
        if end > PACK_HEADER {
            (point.pack, point.end) = (number, end);
        }
    }
    File::open(dir)?.sync_all()?;
    if recovery != Recovery::default() {
        log::info!(
            "packs: checked {} blocks, indexed {}, cut {} bytes off",
            recovery.checked,
            recovery.indexed,
            recovery.cut
        );
    }
    point.newest = newest.unwrap_or(0);
    point.closed = false;
    let recorded = newest.map(|_| point);
    if recorded.is_some() {
        let mut batch = Batch::new();
        store.put(&mut batch, Space::Meta, SyncPoint::KEY, &point.encode());
        store.apply(batch)?;
    }
    Ok(Opened { recovery, point, recorded, next_number, append_to: None, lacks_synced, checked_from })
}

/// Checks the records of a pack from `from` on, does with what is no record as `broken` says, and syncs; returns where
/// the pack ends.
fn check_pack(
    dir: &Path,
    number: u32,
    from: u64,
    broken: Broken,
    store: &SealedStore,
    recovery: &mut Recovery,
) -> Result<u64> {
    let path = format::path(dir, number);
    let file = OpenOptions::new().read(true).write(true).open(&path)?;
    let len = file.metadata()?.len();
    let mut header = [0; PACK_HEADER as usize];
    let mut bytes = Vec::new();
    let whole = read_at(&file, &mut header, 0)?
        && match format::check_pack_header(&header, number) {
            // One bit from this version, and this version's record behind it: the header is damaged.
            Err(_) if format::is_near(&header) && whole_record(&file, PACK_HEADER, &mut bytes)?.is_some() => false,
            told => told?,
        };
    if !whole {
        let kept = broken == Broken::Pass
            || from > PACK_HEADER
            || broken != Broken::Cut && next_record(&file, PACK_HEADER, &mut bytes)?.is_some();
        if !kept {
            // Made just before power went; no record in it was ever acknowledged.
            recovery.cut += len;
            drop(file);
            fs::remove_file(&path)?;
            return Ok(0);
        }
        if len >= PACK_HEADER {
            file.write_all_at(&format::pack_header(number), 0)?;
        }
    }
    let mut end = from.min(len);
    let mut batch = Batch::new();
    let mut gaps = Vec::new();
    loop {
        let Some(hash) = whole_record(&file, end, &mut bytes)? else {
            match if broken != Broken::Cut { next_record(&file, end + 1, &mut bytes)? } else { None } {
                Some(next) => {
                    gaps.push(end..next);
                    end = next;
                }
                None => break,
            }
            continue;
        };
        let place = Place { pack: number, offset: end + RECORD_HEADER, head: BlockHead::of(&bytes) };
        recovery.checked += 1;
        if store.get(Space::Blocks, hash.as_bytes())?.as_deref() != Some(&place.encode()) {
            recovery.indexed += 1;
            store.put(&mut batch, Space::Blocks, *hash.as_bytes(), &place.encode());
        }
        if batch.writes.len() >= BATCH_ROWS {
            store.apply(std::mem::take(&mut batch))?;
        }
        end = place.end();
    }
    store.apply(batch)?;
    if !gaps.is_empty() {
        set_aside(store, number, &gaps)?;
    }
    if broken == Broken::Pass {
        file.sync_all()?;
        return Ok(len);
    }
    if end < len {
        recovery.cut += len - end;
        file.set_len(end)?;
    }
    file.sync_all()?;
    Ok(end)
}

/// Puts the blocks aside whose rows lead into the gaps of a pack: they count as missing, and are fetched again.
fn set_aside(store: &SealedStore, number: u32, gaps: &[Range<u64>]) -> Result<()> {
    let mut from = Vec::new();
    loop {
        let rows = store.raw().scan(Space::Blocks, &from, &[], BATCH_ROWS)?;
        let Some((last, _)) = rows.last() else { return Ok(()) };
        from = [last.as_slice(), &[0]].concat();
        let mut batch = Batch::new();
        for (hash, sealed) in rows {
            let Ok(row) = store.open(Space::Blocks, &hash, &sealed) else { continue };
            let Ok(place) = Place::decode(&row) else { continue };
            let hit = |gap: &Range<u64>| place.offset < gap.end && gap.start < place.end();
            if place.pack == number && gaps.iter().any(hit) {
                store.put(&mut batch, Space::Meta, [ASIDE, hash.as_slice()].concat(), &row);
                batch.remove(Space::Blocks, hash);
            }
        }
        store.apply(batch)?;
    }
}

/// The name of the record at `offset`, and its bytes, if it is whole.
fn whole_record(file: &File, offset: u64, bytes: &mut Vec<u8>) -> Result<Option<BlockHash>> {
    let mut header = [0; RECORD_HEADER as usize];
    if !read_at(file, &mut header, offset)? {
        return Ok(None);
    }
    let Some((hash, len)) = format::parse_record_header(&header) else { return Ok(None) };
    bytes.resize(len, 0);
    let whole = read_at(file, bytes, offset + RECORD_HEADER)? && format::is_named(&hash, bytes);
    Ok(whole.then_some(hash))
}

/// Where the next whole record begins, from `offset` on.
fn next_record(file: &File, mut offset: u64, bytes: &mut Vec<u8>) -> Result<Option<u64>> {
    let mut window = vec![0; SEARCH];
    loop {
        let read = file.read_at(&mut window, offset)?;
        for at in format::record_starts(&window[..read]) {
            if whole_record(file, offset + at as u64, bytes)?.is_some() {
                return Ok(Some(offset + at as u64));
            }
        }
        if read < 4 {
            return Ok(None);
        }
        // One may begin in the last bytes.
        offset += (read - 3) as u64;
    }
}

/// Fills `out` from `offset`; false when the file ends before.
fn read_at(file: &File, out: &mut [u8], offset: u64) -> io::Result<bool> {
    match file.read_exact_at(out, offset) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}
