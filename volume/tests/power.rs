//! Power loss, on replicas in memory: the store keeps a part of what came since its last sync, the blocks lose theirs.
//! What is left must be a state that was, whole, and go on among others as if nothing had been after it.

use std::collections::BTreeSet;

use crate::common::{Replica, sync};
use p2pfs_volume::{
    OpenMode, Role,
    store::{Space, Store},
};
use proptest::prelude::*;

/// Too long to be kept in the commit.
const BIG: usize = 18_000;

fn undo_rows(replica: &Replica) -> Vec<Vec<u8>> {
    replica.store.keys(Space::Meta).into_iter().filter(|key| key.starts_with(b"undo/")).collect()
}

fn two() -> (Replica, Replica) {
    let alice = Replica::founder("alice", 1);
    let bob = Replica::joined("bob", 2, &alice, Role::Writer);
    sync(&alice, &bob);
    (alice, bob)
}

/// Power fails at `replica`: of the unsynced batches the oldest `keep` are left, and no unsynced block.
fn lose_power(replica: &mut Replica, keep: usize, salt: u64) {
    replica.store.lose_power(keep);
    replica.blocks.lose_power();
    replica.restart(salt);
}

#[test]
fn a_version_whose_blocks_power_took_shows_the_one_before() {
    let (mut alice, bob) = two();
    alice.write("f", &[1; BIG]).unwrap();
    alice.volume.commit_now().unwrap();
    alice.write("f", &[2; BIG]).unwrap();
    alice.write("g", &[2; 10]).unwrap();
    lose_power(&mut alice, usize::MAX, 1);
    assert_eq!(alice.read("f").unwrap(), [1; BIG]);
    assert!(alice.read("g").is_err(), "what came after is gone with it");
    alice.write("g", &[3; BIG]).unwrap();
    sync(&alice, &bob);
    assert_eq!(bob.tree(), alice.tree());
    assert_eq!(bob.volume.status().branches, 2, "no number was used twice");
    assert_eq!(bob.volume.status().wanted_blocks, 0);
}

#[test]
fn no_inode_number_is_given_twice_and_every_birth_counts_over_deaths() {
    let mut alice = Replica::founder("alice", 1);
    let mut given = BTreeSet::new();
    // More than are set aside at once, and none; some of it in no commit when the volume dies.
    for (round, births) in [3, 300, 0, 40, 700, 1].into_iter().enumerate() {
        for number in 0..births {
            assert!(given.insert(alice.mkdir(&format!("{round} {number}")).unwrap()));
            if number == 20 {
                alice.volume.commit_now().unwrap();
            }
        }
        let nodes = alice.volume.status().nodes;
        assert_eq!(nodes, 1 + given.len() as u64, "with the root");
        alice.restart(round as u64);
        assert_eq!(alice.volume.status().nodes, nodes);
    }
    // Power loss takes some: what is left keeps its numbers to itself.
    alice.volume.commit_now().unwrap();
    for number in 0..600 {
        alice.mkdir(&format!("last {number}")).unwrap();
    }
    lose_power(&mut alice, 300, 7);
    let left: Vec<_> = (0..600).map_while(|number| alice.find(&format!("last {number}")).ok()).collect();
    assert_eq!(left.len(), 300);
    given.extend(left);
    for number in 300..600 {
        assert!(given.insert(alice.mkdir(&format!("last {number}")).unwrap()));
    }
    assert_eq!(alice.volume.status().nodes, 1 + given.len() as u64);
}

#[test]
fn making_something_does_not_store_the_counters() {
    let alice = Replica::founder("alice", 1);
    alice.mkdir("first").unwrap();
    let counters = || alice.store.get(Space::Meta, b"counters").unwrap();
    let before = counters();
    for number in 0..50 {
        alice.write(&format!("{number}"), b"hi").unwrap();
    }
    assert_eq!(counters(), before);
    alice.volume.commit_now().unwrap();
    assert_ne!(counters(), before, "with the commit, they are");
}

#[test]
fn what_others_have_is_never_taken_back() {
    let (mut alice, mut bob) = two();
    alice.write("f", &[1; BIG]).unwrap();
    sync(&alice, &bob);
    bob.write("f", &[2; BIG]).unwrap();
    alice.write("g", &[3; BIG]).unwrap();
    sync(&alice, &bob);
    let tree = alice.tree();
    lose_power(&mut alice, 0, 1);
    lose_power(&mut bob, 0, 1);
    sync(&alice, &bob);
    assert_eq!(alice.tree(), tree);
    assert_eq!(bob.tree(), tree);
    assert_eq!(alice.volume.status().branches, 2);
}

#[test]
fn a_file_synced_and_closed_costs_nothing_more() {
    let (alice, _) = two();
    let handle = alice.open_to_write("f").unwrap();
    alice.volume.commit_now().unwrap();
    for round in 0..10 {
        alice.volume.write(handle, round * 100_000, &[1; BIG], &Default::default()).unwrap();
        alice.volume.fsync(handle).unwrap();
    }
    let before = alice.store.unsynced();
    alice.close(handle).unwrap();
    assert_eq!(alice.store.unsynced() - before, 1);
    assert!(undo_rows(&alice).is_empty());
    alice.write("g", &[2; BIG]).unwrap();
    assert_eq!(undo_rows(&alice).len(), 1);
    alice.volume.commit_now().unwrap();
    assert!(undo_rows(&alice).is_empty());
}

#[derive(Clone, Debug)]
enum Step {
    Write {
        name: u8,
        big: bool,
    },
    Append {
        name: u8,
    },
    Remove {
        name: u8,
    },
    Rename {
        from: u8,
        to: u8,
    },
    Sync,
    Commit,
    Meet,
    OtherWrites {
        name: u8,
        big: bool,
    },
    Kill,
    /// Opening fails after so many writes and syncs; then power fails.
    DieOpening {
        writes: u64,
        keep: usize,
    },
    PowerLoss {
        keep: usize,
        blocks: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let name = 0..4u8;
    prop_oneof![
        6 => (name.clone(), any::<bool>()).prop_map(|(name, big)| Step::Write { name, big }),
        2 => name.clone().prop_map(|name| Step::Append { name }),
        1 => name.clone().prop_map(|name| Step::Remove { name }),
        2 => (name.clone(), name.clone()).prop_map(|(from, to)| Step::Rename { from, to }),
        1 => Just(Step::Sync),
        1 => Just(Step::Commit),
        1 => Just(Step::Meet),
        2 => (name, any::<bool>()).prop_map(|(name, big)| Step::OtherWrites { name, big }),
        2 => Just(Step::Kill),
        1 => (0..4u64, 0..12usize).prop_map(|(writes, keep)| Step::DieOpening { writes, keep }),
        3 => (0..12usize, any::<bool>()).prop_map(|(keep, blocks)| Step::PowerLoss { keep, blocks }),
    ]
}

fn bytes(number: usize, big: bool) -> Vec<u8> {
    let mut bytes = vec![number as u8; if big { BIG + number } else { 20 }];
    bytes[..8].copy_from_slice(&(number as u64).to_le_bytes());
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn any_loss_leaves_a_state_that_was(steps in prop::collection::vec(step(), 1..40)) {
        let (mut alice, bob) = two();
        // What alice showed after each call since the last one that made everything durable.
        let mut states = vec![alice.tree()];
        for (number, step) in steps.into_iter().enumerate() {
            let name = |n: u8| format!("f{n}");
            match step {
                Step::Write { name: n, big } => {
                    let handle = alice.open_to_write(&name(n)).unwrap();
                    states.push(alice.tree());
                    alice.volume.write(handle, 0, &bytes(number, big), &Default::default()).unwrap();
                    alice.close(handle).unwrap();
                }
                Step::Append { name: n } => {
                    let Ok(ino) = alice.find(&name(n)) else { continue };
                    let mode = OpenMode { write: true, append: true, ..OpenMode::default() };
                    let handle = alice.volume.open(ino, mode, &Default::default()).unwrap();
                    alice.volume.write(handle, 0, &bytes(number, true), &Default::default()).unwrap();
                    // Drafts live through power loss as versions do.
                    alice.volume.fsync(handle).unwrap();
                    states = vec![alice.tree()];
                    alice.close(handle).unwrap();
                }
                Step::Remove { name: n } => drop(alice.remove(&name(n))),
                Step::Rename { from, to } => drop(alice.rename(&name(from), &name(to))),
                Step::Sync => {
                    alice.volume.sync_all().unwrap();
                    states.clear();
                }
                Step::Commit => {
                    alice.volume.commit_now().unwrap();
                    states.clear();
                }
                Step::Meet => {
                    sync(&alice, &bob);
                    prop_assert_eq!(alice.tree(), bob.tree());
                    states.clear();
                }
                Step::OtherWrites { name: n, big } => bob.write(&name(n), &bytes(1000 + number, big)).unwrap(),
                Step::Kill => {
                    let before = alice.tree();
                    alice.restart(1000 + number as u64);
                    prop_assert_eq!(alice.tree(), before);
                }
                Step::DieOpening { writes, keep } => {
                    alice.store.fail_after(Some(writes));
                    let _ = alice.try_restart(2000 + number as u64);
                    alice.store.fail_after(None);
                    lose_power(&mut alice, keep, 3000 + number as u64);
                    let tree = alice.tree();
                    prop_assert!(states.contains(&tree), "{tree:#?} is none of {states:#?}");
                    states.clear();
                }
                Step::PowerLoss { keep, blocks } => {
                    alice.store.lose_power(keep);
                    if blocks {
                        alice.blocks.lose_power();
                    }
                    alice.restart(number as u64);
                    let tree = alice.tree();
                    prop_assert!(states.contains(&tree), "{tree:#?} is none of {states:#?}");
                    states.clear();
                }
            }
            states.push(alice.tree());
        }
        sync(&alice, &bob);
        prop_assert_eq!(alice.tree(), bob.tree());
        prop_assert_eq!(bob.volume.status().branches, 2, "no number was used twice");
        prop_assert_eq!(alice.volume.status().wanted_blocks + bob.volume.status().wanted_blocks, 0);
    }
}
