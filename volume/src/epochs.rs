//! Epochs' keys: to whom they are sealed, and opening them.
//!
//! Owns which encryption key of a user is used. Does not own when an epoch is made, or who is a member.
//!
//! Invariant: no epoch key is sealed to a key that a removed device may hold. A user's key is good as long as no device
//! of theirs was removed since it was made; until there is such a one, each of their remaining devices is sealed to.

use std::{cmp::Ordering, collections::BTreeMap};

use crypto::{BoxPublic, BoxSecret, DeviceId, EpochId, Label, SymmetricKey, UserId, UserPublic};

use crate::{
    commit::SealedKey,
    core::Core,
    error::Result,
    member::{MemberRow, epoch_id},
    own_devices::SecretRow,
    standing::Within,
    version::ValueRef,
};

/// In place of a user's generation: sealed to one device, whose id stands for the user's.
pub(crate) const TO_DEVICE: u32 = u32::MAX;

/// The removals of devices that stand.
pub(crate) type Removals = BTreeMap<DeviceId, Vec<ValueRef>>;

/// One to whom an epoch's key is sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Recipient {
    /// The user, or the device's id in its place.
    pub user: UserId,
    /// Which of the user's keys, or [`TO_DEVICE`].
    pub generation: u32,
    /// The key.
    pub box_key: BoxPublic,
}

impl Recipient {
    pub(crate) fn user(public: &UserPublic) -> Self {
        Self { user: public.id(), generation: public.generation, box_key: public.box_key }
    }

    pub(crate) fn device(device: &crypto::DevicePublic) -> Self {
        Self { user: as_user(&device.id), generation: TO_DEVICE, box_key: device.box_key }
    }
}

/// In the place of a user's id.
pub(crate) fn as_user(device: &DeviceId) -> UserId {
    UserId::from_bytes(*device.as_bytes())
}

impl Core {
    /// The removals of devices that stand, as far as is known here.
    pub(crate) fn removals(&mut self) -> Result<Removals> {
        let mut removals = Removals::new();
        if !self.members.ever_changed() && self.overlay.members.is_empty() {
            return Ok(removals);
        }
        for device in self.cut_devices() {
            let Some(row) = self.device_row(&device) else { continue };
            let mut standing = Vec::new();
            for value in row.expelled {
                if self.counts(value.at, Within::All)? {
                    standing.push(value.at);
                }
            }
            // One whose admission is cut has no removal of its own.
            if !standing.is_empty() || row.removed {
                removals.insert(device, standing);
            }
        }
        Ok(removals)
    }

    /// To whom a key is sealed that these users are to have.
    pub(crate) fn recipients(&mut self, users: impl IntoIterator<Item = UserId>) -> Result<Vec<Recipient>> {
        let removed = self.removals()?;
        self.recipients_without(users, &removed)
    }

    /// The same when these removals stand.
    fn recipients_without(
        &mut self,
        users: impl IntoIterator<Item = UserId>,
        removed: &Removals,
    ) -> Result<Vec<Recipient>> {
        let mut recipients = Vec::new();
        for user in users {
            match self.good_key_without(&user, removed)? {
                Some(key) => recipients.push(Recipient::user(&key)),
                None => {
                    let left = self.members.devices_of(&user).filter(|device| !removed.contains_key(&device.public.id));
                    recipients.extend(left.map(|device| Recipient::device(&device.public)));
                }
            }
        }
        Ok(recipients)
    }

    /// The newest encryption key of a user that no removed device may hold, if there is one.
    pub(crate) fn good_user_key(&mut self, user: &UserId) -> Result<Option<UserPublic>> {
        let removed = self.removals()?;
        self.good_key_without(user, &removed)
    }

    fn good_key_without(&mut self, user: &UserId, removed: &Removals) -> Result<Option<UserPublic>> {
        let of_user = self.members.devices_of(user).filter_map(|row| removed.get(&row.public.id));
        let gone: Vec<ValueRef> = of_user.flatten().copied().collect();
        let mut best: Option<(UserPublic, ValueRef, u64)> = None;
        for key in self.user_keys(user).map(|row| row.keys).unwrap_or_default() {
            let mut good = !self.is_void(key.at)?;
            for removal in &gone {
                good = good && self.value_covers(key.at, *removal)?;
            }
            let newer = match &best {
                _ if !good => false,
                None => true,
                Some((old, ..)) if old.generation != key.public.generation => old.generation < key.public.generation,
                Some((_, at, count)) => self.rank((*at, *count), (key.at, key.count))? == Ordering::Less,
            };
            if newer {
                best = Some((key.public, key.at, key.count));
            }
        }
        let first = self.members.users.get(user).map(|row| row.public).filter(|_| gone.is_empty());
        Ok(best.map(|(key, ..)| key).or(first))
    }

    /// The key of an epoch, sealed to each of these.
    pub(crate) fn seal_epoch(&self, epoch: &EpochId, key: &SymmetricKey, to: &[Recipient]) -> Vec<SealedKey> {
        let mut keys = Vec::with_capacity(to.len());
        for Recipient { user, generation, box_key } in to {
            match box_key.seal(Label::BoxEpochKey, epoch.as_bytes(), key.expose(), &*self.entropy) {
                Ok(sealed) => keys.push(SealedKey { user: *user, generation: *generation, epoch: *epoch, sealed }),
                // Whoever made such a key wants nothing to be sealed to it; the others are to have theirs.
                Err(e) => log::warn!("user {}: {e}: no key of the volume is sealed to it", user.short()),
            }
        }
        keys
    }

    /// Whether a sealed key says that it is for this device or its user.
    pub(crate) fn is_for_me(&self, sealed: &SealedKey) -> bool {
        sealed.user == self.user.id() || (sealed.generation == TO_DEVICE && sealed.user == as_user(&self.device.id()))
    }

    /// Opens an epoch's key that is sealed to this device or its user.
    pub(crate) fn unseal(&self, sealed: &SealedKey) -> Option<SymmetricKey> {
        if !self.is_for_me(sealed) {
            return None;
        }
        let open = |secret: &BoxSecret| {
            let bytes = secret.open(Label::BoxEpochKey, sealed.epoch.as_bytes(), &sealed.sealed).ok()?;
            let key = SymmetricKey::from_bytes(bytes.as_slice().try_into().ok()?);
            (epoch_id(&key) == sealed.epoch).then_some(key)
        };
        if sealed.user != self.user.id() {
            return open(&self.device.boxes);
        }
        let first = Some(&self.user.boxes).filter(|_| self.user.generation == sealed.generation).and_then(open);
        // Two devices apart may have made a key of one generation each.
        let others = || {
            let fresh = self.overlay.members.iter().filter_map(|row| match row {
                MemberRow::Secret(row) => Some(row),
                _ => None,
            });
            let known = fresh.chain(self.members.secrets.values());
            known.filter(|row| row.generation == sealed.generation).find_map(|row| open(&row.secret()))
        };
        first.or_else(others)
    }

    /// The secrets of this device's user that are known here, the newest first.
    pub(crate) fn own_secrets(&self) -> Vec<SecretRow> {
        let mut secrets = vec![SecretRow::new(&self.user.boxes, self.user.generation)];
        secrets.extend(self.members.secrets.values().filter(|row| row.public != self.user.boxes.public()).cloned());
        secrets.sort_by_key(|row| std::cmp::Reverse((row.generation, row.public)));
        secrets
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use crypto::{DeviceKeys, Entropy, SeededEntropy, UserKeys};

    use super::*;
    use crate::{Clock, DeviceRequest, Parts, Timestamp, Volume, content::MemoryBlocks, memory_store::MemoryStore};

    struct Still;

    impl Clock for Still {
        fn now(&self) -> Timestamp {
            Timestamp { secs: 1_795_338_900, nanos: 0 }
        }

        fn monotonic(&self) -> Duration {
            Duration::ZERO
        }
    }

    fn parts(seed: u64, user: UserKeys) -> Parts {
        let entropy: Arc<dyn Entropy> = Arc::new(SeededEntropy::new(seed));
        Parts {
            store: Arc::new(MemoryStore::new()),
            blocks: Arc::new(MemoryBlocks::new()),
            clock: Arc::new(Still),
            secret: SymmetricKey::generate(&*entropy),
            device: device_keys(seed),
            user,
            archive: None,
            directory: None,
            entropy,
        }
    }

    fn device_keys(seed: u64) -> DeviceKeys {
        DeviceKeys::generate(&SeededEntropy::new(1000 + seed))
    }

    fn alice() -> UserKeys {
        UserKeys::generate(&SeededEntropy::new(99))
    }

    fn found() -> Volume {
        Volume::found(parts(1, alice()), "alice").unwrap()
    }

    /// A further device, which knows what `first` does.
    fn next(seed: u64, first: &Volume) -> Volume {
        let ticket = first.invite_device(Some(Duration::from_secs(60))).unwrap();
        let grant = first.admit_device(&DeviceRequest::new(&ticket, &device_keys(seed), None, b"e"), b"e").unwrap();
        let user = grant.open(&alice().id(), &device_keys(seed)).unwrap();
        let volume = Volume::load(parts(seed, user), grant.volume).unwrap();
        volume.accept_device(&grant).unwrap();
        tell(first, &volume);
        volume
    }

    /// Brings all that `from` knows to `to`.
    fn tell(from: &Volume, to: &Volume) {
        from.commit_now().unwrap();
        let commits = {
            let core = from.inner.core.lock();
            let all = core.tips().flat_map(|tip| (1..=tip.seq).map(move |seq| crate::version::Dot { seq, ..tip }));
            let mut all: Vec<_> = all.map(|dot| (core.commit_row(dot).unwrap().unwrap().arrival, dot)).collect();
            all.sort_unstable();
            all.into_iter().map(|(_, dot)| core.export(dot).unwrap().unwrap()).collect::<Vec<_>>()
        };
        for commit in commits {
            to.inner.core.lock().receive(&mut commit.check().unwrap()).unwrap();
        }
    }

    /// Where the admission of a device stands, or what else was known then.
    fn admitted(at: &Volume, seed: u64) -> ValueRef {
        at.inner.core.lock().members.devices[&device_keys(seed).id()].granted[0]
    }

    fn recipients(at: &Volume, removed: &Removals) -> Vec<Recipient> {
        at.inner.core.lock().recipients_without([alice().id()], removed).unwrap()
    }

    /// Whether each of these opens what is sealed to the recipients.
    fn opened(sealing: &Volume, to: &[Recipient], by: &[&Volume]) -> Vec<bool> {
        let key = SymmetricKey::from_bytes([5; 32]);
        let sealed = sealing.inner.core.lock().seal_epoch(&epoch_id(&key), &key, to);
        assert_eq!(sealed.len(), to.len());
        let opens = |volume: &Volume| {
            let core = volume.inner.core.lock();
            sealed.iter().any(|sealed| core.unseal(sealed) == Some(key.clone()))
        };
        by.iter().map(|volume| opens(volume)).collect()
    }

    fn renew(at: &Volume, without: &[DeviceId]) -> bool {
        at.local_commit(|core| core.renew_key_without(without)).unwrap()
    }

    #[test]
    fn a_key_is_sealed_to_a_users_key_while_nothing_was_removed() {
        let alice = found();
        let (phone, tablet) = (next(2, &alice), next(3, &alice));
        tell(&alice, &phone);
        let to = recipients(&phone, &Removals::new());
        assert_eq!(to.iter().map(|to| to.generation).collect::<Vec<_>>(), [0]);
        assert_eq!(opened(&phone, &to, &[&alice, &phone, &tablet]), [true; 3]);
    }

    #[test]
    fn after_a_removal_the_rest_are_sealed_to_one_by_one_until_there_is_a_new_key() {
        let alice = found();
        let (phone, tablet) = (next(2, &alice), next(3, &alice));
        let removed: Removals = [(device_keys(2).id(), vec![admitted(&alice, 3)])].into();
        let to = recipients(&alice, &removed);
        assert_eq!(to.iter().map(|to| to.generation).collect::<Vec<_>>(), [TO_DEVICE; 2]);
        assert_eq!(opened(&alice, &to, &[&alice, &phone, &tablet]), [true, false, true]);
        // Who has no signing key makes no new one.
        tell(&alice, &tablet);
        assert!(!renew(&tablet, &[device_keys(2).id()]));
        assert!(renew(&alice, &[device_keys(2).id()]));
        tell(&alice, &phone);
        tell(&alice, &tablet);
        for at in [&alice, &tablet] {
            let removed: Removals = [(device_keys(2).id(), vec![admitted(at, 3)])].into();
            let to = recipients(at, &removed);
            assert_eq!(to.iter().map(|to| to.generation).collect::<Vec<_>>(), [1]);
            assert_eq!(opened(at, &to, &[&alice, &phone, &tablet]), [true, false, true]);
        }
        // A device that comes later gets all of them.
        let laptop = next(4, &alice);
        let old = Recipient::user(&super::tests::alice().public());
        for to in [recipients(&alice, &removed), vec![old]] {
            assert_eq!(opened(&alice, &to, &[&laptop]), [true]);
        }
    }

    #[test]
    fn a_key_made_without_knowing_of_the_removal_is_no_good() {
        let alice = found();
        let phone = next(2, &alice);
        assert!(renew(&alice, &[]));
        assert_eq!(recipients(&alice, &Removals::new())[0].generation, 1);
        // What is a later commit in its place.
        next(3, &alice);
        let removed: Removals = [(device_keys(2).id(), vec![admitted(&alice, 3)])].into();
        let to = recipients(&alice, &removed);
        assert_eq!(to.iter().map(|to| to.generation).collect::<Vec<_>>(), [TO_DEVICE; 2]);
        tell(&alice, &phone);
        assert_eq!(opened(&alice, &to, &[&alice, &phone]), [true, false]);
    }

    #[test]
    fn of_two_keys_of_one_generation_both_open_and_one_is_sealed_to() {
        let alice = found();
        let twin = Volume::load(parts(2, super::tests::alice()), alice.id()).unwrap();
        let ticket = alice.invite_device(Some(Duration::from_secs(60))).unwrap();
        let request = DeviceRequest::new(&ticket, &device_keys(2), None, b"e");
        twin.accept_device(&alice.admit_device(&request, b"e").unwrap()).unwrap();
        tell(&alice, &twin);
        assert!(renew(&alice, &[]) && renew(&twin, &[]));
        let (a, b) = (recipients(&alice, &Removals::new()), recipients(&twin, &Removals::new()));
        assert!(a != b && a[0].generation == 1 && b[0].generation == 1);
        tell(&alice, &twin);
        tell(&twin, &alice);
        assert_eq!(recipients(&alice, &Removals::new()), recipients(&twin, &Removals::new()));
        for to in [a, b] {
            assert_eq!(opened(&alice, &to, &[&alice, &twin]), [true; 2]);
        }
        assert!(renew(&twin, &[]));
        tell(&twin, &alice);
        assert_eq!(recipients(&alice, &Removals::new())[0].generation, 2);
    }

    #[test]
    fn what_is_sealed_to_a_device_opens_as_that_only() {
        let alice = found();
        let core = alice.inner.core.lock();
        let key = SymmetricKey::from_bytes([5; 32]);
        let to = Recipient::device(&core.device.public());
        let sealed = core.seal_epoch(&epoch_id(&key), &key, &[to]);
        assert!(core.unseal(&SealedKey { generation: 0, ..sealed[0].clone() }).is_none());
        assert!(core.unseal(&SealedKey { epoch: EpochId::from_bytes([1; 32]), ..sealed[0].clone() }).is_none());
        assert_eq!(core.unseal(&sealed[0]), Some(key));
    }
}
