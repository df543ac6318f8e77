//! Files with many names and many attributes: what a call costs does not follow from how many there are.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use p2pfs_tests::peer::Peer;

use super::links_of;

const NAMES: usize = 2000;
const ATTRIBUTES: usize = 1000;
/// Calls that are measured.
const SOME: usize = 500;
/// How much longer a call may take on the file with many than on one with few. (It takes as long.)
const FACTOR: u32 = 3;

/// Does `many` with all of `numbers`, and by turns with the last of them `few`. Both are made on a machine that does
/// other things too: what counts is the call in the middle of each kind.
fn by_turns(what: &str, numbers: impl ExactSizeIterator<Item = usize>, many: impl Fn(usize), few: impl Fn(usize)) {
    let time = |call: &dyn Fn(usize), number| {
        let began = Instant::now();
        call(number);
        began.elapsed()
    };
    let (mut of_many, mut of_few) = (Vec::new(), Vec::new());
    let unmeasured = numbers.len() - SOME;
    for (turn, number) in numbers.enumerate() {
        of_many.push(time(&many, number));
        if let Some(turn) = turn.checked_sub(unmeasured) {
            of_few.push(time(&few, turn));
        }
    }
    let middle = |times: &mut [Duration]| *times.select_nth_unstable(SOME / 2).1;
    let (many, few) = (middle(&mut of_many[unmeasured..]), middle(&mut of_few));
    assert!(many < few * FACTOR, "{what}: {many:?}, against {few:?} where there are few");
}

fn with_files() -> Peer {
    let peer = Peer::alone();
    fs::create_dir(peer.at("few")).unwrap();
    fs::create_dir(peer.at("names")).unwrap();
    for i in 0..SOME {
        fs::write(peer.at(format!("few/{i}")), "").unwrap();
    }
    fs::write(peer.at("many"), "content").unwrap();
    peer
}

#[test]
fn names_of_one_file_cost_the_same_however_many_there_are() {
    let mut peer = with_files();
    let root = peer.root().to_owned();
    let name = |i: usize| -> PathBuf { root.join(format!("names/{i}")) };
    let few = |i: usize| -> PathBuf { root.join(format!("few/{i}")) };
    let other = |i: usize| -> PathBuf { root.join(format!("names/few {i}")) };
    let link = |i: usize| fs::hard_link(root.join("many"), name(i)).unwrap();
    by_turns("link", 0..NAMES, link, |i| fs::hard_link(few(i), other(i)).unwrap());
    assert_eq!(links_of(&peer.at("many")), NAMES as u64 + 1);
    peer.kill9();
    peer.mount();
    assert_eq!(links_of(&name(0)), NAMES as u64 + 1);
    assert_eq!(fs::read_dir(peer.at("names")).unwrap().count(), NAMES + SOME);
    assert_eq!(fs::read(name(NAMES - 1)).unwrap(), b"content");
    let removed = NAMES - SOME;
    by_turns(
        "unlink",
        (SOME..NAMES).rev(),
        |i| fs::remove_file(name(i)).unwrap(),
        |i| fs::remove_file(other(i)).unwrap(),
    );
    peer.remount();
    assert_eq!(links_of(&peer.at("many")), (NAMES - removed) as u64 + 1);
    assert_eq!(fs::read_dir(peer.at("names")).unwrap().count(), SOME);
    // Where all names are removed the last one still shows what it is.
    (0..SOME).for_each(|i| fs::remove_file(name(i)).unwrap());
    assert_eq!(links_of(&peer.at("many")), 1);
    fs::rename(peer.at("many"), peer.at("moved")).unwrap();
    assert_eq!(fs::read(peer.at("moved")).unwrap(), b"content");
    fs::remove_file(peer.at("moved")).unwrap();
    assert!(peer.run(["verify"]).contains("no damage"));
}

#[test]
fn names_that_were_removed_cost_nothing() {
    let peer = with_files();
    let lock = peer.at("lock");
    let other = |i: usize| peer.at(format!("names/{i}"));
    let turn = |_: usize| {
        fs::hard_link(peer.at("many"), &lock).unwrap();
        fs::remove_file(&lock).unwrap();
    };
    let few = |i: usize| {
        fs::hard_link(peer.at(format!("few/{i}")), other(i)).unwrap();
        fs::remove_file(other(i)).unwrap();
    };
    by_turns("link and unlink", 0..3000, turn, few);
    assert_eq!(links_of(&peer.at("many")), 1);
}

#[test]
fn attributes_of_one_file_cost_the_same_however_many_there_are() {
    let mut peer = with_files();
    let root = peer.root().to_owned();
    let name = |i: usize| format!("user.attribute {i}");
    let set = |i: usize| xattr::set(root.join("many"), name(i), &[7; 20]).unwrap();
    by_turns("setxattr", 0..ATTRIBUTES, set, |i| xattr::set(root.join(format!("few/{i}")), name(i), &[7; 20]).unwrap());
    peer.kill9();
    peer.mount();
    assert_eq!(xattr::list(peer.at("many")).unwrap().count(), ATTRIBUTES);
    for i in 0..ATTRIBUTES {
        assert_eq!(xattr::get(root.join("many"), name(i)).unwrap().unwrap(), [7; 20]);
    }
    let remove = |i: usize| xattr::remove(root.join("many"), name(i)).unwrap();
    let few = |i: usize| xattr::remove(root.join(format!("few/{i}")), name(i)).unwrap();
    by_turns("removexattr", (0..ATTRIBUTES).rev(), remove, few);
    peer.remount();
    assert_eq!(xattr::list(peer.at("many")).unwrap().count(), 0);
}
