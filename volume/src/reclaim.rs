//! Blocks that nobody needs any more: found by looking at all that is needed, and removed.
//!
//! A block is needed by the contents of files there are (also those that are still being fetched), of what was at any
//! moment that is kept, and of open files; and by patches over it. What was removed counts as being there until everybody
//! who may write is known to have seen that: an edit by who hasn't brings it back. Everything is looked at beside the running volume. What goes on meanwhile
//! is noted: contents of rows that are put or replaced ([`Core::touched`]), and blocks that are put
//! ([`Blocks::note_young`]). Both are asked for once more, with the lock held, right before blocks are removed. So nothing
//! can come to be needed between the look and the removal.
//!
//! Nothing is kept of it on the disk: cut short, it begins anew.
//!
//! [`Blocks::note_young`]: crate::content::Blocks::note_young

use std::{
    collections::{BTreeMap, HashSet},
    hash::{BuildHasherDefault, Hasher},
    sync::Arc,
};

use crypto::DeviceId;

use crate::{
    commit::encode,
    content::{BlockHash, BlockHead, Content, ContentData, logged_base, short},
    core::{Core, decode_row},
    error::{Error, Result},
    files::OpenFile,
    node::Ino,
    record,
    row::{Entry, Node, NodeRow},
    store::{Batch, Space, prefix_end},
    version::{BranchNo, Dot},
    volume::Volume,
};

/// Key in [`Space::Meta`] of up to which arrival devices are known to have seen everything.
const SEEN: &[u8] = b"seen";
/// Rows or blocks looked at between two pauses.
const STEP: usize = 64;
/// Names held at a time, of some ten bytes each; with more blocks, all is looked at several times.
const NAMES: u64 = 4 << 20;

/// What looking for blocks that nobody needs came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reclaimed {
    /// Blocks that were looked at.
    pub blocks: u64,
    /// Bytes of blocks that only history needs.
    pub history_bytes: u64,
    /// Bytes of the blocks that were removed.
    pub freed_bytes: u64,
    /// It came to its end.
    pub finished: bool,
}

/// Names are hashes already.
#[derive(Default)]
struct Same(u64);

impl Hasher for Same {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u32(&mut self, number: u32) {
        self.0 = self.0.rotate_left(1) ^ u64::from(number);
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = self.0.rotate_left(1) ^ number;
    }
}

type Names<T> = HashSet<T, BuildHasherDefault<Same>>;

/// What is needed, as far as it was looked at.
#[derive(Default)]
struct Needed {
    /// Which part of all names this is, of how many.
    part: (u64, u64),
    /// List nodes that were followed, with their heights: one may stand in two places.
    lists: Names<(u64, u32)>,
    now: Names<u64>,
    /// Only by history.
    past: Names<u64>,
}

impl Needed {
    fn has_part_of(&self, name: u64) -> bool {
        name % self.part.1 == self.part.0
    }

    fn has(&self, name: u64) -> bool {
        self.now.contains(&name) || self.past.contains(&name)
    }

    /// Adds all below a root; every block there is told.
    fn add(
        &mut self,
        volume: &Volume,
        (root, blocks): (BlockHash, u64),
        past: bool,
        new: &mut dyn FnMut(&BlockHash),
    ) -> Result<()> {
        volume.inner.blocks.walk(root, blocks, &mut |hash, height| {
            let name = short(hash);
            if height > 0 && !self.lists.insert((name, height)) {
                return false;
            }
            if self.has_part_of(name) {
                match past {
                    true if self.now.contains(&name) => false,
                    true => self.past.insert(name),
                    false => self.now.insert(name),
                };
            }
            // Also of other parts: what lies below a patch may be of this one.
            if height == 0 {
                new(hash);
            }
            true
        })
    }
}

/// Ends the noting of what goes on, however the search ends.
struct Noting<'a>(&'a Volume);

impl Drop for Noting<'_> {
    fn drop(&mut self) {
        self.0.inner.blocks.note_young(false);
        self.0.inner.core.lock().touched = None;
    }
}

impl Volume {
    /// Removes the blocks that nobody needs any more, and gives their room back to the disk. In small steps with `pace`
    /// between them, until that is false. One at a time: while another runs, or history is thinned out, this waits.
    ///
    /// # Errors
    /// [`Error::Damaged`] if a record can't be read that may need blocks: nothing is removed then. The disk fails.
    pub fn reclaim(&self, pace: &mut dyn FnMut() -> bool) -> Result<Reclaimed> {
        let _turn = self.inner.reclaiming.lock();
        let mut done = Reclaimed::default();
        let store = self.inner.blocks.store();
        store.reconsider()?;
        if store.has_aside()? {
            return Err(Error::damaged(
                "blocks: `p2pfs verify --repair` fetches them again, and until then nothing is dropped",
            ));
        }
        self.inner.core.lock().touched = Some(Vec::new());
        self.inner.blocks.note_young(true);
        let _noting = Noting(self);
        let mut names = 0;
        if !self.each_block(pace, |_| {
            names += 1;
            Ok(())
        })? {
            return Ok(done);
        }
        let parts = names / NAMES + 1;
        let Some(named) = self.removed_but_named(pace)? else { return Ok(done) };
        let mut touched = Vec::new();
        let mut bases: Names<u64> = Names::default();
        // Patches of each part lie over blocks of any: all are known before anything is removed.
        let mut needed = None;
        for part in 0..parts {
            let Some(found) = self.needed((part, parts), &named, &mut touched, pace)? else { return Ok(done) };
            let blocks = &self.inner.blocks;
            let whole = self.each_block(pace, |(hash, head)| {
                if crypto::is_patch(&head.first) && found.has(short(hash)) {
                    bases.extend(blocks.patched(hash, head)?.as_ref().map(short));
                }
                Ok(())
            })?;
            if !whole {
                return Ok(done);
            }
            needed = Some(found).filter(|_| parts == 1);
        }
        for part in 0..parts {
            let needed = match needed.take() {
                Some(needed) => Some(needed),
                None => self.needed((part, parts), &named, &mut touched, pace)?,
            };
            let Some(needed) = needed else { return Ok(done) };
            if !self.sweep(needed, &mut bases, &mut touched, &mut done, pace)? {
                return Ok(done);
            }
        }
        self.inner.blocks.store().give_back(pace)?;
        done.finished = true;
        if self.inner.quota.is_set() {
            // There may be room for contents again.
            self.inner.quota.look_again();
            self.wake_sessions();
        }
        Ok(done)
    }

    /// Calls `each` with all blocks, in the order of their names; false when it was cut short.
    fn each_block(
        &self,
        pace: &mut dyn FnMut() -> bool,
        mut each: impl FnMut(&(BlockHash, BlockHead)) -> Result<()>,
    ) -> Result<bool> {
        let mut from = Some(BlockHash::ZERO);
        while let Some(start) = from {
            let blocks = self.inner.blocks.store().names(&start, STEP)?;
            from = blocks.last().and_then(|(last, _)| next(last));
            blocks.iter().try_for_each(&mut each)?;
            if !pace() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads all rows of a space with keys that begin with `prefix`; false when it was cut short.
    fn each_row(
        &self,
        space: Space,
        prefix: &[u8],
        pace: &mut dyn FnMut() -> bool,
        mut each: impl FnMut(&[u8], &[u8]) -> Result<()>,
    ) -> Result<bool> {
        let mut from = prefix.to_vec();
        let to = if prefix.is_empty() { Vec::new() } else { prefix_end(prefix) };
        loop {
            let rows = self.inner.store.scan(space, &from, &to, STEP)?;
            let Some((last, _)) = rows.last() else { return Ok(true) };
            from = [last.as_slice(), &[0]].concat();
            for (key, plain) in &rows {
                each(key, plain)?;
            }
            if !pace() {
                return Ok(false);
            }
        }
    }

    fn trees_of(&self, row: &NodeRow) -> Result<Vec<(BlockHash, u64)>> {
        match row.closed_contents().next() {
            None => Ok(row.trees().collect()),
            Some(_) => self.inner.core.lock().trees_of(row),
        }
    }

    /// The nodes that history knows names of: what was removed of these may still be looked at.
    fn removed_but_named(&self, pace: &mut dyn FnMut() -> bool) -> Result<Option<Names<u64>>> {
        let mut named = Names::default();
        let whole = self.each_row(Space::History, b"e", pace, |_, plain| {
            let entry: Entry = decode_row("entry as it was", plain)?;
            named.extend(entry.claims.iter().map(|claim| claim.child.0));
            named.extend(entry.derived.iter().map(|derived| derived.ino.0));
            Ok(())
        })?;
        Ok(whole.then_some(named))
    }

    /// Looks at all that is needed.
    fn needed(
        &self,
        part: (u64, u64),
        named: &Names<u64>,
        touched: &mut Vec<(BlockHash, u64)>,
        pace: &mut dyn FnMut() -> bool,
    ) -> Result<Option<Needed>> {
        let mut needed = Needed { part, ..Needed::default() };
        let writers = self.inner.core.lock().other_writers()?;
        let mut past = Vec::new();
        let whole = self.each_row(Space::Nodes, &[], pace, |key, plain| {
            // Not what nodes have in rows of their own.
            let Ok(number) = <[u8; 8]>::try_from(key) else { return Ok(()) };
            let row = record::read::<NodeRow>(plain).map_err(|_| Error::damaged("a node"))?;
            let ino = Ino(u64::from_be_bytes(number));
            let gone = match &row {
                NodeRow::Node(node) => {
                    node.is_gone() && !node.content.is_empty() && self.have_all_seen(node, &writers)?
                }
                NodeRow::View { .. } => false,
            };
            let trees = self.trees_of(&row)?;
            for tree in trees {
                if !gone || self.inner.files.contains_key(&ino) {
                    needed.add(self, tree, false, &mut |_| ())?;
                } else if named.contains(&ino.0) {
                    past.push(tree);
                }
            }
            // Few files have many blocks, and one row may have as many as all others.
            if past.len() >= STEP {
                for tree in past.drain(..) {
                    needed.add(self, tree, true, &mut |_| ())?;
                }
            }
            Ok(())
        })?;
        if !whole {
            return Ok(None);
        }
        past.extend(self.inner.core.lock().late_contents()?);
        for tree in past {
            needed.add(self, tree, true, &mut |_| ())?;
        }
        let whole = self.each_row(Space::History, b"n", pace, |_, plain| {
            let row: NodeRow = decode_row("node as it was", plain)?;
            let trees = self.trees_of(&row)?;
            for tree in trees {
                needed.add(self, tree, true, &mut |_| ())?;
            }
            Ok(())
        })?;
        let logs = self.each_row(Space::Drafts, &[], pace, |key, plain| match logged_base(key, plain)? {
            Some(Content { data: ContentData::Tree { root, blocks }, .. }) => {
                needed.add(self, (root, blocks), false, &mut |_| ())
            }
            _ => Ok(()),
        })?;
        self.open_contents(&mut needed)?;
        // Power loss must not bring back what was replaced while this looked.
        self.inner.blocks.sync()?;
        self.inner.store.sync()?;
        touched.extend(self.inner.core.lock().touched.iter_mut().flat_map(std::mem::take));
        for tree in touched.iter() {
            needed.add(self, *tree, false, &mut |_| ())?;
        }
        Ok((whole && logs).then_some(needed))
    }

    /// Notes that these devices have seen all that came here up to an arrival: they won't bring back what was removed by
    /// then.
    ///
    /// # Errors
    /// The disk failed.
    pub fn note_in_step(&self, devices: &[DeviceId], arrival: u64) -> Result<()> {
        let core = &mut *self.inner.core.lock();
        let mut seen = core.seen()?;
        for device in devices {
            seen.insert(*device, arrival);
        }
        let mut batch = Batch::new();
        core.store.put(&mut batch, Space::Meta, SEEN, &encode(&seen));
        core.store.apply(batch)
    }

    /// Whether everybody who may write has seen that a node was removed: whoever hasn't may edit it, and it shows again.
    fn have_all_seen(&self, node: &Node, writers: &[(DeviceId, u64)]) -> Result<bool> {
        if node.spilled.links != [0; 2] {
            return Ok(false);
        }
        let core = &mut *self.inner.core.lock();
        let removals = node.links.iter().flat_map(|link| link.values.iter().map(|value| value.at.dot));
        for dot in removals {
            let arrival = core.commit_row(dot)?.map_or(u64::MAX, |row| row.arrival);
            for (device, seen) in writers {
                if *seen < arrival && !core.has_observed(device, dot)? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Adds what open files may still read.
    fn open_contents(&self, needed: &mut Needed) -> Result<()> {
        let files: Vec<Arc<OpenFile>> = self.inner.files.iter().map(|file| file.value().clone()).collect();
        let handles: Vec<_> = self.inner.handles.iter().map(|handle| handle.value().clone()).collect();
        let (mut trees, mut blocks) = (Vec::new(), Vec::new());
        let mut content = |content: &Content| {
            if let ContentData::Tree { root, blocks } = content.data {
                trees.push((root, blocks));
            }
        };
        for handle in &handles {
            handle.needs(&mut content);
        }
        for file in &files {
            file.state.read().needs(&mut content, &mut |hash| blocks.push(hash));
        }
        if let Some(draft) = &*self.inner.resealing.draft.lock() {
            let mut list = |root, blocks| trees.push((root, blocks));
            draft.needs(&mut list, &mut |hash| blocks.push(hash));
        }
        for tree in trees {
            needed.add(self, tree, false, &mut |_| ())?;
        }
        needed.now.extend(blocks.iter().map(short));
        Ok(())
    }

    /// Removes what isn't needed of one part; false when it was cut short.
    fn sweep(
        &self,
        mut needed: Needed,
        bases: &mut Names<u64>,
        touched: &mut Vec<(BlockHash, u64)>,
        done: &mut Reclaimed,
        pace: &mut dyn FnMut() -> bool,
    ) -> Result<bool> {
        let mut from = Some(BlockHash::ZERO);
        while let Some(start) = from {
            let blocks = self.inner.blocks.store().names(&start, STEP)?;
            from = blocks.last().and_then(|(last, _)| next(last));
            let mut idle = Vec::new();
            for (hash, head) in blocks {
                let name = short(&hash);
                if !needed.has_part_of(name) {
                    continue;
                }
                done.blocks += 1;
                if needed.now.contains(&name) {
                    continue;
                }
                if needed.past.contains(&name) || bases.contains(&name) {
                    done.history_bytes += if needed.past.contains(&name) { head.len as u64 } else { 0 };
                    continue;
                }
                idle.push((hash, head));
            }
            while !idle.is_empty() {
                let mut core = self.inner.core.lock();
                let new: Vec<_> = core.touched.iter_mut().flat_map(std::mem::take).collect();
                if new.is_empty() {
                    done.freed_bytes += self.inner.blocks.remove_old(&idle)?;
                    break;
                }
                drop(core);
                // Something came to be needed since it was looked.
                let mut leaves = Vec::new();
                for tree in &new {
                    needed.add(self, *tree, false, &mut |hash| leaves.push(*hash))?;
                }
                for hash in leaves {
                    if let Some(head) = self.inner.blocks.store().head(&hash)? {
                        bases.extend(self.inner.blocks.patched(&hash, &head)?.as_ref().map(short));
                    }
                }
                touched.extend(new);
                idle.retain(|(hash, _)| !needed.has(short(hash)) && !bases.contains(&short(hash)));
            }
            if !pace() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Core {
    /// Up to which arrival devices are known to have seen everything.
    fn seen(&self) -> Result<BTreeMap<DeviceId, u64>> {
        match self.store.get(Space::Meta, SEEN)? {
            Some(bytes) => decode_row("what others have seen", &bytes),
            None => Ok(BTreeMap::new()),
        }
    }

    /// All devices but this one that may write, with the arrival up to which each is known to have seen everything.
    fn other_writers(&self) -> Result<Vec<(DeviceId, u64)>> {
        let (seen, own) = (self.seen()?, self.device.id());
        let others = self.members.writers().filter(|device| *device != own);
        Ok(others.map(|device| (device, seen.get(&device).copied().unwrap_or(0))).collect())
    }

    /// Whether everybody else who may write is known to have seen a commit.
    pub(crate) fn have_writers_seen(&mut self, dot: Dot) -> Result<bool> {
        let arrival = self.commit_row(dot)?.map_or(u64::MAX, |row| row.arrival);
        for (device, seen) in self.other_writers()? {
            if seen < arrival && !self.has_observed(&device, dot)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether a commit of a device tells that it had seen this one.
    fn has_observed(&mut self, device: &DeviceId, dot: Dot) -> Result<bool> {
        let tips: Vec<Dot> = (0..)
            .zip(&self.branches)
            .filter(|(_, branch)| branch.device == *device && branch.tip > 0)
            .map(|(number, branch)| Dot { branch: BranchNo(number), seq: branch.tip })
            .collect();
        for tip in tips {
            if self.vector(tip)?.covers(dot) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The name after this one.
fn next(hash: &BlockHash) -> Option<BlockHash> {
    let mut bytes = *hash.as_bytes();
    for byte in bytes.iter_mut().rev() {
        *byte = byte.wrapping_add(1);
        if *byte != 0 {
            return Some(BlockHash::from_bytes(bytes));
        }
    }
    None
}
