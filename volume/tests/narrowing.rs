//! Rights that are taken away while others work apart: on files, on directories, together with removals.

use std::{collections::BTreeMap, time::Duration};

use crate::common::{
    Replica,
    forge::{commits, told},
    sync,
};
use p2pfs_volume::{AttributeChange, Caller, Error, Ino, Role, SetXattr, id::CommitHash, store::Space};
use proptest::prelude::*;

/// Members on mounts of their own, where modes say who may what.
fn group<const N: usize>(names: [(&str, Role); N]) -> Vec<Replica> {
    let mut all = vec![Replica::founder("alice", 1)];
    for (name, role) in names {
        all.push(Replica::joined(name, all.len() as u64 + 1, &all[0], role));
    }
    for _ in 0..2 {
        all[1..].iter().for_each(|other| sync(&all[0], other));
    }
    for (n, one) in all.iter().enumerate() {
        one.volume.set_own_mount(Some(1000 + n as u32));
    }
    all
}

fn chmod(replica: &Replica, path: &str, mode: u16) -> Result<(), Error> {
    let change = AttributeChange { mode: Some(mode), ..AttributeChange::default() };
    replica.volume.set_attributes(replica.find(path)?, None, &change, &Caller::default()).map(drop)
}

fn same(all: &[&Replica]) -> Vec<String> {
    for _ in 0..all.len() {
        all[1..].iter().for_each(|other| sync(all[0], other));
    }
    for other in &all[1..] {
        assert_eq!(other.tree(), all[0].tree(), "{} and {}", other.name, all[0].name);
    }
    all[0].tree()
}

/// Alice takes bob's right to write away while he works apart; carol hears of it after she met him, dora before.
#[test]
fn what_was_written_apart_is_taken_back_in_any_order() {
    let all = group([("bob", Role::Writer), ("carol", Role::Writer), ("dora", Role::Writer)]);
    let [alice, bob, carol, dora] = &all[..] else { unreachable!() };
    alice.mkdir("d").unwrap();
    chmod(alice, "d", 0o775).unwrap();
    for name in ["f", "d/removed", "d/moved", "d/kept"] {
        alice.write(name, b"alice's").unwrap();
        chmod(alice, name, 0o664).unwrap();
    }
    same(&[alice, bob, carol, dora]);
    let before = alice.tree();
    bob.write("f", b"bob's").unwrap();
    bob.write("d/new", b"bob's").unwrap();
    bob.mkdir("d/folder").unwrap();
    bob.write("d/folder/in it", b"bob's").unwrap();
    bob.remove("d/removed").unwrap();
    bob.rename("d/moved", "moved").unwrap();
    bob.write("of bob", b"in the root, where he may").unwrap();
    bob.volume.commit_now().unwrap();
    chmod(alice, "f", 0o644).unwrap();
    chmod(alice, "d", 0o755).unwrap();
    assert!(matches!(carol.write("f", b"hers"), Ok(())), "she has not heard of it");
    carol.volume.commit_now().unwrap();
    sync(alice, dora);
    sync(bob, carol);
    assert!(carol.read("d/new").is_ok());
    let after = same(&[alice, carol, dora]);
    let mut expected = before.clone();
    expected.push("/of bob 25 bytes \"in the root, where he ma\" links 1".to_owned());
    expected.sort();
    assert_eq!(after, expected);
    assert_eq!(same(&[alice, bob, carol, dora]), expected);
    for one in [alice, bob, carol, dora] {
        let kept = one.volume.quarantine().unwrap();
        let changes: usize = kept.iter().map(|one| one.changes.len()).sum();
        assert!(changes >= 6, "{}: {kept:?}", one.name);
    }
    assert!(is_denied(bob.write("f", b"again")) && is_denied(bob.write("d/new", b"again")));
    // With the right given again he does it himself.
    chmod(alice, "f", 0o664).unwrap();
    same(&[alice, bob]);
    bob.write("f", b"again").unwrap();
    assert_eq!(same(&[alice, bob, carol, dora]).len(), expected.len());
    assert_eq!(dora.read("f").unwrap(), b"again");
}

/// What is kept aside, as commits with how many changes of each.
fn aside(one: &Replica) -> Vec<(CommitHash, usize)> {
    one.volume.quarantine().unwrap().iter().map(|one| (one.commit, one.changes.len())).collect()
}

/// What bob made where he might not is still there by another name: what he does with it now that he knows counts, also for
/// whoever hears of it beside something else.
#[test]
fn what_is_done_knowing_what_was_cut_counts_in_any_order() {
    let all = group([("bob", Role::Writer), ("carol", Role::Writer)]);
    let [alice, bob, carol] = &all[..] else { unreachable!() };
    alice.mkdir("d").unwrap();
    chmod(alice, "d", 0o775).unwrap();
    same(&[alice, bob, carol]);
    bob.write("d/new", b"bob's").unwrap();
    bob.link("d/new", "linked").unwrap();
    bob.volume.commit_now().unwrap();
    chmod(alice, "d", 0o755).unwrap();
    same(&[alice, bob, carol]);
    assert_eq!(bob.read("linked").unwrap(), b"");
    bob.write("linked", b"again").unwrap();
    bob.volume.commit_now().unwrap();
    chmod(bob, "linked", 0o640).unwrap();
    carol.write("other", b"carol's").unwrap();
    sync(alice, carol);
    same(&[alice, bob, carol]);
    for one in [alice, bob, carol] {
        assert_eq!(one.read("linked").unwrap(), b"again", "{}", one.name);
        assert_eq!(aside(one), aside(alice), "{}", one.name);
    }
}

/// A folder that is opened to somebody later shows them the time of its last change, not that of the commit it came in.
#[test]
fn a_folder_that_is_opened_later_shows_when_it_changed() {
    let all = group([("bob", Role::Writer)]);
    let [alice, bob] = &all[..] else { unreachable!() };
    bob.mkdir("d").unwrap();
    chmod(bob, "d", 0o700).unwrap();
    sync(alice, bob);
    bob.write("d/f", b"bob's").unwrap();
    bob.clock.advance(Duration::from_secs(3600));
    sync(alice, bob);
    chmod(bob, "d", 0o755).unwrap();
    sync(alice, bob);
    let [mine, theirs] = [alice, bob].map(|one| one.volume.lookup(Ino::ROOT, b"d").unwrap().mtime);
    assert_eq!(mine, theirs);
}

fn is_denied<T>(done: Result<T, Error>) -> bool {
    matches!(done, Err(Error::Denied))
}

/// Who was removed had closed what was his: for those who know of the removal it is as open as it was.
#[test]
fn what_a_removed_owner_closed_late_is_open() {
    let all = group([("bob", Role::Writer), ("carol", Role::Writer)]);
    let [alice, bob, carol] = &all[..] else { unreachable!() };
    bob.write("f", b"bob's").unwrap();
    chmod(bob, "f", 0o664).unwrap();
    same(&[alice, bob, carol]);
    chmod(bob, "f", 0o644).unwrap();
    sync(bob, carol);
    alice.volume.remove_user(&bob.user_keys().id()).unwrap();
    same(&[alice, carol]);
    carol.write("f", b"carol's").unwrap();
    same(&[alice, carol]);
    assert_eq!(alice.read("f").unwrap(), b"carol's");
    assert!(alice.volume.quarantine().unwrap().iter().all(|one| one.user == "bob"));
}

/// An attribute that was set apart from the loss of the right to set it, and one that was removed so: whichever is heard of
/// first.
#[test]
fn attributes_are_taken_back_in_any_order() {
    let all = group([("bob", Role::Writer), ("carol", Role::Writer), ("dora", Role::Writer)]);
    let [alice, bob, carol, dora] = &all[..] else { unreachable!() };
    let set = |one: &Replica, name: &[u8]| {
        one.volume.set_xattr(one.find("f").unwrap(), name, b"1", SetXattr::Any, &Caller::default()).unwrap();
    };
    let names = |one: &Replica| one.volume.list_xattrs(one.find("f").unwrap()).unwrap();
    alice.write("f", b"alice's").unwrap();
    chmod(alice, "f", 0o664).unwrap();
    set(alice, b"user.old");
    same(&[alice, bob, carol, dora]);
    set(bob, b"user.new");
    bob.volume.remove_xattr(bob.find("f").unwrap(), b"user.old").unwrap();
    chmod(alice, "f", 0o644).unwrap();
    sync(bob, carol);
    sync(alice, dora);
    assert_eq!(names(carol), [b"user.new"]);
    same(&[alice, bob, carol, dora]);
    for one in [alice, bob, carol, dora] {
        assert_eq!(names(one), [b"user.old"], "{}", one.name);
        let kept: usize = one.volume.quarantine().unwrap().iter().map(|one| one.changes.len()).sum();
        assert_eq!(kept, 2, "{}", one.name);
    }
}

/// A conflict that was settled apart from the loss of the right to write: it is one again, whichever is heard of first.
#[test]
fn a_settled_conflict_is_one_again_in_any_order() {
    let all = group([("bob", Role::Writer), ("carol", Role::Writer), ("dora", Role::Writer)]);
    let [alice, bob, carol, dora] = &all[..] else { unreachable!() };
    alice.write("f", b"first").unwrap();
    chmod(alice, "f", 0o664).unwrap();
    same(&[alice, bob, carol, dora]);
    alice.write("f", b"alice's").unwrap();
    carol.write("f", b"carol's").unwrap();
    let before = same(&[alice, bob, carol, dora]);
    let copy =
        before.iter().find_map(|line| Some(line.strip_prefix('/')?.split_once(") ")?.0.to_owned() + ")")).unwrap();
    bob.remove(&copy).unwrap();
    chmod(alice, "f", 0o644).unwrap();
    sync(bob, carol);
    sync(alice, dora);
    assert!(carol.read(&copy).is_err());
    assert_eq!(same(&[alice, bob, carol, dora]), before);
}

/// Whichever batch of rows the disk loses of a commit that cuts another: what is cut is taken back with the next commit that
/// comes, and when the volume is opened.
#[test]
fn a_failing_disk_leaves_nothing_that_is_cut() {
    let narrows = |alice: &Replica, _: &Replica| chmod(alice, "f", 0o644).unwrap();
    let removes = |alice: &Replica, bob: &Replica| alice.volume.remove_user(&bob.user_keys().id()).unwrap();
    for cuts in [&narrows as &dyn Fn(&Replica, &Replica), &removes] {
        for (batches, restarts) in (0..4).flat_map(|batches| [(batches, false), (batches, true)]) {
            let mut all = group([("bob", Role::Writer), ("carol", Role::Writer)]);
            all[0].write("f", b"alice's").unwrap();
            chmod(&all[0], "f", 0o664).unwrap();
            same(&[&all[0], &all[1], &all[2]]);
            all[1].write("f", b"bob's").unwrap();
            sync(&all[1], &all[2]);
            cuts(&all[0], &all[1]);
            let made = commits(&all[0], &all[2]);
            let newest = made.iter().max_by_key(|commit| commit.header.count).unwrap();
            all[2].store.fail_after(Some(batches));
            told(&all[2], &all[0], &[&newest.raw]);
            all[2].store.fail_after(None);
            let left = all[2].store.keys(Space::Meta).iter().any(|key| key.starts_with(b"unjudged/"));
            assert_eq!(left, batches == 1, "the commit is stored, what it cuts is not");
            if restarts {
                all[2].restart(70);
            }
            all[0].write("another", b"of alice").unwrap();
            same(&[&all[0], &all[2]]);
            assert_eq!(all[2].read("f").unwrap(), b"alice's", "{batches} batches, {restarts}");
        }
    }
}

/// As long as the disk has not taken in whether a device was removed, nothing is signed by it that others would hold against it.
#[test]
fn nothing_is_signed_before_it_is_known_what_a_commit_cuts() {
    let all = group([("bob", Role::Writer)]);
    let [alice, bob] = &all[..] else { unreachable!() };
    alice.volume.remove_user(&bob.user_keys().id()).unwrap();
    let made = commits(alice, bob);
    let newest = made.iter().max_by_key(|commit| commit.header.count).unwrap();
    bob.store.fail_after(Some(1));
    told(bob, alice, &[&newest.raw]);
    bob.store.fail_after(None);
    assert!(bob.store.keys(Space::Meta).iter().any(|key| key.starts_with(b"unjudged/")));
    assert!(matches!(bob.write("f", b"too late"), Err(Error::ReadOnly)));
    bob.volume.commit_now().unwrap();
    let all = commits(bob, alice);
    told(alice, bob, &all.iter().map(|commit| &commit.raw).collect::<Vec<_>>());
    assert_eq!(alice.volume.forbidden_commits().unwrap(), 0);
}

/// Bob writes while carol takes his right away, and alice settles the conflict that his version made: it is kept aside whichever
/// comes first.
#[test]
fn what_was_settled_is_kept_aside_in_any_order() {
    let all = group([("bob", Role::Writer), ("carol", Role::Admin), ("dora", Role::Writer), ("erin", Role::Writer)]);
    let [alice, bob, carol, dora, erin] = &all[..] else { unreachable!() };
    alice.write("f", b"alice's").unwrap();
    chmod(alice, "f", 0o664).unwrap();
    same(&[alice, bob, carol, dora, erin]);
    bob.write("f", b"bob's").unwrap();
    bob.volume.commit_now().unwrap();
    // What alice writes is to be the greater.
    for text in [b"1", b"2", b"3"] {
        alice.write("g", text).unwrap();
        alice.volume.commit_now().unwrap();
    }
    alice.write("f", b"alice's second").unwrap();
    sync(alice, bob);
    let tree = alice.tree();
    let line = tree.iter().find(|line| line.contains("conflict of bob")).unwrap();
    let end = line.find(')').unwrap();
    alice.remove(&line[1..=end]).unwrap();
    chmod(carol, "f", 0o644).unwrap();
    sync(carol, erin);
    sync(alice, dora);
    sync(alice, erin);
    sync(carol, dora);
    same(&[alice, bob, carol, dora, erin]);
    for one in [alice, bob, carol, dora, erin] {
        let kept = one.volume.quarantine().unwrap();
        assert_eq!(kept.iter().map(|one| one.changes.len()).sum::<usize>(), 1, "{}: {kept:?}", one.name);
        assert_eq!(one.read("f").unwrap(), b"alice's second");
    }
}

#[derive(Clone, Debug)]
enum Step {
    Write(usize, usize),
    Make(usize, usize),
    Move(usize, usize, usize),
    Remove(usize, usize),
    Mode(usize, usize, bool),
    Grant(usize, usize, usize),
    Expel(usize, usize),
    Meet(usize, usize),
}

const PEOPLE: usize = 4;
const FILES: usize = 5;

fn step() -> impl Strategy<Value = Step> {
    let (who, file) = (0..PEOPLE, 0..FILES);
    prop_oneof![
        6 => (who.clone(), file.clone()).prop_map(|(a, b)| Step::Write(a, b)),
        2 => (who.clone(), file.clone()).prop_map(|(a, b)| Step::Make(a, b)),
        4 => (who.clone(), file.clone(), file.clone()).prop_map(|(a, b, c)| Step::Move(a, b, c)),
        3 => (who.clone(), file.clone()).prop_map(|(a, b)| Step::Remove(a, b)),
        7 => (who.clone(), 0..=FILES, any::<bool>()).prop_map(|(a, b, c)| Step::Mode(a, b, c)),
        1 => (who.clone(), who.clone(), 0..3usize).prop_map(|(a, b, c)| Step::Grant(a, b, c)),
        1 => (who.clone(), who.clone()).prop_map(|(a, b)| Step::Expel(a, b)),
        6 => (who.clone(), who).prop_map(|(a, b)| Step::Meet(a, b)),
    ]
}

fn path(file: usize) -> String {
    match file {
        FILES => String::new(),
        0..3 => format!("n{file}"),
        _ => format!("n0/n{file}"),
    }
}

fn take_step(all: &[Replica], step: &Step) {
    let id = |n: usize| all[n].user_keys().id();
    let done = match *step {
        Step::Write(a, file) => all[a].write(&path(file), format!("{} {file}", all[a].name).as_bytes()),
        Step::Make(a, file) => all[a].mkdir(&path(file)).map(|_| ()),
        Step::Move(a, from, to) => all[a].rename(&path(from), &path(to)),
        Step::Remove(a, file) => match all[a].remove(&path(file)) {
            Err(Error::IsDirectory) => all[a].rmdir(&path(file)),
            done => done,
        },
        Step::Mode(a, file, open) => chmod(&all[a], &path(file), if open { 0o775 } else { 0o755 }),
        Step::Grant(a, b, role) if a != b => {
            all[a].volume.set_role(&id(b), [Role::Reader, Role::Writer, Role::Admin][role])
        }
        Step::Expel(a, b) if a != b => all[a].volume.remove_user(&id(b)),
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

    /// Whatever rights come and go, whoever knows the same sees the same, in whatever order it came; and no honest
    /// member's commit is one that its author knew to be forbidden.
    #[test]
    fn what_is_known_decides_about_rights(steps in proptest::collection::vec(step(), 1..70)) {
        let mut all = group([("bob", Role::Admin), ("carol", Role::Writer), ("dora", Role::Writer)]);
        steps.iter().for_each(|step| take_step(&all, step));
        all.iter().for_each(|one| one.volume.commit_now().unwrap());
        let mut known = BTreeMap::new();
        for one in &all {
            for commit in commits(one, &all[0]) {
                known.insert((commit.header.count, commit.hash), commit);
            }
        }
        let raw: Vec<_> = known.values().map(|c| &c.raw).collect();
        for (n, one) in all.iter().enumerate() {
            let mut mine = raw.clone();
            if n % 2 == 1 {
                mine.sort_by_key(|c| c.header.len());
            }
            told(one, &all[(n + 1) % all.len()], &mine);
        }
        let keys = |one: &Replica| one.volume.discovery_keys().len();
        // (Whoever's removal turned out not to count lacks keys that were made without them.)
        let sealed = |line: &String| line.contains("a node's key") || line.contains("/~") || line.contains("denied");
        let opens = |one: &Replica| one.volume.read_directory(p2pfs_volume::Ino::ROOT, 0, 1).is_ok();
        let is_there = |one: &&Replica| {
            opens(one) && one.volume.own_role().is_some() && keys(one) == keys(&all[0]) && !one.tree().iter().any(sealed)
        };
        let there: Vec<&Replica> = all.iter().filter(is_there).collect();
        let kept = |r: &Replica| {
            let kept = r.volume.quarantine().unwrap().into_iter();
            kept.map(|one| (one.commit, one.changes.len())).collect::<Vec<_>>()
        };
        for other in there.iter().skip(1) {
            prop_assert_eq!(other.tree(), there[0].tree(), "{} and {}", other.name, there[0].name);
            prop_assert_eq!(kept(other), kept(there[0]), "{} and {}", other.name, there[0].name);
        }
        for one in &all {
            prop_assert_eq!(one.volume.forbidden_commits().unwrap(), 0, "{}", one.name);
        }
        let (before, kept_before) = (all[0].tree(), kept(&all[0]));
        let mut again = all.remove(0);
        again.restart(70);
        prop_assert_eq!(again.tree(), before.clone(), "after a restart");
        again.salvage(71);
        prop_assert_eq!(again.tree(), before, "built anew");
        prop_assert_eq!(kept(&again), kept_before, "built anew");
    }
}
