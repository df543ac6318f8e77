//! The store's records: whether each opens, decodes, and leads to what it should.

use serde::de::DeserializeOwned;

use crate::{
    agreed,
    conflicts::BESIDE,
    core::{entry_key, node_id_key},
    history,
    member::MemberRow,
    node::Ino,
    record,
    row::{Entry, Link, Node, NodeRow, Xattr},
    settings,
    spilled::{self, Item, Spilled},
    store::{Row, Space},
    version::{Dot, ValueRef},
};

use super::{DamageKind, Verifier};

/// The disk store's own row among those of the index.
const SYNCED: &[u8] = b"synced";

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    record::read(bytes).ok()
}

fn ino_of(key: &[u8]) -> Option<Ino> {
    Some(Ino(u64::from_be_bytes(key.get(..8)?.try_into().ok()?)))
}

impl Verifier<'_> {
    pub(super) fn records(&mut self) {
        for space in [Space::Meta, Space::Blocks, Space::Drafts, Space::Wanted, Space::Members, Space::History] {
            self.rows(space, |this, rows| rows.into_iter().for_each(|row| this.plain_record(space, row)));
        }
        self.rows(Space::Nodes, |this, rows| this.nodes(rows));
        self.rows(Space::Entries, |this, rows| this.entries(rows));
        self.rows(Space::Ids, |this, rows| this.ids(rows));
        let counted = self.volume.inner.core.lock().are_all_beside();
        if counted.is_ok_and(|counted| !counted) {
            self.damage(DamageKind::Record, "the number of names in conflict is wrong".to_owned(), None, None);
        }
    }

    /// Opens a sealed record, or notes that it doesn't.
    fn opened(
        &mut self,
        space: Space,
        key: &[u8],
        sealed: &[u8],
        path: impl FnOnce(&mut Self) -> Option<Vec<u8>>,
    ) -> Option<Vec<u8>> {
        match self.volume.inner.store.open(space, key, sealed) {
            Ok(plain) => Some(plain),
            Err(e) => {
                let path = path(self);
                self.damage(DamageKind::Record, e.to_string(), path, None);
                None
            }
        }
    }

    fn plain_record(&mut self, space: Space, (key, sealed): Row) {
        let Some(plain) = self.opened(space, &key, &sealed, |_| None) else { return };
        let sound = match space {
            Space::Wanted => ValueRef::from_key(&key).is_some_and(|at| {
                self.wanted.insert(at);
                true
            }),
            Space::Meta if key.starts_with(BESIDE) => self.volume.inner.core.lock().is_beside(&key).unwrap_or(true),
            Space::Meta => settings::is_sound(&key, &plain).unwrap_or(true),
            Space::History => history::is_sound(&key, &plain),
            Space::Members if agreed::is_ours(&key) => agreed::is_sound(&key, &plain),
            Space::Members => decode::<MemberRow>(&plain).is_some_and(|row| row.key() == key),
            _ => true,
        };
        if !sound {
            self.damage(DamageKind::Record, format!("record in `{}` does not decode", space.name()), None, None);
        }
    }

    fn nodes(&mut self, rows: Vec<Row>) {
        for (key, sealed) in rows {
            let Some(ino) = ino_of(&key) else { continue };
            match key.get(8) {
                None => {}
                Some(kind) if Link::KINDS.contains(kind) => {
                    self.spilled::<Link>(ino, &key, &sealed);
                    continue;
                }
                Some(_) => {
                    self.spilled::<Xattr>(ino, &key, &sealed);
                    continue;
                }
            }
            let path = |this: &mut Self| this.path_by_entries(ino);
            let Some(plain) = self.opened(Space::Nodes, &key, &sealed, path) else { continue };
            let Some(row) = decode::<NodeRow>(&plain) else {
                let path = self.path_by_entries(ino);
                self.damage(DamageKind::Record, "record in `nodes` does not decode".to_owned(), path, None);
                continue;
            };
            // What it says was so when the page was read: looked at again only if it no longer fits.
            let NodeRow::Node(node) = row else { continue };
            if self.lost_id(ino, &node) {
                let path = self.volume.inner.core.lock().path_of(ino);
                self.damage(DamageKind::Record, "its id does not lead to it".to_owned(), path, None);
            }
            for link in &node.links {
                self.shown(ino, link);
            }
            if node.spilled.is_nothing() || self.counts(ino, &node.spilled) {
                continue;
            }
            // Perhaps they changed since the page was read: compared again under the lock.
            let core = &mut *self.volume.inner.core.lock();
            let now = core.with_node(ino, |n| n.spilled);
            if !now.is_ok_and(|now| self.counts(ino, &now)) {
                let path = core.path_of(ino);
                let what = "links or extended attributes of it are missing".to_owned();
                self.damage(DamageKind::Record, what, path, None);
            }
        }
    }

    /// Whether a node's id doesn't lead to it.
    fn lost_id(&self, ino: Ino, node: &Node) -> bool {
        let by_id = self.volume.inner.core.lock().stored_ino_of_node(&node.id);
        by_id.is_ok_and(|found| found != Some(ino))
    }

    /// Looks whether a link shows where it says.
    fn shown(&mut self, ino: Ino, link: &Link) {
        let Some(shown) = &link.shown else { return };
        let core = &mut *self.volume.inner.core.lock();
        // Of directories that show as one, one holds the names of all.
        let named = core.canonical(shown.parent).and_then(|held_by| core.entry(held_by, &shown.name));
        let fits = named.is_ok_and(|entry| entry.claims.iter().any(|c| c.child == ino && c.link == link.id));
        if fits {
            return;
        }
        let now = core.found_link(ino, &link.id);
        if now.map_or(true, |(_, now)| now.is_some_and(|now| now.shown.as_ref() == Some(shown))) {
            let path = core.path_of(ino);
            self.damage(DamageKind::Record, "a name of it is missing in its directory".to_owned(), path, None);
        }
    }

    /// Whether there are as many rows of links and attributes as the node's row says.
    fn counts(&self, ino: Ino, spilled: &Spilled) -> bool {
        let store = &self.volume.inner.store;
        spilled::count_rows::<Link>(store, ino).is_ok_and(|found| found == spilled.links)
            && spilled::count_rows::<Xattr>(store, ino).is_ok_and(|found| found == spilled.xattrs)
    }

    /// A row of a link or of an extended attribute: whether the node knows it, and where its link shows.
    fn spilled<T: Item>(&mut self, ino: Ino, key: &[u8], sealed: &[u8]) {
        let path = |this: &mut Self| this.path_by_entries(ino);
        let Some(plain) = self.opened(Space::Nodes, key, sealed, path) else { return };
        let item = decode::<T>(&plain).filter(|item| T::key(ino, &item.id(), item.shows()) == key);
        let Some(item) = item else {
            let path = self.path_by_entries(ino);
            self.damage(DamageKind::Record, "record in `nodes` does not decode".to_owned(), path, None);
            return;
        };
        let (sound, path) = {
            let core = &mut *self.volume.inner.core.lock();
            let known = match core.row(ino) {
                Ok(Some(row)) => match &*row {
                    NodeRow::Node(node) => core.item::<T>(ino, node, &item.id()).is_ok_and(|found| found.is_some()),
                    NodeRow::View { .. } => false,
                },
                Ok(None) => false,
                // Told for the node's own record.
                Err(_) => return,
            };
            (known, if known { None } else { core.path_of(ino) })
        };
        if !sound {
            let what = "a link or extended attribute whose node does not lead to it".to_owned();
            return self.damage(DamageKind::Record, what, path, None);
        }
        if let Some(link) = item.link() {
            self.shown(ino, link);
        }
    }

    /// The path of a node whose own record is damaged: whoever names it tells.
    fn path_by_entries(&self, ino: Ino) -> Option<Vec<u8>> {
        let store = self.volume.inner.store.clone();
        let mut from = Vec::new();
        loop {
            let rows = store.raw().scan(Space::Entries, &from, &[], super::PAGE).ok()?;
            from = [rows.last()?.0.as_slice(), &[0]].concat();
            for (key, sealed) in rows {
                let entry = store.open(Space::Entries, &key, &sealed).ok().and_then(|plain| decode::<Entry>(&plain));
                let Some(entry) = entry.filter(|e| e.claims.iter().any(|c| c.child == ino)) else { continue };
                let mut path = self.volume.inner.core.lock().path_of(ino_of(&key)?)?;
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend(&entry.name);
                return Some(path);
            }
        }
    }

    fn entries(&mut self, rows: Vec<Row>) {
        for (key, sealed) in rows {
            let Some(directory) = ino_of(&key) else { continue };
            let path = |this: &mut Self| this.volume.inner.core.lock().path_of(directory);
            let Some(plain) = self.opened(Space::Entries, &key, &sealed, path) else { continue };
            let core = &mut *self.volume.inner.core.lock();
            let entry = decode::<Entry>(&plain).filter(|e| entry_key(directory, &core.tag(&e.name)) == *key);
            let Some(entry) = entry else {
                let path = core.path_of(directory);
                self.damage(DamageKind::Record, "a name in it does not decode".to_owned(), path, None);
                continue;
            };
            let claimed = entry
                .claims
                .iter()
                .all(|claim| core.found_link(claim.child, &claim.link).is_ok_and(|(_, link)| link.is_some()));
            let derived = entry.derived.as_ref().is_none_or(|d| core.row(d.ino).is_ok_and(|row| row.is_some()));
            let derives = entry.derives.iter().all(|name| {
                let there = core.entry(directory, name);
                there.is_ok_and(|there| {
                    there.wanted_by.iter().any(|by| *by == entry.name)
                        || there.derived.as_ref().is_some_and(|d| d.base == entry.name)
                })
            });
            let listed = core.is_counted(directory, &entry).unwrap_or(true);
            // If not, perhaps it changed since the page was read.
            if !(claimed && derived && derives && listed)
                && core.entry(directory, &entry.name).is_ok_and(|now| *now == entry)
            {
                let mut path = core.path_of(directory).unwrap_or_default();
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend(&entry.name);
                self.damage(
                    DamageKind::Record,
                    "it leads to nothing, or what shows beside it is missing".to_owned(),
                    Some(path),
                    None,
                );
            }
        }
    }

    fn ids(&mut self, rows: Vec<Row>) {
        let core = &mut *self.volume.inner.core.lock();
        let mut wrong = Vec::new();
        for (key, value) in rows {
            let ino = ino_of(&value).filter(|_| value.len() == 8);
            // Ids of links led to their nodes once; nobody asked.
            let fits = key.first() == Some(&b'l')
                || ino.is_some_and(|ino| core.with_node(ino, |node| key == node_id_key(&node.id)).unwrap_or(false));
            if !fits {
                wrong.push(ino.and_then(|ino| core.path_of(ino)));
            }
        }
        for path in wrong {
            self.damage(DamageKind::Record, "an id leads to another node".to_owned(), path, None);
        }
    }

    /// The index of commits: by hash, and by arrival.
    pub(super) fn index(&mut self) {
        self.rows(Space::Index, |this, rows| {
            for (key, value) in rows.into_iter().filter(|(key, _)| key != SYNCED) {
                let core = this.volume.inner.core.lock();
                let row =
                    Dot::from_key(&value).filter(|_| value.len() == 12).and_then(|dot| core.commit_row(dot).ok()?);
                let fits = row.is_some_and(|row| match key.split_first() {
                    Some((b'h', hash)) => row.hash.as_bytes() == hash,
                    Some((b'a', arrival)) => row.arrival.to_be_bytes() == arrival,
                    _ => false,
                });
                drop(core);
                if !fits {
                    this.damage(DamageKind::Record, "the index leads to another commit".to_owned(), None, None);
                }
            }
        });
    }
}
