//! The system's clock, as the volume takes it: the only place of the program that reads one for it.

use std::time::{Duration, Instant, SystemTime};

use volume::time::Timestamp;

/// Wall time and a monotonic count since the program started.
pub(crate) struct SystemClock {
    started: Instant,
}

impl SystemClock {
    pub(crate) fn new() -> Self {
        Self { started: Instant::now() }
    }
}

impl volume::Clock for SystemClock {
    fn now(&self) -> Timestamp {
        timestamp(SystemTime::now())
    }

    fn monotonic(&self) -> Duration {
        self.started.elapsed()
    }
}

/// `time` with whole seconds rounded down, so that nanoseconds count forward before 1970 as well.
fn timestamp(time: SystemTime) -> Timestamp {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => Timestamp { secs: since.as_secs() as i64, nanos: since.subsec_nanos() },
        Err(before) => {
            let before = before.duration();
            match before.subsec_nanos() {
                0 => Timestamp { secs: -(before.as_secs() as i64), nanos: 0 },
                nanos => Timestamp { secs: -(before.as_secs() as i64) - 1, nanos: 1_000_000_000 - nanos },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_count_forward() {
        let half_before = SystemTime::UNIX_EPOCH - Duration::from_millis(500);
        let stamp = timestamp(half_before);
        assert_eq!((stamp.secs, stamp.nanos), (-1, 500_000_000));
    }
}
