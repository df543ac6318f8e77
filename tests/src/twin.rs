//! Random calls on names and attributes, made in two folders: one on a mount, and one of a filesystem in memory that
//! the kernel has itself. Both must answer alike, and look alike afterwards.
//!
//! That finds what one filesystem alone can't tell: an errno that no disk would give, and what the kernel still
//! believes of a file after a call changed it by the way, such as the links of what a rename replaced.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Debug,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{DirEntryExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, FileType, Mode, RenameFlags, XattrFlags, lsetxattr, mknodat, renameat_with},
    io::Errno,
};

use crate::random::Random;

/// How many calls are told when one was answered differently.
const TOLD: usize = 40;
/// Few enough to meet again and again.
const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
/// Of so many steps, one compares everything.
const WHOLE: u64 = 50;
/// How many files are kept open.
const OPEN: usize = 6;

/// Two folders that are the same.
#[derive(Debug)]
pub struct Twins {
    folders: [PathBuf; 2],
    random: Random,
    /// Open in both, whatever becomes of their names.
    open: VecDeque<[File; 2]>,
    told: VecDeque<String>,
    steps: u64,
}

/// A node as both must show it. Sizes of folders and all times are a filesystem's own affair.
#[derive(Debug, PartialEq, Eq)]
struct Look {
    mode: u32,
    links: u64,
    size: Option<u64>,
    content: Vec<u8>,
    attribute: Option<Vec<u8>>,
}

impl Twins {
    /// Starts with two empty folders; the first is the one under test.
    pub fn new(tested: &Path, trusted: &Path, random: Random) -> Self {
        let folders = [tested.to_owned(), trusted.to_owned()];
        Self { folders, random, open: VecDeque::new(), told: VecDeque::new(), steps: 0 }
    }

    /// Makes `count` calls in both.
    pub fn run(&mut self, count: u64) {
        for _ in 0..count {
            self.steps += 1;
            self.step();
            if self.random.below(WHOLE) == 0 {
                self.compare();
            }
        }
        self.compare();
    }

    /// Closes what is open.
    pub fn close(&mut self) {
        self.open.clear();
    }

    /// Checks that both folders hold the same, by listing and by looking.
    pub fn compare(&mut self) {
        let [tested, trusted] = self.folders.each_ref().map(|folder| whole(folder).map_err(|e| e.to_string()));
        if tested != trusted {
            let (tested, trusted) = (tested.unwrap(), trusted.unwrap());
            let paths = tested.keys().chain(trusted.keys());
            let first = paths.filter(|path| tested.get(*path) != trusted.get(*path)).min();
            let shown = first.map(|path| (path, tested.get(path), trusted.get(path)));
            self.fail(&format!("the trees differ, first (path, tested, trusted): {shown:#?}"));
        }
        for (number, [tested, trusted]) in self.open.iter().enumerate() {
            let [tested, trusted] = [tested, trusted].map(|file| {
                let known = file.metadata().unwrap();
                (known.mode(), known.nlink(), known.len())
            });
            if tested != trusted {
                self.fail(&format!("open file {number}: {tested:?} instead of {trusted:?}"));
            }
        }
    }

    fn fail(&self, complaint: &str) -> ! {
        let told: Vec<&str> = self.told.iter().map(String::as_str).collect();
        panic!("{}\nafter step {}: {complaint}", told.join("\n"), self.steps);
    }

    /// A path of one to three names.
    fn path(&mut self) -> PathBuf {
        let depth = 1 + self.random.below(3);
        (0..depth).map(|_| NAMES[self.random.below(NAMES.len() as u64) as usize]).collect()
    }

    /// Makes a call in both folders, which must succeed in both or fail in both alike.
    fn both<T: Debug + PartialEq>(&mut self, what: String, call: impl Fn(&Path) -> io::Result<T>) -> bool {
        if self.told.len() == TOLD {
            self.told.pop_front();
        }
        let [tested, trusted] =
            self.folders.each_ref().map(|folder| call(folder).map_err(|e| Errno::from_io_error(&e)));
        self.told.push_back(format!("{}: {what}: {trusted:?}", self.steps));
        if tested != trusted {
            self.fail(&format!("{what} gives {tested:?} instead of {trusted:?}"));
        }
        trusted.is_ok()
    }

    fn step(&mut self) {
        let (path, other) = (self.path(), self.path());
        let number = self.random.draw();
        let shown = path.display();
        match number % 100 {
            0..14 => {
                let exclusive = number & 128 != 0;
                let made = self.both(format!("create {shown}, exclusively: {exclusive}"), |root| {
                    open(&root.join(&path), exclusive).map(drop)
                });
                if made && number & 256 != 0 {
                    self.keep(&path);
                }
            }
            14..24 => {
                let bytes = vec![number as u8; (number >> 8) as usize % 9000];
                self.both(format!("write {} bytes to {shown}", bytes.len()), |root| {
                    writable().open(root.join(&path))?.write_all(&bytes)
                });
            }
            24..27 => {
                let len = (number >> 8) % 9000;
                self.both(format!("truncate {shown} to {len}"), |root| writable().open(root.join(&path))?.set_len(len));
            }
            27..39 => {
                self.both(format!("mkdir {shown}"), |root| fs::create_dir(root.join(&path)));
            }
            39..44 => {
                self.both(format!("rmdir {shown}"), |root| fs::remove_dir(root.join(&path)));
            }
            44..50 => {
                self.both(format!("unlink {shown}"), |root| fs::remove_file(root.join(&path)));
            }
            50..66 => {
                let flags = match (number >> 8) % 4 {
                    0 | 1 => RenameFlags::empty(),
                    2 => RenameFlags::NOREPLACE,
                    _ => RenameFlags::EXCHANGE,
                };
                self.both(format!("rename {shown} to {}, {flags:?}", other.display()), |root| {
                    Ok(renameat_with(CWD, root.join(&path), CWD, root.join(&other), flags)?)
                });
            }
            66..74 => {
                self.both(format!("link {shown} as {}", other.display()), |root| {
                    fs::hard_link(root.join(&path), root.join(&other))
                });
            }
            74..78 => {
                self.both(format!("symlink {shown} to {}", other.display()), |root| symlink(&other, root.join(&path)));
            }
            78..80 => {
                self.both(format!("mkfifo {shown}"), |root| {
                    Ok(mknodat(CWD, root.join(&path), FileType::Fifo, Mode::from_raw_mode(0o640), 0)?)
                });
            }
            80..85 => {
                let mode = (number >> 8) as u32 & 0o7777;
                self.both(format!("chmod {shown} {mode:o}"), |root| {
                    fs::set_permissions(root.join(&path), fs::Permissions::from_mode(mode))
                });
            }
            85..88 => {
                let to = Some((number >> 8) as u32 % 3);
                self.both(format!("lchown {shown} {to:?}"), |root| {
                    std::os::unix::fs::lchown(root.join(&path), to, None)
                });
            }
            88..91 => {
                let flags = [XattrFlags::empty(), XattrFlags::CREATE, XattrFlags::REPLACE][(number >> 8) as usize % 3];
                let value = [number as u8; 5];
                self.both(format!("set an attribute of {shown}, {flags:?}"), |root| {
                    Ok(lsetxattr(root.join(&path), "user.x", &value, flags)?)
                });
            }
            91..92 => {
                self.both(format!("remove the attribute of {shown}"), |root| xattr::remove(root.join(&path), "user.x"));
            }
            92..95 => {
                self.both(format!("look at {shown}"), |root| look(&root.join(&path)));
            }
            95..97 => {
                self.both(format!("list {shown}"), |root| {
                    let mut names = Vec::new();
                    for entry in fs::read_dir(root.join(&path))? {
                        names.push(entry?.file_name());
                    }
                    names.sort();
                    Ok(names)
                });
            }
            97..98 => self.keep(&path),
            98..99 => {
                self.open.pop_front();
            }
            _ => self.write_open(number),
        }
    }

    /// Opens a file in both, for as long as it is one of the newest.
    fn keep(&mut self, path: &Path) {
        let [tested, trusted] = self.folders.each_ref().map(|folder| {
            let path = folder.join(path);
            // A pipe would wait for its other end.
            let is_file = fs::metadata(&path).is_ok_and(|known| known.is_file());
            is_file.then(|| File::options().read(true).write(true).open(path).ok()).flatten()
        });
        match (tested, trusted) {
            (Some(tested), Some(trusted)) => self.open.push_back([tested, trusted]),
            (None, None) => {}
            (tested, _) => self.fail(&format!("opening {} worked: {}", path.display(), tested.is_some())),
        }
        if self.open.len() > OPEN {
            self.open.pop_front();
        }
    }

    /// Writes to one of the open files, which may have no name any more.
    fn write_open(&mut self, number: u64) {
        let Some(which) = (number as usize).checked_rem(self.open.len()) else { return };
        let place = (number >> 8) % 9000;
        for file in &self.open[which] {
            file.write_all_at(&[number as u8; 100], place).unwrap();
        }
        let [tested, trusted] = self.open[which].each_ref().map(|file| {
            let mut bytes = vec![0; 20_000];
            let len = file.read_at(&mut bytes, 0).unwrap();
            bytes.truncate(len);
            bytes
        });
        if tested != trusted {
            self.fail(&format!("open file {which} reads differently, from {place} on written"));
        }
    }
}

/// For files; a pipe would wait for its other end.
fn writable() -> OpenOptions {
    let mut options = File::options();
    options.write(true).mode(0o640).custom_flags(libc::O_NONBLOCK);
    options
}

fn open(path: &Path, exclusive: bool) -> io::Result<File> {
    let mut options = writable();
    options.read(true);
    if exclusive { options.create_new(true) } else { options.create(true) }.open(path)
}

fn look(path: &Path) -> io::Result<Look> {
    let known = fs::symlink_metadata(path)?;
    let content = if known.is_file() {
        fs::read(path)?
    } else if known.is_symlink() {
        fs::read_link(path)?.as_os_str().as_bytes().to_vec()
    } else {
        Vec::new()
    };
    let attribute = if known.is_symlink() { None } else { xattr::get(path, "user.x")? };
    let size = (!known.is_dir()).then_some(known.len());
    Ok(Look { mode: known.mode(), links: known.nlink(), size, content, attribute })
}

/// Every path, with what it looks like and the first path of the same node.
fn whole(root: &Path) -> io::Result<BTreeMap<PathBuf, (Look, PathBuf)>> {
    let (mut found, mut first) = (BTreeMap::new(), BTreeMap::new());
    let mut folders = vec![root.to_owned()];
    let mut paths = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let known = fs::symlink_metadata(entry.path())?;
            assert_eq!((entry.ino(), entry.file_type()?), (known.ino(), known.file_type()), "{:?}", entry.path());
            if known.is_dir() {
                folders.push(entry.path());
            }
            paths.push(entry.path());
        }
    }
    paths.sort();
    for path in paths {
        let below = path.strip_prefix(root).unwrap().to_owned();
        let one = first.entry(fs::symlink_metadata(&path)?.ino()).or_insert_with(|| below.clone()).clone();
        found.insert(below, (look(&path)?, one));
    }
    Ok(found)
}
