//! How far a send is, how quick it is, and how long it takes yet.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// The rate is that of so long until now, looked at so often.
const WINDOW: Duration = Duration::from_secs(5);
const STEP: Duration = Duration::from_millis(200);

#[derive(Debug, Default)]
pub(super) struct Meter {
    done: AtomicU64,
    resumed: AtomicU64,
    samples: Mutex<VecDeque<(Instant, u64)>>,
}

impl Meter {
    /// So much of it was there when it began.
    pub(super) fn begin(&self, resumed: u64, now: Instant) {
        self.resumed.store(resumed, Ordering::Relaxed);
        self.done.store(resumed, Ordering::Relaxed);
        *self.samples.lock() = VecDeque::from([(now, resumed)]);
    }

    /// So much is there now.
    pub(super) fn set(&self, done: u64, now: Instant) {
        self.done.store(done, Ordering::Relaxed);
        let mut samples = self.samples.lock();
        if samples.back().is_some_and(|(at, _)| now.saturating_duration_since(*at) < STEP) {
            return;
        }
        samples.push_back((now, done));
        while samples.len() > 2 && samples.get(1).is_some_and(|(at, _)| now.saturating_duration_since(*at) > WINDOW) {
            samples.pop_front();
        }
    }

    pub(super) fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    pub(super) fn resumed(&self) -> u64 {
        self.resumed.load(Ordering::Relaxed)
    }

    /// Bytes in a second, once that can be told.
    pub(super) fn rate(&self, now: Instant) -> Option<u64> {
        let samples = self.samples.lock();
        let (at, before) = samples.front()?;
        let passed = now.saturating_duration_since(*at);
        let more = self.done().saturating_sub(*before);
        (passed >= STEP).then(|| (more as f64 / passed.as_secs_f64()) as u64)
    }
}

/// How long so much takes at this rate.
pub(super) fn seconds_left(left: u64, rate: Option<u64>) -> Option<u64> {
    rate.filter(|rate| *rate > 0).map(|rate| left.div_ceil(rate))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_last_seconds() {
        let meter = Meter::default();
        let start = Instant::now();
        let at = |tenths: u32| start + Duration::from_millis(100) * tenths;
        assert_eq!(meter.rate(start), None);
        meter.begin(1000, start);
        assert_eq!((meter.rate(start), meter.resumed()), (None, 1000));
        (1..=100).for_each(|n| meter.set(1000 + u64::from(n) * 10, at(n)));
        let rate = meter.rate(at(100)).unwrap();
        assert!((95..=105).contains(&rate), "{rate}");
        let standing = meter.rate(at(1100)).unwrap();
        assert!(standing < 10, "{standing}");
        assert_eq!(
            (seconds_left(1001, Some(100)), seconds_left(5, Some(0)), seconds_left(5, None)),
            (Some(11), None, None)
        );
    }
}
