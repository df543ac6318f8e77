//! Blocks in use: sealing and opening them, following hash lists, reading contents.
//!
//! What is read from this device's store was checked when it was put there, and its pages' tags hang on bytes that the
//! store vouches for ([`super::BlockHead`]): reading hashes no block. List nodes and the headers of patches have no tags
//! of their own, so these are hashed each time one is read from the store; those in use stay in memory.

mod leaves;
mod patches;
mod pieces;
mod recent;
mod sealing;

use std::{
    collections::HashSet,
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crypto::{
    BLOCK_SIZE, BlockHeader, Entropy, PAGE_SIZE, PatchHeader, first_page, is_patch, open_pages, plain_len, stored_len,
    stored_range,
};
use lru::LruCache;
use parking_lot::Mutex;

use crate::{
    content::{
        BLOCK, BlockHash, BlockHead, BlockKind, BlockStore, Content, ContentData, KeyRing, LIST_NODE_MAX,
        list::{children, height, parse, span},
        tree,
    },
    error::{Error, Result},
};

pub(super) use leaves::Leaves;
pub(crate) use patches::is_base;
pub(super) use pieces::{Missing, Pieces, piece};
use recent::Recent;
pub(super) use sealing::Plain;

/// List nodes kept in memory, of up to 4 KiB.
const LIST_NODES: usize = 1024;
/// Roots of lists known to be wholly here.
const COMPLETE_ROOTS: usize = 32 << 10;
/// Headers of patches kept in memory, of about 150 bytes.
const PATCHES: usize = 16 << 10;
/// Idle buffers that are kept for later.
const IDLE_BUFFERS: usize = 4;

/// Enough of a name to tell it from others here. (Two that agree are both kept.)
pub(crate) fn short(hash: &BlockHash) -> u64 {
    hash.as_bytes().first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// The blocks of this device. Cheap to clone.
#[derive(Clone)]
pub struct Blocks(Arc<Inner>);

struct Inner {
    store: Arc<dyn BlockStore>,
    entropy: Arc<dyn Entropy>,
    lists: Mutex<LruCache<BlockHash, Arc<[BlockHash]>>>,
    /// Subtrees that are wholly here, with the number of blocks that each spans: one node has another form elsewhere.
    complete: Mutex<LruCache<(BlockHash, u64), ()>>,
    /// Headers of patches, checked against their names.
    patches: Mutex<LruCache<BlockHash, PatchHeader>>,
    recent: Mutex<Recent>,
    buffers: Mutex<Vec<Vec<u8>>>,
    /// While it is looked for what nobody needs: what was put since that began.
    young: Mutex<Option<HashSet<u64>>>,
    /// How often blocks were removed: what was found to be whole before may not be.
    removals: AtomicU64,
    /// How many stored blocks were not what their names say.
    damaged: AtomicU64,
}

impl Blocks {
    /// The blocks in `store`; `entropy` salts what is sealed.
    pub fn new(store: Arc<dyn BlockStore>, entropy: Arc<dyn Entropy>) -> Self {
        let cache = |entries| NonZeroUsize::new(entries).expect("a positive constant");
        Self(Arc::new(Inner {
            store,
            entropy,
            lists: Mutex::new(LruCache::new(cache(LIST_NODES))),
            complete: Mutex::new(LruCache::new(cache(COMPLETE_ROOTS))),
            patches: Mutex::new(LruCache::new(cache(PATCHES))),
            recent: Mutex::new(Recent::new()),
            buffers: Mutex::new(Vec::new()),
            young: Mutex::new(None),
            removals: AtomicU64::new(0),
            damaged: AtomicU64::new(0),
        }))
    }

    /// The store below.
    pub fn store(&self) -> &Arc<dyn BlockStore> {
        &self.0.store
    }

    /// Makes every block put before durable against power loss.
    pub fn sync(&self) -> Result<()> {
        self.0.store.sync()
    }

    /// Stores blocks; of those that may be here already (`known`) only what isn't.
    pub(crate) fn put_all(&self, blocks: &[(BlockHash, &[u8])], known: bool) -> Result<()> {
        // Noted first: whoever removes what nobody needs looks here with the lock held.
        if let Some(young) = &mut *self.0.young.lock() {
            young.extend(blocks.iter().map(|(hash, _)| short(hash)));
        }
        if !known {
            return self.0.store.put_many(blocks);
        }
        let mut new = Vec::with_capacity(blocks.len());
        for block in blocks {
            if !self.0.store.contains(&block.0)? {
                new.push(*block);
            }
        }
        if new.is_empty() { Ok(()) } else { self.0.store.put_many(&new) }
    }

    /// From now on it is noted what is put, or with false no longer.
    pub(crate) fn note_young(&self, on: bool) {
        *self.0.young.lock() = on.then(HashSet::new);
    }

    /// Removes those of these blocks that weren't put since [`Self::note_young`]. Returns how many bytes they had.
    pub(crate) fn remove_old(&self, blocks: &[(BlockHash, BlockHead)]) -> Result<u64> {
        let young = self.0.young.lock();
        let is_young = |hash: &BlockHash| young.as_ref().is_none_or(|young| young.contains(&short(hash)));
        let old = blocks.iter().filter(|(hash, _)| !is_young(hash));
        let (hashes, bytes): (Vec<BlockHash>, Vec<u64>) = old.map(|(hash, head)| (*hash, head.len as u64)).unzip();
        self.0.store.remove(&hashes)?;
        self.0.removals.fetch_add(1, Ordering::AcqRel);
        drop(young);
        let (mut lists, mut patches) = (self.0.lists.lock(), self.0.patches.lock());
        for hash in &hashes {
            lists.pop(hash);
            patches.pop(hash);
        }
        // Whoever lies above one is not wholly here any more.
        self.0.complete.lock().clear();
        Ok(bytes.iter().sum())
    }

    /// Names every block and list node below a root, each with its height (0: a block); what a list node names only if
    /// `each` says so. One that never came names nothing, and neither does what stands where a list should and is none.
    ///
    /// # Errors
    /// [`Error::Damaged`] for a list node that the disk has damaged: who knows what it names.
    pub(crate) fn walk(
        &self,
        root: BlockHash,
        blocks: u64,
        each: &mut dyn FnMut(&BlockHash, u32) -> bool,
    ) -> Result<()> {
        let mut left = vec![(root, height(blocks))];
        while let Some((hash, height)) = left.pop() {
            if hash.is_hole() || !each(&hash, height) || height == 0 {
                continue;
            }
            if self.0.store.head(&hash)?.is_none_or(|head| head.len > LIST_NODE_MAX) {
                continue;
            }
            // Not through the nodes in memory: this meets each once.
            let Some(bytes) = self.0.store.get(&hash)? else { continue };
            match BlockKind::of(&hash, &bytes) {
                Some(BlockKind::List) => {}
                Some(BlockKind::Block | BlockKind::Patch { .. }) => continue,
                None => return Err(Error::damaged(format!("the stored list node {}", hash.short()))),
            }
            let children = bytes.chunks_exact(BlockHash::LEN).filter_map(|hash| BlockHash::try_from(hash).ok());
            left.extend(children.map(|child| (child, height - 1)));
        }
        Ok(())
    }

    /// The block below a patch that is here.
    ///
    /// # Errors
    /// [`Error::Damaged`] for a patch that the disk has damaged.
    pub(crate) fn patched(&self, hash: &BlockHash, head: &BlockHead) -> Result<Option<BlockHash>> {
        match self.base_of(hash, head) {
            Err(Error::Absent(_)) => Err(Error::damaged(format!("the stored patch {}", hash.short()))),
            base => base,
        }
    }

    /// While it is noted what is put: notes blocks that something new leads to, so that none is taken for old.
    pub(crate) fn note_needed(&self, hashes: &[BlockHash]) {
        if let Some(young) = &mut *self.0.young.lock() {
            young.extend(hashes.iter().map(short));
        }
    }

    /// Stores what another device sent as the block, patch or list node `hash`.
    ///
    /// # Errors
    /// [`Error::Damaged`] when the bytes don't bear that name, or they are in no form that sealing gives.
    pub fn put_received(&self, hash: &BlockHash, bytes: &[u8]) -> Result<BlockKind> {
        let Some(kind) = BlockKind::of(hash, bytes) else {
            return Err(Error::damaged(format!("{} bytes that are not the block {}", bytes.len(), hash.short())));
        };
        self.put_all(&[(*hash, bytes)], true)?;
        Ok(kind)
    }

    /// Reads a stored block, patch or list node and checks it against its name; `None` when it isn't here.
    ///
    /// # Errors
    /// [`Error::Damaged`] when the disk gives other bytes than were put.
    pub fn get_checked(&self, hash: &BlockHash) -> Result<Option<Vec<u8>>> {
        let Some(bytes) = self.0.store.get(hash)? else {
            return Ok(None);
        };
        match BlockKind::of(hash, &bytes) {
            Some(_) => Ok(Some(bytes)),
            None => Err(Error::damaged(format!("the stored block {}", hash.short()))),
        }
    }

    /// Puts a block or list node aside whose stored bytes are not what its name says. Tells whether it was so.
    ///
    /// # Errors
    /// The store fails otherwise.
    pub(crate) fn drop_damaged(&self, hash: &BlockHash) -> Result<bool> {
        match self.get_checked(hash) {
            Ok(_) => return Ok(false),
            Err(Error::Damaged(_)) => {}
            Err(e) => return Err(e),
        }
        log::error!("block {} is damaged on this disk: it is to be fetched again", hash.short());
        self.0.damaged.fetch_add(1, Ordering::Relaxed);
        self.set_aside(hash)?;
        Ok(true)
    }

    /// How many stored blocks were found that are not what their names say.
    pub(crate) fn damaged(&self) -> u64 {
        self.0.damaged.load(Ordering::Relaxed)
    }

    /// Puts a block aside that can't be read: it is then as one that never came.
    pub(crate) fn set_aside(&self, hash: &BlockHash) -> Result<()> {
        self.0.store.set_aside(hash)?;
        self.0.lists.lock().pop(hash);
        self.0.patches.lock().pop(hash);
        // Whoever lies above it is not wholly here any more.
        self.0.complete.lock().clear();
        Ok(())
    }

    /// What reading a block that doesn't open comes to: one that the disk damaged is not here, and is fetched again.
    fn not_opened(&self, hash: &BlockHash, what: Error) -> Error {
        match self.drop_damaged(hash) {
            Ok(true) => Error::Absent(vec![*hash]),
            Ok(false) => what,
            Err(e) => e,
        }
    }

    /// Whether all pages of a stored block (or units of a patch) open under the ring's keys.
    pub(crate) fn opens(&self, keys: &KeyRing, stored: &[u8]) -> bool {
        if is_patch(stored) {
            return patches::opens(keys, stored);
        }
        let open = || {
            let header = BlockHeader::parse(stored).ok()?;
            let key = keys.find(header.key_id())?;
            let mut plain = Vec::with_capacity(stored.len());
            open_pages(key.block_key(), &header, 0, stored.get(crypto::BLOCK_HEADER_SIZE..)?, &mut plain).ok()
        };
        open().is_some()
    }

    /// Stores new list nodes and keeps them at hand.
    pub(super) fn put_lists(&self, nodes: Vec<(BlockHash, Vec<u8>)>) -> Result<()> {
        if nodes.is_empty() {
            return Ok(());
        }
        let named: Vec<_> = nodes.iter().map(|(hash, bytes)| (*hash, bytes.as_slice())).collect();
        self.put_all(&named, false)?;
        let mut lists = self.0.lists.lock();
        for (hash, bytes) in &nodes {
            lists.put(*hash, parse(bytes, bytes.len() / BlockHash::LEN)?.into());
        }
        Ok(())
    }

    /// The list node `hash`, which must have this many children.
    pub(super) fn list_node(&self, hash: &BlockHash, children: usize) -> Result<Arc<[BlockHash]>> {
        if let Some(node) = self.0.lists.lock().get(hash).filter(|node| node.len() == children) {
            return Ok(node.clone());
        }
        let Some(bytes) = self.0.store.get(hash)? else {
            return Err(Error::Absent(vec![*hash]));
        };
        if BlockHash::of_list(&bytes) != *hash {
            let damaged = Error::damaged(format!("the stored list node {}", hash.short()));
            return Err(self.not_opened(hash, damaged));
        }
        let node: Arc<[BlockHash]> = parse(&bytes, children)?.into();
        self.0.lists.lock().put(*hash, node.clone());
        Ok(node)
    }

    /// The block at `index` of the list `root` over `blocks` blocks: a hole past its end.
    ///
    /// # Errors
    /// [`Error::Absent`] with a list node on the way that isn't here.
    pub fn leaf_at(&self, root: BlockHash, blocks: u64, index: u64) -> Result<BlockHash> {
        Leaves::new(self, root, blocks).at(index)
    }

    /// Up to `limit` blocks and list nodes of a content that aren't here, parents before children: fetch these and
    /// ask again. Empty when all is here.
    ///
    /// # Errors
    /// [`Error::Damaged`] when the content's lists are in no form that an honest writer gives them.
    pub fn absent(&self, content: &Content, limit: usize) -> Result<Vec<BlockHash>> {
        let mut absent = Vec::new();
        if let ContentData::Tree { root, blocks } = content.data {
            self.absent_below(root, height(blocks), blocks, limit, &mut absent)?;
        }
        Ok(absent)
    }

    /// Adds to `absent` what isn't here of a subtree; returns whether all is.
    fn absent_below(
        &self,
        hash: BlockHash,
        height: u32,
        count: u64,
        limit: usize,
        absent: &mut Vec<BlockHash>,
    ) -> Result<bool> {
        if hash.is_hole() {
            return Ok(true);
        }
        if absent.len() >= limit {
            return Ok(false);
        }
        if height == 0 {
            return match self.require(&hash) {
                Err(Error::Absent(missing)) => {
                    absent.extend(missing);
                    Ok(false)
                }
                here => here.map(|()| true),
            };
        }
        if self.0.complete.lock().get(&(hash, count)).is_some() {
            return Ok(true);
        }
        let removals = self.0.removals.load(Ordering::Acquire);
        let node = match self.list_node(&hash, children(height, count)) {
            Err(Error::Absent(missing)) => {
                absent.extend(missing);
                return Ok(false);
            }
            node => node?,
        };
        let step = span(height - 1);
        let mut complete = true;
        for (child, hash) in node.iter().enumerate() {
            let below = (count - child as u64 * step).min(step);
            complete &= self.absent_below(*hash, height - 1, below, limit, absent)?;
        }
        // Under the lock: whoever removes blocks counts that first, and then forgets what was whole.
        let mut whole = self.0.complete.lock();
        if complete && self.0.removals.load(Ordering::Acquire) == removals {
            whole.put((hash, count), ());
        }
        drop(whole);
        Ok(complete)
    }

    /// Appends to `out` the bytes of a content from `offset` on, up to `len` of them and not past its end.
    ///
    /// # Errors
    /// [`Error::Absent`] with every block and list node of this range that isn't here, [`Error::Damaged`] when a
    /// block doesn't open; `out` is then as before.
    pub fn read(&self, content: &Content, keys: &KeyRing, offset: u64, len: usize, out: &mut Vec<u8>) -> Result<()> {
        let end = offset.saturating_add(len as u64).min(content.size);
        if offset >= end {
            return Ok(());
        }
        let (root, count) = match &content.data {
            ContentData::Inline(bytes) => {
                let bytes = bytes.get(offset as usize..end as usize);
                out.extend_from_slice(bytes.ok_or_else(|| Error::damaged("an inline content"))?);
                return Ok(());
            }
            ContentData::Tree { root, blocks } => (*root, *blocks),
        };
        let mut leaves = Leaves::new(self, root, count);
        let mut pieces = Pieces::new(out);
        for index in offset / BLOCK..end.div_ceil(BLOCK) {
            let (from, to) = piece(index, offset, end);
            pieces.add(|out| {
                let hash = leaves.at(index)?;
                match out {
                    Some(out) => self.read_block(&hash, keys, from, to - from, out),
                    None => self.require(&hash),
                }
            })?;
        }
        pieces.finish()
    }

    /// Fails with [`Error::Absent`] unless the block is here, and what it lies over.
    pub(super) fn require(&self, hash: &BlockHash) -> Result<()> {
        if hash.is_hole() {
            return Ok(());
        }
        let Some(head) = self.0.store.head(hash)? else {
            return Err(Error::Absent(vec![*hash]));
        };
        match self.base_of(hash, &head)? {
            Some(base) if !self.0.store.contains(&base)? => Err(Error::Absent(vec![base])),
            _ => Ok(()),
        }
    }

    /// Appends `len` plain bytes of a block from `from` on; zeros where it holds fewer.
    pub(super) fn read_block(
        &self,
        hash: &BlockHash,
        keys: &KeyRing,
        from: usize,
        len: usize,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let start = out.len();
        if hash.is_hole() {
            out.resize(start + len, 0);
            return Ok(());
        }
        if len < BLOCK_SIZE {
            let known = self.0.recent.lock().find(hash, keys);
            if let Some(plain) = known {
                out.extend_from_slice(plain.get(from..(from + len).min(plain.len())).unwrap_or_default());
                out.resize(start + len, 0);
                return Ok(());
            }
        }
        let damaged = |what: &str| Error::damaged(format!("block {}: {what}", hash.short()));
        let Some(head) = self.0.store.head(hash)? else {
            return Err(Error::Absent(vec![*hash]));
        };
        if is_patch(&head.first) {
            return self.read_patched(hash, &head, keys, from, len, out);
        }
        let plain_len = plain_len(head.len).map_err(|_| damaged("not of a block's length"))?;
        let header = BlockHeader::parse(&head.first).map_err(|_| damaged("no header"))?;
        let key = keys.find(header.key_id()).ok_or_else(|| damaged("sealed under a key that is not its file's"))?;
        // Who reads on where the last piece of this block ended will want the rest as well.
        let whole = len < BLOCK_SIZE && self.0.recent.lock().goes_on(hash, from, len);
        let range = if whole { stored_range(0, plain_len, plain_len) } else { stored_range(from, len, plain_len) };
        if range.is_empty() {
            out.resize(start + len, 0);
            return Ok(());
        }
        let mut buffer = self.buffer();
        if buffer.len() < range.len() {
            buffer.resize(range.len(), 0);
        }
        let sealed = &mut buffer[..range.len()];
        match self.0.store.read(hash, range.start, sealed) {
            Ok(true) => {}
            Ok(false) => return Err(Error::Absent(vec![*hash])),
            Err(e) => return Err(self.not_opened(hash, e)),
        }
        if whole {
            let mut plain = Vec::with_capacity(plain_len);
            open_pages(key.block_key(), &header, 0, sealed, &mut plain)
                .map_err(|e| self.not_opened(hash, damaged(&e.to_string())))?;
            out.extend_from_slice(plain.get(from..(from + len).min(plain.len())).unwrap_or_default());
            self.0.recent.lock().keep(*hash, [header.key_id(); 2], plain);
        } else {
            open_pages(key.block_key(), &header, first_page(from), sealed, out).map_err(|e| {
                out.truncate(start);
                self.not_opened(hash, damaged(&e.to_string()))
            })?;
            out.drain(start..start + from % PAGE_SIZE);
            out.truncate(start + len);
        }
        self.give_back(buffer);
        out.resize(start + len, 0);
        Ok(())
    }

    /// Where the first data at or after `offset` begins.
    ///
    /// # Errors
    /// [`Error::NoMoreData`] when there is none before the end, or `offset` isn't before it.
    pub fn seek_data(&self, content: &Content, offset: u64) -> Result<u64> {
        self.seek(content, offset, true)?.ok_or(Error::NoMoreData)
    }

    /// Where the first hole at or after `offset` begins; the end of the file counts as one.
    ///
    /// # Errors
    /// [`Error::NoMoreData`] when `offset` isn't before the end.
    pub fn seek_hole(&self, content: &Content, offset: u64) -> Result<u64> {
        Ok(self.seek(content, offset, false)?.unwrap_or(content.size))
    }

    fn seek(&self, content: &Content, offset: u64, data: bool) -> Result<Option<u64>> {
        if offset >= content.size {
            return Err(Error::NoMoreData);
        }
        match content.data {
            ContentData::Inline(_) => Ok(data.then_some(offset)),
            // No hole anywhere: that needs no list.
            ContentData::Tree { .. } if !data && content.allocated == content.size => Ok(None),
            ContentData::Tree { root, blocks } => {
                let found = tree::next(self, root, blocks, offset / BLOCK, data)?;
                Ok(found.map(|index| offset.max(index * BLOCK)))
            }
        }
    }

    /// A buffer of any length and content.
    fn buffer(&self) -> Vec<u8> {
        self.0.buffers.lock().pop().unwrap_or_else(|| Vec::with_capacity(stored_len(BLOCK_SIZE)))
    }

    fn give_back(&self, buffer: Vec<u8>) {
        let mut buffers = self.0.buffers.lock();
        if buffers.len() < IDLE_BUFFERS {
            buffers.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests;
