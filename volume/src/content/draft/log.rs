//! The intent log: what was written to a file, kept in the store until it is published, so that an `fsync` of a
//! few bytes costs one small row and not a block.
//!
//! Rows in [`Space::Drafts`], sealed: `inode u64 BE ‖ 0` holds the content that the log starts from and the caller's
//! header, `inode ‖ 1 ‖ number u64 BE` the changes since, in order.
//!
//! Invariants: a content gets into the log only when its blocks are synced, and changes leave it only when a content
//! that has them got in. So whatever part of the store's log survives, the draft is there as of some `persist`.

use crypto::SymmetricKey;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    content::{Blocks, Content, KeyRing},
    error::{Error, Result},
    sealed_store::SealedStore,
    store::{Batch, Space, prefix_end},
};

use super::Draft;

/// Changes of up to this many bytes are logged; with more, blocks are sealed instead.
const SMALL_BYTES: usize = 64 << 10;
/// Logged changes of this many bytes are folded into blocks.
const LOG_BYTES: usize = 4 << 20;
/// What a change costs beside its bytes.
const CHANGE_COST: usize = 24;
/// Rows read at once.
const SCAN_ROWS: usize = 256;

const HEADER: u8 = 0;
const CHANGES: u8 = 1;

/// One change of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change<B> {
    Write {
        offset: u64,
        bytes: B,
    },
    Truncate(u64),
    Punch {
        offset: u64,
        len: u64,
    },
    /// Blocks were shared from elsewhere: no small row can say that.
    Share,
}

/// A change as it is logged.
#[derive(Serialize, Deserialize)]
enum Logged {
    Write(u64, #[serde(with = "serde_bytes")] Vec<u8>),
    Truncate(u64),
    Punch(u64, u64),
}

#[derive(Serialize, Deserialize)]
struct Header {
    base: Content,
    /// The node keys beside the current one that the base's blocks may need.
    keys: Vec<SymmetricKey>,
    #[serde(with = "serde_bytes")]
    header: Vec<u8>,
}

/// What is in the store's log of one draft, and what isn't yet.
pub(super) struct Log {
    /// The content that the logged changes start from, and what it opens with.
    base: Content,
    keys: KeyRing,
    /// The header as written, once anything is.
    header: Option<Vec<u8>>,
    next_row: u64,
    logged_bytes: usize,
    /// Changes since the last `persist`; `None` when they were too many to be worth logging.
    pending: Option<Vec<Logged>>,
    pending_bytes: usize,
}

impl Log {
    pub(super) fn new(base: Content, keys: KeyRing) -> Self {
        let pending = Some(Vec::new());
        Self { base, keys, header: None, next_row: 0, logged_bytes: 0, pending, pending_bytes: 0 }
    }

    pub(super) fn base(&self) -> &Content {
        &self.base
    }

    /// Whether the store has more of it than is worth keeping beside the blocks it became.
    pub(super) fn is_long(&self) -> bool {
        self.header.is_some() && self.logged_bytes > SMALL_BYTES
    }

    pub(super) fn note(&mut self, change: Change<&[u8]>) {
        let Some(pending) = &mut self.pending else {
            return;
        };
        let cost = match change {
            Change::Write { bytes, .. } => CHANGE_COST.saturating_add(bytes.len()),
            Change::Truncate(_) | Change::Punch { .. } => CHANGE_COST,
            Change::Share => usize::MAX,
        };
        self.pending_bytes = self.pending_bytes.saturating_add(cost);
        if self.pending_bytes > SMALL_BYTES {
            self.pending = None;
            return;
        }
        pending.extend(match change {
            Change::Write { offset, bytes } => Some(Logged::Write(offset, bytes.to_vec())),
            Change::Truncate(size) => Some(Logged::Truncate(size)),
            Change::Punch { offset, len } => Some(Logged::Punch(offset, len)),
            Change::Share => None,
        });
    }
}

impl Draft {
    /// Makes what was written so far recoverable, with the caller's `header`: with the operating system when this
    /// returns, on the disk after the store's next sync (what it needs of the blocks is synced here).
    ///
    /// # Errors
    /// [`Error::NoSpace`], or the disk fails.
    pub fn persist(&mut self, ino: u64, header: &[u8], store: &SealedStore) -> Result<()> {
        let log = &self.log;
        let small = match &log.pending {
            Some(pending) if log.logged_bytes + log.pending_bytes <= LOG_BYTES => Some(pending),
            _ => None,
        };
        let mut batch = Batch::new();
        if let Some(pending) = small {
            if log.header.is_none() {
                self.means.blocks.sync()?;
                Self::forget(ino, store, &mut batch)?;
            }
            if log.header.as_deref() != Some(header) {
                put_header(ino, log, header, store, &mut batch)?;
            }
            if !pending.is_empty() {
                let row = row_key(ino, CHANGES, log.next_row);
                store.put(&mut batch, Space::Drafts, row, &encode(pending)?);
            }
            store.apply(batch)?;
            // Without a gap: what is missing was lost.
            self.log.next_row += u64::from(!self.log.pending.as_ref().is_none_or(Vec::is_empty));
            self.log.logged_bytes += self.log.pending_bytes;
        } else {
            let log = Log::new(self.fold()?, self.means.keys.clone());
            self.means.blocks.sync()?;
            Self::forget(ino, store, &mut batch)?;
            put_header(ino, &log, header, store, &mut batch)?;
            store.apply(batch)?;
            self.log = log;
        }
        self.log.header = Some(header.to_vec());
        self.log.pending = Some(Vec::new());
        self.log.pending_bytes = 0;
        Ok(())
    }

    /// The draft of inode `ino` as of its last `persist`, with the header given then; `None` when there is none.
    ///
    /// # Errors
    /// [`Error::Damaged`], or as [`Draft::write`].
    pub fn recover(
        ino: u64,
        store: &SealedStore,
        blocks: Blocks,
        mut keys: KeyRing,
    ) -> Result<Option<(Self, Vec<u8>)>> {
        let Some(row) = store.get(Space::Drafts, &row_key(ino, HEADER, 0))? else {
            return Ok(None);
        };
        let Header { base, keys: others, header } = decode(&row)?;
        base.validate()?;
        others.iter().for_each(|key| keys.add(key));
        let mut log = Log::new(base.clone(), keys.clone());
        let mut draft = Self::new(blocks, base, keys);
        let (mut from, end) = (row_key(ino, CHANGES, 0), prefix_end(&kind_key(ino, CHANGES)));
        'log: loop {
            let rows = store.scan(Space::Drafts, &from, &end, SCAN_ROWS)?;
            if rows.is_empty() {
                break;
            }
            for (key, row) in rows {
                if key != row_key(ino, CHANGES, log.next_row) {
                    log::error!("inode {ino}: the end of a draft is lost");
                    // What is behind the gap must not come to follow on what is logged next: all is logged anew.
                    log.pending = None;
                    break 'log;
                }
                log.next_row += 1;
                log.logged_bytes += row.len();
                for change in decode::<Vec<Logged>>(&row)? {
                    match change {
                        Logged::Write(offset, bytes) => draft.write(offset, &bytes)?,
                        Logged::Truncate(size) => draft.truncate(size)?,
                        Logged::Punch(offset, len) => draft.punch(offset, len)?,
                    }
                }
            }
            from = row_key(ino, CHANGES, log.next_row);
        }
        log.header = Some(header.clone());
        draft.log = log;
        Ok(Some((draft, header)))
    }

    /// Copies the log of inode `ino` of a store that may be damaged, as far as it can be read, to be that of `new_ino` in
    /// `to`; `header` makes the new header out of the old one.
    ///
    /// # Errors
    /// [`Error::Damaged`] when nothing of it can be used or `new_ino` has one already, or the disk fails.
    pub(crate) fn copy_log(
        ino: u64,
        from: &SealedStore,
        new_ino: u64,
        to: &SealedStore,
        header: impl FnOnce(&[u8]) -> Option<Vec<u8>>,
    ) -> Result<()> {
        let lost = || Error::damaged("a draft");
        let row = from.get(Space::Drafts, &row_key(ino, HEADER, 0))?.ok_or_else(lost)?;
        let mut head: Header = decode(&row)?;
        head.base.validate()?;
        head.header = header(&head.header).ok_or_else(lost)?;
        if to.raw().get(Space::Drafts, &row_key(new_ino, HEADER, 0))?.is_some() {
            return Err(lost());
        }
        let mut batch = Batch::new();
        to.put(&mut batch, Space::Drafts, row_key(new_ino, HEADER, 0), &encode(&head)?);
        let (start, end) = (row_key(ino, CHANGES, 0), prefix_end(&kind_key(ino, CHANGES)));
        let rows = from.raw().scan(Space::Drafts, &start, &end, usize::MAX).unwrap_or_default();
        for (next, (key, sealed)) in (0..).zip(rows) {
            let row = from.open(Space::Drafts, &key, &sealed);
            let row = row.ok().filter(|row| decode::<Vec<Logged>>(row).is_ok());
            let Some(row) = row.filter(|_| key == row_key(ino, CHANGES, next)) else {
                log::error!("the end of a draft is damaged and lost");
                break;
            };
            to.put(&mut batch, Space::Drafts, row_key(new_ino, CHANGES, next), &row);
        }
        to.apply(batch)
    }

    /// Drops the log of an inode: goes into the batch that publishes or gives up its draft.
    pub fn forget(ino: u64, store: &SealedStore, batch: &mut Batch) -> Result<()> {
        let end = prefix_end(&ino.to_be_bytes());
        let mut from = ino.to_be_bytes().to_vec();
        loop {
            // Raw: the rows need not be opened to be dropped.
            let rows = store.raw().scan(Space::Drafts, &from, &end, SCAN_ROWS)?;
            let Some((last, _)) = rows.last() else {
                return Ok(());
            };
            from = [last.as_slice(), &[0]].concat();
            for (key, _) in rows {
                batch.remove(Space::Drafts, key);
            }
        }
    }

    /// The inodes whose drafts are in the log.
    pub fn drafts_present(store: &SealedStore) -> Result<Vec<u64>> {
        let mut inodes = Vec::new();
        let mut from = Vec::new();
        while let Some((key, _)) = store.raw().scan(Space::Drafts, &from, &[], 1)?.pop() {
            let ino = key.first_chunk().ok_or_else(|| Error::damaged("a key in `drafts`"))?;
            inodes.push(u64::from_be_bytes(*ino));
            from = prefix_end(ino);
            if from.is_empty() {
                break;
            }
        }
        Ok(inodes)
    }
}

fn kind_key(ino: u64, kind: u8) -> Vec<u8> {
    let mut key = ino.to_be_bytes().to_vec();
    key.push(kind);
    key
}

fn row_key(ino: u64, kind: u8, number: u64) -> Vec<u8> {
    let mut key = kind_key(ino, kind);
    if kind == CHANGES {
        key.extend_from_slice(&number.to_be_bytes());
    }
    key
}

fn put_header(ino: u64, log: &Log, header: &[u8], store: &SealedStore, batch: &mut Batch) -> Result<()> {
    let keys = log.keys.others().iter().map(|key| key.node_key().clone()).collect();
    let row = Header { base: log.base.clone(), keys, header: header.to_vec() };
    store.put(batch, Space::Drafts, row_key(ino, HEADER, 0), &encode(&row)?);
    Ok(())
}

/// The content that a log's changes start from, if this row tells of it.
pub(crate) fn logged_base(key: &[u8], row: &[u8]) -> Result<Option<Content>> {
    if key.get(8) != Some(&HEADER) {
        return Ok(None);
    }
    decode::<Header>(row).map(|header| Some(header.base))
}

/// The log's rows, decoded and encoded again, and their keys.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing {
    use super::*;

    pub(crate) fn recode_head(row: &[u8]) -> Result<Vec<u8>> {
        let head: Header = decode(row)?;
        head.base.validate()?;
        encode(&head)
    }

    pub(crate) fn recode_changes(row: &[u8]) -> Result<Vec<u8>> {
        encode(&decode::<Vec<Logged>>(row)?)
    }

    pub(crate) fn keys(ino: u64, number: u64) -> (Vec<u8>, Vec<u8>) {
        (row_key(ino, HEADER, 0), row_key(ino, CHANGES, number))
    }
}

fn encode(value: &impl Serialize) -> Result<Vec<u8>> {
    rmp_serde::to_vec(value).map_err(|error| Error::damaged(format!("encoding a draft's row: {error}")))
}

fn decode<T: DeserializeOwned>(mut row: &[u8]) -> Result<T> {
    match rmp_serde::from_read(&mut row) {
        Ok(value) if row.is_empty() => Ok(value),
        _ => Err(Error::damaged("a draft's row")),
    }
}
