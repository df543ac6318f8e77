//! Clocks that are wrong by a year, and jump: nothing depends on them but the dates that files show.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use p2pfs_tests::{
    group::Group,
    history::look,
    patience::eventually,
    peer::{Peer, free_port},
    random::Random,
    registry::Registry,
    scratch::Scratch,
    tree::names,
    workload::Workload,
};

const YEAR: i64 = 365 * 86_400;
/// Between a call and its date.
const MOMENT: i64 = 60;

/// Alice, whose clock can be set, and bob, whose clock is right.
fn two() -> Group {
    let mut group = Group::two();
    let alice = &mut group.peers[0];
    alice.unmount();
    alice.with_clock();
    alice.mount();
    alice.await_connected(1);
    group
}

fn same(group: &Group, path: &str, content: &str) {
    group.all_read(path, content.as_bytes());
}

/// The file's date on every mount is about what alice's clock shows now.
fn dated(group: &Group, path: &str) {
    let now = group.alice().clock().shows();
    for peer in &group.peers {
        let mtime = fs::metadata(peer.at(path)).unwrap().mtime();
        assert!((mtime - now).abs() < MOMENT, "{path} on {}: {mtime}, not {now}", peer.name());
    }
}

/// Alice's clock is set to `offset` while she works: she and bob take turns at one file, and at names.
fn taking_turns(group: &mut Group, round: usize, offset: i64) {
    let before = look(group.bob().root()).unwrap();
    group.peers[0].clock().set(offset);
    let [alice, bob] = &group.peers[..] else { panic!("two") };
    let file = format!("turns {round}");
    for turn in 0..3 {
        fs::write(alice.at(&file), format!("alice {turn}")).unwrap();
        same(group, &file, &format!("alice {turn}"));
        dated(group, &file);
        fs::write(bob.at(&file), format!("bob {turn}")).unwrap();
        same(group, &file, &format!("bob {turn}"));
    }
    fs::rename(alice.at(&file), alice.at("moved")).unwrap();
    fs::create_dir(alice.at(&file)).unwrap();
    same(group, "moved", "bob 2");
    fs::rename(bob.at("moved"), bob.at(format!("{file}/in"))).unwrap();
    same(group, &format!("{file}/in"), "bob 2");
    // Over a death and a restart, and nothing of before is gone.
    group.peers[0].kill9();
    group.peers[0].mount();
    group.peers[0].await_connected(1);
    same(group, &format!("{file}/in"), "bob 2");
    group.in_step();
    let after = look(group.alice().root()).unwrap();
    assert!(before.iter().all(|(path, entry)| after.get(path) == Some(entry)));
    group.peers.iter().for_each(|peer| drop(peer.run(["verify"])));
}

#[test]
fn a_year_back_and_a_year_ahead_order_nothing() {
    let mut group = two();
    for (round, offset) in [-YEAR, YEAR, -YEAR, 0].into_iter().enumerate() {
        taking_turns(&mut group, round, offset);
    }
    assert_eq!(group.alice().listing("status")["conflicts"], 0);
}

#[test]
fn what_was_done_apart_meets_whatever_the_clocks_said() {
    let mut group = two();
    for (round, offset) in [-YEAR, YEAR].into_iter().enumerate() {
        let file = format!("both {round}.txt");
        fs::write(group.alice().at(&file), "common").unwrap();
        group.part();
        group.alice().clock().set(offset);
        fs::write(group.alice().at(&file), "of alice").unwrap();
        fs::write(group.bob().at(&file), "of bob").unwrap();
        fs::write(group.alice().at(format!("alice {round}")), "a").unwrap();
        group.meet();
        let versions =
            names(group.alice().root()).into_iter().filter(|name| name.starts_with(&format!("both {round}")));
        let mut contents: Vec<String> =
            versions.map(|name| fs::read_to_string(group.alice().at(name)).unwrap()).collect();
        contents.sort();
        assert_eq!(contents, ["of alice", "of bob"]);
        same(&group, &format!("alice {round}"), "a");
    }
}

#[test]
fn a_clock_that_jumps_costs_nothing() {
    let mut random = Random::seeded();
    let mut group = two();
    let (alice, bob) = (group.alice(), group.bob());
    fs::create_dir(alice.at("a")).unwrap();
    eventually("bob has it", || fs::metadata(bob.at("a")).map_err(|e| e.to_string()));
    let moment = AtomicUsize::new(1);
    let mut workload = Workload::new(&alice.at("a"), move || moment.fetch_add(1, Ordering::Relaxed)).unwrap();
    let done = AtomicBool::new(false);
    let mut of_clock = Random::new(random.draw());
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                alice.clock().set(of_clock.below(4 * YEAR.unsigned_abs()) as i64 - 2 * YEAR);
                thread::sleep(Duration::from_millis(of_clock.below(20)));
            }
        });
        for _ in 0..200 {
            workload.step(&mut random).unwrap();
        }
        workload.rest().unwrap();
        done.store(true, Ordering::Relaxed);
    });
    group.in_step();
    let wanted = workload.history.now();
    assert!(look(&group.bob().at("a")).unwrap() == *wanted, "bob has all of it");
    group.peers[0].kill9();
    group.peers[0].clock().set(-2 * YEAR);
    group.peers[0].mount();
    assert!(look(&group.alice().at("a")).unwrap() == *wanted, "so has alice after a restart");
    group.peers.iter().for_each(|peer| drop(peer.run(["verify"])));
}

/// Registries keep records by their own clock, and readers don't judge them by theirs.
#[test]
fn devices_whose_clocks_differ_find_each_other() {
    let scratch = Arc::new(Scratch::new());
    let registry = Registry::start(&scratch);
    let mut alice = Peer::new(&scratch, "alice");
    alice.with_clock();
    for (name, offset) in [("bob", -YEAR), ("carol", YEAR)] {
        alice.clock().set(offset);
        if name == "bob" {
            alice.init(&["--registry", registry.address()]);
        }
        alice.mount();
        let mut other = Peer::new(&scratch, name);
        other.join(&without_hints(&alice.invite()));
        other.mount();
        other.await_connected(1);
        // From new places, only the registry can bring them together.
        other.unmount();
        alice.unmount();
        alice.set_port(free_port());
        other.set_port(free_port());
        other.mount();
        alice.mount();
        other.await_connected(1);
        fs::write(alice.at(name), name).unwrap();
        let read = |at: &Path| fs::read_to_string(at).map_err(|e| e.to_string());
        eventually("it arrives", || {
            read(&other.at(name)).and_then(|text| if text == name { Ok(()) } else { Err(text) })
        });
        other.unmount();
        alice.unmount();
    }
}

/// A ticket that leads to nobody but through its registries.
fn without_hints(ticket: &str) -> String {
    let mut ticket: peer_net::ticket::Ticket = ticket.parse().unwrap();
    ticket.hints.clear();
    ticket.to_word().to_string()
}
