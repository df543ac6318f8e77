//! What was comes back: files and folders by `p2pfs restore`, and all that one device did by `p2pfs undo`.

#![allow(clippy::unwrap_used, reason = "whatever fails here fails the test")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use jiff::Timestamp;
use p2pfs_tests::{
    group::Group,
    peer::Peer,
    tool::shell,
    tree::{Entry, differences, grow, snapshot},
};
use serde_json::Value;

/// A moment from now, as one types it, apart from what comes before and after.
fn moment() -> String {
    thread::sleep(Duration::from_millis(50));
    let now = Timestamp::now();
    thread::sleep(Duration::from_millis(50));
    format!("{now:.3}")
}

/// The other's device, by its first digits.
fn device(of: &Peer) -> String {
    let devices: Value = serde_json::from_str(&of.run(["devices", "--json"])).unwrap();
    let mine = devices.as_array().unwrap().iter().find(|device| device["me"] == true).unwrap();
    mine["device"].as_str().unwrap()[..12].to_owned()
}

/// What a line says takes it back; the line that tells what takes that back.
fn take_back(peer: &Peer, said: &str) -> String {
    let (_, command) = said.rsplit_once("p2pfs undo ").unwrap();
    let mut words: Vec<String> = command.split(' ').map(str::to_owned).collect();
    words.insert(0, "undo".to_owned());
    peer.run(words).lines().last().unwrap().to_owned()
}

fn path(peer: &Peer, at: &str) -> String {
    peer.at(at).to_str().unwrap().to_owned()
}

#[test]
fn files_and_folders_are_restored() {
    let mut peer = Peer::alone();
    fs::create_dir(peer.at("work")).unwrap();
    grow(&peer.at("work"), 300, 3);
    fs::write(peer.at("note"), "first").unwrap();
    let copy = peer.scratch().join("copy");
    shell(peer.scratch(), &format!("cp -a {} copy", peer.at("work").display()));
    let then = moment();
    fs::write(peer.at("note"), "second").unwrap();
    let said = peer.run(["restore", &path(&peer, "note")]);
    assert_eq!(fs::read_to_string(peer.at("note")).unwrap(), "first");
    assert!(said.starts_with("restored note (5 B) as of ") && !said.contains('\n'), "{said}");
    take_back(&peer, &said);
    assert_eq!(fs::read_to_string(peer.at("note")).unwrap(), "second");

    shell(peer.root(), "rm -r work");
    let told = peer.run(["restore", &path(&peer, "work"), "--dry-run"]);
    assert!(told.starts_with("would restore work ("), "{told}");
    assert!(!peer.at("work").exists());
    let said = peer.run(["restore", &path(&peer, "work")]);
    differences(&copy, &peer.at("work")).unwrap();
    take_back(&peer, &said);
    assert!(!peer.at("work").exists());
    // To elsewhere, by a time, from a mount that was not there then, with what reads it having seen nothing.
    peer.remount();
    peer.run(["restore", &path(&peer, "work"), "--at", &then, "--to", &path(&peer, "else/where")]);
    differences(&copy, &peer.at("else/where")).unwrap();
    shell(peer.root(), "rm -rf else/where/*; mkdir else/where/new");
    peer.run(["restore", &path(&peer, "else"), "--at", "now", "--exact"]);
    let refused = peer.refused(["restore", &path(&peer, "nothing")]);
    assert!(refused.contains("nothing was there"), "{refused}");
    fs::create_dir(peer.at("folder")).unwrap();
    let refused = peer.refused(["restore", &path(&peer, "note"), "--to", &path(&peer, "folder")]);
    assert!(refused.contains("folder is something of another kind now"), "{refused}");
    let refused = peer.refused(["restore", "/tmp"]);
    assert!(refused.contains("lies in no mounted volume"), "{refused}");
    let refused = peer.refused(["restore", &path(&peer, "note"), "--version", "1st"]);
    assert!(refused.contains("is no version"), "{refused}");
}

#[test]
fn a_version_is_restored_by_its_name() {
    let peer = Peer::alone();
    let mut times = Vec::new();
    for text in ["one", "two", "three"] {
        fs::write(peer.at("note"), text).unwrap();
        times.push(moment());
    }
    // As it would be called that began to show at that time.
    peer.run(["restore", &path(&peer, "note"), "--version", &format!("{}~alice.txt", times[0])]);
    assert_eq!(fs::read_to_string(peer.at("note")).unwrap(), "one");
    peer.run(["restore", &path(&peer, "note"), "--version", &times[1]]);
    assert_eq!(fs::read_to_string(peer.at("note")).unwrap(), "two");
}

const FILES: u64 = 2000;

/// All of it, but for what is not the mount's own.
fn everything(peer: &Peer) -> BTreeMap<PathBuf, Entry> {
    snapshot(peer.root()).unwrap()
}

/// Holds all of a tree but some against what it is to be.
fn differences_but_for(
    expected: &BTreeMap<PathBuf, Entry>,
    found: &BTreeMap<PathBuf, Entry>,
    but: impl Fn(&Path) -> bool,
) {
    for (path, entry) in expected.iter().filter(|(path, _)| !but(path)) {
        assert_eq!(found.get(path), Some(entry), "{}", path.display());
    }
    let more = found.keys().find(|path| !but(path) && !expected.contains_key(*path));
    assert_eq!(more, None);
}

/// Does to each file, by its number, what ransomware does.
fn attack(root: &Path) {
    let mut folders = vec![root.to_owned()];
    let mut nth = 0;
    while let Some(folder) = folders.pop() {
        let mut found: Vec<PathBuf> = fs::read_dir(&folder).unwrap().map(|found| found.unwrap().path()).collect();
        found.sort();
        for path in found {
            let known = fs::symlink_metadata(&path).unwrap();
            if known.is_dir() {
                folders.push(path);
                continue;
            }
            let mut encrypted = path.clone().into_os_string();
            encrypted.push(".enc");
            nth += 1;
            if !known.is_file() {
                fs::remove_file(&path).unwrap();
                continue;
            }
            let garbage = vec![nth as u8; known.len() as usize + 16];
            match nth % 4 {
                0 => {
                    fs::write(&path, garbage).unwrap();
                    fs::rename(&path, encrypted).unwrap();
                }
                1 => {
                    fs::write(&encrypted, garbage).unwrap();
                    fs::remove_file(&path).unwrap();
                }
                2 => {
                    fs::write(&encrypted, garbage).unwrap();
                    fs::rename(encrypted, &path).unwrap();
                }
                _ => fs::remove_file(&path).unwrap(),
            }
        }
        fs::write(folder.join("HOW TO PAY.txt"), "pay").unwrap();
    }
}

#[test]
fn what_encrypts_everything_on_one_device_is_taken_back_by_one_command() {
    let group = Group::two();
    let (alice, mallory) = (group.alice(), group.bob());
    grow(alice.root(), FILES, 11);
    fs::write(alice.at("report.txt"), "draft").unwrap();
    fs::write(alice.at("shared.txt"), "draft").unwrap();
    group.in_step();
    let before = everything(alice);
    let since = moment();
    attack(mallory.root());
    group.in_step();
    // She goes on working: in a file of her own, in one of those, and in one that was spoilt.
    fs::write(alice.at("diary.txt"), "something is wrong").unwrap();
    fs::write(alice.at("report.txt"), "final").unwrap();
    group.in_step();
    let attacked = everything(alice);
    assert_ne!(before, attacked);
    let undo = ["undo", "--device", &device(mallory), "--since", &since];
    let told = alice.run(undo.into_iter().chain(["--dry-run"]));
    assert_eq!(everything(alice), attacked);
    let said = alice.run(undo);
    println!("{}", told.lines().last().unwrap());
    println!("{}", said.lines().last().unwrap());
    let after = everything(alice);
    assert_eq!(fs::read(alice.at("diary.txt")).unwrap(), b"something is wrong");
    let expected = before;
    assert_eq!(fs::read(alice.at("report.txt")).unwrap(), b"final");
    // (Where they had moved it away, it is a file of its own beside hers.)
    let hers = |path: &Path| ["diary", "report"].iter().any(|name| path.to_string_lossy().starts_with(name));
    differences_but_for(&expected, &after, hers);
    group.in_step();
    // A second time there is nothing to do; and all of it can be taken back.
    assert!(alice.run(undo).lines().last().unwrap().starts_with("nothing to take back"));
    let back = take_back(alice, said.lines().last().unwrap());
    assert_eq!(everything(alice), attacked);
    group.in_step();
    let refused = alice.refused(["undo", "--device", "ffffffff", "--since", &since]);
    assert!(refused.contains("no device begins with"), "{refused}");
    let refused = alice.refused(["undo", "--user", "nobody", "--since", &since]);
    assert!(refused.contains("there is no user nobody"), "{refused}");
    // What took that back, too, is taken back by its own line: the tree is healed again.
    take_back(alice, &back);
    differences_but_for(&expected, &everything(alice), hers);
    let undone: Value =
        serde_json::from_str(&alice.run(["undo", "--user", "bob", "--since", &since, "--json"])).unwrap();
    assert_eq!(undone["failed"], 0, "{undone}");
}

#[test]
fn what_stays_as_others_changed_it_is_told_and_names_stay_in_their_line() {
    let group = Group::two();
    let (alice, mallory) = (group.alice(), group.bob());
    fs::create_dir(alice.at("work")).unwrap();
    for name in ["work/a", "work/b", "other"] {
        fs::write(alice.at(name), "draft").unwrap();
    }
    group.in_step();
    let since = moment();
    for name in ["work/a", "work/b", "other"] {
        fs::write(mallory.at(name), "encrypted").unwrap();
    }
    fs::rename(mallory.at("work/b"), mallory.at("work/b.enc")).unwrap();
    fs::write(mallory.at("work/x\nkept          all is well\u{1b}[2J"), "pay").unwrap();
    group.in_step();
    for name in ["work/a", "work/b.enc"] {
        fs::write(alice.at(name), "encrypted, and more").unwrap();
    }
    group.in_step();
    let (device, work) = (device(mallory), path(alice, "work"));
    let undo = ["undo", "--device", &device, "--since", &since, "--path", &work];
    let check = |said: &str, would: &str| {
        let kept = "kept          work/a: others changed it since";
        let name = "moved back    work/b (was work/b.enc); others changed it since, its contents were kept";
        let made = "removed       work/x\\nkept          all is well\\u{1b}[2J";
        for line in [kept, name, made] {
            assert!(said.lines().any(|said| said == line), "{line}: {said}");
        }
        let last = said.lines().last().unwrap();
        let sum = format!("1 file {would}put back, 1 {would}removed, 2 {would}kept as others changed it since");
        assert!(last.starts_with(&sum), "{last}");
    };
    check(&alice.run(undo.into_iter().chain(["--dry-run"])), "would be ");
    let told: Value = serde_json::from_str(&alice.run(undo.into_iter().chain(["--dry-run", "--json"]))).unwrap();
    assert_eq!(told["kept"], 2, "{told}");
    let kept = told["steps"].as_array().unwrap().iter().filter(|step| step["contents_kept"] == true);
    assert_eq!(kept.count(), 2, "{told}");
    let said = alice.run(undo);
    check(&said, "");
    // What takes it back keeps to the path, too.
    assert!(said.ends_with(&format!(" --path {work}")), "{said}");
    assert_eq!(fs::read_to_string(alice.at("other")).unwrap(), "encrypted");
    assert_eq!(fs::read_to_string(alice.at("work/b")).unwrap(), "encrypted, and more");
}
