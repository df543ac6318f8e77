//! How a change becomes part of the merged state: the same code for local calls and remote commits.
//!
//! Owns the rules that need the volume's state: who may, what a change may refer to, what it
//! supersedes. Invariant: the state after a set of commits doesn't depend on the order in which
//! they arrived, as long as it was a causal one; so nothing here looks at anything but the
//! commits themselves and what their authors had seen.

use std::{cmp::Ordering, collections::BTreeSet, sync::Arc};

use crypto::{DerivingKey, DeviceId, EpochId, Label, SymmetricKey, UserId, VolumeId};
use serde::{Serialize, de::DeserializeOwned};
use serde_bytes::ByteBuf;

use crate::{
    Changed, acl,
    audit::Head as AuditHead,
    commit::{
        self, AccessBody, AccessHead, BirthBody, ChangeKind, Commit, ContentBody, Head, Header, Malformed, MemberBody,
        MetaBody, PlaceBody, RawChange, SealedKey, XattrBody,
    },
    content::{BlockHash, ContentData},
    core::{Core, RESTORED_LOG},
    error::{Error, Result},
    id::{Birthplace, CommitHash, LinkId, NodeId, RealmId},
    member::{DeviceRow, InviteRow, MemberRow, Role, UserRow, verify_certificate},
    namespace::XATTR_NAME_MAX,
    node::{Ino, NAME_MAX, NodeKind, TARGET_MAX},
    own_devices::{Admitted, is_of_own_devices},
    rights::agrees,
    row::{Access, ContentValue, Link, Meta, Node, Opened, Place, Value, Xattr, XattrValue},
    spilled::Spilled,
    standing::Within,
    store::Batch,
    time::Timestamp,
    version::{Branch, BranchNo, Dot, ValueRef},
};

/// The generation of a node's key that its birth brings.
const FIRST_GENERATION: u32 = 1;

/// Why an access value is refused.
pub(crate) const DISAGREES: &str = "an access value whose parts do not agree";

/// Void values that the changes of one commit supersede, with what these superseded, all counted. (Who keeps to the rules
/// supersedes none.)
const MAX_VOID: usize = 8192;

/// The commit that a change stands in.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub dot: Dot,
    pub volume: VolumeId,
    pub device: DeviceId,
    pub user: UserId,
    /// What the author was by what the commit had seen.
    pub role: Role,
    pub log: u64,
    pub count: u64,
    pub time: Timestamp,
    /// Made here: its bodies are at hand in clear, and its references are right.
    pub local: bool,
}

/// A new value of a link's register.
struct LinkChange {
    at: ValueRef,
    time: Timestamp,
    value: Place,
}

/// A body, opened or not.
#[derive(Clone, Copy)]
pub(crate) enum Body<'a> {
    Plain(&'a [u8]),
    Sealed(&'a [u8]),
}

/// What came of a received commit.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// It is part of the state now.
    Applied,
    /// It was known already.
    Known,
    /// It refers to this commit, which isn't known yet.
    Missing(CommitHash),
}

pub(crate) fn rule<T>(text: &str) -> Result<T> {
    Err(Error::Refused(text.to_owned()))
}

impl Core {
    /// Takes in a commit from elsewhere; its changes are gone from it when it is applied.
    ///
    /// # Errors
    /// [`Error::Refused`] when it breaks a rule (nothing is stored then), else what failed here.
    pub(crate) fn receive(&mut self, commit: &mut Commit) -> Result<Received> {
        // A call that was cut short by a panic must leave nothing.
        self.abandon();
        let header = &commit.header;
        if self.dot_of(&commit.hash)?.is_some() {
            return Ok(Received::Known);
        }
        let genesis = header.volume == VolumeId::ZERO;
        if genesis && VolumeId::from_bytes(*commit.hash.as_bytes()) != self.volume {
            return rule("the genesis commit of another volume");
        }
        if !genesis && header.volume != self.volume {
            return rule("a commit of another volume");
        }
        let mut observed = Vec::with_capacity(header.observed.len());
        for hash in &header.observed {
            match self.dot_of(hash)? {
                Some(dot) => observed.push(dot),
                None => return Ok(Received::Missing(*hash)),
            }
        }
        let prev = match header.prev {
            CommitHash::ZERO => None,
            hash => match self.dot_of(&hash)? {
                Some(dot) => Some(dot),
                None => return Ok(Received::Missing(hash)),
            },
        };
        // Local calls made so far have not seen this commit.
        self.cut()?;
        let mut count = 0;
        for dot in observed.iter().chain(&prev) {
            count = count.max(self.commit_info(*dot)?.count);
        }
        if header.count != count + 1 {
            return rule("the count is not one more than the greatest count seen");
        }
        self.leave_log_of(header)?;
        let dot = match prev {
            Some(prev) => {
                let branch = self.branch(prev.branch);
                if branch.device != header.device || branch.log != header.log || prev.seq + 1 != header.seq {
                    return rule("the previous commit is not of this log");
                }
                if branch.tip == prev.seq {
                    Dot { branch: prev.branch, seq: header.seq }
                } else {
                    Dot { branch: self.fork(commit, Some(prev))?, seq: header.seq }
                }
            }
            None if self.branches_of(&header.device, header.log).is_empty() => {
                let branch = Branch {
                    device: header.device,
                    log: header.log,
                    forked_from: None,
                    tip: 0,
                    tip_hash: CommitHash::ZERO,
                };
                Dot { branch: self.new_branch(branch), seq: 1 }
            }
            None => {
                let empty = self
                    .branches_of(&header.device, header.log)
                    .iter()
                    .copied()
                    .find(|&no| self.branch(no).tip == 0 && self.branch(no).forked_from.is_none());
                match empty {
                    Some(branch) => Dot { branch, seq: 1 },
                    None => Dot { branch: self.fork(commit, None)?, seq: 1 },
                }
            }
        };
        let result = self.take_in(commit, dot, &observed, genesis);
        if result.is_err() {
            self.abandon();
            self.not_entered(dot);
            self.drop_new_branch(dot.branch);
        }
        result.map(|()| Received::Applied)
    }

    /// A second commit with a number that its device had used: the log goes on as two branches.
    fn fork(&mut self, commit: &Commit, from: Option<Dot>) -> Result<BranchNo> {
        let Header { device, log, seq, .. } = commit.header;
        log::warn!("device {} signed two commits numbered {seq} in one log: equivocation", device.short());
        let first = match from {
            Some(from) => Some(from.branch),
            None => self.branches_of(&device, log).iter().copied().find(|no| self.branch(*no).forked_from.is_none()),
        };
        if let Some(branch) = first
            && let Err(e) = self.note_equivocation(commit, Dot { branch, seq })
        {
            log::error!("the proof of that could not be kept: {e}");
        }
        Ok(self.new_branch(Branch { device, log, forked_from: from, tip: 0, tip_hash: CommitHash::ZERO }))
    }

    fn take_in(&mut self, commit: &mut Commit, dot: Dot, observed: &[Dot], genesis: bool) -> Result<()> {
        let changes = Arc::new(std::mem::take(&mut commit.raw.changes));
        let header = &commit.header;
        let mut told = Vec::new();
        if self.has_unjudged {
            // The disk failed before.
            self.judge_anew()?;
            told.append(&mut self.settled);
        }
        let mut batch = Batch::new();
        // Known as a commit first: what its changes refer to is judged by what it had seen.
        self.enter(&mut batch, dot, header, commit.raw.header.clone(), commit.raw.signature, false, observed)?;
        let (user, role) = match genesis {
            true => (UserId::ZERO, Some(Role::Owner)),
            false => self.standing(&header.device, dot, Within::Seen(dot))?,
        };
        self.overlay.arriving = Some((dot, changes.clone()));
        let origin = Origin {
            dot,
            volume: header.volume,
            device: header.device,
            user,
            role: role.unwrap_or(Role::Keeper),
            log: header.log,
            count: header.count,
            time: header.time,
            local: false,
        };
        if self.is_forbidden(&origin, role, &commit.heads)? || !self.apply_all(&origin, &commit.heads, &changes)? {
            log::warn!("device {} did what its user may not: its commit {dot} is void", header.device.short());
            // Nothing is made of it: it is known, and nothing else.
            self.abandon();
            self.not_entered(dot);
            batch = Batch::new();
            self.enter(&mut batch, dot, header, commit.raw.header.clone(), commit.raw.signature, true, observed)?;
            self.overlay.arriving = Some((dot, changes.clone()));
        }
        for (index, change) in changes.iter().enumerate() {
            let at = ValueRef { dot, index: index as u32 };
            batch.put(crate::store::Space::Changes, at.key(), change.encoded());
        }
        self.put_new_branch(&mut batch, dot.branch);
        let (tells, apart) = (commit.heads.iter().any(|head| is_of_members(&head.kind)), self.is_apart(dot)?);
        let may_cut = tells || apart || self.members.ever_changed();
        if may_cut {
            self.note_unjudged(&mut batch, dot);
        }
        self.settle(batch)?;
        if may_cut {
            told.append(&mut self.settled);
            self.taking_in = Some(dot);
            let judged = self.judge_taken(dot, &commit.heads, (tells, apart));
            self.taking_in = None;
            if let Err(e) = judged {
                // It is stored: what it cuts is looked for again with the next one, or when the volume is opened.
                log::error!("what a commit cuts could not be stored: {e}");
                self.abandon();
                self.has_unjudged = true;
            }
        }
        self.settled.splice(0..0, told);
        self.entered(dot, header, observed);
        if header.seq == 1
            && header.log & RESTORED_LOG != 0
            && let Err(e) = self.note_said_set_back(&header.device)
        {
            log::error!("that a device goes on from an older copy can't be stored: {e}");
        }
        self.keep_fresh(&commit.raw.header, commit.raw.signature, changes);
        Ok(())
    }

    /// Makes all changes of a commit part of the state, unless its author knew that they may not make one of them: tells
    /// whether that is so.
    fn apply_all(&mut self, origin: &Origin, heads: &[Head], changes: &[RawChange]) -> Result<bool> {
        let genesis = origin.volume == VolumeId::ZERO;
        let mut void_left = MAX_VOID;
        for (index, (head, raw)) in heads.iter().zip(changes).enumerate() {
            let gone = self.superseded(origin, head, &mut void_left)?;
            if !genesis && !self.allows(origin, &head.kind, &gone)? {
                return Ok(false);
            }
            self.apply(origin, index as u32, head, raw, Body::Sealed(&raw.body), &gone)?;
        }
        self.check_directories_placed(origin, heads, changes)?;
        self.reveal_learned()?;
        Ok(true)
    }

    /// Whether a commit says more than its author may, by what they had seen: nobody ever counts it.
    fn is_forbidden(&mut self, origin: &Origin, role: Option<Role>, heads: &[Head]) -> Result<bool> {
        for head in heads {
            let forbidden = match head.kind {
                ChangeKind::Standing { .. } | ChangeKind::Expel { .. } => {
                    self.forbids_standing(&origin.user, &origin.device, origin.dot, &head.kind)?
                }
                // Everybody but keepers has their own devices in hand.
                _ if is_of_own_devices(&head.kind) => role.is_none_or(|role| role < Role::Reader),
                _ => role.is_none_or(|role| !role.may_write()),
            };
            if forbidden {
                return Ok(true);
            }
        }
        self.admits_withdrawn(origin.dot, heads)
    }

    /// Works out what follows from a commit that was stored: whether it is late, and what it makes late. It `tells` of
    /// members; its author had not seen all that others had made `apart`.
    fn judge_taken(&mut self, dot: Dot, heads: &[Head], (tells, apart): (bool, bool)) -> Result<()> {
        let of_standing = |head: &Head| match &head.kind {
            ChangeKind::Standing { .. } | ChangeKind::Expel { .. } => true,
            // One who was known may have become an admin earlier than was known.
            ChangeKind::Grant { user, device, .. } => self.was_admitted_before(&user.id(), &device.id),
            _ => false,
        };
        let admitted: Vec<(UserId, DeviceId)> = heads
            .iter()
            .filter_map(|head| match &head.kind {
                ChangeKind::Grant { user, device, .. } => Some((user.id(), device.id)),
                ChangeKind::Device { user, device, .. } => Some((*user, device.id)),
                _ => None,
            })
            .collect();
        if tells && !heads.iter().any(of_standing) {
            if self.members.ever_changed() {
                let (users, devices) = admitted.into_iter().unzip();
                self.refresh_standings_of(users, devices)?;
                self.judge(dot)?;
            }
            self.look_at_epoch()?;
        } else if tells {
            self.settle_members()?;
            self.judge_all()?;
        } else {
            self.judge(dot)?;
        }
        if apart {
            self.judge_by_nodes(dot)?;
        }
        self.settle_rights()?;
        self.note_judged(dot);
        self.settle(Batch::new())
    }

    fn was_admitted_before(&self, user: &UserId, device: &DeviceId) -> bool {
        let admissions: usize = self.members.admitted_with(user).map(|row| row.granted.len()).sum();
        admissions > 1 || self.members.devices.get(device).is_some_and(|row| row.granted.len() > 1)
    }

    /// Brings in line what rows say of members, after what somebody is changed.
    pub(crate) fn settle_members(&mut self) -> Result<()> {
        if self.members.ever_changed() || !self.overlay.members.is_empty() {
            self.verdicts.clear();
            self.refresh_standings()?;
        }
        self.look_at_epoch()
    }

    /// Checks that each directory that a commit bears has its link: nothing else can give it one, and what is put into it
    /// would be out of reach.
    fn check_directories_placed(&mut self, origin: &Origin, heads: &[Head], changes: &[RawChange]) -> Result<()> {
        for (index, (head, raw)) in heads.iter().zip(changes).enumerate() {
            if !matches!(head.kind, ChangeKind::Birth { kind: NodeKind::Directory, .. }) || origin.user == UserId::ZERO
            {
                continue;
            }
            let (device, log, seq) = (origin.device, origin.log, origin.dot.seq);
            let born = Birthplace { device, log, seq, index: index as u32 }.node(&raw.head, &raw.body);
            let places = |h: &Head| matches!(h.kind, ChangeKind::Place { link: None, child, .. } if child == born);
            if !heads.iter().any(places) {
                return rule("a directory without a place");
            }
        }
        Ok(())
    }

    /// The author's user and role, if the commit's past holds their admission.
    ///
    /// Admins apart may each have admitted one device, for two users, or one user, in two roles. So that all judge
    /// alike, whatever came here first, only the admissions that the author had seen count, and of these the least.
    pub(crate) fn author(&mut self, device: &DeviceId, dot: Dot) -> Result<(UserId, Role)> {
        let Some(row) = self.members.devices.get(device) else { return rule("its author is no member") };
        let (user, granted) = (row.user, row.granted.clone());
        if let [only] = granted[..]
            && let Some((first, role)) = self.members.users.get(&user).map(|row| (row.granted, row.role))
        {
            if !self.covers(dot, only.dot)? {
                return self.unadmitted();
            }
            // The least one there is of this user, or a further device's whose author had seen that.
            if only == first || self.covers(dot, first.dot)? {
                return Ok((user, role));
            }
        }
        let mine = self.least_admission(dot, granted)?;
        let Some((user, _)) = mine else { return self.unadmitted() };
        // A device that was admitted twice may have been so for this user.
        let devices = self.members.admitted_with(&user);
        let mut of_user = Vec::new();
        for at in devices.flat_map(|d| &d.granted) {
            if self.admitted(*at)?.0 == user {
                of_user.push(*at);
            }
        }
        let least = self.least_admission(dot, of_user)?;
        least.map_or_else(|| self.unadmitted(), Ok)
    }

    fn unadmitted<T>(&self) -> Result<T> {
        rule("its author was no member by what it had seen")
    }

    /// The least of these admissions that the author of a commit had seen.
    fn least_admission(&mut self, dot: Dot, admissions: Vec<ValueRef>) -> Result<Option<(UserId, Role)>> {
        let mut least: Option<(ValueRef, u64)> = None;
        for at in admissions {
            if !self.covers(dot, at.dot)? {
                continue;
            }
            let new = (at, self.commit_info(at.dot)?.count);
            if least.is_none_or(|old| self.rank(new, old).is_ok_and(Ordering::is_lt)) {
                least = Some(new);
            }
        }
        least.map(|(at, _)| self.admitted(at)).transpose()
    }

    /// Whom an admission let in, as what. A further device's lets in no user, and is never the least of one: who made it
    /// had seen one of the others.
    fn admitted(&self, at: ValueRef) -> Result<(UserId, Role)> {
        if let Some(found) = self.admission(at)? {
            return Ok(found);
        }
        match decode::<Head>(&self.change(at)?.head)?.kind {
            ChangeKind::Device { user, .. } => Ok((user, Role::Keeper)),
            _ => Err(Error::damaged("an admission")),
        }
    }

    /// The same, if it is the admission of a user.
    pub(crate) fn admission(&self, at: ValueRef) -> Result<Option<(UserId, Role)>> {
        // Of a call, or of a commit that may be refused, another change may come to stand there.
        let is_stored = self.branch_of(at.dot)?.tip >= at.dot.seq;
        if is_stored && let Some(known) = self.admissions.borrow().get(&at) {
            return Ok(*known);
        }
        let head: Head = decode(&self.change(at)?.head)?;
        let found = match head.kind {
            ChangeKind::Genesis { user, .. } => Some((user.id(), Role::Owner)),
            ChangeKind::Grant { user, role, .. } => Some((user.id(), role)),
            _ => None,
        };
        if is_stored {
            self.admissions.borrow_mut().insert(at, found);
        }
        Ok(found)
    }

    /// The origin of the running local call.
    pub(crate) fn local_origin(&mut self) -> Result<Origin> {
        let dot = self.pending_dot();
        Ok(Origin {
            dot,
            volume: self.volume,
            device: self.device.id(),
            user: self.my_id,
            // (Before the first commit nobody is anything yet.)
            role: self.members.role_of(&self.device.id()).unwrap_or(Role::Owner),
            log: self.branch(self.me).log,
            count: self.pending_count()?,
            time: self.now(),
            local: true,
        })
    }

    /// Notes, seals and applies a change of the running local call.
    pub(crate) fn emit<T: Serialize>(
        &mut self,
        kind: ChangeKind,
        supersedes: &[ValueRef],
        seal: Option<(&SymmetricKey, &T)>,
    ) -> Result<ValueRef> {
        self.check_role(&kind)?;
        let origin = self.local_origin()?;
        self.check_allowed(&origin, &kind, supersedes)?;
        let plain = seal.map(|(_, body)| commit::encode(body)).unwrap_or_default();
        let (at, head) = self.note(kind, supersedes, seal.map(|(key, _)| (key, plain.as_slice())))?;
        let raw = self.change(at)?;
        // Taken from live registers, where no void value is.
        self.apply(&origin, at.index, &head, &raw, Body::Plain(&plain), supersedes)?;
        Ok(at)
    }

    /// Nothing is signed here that others would hold against this device: also what was written while its user might, and comes
    /// to be published when they may no more.
    ///
    /// # Errors
    /// [`Error::ReadOnly`].
    fn check_role(&self, kind: &ChangeKind) -> Result<()> {
        let need = match kind {
            // Who leaves, or takes a device of theirs out, needs no role; the rest of these is judged by itself.
            ChangeKind::Standing { .. } | ChangeKind::Expel { .. } => return Ok(()),
            _ if is_of_own_devices(kind) => Role::Reader,
            _ => Role::Writer,
        };
        // (Whoever founds the volume is nobody yet.)
        let may = self.members.users.is_empty() || self.members.role_of(&self.device.id()).is_some_and(|r| r >= need);
        if may { Ok(()) } else { Err(Error::ReadOnly) }
    }

    /// Opens a body that is sealed under a key of a node, of this generation.
    pub(crate) fn open_of<T: Serialize + DeserializeOwned>(
        &self,
        (origin, index, head): (&Origin, u32, &[u8]),
        (node, generation): (&Node, u32),
        body: Body<'_>,
    ) -> Option<T> {
        match body {
            Body::Plain(_) => self.open(origin, index, head, None, body),
            Body::Sealed(_) => node
                .keys_of(generation)
                .rev()
                .find_map(|key| self.open(origin, index, head, Some(&key.derive(Label::BodyKey)), body)),
        }
    }

    pub(crate) fn open<T: Serialize + DeserializeOwned>(
        &self,
        origin: &Origin,
        index: u32,
        head: &[u8],
        key: Option<&SymmetricKey>,
        body: Body<'_>,
    ) -> Option<T> {
        match body {
            // Encoded just now, by this program.
            Body::Plain(plain) => rmp_serde::from_slice(plain).ok(),
            Body::Sealed(sealed) => {
                let seq = origin.dot.seq;
                let aad = commit::body_aad(&origin.volume, &origin.device, origin.log, seq, index, head);
                let plain = crypto::open_padded(key?, &aad, sealed).ok()?;
                let value = commit::decode("body", &plain).ok();
                if value.is_none() {
                    log::warn!("device {}: a change whose body does not decode", origin.device.short());
                }
                value
            }
        }
    }

    /// The values a change supersedes, by this device's names. What a void one superseded goes with it.
    /// `void_left` bounds how many those are in all changes of its commit.
    fn superseded(&mut self, origin: &Origin, head: &Head, void_left: &mut usize) -> Result<Vec<ValueRef>> {
        let mut refs = Vec::with_capacity(head.supersedes.len());
        let mut found = BTreeSet::new();
        let mut todo: Vec<(Dot, crate::id::ValueId)> = head.supersedes.iter().map(|id| (origin.dot, *id)).collect();
        while let Some((within, id)) = todo.pop() {
            let dot = match id.commit {
                CommitHash::ZERO => within,
                hash => match self.dot_of(&hash)? {
                    Some(dot) => dot,
                    None => return rule("a superseded value of an unknown commit"),
                },
            };
            let at = ValueRef { dot, index: id.index };
            if !self.covers(origin.dot, dot)? {
                return rule("a superseded value its author had not seen");
            }
            if !found.insert(at) {
                continue;
            }
            if dot != origin.dot && self.commit_info(dot)?.void {
                let void: Head = decode(&self.named(at)?.head)?;
                let Some(left) = void_left.checked_sub(1 + void.supersedes.len()) else {
                    return rule("too many void values are superseded");
                };
                *void_left = left;
                todo.extend(void.supersedes.into_iter().map(|id| (dot, id)));
            }
            refs.push(at);
        }
        Ok(refs)
    }

    /// A change that a commit names. That its commit never had such a one is its author's doing; a change that is missing
    /// here is not.
    pub(crate) fn named(&self, at: ValueRef) -> Result<Arc<RawChange>> {
        let found = self.change(at);
        if matches!(found, Err(Error::Damaged(_)))
            && let Some(row) = self.commit_row(at.dot)?
            && at.index >= commit::decode::<commit::Header>("header", &row.header).map_or(u32::MAX, |h| h.changes)
        {
            return rule("a superseded value that there never was");
        }
        found
    }

    /// Checks that superseded values that are not live in their register were values of it.
    pub(crate) fn check_same_register(
        &self,
        origin: &Origin,
        head: &Head,
        gone: &[ValueRef],
        live: &[ValueRef],
    ) -> Result<()> {
        if origin.local {
            return Ok(());
        }
        for at in gone.iter().filter(|at| !live.contains(at)) {
            if at.dot == origin.dot {
                // Earlier in the same commit: it would be live if it were of this register.
                return rule("a superseded value that is none of the register's");
            }
            let old: Head = decode(&self.named(*at)?.head)?;
            if !self.same_register(*at, &old.kind, &head.kind)? {
                return rule("a superseded value of another register");
            }
        }
        Ok(())
    }

    fn same_register(&self, at: ValueRef, old: &ChangeKind, new: &ChangeKind) -> Result<bool> {
        use ChangeKind::{
            Access, Birth, Content, Genesis, Grant, Meta, Place, Removal, Setting, Settle, Standing, Xattr,
        };
        let branch = self.branch_of(at.dot)?;
        let place = Birthplace { device: branch.device, log: branch.log, seq: at.dot.seq, index: at.index };
        let raw = self.change(at)?;
        Ok(match (old, new) {
            (Birth { .. }, Access { node, .. }) => place.node(&raw.head, &raw.body) == *node || *node == NodeId::ROOT,
            (Access { node: a, .. }, Access { node: b, .. })
            | (Meta { node: a, .. }, Meta { node: b, .. })
            | (Content { node: a, .. } | Settle { node: a }, Content { node: b, .. } | Settle { node: b }) => a == b,
            (Xattr { node: a, tag: s, .. }, Xattr { node: b, tag: t, .. }) => a == b && s == t,
            (Setting { tag: s, .. }, Setting { tag: t, .. }) => s == t,
            (Standing { user: a, .. }, Standing { user: b, .. }) => a == b,
            (Genesis { user: a, .. } | Grant { user: a, .. }, Standing { user: b, .. }) => a.id() == *b,
            (Removal { link: a, .. }, Place { link: Some(b), .. } | Removal { link: b, .. }) => a == b,
            (Place { link: a, child, .. }, Place { link: Some(b), .. } | Removal { link: b, .. }) => {
                // Whether of a directory or not: no link of another kind of node has such an id.
                let is_made = |link| place.link(&raw.head, &raw.body) == link || LinkId::of_directory(child) == link;
                a.map_or_else(|| is_made(*b), |a| a == *b)
            }
            _ => false,
        })
    }

    /// The order of concurrent values: by count, then device, then commit.
    pub(crate) fn rank(&mut self, a: (ValueRef, u64), b: (ValueRef, u64)) -> Result<Ordering> {
        let by_count = a.1.cmp(&b.1);
        if by_count.is_ne() {
            return Ok(by_count);
        }
        if a.0.dot == b.0.dot {
            return Ok(a.0.index.cmp(&b.0.index));
        }
        let by_device = self.branch_of(a.0.dot)?.device.cmp(&self.branch_of(b.0.dot)?.device);
        if by_device.is_ne() {
            return Ok(by_device);
        }
        Ok(self.commit_info(a.0.dot)?.hash.cmp(&self.commit_info(b.0.dot)?.hash))
    }

    /// Replaces superseded values of a register by a new one, keeping the order.
    pub(crate) fn replace<T>(
        &mut self,
        values: &mut Vec<Value<T>>,
        gone: &[ValueRef],
        new: Option<Value<T>>,
    ) -> Result<()> {
        if self.late.is_empty() && self.late_values.is_empty() {
            values.retain(|value| !gone.contains(&value.at));
        } else {
            let gone = self.with_late(gone)?;
            values.retain(|value| !gone.contains(&value.at));
        }
        if let Some(new) = new {
            let mut place = values.len();
            while place > 0 {
                let before = &values[place - 1];
                if self.rank((before.at, before.count), (new.at, new.count))? != Ordering::Greater {
                    break;
                }
                place -= 1;
            }
            values.insert(place, new);
        }
        Ok(())
    }

    /// The node that a change refers to; its author must have seen it born.
    fn target(&mut self, origin: &Origin, id: &NodeId) -> Result<(Ino, Box<Node>)> {
        let ino = self.known(origin, id)?;
        Ok((ino, self.node(ino)?))
    }

    /// The same, without a copy of the node.
    fn known(&mut self, origin: &Origin, id: &NodeId) -> Result<Ino> {
        let Some(ino) = self.ino_of_node(id)? else { return rule("a change of an unknown node") };
        if !origin.local {
            let born = self.with_node(ino, |n| n.born.clone())?;
            if !self.saw_any(origin.dot, &born)? {
                return rule("a change of a node its author had not seen");
            }
        }
        Ok(ino)
    }

    /// Whether the author of `later` had seen one of `values`.
    fn saw_any(&mut self, later: Dot, values: &[ValueRef]) -> Result<bool> {
        for value in values {
            if self.covers(later, value.dot)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(crate) fn touch(node: &mut Node, origin: &Origin, time: Timestamp) {
        node.ctime = if origin.local { time } else { node.ctime.max(time) };
    }

    /// A link that a change gives another place, or none. It must supersede something.
    fn replaced_link(
        &mut self,
        origin: &Origin,
        head: &Head,
        ino: Ino,
        node: &Node,
        link: &LinkId,
        gone: &[ValueRef],
    ) -> Result<Arc<Link>> {
        let Some(old) = self.link_of(ino, node, link)? else {
            return rule("a place of a link that is not the node's");
        };
        // One that counts: a void place alone tells of no link that all who know it have.
        let mut counts = false;
        for old in gone {
            counts |= old.dot == origin.dot || !self.commit_info(old.dot)?.void;
        }
        if !counts {
            return rule("a new place for a link that supersedes none");
        }
        let live: Vec<ValueRef> = old.values.iter().map(|v| v.at).collect();
        self.check_same_register(origin, head, gone, &live)?;
        Ok(old)
    }

    /// Writes a value of a link's register, and derives anew what follows from it.
    fn change_link(
        &mut self,
        origin: &Origin,
        (ino, mut node): (Ino, Box<Node>),
        (id, old): (LinkId, Option<Arc<Link>>),
        LinkChange { at, time, value }: LinkChange,
        gone: &[ValueRef],
    ) -> Result<()> {
        let parent = match &value {
            Place::In { parent, .. } => Some(*parent),
            Place::Removed => None,
        };
        let mut link =
            old.as_deref().cloned().unwrap_or(Link { id, values: Vec::new(), shown: None, aside: Vec::new() });
        // The directories whose entries this changes: the new one, and those of the places it supersedes.
        let mut directories: Vec<Ino> = parent.into_iter().collect();
        for old in gone {
            let live = link.values.iter().find(|v| v.at == *old);
            let was = match live.and_then(|v| v.value.clone()) {
                Some(Place::In { parent, .. }) => Some(parent),
                // (A late first place stands for a removal.)
                Some(Place::Removed) | None => self.past_place(*old)?.map(|p| p.parent),
            };
            directories.extend(was.filter(|d| !directories.contains(d)));
        }
        self.replace(&mut link.values, gone, Some(Value { at, count: origin.count, value: Some(value) }))?;
        Self::touch(&mut node, origin, time);
        self.put_link(ino, node, old.as_deref(), link)?;
        for directory in directories {
            self.entries_changed(origin, directory, at, time)?;
        }
        self.changed(Changed::Attributes(ino));
        self.note_apart(origin.dot, ino)
    }

    /// Stores a link whose values changed, and derives anew what follows from them.
    pub(crate) fn put_link(&mut self, ino: Ino, mut node: Box<Node>, old: Option<&Link>, link: Link) -> Result<()> {
        let id = link.id;
        // By a first place, too, a directory can close a cycle: into itself, or below what was put into it before.
        let itself = link.values.iter().any(|v| matches!(&v.value, Some(Place::In { parent, .. }) if *parent == ino));
        let moved = old.is_some_and(|old| !old.values.is_empty()) || node.entry_change.is_some() || itself;
        let was_placed = node.is_placed();
        let was_in = if node.hung_at.is_some() { self.last_parent(ino)? } else { None };
        self.put_item(ino, &mut node, old, Arc::new(link));
        // Whether removed links come back depends on whether any is placed.
        let links: Vec<LinkId> = match was_placed == node.is_placed() {
            true => vec![id],
            false => self.link_ids(ino, &node)?,
        };
        let kind = node.kind;
        self.put_node(ino, node);
        if kind == NodeKind::Directory && moved {
            self.recheck_cycles(ino)?;
        }
        for id in &links {
            self.refresh_link(ino, id)?;
        }
        if kind == NodeKind::Directory && moved {
            self.recheck_cycles(ino)?;
        }
        if let Some(was_in) = was_in {
            // By its winning place it keeps those above, though it hangs elsewhere.
            self.recheck_removed(was_in)?;
            if let Some(is_in) = self.last_parent(ino)? {
                self.recheck_removed(is_in)?;
            }
        }
        self.changed(Changed::Attributes(ino));
        Ok(())
    }

    /// Makes one change, which supersedes `gone`, part of the state.
    fn apply(
        &mut self,
        origin: &Origin,
        index: u32,
        head: &Head,
        raw: &RawChange,
        body: Body<'_>,
        gone: &[ValueRef],
    ) -> Result<()> {
        let encoded = raw.head.as_slice();
        let at = ValueRef { dot: origin.dot, index };
        let place = Birthplace { device: origin.device, log: origin.log, seq: origin.dot.seq, index };
        match &head.kind {
            ChangeKind::Birth { kind, access } => {
                self.apply_birth(origin, at, place, *kind, access, raw, body)?;
            }
            ChangeKind::Access { node, access } => {
                let (ino, node) = self.target(origin, node)?;
                let live: Vec<ValueRef> = node.access.iter().map(|v| v.at).collect();
                self.check_same_register(origin, head, gone, &live)?;
                self.check_access(origin, &node, access, gone)?;
                self.apply_access(origin, at, (ino, node), (access, encoded), body, gone)?;
                self.note_apart(origin.dot, ino)?;
            }
            ChangeKind::Meta { node, generation } => {
                let (ino, mut node) = self.target(origin, node)?;
                let live: Vec<ValueRef> = node.meta.iter().map(|v| v.at).collect();
                self.check_same_register(origin, head, gone, &live)?;
                let body: Option<MetaBody> = self.open_of((origin, index, encoded), (&node, *generation), body);
                let time = body.as_ref().map_or(origin.time, |b| b.time);
                let value = body.map(|b| Meta { mtime: b.mtime, atime: b.atime });
                self.replace(&mut node.meta, gone, Some(Value { at, count: origin.count, value }))?;
                Self::touch(&mut node, origin, time);
                self.set_mtime(&mut node)?;
                self.put_node(ino, node);
                self.note_apart(origin.dot, ino)?;
                self.changed(Changed::Attributes(ino));
            }
            ChangeKind::Xattr { node, generation, tag } => {
                let (ino, mut node) = self.target(origin, node)?;
                let body: Option<XattrBody> = self.open_of((origin, index, encoded), (&node, *generation), body);
                let body = body.filter(|b| is_xattr_name(&b.name) && node.xattr_tag(&b.name) == Some(*tag));
                let time = body.as_ref().map_or(origin.time, |b| b.time);
                let old = self.item::<Xattr>(ino, &node, tag.as_bytes())?;
                let mut xattr = match &old {
                    Some(xattr) => (**xattr).clone(),
                    None => Xattr { tag: *tag, name: Vec::new(), values: Vec::new() },
                };
                if let Some(body) = &body {
                    // All names of one tag are the same; whoever tells it first need not have been the first.
                    xattr.name.clone_from(&body.name);
                }
                let live: Vec<ValueRef> = xattr.values.iter().map(|v| v.at).collect();
                self.check_same_register(origin, head, gone, &live)?;
                let value = body.map(|b| b.value.map_or(XattrValue::Removed, XattrValue::Set));
                let value = Value { at, count: origin.count, value };
                self.replace(&mut xattr.values, gone, Some(value))?;
                self.put_item(ino, &mut node, old.as_deref(), Arc::new(xattr));
                Self::touch(&mut node, origin, time);
                self.put_node(ino, node);
                self.note_apart(origin.dot, ino)?;
                self.changed(Changed::Attributes(ino));
            }
            ChangeKind::Content { node, generation, root, blocks } => {
                let (ino, mut node) = self.target(origin, node)?;
                if node.kind != NodeKind::File {
                    return rule("content of something that is no file");
                }
                let live: Vec<ValueRef> = node.content.iter().map(|v| v.at).collect();
                self.check_same_register(origin, head, gone, &live)?;
                let body: Option<ContentBody> = self.open_of((origin, index, encoded), (&node, *generation), body);
                let time = body.as_ref().map_or(origin.time, |b| b.mtime);
                let value = body.and_then(|b| content_value(*generation, root, *blocks, b));
                if !origin.local && *root != BlockHash::ZERO && (value.is_some() || self.keeps_unread()) {
                    self.overlay.wanted.push((at, *root, *blocks));
                }
                self.replace(&mut node.content, gone, Some(Value { at, count: origin.count, value }))?;
                Self::touch(&mut node, origin, time);
                self.set_mtime(&mut node)?;
                self.put_node(ino, node);
                self.changed(Changed::Content(ino));
                self.content_changed(ino)?;
                self.note_apart(origin.dot, ino)?;
            }
            ChangeKind::Settle { node } => {
                let (ino, mut node) = self.target(origin, node)?;
                let live: Vec<ValueRef> = node.content.iter().map(|v| v.at).collect();
                self.check_same_register(origin, head, gone, &live)?;
                self.replace(&mut node.content, gone, None)?;
                self.note_settle(ino, at);
                self.set_mtime(&mut node)?;
                self.put_node(ino, node);
                self.changed(Changed::Content(ino));
                self.content_changed(ino)?;
            }
            ChangeKind::Place { link, child, parent, generation } => {
                let (ino, node) = self.target(origin, child)?;
                let parent = self.known(origin, parent)?;
                let sealed = matches!(body, Body::Sealed(_));
                let (kind, keys) = self.with_node(parent, |n| {
                    let keys = n.keys_of(*generation).filter(|_| sealed).rev();
                    (n.kind, keys.map(|key| key.derive(Label::NameKey)).collect::<Vec<_>>())
                })?;
                if kind != NodeKind::Directory {
                    return rule("a place in something that is no directory");
                }
                let body: Option<PlaceBody> = match sealed {
                    false => self.open(origin, index, encoded, None, body),
                    true => keys.iter().find_map(|key| self.open(origin, index, encoded, Some(key), body)),
                };
                let time = body.as_ref().map_or(origin.time, |b| b.time);
                let (id, old) = match link {
                    None => {
                        if !gone.is_empty() {
                            return rule("a new link that supersedes");
                        }
                        let is_directory = node.kind == NodeKind::Directory;
                        let id = match is_directory {
                            true => LinkId::of_directory(&node.id),
                            false => place.link(&raw.head, &raw.body),
                        };
                        // What came of a place in this commit is live: nobody else can have seen it yet. (A directory's only
                        // link is in its own row.)
                        let mut values = node.links.iter().flat_map(|l| &l.values);
                        if is_directory && (node.id == NodeId::ROOT || values.any(|v| v.at.dot == origin.dot)) {
                            return rule("a second link to a directory");
                        }
                        if is_directory && !node.born.iter().any(|b| b.dot == origin.dot) {
                            return rule("a directory's link must be born with it");
                        }
                        // If it is there, then on both branches of a forked log: one link, and a place from each.
                        (id, self.link_of(ino, &node, &id)?)
                    }
                    Some(link) => (*link, Some(self.replaced_link(origin, head, ino, &node, link, gone)?)),
                };
                // A name that can't be is shown as the link's id, so that what it leads to isn't lost.
                let name = body.map(|b| b.name).filter(|n| is_name(n)).unwrap_or_else(|| format!("~{id}").into_bytes());
                let change = LinkChange { at, time, value: Place::In { parent, name } };
                self.change_link(origin, (ino, node), (id, old), change, gone)?;
            }
            ChangeKind::Removal { link, child, time } => {
                let (ino, node) = self.target(origin, child)?;
                let old = self.replaced_link(origin, head, ino, &node, link, gone)?;
                let change = LinkChange { at, time: *time, value: Place::Removed };
                self.change_link(origin, (ino, node), (*link, Some(old)), change, gone)?;
            }
            ChangeKind::Genesis { user, device, certificate, .. } => {
                if place.seq != 1 || index != 0 || origin.volume != VolumeId::ZERO || device.id != origin.device {
                    return rule("a second genesis");
                }
                verify_certificate(user, device, certificate).map_err(Error::Refused)?;
                // The name is sealed under the first epoch's key, which follows: it is read there.
                self.admit_rows(origin, at, Role::Owner, user, device, String::new())?;
            }
            ChangeKind::Epoch { realm, epoch, sealed, carried, .. } => match *realm == RealmId::MEMBERS {
                true => self.apply_epoch(at, origin.count, *epoch, sealed, carried)?,
                false => self.apply_narrow_epoch(origin, at, (realm, epoch), sealed, carried)?,
            },
            ChangeKind::Keys { sealed } => self.apply_keys(sealed),
            ChangeKind::Watch { sealed } => self.apply_watch(origin, sealed),
            ChangeKind::Standing { user, role } => {
                self.check_same_register(origin, head, gone, &[])?;
                self.apply_standing(at, origin.count, user, *role)?;
                self.changed(Changed::Members);
            }
            ChangeKind::Expel { device } => {
                if !gone.is_empty() {
                    return rule("a removal of a device that supersedes");
                }
                self.apply_expel(at, origin.count, device)?;
                self.changed(Changed::Members);
            }
            ChangeKind::Invite { ticket, role, expires } => {
                if !origin.role.may_admit() || *role >= Role::Owner {
                    return rule("an invitation by someone who may not invite");
                }
                let row = match self.invite(ticket) {
                    None => InviteRow {
                        ticket: *ticket,
                        role: *role,
                        expires: *expires,
                        at,
                        used: false,
                        others: Vec::new(),
                    },
                    // Whoever had seen this one had seen that.
                    Some(row) if self.knew_invitation(&row, origin, *role)? => return Ok(()),
                    Some(mut row) => {
                        row.add(*role, *expires, at);
                        row
                    }
                };
                self.overlay.members.push(MemberRow::Invite(row));
            }
            ChangeKind::Grant { ticket, role, user, device, certificate, sealed, .. } => {
                if !origin.role.may_admit() {
                    return rule("an admission by someone who may not admit");
                }
                let Some(invite) = self.invite(ticket) else { return rule("an admission without an invitation") };
                if !self.knew_invitation(&invite, origin, *role)? {
                    return rule("an admission that does not match its invitation");
                }
                verify_certificate(user, device, certificate).map_err(Error::Refused)?;
                match role {
                    Role::Keeper => self.apply_watch(origin, sealed),
                    _ => self.apply_keys(sealed),
                }
                let key = sealed.first().and_then(|s| self.epoch_key(&s.epoch)).map(|k| k.derive(Label::BodyKey));
                let name = self.open::<MemberBody>(origin, index, encoded, key.as_ref(), body).map(|b| b.name);
                let name = name.filter(|n| crate::member::check_user_name(n).is_ok());
                let name = name.unwrap_or_else(|| format!("~{}", user.id().short()));
                self.admit_rows(origin, at, *role, user, device, name)?;
                self.overlay.members.push(MemberRow::Invite(InviteRow { used: true, ..invite }));
                self.changed(Changed::Members);
            }
            ChangeKind::Name {} => {
                // Nothing makes another yet, and of two that are concurrent none is the greater.
                if origin.volume != VolumeId::ZERO {
                    return rule("another name");
                }
                let key = self.sealing_epoch().map(|(_, key)| key.derive(Label::BodyKey));
                let body = self.open::<MemberBody>(origin, index, encoded, key.as_ref(), body);
                let user = self.owner_being_founded();
                if let (Some(body), Some(mut row)) = (body, user.and_then(|u| self.user_row(&u)))
                    && crate::member::check_user_name(&body.name).is_ok()
                {
                    row.name = body.name;
                    self.overlay.members.push(MemberRow::User(row));
                }
            }
            ChangeKind::Setting { epoch, tag } => {
                self.apply_setting(origin, at, head, (epoch, tag), &raw.head, body, gone)?;
            }
            ChangeKind::Snapshot { epoch } => self.apply_snapshot(origin, at, epoch, &raw.head, body, gone)?,
            ChangeKind::Drop {} => self.apply_drop(origin, at, gone)?,
            ChangeKind::AuditHead { count, hash } => {
                if !gone.is_empty() {
                    return rule("how far an audit log goes supersedes nothing");
                }
                self.note_audit_head(at, AuditHead { count: *count, hash: *hash })?;
            }
            ChangeKind::InviteDevice { ticket, expires } => {
                self.apply_device_invitation(origin, at, ticket, *expires)?;
            }
            ChangeKind::Device { ticket, user, device, certificate, user_key, proof } => {
                let proof = proof.as_ref();
                self.apply_device(origin, at, &Admitted { ticket, user, device, certificate, user_key, proof })?;
            }
            ChangeKind::UserKey { user, certificate, sealed } => {
                self.apply_user_key(origin, at, user, certificate, sealed)?;
            }
            ChangeKind::Withdraw { ticket } => self.apply_withdrawal(origin, at, ticket)?,
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of one change")]
    fn apply_birth(
        &mut self,
        origin: &Origin,
        at: ValueRef,
        place: Birthplace,
        kind: NodeKind,
        access: &AccessHead,
        raw: &RawChange,
        body: Body<'_>,
    ) -> Result<()> {
        let root = origin.volume == VolumeId::ZERO && place.seq == 1;
        if !root && access.owner != origin.user {
            return rule("a birth whose owner is not its author");
        }
        if access.generation != FIRST_GENERATION {
            return rule("a birth of another generation");
        }
        if !agrees(access) {
            return rule(DISAGREES);
        }
        let id = if root { NodeId::ROOT } else { place.node(&raw.head, &raw.body) };
        // (What is born here has a key that nothing had before, and what is born in a log that never forked stands at a
        // place where nothing else can have stood.)
        let alone = origin.local || self.branches_of(&origin.device, origin.log).len() == 1;
        if !alone && let Some(ino) = self.ino_of_node(&id)? {
            // On both branches of a forked log, word for word: one node, and a first access value from each.
            let mut node = self.node(ino)?;
            node.born.push(at);
            let value = self.birth_body(origin, at, &node, access, raw, body);
            let value = shown_access(access, value.map(|b| b.access), &node);
            self.replace(&mut node.access, &[], Some(Value { at, count: origin.count, value: Some(value) }))?;
            self.put_node(ino, node);
            return Ok(());
        }
        let ino = if root { Ino::ROOT } else { self.allocate_ino() };
        let mut node = Box::new(Node {
            id,
            kind,
            rdev: 0,
            target: Vec::new(),
            born: vec![at],
            owner: access.owner,
            btime: origin.time,
            keys: Vec::new(),
            access: Vec::new(),
            meta: Vec::new(),
            xattrs: Vec::new(),
            content: Vec::new(),
            links: Vec::new(),
            ctime: origin.time,
            mtime: origin.time,
            entry_change: None,
            subdirs: 0,
            merged_into: None,
            merged: Vec::new(),
            hung_at: None,
            views: Vec::new(),
            since: 0,
            spilled: Spilled::default(),
        });
        // The key of what is made here is at hand.
        let made_here = self.overlay.bearing.take();
        match made_here {
            Some(key) => node.keys.push((FIRST_GENERATION, key)),
            None => drop(node.learn(self.node_keys_by(access))),
        }
        let opened = self.birth_body(origin, at, &node, access, raw, body).map(|b| {
            node.btime = b.access.time;
            node.rdev = b.rdev;
            node.target = b.target;
            b.access
        });
        let value = Some(shown_access(access, opened, &node));
        node.ctime = node.btime;
        node.mtime = node.btime;
        node.access.push(Value { at, count: origin.count, value });
        self.set_ino_of_node(&id, ino);
        self.put_node(ino, node);
        self.overlay.nodes_made += 1;
        self.overlay.open_births += u64::from(origin.local);
        Ok(())
    }

    /// What a birth says under the key of its node, if it makes sense.
    fn birth_body(
        &self,
        origin: &Origin,
        at: ValueRef,
        node: &Node,
        access: &AccessHead,
        raw: &RawChange,
        body: Body<'_>,
    ) -> Option<BirthBody> {
        let body: Option<BirthBody> = self.open_of((origin, at.index, &raw.head), (node, access.generation), body);
        body.filter(|b| b.target.len() <= TARGET_MAX && !b.target.contains(&0))
    }

    /// Sets what shows as modification time: the content's own (a directory's last change of an
    /// entry) unless a time was set by hand by someone who had seen that.
    pub(crate) fn set_mtime(&mut self, node: &mut Node) -> Result<()> {
        let own = match node.kind {
            NodeKind::Directory => node.entry_change.map(|(at, _, time)| (at, time)),
            _ => node.content.last().and_then(|v| v.value.as_ref().map(|c| (v.at, c.mtime))),
        };
        let set = node.meta.last().and_then(|v| v.value.as_ref().and_then(|m| m.mtime).map(|mtime| (v.at, mtime)));
        node.mtime = match (own, set) {
            (None, None) => node.btime,
            (Some((_, time)), None) | (None, Some((_, time))) => time,
            (Some((own, time)), Some((set, mtime))) => {
                if self.value_covers(set, own)? {
                    mtime
                } else {
                    time
                }
            }
        };
        Ok(())
    }

    /// Notes in a directory that one of its entries changed.
    fn entries_changed(&mut self, origin: &Origin, directory: Ino, at: ValueRef, time: Timestamp) -> Result<()> {
        let mut node = self.taken_node(directory)?;
        let newest = match node.entry_change {
            Some((old, count, _)) => self.rank((old, count), (at, origin.count))? == Ordering::Less,
            None => true,
        };
        if newest {
            node.entry_change = Some((at, origin.count, time));
        }
        Self::touch(&mut node, origin, time);
        self.set_mtime(&mut node)?;
        self.put_node(directory, node);
        let shown = self.canonical(directory)?;
        self.changed(Changed::Attributes(shown));
        Ok(())
    }

    pub(crate) fn changed(&mut self, what: Changed) {
        if self.overlay.changed.last() != Some(&what) {
            self.overlay.changed.push(what);
        }
    }

    // ---- membership

    pub(crate) fn invite(&self, ticket: &crypto::PublicKey) -> Option<InviteRow> {
        let fresh = self.overlay.members.iter().rev().find_map(|row| match row {
            MemberRow::Invite(row) if row.ticket == *ticket => Some(row.clone()),
            _ => None,
        });
        fresh.or_else(|| self.members.invites.get(ticket).cloned())
    }

    /// Whether who made a change had seen the ticket's invitation for this role. Others that came here since, or before,
    /// and that they had not seen, say nothing of it.
    fn knew_invitation(&mut self, invite: &InviteRow, origin: &Origin, role: Role) -> Result<bool> {
        for (_, _, at) in invite.all().filter(|(invited, ..)| *invited == role) {
            if origin.local || self.covers(origin.dot, at.dot)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(crate) fn user_row(&self, user: &UserId) -> Option<UserRow> {
        self.user_now(user).cloned()
    }

    fn owner_being_founded(&self) -> Option<UserId> {
        self.overlay.members.iter().find_map(|row| match row {
            MemberRow::User(row) => Some(row.public.id()),
            _ => None,
        })
    }

    fn admit_rows(
        &mut self,
        origin: &Origin,
        at: ValueRef,
        role: Role,
        user: &crypto::UserPublic,
        device: &crypto::DevicePublic,
        name: String,
    ) -> Result<()> {
        // Admins apart may admit one joiner twice (the answer of the first was lost): either
        // admission holds for what is judged by it, the lesser one says name, role and whose the device is.
        let old = self.members.users.get(&user.id()).map(|u| (u.granted, u.count));
        let stands = match old {
            Some(old) => self.rank(old, (at, origin.count))? == Ordering::Greater,
            None => true,
        };
        if stands {
            let known = self.user_row(&user.id());
            let standings = known.map(|known| known.standings).unwrap_or_default();
            let row =
                UserRow { public: *user, name, role, granted: at, count: origin.count, standings, removed: false };
            self.overlay.members.push(MemberRow::User(row));
        }
        self.admit_device(origin, at, &user.id(), device)
    }

    /// Notes the admission of a device.
    pub(crate) fn admit_device(
        &mut self,
        origin: &Origin,
        at: ValueRef,
        user: &UserId,
        device: &crypto::DevicePublic,
    ) -> Result<()> {
        let mut row = match self.device_row(&device.id) {
            Some(row) => row,
            None => DeviceRow {
                public: *device,
                user: *user,
                granted: Vec::new(),
                admitted: origin.time,
                expelled: Vec::new(),
                removed: false,
            },
        };
        let mut least = true;
        for old in row.granted.clone() {
            let count = self.commit_info(old.dot)?.count;
            least &= self.rank((old, count), (at, origin.count))? == Ordering::Greater;
        }
        if least {
            row.user = *user;
        }
        row.granted.push(at);
        self.overlay.members.push(MemberRow::Device(row));
        Ok(())
    }

    /// The key of an epoch from what was sealed to this user, or this device.
    pub(crate) fn unseal_epoch(&self, epoch: &EpochId, sealed: &[SealedKey]) -> Option<DerivingKey> {
        sealed.iter().filter(|s| s.epoch == *epoch).find_map(|s| self.unseal(s)).map(Into::into)
    }
}

pub(crate) fn decode<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    commit::decode("stored change", bytes).map_err(|e: Malformed| Error::Damaged(e.to_string()))
}

/// Whether this can be an entry's name.
pub(crate) fn is_name(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() <= NAME_MAX
        && name != b"."
        && name != b".."
        && !name.contains(&b'/')
        && !name.contains(&0)
}

/// Whether a change may make another user or device of somebody, or tell of keys.
fn is_of_members(kind: &ChangeKind) -> bool {
    use ChangeKind::{Device, Epoch, Expel, Grant, Keys, Standing, Watch};
    matches!(
        kind,
        Standing { .. } | Expel { .. } | Grant { .. } | Device { .. } | Epoch { .. } | Keys { .. } | Watch { .. }
    )
}

/// Whether this can be an extended attribute's name. (ACLs are a part of access values.)
pub(crate) fn is_xattr_name(name: &[u8]) -> bool {
    let fits = !name.is_empty() && name.len() <= XATTR_NAME_MAX && !name.contains(&0);
    fits && name != acl::ACCESS && name != acl::DEFAULT
}

/// An access value as a node's row has it; nobody judges by its sealed part.
pub(crate) fn shown_access(head: &AccessHead, body: Option<AccessBody>, node: &Node) -> Access {
    let opened = match (&body, node.keys_of(head.generation).next()) {
        (Some(_), _) => Opened::Yes,
        (None, None) => Opened::Sealed,
        (None, Some(_)) => Opened::Damaged,
    };
    let (mode, uid, gid, acl, default_acl) =
        body.map_or_else(Default::default, |body| (body.mode & 0o7777, body.uid, body.gid, body.acl, body.default_acl));
    Access {
        owner: head.owner,
        realm: head.realm,
        grants: head.grants.clone(),
        judged_mode: head.mode,
        generation: head.generation,
        mode,
        uid,
        gid,
        acl: ByteBuf::from(acl),
        default_acl: ByteBuf::from(default_acl),
        opened,
    }
}

/// What the register keeps of a content value; `None` when head and body don't agree.
pub(crate) fn content_value(generation: u32, root: &BlockHash, blocks: u64, body: ContentBody) -> Option<ContentValue> {
    body.content.validate().ok()?;
    let tree = match &body.content.data {
        ContentData::Inline(_) if *root == BlockHash::ZERO && blocks == 0 => None,
        ContentData::Tree { root: r, blocks: b } if r == root && *b == blocks => Some((*root, blocks)),
        _ => return None,
    };
    Some(ContentValue {
        size: body.content.size,
        allocated: body.content.allocated,
        mtime: body.mtime,
        tree,
        generation,
        keys: body.keys,
    })
}
