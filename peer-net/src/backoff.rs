//! Waiting longer after each failure, never all at the same moment.

use std::time::Duration;

use crypto::{Entropy, OsEntropy};

/// The waits between attempts: each twice the one before, within bounds, a random part of it taken off.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    first: Duration,
    last: Duration,
    next: Duration,
}

impl Backoff {
    /// Waits of `first` up to `last`.
    pub(crate) const fn new(first: Duration, last: Duration) -> Self {
        Self { first, last, next: first }
    }

    /// Starts over after a success.
    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }

    /// Returns how long to wait now: between half and all of the current step.
    pub(crate) fn next(&mut self) -> Duration {
        let step = self.next;
        self.next = (step * 2).min(self.last);
        let share = f64::from(u16::from_le_bytes(OsEntropy.array())) / f64::from(u16::MAX);
        step.mul_f64(0.5 + share / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_the_last_and_start_over() {
        let (first, last) = (Duration::from_secs(1), Duration::from_secs(60));
        let mut backoff = Backoff::new(first, last);
        let mut step = first;
        for _ in 0..10 {
            let wait = backoff.next();
            assert!(wait >= step / 2 && wait <= step, "{wait:?} of {step:?}");
            step = (step * 2).min(last);
        }
        assert_eq!(step, last);
        backoff.reset();
        assert!(backoff.next() <= first);
    }
}
