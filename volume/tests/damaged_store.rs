//! A store with rows missing or exchanged is told from a whole one: an error that says so, never a panic.

#![allow(clippy::unwrap_used, reason = "one test program: what fails anywhere in it is the test")]

mod common;

use common::{Replica, sync};
use p2pfs_volume::{
    Error, Role,
    store::{Batch, Space, Store},
};

/// Two members with a commit of each, seen from the first.
fn shared() -> Replica {
    let ada = Replica::founder("ada", 1);
    let bob = Replica::joined("bob", 2, &ada, Role::Writer);
    bob.write("from bob", b"hi").unwrap();
    sync(&ada, &bob);
    ada
}

fn check_damaged(ada: &Replica, change: Batch) {
    ada.store.apply(change).unwrap();
    let error = ada.reopened(1).err();
    assert!(matches!(error, Some(Error::Damaged(_))), "{error:?}");
}

#[test]
fn a_missing_branch_is_damage() {
    for branch in [0u32, 1] {
        let ada = shared();
        let mut change = Batch::new();
        change.remove(Space::Meta, [b"branch/", &branch.to_be_bytes()[..]].concat());
        check_damaged(&ada, change);
    }
}

#[test]
fn a_commit_of_no_branch_is_damage() {
    let ada = shared();
    let (key, row) = ada.store.last(Space::Commits, &[], &[]).unwrap().unwrap();
    let mut change = Batch::new();
    change.put(Space::Commits, [&[9], &key[1..]].concat(), row);
    check_damaged(&ada, change);
}

#[test]
fn an_index_that_leads_to_no_branch_is_damage() {
    let ada = shared();
    let (key, _) = ada.store.scan(Space::Index, b"h", b"i", 1).unwrap().remove(0);
    let mut change = Batch::new();
    change.put(Space::Index, key.clone(), vec![9; 12]);
    ada.store.apply(change).unwrap();
    let volume = ada.reopened(1).unwrap();
    let peer = volume.session(ada.device_id());
    let want = p2pfs_volume::id::CommitHash::try_from(&key[1..]).unwrap();
    // Whoever asks for that commit gets no answer, and no panic.
    let answer = peer.receive(p2pfs_volume::Message::Want(want));
    assert!(answer.is_err() || peer.next_outgoing().is_none());
}
