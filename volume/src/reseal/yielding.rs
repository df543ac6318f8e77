//! What was only sealed anew gives way to what others did apart from that.
//!
//! A value that renews another is a value like any: beside an edit of the old one it would be a conflict, beside a removal
//! it would bring back what is gone, and it may outrank a move. So this device remembers which of its values renew which,
//! and where somebody who hadn't seen one of these replaced the old one, it takes the new one away again: as soon as it
//! hears of that, with ordinary changes.

use std::cmp::Reverse;

use crate::{
    Volume,
    commit::{ChangeKind, MetaBody, PlaceBody, XattrBody, encode},
    core::{Core, decode_row},
    error::{Error, Result},
    namespace::places,
    node::Ino,
    row::{ContentValue, Link, Node, NodeRow, Opened, Place, Value, Xattr, XattrValue},
    store::{Space, prefix_end},
    version::{Dot, ValueRef},
};

/// Of values that renew others, by their keys; the value is what they renew.
const RENEWS: &[u8] = b"renews/";
/// Of nodes that others changed apart from that.
const APART: &[u8] = b"apart/";
/// Rows dropped at once.
const AT_ONCE: usize = 1024;

/// What is in memory of it.
#[derive(Default)]
pub(crate) struct Renewals {
    /// The newest commit here that renews something that not all are known to have seen.
    newest: Option<Dot>,
    /// There may be nodes that others changed apart from that.
    has_apart: bool,
}

fn renews_key(at: ValueRef) -> Vec<u8> {
    [RENEWS, &at.key()].concat()
}

fn apart_key(ino: Ino) -> Vec<u8> {
    [APART, &ino.0.to_be_bytes()].concat()
}

impl Core {
    /// Notes, with what the running call changes, that a value says what another did.
    pub(super) fn note_renewed(&mut self, old: ValueRef, new: ValueRef) {
        // Of what was renewed twice, the first is what others may have seen.
        let first = self.renewed_by(old).ok().flatten().unwrap_or(old);
        self.store.put(&mut self.overlay.batch, Space::Meta, renews_key(new), &encode(&first));
        self.renewals.newest = self.renewals.newest.max(Some(new.dot));
    }

    /// What a value renews.
    fn renewed_by(&self, at: ValueRef) -> Result<Option<ValueRef>> {
        let row = self.store.get(Space::Meta, &renews_key(at))?;
        row.map(|row| decode_row("what a value renews", &row)).transpose()
    }

    /// Looks what an earlier run left.
    pub(crate) fn load_renewals(&mut self) -> Result<()> {
        let me = self.me;
        let last = self.store.raw().scan(Space::Meta, RENEWS, &prefix_end(RENEWS), 1)?;
        // (It is the newest that counts, and the newest commit here is none before that.)
        let tip = self.branch(me).tip;
        self.renewals.newest = (!last.is_empty()).then_some(Dot { branch: me, seq: tip });
        self.renewals.has_apart = self.first_apart()?.is_some();
        Ok(())
    }

    /// Notes a node that a commit from elsewhere changes, if its author hadn't seen what was renewed here.
    pub(crate) fn note_apart(&mut self, author: Dot, ino: Ino) -> Result<()> {
        if let Some(newest) = self.renewals.newest
            && !self.covers(author, newest)?
        {
            self.store.put(&mut self.overlay.batch, Space::Meta, apart_key(ino), &[]);
            self.renewals.has_apart = true;
        }
        Ok(())
    }

    fn first_apart(&self) -> Result<Option<Ino>> {
        let rows = self.store.raw().scan(Space::Meta, APART, &prefix_end(APART), 1)?;
        let Some((key, _)) = rows.first() else { return Ok(None) };
        let number = key[APART.len()..].try_into().map_err(|_| Error::damaged("a mark of a node"))?;
        Ok(Some(Ino(u64::from_be_bytes(number))))
    }

    /// Goes on with one node. Tells whether there was one.
    fn yield_some(&mut self) -> Result<bool> {
        let Some(ino) = self.first_apart()? else {
            self.renewals.has_apart = false;
            return Ok(false);
        };
        if self.may_change().is_ok() {
            match self.yield_node(ino) {
                // What it renewed is then as good as anybody's.
                Ok(()) | Err(Error::Denied | Error::NotPermitted | Error::NotFound) => {}
                Err(e) => return Err(e),
            }
        }
        self.overlay.batch.remove(Space::Meta, apart_key(ino));
        Ok(true)
    }

    fn yield_node(&mut self, ino: Ino) -> Result<()> {
        if !matches!(self.row(ino)?.as_deref(), Some(NodeRow::Node(_))) {
            return Ok(());
        }
        self.yield_access(ino)?;
        self.yield_times(ino)?;
        self.yield_xattrs(ino)?;
        self.yield_content(ino)?;
        let node = self.node(ino)?;
        let links: Vec<_> = self.link_ids(ino, &node)?;
        for id in links {
            if let (_, Some(link)) = self.found_link(ino, &id)? {
                self.yield_place((ino, &node), &link)?;
            }
        }
        self.yield_revived(ino)
    }

    /// Whether a value replaced another, by way of whatever came between.
    fn replaced(&mut self, newer: ValueRef, older: ValueRef) -> Result<bool> {
        Ok(newer != older && self.value_covers(newer, older)? && self.reaches(newer, older)?)
    }

    /// What is to show of a register, instead of a value that renews another: the greatest that replaced the other.
    fn value_to_show<T: Clone>(&mut self, values: &[Value<T>]) -> Result<Option<T>> {
        let Some((shown, others)) = values.split_last() else { return Ok(None) };
        let Some(old) = self.renewed_by(shown.at)? else { return Ok(None) };
        for other in others.iter().rev() {
            if other.value.is_some() && self.replaced(other.at, old)? {
                return Ok(other.value.clone());
            }
        }
        Ok(None)
    }

    /// Somebody said who may use it.
    fn yield_access(&mut self, ino: Ino) -> Result<()> {
        let node = self.node(ino)?;
        let Some(access) = self.value_to_show(&node.access)?.filter(|access| access.opened == Opened::Yes) else {
            return Ok(());
        };
        let (rights, body) = (access.rights(), access.body(node.ctime));
        if node.shown_access().is_some_and(|shown| shown.rights() == rights && shown.body(node.ctime) == body) {
            return Ok(());
        }
        let gone: Vec<ValueRef> = node.access.iter().map(|value| value.at).collect();
        match self.write_access(&node, &rights, &body, &gone, false) {
            // It is theirs to say: what both let is let until then.
            Ok(_) | Err(Error::Denied | Error::NotPermitted) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Somebody set times.
    fn yield_times(&mut self, ino: Ino) -> Result<()> {
        let node = self.node(ino)?;
        let Some(meta) = self.value_to_show(&node.meta)? else { return Ok(()) };
        let (generation, key) = self.body_key(ino)?;
        let gone: Vec<ValueRef> = node.meta.iter().map(|value| value.at).collect();
        let body = MetaBody { time: node.ctime, mtime: meta.mtime, atime: meta.atime };
        self.emit(ChangeKind::Meta { node: node.id, generation }, &gone, Some((&key, &body))).map(drop)
    }

    /// Somebody set an extended attribute, or removed one.
    fn yield_xattrs(&mut self, ino: Ino) -> Result<()> {
        let node = self.node(ino)?;
        let mut several = Vec::new();
        self.each_item::<Xattr>(ino, &node, true, |xattr| {
            several.extend((xattr.values.len() > 1).then(|| xattr.clone()));
            true
        })?;
        for xattr in several {
            let Some(value) = self.value_to_show(&xattr.values)? else { continue };
            let (generation, key) = self.body_key(ino)?;
            let gone: Vec<ValueRef> = xattr.values.iter().map(|value| value.at).collect();
            let value = match value {
                XattrValue::Set(value) => Some(value),
                XattrValue::Removed => None,
            };
            let body = XattrBody { time: node.ctime, name: xattr.name.clone(), value };
            let kind = ChangeKind::Xattr { node: node.id, generation, tag: xattr.tag };
            self.emit(kind, &gone, Some((&key, &body)))?;
        }
        Ok(())
    }

    /// Somebody wrote to the file, or sealed it anew as well: of two who do that, and take each other's for an edit, only one
    /// may give way. What is under an earlier key can only be an edit, and so is what was written later.
    fn yield_content(&mut self, ino: Ino) -> Result<()> {
        let node = self.node(ino)?;
        for (rank, new) in node.content.iter().enumerate() {
            let Some(old) = self.renewed_by(new.at)? else { continue };
            for (other_rank, other) in node.content.iter().enumerate() {
                let (Some(mine), Some(theirs)) = (&new.value, &other.value) else { continue };
                let first = |content: &ContentValue, rank| (content.generation, Reverse((content.mtime, rank)));
                if first(theirs, other_rank) < first(mine, rank) && self.replaced(other.at, old)? {
                    self.settle_conflict(ino, new.at)?;
                    break;
                }
            }
        }
        Ok(())
    }

    /// Somebody moved or removed a name.
    fn yield_place(&mut self, (ino, node): (Ino, &Node), link: &Link) -> Result<()> {
        let mut renewing = None;
        for value in &link.values {
            if let Some(old) = self.renewed_by(value.at)? {
                renewing = Some((value.at, old));
            }
        }
        let Some((new, old)) = renewing else { return Ok(()) };
        let others: Vec<_> = link.values.iter().filter(|value| value.at != new).collect();
        let mut replaced = false;
        for other in &others {
            replaced |= self.replaced(other.at, old)?;
        }
        if !replaced {
            return Ok(());
        }
        let place = others.iter().rev().find_map(|value| match &value.value {
            Some(Place::In { parent, name }) => Some((*parent, name.clone())),
            _ => None,
        });
        match place {
            None => {
                let kind = ChangeKind::Removal { link: link.id, child: node.id, time: self.now() };
                self.emit::<PlaceBody>(kind, &places(link), None).map(drop)
            }
            // Who sealed it anew as well.
            Some((parent, name)) if link.shown.as_ref().is_some_and(|s| s.parent == parent && s.name == name) => {
                self.place_again((ino, node.id), link, parent, &name).map(drop)
            }
            Some((parent, name)) if link.values.last().is_some_and(|last| last.at == new) => {
                self.place(Some(link.id), node.id, parent, &name, &places(link))
            }
            // It shows already.
            Some(_) => Ok(()),
        }
    }

    /// Somebody removed the file, and it shows only for what was sealed anew.
    fn yield_revived(&mut self, ino: Ino) -> Result<()> {
        let row = self.row(ino)?;
        let Some(NodeRow::Node(node)) = row.as_deref() else { return Ok(()) };
        if node.is_placed() || !node.is_shown() || node.content.is_empty() {
            return Ok(());
        }
        let links = self.shown_links(ino, node)?;
        for value in &node.content {
            let Some(old) = self.renewed_by(value.at)? else { return Ok(()) };
            for removal in links.iter().flat_map(|link| &link.values) {
                if !self.value_covers(removal.at, old)? {
                    return Ok(());
                }
            }
        }
        for link in links {
            let kind = ChangeKind::Removal { link: link.id, child: node.id, time: self.now() };
            self.emit::<PlaceBody>(kind, &places(&link), None)?;
        }
        Ok(())
    }
}

impl Volume {
    /// A step of giving way to what others did apart; tells whether there may be more to do.
    pub(crate) fn yield_some(&self) -> bool {
        if !self.inner.core.lock().renewals.has_apart {
            return false;
        }
        match self.beside_the_mount(Core::yield_some) {
            Ok(more) => more,
            Err(e) => {
                log::error!("what was sealed anew could not give way to what others did yet: {e}");
                false
            }
        }
    }

    /// Forgets what was renewed once everybody who may write has seen it.
    pub(super) fn forget_renewals(&self) -> Result<()> {
        let mut core = self.inner.core.lock();
        let Some(newest) = core.renewals.newest else { return Ok(()) };
        if core.renewals.has_apart || !core.have_writers_seen(newest)? {
            return Ok(());
        }
        loop {
            let rows = core.store.raw().scan(Space::Meta, RENEWS, &prefix_end(RENEWS), AT_ONCE)?;
            if rows.is_empty() {
                core.renewals.newest = None;
                return Ok(());
            }
            let mut batch = crate::store::Batch::new();
            for (key, _) in rows {
                batch.remove(Space::Meta, key);
            }
            core.store.apply(batch)?;
        }
    }
}
