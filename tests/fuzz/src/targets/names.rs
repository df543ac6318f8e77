//! What the kernel hands over: names, targets, attributes, access lists.

use std::cell::RefCell;

use p2pfs_volume::{Caller, Error, Ino, NewNode, RenameMode, SetXattr, Volume};

use crate::common::Replica;

thread_local! {
    /// A volume, and how often it was used: a fresh one now and then keeps it small.
    static VOLUME: RefCell<Option<(Replica, u32)>> = const { RefCell::new(None) };
}

fn with_volume(f: impl FnOnce(&Volume)) {
    VOLUME.with_borrow_mut(|held| {
        let (replica, uses) = held.get_or_insert_with(|| (Replica::founder("ada", 1), 0));
        f(&replica.volume);
        *uses += 1;
        if *uses > 500 {
            *held = None;
        }
    });
}

fn same(name: &[u8], entries: &[p2pfs_volume::DirEntry]) -> bool {
    entries.iter().any(|entry| entry.name == name)
}

/// Names of entries and of attributes, and targets of symlinks.
pub(crate) mod name {
    use super::*;
    use crate::input::{Input, piece};

    pub(crate) fn run(data: &[u8]) {
        let mut input = Input::new(data);
        let (name, other) = (input.piece(), input.piece());
        let rest = input.rest();
        suffixes(name, rest);
        with_volume(|volume| {
            let who = Caller::default();
            let made = volume.make(Ino::ROOT, name, NewNode::Symlink(rest), 0, &who);
            let possible = p2pfs_volume::fuzzing::is_name(name);
            match made {
                Ok(made) => {
                    assert!(possible && !rest.is_empty() && rest.len() <= 4095 && !rest.contains(&0));
                    assert_eq!(volume.readlink(made.ino).expect("it was made"), rest);
                    assert_eq!(volume.lookup(Ino::ROOT, name).expect("it was made").ino, made.ino);
                    let listed = volume.read_directory(Ino::ROOT, 0, 100).expect("the root lists");
                    assert!(same(name, &listed));
                    let mut last = name;
                    if volume.rename(Ino::ROOT, name, Ino::ROOT, other, RenameMode::Replace).is_ok() {
                        assert!(p2pfs_volume::fuzzing::is_name(other));
                        last = other;
                    }
                    volume.unlink(Ino::ROOT, last).expect("it is there");
                }
                Err(Error::Invalid | Error::NameTooLong) => assert!(!possible || rest.len() > 4095 || rest.contains(&0)),
                Err(Error::NotFound) => assert!(rest.is_empty()),
                Err(error) => panic!("{error}"),
            }
            match volume.set_xattr(Ino::ROOT, name, other, SetXattr::Create, &who) {
                Ok(()) => {
                    let value = volume.get_xattr(Ino::ROOT, name);
                    if !name.starts_with(b"system.posix_acl_") {
                        assert_eq!(value.expect("it was set"), other);
                        volume.remove_xattr(Ino::ROOT, name).expect("it is there");
                    }
                }
                Err(Error::Range) => assert!(name.is_empty() || name.len() > 255 || name.contains(&0)),
                Err(Error::Invalid | Error::Exists) => assert!(name.starts_with(b"system.posix_acl_")),
                Err(error) => panic!("{error}"),
            }
        });
    }

    fn suffixes(name: &[u8], rest: &[u8]) {
        if !p2pfs_volume::fuzzing::is_name(name) {
            return;
        }
        let user: String = String::from_utf8_lossy(rest).chars().take(64).collect();
        for suffix in ["~1234".to_owned(), format!(" (conflict of {user} 2026-11-22 0915Z)")] {
            if suffix.contains(['/', '\0']) || suffix.len() > 200 {
                continue;
            }
            let shown = p2pfs_volume::fuzzing::with_suffix(name, &suffix);
            assert!(p2pfs_volume::fuzzing::is_name(&shown), "{shown:?} can't be a name");
        }
    }

    pub(crate) fn seeds() -> Vec<Vec<u8>> {
        let seed = |name: &[u8], other: &[u8], rest: &[u8]| [&piece(name)[..], &piece(other), rest].concat();
        vec![
            seed(b"notes.txt", b"other.txt", b"../target"),
            seed(b"user.tag", b"value", b"x"),
            seed("ä".repeat(127).as_bytes(), b".hidden", b"bob"),
            seed(b"..", b"a/b", b"c"),
            seed(b"system.posix_acl_access", &crate::sample::acl(), b"t"),
        ]
    }
}

/// Access lists, as setfacl and tar send them.
pub(crate) mod acl {
    use super::*;
    use p2pfs_volume::fuzzing::{acl_modes, recode};

    const ACCESS: &[u8] = b"system.posix_acl_access";

    pub(crate) fn run(data: &[u8]) {
        let mode = data.iter().fold(0u16, |mode, byte| mode.rotate_left(3) ^ u16::from(*byte));
        let sound = recode("acl", data);
        if let Ok(once) = &sound {
            assert_eq!(recode("acl", once).as_ref(), Ok(once));
            let (set, inherited) = acl_modes(data, mode).expect("a sound list stays sound");
            assert_eq!(set, mode & 0o777);
            assert_eq!(inherited & !mode & 0o7777, 0, "a new entry got more than was asked for");
        }
        with_volume(|volume| {
            let made = volume.make(Ino::ROOT, b"file", NewNode::File, 0o640, &Caller::default()).expect("it can be made");
            let set = volume.set_xattr(made.ino, ACCESS, data, SetXattr::Any, &Caller::default());
            assert_eq!(set.is_ok(), sound.is_ok() || data.len() <= 4, "{set:?}");
            if let (Ok(list), Ok(value)) = (&sound, volume.get_xattr(made.ino, ACCESS)) {
                assert_eq!(*list, value);
            }
            volume.unlink(Ino::ROOT, b"file").expect("it is there");
        });
    }

    pub(crate) fn seeds() -> Vec<Vec<u8>> {
        let list = crate::sample::acl();
        vec![list.clone(), list[..4].to_vec(), list[..20].to_vec()]
    }
}
