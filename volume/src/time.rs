//! Time as files carry it, and the clock that is handed in: nothing in this crate reads one.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A moment, as POSIX files carry it: nanoseconds count up from `secs`, also before 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Timestamp {
    /// Seconds since 1970-01-01T00:00:00Z.
    pub secs: i64,
    /// 0 to 999,999,999.
    pub nanos: u32,
}

impl Timestamp {
    /// The moment so long before, in whole seconds.
    pub(crate) fn before(self, by: std::time::Duration) -> Self {
        Self { secs: self.secs.saturating_sub_unsigned(by.as_secs()), nanos: self.nanos }
    }

    /// Whether the nanoseconds are in range.
    pub fn is_valid(&self) -> bool {
        self.nanos < 1_000_000_000
    }

    /// This moment and `duration` more.
    pub fn plus(self, duration: Duration) -> Timestamp {
        let nanos = self.nanos + duration.subsec_nanos();
        let secs = self.secs.saturating_add_unsigned(duration.as_secs());
        Timestamp { secs: secs.saturating_add(i64::from(nanos / 1_000_000_000)), nanos: nanos % 1_000_000_000 }
    }
}

/// The clocks a volume is given.
pub trait Clock: Send + Sync {
    /// Wall clock. May jump; orders nothing, only dates.
    fn now(&self) -> Timestamp;
    /// Time since some fixed moment; never goes back.
    fn monotonic(&self) -> Duration;
}
