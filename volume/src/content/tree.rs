//! Hash lists changed: a new root from an old one, writing only the list nodes on the way to what changed.

use std::{collections::BTreeMap, ops::Range};

use crate::{
    content::{
        BlockHash, Blocks,
        list::{children, encode, height, span},
    },
    error::{Error, Result},
};

/// Returns the root of a list that spans `new_blocks` blocks: those of the old list (which spans `old_blocks`), with
/// `changes` laid over them and holes where neither says anything. Changes past the end are ignored.
///
/// # Errors
/// [`Error::Absent`] with a list node on the way that isn't on this device.
pub(super) fn update(
    blocks: &Blocks,
    root: BlockHash,
    old_blocks: u64,
    new_blocks: u64,
    changes: &BTreeMap<u64, BlockHash>,
) -> Result<BlockHash> {
    if new_blocks == 0 {
        return Ok(BlockHash::HOLE);
    }
    let (mut root, mut old_height, mut old_blocks) = (root, height(old_blocks), old_blocks);
    while old_height > height(new_blocks) {
        // All that remains lies below the first child.
        if !root.is_hole() {
            root = blocks.list_node(&root, children(old_height, old_blocks))?[0];
        }
        old_height -= 1;
        old_blocks = old_blocks.min(span(old_height));
    }
    let mut update = Update { blocks, changes, old_height, nodes: Vec::new() };
    let root = update.subtree(height(new_blocks), 0, root, old_blocks, new_blocks)?;
    blocks.put_lists(update.nodes)?;
    Ok(root)
}

struct Update<'a> {
    blocks: &'a Blocks,
    changes: &'a BTreeMap<u64, BlockHash>,
    /// Height of the old list. The new one may be higher: then the old root is its leftmost node of that height.
    old_height: u32,
    nodes: Vec<(BlockHash, Vec<u8>)>,
}

impl Update<'_> {
    /// The new subtree of `height` from block `first` on, of `new` blocks; `hash` is the old one, of `old` blocks
    /// (the old root still when the new list is higher).
    fn subtree(&mut self, height: u32, first: u64, hash: BlockHash, old: u64, new: u64) -> Result<BlockHash> {
        let changed = self.changes.range(first..first + new).next().is_some();
        if !changed && (hash.is_hole() || old == new && height <= self.old_height) {
            return Ok(hash);
        }
        if height == 0 {
            return Ok(*self.changes.get(&first).unwrap_or(&hash));
        }
        let old_children = if hash.is_hole() {
            Vec::new()
        } else if height > self.old_height {
            vec![hash]
        } else {
            self.blocks.list_node(&hash, children(height, old))?.to_vec()
        };
        let span = span(height - 1);
        let mut hashes = Vec::with_capacity(children(height, new));
        for child in 0..children(height, new) as u64 {
            let start = child * span;
            let old_child = old_children.get(child as usize).copied().unwrap_or(BlockHash::HOLE);
            let (old, new) = (old.saturating_sub(start).min(span), (new - start).min(span));
            hashes.push(self.subtree(height - 1, first + start, old_child, old, new)?);
        }
        Ok(node(&hashes, &mut self.nodes))
    }
}

/// Returns the root after all blocks in `range` became holes.
///
/// # Errors
/// As [`update`].
pub(super) fn clear(blocks: &Blocks, root: BlockHash, count: u64, range: Range<u64>) -> Result<BlockHash> {
    fn subtree(
        blocks: &Blocks,
        height: u32,
        own: Range<u64>,
        hash: BlockHash,
        range: &Range<u64>,
        nodes: &mut Vec<(BlockHash, Vec<u8>)>,
    ) -> Result<BlockHash> {
        if hash.is_hole() || range.end <= own.start || range.start >= own.end {
            return Ok(hash);
        }
        if range.start <= own.start && range.end >= own.end {
            return Ok(BlockHash::HOLE);
        }
        let old = blocks.list_node(&hash, children(height, own.end - own.start))?;
        let mut hashes = Vec::with_capacity(old.len());
        for (child, own) in old.iter().zip(child_ranges(height, own)) {
            hashes.push(subtree(blocks, height - 1, own, *child, range, nodes)?);
        }
        Ok(node(&hashes, nodes))
    }
    let mut nodes = Vec::new();
    let root = subtree(blocks, height(count), 0..count, root, &range, &mut nodes)?;
    blocks.put_lists(nodes)?;
    Ok(root)
}

/// The first block from `from` on that is data (or, with `data` false, a hole).
///
/// # Errors
/// As [`update`].
pub(super) fn next(blocks: &Blocks, root: BlockHash, count: u64, from: u64, data: bool) -> Result<Option<u64>> {
    fn subtree(
        blocks: &Blocks,
        height: u32,
        own: Range<u64>,
        hash: BlockHash,
        from: u64,
        data: bool,
    ) -> Result<Option<u64>> {
        if own.end <= from || hash.is_hole() && data {
            return Ok(None);
        }
        if hash.is_hole() || height == 0 {
            return Ok((hash.is_hole() != data).then_some(own.start.max(from)));
        }
        let node = blocks.list_node(&hash, children(height, own.end - own.start))?;
        for (child, own) in node.iter().zip(child_ranges(height, own)) {
            if let Some(found) = subtree(blocks, height - 1, own, *child, from, data)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
    subtree(blocks, height(count), 0..count, root, from, data)
}

/// How many blocks in `range` are data. What lies below list nodes that aren't on this device counts as data.
pub(super) fn count_data(blocks: &Blocks, root: BlockHash, count: u64, range: Range<u64>) -> Result<u64> {
    fn subtree(blocks: &Blocks, height: u32, own: Range<u64>, hash: BlockHash, range: &Range<u64>) -> Result<u64> {
        let shared = own.start.max(range.start)..own.end.min(range.end);
        if hash.is_hole() || shared.is_empty() {
            return Ok(0);
        }
        if height == 0 {
            return Ok(1);
        }
        let node = match blocks.list_node(&hash, children(height, own.end - own.start)) {
            Err(Error::Absent(_)) => return Ok(shared.end - shared.start),
            node => node?,
        };
        let mut count = 0;
        for (child, own) in node.iter().zip(child_ranges(height, own)) {
            count += subtree(blocks, height - 1, own, *child, range)?;
        }
        Ok(count)
    }
    subtree(blocks, height(count), 0..count, root, &range)
}

/// The blocks below each child of a node of `height` that spans the blocks `own`.
fn child_ranges(height: u32, own: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let step = span(height - 1);
    (own.start..own.end).step_by(step as usize).map(move |start| start..(start + step).min(own.end))
}

/// A node with these children: the hole when all are, else one of `nodes` to be stored.
fn node(children: &[BlockHash], nodes: &mut Vec<(BlockHash, Vec<u8>)>) -> BlockHash {
    if children.iter().all(BlockHash::is_hole) {
        return BlockHash::HOLE;
    }
    let bytes = encode(children);
    let hash = BlockHash::of_list(&bytes);
    nodes.push((hash, bytes));
    hash
}

#[cfg(test)]
mod tests;
