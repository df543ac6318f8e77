//! Every choice of a simulation, drawn from its seed.

use crypto::{Entropy, SeededEntropy, random_array};

/// A sequence of choices. Two of one seed are the same for ever: the generator is frozen by a test in `crypto`.
pub(crate) struct Lot(SeededEntropy);

impl Lot {
    /// Starts the sequence of `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        Self(SeededEntropy::new(seed))
    }

    /// Any number.
    pub(crate) fn number(&self) -> u64 {
        u64::from_le_bytes(random_array(&self.0))
    }

    /// A number under `end`; 0 when that is 0.
    pub(crate) fn below(&self, end: usize) -> usize {
        (self.number() % end.max(1) as u64) as usize
    }

    /// True in `per_mille` of a thousand cases.
    pub(crate) fn chance(&self, per_mille: usize) -> bool {
        self.below(1000) < per_mille
    }

    /// One of `items`.
    pub(crate) fn pick<'a, T>(&self, items: &'a [T]) -> Option<&'a T> {
        items.get(self.below(items.len()))
    }

    /// One of `items`, each as often as its weight says.
    pub(crate) fn weighted<T: Copy>(&self, items: &[(usize, T)]) -> Option<T> {
        let mut left = self.below(items.iter().map(|(weight, _)| weight).sum());
        for (weight, item) in items {
            if left < *weight {
                return Some(*item);
            }
            left -= weight;
        }
        None
    }

    /// Flips one bit.
    pub(crate) fn spoil(&self, bytes: &mut [u8]) {
        if !bytes.is_empty() {
            bytes[self.below(bytes.len())] ^= 1 << self.below(8);
        }
    }

    /// Fills `bytes`.
    pub(crate) fn fill(&self, bytes: &mut [u8]) {
        self.0.fill(bytes);
    }
}
