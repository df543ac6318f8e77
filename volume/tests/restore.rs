//! Restoring what was, and taking back what one device did.

use std::time::Duration;

use crate::common::{Replica, sync};
use p2pfs_volume::{
    AttributeChange, Attributes, Caller, Clock, Error, NewNode, NodeKind, OpenMode, Role, SetTime, SetXattr, Timestamp,
    node::Ino,
    restore::{InTheWay, Restore, Restored, Would},
    take_back::{Step, TakeBack, What},
};
use proptest::prelude::*;

fn path(text: &str) -> Vec<Vec<u8>> {
    text.split('/').filter(|name| !name.is_empty()).map(|name| name.as_bytes().to_vec()).collect()
}

fn text(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

/// A line for each entry, with all that must come back.
fn lines(replica: &Replica) -> Vec<String> {
    fn walk(replica: &Replica, directory: Ino, path: &str, lines: &mut Vec<String>) {
        let volume = &replica.volume;
        let mut after = 2;
        loop {
            let entries = volume.read_directory(directory, after, 50).unwrap();
            let Some(last) = entries.last() else { return };
            after = last.cookie;
            for entry in entries {
                let Attributes { ino, kind, size, mtime, mode, links, .. } = entry.attributes;
                let path = format!("{path}/{}", String::from_utf8_lossy(&entry.name));
                let mut xattrs = volume.list_xattrs(ino).unwrap();
                xattrs.sort();
                for name in xattrs {
                    let value = volume.get_xattr(ino, &name).unwrap();
                    lines.push(format!("{path} {} {value:?}", String::from_utf8_lossy(&name)));
                }
                match kind {
                    NodeKind::Directory => {
                        // (When entries last came and went is told by those that did.)
                        lines.push(format!("{path}/ {mode:o}"));
                        walk(replica, ino, &path, lines);
                    }
                    NodeKind::File => {
                        let bytes = replica.read(&path).unwrap();
                        let sum: u64 = bytes.iter().map(|&byte| u64::from(byte)).sum();
                        lines.push(format!("{path} {size} {mtime:?} {mode:o} {links} {sum}"));
                    }
                    NodeKind::Symlink => {
                        let target = volume.readlink(ino).unwrap();
                        lines.push(format!("{path} -> {}", String::from_utf8_lossy(&target)));
                    }
                    _ => lines.push(format!("{path} {kind:?} {mode:o}")),
                }
            }
        }
    }
    let mut found = Vec::new();
    walk(replica, Ino::ROOT, "", &mut found);
    found.sort();
    found
}

/// A moment, with a second before and after.
fn moment(replica: &Replica) -> Timestamp {
    replica.volume.commit_now().unwrap();
    replica.clock.advance(Duration::from_secs(1));
    let now = replica.clock.now();
    replica.clock.advance(Duration::from_secs(1));
    now
}

fn restore(replica: &Replica, from: &str, at: u64, to: &str, exact: bool) -> Result<Restored, Error> {
    let what = Restore { path: path(from), at, to: path(to), exact, dry_run: false };
    let told = replica.volume.restore(&Restore { dry_run: true, ..what.clone() });
    let done = replica.volume.restore(&what);
    if let (Ok(told), Ok(done)) = (&told, &done) {
        assert_eq!((told.files, told.directories, told.bytes), (done.files, done.directories, done.bytes));
    }
    if let Ok(done) = &done {
        let again = replica.volume.restore(&what).unwrap();
        assert_eq!((again.unchanged, again.removed), (done.files + done.directories, 0), "restored twice");
    }
    done
}

/// Begins to take back, and dies after some steps.
fn take_some_back(by: &Replica, whose: &Replica, since: Timestamp, steps: usize) {
    let what = TakeBack { devices: vec![whose.device_id()], since, below: None, dry_run: false };
    let mut left = steps;
    let begun = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        by.volume.take_back(&what, &mut |_| match left.checked_sub(1) {
            Some(less) => left = less,
            None => std::panic::resume_unwind(Box::new(())),
        })
    }));
    drop(begun);
}

fn take_back(by: &Replica, whose: &[&Replica], since: Timestamp, below: Option<&str>) -> Vec<Step> {
    let devices = whose.iter().map(|replica| replica.device_id()).collect();
    let what = TakeBack { devices, since, below: below.map(path), dry_run: false };
    let (mut told, mut steps) = (Vec::new(), Vec::new());
    let before = by.volume.last_arrival();
    by.volume.take_back(&TakeBack { dry_run: true, ..what.clone() }, &mut |step| told.push(step)).unwrap();
    by.volume.commit_now().unwrap();
    assert!(by.volume.last_arrival() == before || by.volume.status().pending_changes == 0);
    by.volume.take_back(&what, &mut |step| steps.push(step)).unwrap();
    let contents = |steps: &[Step]| steps.iter().filter(|step| step.contents).count();
    assert_eq!(contents(&told), contents(&steps), "{told:?}\n{steps:?}");
    let kept = |steps: &[Step]| steps.iter().filter(|step| step.contents_kept).count();
    assert_eq!(kept(&told), kept(&steps), "{told:?}\n{steps:?}");
    let mut again = Vec::new();
    by.volume.take_back(&what, &mut |step| again.push(step)).unwrap();
    again.retain(|step| step.what != What::IsKept);
    assert_eq!(again, [], "taken back twice");
    steps
}

fn set(replica: &Replica, at: &str, mode: u16, mtime: i64) {
    let change = AttributeChange {
        mode: Some(mode),
        mtime: Some(SetTime::At(Timestamp { secs: mtime, nanos: 5 })),
        atime: Some(SetTime::At(Timestamp { secs: mtime + 1, nanos: 6 })),
        ..AttributeChange::default()
    };
    match replica.volume.set_attributes(replica.find(at).unwrap(), None, &change, &Caller::default()) {
        // Who may write to another's file sets its times, and not its mode.
        Err(Error::NotPermitted) => {
            let times = AttributeChange { mode: None, ..change };
            replica.volume.set_attributes(replica.find(at).unwrap(), None, &times, &Caller::default()).unwrap();
        }
        set => drop(set.unwrap()),
    }
}

fn set_xattr(replica: &Replica, at: &str, name: &str, value: &[u8]) {
    let ino = replica.find(at).unwrap();
    replica.volume.set_xattr(ino, name.as_bytes(), value, SetXattr::Any, &Caller::default()).unwrap();
}

/// A tree with some of everything.
fn grow(replica: &Replica) {
    replica.mkdir("docs").unwrap();
    replica.mkdir("docs/deep").unwrap();
    replica.write("docs/note", b"first").unwrap();
    replica.write("docs/large", &vec![7; 300_000]).unwrap();
    replica.write("docs/deep/empty", b"").unwrap();
    replica.link("docs/note", "docs/deep/linked").unwrap();
    let docs = replica.find("docs").unwrap();
    replica.volume.make(docs, b"to", NewNode::Symlink(b"deep/linked"), 0o777, &Caller::default()).unwrap();
    replica.volume.make(docs, b"pipe", NewNode::Fifo, 0o600, &Caller::default()).unwrap();
    set(replica, "docs/note", 0o640, 1000);
    set(replica, "docs/large", 0o755, 2000);
    set_xattr(replica, "docs/note", "user.colour", b"red");
    set_xattr(replica, "docs/note", "user.large", &[9; 3000]);
    set_xattr(replica, "docs/deep", "user.size", b"big");
    set(replica, "docs/deep", 0o710, 3000);
}

#[test]
fn a_file_comes_back_in_its_node_and_elsewhere_in_a_new_one() {
    let alice = Replica::founder("alice", 1);
    alice.write("note", b"first").unwrap();
    let node = alice.find("note").unwrap();
    moment(&alice);
    alice.write("note", b"second").unwrap();
    moment(&alice);
    let at = alice.volume.before_last_change(&path("note")).unwrap();
    restore(&alice, "note", at, "note", false).unwrap();
    assert_eq!((alice.read("note").unwrap(), alice.find("note").unwrap()), (b"first".to_vec(), node));
    // Restoring is a change: what was before it is there to be restored, too.
    alice.volume.commit_now().unwrap();
    let at = alice.volume.before_last_change(&path("note")).unwrap();
    restore(&alice, "note", at, "new/place", false).unwrap();
    assert_eq!(alice.read("new/place").unwrap(), b"second");
    assert_eq!(alice.read("note").unwrap(), b"first");
    alice.remove("note").unwrap();
    moment(&alice);
    let at = alice.volume.before_last_change(&path("note")).unwrap();
    restore(&alice, "note", at, "note", false).unwrap();
    assert_eq!((alice.read("note").unwrap(), alice.find("note").unwrap()), (b"first".to_vec(), node));
    assert!(matches!(alice.volume.before_last_change(&path("nothing")), Err(Error::NotFound)));
    let refused = restore(&alice, "note", at, "new", false).unwrap_err();
    assert!(refused.to_string().starts_with("new is something of another kind now"), "{refused}");
}

#[test]
fn a_directory_that_was_removed_comes_back_with_all_that_was_in_it() {
    let alice = Replica::founder("alice", 1);
    let bob = Replica::joined("bob", 2, &alice, Role::Writer);
    grow(&alice);
    let before = lines(&alice);
    let large = alice.find("docs/large").unwrap();
    moment(&alice);
    for gone in ["docs/deep/empty", "docs/deep/linked", "docs/note", "docs/large", "docs/to", "docs/pipe"] {
        alice.remove(gone).unwrap();
        alice.volume.commit_now().unwrap();
    }
    alice.rmdir("docs/deep").unwrap();
    alice.volume.commit_now().unwrap();
    alice.rmdir("docs").unwrap();
    moment(&alice);
    let at = alice.volume.before_last_change(&path("docs")).unwrap();
    let done = restore(&alice, "docs", at, "docs", false).unwrap();
    assert_eq!((done.files, done.directories, done.directory), (6, 2, true));
    assert_eq!(lines(&alice), before);
    assert_eq!(alice.find("docs/large").unwrap(), large);
    assert_eq!(alice.volume.lookup(Ino::ROOT, b"docs").unwrap().links, 3);
    // To another place, everything is new, but for the blocks.
    restore(&alice, "docs", at, "copy", false).unwrap();
    let copied: Vec<String> =
        lines(&alice).iter().filter(|l| l.starts_with("/copy")).map(|l| l.replacen("/copy", "/docs", 1)).collect();
    assert_eq!(copied, before);
    sync(&alice, &bob);
    assert_eq!(lines(&bob), lines(&alice));
}

#[test]
fn restoring_over_a_directory_keeps_what_is_new_unless_told_otherwise() {
    let alice = Replica::founder("alice", 1);
    grow(&alice);
    let before = lines(&alice);
    alice.volume.commit_now().unwrap();
    let at = alice.volume.last_arrival();
    moment(&alice);
    alice.write("docs/note", b"changed").unwrap();
    alice.rename("docs/large", "docs/deep/moved").unwrap();
    alice.remove("docs/to").unwrap();
    alice.mkdir("docs/new").unwrap();
    alice.write("docs/new/file", b"new").unwrap();
    set_xattr(&alice, "docs/note", "user.more", b"x");
    set_xattr(&alice, "docs/note", "user.large", &[1; 3000]);
    restore(&alice, "docs", at, "docs", false).unwrap();
    assert_eq!(alice.read("docs/new/file").unwrap(), b"new");
    assert_eq!(alice.read("docs/deep/moved").unwrap(), vec![7; 300_000]);
    assert_eq!(alice.read("docs/large").unwrap(), vec![7; 300_000]);
    assert_eq!(alice.read("docs/deep/linked").unwrap(), b"first");
    let done = restore(&alice, "docs", at, "docs", true).unwrap();
    assert_eq!(done.removed, 3);
    assert_eq!(lines(&alice), before);
}

/// A directory with a file, a directory and another file; the first two have swapped kinds since.
fn with_other_kinds(alice: &Replica) -> u64 {
    alice.mkdir("docs").unwrap();
    alice.mkdir("docs/folder").unwrap();
    for file in ["docs/file", "docs/folder/a", "docs/note"] {
        alice.write(file, file.as_bytes()).unwrap();
    }
    alice.volume.commit_now().unwrap();
    let at = alice.volume.last_arrival();
    moment(alice);
    for gone in ["docs/file", "docs/folder/a", "docs/note"] {
        alice.remove(gone).unwrap();
    }
    alice.rmdir("docs/folder").unwrap();
    alice.write("docs/folder", b"a file").unwrap();
    alice.mkdir("docs/file").unwrap();
    alice.mkdir("docs/file/deep").unwrap();
    alice.write("docs/file/deep/new", b"new").unwrap();
    alice.volume.commit_now().unwrap();
    at
}

#[test]
fn what_is_of_another_kind_is_told_and_the_rest_is_restored() {
    let alice = Replica::founder("alice", 1);
    let at = with_other_kinds(&alice);
    let what = Restore { path: path("docs"), at, to: path("docs"), exact: false, dry_run: true };
    let obstacles = [(b"docs/file".to_vec(), InTheWay::OtherKind), (b"docs/folder".to_vec(), InTheWay::OtherKind)];
    for dry_run in [true, false] {
        let mut done = alice.volume.restore(&Restore { dry_run, ..what.clone() }).unwrap();
        done.in_the_way.sort_by(|one, other| one.0.cmp(&other.0));
        assert_eq!((done.in_the_way.as_slice(), done.left), (obstacles.as_slice(), 2), "dry run: {dry_run}");
        let would = [(b"docs/note".to_vec(), Would::ComeBack)];
        assert_eq!(done.would, if dry_run { would.to_vec() } else { Vec::new() });
        assert_eq!(alice.find("docs/note").is_err(), dry_run);
    }
    assert_eq!(alice.read("docs/note").unwrap(), b"docs/note");
    assert_eq!(alice.read("docs/file/deep/new").unwrap(), b"new");
}

#[test]
fn what_was_not_there_then_is_not_in_the_way_of_restoring_exactly() {
    let alice = Replica::founder("alice", 1);
    let at = with_other_kinds(&alice);
    let done = restore(&alice, "docs", at, "docs", true).unwrap();
    assert_eq!((done.left, done.files, done.directories), (0, 3, 2));
    for file in ["docs/file", "docs/folder/a", "docs/note"] {
        assert_eq!(alice.read(file).unwrap(), file.as_bytes());
    }
}

#[test]
fn what_is_open_for_writing_is_left_out() {
    let alice = Replica::founder("alice", 1);
    grow(&alice);
    alice.volume.commit_now().unwrap();
    let at = alice.volume.last_arrival();
    moment(&alice);
    alice.write("docs/note", b"second").unwrap();
    alice.remove("docs/large").unwrap();
    alice.volume.commit_now().unwrap();
    // Whether something was written to it by then or not.
    for written in [false, true] {
        let mode = OpenMode { write: true, ..OpenMode::default() };
        let handle = alice.volume.open(alice.find("docs/note").unwrap(), mode, &Caller::default()).unwrap();
        if written {
            alice.volume.write(handle, 0, b"third.", &Caller::default()).unwrap();
        }
        let file = Restore { path: path("docs/note"), at, to: path("docs/note"), exact: false, dry_run: false };
        let refused = alice.volume.restore(&file).unwrap_err().to_string();
        assert_eq!(refused, "docs/note is open for writing on this device: close it first");
        let all = Restore { path: path("docs"), to: path("docs"), ..file.clone() };
        let done = alice.volume.restore(&all).unwrap();
        // (It has another name within the folder.)
        let mut left: Vec<_> = done.in_the_way.iter().map(|(path, why)| (text(path), *why)).collect();
        left.sort_by(|one, other| one.0.cmp(&other.0));
        let expected = ["docs/deep/linked", "docs/note"].map(|path| (path.to_owned(), InTheWay::BeingWritten));
        assert_eq!(left, expected);
        assert_eq!(alice.read("docs/large").unwrap(), vec![7; 300_000]);
        alice.close(handle).unwrap();
        assert_eq!(alice.read("docs/note").unwrap(), if written { b"third." } else { b"second" });
    }
    restore(&alice, "docs/note", at, "docs/note", false).unwrap();
    assert_eq!(alice.read("docs/note").unwrap(), b"first");
}

#[test]
fn what_is_removed_and_still_written_to_comes_back_as_another_file() {
    let alice = Replica::founder("alice", 1);
    alice.write("note", b"first").unwrap();
    alice.volume.commit_now().unwrap();
    let at = alice.volume.last_arrival();
    let mode = OpenMode { write: true, ..OpenMode::default() };
    let handle = alice.volume.open(alice.find("note").unwrap(), mode, &Caller::default()).unwrap();
    alice.remove("note").unwrap();
    alice.volume.commit_now().unwrap();
    restore(&alice, "note", at, "note", false).unwrap();
    alice.volume.write(handle, 0, b"lost", &Caller::default()).unwrap();
    alice.close(handle).unwrap();
    assert_eq!(alice.read("note").unwrap(), b"first");
}

#[test]
fn what_else_was_removed_just_before_is_no_part_of_a_directory_s_removal() {
    let alice = Replica::founder("alice", 1);
    alice.write("other", b"x").unwrap();
    alice.mkdir("r").unwrap();
    alice.volume.commit_now().unwrap();
    alice.remove("other").unwrap();
    alice.volume.commit_now().unwrap();
    alice.mkdir("r/c").unwrap();
    alice.write("r/c/s", b"flour").unwrap();
    alice.volume.commit_now().unwrap();
    for gone in ["r/c/s", "r/c", "r"] {
        if gone == "r/c/s" {
            alice.remove(gone).unwrap()
        } else {
            alice.rmdir(gone).unwrap()
        }
        alice.volume.commit_now().unwrap();
    }
    let at = alice.volume.before_last_change(&path("r")).unwrap();
    restore(&alice, "r", at, "r", false).unwrap();
    assert_eq!(alice.read("r/c/s").unwrap(), b"flour");
}

#[test]
fn nothing_of_a_file_need_be_here_for_it_to_be_restored() {
    let alice = Replica::founder("alice", 1);
    alice.write("large", &vec![3; 1_000_000]).unwrap();
    alice.volume.commit_now().unwrap();
    alice.remove("large").unwrap();
    moment(&alice);
    let bob = Replica::joined("bob", 2, &alice, Role::Writer);
    assert_eq!(bob.volume.status().wanted_blocks, 0);
    bob.clock.advance(Duration::from_secs(10));
    let at = bob.volume.before_last_change(&path("large")).unwrap();
    let held = bob.blocks.names().len();
    restore(&bob, "large", at, "copy", false).unwrap();
    assert_eq!(bob.blocks.names().len(), held);
    sync(&alice, &bob);
    assert_eq!(bob.read("copy").unwrap(), vec![3; 1_000_000]);
    assert_eq!(alice.read("copy").unwrap(), vec![3; 1_000_000]);
}

#[test]
fn a_reader_restores_nothing() {
    let alice = Replica::founder("alice", 1);
    alice.write("note", b"first").unwrap();
    alice.volume.commit_now().unwrap();
    let since = moment(&alice);
    alice.remove("note").unwrap();
    let bob = Replica::joined("bob", 2, &alice, Role::Reader);
    let at = bob.volume.before_last_change(&path("note")).unwrap();
    assert!(matches!(restore(&bob, "note", at, "note", false), Err(Error::ReadOnly)));
    let what = TakeBack { devices: vec![alice.device_id()], since, below: None, dry_run: false };
    assert!(matches!(bob.volume.take_back(&what, &mut |_| ()), Err(Error::ReadOnly)));
}

/// Alice and bob, who is about to do harm.
fn group() -> (Replica, Replica) {
    let alice = Replica::founder("alice", 1);
    let bob = Replica::joined("bob", 2, &alice, Role::Writer);
    (alice, bob)
}

fn in_step(alice: &Replica, bob: &Replica) -> Timestamp {
    sync(alice, bob);
    moment(bob);
    moment(alice)
}

#[test]
fn what_encrypts_everything_is_taken_back() {
    let (alice, bob) = group();
    grow(&alice);
    alice.write("docs/by-alice", b"one").unwrap();
    alice.write("docs/saved", b"old").unwrap();
    let nodes: Vec<Ino> = ["docs/note", "docs/large", "docs/saved"].map(|at| alice.find(at).unwrap()).to_vec();
    let before = lines(&alice);
    let since = in_step(&alice, &bob);
    // Over itself and renamed; into a new file and the old one removed; saved by way of another; removed.
    bob.write("docs/note", b"encrypted").unwrap();
    bob.rename("docs/note", "docs/note.enc").unwrap();
    set(&bob, "docs/note.enc", 0o600, 77);
    bob.write("docs/large.enc", &vec![1; 300_000]).unwrap();
    bob.remove("docs/large").unwrap();
    bob.write("docs/tmp", b"encrypted").unwrap();
    bob.rename("docs/tmp", "docs/saved").unwrap();
    bob.remove("docs/deep/linked").unwrap();
    bob.remove("docs/deep/empty").unwrap();
    bob.volume.remove_xattr(bob.find("docs/deep").unwrap(), b"user.size").unwrap();
    bob.rmdir("docs/deep").unwrap();
    bob.mkdir("docs/deep").unwrap();
    bob.write("docs/deep/RANSOM", b"pay").unwrap();
    bob.rename("docs", "docs.enc").unwrap();
    bob.write("RANSOM", b"pay").unwrap();
    sync(&alice, &bob);
    let after = lines(&alice);
    assert_ne!(before, after);
    let began = moment(&alice);
    let steps = take_back(&alice, &[&bob], since, None);
    assert_eq!(lines(&alice), before, "{steps:#?}");
    let now: Vec<Ino> = ["docs/note", "docs/large", "docs/saved"].map(|at| alice.find(at).unwrap()).to_vec();
    assert_eq!(now, nodes);
    sync(&alice, &bob);
    assert_eq!(lines(&bob), before);
    // And that, in turn.
    moment(&alice);
    take_back(&alice, &[&alice], began, None);
    assert_eq!(lines(&alice), after);
}

#[test]
fn what_others_did_stays() {
    let (alice, bob) = group();
    for name in ["between", "after", "beside", "shared", "dir-file"] {
        alice.write(name, b"old").unwrap();
    }
    alice.mkdir("mine").unwrap();
    let since = in_step(&alice, &bob);
    for name in ["between", "after", "made", "kept"] {
        bob.write(name, format!("bob's {name}").as_bytes()).unwrap();
    }
    bob.write("moved", b"bob's moved").unwrap();
    set_xattr(&bob, "moved", "user.x", b"y");
    set(&bob, "moved", 0o604, 50);
    bob.mkdir("theirs").unwrap();
    bob.remove("beside").unwrap();
    bob.rename("dir-file", "theirs/dir-file").unwrap();
    sync(&alice, &bob);
    alice.rename("moved", "mine/moved").unwrap();
    alice.write("between", b"alice's").unwrap();
    alice.write("after", b"alice's").unwrap();
    alice.write("kept", b"alice's").unwrap();
    alice.write("beside", b"another").unwrap();
    alice.write("theirs/more", b"alice's").unwrap();
    alice
        .volume
        .set_attributes(
            alice.find("shared").unwrap(),
            None,
            &AttributeChange { mode: Some(0o600), ..AttributeChange::default() },
            &Caller::default(),
        )
        .unwrap();
    sync(&alice, &bob);
    bob.write("between", b"bob's again").unwrap();
    bob.write("shared", b"bob's").unwrap();
    sync(&alice, &bob);
    moment(&alice);
    let steps = take_back(&alice, &[&bob], since, None);
    assert_eq!(alice.read("between").unwrap(), b"alice's");
    assert_eq!(alice.read("after").unwrap(), b"alice's");
    assert_eq!(alice.read("kept").unwrap(), b"alice's");
    assert_eq!(alice.read("theirs/more").unwrap(), b"alice's");
    assert_eq!(alice.read("dir-file").unwrap(), b"old");
    assert_eq!(alice.read("shared").unwrap(), b"old");
    assert_eq!(alice.volume.lookup(Ino::ROOT, b"shared").unwrap().mode, 0o600);
    assert!(matches!(alice.find("made"), Err(Error::NotFound)));
    let mut both: Vec<Vec<u8>> = alice
        .tree()
        .iter()
        .filter_map(|line| line.strip_prefix("/beside")?.split(' ').next().map(|name| format!("beside{name}")))
        .map(|name| alice.read(&name).unwrap())
        .collect();
    both.sort();
    assert_eq!(both, [b"another".to_vec(), b"old".to_vec()]);
    let kept: Vec<&[u8]> = steps.iter().filter(|s| s.what == What::IsKept).map(|s| s.path.as_slice()).collect();
    assert_eq!(kept, [b"after".as_slice(), b"kept", b"mine/moved", b"theirs"]);
    // What was put back is what she made of theirs.
    let between: Vec<&Step> = steps.iter().filter(|step| step.contents_kept && step.contents).collect();
    assert_eq!(between.iter().map(|step| step.path.as_slice()).collect::<Vec<_>>(), [b"between"]);
    // What they made and others keep is as they made it.
    let moved = alice.find("mine/moved").unwrap();
    let Attributes { mode, mtime, .. } = alice.volume.attributes(moved).unwrap();
    assert_eq!((alice.read("mine/moved").unwrap(), mode, mtime.secs), (b"bob's moved".to_vec(), 0o604, 50));
    assert_eq!(alice.volume.get_xattr(moved, b"user.x").unwrap(), b"y");
}

#[test]
fn what_others_wrote_on_top_is_told() {
    let (alice, bob) = group();
    let names = ["appended", "renamed", "removed", "restored", "apart", "spoilt"];
    for name in names.iter().chain(&["empty"]) {
        alice.write(name, if *name == "empty" { b"" } else { b"old" }).unwrap();
    }
    let since = in_step(&alice, &bob);
    let at = alice.volume.last_arrival();
    // She writes apart from him: that is on top of nothing of his.
    alice.write("apart", b"alice's").unwrap();
    for name in names.iter().chain(&["empty"]) {
        bob.write(name, b"encrypted").unwrap();
    }
    bob.rename("renamed", "renamed.enc").unwrap();
    sync(&alice, &bob);
    for name in ["appended", "renamed.enc", "removed"] {
        alice.write(name, b"encrypted and more").unwrap();
    }
    restore(&alice, "restored", at, "restored", false).unwrap();
    sync(&alice, &bob);
    bob.remove("removed").unwrap();
    sync(&alice, &bob);
    moment(&alice);
    let told = |steps: &[Step]| -> Vec<(String, What)> {
        let kept = steps.iter().filter(|step| step.contents_kept);
        kept.map(|step| (String::from_utf8_lossy(&step.path).into_owned(), step.what.clone())).collect()
    };
    let steps = take_back(&alice, &[&bob], since, None);
    let of = |path: &str, what: What| (path.to_owned(), what);
    let expected = [of("appended", What::IsKept), of("renamed", What::GoesBack), of("removed", What::ComesBack)];
    assert_eq!(told(&steps), expected, "{steps:#?}");
    assert_eq!(alice.read("renamed").unwrap(), b"encrypted and more");
    // Once it is taken back, what was put back is nobody's work on top, nor is what comes on top of that.
    alice.write("spoilt", b"goes on").unwrap();
    let expected = ["appended", "renamed", "removed"].map(|path| of(path, What::IsKept));
    assert_eq!(told(&take_back(&alice, &[&bob], since, None)), expected);
}

#[test]
fn only_what_lies_below_a_path_is_taken_back() {
    let (alice, bob) = group();
    alice.mkdir("a").unwrap();
    alice.mkdir("b").unwrap();
    for name in ["a/one", "a/two", "b/one"] {
        alice.write(name, b"old").unwrap();
    }
    let since = in_step(&alice, &bob);
    bob.write("a/one", b"new").unwrap();
    bob.rename("a/two", "b/moved").unwrap();
    bob.write("b/one", b"new").unwrap();
    sync(&alice, &bob);
    moment(&alice);
    take_back(&alice, &[&bob], since, Some("a/one"));
    assert_eq!(alice.read("a/one").unwrap(), b"old");
    assert!(alice.find("a/two").is_err());
    take_back(&alice, &[&bob], since, Some("a"));
    assert_eq!(alice.read("a/two").unwrap(), b"old");
    assert_eq!(alice.read("b/one").unwrap(), b"new");
    let what = TakeBack { devices: vec![bob.device_id()], since, below: Some(path("nowhere")), dry_run: true };
    assert!(matches!(alice.volume.take_back(&what, &mut |_| ()), Err(Error::NotFound)));
}

#[test]
fn versions_in_conflict_are_taken_back_and_brought_back() {
    let (alice, bob) = group();
    alice.write("note", b"old").unwrap();
    in_step(&alice, &bob);
    // Apart: alice's and bob's, of which bob's goes.
    let since = moment(&alice);
    moment(&bob);
    alice.write("note", b"alice's").unwrap();
    bob.write("note", b"bob's").unwrap();
    sync(&alice, &bob);
    assert_eq!(alice.volume.status().conflicts, 1);
    let both = lines(&alice);
    moment(&alice);
    take_back(&alice, &[&bob], since, None);
    assert_eq!((alice.read("note").unwrap(), alice.volume.status().conflicts), (b"alice's".to_vec(), 0));
    // Bob settles a conflict: both are there again.
    let carol = Replica::joined("carol", 3, &alice, Role::Writer);
    sync(&alice, &bob);
    alice.write("note", b"alice's again").unwrap();
    carol.write("note", b"carol's").unwrap();
    sync(&alice, &carol);
    let since = in_step(&alice, &bob);
    let before = lines(&bob);
    let beside: Vec<String> = bob
        .tree()
        .iter()
        .filter_map(|l| l.strip_prefix('/')?.split(").").next()?.split(" 1").next().map(str::to_owned))
        .collect();
    assert_eq!(before.len(), both.len(), "{beside:?}");
    let entries = bob.volume.read_directory(Ino::ROOT, 2, 10).unwrap();
    let copy = entries.iter().find(|entry| entry.name != b"note").unwrap();
    bob.volume.unlink(Ino::ROOT, &copy.name).unwrap();
    sync(&alice, &bob);
    assert_eq!(alice.volume.status().conflicts, 0);
    moment(&alice);
    take_back(&alice, &[&bob], since, None);
    assert_eq!(alice.volume.status().conflicts, 1);
    let contents = |lines: &[String]| -> Vec<String> {
        let mut sums: Vec<String> = lines.iter().filter_map(|l| l.rsplit(' ').next().map(str::to_owned)).collect();
        sums.sort();
        sums
    };
    assert_eq!(contents(&lines(&alice)), contents(&before));
}

// ---- any work of two

const NAMES: usize = 4;

#[derive(Clone, Debug)]
enum Op {
    Write(usize, usize),
    Save(usize, usize),
    Directory(usize),
    Remove(usize),
    Rename(usize, usize),
    Link(usize, usize),
    Mode(usize, u16),
    Time(usize, i64),
    Xattr(usize, u8, Option<usize>),
}

fn place(which: usize) -> String {
    let (above, name) = (which / NAMES, which % NAMES);
    if above == 0 { format!("n{name}") } else { format!("n{}/n{name}", above - 1) }
}

fn op() -> impl Strategy<Value = Op> {
    let at = || 0..NAMES * 3;
    prop_oneof![
        5 => (at(), 0usize..30_000).prop_map(|(at, size)| Op::Write(at, size)),
        2 => (at(), 0usize..30_000).prop_map(|(at, size)| Op::Save(at, size)),
        3 => at().prop_map(Op::Directory),
        4 => at().prop_map(Op::Remove),
        4 => (at(), at()).prop_map(|(from, to)| Op::Rename(from, to)),
        1 => (at(), at()).prop_map(|(from, to)| Op::Link(from, to)),
        1 => (at(), 0u16..0o1000).prop_map(|(at, mode)| Op::Mode(at, mode)),
        1 => (at(), 0i64..10_000).prop_map(|(at, time)| Op::Time(at, time)),
        2 => (at(), 0u8..6, proptest::option::of(0usize..1500)).prop_map(|(at, name, size)| Op::Xattr(at, name, size)),
    ]
}

/// Does it below a directory; what was refused changes nothing.
fn run(replica: &Replica, top: &str, op: &Op) {
    let place = |which: &usize| format!("{top}/{}", place(*which));
    let done = match op {
        Op::Write(at, size) => replica.write(&place(at), &vec![*size as u8; *size]),
        Op::Save(at, size) => {
            let beside = format!("{top}/saving");
            replica.write(&beside, &vec![*size as u8; *size]).and_then(|()| replica.rename(&beside, &place(at)))
        }
        Op::Directory(at) => replica.mkdir(&place(at)).map(|_| ()),
        Op::Remove(at) => match replica.remove(&place(at)) {
            Err(Error::IsDirectory) => replica.rmdir(&place(at)),
            done => done,
        },
        Op::Rename(from, to) => replica.rename(&place(from), &place(to)),
        Op::Link(from, to) => replica.link(&place(from), &place(to)),
        Op::Mode(at, mode) => replica.find(&place(at)).and_then(|ino| {
            let change = AttributeChange { mode: Some(*mode), ..AttributeChange::default() };
            replica.volume.set_attributes(ino, None, &change, &Caller::default()).map(|_| ())
        }),
        Op::Time(at, time) => replica.find(&place(at)).and_then(|ino| {
            let time = Some(SetTime::At(Timestamp { secs: *time, nanos: 9 }));
            let change = AttributeChange { mtime: time, ..AttributeChange::default() };
            replica.volume.set_attributes(ino, None, &change, &Caller::default()).map(|_| ())
        }),
        Op::Xattr(at, name, size) => replica.find(&place(at)).and_then(|ino| {
            let name = format!("user.{name}");
            match size {
                Some(size) => {
                    let value = vec![*size as u8; *size];
                    replica.volume.set_xattr(ino, name.as_bytes(), &value, SetXattr::Any, &Caller::default())
                }
                None => replica.volume.remove_xattr(ino, name.as_bytes()),
            }
        }),
    };
    drop(done);
}

fn below(replica: &Replica, top: &str) -> Vec<String> {
    lines(replica).into_iter().filter(|line| line.starts_with(&format!("/{top}"))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Apart in two directories, each does what it likes: taking back bob's work leaves what there was in his, and
    /// alice's as it is. That taken back, too, all is as it was before.
    #[test]
    fn one_ones_work_is_taken_back_and_no_other(
        first in proptest::collection::vec(op(), 0..30),
        then in proptest::collection::vec((any::<bool>(), op(), 0u8..8), 1..40),
        dies_after in proptest::option::of(0usize..8),
    ) {
        let (mut alice, bob) = group();
        for top in ["a", "b"] {
            alice.mkdir(top).unwrap();
            first.iter().for_each(|op| run(&alice, top, op));
        }
        let since = in_step(&alice, &bob);
        let before = below(&alice, "b");
        for (by_bob, op, meets) in &then {
            let (who, top) = if *by_bob { (&bob, "b") } else { (&alice, "a") };
            run(who, top, op);
            match meets {
                0 => sync(&alice, &bob),
                1..4 => who.volume.commit_now().unwrap(),
                _ => {}
            }
        }
        sync(&alice, &bob);
        let kept = below(&alice, "a");
        let all = lines(&alice);
        let began = moment(&alice);
        if let Some(steps) = dies_after {
            take_some_back(&alice, &bob, since, steps);
            alice.restart(8);
        }
        take_back(&alice, &[&bob], since, None);
        prop_assert_eq!(below(&alice, "b"), before);
        prop_assert_eq!(below(&alice, "a"), kept);
        sync(&alice, &bob);
        prop_assert_eq!(lines(&bob), lines(&alice));
        moment(&alice);
        if let Some(steps) = dies_after {
            take_some_back(&alice, &alice, began, steps);
            alice.restart(9);
        }
        take_back(&alice, &[&alice], began, None);
        prop_assert_eq!(lines(&alice), all);
    }

    /// In one directory: what alice wrote last stays, whatever bob did before, and what he did that is taken back twice,
    /// or by himself, is the same.
    #[test]
    fn what_others_wrote_last_stays(
        first in proptest::collection::vec(op(), 0..20),
        then in proptest::collection::vec((any::<bool>(), op(), 0u8..4), 1..40),
    ) {
        let (alice, bob) = group();
        alice.mkdir("a").unwrap();
        first.iter().for_each(|op| run(&alice, "a", op));
        let since = in_step(&alice, &bob);
        let mut last = std::collections::BTreeMap::new();
        for (by_bob, op, meets) in &then {
            let who = if *by_bob { &bob } else { &alice };
            run(who, "a", op);
            sync(&alice, &bob);
            if let (Op::Write(at, size), 0..3) = (op, meets)
                && let Ok(ino) = alice.find(&format!("a/{}", place(*at)))
                && alice.volume.attributes(ino).unwrap().kind == NodeKind::File
            {
                if *by_bob { last.remove(&ino); } else { last.insert(ino, *size); }
            } else if matches!(op, Op::Write(..)) {
                last.clear();
            }
        }
        moment(&alice);
        moment(&bob);
        sync(&alice, &bob);
        take_back(&alice, &[&bob], since, None);
        for (ino, size) in last {
            let links = alice.volume.attributes(ino).unwrap().links;
            if links > 0 {
                let handle = alice.volume.open(ino, OpenMode { read: true, ..OpenMode::default() }, &Caller::default()).unwrap();
                let mut bytes = Vec::new();
                alice.volume.read(handle, 0, 1 << 20, &mut bytes).unwrap();
                alice.volume.release(handle).unwrap();
                prop_assert_eq!(bytes, vec![size as u8; size]);
            }
        }
        sync(&alice, &bob);
        prop_assert_eq!(lines(&bob), lines(&alice));
    }

    /// What was in a directory at any time comes back exactly.
    #[test]
    fn a_directory_is_restored_exactly(
        first in proptest::collection::vec(op(), 0..30),
        then in proptest::collection::vec(op(), 0..30),
        gone in any::<bool>(),
    ) {
        let alice = Replica::founder("alice", 1);
        alice.mkdir("a").unwrap();
        first.iter().for_each(|op| run(&alice, "a", op));
        alice.volume.commit_now().unwrap();
        let at = alice.volume.last_arrival();
        let before = lines(&alice);
        moment(&alice);
        then.iter().for_each(|op| run(&alice, "a", op));
        if gone {
            let nothing = Restore { path: path("a"), at: 1, to: path("a"), exact: true, dry_run: false };
            prop_assert!(matches!(alice.volume.restore(&nothing), Err(Error::NotFound)));
            alice.rename("a", "elsewhere").unwrap();
        }
        match restore(&alice, "a", at, "a", true) {
            // Something of another kind is there instead of all of it: told, and nothing lost.
            Err(Error::Refused(_)) => {}
            done => {
                prop_assert_eq!(done.unwrap().left, 0);
                prop_assert_eq!(below(&alice, "a"), before);
            }
        }
    }
}
