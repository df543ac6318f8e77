//! Copying between files: whole blocks are shared by name, with the keys they open with; the rest is copied.

use crypto::BLOCK_SIZE;

use crate::{
    content::{
        BLOCK, Content, ContentData, INLINE_MAX, KeyRing, MAX_FILE_SIZE,
        blocks::{Leaves, Missing},
    },
    error::{Error, Result},
};

use super::{Draft, log::Change};

/// The most blocks shared in one call: 1 GiB.
const SHARE_BLOCKS: u64 = 16 << 10;
/// The most bytes copied in one call.
const COPY_BYTES: u64 = 16 << 20;

impl Draft {
    /// Writes `len` bytes of another content (which opens with `src_keys`) from `src_offset` on to `offset`; returns how
    /// many it did: fewer where that content ends, or when there is more to do than fits one call.
    ///
    /// # Errors
    /// [`Error::Absent`] with list nodes (or blocks, where bytes must be copied) that aren't here, if nothing was done.
    pub fn clone_range(
        &mut self,
        src: &Content,
        src_keys: &KeyRing,
        src_offset: u64,
        offset: u64,
        len: u64,
    ) -> Result<u64> {
        let len = len.min(src.size.saturating_sub(src_offset));
        let end = offset.checked_add(len).filter(|end| *end <= MAX_FILE_SIZE).ok_or(Error::FileTooLarge)?;
        let (root, count) = match src.data {
            // A file that stays small is never made of blocks.
            ContentData::Tree { root, blocks } if end.max(self.size()) > INLINE_MAX as u64 => (root, blocks),
            _ => return self.copy_range(src, src_keys, src_offset, offset, len),
        };
        if src_offset % BLOCK != offset % BLOCK {
            return self.copy_range(src, src_keys, src_offset, offset, len);
        }
        // Up to where a block begins bytes are copied.
        let head = len.min(offset.next_multiple_of(BLOCK) - offset);
        let mut done = self.copy_range(src, src_keys, src_offset, offset, head)?;
        // The last block of a file can be shared though it isn't full, if it becomes (or stays) the last.
        let whole = match (len - done) % BLOCK {
            _ if src_offset + len == src.size && end >= self.size() => (len - done).div_ceil(BLOCK),
            _ => (len - done) / BLOCK,
        };
        let shared = whole.min(SHARE_BLOCKS);
        if shared > 0 {
            let mut leaves = Leaves::new(&self.means.blocks, root, count);
            let mut missing = Missing::default();
            let mut hashes = Vec::with_capacity(shared as usize);
            for index in (src_offset + done) / BLOCK..(src_offset + done) / BLOCK + shared {
                hashes.extend(missing.note(leaves.at(index))?);
            }
            let first = (offset + done) / BLOCK;
            let covered = (shared * BLOCK).min(len - done);
            let outcome = missing.finish().and_then(|()| {
                let large = self.enlarge();
                large.overlay.share(large.means, first, &hashes, offset + done + covered)
            });
            match outcome {
                Ok(()) => done += covered,
                Err(_) if done > 0 => return Ok(done),
                Err(error) => return Err(error),
            }
            if hashes.iter().any(|hash| !hash.is_hole()) {
                self.means.keys.join_all(src_keys);
            }
            self.note(Change::Share);
        }
        if shared == whole && done < len {
            match self.copy_range(src, src_keys, src_offset + done, offset + done, len - done) {
                Ok(copied) => done += copied,
                Err(_) if done > 0 => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn copy_range(&mut self, src: &Content, keys: &KeyRing, src_offset: u64, offset: u64, len: u64) -> Result<u64> {
        let len = len.min(COPY_BYTES);
        let mut bytes = Vec::with_capacity(BLOCK_SIZE.min(len as usize));
        let mut done = 0;
        while done < len {
            bytes.clear();
            // Pieces that end where blocks end, so that each is sealed straight away.
            let at = offset + done;
            let piece = (at + 1).next_multiple_of(BLOCK) - at;
            let outcome =
                self.means.blocks.read(src, keys, src_offset + done, piece.min(len - done) as usize, &mut bytes);
            match outcome.and_then(|()| self.write(at, &bytes)) {
                Ok(()) => done += bytes.len() as u64,
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }
}
