//! Damage: whatever bit flips, verifying finds it, reading never shows it, and repairing brings everything back.

use crate::common::{Replica, sync};
use p2pfs_volume::{
    BlockStore, Caller, Error, Role, SetXattr,
    store::{Batch, Space, Store},
    verify::{DamageKind, VerifyReport},
};

const LONG: usize = 300_000;
const PATCHED: usize = 65_536 + 8192;

fn long(seed: u8) -> Vec<u8> {
    (0..LONG).map(|i| (i as u32).wrapping_mul(2_654_435_761).to_le_bytes()[3] ^ seed).collect()
}

/// As [`long`], with a piece that was written later: a patch over one of its blocks.
fn patched(seed: u8) -> Vec<u8> {
    let mut bytes = long(seed);
    bytes[PATCHED..][..4096].fill(seed);
    bytes
}

/// Alice's volume with some of everything, and bob who has all of it.
fn two() -> (Replica, Replica) {
    let alice = Replica::founder("alice", 1);
    let bob = Replica::joined("bob", 2, &alice, Role::Writer);
    alice.mkdir("d").unwrap();
    alice.write("d/long", &long(1)).unwrap();
    alice.write("d/short", b"short").unwrap();
    alice.write("other", &long(2)).unwrap();
    alice.write("other", &long(3)).unwrap();
    let ino = alice.find("other").unwrap();
    alice.link("other", "d/again").unwrap();
    // More links and attributes than its row holds, some of them removed.
    for i in 0..8 {
        alice.link("other", &format!("d/other{i}")).unwrap();
        let (name, value) = (format!("user.{i}"), vec![i; 40]);
        alice.volume.set_xattr(ino, name.as_bytes(), &value, SetXattr::Any, &Caller::default()).unwrap();
    }
    for i in 4..7 {
        alice.remove(&format!("d/other{i}")).unwrap();
        alice.volume.remove_xattr(ino, format!("user.{i}").as_bytes()).unwrap();
    }
    sync(&alice, &bob);
    bob.write("bob's", &long(4)).unwrap();
    bob.write_at("bob's", PATCHED as u64, &[4; 4096]).unwrap();
    let is_patch = |hash: &_| bob.blocks.get(hash).unwrap().is_some_and(|bytes| bytes.starts_with(b"P2PFSPCH"));
    assert_eq!(bob.blocks.names().iter().filter(|hash| is_patch(hash)).count(), 1);
    bob.rename("d/short", "d/renamed").unwrap();
    // Both at once: a conflict.
    alice.write("d/short", b"alice's").unwrap();
    bob.write("d/renamed", b"bob's").unwrap();
    sync(&alice, &bob);
    (alice, bob)
}

fn verify(replica: &Replica, repair: bool) -> VerifyReport {
    replica.volume.verify(repair, &mut |_| ()).unwrap()
}

fn check_sound(replica: &Replica, tree: &[String]) {
    let found = verify(replica, false);
    assert_eq!(found.damages, 0, "{}: {:?}", replica.name, found.damage);
    assert_eq!(replica.tree(), tree);
}

#[test]
fn a_sound_volume_has_no_damage() {
    let (alice, bob) = two();
    let tree = alice.tree();
    assert!(tree.iter().any(|line| line.contains("conflict")), "{tree:?}");
    for replica in [&alice, &bob] {
        check_sound(replica, &tree);
        let checked = verify(replica, true).checked;
        assert!(checked.records > 60 && checked.commits > 5 && checked.contents >= 6, "{checked:?}");
        assert!(checked.bytes > 4 * LONG as u64, "{checked:?}");
    }
}

#[test]
fn every_flipped_block_is_found_never_shown_and_fetched_again() {
    let (alice, bob) = two();
    let tree = alice.tree();
    let blocks = alice.blocks.names();
    assert!(blocks.len() > 12);
    for hash in blocks {
        alice.blocks.damage(&hash);
        let found = verify(&alice, false);
        assert!(found.damage.iter().any(|d| d.block == Some(hash)), "{} is not found", hash.short());
        let told = found.damage.iter().find(|d| d.block == Some(hash)).unwrap();
        assert_eq!(told.kind, DamageKind::Block);
        let path = String::from_utf8(told.path.clone().unwrap()).unwrap();
        assert!(["d/long", "other", "d/again", "bob's"].contains(&path.as_str()), "{path}");
        assert!(!found.needs_salvage());
        // Nobody is served it, and no reader sees it.
        assert!(alice.volume.session(bob.device_id()).serve_block(&hash).is_none());
        for (path, content) in [("d/long", long(1)), ("other", long(3)), ("bob's", patched(4))] {
            match alice.read(path) {
                Ok(bytes) => assert!(bytes == content, "{path} is wrong"),
                Err(e) => assert!(matches!(e, Error::Absent(_) | Error::Damaged(_)), "{e}"),
            }
        }
        verify(&alice, true);
        sync(&alice, &bob);
        assert!(alice.volume.has_whole(&hash), "{} is not whole again", hash.short());
        check_sound(&alice, &tree);
    }
}

#[test]
fn reading_a_flipped_block_asks_for_it_again() {
    let (alice, bob) = two();
    for hash in alice.blocks.names() {
        alice.blocks.damage(&hash);
    }
    let mut asked = 0;
    while let Err(e) = alice.read("d/long") {
        assert!(matches!(e, Error::Absent(_)), "{e}");
        asked += 1;
        assert!(asked <= 6, "it never comes");
        sync(&alice, &bob);
    }
    assert!(asked > 0);
    assert!(alice.read("d/long").unwrap() == long(1), "it is right again without verifying");
}

#[test]
fn a_missing_block_that_nobody_misses_is_found() {
    let (alice, bob) = two();
    for hash in alice.blocks.names() {
        assert!(alice.blocks.evict(&hash));
        let found = verify(&alice, true);
        // Those of older versions need not be here.
        assert!(found.damages <= 2, "{:?}", found.damage);
        sync(&alice, &bob);
    }
    check_sound(&alice, &bob.tree());
}

#[test]
fn every_flipped_record_is_found_and_salvaged() {
    let (mut alice, bob) = two();
    let tree = alice.tree();
    let mut salt = 10;
    for space in Space::ALL {
        for key in alice.store.keys(space) {
            if !alice.store.keys(space).contains(&key) {
                // Salvaging numbered things anew.
                continue;
            }
            salt += 1;
            alice.store.damage(space, &key);
            // What was read before stays in memory: damage shows to those who come new.
            let found = match alice.try_restart(salt) {
                Ok(()) => {
                    let found = verify(&alice, false);
                    assert!(found.damages > 0, "{} {key:x?} is not found", space.name());
                    found.needs_salvage()
                }
                Err(e) => {
                    assert!(matches!(e, Error::Damaged(_)), "{e}");
                    true
                }
            };
            assert!(found, "{} {key:x?} does not need salvage", space.name());
            alice.salvage(salt + 1000);
            sync(&alice, &bob);
            check_sound(&alice, &tree);
        }
    }
    // It goes on, and everybody agrees.
    alice.write("after", b"all this").unwrap();
    sync(&alice, &bob);
    assert_eq!(bob.read("after").unwrap(), b"all this");
    check_sound(&bob, &alice.tree());
}

#[test]
fn every_lost_record_of_the_tree_and_the_logs_is_found() {
    let (mut alice, _) = two();
    for space in [Space::Nodes, Space::Entries, Space::Ids, Space::Index, Space::Commits, Space::Changes] {
        for key in alice.store.keys(space) {
            let value = alice.store.get(space, &key).unwrap().unwrap();
            alice.store.lose(space, &key);
            if alice.try_restart(7).is_ok() {
                assert!(verify(&alice, false).damages > 0, "{} {key:x?} is not missed", space.name());
            }
            let mut back = Batch::new();
            back.put(space, key, value);
            alice.store.apply(back).unwrap();
        }
    }
}

#[test]
fn own_work_that_nobody_else_has_outlives_a_lost_commit() {
    let (mut alice, bob) = two();
    alice.write("lost", b"with its commit").unwrap();
    alice.volume.commit_now().unwrap();
    let known = alice.store.keys(Space::Commits);
    alice.write("unsent", &long(5)).unwrap();
    alice.volume.commit_now().unwrap();
    // The commit before: it is known to bob. What alice did since is not.
    let own: Vec<_> = known.iter().filter(|key| key[..4] == [0; 4]).collect();
    let before = own[own.len() - 2].clone();
    alice.store.damage(Space::Commits, &before);
    let salvaged = alice.salvage(99);
    assert!(salvaged.damaged >= 1 && salvaged.waiting >= 1, "{salvaged:?}");
    sync(&alice, &bob);
    assert!(alice.read("unsent").unwrap() == long(5), "what waited is there");
    assert!(bob.read("unsent").unwrap() == long(5), "bob has it too");
    check_sound(&alice, &bob.tree());
}

#[test]
fn a_newcomer_gets_the_blocks_that_patches_lie_over() {
    let alice = Replica::founder("alice", 1);
    alice.write("long", &long(1)).unwrap();
    alice.write_at("long", PATCHED as u64, &[1; 4096]).unwrap();
    // What shows needs more than its list names.
    let bob = Replica::joined("bob", 2, &alice, Role::Writer);
    sync(&alice, &bob);
    assert!(bob.read("long").unwrap() == patched(1));
    check_sound(&bob, &alice.tree());
    // The same when they went away together, though the list is still known to be here.
    for hash in alice.blocks.names() {
        assert!(bob.blocks.evict(&hash) || !alice.blocks.contains(&hash).unwrap());
    }
    verify(&bob, true);
    sync(&alice, &bob);
    assert!(bob.read("long").unwrap() == patched(1));
    check_sound(&bob, &alice.tree());
}
