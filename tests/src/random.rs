//! Random numbers that can be had again: a failing run prints its seed.

use std::time::{SystemTime, UNIX_EPOCH};

/// SplitMix64: small, and good enough to choose instants and make bytes that don't compress.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The sequence of `P2PFS_TEST_SEED`, else a new one; prints how to have it again.
    pub fn seeded() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let seed = crate::setting("P2PFS_TEST_SEED", now.as_nanos() as u64 % 1_000_000);
        println!("P2PFS_TEST_SEED={seed}");
        Self(seed)
    }

    /// The sequence of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.draw() % limit
    }

    /// `len` bytes that don't compress.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend_from_slice(&self.draw().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }
}
