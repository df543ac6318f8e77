//! The first minutes of somebody new, and of somebody for whom something doesn't work.

use std::{
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use p2pfs_tests::{
    group::Group,
    peer::{Peer, one_refusal},
    scratch::Scratch,
    tool::succeed,
};
use serde_json::Value;

fn new(name: &str) -> Peer {
    Peer::new(&Arc::new(Scratch::new()), name)
}

/// What `p2pfs init` shows on a terminal on which these lines are typed, and whether it did its work.
fn typed(peer: &Peer, more: &str, lines: &str) -> (String, bool) {
    peer.typed(&format!("init {more}"), lines)
}

#[test]
fn init_asks_for_what_it_needs_and_says_what_for() {
    let mut peer = new("alice");
    let (shown, done) = typed(&peer, "", "Alice\nalice\n\nnowhere\n\nno\n");
    assert!(done, "{shown}");
    for part in ["no server", "name [root]", "1 to 32 of a-z", "A registry lets", "volume p2pfs (", "alice owns it"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    peer.mount();
    assert_eq!(peer.listing("status")["user"], "alice");
    // What is given isn't asked for, and a label that is taken is asked for again.
    let (shown, done) = typed(&peer, "--no-passphrase", "bob\np2pfs\nother\n\n");
    assert!(done && shown.contains("is here already") && shown.contains("volume other ("), "{shown}");
    assert!(!shown.contains("protect the keys"), "{shown}");
    let id = peer.listing("volumes").as_array().unwrap().iter().find(|v| v["volume"] == "other").unwrap()["id"].clone();
    let next = format!("p2pfs mount --volume {} FOLDER", &id.as_str().unwrap()[..8]);
    assert!(shown.contains(&next), "{next}: {shown}");
    // A passphrase that was mistyped is asked for again, but not for ever.
    let (shown, done) = typed(&peer, "", "carol\nthird\n\nyes\nhorse\nhorsf\n\nhorse\nhorse\n");
    assert!(done && shown.contains("the two differ") && shown.contains("it is empty"), "{shown}");
    let (shown, done) = typed(&peer, "", "dave\nfourth\n\nyes\na\nb\na\nb\na\nb\n");
    assert!(!done && shown.contains("--no-passphrase"), "{shown}");
    // Whoever turns round has made nothing.
    let (shown, done) = typed(&peer, "", "carol\n\u{4}");
    assert!(!done && shown.contains("nothing was done"), "{shown}");
    assert_eq!(peer.listing("volumes").as_array().unwrap().len(), 3);
}

#[test]
fn init_without_a_terminal_says_what_is_missing() {
    let peer = new("alice");
    let done = peer.command(["init"]).output().unwrap();
    assert_eq!(done.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&done.stderr).contains("--name NAME"), "{done:?}");
}

#[test]
fn without_a_home_the_mount_point_is_to_be_given() {
    let peer = new("alice");
    peer.init(&[]);
    let done = peer.command(["mount"]).env_remove("HOME").output().unwrap();
    assert!(one_refusal("mount", &done).ends_with("give the mount point"), "{done:?}");
}

#[test]
fn a_locked_volume_is_found_by_its_label() {
    let peer = new("alice");
    let file = peer.scratch().join("passphrase");
    fs::write(&file, "horse battery\n").unwrap();
    let opened = ["--passphrase-file", file.to_str().unwrap()];
    for label in ["docs", "photos"] {
        peer.run(["init", "--name", "alice", "--volume", label].iter().chain(&opened));
    }
    assert!(peer.run(["volumes"]).contains("(locked: --passphrase-file shows it)"));
    let refused = peer.refused(["status", "--volume", "photos"]);
    assert!(refused.contains("labels of locked ones (") && refused.ends_with("give that, or the id"), "{refused}");
    assert!(peer.run(["status", "--volume", "photos"].iter().chain(&opened)).contains("volume      photos ("));
    // On a terminal it is asked for, once; what opens no such volume finds none.
    let (shown, done) = peer.typed("status --volume photos", "horse battery\n");
    assert!(done && shown.contains("volume      photos (") && shown.matches("passphrase: ").count() == 1, "{shown}");
    let (shown, done) = peer.typed("status --volume music", "horse battery\n");
    assert!(!done && shown.contains("no volume here is known as music") && shown.contains("docs ("), "{shown}");
}

#[test]
fn a_volume_is_forgotten_when_it_is_meant() {
    let mut peer = Peer::alone();
    fs::write(peer.at("plan"), "meet at noon").unwrap();
    let forget = ["forget", "--volume", "p2pfs"];
    let mounted = peer.refused(forget.iter().chain(&["--yes"]));
    assert!(mounted.contains("is already mounted at") && mounted.contains("`p2pfs unmount`"), "{mounted}");
    assert_eq!(fs::read_to_string(peer.at("plan")).unwrap(), "meet at noon");
    peer.unmount();
    assert!(peer.refused(forget).ends_with("give --yes"));
    assert!(peer.refused(["forget", "--volume", "other", "--yes"]).contains("no volume here is known as other"));
    let (shown, done) = peer.typed("forget --volume p2pfs", "yes\n");
    assert!(!done && shown.contains("lost for good") && shown.contains("nothing was done"), "{shown}");
    assert!(peer.volume_folder().join("keys").exists());
    let (shown, done) = peer.typed("forget --volume p2pfs", "p2pfs\n");
    assert!(done && shown.contains("is not on this machine any more"), "{shown}");
    assert_eq!(fs::read_dir(peer.home().join("volumes")).unwrap().count(), 0);
    // There is room for a new one of that name, and no question where nobody is to be asked.
    peer.init(&[]);
    let id = peer.listing("volumes")[0]["id"].as_str().unwrap()[..8].to_owned();
    peer.run(["forget", "--volume", &id, "--yes"]);
    assert_eq!(peer.listing("volumes").as_array().unwrap().len(), 0);
}

/// What `p2pfs doctor` found of something.
fn found(peer: &Peer, what: &str) -> Vec<Value> {
    let all: Value = serde_json::from_slice(&peer.command(["doctor", "--json"]).output().unwrap().stdout).unwrap();
    all.as_array().unwrap().iter().filter(|check| check["what"] == what).cloned().collect()
}

#[test]
fn the_doctor_finds_nothing_where_nothing_is_wrong() {
    let peer = new("alice");
    // What other tests have mounted meanwhile may well hang.
    let shown = String::from_utf8(peer.command(["doctor"]).output().unwrap().stdout).unwrap();
    assert!(shown.contains("fuse") && shown.contains("none yet: `p2pfs init` makes one"), "{shown}");
    assert!(!peer.home().join("volumes").exists(), "it makes nothing");
    drop(peer);
    let group = Group::two();
    let states = found(group.alice(), "p2pfs");
    assert!(!states.is_empty() && states.iter().all(|check| check["state"] == "good"), "{states:?}");
}

#[test]
fn the_doctor_finds_a_dead_mount_and_lonely_devices() {
    let mut group = Group::two();
    group.peers[1].unmount();
    let alone = found(group.alice(), "p2pfs");
    let lonely = alone.iter().find(|check| check["found"].as_str().unwrap().contains("1 other device"));
    assert!(lonely.unwrap()["fix"].as_str().unwrap().contains("UDP port"), "{alone:?}");
    group.peers[0].kill9();
    let alice = group.alice();
    let path = alice.root().display().to_string();
    let mounts = found(alice, "mounts");
    let dead = mounts.iter().find(|check| check["found"].as_str().unwrap().contains(&path)).expect("it is told");
    // What it says to do does it.
    let fix = dead["fix"].as_str().unwrap();
    let command = fix.split('`').nth(1).unwrap().strip_prefix("p2pfs ").unwrap();
    alice.run(command.split(' '));
    assert!(found(alice, "mounts").iter().all(|check| !check["found"].as_str().unwrap().contains(&path)));
    let not = found(alice, "p2pfs");
    assert!(not[0]["found"].as_str().unwrap().starts_with("is not mounted"), "{not:?}");
}

#[test]
fn the_doctor_comes_to_its_end_where_a_daemon_hangs() {
    let peer = Peer::alone();
    peer.freeze();
    let began = Instant::now();
    let done = peer.command(["doctor"]).output().unwrap();
    let took = began.elapsed();
    peer.thaw();
    let shown = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(took < Duration::from_secs(20), "{took:?}: {shown}");
    assert_eq!(done.status.code(), Some(1), "{shown}");
    let line = |part: &str| shown.lines().find(|line| line.contains(part)).unwrap_or_else(|| panic!("{part}: {shown}"));
    let hangs = line(&format!("{} hangs", peer.root().display()));
    assert!(hangs.starts_with("BAD"), "{shown}");
    let silent = line("does not answer: ");
    assert!(silent.starts_with("BAD") && silent.contains(&format!("(process {})", peer.pid())), "{shown}");
    // It was the machine's doing, and all goes on.
    fs::write(peer.at("a"), "b").unwrap();
    assert!(found(&peer, "p2pfs").iter().all(|check| check["state"] == "good"));
}

#[test]
fn the_doctor_fails_where_nothing_can_work() {
    let peer = Peer::alone();
    let format = peer.volume_folder().join("format");
    let kept = fs::read(&format).unwrap();
    fs::write(&format, "999\n").unwrap();
    fs::write(peer.volume_folder().join("format.copy"), "999\n").unwrap();
    let done = peer.command(["doctor"]).output().unwrap();
    assert_eq!(done.status.code(), Some(1), "{done:?}");
    assert!(String::from_utf8_lossy(&done.stdout).contains("BAD"), "{done:?}");
    fs::write(&format, &kept).unwrap();
    fs::write(peer.volume_folder().join("format.copy"), &kept).unwrap();
}

/// The words after `p2pfs` in code of a page: a command, and perhaps one of its own.
fn commands_in(page: &str) -> Vec<(String, Option<String>)> {
    let mut in_block = false;
    let mut found = Vec::new();
    for line in page.lines() {
        if line.starts_with("```") {
            in_block = !in_block;
        }
        let code = in_block || line.starts_with("    ");
        let pieces: Vec<&str> = if code { vec![line.trim()] } else { line.split('`').skip(1).step_by(2).collect() };
        for piece in pieces {
            let mut words = piece.strip_prefix("p2pfs ").unwrap_or_default().split_whitespace();
            let is_word = |word: &&str| {
                word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-') && !word.starts_with('-')
            };
            if let Some(command) = words.next().filter(is_word) {
                found.push((command.to_owned(), words.next().filter(is_word).map(str::to_owned)));
            }
        }
    }
    found
}

#[test]
fn every_command_that_the_pages_name_is_there() {
    let peer = new("alice");
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut pages = vec![root.join("README.md")];
    pages.extend(["guide", "semantics", "operations", "threat-model"].map(|name| root.join(format!("docs/{name}.md"))));
    let help = |arguments: &[&str]| succeed(&mut peer.command([arguments, &["--help"]].concat()));
    let listed =
        |help: &str, command: &str| help.lines().any(|line| line.trim_start().split(' ').next() == Some(command));
    let all = help(&[]);
    let mut seen = 0;
    for page in pages {
        for (command, second) in commands_in(&fs::read_to_string(&page).unwrap()) {
            assert!(listed(&all, &command), "{}: there is no `p2pfs {command}`", page.display());
            let own = help(&[&command]);
            if own.contains("<COMMAND>")
                && let Some(second) = second
            {
                assert!(listed(&own, &second), "{}: there is no `p2pfs {command} {second}`", page.display());
            }
            seen += 1;
        }
    }
    assert!(seen > 100, "{seen} were found");
}
