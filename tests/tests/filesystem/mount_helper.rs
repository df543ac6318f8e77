//! `mount -t p2pfs`, with the helper from `scripts/`.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use p2pfs_tests::{
    binaries::program,
    peer::Peer,
    scraper::{free_address, scrape},
    scratch::Scratch,
    tool::succeed,
};
use rustix::io::Errno;

use super::fails;

/// As mount(8) calls it.
fn helper(peer: &Peer, options: &str) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/mount.p2pfs");
    let mut path = OsString::from(program("p2pfs").parent().unwrap());
    path.push(":");
    path.push(env::var_os("PATH").unwrap_or_default());
    let mut command = Command::new("sh");
    command.arg(script).arg(peer.home()).arg(peer.root()).args(["-n", "-o", options, "-t", "fuse.p2pfs"]);
    succeed(command.env("PATH", path));
}

/// What the system says is mounted there.
fn mounted_at(path: &Path) -> (PathBuf, String) {
    let line = succeed(Command::new("findmnt").args(["-rncvo", "SOURCE,FSTYPE"]).arg(path));
    let (source, kind) = line.trim_end().rsplit_once(' ').unwrap();
    (source.into(), kind.to_owned())
}

#[test]
fn two_volumes_are_mounted_under_names_of_their_own() {
    let scratch = Arc::new(Scratch::new());
    let peers = ["alice", "bob"].map(|name| Peer::new(&scratch, name));
    for peer in &peers {
        peer.init(&[]);
    }
    for round in ["first", "second"] {
        for peer in &peers {
            helper(peer, "rw,allow_other");
            assert_eq!(mounted_at(peer.root()), (peer.home().to_owned(), "fuse.p2pfs".to_owned()));
            fs::write(peer.at(round), peer.name()).unwrap();
        }
        for peer in &peers {
            succeed(Command::new("umount").arg(peer.root()));
        }
    }
    let [alice, _] = &peers;
    helper(alice, "ro,noatime");
    assert_eq!(fs::read(alice.at("first")).unwrap(), b"alice");
    fails(fs::write(alice.at("first"), "again"), Errno::ROFS);
    helper(alice, "remount,rw");
    fs::write(alice.at("second"), "again").unwrap();
    alice.run(["unmount"]);
}

#[test]
fn a_mount_of_fstab_can_be_watched_over() {
    let peer = Peer::new(&Arc::new(Scratch::new()), "alice");
    peer.init(&[]);
    let address = free_address();
    // At once again: the first one lets the port go as it ends.
    for _ in 0..3 {
        helper(&peer, &format!("allow_other,metrics={},on_alert=/bin/sh", address.port()));
        assert_eq!(scrape(address).sum("p2pfs_members", &[]), 1.0);
        succeed(Command::new("umount").arg(peer.root()));
    }
    helper(&peer, "allow_other");
    peer.run(["unmount"]);
}
