//! Whatever several replicas do apart, and however they meet: they end with one tree, it is the one that the rules
//! of the merged tree give, and nobody's work is lost.

mod common;
mod model;

use model::{
    op::{Op, op},
    world::{World, dump},
};
use proptest::prelude::*;

fn differences(a: &[String], b: &[String]) -> String {
    let only = |x: &[String], y: &[String], sign: &str| -> String {
        x.iter().filter(|l| !y.contains(l)).map(|l| format!("  {sign} {l}\n")).collect()
    };
    only(a, b, "-") + &only(b, a, "+")
}

fn run(replicas: usize, ops: &[Op]) {
    let mut world = World::new(replicas);
    for op in ops {
        world.step(*op);
    }
    world.settle();
    let tree = dump(&world.replicas[0]);
    for (r, replica) in world.replicas.iter().enumerate() {
        let other = dump(replica);
        assert!(tree == other, "alice and {} differ:\n{}", replica.name, differences(&tree, &other));
        assert!(world.lost(r).is_empty(), "lost: {:?}; left:\n{}", world.lost(r), tree.join("\n"));
    }
}

/// Three replicas that know each other.
fn three() -> World {
    World::new(3)
}

fn agree(world: &mut World) -> Vec<String> {
    world.settle();
    let tree = dump(&world.replicas[0]);
    for replica in &world.replicas[1..] {
        let other = dump(replica);
        assert!(tree == other, "alice and {} differ:\n{}", replica.name, differences(&tree, &other));
    }
    tree
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
    let tree = agree(&mut world);
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
    let tree = agree(&mut world);
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
    let tree = agree(&mut world);
    assert!(tree.iter().any(|l| l.starts_with(&format!("/{copy} file \"bob again\""))), "{tree:?}");
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
    let tree = agree(&mut world);
    assert_eq!(tree.len(), 3, "{tree:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn replicas_converge(ops in proptest::collection::vec(op(3), 1..40)) {
        run(3, &ops);
    }
}
