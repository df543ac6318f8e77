//! Taking back what some devices did since some time, register by register, and keeping what all others did.
//!
//! What they did is found in their logs, not by walking the tree. For each register that they wrote to (a file's content,
//! its access, its times, an attribute, a place of a name) it is worked out which values would be live had they done
//! nothing: those that others wrote and that nobody but they superseded. What shows of theirs is replaced by these, in
//! ordinary changes. So what others wrote in between or after stays, a file that was renamed, removed or put in another's
//! place is its old node again, and doing it twice, or going on after a death midway, changes nothing more.
//!
//! Names need no order: several links may claim one, and who is left when theirs are gone has it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crypto::{DeviceId, Label, SymmetricKey, UserId};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    apply::decode,
    commit::{
        AccessBody, AccessHead, BirthBody, ChangeKind, ContentBody, Head, MetaBody, PlaceBody, RawChange, XattrBody,
    },
    content::{BlockHash, Content, ContentData},
    core::Core,
    error::{Error, Result},
    history::Past,
    id::{Birthplace, LinkId, NodeId, RealmId},
    namespace::{JUDGED_MODE, places},
    node::{Ino, NodeKind},
    restore::Path,
    row::{Claim, Link, Node, NodeRow, Place, Value, Xattr},
    store::{Space, prefix_end},
    time::Timestamp,
    version::{BranchNo, Dot, ValueRef},
    volume::Volume,
};

/// Registers of files that are kept in memory at once; what touched more is looked through several times.
const MOST: usize = 1 << 18;
/// Changes that are looked through, and registers that are put back, under one lock.
const AT_ONCE: usize = 64;
/// Superseded values that are followed to see what outlived what.
const STEPS: usize = 4096;
/// Directories above a name that are followed.
const DEPTH: usize = 10_000;

/// What to take back.
#[derive(Clone, Debug)]
pub struct TakeBack {
    /// What these devices did,
    pub devices: Vec<DeviceId>,
    /// that began to show here after this.
    pub since: Timestamp,
    /// Only what is, or was, at this path or below it.
    pub below: Option<Vec<Vec<u8>>>,
    /// Only tells what would be done.
    pub dry_run: bool,
}

/// What is done with a file or directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Where it is afterwards (where it was, if it is removed).
    pub path: Vec<u8>,
    /// Where it was before, if that is elsewhere.
    pub from: Option<Vec<u8>>,
    /// What.
    pub what: What,
    /// Its contents are put back.
    pub contents: bool,
    /// Mode, owner, times or extended attributes are.
    pub attributes: bool,
}

/// What is done with a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// It stays where it is.
    Stays,
    /// It was removed, and comes back.
    ComesBack,
    /// It goes back to another name.
    GoesBack,
    /// They made it: it is removed.
    IsRemoved,
    /// They made it, and others changed it since or put something into it: it is kept.
    IsKept,
    /// They made a name of it: that is removed.
    LosesName,
    /// It could not be put back, for this reason; the rest was.
    Failed(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Register {
    Birth,
    Place(LinkId),
    Content,
    Access,
    Meta,
    Xattr([u8; 16]),
}

/// A register that they wrote to, and a value that they superseded there which wasn't theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Touched {
    ino: Ino,
    register: Register,
    before: Option<ValueRef>,
}

/// Their commits: of each branch, which numbers.
#[derive(Default)]
struct Theirs(BTreeMap<BranchNo, (u64, u64)>);

impl Theirs {
    fn have(&self, at: ValueRef) -> bool {
        self.0.get(&at.dot.branch).is_some_and(|(from, to)| (*from..=*to).contains(&at.dot.seq))
    }
}

/// Where to do it.
struct Below {
    nodes: BTreeSet<Ino>,
    then: Past,
    known: HashMap<Ino, bool>,
}

struct Run<'a> {
    core: &'a mut Core,
    theirs: &'a Theirs,
    /// Before they did anything.
    then: Past,
    /// The registers of directories.
    directories: &'a [Touched],
    below: Option<&'a mut Below>,
    dry_run: bool,
    /// What was done with directories that others needed first.
    early: Vec<Step>,
}

impl Volume {
    /// Takes back what some devices did since some time; `tell` hears of each file and directory. Others' work goes on
    /// meanwhile.
    ///
    /// # Errors
    /// [`Error::NotFound`] before history begins or when there is, and was, nothing at the path; [`Error::ReadOnly`],
    /// [`Error::NoSpace`]: what was done so far is done, and doing it again goes on.
    pub fn take_back(&self, what: &TakeBack, tell: &mut dyn FnMut(Step)) -> Result<()> {
        self.commit_now()?;
        let (theirs, then, mut below) = {
            let mut core = self.inner.core.lock();
            if !what.dry_run {
                core.may_change()?;
            }
            let arrival = core.arrival_at(what.since)?;
            if arrival < core.history_from {
                return Err(Error::NotFound);
            }
            let then = Past::after(arrival);
            let below = match &what.below {
                Some(path) if !path.is_empty() => Some(core.below(path, then)?),
                _ => None,
            };
            (core.their_commits(&what.devices, arrival)?, then, below)
        };
        // Directories first, so that what comes back finds where; those that they made go last, when they are empty.
        let directories = self.touched(&theirs, true, Ino(0))?.0;
        let dry_run = what.dry_run;
        let mut ctx = Context {
            volume: self,
            theirs: &theirs,
            then,
            directories: &directories,
            below: below.as_mut(),
            dry_run,
            tell,
        };
        ctx.each(&directories, |run, all, part| run.node(all, part))?;
        let mut from = Ino(0);
        loop {
            let (files, more) = self.touched(&theirs, false, from)?;
            ctx.each(&files, |run, all, part| run.node(all, part))?;
            match more {
                Some(next) => from = next,
                None => break,
            }
        }
        ctx.made_directories(&directories)?;
        ctx.each(&directories, |run, all, _| run.directory_times(all))
    }

    /// The registers that they wrote to, in order: of directories or of all else, from a node on; and from which on
    /// there are more.
    fn touched(&self, theirs: &Theirs, directories: bool, from: Ino) -> Result<(Vec<Touched>, Option<Ino>)> {
        let (mut found, mut end): (Vec<Touched>, Option<Ino>) = (Vec::new(), None);
        let mut limit = 2 * MOST;
        for (&branch, &(first, last)) in &theirs.0 {
            for seq in first..=last {
                let dot = Dot { branch, seq };
                let mut key = dot.key().to_vec();
                loop {
                    let rows = self.inner.store.raw().scan(Space::Changes, &key, &prefix_end(&dot.key()), AT_ONCE)?;
                    let Some((last, _)) = rows.last() else { break };
                    key = [last.as_slice(), &[0]].concat();
                    let mut core = self.inner.core.lock();
                    if core.commit_info(dot)?.void {
                        break;
                    }
                    for (key, bytes) in &rows {
                        let at = ValueRef::from_key(key).ok_or_else(|| Error::damaged("change key"))?;
                        core.note_touched(theirs, at, &decode::<RawChange>(bytes)?, &mut |core, touched| {
                            let wanted = touched.ino >= from && end.is_none_or(|end| touched.ino < end);
                            let kind = core.with_node(touched.ino, |n| n.kind);
                            if wanted && kind.is_ok_and(|kind| (kind == NodeKind::Directory) == directories) {
                                found.push(touched);
                            }
                        })?;
                    }
                }
                if found.len() >= limit {
                    found.sort_unstable();
                    found.dedup();
                    if directories {
                        limit = limit.max(2 * found.len());
                    } else if found.len() > MOST {
                        end = found.get(MOST).map(|touched| touched.ino).filter(|end| *end > found[0].ino).or(end);
                        found.retain(|touched| end.is_none_or(|end| touched.ino < end));
                    }
                }
            }
        }
        found.sort_unstable();
        found.dedup();
        Ok((found, end))
    }
}

struct Context<'a> {
    volume: &'a Volume,
    theirs: &'a Theirs,
    then: Past,
    directories: &'a [Touched],
    below: Option<&'a mut Below>,
    dry_run: bool,
    tell: &'a mut dyn FnMut(Step),
}

/// What is done with the registers of one node: all of them, and those that it is done with now.
type Does<'f> = dyn Fn(&mut Run<'_>, &[Touched], &[Touched]) -> Result<Vec<Step>> + 'f;

impl Context<'_> {
    fn run<R>(&mut self, f: impl FnOnce(&mut Run<'_>) -> Result<R>) -> Result<R> {
        let Context { theirs, then, directories, dry_run, .. } = *self;
        let below = self.below.as_deref_mut();
        let early = Vec::new();
        match dry_run {
            true => {
                let core = &mut *self.volume.inner.core.lock();
                f(&mut Run { core, theirs, then, directories, below, dry_run, early })
            }
            false => self.volume.local_beside_mount(|core| {
                core.may_change()?;
                f(&mut Run { core, theirs, then, directories, below, dry_run, early })
            }),
        }
    }

    /// Works through registers, a few at a time.
    fn each(
        &mut self,
        touched: &[Touched],
        does: impl Fn(&mut Run<'_>, &[Touched], &[Touched]) -> Result<Vec<Step>>,
    ) -> Result<()> {
        let does: &Does<'_> = &does;
        let mut parts: Vec<(&[Touched], &[Touched])> = Vec::new();
        let mut size = 0;
        for all in touched.chunk_by(|a, b| a.ino == b.ino) {
            for part in all.chunks(AT_ONCE) {
                parts.push((all, part));
                size += part.len();
                if size >= AT_ONCE {
                    self.some(&parts, does)?;
                    parts.clear();
                    size = 0;
                }
            }
        }
        self.some(&parts, does)
    }

    fn some(&mut self, parts: &[(&[Touched], &[Touched])], does: &Does<'_>) -> Result<()> {
        if parts.is_empty() {
            return Ok(());
        }
        let done = self.run(|run| {
            let mut steps = Vec::new();
            for (all, part) in parts {
                let mut done = does(run, all, part)?;
                steps.append(&mut run.early);
                steps.append(&mut done);
            }
            Ok(steps)
        });
        match done {
            Ok(steps) => steps.into_iter().for_each(&mut *self.tell),
            Err(e @ (Error::ReadOnly | Error::NoSpace | Error::Io(_))) => return Err(e),
            // One of them can't be read, or not be put back: the others can.
            Err(_) if parts.len() > 1 => {
                for part in parts {
                    self.some(&[*part], does)?;
                }
            }
            Err(e) => {
                let ino = parts[0].0[0].ino;
                let path = self.volume.inner.core.lock().path_of(ino).unwrap_or_default();
                let what = What::Failed(e.to_string());
                (self.tell)(Step { path, from: None, what, contents: false, attributes: false });
            }
        }
        Ok(())
    }

    /// Removes the directories that they made, as far as nothing is in them.
    fn made_directories(&mut self, touched: &[Touched]) -> Result<()> {
        let born = |touched: &&Touched| touched.register == Register::Birth;
        let mut left: Vec<Ino> = touched.iter().filter(born).map(|touched| touched.ino).collect();
        // What is in a directory was mostly born after it.
        left.reverse();
        loop {
            let (before, mut kept) = (left.len(), Vec::new());
            for some in left.chunks(AT_ONCE) {
                let gone = self.run(|run| some.iter().map(|ino| run.made_directory(*ino)).collect::<Result<Vec<_>>>());
                for (ino, step) in some.iter().zip(gone?) {
                    match step {
                        Some(step) => (self.tell)(step),
                        None => kept.push(*ino),
                    }
                }
            }
            left = kept;
            // Without doing anything nothing gets empty.
            if left.is_empty() || left.len() == before || self.dry_run {
                break;
            }
        }
        for ino in left {
            if let Some(step) = self.run(|run| run.still_there(ino))? {
                (self.tell)(step);
            }
        }
        Ok(())
    }
}

impl Core {
    /// The commits of these devices that arrived after `arrival`.
    fn their_commits(&mut self, devices: &[DeviceId], arrival: u64) -> Result<Theirs> {
        let mut theirs = Theirs::default();
        for tip in self.tips().collect::<Vec<_>>() {
            let branch = self.branch(tip.branch);
            if !devices.contains(&branch.device) {
                continue;
            }
            // Up to `before` they had arrived; numbers rise together.
            let (mut before, mut since) = (branch.forked_from.map_or(0, |fork| fork.seq), tip.seq + 1);
            while since - before > 1 {
                let middle = before + (since - before) / 2;
                let row = self.commit_row(Dot { branch: tip.branch, seq: middle })?;
                let row = row.ok_or_else(|| Error::damaged("a commit is missing"))?;
                if row.arrival <= arrival { before = middle } else { since = middle }
            }
            if since <= tip.seq {
                theirs.0.insert(tip.branch, (since, tip.seq));
            }
        }
        Ok(theirs)
    }

    /// Tells which register a change of theirs was of, and what of others it superseded.
    fn note_touched(
        &mut self,
        theirs: &Theirs,
        at: ValueRef,
        raw: &RawChange,
        note: &mut dyn FnMut(&mut Core, Touched),
    ) -> Result<()> {
        let head: Head = decode(&raw.head)?;
        let branch = self.branch_of(at.dot)?;
        let place = Birthplace { device: branch.device, log: branch.log, seq: at.dot.seq, index: at.index };
        let (node, register) = match head.kind {
            ChangeKind::Birth { .. } => (place.node(&raw.head, &raw.body), Register::Birth),
            ChangeKind::Access { node, .. } => (node, Register::Access),
            ChangeKind::Meta { node, .. } => (node, Register::Meta),
            ChangeKind::Xattr { node, tag, .. } => (node, Register::Xattr(*tag.as_bytes())),
            ChangeKind::Content { node, .. } | ChangeKind::Settle { node } => (node, Register::Content),
            ChangeKind::Place { link: Some(link), child, .. } | ChangeKind::Removal { link, child, .. } => {
                (child, Register::Place(link))
            }
            ChangeKind::Place { link: None, child, .. } => {
                let Some(ino) = self.ino_of_node(&child)? else { return Ok(()) };
                let link = match self.with_node(ino, |n| n.kind)? {
                    NodeKind::Directory => LinkId::of_directory(&child),
                    _ => place.link(&raw.head, &raw.body),
                };
                (child, Register::Place(link))
            }
            _ => return Ok(()),
        };
        let Some(ino) = self.ino_of_node(&node)? else { return Ok(()) };
        let mut todo = self.values_of(at.dot, &head.supersedes)?;
        if todo.is_empty() {
            note(self, Touched { ino, register, before: None });
        }
        let mut steps = 0;
        while let Some(before) = todo.pop() {
            steps += 1;
            if theirs.have(before) || steps > STEPS {
                continue;
            }
            if self.commit_info(before.dot)?.void {
                // What a void value superseded went with it.
                todo.extend(self.superseded_by(before)?);
                continue;
            }
            note(self, Touched { ino, register, before: Some(before) });
        }
        Ok(())
    }

    fn below(&mut self, path: &Path, then: Past) -> Result<Below> {
        let now = self.at_path(path);
        let before = self.as_of(then, |core| core.at_path(path));
        let nodes: BTreeSet<Ino> = [now, before].into_iter().flatten().collect();
        if nodes.is_empty() {
            return Err(Error::NotFound);
        }
        Ok(Below { nodes, then, known: HashMap::new() })
    }

    /// What a path leads to.
    pub(crate) fn at_path(&mut self, path: &Path) -> Result<Ino> {
        let mut at = Ino::ROOT;
        for name in path {
            at = self.find(at, name)?.0;
        }
        match self.row(at)?.as_deref() {
            Some(NodeRow::View { of, .. }) => Ok(*of),
            _ => Ok(at),
        }
    }

    /// The path of a name in a directory.
    pub(crate) fn path_in(&mut self, directory: Ino, name: &[u8]) -> Vec<u8> {
        match self.path_of(directory) {
            Some(above) if !above.is_empty() => [&above, name].join(&b'/'),
            _ => name.to_vec(),
        }
    }
}

impl Run<'_> {
    // ---- which values would be live

    /// The values of a register that would be live without theirs, in rising order: of those that are live and those that
    /// they superseded, what nobody else superseded.
    fn without_them(&mut self, live: &[ValueRef], before: &[ValueRef]) -> Result<Vec<ValueRef>> {
        let others = live.iter().copied().filter(|at| !self.theirs.have(*at)).chain(before.iter().copied());
        let all: BTreeSet<ValueRef> = others.collect();
        let mut kept = Vec::new();
        for &at in &all {
            let mut outlived = false;
            if !live.contains(&at) {
                for &other in all.iter().filter(|other| **other != at) {
                    outlived = outlived || self.supersedes(other, at)?;
                }
            }
            if !outlived {
                kept.push((at, self.core.count_of(at)?));
            }
        }
        let mut sorted: Vec<(ValueRef, u64)> = Vec::with_capacity(kept.len());
        for new in kept {
            let mut place = sorted.len();
            while place > 0 && self.core.rank(sorted[place - 1], new)?.is_gt() {
                place -= 1;
            }
            sorted.insert(place, new);
        }
        Ok(sorted.into_iter().map(|(at, _)| at).collect())
    }

    /// Whether a value superseded another, by way of whatever came between.
    fn supersedes(&mut self, newer: ValueRef, older: ValueRef) -> Result<bool> {
        let (mut todo, mut seen) = (vec![newer], BTreeSet::new());
        while let Some(at) = todo.pop() {
            for before in self.core.superseded_by(at)? {
                if before == older || seen.len() >= STEPS {
                    return Ok(true);
                }
                if seen.insert(before) && self.core.value_covers(before, older)? {
                    todo.push(before);
                }
            }
        }
        Ok(false)
    }

    fn key(&mut self, ino: Ino, generation: u32) -> Result<SymmetricKey> {
        let key = self.core.with_node(ino, |n| n.key(generation).map(|key| key.derive(Label::BodyKey)))?;
        key.ok_or_else(|| Error::damaged("a node's key"))
    }

    /// What a stored change of a node says.
    fn body<T: Serialize + DeserializeOwned>(&mut self, ino: Ino, at: ValueRef) -> Result<T> {
        let raw = self.core.change(at)?;
        let head: Head = decode(&raw.head)?;
        let generation = match head.kind {
            ChangeKind::Birth { access, .. } | ChangeKind::Access { access, .. } => access.generation,
            ChangeKind::Meta { generation, .. }
            | ChangeKind::Xattr { generation, .. }
            | ChangeKind::Content { generation, .. } => generation,
            _ => return Err(Error::damaged("a value of another kind")),
        };
        let key = self.key(ino, generation)?;
        self.core.open_stored(at, &key, &raw)?.ok_or_else(|| Error::damaged("a value that does not decode"))
    }

    fn access_at(&mut self, ino: Ino, at: ValueRef) -> Result<AccessBody> {
        let head: Head = decode(&self.core.change(at)?.head)?;
        match head.kind {
            ChangeKind::Birth { .. } => Ok(self.body::<BirthBody>(ino, at)?.access),
            _ => self.body(ino, at),
        }
    }

    // ---- nodes

    fn node(&mut self, all: &[Touched], part: &[Touched]) -> Result<Vec<Step>> {
        let ino = part[0].ino;
        let row = self.core.row(ino)?;
        let Some(NodeRow::Node(node)) = row.as_deref() else { return Ok(Vec::new()) };
        let born = !node.born.is_empty() && node.born.iter().all(|at| self.theirs.have(*at));
        let directory = node.kind == NodeKind::Directory;
        if !self.is_below(ino, node, part)? {
            return Ok(Vec::new());
        }
        if born && !self.others_changed(ino, node, all)? {
            // Directories go last.
            return if directory { Ok(Vec::new()) } else { self.made(ino, node) };
        }
        let from = self.core.path_of(ino).unwrap_or_default();
        let mut step = Step { path: from.clone(), from: None, what: What::Stays, contents: false, attributes: false };
        let mut more = Vec::new();
        let sets_times = !directory && part.iter().any(|touched| touched.register == Register::Meta);
        let times = if sets_times { self.times(ino, all)? } else { None };
        let times = times.filter(|(_, _, target, _)| !born || target.is_some());
        for register in part.chunk_by(|a, b| a.register == b.register) {
            let before: Vec<ValueRef> = register.iter().filter_map(|touched| touched.before).collect();
            match register[0].register {
                Register::Birth => {}
                Register::Place(link) => {
                    let Some((path, what)) = self.place(ino, link, &before, born)? else { continue };
                    if step.what == What::Stays {
                        (step.path, step.what) = (path, what);
                    } else {
                        more.push(Step { path, from: None, what, contents: false, attributes: false });
                    }
                }
                Register::Content => step.contents = self.content(ino, &before, all, born)?,
                Register::Access => step.attributes |= self.access(ino, &before)?,
                // With those of the entries that come and go.
                Register::Meta => {}
                Register::Xattr(tag) => step.attributes |= self.xattr(ino, NodeId::from_bytes(tag), &before, born)?,
            }
        }
        if let Some((live, shown, target, body)) = times {
            step.attributes |= self.put_meta(ino, &live, (shown, target), body)?;
        }
        if step.what == What::GoesBack && !from.is_empty() && from != step.path {
            step.from = Some(from);
        }
        if born && part.as_ptr() == all.as_ptr() && !directory {
            step.what = What::IsKept;
        }
        if step.what != What::Stays || step.contents || step.attributes {
            more.insert(0, step);
        }
        Ok(more)
    }

    /// Whether others changed what they made.
    fn others_changed(&mut self, ino: Ino, node: &Node, all: &[Touched]) -> Result<bool> {
        if all.iter().any(|touched| touched.before.is_some()) {
            return Ok(true);
        }
        let theirs = self.theirs;
        let other = |at: ValueRef| !theirs.have(at);
        let mut changed = node.content.iter().any(|v| other(v.at))
            || node.access.iter().any(|v| other(v.at))
            || node.meta.iter().any(|v| other(v.at));
        for shows in [true, false] {
            self.core.each_item::<Xattr>(ino, node, shows, |x| {
                changed |= x.values.iter().any(|v| other(v.at));
                !changed
            })?;
            self.core.each_item::<Link>(ino, node, shows, |link| {
                changed |= link.values.iter().any(|v| other(v.at) && matches!(v.value, Some(Place::In { .. })));
                !changed
            })?;
        }
        Ok(changed)
    }

    /// Takes away the names of what they made.
    fn made(&mut self, ino: Ino, node: &Node) -> Result<Vec<Step>> {
        let mut steps = Vec::new();
        for link in self.core.shown_links(ino, node)? {
            let Some(shown) = &link.shown else { continue };
            let path = self.core.path_in(shown.parent, &shown.name);
            self.remove(node.id, &link)?;
            if steps.is_empty() {
                steps.push(Step { path, from: None, what: What::IsRemoved, contents: false, attributes: false });
            }
            if steps.len() >= AT_ONCE {
                break;
            }
        }
        Ok(steps)
    }

    fn remove(&mut self, child: NodeId, link: &Link) -> Result<()> {
        if self.dry_run {
            return Ok(());
        }
        let kind = ChangeKind::Removal { link: link.id, child, time: self.core.now() };
        self.core.emit::<PlaceBody>(kind, &places(link), None).map(drop)
    }

    /// Removes a directory that they made if nothing is in it; nothing when it stays.
    fn made_directory(&mut self, ino: Ino) -> Result<Option<Step>> {
        let row = self.core.row(ino)?;
        let Some(NodeRow::Node(node)) = row.as_deref() else { return Ok(None) };
        let theirs = self.theirs;
        let born = node.born.iter().all(|at| theirs.have(*at));
        let Some(link) = node.links.first().filter(|link| born && link.shown.is_some()) else { return Ok(None) };
        let moved = |v: &Value<Place>| !theirs.have(v.at) && matches!(v.value, Some(Place::In { .. }));
        let changed = node.access.iter().any(|v| !theirs.have(v.at)) || link.values.iter().any(moved);
        if changed || !self.is_below(ino, node, &[])? || self.holds(ino)? {
            return Ok(None);
        }
        let path = self.core.path_of(ino).unwrap_or_default();
        self.remove(node.id, link)?;
        Ok(Some(Step { path, from: None, what: What::IsRemoved, contents: false, attributes: false }))
    }

    /// What is told of a directory that they made and that stays.
    fn still_there(&mut self, ino: Ino) -> Result<Option<Step>> {
        let row = self.core.row(ino)?;
        let Some(NodeRow::Node(node)) = row.as_deref() else { return Ok(None) };
        let born = node.born.iter().all(|at| self.theirs.have(*at));
        if !born || !node.is_shown() || !self.is_below(ino, node, &[])? {
            return Ok(None);
        }
        let path = self.core.path_of(ino).unwrap_or_default();
        Ok(Some(Step { path, from: None, what: What::IsKept, contents: false, attributes: false }))
    }

    /// Whether something shows in just this directory, not in those that it shows with.
    fn holds(&mut self, ino: Ino) -> Result<bool> {
        let home = self.core.canonical(ino)?;
        let mut from = [0; 16];
        loop {
            let entries = self.core.scan_entries(home, &from, AT_ONCE)?;
            let Some((last, _)) = entries.last() else { return Ok(false) };
            // What of theirs is still there in a dry run would be gone.
            let (theirs, dry_run) = (self.theirs, self.dry_run);
            let stays = |claim: &Claim| claim.parent == ino && !(dry_run && theirs.have(claim.at));
            if entries.iter().any(|(_, entry)| entry.claims.iter().any(stays)) {
                return Ok(true);
            }
            match crate::tree::next_tag(*last) {
                Some(next) => from = next,
                None => return Ok(false),
            }
        }
    }

    // ---- where

    /// Whether a node, or a place that it had, is where things are to be taken back.
    fn is_below(&mut self, ino: Ino, node: &Node, part: &[Touched]) -> Result<bool> {
        let Some(below) = self.below.as_deref_mut() else { return Ok(true) };
        if below.nodes.contains(&ino) {
            return Ok(true);
        }
        let shown = self.core.first_shown(ino, node)?.and_then(|link| link.shown.clone());
        let mut parents: Vec<Ino> = shown.into_iter().map(|shown| shown.parent).collect();
        for touched in part {
            if let (Register::Place(_), Some(before)) = (touched.register, touched.before)
                && let Some(place) = self.core.past_place(before)?
            {
                parents.push(place.parent);
            }
        }
        for parent in parents {
            if below.holds(self.core, parent)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    // ---- registers

    /// Puts a link back where it would be; tells where that is, and what that is for it.
    fn place(&mut self, ino: Ino, id: LinkId, before: &[ValueRef], born: bool) -> Result<Option<(Vec<u8>, What)>> {
        let (node, Some(link)) = self.core.found_link(ino, &id)? else { return Ok(None) };
        let placed = link.values.iter().rev().find(|v| matches!(v.value, Some(Place::In { .. })));
        let Some(now) = placed.or(link.values.last()) else { return Ok(None) };
        if !self.theirs.have(now.at) {
            return Ok(None);
        }
        let live: Vec<ValueRef> = places(&link);
        let kept = self.without_them(&live, before)?;
        let mut target = None;
        for &at in kept.iter().rev() {
            target = self.core.past_place(at)?;
            if target.is_some() {
                break;
            }
        }
        // A name that they gave to what stays.
        if born && target.is_none() {
            return Ok(None);
        }
        match (target, now.value.clone()) {
            (None, Some(Place::Removed)) => Ok(None),
            (Some(target), Some(Place::In { parent, name })) if target.parent == parent && target.name == name => {
                Ok(None)
            }
            (None, value) => {
                let path = match value {
                    Some(Place::In { parent, name }) => self.core.path_in(parent, &name),
                    _ => Vec::new(),
                };
                self.remove(node, &link)?;
                Ok(Some((path, What::LosesName)))
            }
            (Some(target), value) => {
                if !self.dry_run {
                    self.directory_first(target.parent)?;
                    let directory = self.core.live_again(target.parent)?;
                    // By its own name: of a merged directory it is in that part of it.
                    let directory =
                        if self.core.canonical(target.parent)? == directory { target.parent } else { directory };
                    self.core.place(Some(id), node, directory, &target.name, &live)?;
                }
                let path = self.path_then(target.parent, &target.name)?;
                let removed = matches!(value, Some(Place::Removed));
                Ok(Some((path, if removed { What::ComesBack } else { What::GoesBack })))
            }
        }
    }

    /// Puts a directory back before what is to be in it.
    fn directory_first(&mut self, directory: Ino) -> Result<()> {
        let from = self.directories.partition_point(|touched| touched.ino < directory);
        let all = self.directories[from..].chunk_by(|a, b| a.ino == b.ino).next().unwrap_or_default();
        if all.first().is_none_or(|touched| touched.ino != directory)
            || self.core.with_node(directory, Node::is_shown)?
        {
            return Ok(());
        }
        // Those above it come first in turn, however deep: the stack grows with them.
        let mut steps = stacker::maybe_grow(256 << 10, 4 << 20, || self.node(all, all))?;
        self.early.append(&mut steps);
        Ok(())
    }

    /// The path of a name in a directory, which may show nowhere now.
    fn path_then(&mut self, directory: Ino, name: &[u8]) -> Result<Vec<u8>> {
        let shows = self.core.with_node(directory, Node::is_shown)? || directory == Ino::ROOT;
        match shows {
            true => Ok(self.core.path_in(directory, name)),
            false => self.core.as_of(self.then, |core| Ok(core.path_in(directory, name))),
        }
    }

    fn content(&mut self, ino: Ino, before: &[ValueRef], all: &[Touched], born: bool) -> Result<bool> {
        let (id, live, btime): (NodeId, Vec<ValueRef>, Timestamp) =
            self.core.with_node(ino, |n| (n.id, n.content.iter().map(|v| v.at).collect(), n.btime))?;
        let theirs: Vec<ValueRef> = live.iter().copied().filter(|at| self.theirs.have(*at)).collect();
        let kept = self.without_them(&live, before)?;
        let back: Vec<ValueRef> = kept.iter().copied().filter(|at| !live.contains(at)).collect();
        // (What they made and others keep is as they made it where nobody else made it something else.)
        if theirs.is_empty() && back.is_empty() || born && kept.is_empty() {
            return Ok(false);
        }
        let metas: Vec<ValueRef> = all
            .iter()
            .filter(|touched| touched.register == Register::Meta)
            .filter_map(|touched| touched.before)
            .collect();
        let mut bodies = Vec::with_capacity(back.len().max(1));
        for &at in &back {
            let mut body: ContentBody = self.body(ino, at)?;
            body.mtime = self.mtime(ino, Some((at, body.mtime)), &metas, btime)?;
            bodies.push((Some(at), body));
        }
        if kept.is_empty() {
            // It was empty, and nobody else has written to it.
            let content = Content { size: 0, allocated: 0, data: ContentData::Inline(Vec::new()) };
            let mtime = self.mtime(ino, None, &metas, btime)?;
            bodies.push((None, ContentBody { mtime, content, keys: Vec::new() }));
        }
        if theirs.len() == bodies.len() {
            // Put back by them, it may be that already.
            let mut same = true;
            for at in &theirs {
                let body: Option<ContentBody> = self.body(ino, *at).ok();
                same &= body.is_some_and(|one| {
                    bodies.iter().any(|(_, other)| one.content == other.content && one.mtime == other.mtime)
                });
            }
            if same {
                return Ok(false);
            }
        }
        if self.dry_run {
            return Ok(true);
        }
        if bodies.is_empty() {
            self.core.emit::<PlaceBody>(ChangeKind::Settle { node: id }, &theirs, None)?;
            return Ok(true);
        }
        let (generation, key) = self.core.body_key(ino)?;
        for (nth, (from, body)) in bodies.into_iter().enumerate() {
            // What it brings back is named too, so that who looks later sees that it came back.
            let mut gone: Vec<ValueRef> = if nth == 0 { theirs.clone() } else { Vec::new() };
            gone.extend(from);
            let (root, blocks) = match body.content.data {
                ContentData::Tree { root, blocks } => (root, blocks),
                ContentData::Inline(_) => (BlockHash::ZERO, 0),
            };
            let kind = ChangeKind::Content { node: id, generation, root, blocks };
            let at = self.core.emit(kind, &gone, Some((&key, &body)))?;
            if let (Some(from), ContentData::Tree { .. }) = (from, &body.content.data) {
                self.core.want_again_from(from, at, root, blocks)?;
            }
        }
        Ok(true)
    }

    /// What would show as a file's time of modification, with this content of others (nothing: empty from birth).
    fn mtime(
        &mut self,
        ino: Ino,
        content: Option<(ValueRef, Timestamp)>,
        metas: &[ValueRef],
        btime: Timestamp,
    ) -> Result<Timestamp> {
        let live: Vec<ValueRef> = self.core.with_node(ino, |n| n.meta.iter().map(|v| v.at).collect())?;
        let set = match self.without_them(&live, metas)?.last() {
            Some(at) => self.body::<MetaBody>(ino, *at)?.mtime.map(|mtime| (*at, mtime)),
            None => None,
        };
        match (content, set) {
            (None, None) => Ok(btime),
            (None, Some((_, mtime))) => Ok(mtime),
            (Some((_, own)), None) => Ok(own),
            (Some((at, own)), Some((set, mtime))) => Ok(if self.core.value_covers(set, at)? { mtime } else { own }),
        }
    }

    fn access(&mut self, ino: Ino, before: &[ValueRef]) -> Result<bool> {
        let (id, owner, live, key): (NodeId, UserId, Vec<ValueRef>, _) = self.core.with_node(ino, |n| {
            let key = n.current_key().map(|(_, key)| key.clone());
            (n.id, n.owner, n.access.iter().map(|v| v.at).collect(), key)
        })?;
        let Some(shown) = live.last().copied().filter(|at| self.theirs.have(*at)) else { return Ok(false) };
        let Some(target) = self.without_them(&live, before)?.pop() else { return Ok(false) };
        let body = AccessBody { time: self.core.now(), ..self.access_at(ino, target)? };
        if self.access_at(ino, shown).is_ok_and(|now| AccessBody { time: body.time, ..now } == body) {
            return Ok(false);
        }
        if self.dry_run {
            return Ok(true);
        }
        let key = key.ok_or_else(|| Error::damaged("a node's key"))?;
        let access = AccessHead {
            owner,
            realm: RealmId::MEMBERS,
            grants: Vec::new(),
            mode: JUDGED_MODE,
            ..self.core.access_head(1, key.key())?
        };
        let gone: Vec<ValueRef> = live.iter().copied().chain([target]).collect::<BTreeSet<_>>().into_iter().collect();
        self.core.emit(ChangeKind::Access { node: id, access }, &gone, Some((&key.derive(Label::BodyKey), &body)))?;
        Ok(true)
    }

    /// The times of a file to put back: the live values, the one that shows, which of others there was, and what it says
    /// with the content that will show.
    #[allow(clippy::type_complexity, reason = "what one value is replaced by")]
    fn times(
        &mut self,
        ino: Ino,
        all: &[Touched],
    ) -> Result<Option<(Vec<ValueRef>, ValueRef, Option<ValueRef>, MetaBody)>> {
        let (live, contents, btime): (Vec<ValueRef>, Vec<ValueRef>, Timestamp) = self.core.with_node(ino, |n| {
            (n.meta.iter().map(|v| v.at).collect(), n.content.iter().map(|v| v.at).collect(), n.btime)
        })?;
        let Some(shown) = live.last().copied().filter(|at| self.theirs.have(*at)) else { return Ok(None) };
        let of = |register: Register| -> Vec<ValueRef> {
            all.iter().filter(|touched| touched.register == register).filter_map(|touched| touched.before).collect()
        };
        let target = self.without_them(&live, &of(Register::Meta))?.pop();
        let content = self.without_them(&contents, &of(Register::Content))?.pop();
        let body = match target {
            Some(target) => {
                let was: MetaBody = self.body(ino, target)?;
                // It tells of what it had seen.
                let covers = match content {
                    Some(at) => self.core.value_covers(target, at)?,
                    None => true,
                };
                MetaBody { mtime: was.mtime.filter(|_| covers), ..was }
            }
            None => {
                let own = match content {
                    Some(at) => self.body::<ContentBody>(ino, at)?.mtime,
                    None => btime,
                };
                MetaBody { time: self.core.now(), mtime: None, atime: own }
            }
        };
        Ok(Some((live, shown, target, body)))
    }

    fn put_meta(
        &mut self,
        ino: Ino,
        live: &[ValueRef],
        (shown, target): (ValueRef, Option<ValueRef>),
        body: MetaBody,
    ) -> Result<bool> {
        let body = MetaBody { time: self.core.now(), ..body };
        if self.body::<MetaBody>(ino, shown).is_ok_and(|now| MetaBody { time: body.time, ..now } == body) {
            return Ok(false);
        }
        if self.dry_run {
            return Ok(true);
        }
        let id = self.core.with_node(ino, |n| n.id)?;
        let (generation, key) = self.core.body_key(ino)?;
        let gone: BTreeSet<ValueRef> = live.iter().copied().chain(target).collect();
        let gone: Vec<ValueRef> = gone.into_iter().collect();
        self.core.emit(ChangeKind::Meta { node: id, generation }, &gone, Some((&key, &body)))?;
        Ok(true)
    }

    /// Times of a directory that they set: when all that comes and goes in it has.
    fn directory_times(&mut self, all: &[Touched]) -> Result<Vec<Step>> {
        let ino = all[0].ino;
        let metas = all.iter().filter(|touched| touched.register == Register::Meta);
        let before: Vec<ValueRef> = metas.clone().filter_map(|touched| touched.before).collect();
        let row = self.core.row(ino)?;
        let Some(NodeRow::Node(node)) = row.as_deref() else { return Ok(Vec::new()) };
        let live: Vec<ValueRef> = node.meta.iter().map(|v| v.at).collect();
        let shown = live.last().copied().filter(|at| self.theirs.have(*at));
        let (Some(shown), 1..) = (shown, metas.count()) else { return Ok(Vec::new()) };
        if !node.is_shown() || !self.is_below(ino, node, &[])? {
            return Ok(Vec::new());
        }
        let target = self.without_them(&live, &before)?.pop();
        let body = match target {
            Some(target) => {
                let was: MetaBody = self.body(ino, target)?;
                // It tells of the entries that it had seen.
                let changed = node.entry_change.map(|(at, ..)| at);
                let covers = match changed {
                    Some(at) => self.core.value_covers(target, at)?,
                    None => true,
                };
                MetaBody { mtime: was.mtime.filter(|_| covers), ..was }
            }
            None => {
                let atime = node.entry_change.map_or(node.btime, |(.., time)| time);
                MetaBody { time: self.core.now(), mtime: None, atime }
            }
        };
        if !self.put_meta(ino, &live, (shown, target), body)? {
            return Ok(Vec::new());
        }
        let path = self.core.path_of(ino).unwrap_or_default();
        Ok(vec![Step { path, from: None, what: What::Stays, contents: false, attributes: true }])
    }

    fn xattr(&mut self, ino: Ino, tag: NodeId, before: &[ValueRef], born: bool) -> Result<bool> {
        let row = self.core.row(ino)?;
        let Some(NodeRow::Node(node)) = row.as_deref() else { return Ok(false) };
        let Some(item) = self.core.item::<Xattr>(ino, node, tag.as_bytes())? else { return Ok(false) };
        let live: Vec<ValueRef> = item.values.iter().map(|v| v.at).collect();
        let Some(shown) = live.last().copied().filter(|at| self.theirs.have(*at)) else { return Ok(false) };
        let target = self.without_them(&live, before)?.pop();
        if born && target.is_none() {
            return Ok(false);
        }
        let time = self.core.now();
        let body = match target {
            Some(target) => XattrBody { time, ..self.body(ino, target)? },
            None => XattrBody { time, name: item.name.clone(), value: None },
        };
        if self.body::<XattrBody>(ino, shown).is_ok_and(|now| now.value == body.value) {
            return Ok(false);
        }
        if self.dry_run {
            return Ok(true);
        }
        let (generation, key) = self.core.body_key(ino)?;
        let gone: BTreeSet<ValueRef> = live.iter().copied().chain(target).collect();
        let gone: Vec<ValueRef> = gone.into_iter().collect();
        self.core.emit(ChangeKind::Xattr { node: node.id, generation, tag }, &gone, Some((&key, &body)))?;
        Ok(true)
    }
}

impl Below {
    /// Whether a directory is, or was, one of these or below.
    fn holds(&mut self, core: &mut Core, directory: Ino) -> Result<bool> {
        if let Some(known) = self.known.get(&directory) {
            return Ok(*known);
        }
        let held = self.leads_up(core, directory)? || core.as_of(self.then, |core| self.leads_up(core, directory))?;
        if self.known.len() < MOST {
            self.known.insert(directory, held);
        }
        Ok(held)
    }

    fn leads_up(&self, core: &mut Core, directory: Ino) -> Result<bool> {
        let mut at = directory;
        for _ in 0..DEPTH {
            if self.nodes.contains(&at) {
                return Ok(true);
            }
            let row = core.row(at)?;
            let Some(NodeRow::Node(node)) = row.as_deref() else { return Ok(false) };
            at = match (node.merged_into, node.links.first().and_then(|link| link.shown.as_ref())) {
                (Some(into), _) => into,
                (None, Some(shown)) => shown.parent,
                (None, None) => return Ok(false),
            };
        }
        Ok(false)
    }
}
