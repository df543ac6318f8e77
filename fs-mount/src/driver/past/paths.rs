//! Paths whose versions are shown, by number.
//!
//! A number follows from the one above and the name, so that it is the same each time while the daemon runs; it is kept
//! here while the kernel has it. Two paths of one number are as likely as two random numbers of 60 bits.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

use parking_lot::Mutex;
use volume::{Error, Result};

const BITS: u64 = (1 << 60) - 1;
/// The number of the empty path.
pub(super) const TOP: u64 = 0;

/// A name below another.
struct Step {
    above: Option<Arc<Step>>,
    number: u64,
    name: Vec<u8>,
}

/// The paths that the kernel knows.
#[derive(Default)]
pub(super) struct Paths {
    /// So that nobody can choose names that get one number.
    random: RandomState,
    known: Mutex<HashMap<u64, (Arc<Step>, u64)>>,
}

impl Paths {
    /// The number of a name below another path.
    pub(super) fn below(&self, above: u64, name: &[u8]) -> u64 {
        (self.random.hash_one((above, name)) & BITS).max(1)
    }

    /// Counts that the kernel was told of a name below another path.
    pub(super) fn remember(&self, above: u64, name: &[u8]) -> Result<()> {
        let number = self.below(above, name);
        let mut known = self.known.lock();
        let above = match above {
            TOP => None,
            above => Some(known.get(&above).ok_or(Error::NotFound)?.0.clone()),
        };
        match known.entry(number) {
            Entry::Occupied(mut known) => {
                let (step, count) = known.get_mut();
                if step.name != name || step.above.as_ref().map(|step| step.number) != above.map(|step| step.number) {
                    return Err(Error::NotFound);
                }
                *count += 1;
            }
            Entry::Vacant(new) => {
                new.insert((Arc::new(Step { above, number, name: name.to_vec() }), 1));
            }
        }
        Ok(())
    }

    /// Takes back `times` such counts.
    pub(super) fn forget(&self, number: u64, times: u64) {
        if let Entry::Occupied(mut known) = self.known.lock().entry(number) {
            let count = &mut known.get_mut().1;
            *count = count.saturating_sub(times);
            if *count == 0 {
                known.remove();
            }
        }
    }

    /// The names that lead to a number.
    pub(super) fn names(&self, number: u64) -> Result<Vec<Vec<u8>>> {
        let mut names = Vec::new();
        let mut at = match number {
            TOP => None,
            number => Some(self.known.lock().get(&number).ok_or(Error::NotFound)?.0.clone()),
        };
        while let Some(step) = at {
            names.push(step.name.clone());
            at = step.above.clone();
        }
        names.reverse();
        Ok(names)
    }

    /// The number above another.
    pub(super) fn above(&self, number: u64) -> u64 {
        let known = self.known.lock();
        known.get(&number).and_then(|(step, _)| step.above.as_ref()).map_or(TOP, |above| above.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_known_as_long_as_the_kernel_knows_them() {
        let paths = Paths::default();
        let a = paths.below(TOP, b"a");
        let b = paths.below(a, b"b");
        paths.remember(TOP, b"a").unwrap();
        paths.remember(a, b"b").unwrap();
        paths.remember(a, b"b").unwrap();
        // In whatever order the kernel forgets them.
        paths.forget(a, 1);
        assert!(paths.names(a).is_err());
        paths.forget(b, 1);
        assert_eq!(paths.names(b).unwrap(), [b"a".to_vec(), b"b".to_vec()]);
        assert_eq!((paths.above(b), paths.above(a)), (a, TOP));
        paths.forget(b, 1);
        assert!(paths.names(b).is_err() && paths.known.lock().is_empty());
        assert_eq!(paths.below(TOP, b"a"), a);
        assert_eq!(paths.names(TOP).unwrap(), Vec::<Vec<u8>>::new());
    }
}
