use std::collections::HashSet;

use crypto::PAGE_SIZE;
use proptest::prelude::*;

use super::*;
use crate::content::{
    Draft, MemoryBlocks,
    fixture::{bytes, content, memory, read_all, ring},
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
