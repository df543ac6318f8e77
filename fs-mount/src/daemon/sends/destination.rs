//! Where what is sent arrives: a folder of the user's choice.
//!
//! It comes together in a hidden folder in there, as the tree that it will be, and each name at the top is moved out of that in
//! one step when all is there. Invariants: nothing is written outside the hidden folder, nothing that is there is ever replaced
//! or added to, no link is followed below the folder that the user named, and what arrives is the user's alone, without
//! special bits.

use std::{
    collections::{HashMap, HashSet, hash_map},
    fs::{File, Metadata},
    io::{self, Write},
    num::NonZeroU64,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::MetadataExt},
    },
    path::Path,
};

use crypto::{Entropy, Hasher, OsEntropy};
use data_encoding::HEXLOWER;
use peer_net::sends::{
    contents,
    manifest::{Entry, Kind, Manifest},
    pipe::Stop,
};
use rustix::{
    fs::{
        Advice, AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, fadvise, fstat, fstatfs, fstatvfs, linkat, mkdirat,
        openat, renameat, renameat_with, statat, unlinkat,
    },
    io::Errno,
};
use serde::{Deserialize, Serialize};

use super::{
    folders::{Folders, enter},
    place::Place,
    source::read_exactly,
};

/// What the hidden folders are called.
const HIDDEN: &str = ".p2pfs-partial-";
/// The type by which programs' own file systems are known (`statfs(2)`).
const FUSE: i64 = 0x6573_5546;
/// Room that a disk keeps for others, in bytes and in files.
const RESERVE: u64 = 16 << 20;
const RESERVED_FILES: u64 = 1000;
/// Names that are tried where one is taken.
const TRIES: u32 = 10_000;
/// After so many bytes the disk is told to begin with them.
const WRITE_OUT: u64 = 8 << 20;
/// The longest name.
const MAX_NAME: usize = 255;

/// The hidden folder of a send. Nobody else knows its name before it is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hidden {
    name: String,
    ino: u64,
    /// Whose it showed as when it was made: some disks show all as somebody else's.
    uid: u32,
    /// Which folder it is in.
    around: u64,
}

pub(super) struct Destination {
    /// The folder that the user named.
    to: OwnedFd,
    /// Below the hidden one.
    folders: Folders,
    hidden: Hidden,
    /// Nothing was in there before.
    fresh: bool,
    /// It lies in a volume.
    is_ours: bool,
    /// The files that were come to, by device and number. A disk to which `A` and `a` are one has fewer than there are names.
    seen: HashMap<(u64, u64), Vec<u8>>,
}

/// Enters the hidden folder that was made before. Nothing if it isn't there, or something that somebody put in its place is.
fn enter_hidden(to: &OwnedFd, is_shared: bool, hidden: &Hidden) -> io::Result<Option<OwnedFd>> {
    let inside = match enter(to, hidden.name.as_bytes()) {
        Ok(inside) => inside,
        Err(e) if e.kind() == io::ErrorKind::NotFound || is_no_folder(&e) => return Ok(None),
        Err(e) => return Err(e),
    };
    let about = fstat(&inside)?;
    // In a volume all that one may write to shows as one's own. Elsewhere numbers aren't always the same later.
    let is_it = about.st_uid == hidden.uid && (!is_shared || about.st_ino == hidden.ino);
    Ok(is_it.then_some(inside))
}

/// Whether there is a link, or a file.
fn is_no_folder(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotADirectory || error.raw_os_error() == Some(Errno::LOOP.raw_os_error())
}

impl Destination {
    /// Opens a folder, and in it the hidden one that came of a send before; another one where that is gone.
    ///
    /// # Errors
    /// Also if what is there is another disk, or none, than before.
    pub(super) fn open(place: &Place, before: Option<&Hidden>) -> io::Result<Self> {
        let to = place.open()?;
        if let Some(hidden) = before {
            if let Some(inside) = enter_hidden(&to, place.is_shared(), hidden)? {
                return Ok(Self::new(to, inside, hidden.clone(), false, place));
            }
            if fstat(&to)?.st_ino != hidden.around {
                return Err(io::Error::new(
                    io::ErrorKind::NotFound,
                    "what came of it before is not there: is its disk?",
                ));
            }
        }
        let mut bytes = [0; 16];
        OsEntropy.fill(&mut bytes);
        let name = format!("{HIDDEN}{}", HEXLOWER.encode(&bytes));
        mkdirat(&to, &name, Mode::RWXU)?;
        let inside = enter(&to, name.as_bytes())?;
        let (about, around) = (fstat(&inside)?, fstat(&to)?.st_ino);
        let hidden = Hidden { name, ino: about.st_ino, uid: about.st_uid, around };
        Ok(Self::new(to, inside, hidden, true, place))
    }

    /// Opens it where it was before.
    ///
    /// # Errors
    /// Also if it isn't there: its disk may be elsewhere.
    pub(super) fn again(place: &Place, hidden: &Hidden) -> io::Result<Self> {
        let to = place.open()?;
        let inside = enter_hidden(&to, place.is_shared(), hidden)?.ok_or(io::ErrorKind::NotFound)?;
        Ok(Self::new(to, inside, hidden.clone(), false, place))
    }

    fn new(to: OwnedFd, inside: OwnedFd, hidden: Hidden, fresh: bool, place: &Place) -> Self {
        Self { to, folders: Folders::new(inside), hidden, fresh, is_ours: place.is_shared(), seen: HashMap::new() }
    }

    /// Whether nothing can be there of it yet.
    pub(super) fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// How many files and folders came.
    pub(super) fn came(&self) -> io::Result<u64> {
        if self.fresh { Ok(0) } else { entries_below(self.folders.root().try_clone_to_owned()?) }
    }

    /// What to find it by again.
    pub(super) fn hidden(&self) -> &Hidden {
        &self.hidden
    }

    /// Whether a file is another one than all before.
    fn is_new(&mut self, about: &Metadata, path: &[u8]) -> bool {
        match self.seen.entry((about.dev(), about.ino())) {
            hash_map::Entry::Vacant(place) => {
                place.insert(path.to_vec());
                true
            }
            hash_map::Entry::Occupied(place) => place.get() == path,
        }
    }

    /// How many bytes the disk has room for, and how many files. What isn't told is no limit.
    pub(super) fn room(&self) -> Room {
        let Ok(disk) = fstatvfs(&self.to) else { return Room { bytes: u64::MAX, files: u64::MAX, block: 1 } };
        Room {
            bytes: disk.f_bavail.saturating_mul(disk.f_frsize),
            files: if disk.f_files == 0 { u64::MAX } else { disk.f_favail },
            block: disk.f_frsize,
        }
    }

    /// Takes away what is there of an earlier manifest and not of this one, and makes the folders.
    pub(super) fn prepare(&mut self, manifest: &Manifest) -> io::Result<()> {
        if !self.fresh {
            let kind = |entry: &Entry| match entry.kind {
                Kind::Folder => FileType::Directory,
                Kind::File { .. } => FileType::RegularFile,
            };
            let kinds = manifest.entries().iter().map(|entry| (&entry.path[..], kind(entry))).collect();
            prune(self.folders.root().try_clone_to_owned()?, b"", &kinds)?;
        }
        for Entry { path, kind } in manifest.entries() {
            if matches!(kind, Kind::Folder) {
                let (folder, name) = self.folders.around(path)?;
                match mkdirat(folder, name, Mode::RWXU) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(e) => return Err(e.into()),
                }
            }
        }
        Ok(())
    }

    /// How much of a file of `size` bytes is there, and what hashes it; nothing if it has to begin.
    pub(super) fn have(&mut self, path: &[u8], size: u64, stop: &Stop) -> io::Result<Option<(u64, Hasher)>> {
        if self.fresh {
            return Ok(None);
        }
        let (folder, name) = self.folders.around(path)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let mut file: File = match openat(folder, name, flags, Mode::empty()) {
            Ok(file) => file.into(),
            Err(Errno::NOENT) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let there = file.metadata()?;
        if !there.is_file() || there.len() == 0 || there.len() > size || !self.is_new(&there, path) {
            return Ok(None);
        }
        let mut hasher = contents::hasher();
        let whole = read_exactly(&mut file, there.len(), stop, &mut |bytes| hasher.update(bytes))?;
        Ok(whole.then_some((there.len(), hasher)))
    }

    /// Opens a file to be written from `at` on; what was there beyond is gone.
    pub(super) fn file(&mut self, path: &[u8], executable: bool, at: u64) -> io::Result<Writing> {
        let (folder, name) = self.folders.around(path)?;
        let mode = if executable { Mode::RWXU } else { Mode::RUSR | Mode::WUSR };
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let mut file: File = openat(folder, name, flags, mode)?.into();
        let about = file.metadata()?;
        if !about.is_file() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if !self.is_new(&about, path) {
            return Err(io::Error::other("two names of it are one on this disk"));
        }
        if !self.fresh {
            rustix::fs::fchmod(&file, mode)?;
            file.set_len(at)?;
            io::Seek::seek(&mut file, io::SeekFrom::Start(at))?;
        }
        Ok(Writing { file, at, out: at })
    }

    /// Takes a file away that is not what was sent.
    pub(super) fn drop_file(&mut self, path: &[u8]) -> io::Result<()> {
        let (folder, name) = self.folders.around(path)?;
        let about = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW);
        match unlinkat(folder, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {
                // The next file may get its number.
                about.iter().for_each(|about| drop(self.seen.remove(&(about.st_dev, about.st_ino))));
                Ok(())
            }
            Err(e) => Err(e.into()),
        }
    }

    /// Moves everything at the top out of the hidden folder. Gives the names under which it is there, also if there is more that
    /// can't be moved.
    pub(super) fn place(&mut self) -> (Vec<Vec<u8>>, io::Result<()>) {
        let mut placed = Vec::new();
        let moved = listed(self.folders.root()).and_then(|all| {
            all.into_iter().try_for_each(|(name, _)| {
                placed.push(move_out(self.folders.root(), &name, &self.to)?);
                Ok(())
            })
        });
        (placed, moved)
    }

    /// Takes away all that came.
    pub(super) fn clear(&self) -> io::Result<()> {
        prune(self.folders.root().try_clone_to_owned()?, b"", &HashMap::new())
    }

    /// Has the disk keep what came, wherever it lies.
    pub(super) fn sync(&self) -> io::Result<()> {
        rustix::fs::syncfs(&self.to)?;
        // That reaches no file system of a program's own. p2pfs syncs all that it has with a folder, others file by file.
        if fstatfs(&self.to)?.f_type == FUSE && !self.is_ours {
            sync_below(self.folders.root().try_clone_to_owned()?)?;
        }
        Ok(rustix::fs::fsync(self.folders.root())?)
    }

    /// Has the disk keep where it lies.
    pub(super) fn sync_names(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.to)?)
    }
}

/// A file that is being written.
///
/// The disk is set to work while more comes, so that little is left to be synced at the end.
pub(super) struct Writing {
    file: File,
    /// How long it is, and how much of that the disk was told to write, in bytes.
    at: u64,
    out: u64,
}

impl Write for Writing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.at += written as u64;
        if let Some(length) = NonZeroU64::new(self.at - self.out).filter(|length| length.get() >= WRITE_OUT) {
            // What isn't needed in memory is written out first, without waiting for it. Some file systems don't listen.
            let _ = fadvise(&self.file, self.out, Some(length), Advice::DontNeed);
            self.out = self.at;
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a disk has room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) bytes: u64,
    pub(super) files: u64,
    /// What each file takes at least, in bytes.
    pub(super) block: u64,
}

impl Room {
    /// Whether it takes so many bytes in so many files and folders, and leaves some for others.
    pub(super) fn has(&self, bytes: u64, files: u64) -> bool {
        let need = bytes.saturating_add(files.saturating_mul(self.block)).saturating_add(RESERVE);
        self.bytes >= need && self.files >= files.saturating_add(RESERVED_FILES)
    }
}

/// Takes away what came of a send that is wanted no more.
///
/// # Errors
/// Also if its folder isn't there, which may come back with its disk.
pub(super) fn discard(place: &Place, hidden: &Hidden) -> io::Result<()> {
    let to = place.open()?;
    match enter_hidden(&to, place.is_shared(), hidden)? {
        Some(inside) => {
            prune(inside, b"", &HashMap::new())?;
            Ok(unlinkat(&to, &hidden.name, AtFlags::REMOVEDIR)?)
        }
        None if fstat(&to)?.st_ino == hidden.around => Ok(()),
        // Its disk isn't mounted there now.
        None => Err(io::ErrorKind::NotFound.into()),
    }
}

/// Syncs everything in a folder, file by file.
fn sync_below(folder: OwnedFd) -> io::Result<()> {
    for (name, kind) in listed(&folder)? {
        if kind == FileType::Directory {
            sync_below(enter(&folder, &name)?)?;
        } else {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            rustix::fs::fsync(openat(&folder, name.as_slice(), flags, Mode::empty())?)?;
        }
    }
    Ok(rustix::fs::fsync(&folder)?)
}

/// The names in a folder, and what they are.
fn listed(folder: impl AsFd) -> io::Result<Vec<(Vec<u8>, FileType)>> {
    let mut all = Vec::new();
    for entry in Dir::read_from(&folder)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            let about = statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
            all.push((name.to_vec(), FileType::from_raw_mode(about.st_mode)));
        }
    }
    all.sort_unstable_by(|one, other| one.0.cmp(&other.0));
    Ok(all)
}

/// How many files and folders are below a folder.
fn entries_below(folder: OwnedFd) -> io::Result<u64> {
    let mut all = 0;
    for (name, kind) in listed(&folder)? {
        all += 1;
        if kind == FileType::Directory {
            all += entries_below(enter(&folder, &name)?)?;
        }
    }
    Ok(all)
}

/// Takes away all below a folder that isn't among `kinds`, as a folder or as a file.
fn prune(folder: OwnedFd, path: &[u8], kinds: &HashMap<&[u8], FileType>) -> io::Result<()> {
    for (name, kind) in listed(&folder)? {
        let is_folder = kind == FileType::Directory;
        let path = if path.is_empty() { name.clone() } else { [path, b"/", &name].concat() };
        let stays = kinds.get(&path[..]) == Some(&kind);
        if is_folder {
            prune(enter(&folder, &name)?, &path, kinds)?;
        }
        if !stays {
            let how = if is_folder { AtFlags::REMOVEDIR } else { AtFlags::empty() };
            unlinkat(&folder, name.as_slice(), how)?;
        }
    }
    Ok(())
}

/// Moves `name` from one folder to another, where it gets another name if that is taken. Gives the name.
fn move_out(from: impl AsFd, name: &[u8], to: &OwnedFd) -> io::Result<Vec<u8>> {
    let is_folder =
        FileType::from_raw_mode(statat(&from, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode) == FileType::Directory;
    for number in 1..TRIES {
        let free = numbered(name, number, is_folder);
        match renameat_with(&from, name, to, free.as_slice(), RenameFlags::NOREPLACE) {
            Ok(()) => return Ok(free),
            Err(Errno::EXIST) => {}
            // Some file systems can't do it in one step: there the name is taken first.
            Err(Errno::INVAL | Errno::NOSYS) => match claim_and_move(&from, name, to, &free, is_folder) {
                Ok(()) => return Ok(free),
                Err(Errno::EXIST) => {}
                Err(e) => return Err(e.into()),
            },
            Err(e) => return Err(e.into()),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

fn claim_and_move(from: &impl AsFd, name: &[u8], to: &OwnedFd, free: &[u8], is_folder: bool) -> rustix::io::Result<()> {
    if is_folder {
        mkdirat(to, free, Mode::RWXU)?;
        // Over an empty folder, and nothing else.
        return renameat(from, name, to, free);
    }
    match linkat(from, name, to, free, AtFlags::empty()) {
        Ok(()) => unlinkat(from, name, AtFlags::empty()),
        Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS) => {
            // Over an empty file that nobody else made.
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            drop(openat(to, free, flags, Mode::RUSR | Mode::WUSR)?);
            renameat(from, name, to, free)
        }
        Err(e) => Err(e),
    }
}

/// The name under which something arrives: as it was sent, or the `number`th of that name. Nothing arrives hidden, since
/// programs read such files of their own accord.
fn numbered(name: &[u8], number: u32, is_folder: bool) -> Vec<u8> {
    let shown = if name.starts_with(b".") { [b"_", name].concat() } else { name.to_vec() };
    let mark = if number > 1 { format!(" ({number})") } else { String::new() };
    let dot = shown.iter().rposition(|byte| *byte == b'.').filter(|at| !is_folder && *at > 0 && shown.len() - at <= 16);
    let (stem, end) = shown.split_at(dot.unwrap_or(shown.len()));
    let (stem, end) = match stem.strip_suffix(b".tar") {
        Some(stem) if dot.is_some() && !stem.is_empty() => (stem, [b".tar", end].concat()),
        _ => (stem, end.to_vec()),
    };
    let most = MAX_NAME - mark.len() - end.len();
    let cut = (0..=most.min(stem.len())).rev().find(|at| stem.get(*at).is_none_or(|byte| byte & 0xC0 != 0x80));
    [&stem[..cut.unwrap_or(0)], mark.as_bytes(), &end].concat()
}

/// Names of files that are there whole, for those who look at them.
pub(super) fn shown(names: &[Vec<u8>], to: &Path) -> Vec<String> {
    let seen: HashSet<&Vec<u8>> = names.iter().collect();
    debug_assert_eq!(seen.len(), names.len(), "nothing is moved onto another");
    names.iter().map(|name| to.join(std::ffi::OsStr::from_bytes(name)).display().to_string()).collect()
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{PermissionsExt, symlink},
    };

    use peer_net::sends::manifest::ClaimedManifest;
    use serde_bytes::ByteBuf;

    use super::*;

    fn at(path: &Path) -> Place {
        Place::named(path).unwrap()
    }

    fn open(to: &Path) -> Destination {
        Destination::open(&at(to), None).unwrap()
    }

    /// As after a cut.
    fn again(to: &Path, before: &Destination) -> Destination {
        Destination::again(&at(to), before.hidden()).unwrap()
    }

    fn manifest(entries: &[(&str, Option<u64>)]) -> Manifest {
        let entry = |(path, size): &(&str, Option<u64>)| Entry {
            path: ByteBuf::from(path.as_bytes()),
            kind: size.map_or(Kind::Folder, |size| Kind::File { size, executable: false }),
        };
        let mut claimed = ClaimedManifest::default();
        claimed.add(entries.iter().map(entry).collect()).unwrap();
        claimed.check().unwrap()
    }

    fn put(to: &mut Destination, path: &str, bytes: &str) {
        to.file(path.as_bytes(), false, 0).unwrap().write_all(bytes.as_bytes()).unwrap();
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_arrives_replaces_nothing() {
        let here = tempfile::tempdir().unwrap();
        fs::write(here.path().join("f.txt"), "mine").unwrap();
        fs::create_dir(here.path().join("d")).unwrap();
        symlink("/nowhere", here.path().join("l")).unwrap();
        let mut to = open(here.path());
        to.prepare(&manifest(&[("d", None), ("d/x", Some(1)), ("f.txt", Some(3)), ("l", Some(1)), (".rc", Some(1))]))
            .unwrap();
        put(&mut to, "d/x", "x");
        put(&mut to, "f.txt", "new");
        put(&mut to, "l", "l");
        put(&mut to, ".rc", "r");
        assert_eq!(names(here.path()), [&*to.hidden.name, "d", "f.txt", "l"]);
        let (placed, moved) = to.place();
        moved.and_then(|()| to.sync()).unwrap();
        discard(&at(here.path()), to.hidden()).unwrap();
        assert_eq!(placed, [&b"_.rc"[..], b"d (2)", b"f (2).txt", b"l (2)"]);
        assert_eq!(names(here.path()), ["_.rc", "d", "d (2)", "f (2).txt", "f.txt", "l", "l (2)"]);
        assert_eq!(fs::read(here.path().join("f.txt")).unwrap(), b"mine");
        assert_eq!(fs::read(here.path().join("d (2)/x")).unwrap(), b"x");
        assert_eq!(names(&here.path().join("d")), [""; 0]);
        assert_eq!(fs::metadata(here.path().join("f (2).txt")).unwrap().permissions().mode() & 0o7777, 0o600);
    }

    #[test]
    fn a_file_system_that_only_replaces_is_asked_for_the_name_first() {
        let here = tempfile::tempdir().unwrap();
        let (from, to) = (here.path().join("from"), here.path().join("to"));
        fs::create_dir_all(from.join("d")).unwrap();
        fs::create_dir_all(to.join("d")).unwrap();
        fs::write(from.join("f"), "new").unwrap();
        fs::write(to.join("f"), "mine").unwrap();
        let (from_fd, to_fd) = (at(&from).open().unwrap(), at(&to).open().unwrap());
        for (name, is_folder) in [("d", true), ("f", false)] {
            let moved = |free: &[u8]| claim_and_move(&from_fd, name.as_bytes(), &to_fd, free, is_folder);
            assert_eq!(moved(name.as_bytes()), Err(Errno::EXIST));
            moved(b"free").unwrap();
            let free = to.join("free");
            if is_folder { fs::remove_dir(free).unwrap() } else { fs::remove_file(free).unwrap() }
        }
        assert_eq!(fs::read(to.join("f")).unwrap(), b"mine");
    }

    #[test]
    fn what_is_there_is_found_again_and_what_is_no_longer_sent_goes() {
        let here = tempfile::tempdir().unwrap();
        let mut to = open(here.path());
        to.prepare(&manifest(&[("d", None), ("d/whole", Some(5)), ("d/part", Some(9)), ("gone", None)])).unwrap();
        assert!(to.have(b"d/whole", 5, &Stop::default()).unwrap().is_none());
        put(&mut to, "d/whole", "whole");
        put(&mut to, "d/part", "par");
        put(&mut to, "d/stale", "stale");
        put(&mut to, "gone/x", "x");
        let mut to = again(here.path(), &to);
        to.prepare(&manifest(&[("d", None), ("d/whole", Some(5)), ("d/part", Some(9)), ("gone", Some(1))])).unwrap();
        let (size, hasher) = to.have(b"d/part", 9, &Stop::default()).unwrap().unwrap();
        let mut expected = contents::hasher();
        expected.update(b"par");
        assert_eq!((size, hasher.finish()), (3, expected.finish()));
        assert_eq!(to.have(b"d/whole", 5, &Stop::default()).unwrap().unwrap().0, 5);
        assert!(to.have(b"d/whole", 4, &Stop::default()).unwrap().is_none(), "longer than it is to be");
        assert!(to.have(b"gone", 1, &Stop::default()).unwrap().is_none());
        to.file(b"d/part", true, 2).unwrap().write_all(b"ADDED").unwrap();
        to.drop_file(b"d/whole").unwrap();
        put(&mut to, "gone", "1");
        to.place().1.unwrap();
        assert_eq!(names(&here.path().join("d")), ["part"]);
        assert_eq!(fs::read(here.path().join("d/part")).unwrap(), b"paADDED");
        assert_eq!(fs::metadata(here.path().join("d/part")).unwrap().permissions().mode() & 0o7777, 0o700);
    }

    #[test]
    fn links_in_the_hidden_folder_lead_nowhere() {
        let here = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("f"), "theirs").unwrap();
        let mut to = open(here.path());
        let inside = here.path().join(&to.hidden.name);
        symlink(outside.path(), inside.join("d")).unwrap();
        symlink(outside.path().join("f"), inside.join("f")).unwrap();
        assert!(to.file(b"d/new", false, 0).is_err() && to.file(b"f", false, 0).is_err());
        let mut to = again(here.path(), &to);
        assert!(to.have(b"f", 100, &Stop::default()).is_err() && to.have(b"d/f", 100, &Stop::default()).is_err());
        to.prepare(&manifest(&[("d", None), ("d/f", Some(1)), ("f", Some(1))])).unwrap();
        put(&mut to, "d/f", "x");
        put(&mut to, "f", "y");
        discard(&at(here.path()), to.hidden()).unwrap();
        assert_eq!((names(here.path()), names(outside.path())), (vec![], vec!["f".to_owned()]));
        assert_eq!(fs::read(outside.path().join("f")).unwrap(), b"theirs");
        // A link in place of the hidden folder itself.
        symlink(outside.path(), &inside).unwrap();
        assert!(Destination::again(&at(here.path()), to.hidden()).is_err());
        assert_ne!(Destination::open(&at(here.path()), Some(to.hidden())).unwrap().hidden(), to.hidden());
        discard(&at(here.path()), to.hidden()).unwrap();
        assert_eq!(names(outside.path()), ["f"]);
    }

    #[test]
    fn names_that_the_disk_takes_for_one_are_refused() {
        let here = tempfile::tempdir().unwrap();
        let mut to = open(here.path());
        put(&mut to, "README", "long");
        // As if the disk didn't tell capitals from others.
        let inside = here.path().join(&to.hidden.name);
        fs::hard_link(inside.join("README"), inside.join("Readme")).unwrap();
        assert!(to.file(b"Readme", false, 0).is_err());
        assert_eq!(fs::read(inside.join("README")).unwrap(), b"long");
        let mut again = again(here.path(), &to);
        assert!(
            again.have(b"README", 4, &Stop::default()).unwrap().is_some()
                && again.have(b"Readme", 4, &Stop::default()).unwrap().is_none()
        );
        assert!(again.file(b"Readme", false, 0).is_err());
        // Whoever comes after one that was taken away may get its place.
        again.drop_file(b"README").unwrap();
        put(&mut again, "other", "x");
        // Two sends share nothing.
        let mut other = open(here.path());
        put(&mut other, "other", "other's");
        assert_eq!(fs::read(inside.join("other")).unwrap(), b"x");
    }

    #[test]
    fn what_is_not_where_it_was_is_not_there() {
        let (here, disk) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut to = open(disk.path());
        put(&mut to, "f", "x");
        // As if another disk, or none, were mounted there.
        assert!(Destination::again(&at(here.path()), to.hidden()).is_err());
        assert!(Destination::open(&at(here.path()), Some(to.hidden())).is_err());
        assert_eq!(names(here.path()), [""; 0]);
        assert!(discard(&at(here.path()), to.hidden()).is_err(), "it may come back");
        again(disk.path(), &to).clear().unwrap();
        assert_eq!(names(&disk.path().join(&to.hidden.name)), [""; 0]);
    }

    #[test]
    fn room_is_left_for_others() {
        let room = Room { bytes: 20 << 20, files: 2000, block: 4096 };
        assert!(room.has(1 << 20, 10) && !room.has(5 << 20, 0) && !room.has(0, 2000) && !room.has(3 << 20, 900));
    }

    #[test]
    fn names_that_are_taken_get_a_number() {
        let check = |name: &str, number, folder, expected: &str| {
            assert_eq!(String::from_utf8(numbered(name.as_bytes(), number, folder)).unwrap(), expected);
        };
        check("a.txt", 1, false, "a.txt");
        check("a.txt", 2, false, "a (2).txt");
        check("a.tar.gz", 3, false, "a (3).tar.gz");
        check("v1.5", 2, true, "v1.5 (2)");
        check("plain", 2, false, "plain (2)");
        check(".bashrc", 1, false, "_.bashrc");
        check(".bashrc", 2, false, "_ (2).bashrc");
        check(".ssh", 1, true, "_.ssh");
        let long = "é".repeat(127);
        check(&long, 2, false, &format!("{} (2)", "é".repeat(125)));
        assert!(numbered(&[b'.'; 255], 12, false).len() <= MAX_NAME);
    }
}
