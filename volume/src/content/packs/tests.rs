use std::sync::Arc;

use crypto::BLOCK_SIZE;
use tempfile::TempDir;

use super::*;
use crate::content::{
    Blocks, Draft,
    fixture::{bytes, content, memory, patched, read_all, ring, sealed},
};

fn block(n: u64) -> (BlockHash, Vec<u8>) {
    let bytes = bytes(n, 1000 + n as usize);
    (BlockHash::of_block(&bytes), bytes)
}

fn put(packs: &Packs, numbers: std::ops::Range<u64>) {
    for (hash, bytes) in numbers.map(block) {
        packs.put(&hash, &bytes).unwrap();
    }
}

/// Checks which of the blocks are there, and that they are right.
fn check(packs: &Packs, here: std::ops::Range<u64>, gone: std::ops::Range<u64>) {
    for (hash, bytes) in here.map(block) {
        assert_eq!(packs.get(&hash).unwrap(), Some(bytes));
    }
    for (hash, _) in gone.map(block) {
        assert_eq!(packs.get(&hash).unwrap(), None);
        assert!(!packs.contains(&hash).unwrap());
    }
}

/// The length of pack `number`, and a way to change it.
fn pack_file(dir: &TempDir, number: u32) -> (u64, File) {
    let file = OpenOptions::new().read(true).write(true).open(format::path(dir.path(), number)).unwrap();
    (file.metadata().unwrap().len(), file)
}

#[test]
fn blocks_are_there_again_after_closing_and_go_on_in_the_same_pack() {
    let (dir, (_, store)) = (TempDir::new().unwrap(), sealed());
    let packs = Packs::open(dir.path(), &store).unwrap();
    put(&packs, 0..10);
    let many: Vec<_> = (10..20).map(block).collect();
    packs.put_many(&many.iter().map(|(hash, bytes)| (*hash, bytes.as_slice())).collect::<Vec<_>>()).unwrap();
    check(&packs, 0..20, 20..21);
    packs.close().unwrap();
    drop(packs);
    for round in 0..3 {
        let packs = Packs::open(dir.path(), &store).unwrap();
        assert_eq!(packs.recovery(), Recovery::default());
        check(&packs, 0..20 + round, 20 + round..30);
        put(&packs, 20 + round..21 + round);
        packs.close().unwrap();
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

/// What is forgotten of a pack while these blocks are read.
fn forgotten(reads: impl IntoIterator<Item = u64>) -> Vec<u64> {
    let mut reading = Reading::default();
    let past = reads.into_iter().filter_map(|n| reading.read(7, n * 65_728 + 56, (n + 1) * 65_728 + 16));
    let starts = past.map(|(pack, range)| {
        assert!(pack == 7 && range.end == range.start + PART && range.start.is_multiple_of(PART));
        range.start / PART
    });
    starts.collect()
}

#[test]
fn who_reads_on_and_on_has_no_second_copy_in_memory() {
    // 2000 blocks lie in 32 parts; those read last stay.
    let all_but_the_last: Vec<u64> = (0..32 - PARTS as u64).collect();
    assert_eq!(forgotten(0..2000), all_but_the_last);
    // Several threads, each with a request of its own, or as blocks lie that came in this way.
    let mut side_by_side = forgotten((0..2000).map(|n| n ^ 0x7f).filter(|n| *n < 2000));
    side_by_side.sort_unstable();
    assert_eq!(side_by_side, all_but_the_last);
}

#[test]
fn who_reads_here_and_there_has_pages_kept() {
    assert_eq!(forgotten((0..2000).map(|n| n * 7919 % 2000)), [0_u64; 0]);
    // Most of each part, but not all.
    assert_eq!(forgotten((0..2000).filter(|n| n % 8 != 0)), [0_u64; 0]);
}

#[test]
fn the_death_of_the_process_loses_nothing() {
    let (dir, (_, store)) = (TempDir::new().unwrap(), sealed());
    for round in 0..4 {
        let packs = Packs::open_with(dir.path(), &store, 5000).unwrap();
        assert_eq!(packs.recovery().cut, 0);
        check(&packs, 0..round * 10, round * 10..50);
        put(&packs, round * 10..round * 10 + 10);
        if round == 2 {
            packs.sync().unwrap();
        }
    }
    assert!(fs::read_dir(dir.path()).unwrap().count() > 4);
}

#[test]
fn a_torn_tail_is_cut_off_and_its_rows_lead_nowhere() {
    // Cut inside the last block, inside a header, a byte flipped in the middle, all but the pack's header gone.
    type Damage = fn(&File, u64);
    let damages: [(&str, Damage, u64); 5] = [
        ("last byte gone", |file, len| file.set_len(len - 1).unwrap(), 9),
        ("last header torn", |file, len| file.set_len(len - 1009 - 20).unwrap(), 9),
        ("zeros in the middle", |file, len| file.write_all_at(&[0; 5000], len - 6000).unwrap(), 4),
        ("empty", |file, _| file.set_len(0).unwrap(), 0),
        ("only a header", |file, _| file.set_len(PACK_HEADER).unwrap(), 0),
    ];
    for (name, damage, left) in damages {
        let (dir, (_, store)) = (TempDir::new().unwrap(), sealed());
        put(&Packs::open(dir.path(), &store).unwrap(), 0..10);
        // A content was published that needs them.
        let mut batch = Batch::new();
        store.put(&mut batch, Space::Meta, b"undo/", b"");
        store.apply(batch).unwrap();
        let (len, file) = pack_file(&dir, 0);
        damage(&file, len);
        let packs = Packs::open(dir.path(), &store).unwrap();
        assert_eq!(packs.recovery().checked, left, "{name}");
        check(&packs, 0..left, left..10);
        // What is lost can be put again, and what is new never lies where a lost one was.
        put(&packs, left..20);
        check(&packs, 0..20, 20..21);
        drop(packs);
        let packs = Packs::open(dir.path(), &store).unwrap();
        assert_eq!(packs.recovery().cut, 0, "{name}");
        check(&packs, 0..20, 20..21);
    }
}

#[test]
fn what_was_synced_and_recorded_is_not_checked_again() {
    let (dir, (_, store)) = (TempDir::new().unwrap(), sealed());
    let packs = Packs::open(dir.path(), &store).unwrap();
    put(&packs, 0..10);
    packs.close().unwrap();
    put(&packs, 10..13);
    drop(packs);
    let packs = Packs::open(dir.path(), &store).unwrap();
    assert_eq!(packs.recovery(), Recovery { checked: 3, indexed: 0, cut: 0 });
    check(&packs, 0..13, 13..20);
}

#[test]
fn a_lost_index_is_made_again_and_a_lost_pack_only_loses_its_blocks() {
    let (dir, (_, store)) = (TempDir::new().unwrap(), sealed());
    let packs = Packs::open_with(dir.path(), &store, 5000).unwrap();
    put(&packs, 0..10);
    drop(packs);
    let (_, empty) = sealed();
    let packs = Packs::open(dir.path(), &empty).unwrap();
    assert_eq!(packs.recovery(), Recovery { checked: 10, indexed: 10, cut: 0 });
    check(&packs, 0..10, 10..11);
    drop(packs);
    fs::remove_file(format::path(dir.path(), 1)).unwrap();
    let packs = Packs::open(dir.path(), &empty).unwrap();
    let here = (0..10).filter(|n| packs.contains(&block(*n).0).unwrap()).count();
    assert!((4..9).contains(&here), "{here}");
}

#[test]
fn with_a_lost_index_damage_costs_the_blocks_that_it_hit_and_no_other() {
    for at in [3, PACK_HEADER + 2, PACK_HEADER + 6, PACK_HEADER + 20, 3000, 5000] {
        let (dir, (_, store)) = (TempDir::new().unwrap(), sealed());
        let packs = Packs::open(dir.path(), &store).unwrap();
        put(&packs, 0..20);
        drop(packs);
        let (len, file) = pack_file(&dir, 0);
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 8], at).unwrap();
        let (_, empty) = sealed();
        let packs = Packs::open(dir.path(), &empty).unwrap();
        let here = (0..20).filter(|n| packs.contains(&block(*n).0).unwrap()).count();
        assert!(here >= 19, "a flip at {at} leaves {here}");
        assert_eq!(pack_file(&dir, 0).0, len, "nothing is cut off");
        // What is new goes elsewhere.
        put(&packs, 20..22);
        check(&packs, 20..22, 22..23);
    }
}

/// After the death of the process a block that broke takes none along that lie behind it, nor does the header.
#[test]
fn a_flipped_bit_costs_one_block_after_a_crash_too() {
    for at in [3, 8, 12, PACK_HEADER + 2, PACK_HEADER + 6, PACK_HEADER + 20, 3000, 5000] {
        let (dir, (_, store)) = (TempDir::new().unwrap(), sealed());
        put(&Packs::open(dir.path(), &store).unwrap(), 0..20);
        let (len, file) = pack_file(&dir, 0);
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 8], at).unwrap();
        let packs = Packs::open(dir.path(), &store).unwrap();
        let here: Vec<u64> = (0..20).filter(|n| packs.contains(&block(*n).0).unwrap()).collect();
        assert!(here.len() >= 19, "a flip at {at} leaves {here:?}");
        here.iter().for_each(|n| check(&packs, *n..n + 1, 20..21));
        assert_eq!(pack_file(&dir, 0).0, len, "nothing is cut off");
        assert!(here.len() == 20 || packs.recovery().checked == 19);
        put(&packs, 20..22);
        check(&packs, 20..22, 22..23);
    }
}

#[test]
fn rows_that_power_loss_took_are_made_again_where_the_blocks_remain() {
    let (dir, (memory, store)) = (TempDir::new().unwrap(), sealed());
    let packs = Packs::open(dir.path(), &store).unwrap();
    put(&packs, 0..10);
    drop(packs);
    // The row that the pack exists remains, and those of the first five blocks.
    memory.lose_power(6);
    let packs = Packs::open(dir.path(), &store).unwrap();
    assert_eq!(packs.recovery(), Recovery { checked: 10, indexed: 5, cut: 0 });
    check(&packs, 0..10, 10..11);
}

#[test]
fn a_pack_of_a_newer_version_is_refused() {
    let (dir, (_, store)) = (TempDir::new().unwrap(), sealed());
    put(&Packs::open(dir.path(), &store).unwrap(), 0..1);
    pack_file(&dir, 0).1.write_all_at(&[2], 8).unwrap();
    let error = Packs::open(dir.path(), &store).err().unwrap().to_string();
    assert!(error.contains("version 2"), "{error}");
    assert_eq!(pack_file(&dir, 0).0, PACK_HEADER + RECORD_HEADER + 1000);
}

#[test]
fn blocks_exchanged_on_the_disk_do_not_open() {
    let (dir, (_, store)) = (TempDir::new().unwrap(), sealed());
    let packs = Arc::new(Packs::open(dir.path(), &store).unwrap());
    let keys = ring(1);
    let blocks = Blocks::new(packs.clone(), Arc::new(crypto::OsEntropy));
    let [a, b] = [1, 2].map(|seed| content(&blocks, &keys, &bytes(seed, 60_000)));
    assert_eq!(read_all(&blocks, &keys, &a), bytes(1, 60_000));
    // Both are whole blocks under the same key; only their places are exchanged.
    let (len, file) = pack_file(&dir, 0);
    let half = (len - PACK_HEADER) as usize / 2;
    let mut bytes = vec![0; 2 * half];
    file.read_exact_at(&mut bytes, PACK_HEADER).unwrap();
    bytes.rotate_left(half);
    file.write_all_at(&bytes, PACK_HEADER).unwrap();
    for content in [a, b] {
        for (offset, len) in [(0, 60_000), (20_000, 100)] {
            assert!(matches!(blocks.read(&content, &keys, offset, len, &mut Vec::new()), Err(Error::Absent(_))));
        }
    }
}

/// Two patches of one length over one base, of the same units: of their places and of what is in them nothing else differs.
#[test]
fn patches_exchanged_on_the_disk_do_not_open() {
    let (dir, (_, store)) = (TempDir::new().unwrap(), sealed());
    let packs = Arc::new(Packs::open(dir.path(), &store).unwrap());
    let keys = ring(1);
    let entropy = || Arc::new(crypto::OsEntropy);
    let blocks = Blocks::new(packs.clone(), entropy());
    let (a, data) = patched(&blocks, &keys, BLOCK_SIZE, &[1, 6]);
    let mut draft = Draft::new(blocks.clone(), a.clone(), keys.clone());
    draft.write(4096, &[3; 4096]).unwrap();
    let b = draft.finish().unwrap();
    // A whole block, then the two.
    let (len, file) = pack_file(&dir, 0);
    let start = PACK_HEADER + RECORD_HEADER + crypto::stored_len(BLOCK_SIZE) as u64;
    let record = (len - start) as usize / 2;
    assert!(record < 10_000);
    let mut stored = vec![0; 2 * record];
    file.read_exact_at(&mut stored, start).unwrap();
    let whole = stored.clone();
    stored.rotate_left(record);
    file.write_all_at(&stored, start).unwrap();
    // Whether the headers are known already or not.
    let fresh = Blocks::new(packs.clone(), entropy());
    for (blocks, offset, len) in [(&blocks, 4096, 100), (&fresh, 0, BLOCK_SIZE), (&fresh, 0, 100)] {
        for content in [&a, &b] {
            let read = blocks.read(content, &keys, offset, len, &mut Vec::new());
            assert!(matches!(read, Err(Error::Absent(_))), "{offset}");
        }
    }
    file.write_all_at(&whole, start).unwrap();
    assert_eq!(packs.reconsider().unwrap(), 2);
    assert_eq!(read_all(&blocks, &keys, &a), data);
    // A lost index is made again, patches included.
    drop((blocks, fresh));
    drop(packs);
    let (_, store) = sealed();
    let packs = Packs::open(dir.path(), &store).unwrap();
    assert_eq!(packs.recovery().indexed, 3);
    assert_eq!(read_all(&Blocks::new(Arc::new(packs), entropy()), &keys, &a), data);
}

#[test]
fn a_sync_without_anything_new_does_nothing_and_many_share_one() {
    let (dir, (_, store)) = (TempDir::new().unwrap(), sealed());
    let packs = Packs::open_with(dir.path(), &store, 20_000).unwrap();
    packs.sync().unwrap();
    assert!(fs::read_dir(dir.path()).unwrap().next().is_none());
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let packs = &packs;
            scope.spawn(move || {
                for n in thread * 25..thread * 25 + 25 {
                    put(packs, n..n + 1);
                    packs.sync().unwrap();
                }
            });
        }
    });
    check(&packs, 0..100, 100..101);
    assert_eq!(packs.synced.lock().appends, 100);
    drop(packs);
    let packs = Packs::open_with(dir.path(), &store, 20_000).unwrap();
    assert_eq!(packs.recovery().cut, 0);
    check(&packs, 0..100, 100..101);
}

#[test]
fn bytes_that_are_no_block_are_not_kept() {
    let (dir, (_, store)) = (TempDir::new().unwrap(), sealed());
    let packs = Packs::open(dir.path(), &store).unwrap();
    let (hash, _) = block(1);
    assert!(packs.put(&hash, &[]).is_err());
    assert!(packs.put(&hash, &vec![0; RECORD_MAX + 1]).is_err());
    assert!(packs.put(&BlockHash::HOLE, &[1]).is_err());
    packs.put(&hash, &vec![3; RECORD_MAX]).unwrap();
    assert!(packs.read(&hash, RECORD_MAX - 1, &mut [0; 2]).is_err());
    let (_, blocks) = memory();
    assert!(blocks.absent(&crate::content::Content::empty(), 1).unwrap().is_empty());
}

#[test]
fn the_room_of_removed_blocks_is_given_back_and_others_are_whole() {
    use std::os::unix::fs::MetadataExt;
    let (dir, (_, store)) = (TempDir::new().unwrap(), sealed());
    let packs = Packs::open(dir.path(), &store).unwrap();
    put(&packs, 0..2000);
    packs.sync().unwrap();
    let room = || pack_file(&dir, 0).1.metadata().unwrap().blocks() * 512;
    let before = room();
    // One here and there first, then the others between them: also what is left of the disk's blocks goes.
    let gone = |n: &u64| *n < 1500;
    let names = |keep: fn(&u64) -> bool| (0..2000).filter(move |n| gone(n) && keep(n)).map(|n| block(n).0);
    packs.remove(&names(|n| n % 3 == 0).collect::<Vec<_>>()).unwrap();
    packs.give_back(&mut || true).unwrap();
    check(&packs, 1500..2000, 0..1);
    packs.remove(&names(|n| n % 3 != 0).collect::<Vec<_>>()).unwrap();
    packs.give_back(&mut || true).unwrap();
    check(&packs, 1500..2000, 0..1500);
    let lens: u64 = (0..1500).map(|n| block(n).1.len() as u64).sum();
    assert!(before - room() > lens - 2 * 4096, "{before} {} {lens}", room());
    // Cut short before anything is punched out, and after a crash: it is done later, and nothing is missed.
    packs.remove(&(1500..1600).map(|n| block(n).0).collect::<Vec<_>>()).unwrap();
    drop(packs);
    let packs = Packs::open(dir.path(), &store).unwrap();
    check(&packs, 1600..2000, 0..1600);
    put(&packs, 2000..2100);
    packs.give_back(&mut || true).unwrap();
    assert!(store.raw().scan(Space::Meta, b"hole/", &prefix_end(b"hole/"), 1).unwrap().is_empty());
    check(&packs, 1600..2100, 0..1600);
    put(&packs, 0..100);
    packs.close().unwrap();
    drop(packs);
    let packs = Packs::open(dir.path(), &store).unwrap();
    check(&packs, 0..100, 100..1600);
    check(&packs, 1600..2100, 100..101);
    assert_eq!(packs.names(&BlockHash::ZERO, 10_000).unwrap().len(), 600);
}
