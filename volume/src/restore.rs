//! Restoring: what was at a path comes back, as ordinary changes.
//!
//! The tree as it was is read by [`Core::as_of`], a few entries at a time, and what differs now is put back. A file that
//! is there gets a new version, one that was removed is its old node again; else there is a new node. Contents are named,
//! not copied, so their blocks needn't be here. What a death midway leaves is a tree that is partly restored: restoring
//! again finds the rest.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use crypto::SymmetricKey;

use crate::{
    commit::{self, AccessBody, BirthBody, ChangeKind, ContentBody, Header},
    content::{BlockHash, Content, ContentData},
    core::Core,
    error::{Error, Result},
    history::Past,
    id::LinkId,
    namespace::places,
    node::{Attributes, Caller, Ino, NodeKind, SetTime, SetXattr},
    row::{Access, ContentValue, Entry, Node, NodeRow},
    store::{Space, prefix_end},
    time::Timestamp,
    tree::next_tag,
    version::ValueRef,
    volume::Volume,
};

/// Names from the top of the volume on.
pub type Path = [Vec<u8>];

/// Entries that are restored under one lock.
const AT_ONCE: usize = 32;
/// Removals of one device that lie no further apart are one.
const ONE_REMOVAL: Duration = Duration::from_secs(2);
/// So much is told one by one.
const MOST_TOLD: usize = 20_000;
/// Commits that are looked through for the beginning of a removal.
const REMOVAL_COMMITS: u64 = 200_000;

/// What to restore.
#[derive(Clone, Debug)]
pub struct Restore {
    /// What was here
    pub path: Vec<Vec<u8>>,
    /// after the commit that arrived as this number
    pub at: u64,
    /// comes to be here.
    pub to: Vec<Vec<u8>>,
    /// What is in a restored directory and wasn't then is removed.
    pub exact: bool,
    /// Only tells what would be done.
    pub dry_run: bool,
}

/// What would be done to something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Would {
    /// It is there, and becomes what it was.
    Change,
    /// Nothing is there, and it comes back.
    ComeBack,
    /// It wasn't there then and goes, with all that is in it.
    BeRemoved,
}

/// Why something isn't restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InTheWay {
    /// Something of another kind has its name.
    OtherKind,
    /// A program on this device has it open for writing: that would go on from what it was before, and show.
    BeingWritten,
}

/// What was restored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// It is a directory.
    pub directory: bool,
    /// Since when what was restored had shown.
    pub shown: Timestamp,
    /// Files, symlinks and the like that are as they were.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// What of these was as it was before.
    pub unchanged: u64,
    /// Files and directories removed, since they weren't there then.
    pub removed: u64,
    /// Sizes of the files, together.
    pub bytes: u64,
    /// What within a directory isn't restored, by its path. Not all of it if that is much.
    pub in_the_way: Vec<(Vec<u8>, InTheWay)>,
    /// How much that is.
    pub left: u64,
    /// In a dry run: what would be done, by path. Not all of it if that is much.
    pub would: Vec<(Vec<u8>, Would)>,
    /// How much that is.
    pub changes: u64,
}

impl Restored {
    fn would(&mut self, would: Would, path: impl FnOnce() -> Vec<u8>) {
        self.changes += 1;
        if self.would.len() < MOST_TOLD {
            self.would.push((path(), would));
        }
    }
}

/// A node as it was.
#[derive(Clone)]
struct Was {
    /// Its number, and that of its directory's part which its name was in.
    ino: Ino,
    link: Option<LinkId>,
    attributes: Attributes,
    access: Access,
    target: Vec<u8>,
    content: Option<(ValueRef, ContentValue)>,
    node: Arc<NodeRow>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Was {
    fn node(&self) -> Result<&Node> {
        match &*self.node {
            NodeRow::Node(node) => Ok(node),
            NodeRow::View { .. } => Err(Error::NotFound),
        }
    }
}

/// Work on one directory.
enum Todo {
    /// What was in a directory, from a tag on.
    Entries { was: Ino, now: Ino, from: [u8; 16], times: (Timestamp, Timestamp), fresh: bool },
    /// What is there now and wasn't then, from a tag on.
    Others { was: Ino, now: Ino, from: [u8; 16], times: (Timestamp, Timestamp) },
    /// The directory's times, when nothing comes or goes in it any more.
    Times { now: Ino, times: (Timestamp, Timestamp) },
    /// All of a directory, and itself.
    Remove { directory: Ino },
    /// What was under a name of a directory, once what has that name is gone.
    Entry { was: Box<Was>, directory: Ino, name: Vec<u8> },
}

struct Run<'a> {
    what: &'a Restore,
    past: Past,
    /// The top of what is restored, as it was, and the directory that it is now.
    top: Ino,
    now: Option<Ino>,
    /// Of files with several names: what is restored of them.
    linked: HashMap<Ino, Ino>,
    /// And of what is there under several names, which it is now.
    of: HashMap<Ino, Ino>,
    todo: Vec<Todo>,
    /// The top is done: what is in the way now is one thing of many.
    within: bool,
    /// What programs here have open for writing.
    written: BTreeSet<Ino>,
    restored: Restored,
}

impl Volume {
    /// The number of the last commit that showed at `time`, or of the last one before it whose state is kept.
    ///
    /// # Errors
    /// [`Error::NotFound`] before history begins here; or the disk failed.
    pub fn arrival_at(&self, time: Timestamp) -> Result<u64> {
        self.commit_now()?;
        let core = self.inner.core.lock();
        let arrival = core.arrival_at(time)?;
        core.moments.at(arrival).ok_or(Error::NotFound)
    }

    /// Since when what arrived as this number showed here.
    ///
    /// # Errors
    /// The disk failed.
    pub fn shown_at(&self, arrival: u64) -> Result<Timestamp> {
        self.inner.core.lock().shown_since(arrival)
    }

    /// The first state from an arrival on that is kept.
    pub fn kept_from(&self, arrival: u64) -> u64 {
        self.inner.core.lock().moments.from(arrival)
    }

    /// The number of the commit after which a path was last as it was before the newest change of what is there, or
    /// before that was removed. For a directory that is gone, before the removals began that ended with it.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there was nothing; or the disk failed.
    pub fn before_last_change(&self, path: &Path) -> Result<u64> {
        self.commit_now()?;
        self.inner.core.lock().before_last_change(path)
    }

    /// Restores what was at a path. Others' work goes on meanwhile.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there was nothing; [`Error::Refused`] when something of another kind is in the way of the
    /// path itself, or a program here has it open for writing (within a directory, that is told and left out);
    /// [`Error::ReadOnly`], [`Error::NoSpace`]. What was restored by then is, and doing it again goes on.
    pub fn restore(&self, what: &Restore) -> Result<Restored> {
        self.commit_now()?;
        let past = Past::after(what.at);
        let mut run = Run {
            what,
            past,
            top: Ino::ROOT,
            now: None,
            linked: HashMap::new(),
            of: HashMap::new(),
            todo: Vec::new(),
            within: false,
            written: self.open_for_writing(),
            restored: Restored::default(),
        };
        if what.dry_run {
            let core = &mut *self.inner.core.lock();
            run.begin(core)?;
        } else {
            self.beside_the_mount(|core| {
                core.may_change()?;
                run.begin(core)
            })?;
        }
        run.within = true;
        while !run.todo.is_empty() {
            run.written = self.open_for_writing();
            if what.dry_run {
                run.some(&mut self.inner.core.lock())?;
            } else {
                self.beside_the_mount(|core| {
                    core.may_change()?;
                    run.some(core)
                })?;
            }
        }
        Ok(run.restored)
    }
}

impl Core {
    fn before_last_change(&mut self, path: &Path) -> Result<u64> {
        let mut at = self.next_arrival - 1;
        let (mut directory, mut since, mut gone) = (Ino::ROOT, 0, None);
        let mut kind = NodeKind::Directory;
        for name in path {
            let then = Past::after(at);
            let (home, entry) = self.as_of(then, |core| {
                let home = core.directory(directory)?;
                Ok((home, core.entry(home, name)?))
            })?;
            let child = match entry.shown() {
                Some(child) => {
                    since = entry.since;
                    child
                }
                None => {
                    let (entry, until) = self.last_shown(home, name, at)?.ok_or(Error::NotFound)?;
                    at = until - 1;
                    gone = Some(until);
                    entry.shown().ok_or(Error::NotFound)?
                }
            };
            (directory, kind) = child;
        }
        let before = match gone {
            // Where the path led to was removed, or something above it.
            Some(_) if kind == NodeKind::Directory => {
                let began = self.removals_began(at + 1)?;
                // What else was removed just before is no part of it.
                let began = self.last_put(began, at, &path.join(&b'/'))?.map_or(began, |put| put + 1);
                let there = began > self.moments.thinned_to
                    && self.as_of(Past::after(began - 1), |c| Ok(c.at_path(path).is_ok()))?;
                if there { began - 1 } else { at }
            }
            Some(_) => at,
            None => {
                let row = self.row(directory)?.ok_or(Error::NotFound)?;
                let changed = row.since().max(since);
                if changed == 0 || !self.as_of(Past::after(changed - 1), |core| Ok(core.at_path(path).is_ok()))? {
                    return Err(Error::NotFound);
                }
                changed - 1
            }
        };
        self.moments.at(before).ok_or(Error::NotFound)
    }

    /// The number of the first of the commits with removals that ended with the one that arrived as number `last`.
    fn removals_began(&mut self, last: u64) -> Result<u64> {
        let device = self.branch_of(self.arrived_as(last)?)?.device;
        let (mut first, mut time) = (last, None);
        let mut arrival = last;
        while arrival > self.moments.thinned_to.max(last.saturating_sub(REMOVAL_COMMITS)) {
            let dot = self.arrived_as(arrival)?;
            if self.branch_of(dot)?.device == device {
                let row = self.commit_row(dot)?.ok_or_else(|| Error::damaged("a commit is missing"))?;
                let header: Header = crate::apply::decode(&row.header)?;
                if time.is_some_and(|time: Timestamp| time > header.time.plus(ONE_REMOVAL)) {
                    break;
                }
                if self.has_removal(dot)? {
                    (first, time) = (arrival, Some(header.time));
                }
            }
            arrival -= 1;
        }
        Ok(first)
    }

    /// The last of the commits that arrived with these numbers to put something at or below `path`, or into a file there; of those
    /// of the device that made the one after them. What others put in while it removes ends no removal.
    fn last_put(&mut self, from: u64, to: u64, path: &[u8]) -> Result<Option<u64>> {
        let device = self.branch_of(self.arrived_as(to + 1)?)?.device;
        for arrival in (from..=to).rev() {
            let dot = self.arrived_as(arrival)?;
            if self.branch_of(dot)?.device != device {
                continue;
            }
            let key = dot.key();
            let rows = self.store.raw().scan(Space::Changes, &key, &prefix_end(&key), commit::MAX_CHANGES)?;
            for (_, bytes) in rows {
                let raw: commit::RawChange = crate::apply::decode(&bytes)?;
                let head: commit::Head = crate::apply::decode(&raw.head)?;
                let (ChangeKind::Place { child: node, .. } | ChangeKind::Content { node, .. }) = head.kind else {
                    continue;
                };
                let Some(ino) = self.ino_of_node(&node)? else { continue };
                let lies = self.as_of(Past::after(arrival), |core| Ok(core.path_of(ino)))?;
                let below = lies.as_deref().and_then(|lies| lies.strip_prefix(path));
                if below.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/")) {
                    return Ok(Some(arrival));
                }
            }
        }
        Ok(None)
    }

    fn has_removal(&self, dot: crate::version::Dot) -> Result<bool> {
        let key = dot.key();
        let rows = self.store.raw().scan(Space::Changes, &key, &prefix_end(&key), commit::MAX_CHANGES)?;
        for (_, bytes) in rows {
            let raw: commit::RawChange = crate::apply::decode(&bytes)?;
            let head: commit::Head = crate::apply::decode(&raw.head)?;
            if matches!(head.kind, ChangeKind::Removal { .. }) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A node as it is, with the state looked at as it was.
    fn was(&mut self, ino: Ino, link: Option<LinkId>) -> Result<Was> {
        let attributes = self.attributes(ino)?;
        let row = self.row(ino)?.ok_or(Error::NotFound)?;
        let (of, view) = match &*row {
            NodeRow::View { of, value, .. } => (*of, Some(*value)),
            NodeRow::Node(_) => (self.carrier(ino)?, None),
        };
        let row = self.row(of)?.ok_or(Error::NotFound)?;
        let NodeRow::Node(node) = &*row else { return Err(Error::NotFound) };
        let access = node.access.last().and_then(|v| v.value.clone()).ok_or_else(|| Error::damaged("access"))?;
        let at = view.or_else(|| node.content.last().map(|v| v.at));
        let content = match at {
            Some(at) => {
                let value = node.content.iter().find(|v| v.at == at).and_then(|v| v.value.clone());
                Some((at, value.ok_or_else(|| Error::damaged("a content that does not decode"))?))
            }
            None => None,
        };
        let mut xattrs = Vec::new();
        for name in self.list_xattrs(of)? {
            if !name.starts_with(b"system.posix_acl_") {
                let value = self.get_xattr(of, &name)?;
                xattrs.push((name, value));
            }
        }
        let target = node.target.clone();
        Ok(Was { ino, link, attributes, access, target, content, node: row, xattrs })
    }
}

impl Run<'_> {
    /// Finds what was there, and where it is to be; restores it but for what is in it.
    fn begin(&mut self, core: &mut Core) -> Result<()> {
        let what = self.what;
        if core.moments.at(what.at) != Some(what.at) {
            return Err(Error::NotFound);
        }
        self.restored.shown = core.shown_since(what.at)?;
        let Some((name, above)) = what.path.split_last() else {
            // The whole volume.
            let was = core.as_of(self.past, |core| core.was(Ino::ROOT, None))?;
            if !what.to.is_empty() {
                let (name, above) = what.to.split_last().ok_or(Error::Invalid)?;
                let Some(directory) = self.above(core, above)? else { return Ok(()) };
                return self.entry(core, &was, directory, name);
            }
            self.restored.directory = true;
            return self.directory(core, &was, Ino::ROOT, (false, false));
        };
        let was = core.as_of(self.past, |core| {
            let directory = core.at_path(above)?;
            let directory = core.directory(directory)?;
            let entry = core.entry(directory, name)?;
            let (ino, _) = entry.shown().ok_or(Error::NotFound)?;
            core.was(ino, link_in(&entry, ino))
        })?;
        self.restored.directory = was.attributes.kind == NodeKind::Directory;
        let Some((name, above)) = what.to.split_last() else {
            if !self.restored.directory {
                return Err(Error::IsDirectory);
            }
            return self.directory(core, &was, Ino::ROOT, (false, false));
        };
        let Some(directory) = self.above(core, above)? else {
            // In a dry run that is not there, and all in it is new.
            return self.tell_all(core, &was, what.to.join(&b'/'));
        };
        self.top = was.ino;
        self.entry(core, &was, directory, name)
    }

    fn own_place(&self) -> bool {
        self.what.to == self.what.path
    }

    /// The directory of these names; what is missing is made again. Nothing when it is missing in a dry run.
    fn above(&mut self, core: &mut Core, names: &Path) -> Result<Option<Ino>> {
        let mut at = Ino::ROOT;
        for (depth, name) in names.iter().enumerate() {
            Core::check_name(name)?;
            at = match core.entry(at, name)?.shown() {
                Some((ino, NodeKind::Directory)) => core.canonical(ino)?,
                Some(_) => return Err(in_the_way(&names[..=depth].join(&b'/'), "no directory")),
                None if self.what.dry_run => return Ok(None),
                None => {
                    let then = if self.own_place() {
                        core.as_of(self.past, |core| {
                            let home = core.at_path(&names[..depth])?;
                            let home = core.directory(home)?;
                            let entry = core.entry(home, name)?;
                            let (ino, _) = entry.shown().ok_or(Error::NotFound)?;
                            core.was(ino, link_in(&entry, ino))
                        })
                        .ok()
                    } else {
                        None
                    };
                    let made = match &then {
                        Some(was) => self.bring(core, was, at, name)?.0,
                        None => {
                            let above = core.attributes(at)?;
                            let who = Caller { uid: above.uid, gid: above.gid, ..Caller::default() };
                            core.make(at, name, crate::node::NewNode::Directory, above.mode & 0o777, &who)?
                        }
                    };
                    if let Some(was) = &then {
                        self.like(core, was, made)?;
                        self.todo.push(Todo::Times { now: made, times: (was.attributes.mtime, was.attributes.atime) });
                    }
                    core.canonical(made)?
                }
            };
        }
        Ok(Some(at))
    }

    /// Does a little of what is left.
    fn some(&mut self, core: &mut Core) -> Result<()> {
        // Thinned out meanwhile, what was there would seem not to have been.
        if core.moments.at(self.what.at) != Some(self.what.at) {
            return Err(Error::NotFound);
        }
        let mut done = 0;
        while done < AT_ONCE
            && let Some(todo) = self.todo.pop()
        {
            done += 1;
            match todo {
                Todo::Entries { was, now, from, times, fresh } => {
                    let found = core.as_of(self.past, |core| {
                        let mut found = Vec::new();
                        let entries = core.scan_entries(was, &from, AT_ONCE)?;
                        let end = entries.last().map(|(tag, _)| *tag);
                        for (_, entry) in entries {
                            if let Some((ino, _)) = entry.shown() {
                                found.push((entry.name.clone(), core.was(ino, link_in(&entry, ino))?));
                            }
                        }
                        Ok((found, end))
                    })?;
                    let (found, end) = found;
                    match end.map(next_tag) {
                        Some(Some(from)) => self.todo.push(Todo::Entries { was, now, from, times, fresh }),
                        _ if self.what.exact && !fresh => {
                            self.todo.push(Todo::Others { was, now, from: [0; 16], times });
                        }
                        _ => self.todo.push(Todo::Times { now, times }),
                    }
                    done += found.len();
                    for (name, was) in found {
                        self.entry(core, &was, now, &name)?;
                    }
                }
                Todo::Others { was, now, from, times } => {
                    let entries = core.scan_entries(now, &from, AT_ONCE)?;
                    let end = entries.last().map(|(tag, _)| *tag);
                    match end.map(next_tag) {
                        Some(Some(from)) => self.todo.push(Todo::Others { was, now, from, times }),
                        _ => self.todo.push(Todo::Times { now, times }),
                    }
                    done += entries.len();
                    for (_, entry) in entries {
                        let Some((ino, kind)) = entry.shown() else { continue };
                        let then = core.as_of(self.past, |core| Ok(core.entry(was, &entry.name)?.shown()))?;
                        if then.is_none() {
                            self.remove(core, now, &entry.name, ino, kind)?;
                        }
                    }
                }
                Todo::Entry { was, directory, name } => self.entry(core, &was, directory, &name)?,
                Todo::Times { now, times } => set_times(core, now, times, self.what.dry_run).map(drop)?,
                Todo::Remove { directory } => {
                    let entries = core.scan_entries(directory, &[0; 16], AT_ONCE)?;
                    let shown: Vec<_> = entries
                        .iter()
                        .filter_map(|(_, e)| e.shown().map(|(ino, kind)| (e.name.clone(), ino, kind)))
                        .collect();
                    if shown.is_empty() {
                        core.remove_directory(directory)?;
                        continue;
                    }
                    done += shown.len();
                    self.todo.push(Todo::Remove { directory });
                    for (name, ino, kind) in shown {
                        self.remove(core, directory, &name, ino, kind)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Removes what wasn't there.
    fn remove(&mut self, core: &mut Core, directory: Ino, name: &[u8], ino: Ino, kind: NodeKind) -> Result<()> {
        self.restored.removed += 1;
        if self.what.dry_run {
            self.restored.would(Would::BeRemoved, || core.path_in(directory, name));
            return Ok(());
        }
        match kind {
            NodeKind::Directory => self.todo.push(Todo::Remove { directory: core.canonical(ino)? }),
            // Others may have gone with it, such as the other versions of a file in conflict.
            _ if core.entry(directory, name)?.shown().is_some_and(|(now, _)| now == ino) => {
                core.remove_file(directory, name, ino)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Restores what was under a name; of a directory itself, and what is in it later.
    fn entry(&mut self, core: &mut Core, was: &Was, directory: Ino, name: &[u8]) -> Result<()> {
        Core::check_name(name)?;
        let kind = was.attributes.kind;
        let there = core.entry(directory, name)?.shown();
        if let Some((now, there)) = there {
            if there != kind {
                return self.other_kind(core, was, directory, name, (now, there));
            }
            if kind == NodeKind::File && self.is_written(core, now)? {
                return self.left_out(core, directory, name, InTheWay::BeingWritten);
            }
        }
        if self.what.dry_run {
            return match there {
                Some((now, NodeKind::Directory)) => {
                    let now = core.canonical(now)?;
                    self.directory(core, was, now, (false, false))
                }
                Some((now, _)) => {
                    let same = same(core, was, now)?;
                    self.count(was, same);
                    if !same {
                        self.restored.would(Would::Change, || core.path_in(directory, name));
                    }
                    Ok(())
                }
                None => {
                    let path = core.path_in(directory, name);
                    self.tell_all(core, was, path)
                }
            };
        }
        let mut brought = true;
        let (now, fresh) = match there {
            Some((now, NodeKind::Directory)) if kind == NodeKind::Directory => {
                brought = false;
                (core.canonical(now)?, false)
            }
            Some((now, there)) if there == kind && kind == NodeKind::File => {
                match self.linked.get(&was.ino).copied() {
                    Some(first) if first != now => {
                        core.remove_file(directory, name, now)?;
                        self.bring(core, was, directory, name)?
                    }
                    // Another file that has this name beside others: these would change with it.
                    _ if self.is_anothers(core, was, now)? => {
                        core.remove_file(directory, name, now)?;
                        self.bring(core, was, directory, name)?
                    }
                    // A version of a file in conflict, of which nothing differs.
                    _ if is_view(core, now)? && same(core, was, now)? => {
                        self.count(was, true);
                        return Ok(());
                    }
                    _ => {
                        brought = false;
                        (core.made_real(now)?, false)
                    }
                }
            }
            Some((now, there)) if there == kind => {
                let (target, rdev) = core.with_node(now, |n| (n.target.clone(), n.rdev))?;
                if target == was.target && rdev == was.attributes.rdev {
                    brought = false;
                    (now, false)
                } else {
                    core.remove_file(directory, name, now)?;
                    self.bring(core, was, directory, name)?
                }
            }
            Some(_) => return self.left_out(core, directory, name, InTheWay::OtherKind),
            None => self.bring(core, was, directory, name)?,
        };
        if kind != NodeKind::Directory {
            if was.attributes.links > 1 {
                self.linked.insert(was.ino, now);
            }
            if core.attributes(now)?.links > 1 {
                self.of.insert(now, was.ino);
            }
        }
        match kind {
            NodeKind::Directory => self.directory(core, was, now, (fresh, brought)),
            _ => {
                let changed = self.like(core, was, now)?;
                let times = set_times(core, now, (was.attributes.mtime, was.attributes.atime), false)?;
                self.count(was, !brought && !changed && !times);
                Ok(())
            }
        }
    }

    /// Restores a directory, and notes what was in it.
    fn directory(&mut self, core: &mut Core, was: &Was, now: Ino, (fresh, brought): (bool, bool)) -> Result<()> {
        self.now.get_or_insert(now);
        let changed = !self.what.dry_run && self.like(core, was, now)?;
        self.count(was, !brought && !changed);
        let then = core.as_of(self.past, |core| core.directory(was.ino))?;
        let times = (was.attributes.mtime, was.attributes.atime);
        self.todo.push(Todo::Entries { was: then, now, from: [0; 16], times, fresh });
        Ok(())
    }

    fn count(&mut self, was: &Was, unchanged: bool) {
        match was.attributes.kind {
            NodeKind::Directory => self.restored.directories += 1,
            _ => self.restored.files += 1,
        }
        if was.attributes.kind == NodeKind::File {
            self.restored.bytes += was.attributes.size;
        }
        self.restored.unchanged += u64::from(unchanged);
    }

    /// Counts what would be made at a path, all of it new.
    fn tell_all(&mut self, core: &mut Core, was: &Was, path: Vec<u8>) -> Result<()> {
        self.count(was, false);
        self.restored.would(Would::ComeBack, || path.clone());
        let mut todo = if was.attributes.kind == NodeKind::Directory { vec![(was.ino, path)] } else { Vec::new() };
        core.as_of(self.past, |core| {
            while let Some((directory, path)) = todo.pop() {
                let home = core.directory(directory)?;
                let mut from = [0; 16];
                loop {
                    let entries = core.scan_entries(home, &from, AT_ONCE)?;
                    let Some((last, _)) = entries.last() else { break };
                    let next = next_tag(*last);
                    for (_, entry) in &entries {
                        let Some((ino, kind)) = entry.shown() else { continue };
                        let path = || [path.as_slice(), b"/", &entry.name].concat();
                        self.restored.would(Would::ComeBack, path);
                        match kind {
                            NodeKind::Directory => {
                                self.restored.directories += 1;
                                todo.push((ino, path()));
                            }
                            _ => self.restored.files += 1,
                        }
                        if kind == NodeKind::File {
                            self.restored.bytes += core.attributes(ino)?.size;
                        }
                    }
                    match next {
                        Some(next) => from = next,
                        None => break,
                    }
                }
            }
            Ok(())
        })
    }

    /// Something of another kind has a name. It goes if only what was there then is to be, else it is in the way.
    fn other_kind(
        &mut self,
        core: &mut Core,
        was: &Was,
        directory: Ino,
        name: &[u8],
        (now, there): (Ino, NodeKind),
    ) -> Result<()> {
        if !self.within || !self.what.exact {
            return self.left_out(core, directory, name, InTheWay::OtherKind);
        }
        if self.what.dry_run {
            self.remove(core, directory, name, now, there)?;
            let path = core.path_in(directory, name);
            return self.tell_all(core, was, path);
        }
        // Below what removes a directory, which takes its time.
        self.todo.push(Todo::Entry { was: Box::new(was.clone()), directory, name: name.to_vec() });
        self.remove(core, directory, name, now, there)
    }

    /// Notes that something isn't restored; the rest is, unless this is all there is to restore.
    fn left_out(&mut self, core: &mut Core, directory: Ino, name: &[u8], why: InTheWay) -> Result<()> {
        let path = core.path_in(directory, name);
        if !self.within {
            return Err(match why {
                InTheWay::OtherKind => in_the_way(&path, "something of another kind"),
                InTheWay::BeingWritten => {
                    let path = String::from_utf8_lossy(&path);
                    Error::Refused(format!("{path} is open for writing on this device: close it first"))
                }
            });
        }
        self.restored.left += 1;
        if self.restored.in_the_way.len() < MOST_TOLD {
            self.restored.in_the_way.push((path, why));
        }
        Ok(())
    }

    fn is_written(&self, core: &mut Core, now: Ino) -> Result<bool> {
        let of = match core.row(now)?.as_deref() {
            Some(NodeRow::View { of, .. }) => *of,
            _ => now,
        };
        Ok([now, of].iter().any(|ino| core.own.contains_key(ino) || self.written.contains(ino)))
    }

    /// Gives a name that leads nowhere what it led to: the same node where that is free, else a new one. Tells which, and
    /// whether it is new.
    fn bring(&mut self, core: &mut Core, was: &Was, directory: Ino, name: &[u8]) -> Result<(Ino, bool)> {
        if let Some(first) = self.linked.get(&was.ino).copied() {
            core.link(first, directory, name)?;
            return Ok((first, false));
        }
        if self.own_place()
            && let Some(NodeRow::Node(node)) = core.row(was.ino)?.as_deref()
        {
            // (What is still written to goes on from what it was before, and would show that.)
            if !node.is_shown() && !self.is_written(core, was.ino)? {
                let known = match was.link {
                    Some(link) => core.link_of(was.ino, node, &link)?,
                    None => None,
                };
                if let Some(link) = known.or_else(|| node.links.first().cloned()) {
                    core.place(Some(link.id), node.id, directory, name, &places(&link))?;
                    return Ok((was.ino, false));
                }
            }
            if was.attributes.links > 1 && node.kind != NodeKind::Directory && self.stays(core, was.ino, node)? {
                core.link(was.ino, directory, name)?;
                return Ok((was.ino, false));
            }
        }
        let access = &was.access;
        let body = BirthBody {
            access: AccessBody {
                time: core.now(),
                mode: access.mode,
                uid: access.uid,
                gid: access.gid,
                acl: access.acl.to_vec(),
                default_acl: access.default_acl.to_vec(),
            },
            rdev: was.attributes.rdev,
            target: was.target.clone(),
        };
        let rights = core.rights_at_birth(&body.access, directory)?;
        let id = core.bear(was.attributes.kind, body, &rights)?;
        let ino = core.ino_of_node(&id)?.ok_or(Error::NotFound)?;
        core.place(None, id, directory, name, &[])?;
        Ok((ino, true))
    }

    /// Whether what is there under this name and others is to be another file than what was under this one.
    fn is_anothers(&mut self, core: &mut Core, was: &Was, now: Ino) -> Result<bool> {
        if now == was.ino || is_view(core, now)? || core.attributes(now)?.links < 2 {
            return Ok(false);
        }
        if let Some(other) = self.of.get(&now) {
            return Ok(*other != was.ino);
        }
        let node = core.node(now)?;
        Ok(self.own_place() && self.stays(core, now, &node)?)
    }

    /// Whether a file with several names shows under one that it had then, in what is restored: it will be as it was.
    fn stays(&mut self, core: &mut Core, ino: Ino, node: &Node) -> Result<bool> {
        for link in core.shown_links(ino, node)? {
            let Some(shown) = &link.shown else { continue };
            let (top, parent) = (self.top, shown.parent);
            let Some(now) = self.now else { return Ok(false) };
            if !core.is_within(parent, now)? {
                continue;
            }
            let then = core.as_of(self.past, |core| {
                let home = core.directory(parent)?;
                let same = core.entry(home, &shown.name)?.shown().is_some_and(|(then, _)| then == ino);
                Ok(same && (top == Ino::ROOT || core.is_within(home, top)?))
            });
            if then.unwrap_or(false) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Gives a node the content, access and attributes of what was. Tells whether anything had to change.
    fn like(&mut self, core: &mut Core, was: &Was, now: Ino) -> Result<bool> {
        let mut changed = false;
        if was.attributes.kind == NodeKind::File && !same_content(core, was, now)? {
            put_content(core, was, now)?;
            changed = true;
        }
        let old = core.with_node(now, |n| n.access.last().and_then(|v| v.value.clone()))?;
        let access = &was.access;
        let same = old.is_some_and(|old| {
            (old.mode, old.uid, old.gid) == (access.mode, access.uid, access.gid)
                && old.acl == access.acl
                && old.default_acl == access.default_acl
        });
        // Whose it is decides who may use it, also as it was.
        if !same && core.may_own(now)? {
            core.change_access(now, None, |body, _| {
                (body.mode, body.uid, body.gid) = (access.mode, access.uid, access.gid);
                (body.acl, body.default_acl) = (access.acl.to_vec(), access.default_acl.to_vec());
            })?;
            changed = true;
        }
        for name in core.list_xattrs(now)? {
            let kept = name.starts_with(b"system.posix_acl_") || was.xattrs.iter().any(|(then, _)| *then == name);
            if !kept {
                core.remove_xattr(now, &name)?;
                changed = true;
            }
        }
        for (name, value) in &was.xattrs {
            if core.get_xattr(now, name).ok().as_ref() != Some(value) {
                core.set_xattr(now, name, Some(value), SetXattr::Any, &Caller::default())?;
                changed = true;
            }
        }
        Ok(changed)
    }
}

fn in_the_way(path: &[u8], what: &str) -> Error {
    let path = String::from_utf8_lossy(path);
    Error::Refused(format!("{path} is {what} now: move it away, or restore to another place with --to"))
}

/// The link of a name that leads to a node by its own name.
fn link_in(entry: &Entry, ino: Ino) -> Option<LinkId> {
    entry.claims.first().filter(|claim| claim.child == ino).map(|claim| claim.link)
}

fn is_view(core: &mut Core, ino: Ino) -> Result<bool> {
    Ok(matches!(core.row(ino)?.as_deref(), Some(NodeRow::View { .. })))
}

/// Whether what is there differs in nothing.
fn same(core: &mut Core, was: &Was, now: Ino) -> Result<bool> {
    let attributes = core.attributes(now)?;
    let (one, other) = (&attributes, &was.attributes);
    let equal = (one.kind, one.size, one.mode, one.uid, one.gid, one.rdev, one.mtime)
        == (other.kind, other.size, other.mode, other.uid, other.gid, other.rdev, other.mtime);
    if !equal {
        return Ok(false);
    }
    match one.kind {
        NodeKind::File => same_content(core, was, now),
        NodeKind::Symlink => core.with_node(now, |n| n.target == was.target),
        _ => Ok(true),
    }
}

fn same_content(core: &mut Core, was: &Was, now: Ino) -> Result<bool> {
    let (of, view) = match core.row(now)?.as_deref() {
        Some(NodeRow::View { of, value, .. }) => (*of, Some(*value)),
        _ => (now, None),
    };
    let row = core.row(of)?.ok_or(Error::NotFound)?;
    let NodeRow::Node(node) = &*row else { return Err(Error::NotFound) };
    let at = view.or_else(|| node.content.last().map(|v| v.at));
    let there = node.content.iter().find(|v| Some(v.at) == at);
    match (there, &was.content) {
        (None, None) => Ok(true),
        (Some(there), Some((at, _))) if there.at == *at => Ok(true),
        (Some(there), Some((at, then))) => {
            let Some(value) = &there.value else { return Ok(false) };
            if (value.size, value.allocated, value.tree) != (then.size, then.allocated, then.tree) {
                return Ok(false);
            }
            // Blocks that open with the same keys have the same name.
            if value.tree.is_some() {
                return Ok(true);
            }
            Ok(core.inline_bytes(node, there.at, value)? == core.inline_bytes(was.node()?, *at, then)?)
        }
        (Some(there), None) => Ok(there.value.as_ref().is_some_and(|value| value.size == 0)),
        (None, Some((_, then))) => Ok(then.size == 0),
    }
}

/// Makes what was a new version of a file.
fn put_content(core: &mut Core, was: &Was, now: Ino) -> Result<()> {
    let (id, shown) = core.with_node(now, |n| (n.id, n.content.last().map(|v| v.at)))?;
    let body = match &was.content {
        Some((at, value)) => {
            let body = core.content_body(was.node()?, *at, value)?;
            ContentBody { mtime: was.attributes.mtime, keys: foreign_keys(core, now, body.keys)?, ..body }
        }
        None => {
            let content = Content { size: 0, allocated: 0, data: ContentData::Inline(Vec::new()) };
            ContentBody { mtime: was.attributes.mtime, content, keys: Vec::new() }
        }
    };
    let (root, blocks) = match body.content.data {
        ContentData::Tree { root, blocks } => (root, blocks),
        ContentData::Inline(_) => (BlockHash::ZERO, 0),
    };
    let (generation, key) = core.body_key(now)?;
    let gone: Vec<ValueRef> = shown.into_iter().collect();
    let at = core.emit(ChangeKind::Content { node: id, generation, root, blocks }, &gone, Some((&key, &body)))?;
    match &was.content {
        Some((from, _)) if root != BlockHash::ZERO => core.want_again_from(*from, at, root, blocks),
        _ => Ok(()),
    }
}

/// Keys without those that the node has itself.
fn foreign_keys(core: &mut Core, ino: Ino, keys: Vec<SymmetricKey>) -> Result<Vec<SymmetricKey>> {
    core.with_node(ino, |n| {
        let own = |key: &SymmetricKey| n.keys.iter().any(|(_, own)| own.key().expose() == key.expose());
        let mut found: Vec<SymmetricKey> = Vec::new();
        for key in keys {
            if !own(&key) && !found.iter().any(|known| known.expose() == key.expose()) {
                found.push(key);
            }
        }
        found
    })
}

/// Sets times that differ. Tells whether they did.
fn set_times(core: &mut Core, ino: Ino, (mtime, atime): (Timestamp, Timestamp), dry_run: bool) -> Result<bool> {
    let now = core.attributes(ino)?;
    if (now.mtime, now.atime) == (mtime, atime) {
        return Ok(false);
    }
    if !dry_run {
        core.set_times(ino, Some(SetTime::At(atime)), Some(SetTime::At(mtime)))?;
    }
    Ok(true)
}
