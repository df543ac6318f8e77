//! Folders below one, entered name by name and never through a link.
//!
//! Invariant: whatever somebody else does meanwhile to what is below, nothing is opened that doesn't lie there.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::fs::{Mode, OFlags, openat};

/// How a folder is opened.
const ENTER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

pub(super) struct Folders {
    root: OwnedFd,
    /// Where it was last: folders in one another.
    inside: Vec<(Vec<u8>, OwnedFd)>,
}

impl Folders {
    pub(super) fn new(root: OwnedFd) -> Self {
        Self { root, inside: Vec::new() }
    }

    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// The folder that `path` lies in, and the last name of it.
    pub(super) fn around<'a>(&mut self, path: &'a [u8]) -> io::Result<(BorrowedFd<'_>, &'a [u8])> {
        let (folders, name) = match path.iter().rposition(|byte| *byte == b'/') {
            Some(at) => (&path[..at], &path[at + 1..]),
            None => (&path[..0], path),
        };
        let names = || folders.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
        let same = names().zip(&self.inside).take_while(|(name, (was, _))| name == was).count();
        self.inside.truncate(same);
        for name in names().skip(same) {
            let into = enter(self.last(), name)?;
            self.inside.push((name.to_vec(), into));
        }
        Ok((self.last(), name))
    }

    fn last(&self) -> BorrowedFd<'_> {
        self.inside.last().map_or(self.root.as_fd(), |(_, folder)| folder.as_fd())
    }
}

/// Opens the folder of this name; nothing else, and no link to one.
pub(super) fn enter(folder: impl AsFd, name: &[u8]) -> io::Result<OwnedFd> {
    // One name each: a path would lead through links.
    if name.contains(&b'/') || name == b".." || name == b"." {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(openat(folder, name, ENTER, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn links_lead_nowhere() {
        let here = tempfile::tempdir().unwrap();
        fs::create_dir_all(here.path().join("root/a/b")).unwrap();
        fs::create_dir(here.path().join("other")).unwrap();
        symlink("../other", here.path().join("root/link")).unwrap();
        symlink("../../other", here.path().join("root/a/link")).unwrap();
        let root = fs::File::open(here.path().join("root")).unwrap();
        let mut folders = Folders::new(root.into());
        assert_eq!(folders.around(b"a/b/c").unwrap().1, b"c");
        assert_eq!(folders.around(b"x").unwrap().1, b"x");
        for bad in [&b"link/x"[..], b"a/link/x", b"../other/x", b"a/../x", b"./x", b"a/b/../../../other/x"] {
            assert!(folders.around(bad).is_err(), "{bad:?}");
        }
        fs::remove_dir(here.path().join("root/a/b")).unwrap();
        symlink("../../other", here.path().join("root/a/b")).unwrap();
        assert!(folders.around(b"x").is_ok() && folders.around(b"a/b/c").is_err());
    }
}
