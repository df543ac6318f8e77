//! Files, as the page reads and writes them: on the mount, as any program does. So the kernel and the volume decide who may
//! what, and the audit log has what was done.
//!
//! Invariant: nothing is reached but below the mount: no symlink is followed, no other mount entered, and what isn't a mount any
//! more is not written to.

use std::{
    ffi::{CString, OsStr},
    fs::File,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::PathBuf,
};

use rustix::{
    fs::{
        AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, ResolveFlags, Stat, fstat, fstatfs, mkdirat, open, openat,
        openat2, readlinkat, renameat_with, statat, unlinkat,
    },
    io::Errno,
};

use super::{attributes::Attributes, links::path};
use crate::control::request::Names;

/// What `statfs` says of a mount like ours.
const FUSE: u64 = 0x6573_5546;
/// Entries of a folder that are shown.
pub(super) const SHOWN: usize = 5000;

/// Where the volume is mounted.
#[derive(Clone)]
pub(super) struct Tree(PathBuf);

/// Of which state of the volume something is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum When {
    #[default]
    Now,
    /// The whole tree at a time.
    At(String),
    /// A version of the path, by its name.
    Version(String),
}

/// What is in a folder.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) entries: Vec<Entry>,
    /// How many more there are.
    pub(super) more: usize,
}

/// One entry of it.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: Vec<u8>,
    pub(super) kind: Kind,
    pub(super) size: u64,
    /// Seconds since 1970.
    pub(super) modified: i64,
}

/// What kind of thing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Folder,
    File,
    /// With where it leads; nobody follows it here.
    Link(Vec<u8>),
    Other,
}

fn no_entry() -> io::Error {
    io::ErrorKind::NotFound.into()
}

/// Where it is below the mount.
fn place(names: &Names, when: &When) -> io::Result<Vec<u8>> {
    let plain = |part: &str| !part.is_empty() && !part.contains(['/', '\0']) && part != "." && part != "..";
    let place = match when {
        When::Now => path(names),
        When::At(at) if plain(at) => [b".p2pfs/at/", at.as_bytes(), b"/", &path(names)].concat(),
        When::Version(version) if plain(version) => {
            [b".p2pfs/versions/", &path(names)[..], b"/", version.as_bytes()].concat()
        }
        When::At(_) | When::Version(_) => return Err(no_entry()),
    };
    Ok(if place.is_empty() { b".".to_vec() } else { place })
}

impl Tree {
    pub(super) fn new(mountpoint: PathBuf) -> Self {
        Self(mountpoint)
    }

    fn top(&self) -> io::Result<OwnedFd> {
        // Not kept open: that would keep the mount busy.
        let top = open(&self.0, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let kind = fstatfs(&top)?.f_type;
        if u64::try_from(kind).is_ok_and(|kind| kind == FUSE) {
            Ok(top)
        } else {
            Err(io::ErrorKind::NotConnected.into())
        }
    }

    fn open_at(&self, names: &Names, when: &When, flags: OFlags) -> io::Result<OwnedFd> {
        let place = CString::new(place(names, when)?)?;
        let within =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        Ok(openat2(self.top()?, place, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty(), within)?)
    }

    fn folder(&self, names: &Names) -> io::Result<OwnedFd> {
        self.open_at(names, &When::Now, OFlags::PATH | OFlags::DIRECTORY)
    }

    /// The folder that something is in, and its name there.
    fn above(&self, names: &Names) -> io::Result<(OwnedFd, Vec<u8>)> {
        let (name, above) = names.split_last().ok_or_else(no_entry)?;
        Ok((self.folder(&above.to_vec())?, name.clone()))
    }

    /// What is in a folder: folders first, in the order of their names.
    pub(super) fn list(&self, names: &Names, when: &When) -> io::Result<Listing> {
        let folder = self.open_at(names, when, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let (mut entries, mut more) = (Vec::new(), 0);
        // (Not opened a second time: the log would have it twice.)
        for entry in Dir::new(folder.try_clone()?)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            if entries.len() == SHOWN {
                more += 1;
                continue;
            }
            match described(&folder, name) {
                Ok(entry) => entries.push(entry),
                // Gone meanwhile.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        let folded = |entry: &Entry| String::from_utf8_lossy(&entry.name).to_lowercase();
        entries.sort_by_cached_key(|entry| (entry.kind != Kind::Folder, folded(entry), entry.name.clone()));
        Ok(Listing { entries, more })
    }

    /// What is there.
    pub(super) fn entry(&self, names: &Names, when: &When) -> io::Result<Entry> {
        let found = self.open_at(names, when, OFlags::PATH)?;
        let target = match kind_of(&fstat(&found)?) {
            FileType::Symlink => readlinkat(&found, "", Vec::new())?.into_bytes(),
            _ => Vec::new(),
        };
        Ok(entry(names.last().cloned().unwrap_or_default(), &fstat(&found)?, target))
    }

    /// Opens a file to read it; with its size.
    pub(super) fn read(&self, names: &Names, when: &When) -> io::Result<(File, u64)> {
        // A pipe would keep whoever opens it waiting.
        let file = self.open_at(names, when, OFlags::RDONLY | OFlags::NONBLOCK)?;
        let status = fstat(&file)?;
        match kind_of(&status) {
            FileType::RegularFile => Ok((file.into(), u64::try_from(status.st_size).unwrap_or(0))),
            FileType::Directory => Err(io::ErrorKind::IsADirectory.into()),
            _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no file that could be shown")),
        }
    }

    pub(super) fn make_folder(&self, names: &Names) -> io::Result<()> {
        let (above, name) = self.above(names)?;
        Ok(mkdirat(above, OsStr::from_bytes(&name), Mode::from_raw_mode(0o777))?)
    }

    /// Gives something another name, or place, where nothing is.
    pub(super) fn rename(&self, from: &Names, to: &Names) -> io::Result<()> {
        let ((above, name), (new_above, new_name)) = (self.above(from)?, self.above(to)?);
        let (name, new_name) = (OsStr::from_bytes(&name), OsStr::from_bytes(&new_name));
        Ok(renameat_with(above, name, new_above, new_name, RenameFlags::NOREPLACE)?)
    }

    /// Removes a file, or a folder with nothing in it.
    pub(super) fn remove(&self, names: &Names) -> io::Result<()> {
        let (above, name) = self.above(names)?;
        let name = OsStr::from_bytes(&name);
        let is_folder = kind_of(&statat(&above, name, AtFlags::SYMLINK_NOFOLLOW)?) == FileType::Directory;
        Ok(unlinkat(above, name, if is_folder { AtFlags::REMOVEDIR } else { AtFlags::empty() })?)
    }

    /// Begins a file in a folder under a name that nobody has, to be given its own when it is whole. One that is to take the place
    /// of another has that one's permissions before it has a byte.
    pub(super) fn begin(&self, folder: &Names, random: &str, replaced: Option<&[u8]>) -> io::Result<Unfinished> {
        let folder = self.folder(folder)?;
        let old = match replaced {
            Some(name) => attributes(&folder, name)?,
            None => None,
        };
        let name = format!(".p2pfs-upload-{random}");
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(if old.is_some() { 0o600 } else { 0o666 });
        let file: File = openat(&folder, &name, flags, mode)?.into();
        let mut begun = Unfinished { folder, name, file: Some(file), replaces: replaced.is_some(), old: None };
        begun.take_after(old)?;
        Ok(begun)
    }
}

/// What a file in a folder has beside its content; nothing if none has that name.
fn attributes(folder: &OwnedFd, name: &[u8]) -> io::Result<Option<Attributes>> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = match openat(folder, OsStr::from_bytes(name), flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    match kind_of(&fstat(&file)?) {
        FileType::RegularFile => Attributes::of(&file).map(Some),
        _ => Err(io::Error::other("what has that name is no file: give this one another name")),
    }
}

/// A file that is being written.
pub(super) struct Unfinished {
    folder: OwnedFd,
    name: String,
    /// Nothing once it has its own name.
    file: Option<File>,
    /// Whether what has that name becomes an older version.
    replaces: bool,
    /// What that has beside its content, and this has therefore.
    old: Option<Attributes>,
}

impl Unfinished {
    pub(super) fn file(&mut self) -> io::Result<&mut File> {
        self.file.as_mut().ok_or_else(no_entry)
    }

    /// Gives it the attributes of what it replaces, unless it has them.
    fn take_after(&mut self, old: Option<Attributes>) -> io::Result<()> {
        if let Some(old) = old.filter(|old| self.old.as_ref() != Some(old)) {
            old.give(self.file()?)?;
            self.old = Some(old);
        }
        Ok(())
    }

    /// Gives it its name.
    pub(super) fn finish(mut self, name: &[u8]) -> io::Result<()> {
        if self.replaces {
            // Somebody may have closed it meanwhile.
            self.take_after(attributes(&self.folder, name)?)?;
        }
        // Published before it has the name: whoever finds it finds all of it.
        drop(self.file.take());
        let name = OsStr::from_bytes(name);
        let flags = if self.replaces { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
        let done = renameat_with(&self.folder, &self.name, &self.folder, name, flags);
        if done.is_err() {
            self.discard();
        }
        Ok(done?)
    }

    fn discard(&self) {
        if unlinkat(&self.folder, &self.name, AtFlags::empty()).is_err() {
            ::log::debug!("page: an unfinished upload can't be removed");
        }
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            self.discard();
        }
    }
}

fn described(folder: impl AsFd, name: &[u8]) -> io::Result<Entry> {
    let os = OsStr::from_bytes(name);
    let status = statat(&folder, os, AtFlags::SYMLINK_NOFOLLOW)?;
    let target = match kind_of(&status) {
        FileType::Symlink => readlinkat(&folder, os, Vec::new())?.into_bytes(),
        _ => Vec::new(),
    };
    Ok(entry(name.to_vec(), &status, target))
}

fn kind_of(status: &Stat) -> FileType {
    FileType::from_raw_mode(status.st_mode)
}

fn entry(name: Vec<u8>, status: &Stat, target: Vec<u8>) -> Entry {
    let kind = match kind_of(status) {
        FileType::Directory => Kind::Folder,
        FileType::RegularFile => Kind::File,
        FileType::Symlink => Kind::Link(target),
        _ => Kind::Other,
    };
    Entry { name, kind, size: u64::try_from(status.st_size).unwrap_or(0), modified: status.st_mtime }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(path: &str) -> Names {
        path.split('/').map(|name| name.as_bytes().to_vec()).collect()
    }

    #[test]
    fn states_are_where_the_mount_shows_them() {
        let check = |when: When, expected: &[u8]| assert_eq!(place(&names("d/f"), &when).unwrap(), expected);
        check(When::Now, b"d/f");
        check(When::At("2026-11-22T09:15".to_owned()), b".p2pfs/at/2026-11-22T09:15/d/f");
        check(When::Version("v~bob.txt".to_owned()), b".p2pfs/versions/d/f/v~bob.txt");
        assert_eq!(place(&Vec::new(), &When::Now).unwrap(), b".");
        for bad in ["", ".", "..", "../../etc", "a\0"] {
            assert!(place(&names("f"), &When::At(bad.to_owned())).is_err(), "{bad}");
            assert!(place(&names("f"), &When::Version(bad.to_owned())).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_no_mount_is_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::new(dir.path().to_owned());
        assert!(tree.make_folder(&names("d")).is_err());
        assert!(tree.list(&Vec::new(), &When::Now).is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
