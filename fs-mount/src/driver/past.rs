//! `.p2pfs` at the root: the tree as it was, the versions of each path, and what is gone, for any program to read.
//!
//! It is found by its name and not listed, so that programs that walk the tree don't walk all its pasts. What is below
//! `at/<time>` is the volume's own, as are all files: their inode numbers say that they are of the past. The directories
//! below `versions` and `deleted` are made here ([`number`]). As these change with every change of the volume, the kernel
//! keeps nothing of them but what a version's name leads to.

mod number;
mod paths;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use jiff::Zoned;
use parking_lot::Mutex;
use volume::{
    Error, Result, Snapshot, Volume,
    deleted::{DeletedEntry, WasDirectory},
    node::{Attributes, DirEntry, Ino, NodeKind},
    time::Timestamp,
    versions::PathVersion,
};

pub(super) use number::is_ours;

use self::{number::Number, paths::Paths};
use super::replies::VALID;
use crate::{moment, version_names};

const TOP: Ino = number::fixed(1);
const AT: Ino = number::fixed(2);
const SNAPSHOTS: Ino = number::fixed(3);
const VERSIONS: Ino = number::versions(paths::TOP);

/// What leads here from the root.
const NAME: &[u8] = b".p2pfs";

/// Paths whose versions are kept at hand.
const LISTS: usize = 8;
/// Versions of all of these together.
const LISTED: usize = 20_000;

/// What there is below `.p2pfs`, as the kernel was told of it.
#[derive(Default)]
pub(super) struct Past {
    paths: Paths,
    lists: Mutex<VecDeque<(u64, Arc<Versions>)>>,
}

/// The versions of a path that are files, the newest first.
struct Versions {
    /// As of the commit that arrived as this number.
    arrival: u64,
    versions: Vec<PathVersion>,
    moments: Vec<String>,
    /// The path's last name.
    last: Vec<u8>,
}

impl Past {
    /// What a name leads to, and for how long.
    pub(super) fn lookup(&self, volume: &Volume, parent: Ino, name: &[u8]) -> Result<(Attributes, Duration)> {
        match parent {
            Ino::ROOT if name == NAME => Ok((self.attributes(volume, TOP)?, VALID)),
            TOP => {
                let parts = parts(volume)?;
                let part = parts.iter().find(|(part, _)| *part == name).ok_or(Error::NotFound)?;
                Ok((self.attributes(volume, part.1)?, VALID))
            }
            AT => at(volume, name),
            SNAPSHOTS => snapshot(volume, name),
            _ if !is_ours(parent) => volume.lookup(parent, name).map(|found| (found, VALID)),
            _ => match number::meaning(volume, parent) {
                Some(Number::Deleted(directory)) => {
                    let entry = volume.deleted_entry(directory, name)?;
                    Ok((deleted(volume, entry)?.attributes, Duration::ZERO))
                }
                Some(Number::Versions(path)) => self.version_or_path(volume, path, name),
                Some(Number::Fixed(_)) | None => Err(Error::NotFound),
            },
        }
    }

    /// A version of a path by its name, or what is below that path.
    fn version_or_path(&self, volume: &Volume, path: u64, name: &[u8]) -> Result<(Attributes, Duration)> {
        if version_names::is_version(name) && path != paths::TOP {
            let list = self.list(volume, path, false)?;
            let text = std::str::from_utf8(name).map_err(|_| Error::NotFound)?;
            let place = version_names::find(&list.moments, text);
            if let Some(version) = place.and_then(|place| list.versions.get(place)) {
                return Ok((version_attributes(volume, version)?, VALID));
            }
        }
        let mut names = self.paths.names(path)?;
        names.push(name.to_vec());
        let (found, _) = last_state(volume, &names)?;
        Ok((as_directory(found, number::versions(self.paths.below(path, name))), Duration::ZERO))
    }

    /// Counts that the kernel was told of a name.
    pub(super) fn remember(&self, volume: &Volume, parent: Ino, name: &[u8], ino: Ino) -> Result<()> {
        match (number::meaning(volume, parent), number::meaning(volume, ino)) {
            (Some(Number::Versions(above)), Some(Number::Versions(_))) => self.paths.remember(above, name),
            _ => Ok(()),
        }
    }

    /// Takes back `times` such counts.
    pub(super) fn forget(&self, volume: &Volume, ino: Ino, times: u64) {
        if let Some(Number::Versions(path)) = number::meaning(volume, ino) {
            self.paths.forget(path, times);
        }
    }

    /// Attributes of a node, of those here as well.
    pub(super) fn attributes(&self, volume: &Volume, ino: Ino) -> Result<Attributes> {
        if !is_ours(ino) {
            return volume.attributes(ino);
        }
        let like = match number::meaning(volume, ino).ok_or(Error::NotFound)? {
            Number::Fixed(_) if [TOP, AT, SNAPSHOTS].contains(&ino) => {
                let root = volume.attributes(Ino::ROOT)?;
                Attributes { mode: root.mode & !0o222, ..root }
            }
            Number::Fixed(_) => return Err(Error::NotFound),
            Number::Deleted(WasDirectory { ino, gone: None }) => volume.attributes(ino)?,
            Number::Deleted(WasDirectory { ino, gone: Some(gone) }) => {
                volume.attributes(volume.as_it_was(ino, gone.saturating_sub(1))?)?
            }
            Number::Versions(path) => last_state(volume, &self.paths.names(path)?)?.0,
        };
        Ok(as_directory(like, ino))
    }

    /// Entries of a directory after a cookie.
    pub(super) fn read_directory(&self, volume: &Volume, ino: Ino, after: u64, limit: usize) -> Result<Vec<DirEntry>> {
        let Some(number) = number::meaning(volume, ino) else {
            return if is_ours(ino) { Err(Error::NotFound) } else { volume.read_directory(ino, after, limit) };
        };
        let mut entries = self.dots(volume, ino, number)?;
        entries.retain(|entry| entry.cookie > after);
        entries.truncate(limit);
        let room = limit - entries.len();
        // What volumes give begins after these two.
        let after = if after <= 2 { 0 } else { after };
        match number {
            _ if room == 0 => {}
            Number::Fixed(_) if ino == TOP => {
                for ((name, part), cookie) in parts(volume)?.into_iter().zip(3..) {
                    if cookie > after {
                        entries.push(DirEntry {
                            name: name.to_vec(),
                            attributes: self.attributes(volume, part)?,
                            cookie,
                        });
                    }
                }
                entries.truncate(limit);
            }
            Number::Fixed(_) if ino == SNAPSHOTS => entries.extend(list_snapshots(volume, after, room)?),
            Number::Fixed(_) => {}
            Number::Deleted(directory) => {
                for entry in volume.read_deleted(directory, after, room)? {
                    entries.push(deleted(volume, entry)?);
                }
            }
            Number::Versions(path) => entries.extend(self.read_versions(volume, path, after, room)?),
        }
        Ok(entries)
    }

    /// `.` and `..`.
    fn dots(&self, volume: &Volume, ino: Ino, number: Number) -> Result<Vec<DirEntry>> {
        let above = match number {
            Number::Fixed(_) if ino == TOP => Ino::ROOT,
            Number::Fixed(_) | Number::Versions(paths::TOP) | Number::Deleted(WasDirectory::ROOT) => TOP,
            Number::Versions(path) => number::versions(self.paths.above(path)),
            Number::Deleted(WasDirectory { ino, gone: None }) => {
                let dots = volume.read_directory(ino, 1, 1)?;
                let above = dots.first().map_or(Ino::ROOT, |entry| entry.attributes.ino);
                number::deleted(volume, WasDirectory { ino: above, gone: None })?
            }
            // Which it was in isn't known any more.
            Number::Deleted(_) => number::deleted(volume, WasDirectory::ROOT)?,
        };
        let entry = |name: &[u8], ino, cookie| -> Result<DirEntry> {
            Ok(DirEntry { name: name.to_vec(), attributes: self.attributes(volume, ino)?, cookie })
        };
        Ok(vec![entry(b".", ino, 1)?, entry(b"..", above, 2)?])
    }

    /// What is in a directory now, or was when it went; the versions of anything else.
    fn read_versions(&self, volume: &Volume, path: u64, after: u64, limit: usize) -> Result<Vec<DirEntry>> {
        let names = self.paths.names(path)?;
        let (found, gone) = last_state(volume, &names)?;
        let below = |name: Vec<u8>, attributes, cookie| DirEntry {
            attributes: as_directory(attributes, number::versions(self.paths.below(path, &name))),
            name,
            cookie,
        };
        match (found.kind, gone) {
            (NodeKind::Directory, None) => {
                let entries = volume.read_directory(found.ino, after.max(2), limit)?;
                Ok(entries.into_iter().map(|entry| below(entry.name, entry.attributes, entry.cookie)).collect())
            }
            (NodeKind::Directory, gone) => {
                let entries = volume.read_deleted(WasDirectory { ino: found.ino, gone }, after, limit)?;
                Ok(entries.into_iter().map(|entry| below(entry.name, entry.attributes, entry.cookie)).collect())
            }
            _ => {
                let list = self.list(volume, path, after > 0)?;
                // The oldest first: those that come are the last.
                let count = list.versions.len();
                let from = usize::try_from(after.saturating_sub(2)).unwrap_or(usize::MAX).min(count);
                (from..count.min(from.saturating_add(limit)))
                    .map(|nth| {
                        let (version, moment) = (&list.versions[count - 1 - nth], &list.moments[count - 1 - nth]);
                        let name = version_names::file_name(moment, &version.author, &list.last);
                        Ok(DirEntry { name, attributes: version_attributes(volume, version)?, cookie: nth as u64 + 3 })
                    })
                    .collect()
            }
        }
    }

    /// The versions of a path; as they were when a listing began that goes on.
    fn list(&self, volume: &Volume, path: u64, goes_on: bool) -> Result<Arc<Versions>> {
        let arrival = if goes_on { 0 } else { volume.settled_arrival()? };
        let known = self.lists.lock().iter().find(|(known, _)| *known == path).map(|(_, list)| list.clone());
        if let Some(list) = known.filter(|list| goes_on || list.arrival == arrival) {
            return Ok(list);
        }
        let mut names = self.paths.names(path)?;
        let mut versions = volume.file_versions(&names.iter().map(Vec::as_slice).collect::<Vec<_>>())?;
        versions.retain(|version| version.state.as_ref().is_some_and(|state| state.kind != NodeKind::Directory));
        let moments = version_names::moments(&versions);
        let list = Arc::new(Versions { arrival, versions, moments, last: names.pop().unwrap_or_default() });
        let mut lists = self.lists.lock();
        lists.retain(|(known, _)| *known != path);
        lists.truncate(LISTS - 1);
        lists.push_front((path, list.clone()));
        while lists.len() > 1 && lists.iter().map(|(_, list)| list.versions.len()).sum::<usize>() > LISTED {
            lists.pop_back();
        }
        Ok(list)
    }

    pub(super) fn get_xattr(&self, volume: &Volume, ino: Ino, name: &[u8]) -> Result<Vec<u8>> {
        if is_ours(ino) { Err(Error::NoAttribute) } else { volume.get_xattr(ino, name) }
    }

    pub(super) fn list_xattrs(&self, volume: &Volume, ino: Ino) -> Result<Vec<Vec<u8>>> {
        if is_ours(ino) { Ok(Vec::new()) } else { volume.list_xattrs(ino) }
    }
}

/// For how long the kernel may keep an entry of a listing.
pub(super) fn entry_validity(parent: Ino, ino: Ino) -> Duration {
    // Of ours, versions of a file never come to be another's.
    let is_version = number::is_of_versions(parent) && !is_ours(ino);
    if is_ours(parent) && !is_version { Duration::ZERO } else { VALID }
}

/// For how long the kernel may keep attributes.
pub(super) fn validity(ino: Ino) -> Duration {
    if is_ours(ino) { Duration::ZERO } else { VALID }
}

/// What is in `.p2pfs`.
fn parts(volume: &Volume) -> Result<[(&'static [u8], Ino); 4]> {
    let deleted = number::deleted(volume, WasDirectory::ROOT)?;
    Ok([(b"at", AT), (b"snapshots", SNAPSHOTS), (b"versions", VERSIONS), (b"deleted", deleted)])
}

/// What a path leads to, or last led to.
fn last_state(volume: &Volume, names: &[Vec<u8>]) -> Result<(Attributes, Option<u64>)> {
    volume.last_state(&names.iter().map(Vec::as_slice).collect::<Vec<_>>())
}

/// An entry as it is told to the kernel.
fn deleted(volume: &Volume, entry: DeletedEntry) -> Result<DirEntry> {
    let DeletedEntry { name, attributes, gone, cookie } = entry;
    let attributes = match (attributes.kind, gone) {
        (NodeKind::Directory, gone) => {
            let ino = number::deleted(volume, WasDirectory { ino: attributes.ino, gone })?;
            as_directory(attributes, ino)
        }
        (_, Some(gone)) => Attributes { ino: volume.as_it_was(attributes.ino, gone.saturating_sub(1))?, ..attributes },
        (_, None) => return Err(Error::NotFound),
    };
    Ok(DirEntry { name, attributes, cookie })
}

fn version_attributes(volume: &Volume, version: &PathVersion) -> Result<Attributes> {
    let state = version.state.clone().ok_or(Error::NotFound)?;
    Ok(Attributes { ino: volume.as_it_became(state.ino, version.since)?, ..state })
}

/// A directory that stands for what has these attributes, for those to read who may read that.
fn as_directory(like: Attributes, ino: Ino) -> Attributes {
    let read = like.mode & 0o444;
    // Copied out of here, a folder should be as it was.
    let mode = if like.kind == NodeKind::Directory { like.mode } else { read | read >> 2 };
    Attributes { ino, kind: NodeKind::Directory, mode, links: 2, size: 4096, allocated: 0, rdev: 0, ..like }
}

/// The tree that a snapshot keeps. Its name may go at any time, or come to mean another.
fn snapshot(volume: &Volume, name: &[u8]) -> Result<(Attributes, Duration)> {
    let name = std::str::from_utf8(name).map_err(|_| Error::NotFound)?;
    Ok((volume.attributes(volume.snapshot(name)?)?, Duration::ZERO))
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

/// Nothing of one's own can have the name that leads here.
pub(super) fn check_name(parent: Ino, name: &[u8]) -> Result<()> {
    if parent == Ino::ROOT && name == NAME { Err(Error::ReadOnly) } else { Ok(()) }
}
