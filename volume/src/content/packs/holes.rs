//! Room given back: what was removed of packs becomes holes of their files.
//!
//! The rows of removed blocks go in the batch that notes where they lay; only when that is on the disk, and the packs up
//! to there as well, is anything punched out. So no row ever leads into a hole, and recovery, which reads records behind
//! the synced point, meets none. What a crash leaves noted is punched out later: doing it twice changes nothing.

use std::{fs::File, io, os::unix::fs::FileExt, sync::atomic::Ordering};

use rustix::fs::{FallocateFlags, fallocate};

use super::{
    Packs, Place,
    format::{PACK_HEADER, RECORD_HEADER},
};
use crate::{
    content::{BlockHash, BlockStore},
    error::{Error, Result},
    store::{Batch, Space, prefix_end},
};

/// Key in [`Space::Meta`], before pack and offset, of how many bytes are to be punched out there.
const HOLE: &[u8] = b"hole/";
/// Rows looked at between two pauses.
const STEP: usize = 64;
/// Disks have blocks of at most this many bytes, or a divisor of it; only whole ones are given back.
const DISK_BLOCK: u64 = 4096;

impl Packs {
    pub(super) fn make_holes(&self, hashes: &[BlockHash]) -> Result<()> {
        let mut batch = Batch::new();
        for hash in hashes {
            let Some(row) = self.store.get(Space::Blocks, hash.as_bytes())? else { continue };
            let place = Place::decode(&row)?;
            let (from, len) = (place.offset - RECORD_HEADER.min(place.offset), place.head.len as u64 + RECORD_HEADER);
            let key = [HOLE, &place.pack.to_be_bytes(), &from.to_be_bytes()].concat();
            self.store.put(&mut batch, Space::Meta, key, &len.to_le_bytes());
            batch.remove(Space::Blocks, *hash.as_bytes());
        }
        self.store.apply(batch)?;
        self.removals.fetch_add(1, Ordering::AcqRel);
        let mut rows = self.rows.lock();
        for hash in hashes {
            rows.pop(hash);
        }
        Ok(())
    }

    pub(super) fn punch_holes(&self, pace: &mut dyn FnMut() -> bool) -> Result<()> {
        let to = prefix_end(HOLE);
        if self.store.raw().scan(Space::Meta, HOLE, &to, 1)?.is_empty() {
            return Ok(());
        }
        // What recovery may have to look at ends before what is punched out, and the rows are gone: both on the disk.
        self.sync()?;
        self.record(&mut self.synced.lock())?;
        self.store.sync()?;
        let mut from = HOLE.to_vec();
        let mut hole: Option<(u32, u64, u64)> = None;
        loop {
            let rows = self.store.scan(Space::Meta, &from, &to, STEP)?;
            let Some((last, _)) = rows.last() else { break };
            from = [last.as_slice(), &[0]].concat();
            let mut done = Batch::new();
            for (key, len) in rows {
                let (pack, at, len) = parse(&key, &len)?;
                hole = match hole {
                    Some((before, start, end)) if (before, end) == (pack, at) => Some((pack, start, at + len)),
                    other => {
                        self.punch(other)?;
                        Some((pack, at, at + len))
                    }
                };
                done.remove(Space::Meta, key);
            }
            // (The one that may go on is punched out before its rows go.)
            self.punch(hole)?;
            self.store.apply(done)?;
            if !pace() {
                break;
            }
        }
        Ok(())
    }

    /// Forgets holes that lie behind the point from which on records were checked: these have their rows again.
    pub(super) fn forget_holes(&self, (pack, end): (u32, u64)) -> Result<()> {
        let from = [HOLE, &pack.to_be_bytes(), &end.to_be_bytes()].concat();
        let mut batch = Batch::new();
        for (key, _) in self.store.raw().scan(Space::Meta, &from, &prefix_end(HOLE), usize::MAX)? {
            batch.remove(Space::Meta, key);
        }
        self.store.apply(batch)
    }

    /// Gives the blocks of the disk back that lie wholly in this part of a pack.
    fn punch(&self, hole: Option<(u32, u64, u64)>) -> Result<()> {
        let Some((number, from, to)) = hole else { return Ok(()) };
        let point = self.synced.lock().recorded.unwrap_or_default();
        if from < PACK_HEADER || number > point.pack || (number == point.pack && to > point.end) {
            // Recovery may look there. It stays as it is, and costs what it costs.
            return Ok(());
        }
        let Some(pack) = self.pack(number)? else { return Ok(()) };
        let to = to.min(pack.file.metadata()?.len());
        // What lies next to it and is a hole already, or zeros, goes with it: that changes no byte.
        let start = from / DISK_BLOCK * DISK_BLOCK;
        let end = to.next_multiple_of(DISK_BLOCK);
        let from = if is_zero(&pack.file, start, from)? { start } else { from };
        // Not beyond what is written: something may just be appended there.
        let written = number < point.pack || end <= point.end;
        let to = if written && is_zero(&pack.file, to, end)? { end } else { to };
        if from < to {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            match fallocate(&pack.file, flags, from, to - from) {
                // A disk without holes: the room is used again when the pack goes.
                Err(rustix::io::Errno::OPNOTSUPP) => {}
                done => done.map_err(io::Error::from)?,
            }
        }
        Ok(())
    }
}

fn parse(key: &[u8], len: &[u8]) -> Result<(u32, u64, u64)> {
    let bad = || Error::damaged("where a pack has room");
    let rest = key.strip_prefix(HOLE).ok_or_else(bad)?;
    let (pack, at) = rest.split_first_chunk::<4>().ok_or_else(bad)?;
    let at: [u8; 8] = at.try_into().map_err(|_| bad())?;
    let len: [u8; 8] = len.try_into().map_err(|_| bad())?;
    Ok((u32::from_be_bytes(*pack), u64::from_be_bytes(at), u64::from_le_bytes(len)))
}

/// Whether there are only zeros; past the end of the file as well.
fn is_zero(file: &File, from: u64, to: u64) -> Result<bool> {
    let mut bytes = [0; DISK_BLOCK as usize];
    let bytes = &mut bytes[..to.saturating_sub(from).min(DISK_BLOCK) as usize];
    let mut at = 0;
    while at < bytes.len() {
        match file.read_at(&mut bytes[at..], from + at as u64)? {
            0 => break,
            read => at += read,
        }
    }
    Ok(bytes[..at].iter().all(|byte| *byte == 0))
}
