//! Waiting for something to become true, with a deadline.

use std::{
    thread,
    time::{Duration, Instant},
};

/// What should take well under a second may take this long on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(10);

/// Tries `check` until it gives a value; fails the test with its last complaint when [`PATIENCE`] is over.
pub fn eventually<T>(what: &str, check: impl FnMut() -> Result<T, String>) -> T {
    within(PATIENCE, what, check)
}

/// Tries `check` until it gives a value or `limit` is over.
pub fn within<T>(limit: Duration, what: &str, mut check: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match check() {
            Ok(value) => return value,
            Err(complaint) if start.elapsed() > limit => panic!("not within {limit:?}: {what}: {complaint}"),
            Err(_) => thread::sleep(PAUSE),
        }
    }
}

/// Turns a condition into what [`eventually`] tries.
pub fn holds(condition: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if condition { Ok(()) } else { Err(otherwise()) }
}
