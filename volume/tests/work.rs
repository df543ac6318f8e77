//! Random work on two replicas, by few names.

use p2pfs_volume::{AttributeChange, Caller, Clock, Error, SetXattr};
use proptest::prelude::*;

use crate::common::{Replica, sync};

pub(crate) const NAMES: usize = 6;

#[derive(Clone, Debug)]
pub(crate) enum Op {
    Write(usize, usize),
    Directory(usize),
    Remove(usize),
    Rename(usize, usize),
    Mode(usize, u16),
    /// Of few names each has room for some in its node's row only.
    Xattr(usize, u8, Option<usize>),
    Link(usize, usize),
    Salvage,
    Restart,
    Meet,
}

/// Files and directories by few names, so that the same ones come and go.
pub(crate) fn path(which: usize) -> String {
    let (above, name) = (which / NAMES, which % NAMES);
    if above == 0 { format!("n{name}") } else { format!("n{}/n{name}", above - 1) }
}

pub(crate) fn op() -> impl Strategy<Value = (usize, Op, bool)> {
    let place = || 0..NAMES * 3;
    let op = prop_oneof![
        4 => (place(), 0usize..40_000).prop_map(|(at, size)| Op::Write(at, size)),
        3 => place().prop_map(Op::Directory),
        3 => place().prop_map(Op::Remove),
        4 => (place(), place()).prop_map(|(from, to)| Op::Rename(from, to)),
        1 => (place(), 0u16..0o1000).prop_map(|(at, mode)| Op::Mode(at, mode)),
        4 => (0..3usize, 0u8..6, proptest::option::of(0usize..1500)).prop_map(|(at, name, size)| Op::Xattr(at, name, size)),
        2 => (place(), place()).prop_map(|(from, to)| Op::Link(from, to)),
        1 => Just(Op::Restart),
        1 => Just(Op::Salvage),
        2 => Just(Op::Meet),
    ];
    (0..2usize, op, any::<bool>())
}

pub(crate) fn run(replicas: &mut [Replica; 2], who: usize, op: &Op) {
    let replica = &replicas[who];
    let done = match op {
        Op::Write(at, size) => replica.write(&path(*at), &vec![*size as u8; *size]),
        Op::Directory(at) => replica.mkdir(&path(*at)).map(|_| ()),
        Op::Remove(at) => match replica.remove(&path(*at)) {
            Err(Error::IsDirectory) => replica.rmdir(&path(*at)),
            done => done,
        },
        Op::Rename(from, to) => replica.rename(&path(*from), &path(*to)),
        Op::Mode(at, mode) => replica.find(&path(*at)).and_then(|ino| {
            let change = AttributeChange { mode: Some(*mode), ..AttributeChange::default() };
            replica.volume.set_attributes(ino, None, &change, &Caller::default()).map(|_| ())
        }),
        Op::Xattr(at, name, size) => replica.find(&path(*at)).and_then(|ino| {
            let name = format!("user.{name}");
            match size {
                Some(size) => {
                    let value = vec![*size as u8; *size];
                    replica.volume.set_xattr(ino, name.as_bytes(), &value, SetXattr::Any, &Caller::default())
                }
                None => replica.volume.remove_xattr(ino, name.as_bytes()),
            }
        }),
        Op::Link(from, to) => replica.link(&path(*from), &path(*to)),
        Op::Salvage => {
            // With randomness of its own: two logs of one number would be one that goes on elsewhere.
            let salt = 100 + 2 * replicas[who].clock.monotonic().as_millis() as u64;
            replicas[who].salvage(salt);
            Ok(())
        }
        Op::Restart => {
            replicas[who].restart(7);
            Ok(())
        }
        Op::Meet => {
            sync(&replicas[0], &replicas[1]);
            Ok(())
        }
    };
    // Names that are taken, or lead nowhere: what was refused changes nothing.
    drop(done);
}
