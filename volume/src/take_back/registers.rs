//! One register: which values of others would be live without theirs, and how these take the place of what shows.

use std::collections::BTreeSet;

use crypto::{Label, SymmetricKey};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    apply::decode,
    commit::{AccessBody, BirthBody, ChangeKind, ContentBody, Head, MetaBody, PlaceBody, XattrBody},
    content::{BlockHash, Content, ContentData},
    error::{Error, Result},
    id::{LinkId, NodeId},
    namespace::places,
    node::Ino,
    row::{Node, NodeRow, Place, Xattr},
    time::Timestamp,
    version::{Dot, ValueRef},
};

use super::{Register, Run, STEPS, Step, Touched, What};

impl Run<'_> {
    /// The values of a register that would be live without theirs, in rising order: of those that are live and those that
    /// they superseded, what nobody else superseded.
    fn without_them(&mut self, live: &[ValueRef], before: &[ValueRef]) -> Result<Vec<ValueRef>> {
        let others = live.iter().copied().filter(|at| !self.theirs.have(*at)).chain(before.iter().copied());
        let all: BTreeSet<ValueRef> = others.collect();
        let mut kept = Vec::new();
        for &at in &all {
            let mut outlived = false;
            if !live.contains(&at) {
                for &other in all.iter().filter(|other| **other != at) {
                    outlived = outlived || self.supersedes(other, at)?;
                }
            }
            if !outlived {
                kept.push((at, self.core.count_of(at)?));
            }
        }
        let mut sorted: Vec<(ValueRef, u64)> = Vec::with_capacity(kept.len());
        for new in kept {
            let mut place = sorted.len();
            while place > 0 && self.core.rank(sorted[place - 1], new)?.is_gt() {
                place -= 1;
            }
            sorted.insert(place, new);
        }
        Ok(sorted.into_iter().map(|(at, _)| at).collect())
    }

    /// Whether a value superseded another, by way of whatever came between.
    fn supersedes(&mut self, newer: ValueRef, older: ValueRef) -> Result<bool> {
        let (mut todo, mut seen) = (vec![newer], BTreeSet::new());
        while let Some(at) = todo.pop() {
            for before in self.core.superseded_by(at)? {
                if before == older || seen.len() >= STEPS {
                    return Ok(true);
                }
                if seen.insert(before) && self.core.value_covers(before, older)? {
                    todo.push(before);
                }
            }
        }
        Ok(false)
    }

    /// Whether a content that is there once theirs is taken back is what others made of theirs; not where they put back
    /// what was before it.
    pub(super) fn is_made_of_theirs(&mut self, ino: Ino, before: &[ValueRef]) -> Result<bool> {
        let live: Vec<ValueRef> = self.core.with_node(ino, |n| n.content.iter().map(|v| v.at).collect())?;
        let (mut todo, mut seen) = (self.without_them(&live, before)?, BTreeSet::new());
        while let Some(at) = todo.pop() {
            if !seen.insert(at) || !self.has_seen_them(at)? {
                continue;
            }
            if seen.len() > STEPS {
                return Ok(true);
            }
            let over = self.core.superseded_by(at)?;
            if !over.iter().any(|at| self.theirs.have(*at)) {
                todo.extend(over);
                continue;
            }
            let back: Vec<ValueRef> = over.into_iter().filter(|at| before.contains(at)).collect();
            if back.is_empty() && !self.is_as_before(ino, at, before)? {
                return Ok(true);
            }
            todo.extend(back);
        }
        Ok(false)
    }

    /// Whether a value was made knowing something of theirs.
    fn has_seen_them(&mut self, at: ValueRef) -> Result<bool> {
        for (&branch, &(seq, _)) in &self.theirs.0 {
            if self.core.covers(at.dot, Dot { branch, seq })? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether a content is the same as one of those before; without any, whether it is empty.
    fn is_as_before(&mut self, ino: Ino, at: ValueRef, before: &[ValueRef]) -> Result<bool> {
        let content = self.body::<ContentBody>(ino, at)?.content;
        for before in before.iter().filter(|before| **before != at) {
            if self.body::<ContentBody>(ino, *before)?.content == content {
                return Ok(true);
            }
        }
        Ok(before.is_empty() && content.size == 0)
    }

    fn keys(&mut self, ino: Ino, generation: u32) -> Result<Vec<SymmetricKey>> {
        self.core.check_readable(ino)?;
        self.core.with_node(ino, |n| n.keys_of(generation).rev().map(|key| key.derive(Label::BodyKey)).collect())
    }

    /// What a stored change of a node says.
    fn body<T: Serialize + DeserializeOwned>(&mut self, ino: Ino, at: ValueRef) -> Result<T> {
        let raw = self.core.change(at)?;
        let head: Head = decode(&raw.head)?;
        let generation = match head.kind {
            ChangeKind::Birth { access, .. } | ChangeKind::Access { access, .. } => access.generation,
            ChangeKind::Meta { generation, .. }
            | ChangeKind::Xattr { generation, .. }
            | ChangeKind::Content { generation, .. } => generation,
            _ => return Err(Error::damaged("a value of another kind")),
        };
        for key in self.keys(ino, generation)? {
            if let Some(body) = self.core.open_stored(at, &key, &raw)? {
                return Ok(body);
            }
        }
        Err(Error::damaged("a value that does not decode"))
    }

    fn access_at(&mut self, ino: Ino, at: ValueRef) -> Result<AccessBody> {
        let head: Head = decode(&self.core.change(at)?.head)?;
        match head.kind {
            ChangeKind::Birth { .. } => Ok(self.body::<BirthBody>(ino, at)?.access),
            _ => self.body(ino, at),
        }
    }

    /// Puts a link back where it would be; tells where that is, and what that is for it.
    pub(super) fn place(
        &mut self,
        ino: Ino,
        id: LinkId,
        before: &[ValueRef],
        born: bool,
    ) -> Result<Option<(Vec<u8>, What)>> {
        let (node, Some(link)) = self.core.found_link(ino, &id)? else { return Ok(None) };
        let placed = link.values.iter().rev().find(|v| matches!(v.value, Some(Place::In { .. })));
        let Some(now) = placed.or(link.values.last()) else { return Ok(None) };
        if !self.theirs.have(now.at) {
            return Ok(None);
        }
        let live: Vec<ValueRef> = places(&link);
        let kept = self.without_them(&live, before)?;
        let mut target = None;
        for &at in kept.iter().rev() {
            target = self.core.past_place(at)?;
            if target.is_some() {
                break;
            }
        }
        // A name that they gave to what stays.
        if born && target.is_none() {
            return Ok(None);
        }
        match (target, now.value.clone()) {
            (None, Some(Place::Removed)) => Ok(None),
            (Some(target), Some(Place::In { parent, name })) if target.parent == parent && target.name == name => {
                Ok(None)
            }
            (None, value) => {
                let path = match value {
                    Some(Place::In { parent, name }) => self.core.path_in(parent, &name),
                    _ => Vec::new(),
                };
                self.remove(node, &link)?;
                Ok(Some((path, What::LosesName)))
            }
            (Some(target), value) => {
                if !self.dry_run {
                    self.directory_first(target.parent)?;
                    let directory = self.core.live_again(target.parent)?;
                    // By its own name: of a merged directory it is in that part of it.
                    let directory =
                        if self.core.canonical(target.parent)? == directory { target.parent } else { directory };
                    self.core.place(Some(id), node, directory, &target.name, &live)?;
                }
                let path = self.path_then(target.parent, &target.name)?;
                let removed = matches!(value, Some(Place::Removed));
                Ok(Some((path, if removed { What::ComesBack } else { What::GoesBack })))
            }
        }
    }

    /// Puts a directory back before what is to be in it.
    fn directory_first(&mut self, directory: Ino) -> Result<()> {
        let from = self.directories.partition_point(|touched| touched.ino < directory);
        let all = self.directories[from..].chunk_by(|a, b| a.ino == b.ino).next().unwrap_or_default();
        if all.first().is_none_or(|touched| touched.ino != directory)
            || self.core.with_node(directory, Node::is_shown)?
        {
            return Ok(());
        }
        // Those above it come first in turn, however deep: the stack grows with them.
        let mut steps = stacker::maybe_grow(256 << 10, 4 << 20, || self.node(all, all))?;
        self.early.append(&mut steps);
        Ok(())
    }

    /// The path of a name in a directory, which may show nowhere now.
    fn path_then(&mut self, directory: Ino, name: &[u8]) -> Result<Vec<u8>> {
        let shows = self.core.with_node(directory, Node::is_shown)? || directory == Ino::ROOT;
        match shows {
            true => Ok(self.core.path_in(directory, name)),
            false => self.core.as_of(self.then, |core| Ok(core.path_in(directory, name))),
        }
    }

    pub(super) fn content(&mut self, ino: Ino, before: &[ValueRef], all: &[Touched], born: bool) -> Result<bool> {
        let (id, live, btime): (NodeId, Vec<ValueRef>, Timestamp) =
            self.core.with_node(ino, |n| (n.id, n.content.iter().map(|v| v.at).collect(), n.btime))?;
        let theirs: Vec<ValueRef> = live.iter().copied().filter(|at| self.theirs.have(*at)).collect();
        let kept = self.without_them(&live, before)?;
        let back: Vec<ValueRef> = kept.iter().copied().filter(|at| !live.contains(at)).collect();
        // (What they made and others keep is as they made it where nobody else made it something else.)
        if theirs.is_empty() && back.is_empty() || born && kept.is_empty() {
            return Ok(false);
        }
        let metas: Vec<ValueRef> = all
            .iter()
            .filter(|touched| touched.register == Register::Meta)
            .filter_map(|touched| touched.before)
            .collect();
        let mut bodies = Vec::with_capacity(back.len().max(1));
        for &at in &back {
            let mut body: ContentBody = self.body(ino, at)?;
            body.mtime = self.mtime(ino, Some((at, body.mtime)), &metas, btime)?;
            bodies.push((Some(at), body));
        }
        if kept.is_empty() {
            // It was empty, and nobody else has written to it.
            let content = Content { size: 0, allocated: 0, data: ContentData::Inline(Vec::new()) };
            let mtime = self.mtime(ino, None, &metas, btime)?;
            bodies.push((None, ContentBody { mtime, content, keys: Vec::new() }));
        }
        if theirs.len() == bodies.len() {
            // Put back by them, it may be that already.
            let mut same = true;
            for at in &theirs {
                let body: Option<ContentBody> = self.body(ino, *at).ok();
                same &= body.is_some_and(|one| {
                    bodies.iter().any(|(_, other)| one.content == other.content && one.mtime == other.mtime)
                });
            }
            if same {
                return Ok(false);
            }
        }
        if self.dry_run {
            return Ok(true);
        }
        if bodies.is_empty() {
            self.core.emit::<PlaceBody>(ChangeKind::Settle { node: id }, &theirs, None)?;
            return Ok(true);
        }
        let (generation, key) = self.core.body_key(ino)?;
        for (nth, (from, body)) in bodies.into_iter().enumerate() {
            // What it brings back is named too, so that who looks later sees that it came back.
            let mut gone: Vec<ValueRef> = if nth == 0 { theirs.clone() } else { Vec::new() };
            gone.extend(from);
            let (root, blocks) = match body.content.data {
                ContentData::Tree { root, blocks } => (root, blocks),
                ContentData::Inline(_) => (BlockHash::ZERO, 0),
            };
            let kind = ChangeKind::Content { node: id, generation, root, blocks };
            let at = self.core.emit(kind, &gone, Some((&key, &body)))?;
            if let (Some(from), ContentData::Tree { .. }) = (from, &body.content.data) {
                self.core.want_again_from(from, at, root, blocks)?;
            }
        }
        Ok(true)
    }

    /// What would show as a file's time of modification, with this content of others (nothing: empty from birth).
    fn mtime(
        &mut self,
        ino: Ino,
        content: Option<(ValueRef, Timestamp)>,
        metas: &[ValueRef],
        btime: Timestamp,
    ) -> Result<Timestamp> {
        let live: Vec<ValueRef> = self.core.with_node(ino, |n| n.meta.iter().map(|v| v.at).collect())?;
        let set = match self.without_them(&live, metas)?.last() {
            Some(at) => self.body::<MetaBody>(ino, *at)?.mtime.map(|mtime| (*at, mtime)),
            None => None,
        };
        match (content, set) {
            (None, None) => Ok(btime),
            (None, Some((_, mtime))) => Ok(mtime),
            (Some((_, own)), None) => Ok(own),
            (Some((at, own)), Some((set, mtime))) => Ok(if self.core.value_covers(set, at)? { mtime } else { own }),
        }
    }

    pub(super) fn access(&mut self, ino: Ino, before: &[ValueRef]) -> Result<bool> {
        let live: Vec<ValueRef> = self.core.with_node(ino, |n| n.access.iter().map(|v| v.at).collect())?;
        let Some(shown) = live.last().copied().filter(|at| self.theirs.have(*at)) else { return Ok(false) };
        let Some(target) = self.without_them(&live, before)?.pop() else { return Ok(false) };
        let body = AccessBody { time: self.core.now(), ..self.access_at(ino, target)? };
        if self.access_at(ino, shown).is_ok_and(|now| AccessBody { time: body.time, ..now } == body) {
            return Ok(false);
        }
        if self.dry_run {
            return Ok(true);
        }
        let gone: Vec<ValueRef> = live.iter().copied().chain([target]).collect::<BTreeSet<_>>().into_iter().collect();
        if !self.core.may_own(ino)? {
            return Err(Error::NotPermitted);
        }
        self.core.put_access(ino, &body, None, &gone)?;
        Ok(true)
    }

    /// The times of a file to put back: the live values, the one that shows, which of others there was, and what it says
    /// with the content that will show.
    #[allow(clippy::type_complexity, reason = "what one value is replaced by")]
    pub(super) fn times(
        &mut self,
        ino: Ino,
        all: &[Touched],
    ) -> Result<Option<(Vec<ValueRef>, ValueRef, Option<ValueRef>, MetaBody)>> {
        let (live, contents, btime): (Vec<ValueRef>, Vec<ValueRef>, Timestamp) = self.core.with_node(ino, |n| {
            (n.meta.iter().map(|v| v.at).collect(), n.content.iter().map(|v| v.at).collect(), n.btime)
        })?;
        let Some(shown) = live.last().copied().filter(|at| self.theirs.have(*at)) else { return Ok(None) };
        let of = |register: Register| -> Vec<ValueRef> {
            all.iter().filter(|touched| touched.register == register).filter_map(|touched| touched.before).collect()
        };
        let target = self.without_them(&live, &of(Register::Meta))?.pop();
        let content = self.without_them(&contents, &of(Register::Content))?.pop();
        let body = match target {
            Some(target) => {
                let was: MetaBody = self.body(ino, target)?;
                // It tells of what it had seen.
                let covers = match content {
                    Some(at) => self.core.value_covers(target, at)?,
                    None => true,
                };
                MetaBody { mtime: was.mtime.filter(|_| covers), ..was }
            }
            None => {
                let own = match content {
                    Some(at) => self.body::<ContentBody>(ino, at)?.mtime,
                    None => btime,
                };
                MetaBody { time: self.core.now(), mtime: None, atime: own }
            }
        };
        Ok(Some((live, shown, target, body)))
    }

    pub(super) fn put_meta(
        &mut self,
        ino: Ino,
        live: &[ValueRef],
        (shown, target): (ValueRef, Option<ValueRef>),
        body: MetaBody,
    ) -> Result<bool> {
        let body = MetaBody { time: self.core.now(), ..body };
        if self.body::<MetaBody>(ino, shown).is_ok_and(|now| MetaBody { time: body.time, ..now } == body) {
            return Ok(false);
        }
        if self.dry_run {
            return Ok(true);
        }
        let id = self.core.with_node(ino, |n| n.id)?;
        let (generation, key) = self.core.body_key(ino)?;
        let gone: BTreeSet<ValueRef> = live.iter().copied().chain(target).collect();
        let gone: Vec<ValueRef> = gone.into_iter().collect();
        self.core.emit(ChangeKind::Meta { node: id, generation }, &gone, Some((&key, &body)))?;
        Ok(true)
    }

    /// Times of a directory that they set: when all that comes and goes in it has.
    pub(super) fn directory_times(&mut self, all: &[Touched]) -> Result<Vec<Step>> {
        let ino = all[0].ino;
        let metas = all.iter().filter(|touched| touched.register == Register::Meta);
        let before: Vec<ValueRef> = metas.clone().filter_map(|touched| touched.before).collect();
        let row = self.core.row(ino)?;
        let Some(NodeRow::Node(node)) = row.as_deref() else { return Ok(Vec::new()) };
        let live: Vec<ValueRef> = node.meta.iter().map(|v| v.at).collect();
        let shown = live.last().copied().filter(|at| self.theirs.have(*at));
        let (Some(shown), 1..) = (shown, metas.count()) else { return Ok(Vec::new()) };
        if !node.is_shown() || !self.is_below(ino, node, &[])? {
            return Ok(Vec::new());
        }
        let target = self.without_them(&live, &before)?.pop();
        let body = match target {
            Some(target) => {
                let was: MetaBody = self.body(ino, target)?;
                // It tells of the entries that it had seen.
                let changed = node.entry_change.map(|(at, ..)| at);
                let covers = match changed {
                    Some(at) => self.core.value_covers(target, at)?,
                    None => true,
                };
                MetaBody { mtime: was.mtime.filter(|_| covers), ..was }
            }
            None => {
                let atime = node.entry_change.map_or(node.btime, |(.., time)| time);
                MetaBody { time: self.core.now(), mtime: None, atime }
            }
        };
        if !self.put_meta(ino, &live, (shown, target), body)? {
            return Ok(Vec::new());
        }
        let path = self.core.path_of(ino).unwrap_or_default();
        Ok(vec![Step { path, from: None, what: What::Stays, contents: false, attributes: true, contents_kept: false }])
    }

    pub(super) fn xattr(&mut self, ino: Ino, tag: NodeId, before: &[ValueRef], born: bool) -> Result<bool> {
        let row = self.core.row(ino)?;
        let Some(NodeRow::Node(node)) = row.as_deref() else { return Ok(false) };
        let Some(item) = self.core.item::<Xattr>(ino, node, tag.as_bytes())? else { return Ok(false) };
        let live: Vec<ValueRef> = item.values.iter().map(|v| v.at).collect();
        let Some(shown) = live.last().copied().filter(|at| self.theirs.have(*at)) else { return Ok(false) };
        let target = self.without_them(&live, before)?.pop();
        if born && target.is_none() {
            return Ok(false);
        }
        let time = self.core.now();
        let body = match target {
            Some(target) => XattrBody { time, ..self.body(ino, target)? },
            None => XattrBody { time, name: item.name.clone(), value: None },
        };
        if self.body::<XattrBody>(ino, shown).is_ok_and(|now| now.value == body.value) {
            return Ok(false);
        }
        if self.dry_run {
            return Ok(true);
        }
        let (generation, key) = self.core.body_key(ino)?;
        let gone: BTreeSet<ValueRef> = live.iter().copied().chain(target).collect();
        let gone: Vec<ValueRef> = gone.into_iter().collect();
        self.core.emit(ChangeKind::Xattr { node: node.id, generation, tag }, &gone, Some((&key, &body)))?;
        Ok(true)
    }
}
