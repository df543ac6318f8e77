//! Messages between members, as the store keeps them and sessions carry them.

use std::sync::Arc;

use crate::common::{Replica, sync};
use crypto::OsEntropy;
use p2pfs_volume::{
    Letter, Role, Session, SessionError,
    audit::{Audit, Limits, Op},
    letters::{ALL, MAX_TEXT, Took},
};

fn two() -> (Replica, Replica) {
    let alice = Replica::founder("alice", 1);
    let bob = Replica::joined("bob", 2, &alice, Role::Writer);
    sync(&alice, &bob);
    (alice, bob)
}

fn all(at: &Replica) -> Vec<Letter> {
    at.volume.letters(1, usize::MAX).unwrap()
}

fn texts(at: &Replica) -> Vec<String> {
    all(at).into_iter().map(|letter| letter.text).collect()
}

/// Carries frames both ways until there are none.
fn carry(a: &Session, b: &Session) {
    loop {
        let (to_b, to_a) = (a.next_letters(), b.next_letters());
        if to_a.is_empty() && to_b.is_empty() {
            return;
        }
        assert_eq!(b.letters_came(&to_b).unwrap(), Took::All);
        assert_eq!(a.letters_came(&to_a).unwrap(), Took::All);
    }
}

fn meet(a: &Replica, b: &Replica) {
    carry(&a.volume.session(b.device_id()), &b.volume.session(a.device_id()));
}

#[test]
fn letters_come_once_and_in_order() {
    let (mut alice, mut bob) = two();
    for n in 0..150 {
        assert_eq!(alice.volume.send_letter(Some("bob"), &n.to_string()).unwrap(), 1);
    }
    assert_eq!(all(&alice)[0].waiting, 1);
    alice.restart(1);
    // What was sent and not acknowledged comes again.
    let lost = alice.volume.session(bob.device_id()).next_letters();
    assert_eq!(bob.volume.session(alice.device_id()).letters_came(&lost).unwrap(), Took::All);
    bob.restart(1);
    meet(&alice, &bob);
    meet(&alice, &bob);
    let expected: Vec<String> = (0..150).map(|n| n.to_string()).collect();
    assert_eq!(texts(&bob), expected);
    assert_eq!(texts(&alice), expected);
    assert!(all(&alice).iter().all(|letter| letter.waiting == 0 && letter.own && letter.read));
    assert!(alice.volume.session(bob.device_id()).next_letters().is_empty(), "nothing is left to send");
    let first = &all(&bob)[0];
    assert_eq!((first.from.as_str(), first.to.as_str(), first.own, first.read), ("alice", "bob", false, false));
    assert_eq!(bob.volume.unread_letters().unwrap().count, 150);
    assert_eq!(bob.volume.read_letters(Some(&[1, 2, 2, 999])).unwrap(), 2);
    assert_eq!(bob.volume.unread_letters().unwrap().count, 148);
    assert_eq!(bob.volume.read_letters(None).unwrap(), 148);
    bob.restart(2);
    assert_eq!(bob.volume.unread_letters().unwrap().count, 0);
}

#[test]
fn a_letter_goes_to_whom_it_is_for() {
    let (alice, bob) = two();
    let carol = Replica::joined("carol", 3, &alice, Role::Reader);
    let keeper = Replica::joined("ken", 4, &alice, Role::Keeper);
    let laptop = Replica::next_device("laptop", 5, &alice);
    for other in [&bob, &carol, &keeper, &laptop, &bob] {
        sync(&alice, other);
    }
    assert_eq!(alice.volume.send_letter(Some("bob"), "for bob").unwrap(), 2, "bob's, and her own other one");
    assert_eq!(alice.volume.send_letter(None, "for all").unwrap(), 3);
    for other in [&bob, &carol, &keeper, &laptop] {
        meet(&alice, other);
    }
    assert_eq!(texts(&bob), ["for bob", "for all"]);
    assert_eq!(texts(&carol), ["for all"]);
    assert_eq!(texts(&laptop), ["for bob", "for all"]);
    assert_eq!(texts(&keeper), [""; 0]);
    assert_eq!(all(&carol)[0].to, ALL);
    assert_eq!(laptop.volume.unread_letters().unwrap().count, 0, "she wrote them");
    for (to, why) in [("ken", "keeper"), ("nobody", "no member"), ("\u{1b}", "no member")] {
        let error = alice.volume.send_letter(Some(to), "x").unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
    assert!(keeper.volume.send_letter(None, "x").is_err());
    assert!(alice.volume.send_letter(None, "").is_err());
    assert!(alice.volume.send_letter(None, &"x".repeat(MAX_TEXT + 1)).is_err());
    assert_eq!(alice.volume.send_letter(None, &"x".repeat(MAX_TEXT)).unwrap(), 3);
    meet(&alice, &bob);
    assert_eq!(texts(&bob).last().unwrap().len(), MAX_TEXT);
}

#[test]
fn what_is_forged_altered_or_for_somebody_else_is_refused() {
    let (alice, bob) = two();
    let carol = Replica::joined("carol", 3, &alice, Role::Writer);
    sync(&alice, &carol);
    sync(&alice, &bob);
    alice.volume.send_letter(Some("bob"), "for bob").unwrap();
    let frames = alice.volume.session(bob.device_id()).next_letters();
    let refused = |at: &Replica, from: &Replica, frames: &[Vec<u8>]| {
        let done = at.volume.session(from.device_id()).letters_came(frames);
        assert!(matches!(done, Err(SessionError::Misbehaved(_))), "{done:?}");
    };
    refused(&carol, &alice, &frames);
    refused(&bob, &carol, &frames);
    for at in (0..frames[0].len()).step_by(7) {
        let mut altered = frames[0].clone();
        altered[at] ^= 0x10;
        match bob.volume.session(alice.device_id()).letters_came(&[altered]) {
            // The sealed key is not signed: without it nothing opens.
            Ok(Took::All) | Err(SessionError::Misbehaved(_)) => {}
            other => panic!("byte {at}: {other:?}"),
        }
        assert_eq!(texts(&bob), [""; 0], "byte {at}");
    }
    refused(&bob, &alice, &[b"nonsense".to_vec()]);
    refused(&bob, &alice, &[Vec::new()]);
    assert_eq!(texts(&bob), [""; 0]);
    assert_eq!(texts(&carol), [""; 0]);
}

#[test]
fn who_was_removed_sends_and_gets_nothing() {
    let (alice, bob) = two();
    let directory = tempfile::tempdir().unwrap();
    let secret = crypto::SymmetricKey::generate(&OsEntropy);
    let audit = Audit::open(directory.path(), &secret, Arc::new(OsEntropy), Limits::default()).unwrap();
    alice.volume.set_audit(audit.clone());
    bob.volume.send_letter(Some("alice"), "before").unwrap();
    meet(&alice, &bob);
    bob.volume.send_letter(Some("alice"), "after").unwrap();
    alice.volume.send_letter(Some("bob"), "never").unwrap();
    let removed = alice.volume.members().into_iter().find(|member| member.name == "bob").unwrap().user;
    alice.volume.remove_user(&removed).unwrap();
    let frames = bob.volume.session(alice.device_id()).next_letters();
    let session = alice.volume.session(bob.device_id());
    assert_eq!(session.letters_came(&frames).unwrap(), Took::Never);
    assert_eq!(session.next_letters(), Vec::<Vec<u8>>::new());
    assert_eq!(texts(&alice), ["before", "never"]);
    assert_eq!(all(&alice)[1].waiting, 0, "nobody is waited for");
    assert!(alice.volume.send_letter(Some("bob"), "x").is_err());
    audit.flush();
    let entries = audit.read(1, usize::MAX).unwrap().entries;
    let told: Vec<_> = entries.iter().filter(|entry| entry.op == Op::Message).collect();
    assert_eq!(told.iter().map(|entry| entry.allowed).collect::<Vec<_>>(), [true, true, false]);
    assert_eq!(told[0].bytes, Some(6));
    assert!(entries.iter().all(|entry| entry.note.as_ref().is_none_or(|note| !note.contains("before"))));
}

#[test]
fn a_store_that_was_put_back_goes_on_with_greater_numbers() {
    let (mut alice, bob) = two();
    let copy = Arc::new(alice.store.copy());
    alice.volume.send_letter(Some("bob"), "one").unwrap();
    meet(&alice, &bob);
    alice.store = copy;
    alice.restart_as_copy(9);
    alice.volume.send_letter(Some("bob"), "two").unwrap();
    meet(&alice, &bob);
    assert_eq!(texts(&bob), ["one", "two"]);
}

#[test]
fn what_a_store_that_was_put_back_sends_again_is_no_misdeed() {
    let (mut alice, bob) = two();
    alice.volume.send_letter(Some("bob"), "one").unwrap();
    let copy = Arc::new(alice.store.copy());
    alice.volume.send_letter(Some("bob"), "two").unwrap();
    meet(&alice, &bob);
    alice.store = copy;
    alice.restart_as_copy(9);
    // He has a greater number than any that she knows of.
    meet(&alice, &bob);
    assert_eq!(all(&alice)[0].waiting, 0);
    alice.volume.send_letter(Some("bob"), "three").unwrap();
    meet(&alice, &bob);
    assert_eq!(texts(&bob), ["one", "two", "three"]);
}

#[test]
fn a_letter_that_overtakes_its_key_waits_for_it() {
    let (alice, bob) = two();
    let phone = Replica::next_device("phone", 5, &bob);
    let tablet = Replica::next_device("tablet", 6, &bob);
    sync(&bob, &alice);
    sync(&bob, &tablet);
    bob.volume.remove_device(&phone.device_id()).unwrap();
    sync(&bob, &alice);
    assert_eq!(alice.volume.send_letter(Some("bob"), "sealed to the new key").unwrap(), 2);
    let (there, here) = (alice.volume.session(tablet.device_id()), tablet.volume.session(alice.device_id()));
    let frames = there.next_letters();
    assert!(matches!(here.letters_came(&frames).unwrap(), Took::Later(_)));
    assert_eq!(texts(&tablet), [""; 0]);
    sync(&alice, &tablet);
    assert_eq!(here.letters_came(&frames).unwrap(), Took::All);
    assert_eq!(texts(&tablet), ["sealed to the new key"]);
}

#[test]
fn a_list_is_bounded_however_short_its_letters_are() {
    let (alice, _) = two();
    for _ in 0..100 {
        alice.volume.send_letter(Some("bob"), "x").unwrap();
    }
    let page = alice.volume.letters(1, 20_000).unwrap();
    assert!((10..50).contains(&page.len()), "{}", page.len());
    assert_eq!(alice.volume.letters(page.last().unwrap().n + 1, usize::MAX).unwrap().len(), 100 - page.len());
}

#[test]
fn a_store_that_is_built_anew_has_them_still() {
    let (alice, mut bob) = two();
    alice.volume.send_letter(Some("bob"), "one").unwrap();
    meet(&alice, &bob);
    bob.volume.send_letter(Some("alice"), "two").unwrap();
    bob.salvage(7);
    assert_eq!(texts(&bob), ["one", "two"]);
    meet(&alice, &bob);
    assert_eq!(texts(&alice), ["one", "two"]);
}
