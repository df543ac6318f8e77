use std::sync::Arc;

use crypto::{BLOCK_SIZE, OsEntropy};
use proptest::prelude::*;

use super::*;
use crate::{
    content::{
        BlockKind, BlockStore, MemoryBlocks,
        fixture::{bytes, content, memory, node_key, read_all, ring, sealed},
        tree,
    },
    memory_store::MemoryStore,
    sealed_store::SealedStore,
    store::{Batch, Space},
    undo::Undo,
};

const INO: u64 = 5;

fn empty(blocks: &Blocks) -> Draft {
    Draft::new(blocks.clone(), Content::empty(), ring(1))
}

fn all(draft: &Draft) -> Vec<u8> {
    let mut out = Vec::new();
    draft.read(0, usize::MAX, &mut out).unwrap();
    out
}

#[derive(Clone, Debug)]
enum Op {
    Write {
        offset: usize,
        len: usize,
        seed: u64,
    },
    Truncate(usize),
    Extend(usize),
    Punch {
        offset: usize,
        len: usize,
    },
    Zero {
        offset: usize,
        len: usize,
        keep_size: bool,
    },
    Clone {
        source: usize,
        from: usize,
        to: usize,
        len: usize,
    },
    SealOldest(usize),
    Publish,
    Persist,
    Fsync,
    /// Dies, and perhaps loses power: the store keeps so many of its unsynced batches.
    Crash {
        power: Option<usize>,
    },
}

fn offset() -> impl Strategy<Value = usize> {
    prop_oneof![
        0..9000usize,
        (0..8usize, 0..17usize).prop_map(|(block, unit)| block * BLOCK_SIZE + unit * 4096),
        (0..8usize, 0..300usize).prop_map(|(block, less)| ((block + 1) * BLOCK_SIZE).saturating_sub(less)),
        0..8 * BLOCK_SIZE,
    ]
}

fn length() -> impl Strategy<Value = usize> {
    prop_oneof![1..200usize, (1..20usize).prop_map(|units| units * 4096), 1..3 * BLOCK_SIZE]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        10 => (offset(), length(), any::<u64>()).prop_map(|(offset, len, seed)| Op::Write { offset, len, seed }),
        6 => (0..6 * 16usize, any::<u64>()).prop_map(|(unit, seed)| Op::Write { offset: unit * 4096, len: 4096, seed }),
        3 => offset().prop_map(Op::Truncate),
        1 => offset().prop_map(Op::Extend),
        3 => (offset(), length()).prop_map(|(offset, len)| Op::Punch { offset, len }),
        1 => (offset(), length(), any::<bool>()).prop_map(|(offset, len, keep_size)| Op::Zero { offset, len, keep_size }),
        2 => (0..3usize, offset(), offset(), length(), any::<bool>()).prop_map(|(source, from, to, len, aligned)| {
            let from = if aligned { to % BLOCK_SIZE + from / BLOCK_SIZE * BLOCK_SIZE } else { from };
            Op::Clone { source, from, to, len: if aligned { len * 4 } else { len } }
        }),
        1 => (0..4usize).prop_map(Op::SealOldest),
        2 => Just(Op::Publish),
        2 => Just(Op::Persist),
        3 => Just(Op::Fsync),
        3 => prop::option::of(0..6usize).prop_map(|power| Op::Crash { power }),
    ]
}

/// One file with a model beside it, on a disk that can lose power.
struct Bench {
    disk: Arc<MemoryBlocks>,
    memory: Arc<MemoryStore>,
    store: SealedStore,
    blocks: Blocks,
    draft: Draft,
    model: Vec<u8>,
    sources: Vec<(Content, Vec<u8>)>,
    /// What a crash may bring back: the file as of the last fsync, and each state logged or published since.
    states: Vec<Vec<u8>>,
    /// As the volume does it: a content whose blocks are lost is taken back.
    undo: Undo,
}

impl Bench {
    fn new() -> Self {
        let (disk, blocks) = memory();
        let (memory, store) = sealed();
        let sources = [100, 3 * BLOCK_SIZE, 5 * BLOCK_SIZE + 1234].map(|len| {
            let bytes = bytes(len as u64, len);
            let mut draft = Draft::new(blocks.clone(), Content::empty(), ring(2));
            draft.write(0, &bytes).unwrap();
            let (from, to) = (BLOCK_SIZE.min(len), (2 * BLOCK_SIZE).min(len));
            draft.punch(from as u64, (to - from) as u64).unwrap();
            let mut bytes = bytes;
            bytes[from..to].fill(0);
            (draft.finish().unwrap(), bytes)
        });
        disk.sync().unwrap();
        let draft = empty(&blocks).with_budget(3 * BLOCK_SIZE);
        let (model, states, undo) = (Vec::new(), Vec::new(), Undo::default());
        let mut bench = Self { disk, memory, store, blocks, draft, model, sources: sources.into(), states, undo };
        bench.publish();
        bench.sync();
        bench
    }

    fn keys(&self) -> KeyRing {
        // A published content carries the keys of its blocks; here just all there are.
        let mut keys = ring(1);
        keys.add(node_key(2));
        keys
    }

    fn apply(&mut self, op: Op) {
        let model = &mut self.model;
        let zero = |model: &mut Vec<u8>, offset: usize, len: usize| {
            let end = model.len().min(offset + len);
            model[offset.min(end)..end].fill(0);
        };
        match op {
            Op::Write { offset, len, seed } => {
                let bytes = bytes(seed, len);
                model.resize(model.len().max(offset + len), 0);
                model[offset..offset + len].copy_from_slice(&bytes);
                self.draft.write(offset as u64, &bytes).unwrap();
            }
            Op::Truncate(size) => {
                model.resize(size, 0);
                self.draft.truncate(size as u64).unwrap();
            }
            Op::Extend(size) => {
                model.resize(model.len().max(size), 0);
                self.draft.extend(size as u64).unwrap();
            }
            Op::Punch { offset, len } => {
                zero(model, offset, len);
                self.draft.punch(offset as u64, len as u64).unwrap();
            }
            Op::Zero { offset, len, keep_size } => {
                zero(model, offset, len);
                if !keep_size {
                    model.resize(model.len().max(offset + len), 0);
                }
                self.draft.zero_range(offset as u64, len as u64, keep_size).unwrap();
            }
            Op::Clone { source, from, to, len } => {
                let (content, bytes) = &self.sources[source];
                let part = &bytes[from.min(bytes.len())..(from + len).min(bytes.len())];
                if !part.is_empty() {
                    model.resize(model.len().max(to + part.len()), 0);
                    model[to..to + part.len()].copy_from_slice(part);
                }
                let done = self.draft.clone_range(content, &ring(2), from as u64, to as u64, len as u64).unwrap();
                assert_eq!(done as usize, part.len());
            }
            Op::SealOldest(n) => {
                self.draft.seal_oldest(n).unwrap();
            }
            Op::Publish => self.publish(),
            Op::Persist => self.persist(),
            Op::Fsync => {
                self.persist();
                self.sync();
            }
            Op::Crash { power } => self.crash(power),
        }
        self.check();
    }

    fn publish(&mut self) {
        let content = self.draft.finish().unwrap();
        content.validate().unwrap();
        assert_eq!(read_all(&self.blocks, &self.keys(), &content), self.model);
        if let ContentData::Tree { root, blocks } = content.data {
            let data = tree::count_data(&self.blocks, root, blocks, 0..blocks).unwrap();
            let tail = content.size % BLOCK;
            let last = blocks - 1;
            let short = tail != 0 && tree::next(&self.blocks, root, blocks, last, true).unwrap().is_some();
            assert_eq!(content.allocated, data * BLOCK - if short { BLOCK - tail } else { 0 });
        }
        let mut batch = Batch::new();
        self.store.put(&mut batch, Space::Nodes, *b"file", &rmp_serde::to_vec(&content).unwrap());
        Draft::forget(INO, &self.store, &mut batch).unwrap();
        let publishes = matches!(content.data, ContentData::Tree { .. });
        let undoable = self.undo.add(&self.store, &*self.disk, publishes, &mut batch).unwrap();
        self.store.apply(batch).unwrap();
        if undoable {
            self.undo.added();
        }
        self.states.push(self.model.clone());
    }

    fn sync_blocks(&mut self) {
        let end = self.undo.end();
        self.disk.sync().unwrap();
        if let Some(end) = end {
            self.undo.forget(&self.store, end).unwrap();
        }
    }

    fn persist(&mut self) {
        if self.undo.end().is_some() {
            self.sync_blocks();
        }
        let header = [self.states.len() as u8 / 3];
        self.draft.persist(INO, &header, &self.store).unwrap();
        self.states.push(self.model.clone());
    }

    fn sync(&mut self) {
        self.sync_blocks();
        self.store.sync().unwrap();
        let last = self.states.pop().unwrap();
        self.states = vec![last];
    }

    fn crash(&mut self, power: Option<usize>) {
        if let Some(keep) = power {
            self.disk.lose_power();
            self.memory.lose_power(keep);
        }
        self.blocks = Blocks::new(self.disk.clone(), Arc::new(OsEntropy));
        crate::undo::recover(&self.store, &*self.disk).unwrap();
        self.undo = Undo::default();
        let row = self.store.get(Space::Nodes, b"file").unwrap().unwrap();
        let published: Content = rmp_serde::from_slice(&row).unwrap();
        let recovered = Draft::recover(INO, &self.store, self.blocks.clone(), self.keys()).unwrap();
        let draft = recovered
            .map_or_else(|| Draft::new(self.blocks.clone(), published.clone(), self.keys()), |(draft, _)| draft);
        self.draft = draft.with_budget(3 * BLOCK_SIZE);
        let mut found = Vec::new();
        self.draft.read(0, usize::MAX, &mut found).unwrap();
        assert!(self.states.contains(&found), "neither what was synced nor anything later");
        assert!(power.is_some() || found == *self.states.last().unwrap(), "the process died, no power was lost");
        self.model = found;
        // The store may hold back what it had; a new start makes it certain.
        self.draft.truncate(self.model.len() as u64).unwrap();
        self.publish();
        self.sync();
    }

    fn check(&self) {
        assert_eq!(self.draft.size(), self.model.len() as u64);
        assert!(all(&self.draft) == self.model, "the file differs");
        assert!(self.draft.dirty_bytes() <= 8 * BLOCK_SIZE);
        // Walking over data and holes covers the file, and no byte of a hole is other than zero.
        let (mut at, size) = (0, self.draft.size());
        let mut in_data = 0;
        while at < size {
            let data = match self.draft.seek_data(at) {
                Ok(data) => data,
                Err(Error::NoMoreData) => size,
                Err(other) => panic!("{other}"),
            };
            assert!(self.model[at as usize..data as usize].iter().all(|byte| *byte == 0));
            if data == size {
                break;
            }
            let hole = self.draft.seek_hole(data).unwrap();
            assert!(hole > data && hole <= size);
            in_data += hole - data;
            at = hole;
        }
        assert_eq!(self.draft.allocated(), in_data);
        assert!(matches!(self.draft.seek_data(size), Err(Error::NoMoreData)));
        assert!(matches!(self.draft.seek_hole(size), Err(Error::NoMoreData)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(80))]

    #[test]
    fn a_draft_is_a_vector_of_bytes_that_survives_crashes(
        ops in prop::collection::vec(op(), 1..40), full in any::<bool>(),
    ) {
        let mut bench = Bench::new();
        if full {
            // What is written over it becomes patches.
            bench.apply(Op::Write { offset: 0, len: 6 * BLOCK_SIZE, seed: 3 });
            bench.apply(Op::Publish);
        }
        for op in ops {
            bench.apply(op);
        }
        bench.apply(Op::Publish);
    }
}

#[test]
fn small_files_never_touch_the_packs() {
    let (disk, blocks) = memory();
    let mut draft = empty(&blocks);
    draft.write(0, &[1; 100]).unwrap();
    draft.write(16_000, &[2; 384]).unwrap();
    let content = draft.finish().unwrap();
    assert!(matches!(content.data, ContentData::Inline(_)));
    draft.write(16_384, &[3]).unwrap();
    assert!(matches!(draft.finish().unwrap().data, ContentData::Tree { .. }));
    assert_eq!(disk.names().len(), 1);
    draft.truncate(16_384).unwrap();
    assert_eq!(draft.finish().unwrap(), content);
}

#[test]
fn a_write_that_needs_absent_blocks_changes_nothing() {
    let (disk, blocks) = memory();
    let data = bytes(1, 3 * BLOCK_SIZE + 5000);
    let base = content(&blocks, &ring(1), &data);
    let ContentData::Tree { root, blocks: count } = base.data else { panic!("no tree") };
    let second = blocks.leaf_at(root, count, 1).unwrap();
    let last = blocks.leaf_at(root, count, 3).unwrap();
    let evicted = disk.get(&second).unwrap().unwrap();
    disk.evict(&second);
    disk.evict(&last);
    let mut draft = Draft::new(blocks.clone(), base.clone(), ring(1));
    let absent = |result: Result<()>, hashes: &[_]| match result {
        Err(Error::Absent(found)) => assert_eq!(found, hashes),
        other => panic!("{other:?}"),
    };
    absent(draft.write(BLOCK + 100, b"x"), &[second]);
    absent(draft.write(BLOCK + 4096, &[1; 4096]), &[second]);
    absent(draft.write(10, &bytes(2, BLOCK_SIZE + 20)), &[second]);
    absent(draft.punch(BLOCK + 9, 2 * BLOCK), &[second, last]);
    absent(draft.truncate(BLOCK + 10), &[second]);
    assert!(!draft.is_changed());
    assert_eq!(draft.finish().unwrap(), base);

    // Whole blocks need nothing from below, nor does the end of the file when all of it is written.
    draft.write(BLOCK, &bytes(3, BLOCK_SIZE)).unwrap();
    draft.write(3 * BLOCK, &bytes(4, 5000)).unwrap();
    let content = draft.finish().unwrap();
    disk.put(&second, &evicted).unwrap();
    let mut expected = data;
    expected[BLOCK_SIZE..2 * BLOCK_SIZE].copy_from_slice(&bytes(3, BLOCK_SIZE));
    expected[3 * BLOCK_SIZE..].copy_from_slice(&bytes(4, 5000));
    assert_eq!(read_all(&blocks, &ring(1), &content), expected);
}

#[test]
fn a_full_disk_is_told_before_anything_changes() {
    let (disk, blocks) = memory();
    let mut draft = empty(&blocks);
    draft.write(0, &bytes(1, BLOCK_SIZE + 10)).unwrap();
    disk.fill_after(Some(0));
    assert!(matches!(draft.write(0, &bytes(2, 2 * BLOCK_SIZE)), Err(Error::NoSpace)));
    assert_eq!(all(&draft), bytes(1, BLOCK_SIZE + 10));
    draft.write(5, b"in memory").unwrap();
    assert!(matches!(draft.finish(), Err(Error::NoSpace)));
    disk.fill_after(None);
    let content = draft.finish().unwrap();
    assert_eq!(read_all(&blocks, &ring(1), &content)[5..14], *b"in memory");
}

#[test]
fn a_small_fsync_in_a_large_file_costs_a_small_row() {
    let (disk, blocks) = memory();
    let (_, store) = sealed();
    let base = content(&blocks, &ring(1), &bytes(1, 40 * BLOCK_SIZE));
    let before = disk.names().len();
    let mut draft = Draft::new(blocks.clone(), base, ring(1));
    for n in 0..10u64 {
        draft.write(n * 100_000, &bytes(n, 4096)).unwrap();
        draft.persist(INO, b"header", &store).unwrap();
    }
    assert_eq!(disk.names().len(), before);
    assert_eq!(disk.syncs(), 1);
    let rows = store.raw().scan(Space::Drafts, &[], &[], 100).unwrap();
    assert_eq!(rows.len(), 11);
    assert!(rows.iter().all(|(_, value)| value.len() < 4300));
    assert_eq!(Draft::drafts_present(&store).unwrap(), [INO]);
    let (recovered, header) = Draft::recover(INO, &store, blocks, ring(1)).unwrap().unwrap();
    assert_eq!(header, b"header");
    assert_eq!(all(&recovered), all(&draft));
    let mut batch = Batch::new();
    Draft::forget(INO, &store, &mut batch).unwrap();
    store.apply(batch).unwrap();
    assert!(Draft::drafts_present(&store).unwrap().is_empty());
}

#[test]
fn a_long_log_is_folded_into_blocks() {
    let (_, blocks) = memory();
    let (_, store) = sealed();
    let mut draft = empty(&blocks);
    let (mut longest, mut folds) = (0, 0);
    for n in 0..200u64 {
        draft.write(n * 50_000, &bytes(n, 50_000)).unwrap();
        draft.persist(INO, b"", &store).unwrap();
        let rows = store.raw().scan(Space::Drafts, &[], &[], 1000).unwrap().len();
        folds += usize::from(rows == 1);
        longest = longest.max(rows);
    }
    assert!((2..5).contains(&folds) && longest < 90, "{folds} {longest}");
    let (recovered, _) = Draft::recover(INO, &store, blocks, ring(1)).unwrap().unwrap();
    assert!(all(&recovered) == all(&draft));
}

/// Rows are numbered without a gap, also where the disk fails between them and a draft goes on after a restart; so a gap
/// is damage, and behind it nothing is used.
#[test]
fn behind_a_missing_row_of_the_log_nothing_is_used() {
    let (_, blocks) = memory();
    let (memory, store) = sealed();
    let numbers = || {
        let keys = memory.keys(Space::Drafts).into_iter();
        keys.filter(|key| key.len() > 9).map(|key| key[16]).collect::<Vec<_>>()
    };
    let mut draft = empty(&blocks);
    for n in 0..6u8 {
        draft.write(u64::from(n), &[n + 1]).unwrap();
        memory.fail_after(Some(0));
        assert!(draft.persist(INO, b"", &store).is_err());
        memory.fail_after(None);
        draft.persist(INO, b"", &store).unwrap();
        // Nothing new: no row.
        draft.persist(INO, b"", &store).unwrap();
        draft = Draft::recover(INO, &store, blocks.clone(), ring(1)).unwrap().unwrap().0;
    }
    assert_eq!(numbers(), [0, 1, 2, 3, 4, 5]);
    assert_eq!(all(&draft), [1, 2, 3, 4, 5, 6]);
    memory.lose(Space::Drafts, &memory.keys(Space::Drafts)[4].clone());
    assert_eq!(numbers(), [0, 1, 2, 4, 5]);
    let mut draft = Draft::recover(INO, &store, blocks.clone(), ring(1)).unwrap().unwrap().0;
    assert_eq!(all(&draft), [1, 2, 3]);
    // Nor once the draft goes on.
    draft.write(0, b"x").unwrap();
    draft.persist(INO, b"", &store).unwrap();
    let mut draft = Draft::recover(INO, &store, blocks.clone(), ring(1)).unwrap().unwrap().0;
    assert_eq!(all(&draft), *b"x\x02\x03");
    draft.write(1, b"y").unwrap();
    draft.persist(INO, b"", &store).unwrap();
    let draft = Draft::recover(INO, &store, blocks, ring(1)).unwrap().unwrap().0;
    assert_eq!(all(&draft), *b"xy\x03");
}

#[test]
fn shared_blocks_carry_their_keys() {
    let (disk, blocks) = memory();
    let source = content(&blocks, &ring(2), &bytes(1, 10 * BLOCK_SIZE + 99));
    let before = disk.names().len();
    let mut copy = empty(&blocks);
    assert!(copy.extra_keys().is_empty());
    assert_eq!(copy.clone_range(&source, &ring(2), 0, 0, u64::MAX).unwrap(), source.size);
    assert_eq!(copy.extra_keys(), [node_key(2)]);
    assert_eq!(copy.finish().unwrap(), source);
    // Nothing new but the one list node, which is the old one again.
    assert_eq!(disk.names().len(), before);

    // Into the middle of a longer file, at a place that blocks can't be shared to.
    let mut other = Draft::new(blocks.clone(), content(&blocks, &ring(1), &bytes(5, 12 * BLOCK_SIZE)), ring(1));
    assert_eq!(other.clone_range(&source, &ring(2), 7, 8, 3 * BLOCK).unwrap(), 3 * BLOCK);
    assert!(other.extra_keys().is_empty());
    assert_eq!(all(&other)[8..][..3 * BLOCK_SIZE], bytes(1, 4 * BLOCK_SIZE)[7..][..3 * BLOCK_SIZE]);

    // Sharing needs no block here, only the list.
    for hash in disk.names() {
        if disk.get(&hash).unwrap().is_some_and(|bytes| bytes.len() > 5000) {
            disk.evict(&hash);
        }
    }
    let mut shared = empty(&blocks);
    assert_eq!(shared.clone_range(&source, &ring(2), 0, 0, source.size).unwrap(), source.size);
    assert_eq!(shared.finish().unwrap(), source);
    shared.truncate(0).unwrap();
    assert!(shared.extra_keys().is_empty());
}

#[test]
fn huge_sparse_files_cost_what_is_in_them() {
    let (disk, blocks) = memory();
    let mut draft = empty(&blocks);
    draft.truncate(MAX_FILE_SIZE).unwrap();
    draft.write(MAX_FILE_SIZE - 1, b"x").unwrap();
    draft.write(5, b"y").unwrap();
    assert!(matches!(draft.write(MAX_FILE_SIZE, b"z"), Err(Error::FileTooLarge)));
    assert!(matches!(draft.truncate(MAX_FILE_SIZE + 1), Err(Error::FileTooLarge)));
    assert!(matches!(draft.write(u64::MAX, b"z"), Err(Error::FileTooLarge)));
    let content = draft.finish().unwrap();
    assert_eq!(content.allocated, 2 * BLOCK);
    assert!(disk.names().len() < 15);
    assert_eq!(blocks.seek_data(&content, BLOCK).unwrap(), MAX_FILE_SIZE - BLOCK);
    assert_eq!(blocks.seek_hole(&content, 7).unwrap(), BLOCK);
    assert_eq!(draft.seek_data(BLOCK).unwrap(), MAX_FILE_SIZE - BLOCK);
    draft.punch(1, MAX_FILE_SIZE).unwrap();
    assert_eq!(draft.allocated(), BLOCK);
    assert!(matches!(draft.seek_data(BLOCK), Err(Error::NoMoreData)));
    draft.truncate(2 * BLOCK).unwrap();
    let content = draft.finish().unwrap();
    assert_eq!(content.allocated, BLOCK);
    assert_eq!(read_all(&blocks, &ring(1), &content), [vec![0; 2 * BLOCK_SIZE]].concat());
}

#[test]
fn a_stream_of_small_writes_is_sealed_as_it_goes() {
    let (disk, blocks) = memory();
    let mut draft = empty(&blocks);
    let data = bytes(1, 40 * BLOCK_SIZE + 1000);
    for (n, piece) in data.chunks(1000).enumerate() {
        draft.write(n as u64 * 1000, piece).unwrap();
        assert!(draft.dirty_bytes() <= 10 * BLOCK_SIZE);
    }
    assert!(disk.names().len() >= 32);
    let content = draft.finish().unwrap();
    assert_eq!(disk.names().len(), 42);
    assert_eq!(read_all(&blocks, &ring(1), &content), data);
}

/// How many stored blocks, patches and list nodes there are.
fn kinds(disk: &MemoryBlocks) -> [usize; 3] {
    let mut kinds = [0; 3];
    for hash in disk.names() {
        match BlockKind::of(&hash, &disk.get(&hash).unwrap().unwrap()).unwrap() {
            BlockKind::Block => kinds[0] += 1,
            BlockKind::Patch { .. } => kinds[1] += 1,
            BlockKind::List => kinds[2] += 1,
        }
    }
    kinds
}

#[test]
fn a_few_units_of_a_full_block_are_a_patch_that_grows_until_it_is_not_worth_it() {
    let (disk, blocks) = memory();
    let mut data = bytes(1, 2 * BLOCK_SIZE);
    let mut draft = Draft::new(blocks.clone(), content(&blocks, &ring(1), &data), ring(1));
    assert_eq!(kinds(&disk), [2, 0, 1]);
    let mut base = None;
    for round in 1..=10usize {
        // One unit more each time, the one before again, and a piece of it that lies in two units.
        let (from, len) = ((round - 1) * 4096, if round == 4 { 4000 } else { 4096 });
        let new = bytes(50 + round as u64, len);
        data[from..from + len].copy_from_slice(&new);
        draft.write(from as u64, &new).unwrap();
        let content = draft.finish().unwrap();
        assert!(read_all(&blocks, &ring(1), &content) == data, "{round}");
        let ContentData::Tree { root, blocks: count } = content.data else { panic!("no tree") };
        let leaf = blocks.leaf_at(root, count, 0).unwrap();
        let stored = disk.get(&leaf).unwrap().unwrap();
        match BlockKind::of(&leaf, &stored) {
            Some(BlockKind::Patch { base: below }) => {
                assert_eq!(stored.len(), 66 + round % 9 * 4112, "{round}");
                assert_eq!(*base.get_or_insert(below), below);
                assert!(round <= 8 || round == 10);
            }
            other => {
                assert_eq!((other, round), (Some(BlockKind::Block), 9));
                base = None;
            }
        }
    }
}

#[test]
fn last_blocks_and_those_over_holes_or_short_ones_are_sealed_whole() {
    let (disk, blocks) = memory();
    let mut draft = empty(&blocks);
    draft.write(0, &bytes(1, BLOCK_SIZE + 20_000)).unwrap();
    draft.finish().unwrap();
    draft.truncate(4 * BLOCK).unwrap();
    draft.finish().unwrap();
    // Over the short one, over a hole, and in the last one.
    for index in 1..4 {
        draft.write(index * BLOCK + 4096, &bytes(index, 4096)).unwrap();
    }
    let content = draft.finish().unwrap();
    assert_eq!(kinds(&disk)[1], 0);
    let all = read_all(&blocks, &ring(1), &content);
    assert_eq!(all[BLOCK_SIZE..][..4096], bytes(1, BLOCK_SIZE + 20_000)[BLOCK_SIZE..][..4096]);
    // A full one becomes the last, cut in its middle.
    draft.write(4096, &[5; 4096]).unwrap();
    draft.finish().unwrap();
    assert_eq!(kinds(&disk)[1], 1);
    draft.truncate(30_000).unwrap();
    let content = draft.finish().unwrap();
    assert_eq!(kinds(&disk)[1], 1);
    assert_eq!(read_all(&blocks, &ring(1), &content)[4096..8192], [5; 4096]);
}

#[test]
fn scattered_small_writes_are_held_and_stored_at_their_own_cost() {
    let (disk, blocks) = memory();
    let count = 1500;
    let base = content(&blocks, &ring(1), &bytes(1, count * BLOCK_SIZE));
    let before = disk.names().len();
    let mut draft = Draft::new(blocks.clone(), base, ring(1));
    for block in 0..count as u64 {
        draft.write(block * BLOCK + block % 16 * 4096, &bytes(block, 4096)).unwrap();
    }
    // None was sealed yet: the budget is for far more blocks than would fit it whole.
    assert_eq!(disk.names().len(), before);
    assert!((count * 4096..count * 5000).contains(&draft.dirty_bytes()));
    let content = draft.finish().unwrap();
    assert_eq!(draft.dirty_bytes(), 0);
    assert_eq!(kinds(&disk)[1], count);
    for block in (0..count as u64).step_by(97) {
        let mut out = Vec::new();
        blocks.read(&content, &ring(1), block * BLOCK + block % 16 * 4096, 4096, &mut out).unwrap();
        assert_eq!(out, bytes(block, 4096));
    }
}

#[test]
fn a_copy_shares_patches_with_the_keys_of_both() {
    let (disk, blocks) = memory();
    let base = content(&blocks, &ring(2), &bytes(1, 3 * BLOCK_SIZE));
    let mut keys = ring(1);
    keys.add(node_key(2));
    let mut source = Draft::new(blocks.clone(), base, keys.clone());
    source.write(BLOCK, &[7; 4096]).unwrap();
    let shown = source.finish().unwrap();
    let before = disk.names().len();
    let mut copy = Draft::new(blocks.clone(), Content::empty(), ring(3));
    assert_eq!(copy.clone_range(&shown, &keys, 0, 0, shown.size).unwrap(), shown.size);
    assert_eq!(copy.extra_keys(), [node_key(1), node_key(2)]);
    assert_eq!(copy.finish().unwrap(), shown);
    assert_eq!(disk.names().len(), before);
    // Patched further under a third key: the units below come along.
    copy.write(BLOCK + 8192, &[8; 4096]).unwrap();
    let content = copy.finish().unwrap();
    let mut ring = ring(3);
    copy.extra_keys().iter().for_each(|key| ring.add(key));
    let mut expected = bytes(1, 3 * BLOCK_SIZE);
    expected[BLOCK_SIZE..][..4096].fill(7);
    expected[BLOCK_SIZE + 8192..][..4096].fill(8);
    assert_eq!(read_all(&blocks, &ring, &content), expected);
    assert_eq!(kinds(&disk)[1], 2);
}
