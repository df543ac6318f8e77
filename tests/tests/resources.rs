//! Things that run out or break under a running daemon: disk space, the disk itself, file descriptors. Programs get an
//! error that they understand, nothing acknowledged is lost, and once the cause is gone everything goes on without help.

#![allow(clippy::unwrap_used, reason = "whatever fails here fails the test")]

use std::{
    fs::{self, File},
    io::{self, Write},
    sync::atomic::{AtomicUsize, Ordering},
};

use p2pfs_tests::{
    history::look,
    patience::eventually,
    peer::Peer,
    random::Random,
    setting,
    tool::run,
    workload::{Workload, close},
};

/// How many calls apart the faults are that are tried.
fn fault_step() -> u64 {
    setting("P2PFS_TEST_FAULT_STEP", 17)
}

/// Works, with the call `at` of the daemon failing (and all later ones, when `lasting`); then the cause goes away.
fn work_with_fault(peer: &mut Peer, at: u64, errno: i32, lasting: bool) {
    let what = format!("error {errno} at call {at}{}", if lasting { " and after" } else { "" });
    peer.mount();
    let moment = AtomicUsize::new(1);
    let mut workload = Workload::new(peer.root(), move || moment.fetch_add(1, Ordering::Relaxed)).unwrap();
    let mut steps = Random::new(at);
    peer.faults().fail_at(at, errno, lasting);
    let mut failed = None;
    for _ in 0..40 {
        match workload.step(&mut steps) {
            Ok(()) => workload.acknowledged(),
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
    }
    let _ = workload.rest();
    if let Some(error) = &failed {
        let told = [libc::EIO, libc::ENOSPC].map(Some);
        assert!(told.contains(&error.raw_os_error()), "{what}: {error}");
    }
    assert!(!peer.is_dead(), "{what}: the daemon lives");
    // What was acknowledged reads on, whatever can't be written.
    peer.faults().heal();
    let write = || -> io::Result<()> {
        fs::write(peer.at("after"), [5; 100_000])?;
        File::open(peer.at("after"))?.sync_all()
    };
    eventually(&format!("{what}: it goes on"), || write().map_err(|e| e.to_string()));
    let after = look(peer.root()).unwrap_or_else(|e| panic!("{what}: {e}"));
    let without = |mut state: p2pfs_tests::history::State| {
        state.remove("after");
        state
    };
    workload.history.place(usize::MAX, &without(after)).unwrap_or_else(|e| panic!("{what}: {e}"));
    peer.kill9();
    peer.mount();
    // What could not be stored at its last close may have been by now.
    let again = without(look(peer.root()).unwrap_or_else(|e| panic!("{what}: {e}")));
    workload.history.place(usize::MAX, &again).unwrap_or_else(|e| panic!("{what}, after a restart: {e}"));
    for entry in fs::read_dir(peer.root()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
    }
    peer.unmount();
}

fn sweep(errno: i32, lasting: bool) {
    let mut random = Random::seeded();
    let mut peer = Peer::alone();
    peer.unmount();
    peer.with_faults();
    let step = fault_step();
    let points: Vec<u64> = (1 + random.below(step)..120).step_by(usize::try_from(step).unwrap()).collect();
    for at in points {
        work_with_fault(&mut peer, at, errno, lasting);
    }
}

#[test]
fn one_failing_write_or_sync_costs_no_more_than_that_call() {
    sweep(libc::EIO, false);
}

#[test]
fn a_disk_that_fails_for_a_while_is_gone_on_with() {
    sweep(libc::EIO, true);
}

#[test]
fn a_disk_that_is_full_to_the_last_byte_is_gone_on_with() {
    sweep(libc::ENOSPC, true);
}

#[test]
fn without_file_descriptors_calls_fail_and_later_go_on() {
    let mut peer = Peer::alone();
    fs::write(peer.at("f"), [1; 100_000]).unwrap();
    let limit = |limit: &str| run("prlimit", ["--pid", &peer.pid().to_string(), &format!("--nofile={limit}")]);
    limit("8:");
    // It can open nothing more. What was told done is done, the rest is an error.
    let mut done = Vec::new();
    for number in 0..50 {
        let path = peer.at(format!("g{number}"));
        let write = || -> io::Result<()> {
            let mut file = File::create(&path)?;
            file.write_all(&[2; 50_000])?;
            close(file)
        };
        match write() {
            Ok(()) => done.push(path),
            Err(e) => assert!([libc::EIO, libc::EMFILE].map(Some).contains(&e.raw_os_error()), "{e}"),
        }
    }
    limit("1024:");
    eventually("it goes on", || File::open(peer.at("f")).and_then(|f| f.sync_all()).map_err(|e| e.to_string()));
    peer.run(["status"]);
    peer.kill9();
    peer.mount();
    assert_eq!(fs::read(peer.at("f")).unwrap(), [1; 100_000]);
    for path in done {
        assert_eq!(fs::read(path).unwrap(), [2; 50_000]);
    }
}
