//! Files that are open while their names, sizes or modes change.

use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom, Write},
    os::unix::{
        fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt},
        process::CommandExt,
    },
    process::Command,
    thread,
};

use p2pfs_tests::{patience::eventually, peer::Peer, tool::shell};
use rustix::{
    fs::{AtFlags, CWD, FallocateFlags, fallocate, linkat},
    io::Errno,
};

use super::{fails, refuses};

/// What a program may do that its user may not.
const CAPABILITIES: &str = "security.capability";

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
fn every_way_to_write_clears_set_user_id_bits() {
    let peer = Peer::system();
    let folder = peer.at("d");
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, PermissionsExt::from_mode(0o777)).unwrap();
    let mode = |name: &str| fs::metadata(folder.join(name)).unwrap().mode() & 0o7777;
    // By others than root, who keeps the bits: the owner, and somebody who may write.
    let ways = "
import ctypes, mmap, os, sys
libc = ctypes.CDLL(None)
def fallocate(file, mode):
    assert libc.fallocate(file, mode, ctypes.c_long(0), ctypes.c_long(4096)) == 0
ways = {
    'write': lambda file, path: os.write(file, b'x'),
    'truncate': lambda file, path: os.truncate(path, 5),
    'ftruncate': lambda file, path: os.ftruncate(file, 5),
    'emptying': lambda file, path: os.open(path, os.O_WRONLY | os.O_TRUNC),
    'allocation': lambda file, path: os.posix_fallocate(file, 0, 100000),
    'hole': lambda file, path: fallocate(file, 3),
    'copy': lambda file, path: os.copy_file_range(file, file, 100, 0, 5000),
}
for way, do in ways.items():
    if sys.argv[1] == 'make':
        open(way, 'wb').write(bytes(10000))
        os.chmod(way, 0o6777)
        os.stat(way)
    else:
        do(os.open(way, os.O_RDWR), way)
        print(way)
";
    let run = |uid: u32, what: &str| {
        let mut command = Command::new("python3");
        command.uid(uid).gid(uid).args(["-c", ways, what]).current_dir(&folder);
        p2pfs_tests::tool::succeed(&mut command)
    };
    for writer in [1234, 4321] {
        run(1234, "make");
        let ways = run(writer, "write");
        for way in ways.lines() {
            assert_eq!(mode(way), 0o777, "{way} by {writer}");
        }
    }
    run(1234, "make");
    std::os::unix::fs::chown(folder.join("write"), Some(4321), Some(4321)).unwrap();
    assert_eq!(mode("write"), 0o777, "chown, by root too");
    fs::write(folder.join("hole"), "by root").unwrap();
    assert_eq!(mode("hole"), 0o6777);
}

/// Without the right to execute for its group, the bit means nothing but that a group is lent.
#[test]
fn writing_takes_the_group_bit_from_whom_the_group_is_not() {
    let peer = Peer::system();
    let file = peer.at("f");
    let after_write_by = |who: &str| {
        fs::write(&file, "content").unwrap();
        std::os::unix::fs::chown(&file, Some(0), Some(50)).unwrap();
        fs::set_permissions(&file, PermissionsExt::from_mode(0o6666)).unwrap();
        shell(peer.root(), &format!("setpriv --reuid 1234 {who} bash -c 'echo x >>f'"));
        fs::metadata(&file).unwrap().mode() & 0o7777
    };
    assert_eq!(after_write_by("--regid 1234 --clear-groups"), 0o666);
    assert_eq!(after_write_by("--regid 50 --clear-groups"), 0o2666);
    assert_eq!(after_write_by("--regid 1234 --groups 49,50"), 0o2666);
}

#[test]
fn a_chown_to_nobody_is_one_all_the_same() {
    for peer in [Peer::system(), Peer::alone()] {
        let file = peer.at("f");
        fs::write(&file, "").unwrap();
        fs::create_dir(peer.at("d")).unwrap();
        for path in [&file, &peer.at("d")] {
            fs::set_permissions(path, PermissionsExt::from_mode(0o6777)).unwrap();
        }
        let before = fs::metadata(&file).unwrap();
        thread::sleep(std::time::Duration::from_millis(20));
        std::os::unix::fs::chown(&file, None, None).unwrap();
        std::os::unix::fs::chown(peer.at("d"), None, None).unwrap();
        let after = fs::metadata(&file).unwrap();
        assert_eq!(after.mode() & 0o7777, 0o777);
        assert_eq!((after.uid(), after.gid()), (before.uid(), before.gid()));
        assert!((after.ctime(), after.ctime_nsec()) > (before.ctime(), before.ctime_nsec()));
        assert_eq!(fs::metadata(peer.at("d")).unwrap().mode() & 0o7777, 0o6777);
        // To whom it is already.
        fs::set_permissions(&file, PermissionsExt::from_mode(0o6777)).unwrap();
        std::os::unix::fs::chown(&file, Some(before.uid()), None).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o777);
    }
}

#[test]
fn a_write_ends_a_program_s_capabilities() {
    let peer = Peer::system();
    let path = peer.at("f");
    // Version 2 without any, which is as much worth as with.
    let capabilities = [[1, 0, 0, 2].as_slice(), &[0; 16]].concat();
    let check = |way: &str, change: &dyn Fn()| {
        fs::write(&path, "content").unwrap();
        xattr::set(&path, CAPABILITIES, &capabilities).unwrap();
        assert_eq!(xattr::get(&path, CAPABILITIES).unwrap().as_deref(), Some(capabilities.as_slice()));
        change();
        assert_eq!(xattr::get(&path, CAPABILITIES).unwrap(), None, "{way}");
    };
    let file = || File::options().write(true).open(&path).unwrap();
    check("write", &|| file().write_all(b"x").unwrap());
    check("truncate", &|| file().set_len(1).unwrap());
    check("emptying", &|| drop(File::create(&path).unwrap()));
    check("chown", &|| std::os::unix::fs::chown(&path, Some(5), None).unwrap());
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

/// Those that also want a name later don't work here, and say so: programs then make an ordinary one.
#[test]
fn files_that_never_had_a_name_are_not_supported() {
    let peer = Peer::alone();
    let unnamed = File::options().read(true).write(true).custom_flags(libc::O_TMPFILE).open(peer.root());
    fails(unnamed, Errno::OPNOTSUPP);
    let mut file = tempfile::tempfile_in(peer.root()).unwrap();
    file.write_all(b"content").unwrap();
    assert!(p2pfs_tests::tree::names(peer.root()).is_empty());
}

#[test]
fn every_call_by_descriptor_works_without_a_name() {
    let peer = Peer::system();
    let file = File::options().read(true).write(true).create_new(true).open(peer.at("f")).unwrap();
    file.write_all_at(&[1; 100_000], 0).unwrap();
    fs::remove_file(peer.at("f")).unwrap();
    file.set_permissions(PermissionsExt::from_mode(0o640)).unwrap();
    std::os::unix::fs::fchown(&file, Some(5), Some(6)).unwrap();
    xattr::FileExt::set_xattr(&file, "user.x", b"1").unwrap();
    assert_eq!(xattr::FileExt::get_xattr(&file, "user.x").unwrap().unwrap(), b"1");
    fallocate(&file, FallocateFlags::empty(), 0, 200_000).unwrap();
    file.sync_all().unwrap();
    let known = file.metadata().unwrap();
    assert_eq!((known.mode() & 0o7777, known.uid(), known.gid()), (0o640, 5, 6));
    assert_eq!((known.len(), known.nlink()), (200_000, 0));
    // The same file once more, by the only way left, which isn't one back into a folder.
    let by_descriptor = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    assert_eq!(fs::read(&by_descriptor).unwrap().len(), 200_000);
    let named = linkat(CWD, &by_descriptor, CWD, peer.at("again"), AtFlags::SYMLINK_FOLLOW);
    refuses(named, Errno::NOENT);
}

#[test]
fn direct_and_ordinary_io_see_one_file() {
    let peer = Peer::alone();
    let open =
        |flags| File::options().read(true).write(true).create(true).custom_flags(flags).open(peer.at("f")).unwrap();
    let (direct, ordinary) = (open(libc::O_DIRECT), open(0));
    let mut page = vec![0; 8192];
    direct.write_all_at(&[1; 65_536], 0).unwrap();
    ordinary.read_exact_at(&mut page, 4096).unwrap();
    assert!(page == [1; 8192]);
    ordinary.write_all_at(&[2; 8192], 4096).unwrap();
    direct.read_exact_at(&mut page, 4096).unwrap();
    assert!(page == [2; 8192]);
    direct.write_all_at(&[3; 8192], 4096).unwrap();
    ordinary.read_exact_at(&mut page, 4096).unwrap();
    assert!(page == [3; 8192], "what the kernel kept is dropped");
}

#[test]
fn what_files_have_not_is_refused_by_its_own_name() {
    let peer = Peer::alone();
    let file = File::create(peer.at("f")).unwrap();
    // What `lsattr` asks, which each kind of filesystem that has such flags answers in its own way.
    refuses(rustix::fs::ioctl_getflags(&file), Errno::NOTTY);
    let mut folder = File::open(peer.root()).unwrap();
    fails(folder.read(&mut [0; 10]), Errno::ISDIR);
}
