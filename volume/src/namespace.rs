//! Calls on names and attributes: what a mount asks for, turned into changes.
//!
//! Every function here runs inside [`Core::call`]: it checks, emits changes, and either all of
//! them are stored or none.

use std::sync::Arc;

use crypto::{DerivingKey, Label, SymmetricKey, UserId};
use serde_bytes::ByteBuf;

use crate::{
    acl::{self, Acl},
    ahead,
    bins::BinPlace,
    commit::{AccessBody, BirthBody, ChangeKind, ContentBody, MetaBody, PlaceBody, XattrBody},
    content::{Content, ContentData},
    core::Core,
    error::{Error, Result},
    id::{LinkId, NodeId},
    member::Role,
    node::{
        AttributeChange, Attributes, Caller, DirEntry, Ino, LINK_MAX, NAME_MAX, NewNode, NodeKind, RenameMode, SetTime,
        SetXattr, TARGET_MAX,
    },
    realms::Wrapped,
    rights::{self, Rights},
    row::{Access, Entry, Link, Node, NodeRow, Opened, Place, Shown, Xattr, XattrValue},
    spilled::Item,
    time::Timestamp,
    tree::next_tag,
    version::ValueRef,
};

/// Longest extended attribute name and value, as Linux has them.
pub(crate) const XATTR_NAME_MAX: usize = 255;
const XATTR_VALUE_MAX: usize = 65_536;
/// All names of one node's extended attributes together, as `listxattr` can return.
const XATTR_LIST_MAX: usize = 65_536;
/// So many entries are looked at to have what they lead to read in one go.
const LIST_AHEAD: usize = 1024;
/// The attribute that tells whose a node is. It is not listed, so that nothing copies it.
const OWNER: &[u8] = b"user.p2pfs.owner";

const SUID: u16 = 0o4000;
const SGID: u16 = 0o2000;

impl Core {
    /// # Errors
    /// [`Error::ReadOnly`] when this device's user may not change anything, [`Error::NoSpace`] when the disk is full.
    pub(crate) fn may_change(&self) -> Result<()> {
        if self.is_writer() { self.space.check() } else { Err(Error::ReadOnly) }
    }

    /// Whether this device's user has a role that may write.
    pub(crate) fn is_writer(&self) -> bool {
        self.members.role_of(&self.device.id()).is_some_and(|role| role >= Role::Writer)
    }

    pub(crate) fn check_name(name: &[u8]) -> Result<()> {
        if name.len() > NAME_MAX {
            return Err(Error::NameTooLong);
        }
        if crate::apply::is_name(name) { Ok(()) } else { Err(Error::Invalid) }
    }

    /// The directory to look things up in.
    pub(crate) fn directory(&mut self, ino: Ino) -> Result<Ino> {
        let me = self.my_id;
        match self.with_node(ino, |n| (n.kind, n.is_sealed_to(&me)))? {
            (NodeKind::Directory, true) => Err(Error::Denied),
            (NodeKind::Directory, false) => {
                if self.past.is_some() {
                    self.check_readable(ino)?;
                }
                self.canonical(ino)
            }
            _ => Err(Error::NotDirectory),
        }
    }

    /// The directory to make something in: it must still be there.
    pub(crate) fn live_directory(&mut self, ino: Ino) -> Result<Ino> {
        let directory = self.directory(ino)?;
        let alive = directory == Ino::ROOT || self.with_node(directory, Node::is_shown)?;
        if alive { Ok(directory) } else { Err(Error::NotFound) }
    }

    /// What a name leads to.
    pub(crate) fn find(&mut self, directory: Ino, name: &[u8]) -> Result<(Ino, NodeKind)> {
        let directory = self.directory(directory)?;
        if name.len() > NAME_MAX {
            return Err(Error::NameTooLong);
        }
        self.entry(directory, name)?.shown().ok_or(Error::NotFound)
    }

    /// Attributes as the registers say.
    pub(crate) fn attributes(&mut self, ino: Ino) -> Result<Attributes> {
        let row = self.row(ino)?.ok_or(Error::NotFound)?;
        self.attributes_of(ino, &row)
    }

    /// The same from a row that was read.
    pub(crate) fn attributes_of(&mut self, ino: Ino, row: &NodeRow) -> Result<Attributes> {
        match row {
            NodeRow::View { of, value, .. } => {
                let mut attributes = self.attributes(*of)?;
                let (size, allocated, mtime) = self.with_node(*of, |n| {
                    let content = n.content.iter().find(|v| v.at == *value).and_then(|v| v.value.as_ref());
                    content.map_or((0, 0, n.mtime), |c| (c.size, c.allocated, c.mtime))
                })?;
                (attributes.size, attributes.allocated, attributes.mtime) = (size, allocated, mtime);
                (attributes.ino, attributes.links) = (ino, 1);
                Ok(attributes)
            }
            NodeRow::Node(node) => match node.merged_into {
                Some(_) => {
                    let home = self.canonical(ino)?;
                    let mut attributes = self.attributes(home)?;
                    attributes.ino = ino;
                    Ok(attributes)
                }
                None => {
                    let mut attributes = self.node_attributes(ino, node);
                    for &part in &node.merged {
                        attributes.mtime = attributes.mtime.max(self.with_node(part, |n| n.mtime)?);
                    }
                    if attributes.sealed || self.past.is_some() && self.check_readable(ino).is_err() {
                        attributes = closed(attributes);
                    }
                    if let Some(past) = self.past {
                        past.correct(&mut attributes);
                    }
                    Ok(attributes)
                }
            },
        }
    }

    fn node_attributes(&self, ino: Ino, node: &Node) -> Attributes {
        let access = node.shown_access();
        let content = node.content.last().and_then(|v| v.value.as_ref());
        let (size, allocated) = match node.kind {
            NodeKind::File => content.map_or((0, 0), |c| (c.size, c.allocated)),
            NodeKind::Symlink => (node.target.len() as u64, 0),
            NodeKind::Directory => (4096, 4096),
            _ => (0, 0),
        };
        let links = match node.kind {
            NodeKind::Directory if ino == Ino::ROOT || node.is_shown() => 2 + node.subdirs,
            NodeKind::Directory => 0,
            _ => u32::try_from(node.shown_count()).unwrap_or(u32::MAX),
        };
        let meta = node.meta.last().and_then(|v| v.value.as_ref());
        let (mode, owner) = (access.map_or(0, |a| a.mode), node.owner_now());
        let (other, own_mode) = match owner == self.my_id {
            true => (None, mode),
            false => {
                let bits = self.own_bits(node);
                let writes = node.rights_of(&self.my_id) & rights::WRITE != 0
                    && self.members.role_of(&self.device.id()).is_some_and(Role::may_write);
                let other = (!writes).then(|| self.members.number_of(&owner));
                let of_owner = if writes { bits << 6 } else { mode & 0o700 };
                // Where a list says what is whose, the group's bits are its mask.
                let of_group = match access {
                    Some(access) if !writes && !access.acl.is_empty() => mode & 0o070,
                    _ => bits << 3,
                };
                (other, mode & 0o7007 | of_owner | of_group)
            }
        };
        Attributes {
            ino,
            kind: node.kind,
            size,
            allocated,
            mtime: node.mtime,
            ctime: node.ctime,
            atime: meta.map_or(node.mtime, |m| m.atime),
            btime: node.btime,
            mode,
            links,
            uid: access.map_or(0, |a| a.uid),
            gid: access.map_or(0, |a| a.gid),
            rdev: node.rdev,
            sealed: self.is_sealed(node),
            other,
            own_mode,
        }
    }

    /// Entries after a cookie, "." and ".." first.
    pub(crate) fn list(&mut self, ino: Ino, after: u64, limit: usize) -> Result<Vec<DirEntry>> {
        let directory = self.directory(ino)?;
        let mut found = Vec::new();
        if after < 1 {
            found.push(DirEntry { name: b".".to_vec(), attributes: self.attributes(directory)?, cookie: 1 });
        }
        if after < 2 && found.len() < limit {
            let parent = self.with_node(directory, shown_in)?;
            let parent = match parent {
                Some(parent) => self.canonical(parent)?,
                None => directory,
            };
            found.push(DirEntry { name: b"..".to_vec(), attributes: self.attributes(parent)?, cookie: 2 });
        }
        let mut from = match after {
            0..=2 => [0; 16],
            _ => match next_tag(cookie_end(after)) {
                Some(tag) => tag,
                None => return Ok(found),
            },
        };
        while found.len() < limit {
            let batch = (limit - found.len()).max(16);
            let entries = self.scan_entries(directory, &from, batch)?;
            let Some((last, _)) = entries.last() else { break };
            let last = *last;
            let wanted = &entries[..entries.len().min(limit - found.len())];
            let mut absent = self.absent_nodes(wanted);
            if absent.len() > wanted.len() / 2 && ahead::would_be_near(&mut absent, LIST_AHEAD / wanted.len()) {
                // What was made together lies together, but a few entries are spread over all of it: of many entries
                // the nodes lie beside each other, unless the directory is large or was filled along with others.
                let ahead = self.scan_entries(directory, &from, LIST_AHEAD)?;
                absent = self.absent_nodes(&ahead);
            }
            self.load_nodes(absent);
            for (tag, entry) in entries {
                if found.len() >= limit {
                    return Ok(found);
                }
                let Some((child, _)) = entry.shown() else { continue };
                match self.attributes(child) {
                    Ok(attributes) => {
                        found.push(DirEntry { name: entry.name.clone(), attributes, cookie: cookie(&tag) });
                    }
                    Err(Error::NotFound) => log::warn!("an entry leads to inode {}, which is not there", child.0),
                    Err(e) => return Err(e),
                }
            }
            match next_tag(last) {
                Some(next) => from = next,
                None => break,
            }
        }
        Ok(found)
    }

    /// What entries lead to that is not in memory.
    fn absent_nodes(&self, entries: &[([u8; 16], Arc<Entry>)]) -> Vec<Ino> {
        let children = entries.iter().filter_map(|(_, entry)| entry.shown().map(|(child, _)| child));
        children.filter(|child| !self.has_node(*child)).collect()
    }

    // ---- making

    /// A new node with its first name.
    pub(crate) fn make(&mut self, parent: Ino, name: &[u8], new: NewNode<'_>, mode: u16, who: &Caller) -> Result<Ino> {
        Self::check_name(name)?;
        let directory = self.live_directory(parent)?;
        if self.entry(directory, name)?.shown().is_some() {
            return Err(Error::Exists);
        }
        self.may_change()?;
        let above = self.with_node(directory, |n| n.access.last().and_then(|v| v.value.clone()))?;
        let bin_place = match self.local_uid {
            Some(_) => self.bin_place(directory, name, new.kind())?,
            None => None,
        };
        let mode = bin_place.map_or(mode, |place| place.mode(mode));
        let mut access = AccessBody {
            time: self.now(),
            mode: mode & 0o7777,
            uid: who.uid,
            gid: who.gid,
            acl: Vec::new(),
            default_acl: Vec::new(),
        };
        if let Some(above) = &above {
            let inherits = self.local_uid.is_some() || directory != Ino::ROOT || self.root_was_changed()?;
            if above.mode & SGID != 0 {
                access.gid = above.gid;
                if matches!(new, NewNode::Directory) {
                    access.mode |= SGID;
                }
            }
            inherit_acl(above, inherits, &new, &mut access, who.umask);
        }
        let (target, rdev) = match new {
            NewNode::Symlink([]) => return Err(Error::NotFound),
            NewNode::Symlink(target) if target.len() > TARGET_MAX => return Err(Error::NameTooLong),
            // What replicas would read as no target.
            NewNode::Symlink(target) if target.contains(&0) => return Err(Error::Invalid),
            NewNode::Symlink(target) => (target.to_vec(), 0),
            NewNode::CharDevice(rdev) | NewNode::BlockDevice(rdev) => (Vec::new(), rdev),
            _ => (Vec::new(), 0),
        };
        if matches!(new, NewNode::Symlink(_)) {
            access.mode = 0o777;
        }
        let rights = self.rights_at_birth(&access, directory)?;
        let id = self.bear(new.kind(), BirthBody { access, rdev, target }, &rights)?;
        let ino = self.ino_of_node(&id)?.ok_or(Error::NotFound)?;
        self.place(None, id, directory, name, &[])?;
        Ok(ino)
    }

    /// Whether the root's permissions were ever set. What it was born with is for members' own mounts: where modes are for
    /// accounts of a machine, it makes nothing inherit.
    fn root_was_changed(&mut self) -> Result<bool> {
        self.with_node(Ino::ROOT, |n| n.access.last().is_some_and(|v| !n.born.contains(&v.at)))
    }

    /// Emits a birth; the root's when nothing was born yet.
    pub(crate) fn bear(&mut self, kind: NodeKind, body: BirthBody, rights: &Rights) -> Result<NodeId> {
        let key = DerivingKey::from(SymmetricKey::generate(&*self.entropy));
        let access = self.access_head(rights, &Wrapped { generation: 1, key: key.key(), earlier: &[] })?;
        let place = self.next_birthplace();
        self.overlay.bearing = Some(key.clone());
        let at = self.emit(ChangeKind::Birth { kind, access }, &[], Some((&key.derive(Label::BodyKey), &body)))?;
        let raw = self.change(at)?;
        Ok(place.node(&raw.head, &raw.body))
    }

    /// Puts a link somewhere: a new one, or one that leaves its old places.
    pub(crate) fn place(
        &mut self,
        link: Option<LinkId>,
        child: NodeId,
        directory: Ino,
        name: &[u8],
        gone: &[ValueRef],
    ) -> Result<()> {
        self.renew_key_if_stale(directory)?;
        let (parent, generation, key) = self.with_node(directory, |n| {
            (n.id, n.current_key().map(|k| k.0), n.current_key().map(|k| k.1.derive(Label::NameKey)))
        })?;
        let (Some(generation), Some(key)) = (generation, key) else { return Err(Error::damaged("a directory's key")) };
        let body = PlaceBody { time: self.now(), name: name.to_vec() };
        let kind = ChangeKind::Place { link, child, parent, generation };
        self.emit(kind, gone, Some((&key, &body)))?;
        Ok(())
    }

    /// Removes one link of a node.
    pub(crate) fn remove_link(&mut self, ino: Ino, link: &LinkId) -> Result<()> {
        let (child, found) = self.found_link(ino, link)?;
        let gone = places(&*found.ok_or(Error::NotFound)?);
        let kind = ChangeKind::Removal { link: *link, child, time: self.now() };
        self.emit::<PlaceBody>(kind, &gone, None)?;
        Ok(())
    }

    /// The newest key that seals bodies of a node's changes.
    pub(crate) fn body_key(&mut self, ino: Ino) -> Result<(u32, SymmetricKey)> {
        self.with_node(ino, |n| n.current_key().map(|(g, k)| (g, k.derive(Label::BodyKey))))?
            .ok_or_else(|| Error::damaged("a node's key"))
    }

    /// The link of `child` that shows in `directory` as `name` (or with its name taken, beside it).
    fn link_at(&mut self, child: Ino, directory: Ino, entry: &Entry) -> Result<(LinkId, Shown)> {
        let base = match (&entry.claims.first(), &entry.derived) {
            (Some(claim), _) if claim.child == child => return self.shown_link(child, &claim.link),
            (_, Some(derived)) => derived.base.clone(),
            _ => return Err(Error::NotFound),
        };
        let claims = self.entry(directory, &base)?.claims.clone();
        let claim = claims.iter().find(|c| c.child == child).ok_or(Error::NotFound)?;
        self.shown_link(child, &claim.link)
    }

    fn shown_link(&mut self, child: Ino, link: &LinkId) -> Result<(LinkId, Shown)> {
        let (_, found) = self.found_link(child, link)?;
        Ok((*link, found.and_then(|link| link.shown.clone()).ok_or(Error::NotFound)?))
    }

    /// The id of a node, and a link of it.
    pub(crate) fn found_link(&mut self, ino: Ino, link: &LinkId) -> Result<(NodeId, Option<Arc<Link>>)> {
        let row = self.row(ino)?;
        let Some(NodeRow::Node(node)) = row.as_deref() else { return Err(Error::NotFound) };
        Ok((node.id, self.link_of(ino, node, link)?))
    }

    pub(crate) fn link(&mut self, ino: Ino, parent: Ino, name: &[u8]) -> Result<Ino> {
        Self::check_name(name)?;
        let directory = self.live_directory(parent)?;
        let ino = self.made_real(ino)?;
        let (id, kind, links) = self.with_node(ino, |n| (n.id, n.kind, n.shown_count()))?;
        if kind == NodeKind::Directory {
            return Err(Error::NotPermitted);
        }
        if self.entry(directory, name)?.shown().is_some() {
            return Err(Error::Exists);
        }
        if links == 0 {
            return Err(Error::NotFound);
        }
        if links >= LINK_MAX as usize {
            return Err(Error::TooManyLinks);
        }
        self.may_change()?;
        self.anchor(ino)?;
        let reach = self.reach(ino)?;
        self.place(None, id, directory, name, &[])?;
        if self.reach(ino)? != reach {
            self.follow_path(ino)?;
        }
        Ok(ino)
    }

    // ---- removing

    pub(crate) fn unlink(&mut self, parent: Ino, name: &[u8]) -> Result<Ino> {
        let directory = self.directory(parent)?;
        let (ino, kind) = self.find(directory, name)?;
        if kind == NodeKind::Directory {
            return Err(Error::IsDirectory);
        }
        self.may_change_to_remove()?;
        self.remove_file(directory, name, ino)?;
        Ok(ino)
    }

    /// Removing is what frees room: it goes on a little longer than other calls on a full disk.
    fn may_change_to_remove(&self) -> Result<()> {
        match self.may_change() {
            Err(Error::NoSpace) => Ok(()),
            other => other,
        }
    }

    /// Takes away what a name leads to, no directory. A conflict's other values stay, each under its own name.
    pub(crate) fn remove_file(&mut self, directory: Ino, name: &[u8], ino: Ino) -> Result<()> {
        if let Some(NodeRow::View { of, value, .. }) = self.row(ino)?.as_deref() {
            return self.settle_conflict(*of, *value);
        }
        let entry = self.entry(directory, name)?;
        let (link, _) = self.link_at(ino, directory, &entry)?;
        let views: Vec<Ino> = self.with_node(ino, |n| n.views.iter().map(|v| v.1).collect())?;
        if entry.claims.first().is_some_and(|c| c.child == ino) {
            self.settle_names(directory, name)?;
        }
        let last = self.with_node(ino, |n| n.shown_count() <= 1)?;
        // Also where it has other names: somebody else may be removing these meanwhile.
        if last || !views.is_empty() {
            // What its writer sees is the branch of the open file, whatever ranks above it.
            let own = self.own.get(&ino).cloned().unwrap_or_default();
            let shown = self.with_node(ino, |n| n.content.last().map(|v| v.at))?;
            let hidden = shown.filter(|at| last && !own.is_empty() && !own.contains(at));
            for view in views {
                let is_own =
                    matches!(self.row(view)?.as_deref(), Some(NodeRow::View { value, .. }) if own.contains(value));
                if is_own {
                    continue;
                }
                match self.made_real(view) {
                    // Removing works on a full disk too, and the other names still lead to it.
                    Err(Error::NoSpace) if !last => {}
                    made => drop(made?),
                }
            }
            if let Some(value) = hidden {
                self.split_off(ino, value, directory, name)?;
            }
        }
        let reach = if last { None } else { self.reach(ino)? };
        self.remove_link(ino, &link)?;
        if !last && self.reach(ino)? != reach {
            self.follow_path(ino)?;
        }
        Ok(())
    }

    /// Makes the value that ranks highest, but that nobody here sees, a file beside the one it is of.
    fn split_off(&mut self, of: Ino, value: ValueRef, directory: Ino, name: &[u8]) -> Result<()> {
        let file = self.node(of)?;
        let beside = self.conflict_name(directory, name, value)?;
        let ino = self.allocate_ino();
        self.bear_copy(&file, value, ino, directory, &beside)
    }

    /// Gives links that show beside a taken name the name they show under, before that name is
    /// given up: else one of them would take it, and what was listed as two would turn into one.
    fn settle_names(&mut self, directory: Ino, name: &[u8]) -> Result<()> {
        for derived in self.entry(directory, name)?.derives.clone() {
            let Some(beside) = self.entry(directory, &derived)?.derived.clone() else { continue };
            let claims = self.entry(directory, name)?.claims.clone();
            if let Some(claim) = claims.iter().skip(1).find(|c| c.child == beside.ino) {
                self.move_all(&[(claim.child, claim.link)], directory, &derived)?;
            }
        }
        Ok(())
    }

    pub(crate) fn settle_conflict(&mut self, of: Ino, value: ValueRef) -> Result<()> {
        self.anchor(of)?;
        let node = self.with_node(of, |n| n.id)?;
        self.emit::<PlaceBody>(ChangeKind::Settle { node }, &[value], None)?;
        Ok(())
    }

    pub(crate) fn rmdir(&mut self, parent: Ino, name: &[u8]) -> Result<Ino> {
        let directory = self.directory(parent)?;
        let (ino, kind) = self.find(directory, name)?;
        if kind != NodeKind::Directory {
            return Err(Error::NotDirectory);
        }
        self.may_change_to_remove()?;
        self.settle_names(directory, name)?;
        self.remove_directory(ino)?;
        Ok(ino)
    }

    pub(crate) fn remove_directory(&mut self, ino: Ino) -> Result<()> {
        if self.has_entries(ino)? {
            return Err(Error::NotEmpty);
        }
        let parts = self.parts(ino)?;
        // A directory that only hangs elsewhere, to close no cycle, gets its place there before the
        // one it would have is gone.
        for directory in self.cyclic() {
            let Some(link) =
                self.with_node(directory, |n| n.hung_at.is_some().then(|| n.links.first().cloned()).flatten())?
            else {
                continue;
            };
            let inside = |v: &crate::row::Value<Place>| matches!(&v.value, Some(Place::In { parent, .. }) if parts.contains(parent));
            let last = self.last_parent(directory)?.is_some_and(|parent| parts.contains(&parent));
            if let (true, Some(shown)) = (last || link.values.iter().any(inside), &link.shown) {
                let home = self.canonical(shown.parent)?;
                self.move_all(&[(directory, link.id)], home, &shown.name)?;
            }
        }
        for part in parts {
            let link = self.with_node(part, |n| n.links.first().map(|l| l.id))?.ok_or(Error::Invalid)?;
            self.remove_link(part, &link)?;
        }
        Ok(())
    }

    /// Gives a file that shows only because an edit outlived its removal its places back, before
    /// what revived it changes.
    pub(crate) fn anchor(&mut self, ino: Ino) -> Result<()> {
        let row = self.row(ino)?;
        let Some(NodeRow::Node(node)) = row.as_deref() else { return Err(Error::NotFound) };
        if node.is_placed() {
            return Ok(());
        }
        for link in self.shown_links(ino, node)? {
            let Some(shown) = &link.shown else { continue };
            let directory = self.canonical(shown.parent)?;
            self.move_all(&[(ino, link.id)], directory, &shown.name)?;
        }
        Ok(())
    }

    /// The directories that show as this one, itself last: the others must go first, or it would
    /// be the oldest of them that takes its name.
    fn parts(&mut self, ino: Ino) -> Result<Vec<Ino>> {
        let home = self.canonical(ino)?;
        let mut parts = self.with_node(home, |n| n.merged.clone())?;
        parts.push(home);
        Ok(parts)
    }

    pub(crate) fn has_entries(&mut self, ino: Ino) -> Result<bool> {
        let directory = self.canonical(ino)?;
        let mut from = [0; 16];
        loop {
            let entries = self.scan_entries(directory, &from, 16)?;
            let Some((last, _)) = entries.last() else { return Ok(false) };
            if entries.iter().any(|(_, e)| e.shown().is_some()) {
                return Ok(true);
            }
            match next_tag(*last) {
                Some(next) => from = next,
                None => return Ok(false),
            }
        }
    }

    // ---- moving

    pub(crate) fn rename(
        &mut self,
        parent: Ino,
        name: &[u8],
        new_parent: Ino,
        new_name: &[u8],
        mode: RenameMode,
    ) -> Result<(Ino, Option<Ino>)> {
        Self::check_name(new_name)?;
        let from = self.directory(parent)?;
        let to = self.live_directory(new_parent)?;
        let (source, kind) = self.find(from, name)?;
        let target = self.entry(to, new_name)?.shown();
        match (mode, target) {
            (RenameMode::NoReplace, Some(_)) => return Err(Error::Exists),
            (RenameMode::Exchange, None) => return Err(Error::NotFound),
            _ => {}
        }
        if target.map(|t| t.0) == Some(source) {
            return Ok((source, None));
        }
        if kind == NodeKind::Directory && self.is_within(to, source)? {
            return Err(Error::Invalid);
        }
        self.may_change()?;
        match (mode, target) {
            (RenameMode::Exchange, Some((other, other_kind))) => {
                if other_kind == NodeKind::Directory && self.is_within(from, other)? {
                    return Err(Error::Invalid);
                }
                let (source, other) = (self.made_real(source)?, self.made_real(other)?);
                let one = self.moves_of(source, from, name)?;
                let two = self.moves_of(other, to, new_name)?;
                self.move_all(&one, to, new_name)?;
                self.move_all(&two, from, name)?;
                self.follow_moves(&[one, two].concat(), from, to)?;
                Ok((source, Some(other)))
            }
            _ => {
                if let Some((other, other_kind)) = target {
                    match (kind, other_kind) {
                        (NodeKind::Directory, NodeKind::Directory) => self.remove_directory(other)?,
                        (NodeKind::Directory, _) => return Err(Error::NotDirectory),
                        (_, NodeKind::Directory) => return Err(Error::IsDirectory),
                        _ => self.remove_file(to, new_name, other)?,
                    }
                }
                let real = self.made_real(source)?;
                if self.entry(from, name)?.claims.first().is_some_and(|c| c.child == real) {
                    self.settle_names(from, name)?;
                }
                let moves = self.moves_of(real, from, name)?;
                self.move_all(&moves, to, new_name)?;
                self.follow_moves(&moves, from, to)?;
                if from != to {
                    self.open_note(real, to, new_name)?;
                }
                Ok((source, target.map(|t| t.0)))
            }
        }
    }

    /// What was moved to where others may look is brought in line with that.
    fn follow_moves(&mut self, moves: &[(Ino, LinkId)], from: Ino, to: Ino) -> Result<()> {
        if from != to && self.readers_of(from)? != self.readers_of(to)? {
            for (ino, _) in moves {
                self.follow_path(*ino)?;
            }
        }
        Ok(())
    }

    /// The links to move when a name is moved: of a merged directory, all.
    fn moves_of(&mut self, ino: Ino, directory: Ino, name: &[u8]) -> Result<Vec<(Ino, LinkId)>> {
        if self.with_node(ino, |n| n.kind)? == NodeKind::Directory {
            let mut moves = Vec::new();
            for part in self.parts(ino)?.into_iter().rev() {
                let link = self.with_node(part, |n| n.links.first().map(|l| l.id))?.ok_or(Error::Invalid)?;
                moves.push((part, link));
            }
            return Ok(moves);
        }
        self.anchor(ino)?;
        let entry = self.entry(directory, name)?;
        let (link, _) = self.link_at(ino, directory, &entry)?;
        Ok(vec![(ino, link)])
    }

    pub(crate) fn move_all(&mut self, moves: &[(Ino, LinkId)], directory: Ino, name: &[u8]) -> Result<()> {
        for (ino, link) in moves {
            let (id, found) = self.found_link(*ino, link)?;
            let gone = found.map(|link| places(&link)).unwrap_or_default();
            self.place(Some(*link), id, directory, name, &gone)?;
        }
        Ok(())
    }

    // ---- conflicts

    /// The node to work on: a conflicting value is first made a file of its own, which keeps the
    /// inode number it shows under.
    pub(crate) fn made_real(&mut self, ino: Ino) -> Result<Ino> {
        let Some(NodeRow::View { of, .. }) = self.row(ino)?.as_deref().cloned() else { return Ok(ino) };
        self.may_change()?;
        let file = self.node(of)?;
        let shown = self.first_shown(of, &file)?.and_then(|link| link.shown.clone()).ok_or(Error::NotFound)?;
        let directory = self.canonical(shown.parent)?;
        let mut name = None;
        for derived in self.entry(directory, &shown.name)?.derives.clone() {
            if self.entry(directory, &derived)?.derived.as_ref().is_some_and(|d| d.ino == ino) {
                name = Some(derived.into_vec());
            }
        }
        let name = name.ok_or(Error::NotFound)?;
        self.make_real_as(ino, directory, &name)?;
        Ok(ino)
    }

    /// Makes a conflicting value a file of its own under this name.
    pub(crate) fn make_real_as(&mut self, ino: Ino, directory: Ino, name: &[u8]) -> Result<()> {
        let Some(NodeRow::View { of, value, .. }) = self.row(ino)?.as_deref().cloned() else { return Ok(()) };
        let file = self.node(of)?;
        // Settled first: its derived name must be free for the file.
        self.put_row(ino, None);
        self.bear_copy(&file, value, ino, directory, name)
    }

    /// Takes a value out of a file's register and makes it the content of a new file.
    fn bear_copy(&mut self, file: &Node, value: ValueRef, ino: Ino, directory: Ino, name: &[u8]) -> Result<()> {
        let content =
            file.content.iter().find(|v| v.at == value).and_then(|v| v.value.clone()).ok_or(Error::NotFound)?;
        let access = file.access.last().and_then(|v| v.value.clone()).ok_or_else(|| Error::damaged("access"))?;
        let content_body = self.content_body(file, value, &content)?;
        let of = self.ino_of_node(&file.id)?.ok_or(Error::NotFound)?;
        self.settle_conflict(of, value)?;
        // For those whom the file was for.
        let mut rights = access.rights();
        if rights.bits(&self.my_id) != rights::ALL {
            return Err(Error::Denied);
        }
        if rights.members != rights::ALL {
            rights.named.insert(rights.owner, rights::ALL);
        }
        rights.named.remove(&self.my_id);
        rights.owner = self.my_id;
        let access = AccessBody { default_acl: Vec::new(), ..access.body(self.now()) };
        let body = BirthBody { access, rdev: 0, target: Vec::new() };
        let id = self.bear_as(ino, NodeKind::File, body, &rights)?;
        let (generation, key) = self.body_key(ino)?;
        let (root, blocks) = content.tree.unwrap_or((crate::content::BlockHash::ZERO, 0));
        self.emit(ChangeKind::Content { node: id, generation, root, blocks }, &[], Some((&key, &content_body)))?;
        self.place(None, id, directory, name, &[])
    }

    /// A birth whose node takes over an inode number that is in use.
    fn bear_as(&mut self, ino: Ino, kind: NodeKind, body: BirthBody, rights: &Rights) -> Result<NodeId> {
        let next = self.overlay.next_ino;
        let id = self.bear(kind, body, rights)?;
        let fresh = self.ino_of_node(&id)?.ok_or(Error::NotFound)?;
        let node = self.node(fresh)?;
        self.put_row(fresh, None);
        self.overlay.nodes.remove(&fresh);
        self.overlay.next_ino = next;
        self.set_ino_of_node(&id, ino);
        self.put_node(ino, node);
        Ok(id)
    }

    /// A content value as the body of a change for another node: with all keys that its blocks need.
    pub(crate) fn content_body(
        &mut self,
        node: &Node,
        at: ValueRef,
        content: &crate::row::ContentValue,
    ) -> Result<ContentBody> {
        let data = match content.tree {
            Some((root, blocks)) => ContentData::Tree { root, blocks },
            None => ContentData::Inline(self.inline_bytes(node, at, content)?),
        };
        let mut keys: Vec<SymmetricKey> = content.keys.clone();
        if content.tree.is_some() {
            // Not those that came after: they seal what this content doesn't have.
            let own = node.keys.iter().filter(|(generation, _)| *generation <= content.generation);
            keys.extend(own.map(|(_, key)| key.key().clone()));
        }
        Ok(ContentBody {
            mtime: content.mtime,
            content: Content { size: content.size, allocated: content.allocated, data },
            keys,
        })
    }

    /// The bytes of an inline content, out of the change that wrote it.
    pub(crate) fn inline_bytes(
        &self,
        node: &Node,
        at: ValueRef,
        content: &crate::row::ContentValue,
    ) -> Result<Vec<u8>> {
        let raw = self.change(at)?;
        for key in node.keys_of(content.generation).rev() {
            let body: Option<ContentBody> = self.open_stored(at, &key.derive(Label::BodyKey), &raw)?;
            if let Some(ContentData::Inline(bytes)) = body.map(|b| b.content.data) {
                return Ok(bytes);
            }
        }
        Err(Error::damaged("inline content"))
    }

    // ---- attributes

    /// Sets everything but the size.
    pub(crate) fn set_attributes(&mut self, ino: Ino, change: &AttributeChange, who: &Caller) -> Result<()> {
        let ino = self.made_real(ino)?;
        if change.mode.is_some() || change.uid.is_some() || change.gid.is_some() || change.owner.is_some() {
            self.may_change()?;
            let to = match change.owner {
                Some(number) => Some(self.members.user_with(number).ok_or(Error::NotPermitted)?),
                None => None,
            };
            let parts = match change.mode.is_some() || to.is_some() {
                true => self.own_parts(ino)?,
                false => self.parts_of_any(ino)?,
            };
            for part in parts {
                let mode = change.mode.map(|mode| self.mode_to_set(part, mode & 0o7777)).transpose()?;
                self.change_access(part, to, |access, kind| {
                    if let Some(mode) = mode {
                        set_mode(access, mode);
                    }
                    if change.uid.is_some() || change.gid.is_some() {
                        if kind != NodeKind::Directory && change.mode.is_none() {
                            access.mode = without_privileges(access.mode, who.may_lend(access.gid));
                        }
                        access.uid = change.uid.unwrap_or(access.uid);
                        access.gid = change.gid.unwrap_or(access.gid);
                    }
                })?;
            }
        }
        if change.mtime.is_some() || change.atime.is_some() {
            self.may_change()?;
            for part in self.parts_of_any(ino)? {
                self.set_times(part, change.atime, change.mtime)?;
            }
        }
        Ok(())
    }

    /// What a chmod sets: file managers close the folders of a bin, which members share, and not only as they make them.
    fn mode_to_set(&mut self, ino: Ino, asked: u16) -> Result<u16> {
        if self.local_uid.is_some()
            && let Some(NodeRow::Node(node)) = self.row(ino)?.as_deref()
            && self.bin_place_of(node)? == Some(BinPlace::Folder)
        {
            return Ok(BinPlace::Folder.mode(asked));
        }
        Ok(asked)
    }

    /// What shows under a number, as far as this user decides about it.
    pub(crate) fn own_parts(&mut self, ino: Ino) -> Result<Vec<Ino>> {
        let mut own = Vec::new();
        for part in self.parts_of_any(ino)? {
            self.check_readable(part)?;
            if self.may_own(part)? {
                own.push(part);
            }
        }
        if own.is_empty() { Err(Error::NotPermitted) } else { Ok(own) }
    }

    fn parts_of_any(&mut self, ino: Ino) -> Result<Vec<Ino>> {
        if self.with_node(ino, |n| n.kind)? == NodeKind::Directory { self.parts(ino) } else { Ok(vec![ino]) }
    }

    pub(crate) fn set_times(&mut self, ino: Ino, atime: Option<SetTime>, mtime: Option<SetTime>) -> Result<()> {
        let now = self.now();
        let at = |set: SetTime| match set {
            SetTime::Now => now,
            SetTime::At(time) => time,
        };
        let (node, gone, old_atime, own_mtime) = self.with_node(ino, |n| {
            let meta = n.meta.last().and_then(|v| v.value.as_ref());
            let gone: Vec<ValueRef> = n.meta.iter().map(|v| v.at).collect();
            // Setting the access time alone must not pin a modification time that a later write moves on.
            let set = meta.and_then(|m| m.mtime).filter(|m| *m == n.mtime);
            (n.id, gone, meta.map_or(n.mtime, |m| m.atime), set)
        })?;
        let body = MetaBody { time: now, mtime: mtime.map(at).or(own_mtime), atime: atime.map_or(old_atime, at) };
        let (generation, key) = self.body_key(ino)?;
        self.emit(ChangeKind::Meta { node, generation }, &gone, Some((&key, &body)))?;
        Ok(())
    }

    /// Writes a new access value made from the shown one; of somebody else, if it goes `to` them.
    ///
    /// # Errors
    /// [`Error::NotPermitted`] for who may not decide about it, unless all that goes are set-id bits.
    pub(crate) fn change_access(
        &mut self,
        ino: Ino,
        to: Option<UserId>,
        f: impl FnOnce(&mut AccessBody, NodeKind),
    ) -> Result<()> {
        let now = self.now();
        let (kind, gone, old) = self.with_node(ino, |n| {
            let gone: Vec<ValueRef> = n.access.iter().map(|v| v.at).collect();
            (n.kind, gone, n.shown_access().map(|access| (access.body(now), access.opened, access.rights())))
        })?;
        let (before, opened, rights) = old.ok_or_else(|| Error::damaged("access"))?;
        // (What doesn't decode says nothing, and whose it is can set it anew.)
        if opened == Opened::Sealed {
            return Err(Error::Denied);
        }
        let mut body = before.clone();
        f(&mut body, kind);
        let mine = self.may_own(ino)?;
        let drops = AccessBody { mode: before.mode & (body.mode | !(SUID | SGID)), ..before.clone() };
        if !mine && (body != drops || to.is_some()) {
            return Err(Error::NotPermitted);
        }
        let stays = to.is_none_or(|to| to == rights.owner);
        if body == before && gone.len() == 1 && stays && !(mine && self.asks_for_other(ino, &body, &rights)?) {
            // As when `tar` gives root's files to root. Nobody else needs to know; here the call shows, as POSIX wants.
            let mut node = self.node(ino)?;
            node.ctime = body.time;
            self.put_node(ino, node);
            return Ok(());
        }
        self.put_access(ino, &body, to, &gone)
    }

    /// What writing to a file does to its mode, if anything.
    pub(crate) fn drop_privileges(&mut self, ino: Ino, who: &Caller) -> Result<()> {
        let access =
            self.with_node(ino, |n| n.access.last().and_then(|v| v.value.as_ref().map(|a| (a.mode, a.gid))))?;
        let Some((mode, gid)) = access.filter(|(mode, _)| mode & (SUID | SGID) != 0) else { return Ok(()) };
        let left = without_privileges(mode, who.may_lend(gid));
        if left != mode {
            self.change_access(ino, None, |access, _| access.mode = left)?;
        }
        Ok(())
    }

    // ---- extended attributes

    fn xattr_tag(&mut self, ino: Ino, name: &[u8]) -> Result<NodeId> {
        self.with_node(ino, |n| n.xattr_tag(name))?.ok_or_else(|| Error::damaged("a node's key"))
    }

    /// The node that carries the attributes of what shows under this number.
    pub(crate) fn carrier(&mut self, ino: Ino) -> Result<Ino> {
        match self.row(ino)?.as_deref() {
            Some(NodeRow::View { of, .. }) => Ok(*of),
            Some(NodeRow::Node(node)) if node.merged_into.is_some() => self.canonical(ino),
            Some(NodeRow::Node(_)) => Ok(ino),
            None => Err(Error::NotFound),
        }
    }

    pub(crate) fn get_xattr(&mut self, ino: Ino, name: &[u8]) -> Result<Vec<u8>> {
        let ino = self.carrier(ino)?;
        if name == OWNER {
            let owner = self.with_node(ino, Node::owner_now)?;
            return Ok(self.members.shown_name(&owner).into_bytes());
        }
        let is_list = name == acl::ACCESS || name == acl::DEFAULT;
        match self.check_readable(ino) {
            // Who lists a folder asks for the ACLs of all that is in it.
            Err(Error::Denied) if is_list => return Err(Error::NoAttribute),
            readable => readable?,
        }
        if is_list {
            let list = self.with_node(ino, |n| {
                let access = n.access.last().and_then(|v| v.value.as_ref());
                access.map(|a| if name == acl::ACCESS { a.acl.to_vec() } else { a.default_acl.to_vec() })
            })?;
            return list.filter(|l| !l.is_empty()).ok_or(Error::NoAttribute);
        }
        let found = self.xattr_named(ino, name)?;
        match found.as_ref().and_then(|x| x.values.last()).map(|v| &v.value) {
            None | Some(Some(XattrValue::Removed)) => Err(Error::NoAttribute),
            Some(None) => Err(Error::damaged("extended attribute")),
            Some(Some(XattrValue::Set(value))) => Ok(value.to_vec()),
        }
    }

    fn xattr_named(&mut self, ino: Ino, name: &[u8]) -> Result<Option<Arc<Xattr>>> {
        let row = self.row(ino)?;
        let Some(NodeRow::Node(node)) = row.as_deref() else { return Err(Error::NotFound) };
        if let Some(kept) = node.xattrs.iter().find(|x| x.name == name) {
            return Ok(Some(kept.clone()));
        }
        if node.spilled.xattrs == [0; 2] {
            return Ok(None);
        }
        match node.xattr_tag(name) {
            Some(tag) => Ok(self.item::<Xattr>(ino, node, tag.as_bytes())?.filter(|x| x.name == name)),
            None => Ok(None),
        }
    }

    pub(crate) fn list_xattrs(&mut self, ino: Ino) -> Result<Vec<Vec<u8>>> {
        let ino = self.carrier(ino)?;
        self.check_readable(ino)?;
        let row = self.row(ino)?;
        let Some(NodeRow::Node(node)) = row.as_deref() else { return Err(Error::NotFound) };
        let mut names: Vec<Vec<u8>> = acl_names(node).map(<[u8]>::to_vec).collect();
        self.each_item::<Xattr>(ino, node, true, |x| {
            names.push(x.name.clone());
            true
        })?;
        Ok(names)
    }

    /// Bytes of the names that [`Self::list_xattrs`] tells, each with its end.
    fn xattr_names(&mut self, ino: Ino) -> Result<usize> {
        self.with_node(ino, |n| {
            let kept = n.xattrs.iter().filter(|x| x.shows()).map(|x| x.name.as_slice());
            let bytes: usize = acl_names(n).chain(kept).map(|name| name.len() + 1).sum();
            bytes.saturating_add(usize::try_from(n.spilled.names).unwrap_or(usize::MAX))
        })
    }

    pub(crate) fn set_xattr(
        &mut self,
        ino: Ino,
        name: &[u8],
        value: Option<&[u8]>,
        how: SetXattr,
        who: &Caller,
    ) -> Result<()> {
        if name.is_empty() || name.len() > XATTR_NAME_MAX || name.contains(&0) {
            return Err(Error::Range);
        }
        if value.is_some_and(|v| v.len() > XATTR_VALUE_MAX) {
            return Err(Error::TooBig);
        }
        if name == OWNER {
            return Err(Error::NotPermitted);
        }
        let ino = self.carrier(ino)?;
        self.check_readable(ino)?;
        let ino = self.made_real(ino)?;
        let ino = self.carrier(ino)?;
        match (self.get_xattr(ino, name), how) {
            (Ok(_), SetXattr::Create) => return Err(Error::Exists),
            (Err(Error::NoAttribute), SetXattr::Replace) => return Err(Error::NoAttribute),
            (Ok(_) | Err(Error::NoAttribute), _) => {}
            // A new value, or none, in its place.
            (Err(Error::Damaged(_)), SetXattr::Any | SetXattr::Replace) => {}
            (Err(Error::Damaged(_)), SetXattr::Create) => return Err(Error::Exists),
            (Err(e), _) => return Err(e),
        }
        self.may_change()?;
        if name == acl::ACCESS || name == acl::DEFAULT {
            return self.set_acl(ino, name, value, who);
        }
        if value.is_some() && self.xattr_names(ino)?.saturating_add(name.len() + 1) > XATTR_LIST_MAX {
            return Err(Error::NoSpace);
        }
        self.renew_key_if_stale(ino)?;
        let tag = self.xattr_tag(ino, name)?;
        let row = self.row(ino)?;
        let Some(NodeRow::Node(node)) = row.as_deref() else { return Err(Error::NotFound) };
        let old = self.item::<Xattr>(ino, node, tag.as_bytes())?;
        let gone: Vec<ValueRef> = old.iter().flat_map(|x| &x.values).map(|v| v.at).collect();
        let node = node.id;
        let (generation, key) = self.body_key(ino)?;
        let body = XattrBody { time: self.now(), name: name.to_vec(), value: value.map(|v| ByteBuf::from(v.to_vec())) };
        self.emit(ChangeKind::Xattr { node, generation, tag }, &gone, Some((&key, &body)))?;
        Ok(())
    }

    fn set_acl(&mut self, ino: Ino, name: &[u8], value: Option<&[u8]>, who: &Caller) -> Result<()> {
        let list = match value {
            // An empty list means none, as setfacl -b may send it.
            Some(bytes) if bytes.len() > 4 => Some(Acl::parse(bytes)?),
            _ => None,
        };
        let kind = self.with_node(ino, |n| n.kind)?;
        if kind == NodeKind::Symlink {
            return Err(Error::NotSupported);
        }
        if name == acl::DEFAULT && kind != NodeKind::Directory {
            return if list.is_some() { Err(Error::Denied) } else { Ok(()) };
        }
        if !self.may_own(ino)? {
            return Err(Error::NotPermitted);
        }
        self.change_access(ino, None, |access, _| {
            if name == acl::DEFAULT {
                access.default_acl = list.map(|l| l.encode()).unwrap_or_default();
                return;
            }
            access.acl = Vec::new();
            if let Some(list) = list {
                access.mode = access.mode & 0o7000 | list.mode();
                // As chmod does, of which the kernel takes care.
                if !who.may_lend(access.gid) {
                    access.mode &= !SGID;
                }
                if !list.is_minimal() {
                    access.acl = list.encode();
                }
            }
        })
    }

    pub(crate) fn remove_xattr(&mut self, ino: Ino, name: &[u8]) -> Result<()> {
        match self.set_xattr(ino, name, None, SetXattr::Replace, &Caller::default()) {
            // Every file has a list of access; without one of its own its mode is the list.
            Err(Error::NoAttribute) if name == acl::ACCESS || name == acl::DEFAULT => Ok(()),
            removed => removed,
        }
    }

    pub(crate) fn readlink(&mut self, ino: Ino) -> Result<Vec<u8>> {
        self.check_readable(ino)?;
        self.with_node(ino, |n| (n.kind == NodeKind::Symlink).then(|| n.target.clone()))?.ok_or(Error::Invalid)
    }

    // ---- contents

    /// Writes a content value; the file comes back under its name if someone elsewhere removed it meanwhile.
    pub(crate) fn publish(
        &mut self,
        ino: Ino,
        content: Content,
        keys: Vec<SymmetricKey>,
        mtime: Timestamp,
        gone: &[ValueRef],
    ) -> Result<ValueRef> {
        self.anchor(ino)?;
        self.relink(ino, gone)?;
        self.renew_key_if_stale(ino)?;
        let id = self.with_node(ino, |n| n.id)?;
        let (generation, key) = self.body_key(ino)?;
        let (root, blocks) = match &content.data {
            ContentData::Tree { root, blocks } => {
                self.overlay.publishes = true;
                (*root, *blocks)
            }
            ContentData::Inline(_) => (crate::content::BlockHash::ZERO, 0),
        };
        let body = ContentBody { mtime, content, keys };
        self.emit(ChangeKind::Content { node: id, generation, root, blocks }, gone, Some((&key, &body)))
    }

    /// Puts a directory that was removed back to its last place, and those above it.
    pub(crate) fn live_again(&mut self, ino: Ino) -> Result<Ino> {
        if let Ok(directory) = self.live_directory(ino) {
            return Ok(directory);
        }
        let found = self.with_node(ino, |n| n.links.first().map(|l| (n.id, l.clone())))?;
        let Some((id, link)) = found else { return Ok(Ino::ROOT) };
        let Some((parent, name)) = self.last_place(&link)? else { return Ok(Ino::ROOT) };
        let directory = self.live_again(parent)?;
        self.place(Some(link.id), id, directory, &name, &places(&link))?;
        self.canonical(ino)
    }

    /// Puts a file whose links others removed back to its last place: its writer had it open.
    fn relink(&mut self, ino: Ino, seen: &[ValueRef]) -> Result<()> {
        if self.with_node(ino, Node::is_shown)? {
            return Ok(());
        }
        let Some(link) = self.lost_link(ino, seen)? else { return Ok(()) };
        let id = self.with_node(ino, |n| n.id)?;
        let Some((parent, name)) = self.last_place(&link)? else { return Ok(()) };
        let directory = self.live_again(parent)?;
        self.place(Some(link.id), id, directory, &name, &places(&link))
    }

    /// A link of a file that shows nowhere which others removed, while its writers here had the file open at `seen`.
    pub(crate) fn lost_link(&mut self, ino: Ino, seen: &[ValueRef]) -> Result<Option<Link>> {
        let me = self.me;
        let row = self.row(ino)?;
        let Some(NodeRow::Node(node)) = row.as_deref() else { return Err(Error::NotFound) };
        let mut removed = Vec::new();
        self.each_item::<Link>(ino, node, false, |link| {
            if link.values.iter().any(|v| v.at.dot.branch != me) {
                removed.push(link.clone());
            }
            true
        })?;
        for link in removed {
            if !self.was_forsaken(&link, seen)? {
                return Ok(Some((*link).clone()));
            }
        }
        Ok(None)
    }

    /// Whether a link was removed here, too, from under the writers who had the file open at `seen`. A removal that had
    /// not seen what they opened, or where it showed since, is older than that: an edit or a move had outlived it.
    fn was_forsaken(&mut self, link: &Link, seen: &[ValueRef]) -> Result<bool> {
        let own: Vec<ValueRef> = link.values.iter().map(|v| v.at).filter(|at| at.dot.branch == self.me).collect();
        if own.is_empty() {
            return Ok(false);
        }
        let places = self.past_places(link)?;
        for at in seen.iter().copied().chain(places.iter().map(|place| place.at)) {
            let mut known = false;
            for removal in &own {
                known |= self.value_covers(*removal, at)?;
            }
            if !known {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// The values of a link.
pub(crate) fn places(link: &Link) -> Vec<ValueRef> {
    link.values.iter().map(|v| v.at).collect()
}

/// The directory that holds the link of a directory.
fn shown_in(node: &Node) -> Option<Ino> {
    node.links.first()?.shown.as_ref().map(|shown| shown.parent)
}

/// The attributes that a node's lists of access show as.
fn acl_names<'a>(node: &Node) -> impl Iterator<Item = &'a [u8]> + use<'a> {
    let access = node.access.last().and_then(|v| v.value.as_ref());
    let (one, default) = access.map_or((false, false), |a| (!a.acl.is_empty(), !a.default_acl.is_empty()));
    one.then_some(acl::ACCESS).into_iter().chain(default.then_some(acl::DEFAULT))
}

/// What a new entry gets from its directory's default ACL, or else from the umask.
fn inherit_acl(above: &Access, inherits: bool, new: &NewNode<'_>, access: &mut AccessBody, umask: u16) {
    if matches!(new, NewNode::Symlink(_)) {
        return;
    }
    match Acl::parse(&above.default_acl) {
        Ok(default) if inherits => {
            let (list, mode) = default.inherit(access.mode);
            access.mode = mode;
            if !list.is_minimal() {
                access.acl = list.encode();
            }
            if matches!(new, NewNode::Directory) {
                access.default_acl = above.default_acl.to_vec();
            }
        }
        _ => access.mode &= !umask,
    }
}

/// Follows a chmod.
pub(crate) fn set_mode(access: &mut AccessBody, mode: u16) {
    access.mode = mode;
    if let Ok(mut acl) = Acl::parse(&access.acl) {
        acl.set_mode(mode);
        access.acl = acl.encode();
    }
}

/// What is left to be seen of what can't be read.
fn closed(attributes: Attributes) -> Attributes {
    Attributes { sealed: true, size: 0, allocated: 0, mode: 0, own_mode: 0, rdev: 0, ..attributes }
}

/// A mode without set-user-id, and without set-group-id where that means execution or is not the caller's to lend.
fn without_privileges(mode: u16, may_lend: bool) -> u16 {
    let mode = mode & !SUID;
    if mode & 0o010 != 0 || !may_lend { mode & !SGID } else { mode }
}

/// The cookie of an entry: the first bits of its tag, so that it stays the same whatever else changes.
pub(crate) fn cookie(tag: &[u8; 16]) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&tag[..8]);
    (u64::from_be_bytes(first) >> 1).max(3)
}

/// The last tag that has this cookie.
pub(crate) fn cookie_end(cookie: u64) -> [u8; 16] {
    let mut tag = [0xFF; 16];
    tag[..8].copy_from_slice(&(cookie << 1 | 1).to_be_bytes());
    tag
}
