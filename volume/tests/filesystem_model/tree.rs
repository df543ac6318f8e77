//! The naive tree: names, nodes and bytes as POSIX has them, in maps and vectors, with no thought for speed.

use std::collections::{BTreeMap, BTreeSet};

use p2pfs_volume::{Allocate, NodeKind, RenameMode, SetXattr};

use super::op::{How, Make, Set};

/// The longest file.
const LONGEST: u64 = 1 << 46;

/// Which node.
pub type Id = usize;
/// The top.
pub const ROOT: Id = 0;

/// Why a call is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    NotFound,
    Exists,
    NotDirectory,
    IsDirectory,
    NotEmpty,
    Invalid,
    NameTooLong,
    FileTooLarge,
    NotPermitted,
    BadHandle,
    NoAttribute,
    Range,
    NoMoreData,
}

use Refusal::*;

pub type Result<T> = std::result::Result<T, Refusal>;

#[derive(Clone)]
pub struct Node {
    pub kind: NodeKind,
    pub data: Vec<u8>,
    /// What of `data` is stored, whatever happens to the process.
    pub stored: Vec<u8>,
    pub target: Vec<u8>,
    pub entries: BTreeMap<String, Id>,
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u32,
    /// As set by hand, as long as nothing happened that changes it.
    pub mtime: Option<i64>,
    pub atime: Option<i64>,
    pub xattrs: BTreeMap<String, Vec<u8>>,
}

#[derive(Clone, Copy)]
pub struct OpenFile {
    pub node: Id,
    pub how: How,
}

#[derive(Clone)]
pub struct Tree {
    pub nodes: BTreeMap<Id, Node>,
    next: Id,
    pub handles: Vec<Option<OpenFile>>,
}

impl OpenFile {
    pub fn writes(&self) -> bool {
        self.how != How::Read
    }
}

impl Tree {
    pub fn new() -> Self {
        let mut tree = Tree { nodes: BTreeMap::new(), next: 0, handles: Vec::new() };
        tree.add(NodeKind::Directory, 0o775, 0, 0);
        tree
    }

    fn add(&mut self, kind: NodeKind, mode: u16, uid: u32, gid: u32) -> Id {
        let id = self.next;
        self.next += 1;
        let node = Node {
            kind,
            data: Vec::new(),
            stored: Vec::new(),
            target: Vec::new(),
            entries: BTreeMap::new(),
            mode,
            uid,
            gid,
            rdev: 0,
            mtime: None,
            atime: None,
            xattrs: BTreeMap::new(),
        };
        self.nodes.insert(id, node);
        id
    }

    pub fn node(&mut self, id: Id) -> &mut Node {
        self.nodes.get_mut(&id).unwrap()
    }

    /// How many names a node has.
    pub fn links(&self, id: Id) -> usize {
        let names = self.nodes.values().map(|n| n.entries.values().filter(|child| **child == id).count()).sum();
        if self.nodes[&id].kind != NodeKind::Directory {
            return names;
        }
        if id != ROOT && names == 0 {
            return 0;
        }
        2 + self.nodes[&id].entries.values().filter(|child| self.nodes[child].kind == NodeKind::Directory).count()
    }

    /// Every directory, those that were removed included.
    pub fn directories(&self) -> Vec<Id> {
        self.nodes.iter().filter(|(_, n)| n.kind == NodeKind::Directory).map(|(id, _)| *id).collect()
    }

    pub fn parent(&self, id: Id) -> Option<Id> {
        self.nodes.iter().find(|(_, n)| n.entries.values().any(|child| *child == id)).map(|(id, _)| *id)
    }

    fn is_within(&self, id: Id, above: Id) -> bool {
        let mut at = Some(id);
        while let Some(here) = at {
            if here == above {
                return true;
            }
            at = self.parent(here);
        }
        false
    }

    /// Drops files that nothing leads to any more.
    fn sweep(&mut self) {
        let open: BTreeSet<Id> = self.handles.iter().flatten().map(|h| h.node).collect();
        let named: BTreeSet<Id> = self.nodes.values().flat_map(|n| n.entries.values().copied()).collect();
        self.nodes.retain(|id, n| n.kind == NodeKind::Directory || named.contains(id) || open.contains(id));
    }

    fn check_name(name: &str) -> Result<()> {
        if name.len() > 255 {
            return Err(NameTooLong);
        }
        if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) { Err(Invalid) } else { Ok(()) }
    }

    fn directory(&self, id: Id) -> Result<()> {
        if self.nodes[&id].kind == NodeKind::Directory { Ok(()) } else { Err(NotDirectory) }
    }

    /// A directory to put something in.
    fn live_directory(&self, id: Id) -> Result<()> {
        self.directory(id)?;
        if id == ROOT || self.parent(id).is_some() { Ok(()) } else { Err(NotFound) }
    }

    pub fn lookup(&self, dir: Id, name: &str) -> Result<Id> {
        self.directory(dir)?;
        if name.len() > 255 {
            return Err(NameTooLong);
        }
        self.nodes[&dir].entries.get(name).copied().ok_or(NotFound)
    }

    fn enter(&mut self, dir: Id, name: &str, child: Id) {
        let dir = self.node(dir);
        dir.entries.insert(name.to_owned(), child);
        dir.mtime = None;
    }

    fn leave(&mut self, dir: Id, name: &str) {
        let dir = self.node(dir);
        dir.entries.remove(name);
        dir.mtime = None;
    }

    pub fn make(&mut self, dir: Id, name: &str, what: Make, mode: u16, uid: u32) -> Result<Id> {
        Self::check_name(name)?;
        self.live_directory(dir)?;
        if self.nodes[&dir].entries.contains_key(name) {
            return Err(Exists);
        }
        let kind = match what {
            Make::File => NodeKind::File,
            Make::Directory => NodeKind::Directory,
            Make::Symlink { target: "" } => return Err(NotFound),
            Make::Symlink { target } if target.contains('\0') => return Err(Invalid),
            Make::Symlink { .. } => NodeKind::Symlink,
            Make::Fifo => NodeKind::Fifo,
            Make::Device { .. } => NodeKind::CharDevice,
        };
        let (mut mode, mut gid) = (mode, uid);
        let above = &self.nodes[&dir];
        if above.mode & 0o2000 != 0 {
            gid = above.gid;
            if kind == NodeKind::Directory {
                mode |= 0o2000;
            }
        }
        if kind == NodeKind::Symlink {
            mode = 0o777;
        }
        let id = self.add(kind, mode, uid, gid);
        match what {
            Make::Symlink { target } => self.node(id).target = target.as_bytes().to_vec(),
            Make::Device { rdev } => self.node(id).rdev = rdev,
            _ => {}
        }
        self.enter(dir, name, id);
        Ok(id)
    }

    pub fn link(&mut self, id: Id, dir: Id, name: &str) -> Result<()> {
        Self::check_name(name)?;
        self.live_directory(dir)?;
        if self.nodes[&id].kind == NodeKind::Directory {
            return Err(NotPermitted);
        }
        if self.nodes[&dir].entries.contains_key(name) {
            return Err(Exists);
        }
        if self.links(id) == 0 {
            return Err(NotFound);
        }
        self.enter(dir, name, id);
        Ok(())
    }

    pub fn unlink(&mut self, dir: Id, name: &str) -> Result<()> {
        let id = self.lookup(dir, name)?;
        if self.nodes[&id].kind == NodeKind::Directory {
            return Err(IsDirectory);
        }
        self.leave(dir, name);
        self.sweep();
        Ok(())
    }

    pub fn rmdir(&mut self, dir: Id, name: &str) -> Result<()> {
        let id = self.lookup(dir, name)?;
        self.directory(id)?;
        if !self.nodes[&id].entries.is_empty() {
            return Err(NotEmpty);
        }
        self.leave(dir, name);
        Ok(())
    }

    pub fn rename(&mut self, dir: Id, name: &str, to: Id, new: &str, mode: RenameMode) -> Result<()> {
        Self::check_name(new)?;
        self.directory(dir)?;
        self.live_directory(to)?;
        let source = self.lookup(dir, name)?;
        let target = self.nodes[&to].entries.get(new).copied();
        match (mode, target) {
            (RenameMode::NoReplace, Some(_)) => return Err(Exists),
            (RenameMode::Exchange, None) => return Err(NotFound),
            (_, Some(target)) if target == source => return Ok(()),
            _ => {}
        }
        let is_directory = |id: Id| self.nodes[&id].kind == NodeKind::Directory;
        if is_directory(source) && self.is_within(to, source) {
            return Err(Invalid);
        }
        if let (RenameMode::Exchange, Some(target)) = (mode, target) {
            if is_directory(target) && self.is_within(dir, target) {
                return Err(Invalid);
            }
            self.enter(to, new, source);
            self.enter(dir, name, target);
            return Ok(());
        }
        if let Some(target) = target {
            match (is_directory(source), is_directory(target)) {
                (true, false) => return Err(NotDirectory),
                (false, true) => return Err(IsDirectory),
                (true, true) if !self.nodes[&target].entries.is_empty() => return Err(NotEmpty),
                _ => {}
            }
        }
        self.leave(dir, name);
        self.enter(to, new, source);
        self.sweep();
        Ok(())
    }

    // ---- open files

    pub fn open(&mut self, id: Id, how: How) -> Result<()> {
        match self.nodes[&id].kind {
            NodeKind::File => {}
            NodeKind::Directory => return Err(IsDirectory),
            _ => return Err(Invalid),
        }
        if how == How::Truncate {
            self.node(id).data.clear();
            self.node(id).mtime = None;
        }
        self.handles.push(Some(OpenFile { node: id, how }));
        Ok(())
    }

    pub fn handle(&self, handle: usize) -> Result<OpenFile> {
        self.handles.get(handle).copied().flatten().ok_or(BadHandle)
    }

    fn writer(&self, handle: usize) -> Result<OpenFile> {
        self.handle(handle).and_then(|h| if h.writes() { Ok(h) } else { Err(BadHandle) })
    }

    pub fn read(&self, handle: usize, offset: usize, len: usize) -> Result<Vec<u8>> {
        let data = &self.nodes[&self.handle(handle)?.node].data;
        Ok(data.iter().skip(offset).take(len).copied().collect())
    }

    /// What changing a file's bytes does beside.
    fn touched(&mut self, id: Id, uid: u32) {
        let node = self.node(id);
        node.mtime = None;
        if uid != 0 {
            node.mode = without_privileges(node.mode, uid == 0 || uid == node.gid);
        }
    }

    pub fn write(&mut self, handle: usize, offset: u64, bytes: &[u8], uid: u32) -> Result<()> {
        let open = self.writer(handle)?;
        let offset = if open.how == How::Append { self.nodes[&open.node].data.len() as u64 } else { offset };
        if offset.saturating_add(bytes.len() as u64) > LONGEST {
            return Err(FileTooLarge);
        }
        self.touched(open.node, uid);
        put(&mut self.node(open.node).data, offset as usize, bytes);
        Ok(())
    }

    /// Everything written so far is stored.
    pub fn store(&mut self, id: Id) {
        let node = self.node(id);
        node.stored = node.data.clone();
    }

    pub fn flush(&mut self, handle: usize) -> Result<()> {
        let open = self.handle(handle)?;
        if open.writes() {
            self.store(open.node);
        }
        Ok(())
    }

    pub fn release(&mut self, handle: usize) -> Result<()> {
        let open = self.handle(handle)?;
        self.handles[handle] = None;
        if open.writes() && !self.handles.iter().flatten().any(|h| h.node == open.node && h.writes()) {
            self.store(open.node);
        }
        self.sweep();
        Ok(())
    }

    pub fn allocate(&mut self, handle: usize, mode: Allocate, offset: u64, len: u64) -> Result<()> {
        let open = self.writer(handle)?;
        let end = offset.checked_add(len).ok_or(FileTooLarge)?;
        if len == 0 {
            return Err(Invalid);
        }
        if end > LONGEST && matches!(mode, Allocate::Extend | Allocate::ZeroRange { .. }) {
            return Err(FileTooLarge);
        }
        // Whoever opens files here is root.
        self.touched(open.node, 0);
        let data = &mut self.node(open.node).data;
        let size = data.len() as u64;
        if matches!(mode, Allocate::PunchHole | Allocate::ZeroRange { .. }) && offset < size {
            data[offset as usize..end.min(size) as usize].fill(0);
        }
        if matches!(mode, Allocate::Extend | Allocate::ZeroRange { keep_size: false }) && end > size {
            data.resize(end as usize, 0);
        }
        Ok(())
    }

    pub fn copy_range(&mut self, from: usize, from_offset: u64, to: usize, to_offset: u64, len: u64) -> Result<u64> {
        let source = self.handle(from)?;
        let target = self.writer(to)?;
        if target.how == How::Append {
            return Err(BadHandle);
        }
        let bytes = self.read(from, from_offset as usize, len as usize)?;
        debug_assert!(self.nodes.contains_key(&source.node));
        if !bytes.is_empty() {
            self.touched(target.node, 0);
            put(&mut self.node(target.node).data, to_offset as usize, &bytes);
        }
        Ok(bytes.len() as u64)
    }

    // ---- attributes

    pub fn set_attributes(&mut self, id: Id, set: &Set, uid: u32) -> Result<()> {
        let kind = self.nodes[&id].kind;
        if let Some(size) = set.size {
            match kind {
                NodeKind::File if size > LONGEST => return Err(FileTooLarge),
                NodeKind::File => {}
                NodeKind::Directory => return Err(IsDirectory),
                _ => return Err(Invalid),
            }
            self.touched(id, uid);
            self.node(id).data.resize(size as usize, 0);
        }
        if set.size.is_some() || set.mtime.is_some() {
            self.store(id);
        }
        let node = self.node(id);
        if let Some(mode) = set.mode {
            node.mode = mode;
        }
        if let Some(owner) = set.uid {
            node.uid = owner;
            if kind != NodeKind::Directory && set.mode.is_none() {
                node.mode = without_privileges(node.mode, uid == 0 || uid == node.gid);
            }
        }
        node.mtime = set.mtime.or(node.mtime);
        node.atime = set.atime.or(node.atime);
        Ok(())
    }

    fn check_attribute(name: &str) -> Result<()> {
        if name.is_empty() || name.len() > 255 { Err(Range) } else { Ok(()) }
    }

    pub fn set_xattr(&mut self, id: Id, name: &str, value: &[u8], how: SetXattr) -> Result<()> {
        Self::check_attribute(name)?;
        let xattrs = &mut self.node(id).xattrs;
        match (xattrs.contains_key(name), how) {
            (true, SetXattr::Create) => return Err(Exists),
            (false, SetXattr::Replace) => return Err(NoAttribute),
            _ => {}
        }
        xattrs.insert(name.to_owned(), value.to_vec());
        Ok(())
    }

    pub fn get_xattr(&self, id: Id, name: &str) -> Result<Vec<u8>> {
        self.nodes[&id].xattrs.get(name).cloned().ok_or(NoAttribute)
    }

    pub fn remove_xattr(&mut self, id: Id, name: &str) -> Result<()> {
        Self::check_attribute(name)?;
        self.node(id).xattrs.remove(name).map(|_| ()).ok_or(NoAttribute)
    }

    pub fn read_link(&self, id: Id) -> Result<Vec<u8>> {
        let node = &self.nodes[&id];
        if node.kind == NodeKind::Symlink { Ok(node.target.clone()) } else { Err(Invalid) }
    }

    // ---- the machine

    /// Everything written is stored.
    pub fn store_all(&mut self) {
        for node in self.nodes.values_mut() {
            node.stored = node.data.clone();
        }
    }

    /// Nothing is open any more, and only what was stored is there.
    pub fn restart(&mut self) {
        self.handles.clear();
        for node in self.nodes.values_mut() {
            if node.data != node.stored {
                node.mtime = None;
                node.data = node.stored.clone();
            }
        }
        self.sweep();
        let gone: Vec<Id> = self.directories().into_iter().filter(|id| *id != ROOT && self.links(*id) == 0).collect();
        self.nodes.retain(|id, _| !gone.contains(id));
    }
}

fn put(data: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if data.len() < end {
        data.resize(end, 0);
    }
    data[offset..end].copy_from_slice(bytes);
}

fn without_privileges(mode: u16, may_lend: bool) -> u16 {
    let mode = mode & !0o4000;
    if mode & 0o010 != 0 || !may_lend { mode & !0o2000 } else { mode }
}
