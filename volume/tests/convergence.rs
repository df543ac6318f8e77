//! Whatever several replicas do apart, and however they meet: they end with one tree, it is the one that the rules
//! of the merged tree give, and nobody's work is lost.
//!
//! A normal run tries 256 random lives; `PROPTEST_CASES=10000` tries that many.

use std::{collections::BTreeMap, fmt};

use crate::common::{self, Replica};
use crate::model::{
    op::{Op, op},
    world::{World, commits, dump},
};
use p2pfs_volume::{Caller, Conflict, Error, Message, OpenMode, SetXattr, commit::ContentBody, content::ContentData};
use proptest::prelude::*;
use simulation::model::{History, Reference};

fn differences(a: &[String], b: &[String]) -> String {
    let only = |x: &[String], y: &[String], sign: &str| -> String {
        x.iter().filter(|l| !y.contains(l)).map(|l| format!("  {sign} {l}\n")).collect()
    };
    only(a, b, "-") + &only(b, a, "+")
}

/// A random life of several replicas.
#[derive(Clone)]
struct Story {
    replicas: usize,
    furnished: bool,
    ops: Vec<Op>,
    /// In which causal order a newcomer learns of it.
    order: u64,
}

impl fmt::Debug for Story {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "Story {{ replicas: {}, furnished: {}, order: {}, ops: vec![",
            self.replicas, self.furnished, self.order
        )?;
        for op in &self.ops {
            writeln!(f, "    Op::{op:?},")?;
        }
        f.write_str("] }")
    }
}

fn story() -> impl Strategy<Value = Story> {
    let order = prop_oneof![Just(0), Just(1), any::<u64>()];
    (3usize..=5, any::<bool>(), proptest::collection::vec(op(5), 1..60), order)
        .prop_map(|(replicas, furnished, ops, order)| Story { replicas, furnished, ops, order })
}

/// Lets all meet, and checks what must be true then. Returns the one tree.
fn agree(world: &mut World, order: u64) -> Vec<String> {
    world.settle();
    let tree = dump(&world.replicas[0]);
    let commits = commits(&world.replicas[0], &world.newcomer);
    world.inform_newcomer(&commits, order);
    for replica in world.replicas.iter().chain([&world.newcomer]) {
        let found = replica.volume.verify(false, &mut |_| ()).unwrap();
        assert_eq!(found.damages, 0, "{}: {:?}", replica.name, found.damage);
    }
    for replica in world.replicas[1..].iter().chain([&world.newcomer]) {
        let other = dump(replica);
        assert!(tree == other, "alice and {} differ:\n{}", replica.name, differences(&tree, &other));
    }
    let names = world.replicas.iter().map(|r| (r.device_id(), r.name.clone())).collect();
    let history = History::new(&commits, &world.replicas[0].user_keys());
    assert_eq!(history.broken_rule(), None);
    for replica in world.replicas.iter().chain([&world.newcomer]) {
        assert_eq!(history.disagrees(&replica.volume), None, "{}", replica.name);
        let shown = |r: &Replica| -> Vec<_> {
            let all = r.volume.snapshots().unwrap();
            all.iter().map(|s| (s.name.clone(), s.user.clone(), s.device, s.time)).collect()
        };
        assert_eq!(shown(replica), shown(&world.replicas[0]));
    }
    let text = |body: &ContentBody, _: &crypto::SymmetricKey| match &body.content.data {
        ContentData::Inline(bytes) => format!("{:?}", String::from_utf8_lossy(bytes)),
        ContentData::Tree { .. } => panic!("longer than the test's files"),
    };
    let mut reference = Reference::new(&history, &names, &text);
    let expected = reference.tree();
    assert!(tree == expected, "alice and the model differ:\n{}", differences(&tree, &expected));
    world.newcomer.salvage(order);
    for replica in world.replicas.iter().chain([&world.newcomer]) {
        assert_eq!(conflicts(replica), *reference.conflicts(), "{}", replica.name);
    }
    assert!(world.lost().is_empty(), "lost: {:?}; left:\n{}", world.lost(), tree.join("\n"));
    tree
}

/// The paths of names in conflict, with those of what shows beside them.
fn conflicts(replica: &Replica) -> BTreeMap<String, Vec<String>> {
    let found = replica.volume.conflicts(b"", usize::MAX).unwrap();
    assert_eq!((replica.volume.status().conflicts, found.more), (found.conflicts.len() as u64, 0));
    let paths = |conflict: &Conflict| {
        let directory = String::from_utf8_lossy(&conflict.directory).into_owned();
        let above = if directory.is_empty() { directory } else { format!("/{directory}") };
        let path = |name: &[u8]| format!("{above}/{}", String::from_utf8_lossy(name));
        let mut beside: Vec<String> = conflict.versions[1..].iter().map(|version| path(&version.name)).collect();
        beside.sort();
        (path(&conflict.versions[0].name), beside)
    };
    found.conflicts.iter().map(paths).collect()
}

fn run(story: &Story) {
    let mut world = World::new(story.replicas);
    if story.furnished {
        world.furnish();
    }
    for op in &story.ops {
        world.step(*op);
    }
    agree(&mut world, story.order);
}

/// Three replicas that know each other.
fn three() -> World {
    World::new(3)
}

#[test]
fn a_second_name_given_while_the_first_was_removed_and_the_file_edited() {
    let mut world = three();
    let [alice, bob, carol] = &world.replicas[..] else { unreachable!() };
    alice.write("a", b"base").unwrap();
    common::sync(alice, bob);
    common::sync(alice, carol);
    carol.link("a", "b").unwrap();
    bob.remove("a").unwrap();
    alice.write("a", b"edit").unwrap();
    let tree = agree(&mut world, 1);
    assert_eq!(tree.len(), 1, "{tree:?}");
    assert!(tree[0].starts_with("/b file \"edit\""), "{tree:?}");
}

#[test]
fn a_revived_file_outlives_an_edit_by_who_had_removed_it() {
    let mut world = three();
    let [alice, bob, _] = &world.replicas[..] else { unreachable!() };
    alice.write("f", b"base").unwrap();
    common::sync(alice, bob);
    alice.remove("f").unwrap();
    bob.write("f", b"bob's").unwrap();
    common::sync(alice, bob);
    assert_eq!(alice.read("f").unwrap(), b"bob's");
    alice.write("f", b"alice agrees").unwrap();
    let tree = agree(&mut world, 1);
    assert_eq!(tree.len(), 1, "{tree:?}");
    assert!(tree[0].starts_with("/f file \"alice agrees\""), "{tree:?}");
}

#[test]
fn a_conflict_entry_has_one_name_whatever_stood_in_its_way_meanwhile() {
    let mut world = three();
    let [_, bob, carol] = &world.replicas[..] else { unreachable!() };
    bob.write("c", b"base").unwrap();
    common::sync(bob, carol);
    // Bob's is the lesser of two versions.
    carol.write("pad", b"").unwrap();
    carol.volume.commit_now().unwrap();
    carol.write("c", b"carol's").unwrap();
    bob.write("c", b"bob's").unwrap();
    common::sync(bob, carol);
    let copy = "c (conflict of bob 2026-11-22 0915Z)";
    assert_eq!(bob.read(copy).unwrap(), b"bob's");
    // Carol makes another conflict with what bob writes now, while he moves his older copy away: it becomes a real
    // file of the copy's name, for as long as one call takes.
    carol.write("pad", b"").unwrap();
    carol.volume.commit_now().unwrap();
    carol.write("c", b"carol again").unwrap();
    bob.write("c", b"bob again").unwrap();
    bob.rename(copy, "d").unwrap();
    let tree = agree(&mut world, 1);
    assert!(tree.iter().any(|l| l.starts_with(&format!("/{copy} file \"bob again\""))), "{tree:?}");
}

#[test]
fn a_file_opened_before_another_version_came_keeps_the_version_it_was_opened_at() {
    let mut world = three();
    let [alice, bob, _] = &world.replicas[..] else { unreachable!() };
    alice.write("f", b"base.").unwrap();
    common::sync(alice, bob);
    alice.write("f", b"alice's.").unwrap();
    let mode = OpenMode { read: true, write: true, append: true, ..OpenMode::default() };
    let handle = alice.volume.open(alice.find("f").unwrap(), mode, &Caller::default()).unwrap();
    // Bob's is the greater of two versions that did not see each other.
    for pad in ["x", "y"] {
        bob.write(pad, b"").unwrap();
        bob.volume.commit_now().unwrap();
    }
    bob.write("f", b"bob's.").unwrap();
    common::sync(alice, bob);
    alice.volume.write(handle, 0, b"more.", &Caller::default()).unwrap();
    alice.close(handle).unwrap();
    let tree = agree(&mut world, 1);
    for content in ["alice's.more.", "bob's."] {
        assert!(tree.iter().any(|l| l.contains(&format!("file {content:?}"))), "{tree:#?}");
    }
}

#[test]
fn removing_a_directory_in_a_would_be_cycle_hides_nothing() {
    let mut world = three();
    let [alice, bob, _] = &world.replicas[..] else { unreachable!() };
    alice.mkdir("a").unwrap();
    alice.mkdir("b").unwrap();
    alice.mkdir("other").unwrap();
    alice.write("a/x", b"x").unwrap();
    alice.write("b/y", b"y").unwrap();
    common::sync(alice, bob);
    alice.rename("a", "b/a").unwrap();
    bob.rename("b", "a/b").unwrap();
    common::sync(alice, bob);
    // One hangs at the root with the other in it; the inner one is emptied and removed.
    let (outer, inner, file) = if alice.find("a/b").is_ok() { ("a", "b", "y") } else { ("b", "a", "x") };
    alice.remove(&format!("{outer}/{inner}/{file}")).unwrap();
    alice.rmdir(&format!("{outer}/{inner}")).unwrap();
    alice.rename("other", "another").unwrap();
    let tree = agree(&mut world, 1);
    assert_eq!(tree.len(), 3, "{tree:?}");
}

/// What a replica knows reaches another one, and nothing goes back.
fn tell(from: &Replica, to: &Replica) {
    from.volume.commit_now().unwrap();
    let session = to.volume.session(from.device_id());
    for commit in commits(from, to) {
        session.receive(Message::Commits(vec![commit.raw])).unwrap();
    }
}

fn holds(tree: &[String], content: &str) -> bool {
    tree.iter().any(|line| line.contains(&format!("file {content:?}")))
}

#[test]
fn a_file_removed_and_moved_and_then_removed_again_outlives_an_edit() {
    let mut world = three();
    let [alice, bob, _] = &world.replicas[..] else { unreachable!() };
    alice.write("f", b"base.").unwrap();
    common::sync(alice, bob);
    alice.remove("f").unwrap();
    bob.rename("f", "g").unwrap();
    tell(bob, alice);
    // Alice's removal lost to bob's move. Neither sees what the other does next.
    alice.write("g", b"edit.").unwrap();
    bob.remove("g").unwrap();
    let tree = agree(&mut world, 1);
    assert!(holds(&tree, "edit."), "{tree:#?}");
}

#[test]
fn a_file_whose_directory_was_removed_while_it_was_open_is_kept() {
    let mut world = three();
    let [alice, bob, _] = &world.replicas[..] else { unreachable!() };
    alice.mkdir("d").unwrap();
    alice.mkdir("d/e").unwrap();
    alice.write("d/e/f", b"base.").unwrap();
    common::sync(alice, bob);
    let mode = OpenMode { read: true, write: true, append: true, ..OpenMode::default() };
    let handle = alice.volume.open(alice.find("d/e/f").unwrap(), mode, &Caller::default()).unwrap();
    bob.remove("d/e/f").unwrap();
    bob.rmdir("d/e").unwrap();
    bob.rmdir("d").unwrap();
    common::sync(alice, bob);
    alice.volume.write(handle, 0, b"more.", &Caller::default()).unwrap();
    alice.close(handle).unwrap();
    let tree = agree(&mut world, 1);
    assert!(holds(&tree, "base.more."), "{tree:#?}");
}

#[test]
fn removing_a_file_that_shows_what_one_writes_keeps_what_others_wrote() {
    let mut world = three();
    let [alice, bob, _] = &world.replicas[..] else { unreachable!() };
    alice.write("f", b"base.").unwrap();
    common::sync(alice, bob);
    let mode = OpenMode { read: true, write: true, append: true, ..OpenMode::default() };
    let handle = alice.volume.open(alice.find("f").unwrap(), mode, &Caller::default()).unwrap();
    alice.volume.write(handle, 0, b"more.", &Caller::default()).unwrap();
    alice.volume.flush(handle).unwrap();
    for pad in ["x", "y"] {
        bob.write(pad, b"").unwrap();
        bob.volume.commit_now().unwrap();
    }
    bob.write("f", b"bob's.").unwrap();
    common::sync(alice, bob);
    assert_eq!(alice.read("f").unwrap(), b"base.more.");
    alice.remove("f").unwrap();
    alice.close(handle).unwrap();
    let tree = agree(&mut world, 1);
    assert!(holds(&tree, "bob's."), "{tree:#?}");
}

#[test]
fn a_directory_removed_with_one_that_was_moved_above_it_meanwhile_comes_back() {
    let mut world = three();
    let [alice, bob, _] = &world.replicas[..] else { unreachable!() };
    alice.mkdir("a").unwrap();
    alice.mkdir("b").unwrap();
    alice.write("a/f", b"f.").unwrap();
    common::sync(alice, bob);
    alice.rename("b", "a/b").unwrap();
    alice.rmdir("a/b").unwrap();
    alice.remove("a/f").unwrap();
    alice.rmdir("a").unwrap();
    bob.rename("a", "b/a").unwrap();
    bob.write("b/a/f", b"edit.").unwrap();
    let tree = agree(&mut world, 1);
    assert!(holds(&tree, "edit."), "{tree:#?}");
}

#[test]
fn a_removed_attribute_stays_removed_after_a_restart() {
    let mut world = three();
    let alice = &mut world.replicas[0];
    alice.write("f", b"f.").unwrap();
    let f = alice.find("f").unwrap();
    let caller = Caller::default();
    alice.volume.set_xattr(f, b"user.one", b"1", SetXattr::Any, &caller).unwrap();
    alice.volume.remove_xattr(f, b"user.one").unwrap();
    alice.restart(7);
    assert!(matches!(alice.volume.get_xattr(f, b"user.one"), Err(Error::NoAttribute)));
    assert!(alice.volume.list_xattrs(f).unwrap().is_empty());
    agree(&mut world, 1);
}

#[test]
fn what_is_in_a_directory_that_went_into_one_removed_meanwhile_is_kept() {
    let mut world = three();
    let [alice, bob, _] = &world.replicas[..] else { unreachable!() };
    alice.mkdir("a").unwrap();
    alice.mkdir("c").unwrap();
    common::sync(alice, bob);
    // Bob's removal of `a` saw his file, but not that it is in `a`; alice's saw that `c` is there, but not the file.
    alice.rename("c", "a/c").unwrap();
    alice.rmdir("a/c").unwrap();
    alice.rmdir("a").unwrap();
    bob.write("c/f", b"bob's.").unwrap();
    bob.rmdir("a").unwrap();
    let tree = agree(&mut world, 1);
    assert!(holds(&tree, "bob's."), "{tree:#?}");
}

#[test]
fn an_edited_file_that_went_into_a_directory_removed_meanwhile_is_kept() {
    let mut world = three();
    let [alice, bob, _] = &world.replicas[..] else { unreachable!() };
    alice.mkdir("a").unwrap();
    alice.write("f", b"base.").unwrap();
    common::sync(alice, bob);
    alice.rename("f", "a/f").unwrap();
    alice.remove("a/f").unwrap();
    alice.rmdir("a").unwrap();
    bob.write("f", b"edit.").unwrap();
    bob.rmdir("a").unwrap();
    let tree = agree(&mut world, 1);
    assert!(holds(&tree, "edit."), "{tree:#?}");
}

#[test]
fn a_move_outlives_a_removal_though_its_directory_went_while_another_move_won() {
    let mut world = three();
    let [alice, bob, carol] = &world.replicas[..] else { unreachable!() };
    alice.mkdir("a").unwrap();
    alice.write("f", b"base.").unwrap();
    common::sync(alice, bob);
    common::sync(alice, carol);
    alice.rename("f", "a/f").unwrap();
    // Bob's move is the greater of the two.
    for pad in ["x", "y"] {
        bob.write(pad, b"").unwrap();
        bob.volume.commit_now().unwrap();
    }
    bob.rename("f", "g").unwrap();
    tell(alice, carol);
    tell(bob, carol);
    carol.rmdir("a").unwrap();
    bob.remove("g").unwrap();
    let tree = agree(&mut world, 1);
    assert!(holds(&tree, "base."), "{tree:#?}");
}

/// Stories that went wrong once, as they were found.
fn told(replicas: usize, ops: Vec<Op>) {
    run(&Story { replicas, furnished: true, order: 0, ops });
}

#[test]
fn two_exchanges_merge_and_part_directories() {
    told(3, vec![Op::Exchange { r: 2, entry: 5, other: 2 }, Op::Exchange { r: 0, entry: 5, other: 3 }]);
}

#[test]
fn a_directory_merged_with_one_above_it_moves_on() {
    let ops = vec![
        Op::Overwrite { r: 0, file: 0 },
        Op::Exchange { r: 3, entry: 6, other: 0 },
        Op::Exchange { r: 4, entry: 2, other: 6 },
        Op::Mkdir { r: 3, dir: 3, name: 1 },
        Op::Exchange { r: 4, entry: 2, other: 4 },
    ];
    told(3, ops);
}

#[test]
fn the_time_of_a_directory_that_was_merged_for_a_while() {
    let ops = vec![
        Op::Exchange { r: 2, entry: 7, other: 2 },
        Op::Exchange { r: 3, entry: 7, other: 0 },
        Op::Mkdir { r: 4, dir: 0, name: 3 },
        Op::Exchange { r: 1, entry: 5, other: 0 },
        Op::Append { r: 1, file: 6 },
        Op::Mkdir { r: 1, dir: 0, name: 0 },
        Op::RemoveTree { r: 4, entry: 0 },
        Op::Rename { r: 4, entry: 0, dir: 3, name: 1 },
    ];
    told(4, ops);
}

#[test]
fn a_removed_directory_goes_once_what_hung_elsewhere_but_was_in_it_is_moved_away() {
    let ops = vec![
        Op::Mkdir { r: 0, dir: 0, name: 0 },
        Op::Chmod { r: 0, entry: 0, mode: 0 },
        Op::Mkdir { r: 2, dir: 0, name: 1 },
        Op::Sync { r: 0, with: 2 },
        Op::Sync { r: 2, with: 1 },
        Op::Rename { r: 0, entry: 0, dir: 2, name: 0 },
        Op::Sync { r: 0, with: 2 },
        Op::Rename { r: 1, entry: 1, dir: 1, name: 0 },
        Op::Remove { r: 2, entry: 5 },
        Op::Nest { r: 0, which: 0, into: 3, name: 2 },
    ];
    run(&Story { replicas: 5, furnished: false, order: 1, ops });
}

#[test]
fn a_file_made_in_a_large_directory_outlives_its_removal_in_one_commit() {
    let mut world = three();
    let [alice, bob, _] = &world.replicas[..] else { unreachable!() };
    // Several, since where a name stands among the others is chance.
    let directories: Vec<String> = (0..8).map(|d| format!("d{d}")).collect();
    let files: Vec<String> = directories.iter().flat_map(|d| (0..300).map(move |f| format!("{d}/{f}"))).collect();
    for directory in &directories {
        alice.mkdir(directory).unwrap();
    }
    for file in &files {
        alice.write(file, b"").unwrap();
    }
    common::sync(alice, bob);
    for file in &files {
        bob.remove(file).unwrap();
    }
    for directory in &directories {
        bob.rmdir(directory).unwrap();
        alice.write(&format!("{directory}/x"), b"new").unwrap();
    }
    let tree = agree(&mut world, 1);
    assert_eq!(tree.iter().filter(|line| line.contains("\"new\"")).count(), directories.len(), "{tree:#?}");
}

#[test]
fn trees_rearranged_and_removed_on_both_sides() {
    let ops = vec![
        Op::Chmod { r: 1, entry: 0, mode: 0 },
        Op::Exchange { r: 0, entry: 0, other: 6 },
        Op::Sync { r: 2, with: 1 },
        Op::Sync { r: 4, with: 1 },
        Op::Exchange { r: 2, entry: 1, other: 2 },
        Op::Mkdir { r: 2, dir: 1, name: 3 },
        Op::RenameOver { r: 0, entry: 0, other: 0 },
        Op::Rename { r: 0, entry: 1, dir: 0, name: 0 },
        Op::Rename { r: 0, entry: 3, dir: 0, name: 1 },
        Op::Append { r: 0, file: 0 },
        Op::Mkdir { r: 2, dir: 2, name: 0 },
        Op::Nest { r: 2, which: 5, into: 5, name: 1 },
        Op::RemoveTree { r: 2, entry: 6 },
        Op::RemoveTree { r: 0, entry: 1 },
        Op::Overwrite { r: 0, file: 0 },
    ];
    told(4, ops);
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn replicas_converge(story in story()) {
        run(&story);
    }
}
