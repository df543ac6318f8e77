//! Runs seeds until stopped, and tells which go wrong, how to repeat them and how quickly it goes.

use std::{
    io::Write,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Parser;
use simulation::{Counts, Options, Outcome, STEPS, run, shortest};

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
    /// Stop at the first that goes wrong, and don't look for the least of it.
    #[arg(long)]
    first: bool,
    /// With --seed: tell only what came of it.
    #[arg(long)]
    quiet: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let options =
        |seed| Options { seed, steps: arguments.steps, replicas: arguments.replicas, loud: arguments.seed.is_some() };
    if arguments.seed.is_none() {
        // What panics is told in the line of its seed; where, when that is run alone.
        std::panic::set_hook(Box::new(|_| {}));
    }
    if let Some(seed) = arguments.seed {
        let outcome = run(&Options { loud: !arguments.quiet, ..options(seed) });
        println!("seed {seed}: trace {:016x}, {} commits", outcome.trace, outcome.commits);
        table(&outcome.counts, 1);
        return match &outcome.violation {
            Some(_) => report(&options(seed), &outcome),
            None => ExitCode::SUCCESS,
        };
    }
    let (mut told, mut next_table) = (Instant::now(), 1000);
    let mut all = Tally { began: told, done: 0, failed: 0, passed: Duration::ZERO, counts: Counts::default() };
    for seed in (arguments.from..).take(arguments.count.map_or(usize::MAX, |count| count as usize)) {
        let outcome = run(&options(seed));
        all.done += 1;
        all.passed += outcome.passed;
        all.counts.join(&outcome.counts);
        if outcome.violation.is_some() {
            all.failed += 1;
            if arguments.first {
                println!("seed {seed} FAILS: {}", outcome.violation.as_deref().unwrap_or_default());
                return ExitCode::FAILURE;
            }
            report(&options(seed), &outcome);
        }
        if told.elapsed() > Duration::from_secs(5) {
            told = Instant::now();
            all.tell(seed);
            // Whoever stops it has seen how often what happened.
            if all.done >= next_table {
                table(&all.counts, all.done);
                next_table *= 2;
            }
        }
    }
    table(&all.counts, all.done);
    all.tell(arguments.from + all.done.saturating_sub(1));
    if all.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What came of all seeds so far.
struct Tally {
    began: Instant,
    done: u64,
    failed: u64,
    /// Simulated time.
    passed: Duration,
    counts: Counts,
}

impl Tally {
    fn tell(&self, seed: u64) {
        let seconds = self.began.elapsed().as_secs_f64().max(0.001);
        let (rate, hours) = (self.done as f64 / seconds, self.passed.as_secs_f64() / 3600.0);
        println!(
            "{} seeds, {rate:.1} a second; {hours:.0} simulated hours, {:.0} a second; {} failed; now at {seed}",
            self.done,
            hours / seconds,
            self.failed
        );
        let _ = std::io::stdout().flush();
    }
}

/// How often what happened.
fn table(counts: &Counts, seeds: u64) {
    println!("how often what happened, in {seeds} seeds:");
    for (what, times) in counts.iter() {
        println!("  {times:>9}  {what}");
    }
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
