//! What was comes back: files and folders by `p2pfs restore`, and all that one device did by `p2pfs undo`.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::Command,
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
    assert!(told.lines().last().unwrap().starts_with("would restore work ("), "{told}");
    assert!(told.lines().filter(|line| line.starts_with("brought back  work/")).count() > 100, "{told}");
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
    // Of what is there nobody knows as of when it is meant.
    let refused = peer.refused(["restore", &path(&peer, "else")]);
    assert!(refused.contains("else is there: say as of when, with --at or --version"), "{refused}");
    peer.run(["restore", &path(&peer, "else"), "--at", "now", "--exact"]);
    let refused = peer.refused(["restore", &path(&peer, "nothing")]);
    assert!(refused.contains("nothing was there"), "{refused}");
    fs::create_dir(peer.at("folder")).unwrap();
    let refused = peer.refused(["restore", &path(&peer, "note"), "--to", &path(&peer, "folder")]);
    assert!(refused.contains("folder is something of another kind now"), "{refused}");
    let refused = peer.refused(["restore", "/tmp"]);
    assert!(refused.contains("lies in no mounted volume"), "{refused}");
    let refused = peer.refused(["restore", &path(&peer, "note"), "--version", "1st"]);
    assert!(refused.contains("note has no version '1st': `p2pfs history` lists them"), "{refused}");
    let refused = peer.refused(["restore", &path(&peer, "note/deeper")]);
    assert!(refused.contains("note/deeper: what it lies in is no folder"), "{refused}");
    for (typed, said) in [("2999-01-01", "2999-01-01 is still to come"), ("", "'' is no time and no snapshot")] {
        let refused = peer.refused(["restore", &path(&peer, "note"), "--at", typed]);
        assert!(refused.contains(said), "{refused}");
        let refused = peer.refused(["undo", "--user", "alice", "--since", typed]);
        assert!(refused.contains(said), "{refused}");
    }
}

#[test]
fn a_folder_is_restored_to_the_moment_that_was_told() {
    let peer = Peer::alone();
    fs::create_dir(peer.at("work")).unwrap();
    grow(&peer.at("work"), 300, 5);
    let before = snapshot(&peer.at("work")).unwrap();
    shell(peer.root(), "rm -r work");
    let done = peer.command(["restore", &path(&peer, "work")]).output().unwrap();
    assert!(done.status.success(), "{done:?}");
    let said = String::from_utf8(done.stderr).unwrap();
    let told = said.lines().find(|line| line.contains("restoring ")).unwrap();
    let at = told.rsplit_once(" as of ").unwrap().1;
    // As one that was interrupted leaves it.
    shell(peer.root(), "rm -rf work/*");
    let refused = peer.refused(["restore", &path(&peer, "work")]);
    assert!(refused.contains("a restore that was interrupted goes on with --at"), "{refused}");
    let listed = peer.run(["restore", &path(&peer, "work"), "--at", at, "--dry-run"]);
    assert!(listed.lines().any(|line| line.starts_with("brought back  work/")), "{listed}");
    peer.run(["restore", &path(&peer, "work"), "--at", at]);
    assert_eq!(snapshot(&peer.at("work")).unwrap(), before);
}

#[test]
fn snapshots_are_times_too() {
    let peer = Peer::alone();
    fs::write(peer.at("note"), "first").unwrap();
    peer.run(["snapshot", "create", "draft"]);
    fs::write(peer.at("note"), "second").unwrap();
    peer.run(["restore", &path(&peer, "note"), "--at", "draft"]);
    assert_eq!(fs::read_to_string(peer.at("note")).unwrap(), "first");
    fs::write(peer.at("note"), "third").unwrap();
    fs::write(peer.at("other"), "new").unwrap();
    peer.run(["undo", "--user", "alice", "--since", "draft"]);
    assert_eq!(fs::read_to_string(peer.at("note")).unwrap(), "first");
    assert!(!peer.at("other").exists());
}

#[test]
fn what_is_written_here_and_what_is_in_the_way_is_told_and_left() {
    let peer = Peer::alone();
    shell(peer.root(), "mkdir work; echo a >work/a; echo b >work/b; echo c >work/c");
    let then = moment();
    shell(peer.root(), "rm work/*; mkdir work/a; echo new >work/b");
    let open = fs::File::options().append(true).open(peer.at("work/b")).unwrap();
    let refused = peer.refused(["restore", &path(&peer, "work/b"), "--at", &then]);
    assert!(refused.contains("work/b is open for writing on this device: close it first"), "{refused}");
    for dry_run in [true, false] {
        let arguments = ["restore", &path(&peer, "work"), "--at", &then, "--dry-run"];
        let done = peer.command(&arguments[..if dry_run { 5 } else { 4 }]).output().unwrap();
        let said = String::from_utf8(done.stdout).unwrap();
        assert_eq!(done.status.code(), Some(1), "{said}");
        assert!(said.contains("left out      work/a: something of another kind is there\n"), "{said}");
        assert!(said.contains("left out      work/b: it is open for writing on this device\n"), "{said}");
        assert_eq!(peer.at("work/c").exists(), !dry_run);
    }
    drop(open);
    peer.run(["restore", &path(&peer, "work"), "--at", &then, "--exact"]);
    shell(peer.root(), "test \"$(cat work/a work/b work/c)\" = $'a\\nb\\nc'; test $(ls work | wc -l) = 3");
}

#[test]
fn names_of_any_bytes_are_taken_back_by_what_is_printed() {
    let peer = Peer::alone();
    let name = OsStr::from_bytes(b"it's \xff\n$HOME\\1");
    fs::write(peer.at(name), "first").unwrap();
    moment();
    fs::write(peer.at(name), "second").unwrap();
    let path = peer.at(name);
    let said = peer.run([OsStr::new("restore"), path.as_os_str()]);
    assert_eq!(fs::read_to_string(&path).unwrap(), "first");
    let (_, command) = said.trim_end().rsplit_once("p2pfs undo ").unwrap();
    // As a shell takes it.
    let mut bash = Command::new("bash");
    let words = bash.args(["-c", &format!("printf '%s\\0' undo {command}")]).output().unwrap().stdout;
    let words = words.strip_suffix(b"\0").unwrap().split(|byte| *byte == 0).map(OsStr::from_bytes);
    peer.run(words);
    assert_eq!(fs::read_to_string(&path).unwrap(), "second");
}

#[test]
fn a_version_is_restored_by_its_name() {
    let peer = Peer::alone();
    for text in ["one", "two", "three"] {
        fs::write(peer.at("note.txt"), text).unwrap();
        moment();
    }
    let note = path(&peer, "note.txt");
    let versions: Vec<Value> = serde_json::from_str(&peer.run(["history", &note, "--json"])).unwrap();
    let called = |text: &str| {
        let size = text.len();
        let found = versions.iter().rfind(|version| {
            let read = version["file"].as_str().map(|file| peer.at(".p2pfs/versions/note.txt").join(file));
            version["size"] == size && read.is_some_and(|file| fs::read_to_string(file).unwrap() == text)
        });
        let found = found.unwrap();
        (found["version"].as_str().unwrap().to_owned(), found["file"].as_str().unwrap().to_owned())
    };
    let ((one, one_file), (two, _)) = (called("one"), called("two"));
    peer.run(["restore", &note, "--version", &one_file]);
    assert_eq!(fs::read_to_string(peer.at("note.txt")).unwrap(), "one");
    peer.run(["restore", &note, "--version", &two]);
    assert_eq!(fs::read_to_string(peer.at("note.txt")).unwrap(), "two");
    let author = one_file.rsplit_once('~').unwrap().1.strip_suffix(".txt").unwrap();
    peer.run(["restore", &note, "--version", &format!("{one}~{author}")]);
    assert_eq!(fs::read_to_string(peer.at("note.txt")).unwrap(), "one");
    let refused = peer.refused(["restore", &note, "--version", &format!("{one}~mallory.txt")]);
    assert!(refused.contains(&format!("is by {author}")), "{refused}");
    let refused = peer.refused(["restore", &note, "--version", "2020-01-01T00:00:00.000Z"]);
    assert!(refused.contains("has no version '2020-01-01T00:00:00.000Z'"), "{refused}");
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
    // What others may not write is safe from them in any case.
    p2pfs_tests::tool::run("chmod", ["-R", "g+rwX", alice.root().to_str().unwrap()]);
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
