//! What is on the disk of the log: segments of sealed records.
//!
//! A segment is named after the number of its first entry, `<16 hexadecimal digits>.log`. It begins with the magic
//! `p2pfsaud`, a version (u32 LE), that number (u64 LE) and the hash of the chain before it (32 bytes). Records follow:
//! their length (u32 LE) and the entries, one line of JSON each, sealed under the device's secret and bound to the number of
//! the first of them. The hash after an entry is that of the hash before and its line without the line's end.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use crypto::{Entropy, Hash, Label, SymmetricKey, open as open_sealed, random_array, seal};

use super::{
    Head,
    entry::{Act, Entry, Line},
};

const MAGIC: &[u8; 8] = b"p2pfsaud";
const VERSION: u32 = 1;
const HEADER: usize = 8 + 4 + 8 + 32;
/// No record is longer, in bytes: what says so is damaged.
const RECORD_MAX: usize = 16 << 20;

/// What a segment ends in that was put aside since it can't be read.
const DAMAGED: &str = "damaged";

/// What is where reading a segment ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Whole,
    /// The beginning of a record.
    Torn,
    /// No record.
    Damaged,
}

/// How much of a log is kept.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes after which a new segment is begun.
    pub segment: u64,
    /// Bytes of all segments; the oldest go first.
    pub total: u64,
    /// Segments that were last written to so long ago go.
    pub age: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { segment: 4 << 20, total: 256 << 20, age: Duration::from_secs(400 * 24 * 3600) }
    }
}

/// What was read.
#[derive(Debug, Default)]
pub struct Found {
    /// In order.
    pub entries: Vec<Entry>,
    /// Places that can't be read, in words.
    pub damage: Vec<String>,
}

/// The end at which entries are appended.
pub(super) struct Log {
    reader: Reader,
    entropy: Arc<dyn Entropy>,
    limits: Limits,
    head: Head,
    /// The segment that is being written, and its length.
    tail: Option<(File, u64)>,
    dirty: bool,
}

/// What reads segments.
#[derive(Clone)]
pub(super) struct Reader {
    directory: PathBuf,
    key: SymmetricKey,
}

struct Segment {
    first: u64,
    before: Hash,
    bytes: Vec<u8>,
}

fn path_of(directory: &Path, first: u64) -> PathBuf {
    directory.join(format!("{first:016x}.log"))
}

fn after(hash: &Hash, line: &[u8]) -> Hash {
    Hash::of(Label::AuditChain, &[hash.as_bytes(), line])
}

/// The entries of a record, each with its line; nothing if they are no such thing.
fn lines(plain: &[u8]) -> Option<Vec<(Entry, &[u8])>> {
    let text = plain.strip_suffix(b"\n")?;
    text.split(|byte| *byte == b'\n').map(|line| Some((serde_json::from_slice(line).ok()?, line))).collect()
}

impl Reader {
    /// The numbers with which segments begin, the oldest first.
    fn segments(&self) -> io::Result<Vec<u64>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let name = entry?.file_name();
            let is_number = |stem: &&str| stem.len() == 16 && stem.bytes().all(|byte| byte.is_ascii_hexdigit());
            let first = name.to_str().and_then(|name| name.strip_suffix(".log")).filter(is_number);
            found.extend(first.and_then(|stem| u64::from_str_radix(stem, 16).ok()).filter(|first| *first > 0));
        }
        found.sort_unstable();
        Ok(found)
    }

    fn segment(&self, first: u64) -> io::Result<Option<Segment>> {
        let bytes = fs::read(path_of(&self.directory, first))?;
        let header = [&MAGIC[..], &VERSION.to_le_bytes(), &first.to_le_bytes()].concat();
        let before = bytes.get(header.len()..HEADER).and_then(|hash| <[u8; 32]>::try_from(hash).ok());
        let Some(before) = before.filter(|_| bytes.starts_with(&header)) else { return Ok(None) };
        Ok(Some(Segment { first, before: Hash::from_bytes(before), bytes }))
    }

    /// Calls `each` with every entry and the hash after it. Returns where reading ended, and what is there.
    fn each(&self, segment: &Segment, mut each: impl FnMut(Entry, Hash)) -> (usize, Head, End) {
        let mut head = Head { count: segment.first - 1, hash: segment.before };
        let mut at = HEADER;
        while let Some(rest) = segment.bytes.get(at..).filter(|rest| !rest.is_empty()) {
            let Some((len, rest)) = rest.split_first_chunk() else { return (at, head, End::Torn) };
            let len = u32::from_le_bytes(*len) as usize;
            if len > RECORD_MAX {
                return (at, head, End::Damaged);
            }
            let Some(sealed) = rest.get(..len) else { return (at, head, End::Torn) };
            let plain = open_sealed(&self.key, &(head.count + 1).to_le_bytes(), sealed);
            let Some(lines) = plain.as_ref().ok().and_then(|plain| lines(plain)) else {
                return (at, head, End::Damaged);
            };
            for (entry, line) in lines {
                if entry.n != head.count + 1 {
                    return (at, head, End::Damaged);
                }
                head = Head { count: entry.n, hash: after(&head.hash, line) };
                each(entry, head.hash);
            }
            at += 4 + len;
        }
        (at, head, End::Whole)
    }

    pub(super) fn read(&self, from: u64, limit: usize) -> io::Result<Found> {
        let mut found = Found::default();
        let segments = self.segments()?;
        for (nth, &first) in segments.iter().enumerate() {
            if segments.get(nth + 1).is_some_and(|next| *next <= from) {
                continue;
            }
            if found.entries.len() >= limit {
                break;
            }
            let Some(segment) = self.segment(first)? else {
                found.damage.push(format!("the segment that begins with entry {first} can't be read"));
                continue;
            };
            let (_, head, end) = self.each(&segment, |entry, _| {
                if entry.n >= from && found.entries.len() < limit {
                    found.entries.push(entry);
                }
            });
            if end != End::Whole {
                found.damage.push(format!("what follows entry {} in its segment can't be read", head.count));
            }
        }
        Ok(found)
    }

    /// What is wrong with the log, in words.
    pub(super) fn verify(&self, heads: &[Head]) -> io::Result<Vec<String>> {
        let mut faults = Vec::new();
        let mut signed: std::collections::BTreeMap<u64, Hash> =
            heads.iter().map(|head| (head.count, head.hash)).collect();
        let mut expected: Option<Head> = None;
        for entry in fs::read_dir(&self.directory)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name.ends_with(DAMAGED) {
                faults.push(format!("audit/{name} is a part of the log that was changed after it was written"));
            }
        }
        for first in self.segments()? {
            let Some(segment) = self.segment(first)? else {
                faults.push(format!("the segment that begins with entry {first} is damaged"));
                continue;
            };
            if let Some(expected) = expected
                && (expected.count + 1, expected.hash) != (first, segment.before)
            {
                faults.push(format!("entries are missing or were changed between {} and {first}", expected.count));
            }
            let (_, head, end) = self.each(&segment, |entry, hash| {
                if let Some(said) = signed.remove(&entry.n)
                    && said != hash
                {
                    faults.push(format!("entry {} or one before it is not what this device had signed", entry.n));
                }
            });
            if end != End::Whole {
                faults.push(format!("what follows entry {} in its segment is damaged or was cut", head.count));
            }
            expected = Some(head);
        }
        // What is older than what is kept can't be told from what was cut off at the front by the log alone.
        let newest = expected.map_or(0, |head| head.count);
        if let Some((count, _)) = signed.into_iter().find(|(count, _)| *count > newest) {
            faults.push(format!("the log ends with entry {newest}, and this device had signed that there are {count}"));
        }
        Ok(faults)
    }
}

impl Log {
    pub(super) fn open(
        directory: &Path,
        secret: &SymmetricKey,
        entropy: Arc<dyn Entropy>,
        limits: Limits,
    ) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        let reader = Reader { directory: directory.to_owned(), key: secret.derive(Label::AuditLog, b"") };
        let mut log = Self {
            reader,
            entropy,
            limits,
            head: Head { count: 0, hash: Hash::from_bytes([0; 32]) },
            tail: None,
            dirty: false,
        };
        let (last, segment) = loop {
            let Some(&last) = log.reader.segments()?.last() else { return Ok(log) };
            if let Some(segment) = log.reader.segment(last)? {
                break (last, segment);
            }
            // Torn as it was begun, or damaged: what went before tells where to go on.
            let path = path_of(directory, last);
            if fs::metadata(&path)?.len() < HEADER as u64 {
                fs::remove_file(&path)?;
            } else {
                log::error!("a segment of the audit log can't be read: put aside");
                fs::rename(&path, path.with_extension(DAMAGED))?;
            }
        };
        let (at, head, end) = log.reader.each(&segment, |_, _| ());
        log.head = head;
        let path = path_of(directory, last);
        let file = OpenOptions::new().append(true).open(&path)?;
        match end {
            End::Whole => {}
            // A record that was being written when the process or the machine ended. Of what was signed nothing is lost by
            // it, or `verify` says so.
            End::Torn => {
                let left = segment.bytes.len() - at;
                log::warn!("the last {left} bytes of the audit log are no whole record: cut off");
            }
            End::Damaged => {
                log::error!(
                    "the audit log was changed after it was written: what follows entry {} is put aside",
                    head.count
                );
                fs::copy(&path, path.with_extension(DAMAGED))?;
            }
        }
        file.set_len(at as u64)?;
        log.tail = Some((file, at as u64));
        Ok(log)
    }

    pub(super) fn head(&self) -> Head {
        self.head
    }

    pub(super) fn reader(&self) -> Reader {
        self.reader.clone()
    }

    /// Appends a record of these. Returns the number of the first.
    pub(super) fn append(&mut self, acts: &[Act]) -> io::Result<u64> {
        let mut head = self.head;
        let mut plain = Vec::with_capacity(256 * acts.len());
        let mut time = acts.iter().map(|act| act.time).max().unwrap_or_default();
        // One for all: whoever knows it has the record open.
        let salt = data_encoding::HEXLOWER.encode(&random_array::<8>(&*self.entropy));
        for act in acts {
            // What tells of missing entries is as old as those beside it.
            time = time.max(act.time);
            let when = if act.time == crate::time::Timestamp::default() { time } else { act.time };
            let from = plain.len();
            let line = Line::of(act, when, head.count + 1, &salt);
            serde_json::to_writer(&mut plain, &line).map_err(io::Error::other)?;
            head = Head { count: head.count + 1, hash: after(&head.hash, &plain[from..]) };
            plain.push(b'\n');
        }
        let sealed = seal(&self.reader.key, &(self.head.count + 1).to_le_bytes(), &plain, &*self.entropy);
        let record = [&(sealed.len() as u32).to_le_bytes()[..], &sealed].concat();
        self.turn_over()?;
        let (file, len) = self.tail.as_mut().ok_or_else(|| io::Error::other("no segment"))?;
        if let Err(e) = file.write_all(&record) {
            // No half record stays in the way of the next.
            let _ = file.set_len(*len);
            return Err(e);
        }
        *len += record.len() as u64;
        let first = self.head.count + 1;
        self.head = head;
        self.dirty = true;
        Ok(first)
    }

    /// Begins a new segment where one is due, and lets the oldest go.
    fn turn_over(&mut self) -> io::Result<()> {
        if self.tail.as_ref().is_some_and(|(_, len)| *len < self.limits.segment) {
            return Ok(());
        }
        if let Some((file, _)) = &self.tail {
            file.sync_data()?;
        }
        let first = self.head.count + 1;
        let path = path_of(&self.reader.directory, first);
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path)?;
        file.set_len(0)?;
        let header = [&MAGIC[..], &VERSION.to_le_bytes(), &first.to_le_bytes(), self.head.hash.as_bytes()].concat();
        file.write_all(&header)?;
        file.sync_data()?;
        File::open(&self.reader.directory)?.sync_all()?;
        self.tail = Some((file, header.len() as u64));
        self.let_go(first)
    }

    fn let_go(&self, newest: u64) -> io::Result<()> {
        let mut total = 0;
        for first in self.reader.segments()?.into_iter().rev() {
            let path = path_of(&self.reader.directory, first);
            let about = fs::metadata(&path)?;
            total += about.len();
            let age = SystemTime::now().duration_since(about.modified()?).unwrap_or_default();
            if first != newest && (total > self.limits.total || age > self.limits.age) {
                fs::remove_file(&path)?;
            }
        }
        Ok(())
    }

    /// Brings everything to the disk. Returns how far that is.
    pub(super) fn sync(&mut self) -> io::Result<Head> {
        if self.dirty
            && let Some((file, _)) = &self.tail
        {
            file.sync_data()?;
            self.dirty = false;
        }
        Ok(self.head)
    }
}

#[cfg(test)]
mod tests {
    use crypto::OsEntropy;

    use super::{super::entry::Op, *};
    use crate::time::Timestamp;

    fn secret() -> SymmetricKey {
        SymmetricKey::from_bytes([7; 32])
    }

    fn open(directory: &Path, limits: Limits) -> Log {
        Log::open(directory, &secret(), Arc::new(OsEntropy), limits).unwrap()
    }

    fn act(nth: u64) -> Act {
        let path = Some(format!("folder/file {nth}").into_bytes());
        Act { path, ..Act::new(Timestamp { secs: 1_795_338_900 + nth as i64, nanos: 0 }, Op::Create) }
    }

    fn fill(log: &mut Log, from: u64, to: u64) {
        for nth in from..to {
            log.append(&[act(nth), act(nth)]).unwrap();
        }
        log.sync().unwrap();
    }

    fn small() -> Limits {
        Limits { segment: 2000, ..Limits::default() }
    }

    #[test]
    fn what_was_recorded_is_read_across_segments_and_restarts() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = open(directory.path(), small());
        fill(&mut log, 0, 20);
        drop(log);
        let mut log = open(directory.path(), small());
        assert_eq!(log.head().count, 40);
        fill(&mut log, 20, 30);
        assert!(log.reader().segments().unwrap().len() > 3);
        let all = log.reader().read(1, usize::MAX).unwrap();
        assert!(all.damage.is_empty());
        assert_eq!(all.entries.iter().map(|entry| entry.n).collect::<Vec<_>>(), (1..=60).collect::<Vec<_>>());
        let some = log.reader().read(33, 5).unwrap();
        assert_eq!(some.entries, all.entries[32..37]);
        assert_eq!(some.entries[0].path.as_deref(), Some("folder/file 16"));
        assert_eq!(log.reader().verify(&[log.head()]).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_torn_record_is_cut_off() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = open(directory.path(), Limits::default());
        fill(&mut log, 0, 3);
        let path = path_of(directory.path(), 1);
        let whole = fs::read(&path).unwrap();
        drop(log);
        for cut in [1, 5, 100] {
            fs::write(&path, &whole[..whole.len() - cut]).unwrap();
            let mut log = open(directory.path(), Limits::default());
            assert_eq!(log.head().count, 4);
            fill(&mut log, 2, 3);
            assert_eq!(log.reader().read(1, 100).unwrap().entries.len(), 6);
            assert!(log.reader().verify(&[]).unwrap().is_empty());
        }
    }

    #[test]
    fn no_change_goes_unnoticed() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = open(directory.path(), small());
        fill(&mut log, 0, 20);
        let (reader, head) = (log.reader(), log.head());
        drop(log);
        let segments = reader.segments().unwrap();
        let middle = path_of(directory.path(), segments[1]);
        let whole = fs::read(&middle).unwrap();
        for at in (0..whole.len()).step_by(61) {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            fs::write(&middle, &flipped).unwrap();
            assert!(!reader.verify(&[head]).unwrap().is_empty(), "byte {at}");
        }
        fs::remove_file(&middle).unwrap();
        assert!(!reader.verify(&[]).unwrap().is_empty(), "a segment is missing");
        fs::write(&middle, &whole).unwrap();
        assert!(reader.verify(&[head]).unwrap().is_empty());
        fs::remove_file(path_of(directory.path(), *segments.last().unwrap())).unwrap();
        assert!(reader.verify(&[]).unwrap().is_empty(), "the log alone does not know its end");
        let said = reader.verify(&[head]).unwrap().join("; ");
        assert!(said.contains("had signed that there are 40"), "{said}");
        // Begun anew by somebody with the keys: it is another chain.
        fs::remove_dir_all(directory.path()).unwrap();
        let mut log = open(directory.path(), small());
        fill(&mut log, 0, 20);
        assert!(log.reader().verify(&[head]).unwrap().join("; ").contains("not what this device had signed"));
    }

    #[test]
    fn the_oldest_goes_and_the_chain_holds() {
        let directory = tempfile::tempdir().unwrap();
        let limits = Limits { total: 8000, ..small() };
        let mut log = open(directory.path(), limits);
        fill(&mut log, 0, 100);
        let found = log.reader().read(1, usize::MAX).unwrap();
        let first = found.entries[0].n;
        assert!(first > 100 && found.entries.len() as u64 == 200 - first + 1, "{first}");
        assert!(log.reader().verify(&[log.head()]).unwrap().is_empty());
    }

    #[test]
    fn nothing_in_it_can_be_read_without_the_key() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = open(directory.path(), Limits::default());
        fill(&mut log, 0, 3);
        let bytes = fs::read(path_of(directory.path(), 1)).unwrap();
        assert!(!bytes.windows(6).any(|window| window == b"folder"));
        let other = SymmetricKey::from_bytes([8; 32]).derive(Label::AuditLog, b"");
        let reader = Reader { key: other, ..log.reader() };
        assert!(reader.read(1, 10).unwrap().entries.is_empty());
    }
}
