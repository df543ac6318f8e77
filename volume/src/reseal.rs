//! Old content under new keys: what was sealed before somebody was removed is sealed anew, so that it opens no more with
//! what they know.
//!
//! A node gets a new key with its next write ([`crate::realms`]). This does that at once for all that this user may write, and
//! for what is already sealed: attributes, times, the names in a directory, contents. It goes through the nodes in the
//! order of their numbers, in short steps beside other work; how far it is, is a row of the store, in the batch of each
//! step. So a restart goes on, and what is renewed already is passed over. A content is read and sealed under no lock, and
//! becomes the file's in one step, if that still shows the same and nobody here has it open for writing.
//!
//! Invariant: nobody sees a difference. Names, sizes, modes and times stay.
//!
//! What others did meanwhile, not knowing of it, goes before it: [`yielding`].

mod contents;
mod yielding;

pub(crate) use contents::Resealing;
pub(crate) use yielding::Renewals;

use crypto::Label;
use serde::{Deserialize, Serialize};

use crate::{
    apply::decode,
    commit::{ChangeKind, Head, MetaBody, PlaceBody, XattrBody, encode},
    core::{Core, decode_row},
    error::{Error, Result},
    files::Version,
    id::NodeId,
    namespace::places,
    node::{Ino, NodeKind},
    rights::WRITE,
    row::{Claim, Link, Node, NodeRow, Place, Xattr, XattrValue},
    store::Space,
    time::Timestamp,
    tree::next_tag,
    version::ValueRef,
    volume::Volume,
};

/// Key in [`Space::Meta`] of how far it is.
const JOB: &[u8] = b"reseal";
/// Nodes looked at, and entries, in one step.
const AT_ONCE: usize = 64;
/// Bytes of changes after which a step ends: other calls wait no longer.
const STEP_BYTES: usize = 256 << 10;

/// What sealing anew came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resealed {
    /// Nodes that were looked at, of about how many.
    pub looked: u64,
    /// As above.
    pub nodes: u64,
    /// Files whose contents are sealed anew.
    pub files: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Names that are.
    pub names: u64,
    /// What was left as it is.
    pub left: Left,
    /// It came to its end.
    pub finished: bool,
}

/// What was left as it is, and why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// Files that are open for writing here.
    pub open: u64,
    /// Files of which there are several versions, names that are taken twice, and what others change just now.
    pub contested: u64,
    /// Files whose contents aren't here, or don't open.
    pub absent: u64,
    /// What this user may not change.
    pub denied: u64,
}

/// How far it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Job {
    /// The node to go on with, and of a directory from which entry on.
    next: Ino,
    from: [u8; 16],
    done: Resealed,
}

/// What is to be sealed anew outside of the core's lock.
struct Source {
    ino: Ino,
    /// The value that is to be replaced.
    at: ValueRef,
    version: Version,
    /// Of the key to seal under.
    generation: u32,
}

/// How a step on a node ended.
enum Step {
    Done,
    /// There is more to do for it.
    More,
    Content(Box<Source>),
}

impl Volume {
    /// Has all that this user may write be sealed under keys that nobody who was removed holds: from now on
    /// [`Self::reseal`] does that. What was begun before begins anew.
    ///
    /// # Errors
    /// [`Error::ReadOnly`] when this user may change nothing; the disk failed.
    pub fn begin_reseal(&self) -> Result<()> {
        self.local(&[], |core| {
            core.may_change()?;
            let before = core.reseal_job()?.map(|job| job.done).unwrap_or_default();
            let done = Resealed { looked: 0, nodes: core.node_count(), left: Left::default(), ..before };
            core.put_reseal_job(&Job { next: Ino::ROOT, from: [0; 16], done });
            Ok(())
        })?;
        self.commit_pending()
    }

    /// How far sealing anew is, if it goes on.
    ///
    /// # Errors
    /// The disk failed.
    pub fn resealing(&self) -> Result<Option<Resealed>> {
        Ok(self.inner.core.lock().reseal_job()?.map(|job| job.done))
    }

    /// Goes on with what [`Self::begin_reseal`] began, in small steps with `pace` between them, until that is false. One at
    /// a time: while another runs, this waits.
    ///
    /// # Errors
    /// The disk failed or is full: it goes on from there the next time. [`Error::ReadOnly`] when this user may change
    /// nothing any more.
    pub fn reseal(&self, pace: &mut dyn FnMut(&Resealed) -> bool) -> Result<Resealed> {
        let _turn = self.inner.resealing.turn.lock();
        self.forget_renewals()?;
        let mut done = Resealed::default();
        loop {
            let Some(job) = self.inner.core.lock().reseal_job()? else { break };
            done = job.done;
            if !pace(&done) {
                return Ok(done);
            }
            self.check_space(0)?;
            let nodes = self.nodes_from(job.next)?;
            let source = match self.unseen(|core| core.reseal_some(job.next, &nodes)) {
                Ok(source) => source,
                Err(Error::ReadOnly) => {
                    self.unseen(|core| {
                        core.overlay.batch.remove(Space::Meta, JOB);
                        Ok(())
                    })?;
                    return Err(Error::ReadOnly);
                }
                Err(e) => return Err(e),
            };
            if let Some(source) = source
                && !self.reseal_content(&source, &done, pace)?
            {
                return Ok(done);
            }
        }
        self.commit_pending()?;
        done.finished = true;
        Ok(done)
    }

    /// The next nodes from a number on; the last one may be just where to go on from.
    fn nodes_from(&self, from: Ino) -> Result<Vec<Ino>> {
        let mut from = from;
        loop {
            let rows = self.inner.store.raw().scan(Space::Nodes, &from.0.to_be_bytes(), &[], AT_ONCE)?;
            let Some((last, _)) = rows.last() else { return Ok(Vec::new()) };
            // Others are what nodes have in rows of their own.
            let nodes = rows.iter().filter_map(|(key, _)| <[u8; 8]>::try_from(key.as_slice()).ok());
            let nodes: Vec<Ino> = nodes.map(|number| Ino(u64::from_be_bytes(number))).collect();
            if !nodes.is_empty() {
                return Ok(nodes);
            }
            let of = last.get(..8).and_then(|of| of.try_into().ok()).map_or(u64::MAX, u64::from_be_bytes);
            let Some(next) = of.checked_add(1) else { return Ok(Vec::new()) };
            from = Ino(next);
        }
    }
}

impl Core {
    fn reseal_job(&self) -> Result<Option<Job>> {
        let row = self.store.get(Space::Meta, JOB)?;
        row.map(|row| decode_row("how far sealing anew is", &row)).transpose()
    }

    fn put_reseal_job(&mut self, job: &Job) {
        self.store.put(&mut self.overlay.batch, Space::Meta, JOB, &encode(job));
    }

    /// Goes on with the nodes from a number on, until one has a content to seal. That one is left to be the next.
    fn reseal_some(&mut self, from: Ino, nodes: &[Ino]) -> Result<Option<Box<Source>>> {
        self.may_change()?;
        // (It may have been begun anew.)
        let Some(mut job) = self.reseal_job()?.filter(|job| job.next == from) else { return Ok(None) };
        if nodes.is_empty() {
            self.overlay.batch.remove(Space::Meta, JOB);
            return Ok(None);
        }
        let mut source = None;
        for &ino in nodes {
            if job.next != ino {
                (job.next, job.from) = (ino, [0; 16]);
            }
            match self.reseal_node(&mut job)? {
                Step::Done => job.pass(),
                Step::More => break,
                Step::Content(found) => {
                    source = Some(found);
                    break;
                }
            }
            if self.step_is_long() {
                break;
            }
        }
        self.put_reseal_job(&job);
        Ok(source)
    }

    fn step_is_long(&self) -> bool {
        let changes = &self.overlay.pending;
        changes.len() >= AT_ONCE || changes.iter().map(|change| change.size()).sum::<usize>() >= STEP_BYTES
    }

    fn reseal_node(&mut self, job: &mut Job) -> Result<Step> {
        let ino = job.next;
        let row = self.row(ino)?;
        let Some(NodeRow::Node(node)) = row.as_deref() else { return Ok(Step::Done) };
        if ino != Ino::ROOT && !node.is_shown() {
            return Ok(Step::Done);
        }
        let stale = self.has_stale_key(node)?;
        if self.is_sealed(node) || node.rights_of(&self.my_id) & WRITE == 0 {
            job.done.left.denied += u64::from(stale);
            return Ok(Step::Done);
        }
        if stale {
            let Some((old, new)) = self.renew_key(node, node.ctime)? else {
                job.done.left.contested += 1;
                return Ok(Step::Done);
            };
            self.note_renewed(old, new);
            self.keep_ctime(ino, node.ctime)?;
        }
        self.reseal_times(ino)?;
        if !self.reseal_xattrs(ino)? {
            return Ok(Step::More);
        }
        match self.with_node(ino, |n| n.kind)? {
            NodeKind::Directory => self.reseal_names(job),
            NodeKind::File => self.content_to_reseal(job),
            _ => Ok(Step::Done),
        }
    }

    /// What is told of a change here counts as its time; what is only sealed anew changed no more than it had.
    fn keep_ctime(&mut self, ino: Ino, before: Timestamp) -> Result<()> {
        if self.with_node(ino, |n| n.ctime < before)? {
            let mut node = self.node(ino)?;
            node.ctime = before;
            self.put_node(ino, node);
        }
        Ok(())
    }

    /// The generation of the key that seals a change's body.
    fn generation_of(&self, at: ValueRef) -> Result<Option<u32>> {
        Ok(match decode::<Head>(&self.change(at)?.head)?.kind {
            ChangeKind::Meta { generation, .. }
            | ChangeKind::Xattr { generation, .. }
            | ChangeKind::Place { generation, .. } => Some(generation),
            _ => None,
        })
    }

    /// Whether a change is sealed under an earlier key than the one in use.
    fn is_sealed_before(&self, at: ValueRef, current: u32) -> Result<bool> {
        Ok(self.generation_of(at)?.is_some_and(|generation| generation < current))
    }

    /// Times that were set by hand.
    fn reseal_times(&mut self, ino: Ino) -> Result<()> {
        let (generation, key) = self.body_key(ino)?;
        let (id, ctime, mtime) = self.with_node(ino, |n| (n.id, n.ctime, n.mtime))?;
        let values: Vec<_> = self.with_node(ino, |n| n.meta.iter().map(|v| (v.at, v.value.clone())).collect())?;
        let Some((at, Some(shown))) = values.last() else { return Ok(()) };
        if !self.is_sealed_before(*at, generation)? {
            return Ok(());
        }
        // A time that a later write had moved on must not come back.
        let body = MetaBody { time: ctime, mtime: shown.mtime.filter(|set| *set == mtime), atime: shown.atime };
        let gone: Vec<ValueRef> = values.iter().map(|(at, _)| *at).collect();
        let new = self.emit(ChangeKind::Meta { node: id, generation }, &gone, Some((&key, &body)))?;
        self.note_renewed(*at, new);
        self.keep_ctime(ino, ctime)
    }

    /// Extended attributes. Tells whether it came to the end of them.
    fn reseal_xattrs(&mut self, ino: Ino) -> Result<bool> {
        let row = self.row(ino)?;
        let Some(NodeRow::Node(node)) = row.as_deref() else { return Ok(true) };
        let mut all = Vec::new();
        self.each_item::<Xattr>(ino, node, true, |xattr| {
            all.push(xattr.clone());
            true
        })?;
        let (generation, key) = self.body_key(ino)?;
        for xattr in all {
            let Some(shown) = xattr.values.last() else { continue };
            let Some(XattrValue::Set(value)) = &shown.value else { continue };
            let mut older = false;
            for value in &xattr.values {
                older |= self.is_sealed_before(value.at, generation)?;
            }
            if !older {
                continue;
            }
            if self.step_is_long() {
                return Ok(false);
            }
            let gone: Vec<ValueRef> = xattr.values.iter().map(|v| v.at).collect();
            let body = XattrBody { time: node.ctime, name: xattr.name.clone(), value: Some(value.clone()) };
            let kind = ChangeKind::Xattr { node: node.id, generation, tag: xattr.tag };
            let new = self.emit(kind, &gone, Some((&key, &body)))?;
            self.note_renewed(shown.at, new);
            self.keep_ctime(ino, node.ctime)?;
        }
        Ok(true)
    }

    /// The names in a directory, under its key.
    fn reseal_names(&mut self, job: &mut Job) -> Result<Step> {
        let directory = job.next;
        let home = self.canonical(directory)?;
        let Some(generation) = self.with_node(directory, |n| n.current_key().map(|(generation, _)| generation))? else {
            return Ok(Step::Done);
        };
        let entries = self.scan_entries(home, &job.from, AT_ONCE)?;
        let Some((last, _)) = entries.last() else { return Ok(Step::Done) };
        for (tag, entry) in &entries {
            for claim in entry.claims.iter().filter(|claim| claim.parent == directory) {
                if !self.is_sealed_before(claim.at, generation)? {
                    continue;
                }
                if self.step_is_long() {
                    job.from = *tag;
                    return Ok(Step::More);
                }
                match self.reseal_name(directory, &entry.name, claim, entry.claims.len())? {
                    true => job.done.names += 1,
                    false => job.done.left.contested += 1,
                }
            }
        }
        match next_tag(*last) {
            Some(next) => {
                job.from = next;
                Ok(Step::More)
            }
            None => Ok(Step::Done),
        }
    }

    /// Gives a link the place that it has once more. Not where several have the name: which of them keeps it hangs on
    /// whose place is the older.
    fn reseal_name(&mut self, directory: Ino, name: &[u8], claim: &Claim, claims: usize) -> Result<bool> {
        let child = claim.child;
        let (id, link) = self.found_link(child, &claim.link)?;
        let Some(link) = link else { return Ok(false) };
        let is_here =
            |place: &Place| matches!(place, Place::In { parent, name: n } if *parent == directory && n == name);
        let plain =
            matches!(link.values.as_slice(), [only] if only.at == claim.at && only.value.as_ref().is_some_and(is_here));
        let hangs = self.with_node(child, |n| n.hung_at.is_some())?;
        if claims != 1 || !plain || hangs {
            return Ok(false);
        }
        let new = self.place_again((child, id), &link, directory, name)?;
        self.note_renewed(claim.at, new);
        Ok(true)
    }

    /// Gives a link a place that it has, under the directory's newest key. No time that shows changes.
    fn place_again(
        &mut self,
        (child, id): (Ino, NodeId),
        link: &Link,
        directory: Ino,
        name: &[u8],
    ) -> Result<ValueRef> {
        let ctime = self.with_node(child, |n| n.ctime)?;
        let key = |n: &Node| n.current_key().map(|(generation, key)| (generation, key.derive(Label::NameKey)));
        let (parent, key, before, mtime) = self.with_node(directory, |n| (n.id, key(n), n.ctime, n.mtime))?;
        let (generation, key) = key.ok_or_else(|| Error::damaged("a directory's key"))?;
        // The time that shows for a directory is that of its last change.
        let body = PlaceBody { time: mtime, name: name.to_vec() };
        let kind = ChangeKind::Place { link: Some(link.id), child: id, parent, generation };
        let new = self.emit(kind, &places(link), Some((&key, &body)))?;
        self.keep_ctime(child, ctime)?;
        self.keep_ctime(directory, before)?;
        Ok(new)
    }

    /// The content of a file, if it is sealed under other keys than the one in use.
    fn content_to_reseal(&mut self, job: &mut Job) -> Result<Step> {
        let ino = job.next;
        let row = self.row(ino)?;
        let Some(NodeRow::Node(node)) = row.as_deref() else { return Ok(Step::Done) };
        let Some((generation, _)) = node.current_key() else { return Ok(Step::Done) };
        let is_old = |content: &crate::row::ContentValue| content.generation < generation || !content.keys.is_empty();
        let left = &mut job.done.left;
        match node.content.as_slice() {
            [] => {}
            [only] => match &only.value {
                Some(content) if is_old(content) && node.is_placed() => {
                    let version = self.version(ino)?;
                    return Ok(Step::Content(Box::new(Source { ino, at: only.at, version, generation })));
                }
                Some(content) => left.contested += u64::from(is_old(content)),
                None => left.absent += 1,
            },
            several => {
                let old = several.iter().any(|value| value.value.as_ref().is_none_or(is_old));
                left.contested += u64::from(old);
            }
        }
        Ok(Step::Done)
    }
}

impl Job {
    /// Goes on to the next node.
    fn pass(&mut self) {
        self.done.looked += 1;
        (self.next, self.from) = (Ino(self.next.0.saturating_add(1)), [0; 16]);
    }
}
