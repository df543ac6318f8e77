//! What lies on this machine, and may have been damaged or changed by others: key file, rows, packs, archive, drafts.

use p2pfs_volume::fuzzing::{OWN, recode};

/// A key file; with a check that holds, so that more than the check is looked at.
pub(crate) mod key_file {
    use crypto::{Hash, KeyFile, Label, PassphraseCost, SeededEntropy, SymmetricKey, Unlock};

    const CHECK: usize = 8;

    fn key() -> Unlock {
        Unlock::Key(SymmetricKey::from_bytes([1; 32]))
    }

    pub(crate) fn run(data: &[u8]) {
        // Only with a key: what a passphrase costs is bounded by the file's limits, and that is too much here.
        let _plain = KeyFile::open(data, &key());
        let _asks = KeyFile::needs_passphrase(data);
        let check = Hash::of_bytes(Label::KeyFileCheck, data);
        let file = [data, &check.as_bytes()[..CHECK]].concat();
        let _plain = KeyFile::open(&file, &key());
        let _asks = KeyFile::needs_passphrase(&file);
        let sealed = KeyFile::seal(data, &key(), &SeededEntropy::new(1));
        assert_eq!(KeyFile::open(&sealed, &key()).as_deref().map(Vec::as_slice), Ok(data));
    }

    pub(crate) fn seeds() -> Vec<Vec<u8>> {
        let entropy = SeededEntropy::new(1);
        let passphrase = Unlock::Passphrase("correct horse".to_owned().into());
        let by_key = KeyFile::seal(b"plain", &key(), &entropy);
        let by_passphrase = KeyFile::seal_at_cost(b"plain", &passphrase, PassphraseCost::FOR_TESTS, &entropy);
        let bodies = [&by_key, &by_passphrase].map(|file| file[..file.len() - CHECK].to_vec());
        [by_key, by_passphrase].into_iter().chain(bodies).collect()
    }
}

/// The opened rows of the store; the first byte says of which kind.
pub(crate) mod row {
    use p2pfs_volume::store::Space;

    use super::{OWN, recode};
    use crate::sample::Sample;

    pub(crate) fn run(data: &[u8]) {
        let Some((kind, bytes)) = data.split_first() else { return };
        let format = OWN[usize::from(*kind) % OWN.len()];
        if let Ok(once) = recode(format, bytes) {
            assert_eq!(recode(format, &once).as_ref(), Ok(&once), "{format}: what was encoded doesn't decode to the same");
        }
    }

    pub(crate) fn seeds() -> Vec<Vec<u8>> {
        let sample = Sample::new();
        let mut seeds = Vec::new();
        let mut add = |format: &str, rows: Vec<Vec<u8>>| {
            let kind = OWN.iter().position(|name| *name == format).unwrap_or(0) as u8;
            seeds.extend(rows.iter().filter(|row| row.len() < 1500).take(8).map(|row| [&[kind][..], row].concat()));
        };
        let opened = |space| sample.opened(space);
        let values = |rows: Vec<(Vec<u8>, Vec<u8>)>| rows.into_iter().map(|(_, value)| value).collect();
        let meta = opened(Space::Meta);
        let named = |name: &[u8]| values(meta.iter().filter(|(key, _)| key.starts_with(name)).cloned().collect());
        add("row_counters", named(b"counters"));
        add("row_branch", named(b"branch/"));
        let raw = |space| values(sample.raw_rows().into_iter().filter(|r| r.0 == space).map(|(_, k, v)| (k, v)).collect());
        add("row_commit", values(opened(Space::Commits)));
        add("row_change", raw(Space::Changes));
        let (nodes, spilled): (Vec<_>, Vec<_>) = opened(Space::Nodes).into_iter().partition(|(key, _)| key.len() == 8);
        let (links, xattrs) = spilled.into_iter().partition(|(key, _)| b"lm".contains(&key[8]));
        add("row_node", values(nodes));
        add("row_link", values(links));
        add("row_xattr", values(xattrs));
        add("row_entry", values(opened(Space::Entries)));
        let (members, agreed): (Vec<_>, Vec<_>) =
            opened(Space::Members).into_iter().partition(|(key, _)| key[0] < b'v');
        let (settings, snapshots) = agreed.into_iter().partition(|(key, _)| key[0] == b'v');
        add("row_member", values(members));
        add("row_setting", values(settings));
        add("row_snapshot", values(snapshots));
        add("row_wanted", values(opened(Space::Wanted)));
        for (key, value) in opened(Space::Drafts) {
            add(if key.ends_with(&[0]) && key.len() == 9 { "draft_head" } else { "draft_changes" }, vec![value]);
        }
        add("row_synced_point", vec![vec![0; 17]]);
        add("draft_header", vec![b"\x92\x91\x92\x92\x00\x05\x01\x92\x01\x02".to_vec()]);
        add("acl", vec![crate::sample::acl()]);
        seeds
    }
}

/// The bytes of a pack after a crash.
pub(crate) mod pack {
    use std::{fs, sync::Arc};

    use crypto::{SeededEntropy, SymmetricKey};
    use p2pfs_volume::{
        BlockHash, BlockStore, content::Packs, memory_store::MemoryStore, sealed_store::SealedStore,
        store::Space,
    };

    fn store() -> SealedStore {
        let secret = SymmetricKey::from_bytes([7; 32]);
        SealedStore::new(Arc::new(MemoryStore::new()), &secret, Arc::new(SeededEntropy::new(1)))
    }

    pub(super) fn folder() -> tempfile::TempDir {
        let memory = std::path::Path::new("/dev/shm");
        if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.expect("a folder can be made")
    }

    pub(crate) fn run(data: &[u8]) {
        let (folder, store) = (folder(), store());
        fs::write(folder.path().join("00000000.pack"), data).expect("a file can be written");
        let Ok(packs) = Packs::open(folder.path(), &store) else { return };
        let found = packs.recovery();
        let rows = store.scan(Space::Blocks, &[], &[], usize::MAX).expect("memory can be read");
        assert!(rows.len() as u64 <= found.checked);
        for (name, _) in rows {
            let hash = BlockHash::try_from(name.as_slice()).expect("a row's key is a hash");
            let bytes = packs.get(&hash).expect("it was checked").expect("it is there");
            let names = [BlockHash::of_block(&bytes), BlockHash::of_list(&bytes), BlockHash::of_patch(&bytes)];
            assert!(names.contains(&hash), "a block of another name");
        }
        let (hash, block) = (BlockHash::of_block(b"new"), b"new");
        packs.put(&hash, block).expect("a block can be put");
        assert_eq!(packs.get(&hash).expect("it can be read").as_deref(), Some(&block[..]));
        packs.close().expect("packs can be closed");
        drop(packs);
        let again = Packs::open(folder.path(), &store).expect("what was closed opens");
        assert_eq!(again.recovery().cut, 0, "what a recovery left is cut again");
    }

    pub(crate) fn seeds() -> Vec<Vec<u8>> {
        let (folder, store) = (folder(), store());
        let packs = Packs::open(folder.path(), &store).expect("packs open");
        for block in [&b"a block"[..], &[3; 300], &[5; 64]] {
            packs.put(&BlockHash::of_block(block), block).expect("a block can be put");
        }
        packs.put(&BlockHash::of_list(&[8; 64]), &[8; 64]).expect("a list node can be put");
        packs.close().expect("packs can be closed");
        let bytes = fs::read(folder.path().join("00000000.pack")).expect("the pack is there");
        vec![bytes[..bytes.len() - 10].to_vec(), bytes[..16].to_vec(), bytes]
    }
}

/// A segment of the archive of commits, as it was left by a crash: whole records and whatever else.
pub(crate) mod archive {
    use std::{collections::BTreeMap, fs};

    use p2pfs_volume::{
        commit::encode,
        fuzzing::{archive_opened, archive_pieces, archive_segment},
    };

    use super::pack::folder;
    use crate::{
        input::{Input, piece},
        sample::Sample,
    };

    const NAME: &str = "00000007-0000000000000001.log";
    const HEADER: usize = 24;

    pub(crate) fn run(data: &[u8]) {
        let mut input = Input::new(data);
        let mut segment = archive_segment(&[]);
        while !input.is_empty() {
            match input.byte() {
                0 => segment.extend_from_slice(input.piece()),
                1 => segment = input.piece().to_vec(),
                // Sealed right, whatever is in it.
                number => {
                    let record = (u64::from(number) - 1, input.piece().to_vec());
                    segment.extend_from_slice(&archive_segment(&[record])[HEADER..]);
                }
            }
        }
        let folder = folder();
        let path = folder.path().join(NAME);
        fs::write(&path, &segment).expect("a file can be written");
        let whole = || {
            let (records, damaged) = archive_pieces(&fs::read(&path).expect("a file can be read"));
            (records.into_iter().collect::<BTreeMap<_, _>>(), damaged)
        };
        let (before, _) = whole();
        let newest = before.keys().last().copied().unwrap_or(0);
        let forgot = archive_opened(folder.path(), 0);
        assert!(forgot.is_err() || before.is_empty(), "a store that lacks commits is taken");
        let end = archive_opened(folder.path(), newest);
        assert_eq!(end, Ok(newest), "it ends elsewhere");
        let (after, damaged) = whole();
        assert_eq!(damaged, 0, "what was opened is not whole");
        assert!(before == after, "a record is lost");
        assert_eq!(archive_opened(folder.path(), newest), Ok(newest), "opened again it ends elsewhere");
    }

    pub(crate) fn seeds() -> Vec<Vec<u8>> {
        let commits: Vec<Vec<u8>> = Sample::new().commits().iter().map(encode).collect();
        let record = |number: usize| [&[number as u8 + 1][..], &piece(&commits[number % commits.len()])].concat();
        let segment = archive_segment(&[(1, commits[0].clone()), (2, commits[1].clone())]);
        let whole = [record(1), record(2), record(3)].concat();
        vec![
            [record(1), vec![0], piece(&[0; 40]), record(3)].concat(),
            [record(2), record(1), record(4)].concat(),
            [&[1][..], &piece(&segment[..segment.len() - 3])].concat(),
            [&[1][..], &piece(&segment[3..])].concat(),
            whole,
        ]
    }
}

/// The intent log of a draft: its first row, then rows of changes.
pub(crate) mod draft {
    use std::sync::Arc;

    use crypto::{SeededEntropy, SymmetricKey};
    use p2pfs_volume::{
        Ino,
        content::{Blocks, Content, Draft, KeyRing, MemoryBlocks},
        fuzzing::draft_keys,
        memory_store::MemoryStore,
        sealed_store::SealedStore,
        store::{Batch, Space},
    };

    use crate::input::{Input, piece};

    const INO: Ino = Ino(5);

    struct Means {
        store: SealedStore,
        blocks: Blocks,
        keys: KeyRing,
    }

    fn means() -> Means {
        let secret = SymmetricKey::from_bytes([7; 32]);
        let entropy = Arc::new(SeededEntropy::new(1));
        Means {
            store: SealedStore::new(Arc::new(MemoryStore::new()), &secret, entropy.clone()),
            blocks: Blocks::new(Arc::new(MemoryBlocks::new()), entropy),
            keys: KeyRing::new(&SymmetricKey::from_bytes([8; 32])),
        }
    }

    pub(crate) fn run(data: &[u8]) {
        let Means { store, blocks, keys } = means();
        let mut input = Input::new(data);
        let mut batch = Batch::new();
        store.put(&mut batch, Space::Drafts, draft_keys(INO, 0).0, input.piece());
        for number in 0..8 {
            if !input.is_empty() {
                store.put(&mut batch, Space::Drafts, draft_keys(INO, number).1, input.piece());
            }
        }
        store.apply(batch).expect("memory can be written");
        let Ok(Some((mut draft, _header))) = Draft::recover(INO.0, &store, blocks.clone(), keys.clone()) else { return };
        let mut before = Vec::new();
        let read = draft.read(0, 100_000, &mut before);
        let size = draft.size();
        if let Ok(content) = draft.finish() {
            content.validate().expect("a draft's content is sound");
            assert_eq!(content.size, size);
            let mut after = Vec::new();
            if read.is_ok() && blocks.read(&content, &keys, 0, 100_000, &mut after).is_ok() {
                assert!(before == after, "what was published is not what was read");
            }
        }
    }

    pub(crate) fn seeds() -> Vec<Vec<u8>> {
        let Means { store, blocks, keys } = means();
        let mut seeds = Vec::new();
        for large in [false, true] {
            let mut draft = Draft::new(blocks.clone(), Content::empty(), keys.clone());
            let step = |draft: &mut Draft, change: &dyn Fn(&mut Draft) -> p2pfs_volume::Result<()>| {
                change(draft).expect("a draft can be changed");
                draft.persist(INO.0, b"header", &store).expect("and logged");
            };
            step(&mut draft, &|d| d.write(10, b"some bytes"));
            if large {
                step(&mut draft, &|d| d.truncate(200_000));
                step(&mut draft, &|d| d.punch(100, 70_000));
                step(&mut draft, &|d| d.write(150_000, &[1; 100]));
            }
            let rows = store.scan(Space::Drafts, &[], &[], usize::MAX).expect("memory can be read");
            seeds.push(rows.iter().flat_map(|(_, value)| piece(value)).collect());
        }
        seeds
    }
}
