//! Commits that are in form, properly signed and rightly founded, by members who may not make them: a reader's and a
//! keeper's, of every kind; a writer's that go beyond what writers may; and those of people nobody admitted.
//!
//! What a liar writes bears names and tokens that are noted as forbidden: wherever one shows, a rule was not kept.

use std::collections::BTreeSet;

use crypto::{
    DeviceId, DeviceKeys, Entropy, EpochId, Label, PublicKey, SymmetricKey, UserId, UserKeys, keyed_tag, random_array,
    seal_padded,
};
use serde::Serialize;
use volume::{
    BlockHash, JoinRequest, NodeKind, Role, Timestamp,
    commit::{
        AccessBody, AccessHead, BirthBody, ChangeKind, ClaimedCommit, Commit, ContentBody, FORMAT_VERSION, Head,
        Header, MemberBody, MetaBody, PlaceBody, RawChange, SealedKey, SettingBody, SnapshotBody, XattrBody, body_aad,
        changes_root, commit_hash, encode,
    },
    content::{Content, ContentData},
    id::{Birthplace, CommitHash, LinkId, NodeId, RealmId, ValueId},
};

mod apart;

pub(crate) use apart::{APART, LATE};

use crate::{
    lot::Lot,
    model::{Change, History},
    rights::{WRITE, bits},
};

/// What only liars name anything.
pub(crate) const FORBIDDEN: &[u8] = b"forbidden";

impl Entropy for Lot {
    fn fill(&self, buf: &mut [u8]) {
        Lot::fill(self, buf);
    }
}

/// Somebody who belongs to the volume and runs no program of ours, or wants to.
pub(crate) struct Joiner {
    pub name: String,
    device: Vec<u8>,
    user: Vec<u8>,
    /// Working them out of the keys takes long.
    names: (DeviceId, UserId),
    /// The newest commit made as this one: log, number, count, name.
    last: Option<(u64, u64, u64, CommitHash)>,
}

impl Joiner {
    pub(crate) fn new(name: String, seed: u64) -> Self {
        let entropy = crypto::SeededEntropy::new(seed);
        let (device, user) = (DeviceKeys::generate(&entropy), UserKeys::generate(&entropy));
        Self::of(&name, &device, &user)
    }

    /// Somebody with the keys of a device that exists.
    pub(crate) fn of(name: &str, device: &DeviceKeys, user: &UserKeys) -> Self {
        Self {
            name: name.to_owned(),
            device: device.to_bytes().to_vec(),
            user: user.to_bytes().to_vec(),
            names: (device.id(), user.id()),
            last: None,
        }
    }

    pub(crate) fn keys(&self) -> DeviceKeys {
        DeviceKeys::from_bytes(&self.device).expect("made by this program")
    }

    pub(crate) fn user(&self) -> UserKeys {
        UserKeys::from_bytes(&self.user).expect("made by this program")
    }

    pub(crate) fn id(&self) -> DeviceId {
        self.names.0
    }

    pub(crate) fn user_id(&self) -> UserId {
        self.names.1
    }

    /// Asks to be let in with a ticket.
    pub(crate) fn request(&self, seed: [u8; 32], lot: &Lot) -> Result<JoinRequest, String> {
        let ticket = volume::TicketSecret::from_seed(seed);
        JoinRequest::new(&ticket, &self.name, &self.user(), &self.keys(), b"exporter", lot)
    }
}

/// What may be in a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    Content,
    Move,
    Removal,
    Birth,
    Link,
    Access,
    Meta,
    Xattr,
    Settle,
    Epoch,
    Invite,
    Admit,
    Name,
    Genesis,
    Setting,
    Snapshot,
    Drop,
}

pub(crate) const DEEDS: [(Deed, &str); 17] = [
    (Deed::Content, "forged: a reader's or keeper's content"),
    (Deed::Move, "forged: a reader's or keeper's move"),
    (Deed::Removal, "forged: a reader's or keeper's removal"),
    (Deed::Birth, "forged: a reader's or keeper's new file"),
    (Deed::Link, "forged: a reader's or keeper's hard link"),
    (Deed::Access, "forged: a reader's or keeper's mode"),
    (Deed::Meta, "forged: a reader's or keeper's times"),
    (Deed::Xattr, "forged: a reader's or keeper's attribute"),
    (Deed::Settle, "forged: a reader's or keeper's settling"),
    (Deed::Epoch, "forged: a reader's or keeper's epoch"),
    (Deed::Invite, "forged: a reader's or keeper's invitation"),
    (Deed::Admit, "forged: a reader's or keeper's admission"),
    (Deed::Name, "forged: a reader's or keeper's name"),
    (Deed::Genesis, "forged: a reader's or keeper's genesis"),
    (Deed::Setting, "forged: a reader's or keeper's setting"),
    (Deed::Snapshot, "forged: a reader's or keeper's snapshot"),
    (Deed::Drop, "forged: a reader's or keeper's removal of a snapshot"),
];

/// What is beyond a writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beyond {
    Grants,
    Realm,
    BirthForAnother,
    Generation,
    Epoch,
    Name,
    Invite,
    Admit,
    AdmitUninvited,
    AdmitAsMore,
    InviteOwner,
    Genesis,
    ContentOfDirectory,
    PlaceInFile,
    SecondLink,
    NoLink,
    UnseenNode,
    UnseenValue,
    OtherRegister,
    LinkOfAnother,
    MoveOverNothing,
    LinkNowhere,
    Unborn,
    Unadmitted,
    Count,
    OtherVolume,
    AnothersLog,
    Gap,
    Beginning,
    AnothersName,
    Setting,
    DropOfAnother,
    DropOfNone,
    SnapshotOver,
}

pub(crate) const BEYOND: [(Beyond, &str); 34] = [
    (Beyond::Grants, "forged: a writer's rights for single users"),
    (Beyond::Realm, "forged: a writer's other realm"),
    (Beyond::BirthForAnother, "forged: a writer's new file in another's name"),
    (Beyond::Generation, "forged: a writer's second key of a node"),
    (Beyond::Epoch, "forged: a writer's or admin's epoch for too many"),
    (Beyond::Name, "forged: a writer's or admin's other name"),
    (Beyond::Invite, "forged: a writer's invitation"),
    (Beyond::Admit, "forged: a writer's admission with a ticket"),
    (Beyond::AdmitUninvited, "forged: a writer's or admin's admission without a ticket"),
    (Beyond::AdmitAsMore, "forged: a writer's or admin's admission as more than invited"),
    (Beyond::InviteOwner, "forged: a writer's or admin's invitation of an owner"),
    (Beyond::Genesis, "forged: a writer's genesis"),
    (Beyond::ContentOfDirectory, "forged: a writer's content of a directory"),
    (Beyond::PlaceInFile, "forged: a writer's place in a file"),
    (Beyond::SecondLink, "forged: a writer's second link to a directory"),
    (Beyond::NoLink, "forged: a writer's directory without a place"),
    (Beyond::UnseenNode, "forged: a writer's change of a node not seen"),
    (Beyond::UnseenValue, "forged: a writer's replacing of a value not seen"),
    (Beyond::OtherRegister, "forged: a writer's replacing of another register"),
    (Beyond::LinkOfAnother, "forged: a writer's move of another's link"),
    (Beyond::MoveOverNothing, "forged: a writer's move that replaces nothing"),
    (Beyond::LinkNowhere, "forged: a writer's new link without a place"),
    (Beyond::Unborn, "forged: a writer's change of a node that is not"),
    (Beyond::Unadmitted, "forged: by who had not seen their admission"),
    (Beyond::Count, "forged: a count too great or too small"),
    (Beyond::OtherVolume, "forged: a commit of another volume"),
    (Beyond::AnothersLog, "forged: a commit that goes on with another's log"),
    (Beyond::Gap, "forged: a gap in a log"),
    (Beyond::Beginning, "forged: a log that does not begin with 1"),
    (Beyond::AnothersName, "forged: signed in another's name"),
    (Beyond::Setting, "forged: a writer's setting"),
    (Beyond::DropOfAnother, "forged: a writer's removal of another's snapshot"),
    (Beyond::DropOfNone, "forged: a writer's removal of what is no snapshot, or of several"),
    (Beyond::SnapshotOver, "forged: a writer's snapshot that replaces something"),
];

impl Beyond {
    /// Whether it is beyond admins, too.
    pub(crate) fn is_beyond_admins(self) -> bool {
        !matches!(self, Beyond::Invite | Beyond::Admit | Beyond::Setting | Beyond::DropOfAnother)
    }
}

/// What makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Odd {
    Attribute,
    Key,
}

pub(crate) const ODD: [(Odd, &str); 2] =
    [(Odd::Attribute, "liar: an attribute under another's tag"), (Odd::Key, "liar: a node with another key")];

/// Changes on their way into a commit.
struct Draft<'a> {
    history: &'a History<'a>,
    lot: &'a Lot,
    author: &'a Joiner,
    user: UserId,
    device: DeviceId,
    log: u64,
    seq: u64,
    /// What it names anything.
    name: &'static [u8],
    changes: Vec<RawChange>,
}

/// Makes commits as somebody else's program would.
pub(crate) struct Forger<'a> {
    pub history: &'a History<'a>,
    pub lot: &'a Lot,
    pub time: Timestamp,
}

type Values = Vec<ValueId>;

impl Draft<'_> {
    fn aad(&self, head: &[u8]) -> Vec<u8> {
        let volume = self.history.volume();
        body_aad(&volume, &self.device, self.log, self.seq, self.changes.len() as u32, head)
    }

    fn bare(&mut self, kind: ChangeKind) {
        let head = encode(&Head { call: 0, kind, supersedes: Vec::new() });
        self.changes.push(RawChange { head, body: Vec::new() });
    }

    fn add<T: Serialize>(&mut self, kind: ChangeKind, mut supersedes: Values, key: &SymmetricKey, body: &T) {
        supersedes.sort_unstable();
        let label = match kind {
            ChangeKind::Place { .. } => Label::NameKey,
            _ => Label::BodyKey,
        };
        let head = encode(&Head { call: 0, kind, supersedes });
        let body = seal_padded(&key.derive(label, b""), &self.aad(&head), &encode(body), self.lot);
        self.changes.push(RawChange { head, body });
    }

    fn key(&self, node: NodeId) -> SymmetricKey {
        self.history.node_key(node).clone()
    }

    fn access(&self, owner: UserId, key: &SymmetricKey) -> AccessHead {
        let (epoch, epoch_key) = self.history.epoch();
        let wrap = epoch_key.derive(Label::NodeKeyWrap, b"");
        AccessHead {
            owner,
            realm: RealmId::MEMBERS,
            epoch,
            generation: 1,
            wrapped: crypto::seal(&wrap, &1u32.to_le_bytes(), key.expose(), self.lot),
            mode: 0o660,
            grants: Vec::new(),
        }
    }

    fn content(&mut self, node: NodeId, supersedes: Values, bytes: &[u8], time: Timestamp) {
        let size = bytes.len() as u64;
        let content = Content { size, allocated: size, data: ContentData::Inline(bytes.to_vec()) };
        let body = ContentBody { mtime: time, content, keys: Vec::new() };
        let kind = ChangeKind::Content { node, generation: 1, root: BlockHash::ZERO, blocks: 0 };
        self.add(kind, supersedes, &self.key(node), &body);
    }

    fn place(&mut self, link: Option<LinkId>, child: NodeId, parent: NodeId, supersedes: Values, time: Timestamp) {
        let kind = ChangeKind::Place { link, child, parent, generation: 1 };
        let body = PlaceBody { time, name: self.name.to_vec() };
        let key = if self.history.births().contains_key(&parent) { self.key(parent) } else { self.key(NodeId::ROOT) };
        self.add(kind, supersedes, &key, &body);
    }

    fn removal(&mut self, (link, child): (LinkId, NodeId), mut supersedes: Values, time: Timestamp) {
        supersedes.sort_unstable();
        let head = encode(&Head { call: 0, kind: ChangeKind::Removal { link, child, time }, supersedes });
        self.changes.push(RawChange { head, body: Vec::new() });
    }

    /// A node, and its key.
    fn bear(&mut self, kind: NodeKind, owner: UserId, time: Timestamp) -> (NodeId, SymmetricKey) {
        let key = SymmetricKey::generate(self.lot);
        let access = AccessBody { time, mode: 0o644, uid: 0, gid: 0, acl: Vec::new(), default_acl: Vec::new() };
        let kind = ChangeKind::Birth { kind, access: self.access(owner, &key) };
        let index = self.changes.len() as u32;
        self.add(kind, Vec::new(), &key, &BirthBody { access, rdev: 0, target: Vec::new() });
        let raw = &self.changes[index as usize];
        let place = Birthplace { device: self.device, log: self.log, seq: self.seq, index };
        (place.node(&raw.head, &raw.body), key)
    }

    fn birth(&mut self, owner: UserId, time: Timestamp, token: &[u8]) {
        let (node, key) = self.bear(NodeKind::File, owner, time);
        self.place(None, node, NodeId::ROOT, Vec::new(), time);
        let size = token.len() as u64;
        let content = Content { size, allocated: size, data: ContentData::Inline(token.to_vec()) };
        let kind = ChangeKind::Content { node, generation: 1, root: BlockHash::ZERO, blocks: 0 };
        self.add(kind, Vec::new(), &key, &ContentBody { mtime: time, content, keys: Vec::new() });
    }

    fn set_access(&mut self, node: NodeId, supersedes: Values, head: AccessHead, time: Timestamp) {
        let body = AccessBody { time, mode: 0, uid: 666, gid: 666, acl: Vec::new(), default_acl: Vec::new() };
        self.add(ChangeKind::Access { node, access: head }, supersedes, &self.key(node), &body);
    }

    fn epoch(&mut self, realm: RealmId) {
        let key = SymmetricKey::generate(self.lot);
        let epoch = EpochId::from_bytes(*crypto::Hash::of(Label::EpochCommitment, &[key.expose()]).as_bytes());
        let user = self.author.user().public();
        let sealed =
            user.box_key.seal(Label::BoxEpochKey, epoch.as_bytes(), key.expose(), self.lot).unwrap_or_default();
        let sealed = SealedKey { user: user.id(), generation: user.generation, epoch, sealed };
        // A realm of more readers than there may be.
        let sealed = vec![sealed; if realm == RealmId::MEMBERS { 1 } else { 385 }];
        let previous = Some(self.history.epoch().0);
        self.bare(ChangeKind::Epoch { realm, epoch, previous, sealed, carried: Vec::new() });
    }

    fn invite(&mut self, role: Role, ticket: PublicKey) {
        let expires = Timestamp { secs: 4_000_000_000, nanos: 0 };
        self.bare(ChangeKind::Invite { ticket, role, expires });
    }

    fn admit(&mut self, ticket: PublicKey, role: Role) {
        let (user, device) = (UserKeys::generate(self.lot), DeviceKeys::generate(self.lot));
        let certificate =
            user.signing.as_ref().expect("whole keys").sign(Label::DeviceCertificate, &encode(&device.public()));
        let (epoch, key) = self.history.epoch();
        let (public, key) = (user.public(), key.clone());
        let sealed = public.box_key.seal(Label::BoxEpochKey, epoch.as_bytes(), key.expose(), self.lot);
        let sealed = SealedKey { user: public.id(), generation: 1, epoch, sealed: sealed.unwrap_or_default() };
        let kind = ChangeKind::Grant {
            ticket,
            role,
            user: public,
            device: device.public(),
            certificate,
            sealed: vec![sealed],
            user_key: Vec::new(),
        };
        self.add(kind, Vec::new(), &key, &MemberBody { name: "forbidden".to_owned() });
    }

    fn genesis(&mut self) {
        let (user, device) = (self.author.user(), self.author.keys().public());
        let certificate = user.signing.as_ref().expect("whole keys").sign(Label::DeviceCertificate, &encode(&device));
        self.bare(ChangeKind::Genesis { user: user.public(), device, certificate, user_key: Vec::new() });
    }

    fn setting(&mut self) {
        let (epoch, key) = self.history.epoch();
        let (name, key) = ("history.keep-all".to_owned(), key.clone());
        let tag = NodeId::from_bytes(keyed_tag(&key, Label::SettingTag, name.as_bytes()));
        let value = Some("666d".to_owned());
        self.add(ChangeKind::Setting { epoch, tag }, Vec::new(), &key, &SettingBody { name, value });
    }

    fn snapshot(&mut self, supersedes: Values) {
        let (epoch, key) = self.history.epoch();
        let key = key.clone();
        self.add(ChangeKind::Snapshot { epoch }, supersedes, &key, &SnapshotBody { name: "forbidden".to_owned() });
    }

    fn drop_of(&mut self, mut supersedes: Values) {
        supersedes.sort_unstable();
        let head = encode(&Head { call: 0, kind: ChangeKind::Drop {}, supersedes });
        self.changes.push(RawChange { head, body: Vec::new() });
    }

    fn name(&mut self) {
        let key = self.history.epoch().1.clone();
        self.add(ChangeKind::Name {}, Vec::new(), &key, &MemberBody { name: "forbidden".to_owned() });
    }
}

/// The commits that no other of `commits` had seen.
fn frontier(commits: &[&Commit]) -> Vec<CommitHash> {
    let mut found: BTreeSet<CommitHash> = commits.iter().map(|c| c.hash).collect();
    for commit in commits {
        commit.header.observed.iter().chain([&commit.header.prev]).for_each(|seen| {
            found.remove(seen);
        });
    }
    found.into_iter().collect()
}

impl Forger<'_> {
    fn draft<'b>(&'b self, author: &'b Joiner, follow: bool) -> Draft<'b> {
        let (log, seq) = match author.last.filter(|_| follow) {
            Some((log, seq, ..)) => (log, seq + 1),
            None => (self.lot.number() >> 1 | 1, 1),
        };
        let user = author.user_id();
        Draft {
            history: self.history,
            lot: self.lot,
            author,
            user,
            device: author.id(),
            log,
            seq,
            name: FORBIDDEN,
            changes: Vec::new(),
        }
    }

    /// Signs a draft whose author has seen `observed`.
    fn sign(&self, draft: Draft<'_>, follow: bool, observed: Vec<CommitHash>) -> Option<ClaimedCommit> {
        self.sign_as(draft, follow, observed, |_| Some(()))
    }

    /// The same, once `spoil` had its way with the header.
    fn sign_as(
        &self,
        draft: Draft<'_>,
        follow: bool,
        mut observed: Vec<CommitHash>,
        spoil: impl FnOnce(&mut Header) -> Option<()>,
    ) -> Option<ClaimedCommit> {
        let commits = self.history.commits();
        let last = draft.author.last.filter(|_| follow);
        let prev = last.map_or(CommitHash::ZERO, |last| last.3);
        observed.retain(|hash| *hash != prev);
        observed.sort_unstable();
        observed.dedup();
        let seen = commits.iter().filter(|c| observed.contains(&c.hash)).map(|c| c.header.count);
        let count = seen.chain(last.map(|last| last.2)).max()?;
        let mut header = Header {
            version: FORMAT_VERSION,
            volume: self.history.volume(),
            device: draft.device,
            log: draft.log,
            seq: draft.seq,
            prev,
            observed,
            count: count + 1,
            time: self.time,
            root: changes_root(draft.changes.iter()),
            changes: draft.changes.len() as u32,
        };
        spoil(&mut header)?;
        let header = encode(&header);
        let signature = draft.author.keys().signing.sign(Label::CommitSignature, &header);
        Some(ClaimedCommit { header, signature, changes: draft.changes })
    }

    /// Live values of a register, as far as anybody knows.
    fn live(&self, of: impl Fn(&Change<'_>) -> bool) -> Values {
        self.history.changes().filter(|c| of(c) && self.history.is_live(c)).map(|c| c.id()).collect()
    }

    /// Live snapshots, of such makers.
    fn snapshots(&self, by: impl Fn(UserId) -> bool) -> Values {
        let maker = |c: &Change<'_>| self.history.author(c.id().commit).map(|(maker, _)| maker);
        self.live(|c| matches!(c.head.kind, ChangeKind::Snapshot { .. }) && maker(c).is_some_and(&by))
    }

    fn contents(&self, of: NodeId) -> Values {
        self.live(|c| matches!(c.head.kind, ChangeKind::Content { node, .. } if node == of))
    }

    fn access(&self, of: NodeId) -> Values {
        self.live(|c| match c.head.kind {
            ChangeKind::Access { node, .. } => node == of,
            ChangeKind::Birth { .. } => c.born() == of,
            _ => false,
        })
    }

    fn of_link(&self, of: LinkId) -> Values {
        self.live(|c| match c.head.kind {
            ChangeKind::Place { link, .. } => c.link(link) == of,
            ChangeKind::Removal { link, .. } => link == of,
            _ => false,
        })
    }

    fn nodes(&self, kind: NodeKind) -> Vec<NodeId> {
        let fits = |c: &Change<'_>| matches!(c.head.kind, ChangeKind::Birth { kind: k, .. } if k == kind);
        let births = self.history.births().iter();
        let keyed = |node: &NodeId| *node != NodeId::ROOT && self.history.has_key(*node);
        let found = births.filter(|(node, births)| keyed(node) && fits(&births[0])).map(|(node, _)| *node);
        found.filter(|node| self.was_made(*node)).collect()
    }

    /// Whether a node came to be, as far as that hangs on the directory that it was put into: a liar who might not write there
    /// signed a void commit, and what that bears is nowhere. Whoever changes it breaks a rule.
    fn was_made(&self, node: NodeId) -> bool {
        let put = |birth: &Change<'_>| {
            let beside = self.history.changes().filter(|c| c.id().commit == birth.id().commit);
            let first = beside.filter_map(|c| match c.head.kind {
                ChangeKind::Place { link: None, child, parent, .. } if child == node => Some(parent),
                _ => None,
            });
            first.filter(|parent| *parent != node).all(|parent| self.could_write(birth, parent))
        };
        node == NodeId::ROOT || self.history.births()[&node].iter().any(put)
    }

    /// Whether the author of a change could write to a node, by what they had seen.
    fn could_write(&self, change: &Change<'_>, node: NodeId) -> bool {
        let commit = change.id().commit;
        let Some((user, _)) = self.history.author(commit) else { return false };
        let seen: Vec<(Change<'_>, &AccessHead)> = (self.history.changes())
            .filter(|c| c.id().commit != commit && self.history.knew(commit, c.id().commit))
            .filter_map(|c| match &c.head.kind {
                ChangeKind::Birth { access, .. } if c.born() == node => Some((c, access)),
                ChangeKind::Access { node: of, access } if *of == node => Some((c, access)),
                _ => None,
            })
            .collect();
        let gone: BTreeSet<ValueId> = seen.iter().flat_map(|(c, _)| c.supersedes().collect::<Vec<_>>()).collect();
        let mut live = seen.iter().filter(|(c, _)| !gone.contains(&c.id()));
        live.all(|(_, head)| bits(head, &user) & WRITE != 0)
    }

    /// Nodes whose first keys are for all members.
    fn keyed(&self) -> Vec<NodeId> {
        let nodes = self.history.births().keys().copied();
        nodes.filter(|node| self.history.has_key(*node) && self.was_made(*node)).collect()
    }

    /// A link that leads somewhere: itself, its node.
    fn a_link(&self) -> Option<(LinkId, NodeId)> {
        let links: Vec<(LinkId, NodeId)> = self
            .history
            .changes()
            .filter_map(|c| match c.head.kind {
                ChangeKind::Place { link, child, .. } if self.history.is_live(&c) => Some((c.link(link), child)),
                _ => None,
            })
            .filter(|(_, child)| self.was_made(*child))
            .collect();
        self.lot.pick(&links).copied()
    }

    fn ticket(&self, unlike: bool) -> Option<(PublicKey, Role)> {
        let tickets = self.history.changes().filter_map(|c| match c.head.kind {
            ChangeKind::Invite { ticket, role, .. } => Some((ticket, role)),
            _ => None,
        });
        let tickets: Vec<_> = tickets.collect();
        let (ticket, role) = self.lot.pick(&tickets).copied()?;
        if unlike {
            Some((crypto::SigningKeys::from_seed(random_array(self.lot)).public(), role))
        } else {
            Some((ticket, role))
        }
    }

    /// A commit of an author whose every change must count for nothing. `bytes` are a forbidden content.
    pub(crate) fn void(&self, author: &Joiner, deed: Deed, bytes: &[u8]) -> Option<ClaimedCommit> {
        let follow = author.last.is_some() && self.lot.chance(400);
        let mut draft = self.draft(author, follow);
        let (time, me) = (self.time, draft.user);
        let file = self.lot.pick(&self.nodes(NodeKind::File)).copied();
        let any = self.lot.pick(&self.keyed()).copied()?;
        match deed {
            Deed::Content => draft.content(file?, self.contents(file?), bytes, time),
            Deed::Move => {
                let (link, child) = self.a_link()?;
                draft.place(Some(link), child, NodeId::ROOT, self.of_link(link), time);
            }
            Deed::Removal => {
                let (link, child) = self.a_link()?;
                draft.removal((link, child), self.of_link(link), time);
            }
            Deed::Birth => draft.birth(me, time, bytes),
            Deed::Link => draft.place(None, file?, NodeId::ROOT, Vec::new(), time),
            Deed::Access => {
                let ChangeKind::Birth { access, .. } = &self.history.births()[&any][0].head.kind else { return None };
                draft.set_access(any, self.access(any), access.clone(), time);
            }
            Deed::Meta => {
                let gone = self.live(|c| matches!(c.head.kind, ChangeKind::Meta { node, .. } if node == any));
                let body = MetaBody { time, mtime: Some(Timestamp { secs: 666, nanos: 0 }), atime: time };
                draft.add(ChangeKind::Meta { node: any, generation: 1 }, gone, &draft.key(any), &body);
            }
            Deed::Xattr => {
                let name = if self.lot.chance(500) { b"user.one".to_vec() } else { b"user.forbidden".to_vec() };
                let tag = NodeId::from_bytes(keyed_tag(&draft.key(any), Label::LinkTag, &name));
                let gone = self
                    .live(|c| matches!(c.head.kind, ChangeKind::Xattr { node, tag: t, .. } if node == any && t == tag));
                let value = (!self.lot.chance(300)).then(|| FORBIDDEN.to_vec().into());
                let body = XattrBody { time, name, value };
                draft.add(ChangeKind::Xattr { node: any, generation: 1, tag }, gone, &draft.key(any), &body);
            }
            Deed::Settle => {
                let mut supersedes = self.contents(file?);
                supersedes.sort_unstable();
                let head = Head { call: 0, kind: ChangeKind::Settle { node: file? }, supersedes };
                draft.changes.push(RawChange { head: encode(&head), body: Vec::new() });
            }
            Deed::Epoch => draft.epoch(RealmId::MEMBERS),
            Deed::Invite => {
                draft.invite(Role::Admin, crypto::SigningKeys::from_seed(random_array(self.lot)).public());
            }
            Deed::Admit => {
                let (ticket, role) = self.ticket(self.lot.chance(300))?;
                draft.admit(ticket, role);
            }
            Deed::Name => draft.name(),
            Deed::Genesis => draft.genesis(),
            Deed::Setting => draft.setting(),
            Deed::Snapshot => draft.snapshot(Vec::new()),
            Deed::Drop => draft.drop_of(vec![self.lot.pick(&self.snapshots(|_| true))?.to_owned()]),
        }
        self.sign(draft, follow, frontier(self.history.commits()))
    }

    /// A commit of a writer that takes somebody else's node, and changes something beside that.
    pub(crate) fn theft(&self, author: &Joiner, bytes: &[u8]) -> Option<ClaimedCommit> {
        let mut draft = self.draft(author, false);
        let (time, me) = (self.time, draft.user);
        // (A device that was admitted for two users may count as the other one's.)
        if self.history.standing(author.id())?.0 != me {
            return None;
        }
        let others: Vec<(NodeId, AccessHead)> = (self.history.births().iter())
            .filter_map(|(node, births)| match &births[0].head.kind {
                ChangeKind::Birth { access, .. } if access.owner != me => Some((*node, access.clone())),
                _ => None,
            })
            .filter(|(node, _)| self.history.has_key(*node) && self.was_made(*node))
            .collect();
        let (node, mut head) = self.lot.pick(&others)?.clone();
        head.owner = me;
        draft.birth(me, time, bytes);
        draft.set_access(node, self.access(node), head, time);
        self.sign(draft, false, frontier(self.history.commits()))
    }

    /// A commit of a writer that does what no writer may. With something allowed beside it, or not.
    pub(crate) fn beyond(&self, author: &Joiner, what: Beyond, bytes: &[u8]) -> Option<ClaimedCommit> {
        let mut draft = self.draft(author, false);
        let (time, me) = (self.time, draft.user);
        let mut observed = frontier(self.history.commits());
        let (files, directories) = (self.nodes(NodeKind::File), self.nodes(NodeKind::Directory));
        let file = self.lot.pick(&files).copied();
        let directory = self.lot.pick(&directories).copied();
        if self.lot.chance(300) {
            draft.birth(me, time, bytes);
        }
        let first = |node: NodeId| match &self.history.births()[&node][0].head.kind {
            ChangeKind::Birth { access, .. } => Some(access.clone()),
            _ => None,
        };
        match what {
            Beyond::Grants | Beyond::Realm => {
                let node = file.or(directory)?;
                let mut head = first(node)?;
                match what {
                    Beyond::Grants => head.grants.push((me, 7)),
                    _ => head.realm = RealmId::from_bytes(random_array(self.lot)),
                }
                draft.set_access(node, self.access(node), head, time);
            }
            Beyond::BirthForAnother => {
                let members: Vec<UserId> = self.history.members().into_keys().filter(|user| *user != me).collect();
                draft.birth(*self.lot.pick(&members)?, time, bytes);
            }
            Beyond::Generation => {
                let node = file.or(directory)?;
                let mut head = first(node)?;
                let key = SymmetricKey::generate(self.lot);
                let wrap = self.history.epoch().1.derive(Label::NodeKeyWrap, b"");
                head.generation = 3 + self.lot.below(2) as u32;
                head.wrapped = crypto::seal(&wrap, &head.generation.to_le_bytes(), key.expose(), self.lot);
                draft.set_access(node, self.access(node), head, time);
            }
            Beyond::Epoch => draft.epoch(RealmId::from_bytes(random_array(self.lot))),
            Beyond::Name => draft.name(),
            Beyond::Invite => {
                draft.invite(Role::Writer, crypto::SigningKeys::from_seed(random_array(self.lot)).public());
            }
            Beyond::Admit | Beyond::AdmitUninvited => {
                let (ticket, role) = self.ticket(what == Beyond::AdmitUninvited)?;
                draft.admit(ticket, role);
            }
            Beyond::AdmitAsMore => {
                let (ticket, role) = self.ticket(false)?;
                draft.admit(ticket, if role == Role::Admin { Role::Owner } else { Role::Admin });
            }
            Beyond::InviteOwner => {
                draft.invite(Role::Owner, crypto::SigningKeys::from_seed(random_array(self.lot)).public());
            }
            Beyond::Genesis => draft.genesis(),
            Beyond::ContentOfDirectory => draft.content(directory?, Vec::new(), bytes, time),
            Beyond::PlaceInFile => {
                let (link, child) = self.a_link()?;
                draft.place(Some(link), child, file?, self.of_link(link), time);
            }
            Beyond::NoLink => drop(draft.bear(NodeKind::Directory, me, time)),
            Beyond::SecondLink => draft.place(None, directory?, NodeId::ROOT, Vec::new(), time),
            Beyond::UnseenNode => {
                observed = vec![self.history.admission(author.id())?];
                let unseen = |node: &&NodeId| {
                    let births = &self.history.births()[*node];
                    births.iter().all(|c| !self.history.knew(observed[0], c.id().commit))
                };
                let unseen: Vec<NodeId> = files.iter().filter(unseen).copied().collect();
                draft.content(*self.lot.pick(&unseen)?, Vec::new(), bytes, time);
            }
            Beyond::UnseenValue => {
                let admitted = self.history.admission(author.id())?;
                let unseen: Vec<(NodeId, CommitHash, ValueId)> = files
                    .iter()
                    .flat_map(|node| {
                        let born = self.history.births()[node][0].id().commit;
                        self.contents(*node).into_iter().map(move |value| (*node, born, value))
                    })
                    .filter(|(_, born, value)| {
                        ![admitted, *born].iter().any(|seen| self.history.knew(*seen, value.commit))
                    })
                    .collect();
                let (node, born, value) = *self.lot.pick(&unseen)?;
                observed = vec![admitted, born];
                draft.content(node, vec![value], bytes, time);
            }
            Beyond::OtherRegister => {
                let values: Values =
                    files.iter().filter(|f| Some(**f) != file).flat_map(|f| self.contents(*f)).collect();
                draft.content(file?, vec![*self.lot.pick(&values)?], bytes, time);
            }
            Beyond::LinkOfAnother => {
                let (link, child) = self.a_link()?;
                let other: Vec<NodeId> = files.into_iter().filter(|f| *f != child).collect();
                let other = *self.lot.pick(&other)?;
                match self.lot.chance(500) {
                    true => draft.place(Some(link), other, NodeId::ROOT, self.of_link(link), time),
                    false => draft.removal((link, other), self.of_link(link), time),
                }
            }
            Beyond::MoveOverNothing => {
                let (link, child) = self.a_link()?;
                draft.place(Some(link), child, NodeId::ROOT, Vec::new(), time);
            }
            Beyond::LinkNowhere => {
                draft.removal((LinkId::from_bytes(random_array(self.lot)), file.or(directory)?), Vec::new(), time);
            }
            Beyond::Unborn => {
                let node = NodeId::from_bytes(random_array(self.lot));
                let body = MetaBody { time, mtime: None, atime: time };
                draft.add(ChangeKind::Meta { node, generation: 1 }, Vec::new(), &draft.key(NodeId::ROOT), &body);
            }
            Beyond::Unadmitted => {
                observed = vec![self.history.commits()[0].hash];
                draft.birth(me, time, bytes);
            }
            Beyond::Setting => draft.setting(),
            Beyond::DropOfAnother => {
                let others = self.snapshots(|maker| maker != me);
                draft.drop_of(vec![*self.lot.pick(&others)?]);
            }
            Beyond::DropOfNone => {
                let (all, contents) = (self.snapshots(|_| true), self.contents(file?));
                match (self.lot.chance(500), &all[..]) {
                    (true, [first, .., last]) if first != last => draft.drop_of(vec![*first, *last]),
                    (true, _) => draft.drop_of(Vec::new()),
                    (false, _) => draft.drop_of(vec![*self.lot.pick(&contents)?]),
                }
            }
            Beyond::SnapshotOver => {
                let contents = self.contents(file?);
                draft.snapshot(vec![*self.lot.pick(&contents)?]);
            }
            Beyond::Count
            | Beyond::OtherVolume
            | Beyond::AnothersLog
            | Beyond::Gap
            | Beyond::Beginning
            | Beyond::AnothersName => {
                return self.misplaced(author, what, bytes);
            }
        }
        self.sign(draft, false, observed)
    }

    /// A writer's new file, allowed but for what the header says.
    fn misplaced(&self, author: &Joiner, what: Beyond, bytes: &[u8]) -> Option<ClaimedCommit> {
        let follow = what == Beyond::Gap;
        author.last.filter(|_| follow).or_else(|| (!follow).then_some((0, 0, 0, CommitHash::ZERO)))?;
        let mut draft = self.draft(author, follow);
        let commits = self.history.commits();
        let other = self.lot.pick(commits).filter(|c| c.header.device != author.id());
        match what {
            Beyond::AnothersLog => (draft.log, draft.seq) = (other?.header.log, other?.header.seq + 1),
            Beyond::Gap => draft.seq += 1,
            Beyond::AnothersName => draft.device = other?.header.device,
            Beyond::Beginning => draft.seq = 2 + self.lot.below(5) as u64,
            _ => {}
        }
        match self.lot.pick(&self.nodes(NodeKind::File)).copied() {
            // What says nothing of where it stands: other rules don't refuse it, too.
            Some(file) if self.lot.chance(500) => draft.content(file, self.contents(file), bytes, self.time),
            _ => draft.birth(draft.user, self.time, bytes),
        }
        self.sign_as(draft, follow, frontier(commits), |header| {
            match what {
                Beyond::Count if self.lot.chance(500) => header.count += 1 + self.lot.below(9) as u64,
                Beyond::Count => header.count = (header.count - 1).max(1),
                Beyond::OtherVolume => header.volume = crypto::VolumeId::from_bytes(random_array(self.lot)),
                Beyond::AnothersLog => header.prev = other?.hash,
                _ => {}
            }
            Some(())
        })
    }

    /// A writer replaces what a void change says: what that one replaced goes with it. Tells of which node, too, if its
    /// contents go.
    pub(crate) fn over_void(&self, author: &Joiner, bytes: &[u8]) -> Option<(Option<NodeId>, ClaimedCommit)> {
        let void: Vec<(NodeId, Option<LinkId>, ValueId)> = self
            .history
            .void_changes()
            .filter_map(|c| match c.head.kind {
                ChangeKind::Content { node, .. } => Some((node, None, c.id())),
                ChangeKind::Place { link: Some(link), child, .. } => Some((child, Some(link), c.id())),
                _ => None,
            })
            .filter(|(node, ..)| self.history.has_key(*node))
            .collect();
        let (node, link, value) = *self.lot.pick(&void)?;
        let mut draft = self.draft(author, false);
        draft.name = b"taken";
        match link {
            None => draft.content(node, vec![value], bytes, self.time),
            Some(_) => draft.place(link, node, NodeId::ROOT, vec![value], self.time),
        }
        let commit = self.sign(draft, false, frontier(self.history.commits()))?;
        Some((link.is_none().then_some(node), commit))
    }

    /// Two commits of one number by a writer: both may be, and a replica that has both keeps both.
    pub(crate) fn equivocate(&self, author: &Joiner, bytes: [&[u8]; 2]) -> Option<[ClaimedCommit; 2]> {
        let log = self.lot.number() >> 1 | 1;
        let user = author.user_id();
        let commit = |bytes: &[u8]| {
            let mut draft = self.draft(author, false);
            (draft.log, draft.name) = (log, b"twice");
            draft.birth(user, self.time, bytes);
            self.sign(draft, false, frontier(self.history.commits()))
        };
        Some([commit(bytes[0])?, commit(bytes[1])?])
    }

    /// Two commits of one number by a writer that bear the same directories, word for word, and place them differently.
    pub(crate) fn equivocate_directories(&self, author: &Joiner) -> Option<[ClaimedCommit; 2]> {
        let mut draft = self.draft(author, false);
        let (log, user) = (draft.log, author.user_id());
        let born: Vec<(NodeId, SymmetricKey)> =
            (0..=self.lot.below(3)).map(|_| draft.bear(NodeKind::Directory, user, self.time)).collect();
        let births = draft.changes;
        let commit = || {
            let mut draft = self.draft(author, false);
            (draft.log, draft.changes) = (log, births.clone());
            for (child, _) in &born {
                let below: Vec<_> = born.iter().filter(|(node, _)| node != child).collect();
                let (parent, key) = match self.lot.pick(&below).filter(|_| self.lot.chance(600)) {
                    Some((parent, key)) => (*parent, key.clone()),
                    None => (NodeId::ROOT, draft.key(NodeId::ROOT)),
                };
                let name = self.lot.pick(&[&b"a"[..], b"b", b"twice"])?.to_vec();
                let kind = ChangeKind::Place { link: None, child: *child, parent, generation: 1 };
                draft.add(kind, Vec::new(), &key, &PlaceBody { time: self.time, name });
            }
            self.sign(draft, false, frontier(self.history.commits()))
        };
        Some([commit()?, commit()?])
    }

    /// What a writer may do and no program of ours does: it makes no sense, and must do so everywhere.
    pub(crate) fn odd(&self, author: &Joiner, what: Odd) -> Option<ClaimedCommit> {
        let mut draft = self.draft(author, false);
        let node = *self.lot.pick(&self.keyed())?;
        match what {
            Odd::Attribute => {
                let names: [&[u8]; 2] =
                    if self.lot.chance(500) { [b"user.one", b"user.two"] } else { [b"user.two", b"user.one"] };
                let tag = NodeId::from_bytes(keyed_tag(&draft.key(node), Label::LinkTag, names[0]));
                let here = |c: &Change<'_>| matches!(c.head.kind, ChangeKind::Xattr { node: n, tag: t, .. } if n == node && t == tag);
                let gone = if self.lot.chance(500) { self.live(here) } else { Vec::new() };
                let value = (!self.lot.chance(300)).then(|| FORBIDDEN.to_vec().into());
                let body = XattrBody { time: self.time, name: names[1].to_vec(), value };
                draft.add(ChangeKind::Xattr { node, generation: 1, tag }, gone, &draft.key(node), &body);
            }
            Odd::Key => {
                let ChangeKind::Birth { access, .. } = &self.history.births()[&node][0].head.kind else { return None };
                let head = draft.access(access.owner, &SymmetricKey::generate(self.lot));
                draft.set_access(node, self.access(node), head, self.time);
            }
        }
        self.sign(draft, false, frontier(self.history.commits()))
    }

    /// An admin who invites with one ticket twice, for two roles, where neither invitation had seen the other, and lets
    /// somebody in by the first of them.
    pub(crate) fn invite_twice(&self, admin: &Joiner, seed: [u8; 32]) -> Option<[ClaimedCommit; 3]> {
        let ticket = crypto::SigningKeys::from_seed(seed).public();
        let roles = [Role::Keeper, Role::Reader, Role::Writer, Role::Admin];
        let first = *self.lot.pick(&roles)?;
        let others: Vec<Role> = roles.into_iter().filter(|role| *role != first).collect();
        let invitation = |role| {
            let mut draft = self.draft(admin, false);
            draft.invite(role, ticket);
            self.sign(draft, false, frontier(self.history.commits()))
        };
        let invitations = [invitation(first)?, invitation(*self.lot.pick(&others)?)?];
        let seen: Header = volume::commit::decode("header", &invitations[0].header).ok()?;
        let mut draft = self.draft(admin, false);
        draft.admit(ticket, first);
        let admission = self.sign_as(draft, false, frontier(self.history.commits()), |header| {
            header.observed = vec![commit_hash(&invitations[0].header)];
            header.count = seen.count + 1;
            Some(())
        })?;
        let [one, two] = invitations;
        Some([one, two, admission])
    }

    /// An admin's invitation of a keeper, which this version's own client does not make.
    pub(crate) fn invite_keeper(&self, admin: &Joiner, ticket: PublicKey) -> Option<ClaimedCommit> {
        let mut draft = self.draft(admin, false);
        draft.invite(Role::Keeper, ticket);
        self.sign(draft, false, frontier(self.history.commits()))
    }
}

/// Notes a commit as its author's newest.
pub(crate) fn follow(author: &mut Joiner, commit: &ClaimedCommit) {
    if let Ok(header) = volume::commit::decode::<Header>("header", &commit.header) {
        author.last = Some((header.log, header.seq, header.count, commit_hash(&commit.header)));
    }
}
