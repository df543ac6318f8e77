//! What is made quick between two peers: messages checked ahead and taken in together, blocks stored together, readers
//! woken once, and the kernel told of nothing that it can't know.

use std::{
    sync::{Arc, Mutex, mpsc},
    thread,
    time::Duration,
};

use crate::common::{Replica, forge::commits, sync};
use p2pfs_volume::{Caller, Changed, CheckedMessage, Message, Role, SessionError, commit::ClaimedCommit};

fn pair() -> (Replica, Replica) {
    let alice = Replica::founder("alice", 1);
    let bob = Replica::joined("bob", 2, &alice, Role::Writer);
    sync(&alice, &bob);
    (alice, bob)
}

fn told_of(replica: &Replica) -> Arc<Mutex<Vec<Changed>>> {
    let told = Arc::new(Mutex::new(Vec::new()));
    let listener = told.clone();
    replica.volume.on_change(Box::new(move |change| listener.lock().unwrap().push(change)));
    told
}

#[test]
fn messages_that_are_taken_in_together_are_each_judged() {
    let (alice, bob) = pair();
    let before = commits(&alice, &bob).len();
    for path in ["one", "two", "three"] {
        alice.write(path, b"1").unwrap();
        alice.volume.commit_now().unwrap();
    }
    let all: Vec<_> = commits(&alice, &bob)[before..].iter().map(|c| c.raw.clone()).collect();
    let [one, two, three] = &all[..] else { panic!("{} commits", all.len()) };
    let checked = |commit: &ClaimedCommit| CheckedMessage::from(Message::Commits(vec![commit.clone()]));
    let mut forged = three.clone();
    forged.changes[0].body[0] ^= 1;

    let session = bob.volume.session(alice.device_id());
    let mut group = checked(one);
    assert!(group.join(checked(two)).is_ok());
    // What isn't of sound commits keeps its turn.
    let Err(bad) = group.join(checked(&forged)) else { panic!("a forged commit was let in") };
    let Err(flush) = group.join(Message::Flush(1).into()) else { panic!("a flush is no commit") };
    let Err(empty) = group.join(Message::Commits(Vec::new()).into()) else { panic!("nothing to join") };
    session.receive(group).unwrap();
    assert!(bob.find("one").is_ok() && bob.find("two").is_ok());
    session.receive(flush).unwrap();
    session.receive(empty).unwrap();
    assert!(matches!(session.receive(bad), Err(SessionError::Misbehaved(_))));
    assert!(bob.find("three").is_err());
    session.receive(checked(three)).unwrap();
    assert!(bob.find("three").is_ok());
}

#[test]
fn blocks_before_a_wrong_one_are_stored_and_the_others_are_asked_for_again() {
    let (alice, bob) = pair();
    alice.write("f", &[7; 1_000_000]).unwrap();
    let all = commits(&alice, &bob);
    let session = bob.volume.session(alice.device_id());
    session.receive(Message::Commits(all.into_iter().map(|c| c.raw).collect())).unwrap();
    let at_alice = alice.volume.session(bob.device_id());
    let got = |hashes: &[_]| -> Vec<_> { hashes.iter().map(|h| (*h, at_alice.serve_block(h).unwrap())).collect() };
    // The list first, then what it lists.
    session.blocks_arrived(&got(&session.wanted(32))).unwrap();
    let mut blocks = got(&session.wanted(4));
    assert_eq!(blocks.len(), 4);
    blocks[2].1[100] ^= 1;
    assert!(matches!(session.blocks_arrived(&blocks), Err(SessionError::Misbehaved(_))));
    drop(session);
    for (i, (hash, _)) in blocks.iter().enumerate() {
        let here = bob.volume.session(alice.device_id()).serve_block(hash).is_some();
        assert_eq!(here, i < 2, "block {i}");
    }
    sync(&alice, &bob);
    assert_eq!(bob.read("f").unwrap(), vec![7; 1_000_000]);
}

#[test]
fn a_reader_waits_for_all_of_its_blocks() {
    let (alice, bob) = pair();
    alice.write("f", &[7; 400_000]).unwrap();
    let all = commits(&alice, &bob);
    let session = bob.volume.session(alice.device_id());
    session.receive(Message::Commits(all.into_iter().map(|c| c.raw).collect())).unwrap();
    let at_alice = alice.volume.session(bob.device_id());
    let got = |hash: &_| (*hash, at_alice.serve_block(hash).unwrap());
    let root = session.wanted(1)[0];
    session.blocks_arrived(&[got(&root)]).unwrap();
    let leaves = session.wanted(16);
    assert!(leaves.len() > 4);
    let (done, came) = mpsc::channel();
    let (reader, hashes) = (bob.volume.clone(), leaves.clone());
    // One of them twice, and one that is here.
    let asked: Vec<_> = [&hashes[..4], &hashes[..1], &[root]].concat();
    let waiting = thread::spawn(move || done.send(reader.await_blocks(&asked, Duration::from_secs(60))).unwrap());
    for leaf in &leaves[1..] {
        session.blocks_arrived(&[got(leaf)]).unwrap();
    }
    assert!(came.recv_timeout(Duration::from_millis(200)).is_err(), "one is still missing");
    session.blocks_arrived(&[got(&leaves[0])]).unwrap();
    assert!(came.recv_timeout(Duration::from_secs(30)).unwrap());
    waiting.join().unwrap();
    assert!(bob.volume.await_blocks(&leaves, Duration::ZERO), "all are here");
}

#[test]
fn nobody_is_told_of_what_was_born_just_now() {
    let (alice, bob) = pair();
    let root = bob.find("").unwrap();
    alice.mkdir("d").unwrap();
    alice.write("d/f", b"1").unwrap();
    alice.volume.commit_now().unwrap();
    let told = told_of(&bob);
    sync(&alice, &bob);
    let directory = bob.find("d").unwrap();
    let changes = std::mem::take(&mut *told.lock().unwrap());
    assert!(changes.contains(&Changed::Entry { parent: root, name: b"d".to_vec() }), "{changes:?}");
    assert!(changes.contains(&Changed::Attributes(root)), "{changes:?}");
    let new = |change: &Changed| match change {
        Changed::Content(ino) | Changed::Attributes(ino) | Changed::Entry { parent: ino, .. } => *ino >= directory,
        Changed::Members => false,
    };
    assert!(!changes.iter().any(new), "{changes:?}");
    // Known by now.
    alice.write("d/g", b"1").unwrap();
    alice.write("d/f", b"2").unwrap();
    sync(&alice, &bob);
    let changes = std::mem::take(&mut *told.lock().unwrap());
    assert!(changes.contains(&Changed::Entry { parent: directory, name: b"g".to_vec() }), "{changes:?}");
    assert!(changes.contains(&Changed::Content(bob.find("d/f").unwrap())), "{changes:?}");
}

/// Both made it: whichever shows, who knows the other is told of what is in it.
#[test]
fn what_comes_into_a_directory_with_a_new_one_is_told_in_the_old_one() {
    let (alice, bob) = pair();
    for (one, other) in [(&alice, &bob), (&bob, &alice)] {
        let path = format!("d-{}", one.name);
        one.mkdir(&path).unwrap();
        one.write(&format!("{path}/theirs"), b"1").unwrap();
        one.volume.commit_now().unwrap();
        // Later, so that the one from elsewhere is the older.
        other.write("count", b"1").unwrap();
        other.volume.commit_now().unwrap();
        other.mkdir(&path).unwrap();
        let known = other.find(&path).unwrap();
        let told = told_of(other);
        sync(one, other);
        let entry = Changed::Entry { parent: known, name: b"theirs".to_vec() };
        let changes = told.lock().unwrap();
        assert!(changes.contains(&entry), "{changes:?}");
    }
}

#[test]
fn a_file_that_grows_is_published_while_it_is_written_if_somebody_is_there() {
    let (alice, bob) = pair();
    let pending = || alice.volume.status().pending_changes;
    let write = |handle, at: u64| {
        let before = pending();
        alice.volume.write(handle, at, b"some", &Caller::default()).unwrap();
        pending() - before
    };
    let handle = alice.open_to_write("alone").unwrap();
    assert_eq!([0, 128 << 20, 256 << 20].map(|at| write(handle, at)), [0; 3]);
    alice.close(handle).unwrap();
    let _connected = alice.volume.session(bob.device_id());
    let handle = alice.open_to_write("seen").unwrap();
    let at = [0, 127 << 20, 128 << 20, 129 << 20, 0, 255 << 20, 257 << 20];
    assert_eq!(at.map(|at| write(handle, at)), [0, 0, 1, 0, 0, 0, 1]);
    alice.close(handle).unwrap();
}
