//! The in-memory twin of the disk store, for tests and simulations: it can forget what was not
//! synced, as power loss does, and fail on demand, as a disk does.

use std::{collections::BTreeMap, io, ops::Bound};

use parking_lot::Mutex;

use crate::store::{Batch, Row, Space, Store};

/// A key and what it held.
type Write = (Space, Vec<u8>, Option<Vec<u8>>);
type Key = (Space, Vec<u8>);

#[derive(Default)]
struct State {
    rows: BTreeMap<(Space, Vec<u8>), Vec<u8>>,
    /// What undoes the batches applied since the last sync, oldest first.
    undo: Vec<Vec<Write>>,
    /// Batches that may still be applied before the "disk" fails.
    remaining: Option<u64>,
}

/// A [`Store`] in memory.
#[derive(Default)]
pub struct MemoryStore {
    state: Mutex<State>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes back the batches applied since the last sync, but for the oldest `keep` of them: power loss.
    pub fn lose_power(&self, keep: usize) {
        let state = &mut *self.state.lock();
        while state.undo.len() > keep {
            for (space, key, old) in state.undo.pop().into_iter().flatten().rev() {
                match old {
                    Some(value) => state.rows.insert((space, key), value),
                    None => state.rows.remove(&(space, key)),
                };
            }
        }
        state.undo.clear();
    }

    /// A copy of what it holds, as a backup would be.
    pub fn copy(&self) -> MemoryStore {
        let rows = self.state.lock().rows.clone();
        MemoryStore { state: Mutex::new(State { rows, ..State::default() }) }
    }

    /// Lets `batches` more batches succeed, then fails every one; `None` heals the disk.
    pub fn fail_after(&self, batches: Option<u64>) {
        self.state.lock().remaining = batches;
    }

    /// The keys of a space.
    pub fn keys(&self, space: Space) -> Vec<Vec<u8>> {
        let state = self.state.lock();
        state.rows.keys().filter(|(of, _)| *of == space).map(|(_, key)| key.clone()).collect()
    }

    /// Flips a bit of a value, as an old disk does.
    pub fn damage(&self, space: Space, key: &[u8]) {
        if let Some(byte) = self.state.lock().rows.get_mut(&(space, key.to_vec())).and_then(|value| value.last_mut()) {
            *byte ^= 1;
        }
    }

    /// Forgets a row, as a disk that went back in time does.
    pub fn lose(&self, space: Space, key: &[u8]) {
        self.state.lock().rows.remove(&(space, key.to_vec()));
    }

    /// How many batches power loss would take back now.
    pub fn unsynced(&self) -> usize {
        self.state.lock().undo.len()
    }
}

fn bounds(space: Space, from: &[u8], to: &[u8]) -> (Bound<Key>, Bound<Key>) {
    let end = if to.is_empty() {
        match Space::ALL.get(space as usize + 1) {
            Some(next) => Bound::Excluded((*next, Vec::new())),
            None => Bound::Unbounded,
        }
    } else {
        Bound::Excluded((space, to.to_vec()))
    };
    (Bound::Included((space, from.to_vec())), end)
}

impl Store for MemoryStore {
    fn get(&self, space: Space, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        Ok(self.state.lock().rows.get(&(space, key.to_vec())).cloned())
    }

    fn scan(&self, space: Space, from: &[u8], to: &[u8], limit: usize) -> io::Result<Vec<Row>> {
        if !to.is_empty() && from >= to {
            return Ok(Vec::new());
        }
        let state = self.state.lock();
        let rows = state.rows.range(bounds(space, from, to)).take(limit);
        Ok(rows.map(|((_, key), value)| (key.clone(), value.clone())).collect())
    }

    fn last(&self, space: Space, from: &[u8], to: &[u8]) -> io::Result<Option<Row>> {
        if !to.is_empty() && from >= to {
            return Ok(None);
        }
        let state = self.state.lock();
        let row = state.rows.range(bounds(space, from, to)).next_back();
        Ok(row.map(|((_, key), value)| (key.clone(), value.clone())))
    }

    fn apply(&self, batch: Batch) -> io::Result<()> {
        let state = &mut *self.state.lock();
        match &mut state.remaining {
            Some(0) => return Err(io::Error::other("injected disk failure")),
            Some(n) => *n -= 1,
            None => {}
        }
        let mut undo = Vec::with_capacity(batch.writes.len());
        for (space, key, value) in batch.writes {
            let old = match value {
                Some(value) => state.rows.insert((space, key.clone()), value),
                None => state.rows.remove(&(space, key.clone())),
            };
            undo.push((space, key, old));
        }
        state.undo.push(undo);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.state.lock().undo.clear();
        Ok(())
    }
}
