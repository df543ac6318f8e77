//! What is sent: finding it, and reading it as it is now.
//!
//! Links and what is neither file nor folder are left out, and so are names that nobody would take.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::MetadataExt},
    },
    path::{Path, PathBuf},
};

use crypto::{Hash, Hasher};
use peer_net::sends::{
    Have, contents,
    manifest::{ClaimedManifest, Entry, Kind, MAX_ENTRIES, MAX_PATH, Manifest, is_name},
    pipe::Stop,
};
use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, openat, statat},
    io::Errno,
};
use serde_bytes::ByteBuf;

use super::{
    folders::{Folders, enter},
    place::{self, Top},
};
use crate::failure::{Because, Failure, Outcome, plain};

/// How files and folders are opened. What is no file any more must not keep anybody waiting.
const READ: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK);
/// How much is read at a time.
const PIECE: usize = 256 << 10;
/// Who is as deep is left out: others take no deeper ones.
const MAX_DEPTH: usize = 100;

/// What is sent, as it was found.
pub(super) struct Source {
    pub(super) manifest: Manifest,
    /// Links and the like that are left out.
    pub(super) skipped: u64,
    /// Which files and folders these are, of those that lie in a volume: another hash when others are in their places.
    pub(super) identity: Option<Hash>,
    /// By the names at the top.
    tops: Vec<(Vec<u8>, PathBuf)>,
    /// Which file each path was, of those that lie in a volume.
    inos: HashMap<Vec<u8>, u64>,
    /// Where a file was read last.
    last: Option<(Vec<u8>, Folders)>,
}

#[derive(Default)]
struct Found {
    entries: Vec<Entry>,
    skipped: u64,
    identity: Option<Hasher>,
    inos: HashMap<Vec<u8>, u64>,
    /// What is looked at now lies in a volume.
    shared: bool,
}

impl Source {
    /// Looks at what is there.
    ///
    /// # Errors
    /// Something is not there, or it is more than can be sent.
    pub(super) fn find(named: &[Top]) -> Result<Self, NotFound> {
        let mut found = Found::default();
        let mut tops: Vec<(Vec<u8>, PathBuf)> = Vec::new();
        for top in named {
            let (path, name) = (top.path(), top.name.to_vec());
            let shown = || path.display().to_string();
            let never = |why: String| NotFound::Never(Failure::new(why));
            if !is_name(&name) {
                return Err(never(format!("{} has no name that can be sent", shown())));
            }
            if tops.iter().any(|(other, _)| *other == name) {
                return Err(never(format!("two of these are called {}", String::from_utf8_lossy(&name))));
            }
            // What can't be read is told now, and not when it is waited for.
            let there = File::from(place::open(&path, READ).because(shown)?);
            let about = there.metadata().because(shown)?;
            found.shared = place::is_shared(&path);
            found.identify(&name, about.ino());
            if about.is_dir() {
                found.entries.push(Entry { path: ByteBuf::from(name.clone()), kind: Kind::Folder });
                found.below(there.into(), &name, 1)?;
            } else if about.is_file() {
                let kind = Kind::File { size: about.len(), executable: about.mode() & 0o100 != 0 };
                found.entries.push(Entry { path: ByteBuf::from(name.clone()), kind });
            } else {
                return Err(never(format!("{} is neither a file nor a folder", shown())));
            }
            tops.push((name, path));
        }
        let mut claimed = ClaimedManifest::default();
        let too_much = |why| NotFound::Never(Failure::new(format!("it can't be sent: {why}")));
        claimed.add(found.entries).map_err(too_much)?;
        let manifest = claimed.check().map_err(too_much)?;
        let identity = found.identity.map(|hasher| hasher.finish());
        Ok(Self { manifest, skipped: found.skipped, identity, tops, inos: found.inos, last: None })
    }

    /// Opens the file at `path` of the manifest, and none that was put in its place in a volume since.
    fn open(&mut self, path: &[u8]) -> io::Result<File> {
        let file = self.open_at(path)?;
        match self.inos.get(path) {
            Some(ino) if *ino != file.metadata()?.ino() => Err(io::ErrorKind::InvalidInput.into()),
            _ => Ok(file),
        }
    }

    fn open_at(&mut self, path: &[u8]) -> io::Result<File> {
        let top = path.split(|byte| *byte == b'/').next().unwrap_or_default();
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        let (_, from) = self.tops.iter().find(|(name, _)| name == top).ok_or_else(missing)?;
        let Some(below) = path.get(top.len() + 1..) else {
            return regular(place::open(from, READ)?.into());
        };
        if self.last.as_ref().is_none_or(|(last, _)| last != top) {
            self.last = Some((top.to_vec(), Folders::new(place::open(from, READ | OFlags::DIRECTORY)?)));
        }
        let (_, folders) = self.last.as_mut().ok_or_else(missing)?;
        let (folder, name) = folders.around(below)?;
        regular(openat(folder, name, READ | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?.into())
    }

    /// Sends the contents of one entry, from where the receiver has them on; `write` takes what is to be sent.
    pub(super) fn give(
        &mut self,
        path: &[u8],
        size: u64,
        have: Option<&Have>,
        out: &mut Sending<'_>,
    ) -> Result<Given, NotGiven> {
        let unreadable = |e: io::Error| {
            NotGiven::Unreadable(format!("{} can't be read: {}", String::from_utf8_lossy(path), plain(&e)))
        };
        let mut file = match self.open(path) {
            Ok(file) => file,
            // It is gone, or another kind of thing.
            Err(e) if is_change(&e) => {
                contents::begin(&mut out.pending, 0)?;
                contents::break_off(&mut out.pending)?;
                return Ok(Given::Changed);
            }
            Err(e) => return Err(unreadable(e)),
        };
        let as_it_is = |file: &File| -> Result<_, NotGiven> {
            let about = file.metadata().map_err(unreadable)?;
            Ok((about.len(), about.mtime(), about.mtime_nsec()))
        };
        let before = as_it_is(&file)?;
        let (mut hasher, mut at) = (contents::hasher(), 0);
        if let Some(have) = have.filter(|have| have.size <= size && before.0 == size) {
            let read =
                read_exactly(&mut file, have.size, out.stop, &mut |bytes| hasher.update(bytes)).map_err(unreadable)?;
            if out.stop.is_stopped() {
                return Err(NotGiven::Broken(io::ErrorKind::Interrupted.into()));
            }
            if read && hasher.finish() == have.hash {
                at = have.size;
            } else {
                hasher = contents::hasher();
                file.seek(SeekFrom::Start(0)).map_err(unreadable)?;
            }
        }
        let differs = have.is_some_and(|have| have.size != at);
        contents::begin(&mut out.pending, at)?;
        out.passed(at);
        while at < size && before.0 == size {
            let want = PIECE.min(usize::try_from(size - at).unwrap_or(PIECE));
            let start = out.pending.len() + 4;
            out.pending.resize(start + want, 0);
            let read = file.read(&mut out.pending[start..]).map_err(unreadable)?;
            out.pending.truncate(start + read);
            if read == 0 {
                out.pending.truncate(start - 4);
                break;
            }
            let head = u32::try_from(read).map_err(io::Error::other)?;
            out.pending[start - 4..start].copy_from_slice(&head.to_le_bytes());
            hasher.update(&out.pending[start..]);
            at += read as u64;
            out.flush_if_full()?;
        }
        if at == size && before.0 == size && as_it_is(&file)? == before {
            contents::end(&mut out.pending, &hasher.finish())?;
            out.flush_if_full()?;
            return Ok(if differs { Given::Anew } else { Given::Whole });
        }
        contents::break_off(&mut out.pending)?;
        Ok(Given::Changed)
    }
}

/// Why what is to be sent can't be looked through.
#[derive(Debug)]
pub(super) enum NotFound {
    /// It can't be sent.
    Never(Failure),
    /// It can't be read now.
    Now(Failure),
}

impl From<Failure> for NotFound {
    fn from(why: Failure) -> Self {
        Self::Now(why)
    }
}

impl From<NotFound> for Failure {
    fn from(why: NotFound) -> Self {
        match why {
            NotFound::Never(why) | NotFound::Now(why) => why,
        }
    }
}

/// Why nothing became of a file.
#[derive(Debug)]
pub(super) enum NotGiven {
    /// It can't be read here, in words.
    Unreadable(String),
    /// The stream broke.
    Broken(io::Error),
}

impl From<io::Error> for NotGiven {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

/// Whether a file can't be opened since it isn't there any more as the file that it was.
fn is_change(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::InvalidInput)
        || error.raw_os_error() == Some(Errno::LOOP.raw_os_error())
}

/// What became of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Given {
    Whole,
    /// All of it went, as it was another one when a part of it went before.
    Anew,
    /// It changed while it was read, or is gone.
    Changed,
}

/// What waits to be sent.
pub(super) struct Sending<'a> {
    pending: Vec<u8>,
    write: &'a mut dyn FnMut(Vec<u8>) -> io::Result<()>,
    passed: &'a mut dyn FnMut(u64),
    stop: &'a Stop,
}

impl<'a> Sending<'a> {
    /// `write` sends bytes; `passed` is told how many of a file need not be sent.
    pub(super) fn new(
        write: &'a mut dyn FnMut(Vec<u8>) -> io::Result<()>,
        passed: &'a mut dyn FnMut(u64),
        stop: &'a Stop,
    ) -> Self {
        Self { pending: Vec::new(), write, passed, stop }
    }

    fn passed(&mut self, bytes: u64) {
        (self.passed)(bytes);
    }

    fn flush_if_full(&mut self) -> io::Result<()> {
        if self.pending.len() >= PIECE { self.flush() } else { Ok(()) }
    }

    /// Sends what waits.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        let full = std::mem::replace(&mut self.pending, Vec::with_capacity(PIECE + 64));
        if full.is_empty() { Ok(()) } else { (self.write)(full) }
    }
}

impl Found {
    /// Remembers which file or folder that is, if it lies where others may put another in its place.
    fn identify(&mut self, path: &[u8], ino: u64) {
        if self.shared {
            let identity = self.identity.get_or_insert_with(contents::hasher);
            identity.update(&(path.len() as u64).to_le_bytes());
            identity.update(path);
            identity.update(&ino.to_le_bytes());
            self.inos.insert(path.to_vec(), ino);
        }
    }

    /// Adds what is in a folder, in the order of names.
    fn below(&mut self, folder: OwnedFd, path: &[u8], depth: usize) -> Result<(), NotFound> {
        let now =
            |e: io::Error| NotFound::Now(Failure::new(format!("{}: {}", String::from_utf8_lossy(path), plain(&e))));
        let mut names = Vec::new();
        for entry in Dir::read_from(&folder).map_err(io::Error::from).map_err(now)? {
            let entry = entry.map_err(io::Error::from).map_err(now)?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name.to_vec());
            }
        }
        names.sort_unstable();
        for name in names {
            let path = [path, b"/", &name].concat();
            let about = match statat(folder.as_fd(), name.as_slice(), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(about) => about,
                Err(Errno::NOENT) => continue,
                Err(e) => return Err(now(e.into())),
            };
            let fits = is_name(&name) && path.len() <= MAX_PATH && depth + 1 < MAX_DEPTH;
            let (kind, is_folder) = match FileType::from_raw_mode(about.st_mode) {
                FileType::RegularFile if fits => {
                    let size = u64::try_from(about.st_size).unwrap_or(0);
                    (Kind::File { size, executable: about.st_mode & 0o100 != 0 }, false)
                }
                FileType::Directory if fits => (Kind::Folder, true),
                _ => {
                    self.skipped += 1;
                    continue;
                }
            };
            if self.entries.len() > MAX_ENTRIES {
                let why = format!("more than {MAX_ENTRIES} files: pack them into one");
                return Err(NotFound::Never(Failure::new(why)));
            }
            self.identify(&path, about.st_ino);
            self.entries.push(Entry { path: ByteBuf::from(path.clone()), kind });
            if is_folder {
                match enter(folder.as_fd(), &name) {
                    Ok(inside) => self.below(inside, &path, depth + 1)?,
                    // It went meanwhile, or is another thing.
                    Err(e) if is_change(&e) => {}
                    Err(e) => return Err(now(e)),
                }
            }
        }
        Ok(())
    }
}

fn regular(file: File) -> io::Result<File> {
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::ErrorKind::InvalidInput.into()) }
}

/// Reads so many bytes; whether there are as many, and nobody stopped it.
pub(super) fn read_exactly(file: &mut File, count: u64, stop: &Stop, each: &mut dyn FnMut(&[u8])) -> io::Result<bool> {
    let mut buffer = vec![0; PIECE.min(usize::try_from(count).unwrap_or(PIECE))];
    let mut left = count;
    while left > 0 {
        let most = buffer.len().min(usize::try_from(left).unwrap_or(PIECE));
        let read = file.read(&mut buffer[..most])?;
        if read == 0 || stop.is_stopped() {
            return Ok(false);
        }
        each(&buffer[..read]);
        left -= read as u64;
    }
    Ok(true)
}

/// A path that was typed, as the daemon opens it.
///
/// # Errors
/// Nothing is there.
pub(crate) fn absolute(path: &Path) -> Outcome<PathBuf> {
    let full = std::path::absolute(path).because(|| path.display().to_string())?;
    // `folder/.` and `..` are folders as well, and have names.
    match full.file_name() {
        Some(_) if !full.as_os_str().as_bytes().ends_with(b"/.") => {
            std::fs::metadata(&full).map_err(|e| Failure::new(format!("{}: {}", path.display(), plain(&e))))?;
            Ok(full)
        }
        _ => std::fs::canonicalize(&full).because(|| path.display().to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{PermissionsExt, symlink},
    };

    use crypto::Label;

    use super::*;

    fn find(paths: &[PathBuf]) -> Result<Source, NotFound> {
        let tops = paths.iter().map(|path| Top::named(path)).collect::<Outcome<Vec<_>>>()?;
        Source::find(&tops)
    }

    fn given(source: &mut Source, path: &[u8], size: u64, have: Option<&Have>) -> (Given, Vec<u8>, u64) {
        let (mut sent, mut skipped) = (Vec::new(), 0);
        let mut write = |bytes: Vec<u8>| {
            sent.extend(bytes);
            Ok(())
        };
        let (mut passed, stop) = (|bytes| skipped += bytes, Stop::default());
        let mut out = Sending::new(&mut write, &mut passed, &stop);
        let given = source.give(path, size, have, &mut out).unwrap();
        out.flush().unwrap();
        (given, sent, skipped)
    }

    #[test]
    fn a_tree_is_found_without_what_is_no_file() {
        let here = tempfile::tempdir().unwrap();
        let top = here.path().join("top");
        fs::create_dir_all(top.join("b")).unwrap();
        fs::write(top.join("b/program"), "#!").unwrap();
        fs::set_permissions(top.join("b/program"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(top.join("a\nb"), "x").unwrap();
        fs::write(top.join("plain"), "four").unwrap();
        symlink("/etc", top.join("link")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, top.join("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        let source = find(std::slice::from_ref(&top)).unwrap();
        let listed: Vec<_> = source.manifest.entries().iter().map(|e| (e.path.to_vec(), e.kind)).collect();
        assert_eq!(
            listed,
            [
                (b"top".to_vec(), Kind::Folder),
                (b"top/b".to_vec(), Kind::Folder),
                (b"top/b/program".to_vec(), Kind::File { size: 2, executable: true }),
                (b"top/plain".to_vec(), Kind::File { size: 4, executable: false }),
            ]
        );
        assert_eq!(source.skipped, 3);
        assert!(find(&[top.clone(), top.join("b/../../top")]).is_err(), "one name twice");
        assert!(find(&[top.join("nothing")]).is_err() && find(&[top.join("pipe")]).is_err());
        assert_eq!(absolute(&top.join(".")).unwrap(), fs::canonicalize(&top).unwrap());
    }

    #[test]
    fn what_is_there_already_is_not_sent_unless_it_differs() {
        let here = tempfile::tempdir().unwrap();
        let file = here.path().join("f");
        let bytes: Vec<u8> = (0..700_000_u32).map(|n| (n % 251) as u8).collect();
        fs::write(&file, &bytes).unwrap();
        let mut source = find(&[file]).unwrap();
        let size = bytes.len() as u64;
        let (whole, sent, _) = given(&mut source, b"f", size, None);
        assert!(whole == Given::Whole && sent.len() > bytes.len());
        let hash = |bytes: &[u8]| Hash::of_bytes(Label::SentFile, bytes);
        let have = Have { entry: 0, size: 500_000, hash: hash(&bytes[..500_000]) };
        let (whole, sent, passed) = given(&mut source, b"f", size, Some(&have));
        assert!(whole == Given::Whole && sent.len() < 201_000 && passed == 500_000);
        let all = Have { entry: 0, size, hash: hash(&bytes) };
        assert_eq!(given(&mut source, b"f", size, Some(&all)).1.len(), 8 + 4 + 32);
        let other = Have { entry: 0, size: 500_000, hash: hash(b"other") };
        let (anew, sent, passed) = given(&mut source, b"f", size, Some(&other));
        assert!(anew == Given::Anew && sent.len() > bytes.len() && passed == 0);
    }

    #[test]
    fn what_changed_or_became_a_link_is_broken_off() {
        let here = tempfile::tempdir().unwrap();
        let top = here.path().join("top");
        fs::create_dir(&top).unwrap();
        for name in ["shorter", "longer", "gone", "link"] {
            fs::write(top.join(name), "1234").unwrap();
        }
        let mut source = find(std::slice::from_ref(&top)).unwrap();
        fs::write(top.join("shorter"), "123").unwrap();
        fs::write(top.join("longer"), "12345").unwrap();
        fs::remove_file(top.join("gone")).unwrap();
        fs::remove_file(top.join("link")).unwrap();
        symlink("/etc/passwd", top.join("link")).unwrap();
        for name in ["shorter", "longer", "gone", "link"] {
            let (given, sent, _) = given(&mut source, format!("top/{name}").as_bytes(), 4, None);
            assert_eq!((given, &sent[..]), (Given::Changed, &[&[0; 8][..], &[255; 4]].concat()[..]), "{name}");
        }
    }
}
