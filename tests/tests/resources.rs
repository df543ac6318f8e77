//! Things that run out or break under a running daemon: disk space, the disk itself, file descriptors. Programs get an
//! error that they understand, nothing acknowledged is lost, and once the cause is gone everything goes on without help.

use std::{
    fs::{self, File},
    io::{self, Write},
    process::Stdio,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use p2pfs_tests::{
    history::look,
    patience::eventually,
    peer::Peer,
    process,
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
        // A full quota is told as a full disk by what keeps blocks.
        let told = [errno, if errno == libc::EDQUOT { libc::ENOSPC } else { errno }].map(Some);
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
fn a_quota_that_is_used_up_is_gone_on_with() {
    sweep(libc::EDQUOT, true);
}

#[test]
fn descriptors_that_run_out_at_any_call_are_told_as_such() {
    sweep(libc::EMFILE, true);
    sweep(libc::ENFILE, false);
}

/// What a process may have on a small machine is enough, whatever is done.
#[test]
fn few_descriptors_are_enough() {
    let mut random = Random::seeded();
    let peer = Peer::alone();
    run("prlimit", ["--pid", &peer.pid().to_string(), "--nofile=256:256"]);
    let moment = AtomicUsize::new(1);
    let mut workload = Workload::new(peer.root(), move || moment.fetch_add(1, Ordering::Relaxed)).unwrap();
    for _ in 0..200 {
        workload.step(&mut random).unwrap();
    }
    // Open files of programs are none of the daemon's.
    let open: Vec<File> = (0..2000).map(|n| File::create(peer.at(format!("open {n}"))).unwrap()).collect();
    for (number, file) in open.iter().enumerate() {
        (&*file).write_all(format!("content {number}").as_bytes()).unwrap();
    }
    let used = fs::read_dir(format!("/proc/{}/fd", peer.pid())).unwrap().count();
    assert!(used < 128, "{used} descriptors");
    drop(open);
    assert_eq!(fs::read_to_string(peer.at("open 1999")).unwrap(), "content 1999");
    workload.rest().unwrap();
    peer.run(["verify"]);
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
            Err(e) => assert_eq!(e.raw_os_error(), Some(libc::EMFILE), "{e}"),
        }
    }
    // Nor can it be asked anything.
    let mut asking = peer.command(["status"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    assert!(process::ended_within(&mut asking, Duration::from_millis(300)).is_none_or(|status| !status.success()));
    limit("1024:");
    let answered = process::ended_within(&mut asking, Duration::from_secs(20));
    assert!(answered.is_some(), "it is answered in the end, or refused before");
    eventually("it goes on", || File::open(peer.at("f")).and_then(|f| f.sync_all()).map_err(|e| e.to_string()));
    peer.run(["status"]);
    peer.kill9();
    peer.mount();
    assert_eq!(fs::read(peer.at("f")).unwrap(), [1; 100_000]);
    for path in done {
        assert_eq!(fs::read(path).unwrap(), [2; 50_000]);
    }
}
