//! Commits of who was removed and pretends not to have heard, or does not care; and of who changes what is beyond their rank
//! or belongs to others.

use std::collections::BTreeSet;

use crypto::{DeviceId, DeviceKeys, Label};
use volume::{
    Role,
    commit::{ChangeKind, ClaimedCommit, Commit, commit_hash, encode},
    id::{CommitHash, NodeId, RealmId, ValueId},
};

use super::{Draft, Forger, Joiner, Values, frontier};
use crate::model::Change;

/// What of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Apart {
    Unheard,
    Backdated,
    Certified,
    OldEpoch,
    Rank,
    Access,
}

pub(crate) const APART: [(Apart, &str); 6] = [
    (Apart::Unheard, "forged: by who was removed and has not heard"),
    (Apart::Backdated, "forged: by who was removed, of before that"),
    (Apart::Certified, "forged: a device let in by one that was removed"),
    (Apart::OldEpoch, "forged: by who was removed, under an old key"),
    (Apart::Rank, "forged: a grant or removal beyond its author's rank"),
    (Apart::Access, "forged: who may use another's node"),
];

impl Apart {
    /// Whether what its author had seen allows it: then only the removal tells.
    pub(crate) fn is_late(self) -> bool {
        matches!(self, Apart::Unheard | Apart::Backdated | Apart::Certified)
    }

    /// What it names anything.
    fn name(self) -> &'static [u8] {
        if self.is_late() { LATE } else { super::FORBIDDEN }
    }
}

/// What only those name anything who pretend not to have heard.
pub(crate) const LATE: &[u8] = b"unheard";
/// By how much somebody dates a commit back: a year.
const BACK: i64 = 365 * 86_400;
/// What a device gets with its admission; nothing that opens.
const NO_KEYS: usize = 84;

impl Forger<'_> {
    /// The commits by which the author of some was removed.
    fn removals(&self, author: &Joiner) -> Vec<CommitHash> {
        let removes = |c: &Change<'_>| match c.head.kind {
            ChangeKind::Standing { user, role: None } => user == author.user_id(),
            ChangeKind::Expel { device } => device == author.id(),
            _ => false,
        };
        self.history.changes().filter(removes).map(|c| c.id().commit).collect()
    }

    /// Whether anything here removes them.
    pub(crate) fn is_removed(&self, author: &Joiner) -> bool {
        !self.removals(author).is_empty()
    }

    /// What somebody knows who has not heard of their removal, if they know anything.
    fn before_removal(&self, author: &Joiner) -> Option<Vec<&Commit>> {
        let removals = self.removals(author);
        let admission = self.history.admission(author.id())?;
        let unaware = |c: &&&Commit| removals.iter().all(|removal| !self.history.knew(c.hash, *removal));
        let past: Vec<&Commit> = self.history.commits().iter().filter(unaware).copied().collect();
        (!removals.is_empty() && past.iter().any(|c| c.hash == admission)).then_some(past)
    }

    /// The contents of a file to who knows these alone.
    fn contents_within(&self, of: NodeId, past: &BTreeSet<CommitHash>) -> Values {
        let known = || self.history.changes().filter(|c| past.contains(&c.id().commit));
        let gone: BTreeSet<ValueId> = known().flat_map(|c| c.supersedes().collect::<Vec<_>>()).collect();
        let here = |c: &Change<'_>| matches!(c.head.kind, ChangeKind::Content { node, .. } if node == of);
        known().filter(|c| here(c) && !gone.contains(&c.id())).map(|c| c.id()).collect()
    }

    /// Such commits, in their order. `bytes` are a content that must not show.
    pub(crate) fn apart(&self, author: &Joiner, what: Apart, bytes: &[u8]) -> Option<Vec<ClaimedCommit>> {
        let mut draft = self.draft(author, false);
        draft.name = what.name();
        let (time, me) = (self.time, draft.user);
        match what {
            Apart::Unheard | Apart::Backdated => {
                let past = self.before_removal(author)?;
                let names: BTreeSet<CommitHash> = past.iter().map(|c| c.hash).collect();
                let mut time = time;
                if what == Apart::Backdated {
                    time.secs -= BACK;
                }
                draft.birth(me, time, bytes);
                let born = |node: &NodeId| names.contains(&self.history.births()[node][0].id().commit);
                let files = self.nodes(volume::NodeKind::File).into_iter().filter(born).collect::<Vec<_>>();
                if let Some(file) = self.lot.pick(&files).copied().filter(|_| self.lot.chance(400)) {
                    draft.content(file, self.contents_within(file, &names), bytes, time);
                }
                let commit = self.sign_as(draft, false, frontier(&past), |header| {
                    header.time = time;
                    Some(())
                })?;
                Some(vec![commit])
            }
            Apart::Certified => {
                let past = self.before_removal(author)?;
                let device = DeviceKeys::generate(self.lot);
                self.certify(&mut draft, author, &device)?;
                let admission = self.sign(draft, false, frontier(&past))?;
                let next = Joiner::of("certified", &device, &author.user());
                let mut draft = self.draft(&next, false);
                draft.name = what.name();
                draft.birth(me, time, bytes);
                let count = volume::commit::decode::<volume::commit::Header>("header", &admission.header).ok()?.count;
                let commit = self.sign_as(draft, false, frontier(&past), |header| {
                    header.observed = vec![commit_hash(&admission.header)];
                    header.count = count + 1;
                    Some(())
                })?;
                Some(vec![admission, commit])
            }
            Apart::OldEpoch => {
                if !self.is_removed(author) {
                    return None;
                }
                draft.birth(me, time, bytes);
                Some(vec![self.sign(draft, false, frontier(self.history.commits()))?])
            }
            Apart::Rank => {
                let founder = self.history.author(self.history.commits().first()?.hash)?.0;
                let others: Vec<_> = self.history.members().into_iter().filter(|(user, _)| *user != me).collect();
                let (user, (_, devices)) = match self.history.role_to_lie(author.id())?.may_admit() {
                    true => others.into_iter().find(|(user, _)| *user == founder)?,
                    false => self.lot.pick(&others)?.clone(),
                };
                let role = self.lot.pick(&[None, Some(Role::Reader), Some(Role::Admin)]).copied().flatten();
                let devices: Vec<DeviceId> = devices.into_iter().collect();
                draft.birth(me, time, bytes);
                draft.bare(match self.lot.pick(&devices).filter(|_| self.lot.chance(300)) {
                    Some(device) => ChangeKind::Expel { device: *device },
                    None => ChangeKind::Standing { user, role },
                });
                Some(vec![self.sign(draft, false, frontier(self.history.commits()))?])
            }
            Apart::Access => {
                if self.history.role_to_lie(author.id())? >= Role::Admin || self.history.standing(author.id())?.0 != me
                {
                    return None;
                }
                let others: Vec<NodeId> =
                    self.keyed().into_iter().filter(|node| self.owner(*node) != Some(me)).collect();
                let node = *self.lot.pick(&others)?;
                let mut head = draft.access(self.owner(node)?, &draft.key(node));
                (head.mode, head.grants, head.realm) = (0o640, vec![(me, 6)], RealmId::MEMBERS);
                draft.birth(me, time, bytes);
                draft.set_access(node, self.access(node), head, time);
                Some(vec![self.sign(draft, false, frontier(self.history.commits()))?])
            }
        }
    }

    /// Whose a node was at first.
    fn owner(&self, node: NodeId) -> Option<crypto::UserId> {
        match &self.history.births()[&node][0].head.kind {
            ChangeKind::Birth { access, .. } => Some(access.owner),
            _ => None,
        }
    }

    /// Lets a device in that is the author's own.
    fn certify(&self, draft: &mut Draft<'_>, author: &Joiner, device: &DeviceKeys) -> Option<()> {
        let user = author.user();
        let ticket = crypto::SigningKeys::from_seed(crypto::random_array(self.lot)).public();
        let expires = Some(volume::Timestamp { secs: 4_000_000_000, nanos: 0 });
        draft.bare(ChangeKind::InviteDevice { ticket, expires });
        let certificate = user.signing.as_ref()?.sign(Label::DeviceCertificate, &encode(&device.public()));
        draft.bare(ChangeKind::Device {
            ticket,
            user: user.id(),
            device: device.public(),
            certificate,
            user_key: vec![0; NO_KEYS],
            proof: None,
        });
        Some(())
    }
}
