//! A keeper: it stores and passes on what it can't read.

use std::{sync::Arc, time::Duration};

use crate::common::{Replica, forge, sync};
use crypto::{Label, SeededEntropy};
use p2pfs_volume::{
    BlockStore, Caller, Error, Ino, NewNode, Role, SetXattr,
    commit::ChangeKind,
    restore::Restore,
    sealed_store::SealedStore,
    settings::{Budget, Retention},
    store::{Space, Store},
};

const LONG: usize = 300_000;
/// What a keeper must not see: names, contents, targets and people's names have it in them.
const SECRET: &str = "plaintext-Zebra";

fn long(seed: u8) -> Vec<u8> {
    (0..LONG).map(|i| (i as u32).wrapping_mul(2_654_435_761).to_le_bytes()[3] ^ seed).collect()
}

fn name(of: &str) -> String {
    format!("{SECRET} {of}")
}

/// Alice and bob, who have met to let bob in, and a keeper whom both know.
fn three() -> (Replica, Replica, Replica) {
    let alice = Replica::founder("alice", 1);
    let bob = Replica::joined("bob", 2, &alice, Role::Writer);
    let keeper = Replica::joined("keeper", 3, &alice, Role::Keeper);
    sync(&alice, &bob);
    (alice, bob, keeper)
}

fn some_of_everything(alice: &Replica) {
    let text = format!("{SECRET} in a content");
    alice.mkdir(&name("folder")).unwrap();
    alice.write(&format!("{}/{}", name("folder"), name("short")), text.as_bytes()).unwrap();
    let mut bytes = long(1);
    bytes[70_000..][..text.len()].copy_from_slice(text.as_bytes());
    alice.write(&name("long"), &bytes).unwrap();
    alice.write_at(&name("long"), 65_536, &[4; 4096]).unwrap();
    let ino = alice.find(&name("long")).unwrap();
    let value = format!("{SECRET} of an attribute");
    let attribute = format!("user.{SECRET}");
    alice.volume.set_xattr(ino, attribute.as_bytes(), value.as_bytes(), SetXattr::Any, &Caller::default()).unwrap();
    let target = name("target");
    let link = NewNode::Symlink(target.as_bytes());
    alice.volume.make(Ino::ROOT, name("link").as_bytes(), link, 0o777, &Caller::default()).unwrap();
    alice.volume.set_setting("history.daily", Some("45d")).unwrap();
    alice.volume.create_snapshot(&name("snapshot")).unwrap();
}

fn assert_sound(replica: &Replica) {
    let report = replica.volume.verify(false, &mut |_| ()).unwrap();
    assert_eq!(report.damage, [], "{}", replica.name);
}

fn contains(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|window| window == text)
}

#[test]
fn two_who_never_meet_have_everything_of_each_other() {
    let (alice, bob, keeper) = three();
    some_of_everything(&alice);
    sync(&alice, &keeper);
    sync(&keeper, &bob);
    assert_eq!(bob.tree(), alice.tree());
    assert!(bob.tree().len() >= 4, "{:?}", bob.tree());
    // Both at once, and back.
    bob.write(&name("long"), &long(2)).unwrap();
    alice.write(&name("long"), &long(3)).unwrap();
    bob.rename(&name("folder"), "moved").unwrap();
    for _ in 0..2 {
        sync(&bob, &keeper);
        sync(&keeper, &alice);
    }
    sync(&keeper, &bob);
    assert_eq!(bob.tree(), alice.tree());
    assert_eq!(alice.volume.status().conflicts, 1);
    for replica in [&alice, &bob, &keeper] {
        assert_sound(replica);
    }
}

#[test]
fn a_keeper_has_no_key_and_shows_no_name_and_no_byte() {
    let (alice, bob, mut keeper) = three();
    some_of_everything(&alice);
    alice.volume.remove_user(&bob.user_keys().id()).unwrap();
    alice.write(&name("after"), &long(5)).unwrap();
    sync(&alice, &keeper);
    keeper.restart(50);
    let entropy = Arc::new(SeededEntropy::new(9));
    let opened = SealedStore::new(keeper.store.clone(), keeper.secret(), entropy);
    let mut looked = 0;
    for space in &Space::ALL {
        for (key, bytes) in keeper.store.scan(*space, &[], &[], usize::MAX).unwrap() {
            looked += 1;
            let plain = opened.scan(*space, &key, &[&key[..], &[0]].concat(), 1);
            let plain = plain.ok().and_then(|rows| rows.into_iter().next()).map(|(_, plain)| plain);
            for bytes in [Some(key), Some(bytes), plain].iter().flatten() {
                assert!(!contains(bytes, SECRET.as_bytes()), "{}", space.name());
                assert!(!contains(bytes, b"alice") && !contains(bytes, b"history.daily"), "{}", space.name());
            }
        }
    }
    assert!(looked > 50, "{looked} rows");
    let names = keeper.blocks.names();
    assert!(names.len() > 5);
    for hash in &names {
        assert!(!contains(&keeper.blocks.get(hash).unwrap().unwrap(), SECRET.as_bytes()));
    }
    // Nothing that is sealed to it is a key of an epoch.
    let (user, mut given) = (keeper.user_keys(), 0);
    for commit in forge::commits(&alice, &keeper) {
        for head in &commit.heads {
            let (ChangeKind::Epoch { sealed, .. }
            | ChangeKind::Keys { sealed }
            | ChangeKind::Watch { sealed }
            | ChangeKind::Grant { sealed, .. }) = &head.kind
            else {
                continue;
            };
            for key in sealed.iter().filter(|key| key.user == user.id()) {
                given += 1;
                let open = |label| user.boxes.open(label, key.epoch.as_bytes(), &key.sealed);
                assert!(open(Label::BoxEpochKey).is_err());
                let discovery = open(Label::BoxDiscoveryKey).unwrap();
                let known = alice.volume.discovery_keys();
                assert!(known.iter().any(|known| known.expose()[..] == discovery[..]));
            }
        }
    }
    assert_eq!(given, 2);
    assert!(keeper.volume.members().iter().all(|member| member.name.starts_with('~')));
    assert!(matches!(keeper.volume.read_directory(Ino::ROOT, 2, 100), Err(Error::Denied)), "it is closed to it");
    assert!(keeper.write("new", b"x").is_err());
}

#[test]
fn the_discovery_key_of_a_new_epoch_reaches_a_keeper() {
    let (alice, bob, mut keeper) = three();
    let keys = |replica: &Replica| {
        let keys = replica.volume.discovery_keys().into_iter();
        keys.map(|key| *key.expose()).collect::<Vec<_>>()
    };
    assert_eq!(keys(&keeper), keys(&alice));
    alice.volume.remove_user(&bob.user_keys().id()).unwrap();
    sync(&alice, &keeper);
    assert_eq!(keys(&keeper), keys(&alice));
    assert_eq!(keys(&keeper).len(), 2);
    keeper.restart(50);
    assert_eq!(keys(&keeper), keys(&alice), "after a restart");
    keeper.salvage(60);
    assert_eq!(keys(&keeper), keys(&alice), "built anew");
    sync(&alice, &keeper);
    assert_sound(&keeper);
    // One who comes later is given all there are.
    let other = Replica::joined("other", 7, &alice, Role::Keeper);
    assert_eq!(keys(&other), keys(&alice));
    // Its removal leaves it with old ones.
    alice.volume.remove_user(&keeper.user_keys().id()).unwrap();
    sync(&alice, &other);
    sync(&alice, &keeper);
    assert_eq!(keys(&other), keys(&alice));
    assert!(!keys(&keeper).contains(&keys(&alice)[0]));
}

/// An admin lets the keeper in while another, who doesn't know of it, makes a new epoch.
#[test]
fn a_keeper_who_was_unknown_to_whoever_made_an_epoch_is_given_its_discovery_key() {
    let alice = Replica::founder("alice", 1);
    let bob = Replica::joined("bob", 2, &alice, Role::Admin);
    let carol = Replica::joined("carol", 3, &alice, Role::Writer);
    sync(&alice, &bob);
    sync(&alice, &carol);
    bob.volume.remove_user(&carol.user_keys().id()).unwrap();
    let keeper = Replica::joined("keeper", 4, &alice, Role::Keeper);
    sync(&alice, &bob);
    let newest = alice.volume.discovery_key().unwrap();
    assert_eq!(newest.expose(), bob.volume.discovery_key().unwrap().expose());
    sync(&alice, &keeper);
    assert_ne!(keeper.volume.discovery_key().unwrap().expose(), newest.expose());
    alice.write("f", b"an admin writes").unwrap();
    sync(&alice, &keeper);
    assert_eq!(keeper.volume.discovery_key().unwrap().expose(), newest.expose());
    // Once: others need not do it as well.
    let before = alice.volume.status().commits;
    sync(&alice, &bob);
    bob.write("f", b"another").unwrap();
    sync(&alice, &bob);
    let all = forge::commits(&alice, &bob);
    let watches = all.iter().flat_map(|c| &c.heads).filter(|head| matches!(head.kind, ChangeKind::Watch { .. }));
    assert_eq!((watches.count(), alice.volume.status().commits > before), (1, true));
}

#[test]
fn what_was_superseded_goes_and_what_is_current_stays() {
    let (alice, bob, keeper) = three();
    let meet = || {
        sync(&alice, &keeper);
        sync(&keeper, &bob);
        sync(&keeper, &alice);
    };
    for seed in 1..4 {
        alice.write("f", &long(seed)).unwrap();
        meet();
    }
    alice.write("gone", &long(7)).unwrap();
    meet();
    alice.remove("gone").unwrap();
    meet();
    assert!(keeper.blocks.names().len() > 3 * LONG / 65_536);
    // With all of history in reach, nothing goes.
    let before = keeper.blocks.names().len();
    assert!(keeper.volume.reclaim(&mut || true).unwrap().finished);
    assert_eq!(keeper.blocks.names().len(), before);
    keeper.clock.advance(Duration::from_secs(100 * 86_400));
    keeper.volume.thin(&shortest(), &[], false, &mut || true).unwrap();
    // Bob, who may write, hasn't said that he saw the removal.
    bob.write("seen", b"x").unwrap();
    meet();
    assert!(keeper.volume.reclaim(&mut || true).unwrap().finished);
    // Five blocks and their list.
    assert_eq!(keeper.blocks.names().len(), LONG.div_ceil(65_536) + 1);
    assert_sound(&keeper);
    let late = Replica::joined("late", 8, &alice, Role::Reader);
    sync(&keeper, &late);
    assert_eq!(late.read("f").unwrap(), long(3));
}

fn shortest() -> Retention {
    let day = Duration::from_secs(86_400);
    let budget = Budget::Share(100);
    Retention { keep_all: day, hourly: day, daily: day, weekly: day, monthly: Some(day), budget }
}

/// What arrives while blocks are looked at that nobody needs is needed.
#[test]
fn what_comes_while_blocks_are_looked_through_stays() {
    let (alice, _bob, keeper) = three();
    alice.write("f", &long(1)).unwrap();
    sync(&alice, &keeper);
    let mut steps = 0;
    let done = keeper.volume.reclaim(&mut || {
        steps += 1;
        if steps < 6 {
            alice.write("f", &long(10 + steps)).unwrap();
            sync(&alice, &keeper);
        }
        true
    });
    assert!(done.unwrap().finished && steps > 1);
    assert_sound(&keeper);
}

/// Blocks that nobody needed when it was begun, and that a content which comes meanwhile names.
#[test]
fn what_comes_back_while_blocks_are_looked_through_stays() {
    let (alice, _bob, keeper) = three();
    alice.write("f", &long(1)).unwrap();
    sync(&alice, &keeper);
    let at = alice.volume.last_arrival();
    alice.write("f", &long(2)).unwrap();
    sync(&alice, &keeper);
    keeper.clock.advance(Duration::from_secs(100 * 86_400));
    keeper.volume.thin(&shortest(), &[], false, &mut || true).unwrap();
    let path = || vec![b"f".to_vec()];
    let what = Restore { path: path(), at, to: path(), exact: false, dry_run: false };
    // Each time a step later, until that is past the end.
    for round in 1.. {
        let (mut steps, mut came) = (0, false);
        let done = keeper.volume.reclaim(&mut || {
            steps += 1;
            if steps == round {
                came = true;
                alice.volume.restore(&what).unwrap();
                sync(&alice, &keeper);
            }
            true
        });
        assert!(done.unwrap().finished);
        assert_sound(&keeper);
        if !came {
            assert!(round > 3, "{round}");
            return;
        }
        alice.write("f", &long(2)).unwrap();
        sync(&alice, &keeper);
        keeper.clock.advance(Duration::from_secs(100 * 86_400));
        keeper.volume.thin(&shortest(), &[], false, &mut || true).unwrap();
    }
}

#[test]
fn what_is_damaged_is_found_and_fetched_again() {
    let (alice, _bob, keeper) = three();
    alice.write("f", &long(1)).unwrap();
    sync(&alice, &keeper);
    let hash = keeper.blocks.names()[2];
    keeper.blocks.damage(&hash);
    let report = keeper.volume.verify(true, &mut |_| ()).unwrap();
    assert_eq!(report.bad_blocks(), [hash], "{:?}", report.damage);
    sync(&alice, &keeper);
    assert_sound(&keeper);
    keeper.blocks.evict(&hash);
    let report = keeper.volume.verify(true, &mut |_| ()).unwrap();
    assert_eq!(report.bad_blocks(), [hash], "{:?}", report.damage);
    sync(&alice, &keeper);
    assert_sound(&keeper);
}

#[test]
fn over_its_quota_a_keeper_takes_commits_and_no_contents() {
    let (alice, bob, keeper) = three();
    alice.write("first", &long(1)).unwrap();
    sync(&alice, &keeper);
    assert_eq!(keeper.volume.status().wanted_blocks, 0);
    keeper.volume.set_quota(Some(LONG as u64));
    for seed in 2..4 {
        alice.write(&format!("more {seed}"), &long(seed)).unwrap();
        sync(&alice, &keeper);
    }
    let status = keeper.volume.status();
    assert!(status.quota_reached);
    assert_eq!(status.commits, alice.volume.status().commits);
    let held = keeper.blocks.names().len();
    assert!(held < alice.blocks.names().len());
    assert_sound(&keeper);
    sync(&keeper, &bob);
    assert!(bob.find("more 3").is_ok() && bob.read("more 3").is_err());
    keeper.volume.set_quota(Some(100 * LONG as u64));
    sync(&alice, &keeper);
    sync(&keeper, &bob);
    assert_eq!(bob.read("more 3").unwrap(), long(3));
    assert!(!keeper.volume.status().quota_reached);
}

#[test]
fn nobody_becomes_a_keeper_and_no_keeper_becomes_another() {
    let (alice, bob, keeper) = three();
    sync(&alice, &keeper);
    for (user, role) in [(&bob, Role::Keeper), (&keeper, Role::Reader), (&keeper, Role::Admin)] {
        let refused = alice.volume.set_role(&user.user_keys().id(), role);
        assert!(matches!(refused, Err(Error::Refused(_))), "{refused:?}");
    }
    assert!(keeper.volume.is_keeper() && !bob.volume.is_keeper());
}
