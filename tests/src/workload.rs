//! A program at work in a folder, that knows at each moment what a crash may leave of it.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::{fd::IntoRawFd, unix::fs::FileExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    history::{Entry, History, State},
    random::Random,
};

/// Works in a folder, one call after the other.
pub struct Workload {
    folder: PathBuf,
    /// What the folder went through.
    pub history: History,
    /// Tells the moment; what a moment is, the test decides.
    clock: Box<dyn Fn() -> usize + Send>,
    /// A file that stays open, as a database's does.
    table: Option<File>,
    next: usize,
}

const TABLE: &str = "table";
const RECORD: usize = 700;
/// The longest write in one request.
const PIECE: usize = 1 << 20;

impl Workload {
    /// Goes on from what is in `folder`, all of which is durable.
    ///
    /// # Errors
    /// It can't be read.
    pub fn new(folder: &Path, clock: impl Fn() -> usize + Send + 'static) -> io::Result<Self> {
        let history = History::new(crate::history::look(folder)?);
        Ok(Self { folder: folder.to_owned(), history, clock: Box::new(clock), table: None, next: 0 })
    }

    fn begin(&mut self, change: impl FnOnce(&mut State)) {
        self.history.begin((self.clock)(), change);
    }

    fn begin_content(&mut self, name: &str, content: &Arc<Vec<u8>>) {
        self.begin(|state| {
            state.insert(name.to_owned(), Entry::File(content.clone()));
        });
    }

    fn synced(&mut self) {
        self.history.durable((self.clock)());
    }

    fn any(&self, random: &mut Random, wanted: impl Fn(&Entry) -> bool) -> Option<String> {
        let names: Vec<&String> =
            self.history.now().iter().filter(|(name, entry)| *name != TABLE && wanted(entry)).map(|(n, _)| n).collect();
        (!names.is_empty()).then(|| names[random.below(names.len() as u64) as usize].clone())
    }

    fn new_name(&mut self, random: &mut Random) -> String {
        self.next += 1;
        match self.any(random, |entry| *entry == Entry::Folder).filter(|_| random.below(3) == 0) {
            Some(folder) => format!("{folder}/{}", self.next),
            None => format!("file {}", self.next),
        }
    }

    /// Does one thing.
    ///
    /// # Errors
    /// What the call said. The history then holds what it may have done.
    pub fn step(&mut self, random: &mut Random) -> io::Result<()> {
        let file = |entry: &Entry| *entry != Entry::Folder;
        match random.below(14) {
            0 => {
                let name = self.new_name(random);
                self.begin(|state| {
                    state.insert(name.clone(), Entry::Folder);
                });
                fs::create_dir(self.folder.join(name))
            }
            1 => {
                let Some(name) = self.any(random, file) else { return Ok(()) };
                self.begin(|state| {
                    state.remove(&name);
                });
                fs::remove_file(self.folder.join(name))
            }
            2 => {
                let Some(name) = self.any(random, file) else { return Ok(()) };
                let to = self.new_name(random);
                self.rename(&name, &to)
            }
            // As editors do, carefully and carelessly.
            3 | 4 => {
                let Some(name) = self.any(random, file) else { return Ok(()) };
                let sync = random.below(4) == 0;
                self.write("new", random, sync)?;
                self.rename("new", &name)
            }
            5 => {
                let folder = File::open(&self.folder)?;
                folder.sync_all()?;
                self.synced();
                Ok(())
            }
            6 => self.write_record(random),
            7 | 8 => {
                let Some(name) = self.any(random, file) else { return Ok(()) };
                let sync = random.below(6) == 0;
                self.write(&name, random, sync)
            }
            _ => {
                let name = self.new_name(random);
                let sync = random.below(6) == 0;
                self.write(&name, random, sync)
            }
        }
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.begin(|state| {
            let moved = state.remove(from).unwrap();
            state.insert(to.to_owned(), moved);
        });
        fs::rename(self.folder.join(from), self.folder.join(to))
    }

    fn write(&mut self, name: &str, random: &mut Random, sync: bool) -> io::Result<()> {
        let len = match random.below(12) {
            0 => random.below(1_500_000),
            1..=5 => random.below(300_000),
            _ => random.below(5_000),
        };
        let content = Arc::new(random.bytes(len as usize));
        self.begin_content(name, &Arc::default());
        let mut file = File::create(self.folder.join(name))?;
        // The kernel hands long writes over in pieces; one that fails ends the write there.
        for len in (PIECE..content.len()).step_by(PIECE) {
            self.begin_content(name, &Arc::new(content[..len].to_vec()));
        }
        self.begin_content(name, &content);
        file.write_all(&content)?;
        if sync {
            file.sync_all()?;
            self.synced();
        }
        close(file)
    }

    /// A change in the middle of a file that stays open, synced at once.
    fn write_record(&mut self, random: &mut Random) -> io::Result<()> {
        if random.below(10) == 0
            && let Some(table) = self.table.take()
        {
            close(table)?;
        }
        if self.table.is_none() {
            if !self.history.now().contains_key(TABLE) {
                self.begin_content(TABLE, &Arc::default());
            }
            let path = self.folder.join(TABLE);
            self.table = Some(File::options().write(true).create(true).truncate(false).open(path)?);
        }
        let Some(Entry::File(old)) = self.history.now().get(TABLE) else { panic!("{TABLE} is a file") };
        let mut content = (**old).clone();
        let offset = random.below(200) as usize * RECORD;
        content.resize(content.len().max(offset + RECORD), 0);
        content[offset..offset + RECORD].copy_from_slice(&random.bytes(RECORD));
        let record = content[offset..offset + RECORD].to_vec();
        self.begin_content(TABLE, &Arc::new(content));
        let table = self.table.as_ref().unwrap();
        table.write_all_at(&record, offset as u64)?;
        table.sync_data()?;
        self.synced();
        Ok(())
    }

    /// Notes that everything so far survives what the test does next: the death of the daemon, say.
    pub fn acknowledged(&mut self) {
        self.synced();
    }

    /// Closes what is open.
    ///
    /// # Errors
    /// What `close` said.
    pub fn rest(&mut self) -> io::Result<()> {
        self.table.take().map_or(Ok(()), close)
    }
}

/// Closes a file; unlike dropping it, tells what the system said.
///
/// # Errors
/// What could not be stored.
#[allow(unsafe_code, reason = "std tells nobody what close said")]
pub fn close(file: File) -> io::Result<()> {
    // SAFETY: the descriptor was this file's alone, and is used no more.
    match unsafe { libc::close(file.into_raw_fd()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
