//! The blocks of a file being written, laid over the list it started from.
//!
//! Invariants: every index in `pieces` lies inside the file; `visible` never exceeds `count` nor the file's blocks; a call
//! that fails with [`Error::Absent`] has changed nothing; the list nodes that sealing and folding will need were on this
//! device when a change asked for them.

mod sealing;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use crypto::BLOCK_SIZE;

use crate::{
    content::{
        BLOCK, BlockHash, Blocks, FAN_OUT, KeyRing, MAX_FILE_SIZE,
        blocks::{Leaves, Missing, Pieces, Plain, piece},
        blocks_of, tree,
    },
    error::{Error, Result},
};

use super::dirty::{DirtyBlock, UNIT};

static ZEROS: [u8; BLOCK_SIZE] = [0; BLOCK_SIZE];

/// What every call on an overlay needs.
pub(super) struct Means {
    pub(super) blocks: Blocks,
    pub(super) keys: KeyRing,
    /// Dirty bytes are sealed when there are more.
    pub(super) budget: usize,
}

enum Piece {
    Sealed(BlockHash),
    Dirty(Box<DirtyBlock>),
}

/// A partly written block, before anything of it is changed.
struct Edge {
    index: u64,
    from: usize,
    to: usize,
    under: BlockHash,
    /// All bytes that the file has in this block are written: nothing from below is ever needed.
    covers: bool,
    /// Units of the block below that the write needs.
    loaded: Vec<(usize, Vec<u8>)>,
}

/// A file of blocks that is being changed.
pub(super) struct Overlay {
    pub(super) size: u64,
    root: BlockHash,
    count: u64,
    /// How many blocks of the list still show: fewer once the file was cut.
    visible: u64,
    /// Whether the list has no holes, so that nobody needs to look for them.
    full: bool,
    pieces: BTreeMap<u64, Piece>,
    /// Stamp -> index of each dirty block: the one first written longest ago comes first.
    dirty: BTreeMap<u64, u64>,
    filled: BTreeSet<u64>,
    /// Memory that dirty blocks take.
    held: usize,
    next_stamp: u64,
    /// Blocks that aren't holes.
    data_blocks: u64,
}

impl Overlay {
    pub(super) fn new(size: u64, allocated: u64, root: BlockHash, count: u64) -> Self {
        Self {
            size,
            root,
            count,
            visible: count,
            full: allocated == size,
            pieces: BTreeMap::new(),
            dirty: BTreeMap::new(),
            filled: BTreeSet::new(),
            held: 0,
            next_stamp: 0,
            data_blocks: allocated.div_ceil(BLOCK),
        }
    }

    /// As [`super::Draft::needs`].
    pub(super) fn needs(&self, lists: &mut dyn FnMut(BlockHash, u64), block: &mut dyn FnMut(BlockHash)) {
        lists(self.root, self.count);
        for piece in self.pieces.values() {
            match piece {
                Piece::Sealed(hash) => block(*hash),
                Piece::Dirty(dirty) => dirty.needs().into_iter().flatten().for_each(&mut *block),
            }
        }
    }

    /// A file with these bytes, unsealed.
    pub(super) fn from_bytes(bytes: &[u8]) -> Self {
        let mut overlay = Self::new(bytes.len() as u64, 0, BlockHash::HOLE, 0);
        if !bytes.is_empty() {
            let (under, to) = (BlockHash::HOLE, bytes.len());
            let edge = Edge { index: 0, from: 0, to, under, covers: true, loaded: Vec::new() };
            overlay.apply(edge, bytes);
        }
        overlay
    }

    pub(super) fn dirty_bytes(&self) -> usize {
        self.held
    }

    /// Bytes in blocks that aren't holes.
    pub(super) fn allocated(&self, means: &Means) -> u64 {
        let blocks = blocks_of(self.size);
        let tail = self.size % BLOCK;
        // Approximate where list nodes were absent when it was counted, but never contradictory.
        let last_is_data = tail != 0 && self.is_data(means, blocks - 1).unwrap_or(true);
        let most = blocks - u64::from(tail != 0 && !last_is_data);
        let data = self.data_blocks.clamp(u64::from(last_is_data), most);
        data * BLOCK - if last_is_data { BLOCK - tail } else { 0 }
    }

    /// The sealed block at or below `index`.
    fn under(&self, means: &Means, index: u64) -> Result<BlockHash> {
        self.under_with(&mut self.leaves(means), index)
    }

    fn under_with(&self, leaves: &mut Leaves<'_>, index: u64) -> Result<BlockHash> {
        match self.pieces.get(&index) {
            Some(Piece::Sealed(hash)) => Ok(*hash),
            Some(Piece::Dirty(block)) => Ok(block.under),
            None if index < self.visible => leaves.at(index),
            None => Ok(BlockHash::HOLE),
        }
    }

    fn leaves<'a>(&self, means: &'a Means) -> Leaves<'a> {
        Leaves::new(&means.blocks, self.root, self.count)
    }

    fn dirty_at(&self, index: u64) -> Option<&DirtyBlock> {
        match self.pieces.get(&index) {
            Some(Piece::Dirty(block)) => Some(block),
            _ => None,
        }
    }

    fn is_data(&self, means: &Means, index: u64) -> Result<bool> {
        Ok(self.dirty_at(index).is_some() || !self.under(means, index)?.is_hole())
    }

    /// Makes sure that the list nodes to its last visible block are here: a change of length rewrites them.
    fn require_edge(&self, means: &Means, visible: u64) -> Result<()> {
        if visible > 0 {
            self.leaves(means).at(visible - 1)?;
        }
        Ok(())
    }

    pub(super) fn read(&self, means: &Means, offset: u64, len: usize, out: &mut Vec<u8>) -> Result<()> {
        let end = offset.saturating_add(len as u64).min(self.size);
        if offset >= end {
            return Ok(());
        }
        let (blocks, keys) = (&means.blocks, &means.keys);
        let mut leaves = self.leaves(means);
        let mut pieces = Pieces::new(out);
        for index in offset / BLOCK..end.div_ceil(BLOCK) {
            let (from, to) = piece(index, offset, end);
            pieces.add(|out| match (self.dirty_at(index), out) {
                (Some(block), Some(out)) => block.read(blocks, keys, from, to, out),
                (Some(block), None) if block.knows_range(from, to) => Ok(()),
                (Some(block), None) => blocks.require(&block.under),
                (None, Some(out)) => {
                    blocks.read_block(&self.under_with(&mut leaves, index)?, keys, from, to - from, out)
                }
                (None, None) => blocks.require(&self.under_with(&mut leaves, index)?),
            })?;
        }
        pieces.finish()
    }

    pub(super) fn write(&mut self, means: &Means, offset: u64, bytes: &[u8]) -> Result<()> {
        let end = end_of(offset, bytes.len() as u64)?;
        let touched = offset / BLOCK..end.div_ceil(BLOCK);
        self.make_room(means, touched.clone())?;

        // First everything that may fail …
        let mut missing = Missing::default();
        if end > self.size {
            missing.note(self.require_edge(means, self.visible))?;
        }
        let mut leaves = self.leaves(means);
        let (mut edges, mut whole, mut unders) = (Vec::new(), Vec::new(), Vec::new());
        for index in touched {
            let Some(under) = missing.note(self.under_with(&mut leaves, index))? else {
                continue;
            };
            let (from, to) = piece(index, offset, end);
            if to - from == BLOCK_SIZE {
                whole.push(Plain::Bytes(&bytes[(index * BLOCK - offset) as usize..][..BLOCK_SIZE]));
                unders.push((index, under));
            } else {
                edges.extend(missing.note(self.edge(means, index, from, to, under))?);
            }
        }
        missing.finish()?;
        let sealed = means.blocks.seal_put_many(&means.keys, whole)?;

        // … then what can't.
        for ((index, under), hash) in unders.into_iter().zip(sealed) {
            self.replace(index, under, Some(hash));
        }
        for edge in edges {
            let start = edge.index * BLOCK + edge.from as u64 - offset;
            let len = edge.to - edge.from;
            self.apply(edge, &bytes[start as usize..][..len]);
        }
        self.size = self.size.max(end);
        Ok(())
    }

    /// Makes the part `from..to` of a block ready to be written, with what that needs from below.
    fn edge(&self, means: &Means, index: u64, from: usize, to: usize, under: BlockHash) -> Result<Edge> {
        let here = (self.size.saturating_sub(index * BLOCK)).min(BLOCK) as usize;
        let covers = from == 0 && to >= here;
        let mut edge = Edge { index, from, to, under, covers, loaded: Vec::new() };
        if covers || under.is_hole() {
            return Ok(edge);
        }
        if self.dirty_at(index).is_none() {
            // Sealing needs the rest of it later; then it is too late to fetch it.
            means.blocks.require(&under)?;
        }
        let cut_units = [(from, !from.is_multiple_of(UNIT)), (to, !to.is_multiple_of(UNIT) && to < here)];
        for unit in cut_units.into_iter().filter(|(_, cut)| *cut).map(|(at, _)| at / UNIT) {
            let known = self.dirty_at(index).is_some_and(|block| block.knows(unit));
            if !known && edge.loaded.iter().all(|(loaded, _)| *loaded != unit) {
                let mut bytes = Vec::with_capacity(UNIT);
                means.blocks.read_block(&under, &means.keys, unit * UNIT, UNIT, &mut bytes)?;
                edge.loaded.push((unit, bytes));
            }
        }
        Ok(edge)
    }

    fn apply(&mut self, edge: Edge, bytes: &[u8]) {
        let (index, from) = (edge.index, edge.from);
        let filled = self.change_dirty(edge, |block| {
            block.write(from, bytes);
            block.is_filled()
        });
        if filled {
            self.filled.insert(index);
        }
    }

    /// Changes the dirty block of an edge, with what was loaded for it.
    fn change_dirty<R>(&mut self, edge: Edge, change: impl FnOnce(&mut DirtyBlock) -> R) -> R {
        let Edge { index, under, covers, loaded, .. } = edge;
        if self.dirty_at(index).is_none() {
            self.replace(index, under, None);
            self.data_blocks += 1;
            let stamp = self.next_stamp;
            self.next_stamp += 1;
            self.dirty.insert(stamp, index);
            let block = Box::new(DirtyBlock::new(under, stamp));
            self.held += block.cost();
            self.pieces.insert(index, Piece::Dirty(block));
        }
        match self.pieces.get_mut(&index) {
            Some(Piece::Dirty(block)) => {
                let before = block.cost();
                loaded.iter().for_each(|(unit, bytes)| block.learn(*unit, bytes));
                if covers {
                    block.forget_under();
                }
                let result = change(block);
                self.held = self.held - before + block.cost();
                result
            }
            _ => unreachable!("a dirty block was put there above"),
        }
    }

    /// Puts a sealed block (or a hole, or nothing yet) in place of whatever is at `index`, above `under`.
    fn replace(&mut self, index: u64, under: BlockHash, hash: Option<BlockHash>) {
        let was_data = match self.pieces.remove(&index) {
            Some(Piece::Dirty(block)) => {
                self.held -= block.cost();
                self.dirty.remove(&block.stamp);
                self.filled.remove(&index);
                true
            }
            _ => !under.is_hole(),
        };
        self.data_blocks = self.data_blocks.saturating_sub(u64::from(was_data));
        if let Some(hash) = hash {
            self.data_blocks += u64::from(!hash.is_hole());
            self.pieces.insert(index, Piece::Sealed(hash));
        }
    }

    pub(super) fn truncate(&mut self, means: &Means, size: u64) -> Result<()> {
        if size > MAX_FILE_SIZE {
            return Err(Error::FileTooLarge);
        }
        if size >= self.size {
            self.require_edge(means, self.visible)?;
            self.size = size;
            return Ok(());
        }
        let blocks = blocks_of(size);
        let mut missing = Missing::default();
        missing.note(self.require_edge(means, self.visible.min(blocks)))?;
        let (last, cut) = (size / BLOCK, (size % BLOCK) as usize);
        let mut edge = None;
        if cut != 0
            && let Some(under) = missing.note(self.under(means, last))?
            && (self.dirty_at(last).is_some() || !under.is_hole())
        {
            // As if what remains of the unit were written again: its head is all that is needed from below.
            edge = missing.note(self.edge(means, last, cut, BLOCK_SIZE, under))?;
        }
        missing.finish()?;
        let dropped = self.count_data(means, blocks..blocks_of(self.size))?;

        self.data_blocks = self.data_blocks.saturating_sub(dropped);
        self.drop_pieces(blocks..u64::MAX);
        self.visible = self.visible.min(blocks);
        self.size = size;
        if let Some(edge) = edge {
            self.change_dirty(edge, |block| block.cut(cut));
            self.filled.remove(&last);
        }
        Ok(())
    }

    /// Makes `offset..offset + len` zeros, holes where whole blocks are; the size stays.
    pub(super) fn punch(&mut self, means: &Means, offset: u64, len: u64) -> Result<()> {
        let end = offset.saturating_add(len).min(self.size);
        if offset >= end {
            return Ok(());
        }
        let whole_end = if end == self.size { blocks_of(end) } else { end / BLOCK };
        let whole = offset.div_ceil(BLOCK)..whole_end;
        let mut missing = Missing::default();
        let (mut edges, mut holes) = (Vec::new(), Vec::new());
        let mut leaves = self.leaves(means);
        // A long range is cleared in the list itself, at the cost of its edges.
        let in_list = whole.end.saturating_sub(whole.start) > FAN_OUT;
        let touched = offset / BLOCK..end.div_ceil(BLOCK);
        let skipped = if in_list { whole.clone() } else { touched.end..touched.end };
        for index in (touched.start..skipped.start).chain(skipped.end..touched.end) {
            let Some(under) = missing.note(self.under_with(&mut leaves, index))? else {
                continue;
            };
            if self.dirty_at(index).is_none() && under.is_hole() {
                continue;
            }
            if whole.contains(&index) {
                holes.push((index, under));
            } else {
                let (from, to) = piece(index, offset, end);
                edges.extend(missing.note(self.edge(means, index, from, to, under))?);
            }
        }
        missing.finish()?;
        if in_list {
            let dropped = self.count_data(means, whole.clone())?;
            self.root = tree::clear(&means.blocks, self.root, self.count, whole.clone())?;
            self.full = false;
            self.data_blocks = self.data_blocks.saturating_sub(dropped);
            self.drop_pieces(whole);
        }
        for (index, under) in holes {
            self.replace(index, under, Some(BlockHash::HOLE));
        }
        for edge in edges {
            let len = edge.to - edge.from;
            self.apply(edge, &ZEROS[..len]);
        }
        Ok(())
    }

    fn drop_pieces(&mut self, range: Range<u64>) {
        let dropped: Vec<_> = self.pieces.range(range).map(|(index, _)| *index).collect();
        for index in dropped {
            if let Some(Piece::Dirty(block)) = self.pieces.remove(&index) {
                self.held -= block.cost();
                self.dirty.remove(&block.stamp);
                self.filled.remove(&index);
            }
        }
    }

    /// How many blocks in `range` aren't holes.
    fn count_data(&self, means: &Means, range: Range<u64>) -> Result<u64> {
        let listed = range.start..range.end.min(self.visible).max(range.start);
        let mut count = if self.full {
            listed.end - listed.start
        } else {
            tree::count_data(&means.blocks, self.root, self.count, listed)?
        };
        let mut leaves = self.leaves(means);
        for (index, piece) in self.pieces.range(range) {
            let below = *index < self.visible && (self.full || leaves.at(*index).map_or(true, |hash| !hash.is_hole()));
            let data = !matches!(piece, Piece::Sealed(hash) if hash.is_hole());
            count = (count + u64::from(data)).saturating_sub(u64::from(below));
        }
        Ok(count)
    }

    /// Lays sealed blocks over the file from block `first` on; the file is at least `size` long then.
    pub(super) fn share(&mut self, means: &Means, first: u64, hashes: &[BlockHash], size: u64) -> Result<()> {
        self.make_room(means, first..first + hashes.len() as u64)?;
        let mut missing = Missing::default();
        missing.note(self.require_edge(means, self.visible))?;
        let mut leaves = self.leaves(means);
        let mut unders = Vec::with_capacity(hashes.len());
        for index in first..first + hashes.len() as u64 {
            unders.extend(missing.note(self.under_with(&mut leaves, index))?);
        }
        missing.finish()?;
        for ((index, under), hash) in (first..).zip(unders).zip(hashes) {
            self.replace(index, under, Some(*hash));
        }
        self.size = self.size.max(size);
        Ok(())
    }

    /// The first block from `from` on that is data (or, with `data` false, a hole).
    pub(super) fn next(&self, means: &Means, from: u64, data: bool) -> Result<Option<u64>> {
        let matches = |piece: &Piece| !matches!(piece, Piece::Sealed(hash) if hash.is_hole()) == data;
        let in_pieces = self.pieces.range(from..).find(|(_, piece)| matches(piece)).map(|(index, _)| *index);
        let mut at = from;
        let in_list = loop {
            let found = if at >= self.visible {
                (!data).then_some(at)
            } else if self.full && !data {
                Some(self.visible)
            } else {
                let shown = tree::next(&means.blocks, self.root, self.count, at, data)?;
                shown.filter(|index| *index < self.visible).or((!data).then_some(self.visible))
            };
            match found {
                Some(index) if self.pieces.contains_key(&index) => at = index + 1,
                found => break found,
            }
        };
        let first = in_pieces.into_iter().chain(in_list).min();
        Ok(first.filter(|index| *index < blocks_of(self.size)))
    }
}

/// The end of a range, which must lie where a file can reach.
fn end_of(offset: u64, len: u64) -> Result<u64> {
    offset.checked_add(len).filter(|end| *end <= MAX_FILE_SIZE).ok_or(Error::FileTooLarge)
}
