//! What daemons cost: nothing when nothing happens, and bounded memory when much does.

use std::{fs::File, io::Write, thread, time::Duration};

use p2pfs_tests::{
    group::Group,
    patience::within,
    process::{peak_memory_mib, ticks},
    random::Random,
    setting,
};

/// No daemon may have more than this in use, whatever it moves.
const MEMORY_MIB: u64 = 200;

#[test]
fn an_idle_pair_uses_no_processor() {
    const SECONDS: u64 = 10;
    const TICKS: u64 = 2;
    let group = Group::two();
    p2pfs_tests::tree::grow(&group.alice().at("tree"), 200, 1);
    group.in_step();
    let used = || group.peers.iter().map(|peer| ticks(peer.pid())).collect::<Vec<_>>();
    // What the last changes still cause has to end.
    within(Duration::from_secs(30), "both come to rest", || {
        let before = used();
        thread::sleep(Duration::from_secs(1));
        if used() == before { Ok(()) } else { Err("still busy".to_owned()) }
    });
    let before = used();
    thread::sleep(Duration::from_secs(SECONDS));
    for ((peer, before), after) in group.peers.iter().zip(before).zip(used()) {
        let used = after - before;
        assert!(used < TICKS, "{} used {used} ticks in {SECONDS} s of doing nothing", peer.name());
    }
}

#[test]
fn a_large_file_needs_little_memory() {
    let mib = setting("P2PFS_TEST_BIG_MIB", 1024);
    let group = Group::two();
    let mut file = File::create(group.alice().at("large")).unwrap();
    // Random once: enough that no two blocks are alike.
    let mut part = Random::new(1).bytes(1 << 20);
    for number in 0..mib {
        part[..8].copy_from_slice(&number.to_le_bytes());
        file.write_all(&part).unwrap();
    }
    file.sync_all().unwrap();
    drop(file);
    group.bob().run(["wait", "--timeout", "300s"]);
    group.alice().run(["wait", "--timeout", "300s"]);
    let compared =
        std::process::Command::new("cmp").args([group.alice().at("large"), group.bob().at("large")]).status().unwrap();
    assert!(compared.success());
    for peer in &group.peers {
        let peak = peak_memory_mib(peer.pid());
        println!("{}: {peak} MiB at most", peer.name());
        assert!(peak < MEMORY_MIB, "{} had {peak} MiB in use", peer.name());
    }
}
