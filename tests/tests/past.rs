//! The tree as it was, below `.p2pfs/at`: ordinary tools read it, nothing changes it.

use std::{fs, io, path::PathBuf, thread, time::Duration};

use jiff::Timestamp;
use p2pfs_tests::{
    group::Group,
    peer::Peer,
    tool::{run, shell},
    tree::{differences, grow},
};
use rustix::io::Errno;

/// A moment from now, as one types it, apart from what comes before and after.
fn moment() -> String {
    thread::sleep(Duration::from_millis(50));
    let now = Timestamp::now();
    thread::sleep(Duration::from_millis(50));
    format!("{now:.3}")
}

fn at(peer: &Peer, moment: &str) -> PathBuf {
    peer.at(".p2pfs/at").join(moment)
}

fn error<T>(done: io::Result<T>) -> Option<Errno> {
    done.err().and_then(|e| Errno::from_io_error(&e))
}

#[test]
fn tools_read_what_was() {
    let mut peer = Peer::alone();
    let before_all = moment();
    grow(peer.root(), 300, 7);
    let copy = peer.scratch().join("copy");
    shell(peer.scratch(), &format!("cp -a {} copy", peer.root().display()));
    let then = moment();
    // All of it is moved, written over or removed.
    shell(peer.root(), r#"mkdir new; for f in *; do [ "$f" = new ] || mv -- "$f" new/; done"#);
    shell(peer.root(), r#"find new -type f -name '*[0-3].txt' | while read -r f; do echo more >> "$f"; done"#);
    shell(peer.root(), "find new -type f -name '*[4-7].txt' -delete");
    let later = moment();
    shell(peer.root(), "rm -rf new");
    for remounted in [false, true] {
        if remounted {
            peer.remount();
        }
        differences(&copy, &at(&peer, &then)).unwrap();
        run("diff", ["-r", "--no-dereference", copy.to_str().unwrap(), at(&peer, &then).to_str().unwrap()]);
        assert!(fs::read_dir(at(&peer, &before_all)).unwrap().next().is_none());
        assert_eq!(fs::read_dir(at(&peer, &later)).unwrap().count(), 1);
        assert_eq!(fs::read_dir(peer.root()).unwrap().count(), 0);
        assert_eq!(fs::read_dir(at(&peer, "now")).unwrap().count(), 0);
    }
    // Out of it, back into the present.
    shell(peer.root(), &format!("cp -a .p2pfs/at/{then} back"));
    differences(&copy, &peer.at("back")).unwrap();
    shell(peer.root(), &format!("rsync -aH --delete .p2pfs/at/{then}/ back2/"));
    differences(&copy, &peer.at("back2")).unwrap();
}

#[test]
fn nothing_of_the_past_changes() {
    let peer = Peer::alone();
    fs::write(peer.at("note"), "first").unwrap();
    let then = moment();
    fs::write(peer.at("note"), "second").unwrap();
    let past = at(&peer, &then);
    let refused = [
        error(fs::write(past.join("note"), "third")),
        error(fs::write(past.join("new"), "")),
        error(fs::create_dir(past.join("new"))),
        error(fs::remove_file(past.join("note"))),
        error(fs::rename(past.join("note"), past.join("other"))),
        error(fs::set_permissions(past.join("note"), std::os::unix::fs::PermissionsExt::from_mode(0o600))),
        error(xattr::set(past.join("note"), "user.x", b"y")),
        error(fs::create_dir(peer.at(".p2pfs/new"))),
        error(fs::create_dir(peer.at(".p2pfs/at/new"))),
        error(fs::remove_dir(peer.at(".p2pfs"))),
        error(fs::create_dir(peer.at(".p2pfs"))).filter(|e| *e != Errno::EXIST),
    ];
    for (place, error) in refused.into_iter().enumerate() {
        assert!(error.is_none_or(|e| e == Errno::ROFS), "{place}: {error:?}");
        assert!(place == refused.len() - 1 || error.is_some(), "{place}");
    }
    assert_eq!(error(fs::metadata(peer.at(".p2pfs/at/no-time"))), Some(Errno::NOENT));
    assert_eq!(fs::read_to_string(past.join("note")).unwrap(), "first");
    assert_eq!(fs::read_to_string(peer.at("note")).unwrap(), "second");
    // Who walks the tree doesn't walk what was.
    assert_eq!(fs::read_dir(peer.root()).unwrap().count(), 1);
}

#[test]
fn what_others_made_is_read_of_the_past_as_well() {
    let group = Group::two();
    let content = vec![7; 3 << 20];
    fs::write(group.alice().at("large"), &content).unwrap();
    group.in_step();
    let then = moment();
    fs::remove_file(group.alice().at("large")).unwrap();
    group.in_step();
    assert!(!group.bob().at("large").exists());
    assert_eq!(fs::read(at(group.bob(), &then).join("large")).unwrap(), content);
}
