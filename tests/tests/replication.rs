//! What one does on their mount, the others find on theirs; and what happens to work that was done apart.

use std::{
    fs::{self, File},
    io::Read,
    os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use p2pfs_tests::{
    group::Group,
    mapping::Mapping,
    patience::{PATIENCE, eventually, holds, within},
    peer::Peer,
    random::Random,
    tool::shell,
    tree::{grow, names, set_mtime, snapshot},
};

/// Waits until `path` is not on `peer`'s mount.
fn gone(peer: &Peer, path: &str) {
    eventually(&format!("{path} is gone at {}", peer.name()), || {
        holds(fs::symlink_metadata(peer.at(path)).is_err(), || "it is there".to_owned())
    });
}

/// Names of conflicting versions in a folder.
fn conflicts(folder: &Path) -> Vec<String> {
    names(folder).into_iter().filter(|name| name.contains("(conflict")).collect()
}

/// What the files in a folder hold, in order.
fn contents(folder: &Path) -> Vec<String> {
    let mut all: Vec<String> =
        names(folder).iter().map(|name| fs::read_to_string(folder.join(name)).unwrap()).collect();
    all.sort();
    all
}

#[test]
fn contents_of_every_size_arrive() {
    let group = Group::two();
    let mut random = Random::new(1);
    for (number, len) in [0, 1, 4095, 4096, 4097, 65_536, 131_072, 131_073, 3_000_000].into_iter().enumerate() {
        let (from, name) = (&group.peers[number % 2], format!("file of {len}"));
        let content = random.bytes(len);
        fs::write(from.at(&name), &content).unwrap();
        group.all_read(&name, &content);
    }
    group.in_step();
}

/// Whoever waits has what was answered to the others' programs before, though they gather it for some milliseconds.
#[test]
fn a_wait_covers_what_was_done_before_it() {
    let group = Group::two();
    for round in 0..60 {
        let (from, to) = (&group.peers[round % 2], &group.peers[1 - round % 2]);
        let content = format!("content {round}");
        fs::write(from.at("file"), &content).unwrap();
        to.wait();
        assert_eq!(fs::read_to_string(to.at("file")).unwrap(), content);
    }
}

#[test]
fn a_tree_arrives_with_its_attributes() {
    let group = Group::two();
    grow(&group.alice().at("tree"), 300, 5);
    let file = group.alice().at("tree/special");
    fs::write(&file, "content").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o751)).unwrap();
    xattr::set(&file, "user.comment", b"\0binary\xff").unwrap();
    fs::hard_link(&file, group.alice().at("tree/second name")).unwrap();
    symlink("special", group.alice().at("tree/link")).unwrap();
    shell(group.alice().root(), "setfacl -m u:1234:r tree/special; mkfifo tree/pipe");
    set_mtime(&file, 1_111_111_111, 222_222_222);
    group.in_step();
    let copy = group.bob().at("tree/special");
    let known = fs::metadata(&copy).unwrap();
    assert_eq!((known.mtime(), known.mtime_nsec()), (1_111_111_111, 222_222_222));
    assert_eq!((known.mode() & 0o701, known.nlink()), (0o701, 2));
    assert_eq!(xattr::get(&copy, "user.comment").unwrap().unwrap(), b"\0binary\xff");
}

#[test]
fn changes_arrive_at_one_who_has_looked_before() {
    let group = Group::two();
    let (alice, bob) = (group.alice(), group.bob());
    fs::create_dir(alice.at("d")).unwrap();
    fs::write(alice.at("d/f"), "first").unwrap();
    group.all_read("d/f", b"first");
    // Everything bob's kernel can remember: the folder's entries, the file's attributes and pages, a name that isn't,
    // an open file.
    let mut open = File::open(bob.at("d/f")).unwrap();
    assert_eq!(names(&bob.at("d")), ["f"]);
    assert!(!bob.at("d/new").exists());
    assert_eq!(fs::metadata(bob.at("d/f")).unwrap().len(), 5);

    fs::write(alice.at("d/new"), "new").unwrap();
    fs::write(alice.at("d/f"), "second, longer").unwrap();
    fs::set_permissions(alice.at("d/f"), fs::Permissions::from_mode(0o640)).unwrap();
    group.all_read("d/new", b"new");
    group.all_read("d/f", b"second, longer");
    assert_eq!(names(&bob.at("d")), ["f", "new"]);
    let mode = || fs::metadata(bob.at("d/f")).unwrap().mode() & 0o777;
    eventually("the mode arrives", || holds(mode() == 0o640, || format!("{:o}", mode())));
    assert_eq!(fs::metadata(bob.at("d/f")).unwrap().len(), 14);
    let mut text = String::new();
    open.read_to_string(&mut text).unwrap();
    assert_eq!(text, "second, longer", "also for who has it open");

    fs::rename(alice.at("d/f"), alice.at("moved")).unwrap();
    gone(bob, "d/f");
    assert_eq!(fs::read(bob.at("moved")).unwrap(), b"second, longer");
    assert_eq!(names(&bob.at("d")), ["new"]);
    fs::remove_file(alice.at("d/new")).unwrap();
    fs::remove_dir(alice.at("d")).unwrap();
    gone(bob, "d");
    assert_eq!(names(bob.root()), ["moved"]);
}

/// A mapping is the hardest cache of all to get at.
#[test]
fn a_mapped_file_shows_what_arrives() {
    let group = Group::two();
    fs::write(group.alice().at("f"), vec![1; 100_000]).unwrap();
    group.all_read("f", &[1; 100_000]);
    let file = File::options().read(true).write(true).open(group.bob().at("f")).unwrap();
    let mapping = Mapping::new(&file, 100_000).unwrap();
    assert_eq!(mapping.read()[50_000], 1);
    drop(file);
    File::options().write(true).open(group.alice().at("f")).unwrap().write_all_at(&[2; 10], 50_000).unwrap();
    eventually("the store arrives", || holds(mapping.read()[50_000] == 2, || "still the old byte".to_owned()));
}

/// A version that comes between opening and writing is in the kernel's pages, and not in what the writer began from.
#[test]
fn who_writes_late_is_read_as_what_is_published() {
    let mut group = Group::two();
    for (round, len) in [50_000, 150_000, 250_000].into_iter().enumerate() {
        let (alice, bob) = (group.alice(), group.bob());
        let name = format!("f{round}");
        let old = vec![1; 150_000];
        fs::write(alice.at(&name), &old).unwrap();
        group.all_read(&name, &old);
        let open = File::options().read(true).write(true).open(alice.at(&name)).unwrap();
        let new = vec![2; len];
        fs::write(bob.at(&name), &new).unwrap();
        bob.wait();
        alice.wait();
        // Now pages of the new version are kept, and nothing is left to drop them.
        assert!(fs::read(alice.at(&name)).unwrap() == new);

        open.write_all_at(&[3], 20_000).unwrap();
        let mut written = old.clone();
        written[20_000] = 3;
        let read = |of: &str| fs::read(alice.at(of)).unwrap();
        eventually("what was begun from shows", || holds(read(&name) == written, || format!("{}", read(&name).len())));
        assert_eq!(fs::metadata(alice.at(&name)).unwrap().len(), 150_000);
        drop(open);
        group.in_step();
        let copy = conflicts(alice.root()).into_iter().find(|copy| copy.starts_with(&name)).unwrap();
        let both = [read(&name), read(&copy)];
        assert!(both.contains(&written) && both.contains(&new), "one of the two is lost");
        // Nor is it the kernel's memory that tells so.
        group.peers[0].unmount();
        group.peers[0].mount();
        let again = |of: &str| fs::read(group.alice().at(of)).unwrap();
        assert!([again(&name), again(&copy)] == both);
    }
}

/// What is stored into a page is work on the version which that page is of.
#[test]
fn a_store_into_an_older_page_hides_nobody_s_version() {
    let group = Group::two();
    let (alice, bob) = (group.alice(), group.bob());
    for (round, len) in [100, 150_000].into_iter().enumerate() {
        let name = format!("f{round}");
        let old = vec![1; len];
        fs::write(alice.at(&name), &old).unwrap();
        group.all_read(&name, &old);
        let file = File::options().read(true).write(true).open(alice.at(&name)).unwrap();
        let mut mapping = Mapping::new(&file, len).unwrap();
        drop(file);
        assert!(mapping.read() == old);
        mapping.store(50, &[9]);
        let new = vec![2; len];
        fs::write(bob.at(&name), &new).unwrap();
        bob.wait();
        alice.wait();
        drop(mapping);
        group.in_step();
        let mut stored = old;
        stored[50] = 9;
        let copies: Vec<String> = names(alice.root()).into_iter().filter(|copy| copy.starts_with(&name)).collect();
        let all: Vec<Vec<u8>> = copies.iter().map(|copy| fs::read(alice.at(copy)).unwrap()).collect();
        assert!(all.contains(&new), "bob's version is gone: {copies:?}");
        assert!(all.contains(&stored), "alice's store is gone: {copies:?}");
        assert_eq!(all.len(), 2);
    }
}

/// A mapping follows what arrives, and who stores into it then has seen that.
#[test]
fn a_store_into_a_newer_page_makes_no_conflict() {
    let group = Group::two();
    let (alice, bob) = (group.alice(), group.bob());
    let mut content = vec![1; 150_000];
    fs::write(alice.at("f"), &content).unwrap();
    group.all_read("f", &content);
    let file = File::options().read(true).write(true).open(alice.at("f")).unwrap();
    let mut mapping = Mapping::new(&file, content.len()).unwrap();
    drop(file);
    assert!(mapping.read() == content);
    for round in 2..5 {
        content.fill(round);
        fs::write(bob.at("f"), &content).unwrap();
        bob.wait();
        alice.wait();
        assert!(mapping.read() == content);
    }
    mapping.store(100_000, &[9]);
    content[100_000] = 9;
    drop(mapping);
    group.all_read("f", &content);
    group.in_step();
    assert_eq!(names(bob.root()), ["f"]);
}

#[test]
fn whole_folders_move_and_go() {
    let group = Group::two();
    let (alice, bob) = (group.alice(), group.bob());
    grow(&alice.at("a/tree"), 200, 6);
    fs::create_dir(alice.at("b")).unwrap();
    group.in_step();
    let before = snapshot(&bob.at("a/tree")).unwrap();
    fs::rename(bob.at("a/tree"), bob.at("b/moved")).unwrap();
    eventually("it moves at alice", || holds(alice.at("b/moved").exists(), String::new));
    group.in_step();
    assert!(snapshot(&alice.at("b/moved")).unwrap() == before);
    fs::remove_dir_all(alice.at("b")).unwrap();
    gone(bob, "b");
    group.in_step();
    assert_eq!(names(bob.root()), ["a"]);
}

#[test]
fn a_small_change_in_a_large_file_arrives() {
    let group = Group::two();
    let mut content = Random::new(3).bytes(8 << 20);
    fs::write(group.alice().at("f"), &content).unwrap();
    group.in_step();
    let file = File::options().write(true).open(group.bob().at("f")).unwrap();
    file.write_all_at(b"changed", 5_000_000).unwrap();
    drop(file);
    content[5_000_000..5_000_007].copy_from_slice(b"changed");
    group.all_read("f", &content);
    fs::File::options().write(true).open(group.alice().at("f")).unwrap().set_len(1_000_000).unwrap();
    group.all_read("f", &content[..1_000_000]);
}

#[test]
fn both_work_at_once_in_one_folder() {
    const FILES: usize = 200;
    let group = Group::two();
    fs::create_dir(group.alice().at("d")).unwrap();
    group.in_step();
    std::thread::scope(|scope| {
        for peer in &group.peers {
            scope.spawn(move || {
                for number in 0..FILES {
                    let path = peer.at(format!("d/{}-{number}", peer.name()));
                    fs::write(&path, format!("{number}")).unwrap();
                    if number % 3 == 0 {
                        fs::rename(&path, path.with_extension("moved")).unwrap();
                    }
                }
            });
        }
    });
    group.in_step();
    assert_eq!(names(&group.bob().at("d")).len(), 2 * FILES);
}

#[test]
fn those_who_edit_one_file_apart_both_keep_their_work() {
    let mut group = Group::two();
    fs::write(group.alice().at("plan.txt"), "base").unwrap();
    group.part();
    fs::write(group.alice().at("plan.txt"), "alice's words").unwrap();
    fs::write(group.bob().at("plan.txt"), "bob's words").unwrap();
    group.meet();
    let (alice, bob) = (group.alice(), group.bob());
    assert_eq!(contents(bob.root()), ["alice's words", "bob's words"]);
    let copies = conflicts(bob.root());
    assert_eq!(copies.len(), 1, "{:?}", names(bob.root()));
    assert!(copies[0].starts_with("plan (conflict of ") && copies[0].ends_with(".txt"), "{copies:?}");
    assert!(bob.at("plan.txt").exists());
    assert_eq!(bob.listing("status")["conflicts"], 1);
    // Deleting the copy settles it for both.
    fs::remove_file(alice.at(&copies[0])).unwrap();
    gone(bob, &copies[0]);
    group.in_step();
    assert_eq!(names(bob.root()), ["plan.txt"]);
    assert_eq!(alice.listing("status")["conflicts"], 0);
}

#[test]
fn an_editor_s_save_does_not_hide_the_other_s_work() {
    let mut group = Group::two();
    fs::write(group.alice().at("f"), "base").unwrap();
    group.part();
    for peer in &group.peers {
        fs::write(peer.at("f.tmp"), format!("{}'s", peer.name())).unwrap();
        fs::rename(peer.at("f.tmp"), peer.at("f")).unwrap();
    }
    group.meet();
    let all = contents(group.alice().root());
    for name in ["alice's", "bob's"] {
        assert!(all.iter().any(|text| text == name), "{name} is lost: {all:?}");
    }
}

#[test]
fn an_edit_outlives_a_removal_that_had_not_seen_it() {
    let mut group = Group::two();
    fs::create_dir(group.alice().at("d")).unwrap();
    fs::write(group.alice().at("d/f"), "base").unwrap();
    fs::write(group.alice().at("d/g"), "base").unwrap();
    group.part();
    fs::remove_dir_all(group.alice().at("d")).unwrap();
    fs::write(group.bob().at("d/f"), "bob's work").unwrap();
    group.meet();
    assert_eq!(fs::read(group.alice().at("d/f")).unwrap(), b"bob's work");
    assert!(!group.alice().at("d/g").exists(), "nobody missed it");
    // Removing it now is final.
    fs::remove_dir_all(group.alice().at("d")).unwrap();
    group.in_step();
    assert!(names(group.bob().root()).is_empty());
}

#[test]
fn a_folder_that_both_made_is_one() {
    let mut group = Group::two();
    group.part();
    for peer in &group.peers {
        fs::create_dir_all(peer.at("d/shared")).unwrap();
        fs::write(peer.at(format!("d/{}", peer.name())), peer.name()).unwrap();
        fs::write(peer.at(format!("d/shared/{}", peer.name())), peer.name()).unwrap();
    }
    group.meet();
    let bob = group.bob();
    assert_eq!(names(bob.root()), ["d"]);
    assert_eq!(names(&bob.at("d")), ["alice", "bob", "shared"]);
    assert_eq!(names(&bob.at("d/shared")), ["alice", "bob"]);
    // It goes on as one: new entries, removal, renaming.
    fs::write(bob.at("d/more"), "more").unwrap();
    fs::rename(bob.at("d"), bob.at("e")).unwrap();
    group.in_step();
    assert_eq!(names(&group.alice().at("e")), ["alice", "bob", "more", "shared"]);
    fs::remove_dir_all(group.alice().at("e")).unwrap();
    group.in_step();
    assert!(names(bob.root()).is_empty());
}

#[test]
fn a_file_that_both_made_is_two() {
    let mut group = Group::two();
    group.part();
    for peer in &group.peers {
        fs::write(peer.at("f.txt"), peer.name()).unwrap();
    }
    group.meet();
    assert_eq!(contents(group.bob().root()), ["alice", "bob"]);
    assert!(group.bob().at("f.txt").exists());
}

#[test]
fn folders_moved_into_each_other_make_no_circle() {
    let mut group = Group::two();
    for name in ["a", "b"] {
        fs::create_dir(group.alice().at(name)).unwrap();
        fs::write(group.alice().at(name).join(format!("in {name}")), name).unwrap();
    }
    group.part();
    fs::rename(group.alice().at("a"), group.alice().at("b/a")).unwrap();
    fs::rename(group.bob().at("b"), group.bob().at("a/b")).unwrap();
    group.meet();
    let found = shell(group.bob().root(), "find . -type f -name 'in *' | wc -l");
    assert_eq!(found.trim(), "2", "both files can be reached");
    let deep = shell(group.bob().root(), "find . -type d | wc -l");
    assert_eq!(deep.trim(), "3", "the root and two folders");
}

#[test]
fn a_name_moved_two_ways_is_in_one_place() {
    let mut group = Group::two();
    fs::write(group.alice().at("f"), "content").unwrap();
    group.part();
    fs::rename(group.alice().at("f"), group.alice().at("alice's")).unwrap();
    fs::rename(group.bob().at("f"), group.bob().at("bob's")).unwrap();
    group.meet();
    let found = names(group.bob().root());
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(fs::read(group.bob().at(&found[0])).unwrap(), b"content");
}

#[test]
fn work_done_while_a_daemon_was_frozen_arrives() {
    let group = Group::two();
    fs::write(group.alice().at("f"), "base").unwrap();
    group.in_step();
    group.bob().freeze();
    grow(&group.alice().at("tree"), 200, 8);
    fs::write(group.alice().at("f"), "changed").unwrap();
    group.bob().thaw();
    group.all_read("f", b"changed");
    group.in_step();
}

/// A connection that is lost without a word is made again.
#[test]
fn a_connection_lost_in_silence_is_made_again() {
    let group = Group::two();
    group.bob().freeze();
    // As long as a connection may be silent.
    within(2 * PATIENCE, "alice notices", || holds(group.alice().connected() == 0, || "not yet".to_owned()));
    fs::write(group.alice().at("f"), "while away").unwrap();
    group.bob().thaw();
    group.all_read("f", b"while away");
    group.in_step();
}

#[test]
fn a_third_passes_on_what_two_who_never_meet_do() {
    let mut group = Group::three();
    group.in_step();
    group.peers[0].unmount();
    fs::write(group.bob().at("from bob"), Random::new(4).bytes(500_000)).unwrap();
    group.carol().wait();
    group.peers[1].unmount();
    group.peers[0].mount();
    let expected = Random::new(4).bytes(500_000);
    eventually("alice has it from carol", || match fs::read(group.alice().at("from bob")) {
        Ok(bytes) => holds(bytes == expected, || format!("{} other bytes", bytes.len())),
        Err(e) => Err(e.to_string()),
    });
    fs::write(group.alice().at("from alice"), "content").unwrap();
    group.carol().wait();
    group.peers[1].mount();
    group.in_step();
}

#[test]
fn three_work_at_once() {
    let group = Group::three();
    std::thread::scope(|scope| {
        for peer in &group.peers {
            scope.spawn(move || grow(&peer.at(peer.name()), 150, peer.name().len() as u64));
        }
    });
    group.in_step();
    assert_eq!(names(group.carol().root()), ["alice", "bob", "carol"]);
}

#[test]
fn those_who_have_met_need_no_registry() {
    let mut group = Group::two();
    group.in_step();
    group.registry.stop();
    fs::write(group.alice().at("one"), "1").unwrap();
    group.all_read("one", b"1");
    // Not even to find each other again.
    group.peers[1].unmount();
    fs::write(group.alice().at("two"), "2").unwrap();
    group.peers[1].mount();
    group.all_read("two", b"2");
    group.registry.go_on();
    fs::write(group.bob().at("three"), "3").unwrap();
    group.all_read("three", b"3");
}

#[test]
fn a_registry_that_comes_late_brings_them_together() {
    let mut group = Group::two();
    group.part();
    fs::write(group.alice().at("f"), "content").unwrap();
    group.registry.go_on();
    group.bob().await_connected(1);
    group.all_read("f", b"content");
}

#[test]
fn one_who_joins_late_gets_everything() {
    let mut group = Group::two();
    grow(&group.alice().at("tree"), 300, 9);
    fs::write(group.alice().at("large"), Random::new(5).bytes(5_000_000)).unwrap();
    fs::write(group.bob().at("deleted"), "x").unwrap();
    group.in_step();
    fs::remove_file(group.bob().at("deleted")).unwrap();
    group.add("carol");
    group.in_step();
    assert_eq!(names(group.carol().root()), ["large", "tree"]);
    fs::write(group.carol().at("f"), "carol's").unwrap();
    group.all_read("f", b"carol's");
}

/// Promise 2: what was shown once is never shown older.
#[test]
fn nobody_ever_sees_a_file_go_backwards() {
    const VERSIONS: u64 = 400;
    let mut group = Group::three();
    let version = |n: u64| format!("{n:>8}{}", "x".repeat(10_000));
    fs::write(group.alice().at("f"), version(0)).unwrap();
    group.all_read("f", version(0).as_bytes());
    let read = |peer: &Peer| {
        let text = fs::read_to_string(peer.at("f")).unwrap();
        text[..8].trim().parse::<u64>().unwrap_or_else(|_| panic!("{text:?}"))
    };
    let written = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 1..=VERSIONS {
                fs::write(group.alice().at("f.tmp"), version(n)).unwrap();
                fs::rename(group.alice().at("f.tmp"), group.alice().at("f")).unwrap();
            }
            written.store(true, Ordering::Relaxed);
        });
        for reader in &group.peers[1..] {
            let written = &written;
            scope.spawn(move || {
                let mut last = 0;
                while !written.load(Ordering::Relaxed) {
                    let now = read(reader);
                    assert!(now >= last, "{} saw {last}, then {now}", reader.name());
                    last = now;
                }
            });
        }
    });
    // Nor after a restart beside somebody who is behind.
    group.bob().wait();
    assert_eq!(read(group.bob()), VERSIONS);
    group.peers[0].unmount();
    group.peers[1].kill9();
    group.peers[1].mount();
    assert_eq!(read(group.bob()), VERSIONS);
}
