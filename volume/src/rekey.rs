//! New epochs of the members' realm: what is sealed from then on, who was removed can't open.
//!
//! An epoch is stale when somebody who could read was removed and whoever made the epoch had not seen that. The removal
//! makes a new one in the same commit; where two removals crossed, whoever writes next does.

use std::collections::{BTreeMap, BTreeSet};

use crypto::{DerivingKey, EpochId, Label, SymmetricKey, UserId};

use crate::{
    apply::decode,
    commit::{ChangeKind, Head, MemberBody, SealedKey, decode as decode_canonical, encode},
    core::Core,
    epochs::as_user,
    error::Result,
    id::RealmId,
    member::{EpochRow, MemberRow, Role, StandingValue, UserRow, epoch_id},
    standing::Within,
    version::ValueRef,
};

/// Keys sealed in one change: their bytes must fit in a head.
pub(crate) const KEYS_PER_CHANGE: usize = 300;
/// Epochs beside the one in use that whoever lacks them is to have, the first ones: honest work is sealed under them. Many are
/// made only to keep others busy.
const MOST_APART: usize = 16;
/// Earlier epochs that one carries; these carry those before them.
pub(crate) const MOST_CARRIED: usize = 256;

/// An earlier epoch, as a later one carries it.
type Carried = (EpochId, SymmetricKey);

/// Under what is sealed what is made here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sealing {
    /// The epoch.
    pub epoch: Option<EpochId>,
    /// Whoever writes next must make an epoch first.
    pub epoch_due: bool,
    /// Keepers have not got the epoch's discovery key: an admin who writes next gives it.
    pub watch_due: bool,
}

impl Core {
    /// Whether somebody who could read was removed since an epoch was made.
    pub(crate) fn is_stale(&mut self, epoch_at: ValueRef) -> Result<bool> {
        // One of a grant, whose commit has not come yet.
        let changed = self.members.ever_changed() || !self.overlay.members.is_empty();
        if !changed || epoch_at.dot.seq == 0 {
            return Ok(false);
        }
        let lost_keys = |value: &StandingValue| value.role.is_none_or(|role| role < Role::Reader);
        let users = self.changed_users().into_iter().filter_map(|user| self.user_row(&user));
        let devices = self.cut_devices().into_iter().filter_map(|device| self.device_row(&device));
        let values = users.flat_map(|user| user.standings).chain(devices.flat_map(|device| device.expelled));
        let removals: Vec<ValueRef> = values.filter(lost_keys).map(|value| value.at).collect();
        for removal in removals {
            let seen = match removal.dot == epoch_at.dot {
                true => removal.index < epoch_at.index,
                false => self.covers(epoch_at.dot, removal.dot)?,
            };
            if !seen && self.counts(removal, Within::All)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The members' epochs, with what the running call made of them.
    fn members_epochs(&self) -> Vec<&EpochRow> {
        let mut rows: Vec<&EpochRow> = self.members.epochs.iter().collect();
        for fresh in &self.overlay.members {
            if let MemberRow::Epoch(row) = fresh
                && row.realm == RealmId::MEMBERS
            {
                rows.retain(|known| known.id != row.id);
                rows.push(row);
            }
        }
        rows
    }

    /// What is known of an epoch of any realm.
    pub(crate) fn epoch_row(&self, id: &EpochId) -> Option<&EpochRow> {
        let fresh = self.overlay.members.iter().rev().find_map(|row| match row {
            MemberRow::Epoch(row) if row.id == *id => Some(row),
            _ => None,
        });
        fresh.or_else(|| self.members.epoch(id))
    }

    /// The key of an epoch, if this device has it.
    pub(crate) fn epoch_key(&self, id: &EpochId) -> Option<DerivingKey> {
        self.epoch_row(id).and_then(|row| row.key.clone())
    }

    /// The epoch under which is sealed what is for all members; one that the running call makes before all others.
    pub(crate) fn sealing_epoch(&self) -> Option<(EpochId, DerivingKey)> {
        let fresh = self.overlay.members.iter().rev().find_map(|row| match row {
            MemberRow::Epoch(row) if row.realm == RealmId::MEMBERS => row.key.clone().map(|key| (row.id, key)),
            _ => None,
        });
        fresh.or_else(|| self.members.current_epoch().map(|(row, key)| (row.id, key.clone())))
    }

    /// Chooses the epoch to seal under, and notes whether whoever writes next must make one first. An epoch that leaves out a
    /// reader is none to seal under: they could not read what all others can.
    pub(crate) fn look_at_epoch(&mut self) -> Result<()> {
        let mut rows = self.members_epochs();
        rows.sort_by_key(|row| std::cmp::Reverse((row.count, row.id)));
        rows.retain(|row| row.key.is_some());
        let readers: Vec<UserId> = self.readers().collect();
        let (late, sound): (Vec<&EpochRow>, Vec<&EpochRow>) =
            rows.into_iter().partition(|row| self.late.contains(&row.at.dot));
        let is_had = |row: &EpochRow| readers.iter().all(|reader| self.is_given(row, reader));
        // (The first one says of nobody that they have it.)
        let usable = sound.iter().position(|row| row.count <= 1 || is_had(row));
        let chosen = usable.map(|place| sound[place].clone());
        let others: Vec<EpochRow> = late.into_iter().chain(sound).rev().cloned().collect();
        let epoch_due = match &chosen {
            // Who lacks another gets it with the next, which carries it.
            Some(row) => usable != Some(0) || self.is_stale(row.at)? || self.is_any_lacked(row, &others, &readers)?,
            None => false,
        };
        let epoch = chosen.map(|row| row.id);
        let watch_due = epoch.is_some_and(|epoch| self.unwatched(&epoch).next().is_some());
        if self.overlay.sealing.is_none() {
            self.overlay.sealing = Some(self.sealing.clone());
        }
        self.seal_as(Some(Sealing { epoch, epoch_due, watch_due }));
        Ok(())
    }

    /// Whether somebody lacks one of these that an epoch doesn't lead to.
    fn is_any_lacked(&mut self, epoch: &EpochRow, others: &[EpochRow], readers: &[UserId]) -> Result<bool> {
        let (mut apart, mut carried) = (0, None);
        for other in others.iter().filter(|other| other.at != epoch.at && other.count > 1) {
            if apart == MOST_APART {
                break;
            }
            if !self.leads_to(epoch, other, &mut carried)? {
                apart += 1;
                if readers.iter().any(|reader| !self.is_given(other, reader)) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Whether whoever made an epoch had seen another, and carried its key: they had none if they were left out of it then.
    fn leads_to(
        &mut self,
        epoch: &EpochRow,
        other: &EpochRow,
        carried: &mut Option<BTreeSet<EpochId>>,
    ) -> Result<bool> {
        if !self.covers(epoch.at.dot, other.at.dot)? {
            return Ok(false);
        }
        let device = self.branch_of(epoch.at.dot)?.device;
        let maker = self.author(&device, epoch.at.dot).map_or(self.my_id, |(user, _)| user);
        Ok(self.is_given(other, &maker) || carried.get_or_insert_with(|| self.all_carried(epoch)).contains(&other.id))
    }

    /// The earlier epochs that an epoch leads to, as far as their keys are known here.
    fn all_carried(&self, epoch: &EpochRow) -> BTreeSet<EpochId> {
        let (mut found, mut todo) = (BTreeSet::new(), vec![epoch.id]);
        while let Some(row) = todo.pop().and_then(|id| self.epoch_row(&id)) {
            let Some((key, carried)) = row.key.as_ref().zip(self.carried_by(row)) else { continue };
            let new = opened_carried(row.id, key, &carried).into_iter().map(|(id, _)| id);
            todo.extend(new.filter(|id| found.insert(*id)));
        }
        found
    }

    /// Goes on with this: what was worked out, or what was before a call that failed.
    pub(crate) fn seal_as(&mut self, sealing: Option<Sealing>) {
        if let Some(sealing) = sealing {
            self.members.sealing = sealing.epoch;
            self.sealing = sealing;
        }
    }

    /// Whether an epoch's key was sealed to a user, or to devices of theirs.
    fn is_given(&self, row: &EpochRow, user: &UserId) -> bool {
        row.has(user) || self.members.devices_of(user).any(|device| row.has(&as_user(&device.public.id)))
    }

    /// The users who hold the members' keys. Whoever has no device left gets them with the next one.
    fn readers(&self) -> impl Iterator<Item = UserId> + '_ {
        let has_device = |user: &UserId| {
            let mut devices = self.members.devices_of(user);
            devices.any(|row| self.device_now(&row.public.id).is_none_or(|row| !row.removed))
        };
        let reads = |row: &UserRow| !row.removed && row.role >= Role::Reader;
        self.users_now().filter(move |(user, row)| reads(row) && has_device(user)).map(|(user, _)| *user)
    }

    /// All users that were known before the running call, with what it made of them.
    pub(crate) fn users_now(&self) -> impl Iterator<Item = (&UserId, &UserRow)> + '_ {
        let mut fresh: BTreeMap<UserId, &UserRow> = BTreeMap::new();
        for row in &self.overlay.members {
            if let MemberRow::User(row) = row {
                fresh.insert(row.public.id(), row);
            }
        }
        self.members.users.iter().map(move |(user, row)| (user, fresh.get(user).copied().unwrap_or(row)))
    }

    /// Makes a new epoch of the members' realm, if the newest is stale and this user may.
    pub(crate) fn renew_epoch_if_due(&mut self) -> Result<()> {
        let role = self.members.role_of(&self.device.id());
        if !self.sealing.epoch_due || !role.is_some_and(Role::may_write) {
            return if self.sealing.watch_due && role.is_some_and(Role::may_admit) {
                self.tell_keepers()
            } else {
                Ok(())
            };
        }
        // A key of this user's that a removed device may hold is no good: a new one first, if this device can make it.
        let me = self.user.id();
        if self.good_user_key(&me)?.is_none() {
            self.renew_user_key()?;
        }
        let key = SymmetricKey::generate(&*self.entropy);
        let epoch = epoch_id(&key);
        let mut sealed = self.sealed_to_readers(epoch, &key)?;
        let rest = sealed.split_off(sealed.len().min(KEYS_PER_CHANGE));
        let carried = self.seal_carried((&epoch, &key), self.members.epochs.iter().rev());
        let kind = ChangeKind::Epoch {
            realm: RealmId::MEMBERS,
            epoch,
            previous: self.members.current_epoch().map(|(row, _)| row.id),
            sealed,
            carried,
        };
        self.emit::<MemberBody>(kind, &[], None)?;
        for keys in rest.chunks(KEYS_PER_CHANGE) {
            self.emit::<MemberBody>(ChangeKind::Keys { sealed: keys.to_vec() }, &[], None)?;
        }
        self.look_at_epoch()?;
        self.tell_keepers()
    }

    /// The key of an epoch for everybody who may read, this user first.
    fn sealed_to_readers(&mut self, epoch: EpochId, key: &SymmetricKey) -> Result<Vec<SealedKey>> {
        let me = self.user.id();
        let mut readers: Vec<UserId> = self.readers().filter(|user| *user != me).collect();
        readers.insert(0, me);
        let to = self.recipients(readers)?;
        Ok(self.seal_epoch(&epoch, key, &to))
    }

    /// Notes what an epoch says, with the keys that it leads to.
    pub(crate) fn apply_epoch(
        &mut self,
        at: ValueRef,
        count: u64,
        epoch: EpochId,
        sealed: &[SealedKey],
        carried: &[u8],
    ) -> Result<()> {
        let key = self.unseal_epoch(&epoch, sealed).or_else(|| self.epoch_key(&epoch));
        let mut row =
            EpochRow { id: epoch, at, count, key: key.clone(), given: Vec::new(), realm: RealmId::MEMBERS, by: None };
        row.give(sealed);
        // Somebody may tell of one that another made: it is as old as the first who did.
        let known = self.members.epochs.iter().find(|known| known.id == epoch && known.at.dot.seq > 0).cloned();
        if let Some(known) = known {
            row.given.extend(known.given);
            row.give(&[]);
            if self.rank((known.at, known.count), (row.at, row.count))?.is_lt() {
                (row.at, row.count) = (known.at, known.count);
            }
        }
        self.overlay.members.push(MemberRow::Epoch(row));
        if let Some(key) = key {
            self.learn_carried(epoch, &key, carried);
        }
        Ok(())
    }

    /// Takes keys of epochs that are sealed to this user.
    pub(crate) fn apply_keys(&mut self, sealed: &[SealedKey]) {
        let told: BTreeSet<EpochId> = sealed.iter().map(|key| key.epoch).collect();
        let rows: Vec<EpochRow> =
            self.members_epochs().into_iter().filter(|row| told.contains(&row.id)).cloned().collect();
        for mut row in rows {
            row.give(sealed);
            match row.key.is_none().then(|| self.unseal_epoch(&row.id, sealed)).flatten() {
                Some(key) => self.learn(&row, key),
                None => self.overlay.members.push(MemberRow::Epoch(row)),
            }
        }
    }

    /// The keys of earlier epochs, as far as they are known, for who has that of a new one.
    pub(crate) fn seal_carried<'a>(
        &self,
        (epoch, key): (&EpochId, &SymmetricKey),
        earlier: impl Iterator<Item = &'a EpochRow>,
    ) -> Vec<u8> {
        let known = earlier.filter_map(|row| row.key.as_ref().map(|key| (row.id, key.key().clone())));
        let carried: Vec<Carried> = known.take(MOST_CARRIED).collect();
        if carried.is_empty() {
            return Vec::new();
        }
        crypto::seal(&key.derive(Label::EpochWrap, b""), epoch.as_bytes(), &encode(&carried), &*self.entropy)
    }

    fn learn(&mut self, row: &EpochRow, key: DerivingKey) {
        self.overlay.members.push(MemberRow::Epoch(EpochRow { key: Some(key.clone()), ..row.clone() }));
        if let Some(carried) = self.carried_by(row) {
            self.learn_carried(row.id, &key, &carried);
        }
    }

    /// What a known epoch carries, sealed.
    fn carried_by(&self, row: &EpochRow) -> Option<Vec<u8>> {
        let head = self.change(row.at).ok().and_then(|raw| decode::<Head>(&raw.head).ok());
        match head.map(|head| head.kind) {
            Some(ChangeKind::Epoch { carried, .. }) => Some(carried),
            _ => None,
        }
    }

    /// Takes the keys of earlier epochs that a later one carries, and those that these carry.
    pub(crate) fn learn_carried(&mut self, epoch: EpochId, key: &DerivingKey, carried: &[u8]) {
        // (Who means harm makes long chains of them.)
        let mut seen = BTreeSet::from([epoch]);
        let mut todo = vec![(epoch, key.clone(), carried.to_vec())];
        while let Some((epoch, key, carried)) = todo.pop() {
            for (id, key) in opened_carried(epoch, &key, &carried) {
                if !seen.insert(id) {
                    continue;
                }
                let Some(row) = self.epoch_row(&id).filter(|row| row.key.is_none()) else { continue };
                let (row, key) = (row.clone(), DerivingKey::from(key));
                todo.extend(self.carried_by(&row).map(|carried| (id, key.clone(), carried)));
                self.overlay.members.push(MemberRow::Epoch(EpochRow { key: Some(key), ..row }));
            }
        }
    }
}

/// The earlier epochs that one carries; none of those that aren't what they are called.
fn opened_carried(epoch: EpochId, key: &DerivingKey, carried: &[u8]) -> Vec<Carried> {
    let plain = crypto::open(&key.derive(Label::EpochWrap), epoch.as_bytes(), carried).ok();
    let found: Option<Vec<Carried>> = plain.and_then(|plain| decode_canonical("earlier epochs", &plain).ok());
    let mut found = found.unwrap_or_default();
    found.retain(|(id, key)| epoch_id(key) == *id);
    found
}
