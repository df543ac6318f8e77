//! Folders: listing them while they change, counting them, and what their mode bits do.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs::{self, File},
    os::unix::ffi::OsStrExt,
    os::unix::fs::{DirEntryExt, FileTypeExt, MetadataExt, PermissionsExt, symlink},
    os::unix::process::CommandExt,
    path::Path,
    process::Command,
};

use p2pfs_tests::{peer::Peer, tool};
use rustix::{
    fs::{CWD, Dir, FileType, Mode, fsync, mknodat},
    io::Errno,
};

use super::{fails, links_of};

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn removing_while_reading_neither_skips_nor_repeats() {
    const FILES: usize = 1000;
    let peer = Peer::alone();
    let folder = peer.at("d");
    fs::create_dir(&folder).unwrap();
    for number in 0..FILES {
        fs::write(folder.join(format!("file number {number}")), "").unwrap();
    }
    let mut seen = BTreeSet::new();
    for entry in fs::read_dir(&folder).unwrap() {
        let name = entry.unwrap().file_name();
        fs::remove_file(folder.join(&name)).unwrap();
        assert!(seen.insert(name), "twice");
    }
    assert_eq!(seen.len(), FILES);
    fs::remove_dir(&folder).unwrap();
}

#[test]
fn adding_while_reading_keeps_what_was_there() {
    const FILES: usize = 1000;
    let peer = Peer::alone();
    for number in 0..FILES {
        fs::write(peer.at(format!("old {number}")), "").unwrap();
    }
    let mut seen = BTreeSet::new();
    for (number, entry) in fs::read_dir(peer.root()).unwrap().enumerate() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if number % 10 == 0 && number < 500 {
            fs::write(peer.at(format!("new {number}")), "").unwrap();
            let from = peer.at(format!("old {}", FILES - 1 - number));
            fs::rename(&from, peer.at(format!("moved {number}"))).unwrap();
        }
        assert!(seen.insert(name.clone()), "{name} twice");
    }
    // Those that had their names from beginning to end.
    for number in (0..FILES).filter(|n| !(FILES - 1 - n).is_multiple_of(10) || FILES - 1 - n >= 500) {
        assert!(seen.contains(&format!("old {number}")), "old {number} was skipped");
    }
}

#[test]
fn rm_removes_a_deep_and_wide_tree() {
    let peer = Peer::alone();
    tool::shell(
        peer.root(),
        "for d in $(seq 20); do mkdir -p t/$d/{a,b,c}/deep; touch t/$d/{a,b,c}/deep/{1..20}; done; rm -r t; test ! -e t",
    );
}

#[test]
fn an_entry_s_kind_and_number_are_its_file_s() {
    let peer = Peer::alone();
    fs::write(peer.at("file"), "").unwrap();
    fs::create_dir(peer.at("folder")).unwrap();
    symlink("x", peer.at("link")).unwrap();
    mknodat(CWD, peer.at("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    let mut count = 0;
    for entry in fs::read_dir(peer.root()).unwrap().map(Result::unwrap) {
        let known = fs::symlink_metadata(entry.path()).unwrap();
        assert_eq!(entry.ino(), known.ino(), "{entry:?}");
        assert_eq!(entry.file_type().unwrap(), known.file_type(), "{entry:?}");
        count += 1;
    }
    assert_eq!(count, 4);
    assert!(fs::symlink_metadata(peer.at("pipe")).unwrap().file_type().is_fifo());
    let dots: Vec<(Vec<u8>, u64)> = Dir::read_from(File::open(peer.at("folder")).unwrap())
        .unwrap()
        .map(|e| e.map(|e| (e.file_name().to_bytes().to_vec(), e.ino())).unwrap())
        .collect();
    let number = |path: &str| fs::metadata(peer.at(path)).unwrap().ino();
    assert_eq!(dots, [(b".".to_vec(), number("folder")), (b"..".to_vec(), number("."))]);
}

#[test]
fn numbers_stay_over_a_restart() {
    let mut peer = Peer::alone();
    fs::create_dir(peer.at("d")).unwrap();
    fs::write(peer.at("d/f"), "content").unwrap();
    let number = |peer: &Peer, path: &str| fs::metadata(peer.at(path)).unwrap().ino();
    let before = (number(&peer, "d"), number(&peer, "d/f"));
    peer.unmount();
    peer.mount();
    assert_eq!((number(&peer, "d"), number(&peer, "d/f")), before);
}

#[test]
fn folders_count_the_folders_in_them() {
    let peer = Peer::alone();
    let folder = peer.at("d");
    fs::create_dir(&folder).unwrap();
    assert_eq!(links_of(&folder), 2);
    for number in 1..=3 {
        fs::create_dir(folder.join(number.to_string())).unwrap();
        assert_eq!(links_of(&folder), 2 + number);
    }
    fs::write(folder.join("file"), "").unwrap();
    assert_eq!(links_of(&folder), 5);
    fs::remove_dir(folder.join("1")).unwrap();
    fails(fs::remove_dir(&folder), Errno::NOTEMPTY);
    fails(fs::remove_dir(folder.join("file")), Errno::NOTDIR);
    fails(fs::remove_file(folder.join("2")), Errno::ISDIR);
    assert_eq!(links_of(&folder), 4);
    fs::rename(folder.join("2"), folder.join("3")).unwrap();
    assert_eq!(links_of(&folder), 3);
}

#[test]
fn a_folder_that_is_removed_while_open_stays_empty() {
    let peer = Peer::alone();
    fs::create_dir(peer.at("d")).unwrap();
    let open = File::open(peer.at("d")).unwrap();
    fs::remove_dir(peer.at("d")).unwrap();
    let names = Dir::read_from(&open).unwrap().filter(|e| {
        let name = e.as_ref().unwrap().file_name().to_bytes().to_vec();
        name != b"." && name != b".."
    });
    assert_eq!(names.count(), 0);
    let inside = rustix::fs::mkdirat(&open, "x", Mode::RWXU);
    super::refuses(inside, Errno::NOENT);
    fsync(&open).unwrap();
}

/// Runs a line of shell as somebody without rights of their own.
fn as_user(uid: u32, gid: u32, folder: &Path, line: &str) -> bool {
    let mut command = Command::new("bash");
    command.uid(uid).gid(gid).args(["-euc", line]).current_dir(folder);
    command.output().unwrap().status.success()
}

#[test]
fn in_a_sticky_folder_everybody_removes_their_own() {
    let peer = Peer::system();
    let folder = peer.at("d");
    fs::create_dir(&folder).unwrap();
    set_mode(&folder, 0o1777);
    assert!(as_user(1001, 1001, &folder, "touch hers; chmod 666 hers; mkdir folder"));
    for line in ["rm -f hers", "mv hers other", "touch his; mv his hers", "rmdir folder"] {
        assert!(!as_user(1002, 1002, &folder, line), "{line}");
    }
    assert!(as_user(1001, 1001, &folder, "mv hers other; rm other; rmdir folder"));
    assert_eq!(fs::metadata(&folder).unwrap().mode() & 0o7777, 0o1777);
}

#[test]
fn a_folder_passes_its_group_on() {
    let peer = Peer::system();
    let folder = peer.at("d");
    fs::create_dir(&folder).unwrap();
    std::os::unix::fs::chown(&folder, Some(0), Some(2000)).unwrap();
    set_mode(&folder, 0o2777);
    assert!(as_user(1001, 1001, &folder, "umask 022; touch f; mkdir s; ln -s x l; mkdir s/deeper"));
    let known = |name: &str| fs::symlink_metadata(folder.join(name)).unwrap();
    for name in ["f", "s", "l", "s/deeper"] {
        assert_eq!((known(name).uid(), known(name).gid()), (1001, 2000), "{name}");
    }
    assert_eq!(known("s").mode() & 0o7777, 0o2755, "folders pass it on in turn");
    assert_eq!(known("f").mode() & 0o7777, 0o644, "files don't get the bit");
}

#[test]
fn others_are_kept_out_by_modes() {
    let peer = Peer::system();
    let folder = peer.at("d");
    fs::create_dir(&folder).unwrap();
    set_mode(&folder, 0o755);
    fs::write(folder.join("secret"), "x").unwrap();
    set_mode(&folder.join("secret"), 0o600);
    for line in ["cat secret", "touch new", "rm -f secret", "chmod 666 secret", "echo x >secret"] {
        assert!(!as_user(1001, 1001, &folder, line), "{line}");
    }
    set_mode(&folder.join("secret"), 0o644);
    assert!(as_user(1001, 1001, &folder, "cat secret"));
}

#[test]
fn a_place_in_a_listing_is_found_again() {
    const FILES: usize = 500;
    let peer = Peer::alone();
    for number in 0..FILES {
        fs::write(peer.at(format!("file number {number}")), "").unwrap();
    }
    let mut dir = Dir::read_from(File::open(peer.root()).unwrap()).unwrap();
    // An entry's offset is the place behind it, as telldir gives it.
    let entries: Vec<(i64, Vec<u8>)> =
        // One that repeats entries might never end.
        dir.by_ref().take(2 * FILES).map(|e| e.map(|e| (e.offset(), e.file_name().to_bytes().to_vec())).unwrap()).collect();
    assert_eq!(entries.len(), FILES + 2);
    let places: BTreeSet<i64> = entries.iter().map(|(place, _)| *place).collect();
    assert_eq!(places.len(), entries.len(), "each has its own");
    let name = |index: usize| entries[index].1.as_slice();
    let mut next = |index: usize| {
        dir.seek(entries[index].0).unwrap();
        dir.read().map(|entry| entry.unwrap().file_name().to_bytes().to_vec())
    };
    for index in (0..entries.len() - 1).rev().step_by(7) {
        assert_eq!(next(index).as_deref(), Some(name(index + 1)), "behind entry {index}");
    }
    // What is behind a place stays behind it, when what was there before goes.
    for index in (2..400).filter(|index| index % 3 != 0) {
        fs::remove_file(peer.at(OsStr::from_bytes(name(index)))).unwrap();
    }
    for index in (2..400).filter(|index| index % 3 == 2) {
        assert_eq!(next(index).as_deref(), Some(name(index + 1)), "behind entry {index}");
    }
}

#[test]
fn a_listing_begun_anew_shows_what_is_there_now() {
    let peer = Peer::alone();
    fs::write(peer.at("old"), "").unwrap();
    let mut dir = Dir::read_from(File::open(peer.root()).unwrap()).unwrap();
    let mut listed = |expected: &[&str]| {
        dir.rewind();
        let mut names: Vec<String> =
            dir.by_ref().map(|e| e.unwrap().file_name().to_str().unwrap().to_owned()).collect();
        names.sort();
        assert_eq!(names[2..], *expected);
    };
    listed(&["old"]);
    fs::write(peer.at("new"), "").unwrap();
    listed(&["new", "old"]);
    fs::remove_file(peer.at("old")).unwrap();
    listed(&["new"]);
}
