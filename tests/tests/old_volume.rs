//! What an earlier version wrote opens: a volume in `tests/fixtures/volume-1` mounts, and everything in it is as recorded.
//!
//! The volume is one that format version 1 wrote; it is never made anew while that version is read.
//! `P2PFS_WRITE_FIXTURE=1` makes it, with the programs of the day.

use std::{
    env, fs,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use p2pfs_tests::{peer::Peer, scratch::Scratch, tool::succeed};
use rustix::fs::{CWD, FileType, Mode, mknodat};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/volume-1").join(name)
}

/// FNV-1a: the same in all versions of everything.
fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// A line for everything below `root`: what it is and what is in it.
fn listing(root: &Path) -> String {
    let mut lines = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for found in fs::read_dir(&folder).unwrap() {
            let path = found.unwrap().path();
            let known = fs::symlink_metadata(&path).unwrap();
            let kind = known.file_type();
            let what = if kind.is_dir() {
                folders.push(path.clone());
                "folder".to_owned()
            } else if kind.is_symlink() {
                format!("link to {}", fs::read_link(&path).unwrap().display())
            } else if kind.is_fifo() {
                "fifo".to_owned()
            } else {
                let bytes = fs::read(&path).unwrap();
                format!("{} bytes {:016x} names {} time {}", bytes.len(), sum(&bytes), known.nlink(), known.mtime())
            };
            let mut attributes: Vec<String> = xattr::list(&path)
                .unwrap()
                .map(|name| {
                    let value = xattr::get(&path, &name).unwrap().unwrap();
                    format!(" {}={:016x}", name.display(), sum(&value))
                })
                .collect();
            attributes.sort();
            let name = path.strip_prefix(root).unwrap().display().to_string();
            lines.push(format!("{name}: {:o} {what}{}\n", known.mode() & 0o7777, attributes.concat()));
        }
    }
    lines.sort();
    lines.concat()
}

/// A little of everything.
fn furnish(peer: &Peer) {
    let bytes = |len: usize| (0..len).map(|i| (i * 7 % 251) as u8).collect::<Vec<u8>>();
    fs::create_dir_all(peer.at("folder/inner")).unwrap();
    fs::write(peer.at("empty"), "").unwrap();
    fs::write(peer.at("small"), "kept in the change itself").unwrap();
    fs::write(peer.at("folder/4097 bytes"), bytes(4097)).unwrap();
    fs::write(peer.at("folder/inner/200000 bytes"), bytes(200_000)).unwrap();
    let sparse = fs::File::create(peer.at("sparse")).unwrap();
    std::os::unix::fs::FileExt::write_at(&sparse, b"end", 20 << 20).unwrap();
    drop(sparse);
    fs::write(peer.at("grüße.txt"), "renamed").unwrap();
    fs::rename(peer.at("grüße.txt"), peer.at("folder/grüße, again.txt")).unwrap();
    fs::hard_link(peer.at("small"), peer.at("folder/small too")).unwrap();
    symlink("folder/inner", peer.at("link")).unwrap();
    mknodat(CWD, peer.at("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    xattr::set(peer.at("small"), "user.colour", b"red").unwrap();
    xattr::set(peer.at("small"), "user.gone", b"1").unwrap();
    xattr::remove(peer.at("small"), "user.gone").unwrap();
    fs::set_permissions(peer.at("folder/4097 bytes"), fs::Permissions::from_mode(0o750)).unwrap();
    fs::write(peer.at("removed"), "nobody sees this any more").unwrap();
    fs::remove_file(peer.at("removed")).unwrap();
    fs::write(peer.at("empty"), "written").unwrap();
    fs::write(peer.at("empty"), "").unwrap();
}

fn make() {
    let mut peer = Peer::new(&Arc::new(Scratch::new()), "alice");
    peer.init(&[]);
    peer.mount();
    furnish(&peer);
    fs::create_dir_all(fixture("")).unwrap();
    fs::write(fixture("listing.txt"), listing(peer.root())).unwrap();
    peer.unmount();
    let mut tar = Command::new("tar");
    tar.arg("-czf").arg(fixture("home.tar.gz")).args([
        "--sort=name",
        "--owner=0",
        "--group=0",
        "--exclude=*/log*",
        "-C",
    ]);
    succeed(tar.arg(peer.home()).arg("."));
}

#[test]
fn a_volume_of_format_1_opens_with_all_that_is_in_it() {
    if env::var_os("P2PFS_WRITE_FIXTURE").is_some() {
        make();
    }
    let mut peer = Peer::new(&Arc::new(Scratch::new()), "alice");
    succeed(
        Command::new("tar").arg("-xzf").arg(fixture("home.tar.gz")).args(["--no-same-owner", "-C"]).arg(peer.home()),
    );
    peer.mount();
    assert_eq!(listing(peer.root()), fs::read_to_string(fixture("listing.txt")).unwrap());
    // It goes on.
    fs::write(peer.at("folder/new"), "of today").unwrap();
    fs::rename(peer.at("folder"), peer.at("moved")).unwrap();
    peer.unmount();
    peer.mount();
    assert_eq!(fs::read(peer.at("moved/new")).unwrap(), b"of today");
}
