//! What nobody waits for: history that is no longer kept goes now and then, and the blocks that only it needed.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};
use serde::{Deserialize, Serialize};

use volume::audit::Kind;

use super::Shared;
use crate::failure::{Because, Failure, Outcome};

/// After mounting: whoever only looks something up isn't troubled.
const FIRST_AFTER: Duration = Duration::from_secs(10 * 60);
/// From then on.
const EVERY: Duration = Duration::from_secs(6 * 3600);
/// Without anything gone from history, blocks are looked through this often: writers that were killed leave some.
const BLOCKS_EVERY: Duration = Duration::from_secs(24 * 3600);
/// The pause after each small step, which takes a fraction of a millisecond.
const PAUSE: Duration = Duration::from_millis(2);

/// What was done.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Done {
    /// Rows of the history that went.
    pub(crate) rows: u64,
    /// Moments kept of the time of which not everything is.
    pub(crate) moments: usize,
    /// Bytes of blocks that only history needs.
    pub(crate) history_bytes: u64,
    /// Bytes given back.
    pub(crate) freed_bytes: u64,
}

/// Whether the daemon ends, and who wakes the thread for that.
#[derive(Default)]
pub(crate) struct Ending {
    ending: Mutex<bool>,
    changed: Condvar,
}

impl Ending {
    /// Has what runs stop after its next step.
    pub(crate) fn begin(&self) {
        *self.ending.lock() = true;
        self.changed.notify_all();
    }

    /// Has those who wait for something look again.
    pub(crate) fn look(&self) {
        drop(self.ending.lock());
        self.changed.notify_all();
    }

    /// Waits until something is so; false when the daemon ends.
    pub(crate) fn wait_for(&self, is_so: impl Fn() -> bool) -> bool {
        let mut ending = self.ending.lock();
        while !*ending && !is_so() {
            self.changed.wait(&mut ending);
        }
        !*ending
    }

    /// Whether the daemon isn't ending.
    pub(crate) fn goes_on(&self) -> bool {
        !*self.ending.lock()
    }

    /// Waits so long; false when the daemon ends.
    pub(crate) fn pause(&self, time: Duration) -> bool {
        let mut ending = self.ending.lock();
        self.changed.wait_while_for(&mut ending, |ending| !*ending, time);
        !*ending
    }
}

/// Starts the thread that does it now and then.
pub(crate) fn spawn(shared: Arc<Shared>) -> Outcome<thread::JoinHandle<()>> {
    let run = move || {
        let mut due = FIRST_AFTER;
        let mut blocks_at = None;
        while shared.ending.pause(due) {
            due = EVERY;
            match tidy(&shared, PAUSE, &mut blocks_at) {
                Ok(done) if done.rows + done.freed_bytes > 0 => {
                    log::info!("{} rows of history dropped, {} bytes given back", done.rows, done.freed_bytes);
                }
                Ok(_) => {}
                Err(e) => log::warn!("giving back what is no longer kept: {e}"),
            }
        }
    };
    thread::Builder::new().name("p2pfs-upkeep".to_owned()).spawn(run).because(|| "starting threads".to_owned())
}

/// Does it now, for somebody who waits.
pub(crate) fn now(shared: &Shared) -> Outcome<Done> {
    tidy(shared, Duration::ZERO, &mut None)
}

fn tidy(shared: &Shared, pause: Duration, blocks_at: &mut Option<Instant>) -> Outcome<Done> {
    let volume = &shared.volume;
    note_who_is_in_step(shared)?;
    let is_alarmed = || volume.open_alerts().is_ok_and(|open| open.contains_key(&Kind::MassChange));
    // (Also what is raised meanwhile ends it.)
    let pace =
        &mut || !is_alarmed() && if pause.is_zero() { shared.ending.goes_on() } else { shared.ending.pause(pause) };
    let failed = || "dropping what is no longer kept".to_owned();
    let keep = volume.retention().because(failed)?;
    let pinned = volume.snapshot_arrivals().because(failed)?;
    if !volume.clock_is_steady().because(failed)? {
        return Err(Failure::new("this machine's date has jumped: nothing of history is dropped for a day"));
    }
    if is_alarmed() {
        return Err(Failure::new(
            "somebody changed very many files (`p2pfs alerts`): nothing of history is dropped until that is acknowledged",
        ));
    }
    let mut thinned = volume.thin(&keep, &pinned, false, pace).because(failed)?;
    let mut done = Done { rows: thinned.rows, moments: thinned.moments, ..Done::default() };
    let due = blocks_at.is_none_or(|at| at.elapsed() >= BLOCKS_EVERY);
    if done.rows == 0 && !due {
        return Ok(done);
    }
    loop {
        let reclaimed = volume.reclaim(pace).because(failed)?;
        if !reclaimed.finished {
            return Err(Failure::new("it was cut short: it goes on the next time"));
        }
        done.history_bytes = reclaimed.history_bytes;
        done.freed_bytes += reclaimed.freed_bytes;
        // What is kept whole, and what has a name, is kept whatever room it takes.
        if done.history_bytes <= keep.budget.bytes(disk(shared)) || thinned.moments <= pinned.len() {
            break;
        }
        let moments = thinned.moments;
        thinned = volume.thin(&keep, &pinned, true, pace).because(failed)?;
        if thinned.moments >= moments {
            break;
        }
        done.rows += thinned.rows;
        done.moments = thinned.moments;
    }
    *blocks_at = Some(Instant::now());
    Ok(done)
}

/// Bytes of the disk that the volume is kept on.
fn disk(shared: &Shared) -> u64 {
    rustix::fs::statvfs(shared.dir.path()).map_or(u64::MAX, |disk| disk.f_blocks.saturating_mul(disk.f_frsize))
}

/// What these have seen removed, they won't bring back.
fn note_who_is_in_step(shared: &Shared) -> Outcome<()> {
    let arrival = shared.volume.last_arrival();
    let peers = shared.network.connected();
    let in_step: Vec<_> = peers.iter().filter(|peer| peer.progress.in_step).map(|peer| peer.device).collect();
    shared.volume.note_in_step(&in_step, arrival).because(|| "noting who is in step".to_owned())
}
