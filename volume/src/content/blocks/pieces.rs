//! Ranges of bytes put together from blocks, and the names of those that aren't here.

use crate::{
    content::{BLOCK, BlockHash},
    error::{Error, Result},
};

/// The part of block `index` that lies in the file's bytes `offset..end`, within the block.
pub(in crate::content) fn piece(index: u64, offset: u64, end: u64) -> (usize, usize) {
    let start = index * BLOCK;
    (offset.saturating_sub(start) as usize, (end - start).min(BLOCK) as usize)
}

/// Gathers the names of absent blocks, so that they can be fetched together.
#[derive(Default)]
pub(in crate::content) struct Missing(Vec<BlockHash>);

impl Missing {
    /// Passes a value or error on; an [`Error::Absent`] is noted and gives nothing.
    pub(in crate::content) fn note<T>(&mut self, result: Result<T>) -> Result<Option<T>> {
        match result {
            Err(Error::Absent(hashes)) => {
                for hash in hashes {
                    if self.0.last() != Some(&hash) {
                        self.0.push(hash);
                    }
                }
                Ok(None)
            }
            other => other.map(Some),
        }
    }

    /// Fails with [`Error::Absent`] if any was noted.
    pub(in crate::content) fn finish(self) -> Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(Error::Absent(self.0)) }
    }
}

/// Bytes put together block by block. From the first absent one on only the other absent ones are looked for.
pub(in crate::content) struct Pieces<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
    missing: Missing,
}

impl<'a> Pieces<'a> {
    pub(in crate::content) fn new(out: &'a mut Vec<u8>) -> Self {
        Self { start: out.len(), out, missing: Missing::default() }
    }

    /// Adds a piece: `read` appends it, or, given no buffer, only checks that it is here.
    pub(in crate::content) fn add(&mut self, read: impl FnOnce(Option<&mut Vec<u8>>) -> Result<()>) -> Result<()> {
        let out = self.missing.0.is_empty().then_some(&mut *self.out);
        let result = read(out);
        if let Err(error) = self.missing.note(result) {
            self.out.truncate(self.start);
            return Err(error);
        }
        Ok(())
    }

    pub(in crate::content) fn finish(self) -> Result<()> {
        if !self.missing.0.is_empty() {
            self.out.truncate(self.start);
        }
        self.missing.finish()
    }
}
