//! What a user named, found again later.
//!
//! Between the moment in which somebody says "send this" or "it is to arrive there" and the one in which it is done, others may
//! change what is there: in a volume its members do. Invariants: no link is followed that was not there when the user named the
//! path; and of what lies in a volume, only that is read or added to which was there then, whatever has been moved into its
//! place.

use std::{
    ffi::OsString,
    fs,
    io::{self, ErrorKind},
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Component, Path, PathBuf},
};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, fstat, openat2};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::path_of;
use crate::{
    failure::{Failure, Outcome, plain},
    mountpoint,
};

/// Links that are followed on one way, as many as the kernel follows.
const MAX_LINKS: u32 = 40;

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

/// A folder in which something is to arrive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    /// Where it is, without links.
    path: ByteBuf,
    /// Which it is, in a volume.
    ino: Option<u64>,
}

impl Place {
    /// What is at an absolute path.
    ///
    /// # Errors
    /// As of [`without_links`], or it is no folder.
    pub(super) fn named(path: &Path) -> io::Result<Self> {
        let path = without_links(path)?;
        let ino = fstat(open(&path, OFlags::PATH | OFlags::DIRECTORY)?)?.st_ino;
        let ino = is_shared(&path).then_some(ino);
        Ok(Self { path: ByteBuf::from(path.into_os_string().into_encoded_bytes()), ino })
    }

    pub(super) fn path(&self) -> PathBuf {
        path_of(&self.path)
    }

    /// Whether it lies where others may put another in its place.
    pub(super) fn is_shared(&self) -> bool {
        self.ino.is_some()
    }

    /// Opens it, if it is still the one that was named.
    pub(super) fn open(&self) -> io::Result<OwnedFd> {
        let folder = open(&self.path(), OFlags::RDONLY | OFlags::DIRECTORY)?;
        if self.ino.is_some() && self.ino != Some(fstat(&folder)?.st_ino) {
            return Err(io::Error::new(ErrorKind::InvalidInput, "another folder is in its place: name it anew"));
        }
        Ok(folder)
    }
}

/// An absolute path to what is at one, through no link.
///
/// # Errors
/// Nothing is there, or it lies in a volume behind a link: others may have put that there.
pub(super) fn without_links(path: &Path) -> io::Result<PathBuf> {
    let (mut found, mut links) = (PathBuf::from("/"), 0);
    let mut rest: Vec<OsString> = parts(path).collect();
    while let Some(name) = rest.pop() {
        if name == ".." {
            found.pop();
            continue;
        }
        found.push(&name);
        // In a volume none is followed, however one got there.
        if is_shared(&found) || !fs::symlink_metadata(&found)?.is_symlink() {
            continue;
        }
        links += 1;
        if links > MAX_LINKS {
            return Err(rustix::io::Errno::LOOP.into());
        }
        let target = fs::read_link(&found)?;
        found.pop();
        if target.is_absolute() {
            found = PathBuf::from("/");
        }
        rest.extend(parts(&target));
    }
    open(&found, OFlags::PATH)?;
    Ok(found)
}

/// The names of a path, the last one first.
fn parts(path: &Path) -> impl Iterator<Item = OsString> {
    path.components().rev().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_lead_to_what_they_meant_when_it_was_named() {
        let here = tempfile::tempdir().unwrap();
        let top = fs::canonicalize(here.path()).unwrap();
        fs::create_dir_all(top.join("a/b")).unwrap();
        fs::write(top.join("a/b/f"), "x").unwrap();
        symlink("a/b", top.join("relative")).unwrap();
        symlink(top.join("relative"), top.join("absolute")).unwrap();
        symlink("circle", top.join("circle")).unwrap();
        symlink("../f", top.join("a/b/up")).unwrap();
        let check = |typed: &str, expected: &str| {
            assert_eq!(without_links(&top.join(typed)).unwrap(), top.join(expected), "{typed}");
        };
        check("a/b/f", "a/b/f");
        check("relative/f", "a/b/f");
        check("absolute/../b/./f", "a/b/f");
        check("absolute", "a/b");
        for bad in ["circle", "nothing", "absolute/nothing", "a/b/up"] {
            assert!(without_links(&top.join(bad)).is_err(), "{bad}");
        }
        // What becomes a link later isn't followed.
        let top_named = Top::named(&top.join("absolute/f")).unwrap();
        assert_eq!((&top_named.name[..], top_named.path()), (&b"f"[..], top.join("a/b/f")));
        let place = Place::named(&top.join("absolute")).unwrap();
        place.open().unwrap();
        fs::rename(top.join("a"), top.join("moved")).unwrap();
        symlink("moved", top.join("a")).unwrap();
        assert!(place.open().is_err() && open(&top_named.path(), OFlags::RDONLY).is_err());
        assert!(Place::named(&top.join("moved/b/f")).is_err(), "no folder");
    }
}
