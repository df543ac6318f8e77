//! Sparse files: where there is data, where there is none, and making either.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{FileExt, MetadataExt},
};

use p2pfs_tests::peer::Peer;
use rustix::{
    fs::{FallocateFlags, SeekFrom, fallocate, seek},
    io::Errno,
};

use super::{fails, refuses};

/// At least a stored block, and a multiple of every block size that files may be cut into.
const MIB: u64 = 1 << 20;

fn new(peer: &Peer) -> File {
    File::options().read(true).write(true).create(true).truncate(true).open(peer.at("f")).unwrap()
}

fn read(file: &File, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0xaa; len];
    file.read_exact_at(&mut bytes, offset).unwrap();
    bytes
}

#[test]
fn what_was_cut_off_comes_back_as_zeros() {
    let peer = Peer::alone();
    let file = new(&peer);
    // Inside a page, at a page's end, in another block; whether cut bytes were stored already or not.
    for (len, cut, sync) in [(100, 10, false), (10_000, 4096, true), (300_000, 131_073, false), (300_000, 1, true)] {
        file.set_len(0).unwrap();
        file.write_all_at(&vec![7; len], 0).unwrap();
        if sync {
            file.sync_all().unwrap();
        }
        file.set_len(cut).unwrap();
        assert_eq!(file.metadata().unwrap().len(), cut);
        file.set_len(len as u64 + 50_000).unwrap();
        let bytes = read(&file, 0, len + 50_000);
        assert!(bytes[..cut as usize].iter().all(|b| *b == 7), "what stays, {len} {cut}");
        assert!(bytes[cut as usize..].iter().all(|b| *b == 0), "what was cut, {len} {cut}");
    }
}

#[test]
fn a_write_far_out_leaves_a_hole() {
    let peer = Peer::alone();
    let file = new(&peer);
    file.write_all_at(b"end", 100 * MIB).unwrap();
    drop(file);
    let file = File::open(peer.at("f")).unwrap();
    let known = file.metadata().unwrap();
    assert_eq!(known.len(), 100 * MIB + 3);
    assert!(known.blocks() * 512 < 2 * MIB, "{} blocks", known.blocks());
    assert!(read(&file, 50 * MIB, 100_000).iter().all(|b| *b == 0));
    assert_eq!(read(&file, 100 * MIB, 3), b"end");
}

#[test]
fn data_and_holes_are_found() {
    let peer = Peer::alone();
    let file = new(&peer);
    file.write_all_at(&vec![1; MIB as usize], MIB).unwrap();
    file.write_all_at(&vec![1; MIB as usize], 5 * MIB).unwrap();
    file.set_len(8 * MIB).unwrap();
    let check = |file: &File| {
        let data = |from| seek(file, SeekFrom::Data(from));
        let hole = |from| seek(file, SeekFrom::Hole(from));
        assert_eq!(data(0), Ok(MIB));
        assert_eq!(data(MIB + 5), Ok(MIB + 5));
        assert_eq!(hole(0), Ok(0));
        assert_eq!(hole(MIB), Ok(2 * MIB));
        assert_eq!(data(2 * MIB), Ok(5 * MIB));
        assert_eq!(hole(5 * MIB), Ok(6 * MIB));
        refuses(data(6 * MIB), Errno::NXIO);
        refuses(data(8 * MIB), Errno::NXIO);
        refuses(hole(8 * MIB), Errno::NXIO);
        refuses(data(9 * MIB), Errno::NXIO);
    };
    check(&file);
    file.sync_all().unwrap();
    check(&file);
    drop(file);
    check(&File::open(peer.at("f")).unwrap());
}

#[test]
fn a_file_without_holes_ends_in_one() {
    let peer = Peer::alone();
    let file = new(&peer);
    file.write_all_at(b"abc", 0).unwrap();
    assert_eq!(seek(&file, SeekFrom::Hole(0)), Ok(3));
    assert_eq!(seek(&file, SeekFrom::Data(2)), Ok(2));
    refuses(seek(&file, SeekFrom::Data(3)), Errno::NXIO);
}

#[test]
fn allocating_makes_a_file_longer_or_not() {
    let peer = Peer::alone();
    let file = new(&peer);
    file.write_all_at(b"abc", 0).unwrap();
    fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 100_000).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 3);
    fallocate(&file, FallocateFlags::empty(), 0, 100_000).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 100_000);
    let bytes = read(&file, 0, 100_000);
    assert_eq!(&bytes[..3], b"abc");
    assert!(bytes[3..].iter().all(|b| *b == 0));
    // Shorter than it is: it stays.
    fallocate(&file, FallocateFlags::empty(), 0, 10).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 100_000);
}

#[test]
fn a_punched_hole_reads_as_zeros_and_takes_no_room() {
    let peer = Peer::alone();
    let file = new(&peer);
    file.write_all_at(&vec![7; 4 * MIB as usize], 0).unwrap();
    file.sync_all().unwrap();
    let before = file.metadata().unwrap().blocks();
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&file, punch, MIB, 2 * MIB).unwrap();
    // Uneven ends within blocks as well.
    fallocate(&file, punch, 100, 50).unwrap();
    fallocate(&file, punch, 4 * MIB - 10, 1000).unwrap();
    let known = file.metadata().unwrap();
    assert_eq!(known.len(), 4 * MIB);
    assert!(known.blocks() * 512 <= before * 512 - 2 * MIB, "{before} blocks, then {}", known.blocks());
    assert_eq!(seek(&file, SeekFrom::Hole(0)).unwrap(), MIB);
    let bytes = read(&file, 0, 4 * MIB as usize);
    for (offset, byte) in (0..).zip(bytes) {
        let zero = (MIB..3 * MIB).contains(&offset) || (100..150).contains(&offset) || offset >= 4 * MIB - 10;
        assert_eq!(byte, if zero { 0 } else { 7 }, "at {offset}");
    }
}

#[test]
fn a_zeroed_range_reads_as_zeros() {
    let peer = Peer::alone();
    let file = new(&peer);
    file.write_all_at(&[7; 10_000], 0).unwrap();
    match fallocate(&file, FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE, 5_000, 100_000) {
        Ok(()) => {
            assert_eq!(file.metadata().unwrap().len(), 10_000);
            fallocate(&file, FallocateFlags::ZERO_RANGE, 5_000, 100_000).unwrap();
            assert_eq!(file.metadata().unwrap().len(), 105_000);
            let bytes = read(&file, 0, 105_000);
            assert!(bytes[..5_000].iter().all(|b| *b == 7) && bytes[5_000..].iter().all(|b| *b == 0));
        }
        // Allowed, as long as nothing changed.
        Err(e) => {
            assert_eq!(e, Errno::OPNOTSUPP);
            assert_eq!(read(&file, 0, 10_000), [7; 10_000]);
        }
    }
}

#[test]
fn other_allocations_are_not_supported() {
    let peer = Peer::alone();
    let file = new(&peer);
    file.write_all_at(&[7; 20_000], 0).unwrap();
    for mode in [FallocateFlags::COLLAPSE_RANGE, FallocateFlags::INSERT_RANGE] {
        refuses(fallocate(&file, mode, 0, 4096), Errno::OPNOTSUPP);
    }
    assert_eq!(read(&file, 0, 20_000), [7; 20_000]);
}

#[test]
fn sizes_beyond_all_bounds_are_refused() {
    let peer = Peer::alone();
    let file = new(&peer);
    file.set_len(1 << 40).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 1 << 40);
    fails(file.set_len(i64::MAX as u64), Errno::FBIG);
    file.write_all_at(b"x", (1 << 40) - 1).unwrap();
    assert_eq!(read(&file, (1 << 40) - 1, 1), b"x");
    let far: io::Result<usize> = file.write_at(b"x", i64::MAX as u64 - 1);
    fails(far, Errno::FBIG);
    fs::remove_file(peer.at("f")).unwrap();
}

#[test]
fn cp_keeps_holes() {
    let peer = Peer::alone();
    let file = new(&peer);
    file.write_all_at(b"end", 64 * MIB).unwrap();
    drop(file);
    p2pfs_tests::tool::shell(peer.root(), "cp --sparse=auto --reflink=never f g && cmp f g");
    let known = fs::metadata(peer.at("g")).unwrap();
    assert!(known.blocks() * 512 < 2 * MIB, "{} blocks", known.blocks());
}
