//! The contents of files, block by block under a new key.

use std::time::Duration;

use parking_lot::Mutex;

use crate::{
    commit::{ChangeKind, ContentBody},
    content::{BlockHash, Content, ContentData, Draft, KeyRing},
    core::Core,
    error::{Error, Result},
    node::Ino,
    row::NodeRow,
    volume::Volume,
};

use super::{Left, Resealed, Source};

/// Bytes read and sealed between two pauses.
const PIECE: u64 = 1 << 20;
/// After so many bytes what is sealed becomes part of the list, and is synced: neither memory nor somebody's next sync is
/// to have more to hold.
const FOLD: u64 = 64 << 20;
/// How long a block that isn't here is waited for while somebody is connected.
const PATIENCE: Duration = Duration::from_secs(10);

/// What sealing anew has at hand.
#[derive(Default)]
pub(crate) struct Resealing {
    /// Held by whoever does it.
    pub turn: Mutex<()>,
    /// The content that is being made: nothing names its blocks yet, and they must not be taken for idle.
    pub draft: Mutex<Option<Draft>>,
}

/// What came of a content.
enum Outcome {
    Renewed,
    /// It was left, for this reason.
    Left(fn(&mut Left) -> &mut u64),
    /// The file shows something else meanwhile.
    Changed,
    /// There is no time for more.
    Stopped,
}

impl Volume {
    /// Seals a content anew and makes it its file's. False when it was cut short; the file is begun anew then.
    pub(super) fn reseal_content(
        &self,
        source: &Source,
        so_far: &Resealed,
        pace: &mut dyn FnMut(&Resealed) -> bool,
    ) -> Result<bool> {
        let outcome = self.sealed_anew(source, so_far, pace);
        *self.inner.resealing.draft.lock() = None;
        match outcome? {
            Outcome::Renewed | Outcome::Changed => Ok(true),
            Outcome::Stopped => Ok(false),
            Outcome::Left(why) => {
                self.unseen(|core| {
                    let Some(mut job) = core.reseal_job()?.filter(|job| job.next == source.ino) else { return Ok(()) };
                    *why(&mut job.done.left) += 1;
                    job.pass();
                    core.put_reseal_job(&job);
                    Ok(())
                })?;
                Ok(true)
            }
        }
    }

    fn sealed_anew(
        &self,
        source: &Source,
        so_far: &Resealed,
        pace: &mut dyn FnMut(&Resealed) -> bool,
    ) -> Result<Outcome> {
        // Not only at the end, when all was done for nothing.
        if self.is_written(source.ino) {
            return Ok(Outcome::Left(|left| &mut left.open));
        }
        let content = match &source.version.content.data {
            ContentData::Inline(_) => source.version.content.clone(),
            ContentData::Tree { .. } => match self.copied(source, so_far, pace) {
                Ok(Some(content)) => content,
                Ok(None) => return Ok(Outcome::Stopped),
                Err(Error::Absent(_) | Error::Damaged(_)) => return Ok(Outcome::Left(|left| &mut left.absent)),
                Err(e) => return Err(e),
            },
        };
        self.put_in_place(source, content)
    }

    /// The same bytes in blocks of their own, all of them sealed under the newest key. `None` when it was cut short.
    fn copied(
        &self,
        source: &Source,
        so_far: &Resealed,
        pace: &mut dyn FnMut(&Resealed) -> bool,
    ) -> Result<Option<Content>> {
        let (blocks, old, keys) = (&self.inner.blocks, &source.version.content, &source.version.keys);
        let draft = Draft::new(blocks.clone(), Content::empty(), KeyRing::new(keys.current().node_key()));
        *self.inner.resealing.draft.lock() = Some(draft);
        let (mut at, mut folded) = (0, 0);
        let mut bytes = Vec::new();
        loop {
            let data = self.with_blocks(source.ino, || match blocks.seek_data(old, at) {
                Err(Error::NoMoreData) => Ok(None),
                found => found.map(Some),
            })?;
            let Some(data) = data else { break };
            at = data;
            let hole = self.with_blocks(source.ino, || blocks.seek_hole(old, at))?;
            // Pieces that end where blocks do are sealed straight away.
            let len = (PIECE - at % PIECE).min(hole - at);
            self.with_blocks(source.ino, || {
                bytes.clear();
                blocks.read(old, keys, at, len as usize, &mut bytes)
            })?;
            self.check_space(bytes.len())?;
            at += len;
            let folds = at - folded >= FOLD;
            self.drafted(|draft| {
                draft.write(at - len, &bytes)?;
                if folds { draft.finish().map(drop) } else { Ok(()) }
            })?;
            if folds {
                folded = at;
                blocks.sync()?;
            }
            if !pace(&Resealed { bytes: so_far.bytes + at, ..*so_far }) {
                return Ok(None);
            }
        }
        self.drafted(|draft| {
            draft.extend(old.size)?;
            draft.finish().map(Some)
        })
    }

    fn drafted<R>(&self, f: impl FnOnce(&mut Draft) -> Result<R>) -> Result<R> {
        f(self.inner.resealing.draft.lock().as_mut().ok_or(Error::BadHandle)?)
    }

    /// Reads what may have to be fetched first.
    fn with_blocks<R>(&self, ino: Ino, mut read: impl FnMut() -> Result<R>) -> Result<R> {
        loop {
            let absent: Vec<BlockHash> = match read() {
                Err(Error::Absent(absent)) => absent,
                done => return done,
            };
            self.want_again(ino)?;
            if self.inner.sessions.lock().is_empty() || !self.await_blocks(&absent, PATIENCE) {
                return Err(Error::Absent(absent));
            }
        }
    }

    fn is_written(&self, ino: Ino) -> bool {
        let file = self.inner.files.get(&ino).map(|file| file.clone());
        file.is_some_and(|file| file.state.read().is_written())
    }

    /// Makes a content the file's, if that still shows what it was made from.
    fn put_in_place(&self, source: &Source, content: Content) -> Result<Outcome> {
        // Who opens the file for writing begins from what it shows before or after this, and is known to.
        let _opening = self.inner.opening.write();
        let file = self.inner.files.get(&source.ino).map(|file| file.clone());
        let mut state = file.as_ref().map(|file| file.state.write());
        if state.as_ref().is_some_and(|state| state.is_written()) {
            return Ok(Outcome::Left(|left| &mut left.open));
        }
        let renewed = self.unseen(|core| core.renew_content(source, content))?;
        if let Some(state) = &mut state {
            state.shown = None;
        }
        Ok(if renewed { Outcome::Renewed } else { Outcome::Changed })
    }
}

impl Core {
    fn renew_content(&mut self, source: &Source, content: Content) -> Result<bool> {
        self.may_change()?;
        let ino = source.ino;
        let row = self.row(ino)?;
        let Some(NodeRow::Node(node)) = row.as_deref() else { return Ok(false) };
        let is_same = matches!(node.content.as_slice(), [only] if only.at == source.at);
        let generation = node.current_key().map(|(generation, _)| generation);
        if !is_same || !node.is_placed() || generation != Some(source.generation) {
            return Ok(false);
        }
        let (generation, key) = self.body_key(ino)?;
        let (root, blocks) = match &content.data {
            ContentData::Tree { root, blocks } => {
                self.overlay.publishes = true;
                (*root, *blocks)
            }
            ContentData::Inline(_) => (BlockHash::ZERO, 0),
        };
        let size = content.size;
        // As it shows: a time that was set by hand counts for no content that came after it.
        let body = ContentBody { mtime: node.mtime, content, keys: Vec::new() };
        let kind = ChangeKind::Content { node: node.id, generation, root, blocks };
        let at = self.emit(kind, &[source.at], Some((&key, &body)))?;
        self.keep_ctime(ino, node.ctime)?;
        self.note_renewed(source.at, at);
        if let Some(mut job) = self.reseal_job()?.filter(|job| job.next == ino) {
            (job.done.files, job.done.bytes) = (job.done.files + 1, job.done.bytes + size);
            job.pass();
            self.put_reseal_job(&job);
        }
        Ok(true)
    }
}
