//! What several made at once under one name: told without walking the tree, and settled.

use crate::common::{Replica, sync};
use p2pfs_volume::{
    Caller, Conflict, Error, Keep, NodeKind, OpenMode, Role,
    store::{Batch, Space, Store},
};

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

/// Both write it apart; bob's is the greater version, and shows.
fn both_write(alice: &Replica, bob: &Replica, path: &str) {
    if alice.find(path).is_err() {
        alice.write(path, b"base").unwrap();
    }
    meet(alice, bob);
    for pad in ["x", "y"] {
        bob.write(pad, b"").unwrap();
        bob.remove(pad).unwrap();
        bob.volume.commit_now().unwrap();
    }
    alice.write(path, b"alice's").unwrap();
    bob.write(path, b"of bob").unwrap();
    meet(alice, bob);
    assert_eq!(bob.read(path).unwrap(), b"of bob");
}

fn listed(replica: &Replica) -> Vec<Conflict> {
    let found = replica.volume.conflicts(b"", usize::MAX).unwrap();
    assert_eq!(replica.volume.status().conflicts, found.conflicts.len() as u64);
    found.conflicts
}

fn names(conflict: &Conflict) -> Vec<&str> {
    conflict.versions.iter().map(|v| std::str::from_utf8(&v.name).unwrap()).collect()
}

/// Entries and what is in them, without link counts.
fn holds(tree: &[String], path: &str, content: &str) -> bool {
    tree.iter().any(|line| line.starts_with(&format!("{path} ")) && line.contains(&format!("{content:?}")))
}

#[test]
fn who_made_what_and_when() {
    let (alice, bob) = pair();
    alice.mkdir("d").unwrap();
    both_write(&alice, &bob, "d/note.txt");
    alice.rename("d", "moved").unwrap();
    meet(&alice, &bob);
    let [conflict] = &listed(&alice)[..] else { panic!("{:?}", listed(&alice)) };
    assert_eq!(conflict.path(), b"moved/note.txt");
    assert_eq!(names(conflict), ["note.txt", "note (conflict of alice 2026-11-22 0915Z).txt"]);
    let [bobs, alices] = &conflict.versions[..] else { panic!("{conflict:?}") };
    assert_eq!((bobs.user.as_str(), bobs.device, bobs.mine, bobs.size), ("bob", bob.device_id(), false, 6));
    assert_eq!((alices.user.as_str(), alices.device, alices.mine, alices.size), ("alice", alice.device_id(), true, 7));
    assert!(!alices.own && alices.kind == NodeKind::File);
    let [of_bob] = &listed(&bob)[..] else { panic!("{:?}", listed(&bob)) };
    assert_eq!(of_bob.versions.iter().map(|v| v.mine).collect::<Vec<_>>(), [true, false]);
    assert_eq!(of_bob.versions[0].made, bobs.made);
    // Where it is asked for.
    for within in ["moved", "moved/note.txt", "moved/note (conflict of alice 2026-11-22 0915Z).txt", ""] {
        assert_eq!(alice.volume.conflicts(within.as_bytes(), 9).unwrap().conflicts.len(), 1, "{within}");
    }
    for within in ["move", "moved/note", "x", "moved/note.txt/x"] {
        assert_eq!(alice.volume.conflicts(within.as_bytes(), 9).unwrap().conflicts.len(), 0, "{within}");
    }
    assert_eq!(alice.volume.conflicts(b"", 0).unwrap().more, 1);
}

#[test]
fn one_is_kept_and_the_other_is_history() {
    let cases: [(Keep, &str); 6] = [
        (Keep::Mine, "alice's"),
        (Keep::Theirs, "of bob"),
        (Keep::Named(b"f".to_vec()), "of bob"),
        (Keep::Named(b"f (conflict of alice 2026-11-22 0915Z)".to_vec()), "alice's"),
        (Keep::Mine, "alice's"),
        (Keep::Theirs, "of bob"),
    ];
    for (i, (keep, expected)) in cases.into_iter().enumerate() {
        let (alice, bob) = pair();
        both_write(&alice, &bob, "f");
        alice.link("f", "other").unwrap();
        meet(&alice, &bob);
        alice.volume.commit_now().unwrap();
        let before = alice.volume.last_arrival();
        assert_eq!(listed(&alice).len(), 2, "a name each");
        // By the name itself, or by one that shows beside it.
        let path = if i < 4 { "f" } else { "f (conflict of alice 2026-11-22 0915Z)" };
        alice.volume.resolve(path.as_bytes(), &keep).unwrap();
        let tree = meet(&alice, &bob);
        assert_eq!(tree.len(), 2, "{tree:?}");
        assert!(holds(&tree, "/f", expected) && holds(&tree, "/other", expected), "{keep:?} {tree:?}");
        assert!(listed(&alice).is_empty() && listed(&bob).is_empty());
        let then = alice.volume.past(before).unwrap();
        assert!(alice.volume.lookup(then, b"f (conflict of alice 2026-11-22 0915Z)").is_ok());
    }
}

#[test]
fn both_are_kept_as_files_of_their_own() {
    let (alice, bob) = pair();
    both_write(&alice, &bob, "f.txt");
    bob.volume.resolve(b"f.txt", &Keep::All).unwrap();
    let tree = meet(&alice, &bob);
    assert_eq!(tree.len(), 2, "{tree:?}");
    assert!(holds(&tree, "/f.txt", "of bob") && holds(&tree, "/f (alice 2026-11-22 0915Z).txt", "alice's"), "{tree:?}");
    assert!(listed(&alice).is_empty() && listed(&bob).is_empty());
    // Again in the same minute: that name is taken.
    both_write(&alice, &bob, "f.txt");
    bob.volume.resolve(b"f.txt", &Keep::All).unwrap();
    assert_eq!(meet(&alice, &bob).len(), 3);
}

#[test]
fn what_is_asked_for_must_be_one() {
    let (alice, bob) = pair();
    let carol = Replica::joined("carol", 3, &alice, Role::Reader);
    both_write(&alice, &bob, "f");
    alice.write("alone", b"").unwrap();
    let refusal = |replica: &Replica, path: &str, keep: &Keep| match replica.volume.resolve(path.as_bytes(), keep) {
        Err(Error::Refused(why)) => why,
        other => panic!("{other:?}"),
    };
    assert!(refusal(&alice, "alone", &Keep::Mine).contains("nothing is in conflict"));
    let why = refusal(&alice, "f", &Keep::Named(b"x".to_vec()));
    assert!(why.contains("`f` by bob") && why.contains("`f (conflict of alice 2026-11-22 0915Z)` by alice"), "{why}");
    assert!(matches!(alice.volume.resolve(b"none", &Keep::Mine), Err(Error::NotFound)));
    sync(&alice, &carol);
    assert!(matches!(carol.volume.resolve(b"f", &Keep::Theirs), Err(Error::ReadOnly)));
    // Nobody decides about what is being written.
    let mode = OpenMode { write: true, ..OpenMode::default() };
    let handle = alice.volume.open(alice.find("f").unwrap(), mode, &Caller::default()).unwrap();
    alice.volume.write(handle, 0, b"more", &Caller::default()).unwrap();
    assert!(refusal(&alice, "f", &Keep::Mine).contains("open for writing"));
    alice.close(handle).unwrap();
    meet(&alice, &bob);
    let third = Replica::joined("dora", 4, &alice, Role::Writer);
    bob.write("f", b"bob again").unwrap();
    third.write("f", b"of dora").unwrap();
    sync(&bob, &third);
    meet(&alice, &bob);
    assert_eq!(listed(&alice)[0].versions.len(), 3, "{:?}", listed(&alice));
    assert!(refusal(&alice, "f", &Keep::Theirs).starts_with("several of them are others'"));
    alice.volume.resolve(b"f", &Keep::Mine).unwrap();
    meet(&alice, &bob);
    assert!(listed(&bob).is_empty());
}

#[test]
fn names_that_were_taken_twice() {
    let (alice, bob) = pair();
    alice.write("one", b"alice's").unwrap();
    alice.mkdir("two").unwrap();
    alice.write("two/in it", b"").unwrap();
    bob.write("one", b"of bob").unwrap();
    bob.write("two", b"of bob").unwrap();
    meet(&alice, &bob);
    let found = listed(&alice);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found.iter().all(|c| c.versions.len() == 2 && c.versions[1].own), "{found:?}");
    // A folder with something in it can't be done away with so.
    let of_folder = names(&found[1]).into_iter().zip(&found[1].versions).find(|(_, v)| v.kind == NodeKind::File);
    let file = of_folder.unwrap().0.to_owned();
    assert!(matches!(bob.volume.resolve(b"two", &Keep::Named(file.into_bytes())), Err(Error::Refused(_))));
    bob.volume.resolve(b"two", &Keep::All).unwrap();
    let beside = names(&found[0])[1].to_owned();
    alice.volume.resolve(beside.as_bytes(), &Keep::Named(beside.clone().into_bytes())).unwrap();
    let kept = if found[0].versions[1].mine { "alice's" } else { "of bob" };
    let tree = meet(&alice, &bob);
    assert!(holds(&tree, "/one", kept) && tree.len() == 4, "{tree:?}");
    assert!(listed(&alice).is_empty() && listed(&bob).is_empty());
    assert!(tree.iter().any(|line| line.contains(" 2026-11-22 0915Z)")), "{tree:?}");
}

#[test]
fn one_in_a_folder_whose_own_name_was_taken() {
    let (alice, bob) = pair();
    alice.mkdir("d").unwrap();
    both_write(&alice, &bob, "d/f");
    // Carol's is the older claim.
    let carol = Replica::joined("carol", 3, &alice, Role::Writer);
    carol.write("taken", b"").unwrap();
    carol.volume.commit_now().unwrap();
    for pad in ["x", "y"] {
        alice.write(pad, b"").unwrap();
        alice.remove(pad).unwrap();
        alice.volume.commit_now().unwrap();
    }
    alice.rename("d", "taken").unwrap();
    sync(&alice, &carol);
    meet(&alice, &bob);
    let found = listed(&bob);
    let folder = names(&found[0])[1].to_owned();
    assert!(found[0].path() == b"taken" && folder.starts_with("taken~"), "{found:?}");
    assert_eq!(found[1].path(), format!("{folder}/f").into_bytes());
    assert!(bob.volume.resolve(&found[1].path(), &Keep::Mine).is_ok());
}

#[test]
fn an_empty_folder_gives_way_to_a_file() {
    let (alice, bob) = pair();
    alice.mkdir("a").unwrap();
    bob.write("a", b"of bob").unwrap();
    meet(&alice, &bob);
    bob.volume.resolve(b"a", &Keep::Mine).unwrap();
    let tree = meet(&alice, &bob);
    assert!(holds(&tree, "/a", "of bob") && tree.len() == 1, "{tree:?}");
}

#[test]
fn two_who_settle_it_differently_while_apart() {
    // One keeps what shows, the other what doesn't: that was chosen knowing what shows.
    let (alice, bob) = pair();
    both_write(&alice, &bob, "f");
    alice.volume.resolve(b"f", &Keep::Mine).unwrap();
    bob.volume.resolve(b"f", &Keep::Mine).unwrap();
    let tree = meet(&alice, &bob);
    assert!(holds(&tree, "/f", "alice's") && tree.len() == 1, "{tree:?}");
    // Both keep what shows.
    let (alice, bob) = pair();
    both_write(&alice, &bob, "f");
    alice.volume.resolve(b"f", &Keep::Theirs).unwrap();
    bob.volume.resolve(b"f", &Keep::Mine).unwrap();
    let tree = meet(&alice, &bob);
    assert!(holds(&tree, "/f", "of bob") && tree.len() == 1, "{tree:?}");
    // One keeps one, the other writes on.
    let (alice, bob) = pair();
    both_write(&alice, &bob, "f");
    alice.volume.resolve(b"f", &Keep::Mine).unwrap();
    bob.write("f", b"more of bob").unwrap();
    let tree = meet(&alice, &bob);
    assert!(tree.len() == 2 && ["alice's", "more of bob"].iter().all(|text| tree.iter().any(|l| l.contains(text))));
    // Two keep different ones of those that don't show: they are in conflict.
    let (alice, bob) = pair();
    let carol = Replica::joined("carol", 3, &alice, Role::Writer);
    alice.write("f", b"base").unwrap();
    sync(&alice, &carol);
    meet(&alice, &bob);
    alice.write("f", b"alice's").unwrap();
    bob.write("f", b"of bob").unwrap();
    carol.write("f", b"of carol").unwrap();
    sync(&alice, &carol);
    sync(&alice, &bob);
    sync(&alice, &carol);
    let versions = listed(&carol)[0].versions.clone();
    assert_eq!(versions.len(), 3);
    bob.volume.resolve(b"f", &Keep::Named(versions[1].name.clone())).unwrap();
    carol.volume.resolve(b"f", &Keep::Named(versions[2].name.clone())).unwrap();
    sync(&alice, &carol);
    meet(&alice, &bob);
    let left = listed(&alice);
    assert_eq!(left[0].versions.len(), 2, "{left:?}");
    alice.volume.resolve(b"f", &Keep::Named(b"f".to_vec())).unwrap();
    assert_eq!(meet(&alice, &bob).len(), 1);
}

#[test]
fn a_restart_and_a_store_built_anew_know_them() {
    let (mut alice, bob) = pair();
    both_write(&alice, &bob, "f");
    bob.mkdir("f2").unwrap();
    alice.write("f2", b"").unwrap();
    meet(&alice, &bob);
    let before: Vec<_> = listed(&alice).iter().map(Conflict::path).collect();
    assert_eq!(before.len(), 2);
    alice.restart(7);
    assert_eq!(listed(&alice).iter().map(Conflict::path).collect::<Vec<_>>(), before);
    alice.salvage(9);
    assert_eq!(listed(&alice).iter().map(Conflict::path).collect::<Vec<_>>(), before);
}

/// Takes the rows of names in conflict away; `all` with what tells that there are some.
fn forget_rows(replica: &Replica, all: bool) {
    let rows = replica.store.scan(Space::Meta, b"beside", b"beside\xff", 99).unwrap();
    assert_eq!(rows.len(), 2);
    let mut batch = Batch::new();
    for (key, _) in rows.into_iter().filter(|(key, _)| all || key.len() > b"beside".len()) {
        batch.remove(Space::Meta, key);
    }
    replica.store.apply(batch).unwrap();
}

#[test]
fn a_store_of_an_earlier_version_gets_its_rows() {
    let (mut alice, bob) = pair();
    both_write(&alice, &bob, "f");
    let before = listed(&alice);
    forget_rows(&alice, true);
    alice.restart(7);
    assert_eq!(listed(&alice), before);
    assert_eq!(alice.volume.verify(false, &mut |_| ()).unwrap().damages, 0);
    // Once only: settled, it is settled.
    alice.volume.resolve(b"f", &Keep::Mine).unwrap();
    alice.restart(8);
    assert!(listed(&alice).is_empty());
}

#[test]
fn verifying_misses_a_row() {
    let (alice, bob) = pair();
    both_write(&alice, &bob, "f");
    assert_eq!(alice.volume.verify(false, &mut |_| ()).unwrap().damages, 0);
    forget_rows(&alice, false);
    let found = alice.volume.verify(false, &mut |_| ()).unwrap();
    assert_eq!(found.damages, 2, "the name, and the number of names: {:?}", found.damage);
    assert!(found.damage.iter().any(|damage| damage.path.as_deref() == Some(b"f")), "{:?}", found.damage);
}
