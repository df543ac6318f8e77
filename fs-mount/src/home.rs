//! Where things lie on this machine: the data folder, and one folder per volume in it.
//!
//! ```text
//! $P2PFS_HOME, or $XDG_DATA_HOME/p2pfs, or ~/.local/share/p2pfs
//!   volumes/<first 16 hex digits of the volume's id>/
//!     format       number of the layout's version
//!     keys         the profile, sealed (crypto's key file)
//!     unlock.key   the key that opens `keys`, when there is no passphrase
//!     state        what changes: last known addresses and the like, sealed
//!     sends        what is being sent, and to whom, sealed
//!     *.copy       a second copy of each of these five
//!     store/ packs/  the volume's records and contents, sealed
//!     commits/     a second copy of the commits, sealed
//!     lock         held by the process that uses the volume; its number is in it
//!     socket       where its daemon listens
//!     log          the daemon's log
//! ```
//!
//! While a volume is being joined its folder is `.join-<the same digits>`: it has the keys that others may know already,
//! and stays until the join is through. One that is being removed is `.gone-<the same digits>`.
//!
//! Invariants: no file or folder name here tells a name, a label or an address; everything is the user's alone
//! (0700, 0600); a volume's folder appears whole or not at all.

use std::{
    env, fs, io,
    io::{Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use crypto::{Entropy, VolumeId};
use data_encoding::HEXLOWER;

use crate::{
    failure::{Because, Failure, Outcome, plain},
    volume_lock::VolumeLock,
};

/// The version of the layout that this program writes, and the newest one it reads.
const FORMAT: u32 = 1;
/// How many hex digits of a volume's id name its folder.
const FOLDER_DIGITS: usize = 16;
/// Folders of volumes that are still being made start like this.
const UNFINISHED: &str = ".new-";
/// The folder of a volume that is being joined: this, and what its name will be.
const JOINING: &str = ".join-";
/// The folder of a volume that is being removed: this, and what its name was.
const GONE: &str = ".gone-";
/// No file that is read whole is larger.
const FILE_LIMIT: u64 = 1 << 20;

/// The folders of this user, or of `$P2PFS_HOME`.
#[derive(Debug, Clone)]
pub(crate) struct Home {
    data: PathBuf,
}

impl Home {
    /// Finds the folders from the environment; makes nothing.
    pub(crate) fn locate() -> Outcome<Self> {
        if let Some(home) = variable("P2PFS_HOME") {
            return Ok(Self { data: std::path::absolute(home).because(|| "P2PFS_HOME".to_owned())? });
        }
        let data = match variable("XDG_DATA_HOME") {
            Some(dir) => PathBuf::from(dir),
            None => user_home()?.join(".local/share"),
        };
        let data = std::path::absolute(data.join("p2pfs")).because(|| "XDG_DATA_HOME".to_owned())?;
        Ok(Self { data })
    }

    /// The folder of all, which may not be there yet.
    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    /// The volumes on this machine, in the order of their ids.
    pub(crate) fn volumes(&self) -> Outcome<Vec<VolumeDir>> {
        let entries = match fs::read_dir(self.data.join("volumes")) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(self.unreadable(&e)),
        };
        let mut volumes = Vec::new();
        for entry in entries {
            let name = entry.map_err(|e| self.unreadable(&e))?.file_name();
            if let Some(short) = name.to_str().filter(|name| is_folder_name(name)) {
                volumes.push(self.volume(short));
            }
        }
        volumes.sort_by(|a, b| a.short.cmp(&b.short));
        Ok(volumes)
    }

    fn unreadable(&self, error: &io::Error) -> Failure {
        Failure::new(format!("reading {}: {}", self.data.display(), plain(error)))
    }

    fn volume(&self, short: &str) -> VolumeDir {
        VolumeDir { path: self.data.join("volumes").join(short), short: short.to_owned() }
    }

    /// The folder that `id` has, or would have.
    pub(crate) fn volume_of(&self, id: &VolumeId) -> VolumeDir {
        self.volume(&id.to_string()[..FOLDER_DIGITS])
    }

    /// Starts a volume's folder under a name of its own; [`NewVolumeDir::finish`] puts it in its place.
    pub(crate) fn start_volume(&self, entropy: &dyn Entropy) -> Outcome<NewVolumeDir> {
        let volumes = self.data.join("volumes");
        private_dir(&volumes)?;
        remove_abandoned(&volumes);
        let random: [u8; 8] = crypto::random_array(entropy);
        let path = volumes.join(format!("{UNFINISHED}{}", HEXLOWER.encode(&random)));
        private_dir(&path)?;
        let lock = VolumeLock::acquire(&path)?;
        let new = NewVolumeDir { home: self.clone(), path, lock: Some(lock), kept: false };
        write_twice(&new.path.join("format"), format!("{FORMAT}\n").as_bytes())?;
        Ok(new)
    }

    /// Removes a volume with all that is in its folder. Cut short, it is no volume any more, and the rest goes with the next
    /// one that is made or removed.
    pub(crate) fn remove_volume(&self, dir: &VolumeDir, lock: VolumeLock) -> Outcome<()> {
        let volumes = self.data.join("volumes");
        if fs::symlink_metadata(&dir.path).is_ok_and(|about| about.is_symlink()) {
            let (link, target) = (dir.path.display(), fs::canonicalize(&dir.path).unwrap_or_else(|_| dir.path.clone()));
            return Err(Failure::new(format!(
                "{link} is a link: remove what is in {}, and then the link",
                target.display()
            )));
        }
        remove_abandoned(&volumes);
        let gone = volumes.join(format!("{GONE}{}", dir.short));
        let renamed = fs::rename(&dir.path, &gone).and_then(|()| fs::File::open(&volumes)?.sync_all());
        renamed.because(|| format!("removing {}", dir.path.display()))?;
        fs::remove_dir_all(&gone).because(|| format!("removing what is left of the volume in {}", gone.display()))?;
        drop(lock);
        Ok(())
    }

    /// The folder in which the volume `id` is being joined: a new one, or the one of a join that was interrupted.
    pub(crate) fn start_joining(&self, id: &VolumeId) -> Outcome<NewVolumeDir> {
        let volumes = self.data.join("volumes");
        private_dir(&volumes)?;
        remove_abandoned(&volumes);
        let path = volumes.join(format!("{JOINING}{}", self.volume_of(id).short));
        private_dir(&path)?;
        let Ok(lock) = VolumeLock::try_acquire(&path)? else {
            return Err(Failure::new("another process is joining this volume: wait until it ends"));
        };
        let kept = path.join("keys").exists();
        let new = NewVolumeDir { home: self.clone(), path, lock: Some(lock), kept };
        if kept {
            VolumeDir { path: new.path.clone(), short: self.volume_of(id).short }.check_format()?;
            // What was taken over so far comes again, and nothing was made here yet. A store whose making was cut short
            // can't be told from a damaged one.
            for begun in ["store", "packs", "commits"] {
                match fs::remove_dir_all(new.path.join(begun)) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => {
                        return Err(e).because(|| "beginning the interrupted join anew".to_owned());
                    }
                    _ => {}
                }
            }
        } else {
            write_twice(&new.path.join("format"), format!("{FORMAT}\n").as_bytes())?;
        }
        Ok(new)
    }
}

/// Removes what an `init`, `join` or `forget` that was killed left behind. One that still runs holds its lock.
fn remove_abandoned(volumes: &Path) {
    let Ok(entries) = fs::read_dir(volumes) else { return };
    for entry in entries.flatten() {
        let unfinished = |name: &str| name.starts_with(UNFINISHED) || name.starts_with(GONE);
        let unfinished = entry.file_name().to_str().is_some_and(unfinished);
        if unfinished && let Ok(_lock) = VolumeLock::acquire(&entry.path()) {
            // Best effort: what stays is tried again by the next one.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn is_folder_name(name: &str) -> bool {
    name.len() == FOLDER_DIGITS && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn variable(name: &str) -> Option<std::ffi::OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

/// The user's home folder.
pub(crate) fn user_home() -> Outcome<PathBuf> {
    variable("HOME").map(PathBuf::from).ok_or_else(|| Failure::new("HOME is not set: set it, or set P2PFS_HOME"))
}

/// Where what others send arrives when nobody says where.
pub(crate) fn inbox() -> PathBuf {
    if let Some(home) = variable("P2PFS_HOME") {
        return PathBuf::from(home).join("inbox");
    }
    // Without a home there is no such folder, and that is told when one is needed.
    let home = variable("HOME").map(PathBuf::from).unwrap_or_default();
    let downloads = home.join("Downloads");
    if downloads.is_dir() { downloads } else { home.join("p2pfs-inbox") }
}

/// The folder of one volume.
#[derive(Debug, Clone)]
pub(crate) struct VolumeDir {
    path: PathBuf,
    short: String,
}

impl VolumeDir {
    /// The folder as another process of this program described it.
    pub(crate) fn from_parts(path: PathBuf, short_id: &str) -> Self {
        Self { path, short: short_id.to_owned() }
    }

    /// The first digits of the volume's id.
    pub(crate) fn short_id(&self) -> &str {
        &self.short
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    /// Where the daemon listens. May be longer than a socket's address can be: see `control::socket`.
    pub(crate) fn socket(&self) -> PathBuf {
        self.path.join("socket")
    }

    /// The folder is there.
    pub(crate) fn exists(&self) -> bool {
        self.path.is_dir()
    }

    /// Whether no other volume lies beside it, as far as that can be seen.
    pub(crate) fn is_only(&self) -> bool {
        let Some(entries) = self.path.parent().and_then(|beside| fs::read_dir(beside).ok()) else { return true };
        let volumes = entries.flatten().filter(|entry| entry.file_name().to_str().is_some_and(is_folder_name));
        volumes.count() < 2
    }

    /// Refuses a layout that this program doesn't know.
    pub(crate) fn check_format(&self) -> Outcome<()> {
        let path = self.path.join("format");
        let text = read_twice(&path, |text| check_format(text, &self.short).is_ok())
            .because(|| format!("reading {}", path.display()))?;
        check_format(&text, &self.short)
    }
}

fn check_format(text: &[u8], short: &str) -> Outcome<()> {
    let number = std::str::from_utf8(text).ok().and_then(|t| t.strip_suffix('\n')).and_then(|t| t.parse::<u32>().ok());
    match number {
        Some(FORMAT) => Ok(()),
        Some(newer) if newer > FORMAT => Err(Failure::new(format!(
            "volume {short} is stored in format version {newer}, this p2pfs knows version {FORMAT}: use a newer p2pfs"
        ))),
        _ => Err(Failure::new(format!("volume {short}: its format file is damaged"))),
    }
}

/// A volume's folder in the making. Dropped unfinished, it is gone, unless it is kept.
pub(crate) struct NewVolumeDir {
    home: Home,
    path: PathBuf,
    lock: Option<VolumeLock>,
    kept: bool,
}

impl NewVolumeDir {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether its keys were there before, from a join that was interrupted.
    pub(crate) fn is_kept(&self) -> bool {
        self.kept
    }

    /// Makes it durable, keys and all: others may soon know this device, and it must be able to go on as the same.
    pub(crate) fn keep(&mut self) -> Outcome<()> {
        let mut folders = vec![self.path.as_path()];
        folders.extend(self.path.ancestors().skip(1).take_while(|above| above.starts_with(&self.home.data)));
        folders.extend(self.home.data.parent());
        for folder in folders {
            fs::File::open(folder).and_then(|d| d.sync_all()).because(|| "writing to the disk".to_owned())?;
        }
        self.kept = true;
        Ok(())
    }

    /// Takes [`Self::keep`] back.
    pub(crate) fn discard(&mut self) {
        self.kept = false;
    }

    /// Makes everything in it durable and gives it its name.
    ///
    /// # Errors
    /// The volume is on this machine already, or the disk fails; then nothing stays.
    pub(crate) fn finish(mut self, id: &VolumeId) -> Outcome<VolumeDir> {
        let dir = self.home.volume_of(id);
        sync_tree(&self.path).because(|| "writing to the disk".to_owned())?;
        fs::rename(&self.path, &dir.path).map_err(|e| match e.kind() {
            io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists => {
                Failure::new("this volume is on this machine already: see `p2pfs volumes`")
            }
            _ => Failure::new(format!("making {}: {}", dir.path.display(), plain(&e))),
        })?;
        // From here on there is nothing unfinished to remove.
        self.lock = None;
        if let Some(parent) = dir.path.parent() {
            fs::File::open(parent).and_then(|d| d.sync_all()).because(|| "writing to the disk".to_owned())?;
        }
        Ok(dir)
    }
}

impl Drop for NewVolumeDir {
    fn drop(&mut self) {
        if self.lock.is_some() && !self.kept {
            // What can't be removed now is removed by the next `init` or `join`.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

fn sync_tree(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        } else {
            fs::File::open(entry.path())?.sync_all()?;
        }
    }
    fs::File::open(dir)?.sync_all()
}

/// Makes a folder, and those above it, for this user alone.
fn private_dir(path: &Path) -> Outcome<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).because(|| format!("making {}", path.display()))
}

/// Replaces a file as a whole, durably, readable by this user alone.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> Outcome<()> {
    let write = || -> io::Result<()> {
        let fresh = with_suffix(path, ".new");
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&fresh, path)?;
        match path.parent() {
            Some(parent) => fs::File::open(parent)?.sync_all(),
            None => Ok(()),
        }
    };
    write().because(|| format!("writing {}", path.display()))
}

/// Replaces a file and its copy. Between the two the copy is the older one: who reads both believes the file.
pub(crate) fn write_twice(path: &Path, bytes: &[u8]) -> Outcome<()> {
    write_private(path, bytes)?;
    write_private(&copy_of(path), bytes)
}

/// Reads a file that has a copy: the file if it is `whole`, else the copy if that is. The other one is mended.
pub(crate) fn read_twice(path: &Path, whole: impl Fn(&[u8]) -> bool) -> io::Result<Vec<u8>> {
    read_twice_up_to(path, FILE_LIMIT, whole)
}

/// The same for files of up to `limit` bytes.
pub(crate) fn read_twice_up_to(path: &Path, limit: u64, whole: impl Fn(&[u8]) -> bool) -> io::Result<Vec<u8>> {
    let read = [path.to_owned(), copy_of(path)].map(|path| read_up_to(&path, limit));
    let good = read.iter().flatten().find(|bytes| whole(bytes)).cloned();
    let Some(good) = good else {
        let [file, _] = read;
        return file;
    };
    let [file, copy] = read.map(|bytes| bytes.is_ok_and(|bytes| bytes == good));
    if !file {
        mend(path, &good);
    }
    if !copy {
        mend(&copy_of(path), &good);
    }
    Ok(good)
}

/// Writes a file anew whose other copy is whole.
pub(crate) fn mend(path: &Path, bytes: &[u8]) {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    match write_private(path, bytes) {
        Ok(()) => log::warn!("{name} was damaged or missing: it is whole again, from its other copy"),
        Err(why) => log::warn!("{name} is damaged or missing, its other copy is whole: {why}"),
    }
}

/// Where the second copy of a small file is.
pub(crate) fn copy_of(path: &Path) -> PathBuf {
    with_suffix(path, ".copy")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Reads a small file whole.
pub(crate) fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    read_up_to(path, FILE_LIMIT)
}

fn read_up_to(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "file is too large"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home(dir: &Path) -> Home {
        Home { data: dir.to_owned() }
    }

    #[test]
    fn a_removed_volume_is_gone_also_when_its_removal_was_cut_short() {
        let dir = tempfile::tempdir().unwrap();
        let home = home(dir.path());
        let volumes = dir.path().join("volumes");
        let volume = home.volume("4f2a91c0aabbccdd");
        fs::create_dir_all(volume.path().join("packs")).unwrap();
        // What an earlier one left.
        fs::create_dir_all(volumes.join(".gone-4f2a91c0aabbccdd/packs")).unwrap();
        let lock = VolumeLock::acquire(volume.path()).unwrap();
        home.remove_volume(&volume, lock).unwrap();
        assert_eq!(fs::read_dir(&volumes).unwrap().count(), 0);
    }

    #[test]
    fn an_unfinished_volume_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let home = home(dir.path());
        let new = home.start_volume(&crypto::OsEntropy).unwrap();
        fs::write(new.path().join("keys"), b"x").unwrap();
        drop(new);
        assert_eq!(fs::read_dir(dir.path().join("volumes")).unwrap().count(), 0);
    }

    #[test]
    fn what_a_killed_init_left_is_removed_and_a_running_one_stays() {
        let dir = tempfile::tempdir().unwrap();
        let home = home(dir.path());
        let running = home.start_volume(&crypto::OsEntropy).unwrap();
        let dead = dir.path().join("volumes/.new-dead");
        fs::create_dir(&dead).unwrap();
        let _other = home.start_volume(&crypto::OsEntropy).unwrap();
        assert!(!dead.exists());
        assert!(running.path().exists());
    }

    #[test]
    fn what_a_killed_join_left_is_gone_on_with() {
        let dir = tempfile::tempdir().unwrap();
        let home = home(dir.path());
        let id = VolumeId::from_bytes([0x4f; 32]);
        drop(home.start_joining(&id).unwrap());
        assert_eq!(fs::read_dir(dir.path().join("volumes")).unwrap().count(), 0, "nothing was kept");
        let mut joining = home.start_joining(&id).unwrap();
        assert!(home.start_joining(&id).is_err(), "one at a time");
        fs::write(joining.path().join("keys"), b"x").unwrap();
        joining.keep().unwrap();
        drop(joining);
        drop(home.start_volume(&crypto::OsEntropy).unwrap());
        let again = home.start_joining(&id).unwrap();
        assert!(again.is_kept());
        assert_eq!(fs::read(again.path().join("keys")).unwrap(), b"x");
        assert!(home.volumes().unwrap().is_empty());
        again.finish(&id).unwrap();
        assert_eq!(home.volumes().unwrap().len(), 1);
    }

    #[test]
    fn a_finished_volume_is_listed_once() {
        let dir = tempfile::tempdir().unwrap();
        let home = home(dir.path());
        let id = VolumeId::from_bytes([0x4f; 32]);
        let made = home.start_volume(&crypto::OsEntropy).unwrap().finish(&id).unwrap();
        assert_eq!(made.short_id(), "4f4f4f4f4f4f4f4f");
        made.check_format().unwrap();
        assert!(home.start_volume(&crypto::OsEntropy).unwrap().finish(&id).is_err());
        let ids: Vec<String> = home.volumes().unwrap().iter().map(|v| v.short_id().to_owned()).collect();
        assert_eq!(ids, ["4f4f4f4f4f4f4f4f"]);
    }

    #[test]
    fn of_two_copies_the_whole_one_is_read_and_the_other_mended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("some.key");
        let whole = |bytes: &[u8]| bytes.starts_with(b"whole");
        write_twice(&path, b"whole").unwrap();
        let both = || [&path, &copy_of(&path)].map(|path| fs::read(path).unwrap());
        for hurt in [path.clone(), copy_of(&path)] {
            fs::write(&hurt, b"hole").unwrap();
            assert_eq!(read_twice(&path, whole).unwrap(), b"whole");
            assert_eq!(both(), [b"whole", b"whole"]);
            fs::remove_file(&hurt).unwrap();
            assert_eq!(read_twice(&path, whole).unwrap(), b"whole");
            assert_eq!(both(), [b"whole", b"whole"]);
        }
        // Cut short between the two: the newer one counts, and nothing of the older one stays.
        write_private(&path, b"whole and newer").unwrap();
        assert_eq!(read_twice(&path, whole).unwrap(), b"whole and newer");
        assert_eq!(both(), [b"whole and newer", b"whole and newer"]);
        // Both damaged: what the file is is told, and nothing is written.
        [path.clone(), copy_of(&path)].iter().for_each(|path| fs::write(path, b"hole").unwrap());
        assert_eq!(read_twice(&path, whole).unwrap(), b"hole");
        assert_eq!(both(), [b"hole", b"hole"]);
    }

    #[test]
    fn formats() {
        assert!(check_format(b"1\n", "4f").is_ok());
        let newer = check_format(b"2\n", "4f").unwrap_err().to_string();
        assert!(newer.contains("version 2") && newer.contains("version 1"), "{newer}");
        for damaged in [&b""[..], b"1", b"0\n", b"one\n", b"\xff\n", b"1\n\n"] {
            assert!(check_format(damaged, "4f").unwrap_err().to_string().contains("damaged"));
        }
    }
}
