//! What was taken back and kept aside: changes made apart from the removal of whoever made them ([`crate::late`]).
//!
//! Owns listing them, and making them anew as one's own. Whoever does that stands in for them: the new change names the
//! late one among what it replaces, so everybody sees that it is settled.

use crypto::DeviceId;

use crate::{
    apply::decode,
    commit::{ChangeKind, ContentBody, Head, MetaBody, RawChange, XattrBody},
    content::ContentData,
    core::Core,
    error::{Error, Result},
    id::CommitHash,
    member::Role,
    namespace::places,
    node::{Ino, NodeKind},
    row::Xattr,
    store::{Space, prefix_end},
    time::Timestamp,
    version::{Dot, ValueRef},
    volume::Volume,
};

/// What a change that is kept aside would do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Make something.
    Makes,
    /// Write to a file.
    Writes,
    /// Move or link something.
    Moves,
    /// Remove something.
    Removes,
    /// Set times, an attribute, or who may use it.
    Sets,
}

/// One of these.
#[derive(Clone, Debug)]
pub struct Kept {
    /// What it would do.
    pub deed: Deed,
    /// To what, from the volume's root; `None` when it has no name any more.
    pub path: Option<Vec<u8>>,
    at: ValueRef,
}

/// A commit that is kept aside.
#[derive(Clone, Debug)]
pub struct Quarantined {
    /// Its name.
    pub commit: CommitHash,
    /// The device that made it.
    pub device: DeviceId,
    /// Whose that is.
    pub user: String,
    /// When it was made, by that device's clock.
    pub made: Timestamp,
    /// What of it nobody has made anew.
    pub changes: Vec<Kept>,
}

/// What became of accepting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    /// Changes made anew.
    pub done: u64,
    /// Changes that could not be: what they were made in is gone, or their names are taken.
    pub left: u64,
}

impl Core {
    fn quarantined(&mut self) -> Result<Vec<Quarantined>> {
        let mut found = Vec::new();
        let mut dots = self.late.clone();
        dots.extend(self.late_values.iter().map(|at| at.dot));
        for dot in dots {
            let row = self.commit_row(dot)?.ok_or_else(|| Error::damaged("a commit is missing"))?;
            let device = self.branch_of(dot)?.device;
            let user = self.user_named(&device);
            let mut changes = Vec::new();
            for (at, raw) in self.changes_in(dot)? {
                if self.is_late_value(&at)
                    && let Some(kept) = self.kept(at, &raw)?
                {
                    changes.push(kept);
                }
            }
            if !changes.is_empty() {
                found.push(Quarantined { commit: row.hash, device, user, made: self.written(&row)?, changes });
            }
        }
        found.sort_by_key(|one| (one.made, one.commit));
        Ok(found)
    }

    /// All changes of a stored commit.
    pub(crate) fn changes_in(&self, dot: Dot) -> Result<Vec<(ValueRef, RawChange)>> {
        let key = dot.key();
        let rows = self.store.raw().scan(Space::Changes, &key, &prefix_end(&key), usize::MAX)?;
        let change = |(key, bytes): (Vec<u8>, Vec<u8>)| {
            Ok((ValueRef::from_key(&key).ok_or_else(|| Error::damaged("change key"))?, decode(&bytes)?))
        };
        rows.into_iter().map(change).collect()
    }

    /// What a change would do, unless somebody has made it anew or nobody needs it.
    fn kept(&mut self, at: ValueRef, raw: &RawChange) -> Result<Option<Kept>> {
        let head: Head = decode(&raw.head)?;
        let (node, deed) = match &head.kind {
            ChangeKind::Place { link, child, .. } => (*child, if link.is_none() { Deed::Makes } else { Deed::Moves }),
            ChangeKind::Removal { child, .. } => (*child, Deed::Removes),
            ChangeKind::Content { node, .. } => (*node, Deed::Writes),
            ChangeKind::Meta { node, .. } | ChangeKind::Xattr { node, .. } | ChangeKind::Access { node, .. } => {
                (*node, Deed::Sets)
            }
            _ => return Ok(None),
        };
        let Some(ino) = self.ino_of_node(&node)? else { return Ok(None) };
        for value in self.live_of_register(ino, &head.kind, at, raw)? {
            if value != at && self.value_covers(value, at)? && self.reaches(value, at)? {
                return Ok(None);
            }
        }
        let path = match (self.path_of(ino), &head.kind) {
            (_, ChangeKind::Place { .. }) => self.past_place(at)?.map(|place| self.path_in(place.parent, &place.name)),
            (Some(path), _) => Some(path),
            (None, _) => self.hidden_path(ino)?,
        };
        Ok(Some(Kept { deed, path, at }))
    }

    /// Where a node would be that has no name since its first place is late.
    fn hidden_path(&mut self, ino: Ino) -> Result<Option<Vec<u8>>> {
        let Some(link) = self.with_node(ino, |n| n.links.first().cloned())? else { return Ok(None) };
        let place = self.past_places(&link)?.pop();
        Ok(place.map(|place| self.path_in(place.parent, &place.name)))
    }

    fn live_of_register(
        &mut self,
        ino: Ino,
        kind: &ChangeKind,
        at: ValueRef,
        raw: &RawChange,
    ) -> Result<Vec<ValueRef>> {
        let node = self.node(ino)?;
        Ok(match kind {
            ChangeKind::Place { link, child, .. } => {
                let id = self.id_of_link(*link, child, at, raw)?;
                self.link_of(ino, &node, &id)?.map(|link| places(&link)).unwrap_or_default()
            }
            ChangeKind::Removal { link, .. } => {
                self.link_of(ino, &node, link)?.map(|link| places(&link)).unwrap_or_default()
            }
            ChangeKind::Content { .. } => node.content.iter().map(|v| v.at).collect(),
            ChangeKind::Meta { .. } => node.meta.iter().map(|v| v.at).collect(),
            ChangeKind::Access { .. } => node.access.iter().map(|v| v.at).collect(),
            ChangeKind::Xattr { tag, .. } => {
                let found = self.item::<Xattr>(ino, &node, tag.as_bytes())?;
                found.iter().flat_map(|x| &x.values).map(|v| v.at).collect()
            }
            _ => Vec::new(),
        })
    }

    /// Makes a change anew, as this user's; tells whether that could be done.
    fn make_anew(&mut self, at: ValueRef) -> Result<bool> {
        let raw = self.change(at)?;
        let head: Head = decode(&raw.head)?;
        let mut gone = Vec::new();
        let mut whose = None;
        if let ChangeKind::Content { node, .. }
        | ChangeKind::Meta { node, .. }
        | ChangeKind::Xattr { node, .. }
        | ChangeKind::Place { child: node, .. }
        | ChangeKind::Removal { child: node, .. } = &head.kind
        {
            let Some(ino) = self.ino_of_node(node)? else { return Ok(false) };
            gone = self.live_of_register(ino, &head.kind, at, &raw)?;
            if !gone.contains(&at) {
                gone.push(at);
            }
            whose = Some(ino);
        }
        let Some(ino) = whose else { return Ok(false) };
        let node = self.node(ino)?;
        match head.kind {
            ChangeKind::Place { link, child, .. } => {
                let id = self.id_of_link(link, &child, at, &raw)?;
                let Some(place) = self.past_place(at)? else { return Ok(false) };
                let Ok(directory) = self.live_directory(place.parent) else { return Ok(false) };
                if self.entry(directory, &place.name)?.shown().is_some()
                    || node.kind == NodeKind::Directory && self.is_within(directory, ino)?
                {
                    return Ok(false);
                }
                self.place(Some(id), child, directory, &place.name, &gone)?;
            }
            ChangeKind::Removal { link, .. } => {
                let shown = self.link_of(ino, &node, &link)?.is_some_and(|link| link.shown.is_some());
                if !shown || node.kind == NodeKind::Directory && self.has_entries(ino)? {
                    return Ok(false);
                }
                let kind = ChangeKind::Removal { link, child: node.id, time: self.now() };
                self.emit::<MetaBody>(kind, &gone, None)?;
            }
            ChangeKind::Content { generation, root, blocks, .. } => {
                let body: Option<ContentBody> = self.opened_with(&node, generation, at, &raw)?;
                let Some(mut body) = body else { return Ok(false) };
                if matches!(body.content.data, ContentData::Tree { .. }) {
                    body.keys.extend(node.keys.iter().map(|(_, key)| key.key().clone()));
                }
                let (generation, key) = self.body_key(ino)?;
                let kind = ChangeKind::Content { node: node.id, generation, root, blocks };
                let new = self.emit(kind, &gone, Some((&key, &body)))?;
                self.want_again_from(at, new, root, blocks)?;
            }
            ChangeKind::Meta { generation, .. } => {
                let Some(body) = self.opened_with::<MetaBody>(&node, generation, at, &raw)? else { return Ok(false) };
                let (generation, key) = self.body_key(ino)?;
                self.emit(ChangeKind::Meta { node: node.id, generation }, &gone, Some((&key, &body)))?;
            }
            ChangeKind::Xattr { generation, tag, .. } => {
                let Some(body) = self.opened_with::<XattrBody>(&node, generation, at, &raw)? else { return Ok(false) };
                let (generation, key) = self.body_key(ino)?;
                self.emit(ChangeKind::Xattr { node: node.id, generation, tag }, &gone, Some((&key, &body)))?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn may_accept(&self, device: &DeviceId) -> bool {
        let of_me = self.members.devices.get(device).is_some_and(|row| row.user == self.user.id());
        match self.members.role_of(&self.device.id()) {
            Some(role) => role >= Role::Admin || role.may_write() && of_me,
            None => false,
        }
    }
}

impl Volume {
    /// How many commits said more than their authors knew they may: nobody ever counts these.
    ///
    /// # Errors
    /// The disk failed.
    pub fn forbidden_commits(&self) -> Result<u64> {
        let core = self.inner.core.lock();
        let mut found = 0;
        for dot in core.tips().collect::<Vec<_>>() {
            for seq in 1..=dot.seq {
                let row = core.commit_row(Dot { branch: dot.branch, seq })?;
                found += u64::from(row.is_some_and(|row| row.void));
            }
        }
        Ok(found)
    }

    /// Commits that are kept aside, the oldest first, as far as nobody has made anew what they did.
    ///
    /// # Errors
    /// The disk failed.
    pub fn quarantine(&self) -> Result<Vec<Quarantined>> {
        self.inner.core.lock().quarantined()
    }

    /// Makes what a commit did anew, as this user's.
    ///
    /// # Errors
    /// [`Error::Refused`] for who is neither an admin nor its author; or the disk failed.
    pub fn accept_quarantined(&self, one: &Quarantined) -> Result<Accepted> {
        let mut accepted = Accepted::default();
        self.beside_the_mount(|core| {
            if !core.may_accept(&one.device) {
                return Err(Error::Refused(
                    "only the owner, admins and its author accept what is kept aside".to_owned(),
                ));
            }
            core.may_change()?;
            for kept in &one.changes {
                match core.make_anew(kept.at)? {
                    true => accepted.done += 1,
                    false => accepted.left += 1,
                }
            }
            Ok(())
        })?;
        self.commit_pending()?;
        Ok(accepted)
    }
}
