//! Keeps the disk from filling up under the store: calls that would need room are refused while
//! there still is enough for the store to go on soundly.

use std::{cell::Cell, path::PathBuf};

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
