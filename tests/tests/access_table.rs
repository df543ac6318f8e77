//! Role x mode and access list x what is tried, cell by cell, on four mounts.

use std::{fs, io};

use p2pfs_tests::{
    deeds::{Deed, WITH_FILE, WITH_FOLDER},
    group::Group,
    patience::eventually,
    peer::Peer,
};

/// How alice opens what is hers to others: to members by the mode, to bob by name, who is then as no other member.
struct Row {
    mode: &'static str,
    to_bob: Option<&'static str>,
}

const ROWS: [Row; 9] = [
    Row { mode: "600", to_bob: None },
    Row { mode: "640", to_bob: None },
    Row { mode: "660", to_bob: None },
    // Bits for others mean nothing between members.
    Row { mode: "606", to_bob: None },
    Row { mode: "600", to_bob: Some("r") },
    Row { mode: "600", to_bob: Some("rw") },
    Row { mode: "660", to_bob: Some("-") },
    Row { mode: "660", to_bob: Some("r") },
    Row { mode: "640", to_bob: Some("rw") },
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Owner,
    Admin,
    Writer,
    Reader,
}

const USERS: [(&str, Role); 4] =
    [("alice", Role::Owner), ("bob", Role::Writer), ("carol", Role::Reader), ("dave", Role::Admin)];

impl Row {
    /// Whether somebody may read it and, as far as it goes by this, write it.
    fn lets(&self, user: &str) -> (bool, bool) {
        let class = |bits: &str| (bits.contains('r'), bits.contains('w'));
        match (user, self.to_bob) {
            ("alice", _) => (true, true),
            ("bob", Some(bits)) => class(bits),
            _ => class(["-", "", "", "", "r", "", "rw"][usize::from(self.mode.as_bytes()[1] - b'0')]),
        }
    }

    /// How it is to end.
    fn expected(&self, (user, role): (&str, Role), of_folder: bool, deed: &str) -> &'static [&'static str] {
        let (reads, writes) = self.lets(user);
        let may = |may: bool| if may { &["yes"][..] } else { &["EACCES"] };
        match (of_folder, deed) {
            (_, "stat") => &["yes"],
            (_, "list" | "look up" | "read in it" | "read a link") | (false, "read" | "get attribute") => may(reads),
            // The kernel may see by itself what a reader's machine refuses as a whole.
            (..) if role == Role::Reader => &["EROFS", "EACCES", "EPERM"],
            // An admin decides about it as the owner does, but needs its key to hand it on.
            (_, "mode") if !reads => &["EACCES"],
            (_, "mode") if role == Role::Writer => &["EPERM"],
            (_, "mode") => &["yes"],
            // These are of the folder that it is in, which is open to all who write.
            (false, "link" | "rename" | "unlink") => &["yes"],
            _ => may(writes),
        }
    }
}

fn word(done: io::Result<()>) -> &'static str {
    match done.map_err(|e| e.raw_os_error()) {
        Ok(()) => "yes",
        Err(Some(libc::EACCES)) => "EACCES",
        Err(Some(libc::EPERM)) => "EPERM",
        Err(Some(libc::EROFS)) => "EROFS",
        Err(Some(libc::ENOENT)) => "ENOENT",
        Err(other) => panic!("errno {other:?}"),
    }
}

fn settle(group: &Group) {
    group.peers.iter().for_each(Peer::wait);
    for peer in &group.peers {
        eventually("permissions followed", || match peer.listing("status")["following"].as_u64() {
            Some(0) => Ok(()),
            left => Err(format!("{left:?} folders are left for {}", peer.name())),
        });
    }
    group.peers.iter().for_each(Peer::wait);
}

#[test]
fn everybody_may_what_role_mode_and_list_say() {
    let mut group = Group::two();
    group.add_as("carol", "reader");
    group.add_as("dave", "admin");
    let alice = group.alice();
    for folder in ["files", "folders"] {
        fs::create_dir(alice.at(folder)).unwrap();
        for (nth, row) in ROWS.iter().enumerate() {
            for (user, _) in USERS {
                let path = alice.at(folder).join(format!("{user}{nth}"));
                if folder == "folders" {
                    fs::create_dir_all(path.join("sub")).unwrap();
                    fs::write(path.join("f"), "text").unwrap();
                    std::os::unix::fs::symlink("there", path.join("l")).unwrap();
                } else {
                    fs::write(&path, "text").unwrap();
                }
                p2pfs_tests::tool::run("chmod", [row.mode, path.to_str().unwrap()]);
                if folder == "folders" {
                    // (For who may look into it, `x` is as good as `r`.)
                    p2pfs_tests::tool::run("chmod", ["u+x", path.to_str().unwrap()]);
                }
                if let Some(bits) = row.to_bob {
                    alice.run(["allow", path.to_str().unwrap(), &format!("bob:{bits}")]);
                }
            }
        }
    }
    settle(&group);
    let mut wrong = Vec::new();
    let mut cells = 0;
    for (peer, user) in [0, 1, 2, 3].map(|nth| &group.peers[nth]).into_iter().zip(USERS) {
        for (nth, row) in ROWS.iter().enumerate() {
            for (folder, deeds) in [("files", &WITH_FILE[..]), ("folders", &WITH_FOLDER)] {
                let path = peer.at(folder).join(format!("{}{nth}", user.0));
                for (what, deed) in deeds {
                    let expected = row.expected(user, folder == "folders", what);
                    let got = word(deed(&path));
                    cells += 1;
                    // What could not be renamed isn't there under the new name.
                    let same = expected.contains(&got) || *what == "unlink" && got == "ENOENT" && expected[0] != "yes";
                    if !same {
                        let to_bob = row.to_bob.unwrap_or("nothing");
                        wrong.push(format!(
                            "{} of {}, {folder}, mode {}, to bob {to_bob}, {what}: {got}, not {expected:?}",
                            user.0,
                            peer.name(),
                            row.mode
                        ));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {cells} cells are wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(cells, 4 * 9 * 23);
    // What each did is so for all, and what nobody may do is so for nobody.
    settle(&group);
    for (user, (nth, row)) in USERS.into_iter().flat_map(|user| ROWS.iter().enumerate().map(move |row| (user, row))) {
        let named = format!("{}{nth}", user.0);
        assert_eq!(alice.at("files").join(&named).exists(), user.1 == Role::Reader, "{named}");
        let created = row.expected(user, true, "create")[0] == "yes";
        assert_eq!(alice.at("folders").join(&named).join("new").exists(), created, "{named}");
    }
}

#[test]
fn a_deed_has_one_name() {
    let names = |deeds: &[Deed]| deeds.iter().map(|(name, _)| *name).collect::<std::collections::BTreeSet<_>>().len();
    assert_eq!((names(&WITH_FILE), names(&WITH_FOLDER)), (WITH_FILE.len(), WITH_FOLDER.len()));
}
