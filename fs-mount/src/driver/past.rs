//! `.p2pfs` at the root: the tree as it was, for any program to read.
//!
//! It is found by its name and not listed, so that programs that walk the tree don't walk all its pasts. What is below
//! `at/<time>` is the volume's own: its inode numbers say that they are of the past.

use std::time::Duration;

use jiff::Zoned;
use volume::{
    Error, Result, Volume,
    node::{Attributes, DirEntry, Ino, NodeKind},
    time::Timestamp,
};

use super::replies::VALID;
use crate::moment;

/// Numbers that the volume gives to nothing.
const OURS: u64 = 1 << 63;
const TOP: Ino = Ino(OURS | 1);
const AT: Ino = Ino(OURS | 2);

/// What leads here from the root, and from there on.
const NAME: &[u8] = b".p2pfs";
const PARTS: [(&[u8], Ino); 1] = [(b"at", AT)];

/// What a name leads to, and for how long.
pub(super) fn lookup(volume: &Volume, parent: Ino, name: &[u8]) -> Result<(Attributes, Duration)> {
    match parent {
        Ino::ROOT if name == NAME => Ok((directory(volume, TOP)?, VALID)),
        TOP => {
            let part = PARTS.iter().find(|(part, _)| *part == name).ok_or(Error::NotFound)?;
            Ok((directory(volume, part.1)?, VALID))
        }
        AT => at(volume, name),
        _ => volume.lookup(parent, name).map(|found| (found, VALID)),
    }
}

/// The tree at a time that somebody typed.
fn at(volume: &Volume, name: &[u8]) -> Result<(Attributes, Duration)> {
    let now = Zoned::now();
    let text = std::str::from_utf8(name).map_err(|_| Error::NotFound)?;
    let moment = moment::parse(text, &now).ok_or(Error::NotFound)?;
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
    Ok(entries.filter(|entry| entry.cookie > after).take(limit).collect())
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
    if ino != TOP && ino != AT {
        return Err(Error::NotFound);
    }
    let root = volume.attributes(Ino::ROOT)?;
    Ok(Attributes { ino, kind: NodeKind::Directory, mode: root.mode & !0o222, links: 2, ..root })
}
