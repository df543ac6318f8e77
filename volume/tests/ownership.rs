//! A volume that is handed over, also by several devices at once and by one that was stolen.

use crate::common::{Replica, forge::commits, forge::told, sync};
use crypto::UserId;
use p2pfs_volume::{Error, Role};

fn user(replica: &Replica) -> UserId {
    replica.user_keys().id()
}

fn group() -> [Replica; 3] {
    let alice = Replica::founder("alice", 1);
    let bob = Replica::joined("bob", 2, &alice, Role::Writer);
    let carol = Replica::joined("carol", 3, &alice, Role::Admin);
    sync(&alice, &bob);
    sync(&alice, &carol);
    [alice, bob, carol]
}

fn hand_over(from: &Replica, to: &Replica) -> p2pfs_volume::Result<()> {
    from.volume.transfer_ownership(&user(to))
}

fn roles(replica: &Replica) -> Vec<(String, Role)> {
    let mut roles: Vec<_> = replica.volume.members().into_iter().map(|m| (m.name, m.role)).collect();
    roles.sort();
    roles
}

fn all_say(all: &[&Replica], expected: &[(&str, Role)]) {
    for _ in 0..all.len() {
        all[1..].iter().for_each(|other| sync(all[0], other));
    }
    let expected: Vec<(String, Role)> = expected.iter().map(|(name, role)| ((*name).to_owned(), *role)).collect();
    for one in all {
        assert_eq!(roles(one), expected, "{}", one.name);
        assert_eq!(one.tree(), all[0].tree(), "{}", one.name);
    }
}

fn refused(done: p2pfs_volume::Result<()>) {
    assert!(matches!(done, Err(Error::Refused(_))), "{done:?}");
}

#[test]
fn the_new_owner_is_senior_to_everybody() {
    let [alice, mut bob, carol] = group();
    refused(hand_over(&carol, &bob));
    refused(hand_over(&bob, &bob));
    refused(hand_over(&alice, &alice));
    hand_over(&alice, &bob).unwrap();
    all_say(&[&alice, &bob, &carol], &[("alice", Role::Admin), ("bob", Role::Owner), ("carol", Role::Admin)]);
    refused(hand_over(&alice, &carol));
    refused(alice.volume.remove_user(&user(&bob)));
    refused(carol.volume.set_role(&user(&bob), Role::Reader));
    refused(carol.volume.remove_user(&user(&alice)));
    bob.restart(20);
    bob.write("bob's", b"1").unwrap();
    // Back again, and once more: nothing of before counts twice.
    hand_over(&bob, &alice).unwrap();
    all_say(&[&alice, &bob, &carol], &[("alice", Role::Owner), ("bob", Role::Admin), ("carol", Role::Admin)]);
    hand_over(&alice, &carol).unwrap();
    all_say(&[&alice, &bob, &carol], &[("alice", Role::Admin), ("bob", Role::Admin), ("carol", Role::Owner)]);
    carol.volume.remove_user(&user(&alice)).unwrap();
    all_say(&[&carol, &bob], &[("bob", Role::Admin), ("carol", Role::Owner)]);
    let newcomer = Replica::joined("dora", 9, &carol, Role::Reader);
    all_say(&[&carol, &bob, &newcomer], &[("bob", Role::Admin), ("carol", Role::Owner), ("dora", Role::Reader)]);
}

/// Whoever hands over and removes at the same time does the first: the owner can't be removed.
#[test]
fn a_removal_apart_from_the_transfer_is_void() {
    let [alice, bob, carol] = group();
    hand_over(&alice, &bob).unwrap();
    carol.volume.remove_user(&user(&bob)).unwrap();
    bob.write("apart", b"1").unwrap();
    all_say(&[&alice, &bob, &carol], &[("alice", Role::Admin), ("bob", Role::Owner), ("carol", Role::Admin)]);
    assert_eq!(carol.read("apart").unwrap(), b"1");
    // What came before it stays as it was.
    bob.volume.remove_user(&user(&carol)).unwrap();
    hand_over(&bob, &alice).unwrap();
    all_say(&[&alice, &bob], &[("alice", Role::Owner), ("bob", Role::Admin)]);
}

/// The owner's two devices hand over apart: the same one of both counts for all, whatever they heard first.
#[test]
fn of_two_transfers_one_counts() {
    let [alice, bob, carol] = group();
    let phone = Replica::next_device("phone", 5, &alice);
    hand_over(&alice, &bob).unwrap();
    hand_over(&phone, &carol).unwrap();
    // Each acts on it at once.
    sync(&alice, &bob);
    sync(&phone, &carol);
    bob.volume.set_role(&user(&carol), Role::Reader).unwrap();
    carol.volume.set_role(&user(&bob), Role::Reader).unwrap();
    let told_twice = [&alice, &phone, &bob, &carol];
    for _ in 0..4 {
        told_twice[1..].iter().for_each(|other| sync(told_twice[0], other));
    }
    let seen = roles(&alice);
    assert!(told_twice.iter().all(|one| roles(one) == seen), "{seen:?}");
    let owners: Vec<_> = seen.iter().filter(|(_, role)| *role == Role::Owner).collect();
    assert_eq!(owners.len(), 1, "{seen:?}");
    assert!(seen.iter().any(|(name, role)| name != "alice" && *role == Role::Reader), "{seen:?}");
}

/// A device that its owner removed, and that pretends not to have heard of it, hands nothing over.
#[test]
fn a_stolen_device_hands_nothing_over() {
    let [alice, bob, carol] = group();
    let phone = Replica::next_device("phone", 5, &alice);
    let further = Replica::next_device("further", 6, &alice);
    for other in [&phone, &further, &bob, &carol] {
        sync(&alice, other);
    }
    hand_over(&phone, &carol).unwrap();
    hand_over(&further, &bob).unwrap();
    let thief: Vec<_> = [&phone, &further].map(|one| commits(one, &alice)).into_iter().flatten().collect();
    let raw: Vec<_> = thief.iter().map(|commit| &commit.raw).collect();
    // Carol believes it, until she hears more.
    told(&carol, &phone, &raw);
    assert_eq!(roles(&carol).iter().filter(|(_, role)| *role == Role::Owner).count(), 1);
    assert_ne!(roles(&carol)[0], ("alice".to_owned(), Role::Owner));
    alice.volume.remove_device(&phone.device_id()).unwrap();
    alice.volume.remove_device(&further.device_id()).unwrap();
    told(&bob, &phone, &raw);
    all_say(&[&alice, &bob, &carol], &[("alice", Role::Owner), ("bob", Role::Writer), ("carol", Role::Admin)]);
    hand_over(&alice, &bob).unwrap();
    all_say(&[&alice, &bob, &carol], &[("alice", Role::Admin), ("bob", Role::Owner), ("carol", Role::Admin)]);
}
