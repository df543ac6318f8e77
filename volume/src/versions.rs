//! What was at a path: every version that showed there, who made it, and what happened to it.
//!
//! People think in paths: who saves by writing another file and renaming it over the first goes on with the same document.
//! So the versions of a path go across nodes. A path leads through directories as they were: each of its names has led to
//! one thing for a *stretch* of arrivals, and in each stretch the next name is looked up. All of it comes out of the rows
//! of the history ([`crate::history`]) of these names and of what they led to, and costs no more than those.
//!
//! Invariant: what is told is of commits that have arrived. Nothing that shows is left out: at each arrival since history
//! began the path showed what the one version says that spans it.

mod names;

use std::{
    collections::{BTreeMap, btree_map},
    sync::Arc,
};

use crypto::{DeviceId, UserId};

use crate::{
    apply::decode,
    commit::{ChangeKind, Head},
    core::{Core, arrival_key},
    error::{Error, Result},
    history::{self, Past},
    id::{CommitHash, LinkId},
    node::{Attributes, Ino, NodeKind},
    row::{Claim, Entry, Node, NodeRow, Xattr},
    spilled::Item,
    store::{Space, prefix_end},
    time::Timestamp,
    tree::PastPlace,
    version::{Dot, ValueRef},
    volume::Volume,
};

pub use names::EntryChange;

/// Longest chain of places that is looked through for the one that followed another.
const PLACES_MAX: usize = 64;
/// Deepest path that is put together.
const DEPTH_MAX: usize = 4096;
/// Versions of a path that are told, at least: it is a few hundred bytes for each.
const VERSIONS_MAX: usize = 100_000;
/// Moments that are looked at under one lock.
const AT_ONCE: usize = 64;
/// Rows of the history that are read at once.
const PAGE: usize = 256;

/// Names from the top of the volume on.
pub type Path = Vec<Vec<u8>>;

/// What a version came of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happened {
    /// It was made here.
    Made,
    /// A file was written.
    Written,
    /// Mode, owner, times or extended attributes changed.
    Attributes,
    /// Another one took the place of what was here; with where that was before, if it was.
    Replaced {
        /// Nothing when it was made here, or that can't be told.
        from: Option<Path>,
    },
    /// It, or a directory above it, was moved here.
    MovedHere {
        /// Where it was.
        from: Path,
    },
    /// What was there already got this name, or shows again: a further name, something brought back, or from under
    /// another name that was taken.
    Appeared,
    /// It, or a directory above it, was moved away: nothing is here.
    MovedAway {
        /// Where to, if that can be told.
        to: Option<Path>,
    },
    /// It was removed: nothing is here.
    Removed,
}

/// Who made a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Author {
    /// On which device.
    pub device: DeviceId,
    /// Which user.
    pub user: UserId,
    /// The user's name.
    pub name: String,
}

/// What was at a path for a while.
#[derive(Clone, Debug)]
pub struct PathVersion {
    /// The number of the commit since which it showed here.
    pub since: u64,
    /// The number of the commit that ended it; nothing while it shows.
    pub until: Option<u64>,
    /// Since when it showed on this device.
    pub shown: Timestamp,
    /// Who made it: whoever's change it came about by; of what shows beside another of its name, who made that.
    pub author: Author,
    /// How it came about.
    pub happened: Happened,
    /// What was there; nothing when nothing was. Its number is the node's present one: [`Volume::as_it_was`].
    pub state: Option<Attributes>,
    /// What content it is; nothing of what is no file.
    content: Option<ValueRef>,
}

/// For how long a name led to one thing.
#[derive(Clone, Debug)]
struct Stretch {
    ino: Ino,
    kind: NodeKind,
    /// The link that showed, and its place.
    claim: Claimed,
    /// From the arrival on…
    from: u64,
    /// …to before this one; the greatest number: it still does.
    until: u64,
    /// The stretch of the name before, by place.
    above: usize,
}

/// All that tells two versions of a node apart.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Look {
    ino: Ino,
    content: Option<ValueRef>,
    mtime: Option<Timestamp>,
    access: (u16, u32, u32, Vec<u8>, Vec<u8>),
    meta: Option<ValueRef>,
    xattrs: BTreeMap<[u8; 16], Vec<ValueRef>>,
}

impl Volume {
    /// All that was at a path since history begins here, the newest first (of more than a hundred thousand, these); what is gone, and what was there as parts of
    /// the path led elsewhere, is as good as what is there. Costs what happened to the path and to what it led to; of a
    /// directory, also what happened in it.
    ///
    /// # Errors
    /// The disk failed, or is damaged.
    pub fn versions(&self, path: &[&[u8]]) -> Result<Vec<PathVersion>> {
        self.versions_of(path, true)
    }

    /// [`Self::versions`] without what directories were like, whose changes needn't be looked through.
    ///
    /// # Errors
    /// As there.
    pub fn file_versions(&self, path: &[&[u8]]) -> Result<Vec<PathVersion>> {
        self.versions_of(path, false)
    }

    fn versions_of(&self, path: &[&[u8]], directories: bool) -> Result<Vec<PathVersion>> {
        self.close_pending()?;
        let (levels, last) = {
            let mut core = self.inner.core.lock();
            (core.stretches(path)?, core.next_arrival - 1)
        };
        let mut found: Vec<PathVersion> = Vec::new();
        let mut before: Option<(&Stretch, Option<Look>)> = None;
        let deepest = levels.last().map_or(&[][..], Vec::as_slice);
        for (place, stretch) in deepest.iter().enumerate() {
            let ended = before.as_ref().map(|(before, _)| before.until);
            if let Some(until) = ended.filter(|until| *until < stretch.from) {
                found.push(self.inner.core.lock().gone(&levels, place - 1, until, path)?);
            }
            let wanted = directories || stretch.kind != NodeKind::Directory;
            let mut at = vec![stretch.from];
            if wanted {
                at.extend(self.inner.core.lock().changes_of(stretch)?);
            }
            let mut look = before.take().filter(|_| ended == Some(stretch.from)).and_then(|(_, look)| look);
            for moments in at.chunks(AT_ONCE) {
                let mut core = self.inner.core.lock();
                for &arrival in moments.iter().filter(|arrival| **arrival <= last) {
                    let Some((new, state)) = core.look(stretch.ino, arrival)? else { continue };
                    if look.as_ref() == Some(&new) {
                        continue;
                    }
                    let (happened, derived) = match &look {
                        Some(old) if old.ino == new.ino && old.content != new.content => (Happened::Written, false),
                        Some(old) if old.ino == new.ino => (Happened::Attributes, false),
                        old => core.begun(&levels, place, path, old.is_some())?,
                    };
                    let content = new.content.filter(|_| happened == Happened::Written);
                    let author = match content {
                        Some(content) => core.made_by(content.dot)?,
                        None if derived => core.maker(stretch.ino, arrival)?,
                        None => core.author_of_arrival(arrival)?,
                    };
                    let shown = core.shown_since(arrival)?;
                    found.push(PathVersion {
                        since: arrival,
                        until: None,
                        shown,
                        author,
                        happened,
                        state: Some(state),
                        content: new.content,
                    });
                    look = Some(new);
                }
                if found.len() >= 2 * VERSIONS_MAX {
                    found.drain(..found.len() - VERSIONS_MAX);
                }
            }
            before = Some((stretch, look));
        }
        if let Some(until) = before.map(|(before, _)| before.until).filter(|until| *until <= last) {
            found.push(self.inner.core.lock().gone(&levels, deepest.len() - 1, until, path)?);
        }
        let mut until = None;
        for version in found.iter_mut().rev() {
            version.until = until;
            until = Some(version.since);
        }
        found.reverse();
        Ok(found)
    }

    /// What a path leads to, or last led to, and the number of the commit since which it does no more.
    ///
    /// # Errors
    /// [`Error::NotFound`] if it never led to anything.
    pub fn last_state(&self, path: &[&[u8]]) -> Result<(Attributes, Option<u64>)> {
        let mut core = self.inner.core.lock();
        let mut present = Ok(Ino::ROOT);
        for name in path {
            present = present.and_then(|directory| Ok(core.find(directory, name)?.0));
        }
        match present {
            Ok(ino) => return Ok((core.attributes(ino)?, None)),
            Err(Error::NotFound | Error::NotDirectory) => {}
            Err(error) => return Err(error),
        }
        let levels = core.stretches(path)?;
        let stretch = levels.last().and_then(|level| level.last()).ok_or(Error::NotFound)?;
        let (ino, gone) = (stretch.ino, stretch.until);
        let attributes = core.last_attributes(ino, gone)?.ok_or(Error::NotFound)?;
        Ok((attributes, Some(gone)))
    }

    /// The number of the last commit, in which is all that was done here so far.
    ///
    /// # Errors
    /// The disk failed.
    pub fn settled_arrival(&self) -> Result<u64> {
        self.close_pending()?;
        Ok(self.last_arrival())
    }

    /// The newest version of a path that the authors of two others had both seen, by the numbers of the commits since
    /// which these showed; one of the two if the other's author had seen it.
    ///
    /// # Errors
    /// The disk failed, or is damaged.
    pub fn common_base(&self, versions: &[PathVersion], one: u64, other: u64) -> Result<Option<u64>> {
        let find = |since| versions.iter().find(|version| version.since == since);
        let (Some(one), Some(other)) = (find(one), find(other)) else { return Err(Error::NotFound) };
        let mut core = self.inner.core.lock();
        let (one, other) = (core.dot_of_version(one)?, core.dot_of_version(other)?);
        for version in versions.iter().filter(|version| version.state.is_some()) {
            let dot = core.dot_of_version(version)?;
            if core.covers(one, dot)? && core.covers(other, dot)? {
                return Ok(Some(version.since));
            }
        }
        Ok(None)
    }

    /// The number of a node as it was after the commit that arrived as number `arrival`.
    ///
    /// # Errors
    /// As [`Volume::past`].
    pub fn as_it_was(&self, ino: Ino, arrival: u64) -> Result<Ino> {
        self.past(arrival).map(|root| history::beside(root, ino))
    }

    /// The number of a node as it was since the commit that arrived as number `since`; at a moment that is kept.
    ///
    /// # Errors
    /// As [`Volume::past`].
    pub fn as_it_became(&self, ino: Ino, since: u64) -> Result<Ino> {
        let arrival = self.inner.core.lock().moments.from(since);
        self.as_it_was(ino, arrival)
    }

    /// Has all that was done here so far be in a commit: only those have a place in history.
    pub(crate) fn close_pending(&self) -> Result<()> {
        if self.inner.core.lock().pending.is_some() { self.commit_pending() } else { Ok(()) }
    }
}

/// The link that shows, and its place.
type Claimed = Option<(LinkId, ValueRef)>;

/// The rows of an entry: since when, until when (the greatest number: still), and what it was.
type Rows = Vec<(u64, u64, Arc<Entry>)>;

/// What a name leads to, and by which link.
#[derive(Clone, Copy)]
struct Leads {
    ino: Ino,
    kind: NodeKind,
    claim: Claimed,
}

fn leads_to(entry: &Entry) -> Option<Leads> {
    let (ino, kind) = entry.shown()?;
    Some(Leads { ino, kind, claim: entry.claims.first().map(|Claim { link, at, .. }| (*link, *at)) })
}

impl Core {
    /// The rows of an entry, the oldest first: since when, until when, and what it was.
    fn rows_of_name(&mut self, directory: Ino, name: &[u8]) -> Result<Rows> {
        let tag = self.tag(name);
        let mut rows = Vec::new();
        let mut from = 0;
        loop {
            let page = self.entry_rows(directory, &tag, from, PAGE)?;
            let Some((last, _)) = page.last() else { break };
            from = last + 1;
            rows.extend(page.into_iter().map(|(until, entry)| (entry.since, until, entry)));
        }
        if let Some(entry) = self.present_entry(directory, &tag)? {
            rows.push((entry.since, u64::MAX, entry));
        }
        Ok(rows)
    }

    /// What each name of a path led to, and when: one list for each name, each in order of time.
    fn stretches(&mut self, path: &[&[u8]]) -> Result<Vec<Vec<Stretch>>> {
        let root = Stretch {
            ino: Ino::ROOT,
            kind: NodeKind::Directory,
            claim: None,
            from: self.moments.from,
            until: u64::MAX,
            above: 0,
        };
        let last = self.next_arrival - 1;
        let mut levels = vec![vec![root]];
        for name in path {
            let mut below: Vec<Stretch> = Vec::new();
            let mut known: BTreeMap<Ino, Rows> = BTreeMap::new();
            let above = levels.last().map_or(&[][..], Vec::as_slice);
            for (place, directory) in above.iter().enumerate().filter(|(_, s)| s.kind == NodeKind::Directory) {
                let rows = match known.entry(directory.ino) {
                    btree_map::Entry::Occupied(known) => known.into_mut(),
                    btree_map::Entry::Vacant(unknown) => unknown.insert(self.rows_of_name(directory.ino, name)?),
                };
                for (since, until, entry) in rows.iter() {
                    let (from, until) = (directory.from.max(*since), directory.until.min(*until));
                    let Some(Leads { ino, kind, claim }) = leads_to(entry).filter(|_| from < until && from <= last)
                    else {
                        continue;
                    };
                    match below.last_mut() {
                        // The entry changed in what doesn't show.
                        Some(before) if before.until == from && before.ino == ino && before.above == place => {
                            before.until = until;
                            before.claim = claim;
                        }
                        _ => below.push(Stretch { ino, kind, claim, from, until, above: place }),
                    }
                }
            }
            levels.push(below);
        }
        Ok(levels)
    }

    /// The numbers of the commits within a stretch that changed the rows of what it leads to, in order.
    fn changes_of(&mut self, stretch: &Stretch) -> Result<Vec<u64>> {
        let mut inos = vec![stretch.ino];
        if let Some(NodeRow::View { of, .. }) = self.past_row(stretch.ino, stretch.from)?.as_deref() {
            inos.push(*of);
        }
        let mut found = Vec::new();
        for ino in inos {
            self.node_changes(ino, stretch.from + 1, stretch.until, &mut found)?;
            let prefix = [&[<Xattr as Item>::KINDS[0]], &ino.0.to_be_bytes()[..]].concat();
            let mut from = prefix.clone();
            loop {
                let rows = self.store.raw().scan(Space::History, &from, &prefix_end(&prefix), PAGE)?;
                let Some((last, _)) = rows.last() else { break };
                from = [last.as_slice(), &[0]].concat();
                for (key, _) in &rows {
                    let until = history::until(key)?;
                    if until > stretch.from && until < stretch.until {
                        found.push(until);
                    }
                }
            }
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    /// A node as it was then; nothing if it wasn't.
    fn look(&mut self, ino: Ino, arrival: u64) -> Result<Option<(Look, Attributes)>> {
        let past = Past::unnumbered(arrival, self.shown_since(arrival)?);
        let looked = self.as_of(past, |core| {
            let row = core.row(ino)?.ok_or(Error::NotFound)?;
            let attributes = core.attributes_of(ino, &row)?;
            let (of, value, row) = match &*row {
                NodeRow::View { of, value, .. } => (*of, Some(*value), core.row(*of)?.ok_or(Error::NotFound)?),
                NodeRow::Node(_) => (ino, None, row),
            };
            let NodeRow::Node(node) = &*row else { return Err(Error::NotFound) };
            let access = node.access.last().and_then(|value| value.value.as_ref());
            let mut xattrs = BTreeMap::new();
            core.each_item::<Xattr>(of, node, true, |xattr| {
                xattrs.insert(*xattr.tag.as_bytes(), xattr.values.iter().map(|value| value.at).collect());
                true
            })?;
            let look = Look {
                ino,
                content: value.or_else(|| node.content.last().map(|value| value.at)),
                mtime: (node.kind != NodeKind::Directory).then_some(attributes.mtime),
                access: access.map_or_else(Default::default, |access| {
                    (access.mode, access.uid, access.gid, access.acl.to_vec(), access.default_acl.to_vec())
                }),
                meta: node.meta.last().map(|value| value.at),
                xattrs,
            };
            Ok((look, attributes))
        });
        match looked {
            Ok(found) => Ok(Some(found)),
            Err(Error::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// How a stretch began that is at this place in the last level; and whether by a name beside another's, which nobody
    /// gave it.
    fn begun(
        &mut self,
        levels: &[Vec<Stretch>],
        place: usize,
        path: &[&[u8]],
        replaces: bool,
    ) -> Result<(Happened, bool)> {
        let arrival = levels.last().and_then(|level| level.get(place)).map_or(0, |stretch| stretch.from);
        let own = levels.last().and_then(|level| level.get(place)).and_then(|stretch| stretch.claim);
        let (depth, cause) = match own {
            // In one commit with what happened above it.
            Some((_, at)) if at.dot == self.dot_of_arrival(arrival.max(1))? => cause(levels, place, |_| false),
            _ => cause(levels, place, |stretch| stretch.from == arrival),
        };
        if depth == 0 {
            // The top, or what was there when history began.
            return Ok((Happened::Appeared, false));
        }
        let from = self.came_from(cause.claim, path.get(depth..).unwrap_or_default(), arrival)?;
        let existed = self.past_row(cause.ino, arrival.saturating_sub(1))?.is_some();
        let happened = match (replaces, from) {
            (true, from) => Happened::Replaced { from },
            (false, Some(from)) => Happened::MovedHere { from },
            (false, None) if existed => Happened::Appeared,
            (false, None) => Happened::Made,
        };
        Ok((happened, cause.claim.is_none()))
    }

    /// That nothing was at a path from `until` on, which is where the stretch at this place in the last level ended.
    fn gone(&mut self, levels: &[Vec<Stretch>], place: usize, until: u64, path: &[&[u8]]) -> Result<PathVersion> {
        let (own_depth, own) = cause(levels, place, |_| false);
        let dot = self.dot_of_arrival(until)?;
        let (depth, cause) = match self.follower(own.ino, own.claim, Some(dot))? {
            // In one commit with what happened above it.
            Follower::Place(at) if at.dot == dot => (own_depth, own),
            _ => cause(levels, place, |stretch| stretch.until == until),
        };
        let happened = self.went(cause.ino, cause.claim, path.get(depth..).unwrap_or_default(), until)?;
        let (author, shown) = (self.author_of_arrival(until)?, self.shown_since(until)?);
        Ok(PathVersion { since: until, until: None, shown, author, happened, state: None, content: None })
    }

    /// Where a link was that came to a place with the commit `arrival`, with `rest` below it.
    fn came_from(&mut self, claim: Claimed, rest: &[&[u8]], arrival: u64) -> Result<Option<Path>> {
        let Some((_, at)) = claim else { return Ok(None) };
        match self.place_before(at)? {
            Some(place) => self.path_then(&place, rest, arrival.saturating_sub(1)),
            None => Ok(None),
        }
    }

    /// What became of a link that left a place with the commit `arrival`; with `rest` below it.
    fn went(&mut self, ino: Ino, claim: Claimed, rest: &[&[u8]], arrival: u64) -> Result<Happened> {
        let dot = self.dot_of_arrival(arrival)?;
        let to = match self.follower(ino, claim, Some(dot))? {
            Follower::Removal => return Ok(Happened::Removed),
            Follower::Place(at) => self.past_place(at)?,
            Follower::None => None,
        };
        let to = match to {
            Some(place) => self.path_then(&place, rest, arrival)?,
            None => None,
        };
        Ok(Happened::MovedAway { to })
    }

    /// The values that a change superseded.
    pub(crate) fn values_before(&mut self, at: ValueRef) -> Result<Vec<ValueRef>> {
        let head: Head = decode(&self.change(at)?.head)?;
        let mut found = Vec::with_capacity(head.supersedes.len());
        for id in head.supersedes {
            let dot = match id.commit {
                CommitHash::ZERO => at.dot,
                hash => self.dot_of(&hash)?.ok_or_else(|| Error::damaged("a superseded commit is missing"))?,
            };
            found.push(ValueRef { dot, index: id.index });
        }
        Ok(found)
    }

    /// The place that a link left for this one.
    pub(crate) fn place_before(&mut self, at: ValueRef) -> Result<Option<PastPlace>> {
        for before in self.values_before(at)? {
            if let Some(place) = self.past_place(before)? {
                return Ok(Some(place));
            }
        }
        Ok(None)
    }

    /// What followed a link's place: what did so in the commit `of`, else where it was moved to, though another removed it.
    pub(crate) fn follower(&mut self, ino: Ino, claim: Claimed, of: Option<Dot>) -> Result<Follower> {
        let row = self.present_row(ino)?;
        let Some((link, at)) = claim else {
            // It showed beside another of its name, and may do so elsewhere by now.
            let shows = row.is_some_and(|row| match &*row {
                NodeRow::Node(node) => node.is_shown(),
                NodeRow::View { .. } => true,
            });
            return Ok(if shows { Follower::None } else { Follower::Removal });
        };
        let Some(NodeRow::Node(node)) = row.as_deref() else { return Ok(Follower::Removal) };
        let Some(link) = self.link_of(ino, node, &link)? else { return Ok(Follower::None) };
        let mut todo: Vec<ValueRef> = link.values.iter().map(|value| value.at).collect();
        let mut found = Follower::None;
        let mut looked = 0;
        while let Some(value) = todo.get(looked).copied().filter(|_| looked < PLACES_MAX) {
            looked += 1;
            let superseded = self.values_before(value)?;
            if superseded.contains(&at) {
                let head: Head = decode(&self.change(value)?.head)?;
                let follower = match head.kind {
                    ChangeKind::Place { .. } => Follower::Place(value),
                    _ => Follower::Removal,
                };
                if of == Some(value.dot) {
                    return Ok(follower);
                }
                if !matches!(found, Follower::Place(_)) {
                    found = follower;
                }
            }
            for before in superseded {
                if before != at && !todo.contains(&before) {
                    todo.push(before);
                }
            }
        }
        Ok(found)
    }

    /// The path of a place as of an arrival, with `rest` below it.
    fn path_then(&mut self, place: &PastPlace, rest: &[&[u8]], arrival: u64) -> Result<Option<Path>> {
        let past = Past::unnumbered(arrival, Timestamp::default());
        let above = self.as_of(past, |core| core.names_to(place.parent));
        Ok(above?.map(|mut path| {
            path.push(place.name.clone());
            path.extend(rest.iter().map(|name| name.to_vec()));
            path
        }))
    }

    /// The path of a directory; nothing if it shows nowhere.
    fn names_to(&mut self, directory: Ino) -> Result<Option<Path>> {
        let mut path = Vec::new();
        let mut at = directory;
        while at != Ino::ROOT {
            let shown = |node: &Node| node.links.first().and_then(|link| link.shown.clone());
            let shown = match self.canonical(at).and_then(|at| self.with_node(at, shown)) {
                Ok(Some(shown)) if path.len() < DEPTH_MAX => shown,
                Ok(_) | Err(Error::NotFound) => return Ok(None),
                Err(error) => return Err(error),
            };
            path.push(shown.name);
            at = self.canonical(shown.parent)?;
        }
        path.reverse();
        Ok(Some(path))
    }

    /// Who made a commit.
    fn made_by(&self, dot: Dot) -> Result<Author> {
        let device = self.branch_of(dot)?.device;
        let user = self.members.devices.get(&device).map(|device| device.user).unwrap_or(UserId::ZERO);
        Ok(Author { device, user, name: self.members.shown_name(&user) })
    }

    /// Who made what a name beside another's leads to since `arrival`: the content that shows, else the node. (The name
    /// shows since whoever's commit came second.)
    fn maker(&mut self, ino: Ino, arrival: u64) -> Result<Author> {
        let made = match self.past_row(ino, arrival)?.as_deref() {
            Some(NodeRow::View { value, .. }) => Some(*value),
            Some(NodeRow::Node(node)) => node.content.last().map(|value| value.at).or(node.born.first().copied()),
            None => None,
        };
        match made {
            Some(value) => self.made_by(value.dot),
            None => self.author_of_arrival(arrival),
        }
    }

    fn dot_of_arrival(&self, arrival: u64) -> Result<Dot> {
        let key = self.store.raw().get(Space::Index, &arrival_key(arrival))?;
        key.and_then(|key| Dot::from_key(&key)).ok_or_else(|| Error::damaged("a commit is missing"))
    }

    /// Who made the commit that arrived as this number.
    pub(crate) fn author_of_arrival(&self, arrival: u64) -> Result<Author> {
        // What was there when history began: the first there is.
        self.made_by(self.dot_of_arrival(arrival.max(1))?)
    }

    /// The commit in which what a version shows was written, or moved here.
    fn dot_of_version(&self, version: &PathVersion) -> Result<Dot> {
        match version.content {
            Some(content) => Ok(content.dot),
            None => self.dot_of_arrival(version.since.max(1)),
        }
    }
}

/// What came after a link was at a place.
pub(crate) enum Follower {
    /// Another place.
    Place(ValueRef),
    /// Its removal, or that of the node.
    Removal,
    /// Nothing is known to.
    None,
}

/// The topmost of the stretches above the one at `place` in the last level, itself included, that is so; with how many
/// names lead to it.
fn cause(levels: &[Vec<Stretch>], mut place: usize, is_so: impl Fn(&Stretch) -> bool) -> (usize, Stretch) {
    let mut found = None;
    for (depth, level) in levels.iter().enumerate().rev() {
        let stretch = &level[place];
        if found.is_none() || is_so(stretch) && depth > 0 {
            found = Some((depth, stretch.clone()));
        }
        place = stretch.above;
    }
    found.expect("there is a level for the top")
}
