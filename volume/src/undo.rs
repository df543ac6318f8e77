//! Taking back what power loss left without its blocks.
//!
//! A content is published without a sync: its row is in the store's journal, its blocks are in a pack, and the kernel
//! writes out either first. If power fails in between, the row may be on the disk and a block not; the version it names
//! could never be read, and would hide the one before it. So each batch that comes to the store while it holds a content
//! whose blocks aren't synced bears a row that tells what the batch changed. [`recover`] looks at them before anything
//! else does, and goes back to before the first one whose blocks are not whole.
//!
//! Invariants:
//! - Rows are removed by a batch that follows a sync of the blocks and precedes a sync of the store. Where there is a
//!   row, nothing from its batch on was ever acknowledged as synced, sent, or shown from elsewhere; so it can be taken
//!   back, and its numbers in this device's log given again, without anybody noticing.
//! - Rows have no gaps: what is after one of them has one too. Going back from the last to any of them leaves the store
//!   as it was before that batch.
//! - With all blocks synced as a content is published (a caller that uses `fsync`) nothing is written.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::{
    commit::encode,
    content::BlockStore,
    error::{Error, Result},
    sealed_store::SealedStore,
    store::{Batch, Space, prefix_end},
};

const PREFIX: &[u8] = b"undo/";

/// What one batch changed.
#[derive(Serialize, Deserialize)]
struct Row {
    /// The blocks that its contents need ([`BlockStore::unsynced`]); `None` when it publishes none.
    needs: Option<ByteBuf>,
    /// (number of the space, key, value before; `None`: there was none).
    before: Vec<(u8, ByteBuf, Option<ByteBuf>)>,
}

/// Which rows there are. Numbers begin anew when a volume is opened.
#[derive(Default)]
pub(crate) struct Undo {
    oldest: AtomicU64,
    next: AtomicU64,
}

impl Undo {
    /// The number that the next row will have, if there is a row now: to be given to [`Self::forget`] after a sync of
    /// the blocks that begins now.
    pub(crate) fn end(&self) -> Option<u64> {
        let (oldest, next) = (self.oldest.load(Ordering::Acquire), self.next.load(Ordering::Acquire));
        (oldest < next).then_some(next)
    }

    /// Adds to `batch` what takes it back, when it has to be: it `publishes` contents whose blocks aren't synced, or
    /// follows one that does. Tells whether it did; [`Self::added`] is to be called once the batch is stored.
    pub(crate) fn add(
        &self,
        store: &SealedStore,
        blocks: &dyn BlockStore,
        publishes: bool,
        batch: &mut Batch,
    ) -> Result<bool> {
        let needs = if publishes { blocks.unsynced()? } else { None };
        if needs.is_none() && self.end().is_none() {
            return Ok(false);
        }
        let mut before = BTreeMap::new();
        for (space, key, _) in &batch.writes {
            // These are written but once.
            let new = matches!(space, Space::Changes | Space::Commits | Space::Index | Space::History);
            let old = if new { Ok(None) } else { whole(store, *space, key) };
            let Ok(old) = old else {
                // Damage that the batch mends would come back with what takes it back: with the blocks on the disk
                // nothing has to be.
                log::warn!("a damaged record is written anew");
                let end = self.end();
                blocks.sync()?;
                end.map_or(Ok(()), |end| self.forget(store, end))?;
                return Ok(false);
            };
            before.insert((*space as u8, ByteBuf::from(key.clone())), old.map(ByteBuf::from));
        }
        let before = before.into_iter().map(|((space, key), old)| (space, key, old)).collect();
        let row = Row { needs: needs.map(ByteBuf::from), before };
        store.put(batch, Space::Meta, key(self.next.load(Ordering::Acquire)), &encode(&row));
        Ok(true)
    }

    /// A batch that [`Self::add`] added to is stored.
    pub(crate) fn added(&self) {
        self.next.fetch_add(1, Ordering::AcqRel);
    }

    /// Drops the rows before `end`, whose blocks are synced.
    pub(crate) fn forget(&self, store: &SealedStore, end: u64) -> Result<()> {
        let mut batch = Batch::new();
        for number in self.oldest.load(Ordering::Acquire)..end {
            batch.remove(Space::Meta, key(number));
        }
        store.apply(batch)?;
        self.oldest.fetch_max(end, Ordering::AcqRel);
        Ok(())
    }
}

/// A row as it is on the disk, if what is there is what was written.
fn whole(store: &SealedStore, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>> {
    let row = store.raw().get(space, key)?;
    // The store below has checksums of its own for what isn't sealed.
    if let Some(sealed) = row.as_ref().filter(|_| space != Space::Ids) {
        store.open(space, key, sealed)?;
    }
    Ok(row)
}

fn key(number: u64) -> Vec<u8> {
    [PREFIX, &number.to_be_bytes()].concat()
}

/// Whether there may be contents whose blocks aren't on the disk.
pub(crate) fn is_needed(store: &SealedStore) -> Result<bool> {
    Ok(!store.raw().scan(Space::Meta, PREFIX, &prefix_end(PREFIX), 1)?.is_empty())
}

/// Brings a store that was not closed in order back to before the first content whose blocks are lost, and drops the
/// rows. Returns how many batches were taken back. To be called before anything is read, once the blocks' own recovery
/// is done.
pub(crate) fn recover(store: &SealedStore, blocks: &dyn BlockStore) -> Result<usize> {
    let found = store.scan(Space::Meta, PREFIX, &prefix_end(PREFIX), usize::MAX)?;
    if found.is_empty() {
        return Ok(0);
    }
    let bad = || Error::damaged("a record of what to take back");
    let mut rows = Vec::with_capacity(found.len());
    let mut broken = None;
    let mut writes = BTreeMap::new();
    for (number, (key, bytes)) in found.into_iter().enumerate() {
        let row: Row = rmp_serde::from_slice(&bytes).map_err(|_| bad())?;
        if let Some(needs) = row.needs.as_ref().filter(|_| broken.is_none())
            && !blocks.are_here(needs)?
        {
            broken = Some(number);
        }
        writes.insert((Space::Meta, key), None);
        rows.push(row);
    }
    let undone = broken.map_or(0, |broken| rows.len() - broken);
    // The newest first: what the oldest says of a key is what counts.
    for row in rows.into_iter().rev().take(undone) {
        for (space, key, old) in row.before {
            let space = *Space::ALL.get(usize::from(space)).ok_or_else(bad)?;
            writes.insert((space, key.into_vec()), old.map(ByteBuf::into_vec));
        }
    }
    // Those that stay are whole, and must be so for good before the rows go.
    blocks.sync()?;
    store.apply(Batch { writes: writes.into_iter().map(|((space, key), value)| (space, key, value)).collect() })?;
    store.sync()?;
    if undone > 0 {
        log::warn!(
            "power failed before the contents of {undone} calls were on the disk: the volume is as it was before them"
        );
    }
    Ok(undone)
}
