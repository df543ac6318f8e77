//! Files that are open while their names, sizes or modes change.

use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom, Write},
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    thread,
};

use p2pfs_tests::{patience::eventually, peer::Peer};
use rustix::io::Errno;

use crate::fails;

#[test]
fn an_unlinked_open_file_goes_on_without_a_name() {
    let peer = Peer::alone();
    let path = peer.at("f");
    let mut file = File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
    file.write_all(b"before").unwrap();
    fs::remove_file(&path).unwrap();
    assert!(!path.exists());
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    file.write_all(b" and after").unwrap();
    file.sync_all().unwrap();
    file.set_len(12).unwrap();
    file.rewind().unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "before and a");
    // The name is free, and another file's.
    fs::write(&path, "new").unwrap();
    assert_ne!(file.metadata().unwrap().ino(), fs::metadata(&path).unwrap().ino());
    drop(file);
    assert_eq!(fs::read(&path).unwrap(), b"new");
}

#[test]
fn a_large_unlinked_file_stays_whole() {
    let peer = Peer::alone();
    let path = peer.at("f");
    let content: Vec<u8> = (0..5_000_000_u32).map(|i| (i % 251) as u8).collect();
    fs::write(&path, &content).unwrap();
    let mut file = File::open(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let mut read = Vec::new();
    file.read_to_end(&mut read).unwrap();
    assert!(read == content);
}

#[test]
fn a_file_that_is_replaced_goes_on_for_those_who_have_it_open() {
    let peer = Peer::alone();
    fs::write(peer.at("old"), "old content").unwrap();
    let mut reader = File::open(peer.at("old")).unwrap();
    let writer = File::options().write(true).open(peer.at("old")).unwrap();
    fs::write(peer.at("new"), "new content").unwrap();
    fs::rename(peer.at("new"), peer.at("old")).unwrap();
    writer.write_all_at(b"OLD", 0).unwrap();
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "OLD content");
    assert_eq!(reader.metadata().unwrap().nlink(), 0);
    assert_eq!(fs::read(peer.at("old")).unwrap(), b"new content");
}

#[test]
fn appending_writers_never_overwrite_each_other() {
    const WRITERS: usize = 4;
    const LINES: usize = 500;
    let peer = Peer::alone();
    let path = peer.at("log");
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let path = &path;
            scope.spawn(move || {
                let mut file = File::options().append(true).create(true).open(path).unwrap();
                for line in 0..LINES {
                    file.write_all(format!("writer {writer} line {line:04}\n").as_bytes()).unwrap();
                }
            });
        }
    });
    let text = fs::read_to_string(&path).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), WRITERS * LINES);
    lines.sort_unstable();
    lines.dedup();
    assert_eq!(lines.len(), WRITERS * LINES, "each line once");
}

#[test]
fn appending_ignores_where_the_file_stands() {
    let peer = Peer::alone();
    fs::write(peer.at("f"), "one").unwrap();
    let mut file = File::options().read(true).append(true).open(peer.at("f")).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.write_all(b"two").unwrap();
    assert_eq!(file.stream_position().unwrap(), 6);
    assert_eq!(fs::read(peer.at("f")).unwrap(), b"onetwo");
}

#[test]
fn two_handles_see_each_others_writes_at_once() {
    let peer = Peer::alone();
    let one = File::options().read(true).write(true).create_new(true).open(peer.at("f")).unwrap();
    let other = File::options().read(true).write(true).open(peer.at("f")).unwrap();
    one.write_all_at(b"abc", 0).unwrap();
    let mut buffer = [0; 3];
    other.read_exact_at(&mut buffer, 0).unwrap();
    assert_eq!(&buffer, b"abc");
    other.write_all_at(b"xyz", 200_000).unwrap();
    assert_eq!(one.metadata().unwrap().len(), 200_003);
    assert_eq!(fs::metadata(peer.at("f")).unwrap().len(), 200_003);
    one.set_len(1).unwrap();
    assert_eq!(other.metadata().unwrap().len(), 1);
}

#[test]
fn a_read_only_file_may_be_created_and_written() {
    let peer = Peer::alone();
    let mut file = File::options().write(true).create_new(true).mode(0o444).open(peer.at("f")).unwrap();
    file.write_all(b"content").unwrap();
    drop(file);
    assert_eq!(fs::read(peer.at("f")).unwrap(), b"content");
    assert_eq!(fs::metadata(peer.at("f")).unwrap().mode() & 0o7777, 0o444);
}

#[test]
fn creating_exclusively_is_refused_for_every_kind_of_name() {
    let peer = Peer::alone();
    fs::write(peer.at("file"), "").unwrap();
    fs::create_dir(peer.at("folder")).unwrap();
    std::os::unix::fs::symlink("nowhere", peer.at("link")).unwrap();
    for name in ["file", "folder", "link"] {
        fails(File::options().write(true).create_new(true).open(peer.at(name)), Errno::EXIST);
    }
    fails(File::options().write(true).open(peer.at("folder")), Errno::ISDIR);
    fails(File::open(peer.at("none")), Errno::NOENT);
    fails(File::open(peer.at("file/below")), Errno::NOTDIR);
}

#[test]
fn opening_with_truncation_empties_once() {
    let peer = Peer::alone();
    fs::write(peer.at("f"), vec![7; 300_000]).unwrap();
    let other = File::open(peer.at("f")).unwrap();
    let mut file = File::create(peer.at("f")).unwrap();
    assert_eq!(other.metadata().unwrap().len(), 0);
    file.write_all(b"new").unwrap();
    drop(file);
    assert_eq!(fs::read(peer.at("f")).unwrap(), b"new");
}

#[test]
fn writing_clears_the_set_user_id_bit() {
    let peer = Peer::system();
    let folder = peer.at("d");
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, PermissionsExt::from_mode(0o777)).unwrap();
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().mode() & 0o7777;
    // By its owner, who is not root: root keeps the bits.
    let line = "for how in write truncate chown; do touch $how; chmod 6755 $how; done
        echo x >>write; truncate -s 5 truncate";
    p2pfs_tests::tool::succeed(
        std::os::unix::process::CommandExt::gid(
            std::os::unix::process::CommandExt::uid(&mut std::process::Command::new("bash"), 1234),
            1234,
        )
        .args(["-euc", line])
        .current_dir(&folder),
    );
    assert_eq!(mode(&folder.join("write")), 0o755);
    assert_eq!(mode(&folder.join("truncate")), 0o755);
    std::os::unix::fs::chown(folder.join("chown"), Some(4321), Some(4321)).unwrap();
    assert_eq!(mode(&folder.join("chown")), 0o755);
}

/// Publishing while a file stays open must not take anything from those who have it open.
#[test]
fn a_long_open_file_keeps_its_place_and_content() {
    let peer = Peer::alone();
    let mut file = File::options().read(true).write(true).create_new(true).open(peer.at("f")).unwrap();
    let commits = || peer.listing("status")["commits"].as_u64().unwrap();
    let before = commits();
    let mut content = Vec::new();
    for part in 0..40_u8 {
        let bytes = vec![part; 10_000];
        file.write_all(&bytes).unwrap();
        content.extend_from_slice(&bytes);
        thread::sleep(std::time::Duration::from_millis(60));
    }
    eventually("it is published while open", || {
        p2pfs_tests::patience::holds(commits() > before, || format!("still {before} commits"))
    });
    assert_eq!(file.stream_position().unwrap(), content.len() as u64);
    file.rewind().unwrap();
    let mut read = Vec::new();
    file.read_to_end(&mut read).unwrap();
    assert!(read == content);
}
