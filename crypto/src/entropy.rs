//! Where randomness comes from: the system, or a seed in a simulation.

use std::convert::Infallible;
use std::sync::{Mutex, PoisonError};

use chacha20::ChaCha8Rng;
use rand::{Rng, SeedableRng, TryCryptoRng, TryRng};

/// A source of random bytes that nobody outside can predict.
pub trait Entropy: Send + Sync {
    /// Fills `buf` with random bytes.
    fn fill(&self, buf: &mut [u8]);

    /// Returns `N` random bytes; [`random_array`] does the same for a `dyn Entropy`.
    fn array<const N: usize>(&self) -> [u8; N]
    where
        Self: Sized,
    {
        random_array(self)
    }
}

/// Returns `N` random bytes.
pub fn random_array<const N: usize>(entropy: &dyn Entropy) -> [u8; N] {
    let mut bytes = [0; N];
    entropy.fill(&mut bytes);
    bytes
}

/// The system's randomness, stretched by a generator per thread that reseeds itself (no system call each time).
#[derive(Debug, Clone, Copy, Default)]
pub struct OsEntropy;

impl Entropy for OsEntropy {
    fn fill(&self, buf: &mut [u8]) {
        rand::rng().fill_bytes(buf);
    }
}

/// The same bytes for the same seed, for simulations and tests. Protects nothing.
pub struct SeededEntropy(Mutex<ChaCha8Rng>);

impl SeededEntropy {
    /// Starts the sequence that belongs to `seed`.
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(ChaCha8Rng::seed_from_u64(seed)))
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, buf: &mut [u8]) {
        // The generator is sound at every point, also after a panic of another holder.
        self.0.lock().unwrap_or_else(PoisonError::into_inner).fill_bytes(buf);
    }
}

/// Presents an [`Entropy`] to libraries that want `rand`'s traits.
pub(crate) struct EntropyRng<'a>(pub(crate) &'a dyn Entropy);

impl TryRng for EntropyRng<'_> {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(u32::from_le_bytes(random_array(self.0)))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(u64::from_le_bytes(random_array(self.0)))
    }

    fn try_fill_bytes(&mut self, buf: &mut [u8]) -> Result<(), Infallible> {
        self.0.fill(buf);
        Ok(())
    }
}

impl TryCryptoRng for EntropyRng<'_> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_and_another_differs() {
        let first: [u8; 32] = SeededEntropy::new(1).array();
        assert_eq!(first, SeededEntropy::new(1).array());
        assert_ne!(first, SeededEntropy::new(2).array());
    }

    /// A simulation's seed that found a bug must find it again after an update of the generator's crate.
    #[test]
    fn the_sequence_of_a_seed_is_frozen() {
        assert_eq!(SeededEntropy::new(1).array(), [177, 13, 164, 140, 234, 76, 9, 103]);
    }

    #[test]
    fn a_sequence_moves_on() {
        let entropy: &dyn Entropy = &SeededEntropy::new(1);
        assert_ne!(random_array::<16>(entropy), random_array::<16>(entropy));
    }

    #[test]
    fn the_system_does_not_repeat() {
        assert_ne!(OsEntropy.array::<16>(), OsEntropy.array::<16>());
    }
}
