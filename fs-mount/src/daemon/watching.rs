//! What looks at everything that is done, beside it: who changes very many files, whether this machine's clock is turned, and
//! whether its store still is what was written.

use std::{
    sync::{Arc, atomic::Ordering},
    thread,
    time::{Duration, SystemTime},
};

use rustix::time::{ClockId, clock_gettime};
use volume::{
    Volume,
    audit::{Act, Op, Outcome},
    inspect::Inspector,
};

use super::{Shared, audit};
use crate::failure::{Because, Outcome as Result};

/// The pause between two looks.
const EVERY: Duration = Duration::from_secs(1);
/// A clock is turned if it goes so much faster or slower than the time since the machine was started.
const TURNED: Duration = Duration::from_secs(300);

/// Starts the thread.
pub(crate) fn spawn(shared: Arc<Shared>) -> Result<thread::JoinHandle<()>> {
    let run = move || {
        // Whoever works with files comes first.
        if let Err(e) = rustix::process::setpriority_process(Some(rustix::thread::gettid()), 10) {
            log::debug!("the priority of what watches can't be lowered: {e}");
        }
        let mut inspector =
            match (!shared.volume.is_keeper()).then(|| Inspector::new(shared.volume.clone())).transpose() {
                Ok(inspector) => inspector,
                Err(e) => {
                    log::error!("what is done to many files is not watched: {e}");
                    None
                }
            };
        let (mut clock, mut damage) = (Clock::now(), 0);
        while shared.ending.pause(EVERY) {
            if let Some(inspector) = &mut inspector {
                let found = inspector.look(&|| shared.ending.goes_on());
                if !found.is_empty() {
                    found.into_iter().for_each(|found| audit::raise(&shared.volume, found));
                    if let Err(e) = inspector.told() {
                        log::error!("what was looked at can't be noted: {e}");
                    }
                }
            }
            shared.inspected.store(inspector.as_ref().map_or(u64::MAX, Inspector::inspected), Ordering::Relaxed);
            let now = Clock::now();
            if let Some(why) = now.turned_since(&clock) {
                tell(&shared.volume, Op::Clock, why);
            }
            clock = now;
            let met = shared.volume.damage_met();
            if met > damage {
                let why = format!(
                    "{} things in its store are not what was written: the disk fails, or somebody changed them",
                    met - damage
                );
                tell(&shared.volume, Op::Verify, why);
            }
            damage = met;
        }
    };
    thread::Builder::new().name("p2pfs-watch".to_owned()).spawn(run).because(|| "starting threads".to_owned())
}

fn tell(volume: &Volume, op: Op, why: String) {
    if let Some(audit) = volume.audit() {
        audit.record(Act { outcome: Outcome::Denied(why), ..volume.own_act(op) });
    }
}

/// Tells that the audit log was cut before it was opened.
pub(crate) fn tell_cut(volume: &Volume) {
    let why = "its audit log goes less far than this device had signed: it was cut, or put back from a copy";
    tell(volume, Op::Verify, why.to_owned());
}

/// What the clock says, and for how long the machine has been running, asleep or not.
struct Clock {
    says: SystemTime,
    running: Duration,
}

impl Clock {
    fn now() -> Self {
        let running = clock_gettime(ClockId::Boottime);
        let secs = u64::try_from(running.tv_sec).unwrap_or(0);
        Self { says: SystemTime::now(), running: Duration::new(secs, u32::try_from(running.tv_nsec).unwrap_or(0)) }
    }

    fn turned_since(&self, before: &Self) -> Option<String> {
        let passed = self.running.saturating_sub(before.running);
        let expected = before.says + passed;
        let (by, how) = match self.says.duration_since(expected) {
            Ok(ahead) => (ahead, "ahead"),
            Err(behind) => (behind.duration(), "back"),
        };
        (by >= TURNED).then(|| format!("this machine's clock was turned {how} by {} minutes", by.as_secs() / 60))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_goes_with_the_machine_is_not_turned() {
        let at = |says: u64, running: u64| Clock {
            says: SystemTime::UNIX_EPOCH + Duration::from_secs(says),
            running: Duration::from_secs(running),
        };
        let before = at(1_000_000, 50);
        assert_eq!(at(1_000_001, 51).turned_since(&before), None);
        assert_eq!(at(1_036_000, 36_050).turned_since(&before), None, "it slept");
        assert_eq!(at(1_000_200, 51).turned_since(&before), None, "set right");
        assert!(at(1_003_601, 51).turned_since(&before).unwrap().contains("ahead by 60"));
        assert!(at(996_401, 51).turned_since(&before).unwrap().contains("back by 60"));
    }
}
