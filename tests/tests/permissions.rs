//! Who may what, by ordinary tools, as it holds on every member's machine: alice owns, bob writes, carol reads.
//!
//! The tests may run as root, whom the kernel lets do all: what is refused here is refused by p2pfs.

use std::{
    fs::{self, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    time::{Duration, Instant},
};

use p2pfs_tests::{
    group::Group,
    patience::eventually,
    peer::Peer,
    setting,
    tool::{run, shell},
};

fn three() -> Group {
    let mut group = Group::two();
    group.add_as("carol", "reader");
    group
}

/// Waits until everybody has everything, and what lies in folders has followed them.
fn settle(group: &Group) {
    group.peers.iter().for_each(Peer::wait);
    for peer in &group.peers {
        eventually(&format!("permissions followed, for {}", peer.name()), || match peer.listing("status")["following"]
            .as_u64()
        {
            Some(0) => Ok(()),
            left => Err(format!("{left:?} folders are left")),
        });
    }
    group.peers.iter().for_each(Peer::wait);
}

/// The number that stands for a member on the others' mounts.
fn number(group: &Group, name: &str) -> u32 {
    let users = group.alice().listing("users");
    let user = users.as_array().unwrap().iter().find(|user| user["name"] == name).unwrap();
    u32::try_from(user["number"].as_u64().unwrap()).unwrap()
}

fn chmod(path: impl AsRef<Path>, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode))
}

fn setfacl(path: &Path, arguments: &[&str]) {
    run("setfacl", arguments.iter().copied().chain([path.to_str().unwrap()]));
}

/// How a call ended, in one word.
fn word<T>(done: io::Result<T>) -> &'static str {
    match done.map_err(|e| e.raw_os_error()) {
        Ok(_) => "yes",
        Err(Some(libc::EACCES)) => "EACCES",
        Err(Some(libc::EPERM)) => "EPERM",
        Err(Some(libc::EROFS)) => "EROFS",
        Err(Some(libc::ENOENT)) => "ENOENT",
        Err(other) => panic!("errno {other:?}"),
    }
}

fn append(path: &Path) -> io::Result<()> {
    OpenOptions::new().append(true).open(path)?.write_all(b"more")
}

type Cell<'a> = (u32, &'a [&'a str], [&'a str; 4], [&'a str; 4]);

/// What somebody may do with a file: read, append, set an attribute, change the mode.
fn on_file(peer: &Peer, name: &str) -> [&'static str; 4] {
    let path = peer.at(name);
    [word(fs::read(&path)), word(append(&path)), word(xattr::set(&path, "user.note", b"x")), word(chmod(&path, 0o640))]
}

#[test]
fn a_file_is_for_whom_mode_and_list_say() {
    let group = three();
    let (alice, bob, carol) = (group.alice(), group.bob(), group.carol());
    let bobs = number(&group, "bob");
    let (read_named, write_named, none_named) = (format!("u:{bobs}:r"), format!("u:{bobs}:rw"), format!("u:{bobs}:-"));
    let (no, yes, never, reader) = ("EACCES", "yes", "EPERM", "EROFS");
    // Mode, list, then what bob and what carol may: read, append, attribute, mode.
    let table: [Cell<'_>; 8] = [
        (0o600, &[], [no, no, no, no], [no, no, no, reader]),
        (0o640, &[], [yes, no, no, never], [yes, reader, reader, reader]),
        (0o644, &[], [yes, no, no, never], [yes, reader, reader, reader]),
        (0o660, &[], [yes, yes, yes, never], [yes, reader, reader, reader]),
        (0o606, &[], [no, no, no, no], [no, no, no, reader]),
        (0o600, &["-m", &read_named], [yes, no, no, never], [no, no, no, reader]),
        (0o600, &["-m", &write_named], [yes, yes, yes, never], [no, no, no, reader]),
        (0o660, &["-m", &none_named], [no, no, no, no], [yes, reader, reader, reader]),
    ];
    for (nth, (mode, list, ..)) in table.iter().enumerate() {
        let path = alice.at(format!("f{nth}"));
        fs::write(&path, "text").unwrap();
        chmod(&path, *mode).unwrap();
        if !list.is_empty() {
            setfacl(&path, list);
        }
    }
    settle(&group);
    for (nth, (mode, list, of_bob, of_carol)) in table.iter().enumerate() {
        let name = format!("f{nth}");
        let what = format!("{mode:o} {list:?}");
        assert_eq!(on_file(bob, &name), *of_bob, "bob, {what}");
        let carols = on_file(carol, &name);
        assert_eq!(carols[0], of_carol[0], "carol, {what}");
        for (deed, expected) in carols[1..].iter().zip(&of_carol[1..]) {
            let kept_out = [no, never, reader].contains(deed);
            assert!(kept_out && [no, never, reader].contains(expected), "carol, {what}: {carols:?}");
        }
        for (peer, may) in [(bob, of_bob), (carol, of_carol)] {
            let shown = fs::symlink_metadata(peer.at(&name)).unwrap();
            if may[0] == no {
                assert_eq!((shown.mode() & 0o7777, shown.len()), (0, 0), "{what}, {}", peer.name());
                assert_eq!(word(xattr::get(peer.at(&name), "user.note")), no, "{what}");
                assert_eq!(word(xattr::list(peer.at(&name))), no, "{what}");
            }
            let owner = if may[1] == yes { rustix::process::geteuid().as_raw() } else { number(&group, "alice") };
            assert_eq!(shown.uid(), owner, "{what}, {}", peer.name());
            let name_of_owner = xattr::get(peer.at(&name), "user.p2pfs.owner").unwrap().unwrap();
            assert_eq!(name_of_owner, b"alice");
        }
        // The owner always may; what others wrote is there.
        let text = if of_bob[1] == yes { "textmore" } else { "text" };
        settle(&group);
        assert_eq!(fs::read_to_string(alice.at(&name)).unwrap(), text, "{what}");
        assert_eq!(on_file(alice, &name), [yes; 4], "{what}");
    }
}

#[test]
fn a_folder_that_somebody_may_not_read_is_opaque() {
    let group = three();
    let (alice, bob, carol) = (group.alice(), group.bob(), group.carol());
    shell(alice.root(), "mkdir -p d/sub open; echo text >d/f; ln -s there d/l; echo deep >d/sub/g; echo o >open/f");
    settle(&group);
    assert_eq!(fs::read_to_string(bob.at("d/sub/g")).unwrap(), "deep\n");
    let inside = |peer: &Peer| {
        [
            word(fs::read_dir(peer.at("d"))),
            word(fs::symlink_metadata(peer.at("d/f"))),
            word(fs::read(peer.at("d/f"))),
            word(fs::read_link(peer.at("d/l"))),
            word(fs::read(peer.at("d/sub/g"))),
            word(fs::symlink_metadata(peer.at("d/nothing"))),
        ]
    };
    let changes = |peer: &Peer| {
        [
            word(fs::write(peer.at("d/new"), "x")),
            word(fs::create_dir(peer.at("d/newdir"))),
            word(fs::rename(peer.at("d/f"), peer.at("f"))),
            word(fs::rename(peer.at("open/f"), peer.at("d/f2"))),
            word(fs::remove_file(peer.at("d/f"))),
            word(fs::hard_link(peer.at("open/f"), peer.at("d/h"))),
            word(chmod(peer.at("d"), 0o777)),
        ]
    };
    chmod(alice.at("d"), 0o700).unwrap();
    settle(&group);
    for peer in [bob, carol] {
        assert_eq!(inside(peer), ["EACCES"; 6], "{}", peer.name());
        let shown = fs::symlink_metadata(peer.at("d")).unwrap();
        assert!(shown.is_dir() && shown.mode() & 0o7777 == 0);
    }
    assert_eq!(changes(bob), ["EACCES"; 7]);

    // What was in it is for its readers alone, wherever it is put.
    chmod(alice.at("d"), 0o750).unwrap();
    settle(&group);
    assert_eq!(inside(bob), ["yes", "yes", "yes", "yes", "yes", "ENOENT"]);
    assert_eq!(inside(carol), ["yes", "yes", "yes", "yes", "yes", "ENOENT"]);
    let denied = changes(bob);
    assert_eq!(denied, ["EACCES", "EACCES", "EACCES", "EACCES", "EACCES", "EACCES", "EPERM"]);
    assert_eq!(fs::read_to_string(bob.at("d/f")).unwrap(), "text\n");

    chmod(alice.at("d"), 0o770).unwrap();
    settle(&group);
    fs::write(bob.at("d/new"), "by bob").unwrap();
    fs::rename(bob.at("d/f"), bob.at("d/f1")).unwrap();
    fs::remove_file(bob.at("d/f1")).unwrap();
    settle(&group);
    assert_eq!(fs::read_to_string(carol.at("d/new")).unwrap(), "by bob");
    assert!(!alice.at("d/f").exists() && !alice.at("d/f1").exists());

    // To one user alone.
    chmod(alice.at("d"), 0o700).unwrap();
    alice.run(["allow", alice.at("d").to_str().unwrap(), "bob:rw"]);
    settle(&group);
    assert_eq!(inside(carol), ["EACCES"; 6]);
    fs::write(bob.at("d/ours"), "both").unwrap();
    settle(&group);
    assert_eq!(fs::read_to_string(alice.at("d/ours")).unwrap(), "both");
    assert_eq!(word(fs::read(carol.at("d/ours"))), "EACCES");
}

#[test]
fn permissions_come_and_go() {
    let group = three();
    // Alice, who made the volume, is its admin: bob is as anybody else.
    let (alice, bob, carol) = (group.alice(), group.bob(), group.carol());
    let big: Vec<u8> = (0..200_000_u32).map(|n| (n % 251) as u8).collect();
    fs::write(bob.at("f"), &big).unwrap();
    chmod(bob.at("f"), 0o600).unwrap();
    fs::write(bob.at("f"), [&big[..], b"secret"].concat()).unwrap();
    run("setfattr", ["-n", "user.a", "-v", "1", bob.at("f").to_str().unwrap()]);
    settle(&group);
    assert_eq!(word(fs::read(alice.at("f"))), "EACCES");

    // Wider: everything that was written meanwhile opens.
    chmod(bob.at("f"), 0o640).unwrap();
    settle(&group);
    for peer in [alice, carol] {
        assert_eq!(fs::read(peer.at("f")).unwrap(), [&big[..], b"secret"].concat(), "{}", peer.name());
        assert_eq!(xattr::get(peer.at("f"), "user.a").unwrap().unwrap(), b"1");
        assert_eq!(fs::metadata(peer.at("f")).unwrap().mode() & 0o777, 0o640);
    }

    // Given away: alice decides, bob reads as a member.
    bob.run(["chown", "alice", bob.at("f").to_str().unwrap()]);
    settle(&group);
    assert_eq!(word(chmod(bob.at("f"), 0o666)), "EPERM");
    assert_eq!(word(append(&bob.at("f"))), "EACCES");
    chmod(alice.at("f"), 0o600).unwrap();
    settle(&group);
    assert_eq!(word(fs::read(bob.at("f"))), "EACCES");
    assert_eq!(fs::metadata(alice.at("f")).unwrap().uid(), rustix::process::geteuid().as_raw());
    let refused = bob.refused(["allow", bob.at("f").to_str().unwrap(), "bob:rw"]);
    assert!(refused.contains("owner") || refused.contains("may not read"), "{refused}");

    let told = alice.run(["access", alice.at("f").to_str().unwrap()]);
    assert!(told.contains("a file of alice") && told.contains("only who may read it holds its key"), "{told}");
    let json: serde_json::Value =
        serde_json::from_str(&alice.run(["access", "--json", alice.at("f").to_str().unwrap()])).unwrap();
    let may = |name: &str| {
        let user = json["users"].as_array().unwrap().iter().find(|user| user["user"] == name).unwrap();
        (user["reads"].as_bool().unwrap(), user["writes"].as_bool().unwrap())
    };
    assert_eq!([may("bob"), may("alice"), may("carol")], [(false, false), (true, true), (false, false)]);
}

#[test]
fn what_is_written_while_the_right_to_it_goes_stays_and_is_told() {
    let mut group = Group::two();
    fs::write(group.alice().at("f"), "before").unwrap();
    chmod(group.alice().at("f"), 0o660).unwrap();
    settle(&group);
    let open = OpenOptions::new().append(true).open(group.bob().at("f")).unwrap();
    chmod(group.alice().at("f"), 0o640).unwrap();
    settle(&group);
    (&open).write_all(b" and after").unwrap();
    open.sync_all().unwrap();
    drop(open);
    let told = |bob: &Peer| {
        let unpublished = &bob.listing("status")["unpublished"];
        assert_eq!(unpublished[0]["path"], "f", "{unpublished}");
        assert_eq!(unpublished[0]["forbidden"], true);
        assert!(bob.run(["status"]).contains("unpublished f: you may not write to it any more"));
        assert_eq!(fs::read(bob.at("f")).unwrap(), b"before and after");
    };
    told(group.bob());
    group.peers[1].kill9();
    group.peers[1].mount();
    told(group.bob());
    assert_eq!(fs::read(group.alice().at("f")).unwrap(), b"before");

    chmod(group.alice().at("f"), 0o660).unwrap();
    group.all_read("f", b"before and after");
    assert_eq!(group.bob().listing("status")["unpublished"], serde_json::json!([]));
}

#[test]
fn what_one_makes_the_others_may_change_unless_a_folder_says_otherwise() {
    let group = three();
    let (alice, bob) = (group.alice(), group.bob());
    shell(alice.root(), "umask 077; echo a >f; mkdir -p d/e; echo b >d/e/g");
    settle(&group);
    shell(bob.root(), "echo more >>f; echo more >>d/e/g; mkdir d/e/h; mv f d/f");
    settle(&group);
    assert_eq!(fs::read_to_string(alice.at("d/f")).unwrap(), "a\nmore\n");
    // A plain umask again, and a folder whose files are for bob to read.
    let bobs = number(&group, "bob");
    shell(alice.root(), "mkdir plain lent; setfacl -b -k plain; umask 077; echo p >plain/p");
    setfacl(&alice.at("lent"), &["-b", "-k"]);
    setfacl(&alice.at("lent"), &["-d", "-m", &format!("u::rwx,u:{bobs}:r,g::-,o::-")]);
    shell(alice.root(), "echo l >lent/l");
    settle(&group);
    assert_eq!(word(fs::read(bob.at("plain/p"))), "EACCES");
    assert_eq!(fs::read_to_string(bob.at("lent/l")).unwrap(), "l\n");
    assert_eq!(word(append(&bob.at("lent/l"))), "EACCES");
    assert_eq!(word(fs::read(group.carol().at("lent/l"))), "EACCES");
    // On one's own mount one's own account stands for oneself, in lists too.
    let list = run("getfacl", ["-cnp", bob.at("lent/l").to_str().unwrap()]);
    assert!(list.contains(&format!("user:{}:r--", rustix::process::geteuid().as_raw())), "{list}");
}

#[test]
fn permissions_outlive_a_restart_and_hold_for_who_was_apart() {
    let mut group = three();
    shell(group.alice().root(), "mkdir d; echo one >d/f; echo two >f");
    group.part();
    chmod(group.alice().at("d"), 0o700).unwrap();
    fs::write(group.alice().at("d/late"), "private").unwrap();
    fs::write(group.bob().at("g"), "meanwhile").unwrap();
    for peer in &mut group.peers {
        peer.unmount();
    }
    group.registry.go_on();
    for peer in &mut group.peers {
        peer.mount();
    }
    group.peers.iter().for_each(|peer| peer.await_connected(2));
    settle(&group);
    for peer in &group.peers[1..] {
        assert_eq!(word(fs::read_dir(peer.at("d"))), "EACCES", "{}", peer.name());
        assert_eq!(fs::read_to_string(peer.at("f")).unwrap(), "two\n");
    }
    assert_eq!(fs::read_to_string(group.alice().at("d/late")).unwrap(), "private");
    assert_eq!(fs::read_to_string(group.alice().at("g")).unwrap(), "meanwhile");
}

#[test]
fn the_mode_of_many_files_changes_quickly() {
    let group = Group::two();
    let files = setting("P2PFS_TEST_FILES", 10_000);
    let folder = group.alice().at("many");
    fs::create_dir(&folder).unwrap();
    for nth in 0..files {
        fs::write(folder.join(nth.to_string()), "x").unwrap();
    }
    settle(&group);
    let begun = Instant::now();
    shell(group.alice().root(), "chmod -R g-rwx many");
    let took = begun.elapsed();
    println!("chmod -R of {files} files: {took:?}");
    assert!(took < Duration::from_secs(60), "{took:?}");
    settle(&group);
    assert_eq!(word(fs::read_dir(group.bob().at("many"))), "EACCES");
}
