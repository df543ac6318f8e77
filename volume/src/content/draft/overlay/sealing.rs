//! Dirty blocks sealed, and sealed ones folded into the list.

use std::{collections::BTreeMap, ops::Range};

use crypto::BLOCK_SIZE;

use crate::{
    content::{BLOCK, BlockHash, Content, ContentData, blocks_of, tree},
    error::Result,
};

use super::{Means, Overlay, Piece};

/// Filled blocks are sealed when there are this many, together.
const FILLED_GROUP: usize = 8;
/// Blocks completed and sealed together …
const GROUP: usize = 256;
/// … as long as they take no more memory than this.
const GROUP_BYTES: usize = 1 << 20;
/// Pieces are folded into the list when there are more.
const MAX_PIECES: usize = 64 << 10;

impl Overlay {
    /// Seals what is due before a write to the blocks `touched`.
    pub(super) fn make_room(&mut self, means: &Means, touched: Range<u64>) -> Result<()> {
        if self.filled.len() >= FILLED_GROUP {
            let moved_on = self.filled.iter().filter(|index| !touched.contains(index));
            let moved_on: Vec<_> = moved_on.copied().collect();
            if moved_on.len() >= FILLED_GROUP {
                self.seal(means, &moved_on)?;
            }
        }
        if self.held + 2 * BLOCK_SIZE > means.budget {
            // Down to three quarters, so that not every write has to.
            let mut left = self.held;
            let enough = self.dirty.values().take_while(|index| {
                let due = left > means.budget / 4 * 3;
                left -= self.dirty_at(**index).map_or(0, |block| block.cost());
                due
            });
            let due = enough.count().max(1);
            self.seal_oldest(means, due)?;
        }
        if self.pieces.len() > MAX_PIECES {
            self.fold(means)?;
        }
        Ok(())
    }

    /// Seals the `n` dirty blocks first written longest ago.
    pub(in crate::content::draft) fn seal_oldest(&mut self, means: &Means, n: usize) -> Result<usize> {
        let oldest: Vec<_> = self.dirty.values().take(n).copied().collect();
        self.seal(means, &oldest)?;
        Ok(oldest.len())
    }

    /// Seals these dirty blocks; those that are sealed when it fails stay so, the others stay dirty.
    fn seal(&mut self, means: &Means, indices: &[u64]) -> Result<()> {
        let size = self.size;
        let len = |index: u64| (size - index * BLOCK).min(BLOCK) as usize;
        let mut rest = indices;
        while !rest.is_empty() {
            // Each may need units from below in memory: no more at a time than is stored in one go.
            let (mut group, mut bytes) = (0, 0);
            for index in rest.iter().take(GROUP) {
                if bytes >= GROUP_BYTES {
                    break;
                }
                if let Some(Piece::Dirty(block)) = self.pieces.get_mut(index) {
                    let before = block.cost();
                    let completed = block.complete(&means.blocks, &means.keys, len(*index));
                    bytes += block.cost();
                    self.held = self.held - before + block.cost();
                    completed?;
                }
                group += 1;
            }
            let (now, later) = rest.split_at(group);
            let plains = now.iter().filter_map(|index| self.dirty_at(*index).map(|block| block.plain(len(*index))));
            let hashes = means.blocks.seal_put_many(&means.keys, plains)?;
            for (index, hash) in now.iter().zip(hashes) {
                self.replace(*index, BlockHash::HOLE, Some(hash));
            }
            rest = later;
        }
        Ok(())
    }

    /// Seals everything and brings the list up to date; returns the content.
    pub(in crate::content::draft) fn fold(&mut self, means: &Means) -> Result<Content> {
        self.seal_oldest(means, usize::MAX)?;
        let blocks = blocks_of(self.size);
        let changes = self.pieces.iter().filter_map(|(index, piece)| match piece {
            Piece::Sealed(hash) => Some((*index, *hash)),
            Piece::Dirty(_) => None,
        });
        let changes = changes.collect();
        let mut root = self.root;
        if self.visible < self.count {
            root = tree::update(&means.blocks, root, self.count, self.visible, &BTreeMap::new())?;
        }
        self.root = tree::update(&means.blocks, root, self.visible, blocks, &changes)?;
        (self.count, self.visible) = (blocks, blocks);
        self.pieces.clear();
        let allocated = match self.allocated(means) {
            _ if self.root.is_hole() => 0,
            0 => BLOCK.min(self.size),
            allocated => allocated,
        };
        self.data_blocks = allocated.div_ceil(BLOCK);
        self.full = allocated == self.size;
        Ok(Content { size: self.size, allocated, data: ContentData::Tree { root: self.root, blocks } })
    }
}
