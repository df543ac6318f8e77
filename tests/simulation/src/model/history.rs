//! A set of commits, opened: every value that was ever written, who had seen what, and which values are live.
//! Nothing here is kept up to date; everything is looked for in all commits.

use std::collections::{BTreeMap, BTreeSet};

use crypto::{BoxSecret, DeviceId, EpochId, Label, PublicKey, SymmetricKey, UserId, UserKeys, VolumeId};
use serde::{Serialize, de::DeserializeOwned};
use volume::{
    NodeKind,
    commit::{self, AccessHead, ChangeKind, Commit, Head, Header, RawChange, SealedKey},
    id::{Birthplace, CommitHash, LinkId, NodeId, ValueId},
    member::Role,
};

use super::standing::{Says, Standing, Standings};

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
    /// The link that it makes, if it makes one.
    made: Option<LinkId>,
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

    /// The header of its commit.
    pub fn header(&self) -> &Header {
        &self.commit.header
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
        said.or(self.made).expect("a place names a link or makes one")
    }

    /// Works out [`Self::made`]: a directory's link follows from the directory, which must be born in the same commit.
    fn makes(self) -> Self {
        let ChangeKind::Place { link: None, child, .. } = self.head.kind else { return self };
        let is_directory = |c: &Change<'_>| matches!(c.head.kind, ChangeKind::Birth { kind: NodeKind::Directory, .. });
        let beside = self.commit.heads.iter().zip(&self.commit.raw.changes).enumerate();
        let beside = beside.map(|(i, (head, raw))| Change { index: i as u32, head, raw, ..self });
        let made = match beside.filter(is_directory).any(|c| c.born() == child) {
            true => LinkId::of_directory(&child),
            false => self.birthplace().link(&self.raw.head, &self.raw.body),
        };
        Self { made: Some(made), ..self }
    }

    /// What its sealed part says, if this opens it.
    pub(super) fn opened<T: Serialize + DeserializeOwned>(&self, key: &SymmetricKey) -> Option<T> {
        opened(self, key)
    }

    /// The values it replaces.
    pub fn supersedes(&self) -> impl Iterator<Item = ValueId> {
        self.head.supersedes.iter().map(|id| match id.commit {
            CommitHash::ZERO => ValueId { commit: self.commit.hash, index: id.index },
            _ => *id,
        })
    }
}

/// A user, or the device of one, let in by a commit that counts.
struct Admission {
    rank: Rank,
    /// The place of the admitting commit in the order of [`History::order`].
    at: usize,
    user: UserId,
    device: DeviceId,
    role: Role,
}

/// That nobody is let in for a ticket any more by who has seen this.
struct Withdrawal {
    at: usize,
    ticket: PublicKey,
    user: UserId,
    of_users: bool,
    of_devices: bool,
}

/// Whether a reader may do this.
fn is_of_own_devices(head: &Head) -> bool {
    use ChangeKind::{Device, InviteDevice, UserKey, Withdraw};
    matches!(head.kind, InviteDevice { .. } | Device { .. } | UserKey { .. } | Withdraw { .. })
}

/// A set of commits, by their places in [`History::order`].
pub(super) type Past = Vec<u64>;

pub(super) fn has(past: &Past, place: usize) -> bool {
    past[place / 64] & 1 << (place % 64) != 0
}

/// All commits.
pub struct History<'a> {
    /// A causal order: what a commit's author had seen stands before it.
    order: Vec<&'a Commit>,
    places: BTreeMap<CommitHash, usize>,
    /// What each author had seen, the commit itself included.
    pasts: Vec<Past>,
    /// User and role of each author, by what they had seen; `None`: nobody had admitted them.
    authors: Vec<Option<(UserId, Role)>>,
    admissions: Vec<Admission>,
    /// Those that count, in order; void ones change nothing.
    changes: Vec<Change<'a>>,
    numbers: BTreeMap<ValueId, usize>,
    void: BTreeMap<ValueId, Change<'a>>,
    withdrawals: Vec<Withdrawal>,
    standings: Vec<Standing>,
    /// Commits that are cut by a removal which neither knew of the other.
    late: BTreeSet<CommitHash>,
    superseded: BTreeSet<ValueId>,
    /// The first one first.
    epochs: Vec<(EpochId, SymmetricKey)>,
    births: BTreeMap<NodeId, Vec<Change<'a>>>,
    node_keys: BTreeMap<NodeId, SymmetricKey>,
    /// Those that came after the first.
    later_keys: BTreeMap<NodeId, Vec<SymmetricKey>>,
}

/// Who a commit's author is: the admissions that they had seen tell it, of several the least.
fn author(admissions: &[Admission], past: &Past, device: DeviceId) -> Option<(UserId, Role)> {
    let seen = || admissions.iter().filter(|a| has(past, a.at));
    let user = seen().filter(|a| a.device == device).min_by_key(|a| a.rank)?.user;
    seen().filter(|a| a.user == user).min_by_key(|a| a.rank).map(|a| (user, a.role))
}

/// Whether a commit makes its author the owner of what is somebody else's. (Nobody gives anything away in any story yet.)
fn takes(commit: &Commit, author: UserId, known: &[Change<'_>]) -> bool {
    // (Nobody in any story changes who may use what they own.)
    let first = |of: NodeId| {
        known.iter().find_map(|change| match &change.head.kind {
            ChangeKind::Birth { access, .. } if change.born() == of => Some(access),
            _ => None,
        })
    };
    commit.heads.iter().any(|head| match &head.kind {
        ChangeKind::Access { node, access } => {
            let says = |head: &AccessHead| (head.owner, head.realm, head.mode, head.grants.clone());
            first(*node).is_some_and(|first| first.owner != author && says(access) != says(first))
        }
        _ => false,
    })
}

impl<'a> History<'a> {
    /// Opens them with the keys of the user who founded the volume.
    pub fn new(commits: impl IntoIterator<Item = &'a Commit>, founder: &UserKeys) -> Self {
        Self::of(commits, &[(founder.id(), &founder.boxes)], &BTreeSet::new(), true)
    }

    /// Opens them with keys of that user, and of devices of theirs, by the ids to which is sealed.
    pub fn opened_by(commits: impl IntoIterator<Item = &'a Commit>, keys: &[(UserId, &BoxSecret)]) -> Self {
        Self::of(commits, keys, &BTreeSet::new(), true)
    }

    /// The same as [`Self::new`] without a word on who may use what is whose, but for `void`: whoever made these knows that they
    /// count for nothing.
    pub fn unjudged(
        commits: impl IntoIterator<Item = &'a Commit>,
        founder: &UserKeys,
        void: &BTreeSet<CommitHash>,
    ) -> Self {
        Self::of(commits, &[(founder.id(), &founder.boxes)], void, false)
    }

    fn of(
        commits: impl IntoIterator<Item = &'a Commit>,
        keys: &[(UserId, &BoxSecret)],
        known_void: &BTreeSet<CommitHash>,
        judges: bool,
    ) -> Self {
        let mut order: Vec<&'a Commit> = commits.into_iter().collect();
        order.sort_by_key(|c| (c.header.count, c.hash));
        let places: BTreeMap<CommitHash, usize> = order.iter().enumerate().map(|(i, c)| (c.hash, i)).collect();
        let (mut pasts, mut authors): (Vec<Past>, Vec<Option<(UserId, Role)>>) = (Vec::new(), Vec::new());
        let mut admissions: Vec<Admission> = Vec::new();
        let (mut changes, mut void): (Vec<Change<'a>>, BTreeMap<_, _>) = (Vec::new(), BTreeMap::new());
        let mut withdrawals: Vec<Withdrawal> = Vec::new();
        let mut standings: Vec<Standing> = Vec::new();
        for (at, &commit) in order.iter().enumerate() {
            let header = &commit.header;
            let mut past = vec![0; order.len().div_ceil(64)];
            past[at / 64] |= 1 << (at % 64);
            for before in header.observed.iter().chain([&header.prev]).filter(|h| **h != CommitHash::ZERO) {
                past.iter_mut().zip(&pasts[places[before]]).for_each(|(mine, theirs)| *mine |= theirs);
            }
            let genesis = header.volume == VolumeId::ZERO;
            let author = if genesis { None } else { author(&admissions, &past, header.device) };
            let withdrawn = commit.heads.iter().any(|head| {
                let mut seen = withdrawals.iter().filter(|w| has(&past, w.at));
                match &head.kind {
                    ChangeKind::Grant { ticket, .. } => seen.any(|w| w.ticket == *ticket && w.of_users),
                    ChangeKind::Device { ticket, user, .. } => {
                        seen.any(|w| w.ticket == *ticket && (w.of_devices || w.user == *user))
                    }
                    _ => false,
                }
            });
            let of_members = |head: &Head| matches!(head.kind, ChangeKind::Standing { .. } | ChangeKind::Expel { .. });
            let so_far: Vec<Past> = pasts.iter().cloned().chain([past.clone()]).collect();
            let seen = Standings { all: &standings, pasts: &so_far };
            let follows = seen.last_transfer(&past);
            let writes = || seen.is_at_least(header.device, at, Role::Writer, &past);
            let counts = genesis
                || author.is_some()
                    && !withdrawn
                    && !known_void.contains(&commit.hash)
                    && commit.heads.iter().all(|head| match of_members(head) {
                        true => may_change_members(&seen, header.device, at, &past, head),
                        false if is_of_own_devices(head) => seen.is_at_least(header.device, at, Role::Reader, &past),
                        false => writes(),
                    })
                    && (!judges
                        || seen.is_at_least(header.device, at, Role::Admin, &past)
                        || author.is_some_and(|(user, _)| !takes(commit, user, &changes)));
            for (i, (head, raw)) in commit.heads.iter().zip(&commit.raw.changes).enumerate() {
                let change = Change { commit, index: i as u32, head, raw, made: None }.makes();
                if counts && let Some(says) = says(head) {
                    let over = over(&change, &changes, &standings);
                    let founds = matches!(head.kind, ChangeKind::Genesis { .. });
                    let invited = invited(&change, &changes, &places, &past);
                    let (rank, author) = (change.rank(), header.device);
                    standings.push(Standing { rank, at, author, says, over, follows, founds, invited });
                }
                if !counts {
                    void.insert(change.id(), change);
                    continue;
                }
                if let (ChangeKind::Withdraw { ticket }, Some((user, role))) = (&head.kind, author) {
                    let own = changes.iter().any(|c| {
                        let invites = matches!(c.head.kind, ChangeKind::Invite { ticket: of, .. } if of == *ticket);
                        let place = places[&c.commit.hash];
                        invites
                            && has(&past, place)
                            && (place == at || authors[place].is_some_and(|(by, _)| by == user))
                    });
                    let of_users = own || role.may_admit();
                    withdrawals.push(Withdrawal { at, ticket: *ticket, user, of_users, of_devices: role.may_admit() });
                }
                changes.push(change);
                let (user, device, role) = match &head.kind {
                    ChangeKind::Genesis { user, device, .. } => (user.id(), device.id, Role::Owner),
                    ChangeKind::Grant { user, device, role, .. } => (user.id(), device.id, *role),
                    // Never the least of its user.
                    ChangeKind::Device { user, device, .. } => (*user, device.id, Role::Keeper),
                    _ => continue,
                };
                admissions.push(Admission { rank: change.rank(), at, user, device, role });
            }
            let founder = admissions.first().filter(|_| genesis).map(|a| (a.user, a.role));
            authors.push(if genesis { founder } else { author });
            pasts.push(past);
        }
        let everything = vec![u64::MAX; order.len().div_ceil(64)];
        let known = Standings { all: &standings, pasts: &pasts };
        let is_late = |at: usize, commit: &Commit| {
            let first = ValueId { commit: commit.hash, index: 0 };
            let need = match commit.heads.iter().all(is_of_own_devices) {
                true => Role::Reader,
                false => Role::Writer,
            };
            commit.header.volume != VolumeId::ZERO
                && !void.contains_key(&first)
                && !known.is_at_least(commit.header.device, at, need, &everything)
        };
        let late: BTreeSet<CommitHash> =
            order.iter().enumerate().filter(|(at, c)| is_late(*at, c)).map(|(_, c)| c.hash).collect();
        // What supersedes a void or late value also supersedes what that one superseded.
        let by_id: BTreeMap<ValueId, Change<'a>> = changes.iter().map(|c: &Change<'a>| (c.id(), *c)).collect();
        let mut superseded = BTreeSet::new();
        let valid = changes.iter().filter(|c| !late.contains(&c.id().commit));
        let mut todo: Vec<ValueId> = valid.flat_map(|c| c.supersedes().collect::<Vec<_>>()).collect();
        while let Some(id) = todo.pop() {
            if superseded.insert(id) {
                let through = void.get(&id).or_else(|| by_id.get(&id).filter(|_| late.contains(&id.commit)));
                todo.extend(through.iter().flat_map(|c| c.supersedes()));
            }
        }
        let epochs: Vec<_> = changes.iter().filter_map(|change| epoch_key(change.head, keys)).collect();
        let (mut births, mut node_keys) = (BTreeMap::<_, Vec<Change<'a>>>::new(), BTreeMap::new());
        let mut later_keys = BTreeMap::<NodeId, Vec<SymmetricKey>>::new();
        for change in &changes {
            if let ChangeKind::Access { node, access } = &change.head.kind
                && access.generation > 1
                && let Some(epoch) = epochs.iter().find(|(id, _)| *id == access.epoch)
            {
                later_keys.entry(*node).or_default().extend(node_key(&epoch.1, access));
            }
            if let ChangeKind::Birth { access, .. } = &change.head.kind {
                // (What is for others alone is sealed under none of the founder's.)
                if let Some(epoch) = epochs.iter().find(|(id, _)| *id == access.epoch) {
                    node_keys.extend(node_key(&epoch.1, access).map(|key| (change.born(), key)));
                }
                births.entry(change.born()).or_default().push(*change);
            }
        }
        History {
            numbers: changes.iter().enumerate().map(|(number, c)| (c.id(), number)).collect(),
            births,
            node_keys,
            later_keys,
            order,
            places,
            pasts,
            authors,
            admissions,
            void,
            withdrawals,
            standings,
            late,
            superseded,
            epochs,
            changes,
        }
    }

    /// The commits, each behind those that its author had seen.
    pub fn commits(&self) -> &[&'a Commit] {
        &self.order
    }

    /// The one of that name.
    pub fn commit(&self, hash: CommitHash) -> Option<&'a Commit> {
        self.places.get(&hash).map(|place| self.order[*place])
    }

    /// Which volume they are of.
    pub fn volume(&self) -> VolumeId {
        VolumeId::from_bytes(*self.order[0].hash.as_bytes())
    }

    /// How many commits change nothing, since their authors may not.
    pub fn void_commits(&self) -> usize {
        self.order.iter().filter(|c| self.void.contains_key(&ValueId { commit: c.hash, index: 0 })).count()
    }

    /// Every change that counts for nothing.
    pub fn void_changes(&self) -> impl Iterator<Item = Change<'a>> + '_ {
        self.void.values().copied()
    }

    /// User and role of a commit's author, by what they had seen.
    pub fn author(&self, commit: CommitHash) -> Option<(UserId, Role)> {
        self.authors[self.places[&commit]]
    }

    /// The user of a device for whoever knows all this, and as what they were let in.
    pub fn standing(&self, device: DeviceId) -> Option<(UserId, Role)> {
        author(&self.admissions, &vec![u64::MAX; self.order.len().div_ceil(64)], device)
    }

    /// As what a liar's next commit counts to whoever knows all this; of who was removed, as what they were let in.
    pub fn role_to_lie(&self, device: DeviceId) -> Option<Role> {
        let (_, admitted) = self.standing(device)?;
        let next = self.order.len();
        // The next one had seen all, and nobody had seen it.
        let longer = |past: &Past| past.iter().copied().chain([0]).collect();
        let everything = vec![u64::MAX; next.div_ceil(64) + 1];
        let pasts: Vec<Past> = self.pasts.iter().map(longer).chain([everything.clone()]).collect();
        let known = Standings { all: &self.standings, pasts: &pasts };
        let roles = [Role::Owner, Role::Admin, Role::Writer, Role::Reader, Role::Keeper];
        Some(roles.into_iter().find(|role| known.is_at_least(device, next, *role, &everything)).unwrap_or(admitted))
    }

    /// Everybody who was let in: role and devices by user.
    pub fn members(&self) -> BTreeMap<UserId, (Role, BTreeSet<DeviceId>)> {
        let mut members: BTreeMap<UserId, (Role, BTreeSet<DeviceId>)> = BTreeMap::new();
        let mut admissions: Vec<&Admission> = self.admissions.iter().collect();
        admissions.sort_by_key(|a| a.rank);
        for admission in &admissions {
            members.entry(admission.user).or_insert((admission.role, BTreeSet::new()));
        }
        for device in admissions.iter().map(|a| a.device) {
            let (user, _) = self.standing(device).unwrap();
            members.get_mut(&user).unwrap().1.insert(device);
        }
        members
    }

    /// What a ticket is for to whoever knows all this; nothing once it was used or withdrawn.
    pub fn invited(&self, of: PublicKey) -> Option<Role> {
        let used = |c: &Change<'_>| matches!(c.head.kind, ChangeKind::Grant { ticket, .. } if ticket == of);
        let roles = self.changes().filter_map(|c| match c.head.kind {
            ChangeKind::Invite { ticket, role, .. } if ticket == of => Some(role),
            _ => None,
        });
        let withdrawn = self.withdrawals.iter().any(|w| w.ticket == of && w.of_users);
        if withdrawn || self.changes().any(|c| used(&c)) { None } else { roles.min() }
    }

    /// The first commit whose past holds the admission of a device.
    pub fn admission(&self, device: DeviceId) -> Option<CommitHash> {
        let first = self.admissions.iter().filter(|a| a.device == device).min_by_key(|a| a.rank)?;
        Some(self.order[first.at].hash)
    }

    /// The first epoch and its key.
    pub fn epoch(&self) -> (EpochId, &SymmetricKey) {
        (self.epochs[0].0, &self.epochs[0].1)
    }

    /// Whether a change is of a commit that is cut by a removal which neither knew of the other.
    pub fn is_late(&self, change: &Change<'_>) -> bool {
        self.late.contains(&change.id().commit)
    }

    /// Every change, in no order that matters.
    pub fn changes(&self) -> impl Iterator<Item = Change<'a>> + '_ {
        self.changes.iter().copied()
    }

    /// The one of that name.
    pub fn change(&self, id: ValueId) -> Change<'a> {
        self.changes[self.numbers[&id]]
    }

    /// The one of that name, whether it counts or not.
    pub fn find(&self, id: ValueId) -> Option<Change<'a>> {
        self.numbers.get(&id).map(|number| self.changes[*number]).or_else(|| self.void.get(&id).copied())
    }

    /// Whether it counts: it isn't void.
    pub fn counts(&self, change: &Change<'_>) -> bool {
        self.numbers.contains_key(&change.id())
    }

    /// What a change supersedes: of a void one also what that one superseded.
    pub fn gone_by(&self, change: &Change<'_>) -> Vec<Change<'a>> {
        let mut gone: Vec<Change<'a>> = Vec::new();
        let mut todo: Vec<ValueId> = change.supersedes().collect();
        while let Some(id) = todo.pop() {
            if let Some(old) = self.find(id).filter(|old| gone.iter().all(|known| known.id() != old.id())) {
                gone.push(old);
                todo.extend(self.void.get(&id).iter().flat_map(|c| c.supersedes()));
            }
        }
        gone
    }

    /// Whether it is no late one, and nobody superseded it. (What is born keeps its first access value.)
    pub fn is_live(&self, change: &Change<'_>) -> bool {
        let counts = !self.is_late(change) || matches!(change.head.kind, ChangeKind::Birth { .. });
        counts && !self.superseded.contains(&change.id())
    }

    /// Whether something that counts superseded it.
    pub fn is_superseded(&self, change: &Change<'_>) -> bool {
        self.superseded.contains(&change.id())
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
        self.knew(later.commit, earlier.commit)
    }

    /// Whether the author of the commit `later` had seen `earlier`, or it is the same.
    pub fn knew(&self, later: CommitHash, earlier: CommitHash) -> bool {
        self.places.get(&earlier).is_some_and(|earlier| has(&self.pasts[self.places[&later]], *earlier))
    }

    /// Every node, with the changes that bore it: more than one if a log forked, and both branches tell of it word for
    /// word.
    pub fn births(&self) -> &BTreeMap<NodeId, Vec<Change<'a>>> {
        &self.births
    }

    /// Whether the key of a node is for all members.
    pub fn has_key(&self, node: NodeId) -> bool {
        self.node_keys.contains_key(&node)
    }

    /// The key of a node.
    pub fn node_key(&self, node: NodeId) -> &SymmetricKey {
        &self.node_keys[&node]
    }

    /// What a change says in its sealed part, under the key of `node`.
    pub fn body<T: Serialize + DeserializeOwned>(&self, change: &Change<'_>, node: NodeId) -> T {
        let label = match change.head.kind {
            ChangeKind::Place { .. } => Label::NameKey,
            _ => Label::BodyKey,
        };
        let later = self.later_keys.get(&node).into_iter().flatten();
        let mut keys = [&self.node_keys[&node]].into_iter().chain(later);
        keys.find_map(|key| opened(change, &key.derive(label, b""))).unwrap()
    }

    /// The same, if it opens with a key of the node that the founder has.
    pub fn body_if_opens<T: Serialize + DeserializeOwned>(&self, change: &Change<'_>, node: NodeId) -> Option<T> {
        let later = self.later_keys.get(&node).into_iter().flatten();
        let mut keys = self.node_keys.get(&node).into_iter().chain(later);
        keys.find_map(|key| opened(change, &key.derive(Label::BodyKey, b"")))
    }

    /// What a change says to all members, if it opens.
    pub fn body_to_all<T: Serialize + DeserializeOwned>(&self, change: &Change<'_>) -> Option<T> {
        self.epochs.iter().find_map(|(_, key)| opened(change, &key.derive(Label::BodyKey, b"")))
    }
}

fn says(head: &Head) -> Option<Says> {
    Some(match &head.kind {
        ChangeKind::Genesis { user, device, .. } => {
            Says::Admitted { user: user.id(), device: device.id, role: Role::Owner }
        }
        ChangeKind::Grant { user, device, role, .. } => {
            Says::Admitted { user: user.id(), device: device.id, role: *role }
        }
        ChangeKind::Device { user, device, proof, .. } => {
            Says::Further { user: *user, device: device.id, exported: proof.is_some() }
        }
        ChangeKind::Standing { user, role } => Says::Is { user: *user, role: *role },
        ChangeKind::Expel { device } => Says::Expelled { device: *device },
        _ => return None,
    })
}

/// Who invited to an exported key with which a device comes, and where.
fn invited(
    change: &Change<'_>,
    changes: &[Change<'_>],
    places: &BTreeMap<CommitHash, usize>,
    past: &Past,
) -> Vec<(DeviceId, usize)> {
    let ChangeKind::Device { ticket, .. } = &change.head.kind else { return Vec::new() };
    let fits = |c: &&Change<'_>| match &c.head.kind {
        ChangeKind::InviteDevice { ticket: of, expires: None } => of == ticket && has(past, places[&c.commit.hash]),
        _ => false,
    };
    changes.iter().filter(fits).map(|c| (c.device(), places[&c.commit.hash])).collect()
}

/// The standings that a change supersedes, directly or by way of others, by their places among all.
fn over(change: &Change<'_>, changes: &[Change<'_>], standings: &[Standing]) -> Vec<usize> {
    let mut found = Vec::new();
    let mut todo: Vec<ValueId> = change.supersedes().collect();
    while let Some(id) = todo.pop() {
        let Some(old) = changes.iter().find(|c| c.id() == id) else { continue };
        if let Some(n) = standings.iter().position(|s| s.rank == old.rank())
            && !found.contains(&n)
        {
            found.push(n);
            todo.extend(old.supersedes());
        }
    }
    found
}

/// Whether a change of what somebody is is one that its author may make, by what they had seen.
fn may_change_members(seen: &Standings<'_>, device: DeviceId, at: usize, past: &Past, head: &Head) -> bool {
    match head.kind {
        ChangeKind::Standing { user, role } => seen.may_make(device, at, past, user, role),
        ChangeKind::Expel { device: expelled } => seen.may_expel(device, at, past, expelled),
        _ => false,
    }
}

fn opened<T: Serialize + DeserializeOwned>(change: &Change<'_>, key: &SymmetricKey) -> Option<T> {
    let header = &change.commit.header;
    let (volume, device) = (&header.volume, &header.device);
    let aad = commit::body_aad(volume, device, header.log, header.seq, change.index, &change.raw.head);
    commit::decode("body", &crypto::open_padded(key, &aad, &change.raw.body).ok()?).ok()
}

fn epoch_key(head: &Head, keys: &[(UserId, &BoxSecret)]) -> Option<(EpochId, SymmetricKey)> {
    let ChangeKind::Epoch { epoch, sealed, .. } = &head.kind else { return None };
    let mine = sealed.iter().flat_map(|s| keys.iter().filter(|(to, _)| *to == s.user).map(move |(_, key)| (s, key)));
    let open =
        |(sealed, key): (&SealedKey, &&BoxSecret)| key.open(Label::BoxEpochKey, epoch.as_bytes(), &sealed.sealed).ok();
    let bytes = mine.into_iter().find_map(open)?;
    Some((*epoch, SymmetricKey::from_bytes(bytes.as_slice().try_into().unwrap())))
}

/// The key that an access value wraps; nothing if it wraps none under this epoch.
fn node_key(epoch: &SymmetricKey, access: &AccessHead) -> Option<SymmetricKey> {
    let key = epoch.derive(Label::NodeKeyWrap, b"");
    let bytes = crypto::open(&key, &access.generation.to_le_bytes(), &access.wrapped).ok()?;
    Some(SymmetricKey::from_bytes(*bytes.first_chunk()?))
}
