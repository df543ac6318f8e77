//! What a volume's size costs: makes one with as many files as wanted, and measures what is done in it.
//! `scripts/bench` runs it; it knows the volume alone, not the mount.
//!
//!     size make DIR FILES     a volume in DIR with so many files of 1 KiB, 1000 to a directory
//!     size measure DIR        prints what was measured in it as one line of JSON

#![allow(clippy::unwrap_used, reason = "what fails here ends the measurement")]

#[path = "../benches/on_disk/mod.rs"]
mod on_disk;

use std::{
    env, fs,
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use crypto::VolumeId;
use on_disk::{Connection, Replica};
use p2pfs_volume::Ino;

const IN_A_DIRECTORY: usize = 1000;
const BODY: [u8; 1024] = [7; 1024];

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["make", dir, files] => make(Path::new(dir), files.parse().unwrap()),
        ["measure", dir] => measure(Path::new(dir)),
        _ => {
            eprintln!("usage: size make DIR FILES | size measure DIR");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

fn make(dir: &Path, files: usize) {
    let begun = Instant::now();
    let alice = Replica::founded(&dir.join("alice"), 1);
    for directory in 0..files.div_ceil(IN_A_DIRECTORY) {
        let home = alice.directory(Ino::ROOT, &format!("d{directory}"));
        for i in 0..IN_A_DIRECTORY.min(files - directory * IN_A_DIRECTORY) {
            alice.file(home, &format!("f{i}"), &BODY);
        }
    }
    fs::write(dir.join("id"), alice.volume.id().as_bytes()).unwrap();
    fs::write(dir.join("files"), files.to_string()).unwrap();
    alice.close();
    println!("{{\"made_per_s\": {}}}", files as f64 / begun.elapsed().as_secs_f64());
}

fn measure(dir: &Path) {
    let files: usize = fs::read_to_string(dir.join("files")).unwrap().parse().unwrap();
    let id = VolumeId::from_bytes(fs::read(dir.join("id")).unwrap().try_into().unwrap());
    let directories = files.div_ceil(IN_A_DIRECTORY);

    let begun = Instant::now();
    let alice = Replica::opened(&dir.join("alice"), 1, id);
    let open = begun.elapsed();
    let memory_open = resident();

    // Far apart, so that no two are neighbours in the store.
    let lookups = samples(2000, |i| {
        let at = i * 7919 % files;
        let home = alice.volume.lookup(Ino::ROOT, format!("d{}", at / IN_A_DIRECTORY).as_bytes()).unwrap().ino;
        alice.volume.lookup(home, format!("f{}", at % IN_A_DIRECTORY).as_bytes()).unwrap();
    });
    let whole = directories - usize::from(!files.is_multiple_of(IN_A_DIRECTORY));
    let lists = samples(20, |i| {
        let home = alice.volume.lookup(Ino::ROOT, format!("d{}", i * 31 % whole).as_bytes()).unwrap().ino;
        assert!(alice.list(home) >= IN_A_DIRECTORY);
    });
    let home = alice.directory(Ino::ROOT, "new");
    let creates = samples(200, |i| {
        alice.file(home, &format!("f{i}"), &BODY);
    });
    let memory_used = resident();

    let bob = Replica::admitted(&dir.join("bob"), 2, &alice);
    let begun = Instant::now();
    let connection = Connection::between(&alice, &bob);
    connection.settle();
    let first_sync = begun.elapsed();
    let last = format!("d{}", directories - 1);
    bob.volume.lookup(Ino::ROOT, last.as_bytes()).unwrap();
    let there = bob.volume.lookup(Ino::ROOT, b"new").unwrap().ino;
    let changes = samples(20, |i| {
        let name = format!("change{i}");
        alice.file(home, &name, &BODY);
        alice.volume.commit_now().unwrap();
        connection.settle();
        bob.volume.lookup(there, name.as_bytes()).unwrap();
    });
    println!(
        "{{\"open_ms\": {}, \"lookup_us\": {}, \"list_ms\": {}, \"create_us\": {}, \"change_ms\": {}, \
         \"first_sync_per_s\": {}, \"memory_open_mib\": {}, \"memory_used_mib\": {}}}",
        open.as_secs_f64() * 1e3,
        median(lookups) * 1e6,
        median(lists) * 1e3,
        median(creates) * 1e6,
        median(changes) * 1e3,
        files as f64 / first_sync.as_secs_f64(),
        memory_open,
        memory_used,
    );
    bob.close();
    alice.close();
}

fn samples(count: usize, mut run: impl FnMut(usize)) -> Vec<Duration> {
    let timed = |i| {
        let begun = Instant::now();
        run(i);
        begun.elapsed()
    };
    (0..count).map(timed).collect()
}

/// Of the middle one, in seconds.
fn median(mut samples: Vec<Duration>) -> f64 {
    samples.sort();
    samples[samples.len() / 2].as_secs_f64()
}

/// MiB of this process that are in memory.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}
