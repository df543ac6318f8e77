//! People and devices that are removed, and roles that change, while others work apart.

use std::time::Duration;

use crate::common::{self, Replica, sync};
use crate::model::world::dump;
use crypto::{BoxSecret, UserId};
use p2pfs_volume::{DeviceRequest, Error, Role, commit::ContentBody, content::ContentData};
use proptest::prelude::*;
use simulation::model::{History, Reference};

fn user(replica: &Replica) -> UserId {
    replica.user_keys().id()
}

fn group<const N: usize>(names: [(&str, Role); N]) -> (Replica, [Replica; N]) {
    let alice = Replica::founder("alice", 1);
    let mut seed = 1;
    let others = names.map(|(name, role)| {
        seed += 1;
        Replica::joined(name, seed, &alice, role)
    });
    for _ in 0..2 {
        others.iter().for_each(|other| sync(&alice, other));
    }
    (alice, others)
}

fn same(all: &[&Replica]) -> Vec<String> {
    for _ in 0..all.len() {
        all[1..].iter().for_each(|other| sync(all[0], other));
    }
    let members = |r: &Replica| {
        let members = r.volume.members().into_iter();
        members.map(|m| (m.name, m.role, m.devices)).collect::<Vec<_>>()
    };
    for other in &all[1..] {
        assert_eq!(other.tree(), all[0].tree(), "{} and {}", other.name, all[0].name);
        assert_eq!(members(other), members(all[0]), "{} and {}", other.name, all[0].name);
    }
    all[0].tree()
}

fn names(tree: &[String]) -> Vec<&str> {
    tree.iter().map(|line| line.split(' ').next().unwrap()).collect()
}

/// Their keys are more than a head holds.
#[test]
fn somebody_is_let_in_after_hundreds_of_removals() {
    let (alice, [bob]) = group([("bob", Role::Writer)]);
    alice.write("first", b"of the first epoch").unwrap();
    for _ in 0..430 {
        // A device: no user is left whose key every epoch would have to be sealed to.
        let device = crypto::DeviceKeys::generate(&crypto::OsEntropy);
        let ticket = alice.volume.invite_device(Some(Duration::from_secs(60))).unwrap();
        alice.volume.admit_device(&DeviceRequest::new(&ticket, &device, None, b"e"), b"e").unwrap();
        alice.volume.remove_device(&device.id()).unwrap();
    }
    let carol = Replica::joined("carol", 9, &alice, Role::Writer);
    same(&[&alice, &bob, &carol]);
    assert_eq!(carol.read("first").unwrap(), b"of the first epoch");
}

#[test]
fn who_was_removed_changes_nothing_and_is_told() {
    let (alice, [bob, carol]) = group([("bob", Role::Writer), ("carol", Role::Writer)]);
    bob.write("f", b"bob's").unwrap();
    sync(&alice, &bob);
    alice.volume.remove_user(&user(&bob)).unwrap();
    sync(&alice, &bob);
    assert!(matches!(bob.write("f", b"more"), Err(Error::ReadOnly)));
    assert_eq!(bob.volume.own_role(), None);
    assert_eq!(bob.read("f").unwrap(), b"bob's", "what he had is there");
    assert!(alice.volume.is_removed(&bob.device_id()) && !alice.volume.is_member(&bob.device_id()));
    // Nothing that came later goes to him, and nothing is taken from a session that ended.
    alice.write("secret", b"new").unwrap();
    sync(&alice, &bob);
    assert!(bob.find("secret").is_err());
    same(&[&alice, &carol]);
    assert_eq!(carol.read("secret").unwrap(), b"new");
    assert_eq!(carol.volume.members().len(), 2);
}

/// What is sealed after the removal does not open with keys from before it.
#[test]
fn new_work_is_sealed_under_a_new_key() {
    let (alice, [bob, carol]) = group([("bob", Role::Writer), ("carol", Role::Writer)]);
    let before = alice.volume.discovery_key().unwrap();
    alice.volume.remove_user(&user(&bob)).unwrap();
    let after = alice.volume.discovery_key().unwrap();
    assert_ne!(before.expose(), after.expose());
    sync(&alice, &carol);
    assert_eq!(carol.volume.discovery_key().unwrap().expose(), after.expose());
    assert_eq!(bob.volume.discovery_key().unwrap().expose(), before.expose());
    alice.write("secret", b"new").unwrap();
    sync(&alice, &carol);
    assert_eq!(carol.read("secret").unwrap(), b"new");
    // Somebody hands bob everything.
    let all = common::forge::commits(&alice, &carol);
    let raw: Vec<_> = all.iter().map(|c| &c.raw).collect();
    common::forge::told(&bob, &carol, &raw);
    assert!(bob.read("secret").is_err(), "{:?} {:?}", bob.read("secret"), bob.tree());
}

fn prepared(alice: &Replica) {
    alice.mkdir("d").unwrap();
    alice.write("d/edited", b"alice's").unwrap();
    alice.write("d/moved", b"moved").unwrap();
    alice.write("d/removed", b"removed").unwrap();
    alice.write("kept", b"kept").unwrap();
}

fn bob_at_work(bob: &Replica) {
    bob.write("d/edited", b"bob's").unwrap();
    bob.rename("d/moved", "elsewhere").unwrap();
    bob.remove("d/removed").unwrap();
    bob.mkdir("bobs").unwrap();
    bob.write("bobs/new", b"new of bob").unwrap();
    bob.write("new", b"also new").unwrap();
    bob.volume.commit_now().unwrap();
}

/// Alice removes bob while he works apart; carol meets him first and hears of it later, dora the other way round.
#[test]
fn what_was_done_apart_from_the_removal_is_taken_back_in_any_order() {
    let (alice, [bob, mut carol, mut dora]) =
        group([("bob", Role::Writer), ("carol", Role::Writer), ("dora", Role::Writer)]);
    prepared(&alice);
    [&bob, &carol, &dora].iter().for_each(|other| sync(&alice, other));
    let before = alice.tree();
    bob_at_work(&bob);
    sync(&bob, &carol);
    assert_ne!(carol.tree(), before);
    alice.volume.remove_user(&user(&bob)).unwrap();
    sync(&alice, &dora);
    sync(&alice, &carol);
    assert_eq!(carol.tree(), before, "taken back");
    sync(&carol, &dora);
    assert_eq!(same(&[&alice, &carol, &dora]), before);
    for replica in [&alice, &carol, &dora] {
        let kept = replica.volume.quarantine().unwrap();
        let changes: usize = kept.iter().map(|one| one.changes.len()).sum();
        assert!(changes >= 7, "{}: {kept:?}", replica.name);
        assert!(kept.iter().all(|one| one.user == "bob"));
    }
    carol.restart(50);
    dora.salvage(60);
    assert_eq!(same(&[&alice, &carol, &dora]), before, "after restarts");
    // Somebody who may does it anew.
    for one in alice.volume.quarantine().unwrap() {
        assert_eq!(alice.volume.accept_quarantined(&one).unwrap().left, 0);
    }
    assert!(alice.volume.quarantine().unwrap().is_empty(), "{:?}", alice.volume.quarantine().unwrap());
    let after = same(&[&alice, &carol, &dora]);
    assert_eq!(names(&after), ["/bobs", "/bobs/new", "/d", "/d/edited", "/elsewhere", "/kept", "/new"]);
    assert_eq!(carol.read("d/edited").unwrap(), b"bob's");
    assert_eq!(dora.read("bobs/new").unwrap(), b"new of bob");
    assert!(carol.volume.quarantine().unwrap().is_empty());
}

/// Nobody's work is lost for having been done in, or on, what is taken back.
#[test]
fn others_work_on_what_is_taken_back_stays() {
    let (alice, [bob, carol]) = group([("bob", Role::Writer), ("carol", Role::Writer)]);
    prepared(&alice);
    sync(&alice, &bob);
    sync(&alice, &carol);
    bob_at_work(&bob);
    sync(&bob, &carol);
    carol.write("new", b"carol wrote on").unwrap();
    carol.write("bobs/of carol", b"in it").unwrap();
    carol.write("d/edited", b"carol's after bob's").unwrap();
    alice.volume.remove_user(&user(&bob)).unwrap();
    let tree = same(&[&alice, &carol]);
    assert_eq!(alice.read("new").unwrap(), b"carol wrote on");
    assert_eq!(alice.read("bobs/of carol").unwrap(), b"in it");
    assert_eq!(alice.read("d/edited").unwrap(), b"carol's after bob's", "and nothing old beside it");
    assert!(alice.read("bobs/new").is_err());
    assert!(tree.iter().all(|line| !line.contains("conflict")), "{tree:?}");
    assert_eq!(alice.read("d/moved").unwrap(), b"moved");
    assert_eq!(alice.read("d/removed").unwrap(), b"removed");
}

#[test]
fn two_admins_who_remove_each_other_leave_the_senior_one() {
    let (alice, [bob, carol, dora]) = group([("bob", Role::Admin), ("carol", Role::Admin), ("dora", Role::Writer)]);
    bob.volume.remove_user(&user(&carol)).unwrap();
    assert!(matches!(carol.volume.remove_user(&user(&bob)), Err(Error::Refused(_))), "he is senior");
    carol.volume.remove_user(&user(&dora)).unwrap();
    dora.write("of dora", b"x").unwrap();
    dora.volume.commit_now().unwrap();
    // Alice hears of dora's removal, then of the removal of who removed her.
    sync(&carol, &alice);
    assert!(alice.volume.is_removed(&dora.device_id()));
    sync(&bob, &alice);
    assert!(!alice.volume.is_removed(&dora.device_id()), "carol could not remove her any more");
    same(&[&alice, &bob, &dora]);
    assert_eq!(alice.read("of dora").unwrap(), b"x");
    assert!(alice.volume.is_removed(&carol.device_id()));
    assert!(alice.volume.quarantine().unwrap().is_empty());
}

/// A removal that turns out not to count: what it had taken back comes back.
#[test]
fn what_a_void_removal_took_back_comes_back() {
    let (alice, [bob, carol, dora]) = group([("bob", Role::Admin), ("carol", Role::Writer), ("dora", Role::Writer)]);
    prepared(&alice);
    [&bob, &carol, &dora].iter().for_each(|other| sync(&alice, other));
    bob_at_work(&carol);
    let done = carol.tree();
    bob.volume.remove_user(&user(&carol)).unwrap();
    alice.volume.remove_user(&user(&bob)).unwrap();
    sync(&carol, &dora);
    sync(&bob, &dora);
    assert_ne!(dora.tree(), done, "taken back");
    sync(&alice, &dora);
    assert_eq!(dora.tree(), done, "and back again");
    assert_eq!(same(&[&alice, &dora, &carol]), done);
}

#[test]
fn a_lower_role_takes_effect_for_all() {
    let (alice, [bob, carol]) = group([("bob", Role::Writer), ("carol", Role::Writer)]);
    bob.write("f", b"seen").unwrap();
    sync(&alice, &bob);
    bob.write("f", b"apart").unwrap();
    bob.volume.commit_now().unwrap();
    alice.volume.set_role(&user(&bob), Role::Reader).unwrap();
    same(&[&alice, &carol, &bob]);
    assert_eq!(carol.read("f").unwrap(), b"seen");
    assert_eq!(bob.read("f").unwrap(), b"seen");
    assert!(matches!(bob.write("f", b"more"), Err(Error::ReadOnly)));
    alice.volume.set_role(&user(&bob), Role::Admin).unwrap();
    same(&[&alice, &carol, &bob]);
    bob.write("f", b"again").unwrap();
    bob.volume.set_role(&user(&carol), Role::Reader).unwrap();
    same(&[&alice, &carol, &bob]);
    assert_eq!(carol.read("f").unwrap(), b"again");
    assert!(matches!(carol.write("f", b"no"), Err(Error::ReadOnly)));
    assert!(matches!(bob.volume.set_role(&user(&alice), Role::Reader), Err(Error::Refused(_))), "the owner");
}

#[test]
fn who_steps_down_is_no_admin_from_then_on() {
    let (alice, [bob, mut carol]) = group([("bob", Role::Admin), ("carol", Role::Writer)]);
    bob.write("before", b"1").unwrap();
    bob.volume.set_role(&user(&bob), Role::Reader).unwrap();
    assert!(matches!(bob.write("after", b"2"), Err(Error::ReadOnly)));
    assert!(matches!(bob.volume.set_role(&user(&bob), Role::Admin), Err(Error::Refused(_))));
    same(&[&alice, &bob, &carol]);
    assert_eq!(carol.read("before").unwrap(), b"1");
    alice.volume.set_role(&user(&bob), Role::Writer).unwrap();
    same(&[&alice, &bob, &carol]);
    bob.write("after", b"2").unwrap();
    same(&[&alice, &bob, &carol]);
    carol.salvage(50);
    same(&[&alice, &bob, &carol]);
}

#[test]
fn removals_that_cross_leave_a_key_that_none_of_them_has() {
    let (alice, [bob, carol, dora, erin]) =
        group([("bob", Role::Admin), ("carol", Role::Writer), ("dora", Role::Writer), ("erin", Role::Writer)]);
    alice.volume.remove_user(&user(&carol)).unwrap();
    bob.volume.remove_user(&user(&dora)).unwrap();
    same(&[&alice, &bob, &erin]);
    erin.write("secret", b"new").unwrap();
    same(&[&alice, &bob, &erin]);
    assert_eq!(bob.read("secret").unwrap(), b"new");
    let all = common::forge::commits(&alice, &erin);
    let raw: Vec<_> = all.iter().map(|c| &c.raw).collect();
    for removed in [&carol, &dora] {
        common::forge::told(removed, &erin, &raw);
        assert!(removed.read("secret").is_err(), "{}", removed.name);
    }
}

/// What was opened before a lower role came, and is closed after it, is signed by nobody: no honest device accuses itself.
#[test]
fn what_comes_to_be_published_too_late_is_not_published() {
    let (alice, [bob]) = group([("bob", Role::Writer)]);
    alice.write("f", b"alice's").unwrap();
    sync(&alice, &bob);
    let handle = bob.open_to_write("f").unwrap();
    alice.volume.set_role(&user(&bob), Role::Reader).unwrap();
    sync(&alice, &bob);
    bob.volume.write(handle, 0, b"bob's", &p2pfs_volume::Caller::default()).unwrap();
    assert!(matches!(bob.close(handle), Err(Error::ReadOnly)));
    sync(&bob, &alice);
    assert_eq!(alice.read("f").unwrap(), b"alice's");
    assert_eq!(alice.volume.forbidden_commits().unwrap(), 0);
}

/// Who was left out of an epoch by a removal that did not count has its key with the next one, and reads what was sealed meanwhile,
/// also where nodes have so many names that these have rows of their own.
#[test]
fn who_was_left_out_in_vain_reads_it_all_later() {
    let (alice, [bob, carol]) = group([("bob", Role::Admin), ("carol", Role::Writer)]);
    alice.write("many", b"1").unwrap();
    for n in 0..300 {
        alice.link("many", &format!("name {n}")).unwrap();
    }
    same(&[&alice, &bob, &carol]);
    bob.volume.remove_user(&user(&carol)).unwrap();
    alice.volume.remove_user(&user(&bob)).unwrap();
    let dora = Replica::joined("dora", 8, &alice, Role::Writer);
    bob.write("of bob", b"2").unwrap();
    let all = common::forge::commits(&bob, &alice);
    for other in [&dora, &carol, &alice] {
        common::forge::told(other, &bob, &all.iter().map(|commit| &commit.raw).collect::<Vec<_>>());
    }
    dora.write("of dora", b"3").unwrap();
    alice.write("last", b"4").unwrap();
    let tree = same(&[&alice, &dora, &carol]);
    assert!(tree.iter().all(|line| !line.contains("unreadable")), "{tree:?}");
}

/// Gives `to` all that `from` would send, as far as it takes it.
fn hand_over(from: &Replica, to: &Replica) {
    let all = common::forge::commits(from, to);
    common::forge::told(to, from, &all.iter().map(|commit| &commit.raw).collect::<Vec<_>>());
}

/// Two gave a directory a new key of one generation each, and one of them turns out to have been removed: what is sealed from then
/// on they can't open, and those can whom they had removed.
#[test]
fn nothing_is_sealed_under_a_key_that_only_a_late_value_brought() {
    let (alice, [bob, carol]) = group([("bob", Role::Admin), ("carol", Role::Admin)]);
    bob.volume.remove_user(&user(&carol)).unwrap();
    alice.write("n0", b"alice 0").unwrap();
    bob.write("n0", b"bob 0").unwrap();
    alice.volume.remove_user(&user(&bob)).unwrap();
    alice.write("n1", b"alice 1").unwrap();
    hand_over(&alice, &carol);
    hand_over(&bob, &alice);
    alice.mkdir("last").unwrap();
    let tree = same(&[&alice, &carol]);
    assert_eq!(names(&tree), ["/last", "/n0", "/n1"]);
    let all = common::forge::commits(&alice, &carol);
    common::forge::told(&bob, &carol, &all.iter().map(|commit| &commit.raw).collect::<Vec<_>>());
    assert!(bob.find("last").is_err(), "{:?}", bob.tree());
}

/// Under a key that a removed admin brought, somebody worked who stays: it opens to whoever was left out of that key in vain, once
/// they have the key of its epoch.
#[test]
fn work_under_a_key_that_a_late_value_brought_opens_with_its_epoch() {
    let (alice, [bob, mut carol, dora]) =
        group([("bob", Role::Admin), ("carol", Role::Writer), ("dora", Role::Writer)]);
    alice.mkdir("d").unwrap();
    alice.mkdir("e").unwrap();
    same(&[&alice, &bob, &carol, &dora]);
    bob.volume.remove_user(&user(&carol)).unwrap();
    bob.write("d/of bob", b"1").unwrap();
    sync(&bob, &dora);
    dora.write("d/work", b"2").unwrap();
    alice.volume.remove_user(&user(&bob)).unwrap();
    for to in [&alice, &carol] {
        hand_over(&bob, to);
        hand_over(&dora, to);
    }
    hand_over(&alice, &carol);
    assert_eq!(alice.read("d/work").unwrap(), b"2");
    assert!(carol.read("d/work").is_err(), "{:?}", carol.tree());
    // The next epoch carries the one that carol lacks.
    alice.write("e/last", b"3").unwrap();
    let tree = same(&[&alice, &dora, &carol]);
    assert_eq!(names(&tree), ["/d", "/d/work", "/e", "/e/last"]);
    assert_eq!(carol.read("d/work").unwrap(), b"2");
    carol.salvage(50);
    assert_eq!(carol.tree(), tree);
}

/// The same of a file to which somebody who may only write gave the key: that shows as what it replaced does, also while its own
/// key is not known.
#[test]
fn what_a_writer_gave_a_new_key_opens_with_its_epoch() {
    let (alice, [bob, carol, dora]) = group([("bob", Role::Admin), ("carol", Role::Admin), ("dora", Role::Writer)]);
    bob.write("f", b"bob's").unwrap();
    bob.volume.remove_device(&carol.device_id()).unwrap();
    sync(&bob, &dora);
    dora.write("f", b"dora's").unwrap();
    alice.volume.transfer_ownership(&user(&carol)).unwrap();
    for from in [&bob, &dora, &alice] {
        [&alice, &carol].iter().for_each(|to| hand_over(from, to));
    }
    alice.write("last", b"1").unwrap();
    let tree = same(&[&alice, &bob, &dora, &carol]);
    assert_eq!(names(&tree), ["/f", "/last"]);
    assert_eq!(carol.read("f").unwrap(), b"dora's");
}

/// Whoever made an epoch while they were left out of another, in vain, knows of that one and doesn't carry it: the next does.
#[test]
fn who_was_left_out_in_vain_and_removes_somebody_themselves_reads_it_all_later() {
    let (alice, [bob, carol]) = group([("bob", Role::Admin), ("carol", Role::Admin)]);
    let phone = Replica::next_device("phone", 9, &alice);
    same(&[&alice, &bob, &carol, &phone]);
    alice.volume.remove_user(&user(&bob)).unwrap();
    sync(&alice, &bob);
    phone.volume.transfer_ownership(&user(&bob)).unwrap();
    sync(&phone, &bob);
    alice.mkdir("d").unwrap();
    bob.volume.remove_user(&user(&carol)).unwrap();
    hand_over(&bob, &alice);
    hand_over(&phone, &alice);
    alice.mkdir("last").unwrap();
    let tree = same(&[&alice, &bob, &phone]);
    assert_eq!(tree, ["/d dir links 2", "/last dir links 2"]);
    // That is once and for all, also where he writes.
    let keys = alice.volume.discovery_keys().len();
    for one in [&bob, &alice, &bob] {
        one.write("f", b"1").unwrap();
        same(&[&alice, &bob, &phone]);
    }
    assert_eq!(alice.volume.discovery_keys().len(), keys, "no further epochs");
}

/// Somebody without a device is given no key, and nobody waits for that.
#[test]
fn without_its_only_device_a_user_holds_nobody_up() {
    let (alice, [bob, carol]) = group([("bob", Role::Writer), ("carol", Role::Writer)]);
    alice.volume.remove_device(&bob.device_id()).unwrap();
    let keys = alice.volume.discovery_keys().len();
    for name in ["f", "g", "h"] {
        alice.write(name, b"1").unwrap();
        alice.volume.commit_now().unwrap();
    }
    assert_eq!(alice.volume.discovery_keys().len(), keys, "no further epochs");
    same(&[&alice, &carol]);
    let all = common::forge::commits(&alice, &carol);
    common::forge::told(&bob, &carol, &all.iter().map(|commit| &commit.raw).collect::<Vec<_>>());
    assert!(bob.read("g").is_err(), "{:?}", bob.tree());
}

/// Whoever knows that a device of theirs was removed may go on with what it made: that counts for all, in any order.
#[test]
fn a_user_goes_on_with_what_a_removed_device_of_theirs_made() {
    let (alice, [bob, carol, dora]) = group([("bob", Role::Writer), ("carol", Role::Writer), ("dora", Role::Writer)]);
    let phone = Replica::next_device("phone", 9, &alice);
    same(&[&alice, &bob, &carol, &dora, &phone]);
    phone.write("f", b"the phone's").unwrap();
    sync(&phone, &bob);
    bob.write("f", b"bob's").unwrap();
    alice.volume.remove_device(&phone.device_id()).unwrap();
    sync(&bob, &alice);
    assert_eq!(alice.read("f").unwrap(), b"bob's", "others' work stays");
    alice.write("f", b"alice goes on").unwrap();
    // To one of them it comes beside something that alice had not seen.
    carol.write("of carol", b"apart").unwrap();
    same(&[&alice, &bob, &carol, &dora]);
    for one in [&alice, &bob, &carol, &dora] {
        assert_eq!(one.read("f").unwrap(), b"alice goes on", "{}", one.name);
    }
}

/// An epoch that a removed device made is none to seal under, whatever failed since that became known.
#[test]
fn after_a_call_that_failed_a_new_epoch_is_still_due() {
    let (alice, [bob]) = group([("bob", Role::Admin)]);
    let phone = Replica::next_device("phone", 9, &alice);
    sync(&alice, &bob);
    alice.volume.remove_device(&phone.device_id()).unwrap();
    phone.volume.remove_user(&user(&bob)).unwrap();
    sync(&alice, &phone);
    assert!(alice.rename("nothing", "anything").is_err());
    alice.write("f", b"for bob, too").unwrap();
    for from in [&phone, &alice] {
        let all = common::forge::commits(from, &alice);
        common::forge::told(&bob, from, &all.iter().map(|commit| &commit.raw).collect::<Vec<_>>());
    }
    assert_eq!(bob.read("f").unwrap(), b"for bob, too");
}

#[derive(Clone, Debug)]
enum Step {
    Write(usize, usize),
    Make(usize, usize),
    Move(usize, usize, usize),
    Remove(usize, usize),
    Expel(usize, usize),
    Grant(usize, usize, usize),
    HandOver(usize, usize),
    ExpelDevice(usize, usize),
    Meet(usize, usize),
}

/// The last one is the first one's phone.
const PEOPLE: usize = 6;
const FILES: usize = 5;

fn step() -> impl Strategy<Value = Step> {
    let (who, file) = (0..PEOPLE, 0..FILES);
    prop_oneof![
        6 => (who.clone(), file.clone()).prop_map(|(a, b)| Step::Write(a, b)),
        2 => (who.clone(), file.clone()).prop_map(|(a, b)| Step::Make(a, b)),
        4 => (who.clone(), file.clone(), file.clone()).prop_map(|(a, b, c)| Step::Move(a, b, c)),
        3 => (who.clone(), file.clone()).prop_map(|(a, b)| Step::Remove(a, b)),
        1 => (who.clone(), who.clone()).prop_map(|(a, b)| Step::Expel(a, b)),
        2 => (who.clone(), who.clone(), 0..3usize).prop_map(|(a, b, c)| Step::Grant(a, b, c)),
        1 => (who.clone(), who.clone()).prop_map(|(a, b)| Step::HandOver(a, b)),
        1 => (who.clone(), who.clone()).prop_map(|(a, b)| Step::ExpelDevice(a, b)),
        5 => (who.clone(), who).prop_map(|(a, b)| Step::Meet(a, b)),
    ]
}

fn path(file: usize) -> String {
    if file < 3 { format!("n{file}") } else { format!("n0/n{file}") }
}

fn take_step(all: &[Replica], step: &Step) {
    let done = match *step {
        Step::Write(a, file) => all[a].write(&path(file), format!("{} {file}", all[a].name).as_bytes()),
        Step::Make(a, file) => all[a].mkdir(&path(file)).map(|_| ()),
        Step::Move(a, from, to) => all[a].rename(&path(from), &path(to)),
        Step::Remove(a, file) => match all[a].remove(&path(file)) {
            Err(Error::IsDirectory) => all[a].rmdir(&path(file)),
            done => done,
        },
        Step::Expel(a, b) if a != b => all[a].volume.remove_user(&user(&all[b])),
        Step::Grant(a, b, role) if a != b => {
            all[a].volume.set_role(&user(&all[b]), [Role::Reader, Role::Writer, Role::Admin][role])
        }
        Step::HandOver(a, b) if a != b => all[a].volume.transfer_ownership(&user(&all[b])),
        Step::ExpelDevice(a, b) if a != b => all[a].volume.remove_device(&all[b].device_id()),
        Step::Meet(a, b) if a != b => {
            sync(&all[a], &all[b]);
            Ok(())
        }
        _ => Ok(()),
    };
    // Whoever may not is told so; what is refused changes nothing.
    drop(done);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// Whatever people do, are made and are removed, whoever knows the same sees the same: in the order in which it came,
    /// and all at once in another.
    #[test]
    fn what_is_known_decides_whatever_order_it_came_in(steps in proptest::collection::vec(step(), 1..60)) {
        let (alice, others) = group([
            ("bob", Role::Admin),
            ("carol", Role::Admin),
            ("dora", Role::Writer),
            ("erin", Role::Writer),
        ]);
        let phone = Replica::next_device("phone", 9, &alice);
        let mut all = vec![alice];
        all.extend(others);
        all.push(phone);
        let first_keys = all[0].user_keys();
        steps.iter().for_each(|step| take_step(&all, step));
        all.iter().for_each(|one| one.volume.commit_now().unwrap());
        // Everything that anybody did reaches everybody, also by way of those who were removed.
        let mut known = std::collections::BTreeMap::new();
        for (one, to) in all.iter().flat_map(|one| all.iter().map(move |to| (one, to))) {
            if one.device_id() == to.device_id() {
                continue;
            }
            for commit in common::forge::commits(one, to) {
                known.insert((commit.header.count, commit.hash), commit);
            }
        }
        let raw: Vec<_> = known.values().map(|c| &c.raw).collect();
        for (n, one) in all.iter().enumerate() {
            let mut mine = raw.clone();
            if n % 2 == 1 {
                // Another causal order: by author, as far as causes allow, which waiting sees to.
                mine.sort_by_key(|c| c.header.len());
            }
            common::forge::told(one, &all[(n + 1) % all.len()], &mine);
        }
        // Whoever's removal turned out not to count has the key of the epoch that was made with it from who has it and writes
        // next. (They themselves may write before, under the one before.)
        let writes = |one: &&Replica| one.volume.own_role().is_some_and(Role::may_write);
        let reads_all = |one: &&Replica| !one.tree().iter().any(|line| line.contains("unreadable"));
        let (readers, others): (Vec<_>, Vec<_>) = all.iter().filter(writes).partition(reads_all);
        if let Some(writer) = readers.into_iter().chain(others).find(|one| one.mkdir("last").is_ok()) {
            let others = all.iter().filter(|one| one.device_id() != writer.device_id());
            for commit in others.flat_map(|to| common::forge::commits(writer, to)) {
                known.insert((commit.header.count, commit.hash), commit);
            }
            let last: Vec<_> = known.values().map(|c| &c.raw).collect();
            all.iter().for_each(|one| common::forge::told(one, writer, &last));
        }
        let is_there = |one: &&Replica| one.volume.own_role().is_some();
        let there: Vec<&Replica> = all.iter().filter(is_there).collect();
        let Some(first) = there.first() else { return Ok(()) };
        for other in &there[1..] {
            prop_assert_eq!(other.tree(), first.tree(), "{} and {}", other.name, first.name);
            let kept = |r: &Replica| {
                let kept = r.volume.quarantine().unwrap().into_iter();
                kept.map(|one| (one.commit, one.changes.len())).collect::<Vec<_>>()
            };
            prop_assert_eq!(kept(other), kept(first));
        }
        if first.name != "alice" {
            return Ok(());
        }
        // (Conflicts are named by users.)
        let user_of = |r: &Replica| if r.name == "phone" { "alice".to_owned() } else { r.name.clone() };
        let names = all.iter().map(|r| (r.device_id(), user_of(r))).collect();
        // Keys that were made since one of the devices was removed come with an exported key.
        let exported = first.volume.export_key().unwrap().secrets.to_bytes();
        let later: Vec<BoxSecret> =
            exported.chunks(36).map(|row| BoxSecret::from_bytes(row[4..].try_into().unwrap())).collect();
        let (device, as_user) = (first.device_keys(), UserId::from_bytes(*first.device_id().as_bytes()));
        let of_user = later.iter().chain([&first_keys.boxes]).map(|key| (user(first), key));
        let keys: Vec<_> = of_user.chain([(as_user, &device.boxes)]).collect();
        let everything: Vec<_> = known.into_values().collect();
        let history = History::opened_by(&everything, &keys);
        let text = |body: &ContentBody, _: &crypto::SymmetricKey| match &body.content.data {
            ContentData::Inline(bytes) => format!("{:?}", String::from_utf8_lossy(bytes)),
            ContentData::Tree { .. } => unreachable!("longer than the test's files"),
        };
        let expected = Reference::new(&history, &names, &text).tree();
        prop_assert_eq!(dump(&all[0]), expected, "alice and the model");
        let before = first.tree();
        let mut again = all.remove(0);
        again.restart(70);
        prop_assert_eq!(again.tree(), before.clone(), "after a restart");
        again.salvage(71);
        prop_assert_eq!(again.tree(), before, "built anew");
    }
}
