//! The bin of file managers works on the mount (the freedesktop trash specification), as GLib and trash-cli do it.

use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use jiff::Timestamp;
use p2pfs_tests::{group::Group, patience::eventually, peer::Peer, tool::succeed};

/// A program as the user `uid` starts it, with a home on another disk than the mount, and without a session.
fn as_user(peer: &Peer, uid: u32, folder: &Path, program: &str) -> Command {
    let home = peer.scratch().join(format!("home of {uid}"));
    if !home.exists() {
        fs::create_dir(&home).unwrap();
        chown(&home, Some(uid), Some(uid)).unwrap();
    }
    let mut command = Command::new("setpriv");
    let id = uid.to_string();
    command.args(["--reuid", &id, "--regid", &id, "--clear-groups", program]).current_dir(folder);
    command.env("HOME", &home).env("LC_ALL", "C.UTF-8");
    for variable in ["XDG_DATA_HOME", "DBUS_SESSION_BUS_ADDRESS", "DISPLAY"] {
        command.env_remove(variable);
    }
    command
}

fn me() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn trash<'a>(peer: &Peer, names: impl IntoIterator<Item = &'a str>) {
    succeed(as_user(peer, me(), peer.root(), "gio").arg("trash").args(names));
}

/// A line of shell within a session of GNOME's: its virtual folders, of which the bin is one, are a service there.
fn in_session(peer: &Peer, line: &str) -> String {
    succeed(as_user(peer, me(), peer.root(), "dbus-run-session").args(["--", "bash", "-euo", "pipefail", "-c", line]))
}

fn bin(peer: &Peer) -> PathBuf {
    peer.at(format!(".Trash-{}", me()))
}

/// How many things are in a bin, each with its note.
fn binned(peer: &Peer) -> usize {
    let count = |folder: &str| fs::read_dir(bin(peer).join(folder)).map_or(0, Iterator::count);
    assert_eq!(count("files"), count("info"));
    count("files")
}

/// A moment from now, as one types it, apart from what comes before and after.
fn moment() -> String {
    thread::sleep(Duration::from_millis(50));
    let now = Timestamp::now();
    thread::sleep(Duration::from_millis(50));
    format!("{now:.3}")
}

fn furnish(peer: &Peer) {
    fs::create_dir_all(peer.at("folder/inner")).unwrap();
    fs::write(peer.at("folder/inner/f"), "in it").unwrap();
    fs::write(peer.at("ü 100%.txt"), "one").unwrap();
    fs::write(peer.at("folder/ü 100%.txt"), "another").unwrap();
    fs::write(peer.at("stays"), "stays").unwrap();
}

#[test]
fn glib_s_bin() {
    let peer = Peer::alone();
    furnish(&peer);
    fs::write(peer.at("a 100%.txt"), "put back").unwrap();
    trash(&peer, ["a 100%.txt", "ü 100%.txt", "folder/ü 100%.txt", "folder"]);
    assert_eq!(fs::read_dir(peer.root()).unwrap().count(), 2, "what stays, and the bin");
    assert_eq!(binned(&peer), 4);
    assert_eq!(fs::metadata(bin(&peer)).unwrap().mode() & 0o7777, 0o770, "members share it");
    let note = fs::read_to_string(bin(&peer).join("info/folder.trashinfo")).unwrap();
    assert!(note.starts_with("[Trash Info]\nPath=folder\nDeletionDate="), "{note}");
    // What a file manager shows is put back, where it was.
    let listed = in_session(&peer, "gio trash --list");
    assert_eq!(listed.lines().count(), 4, "{listed}");
    // (A name that isn't ASCII `gio trash --restore` of today puts back under another one, on any disk.)
    in_session(
        &peer,
        r#"gio trash --list | grep -E '(folder|/a 100%.txt)$' | cut -f1 | xargs -d '\n' gio trash --restore"#,
    );
    assert_eq!(fs::read_to_string(peer.at("a 100%.txt")).unwrap(), "put back");
    assert_eq!(fs::read_to_string(peer.at("folder/inner/f")).unwrap(), "in it");
    assert_eq!(binned(&peer), 2);
    trash(&peer, ["folder"]);
    let then = moment();
    in_session(&peer, "gio trash --empty");
    eventually("the bin is empty", || match binned(&peer) {
        0 => Ok(()),
        left => Err(left.to_string()),
    });
    // Emptied, it is still in the past: where it was, and in the bin.
    let past = peer.at(".p2pfs/at").join(then).join(format!(".Trash-{}", me()));
    assert_eq!(fs::read_to_string(past.join("files/folder/inner/f")).unwrap(), "in it");
    assert!(past.join("info/folder.trashinfo").exists());
}

#[test]
fn trash_cli_s_bin() {
    let peer = Peer::alone();
    furnish(&peer);
    let run = |folder: &str, program: &str, arguments: &[&str]| {
        succeed(as_user(&peer, me(), &peer.at(folder), program).args(arguments))
    };
    run("", "trash-put", &["folder/ü 100%.txt", "ü 100%.txt"]);
    assert_eq!(binned(&peer), 2);
    let listed = run("", "trash-list", &[]);
    for path in ["ü 100%.txt", "folder/ü 100%.txt"] {
        assert!(listed.contains(peer.at(path).to_str().unwrap()), "{listed}");
    }
    run("folder", "bash", &["-c", "echo 0 | trash-restore"]);
    assert_eq!(fs::read_to_string(peer.at("folder/ü 100%.txt")).unwrap(), "another");
    assert_eq!(binned(&peer), 1);
    run("", "trash-put", &["folder"]);
    run("", "trash-rm", &["ü 100%.txt"]);
    assert_eq!(binned(&peer), 1);
    let then = moment();
    run("", "trash-empty", &[]);
    assert_eq!(binned(&peer), 0);
    let past = peer.at(".p2pfs/at").join(then).join(format!(".Trash-{}/files/folder/ü 100%.txt", me()));
    assert_eq!(fs::read_to_string(past).unwrap(), "another");
}

#[test]
fn two_people_of_one_number_share_a_bin() {
    let mut group = Group::two();
    for (name, content) in [("a", "a"), ("b", "b"), ("same", "same")] {
        fs::write(group.alice().at(name), content).unwrap();
    }
    group.part();
    // One of them each, and one thing both, none knowing of the other's bin.
    trash(group.alice(), ["a", "same"]);
    trash(group.bob(), ["b", "same"]);
    fs::write(group.alice().at("new"), "alice's").unwrap();
    fs::write(group.bob().at("new"), "bob's").unwrap();
    trash(group.alice(), ["new"]);
    trash(group.bob(), ["new"]);
    group.meet();
    // Each has everything, in one folder.
    for peer in &group.peers {
        let mut found: Vec<String> = fs::read_dir(bin(peer).join("files"))
            .unwrap()
            .map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap())
            .collect();
        found.sort();
        assert_eq!(found, ["a", "alice's", "b", "bob's", "same"], "{}", peer.name());
    }
    let restore = r#"gio trash --list | grep -E '/a$' | cut -f1 | xargs -d '\n' gio trash --restore"#;
    in_session(group.bob(), restore);
    group.all_read("a", b"a");
    in_session(group.alice(), "gio trash --empty");
    group.in_step();
    // Names that both gave leave a thing without its note, which GNOME doesn't list; it can be looked at, and removed.
    succeed(Command::new("rm").arg("-rf").arg(bin(group.alice())));
    group.in_step();
    assert_eq!(fs::read_dir(group.bob().root()).unwrap().count(), 1);
}

#[test]
fn what_is_in_a_shared_bin_is_for_whom_it_was_for() {
    let group = Group::two();
    let (alice, bob) = (group.alice(), group.bob());
    fs::create_dir(alice.at("private")).unwrap();
    fs::set_permissions(alice.at("private"), fs::Permissions::from_mode(0o700)).unwrap();
    for name in ["shared", "diary", "private/open where nobody looks", "by hand"] {
        fs::write(alice.at(name), name).unwrap();
    }
    fs::set_permissions(alice.at("diary"), fs::Permissions::from_mode(0o600)).unwrap();
    trash(alice, ["shared", "diary", "private/open where nobody looks"]);
    // (Whose notes are for one account alone.)
    succeed(as_user(alice, me(), alice.root(), "trash-put").arg("by hand"));
    let read = |peer: &Peer, path: &str| fs::read_to_string(bin(peer).join(path)).map_err(|error| error.kind());
    for (name, is_hers) in [("shared", false), ("diary", true), ("open where nobody looks", true), ("by hand", false)] {
        for path in [format!("files/{name}"), format!("info/{name}.trashinfo")] {
            assert!(read(alice, &path).is_ok(), "{path}");
            let expected = is_hers.then_some(ErrorKind::PermissionDenied);
            eventually("bob knows", || match read(bob, &path).err() {
                found if found == expected => Ok(()),
                found => Err(format!("{path}: {found:?}")),
            });
        }
    }
    // What bob may see he puts back, and what he may not he may still throw away.
    let listed = succeed(&mut as_user(bob, me(), bob.root(), "trash-list"));
    let is_listed = |name: &str| listed.contains(&*bob.at(name).to_string_lossy());
    assert!(is_listed("by hand") && !is_listed("diary"), "{listed}");
    succeed(as_user(bob, me(), bob.root(), "bash").args(["-c", "echo 0 | trash-restore \"$PWD/by hand\""]));
    group.all_read("by hand", b"by hand");
    // Where it was, hers is as it was.
    in_session(alice, r#"gio trash --list | grep -E '/diary$' | cut -f1 | xargs -d '\n' gio trash --restore"#);
    assert_eq!(fs::read_to_string(alice.at("diary")).unwrap(), "diary");
    succeed(Command::new("rm").arg("-rf").arg(bin(bob)));
    eventually("the bin is gone", || if bin(alice).exists() { Err("not yet".to_owned()) } else { Ok(()) });
}

#[test]
fn people_of_different_numbers_have_a_bin_each() {
    const THEM: u32 = 65_534;
    let mut group = Group::two();
    let bob = &mut group.peers[1];
    bob.unmount();
    bob.for_everybody();
    bob.mount();
    bob.await_connected(1);
    let (alice, bob) = (group.alice(), group.bob());
    // The top is hers to open to every account.
    fs::set_permissions(alice.root(), fs::Permissions::from_mode(0o777)).unwrap();
    group.in_step();
    fs::write(alice.at("a"), "alice's").unwrap();
    let them = |program: &str, arguments: &[&str]| succeed(as_user(bob, THEM, bob.root(), program).args(arguments));
    them("bash", &["-c", "echo -n their own > b"]);
    trash(alice, ["a"]);
    them("gio", &["trash", "b"]);
    // What accounts of a system mount make is for all members.
    assert_eq!(fs::read(alice.at(format!(".Trash-{}/files/a", me()))).unwrap(), b"alice's");
    group.all_read(format!(".Trash-{THEM}/files/b"), b"their own");
    // Both bins are on both mounts; programs look into their user's.
    let listed = succeed(&mut as_user(alice, me(), alice.root(), "trash-list"));
    assert!(listed.contains("/a\n") && !listed.contains("/b\n"), "{listed}");
    let listed = them("trash-list", &[]);
    assert!(listed.contains("/b\n") && !listed.contains("/a\n"), "{listed}");
    them("bash", &["-c", "echo 0 | trash-restore"]);
    group.all_read("b", b"their own");
    succeed(&mut as_user(alice, me(), alice.root(), "trash-empty"));
    assert_eq!(binned(alice), 0);
}

#[test]
fn on_a_system_mount_everybody_has_a_bin_below_the_admin_s() {
    const USERS: [u32; 2] = [65_534, 12_345];
    let peer = Peer::system();
    for uid in USERS {
        let own = peer.at(uid.to_string());
        fs::create_dir(&own).unwrap();
        chown(&own, Some(uid), Some(uid)).unwrap();
        succeed(as_user(&peer, uid, &own, "bash").args(["-c", "echo hers > f"]));
        // As on any disk whose top isn't theirs.
        let refused = as_user(&peer, uid, &own, "gio").args(["trash", "f"]).output().unwrap();
        assert!(!refused.status.success() && own.join("f").exists());
    }
    fs::create_dir(peer.at(".Trash")).unwrap();
    fs::set_permissions(peer.at(".Trash"), fs::Permissions::from_mode(0o1777)).unwrap();
    for (uid, program, word) in [(USERS[0], "gio", Some("trash")), (USERS[1], "trash-put", None)] {
        let own = peer.at(uid.to_string());
        succeed(as_user(&peer, uid, &own, program).args(word).arg("f"));
        let bin = peer.at(format!(".Trash/{uid}"));
        let known = fs::metadata(&bin).unwrap();
        assert_eq!(known.uid(), uid);
        // (trash-cli leaves the rest to the folder's contents, on any disk.)
        assert_eq!(fs::metadata(bin.join("files")).unwrap().mode() & 0o7777, 0o700);
        assert_eq!(fs::read_to_string(bin.join("files/f")).unwrap(), "hers\n");
        assert!(fs::read_to_string(bin.join("info/f.trashinfo")).unwrap().contains(&format!("Path={uid}/f\n")));
    }
    // Nobody takes another's away, and everybody empties their own.
    let other = peer.at(format!(".Trash/{}", USERS[1]));
    let moved = as_user(&peer, USERS[0], &peer.at(".Trash"), "mv").arg(&other).arg("taken").output().unwrap();
    assert!(!moved.status.success() && other.exists());
    succeed(&mut as_user(&peer, USERS[1], peer.root(), "trash-empty"));
    assert_eq!(fs::read_dir(other.join("files")).unwrap().count(), 0);
    assert!(peer.at(format!(".Trash/{}/files/f", USERS[0])).exists());
}
