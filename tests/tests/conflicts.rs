//! What two people made at once under one name: `p2pfs conflicts` tells of it, `p2pfs resolve` and ordinary tools settle it.

use std::fs;

use p2pfs_tests::{group::Group, patience::eventually, peer::Peer, tool::shell};
use serde_json::Value;

/// Alice and bob, who both wrote each of these while they were apart.
fn at_odds(files: &[&str]) -> Group {
    let mut group = Group::two();
    for file in files {
        fs::create_dir_all(group.alice().at(file).parent().unwrap()).unwrap();
        fs::write(group.alice().at(file), "base").unwrap();
    }
    group.part();
    for peer in &group.peers {
        files.iter().for_each(|file| fs::write(peer.at(file), format!("{}'s", peer.name())).unwrap());
    }
    group.meet();
    group
}

fn conflicts(peer: &Peer) -> Vec<Value> {
    peer.listing("conflicts").as_array().unwrap().clone()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// The names in a conflict: what shows under the name itself first.
fn names(conflict: &Value) -> Vec<String> {
    conflict["versions"].as_array().unwrap().iter().map(|v| text(&v["name"]).to_owned()).collect()
}

/// The name beside `file` that one of the two shows under.
fn beside(peer: &Peer, file: &str) -> String {
    let found = conflicts(peer);
    let conflict = found.iter().find(|conflict| conflict["path"] == file).unwrap();
    names(conflict)[1].clone()
}

/// Both have the same, and neither sees anything in conflict.
fn settled(group: &Group) {
    group.in_step();
    for peer in &group.peers {
        let name = peer.name();
        eventually(&format!("{name} sees no conflict"), || match conflicts(peer) {
            left if left.is_empty() => Ok(()),
            left => Err(format!("{left:?}")),
        });
        assert_eq!(peer.listing("status")["conflicts"], 0, "{name}");
        assert!(!peer.run(["status"]).contains("conflicts"), "{name}");
        assert_eq!(peer.run(["conflicts"]), "no conflicts");
    }
}

fn read(peer: &Peer, path: &str) -> String {
    fs::read_to_string(peer.at(path)).unwrap()
}

#[test]
fn the_commands_tell_and_settle() {
    let group = at_odds(&["mine", "theirs.txt", "d/both.txt", "d/named", "d/beside", "all 1", "all 2"]);
    let (alice, bob) = (group.alice(), group.bob());
    fs::rename(alice.at("d"), alice.at("e")).unwrap();
    group.in_step();
    let found = conflicts(bob);
    assert_eq!(found.len(), 7, "{found:#?}");
    assert_eq!(bob.listing("status")["conflicts"], 7);
    assert!(bob.run(["status"]).contains("`p2pfs conflicts`"));
    let conflict = found.iter().find(|conflict| conflict["path"] == "e/both.txt").unwrap();
    let versions = conflict["versions"].as_array().unwrap();
    for version in versions {
        let user = text(&version["user"]);
        let bytes = fs::read(bob.at("e").join(text(&version["name"]))).unwrap();
        assert_eq!(bytes, format!("{user}'s").as_bytes());
        assert_eq!((&version["mine"], &version["size"]), (&(user == "bob").into(), &bytes.len().into()));
        assert!(text(&version["made"]) <= text(&version["shown"]), "{version}");
    }
    let refused = bob.refused(["conflicts".as_ref(), bob.at("never").as_os_str()]);
    assert!(refused.contains("there is nothing at "), "{refused}");
    let table = bob.run(["conflicts".as_ref(), bob.at("e").as_os_str()]);
    assert!(table.contains("bob (you)") && table.contains("e/named") && !table.contains("theirs.txt"), "{table}");

    let resolve = |peer: &Peer, path: &str, keep: &str| {
        peer.run(["resolve".as_ref(), peer.at(path).as_os_str(), "--keep".as_ref(), keep.as_ref()]);
        // At once, on the mount that it was said at.
        read(peer, path)
    };
    assert_eq!(resolve(bob, "mine", "mine"), "bob's");
    assert_eq!(resolve(bob, "theirs.txt", "theirs"), "alice's");
    let other = if read(bob, "e/both.txt") == "bob's" { "alice" } else { "bob" };
    resolve(bob, "e/both.txt", "both");
    let apart: Vec<_> = fs::read_dir(bob.at("e")).unwrap().map(|e| e.unwrap().file_name()).collect();
    let own = apart.iter().filter_map(|name| name.to_str()).find(|name| name.starts_with("both (")).unwrap();
    assert!(own.starts_with(&format!("both ({other} ")), "{own}");
    assert_eq!(read(bob, &format!("e/{own}")), format!("{other}'s"));
    let name = beside(alice, "e/named");
    let kept = read(alice, &format!("e/{name}"));
    assert_eq!(resolve(alice, "e/named", &name), kept);
    let name = beside(alice, "e/beside");
    let shown = read(alice, "e/beside");
    alice.run(["resolve", alice.at("e").join(&name).to_str().unwrap(), "--keep", "beside"]);
    assert_eq!(read(alice, "e/beside"), shown);
    group.in_step();
    assert_eq!(conflicts(alice).len(), 2);
    alice.run(["resolve", "--all", "--keep", "mine"]);
    assert_eq!((read(alice, "all 1"), read(alice, "all 2")), ("alice's".to_owned(), "alice's".to_owned()));
    settled(&group);
    assert_eq!(read(alice, "mine"), "bob's");
}

#[test]
fn what_can_t_be_settled_is_said_in_a_line() {
    let group = at_odds(&["f"]);
    let alice = group.alice();
    let path = alice.at("f");
    let refused = |path: &str, keep: &str| alice.refused(["resolve", path, "--keep", keep]);
    let why = refused(path.to_str().unwrap(), "nothing");
    assert!(why.contains("`f` by") && why.contains("`f (conflict of"), "{why}");
    assert!(refused(alice.at("none").to_str().unwrap(), "mine").contains("no such file"));
    assert!(refused(alice.scratch().to_str().unwrap(), "mine").contains("lies in no mounted volume"));
    fs::write(alice.at("alone"), "").unwrap();
    assert!(refused(alice.at("alone").to_str().unwrap(), "mine").contains("nothing is in conflict"));
    assert!(alice.refused(["resolve", "--all", "--keep", "f"]).contains("mine, theirs or both"));
    // One of several that can't be keeps none of the others.
    let both = [alice.at("alone"), path];
    let line = ["resolve", both[0].to_str().unwrap(), both[1].to_str().unwrap(), "--keep", "theirs"];
    assert!(alice.refused(line).contains("1 of 2 settled"));
    assert_eq!(read(alice, "f"), "bob's");
    settled(&group);
}

#[test]
fn ordinary_tools_settle_as_well() {
    let group = at_odds(&["rm", "mv", "edit", "cp", "sed", "keep both"]);
    let bob = group.bob();
    let (mut expected, mut lines) = (Vec::new(), Vec::new());
    for file in ["rm", "mv", "edit", "cp", "sed", "keep both"] {
        let copy = beside(bob, file);
        let (shown, other) = (read(bob, file), read(bob, &copy));
        let (line, left) = match file {
            "rm" => (format!("rm '{copy}'"), shown),
            "mv" => (format!("mv '{copy}' mv"), other),
            "edit" => (format!("echo -n ' and more' >> edit; rm '{copy}'"), format!("{shown} and more")),
            "cp" => (format!("cp '{copy}' cp; rm '{copy}'"), other),
            "sed" => (format!("sed -i 's/$/!/' sed; rm '{copy}'"), format!("{shown}!")),
            _ => (format!("mv '{copy}' other"), shown),
        };
        lines.push(line);
        expected.push((file, left));
    }
    for line in lines {
        shell(bob.root(), &line);
    }
    settled(&group);
    for peer in &group.peers {
        for (file, left) in &expected {
            assert_eq!(read(peer, file), *left, "{} on {}", file, peer.name());
        }
        assert_eq!(fs::read_dir(peer.root()).unwrap().count(), expected.len() + 1, "{}", peer.name());
    }
}

#[test]
fn two_who_settle_apart() {
    let mut group = at_odds(&["same", "different"]);
    let shown = read(group.alice(), "different");
    group.part();
    for peer in &group.peers {
        let mine = if shown == format!("{}'s", peer.name()) { "mine" } else { "theirs" };
        peer.run(["resolve", peer.at("same").to_str().unwrap(), "--keep", mine]);
        // Each their own: for one of them that is what shows, for the other it isn't.
        peer.run(["resolve", peer.at("different").to_str().unwrap(), "--keep", "mine"]);
        assert!(conflicts(peer).is_empty());
    }
    group.meet();
    settled(&group);
    for peer in &group.peers {
        assert_eq!(read(peer, "same"), shown);
        assert_ne!(read(peer, "different"), shown, "who chose the other had read both");
        assert_eq!(fs::read_dir(peer.root()).unwrap().count(), 2);
    }
}
