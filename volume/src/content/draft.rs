//! The branch of a file that is being written: what the inode shows to its openers until it is published.
//!
//! A draft starts from a content and gathers changes: small files in one buffer, larger ones block by block. Full blocks are
//! sealed and stored as they come, others when a budget is passed or at [`Draft::finish`], which gives the new content.
//! [`Draft::persist`] makes what was written so far recoverable without finishing.
//!
//! Invariants: a call that fails with [`Error::Absent`] has changed nothing, and once a change was accepted nothing it needs
//! can turn out to be absent (as long as nobody evicts blocks of a content that is open for writing). What was written
//! and reads back is what `finish` yields.

mod dirty;
mod log;
mod overlay;
mod share;

use crypto::{DerivingKey, SymmetricKey};

use crate::{
    content::{BLOCK, BlockHash, Blocks, Content, ContentData, INLINE_MAX, KeyRing, MAX_FILE_SIZE},
    error::{Error, Result},
};

use log::{Change, Log};
use overlay::{Means, Overlay};

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use log::fuzzing::{keys as draft_keys, recode_changes, recode_head};

pub(crate) use log::logged_base;

/// Unsealed bytes that a draft holds before it seals some.
const DEFAULT_BUDGET: usize = 16 << 20;

/// A file's content while it is being changed.
pub struct Draft {
    means: Means,
    body: Body,
    /// What `finish` gives while nothing was changed since.
    base: Content,
    changed: bool,
    log: Log,
}

enum Body {
    /// Up to [`INLINE_MAX`] bytes.
    Small(Vec<u8>),
    Large(Overlay),
}

impl Draft {
    /// Starts from `base`, whose blocks open with `keys`; new ones are sealed under its current key.
    pub fn new(blocks: Blocks, base: Content, keys: KeyRing) -> Self {
        let body = match &base.data {
            ContentData::Inline(bytes) => Body::Small(bytes.clone()),
            ContentData::Tree { root, blocks } => Body::Large(Overlay::new(base.size, base.allocated, *root, *blocks)),
        };
        let means = Means { blocks, keys, budget: DEFAULT_BUDGET };
        let log = Log::new(base.clone(), means.keys.clone());
        Self { means, body, base, changed: false, log }
    }

    /// Sets how many unsealed bytes it may hold.
    pub fn with_budget(mut self, bytes: usize) -> Self {
        self.means.budget = bytes;
        self
    }

    /// Names what it may still read: lists, by root and number of blocks, and single blocks.
    pub(crate) fn needs(&self, lists: &mut dyn FnMut(BlockHash, u64), block: &mut dyn FnMut(BlockHash)) {
        for content in [&self.base, self.log.base()] {
            if let ContentData::Tree { root, blocks } = content.data {
                lists(root, blocks);
            }
        }
        if let Body::Large(overlay) = &self.body {
            overlay.needs(lists, block);
        }
    }

    /// The file's length.
    pub fn size(&self) -> u64 {
        match &self.body {
            Body::Small(bytes) => bytes.len() as u64,
            Body::Large(overlay) => overlay.size,
        }
    }

    /// How many of its bytes lie in blocks that aren't holes.
    pub fn allocated(&self) -> u64 {
        match &self.body {
            Body::Small(bytes) => bytes.len() as u64,
            Body::Large(overlay) => overlay.allocated(&self.means),
        }
    }

    /// Whether anything was changed since it was made or last finished.
    pub fn is_changed(&self) -> bool {
        self.changed
    }

    /// Unsealed bytes held in memory.
    pub fn dirty_bytes(&self) -> usize {
        match &self.body {
            Body::Small(bytes) => bytes.len(),
            Body::Large(overlay) => overlay.dirty_bytes(),
        }
    }

    /// Seals under this key from now on.
    pub fn seal_under(&mut self, key: &DerivingKey) {
        self.means.keys.seal_under(key);
    }

    /// The node keys beside the current one that its blocks may need.
    pub fn extra_keys(&self) -> Vec<SymmetricKey> {
        match &self.body {
            Body::Small(_) => Vec::new(),
            Body::Large(_) => self.means.keys.others().iter().map(|key| key.node_key().clone()).collect(),
        }
    }

    /// Appends to `out` the bytes from `offset` on, up to `len` of them and not past the end.
    ///
    /// # Errors
    /// As [`Blocks::read`].
    pub fn read(&self, offset: u64, len: usize, out: &mut Vec<u8>) -> Result<()> {
        match &self.body {
            Body::Small(bytes) => {
                let rest = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..)).unwrap_or_default();
                out.extend_from_slice(&rest[..len.min(rest.len())]);
                Ok(())
            }
            Body::Large(overlay) => overlay.read(&self.means, offset, len, out),
        }
    }

    /// Writes bytes, all of them or none.
    ///
    /// # Errors
    /// [`Error::Absent`] with the blocks and list nodes that it needs from below, [`Error::FileTooLarge`],
    /// [`Error::NoSpace`].
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        match &mut self.body {
            Body::Small(small) if offset.saturating_add(bytes.len() as u64) <= INLINE_MAX as u64 => {
                let from = offset as usize;
                let to = from + bytes.len();
                small.resize(small.len().max(to), 0);
                small[from..to].copy_from_slice(bytes);
            }
            _ => self.enlarge().write(offset, bytes)?,
        }
        self.note(Change::Write { offset, bytes });
        Ok(())
    }

    /// Sets the length. What lies past it is gone: growing again shows zeros.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn truncate(&mut self, size: u64) -> Result<()> {
        if size == self.size() {
            return Ok(());
        }
        if size > MAX_FILE_SIZE {
            return Err(Error::FileTooLarge);
        }
        if size <= INLINE_MAX as u64 {
            self.shrink(size as usize)?;
        } else {
            self.enlarge().truncate(size)?;
        }
        self.note(Change::Truncate(size));
        Ok(())
    }

    /// Makes the file at least `size` long, as `fallocate` does by default.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn extend(&mut self, size: u64) -> Result<()> {
        if size > self.size() { self.truncate(size) } else { Ok(()) }
    }

    /// Makes a range zeros, and holes of the whole blocks in it. The size stays.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn punch(&mut self, offset: u64, len: u64) -> Result<()> {
        let end = offset.saturating_add(len).min(self.size());
        if offset >= end {
            return Ok(());
        }
        match &mut self.body {
            Body::Small(bytes) => bytes[offset as usize..end as usize].fill(0),
            Body::Large(overlay) => overlay.punch(&self.means, offset, len)?,
        }
        self.note(Change::Punch { offset, len });
        Ok(())
    }

    /// Makes a range zeros; the file grows to hold it unless `keep_size`.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn zero_range(&mut self, offset: u64, len: u64, keep_size: bool) -> Result<()> {
        let end = offset.checked_add(len).filter(|end| *end <= MAX_FILE_SIZE).ok_or(Error::FileTooLarge)?;
        self.punch(offset, len)?;
        if keep_size { Ok(()) } else { self.extend(end) }
    }

    /// Where the first data at or after `offset` begins.
    ///
    /// # Errors
    /// [`Error::NoMoreData`] when there is none before the end, or `offset` isn't before it.
    pub fn seek_data(&self, offset: u64) -> Result<u64> {
        self.seek(offset, true)?.ok_or(Error::NoMoreData)
    }

    /// Where the first hole at or after `offset` begins; the end of the file counts as one.
    ///
    /// # Errors
    /// [`Error::NoMoreData`] when `offset` isn't before the end.
    pub fn seek_hole(&self, offset: u64) -> Result<u64> {
        Ok(self.seek(offset, false)?.unwrap_or(self.size()))
    }

    fn seek(&self, offset: u64, data: bool) -> Result<Option<u64>> {
        if offset >= self.size() {
            return Err(Error::NoMoreData);
        }
        match &self.body {
            Body::Small(_) => Ok(data.then_some(offset)),
            Body::Large(overlay) => {
                let found = overlay.next(&self.means, offset / BLOCK, data)?;
                Ok(found.map(|index| offset.max(index * BLOCK)))
            }
        }
    }

    /// Seals the `n` blocks that are dirty for the longest time; returns how many there were.
    pub fn seal_oldest(&mut self, n: usize) -> Result<usize> {
        match &mut self.body {
            Body::Small(_) => Ok(0),
            Body::Large(overlay) => overlay.seal_oldest(&self.means, n),
        }
    }

    /// Seals what is dirty and returns the content. The draft goes on from it, clean.
    ///
    /// Blocks are with the operating system then, not on the disk (but when [`Self::persist`] had logged much). What it
    /// had logged the caller drops with [`Self::forget`] in the batch that publishes the content: with the blocks lost,
    /// that batch is taken back ([`crate::undo`]), and the log is there again.
    ///
    /// # Errors
    /// [`Error::NoSpace`], or the disk fails; the draft is then as before.
    pub fn finish(&mut self) -> Result<Content> {
        if self.changed {
            self.base = self.fold()?;
            self.changed = false;
        }
        if self.log.is_long() && matches!(self.base.data, ContentData::Tree { .. }) {
            // To keep so much for the case that it must be taken back costs more than to have the blocks on the disk.
            self.means.blocks.sync()?;
        }
        self.log = Log::new(self.base.clone(), self.means.keys.clone());
        Ok(self.base.clone())
    }

    /// The content as it is now, everything sealed.
    fn fold(&mut self) -> Result<Content> {
        let size = self.size();
        if size <= INLINE_MAX as u64 {
            self.shrink(size as usize)?;
        }
        match &mut self.body {
            Body::Small(bytes) => Ok(Content::inline(bytes.clone())),
            Body::Large(overlay) => overlay.fold(&self.means),
        }
    }

    /// Turns it into a small file of this size.
    fn shrink(&mut self, size: usize) -> Result<()> {
        let mut bytes = Vec::with_capacity(size);
        self.read(0, size, &mut bytes)?;
        bytes.resize(size, 0);
        self.body = Body::Small(bytes);
        if size == 0 {
            self.means.keys.keep_current();
        }
        Ok(())
    }

    /// Turns it into a file of blocks.
    fn enlarge(&mut self) -> Large<'_> {
        if let Body::Small(bytes) = &self.body {
            self.body = Body::Large(Overlay::from_bytes(bytes));
        }
        match &mut self.body {
            Body::Large(overlay) => Large { overlay, means: &self.means },
            Body::Small(_) => unreachable!("made large above"),
        }
    }

    fn note(&mut self, change: Change<&[u8]>) {
        self.changed = true;
        self.log.note(change);
    }
}

/// An overlay with what its calls need.
struct Large<'a> {
    overlay: &'a mut Overlay,
    means: &'a Means,
}

impl Large<'_> {
    fn write(self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.overlay.write(self.means, offset, bytes)
    }

    fn truncate(self, size: u64) -> Result<()> {
        self.overlay.truncate(self.means, size)
    }
}

#[cfg(test)]
mod tests;
