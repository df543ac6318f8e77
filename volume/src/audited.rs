//! What of a volume gets into its audit log: what processes of this machine do, and what arrives from peers.
//!
//! Paths are looked up as something happens, since names may be gone a moment later.

use std::{collections::HashMap, sync::Arc};

use crypto::DeviceId;

use crate::{
    Volume,
    apply::decode,
    audit::{Act, Audit, Head as AuditHead, Op, Outcome},
    commit::{ChangeKind, Head, MemberBody, RawChange},
    core::Core,
    error::{Error, Result},
    history::is_past,
    id::CommitHash,
    node::{Caller, Ino},
    store::{Space, prefix_end},
    tree::PastPlace,
    version::{Dot, ValueRef},
};

/// Of how far devices said that their audit logs go: device and number of entries; the value is the hash, and which change
/// said it.
const HEADS: &[u8] = b"audit/heads/";

/// Writes that are remembered before there is a log.
const UNTOLD: usize = 16_384;

/// Something that a process of this machine did, or tried, with something in the volume.
#[derive(Clone, Copy, Debug)]
pub struct Deed<'a> {
    /// What.
    pub op: Op,
    /// With what: the thing, or the directory that `name` is in.
    pub at: Ino,
    /// A name in there.
    pub name: Option<&'a [u8]>,
    /// Where it was to go.
    pub to: Option<(Ino, &'a [u8])>,
}

/// Deeper ones are told without a path.
const MAX_DEPTH: usize = 256;

/// What a commit removed.
#[derive(Default)]
struct Removed {
    by_change: HashMap<ValueRef, PastPlace>,
    by_node: HashMap<Ino, ValueRef>,
}

impl Removed {
    fn get(&self, at: &ValueRef) -> Option<&PastPlace> {
        self.by_change.get(at)
    }
}

/// A device as entries name it.
fn told(device: &DeviceId) -> Arc<str> {
    device.to_string().into()
}

/// Whether an error says that somebody may not, and not that something can't be.
fn outcome(error: Option<&Error>) -> (Outcome, Option<String>) {
    match error {
        None => (Outcome::Allowed, None),
        Some(Error::Denied) => (Outcome::Denied("its permissions".to_owned()), None),
        Some(Error::NotPermitted) => (Outcome::Denied("only its owner may".to_owned()), None),
        Some(Error::ReadOnly) => (Outcome::Denied("the role in the volume".to_owned()), None),
        Some(other) => (Outcome::Allowed, Some(format!("failed: {other}"))),
    }
}

impl Core {
    /// What the calls in a commit did, by its author's account: one act for each call.
    pub(crate) fn acts_of(&mut self, dot: Dot) -> Result<Vec<Act>> {
        let device = self.branch_of(dot)?.device;
        let user = self.user_named(&device);
        let row = self.commit_row(dot)?.ok_or_else(|| Error::damaged("a commit is missing"))?;
        let outcome = if row.void {
            Outcome::Denied("beyond their rights, which they knew".to_owned())
        } else if self.late.contains(&dot) {
            Outcome::Denied("made apart from their removal".to_owned())
        } else {
            Outcome::Allowed
        };
        let mut acts: Vec<Act> = Vec::new();
        let mut last: Option<(u32, u8, Option<Ino>)> = None;
        let changes = self.changes_in(dot)?;
        let removed = self.removed_in(&changes)?;
        for (at, raw) in changes {
            let head: Head = decode(&raw.head)?;
            let Some((op, weight, ino)) = self.deed_of(&head.kind, at)? else { continue };
            // Of the changes of one call, the one that says the most stands for all.
            // (Of one thing: an author may say that everything was one call.)
            let same = last.is_some_and(|(call, _, with)| call == head.call && with == ino);
            if same && last.is_some_and(|(_, before, _)| before >= weight) {
                continue;
            }
            let (path, to) = match ino {
                Some(ino) => match (op, self.past_place(at)) {
                    (Op::Remove, _) => {
                        (removed.get(&at).and_then(|place| self.path_when_removed(place, &removed)), None)
                    }
                    (Op::Rename, Ok(Some(place))) => {
                        let before = self.place_before(at)?;
                        let to = self.path_told(place.parent, Some(&place.name));
                        match before.and_then(|place| self.path_told(place.parent, Some(&place.name))) {
                            Some(path) => (Some(path), to),
                            None => (to, None),
                        }
                    }
                    (_, Ok(Some(place))) => (self.path_told(place.parent, Some(&place.name)), None),
                    _ => (self.path_told(ino, None), None),
                },
                None => (None, None),
            };
            let bytes = match (&head.kind, ino) {
                (ChangeKind::Content { .. }, Some(ino)) => self.size_of(ino, at)?,
                _ => None,
            };
            let outcome = match self.is_late_value(&at) {
                true => Outcome::Denied("made apart from the loss of the right to it".to_owned()),
                false => outcome.clone(),
            };
            let act = Act {
                outcome,
                path,
                to,
                user: Some(user.clone()),
                device: Some(told(&device)),
                bytes,
                ..Act::new(self.now(), op)
            };
            if same {
                acts.pop();
            }
            acts.push(act);
            last = Some((head.call, weight, ino));
        }
        Ok(acts)
    }

    /// What a commit removed, by its changes, and where that was.
    fn removed_in(&mut self, changes: &[(ValueRef, RawChange)]) -> Result<Removed> {
        let mut removed = Removed::default();
        for (at, raw) in changes {
            let head: Head = decode(&raw.head)?;
            if let ChangeKind::Removal { child, .. } = head.kind
                && let Some(place) = self.place_before(*at)?
            {
                if let Some(ino) = self.ino_of_node(&child)? {
                    removed.by_node.insert(ino, *at);
                }
                removed.by_change.insert(*at, place);
            }
        }
        Ok(removed)
    }

    /// The path that something had, which may lie in what was removed with it.
    fn path_when_removed(&mut self, place: &PastPlace, removed: &Removed) -> Option<Vec<u8>> {
        // From the bottom up.
        let (mut names, mut place) = (vec![&place.name[..]], place);
        loop {
            if let Some(mut path) = self.path_told(place.parent, names.last().copied()) {
                for name in names.iter().rev().skip(1) {
                    path.push(b'/');
                    path.extend_from_slice(name);
                }
                return Some(path);
            }
            // (A commit may say that each of two was in the other.)
            if names.len() >= MAX_DEPTH {
                return None;
            }
            place = removed.by_change.get(removed.by_node.get(&place.parent)?)?;
            names.push(&place.name);
        }
    }

    fn size_of(&mut self, ino: Ino, at: ValueRef) -> Result<Option<u64>> {
        let found = self.with_node(ino, |n| n.content.iter().find(|value| value.at == at).cloned());
        Ok(found.ok().flatten().and_then(|value| value.value).map(|content| content.size))
    }

    /// What a change does, how much that says beside others of one call, and to what.
    fn deed_of(&mut self, kind: &ChangeKind, at: ValueRef) -> Result<Option<(Op, u8, Option<Ino>)>> {
        let (op, weight, node) = match kind {
            ChangeKind::Place { link: None, child, .. } => {
                let first = match self.ino_of_node(child)? {
                    Some(ino) => self.with_node(ino, |n| n.born.iter().any(|birth| birth.dot == at.dot))?,
                    None => true,
                };
                (if first { Op::Create } else { Op::Link }, 9, Some(*child))
            }
            ChangeKind::Place { link: Some(_), child, .. } => (Op::Rename, 9, Some(*child)),
            ChangeKind::Removal { child, .. } => (Op::Remove, 8, Some(*child)),
            ChangeKind::Content { node, .. } => (Op::Write, 7, Some(*node)),
            ChangeKind::Settle { node } => (Op::Settle, 6, Some(*node)),
            ChangeKind::Access { node, .. } => (Op::Permissions, 5, Some(*node)),
            ChangeKind::Xattr { node, .. } => (Op::Attributes, 4, Some(*node)),
            ChangeKind::Meta { node, .. } => (Op::Attributes, 3, Some(*node)),
            ChangeKind::Setting { .. } => (Op::Settings, 2, None),
            ChangeKind::Birth { .. } | ChangeKind::AuditHead { .. } => return Ok(None),
            ChangeKind::Snapshot { .. } | ChangeKind::Drop {} => (Op::Snapshot, 2, None),
            ChangeKind::Invite { .. } | ChangeKind::InviteDevice { .. } | ChangeKind::Withdraw { .. } => {
                (Op::Invitation, 2, None)
            }
            _ => (Op::Membership, 1, None),
        };
        let ino = match node {
            Some(node) => self.ino_of_node(&node)?,
            None => None,
        };
        Ok(Some((op, weight, ino)))
    }

    /// Records what a commit of a peer did.
    pub(crate) fn record_commit(&mut self, commit: &CommitHash) {
        let Some(audit) = self.audit.get().cloned() else { return };
        let acts = self.dot_of(commit).and_then(|dot| dot.map_or(Ok(Vec::new()), |dot| self.acts_of(dot)));
        match acts {
            Ok(acts) => acts.into_iter().for_each(|act| audit.record(act)),
            Err(e) => log::error!("commit {}: can't be told in the audit log: {e}", commit.short()),
        }
    }

    /// An act of this device's user, now.
    pub(crate) fn own_act(&self, op: Op) -> Act {
        let (user, device) = (self.members.shown_name(&self.my_id), self.own_device.clone());
        Act { user: Some(user), device: Some(device), ..Act::new(self.now(), op) }
    }

    /// Takes in how far a device's audit log goes. One that goes less far than its device had said, or otherwise, was cut or
    /// rewritten since.
    pub(crate) fn note_audit_head(&mut self, at: ValueRef, head: AuditHead) -> Result<()> {
        let device = self.branch_of(at.dot)?.device;
        let prefix = [HEADS, device.as_bytes()].concat();
        let key = [&prefix[..], &head.count.to_be_bytes()].concat();
        let later = [&key[..], &[0]].concat();
        // What an author's own later commit says is later, whatever came first.
        let mut contradicts =
            self.store.get(Space::Meta, &key)?.is_some_and(|row| row.get(..32) != Some(head.hash.as_bytes()));
        for (_, row) in self.store.scan(Space::Meta, &later, &prefix_end(&prefix), 1)? {
            let before = row.get(32..).and_then(ValueRef::from_key).ok_or_else(|| Error::damaged("an audit head"))?;
            contradicts |= self.value_covers(at, before)?;
        }
        let row = [&head.hash.as_bytes()[..], &at.key()].concat();
        self.store.put(&mut self.overlay.batch, Space::Meta, key, &row);
        if contradicts {
            log::warn!("device {}: its audit log is not what it had said before: cut or rewritten", device.short());
            if let Some(audit) = self.audit.get() {
                let outcome = Outcome::Denied(
                    "its audit log was cut or rewritten, or put back from a copy: it had said otherwise before"
                        .to_owned(),
                );
                let (user, id) = (Some(self.user_named(&device)), Some(told(&device)));
                audit.record(Act { outcome, user, device: id, ..Act::new(self.now(), Op::Refused) });
            }
        }
        Ok(())
    }

    /// What a device said of how far its audit log goes.
    fn audit_heads_of(&self, device: &DeviceId) -> Result<Vec<AuditHead>> {
        let prefix = [HEADS, device.as_bytes()].concat();
        let rows = self.store.scan(Space::Meta, &prefix, &prefix_end(&prefix), usize::MAX)?;
        let head = |(key, row): (Vec<u8>, Vec<u8>)| {
            let count = key[prefix.len()..].try_into().ok().map(u64::from_be_bytes);
            let hash = row.first_chunk::<32>().map(|hash| crypto::Hash::from_bytes(*hash));
            let (count, hash) = count.zip(hash).ok_or_else(|| Error::damaged("an audit head"))?;
            Ok(AuditHead { count, hash })
        };
        rows.into_iter().map(head).collect()
    }

    /// Tells the log that this device's store was found to be an older copy.
    pub(crate) fn tell_own_restoration(&self) {
        if let Some(audit) = self.audit.get() {
            let note = Some("this device's store is an older copy: it goes on under a new log".to_owned());
            audit.record(Act { note, ..self.own_act(Op::SetBack) });
        }
    }

    /// Tells the log that something which showed was taken back, or counts again.
    pub(crate) fn tell_taken_back(&self, device: &DeviceId, why: &str, late: bool) {
        if let Some(audit) = self.audit.get() {
            let outcome = if late { Outcome::Denied(why.to_owned()) } else { Outcome::Allowed };
            let note = (!late).then(|| "counts again".to_owned());
            let (user, device) = (Some(self.user_named(device)), Some(told(device)));
            audit.record(Act { outcome, user, device, note, ..Act::new(self.now(), Op::TakenBack) });
        }
    }
}

impl Volume {
    /// Has everything that happens from now on recorded in `audit`. Once.
    pub fn set_audit(&self, audit: Arc<Audit>) {
        let core = self.inner.core.lock();
        let _ = core.audit.set(audit.clone());
        self.inner.untold.lock().drain(..).for_each(|act| audit.record(act));
        let _ = self.inner.audit.set(audit);
    }

    /// The log, if there is one.
    pub fn audit(&self) -> Option<&Arc<Audit>> {
        self.inner.audit.get()
    }

    /// How far this device said that its log goes, in its signed commits.
    ///
    /// # Errors
    /// The disk failed.
    pub fn signed_audit_heads(&self) -> Result<Vec<AuditHead>> {
        let core = self.inner.core.lock();
        core.audit_heads_of(&core.device.id())
    }

    /// Whether this device had signed that its log goes further than it does.
    ///
    /// # Errors
    /// The disk failed.
    pub fn is_audit_cut(&self) -> Result<bool> {
        let Some(audit) = self.inner.audit.get() else { return Ok(false) };
        let last = self.signed_audit_heads()?.pop();
        Ok(last.is_some_and(|last| last.count > audit.synced().count))
    }

    /// Signs how far this device's audit log goes, as far as it is on the disk: from then on others know when it is cut or
    /// rewritten. Nothing if that was signed already.
    ///
    /// # Errors
    /// [`Error::ReadOnly`] for who was removed; or the disk failed.
    pub fn sign_audit_head(&self) -> Result<()> {
        let Some(audit) = self.inner.audit.get() else { return Ok(()) };
        let head = audit.synced();
        // Also one that goes less far than what was signed: then others learn that it was cut.
        if head.count == 0 && !self.is_audit_cut()? || self.signed_audit_heads()?.contains(&head) || self.is_keeper() {
            return Ok(());
        }
        self.local(&[], |core| {
            let kind = ChangeKind::AuditHead { count: head.count, hash: head.hash };
            core.emit::<MemberBody>(kind, &[], None).map(drop)
        })
    }

    /// An act of this device's user, now.
    pub fn own_act(&self, op: Op) -> Act {
        self.inner.core.lock().own_act(op)
    }

    /// Records that a device says to have all contents and does not give them.
    pub(crate) fn tell_withheld(&self, device: &DeviceId, blocks: u32) {
        let Some(audit) = self.inner.audit.get() else { return };
        let why = format!("it says to have all contents, and does not give {blocks} blocks that it was asked for");
        audit.record(Act { outcome: Outcome::Denied(why), ..self.act_by(Some(device), Op::Refused) });
    }

    /// How often something in the store was not what this device had written, since it was opened.
    pub fn damage_met(&self) -> u64 {
        self.inner.store.damaged() + self.inner.blocks.damaged()
    }

    /// An act of somebody's device, now; of nobody known, if there is none.
    pub fn act_by(&self, device: Option<&DeviceId>, op: Op) -> Act {
        let core = self.inner.core.lock();
        let known = device.filter(|device| core.members.devices.contains_key(device));
        let user = known.map(|device| core.user_named(device));
        Act { user, device: device.map(told), ..Act::new(core.now(), op) }
    }

    /// Records what a process of this machine did, or what kept it from that.
    pub fn tell_deed(&self, deed: Deed<'_>, who: &Caller, error: Option<&Error>) {
        let Some(audit) = self.inner.audit.get() else { return };
        let (outcome, mut note) = outcome(error);
        let (path, to, act) = {
            let mut core = self.inner.core.lock();
            let to = deed.to.and_then(|(directory, name)| core.path_told(directory, Some(name)));
            (core.path_told(deed.at, deed.name), to, core.own_act(deed.op))
        };
        if is_past(deed.at) && note.is_none() {
            note = Some("as it was".to_owned());
        }
        let process = Some(audit.process(who.uid, who.pid));
        audit.record(Act { outcome, path, to, process, note, ..act });
    }

    /// Records that what was written to a file was published, or why it could not be.
    pub(crate) fn tell_written(&self, ino: Ino, who: Option<(u32, u32)>, bytes: u64, error: Option<&Error>) {
        let (outcome, mut note) = outcome(error);
        let (path, act) = {
            let mut core = self.inner.core.lock();
            (core.path_told(ino, None), core.own_act(Op::Write))
        };
        let audit = self.inner.audit.get();
        if audit.is_none() && note.is_none() {
            note = Some("written before the last end, which was a crash".to_owned());
        }
        let process = audit.zip(who).map(|(audit, (uid, thread))| audit.process(uid, thread));
        let act = Act { outcome, path, process, bytes: Some(bytes), note, ..act };
        match audit {
            Some(audit) => audit.record(act),
            None => {
                let mut untold = self.inner.untold.lock();
                if untold.len() < UNTOLD {
                    untold.push(act);
                }
            }
        }
    }
}
