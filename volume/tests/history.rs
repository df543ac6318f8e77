//! The tree as it was after each commit: what was seen then is seen for good.

use std::time::Duration;

use crate::{
    common::{Replica, sync},
    work,
};
use p2pfs_volume::{
    Attributes, BlockHash, BlockStore, Caller, Clock, Error, Handle, NewNode, NodeKind, OpenMode, RenameMode, Role,
    Timestamp, Volume, is_past,
    node::Ino,
    settings::{Budget, Retention},
};
use proptest::prelude::*;
use work::{NAMES, Op, op, path, run};

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

const MOST: usize = 400_000;

/// What happens beside the work that other tests do as well.
#[derive(Clone, Debug)]
enum Step {
    Work(Op),
    /// A small change of a large file.
    Patch(usize, u32),
    /// A file that is open and being written, until the next of these.
    Hold(usize, usize),
    /// So many days go by, and what is not kept goes.
    Age(u64),
}

fn step() -> impl Strategy<Value = (usize, Step, bool)> {
    let place = || 0..NAMES * 3;
    let step = prop_oneof![
        20 => op().prop_map(|(_, op, _)| Step::Work(op)),
        2 => (place(), 100_000usize..300_000).prop_map(|(at, size)| Step::Work(Op::Write(at, size))),
        3 => (place(), 0u32..300_000).prop_map(|(at, offset)| Step::Patch(at, offset)),
        2 => (0..2usize, 70_000usize..200_000).prop_map(|(at, size)| Step::Hold(at, size)),
        2 => (1u64..40).prop_map(Step::Age),
    ];
    (0..2usize, step, any::<bool>())
}

const DAY: Duration = Duration::from_secs(86_400);
const KEEP: Retention = Retention {
    keep_all: Duration::from_secs(20 * 86_400),
    hourly: Duration::from_secs(30 * 86_400),
    daily: Duration::from_secs(60 * 86_400),
    weekly: Duration::from_secs(90 * 86_400),
    monthly: None,
    budget: Budget::Share(25),
};

/// A file that is being written, and what was.
struct Held {
    handle: Handle,
    bytes: Vec<u8>,
}

/// Ends what is being written, which reads as it was written, and begins anew with another file.
fn hold(replica: &Replica, held: &mut Option<Held>, next: Option<(usize, usize)>) {
    if let Some(Held { handle, bytes }) = held.take() {
        let mut read = Vec::new();
        replica.volume.read(handle, 0, MOST, &mut read).unwrap();
        assert!(read == bytes, "what is being written reads otherwise");
        replica.close(handle).unwrap();
    }
    let Some((at, size)) = next else { return };
    // Under a name that nobody else here writes to.
    let handle = replica.open_to_write(&format!("held {at} of {}", replica.name)).unwrap();
    let bytes = vec![size as u8; size];
    replica.volume.write(handle, 0, &bytes, &Caller::default()).unwrap();
    *held = Some(Held { handle, bytes });
}

/// Both have everything then, and know it.
fn meet(replicas: &[Replica; 2]) {
    sync(&replicas[0], &replicas[1]);
    for (one, other) in [(0, 1), (1, 0)] {
        let arrival = replicas[one].volume.last_arrival();
        replicas[one].volume.note_in_step(&[replicas[other].device_id()], arrival).unwrap();
    }
}

/// Copies a file of the past without reading it.
fn share(replica: &Replica, past: Option<Ino>, salt: usize) {
    let volume = &replica.volume;
    let Some(past) = past else { return };
    let Ok(entries) = volume.read_directory(past, 2, 100) else { return };
    let files: Vec<_> = entries.into_iter().filter(|entry| entry.attributes.kind == NodeKind::File).collect();
    let Some(entry) = files.get(salt % files.len().max(1)) else { return };
    let mode = OpenMode { read: true, ..OpenMode::default() };
    let from = volume.open(entry.attributes.ino, mode, &Caller::default()).unwrap();
    if let Ok(to) = replica.open_to_write(&path(salt % 5)) {
        // What others had before one met them need not be here.
        match volume.copy_range(from, 0, to, 0, entry.attributes.size) {
            Err(Error::Absent(_)) => {}
            copied => assert_eq!(copied.unwrap(), entry.attributes.size),
        }
        replica.close(to).unwrap();
    }
    volume.release(from).unwrap();
}

/// Removes all there is in a directory.
fn clear(volume: &Volume, directory: Ino) {
    while let Some(entry) = volume.read_directory(directory, 2, 1).unwrap().pop() {
        let done = if entry.attributes.kind == NodeKind::Directory {
            clear(volume, entry.attributes.ino);
            volume.rmdir(directory, &entry.name)
        } else {
            volume.unlink(directory, &entry.name)
        };
        match done {
            // One that showed only for what was in it went with that, or what it hid shows under its name.
            Err(Error::NotFound | Error::NotDirectory) => {}
            done => done.unwrap(),
        }
    }
}

/// Does a step, but for [`Step::Hold`].
fn take(replicas: &mut [Replica; 2], who: usize, step: &Step) {
    let replica = &replicas[who];
    match step {
        Step::Work(Op::Meet) => meet(replicas),
        Step::Work(op) => run(replicas, who, op),
        Step::Patch(at, offset) => {
            let Ok(ino) = replica.find(&path(*at)) else { return };
            let size = replica.volume.attributes(ino).unwrap().size;
            if size > 0 {
                // Refused where it is a directory.
                drop(replica.write_at(&path(*at), u64::from(*offset) % size, &[*offset as u8]));
            }
        }
        Step::Hold(..) => {}
        Step::Age(days) => {
            replica.clock.advance(Duration::from_secs(days * 86_400));
            replica.volume.thin(&KEEP, &[], false, &mut || true).unwrap();
            // Meanwhile work goes on, with what had been and with what is.
            let past = replica.volume.past(replica.volume.last_arrival() / 2).ok();
            let mut steps = 0;
            let reclaimed = replica.volume.reclaim(&mut || {
                steps += 1;
                match steps % 4 {
                    0 => drop(replica.write(&path(steps % 6), &vec![steps as u8; 100_000])),
                    1 => drop(replica.remove(&path(steps * 5 % 6))),
                    2 => share(replica, past, steps),
                    _ => drop(replica.volume.commit_now()),
                }
                true
            });
            assert!(reclaimed.unwrap().finished);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn what_was_seen_is_found_again(steps in proptest::collection::vec(step(), 1..60)) {
        let alice = Replica::founder("alice", 1);
        let bob = Replica::joined("bob", 2, &alice, Role::Writer);
        let mut replicas = [alice, bob];
        let mut seen: [Vec<(u64, Timestamp, Vec<String>)>; 2] = Default::default();
        let mut held = [None, None];
        for (who, step, closes) in steps {
            match step {
                Step::Hold(at, size) => hold(&replicas[who], &mut held[who], Some((at, size))),
                // The process ends.
                Step::Work(Op::Restart | Op::Salvage) => hold(&replicas[who], &mut held[who], None),
                _ => {}
            }
            take(&mut replicas, who, &step);
            if closes || matches!(step, Step::Work(Op::Meet)) {
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
                if replica.volume.moment(*arrival) != Some(*arrival) {
                    continue;
                }
                let root = replica.volume.past(*arrival).unwrap();
                prop_assert_eq!(root, replica.volume.past_at(*time).unwrap(), "{} at {:?}", replica.name, time);
                let now = lines(&replica.volume, root);
                prop_assert_eq!(&now, before, "{} at {}", replica.name, arrival);
            }
        }
        // When nothing is left that was ever there, no block is.
        for (replica, held) in replicas.iter().zip(&mut held) {
            hold(replica, held, None);
        }
        meet(&replicas);
        clear(&replicas[0].volume, Ino::ROOT);
        meet(&replicas);
        for replica in &replicas {
            replica.clock.advance(100 * DAY);
            let nothing = Retention { keep_all: DAY, hourly: DAY, daily: DAY, weekly: DAY, monthly: Some(DAY), ..KEEP };
            replica.volume.thin(&nothing, &[], false, &mut || true).unwrap();
            replica.volume.reclaim(&mut || true).unwrap();
            prop_assert_eq!(lines(&replica.volume, Ino::ROOT), Vec::<String>::new());
            prop_assert_eq!(replica.blocks.names().len(), 0);
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

#[test]
fn a_clock_that_was_a_year_ahead_hides_nothing_for_a_year() {
    let mut alice = Replica::founder("alice", 1);
    let write = |alice: &Replica, text: &[u8]| {
        alice.write("note", text).unwrap();
        alice.volume.commit_now().unwrap();
        alice.clock.now()
    };
    let before = write(&alice, b"before");
    alice.clock.advance(365 * DAY);
    write(&alice, b"a year ahead");
    alice.clock.set_back(364 * DAY);
    let after = write(&alice, b"after");
    alice.clock.advance(DAY);
    let later = write(&alice, b"and later");
    for restarted in [false, true] {
        if restarted {
            alice.salvage(5);
        }
        for (time, size) in [(before, 6), (after, 5), (later, 9)] {
            let root = alice.volume.past_at(time).unwrap();
            assert_eq!(alice.volume.lookup(root, b"note").unwrap().size, size, "{restarted}");
        }
    }
}

#[test]
fn nothing_is_dropped_while_a_list_is_damaged() {
    let alice = Replica::founder("alice", 1);
    alice.write("large", &vec![7; 1 << 20]).unwrap();
    alice.write("old", &vec![8; 1 << 20]).unwrap();
    alice.remove("old").unwrap();
    alice.volume.commit_now().unwrap();
    alice.clock.advance(100 * DAY);
    alice.volume.thin(&Retention { monthly: Some(DAY), ..KEEP }, &[], false, &mut || true).unwrap();
    let (blocks, names) = (&alice.blocks, alice.blocks.names());
    // A list names 32 bytes for each of 16 blocks.
    let is_list = |hash: &BlockHash| blocks.get(hash).unwrap().is_some_and(|bytes| bytes.len() == 16 * 32);
    let lists: Vec<BlockHash> = names.iter().copied().filter(is_list).collect();
    assert_eq!(lists.len(), 2);
    for list in &lists {
        alice.blocks.damage(list);
    }
    alice.volume.reclaim(&mut || true).unwrap_err();
    assert_eq!(alice.blocks.names(), names);
    for list in &lists {
        alice.blocks.damage(list);
    }
    assert!(alice.volume.reclaim(&mut || true).unwrap().finished);
    assert_eq!(alice.blocks.names().len(), names.len() / 2);
}

#[test]
fn what_shows_again_after_its_removal_is_not_dropped() {
    let alice = Replica::founder("alice", 1);
    let bob = Replica::joined("bob", 2, &alice, Role::Writer);
    let replicas = [alice, bob];
    replicas[0].write("n", &vec![7; 100_000]).unwrap();
    meet(&replicas);
    // An edit by who had not seen the removal outlives it.
    replicas[0].write_at("n", 5, b"edited").unwrap();
    replicas[1].remove("n").unwrap();
    meet(&replicas);
    for replica in &replicas {
        let before = replica.read("n").unwrap();
        assert!(replica.volume.reclaim(&mut || true).unwrap().finished);
        assert!(replica.read("n").unwrap() == before, "{}", replica.name);
    }
}
