//! What users do: calls on names, attributes and open files, each with what it promises entered in the ledger.

use std::{collections::BTreeSet, time::Duration};

use volume::{
    Allocate, AttributeChange, Error, Handle, Ino, NewNode, NodeKind, OpenMode, RenameMode, Role, SetTime, SetXattr,
    Timestamp, Volume,
};

use crate::{
    device::Open,
    forger::Joiner,
    ledger::{SLOT, Token, tokens},
    view::{CALLER, Seen, entries, read},
    world::{Violation, World},
};

/// Names that collide often.
const NAMES: [&[u8]; 4] = [b"a", b"b", b"c", b"a.txt"];
/// Where beyond its beginning a file is written to: behind what is kept inline, and in later blocks.
const FAR: [usize; 4] = [4096, 8192, 65_536, 131_072];
/// Entries of a device beyond which nothing more is made.
const MOST_ENTRIES: usize = 60;
const MOST_OPEN: usize = 4;
/// Members without a device here beyond which none is admitted.
const MOST_JOINERS: usize = 10;

/// Why a call came to nothing.
pub(crate) enum Trip {
    /// The volume refused.
    Refused(Error),
    /// It did what it must not.
    Violation(Violation),
}

impl From<Error> for Trip {
    fn from(error: Error) -> Self {
        Trip::Refused(error)
    }
}

impl From<Violation> for Trip {
    fn from(violation: Violation) -> Self {
        Trip::Violation(violation)
    }
}

type Done = Result<(), Trip>;

/// A kind of thing to do.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Deed {
    Mkdir,
    Create,
    Overwrite,
    Append,
    Patch,
    Truncate,
    Punch,
    Open,
    WriteOpen,
    Fsync,
    SyncAll,
    Close,
    CopyRange,
    Remove,
    RemoveTree,
    Rename,
    Nest,
    RenameOver,
    Exchange,
    Link,
    Symlink,
    Chmod,
    Utimens,
    Xattr,
    Invite,
    Admit,
    Set,
    Snapshot,
    Drop,
    Permit,
    Name,
    Give,
    Rank,
    Expel,
    ExpelDevice,
}

/// What they do besides where rights change.
const OF_RIGHTS: [(usize, Deed); 6] =
    [(12, Deed::Permit), (6, Deed::Name), (3, Deed::Give), (4, Deed::Rank), (3, Deed::Expel), (2, Deed::ExpelDevice)];

const DEEDS: [(usize, Deed); 29] = [
    (5, Deed::Mkdir),
    (8, Deed::Create),
    (3, Deed::Overwrite),
    (3, Deed::Append),
    (5, Deed::Patch),
    (2, Deed::Truncate),
    (1, Deed::Punch),
    (3, Deed::Open),
    (6, Deed::WriteOpen),
    (3, Deed::Fsync),
    (1, Deed::SyncAll),
    (3, Deed::Close),
    (2, Deed::CopyRange),
    (4, Deed::Remove),
    (1, Deed::RemoveTree),
    (5, Deed::Rename),
    (3, Deed::Nest),
    (2, Deed::RenameOver),
    (4, Deed::Exchange),
    (3, Deed::Link),
    (1, Deed::Symlink),
    (1, Deed::Chmod),
    (1, Deed::Utimens),
    (2, Deed::Xattr),
    (2, Deed::Invite),
    (6, Deed::Admit),
    (2, Deed::Set),
    (2, Deed::Snapshot),
    (1, Deed::Drop),
];

fn put(bytes: &mut Vec<u8>, offset: usize, data: &[u8]) {
    bytes.resize(bytes.len().max(offset + data.len()), 0);
    bytes[offset..offset + data.len()].copy_from_slice(data);
}

fn writer(truncate: bool, append: bool) -> OpenMode {
    OpenMode { read: true, write: true, append, truncate }
}

impl World {
    /// The user of `r` does something.
    pub(crate) fn act(&mut self, r: usize) -> Result<Deed, (Deed, Trip)> {
        let mut deeds = DEEDS.to_vec();
        if self.rights {
            deeds.extend(OF_RIGHTS);
        }
        let deed = self.lot.weighted(&deeds).unwrap_or(Deed::Create);
        match self.try_deed(r, deed) {
            Ok(()) => Ok(deed),
            Err(trip) => Err((deed, trip)),
        }
    }

    pub(crate) fn volume(&self, r: usize) -> Result<Volume, Violation> {
        self.devices[r].volume.clone().ok_or_else(|| Violation("a device that is off was used".to_owned()))
    }

    fn try_deed(&mut self, r: usize, deed: Deed) -> Done {
        let volume = self.volume(r)?;
        let all = entries(&volume)?;
        let files: Vec<Seen> = all.iter().filter(|e| e.kind == NodeKind::File).cloned().collect();
        let mut directories: Vec<Ino> = vec![Ino::ROOT];
        directories.extend(all.iter().filter(|e| e.kind == NodeKind::Directory).map(|e| e.ino));
        let dir = self.lot.pick(&directories).copied().unwrap_or(Ino::ROOT);
        let name: &[u8] = self.lot.pick(&NAMES).copied().unwrap_or(b"a");
        let entry = self.lot.pick(&all).cloned();
        let other = self.lot.pick(&all).cloned();
        let file = self.lot.pick(&files).cloned();
        let full = all.len() >= MOST_ENTRIES;
        match deed {
            Deed::Mkdir | Deed::Symlink | Deed::Link | Deed::Create if full => {}
            Deed::Mkdir => {
                volume.make(dir, name, NewNode::Directory, self.mode_of_new(NodeKind::Directory), &CALLER)?;
            }
            Deed::Symlink => {
                volume.make(dir, name, NewNode::Symlink(b"target"), 0o777, &CALLER)?;
            }
            Deed::Create => match volume.lookup(dir, name) {
                Ok(found) if found.kind == NodeKind::File => self.write_once(r, found.ino, true, false)?,
                Ok(_) => {}
                Err(Error::NotFound) => {
                    let mode = self.mode_of_new(NodeKind::File);
                    let (made, handle) =
                        volume.create(dir, name, mode, writer(true, false), self.lot.chance(500), &CALLER)?;
                    let index = self.opened(r, made.ino, handle, Vec::new(), false);
                    self.write_open(r, index)?;
                    self.close(r, index)?;
                }
                Err(other) => return Err(other.into()),
            },
            Deed::Overwrite | Deed::Append | Deed::Patch => {
                let Some(file) = file else { return Ok(()) };
                self.write_once(r, file.ino, matches!(deed, Deed::Overwrite), matches!(deed, Deed::Append))?;
            }
            Deed::Truncate => {
                let Some(file) = file else { return Ok(()) };
                self.truncate(r, file.ino)?;
            }
            Deed::Punch => {
                let Some(index) = self.any_open(r) else { return Ok(()) };
                self.punch(r, index)?;
            }
            Deed::Open => {
                let Some(file) = file else { return Ok(()) };
                if self.devices[r].opens.len() < MOST_OPEN {
                    let append = self.lot.chance(500);
                    self.open(r, file.ino, false, append)?;
                }
            }
            Deed::WriteOpen => {
                let Some(index) = self.any_open(r) else { return Ok(()) };
                self.write_open(r, index)?;
                if self.lot.chance(400) {
                    self.flush(r, index)?;
                }
            }
            Deed::Fsync => {
                let Some(index) = self.any_open(r) else { return Ok(()) };
                self.fsync(r, index)?;
            }
            Deed::SyncAll => {
                volume.sync_all()?;
                self.ledger.synced(r);
            }
            Deed::Close => {
                let Some(index) = self.any_open(r) else { return Ok(()) };
                self.close(r, index)?;
            }
            Deed::CopyRange => {
                let (Some(file), Some(index)) = (file, self.any_open(r)) else { return Ok(()) };
                self.copy_range(r, file.ino, index)?;
            }
            Deed::Remove => {
                let Some(entry) = entry else { return Ok(()) };
                self.remove(r, &entry)?;
            }
            Deed::RemoveTree => {
                let Some(entry) = entry else { return Ok(()) };
                let below = format!("{}/", entry.path);
                for inner in all.iter().rev().filter(|e| e.path == entry.path || e.path.starts_with(&below)) {
                    self.remove(r, inner)?;
                }
            }
            Deed::Rename => {
                let Some(entry) = entry else { return Ok(()) };
                let no_replace = self.lot.chance(200);
                let mode = if no_replace { RenameMode::NoReplace } else { RenameMode::Replace };
                self.rename(r, &entry, dir, name, mode)?;
            }
            Deed::Nest => {
                let directories: Vec<&Seen> = all.iter().filter(|e| e.kind == NodeKind::Directory).collect();
                let Some(which) = self.lot.pick(&directories).copied() else { return Ok(()) };
                self.rename(r, which, dir, name, RenameMode::Replace)?;
            }
            Deed::RenameOver | Deed::Exchange => {
                let (Some(entry), Some(other)) = (entry, other) else { return Ok(()) };
                let mode = if matches!(deed, Deed::Exchange) { RenameMode::Exchange } else { RenameMode::Replace };
                self.rename(r, &entry, other.parent, &other.name, mode)?;
            }
            Deed::Link => {
                let Some(file) = file else { return Ok(()) };
                volume.link(file.ino, dir, name)?;
            }
            Deed::Chmod => {
                let Some(entry) = entry else { return Ok(()) };
                let mode = Some(0o640 | self.lot.below(8) as u16);
                volume.set_attributes(entry.ino, None, &AttributeChange { mode, ..Default::default() }, &CALLER)?;
            }
            Deed::Utimens => {
                let Some(entry) = entry else { return Ok(()) };
                let time = Some(SetTime::At(Timestamp { secs: 1000 + self.lot.below(4) as i64, nanos: 0 }));
                let change = AttributeChange { mtime: time, atime: time, ..Default::default() };
                volume.set_attributes(entry.ino, None, &change, &CALLER)?;
            }
            Deed::Xattr => {
                let Some(entry) = entry else { return Ok(()) };
                let name: &[u8] = if self.lot.chance(500) { b"user.one" } else { b"user.two" };
                match self.lot.below(3) {
                    0 => volume.remove_xattr(entry.ino, name)?,
                    n => volume.set_xattr(entry.ino, name, &[b'0' + n as u8], SetXattr::Any, &CALLER)?,
                }
            }
            Deed::Invite | Deed::Admit if !volume.may_admit() || self.is_mallory(r) => {}
            Deed::Invite => {
                let role = if self.lot.chance(500) { Role::Reader } else { Role::Writer };
                let ticket = volume.invite(role, Duration::from_secs(30 * 86_400))?;
                self.tickets.push(ticket.seed());
                self.counts.add("members: somebody invited");
            }
            Deed::Admit => self.admit(r)?,
            Deed::Set => {
                let name = if self.lot.chance(500) { "history.keep-all" } else { "history.budget" };
                let value = match (self.lot.below(4), name) {
                    (0, _) => None,
                    (n, "history.budget") => Some(format!("{n}%")),
                    (n, _) => Some(format!("{n}d")),
                };
                match volume.set_setting(name, value.as_deref()) {
                    // Somebody who may not.
                    Err(Error::Refused(_)) => {}
                    done => {
                        done?;
                        self.counts.add("agreed: something was set");
                    }
                }
            }
            Deed::Snapshot => {
                let name = NAMES[self.lot.below(NAMES.len())];
                match volume.create_snapshot(&String::from_utf8_lossy(name)) {
                    // The name is taken.
                    Err(Error::Refused(_)) => {}
                    done => {
                        done?;
                        self.counts.add("agreed: a snapshot was made");
                    }
                }
            }
            Deed::Permit | Deed::Name | Deed::Give => self.change_rights(r, deed, entry.as_ref())?,
            Deed::Rank | Deed::Expel | Deed::ExpelDevice => self.change_members(r, deed)?,
            Deed::Drop => {
                let all = volume.snapshots()?;
                let Some(snapshot) = self.lot.pick(&all) else { return Ok(()) };
                match volume.remove_snapshot(&snapshot.name) {
                    // Another's.
                    Err(Error::Refused(_)) => {}
                    done => {
                        done?;
                        self.counts.add("agreed: a snapshot was removed");
                    }
                }
            }
        }
        Ok(())
    }

    /// Somebody comes with a ticket, new or used, who is new, or is here already by the same ticket or another one.
    fn admit(&mut self, r: usize) -> Done {
        let volume = self.volume(r)?;
        let Some(&ticket) = self.lot.pick(&self.tickets) else { return Ok(()) };
        let old = self.lot.below(2 * self.joiners.len().max(1));
        if old >= self.joiners.len() {
            if self.joiners.len() >= MOST_JOINERS {
                return Ok(());
            }
            let name = format!("joiner{}", self.joiners.len());
            let mut joiner = Joiner::new(name, self.lot.number());
            // Some come with a device that another user came with.
            if let Some(other) = self.lot.pick(&self.joiners).filter(|_| self.lot.chance(200)) {
                joiner = Joiner::of(&joiner.name, &other.keys(), &joiner.user());
            }
            self.joiners.push(joiner);
        }
        let which = old.min(self.joiners.len() - 1);
        let request = self.joiners[which].request(ticket, &self.lot);
        let request = request.map_err(|e| Violation(format!("a ticket: {e}")))?;
        match volume.admit(&request, b"exporter") {
            Ok(_) => {
                let before = self.admitted.iter().filter(|(t, _, _)| *t == ticket);
                let twice = before.into_iter().any(|(_, by, who)| *by != r && *who != which);
                self.counts.add(if twice {
                    "members: a ticket redeemed at two admins"
                } else {
                    "members: somebody admitted"
                });
                self.admitted.push((ticket, r, which));
                Ok(())
            }
            // Used, expired, or not known here.
            Err(Error::Refused(_)) => {
                self.counts.add("members: somebody turned away");
                Ok(())
            }
            Err(other) => Err(other.into()),
        }
    }

    fn any_open(&self, r: usize) -> Option<usize> {
        let open = self.devices[r].opens.len();
        (open > 0).then(|| self.lot.below(open))
    }

    // ---- open files

    fn opened(&mut self, r: usize, ino: Ino, handle: Handle, base: Vec<u8>, append: bool) -> usize {
        let device = &mut self.devices[r];
        device.files.entry(ino).or_default().writers += 1;
        device.opens.push(Open { handle, ino, base, append });
        device.opens.len() - 1
    }

    fn open(&mut self, r: usize, ino: Ino, truncate: bool, append: bool) -> Result<usize, Trip> {
        let volume = self.volume(r)?;
        // What its user can't read, its user does nothing with.
        let base = read(&volume, ino)?;
        if truncate {
            self.discard(&base)?;
        }
        let handle = volume.open(ino, writer(truncate, append), &CALLER)?;
        let index = self.opened(r, ino, handle, base.clone(), append);
        if truncate {
            self.ledger.derived(&base, &[]);
            if let Some(mirror) = self.devices[r].files.get_mut(&ino) {
                mirror.bytes = Some(Vec::new());
            }
        }
        Ok(index)
    }

    fn discard(&mut self, bytes: &[u8]) -> Result<(), Violation> {
        self.ledger.discard(tokens(bytes).map_err(Violation)?);
        Ok(())
    }

    /// Changes an open file as `change` does its bytes.
    fn changed<R>(
        &mut self,
        r: usize,
        index: usize,
        after: Vec<u8>,
        call: impl FnOnce(&Volume, Handle) -> Result<R, Error>,
    ) -> Result<R, Trip> {
        let volume = self.volume(r)?;
        let (handle, ino) = (self.devices[r].opens[index].handle, self.devices[r].opens[index].ino);
        let before = self.content(r, index);
        let (old, new) = (tokens(&before).map_err(Violation)?, tokens(&after).map_err(Violation)?);
        // Of what Mallory writes nobody may ever get the blocks.
        let kept = if self.is_mallory(r) { BTreeSet::new() } else { new };
        self.ledger.discard(old.difference(&kept).copied());
        let result = call(&volume, handle);
        if result.is_ok() {
            self.ledger.derived(&before, &after);
        }
        let bytes = if result.is_ok() { after } else { before };
        if let Some(mirror) = self.devices[r].files.get_mut(&ino) {
            mirror.bytes = Some(bytes);
        }
        Ok(result?)
    }

    /// What an open file shows, or would once it is written to.
    pub(crate) fn content(&self, r: usize, index: usize) -> Vec<u8> {
        let open = &self.devices[r].opens[index];
        let mirror = self.devices[r].files.get(&open.ino);
        mirror.and_then(|m| m.bytes.clone()).unwrap_or_else(|| open.base.clone())
    }

    /// A token somewhere in an open file. A call that fails has changed nothing.
    fn write_open(&mut self, r: usize, index: usize) -> Done {
        let mut bytes = self.content(r, index);
        let offset = match self.devices[r].opens[index].append {
            true => bytes.len(),
            false if self.lot.chance(200) => self.lot.pick(&FAR).copied().unwrap_or(0) + SLOT * self.lot.below(4),
            false => SLOT * self.lot.below(10),
        };
        let mut data: Vec<u8> = self.ledger.token().bytes().to_vec();
        if self.lot.chance(200) {
            data.extend(self.ledger.token().bytes());
        }
        put(&mut bytes, offset, &data);
        self.changed(r, index, bytes, |volume, handle| volume.write(handle, offset as u64, &data, &CALLER))?;
        Ok(())
    }

    fn punch(&mut self, r: usize, index: usize) -> Done {
        let mut bytes = self.content(r, index);
        let offset = SLOT * self.lot.below(bytes.len() / SLOT + 1);
        let len = SLOT * (1 + self.lot.below(bytes.len() / SLOT + 1));
        let end = (offset + len).min(bytes.len());
        bytes[offset.min(end)..end].fill(0);
        self.changed(r, index, bytes, |volume, handle| {
            volume.allocate(handle, Allocate::PunchHole, offset as u64, len as u64)
        })
    }

    fn copy_range(&mut self, r: usize, from: Ino, index: usize) -> Done {
        let target = &self.devices[r].opens[index];
        if target.append || target.ino == from {
            return Ok(());
        }
        let volume = self.volume(r)?;
        let source = read(&volume, from)?;
        let from_offset = SLOT * self.lot.below(source.len() / SLOT + 1);
        let to_offset = if self.lot.chance(500) { from_offset } else { SLOT * self.lot.below(10) };
        let len = source.len() - from_offset;
        let mut bytes = self.content(r, index);
        put(&mut bytes, to_offset, &source[from_offset..]);
        if len == 0 {
            return Ok(());
        }
        let reader = volume.open(from, OpenMode { read: true, ..OpenMode::default() }, &CALLER)?;
        let copied = self.changed(r, index, bytes, |volume, handle| {
            volume.copy_range(reader, from_offset as u64, handle, to_offset as u64, len as u64)
        });
        volume.release(reader)?;
        match copied? {
            n if n == len as u64 => Ok(()),
            n => Err(Violation(format!("{n} bytes of {len} were copied")).into()),
        }
    }

    fn truncate(&mut self, r: usize, ino: Ino) -> Done {
        let volume = self.volume(r)?;
        let before = read(&volume, ino)?;
        let mut after = before.clone();
        after.resize(SLOT * self.lot.below(before.len() / SLOT + 3), 0);
        let (old, new) = (tokens(&before).map_err(Violation)?, tokens(&after).map_err(Violation)?);
        let kept = if self.is_mallory(r) { BTreeSet::new() } else { new.clone() };
        self.ledger.discard(old.difference(&kept).copied());
        let change = AttributeChange { size: Some(after.len() as u64), ..AttributeChange::default() };
        let result = volume.set_attributes(ino, None, &change, &CALLER);
        if result.is_err() && !self.devices[r].disk.is_dead() {
            // It may have been cut, but not stored.
            let now = read(&volume, ino)?;
            if now != before && now != after {
                return Err(Violation("a file that could not be cut shows something else".to_owned()).into());
            }
            if let Some(mirror) = self.devices[r].files.get_mut(&ino) {
                mirror.bytes = Some(now);
            }
        }
        result?;
        self.ledger.derived(&before, &after);
        if let Some(mirror) = self.devices[r].files.get_mut(&ino) {
            mirror.bytes = Some(after);
            self.acknowledge(r, ino)?;
        } else if !self.is_mallory(r) {
            self.ledger.acknowledge(r, self.step, new);
        }
        Ok(())
    }

    /// What a file's writers wrote is stored now.
    fn acknowledge(&mut self, r: usize, ino: Ino) -> Result<(), Violation> {
        let Some(mirror) = self.devices[r].files.get(&ino) else { return Ok(()) };
        // What somebody made where they had lost the right to has no name any more, and what is written to it then is nobody's.
        let nameless = self.rights && entries(&self.volume(r)?).is_ok_and(|all| all.iter().all(|e| e.ino != ino));
        let kept: BTreeSet<Token> = match (&mirror.bytes, mirror.doomed || nameless) {
            (Some(bytes), false) => tokens(bytes).map_err(Violation)?,
            _ => BTreeSet::new(),
        };
        if !self.is_mallory(r) {
            self.ledger.acknowledge(r, self.step, kept);
        }
        Ok(())
    }

    fn flush(&mut self, r: usize, index: usize) -> Done {
        let (handle, ino) = (self.devices[r].opens[index].handle, self.devices[r].opens[index].ino);
        self.volume(r)?.flush(handle)?;
        Ok(self.acknowledge(r, ino)?)
    }

    fn fsync(&mut self, r: usize, index: usize) -> Done {
        let (handle, ino) = (self.devices[r].opens[index].handle, self.devices[r].opens[index].ino);
        self.volume(r)?.fsync(handle)?;
        self.acknowledge(r, ino)?;
        self.ledger.synced(r);
        Ok(())
    }

    /// `close`, and the release that follows whatever came of it.
    pub(crate) fn close(&mut self, r: usize, index: usize) -> Done {
        let content = self.content(r, index);
        let flushed = self.flush(r, index);
        let volume = self.volume(r)?;
        let open = self.devices[r].opens.remove(index);
        let released = volume.release(open.handle);
        let device = &mut self.devices[r];
        let mirror = device.files.entry(open.ino).or_default();
        mirror.writers = mirror.writers.saturating_sub(1);
        // What could not be published is kept by the volume, and tried again; here it is no longer followed.
        if mirror.writers == 0 {
            device.files.remove(&open.ino);
        }
        if released.is_err() {
            device.blurred.insert(open.ino);
        }
        if let Err(Trip::Refused(error)) = &flushed
            && self.is_of_rights(error)
        {
            self.stranded.extend(tokens(&content).map_err(Violation)?);
        }
        flushed?;
        Ok(released?)
    }

    fn write_once(&mut self, r: usize, ino: Ino, truncate: bool, append: bool) -> Done {
        let index = self.open(r, ino, truncate, append)?;
        let result =
            self.write_open(r, index).and_then(|()| if self.lot.chance(150) { self.fsync(r, index) } else { Ok(()) });
        if self.devices[r].disk.is_dead() {
            return result;
        }
        self.close(r, index)?;
        result
    }

    // ---- names

    /// The user sees what a name leads to, and does away with it.
    fn forsake(&mut self, r: usize, ino: Ino) -> Done {
        let bytes = read(&self.volume(r)?, ino)?;
        self.discard(&bytes)?;
        if let Some(mirror) = self.devices[r].files.get_mut(&ino) {
            mirror.doomed = true;
        }
        Ok(())
    }

    fn remove(&mut self, r: usize, entry: &Seen) -> Done {
        let volume = self.volume(r)?;
        if entry.kind == NodeKind::Directory {
            return Ok(volume.rmdir(entry.parent, &entry.name)?);
        }
        // What was listed may be gone since: a conflicting version shows beside each name of its file.
        let ino = volume.lookup(entry.parent, &entry.name)?.ino;
        if entry.kind == NodeKind::File {
            self.forsake(r, ino)?;
        }
        Ok(volume.unlink(entry.parent, &entry.name)?)
    }

    fn rename(&mut self, r: usize, entry: &Seen, dir: Ino, name: &[u8], mode: RenameMode) -> Done {
        let volume = self.volume(r)?;
        if mode == RenameMode::Replace
            && let Ok(target) = volume.lookup(dir, name)
            && target.ino != entry.ino
            && target.kind == NodeKind::File
            && entry.kind != NodeKind::Directory
        {
            self.forsake(r, target.ino)?;
        }
        Ok(volume.rename(entry.parent, &entry.name, dir, name, mode)?)
    }
}
