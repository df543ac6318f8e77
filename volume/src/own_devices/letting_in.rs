//! How a further device of a user asks to be let in, and what it is answered.
//!
//! Owns what is proven and checked on both sides before there is a change. The ticket names the user: whoever else
//! answers, knowing the ticket's public half from the commits, can't certify for that user.

use std::{fmt, time::Duration};

use crypto::{
    DeviceKeys, DevicePublic, Label, PublicKey, Signature, UserId, UserKeys, UserPublic, VolumeId, random_array, verify,
};
use serde::{Deserialize, Serialize};

use super::{secrets_from_bytes, secrets_to_bytes};
use crate::{
    TicketSecret, Volume,
    commit::{ChangeKind, MemberBody, SealedKey, encode},
    core::Core,
    epochs::Recipient,
    error::{Error, Result},
    member::{Role, certify, verify_certificate},
};

/// Longest name of a user as shown, in bytes.
const NAME_MAX: usize = 64;

/// What a further device asks with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeviceRequest {
    /// Which ticket.
    pub ticket: PublicKey,
    /// The device.
    pub device: DevicePublic,
    /// Whose device it is taken to be.
    pub name: Option<String>,
    /// By the ticket's key, over the device, the name and the connection's exporter.
    pub proof: Signature,
}

impl DeviceRequest {
    /// Proves a ticket on the connection with this exporter. With a name, only a user of that name lets the device in.
    pub fn new(ticket: &TicketSecret, device: &DeviceKeys, name: Option<&str>, exporter: &[u8]) -> Self {
        let device = device.public();
        let proof = ticket.sign(&proof_message(&device, name, exporter));
        Self { ticket: ticket.public(), device, name: name.map(str::to_owned), proof }
    }

    fn verify(&self, exporter: &[u8]) -> Result<()> {
        let message = proof_message(&self.device, self.name.as_deref(), exporter);
        verify(Label::TicketProof, self.ticket, &message, &self.proof)
            .map_err(|_| Error::Refused("the ticket's proof does not hold".to_owned()))
    }
}

/// Another number of parts than what a new member proves.
fn proof_message(device: &DevicePublic, name: Option<&str>, exporter: &[u8]) -> Vec<u8> {
    encode(&(device, name, serde_bytes::Bytes::new(exporter)))
}

/// What a further device of a user gets.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceGrant {
    /// The volume.
    pub volume: VolumeId,
    /// Whose device it is, and their newest key.
    pub user: UserPublic,
    /// Their name in the volume.
    pub name: String,
    /// The user over the device.
    pub certificate: Signature,
    /// The user's encryption keys, sealed to the device.
    #[serde(with = "serde_bytes")]
    pub user_key: Vec<u8>,
    /// The keys of the volume's epochs, sealed to the device.
    pub keys: Vec<SealedKey>,
}

impl fmt::Debug for DeviceGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceGrant({:?}, {:?}, ****)", self.volume, self.user.id())
    }
}

impl DeviceGrant {
    /// What this device holds of its user's keys from now on, if the answer is by that user and for this device.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub fn open(&self, user: &UserId, device: &DeviceKeys) -> Result<UserKeys, String> {
        if self.user.id() != *user {
            return Err("the answer is another user's than the ticket's".to_owned());
        }
        verify_certificate(&self.user, &device.public(), &self.certificate)?;
        if self.name.len() > NAME_MAX || self.name.chars().any(char::is_control) {
            return Err("the answer tells no name".to_owned());
        }
        let unreadable = || "the answer does not open with this device's keys".to_owned();
        let bytes = device.boxes.open(Label::BoxUserKey, user.as_bytes(), &self.user_key).map_err(|_| unreadable())?;
        let secrets = secrets_from_bytes(&bytes).ok_or_else(unreadable)?;
        let newest = secrets.iter().find(|row| row.public == self.user.box_key).ok_or_else(unreadable)?;
        Ok(UserKeys::without_signing(self.user.signing, newest.secret(), newest.generation))
    }
}

impl Volume {
    /// Invites a further device of this device's user. Without a time the invitation is good until it is withdrawn.
    ///
    /// # Errors
    /// [`Error::Refused`] when this device may not: it doesn't hold the user's signing key, or isn't a member yet.
    pub fn invite_device(&self, expires: Option<Duration>) -> Result<TicketSecret> {
        let until = expires.map(|expires| self.inner.clock.now().plus(expires));
        // A commit of its own: a reader's, in which there is anything else, counts for nothing.
        self.local_commit(|core| {
            core.holds_signing_key()?;
            core.own_role()?;
            let secret = TicketSecret::from_seed(random_array(&*core.entropy));
            let kind = ChangeKind::InviteDevice { ticket: secret.public(), expires: until };
            core.emit::<MemberBody>(kind, &[], None)?;
            Ok(secret)
        })
    }

    /// The tickets of this user's next devices that this device can answer: those that are open, and at most `most` used
    /// ones, whose bearers may come again when the answer was lost.
    pub fn device_tickets(&self, most: usize) -> Vec<PublicKey> {
        let now = self.inner.clock.now();
        let core = self.inner.core.lock();
        if core.holds_signing_key().is_err() {
            return Vec::new();
        }
        let me = core.user.id();
        let (mut open, mut used) = (Vec::new(), Vec::new());
        let withdrawn = |ticket| core.members.withdrawn.get(ticket).is_some_and(|row| row.for_devices_of(&me));
        for row in core.members.device_invites.values().filter(|row| !withdrawn(&row.ticket)) {
            let expires = row.invitations.iter().filter(|i| i.user == me).filter_map(|i| i.expires).max();
            if let Some(expires) = expires.filter(|expires| *expires > now) {
                if row.used.contains(&me) { &mut used } else { &mut open }.push((expires, row.ticket));
            }
        }
        used.sort_by_key(|(expires, _)| std::cmp::Reverse(*expires));
        used.truncate(most);
        open.into_iter().chain(used).map(|(_, ticket)| ticket).collect()
    }

    /// Admits a further device of this device's user, for a ticket; `exporter` is the connection's.
    ///
    /// # Errors
    /// [`Error::Refused`] with the reason, for who asks to read.
    pub fn admit_device(&self, request: &DeviceRequest, exporter: &[u8]) -> Result<DeviceGrant> {
        request.verify(exporter)?;
        self.local_commit(|core| core.let_device_in(request))
    }

    /// Takes the keys of a grant, so that the first sync can read what it brings.
    ///
    /// # Errors
    /// The grant isn't for this device, or the disk failed.
    pub fn accept_device(&self, grant: &DeviceGrant) -> Result<()> {
        let mut core = self.inner.core.lock();
        let opened = core.device.boxes.open(Label::BoxUserKey, grant.user.id().as_bytes(), &grant.user_key).ok();
        let Some(secrets) = opened.and_then(|bytes| secrets_from_bytes(&bytes)) else {
            return Err(Error::Refused("the grant does not open with this device's keys".to_owned()));
        };
        core.keep_secrets(secrets);
        core.accept_keys(&grant.keys)
    }
}

impl Core {
    /// What this device's user may do.
    pub(crate) fn own_role(&self) -> Result<Role> {
        let role = self.members.user_of(&self.device.id()).map(|user| user.role).filter(|role| *role >= Role::Reader);
        role.ok_or_else(|| Error::Refused("this device is no member that may have others".to_owned()))
    }

    fn let_device_in(&mut self, request: &DeviceRequest) -> Result<DeviceGrant> {
        let refuse = |why: &str| Err(Error::Refused(why.to_owned()));
        let (me, now) = (self.user.id(), self.now());
        self.own_role()?;
        let Some(invite) = self.device_invite(&request.ticket) else {
            return refuse("this ticket is not known: it may have been made for another volume");
        };
        let own: Vec<_> = invite.invitations.iter().filter(|invitation| invitation.user == me).collect();
        if own.is_empty() {
            return refuse("this ticket is for another user's device: that user's own device must let it in");
        }
        if self.withdrawn(&request.ticket).is_some_and(|row| row.for_devices_of(&me)) {
            return refuse("this ticket was withdrawn: make a new one with `p2pfs invite --device`");
        }
        if self.holds_signing_key().is_err() {
            return refuse("this device can't let others in: mount the volume on the one where the ticket was made");
        }
        let known = self.device_row(&request.device.id);
        let again = known.as_ref().is_some_and(|row| row.user == me);
        if known.is_some() && !again {
            return refuse("this device is another user's");
        }
        if known.is_some_and(|known| known.removed) {
            return refuse("this device was removed from the volume");
        }
        if invite.used.contains(&me) && !again {
            return refuse("this ticket has been used: make a new one with `p2pfs invite --device`");
        }
        // (What never expires is for a key that was exported, and who has that needs nobody to be let in.)
        if !again && !own.iter().any(|invitation| invitation.expires.is_some_and(|expires| expires > now)) {
            return refuse("this ticket has expired: make a new one with `p2pfs invite --device`");
        }
        let name = self.members.shown_name(&me);
        if request.name.as_ref().is_some_and(|wanted| *wanted != name) {
            return Err(Error::Refused(format!("this ticket is for a device of `{name}`: leave --name out")));
        }
        let secrets = self.own_secrets();
        let Some(newest) = secrets.first() else { return refuse("this device has no key of its user") };
        let user = UserPublic { signing: self.user.identity, box_key: newest.public, generation: newest.generation };
        let to = request.device.box_key;
        let user_key = to.seal(Label::BoxUserKey, me.as_bytes(), &secrets_to_bytes(&secrets), &*self.entropy);
        let user_key = user_key.map_err(|e| Error::Refused(e.to_string()))?;
        let certificate = certify(&self.user, &request.device).map_err(Error::Refused)?;
        let keys = self.all_epochs_for(&[Recipient::device(&request.device)]);
        if !again {
            let (ticket, device) = (request.ticket, request.device);
            let user_key = user_key.clone();
            let kind = ChangeKind::Device { ticket, user: me, device, certificate, user_key, proof: None };
            self.emit::<MemberBody>(kind, &[], None)?;
        }
        Ok(DeviceGrant { volume: self.volume, user, name, certificate, user_key, keys })
    }

    /// The keys of all epochs that are known here, the newest first.
    pub(crate) fn all_epochs_for(&self, to: &[Recipient]) -> Vec<SealedKey> {
        let known = self.members.epochs.iter().rev().filter_map(|epoch| Some((epoch.id, epoch.key.as_ref()?)));
        known.flat_map(|(id, key)| self.seal_epoch(&id, key.key(), to)).collect()
    }
}
