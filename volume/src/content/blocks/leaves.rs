//! Blocks looked up by their index in a hash list.

use std::sync::Arc;

use crate::{
    content::{
        BlockHash, Blocks,
        list::{children, height, span},
    },
    error::Result,
};

/// Looks blocks up by index, at its best when they follow one another.
pub(in crate::content) struct Leaves<'a> {
    blocks: &'a Blocks,
    root: BlockHash,
    count: u64,
    /// The lowest list node used last, and its first block.
    last: Option<(u64, Arc<[BlockHash]>)>,
}

impl<'a> Leaves<'a> {
    pub(in crate::content) fn new(blocks: &'a Blocks, root: BlockHash, count: u64) -> Self {
        Self { blocks, root, count, last: None }
    }

    /// The block at `index`, a hole past the end.
    pub(in crate::content) fn at(&mut self, index: u64) -> Result<BlockHash> {
        if index >= self.count {
            return Ok(BlockHash::HOLE);
        }
        if let Some((first, node)) = &self.last
            && let Some(hash) = index.checked_sub(*first).and_then(|at| node.get(at as usize))
        {
            return Ok(*hash);
        }
        let (mut hash, mut first, mut count) = (self.root, 0, self.count);
        for height in (1..=height(self.count)).rev() {
            if hash.is_hole() {
                return Ok(hash);
            }
            let node = self.blocks.list_node(&hash, children(height, count))?;
            let step = span(height - 1);
            let child = (index - first) / step;
            hash = node[child as usize];
            if height == 1 {
                self.last = Some((first, node));
            }
            first += child * step;
            count = (count - child * step).min(step);
        }
        Ok(hash)
    }
}
