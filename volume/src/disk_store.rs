//! The store on disk: fjall behind [`Store`].
//!
//! Each batch is with the operating system before `apply` returns (fjall flushes its journal
//! buffer then), `sync` is one `fdatasync` of the journal. Memory is bounded by the sizes below.

mod journal;

use std::{io, ops::Bound, path::Path};

use fjall::{
    CompressionType, Database, Keyspace, KeyspaceCreateOptions, PersistMode,
    config::{BloomConstructionPolicy, CompressionPolicy, FilterPolicy, FilterPolicyEntry},
};

use crate::store::{Batch, Row, Space, Store};

/// Block cache of the store, in bytes.
const CACHE_BYTES: u64 = 24 << 20;
/// A key space's write buffer, in bytes, before it is written out as a table.
const MEMTABLE_BYTES: u64 = 4 << 20;
/// Journals may grow to this before the oldest write buffers are written out to let them go.
const JOURNAL_BYTES: u64 = 128 << 20;

/// An ordered store in a directory of its own.
pub struct DiskStore {
    database: Database,
    spaces: Vec<Keyspace>,
}

impl DiskStore {
    /// Opens the store in `dir`, making it when it isn't there.
    ///
    /// # Errors
    /// The directory is in use by another process (`WouldBlock`), damaged (`InvalidData`), or the disk fails.
    pub fn open(dir: &Path) -> io::Result<Self> {
        journal::check(dir)?;
        let database = Database::builder(dir)
            .cache_size(CACHE_BYTES)
            .max_journaling_size(JOURNAL_BYTES)
            .worker_threads(1)
            .open()
            .map_err(to_io)?;
        let mut spaces = Vec::with_capacity(Space::ALL.len());
        for space in Space::ALL {
            let options = || {
                KeyspaceCreateOptions::default()
                    .max_memtable_size(MEMTABLE_BYTES)
                    // What is stored is sealed: it doesn't compress.
                    .data_block_compression_policy(CompressionPolicy::all(CompressionType::None))
                    .filter_policy(FilterPolicy::all(FilterPolicyEntry::Bloom(BloomConstructionPolicy::BitsPerKey(
                        10.0,
                    ))))
            };
            spaces.push(database.keyspace(space.name(), options).map_err(to_io)?);
        }
        Ok(Self { database, spaces })
    }

    /// Takes what is damaged out of the journals of the closed store in `dir`, keeping them as they were in `kept`, so
    /// that what else is in it can be read. Tells whether something was: the store then lacks records, and is only
    /// good to be salvaged.
    ///
    /// # Errors
    /// The disk fails.
    pub fn mend_journals(dir: &Path, kept: &Path) -> io::Result<bool> {
        Ok(journal::mend(dir, kept)? > 0)
    }

    fn space(&self, space: Space) -> &Keyspace {
        &self.spaces[space as usize]
    }

    fn bounds<'a>(from: &'a [u8], to: &'a [u8]) -> (Bound<&'a [u8]>, Bound<&'a [u8]>) {
        let end = if to.is_empty() { Bound::Unbounded } else { Bound::Excluded(to) };
        (Bound::Included(from), end)
    }
}

fn to_io(error: fjall::Error) -> io::Error {
    match error {
        fjall::Error::Io(e) => e,
        fjall::Error::Locked => io::Error::new(io::ErrorKind::WouldBlock, "the store is in use by another process"),
        other => io::Error::other(format!("store: {other}")),
    }
}

impl Store for DiskStore {
    fn get(&self, space: Space, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        Ok(self.space(space).get(key).map_err(to_io)?.map(|v| v.to_vec()))
    }

    fn scan(&self, space: Space, from: &[u8], to: &[u8], limit: usize) -> io::Result<Vec<Row>> {
        let mut rows = Vec::new();
        if !to.is_empty() && from >= to {
            return Ok(rows);
        }
        for guard in self.space(space).range::<&[u8], _>(Self::bounds(from, to)).take(limit) {
            let (key, value) = guard.into_inner().map_err(to_io)?;
            rows.push((key.to_vec(), value.to_vec()));
        }
        Ok(rows)
    }

    fn last(&self, space: Space, from: &[u8], to: &[u8]) -> io::Result<Option<Row>> {
        if !to.is_empty() && from >= to {
            return Ok(None);
        }
        match self.space(space).range::<&[u8], _>(Self::bounds(from, to)).next_back() {
            Some(guard) => {
                let (key, value) = guard.into_inner().map_err(to_io)?;
                Ok(Some((key.to_vec(), value.to_vec())))
            }
            None => Ok(None),
        }
    }

    fn apply(&self, batch: Batch) -> io::Result<()> {
        let mut write = self.database.batch();
        for (space, key, value) in batch.writes {
            match value {
                Some(value) => write.insert(self.space(space), key, value),
                None => write.remove(self.space(space), key),
            }
        }
        write.durability(Some(PersistMode::Buffer)).commit().map_err(to_io)
    }

    fn sync(&self) -> io::Result<()> {
        self.database.persist(PersistMode::SyncData).map_err(to_io)
    }
}
