//! Blocks in use: sealing and opening them, following hash lists, reading contents.
//!
//! What is read from this device's store was checked when it was put there, and its pages' tags hang on bytes that the
//! store vouches for ([`super::BlockHead`]): reading hashes no block. List nodes have no tags, so they are hashed each
//! time one is read from the store; those in use stay in memory.

mod leaves;
mod pieces;
mod recent;

use std::{num::NonZeroUsize, sync::Arc};

use crypto::{
    BLOCK_SIZE, BlockHeader, Entropy, PAGE_SIZE, first_page, open_pages, padded_len, plain_len, seal_block, stored_len,
    stored_range,
};
use lru::LruCache;
use parking_lot::Mutex;

use crate::{
    content::{
        BLOCK, BlockHash, BlockStore, Content, ContentData, KeyRing, LIST_NODE_MAX,
        list::{children, height, parse, span},
        tree,
    },
    error::{Error, Result},
};

pub(super) use leaves::Leaves;
pub(super) use pieces::{Missing, Pieces, piece};
use recent::Recent;

/// List nodes kept in memory, of up to 4 KiB.
const LIST_NODES: usize = 1024;
/// Roots of lists known to be wholly here.
const COMPLETE_ROOTS: usize = 32 << 10;
/// Blocks sealed and stored in one go.
const GROUP: usize = 16;
/// Idle buffers that are kept for later.
const IDLE_BUFFERS: usize = 4;

/// What stored bytes turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockKind {
    /// A sealed block.
    Block,
    /// A list node.
    List,
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
    recent: Mutex<Recent>,
    buffers: Mutex<Vec<Vec<u8>>>,
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
            recent: Mutex::new(Recent::new()),
            buffers: Mutex::new(Vec::new()),
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

    /// Stores what another device sent as the block or list node `hash`.
    ///
    /// # Errors
    /// [`Error::Damaged`] when the bytes don't bear that name, or no block has that length.
    pub fn put_received(&self, hash: &BlockHash, bytes: &[u8]) -> Result<BlockKind> {
        let may_be_list =
            !bytes.is_empty() && bytes.len() <= LIST_NODE_MAX && bytes.len().is_multiple_of(BlockHash::LEN);
        // A stored block is no longer than a full one: `plain_len` refuses other lengths.
        let kind = if may_be_list && BlockHash::of_list(bytes) == *hash {
            BlockKind::List
        } else if plain_len(bytes.len()).is_ok() && BlockHash::of_block(bytes) == *hash {
            BlockKind::Block
        } else {
            return Err(Error::damaged(format!("{} bytes that are not the block {}", bytes.len(), hash.short())));
        };
        self.0.store.put(hash, bytes)?;
        Ok(kind)
    }

    /// Reads a stored block or list node and checks it against its name; `None` when it isn't here.
    ///
    /// # Errors
    /// [`Error::Damaged`] when the disk gives other bytes than were put.
    pub fn get_checked(&self, hash: &BlockHash) -> Result<Option<Vec<u8>>> {
        let Some(bytes) = self.0.store.get(hash)? else {
            return Ok(None);
        };
        if BlockHash::of_block(&bytes) == *hash || BlockHash::of_list(&bytes) == *hash {
            Ok(Some(bytes))
        } else {
            Err(Error::damaged(format!("the stored block {}", hash.short())))
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
        self.set_aside(hash)?;
        Ok(true)
    }

    /// Puts a block aside that can't be read: it is then as one that never came.
    pub(crate) fn set_aside(&self, hash: &BlockHash) -> Result<()> {
        self.0.store.set_aside(hash)?;
        self.0.lists.lock().pop(hash);
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

    /// Whether all pages of a stored block open under the ring's keys.
    pub(crate) fn opens(&self, keys: &KeyRing, stored: &[u8]) -> bool {
        let open = || {
            let header = BlockHeader::parse(stored).ok()?;
            let key = keys.find(header.key_id())?;
            let mut plain = Vec::with_capacity(stored.len());
            open_pages(key.block_key(), &header, 0, stored.get(crypto::BLOCK_HEADER_SIZE..)?, &mut plain).ok()
        };
        open().is_some()
    }

    /// Seals up to a block of plain bytes under the ring's current key and stores it.
    pub fn seal_put(&self, keys: &KeyRing, plain: &[u8]) -> Result<BlockHash> {
        let hashes = self.seal_put_many(keys, [plain])?;
        hashes.first().copied().ok_or(Error::Invalid)
    }

    /// Seals and stores several blocks; returns their names in order.
    pub fn seal_put_many<'a>(
        &self,
        keys: &KeyRing,
        plains: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Vec<BlockHash>> {
        let mut hashes = Vec::new();
        let mut plains = plains.into_iter().peekable();
        let mut sealed = self.buffer();
        while plains.peek().is_some() {
            sealed.clear();
            let mut ends = Vec::with_capacity(GROUP);
            for plain in plains.by_ref().take(GROUP) {
                self.seal(keys, plain, &mut sealed);
                ends.push(sealed.len());
            }
            let mut group = Vec::with_capacity(GROUP);
            let mut start = 0;
            for end in ends {
                let stored = &sealed[start..end];
                group.push((BlockHash::of_block(stored), stored));
                start = end;
            }
            self.0.store.put_many(&group)?;
            hashes.extend(group.iter().map(|(hash, _)| *hash));
        }
        self.give_back(sealed);
        Ok(hashes)
    }

    /// Seals one block. A short one (the last of a file) is padded, so that its exact length doesn't show.
    fn seal(&self, keys: &KeyRing, plain: &[u8], out: &mut Vec<u8>) {
        let key = keys.current().block_key();
        let padded = padded_len(plain.len()).min(BLOCK_SIZE);
        if padded == plain.len() {
            seal_block(key, plain, &*self.0.entropy, out);
        } else {
            let mut bytes = Vec::with_capacity(padded);
            bytes.extend_from_slice(plain);
            bytes.resize(padded, 0);
            seal_block(key, &bytes, &*self.0.entropy, out);
        }
    }

    /// Stores new list nodes and keeps them at hand.
    pub(super) fn put_lists(&self, nodes: Vec<(BlockHash, Vec<u8>)>) -> Result<()> {
        if nodes.is_empty() {
            return Ok(());
        }
        let named: Vec<_> = nodes.iter().map(|(hash, bytes)| (*hash, bytes.as_slice())).collect();
        self.0.store.put_many(&named)?;
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
            let here = self.0.store.contains(&hash)?;
            if !here {
                absent.push(hash);
            }
            return Ok(here);
        }
        if self.0.complete.lock().get(&(hash, count)).is_some() {
            return Ok(true);
        }
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
        if complete {
            self.0.complete.lock().put((hash, count), ());
        }
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

    /// Fails with [`Error::Absent`] unless the block is here.
    pub(super) fn require(&self, hash: &BlockHash) -> Result<()> {
        if hash.is_hole() || self.0.store.contains(hash)? { Ok(()) } else { Err(Error::Absent(vec![*hash])) }
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
            self.0.recent.lock().keep(*hash, header.key_id(), plain);
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
