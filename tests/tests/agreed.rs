//! Settings and snapshots as users have them: `p2pfs config`, `p2pfs snapshot`, `.p2pfs/snapshots`.

use std::fs;

use p2pfs_tests::{
    group::Group,
    peer::Peer,
    tool::run,
    tree::{differences, grow},
};
use serde_json::Value;

fn setting(peer: &Peer, name: &str) -> Value {
    serde_json::from_str(&peer.run(["config", name, "--json"])).unwrap()
}

fn snapshots(peer: &Peer) -> Vec<String> {
    let listed: Vec<Value> = serde_json::from_str(&peer.run(["snapshot", "list", "--json"])).unwrap();
    listed.iter().map(|snapshot| snapshot["name"].as_str().unwrap().to_owned()).collect()
}

fn listed(peer: &Peer) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(peer.at(".p2pfs/snapshots"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn settings_hold_for_all_and_readers_set_none() {
    let mut group = Group::two();
    group.add_as("carol", "reader");
    let (alice, bob, carol) = (group.alice(), group.bob(), group.carol());
    assert!(alice.run(["config"]).contains("history.keep-all  30d      30d      -"), "{}", alice.run(["config"]));
    assert!(alice.run(["config", "history.keep-all", "90d"]).contains("to 90d by alice at "));
    group.in_step();
    for peer in [alice, bob, carol] {
        let shown = setting(peer, "history.keep-all");
        assert_eq!(
            (shown["value"].as_str(), shown["set_by"].as_str()),
            (Some("90d"), Some("alice")),
            "{}",
            peer.name()
        );
    }
    for peer in [bob, carol] {
        assert!(peer.refused(["config", "history.keep-all", "1d"]).contains("only the owner and admins"));
    }
    assert!(alice.refused(["config", "history.colour"]).contains("no such setting: `history.colour`"));
    assert!(alice.refused(["config", "history.budget", "lots"]).contains("is no budget"));
    let refused = alice.refused(["config", "history.keep-all", "23h"]);
    assert!(refused.contains("can't be less than 1d: everything is kept for a day at least"), "{refused}");
    // For this device alone; a reader, too.
    assert!(carol.refused(["config", "history.keep-all", "80d", "--device"]).contains("can't keep less"));
    carol.run(["config", "history.keep-all", "1y", "--device"]);
    assert_eq!(setting(carol, "history.keep-all")["value"], "1y");
    assert_eq!(setting(bob, "history.keep-all")["value"], "90d");
    alice.run(["config", "history.keep-all", "--default"]);
    group.in_step();
    assert_eq!(setting(bob, "history.keep-all")["value"], "30d");
    assert_eq!(setting(carol, "history.keep-all")["value"], "1y");
    carol.run(["config", "history.keep-all", "--default", "--device"]);
    assert_eq!(setting(carol, "history.keep-all")["value"], "30d");
}

#[test]
fn a_snapshot_is_a_directory_on_every_device() {
    let mut group = Group::two();
    group.add_as("carol", "reader");
    let (alice, bob, carol) = (group.alice(), group.bob(), group.carol());
    grow(alice.root(), 60, 7);
    let copy = alice.scratch().join("copy");
    run("cp", ["-a", alice.root().to_str().unwrap(), copy.to_str().unwrap()]);
    assert!(listed(alice).is_empty());
    let said = alice.run(["snapshot", "create", "before the move"]);
    assert_eq!(said, "the tree as it is now is kept as .p2pfs/snapshots/before the move");
    for time in ["yesterday", "2026-11-26T09:15", "2h-ago"] {
        let refused = alice.refused(["snapshot", "create", time]);
        assert!(refused.contains("is a time"), "{refused}");
    }
    for entry in fs::read_dir(alice.root()).unwrap() {
        run("rm", ["-rf", entry.unwrap().path().to_str().unwrap()]);
    }
    group.in_step();
    for peer in [alice, bob, carol] {
        assert_eq!((snapshots(peer), listed(peer)), (vec!["before the move".to_owned()], snapshots(peer)));
        for way in ["snapshots", "at"] {
            differences(&copy, &peer.at(".p2pfs").join(way).join("before the move")).unwrap();
        }
        assert!(fs::metadata(peer.at(".p2pfs/snapshots/none")).is_err());
        assert!(fs::metadata(peer.at(".p2pfs/at/none")).is_err());
        assert!(fs::write(peer.at(".p2pfs/snapshots/before the move/x"), "").is_err());
        assert!(fs::create_dir(peer.at(".p2pfs/snapshots/x")).is_err());
    }
    assert!(carol.refused(["snapshot", "create", "mine"]).contains("readers change nothing"));
    assert!(bob.refused(["snapshot", "remove", "before the move"]).contains("alice made"));
    assert!(bob.refused(["snapshot", "create", "before the move"]).contains("there is a snapshot"));
    assert!(bob.refused(["snapshot", "create", "a/b"]).contains("can't be a snapshot's name"));
    bob.run(["snapshot", "create", "none"]);
    group.in_step();
    // A name that was looked for in vain, and a listing that was shown before.
    assert_eq!(listed(carol), ["before the move", "none"]);
    assert!(fs::read_dir(carol.at(".p2pfs/snapshots/none")).unwrap().next().is_none());
    let said = alice.run(["snapshot", "remove", "before the move"]);
    assert_eq!(said, "snapshot before the move is removed: what only it kept may go");
    group.in_step();
    for peer in [alice, bob, carol] {
        assert_eq!((snapshots(peer), listed(peer)), (vec!["none".to_owned()], vec!["none".to_owned()]));
        assert!(fs::metadata(peer.at(".p2pfs/snapshots/before the move")).is_err());
    }
}

#[test]
fn they_outlive_restarts_and_a_lost_store() {
    let mut peer = Peer::alone();
    fs::write(peer.at("note"), "first").unwrap();
    peer.run(["snapshot", "create", "kept"]);
    fs::write(peer.at("note"), "second").unwrap();
    peer.run(["config", "history.daily", "2y"]);
    peer.run(["config", "history.weekly", "forever", "--device"]);
    let check = |peer: &Peer| {
        assert_eq!(fs::read_to_string(peer.at(".p2pfs/snapshots/kept/note")).unwrap(), "first");
        assert_eq!(setting(peer, "history.daily")["value"], "2y");
    };
    peer.remount();
    check(&peer);
    assert_eq!(setting(&peer, "history.weekly")["value"], "forever");
    peer.unmount();
    // Not mounted, they are told all the same.
    assert_eq!(snapshots(&peer), ["kept"]);
    assert_eq!(setting(&peer, "history.daily")["value"], "2y");
    let volumes = peer.home().join("volumes");
    let volume = fs::read_dir(volumes).unwrap().next().unwrap().unwrap().path();
    fs::remove_dir_all(volume.join("store")).unwrap();
    peer.run(["verify", "--repair"]);
    peer.mount();
    check(&peer);
}
