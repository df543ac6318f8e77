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
use crate::{
    control::request::Names,
    uploads::{self, Remembered},
};

/// What `statfs` says of a mount like ours.
const FUSE: u64 = 0x6573_5546;
/// Entries of a folder that are shown.
pub(super) const SHOWN: usize = 5000;
/// Entries below a folder that are counted.
const COUNTED: u64 = 100_000;
/// Folders in each other that are gone into; each is held open.
const DEEPEST: usize = 200;
/// What is never left on the way to anything.
const WITHIN: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

/// Where the volume is mounted.
#[derive(Clone)]
pub(super) struct Tree {
    mountpoint: PathBuf,
    /// Where uploads under way are remembered.
    uploads: PathBuf,
}

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

/// What goes with a folder.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Below {
    pub(super) files: u64,
    pub(super) folders: u64,
    pub(super) bytes: u64,
    /// There is more, which wasn't counted.
    pub(super) more: bool,
}

/// What kind of thing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Folder,
    File,
    /// With where it leads; nobody follows it here.
    Link(Vec<u8>),
    /// Neither of these, or what can't be looked at.
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
    pub(super) fn new(mountpoint: PathBuf, uploads: PathBuf) -> Self {
        Self { mountpoint, uploads }
    }

    fn top(&self) -> io::Result<OwnedFd> {
        // Not kept open: that would keep the mount busy.
        let top = open(&self.mountpoint, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let kind = fstatfs(&top)?.f_type;
        if u64::try_from(kind).is_ok_and(|kind| kind == FUSE) {
            Ok(top)
        } else {
            Err(io::ErrorKind::NotConnected.into())
        }
    }

    fn open_at(&self, names: &Names, when: &When, flags: OFlags) -> io::Result<OwnedFd> {
        let place = CString::new(place(names, when)?)?;
        Ok(openat2(self.top()?, place, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty(), WITHIN)?)
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
        Ok(with_target(entry(names.last().cloned().unwrap_or_default(), &fstat(&found)?), &found, b""))
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

    /// What is below something; nothing unless it is a folder.
    pub(super) fn below(&self, names: &Names) -> io::Result<Below> {
        let mut below = Below::default();
        if self.entry(names, &When::Now)?.kind == Kind::Folder {
            count(&self.open_at(names, &When::Now, LISTED)?, &mut below, 0)?;
        }
        Ok(below)
    }

    /// Removes a file, or a folder with nothing in it; with `all`, whatever is in it.
    pub(super) fn remove(&self, names: &Names, all: bool) -> io::Result<()> {
        let (above, name) = self.above(names)?;
        let is_folder = seen(&above, &name)?.kind == Kind::Folder;
        if is_folder && all {
            empty(&self.open_at(names, &When::Now, LISTED)?, 0)?;
        }
        let how = if is_folder { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        Ok(unlinkat(above, OsStr::from_bytes(&name), how)?)
    }

    /// Where something is for other programs of this machine: a file, or a folder, which is there.
    pub(super) fn way_to(&self, names: &Names) -> io::Result<(PathBuf, Kind)> {
        let kind = self.entry(names, &When::Now)?.kind;
        Ok((self.mountpoint.join(OsStr::from_bytes(&path(names))), kind))
    }

    /// Begins a file in a folder under a name that nobody has, to be given its own when it is whole. One that is to take the place
    /// of another has that one's permissions before it has a byte.
    pub(super) fn begin(&self, folder: &Names, random: &str, replaced: Option<&[u8]>) -> io::Result<Unfinished> {
        let folder = self.folder(folder)?;
        let old = match replaced {
            Some(name) => attributes(&folder, name)?,
            None => None,
        };
        let name = uploads::unfinished(random);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(if old.is_some() { 0o600 } else { 0o666 });
        let remembered = Remembered::new(&self.uploads, fstat(&folder)?.st_ino, random)?;
        let file = match openat(&folder, &name, flags, mode) {
            Ok(file) => File::from(file),
            Err(e) => {
                remembered.forget();
                return Err(e.into());
            }
        };
        let mut begun =
            Unfinished { folder, name, file: Some(file), remembered, replaces: replaced.is_some(), old: None };
        begun.take_after(old)?;
        Ok(begun)
    }
}

/// How a folder is opened whose entries are wanted.
const LISTED: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY);

/// What is in a folder that is open, but for what went meanwhile. Where links lead doesn't matter to whoever asks.
fn entries(folder: &OwnedFd) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        match seen(folder, name) {
            Ok(entry) => entries.push(entry),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok(entries)
}

/// Opens a folder in another.
fn inner(folder: &OwnedFd, name: &[u8], depth: usize) -> io::Result<OwnedFd> {
    if depth == DEEPEST {
        return Err(io::Error::other("folders lie too deep in each other: use a program for it"));
    }
    let name = OsStr::from_bytes(name);
    Ok(openat2(folder, name, LISTED | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty(), WITHIN)?)
}

fn count(folder: &OwnedFd, below: &mut Below, depth: usize) -> io::Result<()> {
    for entry in entries(folder)? {
        below.more |= below.files + below.folders == COUNTED;
        if below.more {
            return Ok(());
        }
        if entry.kind == Kind::Folder {
            below.folders += 1;
            count(&inner(folder, &entry.name, depth)?, below, depth + 1)?;
        } else {
            below.files += 1;
            below.bytes += entry.size;
        }
    }
    Ok(())
}

/// Removes all that is in a folder.
fn empty(folder: &OwnedFd, depth: usize) -> io::Result<()> {
    for entry in entries(folder)? {
        let is_folder = entry.kind == Kind::Folder;
        if is_folder {
            empty(&inner(folder, &entry.name, depth)?, depth + 1)?;
        }
        let how = if is_folder { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        match unlinkat(folder, OsStr::from_bytes(&entry.name), how) {
            // Somebody else was quicker.
            Ok(()) | Err(Errno::NOENT) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
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
    /// As long as anything may be left of it.
    remembered: Remembered,
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
        // Published before it has the name: whoever finds it finds all of it. (Closing tells no error; this does.)
        self.file()?.sync_all()?;
        drop(self.file.take());
        let name = OsStr::from_bytes(name);
        let flags = if self.replaces { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
        let done = renameat_with(&self.folder, &self.name, &self.folder, name, flags);
        match done {
            Ok(()) => self.remembered.forget(),
            Err(_) => self.discard(),
        }
        Ok(done?)
    }

    fn discard(&self) {
        match unlinkat(&self.folder, &self.name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => self.remembered.forget(),
            Err(_) => ::log::debug!("page: an unfinished upload can't be removed"),
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

/// What is in a folder under a name, with where it leads. What can't be looked at is there all the same.
fn described(folder: impl AsFd, name: &[u8]) -> io::Result<Entry> {
    Ok(with_target(seen(&folder, name)?, &folder, name))
}

/// The same, but for where it leads.
fn seen(folder: impl AsFd, name: &[u8]) -> io::Result<Entry> {
    match statat(folder, OsStr::from_bytes(name), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(status) => Ok(entry(name.to_vec(), &status)),
        Err(Errno::NOENT) => Err(no_entry()),
        Err(_) => Ok(Entry { name: name.to_vec(), kind: Kind::Other, size: 0, modified: 0 }),
    }
}

/// Adds where a link leads: a name in a folder, or, without one, what is open itself. Somebody may have taken the right to read that.
fn with_target(mut entry: Entry, folder: impl AsFd, name: &[u8]) -> Entry {
    if let Kind::Link(target) = &mut entry.kind {
        match readlinkat(folder, OsStr::from_bytes(name), Vec::new()) {
            Ok(read) => *target = read.into_bytes(),
            Err(_) => entry.kind = Kind::Other,
        }
    }
    entry
}

fn kind_of(status: &Stat) -> FileType {
    FileType::from_raw_mode(status.st_mode)
}

/// Of a link it isn't known yet where it leads.
fn entry(name: Vec<u8>, status: &Stat) -> Entry {
    let kind = match kind_of(status) {
        FileType::Directory => Kind::Folder,
        FileType::RegularFile => Kind::File,
        FileType::Symlink => Kind::Link(Vec::new()),
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
    fn what_is_in_a_folder_is_counted_and_removed_and_no_link_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (inside, outside) = (dir.path().join("inside"), dir.path().join("outside"));
        std::fs::create_dir_all(inside.join("a/b")).unwrap();
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("stays"), "x").unwrap();
        std::fs::write(inside.join("a/b/file"), "four").unwrap();
        std::os::unix::fs::symlink(&outside, inside.join("a/link")).unwrap();
        let folder = open(&inside, LISTED, Mode::empty()).unwrap();
        let mut below = Below::default();
        count(&folder, &mut below, 0).unwrap();
        assert_eq!((below.files, below.folders, below.more), (2, 2, false));
        assert!(inner(&folder, b"a", DEEPEST).is_err());
        empty(&folder, 0).unwrap();
        assert_eq!(std::fs::read_dir(&inside).unwrap().count(), 0);
        assert!(outside.join("stays").exists());
    }

    #[test]
    fn what_is_no_mount_is_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::new(dir.path().to_owned(), dir.path().join("uploads"));
        assert!(tree.make_folder(&names("d")).is_err());
        assert!(tree.list(&Vec::new(), &When::Now).is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
