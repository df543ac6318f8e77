//! Building a store anew from a damaged one: what people did is all in the commits, and everything else follows from
//! them.
//!
//! Owns: reading what can be read of a damaged store, and replaying it into an empty one. Does not own: which
//! directory is which (the program's matter), or fetching what is lost here (replication does, once it is mounted).
//!
//! Invariants: the old store is only read. No commit gets into the new one unchecked. The device goes on under a new
//! log: whatever was lost of its old one may be known to others, and a number must never be used twice.

use std::sync::Arc;

use crypto::{Entropy, Label, SymmetricKey, UserId, VolumeId};

use crate::{
    Parts, Volume,
    apply::Received,
    commit::{ChangeKind, ClaimedCommit, Commit, MAX_CHANGES, RawChange, SealedKey},
    core::{CommitRow, Core, start_new_log},
    error::{Error, Result},
    member::JoinGrant,
    sealed_store::SealedStore,
    store::{Batch, Space, Store, prefix_end},
    version::{BranchNo, Dot},
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

/// Fills the empty store of `parts` with what can be read of `old` (nothing, when that doesn't even open); `grant` holds
/// keys of the volume remembered elsewhere.
///
/// # Errors
/// The new store can't be written.
pub fn salvage(
    old: Option<Arc<dyn Store>>,
    parts: Parts,
    id: VolumeId,
    grant: Option<&JoinGrant>,
    progress: &mut dyn FnMut(u64),
) -> Result<Salvaged> {
    let sealed = SealedStore::new(parts.store.clone(), &parts.secret, parts.entropy.clone());
    start_new_log(&sealed, &*parts.entropy)?;
    let (secret, entropy) = (parts.secret.clone(), parts.entropy.clone());
    let mut core = Core::load(parts, id)?;
    let mut salvaged = Salvaged::default();
    let old = old.map(|store| SealedStore::new(store, &secret, entropy));
    let dots = old.as_ref().map(readable).unwrap_or_default();
    let mut keys = grant.map(|g| g.keys.clone()).unwrap_or_default();
    if let Some(old) = &old {
        let me = core.user.id();
        for &(_, dot) in &dots {
            if let Ok(commit) = stored(old, dot) {
                keys.extend(keys_for(&me, &commit));
            }
        }
    }
    // Before anything that is sealed under them: what doesn't open when it is applied stays closed.
    for key in &keys {
        match core.accept_keys(std::slice::from_ref(key)) {
            // Whoever may make an epoch can seal nonsense to this user: that must not stand against all the rest.
            Err(Error::Refused(why)) => log::warn!("a key in the commits is left out: {why}"),
            done => done?,
        }
    }
    for (_, dot) in dots {
        let Some(Ok(commit)) = old.as_ref().map(|old| stored(old, dot)) else {
            salvaged.damaged += 1;
            continue;
        };
        match core.receive(&commit) {
            Ok(Received::Applied | Received::Known) => salvaged.commits += 1,
            Ok(Received::Missing(_)) => {
                keep_waiting(&core, salvaged.waiting, &commit)?;
                salvaged.waiting += 1;
            }
            Err(Error::Refused(rule)) => {
                log::error!("a commit of device {} is left out: {rule}", commit.header.device.short());
                salvaged.damaged += 1;
            }
            Err(e) => return Err(e),
        }
        progress(salvaged.commits);
    }
    core.store.sync()?;
    Ok(salvaged)
}

/// The epoch keys in a commit that are sealed to this user.
fn keys_for(me: &UserId, commit: &Commit) -> Vec<SealedKey> {
    let of_change = commit.heads.iter().flat_map(|head| match &head.kind {
        ChangeKind::Epoch { sealed, .. } | ChangeKind::Grant { sealed, .. } => sealed.clone(),
        _ => Vec::new(),
    });
    of_change.filter(|key| key.user == *me).collect()
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

/// A commit as its records say, checked as one that just came.
fn stored(old: &SealedStore, dot: Dot) -> Result<Commit> {
    let damaged = |_| Error::damaged("a commit");
    let row = old.get(Space::Commits, &dot.key())?.ok_or_else(|| Error::damaged("a commit"))?;
    let row: CommitRow = rmp_serde::from_slice(&row).map_err(damaged)?;
    let key = dot.key();
    let rows = old.raw().scan(Space::Changes, &key, &prefix_end(&key), MAX_CHANGES + 1)?;
    let changes: Result<Vec<RawChange>> =
        rows.iter().map(|(_, bytes)| rmp_serde::from_slice(bytes).map_err(damaged)).collect();
    let claimed = ClaimedCommit { header: row.header, signature: row.signature, changes: changes? };
    claimed.check().map_err(|e| Error::damaged(e.to_string()))
}

impl Volume {
    /// The keys of the volume's epochs, sealed to this device's own user: what to remember outside the store, so
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
        Ok(JoinGrant { volume: core.volume, keys })
    }

    /// Takes up the commits that waited when the store was salvaged.
    pub(crate) fn load_waiting(&self) -> Result<()> {
        let core = &mut *self.inner.core.lock();
        let mut waiting = self.inner.waiting.lock();
        for (key, bytes) in core.store.scan(Space::Meta, WAITING, &prefix_end(WAITING), usize::MAX)? {
            let claimed: Option<ClaimedCommit> = rmp_serde::from_slice(&bytes).ok();
            let Some(Ok(commit)) = claimed.map(ClaimedCommit::check) else { continue };
            if core.dot_of(&commit.hash)?.is_some() {
                let mut batch = Batch::new();
                batch.remove(Space::Meta, key);
                core.store.apply(batch)?;
                continue;
            }
            match core.receive(&commit) {
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
