//! What commits cost: `cargo bench -p p2pfs-volume --bench commits`.

#![allow(clippy::unwrap_used, reason = "what fails here ends the benchmark")]

mod on_disk;

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use crypto::{Label, OsEntropy, SigningKeys};
use on_disk::{Connection, Replica};
use p2pfs_volume::{
    Ino, Message,
    commit::{self, ClaimedCommit},
    version::{BranchNo, Dot, VersionVector},
};

/// Files made in one commit.
const FILES: usize = 100;

fn two_replicas(dir: &tempfile::TempDir) -> (Replica, Replica) {
    let alice = Replica::founded(&dir.path().join("alice"), 1);
    let bob = Replica::admitted(&dir.path().join("bob"), 2, &alice);
    Connection::between(&alice, &bob).settle();
    (alice, bob)
}

/// Commits among what was said.
fn commits(messages: &[Message]) -> Vec<ClaimedCommit> {
    let lists = messages.iter().filter_map(|message| match message {
        Message::Commits(commits) => Some(commits.clone()),
        _ => None,
    });
    lists.flatten().collect()
}

fn made_and_checked(c: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let (alice, bob) = two_replicas(&dir);
    let connection = Connection::between(&alice, &bob);
    connection.settle();
    for i in 0..FILES {
        alice.file(Ino::ROOT, &format!("f{i}"), &[7; 1024]);
    }
    alice.volume.commit_now().unwrap();
    let sent = commits(&connection.said_by_a());
    // The committer may have cut it into several: the longest one stands for all.
    let commit = sent.into_iter().max_by_key(|commit| commit.changes.len()).unwrap();
    let changes = commit.changes.len();

    let mut group = c.benchmark_group("commit");
    group.throughput(Throughput::Elements(changes as u64));
    group.bench_function(format!("encode {changes} changes"), |b| b.iter(|| commit::encode(black_box(&commit))));
    let bytes = commit::encode(&commit);
    group.bench_function(format!("decode {changes} changes"), |b| {
        b.iter(|| commit::decode::<ClaimedCommit>("commit", black_box(&bytes)).unwrap());
    });
    let keys = SigningKeys::generate(&OsEntropy);
    group.bench_function(format!("root of {changes} changes, sign"), |b| {
        b.iter(|| {
            let root = commit::changes_root(black_box(&commit.changes).iter());
            (root, keys.sign(Label::CommitSignature, &commit.header))
        });
    });
    group.bench_function(format!("check {changes} changes"), |b| {
        b.iter_batched(|| commit.clone(), |commit| commit.check().unwrap(), BatchSize::SmallInput);
    });
    group.finish();
}

fn applied(c: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let (alice, bob) = two_replicas(&dir);
    let connection = Connection::between(&alice, &bob);
    connection.settle();
    let mut group = c.benchmark_group("receive, apply and sync");
    for files in [1, FILES] {
        let mut next = 0;
        let home = alice.directory(Ino::ROOT, &format!("by-{files}"));
        let mut said = || {
            connection.settle();
            for _ in 0..files {
                alice.file(home, &format!("f{next}"), &[7; 1024]);
                next += 1;
            }
            alice.volume.commit_now().unwrap();
            connection.said_by_a()
        };
        group.throughput(Throughput::Elements(files as u64));
        let name = format!("{files} new files");
        group
            .bench_function(name, |b| b.iter_batched(&mut said, |said| connection.to_b(said), BatchSize::PerIteration));
        connection.settle();
    }
    group.finish();
}

fn version_vectors(c: &mut Criterion) {
    let vector = |seq: fn(u32) -> u64| {
        let mut vector = VersionVector::default();
        for branch in 0..100 {
            vector.add(Dot { branch: BranchNo(branch), seq: seq(branch) });
        }
        vector
    };
    let (one, other) = (vector(|branch| u64::from(branch) + 1), vector(|branch| 200 - u64::from(branch)));
    c.bench_function("join version vectors of 100 logs", |b| {
        b.iter_batched_ref(|| one.clone(), |one| one.join(black_box(&other)), BatchSize::SmallInput);
    });
}

criterion_group!(benches, made_and_checked, applied, version_vectors);
criterion_main!(benches);
