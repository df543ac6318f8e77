//! Rights that come and go: what users do about them, and what must be true of them in the end.
//!
//! The reference model knows one tree for all; here it hangs on who looks. So replicas are held against each other: what two
//! may see is equal, verdicts and members are, each replica is what comes of its commits in any other order, and what
//! somebody is shown and could open are what the access values let them.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    sync::Arc,
};

use crypto::{DeviceId, SeededEntropy, UserId};
use volume::{
    AttributeChange, Error, Ino, Message, NodeKind, OpenMode, Role, Volume,
    commit::{AccessHead, ChangeKind, ClaimedCommit, Commit, ContentBody, MetaBody, PlaceBody, XattrBody, commit_hash},
    content::{Blocks, ContentData, KeyRing as ContentKeys},
    id::{CommitHash, NodeId, RealmId},
};

use crate::{
    check::fail,
    disk::Disk,
    forger::{APART, LATE, follow},
    ledger::{Print, Token, print, tokens},
    model::{Change, History, KeyRing},
    user::{Deed, Trip},
    view::{ABSENT, CALLER, LONGEST, Seen, differences, dump, read, text},
    world::{Violation, World},
};

const MODES_OF_FILES: [u16; 8] = [0o600, 0o640, 0o644, 0o660, 0o664, 0o666, 0o400, 0o620];
const MODES_OF_DIRECTORIES: [u16; 6] = [0o700, 0o750, 0o755, 0o770, 0o775, 0o777];
/// Of the root, where all members look.
const MODES_OF_ROOT: [u16; 3] = [0o755, 0o775, 0o777];
const LIST: &[u8] = b"system.posix_acl_access";
const LIST_OF_NEW: &[u8] = b"system.posix_acl_default";
/// Rounds in which all are told everything, and what follows from that.
const MOST_ROUNDS: usize = 8;
/// The bit of a class that lets read.
const READ: u8 = 4;
/// The same for writing.
pub(crate) const WRITE: u8 = 2;

/// Commits that were signed by who was removed, or who may not.
pub(crate) struct Lie {
    what: &'static str,
    by: DeviceId,
    /// It counts until the removal is known.
    late: bool,
    commits: Vec<ClaimedCommit>,
    tokens: BTreeSet<Token>,
}

/// An access list as `setfacl` stores it.
fn list(mut entries: Vec<(u16, u16, u32)>) -> Vec<u8> {
    entries.sort_unstable();
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, bits, id) in entries {
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&bits.to_le_bytes());
        bytes.extend_from_slice(&id.to_le_bytes());
    }
    bytes
}

/// What somebody sees of one name.
struct Glimpse {
    parts: Vec<Vec<u8>>,
    kind: NodeKind,
    /// `None`: it is closed to them.
    open: Option<String>,
}

/// What somebody sees.
struct Sight {
    seen: BTreeMap<String, Glimpse>,
    /// Keys are missing that they should have, since they were removed for a while.
    lacks: bool,
    own: BTreeSet<Ino>,
}

impl Sight {
    /// `own`: files of which this device shows what it could not publish, and nobody else has.
    fn of(volume: &Volume, own: &BTreeSet<Ino>) -> Result<Sight, Error> {
        let mut sight = Sight { seen: BTreeMap::new(), lacks: false, own: own.clone() };
        sight.walk(volume, Ino::ROOT, &[])?;
        Ok(sight)
    }

    fn walk(&mut self, volume: &Volume, directory: Ino, above: &[Vec<u8>]) -> Result<(), Error> {
        for entry in volume.read_directory(directory, 0, usize::MAX)? {
            if entry.name == b"." || entry.name == b".." {
                continue;
            }
            let parts = [above, std::slice::from_ref(&entry.name)].concat();
            let path: String = parts.iter().map(|part| format!("/{}", String::from_utf8_lossy(part))).collect();
            self.lacks |= entry.name.starts_with(b"~");
            let (ino, kind) = (entry.attributes.ino, entry.attributes.kind);
            let found = match kind {
                NodeKind::Directory => self.walk(volume, ino, &parts).map(|()| String::new()),
                NodeKind::File => match read(volume, ino) {
                    Err(Error::Absent(_)) => Ok(ABSENT.to_owned()),
                    Ok(_) if self.own.contains(&ino) => Ok(ABSENT.to_owned()),
                    bytes => bytes.map(|bytes| text(&bytes)),
                },
                _ => volume.readlink(ino).map(|target| String::from_utf8_lossy(&target).into_owned()),
            };
            let open = match found {
                Err(Error::Denied) => None,
                Err(Error::Damaged(_)) => {
                    self.lacks = true;
                    None
                }
                found => Some(format!("{} {:?}", found?, Self::xattrs(volume, ino)?)),
            };
            self.seen.insert(path, Glimpse { parts, kind, open });
        }
        Ok(())
    }

    fn xattrs(volume: &Volume, ino: Ino) -> Result<Vec<String>, Error> {
        let mut found = Vec::new();
        for name in volume
            .list_xattrs(ino)?
            .into_iter()
            .filter(|name| name.starts_with(b"user.o") || name.starts_with(b"user.t"))
        {
            let value = volume.get_xattr(ino, &name)?;
            found.push(format!("{}={}", String::from_utf8_lossy(&name), String::from_utf8_lossy(&value)));
        }
        found.sort();
        Ok(found)
    }

    /// Whether a name lies in something that is closed.
    fn is_hidden(&self, path: &str) -> bool {
        let above = path.match_indices('/').skip(1).map(|(at, _)| &path[..at]);
        above.into_iter().any(|above| self.seen.get(above).is_some_and(|glimpse| glimpse.open.is_none()))
    }

    /// What two see of what both may see, where it isn't the same.
    fn differs(&self, other: &Sight) -> Option<String> {
        for (path, mine) in &self.seen {
            match other.seen.get(path) {
                None if other.is_hidden(path) => {}
                None => return Some(format!("{path} shows to one alone")),
                Some(theirs) if theirs.kind != mine.kind => return Some(format!("{path} is of two kinds")),
                Some(theirs) => match (&mine.open, &theirs.open) {
                    (Some(one), Some(two)) if one != two && !one.starts_with(ABSENT) && !two.starts_with(ABSENT) => {
                        return Some(format!("{path}: {one}, {two}"));
                    }
                    _ => {}
                },
            }
        }
        None
    }
}

/// What everybody must agree about: members, and what counts for nothing and why.
#[derive(PartialEq, Eq, Debug)]
struct Verdicts {
    members: Vec<(UserId, Role, BTreeSet<DeviceId>)>,
    kept_aside: BTreeMap<CommitHash, usize>,
    forbidden: u64,
}

impl Verdicts {
    fn of(volume: &Volume) -> Result<Verdicts, Error> {
        let mut members: Vec<_> = volume
            .members()
            .into_iter()
            .map(|member| (member.user, member.role, member.devices.into_iter().collect()))
            .collect();
        members.sort();
        let kept_aside = volume.quarantine()?.into_iter().map(|one| (one.commit, one.changes.len())).collect();
        Ok(Verdicts { members, kept_aside, forbidden: volume.forbidden_commits()? })
    }
}

impl World {
    /// Whether a call failed for want of a right, where rights change.
    pub(crate) fn is_of_rights(&self, error: &Error) -> bool {
        let denied = matches!(error, Error::Denied | Error::ReadOnly | Error::NotPermitted | Error::NotSupported);
        self.rights && (denied || matches!(error, Error::Refused(_) | Error::Damaged(_)))
    }

    /// With which mode something is made.
    pub(crate) fn mode_of_new(&self, kind: NodeKind) -> u16 {
        match (self.rights, kind) {
            (false, NodeKind::Directory) => 0o755,
            (false, _) => 0o644,
            // As programs ask for; what the directory's list makes of that is the members'.
            (true, NodeKind::Directory) => self.lot.pick(&[0o777, 0o777, 0o755, 0o700]).copied().unwrap_or(0o777),
            (true, _) => self.lot.pick(&[0o666, 0o666, 0o644, 0o600]).copied().unwrap_or(0o666),
        }
    }

    /// The users at the devices here who do as their programs do.
    fn honest_users(&self) -> BTreeSet<UserId> {
        let honest = self.devices.iter().enumerate().filter(|(r, _)| !self.is_mallory(*r));
        honest.map(|(_, device)| device.user_id()).collect()
    }

    /// `chmod`, `setfacl` or `chown`.
    pub(crate) fn change_rights(&mut self, r: usize, deed: Deed, entry: Option<&Seen>) -> Result<(), Trip> {
        let volume = self.volume(r)?;
        let root = (Ino::ROOT, NodeKind::Directory);
        let (ino, kind) = match entry.filter(|_| !self.lot.chance(80)) {
            Some(entry) => (entry.ino, entry.kind),
            None => root,
        };
        let honest = self.honest_users();
        let members: Vec<_> = volume.members().into_iter().filter(|m| honest.contains(&m.user)).collect();
        match deed {
            Deed::Permit => {
                let modes = match kind {
                    _ if ino == Ino::ROOT => &MODES_OF_ROOT[..],
                    NodeKind::Directory => &MODES_OF_DIRECTORIES[..],
                    _ => &MODES_OF_FILES[..],
                };
                let mode = self.lot.pick(modes).copied();
                volume.set_attributes(ino, None, &AttributeChange { mode, ..Default::default() }, &CALLER)?;
                self.counts.add("rights: a mode was changed");
            }
            Deed::Name if ino != Ino::ROOT => {
                let group = self.lot.below(8) as u16;
                let mut entries =
                    vec![(0x01, 7, u32::MAX), (0x04, group, u32::MAX), (0x10, 7, u32::MAX), (0x20, 0, u32::MAX)];
                for _ in 0..=self.lot.below(2) {
                    let Some(named) = self.lot.pick(&members) else { continue };
                    if entries.iter().all(|(tag, _, id)| (*tag, *id) != (0x02, named.number)) {
                        entries.push((0x02, self.lot.below(8) as u16, named.number));
                    }
                }
                let of_new = kind == NodeKind::Directory && self.lot.chance(300);
                let name = if of_new { LIST_OF_NEW } else { LIST };
                volume.set_xattr(ino, name, &list(entries), volume::SetXattr::Any, &CALLER)?;
                self.counts.add("rights: an access list was set");
            }
            Deed::Give if ino != Ino::ROOT => {
                let Some(to) = self.lot.pick(&members) else { return Ok(()) };
                let change = AttributeChange { owner: Some(to.number), ..Default::default() };
                volume.set_attributes(ino, None, &change, &CALLER)?;
                self.counts.add("rights: something was given away");
            }
            _ => {}
        }
        Ok(())
    }

    /// Another role for somebody, or a removal.
    pub(crate) fn change_members(&mut self, r: usize, deed: Deed) -> Result<(), Trip> {
        let volume = self.volume(r)?;
        let honest = self.honest_users();
        let members = volume.members();
        let (good, bad): (Vec<_>, Vec<_>) =
            members.into_iter().filter(|m| !m.me).partition(|m| honest.contains(&m.user));
        match deed {
            Deed::Rank => {
                let Some(who) = self.lot.pick(&good) else { return Ok(()) };
                let roles = [Role::Reader, Role::Writer, Role::Writer, Role::Admin];
                volume.set_role(&who.user, self.lot.pick(&roles).copied().unwrap_or(Role::Writer))?;
                self.counts.add("rights: a role was changed");
            }
            Deed::Expel => {
                // Somebody stays, to be compared.
                let good = if good.len() > 2 && self.lot.chance(500) { good } else { Vec::new() };
                let Some(who) = self.lot.pick(&good).or_else(|| self.lot.pick(&bad)) else { return Ok(()) };
                volume.remove_user(&who.user)?;
                self.counts.add("rights: a user was removed");
            }
            _ => {
                let first = self.devices[0].id();
                let all: Vec<DeviceId> = (volume.members().into_iter())
                    .filter(|member| member.devices.len() > 1)
                    .flat_map(|member| member.devices)
                    .filter(|device| *device != first)
                    .collect();
                let Some(device) = self.lot.pick(&all) else { return Ok(()) };
                volume.remove_device(device)?;
                self.counts.add("rights: a device was removed");
            }
        }
        Ok(())
    }

    /// Whether the user of `r` may no longer write to a file.
    pub(crate) fn is_shut(&self, r: usize, ino: Ino) -> bool {
        let Some(volume) = self.devices[r].volume.as_ref().filter(|_| self.rights) else { return false };
        match volume.open(ino, OpenMode { write: true, ..OpenMode::default() }, &CALLER) {
            Ok(handle) => volume.release(handle).is_err(),
            Err(error) => self.is_of_rights(&error),
        }
    }

    /// A name that only removed liars gave is known to be so by `r`, and shows all the same.
    pub(crate) fn shows_name_of_lie(&mut self, r: usize, name: &[u8]) -> Result<bool, Violation> {
        if !name.starts_with(LATE) {
            return Ok(false);
        }
        let volume = self.volume(r)?;
        let known = self.lies.iter().filter(|lie| lie.late).all(|lie| volume.is_removed(&lie.by));
        Ok(known && !self.goes_on_with_lies(r)?)
    }

    /// Whether somebody who stays went on with what a removed liar made, or gave its name to something else: that is theirs, and
    /// shows.
    fn goes_on_with_lies(&mut self, r: usize) -> Result<bool, Violation> {
        let volume = self.volume(r)?;
        let commits = self.commits(r)?;
        let history = self.history(&commits);
        let lies: BTreeSet<CommitHash> =
            self.lies.iter().flat_map(|lie| &lie.commits).map(|commit| commit_hash(&commit.header)).collect();
        let keys = KeyRing::new(&history, &self.devices[r].user_keys(), &self.devices[r].keys());
        let is_lie = |node| history.births().get(node).is_some_and(|b| lies.contains(&b[0].id().commit));
        let found = history.changes().any(|change| {
            let goes_on = match &change.head.kind {
                ChangeKind::Content { node, .. } => is_lie(node),
                ChangeKind::Place { child, parent, .. } => {
                    let named = |body: PlaceBody| body.name.starts_with(LATE);
                    is_lie(child) || keys.open::<PlaceBody>(&change, *parent).is_some_and(named)
                }
                _ => false,
            };
            goes_on && !lies.contains(&change.id().commit) && !volume.is_removed(&change.device())
        });
        self.counts.many("check: lies that others went on with", u64::from(found));
        Ok(found)
    }

    /// Something of what only a removed liar wrote is known to be so by `r`, and shows all the same.
    pub(crate) fn shows_lie(&self, r: usize, shown: &BTreeSet<Token>) -> Result<Option<&'static str>, Violation> {
        if self.lies.is_empty() {
            return Ok(None);
        }
        let volume = self.volume(r)?;
        let mut known = self.lies.iter().filter(|lie| lie.late && volume.is_removed(&lie.by));
        Ok(known.find(|lie| !lie.tokens.is_disjoint(shown)).map(|lie| lie.what))
    }

    /// A lie of the kinds that rights are about.
    pub(crate) fn lie_of_rights(
        &mut self,
        mallory: usize,
    ) -> Result<Option<(&'static str, Vec<ClaimedCommit>)>, Violation> {
        let token = self.ledger.token();
        let commits = self.commits(mallory)?;
        let history = self.history(&commits);
        let forger = self.forger(&history);
        let Some(&(what, name)) = self.lot.pick(&APART) else { return Ok(None) };
        let known: Vec<usize> = (0..self.joiners.len())
            .filter(|i| history.standing(self.joiners[*i].id()).is_some())
            .filter(|i| !what.is_late() || forger.is_removed(&self.joiners[*i]))
            .collect();
        let Some(&who) = self.lot.pick(&known) else { return Ok(None) };
        let made = forger.apart(&self.joiners[who], what, &token.bytes());
        let Some(commits) = made else { return Ok(None) };
        let tokens = BTreeSet::from([token]);
        if !what.is_late() {
            self.ledger.forbid(tokens.clone());
            follow(&mut self.joiners[who], &commits[0]);
            self.void.extend(commits.clone());
        }
        self.counts.add(name);
        for commit in &commits {
            self.keep(mallory, commit)?;
        }
        let by = self.joiners[who].id();
        self.lies.push(Lie { what: name, by, late: what.is_late(), commits: commits.clone(), tokens });
        Ok(Some((name, commits)))
    }

    // ---- what must be true

    /// The contents in some commits, as far as `r` has the keys and anybody the blocks.
    fn contents_in(&self, r: usize, commits: &[Rc<Commit>], which: impl Fn(CommitHash) -> bool) -> Vec<Vec<u8>> {
        let history = self.history(commits);
        self.contents(r, &history, |change, _| which(change.id().commit))
    }

    /// The contents in some changes of some nodes, as far as `r` has the keys and anybody the blocks.
    fn contents(&self, r: usize, history: &History<'_>, which: impl Fn(&Change<'_>, NodeId) -> bool) -> Vec<Vec<u8>> {
        let keys = KeyRing::new(history, &self.devices[r].user_keys(), &self.devices[r].keys());
        let mut blocks = self.replaced.clone();
        self.devices.iter().for_each(|device| blocks.extend(device.disk.blocks()));
        let blocks = Blocks::new(Arc::new(Disk::of_blocks(blocks)), Arc::new(SeededEntropy::new(0)));
        let mut found = Vec::new();
        for change in history.changes() {
            let ChangeKind::Content { node, .. } = change.head.kind else { continue };
            if !which(&change, node) {
                continue;
            }
            let Some(body) = keys.open::<ContentBody>(&change, node) else { continue };
            if let ContentData::Inline(bytes) = &body.content.data {
                found.push(bytes.clone());
                continue;
            }
            for key in keys.of_node(node) {
                let mut ring = ContentKeys::new(key);
                body.keys.iter().for_each(|key| ring.add(key));
                let mut bytes = Vec::new();
                if blocks.read(&body.content, &ring, 0, LONGEST, &mut bytes).is_ok() {
                    found.push(bytes);
                    break;
                }
            }
        }
        found
    }

    /// Whether a version that `r` showed was taken back, as its author had lost the right to write it.
    pub(crate) fn was_taken_back(&mut self, r: usize, shown: Print) -> Result<bool, Violation> {
        if !self.rights {
            return Ok(false);
        }
        let kept = self.volume(r)?.quarantine();
        let kept: BTreeSet<CommitHash> = self.sound(r, "quarantine", kept)?.into_iter().map(|one| one.commit).collect();
        let commits = self.commits(r)?;
        let found = self.contents_in(r, &commits, |commit| kept.contains(&commit));
        let excused = found.iter().any(|bytes| print(bytes) == shown);
        self.counts.many("check: versions that went back as they were taken back", u64::from(excused));
        Ok(excused)
    }

    /// Tells everybody everything that anybody knows, each in an order of its own.
    fn tell_all(&mut self, honest: &[usize]) -> Result<bool, Violation> {
        let mut all: BTreeMap<CommitHash, ClaimedCommit> = BTreeMap::new();
        let sources = honest.iter().copied().chain(self.mallory);
        for r in sources.collect::<Vec<_>>() {
            if self.devices[r].volume.is_none() || self.devices[r].disk.is_troubled() {
                continue;
            }
            let commits = self.commits(r)?;
            all.extend(commits.iter().map(|c| (c.hash, c.raw.clone())));
        }
        let mut new = false;
        for &r in honest {
            let known = Self::commit_names(&self.devices[r].disk);
            let mut lacking: Vec<&ClaimedCommit> =
                all.iter().filter(|(hash, _)| !known.contains(*hash)).map(|(_, commit)| commit).collect();
            self.shuffle(&mut lacking);
            let by = honest.iter().find(|other| **other != r).copied().unwrap_or(0);
            // What waits for another is forgotten with whoever sent it.
            let session = self.volume(r)?.session(self.devices[by].id());
            for commit in lacking {
                new = true;
                session
                    .receive(Message::Commits(vec![commit.clone()]))
                    .map_err(|e| Violation(format!("{} refuses what others took: {e}", self.devices[r].name)))?;
            }
        }
        Ok(new)
    }

    fn shuffle<T>(&self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            items.swap(at, self.lot.below(at + 1));
        }
    }

    /// All have met and been told everything: they judge alike, and show each what is theirs to see.
    pub(crate) fn verify_rights(&mut self, honest: &[usize]) -> Result<(), Violation> {
        for _ in 0..MOST_ROUNDS {
            let new = self.tell_all(honest)?;
            self.meet(honest)?;
            if !new {
                break;
            }
        }
        let owner = self.volume(0)?;
        let mut there: Vec<usize> = Vec::new();
        for &r in honest {
            let stays = owner.is_member(&self.devices[r].id());
            if stays != self.volume(r)?.own_role().is_some() {
                return fail(format!(
                    "{} and {} disagree whether one stays",
                    self.devices[0].name, self.devices[r].name
                ));
            }
            self.counts.many("check: who was removed in the end", u64::from(!stays));
            there.extend(stays.then_some(r));
            self.look(r)?;
        }
        let Some(&first) = there.first() else { return Ok(()) };
        self.same_verdicts(first, &there)?;
        self.same_sights(&there)?;
        self.lies_are_recorded(&there)?;
        self.numbers_used_once(first, honest)?;
        let commits = self.commits(first)?;
        self.nobody_opens_more(&commits, honest)?;
        self.nothing_lost(&commits, honest)?;
        for &r in &there {
            self.verify_anew(r)?;
        }
        Ok(())
    }

    fn same_verdicts(&mut self, first: usize, there: &[usize]) -> Result<(), Violation> {
        let known = Self::commit_names(&self.devices[first].disk);
        let expected = Verdicts::of(&self.volume(first)?);
        let expected = self.sound(first, "verdicts", expected)?;
        for &r in there {
            let (name, other) = (self.devices[r].name.clone(), Self::commit_names(&self.devices[r].disk));
            if other != known {
                let missing = known.symmetric_difference(&other).count();
                return fail(format!("{name} and {} differ in {missing} commits", self.devices[first].name));
            }
            let verdicts = Verdicts::of(&self.volume(r)?);
            let verdicts = self.sound(r, "verdicts", verdicts)?;
            if verdicts != expected {
                let first = &self.devices[first].name;
                return fail(format!("{first} and {name} judge differently:\n  {expected:?}\n  {verdicts:?}"));
            }
        }
        self.counts.many("check: commits kept aside in the end", expected.kept_aside.len() as u64);
        if self.mallory.is_none() && expected.forbidden > 0 {
            return fail(format!("{} commits of honest members are forbidden", expected.forbidden));
        }
        Ok(())
    }

    fn same_sights(&mut self, there: &[usize]) -> Result<(), Violation> {
        let mut sights = Vec::new();
        for &r in there {
            let sight = Sight::of(&self.volume(r)?, &self.devices[r].blurred);
            let sight = self.sound(r, "looking", sight)?;
            self.counts.many("check: who lacks keys, having been removed for a while", u64::from(sight.lacks));
            if !sight.lacks {
                sights.push((r, sight));
            }
        }
        let closed = sights.iter().flat_map(|(_, sight)| sight.seen.values()).filter(|glimpse| glimpse.open.is_none());
        let closed = closed.count() as u64;
        self.counts.many("check: names of what is closed to somebody", closed);
        for (one, sight) in &sights {
            let volume = self.volume(*one)?;
            let names: BTreeMap<UserId, String> = volume.members().into_iter().map(|m| (m.user, m.name)).collect();
            for (other, theirs) in sights.iter().filter(|(other, _)| other != one) {
                let (a, b) = (&self.devices[*one].name, &self.devices[*other].name);
                if let Some(why) = sight.differs(theirs) {
                    return fail(format!("{a} and {b} see different things: {why}"));
                }
                let Some(name) = names.get(&self.devices[*other].user_id()) else { continue };
                for (path, glimpse) in &theirs.seen {
                    if glimpse.kind == NodeKind::Symlink || !sight.seen.contains_key(path) {
                        continue;
                    }
                    // (What has no name of its own, as a version in conflict, is not told of.)
                    let Ok(report) = volume.access(&glimpse.parts) else { continue };
                    let Some(access) = report.users.iter().find(|user| user.user == *name) else { continue };
                    self.counts.add("check: who may read what, told by others");
                    if access.reads != glimpse.open.is_some() {
                        return fail(format!(
                            "{b} {} {path}, and {a} says the contrary: {access:?}",
                            if glimpse.open.is_some() { "reads" } else { "does not read" }
                        ));
                    }
                }
            }
        }
        Ok(())
    }

    /// What liars signed is known for what it is.
    fn lies_are_recorded(&mut self, there: &[usize]) -> Result<(), Violation> {
        for &r in there {
            let volume = self.volume(r)?;
            let known = Self::commit_names(&self.devices[r].disk);
            let verdicts = self.sound(r, "verdicts", Verdicts::of(&volume))?;
            let mut forbidden = 0;
            for lie in &self.lies {
                let Some(last) = lie.commits.last().map(|c| commit_hash(&c.header)).filter(|last| known.contains(last))
                else {
                    continue;
                };
                if lie.late && !volume.is_removed(&lie.by) {
                    continue;
                }
                // One that its author knew to be without a right is forbidden, whenever it was made.
                match verdicts.kept_aside.contains_key(&last) {
                    true if !lie.late => return fail(format!("{} keeps aside, {}", self.devices[r].name, lie.what)),
                    true => self.counts.add("check: lies that are kept aside"),
                    false => forbidden += 1,
                }
            }
            self.counts.many("check: lies that are forbidden", forbidden);
            if verdicts.forbidden < forbidden {
                let name = &self.devices[r].name;
                return fail(format!("{name} knows {forbidden} lies and forbids {}", verdicts.forbidden));
            }
        }
        Ok(())
    }

    /// Whoever wrote knowing that a user may not read sealed it so that they can't, whatever they have.
    fn nobody_opens_more(&mut self, commits: &[Rc<Commit>], honest: &[usize]) -> Result<(), Violation> {
        let history = self.history(commits);
        let liars: BTreeSet<DeviceId> =
            self.joiners.iter().map(|j| j.id()).chain(self.mallory.map(|r| self.devices[r].id())).collect();
        let late = self.volume(honest[0])?.quarantine();
        let late: BTreeSet<CommitHash> =
            self.sound(honest[0], "quarantine", late)?.iter().map(|one| one.commit).collect();
        // Access values by liars, or taken back, make it hard to tell what counted.
        let mut values: BTreeMap<NodeId, Vec<(Change<'_>, &AccessHead)>> = BTreeMap::new();
        for change in history.changes() {
            match &change.head.kind {
                ChangeKind::Birth { access, .. } => values.entry(change.born()).or_default().push((change, access)),
                ChangeKind::Access { node, access } => values.entry(*node).or_default().push((change, access)),
                _ => {}
            }
        }
        values.retain(|_, all| all.iter().all(|(c, _)| !liars.contains(&c.device()) && !late.contains(&c.id().commit)));
        let mut looked = 0;
        for &r in honest {
            let (user, name) = (self.devices[r].user_id(), self.devices[r].name.clone());
            let keys = KeyRing::new(&history, &self.devices[r].user_keys(), &self.devices[r].keys());
            for change in history.changes().filter(|c| !liars.contains(&c.device())) {
                let (ChangeKind::Content { node, .. }
                | ChangeKind::Meta { node, .. }
                | ChangeKind::Xattr { node, .. }
                | ChangeKind::Place { parent: node, .. }) = change.head.kind
                else {
                    continue;
                };
                let Some(all) = values.get(&node) else { continue };
                let seen = || all.iter().filter(|(c, _)| history.saw(change.id(), c.id()));
                let gone: BTreeSet<_> = seen().flat_map(|(c, _)| c.supersedes().collect::<Vec<_>>()).collect();
                let mut live = seen().filter(|(c, _)| !gone.contains(&c.id())).peekable();
                // A member who is left out by name of what all others read has the key: programs keep that.
                if live.peek().is_some_and(|(_, head)| head.realm == RealmId::MEMBERS) {
                    continue;
                }
                // Who opens what is there to more lets them read what it was, too.
                let lets_in = |head: &AccessHead| head.realm == RealmId::MEMBERS || bits(head, &user) & READ != 0;
                let opened = all.iter().any(|(c, head)| !history.saw(change.id(), c.id()) && lets_in(head));
                if live.peek().is_none() || opened || live.any(|(_, head)| bits(head, &user) & READ != 0) {
                    continue;
                }
                looked += 1;
                let opens = match change.head.kind {
                    ChangeKind::Content { .. } => keys.open::<ContentBody>(&change, node).is_some(),
                    ChangeKind::Meta { .. } => keys.open::<MetaBody>(&change, node).is_some(),
                    ChangeKind::Xattr { .. } => keys.open::<XattrBody>(&change, node).is_some(),
                    _ => keys.open::<PlaceBody>(&change, node).is_some(),
                };
                if opens {
                    let commit = change.id().commit.short();
                    let (by, kind) = (change.device().short(), &change.head.kind);
                    return fail(format!(
                        "{name} can open change {} of commit {commit} by {by}, and may not: {kind:?}",
                        change.index
                    ));
                }
            }
        }
        self.counts.many("check: changes that somebody can't open who may not", looked);
        Ok(())
    }

    /// What was promised is there, for somebody, or kept aside.
    fn nothing_lost(&mut self, commits: &[Rc<Commit>], honest: &[usize]) -> Result<(), Violation> {
        let mut found: BTreeSet<Token> = self.stranded.clone();
        let mut kept = BTreeSet::new();
        for &r in honest {
            let visible = Self::visible(&self.volume(r)?);
            found.extend(self.sound(r, "listing", visible)?);
            let aside = self.volume(r)?.quarantine();
            kept.extend(self.sound(r, "quarantine", aside)?.into_iter().map(|one| one.commit));
        }
        let lost = self.ledger.lost(&found);
        if lost.is_empty() {
            return Ok(());
        }
        let history = self.history(commits);
        let users = self.honest_users();
        let mut values: BTreeMap<NodeId, Vec<(Change<'_>, &AccessHead)>> = BTreeMap::new();
        for change in history.changes() {
            match &change.head.kind {
                ChangeKind::Birth { access, .. } => values.entry(change.born()).or_default().push((change, access)),
                ChangeKind::Access { node, access } => values.entry(*node).or_default().push((change, access)),
                _ => {}
            }
        }
        let mut places: BTreeMap<NodeId, Vec<(Change<'_>, NodeId)>> = BTreeMap::new();
        for change in history.changes() {
            if let ChangeKind::Place { child, parent, .. } = change.head.kind {
                places.entry(child).or_default().push((change, parent));
            }
        }
        // What a liar closed to all others, nobody here sees; nor what stands where nobody may look who may read it.
        let is_closed = |node: NodeId| {
            let live = |c: &Change<'_>| history.is_live(c);
            let reads = |of: NodeId, user: &UserId| {
                let mut values = values.get(&of).into_iter().flatten().filter(|(c, _)| live(c));
                values.all(|(_, head)| bits(head, user) & READ != 0)
            };
            let reaches = |user: &UserId| {
                let (mut todo, mut known) = (vec![node], BTreeSet::new());
                while let Some(at) = todo.pop().filter(|at| *at != NodeId::ROOT) {
                    let all = places.get(&at).into_iter().flatten();
                    // What came back stands where it was.
                    let gone = all.clone().all(|(c, _)| !live(c));
                    let above = all.filter(|(c, _)| gone || live(c)).map(|(_, parent)| *parent);
                    todo.extend(above.filter(|parent| reads(*parent, user) && known.insert(*parent)));
                }
                known.contains(&NodeId::ROOT)
            };
            !users.iter().any(|user| reads(node, user) && reaches(user))
        };
        for &r in honest {
            for bytes in
                self.contents(r, &history, |change, node| kept.contains(&change.id().commit) || is_closed(node))
            {
                found.extend(tokens(&bytes).map_err(Violation)?);
            }
        }
        let left = self.ledger.lost(&found);
        self.counts.many("check: what is kept aside instead of shown", (lost.len() - left.len()) as u64);
        if !left.is_empty() {
            let mut shown = String::new();
            for &r in honest {
                let tree = dump(&self.volume(r)?).unwrap_or_default();
                shown += &format!("\n {}:\n  {}", self.devices[r].name, tree.join("\n  "));
            }
            return fail(format!("promised and gone: {left:?}; left:{shown}"));
        }
        Ok(())
    }

    /// The replica `r`, held against what comes of its commits in another order, on an empty disk.
    pub(crate) fn verify_anew(&mut self, r: usize) -> Result<(), Violation> {
        if !self.devices[r].blurred.is_empty() {
            return Ok(());
        }
        let commits = self.commits(r)?;
        let shown = dump(&self.volume(r)?);
        let shown = self.sound(r, "listing", shown)?;
        let expected = self.sound(r, "verdicts", Verdicts::of(&self.volume(r)?))?;
        let blocks = Disk::of_blocks(self.devices[r].disk.blocks());
        let anew = self.devices[r].anew(blocks);
        let anew = self.sound(r, "beginning anew", anew)?;
        let mut order: Vec<&Rc<Commit>> = commits.iter().collect();
        self.shuffle(&mut order);
        let peer = self.devices[usize::from(r == 0)].id();
        let session = anew.session(peer);
        for commit in order {
            let taken = session.receive(Message::Commits(vec![commit.raw.clone()]));
            taken.map_err(|e| Violation(format!("{} anew refuses its own commits: {e}", self.devices[r].name)))?;
        }
        let again = Verdicts::of(&anew);
        let again = self.sound(r, "verdicts anew", again)?;
        let name = self.devices[r].name.clone();
        if again != expected {
            return fail(format!("{name} judges differently anew:\n  {expected:?}\n  {again:?}"));
        }
        let tree = dump(&anew);
        let tree = self.sound(r, "listing anew", tree)?;
        if tree != shown {
            return fail(format!("{name} shows others anew:{}", differences(&shown, &tree)));
        }
        self.counts.add("check: replicas held against themselves in another order");
        Ok(())
    }
}

/// What somebody may do by a clear access value.
pub(crate) fn bits(head: &AccessHead, user: &UserId) -> u8 {
    if head.owner == *user {
        return 6;
    }
    match head.grants.iter().find(|(named, _)| named == user) {
        Some((_, bits)) => *bits,
        None => (head.mode >> 3) as u8 & 6,
    }
}
