//! Whether a change is allowed: the same question for a call of this device, and for a commit of anybody.
//!
//! Owns what each kind of change needs of which node, and what an author's own past says of that. A commit with a change
//! that its author knew it may not make is *void* as a whole, for everybody and for good (`docs/format.md`, "Who may").
//!
//! Invariant: nothing here looks at anything but commits and what their authors had seen, so all replicas judge alike,
//! with the keys or without.

use std::collections::{BTreeMap, BTreeSet};

use crypto::UserId;

use crate::{
    apply::{Origin, decode},
    commit::{AccessHead, ChangeKind, Head},
    core::Core,
    error::{Error, Result},
    id::{LinkId, NodeId, RealmId},
    member::Role,
    node::Ino,
    rights::{ALL, WRITE, bits_of},
    row::{NodeRow, Place},
    standing::Within,
    version::{Dot, ValueRef},
};

/// Removals that are followed back to a place.
const MAX_BACK: usize = 256;

/// What a change needs.
enum Needs {
    /// Nothing that a node could deny.
    Nothing,
    /// To write these.
    Write(Vec<Ino>),
    /// To decide about this one, or to leave it to the same users.
    Access(Ino, AccessHead),
}

/// The clear part of an access value that counts for rights.
#[derive(Clone, PartialEq)]
struct Judged {
    owner: UserId,
    realm: RealmId,
    mode: u16,
    grants: Vec<(UserId, u8)>,
}

impl Judged {
    fn bits(&self, user: &UserId) -> u8 {
        bits_of(&self.owner, self.mode, &self.grants, user)
    }

    fn says(&self, head: &AccessHead) -> bool {
        (self.owner, self.realm, self.mode) == (head.owner, head.realm, head.mode) && self.grants == head.grants
    }
}

impl From<AccessHead> for Judged {
    fn from(head: AccessHead) -> Self {
        Judged { owner: head.owner, realm: head.realm, mode: head.mode, grants: head.grants }
    }
}

/// Whether somebody may do what `needs` says of one node, by these of its access values.
fn may_write(values: &[Judged], user: &UserId) -> bool {
    values.iter().fold(ALL, |left, value| left & value.bits(user)) & WRITE != 0
}

impl Core {
    /// # Errors
    /// [`Error::Denied`] and [`Error::NotPermitted`] for a change of the running call that its user may not make.
    pub(crate) fn check_allowed(&mut self, origin: &Origin, kind: &ChangeKind, gone: &[ValueRef]) -> Result<()> {
        if self.is_founding() || self.allows(origin, kind, gone)? {
            return Ok(());
        }
        match kind {
            ChangeKind::Access { .. } => Err(Error::NotPermitted),
            _ => Err(Error::Denied),
        }
    }

    /// Whether a change, which supersedes `gone`, is allowed by what its author had seen.
    pub(crate) fn allows(&mut self, origin: &Origin, kind: &ChangeKind, gone: &[ValueRef]) -> Result<bool> {
        match self.needs(kind, gone)? {
            Needs::Nothing => Ok(true),
            Needs::Write(nodes) => {
                for ino in nodes {
                    let writes = match self.has_seen_access(origin, ino)? {
                        true => self.with_node(ino, |n| n.rights_of(&origin.user))? & WRITE != 0,
                        false => may_write(&self.seen_access(origin, ino)?, &origin.user),
                    };
                    if !writes {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            Needs::Access(ino, head) => {
                let seen = self.seen_access(origin, ino)?;
                let owns = seen.last().is_some_and(|shown| shown.owner == origin.user);
                let leaves_it = seen.iter().all(|value| value.says(&head));
                Ok(owns || origin.role >= Role::Admin || leaves_it && may_write(&seen, &origin.user))
            }
        }
    }

    /// Whether an access value that is concurrent with the change at `at` denies it to its author: one that its author had
    /// not seen, by somebody who had not seen the change. Access values among themselves stand beside each other. Of what the
    /// author of the commit `to` had seen this is told as they knew it.
    pub(crate) fn node_denies(&mut self, at: ValueRef, head: &Head, author: &UserId, to: Option<Dot>) -> Result<bool> {
        let gone = self.values_of(at.dot, &head.supersedes)?;
        let nodes = match self.needs(&head.kind, &gone)? {
            Needs::Nothing => return Ok(false),
            Needs::Write(nodes) => nodes,
            // Those who decide about a node stand beside each other; who only may write has it as it was.
            Needs::Access(ino, head) => {
                let device = self.branch_of(at.dot)?.device;
                let (_, role) = self.standing(&device, at.dot, Within::Seen(at.dot))?;
                let mut decides = role.is_some_and(Role::may_admit);
                for before in &gone {
                    let before = self.access_at(*before)?;
                    decides = decides || before.owner == *author || !before.says(&head);
                }
                if decides {
                    return Ok(false);
                }
                vec![ino]
            }
        };
        for ino in nodes {
            for value in self.access_unseen(at.dot, ino)? {
                let counts = match to {
                    None => !self.is_void(value)?,
                    Some(to) => {
                        let known = self.covers(to, value.dot)? && !self.is_forbidden_commit(value.dot)?;
                        known && !self.was_late_to(value.dot, to)?
                    }
                };
                if !counts || self.covers(value.dot, at.dot)? {
                    continue;
                }
                if self.access_at(value)?.bits(author) & WRITE == 0 {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    fn is_founding(&self) -> bool {
        self.volume == crypto::VolumeId::ZERO
    }

    /// Whether a commit never counted for anybody. (One that is late counts here: whether it is may change.)
    fn is_forbidden_commit(&mut self, dot: Dot) -> Result<bool> {
        Ok(!self.is_pending(dot) && self.commit_info(dot)?.void)
    }

    /// The access values of a node in late commits: the row doesn't lead to them.
    pub(crate) fn late_access_of(&mut self, ino: Ino) -> Result<Vec<ValueRef>> {
        if self.late.is_empty() && self.late_values.is_empty() {
            return Ok(Vec::new());
        }
        if self.late_access.is_none() {
            let mut found: BTreeMap<NodeId, Vec<ValueRef>> = BTreeMap::new();
            let mut dots = self.late.clone();
            dots.extend(self.late_values.iter().map(|at| at.dot));
            for dot in dots {
                for (at, raw) in self.changes_in(dot)? {
                    if !self.is_late_value(&at) {
                        continue;
                    }
                    if let ChangeKind::Access { node, .. } = decode::<Head>(&raw.head)?.kind {
                        found.entry(node).or_default().push(at);
                    }
                }
            }
            self.late_access = Some(found);
        }
        let id = self.with_node(ino, |n| n.id)?;
        Ok(self.late_access.as_ref().and_then(|found| found.get(&id)).cloned().unwrap_or_default())
    }

    fn needs(&mut self, kind: &ChangeKind, gone: &[ValueRef]) -> Result<Needs> {
        let write = |nodes: &[Option<Ino>]| Needs::Write(nodes.iter().copied().flatten().collect());
        Ok(match kind {
            ChangeKind::Content { node, .. }
            | ChangeKind::Meta { node, .. }
            | ChangeKind::Xattr { node, .. }
            | ChangeKind::Settle { node } => write(&[self.ino_of_node(node)?]),
            ChangeKind::Place { link, child, parent, .. } => {
                let mut nodes: Vec<Ino> = self.ino_of_node(parent)?.into_iter().collect();
                if let Some(link) = link {
                    self.add_parents(child, link, gone, &mut nodes)?;
                }
                Needs::Write(nodes)
            }
            ChangeKind::Removal { link, child, .. } => {
                let mut nodes = Vec::new();
                self.add_parents(child, link, gone, &mut nodes)?;
                Needs::Write(nodes)
            }
            ChangeKind::Access { node, access } => match self.ino_of_node(node)? {
                Some(ino) => Needs::Access(ino, access.clone()),
                None => Needs::Nothing,
            },
            ChangeKind::Birth { .. }
            | ChangeKind::Genesis { .. }
            | ChangeKind::Epoch { .. }
            | ChangeKind::Invite { .. }
            | ChangeKind::Grant { .. }
            | ChangeKind::Keys { .. }
            | ChangeKind::Watch { .. }
            | ChangeKind::Standing { .. }
            | ChangeKind::Expel { .. }
            | ChangeKind::InviteDevice { .. }
            | ChangeKind::Device { .. }
            | ChangeKind::UserKey { .. }
            | ChangeKind::Withdraw { .. }
            | ChangeKind::Name {}
            | ChangeKind::Setting { .. }
            | ChangeKind::Snapshot { .. }
            | ChangeKind::AuditHead { .. }
            | ChangeKind::Drop {} => Needs::Nothing,
        })
    }

    /// Adds the directories that superseded values of a link name. A removal names those of what it superseded in turn: who
    /// removes what came back for an edit removes it from there.
    fn add_parents(&mut self, child: &NodeId, link: &LinkId, gone: &[ValueRef], nodes: &mut Vec<Ino>) -> Result<()> {
        let mut live = None;
        if let Some(ino) = self.ino_of_node(child)?
            && let Some(NodeRow::Node(node)) = self.row(ino)?.as_deref()
        {
            live = self.link_of(ino, node, link)?;
        }
        let mut todo: Vec<ValueRef> = gone.to_vec();
        let mut seen: BTreeSet<ValueRef> = BTreeSet::new();
        while let Some(at) = todo.pop() {
            if seen.len() >= MAX_BACK || !seen.insert(at) {
                continue;
            }
            let value = live.as_ref().and_then(|link| link.values.iter().find(|v| v.at == at));
            let parent = match value.and_then(|v| v.value.as_ref()) {
                Some(Place::In { parent, .. }) => Some(*parent),
                _ => {
                    if self.is_forbidden_commit(at.dot)? {
                        continue;
                    }
                    let head: Head = decode(&self.named(at)?.head)?;
                    match head.kind {
                        ChangeKind::Place { parent, .. } => self.ino_of_node(&parent)?,
                        ChangeKind::Removal { .. } => {
                            todo.extend(self.values_of(at.dot, &head.supersedes)?);
                            None
                        }
                        _ => None,
                    }
                }
            };
            nodes.extend(parent.filter(|parent| !nodes.contains(parent)));
        }
        Ok(())
    }

    /// Whether a commit's author had seen all live access values of a node: then these are the ones that count.
    fn has_seen_access(&mut self, origin: &Origin, ino: Ino) -> Result<bool> {
        let row = self.present_row(ino)?;
        let Some(NodeRow::Node(node)) = row.as_deref().filter(|_| !origin.local) else { return Ok(true) };
        for value in &node.access {
            if !self.covers(origin.dot, value.at.dot)? {
                return Ok(false);
            }
        }
        // What is late isn't live here, and counts where nobody knows that yet.
        Ok(self.late_access_of(ino)?.is_empty())
    }

    /// The access values of a node that count by what a commit's author had seen: those that nothing superseded which they
    /// had seen, too. The greatest is the last.
    fn seen_access(&mut self, origin: &Origin, ino: Ino) -> Result<Vec<Judged>> {
        let all_seen = self.has_seen_access(origin, ino)?;
        let row = self.present_row(ino)?;
        let Some(NodeRow::Node(node)) = row.as_deref() else { return Ok(Vec::new()) };
        if all_seen {
            let mut found = Vec::with_capacity(node.access.len());
            for value in &node.access {
                found.push(match &value.value {
                    Some(access) => Judged {
                        owner: access.owner,
                        realm: access.realm,
                        mode: access.judged_mode,
                        grants: access.grants.clone(),
                    },
                    None => self.access_at(value.at)?,
                });
            }
            return Ok(found);
        }
        let mut values: Vec<ValueRef> = Vec::new();
        // Back from what is live now, to what was when they wrote.
        let mut todo: Vec<ValueRef> = node.access.iter().map(|v| v.at).collect();
        todo.extend(self.late_access_of(ino)?);
        let mut visited: BTreeSet<ValueRef> = BTreeSet::new();
        while let Some(at) = todo.pop() {
            if !visited.insert(at) {
                continue;
            }
            // One that its author knew to be late counts for them no more than here.
            let void = self.is_forbidden_commit(at.dot)? || self.was_late_to(at.dot, origin.dot)?;
            if !void && self.covers(origin.dot, at.dot)? {
                values.push(at);
            } else {
                todo.extend(self.superseded_by(at)?);
            }
        }
        // Who names an older value beside a newer one brings in both.
        let mut older: BTreeSet<ValueRef> = BTreeSet::new();
        for at in values.clone() {
            let mut todo = self.superseded_by(at)?;
            while let Some(before) = todo.pop() {
                if older.insert(before) && values.len() > 1 {
                    todo.extend(self.superseded_by(before)?);
                }
            }
        }
        values.retain(|at| !older.contains(at));
        let mut ranked: Vec<(ValueRef, u64)> = Vec::with_capacity(values.len());
        for at in values {
            let new = (at, self.count_of(at)?);
            let mut place = ranked.len();
            while place > 0 && self.rank(ranked[place - 1], new)?.is_gt() {
                place -= 1;
            }
            ranked.insert(place, new);
        }
        ranked.into_iter().map(|(at, _)| self.access_at(at)).collect()
    }

    /// The access values of a node that the author of a commit had not seen.
    fn access_unseen(&mut self, by: Dot, ino: Ino) -> Result<BTreeSet<ValueRef>> {
        let mut todo = self.with_node(ino, |n| n.access.iter().map(|v| v.at).collect::<Vec<_>>())?;
        todo.extend(self.late_access_of(ino)?);
        let mut found = BTreeSet::new();
        while let Some(at) = todo.pop() {
            // Who had seen it had seen what it superseded.
            if !self.covers(by, at.dot)? && found.insert(at) {
                todo.extend(self.superseded_by(at)?);
            }
        }
        Ok(found)
    }

    /// The clear part of a stored access value.
    fn access_at(&mut self, at: ValueRef) -> Result<Judged> {
        let head: Head = decode(&self.change(at)?.head)?;
        match head.kind {
            ChangeKind::Birth { access, .. } | ChangeKind::Access { access, .. } => Ok(access.into()),
            _ => Err(Error::damaged("an access value")),
        }
    }
}
