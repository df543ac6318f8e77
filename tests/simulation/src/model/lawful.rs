//! Which commits no honest replica takes in: the rules that need the volume's state, by the naivest means.

use crypto::{UserId, VolumeId};
use volume::{
    NodeKind,
    commit::{ChangeKind, Commit},
    id::{CommitHash, LinkId, NodeId, RealmId, ValueId},
    member::Role,
};

use super::history::{Change, History};

/// What a value belongs to: values of one register supersede each other.
#[derive(PartialEq, Eq)]
enum Register {
    Access(NodeId),
    Meta(NodeId),
    Xattr(NodeId, NodeId),
    Content(NodeId),
    Place(LinkId),
    Setting(NodeId),
    Snapshot(ValueId),
    Standing(UserId),
    Other,
}

fn register(change: &Change<'_>) -> Register {
    match change.head.kind {
        ChangeKind::Birth { .. } => Register::Access(change.born()),
        ChangeKind::Access { node, .. } => Register::Access(node),
        ChangeKind::Meta { node, .. } => Register::Meta(node),
        ChangeKind::Xattr { node, tag, .. } => Register::Xattr(node, tag),
        ChangeKind::Content { node, .. } | ChangeKind::Settle { node } => Register::Content(node),
        ChangeKind::Place { link, .. } => Register::Place(change.link(link)),
        ChangeKind::Removal { link, .. } => Register::Place(link),
        ChangeKind::Setting { tag, .. } => Register::Setting(tag),
        ChangeKind::Snapshot { .. } => Register::Snapshot(change.id()),
        ChangeKind::Genesis { ref user, .. } | ChangeKind::Grant { ref user, .. } => Register::Standing(user.id()),
        ChangeKind::Standing { user, .. } => Register::Standing(user),
        ChangeKind::Drop {} => change.supersedes().next().map_or(Register::Other, Register::Snapshot),
        _ => Register::Other,
    }
}

impl<'a> History<'a> {
    /// What some commit here does that none may do.
    pub fn broken_rule(&self) -> Option<String> {
        let stranger = self.commits().iter().find(|c| self.author(c.hash).is_none());
        if let Some(commit) = stranger {
            return Some(format!("commit {}: its author was no member", commit.hash.short()));
        }
        if let Some((commit, broken)) = self.commits().iter().find_map(|c| Some((c, self.misplaced(c)?))) {
            return Some(format!("commit {}: {broken}", commit.hash.short()));
        }
        self.changes().find_map(|change| {
            let broken = self.broken_by(&change)?;
            Some(format!("commit {}, change {}: {broken}", change.id().commit.short(), change.index))
        })
    }

    /// What the header of a commit says wrongly of its place.
    fn misplaced(&self, commit: &Commit) -> Option<&'static str> {
        let header = &commit.header;
        let seen = |hash: &CommitHash| self.commit(*hash);
        let prev = seen(&header.prev).map(|c| &c.header);
        let count = header.observed.iter().chain([&header.prev]).filter_map(seen).map(|c| c.header.count).max();
        let follows =
            prev.is_none_or(|prev| (prev.device, prev.log, prev.seq + 1) == (header.device, header.log, header.seq));
        if header.count != count.unwrap_or(0) + 1 {
            Some("its count is not one more than the greatest seen")
        } else if !follows || prev.is_none() != (header.seq == 1) {
            Some("it does not follow the one before it in its log")
        } else if header.volume != self.volume() && header.volume != VolumeId::ZERO {
            Some("it is of another volume")
        } else {
            None
        }
    }

    /// The birth of a node, if who made `change` had seen it.
    fn birth(&self, change: &Change<'_>, node: NodeId) -> Option<Change<'a>> {
        let births = self.births().get(&node)?;
        births.iter().find(|c| c.id() != change.id() && self.saw(change.id(), c.id())).copied()
    }

    fn kind(&self, change: &Change<'_>, node: NodeId) -> Option<NodeKind> {
        match self.birth(change, node)?.head.kind {
            ChangeKind::Birth { kind, .. } => Some(kind),
            _ => None,
        }
    }

    fn broken_by(&self, change: &Change<'_>) -> Option<&'static str> {
        let at = change.id();
        let (user, role) = self.author(at.commit)?;
        let founding = change.header().volume == VolumeId::ZERO;
        let admits = founding || role >= Role::Admin;
        let breaks = |broken: bool, rule| Some(rule).filter(|_| broken);
        let own = match &change.head.kind {
            ChangeKind::Birth { kind, access } => {
                let places = |c: &Change<'_>| {
                    let made =
                        matches!(c.head.kind, ChangeKind::Place { link: None, child, .. } if child == change.born());
                    made && c.id().commit == at.commit
                };
                let placed = founding || *kind != NodeKind::Directory || self.changes().any(|c| places(&c));
                breaks(!founding && access.owner != user, "a birth for another user")
                    .or(breaks(access.generation != 1, "a birth of another generation"))
                    .or(breaks(!placed, "a directory without a place"))
            }
            ChangeKind::Access { node, access } => match self.birth(change, *node).map(|c| &c.head.kind) {
                Some(ChangeKind::Birth { .. }) => {
                    // Nothing is narrower than for all members in any story yet.
                    let narrow = (access.realm, access.mode) != (RealmId::MEMBERS, 0o660) || !access.grants.is_empty();
                    breaks(narrow, "an access value for others")
                        .or(breaks(change.supersedes().next().is_none(), "an access value that supersedes none"))
                }
                _ => Some("access of a node not seen"),
            },
            ChangeKind::Meta { node, .. } | ChangeKind::Xattr { node, .. } | ChangeKind::Settle { node } => {
                breaks(self.kind(change, *node).is_none(), "a change of a node not seen")
            }
            ChangeKind::Content { node, .. } => {
                breaks(self.kind(change, *node) != Some(NodeKind::File), "content of what is no file")
            }
            ChangeKind::Place { link, child, parent, .. } => self.broken_by_place(change, *link, *child, *parent),
            ChangeKind::Removal { link, child, .. } => self.broken_by_replacing(change, *link, *child),
            ChangeKind::Genesis { .. } => breaks(!founding, "a second genesis"),
            ChangeKind::Epoch { realm, sealed, .. } => {
                breaks(*realm != RealmId::MEMBERS && sealed.len() > 384, "an epoch for too many")
            }
            ChangeKind::Keys { .. } | ChangeKind::Watch { .. } | ChangeKind::Standing { .. } => None,
            ChangeKind::Expel { .. } => {
                breaks(change.supersedes().next().is_some(), "a removal of a device that supersedes")
            }
            ChangeKind::Invite { role, .. } => breaks(!admits || *role == Role::Owner, "an invitation by who may not"),
            ChangeKind::Grant { ticket, role, .. } => {
                let (said, asked) = (*role, *ticket);
                let invited = self.changes().any(|c| {
                    let fits = matches!(c.head.kind, ChangeKind::Invite { ticket, role, .. } if ticket == asked && role == said);
                    fits && self.saw(at, c.id())
                });
                breaks(!admits || !invited, "an admission without right or invitation")
            }
            ChangeKind::InviteDevice { .. } => None,
            ChangeKind::Device { ticket, user: of, device, proof, .. } => {
                let exported = proof.is_some();
                let invited = self.changes().any(|c| {
                    let fits = match c.head.kind {
                        ChangeKind::InviteDevice { ticket: other, expires } => {
                            other == *ticket && (!exported || expires.is_none())
                        }
                        _ => false,
                    };
                    fits && self.saw(at, c.id()) && self.author(c.id().commit).is_some_and(|(by, _)| by == *of)
                });
                let known = self.changes().any(|c| {
                    let before = c.id() != at && self.saw(at, c.id());
                    before
                        && match &c.head.kind {
                            ChangeKind::Genesis { device: other, .. }
                            | ChangeKind::Grant { device: other, .. }
                            | ChangeKind::Device { device: other, .. } => other.id == device.id,
                            _ => false,
                        }
                });
                breaks(!exported && *of != user || !invited, "another's device, or one without an invitation")
                    .or(breaks(known, "a device that is a member already"))
            }
            ChangeKind::UserKey { user: public, .. } => {
                let seen = self.changes().filter_map(|c| match &c.head.kind {
                    ChangeKind::UserKey { user: other, .. } if c.id() != at && self.saw(at, c.id()) => {
                        Some(other).filter(|other| other.id() == user).map(|other| other.generation)
                    }
                    _ => None,
                });
                let next = seen.max().unwrap_or(0).wrapping_add(1);
                breaks(public.id() != user || public.generation != next, "a key that is not its author's next")
            }
            ChangeKind::Withdraw { ticket } => {
                let invites = self.changes().filter(|c| {
                    let of = match c.head.kind {
                        ChangeKind::Invite { ticket, .. } | ChangeKind::InviteDevice { ticket, .. } => Some(ticket),
                        _ => None,
                    };
                    of == Some(*ticket) && self.saw(at, c.id())
                });
                let by: Vec<_> = invites.filter_map(|c| Some(self.author(c.id().commit)?.0)).collect();
                breaks(by.is_empty() || !admits && !by.contains(&user), "a withdrawal by who may not")
            }
            ChangeKind::Name {} => breaks(!founding, "another name"),
            ChangeKind::Setting { .. } => breaks(!admits, "a setting by who may not"),
            ChangeKind::AuditHead { .. } => {
                breaks(change.supersedes().next().is_some(), "an audit head that supersedes")
            }
            ChangeKind::Snapshot { .. } => breaks(change.supersedes().next().is_some(), "a snapshot that supersedes"),
            ChangeKind::Drop {} => match self.snapshot(change).filter(|of| self.counts(of)) {
                Some(of) => {
                    let maker = self.author(of.id().commit).map(|(maker, _)| maker);
                    breaks(!admits && maker != Some(user), "a removal of another's snapshot")
                }
                None => Some("a removal that is not of one snapshot"),
            },
        };
        own.or_else(|| {
            let mine = register(change);
            let fits = |old: ValueId| {
                let old = self.find(old).filter(|c| c.id() != at && self.saw(at, c.id()));
                old.is_some_and(|old| register(&old) == mine)
            };
            let mut all: Vec<ValueId> = change.supersedes().collect();
            all.extend(self.gone_by(change).iter().map(Change::id));
            breaks(all.into_iter().any(|old| !fits(old)), "superseding what is not seen or of another register")
        })
    }

    fn broken_by_place(
        &self,
        change: &Change<'_>,
        link: Option<LinkId>,
        child: NodeId,
        parent: NodeId,
    ) -> Option<&'static str> {
        let Some(kind) = self.kind(change, child) else { return Some("a place of a node not seen") };
        if self.kind(change, parent) != Some(NodeKind::Directory) {
            return Some("a place in what is no directory");
        }
        let supersedes = change.supersedes().next().is_some();
        let Some(link) = link else {
            let born_with = self.birth(change, child).is_some_and(|c| c.id().commit == change.id().commit);
            let others = self.changes().any(|c| {
                let same = matches!(c.head.kind, ChangeKind::Place { child: other, .. } if other == child);
                same && c.id().commit == change.id().commit && c.index < change.index
            });
            return match kind {
                _ if supersedes => Some("a new link that supersedes"),
                NodeKind::Directory if !born_with || others => Some("a second link to a directory"),
                _ => None,
            };
        };
        self.broken_by_replacing(change, link, child)
    }

    /// What breaks a rule in another place for a link, or in its removal.
    fn broken_by_replacing(&self, change: &Change<'_>, link: LinkId, child: NodeId) -> Option<&'static str> {
        if self.kind(change, child).is_none() {
            return Some("a removal of a node not seen");
        }
        let of_child = self.changes().any(|c| match c.head.kind {
            ChangeKind::Place { link: other, child: of, .. } => of == child && c.link(other) == link,
            _ => false,
        });
        match (self.replaces(change), of_child) {
            (false, _) => Some("a new place or removal that supersedes none"),
            (_, false) => Some("a place or removal of another node's link"),
            _ => None,
        }
    }

    /// Whether something that counts goes with what a change supersedes.
    fn replaces(&self, change: &Change<'_>) -> bool {
        self.gone_by(change).iter().any(|old| self.counts(old))
    }
}
