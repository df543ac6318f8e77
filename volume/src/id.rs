//! Names of things in a volume. Each is a hash, so that nobody can be born twice and nobody
//! hands out numbers.

use crypto::{Hash, Label};
use serde::{Deserialize, Serialize};

crypto::define_id! {
    /// A file, directory, symlink or special file, across all replicas: hash of the change that bore it.
    pub struct NodeId, 16
}
crypto::define_id! {
    /// One name of a node: hash of the change that made it. A directory has one for its whole life.
    pub struct LinkId, 16
}
crypto::define_id! {
    /// A commit: hash of its header (which binds its changes by their root).
    pub struct CommitHash, 32
}
crypto::define_id! {
    /// Who may read and write: all members, or a narrower set (`docs/format.md`, "Realms").
    pub struct RealmId, 16
}

impl RealmId {
    /// The volume's members, the realm of everything so far.
    pub const MEMBERS: RealmId = RealmId::ZERO;
}

impl NodeId {
    /// The root directory; the same in every volume, its birth is in the genesis commit.
    pub const ROOT: NodeId = NodeId::ZERO;
}

/// Where in a log a change stands, as ids are derived from it.
#[derive(Clone, Copy, Debug)]
pub struct Birthplace {
    /// Author of the commit.
    pub device: crypto::DeviceId,
    /// Which of the author's logs.
    pub log: u64,
    /// Number of the commit in it.
    pub seq: u64,
    /// Number of the change in the commit.
    pub index: u32,
}

impl Birthplace {
    /// The hash that ids are made of: of the place, and of all that is said there, so that a device
    /// that signs two commits of one number can't bear two things of one id.
    fn hash(&self, what: &[u8], head: &[u8], body: &[u8]) -> [u8; 16] {
        let hash = Hash::of(
            Label::NodeIdHash,
            &[
                what,
                self.device.as_bytes(),
                &self.log.to_le_bytes(),
                &self.seq.to_le_bytes(),
                &self.index.to_le_bytes(),
                head,
                body,
            ],
        );
        let mut id = [0; 16];
        id.copy_from_slice(&hash.as_bytes()[..16]);
        id
    }

    /// The id of the node that the change with this head and sealed body bears here.
    pub fn node(&self, head: &[u8], body: &[u8]) -> NodeId {
        NodeId::from_bytes(self.hash(b"node", head, body))
    }

    /// The id of the link that the change with this head and sealed body makes here, of a node that is no directory
    /// ([`LinkId::of_directory`]).
    pub fn link(&self, head: &[u8], body: &[u8]) -> LinkId {
        LinkId::from_bytes(self.hash(b"link", head, body))
    }
}

impl LinkId {
    /// The id of a directory's only link. It follows from the directory alone: two branches of a forked log that bear one
    /// directory, word for word, and place it differently, give that one link two places.
    pub fn of_directory(node: &NodeId) -> LinkId {
        let hash = Hash::of(Label::NodeIdHash, &[b"directory", node.as_bytes()]);
        let mut id = [0; 16];
        id.copy_from_slice(&hash.as_bytes()[..16]);
        LinkId::from_bytes(id)
    }
}

/// A value of a register, named for all replicas: the commit that wrote it and the change in it.
/// The all-zero commit stands for the commit in which the reference itself stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ValueId {
    /// The commit.
    pub commit: CommitHash,
    /// Number of the change in it.
    pub index: u32,
}
