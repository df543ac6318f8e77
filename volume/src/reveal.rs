//! A node opens to this device's user, or closes: an access value came that gives them the key, or leaves them out.
//!
//! What could not be opened when it came lies in the store as its author signed it. With the key it is read from there, and
//! rows come to be what they would be, had the key been there from the start. So what a device shows hangs on the keys it
//! has, not on when it got them.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
};

use crypto::{DerivingKey, EpochId, Label, UserId};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    Changed,
    apply::{Body, DISAGREES, Origin, content_value, decode, is_xattr_name, rule, shown_access},
    commit::{AccessBody, AccessHead, BirthBody, ChangeKind, ContentBody, Head, MetaBody, PlaceBody, XattrBody},
    content::BlockHash,
    core::Core,
    error::Result,
    id::{LinkId, RealmId},
    member::{MemberRow, Role},
    node::{Ino, NodeKind, TARGET_MAX},
    realms::unwrap_node_keys,
    rights::{Readers, agrees},
    row::{Access, Link, Meta, Node, NodeRow, Opened, Place, Value, Xattr, XattrValue},
    standing::Within,
    store::Space,
    time::Timestamp,
    tree::next_tag,
    version::ValueRef,
};

/// Access values that are followed back to one whose author could decide.
const MAX_BACK: usize = 64;
/// Entries of a directory that are looked at in one go.
const AT_ONCE: usize = 256;

/// Whom a node lets in, as far as other things hang on it.
pub(crate) struct LetIn {
    sealed: bool,
    realm: Option<(RealmId, Vec<(UserId, u8)>)>,
    readers: Option<Readers>,
}

impl Core {
    /// Checks what the clear part of a new access value says, beside who may write it.
    pub(crate) fn check_access(
        &self,
        origin: &Origin,
        node: &Node,
        access: &AccessHead,
        gone: &[ValueRef],
    ) -> Result<()> {
        if !agrees(access) {
            return rule(DISAGREES);
        }
        if origin.local {
            return Ok(());
        }
        let mut before = None;
        for at in gone {
            let live = node.access.iter().find(|v| v.at == *at).and_then(|v| v.value.as_ref());
            let generation = match live {
                Some(access) => access.generation,
                None => match decode::<Head>(&self.named(*at)?.head)?.kind {
                    ChangeKind::Birth { access, .. } | ChangeKind::Access { access, .. } => access.generation,
                    _ => 0,
                },
            };
            before = before.max(Some(generation));
        }
        match before {
            None => rule("an access value that supersedes none"),
            Some(before) if access.generation != before && Some(access.generation) != before.checked_add(1) => {
                rule("an access value of another generation")
            }
            Some(_) => Ok(()),
        }
    }

    /// Makes a new access value part of the state.
    pub(crate) fn apply_access(
        &mut self,
        origin: &Origin,
        at: ValueRef,
        (ino, mut node): (Ino, Box<Node>),
        (access, encoded): (&AccessHead, &[u8]),
        body: Body<'_>,
        gone: &[ValueRef],
    ) -> Result<()> {
        let before = self.let_in_by(&node);
        let new = node.learn(self.node_keys_by(access));
        if new {
            self.rekeyed.fetch_add(1, Ordering::Release);
        }
        let body: Option<AccessBody> = self.open_of((origin, at.index, encoded), (&node, access.generation), body);
        let time = body.as_ref().map_or(origin.time, |b| b.time);
        let mut value = Some(shown_access(access, body, &node));
        if !origin.local && !self.is_decided(at)? {
            value = self.told_access(&node, at)?;
        }
        self.replace(&mut node.access, gone, Some(Value { at, count: origin.count, value }))?;
        Self::touch(&mut node, origin, time);
        if !new || origin.local {
            return self.access_changed(ino, node, before);
        }
        self.put_node(ino, node);
        self.reveal(ino)?;
        let node = self.node(ino)?;
        self.access_changed(ino, node, before)
    }

    /// Whom a node lets in.
    pub(crate) fn let_in_by(&self, node: &Node) -> LetIn {
        LetIn {
            sealed: self.is_sealed(node),
            realm: realm_of(node),
            readers: node.shown_access().map(|access| access.rights().readers()),
        }
    }

    /// Puts a node back that has other access values than `before`, and brings in line what hangs on them.
    pub(crate) fn access_changed(&mut self, ino: Ino, mut node: Box<Node>, before: LetIn) -> Result<()> {
        self.put_counting_key_last(&mut node)?;
        let (after, kind) = (self.let_in_by(&node), node.kind);
        let apart = node.access.len() > 1;
        self.put_node(ino, node);
        if apart {
            self.mark_directories_of(ino)?;
        }
        self.changed(Changed::Attributes(ino));
        if before.sealed != after.sealed {
            self.tell_all(ino, kind)?;
        }
        if kind == NodeKind::Directory {
            if before.realm != after.realm {
                self.merge_again(ino)?;
            }
            if before.readers != after.readers {
                self.mark_unaligned(ino);
            }
        }
        Ok(())
    }

    /// Of several keys of the generation that seals, has one be the last that a value brings which counts. Whoever is let in by that
    /// may have been left out of what a late one brought.
    fn put_counting_key_last(&self, node: &mut Node) -> Result<()> {
        let Some((top, _)) = node.current_key() else { return Ok(()) };
        if node.keys_of(top).count() < 2 {
            return Ok(());
        }
        for at in node.access.iter().rev().map(|value| value.at) {
            let (ChangeKind::Birth { access, .. } | ChangeKind::Access { access, .. }) =
                decode::<Head>(&self.change(at)?.head)?.kind
            else {
                continue;
            };
            if access.generation == top
                && let Some((_, key)) = self.node_keys_by(&access).first()
            {
                if node.put_last(top, key) {
                    self.rekeyed.fetch_add(1, Ordering::Release);
                }
                break;
            }
        }
        Ok(())
    }

    /// The keys that an access value brings, its own first; none while its epoch's isn't known here.
    pub(crate) fn node_keys_by(&self, access: &AccessHead) -> Vec<(u32, DerivingKey)> {
        self.epoch_key(&access.epoch).and_then(|epoch| unwrap_node_keys(&epoch, access)).unwrap_or_default()
    }

    /// Opens what is sealed under epochs whose keys came with what is being taken in, later than what they seal: of who was
    /// left out of an epoch by a removal that turned out not to count, or whose user's newest key came late.
    ///
    /// Looks through all nodes, since nothing else hangs on an epoch's key coming late, and that is rare.
    pub(crate) fn reveal_learned(&mut self) -> Result<()> {
        let learned: BTreeSet<EpochId> = self.overlay.members.iter().filter_map(|row| self.learned_by(row)).collect();
        if learned.is_empty() {
            return Ok(());
        }
        let mut from = Vec::new();
        loop {
            let rows = self.store.scan(Space::Nodes, &from, &[u8::MAX; 9], AT_ONCE)?;
            let Some((last, _)) = rows.last() else { return Ok(()) };
            from = [last, &[0][..]].concat();
            // Others are what nodes have in rows of their own.
            for number in rows.iter().filter_map(|(key, _)| <[u8; 8]>::try_from(key.as_slice()).ok()) {
                self.reveal_under(Ino(u64::from_be_bytes(number)), &learned)?;
            }
        }
    }

    /// The epoch of a row of which only the key is new.
    fn learned_by(&self, row: &MemberRow) -> Option<EpochId> {
        let MemberRow::Epoch(row) = row else { return None };
        let known = self.members.epoch(&row.id)?;
        (row.key.is_some() && known.key.is_none()).then_some(row.id)
    }

    fn reveal_under(&mut self, ino: Ino, epochs: &BTreeSet<EpochId>) -> Result<()> {
        let row = self.row(ino)?;
        let Some(NodeRow::Node(node)) = row.as_deref() else { return Ok(()) };
        // Under the key of a late value others may have worked whose work counts.
        let late = self.late_access_of(ino)?;
        // One by somebody who may only write shows as what it replaced does, whether its own key is known or not.
        let is_open = |a: &Access| a.opened == Opened::Yes && node.keys_of(a.generation).next().is_some();
        let is_closed = |access: &Value<Access>| !access.value.as_ref().is_some_and(is_open);
        if late.is_empty() && !node.access.iter().any(is_closed) {
            return Ok(());
        }
        let (mut node, before) = (node.clone(), self.let_in_by(node));
        let mut todo: Vec<ValueRef> = node.access.iter().map(|value| value.at).collect();
        todo.extend(node.born.iter().copied().chain(late));
        let (mut seen, mut new) = (BTreeSet::new(), false);
        while let Some(at) = todo.pop() {
            if !seen.insert(at) {
                continue;
            }
            let head: Head = decode(&self.change(at)?.head)?;
            if let ChangeKind::Birth { access, .. } | ChangeKind::Access { access, .. } = &head.kind
                && epochs.contains(&access.epoch)
            {
                new |= node.learn(self.node_keys_by(access));
            }
            todo.extend(self.superseded_by(at)?);
        }
        if !new {
            return Ok(());
        }
        self.rekeyed.fetch_add(1, Ordering::Release);
        self.put_node(ino, node);
        self.reveal(ino)?;
        let node = self.node(ino)?;
        self.access_changed(ino, node, before)
    }

    /// Opens everything of a node that could not be opened before.
    fn reveal(&mut self, ino: Ino) -> Result<()> {
        let mut node = self.node(ino)?;
        if let Some((_, birth)) =
            node.born.first().copied().map_or(Ok(None), |at| self.reopened::<BirthBody>(&node, at))?
            && birth.target.len() <= TARGET_MAX
            && !birth.target.contains(&0)
        {
            node.btime = birth.access.time;
            node.rdev = birth.rdev;
            node.target = birth.target;
        }
        for nth in 0..node.access.len() {
            let closed = node.access[nth].value.as_ref().is_none_or(|access| access.opened != Opened::Yes);
            if closed && let Some(access) = self.told_access(&node, node.access[nth].at)? {
                node.access[nth].value = Some(access);
            }
        }
        for nth in 0..node.meta.len() {
            if node.meta[nth].value.is_none()
                && let Some((_, body)) = self.reopened::<MetaBody>(&node, node.meta[nth].at)?
            {
                node.meta[nth].value = Some(Meta { mtime: body.mtime, atime: body.atime });
            }
        }
        let mut fetched = Vec::new();
        for nth in 0..node.content.len() {
            let at = node.content[nth].at;
            if node.content[nth].value.is_none()
                && let Some((head, body)) = self.reopened::<ContentBody>(&node, at)?
                && let ChangeKind::Content { generation, root, blocks, .. } = head.kind
            {
                node.content[nth].value = content_value(generation, &root, blocks, body);
                if root != BlockHash::ZERO && node.content[nth].value.is_some() {
                    fetched.push((at, root, blocks));
                }
            }
        }
        self.overlay.wanted.extend(fetched);
        self.reveal_xattrs(ino, &mut node)?;
        if let Some((at, count, _)) = node.entry_change
            && let Some(time) = self.time_of_place(&node, at)?
        {
            node.entry_change = Some((at, count, time));
        }
        self.set_mtime(&mut node)?;
        let kind = node.kind;
        self.put_node(ino, node);
        if kind == NodeKind::Directory {
            self.reveal_names(ino)?;
        }
        Ok(())
    }

    /// When something was placed in a directory, with the keys that are known now.
    fn time_of_place(&self, directory: &Node, at: ValueRef) -> Result<Option<Timestamp>> {
        let raw = self.change(at)?;
        let ChangeKind::Place { parent, generation, .. } = decode::<Head>(&raw.head)?.kind else { return Ok(None) };
        for key in directory.keys_of(generation).rev().filter(|_| parent == directory.id) {
            if let Some(body) = self.open_stored::<PlaceBody>(at, &key.derive(Label::NameKey), &raw)? {
                return Ok(Some(body.time));
            }
        }
        Ok(None)
    }

    /// What a stored change of a node says, with the keys that are known now.
    fn reopened<T: Serialize + DeserializeOwned>(&self, node: &Node, at: ValueRef) -> Result<Option<(Head, T)>> {
        let raw = self.change(at)?;
        let head: Head = decode(&raw.head)?;
        let generation = match &head.kind {
            ChangeKind::Birth { access, .. } | ChangeKind::Access { access, .. } => access.generation,
            ChangeKind::Meta { generation, .. }
            | ChangeKind::Xattr { generation, .. }
            | ChangeKind::Content { generation, .. } => *generation,
            _ => return Ok(None),
        };
        for key in node.keys_of(generation).rev() {
            if let Some(body) = self.open_stored(at, &key.derive(Label::BodyKey), &raw)? {
                return Ok(Some((head, body)));
            }
        }
        Ok(None)
    }

    fn reopened_access(&self, node: &Node, at: ValueRef) -> Result<Option<Access>> {
        let head: Head = decode(&self.change(at)?.head)?;
        Ok(match &head.kind {
            ChangeKind::Birth { access, .. } => {
                let body = self.reopened::<BirthBody>(node, at)?.map(|(_, body)| body.access);
                Some(shown_access(access, body, node))
            }
            ChangeKind::Access { access, .. } => {
                let body = self.reopened::<AccessBody>(node, at)?.map(|(_, body)| body);
                Some(shown_access(access, body, node))
            }
            _ => None,
        })
    }

    /// An access value as it shows: of one by somebody who may only write, what the last one says whose author could decide.
    /// Nobody but readers sees what is sealed in it, so nobody else could judge it; but that set-id bits go, as they do when a
    /// file is written, is taken from it.
    pub(crate) fn told_access(&mut self, node: &Node, at: ValueRef) -> Result<Option<Access>> {
        let Some(mut access) = self.reopened_access(node, at)? else { return Ok(None) };
        let mut by = at;
        for _ in 0..MAX_BACK {
            if self.is_decided(by)? {
                break;
            }
            let Some(before) = self.greatest_before(by)? else { break };
            let Some(older) = self.reopened_access(node, before)? else { break };
            let set_ids = access.mode & older.mode & 0o6000;
            access.mode = older.mode & !0o6000 | set_ids;
            (access.uid, access.gid, access.opened) = (older.uid, older.gid, older.opened);
            (access.acl, access.default_acl) = (older.acl, older.default_acl);
            by = before;
        }
        Ok(Some(access))
    }

    /// Whether the author of an access value could decide about the node: its owner by what they replaced, or an admin.
    fn is_decided(&mut self, at: ValueRef) -> Result<bool> {
        let head: Head = decode(&self.change(at)?.head)?;
        if !matches!(head.kind, ChangeKind::Access { .. }) || self.is_pending(at.dot) {
            return Ok(true);
        }
        let device = self.branch_of(at.dot)?.device;
        let (user, role) = self.standing(&device, at.dot, Within::Seen(at.dot))?;
        if role.is_some_and(Role::may_admit) {
            return Ok(true);
        }
        let Some(before) = self.greatest_before(at)? else { return Ok(false) };
        match decode::<Head>(&self.change(before)?.head)?.kind {
            ChangeKind::Birth { access, .. } | ChangeKind::Access { access, .. } => Ok(access.owner == user),
            _ => Ok(false),
        }
    }

    /// The greatest value that a stored change superseded.
    fn greatest_before(&mut self, at: ValueRef) -> Result<Option<ValueRef>> {
        let mut greatest: Option<(ValueRef, u64)> = None;
        for before in self.superseded_by(at)? {
            let new = (before, self.count_of(before)?);
            let is_greater = match greatest {
                Some(old) => self.rank(old, new)?.is_lt(),
                None => true,
            };
            if is_greater {
                greatest = Some(new);
            }
        }
        Ok(greatest.map(|(at, _)| at))
    }

    fn reveal_xattrs(&mut self, ino: Ino, node: &mut Node) -> Result<()> {
        let mut closed: Vec<Arc<Xattr>> = Vec::new();
        for shows in [true, false] {
            self.each_item::<Xattr>(ino, node, shows, |xattr| {
                if xattr.values.iter().any(|value| value.value.is_none()) {
                    closed.push(xattr.clone());
                }
                true
            })?;
        }
        for old in closed {
            let mut xattr = (*old).clone();
            for value in xattr.values.iter_mut().filter(|value| value.value.is_none()) {
                let body = self.reopened::<XattrBody>(node, value.at)?.map(|(_, body)| body);
                let sound = |b: &XattrBody| is_xattr_name(&b.name) && node.xattr_tag(&b.name) == Some(old.tag);
                if let Some(body) = body.filter(sound) {
                    xattr.name = body.name;
                    value.value = Some(body.value.map_or(XattrValue::Removed, XattrValue::Set));
                }
            }
            self.put_item(ino, node, Some(&*old), Arc::new(xattr));
        }
        Ok(())
    }

    /// Reads the names of a directory's entries that were not known.
    fn reveal_names(&mut self, ino: Ino) -> Result<()> {
        let home = self.canonical(ino)?;
        let mut links: Vec<(Ino, LinkId)> = Vec::new();
        let mut from = [0; 16];
        loop {
            let entries = self.scan_entries(home, &from, AT_ONCE)?;
            let Some((last, _)) = entries.last() else { break };
            let claims = entries.iter().flat_map(|(_, entry)| &entry.claims).filter(|claim| claim.parent == ino);
            links.extend(claims.map(|claim| (claim.child, claim.link)));
            match next_tag(*last) {
                Some(next) => from = next,
                None => break,
            }
        }
        for (child, id) in links {
            let mut node = self.node(child)?;
            let Some(old) = self.link_of(child, &node, &id)? else { continue };
            let mut link: Link = (*old).clone();
            for value in &mut link.values {
                if let Some(Place::In { parent, name }) = &mut value.value
                    && *parent == ino
                    && let Some(place) = self.past_place(value.at)?
                {
                    *name = place.name;
                }
            }
            if link.values.iter().zip(&old.values).any(|(one, other)| one.value != other.value) {
                self.put_item(child, &mut node, Some(&*old), Arc::new(link));
                self.put_node(child, node);
            }
            // One that was removed shows by a place of before.
            self.refresh_link(child, &id)?;
        }
        Ok(())
    }

    /// Has the kernel forget what it knows of a node, and of what is in it.
    fn tell_all(&mut self, ino: Ino, kind: NodeKind) -> Result<()> {
        if kind == NodeKind::File {
            self.changed(Changed::Content(ino));
            return Ok(());
        }
        if kind != NodeKind::Directory {
            return Ok(());
        }
        let home = self.canonical(ino)?;
        let mut from = [0; 16];
        loop {
            let entries = self.scan_entries(home, &from, AT_ONCE)?;
            let Some((last, _)) = entries.last() else { return Ok(()) };
            let last = *last;
            for (_, entry) in &entries {
                self.changed(Changed::Entry { parent: home, name: entry.name.clone() });
            }
            match next_tag(last) {
                Some(next) => from = next,
                None => return Ok(()),
            }
        }
    }

    /// Directories of one name show as one only while the same users may use them.
    fn merge_again(&mut self, ino: Ino) -> Result<()> {
        let shown = self.with_node(ino, |n| n.links.first().and_then(|link| link.shown.clone()))?;
        let Some(shown) = shown else { return Ok(()) };
        let directory = self.canonical(shown.parent)?;
        self.refresh_name(directory, &shown.name)
    }
}

/// What directories must have in common to show as one.
fn realm_of(node: &Node) -> Option<(RealmId, Vec<(UserId, u8)>)> {
    node.shown_access().map(|access| (access.realm, access.grants.clone()))
}
