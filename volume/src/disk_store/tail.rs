//! Cutting fjall's journal at the last batch that is whole and wanted.
//!
//! fjall cuts off an unfinished batch at the end of its journal by itself, but refuses to open one in which a batch is
//! whole and its bytes aren't: that is what power loss leaves when the kernel wrote the end of a batch before its middle.
//! Nothing behind the last sync was promised to be there, and nothing before it can look so, unless the disk is damaged.
//!
//! The format is that of fjall 3 (magic `FJL` 3), little-endian:
//!
//! ```text
//! batch = 1 ‖ items u32 ‖ number u64 ‖ item … ‖ 3 ‖ xxh3 of the items u64 ‖ "FJL" 3
//! item  = 2 ‖ kind u8 ‖ compression u8 ‖ key space u64 ‖ key length u16 ‖ length u32 ‖ stored length u32 ‖ key ‖ value
//!       | 4 ‖ key space u64
//! ```

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufReader, Read},
    path::{Path, PathBuf},
};

use xxhash_rust::xxh3::Xxh3;

pub(super) const MAGIC: [u8; 4] = *b"FJL\x03";
const ITEM_HEAD: usize = 20;
/// No batch of this program's is nearly as long.
const BATCH_MAX: u64 = 1 << 30;

/// The journals, the one that is written to first.
pub(super) fn newest_first(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut journals = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let number =
            path.extension().filter(|e| *e == "jnl").and_then(|_| path.file_stem()?.to_str()?.parse::<u64>().ok());
        journals.extend(number.map(|number| (number, path)));
    }
    journals.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
    Ok(journals.into_iter().map(|(_, path)| path).collect())
}

/// The journal that fjall begins after this one.
pub(super) fn next(journal: &Path) -> io::Result<PathBuf> {
    let number = journal.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
    let next = number.and_then(|number| number.checked_add(1));
    let next = next.ok_or_else(|| io::Error::other("the store's journal has no number"))?;
    Ok(journal.with_file_name(format!("{next}.jnl")))
}

/// How long a file is without the hole at its end, if it ends in one.
pub(super) fn written(file: &File) -> io::Result<u64> {
    use rustix::{fs::SeekFrom, io::Errno};
    let mut at = 0;
    loop {
        // Where the next bytes begin, and where these end.
        match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(data) => at = rustix::fs::seek(file, SeekFrom::Hole(data))?,
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        }
    }
    rustix::fs::seek(file, SeekFrom::Start(0))?;
    Ok(at)
}

/// Cuts the newest journal in `dir` behind its last batch that is whole and numbered below `before`. Returns how many
/// bytes of others were cut off (zeros at its end don't count).
///
/// # Errors
/// The disk fails.
pub(super) fn cut(dir: &Path, before: u64) -> io::Result<u64> {
    let mut cut = 0;
    for path in newest_first(dir)? {
        let (end, bytes) = cut_one(&path, before)?;
        cut += bytes;
        // One that was just begun has nothing in it: the one before may be the one that broke.
        if end > 0 {
            break;
        }
    }
    Ok(cut)
}

/// Writes the newest journals once more, over themselves, and has them on the disk: after a sync that failed the kernel
/// takes what it couldn't write for written. Needs no room, so that a full disk doesn't keep the store closed.
///
/// # Errors
/// The disk fails.
pub(super) fn rewrite(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    let mut bytes = vec![0; 1 << 20];
    for path in newest_first(dir)?.into_iter().take(2) {
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        let mut at = 0;
        loop {
            let read = file.read_at(&mut bytes, at)?;
            if read == 0 {
                break;
            }
            // What was never written stays a hole.
            if bytes[..read].iter().any(|byte| *byte != 0) {
                file.write_all_at(&bytes[..read], at)?;
            }
            at += read as u64;
        }
        file.sync_all()?;
    }
    File::open(dir)?.sync_all()
}

/// Where the journal ends now, and how much was cut off.
fn cut_one(path: &Path, before: u64) -> io::Result<(u64, u64)> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let mut reader = BufReader::with_capacity(1 << 20, &file);
    let mut end = 0;
    while let Some((number, len)) = read_batch(&mut reader)? {
        if number >= before {
            break;
        }
        end += len;
    }
    let cut = last_byte(&file, end)?.saturating_sub(end);
    file.set_len(end)?;
    file.sync_all()?;
    Ok((end, cut))
}

/// Where the last byte that is no zero ends, if that is behind `from`.
fn last_byte(file: &File, from: u64) -> io::Result<u64> {
    use std::os::unix::fs::FileExt;
    let (mut at, mut last) = (from, from);
    let mut bytes = vec![0; 1 << 20];
    loop {
        let read = file.read_at(&mut bytes, at)?;
        if read == 0 {
            return Ok(last);
        }
        if let Some(found) = bytes[..read].iter().rposition(|byte| *byte != 0) {
            last = at + found as u64 + 1;
        }
        at += read as u64;
    }
}

/// Number and length of the next batch; nothing when what follows is none, or isn't whole.
fn read_batch(reader: &mut impl Read) -> io::Result<Option<(u64, u64)>> {
    match try_read_batch(reader) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        read => read,
    }
}

fn try_read_batch(reader: &mut impl Read) -> io::Result<Option<(u64, u64)>> {
    let mut head = [0; 13];
    reader.read_exact(&mut head)?;
    let [1, items @ ..] = head else { return Ok(None) };
    let (items, number) = items.split_at(4);
    let items = u32::from_le_bytes([items[0], items[1], items[2], items[3]]);
    let number = u64::from_le_bytes(std::array::from_fn(|i| number[i]));
    let mut checksum = Xxh3::new();
    let mut len = head.len() as u64;
    let mut bytes = Vec::new();
    for _ in 0..items {
        let mut tag = [0];
        reader.read_exact(&mut tag)?;
        bytes.clear();
        bytes.push(tag[0]);
        let fixed = match tag[0] {
            2 => ITEM_HEAD,
            4 => 8,
            _ => return Ok(None),
        };
        bytes.resize(1 + fixed, 0);
        reader.read_exact(&mut bytes[1..])?;
        if tag[0] == 2 {
            let key = u64::from(u16::from_le_bytes([bytes[11], bytes[12]]));
            let value = u64::from(u32::from_le_bytes(std::array::from_fn(|i| bytes[17 + i])));
            // Lengths that were never written are any.
            let more = key + value;
            if len + more > BATCH_MAX || reader.by_ref().take(more).read_to_end(&mut bytes)? as u64 != more {
                return Ok(None);
            }
        }
        checksum.update(&bytes);
        len += bytes.len() as u64;
    }
    let mut tail = [0; 13];
    reader.read_exact(&mut tail)?;
    let expected = u64::from_le_bytes(std::array::from_fn(|i| tail[1 + i]));
    let whole = tail[0] == 3 && expected == checksum.digest() && tail[9..] == MAGIC;
    Ok(whole.then_some((number, len + tail.len() as u64)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::{
        disk_store::DiskStore,
        store::{Batch, Space, Store},
    };

    const LARGE: usize = 5000;

    fn put(store: &DiskStore, keys: std::ops::Range<u8>) {
        for key in keys {
            let mut batch = Batch::new();
            batch.put(Space::Nodes, [key], vec![key + 1; LARGE]);
            batch.put(Space::Entries, [key], [key]);
            batch.remove(Space::Ids, [key]);
            store.apply(batch).unwrap();
        }
    }

    fn keys(store: &DiskStore) -> Vec<u8> {
        let rows = store.scan(Space::Nodes, &[], &[], 1000).unwrap();
        assert_eq!(rows.len(), store.scan(Space::Entries, &[], &[], 1000).unwrap().len(), "batches are whole");
        rows.into_iter()
            .map(|(key, value)| {
                assert_eq!(value, vec![key[0] + 1; LARGE]);
                key[0]
            })
            .collect()
    }

    /// Where the value of `key` lies in the journal.
    fn find(dir: &Path, key: u8) -> u64 {
        let bytes = fs::read(&newest_first(dir).unwrap()[0]).unwrap();
        bytes.windows(LARGE).position(|window| window.iter().all(|byte| *byte == key + 1)).unwrap() as u64
    }

    #[test]
    fn a_batch_with_a_hole_ends_the_journal_and_the_store_opens() {
        let dir = tempfile::TempDir::new().unwrap();
        let store = DiskStore::open(dir.path()).unwrap();
        put(&store, 0..10);
        drop(store);
        let hole = find(dir.path(), 6) + 600;
        let file = OpenOptions::new().write(true).open(&newest_first(dir.path()).unwrap()[0]).unwrap();
        file.write_all_at(&[0; 512], hole).unwrap();
        let store = DiskStore::open(dir.path()).unwrap();
        assert_eq!(keys(&store), [0, 1, 2, 3, 4, 5]);
        put(&store, 20..23);
        drop(store);
        let store = DiskStore::open(dir.path()).unwrap();
        assert_eq!(keys(&store), [0, 1, 2, 3, 4, 5, 20, 21, 22]);
    }

    #[test]
    fn any_byte_that_changed_ends_the_journal_there() {
        let dir = tempfile::TempDir::new().unwrap();
        let store = DiskStore::open(dir.path()).unwrap();
        put(&store, 0..3);
        drop(store);
        let path = newest_first(dir.path()).unwrap().remove(0);
        // Without the zeros behind it.
        let whole = fs::read(&path).unwrap()[..20_000].to_vec();
        let start = find(dir.path(), 1) - 1 - ITEM_HEAD as u64 - 1 - 13;
        let end = find(dir.path(), 2) - 1 - ITEM_HEAD as u64 - 1 - 13;
        for at in (start..end).filter(|at| *at < start + 40 || *at > end - 60 || at % 1000 == 0) {
            let mut changed = whole.clone();
            changed[at as usize] ^= 0x41;
            fs::write(&path, &changed).unwrap();
            cut(dir.path(), u64::MAX).unwrap();
            let left = fs::metadata(&path).unwrap().len();
            assert!(left == start || at < start + 13 && left >= start, "byte {at} of {start}..{end}: {left}");
        }
    }
}
