//! Times of files: set by hand, and changed by what happens to them.

use std::{
    fs::{self, File},
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
    process::Command,
    thread,
    time::{Duration, UNIX_EPOCH},
};

use p2pfs_tests::{
    mapping::Mapping,
    peer::Peer,
    tool,
    tree::{self, set_mtime},
};
use rustix::{
    fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, utimensat},
    io::Errno,
};

use super::refuses;

type Stamp = (i64, i64);

fn mtime(path: &Path) -> Stamp {
    let known = fs::symlink_metadata(path).unwrap();
    (known.mtime(), known.mtime_nsec())
}

fn ctime(path: &Path) -> Stamp {
    let known = fs::symlink_metadata(path).unwrap();
    (known.ctime(), known.ctime_nsec())
}

/// Longer than the clock's own steps.
fn moment() {
    thread::sleep(Duration::from_millis(20));
}

#[test]
fn times_are_kept_to_the_nanosecond() {
    let peer = Peer::alone();
    fs::write(peer.at("f"), "content").unwrap();
    std::os::unix::fs::symlink("f", peer.at("l")).unwrap();
    fs::create_dir(peer.at("d")).unwrap();
    for name in ["f", "l", "d"] {
        for (secs, nanos) in
            [(1_234_567_890, 123_456_789), (0, 1), (4_000_000_000, 999_999_999), (-86_400, 0), (-2, 800_000_000)]
        {
            set_mtime(&peer.at(name), secs, nanos);
            assert_eq!(mtime(&peer.at(name)), (secs, nanos), "{name}");
        }
    }
}

#[test]
fn access_time_is_set_apart_from_the_other() {
    let peer = Peer::alone();
    fs::write(peer.at("f"), "").unwrap();
    set_mtime(&peer.at("f"), 1000, 5);
    let file = File::options().write(true).open(peer.at("f")).unwrap();
    let at = UNIX_EPOCH + Duration::new(2000, 7);
    file.set_times(fs::FileTimes::new().set_accessed(at)).unwrap();
    let known = fs::metadata(peer.at("f")).unwrap();
    assert_eq!((known.atime(), known.atime_nsec()), (2000, 7));
    assert_eq!(mtime(&peer.at("f")), (1000, 5));
}

#[test]
fn contents_move_mtime_and_ctime() {
    let peer = Peer::alone();
    fs::write(peer.at("f"), "content").unwrap();
    let check = |change: &dyn Fn()| {
        set_mtime(&peer.at("f"), 1000, 0);
        let before = ctime(&peer.at("f"));
        moment();
        change();
        assert!(mtime(&peer.at("f")) > before && ctime(&peer.at("f")) > before);
    };
    let file = File::options().write(true).open(peer.at("f")).unwrap();
    check(&|| file.write_all_at(b"x", 0).unwrap());
    check(&|| file.set_len(3).unwrap());
    check(&|| file.set_len(30_000).unwrap());
    check(&|| drop(File::create(peer.at("f")).unwrap()));
}

#[test]
fn a_change_of_attributes_moves_only_ctime() {
    let peer = Peer::alone();
    fs::write(peer.at("f"), "content").unwrap();
    let check = |what: &str, change: &dyn Fn()| {
        set_mtime(&peer.at("f"), 1000, 9);
        let before = ctime(&peer.at("f"));
        moment();
        change();
        assert_eq!(mtime(&peer.at("f")), (1000, 9), "{what}");
        assert!(ctime(&peer.at("f")) > before, "{what}");
    };
    let mode = |mode| fs::set_permissions(peer.at("f"), std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    check("chmod", &|| mode(0o600));
    check("chmod to what it is", &|| mode(0o600));
    check("setxattr", &|| xattr::set(peer.at("f"), "user.x", b"1").unwrap());
    check("removexattr", &|| xattr::remove(peer.at("f"), "user.x").unwrap());
    check("link", &|| fs::hard_link(peer.at("f"), peer.at("g")).unwrap());
    check("unlink", &|| fs::remove_file(peer.at("g")).unwrap());
    check("rename", &|| {
        fs::rename(peer.at("f"), peer.at("h")).unwrap();
        fs::rename(peer.at("h"), peer.at("f")).unwrap();
    });
}

#[test]
fn a_change_of_names_moves_the_folder_s_times() {
    let peer = Peer::alone();
    let folder = peer.at("d");
    fs::create_dir(&folder).unwrap();
    fs::write(peer.at("outside"), "").unwrap();
    let check = |what: &str, change: &dyn Fn()| {
        set_mtime(&folder, 1000, 0);
        let before = ctime(&folder);
        moment();
        change();
        assert!(mtime(&folder) > before && ctime(&folder) > before, "{what}");
    };
    check("create", &|| fs::write(folder.join("f"), "").unwrap());
    check("mkdir", &|| fs::create_dir(folder.join("s")).unwrap());
    check("symlink", &|| std::os::unix::fs::symlink("x", folder.join("l")).unwrap());
    check("link", &|| fs::hard_link(peer.at("outside"), folder.join("o")).unwrap());
    check("rename", &|| fs::rename(folder.join("f"), folder.join("g")).unwrap());
    check("move out", &|| fs::rename(folder.join("g"), peer.at("g")).unwrap());
    check("move in", &|| fs::rename(peer.at("g"), folder.join("g")).unwrap());
    check("unlink", &|| fs::remove_file(folder.join("g")).unwrap());
    check("rmdir", &|| fs::remove_dir(folder.join("s")).unwrap());
    // What a file holds is no matter of its folder.
    set_mtime(&folder, 1000, 0);
    fs::write(folder.join("o"), "content").unwrap();
    assert_eq!(mtime(&folder), (1000, 0));
}

#[test]
fn writing_through_an_open_file_keeps_a_time_set_by_hand() {
    let peer = Peer::alone();
    let file = File::create(peer.at("f")).unwrap();
    file.write_all_at(b"content", 0).unwrap();
    // As tar and rsync do: contents, then times, then close.
    file.set_modified(UNIX_EPOCH + Duration::new(1_000_000, 42)).unwrap();
    drop(file);
    assert_eq!(mtime(&peer.at("f")), (1_000_000, 42));
    // Also once it is published.
    moment();
    tool::shell(peer.root(), "sync -f .");
    assert_eq!(mtime(&peer.at("f")), (1_000_000, 42));
}

#[test]
fn tar_gives_every_file_its_time_and_mode() {
    let peer = Peer::alone();
    peer.with_plain_umask();
    let source = peer.scratch().join("source");
    tree::grow(&source, 300, 11);
    tool::shell(&source, &format!("tar --format=posix -cf - . | tar -xpf - -C '{}'", peer.root().display()));
    tree::differences(&source, peer.root()).unwrap();
    // Folders too, which tar sets last.
    for entry in fs::read_dir(&source).unwrap().flatten() {
        let copy = peer.at(entry.file_name());
        assert_eq!(mtime(&entry.path()).0, mtime(&copy).0, "{}", copy.display());
    }
}

#[test]
fn now_is_for_writers_and_any_other_time_for_the_owner() {
    let peer = Peer::system();
    let path = peer.at("f");
    fs::write(&path, "").unwrap();
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    let touch = |arguments: &[&str]| {
        let mut command = Command::new("touch");
        std::os::unix::process::CommandExt::uid(&mut command, 1234);
        command.args(arguments).arg(&path).output().unwrap().status.success()
    };
    assert!(touch(&["-c"]), "may write it");
    assert!(!touch(&["-c", "-d", "2001-01-01"]), "not the owner");
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    assert!(!touch(&["-c"]), "may not write it");
}

#[test]
fn impossible_times_are_refused() {
    let peer = Peer::alone();
    fs::write(peer.at("f"), "").unwrap();
    let set = |nanos| {
        let time = Timespec { tv_sec: 1, tv_nsec: nanos };
        let times = Timestamps { last_access: time, last_modification: time };
        utimensat(CWD, peer.at("f"), &times, AtFlags::empty())
    };
    refuses(set(1_000_000_000), Errno::INVAL);
    set(UTIME_NOW).unwrap();
}

#[test]
fn a_file_without_a_name_keeps_a_time_set_by_hand() {
    let peer = Peer::alone();
    let file = File::options().read(true).write(true).create_new(true).open(peer.at("f")).unwrap();
    fs::remove_file(peer.at("f")).unwrap();
    let mtime = || file.metadata().map(|known| (known.mtime(), known.mtime_nsec())).unwrap();
    file.write_all_at(b"content", 0).unwrap();
    file.set_modified(UNIX_EPOCH + Duration::new(1_000_000, 42)).unwrap();
    assert_eq!(mtime(), (1_000_000, 42));
    file.write_all_at(b"more", 7).unwrap();
    assert!(mtime() > (1_000_000, 42));
    file.set_len(5).unwrap();
    file.set_modified(UNIX_EPOCH + Duration::new(2_000_000, 42)).unwrap();
    assert_eq!(mtime(), (2_000_000, 42));
}

#[test]
fn one_time_is_set_without_the_other() {
    let peer = Peer::alone();
    fs::write(peer.at("f"), "").unwrap();
    let set = |atime: (i64, i64), mtime: (i64, i64)| {
        let time = |(tv_sec, tv_nsec)| Timespec { tv_sec, tv_nsec };
        let times = Timestamps { last_access: time(atime), last_modification: time(mtime) };
        utimensat(CWD, peer.at("f"), &times, AtFlags::empty()).unwrap();
        let known = fs::metadata(peer.at("f")).unwrap();
        ((known.atime(), known.atime_nsec()), (known.mtime(), known.mtime_nsec()))
    };
    let omit = (0, UTIME_OMIT);
    assert_eq!(set((1, 2), (3, 4)), ((1, 2), (3, 4)));
    assert_eq!(set(omit, (5, 6)), ((1, 2), (5, 6)));
    assert_eq!(set((7, 8), omit), ((7, 8), (5, 6)));
    assert_eq!(set(omit, omit), ((7, 8), (5, 6)));
}

#[test]
fn reading_never_moves_a_time() {
    let mut peer = Peer::alone();
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let here = mounts.lines().find(|line| line.contains(peer.root().to_str().unwrap())).unwrap();
    assert!(here.contains(",noatime,"), "it says so: {here}");
    fs::create_dir(peer.at("d")).unwrap();
    fs::write(peer.at("d/f"), vec![1; 100_000]).unwrap();
    std::os::unix::fs::symlink("f", peer.at("d/l")).unwrap();
    let times = |peer: &Peer| {
        ["d", "d/f", "d/l"].map(|name| {
            let known = fs::symlink_metadata(peer.at(name)).unwrap();
            (known.atime(), known.atime_nsec(), known.mtime(), known.mtime_nsec(), known.ctime(), known.ctime_nsec())
        })
    };
    let before = times(&peer);
    for _ in 0..2 {
        moment();
        assert_eq!(fs::read(peer.at("d/l")).unwrap().len(), 100_000);
        assert_eq!(fs::read_link(peer.at("d/l")).unwrap().as_os_str(), "f");
        assert_eq!(fs::read_dir(peer.at("d")).unwrap().count(), 2);
        assert_eq!(times(&peer), before);
        // Nor has the daemon another opinion than the kernel's memory.
        peer.unmount();
        peer.mount();
        assert_eq!(times(&peer), before);
    }
}

#[test]
fn a_store_through_a_mapping_moves_mtime_and_nothing_written_doesn_t() {
    let peer = Peer::alone();
    fs::write(peer.at("f"), vec![1; 10_000]).unwrap();
    let file = File::options().read(true).write(true).open(peer.at("f")).unwrap();
    set_mtime(&peer.at("f"), 1000, 0);
    file.write_at(b"", 5).unwrap();
    assert_eq!(mtime(&peer.at("f")), (1000, 0));
    let mut mapping = Mapping::new(&file, 10_000).unwrap();
    mapping.store(5, b"stored");
    mapping.sync();
    assert!(mtime(&peer.at("f")) > (1000, 0));
}
