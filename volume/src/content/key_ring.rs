//! The keys that a file's blocks open with.

use std::sync::{Arc, OnceLock};

use crypto::{DerivingKey, KeyId, Label, SymmetricKey};

/// A node key with the block key derived from it, once that is needed: small files have no blocks.
#[derive(Clone, Debug)]
pub struct RingKey {
    node: DerivingKey,
    block: OnceLock<(KeyId, SymmetricKey)>,
}

impl RingKey {
    fn new(node: DerivingKey) -> Self {
        Self { node, block: OnceLock::new() }
    }

    fn block(&self) -> &(KeyId, SymmetricKey) {
        self.block.get_or_init(|| {
            let key = self.node.derive(Label::BlockKey);
            (key.id(), key)
        })
    }

    /// The id that blocks sealed under this key carry.
    pub fn id(&self) -> KeyId {
        self.block().0
    }

    /// The node key itself.
    pub fn node_key(&self) -> &SymmetricKey {
        self.node.key()
    }

    /// The key that seals the blocks.
    pub fn block_key(&self) -> &SymmetricKey {
        &self.block().1
    }
}

/// The node keys of one file's blocks: the current one, which seals, and earlier or foreign ones, which only open
/// (blocks from before access was narrowed, or shared by a copy). Cheap to clone.
#[derive(Clone, Debug)]
pub struct KeyRing(Arc<Vec<RingKey>>);

impl KeyRing {
    /// A ring with the key that seals from now on.
    pub fn new(current: impl Into<DerivingKey>) -> Self {
        Self(Arc::new(vec![RingKey::new(current.into())]))
    }

    /// Has another key seal from now on; the one before only opens.
    pub fn seal_under(&mut self, node_key: impl Into<DerivingKey>) {
        let key = RingKey::new(node_key.into());
        if self.current().node_key() != key.node_key() {
            let keys = Arc::make_mut(&mut self.0);
            keys.retain(|known| known.node_key() != key.node_key());
            keys.insert(0, key);
        }
    }

    /// Adds a key that only opens; nothing happens when it is there already.
    pub fn add(&mut self, node_key: impl Into<DerivingKey>) {
        self.join(RingKey::new(node_key.into()));
    }

    /// The key that seals.
    pub fn current(&self) -> &RingKey {
        self.0.first().expect("a ring is made with its current key")
    }

    /// The key whose blocks carry `id`.
    pub fn find(&self, id: KeyId) -> Option<&RingKey> {
        self.0.iter().find(|key| key.id() == id)
    }

    /// The keys that only open.
    pub fn others(&self) -> &[RingKey] {
        &self.0[1..]
    }

    /// Adds every key of another ring.
    pub(super) fn join_all(&mut self, other: &KeyRing) {
        for key in other.0.iter() {
            self.join(key.clone());
        }
    }

    /// Drops the keys that only open.
    pub(super) fn keep_current(&mut self) {
        if self.0.len() > 1 {
            Arc::make_mut(&mut self.0).truncate(1);
        }
    }

    fn join(&mut self, key: RingKey) {
        if self.0.iter().all(|known| known.node_key() != key.node_key()) {
            Arc::make_mut(&mut self.0).push(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_finds_each_key_by_the_id_its_blocks_carry() {
        let [a, b] = [1, 2].map(|n| SymmetricKey::from_bytes([n; 32]));
        let mut ring = KeyRing::new(&a);
        ring.add(&b);
        ring.add(&a);
        ring.add(&b);
        assert_eq!(ring.others().len(), 1);
        let id = b.derive(Label::BlockKey, b"").id();
        assert_eq!(ring.find(id).map(|key| key.node_key()), Some(&b));
        assert_eq!(ring.current().node_key(), &a);
        assert!(ring.find(b.id()).is_none());
        ring.seal_under(&b);
        assert_eq!((ring.current().node_key(), ring.others().len()), (&b, 1));
        assert_eq!(ring.find(a.derive(Label::BlockKey, b"").id()).map(|key| key.node_key()), Some(&a));
    }
}
