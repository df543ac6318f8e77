//! The replica's state behind one lock: the store, the logs, the pending commit, the caches.
//!
//! A change of state goes through an *overlay*: rows read and written by a call, kept apart until
//! the call succeeded as a whole, then applied as one batch; a call that fails leaves nothing.
//! Local calls and remote commits change the merged state through the same code ([`crate::apply`]).
//!
//! Invariants: what the caches hold is what the store holds; the pending commit's changes are in
//! the store (under the number the commit will have) before the call that made them returns; own
//! commits are synced before they are sent.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet, VecDeque},
    num::NonZeroUsize,
    sync::{Arc, atomic::AtomicU64},
};

use crypto::{DerivingKey, DeviceKeys, Entropy, Hash, Label, SymmetricKey, TagKey, UserKeys, VolumeId, random_array};
use lru::LruCache;
use serde::{Deserialize, Serialize};

use crate::{
    BlockHash, BlockStore, Changed,
    agreed::{self, AgreedRow},
    ahead,
    commit::{
        self, ChangeKind, ClaimedCommit, FORMAT_VERSION, Head, Header, MAX_CHANGES, MAX_COMMIT_BYTES, MAX_HEADER,
        RawChange, encode, encode_into,
    },
    error::{Error, Result},
    history::{self, Moments, Past},
    holders::Complete,
    id::{Birthplace, CommitHash, NodeId, ValueId},
    keeper::trees_with,
    late::{FirstPlaces, Late},
    member::{MemberRow, Members},
    node::Ino,
    record,
    rekey::Sealing,
    row::{Entry, Link, Node, NodeRow, Xattr},
    sealed_store::SealedStore,
    set_back::Knowing,
    snapshots::Snapshot,
    spilled::{ItemCache, Items},
    standing::Verdicts,
    store::{Batch, Space, prefix_end},
    time::{Clock, Timestamp},
    tree::next_tag,
    undo::Undo,
    version::{Branch, BranchNo, Dot, ValueRef, VersionVector},
};

const NODE_CACHE: usize = 12_000;
const ENTRY_CACHE: usize = 24_000;
/// Links with rows of their own.
const LINK_CACHE: usize = 4096;
/// Attributes with rows of their own, each up to 64 KiB.
const XATTR_CACHE: usize = 128;
/// Entries of a directory that are read ahead at once.
const READ_AHEAD: usize = 128;
/// Directories in which somebody looked something up lately that was not in memory: a second time in one of them is taken for
/// a walk. With many more, who asks here and there in a large tree would have all of it read.
const AHEAD_CACHE: usize = 16;
/// Directories read ahead as a whole.
const LISTED_CACHE: usize = 256;
const VECTOR_CACHE: usize = 256;
/// Directories that are gone and were looked into.
const FILLED_CACHE: usize = 1024;
const COMMIT_CACHE: usize = 4096;
/// Inode numbers that are set aside at once.
const INOS_AHEAD: u64 = 256;
/// Bytes of commits that wait in memory for the archive.
const FRESH_BYTES: usize = 4 << 20;
/// Room for most rows.
const ROW_BYTES: usize = 1000;
/// Of more logs than these the newest commits are joined before a local call, so that its commit can name all it has seen.
const MAX_FRONTIER: usize = 1024;
/// A version vector is read from so many rows at most: one has all of it, the others what changed.
const VECTOR_ROWS: u64 = 64;

/// A commit as stored: what was signed, and what this device derived.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct CommitRow {
    #[serde(with = "serde_bytes")]
    pub header: Vec<u8>,
    pub signature: crypto::Signature,
    pub hash: CommitHash,
    pub count: u64,
    /// Position in the order in which commits arrived here, which is a causal one.
    pub arrival: u64,
    /// Known, but its author had no right: changes nothing.
    pub void: bool,
    /// What its version vector has that the one it is told beside hasn't; all of it where there is none, and every so often.
    pub vector: Vec<Dot>,
    pub vector_whole: bool,
    /// Since when it shows here: no earlier than those that arrived before it. The least time in a row from before there
    /// was history.
    #[serde(default)]
    pub shown: Timestamp,
    /// Beside which commit's the version vector is told; nothing for the predecessor's on the branch.
    #[serde(default)]
    pub beside: Option<Dot>,
    /// How many other rows its version vector is read from. Rows of earlier versions say none.
    #[serde(default)]
    pub beyond: u64,
}

/// The essentials of a commit, cached.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CommitInfo {
    pub hash: CommitHash,
    pub count: u64,
    pub void: bool,
    /// As its row has it.
    pub beyond: u64,
}

/// The commit that local calls collect in.
pub(crate) struct Pending {
    /// Hashes of heads and bodies so far are over these; kept raw for the header's root.
    pub changes: Vec<Arc<RawChange>>,
    pub bytes: usize,
    pub calls: u32,
    /// When the first change came, on the monotonic clock.
    pub since: std::time::Duration,
}

/// A commit as it was signed, at hand until it is in the archive.
pub(crate) struct Fresh {
    pub arrival: u64,
    header: Vec<u8>,
    signature: crypto::Signature,
    changes: FreshChanges,
}

/// The changes of a commit of this device, or of one that came.
enum FreshChanges {
    Own(Vec<Arc<RawChange>>),
    Came(Arc<Vec<RawChange>>),
}

impl Fresh {
    fn bytes(&self) -> usize {
        let changes: usize = match &self.changes {
            FreshChanges::Own(changes) => changes.iter().map(|change| change.size()).sum(),
            FreshChanges::Came(changes) => changes.iter().map(RawChange::size).sum(),
        };
        self.header.len() + changes
    }

    /// As the [`ClaimedCommit`] that the store would give is encoded.
    pub(crate) fn encoded(&self) -> Vec<u8> {
        let header = serde_bytes::Bytes::new(&self.header);
        let count = match &self.changes {
            FreshChanges::Own(changes) => changes.len(),
            FreshChanges::Came(changes) => changes.len(),
        };
        let mut bytes = Vec::with_capacity(self.bytes() + 16 * count + 128);
        match &self.changes {
            FreshChanges::Own(changes) => encode_into(&mut bytes, &(header, &self.signature, changes)),
            FreshChanges::Came(changes) => encode_into(&mut bytes, &(header, &self.signature, &**changes)),
        }
        bytes
    }
}

/// Commits that the archive may not have yet, the oldest first.
#[derive(Default)]
struct FreshCommits {
    commits: VecDeque<Fresh>,
    bytes: usize,
}

impl FreshCommits {
    fn keep(&mut self, commit: Fresh) {
        self.bytes += commit.bytes();
        self.commits.push_back(commit);
        // What doesn't fit is read back from the store.
        while self.bytes > FRESH_BYTES && self.take().is_some() {}
    }

    fn take(&mut self) -> Option<Fresh> {
        let oldest = self.commits.pop_front()?;
        self.bytes -= oldest.bytes();
        Some(oldest)
    }
}

/// Rows that a call has read and changed.
#[derive(Default)]
pub(crate) struct Overlay {
    pub nodes: BTreeMap<Ino, Option<Arc<NodeRow>>>,
    pub entries: BTreeMap<(Ino, [u8; 16]), Arc<Entry>>,
    /// Links and attributes with rows of their own.
    pub links: Items<Link>,
    pub xattrs: Items<Xattr>,
    /// Put into the batch as they are.
    pub batch: Batch,
    pub ids: BTreeMap<IdKey, Option<Ino>>,
    pub members: Vec<MemberRow>,
    /// Under what was sealed before the call looked at that.
    pub sealing: Option<Sealing>,
    /// Rows of settings and snapshots ([`crate::agreed`]), by their keys.
    pub agreed: BTreeMap<Vec<u8>, Option<AgreedRow>>,
    pub changed: Vec<Changed>,
    /// Contents that came from elsewhere and must be fetched.
    pub wanted: Vec<(ValueRef, crate::content::BlockHash, u64)>,
    pub next_ino: Option<u64>,
    pub pending: Vec<Arc<RawChange>>,
    /// The commit being taken in, before it is stored, and its changes.
    pub entering: Option<(Dot, CommitRow)>,
    pub arriving: Option<(Dot, Arc<Vec<RawChange>>)>,
    pub nodes_made: u64,
    /// Those of them whose births the pending commit will hold, and whether it is closed.
    pub open_births: u64,
    pub closes: bool,
    /// The key of the node whose birth is applied next, made here.
    pub bearing: Option<DerivingKey>,
    /// A content of blocks is published.
    pub publishes: bool,
    /// By how much the number of names changed beside which something shows.
    pub conflicts: i64,
    /// Directories in a would-be cycle, when the set changed.
    pub cyclic: Option<BTreeSet<Ino>>,
    /// Removed directories that are being looked at, and whether they must be again.
    pub rechecking: BTreeMap<Ino, bool>,
    /// While it is worked out where directories hang: those whose places changed by that.
    pub rehanging: Option<BTreeSet<Ino>>,
}

/// The state of the log and the counters, as stored.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Counters {
    /// As stored: no number from this on was given out.
    next_ino: u64,
    /// As stored: without those whose births are in the pending commit, which are counted when that is found again.
    nodes: u64,
    /// Names beside which something shows ([`crate::conflicts`]).
    conflicts: i64,
    my_log: u64,
    cyclic: BTreeSet<Ino>,
}

/// That the store was found to be an older copy of what this device had.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Restored {
    /// When, by this device's clock.
    pub noticed: Timestamp,
    /// The devices with which this one has known the same since: nothing that they knew is missing here.
    pub met: BTreeSet<crypto::DeviceId>,
}

/// See the module.
pub(crate) struct Core {
    pub store: SealedStore,
    blocks: Arc<dyn BlockStore>,
    /// What takes back batches whose contents need blocks that aren't synced.
    pub undo: Arc<Undo>,
    pub entropy: Arc<dyn Entropy>,
    pub clock: Arc<dyn Clock>,
    pub volume: VolumeId,
    pub device: DeviceKeys,
    pub user: UserKeys,
    /// This device's user.
    pub my_id: crypto::UserId,
    /// On a user's own mount, the number that their account has on this machine: there modes and ACLs decide which members
    /// may what. Elsewhere they are for this machine's accounts.
    pub local_uid: Option<u32>,
    /// How often a node got another key: whoever has a file open then looks which one seals.
    pub rekeyed: Arc<AtomicU64>,
    /// The access values of late commits, by node, when they were looked for.
    pub(crate) late_access: Option<std::collections::BTreeMap<NodeId, Vec<ValueRef>>>,
    /// There may be directories below which nodes are to be brought in line ([`crate::align`]).
    pub has_unaligned: bool,
    /// Where it is recorded what peers do.
    pub audit: std::sync::OnceLock<Arc<crate::audit::Audit>>,
    /// This device, as it is told there.
    pub own_device: Arc<str>,
    /// What this device sealed anew, as far as others may not have seen it.
    pub renewals: crate::reseal::Renewals,
    pub members: Members,
    /// Whom stored changes let in as users, of those that were asked about.
    pub(crate) admissions: RefCell<BTreeMap<ValueRef, Option<(crypto::UserId, crate::member::Role)>>>,
    /// Which values of what somebody is count, as far as that was asked for.
    pub(crate) verdicts: Verdicts,
    /// The commits that are cut by a removal which neither knew of the other.
    pub(crate) late: Late,
    /// Changes that a right taken away cuts in the same way, one by one.
    pub(crate) late_values: BTreeSet<ValueRef>,
    /// The first places of what one commit bears, as last looked at.
    pub(crate) first_places: Option<(Dot, FirstPlaces)>,
    /// An access value was cut: what it had cut may count again.
    pub(crate) rights_turned: bool,
    /// The disk failed before all was stored that a commit cuts.
    pub(crate) has_unjudged: bool,
    /// The commit that is taken in, once it is stored.
    pub(crate) taking_in: Option<Dot>,
    /// Under what is sealed what is made here.
    pub(crate) sealing: Sealing,
    /// The snapshots as listed, when they were asked for.
    pub(crate) snapshots: Option<Arc<Vec<Snapshot>>>,
    pub branches: Vec<Branch>,
    /// The newest commits of all branches.
    tip_hashes: BTreeSet<CommitHash>,
    /// A hash over these, and at which arrival it was made.
    digest: Cell<Option<(u64, Hash)>>,
    /// Branches of a (device, log).
    by_log: BTreeMap<(crypto::DeviceId, u64), Vec<BranchNo>>,
    /// Commits that no other known commit has seen.
    pub frontier: BTreeSet<Dot>,
    /// For each file that is being written here, the values its branch has seen: it shows that
    /// branch, whatever ranks above it.
    pub own: BTreeMap<Ino, Vec<ValueRef>>,
    pub me: BranchNo,
    pub pending: Option<Pending>,
    pub next_arrival: u64,
    /// Since when the commit shows that arrived last.
    pub(crate) last_shown: Timestamp,
    /// When the clock was set back, as the store has it ([`crate::history`]).
    pub(crate) set_back: Vec<(u64, Timestamp)>,
    /// Since when the commit showed that is taken in, when a store is built anew.
    pub(crate) showed: Option<Timestamp>,
    pub overlay: Overlay,
    /// Nothing without an archive.
    fresh: Option<FreshCommits>,
    counters: Counters,
    /// The last time the store was found to be an older copy.
    pub(crate) restored: Option<Restored>,
    /// Who has said to have all contents.
    pub(crate) complete: Complete,
    /// What devices knew.
    pub(crate) knowing: Knowing,
    /// As they are stored.
    stored_counters: Counters,
    /// Nodes whose births are in the pending commit.
    open_births: u64,
    name_key: TagKey,
    /// Of the last names: a call asks for each of its names many times.
    tags: RefCell<[(Vec<u8>, [u8; 16]); 2]>,
    pub paths: crate::paths::Paths,
    pub(crate) nodes: LruCache<Ino, Option<Arc<NodeRow>>>,
    pub(crate) entries: LruCache<(Ino, [u8; 16]), Arc<Entry>>,
    /// Of nodes: ids never come to stand for another.
    inos: LruCache<NodeId, Ino>,
    pub links: ItemCache<Link>,
    pub xattrs: ItemCache<Xattr>,
    /// Where reading ahead in a directory goes on; nothing where all was read.
    ahead: LruCache<Ino, Option<[u8; 16]>>,
    /// Directories read ahead as a whole ([`crate::ahead`]): the tags of all their entries, in order.
    listed: LruCache<Ino, Arc<[[u8; 16]]>>,
    /// When the state can be read as it was.
    pub(crate) moments: Moments,
    /// While it is looked for blocks that nobody needs: the contents, by root and number of blocks, of rows that were put
    /// or replaced since that was last asked for.
    pub(crate) touched: Option<Vec<(crate::content::BlockHash, u64)>>,
    /// Of directories that went with some commit, when something was last put into them ([`crate::deleted`]).
    pub(crate) filled: LruCache<(Ino, u64), u64>,
    /// The state is looked at as it was then.
    pub(crate) past: Option<Past>,
    /// How many batches were begun so far. What was read beside the lock at another count may be out of date.
    settles: u64,
    vectors: LruCache<Dot, Arc<VersionVector>>,
    commits: LruCache<Dot, CommitInfo>,
    /// When free space was last looked at, and whether there was enough.
    pub space: crate::space::SpaceGuard,
    /// What the last settled call or commit changed, for the kernel's caches.
    pub settled: Vec<Changed>,
    /// A local call may have put a content on the list of what to fetch.
    pub wants_more: bool,
}

const COUNTERS: &[u8] = b"counters";
/// That the store was found to be an older copy.
const RESTORED: &[u8] = b"restored";
/// The bit that is set in the number of a log that was begun for that.
pub(crate) const RESTORED_LOG: u64 = 1 << 63;
pub(crate) const VOLUME: &[u8] = b"volume";
pub(crate) const BRANCH_PREFIX: &[u8] = b"branch/";

pub(crate) type EntriesByTag = BTreeMap<[u8; 16], Arc<Entry>>;

/// Key of a node's id.
pub(crate) type IdKey = [u8; 17];

pub(crate) fn entry_key(directory: Ino, tag: &[u8; 16]) -> [u8; 24] {
    let mut key = [0; 24];
    key[..8].copy_from_slice(&directory.0.to_be_bytes());
    key[8..].copy_from_slice(tag);
    key
}

pub(crate) fn node_id_key(id: &NodeId) -> IdKey {
    let mut key = [b'n'; 17];
    key[1..].copy_from_slice(id.as_bytes());
    key
}

pub(crate) fn decode_row<T: serde::de::DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T> {
    record::read(bytes).map_err(|_| Error::damaged(what))
}

fn capacity(n: usize) -> NonZeroUsize {
    NonZeroUsize::new(n).unwrap_or(NonZeroUsize::MIN)
}

/// Whether to put this drives nothing else out.
fn has_room<K: std::hash::Hash + Eq, V>(cache: &LruCache<K, V>, key: &K) -> bool {
    cache.len() < cache.cap().get() || cache.contains(key)
}

impl Core {
    /// Loads the state of `volume` from its store; an empty store is a volume not yet synced.
    pub(crate) fn load(parts: crate::Parts, volume: VolumeId) -> Result<Self> {
        let store = SealedStore::new(parts.store, &parts.secret, parts.entropy.clone());
        match store.get(Space::Meta, VOLUME)? {
            Some(id) if id == volume.as_bytes() => {}
            Some(_) => return Err(Error::damaged("the store belongs to another volume")),
            None => {
                let mut batch = Batch::new();
                store.put(&mut batch, Space::Meta, VOLUME, volume.as_bytes());
                store.apply(batch)?;
            }
        }
        crate::undo::recover(&store, &*parts.blocks)?;
        let counters = match store.get(Space::Meta, COUNTERS)? {
            Some(bytes) => decode_row("counters", &bytes)?,
            None => Counters { next_ino: Ino::ROOT.0 + 1, ..Counters::default() },
        };
        let own_device = parts.device.id().to_string().into();
        let mut core = Core {
            name_key: TagKey::new(&parts.secret.derive(Label::StoreName, b""), Label::StoreName),
            store,
            blocks: parts.blocks,
            undo: Arc::default(),
            entropy: parts.entropy,
            clock: parts.clock,
            volume,
            device: parts.device,
            my_id: parts.user.id(),
            local_uid: None,
            rekeyed: Arc::default(),
            late_access: None,
            admissions: RefCell::default(),
            has_unaligned: false,
            audit: std::sync::OnceLock::new(),
            own_device,
            renewals: crate::reseal::Renewals::default(),
            user: parts.user,
            members: Members::default(),
            verdicts: Verdicts::new(),
            late: Late::new(),
            late_values: BTreeSet::new(),
            first_places: None,
            rights_turned: false,
            has_unjudged: false,
            taking_in: None,
            sealing: Sealing::default(),
            snapshots: None,
            branches: Vec::new(),
            tip_hashes: BTreeSet::new(),
            digest: Cell::default(),
            by_log: BTreeMap::new(),
            frontier: BTreeSet::new(),
            own: BTreeMap::new(),
            me: BranchNo(0),
            pending: None,
            next_arrival: 1,
            last_shown: Timestamp::default(),
            set_back: Vec::new(),
            showed: None,
            overlay: Overlay::default(),
            fresh: parts.archive.map(|_| FreshCommits::default()),
            stored_counters: counters.clone(),
            counters,
            restored: None,
            complete: Complete::default(),
            knowing: Knowing::default(),
            open_births: 0,
            paths: crate::paths::Paths::default(),
            nodes: LruCache::new(capacity(NODE_CACHE)),
            entries: LruCache::new(capacity(ENTRY_CACHE)),
            inos: LruCache::new(capacity(NODE_CACHE)),
            tags: RefCell::default(),
            links: LruCache::new(capacity(LINK_CACHE)),
            xattrs: LruCache::new(capacity(XATTR_CACHE)),
            ahead: LruCache::new(capacity(AHEAD_CACHE)),
            listed: LruCache::new(capacity(LISTED_CACHE)),
            moments: Moments::default(),
            touched: None,
            filled: LruCache::new(capacity(FILLED_CACHE)),
            past: None,
            settles: 0,
            vectors: LruCache::new(capacity(VECTOR_CACHE)),
            commits: LruCache::new(capacity(COMMIT_CACHE)),
            space: crate::space::SpaceGuard::new(parts.directory),
            settled: Vec::new(),
            wants_more: false,
        };
        if let Some(bytes) = core.store.get(Space::Meta, RESTORED)? {
            core.restored = Some(decode_row("that the store was restored", &bytes)?);
        }
        core.load_complete()?;
        core.load_knowing()?;
        core.load_members()?;
        core.load_branches()?;
        core.load_beside()?;
        core.load_unaligned()?;
        core.load_renewals()?;
        core.load_pending()?;
        core.judge_anew()?;
        Ok(core)
    }

    fn load_members(&mut self) -> Result<()> {
        let mut from = Vec::new();
        loop {
            let rows = self.store.scan(Space::Members, &from, agreed::BEGIN, 1024)?;
            let Some((last, _)) = rows.last() else { return Ok(()) };
            from = [last.as_slice(), &[0]].concat();
            for (_, bytes) in rows {
                self.members.put(decode_row("membership record", &bytes)?);
            }
        }
    }

    fn load_branches(&mut self) -> Result<()> {
        let rows = self.store.scan(Space::Meta, BRANCH_PREFIX, &prefix_end(BRANCH_PREFIX), usize::MAX)?;
        let mut tips: Vec<(u64, Dot)> = Vec::with_capacity(rows.len());
        for (number, (key, bytes)) in rows.into_iter().enumerate() {
            let mut branch: Branch = decode_row("branch", &bytes)?;
            let no = BranchNo(u32::try_from(number).map_err(|_| Error::damaged("branches"))?);
            let prefix = no.0.to_be_bytes();
            // Numbers are names: with one missing, all commits after it would be another's.
            if key[BRANCH_PREFIX.len()..] != prefix {
                return Err(Error::damaged("a branch is missing"));
            }
            if let Some((key, sealed)) = self.store.raw().last(Space::Commits, &prefix, &prefix_end(&prefix))? {
                let row: CommitRow = decode_row("commit", &self.store.open(Space::Commits, &key, &sealed)?)?;
                let seq = Dot::from_key(&key).ok_or_else(|| Error::damaged("commit key"))?.seq;
                (branch.tip, branch.tip_hash) = (seq, row.hash);
                self.tip_hashes.insert(row.hash);
                tips.push((row.count, Dot { branch: no, seq }));
            }
            self.add_branch(branch);
        }
        if let Some((key, _)) = self.store.raw().last(Space::Commits, &[], &[])? {
            self.known_branch(Dot::from_key(&key).ok_or_else(|| Error::damaged("commit key"))?)?;
        }
        if let Some((key, _)) = self.store.raw().last(Space::Index, b"a", &prefix_end(b"a"))? {
            let bytes = key.get(1..9).and_then(|b| b.try_into().ok()).ok_or_else(|| Error::damaged("arrival key"))?;
            self.next_arrival = u64::from_be_bytes(bytes) + 1;
            if let Some(bytes) = self.store.get(Space::Meta, history::SET_BACK)? {
                self.set_back = decode_row("when the clock was set back", &bytes)?;
            }
            self.last_shown = self.shown_since(self.next_arrival - 1)?;
        }
        self.moments = match self.store.get(Space::Meta, Moments::KEY)? {
            Some(bytes) => decode_row("what is kept of history", &bytes)?,
            None => {
                // A store from before there was history keeps it from here on; a new one from the first commit.
                let from = self.next_arrival - 1;
                let moments = Moments { from, thinned_to: from, kept: Vec::new() };
                let mut batch = Batch::new();
                self.store.put(&mut batch, Space::Meta, Moments::KEY, &encode(&moments));
                self.store.apply(batch)?;
                moments
            }
        };
        self.me = self.own_branch()?;
        // The frontier: tips that no other tip's author had seen. Who had seen most comes first: what a tip has seen that
        // another has seen, that other has seen as well.
        tips.sort_unstable_by_key(|tip| std::cmp::Reverse(*tip));
        let mut seen = VersionVector::default();
        let mut maximal = BTreeSet::new();
        for (_, tip) in tips {
            if !seen.covers(tip) {
                seen.join(&*self.vector(tip)?);
                maximal.insert(tip);
            }
        }
        self.frontier = maximal;
        Ok(())
    }

    /// The newest commit of every branch that has one.
    pub(crate) fn tips(&self) -> impl Iterator<Item = Dot> + '_ {
        self.branches
            .iter()
            .enumerate()
            .filter(|(_, branch)| branch.tip > 0)
            .map(|(no, branch)| Dot { branch: BranchNo(no as u32), seq: branch.tip })
    }

    /// The branch this device wrote last: the first of its log. (Others, of what it signed before its store was
    /// restored from a copy, came later, and [`Self::leave_forked_log`] follows.)
    fn own_branch(&mut self) -> Result<BranchNo> {
        let (device, log) = (self.device.id(), self.counters.my_log);
        if let Some(&own) = self.branches_of(&device, log).first() {
            return Ok(own);
        }
        self.store_branch(Branch { device, log, forked_from: None, tip: 0, tip_hash: CommitHash::ZERO })
    }

    /// Begins a new log if this device finds its own forked (its store was once restored from a copy). To be called
    /// with nothing pending: that belongs to the log that is left.
    pub(crate) fn leave_forked_log(&mut self) -> Result<()> {
        let id = self.device.id();
        while self.branches_of(&id, self.counters.my_log).len() > 1 {
            self.leave_log("has forked")?;
        }
        Ok(())
    }

    /// Begins a new log, since this store is an older copy: numbers that follow in the old one may have been used, and
    /// others may know them. To be called with nothing pending, which belongs to the log that is left.
    ///
    /// The first commit of the new log has no changes. It is signed at once, so that others are told.
    pub(crate) fn leave_log(&mut self, why: &str) -> Result<()> {
        log::warn!(
            "this device's store is an older copy: its log {} {why}; going on under a new one",
            self.counters.my_log
        );
        self.abandon();
        let restored = Restored { noticed: self.now(), met: BTreeSet::new() };
        let mut batch = Batch::new();
        self.store.put(&mut batch, Space::Meta, RESTORED, &encode(&restored));
        self.store.apply(batch)?;
        self.restored = Some(restored);
        self.tell_own_restoration();
        self.counters.my_log = new_log_number(&*self.entropy) | RESTORED_LOG;
        self.save_counters()?;
        self.me = self.own_branch()?;
        self.join_frontier()?;
        if self.own_tip().seq == 0 && self.seen_own_admission()?.is_some() {
            let observed: Vec<Dot> = self.frontier.iter().copied().collect();
            self.sign(Vec::new(), &observed)?;
        }
        Ok(())
    }

    /// Leaves the log if the commit that comes is of it: then the store is an older copy.
    pub(crate) fn leave_log_of(&mut self, coming: &Header) -> Result<()> {
        if coming.device != self.device.id() || coming.log != self.counters.my_log {
            return Ok(());
        }
        self.leave_log("goes on elsewhere with commits that it lacks")
    }

    /// Since when each device goes on from an older copy of its store, by its own clock, as far as it has told so.
    pub(crate) fn restorations(&self) -> Result<BTreeMap<crypto::DeviceId, Timestamp>> {
        let mut found = BTreeMap::new();
        for (number, branch) in self.branches.iter().enumerate() {
            if branch.log & RESTORED_LOG == 0 || branch.tip == 0 || branch.forked_from.is_some() {
                continue;
            }
            let Some(row) = self.commit_row(Dot { branch: BranchNo(number as u32), seq: 1 })? else { continue };
            let written = self.written(&row)?;
            let time = found.entry(branch.device).or_insert(written);
            *time = written.max(*time);
        }
        Ok(found)
    }

    /// When a commit was made, by its author's clock.
    pub(crate) fn written(&self, row: &CommitRow) -> Result<Timestamp> {
        let header: Header = commit::decode("header", &row.header).map_err(|e| Error::damaged(e.to_string()))?;
        Ok(header.time)
    }

    /// Notes that a peer and this device know the same: what it knew of what this store lost is here.
    pub(crate) fn met(&mut self, peer: crypto::DeviceId) -> Result<()> {
        let Some(restored) = &mut self.restored else { return Ok(()) };
        if !restored.met.insert(peer) {
            return Ok(());
        }
        let row = encode(&*restored);
        let mut batch = Batch::new();
        self.store.put(&mut batch, Space::Meta, RESTORED, &row);
        self.store.apply(batch)
    }

    fn save_counters(&mut self) -> Result<()> {
        let mut batch = Batch::new();
        let counters = Counters { my_log: self.counters.my_log, ..self.stored_counters.clone() };
        self.store.put(&mut batch, Space::Meta, COUNTERS, &encode(&counters));
        self.store.apply(batch)?;
        self.stored_counters = counters;
        Ok(())
    }

    fn add_branch(&mut self, branch: Branch) -> BranchNo {
        let no = BranchNo(self.branches.len() as u32);
        self.by_log.entry((branch.device, branch.log)).or_default().push(no);
        self.branches.push(branch);
        no
    }

    /// Numbers a new branch and stores it.
    pub(crate) fn store_branch(&mut self, branch: Branch) -> Result<BranchNo> {
        let mut batch = Batch::new();
        let key = [BRANCH_PREFIX, &(self.branches.len() as u32).to_be_bytes()].concat();
        self.store.put(&mut batch, Space::Meta, key, &encode(&branch));
        self.store.apply(batch)?;
        Ok(self.add_branch(branch))
    }

    /// Numbers a new branch that is stored together with its first commit, or dropped with it.
    pub(crate) fn new_branch(&mut self, branch: Branch) -> BranchNo {
        self.add_branch(branch)
    }

    /// Puts the row of a branch that has no commit yet into the batch of its first one.
    pub(crate) fn put_new_branch(&mut self, batch: &mut Batch, no: BranchNo) {
        if self.branch(no).tip == 0 {
            let key = [BRANCH_PREFIX, &no.0.to_be_bytes()].concat();
            self.store.put(batch, Space::Meta, key, &encode(self.branch(no)));
        }
    }

    /// Forgets a branch whose first commit was refused. (This device's own, empty one stays.)
    pub(crate) fn drop_new_branch(&mut self, no: BranchNo) {
        if no == self.me || self.branch(no).tip > 0 || no.0 as usize + 1 != self.branches.len() {
            return;
        }
        let branch = self.branches.remove(no.0 as usize);
        if let Some(of_log) = self.by_log.get_mut(&(branch.device, branch.log)) {
            of_log.retain(|other| *other != no);
            if of_log.is_empty() {
                self.by_log.remove(&(branch.device, branch.log));
            }
        }
    }

    /// The branches of all logs of a device.
    pub(crate) fn branches_by(&self, device: &crypto::DeviceId) -> impl Iterator<Item = BranchNo> + '_ {
        self.by_log.range((*device, 0)..=(*device, u64::MAX)).flat_map(|(_, branches)| branches.iter().copied())
    }

    /// The branches of a log.
    pub(crate) fn branches_of(&self, device: &crypto::DeviceId, log: u64) -> &[BranchNo] {
        self.by_log.get(&(*device, log)).map_or(&[], Vec::as_slice)
    }

    /// A dot out of a row that isn't sealed, if it can be one.
    fn known_branch(&self, dot: Dot) -> Result<Dot> {
        self.branch_of(dot)?;
        if dot.seq == 0 {
            return Err(Error::damaged("a commit's number"));
        }
        Ok(dot)
    }

    /// The branch that a dot out of a row is on.
    pub(crate) fn branch_of(&self, dot: Dot) -> Result<&Branch> {
        self.branches.get(dot.branch.0 as usize).ok_or_else(|| Error::damaged("a branch is missing"))
    }

    /// A branch that is there. Numbers out of rows go through [`Self::branch_of`]: a row may be damaged.
    pub(crate) fn branch(&self, no: BranchNo) -> &Branch {
        &self.branches[no.0 as usize]
    }

    pub(crate) fn branch_mut(&mut self, no: BranchNo) -> &mut Branch {
        &mut self.branches[no.0 as usize]
    }

    /// Finds the changes of the pending commit again after a restart.
    fn load_pending(&mut self) -> Result<()> {
        let dot = self.pending_dot();
        let key = dot.key();
        let rows = self.store.raw().scan(Space::Changes, &key, &prefix_end(&key), MAX_CHANGES + 1)?;
        if rows.is_empty() {
            return Ok(());
        }
        let mut pending = self.new_pending();
        for (_, bytes) in rows {
            let change: RawChange = decode_row("pending change", &bytes)?;
            let head: Head = decode_row("pending change", &change.head)?;
            pending.calls = head.call + 1;
            self.open_births += u64::from(matches!(head.kind, ChangeKind::Birth { .. }));
            pending.bytes += change.size();
            pending.changes.push(Arc::new(change));
        }
        self.counters.nodes += self.open_births;
        self.pending = Some(pending);
        Ok(())
    }

    fn new_pending(&self) -> Pending {
        Pending { changes: Vec::new(), bytes: 0, calls: 0, since: self.clock.monotonic() }
    }

    /// The name that the pending commit will have.
    pub(crate) fn pending_dot(&self) -> Dot {
        Dot { branch: self.me, seq: self.branch(self.me).tip + 1 }
    }

    /// Whether that is the commit that local calls collect in. One that arrives can bear the same name: this device's own,
    /// which its store lost to an older copy. Its author had seen what it says, not all there is.
    pub(crate) fn is_pending(&self, dot: Dot) -> bool {
        let arrives = self.overlay.entering.as_ref().is_some_and(|(entering, _)| *entering == dot);
        !arrives && dot == self.pending_dot()
    }

    // ---- rows

    /// The row of an inode number.
    pub(crate) fn row(&mut self, ino: Ino) -> Result<Option<Arc<NodeRow>>> {
        match self.past {
            Some(past) => self.past_row(ino, past.arrival),
            None => self.present_row(ino),
        }
    }

    pub(crate) fn present_row(&mut self, ino: Ino) -> Result<Option<Arc<NodeRow>>> {
        if let Some(row) = self.overlay.nodes.get(&ino) {
            return Ok(row.clone());
        }
        if let Some(row) = self.nodes.get(&ino) {
            return Ok(row.clone());
        }
        let row = match self.store.get(Space::Nodes, &ino.0.to_be_bytes())? {
            Some(bytes) => Some(Arc::new(decode_row("node", &bytes)?)),
            None => None,
        };
        self.nodes.put(ino, row.clone());
        Ok(row)
    }

    /// A copy of the node behind an inode number, to change and put back.
    pub(crate) fn node(&mut self, ino: Ino) -> Result<Box<Node>> {
        match self.row(ino)?.as_deref() {
            Some(NodeRow::Node(node)) => Ok(node.clone()),
            Some(NodeRow::View { .. }) | None => Err(Error::NotFound),
        }
    }

    /// The node behind an inode number, to change and put back; not copied if the running call has a copy already. Until
    /// it is put back it must not be asked for.
    pub(crate) fn taken_node(&mut self, ino: Ino) -> Result<Box<Node>> {
        let Some(row) = self.overlay.nodes.get_mut(&ino).filter(|row| row.is_some()) else { return self.node(ino) };
        match row.take().map(Arc::try_unwrap) {
            Some(Ok(NodeRow::Node(node))) => Ok(node),
            Some(Ok(view)) => {
                *row = Some(Arc::new(view));
                Err(Error::NotFound)
            }
            Some(Err(shared)) => {
                *row = Some(shared);
                self.node(ino)
            }
            None => Err(Error::NotFound),
        }
    }

    /// Looks at a node without copying it.
    pub(crate) fn with_node<R>(&mut self, ino: Ino, f: impl FnOnce(&Node) -> R) -> Result<R> {
        match self.row(ino)?.as_deref() {
            Some(NodeRow::Node(node)) => Ok(f(node)),
            Some(NodeRow::View { .. }) | None => Err(Error::NotFound),
        }
    }

    pub(crate) fn put_node(&mut self, ino: Ino, mut node: Box<Node>) {
        self.spill(ino, &mut node);
        self.put_row(ino, Some(NodeRow::Node(node)));
    }

    pub(crate) fn put_row(&mut self, ino: Ino, row: Option<NodeRow>) {
        self.overlay.nodes.insert(ino, row.map(Arc::new));
    }

    /// The tag under which a name is found: keyed, so that the store shows no names.
    pub(crate) fn tag(&self, name: &[u8]) -> [u8; 16] {
        let mut tags = self.tags.borrow_mut();
        if let Some((_, tag)) = tags.iter().find(|(known, _)| !name.is_empty() && known == name) {
            return *tag;
        }
        let tag = self.name_key.tag(name);
        tags.rotate_right(1);
        name.clone_into(&mut tags[0].0);
        tags[0].1 = tag;
        tag
    }

    /// The entry of a name; an empty one when nothing has that name.
    pub(crate) fn entry(&mut self, directory: Ino, name: &[u8]) -> Result<Arc<Entry>> {
        if let Some(past) = self.past {
            return self.past_entry(directory, name, past.arrival);
        }
        let key = (directory, self.tag(name));
        if let Some(entry) = self.overlay.entries.get(&key) {
            return Ok(entry.clone());
        }
        if let Some(entry) = self.entries.get(&key) {
            return Ok(entry.clone());
        }
        let entry = match self.store.get(Space::Entries, &entry_key(directory, &key.1))? {
            Some(bytes) => {
                let entry: Arc<Entry> = Arc::new(decode_row("entry", &bytes)?);
                self.entries.put(key, entry.clone());
                self.read_ahead(directory);
                entry
            }
            None => {
                let entry = Arc::new(Entry { name: name.to_vec(), ..Entry::default() });
                if self.overlay.arriving.is_none() || has_room(&self.entries, &key) {
                    self.entries.put(key, entry.clone());
                }
                entry
            }
        };
        Ok(entry)
    }

    /// Whoever looks up a second entry of a directory that isn't in memory will want most of them: the next ones come in
    /// one go, with what they lead to. Rows that can't be read are left to whoever asks for them.
    fn read_ahead(&mut self, directory: Ino) {
        let Some(ahead) = self.ahead.get_mut(&directory) else {
            self.ahead.put(directory, Some([0; 16]));
            return;
        };
        let Some(from) = ahead.take() else { return };
        let prefix = directory.0.to_be_bytes();
        let (from, end) = (entry_key(directory, &from), prefix_end(&prefix));
        let Ok(rows) = self.store.raw().scan(Space::Entries, &from, &end, READ_AHEAD) else { return };
        let complete = rows.len() < READ_AHEAD;
        let mut children = Vec::with_capacity(rows.len());
        let mut last = None;
        for (key, sealed) in rows {
            let Ok(tag) = key[8..].try_into() else { return };
            last = Some(tag);
            if !self.entries.contains(&(directory, tag))
                && let Some(entry) = ahead::readable::<Entry>(&self.store, Space::Entries, &key, &sealed)
            {
                children.extend(entry.shown().map(|(child, _)| child));
                self.entries.put((directory, tag), Arc::new(entry));
            }
        }
        self.ahead.put(directory, last.filter(|_| !complete).and_then(next_tag));
        self.load_nodes(children);
    }

    /// Whether the row of a node is in memory.
    pub(crate) fn has_node(&self, ino: Ino) -> bool {
        self.nodes.contains(&ino) || self.overlay.nodes.contains_key(&ino)
    }

    /// Brings the rows of these nodes into memory, as far as they can be read: numbers given one after the other lie
    /// beside each other.
    pub(crate) fn load_nodes(&mut self, mut inos: Vec<Ino>) {
        self.retain_absent(&mut inos);
        let store = self.store.clone();
        ahead::nodes(&store, inos, |ino, read| {
            if !self.nodes.contains(&ino)
                && let Some(row) = read()
            {
                self.nodes.put(ino, Some(Arc::new(row)));
            }
        });
    }

    /// Keeps those of which no row is in memory.
    pub(crate) fn retain_absent(&self, inos: &mut Vec<Ino>) {
        inos.retain(|ino| !self.has_node(*ino));
    }

    /// What to read ahead where `directory` is asked for, and as of which count of batches; nothing if it is no directory,
    /// or in memory already.
    pub(crate) fn next_ahead(&mut self, directory: Ino) -> Option<(Ino, u64)> {
        let directory = self.directory(directory).ok()?;
        (!self.listed.contains(&directory)).then_some((directory, self.settles))
    }

    /// Takes over a whole directory that was read beside the lock, unless something changed since.
    pub(crate) fn take_read_ahead(&mut self, directory: Ino, as_of: u64, read: ahead::Directory) -> bool {
        if self.settles != as_of {
            return false;
        }
        let mut tags = Vec::with_capacity(read.entries.len());
        for (tag, entry) in read.entries {
            tags.push(tag);
            self.entries.put((directory, tag), entry);
        }
        for (ino, row) in read.nodes {
            self.nodes.put(ino, Some(row));
        }
        self.listed.put(directory, tags.into());
        self.ahead.put(directory, None);
        true
    }

    /// Entries of a directory that was read ahead as a whole, as far as all of them are still in memory.
    fn listed_entries(&mut self, directory: Ino, from: &[u8; 16], limit: usize) -> Option<EntriesByTag> {
        let tags = self.listed.get(&directory)?.clone();
        let first = tags.partition_point(|tag| tag < from);
        let mut found = BTreeMap::new();
        for tag in tags[first..].iter().take(limit) {
            found.insert(*tag, self.entries.get(&(directory, *tag))?.clone());
        }
        Some(found)
    }

    pub(crate) fn put_entry(&mut self, directory: Ino, entry: Entry) {
        let key = (directory, self.tag(&entry.name));
        self.overlay.entries.insert(key, Arc::new(entry));
    }

    pub(crate) fn stored_entries(&self, directory: Ino, from: &[u8; 16], limit: usize) -> Result<EntriesByTag> {
        let prefix = directory.0.to_be_bytes();
        let rows = self.store.scan(Space::Entries, &entry_key(directory, from), &prefix_end(&prefix), limit)?;
        let mut found = BTreeMap::new();
        for (key, bytes) in rows {
            let tag: [u8; 16] = key[8..].try_into().map_err(|_| Error::damaged("entry key"))?;
            found.insert(tag, Arc::new(decode_row("entry", &bytes)?));
        }
        Ok(found)
    }

    /// About `limit` entries of a directory from a tag on, in the order of their tags, with what the running call changed.
    /// None means that there are no more: rows that the call has emptied are passed over.
    pub(crate) fn scan_entries(
        &mut self,
        directory: Ino,
        from: &[u8; 16],
        limit: usize,
    ) -> Result<Vec<([u8; 16], Arc<Entry>)>> {
        if let Some(past) = self.past {
            return self.past_entries(directory, from, limit, past.arrival);
        }
        let mut from = *from;
        loop {
            let mut found = match self.listed_entries(directory, &from, limit) {
                Some(found) => found,
                None => self.stored_entries(directory, &from, limit)?,
            };
            let complete = found.len() < limit;
            let last = found.last_key_value().map(|(tag, _)| *tag);
            let end = if complete { [u8::MAX; 16] } else { last.unwrap_or([u8::MAX; 16]) };
            for ((_, tag), entry) in self.overlay.entries.range((directory, from)..=(directory, end)) {
                found.insert(*tag, entry.clone());
            }
            found.retain(|_, entry| !entry.is_empty());
            match next_tag(end) {
                Some(next) if found.is_empty() => from = next,
                _ => return Ok(found.into_iter().collect()),
            }
        }
    }

    pub(crate) fn ino_of_node(&mut self, id: &NodeId) -> Result<Option<Ino>> {
        if let Some(ino) = self.overlay.ids.get(&node_id_key(id)) {
            return Ok(*ino);
        }
        if let Some(ino) = self.inos.get(id) {
            return Ok(Some(*ino));
        }
        let found = self.stored_ino_of_node(id)?;
        if let Some(ino) = found {
            self.inos.put(*id, ino);
        }
        Ok(found)
    }

    /// The same, as the store has it now.
    pub(crate) fn stored_ino_of_node(&self, id: &NodeId) -> Result<Option<Ino>> {
        match self.store.raw().get(Space::Ids, &node_id_key(id))? {
            Some(bytes) => {
                let bytes = bytes.try_into().map_err(|_| Error::damaged("id record"))?;
                Ok(Some(Ino(u64::from_be_bytes(bytes))))
            }
            None => Ok(None),
        }
    }

    pub(crate) fn set_ino_of_node(&mut self, id: &NodeId, ino: Ino) {
        self.overlay.ids.insert(node_id_key(id), Some(ino));
    }

    /// A new inode number.
    pub(crate) fn allocate_ino(&mut self) -> Ino {
        let next = self.overlay.next_ino.unwrap_or(self.counters.next_ino);
        self.overlay.next_ino = Some(next + 1);
        Ino(next)
    }

    /// The number that the next node will have.
    pub(crate) fn next_ino(&self) -> Ino {
        Ino(self.counters.next_ino)
    }

    /// Whether somebody may have cached this who met no node from `unborn` on.
    pub(crate) fn may_be_cached(&mut self, change: &Changed, unborn: Ino) -> bool {
        match change {
            Changed::Content(ino) | Changed::Attributes(ino) => *ino < unborn,
            // One that is older may show as part of it.
            Changed::Entry { parent, .. } => {
                *parent < unborn || self.with_node(*parent, |n| !n.merged.is_empty()).unwrap_or(true)
            }
            Changed::Members => true,
        }
    }

    /// How many nodes were ever born.
    pub(crate) fn node_count(&self) -> u64 {
        self.counters.nodes
    }

    /// Beside how many names something shows.
    pub(crate) fn conflict_count(&self) -> u64 {
        u64::try_from(self.counters.conflicts).unwrap_or(0)
    }

    /// Sets that number, in `batch` too.
    pub(crate) fn count_beside(&mut self, batch: &mut Batch, count: i64) {
        self.counters.conflicts = count;
        self.stored_counters.conflicts = count;
        self.store.put(batch, Space::Meta, COUNTERS, &encode(&self.stored_counters));
    }

    /// Directories in a would-be cycle.
    pub(crate) fn cyclic(&self) -> BTreeSet<Ino> {
        self.overlay.cyclic.clone().unwrap_or_else(|| self.counters.cyclic.clone())
    }

    // ---- the overlay's end

    /// Applies what the call changed as one batch, with `batch` on top.
    pub(crate) fn settle(&mut self, batch: Batch) -> Result<()> {
        self.settles += 1;
        let mut overlay = std::mem::take(&mut self.overlay);
        let before = overlay.sealing.take();
        let done = self.store_overlay(overlay, batch);
        if done.is_err() {
            self.seal_as(before);
        }
        done
    }

    fn store_overlay(&mut self, mut overlay: Overlay, mut batch: Batch) -> Result<()> {
        for (directory, _) in overlay.entries.keys() {
            self.listed.pop(directory);
        }
        batch.writes.append(&mut overlay.batch.writes);
        // Rows are encoded one after the other in one place.
        let mut plain = Vec::with_capacity(ROW_BYTES);
        self.keep_history(&mut batch, &mut overlay, &mut plain)?;
        for (ino, row) in &overlay.nodes {
            match row {
                Some(row) => {
                    encode_into(&mut plain, &**row);
                    self.store.put(&mut batch, Space::Nodes, ino.0.to_be_bytes(), &plain);
                }
                None => batch.remove(Space::Nodes, ino.0.to_be_bytes()),
            }
        }
        self.put_items(&mut batch, &overlay.links);
        self.put_items(&mut batch, &overlay.xattrs);
        for ((directory, tag), entry) in &overlay.entries {
            let key = entry_key(*directory, tag);
            if entry.is_empty() {
                batch.remove(Space::Entries, key);
            } else {
                encode_into(&mut plain, &**entry);
                self.store.put(&mut batch, Space::Entries, key, &plain);
            }
        }
        for (key, ino) in &overlay.ids {
            match ino {
                Some(ino) => batch.put(Space::Ids, key.as_slice(), ino.0.to_be_bytes()),
                None => batch.remove(Space::Ids, key.as_slice()),
            }
        }
        for row in &overlay.members {
            self.store.put(&mut batch, Space::Members, row.key(), &encode(row));
        }
        for (key, row) in &overlay.agreed {
            match row {
                Some(row) => self.store.put(&mut batch, Space::Members, key.as_slice(), &row.encoded()),
                None => batch.remove(Space::Members, key.as_slice()),
            }
        }
        for (value, root, blocks) in &overlay.wanted {
            self.store.put(&mut batch, Space::Wanted, value.key(), &encode(&(root, blocks)));
        }
        let mut counters = self.counters.clone();
        counters.next_ino = overlay.next_ino.unwrap_or(counters.next_ino);
        counters.nodes += overlay.nodes_made;
        counters.conflicts += overlay.conflicts;
        if let Some(cyclic) = &overlay.cyclic {
            counters.cyclic = cyclic.clone();
        }
        let open_births = if overlay.closes { 0 } else { self.open_births + overlay.open_births };
        let mut stored = Counters { nodes: counters.nodes.saturating_sub(open_births), ..counters.clone() };
        let known = self.stored_counters.next_ino;
        // A call that makes something needn't say so: numbers are set aside, and births are in its changes.
        stored.next_ino = if counters.next_ino > known { counters.next_ino + INOS_AHEAD } else { known };
        let stored = Some(stored).filter(|stored| *stored != self.stored_counters);
        if let Some(stored) = &stored {
            encode_into(&mut plain, stored);
            self.store.put(&mut batch, Space::Meta, COUNTERS, &plain);
        }
        let undoable = self.undo.add(&self.store, &*self.blocks, overlay.publishes, &mut batch)?;
        self.store.apply(batch)?;
        if undoable {
            self.undo.added();
        }
        self.forget_paths(&overlay);
        // Only what is stored is remembered; and what others made drives nothing out that is used here.
        let arrived = overlay.arriving.is_some();
        self.settled = overlay.changed;
        self.counters = counters;
        self.open_births = open_births;
        if let Some(stored) = stored {
            self.stored_counters = stored;
        }
        for (ino, row) in overlay.nodes {
            if !arrived || has_room(&self.nodes, &ino) {
                self.nodes.put(ino, row);
            }
        }
        for (key, ino) in overlay.ids {
            if let Some(id) = key.strip_prefix(b"n".as_slice()).and_then(|id| NodeId::try_from(id).ok()) {
                match ino {
                    Some(ino) if !arrived || has_room(&self.inos, &id) => self.inos.put(id, ino),
                    Some(_) => None,
                    None => self.inos.pop(&id),
                };
            }
        }
        self.keep_items(overlay.links);
        self.keep_items(overlay.xattrs);
        for (key, entry) in overlay.entries {
            if !arrived || has_room(&self.entries, &key) {
                self.entries.put(key, entry);
            }
        }
        if !overlay.agreed.is_empty() || !overlay.members.is_empty() {
            self.snapshots = None;
        }
        for row in overlay.members {
            self.members.put(row);
        }
        Ok(())
    }

    /// Puts rows that other commits made, and that the open one changes, into the history; the new ones are as they are
    /// since the open one. Also notes beside which names something shows now.
    fn keep_history(&mut self, batch: &mut Batch, overlay: &mut Overlay, plain: &mut Vec<u8>) -> Result<()> {
        let open = self.next_arrival;
        let arriving = &overlay.arriving;
        let mut touched = Vec::new();
        for (ino, row) in &mut overlay.nodes {
            let mut since = open;
            if *ino < self.next_ino()
                && let Some(old) = self.present_row(*ino)?
                && old.since() < open
            {
                if self.touched.is_some() {
                    touched.extend(trees_with(&old, |at| self.change_in(arriving, at))?);
                }
                match (row.as_deref(), &*old) {
                    (Some(NodeRow::Node(new)), NodeRow::Node(old)) if new.reads_as(old) => since = old.since,
                    _ => history::keep_node(&self.store, batch, *ino, &old, open, plain),
                }
            }
            if let Some(row) = row {
                if self.touched.is_some() {
                    touched.extend(trees_with(row, |at| self.change_in(arriving, at))?);
                }
                Arc::make_mut(row).set_since(since);
            }
        }
        if let Some(known) = &mut self.touched {
            known.append(&mut touched);
        }
        for ((directory, tag), entry) in &mut overlay.entries {
            let old = self.present_entry(*directory, tag)?;
            let beside = !entry.derives.is_empty();
            if old.as_ref().is_some_and(|old| !old.derives.is_empty()) != beside {
                self.put_beside(batch, *directory, tag, beside);
                overlay.conflicts += if beside { 1 } else { -1 };
            }
            if let Some(old) = old.filter(|old| old.since < open) {
                history::keep_entry(&self.store, batch, (*directory, tag), &old, open, plain);
            }
            Arc::make_mut(entry).since = open;
        }
        self.keep_xattrs(batch, &overlay.xattrs, open)
    }

    /// The entry with this tag, if there is one.
    pub(crate) fn present_entry(&mut self, directory: Ino, tag: &[u8; 16]) -> Result<Option<Arc<Entry>>> {
        if let Some(entry) = self.entries.get(&(directory, *tag)) {
            return Ok(Some(entry.clone()).filter(|entry| !entry.is_empty()));
        }
        let found = self.store.get(Space::Entries, &entry_key(directory, tag))?;
        found.map(|bytes| Ok(Arc::new(decode_row("entry", &bytes)?))).transpose()
    }

    /// Forgets what the call changed.
    pub(crate) fn abandon(&mut self) {
        let before = self.overlay.sealing.take();
        self.overlay = Overlay::default();
        self.seal_as(before);
    }

    // ---- version vectors

    /// The stored commit.
    pub(crate) fn commit_row(&self, dot: Dot) -> Result<Option<CommitRow>> {
        if let Some((_, row)) = self.overlay.entering.as_ref().filter(|(entering, _)| *entering == dot) {
            return Ok(Some(row.clone()));
        }
        match self.store.get(Space::Commits, &dot.key())? {
            Some(bytes) => decode_row("commit", &bytes).map(Some),
            None => Ok(None),
        }
    }

    /// The essentials of a known commit.
    pub(crate) fn commit_info(&mut self, dot: Dot) -> Result<CommitInfo> {
        if let Some(info) = self.commits.get(&dot) {
            return Ok(*info);
        }
        let row = self.commit_row(dot)?.ok_or_else(|| Error::damaged("a commit is missing"))?;
        let info = CommitInfo { hash: row.hash, count: row.count, void: row.void, beyond: row.beyond };
        self.commits.put(dot, info);
        Ok(info)
    }

    /// The commit of that hash.
    pub(crate) fn dot_of(&self, hash: &CommitHash) -> Result<Option<Dot>> {
        let key = [b"h", &hash.as_bytes()[..]].concat();
        match self.store.raw().get(Space::Index, &key)? {
            Some(bytes) => {
                let dot = Dot::from_key(&bytes).ok_or_else(|| Error::damaged("commit index"))?;
                self.known_branch(dot).map(Some)
            }
            None => Ok(None),
        }
    }

    /// Whether a stored commit is found by its hash and by its arrival.
    pub(crate) fn is_indexed(&self, dot: Dot) -> bool {
        let Ok(Some(row)) = self.commit_row(dot) else { return false };
        let arrived = self.store.raw().get(Space::Index, &arrival_key(row.arrival));
        self.dot_of(&row.hash).is_ok_and(|found| found == Some(dot))
            && arrived.is_ok_and(|found| found.is_some_and(|key| key == dot.key()))
    }

    /// What the author of a known commit had seen, the commit itself included.
    pub(crate) fn vector(&mut self, dot: Dot) -> Result<Arc<VersionVector>> {
        let mut deltas = Vec::new();
        let mut at = dot;
        let mut vector = loop {
            if let Some(vector) = self.vectors.get(&at) {
                if at == dot {
                    return Ok(vector.clone());
                }
                break (**vector).clone();
            }
            let row = self.commit_row(at)?.ok_or_else(|| Error::damaged("a commit is missing"))?;
            deltas.push(row.vector);
            if row.vector_whole {
                break VersionVector::default();
            }
            // Whoever follows a damaged chain past its start finds no commit there; and no chain leads back to itself.
            at = match row.beside {
                Some(beside) if deltas.len() as u64 > 2 * VECTOR_ROWS => {
                    return Err(Error::damaged(format!("what commit {beside} had seen")));
                }
                Some(beside) => self.known_branch(beside)?,
                None => Dot { branch: at.branch, seq: at.seq.saturating_sub(1) },
            };
        };
        for delta in deltas.into_iter().rev() {
            for dot in delta {
                vector.add(self.known_branch(dot)?);
            }
        }
        let vector = Arc::new(vector);
        self.vectors.put(dot, vector.clone());
        Ok(vector)
    }

    /// Whether the author of `later` had seen `earlier` (or it is the same commit).
    pub(crate) fn covers(&mut self, later: Dot, earlier: Dot) -> Result<bool> {
        if later.branch == earlier.branch {
            return Ok(earlier.seq <= later.seq);
        }
        if self.is_pending(later) {
            // Applying a remote commit closes the pending one first: it has seen all there is.
            return Ok(true);
        }
        Ok(self.vector(later)?.covers(earlier))
    }

    /// Whether the change `later` was made knowing `earlier`.
    pub(crate) fn value_covers(&mut self, later: ValueRef, earlier: ValueRef) -> Result<bool> {
        if later.dot == earlier.dot {
            return Ok(earlier.index <= later.index);
        }
        self.covers(later.dot, earlier.dot)
    }

    // ---- local calls

    /// The time of a call.
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// How other replicas name a value.
    pub(crate) fn value_id(&mut self, value: ValueRef) -> Result<ValueId> {
        let commit = if self.is_pending(value.dot) { CommitHash::ZERO } else { self.commit_info(value.dot)?.hash };
        Ok(ValueId { commit, index: value.index })
    }

    /// Has a content fetched that is shown again, as far as it isn't here: `from` is where it was shown before.
    pub(crate) fn want_again_from(&mut self, from: ValueRef, at: ValueRef, root: BlockHash, blocks: u64) -> Result<()> {
        let wanted = self.store.raw().get(Space::Wanted, &from.key())?.is_some();
        if !root.is_hole() && (wanted || !self.blocks.contains(&root)?) {
            self.overlay.wanted.push((at, root, blocks));
            self.wants_more = true;
        }
        Ok(())
    }

    /// Runs a local call: all of its changes are stored when this returns `Ok`, none otherwise.
    pub(crate) fn call<R>(&mut self, f: impl FnOnce(&mut Self) -> Result<R>) -> Result<R> {
        // A call that was cut short by a panic must leave nothing.
        self.abandon();
        if self.has_unjudged {
            // The disk failed before all was stored that a commit cuts: perhaps this device's own right to change anything.
            self.judge_anew().inspect_err(|_| self.abandon())?;
        }
        self.join_frontier()?;
        let result = self.renew_epoch_if_due().and_then(|()| f(self)).and_then(|value| {
            self.settle_call()?;
            Ok(value)
        });
        if result.is_err() {
            self.abandon();
        }
        result
    }

    fn settle_call(&mut self) -> Result<()> {
        let changes = std::mem::take(&mut self.overlay.pending);
        if changes.is_empty() {
            return self.settle(Batch::new());
        }
        let dot = self.pending_dot();
        let first = self.pending.as_ref().map_or(0, |p| p.changes.len());
        if first + changes.len() > MAX_CHANGES {
            return Err(Error::TooManyLinks);
        }
        let mut batch = Batch::new();
        for (i, change) in changes.iter().enumerate() {
            let value = ValueRef { dot, index: (first + i) as u32 };
            batch.put(Space::Changes, value.key(), change.encoded());
        }
        let bytes = changes.iter().map(|change| change.size()).sum();
        self.space.wrote(bytes);
        self.settle(batch)?;
        if self.pending.is_none() {
            self.pending = Some(self.new_pending());
        }
        let pending = self.pending.as_mut().expect("made just above");
        pending.calls += 1;
        pending.bytes += bytes;
        pending.changes.extend(changes);
        Ok(())
    }

    /// Where the next change of the running call will stand.
    pub(crate) fn next_value(&self) -> ValueRef {
        let index = self.pending.as_ref().map_or(0, |p| p.changes.len()) + self.overlay.pending.len();
        ValueRef { dot: self.pending_dot(), index: index as u32 }
    }

    /// The birthplace that the next change of the running call will have.
    pub(crate) fn next_birthplace(&self) -> Birthplace {
        let at = self.next_value();
        Birthplace { device: self.device.id(), log: self.branch(self.me).log, seq: at.dot.seq, index: at.index }
    }

    /// Seals and notes a change of the running call; it is applied by the caller.
    pub(crate) fn note(
        &mut self,
        kind: ChangeKind,
        supersedes: &[ValueRef],
        seal: Option<(&SymmetricKey, &[u8])>,
    ) -> Result<(ValueRef, Head)> {
        let at = self.next_value();
        let mut ids = Vec::with_capacity(supersedes.len());
        for &value in supersedes {
            ids.push(self.value_id(value)?);
        }
        ids.sort_unstable();
        let head = Head { call: self.pending.as_ref().map_or(0, |p| p.calls), kind, supersedes: ids };
        let bytes = encode(&head);
        let body = match seal {
            Some((key, plain)) => {
                let place = self.next_birthplace();
                let aad = commit::body_aad(&self.volume, &place.device, place.log, place.seq, place.index, &bytes);
                crypto::seal_padded(key, &aad, plain, &*self.entropy)
            }
            None => Vec::new(),
        };
        self.overlay.pending.push(Arc::new(RawChange { head: bytes, body }));
        Ok((at, head))
    }

    /// Whether the pending commit must be cut before another call is taken.
    pub(crate) fn pending_is_full(&self) -> bool {
        self.pending.as_ref().is_some_and(|p| p.changes.len() > MAX_CHANGES / 2 || p.bytes > MAX_COMMIT_BYTES / 2)
    }

    /// Closes the pending commit: signs and stores it. Tells whether there was one.
    pub(crate) fn cut(&mut self) -> Result<bool> {
        let Some(pending) = &self.pending else { return Ok(false) };
        let changes = pending.changes.clone();
        let observed: Vec<Dot> = self.frontier.iter().copied().filter(|&dot| dot != self.own_tip()).collect();
        self.sign(changes, &observed)?;
        self.pending = None;
        Ok(true)
    }

    /// Signs commits without changes that have seen what others wrote, until it is few enough to be named in one. To be
    /// called with an empty overlay. A member may begin logs without end; a commit that names more than fit is refused by all.
    /// The pending commit can't leave some out: its changes were made knowing all.
    pub(crate) fn join_frontier(&mut self) -> Result<()> {
        while self.pending.is_none() && self.frontier.len() > MAX_FRONTIER {
            let own = self.own_tip();
            let mut observed: Vec<Dot> = Vec::with_capacity(MAX_FRONTIER);
            if own.seq == 0 {
                // A log's first commit must have seen its author's admission.
                let Some(dot) = self.seen_own_admission()? else { return Ok(()) };
                observed.push(dot);
            }
            let others = self.frontier.iter().copied().filter(|dot| *dot != own && observed.first() != Some(dot));
            let others: Vec<Dot> = others.take(MAX_FRONTIER - observed.len()).collect();
            observed.extend(others);
            self.sign(Vec::new(), &observed)?;
        }
        Ok(())
    }

    /// One of the newest commits whose author had seen that this device was admitted.
    fn seen_own_admission(&mut self) -> Result<Option<Dot>> {
        let Some(row) = self.members.devices.get(&self.device.id()) else { return Ok(None) };
        let granted = row.granted.clone();
        for dot in self.frontier.iter().copied().collect::<Vec<_>>() {
            for at in &granted {
                if self.covers(dot, at.dot)? {
                    return Ok(Some(dot));
                }
            }
        }
        Ok(None)
    }

    /// This device's newest commit; numbered 0 before the first.
    fn own_tip(&self) -> Dot {
        Dot { branch: self.me, seq: self.branch(self.me).tip }
    }

    /// Signs and stores the next own commit, whose changes are in the store.
    fn sign(&mut self, changes: Vec<Arc<RawChange>>, observed: &[Dot]) -> Result<()> {
        let (dot, prev) = (self.pending_dot(), self.own_tip());
        let (mut count, mut hashes) = (0, Vec::with_capacity(observed.len()));
        for &seen in observed {
            let info = self.commit_info(seen)?;
            count = count.max(info.count);
            hashes.push(info.hash);
        }
        if prev.seq > 0 {
            count = count.max(self.commit_info(prev)?.count);
        }
        hashes.sort_unstable();
        let branch = self.branch(self.me).clone();
        let header = Header {
            version: FORMAT_VERSION,
            volume: self.volume,
            device: self.device.id(),
            log: branch.log,
            seq: dot.seq,
            prev: branch.tip_hash,
            observed: hashes,
            count: count + 1,
            time: self.now(),
            root: commit::changes_root(changes.iter().map(|change| &**change)),
            changes: changes.len() as u32,
        };
        let bytes = encode(&header);
        if bytes.len() > MAX_HEADER {
            // Nobody would take it, and nothing that follows it.
            return Err(Error::Io(std::io::Error::other("too many logs to be seen by one commit")));
        }
        let signature = self.device.signing.sign(Label::CommitSignature, &bytes);
        let mut batch = Batch::new();
        self.overlay.closes = true;
        let entered = self.enter(&mut batch, dot, &header, bytes.clone(), signature, false, observed);
        if let Err(e) = entered.and_then(|()| self.settle(batch)) {
            self.abandon();
            self.not_entered(dot);
            return Err(e);
        }
        let arrival = self.next_arrival;
        self.entered(dot, &header, observed);
        if let Some(fresh) = &mut self.fresh {
            fresh.keep(Fresh { arrival, header: bytes, signature, changes: FreshChanges::Own(changes) });
        }
        Ok(())
    }

    /// Keeps the newest commit, which came from elsewhere, at hand for the archive.
    pub(crate) fn keep_fresh(&mut self, header: &[u8], signature: crypto::Signature, changes: Arc<Vec<RawChange>>) {
        let arrival = self.next_arrival - 1;
        if let Some(fresh) = &mut self.fresh {
            let changes = FreshChanges::Came(changes);
            fresh.keep(Fresh { arrival, header: header.to_vec(), signature, changes });
        }
    }

    /// The commits that arrived right after one and up to another, for the archive, as far as they are at hand without a
    /// gap: the oldest, about `most` bytes of them. Those before are let go; those behind a gap, which may be long, wait
    /// until it is filled.
    pub(crate) fn take_fresh(&mut self, after: u64, until: u64, most: usize) -> VecDeque<Fresh> {
        let (mut taken, mut bytes) = (VecDeque::new(), 0);
        let Some(fresh) = &mut self.fresh else { return taken };
        let mut next = after + 1;
        while bytes < most
            && fresh.commits.front().is_some_and(|commit| commit.arrival <= next.min(until))
            && let Some(commit) = fresh.take()
        {
            if commit.arrival == next {
                next += 1;
                bytes += commit.bytes();
                taken.push_back(commit);
            }
        }
        taken
    }

    /// The count that the pending commit will have.
    pub(crate) fn pending_count(&mut self) -> Result<u64> {
        let mut count = 0;
        let frontier = std::mem::take(&mut self.frontier);
        let counts: Result<Vec<u64>> = frontier.iter().map(|dot| Ok(self.commit_info(*dot)?.count)).collect();
        self.frontier = frontier;
        for one in counts? {
            count = count.max(one);
        }
        Ok(count + 1)
    }

    /// Whether this device writes under its first log, and nothing of that is in the store.
    pub(crate) fn is_blank(&self) -> bool {
        self.counters.my_log == 0 && self.own_tip().seq == 0
    }

    /// Puts a commit's own rows (not its changes) into `batch`.
    #[allow(clippy::too_many_arguments, reason = "the parts of one record")]
    pub(crate) fn enter(
        &mut self,
        batch: &mut Batch,
        dot: Dot,
        header: &Header,
        bytes: Vec<u8>,
        signature: crypto::Signature,
        void: bool,
        observed: &[Dot],
    ) -> Result<()> {
        // A branch's first commit knows what the commit it forked from knew.
        let before = match (dot.seq, self.branch_of(dot)?.forked_from) {
            (_, Some(fork)) if fork.seq + 1 == dot.seq => Some(fork),
            (1, _) => None,
            _ => Some(Dot { branch: dot.branch, seq: dot.seq - 1 }),
        };
        // That of a log's first commit is told beside what it has seen: of ten thousand logs each would tell all the others.
        let mut newest: Option<(u64, Dot)> = None;
        if before.is_none() {
            for &seen in observed {
                newest = newest.max(Some((self.commit_info(seen)?.count, seen)));
            }
        }
        let beside = before.or(newest.map(|(_, seen)| seen));
        let (old, beyond) = match beside {
            Some(beside) => (self.vector(beside)?, self.commit_info(beside)?.beyond + 1),
            None => (Arc::default(), 0),
        };
        let mut new = (*old).clone();
        new.add(dot);
        // What a hostile author names can have seen one another: the greatest numbers first, the rest is then in.
        let mut observed = observed.to_vec();
        observed.sort_unstable_by_key(|seen| std::cmp::Reverse(seen.seq));
        for seen in observed {
            if !new.covers(seen) {
                new.join(&*self.vector(seen)?);
            }
        }
        let whole = beyond >= VECTOR_ROWS || beside.is_none();
        let beyond = if whole { 0 } else { beyond };
        let vector: Vec<Dot> = if whole { new.dots().collect() } else { new.dots_beyond(&old).collect() };
        let beside = beside.filter(|beside| !whole && (beside.branch, beside.seq + 1) != (dot.branch, dot.seq));
        let shown = self.shows_since(header, batch);
        let row = CommitRow {
            hash: commit::commit_hash(&bytes),
            header: bytes,
            signature,
            count: header.count,
            arrival: self.next_arrival,
            void,
            vector,
            vector_whole: whole,
            shown,
            beside,
            beyond,
        };
        self.store.put(batch, Space::Commits, dot.key(), &encode(&row));
        batch.put(Space::Index, [b"h", &row.hash.as_bytes()[..]].concat(), dot.key());
        batch.put(Space::Index, arrival_key(row.arrival), dot.key());
        self.overlay.entering = Some((dot, row.clone()));
        self.vectors.put(dot, Arc::new(new));
        self.commits.put(dot, CommitInfo { hash: row.hash, count: row.count, void, beyond });
        Ok(())
    }

    /// Notes in memory that a commit was stored.
    pub(crate) fn entered(&mut self, dot: Dot, header: &Header, observed: &[Dot]) {
        let hash = self.commits.get(&dot).map_or(CommitHash::ZERO, |info| info.hash);
        self.next_arrival += 1;
        let branch = self.branch_mut(dot.branch);
        let before = std::mem::replace(&mut branch.tip_hash, hash);
        branch.tip = dot.seq;
        let fork = branch.forked_from;
        self.tip_hashes.remove(&before);
        self.tip_hashes.insert(hash);
        for seen in observed {
            self.frontier.remove(seen);
        }
        if header.seq > 1 {
            self.frontier.remove(&Dot { branch: dot.branch, seq: dot.seq - 1 });
            if let Some(fork) = fork {
                self.frontier.remove(&fork);
            }
        }
        self.frontier.insert(dot);
    }

    /// Drops what a failed [`Self::enter`] may have left in the caches.
    pub(crate) fn not_entered(&mut self, dot: Dot) {
        self.vectors.pop(&dot);
        self.commits.pop(&dot);
    }

    /// A commit with its changes, as its author sent it.
    pub(crate) fn export(&self, dot: Dot) -> Result<Option<ClaimedCommit>> {
        stored_commit(&self.store, dot)
    }

    /// A stored change.
    pub(crate) fn change(&self, at: ValueRef) -> Result<Arc<RawChange>> {
        if self.is_pending(at.dot) {
            // A change of the running call isn't stored yet.
            let first = self.pending.as_ref().map_or(0, |p| p.changes.len());
            if let Some(change) = (at.index as usize).checked_sub(first).and_then(|i| self.overlay.pending.get(i)) {
                return Ok(change.clone());
            }
        }
        self.change_in(&self.overlay.arriving, at)
    }

    /// A stored change, or one of these that arrive.
    fn change_in(&self, arriving: &Option<(Dot, Arc<Vec<RawChange>>)>, at: ValueRef) -> Result<Arc<RawChange>> {
        if let Some((_, changes)) = arriving.as_ref().filter(|(dot, _)| *dot == at.dot) {
            let change = changes.get(at.index as usize).ok_or_else(|| Error::damaged("a change is missing"))?;
            return Ok(Arc::new(change.clone()));
        }
        match self.store.raw().get(Space::Changes, &at.key())? {
            Some(bytes) => decode_row("change", &bytes).map(Arc::new),
            None => Err(Error::damaged("a change is missing")),
        }
    }

    /// A hash over the tips of all branches: equal on two replicas that know the same commits.
    pub(crate) fn digest(&self) -> Hash {
        if let Some((at, digest)) = self.digest.get()
            && at == self.next_arrival
        {
            return digest;
        }
        let mut hasher = crypto::Hasher::new(Label::SummaryDigest);
        for tip in &self.tip_hashes {
            hasher.update(tip.as_bytes());
        }
        let digest = hasher.finish();
        self.digest.set(Some((self.next_arrival, digest)));
        digest
    }
}

/// A commit with its changes, as its author sent it and `store` has it; not checked.
pub(crate) fn stored_commit(store: &SealedStore, dot: Dot) -> Result<Option<ClaimedCommit>> {
    let key = dot.key();
    let Some(row) = store.get(Space::Commits, &key)? else { return Ok(None) };
    let row: CommitRow = decode_row("commit", &row)?;
    let rows = store.raw().scan(Space::Changes, &key, &prefix_end(&key), MAX_CHANGES + 1)?;
    let changes: Result<Vec<RawChange>> = rows.iter().map(|(_, bytes)| decode_row("change", bytes)).collect();
    Ok(Some(ClaimedCommit { header: row.header, signature: row.signature, changes: changes? }))
}

/// Has the device that first opens this empty store write under a new log.
pub(crate) fn start_new_log(store: &SealedStore, entropy: &dyn Entropy) -> Result<()> {
    let counters = Counters { next_ino: Ino::ROOT.0 + 1, my_log: new_log_number(entropy), ..Counters::default() };
    let mut batch = Batch::new();
    store.put(&mut batch, Space::Meta, COUNTERS, &encode(&counters));
    store.apply(batch)
}

/// A number that none of the device's logs has.
fn new_log_number(entropy: &dyn Entropy) -> u64 {
    u64::from_le_bytes(random_array(entropy)) >> 1 | 1
}

/// Key of an arrival number in the index.
pub(crate) fn arrival_key(arrival: u64) -> Vec<u8> {
    [b"a", &arrival.to_be_bytes()[..]].concat()
}
