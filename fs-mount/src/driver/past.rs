//! `.p2pfs` at the root: the tree as it was, for any program to read.
//!
//! It is found by its name and not listed, so that programs that walk the tree don't walk all its pasts. What is below
//! `at/<time>` is the volume's own: its inode numbers say that they are of the past.

use std::time::Duration;

use jiff::Zoned;
use volume::{
    Error, Result, Snapshot, Volume,
    node::{Attributes, DirEntry, Ino, NodeKind},
    time::Timestamp,
};

use super::replies::VALID;
use crate::moment;

/// Numbers that the volume gives to nothing.
const OURS: u64 = 1 << 63;
const TOP: Ino = Ino(OURS | 1);
const AT: Ino = Ino(OURS | 2);
const SNAPSHOTS: Ino = Ino(OURS | 3);

/// What leads here from the root, and from there on.
const NAME: &[u8] = b".p2pfs";
const PARTS: [(&[u8], Ino); 2] = [(b"at", AT), (b"snapshots", SNAPSHOTS)];

/// What a name leads to, and for how long.
pub(super) fn lookup(volume: &Volume, parent: Ino, name: &[u8]) -> Result<(Attributes, Duration)> {
    match parent {
        Ino::ROOT if name == NAME => Ok((directory(volume, TOP)?, VALID)),
        TOP => {
            let part = PARTS.iter().find(|(part, _)| *part == name).ok_or(Error::NotFound)?;
            Ok((directory(volume, part.1)?, VALID))
        }
        AT => at(volume, name),
        SNAPSHOTS => snapshot(volume, name),
        _ => volume.lookup(parent, name).map(|found| (found, VALID)),
    }
}

/// The tree that a snapshot keeps. Its name may go at any time, or come to mean another.
fn snapshot(volume: &Volume, name: &[u8]) -> Result<(Attributes, Duration)> {
    let name = std::str::from_utf8(name).map_err(|_| Error::NotFound)?;
    Ok((volume.attributes(volume.snapshot(name)?)?, Duration::ZERO))
}

/// The tree at a time that somebody typed, or that a snapshot of that name keeps.
fn at(volume: &Volume, name: &[u8]) -> Result<(Attributes, Duration)> {
    let now = Zoned::now();
    let text = std::str::from_utf8(name).map_err(|_| Error::NotFound)?;
    let Some(moment) = moment::parse(text, &now) else { return snapshot(volume, name) };
    let (secs, nanos) = (moment.as_second(), moment.subsec_nanosecond());
    // Before 1970 they count down from the second above.
    let time = match u32::try_from(nanos) {
        Ok(nanos) => Timestamp { secs, nanos },
        Err(_) => Timestamp { secs: secs - 1, nanos: (nanos + 1_000_000_000).unsigned_abs() },
    };
    let root = volume.attributes(volume.past_at(time)?)?;
    // Asked each time: it may be thinned out, and `2h-ago` comes to mean something else.
    Ok((root, Duration::ZERO))
}

/// Attributes of a node, of those here as well.
pub(super) fn attributes(volume: &Volume, ino: Ino) -> Result<Attributes> {
    if is_ours(ino) { directory(volume, ino) } else { volume.attributes(ino) }
}

/// Entries of a directory after a cookie.
pub(super) fn read_directory(volume: &Volume, ino: Ino, after: u64, limit: usize) -> Result<Vec<DirEntry>> {
    if !is_ours(ino) {
        return volume.read_directory(ino, after, limit);
    }
    let above = if ino == TOP { volume.attributes(Ino::ROOT)? } else { directory(volume, TOP)? };
    let mut entries = vec![(b".".as_slice(), directory(volume, ino)?), (b"..".as_slice(), above)];
    if ino == TOP {
        for (name, part) in PARTS {
            entries.push((name, directory(volume, part)?));
        }
    }
    let entries = entries.into_iter().zip(1..).map(|((name, attributes), cookie)| DirEntry {
        name: name.to_vec(),
        attributes,
        cookie,
    });
    let mut found: Vec<DirEntry> = entries.filter(|entry| entry.cookie > after).take(limit).collect();
    if ino == SNAPSHOTS {
        found.extend(list_snapshots(volume, after, limit - found.len())?);
    }
    Ok(found)
}

/// The snapshots that follow a cookie, behind `.` and `..`. The cookies hang on nothing but the snapshot itself: one that
/// goes meanwhile makes no other be passed over or come twice.
fn list_snapshots(volume: &Volume, after: u64, limit: usize) -> Result<Vec<DirEntry>> {
    let all = volume.snapshots()?;
    let cookie = |snapshot: &Snapshot| snapshot.number().saturating_add(2);
    let mut left: Vec<&Snapshot> = all.iter().filter(|snapshot| cookie(snapshot) > after).collect();
    left.sort_unstable_by_key(|snapshot| cookie(snapshot));
    let mut found = Vec::new();
    for snapshot in left {
        if found.len() == limit {
            break;
        }
        match volume.past(snapshot.arrival) {
            Ok(root) => found.push(DirEntry {
                name: snapshot.name.clone().into_bytes(),
                attributes: volume.attributes(root)?,
                cookie: cookie(snapshot),
            }),
            // From before history begins in this store: looked up, it isn't there either.
            Err(Error::NotFound) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Whether what is in it may change without the kernel being told.
pub(super) fn changes_untold(ino: Ino) -> bool {
    ino == SNAPSHOTS
}

pub(super) fn get_xattr(volume: &Volume, ino: Ino, name: &[u8]) -> Result<Vec<u8>> {
    if is_ours(ino) { Err(Error::NoAttribute) } else { volume.get_xattr(ino, name) }
}

pub(super) fn list_xattrs(volume: &Volume, ino: Ino) -> Result<Vec<Vec<u8>>> {
    if is_ours(ino) { Ok(Vec::new()) } else { volume.list_xattrs(ino) }
}

/// Nothing of one's own can have the name that leads here.
pub(super) fn check_name(parent: Ino, name: &[u8]) -> Result<()> {
    if parent == Ino::ROOT && name == NAME { Err(Error::ReadOnly) } else { Ok(()) }
}

/// Whether it is one of the directories here, in which nothing can be changed.
pub(super) fn is_ours(ino: Ino) -> bool {
    ino.0 & OURS != 0
}

/// As the root, but to be read only.
fn directory(volume: &Volume, ino: Ino) -> Result<Attributes> {
    if ![TOP, AT, SNAPSHOTS].contains(&ino) {
        return Err(Error::NotFound);
    }
    let root = volume.attributes(Ino::ROOT)?;
    Ok(Attributes { ino, kind: NodeKind::Directory, mode: root.mode & !0o222, links: 2, ..root })
}
