//! Commits as another program could sign them.

use std::collections::BTreeSet;

use crypto::{DeviceKeys, Label, SeededEntropy, SymmetricKey, seal_padded};
use p2pfs_volume::{
    Message, NodeKind, SessionError, Timestamp,
    commit::{
        AccessBody, AccessHead, BirthBody, ChangeKind, ClaimedCommit, Commit, FORMAT_VERSION, Head, Header, PlaceBody,
        RawChange, body_aad, changes_root, commit_hash, encode,
    },
    id::{Birthplace, CommitHash, LinkId, NodeId, RealmId, ValueId},
};
use simulation::model::History;

use super::Replica;

const TIME: Timestamp = Timestamp { secs: 1_795_338_900, nanos: 0 };

/// Signs as one member, in one log, commits numbered 1 whose author has seen some of what `all` are.
pub struct Forger<'a> {
    pub all: &'a [Commit],
    pub history: &'a History<'a>,
    author: DeviceKeys,
    user: crypto::UserId,
    log: u64,
    entropy: SeededEntropy,
}

impl<'a> Forger<'a> {
    pub fn new(all: &'a [Commit], history: &'a History<'a>, author: &Replica, log: u64) -> Self {
        let (keys, user) = (author.device_keys(), author.user_keys().id());
        Self { all, history, author: keys, user, log, entropy: SeededEntropy::new(log) }
    }

    /// A change that will be number `index` of its commit, sealed under `key`.
    pub fn change<T: serde::Serialize>(
        &self,
        index: usize,
        kind: ChangeKind,
        mut supersedes: Vec<ValueId>,
        key: &SymmetricKey,
        body: &T,
    ) -> RawChange {
        let label = match kind {
            ChangeKind::Place { .. } => Label::NameKey,
            _ => Label::BodyKey,
        };
        supersedes.sort_unstable();
        let head = encode(&Head { call: 0, kind, supersedes });
        let aad = body_aad(&self.history.volume(), &self.author.id(), self.log, 1, index as u32, &head);
        let body = seal_padded(&key.derive(label, b""), &aad, &encode(body), &self.entropy);
        RawChange { head, body }
    }

    /// What everybody sees of an access value that brings `key` as generation `generation`.
    pub fn access(&self, owner: crypto::UserId, generation: u32, key: &SymmetricKey) -> AccessHead {
        let (epoch, epoch_key) = self.history.epoch();
        let wrap = epoch_key.derive(Label::NodeKeyWrap, b"");
        AccessHead {
            owner,
            realm: RealmId::MEMBERS,
            epoch,
            generation,
            wrapped: crypto::seal(&wrap, &generation.to_le_bytes(), key.expose(), &self.entropy),
            mode: 0o660,
            grants: Vec::new(),
        }
    }

    /// A new directory, number `index`, and its key.
    pub fn directory(&self, index: usize, generation: u32) -> (NodeId, SymmetricKey, RawChange) {
        let key = SymmetricKey::generate(&self.entropy);
        let kind = ChangeKind::Birth { kind: NodeKind::Directory, access: self.access(self.user, generation, &key) };
        let birth =
            self.change(index, kind, Vec::new(), &key, &BirthBody { access: mode(), rdev: 0, target: Vec::new() });
        let place = Birthplace { device: self.author.id(), log: self.log, seq: 1, index: index as u32 };
        (place.node(&birth.head, &birth.body), key, birth)
    }

    /// A place in `parent`.
    pub fn place(
        &self,
        index: usize,
        link: Option<LinkId>,
        child: NodeId,
        (parent, key): (NodeId, &SymmetricKey),
        name: &str,
        supersedes: Vec<ValueId>,
    ) -> RawChange {
        let kind = ChangeKind::Place { link, child, parent, generation: 1 };
        self.change(index, kind, supersedes, key, &PlaceBody { time: TIME, name: name.into() })
    }

    /// A commit of these changes, by who has seen all that there is.
    pub fn sign(&self, changes: Vec<RawChange>) -> ClaimedCommit {
        let before = |c: &Commit| c.header.observed.iter().chain([&c.header.prev]).copied().collect::<Vec<_>>();
        let mut newest: BTreeSet<CommitHash> = self.all.iter().map(|c| c.hash).collect();
        for hash in self.all.iter().flat_map(before) {
            newest.remove(&hash);
        }
        let counts = self.all.iter().filter(|c| newest.contains(&c.hash)).map(|c| c.header.count);
        let count = 1 + counts.max().unwrap();
        let header = encode(&Header {
            version: FORMAT_VERSION,
            volume: self.history.volume(),
            device: self.author.id(),
            log: self.log,
            seq: 1,
            prev: CommitHash::ZERO,
            observed: newest.into_iter().collect(),
            count,
            time: TIME,
            root: changes_root(changes.iter()),
            changes: changes.len() as u32,
        });
        let signature = self.author.signing.sign(Label::CommitSignature, &header);
        ClaimedCommit { header, signature, changes }
    }
}

/// What a new node's access value says.
pub fn mode() -> AccessBody {
    AccessBody { time: TIME, mode: 0o755, uid: 0, gid: 0, acl: Vec::new(), default_acl: Vec::new() }
}

/// Everything that a replica would send, causes first.
pub fn commits(of: &Replica, to: &Replica) -> Vec<Commit> {
    of.volume.commit_now().unwrap();
    let session = of.volume.session(to.device_id());
    session.receive(Message::Tips(Vec::new())).unwrap();
    let mut found = Vec::new();
    while let Some(message) = session.next_outgoing() {
        if let Message::Commits(commits) = message {
            found.extend(commits.into_iter().map(|c| c.check().unwrap()));
        }
    }
    found
}

/// Gives a replica these commits, as from `from`, in this order.
pub fn tell(to: &Replica, from: &Replica, commits: &[&ClaimedCommit]) -> Result<(), SessionError> {
    let session = to.volume.session(from.device_id());
    commits.iter().try_for_each(|commit| session.receive(Message::Commits(vec![(*commit).clone()])))
}

/// The same of commits that break no rule.
pub fn told(to: &Replica, from: &Replica, commits: &[&ClaimedCommit]) {
    tell(to, from, commits).unwrap();
}

/// What a commit is called.
pub fn name(commit: &ClaimedCommit) -> CommitHash {
    commit_hash(&commit.header)
}
