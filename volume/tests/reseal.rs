//! What was sealed before a removal is sealed anew.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::common::{Replica, forge, sync};
use crate::model::world::dump;
use crypto::{BlockHeader, EpochId, Label, SeededEntropy, SymmetricKey, UserId};
use p2pfs_volume::{
    AttributeChange, BlockHash, Caller, Ino, Left, NewNode, OpenMode, Resealed, Role, SetTime, SetXattr, Timestamp,
    commit::{ChangeKind, Commit, Header, body_aad},
    content::Blocks,
    id::CommitHash,
};

fn user(replica: &Replica) -> UserId {
    replica.user_keys().id()
}

fn group<const N: usize>(names: [&str; N]) -> (Replica, [Replica; N]) {
    let alice = Replica::founder("alice", 1);
    let mut seed = 1;
    let others = names.map(|name| {
        seed += 1;
        Replica::joined(name, seed, &alice, Role::Writer)
    });
    for _ in 0..2 {
        others.iter().for_each(|other| sync(&alice, other));
    }
    (alice, others)
}

fn large(seed: u8) -> Vec<u8> {
    (0..700_000_usize).map(|i| (i / 7) as u8 ^ seed).collect()
}

/// A tree with all that is sealed.
fn prepare(alice: &Replica) {
    alice.mkdir("d").unwrap();
    alice.mkdir("d/deep").unwrap();
    alice.mkdir("d/deep/er").unwrap();
    alice.write("d/deep/er/small", b"small").unwrap();
    alice.write("d/deep/er/large", &large(1)).unwrap();
    alice.write("empty", b"").unwrap();
    alice.link("d/deep/er/large", "linked").unwrap();
    alice.volume.make(Ino::ROOT, b"symlink", NewNode::Symlink(b"target"), 0o777, &Caller::default()).unwrap();
    for (path, value) in [("d/deep/er/small", b"one".as_slice()), ("d", &[b'x'; 60_000])] {
        let ino = alice.find(path).unwrap();
        alice.volume.set_xattr(ino, b"user.note", value, SetXattr::Any, &Caller::default()).unwrap();
    }
    for path in ["d/deep", "d/deep/er/large"] {
        let at = SetTime::At(Timestamp { secs: 1_000_000, nanos: 5 });
        let change = AttributeChange { mtime: Some(at), atime: Some(at), ..AttributeChange::default() };
        alice.volume.set_attributes(alice.find(path).unwrap(), None, &change, &Caller::default()).unwrap();
    }
    // With a hole, and a time that a write has moved on.
    let handle = alice.open_to_write("sparse").unwrap();
    alice.volume.write(handle, 3_000_000, b"end", &Caller::default()).unwrap();
    alice.close(handle).unwrap();
    alice.volume.commit_now().unwrap();
}

fn seen(replica: &Replica) -> Vec<String> {
    let attributes = |path: &str| {
        let found = replica.volume.attributes(replica.find(path).unwrap()).unwrap();
        format!("{path} {} {} {:?} {:?}", found.size, found.allocated, found.mtime, found.atime)
    };
    let paths = ["", "d", "d/deep", "d/deep/er", "d/deep/er/small", "d/deep/er/large", "empty", "linked", "sparse"];
    let mut all: Vec<String> = dump(replica).iter().map(|line| line.replace(&"x".repeat(60_000), "x 60000")).collect();
    all.extend(paths.iter().filter(|path| replica.find(path).is_ok()).map(|path| attributes(path)));
    all
}

#[track_caller]
fn same(replica: &Replica, before: &[String]) {
    let after = seen(replica);
    let other: Vec<_> = before
        .iter()
        .zip(&after)
        .filter(|(one, other)| one != other)
        .map(|(a, b)| {
            let short = |line: &str| line.chars().take(300).collect::<String>();
            (short(a), short(b))
        })
        .collect();
    assert!(other.is_empty() && before.len() == after.len(), "{}: {other:#?}", replica.name);
}

fn reseal(replica: &Replica) -> Resealed {
    replica.volume.begin_reseal().unwrap();
    let done = replica.volume.reseal(&mut |_| true).unwrap();
    assert!(done.finished && replica.volume.resealing().unwrap().is_none());
    done
}

/// The keys that a member holds who knows these commits up to their removal: those sealed to them, and what these open.
fn keys_of(member: &Replica, all: &[Commit]) -> Vec<SymmetricKey> {
    let (me, boxes) = (user(member), member.user_keys().boxes);
    let mut epochs: BTreeMap<EpochId, SymmetricKey> = BTreeMap::new();
    for head in all.iter().flat_map(|commit| &commit.heads) {
        let (ChangeKind::Epoch { sealed, .. } | ChangeKind::Grant { sealed, .. } | ChangeKind::Keys { sealed }) =
            &head.kind
        else {
            continue;
        };
        for key in sealed.iter().filter(|key| key.user == me) {
            if let Ok(bytes) = boxes.open(Label::BoxEpochKey, key.epoch.as_bytes(), &key.sealed) {
                epochs.insert(key.epoch, SymmetricKey::from_bytes(bytes.as_slice().try_into().unwrap()));
            }
        }
    }
    assert!(!epochs.is_empty());
    let mut keys = Vec::new();
    for head in all.iter().flat_map(|commit| &commit.heads) {
        let (ChangeKind::Birth { access, .. } | ChangeKind::Access { access, .. }) = &head.kind else { continue };
        let Some(epoch) = epochs.get(&access.epoch) else { continue };
        let wrap = epoch.derive(Label::NodeKeyWrap, b"");
        let plain = crypto::open(&wrap, &access.generation.to_le_bytes(), &access.wrapped).unwrap();
        let (own, earlier) = plain.split_first_chunk::<32>().unwrap();
        keys.push(SymmetricKey::from_bytes(*own));
        keys.extend(earlier.chunks(36).map(|key| SymmetricKey::from_bytes(key[4..].try_into().unwrap())));
    }
    keys
}

/// How many bodies, names and blocks of what is current open with these keys.
fn opened_by(keys: &[SymmetricKey], all: &[Commit], blocks: &Replica) -> BTreeMap<&'static str, usize> {
    let gone: BTreeSet<(CommitHash, u32)> = all
        .iter()
        .flat_map(|commit| commit.heads.iter().map(move |head| (commit.hash, head)))
        .flat_map(|(own, head)| {
            let of = move |commit| if commit == CommitHash::ZERO { own } else { commit };
            head.supersedes.iter().map(move |id| (of(id.commit), id.index))
        })
        .collect();
    let ids: BTreeSet<_> = keys.iter().map(|key| key.derive(Label::BlockKey, b"").id()).collect();
    let reader = Blocks::new(blocks.blocks.clone(), Arc::new(SeededEntropy::new(99)));
    let mut found = BTreeMap::new();
    for commit in all {
        let Header { volume, device, log, seq, .. } = &commit.header;
        for (index, head) in commit.heads.iter().enumerate() {
            let raw = &commit.raw.changes[index];
            let (what, label) = match &head.kind {
                _ if gone.contains(&(commit.hash, index as u32)) => continue,
                ChangeKind::Access { .. } => ("access", Label::BodyKey),
                ChangeKind::Meta { .. } => ("times", Label::BodyKey),
                ChangeKind::Xattr { .. } => ("attribute", Label::BodyKey),
                ChangeKind::Place { .. } => ("name", Label::NameKey),
                ChangeKind::Birth { .. } => ("birth", Label::BodyKey),
                ChangeKind::Content { root, blocks, .. } => {
                    for index in (0..*blocks).filter(|_| *root != BlockHash::ZERO) {
                        let hash = reader.leaf_at(*root, *blocks, index).unwrap();
                        let Some(stored) = reader.store().get(&hash).unwrap() else { continue };
                        let is_open = ids.contains(&BlockHeader::parse(&stored).unwrap().key_id());
                        *found.entry("block").or_default() += usize::from(is_open);
                    }
                    ("content", Label::BodyKey)
                }
                _ => continue,
            };
            let aad = body_aad(volume, device, *log, *seq, index as u32, &raw.head);
            let opens = |key: &SymmetricKey| crypto::open_padded(&key.derive(label, b""), &aad, &raw.body).is_ok();
            *found.entry(what).or_default() += usize::from(keys.iter().any(opens));
        }
    }
    found
}

fn opened(by: &Replica, teller: &Replica, other: &Replica) -> BTreeMap<&'static str, usize> {
    let all = forge::commits(teller, other);
    opened_by(&keys_of(by, &all), &all, teller)
}

fn nothing_opens(by: &Replica, teller: &Replica, other: &Replica) {
    let mut opened = opened(by, teller, other);
    // What a node is born as stays as it was sealed: nobody can bear it again.
    opened.remove("birth");
    assert!(opened.values().all(|opens| *opens == 0), "{opened:?}");
}

#[test]
fn who_was_removed_opens_nothing_of_what_is_current() {
    let (alice, [bob, carol]) = group(["bob", "carol"]);
    prepare(&alice);
    sync(&alice, &bob);
    sync(&alice, &carol);
    alice.volume.remove_user(&user(&bob)).unwrap();
    sync(&alice, &carol);
    let (before, opened) = (seen(&alice), opened(&bob, &alice, &carol));
    for (what, least) in [("name", 8), ("attribute", 2), ("times", 2), ("content", 3), ("block", 10)] {
        assert!(opened[what] >= least, "this tests nothing: {opened:?}");
    }
    same(&carol, &before);
    let done = reseal(&alice);
    assert_eq!((done.files, done.left), (4, Left::default()), "{done:?}");
    assert_eq!((done.bytes, done.names), (5 + 700_000 + 3_000_003, 9));
    same(&alice, &before);
    nothing_opens(&bob, &alice, &carol);
    sync(&alice, &carol);
    same(&carol, &before);
    assert!(alice.volume.verify(false, &mut |_| ()).unwrap().damage.is_empty());
    // Once more, there and elsewhere: there is nothing to do.
    let commits = alice.volume.status().commits;
    for replica in [&alice, &carol] {
        let again = reseal(replica);
        assert_eq!((again.files, again.names, again.left), (0, 0, Left::default()));
        sync(&alice, &carol);
    }
    assert_eq!(alice.volume.status().commits, commits);
}

/// Whatever instant the process ends at, or the disk fails at: what is there stays, and it goes on.
#[test]
fn it_goes_on_after_a_restart_and_a_failing_disk() {
    for fails in [false, true] {
        let (mut alice, [bob, carol]) = group(["bob", "carol"]);
        prepare(&alice);
        sync(&alice, &carol);
        alice.volume.remove_user(&user(&bob)).unwrap();
        let before = seen(&alice);
        alice.volume.begin_reseal().unwrap();
        let mut rounds = 0;
        loop {
            rounds += 1;
            assert!(rounds < 500);
            let mut steps = rounds % 7;
            if fails {
                alice.store.fail_after(Some(rounds % 5));
            }
            let done = alice.volume.reseal(&mut |_| {
                steps -= 1;
                steps > 0
            });
            alice.store.fail_after(None);
            if done.is_ok_and(|done| done.finished) {
                break;
            }
            if rounds % 3 == 0 {
                alice.restart(100 + rounds);
            }
            same(&alice, &before);
        }
        assert!(rounds > 5, "{rounds} rounds test nothing");
        assert!(alice.volume.resealing().unwrap().is_none());
        nothing_opens(&bob, &alice, &carol);
        sync(&alice, &carol);
        same(&carol, &before);
        same(&alice, &before);
        assert_eq!(reseal(&alice).files, 0);
    }
}

#[test]
fn what_cannot_be_sealed_anew_is_left_and_told() {
    let (alice, [bob, carol]) = group(["bob", "carol"]);
    prepare(&alice);
    alice.write("contested", b"one").unwrap();
    let known: BTreeSet<BlockHash> = alice.blocks.names().into_iter().collect();
    alice.write("absent", &large(4)).unwrap();
    let absent: Vec<BlockHash> = alice.blocks.names().into_iter().filter(|block| !known.contains(block)).collect();
    sync(&alice, &carol);
    alice.write("contested", b"two").unwrap();
    carol.write("contested", b"three").unwrap();
    sync(&alice, &carol);
    alice.volume.remove_user(&user(&bob)).unwrap();
    absent.iter().for_each(|block| assert!(alice.blocks.evict(block)));
    let writer = OpenMode { write: true, ..OpenMode::default() };
    let open = alice.volume.open(alice.find("linked").unwrap(), writer, &Caller::default()).unwrap();
    let done = reseal(&alice);
    assert_eq!(done.left, Left { open: 1, contested: 1, absent: 1, denied: 0 });
    assert_eq!(done.files, 3);
    alice.volume.release(open).unwrap();
    assert_eq!(reseal(&alice).files, 1);
}

#[test]
fn a_small_writer_and_a_reader_are_in_nobodys_way() {
    let (alice, [bob, carol]) = group(["bob", "carol"]);
    prepare(&alice);
    sync(&alice, &carol);
    alice.volume.remove_user(&user(&bob)).unwrap();
    let ino = alice.find("linked").unwrap();
    let reader = alice.volume.open(ino, OpenMode { read: true, ..OpenMode::default() }, &Caller::default()).unwrap();
    alice.volume.begin_reseal().unwrap();
    let mut steps = 0;
    let done = alice.volume.reseal(&mut |_| {
        // While its blocks are being sealed.
        steps += 1;
        if steps == 4 {
            alice.write_at("linked", 10, b"written meanwhile").unwrap();
        }
        true
    });
    assert!(steps > 4 && done.unwrap().finished);
    let mut wanted = large(1);
    wanted[10..27].copy_from_slice(b"written meanwhile");
    assert_eq!(alice.read("linked").unwrap(), wanted);
    let mut bytes = Vec::new();
    alice.volume.read(reader, 0, 1 << 20, &mut bytes).unwrap();
    assert_eq!(bytes, wanted);
    alice.volume.release(reader).unwrap();
    sync(&alice, &carol);
    assert_eq!(carol.read("linked").unwrap(), wanted);
    assert_eq!(alice.volume.status().conflicts, 0);
    nothing_opens(&bob, &alice, &carol);
}

/// A realm of a few is renewed as the members' is.
#[test]
fn what_was_for_a_few_is_sealed_anew_for_the_rest_of_them() {
    let (alice, [bob, carol]) = group(["bob", "carol"]);
    for replica in [&alice, &bob, &carol] {
        replica.volume.set_own_mount(Some(1000));
    }
    alice.write("secret", &large(3)).unwrap();
    alice
        .volume
        .set_attributes(
            alice.find("secret").unwrap(),
            None,
            &AttributeChange { mode: Some(0o600), ..AttributeChange::default() },
            &Caller::default(),
        )
        .unwrap();
    let path = [b"secret".to_vec()];
    for user in ["bob", "carol"] {
        alice.volume.allow(&path, user, true, true).unwrap();
    }
    sync(&alice, &bob);
    sync(&alice, &carol);
    assert_eq!(bob.read("secret").unwrap(), large(3));
    alice.volume.remove_user(&user(&bob)).unwrap();
    sync(&alice, &carol);
    let done = reseal(&carol);
    assert_eq!((done.files, done.left), (1, Left::default()));
    sync(&alice, &carol);
    nothing_opens(&bob, &alice, &carol);
    assert_eq!(alice.read("secret").unwrap(), large(3));
    assert_eq!(carol.read("secret").unwrap(), large(3));
}

/// Carol, who is away, changes things; what alice sealed anew gives way to all of it, whoever else hears of both.
#[test]
fn what_others_did_apart_goes_before_it() {
    let (alice, [bob, carol, dora]) = group(["bob", "carol", "dora"]);
    prepare(&alice);
    for name in ["written", "moved", "removed", "removed by both", "gone/f", "gone/sub/g"] {
        if name == "gone/f" {
            alice.mkdir("gone").unwrap();
            alice.mkdir("gone/sub").unwrap();
        }
        alice.write(name, name.as_bytes()).unwrap();
    }
    sync(&alice, &carol);
    sync(&alice, &dora);
    carol.write("written", b"by carol").unwrap();
    carol.write("written", b"by carol, twice").unwrap();
    carol.rename("moved", "d/moved").unwrap();
    carol.remove("removed").unwrap();
    carol.remove("gone/f").unwrap();
    carol.remove("gone/sub/g").unwrap();
    carol.rmdir("gone/sub").unwrap();
    carol.rmdir("gone").unwrap();
    carol.volume.commit_now().unwrap();
    let (wanted, times) = (dump(&carol), seen(&carol));
    alice.volume.remove_user(&user(&bob)).unwrap();
    assert!(reseal(&alice).files > 5);
    sync(&alice, &dora);
    sync(&alice, &carol);
    while alice.volume.work().is_some() {}
    sync(&alice, &carol);
    sync(&alice, &dora);
    sync(&carol, &dora);
    let plain =
        |all: &[String]| all.iter().map(|line| line.split(" mtime ").next().unwrap().to_owned()).collect::<Vec<_>>();
    for replica in [&alice, &carol, &dora] {
        assert_eq!(plain(&dump(replica)), plain(&wanted), "{}", replica.name);
        assert_eq!(replica.volume.status().conflicts, 0);
    }
    assert_eq!(seen(&alice).len(), times.len());
    // What carol did, she did under the old key.
    let done = reseal(&alice);
    assert_eq!((done.files, done.left), (1, Left::default()));
    sync(&alice, &carol);
    nothing_opens(&bob, &alice, &carol);
}

/// Those who do it at the same time leave one version of everything.
#[test]
fn two_who_do_it_at_once_make_no_conflict() {
    let (alice, [bob, carol]) = group(["bob", "carol"]);
    prepare(&alice);
    sync(&alice, &carol);
    alice.volume.remove_user(&user(&bob)).unwrap();
    sync(&alice, &carol);
    let before = seen(&alice);
    reseal(&alice);
    reseal(&carol);
    for _ in 0..3 {
        sync(&alice, &carol);
        while alice.volume.work().is_some() {}
        while carol.volume.work().is_some() {}
    }
    same(&alice, &before);
    same(&carol, &before);
    assert_eq!(reseal(&alice).left, Left::default());
    nothing_opens(&bob, &alice, &carol);
}
