//! A set of commits, opened: every value that was ever written, who had seen what, and which values are live.
//! Nothing here is kept up to date; everything is looked for in all commits.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use crypto::{DeviceId, Label, SymmetricKey, UserKeys};
use serde::{Serialize, de::DeserializeOwned};
use volume::{
    commit::{self, AccessHead, ChangeKind, Commit, Head, RawChange},
    id::{Birthplace, CommitHash, LinkId, NodeId, ValueId},
    member::Role,
};

/// The order of values: count, device, commit, number in it. The greatest wins.
pub type Rank = (u64, DeviceId, CommitHash, u32);

/// A change, with where it stands.
#[derive(Clone, Copy)]
pub struct Change<'a> {
    commit: &'a Commit,
    /// Its number in the commit.
    pub index: u32,
    /// What everybody sees of it.
    pub head: &'a Head,
    raw: &'a RawChange,
}

impl Change<'_> {
    /// How others name it.
    pub fn id(&self) -> ValueId {
        ValueId { commit: self.commit.hash, index: self.index }
    }

    /// Its place in the order of values.
    pub fn rank(&self) -> Rank {
        (self.commit.header.count, self.commit.header.device, self.commit.hash, self.index)
    }

    /// Who made it.
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
    commits: BTreeMap<CommitHash, &'a Commit>,
    /// Those that count, in order; void ones change nothing.
    changes: Vec<Change<'a>>,
    numbers: BTreeMap<ValueId, usize>,
    superseded: BTreeSet<ValueId>,
    pasts: RefCell<BTreeMap<CommitHash, Rc<BTreeSet<CommitHash>>>>,
    node_keys: BTreeMap<NodeId, SymmetricKey>,
}

/// Every device that a commit admits, with its role; the founder's is the owner.
pub fn members<'a>(commits: impl IntoIterator<Item = &'a Commit>) -> BTreeMap<DeviceId, Role> {
    let admitted = commits.into_iter().flat_map(|c| &c.heads).filter_map(|head| match &head.kind {
        ChangeKind::Genesis { device, .. } => Some((device.id, Role::Owner)),
        ChangeKind::Grant { device, role, .. } => Some((device.id, *role)),
        _ => None,
    });
    admitted.collect()
}

impl<'a> History<'a> {
    /// Opens them with the keys of the user who founded the volume.
    pub fn new(commits: impl IntoIterator<Item = &'a Commit>, founder: &UserKeys) -> Self {
        let commits: Vec<&'a Commit> = commits.into_iter().collect();
        let members = members(commits.iter().copied());
        let is_void = |commit: &Commit| !members[&commit.header.device].may_write();
        let (mut changes, mut void) = (Vec::new(), BTreeMap::new());
        for &commit in &commits {
            for (i, (head, raw)) in commit.heads.iter().zip(&commit.raw.changes).enumerate() {
                let change = Change { commit, index: i as u32, head, raw };
                if is_void(commit) {
                    void.insert(change.id(), change);
                } else {
                    changes.push(change);
                }
            }
        }
        // What supersedes a void value also supersedes what that one superseded.
        let mut superseded = BTreeSet::new();
        let mut todo: Vec<ValueId> = changes.iter().flat_map(|c| c.supersedes().collect::<Vec<_>>()).collect();
        while let Some(id) = todo.pop() {
            if superseded.insert(id) {
                todo.extend(void.get(&id).iter().flat_map(|c| c.supersedes()));
            }
        }
        let epoch = changes.iter().find_map(|change| epoch_key(change.head, founder)).unwrap();
        let births = changes.iter().filter_map(|change| match &change.head.kind {
            ChangeKind::Birth { access, .. } => Some((change.born(), node_key(&epoch, access))),
            _ => None,
        });
        History {
            commits: commits.iter().map(|c| (c.hash, *c)).collect(),
            numbers: changes.iter().enumerate().map(|(number, c)| (c.id(), number)).collect(),
            superseded,
            pasts: RefCell::default(),
            node_keys: births.collect(),
            changes,
        }
    }

    /// Every change, in no order that matters.
    pub fn changes(&self) -> impl Iterator<Item = Change<'a>> + '_ {
        self.changes.iter().copied()
    }

    /// The one of that name.
    pub fn change(&self, id: ValueId) -> Change<'a> {
        self.changes[self.numbers[&id]]
    }

    /// Whether nobody superseded it.
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

    fn past(&self, hash: CommitHash) -> Rc<BTreeSet<CommitHash>> {
        if let Some(past) = self.pasts.borrow().get(&hash) {
            return past.clone();
        }
        let header = &self.commits[&hash].header;
        let mut past = BTreeSet::from([hash]);
        for before in header.observed.iter().chain([&header.prev]).filter(|h| **h != CommitHash::ZERO) {
            past.extend(self.past(*before).iter().copied());
        }
        let past = Rc::new(past);
        self.pasts.borrow_mut().insert(hash, past.clone());
        past
    }

    /// The key of a node.
    pub fn node_key(&self, node: NodeId) -> &SymmetricKey {
        &self.node_keys[&node]
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
