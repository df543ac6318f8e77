//! What members send each other: commits, their changes and bodies, messages, blocks.

use p2pfs_volume::fuzzing::recode;

/// Decodes a value that has one encoding only: it must be that one.
fn canonical(format: &str, bytes: &[u8]) {
    if let Ok(again) = recode(format, bytes) {
        assert_eq!(again, bytes, "{format}: a second encoding was taken");
    }
}

/// A commit as it lies in a message, with every check that needs no state.
pub(crate) mod commit {
    use p2pfs_volume::commit::encode;

    use crate::sample::Sample;

    pub(crate) fn run(data: &[u8]) {
        super::canonical("commit", data);
        super::canonical("header", data);
    }

    pub(crate) fn seeds() -> Vec<Vec<u8>> {
        let commits = Sample::new().commits();
        commits.iter().map(encode).chain(commits.iter().map(|commit| commit.header.clone())).collect()
    }
}

/// A proof as a stranger hands it over.
pub(crate) mod proof {
    use crypto::{DeviceKeys, Label, SeededEntropy, VolumeId};
    use p2pfs_volume::{
        Timestamp,
        commit::{FORMAT_VERSION, Header, encode},
        fuzzing::proof,
        id::CommitHash,
    };

    pub(crate) fn run(data: &[u8]) {
        super::canonical("proof", data);
    }

    pub(crate) fn seeds() -> Vec<Vec<u8>> {
        let device = DeviceKeys::generate(&SeededEntropy::new(1));
        let signed = |count| {
            let header = encode(&Header {
                version: FORMAT_VERSION,
                volume: VolumeId::from_bytes([1; 32]),
                device: device.id(),
                log: 0,
                seq: 1,
                prev: CommitHash::ZERO,
                observed: vec![CommitHash::from_bytes([2; 32])],
                count,
                time: Timestamp::default(),
                root: crypto::Hash::from_bytes([3; 32]),
                changes: 0,
            });
            let signature = device.signing.sign(Label::CommitSignature, &header);
            (header, signature)
        };
        [(2, 3), (2, 2)].map(|(one, other)| proof(signed(one), signed(other))).to_vec()
    }
}

/// Heads and bodies of any kind in a commit that is signed as it should be.
pub(crate) mod change {
    use crypto::{DeviceKeys, Label, SeededEntropy, VolumeId};
    use p2pfs_volume::{
        Timestamp,
        commit::{ClaimedCommit, FORMAT_VERSION, Header, RawChange, changes_root, encode},
        id::CommitHash,
    };

    use crate::{input::Input, sample::Sample};

    pub(crate) fn run(data: &[u8]) {
        super::canonical("head", data);
        super::canonical("change", data);
        let mut input = Input::new(data);
        let mut changes = Vec::new();
        while !input.is_empty() {
            changes.push(RawChange { head: input.piece().to_vec(), body: input.piece().to_vec() });
        }
        let device = DeviceKeys::generate(&SeededEntropy::new(1));
        let header = encode(&Header {
            version: FORMAT_VERSION,
            volume: VolumeId::from_bytes([1; 32]),
            device: device.id(),
            log: 0,
            seq: 1,
            prev: CommitHash::ZERO,
            observed: Vec::new(),
            count: 1,
            time: Timestamp::default(),
            root: changes_root(changes.iter()),
            changes: changes.len() as u32,
        });
        let signature = device.signing.sign(Label::CommitSignature, &header);
        let claimed = ClaimedCommit { header, signature, changes };
        if let Ok(commit) = claimed.clone().check() {
            assert_eq!(commit.raw, claimed);
            assert_eq!(commit.heads.len(), claimed.changes.len());
            for (head, change) in commit.heads.iter().zip(&claimed.changes) {
                assert_eq!(encode(head), change.head);
            }
        }
    }

    pub(crate) fn seeds() -> Vec<Vec<u8>> {
        let sample = Sample::new();
        let piece = crate::input::piece;
        let call = |changes: &[RawChange]| changes.iter().flat_map(|c| [piece(&c.head), piece(&c.body)].concat()).collect();
        let mut seeds = sample.heads();
        seeds.extend(sample.commits().iter().map(|commit| call(&commit.changes)).filter(|seed: &Vec<u8>| seed.len() < 2000));
        seeds
    }
}

/// A message of a session.
pub(crate) mod message {
    use p2pfs_volume::Message;

    use crate::sample::Sample;

    pub(crate) fn run(data: &[u8]) {
        super::canonical("message", data);
        if let Ok(Message::Commits(commits)) = Message::decode(data) {
            for commit in commits {
                // Whatever it says, it is judged without a panic.
                let _verdict = commit.check();
            }
        }
    }

    pub(crate) fn seeds() -> Vec<Vec<u8>> {
        let mut seeds: Vec<Vec<u8>> = Sample::new().messages().iter().map(Message::encode).collect();
        let commits = Sample::new().commits().into_iter().skip(1).take(2).collect();
        seeds.push(Message::Commits(commits).encode());
        seeds.push(Message::Flush(300).encode());
        seeds.push(Message::Flushed(300).encode());
        seeds.push(Message::Want(p2pfs_volume::id::CommitHash::from_bytes([3; 32])).encode());
        seeds.retain(|seed| seed.len() < 4000);
        seeds
    }
}

/// Frames of messages between members, from one of them.
pub(crate) mod letter {
    use std::sync::OnceLock;

    use crate::{common::sync, input::Input, sample::Sample};

    fn sample() -> &'static Sample {
        static SAMPLE: OnceLock<Sample> = OnceLock::new();
        SAMPLE.get_or_init(Sample::new)
    }

    pub(crate) fn run(data: &[u8]) {
        super::canonical("letter", data);
        let sample = sample();
        let session = sample.ada.volume.session(sample.bob.device_id());
        let mut input = Input::new(data);
        let mut frames = vec![data.to_vec()];
        while !input.is_empty() && frames.len() < 16 {
            frames.push(input.piece().to_vec());
        }
        for frame in frames {
            // Refused or taken, never a panic; what is acknowledged can be said.
            let _taken = session.letters_came(&[frame]);
            let _said = session.next_letters();
        }
    }

    pub(crate) fn seeds() -> Vec<Vec<u8>> {
        let Sample { ada, bob } = Sample::new();
        sync(&ada, &bob);
        bob.volume.send_letter(Some("ada"), "to ada").expect("he may");
        bob.volume.send_letter(None, &"to all ".repeat(20)).expect("he may");
        let (here, there) = (ada.volume.session(bob.device_id()), bob.volume.session(ada.device_id()));
        let mut seeds = there.next_letters();
        here.letters_came(&seeds).expect("he is honest");
        seeds.extend(here.next_letters());
        seeds
    }
}

/// The opened body of a change; the first byte says of which kind.
pub(crate) mod body {
    use p2pfs_volume::{
        Timestamp,
        commit::{AccessBody, BirthBody, ContentBody, MemberBody, MetaBody, PlaceBody, SettingBody, SnapshotBody, XattrBody, encode},
        content::{BlockHash, Content, ContentData},
    };

    const BODIES: [&str; 9] = [
        "body_birth",
        "body_access",
        "body_meta",
        "body_xattr",
        "body_content",
        "body_place",
        "body_member",
        "body_setting",
        "body_snapshot",
    ];

    pub(crate) fn run(data: &[u8]) {
        let Some((kind, bytes)) = data.split_first() else { return };
        super::canonical(BODIES[usize::from(*kind) % BODIES.len()], bytes);
    }

    pub(crate) fn seeds() -> Vec<Vec<u8>> {
        let time = Timestamp { secs: 1_795_338_900, nanos: 5 };
        let access = AccessBody { time, mode: 0o644, uid: 1000, gid: 7, acl: crate::sample::acl(), default_acl: Vec::new() };
        let tree = ContentData::Tree { root: BlockHash::from_bytes([4; 32]), blocks: 2 };
        let content = |data, size| ContentBody {
            mtime: time,
            content: Content { size, allocated: size, data },
            keys: vec![crypto::SymmetricKey::from_bytes([5; 32])],
        };
        let name = "notes.txt".to_owned();
        let bodies = [
            (0, encode(&BirthBody { access: access.clone(), rdev: 0, target: b"there".to_vec() })),
            (1, encode(&access)),
            (2, encode(&MetaBody { time, mtime: Some(time), atime: time })),
            (3, encode(&XattrBody { time, name: b"user.a".to_vec(), value: Some(b"b".to_vec().into()) })),
            (4, encode(&content(ContentData::Inline(b"hi".to_vec()), 2))),
            (4, encode(&content(tree, 70_000))),
            (5, encode(&PlaceBody { time, name: name.clone().into_bytes() })),
            (6, encode(&MemberBody { name: name.clone() })),
            (7, encode(&SettingBody { name: "history.daily".to_owned(), value: Some("2y".to_owned()) })),
            (7, encode(&SettingBody { name: "history.daily".to_owned(), value: None })),
            (8, encode(&SnapshotBody { name })),
        ];
        bodies.into_iter().map(|(kind, body)| [&[kind][..], &body].concat()).collect()
    }
}

/// Stored blocks, patches and list nodes: opened, and put where their names say.
pub(crate) mod block {
    use std::sync::Arc;

    use crypto::{
        BLOCK_SIZE, Label, PATCH_HEADER_SIZE, PatchHeader, SeededEntropy, SymmetricKey, UNITS, open_block, open_units,
        plain_len, seal_block, seal_patch, stored_len,
    };
    use p2pfs_volume::{
        BlockHash, BlockStore,
        content::{Blocks, Content, ContentData, KeyRing, MemoryBlocks},
    };

    const NODE: SymmetricKey = SymmetricKey::from_bytes([7; 32]);

    pub(crate) fn run(data: &[u8]) {
        super::canonical("list_node", data);
        super::canonical("patch", data);
        super::canonical("block_row", data);
        let key = NODE.derive(Label::BlockKey, b"");
        let mut plain = Vec::new();
        if open_block(&key, data, &mut plain).is_ok() {
            assert_eq!(plain_len(data.len()), Ok(plain.len()));
            assert_eq!(stored_len(plain.len()), data.len());
        } else {
            assert!(plain.is_empty(), "a block that doesn't open gave bytes");
        }
        if (1..=BLOCK_SIZE).contains(&data.len()) {
            let mut stored = Vec::new();
            seal_block(&key, data, &SeededEntropy::new(1), &mut stored);
            plain.clear();
            open_block(&key, &stored, &mut plain).expect("what was sealed opens");
            assert_eq!(plain, data);
        }
        units(&key, data);
        follow(data);
    }

    /// As a patch: units open one by one as they do together, and only under their own header.
    fn units(key: &SymmetricKey, data: &[u8]) {
        let Ok(header) = PatchHeader::parse_whole(data) else { return };
        let mut all = Vec::new();
        let opened = open_units(key, &header, 0..UNITS, &data[PATCH_HEADER_SIZE..], &mut all).is_ok();
        let mut single = Vec::new();
        let mut each = true;
        for unit in 0..UNITS {
            let sealed = &data[header.stored_range(unit..unit + 1)];
            each &= open_units(key, &header, unit..unit + 1, sealed, &mut single).is_ok();
        }
        assert_eq!(opened, each);
        assert!(!opened || all == single, "units that open otherwise alone");
        if opened {
            let mut again = Vec::new();
            let (plain, _) = all.as_chunks();
            let other = seal_patch(key, header.base(), header.units(), plain, &SeededEntropy::new(1), &mut again);
            assert_eq!((other.base(), other.units(), again.len()), (header.base(), header.units(), data.len()));
        }
    }

    /// As the root of files of some sizes: what isn't in the right form is refused, not followed.
    fn follow(data: &[u8]) {
        let store = Arc::new(MemoryBlocks::new());
        let blocks = Blocks::new(store.clone(), Arc::new(SeededEntropy::new(1)));
        let keys = KeyRing::new(&NODE);
        for root in [BlockHash::of_list(data), BlockHash::of_block(data), BlockHash::of_patch(data)] {
            if blocks.put_received(&root, data).is_err() {
                continue;
            }
            assert_eq!(store.get(&root).expect("memory can be read").as_deref(), Some(data));
            for blocks_of_file in [1, 2, 128, 129, 1 << 30] {
                let size = blocks_of_file * BLOCK_SIZE as u64;
                let tree = ContentData::Tree { root, blocks: blocks_of_file };
                let content = Content { size, allocated: size, data: tree };
                let mut out = Vec::new();
                let _absent = blocks.absent(&content, 64);
                let _read = blocks.read(&content, &keys, 1000, 5000, &mut out);
                let _data = blocks.seek_data(&content, 0);
                let _hole = blocks.seek_hole(&content, size / 2);
            }
        }
    }

    pub(crate) fn seeds() -> Vec<Vec<u8>> {
        let key = NODE.derive(Label::BlockKey, b"");
        let sealed = |len: usize| {
            let mut stored = Vec::new();
            seal_block(&key, &vec![9; len], &SeededEntropy::new(1), &mut stored);
            stored
        };
        let node = |children: &[u8]| children.iter().flat_map(|n| [*n; 32]).collect::<Vec<u8>>();
        let patch = |units: u16| {
            let mut stored = Vec::new();
            let plain = vec![[9; 4096]; units.count_ones() as usize];
            seal_patch(&key, &[3; 32], units, &plain, &SeededEntropy::new(1), &mut stored);
            stored
        };
        let mut row = [0; 40];
        row[12] = 40;
        let mut seeds = vec![patch(1), patch(0b1010), patch(1)[..4177].to_vec()];
        seeds.extend([sealed(1), sealed(300), sealed(8193), node(&[1, 2]), node(&[1, 0]), node(&[0, 0]), row.to_vec()]);
        seeds
    }
}

/// A member whose device was stolen: signs what it likes and sends any messages.
pub(crate) mod peer {
    use std::sync::OnceLock;

    use crypto::Label;
    use p2pfs_volume::{
        Message, Timestamp,
        commit::{ClaimedCommit, FORMAT_VERSION, Header, RawChange, changes_root, commit_hash, decode, encode},
        id::CommitHash,
        version::BranchNo,
    };

    use crate::{input::Input, sample::Sample, targets::store::Frozen};

    /// Where the thief goes on: the last commit of its log, and its number.
    struct Known {
        frozen: Frozen,
        log: u64,
        seq: u64,
        count: u64,
        prev: CommitHash,
        tips: Vec<CommitHash>,
    }

    fn known() -> &'static Known {
        static KNOWN: OnceLock<Known> = OnceLock::new();
        KNOWN.get_or_init(|| {
            let sample = Sample::new();
            let bob = Sample::bob_keys().id();
            let headers: Vec<(Header, CommitHash)> = sample
                .commits()
                .iter()
                .filter_map(|c| Some((decode("header", &c.header).ok()?, commit_hash(&c.header))))
                .collect();
            let (last, prev) = headers.iter().rfind(|(h, _)| h.device == bob).expect("bob wrote something");
            let _first = BranchNo(0);
            let count = headers.iter().map(|(h, _)| h.count).max().unwrap_or(0);
            let (top, _) = headers.last().expect("there are commits");
            let tips = headers.iter().filter(|(h, _)| h.device != bob && h.count == top.count).map(|(_, h)| *h).collect();
            Known { log: last.log, seq: last.seq, count, prev: *prev, tips, frozen: Frozen::of(&sample) }
        })
    }

    pub(crate) fn run(data: &[u8]) {
        let known = known();
        let thief = Sample::bob_keys();
        let Ok(volume) = known.frozen.load(&[]) else { panic!("the sample does not load") };
        let session = volume.session(thief.id());
        let _greeting = session.opening();
        let mut input = Input::new(data);
        let (mut prev, mut seq, mut count) = (known.prev, known.seq, known.count);
        for _ in 0..16 {
            if input.is_empty() {
                break;
            }
            let message = match input.byte() {
                // Raw bytes.
                0 => match Message::decode(input.piece()) {
                    Ok(message) => message,
                    Err(_) => continue,
                },
                // A commit with all that a header needs, whose changes say anything.
                kind => {
                    let mut changes = Vec::new();
                    for _ in 0..kind % 8 {
                        changes.push(RawChange { head: input.piece().to_vec(), body: input.piece().to_vec() });
                    }
                    seq += 1;
                    count += 1;
                    let header = encode(&Header {
                        version: FORMAT_VERSION,
                        volume: volume.id(),
                        device: thief.id(),
                        log: known.log,
                        seq,
                        prev,
                        observed: if seq == known.seq + 1 { known.tips.clone() } else { Vec::new() },
                        count,
                        time: Timestamp { secs: i64::from(kind) << 55, nanos: 0 },
                        root: changes_root(changes.iter()),
                        changes: changes.len() as u32,
                    });
                    prev = commit_hash(&header);
                    let signature = thief.signing.sign(Label::CommitSignature, &header);
                    Message::Commits(vec![ClaimedCommit { header, signature, changes }])
                }
            };
            if session.receive(message).is_err() {
                break;
            }
            for _ in 0..64 {
                if session.next_outgoing().is_none() {
                    break;
                }
            }
        }
        crate::targets::store::look_around(&volume);
        let _closed = volume.commit_now();
    }

    pub(crate) fn seeds() -> Vec<Vec<u8>> {
        let piece = crate::input::piece;
        let sample = Sample::new();
        let mut seeds = Vec::new();
        for commit in sample.commits().iter().filter(|c| c.changes.len() < 8) {
            let changes = commit.changes.iter().flat_map(|c| [piece(&c.head), piece(&c.body)].concat());
            seeds.push([commit.changes.len() as u8].into_iter().chain(changes).collect());
        }
        for message in sample.messages() {
            seeds.push([&[0][..], &piece(&message.encode()[..message.encode().len().min(3000)])].concat());
        }
        seeds.retain(|seed: &Vec<u8>| seed.len() < 4000);
        seeds
    }
}
