//! Several replicas that work apart and meet: what each rule of the merged tree promises.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use crate::common::{
    Replica,
    forge::{Forger, commits, mode, name, tell, told},
    sync,
};
use crypto::{Label, SymmetricKey, keyed_tag};
use p2pfs_volume::{
    AttributeChange, Attributes, Caller, Error, Message, OpenMode, Role, SetTime, SetXattr, Timestamp,
    commit::{ChangeKind, ClaimedCommit, Commit, Head, Header, RawChange, XattrBody, changes_root, decode, encode},
    id::{Birthplace, CommitHash, NodeId, ValueId},
    store::Space,
};
use simulation::model::History;

fn pair() -> (Replica, Replica) {
    let alice = Replica::founder("alice", 1);
    let bob = Replica::joined("bob", 2, &alice, Role::Writer);
    (alice, bob)
}

fn meet(a: &Replica, b: &Replica) -> Vec<String> {
    sync(a, b);
    assert_eq!(a.tree(), b.tree());
    a.tree()
}

#[test]
fn what_is_being_taken_in_is_not_sent_back() {
    let (alice, bob) = pair();
    meet(&alice, &bob);
    let (at_a, at_b) = (alice.volume.session(bob.device_id()), Arc::new(bob.volume.session(alice.device_id())));
    at_a.opening().into_iter().for_each(|message| at_b.receive(message).unwrap());
    at_b.opening().into_iter().for_each(|message| at_a.receive(message).unwrap());
    let mine = bob.mkdir("of bob").unwrap();
    bob.volume.commit_now().unwrap();
    for _ in 0..4 {
        while let Some(message) = at_a.next_outgoing() {
            at_b.receive(message).unwrap();
        }
        while let Some(message) = at_b.next_outgoing() {
            at_a.receive(message).unwrap();
        }
    }
    assert!(alice.find("of bob").is_ok() && bob.find("of bob").unwrap() == mine, "they are in step");

    // Another thread sends whatever it can as soon as the mount is told.
    let said = Arc::new(Mutex::new(Vec::new()));
    let (session, noted) = (at_b.clone(), said.clone());
    bob.volume.on_change(Box::new(move |_| {
        let session = session.clone();
        let sending = thread::spawn(move || std::iter::from_fn(|| session.next_outgoing()).collect::<Vec<_>>());
        noted.lock().unwrap().extend(sending.join().unwrap());
    }));
    alice.write("of bob/new", b"hello").unwrap();
    alice.volume.commit_now().unwrap();
    while let Some(message) = at_a.next_outgoing() {
        at_b.receive(message).unwrap();
    }
    assert_eq!(bob.read("of bob/new").unwrap(), b"hello");
    let said = said.lock().unwrap();
    assert!(!said.is_empty(), "the mount was told");
    assert!(!said.iter().any(|message| matches!(message, Message::Commits(_))), "{said:?}");
}

#[test]
fn what_one_does_arrives_at_the_other() {
    let (alice, bob) = pair();
    alice.mkdir("d").unwrap();
    alice.write("d/small", b"hello").unwrap();
    let big: Vec<u8> = (0..3_000_000u32).map(|i| (i % 251) as u8).collect();
    alice.write("d/big", &big).unwrap();
    alice.link("d/small", "again").unwrap();
    let tree = meet(&alice, &bob);
    assert_eq!(tree.len(), 4);
    assert_eq!(bob.read("d/big").unwrap(), big);
    assert_eq!(bob.read("again").unwrap(), b"hello");

    bob.rename("d", "e").unwrap();
    bob.remove("again").unwrap();
    bob.write("e/small", b"changed").unwrap();
    meet(&alice, &bob);
    assert_eq!(alice.read("e/small").unwrap(), b"changed");
    assert!(alice.find("d").is_err() && alice.find("again").is_err());
}

#[test]
fn two_who_edit_one_file_both_keep_their_work() {
    let (alice, bob) = pair();
    alice.write("plan.txt", b"base").unwrap();
    meet(&alice, &bob);
    alice.write("plan.txt", b"alice's").unwrap();
    bob.write("plan.txt", b"bob's").unwrap();
    let tree = meet(&alice, &bob);
    assert_eq!(tree.len(), 2, "{tree:?}");
    assert!(tree.iter().any(|l| l.starts_with("/plan.txt ")), "{tree:?}");
    assert!(tree.iter().any(|l| l.starts_with("/plan (conflict of ")), "{tree:?}");
    let both = tree.join("\n");
    assert!(both.contains("alice's") && both.contains("bob's"), "{both}");
    assert_eq!(alice.volume.status().conflicts, 1);

    // Deleting the copy settles it.
    let copy = tree.iter().find(|l| l.contains("(conflict")).unwrap();
    let copy = &copy[1..copy.find(".txt").unwrap() + 4];
    bob.remove(copy).unwrap();
    let tree = meet(&alice, &bob);
    assert_eq!(tree.len(), 1, "{tree:?}");
    assert_eq!(alice.volume.status().conflicts, 0);
}

#[test]
fn a_conflicting_version_that_is_written_to_becomes_a_file() {
    let (alice, bob) = pair();
    alice.write("f", b"base").unwrap();
    meet(&alice, &bob);
    alice.write("f", b"one").unwrap();
    bob.write("f", b"two").unwrap();
    let tree = meet(&alice, &bob);
    let copy = tree.iter().find(|l| l.contains("(conflict")).unwrap();
    let copy = copy[1..copy.find(')').unwrap() + 1].to_owned();
    alice.write(&copy, b"merged").unwrap();
    let tree = meet(&alice, &bob);
    assert_eq!(tree.len(), 2, "{tree:?}");
    assert_eq!(bob.read(&copy).unwrap(), b"merged");
    assert_eq!(bob.volume.status().conflicts, 0);
}

#[test]
fn removing_a_file_in_conflict_keeps_the_other_version() {
    let (alice, bob) = pair();
    alice.write("f", b"base").unwrap();
    meet(&alice, &bob);
    alice.write("f", b"one").unwrap();
    bob.write("f", b"two").unwrap();
    meet(&alice, &bob);
    // An editor's save: a new file renamed over the old.
    alice.write("f.tmp", b"three").unwrap();
    alice.rename("f.tmp", "f").unwrap();
    let tree = meet(&alice, &bob);
    assert_eq!(tree.len(), 2, "{tree:?}");
    assert_eq!(bob.read("f").unwrap(), b"three");
    assert!(tree.iter().any(|l| l.contains("(conflict")), "{tree:?}");
}

#[test]
fn an_edit_outlives_a_removal_that_had_not_seen_it() {
    let (alice, bob) = pair();
    alice.mkdir("d").unwrap();
    alice.write("d/f", b"base").unwrap();
    meet(&alice, &bob);
    alice.remove("d/f").unwrap();
    alice.rmdir("d").unwrap();
    bob.write("d/f", b"bob's work").unwrap();
    meet(&alice, &bob);
    assert_eq!(alice.read("d/f").unwrap(), b"bob's work");
    // Removing it now is final.
    bob.remove("d/f").unwrap();
    let tree = meet(&alice, &bob);
    assert!(!tree.iter().any(|l| l.contains("/d/f")), "{tree:?}");
}

#[test]
fn a_new_file_keeps_a_removed_directory() {
    let (alice, bob) = pair();
    alice.mkdir("d").unwrap();
    alice.mkdir("d/e").unwrap();
    meet(&alice, &bob);
    alice.rmdir("d/e").unwrap();
    alice.rmdir("d").unwrap();
    bob.write("d/e/new", b"x").unwrap();
    meet(&alice, &bob);
    assert_eq!(alice.read("d/e/new").unwrap(), b"x");
}

#[test]
fn a_move_survives_a_concurrent_removal() {
    let (alice, bob) = pair();
    alice.write("f", b"x").unwrap();
    meet(&alice, &bob);
    alice.remove("f").unwrap();
    bob.rename("f", "g").unwrap();
    let tree = meet(&alice, &bob);
    assert_eq!(tree.len(), 1, "{tree:?}");
    assert_eq!(alice.read("g").unwrap(), b"x");
}

#[test]
fn a_file_moved_to_two_names_has_one() {
    let (alice, bob) = pair();
    alice.write("f", b"x").unwrap();
    meet(&alice, &bob);
    alice.rename("f", "a").unwrap();
    bob.rename("f", "b").unwrap();
    let tree = meet(&alice, &bob);
    assert_eq!(tree.len(), 1, "{tree:?}");
}

#[test]
fn a_directory_moved_to_two_names_then_removed_by_one_converges() {
    let (alice, bob) = pair();
    alice.mkdir("d").unwrap();
    alice.write("d/f", b"x").unwrap();
    meet(&alice, &bob);
    alice.rename("d", "a").unwrap();
    bob.rename("d", "b").unwrap();
    bob.remove("b/f").unwrap();
    bob.rmdir("b").unwrap();
    let tree = meet(&alice, &bob);
    // Alice's move survives; the file was removed by someone who had seen it.
    assert_eq!(tree, ["/a dir links 2"]);
}

#[test]
fn directories_made_twice_merge() {
    let (alice, bob) = pair();
    alice.mkdir("d").unwrap();
    alice.write("d/a", b"1").unwrap();
    alice.write("d/both", b"alice").unwrap();
    bob.mkdir("d").unwrap();
    bob.write("d/b", b"2").unwrap();
    bob.write("d/both", b"bob").unwrap();
    let tree = meet(&alice, &bob);
    assert_eq!(tree.iter().filter(|l| l.contains(" dir ")).count(), 1, "{tree:?}");
    assert_eq!(tree.iter().filter(|l| l.starts_with("/d/both")).count(), 2, "{tree:?}");
    assert_eq!(bob.read("d/a").unwrap(), b"1");
    // It is one directory from now on.
    bob.rename("d", "e").unwrap();
    let tree = meet(&alice, &bob);
    assert!(tree.iter().all(|l| l.starts_with("/e")), "{tree:?}");
    for name in tree.iter().filter_map(|l| l.strip_prefix("/e/")).map(|l| l.split(' ').next().unwrap()) {
        alice.remove(&format!("e/{name}")).unwrap();
    }
    alice.rmdir("e").unwrap();
    assert_eq!(meet(&alice, &bob), Vec::<String>::new());
}

#[test]
fn moving_directories_into_each_other_closes_no_cycle() {
    let (alice, bob) = pair();
    alice.mkdir("a").unwrap();
    alice.mkdir("b").unwrap();
    alice.write("a/x", b"x").unwrap();
    alice.write("b/y", b"y").unwrap();
    meet(&alice, &bob);
    alice.rename("a", "b/a").unwrap();
    bob.rename("b", "a/b").unwrap();
    let tree = meet(&alice, &bob);
    assert_eq!(tree.len(), 4, "{tree:?}");
    // Work goes on in what came of it, and it can be moved out again.
    let nested = tree.iter().find(|l| l.starts_with("/a/b ") || l.starts_with("/b/a ")).unwrap();
    let nested = nested[1..4].to_owned();
    alice.rename(&nested, "out").unwrap();
    let tree = meet(&alice, &bob);
    assert!(tree.iter().any(|l| l.starts_with("/out/")), "{tree:?}");
}

#[test]
fn three_where_two_never_meet_converge_through_the_third() {
    let alice = Replica::founder("alice", 1);
    let bob = Replica::joined("bob", 2, &alice, Role::Writer);
    let carol = Replica::joined("carol", 3, &alice, Role::Writer);
    bob.write("from-bob", b"b").unwrap();
    carol.write("from-carol", b"c").unwrap();
    carol.mkdir("d").unwrap();
    bob.mkdir("d").unwrap();
    for _ in 0..2 {
        sync(&alice, &bob);
        sync(&alice, &carol);
    }
    assert_eq!(bob.tree(), carol.tree());
    assert_eq!(alice.tree(), carol.tree());
    assert_eq!(alice.tree().len(), 3);
}

#[test]
fn a_reader_changes_nothing() {
    let alice = Replica::founder("alice", 1);
    let rita = Replica::joined("rita", 2, &alice, Role::Reader);
    assert!(matches!(rita.write("f", b"x"), Err(p2pfs_volume::Error::ReadOnly)));
    alice.write("f", b"x").unwrap();
    meet(&alice, &rita);
    assert_eq!(rita.read("f").unwrap(), b"x");
}

#[test]
fn what_was_answered_survives_the_death_of_the_process() {
    let (mut alice, bob) = pair();
    alice.mkdir("d").unwrap();
    alice.write("d/f", b"kept").unwrap();
    let handle = alice.open_to_write("open").unwrap();
    for text in [&b"synced"[..], b"synced, once more"] {
        alice.volume.write(handle, 0, text, &p2pfs_volume::Caller::default()).unwrap();
        alice.volume.fsync(handle).unwrap();
    }
    alice.restart(7);
    assert_eq!(alice.read("d/f").unwrap(), b"kept");
    assert_eq!(alice.read("open").unwrap(), b"synced, once more");
    meet(&alice, &bob);
    alice.restart(8);
    meet(&alice, &bob);
}

/// Who saves a small file syncs it once and closes it; who syncs on and on is no reason for a version each time.
#[test]
fn the_first_sync_of_a_small_file_makes_a_version_and_no_other_does() {
    let (mut alice, bob) = pair();
    let handle = alice.open_to_write("f").unwrap();
    let write = |alice: &Replica, text: &[u8]| {
        alice.volume.write(handle, 0, text, &Caller::default()).unwrap();
        alice.volume.fsync(handle).unwrap();
    };
    let drafts = |alice: &Replica| alice.store.keys(Space::Drafts).len();
    write(&alice, b"one");
    assert_eq!(drafts(&alice), 0);
    // (What is closed now has nothing left to store.)
    let stored = alice.store.keys(Space::Changes).len();
    for text in [b"two", b"three"] as [&[u8]; 2] {
        write(&alice, text);
    }
    assert_eq!(alice.store.keys(Space::Changes).len(), stored);
    assert!(drafts(&alice) > 0);
    alice.volume.flush(handle).unwrap();
    assert_eq!((alice.store.keys(Space::Changes).len(), drafts(&alice)), (stored + 1, 0));
    alice.close(handle).unwrap();
    let handle = alice.open_to_write("g").unwrap();
    alice.volume.write(handle, 0, b"saved", &Caller::default()).unwrap();
    alice.volume.fsync(handle).unwrap();
    let unsynced = alice.store.unsynced();
    alice.volume.flush(handle).unwrap();
    assert_eq!(alice.store.unsynced(), unsynced, "closing stores nothing more");
    alice.store.lose_power(0);
    alice.restart(7);
    assert_eq!((alice.read("f").unwrap(), alice.read("g").unwrap()), (b"three".to_vec(), b"saved".to_vec()));
    meet(&alice, &bob);
    assert_eq!((bob.read("f").unwrap(), bob.read("g").unwrap()), (b"three".to_vec(), b"saved".to_vec()));
}

#[test]
fn a_writer_keeps_what_somebody_else_removed_meanwhile() {
    let (alice, bob) = pair();
    alice.write("f", b"base").unwrap();
    meet(&alice, &bob);
    let handle = bob.open_to_write("f").unwrap();
    bob.volume.write(handle, 0, b"long work", &p2pfs_volume::Caller::default()).unwrap();
    alice.remove("f").unwrap();
    sync(&alice, &bob);
    bob.volume.write(handle, 9, b" done", &p2pfs_volume::Caller::default()).unwrap();
    bob.close(handle).unwrap();
    meet(&alice, &bob);
    assert_eq!(alice.read("f").unwrap(), b"long work done");
}

/// Bob learns what Alice did, who learns nothing, and what he has open stays as it is.
fn hear(alice: &Replica, bob: &Replica) {
    let all = commits(alice, bob);
    told(bob, alice, &all.iter().map(|c| &c.raw).collect::<Vec<_>>());
}

/// Bob had removed the file himself. A move that had not seen that brings it back, and he opens it.
#[test]
fn a_writer_keeps_what_was_removed_after_their_own_removal_lost_to_a_move() {
    let (alice, bob) = pair();
    alice.write("f", b"base").unwrap();
    meet(&alice, &bob);
    bob.remove("f").unwrap();
    alice.rename("f", "g").unwrap();
    hear(&alice, &bob);
    let handle = bob.open_to_write("g").unwrap();
    bob.volume.write(handle, 0, b"long work", &Caller::default()).unwrap();
    alice.remove("g").unwrap();
    hear(&alice, &bob);
    bob.close(handle).unwrap();
    meet(&alice, &bob);
    assert_eq!(alice.read("g").unwrap(), b"long work");
}

/// The same with an edit.
#[test]
fn a_writer_keeps_what_was_removed_after_their_own_removal_lost_to_an_edit() {
    let (alice, bob) = pair();
    alice.write("f", b"base").unwrap();
    meet(&alice, &bob);
    bob.remove("f").unwrap();
    alice.write("f", b"edit").unwrap();
    hear(&alice, &bob);
    let handle = bob.open_to_write("f").unwrap();
    bob.volume.write(handle, 0, b"long work", &Caller::default()).unwrap();
    alice.remove("f").unwrap();
    hear(&alice, &bob);
    bob.close(handle).unwrap();
    meet(&alice, &bob);
    assert_eq!(alice.read("f").unwrap(), b"long work");
}

#[test]
fn a_file_that_its_writer_removed_is_gone_though_somebody_else_removed_it_too() {
    let (alice, bob) = pair();
    alice.write("f", b"base").unwrap();
    meet(&alice, &bob);
    let handle = bob.open_to_write("f").unwrap();
    bob.volume.write(handle, 0, b"a try", &Caller::default()).unwrap();
    bob.volume.flush(handle).unwrap();
    bob.volume.write(handle, 0, b"another", &Caller::default()).unwrap();
    bob.remove("f").unwrap();
    alice.remove("f").unwrap();
    hear(&alice, &bob);
    bob.close(handle).unwrap();
    let tree = meet(&alice, &bob);
    assert!(tree.is_empty(), "{tree:?}");
}

#[test]
fn a_writer_who_had_not_seen_the_newer_version_does_not_overwrite_it() {
    let (alice, bob) = pair();
    alice.write("f", b"base").unwrap();
    meet(&alice, &bob);
    let ino = bob.find("f").unwrap();
    let mode = p2pfs_volume::OpenMode { read: true, write: true, ..Default::default() };
    let handle = bob.volume.open(ino, mode, &Default::default()).unwrap();
    alice.write("f", b"alice's version").unwrap();
    sync(&alice, &bob);
    bob.volume.write(handle, 0, b"BASE", &Default::default()).unwrap();
    bob.close(handle).unwrap();
    let tree = meet(&alice, &bob).join("\n");
    assert!(tree.contains("alice's version") && tree.contains("BASE"), "{tree}");
}

#[test]
fn a_ticket_serves_once() {
    use p2pfs_volume::{Error, JoinRequest};
    let alice = Replica::founder("alice", 1);
    let entropy = crypto::SeededEntropy::new(99);
    let ticket = alice.volume.invite(Role::Writer, std::time::Duration::from_secs(60)).unwrap();
    let join = |name: &str| {
        let (user, device) = (crypto::UserKeys::generate(&entropy), crypto::DeviceKeys::generate(&entropy));
        let request = JoinRequest::new(&ticket, name, &user, &device, b"e", &entropy).unwrap();
        alice.volume.admit(&request, b"e").map(|_| request)
    };
    assert!(matches!(join("alice"), Err(Error::Refused(why)) if why.contains("taken")));
    let first = join("bob").unwrap();
    assert!(matches!(join("carol"), Err(Error::Refused(why)) if why.contains("used")));
    // The same device asking again (it lost the answer) is answered again.
    assert!(alice.volume.admit(&first, b"e").is_ok());
    assert!(alice.volume.admit(&first, b"other").is_err(), "a proof holds for one connection");
    let late = alice.volume.invite(Role::Writer, std::time::Duration::from_secs(60)).unwrap();
    alice.clock.advance(std::time::Duration::from_secs(61));
    let (user, device) = (crypto::UserKeys::generate(&entropy), crypto::DeviceKeys::generate(&entropy));
    let request = JoinRequest::new(&late, "dora", &user, &device, b"e", &entropy).unwrap();
    assert!(matches!(alice.volume.admit(&request, b"e"), Err(Error::Refused(why)) if why.contains("expired")));
}

#[test]
fn an_attribute_that_was_removed_is_so_after_a_restart() {
    let (mut alice, _) = pair();
    alice.write("f", b"").unwrap();
    let ino = alice.find("f").unwrap();
    alice.volume.set_xattr(ino, b"user.one", b"1", SetXattr::Any, &Caller::default()).unwrap();
    alice.volume.remove_xattr(ino, b"user.one").unwrap();
    alice.restart(7);
    assert!(matches!(alice.volume.get_xattr(ino, b"user.one"), Err(Error::NoAttribute)));
    assert!(alice.volume.list_xattrs(ino).unwrap().is_empty());
}

#[test]
fn power_loss_that_takes_the_blocks_of_the_newest_version_leaves_the_one_before() {
    let (mut alice, _) = pair();
    alice.write("f", b"synced").unwrap();
    alice.volume.commit_now().unwrap();
    alice.write("f", &[7; 20_000]).unwrap();
    // The rows got to the disk, the blocks did not.
    alice.blocks.lose_power();
    alice.restart(7);
    assert_eq!(alice.read("f").unwrap(), b"synced");
}

#[test]
fn what_was_done_before_a_log_was_found_forked_reaches_others() {
    let (mut alice, bob) = pair();
    let copy = alice.store.copy();
    alice.write("after the copy", b"1").unwrap();
    meet(&alice, &bob);
    alice.store = Arc::new(copy);
    alice.restart(7);
    alice.write("meanwhile", b"2").unwrap();
    meet(&alice, &bob);
    alice.write("pending", b"3").unwrap();
    alice.restart(8);
    meet(&alice, &bob);
    assert_eq!(bob.read("pending").unwrap(), b"3");
}

/// What a device did after the copy that its store was put back to comes back to it from others, behind what these did
/// without knowing of it.
#[test]
fn own_commits_that_come_back_to_an_older_copy_had_not_seen_what_came_before_them() {
    let (mut alice, bob) = pair();
    alice.write("removed", b"base").unwrap();
    alice.write("edited", b"base").unwrap();
    meet(&alice, &bob);
    let copy = alice.store.copy();
    alice.write("removed", b"alice's work").unwrap();
    alice.write("edited", b"alice's work").unwrap();
    bob.write("other", b"so that bob's version is the greater one").unwrap();
    bob.volume.commit_now().unwrap();
    bob.remove("removed").unwrap();
    bob.write("edited", b"bob's work").unwrap();
    let tree = meet(&alice, &bob);
    assert!(tree.iter().any(|l| l.starts_with("/edited (conflict of alice")), "{tree:?}");
    alice.store = Arc::new(copy);
    alice.restart(7);
    alice.clock.advance(std::time::Duration::from_secs(600));
    assert_eq!(meet(&alice, &bob), tree);
    assert_eq!(alice.read("removed").unwrap(), b"alice's work");
    alice.restart(8);
    assert_eq!(meet(&alice, &bob), tree);
}

/// A commit came over one connection and what it refers to did not: another one asks for that, once something comes that
/// refers to the one that waits.
#[test]
fn what_a_waiting_commit_refers_to_is_asked_for_in_any_session() {
    let (alice, bob) = pair();
    let before = commits(&alice, &bob).len();
    for path in ["first", "second", "third"] {
        alice.write(path, b"1").unwrap();
        alice.volume.commit_now().unwrap();
    }
    let all = commits(&alice, &bob);
    let [first, second, third] = &all[before..] else { panic!("{} commits", all.len()) };
    let earlier = bob.volume.session(alice.device_id());
    earlier.receive(Message::Commits(vec![second.raw.clone()])).unwrap();
    let session = bob.volume.session(alice.device_id());
    session.receive(Message::Commits(vec![third.raw.clone()])).unwrap();
    let said: Vec<Message> = std::iter::from_fn(|| session.next_outgoing()).collect();
    assert!(said.contains(&Message::Want(first.hash)), "{said:?}");
    session.receive(Message::Commits(vec![first.raw.clone()])).unwrap();
    drop(session);
    assert_eq!(bob.tree().len(), alice.tree().len());
}

/// A liar fills the room for commits that wait. An honest member's find room all the same, and a device that has to ask
/// for what they refer to is not taken for flooding. When the liar goes, what it sent goes too.
#[test]
fn who_fills_the_room_for_waiting_commits_shuts_nobody_out() {
    let alice = Replica::founder("alice", 1);
    let [bob, liar, other] = [("bob", 2), ("liar", 3), ("other", 4)].map(|(name, seed)| {
        let member = Replica::joined(name, seed, &alice, Role::Writer);
        sync(&alice, &member);
        member
    });
    meet(&alice, &bob);
    let known = commits(&alice, &bob);
    let newest = known.last().unwrap();
    let header_of = |commit: &ClaimedCommit| decode::<Header>("", &commit.header).unwrap();
    let forged = |by: &Replica, log: u64, before: Option<&ClaimedCommit>, observed: CommitHash| {
        let seen = known.iter().find(|c| c.hash == observed).map_or(0, |c| c.header.count);
        let count = before.map_or(seen, |before| header_of(before).count);
        let header = encode(&Header {
            device: by.device_id(),
            log,
            seq: 1 + before.map_or(0, |before| header_of(before).seq),
            prev: before.map_or(CommitHash::ZERO, name),
            observed: if before.is_some() { Vec::new() } else { vec![observed] },
            count: count + 1,
            root: changes_root([].iter()),
            changes: 0,
            ..newest.header.clone()
        });
        let signature = by.device_keys().signing.sign(Label::CommitSignature, &header);
        ClaimedCommit { header, signature, changes: Vec::new() }
    };
    let flood = |by: &Replica| {
        let session = alice.volume.session(by.device_id());
        for n in 0..2100 {
            let nobodys = CommitHash::from_bytes([7; 32]);
            session.receive(Message::Commits(vec![forged(by, 101 + 2 * n, None, nobodys)])).unwrap();
        }
        session
    };
    let floods = [flood(&liar), flood(&other), flood(&other)];
    let waiting = alice.volume.status().waiting_commits;
    assert!((1000..2048).contains(&waiting), "{waiting}");

    // A log that forked, of which each has another branch: what the tips say lets bob think that alice has all of his.
    let branch = |observed, len| {
        let mut all = vec![forged(&liar, 1, None, observed)];
        while all.len() < len {
            all.push(forged(&liar, 1, all.last(), CommitHash::ZERO));
        }
        all
    };
    let [long, short] = [branch(newest.hash, 4), branch(known[known.len() - 2].hash, 3)];
    told(&alice, &liar, &long.iter().collect::<Vec<_>>());
    told(&bob, &liar, &short.iter().collect::<Vec<_>>());
    bob.write("f", b"bob's").unwrap();
    bob.volume.commit_now().unwrap();
    let ends = [alice.volume.session(bob.device_id()), bob.volume.session(alice.device_id())];
    let mut said = ends.each_ref().map(|end| VecDeque::from(end.opening()));
    let mut tips = 0;
    for _ in 0..1000 {
        for side in [0, 1] {
            // One message at a time, as slow connections have it.
            said[side].extend(ends[side].next_outgoing());
            if let Some(message) = said[side].pop_front() {
                tips += u32::from(matches!(message, Message::Tips(_)));
                ends[1 - side].receive(message).unwrap();
            }
        }
    }
    assert!(tips < 10, "{tips} lists of tips");
    assert_eq!(alice.read("f").unwrap(), b"bob's");
    assert_eq!(alice.volume.status().waiting_commits, waiting);
    drop(floods);
    assert_eq!(alice.volume.status().waiting_commits, 0);
}

#[test]
fn attributes_set_to_what_they_are_are_no_change_for_others() {
    let (alice, _) = pair();
    alice.write("f", b"").unwrap();
    let ino = alice.find("f").unwrap();
    alice.volume.commit_now().unwrap();
    let before = (alice.volume.attributes(ino).unwrap(), alice.volume.status().commits);
    alice.clock.advance(Duration::from_secs(1));
    let Attributes { mode, uid, gid, .. } = before.0;
    let same = AttributeChange { mode: Some(mode), uid: Some(uid), gid: Some(gid), ..AttributeChange::default() };
    alice.volume.set_attributes(ino, None, &same, &Caller::default()).unwrap();
    alice.volume.commit_now().unwrap();
    assert!(alice.volume.attributes(ino).unwrap().ctime > before.0.ctime);
    assert_eq!(alice.volume.status().commits, before.1);
}

/// What could not be stored at a file's last close is kept as a branch of its own. Once it is published, whichever call
/// does that, others' versions show again.
#[test]
fn a_file_whose_last_close_failed_shows_what_others_write_later() {
    let touch = |replica: &Replica, ino| {
        let change = AttributeChange { mtime: Some(SetTime::Now), ..AttributeChange::default() };
        replica.volume.set_attributes(ino, None, &change, &Caller::default()).unwrap();
    };
    let cut = |replica: &Replica, ino| {
        let change = AttributeChange { size: Some(3), ..AttributeChange::default() };
        replica.volume.set_attributes(ino, None, &change, &Caller::default()).unwrap();
    };
    let reopen = |replica: &Replica, ino| {
        let handle = replica.volume.open(ino, OpenMode { write: true, ..OpenMode::default() }, &Caller::default());
        replica.close(handle.unwrap()).unwrap();
    };
    for later in [&touch as &dyn Fn(&Replica, _), &cut, &reopen] {
        let (alice, bob) = pair();
        alice.write("f", b"base").unwrap();
        meet(&alice, &bob);
        let handle = alice.open_to_write("f").unwrap();
        alice.volume.write(handle, 0, b"alice's", &Caller::default()).unwrap();
        alice.store.fail_after(Some(0));
        assert!(alice.volume.flush(handle).is_err() && alice.volume.release(handle).is_err());
        alice.store.fail_after(None);
        assert_eq!(alice.read("f").unwrap(), b"alice's", "nothing is thrown away");
        later(&alice, alice.find("f").unwrap());
        meet(&alice, &bob);
        bob.write("f", b"bob's").unwrap();
        meet(&alice, &bob);
        assert_eq!(alice.read("f").unwrap(), b"bob's");
    }
}

/// Alice's file, with what could not be stored at its last close.
fn with_a_failed_close() -> (Replica, Replica) {
    let (alice, bob) = pair();
    alice.write("f", b"base").expect("a good disk");
    meet(&alice, &bob);
    let handle = alice.open_to_write("f").expect("it is there");
    alice.volume.write(handle, 0, b"alice's", &Caller::default()).expect("a good disk");
    alice.store.fail_after(Some(0));
    assert!(alice.volume.flush(handle).is_err() && alice.volume.release(handle).is_err());
    alice.store.fail_after(None);
    (alice, bob)
}

/// What a failed last close had kept goes with the last handle of a file that was removed here, and does not show when
/// somebody else's edit brings the file back.
#[test]
fn what_a_failed_close_had_kept_of_a_removed_file_does_not_hide_what_others_write() {
    let (alice, bob) = with_a_failed_close();
    let handle = alice.open_to_write("f").unwrap();
    alice.remove("f").unwrap();
    // It is time to try again, but the file has no name, and a handle.
    alice.clock.advance(std::time::Duration::from_secs(2));
    alice.volume.work();
    alice.close(handle).unwrap();
    bob.write("f", b"bob's").unwrap();
    meet(&alice, &bob);
    assert_eq!(bob.read("f").unwrap(), b"bob's");
    assert_eq!(alice.read("f").unwrap(), b"bob's");
}

#[test]
fn who_has_a_removed_file_open_reads_what_a_failed_close_had_kept() {
    let (alice, _) = with_a_failed_close();
    let mode = OpenMode { read: true, ..OpenMode::default() };
    let handle = alice.volume.open(alice.find("f").unwrap(), mode, &Caller::default()).unwrap();
    alice.remove("f").unwrap();
    alice.clock.advance(std::time::Duration::from_secs(2));
    alice.volume.work();
    let mut bytes = Vec::new();
    alice.volume.read(handle, 0, 100, &mut bytes).unwrap();
    assert_eq!(bytes, b"alice's");
    alice.volume.release(handle).unwrap();
}

/// Who joined twice, in two roles, at admins who are apart: each commit is judged by the admissions that it had seen.
#[test]
fn admissions_by_admins_apart_split_nobody() {
    use p2pfs_volume::JoinRequest;
    let hour = std::time::Duration::from_secs(3600);
    let alice = Replica::founder("alice", 1);
    let bob = Replica::joined("bob", 2, &alice, Role::Admin);
    let carol = Replica::joined("carol", 3, &alice, Role::Writer);
    let tickets: Vec<_> =
        [Role::Reader, Role::Writer, Role::Writer, Role::Writer].map(|r| alice.volume.invite(r, hour).unwrap()).into();
    sync(&alice, &bob);
    sync(&alice, &carol);

    // Alice's admission is the lesser one.
    drop(Replica::admitted("dora", 4, &alice, &tickets[0]));
    for pad in ["x", "y"] {
        bob.write(pad, b"").unwrap();
        bob.volume.commit_now().unwrap();
    }
    let dora = Replica::admitted("dora", 4, &bob, &tickets[1]);
    dora.write("f", b"dora's").unwrap();
    sync(&bob, &dora);

    // One device comes with two users.
    let entropy = crypto::SeededEntropy::new(99);
    let device = crypto::DeviceKeys::generate(&entropy);
    for (admin, name, ticket) in [(&alice, "erin", &tickets[2]), (&bob, "frank", &tickets[3])] {
        let user = crypto::UserKeys::generate(&entropy);
        let request = JoinRequest::new(ticket, name, &user, &device, b"e", &entropy).unwrap();
        admin.volume.admit(&request, b"e").unwrap();
    }

    // Carol learns of them in another order than alice.
    sync(&bob, &carol);
    sync(&alice, &bob);
    sync(&alice, &carol);
    sync(&alice, &dora);
    let all = [&alice, &bob, &carol, &dora];
    let members = |r: &Replica| {
        let members = r.volume.members().into_iter();
        members.map(|m| (m.name, m.role, m.devices)).collect::<Vec<_>>()
    };
    for replica in all {
        assert_eq!(replica.read("f").unwrap(), b"dora's", "{}", replica.name);
        assert_eq!(members(replica), members(&alice), "{}", replica.name);
        assert_eq!(replica.tree(), alice.tree(), "{}", replica.name);
    }
    let role = members(&alice).into_iter().find(|(name, ..)| name == "dora").unwrap().1;
    assert_eq!(role, Role::Reader, "the lesser admission says it");
    assert!(matches!(dora.write("f", b"more"), Err(Error::ReadOnly)));
    let user = crypto::UserKeys::generate(&entropy);
    let ticket = alice.volume.invite(Role::Writer, hour).unwrap();
    let request = JoinRequest::new(&ticket, "grace", &user, &device, b"e", &entropy).unwrap();
    assert!(matches!(alice.volume.admit(&request, b"e"), Err(Error::Refused(why)) if why.contains("another user's")));
}

/// One ticket that admins apart invite with for several roles: an admission is judged by what its author had seen, whatever
/// came here first, and who lets somebody in takes the least role known.
#[test]
fn a_ticket_that_is_for_several_roles_splits_nobody() {
    let hour = std::time::Duration::from_secs(3600);
    let alice = Replica::founder("alice", 1);
    let bob = Replica::joined("bob", 2, &alice, Role::Admin);
    let carol = Replica::joined("carol", 3, &alice, Role::Writer);
    sync(&alice, &bob);
    sync(&alice, &carol);
    let known = commits(&alice, &bob);
    let history = History::new(&known, &alice.user_keys());
    let again = |log, ticket: &p2pfs_volume::TicketSecret, role| {
        let expires = Timestamp { secs: 4_000_000_000, nanos: 0 };
        let kind = ChangeKind::Invite { ticket: ticket.public(), role, expires };
        let head = encode(&Head { call: 0, kind, supersedes: Vec::new() });
        Forger::new(&known, &history, &bob, log).sign(vec![RawChange { head, body: Vec::new() }])
    };
    let tickets = [Role::Writer, Role::Admin].map(|role| alice.volume.invite(role, hour).unwrap());
    let (less, more) = (again(1, &tickets[0], Role::Reader), again(3, &tickets[0], Role::Admin));
    let other = again(5, &tickets[1], Role::Reader);
    let dora = Replica::admitted("dora", 4, &alice, &tickets[0]);
    dora.write("f", b"dora's").unwrap();
    sync(&alice, &dora);
    let all = commits(&alice, &bob);
    let new: Vec<_> = all[known.len()..].iter().map(|c| &c.raw).collect();
    let [first, second, rest @ ..] = &new[..] else { panic!("{} commits", new.len()) };
    told(&carol, &bob, &[&[*first, *second, &less, &more, &other], rest].concat());
    told(&bob, &alice, &[&[&other, &more, &less, *first, *second], rest].concat());
    told(&alice, &bob, &[&more, &other, &less]);
    told(&dora, &bob, &[&less, &more, &other]);
    let everybody = [&alice, &bob, &carol, &dora];
    let role = |r: &Replica, name: &str| r.volume.members().into_iter().find(|m| m.name == name).map(|m| m.role);
    for replica in everybody {
        meet(&alice, replica);
        assert_eq!(replica.read("f").unwrap(), b"dora's", "{}", replica.name);
        assert_eq!(role(replica, "dora"), Some(Role::Writer), "{}", replica.name);
        let open: Vec<_> = replica.volume.open_invitations().into_iter().map(|i| (i.ticket, i.role)).collect();
        assert_eq!(open, [(tickets[1].public(), Role::Reader)], "{}", replica.name);
    }
    let erin = Replica::admitted("erin", 5, &alice, &tickets[1]);
    assert!(matches!(erin.write("f", b"more"), Err(Error::ReadOnly)));
    for replica in everybody {
        meet(&alice, replica);
        assert_eq!(role(replica, "erin"), Some(Role::Reader), "{}", replica.name);
        assert!(replica.volume.open_invitations().is_empty(), "{}", replica.name);
    }
}

/// What `fsync` promised shows after a restart even when the disk is too full to publish it, and is published later.
#[test]
fn a_synced_draft_that_can_not_be_published_at_the_start_shows_and_is_published_later() {
    let (mut alice, bob) = pair();
    alice.write("f", b"base").unwrap();
    meet(&alice, &bob);
    let handle = alice.open_to_write("f").unwrap();
    for text in [b"a version", b"in no one"] {
        // (A commit that is not cut yet can't be cut on that disk.)
        alice.volume.commit_now().unwrap();
        alice.volume.write(handle, 0, text, &Caller::default()).unwrap();
        alice.volume.fsync(handle).unwrap();
    }
    alice.store.lose_power(0);
    alice.store.fail_after(Some(0));
    alice.restart(7);
    assert_eq!(alice.read("f").unwrap(), b"in no one");
    alice.store.fail_after(None);
    alice.clock.advance(std::time::Duration::from_secs(2));
    meet(&alice, &bob);
    assert_eq!(bob.read("f").unwrap(), b"in no one");
    bob.write("f", b"bob's").unwrap();
    meet(&alice, &bob);
    assert_eq!(alice.read("f").unwrap(), b"bob's");
}

/// What a peer says costs time; who never brings anything new is shut out, and what honest ones say is far from that.
#[test]
fn who_says_more_than_anybody_needs_is_shut_out() {
    let (alice, bob) = pair();
    let state = Message::State { digest: crypto::Hash::ZERO, complete: false, commits: 1 };
    let nobodys = p2pfs_volume::id::CommitHash::ZERO;
    for (message, honest) in [
        (state, 2000),
        (Message::Want(nobodys), 2000),
        (Message::Flush(1), 500),
        (Message::Flushed(1), 500),
        (Message::Tips(Vec::new()), 20),
        (Message::Commits(Vec::new()), 20),
    ] {
        let session = alice.volume.session(bob.device_id());
        let taken = (0..50_000).take_while(|_| session.receive(message.clone()).is_ok()).count();
        assert!((honest..50_000).contains(&taken), "{taken} times {message:?}");
    }
}

/// Alice, and carol who learns of what liars do in the other order; bob lies.
fn three() -> [Replica; 3] {
    let alice = Replica::founder("alice", 1);
    let bob = Replica::joined("bob", 2, &alice, Role::Writer);
    let carol = Replica::joined("carol", 3, &alice, Role::Writer);
    sync(&alice, &bob);
    [alice, bob, carol]
}

/// Alice takes `commits` in this order, carol in the other one. Then they meet.
fn in_both_orders([alice, bob, carol]: &[Replica; 3], commits: [&ClaimedCommit; 2]) -> Vec<String> {
    let [first, second] = commits;
    told(alice, bob, &[first, second]);
    told(carol, bob, &[second, first]);
    meet(alice, carol)
}

/// What liars tell a replica in any order gives one state: here, attributes whose name isn't the one of their tag.
#[test]
fn an_attributes_tag_has_one_name() {
    let all = three();
    let [alice, bob, carol] = &all;
    alice.write("f", b"").unwrap();
    sync(alice, bob);
    meet(alice, carol);
    let known = commits(alice, bob);
    let history = History::new(&known, &alice.user_keys());
    let node = *history.births().keys().find(|node| **node != NodeId::ROOT).unwrap();
    let key = history.node_key(node);
    let tag = NodeId::from_bytes(keyed_tag(key, Label::LinkTag, b"user.one"));
    let attribute = |log, name: &[u8], value: &[u8]| {
        let forger = Forger::new(&known, &history, bob, log);
        let body = XattrBody { time: Timestamp::default(), name: name.into(), value: Some(value.to_vec().into()) };
        let kind = ChangeKind::Xattr { node, generation: 1, tag };
        forger.sign(vec![forger.change(0, kind, Vec::new(), key, &body)])
    };
    let (odd, right) = (attribute(1, b"user.two", b"odd"), attribute(3, b"user.one", b"right"));
    in_both_orders(&all, [&odd, &right]);
    let shown = |replica: &Replica| {
        let ino = replica.find("f").unwrap();
        let names = replica.volume.list_xattrs(ino).unwrap();
        let values: Vec<_> =
            names.iter().map(|n| replica.volume.get_xattr(ino, n).map_err(|e| e.to_string())).collect();
        (names, values)
    };
    assert_eq!(shown(alice).0, [b"user.one"]);
    assert_eq!(shown(alice), shown(carol));
    // The greater of the two is one of them; whichever it is, a new value takes its place.
    let ino = alice.find("f").unwrap();
    alice.volume.set_xattr(ino, b"user.one", b"new", SetXattr::Replace, &Caller::default()).unwrap();
    meet(alice, carol);
    assert_eq!(shown(carol), (vec![b"user.one".to_vec()], vec![Ok(b"new".to_vec())]));
}

/// A node's first key is the one that it was born with: no access value brings another one, nor one of a generation that
/// doesn't follow.
#[test]
fn a_nodes_first_key_is_that_of_its_birth() {
    let all = three();
    let [alice, bob, carol] = &all;
    alice.write("f", b"base").unwrap();
    sync(alice, bob);
    meet(alice, carol);
    let known = commits(alice, bob);
    let history = History::new(&known, &alice.user_keys());
    let (node, births) = history.births().iter().find(|(node, _)| **node != NodeId::ROOT).unwrap();
    let entropy = crypto::SeededEntropy::new(9);
    let access = |log, generation| {
        let forger = Forger::new(&known, &history, bob, log);
        let access = forger.access(alice.user_keys().id(), generation, &SymmetricKey::generate(&entropy));
        let kind = ChangeKind::Access { node: *node, access };
        forger.sign(vec![forger.change(0, kind, vec![births[0].id()], history.node_key(*node), &mode())])
    };
    for generation in [0, 3] {
        for replica in [alice, carol] {
            let why = tell(replica, bob, &[&access(11, generation)]).unwrap_err().to_string();
            assert!(why.contains("another generation"), "{why}");
        }
    }
    let forger = Forger::new(&known, &history, bob, 13);
    let (born, _, birth) = forger.directory(0, 2);
    let place = forger.place(1, None, born, (NodeId::ROOT, history.node_key(NodeId::ROOT)), "d", Vec::new());
    let why = tell(alice, bob, &[&forger.sign(vec![birth, place])]).unwrap_err().to_string();
    assert!(why.contains("another generation"), "{why}");

    in_both_orders(&all, [&access(15, 1), &access(17, 1)]);
    alice.write("f", b"alice's").unwrap();
    meet(alice, carol);
    assert_eq!(carol.read("f").unwrap(), b"alice's");
}

/// Both branches of a forked log bear one directory, word for word, and place it differently: it has one link, with a
/// place from each.
#[test]
fn a_directory_born_on_two_branches_has_one_link() {
    let all = three();
    let [alice, bob, carol] = &all;
    let known = commits(alice, bob);
    let history = History::new(&known, &alice.user_keys());
    let root = (NodeId::ROOT, history.node_key(NodeId::ROOT));
    let forger = Forger::new(&known, &history, bob, 21);
    let (outer, outer_key, outer_birth) = forger.directory(0, 1);
    let (inner, inner_key, inner_birth) = forger.directory(1, 1);
    let commit = |places: [((NodeId, &SymmetricKey), &str); 2]| {
        let [outer_place, inner_place] = places;
        forger.sign(vec![
            outer_birth.clone(),
            inner_birth.clone(),
            forger.place(2, None, outer, outer_place.0, outer_place.1, Vec::new()),
            forger.place(3, None, inner, inner_place.0, inner_place.1, Vec::new()),
        ])
    };
    let one = commit([(root, "outer"), ((outer, &outer_key), "inner")]);
    let other = commit([((inner, &inner_key), "outer"), (root, "turned")]);
    let tree = in_both_orders(&all, [&one, &other]);
    assert_eq!(tree.len(), 2, "each shows once: {tree:?}");
    // They are moved and removed as any.
    let top = tree[0][1..].split(' ').next().unwrap().to_owned();
    alice.rename(&top, "moved").unwrap();
    meet(alice, carol);
    let below = carol.tree()[1][1..].split(' ').next().unwrap().to_owned();
    carol.rmdir(&below).unwrap();
    carol.rmdir("moved").unwrap();
    assert_eq!(meet(alice, carol), Vec::<String>::new());
}

/// A directory's first place can close a cycle, too; and it must have one.
#[test]
fn directories_born_in_each_other_show() {
    let all = three();
    let [alice, bob, carol] = &all;
    let known = commits(alice, bob);
    let history = History::new(&known, &alice.user_keys());
    let forger = Forger::new(&known, &history, bob, 31);
    let (a, a_key, a_birth) = forger.directory(0, 1);
    let (b, b_key, b_birth) = forger.directory(1, 1);
    let (c, c_key, c_birth) = forger.directory(2, 1);
    let alone = forger.sign(vec![a_birth.clone()]);
    let why = tell(alice, bob, &[&alone]).unwrap_err().to_string();
    assert!(why.contains("without a place"), "{why}");
    let twice = |from| forger.place(from, None, a, (NodeId::ROOT, history.node_key(NodeId::ROOT)), "a", Vec::new());
    let why = tell(alice, bob, &[&forger.sign(vec![a_birth.clone(), twice(1), twice(2)])]).unwrap_err().to_string();
    assert!(why.contains("second link"), "{why}");
    let round = forger.sign(vec![
        a_birth,
        b_birth,
        c_birth,
        forger.place(3, None, a, (b, &b_key), "a", Vec::new()),
        forger.place(4, None, b, (a, &a_key), "b", Vec::new()),
        forger.place(5, None, c, (c, &c_key), "c", Vec::new()),
    ]);
    tell(alice, bob, &[&round]).unwrap();
    let tree = meet(alice, carol);
    assert_eq!(tree.len(), 3, "{tree:?}");
}

/// A void place makes no link. Whether a place of it may be replaced must not depend on whether somebody whose commit
/// counts made the same link on another branch of the log.
#[test]
fn a_void_place_alone_can_not_be_replaced() {
    let hour = std::time::Duration::from_secs(3600);
    let alice = Replica::founder("alice", 1);
    let bob = Replica::joined("bob", 2, &alice, Role::Admin);
    let carol = Replica::joined("carol", 3, &alice, Role::Writer);
    let tickets = [Role::Reader, Role::Writer].map(|r| alice.volume.invite(r, hour).unwrap());
    alice.write("f", b"").unwrap();
    meet(&alice, &bob);
    // Apart: dora is a reader by what alice knows, a writer by what bob knows, and makes one link on two branches.
    let makes = |admin: &Replica, ticket| {
        let dora = Replica::admitted("dora", 4, admin, ticket);
        let known = commits(admin, &carol);
        let history = History::new(&known, &alice.user_keys());
        let node = *history.births().keys().find(|node| **node != NodeId::ROOT).unwrap();
        let root = (NodeId::ROOT, history.node_key(NodeId::ROOT));
        let forger = Forger::new(&known, &history, &dora, 41);
        let commit = forger.sign(vec![forger.place(0, None, node, root, "g", Vec::new())]);
        tell(admin, &dora, &[&commit]).unwrap();
        commit
    };
    let (void, counts) = (makes(&alice, &tickets[0]), makes(&bob, &tickets[1]));
    assert!(void.changes == counts.changes && void.header != counts.header);
    assert!(alice.find("g").is_err() && bob.find("g").is_ok());

    let known = commits(&alice, &carol);
    let history = History::new(&known, &alice.user_keys());
    let node = *history.births().keys().find(|node| **node != NodeId::ROOT).unwrap();
    let root = (NodeId::ROOT, history.node_key(NodeId::ROOT));
    let place = Birthplace { device: history.commit(name(&void)).unwrap().header.device, log: 41, seq: 1, index: 0 };
    let link = place.link(&void.changes[0].head, &void.changes[0].body);
    let forger = Forger::new(&known, &history, &carol, 43);
    let value = ValueId { commit: name(&void), index: 0 };
    let over = forger.sign(vec![forger.place(0, Some(link), node, root, "h", vec![value])]);
    assert!(tell(&alice, &carol, &[&over]).is_err());
    meet(&alice, &bob);
    assert!(tell(&bob, &carol, &[&over]).is_err());
    assert!(tell(&alice, &carol, &[&over]).is_err());
}

/// A record of one's own that can't be read is no fault of whoever sends a block.
#[test]
fn a_damaged_record_of_what_is_wanted_is_not_blamed_on_the_peer() {
    let (alice, mut bob) = pair();
    alice.write("f", &[7; 300_000]).unwrap();
    let all = commits(&alice, &bob);
    let session = bob.volume.session(alice.device_id());
    session.receive(Message::Commits(all.into_iter().map(|c| c.raw).collect())).unwrap();
    bob.volume.commit_now().unwrap();
    let hash = session.wanted(1)[0];
    let bytes = alice.volume.session(bob.device_id()).serve_block(&hash).unwrap();
    drop(session);
    for key in bob.store.keys(Space::Wanted) {
        bob.store.damage(Space::Wanted, &key);
    }
    bob.restart(7);
    bob.volume.session(alice.device_id()).block_arrived(&hash, &bytes).unwrap();
}

/// A record whose damage nobody met, as it is in memory too, and that is written anew while blocks aren't synced: power loss
/// doesn't bring the damage back.
#[test]
fn what_takes_back_copies_no_damage() {
    let (mut alice, _) = pair();
    alice.write("f", b"synced").unwrap();
    alice.volume.commit_now().unwrap();
    let damage = || alice.store.keys(Space::Nodes).iter().for_each(|key| alice.store.damage(Space::Nodes, key));
    damage();
    alice.write("f", &[7; 20_000]).unwrap();
    // That wrote some of them anew. The others are made good.
    let node = alice.find("f").unwrap().0.to_be_bytes();
    for key in alice.store.keys(Space::Nodes).iter().filter(|key| !key.starts_with(&node)) {
        alice.store.damage(Space::Nodes, key);
    }
    alice.blocks.lose_power();
    alice.restart(7);
    assert_eq!(alice.read("f").unwrap(), [7; 20_000]);
    // And the next such content is taken back as ever.
    alice.write("f", &[8; 30_000]).unwrap();
    alice.blocks.lose_power();
    alice.restart(8);
    assert_eq!(alice.read("f").unwrap(), [7; 20_000]);
}

/// A file in conflict that has two names, of which each of two removes one: nobody removed the other version.
#[test]
fn a_conflicting_version_outlives_two_who_each_remove_one_of_its_names() {
    let (alice, bob) = pair();
    alice.write("one", b"base").unwrap();
    alice.link("one", "two").unwrap();
    meet(&alice, &bob);
    alice.write("one", b"alice's").unwrap();
    bob.write("two", b"bob's").unwrap();
    meet(&alice, &bob);
    let shown = alice.read("one").unwrap();
    alice.remove("one").unwrap();
    bob.remove("two").unwrap();
    let tree = meet(&alice, &bob).join("\n");
    let other = if shown == b"bob's" { "alice's" } else { "bob's" };
    assert!(tree.contains(other), "{tree}");
    assert!(!tree.contains(&*String::from_utf8_lossy(&shown)), "{tree}");
}

/// A member who begins logs without end makes nobody sign a commit that names more of them than others take.
#[test]
fn logs_without_end_are_seen_in_several_commits() {
    let [mut alice, bob, carol] = three();
    let known = commits(&alice, &bob);
    let history = History::new(&known, &alice.user_keys());
    let begun: Vec<_> = (0..3000).map(|log| Forger::new(&known, &history, &bob, 51 + log).sign(Vec::new())).collect();
    for replica in [&alice, &carol] {
        told(replica, &bob, &begun.iter().collect::<Vec<_>>());
    }
    alice.write("f", b"alice's").unwrap();
    // Hers is the first commit of her log.
    carol.write("h", b"carol's").unwrap();
    meet(&alice, &carol);
    assert_eq!(alice.read("h").unwrap(), b"carol's");
    assert_eq!(carol.read("f").unwrap(), b"alice's");
    for replica in [&alice, &carol] {
        for commit in commits(replica, &bob) {
            assert!(commit.raw.header.len() < 64 << 10, "{} observed", commit.header.observed.len());
        }
    }
    // Nor after a restart, nor with a store built anew.
    alice.restart(7);
    alice.write("f", b"again").unwrap();
    alice.salvage(8);
    alice.write("g", b"more").unwrap();
    meet(&alice, &carol);
    assert_eq!((carol.read("f").unwrap(), carol.read("g").unwrap()), (b"again".to_vec(), b"more".to_vec()));
}

/// What waits for other commits is counted with its headers, which may name a great many.
#[test]
fn commits_that_wait_are_few_when_they_are_large() {
    let (alice, bob) = pair();
    let known = commits(&alice, &bob);
    let history = History::new(&known, &alice.user_keys());
    let session = alice.volume.session(bob.device_id());
    for log in 0..100u64 {
        let mut commit = Forger::new(&known, &history, &bob, 61 + log).sign(Vec::new());
        let mut header: Header = decode("header", &commit.header).unwrap();
        let names = (0..30_000u64).map(|n| {
            CommitHash::from_bytes(
                *crypto::Hash::of_bytes(Label::ChangesRoot, &(log << 32 | n).to_le_bytes()).as_bytes(),
            )
        });
        header.observed = names.collect();
        header.observed.sort_unstable();
        commit.header = encode(&header);
        commit.signature = bob.device_keys().signing.sign(Label::CommitSignature, &commit.header);
        session.receive(Message::Commits(vec![commit])).unwrap();
    }
    let waiting = alice.volume.status().waiting_commits;
    assert!((5..20).contains(&waiting), "{waiting}");
}

/// A commit that waited, and breaks a rule in what it says of the one that comes, is nothing to hold against its sender.
#[test]
fn a_commit_that_names_a_change_that_never_was_is_refused() {
    let [alice, bob, carol] = three();
    alice.write("f", b"").unwrap();
    sync(&alice, &bob);
    meet(&alice, &carol);
    let node_of = |history: &History<'_>| *history.births().keys().find(|node| **node != NodeId::ROOT).unwrap();
    let ino = carol.find("f").unwrap();
    carol.volume.set_xattr(ino, b"user.one", b"carol's", SetXattr::Any, &Caller::default()).unwrap();
    let known = commits(&carol, &bob);
    let history = History::new(&known, &alice.user_keys());
    let (node, newest) = (node_of(&history), known.last().unwrap());
    let key = history.node_key(node);
    let tag = NodeId::from_bytes(keyed_tag(key, Label::LinkTag, b"user.two"));
    let planted = |log, index| {
        let forger = Forger::new(&known, &history, &bob, log);
        let body = XattrBody { time: Timestamp::default(), name: b"user.two".into(), value: None };
        let kind = ChangeKind::Xattr { node, generation: 1, tag };
        let never = ValueId { commit: newest.hash, index };
        forger.sign(vec![forger.change(0, kind, vec![never], key, &body)])
    };
    let why = tell(&carol, &bob, &[&planted(71, 99)]).unwrap_err().to_string();
    assert!(why.contains("never was"), "{why}");
    told(&alice, &bob, &[&planted(73, 99)]);
    carol.write("g", b"after it").unwrap();
    meet(&alice, &carol);
    assert_eq!(alice.read("g").unwrap(), b"after it");

    // What is missing here only is damage of this disk's own.
    for key in carol.store.keys(Space::Changes) {
        carol.store.lose(Space::Changes, &key);
    }
    told(&carol, &bob, &[&planted(75, 0)]);
}

/// What void values superseded goes with them, each once, and only so much of it that it is quickly found.
#[test]
fn void_values_bring_in_no_more_than_is_quickly_found() {
    let [alice, bob, _] = three();
    let dora = Replica::joined("dora", 4, &alice, Role::Reader);
    alice.write("f", b"").unwrap();
    sync(&alice, &bob);
    let mut known = commits(&alice, &bob);
    let before = known.clone();
    let history = History::new(&before, &alice.user_keys());
    let node = *history.births().keys().find(|node| **node != NodeId::ROOT).unwrap();
    let key = history.node_key(node);
    let tag = NodeId::from_bytes(keyed_tag(key, Label::LinkTag, b"user.one"));
    let sign = |known: &[Commit], author: &Replica, log, changes: usize, supersedes: Vec<ValueId>| {
        let forger = Forger::new(known, &history, author, log);
        let body = XattrBody { time: Timestamp::default(), name: b"user.one".into(), value: Some(vec![1].into()) };
        let change = |index| {
            let kind = ChangeKind::Xattr { node, generation: 1, tag };
            forger.change(index, kind, supersedes.clone(), key, &body)
        };
        forger.sign((0..changes).map(change).collect())
    };
    let values = |commit: &ClaimedCommit, count| -> Vec<ValueId> {
        (0..count).map(|index| ValueId { commit: name(commit), index }).collect()
    };
    let many = sign(&known, &dora, 81, 1000, Vec::new());
    known.push(many.clone().check().unwrap());
    let over = sign(&known, &dora, 83, 10, values(&many, 1000));
    known.push(over.clone().check().unwrap());
    told(&alice, &dora, &[&many, &over]);
    told(&alice, &bob, &[&sign(&known, &bob, 85, 1, values(&over, 5))]);
    let why = tell(&alice, &bob, &[&sign(&known, &bob, 87, 1, values(&over, 10))]).unwrap_err().to_string();
    assert!(why.contains("too many void values"), "{why}");
    // However they are spread over the changes of the commit.
    let why = tell(&alice, &bob, &[&sign(&known, &bob, 89, 2, values(&over, 5))]).unwrap_err().to_string();
    assert!(why.contains("too many void values"), "{why}");
}

/// Whoever asks for an old commit has all that came after it looked at once more, which costs by how much that is; and it
/// finds what is new at the end.
#[test]
fn an_old_commit_costs_what_came_after_it() {
    let (alice, bob) = pair();
    let known = commits(&alice, &bob);
    let history = History::new(&known, &alice.user_keys());
    let begun: Vec<_> = (0..5000).map(|log| Forger::new(&known, &history, &bob, 101 + log).sign(Vec::new())).collect();
    let session = alice.volume.session(bob.device_id());
    for some in begun.chunks(1000) {
        session.receive(Message::Commits(some.to_vec())).unwrap();
    }
    alice.volume.commit_now().unwrap();
    let in_step = || {
        let session = alice.volume.session(bob.device_id());
        session.receive(Message::State { digest: crypto::Hash::ZERO, complete: false, commits: 0 }).unwrap();
        let Some(Message::Tips(tips)) = session.next_outgoing() else { panic!("no tips") };
        session.receive(Message::Tips(tips)).unwrap();
        session
    };
    let sent = |session: &p2pfs_volume::Session| {
        let messages = std::iter::from_fn(|| session.next_outgoing());
        let commits = messages.filter_map(|message| match message {
            Message::Commits(commits) => Some(commits),
            _ => None,
        });
        commits.flatten().map(|commit| name(&commit)).collect::<Vec<_>>()
    };
    let first = name(&begun[0]);
    let session = in_step();
    assert!(sent(&session).is_empty());
    alice.write("f", b"new").unwrap();
    session.receive(Message::Want(first)).unwrap();
    alice.volume.commit_now().unwrap();
    let found = sent(&session);
    assert!(found.len() >= 2 && found[0] == first, "{} commits", found.len());

    let nobodys = Message::Want(CommitHash::ZERO);
    let session = in_step();
    let all = (0..50_000).take_while(|_| session.receive(nobodys.clone()).is_ok()).count();
    let session = in_step();
    for _ in 0..all - 20 {
        session.receive(nobodys.clone()).unwrap();
    }
    assert!(sent(&session).is_empty());
    let old =
        (0..20).take_while(|_| session.receive(Message::Want(first)).is_ok() && sent(&session).len() == 1).count();
    assert!((5..=12).contains(&old), "{old} times");
}
