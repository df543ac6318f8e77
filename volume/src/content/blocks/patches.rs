//! Patches: what they lie over, and reading through them.

use crypto::{BLOCK_SIZE, KeyId, PATCH_HEADER_SIZE, PatchHeader, UNIT_SIZE, UNITS, is_patch, open_units, stored_len};

use crate::{
    content::{BlockHash, BlockHead, BlockKind, Blocks, KeyRing},
    error::{Error, Result},
};

/// Whether all units of a stored patch open under the ring's keys.
pub(super) fn opens(keys: &KeyRing, stored: &[u8]) -> bool {
    let open = || {
        let header = PatchHeader::parse_whole(stored).ok()?;
        let key = keys.find(header.key_id())?;
        let mut plain = Vec::with_capacity(stored.len());
        open_units(key.block_key(), &header, 0..UNITS, &stored[PATCH_HEADER_SIZE..], &mut plain).ok()
    };
    open().is_some()
}

/// Whether a block may lie below a patch: it has bytes of its own for every unit.
pub(crate) fn is_base(head: &BlockHead) -> bool {
    !is_patch(&head.first) && head.len == stored_len(BLOCK_SIZE)
}

impl Blocks {
    /// The block that `hash` lies over, if it is a patch. `head` is the store's of it.
    ///
    /// # Errors
    /// As [`Self::patch`].
    pub(crate) fn base_of(&self, hash: &BlockHash, head: &BlockHead) -> Result<Option<BlockHash>> {
        if !is_patch(&head.first) {
            return Ok(None);
        }
        Ok(Some(BlockHash::from_bytes(*self.patch(hash)?.base())))
    }

    /// The header of a stored patch.
    ///
    /// # Errors
    /// [`Error::Absent`] when it isn't here, or was damaged on the disk.
    fn patch(&self, hash: &BlockHash) -> Result<PatchHeader> {
        if let Some(header) = self.0.patches.lock().get(hash) {
            return Ok(*header);
        }
        let damaged = || Error::damaged(format!("the stored patch {}", hash.short()));
        let bytes = match self.0.store.get(hash) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Err(Error::Absent(vec![*hash])),
            Err(e) => return Err(self.not_opened(hash, e)),
        };
        if !matches!(BlockKind::of(hash, &bytes), Some(BlockKind::Patch { .. })) {
            return Err(self.not_opened(hash, damaged()));
        }
        let header = PatchHeader::parse_whole(&bytes).map_err(|_| damaged())?;
        self.0.patches.lock().put(*hash, header);
        Ok(header)
    }

    /// What a new patch over `hash` lies over, and which units it takes from there: a full plain block's own name and
    /// none, a patch's base and its units; nothing when the block must be sealed whole.
    pub(in crate::content) fn below(&self, hash: &BlockHash) -> Result<Option<(BlockHash, u16)>> {
        let Some(head) = self.0.store.head(hash)?.filter(|_| !hash.is_hole()) else { return Ok(None) };
        if is_base(&head) {
            return Ok(Some((*hash, 0)));
        }
        if !is_patch(&head.first) {
            return Ok(None);
        }
        let header = self.patch(hash)?;
        Ok(Some((BlockHash::from_bytes(*header.base()), header.units())))
    }

    /// As [`Blocks::read_block`], of a patch.
    pub(super) fn read_patched(
        &self,
        hash: &BlockHash,
        head: &BlockHead,
        keys: &KeyRing,
        from: usize,
        len: usize,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let damaged = |what: &str| Error::damaged(format!("patch {}: {what}", hash.short()));
        let header = self.patch(hash)?;
        if header.stored_len() != head.len {
            return Err(damaged("not as long as its header says"));
        }
        // Who reads on where the last piece ended will want the rest as well.
        let whole = len < BLOCK_SIZE && self.0.recent.lock().goes_on(hash, from, len);
        let start = out.len();
        let result = if whole {
            let mut plain = Vec::with_capacity(BLOCK_SIZE);
            self.lay_over(hash, &header, keys, 0, BLOCK_SIZE, &mut plain).map(|base_key| {
                out.extend_from_slice(&plain[from..from + len]);
                self.0.recent.lock().keep(*hash, [header.key_id(), base_key], plain);
            })
        } else {
            self.lay_over(hash, &header, keys, from, len, out).map(|_| ())
        };
        result.inspect_err(|_| out.truncate(start))
    }

    /// Appends `from..from + len` to `out`: the base's bytes with the patch's laid over them. Returns the base's key, or
    /// the patch's where nothing of the base was needed.
    fn lay_over(
        &self,
        hash: &BlockHash,
        header: &PatchHeader,
        keys: &KeyRing,
        from: usize,
        len: usize,
        out: &mut Vec<u8>,
    ) -> Result<KeyId> {
        let damaged = |what: &str| Error::damaged(format!("patch {}: {what}", hash.short()));
        let key = keys.find(header.key_id()).ok_or_else(|| damaged("sealed under a key that is not its file's"))?;
        let (start, end) = (out.len(), from + len);
        let units = from / UNIT_SIZE..end.div_ceil(UNIT_SIZE);
        let below = |unit: &usize| !header.has(*unit);
        let mut base_key = header.key_id();
        match (units.clone().find(below), units.clone().rfind(below)) {
            (Some(first), Some(last)) => {
                let (first, last) = (from.max(first * UNIT_SIZE), end.min((last + 1) * UNIT_SIZE));
                out.resize(start + first - from, 0);
                base_key = self.read_base(hash, header, keys, first, last - first, out)?;
                out.resize(start + len, 0);
            }
            _ => out.resize(start + len, 0),
        }
        let range = header.stored_range(units.clone());
        if range.is_empty() {
            return Ok(base_key);
        }
        let mut buffer = self.buffer();
        if buffer.len() < range.len() {
            buffer.resize(range.len(), 0);
        }
        let sealed = &mut buffer[..range.len()];
        match self.0.store.read(hash, range.start, sealed) {
            Ok(true) => {}
            Ok(false) => return Err(Error::Absent(vec![*hash])),
            Err(e) => return Err(self.not_opened(hash, e)),
        }
        let mut plain = Vec::with_capacity(range.len());
        open_units(key.block_key(), header, units.clone(), sealed, &mut plain)
            .map_err(|e| self.not_opened(hash, damaged(&e.to_string())))?;
        self.give_back(buffer);
        for (unit, bytes) in units.filter(|unit| header.has(*unit)).zip(plain.chunks_exact(UNIT_SIZE)) {
            let at = unit * UNIT_SIZE;
            let (first, last) = (from.max(at), end.min(at + UNIT_SIZE));
            out[start + first - from..start + last - from].copy_from_slice(&bytes[first - at..last - at]);
        }
        Ok(base_key)
    }

    /// Appends bytes of the block below a patch; returns its key.
    fn read_base(
        &self,
        hash: &BlockHash,
        header: &PatchHeader,
        keys: &KeyRing,
        from: usize,
        len: usize,
        out: &mut Vec<u8>,
    ) -> Result<KeyId> {
        let base = BlockHash::from_bytes(*header.base());
        let Some(head) = self.0.store.head(&base)? else {
            return Err(Error::Absent(vec![base]));
        };
        if !is_base(&head) {
            return Err(Error::damaged(format!("patch {} lies over no full block", hash.short())));
        }
        let key = crypto::BlockHeader::parse(&head.first).map(|header| header.key_id());
        self.read_block(&base, keys, from, len, out)?;
        key.map_err(|_| Error::damaged(format!("block {}: no header", base.short())))
    }
}
