//! One block being written: its bytes, and which of them are there.

use crypto::BLOCK_SIZE;

use crate::{
    content::{BlockHash, Blocks, KeyRing},
    error::Result,
};

/// The piece of a block that is either wholly known or not at all. Writes in whole units need nothing from below.
pub(super) const UNIT: usize = 4096;
const UNITS: usize = BLOCK_SIZE / UNIT;
const ALL: u16 = u16::MAX;

const _: () = assert!(UNITS == u16::BITS as usize);

/// A block with bytes that aren't sealed yet.
///
/// Invariants: units that aren't known hold zeros here; known bytes past the end of the file are zeros.
pub(super) struct DirtyBlock {
    data: Vec<u8>,
    known: u16,
    /// Units whose last byte was written: all of them when a stream of writes has passed over the block.
    filled: u16,
    /// The sealed block below, which has the units that aren't known.
    pub(super) under: BlockHash,
    /// Tells which block was first written longest ago.
    pub(super) stamp: u64,
}

impl DirtyBlock {
    pub(super) fn new(under: BlockHash, stamp: u64) -> Self {
        let known = if under.is_hole() { ALL } else { 0 };
        Self { data: vec![0; BLOCK_SIZE], known, filled: 0, under, stamp }
    }

    pub(super) fn data(&self) -> &[u8] {
        &self.data
    }

    /// Whether a stream of writes has passed over the whole block.
    pub(super) fn is_filled(&self) -> bool {
        self.filled == ALL
    }

    pub(super) fn knows(&self, unit: usize) -> bool {
        self.known & 1 << unit != 0
    }

    /// Takes in a unit read from below.
    pub(super) fn learn(&mut self, unit: usize, bytes: &[u8]) {
        if !self.knows(unit) {
            self.data[unit * UNIT..][..UNIT].copy_from_slice(bytes);
            self.known |= 1 << unit;
        }
    }

    /// Makes units that aren't known zeros: all that the file has of them is about to be written.
    pub(super) fn forget_under(&mut self) {
        self.known = ALL;
    }

    /// Lays bytes over the block. Units that are only partly covered and have bytes beside these must be known.
    pub(super) fn write(&mut self, from: usize, bytes: &[u8]) {
        self.data[from..from + bytes.len()].copy_from_slice(bytes);
        let to = from + bytes.len();
        for unit in from / UNIT..to.div_ceil(UNIT) {
            self.known |= 1 << unit;
            if to >= (unit + 1) * UNIT {
                self.filled |= 1 << unit;
            }
        }
    }

    /// Zeroes everything from `from` on. The unit `from` lies inside of must be known.
    pub(super) fn cut(&mut self, from: usize) {
        self.data[from..].fill(0);
        for unit in from / UNIT..UNITS {
            self.known |= 1 << unit;
            self.filled &= !(1 << unit);
        }
    }

    /// Takes in all units that aren't known yet from below.
    pub(super) fn complete(&mut self, blocks: &Blocks, keys: &KeyRing) -> Result<()> {
        if self.known == ALL {
            return Ok(());
        }
        let mut below = Vec::with_capacity(BLOCK_SIZE);
        blocks.read_block(&self.under, keys, 0, BLOCK_SIZE, &mut below)?;
        for (unit, bytes) in below.chunks_exact(UNIT).enumerate() {
            self.learn(unit, bytes);
        }
        Ok(())
    }

    /// Appends the bytes `from..to` to `out`, from below where they aren't known here.
    pub(super) fn read(
        &self,
        blocks: &Blocks,
        keys: &KeyRing,
        from: usize,
        to: usize,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let mut at = from;
        while at < to {
            let known = self.knows(at / UNIT);
            let run = (at / UNIT..to.div_ceil(UNIT)).find(|unit| self.knows(*unit) != known);
            let end = run.map_or(to, |unit| unit * UNIT);
            if known {
                out.extend_from_slice(&self.data[at..end]);
            } else {
                blocks.read_block(&self.under, keys, at, end - at, out)?;
            }
            at = end;
        }
        Ok(())
    }

    /// Whether all of `from..to` is known here.
    pub(super) fn knows_range(&self, from: usize, to: usize) -> bool {
        (from / UNIT..to.div_ceil(UNIT)).all(|unit| self.knows(unit))
    }
}
