//! The merged tree: where each link shows, which names directories have, and what follows from
//! concurrent work (`docs/format.md`, "The merged tree").
//!
//! Owns the derived rows: `shown` of links, entries, merged directories, conflict views, hung
//! directories. Each function brings one of them in line with the registers; whoever changes a
//! register calls the one that follows from it. Invariant: afterwards the derived rows are what
//! computing the tree from scratch would give.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use crypto::Label;
use serde_bytes::ByteBuf;

use crate::{
    Changed,
    apply::{decode, is_name},
    commit::{self, ChangeKind, Head, PlaceBody, RawChange},
    conflicts::Origin,
    core::Core,
    error::{Error, Result},
    id::{Birthplace, CommitHash, LinkId, NodeId, ValueId},
    node::{Ino, NAME_MAX, NodeKind},
    row::{Claim, Derived, Entry, Link, Node, NodeRow, Place, Shown},
    time::Timestamp,
    version::{Dot, ValueRef},
};

/// Longest chain of superseded places that is looked through.
const PAST_MAX: usize = 256;
/// Most times that a removed directory is looked at again because of what looking at it changed.
const RECHECK_MAX: usize = 16;

/// A place as it once was.
#[derive(Clone, Debug)]
pub(crate) struct PastPlace {
    pub parent: Ino,
    pub(crate) name: Vec<u8>,
    pub(crate) at: ValueRef,
    count: u64,
}

impl Core {
    /// The directory as part of which this one shows.
    pub(crate) fn canonical(&mut self, mut directory: Ino) -> Result<Ino> {
        for _ in 0..64 {
            match self.with_node(directory, |n| n.merged_into)? {
                Some(into) => directory = into,
                None => return Ok(directory),
            }
        }
        Err(Error::damaged("merged directories"))
    }

    /// Brings in line where a link shows.
    pub(crate) fn refresh_link(&mut self, child: Ino, link: &LinkId) -> Result<()> {
        // Directories that come back bring back those above them, however deep: the stack grows with them.
        stacker::maybe_grow(256 << 10, 4 << 20, || self.refresh_link_here(child, link))
    }

    fn refresh_link_here(&mut self, child: Ino, link: &LinkId) -> Result<()> {
        let row = self.row(child)?;
        let Some(NodeRow::Node(node)) = row.as_deref() else { return Err(Error::NotFound) };
        let Some(before) = self.link_of(child, node, link)? else { return Ok(()) };
        let new = self.place_of(child, node, &before)?;
        let old = before.shown.clone();
        if old == new {
            return Ok(());
        }
        // Looking for its place changed nothing.
        drop(row);
        let mut node = self.taken_node(child)?;
        let kind = node.kind;
        let removed = kind == NodeKind::Directory && !node.is_placed();
        let hangs = node.hung_at.is_some();
        let after = Link { shown: new.clone(), ..(*before).clone() };
        self.put_item(child, &mut node, Some(&*before), Arc::new(after));
        self.put_node(child, node);
        // The old place first, whole: who showed as one with this directory there does no longer.
        if let Some(old) = &old {
            let directory = self.canonical(old.parent)?;
            let mut entry = (*self.entry(directory, &old.name)?).clone();
            entry.claims.retain(|c| c.link != *link);
            self.put_claims(directory, entry)?;
            if kind == NodeKind::Directory {
                self.set_merged(child, None)?;
            }
            let directory = self.canonical(old.parent)?;
            self.refresh_name(directory, &old.name)?;
        }
        if let Some(new) = &new {
            let directory = self.canonical(new.parent)?;
            let mut entry = (*self.entry(directory, &new.name)?).clone();
            entry.claims.retain(|c| c.link != *link);
            entry.claims.push(Claim { child, link: *link, kind, parent: new.parent, at: new.at, count: new.count });
            self.put_claims(directory, entry)?;
            self.refresh_name(directory, &new.name)?;
        }
        // A removed directory shows as long as something is there in it.
        let there = (old.is_some(), new.is_some());
        for parent in [old.map(|s| s.parent), new.map(|s| s.parent)].into_iter().flatten() {
            self.recheck_removed(parent)?;
        }
        if removed && there.0 != there.1 {
            self.recheck_cycles(child)?;
            if hangs && let Some(parent) = self.last_parent(child)? {
                self.recheck_removed(parent)?;
            }
        }
        Ok(())
    }

    /// Stores an entry whose claims changed, keeping its directory's count of subdirectories.
    fn put_claims(&mut self, directory: Ino, entry: Entry) -> Result<()> {
        let directories = |e: &Entry| e.claims.iter().filter(|c| c.kind == NodeKind::Directory).count() as i64;
        let before = directories(&*self.entry(directory, &entry.name)?);
        let change = directories(&entry) - before;
        if change != 0 {
            let mut node = self.node(directory)?;
            node.subdirs = u32::try_from(i64::from(node.subdirs) + change).unwrap_or(0);
            self.put_node(directory, node);
        }
        self.put_entry(directory, entry);
        Ok(())
    }

    /// Brings in line whether a directory that was removed comes back for what is in it.
    pub(crate) fn recheck_removed(&mut self, directory: Ino) -> Result<()> {
        if let Some(again) = self.overlay.rechecking.get_mut(&directory) {
            // Being looked at, further out: what changed meanwhile is looked at once that is done.
            *again = true;
            return Ok(());
        }
        let mut result = Ok(());
        for _ in 0..RECHECK_MAX {
            self.overlay.rechecking.insert(directory, false);
            result = self.recheck_removed_once(directory);
            let again = self.overlay.rechecking.remove(&directory).unwrap_or(false);
            if result.is_err() || !again {
                break;
            }
        }
        result
    }

    fn recheck_removed_once(&mut self, directory: Ino) -> Result<()> {
        let links = self.with_node(directory, |n| {
            // (A directory's only link is in its own row.)
            if n.is_removed() { n.links.iter().map(|l| l.id).collect() } else { Vec::new() }
        })?;
        for link in links {
            self.refresh_link(directory, &link)?;
        }
        Ok(())
    }

    /// Where a link should show.
    fn place_of(&mut self, child: Ino, node: &Node, link: &Link) -> Result<Option<Shown>> {
        let placed = node.is_placed();
        if !placed && !self.is_revived(child, node, link)? {
            return Ok(None);
        }
        if let Some((parent, name, at, count)) = &node.hung_at {
            return Ok(Some(Shown { parent: *parent, name: name.to_vec(), at: *at, count: *count }));
        }
        if placed {
            return Ok(link.values.iter().rev().find_map(|v| match &v.value {
                Some(Place::In { parent, name }) => {
                    Some(Shown { parent: *parent, name: name.clone(), at: v.at, count: v.count })
                }
                _ => None,
            }));
        }
        let mut past = self.past_places(link)?;
        Ok(past.pop().map(|p| Shown { parent: p.parent, name: p.name, at: p.at, count: p.count }))
    }

    /// Whether a node whose links were all removed comes back at this one: a file for the sake of a
    /// content value that is concurrent with the removals, a directory because something is in it.
    fn is_revived(&mut self, child: Ino, node: &Node, link: &Link) -> Result<bool> {
        if node.kind == NodeKind::Directory {
            return self.is_needed(child, &mut BTreeSet::new());
        }
        for value in node.content.iter().rev() {
            let mut unseen = true;
            for removal in &link.values {
                unseen &= !self.value_covers(removal.at, value.at)?;
            }
            if unseen && !self.saw_it_gone(link, value.at)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether a directory is there: it has a place, or was removed and something is in it.
    fn is_there(&mut self, directory: Ino) -> Result<bool> {
        if directory == Ino::ROOT || self.with_node(directory, Node::is_placed)? {
            return Ok(true);
        }
        self.is_needed(directory, &mut BTreeSet::new())
    }

    /// Whether something is there in a directory: a link that shows in it, or a removed directory in
    /// which, in turn, something is. If the directory went, that would go out of everybody's reach,
    /// whatever those who removed the directory had seen of it.
    ///
    /// Who is there is decided by winning places alone: where a directory hangs, to close no cycle,
    /// neither keeps nor loses anybody. And it is followed down to what really is there each time:
    /// two removed directories with their last places in each other don't keep each other alive.
    fn is_needed(&mut self, directory: Ino, visited: &mut BTreeSet<Ino>) -> Result<bool> {
        stacker::maybe_grow(256 << 10, 4 << 20, || self.is_needed_here(directory, visited))
    }

    fn is_needed_here(&mut self, directory: Ino, visited: &mut BTreeSet<Ino>) -> Result<bool> {
        if !visited.insert(directory) {
            return Ok(false);
        }
        let home = self.canonical(directory)?;
        let mut from = [0; 16];
        loop {
            let entries = self.scan_entries(home, &from, 64)?;
            let Some((last, _)) = entries.last() else { break };
            for claim in entries.iter().flat_map(|(_, e)| &e.claims).filter(|c| c.parent == directory) {
                if claim.kind != NodeKind::Directory {
                    return Ok(true);
                }
                let hangs = self.with_node(claim.child, |n| n.hung_at.is_some())?;
                if !hangs && self.keeps(claim.child, visited)? {
                    return Ok(true);
                }
            }
            match next_tag(*last) {
                Some(next) => from = next,
                None => break,
            }
        }
        for hung in self.cyclic() {
            let hangs = self.with_node(hung, |n| n.hung_at.is_some())?;
            if hangs && self.last_parent(hung)? == Some(directory) && self.keeps(hung, visited)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether a directory keeps the one that its winning place is in.
    fn keeps(&mut self, directory: Ino, visited: &mut BTreeSet<Ino>) -> Result<bool> {
        let placed = self.with_node(directory, Node::is_placed)?;
        Ok(placed || self.is_needed(directory, visited)?)
    }

    /// Whether who wrote a value knew the link and had seen that it was nowhere any more. (Of two
    /// concurrent changes of its place they may have seen the removal that lost.)
    fn saw_it_gone(&mut self, link: &Link, value: ValueRef) -> Result<bool> {
        let (mut places, mut gone, mut known) = (BTreeSet::new(), BTreeSet::new(), false);
        let mut todo: Vec<ValueRef> = link.values.iter().map(|v| v.at).chain(link.aside.iter().copied()).collect();
        let mut visited: BTreeSet<ValueRef> = todo.iter().copied().collect();
        while let Some(at) = todo.pop() {
            let head: Head = decode(&self.change(at)?.head)?;
            let seen = self.value_covers(value, at)?;
            known |= seen;
            if seen && matches!(head.kind, ChangeKind::Place { .. }) {
                places.insert(at);
            }
            for id in head.supersedes {
                let dot = match id.commit {
                    CommitHash::ZERO => at.dot,
                    hash => self.dot_of(&hash)?.ok_or_else(|| Error::damaged("a superseded commit is missing"))?,
                };
                let before = ValueRef { dot, index: id.index };
                if seen {
                    gone.insert(before);
                }
                if visited.len() < PAST_MAX && visited.insert(before) {
                    todo.push(before);
                }
            }
        }
        Ok(known && places.is_subset(&gone))
    }

    pub(crate) fn count_of(&mut self, value: ValueRef) -> Result<u64> {
        if self.is_pending(value.dot) { self.pending_count() } else { Ok(self.commit_info(value.dot)?.count) }
    }

    /// The places a link had before its present values, in rising order.
    pub(crate) fn past_places(&mut self, link: &Link) -> Result<Vec<PastPlace>> {
        let mut found: Vec<PastPlace> = Vec::new();
        let mut todo: Vec<ValueRef> = link.values.iter().map(|v| v.at).collect();
        let mut seen: BTreeSet<ValueRef> = todo.iter().copied().collect();
        for at in &todo {
            // A first place that is void counts as a removal from just there.
            if self.is_late_value(at)
                && let Some(place) = self.past_place(*at)?
            {
                found.push(place);
            }
        }
        while let Some(at) = todo.pop() {
            for before in self.superseded_by(at)? {
                if seen.len() >= PAST_MAX || !seen.insert(before) {
                    continue;
                }
                todo.push(before);
                if let Some(place) = self.past_place(before)? {
                    found.push(place);
                }
            }
        }
        let mut sorted: Vec<PastPlace> = Vec::with_capacity(found.len());
        for place in found {
            let mut i = sorted.len();
            while i > 0
                && self.rank((sorted[i - 1].at, sorted[i - 1].count), (place.at, place.count))? == Ordering::Greater
            {
                i -= 1;
            }
            sorted.insert(i, place);
        }
        Ok(sorted)
    }

    /// The values that a stored change superseded.
    pub(crate) fn superseded_by(&self, at: ValueRef) -> Result<Vec<ValueRef>> {
        let head: Head = decode(&self.change(at)?.head)?;
        self.values_of(at.dot, &head.supersedes)
    }

    /// By this device's names, values as a change of the commit `within` names them.
    pub(crate) fn values_of(&self, within: Dot, ids: &[ValueId]) -> Result<Vec<ValueRef>> {
        let mut found = Vec::with_capacity(ids.len());
        for id in ids {
            let dot = match id.commit {
                CommitHash::ZERO => within,
                hash => self.dot_of(&hash)?.ok_or_else(|| Error::damaged("a superseded commit is missing"))?,
            };
            found.push(ValueRef { dot, index: id.index });
        }
        Ok(found)
    }

    /// Reads a superseded place out of the change that wrote it; `None`: it was a removal, or forbidden.
    pub(crate) fn past_place(&mut self, at: ValueRef) -> Result<Option<PastPlace>> {
        let raw = self.change(at)?;
        let head: Head = decode(&raw.head)?;
        let ChangeKind::Place { link, child, parent, generation } = head.kind else { return Ok(None) };
        if !self.is_pending(at.dot) && self.commit_info(at.dot)?.void {
            return Ok(None);
        }
        let count = self.count_of(at)?;
        let Some(parent) = self.ino_of_node(&parent)? else { return Ok(None) };
        let keys: Vec<_> =
            self.with_node(parent, |n| n.keys_of(generation).rev().map(|key| key.derive(Label::NameKey)).collect())?;
        let mut body: Option<PlaceBody> = None;
        for key in &keys {
            body = body.map_or_else(|| self.open_stored(at, key, &raw), |body| Ok(Some(body)))?;
        }
        let name = match body.map(|b| b.name).filter(|n| is_name(n)) {
            Some(name) => name,
            None => format!("~{}", self.id_of_link(link, &child, at, &raw)?).into_bytes(),
        };
        Ok(Some(PastPlace { parent, name, at, count }))
    }

    /// The link that a stored place is of.
    pub(crate) fn id_of_link(
        &mut self,
        said: Option<LinkId>,
        child: &NodeId,
        at: ValueRef,
        raw: &RawChange,
    ) -> Result<LinkId> {
        if let Some(said) = said {
            return Ok(said);
        }
        let ino = self.ino_of_node(child)?.ok_or_else(|| Error::damaged("a link's node is missing"))?;
        if self.with_node(ino, |n| n.kind)? == NodeKind::Directory {
            return Ok(LinkId::of_directory(child));
        }
        let branch = self.branch_of(at.dot)?;
        let place = Birthplace { device: branch.device, log: branch.log, seq: at.dot.seq, index: at.index };
        Ok(place.link(&raw.head, &raw.body))
    }

    /// Opens the body of a stored change.
    pub(crate) fn open_stored<T: serde::Serialize + serde::de::DeserializeOwned>(
        &self,
        at: ValueRef,
        key: &crypto::SymmetricKey,
        raw: &RawChange,
    ) -> Result<Option<T>> {
        let branch = self.branch_of(at.dot)?;
        let aad = commit::body_aad(&self.volume, &branch.device, branch.log, at.dot.seq, at.index, &raw.head);
        let Ok(plain) = crypto::open_padded(key, &aad, &raw.body) else { return Ok(None) };
        Ok(commit::decode("body", &plain).ok())
    }

    /// The last place of a link that was removed.
    pub(crate) fn last_place(&mut self, link: &Link) -> Result<Option<(Ino, Vec<u8>)>> {
        Ok(self.past_places(link)?.pop().map(|p| (p.parent, p.name)))
    }

    // ---- names

    /// Brings in line what a name in a directory leads to, and the entries that derive from it.
    pub(crate) fn refresh_name(&mut self, directory: Ino, name: &[u8]) -> Result<()> {
        let entry = self.entry(directory, name)?;
        if self.is_plain(&entry)? {
            // Nothing follows from it.
            self.changed(Changed::Entry { parent: directory, name: name.to_vec() });
            return Ok(());
        }
        let mut entry = (*entry).clone();
        // The oldest claim keeps the name.
        let mut claims: Vec<Claim> = Vec::with_capacity(entry.claims.len());
        for claim in std::mem::take(&mut entry.claims) {
            let mut i = claims.len();
            while i > 0
                && self.rank((claims[i - 1].at, claims[i - 1].count), (claim.at, claim.count))? == Ordering::Greater
            {
                i -= 1;
            }
            claims.insert(i, claim);
        }
        entry.claims = claims;
        let displaced = match (&entry.derived, entry.claims.is_empty()) {
            (Some(derived), false) if derived.base != name => entry.derived.take().map(|d| d.base),
            _ => None,
        };
        self.put_entry(directory, entry.clone());
        self.changed(Changed::Entry { parent: directory, name: name.to_vec() });
        self.merge_directories(&entry)?;
        let entry = (*self.entry(directory, name)?).clone();

        let mut wanted: BTreeMap<Vec<u8>, Derived> = BTreeMap::new();
        let derives: Vec<ByteBuf> = entry.derives.clone();
        for (i, claim) in entry.claims.iter().enumerate() {
            let merged = i > 0 && self.with_node(claim.child, |n| n.merged_into.is_some())?;
            let mut shown_as = name.to_vec();
            if i > 0 && !merged {
                let id = claim.link.to_string();
                let names = [4, 8, 32].map(|n| with_suffix(name, &format!("~{}", &id[..n])));
                shown_as = self.first_free(directory, name, &names, &wanted)?;
                wanted.insert(shown_as.clone(), Derived { ino: claim.child, kind: claim.kind, base: name.to_vec() });
            }
            if claim.kind == NodeKind::File {
                for (value, ino) in self.views_of(claim.child)? {
                    let names = self.conflict_names(&shown_as, value)?;
                    let at = self.first_free(directory, name, &names, &wanted)?;
                    wanted.insert(at, Derived { ino, kind: NodeKind::File, base: name.to_vec() });
                }
            }
        }
        for old in derives.iter().filter(|old| !wanted.contains_key(old.as_slice())) {
            self.set_derived(directory, old, None)?;
        }
        let names: Vec<ByteBuf> = wanted.keys().map(|n| ByteBuf::from(n.clone())).collect();
        for (at, derived) in wanted {
            self.set_derived(directory, &at, Some(derived))?;
        }
        if names != derives {
            let mut entry = (*self.entry(directory, name)?).clone();
            entry.derives = names;
            self.put_entry(directory, entry);
        }
        if let Some(base) = displaced {
            self.refresh_name(directory, &base)?;
        }
        self.offer_name(directory, name)
    }

    /// Whether nothing derives from an entry, nor it from another: at most one file or special file wants the name, and
    /// has one version.
    fn is_plain(&mut self, entry: &Entry) -> Result<bool> {
        if entry.derived.is_some() || !entry.derives.is_empty() || !entry.wanted_by.is_empty() {
            return Ok(false);
        }
        match entry.claims.as_slice() {
            [] => Ok(true),
            [claim] if claim.kind == NodeKind::Directory => Ok(false),
            [claim] => self.with_node(claim.child, |n| n.content.len() <= 1),
            _ => Ok(false),
        }
    }

    /// Lets entries that would derive this name have it, if it is free now.
    fn offer_name(&mut self, directory: Ino, name: &[u8]) -> Result<()> {
        let entry = self.entry(directory, name)?;
        if entry.wanted_by.is_empty() || !entry.claims.is_empty() || entry.derived.is_some() {
            return Ok(());
        }
        let mut entry = (*entry).clone();
        let bases = std::mem::take(&mut entry.wanted_by);
        self.put_entry(directory, entry);
        for base in bases {
            self.refresh_name(directory, &base)?;
        }
        Ok(())
    }

    fn set_derived(&mut self, directory: Ino, name: &[u8], derived: Option<Derived>) -> Result<()> {
        let entry = self.entry(directory, name)?;
        if entry.derived != derived {
            let mut entry = (*entry).clone();
            entry.derived = derived;
            self.put_entry(directory, entry);
            self.changed(Changed::Entry { parent: directory, name: name.to_vec() });
            self.offer_name(directory, name)?;
        }
        Ok(())
    }

    /// The first of `names` that no link claims and nothing else derived has; the last if none.
    fn first_free(
        &mut self,
        directory: Ino,
        base: &[u8],
        names: &[Vec<u8>],
        taken: &BTreeMap<Vec<u8>, Derived>,
    ) -> Result<Vec<u8>> {
        for name in names {
            let entry = self.entry(directory, name)?;
            let other = entry.derived.as_ref().is_some_and(|d| d.base != base);
            if entry.claims.is_empty() && !other && !taken.contains_key(name) {
                return Ok(name.clone());
            }
            if !taken.contains_key(name) && !entry.wanted_by.iter().any(|b| b == base) {
                // Once the name is free, the entry moves there.
                let mut entry = (*entry).clone();
                entry.wanted_by.push(ByteBuf::from(base.to_vec()));
                self.put_entry(directory, entry);
            }
        }
        Ok(names.last().cloned().unwrap_or_default())
    }

    /// Directories of one name and equal realm show as one: the oldest, with the entries of all.
    fn merge_directories(&mut self, entry: &Entry) -> Result<()> {
        let Some(first) = entry.claims.first().filter(|c| c.kind == NodeKind::Directory) else {
            for claim in entry.claims.iter().filter(|c| c.kind == NodeKind::Directory) {
                self.set_merged(claim.child, None)?;
            }
            return Ok(());
        };
        let primary = first.child;
        self.set_merged(primary, None)?;
        let realm = |n: &Node| n.access.last().and_then(|v| v.value.as_ref().map(|a| (a.realm, a.grants.clone())));
        let realm_of_primary = self.with_node(primary, realm)?;
        for claim in &entry.claims[1..] {
            if claim.kind == NodeKind::Directory {
                let equal = self.with_node(claim.child, realm)? == realm_of_primary;
                self.set_merged(claim.child, equal.then_some(primary))?;
            }
        }
        Ok(())
    }

    fn set_merged(&mut self, directory: Ino, into: Option<Ino>) -> Result<()> {
        let old = self.with_node(directory, |n| n.merged_into)?;
        if old == into {
            return Ok(());
        }
        let mut node = self.node(directory)?;
        node.merged_into = into;
        self.put_node(directory, node);
        if let Some(old) = old {
            let mut node = self.node(old)?;
            node.merged.retain(|m| *m != directory);
            self.put_node(old, node);
            // What shows here may by now show still elsewhere, with `old`.
            let home = self.canonical(old)?;
            self.rehome(home)?;
        }
        if let Some(into) = into {
            let mut node = self.node(into)?;
            node.merged.push(directory);
            self.put_node(into, node);
            self.rehome(directory)?;
        }
        Ok(())
    }

    /// Moves the claims in a directory that now show elsewhere there.
    fn rehome(&mut self, directory: Ino) -> Result<()> {
        stacker::maybe_grow(256 << 10, 4 << 20, || self.rehome_here(directory))
    }

    fn rehome_here(&mut self, directory: Ino) -> Result<()> {
        let mut from = [0; 16];
        let mut moved = Vec::new();
        loop {
            let entries = self.scan_entries(directory, &from, 256)?;
            let Some((last, _)) = entries.last() else { break };
            let last = *last;
            for (_, entry) in &entries {
                for claim in &entry.claims {
                    let home = self.canonical(claim.parent)?;
                    if home != directory {
                        moved.push((entry.name.clone(), home, claim.clone()));
                    }
                }
            }
            match next_tag(last) {
                Some(next) => from = next,
                None => break,
            }
        }
        let mut names = BTreeSet::new();
        for (name, home, claim) in moved {
            let mut entry = (*self.entry(directory, &name)?).clone();
            entry.claims.retain(|c| c.link != claim.link);
            self.put_claims(directory, entry)?;
            let mut entry = (*self.entry(home, &name)?).clone();
            entry.claims.retain(|c| c.link != claim.link);
            entry.claims.push(claim);
            self.put_claims(home, entry)?;
            names.insert((directory, name.clone()));
            names.insert((home, name));
        }
        for (directory, name) in names {
            self.refresh_name(directory, &name)?;
        }
        self.changed(Changed::Attributes(directory));
        Ok(())
    }

    // ---- conflicts

    /// Follows a change of a content register: conflicts appear or are settled, what was removed may come back.
    pub(crate) fn content_changed(&mut self, ino: Ino) -> Result<()> {
        let row = self.row(ino)?;
        let Some(NodeRow::Node(node)) = row.as_deref() else { return Err(Error::NotFound) };
        let conflict = node.content.len() > 1 || !node.views.is_empty();
        let shown = if conflict { self.shown_links(ino, node)? } else { Vec::new() };
        if node.is_removed() {
            for link in self.link_ids(ino, node)? {
                self.refresh_link(ino, &link)?;
            }
        }
        if conflict {
            for shown in shown.iter().filter_map(|link| link.shown.as_ref()) {
                let directory = self.canonical(shown.parent)?;
                self.refresh_name(directory, &shown.name)?;
            }
            self.drop_stale_views(ino)?;
        }
        Ok(())
    }

    /// The values of a file beside the one that shows, with the inode number of each.
    fn views_of(&mut self, ino: Ino) -> Result<Vec<(ValueRef, Ino)>> {
        let (values, known) = self.with_node(ino, |n| {
            let values: Vec<ValueRef> = n.content.iter().rev().skip(1).map(|v| v.at).collect();
            (values, n.views.clone())
        })?;
        let mut views = Vec::with_capacity(values.len());
        let mut new = Vec::new();
        for value in values {
            let view = match known.iter().find(|(at, _)| *at == value) {
                Some((_, view)) => *view,
                None => {
                    let view = self.allocate_ino();
                    self.put_row(view, Some(NodeRow::View { of: ino, value, since: 0 }));
                    new.push((value, view));
                    view
                }
            };
            views.push((value, view));
        }
        if !new.is_empty() {
            let mut node = self.node(ino)?;
            node.views.extend(new);
            self.put_node(ino, node);
        }
        Ok(views)
    }

    fn drop_stale_views(&mut self, ino: Ino) -> Result<()> {
        let mut node = self.node(ino)?;
        let live: Vec<ValueRef> = node.content.iter().rev().skip(1).map(|v| v.at).collect();
        let (keep, stale): (Vec<_>, Vec<_>) = node.views.iter().copied().partition(|(at, _)| live.contains(at));
        if stale.is_empty() {
            return Ok(());
        }
        node.views = keep;
        self.put_node(ino, node);
        for (_, view) in stale {
            let is_view = self.row(view)?.is_some_and(|row| matches!(&*row, NodeRow::View { .. }));
            if is_view {
                self.put_row(view, None);
            }
        }
        Ok(())
    }

    /// Names for a conflicting value, the preferred one first: who made it and when, and if that
    /// isn't enough a piece of its commit.
    fn conflict_names(&mut self, name: &[u8], value: ValueRef) -> Result<Vec<Vec<u8>>> {
        let Origin { device, made, digits: hash, .. } = self.origin_of(value)?;
        let base = format!(" (conflict of {} {}", self.user_named(&device), civil_minutes(made));
        let mut names = vec![with_suffix(name, &format!("{base})"))];
        for n in [4, 8, hash.len()] {
            names.push(with_suffix(name, &format!("{base} {})", &hash[..n])));
        }
        Ok(names)
    }

    /// A free name for a conflicting value of what shows as `name`.
    pub(crate) fn conflict_name(&mut self, directory: Ino, name: &[u8], value: ValueRef) -> Result<Vec<u8>> {
        let names = self.conflict_names(name, value)?;
        for free in &names {
            if self.entry(directory, free)?.shown().is_none() {
                return Ok(free.clone());
            }
        }
        Ok(names.last().cloned().unwrap_or_default())
    }

    // ---- cycles

    /// The directory that a directory's winning place names, or if it was removed its last one.
    pub(crate) fn last_parent(&mut self, directory: Ino) -> Result<Option<Ino>> {
        if let Some(parent) = self.with_node(directory, winning_parent)? {
            return Ok(Some(parent));
        }
        match self.with_node(directory, |n| n.links.first().cloned())? {
            Some(link) => Ok(self.last_place(&link)?.map(|(parent, _)| parent)),
            None => Ok(None),
        }
    }

    /// The directory above by winning places alone; `None` also for one that is not there.
    fn winning_parent(&mut self, directory: Ino) -> Result<Option<Ino>> {
        if self.is_there(directory)? { self.last_parent(directory) } else { Ok(None) }
    }

    fn in_cycle(&mut self, directory: Ino) -> Result<bool> {
        let mut seen = BTreeSet::new();
        let mut at = directory;
        while let Some(parent) = self.winning_parent(at)? {
            if parent == directory {
                return Ok(true);
            }
            if !seen.insert(parent) {
                return Ok(false);
            }
            at = parent;
        }
        Ok(false)
    }

    /// Brings in line where directories hang, after the places of `moved` changed: attached in the
    /// order of their winning places, each takes the first of its live, then superseded, places
    /// that closes no cycle, else the root. Only directories that could be reached from a
    /// would-be cycle are looked at; for all others the rule gives their winning place.
    pub(crate) fn recheck_cycles(&mut self, moved: Ino) -> Result<()> {
        if let Some(moved_meanwhile) = &mut self.overlay.rehanging {
            moved_meanwhile.insert(moved);
            return Ok(());
        }
        let mut moved = BTreeSet::from([moved]);
        for _ in 0..RECHECK_MAX {
            self.overlay.rehanging = Some(BTreeSet::new());
            let result = self.recheck_cycles_once(&moved);
            moved = self.overlay.rehanging.take().unwrap_or_default();
            if result.is_err() || moved.is_empty() {
                return result;
            }
        }
        Ok(())
    }

    fn recheck_cycles_once(&mut self, moved: &BTreeSet<Ino>) -> Result<()> {
        let old = self.cyclic();
        let mut cyclic = BTreeSet::new();
        for directory in old.union(moved).copied() {
            if self.in_cycle(directory)? {
                // All of its cycle, so that none is missed once this one moves away.
                let mut at = directory;
                while cyclic.insert(at) {
                    match self.winning_parent(at)? {
                        Some(parent) => at = parent,
                        None => break,
                    }
                }
            }
        }
        if cyclic.is_empty() && old.is_empty() {
            return Ok(());
        }
        // Whatever may be an ancestor by any place that may be tried.
        let mut reach: BTreeMap<Ino, Vec<PastPlace>> = BTreeMap::new();
        let mut todo: Vec<Ino> = cyclic.iter().copied().collect();
        while let Some(directory) = todo.pop() {
            if reach.contains_key(&directory) || directory == Ino::ROOT {
                continue;
            }
            let places = self.candidate_places(directory)?;
            todo.extend(places.iter().map(|p| p.parent));
            reach.insert(directory, places);
        }
        let mut order: Vec<Ino> = Vec::new();
        for (&directory, places) in &reach {
            let Some(winner) = places.first().map(|p| (p.at, p.count)) else { continue };
            let mut i = order.len();
            while i > 0 {
                let before = &reach[&order[i - 1]][0];
                if self.rank((before.at, before.count), winner)? != Ordering::Greater {
                    break;
                }
                i -= 1;
            }
            order.insert(i, directory);
        }
        let mut attached: HashMap<Ino, Ino> = HashMap::new();
        let mut hung: BTreeMap<Ino, (Ino, ByteBuf, ValueRef, u64)> = BTreeMap::new();
        for directory in order {
            let places = &reach[&directory];
            let closes_none = |parent: Ino| {
                let mut at = parent;
                loop {
                    if at == directory {
                        return false;
                    }
                    match attached.get(&at) {
                        Some(next) => at = *next,
                        None => return true,
                    }
                }
            };
            let (i, place) = match places.iter().enumerate().find(|(_, p)| closes_none(p.parent)) {
                Some((i, place)) => (i, place.clone()),
                None => (usize::MAX, PastPlace { parent: Ino::ROOT, ..places[0].clone() }),
            };
            attached.insert(directory, place.parent);
            if i != 0 {
                hung.insert(directory, (place.parent, ByteBuf::from(place.name), place.at, place.count));
            }
        }
        let mut touched: BTreeSet<Ino> = reach.keys().copied().collect();
        touched.extend(old);
        cyclic.extend(hung.keys());
        self.overlay.cyclic = Some(cyclic);
        for directory in touched {
            let mut node = self.node(directory)?;
            let new = hung.remove(&directory);
            if node.hung_at != new {
                node.hung_at = new;
                let links: Vec<LinkId> = node.links.iter().map(|l| l.id).collect();
                self.put_node(directory, node);
                for link in links {
                    self.refresh_link(directory, &link)?;
                }
                if let Some(parent) = self.last_parent(directory)? {
                    self.recheck_removed(parent)?;
                }
            }
        }
        Ok(())
    }

    /// The places a directory may hang at, the first choice first; none if it is not there.
    fn candidate_places(&mut self, directory: Ino) -> Result<Vec<PastPlace>> {
        let Some(link) = self.with_node(directory, |n| n.links.first().cloned())? else { return Ok(Vec::new()) };
        if !self.is_there(directory)? {
            return Ok(Vec::new());
        }
        let live = link.values.iter().rev().filter_map(|v| match &v.value {
            Some(Place::In { parent, name }) => {
                Some(PastPlace { parent: *parent, name: name.clone(), at: v.at, count: v.count })
            }
            _ => None,
        });
        let mut places: Vec<PastPlace> = Vec::new();
        for place in live.chain(self.past_places(&link)?.into_iter().rev()) {
            // A place in a directory that is gone would hide it. (The first one's is there, for it is in it.)
            if places.is_empty() || self.is_there(place.parent)? {
                places.push(place);
            }
        }
        Ok(places)
    }

    /// Whether `directory` is `ancestor` or lies somewhere below it, as shown.
    pub(crate) fn is_within(&mut self, directory: Ino, ancestor: Ino) -> Result<bool> {
        let ancestor = self.canonical(ancestor)?;
        let mut at = self.canonical(directory)?;
        for _ in 0..100_000 {
            if at == ancestor {
                return Ok(true);
            }
            match self.with_node(at, |n| n.links.first().and_then(|l| l.shown.as_ref().map(|s| s.parent)))? {
                Some(parent) => at = self.canonical(parent)?,
                None => return Ok(false),
            }
        }
        Err(Error::damaged("directories without end"))
    }
}

/// The directory that the winning place of a directory names.
fn winning_parent(node: &Node) -> Option<Ino> {
    node.links.first()?.values.iter().rev().find_map(|v| match &v.value {
        Some(Place::In { parent, .. }) => Some(*parent),
        _ => None,
    })
}

/// Whether a link has a live place.
pub(crate) fn is_placed(link: &Link) -> bool {
    link.values.iter().any(|v| matches!(v.value, Some(Place::In { .. })))
}

/// The tag after `tag`.
pub(crate) fn next_tag(tag: [u8; 16]) -> Option<[u8; 16]> {
    u128::from_be_bytes(tag).checked_add(1).map(u128::to_be_bytes)
}

/// `stem` + `suffix` + `.ext`, the stem cut (between characters) so that it all fits in a name.
pub(crate) fn with_suffix(name: &[u8], suffix: &str) -> Vec<u8> {
    let dot = name.iter().rposition(|&b| b == b'.').filter(|&i| i > 0 && name.len() - i <= 32);
    let (stem, ext) = name.split_at(dot.unwrap_or(name.len()));
    let room = NAME_MAX.saturating_sub(suffix.len() + ext.len());
    let mut end = stem.len().min(room);
    while end > 0 && end < stem.len() && stem[end] & 0xC0 == 0x80 {
        end -= 1;
    }
    [&stem[..end], suffix.as_bytes(), ext].concat()
}

/// A time as in the names of conflicting versions.
pub(crate) fn civil_minutes(time: Timestamp) -> String {
    let (year, month, day, hour, minute) = civil(time.secs);
    format!("{year:04}-{month:02}-{day:02} {hour:02}{minute:02}Z")
}

/// Year, month, day, hour and minute (UTC) of seconds since 1970, by Howard Hinnant's `civil_from_days`.
fn civil(secs: i64) -> (i64, i64, i64, i64, i64) {
    let (days, rest) = (secs.div_euclid(86_400), secs.rem_euclid(86_400));
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + i64::from(month <= 2);
    (year, month, day, rest / 3600, rest % 3600 / 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_stand_before_the_extension_and_fit() {
        assert_eq!(with_suffix(b"plan.txt", "~1"), b"plan~1.txt");
        assert_eq!(with_suffix(b".hidden", "~1"), b".hidden~1");
        assert_eq!(with_suffix(b"plain", "~1"), b"plain~1");
        let long = "ä".repeat(127);
        let cut = with_suffix(format!("{long}.x").as_bytes(), " (conflict)");
        assert!(cut.len() <= NAME_MAX && String::from_utf8(cut).is_ok());
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(civil(0), (1970, 1, 1, 0, 0));
        assert_eq!(civil(951_782_400), (2000, 2, 29, 0, 0));
        assert_eq!(civil(-1), (1969, 12, 31, 23, 59));
        assert_eq!(civil(1_795_338_900), (2026, 11, 22, 9, 15));
    }
}
