//! Deterministic simulation of several replicas: one seed decides everything that happens to them.
//!
//! A [`World`](world::World) has two to seven devices with real volumes over simulated disks, clocks and connections.
//! Users work on them; messages are late, connections break, networks part; processes are killed, power fails, disks
//! fail, fill up, flip bits and are restored from old backups; one member may be malicious, and sign as others too. While it goes on, and when
//! everything has healed and all have met, it is checked that
//!
//! - every replica shows the tree that the [reference model](model) gives for its commits, and in the end all the same;
//! - nothing that was acknowledged is gone: what `close`, `fsync` and calls on names answered survives the death of the
//!   process, what `fsync` answered also power loss;
//! - nobody is shown an older version of a file than before, also who went back to an older copy of the disk and has met
//!   the others since; a device that notices such a copy uses no number of its log twice; and no commit that was sent is lost by its sender;
//! - no store has a commit that a member did not sign, or a block that is not what its name says;
//! - honest devices take nobody honest for misbehaving, and nothing that peers say grows without end.
//!
//! In a part of the seeds rights change: modes, lists, owners, roles, removals. There the tree hangs on who looks, and
//! replicas are held against each other and against themselves in another order, instead of against the model
//! (`rights.rs`); what was taken back as its author had lost the right may go back, and need not show.
//!
//! Nothing here reads a clock, randomness, the disk or the network, and there is one thread: a seed's run can be
//! repeated. [`run`] runs one, [`shortest`] finds how much of it is needed to go wrong.

mod check;
mod clock;
mod counts;
mod device;
mod disk;
mod forger;
mod ledger;
mod lot;
mod mallory;
pub mod model;
mod rights;
mod trace;
mod user;
mod view;
mod wire;
mod world;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

pub use counts::Counts;

/// Steps of a run.
pub const STEPS: usize = 400;

/// Which run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Decides everything.
    pub seed: u64,
    /// How many steps are taken before all meet.
    pub steps: usize,
    /// How many devices there are; `None`: the seed decides.
    pub replicas: Option<usize>,
    /// Tell each step on standard error.
    pub loud: bool,
}

impl Options {
    /// The run of `seed`, as long as usual.
    pub fn new(seed: u64) -> Self {
        Self { seed, steps: STEPS, replicas: None, loud: false }
    }
}

/// What came of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Hash over everything that happened.
    pub trace: u64,
    /// How many values users wrote.
    pub written: u32,
    /// How many commits were sent.
    pub commits: usize,
    /// How much time passed in it.
    pub passed: Duration,
    /// How often what happened.
    pub counts: Counts,
    /// What must not be, if anything was.
    pub violation: Option<String>,
}

impl Outcome {
    fn failed(why: String) -> Self {
        let (passed, counts) = (Duration::ZERO, Counts::default());
        Self { trace: 0, written: 0, commits: 0, passed, counts, violation: Some(why) }
    }
}

/// What every few hundred seeds must have exercised, by the names under which it is counted.
pub fn kinds() -> Vec<&'static str> {
    let lies = forger::DEEDS.iter().map(|(_, name)| *name).chain(forger::BEYOND.iter().map(|(_, name)| *name));
    let lies = lies.chain(forger::ODD.iter().map(|(_, name)| *name));
    let lies = lies.chain(forger::APART.iter().map(|(_, name)| *name));
    lies.chain(TROUBLES).collect()
}

const TROUBLES: [&str; 60] = [
    "agreed: a snapshot was made",
    "agreed: a snapshot was removed",
    "agreed: something was set",
    "a backup that was restored is noticed",
    "an old backup was restored",
    "clock: jumped",
    "clock: set back a year",
    "clock: skewed and drifting from the start",
    "crash: killed between calls",
    "crash: killed within a call",
    "crash: power lost between calls",
    "crash: power lost within a call",
    "disk: a bit flipped",
    "disk: a block with a flipped bit was read",
    "disk: a row with a flipped bit was read",
    "disk: a write or sync failed",
    "disk: a write or sync found it full",
    "liar: asks without end",
    "liar: bears directories twice",
    "liar: breaks the rules of headers",
    "liar: equivocates",
    "liar: forges a part of a commit",
    "liar: goes back to a copy of its store",
    "liar: has tips without end",
    "liar: invites twice with one ticket",
    "liar: lies of its state",
    "liar: replaces a void value",
    "liar: replays commits",
    "liar: sends a wrong block",
    "liar: sends more at once than a device may keep",
    "liar: sends without end",
    "liar: signs as a stranger",
    "liar: tampers with a message",
    "liar: withholds a block",
    "liar: withholds a message",
    "members: a ticket redeemed at two admins",
    "members: somebody admitted",
    "members: somebody turned away",
    "network: a connection broke",
    "network: a message came twice",
    "network: a message lost on its way",
    "network: a partition",
    "network: a partition healed",
    "network: blocks came in another order",
    "network: messages came in another order",
    "power: a block lost (a torn one is none)",
    "power: batches lost (a torn one is none)",
    "replicas: 2",
    "replicas: 3",
    "replicas: 4",
    "replicas: 5",
    "replicas: 6",
    "replicas: 7",
    "rights: a device was removed",
    "rights: a group on mounts of their own",
    "rights: a mode was changed",
    "rights: a role was changed",
    "rights: a user was removed",
    "rights: an access list was set",
    "rights: something was given away",
];

/// Runs a seed.
pub fn run(options: &Options) -> Outcome {
    let run = catch_unwind(AssertUnwindSafe(|| {
        let mut world = match world::World::new(options) {
            Ok(world) => world,
            Err(world::Violation(why)) => {
                return Outcome::failed(format!("at the start: {why}"));
            }
        };
        let mut result = Ok(());
        while result.is_ok() && world.step < options.steps {
            result = world.take_step();
        }
        let violation = match result {
            Ok(()) => world.settle().err().map(|v| format!("after {} steps and all met: {}", world.step, v.0)),
            Err(violation) => Some(format!("at step {}: {}", world.step, violation.0)),
        };
        Outcome {
            trace: world.trace.hash(),
            written: world.ledger.count(),
            commits: world.overheard.len(),
            passed: world.passed(),
            counts: world.all_counts(),
            violation,
        }
    }));
    run.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Outcome::failed(format!("panic: {}", text.unwrap_or_default()))
    })
}

/// The least number of steps found after which a failing run still fails, and what came of it then.
pub fn shortest(failing: &Options) -> (usize, Outcome) {
    let fails = |steps: usize| Some(run(&Options { steps, loud: false, ..*failing })).filter(|o| o.violation.is_some());
    let (mut good, mut bad) = (0, failing.steps);
    let mut outcome = run(&Options { loud: false, ..*failing });
    while good + 1 < bad {
        let middle = good.midpoint(bad);
        match fails(middle) {
            Some(found) => (bad, outcome) = (middle, found),
            None => good = middle,
        }
    }
    (bad, outcome)
}
