//! Reading directories ahead: rows that are brought into memory beside other calls, before somebody asks for them.
//!
//! Invariant: the store is read without the core's lock. What was read counts only if no batch was begun meanwhile, and is
//! otherwise dropped; who asks then reads the row itself. Rows that can't be read are left to whoever asks for them.

use std::sync::Arc;

use serde::de::DeserializeOwned;

use crate::{
    core::entry_key,
    node::Ino,
    record,
    row::{Entry, NodeRow},
    sealed_store::SealedStore,
    store::{Space, prefix_end},
    volume::Volume,
};

/// Directories with more entries are not read ahead: they would drive out what is used.
const MOST_ENTRIES: usize = 512;
/// Nodes whose numbers are no further apart are read in one go, with so many rows of links and attributes among them.
const NEAR: u64 = 4;
const NODE_PAGE: usize = 16;
/// So many of them at most: a row may hold an attribute of 64 KiB.
const AT_ONCE: usize = 64;

/// All entries of a directory, in the order of their tags, and what they lead to as far as it was not in memory.
pub(crate) struct Directory {
    pub entries: Vec<([u8; 16], Arc<Entry>)>,
    pub nodes: Vec<(Ino, Arc<NodeRow>)>,
}

impl Volume {
    /// Brings a directory of moderate size into memory, with what its entries lead to: for who is about to be asked for
    /// it, on a thread of its own. Tells how many entries it read.
    pub fn read_ahead(&self, directory: Ino) -> usize {
        let Some((directory, as_of)) = self.inner.core.lock().next_ahead(directory) else { return 0 };
        let Some(entries) = entries(&self.inner.store, directory) else { return 0 };
        let mut children: Vec<Ino> =
            entries.iter().filter_map(|(_, entry)| entry.shown().map(|(child, _)| child)).collect();
        self.inner.core.lock().retain_absent(&mut children);
        let mut found = Vec::with_capacity(children.len());
        nodes(&self.inner.store, children, |ino, read| found.extend(read().map(|row| (ino, Arc::new(row)))));
        let count = entries.len();
        let read = Directory { entries, nodes: found };
        if self.inner.core.lock().take_read_ahead(directory, as_of, read) { count } else { 0 }
    }
}

/// All entries of a directory, if they are not too many and can be read.
fn entries(store: &SealedStore, directory: Ino) -> Option<Vec<([u8; 16], Arc<Entry>)>> {
    let end = prefix_end(&directory.0.to_be_bytes());
    let rows = store.raw().scan(Space::Entries, &entry_key(directory, &[0; 16]), &end, MOST_ENTRIES + 1).ok()?;
    if rows.len() > MOST_ENTRIES {
        return None;
    }
    let entry = |(key, sealed): &(Vec<u8>, Vec<u8>)| {
        Some((key.get(8..)?.try_into().ok()?, Arc::new(readable(store, Space::Entries, key, sealed)?)))
    };
    rows.iter().map(entry).collect()
}

/// Hands on the rows of nodes, each to be read or not: numbers given one after the other lie beside each other. A node
/// whose number is near no other one's is left out.
pub(crate) fn nodes(store: &SealedStore, mut inos: Vec<Ino>, mut each: impl FnMut(Ino, &dyn Fn() -> Option<NodeRow>)) {
    inos.sort_unstable();
    inos.dedup();
    for run in inos.chunk_by(|a, b| b.0 - a.0 <= NEAR).flat_map(|run| run.chunks(AT_ONCE)) {
        let [first, .., last] = run else { continue };
        let end = (last.0 + 1).to_be_bytes();
        // Links and attributes that lie between them may fill the page: the rest is read when it is asked for.
        let limit = (last.0 - first.0) as usize + NODE_PAGE;
        let rows = store.raw().scan(Space::Nodes, &first.0.to_be_bytes(), &end, limit).unwrap_or_default();
        for (key, sealed) in rows {
            let Ok(number) = key.as_slice().try_into() else { continue };
            each(Ino(u64::from_be_bytes(number)), &|| readable(store, Space::Nodes, &key, &sealed));
        }
    }
}

/// Whether most of these nodes would be read in one go if there were `times` as many of them: their numbers are no
/// further apart. Puts them in order.
pub(crate) fn would_be_near(inos: &mut [Ino], times: usize) -> bool {
    inos.sort_unstable();
    let near = inos.windows(2).filter(|pair| pair[1].0 - pair[0].0 <= NEAR.saturating_mul(times as u64)).count();
    near > inos.len() / 2
}

/// A row, if it opens and decodes.
pub(crate) fn readable<T: DeserializeOwned>(store: &SealedStore, space: Space, key: &[u8], sealed: &[u8]) -> Option<T> {
    record::read(&store.open(space, key, sealed).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_tells_whether_more_of_it_would_lie_together() {
        let apart = |by: u64| (0..192).map(|n| Ino(7 + n * 5 % 192 * by)).collect::<Vec<_>>();
        for (by, near) in [(1, true), (20, true), (21, false), (150, false)] {
            assert_eq!(would_be_near(&mut apart(by), 5), near, "{by}");
        }
        // Made at two times.
        let mut twice = [apart(10), apart(10).iter().map(|ino| Ino(ino.0 + (1 << 40))).collect()].concat();
        assert!(would_be_near(&mut twice, 5));
        assert!(!would_be_near(&mut [], 5) && !would_be_near(&mut [Ino(2)], 5));
    }
}
