//! Who belongs to the volume: users, their devices, roles, epochs of the root realm, invitations.
//!
//! Owns the membership state that follows from the commits, and the texts that joining signs.
//! Kept whole in memory: it is small beside everything else (ten thousand devices are a few
//! megabytes) and every commit is judged by it.

use std::{collections::BTreeMap, fmt, str::FromStr};

use crypto::{
    BoxPublic, DerivingKey, DeviceId, DeviceKeys, DevicePublic, EpochId, Hash, Label, PublicKey, Signature,
    SigningKeys, SymmetricKey, UserId, UserKeys, UserPublic, VolumeId, verify,
};
use serde::{Deserialize, Serialize};

use crate::{commit::encode, keeper::WatchRow, time::Timestamp, version::ValueRef};

/// Longest user name, in bytes.
const USER_NAME_MAX: usize = 32;

/// What a user may do in the volume: an upper bound over what permissions give.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Role {
    /// Stores and forwards ciphertext; holds no key.
    #[serde(rename = "k")]
    Keeper,
    /// Reads.
    #[serde(rename = "r")]
    Reader,
    /// Reads and writes.
    #[serde(rename = "w")]
    Writer,
    /// Also invites, and removes who is junior.
    #[serde(rename = "a")]
    Admin,
    /// Made the volume.
    #[serde(rename = "o")]
    Owner,
}

impl Role {
    /// Whether changes of files by such a user count.
    pub fn may_write(self) -> bool {
        self >= Role::Writer
    }

    /// Whether such a user may invite and admit others.
    pub fn may_admit(self) -> bool {
        self >= Role::Admin
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Keeper => "keeper",
            Role::Reader => "reader",
            Role::Writer => "writer",
            Role::Admin => "admin",
            Role::Owner => "owner",
        })
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Role::Keeper, Role::Reader, Role::Writer, Role::Admin, Role::Owner]
            .into_iter()
            .find(|role| role.to_string() == text)
            .ok_or_else(|| format!("no such role: `{text}` (owner, admin, writer, reader or keeper)"))
    }
}

/// Checks a user name: 1 to 32 of `a-z 0-9 . _ -`, beginning with a letter.
///
/// # Errors
/// What is wrong with it, for people.
pub fn check_user_name(name: &str) -> Result<(), String> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-_".contains(&b);
    if name.is_empty() || name.len() > USER_NAME_MAX {
        return Err(format!("a name has 1 to {USER_NAME_MAX} characters"));
    }
    if !name.as_bytes()[0].is_ascii_lowercase() || !name.bytes().all(allowed) {
        return Err(format!("`{}` is no name: use a-z 0-9 . _ - and begin with a letter", name.escape_default()));
    }
    Ok(())
}

/// A member, as listed.
#[derive(Clone, Debug)]
pub struct Member {
    /// The user.
    pub user: UserId,
    /// Their name, unique as shown.
    pub name: String,
    /// Their role.
    pub role: Role,
    /// Their number on mounts, the same everywhere.
    pub number: u32,
    /// Their devices.
    pub devices: Vec<DeviceId>,
    /// Whether it is this device's user.
    pub me: bool,
}

/// A device, as listed.
#[derive(Clone, Debug)]
pub struct DeviceInfo {
    /// The device.
    pub id: DeviceId,
    /// Whose it is.
    pub user: UserId,
    /// Their name.
    pub name: String,
    /// Whether it is this one.
    pub me: bool,
    /// Commits of it known here.
    pub commits: u64,
    /// When it was admitted, by the admitting device's clock.
    pub admitted: Timestamp,
    /// Since when it goes on from an older copy of its store, by its own clock.
    pub restored: Option<Timestamp>,
}

/// An invitation that can still be used.
#[derive(Clone, Debug)]
pub struct Invitation {
    /// The ticket's public key.
    pub ticket: PublicKey,
    /// What its bearer becomes.
    pub role: Role,
    /// Until when.
    pub expires: Timestamp,
}

/// The secret half of an invitation: what a ticket carries.
pub struct TicketSecret(SigningKeys);

impl TicketSecret {
    /// From its 32 secret bytes.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self(SigningKeys::from_seed(seed))
    }

    /// Its 32 secret bytes, for the ticket.
    pub fn seed(&self) -> [u8; 32] {
        *self.0.seed()
    }

    /// What the invitation in the volume names.
    pub fn public(&self) -> PublicKey {
        self.0.public()
    }
}

impl fmt::Debug for TicketSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TicketSecret(****)")
    }
}

/// What a joiner asks with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JoinRequest {
    /// Which ticket.
    pub ticket: PublicKey,
    /// The name wanted.
    pub name: String,
    /// The joiner's keys.
    pub user: UserPublic,
    /// The joiner's device.
    pub device: DevicePublic,
    /// By the ticket's key, over all of the above and the connection's exporter.
    pub proof: Signature,
    /// The user over the device.
    pub certificate: Signature,
    /// The user's encryption key, sealed to the device.
    #[serde(with = "serde_bytes")]
    pub user_key: Vec<u8>,
}

impl JoinRequest {
    /// Proves a ticket on the connection with this exporter.
    ///
    /// # Errors
    /// The name isn't one.
    pub fn new(
        ticket: &TicketSecret,
        name: &str,
        user: &UserKeys,
        device: &DeviceKeys,
        exporter: &[u8],
        entropy: &dyn crypto::Entropy,
    ) -> Result<Self, String> {
        check_user_name(name)?;
        let (public, device_public) = (user.public(), device.public());
        let message = proof_message(name, &public, &device_public, exporter);
        Ok(Self {
            ticket: ticket.public(),
            name: name.to_owned(),
            proof: ticket.0.sign(Label::TicketProof, &message),
            certificate: certify(user, &device_public),
            user_key: seal_user_key(user, &device_public.box_key, entropy)?,
            user: public,
            device: device_public,
        })
    }

    /// Checks what can be checked without the volume.
    pub(crate) fn verify(&self, exporter: &[u8]) -> Result<(), String> {
        check_user_name(&self.name)?;
        let message = proof_message(&self.name, &self.user, &self.device, exporter);
        verify(Label::TicketProof, self.ticket, &message, &self.proof)
            .map_err(|_| "the ticket's proof does not hold".to_owned())?;
        verify_certificate(&self.user, &self.device, &self.certificate)
    }
}

fn proof_message(name: &str, user: &UserPublic, device: &DevicePublic, exporter: &[u8]) -> Vec<u8> {
    encode(&(name, user, device, serde_bytes::Bytes::new(exporter)))
}

/// A user's signature over one of their devices.
pub(crate) fn certify(user: &UserKeys, device: &DevicePublic) -> Signature {
    user.signing.sign(Label::DeviceCertificate, &encode(device))
}

pub(crate) fn verify_certificate(user: &UserPublic, device: &DevicePublic, by: &Signature) -> Result<(), String> {
    verify(Label::DeviceCertificate, user.signing, &encode(device), by)
        .map_err(|_| "the device is not certified by its user".to_owned())
}

pub(crate) fn seal_user_key(user: &UserKeys, to: &BoxPublic, entropy: &dyn crypto::Entropy) -> Result<Vec<u8>, String> {
    to.seal(Label::BoxUserKey, user.id().as_bytes(), &*user.boxes.to_bytes(), entropy).map_err(|e| e.to_string())
}

/// What a joiner gets: enough to prove membership and to take the rest as commits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinGrant {
    /// The volume.
    pub volume: VolumeId,
    /// The keys of its epochs, sealed to the joiner; for a keeper, the discovery keys of these.
    pub keys: Vec<crate::commit::SealedKey>,
}

/// A value of what a user or a device is, beside their admissions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StandingValue {
    pub at: ValueRef,
    pub count: u64,
    /// `None`: they were removed.
    pub role: Option<Role>,
}

/// A user, as the commits say.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct UserRow {
    pub public: UserPublic,
    pub name: String,
    /// What they are, or were last, to whoever knows all that is known here.
    pub role: Role,
    pub granted: ValueRef,
    pub count: u64,
    /// What was made of them since they were admitted.
    #[serde(default)]
    pub standings: Vec<StandingValue>,
    /// Whether they belong to the volume no more.
    #[serde(default)]
    pub removed: bool,
}

/// A device, as the commits say.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct DeviceRow {
    pub public: DevicePublic,
    pub user: UserId,
    /// Its admissions; nearly always one.
    pub granted: Vec<ValueRef>,
    pub admitted: Timestamp,
    /// Its removals.
    #[serde(default)]
    pub expelled: Vec<StandingValue>,
    /// Whether it belongs to the volume no more.
    #[serde(default)]
    pub removed: bool,
}

/// An epoch of the root realm.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct EpochRow {
    pub id: EpochId,
    pub at: ValueRef,
    pub count: u64,
    /// Known once it was sealed to us, or carried by a later one.
    pub key: Option<DerivingKey>,
    /// Whom its key is sealed to: the first bytes of their ids, in order. Not said of the first epoch.
    #[serde(default)]
    pub given: Vec<u32>,
}

impl EpochRow {
    /// With its key, if that is known.
    fn with_key(&self) -> Option<(&EpochRow, &DerivingKey)> {
        self.key.as_ref().map(|key| (self, key))
    }

    /// Notes whom its key is sealed to.
    pub(crate) fn give(&mut self, sealed: &[crate::commit::SealedKey]) {
        let mine = sealed.iter().filter(|key| key.epoch == self.id);
        self.given.extend(mine.map(|key| short_id(&key.user)));
        self.given.sort_unstable();
        self.given.dedup();
    }

    /// Whether somebody's key is among those it was sealed to, as far as is told.
    pub(crate) fn has(&self, user: &UserId) -> bool {
        self.given.binary_search(&short_id(user)).is_ok()
    }
}

pub(crate) fn short_id(user: &UserId) -> u32 {
    let [a, b, c, d, ..] = *user.as_bytes();
    u32::from_be_bytes([a, b, c, d])
}

/// A ticket's invitation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct InviteRow {
    pub ticket: PublicKey,
    /// With the next two: what it is for to whoever knows all of them, the least.
    pub role: Role,
    pub expires: Timestamp,
    pub at: ValueRef,
    pub used: bool,
    /// Admins may invite with one ticket more than once: the other invitations of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<(Role, Timestamp, ValueRef)>,
}

impl InviteRow {
    /// All invitations of the ticket.
    pub(crate) fn all(&self) -> impl Iterator<Item = (Role, Timestamp, ValueRef)> + '_ {
        self.others.iter().copied().chain([(self.role, self.expires, self.at)])
    }

    /// Adds one; what the ticket is for doesn't depend on which came first.
    pub(crate) fn add(&mut self, role: Role, expires: Timestamp, at: ValueRef) {
        self.others.push((role, expires, at));
        if (role, expires) < (self.role, self.expires)
            && let Some(least) = self.others.last_mut()
        {
            *least = (self.role, self.expires, self.at);
            (self.role, self.expires, self.at) = (role, expires, at);
        }
    }
}

/// The membership state. Written whole as it changes (which is rarely) in rows of its own.
#[derive(Clone, Debug, Default)]
pub(crate) struct Members {
    pub users: BTreeMap<UserId, UserRow>,
    pub devices: BTreeMap<DeviceId, DeviceRow>,
    pub epochs: Vec<EpochRow>,
    pub invites: BTreeMap<PublicKey, InviteRow>,
    pub watches: BTreeMap<EpochId, WatchRow>,
    /// Whether anybody's standing ever changed after they were admitted: else nothing need be looked at twice.
    changed: bool,
    /// The epoch under which what is made here is sealed, once that was looked at.
    pub sealing: Option<EpochId>,
}

/// One row of the membership space.
#[derive(Serialize, Deserialize)]
pub(crate) enum MemberRow {
    #[serde(rename = "u")]
    User(UserRow),
    #[serde(rename = "d")]
    Device(DeviceRow),
    #[serde(rename = "e")]
    Epoch(EpochRow),
    #[serde(rename = "i")]
    Invite(InviteRow),
    #[serde(rename = "o")]
    Watch(WatchRow),
}

impl MemberRow {
    /// Its key in the store.
    pub(crate) fn key(&self) -> Vec<u8> {
        let (kind, id) = match self {
            MemberRow::User(row) => (b'u', *row.public.id().as_bytes()),
            MemberRow::Device(row) => (b'd', *row.public.id.as_bytes()),
            MemberRow::Epoch(row) => (b'e', *row.id.as_bytes()),
            MemberRow::Invite(row) => (b'i', *row.ticket.as_bytes()),
            MemberRow::Watch(row) => (b'o', *row.epoch.as_bytes()),
        };
        [&[kind], &id[..]].concat()
    }
}

impl Members {
    /// Takes a row in, new or changed.
    pub(crate) fn put(&mut self, row: MemberRow) {
        match row {
            MemberRow::User(row) => {
                self.changed |= !row.standings.is_empty();
                self.users.insert(row.public.id(), row);
            }
            MemberRow::Device(row) => {
                self.changed |= !row.expelled.is_empty();
                self.devices.insert(row.public.id, row);
            }
            MemberRow::Epoch(row) => {
                self.epochs.retain(|e| e.id != row.id);
                self.epochs.push(row);
                self.epochs.sort_by_key(|e| (e.count, e.id));
            }
            MemberRow::Invite(row) => {
                self.invites.insert(row.ticket, row);
            }
            MemberRow::Watch(row) => {
                self.watches.insert(row.epoch, row);
            }
        }
    }

    /// The epoch under which what is made here is sealed: the newest that is known and that all readers have.
    pub(crate) fn current_epoch(&self) -> Option<(&EpochRow, &DerivingKey)> {
        let with_key = |epoch| EpochRow::with_key(epoch);
        let chosen = self.epochs.iter().find(|epoch| Some(epoch.id) == self.sealing).and_then(with_key);
        chosen.or_else(|| self.epochs.iter().rev().find_map(with_key))
    }

    /// Devices of those who may change something.
    pub(crate) fn writers(&self) -> impl Iterator<Item = DeviceId> {
        self.devices.keys().copied().filter(|device| self.user_of(device).is_some_and(|user| user.role.may_write()))
    }

    /// The user of a device, with their row; nothing if either was removed.
    pub(crate) fn user_of(&self, device: &DeviceId) -> Option<&UserRow> {
        let device = self.devices.get(device).filter(|device| !device.removed)?;
        self.users.get(&device.user).filter(|user| !user.removed)
    }

    /// What a device counts as now; nothing if it was removed, or never admitted.
    pub(crate) fn role_of(&self, device: &DeviceId) -> Option<Role> {
        self.user_of(device).map(|user| user.role)
    }

    /// Whether anybody's standing ever changed after they were admitted.
    pub(crate) fn ever_changed(&self) -> bool {
        self.changed
    }

    /// A user's name as shown: of two of one name, the later one's carries a piece of their id. Who was removed
    /// leaves it to who is there.
    pub(crate) fn shown_name(&self, user: &UserId) -> String {
        // The owner's name is sealed under the first epoch's key, of which a keeper knows nothing.
        let Some(row) = self.users.get(user).filter(|row| !row.name.is_empty()) else {
            return format!("~{}", user.short());
        };
        let order = |row: &UserRow| (row.removed, row.count, row.public.id());
        let taken = self.users.values().any(|other| other.name == row.name && order(other) < order(row));
        if taken { format!("{}~{}", row.name, &user.to_string()[..4]) } else { row.name.clone() }
    }

    /// The users as listed, by name.
    pub(crate) fn list(&self, me: &UserId) -> Vec<Member> {
        let mut members: Vec<Member> = self
            .users
            .iter()
            .filter(|(_, row)| !row.removed)
            .map(|(id, row)| Member {
                user: *id,
                name: self.shown_name(id),
                role: row.role,
                number: user_number(id),
                devices: self.devices.values().filter(|d| d.user == *id && !d.removed).map(|d| d.public.id).collect(),
                me: id == me,
            })
            .collect();
        members.sort_by(|a, b| a.name.cmp(&b.name));
        members
    }
}

/// A user's number on mounts: above all that systems give out, from the id, so that it is the same everywhere.
pub(crate) fn user_number(user: &UserId) -> u32 {
    let [a, b, c, ..] = *user.as_bytes();
    0x1000_0000 | u32::from_le_bytes([a, b, c, 0])
}

/// The id of an epoch: a commitment to its key.
pub(crate) fn epoch_id(key: &SymmetricKey) -> EpochId {
    EpochId::from_bytes(*Hash::of(Label::EpochCommitment, &[key.expose()]).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_lower_case_words() {
        for good in ["a", "alice", "b.o-b_2", &"x".repeat(32)] {
            assert!(check_user_name(good).is_ok(), "{good}");
        }
        for bad in ["", "1a", "Alice", "a b", "a/b", "é", "-a", "a\n", &"x".repeat(33)] {
            assert!(check_user_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn roles_read_as_written() {
        for role in [Role::Keeper, Role::Reader, Role::Writer, Role::Admin, Role::Owner] {
            assert_eq!(role.to_string().parse(), Ok(role));
        }
        assert!("king".parse::<Role>().is_err());
    }
}
