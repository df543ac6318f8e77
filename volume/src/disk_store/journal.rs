//! A look at the store's journals before the store opens them.
//!
//! The library below takes the first entry that it can't decode for the end of a journal, wherever it stands, and cuts
//! the rest off: right after a crash, but on a bit that flipped it would silently forget all that was written after
//! it. So the first batch after each sync tells what that sync reached ([`SYNCED`]): a broken batch before that, with a
//! whole one behind it, is damage. Behind it power loss leaves any batch broken and any whole, and the store is cut at the
//! first broken one (`tail`).
//!
//! A journal (fjall 3) is batches: `1 ‖ items u32 ‖ sequence number u64`, the items, `3 ‖ checksum u64 ‖ "FJL" 3`. An item is
//! `2 ‖ type ‖ compression (none: 0) ‖ key space u64 ‖ key length u16 ‖ value length u32 ‖ stored length u32 ‖ key ‖ value`, or
//! `4 ‖ key space u64`; integers are little-endian, the checksum is XXH3 over the items. A file ends with the last batch, or with zeros.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom, Write},
    ops::Range,
    path::{Path, PathBuf},
};

use xxhash_rust::xxh3::Xxh3;

use super::tail;

/// The key, in `index`, whose value is the number (or a little less) of a batch that is on the disk with all before it.
pub(super) const SYNCED: &[u8] = b"synced";
const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;
const MAGIC: &[u8] = b"FJL\x03";
const START_LEN: usize = 13;
const ITEM_HEAD: usize = 21;
const END_LEN: usize = 13;
/// What is read at a time.
const WINDOW: usize = 1 << 20;
/// No batch is longer.
const BATCH_MAX: usize = 64 << 20;

/// The journals in a store's directory.
fn journals(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    match fs::read_dir(dir) {
        Ok(entries) => {
            for entry in entries {
                let path = entry?.path();
                if path.extension().is_some_and(|extension| extension == "jnl") {
                    found.push(path);
                }
            }
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    found.sort();
    Ok(found)
}

/// Checks the journals in `dir`.
///
/// # Errors
/// `InvalidData` when one is damaged, or the disk fails.
pub(super) fn check(dir: &Path) -> io::Result<()> {
    for (path, damaged) in looked_at(dir)? {
        if let Some(at) = damaged.first() {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let text = format!("the store's journal {name} is damaged at byte {}", at.start);
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
    }
    Ok(())
}

/// Takes what is damaged out of the journals in `dir`; those they were are kept in `kept`. Returns how many places that
/// were: what stood there is lost, and the store may contradict itself.
///
/// # Errors
/// The disk fails.
pub(super) fn mend(dir: &Path, kept: &Path) -> io::Result<usize> {
    let mut places = 0;
    for (path, damaged) in looked_at(dir)? {
        if damaged.is_empty() {
            continue;
        }
        places += damaged.len();
        fs::create_dir_all(kept)?;
        fs::copy(&path, kept.join(path.file_name().unwrap_or_default()))?;
        let (mut from, mended) = (File::open(&path)?, path.with_extension("mended"));
        let mut to = File::create(&mended)?;
        let mut at = 0;
        for gap in damaged {
            from.seek(SeekFrom::Start(at))?;
            io::copy(&mut (&mut from).take(gap.start - at), &mut to)?;
            at = gap.end;
        }
        from.seek(SeekFrom::Start(at))?;
        io::copy(&mut from, &mut to)?;
        to.flush()?;
        to.sync_all()?;
        fs::rename(&mended, &path)?;
        File::open(dir)?.sync_all()?;
    }
    Ok(places)
}

/// The journals with their damaged places.
fn looked_at(dir: &Path) -> io::Result<Vec<(PathBuf, Vec<Range<u64>>)>> {
    let looks: Vec<(PathBuf, Look)> =
        journals(dir)?.into_iter().map(|path| Ok((path.clone(), look(&path)?))).collect::<io::Result<_>>()?;
    let synced = looks.iter().map(|(_, look)| look.synced).max().unwrap_or(0);
    Ok(looks.into_iter().map(|(path, look)| (path, look.damaged(synced))).collect())
}

/// What reading a journal once has shown.
#[derive(Default)]
struct Look {
    /// The newest batch that it tells to be on the disk.
    synced: u64,
    /// What lies between whole batches and is none, with the number of the batch before.
    gaps: Vec<(Range<u64>, Option<u64>)>,
    /// From there to the end of a whole batch that has the wrong number, behind the last one with a right one.
    odd: Option<Range<u64>>,
}

impl Look {
    /// The damaged places: between whole batches, before the batch `synced`. What follows the last whole one, or that batch,
    /// is no damage.
    fn damaged(self, synced: u64) -> Vec<Range<u64>> {
        let before = |newest: Option<u64>| newest.is_none_or(|newest| newest < synced);
        let all = self.gaps.iter().all(|(_, newest)| before(*newest));
        let gaps = self.gaps.into_iter().take_while(|(_, newest)| before(*newest)).map(|(gap, _)| gap);
        gaps.chain(self.odd.filter(|_| all)).collect()
    }
}

fn look(path: &Path) -> io::Result<Look> {
    let mut reader = Window::open(path)?;
    let mut found = Look::default();
    let mut bad: Option<u64> = None;
    let mut newest = None;
    // Where a whole batch ends that has the wrong number.
    let mut odd: Option<u64> = None;
    while reader.fill(START_LEN)? {
        let at = reader.at;
        let batch = reader.batch()?;
        found.synced = found.synced.max(reader.synced);
        match batch {
            Some((len, number)) if newest.is_none_or(|newest| follows(newest, number)) => {
                found.gaps.extend(bad.take().map(|start| (start..at, newest)));
                newest = Some(number);
                odd = None;
                reader.skip(len);
            }
            _ => {
                bad.get_or_insert(at);
                if let Some((len, _)) = batch {
                    odd = Some(at + len as u64);
                    reader.skip(len);
                } else {
                    reader.skip_to_start();
                }
            }
        }
    }
    found.odd = bad.zip(odd).map(|(start, end)| start..end);
    Ok(found)
}

/// Whether the batch of this number may come after that of number `newest`: numbers rise, by little.
fn follows(newest: u64, number: u64) -> bool {
    number > newest && number - newest < 1 << 32
}

/// A part of a file in memory.
struct Window {
    file: io::Take<File>,
    bytes: Vec<u8>,
    /// Read so far of `bytes`.
    start: usize,
    /// Offset of `bytes[start]` in the file.
    at: u64,
    ended: bool,
    /// What the batch looked at last tells to be on the disk; 0 if it was none.
    synced: u64,
}

impl Window {
    fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        // fjall makes its journals as one hole of many megabytes.
        let written = tail::written(&file)?;
        Ok(Self { file: file.take(written), bytes: Vec::new(), start: 0, at: 0, ended: false, synced: 0 })
    }

    /// Makes sure of `len` more bytes; false when the file ends before.
    fn fill(&mut self, len: usize) -> io::Result<bool> {
        while self.bytes.len() - self.start < len && !self.ended {
            self.bytes.drain(..self.start);
            self.start = 0;
            let had = self.bytes.len();
            (&mut self.file).take(WINDOW.max(len - had) as u64).read_to_end(&mut self.bytes)?;
            self.ended = self.bytes.len() == had;
        }
        Ok(self.bytes.len() - self.start >= len)
    }

    fn skip(&mut self, len: usize) {
        self.start += len;
        self.at += len as u64;
    }

    /// Goes to the next byte that a batch may begin with.
    fn skip_to_start(&mut self) {
        let rest = &self.bytes[self.start + 1..];
        let next = rest.iter().position(|byte| *byte == START).unwrap_or(rest.len());
        self.skip(next + 1);
    }

    fn int<const N: usize>(&self, at: usize) -> [u8; N] {
        let start = self.start + at;
        self.bytes[start..start + N].try_into().expect("the range has this length")
    }

    /// Length and sequence number of the whole batch that begins here, if one does.
    fn batch(&mut self) -> io::Result<Option<(usize, u64)>> {
        self.synced = 0;
        if self.bytes[self.start] != START {
            return Ok(None);
        }
        let (items, number) = (u32::from_le_bytes(self.int(1)), u64::from_le_bytes(self.int(5)));
        let mut checksum = Xxh3::new();
        let mut len = START_LEN;
        let mut synced = 0;
        for _ in 0..items {
            if !self.fill(len + 9)? {
                return Ok(None);
            }
            let kind = self.bytes[self.start + len];
            let item = match kind {
                CLEAR => 9,
                ITEM => {
                    if !self.fill(len + ITEM_HEAD)? {
                        return Ok(None);
                    }
                    let key = u16::from_le_bytes(self.int(len + 11)) as usize;
                    let value = u32::from_le_bytes(self.int(len + 13));
                    let stored = u32::from_le_bytes(self.int(len + 17));
                    if self.bytes[self.start + len + 2] != 0 || value != stored {
                        return Ok(None);
                    }
                    ITEM_HEAD + key + stored as usize
                }
                _ => return Ok(None),
            };
            if len + item > BATCH_MAX || !self.fill(len + item)? {
                return Ok(None);
            }
            let bytes = &self.bytes[self.start + len..self.start + len + item];
            if kind == ITEM
                && let Some(value) = bytes[ITEM_HEAD..].strip_prefix(SYNCED)
                && let Ok(value) = value.try_into()
            {
                synced = u64::from_le_bytes(value);
            }
            checksum.update(bytes);
            len += item;
        }
        if !self.fill(len + END_LEN)? || self.bytes[self.start + len] != END {
            return Ok(None);
        }
        let end = self.start + len;
        let whole =
            u64::from_le_bytes(self.int(len + 1)) == checksum.digest() && self.bytes[end + 9..].starts_with(MAGIC);
        if whole {
            self.synced = synced;
        }
        Ok((whole && items > 0).then_some((len + END_LEN, number)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        disk_store::DiskStore,
        store::{Batch, Space, Store},
    };

    /// A store of many batches, not closed in order but for its process's end.
    fn store(dir: &Path, batches: u32) {
        let store = DiskStore::open(dir).unwrap();
        for number in 0..batches {
            let mut batch = Batch::new();
            for item in 0..number % 4 + 1 {
                batch.put(Space::Nodes, [number.to_be_bytes(), item.to_be_bytes()].concat(), vec![number as u8; 300]);
            }
            if number % 7 == 0 {
                batch.remove(Space::Ids, number.to_be_bytes());
            }
            store.apply(batch).unwrap();
            store.sync().unwrap();
        }
    }

    fn journal(dir: &Path) -> PathBuf {
        let found = journals(dir).unwrap();
        assert_eq!(found.len(), 1);
        found[0].clone()
    }

    fn count(dir: &Path) -> usize {
        DiskStore::open(dir).unwrap().scan(Space::Nodes, &[], &[], 10_000).unwrap().len()
    }

    #[test]
    fn what_the_library_writes_is_whole_however_it_ends() {
        let folder = tempfile::tempdir().unwrap();
        store(folder.path(), 200);
        let path = journal(folder.path());
        let whole = fs::read(&path).unwrap();
        assert!(look(&path).unwrap().damaged(u64::MAX).is_empty());
        // Torn anywhere, or filled up with zeros: no damage.
        for cut in (0..whole.len()).step_by(whole.len() / 7) {
            fs::write(&path, &whole[..cut]).unwrap();
            assert!(look(&path).unwrap().damaged(u64::MAX).is_empty(), "cut at {cut}");
            let padded = [&whole[..cut], &vec![0; 4096]].concat();
            fs::write(&path, &padded).unwrap();
            assert!(look(&path).unwrap().damaged(u64::MAX).is_empty(), "cut and padded at {cut}");
        }
    }

    #[test]
    fn large_values_are_as_whole_as_small_ones() {
        let folder = tempfile::tempdir().unwrap();
        {
            let store = DiskStore::open(folder.path()).unwrap();
            for len in [0, 4095, 4096, 5000, 70_000, 2_000_000] {
                let mut batch = Batch::new();
                batch.put(Space::Changes, [1], vec![7; len]);
                store.apply(batch).unwrap();
            }
        }
        assert!(look(&journal(folder.path())).unwrap().damaged(u64::MAX).is_empty());
    }

    #[test]
    fn every_flipped_bit_but_at_the_end_is_found_and_costs_one_batch() {
        let folder = tempfile::tempdir().unwrap();
        store(folder.path(), 60);
        let all = count(folder.path());
        let path = journal(folder.path());
        let whole = fs::read(&path).unwrap();
        let used = whole.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        // The last batches can't be told from torn ones.
        for at in (0..used - 3000).step_by(61) {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << (at % 8);
            fs::write(&path, &flipped).unwrap();
            let Err(e) = DiskStore::open(folder.path()) else { panic!("the flip at {at} is not found") };
            assert_eq!(e.kind(), io::ErrorKind::InvalidData, "{e}");
            assert_eq!(fs::read(&path).unwrap().len(), whole.len(), "nothing is cut off");
        }
        let kept = folder.path().join("kept");
        assert_eq!(mend(folder.path(), &kept).unwrap(), 1);
        assert!(journals(&kept).unwrap().len() == 1);
        let left = count(folder.path());
        assert!(left < all && left >= all - 8, "{left} of {all}");
    }

    /// Power loss may leave the middle of what wasn't synced unwritten: that is cut off, and no damage.
    #[test]
    fn a_hole_behind_the_last_sync_is_none_and_before_it_is_one() {
        let folder = tempfile::tempdir().unwrap();
        store(folder.path(), 30);
        let synced = fs::read(journal(folder.path())).unwrap().iter().rposition(|byte| *byte != 0).unwrap() + 1;
        {
            let store = DiskStore::open(folder.path()).unwrap();
            for number in 1000..1020u32 {
                let mut batch = Batch::new();
                batch.put(Space::Nodes, number.to_be_bytes(), vec![7; 300]);
                store.apply(batch).unwrap();
                if number == 1000 {
                    store.sync().unwrap();
                }
            }
        }
        let path = journal(folder.path());
        let whole = fs::read(&path).unwrap();
        let mut holed = whole.clone();
        holed[synced + 2500..synced + 3012].fill(0);
        fs::write(&path, &holed).unwrap();
        let left = count(folder.path());
        let mut holed = whole;
        holed[synced - 1500..synced - 988].fill(0);
        fs::write(&path, &holed).unwrap();
        assert!(DiskStore::open(folder.path()).is_err());
        assert!(left > 70, "{left}");
    }
}
