//! Some replicas, the wires between them, and what their users know they wrote.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use p2pfs_volume::{
    AttributeChange, Attributes, Caller, Error, Handle, Ino, Keep, Message, NewNode, NodeKind, OpenMode, RenameMode,
    Role, Session, SetTime, SetXattr, Timestamp,
    commit::{ClaimedCommit, Commit},
    id::CommitHash,
};

use super::op::{NAMES, Op};
use crate::common::{Replica, sync};

const ROOT_CALLER: Caller = Caller { uid: 0, gid: 0, pid: 0, umask: 0, is_member: None };

/// A file that a user keeps open.
struct Open {
    handle: Handle,
    ino: Ino,
    /// The same device took its name away since: what is written now need not be kept.
    doomed: bool,
}

/// A connection that carries a few messages at a time.
struct Wire {
    sessions: (Session, Session),
    queues: (VecDeque<Message>, VecDeque<Message>),
}

/// An entry as a user of a replica sees it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub path: String,
    pub parent: Ino,
    pub name: Vec<u8>,
    pub ino: Ino,
    pub kind: NodeKind,
}

pub struct World {
    pub replicas: Vec<Replica>,
    /// A member that takes no part and learns everything at the end.
    pub newcomer: Replica,
    opens: Vec<Vec<Open>>,
    wires: BTreeMap<(usize, usize), Wire>,
    /// Every commit that was ever sent.
    sent: Vec<ClaimedCommit>,
    sent_headers: BTreeSet<Vec<u8>>,
    /// Acknowledged writes, by the token that each one put into a file.
    acknowledged: BTreeSet<String>,
    /// Those that somebody who saw them overwrote or removed.
    discarded: BTreeSet<String>,
    next_token: u32,
    restarts: u64,
}

fn tokens(bytes: &[u8]) -> impl Iterator<Item = String> + '_ {
    bytes.split(|b| *b == b'.').filter(|t| !t.is_empty()).map(|t| String::from_utf8_lossy(t).into_owned())
}

fn pick<T>(items: &[T], index: u8) -> Option<&T> {
    items.get(usize::from(index) % items.len().max(1))
}

impl World {
    pub fn new(replicas: usize) -> World {
        const WHO: [&str; 5] = ["alice", "bob", "carol", "dora", "erin"];
        let mut all = vec![Replica::founder(WHO[0], 1)];
        for (i, name) in WHO.iter().enumerate().take(replicas).skip(1) {
            let role = if i == 1 { Role::Admin } else { Role::Writer };
            all.push(Replica::joined(name, i as u64 + 1, &all[0], role));
        }
        let newcomer = Replica::joined("newcomer", 9, &all[0], Role::Writer);
        for other in &all[1..] {
            sync(&all[0], other);
        }
        World {
            opens: all.iter().map(|_| Vec::new()).collect(),
            replicas: all,
            newcomer,
            wires: BTreeMap::new(),
            sent: Vec::new(),
            sent_headers: BTreeSet::new(),
            acknowledged: BTreeSet::new(),
            discarded: BTreeSet::new(),
            next_token: 0,
            restarts: 100,
        }
    }

    /// Gives all of them something to fight over.
    pub fn furnish(&mut self) {
        let alice = &self.replicas[0];
        for directory in ["a", "b", "a/b", "a/b/c", "c"] {
            alice.mkdir(directory).unwrap();
        }
        for file in ["a/a", "b/a.txt", "c/a", "a/b/c/a.txt"] {
            let token = self.token();
            self.replicas[0].write(file, format!("{token}.").as_bytes()).unwrap();
            self.acknowledged.insert(token);
        }
        for r in 1..self.replicas.len() {
            self.sync(0, r);
        }
    }

    fn token(&mut self) -> String {
        self.next_token += 1;
        format!("t{}", self.next_token)
    }

    /// Every entry of a replica, in the order of paths.
    pub fn entries(&self, r: usize) -> Vec<Seen> {
        let mut found = Vec::new();
        walk(&self.replicas[r], Ino::ROOT, "", &mut found);
        found.sort_by(|a, b| a.path.cmp(&b.path));
        found
    }

    fn directories(&self, r: usize) -> Vec<Ino> {
        let entries = self.entries(r);
        std::iter::once(Ino::ROOT)
            .chain(entries.iter().filter(|e| e.kind == NodeKind::Directory).map(|e| e.ino))
            .collect()
    }

    fn files(&self, r: usize) -> Vec<Seen> {
        self.entries(r).into_iter().filter(|e| e.kind == NodeKind::File).collect()
    }

    /// The user of `r` sees this entry's content and does away with it.
    fn discard(&mut self, r: usize, entry: &Seen) {
        for open in self.opens[r].iter_mut().filter(|o| o.ino == entry.ino) {
            open.doomed = true;
        }
        if entry.kind == NodeKind::File {
            self.discard_content(r, entry.ino);
        }
    }

    fn discard_content(&mut self, r: usize, ino: Ino) {
        let bytes = read(&self.replicas[r], ino);
        self.discarded.extend(tokens(&bytes));
    }

    fn put(&mut self, r: usize, ino: Ino, mode: OpenMode) -> Result<(), Error> {
        let token = self.token();
        let volume = &self.replicas[r].volume;
        let handle = volume.open(ino, mode, &ROOT_CALLER)?;
        volume.write(handle, 0, format!("{token}.").as_bytes(), &ROOT_CALLER)?;
        volume.flush(handle)?;
        volume.release(handle)?;
        if !self.opens[r].iter().any(|o| o.ino == ino && o.doomed) {
            self.acknowledged.insert(token);
        }
        Ok(())
    }

    /// Takes a step. What the filesystem refuses is no failure.
    pub fn step(&mut self, op: Op) {
        match self.try_step(op) {
            Ok(()) => {}
            Err(
                Error::Exists
                | Error::NotFound
                | Error::NotEmpty
                | Error::NotDirectory
                | Error::IsDirectory
                | Error::Invalid
                | Error::NotPermitted
                | Error::NoAttribute
                | Error::NotSupported,
            ) => {}
            Err(other) => panic!("{op:?}: {other}"),
        }
    }

    fn try_step(&mut self, op: Op) -> Result<(), Error> {
        match op {
            Op::Mkdir { r, dir, name } => {
                let (r, dir, name) = self.place(r, dir, name);
                self.replicas[r].volume.make(dir, name, NewNode::Directory, 0o755, &ROOT_CALLER)?;
            }
            Op::Symlink { r, dir, name } => {
                let (r, dir, name) = self.place(r, dir, name);
                self.replicas[r].volume.make(dir, name, NewNode::Symlink(b"target"), 0o777, &ROOT_CALLER)?;
            }
            Op::Write { r, dir, name } => {
                let (r, dir, name) = self.place(r, dir, name);
                let ino = match self.replicas[r].volume.lookup(dir, name) {
                    Ok(found) if found.kind == NodeKind::File => {
                        self.discard_content(r, found.ino);
                        found.ino
                    }
                    Ok(_) => return Ok(()),
                    Err(_) => self.replicas[r].volume.make(dir, name, NewNode::File, 0o644, &ROOT_CALLER)?.ino,
                };
                self.put(r, ino, OpenMode { write: true, truncate: true, ..OpenMode::default() })?;
            }
            Op::Overwrite { r, file } => {
                let r = self.who(r);
                let Some(file) = pick(&self.files(r), file).cloned() else { return Ok(()) };
                self.discard_content(r, file.ino);
                self.put(r, file.ino, OpenMode { write: true, truncate: true, ..OpenMode::default() })?;
            }
            Op::Append { r, file } => {
                let r = self.who(r);
                let Some(file) = pick(&self.files(r), file).cloned() else { return Ok(()) };
                self.put(r, file.ino, OpenMode { write: true, append: true, ..OpenMode::default() })?;
            }
            Op::Open { r, file } => {
                let r = self.who(r);
                let Some(file) = pick(&self.files(r), file).cloned() else { return Ok(()) };
                let mode = OpenMode { read: true, write: true, append: true, ..OpenMode::default() };
                let handle = self.replicas[r].volume.open(file.ino, mode, &ROOT_CALLER)?;
                self.opens[r].push(Open { handle, ino: file.ino, doomed: false });
            }
            Op::WriteOpen { r, handle } => {
                let r = self.who(r);
                let token = self.token();
                let Some(open) = pick(&self.opens[r], handle) else { return Ok(()) };
                self.replicas[r].volume.write(open.handle, 0, format!("{token}.").as_bytes(), &ROOT_CALLER)?;
                self.replicas[r].volume.flush(open.handle)?;
                if !open.doomed {
                    self.acknowledged.insert(token);
                }
            }
            Op::Close { r, handle } => {
                let r = self.who(r);
                if self.opens[r].is_empty() {
                    return Ok(());
                }
                let i = usize::from(handle) % self.opens[r].len();
                let open = self.opens[r].remove(i);
                self.replicas[r].volume.release(open.handle)?;
            }
            Op::Remove { r, entry } => {
                let r = self.who(r);
                let Some(entry) = pick(&self.entries(r), entry).cloned() else { return Ok(()) };
                self.remove(r, &entry)?;
            }
            Op::RemoveTree { r, entry } => {
                let r = self.who(r);
                let all = self.entries(r);
                let Some(entry) = pick(&all, entry) else { return Ok(()) };
                let below = format!("{}/", entry.path);
                for inner in all.iter().rev().filter(|e| e.path == entry.path || e.path.starts_with(&below)) {
                    self.remove(r, inner)?;
                }
            }
            Op::Rename { r, entry, dir, name } => {
                let (r, dir, name) = self.place(r, dir, name);
                let Some(entry) = pick(&self.entries(r), entry).cloned() else { return Ok(()) };
                self.rename(r, &entry, dir, name, RenameMode::Replace)?;
            }
            Op::Nest { r, which, into, name } => {
                let (r, into, name) = self.place(r, into, name);
                let all = self.entries(r);
                let directories: Vec<&Seen> = all.iter().filter(|e| e.kind == NodeKind::Directory).collect();
                let Some(which) = pick(&directories, which) else { return Ok(()) };
                self.rename(r, which, into, name, RenameMode::Replace)?;
            }
            Op::RenameOver { r, entry, other } => {
                let r = self.who(r);
                let all = self.entries(r);
                let (Some(entry), Some(other)) = (pick(&all, entry), pick(&all, other)) else { return Ok(()) };
                self.rename(r, entry, other.parent, &other.name, RenameMode::Replace)?;
            }
            Op::Exchange { r, entry, other } => {
                let r = self.who(r);
                let all = self.entries(r);
                let (Some(entry), Some(other)) = (pick(&all, entry), pick(&all, other)) else { return Ok(()) };
                self.rename(r, entry, other.parent, &other.name, RenameMode::Exchange)?;
            }
            Op::Link { r, file, dir, name, many } => {
                let (r, dir, name) = self.place(r, dir, name);
                let Some(file) = pick(&self.files(r), file).cloned() else { return Ok(()) };
                self.replicas[r].volume.link(file.ino, dir, name)?;
                // More than its row holds.
                for more in (0u8..5).filter(|_| many) {
                    self.replicas[r].volume.link(file.ino, dir, &[name, &[b'0' + more]].concat())?;
                }
            }
            Op::Chmod { r, entry, mode } => {
                let change = AttributeChange { mode: Some(0o640 | u16::from(mode)), ..AttributeChange::default() };
                self.set(r, entry, &change)?;
            }
            Op::Utimens { r, entry, secs } => {
                let time = SetTime::At(Timestamp { secs: i64::from(secs) + 1000, nanos: 0 });
                let change = AttributeChange { mtime: Some(time), atime: Some(time), ..AttributeChange::default() };
                self.set(r, entry, &change)?;
            }
            Op::Xattr { r, entry, name, value } => {
                let r = self.who(r);
                let Some(entry) = pick(&self.entries(r), entry).cloned() else { return Ok(()) };
                let name = &[b"user.".as_slice(), &[b'a' + name]].concat();
                let volume = &self.replicas[r].volume;
                match value {
                    0 => volume.remove_xattr(entry.ino, name)?,
                    _ => volume.set_xattr(entry.ino, name, &[b'0' + value], SetXattr::Any, &ROOT_CALLER)?,
                }
            }
            Op::Resolve { r, which, keep } => {
                let r = self.who(r);
                self.resolve(r, which, keep)?;
            }
            Op::Set { r, name, value } => {
                let name = ["history.keep-all", "history.monthly"][usize::from(name)];
                let value = ["forever", "40d", "2y"].get(usize::from(value)).copied();
                match self.replicas[self.who(r)].volume.set_setting(name, value) {
                    Err(Error::Refused(_)) => {}
                    done => done?,
                }
            }
            Op::Snapshot { r, name } => {
                match self.replicas[self.who(r)].volume.create_snapshot(NAMES[usize::from(name)]) {
                    Err(Error::Refused(_)) => {}
                    done => done?,
                }
            }
            Op::Drop { r, which } => {
                let volume = &self.replicas[self.who(r)].volume;
                let all = volume.snapshots()?;
                let Some(snapshot) = pick(&all, which) else { return Ok(()) };
                match volume.remove_snapshot(&snapshot.name) {
                    Err(Error::Refused(_)) => {}
                    done => done?,
                }
            }
            Op::Restart { r } => {
                let r = self.who(r);
                self.wires.retain(|pair, _| pair.0 != r && pair.1 != r);
                self.opens[r].clear();
                self.restarts += 1;
                self.replicas[r].restart(self.restarts);
            }
            Op::Cut { r } => {
                let r = self.who(r);
                self.replicas[r].volume.commit_now()?;
            }
            Op::Sync { r, with } => {
                let (r, with) = (self.who(r), self.who(with));
                if r != with {
                    self.sync(r, with);
                }
            }
            Op::Trickle { r, with, messages } => {
                let (r, with) = (self.who(r), self.who(with));
                if r != with {
                    self.trickle(r.min(with), r.max(with), messages);
                }
            }
            Op::Gossip { r, from, count, reverse } => {
                let r = self.who(r);
                self.gossip(r, from, count, reverse);
            }
        }
        Ok(())
    }

    fn who(&self, r: u8) -> usize {
        usize::from(r) % self.replicas.len()
    }

    fn place(&self, r: u8, dir: u8, name: u8) -> (usize, Ino, &'static [u8]) {
        let r = self.who(r);
        let dir = pick(&self.directories(r), dir).copied().unwrap_or(Ino::ROOT);
        (r, dir, NAMES[usize::from(name) % NAMES.len()].as_bytes())
    }

    fn remove(&mut self, r: usize, entry: &Seen) -> Result<(), Error> {
        if entry.kind == NodeKind::Directory {
            return self.replicas[r].volume.rmdir(entry.parent, &entry.name);
        }
        // What was listed may be gone since: a conflicting version shows beside each name of its file.
        let ino = self.replicas[r].volume.lookup(entry.parent, &entry.name)?.ino;
        self.discard(r, &Seen { ino, ..entry.clone() });
        self.replicas[r].volume.unlink(entry.parent, &entry.name)
    }

    fn rename(&mut self, r: usize, entry: &Seen, dir: Ino, name: &[u8], mode: RenameMode) -> Result<(), Error> {
        let target = self.entries(r).into_iter().find(|e| e.parent == dir && e.name == name);
        match &target {
            Some(target) if mode == RenameMode::Replace && target.ino != entry.ino && target.kind == NodeKind::File => {
                let bytes: Vec<String> = tokens(&read(&self.replicas[r], target.ino)).collect();
                let result = self.replicas[r].volume.rename(entry.parent, &entry.name, dir, name, mode);
                if result.is_ok() {
                    self.discarded.extend(bytes);
                    for open in self.opens[r].iter_mut().filter(|o| o.ino == target.ino) {
                        open.doomed = true;
                    }
                }
                result
            }
            _ => self.replicas[r].volume.rename(entry.parent, &entry.name, dir, name, mode),
        }
    }

    /// What is not kept was seen, and is done away with.
    fn resolve(&mut self, r: usize, which: u8, keep: u8) -> Result<(), Error> {
        let volume = &self.replicas[r].volume;
        let found = volume.conflicts(b"", usize::MAX)?.conflicts;
        let Some(conflict) = pick(&found, which) else { return Ok(()) };
        let versions = &conflict.versions;
        let keep = match keep {
            0 => Keep::All,
            1 => Keep::Mine,
            2 => Keep::Theirs,
            _ => Keep::Named(versions[usize::from(keep) % versions.len()].name.clone()),
        };
        let kept = |i: usize| match &keep {
            Keep::All => true,
            Keep::Mine => versions[i].mine,
            Keep::Theirs => !versions[i].mine,
            Keep::Named(name) => versions[i].name == *name,
        };
        let directory = self.replicas[r].find(std::str::from_utf8(&conflict.directory).unwrap())?;
        let mut gone = Vec::new();
        for (i, version) in versions.iter().enumerate().filter(|(i, _)| !kept(*i)) {
            let ino = volume.lookup(directory, &version.name)?.ino;
            let bytes = if version.kind == NodeKind::File { read(&self.replicas[r], ino) } else { Vec::new() };
            gone.push((i, ino, tokens(&bytes).collect::<Vec<_>>()));
        }
        match volume.resolve(&conflict.path(), &keep) {
            Err(Error::Refused(_)) => return Ok(()),
            done => done?,
        }
        // The file that it shows as, be it one or the other of its versions, stays.
        let whole = versions.iter().enumerate().any(|(i, v)| kept(i) && !v.own);
        for (i, ino, tokens) in gone {
            self.discarded.extend(tokens);
            for open in self.opens[r].iter_mut().filter(|o| o.ino == ino && (versions[i].own || !whole)) {
                open.doomed = true;
            }
        }
        Ok(())
    }

    fn set(&mut self, r: u8, entry: u8, change: &AttributeChange) -> Result<(), Error> {
        let r = self.who(r);
        let Some(entry) = pick(&self.entries(r), entry).cloned() else { return Ok(()) };
        self.replicas[r].volume.set_attributes(entry.ino, None, change, &ROOT_CALLER).map(|_| ())
    }

    // ---- the network

    fn sync(&mut self, a: usize, b: usize) {
        sync(&self.replicas[a], &self.replicas[b]);
    }

    fn overhear(&mut self, message: &Message) {
        if let Message::Commits(commits) = message {
            for commit in commits {
                if self.sent_headers.insert(commit.header.clone()) {
                    self.sent.push(commit.clone());
                }
            }
        }
    }

    fn trickle(&mut self, a: usize, b: usize, messages: u8) {
        let (here, there) = (&self.replicas[a], &self.replicas[b]);
        let wire = self.wires.entry((a, b)).or_insert_with(|| {
            let sessions = (here.volume.session(there.device_id()), there.volume.session(here.device_id()));
            let queues = (sessions.0.opening().into(), sessions.1.opening().into());
            Wire { sessions, queues }
        });
        let mut heard = Vec::new();
        for i in 0..messages * 2 {
            let (from, to, queue) = match i % 2 {
                0 => (&wire.sessions.0, &wire.sessions.1, &mut wire.queues.0),
                _ => (&wire.sessions.1, &wire.sessions.0, &mut wire.queues.1),
            };
            queue.extend(from.next_outgoing());
            if let Some(message) = queue.pop_front() {
                heard.push(message.clone());
                to.receive(message).unwrap();
            }
        }
        for message in heard {
            self.overhear(&message);
        }
    }

    fn gossip(&mut self, r: usize, from: u8, count: u8, reverse: bool) {
        if self.sent.is_empty() {
            return;
        }
        let first = usize::from(from) % self.sent.len();
        let mut some: Vec<ClaimedCommit> = self.sent.iter().skip(first).take(usize::from(count)).cloned().collect();
        if reverse {
            some.reverse();
        }
        let session = self.replicas[r].volume.session(self.newcomer.device_id());
        for commit in some {
            session.receive(Message::Commits(vec![commit])).unwrap();
        }
    }

    /// Closes everything and lets all meet until they know the same.
    pub fn settle(&mut self) {
        for r in 0..self.replicas.len() {
            for open in std::mem::take(&mut self.opens[r]) {
                self.replicas[r].volume.release(open.handle).unwrap();
            }
            self.replicas[r].volume.commit_now().unwrap();
        }
        self.wires.clear();
        for _ in 0..2 {
            for r in 1..self.replicas.len() {
                self.sync(0, r);
            }
        }
    }

    /// The newcomer gets every commit, in a causal order that `order` chooses.
    pub fn inform_newcomer(&self, commits: &[Commit], order: u64) {
        let session = self.newcomer.volume.session(self.replicas[0].device_id());
        let mut left: Vec<&Commit> = commits.iter().collect();
        let mut given: BTreeSet<CommitHash> = BTreeSet::new();
        let mut state = order;
        while !left.is_empty() {
            let ready: Vec<usize> = (0..left.len())
                .filter(|&i| {
                    let header = &left[i].header;
                    let first = header.prev == CommitHash::ZERO;
                    (first || given.contains(&header.prev)) && header.observed.iter().all(|o| given.contains(o))
                })
                .collect();
            // 0: the order in which they came first, or one log as far as it goes; else by lot.
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let i = match order {
                0 => ready[0],
                1 => ready[ready.len() - 1],
                _ => ready[(state >> 33) as usize % ready.len()],
            };
            let commit = left.remove(i);
            given.insert(commit.hash);
            session.receive(Message::Commits(vec![commit.raw.clone()])).unwrap();
        }
    }

    // ---- what is checked

    /// Acknowledged writes that nobody did away with and that are in no file.
    pub fn lost(&self) -> Vec<String> {
        let mut left: BTreeSet<String> = self.acknowledged.difference(&self.discarded).cloned().collect();
        for file in self.files(0) {
            for token in tokens(&read(&self.replicas[0], file.ino)) {
                left.remove(&token);
            }
        }
        left.into_iter().collect()
    }
}

/// Every commit that a replica knows, in the order in which they came.
pub fn commits(replica: &Replica, peer: &Replica) -> Vec<Commit> {
    let session = replica.volume.session(peer.device_id());
    session.receive(Message::Tips(Vec::new())).unwrap();
    let mut found = Vec::new();
    while let Some(message) = session.next_outgoing() {
        if let Message::Commits(commits) = message {
            found.extend(commits.into_iter().map(|c| c.check().unwrap()));
        }
    }
    found
}

/// Everything a user of a replica can see of it, a line per entry.
pub fn dump(replica: &Replica) -> Vec<String> {
    let mut entries = Vec::new();
    walk(replica, Ino::ROOT, "", &mut entries);
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    let mut first: BTreeMap<Ino, String> = BTreeMap::new();
    entries
        .iter()
        .map(|entry| {
            let volume = &replica.volume;
            let attributes = volume.lookup(entry.parent, &entry.name).unwrap();
            assert_eq!(attributes.ino, entry.ino);
            let what = match entry.kind {
                NodeKind::Directory => "dir".to_owned(),
                NodeKind::File => format!("file {:?}", String::from_utf8_lossy(&read(replica, entry.ino))),
                _ => format!("-> {}", String::from_utf8_lossy(&volume.readlink(entry.ino).unwrap())),
            };
            let mut xattrs: Vec<String> = Vec::new();
            for name in volume.list_xattrs(entry.ino).unwrap() {
                let value = volume.get_xattr(entry.ino, &name).unwrap();
                xattrs.push(format!("{}={}", String::from_utf8_lossy(&name), String::from_utf8_lossy(&value)));
            }
            xattrs.sort();
            let same = first.entry(entry.ino).or_insert_with(|| entry.path.clone()).clone();
            let same = if same == entry.path { String::new() } else { format!(" same as {same}") };
            let Attributes { mode, links, .. } = attributes;
            let mtime = attributes.mtime.secs * 1000 + i64::from(attributes.mtime.nanos / 1_000_000);
            format!("{} {what} mode {mode:o} links {links} mtime {mtime} {xattrs:?}{same}", entry.path)
        })
        .collect()
}

fn walk(replica: &Replica, directory: Ino, path: &str, found: &mut Vec<Seen>) {
    assert!(path.split('/').count() < 64, "{}: directories without end", replica.name);
    let entries = replica.volume.read_directory(directory, 0, usize::MAX).unwrap();
    for entry in entries.into_iter().filter(|e| e.name != b"." && e.name != b"..") {
        let path = format!("{path}/{}", String::from_utf8_lossy(&entry.name));
        let (ino, kind) = (entry.attributes.ino, entry.attributes.kind);
        found.push(Seen { path: path.clone(), parent: directory, name: entry.name, ino, kind });
        if kind == NodeKind::Directory {
            walk(replica, ino, &path, found);
        }
    }
}

fn read(replica: &Replica, ino: Ino) -> Vec<u8> {
    let mode = OpenMode { read: true, ..OpenMode::default() };
    let handle = replica.volume.open(ino, mode, &ROOT_CALLER).unwrap();
    let mut bytes = Vec::new();
    replica.volume.read(handle, 0, 1 << 20, &mut bytes).unwrap();
    replica.volume.release(handle).unwrap();
    bytes
}
