//! Plays calls on a volume and on the naive tree, and compares what they answer and what is there afterwards.

use std::collections::{BTreeMap, BTreeSet};

use p2pfs_volume::{
    AttributeChange, Caller, Error, Handle, Ino, NewNode, NodeKind, OpenMode, SetTime, Timestamp, Volume,
};

use super::{
    op::{GOOD, How, Make, Op, Pick, Set},
    tree::{Id, ROOT, Refusal, Tree},
};
use crate::common::Replica;

/// What one holder of a block may call a hole: whole blocks only.
const BLOCK: usize = 65_536;

/// A directory that is being read, from cookie to cookie.
struct Listing {
    dir: Id,
    after: u64,
    seen: BTreeSet<String>,
    /// Names that were there all the time, and at any time, since it began.
    always: BTreeSet<String>,
    ever: BTreeSet<String>,
}

/// A state that survives power loss.
#[derive(Clone)]
struct Synced {
    tree: Tree,
    inos: BTreeMap<Id, Ino>,
}

pub struct Player {
    replica: Replica,
    tree: Tree,
    /// Under which number the volume knows a node: never changes.
    inos: BTreeMap<Id, Ino>,
    /// Of the tree's handles, in their order.
    handles: Vec<Handle>,
    listings: Vec<Listing>,
    synced: Synced,
    restarts: u64,
}

/// The error's name in the tree; `None` for one that no call here may give.
fn refusal(error: &Error) -> Option<Refusal> {
    Some(match error {
        Error::NotFound => Refusal::NotFound,
        Error::Exists => Refusal::Exists,
        Error::NotDirectory => Refusal::NotDirectory,
        Error::IsDirectory => Refusal::IsDirectory,
        Error::NotEmpty => Refusal::NotEmpty,
        Error::Invalid => Refusal::Invalid,
        Error::NameTooLong => Refusal::NameTooLong,
        Error::FileTooLarge => Refusal::FileTooLarge,
        Error::NotPermitted => Refusal::NotPermitted,
        Error::BadHandle => Refusal::BadHandle,
        Error::NoAttribute => Refusal::NoAttribute,
        Error::Range => Refusal::Range,
        Error::NoMoreData => Refusal::NoMoreData,
        _ => return None,
    })
}

/// Both answers agree: both the value, or the same error.
fn same<T, U>(what: &Op, real: p2pfs_volume::Result<T>, wanted: Result<U, Refusal>) -> Option<(T, U)> {
    match (real, wanted) {
        (Ok(real), Ok(wanted)) => Some((real, wanted)),
        (Err(error), Err(wanted)) if refusal(&error) == Some(wanted) => None,
        (real, wanted) => panic!(
            "{what:?}: the volume says {:?}, the tree says {:?}",
            real.map(|_| "yes").map_err(|e| e.to_string()),
            wanted.map(|_| "yes")
        ),
    }
}

fn open_mode(how: How) -> OpenMode {
    let writing = OpenMode { read: true, write: true, ..OpenMode::default() };
    match how {
        How::Read => OpenMode { read: true, ..OpenMode::default() },
        How::Write => writing,
        How::Append => OpenMode { append: true, ..writing },
        How::Truncate => OpenMode { truncate: true, ..writing },
    }
}

fn caller(uid: u32) -> Caller {
    Caller { uid, gid: uid, ..Caller::default() }
}

/// Bytes that tell where they were written; none is zero.
fn bytes(fill: u8, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i.wrapping_mul(7) ^ usize::from(fill)) as u8 | 1).collect()
}

fn at(secs: i64) -> Timestamp {
    Timestamp { secs, nanos: 7 }
}

impl Player {
    pub fn new() -> Self {
        let replica = Replica::founder("ada", 1);
        // What a shared folder begins with says nothing here.
        replica.volume.remove_xattr(Ino::ROOT, b"system.posix_acl_default").unwrap();
        replica.volume.commit_now().unwrap();
        let (tree, inos) = (Tree::new(), BTreeMap::from([(ROOT, Ino::ROOT)]));
        let synced = Synced { tree: tree.clone(), inos: inos.clone() };
        Player { replica, tree, inos, handles: Vec::new(), listings: Vec::new(), synced, restarts: 0 }
    }

    fn volume(&self) -> &Volume {
        &self.replica.volume
    }

    fn ino(&self, id: Id) -> Ino {
        self.inos[&id]
    }

    /// Mostly a directory, now and then anything.
    fn dir(&self, pick: Pick) -> Id {
        let directories = self.tree.directories();
        if pick >= 96 { self.any(pick) } else { directories[pick % directories.len()] }
    }

    fn any(&self, pick: Pick) -> Id {
        *self.tree.nodes.keys().nth(pick % self.tree.nodes.len()).unwrap()
    }

    /// Mostly a file.
    fn file(&self, pick: Pick) -> Id {
        let files: Vec<Id> =
            self.tree.nodes.iter().filter(|(_, n)| n.kind == NodeKind::File).map(|(id, _)| *id).collect();
        if pick >= 90 || files.is_empty() { self.any(pick) } else { files[pick % files.len()] }
    }

    /// Mostly one that is open; the number of none when there never was one.
    fn handle(&self, pick: Pick) -> (usize, Handle) {
        let open: Vec<usize> = (0..self.handles.len()).filter(|n| self.tree.handles[*n].is_some()).collect();
        let number = match pick {
            95.. => pick % self.handles.len().max(1),
            _ if open.is_empty() => 0,
            _ => open[pick % open.len()],
        };
        (number, self.handles.get(number).copied().unwrap_or(Handle(u64::MAX)))
    }

    /// Plays one call.
    pub fn play(&mut self, op: &Op) {
        match op {
            Op::Commit | Op::Remount | Op::Kill | Op::PowerLoss => self.machine(op),
            Op::ListBegin { dir } => self.begin_listing(self.dir(*dir)),
            Op::ListNext { listing, limit } if !self.listings.is_empty() => {
                self.go_on_listing(*listing % self.listings.len(), *limit);
            }
            Op::ListNext { .. } => {}
            Op::Make { .. }
            | Op::Create { .. }
            | Op::Lookup { .. }
            | Op::Link { .. }
            | Op::LinkMany { .. }
            | Op::Unlink { .. }
            | Op::Rmdir { .. }
            | Op::Rename { .. } => self.names(op),
            Op::SetAttributes { .. }
            | Op::SetXattr { .. }
            | Op::GetXattr { .. }
            | Op::RemoveXattr { .. }
            | Op::ReadLink { .. } => self.attributes(op),
            _ => self.files(op),
        }
        self.inos.retain(|id, _| self.tree.nodes.contains_key(id));
        self.note_names();
        self.compare(op);
        // Opening syncs, and then publishes what was synced as a draft.
        let opened = matches!(op, Op::Remount | Op::Kill | Op::PowerLoss);
        if opened || self.replica.store.unsynced() == 0 {
            self.synced = Synced { tree: self.tree.clone(), inos: self.inos.clone() };
        }
    }

    /// Everything is still there after a last restart.
    pub fn end(&mut self) {
        self.play(&Op::Kill);
        self.play(&Op::Remount);
    }

    fn names(&mut self, op: &Op) {
        match *op {
            Op::Make { dir, name, what, mode, uid } => {
                let dir = self.dir(dir);
                let new = match what {
                    Make::File => NewNode::File,
                    Make::Directory => NewNode::Directory,
                    Make::Symlink { target } => NewNode::Symlink(target.as_bytes()),
                    Make::Fifo => NewNode::Fifo,
                    Make::Device { rdev } => NewNode::CharDevice(rdev),
                };
                let real = self.volume().make(self.ino(dir), name.as_bytes(), new, mode, &caller(uid));
                if let Some((real, id)) = same(op, real, self.tree.make(dir, name, what, mode, uid)) {
                    self.inos.insert(id, real.ino);
                }
            }
            Op::Create { dir, name, how, exclusive } => {
                let dir = self.dir(dir);
                let who = Caller::default();
                let real = self.volume().create(self.ino(dir), name.as_bytes(), 0o644, open_mode(how), exclusive, &who);
                let made = self.tree.make(dir, name, Make::File, 0o644, 0);
                let wanted = match made {
                    // Then nothing is to be emptied.
                    Ok(id) => self.tree.open(id, if how == How::Truncate { How::Write } else { how }).map(|()| id),
                    Err(Refusal::Exists) if !exclusive => {
                        self.tree.lookup(dir, name).and_then(|id| self.tree.open(id, how).map(|()| id))
                    }
                    Err(refusal) => Err(refusal),
                };
                if let Some(((real, handle), id)) = same(op, real, wanted) {
                    assert_eq!(*self.inos.entry(id).or_insert(real.ino), real.ino, "{op:?}");
                    self.handles.push(handle);
                }
            }
            Op::Lookup { dir, name } => {
                let dir = self.dir(dir);
                let real = self.volume().lookup(self.ino(dir), name.as_bytes());
                if let Some((real, id)) = same(op, real, self.tree.lookup(dir, name)) {
                    assert_eq!(real.ino, self.ino(id), "{op:?}");
                }
            }
            Op::Link { node, dir, name } => {
                let (node, dir) = (self.file(node), self.dir(dir));
                let real = self.volume().link(self.ino(node), self.ino(dir), name.as_bytes());
                same(op, real, self.tree.link(node, dir, name));
            }
            Op::LinkMany { node, dir } => {
                let (node, dir) = (self.file(node), self.dir(dir));
                for name in GOOD {
                    let real = self.volume().link(self.ino(node), self.ino(dir), name.as_bytes());
                    same(op, real, self.tree.link(node, dir, name));
                }
            }
            Op::Unlink { dir, name } => {
                let dir = self.dir(dir);
                let real = self.volume().unlink(self.ino(dir), name.as_bytes());
                same(op, real, self.tree.unlink(dir, name));
            }
            Op::Rmdir { dir, name } => {
                let dir = self.dir(dir);
                let real = self.volume().rmdir(self.ino(dir), name.as_bytes());
                same(op, real, self.tree.rmdir(dir, name));
            }
            Op::Rename { dir, name, to, new, mode } => {
                let (dir, to) = (self.dir(dir), self.dir(to));
                let real = self.volume().rename(self.ino(dir), name.as_bytes(), self.ino(to), new.as_bytes(), mode);
                same(op, real, self.tree.rename(dir, name, to, new, mode));
            }
            _ => unreachable!("only calls on names come here"),
        }
    }

    fn files(&mut self, op: &Op) {
        match *op {
            Op::Open { node, how } => {
                let node = self.file(node);
                let real = self.volume().open(self.ino(node), open_mode(how), &Caller::default());
                if let Some((handle, ())) = same(op, real, self.tree.open(node, how)) {
                    self.handles.push(handle);
                }
            }
            Op::Read { handle, offset, len } => {
                let (number, handle) = self.handle(handle);
                let mut read = Vec::new();
                let real = self.volume().read(handle, offset as u64, len, &mut read);
                if let Some(((), wanted)) = same(op, real, self.tree.read(number, offset, len)) {
                    assert!(read == wanted, "{op:?}: other bytes were read");
                }
            }
            Op::Write { handle, offset, fill, len, uid } => {
                let (number, handle) = self.handle(handle);
                let data = bytes(fill, len);
                let real = self.volume().write(handle, offset, &data, &caller(uid));
                same(op, real, self.tree.write(number, offset, &data, uid));
                self.compare_through(op, number);
            }
            Op::Flush { handle } => {
                let (number, handle) = self.handle(handle);
                same(op, self.volume().flush(handle), self.tree.flush(number));
            }
            Op::Release { handle } => {
                let (number, handle) = self.handle(handle);
                let node = self.tree.handle(number).ok();
                same(op, self.volume().release(handle), self.tree.release(number));
                if let Some(node) = node.filter(|open| self.tree.nodes.contains_key(&open.node)) {
                    self.compare_bytes(op, node.node);
                }
            }
            Op::Fsync { handle } => {
                let (number, handle) = self.handle(handle);
                let wanted = self.tree.handle(number).map(|open| self.tree.store(open.node));
                same(op, self.volume().fsync(handle), wanted);
            }
            Op::Allocate { handle, mode, offset, len } => {
                let (number, handle) = self.handle(handle);
                let real = self.volume().allocate(handle, mode, offset, len);
                same(op, real, self.tree.allocate(number, mode, offset, len));
                self.compare_through(op, number);
            }
            Op::CopyRange { from, from_offset, to, to_offset, len } => {
                let ((from_number, from), (to_number, to)) = (self.handle(from), self.handle(to));
                let real = self.volume().copy_range(from, from_offset, to, to_offset, len);
                let wanted = self.tree.copy_range(from_number, from_offset, to_number, to_offset, len);
                if let Some((real, wanted)) = same(op, real, wanted) {
                    assert_eq!(real, wanted, "{op:?}");
                }
                self.compare_through(op, to_number);
                self.compare_through(op, from_number);
            }
            Op::SeekData { handle, offset } | Op::SeekHole { handle, offset } => {
                let (number, handle) = self.handle(handle);
                let Ok(open) = self.tree.handle(number) else { return };
                let data = self.tree.nodes[&open.node].data.clone();
                self.seek(op, handle, offset as usize, &data);
            }
            _ => unreachable!("only calls on open files come here"),
        }
    }

    /// What is called data may be zeros, what is called a hole must be.
    fn seek(&self, op: &Op, handle: Handle, offset: usize, data: &[u8]) {
        let zeros = |from: usize, to: usize| data[from..to].iter().all(|byte| *byte == 0);
        match (
            op,
            if matches!(op, Op::SeekData { .. }) {
                self.volume().seek_data(handle, offset as u64)
            } else {
                self.volume().seek_hole(handle, offset as u64)
            },
        ) {
            (_, Err(Error::NoMoreData)) if offset >= data.len() => {}
            (Op::SeekData { .. }, Err(Error::NoMoreData)) => {
                assert!(zeros(offset, data.len()), "{op:?}: data was hidden")
            }
            (Op::SeekData { .. }, Ok(found)) => {
                let found = found as usize;
                assert!((offset..data.len()).contains(&found), "{op:?}: {found} is not in the file");
                assert!(zeros(offset, found), "{op:?}: data was hidden");
            }
            (_, Ok(found)) => {
                let found = found as usize;
                assert!((offset..=data.len()).contains(&found), "{op:?}: {found} is not in the file");
                let end = ((found / BLOCK + 1) * BLOCK).min(data.len());
                assert!(zeros(found, end), "{op:?}: a hole with data in it");
            }
            (_, Err(error)) => panic!("{op:?}: {error}"),
        }
    }

    fn attributes(&mut self, op: &Op) {
        match *op {
            Op::SetAttributes { node, through, set, uid } => {
                let node = self.file(node);
                let through = through
                    .map(|pick| self.handle(pick))
                    .filter(|(number, _)| self.tree.handle(*number).is_ok_and(|open| open.node == node));
                // What is refused must not clear bits first; the kernel refuses such a size before it asks.
                let uid = if set.size.is_some_and(|size| size > 1 << 46) { 0 } else { uid };
                let change = change(&set);
                let real = self.volume().set_attributes(self.ino(node), through.map(|t| t.1), &change, &caller(uid));
                same(op, real, self.tree.set_attributes(node, &set, uid));
                if self.tree.nodes[&node].kind == NodeKind::File {
                    self.compare_bytes(op, node);
                }
            }
            Op::SetXattr { node, name, len, how } => {
                let (node, value) = (self.any(node), bytes(3, len));
                let real = self.volume().set_xattr(self.ino(node), name.as_bytes(), &value, how, &Caller::default());
                same(op, real, self.tree.set_xattr(node, name, &value, how));
            }
            Op::GetXattr { node, name } => {
                let node = self.any(node);
                let real = self.volume().get_xattr(self.ino(node), name.as_bytes());
                if let Some((real, wanted)) = same(op, real, self.tree.get_xattr(node, name)) {
                    assert_eq!(real, wanted, "{op:?}");
                }
            }
            Op::RemoveXattr { node, name } => {
                let node = self.any(node);
                let real = self.volume().remove_xattr(self.ino(node), name.as_bytes());
                same(op, real, self.tree.remove_xattr(node, name));
            }
            Op::ReadLink { node } => {
                let node = self.any(node);
                let real = self.volume().readlink(self.ino(node));
                if let Some((real, wanted)) = same(op, real, self.tree.read_link(node)) {
                    assert_eq!(real, wanted, "{op:?}");
                }
            }
            _ => unreachable!("only calls on attributes come here"),
        }
    }

    fn machine(&mut self, op: &Op) {
        match op {
            Op::Commit => {
                self.volume().commit_now().unwrap();
                self.tree.store_all();
                return;
            }
            Op::Remount => {
                self.volume().shutdown().unwrap();
                self.tree.store_all();
            }
            Op::PowerLoss => {
                self.replica.store.lose_power(0);
                self.replica.blocks.lose_power();
                Synced { tree: self.tree, inos: self.inos } = self.synced.clone();
            }
            _ => {}
        }
        self.restarts += 1;
        self.replica.restart(self.restarts);
        self.tree.restart();
        self.handles.clear();
        self.listings.clear();
        let files: Vec<Id> =
            self.tree.nodes.iter().filter(|(_, n)| n.kind == NodeKind::File).map(|(id, _)| *id).collect();
        for id in files {
            self.compare_bytes(op, id);
        }
    }

    // ---- listings

    fn names_in(&self, dir: Id) -> BTreeSet<String> {
        self.tree.nodes.get(&dir).map(|n| n.entries.keys().cloned().collect()).unwrap_or_default()
    }

    fn begin_listing(&mut self, dir: Id) {
        if self.tree.nodes[&dir].kind != NodeKind::Directory {
            let refused = self.volume().read_directory(self.ino(dir), 0, 5);
            assert!(matches!(refused, Err(Error::NotDirectory)));
            return;
        }
        if self.listings.len().is_multiple_of(2) {
            self.volume().read_ahead(self.ino(dir));
        }
        let names = self.names_in(dir);
        self.listings.push(Listing { dir, after: 0, seen: BTreeSet::new(), always: names.clone(), ever: names });
    }

    fn go_on_listing(&mut self, number: usize, limit: usize) {
        let ino = self.ino(self.listings[number].dir);
        let entries = self.volume().read_directory(ino, self.listings[number].after, limit).unwrap();
        assert!(entries.len() <= limit);
        let done = entries.is_empty();
        let listing = &mut self.listings[number];
        for entry in entries {
            assert!(entry.cookie > listing.after, "cookies rise");
            listing.after = entry.cookie;
            let name = String::from_utf8(entry.name).unwrap();
            assert!(name == "." || name == ".." || listing.ever.contains(&name), "{name:?} was never there");
            assert!(listing.seen.insert(name.clone()), "{name:?} was listed twice");
        }
        if done {
            let listing = self.listings.swap_remove(number);
            assert!(listing.always.is_subset(&listing.seen), "{:?} without {:?}", listing.seen, listing.always);
        }
    }

    fn note_names(&mut self) {
        for number in 0..self.listings.len() {
            let names = self.names_in(self.listings[number].dir);
            let listing = &mut self.listings[number];
            listing.always.retain(|name| names.contains(name));
            listing.ever.extend(names);
        }
    }

    // ---- comparing

    /// All names and attributes.
    fn compare(&self, op: &Op) {
        for (&id, node) in &self.tree.nodes {
            let real = self.volume().attributes(self.ino(id)).unwrap();
            let shown = (real.ino, real.kind, real.mode, real.uid, real.gid, real.rdev, real.links as usize);
            let links = self.tree.links(id);
            assert_eq!(shown, (self.ino(id), node.kind, node.mode, node.uid, node.gid, node.rdev, links), "{op:?}");
            match node.kind {
                NodeKind::File => assert_eq!(real.size, node.data.len() as u64, "{op:?}: size"),
                NodeKind::Symlink => assert_eq!(real.size, node.target.len() as u64, "{op:?}: size"),
                _ => {}
            }
            assert!(real.allocated <= real.size.max(4096), "{op:?}: {} allocated of {}", real.allocated, real.size);
            assert_eq!(node.mtime.map_or(real.mtime, at), real.mtime, "{op:?}: modification time");
            assert_eq!(node.atime.map_or(real.atime, at), real.atime, "{op:?}: access time");
            self.compare_xattrs(op, id);
            if node.kind == NodeKind::Directory {
                self.compare_entries(op, id);
            }
        }
    }

    fn compare_xattrs(&self, op: &Op, id: Id) {
        let mut listed = self.volume().list_xattrs(self.ino(id)).unwrap();
        listed.sort();
        let wanted: Vec<&[u8]> = self.tree.nodes[&id].xattrs.keys().map(String::as_bytes).collect();
        assert_eq!(listed, wanted, "{op:?}: attributes");
        for (name, value) in &self.tree.nodes[&id].xattrs {
            assert_eq!(self.volume().get_xattr(self.ino(id), name.as_bytes()).unwrap(), *value, "{op:?}: {name}");
        }
    }

    fn compare_entries(&self, op: &Op, dir: Id) {
        let listed = self.volume().read_directory(self.ino(dir), 0, 1000).unwrap();
        let mut real: BTreeMap<String, Ino> =
            listed.iter().map(|e| (String::from_utf8(e.name.clone()).unwrap(), e.attributes.ino)).collect();
        assert_eq!(real.len(), listed.len(), "{op:?}: a name listed twice");
        let above = self.tree.parent(dir).unwrap_or(dir);
        assert_eq!(real.remove("."), Some(self.ino(dir)), "{op:?}");
        assert_eq!(real.remove(".."), Some(self.ino(above)), "{op:?}");
        let wanted: BTreeMap<String, Ino> =
            self.tree.nodes[&dir].entries.iter().map(|(name, id)| (name.clone(), self.ino(*id))).collect();
        assert_eq!(real, wanted, "{op:?}: entries");
        for (name, ino) in &wanted {
            assert_eq!(self.volume().lookup(self.ino(dir), name.as_bytes()).unwrap().ino, *ino, "{op:?}");
        }
    }

    /// The bytes of a file as somebody sees them who opens it now.
    fn compare_bytes(&self, op: &Op, id: Id) {
        let mode = OpenMode { read: true, ..OpenMode::default() };
        let handle = self.volume().open(self.ino(id), mode, &Caller::default()).unwrap();
        self.compare_read(op, handle, id);
        self.volume().release(handle).unwrap();
    }

    fn compare_through(&self, op: &Op, number: usize) {
        if let Ok(open) = self.tree.handle(number) {
            self.compare_read(op, self.handles[number], open.node);
        }
    }

    fn compare_read(&self, op: &Op, handle: Handle, id: Id) {
        let mut read = Vec::new();
        self.volume().read(handle, 0, 1 << 30, &mut read).unwrap();
        let wanted = &self.tree.nodes[&id].data;
        let first = read.iter().zip(wanted).position(|(a, b)| a != b);
        assert!(
            read == *wanted,
            "{op:?}: {} bytes were read, {} are wanted, the first other one at {first:?}",
            read.len(),
            wanted.len()
        );
    }
}

fn change(set: &Set) -> AttributeChange {
    AttributeChange {
        mode: set.mode,
        uid: set.uid,
        gid: None,
        owner: None,
        size: set.size,
        atime: set.atime.map(|secs| SetTime::At(at(secs))),
        mtime: set.mtime.map(|secs| SetTime::At(at(secs))),
    }
}
