//! Building a store anew from a damaged one: what people did is all in the commits, and everything else follows from
//! them.
//!
//! Owns: reading what can be read of a damaged store and of the archive, each commit from whichever copy is whole, and
//! replaying it into an empty one. Does not own: which
//! directory is which (the program's matter), or fetching what is lost here (replication does, once it is mounted).
//!
//! Invariants: the old store is only read. No commit gets into the new one unchecked. The device goes on under a new
//! log: whatever was lost of its old one may be known to others, and a number must never be used twice.

mod unfinished;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use crypto::{DeviceId, Entropy, Label, SymmetricKey, VolumeId};

use crate::{
    Parts, Volume,
    apply::Received,
    archive::{self, Archive, Place},
    commit::{ChangeKind, ClaimedCommit, Commit, SealedKey, commit_hash},
    core::{BRANCH_PREFIX, CommitRow, Core, arrival_key, start_new_log, stored_commit},
    error::{Error, Result},
    history::{Moments, SET_BACK},
    letters,
    member::JoinGrant,
    record,
    sealed_store::SealedStore,
    settings,
    store::{Batch, Space, Store, prefix_end},
    time::Timestamp,
    version::{Branch, BranchNo, Dot},
};

/// Rows read at once.
const PAGE: usize = 256;
/// So many numbers of a log are tried behind a record that can't be read, before its rest is given up.
const GAP: u64 = 10_000;
/// So many further logs are tried then.
const BRANCHES: u32 = 64;
/// Commits that wait for one that is lost, in [`Space::Meta`].
pub(crate) const WAITING: &[u8] = b"waiting/";

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Salvaged {
    /// Commits that are in the new store.
    pub commits: u64,
    /// Commits whose records were damaged: they come from other devices, if any has them.
    pub damaged: u64,
    /// Commits that are whole but wait for a damaged one.
    pub waiting: u64,
}

/// What can be read of what a volume was kept in.
#[derive(Clone, Default)]
pub struct Remains {
    /// The damaged store; nothing, when it doesn't even open.
    pub store: Option<Arc<dyn Store>>,
    /// The archive of commits.
    pub archive: Option<Arc<Archive>>,
}

/// Where a commit may be read.
enum Source {
    Store(Dot),
    Archive(Place),
}

/// What [`Remains`] hold, opened.
struct Old {
    store: Option<SealedStore>,
    archive: Option<Arc<Archive>>,
    /// Logs by the numbers that the store gave to their branches.
    logs: HashMap<BranchNo, (DeviceId, u64)>,
    /// When the clock was set back, by arrival.
    set_back: Vec<(u64, Timestamp)>,
}

impl Old {
    fn claimed(&self, source: &Source) -> Result<ClaimedCommit> {
        let lost = || Error::damaged("a commit");
        match source {
            Source::Store(dot) => stored_commit(self.store.as_ref().ok_or_else(lost)?, *dot)?.ok_or_else(lost),
            Source::Archive(place) => self.archive.as_ref().ok_or_else(lost)?.load(place),
        }
    }

    /// Since when a commit showed, as the store has it.
    fn shown(&self, dot: Dot) -> Option<Timestamp> {
        let row = self.store.as_ref()?.get(Space::Commits, &dot.key()).ok()??;
        let row = record::read::<CommitRow>(&row).ok().filter(|row| row.shown != Timestamp::default())?;
        let after = self.set_back.iter().find(|(from, _)| *from > row.arrival);
        Some(after.map_or(row.shown, |(_, to)| row.shown.min(*to)))
    }

    /// A commit, checked as one that just came.
    fn commit(&self, source: &Source) -> Result<Commit> {
        self.claimed(source)?.check().map_err(|e| Error::damaged(e.to_string()))
    }

    /// All there may be, in the order in which it came here: of two copies that of the store first.
    fn sources(&self) -> Vec<Source> {
        let mut sources = Vec::new();
        let run = self.store.as_ref().and_then(|store| archive::run_of(store).ok().flatten());
        for (arrival, dot) in self.store.as_ref().map(readable).unwrap_or_default() {
            sources.push(((0, arrival, 0), Source::Store(dot)));
        }
        for place in self.archive.as_ref().map(|archive| archive.whole()).unwrap_or_default() {
            let other = u64::from(place.run()) + 1;
            let rank = if run == Some(place.run()) { 0 } else { other };
            sources.push(((rank, place.arrival, 1), Source::Archive(place)));
        }
        sources.sort_by_key(|(order, _)| *order);
        sources.into_iter().map(|(_, source)| source).collect()
    }

    /// Notes the logs of branches whose rows can be read.
    fn read_branches(&mut self) {
        let Some(store) = &self.store else { return };
        let rows = store.raw().scan(Space::Meta, BRANCH_PREFIX, &prefix_end(BRANCH_PREFIX), usize::MAX);
        for (key, sealed) in rows.unwrap_or_default() {
            let plain = store.open(Space::Meta, &key, &sealed).ok();
            let branch = plain.and_then(|plain| rmp_serde::from_slice::<Branch>(&plain).ok());
            let number = key.get(BRANCH_PREFIX.len()..).and_then(|bytes| bytes.try_into().ok());
            if let Some((branch, number)) = branch.zip(number) {
                self.logs.insert(BranchNo(u32::from_be_bytes(number)), (branch.device, branch.log));
            }
        }
    }
}

/// Fills the empty store of `parts` with what can be read of `old`; `grant` holds keys of the volume remembered
/// elsewhere.
///
/// # Errors
/// The new store can't be written.
pub fn salvage(
    old: Remains,
    parts: Parts,
    id: VolumeId,
    grant: Option<&JoinGrant>,
    progress: &mut dyn FnMut(u64),
) -> Result<Salvaged> {
    let sealed = SealedStore::new(parts.store.clone(), &parts.secret, parts.entropy.clone());
    start_new_log(&sealed, &*parts.entropy)?;
    archive::start_run(&sealed, &*parts.entropy)?;
    let (secret, entropy) = (parts.secret.clone(), parts.entropy.clone());
    let mut core = Core::load(parts, id)?;
    let store = old.store.map(|store| SealedStore::new(store, &secret, entropy));
    let row = store.as_ref().and_then(|store| store.get(Space::Meta, SET_BACK).ok().flatten());
    let set_back = row.and_then(|row| record::read(&row).ok()).unwrap_or_default();
    let mut old = Old { store, archive: old.archive, logs: HashMap::new(), set_back };
    old.read_branches();
    let sources = old.sources();
    let mut keys = grant.map(|g| g.keys.clone()).unwrap_or_default();
    for source in &sources {
        if let Ok(commit) = old.commit(source) {
            core.take_secrets_of(&commit.heads);
            let new = keys_for(&core, &commit).into_iter().filter(|key| !keys.contains(key)).collect::<Vec<_>>();
            keys.extend(new);
        }
    }
    core.settle(Batch::new())?;
    // Before anything that is sealed under them: what doesn't open when it is applied stays closed.
    for key in &keys {
        match core.accept_keys(std::slice::from_ref(key)) {
            // Whoever may make an epoch can seal nonsense to this user: that must not stand against all the rest.
            Err(Error::Refused(why)) => log::warn!("a key in the commits is left out: {why}"),
            done => done?,
        }
    }
    let mut replay = Replay { core: &mut core, salvaged: Salvaged::default(), unread: Vec::new(), progress };
    let mut late = Vec::new();
    for source in sources {
        if replay.take(&mut old, &source)? {
            late.push(source);
        }
    }
    // A copy of what they wait for may have stood behind them.
    loop {
        let before = late.len();
        let mut still = Vec::new();
        for source in late {
            if replay.take(&mut old, &source)? {
                still.push(source);
            }
        }
        late = still;
        if late.is_empty() || late.len() == before {
            break;
        }
    }
    let Replay { mut salvaged, unread, .. } = replay;
    let mut waiting = HashSet::new();
    for source in &late {
        let Ok(commit) = old.commit(source) else { continue };
        if waiting.insert(commit.hash) {
            keep_waiting(&core, salvaged.waiting, &commit)?;
            salvaged.waiting += 1;
        }
    }
    salvaged.damaged += unread.iter().filter(|dot| !is_here(&core, &old, **dot)).count() as u64;
    core.showed = None;
    take_over_moments(&mut core, &old)?;
    unfinished::salvage(&mut core, &old, &mut salvaged)?;
    if let Some(store) = &old.store {
        settings::copy_own(store, &core.store)?;
        letters::copy(store, &core.store)?;
    }
    core.store.sync()?;
    Ok(salvaged)
}

/// Commits being taken into the new store.
struct Replay<'a> {
    core: &'a mut Core,
    salvaged: Salvaged,
    /// Those that the old store had, and whose records there can't be read.
    unread: Vec<Dot>,
    progress: &'a mut dyn FnMut(u64),
}

impl Replay<'_> {
    /// Takes in a commit; tells whether it waits for another one.
    fn take(&mut self, old: &mut Old, source: &Source) -> Result<bool> {
        let claimed = old.claimed(source);
        if let Ok(claimed) = &claimed
            && self.core.dot_of(&commit_hash(&claimed.header))?.is_some()
        {
            return Ok(false);
        }
        let Ok(mut commit) = claimed.and_then(|c| c.check().map_err(|e| Error::damaged(e.to_string()))) else {
            match source {
                Source::Store(dot) => self.unread.push(*dot),
                Source::Archive(_) => log::warn!("a record of the archive of commits is damaged"),
            }
            return Ok(false);
        };
        self.core.showed = Some(commit.header.time);
        if let Source::Store(dot) = source {
            old.logs.insert(dot.branch, (commit.header.device, commit.header.log));
            self.core.showed = old.shown(*dot).or(self.core.showed);
        }
        match self.core.receive(&mut commit) {
            Ok(Received::Applied | Received::Known) => self.salvaged.commits += 1,
            Ok(Received::Missing(_)) => return Ok(true),
            Err(Error::Refused(rule)) => {
                log::error!("a commit of device {} is left out: {rule}", commit.header.device.short());
                self.salvaged.damaged += 1;
            }
            Err(e) => return Err(e),
        }
        (self.progress)(self.salvaged.commits);
        Ok(false)
    }
}

/// The commit that the old store called `old_dot`, as the new one calls it.
fn new_dot(core: &Core, old: &Old, old_dot: Dot) -> Option<Dot> {
    let stored = old.store.as_ref().and_then(|store| stored_commit(store, old_dot).ok().flatten());
    if let Some(commit) = stored
        && let Ok(Some(dot)) = core.dot_of(&commit_hash(&commit.header))
    {
        return Some(dot);
    }
    let (device, log) = old.logs.get(&old_dot.branch)?;
    let branches = core.branches_of(device, *log).iter();
    let mut dots = branches.map(|branch| Dot { branch: *branch, seq: old_dot.seq });
    dots.find(|dot| matches!(core.commit_row(*dot), Ok(Some(_))))
}

/// What was thinned out stays so: its contents are gone.
fn take_over_moments(core: &mut Core, old: &Old) -> Result<()> {
    let Some(store) = &old.store else { return Ok(()) };
    let row = store.get(Space::Meta, Moments::KEY).ok().flatten();
    let Some(was) = row.and_then(|row| record::read::<Moments>(&row).ok()) else { return Ok(()) };
    let new = |arrival: u64| -> Option<u64> {
        let dot = Dot::from_key(&store.raw().get(Space::Index, &arrival_key(arrival)).ok()??)?;
        Some(core.commit_row(new_dot(core, old, dot)?).ok()??.arrival)
    };
    // The first one from there on that is here.
    let bound = |arrival: u64| match arrival {
        0 => 0,
        _ => {
            let after = (arrival..arrival.saturating_add(GAP)).find_map(new);
            after.or_else(|| (arrival.saturating_sub(GAP)..arrival).rev().find_map(new)).unwrap_or(0)
        }
    };
    let thinned_to = bound(was.thinned_to);
    let mut kept: Vec<u64> = was.kept.iter().copied().filter_map(new).filter(|kept| *kept < thinned_to).collect();
    kept.sort_unstable();
    core.set_moments(Moments { from: bound(was.from), thinned_to, kept })
}

fn is_here(core: &Core, old: &Old, dot: Dot) -> bool {
    new_dot(core, old, dot).is_some()
}

/// The epoch keys in a commit that are sealed to this device or its user.
fn keys_for(core: &Core, commit: &Commit) -> Vec<SealedKey> {
    let of_change = commit.heads.iter().flat_map(|head| match &head.kind {
        ChangeKind::Epoch { sealed, .. }
        | ChangeKind::Grant { sealed, .. }
        | ChangeKind::Keys { sealed }
        | ChangeKind::Watch { sealed } => sealed.clone(),
        _ => Vec::new(),
    });
    of_change.filter(|key| core.is_for_me(key)).collect()
}

fn keep_waiting(core: &Core, number: u64, commit: &Commit) -> Result<()> {
    let mut batch = Batch::new();
    let key = [WAITING, &number.to_be_bytes()[..]].concat();
    core.store.put(&mut batch, Space::Meta, key, &crate::commit::encode(&commit.raw));
    core.store.apply(batch)
}

/// The commits whose records can be read, in the order in which they came here.
fn readable(old: &SealedStore) -> Vec<(u64, Dot)> {
    let mut found: Vec<(u64, Dot)> = Vec::new();
    let mut from = Vec::new();
    let mut limit = PAGE;
    loop {
        let next = match old.raw().scan(Space::Commits, &from, &[], limit) {
            Ok(rows) => match rows.last() {
                Some((last, _)) => {
                    // The order of those that don't open doesn't matter.
                    let dots =
                        rows.iter().filter_map(|(key, row)| Some((arrival_of(old, key, row), Dot::from_key(key)?)));
                    found.extend(dots);
                    limit = PAGE;
                    Some([last.as_slice(), &[0]].concat())
                }
                None => None,
            },
            Err(_) if limit > 1 => {
                limit = 1;
                continue;
            }
            Err(_) => {
                let at = found.last().map_or(Dot { branch: BranchNo(0), seq: 0 }, |(_, dot)| *dot);
                beyond(old, at).map(|dot| dot.key().to_vec())
            }
        };
        let Some(next) = next else { break };
        from = next;
    }
    found.sort_unstable();
    found
}

fn arrival_of(old: &SealedStore, key: &[u8], sealed: &[u8]) -> u64 {
    let row =
        old.open(Space::Commits, key, sealed).ok().and_then(|plain| rmp_serde::from_slice::<CommitRow>(&plain).ok());
    row.map_or(0, |row| row.arrival)
}

/// The next commit behind `at` whose record can be read.
fn beyond(old: &SealedStore, at: Dot) -> Option<Dot> {
    let there = |dot: &Dot| matches!(old.raw().get(Space::Commits, &dot.key()), Ok(Some(_)));
    let of_log = (at.seq + 1..at.seq + GAP).map(|seq| Dot { branch: at.branch, seq });
    let of_others = (at.branch.0 + 1..at.branch.0 + BRANCHES)
        .flat_map(|branch| (1..BRANCHES as u64).map(move |seq| Dot { branch: BranchNo(branch), seq }));
    of_log.chain(of_others).find(there)
}

impl Volume {
    /// The keys of the volume's epochs (a keeper's discovery keys), sealed to this device's own user: what to remember outside the store, so
    /// that other devices can be found and read again when the store is lost.
    ///
    /// # Errors
    /// The user's key can't seal.
    pub fn own_grant(&self) -> Result<JoinGrant> {
        let core = self.inner.core.lock();
        let user = core.user.public();
        let mut keys = Vec::new();
        for epoch in &core.members.epochs {
            let Some(key) = &epoch.key else { continue };
            let sealed = seal_epoch_key(&user.box_key, epoch.id, key.key(), &*core.entropy)?;
            keys.push(SealedKey { user: user.id(), generation: user.generation, epoch: epoch.id, sealed });
        }
        keys.extend(core.own_discovery());
        Ok(JoinGrant { volume: core.volume, keys })
    }

    /// Takes up the commits that waited when the store was salvaged.
    pub(crate) fn load_waiting(&self) -> Result<()> {
        let core = &mut *self.inner.core.lock();
        let mut waiting = self.inner.waiting.lock();
        for (key, bytes) in core.store.scan(Space::Meta, WAITING, &prefix_end(WAITING), usize::MAX)? {
            let claimed: Option<ClaimedCommit> = rmp_serde::from_slice(&bytes).ok();
            let Some(Ok(mut commit)) = claimed.map(ClaimedCommit::check) else { continue };
            if core.dot_of(&commit.hash)?.is_some() {
                let mut batch = Batch::new();
                batch.remove(Space::Meta, key);
                core.store.apply(batch)?;
                continue;
            }
            match core.receive(&mut commit) {
                Ok(Received::Missing(cause)) => {
                    waiting.keep(cause, commit, None);
                }
                Ok(Received::Applied | Received::Known) => {}
                Err(Error::Refused(rule)) => log::error!("a commit that waited is refused: {rule}"),
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

fn seal_epoch_key(
    to: &crypto::BoxPublic,
    epoch: crypto::EpochId,
    key: &SymmetricKey,
    entropy: &dyn Entropy,
) -> Result<Vec<u8>> {
    to.seal(Label::BoxEpochKey, epoch.as_bytes(), key.expose(), entropy).map_err(|e| Error::Refused(e.to_string()))
}
