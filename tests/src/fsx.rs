//! Random calls on files, each compared with what a file is by definition: a row of bytes, kept in memory.
//!
//! After the exerciser of that name which disk filesystems are tested with. An [`Exerciser`] owns a few files and all
//! descriptors and mappings of them; one thread makes the [calls](Exerciser::run), so that there is one right answer to
//! every read. Between steps a test may close everything, end the daemon in any way, or go on through another peer's
//! mount. The first difference fails the test, with the last calls and the seed to have them again.

mod calls;
mod place;

use std::{
    collections::VecDeque,
    fs::File,
    io,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
};

use crate::{mapping::Mapping, patience::eventually, random::Random};

/// How many calls are told when one went wrong.
const TOLD: usize = 60;
/// The grain in which room is given to files: a stored block.
const BLOCK: u64 = 64 << 10;

/// What an exerciser works with.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// How many files, which also copy from each other.
    pub files: usize,
    /// How many descriptors of each at once, at least.
    pub descriptors: usize,
    /// No file gets longer.
    pub limit: u64,
    /// The daemon may be killed between two steps: keeps what each file held at every step since it was last synced,
    /// and brings stores through mappings to the file at once, since the kernel does so in an order of its own.
    pub killed: bool,
}

/// Files, what they must hold, and everything that is open of them.
#[derive(Debug)]
pub struct Exerciser {
    random: Random,
    settings: Settings,
    files: Vec<Subject>,
    told: VecDeque<String>,
    steps: u64,
}

/// One file.
#[derive(Debug)]
struct Subject {
    path: PathBuf,
    /// What it must hold.
    bytes: Vec<u8>,
    /// For reading and writing; the first one appends.
    open: Vec<File>,
    /// From the beginning of the file, for a length that it once had.
    mapping: Option<Mapping>,
    /// The mapping has stores that no call brought to the file.
    stored: bool,
    /// What it held since it was last synced or closed, when that is kept.
    since_sync: Vec<Vec<u8>>,
}

/// What a step found, if it isn't what it must.
type Checked = Result<(), String>;

impl Exerciser {
    /// Makes files in `folder` and opens them.
    pub fn new(folder: &Path, random: Random, settings: Settings) -> Self {
        let files = (0..settings.files).map(|number| Subject::new(folder.join(format!("fsx-{number}")))).collect();
        let mut made = Self { random, settings, files, told: VecDeque::new(), steps: 0 };
        made.open();
        made
    }

    /// Makes `count` steps.
    pub fn run(&mut self, count: u64) {
        for _ in 0..count {
            self.steps += 1;
            let which = self.random.below(self.files.len() as u64) as usize;
            let done = self.step(which).and_then(|()| self.files[which].check_attributes());
            self.settle(done);
            if self.settings.killed {
                let file = &mut self.files[which];
                if file.since_sync.last() != Some(&file.bytes) {
                    file.since_sync.push(file.bytes.clone());
                }
            }
        }
    }

    /// Closes all descriptors and mappings.
    pub fn close(&mut self) {
        self.note("close all".to_owned());
        self.files.iter_mut().for_each(Subject::close);
    }

    /// Opens all files anew; they must be as they were left.
    pub fn open(&mut self) {
        self.note("open all".to_owned());
        let descriptors = self.settings.descriptors;
        let done = self.files.iter_mut().try_for_each(|file| file.reopen(descriptors).and_then(|()| file.check_all()));
        self.settle(done);
    }

    /// Syncs all files.
    pub fn sync(&mut self) {
        self.note("sync all".to_owned());
        let done = self.files.iter_mut().try_for_each(|file| file.sync(0));
        self.settle(done);
    }

    /// Drops everything that is open of a filesystem that is gone.
    pub fn abandon(&mut self) {
        self.note("the daemon is killed".to_owned());
        for file in &mut self.files {
            file.mapping = None;
            file.stored = false;
            file.open.clear();
        }
    }

    /// Opens all files anew after the daemon was killed: each must hold what it did after one of the steps since it was
    /// last synced, and goes on from that.
    pub fn recover(&mut self) {
        for which in 0..self.files.len() {
            let done = self.files[which].recover();
            self.settle(done);
        }
        self.open();
    }

    /// Goes on with the same files in another folder, another peer's, once all of them show what they must there.
    pub fn move_to(&mut self, folder: &Path) {
        self.close();
        self.note(format!("on at {}", folder.display()));
        for file in &mut self.files {
            file.path = folder.join(file.path.file_name().unwrap());
        }
        for file in &self.files {
            eventually("what was written elsewhere shows", || file.check_closed());
        }
        self.open();
    }

    /// Checks that descriptors opened elsewhere come to show what these files hold.
    pub fn followed_by(&self, readers: &[File]) {
        for (file, reader) in self.files.iter().zip(readers) {
            eventually("a reader follows", || compare(&file.bytes, &read_all(reader)?));
        }
    }

    fn note(&mut self, what: String) {
        if self.told.len() == TOLD {
            self.told.pop_front();
        }
        self.told.push_back(format!("{}: {what}", self.steps));
    }

    fn settle(&self, done: Checked) {
        if let Err(complaint) = done {
            let told: Vec<&str> = self.told.iter().map(String::as_str).collect();
            panic!("{}\n{:?}\nafter step {}: {complaint}", told.join("\n"), self.settings, self.steps);
        }
    }
}

impl Subject {
    fn new(path: PathBuf) -> Self {
        Self { path, bytes: Vec::new(), open: Vec::new(), mapping: None, stored: false, since_sync: vec![Vec::new()] }
    }

    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// What it holds now survives everything.
    fn is_safe(&mut self) {
        self.since_sync = vec![self.bytes.clone()];
    }

    fn close(&mut self) {
        self.mapping = None;
        self.stored = false;
        self.open.clear();
        self.is_safe();
    }

    fn reopen(&mut self, descriptors: usize) -> Checked {
        let mut options = File::options();
        options.read(true).write(true).create(true);
        let mut appending = options.clone();
        self.open = vec![appending.append(true).open(&self.path).map_err(failed("open"))?];
        for _ in 1..descriptors.max(2) {
            self.open.push(options.open(&self.path).map_err(failed("open"))?);
        }
        Ok(())
    }

    fn sync(&mut self, descriptor: usize) -> Checked {
        self.sync_mapping();
        self.open[descriptor].sync_data().map_err(failed("fdatasync"))?;
        self.is_safe();
        Ok(())
    }

    /// Brings stores through the mapping to the file, for calls that don't look at the kernel's pages.
    fn sync_mapping(&mut self) {
        if let Some(mapping) = self.mapping.as_ref().filter(|_| self.stored) {
            mapping.sync();
            self.is_safe();
        }
        self.stored = false;
    }

    fn check_attributes(&self) -> Checked {
        let known = self.open[0].metadata().map_err(failed("stat"))?;
        if known.len() != self.len() {
            return Err(format!("a length of {} instead of {}", known.len(), self.len()));
        }
        let (room, most) = (known.blocks() * 512, self.len().next_multiple_of(BLOCK));
        if room > most { Err(format!("{room} bytes of room for {most}")) } else { Ok(()) }
    }

    fn check_all(&self) -> Checked {
        compare(&self.bytes, &read_all(&self.open[0])?)
    }

    fn check_closed(&self) -> Checked {
        let file = File::open(&self.path).map_err(failed("open"))?;
        compare(&self.bytes, &read_all(&file)?)
    }

    fn recover(&mut self) -> Checked {
        let file = File::open(&self.path).map_err(failed("open"))?;
        let found = read_all(&file)?;
        match self.since_sync.iter().find(|held| **held == found) {
            Some(_) => self.bytes = found,
            None => {
                let newest = compare(self.since_sync.last().unwrap(), &found);
                let synced = compare(&self.since_sync[0], &found);
                let count = self.since_sync.len();
                return Err(format!(
                    "{} holds none of {count} contents since its sync; newest: {newest:?}; synced: {synced:?}",
                    self.path.display()
                ));
            }
        }
        self.is_safe();
        Ok(())
    }
}

fn failed(call: &'static str) -> impl Fn(io::Error) -> String {
    move |error| format!("{call}: {error}")
}

/// All of a file by descriptor, wherever that stands.
fn read_all(file: &File) -> Result<Vec<u8>, String> {
    let mut bytes = vec![0; file.metadata().map_err(failed("stat"))?.len() as usize + 1];
    let mut len = 0;
    loop {
        match file.read_at(&mut bytes[len..], len as u64).map_err(failed("read"))? {
            0 => break,
            read => len += read,
        }
        if len == bytes.len() {
            bytes.resize(len * 2, 0);
        }
    }
    bytes.truncate(len);
    Ok(bytes)
}

/// Tells the first difference and how many there are.
fn compare(expected: &[u8], found: &[u8]) -> Checked {
    if expected == found {
        return Ok(());
    }
    let different = || expected.iter().zip(found).enumerate().filter(|(_, (one, other))| one != other);
    let first = different().next().map(|(at, (one, other))| {
        format!("; at {at}: {other:#04x} instead of {one:#04x}, {} bytes up to {}", different().count(), {
            different().next_back().map_or(0, |(at, _)| at)
        })
    });
    Err(format!("{} bytes instead of {}{}", found.len(), expected.len(), first.unwrap_or_default()))
}
