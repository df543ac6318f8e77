//! What reading and writing contents costs, without kernel and mount: `cargo bench -p p2pfs-volume --bench contents`.

#![allow(clippy::unwrap_used, reason = "what fails here ends the benchmark")]

mod on_disk;

use std::{hint::black_box, sync::Arc};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use crypto::{BLOCK_SIZE, OsEntropy, SymmetricKey, random_array};
use on_disk::Replica;
use p2pfs_volume::content::{Blocks, Content, Draft, KeyRing};

const FILE: usize = 16 << 20;

fn blocks_of(replica: &Replica) -> (Blocks, KeyRing) {
    let blocks = Blocks::new(replica.packs.clone(), Arc::new(OsEntropy));
    (blocks, KeyRing::new(SymmetricKey::generate(&OsEntropy)))
}

fn written(blocks: &Blocks, keys: &KeyRing) -> Content {
    let mut draft = Draft::new(blocks.clone(), Content::empty(), keys.clone());
    for block in 0..FILE / BLOCK_SIZE {
        draft.write((block * BLOCK_SIZE) as u64, &random_array::<BLOCK_SIZE>(&OsEntropy)).unwrap();
    }
    draft.finish().unwrap()
}

fn reads(c: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let replica = Replica::founded(dir.path(), 1);
    let (blocks, keys) = blocks_of(&replica);
    let content = written(&blocks, &keys);
    let mut group = c.benchmark_group("read");
    for (name, len) in [("4 KiB somewhere", 4096), ("a whole block", BLOCK_SIZE), ("1 MiB", 1 << 20)] {
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(name, |b| {
            let (mut at, mut out) = (0, Vec::with_capacity(len));
            b.iter(|| {
                at = (at + 37 * len) % (FILE - FILE % len);
                out.clear();
                blocks.read(&content, &keys, at as u64, len, &mut out).unwrap();
                assert_eq!(out.len(), len.min(FILE - at));
            });
        });
    }
    group.finish();
}

fn drafts(c: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let replica = Replica::founded(dir.path(), 1);
    let (blocks, keys) = blocks_of(&replica);
    let content = written(&blocks, &keys);
    let empty = || Draft::new(blocks.clone(), Content::empty(), keys.clone());
    let begun = || Draft::new(blocks.clone(), content.clone(), keys.clone());
    let mut group = c.benchmark_group("draft");

    group.throughput(Throughput::Bytes(1024));
    group.bench_function("1 KiB, finished", |b| {
        let write = |mut draft: Draft| {
            draft.write(0, black_box(&[7; 1024])).unwrap();
            draft.finish().unwrap()
        };
        b.iter_batched(empty, write, BatchSize::SmallInput);
    });
    let mebibyte: Vec<u8> = (0..1 << 20).map(|i: u32| (i * 31 % 251) as u8).collect();
    group.throughput(Throughput::Bytes(1 << 20));
    group.bench_function("1 MiB in order, finished", |b| {
        let write = |mut draft: Draft| {
            for (i, part) in mebibyte.chunks(128 << 10).enumerate() {
                draft.write((i * (128 << 10)) as u64, part).unwrap();
            }
            draft.finish().unwrap()
        };
        b.iter_batched(empty, write, BatchSize::SmallInput);
    });
    group.throughput(Throughput::Bytes(4096));
    group.bench_function("4 KiB in the middle of 16 MiB, finished", |b| {
        let write = |mut draft: Draft| {
            draft.write((FILE / 2 + 4096) as u64, &mebibyte[..4096]).unwrap();
            draft.finish().unwrap()
        };
        b.iter_batched(begun, write, BatchSize::SmallInput);
    });
    group.finish();
}

criterion_group!(benches, reads, drafts);
criterion_main!(benches);
