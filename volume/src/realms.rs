//! Realms at work: whose epoch seals what, what a node's key is wrapped in, and access values as they are made.
//!
//! Owns the choice and the making of epochs of narrow realms, and what follows from a mode, an ACL and a path for the
//! clear part of an access value. What that part means is [`crate::rights`]; whether somebody may write one,
//! [`crate::judge`].
//!
//! Invariant: a key is wrapped only under an epoch that was made by one of those who may read, or by this user: anybody
//! can tell of an epoch and call it a realm's.

use std::collections::{BTreeMap, BTreeSet};

use crypto::{DerivingKey, EpochId, Label, SymmetricKey, UserId};

use crate::{
    apply::{Origin, decode, rule},
    bins::BinPlace,
    commit::{AccessBody, AccessHead, ChangeKind, Head, MemberBody, SealedKey},
    core::Core,
    error::{Error, Result},
    id::RealmId,
    member::{EpochRow, MemberRow, Role, epoch_id},
    node::Ino,
    rights::{READ, Readers, Rights, WRITE, members_of},
    row::{Access, Node, NodeRow, Opened},
    time::Timestamp,
    version::ValueRef,
};

/// Readers of one narrow realm: what their sealed keys take must fit a change's head.
const MAX_READERS: usize = 384;
/// Bytes of an earlier key in what an access value wraps, with its generation.
const EARLIER_KEY: usize = 36;

/// The epochs of all realms but the members'.
#[derive(Clone, Debug, Default)]
pub(crate) struct NarrowEpochs {
    rows: BTreeMap<EpochId, EpochRow>,
    of_realm: BTreeMap<RealmId, BTreeSet<(u64, EpochId)>>,
}

impl NarrowEpochs {
    pub(crate) fn put(&mut self, row: EpochRow) {
        if let Some(old) = self.rows.get(&row.id)
            && let Some(epochs) = self.of_realm.get_mut(&old.realm)
        {
            epochs.remove(&(old.count, old.id));
        }
        self.of_realm.entry(row.realm).or_default().insert((row.count, row.id));
        self.rows.insert(row.id, row);
    }

    pub(crate) fn get(&self, id: &EpochId) -> Option<&EpochRow> {
        self.rows.get(id)
    }

    /// The epochs of a realm, the newest first.
    fn of(&self, realm: &RealmId) -> impl Iterator<Item = &EpochRow> {
        let epochs = self.of_realm.get(realm).into_iter().flatten().rev();
        epochs.filter_map(|(_, id)| self.rows.get(id))
    }
}

/// A node's key for an access value: its own, and those of earlier generations.
pub(crate) struct Wrapped<'a> {
    pub generation: u32,
    pub key: &'a SymmetricKey,
    pub earlier: &'a [(u32, DerivingKey)],
}

impl Wrapped<'_> {
    fn seal(&self, epoch: &DerivingKey, entropy: &dyn crypto::Entropy) -> Vec<u8> {
        let mut plain = self.key.expose().to_vec();
        for (generation, key) in self.earlier.iter().rev() {
            plain.extend_from_slice(&generation.to_le_bytes());
            plain.extend_from_slice(key.key().expose());
        }
        crypto::seal(&epoch.derive(Label::NodeKeyWrap), &self.generation.to_le_bytes(), &plain, entropy)
    }
}

/// A node's keys out of an access value, with the key of its epoch: that of the value's generation first.
pub(crate) fn unwrap_node_keys(epoch: &DerivingKey, access: &AccessHead) -> Option<Vec<(u32, DerivingKey)>> {
    let key = epoch.derive(Label::NodeKeyWrap);
    let bytes = crypto::open(&key, &access.generation.to_le_bytes(), &access.wrapped).ok()?;
    let (own, earlier) = bytes.split_first_chunk::<32>()?;
    let mut keys = vec![(access.generation, SymmetricKey::from_bytes(*own).into())];
    if earlier.len() % EARLIER_KEY != 0 {
        return None;
    }
    for entry in earlier.chunks_exact(EARLIER_KEY) {
        let (generation, key) = entry.split_first_chunk::<4>()?;
        let key: [u8; 32] = key.try_into().ok()?;
        keys.push((u32::from_le_bytes(*generation), SymmetricKey::from_bytes(key).into()));
    }
    Some(keys)
}

impl Node {
    /// Takes up keys that an access value brings; tells whether one is new. The key that a node was born with is one: its
    /// attributes' tags hang on it.
    pub(crate) fn learn(&mut self, keys: Vec<(u32, DerivingKey)>) -> bool {
        let before = self.keys.len();
        for (generation, key) in keys {
            let known = |(g, known): &(u32, DerivingKey)| {
                *g == generation && (generation == 1 || known.key().expose() == key.key().expose())
            };
            if generation > 0 && !self.keys.iter().any(known) {
                let after = self.keys.partition_point(|(g, _)| *g <= generation);
                self.keys.insert(after, (generation, key));
            }
        }
        self.keys.len() > before
    }

    /// Has a known key be the last of its generation; tells whether another one was.
    pub(crate) fn put_last(&mut self, generation: u32, key: &DerivingKey) -> bool {
        let end = self.keys.partition_point(|(g, _)| *g <= generation);
        let is_it = |(g, known): &(u32, DerivingKey)| *g == generation && known.key().expose() == key.key().expose();
        match self.keys[..end].iter().position(is_it).filter(|place| place + 1 < end) {
            Some(place) => self.keys[place..end].rotate_left(1),
            None => return false,
        }
        true
    }
}

impl Core {
    /// Takes in an epoch. One that is told of again stays what it was first.
    pub(crate) fn apply_narrow_epoch(
        &mut self,
        origin: &Origin,
        at: ValueRef,
        (realm, epoch): (&RealmId, &EpochId),
        sealed: &[SealedKey],
        carried: &[u8],
    ) -> Result<()> {
        if sealed.len() > MAX_READERS {
            return rule("an epoch for too many readers");
        }
        let known = self.epoch_row(epoch).cloned();
        let key = known.as_ref().and_then(|row| row.key.clone()).or_else(|| self.unseal_epoch(epoch, sealed));
        let (given, by) = (Vec::new(), Some(origin.user));
        let new = EpochRow { id: *epoch, at, count: origin.count, key: key.clone(), given, realm: *realm, by };
        // (One whose key was handed over before the commits came has no count yet.)
        let row = known.filter(|row| row.count > 0).map_or(new, |row| EpochRow { key: key.clone(), ..row });
        self.overlay.members.push(MemberRow::Epoch(row));
        if let Some(key) = key {
            self.learn_carried(*epoch, &key, carried);
        }
        Ok(())
    }

    /// The epoch that seals for those who may read by these rights; a new one if there is none to use.
    fn epoch_for(&mut self, rights: &Rights) -> Result<(EpochId, DerivingKey)> {
        let Readers::Users(readers) = rights.readers() else {
            return self.sealing_epoch().ok_or(Error::ReadOnly);
        };
        let realm = rights.realm();
        let me = self.my_id;
        let usable = |row: &EpochRow| {
            let by = row.by.filter(|by| *by == me || readers.contains(by));
            row.key.clone().filter(|_| row.realm == realm && by.is_some()).map(|key| (row.at, row.id, key))
        };
        let fresh = self.overlay.members.iter().rev().filter_map(|row| match row {
            MemberRow::Epoch(row) => Some(row),
            _ => None,
        });
        let known: Vec<_> = fresh.chain(self.members.narrow.of(&realm)).filter_map(usable).collect();
        for (at, id, key) in known {
            // Who was removed since it was made may hold its key.
            if !self.is_stale(at)? {
                return Ok((id, key));
            }
        }
        self.make_epoch(realm, &readers)
    }

    /// Makes an epoch of a realm, and seals its key to its readers, as far as they are known.
    ///
    /// # Errors
    /// [`Error::NotPermitted`] when none of them could open it: they were removed, or all their devices were.
    fn make_epoch(&mut self, realm: RealmId, readers: &BTreeSet<UserId>) -> Result<(EpochId, DerivingKey)> {
        let key = SymmetricKey::generate(&*self.entropy);
        let epoch = epoch_id(&key);
        let there = |user: &&UserId| self.members.users.get(*user).is_some_and(|row| !row.removed);
        let users: Vec<UserId> = readers.iter().filter(there).copied().collect();
        let recipients = self.recipients(users)?;
        let sealed = self.seal_epoch(&epoch, &key, &recipients);
        if sealed.len() > MAX_READERS {
            return Err(Error::TooBig);
        }
        // What is given to whoever has no device left would be nobody's.
        if sealed.is_empty() {
            return Err(Error::NotPermitted);
        }
        let earlier = || self.members.narrow.of(&realm);
        let previous = earlier().find(|row| row.key.is_some()).map(|row| row.id);
        let carried = self.seal_carried((&epoch, &key), earlier());
        self.emit::<MemberBody>(ChangeKind::Epoch { realm, epoch, previous, sealed, carried }, &[], None)?;
        let key = DerivingKey::from(key);
        // Who gives a file away seals for others alone, and may do so again.
        if let Some(row) = self.epoch_row(&epoch).cloned() {
            self.overlay.members.push(MemberRow::Epoch(EpochRow { key: Some(key.clone()), ..row }));
        }
        Ok((epoch, key))
    }

    /// The clear part of an access value: these rights, and the node's keys for those who may read by them.
    pub(crate) fn access_head(&mut self, rights: &Rights, wrapped: &Wrapped<'_>) -> Result<AccessHead> {
        let (epoch, epoch_key) = self.epoch_for(rights)?;
        Ok(AccessHead {
            owner: rights.owner,
            realm: rights.realm(),
            epoch,
            generation: wrapped.generation,
            wrapped: wrapped.seal(&epoch_key, &*self.entropy),
            mode: rights.mode(),
            grants: rights.grants(),
        })
    }

    // ---- what a path leaves

    /// Who may look into a directory.
    pub(crate) fn readers_of(&mut self, directory: Ino) -> Result<Readers> {
        self.with_node(directory, |n| match n.shown_access() {
            Some(access) if members_of(access.judged_mode) & READ == 0 => access.rights().readers(),
            _ => Readers::Members,
        })
    }

    /// Who may come to a node by any of its names; nothing if it has none.
    pub(crate) fn reach(&mut self, ino: Ino) -> Result<Option<Readers>> {
        let row = self.row(ino)?;
        let Some(NodeRow::Node(node)) = row.as_deref() else { return Err(Error::NotFound) };
        // Nearly everything is where all may look, and a file may have a great many names.
        let first = self.first_shown(ino, node)?;
        if let Some(shown) = first.as_ref().and_then(|link| link.shown.as_ref()) {
            let directory = self.canonical(shown.parent)?;
            if self.readers_of(directory)? == Readers::Members {
                return Ok(Some(Readers::Members));
            }
        }
        let mut reach: Option<Readers> = None;
        for link in self.shown_links(ino, node)? {
            let Some(shown) = &link.shown else { continue };
            let directory = self.canonical(shown.parent)?;
            let readers = self.readers_of(directory)?;
            reach = Some(match reach {
                Some(before) => before.or(readers),
                None => readers,
            });
            if reach == Some(Readers::Members) {
                break;
            }
        }
        Ok(reach)
    }

    /// The rights of what is made in a directory with this mode and ACL.
    pub(crate) fn rights_at_birth(&mut self, body: &AccessBody, directory: Ino) -> Result<Rights> {
        let owner = self.my_id;
        let asked = match self.local_uid {
            Some(_) => self.asked_by(owner, body),
            None => Rights::members(owner),
        };
        let home = self.canonical(directory)?;
        Ok(asked.within(&self.readers_of(home)?))
    }

    fn asked_by(&self, owner: UserId, body: &AccessBody) -> Rights {
        Rights::asked(owner, body.mode, &body.acl, |number| self.members.user_with(number))
    }

    /// Whether this user decides who may use a node.
    pub(crate) fn may_own(&mut self, ino: Ino) -> Result<bool> {
        let me = self.my_id;
        let owns = self.with_node(ino, |n| n.owner_now() == me)?;
        Ok(owns || self.members.role_of(&self.device.id()).is_some_and(Role::may_admit))
    }

    /// Whether this device's user can't read a node.
    pub(crate) fn is_sealed(&self, node: &Node) -> bool {
        node.is_sealed_to(&self.my_id)
    }

    /// # Errors
    /// [`Error::Denied`] when this device's user can't read a node, now or as it is looked at.
    pub(crate) fn check_readable(&mut self, ino: Ino) -> Result<()> {
        let me = self.my_id;
        let sealed = |row: Option<&NodeRow>| matches!(row, Some(NodeRow::Node(node)) if node.is_sealed_to(&me));
        if sealed(self.row(ino)?.as_deref()) || self.past.is_some() && sealed(self.present_row(ino)?.as_deref()) {
            return Err(Error::Denied);
        }
        Ok(())
    }

    // ---- access values

    /// Writes a new access value of a node, in place of `gone`. `to`: it is another's from then on.
    ///
    /// Who may not decide about it, but may write, leaves it to the same users.
    pub(crate) fn put_access(
        &mut self,
        ino: Ino,
        body: &AccessBody,
        to: Option<UserId>,
        gone: &[ValueRef],
    ) -> Result<()> {
        let node = self.node(ino)?;
        let shown = node.shown_access().ok_or_else(|| Error::damaged("access"))?;
        let now = shown.rights();
        let owner = to.unwrap_or(shown.owner);
        let rights = if !self.may_own(ino)? {
            now
        } else {
            let asked = match self.local_uid {
                Some(_) => self.asked_by(owner, body),
                // On a system mount modes are for this machine's accounts.
                None => given(now, owner),
            };
            match self.reach(ino)? {
                Some(readers) => asked.within(&readers),
                None => asked,
            }
        };
        self.write_access(&node, &rights, body, gone, false).map(drop)
    }

    /// Gives a node a new key before something more is sealed under it, if somebody who was removed may hold the one it has.
    /// Whoever may write does that.
    pub(crate) fn renew_key_if_stale(&mut self, ino: Ino) -> Result<()> {
        if !self.members.ever_changed() {
            return Ok(());
        }
        let row = self.row(ino)?;
        let Some(NodeRow::Node(node)) = row.as_deref() else { return Ok(()) };
        if self.has_stale_key(node)? {
            self.renew_key(node, self.now())?;
        }
        Ok(())
    }

    /// Whether somebody who was removed may hold a key of a node that is in use.
    pub(crate) fn has_stale_key(&mut self, node: &Node) -> Result<bool> {
        if !self.members.ever_changed() {
            return Ok(false);
        }
        for value in &node.access {
            if self.is_under_stale_epoch(value.at)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Gives a node a new key, and tells with which access value in place of which. Not where others have said apart from
    /// each other who may use it, and not the same.
    pub(crate) fn renew_key(&mut self, node: &Node, time: Timestamp) -> Result<Option<(ValueRef, ValueRef)>> {
        if self.is_sealed(node) {
            return Ok(None);
        }
        let Some(shown) = node.shown_access() else { return Ok(None) };
        let (rights, body) = (shown.rights(), shown.body(time));
        let is_same =
            |access: &Access| access.opened == Opened::Yes && access.rights() == rights && access.body(time) == body;
        let gone: Vec<ValueRef> = node.access.iter().map(|value| value.at).collect();
        let (true, Some(&old)) = (node.access.iter().all(|v| v.value.as_ref().is_some_and(is_same)), gone.last())
        else {
            return Ok(None);
        };
        let new = self.write_access(node, &rights, &body, &gone, true)?;
        Ok(Some((old, new)))
    }

    /// Whether the key that an access value brings may be held by somebody who was removed.
    pub(crate) fn is_under_stale_epoch(&mut self, at: ValueRef) -> Result<bool> {
        let head: Head = decode(&self.change(at)?.head)?;
        let (ChangeKind::Birth { access, .. } | ChangeKind::Access { access, .. }) = head.kind else {
            return Ok(false);
        };
        let Some(epoch) = self.epoch_row(&access.epoch) else { return Ok(false) };
        let (made_at, is_newest) = (epoch.at, self.sealing_epoch().is_some_and(|(newest, _)| newest == epoch.id));
        Ok(!is_newest && self.is_stale(made_at)?)
    }

    /// The same with these rights. Who loses the key by it gets none of what is sealed from then on.
    pub(crate) fn write_access(
        &mut self,
        node: &Node,
        rights: &Rights,
        body: &AccessBody,
        gone: &[ValueRef],
        renews: bool,
    ) -> Result<ValueRef> {
        if self.is_sealed(node) {
            return Err(Error::Denied);
        }
        let (top, key) = node.current_key().ok_or_else(|| Error::damaged("a node's key"))?;
        let several = node.keys.iter().filter(|(generation, _)| *generation >= top).count() > 1;
        let narrows = node.access.iter().filter_map(|v| v.value.as_ref()).any(|a| !a.rights().are_read_by(rights));
        let fresh = SymmetricKey::generate(&*self.entropy);
        let wrapped = if renews || narrows || several {
            let generation = top.checked_add(1).ok_or(Error::TooBig)?;
            Wrapped { generation, key: &fresh, earlier: &node.keys }
        } else {
            let earlier = &node.keys[..node.keys.len() - 1];
            Wrapped { generation: top, key: key.key(), earlier }
        };
        let access = self.access_head(rights, &wrapped)?;
        let sealing = DerivingKey::from(wrapped.key).derive(Label::BodyKey);
        self.emit(ChangeKind::Access { node: node.id, access }, gone, Some((&sealing, body)))
    }

    /// Whether a mode and an ACL ask for other rights than these, where a node is.
    pub(crate) fn asks_for_other(&mut self, ino: Ino, body: &AccessBody, now: &Rights) -> Result<bool> {
        if self.local_uid.is_none() {
            return Ok(false);
        }
        let asked = self.asked_by(now.owner, body);
        let asked = match self.reach(ino)? {
            Some(readers) => asked.within(&readers),
            None => asked,
        };
        Ok(asked != *now)
    }

    /// # Errors
    /// [`Error::Denied`] when this device's user may not change a node's content or attributes.
    pub(crate) fn check_writable(&mut self, ino: Ino) -> Result<()> {
        let ino = self.carrier(ino)?;
        let me = self.my_id;
        let may = self.with_node(ino, |n| !n.is_sealed_to(&me) && n.rights_of(&me) & WRITE != 0)?;
        if may { Ok(()) } else { Err(Error::Denied) }
    }

    /// Brings a node in line with the directories that lead to it, if this user decides about it. Tells whether anything
    /// had to change.
    pub(crate) fn follow_path(&mut self, ino: Ino) -> Result<bool> {
        if !self.may_own(ino)? {
            return Ok(false);
        }
        let row = self.row(ino)?;
        let Some(NodeRow::Node(node)) = row.as_deref() else { return Ok(false) };
        let (Some(shown), Some(readers)) = (node.shown_access(), self.reach(ino)?) else { return Ok(false) };
        let body = shown.body(self.now());
        let asked = if self.local_uid.is_some() && self.bin_place_of(node)? != Some(BinPlace::Thing) {
            self.asked_by(shown.owner, &body)
        } else {
            shown.rights()
        };
        let rights = asked.within(&readers);
        // Of several made apart, those that ask for the same were only brought in line; others stand for what somebody wanted.
        let asks_the_same = |access: &Access| access.owner == shown.owner && access.body(body.time) == body;
        let mut values = node.access.iter().map(|value| value.value.as_ref());
        let in_line = if values.clone().all(|value| value.is_some_and(asks_the_same)) {
            values.all(|value| value.is_some_and(|access| access.rights() == rights))
        } else {
            rights == shown.rights()
        };
        if in_line || self.is_sealed(node) {
            return Ok(false);
        }
        let gone: Vec<ValueRef> = node.access.iter().map(|v| v.at).collect();
        self.write_access(node, &rights, &body, &gone, false)?;
        Ok(true)
    }

    /// What this device's user may do with a node, in the bits of a mode's class: what is shown on their own mount.
    pub(crate) fn own_bits(&self, node: &Node) -> u16 {
        let Some(access) = node.shown_access() else { return 0 };
        let may = u16::from(node.rights_of(&self.my_id));
        let class = if access.acl.is_empty() {
            access.mode >> 3 & 7
        } else {
            let number = self.members.number_of(&self.my_id);
            match crate::acl::Acl::parse(&access.acl) {
                Ok(list) => {
                    let named = list.users().find(|(id, _)| *id == number).map(|(_, bits)| bits);
                    named.unwrap_or_else(|| list.group())
                }
                Err(_) => access.mode >> 3 & 7,
            }
        };
        if may & u16::from(READ) == 0 {
            return 0;
        }
        // What was made without a mode that counts leaves more than its mode says.
        let beyond = may & 2 != 0 && class & 2 == 0 || class == 0;
        let class = if beyond { class | may | (access.mode >> 6 & 1) } else { class };
        class & (5 | may)
    }
}

/// The same rights with another owner.
fn given(mut rights: Rights, owner: UserId) -> Rights {
    rights.named.remove(&owner);
    rights.owner = owner;
    rights
}

impl Access {
    pub(crate) fn rights(&self) -> Rights {
        Rights::of_parts(self.owner, self.judged_mode, &self.grants)
    }

    /// Its sealed part once more.
    pub(crate) fn body(&self, time: Timestamp) -> AccessBody {
        AccessBody {
            time,
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            acl: self.acl.to_vec(),
            default_acl: self.default_acl.to_vec(),
        }
    }
}
