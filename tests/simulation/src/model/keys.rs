//! What somebody can open who has these keys and all commits, whatever a program of ours would show them.

use std::collections::BTreeMap;

use crypto::{BoxSecret, DeviceKeys, EpochId, Hash, Label, SymmetricKey, UserId, UserKeys};
use serde::{Serialize, de::DeserializeOwned};
use volume::{
    commit::{self, AccessHead, ChangeKind, SealedKey},
    id::NodeId,
};

use super::history::{Change, History};

/// The generation under which what is sealed to a device says so.
const TO_DEVICE: u32 = u32::MAX;
/// Bytes of an earlier key in what an access value wraps, with its generation.
const EARLIER_KEY: usize = 36;

/// See the module.
pub struct KeyRing {
    epochs: BTreeMap<EpochId, SymmetricKey>,
    nodes: BTreeMap<NodeId, Vec<SymmetricKey>>,
}

impl KeyRing {
    /// Follows every key to the next one.
    pub fn new(history: &History<'_>, user: &UserKeys, device: &DeviceKeys) -> Self {
        let secrets = Self::secrets(history, user, device);
        let mut epochs = BTreeMap::new();
        let mine = |sealed: &&SealedKey| match sealed.generation {
            TO_DEVICE => sealed.user == UserId::from_bytes(*device.id().as_bytes()),
            _ => sealed.user == user.id(),
        };
        for change in history.changes() {
            let (ChangeKind::Epoch { sealed, .. } | ChangeKind::Keys { sealed } | ChangeKind::Grant { sealed, .. }) =
                &change.head.kind
            else {
                continue;
            };
            for sealed in sealed.iter().filter(mine) {
                let id = sealed.epoch;
                let open = |secret: &BoxSecret| secret.open(Label::BoxEpochKey, id.as_bytes(), &sealed.sealed).ok();
                let key = secrets.iter().find_map(open).and_then(|bytes| bytes.as_slice().try_into().ok());
                epochs.extend(key.map(|key| (id, SymmetricKey::from_bytes(key))));
            }
        }
        loop {
            let before = epochs.len();
            for change in history.changes() {
                let ChangeKind::Epoch { epoch, carried, .. } = &change.head.kind else { continue };
                let Some(key) = epochs.get(epoch) else { continue };
                let plain = crypto::open(&key.derive(Label::EpochWrap, b""), epoch.as_bytes(), carried).ok();
                let found = plain.and_then(|plain| commit::decode::<Vec<(EpochId, SymmetricKey)>>("keys", &plain).ok());
                epochs.extend(found.into_iter().flatten().filter(|(id, key)| is_called(*id, key)));
            }
            if epochs.len() == before {
                break;
            }
        }
        let mut ring = KeyRing { epochs, nodes: BTreeMap::new() };
        for change in history.changes() {
            match &change.head.kind {
                ChangeKind::Birth { access, .. } => ring.unwrap(change.born(), access),
                ChangeKind::Access { node, access } => ring.unwrap(*node, access),
                _ => {}
            }
        }
        ring
    }

    fn secrets(history: &History<'_>, user: &UserKeys, device: &DeviceKeys) -> Vec<BoxSecret> {
        let copy = |secret: &BoxSecret| BoxSecret::from_bytes(*secret.to_bytes());
        let mut secrets = vec![copy(&user.boxes), copy(&device.boxes)];
        for change in history.changes() {
            let ChangeKind::UserKey { user: public, sealed, .. } = &change.head.kind else { continue };
            let mine = sealed.iter().find(|sealed| sealed.device == device.id() && public.id() == user.id());
            let bytes =
                mine.and_then(|mine| device.boxes.open(Label::BoxUserKey, user.id().as_bytes(), &mine.sealed).ok());
            secrets.extend(bytes.and_then(|bytes| bytes.as_slice().try_into().ok()).map(BoxSecret::from_bytes));
        }
        secrets
    }

    fn unwrap(&mut self, node: NodeId, access: &AccessHead) {
        let Some(epoch) = self.epochs.get(&access.epoch) else { return };
        let key = epoch.derive(Label::NodeKeyWrap, b"");
        let Ok(bytes) = crypto::open(&key, &access.generation.to_le_bytes(), &access.wrapped) else { return };
        let Some((own, earlier)) = bytes.split_first_chunk::<32>() else { return };
        let keys = self.nodes.entry(node).or_default();
        keys.push(SymmetricKey::from_bytes(*own));
        for entry in earlier.chunks_exact(EARLIER_KEY) {
            keys.extend(entry[4..].try_into().ok().map(SymmetricKey::from_bytes));
        }
    }

    /// Keys of a node.
    pub fn of_node(&self, node: NodeId) -> &[SymmetricKey] {
        self.nodes.get(&node).map_or(&[], |keys| keys)
    }

    /// What a change says of a node, or within it, in its sealed part.
    pub fn open<T: Serialize + DeserializeOwned>(&self, change: &Change<'_>, of: NodeId) -> Option<T> {
        let label = match change.head.kind {
            ChangeKind::Place { .. } => Label::NameKey,
            _ => Label::BodyKey,
        };
        self.of_node(of).iter().find_map(|key| change.opened(&key.derive(label, b"")))
    }
}

fn is_called(id: EpochId, key: &SymmetricKey) -> bool {
    *Hash::of(Label::EpochCommitment, &[key.expose()]).as_bytes() == *id.as_bytes()
}
