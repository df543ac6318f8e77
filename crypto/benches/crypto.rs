//! What sealing and opening cost: `cargo bench -p p2pfs-crypto`.

#![allow(clippy::unwrap_used, reason = "what fails here ends the benchmark")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use p2pfs_crypto::{
    BLOCK_SIZE, Hash, Label, OsEntropy, PAGE_SIZE, SigningKeys, SymmetricKey, keyed_tag, open, open_block, open_pages,
    plain_len, random_array, seal, seal_block, stored_range, verify,
};

fn blocks(c: &mut Criterion) {
    let key = SymmetricKey::generate(&OsEntropy);
    let plain: Vec<u8> = (0..BLOCK_SIZE).map(|i| (i * 31 % 251) as u8).collect();
    let mut stored = Vec::new();
    seal_block(&key, &plain, &OsEntropy, &mut stored);
    let len = plain_len(stored.len()).unwrap();
    let header = p2pfs_crypto::BlockHeader::parse(&stored).unwrap();

    let mut group = c.benchmark_group("block");
    group.throughput(Throughput::Bytes(BLOCK_SIZE as u64));
    let mut out = Vec::with_capacity(stored.len());
    group.bench_function("seal", |b| {
        b.iter(|| {
            out.clear();
            seal_block(&key, black_box(&plain), &OsEntropy, &mut out);
        });
    });
    group.bench_function("open", |b| {
        b.iter(|| {
            out.clear();
            open_block(&key, black_box(&stored), &mut out).unwrap();
        });
    });
    group.bench_function("name", |b| b.iter(|| Hash::of_bytes(Label::BlockHash, black_box(&stored))));
    group.throughput(Throughput::Bytes(PAGE_SIZE as u64));
    let pages = stored_range(3 * PAGE_SIZE, PAGE_SIZE, len);
    group.bench_function("open one page", |b| {
        b.iter(|| {
            out.clear();
            open_pages(&key, &header, 3, black_box(&stored[pages.clone()]), &mut out).unwrap();
        });
    });
    group.finish();
}

fn values(c: &mut Criterion) {
    let key = SymmetricKey::generate(&OsEntropy);
    let mut group = c.benchmark_group("value");
    for size in [64, 1024] {
        let plain = vec![7; size];
        let sealed = seal(&key, b"where it belongs", &plain, &OsEntropy);
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(format!("seal {size} B"), |b| {
            b.iter(|| seal(&key, b"where it belongs", black_box(&plain), &OsEntropy));
        });
        group.bench_function(format!("open {size} B"), |b| {
            b.iter(|| open(&key, b"where it belongs", black_box(&sealed)).unwrap());
        });
    }
    group.finish();
    c.bench_function("tag of a name", |b| b.iter(|| keyed_tag(&key, Label::LinkTag, black_box(b"report-2026.txt"))));
    c.bench_function("derived key", |b| b.iter(|| key.derive(Label::BlockKey, black_box(b""))));
}

fn signatures(c: &mut Criterion) {
    let keys = SigningKeys::generate(&OsEntropy);
    let message: [u8; 300] = random_array(&OsEntropy);
    let signature = keys.sign(Label::CommitSignature, &message);
    c.bench_function("sign", |b| b.iter(|| keys.sign(Label::CommitSignature, black_box(&message))));
    c.bench_function("verify", |b| {
        b.iter(|| verify(Label::CommitSignature, keys.public(), black_box(&message), &signature).unwrap());
    });
}

criterion_group!(benches, blocks, values, signatures);
criterion_main!(benches);
