//! One block being written: those of its units that are known, at the cost of these.

use crypto::{BLOCK_SIZE, UNIT_SIZE, UNITS};

use crate::{
    content::{BlockHash, Blocks, KeyRing, blocks::Plain},
    error::Result,
};

/// The piece of a block that is either wholly known or not at all. Writes in whole units need nothing from below.
pub(super) const UNIT: usize = UNIT_SIZE;
const ALL: u16 = u16::MAX;
/// Memory of a dirty block beside its units.
const OVERHEAD: usize = 512;
/// A patch is sealed for up to so many units, a whole block for more.
///
/// With half of the units a patch has half the bytes of a block, to seal, store and send. Whoever reads it pays a second
/// look-up and opens up to a block and a half; beyond that, what is saved once no longer outweighs what each reader pays.
const PATCH_UNITS: u32 = 8;

type Unit = Option<Box<[u8; UNIT]>>;

/// A block with bytes that aren't sealed yet.
///
/// Invariants: units that aren't known are not held, and known ones that aren't held are zeros; known bytes past the end
/// of the file are zeros.
pub(super) struct DirtyBlock {
    units: [Unit; UNITS],
    known: u16,
    /// Units whose last byte was written: all of them when a stream of writes has passed over the block.
    filled: u16,
    /// How many units are held.
    held: u16,
    /// The sealed block below, which has the units that aren't known.
    pub(super) under: BlockHash,
    /// Tells which block was first written longest ago.
    pub(super) stamp: u64,
    /// The block to seal a patch over, as [`Self::complete`] found.
    base: Option<BlockHash>,
}

impl DirtyBlock {
    pub(super) fn new(under: BlockHash, stamp: u64) -> Self {
        let known = if under.is_hole() { ALL } else { 0 };
        Self { units: Default::default(), known, filled: 0, held: 0, under, stamp, base: None }
    }

    /// The blocks that it may still read.
    pub(super) fn needs(&self) -> [Option<BlockHash>; 2] {
        [Some(self.under), self.base]
    }

    /// The memory that it takes.
    pub(super) fn cost(&self) -> usize {
        OVERHEAD + usize::from(self.held) * UNIT
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
            self.lay(unit, 0, bytes);
            self.known |= 1 << unit;
        }
    }

    /// Makes units that aren't known zeros: all that the file has of them is about to be written.
    pub(super) fn forget_under(&mut self) {
        self.known = ALL;
    }

    /// Lays bytes over the block. Units that are only partly covered and have bytes beside these must be known.
    pub(super) fn write(&mut self, from: usize, bytes: &[u8]) {
        let to = from + bytes.len();
        for unit in from / UNIT..to.div_ceil(UNIT) {
            let (first, last) = (from.max(unit * UNIT), to.min((unit + 1) * UNIT));
            self.lay(unit, first - unit * UNIT, &bytes[first - from..last - from]);
            self.known |= 1 << unit;
            if last == (unit + 1) * UNIT {
                self.filled |= 1 << unit;
            }
        }
    }

    fn lay(&mut self, unit: usize, from: usize, bytes: &[u8]) {
        let held = &mut self.held;
        let unit = self.units[unit].get_or_insert_with(|| {
            *held += 1;
            Box::new([0; UNIT])
        });
        unit[from..from + bytes.len()].copy_from_slice(bytes);
    }

    /// Zeroes everything from `from` on. The unit `from` lies inside of must be known.
    pub(super) fn cut(&mut self, from: usize) {
        if let Some(unit) = &mut self.units[from / UNIT] {
            unit[from % UNIT..].fill(0);
        }
        for unit in from.div_ceil(UNIT)..UNITS {
            self.held -= u16::from(self.units[unit].take().is_some());
        }
        for unit in from / UNIT..UNITS {
            self.known |= 1 << unit;
            self.filled &= !(1 << unit);
        }
    }

    /// Takes in from below what sealing the first `len` bytes needs: the units of a patch there, or, where a patch would
    /// not be worth it, all that aren't known yet.
    pub(super) fn complete(&mut self, blocks: &Blocks, keys: &KeyRing, len: usize) -> Result<()> {
        self.base = None;
        if self.known == ALL {
            return Ok(());
        }
        let below = blocks.below(&self.under)?;
        let below = below.filter(|(_, units)| len == BLOCK_SIZE && (self.known | units).count_ones() <= PATCH_UNITS);
        let patched = below.map_or(ALL, |(_, units)| units);
        let mut wanted = patched & !self.known;
        let mut bytes = Vec::new();
        while wanted != 0 {
            // A run of units at a time.
            let first = wanted.trailing_zeros() as usize;
            let run = (wanted >> first).trailing_ones() as usize;
            // Of a whole block, once and with all between.
            let run = if below.is_some() { first..first + run } else { 0..UNITS };
            bytes.clear();
            blocks.read_block(&self.under, keys, run.start * UNIT, run.len() * UNIT, &mut bytes)?;
            for (unit, bytes) in run.zip(bytes.chunks_exact(UNIT)) {
                self.learn(unit, bytes);
            }
            wanted = patched & !self.known;
        }
        self.base = below.map(|(base, _)| base);
        Ok(())
    }

    /// What is to be sealed of its first `len` bytes, once [`Self::complete`].
    pub(super) fn plain(&self, len: usize) -> Plain<'_> {
        match self.base {
            Some(base) => Plain::Patch { base, mask: self.known, units: &self.units },
            None => Plain::Units { units: &self.units, len },
        }
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
            let unit = at / UNIT;
            if self.knows(unit) {
                let end = to.min((unit + 1) * UNIT);
                match &self.units[unit] {
                    Some(bytes) => out.extend_from_slice(&bytes[at - unit * UNIT..end - unit * UNIT]),
                    None => out.resize(out.len() + end - at, 0),
                }
                at = end;
            } else {
                let known = (unit..to.div_ceil(UNIT)).find(|unit| self.knows(*unit));
                let end = known.map_or(to, |unit| unit * UNIT);
                blocks.read_block(&self.under, keys, at, end - at, out)?;
                at = end;
            }
        }
        Ok(())
    }

    /// Whether all of `from..to` is known here.
    pub(super) fn knows_range(&self, from: usize, to: usize) -> bool {
        (from / UNIT..to.div_ceil(UNIT)).all(|unit| self.knows(unit))
    }
}
