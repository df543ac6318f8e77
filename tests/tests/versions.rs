//! The versions of paths and what is gone, as programs and people find them below `.p2pfs` and with `p2pfs history` and
//! `diff`.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::{MetadataExt, symlink},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use p2pfs_tests::{
    group::Group,
    peer::Peer,
    tool::{run, shell},
    tree::grow,
};
use rustix::io::Errno;
use serde_json::Value;

/// Long enough for what was done to be in a commit of its own.
fn pause() {
    thread::sleep(Duration::from_millis(60));
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The contents of the versions of a path, the oldest first. (A commit can come between making a file and writing it.)
fn contents(peer: &Peer, path: &str) -> Vec<String> {
    let folder = versions(peer, path);
    let contents = names(&folder).into_iter().map(|name| fs::read_to_string(folder.join(name)).unwrap());
    contents.filter(|content| !content.is_empty()).collect()
}

fn versions(peer: &Peer, path: &str) -> PathBuf {
    peer.at(".p2pfs/versions").join(path)
}

fn history(peer: &Peer, path: &str) -> Vec<Value> {
    let told = peer.run(["history", "--json", peer.at(path).to_str().unwrap()]);
    let mut told: Vec<Value> = serde_json::from_str(&told).unwrap();
    // A commit can come between making a file and writing it.
    if let Some(made) = told.iter().position(|event| event["size"] == 0) {
        told.remove(made);
        told[made - 1]["happened"] = "made".into();
    }
    told
}

/// The newest first: what happened, and the entry it happened to.
fn events(peer: &Peer, path: &str) -> Vec<(String, Option<String>)> {
    let told = |event: &Value| {
        let text = |field: &str| event[field].as_str().map(str::to_owned);
        (text("happened").unwrap(), text("name"))
    };
    history(peer, path).iter().map(told).collect()
}

#[test]
fn versions_are_files_that_programs_read() {
    let mut peer = Peer::alone();
    fs::create_dir(peer.at("folder")).unwrap();
    for content in ["one\n", "two\n"] {
        fs::write(peer.at("folder/note.txt"), content).unwrap();
        pause();
    }
    // As editors save.
    fs::write(peer.at("folder/.tmp"), "three\n").unwrap();
    pause();
    fs::rename(peer.at("folder/.tmp"), peer.at("folder/note.txt")).unwrap();
    pause();
    let path = "folder/note.txt";
    for remounted in [false, true] {
        if remounted {
            peer.remount();
        }
        assert_eq!(contents(&peer, path), ["one\n", "two\n", "three\n"]);
        let folder = versions(&peer, path);
        let mut listed = names(&folder);
        listed.retain(|name| fs::metadata(folder.join(name)).unwrap().len() > 0);
        assert!(listed.iter().all(|name| name.ends_with("Z~alice.txt") && name.starts_with("20")), "{listed:?}");
        // As the folder tells, and by the time alone.
        let third = fs::metadata(folder.join(&listed[2])).unwrap();
        let now = fs::metadata(peer.at(path)).unwrap();
        assert_eq!((third.len(), third.mtime(), third.mtime_nsec()), (6, now.mtime(), now.mtime_nsec()));
        let time = listed[0].split('~').next().unwrap();
        assert_eq!(fs::read_to_string(folder.join(time)).unwrap(), "one\n");
        // The tree of now, with folders for files; numbers stay.
        assert_eq!(names(&versions(&peer, "")), ["folder"]);
        assert_eq!(names(&versions(&peer, "folder")), ["note.txt"]);
        let number = || fs::metadata(&folder).unwrap().ino();
        let before = number();
        shell(peer.root(), "ls -lR .p2pfs/versions > /dev/null");
        assert_eq!(number(), before);
        // Looked up, what is gone is there.
        assert_eq!(contents(&peer, "folder/.tmp"), ["three\n"]);
    }
    let found = shell(peer.root(), "find .p2pfs/versions -type f -size +0c | wc -l");
    assert_eq!(found.trim(), "3");
    shell(peer.root(), "cp -a .p2pfs/versions/folder/note.txt copy");
    assert!(names(&peer.at("copy")).len() >= 3);
    // A listing that is open while more come goes on where it was, and a later one has them.
    fs::write(peer.at(path), "four\n").unwrap();
    pause();
    assert_eq!(contents(&peer, path).last().unwrap(), "four\n");
    fs::remove_file(peer.at(path)).unwrap();
    fs::remove_dir(peer.at("folder")).unwrap();
    pause();
    assert_eq!(contents(&peer, path), ["one\n", "two\n", "three\n", "four\n"]);
    assert_eq!(names(&versions(&peer, "folder")), ["note.txt"]);
    assert!(!versions(&peer, "never").exists() && !versions(&peer, "folder/never").exists());

    let refused = [
        fs::write(versions(&peer, path).join("new"), "x"),
        fs::remove_dir(versions(&peer, path)),
        fs::create_dir(peer.at(".p2pfs/deleted/new")),
        fs::remove_dir_all(peer.at(".p2pfs/deleted/folder")),
        fs::rename(peer.at(".p2pfs/deleted/folder"), peer.at("folder")),
    ];
    for (place, error) in refused.into_iter().enumerate() {
        let error = error.map_err(|e: io::Error| Errno::from_io_error(&e)).unwrap_err();
        assert!([Some(Errno::ROFS), Some(Errno::XDEV), Some(Errno::PERM)].contains(&error), "{place}: {error:?}");
    }
}

#[test]
fn what_was_deleted_is_found_where_it_was() {
    let mut peer = Peer::alone();
    grow(peer.root(), 200, 11);
    symlink("nowhere", peer.at("link")).unwrap();
    pause();
    fs::create_dir(peer.at("kept")).unwrap();
    fs::write(peer.at("kept/gone"), "it was here").unwrap();
    fs::create_dir(peer.at("idle")).unwrap();
    fs::write(peer.at("moved"), "elsewhere").unwrap();
    pause();
    let copy = peer.scratch().join("copy");
    shell(peer.scratch(), &format!("cp -a {} copy && rm -r copy/idle copy/kept copy/moved", peer.root().display()));
    fs::rename(peer.at("moved"), peer.at("idle/moved")).unwrap();
    fs::remove_file(peer.at("kept/gone")).unwrap();
    shell(
        peer.root(),
        "for f in * .[!.]*; do case $f in kept|idle|.p2pfs|'.[!.]*') ;; *) rm -rf -- \"$f\" ;; esac; done",
    );
    pause();
    for remounted in [false, true] {
        if remounted {
            peer.remount();
        }
        let deleted = peer.at(".p2pfs/deleted");
        assert!(!deleted.join("moved").exists() && deleted.join("idle").exists());
        assert_eq!(fs::read_to_string(deleted.join("kept/gone")).unwrap(), "it was here");
        assert_eq!(names(&deleted.join("kept")), ["gone"]);
        assert_eq!(fs::read_link(deleted.join("link")).unwrap(), Path::new("nowhere"));
        // `idle` had nothing happen to its names and is left out.
        assert!(!names(&deleted).contains(&"idle".to_owned()));
        // Trees come back whole.
        shell(peer.scratch(), &format!("rm -rf back && cp -a {} back && rm -r back/kept", deleted.display()));
        let back = peer.scratch().join("back");
        let modes =
            |root: &Path| shell(root, "find . ! -type d -printf '%P %y %m %s %T@\n' -o -printf '%P %m\n' | sort");
        assert_eq!(modes(&copy), modes(&back));
        run("diff", ["-r", "--no-dereference", copy.to_str().unwrap(), back.to_str().unwrap()]);
        let numbers = || shell(peer.root(), "find .p2pfs/deleted -printf '%i %P\n' | sort");
        let before = numbers();
        assert_eq!(numbers(), before);
    }
    // What has its name again isn't gone.
    fs::write(peer.at("kept/gone"), "again").unwrap();
    pause();
    assert!(names(&peer.at(".p2pfs/deleted/kept")).is_empty());
}

#[test]
fn history_tells_what_happened_and_who_did_it() {
    let group = Group::two();
    let (alice, bob) = (group.alice(), group.bob());
    fs::create_dir(alice.at("folder")).unwrap();
    fs::write(alice.at("folder/note"), "one").unwrap();
    group.in_step();
    fs::write(bob.at("folder/note"), "three").unwrap();
    group.in_step();
    shell(alice.root(), "chmod 640 folder/note; sleep 0.1; mv folder/note other; rmdir folder");
    group.in_step();
    for peer in [alice, bob] {
        let told = history(peer, "folder/note");
        let field = |name: &str| -> Vec<&str> { told.iter().map(|event| event[name].as_str().unwrap_or("")).collect() };
        assert_eq!(field("happened"), ["moved_away", "attributes", "written", "made"], "{}", peer.name());
        assert_eq!(field("user"), ["alice", "alice", "bob", "alice"]);
        assert_eq!(field("to")[0], "other");
        assert_eq!(told[2]["size"], 5);
        let device: String = field("device")[2].to_owned();
        assert!(peer.listing("devices").to_string().contains(&device));
        // As files are called, so they are found.
        for event in told.iter().filter_map(|event| event["file"].as_str()) {
            assert!(versions(peer, "folder/note").join(event).exists());
        }
        let events = events(peer, "folder");
        let event = |what: &str, name: Option<&str>| (what.to_owned(), name.map(str::to_owned));
        let expected = [
            event("removed", None),
            event("moved_away", Some("note")),
            event("made", Some("note")),
            event("made", None),
        ];
        for expected in &expected {
            assert!(events.contains(expected), "{events:?}");
        }
        assert_eq!(events.len(), 4, "{events:?}");
        assert_eq!(events[0], expected[0]);
    }
    let table = alice.run(["history", alice.at("folder/note").to_str().unwrap()]);
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("VERSION") && lines[1].ends_with("moved to other"), "{table}");
    assert!(lines.len() >= 5);
    let limited = alice.run(["history", "--limit", "2", alice.at("folder/note").to_str().unwrap()]);
    assert_eq!(limited.lines().count(), 3);
    let limited = |limit: &str| {
        let note = alice.at("folder/note");
        let told = alice.command(["history", "--limit", limit, note.to_str().unwrap()]).output().unwrap();
        (told.status.code(), String::from_utf8(told.stderr).unwrap())
    };
    let left_out = "p2pfs: older ones are left out: --limit NUMBER shows more\n";
    assert_eq!(limited("3"), (Some(0), left_out.to_owned()));
    assert_eq!(limited("100"), (Some(0), String::new()));
    assert_eq!(limited("0").0, Some(2));
    for command in ["history", "diff", "conflicts"] {
        let refusal = alice.refused([command, alice.at(".p2pfs/at/now/other").to_str().unwrap()]);
        assert!(refusal.contains("what lies below .p2pfs"), "{command}: {refusal}");
    }
    let refusal = alice.refused(["history", alice.at("never").to_str().unwrap()]);
    assert!(refusal.contains("nothing was ever at"), "{refusal}");
    let refusal = alice.refused(["history", "/never"]);
    assert!(refusal.contains("lies in no mounted volume"), "{refusal}");
}

#[test]
fn diff_shows_what_changed_in_a_text() {
    let mut group = Group::two();
    let text = |lines: &[&str]| lines.join("\n") + "\n";
    fs::write(group.alice().at("text"), text(&["a", "b", "c", "d", "e"])).unwrap();
    group.in_step();
    group.part();
    fs::write(group.alice().at("text"), text(&["A", "b", "c", "d", "e"])).unwrap();
    fs::write(group.bob().at("other"), "so that the second ranks above").unwrap();
    pause();
    fs::write(group.bob().at("text"), text(&["a", "b", "c", "d", "E"])).unwrap();
    group.meet();
    group.in_step();
    let alice = group.alice();
    let path = alice.at("text");
    let path = path.to_str().unwrap();
    let told = history(alice, "text");
    let versions: Vec<&str> = told.iter().map(|event| event["version"].as_str().unwrap()).collect();
    // Where alice's showed first and bob's came to show.
    assert_eq!(told.len(), 3, "{told:?}");
    let last_two = alice.run(["diff", path]);
    let lines: BTreeMap<&str, usize> = last_two.lines().skip(2).zip(0..).collect();
    assert!(["-A", "+a", "-e", "+E"].iter().all(|line| lines.contains_key(line)), "{last_two}");
    let one = alice.run(["diff", path, versions[2]]);
    assert!(one.contains("\n-e\n+E") && !one.contains("-a"), "{one}");
    assert!(one.starts_with(&format!("--- text@{}\n+++ text\n", versions[2])), "{one}");
    let two = alice.run(["diff", path, versions[2], versions[1]]);
    assert!(two.contains("-a\n+A\n") && !two.contains("-e"), "{two}");
    // What two made apart is theirs, whoever's commit came second.
    for peer in &group.peers {
        let folder = fs::read_dir(peer.root()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let copy = folder.into_iter().find(|name| name.starts_with("text") && name != "text").unwrap();
        let who: Vec<String> =
            history(peer, &copy).iter().map(|event| event["user"].as_str().unwrap().to_owned()).collect();
        assert_eq!(who, ["alice"], "{}", peer.name());
        let files = names(&self::versions(peer, &copy));
        assert!(files.iter().all(|name| name.ends_with("~alice")) && files.len() == 1, "{files:?}");
    }
    let present = alice.run(["diff", "--merge", path, versions[1]]);
    let merged = alice.run(["diff", "--merge", path, versions[1], versions[0]]);
    assert_eq!(present, merged);
    let refusal = alice.refused(["diff", "--merge", path]);
    assert!(refusal.contains("diff --merge PATH VERSION [VERSION]"), "{refusal}");
    let refusal = alice.refused(["diff", alice.at("never").to_str().unwrap()]);
    assert!(refusal.contains("nothing was ever at"), "{refusal}");
    assert_eq!(merged.trim_end(), text(&["A", "b", "c", "d", "E"]).trim_end());

    fs::write(alice.at("binary"), [0, 1]).unwrap();
    pause();
    fs::write(alice.at("binary"), [0, 2]).unwrap();
    pause();
    let binary = alice.run(["diff", alice.at("binary").to_str().unwrap()]);
    assert!(binary.starts_with("binary files") && binary.lines().count() == 1, "{binary}");
    fs::remove_file(alice.at("text")).unwrap();
    pause();
    let gone = alice.run(["diff", path]);
    assert!(gone.contains("-A") && gone.contains("+E"), "{gone}");
    let refusal = alice.refused(["diff", path, versions[0]]);
    assert!(refusal.contains("is gone"), "{refusal}");
    let refusal = alice.refused(["diff", path, "yesterday", versions[0]]);
    assert!(refusal.contains("has no version"), "{refusal}");
}
