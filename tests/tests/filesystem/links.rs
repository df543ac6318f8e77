//! Hard links, symlinks and special files.

use std::{
    ffi::OsStr,
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileTypeExt, MetadataExt, symlink},
    },
};

use p2pfs_tests::{
    peer::Peer,
    tool::{git, shell},
};
use rustix::{
    fs::{CWD, FileType, Mode, mknodat},
    io::Errno,
};

use super::{fails, links_of};

#[test]
fn hard_links_are_one_file() {
    let peer = Peer::alone();
    fs::write(peer.at("a"), "content").unwrap();
    fs::create_dir(peer.at("d")).unwrap();
    fs::hard_link(peer.at("a"), peer.at("d/b")).unwrap();
    let (a, b) = (fs::metadata(peer.at("a")).unwrap(), fs::metadata(peer.at("d/b")).unwrap());
    assert_eq!((a.ino(), a.nlink(), a.len()), (b.ino(), 2, 7));
    assert_eq!(b.nlink(), 2);
    fs::write(peer.at("d/b"), "longer content").unwrap();
    assert_eq!(fs::read(peer.at("a")).unwrap(), b"longer content");
    assert_eq!(fs::metadata(peer.at("a")).unwrap().len(), 14);
    fs::set_permissions(peer.at("a"), std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
    assert_eq!(fs::metadata(peer.at("d/b")).unwrap().mode() & 0o777, 0o640);
    fs::remove_file(peer.at("a")).unwrap();
    assert_eq!(links_of(&peer.at("d/b")), 1);
    assert_eq!(fs::read(peer.at("d/b")).unwrap(), b"longer content");
}

#[test]
fn links_that_cannot_be_are_refused() {
    let peer = Peer::alone();
    fs::write(peer.at("f"), "").unwrap();
    fs::create_dir(peer.at("d")).unwrap();
    fails(fs::hard_link(peer.at("d"), peer.at("e")), Errno::PERM);
    fails(fs::hard_link(peer.at("f"), peer.at("d")), Errno::EXIST);
    fails(fs::hard_link(peer.at("none"), peer.at("e")), Errno::NOENT);
    fails(symlink("x", peer.at("f")), Errno::EXIST);
}

/// It links the objects, and believes in what stat tells of them.
#[test]
fn git_clones_a_repository_beside_itself() {
    let peer = Peer::alone();
    let repository = peer.at("one");
    fs::create_dir(&repository).unwrap();
    git(&repository, &["init", "-q"]);
    fs::write(repository.join("f"), "content").unwrap();
    git(&repository, &["add", "f"]);
    git(&repository, &["commit", "-qm", "first"]);
    git(peer.root(), &["clone", "-q", "one", "two"]);
    git(&peer.at("two"), &["fsck", "--strict"]);
    assert_eq!(git(&peer.at("two"), &["status", "--porcelain"]), "");
    assert_eq!(fs::read(peer.at("two/f")).unwrap(), b"content");
}

#[test]
fn a_symlink_holds_any_target() {
    let peer = Peer::alone();
    let long = "x".repeat(4095);
    for target in ["a", "nowhere/at/all", "../..", "with space\n", long.as_str()] {
        symlink(target, peer.at("l")).unwrap();
        assert_eq!(fs::read_link(peer.at("l")).unwrap().as_os_str(), target);
        let known = fs::symlink_metadata(peer.at("l")).unwrap();
        assert_eq!(known.len(), target.len() as u64, "its size is its target's length");
        fs::remove_file(peer.at("l")).unwrap();
    }
    let raw = OsStr::from_bytes(b"\xff\xfe/\x80");
    symlink(raw, peer.at("l")).unwrap();
    assert_eq!(fs::read_link(peer.at("l")).unwrap().as_os_str(), raw);
}

#[test]
fn symlinks_are_followed_and_loops_noticed() {
    let peer = Peer::alone();
    fs::create_dir(peer.at("d")).unwrap();
    fs::write(peer.at("d/f"), "content").unwrap();
    symlink("d", peer.at("l")).unwrap();
    assert_eq!(fs::read(peer.at("l/f")).unwrap(), b"content");
    symlink("loop", peer.at("loop")).unwrap();
    fails(fs::read(peer.at("loop")), Errno::LOOP);
    // A link to the link, not to where it leads.
    shell(peer.root(), "ln -P l again && test -L again");
    assert_eq!(links_of(&peer.at("l")), 2);
    fs::rename(peer.at("l"), peer.at("d/l")).unwrap();
    assert_eq!(fs::read_link(peer.at("d/l")).unwrap().as_os_str(), "d");
}

#[test]
fn pipes_and_sockets_work_where_they_are() {
    let peer = Peer::alone();
    mknodat(CWD, peer.at("pipe"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    assert!(fs::symlink_metadata(peer.at("pipe")).unwrap().file_type().is_fifo());
    assert_eq!(shell(peer.root(), "echo through >pipe & cat pipe; wait"), "through\n");
    let listener = std::os::unix::net::UnixListener::bind(peer.at("socket")).unwrap();
    assert!(fs::symlink_metadata(peer.at("socket")).unwrap().file_type().is_socket());
    std::os::unix::net::UnixStream::connect(peer.at("socket")).unwrap();
    listener.accept().unwrap();
    fs::remove_file(peer.at("pipe")).unwrap();
    fs::remove_file(peer.at("socket")).unwrap();
}
