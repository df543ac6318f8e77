//! The tree as it was after each commit: what was seen then is seen for good.

#![allow(clippy::unwrap_used, reason = "whatever fails here fails the test")]

mod common;

use std::time::Duration;

use common::{Replica, sync};
use p2pfs_volume::{
    AttributeChange, Attributes, Caller, Clock, Error, NewNode, NodeKind, OpenMode, RenameMode, Role, SetXattr,
    Timestamp, Volume, is_past, node::Ino,
};
use proptest::prelude::*;

/// A line for each entry, and what files hold. (Not the time of change: calls that nobody is told of may set it.)
fn walk(volume: &Volume, directory: Ino, path: &str, lines: &mut Vec<String>) {
    let mut after = 2;
    loop {
        let entries = volume.read_directory(directory, after, 5).unwrap();
        let Some(last) = entries.last() else { return };
        after = last.cookie;
        for entry in entries {
            let found = volume.lookup(directory, &entry.name).unwrap();
            assert_eq!(found, entry.attributes);
            let path = format!("{path}/{}", String::from_utf8_lossy(&entry.name));
            let Attributes { ino, kind, size, mtime, mode, links, .. } = found;
            let mut xattrs = volume.list_xattrs(ino).unwrap();
            xattrs.sort();
            for name in xattrs {
                let value = volume.get_xattr(ino, &name).unwrap();
                lines.push(format!("{path} {}={} x {:?}", String::from_utf8_lossy(&name), value.len(), value.first()));
            }
            lines.push(format!("{path} {kind:?} {size} {mtime:?} {mode:o} {links}"));
            match kind {
                NodeKind::Directory => walk(volume, ino, &path, lines),
                NodeKind::File => {
                    let mut bytes = Vec::new();
                    let mode = OpenMode { read: true, ..OpenMode::default() };
                    let handle = volume.open(ino, mode, &Caller::default()).unwrap();
                    volume.read(handle, 0, MOST, &mut bytes).unwrap();
                    volume.release(handle).unwrap();
                    let sum: u64 = bytes.iter().map(|&byte| u64::from(byte)).sum();
                    lines.push(format!("  {} bytes, {sum}", bytes.len()));
                }
                _ => {}
            }
        }
    }
}

fn lines(volume: &Volume, root: Ino) -> Vec<String> {
    let mut lines = Vec::new();
    walk(volume, root, "", &mut lines);
    lines
}

const NAMES: usize = 6;
const MOST: usize = 100_000;

#[derive(Clone, Debug)]
enum Op {
    Write(usize, usize),
    Directory(usize),
    Remove(usize),
    Rename(usize, usize),
    Mode(usize, u16),
    /// Of few names each has room for some in its node's row only.
    Xattr(usize, u8, Option<usize>),
    Link(usize, usize),
    Salvage,
    Restart,
    Meet,
}

/// Files and directories by few names, so that the same ones come and go.
fn path(which: usize) -> String {
    let (above, name) = (which / NAMES, which % NAMES);
    if above == 0 { format!("n{name}") } else { format!("n{}/n{name}", above - 1) }
}

fn op() -> impl Strategy<Value = (usize, Op, bool)> {
    let place = || 0..NAMES * 3;
    let op = prop_oneof![
        4 => (place(), 0usize..40_000).prop_map(|(at, size)| Op::Write(at, size)),
        3 => place().prop_map(Op::Directory),
        3 => place().prop_map(Op::Remove),
        4 => (place(), place()).prop_map(|(from, to)| Op::Rename(from, to)),
        1 => (place(), 0u16..0o1000).prop_map(|(at, mode)| Op::Mode(at, mode)),
        4 => (0..3usize, 0u8..6, proptest::option::of(0usize..1500)).prop_map(|(at, name, size)| Op::Xattr(at, name, size)),
        2 => (place(), place()).prop_map(|(from, to)| Op::Link(from, to)),
        1 => Just(Op::Restart),
        1 => Just(Op::Salvage),
        2 => Just(Op::Meet),
    ];
    (0..2usize, op, any::<bool>())
}

fn run(replicas: &mut [Replica; 2], who: usize, op: &Op, number: usize) {
    let replica = &replicas[who];
    let done = match op {
        Op::Write(at, size) => replica.write(&path(*at), &vec![*size as u8; *size]),
        Op::Directory(at) => replica.mkdir(&path(*at)).map(|_| ()),
        Op::Remove(at) => match replica.remove(&path(*at)) {
            Err(Error::IsDirectory) => replica.rmdir(&path(*at)),
            done => done,
        },
        Op::Rename(from, to) => replica.rename(&path(*from), &path(*to)),
        Op::Mode(at, mode) => replica.find(&path(*at)).and_then(|ino| {
            let change = AttributeChange { mode: Some(*mode), ..AttributeChange::default() };
            replica.volume.set_attributes(ino, None, &change, &Caller::default()).map(|_| ())
        }),
        Op::Xattr(at, name, size) => replica.find(&path(*at)).and_then(|ino| {
            let name = format!("user.{name}");
            match size {
                Some(size) => {
                    let value = vec![*size as u8; *size];
                    replica.volume.set_xattr(ino, name.as_bytes(), &value, SetXattr::Any, &Caller::default())
                }
                None => replica.volume.remove_xattr(ino, name.as_bytes()),
            }
        }),
        Op::Link(from, to) => replica.link(&path(*from), &path(*to)),
        Op::Salvage => {
            // With randomness of its own: two logs of one number would be one that goes on elsewhere.
            replicas[who].salvage(100 + 2 * number as u64);
            Ok(())
        }
        Op::Restart => {
            replicas[who].restart(7);
            Ok(())
        }
        Op::Meet => {
            sync(&replicas[0], &replicas[1]);
            Ok(())
        }
    };
    // Names that are taken, or lead nowhere: what was refused changes nothing.
    drop(done);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn what_was_seen_is_found_again(ops in proptest::collection::vec(op(), 1..60)) {
        let alice = Replica::founder("alice", 1);
        let bob = Replica::joined("bob", 2, &alice, Role::Writer);
        let mut replicas = [alice, bob];
        let mut seen: [Vec<(u64, Timestamp, Vec<String>)>; 2] = Default::default();
        for (number, (who, op, closes)) in ops.into_iter().enumerate() {
            run(&mut replicas, who, &op, number);
            if closes || matches!(op, Op::Meet) {
                for (replica, seen) in replicas.iter().zip(&mut seen) {
                    replica.volume.commit_now().unwrap();
                    let tree = lines(&replica.volume, Ino::ROOT);
                    seen.push((replica.volume.last_arrival(), replica.clock.now(), tree));
                    replica.clock.advance(Duration::from_secs(1));
                }
            }
        }
        for (replica, seen) in replicas.iter().zip(&seen) {
            for (arrival, time, before) in seen {
                let root = replica.volume.past(*arrival).unwrap();
                prop_assert_eq!(root, replica.volume.past_at(*time).unwrap(), "{} at {:?}", replica.name, time);
                let now = lines(&replica.volume, root);
                prop_assert_eq!(&now, before, "{} at {}", replica.name, arrival);
            }
        }
    }
}

#[test]
fn the_past_is_found_by_its_time_and_nobody_can_change_it() {
    let alice = Replica::founder("alice", 1);
    alice.write("note", b"first").unwrap();
    alice.volume.commit_now().unwrap();
    let then = alice.clock.now();
    alice.clock.advance(Duration::from_secs(3600));
    alice.write("note", b"second").unwrap();
    alice.remove("note").unwrap();
    alice.volume.commit_now().unwrap();
    let root = alice.volume.past_at(then).unwrap();
    let note = alice.volume.lookup(root, b"note").unwrap();
    assert_eq!((note.size, is_past(note.ino)), (5, true));
    let who = Caller::default();
    let refused = [
        alice.volume.unlink(root, b"note").unwrap_err(),
        alice.volume.make(root, b"new", NewNode::Directory, 0o755, &who).unwrap_err(),
        alice.volume.rename(root, b"note", Ino::ROOT, b"note", RenameMode::Replace).unwrap_err(),
        alice.volume.link(note.ino, Ino::ROOT, b"note").unwrap_err(),
        alice.volume.open(note.ino, OpenMode { write: true, ..OpenMode::default() }, &who).unwrap_err(),
    ];
    for error in refused {
        assert!(matches!(error, Error::ReadOnly), "{error}");
    }
    assert!(matches!(alice.find("note"), Err(Error::NotFound)));
}
