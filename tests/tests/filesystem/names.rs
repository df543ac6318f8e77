//! Names, of every length and kind.

use std::{
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt, fs::symlink},
};

use p2pfs_tests::peer::Peer;
use rustix::io::Errno;

use super::fails;

#[test]
fn a_name_has_up_to_255_bytes() {
    let peer = Peer::alone();
    // Bytes, not characters.
    for longest in ["n".repeat(255), "é".repeat(127) + "e"] {
        fs::write(peer.at(&longest), "content").unwrap();
        assert_eq!(fs::read(peer.at(&longest)).unwrap(), b"content");
        let found = fs::read_dir(peer.root()).unwrap().any(|e| e.unwrap().file_name() == *longest);
        assert!(found, "listed as it is");
    }
    for too_long in ["n".repeat(256), "é".repeat(128), "n".repeat(1000), "n".repeat(4000)] {
        let path = peer.at(&too_long);
        fails(fs::write(&path, ""), Errno::NAMETOOLONG);
        fails(fs::metadata(&path), Errno::NAMETOOLONG);
        fails(fs::create_dir(&path), Errno::NAMETOOLONG);
        fails(symlink("x", &path), Errno::NAMETOOLONG);
        fails(fs::remove_file(&path), Errno::NAMETOOLONG);
        fails(fs::hard_link(peer.at("n".repeat(255)), &path), Errno::NAMETOOLONG);
        fails(fs::rename(peer.at("n".repeat(255)), &path), Errno::NAMETOOLONG);
    }
}

#[test]
fn a_name_is_any_bytes_but_a_slash() {
    let peer = Peer::alone();
    let all: Vec<u8> = (1..=255).filter(|b| *b != b'/').collect();
    let names: [&[u8]; 9] =
        [b"\xff\xfe\x80", b" ", b"-rf", b"new\nline", b"...", b".p2pfs-", b"caf\xc3\xa9", b"cafe\xcc\x81", &all];
    for name in names {
        fs::write(peer.at(OsStr::from_bytes(name)), name).unwrap();
    }
    let mut found: Vec<Vec<u8>> =
        fs::read_dir(peer.root()).unwrap().map(|e| e.unwrap().file_name().as_bytes().to_vec()).collect();
    found.sort();
    let mut expected: Vec<Vec<u8>> = names.map(<[u8]>::to_vec).to_vec();
    expected.sort();
    assert_eq!(found, expected);
    for name in names {
        assert_eq!(fs::read(peer.at(OsStr::from_bytes(name))).unwrap(), name);
    }
}

#[test]
fn case_matters() {
    let peer = Peer::alone();
    fs::write(peer.at("readme"), "small").unwrap();
    fs::write(peer.at("README"), "large").unwrap();
    assert_eq!(fs::read(peer.at("readme")).unwrap(), b"small");
    assert_eq!(fs::read(peer.at("README")).unwrap(), b"large");
}

#[test]
fn a_name_is_there_when_the_call_has_returned_and_gone_likewise() {
    let peer = Peer::alone();
    for round in 0..200 {
        let path = peer.at("f");
        // The kernel remembers that it isn't there; that must not outlive its coming.
        assert!(!path.exists(), "round {round}");
        fs::write(&path, "x").unwrap();
        assert!(path.exists(), "round {round}");
        fs::remove_file(&path).unwrap();
    }
}
