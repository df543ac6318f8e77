//! The store as it lies on the disk, with rows that somebody damaged: the volume opens and works, or says so.

use std::sync::Arc;

use crypto::{DeviceKeys, SeededEntropy, SymmetricKey, UserKeys, VolumeId};
use p2pfs_volume::{
    Caller, Ino, NodeKind, OpenMode, Parts, Result, Volume,
    content::MemoryBlocks,
    memory_store::MemoryStore,
    store::{Batch, Space, Store},
};

use crate::{
    common::StepClock,
    sample::Sample,
};

/// The sample's rows and keys, to open it from again and again.
pub(crate) struct Frozen {
    pub(crate) rows: Vec<(Space, Vec<u8>, Vec<u8>)>,
    blocks: Arc<MemoryBlocks>,
    volume: VolumeId,
    secret: SymmetricKey,
    device: Vec<u8>,
    user: Vec<u8>,
}

impl Frozen {
    pub(crate) fn of(sample: &Sample) -> Self {
        // As the sample's first member got them.
        let entropy = SeededEntropy::new(1);
        Self {
            rows: sample.raw_rows(),
            blocks: sample.ada.blocks.clone(),
            volume: sample.ada.volume.id(),
            secret: SymmetricKey::generate(&entropy),
            device: DeviceKeys::generate(&entropy).to_bytes().to_vec(),
            user: UserKeys::generate(&entropy).to_bytes().to_vec(),
        }
    }

    /// Opens the volume with some rows put in place of others, or taken away.
    pub(crate) fn load(&self, changed: &[(Space, Vec<u8>, Option<Vec<u8>>)]) -> Result<Volume> {
        let store = Arc::new(MemoryStore::new());
        let mut batch = Batch::new();
        batch.writes.extend(self.rows.iter().map(|(space, key, value)| (*space, key.clone(), Some(value.clone()))));
        batch.writes.extend(changed.iter().cloned());
        store.apply(batch)?;
        let parts = Parts {
            store,
            blocks: self.blocks.clone(),
            clock: Arc::new(StepClock::default()),
            entropy: Arc::new(SeededEntropy::new(77)),
            secret: self.secret.clone(),
            device: DeviceKeys::from_bytes(&self.device).expect("the sample's own"),
            user: UserKeys::from_bytes(&self.user).expect("the sample's own"),
            archive: None,
            directory: None,
        };
        Volume::load(parts, self.volume)
    }
}

/// Lists and reads everything, and changes something in each directory.
pub(crate) fn look_around(volume: &Volume) {
    let mut directories = vec![Ino::ROOT];
    let mut seen = 0;
    while let Some(directory) = directories.pop() {
        let mut after = 0;
        while let Ok(entries) = volume.read_directory(directory, after, 16) {
            let Some(last) = entries.last() else { break };
            assert!(last.cookie > after, "a directory goes round in circles");
            after = last.cookie;
            for entry in entries {
                seen += 1;
                if seen > 400 || entry.name == b"." || entry.name == b".." {
                    continue;
                }
                let Ok(found) = volume.lookup(directory, &entry.name) else { continue };
                let _xattrs = volume.list_xattrs(found.ino);
                let _target = volume.readlink(found.ino);
                match found.kind {
                    NodeKind::Directory => directories.push(found.ino),
                    NodeKind::File => read(volume, found.ino),
                    _ => {}
                }
            }
            if seen > 400 {
                return;
            }
        }
        let made = volume.make(directory, b"new", p2pfs_volume::NewNode::File, 0o644, &Caller::default());
        if made.is_ok() {
            let _gone = volume.unlink(directory, b"new");
        }
    }
    let _members = (volume.members(), volume.devices(), volume.status(), volume.open_invitations());
}

fn read(volume: &Volume, ino: Ino) {
    let mode = OpenMode { read: true, write: true, ..OpenMode::default() };
    let Ok(handle) = volume.open(ino, mode, &Caller::default()) else { return };
    let mut bytes = Vec::new();
    if volume.read(handle, 0, 100_000, &mut bytes).is_ok() {
        let _written = volume.write(handle, 1, b"x", &Caller::default());
    }
    let _published = volume.flush(handle);
    let _closed = volume.release(handle);
}

/// A few rows replaced, emptied or taken away.
pub(crate) mod store {
    use std::sync::OnceLock;

    use super::{Frozen, Sample, look_around};
    use crate::input::{Input, piece};

    fn frozen() -> &'static Frozen {
        static FROZEN: OnceLock<Frozen> = OnceLock::new();
        FROZEN.get_or_init(|| Frozen::of(&Sample::new()))
    }

    pub(crate) fn run(data: &[u8]) {
        let frozen = frozen();
        let mut input = Input::new(data);
        let mut changed = Vec::new();
        for _ in 0..4 {
            if input.is_empty() {
                break;
            }
            let (space, key, value) = &frozen.rows[usize::from(input.u16()) % frozen.rows.len()];
            let value = match input.byte() % 4 {
                0 => Some(input.piece().to_vec()),
                1 => None,
                // Another row's value.
                2 => Some(frozen.rows[usize::from(input.u16()) % frozen.rows.len()].2.clone()),
                // One byte of its own.
                _ => {
                    let mut value = value.clone();
                    let place = usize::from(input.u16()) % value.len().max(1);
                    if let Some(byte) = value.get_mut(place) {
                        *byte ^= input.byte();
                    }
                    Some(value)
                }
            };
            changed.push((*space, key.clone(), value));
        }
        if let Ok(volume) = frozen.load(&changed) {
            look_around(&volume);
        }
    }

    pub(crate) fn seeds() -> Vec<Vec<u8>> {
        let rows = &frozen().rows;
        let mut seeds = Vec::new();
        for (number, (_, _, value)) in rows.iter().enumerate().filter(|(_, row)| row.2.len() < 600) {
            let number = (number as u16).to_le_bytes();
            match seeds.len() % 3 {
                0 => seeds.push([&number[..], &[1]].concat()),
                1 => seeds.push([&number[..], &[0], &piece(value)].concat()),
                _ => seeds.push([&number[..], &[3, 9, 0, 1]].concat()),
            }
        }
        seeds
    }
}
