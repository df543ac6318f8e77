//! Simulated time: one that passes for all, and what each device's clock makes of it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use volume::{Clock, Timestamp};

/// Milliseconds since the simulation began. Passes only when told.
#[derive(Default)]
pub(crate) struct WorldTime(AtomicU64);

impl WorldTime {
    /// Lets time pass.
    pub(crate) fn pass(&self, time: Duration) {
        self.0.fetch_add(time.as_millis() as u64, Ordering::Relaxed);
    }

    /// How much has passed.
    pub(crate) fn passed(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed))
    }
}

/// A device's clocks: the monotonic one is right, the wall clock drifts and is off by whatever it was last set
/// to.
pub(crate) struct DeviceClock {
    world: Arc<WorldTime>,
    off_ms: AtomicI64,
    /// How much too quickly it goes, in thousandths.
    drift: AtomicI64,
}

impl DeviceClock {
    /// A clock that is right.
    pub(crate) fn new(world: Arc<WorldTime>) -> Self {
        Self { world, off_ms: AtomicI64::new(0), drift: AtomicI64::new(0) }
    }

    /// Sets the wall clock off by so much from now on.
    pub(crate) fn set_off(&self, ms: i64) {
        self.off_ms.store(ms, Ordering::Relaxed);
    }
}

impl DeviceClock {
    /// Makes the wall clock too quick or too slow from now on.
    pub(crate) fn set_drift(&self, per_mille: i64) {
        self.drift.store(per_mille, Ordering::Relaxed);
    }
}

impl Clock for DeviceClock {
    fn now(&self) -> Timestamp {
        // 2026-11-22T09:15:00Z, and what passed since.
        let passed = self.world.passed().as_millis() as i64;
        let drift = passed * self.drift.load(Ordering::Relaxed) / 1000;
        let ms = 1_795_338_900_000 + passed + drift + self.off_ms.load(Ordering::Relaxed);
        Timestamp { secs: ms.div_euclid(1000), nanos: ms.rem_euclid(1000) as u32 * 1_000_000 }
    }

    fn monotonic(&self) -> Duration {
        self.world.passed()
    }
}
