//! Files mapped into memory.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::FileExt,
    process::{Command, Stdio},
    thread,
};

use p2pfs_tests::{mapping::Mapping, peer::Peer, random::Random};
use rustix::io::Errno;

use super::fails;

const LEN: usize = 300_000;

fn open(peer: &Peer) -> File {
    File::options().read(true).write(true).open(peer.at("f")).unwrap()
}

#[test]
fn stores_arrive_in_the_file() {
    let mut peer = Peer::alone();
    let mut content = Random::new(1).bytes(LEN);
    fs::write(peer.at("f"), &content).unwrap();
    let file = open(&peer);
    let mut mapping = Mapping::new(&file, LEN).unwrap();
    assert!(mapping.read() == content);
    for offset in [0, 5_000, 131_071, LEN - 3] {
        mapping.store(offset, b"new");
        content[offset..offset + 3].copy_from_slice(b"new");
    }
    mapping.sync();
    assert!(fs::read(peer.at("f")).unwrap() == content, "to readers");
    drop((mapping, file));
    peer.unmount();
    peer.mount();
    assert!(fs::read(peer.at("f")).unwrap() == content, "after a restart");
}

/// The kernel writes what is mapped when it likes, also when the file was closed long ago.
#[test]
fn stores_after_close_arrive_too() {
    let mut peer = Peer::alone();
    fs::write(peer.at("f"), vec![1; LEN]).unwrap();
    let file = open(&peer);
    let mut mapping = Mapping::new(&file, LEN).unwrap();
    drop(file);
    mapping.store(200_000, b"late");
    drop(mapping);
    peer.unmount();
    peer.mount();
    let content = fs::read(peer.at("f")).unwrap();
    assert_eq!(content.len(), LEN);
    assert_eq!(&content[200_000..200_004], b"late");
}

#[test]
fn two_mappings_and_a_writer_see_one_file() {
    let peer = Peer::alone();
    fs::write(peer.at("f"), vec![1; LEN]).unwrap();
    let file = open(&peer);
    let mut one = Mapping::new(&file, LEN).unwrap();
    let other = Mapping::new(&File::options().read(true).write(true).open(peer.at("f")).unwrap(), LEN).unwrap();
    one.store(10, b"mapped");
    assert_eq!(&other.read()[10..16], b"mapped");
    file.write_all_at(b"written", 100_000).unwrap();
    assert_eq!(&one.read()[100_000..100_007], b"written");
}

#[test]
fn a_mapped_file_may_have_lost_its_name() {
    let peer = Peer::alone();
    fs::write(peer.at("f"), vec![1; LEN]).unwrap();
    let file = open(&peer);
    let mut mapping = Mapping::new(&file, LEN).unwrap();
    fs::remove_file(peer.at("f")).unwrap();
    mapping.store(0, b"still");
    mapping.sync();
    let mut bytes = [0; 5];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"still");
}

#[test]
fn programs_run_from_the_mount() {
    let peer = Peer::alone();
    fs::copy("/bin/true", peer.at("program")).unwrap();
    p2pfs_tests::tool::shell(peer.root(), "chmod 755 program && ./program");
}

#[test]
fn a_running_program_is_not_written_to() {
    let peer = Peer::alone();
    let path = peer.at("program");
    fs::copy("/bin/cat", &path).unwrap();
    let length = fs::metadata(&path).unwrap().len();
    // It runs until its input ends.
    let mut program = Command::new(&path).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    fails(File::options().write(true).open(&path), Errno::TXTBSY);
    fails(File::options().write(true).truncate(true).open(&path), Errno::TXTBSY);
    assert_eq!(fs::metadata(&path).unwrap().len(), length);
    program.stdin.take().unwrap().write_all(b"still well").unwrap();
    assert_eq!(program.wait_with_output().unwrap().stdout, b"still well");
    File::options().write(true).open(&path).unwrap();
}

/// The kernel sends what was stored when it likes, also while the file is emptied by opening it.
#[test]
fn a_store_before_the_file_was_emptied_makes_it_no_longer() {
    let peer = Peer::alone();
    let path = peer.at("f");
    for round in 0..100 {
        fs::write(&path, vec![1; 8192]).unwrap();
        let file = open(&peer);
        let mut mapping = Mapping::new(&file, 8192).unwrap();
        mapping.store(round % 8192, b"x");
        thread::scope(|scope| {
            scope.spawn(|| file.sync_data().unwrap());
            let emptied = File::options().write(true).truncate(true).open(&path).unwrap();
            assert_eq!(emptied.metadata().unwrap().len(), 0, "round {round}");
        });
        assert_eq!(file.metadata().unwrap().len(), 0, "round {round}");
        drop((mapping, file));
        assert_eq!(fs::read(&path).unwrap(), b"", "round {round}");
    }
}
