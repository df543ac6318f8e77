use proptest::{collection::btree_map, prelude::*};

use super::*;
use crate::content::fixture::memory;

/// The list in its one form, computed from all its blocks.
fn naive(leaves: &[BlockHash]) -> BlockHash {
    let mut level = leaves.to_vec();
    for _ in 0..height(leaves.len() as u64) {
        level = level
            .chunks(128)
            .map(|node| match node.iter().all(BlockHash::is_hole) {
                true => BlockHash::HOLE,
                false => BlockHash::of_list(&encode(node)),
            })
            .collect();
    }
    level.first().copied().unwrap_or(BlockHash::HOLE)
}

#[derive(Clone, Debug)]
enum Step {
    Update { blocks: u64, changes: BTreeMap<u64, u8> },
    Clear { from: u64, len: u64 },
}

fn count() -> impl Strategy<Value = u64> {
    prop_oneof![0..4u64, 120..140u64, 0..600u64, 16380..16390u64, 0..20000u64]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (count(), btree_map(count(), 0..3u8, 0..20)).prop_map(|(blocks, changes)| Step::Update { blocks, changes }),
        1 => (count(), count()).prop_map(|(from, len)| Step::Clear { from, len }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn changed_lists_are_those_computed_from_scratch(steps in prop::collection::vec(step(), 1..8)) {
        let (_, blocks) = memory();
        let (mut root, mut leaves) = (BlockHash::HOLE, Vec::new());
        for step in steps {
            let old = leaves.len() as u64;
            match step {
                Step::Update { blocks: new, changes } => {
                    let hash = |n: u8| if n == 0 { BlockHash::HOLE } else { BlockHash::of_block(&[n]) };
                    let changes = changes.into_iter().map(|(index, n)| (index, hash(n))).collect();
                    root = update(&blocks, root, old, new, &changes).unwrap();
                    leaves.resize(new as usize, BlockHash::HOLE);
                    for (index, hash) in changes {
                        if let Some(leaf) = leaves.get_mut(index as usize) {
                            *leaf = hash;
                        }
                    }
                }
                Step::Clear { from, len } => {
                    root = clear(&blocks, root, old, from..from + len).unwrap();
                    let range = from.min(old) as usize..(from + len).min(old) as usize;
                    leaves[range].fill(BlockHash::HOLE);
                }
            }
            prop_assert_eq!(root, naive(&leaves));
            let count = leaves.len() as u64;
            for from in [0, 1, 127, 128, count / 2, count.saturating_sub(1), count] {
                for data in [false, true] {
                    let wanted = (from..count).find(|i| leaves[*i as usize].is_hole() != data);
                    prop_assert_eq!(next(&blocks, root, count, from, data).unwrap(), wanted);
                }
                let data = leaves[from.min(count) as usize..].iter().filter(|hash| !hash.is_hole()).count();
                prop_assert_eq!(count_data(&blocks, root, count, from..count).unwrap(), data as u64);
                if from < count {
                    prop_assert_eq!(blocks.leaf_at(root, count, from).unwrap(), leaves[from as usize]);
                }
            }
        }
    }
}

#[test]
fn a_change_in_a_huge_file_writes_one_node_per_level() {
    let (store, blocks) = memory();
    let count = 1 << 30;
    let one = |index| BTreeMap::from([(index, BlockHash::of_block(b"x"))]);
    let root = update(&blocks, BlockHash::HOLE, 0, count, &one(count - 1)).unwrap();
    assert_eq!(store.names().len(), 5);
    let root = update(&blocks, root, count, count, &one(0)).unwrap();
    assert_eq!(store.names().len(), 10);
    assert_eq!(update(&blocks, root, count, count, &BTreeMap::new()).unwrap(), root);
    assert_eq!(store.names().len(), 10);
    assert_eq!(next(&blocks, root, count, 1, true).unwrap(), Some(count - 1));
    assert_eq!(clear(&blocks, root, count, 0..count).unwrap(), BlockHash::HOLE);
}
