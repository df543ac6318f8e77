use std::collections::HashSet;

use crypto::PAGE_SIZE;
use proptest::prelude::*;

use super::*;
use crate::content::{
    Draft, LIST_NODE_MAX, MemoryBlocks,
    fixture::{bytes, content, memory, node_key, patched, read_all, ring},
    list::encode,
};

fn tree(size: u64, root: BlockHash) -> Content {
    Content { size, allocated: size, data: ContentData::Tree { root, blocks: size.div_ceil(BLOCK) } }
}

#[test]
fn a_content_arrives_block_by_block_parents_first() {
    let (source, sender) = memory();
    let (_, receiver) = memory();
    let keys = ring(1);
    let bytes = bytes(3, 300 * BLOCK_SIZE + 77);
    let content = content(&sender, &keys, &bytes);
    let mut wanted = HashSet::new();
    let mut rounds = 0;
    loop {
        let absent = receiver.absent(&content, 40).unwrap();
        if absent.is_empty() {
            break;
        }
        assert!(absent.len() <= 40 + 128);
        for hash in absent {
            assert!(wanted.insert(hash), "asked for twice");
            receiver.put_received(&hash, &source.get(&hash).unwrap().unwrap()).unwrap();
        }
        rounds += 1;
    }
    assert_eq!(wanted.len(), 301 + 3 + 1);
    assert!(rounds >= 3);
    assert_eq!(read_all(&receiver, &keys, &content), bytes);
}

#[test]
fn only_bytes_that_bear_their_name_are_taken() {
    let (source, blocks) = memory();
    let hash = blocks.seal_put(&ring(1), b"hello").unwrap();
    let stored = source.get(&hash).unwrap().unwrap();
    let (_, other) = memory();
    assert_eq!(other.put_received(&hash, &stored).unwrap(), BlockKind::Block);
    let node = encode(&[hash, hash]);
    assert_eq!(other.put_received(&BlockHash::of_list(&node), &node).unwrap(), BlockKind::List);

    let refused = |hash: BlockHash, bytes: &[u8]| {
        let (store, blocks) = memory();
        assert!(matches!(blocks.put_received(&hash, bytes), Err(Error::Damaged(_))));
        assert!(store.names().is_empty());
    };
    let mut flipped = stored.clone();
    flipped[30] ^= 1;
    refused(hash, &flipped);
    refused(hash, &stored[..stored.len() - 1]);
    refused(BlockHash::of_list(&stored), &stored[..]);
    refused(BlockHash::of_block(b""), b"");
    refused(BlockHash::of_list(b""), b"");
    let long = vec![0; crypto::stored_len(BLOCK_SIZE) + 1];
    refused(BlockHash::of_block(&long), &long);
    let long_node = vec![1; LIST_NODE_MAX + 32];
    refused(BlockHash::of_list(&long_node), &long_node);
}

#[test]
fn lists_in_another_form_are_damage() {
    let (_, blocks) = memory();
    let leaf = blocks.seal_put(&ring(1), &[1; BLOCK_SIZE]).unwrap();
    let put = |node: &[u8]| {
        let hash = BlockHash::of_list(node);
        blocks.put_received(&hash, node).unwrap();
        hash
    };
    let check = |size: u64, node: Vec<u8>| {
        let content = tree(size, put(&node));
        assert!(matches!(blocks.absent(&content, 9), Err(Error::Damaged(_))));
        let mut out = vec![9];
        assert!(matches!(blocks.read(&content, &ring(1), 0, 10, &mut out), Err(Error::Damaged(_))));
        assert_eq!(out, [9]);
    };
    check(2 * BLOCK, encode(&[leaf; 3]));
    check(3 * BLOCK, encode(&[leaf; 2]));
    check(2 * BLOCK, encode(&[BlockHash::HOLE; 2]));
    // A list node where a block should be is found out when it is opened.
    let node = put(&encode(&[leaf; 2]));
    assert!(blocks.read(&tree(BLOCK, node), &ring(1), 0, 10, &mut Vec::new()).is_err());
    // A node of the right form, read as a place of another size.
    assert!(blocks.absent(&tree(2 * BLOCK, node), 9).unwrap().is_empty());
    assert!(blocks.absent(&tree(3 * BLOCK, node), 9).is_err());
}

#[test]
fn a_read_names_all_that_is_absent_of_its_range() {
    let (store, blocks) = memory();
    let keys = ring(1);
    let data = bytes(1, 5 * BLOCK_SIZE);
    let content = content(&blocks, &keys, &data);
    let ContentData::Tree { root, blocks: count } = content.data else { panic!("no tree") };
    let leaves: Vec<_> = (0..5).map(|i| blocks.leaf_at(root, count, i).unwrap()).collect();
    store.evict(&leaves[1]);
    store.evict(&leaves[3]);
    let mut out = vec![5];
    let absent = |result: Result<()>| match result {
        Err(Error::Absent(hashes)) => hashes,
        other => panic!("{other:?}"),
    };
    assert_eq!(absent(blocks.read(&content, &keys, 0, usize::MAX, &mut out)), [leaves[1], leaves[3]]);
    assert_eq!(absent(blocks.read(&content, &keys, BLOCK + 5, 100, &mut out)), [leaves[1]]);
    assert_eq!(out, [5]);
    blocks.read(&content, &keys, 2 * BLOCK, BLOCK_SIZE, &mut out).unwrap();
    assert_eq!(out[1..], data[2 * BLOCK_SIZE..3 * BLOCK_SIZE]);
    // A fresh cache: the list isn't here either.
    store.evict(&root);
    let blocks = Blocks::new(store, Arc::new(crypto::OsEntropy));
    assert_eq!(absent(blocks.read(&content, &keys, 0, 10, &mut out)), [root]);
    assert_eq!(blocks.absent(&content, 10).unwrap(), [root]);
}

#[test]
fn blocks_open_only_with_a_key_of_the_ring_also_when_lately_opened() {
    let (_, blocks) = memory();
    let data = bytes(1, 3 * PAGE_SIZE);
    let content = content(&blocks, &ring(1), &data);
    let mut out = Vec::new();
    for page in 0..3 {
        blocks.read(&content, &ring(1), (page * PAGE_SIZE) as u64, PAGE_SIZE, &mut out).unwrap();
    }
    assert_eq!(out, data);
    assert!(matches!(blocks.read(&content, &ring(2), 0, 100, &mut out), Err(Error::Damaged(_))));
    assert_eq!(out.len(), data.len());
}

/// The only block of a file with a patch over it, and the patch's base.
fn patch_and_base(store: &MemoryBlocks, content: &Content) -> (BlockHash, BlockHash) {
    let ContentData::Tree { root, .. } = content.data else { panic!("no tree") };
    let stored = store.get(&root).unwrap().unwrap();
    match BlockKind::of(&root, &stored) {
        Some(BlockKind::Patch { base }) => (root, base),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_patch_comes_before_its_base_and_needs_it() {
    let (source, sender) = memory();
    let (content, data) = patched(&sender, &ring(1), BLOCK_SIZE, &[2, 3, 9]);
    let (patch, base) = patch_and_base(&source, &content);
    let (store, receiver) = memory();
    let absent = |expected: BlockHash| {
        assert_eq!(receiver.absent(&content, 9).unwrap(), [expected]);
        for (offset, len) in [(0, 100), (2 * 4096, 2 * 4096 + 1), (0, BLOCK_SIZE)] {
            let result = receiver.read(&content, &ring(1), offset, len, &mut Vec::new());
            assert!(matches!(result, Err(Error::Absent(hashes)) if hashes == [expected]));
        }
        let mut draft = Draft::new(receiver.clone(), content.clone(), ring(1));
        assert!(matches!(draft.write(4096, &[1; 4096]), Err(Error::Absent(hashes)) if hashes == [expected]));
        let stored = source.get(&expected).unwrap().unwrap();
        receiver.put_received(&expected, &stored).unwrap()
    };
    assert_eq!(absent(patch), BlockKind::Patch { base });
    assert_eq!(absent(base), BlockKind::Block);
    assert!(receiver.absent(&content, 9).unwrap().is_empty());
    assert_eq!(read_all(&receiver, &ring(1), &content), data);
    // What is in the patch needs no base.
    store.evict(&base);
    let mut out = Vec::new();
    receiver.read(&content, &ring(1), 2 * 4096 + 5, 4096, &mut out).unwrap();
    assert_eq!(out, data[2 * 4096 + 5..][..4096]);
}

#[test]
fn a_patch_lies_over_a_full_plain_block_or_is_damage() {
    let (store, blocks) = memory();
    let (over, _) = patched(&blocks, &ring(1), BLOCK_SIZE, &[1]);
    let short = content(&blocks, &ring(1), &bytes(1, BLOCK_SIZE / 2));
    let node = encode(&[BlockHash::from_bytes([1; 32]); 2]);
    blocks.put_received(&BlockHash::of_list(&node), &node).unwrap();
    let key = ring(1).current().block_key().clone();
    for content in [&over, &short, &tree(BLOCK, BlockHash::of_list(&node))] {
        let ContentData::Tree { root: base, .. } = content.data else { panic!("no tree") };
        assert!(store.get(&base).unwrap().is_some());
        let mut stored = Vec::new();
        crypto::seal_patch(&key, base.as_bytes(), 1, [&[7; 4096]], &crypto::OsEntropy, &mut stored);
        let patch = BlockHash::of_patch(&stored);
        blocks.put_received(&patch, &stored).unwrap();
        let content = tree(BLOCK, patch);
        assert!(matches!(blocks.read(&content, &ring(1), 0, 5000, &mut Vec::new()), Err(Error::Damaged(_))));
        let mut draft = Draft::new(blocks.clone(), content, ring(1));
        // Sealing merges what is in the two patches, and whole blocks are not known.
        let outcome = draft.write(9, b"x").and_then(|()| draft.write(5000, b"y"));
        assert!(matches!(outcome, Err(Error::Damaged(_))));
    }
}

#[test]
fn patches_in_another_form_or_under_another_name_are_refused() {
    let (source, blocks) = memory();
    let (content, _) = patched(&blocks, &ring(1), BLOCK_SIZE, &[0, 5]);
    let (patch, _) = patch_and_base(&source, &content);
    let stored = source.get(&patch).unwrap().unwrap();
    let refused = |hash: BlockHash, bytes: &[u8]| {
        let (store, blocks) = memory();
        assert!(matches!(blocks.put_received(&hash, bytes), Err(Error::Damaged(_))));
        assert!(store.names().is_empty());
    };
    let named = |bytes: &[u8]| {
        refused(BlockHash::of_patch(bytes), bytes);
        refused(BlockHash::of_block(bytes), bytes);
        refused(BlockHash::of_list(bytes), bytes);
    };
    // A patch's own bytes under other labels, and a block's under the patch's.
    refused(BlockHash::of_block(&stored), &stored);
    refused(BlockHash::of_list(&stored), &stored);
    let block = blocks.seal_put(&ring(1), &[1; 9000]).unwrap();
    let block = source.get(&block).unwrap().unwrap();
    refused(BlockHash::of_patch(&block), &block);
    // Another length, no units, all units.
    named(&stored[..stored.len() - 1]);
    named(&[&stored[..], &[0]].concat());
    for units in [0u16, 1, 0b111, u16::MAX] {
        let mut other = stored.clone();
        other[64..66].copy_from_slice(&units.to_le_bytes());
        named(&other);
    }
    // Of a block's length, so that only its beginning tells.
    let mut block = block;
    block[..8].copy_from_slice(b"P2PFSPCH");
    named(&block);
}

/// Its first child's name is chosen so that its row seems to be a patch's.
#[test]
fn a_list_node_that_begins_as_a_patch_is_damage_where_a_block_belongs() {
    let (store, blocks) = memory();
    let mut node = encode(&[BlockHash::from_bytes([1; 32]); 2]);
    node[..8].copy_from_slice(b"P2PFSPCH");
    let hash = BlockHash::of_list(&node);
    assert_eq!(blocks.put_received(&hash, &node).unwrap(), BlockKind::List);
    let content = tree(BLOCK, hash);
    assert!(matches!(blocks.absent(&content, 9), Err(Error::Damaged(_))));
    assert!(matches!(blocks.read(&content, &ring(1), 0, 9, &mut Vec::new()), Err(Error::Damaged(_))));
    assert!(store.get(&hash).unwrap().is_some());
    // In its own place it is a list node like any other.
    assert!(blocks.list_node(&hash, 2).is_ok());
}

#[test]
fn a_changed_patch_is_as_one_that_never_came() {
    for at in [0, 10, 25, 40, 64, 65, 66, 5000] {
        let (store, blocks) = memory();
        let (content, data) = patched(&blocks, &ring(1), BLOCK_SIZE, &[2, 3, 9]);
        let (patch, _) = patch_and_base(&store, &content);
        let stored = store.get(&patch).unwrap().unwrap();
        let mut changed = stored.clone();
        changed[at] ^= 1;
        // The first bytes are the row's, which nobody can change.
        if at < 24 {
            changed = stored.clone();
        }
        store.evict(&patch);
        store.put(&patch, &changed).unwrap();
        for fresh in [false, true] {
            let blocks = if fresh { Blocks::new(store.clone(), Arc::new(crypto::OsEntropy)) } else { blocks.clone() };
            let mut out = Vec::new();
            match blocks.read(&content, &ring(1), 0, BLOCK_SIZE, &mut out) {
                // A header that was known already is not read again.
                Ok(()) => assert!(out == data && (at < 24 || at < 66 && !fresh), "byte {at}"),
                Err(Error::Absent(hashes)) => assert_eq!(hashes, [patch]),
                Err(other) => panic!("{other}"),
            }
        }
        store.put(&patch, &stored).unwrap();
        assert_eq!(read_all(&blocks, &ring(1), &content), data);
    }
}

#[test]
fn a_patch_needs_its_own_key_and_its_base_s() {
    let (_, blocks) = memory();
    let data = bytes(1, BLOCK_SIZE);
    let base = content(&blocks, &ring(2), &data);
    let mut both = ring(1);
    both.add(node_key(2));
    let mut draft = Draft::new(blocks.clone(), base, both.clone());
    draft.write(4096, &[9; 4096]).unwrap();
    let content = draft.finish().unwrap();
    let mut expected = data;
    expected[4096..8192].fill(9);
    // In pieces, so that it is remembered too.
    for step in [BLOCK_SIZE, 3000] {
        for at in (0..BLOCK_SIZE).step_by(step) {
            let mut out = Vec::new();
            blocks.read(&content, &both, at as u64, step, &mut out).unwrap();
            assert_eq!(out, expected[at..expected.len().min(at + step)]);
        }
    }
    for one in [1, 2] {
        assert!(matches!(blocks.read(&content, &ring(one), 0, 5000, &mut Vec::new()), Err(Error::Damaged(_))));
    }
}

#[test]
fn sizes_of_last_blocks_are_padded() {
    let (store, blocks) = memory();
    let lengths: HashSet<_> = (16_385..16_448)
        .map(|len| {
            let content = content(&blocks, &ring(1), &bytes(1, len));
            let ContentData::Tree { root, .. } = content.data else { panic!("no tree") };
            assert_eq!(read_all(&blocks, &ring(1), &content).len(), len);
            store.get(&root).unwrap().unwrap().len()
        })
        .collect();
    assert_eq!(lengths.len(), 1);
}

#[test]
fn a_damaged_list_node_or_block_is_never_used() {
    struct Rotten(MemoryBlocks);
    impl BlockStore for Rotten {
        fn head(&self, hash: &BlockHash) -> Result<Option<crate::content::BlockHead>> {
            self.0.head(hash)
        }
        fn read(&self, hash: &BlockHash, offset: usize, out: &mut [u8]) -> Result<bool> {
            let found = self.0.read(hash, offset, out)?;
            out[out.len() / 2] ^= 4;
            Ok(found)
        }
        fn put_many(&self, blocks: &[(BlockHash, &[u8])]) -> Result<()> {
            self.0.put_many(blocks)
        }
        fn set_aside(&self, hash: &BlockHash) -> Result<()> {
            self.0.set_aside(hash)
        }
        fn names(&self, from: &BlockHash, limit: usize) -> Result<Vec<(BlockHash, crate::content::BlockHead)>> {
            BlockStore::names(&self.0, from, limit)
        }
        fn remove(&self, hashes: &[BlockHash]) -> Result<()> {
            self.0.remove(hashes)
        }
        fn give_back(&self, pace: &mut dyn FnMut() -> bool) -> Result<()> {
            self.0.give_back(pace)
        }
        fn sync(&self) -> Result<()> {
            self.0.sync()
        }
        fn unsynced(&self) -> Result<Option<Vec<u8>>> {
            self.0.unsynced()
        }
        fn are_here(&self, mark: &[u8]) -> Result<bool> {
            self.0.are_here(mark)
        }
    }
    let store = Arc::new(Rotten(MemoryBlocks::new()));
    let writer = Blocks::new(store.clone(), Arc::new(crypto::OsEntropy));
    let list = content(&writer, &ring(1), &bytes(1, 2 * BLOCK_SIZE));
    let block = content(&writer, &ring(1), &bytes(1, BLOCK_SIZE));
    let reader = Blocks::new(store, Arc::new(crypto::OsEntropy));
    for content in [list, block] {
        let ContentData::Tree { root, .. } = content.data else { panic!("no tree") };
        assert!(matches!(reader.get_checked(&root), Err(Error::Damaged(_))));
        // As one that isn't here: it is fetched again.
        assert!(matches!(reader.read(&content, &ring(1), 0, 10, &mut Vec::new()), Err(Error::Absent(_))));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_range_reads_as_written(reads in prop::collection::vec((0..200_000u64, 0..150_000usize), 1..20)) {
        let (_, blocks) = memory();
        let keys = ring(1);
        let data = bytes(9, 170_001);
        let content = content(&blocks, &keys, &data);
        for (offset, len) in reads {
            let mut out = vec![1, 2];
            blocks.read(&content, &keys, offset, len, &mut out).unwrap();
            let from = data.len().min(offset as usize);
            prop_assert_eq!(&out[2..], &data[from..data.len().min(from + len)]);
        }
    }

    #[test]
    fn small_reads_in_a_row_are_right_too(step in 1..5000usize) {
        let (_, blocks) = memory();
        let keys = ring(1);
        let data = bytes(9, 70_000);
        let content = content(&blocks, &keys, &data);
        let mut out = Vec::new();
        while out.len() < data.len() {
            let at = out.len() as u64;
            blocks.read(&content, &keys, at, step, &mut out).unwrap();
        }
        prop_assert_eq!(out, data);
    }

    #[test]
    fn any_range_reads_through_patches(
        units in prop::collection::vec(0..40usize, 1..12),
        reads in prop::collection::vec((0..200_000u64, 0..150_000usize), 1..20),
        step in 1..9000usize,
    ) {
        let (_, blocks) = memory();
        let keys = ring(1);
        let (content, data) = patched(&blocks, &keys, 170_001, &units);
        for (offset, len) in reads {
            let mut out = vec![1, 2];
            blocks.read(&content, &keys, offset, len, &mut out).unwrap();
            let from = data.len().min(offset as usize);
            prop_assert_eq!(&out[2..], &data[from..data.len().min(from + len)]);
        }
        let mut out = Vec::new();
        while out.len() < data.len() {
            let at = out.len() as u64;
            blocks.read(&content, &keys, at, step, &mut out).unwrap();
        }
        prop_assert_eq!(out, data);
    }

    #[test]
    fn received_bytes_never_panic(hash: [u8; 32], bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let (_, blocks) = memory();
        prop_assert!(blocks.put_received(&BlockHash::from_bytes(hash), &bytes).is_err());
        // And whatever a stranger's content claims, it is read or refused.
        blocks.put_received(&BlockHash::of_list(&bytes), &bytes).ok();
        let content = tree(1 << 20, BlockHash::of_list(&bytes));
        prop_assert!(blocks.read(&content, &ring(1), 0, 9, &mut Vec::new()).is_err());
        let mut draft = Draft::new(blocks, content, ring(1));
        prop_assert!(draft.write(5, b"x").is_err());
        prop_assert!(draft.truncate(9).is_err());
    }
}
