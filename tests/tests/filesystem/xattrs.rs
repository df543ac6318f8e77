//! Extended attributes.

use std::fs::{self, File};

use p2pfs_tests::peer::Peer;
use rustix::{
    fs::{XattrFlags, fgetxattr_query, flistxattr, getxattr, getxattr_query, listxattr_query, setxattr},
    io::Errno,
};

use super::{fails, refuses};

#[test]
fn values_are_kept_and_removed() {
    let peer = Peer::alone();
    peer.with_plain_umask();
    fs::write(peer.at("f"), "").unwrap();
    fs::create_dir(peer.at("d")).unwrap();
    for path in [peer.at("f"), peer.at("d")] {
        for value in [&b""[..], b"value", &[0, 255, 0], &[7; 4096]] {
            xattr::set(&path, "user.some name", value).unwrap();
            assert_eq!(xattr::get(&path, "user.some name").unwrap().as_deref(), Some(value));
        }
        xattr::set(&path, "user.other", b"2").unwrap();
        let mut names: Vec<_> = xattr::list(&path).unwrap().collect();
        names.sort();
        assert_eq!(names, ["user.other", "user.some name"]);
        xattr::remove(&path, "user.some name").unwrap();
        assert_eq!(xattr::get(&path, "user.some name").unwrap(), None);
        fails(xattr::remove(&path, "user.some name"), Errno::NODATA);
    }
}

#[test]
fn sizes_are_told_and_small_buffers_refused() {
    let peer = Peer::alone();
    let path = peer.at("f");
    fs::write(&path, "").unwrap();
    xattr::set(&path, "user.x", b"12345").unwrap();
    let file = File::open(&path).unwrap();
    assert_eq!(getxattr_query(&path, "user.x"), Ok(5));
    assert_eq!(fgetxattr_query(&file, "user.x"), Ok(5));
    refuses(getxattr(&path, "user.x", &mut [0_u8; 4]), Errno::RANGE);
    assert_eq!(getxattr(&path, "user.x", &mut [0_u8; 5]), Ok(5));
    assert_eq!(listxattr_query(&path), Ok(7));
    refuses(flistxattr(&file, &mut [0_u8; 6]), Errno::RANGE);
    refuses(getxattr_query(&path, "user.none"), Errno::NODATA);
}

#[test]
fn making_and_replacing_are_told_apart() {
    let peer = Peer::alone();
    let path = peer.at("f");
    fs::write(&path, "").unwrap();
    refuses(setxattr(&path, "user.x", b"1", XattrFlags::REPLACE), Errno::NODATA);
    setxattr(&path, "user.x", b"1", XattrFlags::CREATE).unwrap();
    refuses(setxattr(&path, "user.x", b"2", XattrFlags::CREATE), Errno::EXIST);
    setxattr(&path, "user.x", b"3", XattrFlags::REPLACE).unwrap();
    assert_eq!(xattr::get(&path, "user.x").unwrap().unwrap(), b"3");
}

#[test]
fn what_is_too_long_is_refused() {
    let peer = Peer::alone();
    let path = peer.at("f");
    fs::write(&path, "").unwrap();
    xattr::set(&path, "user.large", &[1; 65_536]).unwrap();
    assert_eq!(xattr::get(&path, "user.large").unwrap().unwrap(), [1; 65_536]);
    fails(xattr::set(&path, "user.larger", &[1; 65_537]), Errno::TOOBIG);
    fails(xattr::set(&path, format!("user.{}", "n".repeat(300)), b""), Errno::RANGE);
    xattr::set(&path, format!("user.{}", "n".repeat(250)), b"").unwrap();
}

#[test]
fn unknown_namespaces_are_refused() {
    let peer = Peer::alone();
    fs::write(peer.at("f"), "").unwrap();
    fails(xattr::set(peer.at("f"), "unknown.x", b""), Errno::OPNOTSUPP);
    fails(xattr::set(peer.at("f"), "noprefix", b""), Errno::OPNOTSUPP);
    fails(xattr::set(peer.at("f"), "user.", b""), Errno::INVAL);
}

#[test]
fn they_move_with_the_file_and_end_with_it() {
    let mut peer = Peer::alone();
    fs::write(peer.at("f"), "").unwrap();
    xattr::set(peer.at("f"), "user.x", b"1").unwrap();
    fs::rename(peer.at("f"), peer.at("g")).unwrap();
    fs::hard_link(peer.at("g"), peer.at("h")).unwrap();
    assert_eq!(xattr::get(peer.at("h"), "user.x").unwrap().unwrap(), b"1");
    peer.unmount();
    peer.mount();
    assert_eq!(xattr::get(peer.at("h"), "user.x").unwrap().unwrap(), b"1");
    fs::write(peer.at("f"), "").unwrap();
    assert_eq!(xattr::get(peer.at("f"), "user.x").unwrap(), None);
}

#[test]
fn each_namespace_is_for_whom_it_is() {
    let peer = Peer::system();
    fs::write(peer.at("f"), "").unwrap();
    std::os::unix::fs::symlink("f", peer.at("l")).unwrap();
    // A symlink's mode lets everybody write, so that `user.` would be nobody's.
    fails(xattr::set(peer.at("l"), "user.x", b"1"), Errno::PERM);
    xattr::set(peer.at("l"), "trusted.x", b"link").unwrap();
    assert_eq!(xattr::get(peer.at("l"), "trusted.x").unwrap().unwrap(), b"link");
    assert_eq!(xattr::get(peer.at("f"), "trusted.x").unwrap(), None);
    xattr::set(peer.at("f"), "trusted.x", b"file").unwrap();
    xattr::set(peer.at("f"), "user.x", b"1").unwrap();
    let listed = |uid: u32| {
        let mut command = std::process::Command::new("python3");
        std::os::unix::process::CommandExt::uid(&mut command, uid);
        command.args(["-c", "import os; print(sorted(os.listxattr('f')))"]).current_dir(peer.root());
        p2pfs_tests::tool::succeed(&mut command).trim().to_owned()
    };
    assert_eq!(listed(0), "['trusted.x', 'user.x']");
    assert_eq!(listed(1001), "['user.x']", "root's own are not even named");
}

#[test]
fn a_removed_attribute_stays_removed_over_a_restart() {
    let mut peer = Peer::alone();
    let path = peer.at("f");
    fs::write(&path, "").unwrap();
    xattr::set(&path, "user.kept", b"").unwrap();
    xattr::set(&path, "user.x", b"1").unwrap();
    xattr::remove(&path, "user.x").unwrap();
    for end in [Peer::unmount, Peer::kill9] {
        end(&mut peer);
        peer.mount();
        assert_eq!(xattr::get(&path, "user.x").unwrap(), None);
        assert_eq!(xattr::get(&path, "user.kept").unwrap().unwrap(), b"");
        assert_eq!(xattr::list(&path).unwrap().collect::<Vec<_>>(), ["user.kept"]);
    }
    xattr::set(&path, "user.x", b"2").unwrap();
    assert_eq!(xattr::get(&path, "user.x").unwrap().unwrap(), b"2");
}
