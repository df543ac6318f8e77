//! The daemon: one process that has one volume open, mounted and connected; or, as a keeper, several that it serves without
//! a mount ([`keeper`]).
//!
//! Owns the order in which things start and end. Starting: lock, keys, store, network, control socket, mount; the
//! control socket answers before the mount can be seen, so that whoever sees the mount can ask. Ending is the other
//! way round and always the same, whether `unmount`, a signal, or somebody's `fusermount3 -u` began it.
//!
//! Invariant: what the log tells are ids and numbers. Names, labels, addresses of registries and the mount point
//! go to the user who started the daemon, never into a file.

use std::{
    env,
    ffi::OsString,
    future::Future,
    io,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::PathBuf,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crypto::OsEntropy;
use fs_mount::driver::{self, MountError, MountOptions, Mounted, Wait};
use parking_lot::Mutex;
use peer_net::{registry_address::RegistryAddress, sends::Taker};
use tokio::{
    runtime::Runtime,
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};
use volume::{
    JoinGrant, Volume,
    audit::{Act, Op, Process},
    content::Packs,
};

use crate::{
    control::{letters, server},
    failure::{Because, Failure, Outcome},
    home::{self, VolumeDir},
    mountpoint,
    open_volume::{self, OpenVolume},
    profile::{Profile, State},
    report,
    unlock::{Passphrase, existing_unlock},
    unlocks, uploads,
    volume_lock::VolumeLock,
};

pub(crate) mod alerting;
pub(crate) mod audit;
pub(crate) mod keeper;
pub(crate) mod launch;
pub(crate) mod logging;
pub(crate) mod memory;
pub(crate) mod metrics;
pub(crate) mod network;
mod notices;
pub(crate) mod page;
pub(crate) mod resealing;
pub(crate) mod sends;
pub(crate) mod upkeep;
pub(crate) mod wait;
mod watching;

use alerting::{Alerting, Wanted, Whence};
use network::Network;
use sends::Sends;
use wait::Waiter;

/// How long starting waits for the registries' first answer before it says that there is none.
const REGISTRY_PATIENCE: Duration = Duration::from_millis(1500);
/// How long a volume that has not arrived yet is waited for.
const FIRST_SYNC: Duration = Duration::from_secs(30);
/// How long a store that is an older copy waits for others to bring what it lacks before it is mounted.
const CATCHING_UP: Duration = Duration::from_secs(10);
/// Changes of peers come in bursts.
const REMEMBER_AFTER: Duration = Duration::from_secs(20);
/// How long ending waits for connected peers to take what they lack.
const FAREWELL: Duration = Duration::from_secs(2);
/// How long ending waits for the network and for the last answers on the control socket.
const CLOSING: Duration = Duration::from_secs(3);
/// Threads for calls that block, at most; idle ones end by themselves.
const BLOCKING_THREADS: usize = 32;

/// What the daemon is to do.
pub(crate) struct Config {
    pub(crate) dir: VolumeDir,
    pub(crate) passphrase: Option<Passphrase>,
    /// [`mountpoint::absolute`].
    pub(crate) mountpoint: PathBuf,
    /// Make the mount point when it is missing.
    pub(crate) create: bool,
    pub(crate) allow_other: bool,
    /// What the mount table is to show.
    pub(crate) source: String,
    pub(crate) listen: Option<std::net::SocketAddr>,
    /// Instead of those used so far, unless empty.
    pub(crate) registries: Vec<RegistryAddress>,
    /// How long a read waits for content that no peer has sent yet.
    pub(crate) absent_timeout: Duration,
    /// Where metrics are served, if anywhere.
    pub(crate) metrics: Option<std::net::SocketAddr>,
    pub(crate) alerts: Wanted,
}

/// What of it is needed to mount.
struct Settings {
    allow_other: bool,
    source: String,
    absent_timeout: Duration,
}

/// What the daemon has to say once the mount is usable.
pub(crate) struct Ready {
    pub(crate) mountpoint: PathBuf,
    /// One line each.
    pub(crate) warnings: Vec<String>,
}

/// What the parts of a running daemon share.
pub(crate) struct Shared {
    pub(crate) volume: Volume,
    packs: Arc<Packs>,
    pub(crate) profile: Profile,
    pub(crate) dir: VolumeDir,
    /// Nothing for a keeper.
    pub(crate) mountpoint: Option<PathBuf>,
    pub(crate) network: Network,
    audited: Arc<audit::Counts>,
    pub(crate) letters: letters::Arrivals,
    pub(crate) sends: Arc<Sends>,
    /// The process that shows the volume in a browser, once somebody asked for it.
    pub(crate) page: page::Page,
    mounted: OnceLock<Mounted>,
    state: Mutex<State>,
    /// Whether somebody asked for the end.
    asked_to_end: AtomicBool,
    /// Ends a keeper, with all volumes that it serves.
    stop: Arc<watch::Sender<bool>>,
    /// Whether everything is closed: turns true once, just before the process ends.
    finished: watch::Sender<bool>,
    /// Held while somebody's unmounting is under way. The kernel forgets all files after it has told the daemon of
    /// the end: with a million of them that takes longer than closing.
    unmounting: Mutex<()>,
    /// For what goes on beside everything else.
    ending: upkeep::Ending,
    pub(crate) resealing: resealing::Resealing,
    /// So many of the commits that arrived were looked at by the thread that watches.
    pub(crate) inspected: AtomicU64,
    /// Held until the process ends, and so for longer than the store is open.
    _lock: VolumeLock,
}

/// Lives until the process ends: a client of `unmount` takes the end of its connection for the end of the daemon.
static RUNTIME: OnceLock<Runtime> = OnceLock::new();

/// How often it is signed how far the audit log goes, if it goes further.
const SIGN_EVERY: Duration = Duration::from_secs(600);

/// What a keeper's user is told who asks for more.
const KEEPER: &str = "this device keeps the volume without being able to read it";

/// Runs the daemon until the mount is gone; `ready` is called once it is usable.
pub(crate) fn run(config: Config, ready: impl FnOnce(Ready)) -> Outcome<()> {
    begin()?;
    let own = Own::take(config.dir, config.passphrase.as_ref())?;
    clear_last_mount(&own.state);
    mountpoint::prepare(&config.mountpoint, config.create)?;
    let runtime = the_runtime()?;
    let door = runtime.block_on(metrics::bind(config.metrics))?;
    let opened = own.open()?;
    if opened.volume.is_keeper() {
        opened.close()?;
        return Err(refused_to_keepers());
    }
    let alerting = runtime.block_on(async { Arc::new(Alerting::start(&config.alerts)) });
    let running = opened.start(
        &alerting,
        Some(config.mountpoint),
        config.listen,
        &config.registries,
        Arc::new(watch::Sender::new(false)),
    )?;
    let served = runtime.block_on(async { server::serve(running.shared.clone()) });
    let watched = runtime.block_on(async { door.map(|door| door.serve(vec![running.shared.clone()])) });
    let settings =
        Settings { allow_other: config.allow_other, source: config.source, absent_timeout: config.absent_timeout };
    let lived = served.and_then(|()| runtime.block_on(live(&running.shared, settings, ready)));
    let (shared, ended) = running.end(lived);
    if let Some(watched) = watched {
        runtime.block_on(watched.end());
    }
    runtime.block_on(shared.say_finished());
    ended
}

fn refused_to_keepers() -> Failure {
    Failure::new(format!("{KEEPER}: run `p2pfs keeper`"))
}

/// What a process does first that is to run for long.
fn begin() -> Outcome<()> {
    raise_open_files();
    memory::keep_small();
    // All paths are absolute by now. The folder it was started in may be removed, and must not be kept busy.
    env::set_current_dir("/").because(|| "leaving the working directory".to_owned())
}

fn the_runtime() -> Outcome<&'static Runtime> {
    match RUNTIME.get() {
        Some(runtime) => Ok(runtime),
        None => {
            let started = runtime()?;
            Ok(RUNTIME.get_or_init(|| started))
        }
    }
}

/// A volume that is this process's, and not open yet.
struct Own {
    dir: VolumeDir,
    lock: VolumeLock,
    profile: Profile,
    state: State,
}

impl Own {
    fn take(dir: VolumeDir, passphrase: Option<&Passphrase>) -> Outcome<Self> {
        dir.check_format()?;
        let lock = VolumeLock::wait_for(&dir)?;
        let profile = Profile::load(&dir, &existing_unlock(&dir, passphrase)?)?;
        let state = State::load(&dir, &profile.secret);
        Ok(Self { dir, lock, profile, state })
    }

    fn open(self) -> Outcome<OpenVolume> {
        OpenVolume::open(self.dir, self.lock, self.profile)
    }
}

impl OpenVolume {
    /// Connects the volume, and starts what works on it beside.
    fn start(
        self,
        alerting: &Arc<Alerting>,
        mountpoint: Option<PathBuf>,
        listen: Option<std::net::SocketAddr>,
        registries: &[RegistryAddress],
        stop: Arc<watch::Sender<bool>>,
    ) -> Outcome<Running> {
        let OpenVolume { volume, packs, profile, mut state, dir, lock } = self;
        if !registries.is_empty() {
            state.registries = Some(registries.iter().map(ToString::to_string).collect());
        }
        let whence =
            Whence { label: profile.label.clone(), id: dir.short_id()[..8].to_owned(), mountpoint: mountpoint.clone() };
        let (on_alert, on_offer) = (alerting.clone(), alerting.clone());
        volume.on_alert(Box::new(move |alert| on_alert.tell(&whence, alert)));
        let audited = audit::watch(&volume);
        unlocks::record(&volume, dir.path());
        let letters = letters::watch(&volume);
        if volume.is_audit_cut().unwrap_or(false) {
            log::error!("the audit log goes less far than this device had signed: `p2pfs log verify` tells more");
            watching::tell_cut(&volume);
            sign_audit_head(&volume);
        }
        let sends = the_runtime()?.block_on(async {
            Sends::open(&volume, dir.path(), &profile.secret, home::inbox(), move || on_offer.tell_offer())
        });
        // A keeper takes nothing.
        let taker: Taker = if mountpoint.is_some() { Some(sends.clone()) } else { None };
        let network = the_runtime()?.block_on(async { Network::start(&volume, &profile, &state, listen, &taker) })?;
        state.mountpoint = mountpoint.as_ref().map(|path| path.as_os_str().as_bytes().to_vec());
        state.port = network.port();
        state.save(dir.path(), &profile.secret, &OsEntropy);
        let shared = Arc::new(Shared {
            volume,
            packs,
            profile,
            dir,
            mountpoint,
            network,
            audited,
            letters,
            sends,
            page: page::Page::default(),
            mounted: OnceLock::new(),
            state: Mutex::new(state),
            asked_to_end: AtomicBool::new(false),
            stop,
            finished: watch::Sender::new(false),
            unmounting: Mutex::new(()),
            ending: upkeep::Ending::default(),
            resealing: resealing::Resealing::default(),
            inspected: AtomicU64::new(0),
            _lock: lock,
        });
        the_runtime()?.block_on(async { notices::start(&shared, alerting.clone()) });
        if shared.mountpoint.is_some() {
            uploads::clear(&shared.volume, shared.dir.path());
        }
        let committer = spawn_committer(&shared.volume)?;
        let upkeep = upkeep::spawn(shared.clone())?;
        let resealing = resealing::spawn(shared.clone())?;
        let watching = watching::spawn(shared.clone())?;
        Ok(Running { shared, committer, upkeep, resealing, watching })
    }
}

/// A volume that is open and connected.
struct Running {
    shared: Arc<Shared>,
    committer: thread::JoinHandle<()>,
    upkeep: thread::JoinHandle<()>,
    resealing: thread::JoinHandle<()>,
    watching: thread::JoinHandle<()>,
}

impl Running {
    /// Ends all of it in order. Who waits for the end is told after that ([`Shared::say_finished`]).
    fn end(self, lived: Outcome<()>) -> (Arc<Shared>, Outcome<()>) {
        let Running { shared, committer, upkeep, resealing, watching } = self;
        shared.remember(|state| state.peers = shared.network.known_peers());
        shared.ending.begin();
        shared.sends.end();
        // They must not write to what is being closed.
        let tidied = upkeep.join().map_err(|_| Failure::new("the thread that gives room back broke down"));
        let watched = watching.join().map_err(|_| Failure::new("the thread that watches broke down"));
        let resealed = resealing.join().map_err(|_| Failure::new("the thread that seals anew broke down"));
        let closed = the_runtime().and_then(|runtime| runtime.block_on(close(&shared)));
        let ended = committer.join().map_err(|_| Failure::new("the thread that writes commits broke down"));
        shared.remember(|state| state.mountpoint = None);
        server::remove_socket(&shared.dir);
        (shared, lived.and(closed).and(ended).and(tidied).and(resealed).and(watched))
    }
}

/// A device whose first sync was cut off has to finish it before there is anything to mount.
async fn until_ready(shared: &Shared) -> Outcome<()> {
    let mut changes = shared.network.changes();
    let ready = async {
        while !shared.volume.is_ready() {
            if changes.changed().await.is_err() {
                return;
            }
        }
    };
    match tokio::time::timeout(FIRST_SYNC, ready).await {
        Ok(()) => Ok(()),
        Err(_) => Err(Failure::new(
            "the volume's records are not here yet and nobody who has them is online: mount it again later",
        )),
    }
}

/// A device whose store is an older copy shows nothing before it has what those have who can be reached soon.
async fn until_caught_up(shared: &Arc<Shared>) {
    let mut changes = shared.network.changes();
    let task = shared.clone();
    if blocking(move || task.has_met_somebody()).await {
        return;
    }
    let caught_up = async {
        loop {
            let task = shared.clone();
            if blocking(move || task.has_caught_up()).await || changes.changed().await.is_err() {
                return;
            }
        }
    };
    // In vain at times: then it is told.
    let _ = tokio::time::timeout(CATCHING_UP, caught_up).await;
}

/// From the mount's first moment to its last.
async fn live(shared: &Arc<Shared>, settings: Settings, ready: impl FnOnce(Ready)) -> Outcome<()> {
    let mut signals = Signals::listen()?;
    tokio::select! {
        ready = until_ready(shared) => ready?,
        () = signals.next() => return Ok(()),
    }
    tokio::select! {
        () = until_caught_up(shared) => (),
        () = signals.next() => return Ok(()),
    }
    if shared.volume.is_keeper() {
        return Err(refused_to_keepers());
    }
    let mountpoint = shared.mountpoint.clone().expect("only a keeper has none, and it does not come here");
    let options = MountOptions {
        mountpoint: mountpoint.clone(),
        source: settings.source,
        allow_other: settings.allow_other,
        owner: owner(settings.allow_other),
        read_only: false,
        absent_timeout: settings.absent_timeout,
    };
    let volume = shared.volume.clone();
    let mounted = blocking(move || driver::mount(volume, options)).await.map_err(|e| mount_failure(&e))?;
    shared.mounted.get_or_init(|| mounted);
    log::info!("volume {} is mounted", &shared.dir.short_id()[..8]);
    record_mount(shared, format!("mounted at {}", mountpoint.display()));
    tell_service_manager(&[sd_notify::NotifyState::Ready]);
    let mut warnings = shared.network.registry_warnings(REGISTRY_PATIENCE).await;
    let task = shared.clone();
    warnings.extend(blocking(move || report::older_copy(&task.volume)).await);
    if shared.packs.lacks_synced() {
        warnings.push(
            "contents that were here are missing, as with an older copy of the packs: peers' are fetched when they are read, \
             all of them with `p2pfs verify --repair`"
                .to_owned(),
        );
    }
    ready(Ready { mountpoint, warnings });
    tokio::spawn(remember_peers(shared.clone()));
    sends::start(shared);
    tokio::spawn(sign_audit_heads(shared.clone()));
    let task = shared.clone();
    blocking(move || task.remember_grant()).await;

    let until_gone = {
        let shared = shared.clone();
        blocking(move || shared.mounted.get().map_or(Ok(()), Mounted::wait))
    };
    tokio::select! {
        gone = until_gone => gone.map_err(|e| Failure::new(chain(&e)))?,
        () = signals.next() => {
            log::info!("asked to end");
            shared.asked_to_end.store(true, Ordering::Relaxed);
            // While there is a mount on which it can take away what it had begun.
            shared.page.end().await;
            let shared = shared.clone();
            blocking(move || shared.unmount_at_any_rate()).await;
        }
    }
    // Nothing is to arrive below where it was.
    let task = shared.clone();
    blocking(move || task.sends.hold()).await;
    record_mount(shared, "unmounted".to_owned());
    Ok(())
}

/// Signs how far the audit log goes. Whoever was removed can't, and their log is still there.
fn sign_audit_head(volume: &Volume) {
    if let Some(audit) = volume.audit() {
        audit.flush();
    }
    if let Err(e) = volume.sign_audit_head() {
        log::debug!("how far the audit log goes could not be signed: {e}");
    }
}

/// Does that now and then.
async fn sign_audit_heads(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(SIGN_EVERY).await;
        let volume = shared.volume.clone();
        blocking(move || sign_audit_head(&volume)).await;
    }
}

/// Records that the volume was mounted or unmounted.
fn record_mount(shared: &Shared, what: String) {
    if let Some(audit) = shared.volume.audit() {
        let process = Process { uid: rustix::process::getuid().as_raw(), pid: std::process::id(), program: None };
        audit.record(Act { note: Some(what), process: Some(process), ..shared.volume.own_act(Op::Mount) });
    }
}

/// Keeps where peers are on the disk: after a crash they may be the only way to find anybody.
async fn remember_peers(shared: Arc<Shared>) {
    let mut changes = shared.network.changes();
    while changes.changed().await.is_ok() {
        tokio::time::sleep(REMEMBER_AFTER).await;
        changes.mark_unchanged();
        let shared = shared.clone();
        blocking(move || shared.remember(|state| state.peers = shared.network.known_peers())).await;
    }
}

/// Sends what can still be sent, ends the network, then the volume.
async fn close(shared: &Arc<Shared>) -> Outcome<()> {
    tell_service_manager(&[sd_notify::NotifyState::Stopping]);
    shared.page.end().await;
    let volume = shared.volume.clone();
    let committed = blocking(move || {
        sign_audit_head(&volume);
        volume.commit_now()
    })
    .await;
    if committed.is_ok() && shared.network.anybody_connected() {
        let mut waiter = Waiter::new(&shared.volume, &shared.network);
        let in_step = waiter.until_in_step(|_| ());
        // In vain at times: the rest is sent when it is mounted again.
        let _ = tokio::time::timeout(FAREWELL, in_step).await;
    }
    let _ = tokio::time::timeout(CLOSING, shared.network.shutdown()).await;
    let task = shared.clone();
    let closed = blocking(move || open_volume::close(&task.volume, &task.packs)).await;
    if let Err(e) = &closed {
        log::error!("{e}");
    }
    closed?;
    log::info!("volume {} is closed", &shared.dir.short_id()[..8]);
    Ok(())
}

impl Shared {
    /// Changes what this device remembers, and saves it if it is new.
    fn remember(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock();
        let before = state.clone();
        change(&mut state);
        if *state != before {
            state.save(self.dir.path(), &self.profile.secret, &OsEntropy);
        }
    }

    /// Keeps the volume's keys outside its store, for the day that is lost.
    fn remember_grant(&self) {
        match self.volume.own_grant() {
            Ok(grant) => self.remember(|state| {
                let epochs = |grant: &JoinGrant| grant.keys.iter().map(|key| key.epoch).collect::<Vec<_>>();
                // Sealed anew it is never the same bytes.
                if state.grant.as_ref().map(epochs) != Some(epochs(&grant)) {
                    state.grant = Some(grant);
                }
            }),
            Err(e) => log::warn!("the volume's keys can't be remembered: {e}"),
        }
    }

    /// Whether the store isn't an older copy, or somebody has been met since that was noticed.
    fn has_met_somebody(&self) -> bool {
        let others = self.volume.devices().iter().filter(|device| !device.me).count();
        self.volume.restored().is_none_or(|(_, unmet)| unmet.len() < others)
    }

    /// Whether the store isn't an older copy, or everybody connected, and at least one, has been met since.
    fn has_caught_up(&self) -> bool {
        let Some((_, unmet)) = self.volume.restored() else { return true };
        let connected = self.network.connected();
        unmet.is_empty() || !connected.is_empty() && connected.iter().all(|peer| !unmet.contains(&peer.device))
    }

    /// The files whose contents are waited for, with the devices that have them.
    pub(crate) fn waits(&self) -> Vec<Wait> {
        self.mounted.get().map(|mounted| mounted.waits(|block| self.volume.has_whole(block))).unwrap_or_default()
    }

    /// Waits until the kernel was told of all that is here, at most until `deadline`. Tells whether it was.
    pub(crate) fn wait_until_told(&self, deadline: Instant) -> bool {
        self.volume.wait_until_told(deadline)
            && self.mounted.get().is_none_or(|mounted| mounted.wait_until_told(deadline))
    }

    /// Unmounts for the user; the daemon then ends by itself. Busy, it stays mounted.
    pub(crate) fn unmount(&self) -> Outcome<()> {
        let Some(mountpoint) = &self.mountpoint else {
            self.asked_to_end.store(true, Ordering::Relaxed);
            self.stop.send_replace(true);
            return Ok(());
        };
        let Some(mounted) = self.mounted.get() else {
            return Err(Failure::new("the volume is just being mounted: try again"));
        };
        let _under_way = self.unmounting.lock();
        // What is sent or arrives may lie on it.
        self.sends.hold();
        let unmounted = mounted.unmount();
        if unmounted.is_err() {
            self.sends.go_on();
        }
        match unmounted {
            Ok(()) => Ok(()),
            Err(MountError::Busy(_)) => Err(mountpoint::busy(mountpoint)),
            Err(e) => Err(Failure::new(chain(&e))),
        }
    }

    /// Whether this process ends by itself as soon as it can: it has no mount any more that anybody could use.
    pub(crate) fn is_ending(&self) -> bool {
        self.asked_to_end.load(Ordering::Relaxed) || self.mounted.get().is_some_and(|mounted| !mounted.is_in_tree())
    }

    /// Unmounts because the process must end: what is busy loses its files.
    fn unmount_at_any_rate(&self) {
        let Some(mounted) = self.mounted.get() else { return };
        self.sends.hold();
        if mounted.unmount().is_err() {
            log::warn!("the mount is in use, taking it away regardless");
            if mounted.detach().is_err() {
                log::error!("the mount can't be taken away");
            }
        }
    }

    /// Turns true when everything is closed. Whoever holds it until then holds the process's end up.
    pub(crate) fn finished(&self) -> watch::Receiver<bool> {
        self.finished.subscribe()
    }

    /// Tells those who wait for the end, and gives them time to pass it on.
    async fn say_finished(self: &Arc<Self>) {
        let shared = self.clone();
        blocking(move || drop(shared.unmounting.lock())).await;
        self.finished.send_replace(true);
        let _ = tokio::time::timeout(CLOSING, self.finished.closed()).await;
    }
}

/// A daemon that was killed leaves its mount behind, not always where the next one mounts.
fn clear_last_mount(state: &State) {
    if let Some(last) = state.mountpoint.clone().map(|bytes| PathBuf::from(OsString::from_vec(bytes)))
        && let Ok(true) = mountpoint::clear_dead(&last)
    {
        log::info!("cleared away the dead mount of a daemon that was killed");
    }
}

/// Whose files the mount shows: the user's own, except on a system mount.
fn owner(allow_other: bool) -> Option<(u32, u32)> {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    let system = allow_other && uid.is_root();
    (!system).then(|| (uid.as_raw(), gid.as_raw()))
}

fn runtime() -> Outcome<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_name("p2pfs-net")
        .enable_all()
        .build()
        .because(|| "starting threads".to_owned())
}

fn spawn_committer(volume: &Volume) -> Outcome<thread::JoinHandle<()>> {
    let volume = volume.clone();
    thread::Builder::new()
        .name("p2pfs-commit".to_owned())
        .spawn(move || volume.run_committer())
        .because(|| "starting threads".to_owned())
}

/// Packs, tables and connections are many files; the usual limit of 1024 is for programs that use `select`.
fn raise_open_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if setrlimit(Resource::Nofile, limit).is_err() {
        log::debug!("the limit of open files stays as it is");
    }
}

fn tell_service_manager(states: &[sd_notify::NotifyState<'_>]) {
    // Without a service manager there is nobody to tell, and that is no error.
    if sd_notify::notify(states).is_err() {
        log::debug!("the service manager can't be told");
    }
}

/// Runs what blocks off the threads that serve the network.
pub(crate) fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> impl Future<Output = T> {
    let task = tokio::task::spawn_blocking(work);
    async {
        match task.await {
            Ok(done) => done,
            Err(e) => match e.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // Only when the runtime ends, and it outlives whoever awaits this.
                Err(_) => std::future::pending().await,
            },
        }
    }
}

/// SIGTERM, SIGINT and, from a terminal that closes, SIGHUP.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen() -> Outcome<Self> {
        let on = |kind| signal(kind).because(|| "listening for signals".to_owned());
        Ok(Self {
            terminate: on(SignalKind::terminate())?,
            interrupt: on(SignalKind::interrupt())?,
            hangup: on(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => (),
            _ = self.interrupt.recv() => (),
            _ = self.hangup.recv() => (),
        }
    }
}

/// Why the kernel did not mount, with what helps.
fn mount_failure(error: &MountError) -> Failure {
    let help = match error {
        MountError::Mount { source, .. } => match source.kind() {
            io::ErrorKind::PermissionDenied => {
                "check that you may use /dev/fuse, and user_allow_other in /etc/fuse.conf"
            }
            io::ErrorKind::NotFound => "check that fusermount3 is installed (package fuse3) and /dev/fuse is there",
            _ => return Failure::new(chain(error)),
        },
        _ => return Failure::new(chain(error)),
    };
    Failure::new(format!("{}: {help}", chain(error)))
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string().trim().to_owned();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let said = inner.to_string();
        if !text.contains(said.trim()) {
            text = format!("{text}: {}", said.trim());
        }
        cause = inner.source();
    }
    text
}
