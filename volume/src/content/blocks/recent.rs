//! Blocks opened lately: who reads a file in small pieces shall not have each block opened once a piece.

use std::{num::NonZeroUsize, sync::Arc};

use crypto::KeyId;
use lru::LruCache;

use crate::content::{BlockHash, KeyRing};

/// Plain blocks kept: 8 MiB of them.
const PLAIN_BLOCKS: usize = 128;
/// Blocks whose reading in pieces is followed.
const STREAMS: usize = 32;

pub(super) struct Recent {
    /// With the keys that they were opened with: of a patch, its own and its base's.
    plain: LruCache<BlockHash, ([KeyId; 2], Arc<Vec<u8>>)>,
    /// Up to where each block was read last.
    ends: LruCache<BlockHash, usize>,
}

impl Recent {
    pub(super) fn new() -> Self {
        let cache = |entries| NonZeroUsize::new(entries).expect("a positive constant");
        Self { plain: LruCache::new(cache(PLAIN_BLOCKS)), ends: LruCache::new(cache(STREAMS)) }
    }

    /// The block's plain bytes, for who could also open it: a content that merely names a block gives no right to it.
    pub(super) fn find(&mut self, hash: &BlockHash, keys: &KeyRing) -> Option<Arc<Vec<u8>>> {
        let (needed, plain) = self.plain.get(hash)?;
        needed.iter().all(|key| keys.find(*key).is_some()).then(|| plain.clone())
    }

    /// Whether a read of a part of the block begins where the last one ended; remembers where this one ends.
    pub(super) fn goes_on(&mut self, hash: &BlockHash, from: usize, len: usize) -> bool {
        self.ends.put(*hash, from + len) == Some(from)
    }

    pub(super) fn keep(&mut self, hash: BlockHash, keys: [KeyId; 2], plain: Vec<u8>) {
        self.plain.put(hash, (keys, Arc::new(plain)));
    }
}
