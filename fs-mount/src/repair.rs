//! Verifying and repairing a volume that is not mounted.
//!
//! Invariant: the damaged store is kept, and the new one takes its place only when it is whole and on the disk. Between
//! the two renames that this takes, the new one lies in [`NEW`]: [`finish`] completes what a crash cut short.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use volume::{
    Store, Volume,
    disk_store::DiskStore,
    salvage::{Remains, Salvaged, salvage},
    verify::{Checked, DamageKind, VerifyReport},
};

use crate::{
    failure::{Because, Outcome},
    open_volume::{self, Stores, guarded},
    profile::{Profile, State},
    report::{Damage, Rebuilt, Scrubbed, Verified},
};

/// The store that is being built.
const NEW: &str = "store.new";
/// The marker that it is whole.
const WHOLE: &str = "whole";

/// Verifies the volume in `dir`, which no other process has open.
pub(crate) fn verify(
    dir: &Path,
    profile: &Profile,
    state: &State,
    repair: bool,
    progress: &mut dyn FnMut(&Scrubbed),
) -> Outcome<Verified> {
    let mut verified = match verify_as_it_is(dir, profile, repair, progress) {
        Ok(report) => Verified::of(&report),
        Err(why) if !repair => return Err(why),
        Err(why) => Verified::unopened(&why.to_string()),
    };
    if repair && verified.needs_rebuild {
        verified.rebuilt = Some(rebuild(dir, profile, state)?);
        // What is mended now; blocks that are missing still are.
        verified.damage.iter_mut().filter(|d| d.kind != "block").for_each(|d| d.repaired = true);
        verified.needs_rebuild = false;
    }
    Ok(verified)
}

fn verify_as_it_is(
    dir: &Path,
    profile: &Profile,
    repair: bool,
    progress: &mut dyn FnMut(&Scrubbed),
) -> Outcome<VerifyReport> {
    let Stores { parts, packs } = Stores::open(dir, profile)?;
    let id = profile.volume;
    guarded(&id, move || {
        let volume = Volume::load(parts, id).because(|| "opening the volume".to_owned())?;
        let report = volume.verify(repair, &mut |checked| progress(&Scrubbed::of(checked)));
        open_volume::close(&volume, &packs)?;
        report.because(|| "verifying".to_owned())
    })
}

/// Builds the store anew from what can be read of the damaged one, which is kept beside it.
fn rebuild(dir: &Path, profile: &Profile, state: &State) -> Outcome<Rebuilt> {
    let why = || "building the store anew".to_owned();
    let new = dir.join(NEW);
    remove(&new).because(why)?;
    let place = dir.join("store");
    if DiskStore::mend_journals(&place, &place.join("journals.damaged")).because(why)? {
        // It lacks records: writing to it could use a commit's number twice.
        log::warn!("the store's journal is damaged: what stood there is lost, unless the archive of commits has it");
    } else if let Err(e) = commit_pending(dir, profile) {
        log::warn!("the volume doesn't open, what was not in a commit yet is looked for in its store: {e}");
    }
    let old: Option<Arc<dyn Store>> =
        match guarded(&profile.volume, || open_volume::open_store(&place, &profile.volume)) {
            Ok(store) => Some(Arc::new(store)),
            Err(e) => {
                log::error!("nothing of the store can be read, everything comes from the archive of commits: {e}");
                None
            }
        };
    let Salvaged { commits, damaged, waiting } = {
        let Stores { mut parts, packs } = Stores::open_at(&new, dir, profile)?;
        let remains = Remains { store: old, archive: parts.archive.take() };
        let salvaged = salvage(remains, parts, profile.volume, state.grant.as_ref(), &mut |_| ()).because(why)?;
        packs.close().because(why)?;
        salvaged
    };
    fs::write(new.join(WHOLE), b"").and_then(|()| sync_dir(&new)).because(why)?;
    let kept = set_aside(dir).because(why)?;
    finish(dir)?;
    Ok(Rebuilt { commits, damaged, waiting, kept: kept.display().to_string() })
}

/// Puts what was written but not committed yet into commits, if the volume opens.
fn commit_pending(dir: &Path, profile: &Profile) -> Outcome<()> {
    let Stores { parts, packs } = Stores::open(dir, profile)?;
    let id = profile.volume;
    guarded(&id, move || {
        let volume = Volume::load(parts, id).because(|| "opening the volume".to_owned())?;
        open_volume::close(&volume, &packs)
    })
}

/// Moves the damaged store out of the way.
fn set_aside(dir: &Path) -> io::Result<PathBuf> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    // More than one may be built in a second.
    let mut names = (now..).map(|number| dir.join(format!("store.damaged-{number}")));
    let kept = names.find(|name| !name.exists()).expect("there is no end of names");
    fs::rename(dir.join("store"), &kept)?;
    sync_dir(dir)?;
    Ok(kept)
}

/// Puts a store that was built anew in place, if that was cut short; to be called before the store is opened.
pub(crate) fn finish(dir: &Path) -> Outcome<()> {
    let (new, place) = (dir.join(NEW), dir.join("store"));
    if place.exists() || !new.join(WHOLE).exists() {
        return Ok(());
    }
    fs::remove_file(new.join(WHOLE))
        .and_then(|()| fs::rename(&new, &place))
        .and_then(|()| sync_dir(dir))
        .because(|| "putting the new store in place".to_owned())
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    fs::File::open(dir)?.sync_all()
}

fn remove(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

impl Scrubbed {
    pub(crate) fn of(checked: &Checked) -> Self {
        let Checked { records, commits, contents, blocks, bytes } = *checked;
        Self { records, commits, contents, blocks, bytes }
    }
}

impl Verified {
    /// A report as it is told.
    pub(crate) fn of(report: &VerifyReport) -> Self {
        let damage = report.damage.iter().map(|d| Damage {
            kind: match d.kind {
                DamageKind::Block => "block",
                DamageKind::Sealing => "sealing",
                DamageKind::Record => "record",
                DamageKind::Commit => "commit",
                DamageKind::Archive => "archive",
            }
            .to_owned(),
            path: d.path.as_ref().map(|path| String::from_utf8_lossy(path).into_owned()),
            what: d.what.clone(),
            block: d.block.map(|hash| hash.to_string()),
            repaired: d.repaired,
        });
        Self {
            checked: Scrubbed::of(&report.checked),
            damage: damage.collect(),
            damages: report.damages,
            recovered: report.recovered,
            needs_rebuild: report.needs_salvage(),
            ..Self::default()
        }
    }

    /// The volume doesn't even open.
    fn unopened(why: &str) -> Self {
        let damage =
            Damage { kind: "record".to_owned(), path: None, what: why.to_owned(), block: None, repaired: false };
        Self { damages: 1, damage: vec![damage], needs_rebuild: true, ..Self::default() }
    }
}
