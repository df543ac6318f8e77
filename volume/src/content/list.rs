//! Hash lists: the shape of the tree that leads from a content's root to its blocks.
//!
//! A list node is its children's hashes, one after the other, up to [`FAN_OUT`] of them. Nothing else is in it, so its
//! place alone (height and number of blocks below) says how long it must be.

use crate::{
    content::BlockHash,
    error::{Error, Result},
};

/// Children of a full list node.
pub const FAN_OUT: u64 = 128;
/// Bytes of a full list node.
pub const LIST_NODE_MAX: usize = FAN_OUT as usize * BlockHash::LEN;

/// How many levels of list nodes lie above `blocks` blocks: none when the root is the block itself.
pub(super) fn height(blocks: u64) -> u32 {
    let mut height = 0;
    while span(height) < blocks {
        height += 1;
    }
    height
}

/// How many blocks a full subtree of this height spans.
pub(super) fn span(height: u32) -> u64 {
    FAN_OUT.saturating_pow(height)
}

/// How many children a node of `height` has that spans `blocks` blocks.
pub(super) fn children(height: u32, blocks: u64) -> usize {
    debug_assert!(height > 0 && blocks <= span(height));
    blocks.div_ceil(span(height - 1)) as usize
}

/// Reads a list node that must have `children` children.
///
/// # Errors
/// [`Error::Damaged`] when the node isn't in the one form that its place allows.
pub(super) fn parse(bytes: &[u8], children: usize) -> Result<Vec<BlockHash>> {
    let (hashes, rest) = bytes.as_chunks::<{ BlockHash::LEN }>();
    if hashes.len() != children || !rest.is_empty() {
        return Err(Error::damaged(format!("a list node of {} bytes in a place of {children} children", bytes.len())));
    }
    let hashes: Vec<_> = hashes.iter().map(|hash| BlockHash::from_bytes(*hash)).collect();
    if hashes.iter().all(BlockHash::is_hole) {
        return Err(Error::damaged("a list node without data in place of a hole"));
    }
    Ok(hashes)
}

/// The bytes of a list node.
pub(super) fn encode(children: &[BlockHash]) -> Vec<u8> {
    children.iter().flat_map(|hash| *hash.as_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn height_follows_from_the_number_of_blocks() {
        for (blocks, expected) in [(0, 0), (1, 0), (2, 1), (128, 1), (129, 2), (16384, 2), (16385, 3), (1 << 30, 5)] {
            assert_eq!(height(blocks), expected, "{blocks} blocks");
        }
        assert_eq!(children(2, 129), 2);
        assert_eq!(children(2, 128), 1);
    }

    #[test]
    fn nodes_in_another_form_are_refused() {
        let hashes = [BlockHash::of_block(b"a"), BlockHash::HOLE];
        let bytes = encode(&hashes);
        assert_eq!(parse(&bytes, 2).unwrap(), hashes);
        for (bytes, children) in [(&bytes[..], 1), (&bytes[..], 3), (&bytes[..63], 2), (&[0; 64][..], 2), (&[][..], 0)]
        {
            assert!(matches!(parse(bytes, children), Err(Error::Damaged(_))));
        }
    }
}
