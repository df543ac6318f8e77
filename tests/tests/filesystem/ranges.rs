//! `copy_file_range`, and what `statfs` tells.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    time::Instant,
};

use p2pfs_tests::{peer::Peer, random::Random};
use rustix::fs::{copy_file_range, statvfs};

fn copy(peer: &Peer, from: &str, at: u64, to: &str, to_at: u64, len: usize) -> usize {
    let from = File::open(peer.at(from)).unwrap();
    let to = File::options().write(true).create(true).truncate(false).open(peer.at(to)).unwrap();
    let (mut at, mut to_at) = (at, to_at);
    let mut copied = 0;
    while copied < len {
        match copy_file_range(&from, Some(&mut at), &to, Some(&mut to_at), len - copied).unwrap() {
            0 => break,
            more => copied += more,
        }
    }
    copied
}

#[test]
fn ranges_are_copied_at_any_offset() {
    let peer = Peer::alone();
    let content = Random::new(1).bytes(1_000_000);
    fs::write(peer.at("f"), &content).unwrap();
    for (at, to_at, len) in [(0, 0, 1_000_000), (131_072, 131_072, 262_144), (1, 70_000, 500_001), (999_999, 3, 500)] {
        let mut expected = vec![9; 1_200_000];
        fs::write(peer.at("g"), &expected).unwrap();
        let copied = copy(&peer, "f", at, "g", to_at, len);
        assert_eq!(copied, len.min(1_000_000 - at as usize));
        expected[to_at as usize..][..copied].copy_from_slice(&content[at as usize..][..copied]);
        assert!(fs::read(peer.at("g")).unwrap() == expected, "{at} {to_at} {len}");
    }
}

#[test]
fn a_copy_and_its_original_are_apart() {
    let peer = Peer::alone();
    let content = Random::new(2).bytes(400_000);
    fs::write(peer.at("f"), &content).unwrap();
    copy(&peer, "f", 0, "g", 0, 400_000);
    File::options().write(true).open(peer.at("f")).unwrap().write_all_at(b"changed", 200_000).unwrap();
    assert!(fs::read(peer.at("g")).unwrap() == content);
    fs::remove_file(peer.at("f")).unwrap();
    assert!(fs::read(peer.at("g")).unwrap() == content);
}

#[test]
fn a_range_is_copied_within_one_file() {
    let peer = Peer::alone();
    let content = Random::new(3).bytes(300_000);
    fs::write(peer.at("f"), &content).unwrap();
    copy(&peer, "f", 0, "f", 300_000, 300_000);
    assert!(fs::read(peer.at("f")).unwrap() == [content.as_slice(), &content].concat());
}

#[test]
fn what_is_not_saved_yet_is_copied_too() {
    let peer = Peer::alone();
    let from = File::options().read(true).write(true).create_new(true).open(peer.at("f")).unwrap();
    from.write_all_at(&[5; 200_000], 0).unwrap();
    let to = File::create(peer.at("g")).unwrap();
    let mut copied = 0;
    while copied < 200_000 {
        copied += copy_file_range(&from, Some(&mut (copied as u64)), &to, Some(&mut (copied as u64)), 200_000).unwrap();
    }
    drop(to);
    assert!(fs::read(peer.at("g")).unwrap() == [5; 200_000]);
}

/// Blocks are shared, not copied.
#[test]
fn copying_a_large_file_takes_no_time() {
    let peer = Peer::alone();
    let file = File::create(peer.at("f")).unwrap();
    let mut random = Random::new(4);
    for part in 0..256 {
        file.write_all_at(&random.bytes(1 << 20), part << 20).unwrap();
    }
    drop(file);
    let start = Instant::now();
    assert_eq!(copy(&peer, "f", 0, "g", 0, 256 << 20), 256 << 20);
    let took = start.elapsed();
    assert!(took.as_millis() < 500, "256 MiB took {took:?}");
    p2pfs_tests::tool::shell(peer.root(), "cmp f g");
}

#[test]
fn the_file_system_tells_of_itself() {
    let peer = Peer::alone();
    let here = statvfs(peer.root()).unwrap();
    let below = statvfs(peer.home()).unwrap();
    assert_eq!(here.f_namemax, 255);
    assert!(here.f_bsize >= 512 && here.f_frsize >= 512);
    let bytes = |blocks: u64, size: u64| blocks * size;
    let (total, real) = (bytes(here.f_blocks, here.f_frsize), bytes(below.f_blocks, below.f_frsize));
    assert!(total > 0 && total.abs_diff(real) <= real / 100, "{total} against the disk's {real}");
    assert!(here.f_bavail > 0 && here.f_bavail <= here.f_bfree && here.f_bfree <= here.f_blocks);
    let (free, real) = (bytes(here.f_bavail, here.f_frsize), bytes(below.f_bavail, below.f_frsize));
    assert!(free.abs_diff(real) <= real / 20, "{free} against the disk's {real}");
}
