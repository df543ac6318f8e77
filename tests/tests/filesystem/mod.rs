//! What one mount promises to every program: the edges of POSIX that filesystems in user space get wrong.
//!
//! One module per family of calls. Nothing here has a second peer.

mod acls;
mod directories;
mod holes;
mod links;
mod locks;
mod many;
mod mapping;
mod mount_helper;
mod names;
mod open_files;
mod ranges;
mod rename;
mod restart;
mod times;
mod xattrs;

use std::{io, path::Path};

use rustix::io::Errno;

/// Checks that a call failed, and with what.
#[track_caller]
fn fails<T: std::fmt::Debug>(done: io::Result<T>, expected: Errno) {
    let number = done.map_err(|e| e.raw_os_error()).unwrap_err();
    assert_eq!(number, Some(expected.raw_os_error()), "expected {expected}");
}

/// The same for calls that std lacks.
#[track_caller]
fn refuses<T: std::fmt::Debug>(done: rustix::io::Result<T>, expected: Errno) {
    fails(done.map_err(io::Error::from), expected);
}

fn links_of(path: &Path) -> u64 {
    std::os::unix::fs::MetadataExt::nlink(&std::fs::symlink_metadata(path).unwrap())
}
