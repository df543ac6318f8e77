//! Opening a volume in this process: the daemon does, and commands do when no daemon runs.
//!
//! Invariant: whoever has a volume open holds its lock, until after the volume is closed.

use std::{
    cell::OnceCell,
    env, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use crypto::{Entropy, OsEntropy, Unlock, VolumeId};
use volume::{
    Parts, Volume,
    archive::Archive,
    audit::{Audit, Limits},
    content::{Packs, Recovery},
    disk_store::DiskStore,
    sealed_store::SealedStore,
};

use crate::{
    cli::Which,
    clock::SystemClock,
    control::{
        agreed,
        client::{self, News},
        conflicts, invitations, letters, log as control_log, members,
        protocol::{Reply, Request},
        request::AboutLetters,
    },
    daemon::audit,
    failure::{Because, Failure, Outcome, plain},
    home::{Home, VolumeDir},
    profile::{Profile, State},
    repair, report,
    select::{Chosen, choose},
    ticket,
    unlock::{Passphrase, existing_unlock},
    unlocks,
    volume_lock::VolumeLock,
};

/// How long a command waits for another one, or for a daemon that is starting or ending.
const PATIENCE: Duration = Duration::from_secs(10);
const STORE_PATIENCE: Duration = Duration::from_secs(2);
const RETRY: Duration = Duration::from_millis(50);

/// Bytes of its audit log that a keeper keeps of each volume: it sees no names.
const KEEPERS_LOG: u64 = 16 << 20;

/// What a volume is made of, and the part of it that wants to be closed in order.
pub(crate) struct Stores {
    pub(crate) parts: Parts,
    pub(crate) packs: Arc<Packs>,
}

/// A volume that this process has open.
pub(crate) struct OpenVolume {
    pub(crate) volume: Volume,
    pub(crate) packs: Arc<Packs>,
    pub(crate) profile: Profile,
    pub(crate) state: State,
    pub(crate) dir: VolumeDir,
    pub(crate) lock: VolumeLock,
}

impl OpenVolume {
    /// Opens the volume in `dir` with its opened profile.
    pub(crate) fn open(dir: VolumeDir, lock: VolumeLock, profile: Profile) -> Outcome<Self> {
        let Stores { parts, packs } = Stores::open(dir.path(), &profile)?;
        let id = profile.volume;
        let volume = guarded(&id, move || Volume::load(parts, id).because(|| "opening the volume".to_owned()))?;
        let limits =
            if volume.is_keeper() { Limits { total: KEEPERS_LOG, ..Limits::default() } } else { Limits::default() };
        let audit = Audit::open(&dir.path().join("audit"), &profile.secret, Arc::new(OsEntropy), limits);
        volume.set_audit(audit.because(|| "opening the audit log".to_owned())?);
        let state = State::load(&dir, &profile.secret);
        Ok(Self { volume, packs, profile, state, dir, lock })
    }

    /// Writes everything out and lets the volume go.
    pub(crate) fn close(self) -> Outcome<()> {
        close(&self.volume, &self.packs)
    }
}

/// Writes everything of a volume out, so that opening it again has nothing to mend.
pub(crate) fn close(volume: &Volume, packs: &Packs) -> Outcome<()> {
    let closed = volume.shutdown().and_then(|()| packs.close()).because(|| "closing the volume".to_owned());
    if let Some(audit) = volume.audit() {
        audit.close();
    }
    closed
}

impl Stores {
    /// Opens the stores below `path`, making them when they aren't there.
    pub(crate) fn open(path: &Path, profile: &Profile) -> Outcome<Self> {
        repair::finish(path)?;
        Self::open_at(&path.join("store"), path, profile)
    }

    /// Opens the volume in `dir` with this store.
    pub(crate) fn open_at(store: &Path, dir: &Path, profile: &Profile) -> Outcome<Self> {
        let entropy: Arc<dyn Entropy> = Arc::new(OsEntropy);
        let store = Arc::new(guarded(&profile.volume, || open_store(store, &profile.volume))?);
        let sealed = SealedStore::new(store.clone(), &profile.secret, entropy.clone());
        let archive = Archive::open(&dir.join("commits"), &profile.secret, entropy.clone());
        let archive = archive.because(|| "opening the archive of commits".to_owned())?;
        let packs = Packs::open(&dir.join("packs"), &sealed).because(|| "opening the packs".to_owned())?;
        let mended = packs.recovery();
        if mended != Recovery::default() {
            let Recovery { checked, indexed, cut } = mended;
            log::info!("after a crash: {checked} blocks checked, {indexed} of them found again, {cut} bytes cut off");
        }
        let packs = Arc::new(packs);
        let parts = Parts {
            store,
            blocks: packs.clone(),
            clock: Arc::new(SystemClock::new()),
            entropy,
            secret: profile.secret.clone(),
            device: profile.device_keys(),
            user: profile.user_keys(),
            archive: Some(Arc::new(archive)),
            directory: Some(dir.to_owned()),
        };
        Ok(Self { parts, packs })
    }
}

/// A process that ends lets its lock go a moment before its store.
pub(crate) fn open_store(path: &Path, id: &VolumeId) -> Outcome<DiskStore> {
    // The library below panics where the working directory is gone: it was removed, or lies on a mount that ended.
    if env::current_dir().is_err() {
        env::set_current_dir("/").because(|| "leaving a folder that is gone".to_owned())?;
    }
    let deadline = Instant::now() + STORE_PATIENCE;
    loop {
        match DiskStore::open(path) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline => thread::sleep(RETRY),
            Err(e) if is_damage(&e) => {
                return Err(damaged(id, &format!("opening its store: {}", plain(&e))));
            }
            opened => return opened.because(|| format!("opening the store of volume {}", id.short())),
        }
    }
}

/// Whether the store can't be opened because of what is in it.
fn is_damage(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, NotFound, Other, UnexpectedEof};
    matches!(error.kind(), InvalidData | NotFound | Other | UnexpectedEof)
}

/// Runs what reads the store for the first time. A store that the disk or another program damaged can make the
/// library below panic; that is told as what it is.
pub(crate) fn guarded<T>(id: &VolumeId, open: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    catch_unwind(AssertUnwindSafe(open)).unwrap_or_else(|_| Err(damaged(id, "its store is damaged")))
}

fn damaged(id: &VolumeId, what: &str) -> Failure {
    let short = id.short();
    Failure::new(format!("volume {short}: {what}: `p2pfs verify --repair --volume {short}` repairs what can be"))
}

/// The volume that a command is about: chosen once, and its passphrase read or typed once, however often the command asks.
pub(crate) struct Session {
    dir: VolumeDir,
    passphrase: OnceCell<Passphrase>,
}

impl Session {
    /// Chooses the volume that `which` means.
    pub(crate) fn begin(home: &Home, which: &Which) -> Outcome<Self> {
        let Chosen { dir, passphrase } = choose(home, which, false)?;
        dir.check_format()?;
        Ok(Self { dir, passphrase: passphrase.map(OnceCell::from).unwrap_or_default() })
    }

    pub(crate) fn dir(&self) -> &VolumeDir {
        &self.dir
    }

    /// What is in the key file, with the passphrase that the user types where it needs one and none came with the command.
    pub(crate) fn profile(&self) -> Outcome<Profile> {
        let unlock = existing_unlock(&self.dir, self.passphrase.get())?;
        let profile = Profile::load(&self.dir, &unlock)?;
        if let Unlock::Passphrase(passphrase) = unlock {
            // It is there already, or was typed now.
            let _ = self.passphrase.set(passphrase);
        }
        Ok(profile)
    }

    /// Gets the answer to `request` from the volume's daemon or, when none runs, by opening the volume here.
    pub(crate) fn ask(&self, request: &Request) -> Outcome<Reply> {
        self.ask_with_progress(request, &mut |_| ())
    }

    /// Gets it from the daemon only.
    pub(crate) fn ask_daemon(&self, request: &Request) -> Outcome<Reply> {
        client::ask(&self.dir, request)?.ok_or_else(|| not_mounted(&self.dir))
    }

    /// As [`Self::ask`], showing how far it is.
    pub(crate) fn ask_with_progress(&self, request: &Request, progress: &mut dyn FnMut(&News)) -> Outcome<Reply> {
        let dir = &self.dir;
        let deadline = Instant::now() + PATIENCE;
        let lock = loop {
            // One that is ending might be gone before it answers.
            if client::hello(dir)?.is_some_and(|hello| !hello.ending)
                && let Some(reply) = client::ask_with_progress(dir, request, &mut *progress)?
            {
                return Ok(reply);
            }
            match VolumeLock::try_acquire(dir.path())? {
                Ok(lock) => break lock,
                Err(holder) if Instant::now() > deadline => return Err(holder.busy(dir)),
                Err(_) => thread::sleep(RETRY),
            }
        };
        // Nobody is to type a passphrase for nothing.
        if needs_daemon(request) {
            return Err(not_mounted(dir));
        }
        let open = OpenVolume::open(dir.clone(), lock, self.profile()?)?;
        audit::watch(&open.volume);
        unlocks::record(&open.volume, open.dir.path());
        let reply = answer_here(&open, request, progress);
        let who = (rustix::process::getuid().as_raw(), std::process::id());
        control_log::record(&open.volume, control_log::deed(request), who, &reply);
        open.close()?;
        reply
    }
}

/// What a command asks once.
pub(crate) fn ask_or_open(home: &Home, which: &Which, request: &Request) -> Outcome<Reply> {
    Session::begin(home, which)?.ask(request)
}

/// The same, showing how far it is.
pub(crate) fn ask_or_open_with_progress(
    home: &Home,
    which: &Which,
    request: &Request,
    progress: &mut dyn FnMut(&News),
) -> Outcome<Reply> {
    Session::begin(home, which)?.ask_with_progress(request, progress)
}

/// What only a daemon can answer.
fn needs_daemon(request: &Request) -> bool {
    matches!(
        request,
        Request::Letters(AboutLetters::Await { .. })
            | Request::Hello
            | Request::Access(_)
            | Request::Wait { .. }
            | Request::Resolve { .. }
            | Request::Verify { .. }
            | Request::Reclaim
            | Request::AsOf { .. }
            | Request::Restore(_)
            | Request::Undo(_)
            | Request::Sends(_)
            | Request::History { .. }
            | Request::Base { .. }
            | Request::Page(_)
            | Request::Unmount
    )
}

fn answer_here(open: &OpenVolume, request: &Request, progress: &mut dyn FnMut(&News)) -> Outcome<Reply> {
    let volume = &open.volume;
    match request {
        Request::Status => Ok(Reply::Status(Box::new(report::status(volume, &open.profile)))),
        Request::Peers => Ok(Reply::Peers(report::offline_peers(volume))),
        Request::Users => Ok(Reply::Users(report::users(volume))),
        Request::Devices => Ok(Reply::Devices(report::devices(volume))),
        Request::Invite { role, seconds } => {
            let registries = open.state.registries(&open.profile);
            if registries.is_empty() {
                return Err(Failure::new(
                    "the volume has no registry and is not mounted, so no ticket would lead here: mount it first",
                ));
            }
            let invitation = ticket::Invitation { role: role.as_deref(), expires: Duration::from_secs(*seconds) };
            ticket::issue(volume, &open.profile, invitation, registries, Vec::new()).map(Reply::Ticket)
        }
        Request::Invitations => invitations::list(volume).map(Reply::Invitations),
        Request::Withdraw { id } => invitations::withdraw(volume, id).map(|()| Reply::Done),
        Request::ExportKey => {
            let (registries, peers) = (open.state.registries(&open.profile), open.state.peers.clone());
            let exported = invitations::export(volume, &registries, peers)?;
            Ok(Reply::ExportedKey(Box::new(exported)))
        }
        Request::Agreed(asked) => agreed::answer(volume, asked).map(Reply::Agreed),
        Request::Members(asked) => members::answer(volume, asked).map(Reply::Members),
        Request::Letters(AboutLetters::Await { .. }) => Err(not_mounted(&open.dir)),
        Request::Letters(asked) => letters::answer(volume, asked),
        Request::Log { from } => control_log::page(volume, *from).map(Reply::Log),
        Request::Alerts => Ok(Reply::Alerts(volume.alerts()?)),
        Request::Proofs => control_log::proofs(volume).map(Reply::Proofs),
        Request::Proof { number } => control_log::proof(volume, *number).map(Reply::Proof),
        Request::Acknowledge { number } => Ok(Reply::Acknowledged(volume.acknowledge_alerts(*number)?)),
        Request::VerifyLog => control_log::verify(volume).map(Reply::LogChecked),
        Request::Conflicts { within } => conflicts::list(volume, within).map(Reply::Conflicts),
        Request::Reseal => {
            let done = volume.begin_reseal().and_then(|()| {
                volume.reseal(&mut |so_far| {
                    progress(&News::Resealing(*so_far));
                    true
                })
            });
            done.map(Reply::Resealed).map_err(members::said)
        }
        Request::Hello
        | Request::Access(_)
        | Request::Wait { .. }
        | Request::Resolve { .. }
        | Request::Verify { .. }
        | Request::Reclaim
        | Request::AsOf { .. }
        | Request::Restore(_)
        | Request::Undo(_)
        | Request::Sends(_)
        | Request::History { .. }
        | Request::Base { .. }
        | Request::Page(_)
        | Request::Unmount => Err(not_mounted(&open.dir)),
    }
}

/// The volume has no daemon, and the command needs one.
pub(crate) fn not_mounted(dir: &VolumeDir) -> Failure {
    let short = &dir.short_id()[..8];
    let which = if dir.is_only() { String::new() } else { format!(" --volume {short}") };
    Failure::new(format!("volume {short} is not mounted: mount it with `p2pfs mount{which}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_to_mount_names_the_volume_where_there_are_several() {
        let folder = tempfile::tempdir().unwrap();
        let make = |short: &str| {
            let path = folder.path().join(short);
            std::fs::create_dir(&path).unwrap();
            VolumeDir::from_parts(path, short)
        };
        let dir = make("4f2a91c0aabbccdd");
        make(".join-4f2a91c0aabbccde");
        assert!(not_mounted(&dir).to_string().ends_with("`p2pfs mount`"));
        make("00aa91c0aabbccdd");
        assert!(not_mounted(&dir).to_string().ends_with("`p2pfs mount --volume 4f2a91c0`"));
    }
}
