//! Who belongs to the volume: users, their devices, roles, epochs of the root realm, invitations.
//!
//! Owns the membership state that follows from the commits, and the texts that joining signs.
//! Kept whole in memory: it is small beside everything else (ten thousand devices are a few
//! megabytes) and every commit is judged by it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
};

use crypto::{
    BoxPublic, DerivingKey, DeviceId, DeviceKeys, DevicePublic, EpochId, Hash, Label, PublicKey, Signature,
    SigningKeys, SymmetricKey, UserId, UserKeys, UserPublic, VolumeId, verify,
};
use serde::{Deserialize, Serialize};

use crate::{
    commit::encode,
    id::RealmId,
    invitations::WithdrawnRow,
    keeper::WatchRow,
    own_devices::{DeviceInviteRow, SecretRow, UserKeysRow},
    realms::NarrowEpochs,
    time::Timestamp,
    version::ValueRef,
};

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

    /// Proves that its bearer has it.
    pub(crate) fn sign(&self, message: &[u8]) -> Signature {
        self.0.sign(Label::TicketProof, message)
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
            proof: ticket.sign(&message),
            certificate: certify(user, &device_public)?,
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
///
/// # Errors
/// This device doesn't hold the user's signing key.
pub(crate) fn certify(user: &UserKeys, device: &DevicePublic) -> Result<Signature, String> {
    let signing = user.signing.as_ref().ok_or_else(|| NO_SIGNING_KEY.to_owned())?;
    Ok(signing.sign(Label::DeviceCertificate, &encode(device)))
}

/// What a device says that can't certify.
pub(crate) const NO_SIGNING_KEY: &str = "this device does not hold its user's signing key: only the one where the user was made does, or where an exported key was imported";

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

impl DeviceRow {
    /// Whether it is removed, or a removal names it.
    pub(crate) fn is_cut(&self) -> bool {
        self.removed || !self.expelled.is_empty()
    }
}

/// An epoch of a realm.
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
    #[serde(default = "members")]
    pub realm: RealmId,
    /// Who made it; not told of those of the members.
    #[serde(default)]
    pub by: Option<UserId>,
}

fn members() -> RealmId {
    RealmId::MEMBERS
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
    /// Those of the members.
    pub epochs: Vec<EpochRow>,
    /// Those of narrower realms.
    pub narrow: NarrowEpochs,
    numbers: Numbers,
    pub invites: BTreeMap<PublicKey, InviteRow>,
    pub user_keys: BTreeMap<UserId, UserKeysRow>,
    pub device_invites: BTreeMap<PublicKey, DeviceInviteRow>,
    pub withdrawn: BTreeMap<PublicKey, WithdrawnRow>,
    /// This device's own.
    pub secrets: BTreeMap<BoxPublic, SecretRow>,
    pub watches: BTreeMap<EpochId, WatchRow>,
    /// Every transfer of the ownership, with whose the volume was to be.
    transfers: Transfers,
    /// Devices by whom they are of, or were admitted for.
    devices_of: BTreeMap<UserId, BTreeSet<DeviceId>>,
    /// Devices that were admitted more than once: perhaps for several users.
    admitted_twice: BTreeSet<DeviceId>,
    /// Users by the names that they gave themselves.
    named: BTreeMap<String, BTreeSet<UserId>>,
    /// Users of whom something was made since they were admitted.
    changed_users: BTreeSet<UserId>,
    /// Devices that are removed, or that a removal names.
    cut_devices: BTreeSet<DeviceId>,
    /// The epoch under which what is made here is sealed, once that was looked at.
    pub sealing: Option<EpochId>,
}

/// Transfers of the ownership by their place, each with the user and the value.
pub(crate) type Transfers = BTreeMap<ValueRef, (UserId, StandingValue)>;

impl UserRow {
    /// The values by which this user was to become the owner.
    pub(crate) fn transfers(&self) -> impl Iterator<Item = (ValueRef, (UserId, StandingValue))> + '_ {
        let to_owner = self.standings.iter().filter(|value| value.role == Some(Role::Owner));
        to_owner.map(|value| (value.at, (self.public.id(), value.clone())))
    }
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
    #[serde(rename = "h")]
    UserKeys(UserKeysRow),
    #[serde(rename = "j")]
    DeviceInvite(DeviceInviteRow),
    #[serde(rename = "k")]
    Secret(SecretRow),
    #[serde(rename = "l")]
    Withdrawn(WithdrawnRow),
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
            MemberRow::UserKeys(row) => (b'h', *row.user.as_bytes()),
            MemberRow::DeviceInvite(row) => (b'j', *row.ticket.as_bytes()),
            MemberRow::Secret(row) => (b'k', *row.public.as_bytes()),
            MemberRow::Withdrawn(row) => (b'l', *row.ticket.as_bytes()),
            MemberRow::Watch(row) => (b'o', *row.epoch.as_bytes()),
        };
        [&[kind], &id[..]].concat()
    }
}

impl Members {
    /// Every transfer of the ownership.
    pub(crate) fn transfers(&self) -> &Transfers {
        &self.transfers
    }

    /// Takes a row in, new or changed.
    pub(crate) fn put(&mut self, row: MemberRow) {
        match row {
            MemberRow::User(row) => {
                self.transfers.extend(row.transfers());
                let id = row.public.id();
                if !row.standings.is_empty() {
                    self.changed_users.insert(id);
                }
                self.named.entry(row.name.clone()).or_default().insert(id);
                let before = self.users.insert(id, row);
                if before.is_none_or(|before| before.count != self.users[&id].count) {
                    self.numbers.admit(id, &self.users);
                }
            }
            MemberRow::Device(row) => {
                if row.is_cut() {
                    self.cut_devices.insert(row.public.id);
                } else {
                    self.cut_devices.remove(&row.public.id);
                }
                self.devices_of.entry(row.user).or_default().insert(row.public.id);
                if row.granted.len() > 1 {
                    self.admitted_twice.insert(row.public.id);
                }
                self.devices.insert(row.public.id, row);
            }
            MemberRow::Epoch(row) => {
                self.epochs.retain(|e| e.id != row.id);
                if row.realm == RealmId::MEMBERS {
                    self.epochs.push(row);
                    self.epochs.sort_by_key(|e| (e.count, e.id));
                } else {
                    self.narrow.put(row);
                }
            }
            MemberRow::Invite(row) => {
                self.invites.insert(row.ticket, row);
            }
            MemberRow::Watch(row) => {
                self.watches.insert(row.epoch, row);
            }
            MemberRow::UserKeys(row) => {
                self.user_keys.insert(row.user, row);
            }
            MemberRow::DeviceInvite(row) => {
                self.device_invites.insert(row.ticket, row);
            }
            MemberRow::Secret(row) => {
                self.secrets.insert(row.public, row);
            }
            MemberRow::Withdrawn(row) => {
                self.withdrawn.insert(row.ticket, row);
            }
        }
    }

    /// The epoch under which what is made here is sealed: the newest that is known and that all readers have.
    pub(crate) fn current_epoch(&self) -> Option<(&EpochRow, &DerivingKey)> {
        let with_key = |epoch| EpochRow::with_key(epoch);
        let chosen = self.epochs.iter().find(|epoch| Some(epoch.id) == self.sealing).and_then(with_key);
        chosen.or_else(|| self.epochs.iter().rev().find_map(with_key))
    }

    /// What is known of an epoch of any realm.
    pub(crate) fn epoch(&self, id: &EpochId) -> Option<&EpochRow> {
        self.epochs.iter().find(|row| row.id == *id).or_else(|| self.narrow.get(id))
    }

    /// Devices of those who may change something.
    pub(crate) fn writers(&self) -> impl Iterator<Item = DeviceId> {
        self.devices.keys().copied().filter(|device| self.user_of(device).is_some_and(|user| user.role.may_write()))
    }

    /// The devices that a user may have been admitted with, each once.
    pub(crate) fn admitted_with(&self, user: &UserId) -> impl Iterator<Item = &DeviceRow> {
        let of_user = self.devices_of.get(user).into_iter().flatten();
        let twice = self.admitted_twice.iter().filter(|id| self.devices.get(*id).is_some_and(|row| row.user != *user));
        of_user.chain(twice).filter_map(|id| self.devices.get(id))
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
        !self.changed_users.is_empty() || !self.cut_devices.is_empty()
    }

    /// Users of whom something was made since they were admitted.
    pub(crate) fn changed_users(&self) -> impl Iterator<Item = UserId> + '_ {
        self.changed_users.iter().copied()
    }

    /// Devices that are removed, or that a removal names.
    pub(crate) fn cut_devices(&self) -> impl Iterator<Item = DeviceId> + '_ {
        self.cut_devices.iter().copied()
    }

    /// Devices that were admitted more than once.
    pub(crate) fn admitted_twice(&self) -> impl Iterator<Item = DeviceId> + '_ {
        self.admitted_twice.iter().copied()
    }

    /// A user's devices, removed ones too.
    pub(crate) fn devices_of(&self, user: &UserId) -> impl Iterator<Item = &DeviceRow> {
        self.admitted_with(user).filter(move |row| row.user == *user)
    }

    /// A user's name as shown: of two of one name, the later one's carries a piece of their id. Who was removed
    /// leaves it to who is there.
    pub(crate) fn shown_name(&self, user: &UserId) -> String {
        // The owner's name is sealed under the first epoch's key, of which a keeper knows nothing.
        let Some(row) = self.users.get(user).filter(|row| !row.name.is_empty()) else {
            return format!("~{}", user.short());
        };
        let order = |row: &UserRow| (row.removed, row.count, row.public.id());
        let mut namesakes = self.named.get(&row.name).into_iter().flatten().filter_map(|other| self.users.get(other));
        let taken = namesakes.any(|other| other.name == row.name && order(other) < order(row));
        if taken { format!("{}~{}", row.name, &user.to_string()[..4]) } else { row.name.clone() }
    }

    /// A user's number on mounts.
    pub(crate) fn number_of(&self, user: &UserId) -> u32 {
        self.numbers.of_user.get(user).copied().unwrap_or_else(|| user_number(user))
    }

    /// The user with a number on mounts.
    pub(crate) fn user_with(&self, number: u32) -> Option<UserId> {
        self.numbers.users.get(&number).copied()
    }

    /// The user of a name as it is shown.
    pub(crate) fn user_named(&self, name: &str) -> Option<UserId> {
        self.users.keys().find(|user| self.shown_name(user) == name).copied()
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
                number: self.number_of(id),
                devices: self.devices_of(id).filter(|d| !d.removed).map(|d| d.public.id).collect(),
                me: id == me,
            })
            .collect();
        members.sort_by(|a, b| a.name.cmp(&b.name));
        members
    }
}

/// Above all numbers that systems give out.
const NUMBERS: u32 = 0x1000_0000;
const NUMBER_BITS: u32 = 0x00FF_FFFF;

/// The number on mounts that a user has unless somebody admitted earlier has it: from the id, so that it is the same
/// everywhere.
fn user_number(user: &UserId) -> u32 {
    let [a, b, c, ..] = *user.as_bytes();
    NUMBERS | u32::from_le_bytes([a, b, c, 0])
}

/// The users' numbers on mounts. Of two with one number the one who was admitted later has the next free one.
#[derive(Clone, Debug, Default)]
struct Numbers {
    of_user: BTreeMap<UserId, u32>,
    users: BTreeMap<u32, UserId>,
    /// Somebody has not the number that the id says: then the order of all decides, each time.
    taken: bool,
}

impl Numbers {
    /// Numbers a user who came, or whose admission is another one now.
    fn admit(&mut self, user: UserId, all: &BTreeMap<UserId, UserRow>) {
        let number = user_number(&user);
        if !self.taken && *self.users.entry(number).or_insert(user) == user {
            self.of_user.insert(user, number);
            return;
        }
        *self = Self { taken: true, ..Self::default() };
        let mut users: Vec<(u64, UserId)> = all.iter().map(|(user, row)| (row.count, *user)).collect();
        users.sort_unstable();
        for (_, user) in users {
            let mut number = user_number(&user);
            while self.users.contains_key(&number) {
                number = NUMBERS | (number.wrapping_add(1) & NUMBER_BITS);
            }
            self.users.insert(number, user);
            self.of_user.insert(user, number);
        }
    }
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
    fn no_two_users_have_one_number() {
        let user = |n: u8, last: u8| {
            let mut id = [0; 32];
            (id[0], id[1], id[2], id[31]) = (n, 0xff, 0xff, last);
            UserId::from_bytes(id)
        };
        let row = |count| {
            let public = UserKeys::generate(&crypto::SeededEntropy::new(count)).public();
            let at = ValueRef { dot: crate::version::Dot { branch: crate::version::BranchNo(0), seq: 1 }, index: 0 };
            let (standings, removed) = (Vec::new(), false);
            UserRow { public, name: String::new(), role: Role::Writer, granted: at, count, standings, removed }
        };
        // Three of one number, of which the first come wraps around; one who has the number behind it.
        let users = [(user(0xfe, 1), 5), (user(0xfe, 2), 3), (user(0xfe, 3), 4), (user(0xff, 1), 9)];
        let numbered = |order: [usize; 4]| {
            let (mut numbers, mut all) = (Numbers::default(), BTreeMap::new());
            for (user, count) in order.map(|i| users[i]) {
                all.insert(user, row(count));
                numbers.admit(user, &all);
            }
            users.map(|(user, _)| numbers.of_user[&user])
        };
        let expected = [0x1000_0000, 0x10ff_fffe, 0x10ff_ffff, 0x1000_0001];
        for order in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2], [2, 0, 3, 1]] {
            assert_eq!(numbered(order), expected, "{order:?}");
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
