//! Opening packs: finding out what a crash left of those that were being written.

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::Path,
};

use crate::{
    content::{BlockHash, BlockHead},
    error::Result,
    sealed_store::SealedStore,
    store::{Batch, Space},
};

use super::format::{self, PACK_HEADER, Place, RECORD_HEADER, SyncPoint};

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
    // then is no torn end, and whole blocks may follow: nothing is cut off.
    let keep = known.is_none();
    let mut point = known.unwrap_or_default();
    let newest = numbers.last().copied().max(known.map(|point| point.newest));
    let next_number = newest.map_or(0, |newest| newest.saturating_add(1));
    if point.closed {
        let newest = point.newest;
        let len = fs::metadata(format::path(dir, newest)).map_or(0, |meta| meta.len());
        if len == point.end && point.pack == newest && numbers.last() == Some(&newest) {
            let recovery = Recovery::default();
            return Ok(Opened { recovery, point, recorded: known, next_number, append_to: Some(newest) });
        }
    }
    let mut recovery = Recovery::default();
    for &number in numbers.range(point.pack..) {
        let from = if number == point.pack { point.end } else { 0 };
        let end = check_pack(dir, number, from.max(PACK_HEADER), keep, store, &mut recovery)?;
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
    Ok(Opened { recovery, point, recorded, next_number, append_to: None })
}

/// Checks the records of a pack from `from` on, cuts off what is no record, syncs what remains; returns where it ends.
/// To `keep` all, what is no record is passed over instead.
fn check_pack(
    dir: &Path,
    number: u32,
    from: u64,
    keep: bool,
    store: &SealedStore,
    recovery: &mut Recovery,
) -> Result<u64> {
    let path = format::path(dir, number);
    let file = OpenOptions::new().read(true).write(true).open(&path)?;
    let len = file.metadata()?.len();
    let mut header = [0; PACK_HEADER as usize];
    let whole = read_at(&file, &mut header, 0)? && format::check_pack_header(&header, number)?;
    if !whole && !keep {
        // Made just before power went; no record in it was ever acknowledged.
        recovery.cut += len;
        drop(file);
        fs::remove_file(&path)?;
        return Ok(0);
    }
    let mut end = from.min(len);
    let mut bytes = Vec::new();
    let mut batch = Batch::new();
    loop {
        let Some(hash) = whole_record(&file, end, &mut bytes)? else {
            match if keep { next_record(&file, end + 1, &mut bytes)? } else { None } {
                Some(next) => end = next,
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
    if keep {
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
