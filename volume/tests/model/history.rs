//! A set of commits, opened: every value that was ever written, who had seen what, and which values are live.
//! Nothing here is kept up to date; everything is looked for in all commits.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, HashMap},
};

use crypto::{DeviceId, Label, SymmetricKey, UserKeys};
use p2pfs_volume::{
    commit::{self, AccessHead, ChangeKind, Commit, Head, RawChange},
    id::{Birthplace, CommitHash, LinkId, NodeId, ValueId},
};
use serde::{Serialize, de::DeserializeOwned};

/// The order of values: count, device, commit, number in it. The greatest wins.
pub type Rank = (u64, DeviceId, CommitHash, u32);

/// A change, with where it stands.
#[derive(Clone, Copy)]
pub struct Change<'a> {
    commit: &'a Commit,
    pub index: u32,
    pub head: &'a Head,
    raw: &'a RawChange,
}

impl Change<'_> {
    pub fn id(&self) -> ValueId {
        ValueId { commit: self.commit.hash, index: self.index }
    }

    pub fn rank(&self) -> Rank {
        (self.commit.header.count, self.commit.header.device, self.commit.hash, self.index)
    }

    pub fn device(&self) -> DeviceId {
        self.commit.header.device
    }

    /// When its commit was made.
    pub fn commit_secs(&self) -> i64 {
        self.commit.header.time.secs
    }

    fn birthplace(&self) -> Birthplace {
        let header = &self.commit.header;
        Birthplace { device: header.device, log: header.log, seq: header.seq, index: self.index }
    }

    /// The node that a birth bears.
    pub fn born(&self) -> NodeId {
        let root = self.commit.header.prev == CommitHash::ZERO && self.is_genesis();
        if root { NodeId::ROOT } else { self.birthplace().node(&self.raw.head, &self.raw.body) }
    }

    fn is_genesis(&self) -> bool {
        self.commit.heads.iter().any(|h| matches!(h.kind, ChangeKind::Genesis { .. }))
    }

    /// The link that a place is of.
    pub fn link(&self, said: Option<LinkId>) -> LinkId {
        said.unwrap_or_else(|| self.birthplace().link(&self.raw.head, &self.raw.body))
    }

    /// The values it replaces.
    pub fn supersedes(&self) -> impl Iterator<Item = ValueId> {
        self.head.supersedes.iter().map(|id| match id.commit {
            CommitHash::ZERO => ValueId { commit: self.commit.hash, index: id.index },
            _ => *id,
        })
    }
}

/// All commits.
pub struct History<'a> {
    commits: HashMap<CommitHash, &'a Commit>,
    changes: Vec<Change<'a>>,
    superseded: BTreeSet<ValueId>,
    pasts: RefCell<HashMap<CommitHash, BTreeSet<CommitHash>>>,
    node_keys: BTreeMap<NodeId, SymmetricKey>,
}

impl<'a> History<'a> {
    /// Opens them with the keys of the user who founded the volume.
    pub fn new(commits: &'a [Commit], founder: &UserKeys) -> Self {
        let mut changes = Vec::new();
        for commit in commits {
            for (i, (head, raw)) in commit.heads.iter().zip(&commit.raw.changes).enumerate() {
                changes.push(Change { commit, index: i as u32, head, raw });
            }
        }
        let epoch = changes.iter().find_map(|change| epoch_key(change.head, founder)).unwrap();
        let births = changes.iter().filter_map(|change| match &change.head.kind {
            ChangeKind::Birth { access, .. } => Some((change.born(), node_key(&epoch, access))),
            _ => None,
        });
        History {
            commits: commits.iter().map(|c| (c.hash, c)).collect(),
            superseded: changes.iter().flat_map(|c| c.supersedes().collect::<Vec<_>>()).collect(),
            pasts: RefCell::default(),
            node_keys: births.collect(),
            changes,
        }
    }

    /// Every change, in no order that matters.
    pub fn changes(&self) -> impl Iterator<Item = Change<'a>> + '_ {
        self.changes.iter().copied()
    }

    pub fn change(&self, id: ValueId) -> Change<'a> {
        self.changes().find(|c| c.id() == id).unwrap()
    }

    pub fn is_live(&self, change: &Change<'_>) -> bool {
        !self.superseded.contains(&change.id())
    }

    /// The live ones of some changes, the greatest first.
    pub fn live(&self, changes: impl Iterator<Item = Change<'a>>) -> Vec<Change<'a>> {
        let mut live: Vec<Change<'a>> = changes.filter(|c| self.is_live(c)).collect();
        live.sort_by_key(|c| std::cmp::Reverse(c.rank()));
        live
    }

    /// Whether who made `later` had seen `earlier`.
    pub fn saw(&self, later: ValueId, earlier: ValueId) -> bool {
        if later.commit == earlier.commit {
            return earlier.index <= later.index;
        }
        self.past(later.commit).contains(&earlier.commit)
    }

    fn past(&self, hash: CommitHash) -> BTreeSet<CommitHash> {
        if let Some(past) = self.pasts.borrow().get(&hash) {
            return past.clone();
        }
        let header = &self.commits[&hash].header;
        let mut past = BTreeSet::from([hash]);
        for before in header.observed.iter().chain([&header.prev]).filter(|h| **h != CommitHash::ZERO) {
            past.extend(self.past(*before));
        }
        self.pasts.borrow_mut().insert(hash, past.clone());
        past
    }

    /// What a change says in its sealed part, under the key of `node`.
    pub fn body<T: Serialize + DeserializeOwned>(&self, change: &Change<'_>, node: NodeId) -> T {
        let label = match change.head.kind {
            ChangeKind::Place { parent: Some(_), .. } => Label::NameKey,
            _ => Label::BodyKey,
        };
        let header = &change.commit.header;
        let (volume, device) = (&header.volume, &header.device);
        let aad = commit::body_aad(volume, device, header.log, header.seq, change.index, &change.raw.head);
        let key = self.node_keys[&node].derive(label, b"");
        commit::decode("body", &crypto::open_padded(&key, &aad, &change.raw.body).unwrap()).unwrap()
    }
}

fn epoch_key(head: &Head, user: &UserKeys) -> Option<SymmetricKey> {
    let ChangeKind::Epoch { epoch, sealed, .. } = &head.kind else { return None };
    let mine = sealed.iter().find(|s| s.user == user.id())?;
    let bytes = user.boxes.open(Label::BoxEpochKey, epoch.as_bytes(), &mine.sealed).unwrap();
    Some(SymmetricKey::from_bytes(bytes.as_slice().try_into().unwrap()))
}

fn node_key(epoch: &SymmetricKey, access: &AccessHead) -> SymmetricKey {
    let key = epoch.derive(Label::NodeKeyWrap, b"");
    let bytes = crypto::open(&key, &access.generation.to_le_bytes(), &access.wrapped).unwrap();
    SymmetricKey::from_bytes(bytes.as_slice().try_into().unwrap())
}
