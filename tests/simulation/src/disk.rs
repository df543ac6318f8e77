//! A device's disk: rows and blocks in memory, with everything that goes wrong on real ones.
//!
//! What holds, as of the store and the packs that it stands for: a batch is applied whole or not at all, and batches
//! survive power loss in order; of blocks that were not synced any may survive. A damaged row that the volume seals
//! is handed out damaged; one that it does not is an error, since the store below has checksums of its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    ops::Bound,
    sync::Arc,
};

use parking_lot::Mutex;
use volume::{
    BlockHash, BlockStore, Error, Store,
    content::BlockHead,
    store::{Batch, Row, Space},
};

use crate::{counts::Counts, lot::Lot};

type Key = (Space, Vec<u8>);
/// A row's or a block's bytes.
pub(crate) type Value = Arc<[u8]>;

/// What ails a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Writing and syncing fail.
    Io,
    /// Writing fails: no room.
    Full,
    /// Reading fails, too.
    Dead,
}

/// A copy of a disk, as a backup has it.
#[derive(Clone)]
pub(crate) struct Image {
    rows: BTreeMap<Key, Value>,
    blocks: BTreeMap<BlockHash, Value>,
}

#[derive(Default)]
struct State {
    rows: BTreeMap<Key, Value>,
    /// What undoes the batches applied since the last sync, the oldest first.
    undo: Vec<Vec<(Key, Option<Value>)>>,
    blocks: BTreeMap<BlockHash, Value>,
    unsynced: BTreeSet<BlockHash>,
    /// Blocks that the volume found damaged.
    aside: BTreeMap<BlockHash, Value>,
    /// How many writes and syncs still succeed, then what is wrong, and for how many.
    trouble: Option<(u32, Trouble, u32)>,
    /// A sync failed, and none succeeded since.
    sync_failed: bool,
    spoiled_rows: BTreeSet<Key>,
    spoiled_blocks: BTreeSet<BlockHash>,
    counts: Counts,
}

impl State {
    /// Counts a write or a sync; fails when it is time to.
    fn write(&mut self) -> io::Result<()> {
        let Some((left, trouble, times)) = &mut self.trouble else { return Ok(()) };
        if *left > 0 {
            *left -= 1;
            return Ok(());
        }
        let trouble = *trouble;
        self.counts.add(match trouble {
            Trouble::Io => "disk: a write or sync failed",
            Trouble::Full => "disk: a write or sync found it full",
            Trouble::Dead => "disk: a write or sync in which the process died",
        });
        if trouble != Trouble::Dead {
            *times -= 1;
            if *times == 0 {
                self.trouble = None;
            }
        }
        Err(match trouble {
            Trouble::Full => io::Error::new(io::ErrorKind::StorageFull, "simulated full disk"),
            Trouble::Io | Trouble::Dead => io::Error::other("simulated disk failure"),
        })
    }

    fn read(&self) -> io::Result<()> {
        match self.trouble {
            Some((0, Trouble::Dead, _)) => Err(io::Error::other("simulated disk failure")),
            _ => Ok(()),
        }
    }

    fn row(&mut self, key: &Key, value: &Value) -> io::Result<Vec<u8>> {
        let mut bytes = value.to_vec();
        if self.spoiled_rows.contains(key) {
            self.counts.add("disk: a row with a flipped bit was read");
            match key.0 {
                Space::Changes | Space::Index | Space::Ids | Space::Blocks => {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "simulated checksum mismatch"));
                }
                Space::Commits
                | Space::Meta
                | Space::Nodes
                | Space::Entries
                | Space::Members
                | Space::Drafts
                | Space::Wanted
                | Space::History => {
                    let middle = bytes.len() / 2;
                    bytes[middle] ^= 1;
                }
            }
        }
        Ok(bytes)
    }
}

/// See the module.
#[derive(Default)]
pub(crate) struct Disk {
    state: Mutex<State>,
}

impl Disk {
    /// Takes away what was not synced: of batches a number of the newest, of blocks some.
    pub(crate) fn lose_power(&self, lot: &Lot) {
        let state = &mut *self.state.lock();
        let keep = lot.below(state.undo.len() + 1);
        state.counts.many("power: batches lost (a torn one is none)", (state.undo.len() - keep) as u64);
        while state.undo.len() > keep {
            for (key, old) in state.undo.pop().into_iter().flatten().rev() {
                match old {
                    Some(value) => state.rows.insert(key, value),
                    None => state.rows.remove(&key),
                };
            }
        }
        state.undo.clear();
        for hash in std::mem::take(&mut state.unsynced) {
            if lot.chance(500) {
                state.blocks.remove(&hash);
                state.counts.add("power: a block lost (a torn one is none)");
            }
        }
    }

    /// After `writes` more, `times` writes and syncs fail.
    pub(crate) fn fail(&self, writes: u32, trouble: Trouble, times: u32) {
        self.state.lock().trouble = Some((writes, trouble, times.max(1)));
    }

    /// Whether nothing works any more, as when the process was killed in the middle of a call.
    pub(crate) fn is_dead(&self) -> bool {
        self.state.lock().read().is_err()
    }

    /// Whether anything can go wrong with it now.
    pub(crate) fn is_troubled(&self) -> bool {
        let state = self.state.lock();
        state.trouble.is_some() || !state.spoiled_rows.is_empty() || !state.spoiled_blocks.is_empty()
    }

    /// Whether what was written last could not be synced.
    pub(crate) fn sync_failed(&self) -> bool {
        self.state.lock().sync_failed
    }

    /// Whether bits of it are wrong.
    pub(crate) fn is_spoiled(&self) -> bool {
        let state = self.state.lock();
        !state.spoiled_rows.is_empty() || !state.spoiled_blocks.is_empty()
    }

    /// Ends failures; bits stay wrong.
    pub(crate) fn recover(&self) {
        self.state.lock().trouble = None;
    }

    /// Makes it a good disk again.
    pub(crate) fn repair(&self) {
        let state = &mut *self.state.lock();
        state.trouble = None;
        state.spoiled_rows.clear();
        state.spoiled_blocks.clear();
        // As `verify` would find them.
        let aside = std::mem::take(&mut state.aside);
        state.blocks.extend(aside);
    }

    /// Flips a bit somewhere.
    pub(crate) fn spoil(&self, lot: &Lot) {
        let state = &mut *self.state.lock();
        state.counts.add("disk: a bit flipped");
        if lot.chance(300) && !state.blocks.is_empty() {
            let which = lot.below(state.blocks.len());
            state.spoiled_blocks.extend(state.blocks.keys().nth(which).copied());
        } else {
            let which = lot.below(state.rows.len());
            let key = state.rows.keys().nth(which).cloned();
            state.spoiled_rows.extend(key);
        }
    }

    /// How many batches and blocks power loss could take now.
    pub(crate) fn unsynced(&self) -> usize {
        let state = self.state.lock();
        state.undo.len() + state.unsynced.len()
    }

    /// A backup.
    pub(crate) fn image(&self) -> Image {
        let state = self.state.lock();
        let blocks = state.blocks.iter().chain(&state.aside).map(|(hash, bytes)| (*hash, bytes.clone()));
        Image { rows: state.rows.clone(), blocks: blocks.collect() }
    }

    /// A restored backup.
    pub(crate) fn restore(&self, image: &Image) {
        let image = image.clone();
        let state = &mut *self.state.lock();
        let counts = std::mem::take(&mut state.counts);
        *state = State { rows: image.rows, blocks: image.blocks, counts, ..State::default() };
    }

    /// A disk with nothing but these blocks.
    pub(crate) fn of_blocks(blocks: BTreeMap<BlockHash, Value>) -> Disk {
        Disk { state: Mutex::new(State { blocks, ..State::default() }) }
    }

    /// Every block, as it was written.
    pub(crate) fn blocks(&self) -> BTreeMap<BlockHash, Value> {
        let state = self.state.lock();
        state.blocks.iter().chain(&state.aside).map(|(hash, bytes)| (*hash, bytes.clone())).collect()
    }

    /// Whether it has this block, and power loss can't take it.
    pub(crate) fn keeps(&self, hash: &BlockHash) -> bool {
        let state = self.state.lock();
        state.aside.contains_key(hash) || (state.blocks.contains_key(hash) && !state.unsynced.contains(hash))
    }

    /// The keys of a space that start with `prefix`.
    pub(crate) fn keys(&self, space: Space, prefix: &[u8]) -> Vec<Vec<u8>> {
        let state = self.state.lock();
        let from = Bound::Included((space, prefix.to_vec()));
        let keys = state.rows.range((from, Bound::Unbounded)).map(|(key, _)| key);
        keys.take_while(|(s, key)| *s == space && key.starts_with(prefix)).map(|(_, key)| key.clone()).collect()
    }

    /// A block as it was written, however damaged the disk.
    pub(crate) fn written(&self, hash: &BlockHash) -> Option<Value> {
        self.state.lock().blocks.get(hash).cloned()
    }

    /// How often what went wrong with it.
    pub(crate) fn counts(&self) -> Counts {
        self.state.lock().counts.clone()
    }

    /// The names of all blocks.
    pub(crate) fn block_names(&self) -> Vec<BlockHash> {
        self.state.lock().blocks.keys().copied().collect()
    }
}

fn bounds(space: Space, from: &[u8], to: &[u8]) -> (Bound<Key>, Bound<Key>) {
    let end = match (to.is_empty(), Space::ALL.get(space as usize + 1)) {
        (false, _) => Bound::Excluded((space, to.to_vec())),
        (true, Some(next)) => Bound::Excluded((*next, Vec::new())),
        (true, None) => Bound::Unbounded,
    };
    (Bound::Included((space, from.to_vec())), end)
}

impl Store for Disk {
    fn get(&self, space: Space, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let state = &mut *self.state.lock();
        state.read()?;
        let key = (space, key.to_vec());
        let found = state.rows.get(&key).cloned();
        found.map(|value| state.row(&key, &value)).transpose()
    }

    fn scan(&self, space: Space, from: &[u8], to: &[u8], limit: usize) -> io::Result<Vec<Row>> {
        let state = &mut *self.state.lock();
        state.read()?;
        if !to.is_empty() && from >= to {
            return Ok(Vec::new());
        }
        let rows = state.rows.range(bounds(space, from, to)).take(limit);
        let rows: Vec<(Key, Value)> = rows.map(|(key, value)| (key.clone(), value.clone())).collect();
        rows.into_iter().map(|(key, value)| Ok((key.1.clone(), state.row(&key, &value)?))).collect()
    }

    fn last(&self, space: Space, from: &[u8], to: &[u8]) -> io::Result<Option<Row>> {
        let state = &mut *self.state.lock();
        state.read()?;
        if !to.is_empty() && from >= to {
            return Ok(None);
        }
        let row = state.rows.range(bounds(space, from, to)).next_back();
        let row = row.map(|(key, value)| (key.clone(), value.clone()));
        row.map(|(key, value)| Ok((key.1.clone(), state.row(&key, &value)?))).transpose()
    }

    fn apply(&self, batch: Batch) -> io::Result<()> {
        let state = &mut *self.state.lock();
        state.write()?;
        let mut undo = Vec::with_capacity(batch.writes.len());
        for (space, key, value) in batch.writes {
            let key = (space, key);
            state.spoiled_rows.remove(&key);
            let old = match value {
                Some(value) => state.rows.insert(key.clone(), value.into()),
                None => state.rows.remove(&key),
            };
            undo.push((key, old));
        }
        state.undo.push(undo);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let state = &mut *self.state.lock();
        state.sync_failed = true;
        state.write()?;
        state.sync_failed = false;
        state.undo.clear();
        Ok(())
    }
}

impl BlockStore for Disk {
    fn head(&self, hash: &BlockHash) -> volume::Result<Option<BlockHead>> {
        let state = self.state.lock();
        state.read()?;
        Ok(state.blocks.get(hash).map(|bytes| BlockHead::of(bytes)))
    }

    fn read(&self, hash: &BlockHash, offset: usize, out: &mut [u8]) -> volume::Result<bool> {
        let state = &mut *self.state.lock();
        state.read()?;
        let Some(bytes) = state.blocks.get(hash) else { return Ok(false) };
        let range = bytes.get(offset..).and_then(|rest| rest.get(..out.len()));
        out.copy_from_slice(range.ok_or_else(|| Error::damaged("a simulated block that is too short"))?);
        let spoiled = bytes.len() * 3 / 4;
        if state.spoiled_blocks.contains(hash) && (offset..offset + out.len()).contains(&spoiled) {
            out[spoiled - offset] ^= 1;
            state.counts.add("disk: a block with a flipped bit was read");
        }
        Ok(true)
    }

    fn put_many(&self, blocks: &[(BlockHash, &[u8])]) -> volume::Result<()> {
        let state = &mut *self.state.lock();
        state.write().map_err(|e| match e.kind() {
            io::ErrorKind::StorageFull => Error::NoSpace,
            _ => Error::Io(e),
        })?;
        for (hash, bytes) in blocks {
            if state.blocks.insert(*hash, (*bytes).into()).is_none() {
                state.unsynced.insert(*hash);
            }
        }
        Ok(())
    }

    fn set_aside(&self, hash: &BlockHash) -> volume::Result<()> {
        let state = &mut *self.state.lock();
        state.write()?;
        if let Some(bytes) = state.blocks.remove(hash) {
            state.aside.insert(*hash, bytes);
        }
        Ok(())
    }

    fn names(&self, from: &BlockHash, limit: usize) -> volume::Result<Vec<(BlockHash, BlockHead)>> {
        let state = self.state.lock();
        state.read()?;
        Ok(state.blocks.range(from..).take(limit).map(|(hash, bytes)| (*hash, BlockHead::of(bytes))).collect())
    }

    fn remove(&self, hashes: &[BlockHash]) -> volume::Result<()> {
        let state = &mut *self.state.lock();
        state.write()?;
        for hash in hashes {
            state.blocks.remove(hash);
            state.unsynced.remove(hash);
        }
        Ok(())
    }

    fn has_aside(&self) -> volume::Result<bool> {
        Ok(!self.state.lock().aside.is_empty())
    }

    fn give_back(&self, _: &mut dyn FnMut() -> bool) -> volume::Result<()> {
        Ok(())
    }

    fn reconsider(&self) -> volume::Result<u64> {
        let state = &mut *self.state.lock();
        state.write()?;
        let (damaged, whole): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut state.aside).into_iter().partition(|(hash, _)| state.spoiled_blocks.contains(hash));
        state.aside = damaged;
        let count = whole.len() as u64;
        state.blocks.extend(whole);
        Ok(count)
    }

    fn unsynced(&self) -> volume::Result<Option<Vec<u8>>> {
        let state = self.state.lock();
        let names: Vec<u8> = state.unsynced.iter().flat_map(|hash| *hash.as_bytes()).collect();
        Ok((!names.is_empty()).then_some(names))
    }

    fn are_here(&self, mark: &[u8]) -> volume::Result<bool> {
        let state = self.state.lock();
        let mut names = mark.chunks(BlockHash::LEN);
        // One that was put aside is damaged, but no power loss took it.
        let is_here = |hash: BlockHash| state.blocks.contains_key(&hash) || state.aside.contains_key(&hash);
        Ok(names.all(|name| BlockHash::try_from(name).is_ok_and(is_here)))
    }

    fn sync(&self) -> volume::Result<()> {
        let state = &mut *self.state.lock();
        state.sync_failed = true;
        state.write()?;
        state.unsynced.clear();
        Ok(())
    }
}
