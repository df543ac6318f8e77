//! The audit log, as users have it: what was done and what was denied, entry by entry.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions, Permissions},
    io::{BufRead as _, BufReader, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use p2pfs_tests::{
    deeds::{WITH_FILE, WITH_FOLDER},
    group::Group,
    patience::eventually,
    peer::Peer,
    process::ended_within,
    scratch::Scratch,
    tool::{shell, succeed},
};
use serde_json::Value;

/// The entries that `p2pfs log` shows with these arguments.
fn log(peer: &Peer, arguments: &[&str]) -> Vec<Value> {
    let shown = peer.run([&["log", "--json"], arguments].concat());
    shown.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// How many there are of each operation, allowed and denied.
fn counts(entries: &[Value]) -> BTreeMap<(String, bool), usize> {
    let mut counts = BTreeMap::new();
    for entry in entries {
        let op = entry["op"].as_str().unwrap().to_owned();
        *counts.entry((op, entry["allowed"].as_bool().unwrap())).or_default() += 1;
    }
    counts
}

fn count(entries: &[Value], op: &str, allowed: bool) -> usize {
    counts(entries).get(&(op.to_owned(), allowed)).copied().unwrap_or(0)
}

fn segments(peer: &Peer) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> =
        fs::read_dir(peer.volume_folder().join("audit")).unwrap().map(|entry| entry.unwrap().path()).collect();
    all.sort();
    all
}

#[test]
fn a_thousand_operations_are_a_thousand_entries_on_both_devices() {
    let group = Group::two();
    let (alice, bob) = (group.alice(), group.bob());
    fs::create_dir(alice.at("d")).unwrap();
    for nth in 0..200 {
        let path = alice.at(format!("d/{nth}"));
        fs::write(&path, format!("text {nth}")).unwrap();
        fs::read(&path).unwrap();
        fs::rename(&path, alice.at(format!("d/{nth}.moved"))).unwrap();
        fs::remove_file(alice.at(format!("d/{nth}.moved"))).unwrap();
    }
    group.in_step();
    let own = log(alice, &["--path", "d"]);
    assert_eq!(count(&own, "create", true), 201);
    for op in ["write", "read", "rename", "remove"] {
        assert_eq!(count(&own, op, true), 200, "{op}: {:?}", counts(&own));
    }
    assert!(own.iter().all(|entry| entry["allowed"] == true && entry["user"] == "alice" && entry["pid"].is_number()));
    let written = own.iter().find(|entry| entry["op"] == "write" && entry["path"] == "d/7").unwrap();
    assert_eq!(written["bytes"], 6, "{written}");
    let moved = own.iter().find(|entry| entry["op"] == "rename" && entry["path"] == "d/7").unwrap();
    assert_eq!(moved["to"], "d/7.moved", "{moved}");
    // What the other device heard of, by her account; reading tells nobody.
    let heard = log(bob, &["--user", "alice"]);
    for (op, times) in [("create", 201), ("write", 200), ("rename", 200), ("remove", 200), ("read", 0)] {
        assert_eq!(count(&heard, op, true), times, "{op}: {:?}", counts(&heard));
    }
    assert!(heard.iter().all(|entry| entry["pid"].is_null()), "nobody did it here");
    assert!(bob.run(["log", "--op", "connection"]).contains("connected"));
    assert!(alice.run(["log", "--op", "mount"]).contains("mounted at"));
    for peer in [alice, bob] {
        assert!(peer.run(["log", "verify"]).contains("none missing or changed"));
    }
    assert_eq!(log(alice, &["-n", "3"]).len(), 3);
    assert!(alice.refused(["log", "--op", "writes"]).contains("nothing is recorded as `writes`"));
    assert!(alice.run(["log", "export", "--format", "cef", "--op", "rename"]).starts_with("CEF:0|p2pfs|"));
}

#[test]
fn every_refusal_is_an_entry_with_who_and_why() {
    let mut group = Group::two();
    group.add_as("carol", "reader");
    let alice = group.alice();
    for mode in [0o600, 0o640] {
        let file = alice.at(format!("file{mode:o}"));
        fs::write(&file, "text").unwrap();
        fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
        let folder = alice.at(format!("folder{mode:o}"));
        fs::create_dir_all(folder.join("sub")).unwrap();
        fs::write(folder.join("f"), "text").unwrap();
        shell(&folder, "ln -s there l");
        fs::set_permissions(&folder, Permissions::from_mode(mode | 0o100)).unwrap();
    }
    group.peers.iter().for_each(Peer::wait);
    eventually("permissions followed", || match alice.listing("status")["following"].as_u64() {
        Some(0) => Ok(()),
        left => Err(format!("{left:?}")),
    });
    group.peers.iter().for_each(Peer::wait);
    for (peer, user) in [(group.bob(), "bob"), (group.carol(), "carol")] {
        let before = log(peer, &["--denied", "--user", user]).len();
        let mut denied = 0;
        for mode in [0o600, 0o640] {
            let all =
                WITH_FILE.iter().map(|deed| ("file", deed)).chain(WITH_FOLDER.iter().map(|deed| ("folder", deed)));
            for (kind, (what, deed)) in all {
                // These are of the folder that the file is in.
                if kind == "file" && ["link", "rename", "unlink"].contains(what) {
                    continue;
                }
                let name = format!("{kind}{mode:o}");
                let Err(error) = deed(&peer.at(&name)) else { continue };
                denied += 1;
                let last = log(peer, &["--denied", "-n", "1"]).pop().unwrap();
                let path = last["path"].as_str().unwrap();
                assert!(path == name || path.starts_with(&format!("{name}/")), "{what} of {name}: {error}: {last}");
                assert_eq!(last["user"], user);
                assert!(last["why"].as_str().is_some_and(|why| !why.is_empty()));
                assert!(last["program"].is_string());
            }
        }
        let entries = log(peer, &["--denied", "--user", user]);
        assert_eq!(entries.len() - before, denied, "{user}: {:?}", counts(&entries));
        assert!(denied > 20);
    }
}

#[test]
fn whoever_changes_the_log_is_noticed() {
    let mut group = Group::two();
    for nth in 0..20 {
        fs::write(group.alice().at(format!("confidential {nth}")), "x").unwrap();
    }
    group.in_step();
    succeed(&mut group.alice().command(["log", "verify"]));
    let alice = &mut group.peers[0];
    alice.unmount();
    let newest = segments(alice).pop().unwrap();
    let whole = fs::read(&newest).unwrap();
    assert!(!whole.windows(12).any(|window| window == b"confidential"), "names are sealed");
    let mut flipped = whole.clone();
    flipped[whole.len() / 3] ^= 1;
    fs::write(&newest, &flipped).unwrap();
    assert!(alice.refused(["log", "verify"]).contains("is not as it was written"));
    fs::write(&newest, &whole).unwrap();
    // What was found is kept, and told until somebody takes it away.
    assert!(alice.refused(["log", "verify"]).contains(".damaged is a part of the log that was changed"));
    fs::remove_file(newest.with_extension("damaged")).unwrap();
    succeed(&mut alice.command(["log", "verify"]));
    // Cut at the end, which the log alone does not show: this device had signed more.
    fs::remove_file(&newest).unwrap();
    let cut = alice.refused(["log", "verify"]);
    assert!(cut.contains("this device had signed that there are"), "{cut}");
    fs::write(&newest, &whole).unwrap();
    // Torn by a crash: what was whole stays, and it goes on.
    OpenOptions::new().append(true).open(&newest).unwrap().write_all(&[9, 0, 0]).unwrap();
    alice.mount();
    fs::write(alice.at("after"), "x").unwrap();
    succeed(&mut alice.command(["log", "verify"]));
    assert_eq!(count(&log(alice, &["--path", "after"]), "create", true), 1);
}

#[test]
fn what_a_crash_left_unpublished_is_told_when_it_is_published() {
    let mut alice = Peer::alone();
    let mut file = fs::File::create(alice.at("draft")).unwrap();
    file.write_all(&[7; 100_000]).unwrap();
    file.sync_all().unwrap();
    alice.kill9();
    drop(file);
    alice.mount();
    assert_eq!(fs::read(alice.at("draft")).unwrap(), [7; 100_000]);
    let told = log(&alice, &["--path", "draft", "--op", "write"]);
    assert!(told.iter().any(|entry| entry["bytes"] == 100_000), "{told:?}");
}

#[test]
fn wrong_passphrases_are_recorded_once_somebody_knows_the_right_one() {
    let peer = Peer::new(&Arc::new(Scratch::new()), "alice");
    let file = |name: &str| {
        let path = peer.scratch().join(name);
        fs::write(&path, name).unwrap();
        path.into_os_string().into_string().unwrap()
    };
    let (right, wrong) = (file("right horse"), file("wrong horse"));
    peer.run(["init", "--name", "alice", "--passphrase-file", &right]);
    for _ in 0..10 {
        assert!(peer.refused(["log", "--passphrase-file", &wrong]).contains("wrong passphrase"));
    }
    let denied = log(&peer, &["--op", "unlock", "--denied", "--passphrase-file", &right]);
    assert_eq!(denied.len(), 10);
    for entry in &denied {
        assert_eq!(entry["why"], "wrong passphrase");
        assert_eq!(entry["uid"], rustix::process::getuid().as_raw());
        assert!(entry["pid"].is_u64());
    }
    let alerts = peer.run(["alerts", "--passphrase-file", &right]);
    assert!(alerts.contains("10 wrong passphrases were tried on this machine"), "{alerts}");
    let all = log(&peer, &["--op", "unlock", "--passphrase-file", &right]);
    assert_eq!((count(&all, "unlock", false), count(&all, "unlock", true)), (10, 3), "each told once");
}

#[test]
fn what_the_registry_tells_is_recorded() {
    let mut group = Group::two();
    group.registry.stop();
    eventually("the loss is an entry", || {
        let entries = log(group.bob(), &["--op", "discovery"]);
        let notes: Vec<&str> = entries.iter().filter_map(|entry| entry["note"].as_str()).collect();
        let all = ["registered with ", "found at ", "lost registry "];
        match all.iter().all(|begin| notes.iter().any(|note| note.starts_with(begin))) {
            true => Ok(()),
            false => Err(notes.join("; ")),
        }
    });
}

#[test]
fn following_ends_with_who_reads_it_and_needs_the_mount() {
    let mut peer = Peer::alone();
    peer.run(["msg", "send", "@all", "hello"]);
    for words in [&["log", "--follow"][..], &["msg", "list", "--follow"]] {
        let mut child = peer.command(words).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        // As `| head -n 1` reads. Nothing more need come for it to end.
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.ends_with('\n'), "{words:?}: {line}");
        let ended = ended_within(&mut child, Duration::from_secs(60));
        assert!(ended.is_some_and(|status| status.success()), "{words:?}: {ended:?}");
    }
    peer.unmount();
    for words in [&["log", "--follow"][..], &["msg", "list", "--follow"]] {
        assert!(peer.refused(words).contains("is not mounted: mount it with"), "{words:?}");
    }
    // Whoever only looks need not mount.
    assert!(peer.run(["msg", "list"]).contains("hello"));
    assert_eq!(peer.run(["msg", "list", "--search", "goodbye"]), "none of the messages is meant by that");
}
