//! A store with rows missing or exchanged is told from a whole one: an error that says so, never a panic.

use crate::common::{Replica, sync};
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

fn check_damaged(mut ada: Replica, change: Batch) {
    ada.store.apply(change).unwrap();
    let error = ada.try_restart(1).err();
    assert!(matches!(error, Some(Error::Damaged(_))), "{error:?}");
}

#[test]
fn a_missing_branch_is_damage() {
    for branch in [0u32, 1] {
        let ada = shared();
        let mut change = Batch::new();
        change.remove(Space::Meta, [b"branch/", &branch.to_be_bytes()[..]].concat());
        check_damaged(ada, change);
    }
}

#[test]
fn a_commit_of_no_branch_is_damage() {
    let ada = shared();
    let (key, row) = ada.store.last(Space::Commits, &[], &[]).unwrap().unwrap();
    let mut change = Batch::new();
    change.put(Space::Commits, [&[9], &key[1..]].concat(), row);
    check_damaged(ada, change);
}
