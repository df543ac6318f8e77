//! The ordered key-value store that a volume keeps its records in, as a trait.
//!
//! Owns: the spaces there are, what a batch is, and what durability means. The real store
//! ([`crate::disk_store`]) and its in-memory twin ([`crate::memory_store`]) implement it.
//!
//! Invariants: a batch is applied whole or not at all, also across a crash; batches survive a
//! crash in the order they were applied (a later one never without an earlier one); what was
//! applied survives the death of the process, what was applied before a [`Store::sync`] that
//! returned survives power loss.

use std::io;

/// One key space of the store. `docs/format.md`, "Store", gives keys and values of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Space {
    /// Singletons: format version, counters, this device's log position.
    Meta,
    /// (branch, seq) -> commit record.
    Commits,
    /// (branch, seq, index) -> change as signed: head and sealed body.
    Changes,
    /// Commit hash -> (branch, seq); arrival number -> (branch, seq).
    Index,
    /// Inode number -> node row (the node's registers); with a link's id or an attribute's tag after it: that one, where
    /// a node has many.
    Nodes,
    /// Node ids -> inode number.
    Ids,
    /// (directory inode, tag of the name) -> entry row.
    Entries,
    /// Members, devices, epochs, invitations.
    Members,
    /// Block hash -> where it lies in the packs.
    Blocks,
    /// Open files' synced but unpublished contents.
    Drafts,
    /// Contents that are known but not wholly here.
    Wanted,
    /// Rows of `Nodes` and `Entries` as they were before later commits ([`crate::history`]).
    History,
}

impl Space {
    /// All spaces, in the order of their declaration.
    pub const ALL: [Space; 12] = [
        Space::Meta,
        Space::Commits,
        Space::Changes,
        Space::Index,
        Space::Nodes,
        Space::Ids,
        Space::Entries,
        Space::Members,
        Space::Blocks,
        Space::Drafts,
        Space::Wanted,
        Space::History,
    ];

    /// The name on disk.
    pub fn name(self) -> &'static str {
        match self {
            Space::Meta => "meta",
            Space::Commits => "commits",
            Space::Changes => "changes",
            Space::Index => "index",
            Space::Nodes => "nodes",
            Space::Ids => "ids",
            Space::Entries => "entries",
            Space::Members => "members",
            Space::Blocks => "blocks",
            Space::Drafts => "drafts",
            Space::Wanted => "wanted",
            Space::History => "history",
        }
    }
}

/// Writes that become visible and durable together.
#[derive(Debug, Default)]
pub struct Batch {
    /// (space, key, value; `None` removes). A later write of a key wins.
    pub writes: Vec<(Space, Vec<u8>, Option<Vec<u8>>)>,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes `key`.
    pub fn put(&mut self, space: Space, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.writes.push((space, key.into(), Some(value.into())));
    }

    /// Removes `key`; removing what isn't there is fine.
    pub fn remove(&mut self, space: Space, key: impl Into<Vec<u8>>) {
        self.writes.push((space, key.into(), None));
    }

    /// Whether applying it would change nothing.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// About as many bytes as a log of it has, rather more than fewer.
    pub fn bytes(&self) -> u64 {
        let of = |(_, key, value): &(Space, Vec<u8>, Option<Vec<u8>>)| key.len() + value.as_ref().map_or(0, Vec::len);
        self.writes.iter().map(|write| of(write) as u64 + 32).sum::<u64>() + 96
    }
}

/// A key and its value.
pub type Row = (Vec<u8>, Vec<u8>);

/// An ordered key-value store with atomic batches.
pub trait Store: Send + Sync + 'static {
    /// The value of `key`.
    fn get(&self, space: Space, key: &[u8]) -> io::Result<Option<Vec<u8>>>;

    /// Up to `limit` rows with `from <= key` and `key < to` (no upper bound when `to` is empty), ascending.
    fn scan(&self, space: Space, from: &[u8], to: &[u8], limit: usize) -> io::Result<Vec<Row>>;

    /// The last row with `from <= key < to` (no upper bound when `to` is empty).
    fn last(&self, space: Space, from: &[u8], to: &[u8]) -> io::Result<Option<Row>>;

    /// Applies a batch: it is with the operating system when this returns.
    fn apply(&self, batch: Batch) -> io::Result<()>;

    /// Makes everything applied before durable against power loss.
    fn sync(&self) -> io::Result<()>;

    /// Nothing more will be applied for now: time to do what makes opening quick. Whatever becomes of that, the store
    /// holds the same.
    fn rest(&self) {}
}

/// The smallest key greater than all keys that start with `prefix`; empty when there is none.
pub fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    end
}
