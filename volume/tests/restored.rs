//! A device whose store was put back from a copy: what it did since comes back to it, and no number of its log is used twice.

use std::{collections::BTreeMap, sync::Arc};

use crate::common::{Replica, forge::commits, sync};
use p2pfs_volume::{Message, Role, memory_store::MemoryStore};

fn three() -> (Replica, Replica, Replica) {
    let alice = Replica::founder("alice", 1);
    let bob = Replica::joined("bob", 2, &alice, Role::Writer);
    let carol = Replica::joined("carol", 3, &alice, Role::Writer);
    sync(&alice, &bob);
    sync(&alice, &carol);
    (alice, bob, carol)
}

/// How many numbers of logs stand for more than one commit, as `replica` knows it.
fn used_twice(replica: &Replica) -> usize {
    let mut numbers: BTreeMap<_, usize> = BTreeMap::new();
    for commit in commits(replica, replica) {
        let header = commit.header;
        *numbers.entry((header.device, header.log, header.seq)).or_default() += 1;
    }
    numbers.values().filter(|count| **count > 1).count()
}

/// When `at` was told that `of` goes on from an older copy.
fn told(at: &Replica, of: &Replica) -> bool {
    let devices = at.volume.devices();
    devices.iter().any(|device| device.id == of.device_id() && device.restored.is_some())
}

fn unmet(replica: &Replica) -> usize {
    replica.volume.restored().expect("a copy was noticed").1.len()
}

fn put_back(replica: &mut Replica, copy: MemoryStore) {
    replica.store = Arc::new(copy);
}

#[test]
fn a_copy_that_is_noticed_goes_on_under_a_new_log_also_offline() {
    let (mut alice, bob, carol) = three();
    let copy = alice.store.copy();
    alice.write("after the copy", b"1").unwrap();
    sync(&alice, &bob);
    put_back(&mut alice, copy);
    assert!(alice.volume.restored().is_none());
    alice.restart_as_copy(7);
    assert_eq!(unmet(&alice), 2);
    alice.write("offline", b"2").unwrap();
    alice.volume.commit_now().unwrap();

    // Carol knows nothing of what was lost, so meeting her doesn't bring it.
    sync(&alice, &carol);
    assert!(told(&carol, &alice) && told(&alice, &alice) && !told(&carol, &bob));
    assert_eq!(unmet(&alice), 1);
    assert!(alice.read("after the copy").is_err());
    alice.write("more", b"3").unwrap();
    sync(&alice, &bob);
    assert_eq!((unmet(&alice), used_twice(&bob)), (0, 0));
    for replica in [&alice, &bob] {
        for (name, bytes) in [("after the copy", b"1"), ("offline", b"2"), ("more", b"3")] {
            assert_eq!(replica.read(name).unwrap(), bytes, "{name}");
        }
    }
    let noticed = alice.volume.restored().unwrap();
    alice.restart(8);
    assert_eq!(alice.volume.restored(), Some(noticed), "it is remembered");
    alice.write("after a restart", b"4").unwrap();
    sync(&alice, &bob);
    assert_eq!(used_twice(&bob), 0);
}

/// A disk put back with its filesystem looks like the one that was. The first of its own commits that comes tells it.
#[test]
fn a_copy_that_is_not_noticed_leaves_its_log_when_others_know_more_of_it() {
    let (mut alice, bob, carol) = three();
    let copy = alice.store.copy();
    for number in 0..3 {
        alice.write(&format!("after the copy {number}"), b"1").unwrap();
        alice.volume.commit_now().unwrap();
    }
    // Bob gets two of them and carol all.
    let all: Vec<_> = commits(&alice, &bob).into_iter().map(|commit| commit.raw).collect();
    let session = bob.volume.session(alice.device_id());
    session.receive(Message::Commits(all[..all.len() - 1].to_vec())).unwrap();
    drop(session);
    sync(&alice, &carol);
    put_back(&mut alice, copy);
    alice.restart(7);
    assert!(alice.volume.restored().is_none());
    sync(&alice, &bob);
    assert_eq!(unmet(&alice), 1, "bob was met, carol was not");
    // The next number of the old log is one that carol knows.
    alice.write("after it was noticed", b"2").unwrap();
    sync(&alice, &carol);
    assert_eq!((used_twice(&carol), unmet(&alice)), (0, 0));
    assert!(told(&carol, &alice));
    assert_eq!(carol.read("after it was noticed").unwrap(), b"2");
    assert_eq!(alice.read("after the copy 2").unwrap(), b"1");
}

/// Nothing on such a disk tells, and it writes before it meets anybody: the log forks, and nothing is lost.
#[test]
fn a_copy_that_wrote_unnoticed_forks_its_log_once_and_leaves_it() {
    let (mut alice, bob, _) = three();
    alice.write("shared", b"base").unwrap();
    sync(&alice, &bob);
    let copy = alice.store.copy();
    alice.write("lost", b"1").unwrap();
    alice.write("shared", b"by the lost one").unwrap();
    sync(&alice, &bob);
    put_back(&mut alice, copy);
    alice.restart(7);
    alice.write("offline", b"2").unwrap();
    alice.write("shared", b"by the copy").unwrap();
    alice.volume.commit_now().unwrap();
    sync(&alice, &bob);
    let forked = used_twice(&bob);
    assert!(forked > 0 && told(&bob, &alice) && unmet(&alice) == 1);
    alice.write("afterwards", b"3").unwrap();
    sync(&alice, &bob);
    assert_eq!(used_twice(&bob), forked, "it goes on under a new log at once");
    assert_eq!(alice.tree(), bob.tree());
    for name in ["lost", "offline", "afterwards"] {
        assert!(bob.read(name).is_ok(), "{name}");
    }
    let both: Vec<_> = bob.tree().into_iter().filter(|line| line.starts_with("/shared")).collect();
    assert_eq!(both.len(), 2, "{both:?}");
}

/// An emptied store gets its own commits back, and doesn't write under their numbers meanwhile.
#[test]
fn an_emptied_store_goes_on_under_a_new_log() {
    let (alice, mut bob, carol) = three();
    bob.write("of bob", b"1").unwrap();
    sync(&alice, &bob);
    bob.write("only carol has it", b"2").unwrap();
    sync(&bob, &carol);
    let grant = bob.volume.own_grant().unwrap();
    put_back(&mut bob, MemoryStore::new());
    bob.restart(7);
    bob.volume.accept(&grant).unwrap();
    sync(&alice, &bob);
    assert_eq!(bob.read("of bob").unwrap(), b"1");
    bob.write("since", b"3").unwrap();
    sync(&bob, &carol);
    assert_eq!(used_twice(&carol), 0);
    assert_eq!((bob.read("only carol has it").unwrap(), carol.read("since").unwrap()), (b"2".to_vec(), b"3".to_vec()));
}

/// What a device said to know comes here from another one afterwards: then nothing is missing that it knew.
#[test]
fn a_device_counts_as_met_also_when_what_it_knows_comes_from_another() {
    let (alice, mut bob, carol) = three();
    let copy = bob.store.copy();
    bob.write("after the copy", b"1").unwrap();
    sync(&alice, &bob);
    sync(&alice, &carol);
    put_back(&mut bob, copy);
    bob.restart_as_copy(7);
    for other in [&alice, &carol] {
        let own = commits(&bob, other).into_iter().map(|commit| commit.raw).collect();
        other.volume.session(bob.device_id()).receive(Message::Commits(own)).unwrap();
    }
    let (to_alice, to_bob) = (bob.volume.session(alice.device_id()), alice.volume.session(bob.device_id()));
    to_bob.opening().into_iter().for_each(|message| to_alice.receive(message).unwrap());
    sync(&bob, &carol);
    assert_eq!(bob.read("after the copy").unwrap(), b"1");
    assert_eq!(unmet(&bob), 1);
    while to_alice.next_outgoing().is_some() {}
    assert_eq!(unmet(&bob), 0);
}
