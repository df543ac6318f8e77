//! People who are removed, as users have it: `p2pfs revoke`, `grant`, `quarantine`.

use std::fs;

use p2pfs_tests::{group::Group, patience::eventually, peer::Peer, tree::differences};
use serde_json::Value;

fn names(peer: &Peer) -> Vec<String> {
    let users = peer.listing("users");
    users.as_array().unwrap().iter().map(|user| user["name"].as_str().unwrap().to_owned()).collect()
}

/// By the removal itself, or (`how` names both) by the word of a member.
fn eventually_removed(peer: &Peer, how: &[&str]) {
    eventually(&format!("{} hears of its removal", peer.name()), || {
        let status = peer.listing("status");
        let hears = |field: &&&str| matches!(&status[**field], Value::Bool(true) | Value::String(_));
        if how.iter().any(|field| hears(&field)) { Ok(()) } else { Err(status.to_string()) }
    });
}

#[test]
fn who_is_connected_hears_of_it_and_is_shut_out() {
    let group = Group::three();
    let (alice, bob, carol) = (group.alice(), group.bob(), group.carol());
    fs::write(bob.at("of bob"), "before").unwrap();
    group.in_step();
    assert!(bob.refused(["revoke", "carol"]).contains("only the owner, and admins"));
    assert!(alice.refused(["revoke", "dora"]).contains("no user or device is called `dora`"));
    assert!(alice.refused(["revoke", "alice"]).contains("that is you"));
    assert!(alice.run(["revoke", "bob"]).contains("bob is removed with all devices"));
    assert_eq!(names(alice), ["alice", "carol"]);
    eventually_removed(bob, &["removed"]);
    assert!(bob.run(["status"]).contains("this device belongs to the volume no more"));
    assert_eq!(fs::read_to_string(bob.at("of bob")).unwrap(), "before", "what he had can be read");
    assert!(fs::write(bob.at("more"), "x").is_err());
    fs::write(alice.at("secret"), "new").unwrap();
    alice.wait();
    group_of_two_in_step(alice, carol);
    assert!(!bob.at("secret").exists());
    bob.await_connected(0);
    // Nor is anybody let in under the name of one who is there, but under his.
    let ticket = alice.run(["invite"]);
    let mut again = Peer::new(&std::sync::Arc::new(p2pfs_tests::scratch::Scratch::new()), "bob");
    again.join(&ticket);
    again.mount();
    eventually("the new bob sees what is there", || match fs::read_to_string(again.at("secret")) {
        Ok(text) if text == "new" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(names(alice), ["alice", "bob", "carol"]);
}

fn group_of_two_in_step(one: &Peer, other: &Peer) {
    eventually("both show the same", || differences(one.root(), other.root()));
}

#[test]
fn what_was_done_apart_is_kept_aside_until_somebody_accepts_it() {
    let mut group = Group::three();
    fs::create_dir(group.alice().at("d")).unwrap();
    fs::write(group.alice().at("d/plan"), "alice's").unwrap();
    fs::write(group.alice().at("d/old"), "old").unwrap();
    group.part();
    let (alice, bob, carol) = (group.alice(), group.bob(), group.carol());
    fs::write(bob.at("d/plan"), "bob's").unwrap();
    fs::write(bob.at("d/new"), vec![7; 300_000]).unwrap();
    fs::remove_file(bob.at("d/old")).unwrap();
    alice.run(["revoke", "bob"]);
    carol.run(["status"]);
    // Carol meets bob first, and hears of it later.
    group.registry.go_on();
    for n in [1, 2] {
        group.peers[n].unmount();
        group.peers[n].mount();
    }
    let (bob, carol) = (group.bob(), group.carol());
    carol.await_connected(1);
    eventually("carol has what bob did", || match fs::read_to_string(carol.at("d/plan")) {
        Ok(text) if text == "bob's" && fs::read(carol.at("d/new")).is_ok_and(|b| b.len() == 300_000) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    fs::write(carol.at("d/of carol"), "hers").unwrap();
    carol.wait();
    assert!(bob.at("d/of carol").exists());
    group.peers[0].unmount();
    group.peers[0].mount();
    let (alice, bob, carol) = (group.alice(), group.bob(), group.carol());
    alice.await_connected(1);
    eventually("bob's work is taken back", || match fs::read_to_string(carol.at("d/plan")) {
        Ok(text) if text == "alice's" && carol.at("d/old").exists() && !carol.at("d/new").exists() => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(fs::read_to_string(alice.at("d/of carol")).unwrap(), "hers");
    group_of_two_in_step(alice, carol);
    assert!(alice.run(["status"]).contains("`p2pfs quarantine list`"));
    let kept: Vec<Value> = serde_json::from_str(&alice.run(["quarantine", "list", "--json"])).unwrap();
    assert!(!kept.is_empty() && kept.iter().all(|one| one["user"] == "bob"), "{kept:?}");
    let shown = alice.run(["quarantine", "show", kept[0]["device"].as_str().unwrap()]);
    for what in ["d/plan", "d/new", "d/old"] {
        assert!(shown.contains(what), "{shown}");
    }
    let device = kept[0]["device"].as_str().unwrap().to_owned();
    assert!(carol.refused(["quarantine", "accept", &device]).contains("only the owner, admins and its author"));
    alice.run(["quarantine", "accept", &device]);
    assert_eq!(alice.run(["quarantine", "list"]), "nothing is kept aside");
    eventually("what was accepted is everywhere", || match fs::read_to_string(carol.at("d/plan")) {
        Ok(text) if text == "bob's" && !carol.at("d/old").exists() => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(fs::read(carol.at("d/new")).unwrap(), vec![7; 300_000]);
    eventually_removed(bob, &["removed", "said_removed_by"]);
    alice.run(["verify"]);
    carol.run(["verify"]);
}

#[test]
fn roles_change_while_everything_is_mounted() {
    let group = Group::two();
    let (alice, bob) = (group.alice(), group.bob());
    assert_eq!(alice.run(["grant", "bob", "reader"]), "bob is a reader now");
    assert_eq!(alice.run(["grant", "bob", "reader"]), "bob is a reader already");
    eventually("bob is a reader", || match fs::write(bob.at("f"), "x") {
        Err(e) if e.raw_os_error() == Some(30) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    alice.run(["grant", "bob", "admin"]);
    eventually("bob is an admin", || match bob.listing("status")["role"].as_str() {
        Some("admin") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    fs::write(bob.at("f"), "x").unwrap();
    group.in_step();
    assert!(bob.refused(["revoke", "alice"]).contains("owner"));
    assert!(!bob.run(["invite"]).is_empty());
}

#[test]
fn what_was_there_before_is_sealed_anew() {
    let mut group = Group::three();
    let (alice, carol) = (group.alice(), group.carol());
    let large: Vec<u8> = (0..20_000_000_u32).map(|i| (i / 5 % 251) as u8).collect();
    for folder in 0..10 {
        let folder = alice.at(format!("folder {folder}/deep"));
        fs::create_dir_all(&folder).unwrap();
        for file in 0..30_usize {
            fs::write(folder.join(format!("file {file}")), vec![file as u8; file * file * 20]).unwrap();
        }
    }
    fs::write(alice.at("large"), &large).unwrap();
    group.in_step();
    let before = stats(alice);
    let held = fs::File::options().append(true).open(alice.at("folder 3/deep/file 3")).unwrap();
    let said = alice.run(["revoke", "bob", "--reseal"]);
    assert!(said.contains("bob is removed with all devices"), "{said}");
    // (An empty file has nothing that could be sealed.)
    assert!(said.contains("sealed 290 files") && said.contains("321 names anew"), "{said}");
    assert!(said.contains("left as they are: 1 open for writing"), "{said}");
    drop(held);
    assert!(alice.run(["reseal"]).contains("sealed 1 file (180 B) and 0 names anew"));
    assert_eq!(alice.run(["reseal"]), "everything is sealed under new keys already");
    assert_eq!(stats(alice), before);
    assert!(!alice.run(["status"]).contains("resealing"));
    group_of_two_in_step(alice, carol);
    assert!(fs::read(carol.at("large")).unwrap() == large);
    assert_eq!(carol.run(["reseal"]), "everything is sealed under new keys already");
    assert!(carol.run(["history", carol.at("large").to_str().unwrap()]).lines().count() >= 2);
    // Without a mount it works as well.
    group.peers[0].unmount();
    let done: Value = serde_json::from_str(&group.alice().run(["reseal", "--json"])).unwrap();
    assert_eq!((&done["files"], &done["finished"]), (&Value::from(0), &Value::Bool(true)));
    group.peers[0].mount();
    group.alice().run(["verify"]);
}

/// Of everything: size, mode and times.
fn stats(peer: &Peer) -> Vec<(std::path::PathBuf, u64, u32, i64, i64)> {
    use std::os::unix::fs::MetadataExt;
    let mut found = Vec::new();
    let mut todo = vec![peer.root().to_owned()];
    while let Some(path) = todo.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        if meta.is_dir() {
            todo.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        found.push((path, meta.size(), meta.mode(), meta.mtime(), meta.mtime_nsec()));
    }
    found.sort();
    found
}
