//! Whole trees: making them, and telling whether two are the same.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    hash::{DefaultHasher, Hasher},
    io::{self, Read},
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
};

use crate::random::Random;

/// More differences than this are not told one by one.
const TOLD: usize = 10;

/// Everything that a member is promised to see as the others do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    mode: u32,
    links: u64,
    size: u64,
    /// Of files and symlinks; a directory's is each machine's own.
    mtime: Option<(i64, i64)>,
    content: u64,
    attributes: BTreeMap<OsString, Vec<u8>>,
}

impl Entry {
    /// Whether it is a regular file.
    pub fn is_file(&self) -> bool {
        self.mode & libc::S_IFMT == libc::S_IFREG
    }
}

/// Reads the tree at `root`, contents and all.
///
/// # Errors
/// The tree changes under the reader, or can't be read.
pub fn snapshot(root: &Path) -> io::Result<BTreeMap<PathBuf, Entry>> {
    let mut entries = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for found in fs::read_dir(&folder)? {
            let path = found?.path();
            let entry = read_entry(&path)?;
            if entry.mode & libc::S_IFMT == libc::S_IFDIR {
                folders.push(path.clone());
            }
            let below = path.strip_prefix(root).expect("it was found below it").to_owned();
            entries.insert(below, entry);
        }
    }
    Ok(entries)
}

/// Reads what is at `path`, contents and all.
///
/// # Errors
/// It can't be read.
pub fn read_entry(path: &Path) -> io::Result<Entry> {
    let known = fs::symlink_metadata(path)?;
    let mut content = DefaultHasher::new();
    if known.is_file() {
        let mut file = fs::File::open(path)?;
        let mut buffer = vec![0; 1 << 16];
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                len => content.write(&buffer[..len]),
            }
        }
    } else if known.is_symlink() {
        content.write(fs::read_link(path)?.as_os_str().as_bytes());
    }
    let mut attributes = BTreeMap::new();
    if !known.is_symlink() {
        for name in xattr::list(path)? {
            if let Some(value) = xattr::get(path, &name)? {
                attributes.insert(name, value);
            }
        }
    }
    let folder = known.is_dir();
    Ok(Entry {
        mode: known.mode(),
        links: known.nlink(),
        size: if folder { 0 } else { known.size() },
        mtime: (!folder).then(|| (known.mtime(), known.mtime_nsec())),
        content: content.finish(),
        attributes,
    })
}

/// Whether the trees at `one` and `other` are the same.
///
/// # Errors
/// They are not: the first differences, or why one can't be read.
pub fn differences(one: &Path, other: &Path) -> Result<(), String> {
    let read = |root: &Path| snapshot(root).map_err(|e| format!("{}: {e}", root.display()));
    let (left, right) = (read(one)?, read(other)?);
    if left == right {
        return Ok(());
    }
    let mut told = Vec::new();
    for path in left.keys().chain(right.keys().filter(|path| !left.contains_key(*path))) {
        let (l, r) = (left.get(path), right.get(path));
        if l != r {
            told.push(format!("{}: {l:?} / {r:?}", path.display()));
        }
    }
    let count = told.len();
    told.truncate(TOLD);
    Err(format!("{count} differences\n{}", told.join("\n")))
}

/// Makes a tree of `files` files under `root` as source code is: small files, nested folders, some symlinks and hard
/// links, a few larger files, execute bits, times in the past.
pub fn grow(root: &Path, files: u64, seed: u64) {
    let mut random = Random::new(seed);
    fs::create_dir_all(root).unwrap();
    let mut folders = vec![root.to_owned()];
    let mut made: Vec<PathBuf> = Vec::new();
    for number in 0..files {
        if number % 12 == 0 {
            let parent = folders[random.below(folders.len() as u64) as usize].clone();
            let folder = parent.join(format!("folder {number}"));
            fs::create_dir(&folder).unwrap();
            folders.push(folder);
        }
        let folder = &folders[random.below(folders.len() as u64) as usize];
        let path = folder.join(format!("file-{number}.txt"));
        match random.below(50) {
            0 => {
                std::os::unix::fs::symlink(format!("../file-{number}"), &path).unwrap();
                set_mtime(&path, 1_400_000_000 + number as i64, 5);
            }
            1 if !made.is_empty() => {
                fs::hard_link(&made[random.below(made.len() as u64) as usize], &path).unwrap();
            }
            kind => {
                let len = if kind == 2 { random.below(300_000) } else { random.below(6_000) };
                fs::write(&path, random.bytes(len as usize)).unwrap();
                if kind == 3 {
                    let execute = std::os::unix::fs::PermissionsExt::from_mode(0o755);
                    fs::set_permissions(&path, execute).unwrap();
                }
                set_mtime(&path, 1_500_000_000 + number as i64, number as i64 * 1_234_567 % 1_000_000_000);
                made.push(path);
            }
        }
    }
}

/// Sets a file's time of last change and leaves the other.
pub fn set_mtime(path: &Path, secs: i64, nanos: i64) {
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_OMIT, utimensat};
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: secs, tv_nsec: nanos },
    };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// The names in a folder, in order.
pub fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the convergence tests stand on.
    #[test]
    fn any_difference_is_seen() {
        let scratch = tempfile::tempdir().unwrap();
        let (one, other) = (scratch.path().join("a"), scratch.path().join("b"));
        grow(&one, 100, 1);
        grow(&other, 100, 1);
        differences(&one, &other).unwrap();
        let check = |change: &dyn Fn(&Path)| {
            let copy = scratch.path().join("c");
            let _ = fs::remove_dir_all(&copy);
            grow(&copy, 100, 1);
            change(&copy);
            differences(&one, &copy).unwrap_err();
        };
        let first = |root: &Path| {
            let all = snapshot(root).unwrap();
            root.join(all.iter().find(|(_, e)| e.mode & libc::S_IFMT == libc::S_IFREG && e.size > 2).unwrap().0)
        };
        check(&|root| fs::write(root.join("new"), "").unwrap());
        check(&|root| fs::remove_file(first(root)).unwrap());
        check(&|root| set_mtime(&first(root), 7, 0));
        check(&|root| xattr::set(first(root), "user.x", b"1").unwrap());
        check(&|root| fs::hard_link(first(root), root.join("folder 0/again")).unwrap());
        check(&|root| {
            let path = first(root);
            let known = fs::metadata(&path).unwrap();
            let mut bytes = fs::read(&path).unwrap();
            bytes[1] ^= 1;
            fs::write(&path, bytes).unwrap();
            set_mtime(&path, known.mtime(), known.mtime_nsec());
        });
    }
}
