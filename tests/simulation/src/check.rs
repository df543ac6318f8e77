//! What must be true: at any time of each replica, and of all when they have met.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    sync::Arc,
};

use crypto::{DeviceId, Label, SeededEntropy, SymmetricKey, UserId};
use volume::{
    Error, Message, NodeKind, Volume,
    commit::{ChangeKind, ClaimedCommit, Commit, ContentBody, changes_root, commit_hash},
    content::{BlockKind, Blocks, ContentData, KeyRing},
    id::{CommitHash, NodeId},
    store::Space,
};

use crate::{
    disk::Disk,
    forger::FORBIDDEN,
    ledger::{Print, Token, print, tokens},
    model::{History, Reference},
    view::{ABSENT, LONGEST, differences, dump, entries, read, text},
    world::{Violation, World},
};

/// Most commits that may wait for others at one device.
const MOST_WAITING: u64 = 2048;
/// Most commits that a session may have noted to ask for and to send.
const MOST_QUEUED: usize = 3 * 2048;

pub(crate) fn fail<T>(why: String) -> Result<T, Violation> {
    Err(Violation(why))
}

impl World {
    /// What goes wrong on a good disk is a violation.
    pub(crate) fn sound<T>(&self, r: usize, what: &str, result: Result<T, Error>) -> Result<T, Violation> {
        result.map_err(|e| Violation(format!("{}: {what}: {e}", self.devices[r].name)))
    }

    /// The user of `r` looks at everything: files show what was written to them, and none an older version than before.
    pub(crate) fn look(&mut self, r: usize) -> Result<(), Violation> {
        let volume = self.volume(r)?;
        if self.devices[r].disk.is_troubled() {
            return Ok(());
        }
        let all = entries(&volume);
        let all = self.sound(r, "listing", all)?;
        if let Some(entry) = all.iter().find(|e| e.name.starts_with(FORBIDDEN)) {
            return fail(format!("{} shows {}, which a liar made", self.devices[r].name, entry.path));
        }
        for entry in &all {
            if self.shows_name_of_lie(r, &entry.name)? {
                let name = &self.devices[r].name;
                return fail(format!("{name} shows {}: a name that who was removed made", entry.path));
            }
        }
        self.counts.many("check: files looked at", all.len() as u64);
        for entry in all.into_iter().filter(|e| e.kind == NodeKind::File) {
            let bytes = match read(&volume, entry.ino) {
                Err(Error::Absent(_)) => continue,
                Err(other) if self.is_of_rights(&other) => continue,
                other => self.sound(r, &entry.path, other)?,
            };
            let shown = tokens(&bytes).map_err(Violation)?;
            if let Some(what) = self.shows_lie(r, &shown)? {
                return fail(format!("{}: {} shows what was {what}", self.devices[r].name, entry.path));
            }
            if let Some(token) = self.ledger.forbidden(&shown) {
                return fail(format!("{}: {} shows {token:?}, which a liar wrote", self.devices[r].name, entry.path));
            }
            let device = &self.devices[r];
            if let Some(mirror) = device.files.get(&entry.ino) {
                if mirror.bytes.as_ref().is_some_and(|written| *written != bytes) && !self.is_shut(r, entry.ino) {
                    return fail(format!(
                        "{}: {} shows {} while {} was written to it",
                        device.name,
                        entry.path,
                        text(&bytes),
                        text(mirror.bytes.as_deref().unwrap_or_default())
                    ));
                }
                continue;
            }
            if device.blurred.contains(&entry.ino) {
                continue;
            }
            let new = print(&bytes);
            let device = &mut self.devices[r];
            if device.disk.unsynced() == 0 {
                device.shown_for_good.insert(entry.ino, new);
            }
            if let Some(old) = device.shown.insert(entry.ino, new)
                && self.ledger.is_ancestor(new, old)
                && !self.was_taken_back(r, old)?
            {
                let device = &self.devices[r];
                return fail(format!("{}: {} went back to {}", device.name, entry.path, text(&bytes)));
            }
        }
        self.nothing_older_than_before_copies(r)
    }

    /// Nothing that peers make grows without end.
    pub(crate) fn bounded(&self, r: usize) -> Result<(), Violation> {
        let Some(volume) = &self.devices[r].volume else { return Ok(()) };
        let waiting = volume.status().waiting_commits;
        if waiting > MOST_WAITING {
            return fail(format!("{}: {waiting} commits wait for others", self.devices[r].name));
        }
        for connection in self.connections.iter().filter(|c| c.ends.contains(&r)) {
            let session = &connection.sessions[usize::from(connection.ends[1] == r)];
            if session.queued() > MOST_QUEUED {
                return fail(format!("{}: {} commits noted for one peer", self.devices[r].name, session.queued()));
            }
        }
        Ok(())
    }

    /// The commits that a disk has, by name.
    pub(crate) fn commit_names(disk: &Disk) -> BTreeSet<CommitHash> {
        let keys = disk.keys(Space::Index, b"h");
        keys.iter().filter_map(|key| CommitHash::try_from(&key[1..]).ok()).collect()
    }

    /// Every commit that `r` would send, checked.
    pub(crate) fn commits(&mut self, r: usize) -> Result<Vec<Rc<Commit>>, Violation> {
        let volume = self.volume(r)?;
        // Somebody who is told: who was removed isn't. (Whoever is left alone tells themselves.)
        let peer = match self.rights {
            true => volume.members().into_iter().filter(|m| !m.me).flat_map(|m| m.devices).next(),
            false => None,
        };
        let other = match volume.own_role() {
            Some(_) if self.rights => self.devices[r].id(),
            _ => self.devices[usize::from(r == 0)].id(),
        };
        let peer = peer.unwrap_or(other);
        let session = volume.session(peer);
        session.receive(Message::Tips(Vec::new())).map_err(|e| Violation(e.to_string()))?;
        let mut found = Vec::new();
        while let Some(message) = session.next_outgoing() {
            let Message::Commits(commits) = message else { continue };
            for commit in commits {
                found.push(self.checked(r, commit)?);
            }
        }
        Ok(found)
    }

    pub(crate) fn checked(&mut self, r: usize, commit: ClaimedCommit) -> Result<Rc<Commit>, Violation> {
        let hash = commit_hash(&commit.header);
        if let Some(known) = self.checked.get(&hash).filter(|known| known.raw == commit) {
            return Ok(known.clone());
        }
        let claimed = commit.clone();
        let commit = commit.check();
        let commit = commit.map_err(|e| Violation(format!("{} stored a bad commit: {e}", self.devices[r].name)))?;
        // Not left to the code that is checked here.
        let author = commit.header.device;
        let signed = crypto::verify(Label::CommitSignature, author, &claimed.header, &claimed.signature);
        if signed.is_err() || changes_root(claimed.changes.iter()) != commit.header.root {
            return fail(format!("{} stored a commit that nobody signed", self.devices[r].name));
        }
        let commit = Rc::new(commit);
        self.checked.insert(hash, commit.clone());
        Ok(commit)
    }

    /// What is in the store of `r` was signed by members and is what its name says. Returns the commits.
    fn verify_store(&mut self, r: usize) -> Result<Vec<Rc<Commit>>, Violation> {
        let commits = self.commits(r)?;
        let history = self.history(&commits);
        if let Some(broken) = history.broken_rule() {
            return fail(format!("{} took a commit that breaks a rule: {broken}", self.devices[r].name));
        }
        let void = history.void_commits() as u64;
        self.same_members(r, &history)?;
        self.counts.many("check: void commits kept without effect", void);
        self.counts.add("check: stores verified");
        let disk = self.devices[r].disk.clone();
        for hash in disk.block_names() {
            let bytes = disk.written(&hash).unwrap_or_default();
            if BlockKind::of(&hash, &bytes).is_none() {
                return fail(format!("{} stored a wrong block: {}", self.devices[r].name, hash.short()));
            }
        }
        Ok(commits)
    }

    /// The model's view of commits.
    pub(crate) fn history<'a>(&self, commits: &'a [Rc<Commit>]) -> History<'a> {
        let commits = commits.iter().map(|c| &**c);
        match self.rights {
            true => {
                let void = self.void.iter().map(|commit| commit_hash(&commit.header)).collect();
                History::unjudged(commits, &self.devices[0].user_keys(), &void)
            }
            false => History::new(commits, &self.devices[0].user_keys()),
        }
    }

    /// Nobody belongs to the volume for `r` but whom its commits let in, and no epoch or invitation is there that nobody
    /// may make.
    fn same_members(&self, r: usize, history: &History<'_>) -> Result<(), Violation> {
        let (volume, name) = (self.volume(r)?, &self.devices[r].name);
        let devices = |m: &volume::Member| m.devices.iter().copied().collect::<BTreeSet<_>>();
        let listed: BTreeMap<_, _> = volume.members().iter().map(|m| (m.user, (m.role, devices(m)))).collect();
        let expected = history.members();
        if listed != expected {
            return fail(format!("{name} lists other members than its commits let in: {listed:?}, {expected:?}"));
        }
        if let Some(odd) = volume.open_invitations().iter().find(|i| history.invited(i.ticket) != Some(i.role)) {
            return fail(format!("{name} lists an invitation that nobody made, or that was used: {odd:?}"));
        }
        let discovery = volume.discovery_key();
        if self.discovery.is_some() && self.sound(r, "the epoch", discovery).ok() != self.discovery {
            return fail(format!("{name} has an epoch that nobody may make"));
        }
        if let Some(why) = history.disagrees(&volume) {
            return fail(format!("{name}: {why}"));
        }
        Ok(())
    }

    /// The tokens in all contents of a node, if all are kept inline.
    pub(crate) fn tokens_of(&self, history: &History<'_>, of: NodeId) -> Option<BTreeSet<Token>> {
        let mut found = BTreeSet::new();
        for change in history.changes() {
            if !matches!(change.head.kind, ChangeKind::Content { node, .. } if node == of) {
                continue;
            }
            let body: ContentBody = history.body_if_opens(&change, of)?;
            let ContentData::Inline(bytes) = &body.content.data else { return None };
            found.extend(tokens(bytes).unwrap_or_default());
        }
        Some(found)
    }

    /// What `r` shows is what its commits must give.
    fn verify(&mut self, r: usize, sources: &[usize]) -> Result<(), Violation> {
        let commits = self.verify_store(r)?;
        let shown = dump(&self.volume(r)?);
        let shown = self.sound(r, "listing", shown)?;
        let expected = self.reference(&commits, sources);
        self.counts.add("check: trees held against the model");
        if shown != expected {
            return fail(format!("{} and the model differ:{}", self.devices[r].name, differences(&shown, &expected)));
        }
        Ok(())
    }

    /// The tree that these commits must give, with the contents that any of `sources` has.
    fn reference(&self, commits: &[Rc<Commit>], sources: &[usize]) -> Vec<String> {
        let history = self.history(commits);
        let devices = self.devices.iter().map(|d| (d.user_id(), d.name.clone()));
        let users: BTreeMap<UserId, String> =
            devices.chain(self.joiners.iter().map(|j| (j.user_id(), j.name.clone()))).collect();
        let members = history.members().into_iter().flat_map(|(user, (_, devices))| {
            let name = users.get(&user).cloned().unwrap_or_default();
            devices.into_iter().map(move |device| (device, name.clone()))
        });
        let names: BTreeMap<DeviceId, String> = members.collect();
        let entropy = Arc::new(SeededEntropy::new(0));
        let blocks: Vec<Blocks> =
            sources.iter().map(|r| Blocks::new(self.devices[*r].disk.clone(), entropy.clone())).collect();
        let contents = |body: &ContentBody, key: &SymmetricKey| {
            if let ContentData::Inline(bytes) = &body.content.data {
                return text(bytes);
            }
            let mut ring = KeyRing::new(key);
            body.keys.iter().for_each(|key| ring.add(key));
            for blocks in &blocks {
                let mut bytes = Vec::new();
                match blocks.read(&body.content, &ring, 0, LONGEST, &mut bytes) {
                    Ok(()) => return text(&bytes),
                    Err(Error::Absent(_)) => {}
                    Err(other) => return other.to_string(),
                }
            }
            ABSENT.to_owned()
        };
        Reference::new(&history, &names, &contents).tree()
    }

    /// The replica `r`, alone, against the model.
    pub(crate) fn verify_alone(&mut self, r: usize) -> Result<(), Violation> {
        self.devices[r].note_unpublished();
        let device = &self.devices[r];
        // Who writes a file is shown their own branch of it, which no commit tells of.
        if device.disk.is_troubled() || !device.opens.is_empty() || !device.blurred.is_empty() {
            return Ok(());
        }
        let committed = self.volume(r)?.commit_now();
        self.sound(r, "committing", committed)?;
        if self.rights {
            return self.verify_anew(r);
        }
        self.verify(r, &[r])
    }

    /// The tokens that a user of `volume` can find.
    pub(crate) fn visible(volume: &Volume) -> Result<BTreeSet<Token>, Error> {
        let mut found = BTreeSet::new();
        for entry in entries(volume)?.into_iter().filter(|e| e.kind == NodeKind::File) {
            match read(volume, entry.ino) {
                Ok(bytes) => found.extend(tokens(&bytes).unwrap_or_default()),
                Err(Error::Absent(_) | Error::Denied | Error::Damaged(_)) => {}
                Err(other) => return Err(other),
            }
        }
        Ok(found)
    }

    /// The tokens in versions that are the newest, that no honest device can read, and that could be read with the blocks
    /// of the disks that an older copy replaced. They were sent as commits before their blocks were, and hide what was
    /// before them: nobody is shown an older version, so nobody has these.
    fn replaced_tokens(&mut self, first: usize, honest: &[usize]) -> Result<BTreeSet<Token>, Violation> {
        let commits = self.commits(first)?;
        let history = self.history(&commits);
        let mut left = BTreeMap::new();
        honest.iter().for_each(|r| left.extend(self.devices[*r].disk.blocks()));
        let mut before = self.replaced.clone();
        before.extend(left.clone());
        let entropy = Arc::new(SeededEntropy::new(0));
        let [left, before] = [left, before].map(|all| Blocks::new(Arc::new(Disk::of_blocks(all)), entropy.clone()));
        let mut found = BTreeSet::new();
        for change in history.changes().filter(|c| history.is_live(c)) {
            let ChangeKind::Content { node, .. } = change.head.kind else { continue };
            let body: ContentBody = history.body(&change, node);
            if matches!(body.content.data, ContentData::Inline(_)) {
                continue;
            }
            let mut ring = KeyRing::new(history.node_key(node));
            body.keys.iter().for_each(|key| ring.add(key));
            let mut bytes = Vec::new();
            let absent = left.read(&body.content, &ring, 0, LONGEST, &mut bytes).is_err();
            bytes.clear();
            if absent && before.read(&body.content, &ring, 0, LONGEST, &mut bytes).is_ok() {
                found.extend(tokens(&bytes).map_err(Violation)?);
            }
        }
        Ok(found)
    }

    /// Which versions a user of `volume` sees.
    pub(crate) fn prints(volume: &Volume) -> BTreeSet<Print> {
        let files = entries(volume).unwrap_or_default().into_iter().filter(|e| e.kind == NodeKind::File);
        files.filter_map(|file| read(volume, file.ino).ok()).map(|bytes| print(&bytes)).collect()
    }

    /// All who went back to an older copy of the disk know that they have met the others since.
    pub(crate) fn all_are_met(&self, honest: &[usize]) -> Result<(), Violation> {
        for &r in honest {
            let unmet = self.volume(r)?.restored().map(|(_, unmet)| unmet).unwrap_or_default();
            if let Some(other) = honest.iter().find(|other| unmet.contains(&self.devices[**other].id())) {
                let (name, other) = (&self.devices[r].name, &self.devices[*other].name);
                return fail(format!("{name} doesn't know that it met {other}"));
            }
        }
        Ok(())
    }

    /// Once `r` knows that it has met all others since it went back to an older copy of the disk, it shows nothing older than
    /// before.
    fn nothing_older_than_before_copies(&mut self, r: usize) -> Result<(), Violation> {
        for before in self.before_copies.iter().filter(|before| before.of == r) {
            let device = &self.devices[r];
            let volume = self.volume(r)?;
            let honest = (0..self.devices.len()).filter(|other| !self.is_mallory(*other));
            let honest: BTreeSet<DeviceId> = honest.map(|other| self.devices[other].id()).collect();
            if volume.restored().is_none_or(|(_, unmet)| unmet.iter().any(|id| honest.contains(id))) {
                continue;
            }
            let written = |ino| device.files.contains_key(ino) || device.blurred.contains(ino);
            for (ino, old) in before.shown.iter().filter(|(ino, _)| !written(*ino)) {
                let Ok(bytes) = read(&volume, *ino) else { continue };
                if before.ancestry.is_ancestor(print(&bytes), *old) {
                    return fail(format!("{}: inode {} went back with an older copy of the disk", device.name, ino.0));
                }
            }
            self.counts.many("check: files looked at after an older copy", before.shown.len() as u64);
        }
        Ok(())
    }

    /// No number of a log stands for different changes of an honest device that never wrote to an older copy unnoticed. What
    /// was pending in one that was noticed stands under the number that it got: the changes themselves, or the first of them.
    pub(crate) fn numbers_used_once(&mut self, first: usize, honest: &[usize]) -> Result<(), Violation> {
        let who = honest.iter().filter(|r| !self.unnoticed.contains(*r));
        let who: BTreeMap<DeviceId, String> =
            who.map(|r| (self.devices[*r].id(), self.devices[*r].name.clone())).collect();
        let mut used: BTreeMap<_, Rc<Commit>> = BTreeMap::new();
        for commit in self.commits(first)? {
            let header = &commit.header;
            let Some(name) = who.get(&header.device) else { continue };
            let Some(other) = used.insert((header.device, header.log, header.seq), commit.clone()) else { continue };
            let (one, two) = (&commit.raw.changes, &other.raw.changes);
            let common = one.len().min(two.len());
            if one[..common] != two[..common] {
                return fail(format!("{name} used number {} of its log {} twice", header.seq, header.log));
            }
            self.counts.add("check: a number that an older copy used again for what was pending in it");
        }
        Ok(())
    }

    /// All have met: they know the same, show the same, it is right, and nothing that was promised is gone.
    pub(crate) fn verify_all(&mut self, honest: &[usize]) -> Result<(), Violation> {
        let Some(&first) = honest.first() else { return Ok(()) };
        let known = Self::commit_names(&self.devices[first].disk);
        let shown = dump(&self.volume(first)?);
        let shown = self.sound(first, "listing", shown)?;
        for &r in honest {
            let name = self.devices[r].name.clone();
            let other = Self::commit_names(&self.devices[r].disk);
            if other != known {
                let missing = known.symmetric_difference(&other).count();
                return fail(format!("{name} and {} differ in {missing} commits", self.devices[first].name));
            }
            let tree = dump(&self.volume(r)?);
            let tree = self.sound(r, "listing", tree)?;
            if tree != shown {
                // Says who of the two is wrong, if it is only one.
                self.verify(first, honest)?;
                self.verify(r, honest)?;
                return fail(format!("{} and {name} differ:{}", self.devices[first].name, differences(&shown, &tree)));
            }
            self.look(r)?;
        }
        self.all_are_met(honest)?;
        self.numbers_used_once(first, honest)?;
        for &r in honest {
            if r == first {
                self.verify(r, honest)?;
            } else {
                self.verify_store(r)?;
            }
        }
        let visible = Self::visible(&self.volume(first)?);
        let mut found = self.sound(first, "listing", visible)?;
        if !self.replaced.is_empty() {
            found.extend(self.replaced_tokens(first, honest)?);
        }
        let lost = self.ledger.lost(&found);
        if !lost.is_empty() {
            return fail(format!("promised and gone: {lost:?}; left:\n  {}", shown.join("\n  ")));
        }
        Ok(())
    }
}
