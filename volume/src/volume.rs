//! The volume: one handle for the mount, the daemon and the network.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use crypto::{
    DeviceId, DeviceKeys, Entropy, EpochId, Label, PublicKey, SymmetricKey, UserKeys, VolumeId, random_array,
};
use dashmap::DashMap;
use parking_lot::{Condvar, Mutex, RwLock};

use crate::{
    acl::Acl,
    alerts::OnAlert,
    anchor,
    archive::{self, Archive},
    audit::{Act, Audit, Kind},
    commit::{AccessBody, BirthBody, ChangeKind, MemberBody, SealedKey},
    content::{BlockHash, BlockStore, Blocks},
    core::Core,
    epochs::Recipient,
    error::{Error, Result},
    fetch::{Fetch, PeerNo, SharedFetch},
    files::{OpenFile, OpenHandle, PUBLISH_AFTER},
    history::{self, Pasts},
    letters::{self, OnLetter},
    member::{
        DeviceInfo, EpochRow, JoinGrant, JoinRequest, Member, MemberRow, Role, TicketSecret, certify, epoch_id,
        seal_user_key,
    },
    node::{Attributes, Caller, DirEntry, Ino, NewNode, NodeKind, RenameMode, SetXattr, Statistics},
    rekey::KEYS_PER_CHANGE,
    reseal::Resealing,
    rights::Rights,
    sealed_store::SealedStore,
    space::{Quota, SpaceGuard, disk},
    store::{Batch, Space, Store},
    sync::{SessionShared, Waiting},
    time::{Clock, Timestamp},
    undo::Undo,
    version::{BranchNo, Dot, ValueRef},
};

/// A pending commit is cut this long after its first change at the latest.
const CUT_AFTER: Duration = Duration::from_millis(8);

/// What a volume is made of and driven by.
pub struct Parts {
    /// Records.
    pub store: Arc<dyn Store>,
    /// Contents.
    pub blocks: Arc<dyn BlockStore>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
    /// This device's secret, under which derived state is sealed.
    pub secret: SymmetricKey,
    /// This device.
    pub device: DeviceKeys,
    /// Its user.
    pub user: UserKeys,
    /// A second copy of the commits; `None` in memory.
    pub archive: Option<Arc<Archive>>,
    /// A directory on the disk that must not fill up, which is copied when the store is; `None` where there is none.
    pub directory: Option<PathBuf>,
}

/// Something that the kernel may have cached and that isn't so any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changed {
    /// A file's bytes.
    Content(Ino),
    /// A node's attributes.
    Attributes(Ino),
    /// What a name leads to.
    Entry {
        /// The directory.
        parent: Ino,
        /// The name.
        name: Vec<u8>,
    },
    /// Who belongs to the volume.
    Members,
}

/// Figures about a volume.
#[derive(Clone, Copy, Debug, Default)]
pub struct Status {
    /// Commits known here.
    pub commits: u64,
    /// Changes not yet in a commit.
    pub pending_changes: u64,
    /// Commits that wait for one they refer to.
    pub waiting_commits: u64,
    /// Blocks listed as missing (at least so many are).
    pub wanted_blocks: u64,
    /// Bytes of them, about.
    pub wanted_bytes: u64,
    /// Names beside which something shows: files with more than one version at once, and names that were taken twice.
    pub conflicts: u64,
    /// Nodes ever born.
    pub nodes: u64,
    /// Logs, and branches of them.
    pub branches: u64,
    /// The disk is full: what peers send, and what programs write, is refused until there is room.
    pub disk_full: bool,
    /// How many bytes the volume may take of the disk, if that is limited.
    pub quota: Option<u64>,
    /// How many it takes; told with a quota, or of a keeper.
    pub used_bytes: Option<u64>,
    /// Contents are not fetched: there is no room for them within the quota.
    pub quota_reached: bool,
}

/// A replicated, encrypted volume. Cheap to clone; every call is local and short.
#[derive(Clone)]
pub struct Volume {
    pub(crate) inner: Arc<Inner>,
}

/// The parts that the core has no use for.
struct Outside {
    clock: Arc<dyn Clock>,
    archive: Option<Arc<Archive>>,
    directory: Option<PathBuf>,
}

impl Outside {
    fn of(parts: &Parts) -> Self {
        Self { clock: parts.clock.clone(), archive: parts.archive.clone(), directory: parts.directory.clone() }
    }
}

type Listener = Arc<dyn Fn(Changed) + Send + Sync>;

pub(crate) struct Inner {
    pub core: Mutex<Core>,
    pub store: SealedStore,
    pub undo: Arc<Undo>,
    pub blocks: Blocks,
    pub clock: Arc<dyn Clock>,
    pub files: DashMap<Ino, Arc<OpenFile>>,
    pub handles: DashMap<u64, Arc<OpenHandle>>,
    pub next_handle: AtomicU64,
    pub dirty_files: Mutex<BTreeMap<Ino, Duration>>,
    pub dirty_bytes: AtomicUsize,
    /// As the core has it.
    pub rekeyed: Arc<AtomicU64>,
    pub fetch: SharedFetch,
    pub sessions: Mutex<BTreeMap<PeerNo, Arc<SessionShared>>>,
    pub next_peer: AtomicU64,
    pub waiting: Mutex<Waiting>,
    /// Commits up to this arrival are on the disk and may be sent.
    pub synced_arrival: AtomicU64,
    /// Held for reading by whoever takes in commits, until the mount was told what they changed. Before the core's.
    pub telling: RwLock<()>,
    /// Pasts that were looked at.
    pub pasts: Mutex<Pasts>,
    /// Held for reading by whoever opens a file for writing, from looking at what it shows until that is noted. Before a
    /// file's and the core's.
    pub opening: RwLock<()>,
    pub resealing: Resealing,
    /// Held by whoever drops history, or looks for blocks that nobody needs. Before the core's.
    pub reclaiming: Mutex<()>,
    pub archive: Option<Arc<Archive>>,
    space: Mutex<SpaceGuard>,
    pub quota: Quota,
    directory: Option<PathBuf>,
    pub audit: OnceLock<Arc<Audit>>,
    /// What was done before there was a log: drafts that a crash left, published as the volume was opened.
    pub untold: Mutex<Vec<Act>>,
    /// Counted, unless there may be others since. After the core's.
    pub open_alerts: Mutex<Option<BTreeMap<Kind, u64>>>,
    pub on_alert: OnceLock<OnAlert>,
    /// The number of the last letter that this device sent.
    pub last_letter: AtomicU64,
    pub on_letter: OnceLock<OnLetter>,
    listener: Mutex<Option<Listener>>,
    committer: Mutex<bool>,
    committer_wake: Condvar,
    closed: AtomicBool,
    sync_gate: SyncGate,
}

/// Lets callers that wait for a sync at the same time share one.
#[derive(Default)]
struct SyncGate {
    state: Mutex<(u64, u64, bool)>,
    done: Condvar,
}

impl SyncGate {
    /// Returns after a sync that began after this call did.
    fn sync(&self, f: impl Fn() -> Result<()>) -> Result<()> {
        let mut state = self.state.lock();
        state.0 += 1;
        let mine = state.0;
        loop {
            if state.1 >= mine {
                return Ok(());
            }
            if !state.2 {
                state.2 = true;
                let covers = state.0;
                drop(state);
                let result = f();
                state = self.state.lock();
                state.2 = false;
                self.done.notify_all();
                result?;
                state.1 = state.1.max(covers);
            } else {
                self.done.wait(&mut state);
            }
        }
    }
}

impl std::fmt::Debug for Volume {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Volume")
    }
}

impl Volume {
    fn assemble(core: Core, blocks: Blocks, outside: Outside) -> Result<Self> {
        let Outside { clock, archive, directory } = outside;
        let (store, undo, rekeyed) = (core.store.clone(), core.undo.clone(), core.rekeyed.clone());
        // Whoever opens or makes a volume has synced it.
        let synced_arrival = AtomicU64::new(core.next_arrival - 1);
        let last_letter = letters::last_sent(&store)?;
        let inner = Inner {
            fetch: Arc::new(Fetch::new(blocks.clone(), store.clone())),
            core: Mutex::new(core),
            store,
            undo,
            blocks,
            clock,
            files: DashMap::new(),
            handles: DashMap::new(),
            next_handle: AtomicU64::new(1),
            dirty_files: Mutex::default(),
            dirty_bytes: AtomicUsize::new(0),
            rekeyed,
            sessions: Mutex::default(),
            next_peer: AtomicU64::new(1),
            waiting: Mutex::default(),
            synced_arrival,
            telling: RwLock::default(),
            pasts: Mutex::default(),
            opening: RwLock::default(),
            resealing: Resealing::default(),
            reclaiming: Mutex::default(),
            archive,
            space: Mutex::new(SpaceGuard::new(directory.clone())),
            quota: Quota::new(directory.clone()),
            directory,
            audit: OnceLock::new(),
            untold: Mutex::default(),
            open_alerts: Mutex::default(),
            on_alert: OnceLock::new(),
            last_letter: AtomicU64::new(last_letter),
            on_letter: OnceLock::new(),
            listener: Mutex::default(),
            committer: Mutex::new(false),
            committer_wake: Condvar::new(),
            closed: AtomicBool::new(false),
            sync_gate: SyncGate::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Makes a new volume in an empty store; this device's user owns it.
    ///
    /// # Errors
    /// The name isn't one, or the disk failed.
    pub fn found(parts: Parts, user_name: &str) -> Result<Volume> {
        crate::member::check_user_name(user_name).map_err(Error::Refused)?;
        let (blocks, outside) = (parts.blocks.clone(), Outside::of(&parts));
        let blocks = Blocks::new(blocks, parts.entropy.clone());
        let mut core = Core::load(parts, VolumeId::ZERO)?;
        if core.next_arrival > 1 || core.pending.is_some() {
            return Err(Error::Refused("the store already holds a volume".to_owned()));
        }
        core.call(|core| core.emit_genesis(user_name))?;
        core.cut()?;
        let hash = core.branch(core.me).tip_hash;
        core.volume = VolumeId::from_bytes(*hash.as_bytes());
        let mut batch = Batch::new();
        core.store.put(&mut batch, Space::Meta, crate::core::VOLUME, core.volume.as_bytes());
        core.store.apply(batch)?;
        archive::attach(outside.archive.as_ref(), &core.store, core.next_arrival - 1)?;
        core.store.sync()?;
        Self::assemble(core, blocks, outside)
    }

    /// Opens the volume `id` in its store; an empty store is filled by the first sync.
    ///
    /// # Errors
    /// The store is another volume's, damaged, or the disk failed.
    pub fn load(parts: Parts, id: VolumeId) -> Result<Volume> {
        Self::load_as(parts, id, false)
    }

    /// The same of a store that is known to be an older copy of this device's. (Where there is a directory it is looked at.)
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_copy(parts: Parts, id: VolumeId) -> Result<Volume> {
        Self::load_as(parts, id, true)
    }

    fn load_as(parts: Parts, id: VolumeId, copy: bool) -> Result<Volume> {
        let (blocks, outside) = (parts.blocks.clone(), Outside::of(&parts));
        let blocks = Blocks::new(blocks, parts.entropy.clone());
        let mut core = Core::load(parts, id)?;
        // Before anything is signed: a number that the archive has, and the store lost, must not be used twice.
        archive::attach(outside.archive.as_ref(), &core.store, core.next_arrival - 1)?;
        let directory = outside.directory.as_deref();
        let copy = match directory {
            Some(directory) => anchor::is_copy(directory, &core.store, core.is_blank())?,
            None => copy,
        };
        // What survived a crash is complete now: own commits are synced before they are sent.
        core.cut()?;
        core.leave_forked_log()?;
        if copy {
            core.leave_log("was copied with it")?;
        }
        blocks.sync()?;
        core.store.sync()?;
        // The one before stays good where the disk is full.
        if let Some(directory) = directory
            && let Err(e) = anchor::renew(directory, &core.store, &*core.entropy)
        {
            log::warn!("the store's anchor stays as it is: {e}");
        }
        let volume = Self::assemble(core, blocks, outside)?;
        volume.load_waiting()?;
        volume.recover_drafts()?;
        Ok(volume)
    }

    /// The volume's name.
    pub fn id(&self) -> VolumeId {
        self.inner.core.lock().volume
    }

    /// Whether the genesis is known and this device was admitted.
    pub fn is_ready(&self) -> bool {
        let mut core = self.inner.core.lock();
        let id = core.device.id();
        core.members.devices.contains_key(&id) && core.node(Ino::ROOT).is_ok()
    }

    fn check_open(&self) -> Result<()> {
        if self.inner.closed.load(Ordering::Acquire) {
            return Err(Error::Io(std::io::Error::other("the volume is closed")));
        }
        Ok(())
    }

    /// Runs a local call; with what it changed.
    fn called<R>(&self, f: impl FnOnce(&mut Core) -> Result<R>) -> Result<(R, Vec<Changed>)> {
        self.check_open()?;
        let mut core = self.inner.core.lock();
        if core.pending_is_full() {
            core.cut()?;
        }
        let result = core.call(f)?;
        Ok((result, std::mem::take(&mut core.settled)))
    }

    /// Runs a local call. `names` are those the caller's kernel knows to have changed.
    pub(crate) fn local<R>(&self, names: &[&[u8]], f: impl FnOnce(&mut Core) -> Result<R>) -> Result<R> {
        let (result, changed) = self.called(f)?;
        let unexpected: Vec<Changed> = changed
            .into_iter()
            .filter(|c| matches!(c, Changed::Entry { name, .. } if !names.contains(&name.as_slice())))
            .collect();
        if !unexpected.is_empty() {
            self.tell(&unexpected);
        }
        self.wake_committer();
        Ok(result)
    }

    /// Runs a local call after which everything shows as before: nobody needs to be told.
    pub(crate) fn unseen<R>(&self, f: impl FnOnce(&mut Core) -> Result<R>) -> Result<R> {
        let (result, _) = self.called(f)?;
        self.wake_committer();
        Ok(result)
    }

    /// Runs a local call whose changes are a commit of their own, and syncs it: what others made or do comes before it or
    /// after.
    pub(crate) fn local_commit<R>(&self, f: impl FnOnce(&mut Core) -> Result<R>) -> Result<R> {
        self.check_open()?;
        let result = {
            let mut core = self.inner.core.lock();
            core.cut()?;
            let result = core.call(f)?;
            core.cut()?;
            result
        };
        self.commit_pending()?;
        Ok(result)
    }

    /// Runs a local call that doesn't come through the mount: its kernel is told all that it changed.
    pub(crate) fn beside_the_mount<R>(&self, f: impl FnOnce(&mut Core) -> Result<R>) -> Result<R> {
        self.check_open()?;
        let _telling = self.inner.telling.read();
        let (result, changed) = {
            let mut core = self.inner.core.lock();
            if core.pending_is_full() {
                core.cut()?;
            }
            let result = core.call(f)?;
            if std::mem::take(&mut core.wants_more) {
                // Before anybody can see the new commit: it must not seem complete yet.
                self.inner.fetch.look_again();
            }
            (result, std::mem::take(&mut core.settled))
        };
        self.tell(&changed);
        self.wake_committer();
        Ok(result)
    }

    /// Returns once the mount was handed every change of commits that are applied by now, at the latest at `deadline`. Tells
    /// whether it was.
    pub fn wait_until_told(&self, deadline: Instant) -> bool {
        self.inner.telling.try_write_until(deadline).is_some()
    }

    /// Whether changes may have been applied of which the mount wasn't told yet.
    pub fn is_telling(&self) -> bool {
        self.inner.telling.is_locked()
    }

    /// Hands changes to the mount and drops what open files had cached of them.
    pub(crate) fn tell(&self, changed: &[Changed]) {
        for change in changed {
            if let Changed::Content(ino) = change
                && let Some(file) = self.inner.files.get(ino).map(|f| f.clone())
            {
                file.state.write().shown = None;
            }
        }
        self.hand_on(changed);
    }

    /// Hands changes to the mount alone. A file's lock may be held: the mount only takes note of them here.
    pub(crate) fn hand_on(&self, changed: &[Changed]) {
        let Some(listener) = self.inner.listener.lock().clone() else { return };
        for change in changed {
            if let Changed::Entry { parent, name } = change {
                let parts = self.inner.core.lock().with_node(*parent, |n| n.merged.clone()).unwrap_or_default();
                for part in parts {
                    listener(Changed::Entry { parent: part, name: name.clone() });
                }
            }
            listener(change.clone());
        }
    }

    /// Sets who is told of changes that didn't come through this mount's calls. It must not call the volume: locks
    /// are held.
    pub fn on_change(&self, listener: Box<dyn Fn(Changed) + Send + Sync>) {
        *self.inner.listener.lock() = Some(Arc::from(listener));
    }

    pub(crate) fn wake_sessions(&self) {
        let sessions: Vec<Arc<SessionShared>> = self.inner.sessions.lock().values().cloned().collect();
        for session in sessions {
            session.wake();
        }
    }

    pub(crate) fn check_space(&self, bytes: usize) -> Result<()> {
        self.check_open()?;
        let space = self.inner.space.lock();
        space.wrote(bytes);
        space.check()
    }

    // ---- names

    /// What a name in a directory leads to.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NotDirectory`], [`Error::NameTooLong`].
    pub fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Attributes> {
        let ino = self.reading(parent, |core, parent, number| Ok(number(core.find(parent, name)?.0)))?;
        self.attributes(ino)
    }

    /// Makes a file, directory, symlink or special file.
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::NotFound`] in a removed directory, [`Error::ReadOnly`], [`Error::NoSpace`].
    pub fn make(&self, parent: Ino, name: &[u8], node: NewNode<'_>, mode: u16, who: &Caller) -> Result<Attributes> {
        history::check_present(&[parent])?;
        let ino = self.local(&[name], |core| core.make(parent, name, node, mode, who))?;
        self.attributes(ino)
    }

    /// Gives a node another name.
    ///
    /// # Errors
    /// [`Error::NotPermitted`] for directories, [`Error::Exists`], [`Error::TooManyLinks`].
    pub fn link(&self, ino: Ino, parent: Ino, name: &[u8]) -> Result<Attributes> {
        history::check_present(&[ino, parent])?;
        let ino = self.local(&[name], |core| core.link(ino, parent, name))?;
        self.attributes(ino)
    }

    /// Removes a name of something that is no directory.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::IsDirectory`].
    pub fn unlink(&self, parent: Ino, name: &[u8]) -> Result<()> {
        history::check_present(&[parent])?;
        self.local(&[name], |core| core.unlink(parent, name)).map(|_| ())
    }

    /// The same where nobody asked for it who would know by that: whoever listens is told, as of what others do.
    ///
    /// # Errors
    /// As there.
    pub fn unlink_and_tell(&self, parent: Ino, name: &[u8]) -> Result<()> {
        history::check_present(&[parent])?;
        self.local(&[], |core| core.unlink(parent, name)).map(|_| ())
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NotDirectory`], [`Error::NotEmpty`].
    pub fn rmdir(&self, parent: Ino, name: &[u8]) -> Result<()> {
        history::check_present(&[parent])?;
        self.local(&[name], |core| core.rmdir(parent, name)).map(|_| ())
    }

    /// Moves a name.
    ///
    /// # Errors
    /// As `renameat2` has them.
    pub fn rename(&self, parent: Ino, name: &[u8], new_parent: Ino, new_name: &[u8], mode: RenameMode) -> Result<()> {
        history::check_present(&[parent, new_parent])?;
        self.local(&[name, new_name], |core| core.rename(parent, name, new_parent, new_name, mode)).map(|_| ())
    }

    /// The target of a symlink.
    ///
    /// # Errors
    /// [`Error::Invalid`] for anything else.
    pub fn readlink(&self, ino: Ino) -> Result<Vec<u8>> {
        self.reading(ino, |core, ino, _| core.readlink(ino))
    }

    /// Entries of a directory after a cookie (0: from the start), "." and ".." first.
    ///
    /// # Errors
    /// [`Error::NotDirectory`], [`Error::NotFound`].
    pub fn read_directory(&self, ino: Ino, after: u64, limit: usize) -> Result<Vec<DirEntry>> {
        let mut entries = self.reading(ino, |core, ino, number| {
            let mut entries = core.list(ino, after, limit)?;
            for entry in &mut entries {
                entry.attributes.ino = number(entry.attributes.ino);
            }
            Ok(entries)
        })?;
        for entry in entries.iter_mut().filter(|e| e.attributes.kind == NodeKind::File) {
            if self.inner.files.contains_key(&entry.attributes.ino) {
                entry.attributes = self.attributes(entry.attributes.ino)?;
            }
        }
        Ok(entries)
    }

    // ---- extended attributes

    /// The value of an extended attribute.
    ///
    /// # Errors
    /// [`Error::NoAttribute`].
    pub fn get_xattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>> {
        self.reading(ino, |core, ino, _| {
            let value = core.get_xattr(ino, name)?;
            Ok(core.local_list(name, &value))
        })
    }

    /// Sets an extended attribute.
    ///
    /// # Errors
    /// [`Error::Exists`] and [`Error::NoAttribute`] as `how` demands, [`Error::Range`], [`Error::TooBig`].
    pub fn set_xattr(&self, ino: Ino, name: &[u8], value: &[u8], how: SetXattr, who: &Caller) -> Result<()> {
        history::check_present(&[ino])?;
        self.local(&[], |core| {
            let value = core.local_list(name, value);
            core.set_xattr(ino, name, Some(&value), how, who)
        })
    }

    /// The names of a node's extended attributes.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn list_xattrs(&self, ino: Ino) -> Result<Vec<Vec<u8>>> {
        self.reading(ino, |core, ino, _| core.list_xattrs(ino))
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// [`Error::NoAttribute`].
    pub fn remove_xattr(&self, ino: Ino, name: &[u8]) -> Result<()> {
        history::check_present(&[ino])?;
        self.local(&[], |core| core.remove_xattr(ino, name))
    }

    /// What `statfs` tells.
    ///
    /// # Errors
    /// The disk failed.
    pub fn statistics(&self) -> Result<Statistics> {
        let (total_bytes, free_bytes, available_bytes) = match &self.inner.directory {
            Some(directory) => disk(directory)?,
            None => (1 << 40, 1 << 39, 1 << 39),
        };
        let nodes = self.inner.core.lock().node_count();
        Ok(Statistics { total_bytes, free_bytes, available_bytes, nodes, block_size: 4096 })
    }

    /// The kernel knows of an inode. Rows outlive that, so there is nothing to count.
    pub fn remember(&self, _ino: Ino) {}

    /// The kernel forgot an inode.
    pub fn forget(&self, _ino: Ino, _lookups: u64) {}

    /// Puts blocks first in line and waits for them. Tells whether they all came.
    pub fn await_blocks(&self, hashes: &[BlockHash], timeout: Duration) -> bool {
        let clock = self.inner.clock.clone();
        self.inner.fetch.wait(hashes, timeout, || clock.monotonic(), || self.wake_sessions())
    }

    // ---- life

    pub(crate) fn wake_committer(&self) {
        let mut work = self.inner.committer.lock();
        if !*work {
            *work = true;
            self.inner.committer_wake.notify_one();
        }
    }

    /// Cuts commits, syncs them and wakes replication; publishes files that stay open. Runs until
    /// [`Self::shutdown`]; sleeps without waking while there is nothing to do.
    pub fn run_committer(&self) {
        let now = || self.inner.clock.monotonic();
        let mut publish_due: Option<Duration> = None;
        let closed = || self.inner.closed.load(Ordering::Acquire);
        while !closed() {
            {
                let mut work = self.inner.committer.lock();
                while !*work && !closed() {
                    match publish_due.map(|due| due.saturating_sub(now())) {
                        Some(Duration::ZERO) => break,
                        Some(left) => {
                            self.inner.committer_wake.wait_for(&mut work, left);
                        }
                        None => self.inner.committer_wake.wait(&mut work),
                    }
                }
            }
            // Calls that come while this one gathers wake nobody.
            let since = self.inner.core.lock().pending.as_ref().map(|p| p.since);
            if let Some(due) = since.map(|since| since + CUT_AFTER) {
                let mut work = self.inner.committer.lock();
                while now() < due && !closed() {
                    self.inner.committer_wake.wait_for(&mut work, due.saturating_sub(now()));
                }
            }
            *self.inner.committer.lock() = false;
            publish_due = self.work();
        }
    }

    /// One round of [`Self::run_committer`], for whoever has a scheduler instead of a thread: publishes files that
    /// have stayed open long enough, then cuts, syncs and announces what is pending. Tells when to call it again,
    /// on the monotonic clock, should nothing else happen.
    pub fn work(&self) -> Option<Duration> {
        let due = self.publish_old(PUBLISH_AFTER);
        // What came from peers closes the pending commit, and may leave it to be synced and announced.
        let result = if self.has_unsent() { self.send_pending() } else { Ok(()) };
        let Err(e) = result else {
            // When everybody has been answered and told. New calls come before the rest of a long way.
            let more = self.archive_some() | self.align_some() | self.yield_some();
            return if more { Some(self.inner.clock.monotonic()) } else { due };
        };
        log::error!("the pending commit could not be stored: {e}");
        // Tried again in a second, or with the next call.
        let again = self.inner.clock.monotonic() + Duration::from_secs(1);
        Some(due.map_or(again, |due| due.min(again)))
    }

    /// Cuts the pending commit, syncs it and lets replication have it; the committer archives it.
    pub(crate) fn commit_pending(&self) -> Result<()> {
        self.send_pending()?;
        if self.archive_is_behind() {
            self.wake_committer();
        }
        Ok(())
    }

    fn send_pending(&self) -> Result<()> {
        let arrival = {
            let mut core = self.inner.core.lock();
            core.cut()?;
            core.next_arrival - 1
        };
        self.sync_store()?;
        self.inner.synced_arrival.fetch_max(arrival, Ordering::AcqRel);
        self.wake_sessions();
        Ok(())
    }

    /// Publishes what was written, cuts, syncs and announces now instead of soon.
    ///
    /// # Errors
    /// The disk failed or is full.
    pub fn commit_now(&self) -> Result<()> {
        self.publish_old(Duration::ZERO);
        self.commit_pending()
    }

    /// [`Self::commit_now`] if there is anything that replication can't have yet.
    pub(crate) fn commit_unsent(&self) -> Result<()> {
        if self.has_unsent() || !self.inner.dirty_files.lock().is_empty() { self.commit_now() } else { Ok(()) }
    }

    /// Whether there are changes or commits that replication can't have yet.
    fn has_unsent(&self) -> bool {
        let core = self.inner.core.lock();
        core.pending.is_some() || core.next_arrival - 1 > self.inner.synced_arrival.load(Ordering::Acquire)
    }

    /// Makes all that was answered so far survive power loss.
    pub(crate) fn sync_store(&self) -> Result<()> {
        self.inner.sync_gate.sync(|| {
            self.sync_blocks()?;
            self.inner.store.sync()
        })
    }

    /// Makes all blocks survive power loss, and what was published with them follow with the store's next sync.
    pub(crate) fn sync_blocks(&self) -> Result<()> {
        let undo = self.inner.undo.end();
        self.inner.blocks.sync()?;
        if let Some(end) = undo {
            // No batch in between: the rows that follow must stay without a gap.
            let core = self.inner.core.lock();
            core.undo.forget(&core.store, end)?;
        }
        Ok(())
    }

    /// `fsyncdir`, `syncfs`.
    ///
    /// # Errors
    /// The disk failed.
    pub fn sync_all(&self) -> Result<()> {
        self.sync_store()
    }

    /// Publishes, cuts and syncs everything; later changes are refused.
    ///
    /// # Errors
    /// What could not be stored; calling again tries again.
    pub fn shutdown(&self) -> Result<()> {
        let result = if self.inner.closed.load(Ordering::Acquire) { Ok(()) } else { self.commit_now() };
        self.archive_all();
        self.inner.closed.store(true, Ordering::Release);
        if result.is_ok() {
            self.renew_anchor();
            self.inner.store.raw().rest();
        }
        let _work = self.inner.committer.lock();
        self.inner.committer_wake.notify_all();
        result
    }

    /// A backup made while it was open, and put back over what is here, is then told apart by this file too.
    fn renew_anchor(&self) {
        let Some(directory) = &self.inner.directory else { return };
        let entropy = self.inner.core.lock().entropy.clone();
        if let Err(e) = anchor::renew(directory, &self.inner.store, &*entropy) {
            log::warn!("the store's anchor stays as it is: {e}");
        }
    }

    /// Since when this store is known to be an older copy of what this device had, and the devices that have not been met
    /// since: they may know what is missing here. `None` when it never was one.
    pub fn restored(&self) -> Option<(Timestamp, Vec<DeviceId>)> {
        let core = self.inner.core.lock();
        let restored = core.restored.as_ref()?;
        let me = core.device.id();
        let unmet = core.members.devices.values().filter(|row| !row.removed).map(|row| &row.public.id);
        let unmet = unmet.filter(|id| **id != me && !restored.met.contains(*id));
        Some((restored.noticed, unmet.copied().collect()))
    }

    // ---- members

    /// The users of the volume.
    pub fn members(&self) -> Vec<Member> {
        let core = self.inner.core.lock();
        core.members.list(&core.user.id())
    }

    /// The devices of the volume.
    pub fn devices(&self) -> Vec<DeviceInfo> {
        let core = self.inner.core.lock();
        let me = core.device.id();
        let restored = core.restorations().unwrap_or_else(|e| {
            log::error!("looking for logs that go on from older copies: {e}");
            BTreeMap::new()
        });
        let commits = |id: &DeviceId| core.branches_by(id).map(|no| core.branch(no).tip).sum();
        core.members
            .devices
            .iter()
            .filter(|(id, _)| core.members.user_of(id).is_some())
            .map(|(id, row)| DeviceInfo {
                id: *id,
                user: row.user,
                name: core.members.shown_name(&row.user),
                me: *id == me,
                commits: commits(id),
                admitted: row.admitted,
                restored: restored.get(id).copied(),
            })
            .collect()
    }

    /// Whether a device belongs to the volume.
    pub fn is_member(&self, device: &DeviceId) -> bool {
        self.inner.core.lock().members.user_of(device).is_some()
    }

    /// Whether a device belonged to the volume and was removed.
    pub fn is_removed(&self, device: &DeviceId) -> bool {
        let core = self.inner.core.lock();
        core.members.devices.contains_key(device) && core.members.user_of(device).is_none()
    }

    /// What this device's user is; `None` before the first sync, and once they or this device were removed.
    pub fn own_role(&self) -> Option<Role> {
        let core = self.inner.core.lock();
        core.members.role_of(&core.device.id())
    }

    /// Whether this device's user may invite and admit.
    pub fn may_admit(&self) -> bool {
        let core = self.inner.core.lock();
        core.members.role_of(&core.device.id()).is_some_and(Role::may_admit)
    }

    /// The secret that members (and keepers) of the current epoch share to find and know each other.
    ///
    /// # Errors
    /// [`Error::Refused`] before the first sync.
    pub fn discovery_key(&self) -> Result<SymmetricKey> {
        let key = self.discovery_keys().into_iter().next();
        key.ok_or_else(Error::not_synced)
    }

    /// The same of all epochs known, the present one first: who was away when somebody was removed has an earlier one.
    pub fn discovery_keys(&self) -> Vec<SymmetricKey> {
        let core = self.inner.core.lock();
        let (late, others): (Vec<_>, Vec<_>) =
            core.members.epochs.iter().rev().partition(|row| core.late.contains(&row.at.dot));
        let watches = &core.members.watches;
        let given = |epoch: &EpochId| watches.get(epoch).and_then(|watch| watch.key.clone());
        let of_epochs = others.into_iter().chain(late).filter_map(|row| match &row.key {
            Some(key) => Some(key.derive(Label::DiscoveryKey)),
            None => given(&row.id),
        });
        // A keeper is given some before the epochs' commits come.
        let known = |epoch: &EpochId| core.members.epochs.iter().any(|row| row.id == *epoch);
        let unknown = watches.keys().filter(|epoch| !known(epoch)).filter_map(given);
        of_epochs.chain(unknown).collect()
    }

    /// Invites someone.
    ///
    /// # Errors
    /// [`Error::Refused`] when this user may not.
    pub fn invite(&self, role: Role, expires: Duration) -> Result<TicketSecret> {
        if !self.may_admit() {
            return Err(Error::Refused("only the owner and admins invite".to_owned()));
        }
        if role == Role::Owner {
            return Err(Error::Refused("nobody can be invited as owner".to_owned()));
        }
        let secret = TicketSecret::from_seed(random_array(&*self.inner.core.lock().entropy));
        let until = self.inner.clock.now().plus(expires);
        let kind = ChangeKind::Invite { ticket: secret.public(), role, expires: until };
        self.local(&[], |core| core.emit::<MemberBody>(kind, &[], None))?;
        self.commit_pending()?;
        Ok(secret)
    }

    /// The tickets that were used and would not have expired yet, at most `most`, those that expire last first. Whoever
    /// used one may come again, when the answer was lost.
    pub fn used_tickets(&self, most: usize) -> Vec<PublicKey> {
        let now = self.inner.clock.now();
        let core = self.inner.core.lock();
        let withdrawn = |ticket| core.members.withdrawn.get(ticket).is_some_and(|row| row.for_users());
        let used = core.members.invites.values().filter(|i| i.used && i.expires > now && !withdrawn(&i.ticket));
        let mut used: Vec<_> = used.collect();
        used.sort_by_key(|i| std::cmp::Reverse(i.expires));
        used.into_iter().take(most).map(|i| i.ticket).collect()
    }

    /// Admits the bearer of a ticket; `exporter` is the connection's.
    ///
    /// # Errors
    /// [`Error::Refused`] with the reason, for the joiner to read.
    pub fn admit(&self, request: &JoinRequest, exporter: &[u8]) -> Result<JoinGrant> {
        let refuse = |why: &str| Err(Error::Refused(why.to_owned()));
        if !self.may_admit() {
            return refuse("this device may not admit anybody");
        }
        request.verify(exporter).map_err(Error::Refused)?;
        let grant = self.local(&[], |core| {
            let Some(invite) = core.members.invites.get(&request.ticket).cloned() else {
                return refuse("this ticket is not known: it may have been made for another volume");
            };
            if core.withdrawn(&request.ticket).is_some_and(|row| row.for_users()) {
                return refuse("this ticket was withdrawn: ask for a new one");
            }
            let user = request.user.id();
            let again = core.members.devices.get(&request.device.id).is_some_and(|d| d.user == user);
            if again && core.members.user_of(&request.device.id).is_none() {
                return refuse("this device was removed from the volume");
            }
            if core.members.devices.contains_key(&request.device.id) && !again {
                return refuse("this device is another user's");
            }
            if invite.used && !again {
                return refuse("this ticket has been used: ask for a new one");
            }
            if !again && invite.expires <= core.now() {
                return refuse("this ticket has expired: ask for a new one");
            }
            if !again && core.members.users.values().any(|u| u.name == request.name && !u.removed) {
                return Err(Error::Refused(format!("the name `{}` is taken: choose another", request.name)));
            }
            let role = match core.members.users.get(&user) {
                Some(row) if again => row.role,
                _ => invite.role,
            };
            let sealed = match role {
                Role::Keeper => core.all_discovery_for(&request.user),
                _ => core.all_epochs_for(&[Recipient::user(&request.user)]),
            };
            if sealed.is_empty() {
                return refuse("nothing can be sealed to the key that asks");
            }
            let volume = core.volume;
            if !again {
                let key = core.members.current_epoch().map(|(_, key)| key.derive(Label::BodyKey));
                let key = key.ok_or_else(|| Error::Refused("this device has no key of the volume".to_owned()))?;
                let kind = ChangeKind::Grant {
                    ticket: request.ticket,
                    role: invite.role,
                    user: request.user,
                    device: request.device,
                    certificate: request.certificate,
                    // A head holds no more. These carry the keys of all that were before them.
                    sealed: sealed.iter().take(KEYS_PER_CHANGE).cloned().collect(),
                    user_key: request.user_key.clone(),
                };
                core.emit(kind, &[], Some((&key, &MemberBody { name: request.name.clone() })))?;
            }
            Ok(JoinGrant { volume, keys: sealed })
        })?;
        self.commit_pending()?;
        Ok(grant)
    }

    /// Takes the keys of a grant, so that the first sync can read what it brings.
    ///
    /// # Errors
    /// The grant isn't for this device's user, or the disk failed.
    pub fn accept(&self, grant: &JoinGrant) -> Result<()> {
        self.inner.core.lock().accept_keys(&grant.keys)
    }

    /// Figures for people.
    pub fn status(&self) -> Status {
        let (wanted_blocks, _) = self.inner.fetch.missing();
        let disk_full = matches!(self.check_space(0), Err(Error::NoSpace));
        let core = self.inner.core.lock();
        let waiting_commits = self.inner.waiting.lock().len() as u64;
        let keeper = core.members.role_of(&core.device.id()) == Some(Role::Keeper);
        drop(core);
        let quota = self.inner.quota.most();
        let used_bytes = self.inner.quota.used().filter(|_| keeper || quota.is_some());
        let quota_reached = self.is_over_quota();
        let core = self.inner.core.lock();
        Status {
            waiting_commits,
            commits: core.next_arrival - 1,
            pending_changes: core.pending.as_ref().map_or(0, |p| p.changes.len() as u64),
            wanted_blocks,
            wanted_bytes: wanted_blocks * crypto::BLOCK_SIZE as u64,
            conflicts: core.conflict_count(),
            nodes: core.node_count(),
            branches: core.branches.len() as u64,
            disk_full,
            quota,
            used_bytes,
            quota_reached,
        }
    }
}

impl Core {
    /// Takes epoch keys that are sealed to this device's user.
    ///
    /// # Errors
    /// One of them doesn't open, or the disk failed.
    pub(crate) fn accept_keys(&mut self, keys: &[SealedKey]) -> Result<()> {
        for sealed in keys.iter().filter(|key| self.is_for_me(key)).collect::<Vec<_>>() {
            if let Some(key) = self.unseal_discovery(sealed) {
                self.accept_discovery(sealed.epoch, key);
                continue;
            }
            let Some(key) = self.unseal(sealed) else {
                return Err(Error::Refused("the grant does not open with this device's keys".to_owned()));
            };
            let at = ValueRef { dot: Dot { branch: BranchNo(0), seq: 0 }, index: 0 };
            self.overlay.members.push(MemberRow::Epoch(EpochRow {
                id: sealed.epoch,
                at,
                count: 0,
                key: Some(key.into()),
                // As long as nothing else is said.
                realm: crate::id::RealmId::MEMBERS,
                by: None,
                given: Vec::new(),
            }));
        }
        self.reveal_learned()?;
        self.settle(Batch::new())
    }

    /// The changes of a genesis commit: owner, first epoch, name, root directory.
    fn emit_genesis(&mut self, name: &str) -> Result<()> {
        let (user, device) = (self.user.public(), self.device.public());
        let certificate = certify(&self.user, &device).map_err(Error::Refused)?;
        let user_key = seal_user_key(&self.user, &device.box_key, &*self.entropy).map_err(Error::Refused)?;
        self.emit::<MemberBody>(ChangeKind::Genesis { user, device, certificate, user_key }, &[], None)?;
        let key = SymmetricKey::generate(&*self.entropy);
        let epoch = epoch_id(&key);
        let sealed = self.seal_epoch(&epoch, &key, &[Recipient::user(&user)]);
        let kind = ChangeKind::Epoch {
            realm: crate::id::RealmId::MEMBERS,
            epoch,
            previous: None,
            sealed,
            carried: Vec::new(),
        };
        self.emit::<MemberBody>(kind, &[], None)?;
        let body = MemberBody { name: name.to_owned() };
        self.emit(ChangeKind::Name {}, &[], Some((&key.derive(Label::BodyKey, b""), &body)))?;
        // What one member makes the others may change, as people expect of a shared folder.
        let default_acl = Acl::of_mode(0o775).encode();
        let access = AccessBody { time: self.now(), mode: 0o775, uid: 0, gid: 0, acl: Vec::new(), default_acl };
        let rights = Rights::members(self.my_id);
        self.bear(NodeKind::Directory, BirthBody { access, rdev: 0, target: Vec::new() }, &rights)?;
        Ok(())
    }
}
