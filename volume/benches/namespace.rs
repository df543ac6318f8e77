//! What calls on names cost, without kernel and mount: `cargo bench -p p2pfs-volume --bench namespace`.

#![allow(clippy::unwrap_used, reason = "what fails here ends the benchmark")]

mod on_disk;

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use on_disk::Replica;
use p2pfs_volume::{Ino, RenameMode};

/// Entries of the directory that is looked into.
const ENTRIES: usize = 1000;

fn calls(c: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let replica = Replica::founded(dir.path(), 1);
    let volume = &replica.volume;
    let full = replica.directory(Ino::ROOT, "full");
    for i in 0..ENTRIES {
        replica.file(full, &format!("f{i}"), &[7; 1024]);
    }
    let mut next = 0;
    let mut name = move || {
        next += 1;
        format!("n{next}").into_bytes()
    };

    c.bench_function("lookup", |b| {
        let mut at = 0;
        b.iter(|| {
            at = (at + 7) % ENTRIES;
            volume.lookup(full, format!("f{at}").as_bytes()).unwrap()
        });
    });
    c.bench_function("lookup of a name that isn't there", |b| {
        b.iter(|| volume.lookup(full, black_box(b"none")).is_err())
    });
    let mut group = c.benchmark_group("directory");
    group.throughput(Throughput::Elements(ENTRIES as u64));
    group.bench_function(format!("list {ENTRIES} entries"), |b| b.iter(|| replica.list(full)));
    group.finish();

    let home = replica.directory(Ino::ROOT, "home");
    let text = |name: &[u8]| String::from_utf8(name.to_vec()).unwrap();
    c.bench_function("create, write 1 KiB, close", |b| {
        b.iter_batched(&mut name, |name| replica.file(home, &text(&name), &[7; 1024]), BatchSize::SmallInput);
    });
    let mut made = || {
        let name = name();
        replica.file(home, &text(&name), b"short");
        name
    };
    c.bench_function("rename", |b| {
        let renamed = |from: Vec<u8>| {
            let to = [b"to-", &from[..]].concat();
            volume.rename(home, &from, home, &to, RenameMode::Replace).unwrap();
        };
        b.iter_batched(&mut made, renamed, BatchSize::SmallInput);
    });
    c.bench_function("unlink", |b| {
        b.iter_batched(&mut made, |name| volume.unlink(home, &name).unwrap(), BatchSize::SmallInput);
    });
}

criterion_group!(benches, calls);
criterion_main!(benches);
