//! All fuzz targets in one program: `P2PFS_FUZZ_TARGET` names the one to run. `scripts/fuzz` builds and runs it.
//!
//! Beside not panicking, no input may make a decoder hold more memory than its target allows: a length that a stranger
//! states must never be believed. With `P2PFS_FUZZ_SEEDS=DIR` it writes the target's seeds, real bytes made by the
//! product, into that folder and ends.

#![no_main]

#[path = "../../../volume/tests/common/mod.rs"]
mod common;
mod input;
mod sample;
mod targets;

use std::{env, fs, path::Path, process, sync::OnceLock};

use libfuzzer_sys::fuzz_target;
use peak_alloc::PeakAlloc;

use targets::{TARGETS, Target};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

static TARGET: OnceLock<&'static Target> = OnceLock::new();

/// The target to run; ends the program where it was only asked for seeds.
fn chosen() -> &'static Target {
    let name = env::var("P2PFS_FUZZ_TARGET").unwrap_or_default();
    let Some(target) = TARGETS.iter().find(|target| target.name == name) else {
        let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
        eprintln!("set P2PFS_FUZZ_TARGET to one of: {}", names.join(" "));
        process::exit(2);
    };
    if let Ok(folder) = env::var("P2PFS_FUZZ_SEEDS") {
        write_seeds(target, Path::new(&folder));
        process::exit(0);
    }
    target
}

fn write_seeds(target: &Target, folder: &Path) {
    fs::create_dir_all(folder).expect("the folder for the seeds can be made");
    for (number, seed) in (target.seeds)().iter().enumerate() {
        fs::write(folder.join(format!("seed-{number:03}")), seed).expect("a seed can be written");
    }
}

fuzz_target!(init: {
    TARGET.get_or_init(chosen);
}, |data: &[u8]| {
    let target = TARGET.get_or_init(chosen);
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    (target.run)(data);
    let held = MEMORY.peak_usage().saturating_sub(before);
    let allowed = target.memory + 64 * data.len();
    assert!(held <= allowed, "{held} bytes held for an input of {}, at most {allowed} are allowed", data.len());
});
