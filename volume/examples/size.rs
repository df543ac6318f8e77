//! What a volume's size costs: makes one with as many files as wanted, and measures what is done in it.
//! `scripts/bench` runs it; it knows the volume alone, not the mount.
//!
//!     size make DIR FILES     a volume in DIR with so many files of 1 KiB, 1000 to a directory
//!     size measure DIR        prints what calls take in it, as one line of JSON
//!     size past DIR           the same of looking at what was, after some thousands of changes
//!     size sync DIR           the same of replication with a peer that has nothing of it yet

#![allow(clippy::unwrap_used, reason = "what fails here ends the measurement")]

#[path = "../benches/on_disk/mod.rs"]
mod on_disk;

use std::{
    env, fs,
    path::Path,
    process::{self, ExitCode},
    thread,
    time::{Duration, Instant},
};

use crypto::VolumeId;
use on_disk::{Connection, Replica};
use p2pfs_volume::{Ino, RenameMode, deleted::WasDirectory};

const IN_A_DIRECTORY: usize = 1000;
/// How often the volume is opened anew.
const OPENS: usize = 9;
/// Of one file, each time.
const CHANGES: usize = 40;
/// After a first sync.
const PAUSE: Duration = Duration::from_secs(20);
const BODY: [u8; 1024] = [7; 1024];

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["make", dir, files] => make(Path::new(dir), files.parse().unwrap()),
        ["measure", dir] => measure(Path::new(dir)),
        ["past", dir] => past(Path::new(dir)),
        ["sync", dir] => sync(Path::new(dir)),
        _ => {
            eprintln!("usage: size make DIR FILES | size measure DIR | size past DIR | size sync DIR");
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
    let (files, id) = made(dir);
    let whole = files.div_ceil(IN_A_DIRECTORY) - usize::from(!files.is_multiple_of(IN_A_DIRECTORY));
    let path = |at: usize| (format!("d{}", at / IN_A_DIRECTORY), format!("f{}", at % IN_A_DIRECTORY));
    let find = |alice: &Replica, at: usize| {
        let (directory, name) = path(at);
        let home = alice.volume.lookup(Ino::ROOT, directory.as_bytes()).unwrap().ino;
        alice.volume.lookup(home, name.as_bytes()).unwrap();
    };
    let list = |alice: &Replica, directory: usize| {
        let home = alice.volume.lookup(Ino::ROOT, format!("d{directory}").as_bytes()).unwrap().ino;
        assert!(alice.list(home) >= IN_A_DIRECTORY);
    };
    let reopened = || Replica::opened(&dir.join("alice"), 1, id);

    // What is in no cache of this program: each time in a volume just opened.
    let (mut opens, mut first_lookups, mut first_lists) = (Vec::new(), Vec::new(), Vec::new());
    for i in 0..OPENS {
        let begun = Instant::now();
        let alice = reopened();
        opens.push(begun.elapsed());
        first_lookups.extend(samples(1, |_| find(&alice, (i * 7919 + 389) % files)));
        alice.close();
        let alice = reopened();
        first_lists.extend(samples(1, |_| list(&alice, (i * 31 + 7) % whole)));
        alice.close();
    }
    let alice = reopened();
    let memory_open = resident();

    // A directory that is in memory.
    let near = |i: usize| whole / 2 * IN_A_DIRECTORY + i % IN_A_DIRECTORY;
    (0..2 * IN_A_DIRECTORY).for_each(|i| find(&alice, near(i)));
    let lookups = samples(IN_A_DIRECTORY, |i| find(&alice, near(i)));
    let lists = {
        (0..3).for_each(|_| list(&alice, whole / 2));
        samples(20, |_| list(&alice, whole / 2))
    };
    // All over the volume, more than is ever kept in memory.
    let wide_lookups = samples(2000, |i| find(&alice, i * 7919 % files));
    let wide_lists = samples(20, |i| list(&alice, i * 31 % whole));

    let home = alice.directory(Ino::ROOT, &format!("new of {}", process::id()));
    let creates = samples(200, |i| {
        alice.file(home, &format!("f{i}"), &BODY);
    });
    println!(
        "{{\"open_ms\": {}, \"first_lookup_us\": {}, \"lookup_us\": {}, \"wide_lookup_us\": {}, \"first_list_ms\": {}, \
         \"list_ms\": {}, \"wide_list_ms\": {}, \"create_us\": {}, \"memory_open_mib\": {}, \"memory_used_mib\": {}}}",
        median(opens) * 1e3,
        median(first_lookups) * 1e6,
        median(lookups) * 1e6,
        median(wide_lookups) * 1e6,
        median(first_lists) * 1e3,
        median(lists) * 1e3,
        median(wide_lists) * 1e3,
        median(creates) * 1e6,
        memory_open,
        resident(),
    );
    alice.close();
}

/// Of a directory whose files were all written over, a quarter of them also moved, and a quarter removed; and of files that
/// were written over again and again, in place and by renaming others over them.
fn past(dir: &Path) {
    let (files, id) = made(dir);
    let whole = files.div_ceil(IN_A_DIRECTORY) - usize::from(!files.is_multiple_of(IN_A_DIRECTORY));
    let (changed, saved) = (format!("d{}", whole / 2), format!("d{}", whole / 3));
    let reopened = || Replica::opened(&dir.join("alice"), 1, id);
    let alice = reopened();
    let before = alice.volume.settled_arrival().unwrap();
    let home = alice.volume.lookup(Ino::ROOT, changed.as_bytes()).unwrap().ino;
    for i in 0..IN_A_DIRECTORY {
        let name = format!("f{i}");
        alice.overwritten(home, &name, &BODY);
        match i % 4 {
            0 => alice.volume.unlink(home, name.as_bytes()).unwrap(),
            1 => {
                let moved = format!("moved {i}");
                alice.volume.rename(home, name.as_bytes(), Ino::ROOT, moved.as_bytes(), RenameMode::Replace).unwrap();
            }
            _ => {}
        }
        alice.volume.commit_now().unwrap();
    }
    let home = alice.volume.lookup(Ino::ROOT, saved.as_bytes()).unwrap().ino;
    for i in 0..IN_A_DIRECTORY {
        alice.overwritten(home, "f1", &BODY);
        alice.volume.commit_now().unwrap();
        alice.file(home, &format!("new {i}"), &BODY);
        alice.volume.commit_now().unwrap();
        let new = format!("new {i}");
        alice.volume.rename(home, new.as_bytes(), home, b"f2", RenameMode::Replace).unwrap();
        alice.volume.commit_now().unwrap();
    }
    alice.close();

    let list = |alice: &Replica, directory: &str| {
        let root = alice.volume.past(before).unwrap();
        let then = alice.volume.lookup(root, directory.as_bytes()).unwrap().ino;
        assert_eq!(alice.list(then), IN_A_DIRECTORY + 2);
    };
    let of = |name: &'static str| [saved.as_bytes(), name.as_bytes()];
    let gone = |alice: &Replica, directory: &str| alice.volume.deleted(&[directory.as_bytes()]).unwrap().len();
    let count = |alice: &Replica, name: &'static str| alice.volume.versions(&of(name)).unwrap().len();
    let mut told = Vec::new();
    let mut measure = |what: &str, run: &dyn Fn(&Replica)| {
        let mut first = Vec::new();
        for _ in 0..OPENS {
            let alice = reopened();
            first.extend(samples(1, |_| run(&alice)));
            alice.close();
        }
        let alice = reopened();
        run(&alice);
        let again = median(samples(20, |_| run(&alice)));
        alice.close();
        told.push(format!("\"first_{what}_ms\": {}, \"{what}_ms\": {again}", median(first) * 1e3, again = again * 1e3));
    };
    measure("past_list", &|alice| list(alice, "d0"));
    measure("past_list_of_changed", &|alice| list(alice, &changed));
    measure("past_list_of_saved_in", &|alice| list(alice, &saved));
    measure("versions_of_few", &|alice| assert_eq!(count(alice, "f3"), 1));
    measure("versions_of_1000_written", &|alice| assert_eq!(count(alice, "f1"), IN_A_DIRECTORY + 1));
    measure("versions_of_1000_replaced", &|alice| assert_eq!(count(alice, "f2"), IN_A_DIRECTORY + 1));
    measure("deleted_of_none", &|alice| assert_eq!(gone(alice, "d0"), 0));
    measure("deleted_of_500", &|alice| assert_eq!(gone(alice, &changed), IN_A_DIRECTORY / 2));
    measure("deleted_listing", &|alice| {
        let ino = alice.volume.lookup(Ino::ROOT, changed.as_bytes()).unwrap().ino;
        let entries = alice.volume.read_deleted(WasDirectory { ino, gone: None }, 0, usize::MAX).unwrap();
        assert_eq!(entries.len(), IN_A_DIRECTORY / 4);
    });
    measure("deleted_listing_of_top", &|alice| {
        let entries = alice.volume.read_deleted(WasDirectory::ROOT, 0, usize::MAX).unwrap();
        assert_eq!(entries.len(), 2);
    });
    println!("{{{}}}", told.join(", "));
}

fn sync(dir: &Path) {
    let (files, id) = made(dir);
    let alice = Replica::opened(&dir.join("alice"), 1, id);
    let changed = format!("changes of {}", process::id());
    let home = alice.directory(Ino::ROOT, &changed);
    let bob = Replica::admitted(&dir.join("bob"), 2, &alice);
    let begun = Instant::now();
    let connection = Connection::between(&alice, &bob);
    connection.settle();
    let first_sync = begun.elapsed();
    let memory = peak();
    let last = files - 1;
    let there = bob.volume.lookup(Ino::ROOT, format!("d{}", last / IN_A_DIRECTORY).as_bytes()).unwrap().ino;
    bob.volume.lookup(there, format!("f{}", last % IN_A_DIRECTORY).as_bytes()).unwrap();
    let there = bob.volume.lookup(Ino::ROOT, changed.as_bytes()).unwrap().ino;
    let changes = |first: usize| {
        let change = |i: usize| {
            let name = format!("change{}", first + i);
            alice.file(home, &name, &BODY);
            alice.volume.commit_now().unwrap();
            connection.settle();
            bob.volume.lookup(there, name.as_bytes()).unwrap();
        };
        median(samples(CHANGES, change)) * 1e3
    };
    // At once, and when the new peer's store has put in order what came.
    let at_once = changes(0);
    thread::sleep(PAUSE);
    let later = changes(CHANGES);
    println!(
        "{{\"first_sync_per_s\": {}, \"early_change_ms\": {}, \"change_ms\": {}, \"memory_sync_mib\": {}}}",
        files as f64 / first_sync.as_secs_f64(),
        at_once,
        later,
        memory,
    );
    bob.close();
    alice.close();
}

/// How many files there are, and in which volume.
fn made(dir: &Path) -> (usize, VolumeId) {
    let files = fs::read_to_string(dir.join("files")).unwrap().parse().unwrap();
    (files, VolumeId::from_bytes(fs::read(dir.join("id")).unwrap().try_into().unwrap()))
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
    memory("VmRSS:")
}

/// MiB of this process that were in memory at most.
fn peak() -> u64 {
    memory("VmHWM:")
}

fn memory(what: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(what)).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}
