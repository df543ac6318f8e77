//! The archive of commits: whoever is alone with a damaged store loses nothing, and the other way round.

use std::{fs, ops::Range, path::PathBuf, sync::Arc, time::Duration};

use crate::common::Replica;
use p2pfs_volume::{
    Error,
    memory_store::MemoryStore,
    store::{Batch, Space, Store},
    verify::{DamageKind, VerifyReport},
};
use tempfile::TempDir;

/// Alice's volume with some history, who has nobody else; and the folder of its archive.
fn alone() -> (Replica, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let mut alice = Replica::founder("alice", 1);
    // Some of it from before it had an archive.
    alice.mkdir("d").unwrap();
    alice.write("d/old", b"older").unwrap();
    alice.volume.commit_now().unwrap();
    alice.archive = Some(folder.path().join("commits"));
    alice.restart(2);
    for number in 0..60 {
        alice.write(&format!("d/file {number}"), format!("content {number}").repeat(number).as_bytes()).unwrap();
        if number % 3 == 0 {
            alice.rename(&format!("d/file {number}"), &format!("moved {number}")).unwrap();
        }
        if number % 5 == 0 {
            alice.write("d/old", format!("version {number}").as_bytes()).unwrap();
        }
        if number % 7 == 0 {
            alice.remove(&format!("d/file {number}")).unwrap_or(());
        }
        alice.volume.commit_now().unwrap();
        while alice.volume.work().is_some_and(|due| due <= Duration::from_millis(0)) {}
    }
    alice.link("d/file 1", "again").unwrap();
    alice.volume.shutdown().unwrap();
    alice.restart(3);
    (alice, folder)
}

fn verify(replica: &Replica, repair: bool) -> VerifyReport {
    replica.volume.verify(repair, &mut |_| ()).unwrap()
}

fn check_sound(replica: &Replica, tree: &[String]) {
    let found = verify(replica, false);
    assert_eq!(found.damages, 0, "{:?}", found.damage);
    assert_eq!(replica.tree(), tree);
}

fn segments(folder: &TempDir) -> Vec<PathBuf> {
    let mut found: Vec<_> =
        fs::read_dir(folder.path().join("commits")).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

/// Whatever is at hand: commits are taken into memory a little at a time.
#[test]
fn an_archive_that_is_far_behind_catches_up_in_small_steps() {
    let folder = tempfile::tempdir().unwrap();
    let mut alice = Replica::founder("alice", 1);
    for number in 0..100_u32 {
        let bytes = number.to_le_bytes().repeat(4000);
        (0..4).for_each(|file| alice.write(&format!("{file}"), &bytes).unwrap());
        alice.volume.commit_now().unwrap();
    }
    alice.archive = Some(folder.path().join("commits"));
    alice.restart(2);
    let archived = || segments(&folder).iter().map(|path| path.metadata().unwrap().len()).sum::<u64>();
    let (mut before, mut steps) = (archived(), 0);
    alice.write("new", b"at hand").unwrap();
    alice.volume.commit_now().unwrap();
    loop {
        let more = alice.volume.work().is_some();
        let now = archived();
        assert!(now - before < 2 << 20, "{} bytes at once", now - before);
        (before, steps) = (now, steps + 1);
        if !more {
            break;
        }
    }
    assert!(before > 6 << 20 && steps > 3, "{before} bytes in {steps} steps");
    check_sound(&alice, &alice.tree());
}

#[test]
fn a_lost_store_comes_back_from_the_archive_alone() {
    let (mut alice, folder) = alone();
    let tree = alice.tree();
    assert!(segments(&folder).len() > 3);
    check_sound(&alice, &tree);
    // An empty store in its place is no new volume.
    let whole = std::mem::replace(&mut alice.store, Arc::new(MemoryStore::new()));
    let refused = alice.try_restart(4);
    assert!(matches!(&refused, Err(Error::Damaged(what)) if what.contains("archive")), "{refused:?}");
    let commits = whole.keys(Space::Commits).len() as u64;
    let salvaged = alice.salvage_from(None, 5);
    assert_eq!((salvaged.commits, salvaged.damaged, salvaged.waiting), (commits, 0, 0));
    check_sound(&alice, &tree);
    // The new store numbers its commits anew: so does the archive, and what was of the old numbers goes.
    let before = segments(&folder);
    alice.write("after", b"all this").unwrap();
    alice.volume.shutdown().unwrap();
    assert!(
        segments(&folder)
            .iter()
            .all(|segment| !before.contains(segment) || !segment.to_str().unwrap().contains("kept"))
    );
    alice.restart(6);
    let tree = alice.tree();
    check_sound(&alice, &tree);
    alice.salvage_from(None, 7);
    check_sound(&alice, &tree);
}

#[test]
fn any_damaged_record_of_the_store_is_made_good_alone() {
    let (mut alice, _folder) = alone();
    let tree = alice.tree();
    let mut salt = 10;
    for space in Space::ALL {
        for key in alice.store.keys(space).into_iter().step_by(11) {
            if !alice.store.keys(space).contains(&key) {
                continue;
            }
            salt += 10;
            alice.store.damage(space, &key);
            let found = alice.try_restart(salt).is_err() || verify(&alice, false).needs_salvage();
            assert!(found, "{} {key:x?} is not found", space.name());
            let salvaged = alice.salvage(salt + 1);
            assert_eq!((salvaged.damaged, salvaged.waiting), (0, 0), "{} {key:x?}", space.name());
            check_sound(&alice, &tree);
            alice.volume.shutdown().unwrap();
            alice.restart(salt + 2);
        }
    }
}

#[test]
fn every_flip_in_the_archive_is_found_and_mended_from_the_store() {
    let (mut alice, folder) = alone();
    let tree = alice.tree();
    let mut salt = 100;
    let names = segments(&folder);
    for (number, segment) in names.iter().enumerate() {
        let whole = fs::read(segment).unwrap();
        for at in (number..whole.len()).step_by(1009) {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << (at % 8);
            fs::write(segment, &flipped).unwrap();
            salt += 1;
            // The last one is looked at when the volume is opened, and mended at once.
            alice.restart(salt);
            let last = number + 1 == names.len();
            let found = verify(&alice, true);
            assert_eq!(found.damages, u64::from(!last), "{at} of {}: {:?}", segment.display(), found.damage);
            assert!(found.damage.iter().all(|d| d.kind == DamageKind::Archive && d.repaired));
            assert!(!found.needs_salvage());
            check_sound(&alice, &tree);
        }
        fs::remove_file(segment).unwrap();
        alice.restart(salt + 1);
        verify(&alice, true);
        check_sound(&alice, &tree);
    }
    alice.salvage_from(None, salt + 2);
    check_sound(&alice, &tree);
}

/// Where the records of a segment lie, and their arrival numbers.
fn records(segment: &[u8]) -> Vec<(Range<usize>, u64)> {
    let (mut found, mut at) = (Vec::new(), 24);
    while at < segment.len() {
        let len = u32::from_le_bytes(segment[at + 4..at + 8].try_into().unwrap()) as usize;
        found.push((at..at + 16 + len, u64::from_le_bytes(segment[at + 8..at + 16].try_into().unwrap())));
        at += 16 + len;
    }
    found
}

#[test]
fn what_follows_a_hole_in_the_newest_segment_is_kept() {
    let (mut alice, folder) = alone();
    let newest = |folder: &TempDir| segments(folder).pop().unwrap();
    let mut number = 0;
    while records(&fs::read(newest(&folder)).unwrap()).len() < 5 {
        number += 1;
        alice.write("last", format!("version {number}").as_bytes()).unwrap();
        alice.volume.commit_now().unwrap();
        while alice.volume.work().is_some_and(|due| due <= Duration::from_millis(0)) {}
    }
    let tree = alice.tree();
    let segment = newest(&folder);
    let mut bytes = fs::read(&segment).unwrap();
    let all = records(&bytes);
    // Power failed, and a part of the segment was not on the disk yet; and a record of the store was hit behind it.
    bytes[all[1].0.clone()].fill(0);
    fs::write(&segment, &bytes).unwrap();
    let hit = all[3].1;
    let commit = alice.store.get(Space::Index, &[b"a", &hit.to_be_bytes()[..]].concat()).unwrap().unwrap();
    let change = alice.store.keys(Space::Changes).into_iter().find(|key| key.starts_with(&commit)).unwrap();
    alice.store.damage(Space::Changes, &change);
    alice.restart(40);
    let arrivals = |bytes: &[u8]| records(bytes).into_iter().map(|(_, arrival)| arrival).collect::<Vec<_>>();
    let kept: Vec<u64> = all.iter().map(|(_, arrival)| *arrival).collect();
    assert_eq!(arrivals(&fs::read(&segment).unwrap()), kept);
    // It goes on behind that.
    alice.write("after", b"more").unwrap();
    alice.volume.shutdown().unwrap();
    assert!(arrivals(&fs::read(newest(&folder)).unwrap()).last() > kept.last());
    assert!(alice.try_restart(41).is_err() || verify(&alice, false).needs_salvage());
    let salvaged = alice.salvage(42);
    assert_eq!((salvaged.damaged, salvaged.waiting), (0, 0));
    let mut expected = tree;
    expected.extend(alice.tree().into_iter().filter(|line| line.contains("after")));
    expected.sort();
    let mut found = alice.tree();
    found.sort();
    assert_eq!(found, expected);
}

#[test]
fn a_damaged_archive_beside_a_damaged_store_loses_only_what_both_lost() {
    let (mut alice, folder) = alone();
    let tree = alice.tree();
    for segment in segments(&folder) {
        let mut bytes = fs::read(&segment).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&segment, bytes).unwrap();
    }
    // Near the start of the log; all behind it builds on it.
    let first = alice.store.keys(Space::Commits)[1].clone();
    alice.store.damage(Space::Commits, &first);
    assert!(alice.try_restart(4).is_err() || verify(&alice, false).needs_salvage());
    let salvaged = alice.salvage(5);
    assert_eq!((salvaged.damaged, salvaged.waiting), (0, 0));
    check_sound(&alice, &tree);
}

#[test]
fn a_store_without_its_newest_commits_is_not_gone_on_with() {
    let (mut alice, _folder) = alone();
    alice.write("newest", b"and acknowledged").unwrap();
    let before = alice.store.keys(Space::Index);
    let commits = alice.store.keys(Space::Commits);
    alice.volume.shutdown().unwrap();
    let tree = alice.tree();
    // As if the end of the journal were lost: the changes are there, the commit isn't.
    for (space, known) in [(Space::Index, before), (Space::Commits, commits)] {
        let new: Vec<_> = alice.store.keys(space).into_iter().filter(|key| !known.contains(key)).collect();
        assert!(!new.is_empty());
        new.iter().for_each(|key| alice.store.lose(space, key));
    }
    let refused = alice.try_restart(4);
    assert!(matches!(&refused, Err(Error::Damaged(what)) if what.contains("archive")), "{refused:?}");
    let salvaged = alice.salvage(5);
    assert_eq!((salvaged.damaged, salvaged.waiting), (0, 0));
    check_sound(&alice, &tree);
}

#[test]
fn what_was_under_way_outlives_a_damaged_store() {
    let (mut alice, _folder) = alone();
    // Synced while open, and in no commit.
    alice.write("file 2", b"before").unwrap();
    alice.volume.commit_now().unwrap();
    let old = alice.open_to_write("file 2").unwrap();
    alice.volume.write(old, 0, b"synced, not closed", &Default::default()).unwrap();
    alice.mkdir("fresh").unwrap();
    let new = alice.open_to_write("fresh/file").unwrap();
    alice.volume.write(new, 0, b"synced too", &Default::default()).unwrap();
    alice.volume.fsync(old).unwrap();
    alice.volume.fsync(new).unwrap();
    // The first time made a version, the second does not.
    alice.volume.write(old, 18, b" yet", &Default::default()).unwrap();
    alice.volume.write(new, 10, b", again", &Default::default()).unwrap();
    alice.volume.fsync(old).unwrap();
    alice.volume.fsync(new).unwrap();
    alice.rename("again", "renamed").unwrap();
    // The daemon dies, and a record is damaged without which the volume doesn't open.
    let key = alice.store.keys(Space::Meta).into_iter().find(|key| key == b"counters").unwrap();
    alice.store.damage(Space::Meta, &key);
    assert!(alice.try_restart(20).is_err());
    let salvaged = alice.salvage(21);
    assert_eq!((salvaged.damaged, salvaged.waiting), (0, 0));
    assert_eq!(alice.read("file 2").unwrap(), b"synced, not closed yet");
    assert_eq!(alice.read("fresh/file").unwrap(), b"synced too, again");
    assert!(alice.find("renamed").is_ok() && alice.find("again").is_err());
    let tree = alice.tree();
    assert!(!tree.iter().any(|line| line.contains("conflict")), "{tree:?}");
    check_sound(&alice, &tree);
}

#[test]
fn half_a_call_is_not_salvaged() {
    let (mut alice, _folder) = alone();
    alice.volume.shutdown().unwrap();
    alice.restart(30);
    let known = alice.store.keys(Space::Changes);
    alice.write("one", b"1").unwrap();
    alice.write("two", b"2").unwrap();
    let pending: Vec<_> = alice.store.keys(Space::Changes).into_iter().filter(|key| !known.contains(key)).collect();
    assert!(pending.len() >= 6, "{}", pending.len());
    // The place of "two" is lost: its birth alone would be a file that nobody reaches.
    let value = alice.store.get(Space::Changes, &pending[4]).unwrap().unwrap();
    let mut batch = Batch::new();
    batch.put(Space::Changes, pending[4].clone(), value[..value.len() / 2].to_vec());
    alice.store.apply(batch).unwrap();
    assert!(alice.try_restart(31).is_err());
    alice.salvage(32);
    assert_eq!(alice.read("one").unwrap(), b"1");
    assert!(alice.find("two").is_err());
    let tree = alice.tree();
    check_sound(&alice, &tree);
}
