//! Keepers: devices that store and serve a volume's ciphertext without a key to read it.
//!
//! Owns what they are given in place of keys, discovery keys, which only show who belongs to the volume; and what they
//! need to know of contents that they can't open, which heads tell. How much of the disk they may take is said by
//! [`crate::space::Quota`].
//!
//! Invariant: nothing that is sealed to a keeper leads to an epoch's key, or to one below it.

use std::sync::Arc;

use crypto::{DerivingKey, EpochId, Label, SymmetricKey, UserPublic};
use serde::{Deserialize, Serialize};

use crate::{
    apply::{Origin, decode},
    commit::{ChangeKind, Head, MemberBody, RawChange, SealedKey},
    content::BlockHash,
    core::Core,
    error::Result,
    member::{EpochRow, MemberRow, Role, short_id},
    rekey::KEYS_PER_CHANGE,
    row::NodeRow,
    version::ValueRef,
    volume::Volume,
};

/// What is known of an epoch's discovery key.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct WatchRow {
    pub epoch: EpochId,
    /// Sealed to this device's user, who has not the epoch's own.
    pub key: Option<SymmetricKey>,
    /// To whom it was sealed: the first bytes of their ids, in order.
    pub given: Vec<u32>,
}

impl Core {
    /// Whether this device keeps contents that it can't open: its user is a keeper, or may be one, as long as neither its
    /// admission has come nor any key.
    pub(crate) fn keeps_unread(&self) -> bool {
        match self.members.role_of(&self.device.id()) {
            Some(role) => role == Role::Keeper,
            None => self.members.epochs.iter().all(|epoch| epoch.key.is_none()),
        }
    }

    fn watch_row(&self, epoch: &EpochId) -> WatchRow {
        let fresh = self.overlay.members.iter().rev().find_map(|row| match row {
            MemberRow::Watch(row) if row.epoch == *epoch => Some(row.clone()),
            _ => None,
        });
        let known = fresh.or_else(|| self.members.watches.get(epoch).cloned());
        known.unwrap_or(WatchRow { epoch: *epoch, key: None, given: Vec::new() })
    }

    /// The keepers who have not got an epoch's discovery key.
    pub(crate) fn unwatched(&self, epoch: &EpochId) -> impl Iterator<Item = UserPublic> + '_ {
        let given = self.watch_row(epoch).given;
        let keepers = self.users_now().filter(|(_, row)| !row.removed && row.role == Role::Keeper);
        let keepers = keepers.filter(move |(keeper, _)| given.binary_search(&short_id(keeper)).is_err());
        keepers.map(|(_, row)| row.public)
    }

    /// Gives the discovery key of the epoch that things are sealed under to all keepers who have not got it.
    pub(crate) fn tell_keepers(&mut self) -> Result<()> {
        let Some((epoch, key)) = self.sealing_epoch() else { return Ok(()) };
        let keepers: Vec<UserPublic> = self.unwatched(&epoch).collect();
        let sealed: Vec<SealedKey> =
            keepers.iter().filter_map(|keeper| self.seal_discovery(keeper, &epoch, &key)).collect();
        for sealed in sealed.chunks(KEYS_PER_CHANGE) {
            self.emit::<MemberBody>(ChangeKind::Watch { sealed: sealed.to_vec() }, &[], None)?;
        }
        // As long as the running call may fail it stays due. Those whose keys nothing can be sealed to are not tried again.
        self.sealing.watch_due = !sealed.is_empty();
        Ok(())
    }

    /// An epoch's discovery key for a keeper.
    pub(crate) fn seal_discovery(&self, to: &UserPublic, epoch: &EpochId, key: &DerivingKey) -> Option<SealedKey> {
        let discovery = key.derive(Label::DiscoveryKey);
        self.seal_known_discovery(to, epoch, &discovery)
    }

    /// The discovery keys of all epochs known here for a keeper, the newest first.
    pub(crate) fn all_discovery_for(&self, to: &UserPublic) -> Vec<SealedKey> {
        let known = self.members.epochs.iter().rev().filter_map(|row| Some((row.id, row.key.as_ref()?)));
        known.filter_map(|(epoch, key)| self.seal_discovery(to, &epoch, key)).collect()
    }

    fn seal_known_discovery(&self, to: &UserPublic, epoch: &EpochId, discovery: &SymmetricKey) -> Option<SealedKey> {
        let sealed = to.box_key.seal(Label::BoxDiscoveryKey, epoch.as_bytes(), discovery.expose(), &*self.entropy).ok();
        if sealed.is_none() {
            log::warn!("user {}: nothing can be sealed to their key", to.id().short());
        }
        Some(SealedKey { user: to.id(), generation: to.generation, epoch: *epoch, sealed: sealed? })
    }

    /// The discovery keys that were given to this device, sealed to its own user.
    pub(crate) fn own_discovery(&self) -> Vec<SealedKey> {
        let me = self.user.public();
        let known = self.members.watches.values().filter_map(|row| Some((row.epoch, row.key.as_ref()?)));
        known.filter_map(|(epoch, key)| self.seal_known_discovery(&me, &epoch, key)).collect()
    }

    /// A discovery key that is sealed to this device's user.
    pub(crate) fn unseal_discovery(&self, sealed: &SealedKey) -> Option<SymmetricKey> {
        if sealed.user != self.user.id() || sealed.generation != self.user.generation {
            return None;
        }
        let bytes = self.user.boxes.open(Label::BoxDiscoveryKey, sealed.epoch.as_bytes(), &sealed.sealed).ok()?;
        Some(SymmetricKey::from_bytes(bytes.as_slice().try_into().ok()?))
    }

    /// Takes a discovery key that this device's user was given.
    pub(crate) fn accept_discovery(&mut self, epoch: EpochId, key: SymmetricKey) {
        let known = self.watch_row(&epoch);
        self.overlay.members.push(MemberRow::Watch(WatchRow { key: Some(key), ..known }));
    }

    /// Notes to whom discovery keys are given, and takes those for this device's user. No key tells that it is an epoch's:
    /// who made the epoch is believed, in the same commit, and who may admit.
    pub(crate) fn apply_watch(&mut self, origin: &Origin, sealed: &[SealedKey]) {
        for key in sealed {
            if !origin.role.may_admit() && !self.is_made_by(&key.epoch, origin) {
                continue;
            }
            let mut row = self.watch_row(&key.epoch);
            let user = short_id(&key.user);
            if let Err(place) = row.given.binary_search(&user) {
                row.given.insert(place, user);
            }
            if row.key.is_none() {
                row.key = self.unseal_discovery(key);
            }
            self.overlay.members.push(MemberRow::Watch(row));
        }
    }

    fn is_made_by(&self, epoch: &EpochId, origin: &Origin) -> bool {
        let made = |row: &EpochRow| row.id == *epoch && row.at.dot == origin.dot;
        let fresh = self.overlay.members.iter().any(|row| matches!(row, MemberRow::Epoch(row) if made(row)));
        fresh || self.members.epochs.iter().any(made)
    }

    /// The contents of a row that lie in blocks, also those that don't open here.
    pub(crate) fn trees_of(&self, row: &NodeRow) -> Result<Vec<(BlockHash, u64)>> {
        trees_with(row, |at| self.change(at))
    }

    /// The tree of a content that this device keeps without being able to open it: nothing in its place if it has none.
    /// `None` for one that it should be able to open.
    pub(crate) fn kept_unread(&self, row: &NodeRow, at: ValueRef) -> Result<Option<Option<(BlockHash, u64)>>> {
        let closed = row.closed_contents().any(|closed| closed == at);
        if closed && self.keeps_unread() { self.tree_by_head(at).map(Some) } else { Ok(None) }
    }

    fn tree_by_head(&self, at: ValueRef) -> Result<Option<(BlockHash, u64)>> {
        tree_in(&*self.change(at)?)
    }
}

/// What a content's head says.
fn tree_in(change: &RawChange) -> Result<Option<(BlockHash, u64)>> {
    match decode::<Head>(&change.head)?.kind {
        ChangeKind::Content { root, blocks, .. } if !root.is_hole() => Ok(Some((root, blocks))),
        _ => Ok(None),
    }
}

/// [`Core::trees_of`], with changes read by `change`.
pub(crate) fn trees_with(
    row: &NodeRow,
    change: impl Fn(ValueRef) -> Result<Arc<RawChange>>,
) -> Result<Vec<(BlockHash, u64)>> {
    let mut trees: Vec<_> = row.trees().collect();
    for at in row.closed_contents() {
        trees.extend(tree_in(&*change(at)?)?);
    }
    Ok(trees)
}

impl Volume {
    /// Whether this device's user stores and serves the volume without being able to read it: by their admission or, until
    /// that has come, by what they were given.
    pub fn is_keeper(&self) -> bool {
        let core = self.inner.core.lock();
        let given = core.members.watches.values().any(|row| row.key.is_some());
        core.keeps_unread() && (given || core.members.role_of(&core.device.id()).is_some())
    }

    /// Sets how many bytes of the disk this device is to take for the volume; `None`: as many as there are. Beyond, contents
    /// are not fetched any more; commits are.
    pub fn set_quota(&self, bytes: Option<u64>) {
        self.inner.quota.set(bytes);
        self.wake_sessions();
    }

    /// Whether contents are not fetched since they have no room.
    pub(crate) fn is_over_quota(&self) -> bool {
        self.inner.quota.is_reached(self.inner.clock.monotonic())
    }
}
