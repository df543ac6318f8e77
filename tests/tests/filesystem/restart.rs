//! What is there after the daemon ended, however it ended.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::{OpenOptionsExt, symlink},
    process::Command,
};

use p2pfs_tests::{
    binaries::program,
    peer::Peer,
    tool,
    tree::{grow, names, snapshot},
};
use rustix::io::Errno;

use super::fails;

#[test]
fn a_tree_is_the_same_after_each_kind_of_end() {
    let mut peer = Peer::alone();
    grow(&peer.at("tree"), 200, 3);
    xattr::set(peer.at("tree"), "user.x", b"1").unwrap();
    let before = snapshot(peer.root()).unwrap();
    type End = (&'static str, fn(&mut Peer));
    let ends: [End; 3] = [("unmount", Peer::unmount), ("SIGTERM", Peer::terminate), ("SIGKILL", Peer::kill9)];
    for (how, end) in ends {
        end(&mut peer);
        peer.mount();
        assert!(snapshot(peer.root()).unwrap() == before, "after {how}");
    }
}

#[test]
fn what_was_closed_survives_a_kill() {
    let mut peer = Peer::alone();
    for round in 0..5 {
        fs::write(peer.at("f"), format!("content {round}")).unwrap();
        fs::write(peer.at(format!("large {round}")), vec![round; 1_000_000]).unwrap();
        symlink("target", peer.at(format!("link {round}"))).unwrap();
        peer.kill9();
        fails(fs::metadata(peer.at("f")), Errno::NOTCONN);
        peer.mount();
        assert_eq!(fs::read_to_string(peer.at("f")).unwrap(), format!("content {round}"));
        for old in 0..=round {
            assert!(fs::read(peer.at(format!("large {old}"))).unwrap() == vec![old; 1_000_000]);
            assert!(peer.at(format!("link {old}")).is_symlink());
        }
    }
}

#[test]
fn what_was_synced_while_open_survives_a_kill() {
    let mut peer = Peer::alone();
    let mut file = File::create(peer.at("f")).unwrap();
    let mut expected = Vec::new();
    for part in 0..50_u8 {
        file.write_all(&[part; 1000]).unwrap();
        expected.extend_from_slice(&[part; 1000]);
        file.sync_data().unwrap();
    }
    peer.kill9();
    drop(file);
    peer.mount();
    assert!(fs::read(peer.at("f")).unwrap() == expected);
}

#[test]
fn a_file_without_a_name_is_gone_after_a_kill() {
    let mut peer = Peer::alone();
    fs::write(peer.at("f"), "content").unwrap();
    let file = File::open(peer.at("f")).unwrap();
    fs::remove_file(peer.at("f")).unwrap();
    peer.kill9();
    drop(file);
    peer.mount();
    assert!(names(peer.root()).is_empty());
}

#[test]
fn what_is_busy_stays_mounted() {
    let mut peer = Peer::alone();
    let file = File::create(peer.at("f")).unwrap();
    let line = peer.refused([std::ffi::OsStr::new("unmount"), peer.root().as_os_str()]);
    assert!(line.contains("in use") && line.contains(&std::process::id().to_string()), "{line}");
    assert!(peer.at("f").exists());
    drop(file);
    peer.unmount();
    assert!(names(peer.root()).is_empty(), "the folder below the mount is empty again");
}

/// As test suites and administrators do between two steps: `umount` returns before the daemon has ended.
#[test]
fn what_was_just_unmounted_is_mounted_again_at_once() {
    let mut peer = Peer::system();
    for round in 0..5_u8 {
        fs::write(peer.at("f"), vec![round; 3_000_000]).unwrap();
        peer.remount();
        assert!(fs::read(peer.at("f")).unwrap() == vec![round; 3_000_000]);
    }
}

#[test]
fn what_was_just_unmounted_is_looked_at_at_once() {
    let mut peer = Peer::system();
    for command in ["verify", "users", "status"] {
        fs::write(peer.at(command), vec![1; 3_000_000]).unwrap();
        tool::succeed(Command::new("umount").arg(peer.root()));
        peer.run([command, "--json"]);
        assert!(peer.await_end().success());
        peer.mount();
        assert_eq!(names(peer.root()).len(), 1);
        fs::remove_file(peer.at(command)).unwrap();
    }
}

/// Somebody whose shell is on a mount that ended, or in a folder that was removed, asks what is wrong.
#[test]
fn commands_work_where_the_folder_is_gone() {
    let mut peer = Peer::alone();
    fs::write(peer.at("f"), "content").unwrap();
    peer.unmount();
    let gone = peer.scratch().join("gone");
    for arguments in [["verify", "--json"], ["users", "--json"], ["verify", "--repair"]] {
        fs::create_dir(&gone).unwrap();
        let mut command = Command::new("bash");
        command.args(["-euc", r#"rmdir "$PWD"; "$@""#, "in-a-folder-that-is-gone"]).current_dir(&gone);
        command.arg(program("p2pfs")).args(arguments).env("P2PFS_HOME", peer.home());
        tool::succeed(&mut command);
    }
    peer.mount();
    assert_eq!(fs::read(peer.at("f")).unwrap(), b"content");
}

#[test]
fn what_was_written_synchronously_survives_a_kill() {
    let mut peer = Peer::alone();
    let open = |name, flag| File::options().append(true).create(true).custom_flags(flag).open(peer.at(name)).unwrap();
    let mut files = [open("data", libc::O_DSYNC), open("all", libc::O_SYNC)];
    for part in 0..30_u8 {
        files.iter_mut().for_each(|file| file.write_all(&[part; 3000]).unwrap());
    }
    peer.kill9();
    drop(files);
    peer.mount();
    for name in ["data", "all"] {
        let expected: Vec<u8> = (0..30_u8).flat_map(|part| [part; 3000]).collect();
        assert!(fs::read(peer.at(name)).unwrap() == expected, "{name}");
    }
}

/// As a file server finds files again.
#[test]
fn a_file_handle_outlives_a_restart_and_ends_with_its_file() {
    let mut peer = Peer::system();
    fs::create_dir(peer.at("d")).unwrap();
    fs::write(peer.at("d/f"), "content").unwrap();
    let python = "
import ctypes, errno, os, sys
class Handle(ctypes.Structure):
    _fields_ = [('length', ctypes.c_uint), ('kind', ctypes.c_int), ('bytes', ctypes.c_char * 128)]
libc = ctypes.CDLL(None, use_errno=True)
handle, mount = Handle(128, 0), ctypes.c_int()
if sys.argv[2] == 'note':
    assert libc.name_to_handle_at(-100, b'd/f', ctypes.byref(handle), ctypes.byref(mount), 0) == 0
    open(sys.argv[1], 'wb').write(bytes(handle))
else:
    ctypes.memmove(ctypes.byref(handle), open(sys.argv[1], 'rb').read(), ctypes.sizeof(handle))
    file = libc.open_by_handle_at(os.open('.', os.O_RDONLY), ctypes.byref(handle), os.O_RDONLY)
    print(os.read(file, 100).decode() if file >= 0 else errno.errorcode[ctypes.get_errno()])
";
    let run = |peer: &Peer, what: &str| {
        let note = peer.scratch().join("handle");
        let mut command = Command::new("python3");
        command.args(["-c", python]).arg(note).arg(what).current_dir(peer.root());
        tool::succeed(&mut command).trim().to_owned()
    };
    run(&peer, "note");
    assert_eq!(run(&peer, "open"), "content");
    peer.unmount();
    peer.mount();
    assert_eq!(run(&peer, "open"), "content");
    fs::rename(peer.at("d/f"), peer.at("g")).unwrap();
    assert_eq!(run(&peer, "open"), "content");
    fs::remove_file(peer.at("g")).unwrap();
    assert_eq!(run(&peer, "open"), "ESTALE");
}
