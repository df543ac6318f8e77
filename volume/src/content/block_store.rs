//! Where stored blocks and list nodes are kept, as a trait; and the twin in memory that forgets what wasn't synced.
//!
//! Invariants: what is under a name hashes to it (whoever puts has checked); a block that is there never changes; what was
//! put survives the death of the process, what was put before a [`BlockStore::sync`] that returned survives power loss.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use crypto::BLOCK_HEADER_SIZE;
use parking_lot::Mutex;

use crate::{content::BlockHash, error::Result};

/// What the store knows of a block without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockHead {
    /// Stored length in bytes.
    pub len: usize,
    /// The first stored bytes (zeros where the block is shorter): of a sealed block, its header. They come from this
    /// device's own sealed record, so pages that open under them are this block's and no other's.
    pub first: [u8; BLOCK_HEADER_SIZE],
}

impl BlockHead {
    /// The head of a block with these stored bytes.
    pub fn of(stored: &[u8]) -> Self {
        let mut first = [0; BLOCK_HEADER_SIZE];
        let len = stored.len().min(BLOCK_HEADER_SIZE);
        first[..len].copy_from_slice(&stored[..len]);
        Self { len: stored.len(), first }
    }
}

/// Blocks and list nodes by name. Knows neither keys nor files.
pub trait BlockStore: Send + Sync + 'static {
    /// Whether the block is here.
    fn contains(&self, hash: &BlockHash) -> Result<bool> {
        Ok(self.head(hash)?.is_some())
    }

    /// The block's length and first bytes.
    fn head(&self, hash: &BlockHash) -> Result<Option<BlockHead>>;

    /// All stored bytes.
    fn get(&self, hash: &BlockHash) -> Result<Option<Vec<u8>>> {
        let Some(head) = self.head(hash)? else {
            return Ok(None);
        };
        let mut bytes = vec![0; head.len];
        Ok(self.read(hash, 0, &mut bytes)?.then_some(bytes))
    }

    /// Fills `out` with the stored bytes from `offset`; false when the block isn't here.
    ///
    /// # Errors
    /// [`crate::Error::Damaged`] when the block is shorter than that.
    fn read(&self, hash: &BlockHash, offset: usize, out: &mut [u8]) -> Result<bool>;

    /// Stores a block, unless it is here: it is with the operating system when this returns.
    fn put(&self, hash: &BlockHash, bytes: &[u8]) -> Result<()> {
        if self.contains(hash)? { Ok(()) } else { self.put_many(&[(*hash, bytes)]) }
    }

    /// Stores blocks that are probably new, in one go. Storing one again is only a waste of space.
    fn put_many(&self, blocks: &[(BlockHash, &[u8])]) -> Result<()>;

    /// Puts a block aside that turned out to be damaged, so that it can be put again.
    fn set_aside(&self, hash: &BlockHash) -> Result<()>;

    /// Looks again at the blocks that were put aside and takes those back that are whole now (a disk may fail for a
    /// while). Returns how many.
    fn reconsider(&self) -> Result<u64> {
        Ok(0)
    }

    /// The names and heads of up to `limit` blocks, in the order of their names, from `from` on.
    fn names(&self, from: &BlockHash, limit: usize) -> Result<Vec<(BlockHash, BlockHead)>>;

    /// Forgets blocks that nobody needs any more. Their room comes back with [`Self::give_back`].
    fn remove(&self, hashes: &[BlockHash]) -> Result<()>;

    /// Gives the room of removed blocks back to the disk, in small steps with `pace` between them, until that is false.
    fn give_back(&self, pace: &mut dyn FnMut() -> bool) -> Result<()>;

    /// Whether blocks are put aside: what they lead to can't be known.
    fn has_aside(&self) -> Result<bool> {
        Ok(false)
    }

    /// Makes everything put before durable against power loss.
    fn sync(&self) -> Result<()>;

    /// What names everything put so far, for [`Self::are_here`]; `None` when all of it is synced.
    fn unsynced(&self) -> Result<Option<Vec<u8>>>;

    /// After a crash: whether everything is here that was put before [`Self::unsynced`] gave `mark`.
    fn are_here(&self, mark: &[u8]) -> Result<bool>;
}

#[derive(Default)]
struct State {
    blocks: BTreeMap<BlockHash, Vec<u8>>,
    unsynced: BTreeSet<BlockHash>,
    puts: u64,
    /// Puts beyond this one were lost with the power.
    lost_from: Option<u64>,
    synced_puts: u64,
    /// Blocks that may still be put before the "disk" is full.
    remaining: Option<usize>,
    syncs: u64,
}

/// A [`BlockStore`] in memory, for tests and simulations.
#[derive(Default)]
pub struct MemoryBlocks {
    state: Mutex<State>,
}

impl MemoryBlocks {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets what was put since the last sync: power loss.
    pub fn lose_power(&self) {
        let state = &mut *self.state.lock();
        for hash in std::mem::take(&mut state.unsynced) {
            state.blocks.remove(&hash);
        }
        state.lost_from.get_or_insert(state.synced_puts);
    }

    /// Forgets one block, as a cache that evicts it would.
    pub fn evict(&self, hash: &BlockHash) -> bool {
        self.state.lock().blocks.remove(hash).is_some()
    }

    /// Flips a bit of a block, as an old disk does.
    pub fn damage(&self, hash: &BlockHash) {
        if let Some(byte) = self.state.lock().blocks.get_mut(hash).and_then(|bytes| bytes.last_mut()) {
            *byte ^= 1;
        }
    }

    /// Lets this many more blocks in, then has no space; `None` makes room.
    pub fn fill_after(&self, blocks: Option<usize>) {
        self.state.lock().remaining = blocks;
    }

    /// The names of all blocks and list nodes.
    pub fn names(&self) -> Vec<BlockHash> {
        self.state.lock().blocks.keys().copied().collect()
    }

    /// How often [`BlockStore::sync`] was called.
    pub fn syncs(&self) -> u64 {
        self.state.lock().syncs
    }
}

impl BlockStore for MemoryBlocks {
    fn head(&self, hash: &BlockHash) -> Result<Option<BlockHead>> {
        Ok(self.state.lock().blocks.get(hash).map(|bytes| BlockHead::of(bytes)))
    }

    fn read(&self, hash: &BlockHash, offset: usize, out: &mut [u8]) -> Result<bool> {
        let state = self.state.lock();
        let Some(bytes) = state.blocks.get(hash) else {
            return Ok(false);
        };
        let range = bytes.get(offset..).and_then(|rest| rest.get(..out.len()));
        out.copy_from_slice(range.ok_or(io::Error::from(io::ErrorKind::UnexpectedEof))?);
        Ok(true)
    }

    fn put_many(&self, blocks: &[(BlockHash, &[u8])]) -> Result<()> {
        let state = &mut *self.state.lock();
        if let Some(remaining) = &mut state.remaining {
            *remaining = remaining.checked_sub(blocks.len()).ok_or(crate::error::Error::NoSpace)?;
        }
        state.puts += 1;
        for (hash, bytes) in blocks {
            if state.blocks.insert(*hash, bytes.to_vec()).is_none() {
                state.unsynced.insert(*hash);
            }
        }
        Ok(())
    }

    fn set_aside(&self, hash: &BlockHash) -> Result<()> {
        self.evict(hash);
        Ok(())
    }

    fn names(&self, from: &BlockHash, limit: usize) -> Result<Vec<(BlockHash, BlockHead)>> {
        let state = self.state.lock();
        Ok(state.blocks.range(from..).take(limit).map(|(hash, bytes)| (*hash, BlockHead::of(bytes))).collect())
    }

    fn remove(&self, hashes: &[BlockHash]) -> Result<()> {
        let state = &mut *self.state.lock();
        for hash in hashes {
            state.blocks.remove(hash);
            state.unsynced.remove(hash);
        }
        Ok(())
    }

    fn give_back(&self, _: &mut dyn FnMut() -> bool) -> Result<()> {
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        let state = &mut *self.state.lock();
        state.unsynced.clear();
        state.syncs += 1;
        state.synced_puts = state.puts;
        state.lost_from = None;
        Ok(())
    }

    fn unsynced(&self) -> Result<Option<Vec<u8>>> {
        let state = self.state.lock();
        Ok((state.puts > state.synced_puts).then(|| state.puts.to_le_bytes().to_vec()))
    }

    fn are_here(&self, mark: &[u8]) -> Result<bool> {
        let mark = mark.try_into().map(u64::from_le_bytes).map_err(|_| crate::Error::damaged("a mark of blocks"))?;
        Ok(self.state.lock().lost_from.is_none_or(|lost| mark <= lost))
    }
}
