//! A user's own devices: inviting the next one, admitting it, renewing the user's encryption key.
//!
//! Owns the rules of these changes and their rows. Does not own how a device asks to be let in ([`letting_in`], with an
//! exported key [`exported`]), or which of a user's keys is sealed to ([`crate::epochs`]).
//!
//! Everybody but keepers has their own devices in hand: readers' commits that do nothing else count. Only who holds the
//! user's signing key can certify a device or a new encryption key, and only a member device's commit brings that in.
//! That is the user's own, or anybody's for who has an exported key: beside the signing key that holds the secret half
//! of an invitation, which no device has. So a stolen device without the signing key admits nobody, and the signing key
//! of a device that was removed nobody, either.

pub(crate) mod exported;
pub(crate) mod letting_in;

use crypto::{
    BoxPublic, BoxSecret, DeviceId, DevicePublic, Label, PublicKey, Signature, SymmetricKey, UserId, UserPublic, verify,
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{
    apply::{Origin, rule},
    commit::{ChangeKind, DeviceBox, Head, MemberBody, encode},
    core::Core,
    error::{Error, Result},
    member::{DeviceRow, MemberRow, NO_SIGNING_KEY, Role, verify_certificate},
    standing::Within,
    time::Timestamp,
    version::{Dot, ValueRef},
};

pub use exported::{ExportedParts, ExportedRequest, UserSecrets};
pub use letting_in::{DeviceGrant, DeviceRequest};

/// Devices to which a new key is sealed: their boxes fit a head.
const MAX_SEALED: usize = 400;
/// Generations of a key that are handed on to a new device: they fit a head.
const MAX_SECRETS: usize = 1000;
/// Bytes of one in what is handed on.
const SECRET_BYTES: usize = 36;

/// The keys that a user has made since they were admitted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct UserKeysRow {
    pub user: UserId,
    pub keys: Vec<UserKeyValue>,
}

/// One of them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct UserKeyValue {
    pub public: UserPublic,
    pub at: ValueRef,
    pub count: u64,
}

/// A ticket for somebody's next device.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct DeviceInviteRow {
    pub ticket: PublicKey,
    /// Nearly always one. Whoever knows a ticket can invite with it, too: for themselves.
    pub invitations: Vec<DeviceInvitation>,
    /// For which users it was used.
    pub used: Vec<UserId>,
}

/// An invitation of such a ticket.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct DeviceInvitation {
    pub user: UserId,
    pub expires: Option<Timestamp>,
    pub at: ValueRef,
}

/// A secret of this device's user, beside the one that the profile holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SecretRow {
    pub public: BoxPublic,
    pub generation: u32,
    secret: SymmetricKey,
}

impl SecretRow {
    pub(crate) fn new(secret: &BoxSecret, generation: u32) -> Self {
        Self { public: secret.public(), generation, secret: SymmetricKey::from_bytes(*secret.to_bytes()) }
    }

    pub(crate) fn secret(&self) -> BoxSecret {
        BoxSecret::from_bytes(*self.secret.expose())
    }
}

/// A user's secrets as they are sealed to a new device: `(generation u32 ‖ secret 32) …`, the newest first.
fn secrets_to_bytes(secrets: &[SecretRow]) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(secrets.len().min(MAX_SECRETS) * SECRET_BYTES));
    for row in secrets.iter().take(MAX_SECRETS) {
        bytes.extend_from_slice(&row.generation.to_le_bytes());
        bytes.extend_from_slice(row.secret.expose());
    }
    bytes
}

fn secrets_from_bytes(bytes: &[u8]) -> Option<Vec<SecretRow>> {
    let (parts, rest) = bytes.as_chunks::<SECRET_BYTES>();
    let row = |part: &[u8; SECRET_BYTES]| {
        let (generation, secret) = part.split_first_chunk::<4>()?;
        Some(SecretRow::new(&BoxSecret::from_bytes(secret.try_into().ok()?), u32::from_le_bytes(*generation)))
    };
    Some(parts.iter().filter_map(row).collect::<Vec<_>>()).filter(|rows| rest.is_empty() && !rows.is_empty())
}

/// Checks the proof of who comes with an exported key: what a removed device that had the user's signing key hasn't got.
pub(crate) fn verify_exported(ticket: &PublicKey, device: &DevicePublic, proof: &Signature) -> Result<(), String> {
    verify(Label::TicketProof, *ticket, &exported_message(device), proof)
        .map_err(|_| "the proof of an exported key does not hold".to_owned())
}

/// What is proven: another number of parts than at joining with a ticket.
pub(crate) fn exported_message(device: &DevicePublic) -> Vec<u8> {
    encode(&(device,))
}

/// Whether a reader may do this: it concerns nobody but themselves.
pub(crate) fn is_of_own_devices(kind: &ChangeKind) -> bool {
    use ChangeKind::{AuditHead, Device, InviteDevice, UserKey, Withdraw};
    matches!(kind, InviteDevice { .. } | Device { .. } | UserKey { .. } | Withdraw { .. } | AuditHead { .. })
}

/// The parts of the change that admits a device.
pub(crate) struct Admitted<'a> {
    pub ticket: &'a PublicKey,
    pub user: &'a UserId,
    pub device: &'a DevicePublic,
    pub certificate: &'a Signature,
    pub user_key: &'a [u8],
    pub proof: Option<&'a Signature>,
}

impl Core {
    pub(crate) fn apply_device_invitation(
        &mut self,
        origin: &Origin,
        at: ValueRef,
        ticket: &PublicKey,
        expires: Option<Timestamp>,
    ) -> Result<()> {
        let row = self.device_invite(ticket);
        let mut row = row.unwrap_or(DeviceInviteRow { ticket: *ticket, invitations: Vec::new(), used: Vec::new() });
        row.invitations.push(DeviceInvitation { user: origin.user, expires, at });
        self.overlay.members.push(MemberRow::DeviceInvite(row));
        Ok(())
    }

    pub(crate) fn apply_device(&mut self, origin: &Origin, at: ValueRef, admitted: &Admitted<'_>) -> Result<()> {
        let Admitted { ticket, user, device, certificate, user_key, proof } = *admitted;
        match proof {
            // The user's own device let it in.
            None if *user != origin.user => return rule("a device admitted for another user"),
            None => {}
            // It came with the user's exported key: whoever was there brings that in.
            Some(proof) => verify_exported(ticket, device, proof).map_err(Error::Refused)?,
        }
        let Some(row) = self.user_row(user) else { return rule("a device of an unknown user") };
        verify_certificate(&row.public, device, certificate).map_err(Error::Refused)?;
        let Some(mut invite) = self.device_invite(ticket) else { return rule("a device without an invitation") };
        let mut invited = false;
        let fits = |i: &&DeviceInvitation| i.user == *user && (proof.is_none() || i.expires.is_none());
        for invitation in invite.invitations.iter().filter(fits) {
            invited |= origin.local || self.covers(origin.dot, invitation.at.dot)?;
        }
        if !invited {
            return rule("a device without an invitation by its user");
        }
        for known in self.device_row(&device.id).map(|row| row.granted).unwrap_or_default() {
            if origin.local || self.covers(origin.dot, known.dot)? {
                return rule("a device that is a member already");
            }
        }
        self.admit_device(origin, at, user, device)?;
        self.verdicts.clear();
        if !invite.used.contains(user) {
            invite.used.push(*user);
            self.overlay.members.push(MemberRow::DeviceInvite(invite));
        }
        if device.id == self.device.id() {
            self.take_secrets(user_key);
        }
        self.changed(crate::Changed::Members);
        Ok(())
    }

    /// Whether the admission of a further device counts: the device that let it in was not cut off from its user. With an
    /// exported key it is the one that invited; whoever brought that in doesn't matter.
    pub(crate) fn counts_as_admitted(
        &mut self,
        author: &DeviceId,
        dot: Dot,
        (ticket, user, exported): (&PublicKey, &UserId, bool),
        within: Within,
    ) -> Result<bool> {
        if !exported {
            return self.is_at_least(author, *user, dot, Role::Reader, within);
        }
        let invitations = self.device_invite(ticket).map(|row| row.invitations).unwrap_or_default();
        for invited in invitations.into_iter().filter(|i| i.user == *user && i.expires.is_none()) {
            let device = self.branch_of(invited.at.dot)?.device;
            if self.covers(dot, invited.at.dot)?
                && self.is_at_least(&device, *user, invited.at.dot, Role::Reader, within)?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(crate) fn apply_user_key(
        &mut self,
        origin: &Origin,
        at: ValueRef,
        public: &UserPublic,
        certificate: &Signature,
        sealed: &[DeviceBox],
    ) -> Result<()> {
        if public.id() != origin.user {
            return rule("a key of another user");
        }
        verify(Label::UserKeyCertificate, public.signing, &encode(public), certificate)
            .map_err(|_| Error::Refused("a key that is not certified by its user".to_owned()))?;
        let row = self.user_keys(&origin.user);
        let mut row = row.unwrap_or(UserKeysRow { user: origin.user, keys: Vec::new() });
        // One more than the greatest that its author had seen: so there always is a next one.
        let mut seen = 0;
        for key in &row.keys {
            if origin.local || self.covers(origin.dot, key.at.dot)? {
                seen = seen.max(key.public.generation);
            }
        }
        if seen.checked_add(1) != Some(public.generation) || public.generation == crate::epochs::TO_DEVICE {
            return rule("a key of another generation than the next");
        }
        row.keys.push(UserKeyValue { public: *public, at, count: origin.count });
        self.overlay.members.push(MemberRow::UserKeys(row));
        if origin.user == self.user.id() {
            self.take_new_secret(public, sealed);
        }
        Ok(())
    }

    /// Takes this user's secrets, sealed to this device when it was admitted.
    fn take_secrets(&mut self, sealed: &[u8]) {
        let opened = self.device.boxes.open(Label::BoxUserKey, self.user.id().as_bytes(), sealed).ok();
        match opened.and_then(|bytes| secrets_from_bytes(&bytes)) {
            Some(rows) => self.keep_secrets(rows),
            None => log::warn!("this device's user's keys do not open"),
        }
    }

    pub(crate) fn keep_secrets(&mut self, rows: Vec<SecretRow>) {
        let own = self.user.boxes.public();
        let new = rows.into_iter().filter(|row| row.public != own && !self.members.secrets.contains_key(&row.public));
        let new: Vec<MemberRow> = new.map(MemberRow::Secret).collect();
        self.overlay.members.extend(new);
    }

    /// Takes a new secret of this user, if it is sealed to this device.
    fn take_new_secret(&mut self, public: &UserPublic, sealed: &[DeviceBox]) {
        let me = self.device.id();
        let mine = sealed.iter().find(|sealed| sealed.device == me);
        let secret = mine.and_then(|mine| {
            let aad = self.user.id();
            let bytes = self.device.boxes.open(Label::BoxUserKey, aad.as_bytes(), &mine.sealed).ok()?;
            let secret = BoxSecret::from_bytes(bytes.as_slice().try_into().ok()?);
            (secret.public() == public.box_key).then_some(secret)
        });
        if let Some(secret) = secret {
            self.keep_secrets(vec![SecretRow::new(&secret, public.generation)]);
        }
    }

    /// Takes this user's secrets out of a commit that isn't applied yet: what is sealed under them may come before it.
    pub(crate) fn take_secrets_of(&mut self, heads: &[Head]) {
        let (me, user) = (self.device.id(), self.user.id());
        for head in heads {
            match &head.kind {
                ChangeKind::Device { user: of, device, user_key, .. } if *of == user && device.id == me => {
                    self.take_secrets(user_key);
                }
                ChangeKind::UserKey { user: public, sealed, .. } if public.id() == user => {
                    self.take_new_secret(public, sealed);
                }
                _ => {}
            }
        }
    }

    /// Makes a new encryption key of this device's user, known to their devices that were not removed. Tells whether it did: a device without the signing key can't, and until one that has it does, keys are sealed to
    /// the user's devices one by one.
    ///
    /// # Errors
    /// As any local change.
    pub(crate) fn renew_user_key(&mut self) -> Result<bool> {
        let removed: Vec<DeviceId> = self.removals()?.into_keys().collect();
        self.renew_key_without(&removed)
    }

    /// The same without these devices.
    pub(crate) fn renew_key_without(&mut self, without: &[DeviceId]) -> Result<bool> {
        let user = self.user.id();
        let known = self.user_keys(&user).map(|row| row.keys).unwrap_or_default();
        let newest = known.iter().map(|key| key.public.generation).max().unwrap_or(0);
        let Some(signing) = self.user.signing.as_ref() else { return Ok(false) };
        let Some(generation) = newest.checked_add(1).filter(|next| *next != crate::epochs::TO_DEVICE) else {
            return Ok(false);
        };
        let secret = BoxSecret::generate(&*self.entropy);
        let public = UserPublic { signing: self.user.identity, box_key: secret.public(), generation };
        let certificate = signing.sign(Label::UserKeyCertificate, &encode(&public));
        let mut devices: Vec<&DeviceRow> =
            self.members.devices_of(&user).filter(|d| !without.contains(&d.public.id)).collect();
        // Those that don't fit are sealed to one by one when this one is not good enough for them.
        devices.sort_by_key(|device| std::cmp::Reverse(device.admitted));
        let mut sealed = Vec::new();
        for device in devices.into_iter().take(MAX_SEALED) {
            let (id, to) = (device.public.id, device.public.box_key);
            match to.seal(Label::BoxUserKey, user.as_bytes(), &*secret.to_bytes(), &*self.entropy) {
                Ok(bytes) => sealed.push(DeviceBox { device: id, sealed: bytes }),
                Err(e) => log::warn!("device {}: {e}: it does not get its user's new key", id.short()),
            }
        }
        let kind = ChangeKind::UserKey { user: public, certificate, sealed };
        self.emit::<MemberBody>(kind, &[], None)?;
        Ok(true)
    }

    /// Whether the newest key of this device's user is one that this device wasn't given.
    pub(crate) fn lacks_newest_key(&mut self) -> Result<bool> {
        let user = self.user.id();
        let newest = self.good_user_key(&user)?;
        let known = |key: &BoxPublic| *key == self.user.boxes.public() || self.members.secrets.contains_key(key);
        Ok(newest.is_some_and(|newest| !known(&newest.box_key)))
    }

    // ---- rows, with what the running call made of them

    pub(crate) fn fresh_row<R: Clone>(&self, find: impl Fn(&MemberRow) -> Option<&R>) -> Option<R> {
        self.overlay.members.iter().rev().find_map(find).cloned()
    }

    pub(crate) fn device_invite(&self, ticket: &PublicKey) -> Option<DeviceInviteRow> {
        let fresh = self.fresh_row(|row| match row {
            MemberRow::DeviceInvite(row) if row.ticket == *ticket => Some(row),
            _ => None,
        });
        fresh.or_else(|| self.members.device_invites.get(ticket).cloned())
    }

    pub(crate) fn user_keys(&self, user: &UserId) -> Option<UserKeysRow> {
        let fresh = self.fresh_row(|row| match row {
            MemberRow::UserKeys(row) if row.user == *user => Some(row),
            _ => None,
        });
        fresh.or_else(|| self.members.user_keys.get(user).cloned())
    }

    /// The right to certify, or why there is none.
    pub(crate) fn holds_signing_key(&self) -> Result<()> {
        match self.user.signing {
            Some(_) => Ok(()),
            None => Err(Error::Refused(NO_SIGNING_KEY.to_owned())),
        }
    }
}
