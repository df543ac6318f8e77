//! Keeps the disk from filling up under the store: calls that would need room are refused while
//! there still is enough for the store to go on soundly. And keeps a volume within its quota, if it has one.

use std::{
    cell::Cell,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use parking_lot::Mutex;

use crate::error::{Error, Result};

/// Free bytes are looked at again after this much was written.
const LOOK_EVERY: usize = 1 << 20;
/// Never let less than this be free: the store's own journals and tables need room to turn over.
const RESERVE_MAX: u64 = 96 << 20;
/// On small disks, this part of them instead.
const RESERVE_SHARE: u64 = 8;

/// What the disk has left, looked at now and then.
pub(crate) struct SpaceGuard {
    directory: Option<PathBuf>,
    written: Cell<usize>,
    full: Cell<bool>,
}

/// Size, free and available bytes of the disk that `directory` is on.
pub(crate) fn disk(directory: &std::path::Path) -> Result<(u64, u64, u64)> {
    let stat = rustix::fs::statvfs(directory).map_err(std::io::Error::from)?;
    Ok((stat.f_blocks * stat.f_frsize, stat.f_bfree * stat.f_frsize, stat.f_bavail * stat.f_frsize))
}

impl SpaceGuard {
    pub(crate) fn new(directory: Option<PathBuf>) -> Self {
        Self { directory, written: Cell::new(LOOK_EVERY), full: Cell::new(false) }
    }

    /// How large the disk is, if there is one.
    pub(crate) fn total(&self) -> Option<u64> {
        disk(self.directory.as_deref()?).ok().map(|(total, ..)| total)
    }

    /// Notes that bytes were written.
    pub(crate) fn wrote(&self, bytes: usize) {
        self.written.set(self.written.get().saturating_add(bytes));
    }

    /// # Errors
    /// [`Error::NoSpace`] when what is free should be left to the store.
    pub(crate) fn check(&self) -> Result<()> {
        if let Some(directory) = &self.directory
            && (self.full.get() || self.written.get() >= LOOK_EVERY)
        {
            let (total, _, available) = disk(directory)?;
            self.full.set(available < RESERVE_MAX.min(total / RESERVE_SHARE));
            self.written.set(0);
        }
        if self.full.get() { Err(Error::NoSpace) } else { Ok(()) }
    }
}

/// A folder is counted once in so long, at most.
const COUNT_AFTER: Duration = Duration::from_secs(1);

/// How much of the disk a volume may take: packs, store and archive together.
pub(crate) struct Quota {
    directory: Option<PathBuf>,
    state: Mutex<Usage>,
}

#[derive(Default)]
struct Usage {
    most: Option<u64>,
    /// As it was last counted, and what was written since.
    used: u64,
    counted: Option<Duration>,
    reached: bool,
}

impl Quota {
    pub(crate) fn new(directory: Option<PathBuf>) -> Self {
        Self { directory, state: Mutex::new(Usage::default()) }
    }

    pub(crate) fn set(&self, most: Option<u64>) {
        let state = &mut *self.state.lock();
        (state.most, state.counted) = (most, None);
    }

    pub(crate) fn most(&self) -> Option<u64> {
        self.state.lock().most
    }

    pub(crate) fn is_set(&self) -> bool {
        self.most().is_some()
    }

    /// Notes that so much was written.
    pub(crate) fn wrote(&self, bytes: u64) {
        let state = &mut *self.state.lock();
        state.used = state.used.saturating_add(bytes);
    }

    /// Has it counted anew the next time.
    pub(crate) fn look_again(&self) {
        self.state.lock().counted = None;
    }

    /// How much there is; nothing without a disk.
    pub(crate) fn used(&self) -> Option<u64> {
        self.directory.as_deref().map(size_of)
    }

    /// Whether nothing more is to be fetched.
    pub(crate) fn is_reached(&self, now: Duration) -> bool {
        let state = &mut *self.state.lock();
        let Some(most) = state.most else { return false };
        let due = state.counted.is_none_or(|counted| now.saturating_sub(counted) >= COUNT_AFTER);
        // Counted when it may be reached, and as long as it is: what is dropped doesn't tell.
        if due
            && (state.counted.is_none() || state.used >= most)
            && let Some(directory) = &self.directory
        {
            (state.used, state.counted) = (size_of(directory), Some(now));
        }
        let reached = state.used >= most;
        if reached && !state.reached {
            log::warn!("{} of {most} bytes are used: commits are kept, contents are not fetched", state.used);
        } else if !reached && state.reached {
            log::info!("{} of {most} bytes are used: contents are fetched again", state.used);
        }
        state.reached = reached;
        reached
    }
}

/// The bytes that a folder takes on its disk. What goes away meanwhile takes none.
fn size_of(directory: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(directory) else { return 0 };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(found) if found.is_dir() => size_of(&entry.path()),
        Ok(found) => found.blocks() * 512,
        Err(_) => 0,
    });
    sizes.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_counts_what_is_on_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let quota = Quota::new(Some(folder.path().to_owned()));
        let at = Duration::from_secs;
        fs::create_dir(folder.path().join("below")).unwrap();
        fs::write(folder.path().join("below/file"), vec![1; 100_000]).unwrap();
        assert!(!quota.is_reached(at(1)), "there is none");
        quota.set(Some(90_000));
        assert!(quota.is_reached(at(1)));
        quota.set(Some(150_000));
        assert!(!quota.is_reached(at(2)));
        fs::write(folder.path().join("more"), vec![1; 100_000]).unwrap();
        quota.wrote(10_000);
        assert!(!quota.is_reached(at(3)), "not looked at before it may be reached");
        quota.wrote(40_000);
        assert!(quota.is_reached(at(4)));
        fs::remove_file(folder.path().join("more")).unwrap();
        assert!(quota.is_reached(at(4)));
        assert!(!quota.is_reached(at(5)), "looked at again");
    }
}
