//! Taking back what some devices did since some time, register by register, and keeping what all others did.
//!
//! What they did is found in their logs, not by walking the tree. For each register that they wrote to (a file's content,
//! its access, its times, an attribute, a place of a name) it is worked out which values would be live had they done
//! nothing: those that others wrote and that nobody but they superseded. What shows of theirs is replaced by these, in
//! ordinary changes. So what others wrote in between or after stays, a file that was renamed, removed or put in another's
//! place is its old node again, and doing it twice, or going on after a death midway, changes nothing more.
//!
//! Names need no order: several links may claim one, and who is left when theirs are gone has it.

mod nodes;
mod registers;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crypto::DeviceId;

use crate::{
    apply::decode,
    commit::{ChangeKind, Head, RawChange},
    core::Core,
    error::{Error, Result},
    history::Past,
    id::{Birthplace, LinkId},
    node::{Ino, NodeKind},
    restore::Path,
    row::NodeRow,
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
    /// Its contents are, or stay, what others made of theirs.
    pub contents_kept: bool,
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
    /// They made it, and others changed it since or put something into it; or it is as others changed it after them, and
    /// nothing else of it is put back: it is kept.
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
            let then = Past::after(core.moments.at(arrival).ok_or(Error::NotFound)?);
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
            false => self.volume.beside_the_mount(|core| {
                core.may_change()?;
                // Thinned out meanwhile, what was there would seem not to have been.
                if core.moments.at(then.arrival) != Some(then.arrival) {
                    return Err(Error::NotFound);
                }
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
                (self.tell)(Step { path, from: None, what, contents: false, attributes: false, contents_kept: false });
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
