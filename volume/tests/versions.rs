//! What was at a path, and what is gone: as somebody saw it who looked after every commit.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    common::{Replica, sync},
    work,
};
use p2pfs_volume::{
    AttributeChange, Caller, Error, Ino, NodeKind, OpenMode, RenameMode, Role, Volume,
    deleted::WasDirectory,
    versions::{Happened, PathVersion},
};
use proptest::prelude::*;
use work::{Op, op, run};

/// All that is told of a node, in a line. (A directory's times change with its entries.)
fn state(volume: &Volume, ino: Ino) -> String {
    let attributes = volume.attributes(ino).unwrap();
    let mut xattrs: Vec<String> = volume.list_xattrs(ino).unwrap().iter().map(|n| format!("{n:?}")).collect();
    for (name, told) in volume.list_xattrs(ino).unwrap().iter().zip(&mut xattrs) {
        told.push_str(&format!("={:?}", volume.get_xattr(ino, name).unwrap()));
    }
    xattrs.sort();
    let content = match attributes.kind {
        NodeKind::File => {
            let mut bytes = Vec::new();
            let handle = volume.open(ino, OpenMode { read: true, ..OpenMode::default() }, &Caller::default()).unwrap();
            volume.read(handle, 0, 100_000, &mut bytes).unwrap();
            volume.release(handle).unwrap();
            let sum: u64 = bytes.iter().map(|&byte| u64::from(byte)).sum();
            format!("{} {sum} {:?}", bytes.len(), attributes.mtime)
        }
        _ => String::new(),
    };
    format!("{:?} {:o} {content} {xattrs:?}", attributes.kind, attributes.mode)
}

/// All paths below a directory, with their states.
type Tree = BTreeMap<String, String>;

fn tree(volume: &Volume, directory: Ino, above: &str, found: &mut Tree) {
    for entry in volume.read_directory(directory, 2, usize::MAX).unwrap() {
        let path = format!("{above}{}", String::from_utf8(entry.name).unwrap());
        found.insert(path.clone(), state(volume, entry.attributes.ino));
        if entry.attributes.kind == NodeKind::Directory {
            tree(volume, entry.attributes.ino, &format!("{path}/"), found);
        }
    }
}

fn names(path: &str) -> Vec<&[u8]> {
    path.split('/').filter(|name| !name.is_empty()).map(str::as_bytes).collect()
}

fn versions(replica: &Replica, path: &str) -> Vec<PathVersion> {
    replica.volume.versions(&names(path)).unwrap()
}

/// The number that a node had in the present, of one of the past.
fn present(ino: Ino) -> Ino {
    Ino(ino.0 & ((1 << 40) - 1))
}

/// What showed in which directory under which name, and the directories.
fn entries(volume: &Volume, directory: Ino, found: &mut BTreeMap<(Ino, Vec<u8>), String>) {
    for entry in volume.read_directory(directory, 2, usize::MAX).unwrap() {
        let ino = entry.attributes.ino;
        found.insert((present(directory), entry.name), state(volume, ino));
        if entry.attributes.kind == NodeKind::Directory {
            entries(volume, ino, found);
        }
    }
}

fn check_versions(replica: &Replica, seen: &[(u64, Tree)]) {
    let paths: BTreeSet<&String> = seen.iter().flat_map(|(_, tree)| tree.keys()).collect();
    for path in paths {
        let versions = versions(replica, path);
        for pair in versions.windows(2) {
            assert_eq!(pair[1].until, Some(pair[0].since), "{path}");
            assert!(pair[0].shown >= pair[1].shown && pair[0].since > pair[1].since, "{path}");
            assert!(pair[0].state.is_some() || pair[1].state.is_some(), "{path}");
        }
        for (arrival, tree) in seen {
            let spans = |v: &&PathVersion| v.since <= *arrival && v.until.is_none_or(|until| *arrival < until);
            let version = versions.iter().find(spans).and_then(|v| Some((v.since, v.state.clone()?)));
            let was = version.map(|(since, found)| {
                let ino = replica.volume.as_it_was(found.ino, since).unwrap();
                assert_eq!(replica.volume.attributes(ino).unwrap(), p2pfs_volume::Attributes { ino, ..found });
                state(&replica.volume, ino)
            });
            assert_eq!(was.as_ref(), tree.get(path), "{} at {arrival}, {path}", replica.name);
        }
    }
}

fn check_deleted(replica: &Replica, seen: &[(u64, Tree)]) {
    let volume = &replica.volume;
    let pasts: Vec<(u64, BTreeMap<_, _>)> = seen
        .iter()
        .map(|(arrival, _)| {
            let mut found = BTreeMap::new();
            entries(volume, volume.past(*arrival).unwrap(), &mut found);
            (*arrival, found)
        })
        .collect();
    let (_, last) = seen.last().unwrap();
    let directories = last.iter().filter(|(_, state)| state.starts_with("Directory")).map(|(path, _)| path.as_str());
    for path in directories.chain([""]) {
        let deleted = volume.deleted(&names(path)).unwrap();
        let directory = if path.is_empty() { Ino::ROOT } else { replica.find(path).unwrap() };
        let there = |name: &[u8]| volume.lookup(directory, name).is_ok();
        let told: BTreeMap<&[u8], _> = deleted.iter().map(|gone| (gone.name.as_slice(), gone)).collect();
        assert_eq!(told.len(), deleted.len());
        for gone in &deleted {
            assert!(!there(&gone.name), "{path}: {:?}", gone.name);
            let ino = volume.as_it_was(gone.attributes.ino, gone.gone - 1).unwrap();
            if let Some((_, then)) = pasts.iter().find(|(arrival, _)| *arrival == gone.gone - 1) {
                let was = then.get(&(directory, gone.name.clone()));
                assert_eq!(was, Some(&state(volume, ino)), "{path}: {:?}", gone.name);
            }
            if !gone.moved && gone.attributes.kind == NodeKind::Directory {
                assert_eq!(volume.attributes(gone.attributes.ino).unwrap().links, 0);
            }
        }
        for (arrival, then) in &pasts {
            for (above, name) in then.keys().filter(|(above, name)| *above == directory && !there(name)) {
                let gone = told.get(name.as_slice()).unwrap_or_else(|| panic!("{above:?} {name:?} at {arrival}"));
                assert!(gone.gone > *arrival);
            }
        }
        // Read in steps, it is the same without what was only moved, and directories that are there beside it.
        let root = WasDirectory { ino: directory, gone: None };
        let (mut after, mut listed) = (0, Vec::new());
        loop {
            let entries = volume.read_deleted(root, after, 2).unwrap();
            let Some(last) = entries.last() else { break };
            after = last.cookie;
            listed.extend(entries);
        }
        let listed: BTreeSet<Vec<u8>> = listed
            .into_iter()
            .inspect(|entry| {
                let found = volume.deleted_entry(root, &entry.name).unwrap();
                assert_eq!((found.gone, &found.attributes), (entry.gone, &entry.attributes));
            })
            .filter(|entry| entry.gone.is_some())
            .map(|entry| entry.name)
            .collect();
        let expected = deleted.iter().filter(|gone| !gone.moved).map(|gone| gone.name.clone()).collect();
        assert_eq!(listed, expected, "{path}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn every_version_and_all_that_is_gone_is_told(ops in proptest::collection::vec(op(), 1..60)) {
        let alice = Replica::founder("alice", 1);
        let bob = Replica::joined("bob", 2, &alice, Role::Writer);
        let mut replicas = [alice, bob];
        let mut seen: [Vec<(u64, Tree)>; 2] = Default::default();
        for (who, op, closes) in ops.into_iter().chain([(0, Op::Meet, true)]) {
            run(&mut replicas, who, &op);
            if closes || matches!(op, Op::Meet) {
                for (replica, seen) in replicas.iter().zip(&mut seen) {
                    replica.volume.commit_now().unwrap();
                    let mut now = Tree::new();
                    tree(&replica.volume, Ino::ROOT, "", &mut now);
                    seen.push((replica.volume.last_arrival(), now));
                    replica.clock.advance(Duration::from_secs(1));
                }
            }
        }
        for (replica, seen) in replicas.iter().zip(&seen) {
            check_versions(replica, seen);
            check_deleted(replica, seen);
        }
    }
}

/// What happened at a path, the oldest first, by whom, and what it holds from then on.
fn told(replica: &Replica, path: &str) -> Vec<(Happened, String, Option<String>)> {
    let told = |version: PathVersion| {
        let content = version.state.filter(|state| state.kind == NodeKind::File).map(|state| {
            let mut bytes = Vec::new();
            let ino = replica.volume.as_it_was(state.ino, version.since).unwrap();
            let mode = OpenMode { read: true, ..OpenMode::default() };
            let handle = replica.volume.open(ino, mode, &Caller::default()).unwrap();
            replica.volume.read(handle, 0, 1000, &mut bytes).unwrap();
            replica.volume.release(handle).unwrap();
            String::from_utf8(bytes).unwrap()
        });
        (version.happened, version.author.name, content)
    };
    versions(replica, path).into_iter().rev().map(told).collect()
}

fn path(text: &str) -> Vec<Vec<u8>> {
    names(text).into_iter().map(<[u8]>::to_vec).collect()
}

/// Works, and has it be a commit of its own.
fn step<T>(replica: &Replica, work: impl FnOnce(&Replica) -> Result<T, Error>) -> T {
    let done = work(replica).unwrap();
    replica.volume.commit_now().unwrap();
    replica.clock.advance(Duration::from_secs(1));
    done
}

#[test]
fn a_paths_versions_go_on_across_files_and_folders() {
    let alice = Replica::founder("alice", 1);
    let bob = Replica::joined("bob", 2, &alice, Role::Writer);
    step(&alice, |a| a.mkdir("folder"));
    step(&alice, |a| a.write("folder/note", b"one"));
    sync(&alice, &bob);
    step(&bob, |b| b.write("folder/note", b"two"));
    sync(&alice, &bob);
    // Saved by writing another and renaming it over.
    step(&alice, |a| a.write("folder/.note.tmp", b"three"));
    step(&alice, |a| a.rename("folder/.note.tmp", "folder/note"));
    step(&alice, |a| {
        let change = AttributeChange { mode: Some(0o600), ..AttributeChange::default() };
        a.volume.set_attributes(a.find("folder/note")?, None, &change, &Caller::default())
    });
    step(&alice, |a| a.rename("folder", "moved"));
    step(&alice, |a| a.mkdir("folder"));
    step(&alice, |a| a.rename("moved/note", "folder/note"));
    step(&alice, |a| a.remove("folder/note"));
    step(&alice, |a| a.rmdir("folder"));
    sync(&alice, &bob);
    let expected = [
        (Happened::Made, "alice", Some("one")),
        (Happened::Written, "bob", Some("two")),
        (Happened::Replaced { from: Some(path("folder/.note.tmp")) }, "alice", Some("three")),
        (Happened::Attributes, "alice", Some("three")),
        (Happened::MovedAway { to: Some(path("moved/note")) }, "alice", None),
        (Happened::MovedHere { from: path("moved/note") }, "alice", Some("three")),
        (Happened::Removed, "alice", None),
    ];
    for replica in [&alice, &bob] {
        let told = told(replica, "folder/note");
        let told: Vec<_> = told.iter().map(|(a, b, c)| (a.clone(), b.as_str(), c.as_deref())).collect();
        // An empty file that was made and written in one commit was never seen.
        assert_eq!(told, expected, "{}", replica.name);
    }
    let events: Vec<Happened> = versions(&alice, "folder").into_iter().rev().map(|v| v.happened).collect();
    let moved = Happened::MovedAway { to: Some(path("moved")) };
    assert_eq!(events, [Happened::Made, moved, Happened::Made, Happened::Removed]);
    // Also in one commit with what happens to the folder.
    step(&alice, |a| a.write("note", b"x"));
    step(&alice, |a| a.mkdir("new").and_then(|_| a.rename("note", "new/note")));
    step(&alice, |a| a.rename("new/note", "note").and_then(|()| a.rmdir("new")));
    let events: Vec<Happened> = versions(&alice, "new/note").into_iter().rev().map(|v| v.happened).collect();
    let moved = Happened::MovedHere { from: path("note") };
    assert_eq!(events, [moved, Happened::MovedAway { to: Some(path("note")) }]);
    assert!(versions(&alice, "folder/never").is_empty());
    assert!(versions(&alice, "never/note").is_empty());
    assert!(versions(&alice, "folder/note/deeper").is_empty());

    let changes = alice.volume.entry_changes(&names("folder"), 100).unwrap();
    let changes: Vec<(String, Happened)> =
        changes.into_iter().rev().map(|c| (String::from_utf8(c.name).unwrap(), c.happened)).collect();
    let said = |name: &str, happened| (name.to_owned(), happened);
    assert_eq!(changes.len(), 6, "{changes:?}");
    assert_eq!(changes[0], said("note", Happened::Made));
    assert_eq!(changes[1], said(".note.tmp", Happened::Made));
    assert!(changes[2..4].contains(&said("note", Happened::Replaced { from: Some(path("folder/.note.tmp")) })));
    assert!(changes[2..4].contains(&said(".note.tmp", Happened::MovedAway { to: Some(path("folder/note")) })));
    assert_eq!(changes[4], said("note", Happened::MovedHere { from: path("moved/note") }));
    assert_eq!(changes[5], said("note", Happened::Removed));
    assert_eq!(alice.volume.entry_changes(&names("folder"), 2).unwrap().len(), 2);
}

#[test]
fn what_two_had_both_seen_is_what_theirs_are_based_on() {
    let alice = Replica::founder("alice", 1);
    let bob = Replica::joined("bob", 2, &alice, Role::Writer);
    step(&alice, |a| a.write("note", b"first"));
    step(&alice, |a| a.write("note", b"base"));
    sync(&alice, &bob);
    step(&alice, |a| a.write("note", b"alice's"));
    step(&bob, |b| b.write("other", b"so that bob's ranks above"));
    step(&bob, |b| b.write("note", b"bob's"));
    sync(&alice, &bob);
    for replica in [&alice, &bob] {
        let listed = replica.volume.read_directory(Ino::ROOT, 2, 50).unwrap();
        let names = listed.into_iter().map(|entry| String::from_utf8(entry.name).unwrap());
        let copy = &names.into_iter().find(|name| name.starts_with("note") && name != "note").unwrap();
        // Whoever's commit made the name show: who wrote it is told.
        let told: Vec<(String, Option<String>)> = told(replica, copy).into_iter().map(|(_, by, c)| (by, c)).collect();
        assert_eq!(told, [("alice".to_owned(), Some("alice's".to_owned()))], "{}", replica.name);
        let changes = replica.volume.entry_changes(&[], 100).unwrap();
        let of_copy: Vec<&str> =
            changes.iter().filter(|c| c.name == copy.as_bytes()).map(|c| c.author.name.as_str()).collect();
        assert_eq!(of_copy, ["alice"], "{}", replica.name);
    }
    let versions = versions(&alice, "note");
    let contents: Vec<String> = told(&alice, "note").into_iter().rev().map(|(_, _, c)| c.unwrap()).collect();
    assert_eq!(contents, ["bob's", "alice's", "base", "first"]);
    let since: Vec<u64> = versions.iter().map(|version| version.since).collect();
    let base = |a, b| alice.volume.common_base(&versions, a, b).unwrap();
    assert_eq!(base(since[0], since[1]), Some(since[2]));
    assert_eq!(base(since[2], since[0]), Some(since[2]));
    assert_eq!(base(since[2], since[3]), Some(since[3]));
}

fn gone(replica: &Replica, directory: &str) -> Vec<(String, bool)> {
    let deleted = replica.volume.deleted(&names(directory)).unwrap();
    let mut told: Vec<_> = deleted.into_iter().map(|d| (String::from_utf8(d.name).unwrap(), d.moved)).collect();
    told.sort();
    told
}

#[test]
fn what_another_moved_at_the_same_time_is_not_gone() {
    let alice = Replica::founder("alice", 1);
    let bob = Replica::joined("bob", 2, &alice, Role::Writer);
    step(&alice, |a| a.mkdir("work"));
    sync(&alice, &bob);
    step(&bob, |b| b.rename("work", "moved"));
    step(&alice, |a| a.rmdir("work"));
    sync(&alice, &bob);
    for replica in [&alice, &bob] {
        assert!(replica.find("moved").is_ok());
        assert_eq!(gone(replica, ""), [("work".to_owned(), true)], "{}", replica.name);
    }
    let last = |replica| versions(replica, "work").swap_remove(0).happened;
    assert_eq!(last(&alice), Happened::Removed);
    assert_eq!(last(&bob), Happened::MovedAway { to: Some(path("moved")) });
}

#[test]
fn a_folder_that_was_taken_apart_is_gone_as_it_was_before() {
    let alice = Replica::founder("alice", 1);
    step(&alice, |a| a.mkdir("work"));
    step(&alice, |a| a.mkdir("work/deep"));
    step(&alice, |a| a.write("work/long ago", b"x"));
    step(&alice, |a| a.remove("work/long ago"));
    step(&alice, |a| a.write("work/kept", b"x"));
    step(&alice, |a| a.write("work/note", b"x"));
    step(&alice, |a| a.write("work/deep/file", b"last"));
    assert_eq!(gone(&alice, "work"), [("long ago".to_owned(), false)]);
    step(&alice, |a| a.rename("work/kept", "kept"));
    step(&alice, |a| a.remove("work/deep/file"));
    step(&alice, |a| a.rmdir("work/deep"));
    step(&alice, |a| a.remove("work/note"));
    step(&alice, |a| a.rmdir("work"));
    assert_eq!(gone(&alice, ""), [("work".to_owned(), false)]);
    let told = |name: &str, moved| (name.to_owned(), moved);
    assert_eq!(gone(&alice, "work"), [told("deep", false), told("kept", true), told("note", false)]);
    assert_eq!(gone(&alice, "work/deep"), [told("file", false)]);
    assert!(matches!(alice.volume.deleted(&names("kept")), Err(Error::NotFound)));
    assert!(matches!(alice.volume.deleted(&names("work/note")), Err(Error::NotDirectory)));
    assert!(matches!(alice.volume.deleted(&names("never")), Err(Error::NotFound)));
    // Saving leaves nothing deleted.
    for content in [b"1", b"2"] {
        step(&alice, |a| a.write(".tmp", content));
        step(&alice, |a| {
            let name = b"kept";
            a.volume.rename(Ino::ROOT, b".tmp", Ino::ROOT, name, RenameMode::Replace)
        });
    }
    assert_eq!(gone(&alice, ""), [told(".tmp", true), told("work", false)]);
}
