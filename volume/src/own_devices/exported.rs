//! A user's exported key: what brings them back when all their devices are lost.
//!
//! Owns what the volume puts into it, and how a device that has it is let in by whoever is there. The exported key holds
//! the secret half of an invitation that ends only when it is withdrawn. No device keeps that half.

use std::fmt;

use crypto::{
    DeviceKeys, DevicePublic, Entropy, Label, PublicKey, Signature, SigningKeys, SymmetricKey, UserId, UserKeys,
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{SecretRow, exported_message, secrets_from_bytes, secrets_to_bytes, verify_exported};
use crate::{
    JoinGrant, TicketSecret, Volume,
    commit::{ChangeKind, MemberBody},
    core::Core,
    epochs::Recipient,
    error::{Error, Result},
    member::{certify, verify_certificate},
    standing::Within,
};

/// The encryption keys of a user, of all generations, the newest first.
pub struct UserSecrets(Vec<SecretRow>);

impl UserSecrets {
    /// As bytes: `(generation u32 ‖ secret 32) …`.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        secrets_to_bytes(&self.0)
    }

    /// The inverse; at least one.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        secrets_from_bytes(bytes).map(Self)
    }

    /// All keys of the user, with the signing key.
    pub fn whole(&self, signing: SigningKeys) -> UserKeys {
        let newest = self.0.first().expect("there is at least one");
        UserKeys::whole(signing, newest.secret(), newest.generation)
    }
}

impl fmt::Debug for UserSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UserSecrets({}, ****)", self.0.len())
    }
}

/// What the volume has for an exported key.
#[derive(Debug)]
pub struct ExportedParts {
    /// The invitation that is made for it.
    pub ticket: TicketSecret,
    /// The user's encryption keys.
    pub secrets: UserSecrets,
    /// The key of the newest epoch: members are found with it.
    pub epoch: SymmetricKey,
}

/// What a device asks with that has an exported key.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExportedRequest {
    /// The invitation.
    pub ticket: PublicKey,
    /// Whose device it is.
    pub user: UserId,
    /// The device.
    pub device: DevicePublic,
    /// The user over that device.
    pub certificate: Signature,
    /// The user's encryption keys, sealed to the device.
    #[serde(with = "serde_bytes")]
    pub user_key: Vec<u8>,
    /// By the ticket's key over the device.
    pub proof: Signature,
}

impl ExportedRequest {
    /// For the device with these keys.
    ///
    /// # Errors
    /// The user's keys are not whole.
    pub fn new(
        ticket: &TicketSecret,
        user: &UserKeys,
        secrets: &UserSecrets,
        device: &DeviceKeys,
        entropy: &dyn Entropy,
    ) -> Result<Self, String> {
        let public = device.public();
        let sealed = public.box_key.seal(Label::BoxUserKey, user.id().as_bytes(), &secrets.to_bytes(), entropy);
        Ok(Self {
            ticket: ticket.public(),
            user: user.id(),
            certificate: certify(user, &public)?,
            user_key: sealed.map_err(|e| e.to_string())?,
            proof: ticket.sign(&exported_message(&public)),
            device: public,
        })
    }
}

impl Volume {
    /// Makes the invitation for an exported key of this device's user.
    ///
    /// # Errors
    /// [`Error::Refused`] when this device doesn't hold the user's signing key, or isn't a member yet.
    pub fn export_key(&self) -> Result<ExportedParts> {
        let ticket = self.invite_device(None)?;
        let core = self.inner.core.lock();
        let (_, epoch) = core.sealing_epoch().ok_or_else(Error::not_synced)?;
        Ok(ExportedParts { ticket, secrets: UserSecrets(core.own_secrets()), epoch: epoch.key().clone() })
    }

    /// Admits a device that has an exported key of a member, whoever that is.
    ///
    /// # Errors
    /// [`Error::Refused`] with the reason, for who asks to read.
    pub fn admit_exported(&self, request: &ExportedRequest) -> Result<JoinGrant> {
        self.local_commit(|core| core.let_exported_in(request))
    }

    /// Takes the user's encryption keys out of an exported key.
    ///
    /// # Errors
    /// The disk failed.
    pub fn accept_secrets(&self, secrets: &UserSecrets) -> Result<()> {
        let mut core = self.inner.core.lock();
        core.keep_secrets(secrets.0.clone());
        core.accept_keys(&[])
    }

    /// Makes a new encryption key if the newest one of this device's user is not known here: it was made after the key
    /// was exported, and what is sealed to it would stay closed.
    ///
    /// # Errors
    /// As any local change.
    pub fn renew_unknown_key(&self) -> Result<()> {
        self.local_commit(|core| {
            if core.lacks_newest_key()? {
                core.renew_user_key()?;
            }
            Ok(())
        })
    }
}

impl Core {
    fn let_exported_in(&mut self, request: &ExportedRequest) -> Result<JoinGrant> {
        let refuse = |why: &str| Err(Error::Refused(why.to_owned()));
        let ExportedRequest { ticket, user, device, certificate, user_key, proof } = request;
        self.own_role()?;
        verify_exported(ticket, device, proof).map_err(Error::Refused)?;
        let invite = self.device_invite(ticket);
        let invited = invite.is_some_and(|row| row.invitations.iter().any(|i| i.user == *user && i.expires.is_none()));
        let Some(row) = self.user_row(user).filter(|_| invited) else {
            return refuse("this exported key is not known: it may be of another volume");
        };
        if row.removed {
            return refuse("its user was removed from the volume");
        }
        let (me, dot) = (self.device.id(), self.pending_dot());
        if !self.counts_as_admitted(&me, dot, (ticket, user, true), Within::All)? {
            return refuse("this exported key was made on a device when it had been removed");
        }
        if self.withdrawn(ticket).is_some_and(|row| row.for_devices_of(user)) {
            return refuse("this exported key was withdrawn: only one that was exported later helps");
        }
        verify_certificate(&row.public, device, certificate).map_err(Error::Refused)?;
        let known = self.device_row(&device.id);
        let again = known.as_ref().is_some_and(|known| known.user == *user);
        if known.is_some() && !again {
            return refuse("this device is another user's");
        }
        if known.is_some_and(|known| known.removed) {
            return refuse("this device was removed from the volume");
        }
        let keys = self.all_epochs_for(&[Recipient::device(device)]);
        if keys.is_empty() {
            return refuse("nothing can be sealed to the key that asks");
        }
        if !again {
            let kind = ChangeKind::Device {
                ticket: *ticket,
                user: *user,
                device: *device,
                certificate: *certificate,
                user_key: user_key.clone(),
                proof: Some(*proof),
            };
            self.emit::<MemberBody>(kind, &[], None)?;
        }
        Ok(JoinGrant { volume: self.volume, keys })
    }
}
