//! What power loss tore: contents of this device whose rows survived, but whose blocks did not.
//!
//! Rows and blocks are on their way to the disk together, in no order, until a sync. So the change that publishes a
//! content can be there after power loss and its blocks gone, and what it superseded, which perhaps was synced long
//! ago, would be lost with it. Such a content was never sent; it is superseded by what came before it.
//!
//! Invariant: after [`Core::mend`] every content of this device that may be sent is here, but for blocks that come
//! from contents of others that were never wholly here.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
};

use crate::{
    commit::{ChangeKind, ContentBody, Head, RawChange},
    content::{BlockHash, Blocks, Content, ContentData},
    core::{Core, arrival_key},
    error::{Error, Result},
    id::CommitHash,
    node::Ino,
    store::{Batch, Space, prefix_end},
    version::{Dot, ValueRef},
};

/// The absent blocks of contents that others made, once they were looked for.
type Fetching = Option<Arc<BTreeSet<BlockHash>>>;

/// In the store: up to which arrival commits were synced, when the last own one was cut.
const SYNCED: &[u8] = b"synced";

impl Core {
    /// Puts up to where commits are known to be on the disk into the batch of a commit.
    pub(crate) fn note_synced(&self, batch: &mut Batch) {
        let synced = self.synced_arrival.load(Ordering::Acquire);
        self.store.put(batch, Space::Meta, SYNCED, &synced.to_be_bytes());
    }

    /// Supersedes own contents whose blocks power loss took by what they superseded. To be called before the
    /// pending commit of the last run is cut.
    pub(crate) fn mend(&mut self, blocks: &Blocks) -> Result<()> {
        let mut fetching = None;
        for value in self.unsynced_contents()? {
            if let Err(e) = self.mend_content(blocks, value, &mut fetching) {
                log::error!("a content that may lack blocks could not be looked at: {e}");
            }
        }
        Ok(())
    }

    fn mend_content(&mut self, blocks: &Blocks, value: ValueRef, fetching: &mut Fetching) -> Result<()> {
        let head = head_of(&self.change(value)?)?;
        let ChangeKind::Content { node, .. } = head.kind else { return Ok(()) };
        let Some(ino) = self.ino_of_node(&node)? else { return Ok(()) };
        // One that is superseded itself matters only to what superseded it.
        let live = self.with_node(ino, |n| n.content.iter().any(|v| v.at == value))?;
        if live && !self.is_whole(blocks, ino, value, fetching)? {
            self.take_back(blocks, ino, value, fetching)?;
        }
        Ok(())
    }

    /// This device's own contents in blocks that may not have been synced.
    fn unsynced_contents(&mut self) -> Result<Vec<ValueRef>> {
        let synced = match self.store.get(Space::Meta, SYNCED)? {
            Some(bytes) => u64::from_be_bytes(bytes.try_into().map_err(|_| Error::damaged("synced point"))?),
            None => 0,
        };
        let mut dots: Vec<Dot> = Vec::new();
        let rows = self.store.raw().scan(Space::Index, &arrival_key(synced + 1), &prefix_end(b"a"), usize::MAX)?;
        for (_, dot) in rows {
            dots.push(Dot::from_key(&dot).ok_or_else(|| Error::damaged("arrival index"))?);
        }
        dots.retain(|dot| dot.branch == self.me);
        dots.push(self.pending_dot());
        let mut contents = Vec::new();
        for dot in dots {
            let key = dot.key();
            for (key, bytes) in self.store.raw().scan(Space::Changes, &key, &prefix_end(&key), usize::MAX)? {
                let change: RawChange = rmp_serde::from_slice(&bytes).map_err(|_| Error::damaged("change"))?;
                let head: Head = head_of(&change)?;
                if let ChangeKind::Content { root, .. } = head.kind
                    && root != BlockHash::ZERO
                {
                    contents.push(ValueRef::from_key(&key).ok_or_else(|| Error::damaged("change key"))?);
                }
            }
        }
        Ok(contents)
    }

    /// Whether all blocks of a content are here, or never were.
    fn is_whole(&mut self, blocks: &Blocks, ino: Ino, value: ValueRef, fetching: &mut Fetching) -> Result<bool> {
        let Some(body) = self.content_at(ino, value)? else { return Ok(true) };
        let absent = blocks.absent(&body.content, usize::MAX)?;
        if absent.is_empty() {
            return Ok(true);
        }
        let fetching = match fetching {
            Some(fetching) => fetching.clone(),
            None => fetching.insert(Arc::new(self.still_fetching(blocks)?)).clone(),
        };
        Ok(absent.iter().all(|hash| fetching.contains(hash)))
    }

    /// The absent blocks of contents that others made.
    fn still_fetching(&self, blocks: &Blocks) -> Result<BTreeSet<BlockHash>> {
        let mut absent = BTreeSet::new();
        for (_, bytes) in self.store.scan(Space::Wanted, &[], &[], usize::MAX)? {
            let (root, count): (BlockHash, u64) =
                rmp_serde::from_slice(&bytes).map_err(|_| Error::damaged("wanted content"))?;
            let data = ContentData::Tree { root, blocks: count };
            absent.extend(blocks.absent(&Content { size: 0, allocated: 0, data }, usize::MAX)?);
        }
        Ok(absent)
    }

    /// What a content change says.
    fn content_at(&mut self, ino: Ino, value: ValueRef) -> Result<Option<ContentBody>> {
        let raw = self.change(value)?;
        let head: Head = head_of(&raw)?;
        let ChangeKind::Content { generation, .. } = head.kind else { return Ok(None) };
        let key = self.with_node(ino, |n| n.key(generation).map(|k| k.derive(crypto::Label::BodyKey, b"")))?;
        match key {
            Some(key) => self.open_stored(value, &key, &raw),
            None => Ok(None),
        }
    }

    /// Has the newest content before `lost` that is here supersede it; an empty one if there is none.
    fn take_back(&mut self, blocks: &Blocks, ino: Ino, lost: ValueRef, fetching: &mut Fetching) -> Result<()> {
        log::warn!("inode {}: power loss took blocks of what was written last; it is as before that", ino.0);
        let mut at = lost;
        let body = loop {
            let head: Head = head_of(&self.change(at)?)?;
            // A writer has seen one value.
            let Some(before) = head.supersedes.last() else { break None };
            let dot = match before.commit {
                CommitHash::ZERO => at.dot,
                hash => self.dot_of(&hash)?.ok_or_else(|| Error::damaged("a superseded commit is missing"))?,
            };
            at = ValueRef { dot, index: before.index };
            if self.is_whole(blocks, ino, at, fetching)?
                && let Some(body) = self.content_at(ino, at)?
            {
                break Some(body);
            }
        };
        let body = match body {
            Some(body) => body,
            None => ContentBody { mtime: self.now(), content: Content::empty(), keys: Vec::new() },
        };
        self.call(|core| {
            let id = core.with_node(ino, |n| n.id)?;
            let (generation, key) = core.body_key(ino)?;
            let (root, count) = match &body.content.data {
                ContentData::Tree { root, blocks } => (*root, *blocks),
                ContentData::Inline(_) => (BlockHash::ZERO, 0),
            };
            let kind = ChangeKind::Content { node: id, generation, root, blocks: count };
            core.emit(kind, &[lost], Some((&key, &body))).map(|_| ())
        })
    }
}

fn head_of(change: &RawChange) -> Result<Head> {
    rmp_serde::from_slice(&change.head).map_err(|_| Error::damaged("head of a change"))
}
