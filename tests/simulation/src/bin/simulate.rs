//! Runs seeds until stopped, and tells which go wrong, how to repeat them and how quickly it goes.

use std::{
    io::Write,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Parser;
use simulation::{Options, Outcome, STEPS, run, shortest};

/// Simulates replicas with failing disks and networks and a malicious member, a seed at a time.
#[derive(Parser)]
struct Arguments {
    /// Run only this one, and tell each step.
    #[arg(long)]
    seed: Option<u64>,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// How many seeds; without it until stopped.
    #[arg(long)]
    count: Option<u64>,
    /// How many devices; without it each seed decides.
    #[arg(long)]
    replicas: Option<usize>,
    /// How many steps each seed takes.
    #[arg(long, default_value_t = STEPS)]
    steps: usize,
    /// With --seed: tell only what came of it.
    #[arg(long)]
    quiet: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let options =
        |seed| Options { seed, steps: arguments.steps, replicas: arguments.replicas, loud: arguments.seed.is_some() };
    // What panics is told in the line of its seed.
    std::panic::set_hook(Box::new(|_| {}));
    if let Some(seed) = arguments.seed {
        let outcome = run(&Options { loud: !arguments.quiet, ..options(seed) });
        println!("seed {seed}: trace {:016x}, {} commits", outcome.trace, outcome.commits);
        return match &outcome.violation {
            Some(_) => report(&options(seed), &outcome),
            None => ExitCode::SUCCESS,
        };
    }
    let (began, mut told) = (Instant::now(), Instant::now());
    let (mut done, mut failed) = (0u64, 0u64);
    for seed in (arguments.from..).take(arguments.count.map_or(usize::MAX, |count| count as usize)) {
        let outcome = run(&options(seed));
        done += 1;
        if outcome.violation.is_some() {
            failed += 1;
            report(&options(seed), &outcome);
        }
        if told.elapsed() > Duration::from_secs(5) {
            told = Instant::now();
            tell(began, done, failed, seed);
        }
    }
    tell(began, done, failed, arguments.from + done.saturating_sub(1));
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn tell(began: Instant, done: u64, failed: u64, seed: u64) {
    let rate = done as f64 / began.elapsed().as_secs_f64().max(0.001);
    println!("{done} seeds, {rate:.1} a second, {failed} failed; now at {seed}");
    let _ = std::io::stdout().flush();
}

fn report(options: &Options, outcome: &Outcome) -> ExitCode {
    let why = outcome.violation.as_deref().unwrap_or_default();
    println!("seed {} FAILS: {why}", options.seed);
    let (steps, least) = shortest(options);
    let replicas = options.replicas.map(|n| format!(" --replicas {n}")).unwrap_or_default();
    println!("  the least found: ./scripts/simulate --seed {} --steps {steps}{replicas}", options.seed);
    if least.violation != outcome.violation {
        println!("  which says: {}", least.violation.as_deref().unwrap_or_default());
    }
    let _ = std::io::stdout().flush();
    ExitCode::FAILURE
}
