//! Zeros ahead of the journal's end.
//!
//! A sync of bytes that make a file longer, or fill a hole in it, has to write the file's own record as well and takes
//! twice as long as one of bytes written over others: 172 against 89 µs on a virtual disk. fjall makes its journal as
//! one hole. So what it will write next is filled with zeros first, a piece at a time; until they are written over,
//! they look as the hole did.
//!
//! Invariants: zeros are written behind the last whole batch only, while no batch can be on its way (the caller holds
//! the lock that writers hold). Where something is not as expected nothing is written: syncs take longer then, that is all.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Seek, SeekFrom},
    os::{fd::AsFd, unix::fs::FileExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open},
};

use super::tail;

/// So much is filled at a time.
const PIECE: u64 = 1 << 20;
/// What must be left of it before the next piece is filled.
const LEFT: u64 = 128 << 10;

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// The journal that is written to, and how far ahead it is filled.
#[derive(Default)]
pub(super) struct Ahead {
    journal: Option<Journal>,
    /// Bytes that may still be written before it is looked at again.
    room: u64,
}

struct Journal {
    path: PathBuf,
    file: File,
    /// fjall's own open file, which stands where the next batch will be; `None` when something was not as expected.
    fjalls: Option<File>,
    /// Up to here it was filled.
    filled: u64,
}

impl Ahead {
    /// Notes that a batch of about so many bytes was written, and fills the next piece when it is time to.
    pub(super) fn wrote(&mut self, dir: &Path, bytes: u64) {
        self.room = self.room.saturating_sub(bytes);
        if self.room > LEFT {
            return;
        }
        if let Err(error) = self.fill(dir) {
            log::debug!("store: the journal is not filled ahead: {error}");
            if let Some(journal) = &mut self.journal {
                journal.fjalls = None;
            }
        }
        // Looked at again after so much in any case: there may be another journal by then.
        self.room = PIECE + LEFT;
    }

    /// Empties the journal, if there is but one and nothing in it is needed any more: all of it must be in tables. Tells
    /// whether it did.
    pub(super) fn empty(&mut self, dir: &Path) -> io::Result<bool> {
        let journals = tail::newest_first(dir)?;
        self.look(dir)?;
        let Some(journal) = self.journal.as_mut().filter(|journal| journals == [journal.path.clone()]) else {
            return Ok(false);
        };
        let emptied = journal.empty();
        self.room = 0;
        emptied
    }

    /// Looks which journal is written to.
    fn look(&mut self, dir: &Path) -> io::Result<()> {
        let Some(newest) = tail::newest_first(dir)?.into_iter().next() else { return Ok(()) };
        if self.journal.as_ref().is_none_or(|journal| journal.path != newest) {
            // Before it is opened here: one that can write to it is fjall's.
            let fjalls = written_by_fjall(&newest)?;
            let file = OpenOptions::new().read(true).write(true).open(&newest)?;
            self.journal = Some(Journal { path: newest, file, fjalls, filled: 0 });
        }
        Ok(())
    }

    fn fill(&mut self, dir: &Path) -> io::Result<()> {
        self.look(dir)?;
        self.journal.as_mut().map_or(Ok(()), Journal::fill)
    }
}

impl Journal {
    fn fill(&mut self) -> io::Result<()> {
        let Some(fjalls) = &mut self.fjalls else { return Ok(()) };
        // Whatever was written has left fjall's buffer by then.
        let end = fjalls.stream_position()?;
        self.check_end(end)?;
        let to = end + PIECE + 2 * LEFT;
        let mut at = end.max(self.filled);
        while at < to {
            let len = ZEROS.len().min((to - at) as usize);
            self.file.write_all_at(&ZEROS[..len], at)?;
            at += len as u64;
        }
        self.filled = to;
        Ok(())
    }

    fn empty(&mut self) -> io::Result<bool> {
        let Some(mut fjalls) = self.fjalls.take() else { return Ok(false) };
        let end = fjalls.stream_position()?;
        self.check_end(end)?;
        // fjall writes on where its file stands: never behind a hole.
        fjalls.rewind()?;
        if let Err(error) = self.file.set_len(0) {
            fjalls.seek(SeekFrom::Start(end))?;
            return Err(error);
        }
        self.filled = 0;
        self.fjalls = Some(fjalls);
        Ok(true)
    }

    /// Makes sure that a batch ends at `end`, and nothing follows.
    fn check_end(&self, end: u64) -> io::Result<()> {
        let odd = |what| Err(io::Error::new(io::ErrorKind::InvalidData, what));
        let mut next = [0; 64];
        let read = self.file.read_at(&mut next, end)?;
        if next[..read].iter().any(|byte| *byte != 0) {
            return odd("something follows the last batch");
        }
        let mut last = [0; tail::MAGIC.len()];
        if let Some(start) = end.checked_sub(last.len() as u64) {
            self.file.read_exact_at(&mut last, start)?;
        }
        if end > 0 && last != tail::MAGIC { odd("it ends in no batch") } else { Ok(()) }
    }
}

/// fjall's own open file of a journal: the same offset, the same flags. Makes sure that fjall writes on where it ended, and
/// not at the end of the file, which is about to move: a journal from before was opened to be appended to.
fn written_by_fjall(journal: &Path) -> io::Result<Option<File>> {
    let process = pidfd_open(getpid(), PidfdFlags::empty())?;
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        let entry = entry?;
        if fs::read_link(entry.path()).is_ok_and(|path| path == journal) {
            let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let shared = pidfd_getfd(&process, number, PidfdGetfdFlags::empty())?;
            let flags = fcntl_getfl(shared.as_fd())?;
            // Others only sync it.
            if flags.intersects(OFlags::WRONLY | OFlags::RDWR) {
                found.push((File::from(shared), flags));
            }
        }
    }
    let Some((mut file, flags)) = found.pop().filter(|_| found.is_empty()) else { return Ok(None) };
    if flags.contains(OFlags::APPEND) {
        file.seek(SeekFrom::End(0))?;
        fcntl_setfl(file.as_fd(), flags - OFlags::APPEND)?;
    }
    Ok(Some(file))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        disk_store::DiskStore,
        store::{Batch, Space, Store},
    };

    fn put(store: &DiskStore, number: u32) {
        let mut batch = Batch::new();
        batch.put(Space::Nodes, number.to_be_bytes(), vec![number as u8; 5000]);
        store.apply(batch).unwrap();
    }

    fn all(store: &DiskStore) -> usize {
        let rows = store.scan(Space::Nodes, &[], &[], 100_000).unwrap();
        assert!(rows.iter().all(|(key, value)| value.iter().all(|byte| *byte == key[3])));
        rows.len()
    }

    /// Over several starts, and over the end of a journal.
    #[test]
    fn nothing_is_lost_by_filling_ahead() {
        let folder = tempfile::tempdir().unwrap();
        let mut put_so_far = 0;
        for count in [1, 700, 3, 15_000, 300] {
            let store = DiskStore::open(folder.path()).unwrap();
            assert_eq!(all(&store), put_so_far as usize);
            for _ in 0..count {
                put(&store, put_so_far);
                put_so_far += 1;
            }
            store.sync().unwrap();
            assert_eq!(all(&store), put_so_far as usize);
        }
        assert_eq!(all(&DiskStore::open(folder.path()).unwrap()), put_so_far as usize);
    }

    #[test]
    fn what_is_written_next_is_filled_also_after_a_start() {
        use std::os::unix::fs::MetadataExt;
        let folder = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            let store = DiskStore::open(folder.path()).unwrap();
            let journal = || tail::newest_first(folder.path()).unwrap()[0].metadata().unwrap().blocks() * 512;
            put(&store, 0);
            let filled = journal();
            assert!(filled >= PIECE, "{filled} bytes are there");
            for number in 0..50 {
                put(&store, number);
            }
            assert_eq!(journal(), filled, "written where zeros were");
        }
    }
}
