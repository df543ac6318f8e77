//! What users of a device see of the volume.

use std::collections::BTreeMap;

use volume::{Attributes, Caller, Error, Ino, NodeKind, OpenMode, Result, Volume};

use crate::{
    ledger::{print, tokens},
    model::DAMAGED,
};

pub(crate) const CALLER: Caller = Caller { uid: 0, gid: 0, pid: 0, umask: 0, is_member: None };

/// Longer than any file here.
pub(crate) const LONGEST: usize = 1 << 20;

/// An entry as a user sees it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub path: String,
    pub parent: Ino,
    pub name: Vec<u8>,
    pub ino: Ino,
    pub kind: NodeKind,
}

/// Every entry, in the order of paths.
pub(crate) fn entries(volume: &Volume) -> Result<Vec<Seen>> {
    let mut found = Vec::new();
    walk(volume, Ino::ROOT, "", &mut found)?;
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

fn walk(volume: &Volume, directory: Ino, path: &str, found: &mut Vec<Seen>) -> Result<()> {
    if path.split('/').count() > 200 {
        return Err(Error::Refused("directories without end".to_owned()));
    }
    let entries = match volume.read_directory(directory, 0, usize::MAX) {
        // Its user may not look into it.
        Err(Error::Denied) => return Ok(()),
        listed => listed?,
    };
    for entry in entries.into_iter().filter(|e| e.name != b"." && e.name != b"..") {
        let path = format!("{path}/{}", String::from_utf8_lossy(&entry.name));
        let (ino, kind) = (entry.attributes.ino, entry.attributes.kind);
        found.push(Seen { path: path.clone(), parent: directory, name: entry.name, ino, kind });
        if kind == NodeKind::Directory {
            walk(volume, ino, &path, found)?;
        }
    }
    Ok(())
}

/// The bytes of a file.
pub(crate) fn read(volume: &Volume, ino: Ino) -> Result<Vec<u8>> {
    let handle = volume.open(ino, OpenMode { read: true, ..OpenMode::default() }, &CALLER)?;
    let mut bytes = Vec::new();
    let result = volume.read(handle, 0, LONGEST, &mut bytes);
    volume.release(handle)?;
    result.map(|()| bytes)
}

/// Says what a content is.
pub(crate) fn text(bytes: &[u8]) -> String {
    match tokens(bytes) {
        Ok(tokens) => {
            let tokens: Vec<u32> = tokens.iter().map(|t| t.0).collect();
            format!("{} bytes, {tokens:?}, {:016x}", bytes.len(), print(bytes))
        }
        Err(why) => why,
    }
}

/// What stands for a content that is not wholly here.
pub(crate) const ABSENT: &str = "absent";
/// What stands for what its user may not read.
pub(crate) const CLOSED: &str = "closed";

/// Everything a user can see, a line per entry, as the model writes it.
pub(crate) fn dump(volume: &Volume) -> Result<Vec<String>> {
    let mut first: BTreeMap<Ino, String> = BTreeMap::new();
    let mut lines = Vec::new();
    for entry in entries(volume)? {
        let attributes = volume.lookup(entry.parent, &entry.name)?;
        let what = match entry.kind {
            NodeKind::Directory => "dir".to_owned(),
            NodeKind::File => match read(volume, entry.ino) {
                Ok(bytes) => format!("file {}", text(&bytes)),
                Err(Error::Absent(_)) => format!("file {ABSENT}"),
                Err(Error::Denied | Error::Damaged(_)) => format!("file {CLOSED}"),
                Err(other) => return Err(other),
            },
            _ => match volume.readlink(entry.ino) {
                Err(Error::Denied | Error::Damaged(_)) => format!("-> {CLOSED}"),
                target => format!("-> {}", String::from_utf8_lossy(&target?)),
            },
        };
        let mut xattrs: Vec<String> = Vec::new();
        let names = match volume.list_xattrs(entry.ino) {
            Err(Error::Denied | Error::Damaged(_)) => Vec::new(),
            names => names?,
        };
        for name in names {
            let value = match volume.get_xattr(entry.ino, &name) {
                Err(Error::Damaged(_)) => DAMAGED.into(),
                other => other?,
            };
            xattrs.push(format!("{}={}", String::from_utf8_lossy(&name), String::from_utf8_lossy(&value)));
        }
        xattrs.sort();
        let same = first.entry(entry.ino).or_insert_with(|| entry.path.clone()).clone();
        let same = if same == entry.path { String::new() } else { format!(" same as {same}") };
        let Attributes { mode, links, .. } = attributes;
        let closed = what.ends_with(CLOSED)
            || entry.kind == NodeKind::Directory
                && matches!(volume.read_directory(entry.ino, 0, 1), Err(Error::Denied | Error::Damaged(_)));
        // When what is closed was changed last is a guess.
        let mtime = match closed {
            true => 0,
            false => attributes.mtime.secs * 1000 + i64::from(attributes.mtime.nanos / 1_000_000),
        };
        lines.push(format!("{} {what} mode {mode:o} links {links} mtime {mtime} {xattrs:?}{same}", entry.path));
    }
    Ok(lines)
}

/// The lines that only one of two has.
pub(crate) fn differences(a: &[String], b: &[String]) -> String {
    let only = |x: &[String], y: &[String], sign: &str| -> String {
        x.iter().filter(|l| !y.contains(l)).map(|l| format!("\n  {sign} {l}")).collect()
    };
    only(a, b, "-") + &only(b, a, "+")
}
