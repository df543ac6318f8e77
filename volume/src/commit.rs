//! The commit: one signed operation, as it is stored and sent.
//!
//! Owns the layout (`docs/format.md`, "Commit") and every check that needs no state: lengths,
//! canonical encoding, hashes. What a peer sends is a [`ClaimedCommit`]; [`ClaimedCommit::check`]
//! consumes it and is the only way to a [`Commit`]. Whether its author may is judged later, with
//! the volume's state.
//!
//! Invariants of a [`Commit`]: the changes hash to the header's root, the signature is the
//! header's device's, the encoding is the one this program would have made.

use std::io;

use crypto::{
    DeviceId, DevicePublic, EpochId, Hash, Label, PublicKey, Signature, UserId, UserPublic, VolumeId, verify,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    content::BlockHash,
    id::{CommitHash, LinkId, NodeId, RealmId, ValueId},
    member::Role,
    node::NodeKind,
    time::Timestamp,
};

/// The version of the format this program writes, and the only one it reads.
pub const FORMAT_VERSION: u8 = 1;
/// Most changes in one commit.
pub const MAX_CHANGES: usize = 8192;
/// Most bytes of one commit's changes, heads and bodies together.
pub const MAX_COMMIT_BYTES: usize = 2 << 20;
/// Most bytes of one head.
const MAX_HEAD: usize = 64 << 10;
/// Most bytes of one sealed body (an extended attribute may have 64 KiB).
const MAX_BODY: usize = 256 << 10;
/// Most bytes of a header (ten thousand observed logs fit).
pub(crate) const MAX_HEADER: usize = 1 << 20;

/// What the signature covers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// [`FORMAT_VERSION`].
    pub version: u8,
    /// The volume; all zero in the genesis commit, whose hash it is.
    pub volume: VolumeId,
    /// The author.
    pub device: DeviceId,
    /// Which of the author's logs: 0, or random when a device had to start anew.
    pub log: u64,
    /// 1, 2, 3 … in that log, without gaps.
    pub seq: u64,
    /// The commit before it in that log; all zero before the first.
    pub prev: CommitHash,
    /// The newest applied commits of other logs that neither `prev` nor one another cover.
    pub observed: Vec<CommitHash>,
    /// 1 + the greatest count among `prev` and `observed`.
    pub count: u64,
    /// The author's wall clock; for people, orders nothing.
    pub time: Timestamp,
    /// Hash over the changes: see [`changes_root`].
    pub root: Hash,
    /// How many changes there are.
    pub changes: u32,
}

/// A change as signed and stored: the head in clear, the body sealed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RawChange {
    /// Encoded [`Head`].
    #[serde(with = "serde_bytes")]
    pub head: Vec<u8>,
    /// Sealed body; empty when the kind has none.
    #[serde(with = "serde_bytes")]
    pub body: Vec<u8>,
}

impl RawChange {
    /// Bytes of both parts.
    pub fn size(&self) -> usize {
        self.head.len() + self.body.len()
    }

    /// As it is stored.
    pub(crate) fn encoded(&self) -> Vec<u8> {
        // What it takes beside the two parts are their lengths.
        let mut bytes = Vec::with_capacity(self.size() + 16);
        encode_into(&mut bytes, self);
        bytes
    }
}

/// What every replica, keepers included, sees of a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Number of the call within the commit; the changes of one call are judged together.
    pub call: u32,
    /// What it changes, and what must be judged in clear.
    pub kind: ChangeKind,
    /// The values its author had seen and replaced.
    pub supersedes: Vec<ValueId>,
}

/// Who may use a node, and its key under that realm's epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessHead {
    /// The owning user.
    pub owner: UserId,
    /// Readers and writers.
    pub realm: RealmId,
    /// The epoch of the realm whose key wraps the node's.
    pub epoch: EpochId,
    /// Generation of the node's key, from 1.
    pub generation: u32,
    /// The node's key, sealed under the epoch's.
    #[serde(with = "serde_bytes")]
    pub wrapped: Vec<u8>,
    /// Permission bits that every replica judges by (owner, members, -).
    pub mode: u16,
    /// Single users' rights beside them: bit 2 read, bit 1 write, bit 0 search.
    pub grants: Vec<(UserId, u8)>,
}

/// What a change is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChangeKind {
    /// A node is born, with its first access value. Its id follows from where this stands. Body: [`BirthBody`].
    #[serde(rename = "b")]
    Birth {
        /// What it is.
        kind: NodeKind,
        /// Its first access value.
        access: AccessHead,
    },
    /// A new access value. Body: [`AccessBody`].
    #[serde(rename = "a")]
    Access {
        /// Whose.
        node: NodeId,
        /// The value.
        access: AccessHead,
    },
    /// Times set by hand. Body: [`MetaBody`].
    #[serde(rename = "m")]
    Meta {
        /// Whose.
        node: NodeId,
        /// Generation of the key that seals the body.
        generation: u32,
    },
    /// An extended attribute set or removed. Body: [`XattrBody`].
    #[serde(rename = "x")]
    Xattr {
        /// Whose.
        node: NodeId,
        /// Generation of the key that seals the body.
        generation: u32,
        /// Which attribute: a tag of its name that only key holders can make.
        tag: NodeId,
    },
    /// A new content. Body: [`ContentBody`].
    #[serde(rename = "c")]
    Content {
        /// Whose.
        node: NodeId,
        /// Generation of the key that seals the body and new blocks.
        generation: u32,
        /// Root of the tree of hashes; all zero for inline contents.
        root: BlockHash,
        /// Number of blocks under it.
        blocks: u64,
    },
    /// Settles a conflict: takes content values away and puts none there. No body.
    #[serde(rename = "s")]
    Settle {
        /// Whose.
        node: NodeId,
    },
    /// A link's place. Body: [`PlaceBody`] under the parent's name key.
    #[serde(rename = "p")]
    Place {
        /// Which link; `None`: born here, its id follows from where this stands.
        link: Option<LinkId>,
        /// The node it leads to.
        child: NodeId,
        /// The directory.
        parent: NodeId,
        /// Generation of the key that seals the body.
        generation: u32,
    },
    /// A link was removed. No body: many are made at once, and a sealed one would be more than all the rest.
    #[serde(rename = "r")]
    Removal {
        /// Which link.
        link: LinkId,
        /// The node it led to.
        child: NodeId,
        /// When.
        time: Timestamp,
    },
    /// The first change of a volume: its owner. No body.
    #[serde(rename = "g")]
    Genesis {
        /// The owner's keys.
        user: UserPublic,
        /// The owner's first device.
        device: DevicePublic,
        /// The owner over that device.
        certificate: Signature,
        /// The user's encryption key, sealed to that device.
        #[serde(with = "serde_bytes")]
        user_key: Vec<u8>,
    },
    /// A new epoch of a realm. No body.
    #[serde(rename = "e")]
    Epoch {
        /// Which realm.
        realm: RealmId,
        /// Commitment to its key.
        epoch: EpochId,
        /// The one before it.
        previous: Option<EpochId>,
        /// Its key, sealed to each reader's encryption key of that generation.
        sealed: Vec<SealedKey>,
        /// The keys of the epochs before it, sealed under its own.
        #[serde(with = "serde_bytes")]
        carried: Vec<u8>,
    },
    /// An invitation. No body.
    #[serde(rename = "i")]
    Invite {
        /// The ticket's public key.
        ticket: PublicKey,
        /// What its bearer becomes.
        role: Role,
        /// Until when.
        expires: Timestamp,
    },
    /// A ticket redeemed: a user and their first device admitted. Body: [`MemberBody`].
    #[serde(rename = "u")]
    Grant {
        /// Which ticket.
        ticket: PublicKey,
        /// What they become.
        role: Role,
        /// Their keys.
        user: UserPublic,
        /// Their device.
        device: DevicePublic,
        /// The user over that device.
        certificate: Signature,
        /// Keys of the root realm's epochs for them; for a keeper, the discovery keys of these.
        sealed: Vec<SealedKey>,
        /// The user's encryption key, sealed to that device.
        #[serde(with = "serde_bytes")]
        user_key: Vec<u8>,
    },
    /// The author's name. Body: [`MemberBody`] under the newest epoch of the members.
    #[serde(rename = "n")]
    Name {},
    /// A value of a setting of the volume. Body: [`SettingBody`] under that epoch.
    #[serde(rename = "v")]
    Setting {
        /// The epoch whose key seals the body and makes the tag.
        epoch: EpochId,
        /// Which setting: a tag of its name that only key holders can make.
        tag: NodeId,
    },
    /// A snapshot: what shows on a device when this came there is to be kept. Body: [`SnapshotBody`] under that epoch.
    #[serde(rename = "w")]
    Snapshot {
        /// The epoch whose key seals the body.
        epoch: EpochId,
    },
    /// How far the audit log of the author's device goes. No body.
    #[serde(rename = "o")]
    AuditHead {
        /// Entries.
        count: u64,
        /// The hash of the chain after the last of them.
        hash: Hash,
    },
    /// The snapshot that it supersedes is not kept any more. No body.
    #[serde(rename = "d")]
    Drop {},
    /// An invitation of a further device of the author's user. No body.
    #[serde(rename = "j")]
    InviteDevice {
        /// The ticket's public key.
        ticket: PublicKey,
        /// Until when; `None`: it is in an exported key, can be used again, and is good until it is withdrawn.
        expires: Option<Timestamp>,
    },
    /// A further device of a user admitted. No body.
    #[serde(rename = "y")]
    Device {
        /// Which ticket.
        ticket: PublicKey,
        /// Whose it is: the author's user, unless it comes with an exported key.
        user: UserId,
        /// The device.
        device: DevicePublic,
        /// The user over that device.
        certificate: Signature,
        /// The user's encryption keys, sealed to that device.
        #[serde(with = "serde_bytes")]
        user_key: Vec<u8>,
        /// By the ticket's key over the device, where it comes with an exported key.
        proof: Option<Signature>,
    },
    /// A new encryption key of the author's user. No body.
    #[serde(rename = "h")]
    UserKey {
        /// The user's keys with the new one.
        user: UserPublic,
        /// The user over them.
        certificate: Signature,
        /// The new secret, for each of the user's devices that shall have it.
        sealed: Vec<DeviceBox>,
    },
    /// An invitation withdrawn, of either kind. No body.
    #[serde(rename = "l")]
    Withdraw {
        /// Which ticket.
        ticket: PublicKey,
    },
    /// What a user is from here on. It supersedes what they were, as far as its author had seen. No body.
    #[serde(rename = "t")]
    Standing {
        /// Whose.
        user: UserId,
        /// Their role; `None`: they belong to the volume no more.
        role: Option<Role>,
    },
    /// A device belongs to the volume no more. No body.
    #[serde(rename = "q")]
    Expel {
        /// Which.
        device: DeviceId,
    },
    /// Keys of epochs, for readers who have not got them. No body.
    #[serde(rename = "k")]
    Keys {
        /// One for each epoch and reader.
        sealed: Vec<SealedKey>,
    },
    /// Discovery keys of epochs, for keepers: these find and know members, and read nothing. No body.
    #[serde(rename = "z")]
    Watch {
        /// One for each epoch and keeper; what is sealed is the discovery key.
        sealed: Vec<SealedKey>,
    },
}

/// A user's secret for one of their devices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceBox {
    /// Which.
    pub device: DeviceId,
    /// The secret, sealed (HPKE).
    #[serde(with = "serde_bytes")]
    pub sealed: Vec<u8>,
}

/// An epoch's key for one reader.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedKey {
    /// Whose; a device's id where it is sealed to that alone.
    pub user: UserId,
    /// Under which generation of their encryption key; the greatest number there is where it is sealed to a device.
    pub generation: u32,
    /// Which epoch's.
    pub epoch: EpochId,
    /// The key, sealed (HPKE).
    #[serde(with = "serde_bytes")]
    pub sealed: Vec<u8>,
}

/// Sealed part of a birth.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BirthBody {
    /// The first access value's sealed part.
    pub access: AccessBody,
    /// Device number of device nodes.
    pub rdev: u32,
    /// Target of a symlink.
    #[serde(with = "serde_bytes")]
    pub target: Vec<u8>,
}

/// Sealed part of an access value: what concerns local accounts only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessBody {
    /// When.
    pub time: Timestamp,
    /// The low twelve mode bits.
    pub mode: u16,
    /// Numeric owner, as a system mount shows it.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// POSIX access ACL in its xattr encoding; empty: none.
    #[serde(with = "serde_bytes")]
    pub acl: Vec<u8>,
    /// POSIX default ACL of a directory; empty: none.
    #[serde(with = "serde_bytes")]
    pub default_acl: Vec<u8>,
}

/// Sealed part of a meta value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetaBody {
    /// When.
    pub time: Timestamp,
    /// Modification time as set; `None` leaves the content's own.
    pub mtime: Option<Timestamp>,
    /// Access time as set.
    pub atime: Timestamp,
}

/// Sealed part of an extended attribute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct XattrBody {
    /// When.
    pub time: Timestamp,
    /// Its name.
    #[serde(with = "serde_bytes")]
    pub name: Vec<u8>,
    /// Its value; `None`: removed.
    pub value: Option<serde_bytes::ByteBuf>,
}

/// Sealed part of a content value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContentBody {
    /// When it was last written to.
    pub mtime: Timestamp,
    /// Size and bytes, or the size of what `root` leads to.
    pub content: crate::content::Content,
    /// Node keys that its blocks need beside the node's own.
    pub keys: Vec<crypto::SymmetricKey>,
}

/// Sealed part of a place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlaceBody {
    /// When.
    pub time: Timestamp,
    /// The name in the directory.
    #[serde(with = "serde_bytes")]
    pub name: Vec<u8>,
}

/// Sealed part of what concerns a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberBody {
    /// The user's name.
    pub name: String,
}

/// Sealed part of a setting's value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingBody {
    /// Its name.
    pub name: String,
    /// Its value; `None`: the default again.
    pub value: Option<String>,
}

/// Sealed part of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotBody {
    /// Its name.
    pub name: String,
}

/// A commit as a stranger sends it; nothing in it is believed yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimedCommit {
    /// Encoded [`Header`].
    #[serde(with = "serde_bytes")]
    pub header: Vec<u8>,
    /// The device over the header.
    pub signature: Signature,
    /// The changes.
    pub changes: Vec<RawChange>,
}

/// A commit that is what its author signed, whole.
#[derive(Clone, Debug)]
pub struct Commit {
    /// Its name.
    pub hash: CommitHash,
    /// The decoded header.
    pub header: Header,
    /// As received.
    pub raw: ClaimedCommit,
    /// The decoded heads, one per change.
    pub heads: Vec<Head>,
}

/// Why bytes are no commit. The sender is to blame, not the supposed author.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Not the encoding of a commit, or not the canonical one.
    #[error("not a well-formed {0}")]
    Encoding(&'static str),
    /// A part is larger than the format allows.
    #[error("{0} over its limit")]
    TooLarge(&'static str),
    /// Written by a newer program.
    #[error("format version {found}, this program knows {FORMAT_VERSION}")]
    Version {
        /// The version it says.
        found: u8,
    },
    /// The changes aren't those that were signed.
    #[error("changes do not match the signed root")]
    Root,
    /// The signature isn't the author's.
    #[error("signature does not match device {0:?}")]
    Signature(DeviceId),
    /// A rule that needs the volume's state is broken.
    #[error("{0}")]
    Rule(&'static str),
}

/// Encodes a structure of the format.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256);
    encode_into(&mut bytes, value);
    bytes
}

/// The same, in place of what `bytes` held.
pub(crate) fn encode_into<T: Serialize>(bytes: &mut Vec<u8>, value: &T) {
    bytes.clear();
    rmp_serde::encode::write(bytes, value).expect("structures of the format always encode");
}

/// Decodes a structure of the format; only the canonical encoding is taken, without trailing bytes.
pub fn decode<T: Serialize + DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, Malformed> {
    let value: T = rmp_serde::from_slice(bytes).map_err(|_| Malformed::Encoding(what))?;
    let mut expected = Expected(bytes);
    match rmp_serde::encode::write(&mut expected, &value) {
        Ok(()) if expected.0.is_empty() => Ok(value),
        _ => Err(Malformed::Encoding(what)),
    }
}

/// Takes only the bytes it begins with: an encoding is compared as it is made, and needs no memory.
struct Expected<'a>(&'a [u8]);

impl io::Write for Expected<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.strip_prefix(bytes).ok_or(io::ErrorKind::InvalidData)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Hash over the changes: over the hashes of all heads and bodies in order, so that a body can
/// be dropped later and its hash stay.
pub fn changes_root<'a>(changes: impl Iterator<Item = &'a RawChange>) -> Hash {
    let mut hasher = crypto::Hasher::new(Label::ChangesRoot);
    for change in changes {
        hasher.update(Hash::of_bytes(Label::ChangesRoot, &change.head).as_bytes());
        hasher.update(Hash::of_bytes(Label::ChangesRoot, &change.body).as_bytes());
    }
    hasher.finish()
}

/// The name of the commit with this encoded header.
pub fn commit_hash(header: &[u8]) -> CommitHash {
    CommitHash::from_bytes(*Hash::of_bytes(Label::CommitHash, header).as_bytes())
}

/// What a body is bound to: it opens nowhere else.
pub fn body_aad(volume: &VolumeId, device: &DeviceId, log: u64, seq: u64, index: u32, head: &[u8]) -> Vec<u8> {
    let mut aad = Vec::with_capacity(84 + head.len());
    aad.extend_from_slice(volume.as_bytes());
    aad.extend_from_slice(device.as_bytes());
    aad.extend_from_slice(&log.to_le_bytes());
    aad.extend_from_slice(&seq.to_le_bytes());
    aad.extend_from_slice(&index.to_le_bytes());
    aad.extend_from_slice(head);
    aad
}

impl Header {
    /// Decodes a header of this version.
    ///
    /// # Errors
    /// [`Malformed`]: it is too large, another version's or not the canonical encoding.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Header, Malformed> {
        if bytes.len() > MAX_HEADER {
            return Err(Malformed::TooLarge("header"));
        }
        // The version is the first element of the encoded array: looked at alone, so that a newer
        // format is told apart from nonsense.
        if let [_, version, ..] = bytes[..]
            && version < 0x80
            && version != FORMAT_VERSION
        {
            return Err(Malformed::Version { found: version });
        }
        let header: Header = decode("header", bytes)?;
        if header.version != FORMAT_VERSION {
            return Err(Malformed::Version { found: header.version });
        }
        Ok(header)
    }

    /// Checks what a header says of itself, and the signature over its `bytes`.
    ///
    /// # Errors
    /// [`Malformed`], with the first thing that is wrong.
    pub(crate) fn check_signed(&self, bytes: &[u8], signature: &Signature) -> Result<(), Malformed> {
        if self.seq == 0
            || (self.seq == 1) != (self.prev == CommitHash::ZERO)
            || self.count == 0
            || !self.time.is_valid()
        {
            return Err(Malformed::Rule("impossible header"));
        }
        if self.observed.windows(2).any(|pair| pair[0] >= pair[1]) {
            return Err(Malformed::Rule("observed commits out of order"));
        }
        verify(Label::CommitSignature, self.device, bytes, signature).map_err(|_| Malformed::Signature(self.device))
    }
}

impl ClaimedCommit {
    /// Checks all that can be checked without the volume's state.
    ///
    /// # Errors
    /// [`Malformed`]; the commit must then be dropped and says nothing about its supposed author.
    pub fn check(self) -> Result<Commit, Malformed> {
        if self.header.len() > MAX_HEADER {
            return Err(Malformed::TooLarge("header"));
        }
        if self.changes.len() > MAX_CHANGES {
            return Err(Malformed::TooLarge("number of changes"));
        }
        let mut total = 0;
        for change in &self.changes {
            if change.head.len() > MAX_HEAD {
                return Err(Malformed::TooLarge("head"));
            }
            if change.body.len() > MAX_BODY {
                return Err(Malformed::TooLarge("body"));
            }
            total += change.size();
        }
        if total > MAX_COMMIT_BYTES + MAX_HEAD + MAX_BODY {
            return Err(Malformed::TooLarge("commit"));
        }
        let header = Header::decode(&self.header)?;
        if header.changes as usize != self.changes.len() || changes_root(self.changes.iter()) != header.root {
            return Err(Malformed::Root);
        }
        header.check_signed(&self.header, &self.signature)?;
        let mut heads: Vec<Head> = Vec::with_capacity(self.changes.len());
        for change in &self.changes {
            let head: Head = decode("head", &change.head)?;
            let before = heads.last().map_or(0, |h: &Head| h.call);
            if head.call < before || head.call > before + 1 {
                return Err(Malformed::Rule("call numbers out of order"));
            }
            if head.supersedes.windows(2).any(|pair| pair[0] >= pair[1]) {
                return Err(Malformed::Rule("superseded values out of order"));
            }
            if matches!(head.kind, ChangeKind::Removal { time, .. } if !time.is_valid()) {
                return Err(Malformed::Rule("impossible time of a removal"));
            }
            heads.push(head);
        }
        Ok(Commit { hash: commit_hash(&self.header), header, raw: self, heads })
    }
}
