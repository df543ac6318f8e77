//! The naive reference model: the merged tree out of the set of all commits, from scratch, by the rules of
//! `docs/format.md`, "The merged tree". Shares no code with the crate's own tree.

use std::collections::{BTreeMap, BTreeSet};

use crypto::{DeviceId, Label, SymmetricKey, keyed_tag};
use volume::{
    NodeKind, Timestamp,
    commit::{AccessBody, BirthBody, ChangeKind, ContentBody, MetaBody, PlaceBody, XattrBody},
    content::Content,
    id::{LinkId, NodeId, ValueId},
    member::Role,
};

use super::history::{Change, History, Rank};

/// What stands for an attribute's value that makes no sense.
pub const DAMAGED: &str = "damaged";

/// Where a link shows.
#[derive(Clone, PartialEq, Eq)]
struct Shown {
    parent: NodeId,
    name: Vec<u8>,
    rank: Rank,
}

/// A place as some change said it.
#[derive(Clone)]
struct Place {
    parent: NodeId,
    name: Vec<u8>,
    rank: Rank,
    at: ValueId,
}

struct Link {
    child: NodeId,
    all: Vec<ValueId>,
    /// Live values, the greatest first.
    live: Vec<ValueId>,
    /// Live places, the greatest first.
    places: Vec<Place>,
    /// Superseded places, the greatest first.
    past: Vec<Place>,
}

type Layout = BTreeMap<LinkId, Shown>;

/// What a name leads to: a node, or a conflicting value of one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Target {
    node: NodeId,
    view: Option<ValueId>,
}

/// Says what a content holds, as a replica's line would; given the key of its node.
pub type ContentText<'a> = &'a dyn Fn(&ContentBody, &SymmetricKey) -> String;

/// The merged tree of a [`History`].
pub struct Reference<'a> {
    history: &'a History<'a>,
    /// The users' names.
    names: &'a BTreeMap<DeviceId, String>,
    text: ContentText<'a>,
    /// More than one of a node if a log forked, and both branches tell of it word for word.
    births: BTreeMap<NodeId, (NodeKind, Vec<Change<'a>>)>,
    links: BTreeMap<LinkId, Link>,
    shown: Layout,
    /// The directories that show as one, by each of them: the oldest first.
    merged: BTreeMap<NodeId, Vec<NodeId>>,
    /// Paths of names beside which something shows, with those of what does.
    beside: BTreeMap<String, Vec<String>>,
}

impl<'a> Reference<'a> {
    /// Works out where everything is. `names` are the users', by their devices.
    pub fn new(history: &'a History<'a>, names: &'a BTreeMap<DeviceId, String>, text: ContentText<'a>) -> Self {
        let births = history.births().iter().map(|(node, births)| match births[0].head.kind {
            ChangeKind::Birth { kind, .. } => (*node, (kind, births.clone())),
            _ => unreachable!("only births bear"),
        });
        let births = births.collect();
        let mut reference = Reference {
            history,
            names,
            text,
            births,
            links: BTreeMap::new(),
            shown: Layout::new(),
            merged: BTreeMap::new(),
            beside: BTreeMap::new(),
        };
        reference.find_links();
        reference.find_places();
        reference
    }

    fn is_directory(&self, node: NodeId) -> bool {
        self.births[&node].0 == NodeKind::Directory
    }

    // ---- where links show

    fn find_links(&mut self) {
        let mut changes: BTreeMap<LinkId, Vec<Change<'a>>> = BTreeMap::new();
        for change in self.history.changes() {
            match change.head.kind {
                ChangeKind::Place { link, .. } => changes.entry(change.link(link)).or_default().push(change),
                ChangeKind::Removal { link, .. } => changes.entry(link).or_default().push(change),
                _ => {}
            }
        }
        for (id, mut changes) in changes {
            changes.sort_by_key(|c| std::cmp::Reverse(c.rank()));
            let child = changes.iter().find_map(|c| match c.head.kind {
                ChangeKind::Place { child, .. } => Some(child),
                _ => None,
            });
            let child = child.expect("what was removed was placed before");
            let places = |wanted: &dyn Fn(&Change<'a>) -> bool| {
                let changes = changes.iter().filter(|c| wanted(c));
                changes.filter_map(|c| self.place(c)).collect::<Vec<_>>()
            };
            let mut live: Vec<ValueId> = changes.iter().filter(|c| self.history.is_live(c)).map(Change::id).collect();
            let live_places = places(&|c| self.history.is_live(c));
            // First places that are late count as removals from just there, as long as nothing else is live.
            let first = |c: &Change<'a>| matches!(c.head.kind, ChangeKind::Place { link: None, .. });
            let stands_for_removal = live.is_empty();
            if stands_for_removal {
                live = changes.iter().filter(|c| first(c)).map(Change::id).collect();
            }
            let past = places(&|c| self.history.is_superseded(c) || stands_for_removal && first(c));
            let all = changes.iter().map(Change::id).collect();
            let link = Link { child, all, live, places: live_places, past };
            self.links.insert(id, link);
        }
    }

    fn place(&self, change: &Change<'_>) -> Option<Place> {
        let ChangeKind::Place { parent, .. } = change.head.kind else { return None };
        let body: PlaceBody = self.history.body(change, parent);
        Some(Place { parent, name: body.name, rank: change.rank(), at: change.id() })
    }

    /// First who is there at all, by winning places, then where directories in would-be cycles hang: were it the other
    /// way round, one that came back for the sake of another in it could lose that one to the cycle they make.
    fn find_places(&mut self) {
        loop {
            let mut next = Layout::new();
            for (id, link) in &self.links {
                if let Some(shown) = self.shown_at(link) {
                    next.insert(*id, shown);
                }
            }
            if next == self.shown {
                break;
            }
            self.shown = next;
        }
        for (id, place) in self.hung() {
            let shown = self.shown.get_mut(&id).unwrap();
            (shown.parent, shown.name, shown.rank) = (place.parent, place.name, place.rank);
        }
    }

    fn shown_at(&self, link: &Link) -> Option<Shown> {
        let at = |place: &Place| Shown { parent: place.parent, name: place.name.clone(), rank: place.rank };
        if let Some(place) = link.places.first() {
            return Some(at(place));
        }
        if self.links.values().any(|other| other.child == link.child && !other.places.is_empty()) {
            return None;
        }
        let unseen = |value: &ValueId| link.live.iter().all(|removal| !self.history.saw(*removal, *value));
        let back = if self.is_directory(link.child) {
            self.shown.values().any(|shown| shown.parent == link.child)
        } else {
            let mut values = self.contents(link.child).into_iter().map(|c| c.id());
            values.any(|value| unseen(&value) && !self.saw_it_gone(link, value))
        };
        link.past.first().filter(|_| back).map(at)
    }

    /// Whether who wrote a value knew the link and had seen that it was nowhere any more.
    fn saw_it_gone(&self, link: &Link, value: ValueId) -> bool {
        let seen: Vec<Change<'a>> =
            link.all.iter().map(|id| self.history.change(*id)).filter(|c| self.history.saw(value, c.id())).collect();
        let is_place = |c: &Change<'_>| matches!(c.head.kind, ChangeKind::Place { .. });
        let superseded =
            |c: &Change<'_>| seen.iter().any(|later| self.history.gone_by(later).iter().any(|old| old.id() == c.id()));
        !seen.is_empty() && !seen.iter().any(|c| is_place(c) && !superseded(c))
    }

    /// The directories that don't show at their winning place, since that would close a cycle.
    fn hung(&self) -> BTreeMap<LinkId, Place> {
        let is_there = |node: NodeId| node == NodeId::ROOT || self.shown.keys().any(|id| self.links[id].child == node);
        let mut choices: Vec<(LinkId, NodeId, Vec<Place>)> = Vec::new();
        for id in self.shown.keys().filter(|id| self.is_directory(self.links[*id].child)) {
            let link = &self.links[id];
            choices.push((*id, link.child, [&link.places[..], &link.past[..]].concat()));
        }
        choices.sort_by_key(|(_, _, places)| places[0].rank);
        let mut above: BTreeMap<NodeId, NodeId> = BTreeMap::new();
        let mut hung = BTreeMap::new();
        for (id, child, places) in choices {
            let closes_no_cycle = |parent: NodeId| {
                let mut at = Some(&parent);
                while at.is_some_and(|at| *at != child) {
                    at = above.get(at.unwrap());
                }
                at.is_none()
            };
            let root = Place { parent: NodeId::ROOT, ..places[0].clone() };
            let place =
                places.iter().find(|place| is_there(place.parent) && closes_no_cycle(place.parent)).unwrap_or(&root);
            above.insert(child, place.parent);
            if (place.at, place.parent) != (places[0].at, places[0].parent) {
                hung.insert(id, place.clone());
            }
        }
        hung
    }

    // ---- registers

    /// Live contents, the greatest first.
    fn contents(&self, of: NodeId) -> Vec<Change<'a>> {
        let content = |c: &Change<'_>| matches!(c.head.kind, ChangeKind::Content { node, .. } if node == of);
        self.history.live(self.history.changes().filter(content))
    }

    fn content(&self, node: NodeId, view: Option<ValueId>) -> Option<(Change<'a>, ContentBody)> {
        let values = self.contents(node);
        let change = match view {
            Some(view) => values.into_iter().find(|c| c.id() == view),
            None => values.into_iter().next(),
        }?;
        Some((change, self.history.body(&change, node)))
    }

    fn birth(&self, node: NodeId) -> BirthBody {
        self.history.body(&self.births[&node].1[0], node)
    }

    fn access(&self, of: NodeId) -> AccessBody {
        let is_birth = |c: &Change<'_>| self.births[&of].1.iter().any(|birth| birth.id() == c.id());
        let access = |c: &Change<'_>| match c.head.kind {
            ChangeKind::Access { node, .. } => node == of,
            _ => is_birth(c),
        };
        let shown = self.history.live(self.history.changes().filter(access))[0];
        let body = |c: &Change<'_>| match is_birth(c) {
            true => self.birth(of).access,
            false => self.history.body(c, of),
        };
        let owner = match &self.births[&of].1[0].head.kind {
            ChangeKind::Birth { access, .. } => access.owner,
            _ => unreachable!("only births bear"),
        };
        let decides = |c: &Change<'_>| {
            is_birth(c) || self.history.author(c.id().commit).is_some_and(|(u, role)| u == owner || role >= Role::Admin)
        };
        // Who may only write says nothing about a mode, but that set-id bits go.
        let (mut at, mut told) = (shown, body(&shown));
        while !decides(&at) {
            let before = at.supersedes().filter_map(|id| self.history.find(id)).max_by_key(Change::rank).unwrap();
            let older = body(&before);
            let set_ids = told.mode & older.mode & 0o6000;
            told = AccessBody { mode: older.mode & !0o6000 | set_ids, ..older };
            at = before;
        }
        told
    }

    fn xattrs(&self, of: NodeId) -> Vec<String> {
        let access = self.access(of);
        let mut found: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        found.insert(b"system.posix_acl_access".to_vec(), access.acl);
        found.insert(b"system.posix_acl_default".to_vec(), access.default_acl);
        found.retain(|_, value| !value.is_empty());
        // A body whose name does not give the tag of its change tells nothing.
        let body = |c: &Change<'_>| {
            let ChangeKind::Xattr { tag, .. } = c.head.kind else { unreachable!() };
            let body: XattrBody = self.history.body(c, of);
            let fits = keyed_tag(self.history.node_key(of), Label::LinkTag, &body.name) == *tag.as_bytes();
            (tag, Some(body).filter(|_| fits))
        };
        let values = |c: &Change<'_>| matches!(c.head.kind, ChangeKind::Xattr { node, .. } if node == of);
        let all = self.history.changes().filter(values).map(|c| body(&c));
        let names: BTreeMap<NodeId, Vec<u8>> = all.filter_map(|(tag, body)| Some((tag, body?.name))).collect();
        let mut tags = BTreeSet::new();
        for change in self.history.live(self.history.changes().filter(values)) {
            let (tag, body) = body(&change);
            let (true, Some(name)) = (tags.insert(tag), names.get(&tag)) else { continue };
            match body.map(|body| body.value) {
                Some(Some(value)) => drop(found.insert(name.clone(), value.into_vec())),
                Some(None) => {}
                None => drop(found.insert(name.clone(), DAMAGED.into())),
            }
        }
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut lines: Vec<String> = found.iter().map(|(k, v)| format!("{}={}", text(k), text(v))).collect();
        lines.sort();
        lines
    }

    /// The greatest change of a link in a directory: its place value names it, or supersedes one that did.
    fn entry_change(&self, directory: NodeId) -> Option<(ValueId, Timestamp)> {
        let names_it = |c: &Change<'_>| matches!(c.head.kind, ChangeKind::Place { parent, .. } if parent == directory);
        let touches = |c: &Change<'_>| names_it(c) || self.history.gone_by(c).iter().any(names_it);
        let change = self.history.changes().filter(touches).max_by_key(Change::rank)?;
        let time = match change.head.kind {
            ChangeKind::Place { parent, .. } => self.history.body::<PlaceBody>(&change, parent).time,
            ChangeKind::Removal { time, .. } => time,
            _ => unreachable!(),
        };
        Some((change.id(), time))
    }

    fn mtime(&self, of: NodeId) -> Timestamp {
        let own = match self.births[&of].0 {
            NodeKind::Directory => self.entry_change(of),
            _ => self.content(of, None).map(|(change, body)| (change.id(), body.mtime)),
        };
        let meta = |c: &Change<'_>| matches!(c.head.kind, ChangeKind::Meta { node, .. } if node == of);
        let meta = self.history.live(self.history.changes().filter(meta)).into_iter().next();
        let set = meta.and_then(|c| self.history.body::<MetaBody>(&c, of).mtime.map(|time| (c.id(), time)));
        match (own, set) {
            (None, None) => self.birth(of).access.time,
            (Some((own, _)), Some((set, time))) if self.history.saw(set, own) => time,
            (Some((_, time)), _) | (None, Some((_, time))) => time,
        }
    }

    // ---- names

    /// The whole tree: a line per entry, as a replica's is written.
    pub fn tree(&mut self) -> Vec<String> {
        let mut found = Vec::new();
        self.walk(&[NodeId::ROOT], "", &mut found);
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        let mut first: BTreeMap<Target, String> = BTreeMap::new();
        let mut lines = Vec::new();
        for (path, target) in &found {
            let same = first.entry(*target).or_insert_with(|| path.clone());
            let same = if same == path { String::new() } else { format!(" same as {same}") };
            lines.push(format!("{path} {}{same}", self.describe(*target)));
        }
        lines
    }

    /// The paths of all names beside which something shows, each with those of what does, once [`Self::tree`] was asked for.
    pub fn conflicts(&self) -> &BTreeMap<String, Vec<String>> {
        &self.beside
    }

    fn walk(&mut self, parts: &[NodeId], path: &str, found: &mut Vec<(String, Target)>) {
        self.merged.insert(parts[0], parts.to_vec());
        let mut claims: BTreeMap<Vec<u8>, Vec<(Rank, LinkId)>> = BTreeMap::new();
        for (id, shown) in self.shown.iter().filter(|(_, shown)| parts.contains(&shown.parent)) {
            claims.entry(shown.name.clone()).or_default().push((shown.rank, *id));
        }
        let mut entries: BTreeMap<Vec<u8>, Vec<Target>> = BTreeMap::new();
        for (name, claims) in &mut claims {
            claims.sort();
            let first = self.links[&claims[0].1].child;
            entries.insert(name.clone(), vec![Target { node: first, view: None }]);
        }
        for (name, claims) in &claims {
            let mut shown = vec![(name.clone(), self.links[&claims[0].1].child)];
            let mut beside: Vec<Vec<u8>> = Vec::new();
            for (_, link) in &claims[1..] {
                let node = self.links[link].child;
                if self.is_directory(shown[0].1) && self.is_directory(node) {
                    entries.entry(name.clone()).or_default().push(Target { node, view: None });
                } else {
                    let name =
                        free(&entries, [4, 8, 32].map(|n| with_suffix(name, &format!("~{}", &link.to_string()[..n]))));
                    entries.insert(name.clone(), vec![Target { node, view: None }]);
                    beside.push(name.clone());
                    shown.push((name, node));
                }
            }
            for (name, node) in shown {
                for value in self.contents(node).into_iter().skip(1) {
                    let name = free(&entries, self.conflict_names(&name, &value));
                    entries.insert(name.clone(), vec![Target { node, view: Some(value.id()) }]);
                    beside.push(name);
                }
            }
            if !beside.is_empty() {
                let path = |name: &[u8]| format!("{path}/{}", String::from_utf8_lossy(name));
                let mut paths: Vec<String> = beside.iter().map(|name| path(name)).collect();
                paths.sort();
                self.beside.insert(path(name), paths);
            }
        }
        for (name, targets) in entries {
            let path = format!("{path}/{}", String::from_utf8_lossy(&name));
            found.push((path.clone(), targets[0]));
            if self.is_directory(targets[0].node) {
                let parts: Vec<NodeId> = targets.iter().map(|t| t.node).collect();
                self.walk(&parts, &path, found);
            }
        }
    }

    fn conflict_names(&self, name: &[u8], value: &Change<'_>) -> [Vec<u8>; 4] {
        let (date, time) = date_and_time(value.commit_secs());
        let base = format!(" (conflict of {} {date} {time}Z", self.names[&value.device()]);
        let id = format!("{}{:x}", value.id().commit, value.id().index);
        ["", &id[..4], &id[..8], &id].map(|id| {
            let space = if id.is_empty() { "" } else { " " };
            with_suffix(name, &format!("{base}{space}{id})"))
        })
    }

    fn describe(&self, target: Target) -> String {
        let Target { node, view } = target;
        let kind = self.births[&node].0;
        let content = self.content(node, view);
        let what = match kind {
            NodeKind::Directory => "dir".to_owned(),
            NodeKind::File => {
                let empty = ContentBody { mtime: Timestamp::default(), content: Content::empty(), keys: Vec::new() };
                let body = content.as_ref().map_or(&empty, |(_, body)| body);
                format!("file {}", (self.text)(body, self.history.node_key(node)))
            }
            _ => format!("-> {}", String::from_utf8_lossy(&self.birth(node).target)),
        };
        let parts = self.merged.get(&node).cloned().unwrap_or(vec![node]);
        let mtime = match (view, content) {
            (Some(_), Some((_, body))) => body.mtime,
            _ => parts.iter().map(|part| self.mtime(*part)).max().unwrap(),
        };
        let mtime = mtime.secs * 1000 + i64::from(mtime.nanos / 1_000_000);
        let links = match kind {
            // Each part of a merged directory counts in the one above.
            NodeKind::Directory => {
                let inside = self.shown.iter().filter(|(_, shown)| parts.contains(&shown.parent));
                2 + inside.filter(|(id, _)| self.is_directory(self.links[*id].child)).count()
            }
            _ if view.is_some() => 1,
            _ => self.shown.keys().filter(|id| self.links[*id].child == node).count(),
        };
        let mode = self.access(node).mode & 0o7777;
        format!("{what} mode {mode:o} links {links} mtime {mtime} {:?}", self.xattrs(node))
    }
}

/// The first name that nothing has; the last if all are taken.
fn free<const N: usize>(entries: &BTreeMap<Vec<u8>, Vec<Target>>, names: [Vec<u8>; N]) -> Vec<u8> {
    names.iter().find(|name| !entries.contains_key(*name)).unwrap_or(&names[N - 1]).clone()
}

/// Puts a suffix before the extension, and cuts what is before both.
fn with_suffix(name: &[u8], suffix: &str) -> Vec<u8> {
    let name = std::str::from_utf8(name).unwrap();
    let (stem, extension) = match name.rfind('.') {
        Some(dot) if dot > 0 && name.len() - dot <= 32 => name.split_at(dot),
        _ => (name, ""),
    };
    let mut room = stem.len().min(255 - suffix.len() - extension.len());
    while !stem.is_char_boundary(room) {
        room -= 1;
    }
    format!("{}{suffix}{extension}", &stem[..room]).into_bytes()
}

/// `2026-11-22` and `0915`, by counting days.
fn date_and_time(secs: i64) -> (String, String) {
    let (mut days, rest) = (secs / 86_400, secs % 86_400);
    let leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let mut year = 1970;
    while days >= 365 + i64::from(leap(year)) {
        days -= 365 + i64::from(leap(year));
        year += 1;
    }
    let february = 28 + i64::from(leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    let date = format!("{year:04}-{month:02}-{:02}", days + 1);
    (date, format!("{:02}{:02}", rest / 3600, rest % 3600 / 60))
}
