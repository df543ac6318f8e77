//! What a user named, found again later.
//!
//! Between the moment in which somebody says "send this" or "it is to arrive there" and the one in which it is done, others may
//! change what is there: in a volume its members do. Invariants: no link is followed that was not there when the user named the
//! path; and of what lies in a volume, only that is read or added to which was there then, whatever has been moved into its
//! place.

use std::{
    fs,
    io::{self, ErrorKind},
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::path_of;
use crate::{
    failure::{Failure, Outcome, plain},
    mountpoint,
};

/// Something that is to be sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Top {
    /// What it was called when it was named, which it is called where it arrives.
    pub(super) name: ByteBuf,
    /// Where it is, without links.
    pub(super) path: ByteBuf,
}

impl Top {
    /// What is at an absolute path.
    ///
    /// # Errors
    /// As of [`without_links`], or it has no name.
    pub(super) fn named(path: &Path) -> Outcome<Self> {
        let shown = path.display();
        let name = path.file_name().ok_or_else(|| Failure::new(format!("{shown} has no name that can be sent")))?;
        let found = without_links(path).map_err(|e| Failure::new(format!("{shown}: {}", plain(&e))))?;
        Ok(Self {
            name: ByteBuf::from(name.as_bytes()),
            path: ByteBuf::from(found.into_os_string().into_encoded_bytes()),
        })
    }

    pub(super) fn path(&self) -> PathBuf {
        path_of(&self.path)
    }

    /// Bytes that it takes.
    pub(super) fn len(&self) -> usize {
        self.name.len() + self.path.len()
    }
}

/// An absolute path to what is at one, through no link.
///
/// # Errors
/// Nothing is there, or it lies in a volume behind a link: others may have put that there.
pub(super) fn without_links(path: &Path) -> io::Result<PathBuf> {
    if is_shared(path) { open(path, OFlags::PATH).map(|_| path.to_owned()) } else { fs::canonicalize(path) }
}

/// Opens what is at an absolute path, if no link is on the way.
pub(super) fn open(path: &Path, how: OFlags) -> io::Result<OwnedFd> {
    match openat2(CWD, path, how | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
        Err(rustix::io::Errno::LOOP) => Err(io::Error::new(
            ErrorKind::InvalidInput,
            "there is a link on the way, which may have been put there: name the place that is meant",
        )),
        opened => Ok(opened?),
    }
}

/// Whether others may move what is at a path, as it lies in a mounted volume.
pub(super) fn is_shared(path: &Path) -> bool {
    // Where that can't be known, it may be.
    mountpoint::lies_in_ours(path).unwrap_or(true)
}
