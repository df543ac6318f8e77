//! What is gone: the names of a directory that lead to nothing now but did.
//!
//! What was only moved is not gone. A directory that is there shows what was ever deleted from it, each name as it last
//! was. A directory that is gone itself shows what it held when something was last put into it: whoever removes a tree takes
//! it apart first, name by name, and wants it back as it was before.
//!
//! A listing reads the names of one directory and their history, never what is below: whether a directory that is there
//! holds anything deleted deeper down isn't known. Those that hold no other and of whose names nothing ever changed are
//! left out.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    core::Core,
    error::{Error, Result},
    history::Past,
    namespace::{cookie, cookie_end},
    node::{Attributes, Ino, NodeKind},
    row::Entry,
    time::Timestamp,
    tree::next_tag,
    versions::{Author, Follower},
    volume::Volume,
};

/// Names that are looked at under one lock.
const PAGE: usize = 256;

/// A directory that is there, or was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WasDirectory {
    /// Which.
    pub ino: Ino,
    /// The number of the commit since which it is gone; nothing while it is there.
    pub gone: Option<u64>,
}

impl WasDirectory {
    /// The top of the volume.
    pub const ROOT: WasDirectory = WasDirectory { ino: Ino::ROOT, gone: None };
}

/// A name that leads to nothing, and what it last led to.
#[derive(Clone, Debug)]
pub struct Deleted {
    /// The name.
    pub name: Vec<u8>,
    /// What it was, as it last was. Its number is the node's present one: [`Volume::as_it_was`] has that of then.
    pub attributes: Attributes,
    /// The number of the commit since which it is gone: the one before is the last with it.
    pub gone: u64,
    /// Since when it is gone.
    pub since: Timestamp,
    /// Who did that.
    pub author: Author,
    /// It was moved, and is or was deleted elsewhere.
    pub moved: bool,
}

/// An entry of a directory of what is gone.
#[derive(Clone, Debug)]
pub struct DeletedEntry {
    /// Its name.
    pub name: Vec<u8>,
    /// What it was, or is, if it is a directory that is there. Its number is the node's present one.
    pub attributes: Attributes,
    /// The number of the commit since which it is gone; nothing of a directory that is there.
    pub gone: Option<u64>,
    /// Reading on after this entry starts from here.
    pub cookie: u64,
}

/// What is known of a name before it is looked at more closely.
struct Found {
    name: Vec<u8>,
    ino: Ino,
    kind: NodeKind,
    gone: Option<u64>,
    moved: bool,
}

impl Volume {
    /// The names in a directory that lead to nothing now but did, in the order in which they went, with what they last led
    /// to. Of a directory that is gone, what it held. Costs what happened to the names in the directory.
    ///
    /// # Errors
    /// [`Error::NotFound`] where there is no directory and was none, [`Error::NotDirectory`].
    pub fn deleted(&self, path: &[&[u8]]) -> Result<Vec<Deleted>> {
        self.close_pending()?;
        let mut directory = WasDirectory::ROOT;
        for name in path {
            let entry = self.deleted_entry(directory, name)?;
            if entry.attributes.kind != NodeKind::Directory {
                return Err(Error::NotDirectory);
            }
            directory = WasDirectory { ino: entry.attributes.ino, gone: entry.gone };
        }
        let mut deleted = Vec::new();
        let mut from = Some([0; 16]);
        while let Some(tag) = from {
            let filled = self.filled(directory)?;
            let mut core = self.inner.core.lock();
            let (found, next) = core.deleted_from(directory, filled, tag)?;
            from = next;
            for found in found.into_values() {
                let Some(gone) = found.gone else { continue };
                let Some(attributes) = core.last_attributes(found.ino, gone)? else { continue };
                let (since, author) = (core.shown_since(gone)?, core.author_of_arrival(gone)?);
                deleted.push(Deleted { name: found.name, attributes, gone, since, author, moved: found.moved });
            }
        }
        deleted.sort_by(|a, b| (a.gone, &a.name).cmp(&(b.gone, &b.name)));
        Ok(deleted)
    }

    /// What a name in a directory of what is gone leads to: a directory that is there, or what was deleted.
    ///
    /// # Errors
    /// [`Error::NotFound`] if it is neither.
    pub fn deleted_entry(&self, directory: WasDirectory, name: &[u8]) -> Result<DeletedEntry> {
        let filled = self.filled(directory)?;
        let mut core = self.inner.core.lock();
        let tag = core.tag(name);
        let row = core.last_row(directory.ino, &tag)?;
        let present = core.present_entry(directory.ino, &tag)?;
        let found = core.deleted_name(directory, filled, row, present)?.filter(|found| !found.moved);
        let found = found.ok_or(Error::NotFound)?;
        core.deleted_entry_of(found, &tag)?.ok_or(Error::NotFound)
    }

    /// Entries of a directory of what is gone after a cookie (0: from the start). None means that there are no more.
    ///
    /// # Errors
    /// The disk failed, or is damaged.
    pub fn read_deleted(&self, directory: WasDirectory, after: u64, limit: usize) -> Result<Vec<DeletedEntry>> {
        if after == 0 {
            self.close_pending()?;
        }
        let filled = self.filled(directory)?;
        let mut entries = Vec::new();
        let mut from = if after == 0 { Some([0; 16]) } else { next_tag(cookie_end(after)) };
        while let Some(tag) = from {
            let mut core = self.inner.core.lock();
            let (found, next) = core.deleted_from(directory, filled, tag)?;
            from = next;
            for (tag, found) in found {
                let idle = found.gone.is_none() && !core.may_hold_deleted(found.ino)?;
                if found.moved || idle {
                    continue;
                }
                entries.extend(core.deleted_entry_of(found, &tag)?);
                if entries.len() >= limit {
                    return Ok(entries);
                }
            }
        }
        Ok(entries)
    }

    /// The arrival at which something was last put into a directory that is gone.
    fn filled(&self, directory: WasDirectory) -> Result<u64> {
        let Some(gone) = directory.gone else { return Ok(0) };
        if let Some(filled) = self.inner.core.lock().filled.get(&(directory.ino, gone)) {
            return Ok(*filled);
        }
        let (mut filled, mut from) = (0, Some([0; 16]));
        while let Some(tag) = from {
            let core = self.inner.core.lock();
            let (rows, next) = core.last_rows(directory.ino, &tag)?;
            from = next;
            let shown = rows.values().filter(|(until, entry)| *until <= gone && entry.shown().is_some());
            filled = shown.map(|(_, entry)| entry.since).fold(filled, u64::max);
        }
        self.inner.core.lock().filled.put((directory.ino, gone), filled);
        Ok(filled)
    }
}

/// What was found, by tag.
type FoundNames = BTreeMap<[u8; 16], Found>;

/// Rows that are over, and until when they were, by tag.
type LastRows = BTreeMap<[u8; 16], (u64, Entry)>;

impl Core {
    /// What is there of a directory of what is gone from a tag on, up to some tag, and which is the next.
    fn deleted_from(
        &mut self,
        directory: WasDirectory,
        filled: u64,
        from: [u8; 16],
    ) -> Result<(FoundNames, Option<[u8; 16]>)> {
        let (mut rows, mut next) = self.last_rows(directory.ino, &from)?;
        let mut present = self.stored_entries(directory.ino, &from, PAGE)?;
        if present.len() >= PAGE
            && let Some((last, _)) = present.last_key_value()
        {
            let after = next_tag(*last);
            if next.is_none_or(|next| after.is_some_and(|after| after < next)) {
                next = after;
            }
        }
        if let Some(next) = next {
            rows.split_off(&next);
            present.split_off(&next);
        }
        let mut found = BTreeMap::new();
        for (tag, row) in rows {
            let entry = present.remove(&tag);
            if let Some(name) = self.deleted_name(directory, filled, Some(row), entry)? {
                found.insert(tag, name);
            }
        }
        for (tag, entry) in present {
            if let Some(name) = self.deleted_name(directory, filled, None, Some(entry))? {
                found.insert(tag, name);
            }
        }
        Ok((found, next))
    }

    /// What a name in a directory of what is gone leads to, with its last row that is over and the present one.
    fn deleted_name(
        &mut self,
        directory: WasDirectory,
        filled: u64,
        row: Option<(u64, Entry)>,
        present: Option<Arc<Entry>>,
    ) -> Result<Option<Found>> {
        if let Some(entry) = &present
            && let Some((ino, kind)) = entry.shown()
        {
            // What is left in a directory that is gone went with it.
            let there = directory.gone.is_some() || kind == NodeKind::Directory;
            let found = Found { name: entry.name.clone(), ino, kind, gone: directory.gone, moved: false };
            return Ok(there.then_some(found));
        }
        let Some((until, entry)) = row else { return Ok(None) };
        let Some((ino, kind)) = entry.shown().filter(|_| until > filled && until < self.next_arrival) else {
            return Ok(None);
        };
        let follower = self.follower(ino, entry.claims.first().map(|claim| (claim.link, claim.at)), None)?;
        let moved = !matches!(follower, Follower::Removal);
        Ok(Some(Found { name: entry.name, ino, kind, gone: Some(until), moved }))
    }

    fn deleted_entry_of(&mut self, found: Found, tag: &[u8; 16]) -> Result<Option<DeletedEntry>> {
        let attributes = match found.gone {
            Some(gone) => self.last_attributes(found.ino, gone)?,
            None => Some(self.attributes(found.ino)?),
        };
        let kind = found.kind;
        Ok(attributes.filter(|attributes| attributes.kind == kind).map(|attributes| DeletedEntry {
            name: found.name,
            attributes,
            gone: found.gone,
            cookie: cookie(tag),
        }))
    }

    /// What a node was just before it was gone.
    pub(crate) fn last_attributes(&mut self, ino: Ino, gone: u64) -> Result<Option<Attributes>> {
        let arrival = gone.saturating_sub(1);
        let past = Past::unnumbered(arrival, self.shown_since(arrival)?);
        match self.as_of(past, |core| core.attributes(ino)) {
            Ok(attributes) => Ok(Some(attributes)),
            Err(Error::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether something may have been deleted in or below a directory that is there.
    fn may_hold_deleted(&mut self, directory: Ino) -> Result<bool> {
        Ok(self.with_node(directory, |node| node.subdirs > 0)? || self.has_name_history(directory)?)
    }

    /// The last row in which a name led to something and that is over.
    fn last_row(&self, directory: Ino, tag: &[u8; 16]) -> Result<Option<(u64, Entry)>> {
        let mut before = u64::MAX;
        loop {
            match self.entry_row_before(directory, tag, before)? {
                Some((until, entry)) if entry.shown().is_none() => before = until,
                found => return Ok(found),
            }
        }
    }

    /// The same of the names of a directory from a tag on, up to some tag, and which is the next.
    fn last_rows(&self, directory: Ino, from: &[u8; 16]) -> Result<(LastRows, Option<[u8; 16]>)> {
        let (tags, next) = self.names_with_history(directory, from, PAGE)?;
        let mut found = BTreeMap::new();
        for (tag, last) in tags {
            let row = match last {
                Some(row) if row.1.shown().is_some() => Some(row),
                _ => self.last_row(directory, &tag)?,
            };
            found.extend(row.map(|row| (tag, row)));
        }
        Ok((found, next))
    }
}
