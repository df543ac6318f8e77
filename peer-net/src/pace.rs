//! How much of something a peer may send at once, and how much more each second. More is left on the wire until its time comes.

use std::time::{Duration, Instant};

/// How much may be taken in now.
#[derive(Debug)]
pub(crate) struct Pace {
    room: f64,
    at: Instant,
    at_once: f64,
    per_second: f64,
}

impl Pace {
    pub(crate) fn new(at_once: f64, per_second: f64, now: Instant) -> Self {
        Self { room: at_once, at: now, at_once, per_second }
    }

    /// How long to wait after so many more.
    pub(crate) fn took(&mut self, count: usize, now: Instant) -> Duration {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        self.room = (self.room + passed * self.per_second).min(self.at_once) - count as f64;
        Duration::from_secs_f64((-self.room / self.per_second).max(0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_sends_very_many_waits() {
        let start = Instant::now();
        let mut pace = Pace::new(500.0, 100.0, start);
        assert_eq!(pace.took(500, start), Duration::ZERO);
        assert_eq!(pace.took(50, start), Duration::from_millis(500));
        assert_eq!(pace.took(1, start + Duration::from_secs(1)), Duration::ZERO, "time passed");
        let later = start + Duration::from_secs(3600);
        assert_eq!(pace.took(600, later), Duration::from_secs(1), "nobody saves up");
    }
}
