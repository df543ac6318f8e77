//! The paths in the audit log: those that things have as something is done with them, whoever moved what above them.

use std::sync::Arc;

use crate::common::{Replica, sync};
use crypto::OsEntropy;
use p2pfs_volume::{
    Deed, Role,
    audit::{Audit, Limits, Op},
    node::{Caller, Ino},
};

/// What the log says of where something is.
fn told(replica: &Replica, at: Ino) -> Option<String> {
    let deed = Deed { op: Op::Read, at, name: None, to: None };
    replica.volume.tell_deed(deed, &Caller::default(), None);
    let audit = replica.volume.audit().unwrap();
    audit.flush();
    audit.read(audit.synced().count, 1).unwrap().entries.pop().unwrap().path
}

fn with_log(replica: &Replica) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let secret = crypto::SymmetricKey::generate(&OsEntropy);
    replica.volume.set_audit(Audit::open(directory.path(), &secret, Arc::new(OsEntropy), Limits::default()).unwrap());
    directory
}

#[test]
fn a_path_is_what_it_is_now() {
    let alice = Replica::founder("alice", 1);
    let bob = Replica::joined("bob", 2, &alice, Role::Writer);
    let _logs = [with_log(&alice), with_log(&bob)];
    for directory in ["a", "a/b", "a/b/c", "x"] {
        alice.mkdir(directory).unwrap();
    }
    alice.write("a/b/c/f", b"text").unwrap();
    sync(&alice, &bob);
    sync(&alice, &bob);
    let check = |replica: &Replica, file: Ino, path: &str| {
        // Twice: found, and kept.
        for _ in 0..2 {
            assert_eq!(told(replica, file).as_deref(), Some(path));
        }
        assert_eq!(replica.find(path).unwrap(), file);
    };
    let (here, there) = (alice.find("a/b/c/f").unwrap(), bob.find("a/b/c/f").unwrap());
    check(&alice, here, "a/b/c/f");
    check(&bob, there, "a/b/c/f");
    for (from, to, path) in
        [("a", "z", "z/b/c/f"), ("z/b", "x/b", "x/b/c/f"), ("x/b/c", "c", "c/f"), ("c/f", "x/g", "x/g")]
    {
        alice.rename(from, to).unwrap();
        check(&alice, here, path);
        // What others move is told as well.
        sync(&alice, &bob);
        check(&bob, there, path);
    }
    assert_eq!(told(&alice, Ino::ROOT).as_deref(), Some(""));
    alice.remove("x/g").unwrap();
    assert_eq!(told(&alice, here), None);
}

#[test]
fn what_others_removed_and_moved_is_told_by_the_path_that_it_had() {
    let alice = Replica::founder("alice", 1);
    let bob = Replica::joined("bob", 2, &alice, Role::Writer);
    let _log = with_log(&bob);
    for directory in ["a", "a/b", "c"] {
        alice.mkdir(directory).unwrap();
    }
    for file in ["a/b/f", "a/g", "h"] {
        alice.write(file, b"text").unwrap();
    }
    sync(&alice, &bob);
    sync(&alice, &bob);
    let audit = bob.volume.audit().unwrap();
    audit.flush();
    let before = audit.synced().count;
    alice.rename("h", "c/i").unwrap();
    for path in ["c/i", "a/b/f", "a/b", "a/g", "a"] {
        let removed = if ["a", "a/b"].contains(&path) { alice.rmdir(path) } else { alice.remove(path) };
        removed.unwrap();
    }
    sync(&alice, &bob);
    audit.flush();
    let told = audit.read(before + 1, 100).unwrap().entries.into_iter();
    let told: Vec<_> = told.map(|entry| (entry.op, entry.path.unwrap_or_default(), entry.to)).collect();
    let removed = |path: &str| (Op::Remove, path.to_owned(), None);
    let expected = [
        (Op::Rename, "h".to_owned(), Some("c/i".to_owned())),
        removed("c/i"),
        removed("a/b/f"),
        removed("a/b"),
        removed("a/g"),
        removed("a"),
    ];
    assert_eq!(told, expected);
}

#[test]
fn what_shows_beside_another_is_told_by_that_name() {
    let alice = Replica::founder("alice", 1);
    let bob = Replica::joined("bob", 2, &alice, Role::Writer);
    let _logs = [with_log(&alice), with_log(&bob)];
    for directory in ["one", "two"] {
        alice.mkdir(directory).unwrap();
        alice.write(&format!("{directory}/f"), b"text").unwrap();
    }
    sync(&alice, &bob);
    sync(&alice, &bob);
    let files: Vec<Ino> = ["one/f", "two/f"].iter().map(|path| alice.find(path).unwrap()).collect();
    assert_eq!(told(&alice, files[0]).as_deref(), Some("one/f"));
    assert_eq!(told(&alice, files[1]).as_deref(), Some("two/f"));
    // Both want one name.
    alice.rename("one", "both").unwrap();
    bob.rename("two", "both").unwrap();
    sync(&alice, &bob);
    sync(&alice, &bob);
    for file in files {
        let path = told(&alice, file).unwrap();
        assert_eq!(alice.find(&path).unwrap(), file, "{path}: {:?}", alice.tree());
    }
}
