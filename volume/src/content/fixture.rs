//! What the tests of this module share.

use std::sync::Arc;

use crypto::{SeededEntropy, SymmetricKey};

use crate::{
    content::{Blocks, Content, Draft, KeyRing, MemoryBlocks},
    memory_store::MemoryStore,
    sealed_store::SealedStore,
};

/// Blocks in memory, and the store below them.
pub(super) fn memory() -> (Arc<MemoryBlocks>, Blocks) {
    let store = Arc::new(MemoryBlocks::new());
    (store.clone(), Blocks::new(store, Arc::new(SeededEntropy::new(1))))
}

/// A sealed store in memory, and the one below it.
pub(super) fn sealed() -> (Arc<MemoryStore>, SealedStore) {
    let store = Arc::new(MemoryStore::new());
    let secret = SymmetricKey::from_bytes([7; 32]);
    (store.clone(), SealedStore::new(store, &secret, Arc::new(SeededEntropy::new(2))))
}

pub(super) fn node_key(n: u8) -> SymmetricKey {
    SymmetricKey::from_bytes([n; 32])
}

pub(super) fn ring(n: u8) -> KeyRing {
    KeyRing::new(node_key(n))
}

/// Bytes that differ from block to block and from seed to seed, none of them zero.
pub(super) fn bytes(seed: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|i| ((i.wrapping_mul(31) ^ (i >> 8) ^ seed.wrapping_mul(97)) % 255 + 1) as u8).collect()
}

/// A finished file with these bytes.
pub(super) fn content(blocks: &Blocks, keys: &KeyRing, bytes: &[u8]) -> Content {
    let mut draft = Draft::new(blocks.clone(), Content::empty(), keys.clone());
    draft.write(0, bytes).unwrap();
    draft.finish().unwrap()
}

/// All bytes of a content.
pub(super) fn read_all(blocks: &Blocks, keys: &KeyRing, content: &Content) -> Vec<u8> {
    let mut out = Vec::new();
    blocks.read(content, keys, 0, content.size as usize, &mut out).unwrap();
    out
}
