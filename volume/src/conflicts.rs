//! Names beside which something else shows: other versions of a file that several wrote at once, and what else was made
//! under a taken name.
//!
//! Owns: the set of such names, kept in the store so that nobody has to walk the tree for them; telling what shows at each;
//! settling. Does not own: what shows where ([`crate::tree`] derives it).
//!
//! Invariants: an entry from which others derive has a row here, stored in the batch that makes it so, and no other entry
//! has; settling is made of the same changes as ordinary calls, so replicas know nothing of it.

use crypto::DeviceId;

use crate::{
    Volume,
    apply::decode,
    commit::{ChangeKind, ContentBody, Header},
    content::BlockHash,
    core::{Core, decode_row},
    error::{Error, Result},
    node::{Ino, NodeKind, RenameMode},
    row::{Entry, NodeRow},
    store::{Batch, Space, prefix_end},
    time::Timestamp,
    tree::{civil_minutes, with_suffix},
    version::ValueRef,
};

/// A row for each name beside which something shows.
pub(crate) const BESIDE: &[u8] = b"beside/";
/// Tells that every such name has its row: in a store of an earlier version none has.
const COMPLETE: &[u8] = b"beside";
/// Rows read at once.
const PAGE: usize = 1024;
/// Names that are told of with the lock held in one go.
const AT_ONCE: usize = 64;

/// A name, and what shows there and beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The path of the directory from the volume's root on; empty for the root itself.
    pub directory: Vec<u8>,
    /// What shows there: first under the name itself.
    pub versions: Vec<ConflictVersion>,
}

/// One of several that want a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConflictVersion {
    /// The name under which it shows.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: NodeKind,
    /// Whether it is a node of its own, which only wanted the same name, and not a version of the first one.
    pub own: bool,
    /// Who wrote it, by name.
    pub user: String,
    /// On which device.
    pub device: DeviceId,
    /// Whether that is this device's user.
    pub mine: bool,
    /// When, by that device's clock.
    pub made: Timestamp,
    /// Since when it shows here.
    pub shown: Timestamp,
    /// Bytes.
    pub size: u64,
}

/// Conflicts that were asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conflicts {
    /// By path.
    pub conflicts: Vec<Conflict>,
    /// How many more there are.
    pub more: u64,
}

/// What to keep of several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keep {
    /// What this user made.
    Mine,
    /// What somebody else made.
    Theirs,
    /// All, each as a file of its own.
    All,
    /// What shows under this name.
    Named(Vec<u8>),
}

/// Who made a value, and when.
pub(crate) struct Origin {
    pub device: DeviceId,
    pub made: Timestamp,
    shown: Timestamp,
    /// Hex digits that no other value has.
    pub digits: String,
}

/// One of a group, with what settling needs.
struct Version {
    name: Vec<u8>,
    /// What the name leads to.
    ino: Ino,
    /// The file whose version it is, or itself.
    of: Ino,
    kind: NodeKind,
    /// The content; what has none was made there.
    value: ValueRef,
    origin: Origin,
}

fn beside_key(directory: Ino, tag: &[u8; 16]) -> Vec<u8> {
    [BESIDE, &directory.0.to_be_bytes(), tag].concat()
}

/// The directory and the tag of the name that a row is of, if it is such a row.
fn place_of(key: &[u8]) -> Option<(Ino, [u8; 16])> {
    let (directory, tag) = key.strip_prefix(BESIDE)?.split_first_chunk()?;
    Some((Ino(u64::from_be_bytes(*directory)), tag.try_into().ok()?))
}

impl Core {
    // ---- the set

    /// Finds the names beside which something shows in a store of a version that kept no rows of them.
    pub(crate) fn load_beside(&mut self) -> Result<()> {
        if self.store.get(Space::Meta, COMPLETE)?.is_some() {
            return Ok(());
        }
        let (mut batch, mut from, mut count) = (Batch::new(), Vec::new(), 0);
        loop {
            let rows = self.store.raw().scan(Space::Entries, &from, &[], PAGE)?;
            let Some((last, _)) = rows.last() else { break };
            from = [last.as_slice(), &[0]].concat();
            for (key, sealed) in rows {
                // What can't be read is damage, which whoever looks there or verifies is told of.
                let entry = self.store.open(Space::Entries, &key, &sealed);
                let entry: Option<Entry> = entry.and_then(|plain| decode_row("entry", &plain)).ok();
                if entry.is_some_and(|entry| !entry.derives.is_empty()) {
                    self.store.put(&mut batch, Space::Meta, [BESIDE, &key].concat(), &[]);
                    count += 1;
                }
            }
        }
        self.store.put(&mut batch, Space::Meta, COMPLETE, &[]);
        self.count_beside(&mut batch, count);
        self.store.apply(batch)
    }

    /// Notes in `batch` that something shows beside a name from now on, or no longer.
    pub(crate) fn put_beside(&self, batch: &mut Batch, directory: Ino, tag: &[u8; 16], there: bool) {
        let key = beside_key(directory, tag);
        if there {
            self.store.put(batch, Space::Meta, key, &[]);
        } else {
            batch.remove(Space::Meta, key);
        }
    }

    /// Whether a row of the set leads to a name beside which something shows, or is there no longer.
    pub(crate) fn is_beside(&mut self, key: &[u8]) -> Result<bool> {
        let Some((directory, tag)) = place_of(key) else { return Ok(false) };
        let shows = self.present_entry(directory, &tag)?.is_some_and(|entry| !entry.derives.is_empty());
        Ok(shows || self.store.get(Space::Meta, key)?.is_none())
    }

    /// Whether a name has its row if something shows beside it, and none if not.
    pub(crate) fn is_counted(&self, directory: Ino, entry: &Entry) -> Result<bool> {
        let row = self.store.get(Space::Meta, &beside_key(directory, &self.tag(&entry.name)))?;
        Ok(row.is_some() != entry.derives.is_empty())
    }

    /// The rows of the set from `from` on, of directories and tags.
    fn beside_rows(&self, from: &[u8], limit: usize) -> Result<Vec<Vec<u8>>> {
        let rows = self.store.scan(Space::Meta, from, &prefix_end(BESIDE), limit)?;
        Ok(rows.into_iter().map(|(key, _)| key).collect())
    }

    /// Whether there are as many as were counted.
    pub(crate) fn are_all_beside(&self) -> Result<bool> {
        let rows = self.store.raw().scan(Space::Meta, BESIDE, &prefix_end(BESIDE), usize::MAX)?;
        Ok(rows.len() as u64 == self.conflict_count())
    }

    // ---- telling

    /// Who made a value, and when.
    pub(crate) fn origin_of(&self, value: ValueRef) -> Result<Origin> {
        if self.is_pending(value.dot) {
            let (device, now) = (self.device.id(), self.now());
            return Ok(Origin { device, made: now, shown: now, digits: format!("{:064x}", value.index) });
        }
        let row = self.commit_row(value.dot)?.ok_or_else(|| Error::damaged("a commit is missing"))?;
        let header: Header = decode(&row.header)?;
        let digits = format!("{}{:x}", row.hash, value.index);
        Ok(Origin { device: header.device, made: header.time, shown: row.shown, digits })
    }

    /// The name of the user of a device.
    pub(crate) fn user_named(&self, device: &DeviceId) -> String {
        let user = self.members.devices.get(device).map(|d| d.user);
        user.map_or_else(|| device.short(), |user| self.members.shown_name(&user))
    }

    /// Whether a device is one of this device's user.
    fn is_mine(&self, device: &DeviceId) -> bool {
        let me = self.user.id();
        self.members.devices.get(device).is_some_and(|d| d.user == me)
    }

    /// What shows at a name and beside it: the first under the name itself.
    fn versions_at(&mut self, directory: Ino, entry: &Entry) -> Result<Vec<Version>> {
        let mut places: Vec<(Vec<u8>, Ino)> = Vec::new();
        places.extend(entry.claims.first().map(|claim| (entry.name.clone(), claim.child)));
        for name in &entry.derives {
            let there = self.entry(directory, name)?;
            // With all its names taken it shows nowhere.
            let derived = there.derived.as_ref().filter(|d| d.base == entry.name && there.claims.is_empty());
            places.extend(derived.map(|d| (name.to_vec(), d.ino)));
        }
        let mut versions = Vec::with_capacity(places.len());
        for (name, ino) in places {
            let (of, view) = match self.row(ino)?.as_deref() {
                Some(NodeRow::View { of, value, .. }) => (*of, Some(*value)),
                _ => (ino, None),
            };
            let (kind, at) = self.with_node(of, |n| {
                let content = n.content.last().map(|v| v.at);
                (n.kind, view.or(content).or_else(|| n.born.first().copied()))
            })?;
            let value = at.ok_or_else(|| Error::damaged("a node without a birth"))?;
            let origin = self.origin_of(value)?;
            versions.push(Version { name, ino, of, kind, value, origin });
        }
        Ok(versions)
    }

    fn conflict_at(&mut self, directory: Ino, entry: &Entry) -> Result<Option<Conflict>> {
        // (Entries are of directories that are there, or these would be gone with them.)
        let Some(path) = self.path_of(directory) else { return Ok(None) };
        let versions = self.versions_at(directory, entry)?;
        let first = versions.first().map(|version| version.of);
        let mut told = Vec::with_capacity(versions.len());
        for Version { name, ino, of, kind, origin, .. } in versions {
            told.push(ConflictVersion {
                size: self.attributes(ino)?.size,
                name,
                kind,
                own: Some(of) != first,
                user: self.user_named(&origin.device),
                device: origin.device,
                mine: self.is_mine(&origin.device),
                made: origin.made,
                shown: origin.shown,
            });
        }
        Ok(Some(Conflict { directory: path, versions: told }).filter(|c| c.versions.len() > 1))
    }

    // ---- settling

    /// The directory and the name itself that a path leads to, be it that name or one that shows beside it.
    fn name_in_conflict(&mut self, path: &[u8]) -> Result<(Ino, Vec<u8>)> {
        let mut directory = Ino::ROOT;
        let mut names = path.split(|b| *b == b'/').filter(|name| !name.is_empty()).peekable();
        while let Some(name) = names.next() {
            if names.peek().is_some() {
                directory = self.find(directory, name)?.0;
                continue;
            }
            let directory = self.directory(directory)?;
            let entry = self.entry(directory, name)?;
            if entry.shown().is_none() {
                return Err(Error::NotFound);
            }
            match &entry.derived {
                Some(derived) if entry.claims.is_empty() => return Ok((directory, derived.base.clone())),
                _ if !entry.derives.is_empty() => return Ok((directory, name.to_vec())),
                _ => break,
            }
        }
        Err(Error::Refused("nothing is in conflict with it".to_owned()))
    }

    pub(crate) fn resolve(&mut self, path: &[u8], keep: &Keep) -> Result<()> {
        self.may_change()?;
        let (directory, name) = self.name_in_conflict(path)?;
        let entry = self.entry(directory, &name)?;
        let versions = self.versions_at(directory, &entry)?;
        if versions.iter().any(|version| self.own.contains_key(&version.of)) {
            return Err(Error::Refused("it is open for writing on this device: close it first".to_owned()));
        }
        match self.chosen(&versions, keep)? {
            None => self.part(directory, &versions),
            Some(kept) => self.keep_one(directory, &versions, kept),
        }
    }

    /// Which one is to be kept; `None`: all.
    fn chosen(&self, versions: &[Version], keep: &Keep) -> Result<Option<usize>> {
        let wanted = |version: &Version| match keep {
            Keep::Mine => self.is_mine(&version.origin.device),
            Keep::Theirs => !self.is_mine(&version.origin.device),
            Keep::Named(name) => version.name == *name,
            Keep::All => false,
        };
        if *keep == Keep::All {
            return Ok(None);
        }
        let found: Vec<usize> = (0..versions.len()).filter(|i| wanted(&versions[*i])).collect();
        if let [one] = found.as_slice() {
            return Ok(Some(*one));
        }
        let why = match (keep, found.len()) {
            (Keep::Mine, 0) => "none of them is yours",
            (Keep::Mine, _) => "several of them are yours",
            (Keep::Theirs, 0) => "all of them are yours",
            (Keep::Theirs, _) => "several of them are others'",
            (Keep::Named(_) | Keep::All, _) => "there is none of that name",
        };
        let choices: Vec<String> = versions
            .iter()
            .map(|v| format!("`{}` by {}", String::from_utf8_lossy(&v.name), self.user_named(&v.origin.device)))
            .collect();
        Err(Error::Refused(format!("{why}: name the one to keep, of {}", choices.join(", "))))
    }

    /// Makes everything that shows beside a name something of its own.
    fn part(&mut self, directory: Ino, versions: &[Version]) -> Result<()> {
        let Some(plain) = versions.first().map(|version| version.name.clone()) else { return Ok(()) };
        for version in &versions[1..] {
            let name = self.name_of_its_own(directory, &plain, &version.origin)?;
            if version.ino == version.of {
                self.rename(directory, &version.name, directory, &name, RenameMode::NoReplace)?;
            } else {
                self.make_real_as(version.ino, directory, &name)?;
            }
        }
        Ok(())
    }

    /// A free name that tells who made it and when, and that nobody takes for a conflict.
    fn name_of_its_own(&mut self, directory: Ino, plain: &[u8], origin: &Origin) -> Result<Vec<u8>> {
        let base = format!("{} {}", self.user_named(&origin.device), civil_minutes(origin.made));
        let digits = [4, 8, origin.digits.len()].map(|n| format!(" ({base} {})", &origin.digits[..n]));
        for suffix in [format!(" ({base})")].iter().chain(&digits) {
            let name = with_suffix(plain, suffix);
            if self.entry(directory, &name)?.shown().is_none() {
                return Ok(name);
            }
        }
        Err(Error::Exists)
    }

    /// Does away with all but one, which gets the name itself.
    fn keep_one(&mut self, directory: Ino, versions: &[Version], kept: usize) -> Result<()> {
        let (plain, kept) = (&versions[0].name, &versions[kept]);
        for other in versions.iter().filter(|v| v.of != kept.of && v.kind == NodeKind::Directory) {
            if self.has_entries(other.ino)? {
                let name = String::from_utf8_lossy(&other.name).into_owned();
                return Err(Error::Refused(format!(
                    "`{name}` is a folder with something in it: only both can be kept"
                )));
            }
        }
        self.keep_value(kept)?;
        // A name at a time: a file's other names, if it has any, stay.
        for other in versions.iter().filter(|v| v.of != kept.of && v.of == v.ino) {
            if other.kind == NodeKind::Directory {
                self.rmdir(directory, &other.name)?;
            } else {
                self.settle_others(other.of, other.value)?;
                self.unlink(directory, &other.name)?;
            }
        }
        if kept.of != versions[0].of
            && let Some(shows) = versions.iter().find(|v| v.ino == kept.of)
        {
            self.rename(directory, &shows.name, directory, plain, RenameMode::NoReplace)?;
        }
        Ok(())
    }

    /// Takes all contents of a file away but one.
    fn settle_others(&mut self, file: Ino, kept: ValueRef) -> Result<()> {
        let values: Vec<ValueRef> = self.with_node(file, |n| n.content.iter().map(|v| v.at).collect())?;
        if values.contains(&kept) {
            for other in values.into_iter().filter(|at| *at != kept) {
                self.settle_conflict(file, other)?;
            }
        }
        Ok(())
    }

    /// Has a file show one of its versions, and no other.
    ///
    /// Another one than the first is written anew, as by somebody who had read all of them: if it only stayed while the
    /// others went, two who are apart and keep different ones would together keep none.
    fn keep_value(&mut self, kept: &Version) -> Result<()> {
        if kept.kind != NodeKind::File {
            return Ok(());
        }
        if kept.of == kept.ino {
            return self.settle_others(kept.of, kept.value);
        }
        self.anchor(kept.of)?;
        let file = self.node(kept.of)?;
        let content = file.content.iter().find(|v| v.at == kept.value).ok_or(Error::NotFound)?.value.clone();
        let content = content.ok_or_else(|| Error::damaged("a content that does not decode"))?;
        let body = ContentBody { keys: content.keys.clone(), ..self.content_body(&file, kept.value, &content)? };
        let (root, blocks) = content.tree.unwrap_or((BlockHash::ZERO, 0));
        let gone: Vec<ValueRef> = file.content.iter().map(|v| v.at).collect();
        let (generation, key) = self.body_key(kept.of)?;
        self.emit(ChangeKind::Content { node: file.id, generation, root, blocks }, &gone, Some((&key, &body)))?;
        Ok(())
    }
}

impl Volume {
    /// The names beside which something shows, at most `most` of them: `within` a path, if there is one, which may be a
    /// directory's, or one of those names, or of what shows beside it.
    ///
    /// # Errors
    /// The disk failed, or a record is damaged.
    pub fn conflicts(&self, within: &[u8], most: usize) -> Result<Conflicts> {
        let mut found = Conflicts::default();
        let mut from = BESIDE.to_vec();
        loop {
            let core = &mut *self.inner.core.lock();
            let rows = core.beside_rows(&from, AT_ONCE)?;
            let Some(last) = rows.last() else { break };
            from = [last.as_slice(), &[0]].concat();
            for (directory, tag) in rows.iter().filter_map(|key| place_of(key)) {
                let Some(entry) = core.present_entry(directory, &tag)? else { continue };
                let Some(conflict) = core.conflict_at(directory, &entry)? else { continue };
                if !conflict.is_within(within) {
                    continue;
                }
                if found.conflicts.len() < most {
                    found.conflicts.push(conflict);
                } else {
                    found.more += 1;
                }
            }
        }
        found.conflicts.sort_by_cached_key(|conflict| conflict.path());
        Ok(found)
    }

    /// Settles what shows at a path, or beside it, in favour of one, or makes all of it something of its own.
    ///
    /// # Errors
    /// [`Error::Refused`] with the reason: nothing is in conflict there, `keep` is none or several of them, one is being
    /// written; [`Error::NotFound`]; [`Error::ReadOnly`] for a reader; the disk failed.
    pub fn resolve(&self, path: &[u8], keep: &Keep) -> Result<()> {
        self.beside_the_mount(|core| core.resolve(path, keep))
    }
}

impl Conflict {
    /// The path of the name itself.
    pub fn path(&self) -> Vec<u8> {
        self.path_of(self.versions.first().map_or(&[], |first| first.name.as_slice()))
    }

    fn path_of(&self, name: &[u8]) -> Vec<u8> {
        if self.directory.is_empty() { name.to_vec() } else { [&self.directory, b"/".as_slice(), name].concat() }
    }

    fn is_within(&self, path: &[u8]) -> bool {
        let below = |whole: &[u8]| whole.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest[0] == b'/');
        path.is_empty() || self.versions.iter().any(|version| below(&self.path_of(&version.name)))
    }
}
