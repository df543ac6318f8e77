//! A disk without room: an error in time, and a volume that is sound afterwards. Needs root, for a small disk.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::PathBuf,
    sync::Arc,
};

use p2pfs_tests::{
    patience::eventually, peer::Peer, random::Random, registry::Registry, scratch::Scratch, tool::run,
    tree::differences,
};

/// A disk of `mib` MiB at a new folder.
fn small_disk(scratch: &Scratch, name: &str, mib: u64) -> PathBuf {
    assert!(rustix::process::geteuid().is_root(), "a small disk needs root: run scripts/test");
    let folder = scratch.make(name);
    run("mount", ["-t", "tmpfs", "-o", &format!("size={mib}m,mode=0700"), "p2pfs-test", folder.to_str().unwrap()]);
    folder
}

fn enlarge(disk: &std::path::Path, mib: u64) {
    run("mount", ["-o", &format!("remount,size={mib}m"), disk.to_str().unwrap()]);
}

/// Writes a file and has it on the disk, or fails.
fn write_synced(path: &std::path::Path, content: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// Writes files of 1 MiB until there is no more room; how many were acknowledged.
fn fill(peer: &Peer, random: &Random) -> usize {
    for number in 0..1000 {
        let path = peer.at(format!("fill {number}"));
        if let Err(e) = write_synced(&path, &content(random, number)) {
            assert_eq!(e.raw_os_error(), Some(libc::ENOSPC), "{e}");
            return number;
        }
    }
    panic!("a disk that never fills");
}

fn content(random: &Random, number: usize) -> Vec<u8> {
    let mut of_this = Random::new(random.clone().draw().wrapping_add(number as u64));
    of_this.bytes(1 << 20)
}

fn check_filled(peer: &Peer, random: &Random, count: usize) {
    for number in 0..count {
        let found = fs::read(peer.at(format!("fill {number}"))).unwrap();
        assert!(found == content(random, number), "file {number}");
    }
}

#[test]
fn a_full_disk_is_told_in_time_and_costs_nothing_acknowledged() {
    let random = Random::seeded();
    let scratch = Arc::new(Scratch::new());
    let disk = small_disk(&scratch, "disk", 256);
    let mut peer = Peer::with_home(&scratch, "alice", disk.clone());
    peer.init(&[]);
    peer.mount();
    fs::create_dir(peer.at("before")).unwrap();
    let count = fill(&peer, &random);
    assert!(count > 20, "{count} MiB were taken");
    // It tells so, goes on reading, and lets go of what it can.
    let free = rustix::fs::statvfs(peer.root()).unwrap();
    assert!(free.f_bavail * free.f_frsize < 64 << 20);
    check_filled(&peer, &random, count);
    for more in 0..20 {
        let failed = write_synced(&peer.at(format!("more {more}")), &content(&random, 5000));
        assert_eq!(failed.unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    }
    // Also over a restart with the disk still full.
    peer.unmount();
    peer.mount();
    check_filled(&peer, &random, count);
    fs::remove_file(peer.at("fill 0")).expect("removing is what a full disk needs");
    // With room again everything goes on, without anybody restarting anything.
    enlarge(&disk, 512);
    eventually("there is room", || write_synced(&peer.at("after"), b"content").map_err(|e| e.to_string()));
    fs::remove_dir(peer.at("before")).unwrap();
    peer.kill9();
    peer.mount();
    assert_eq!(fs::read(peer.at("after")).unwrap(), b"content");
    assert!(!peer.at("before").exists());
    for number in 1..count {
        assert!(fs::read(peer.at(format!("fill {number}"))).unwrap() == content(&random, number));
    }
}

/// What others send must not fill the disk to the last byte, and must arrive once there is room.
#[test]
fn a_peer_whose_disk_is_full_catches_up() {
    let random = Random::seeded();
    let scratch = Arc::new(Scratch::new());
    let disk = small_disk(&scratch, "disk", 192);
    let registry = Registry::start(&scratch);
    let mut alice = Peer::new(&scratch, "alice");
    alice.init(&["--registry", registry.address()]);
    alice.mount();
    let mut bob = Peer::with_home(&scratch, "bob", disk.clone());
    bob.join(&alice.invite());
    bob.mount();
    bob.await_connected(1);
    for number in 0..300 {
        write_synced(&alice.at(format!("fill {number}")), &content(&random, number)).unwrap();
    }
    eventually("bob's disk is as full as it gets", || {
        let now = rustix::fs::statvfs(&disk).unwrap();
        let free = now.f_bavail * now.f_frsize;
        if free < 64 << 20 { Ok(()) } else { Err(format!("{free} bytes are free")) }
    });
    let told = bob.run(["status"]);
    assert!(told.contains("disk        full"), "{told}");
    let told = bob.refused(["wait", "--timeout", "1s"]);
    assert!(told.contains("full"), "{told}");
    // Running out of room is no misbehaviour: they stay connected, what bob does reaches alice, and what he removes is gone.
    fs::remove_file(bob.at("fill 0")).expect("removing is what a full disk needs");
    eventually("alice hears of it", || {
        if alice.at("fill 0").exists() { Err("it is still there".to_owned()) } else { Ok(()) }
    });
    enlarge(&disk, 1024);
    alice.run(["wait", "--timeout", "20s"]);
    assert!(differences(alice.root(), bob.root()).is_ok());
}
