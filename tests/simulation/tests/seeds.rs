//! Seeds that must hold: the first few hundred.
//!
//! A seed's run changes whenever the simulation does, so none is kept for what it once found; `./scripts/simulate` finds
//! new ones.

#![allow(clippy::unwrap_used, reason = "a test: what fails here is the test")]

use simulation::{Counts, Options, kinds, run};

fn holds(seed: u64) -> Counts {
    let outcome = run(&Options::new(seed));
    if let Some(violation) = outcome.violation {
        panic!("./scripts/simulate --seed {seed}\n{violation}");
    }
    outcome.counts
}

#[test]
fn a_seed_gives_the_same_trace_every_time() {
    for seed in 0..6 {
        assert_eq!(run(&Options::new(seed)), run(&Options::new(seed)), "seed {seed}");
    }
}

#[test]
fn another_seed_gives_another_trace() {
    assert_ne!(run(&Options::new(0)).trace, run(&Options::new(1)).trace);
}

#[test]
fn a_run_does_something() {
    let outcome = run(&Options::new(0));
    assert!(outcome.commits > 5 && outcome.written > 10, "{outcome:?}");
}

/// In parts, so that they run beside each other.
fn part(from: u64) {
    for seed in from..from + 100 {
        holds(seed);
    }
}

#[test]
fn whatever_may_go_wrong_does() {
    let mut counts = Counts::default();
    // As many as it takes: four hundred are more than are needed.
    let all = (0..400).any(|seed| {
        counts.join(&run(&Options::new(seed)).counts);
        kinds().iter().all(|kind| counts.get(kind) > 0)
    });
    let missing: Vec<&str> = kinds().into_iter().filter(|kind| counts.get(kind) == 0).collect();
    assert!(all, "never happened: {missing:?}");
}

#[test]
fn seeds_0_to_99_hold() {
    part(0);
}

#[test]
fn seeds_100_to_199_hold() {
    part(100);
}

#[test]
fn seeds_200_to_299_hold() {
    part(200);
}

#[test]
fn seeds_300_to_399_hold() {
    part(300);
}

#[test]
fn seven_devices_hold() {
    for seed in 0..20 {
        let outcome = run(&Options { replicas: Some(7), ..Options::new(seed) });
        assert_eq!(outcome.violation, None, "./scripts/simulate --seed {seed} --replicas 7");
    }
}
