//! File contents: what a file's bytes are, how they are cut into blocks, kept, read and changed.
//!
//! Owns: the content value ([`Content`]), the block store of this device ([`Packs`]), the hash lists that lead from a
//! root to blocks, reading ([`Blocks`]) and the branch of a file that is being written ([`Draft`]). Does not own:
//! which content is a file's current one, who may read it, or how blocks come from other devices.
//!
//! Invariants:
//! - A block's name is the hash of all its stored bytes, a patch's and a list node's the hash of theirs under labels of
//!   their own; what is in the block store was checked against its name when it was put there.
//! - Where a list has a block it may have a patch: some units of the block's bytes, and the name of the full plain block
//!   that has the others. Whoever needs a patch needs that block as well; a patch over another patch is damage.
//! - Every block of a file but the last spans [`BLOCK_SIZE`] bytes of it. A stored block may hold fewer plain bytes
//!   than it spans: the rest reads as zeros. So a file grows without its old last block being sealed again, and an honest
//!   writer's blocks hold zeros past the end of the file.
//! - A list has one form only for given blocks: the height follows from their number, each node has exactly the
//!   children of its place, and a subtree without data is the hole.

mod block_store;
mod blocks;
mod draft;
mod key_ring;
mod list;
mod packs;
mod tree;

#[cfg(test)]
mod fixture;

/// What [`crate::fuzzing`] reaches of this module's private decoders.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing {
    use super::{BlockHash, list};
    use crate::error::Result;

    pub(crate) use super::{
        draft::{draft_keys, recode_changes as draft_changes, recode_head as draft_head},
        packs::{recode_point as synced_point, recode_row as block_row},
    };

    /// A whole patch.
    pub(crate) fn patch(bytes: &[u8]) -> Result<Vec<u8>> {
        let header = super::PatchHeader::parse_whole(bytes);
        let header = header.map_err(|_| crate::Error::damaged("a patch in no form that sealing gives"))?;
        Ok([&header.encode(), &bytes[crypto::PATCH_HEADER_SIZE..]].concat())
    }

    /// A list node of as many children as its length says.
    pub(crate) fn list_node(bytes: &[u8]) -> Result<Vec<u8>> {
        let children = (bytes.len() / BlockHash::LEN).clamp(1, list::FAN_OUT as usize);
        Ok(list::encode(&list::parse(bytes, children)?))
    }
}

use std::fmt;

use crypto::{BLOCK_SIZE, Hash, Label, PatchHeader, is_patch, plain_len};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

pub use block_store::{BlockHead, BlockStore, MemoryBlocks};
pub use blocks::Blocks;
pub(crate) use blocks::{is_base, short};
pub use draft::Draft;
pub(crate) use draft::logged_base;
pub use key_ring::{KeyRing, RingKey};
pub use list::{FAN_OUT, LIST_NODE_MAX};
pub use packs::{Packs, Recovery};

/// The longest content that is kept as the bytes themselves; a longer one is always cut into blocks.
///
/// Measured: a save of 8 KiB with an fsync needs one sync of the disk instead of two, and what is in the commit needs no
/// record of a block, no list of what to fetch, and no second way across.
pub const INLINE_MAX: usize = 16 << 10;
/// Contents of up to this many bytes never were cut into blocks.
const NEVER_CUT: u64 = 4096;
/// The longest file.
pub const MAX_FILE_SIZE: u64 = 1 << 46;

const BLOCK: u64 = BLOCK_SIZE as u64;

crypto::define_id! {
    /// The name of a stored block or list node: the hash of its bytes. All zeros stands for a hole.
    pub struct BlockHash, 32
}

impl BlockHash {
    /// No block: reads as zeros.
    pub const HOLE: BlockHash = BlockHash::ZERO;

    /// Whether this is [`BlockHash::HOLE`].
    pub fn is_hole(&self) -> bool {
        *self == Self::HOLE
    }

    /// The name of a stored block.
    pub fn of_block(stored: &[u8]) -> Self {
        Self::from_bytes(*Hash::of_bytes(Label::BlockHash, stored).as_bytes())
    }

    /// The name of a stored patch.
    pub fn of_patch(stored: &[u8]) -> Self {
        Self::from_bytes(*Hash::of_bytes(Label::PatchHash, stored).as_bytes())
    }

    /// The name of a list node.
    pub fn of_list(node: &[u8]) -> Self {
        Self::from_bytes(*Hash::of_bytes(Label::ListHash, node).as_bytes())
    }
}

/// What stored bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockKind {
    /// A sealed block.
    Block,
    /// Sealed units laid over a block.
    Patch {
        /// The block below.
        base: BlockHash,
    },
    /// A list node.
    List,
}

impl BlockKind {
    /// What bytes are that are called `name`; `None` when they don't bear it, or are in a form that nothing stored has.
    pub fn of(name: &BlockHash, bytes: &[u8]) -> Option<Self> {
        // What begins as a patch is taken for one when it is read, so it is no block under any name.
        if is_patch(bytes)
            && let Ok(header) = PatchHeader::parse_whole(bytes)
        {
            let patch = Self::Patch { base: BlockHash::from_bytes(*header.base()) };
            return (BlockHash::of_patch(bytes) == *name).then_some(patch);
        }
        let may_be_list =
            !bytes.is_empty() && bytes.len() <= LIST_NODE_MAX && bytes.len().is_multiple_of(BlockHash::LEN);
        if may_be_list && BlockHash::of_list(bytes) == *name {
            return Some(Self::List);
        }
        // A stored block is no longer than a full one: `plain_len` refuses other lengths.
        let may_be_block = !is_patch(bytes) && plain_len(bytes.len()).is_ok();
        (may_be_block && BlockHash::of_block(bytes) == *name).then_some(Self::Block)
    }
}

/// The contents of a file: its bytes, or where they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// The file's length in bytes.
    pub size: u64,
    /// How many of these bytes lie in blocks that are not holes.
    pub allocated: u64,
    /// The bytes, or the way to them.
    pub data: ContentData,
}

/// The bytes of a file, or the way to them.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContentData {
    /// The bytes themselves, at most [`INLINE_MAX`].
    Inline(#[serde(with = "serde_bytes")] Vec<u8>),
    /// The hash list over the blocks.
    Tree {
        /// The list's root; the only block's own hash when there is but one.
        root: BlockHash,
        /// How many blocks the file spans, holes included.
        blocks: u64,
    },
}

impl fmt::Debug for ContentData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // No byte of a file ever reaches a log.
        match self {
            Self::Inline(bytes) => write!(f, "Inline({} bytes)", bytes.len()),
            Self::Tree { root, blocks } => f.debug_struct("Tree").field("root", root).field("blocks", blocks).finish(),
        }
    }
}

impl Content {
    /// The content of an empty file.
    pub fn empty() -> Self {
        Self::inline(Vec::new())
    }

    fn inline(bytes: Vec<u8>) -> Self {
        debug_assert!(bytes.len() <= INLINE_MAX);
        let size = bytes.len() as u64;
        Self { size, allocated: size, data: ContentData::Inline(bytes) }
    }

    /// Checks a content that came from elsewhere: whether size, blocks and bytes fit together.
    ///
    /// # Errors
    /// [`Error::Damaged`] when no honest writer makes such a content.
    pub fn validate(&self) -> Result<()> {
        let sound = match &self.data {
            ContentData::Inline(bytes) => {
                bytes.len() <= INLINE_MAX && bytes.len() as u64 == self.size && self.allocated == self.size
            }
            ContentData::Tree { root, blocks } => {
                let tail = self.allocated % BLOCK;
                self.size > NEVER_CUT
                    && self.size <= MAX_FILE_SIZE
                    && *blocks == blocks_of(self.size)
                    && self.allocated <= self.size
                    && (tail == 0 || tail == self.size % BLOCK)
                    && root.is_hole() == (self.allocated == 0)
            }
        };
        if sound { Ok(()) } else { Err(Error::damaged("a content whose size, blocks and bytes disagree")) }
    }
}

/// How many blocks a file of `size` bytes spans.
fn blocks_of(size: u64) -> u64 {
    size.div_ceil(BLOCK)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(size: u64, allocated: u64, data: ContentData, sound: bool) {
        let content = Content { size, allocated, data };
        assert_eq!(content.validate().is_ok(), sound, "{content:?}");
    }

    #[test]
    fn contents_that_contradict_themselves_are_refused() {
        let root = BlockHash::of_block(b"x");
        let tree = |root, blocks| ContentData::Tree { root, blocks };
        check(0, 0, ContentData::Inline(vec![]), true);
        check(3, 3, ContentData::Inline(vec![1, 2, 3]), true);
        check(4, 4, ContentData::Inline(vec![1, 2, 3]), false);
        check(3, 9, ContentData::Inline(vec![1, 2, 3]), false);
        check(16_384, 16_384, ContentData::Inline(vec![0; 16_384]), true);
        check(16_385, 16_385, ContentData::Inline(vec![0; 16_385]), false);
        check(4097, 4097, tree(root, 1), true);
        check(4096, 4096, tree(root, 1), false);
        check(BLOCK + 1, BLOCK, tree(root, 2), true);
        check(BLOCK + 1, 1, tree(root, 2), true);
        check(BLOCK + 1, 2, tree(root, 2), false);
        check(BLOCK + 1, BLOCK + 1, tree(root, 1), false);
        check(BLOCK + 1, BLOCK + 2, tree(root, 2), false);
        check(BLOCK, 0, tree(BlockHash::HOLE, 1), true);
        check(BLOCK, BLOCK, tree(BlockHash::HOLE, 1), false);
        check(MAX_FILE_SIZE, BLOCK, tree(root, 1 << 30), true);
        check(MAX_FILE_SIZE + 1, BLOCK, tree(root, (1 << 30) + 1), false);
    }

    #[test]
    fn no_byte_of_a_file_shows_in_debug_output() {
        let text = format!("{:?}", Content::inline(b"secret".to_vec()));
        assert!(text.contains("6 bytes") && !text.contains("115"), "{text}");
    }
}
