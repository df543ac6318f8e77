//! Renaming, in all its modes.

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt,
};

use p2pfs_tests::{peer::Peer, tree::names};
use rustix::{
    fs::{CWD, Dir, Mode, OFlags, RenameFlags, renameat_with},
    io::Errno,
};

use super::{fails, links_of, refuses};

#[test]
fn a_name_that_is_taken_can_be_kept() {
    let peer = Peer::alone();
    fs::write(peer.at("a"), "a").unwrap();
    fs::write(peer.at("b"), "b").unwrap();
    fs::create_dir(peer.at("d")).unwrap();
    let keep = |to: &str| renameat_with(CWD, peer.at("a"), CWD, peer.at(to), RenameFlags::NOREPLACE);
    refuses(keep("b"), Errno::EXIST);
    refuses(keep("d"), Errno::EXIST);
    refuses(keep("a"), Errno::EXIST);
    assert_eq!(fs::read(peer.at("b")).unwrap(), b"b");
    keep("c").unwrap();
    assert_eq!(names(peer.root()), ["b", "c", "d"]);
}

#[test]
fn two_names_are_exchanged() {
    let peer = Peer::alone();
    fs::create_dir_all(peer.at("one/full")).unwrap();
    fs::create_dir(peer.at("two")).unwrap();
    fs::write(peer.at("two/file"), "content").unwrap();
    let exchange = |a: &str, b: &str| renameat_with(CWD, peer.at(a), CWD, peer.at(b), RenameFlags::EXCHANGE);
    // A folder that isn't empty, with a file, across folders: both parents' counts change.
    exchange("one/full", "two/file").unwrap();
    assert_eq!(fs::read(peer.at("one/full")).unwrap(), b"content");
    assert!(peer.at("two/file").is_dir());
    assert_eq!((links_of(&peer.at("one")), links_of(&peer.at("two"))), (2, 3));
    // Two folders that aren't empty.
    exchange("one", "two").unwrap();
    assert!(peer.at("one/file").is_dir() && peer.at("two/full").is_file());
    refuses(exchange("one", "none"), Errno::NOENT);
    refuses(exchange("one", "one/file"), Errno::INVAL);
    refuses(exchange("one/file", "one"), Errno::INVAL);
}

#[test]
fn unknown_modes_are_invalid() {
    let peer = Peer::alone();
    fs::write(peer.at("a"), "").unwrap();
    let both = RenameFlags::NOREPLACE | RenameFlags::EXCHANGE;
    refuses(renameat_with(CWD, peer.at("a"), CWD, peer.at("b"), both), Errno::INVAL);
    refuses(renameat_with(CWD, peer.at("a"), CWD, peer.at("b"), RenameFlags::WHITEOUT), Errno::INVAL);
    assert_eq!(names(peer.root()), ["a"]);
}

#[test]
fn a_folder_that_moves_changes_both_parents() {
    let peer = Peer::alone();
    fs::create_dir_all(peer.at("a/child")).unwrap();
    fs::create_dir(peer.at("b")).unwrap();
    fs::rename(peer.at("a/child"), peer.at("b/child")).unwrap();
    assert_eq!((links_of(&peer.at("a")), links_of(&peer.at("b"))), (2, 3));
    let dots = |path: &str| fs::metadata(peer.at(path)).unwrap().ino();
    assert_eq!(dots("b/child/.."), dots("b"));
}

#[test]
fn a_folder_never_moves_into_itself() {
    let peer = Peer::alone();
    fs::create_dir_all(peer.at("a/b/c")).unwrap();
    fails(fs::rename(peer.at("a"), peer.at("a/b/c/a")), Errno::INVAL);
    fails(fs::rename(peer.at("a"), peer.at("a/x")), Errno::INVAL);
    fails(fs::rename(peer.at("a/b/c"), peer.at("a")), Errno::NOTEMPTY);
}

#[test]
fn only_like_replaces_like() {
    let peer = Peer::alone();
    fs::write(peer.at("file"), "").unwrap();
    fs::create_dir(peer.at("empty")).unwrap();
    fs::create_dir_all(peer.at("full/x")).unwrap();
    fs::create_dir(peer.at("folder")).unwrap();
    fails(fs::rename(peer.at("file"), peer.at("empty")), Errno::ISDIR);
    fails(fs::rename(peer.at("folder"), peer.at("file")), Errno::NOTDIR);
    fails(fs::rename(peer.at("folder"), peer.at("full")), Errno::NOTEMPTY);
    fails(fs::rename(peer.at("none"), peer.at("file")), Errno::NOENT);
    let number = fs::metadata(peer.at("folder")).unwrap().ino();
    fs::rename(peer.at("folder"), peer.at("empty")).unwrap();
    assert_eq!(fs::metadata(peer.at("empty")).unwrap().ino(), number);
    assert_eq!(names(peer.root()), ["empty", "file", "full"]);
}

#[test]
fn two_links_of_one_file_both_stay() {
    let peer = Peer::alone();
    fs::write(peer.at("a"), "content").unwrap();
    fs::hard_link(peer.at("a"), peer.at("b")).unwrap();
    fs::rename(peer.at("a"), peer.at("b")).unwrap();
    assert_eq!(names(peer.root()), ["a", "b"], "POSIX: does nothing, and succeeds");
}

#[test]
fn the_replaced_link_is_counted_off() {
    let peer = Peer::alone();
    fs::write(peer.at("a"), "a").unwrap();
    fs::write(peer.at("b"), "b").unwrap();
    fs::hard_link(peer.at("b"), peer.at("b2")).unwrap();
    fs::rename(peer.at("a"), peer.at("b")).unwrap();
    assert_eq!(links_of(&peer.at("b2")), 1);
    assert_eq!(fs::read(peer.at("b2")).unwrap(), b"b");
}

/// Readers of a file that is replaced again and again always find one of its versions, whole.
#[test]
fn replacing_is_atomic_to_readers() {
    let peer = Peer::alone();
    let version = |n: u8| vec![n; 50_000];
    fs::write(peer.at("f"), version(0)).unwrap();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for n in 1..=200 {
                fs::write(peer.at("f.tmp"), version(n)).unwrap();
                fs::rename(peer.at("f.tmp"), peer.at("f")).unwrap();
            }
        });
        while !writer.is_finished() {
            let bytes = fs::read(peer.at("f")).unwrap();
            assert!(bytes == version(bytes[0]), "{} bytes, a mixture", bytes.len());
        }
    });
    assert!(fs::read(peer.at("f")).unwrap() == version(200));
}

#[test]
fn a_file_open_for_writing_moves_along() {
    let peer = Peer::alone();
    fs::create_dir(peer.at("d")).unwrap();
    let mut file = File::create(peer.at("f")).unwrap();
    fs::rename(peer.at("f"), peer.at("d/g")).unwrap();
    std::io::Write::write_all(&mut file, b"content").unwrap();
    drop(file);
    assert_eq!(fs::read(peer.at("d/g")).unwrap(), b"content");
}

#[test]
fn a_moved_folder_s_parent_is_the_new_one() {
    let peer = Peer::alone();
    fs::create_dir_all(peer.at("a/d/inner")).unwrap();
    fs::create_dir_all(peer.at("b/other")).unwrap();
    let inner = File::open(peer.at("a/d/inner")).unwrap();
    let number = |path: &str| fs::metadata(peer.at(path)).unwrap().ino();
    let listed = |path: &str| {
        let entries = Dir::read_from(File::open(peer.at(path)).unwrap()).unwrap();
        entries.map(Result::unwrap).find(|e| e.file_name().to_bytes() == b"..").unwrap().ino()
    };
    fs::rename(peer.at("a/d"), peer.at("b/d")).unwrap();
    assert_eq!((number("b/d/.."), listed("b/d")), (number("b"), number("b")));
    let exchange = |one, other| renameat_with(CWD, peer.at(one), CWD, peer.at(other), RenameFlags::EXCHANGE).unwrap();
    exchange("b/d", "a");
    assert_eq!((number("a/.."), listed("a")), (number("."), number(".")));
    assert_eq!((number("b/d/.."), listed("b/d")), (number("b"), number("b")));
    // Whoever is in it goes along.
    let up = rustix::fs::openat(&inner, "../..", OFlags::DIRECTORY, Mode::empty()).unwrap();
    assert_eq!(rustix::fs::fstat(up).unwrap().st_ino, number("."));
}
