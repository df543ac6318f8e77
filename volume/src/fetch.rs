//! Which blocks to ask whom for: every content that is known but not wholly here is walked from
//! its root, and what is missing is handed to the connected peers' sessions.
//!
//! Invariants: a block is asked of one peer at a time; a peer that said it hasn't got it isn't
//! asked again on that connection; what no connected peer has waits aside until another one
//! connects; neither that nor what is here and isn't what it should be keeps anything else from
//! coming; a block stands in a queue but once; what a reader waits for goes first; no more than
//! [`WINDOW`] blocks are asked for at once, whatever is missing; a content leaves the list, and this
//! device says to have it, only when its blocks are synced.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::{Condvar, Mutex};

use crate::{
    content::{BlockHash, BlockKind, Blocks, FAN_OUT},
    error::{Error, Result},
    sealed_store::SealedStore,
    store::{Batch, Space},
    version::{BranchNo, ValueRef},
};

/// Blocks listed as missing at once.
const WINDOW: usize = 1024;
/// Contents walked at once.
const CONTENTS: usize = 64;
/// Contents held in memory, those included that wait for what nobody connected has.
const PARKED: usize = 16_384;

/// Contents that have wholly arrived are synced when so many have gathered, or no more are on their way.
const FINISHED: usize = 256;

/// Which connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct PeerNo(pub u64);

/// A content on its way here.
#[derive(Default)]
struct Walk {
    /// What is still to be looked at: hash and its height over the leaves.
    todo: Vec<(BlockHash, u32)>,
    /// Of it, listed as missing.
    listed: usize,
    /// Of these, those that no connected peer has.
    parked: usize,
    /// List nodes walked already: a list that names one node often is walked but once.
    visited: BTreeSet<(BlockHash, u32)>,
}

/// Somebody who waits for blocks, told once the last of them came: a waiter is woken once, however many they are.
#[derive(Default)]
struct Reader {
    left: AtomicUsize,
    came: Condvar,
}

struct Want {
    height: u32,
    /// Contents that wait for it; none: only a reader does.
    walks: Vec<ValueRef>,
    asked: Option<PeerNo>,
    lacked_by: BTreeSet<PeerNo>,
    /// Whether it stands in the queue, and in that of what readers wait for: each has it but once.
    queued: bool,
    urgent: bool,
    /// No connected peer has it: out of the queue, and out of the limits, until another connects.
    parked: bool,
    readers: Vec<Arc<Reader>>,
}

#[derive(Default)]
struct State {
    walks: BTreeMap<ValueRef, Walk>,
    wants: BTreeMap<BlockHash, Want>,
    queue: VecDeque<BlockHash>,
    urgent: VecDeque<BlockHash>,
    /// Contents in the store beyond those being walked.
    more: bool,
    /// Where in the store's list looking at these goes on.
    next: Vec<u8>,
    /// Of these, up to which of each branch were looked at and left, since nobody connected has something of them.
    set_aside: BTreeMap<BranchNo, ValueRef>,
    /// Wholly here, but perhaps not on the disk yet; still in the store's list.
    finished: BTreeSet<ValueRef>,
    /// Somebody is syncing for them.
    settling: bool,
    peers: BTreeSet<PeerNo>,
    /// Of the wants, the parked ones; of the walks, those that wait for one.
    parked_wants: usize,
    parked_walks: usize,
}

/// The list of what to fetch.
pub(crate) struct Fetch {
    state: Mutex<State>,
    /// Somebody is done with settling.
    settled: Condvar,
    blocks: Blocks,
    store: SealedStore,
}

/// How many list nodes lie above the blocks of a content of so many.
pub(crate) fn height(blocks: u64) -> u32 {
    let (mut reach, mut height) = (1u64, 0);
    while reach < blocks {
        reach = reach.saturating_mul(FAN_OUT);
        height += 1;
    }
    height
}

impl Fetch {
    pub(crate) fn new(blocks: Blocks, store: SealedStore) -> Self {
        let state = State { more: true, ..State::default() };
        Self { state: Mutex::new(state), settled: Condvar::new(), blocks, store }
    }

    /// Notes that the store has new contents to fetch.
    pub(crate) fn look_again(&self) {
        let state = &mut *self.state.lock();
        state.more = true;
        state.next.clear();
    }

    /// The same of contents that needn't be new.
    pub(crate) fn look_at_all_again(&self) {
        self.state.lock().begin_anew();
    }

    pub(crate) fn add_peer(&self, peer: PeerNo) {
        let state = &mut *self.state.lock();
        state.peers.insert(peer);
        // It may have what nobody else had.
        for (hash, want) in &mut state.wants {
            if std::mem::take(&mut want.parked) {
                want.enqueue(&mut state.queue, *hash);
            }
        }
        for walk in state.walks.values_mut() {
            walk.parked = 0;
        }
        (state.parked_wants, state.parked_walks) = (0, 0);
        if !state.set_aside.is_empty() {
            state.begin_anew();
        }
    }

    /// Forgets a peer; what it was asked for may be asked elsewhere.
    pub(crate) fn remove_peer(&self, peer: PeerNo) {
        let state = &mut *self.state.lock();
        state.peers.remove(&peer);
        for (hash, want) in &mut state.wants {
            want.lacked_by.remove(&peer);
            if want.asked == Some(peer) {
                want.asked = None;
                want.enqueue_first(&mut state.queue, *hash);
            }
        }
    }

    /// Blocks to ask `peer` for now, the most urgent first.
    pub(crate) fn claim(&self, peer: PeerNo, max: usize) -> Result<Vec<BlockHash>> {
        let state = &mut *self.state.lock();
        self.fill(state)?;
        let mut claimed = Vec::new();
        for urgent in [true, false] {
            let queue = if urgent { &mut state.urgent } else { &mut state.queue };
            let mut others = VecDeque::new();
            while claimed.len() < max {
                let Some(hash) = queue.pop_front() else { break };
                let Some(want) = state.wants.get_mut(&hash) else { continue };
                let due = want.asked.is_none() && !want.parked;
                if due && want.lacked_by.contains(&peer) {
                    others.push_back(hash);
                    continue;
                }
                *(if urgent { &mut want.urgent } else { &mut want.queued }) = false;
                if due {
                    want.asked = Some(peer);
                    claimed.push(hash);
                }
            }
            others.append(queue);
            *queue = others;
        }
        Ok(claimed)
    }

    /// A peer hasn't got it, or the connection broke.
    pub(crate) fn failed(&self, peer: PeerNo, hash: &BlockHash) {
        let state = &mut *self.state.lock();
        if let Some(want) = state.wants.get_mut(hash).filter(|w| w.asked == Some(peer)) {
            want.asked = None;
            want.lacked_by.insert(peer);
            if state.peers.iter().any(|p| !want.lacked_by.contains(p)) {
                want.enqueue(&mut state.queue, *hash);
                return;
            }
            if want.walks.is_empty() && want.readers.is_empty() && want.height < u32::MAX {
                // The contents that need it were set aside meanwhile.
                state.wants.remove(hash);
                return;
            }
            want.parked = true;
            state.parked_wants += 1;
            for at in &want.walks {
                if let Some(walk) = state.walks.get_mut(at) {
                    walk.parked += 1;
                    state.parked_walks += usize::from(walk.parked == 1);
                }
            }
        }
    }

    /// It came, but this device could not store it: to be asked for again, of the same peer too.
    pub(crate) fn give_back(&self, peer: PeerNo, hash: &BlockHash) {
        let state = &mut *self.state.lock();
        if let Some(want) = state.wants.get_mut(hash).filter(|w| w.asked == Some(peer)) {
            want.asked = None;
            want.enqueue_first(&mut state.queue, *hash);
        }
    }

    /// Blocks came that are what their names say; they are stored together, and what they lead to is listed.
    pub(crate) fn arrived(&self, blocks: &[(BlockHash, &[u8], BlockKind)]) -> Result<()> {
        for (_, bytes, kind) in blocks {
            match kind {
                BlockKind::List => {
                    let below: Vec<BlockHash> = children(bytes, 1).into_iter().map(|(hash, _)| hash).collect();
                    self.blocks.note_needed(&below);
                }
                BlockKind::Patch { base } => self.blocks.note_needed(&[*base]),
                BlockKind::Block => {}
            }
        }
        let named: Vec<_> = blocks.iter().map(|(hash, bytes, _)| (*hash, *bytes)).collect();
        self.blocks.put_all(&named, true)?;
        let state = &mut *self.state.lock();
        for (hash, bytes, kind) in blocks {
            state.arrived(hash, bytes, *kind);
        }
        Ok(())
    }

    /// Finds out what to ask for next, and what has wholly arrived. What fails here is this device's own trouble.
    pub(crate) fn go_on(&self) -> Result<()> {
        self.fill(&mut self.state.lock())?;
        self.settle()
    }

    /// Takes contents off the store's list that have wholly arrived, when there are enough of them or nothing else to
    /// do: their blocks are synced first, so that power loss can't make a content missing that isn't on the list.
    pub(crate) fn settle(&self) -> Result<()> {
        let done: BTreeSet<ValueRef> = {
            let state = &mut *self.state.lock();
            let enough = state.finished.len() >= FINISHED || state.walks.len() == state.parked_walks && !state.more;
            if state.finished.is_empty() || state.settling || !enough {
                return Ok(());
            }
            state.settling = true;
            state.finished.clone()
        };
        let mut batch = Batch::new();
        for at in &done {
            batch.remove(Space::Wanted, at.key());
        }
        let result = self.blocks.sync().and_then(|()| self.store.apply(batch));
        let state = &mut *self.state.lock();
        state.settling = false;
        self.settled.notify_all();
        if result.is_ok() {
            state.finished.retain(|at| !done.contains(at));
        }
        result
    }

    /// Whether nothing is missing.
    pub(crate) fn is_complete(&self) -> bool {
        loop {
            let filled = self.fill(&mut self.state.lock());
            if let Err(e) = filled.and_then(|()| self.settle()) {
                log::error!("looking for missing contents: {e}");
                return false;
            }
            let mut state = self.state.lock();
            if !state.settling {
                let none_left = state.walks.is_empty() && state.set_aside.is_empty() && state.finished.is_empty();
                return none_left && !state.more;
            }
            // Another thread is about to make it complete, and would tell nobody: an answer now could stay wrong.
            self.settled.wait(&mut state);
        }
    }

    /// Whether a session may have something to ask for.
    pub(crate) fn has_work(&self) -> bool {
        let state = self.state.lock();
        state.more || !state.queue.is_empty() || !state.urgent.is_empty()
    }

    /// Blocks listed as missing, and contents not wholly here (at least).
    pub(crate) fn missing(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.wants.len() as u64, state.walks.len() as u64)
    }

    /// Puts blocks first in the queue and waits for them. Tells whether they are all here.
    pub(crate) fn wait(
        &self,
        hashes: &[BlockHash],
        timeout: Duration,
        now: impl Fn() -> Duration,
        wake: impl Fn(),
    ) -> bool {
        let here = |hash: &BlockHash| self.blocks.store().head(hash).is_ok_and(|h| h.is_some());
        let reader = Arc::new(Reader::default());
        let mut missing = Vec::new();
        {
            // Looked for with the lock held: what isn't here now will be noted to have come, and this reader with it.
            let state = &mut *self.state.lock();
            let wanted: BTreeSet<BlockHash> = hashes.iter().copied().filter(|h| !h.is_hole() && !here(h)).collect();
            for hash in wanted {
                let want = state.wants.entry(hash).or_insert_with(|| Want::new(u32::MAX, Vec::new()));
                want.readers.push(reader.clone());
                if want.asked.is_none() && !want.parked && !want.urgent {
                    want.urgent = true;
                    state.urgent.push_back(hash);
                }
                missing.push(hash);
            }
            reader.left.store(missing.len(), Ordering::Relaxed);
        }
        wake();
        let deadline = now() + timeout;
        let mut state = self.state.lock();
        while reader.left.load(Ordering::Relaxed) > 0 {
            let left = deadline.saturating_sub(now());
            if left.is_zero() {
                for hash in &missing {
                    let Some(want) = state.wants.get_mut(hash) else { continue };
                    want.readers.retain(|other| !Arc::ptr_eq(other, &reader));
                    // Nobody waits for it any more, but the contents that need it.
                    let unused = want.readers.is_empty() && want.walks.is_empty();
                    if unused && want.asked.is_none() && !want.parked {
                        state.wants.remove(hash);
                    }
                }
                let State { wants, queue, urgent, .. } = &mut *state;
                urgent.retain(|hash| wants.contains_key(hash));
                queue.retain(|hash| wants.contains_key(hash));
                return missing.iter().all(here);
            }
            reader.came.wait_for(&mut state, left);
        }
        true
    }

    /// Goes on walking until the window is full or everything is looked at.
    fn fill(&self, state: &mut State) -> Result<()> {
        loop {
            for at in self.walk_all(state)? {
                state.walks.remove(&at);
                state.finished.insert(at);
            }
            if state.more && state.walks.len() >= PARKED {
                state.set_parked_aside();
            }
            if !state.more || !state.has_room() {
                return Ok(());
            }
            self.load_more(state)?;
        }
    }

    /// Takes up contents that aren't walked yet, as many as there is room for.
    fn load_more(&self, state: &mut State) -> Result<()> {
        let mut from = std::mem::take(&mut state.next);
        'rows: loop {
            let rows = self.store.scan(Space::Wanted, &from, &[], 2 * CONTENTS)?;
            let Some((last, _)) = rows.last() else { break };
            from = [last.as_slice(), &[0]].concat();
            for (key, bytes) in rows {
                if !state.has_room() {
                    state.next = key;
                    return Ok(());
                }
                if let Some(at) = ValueRef::from_key(&key)
                    && let Some(last) = state.set_aside.get(&at.dot.branch).filter(|last| at <= **last)
                {
                    from = [&last.key()[..], &[0]].concat();
                    continue 'rows;
                }
                let parsed: Option<(BlockHash, u64)> = rmp_serde::from_slice(&bytes).ok();
                let (Some(at), Some((root, blocks))) = (ValueRef::from_key(&key), parsed) else { continue };
                if state.finished.contains(&at) {
                    continue;
                }
                state.walks.entry(at).or_insert_with(|| Walk { todo: vec![(root, height(blocks))], ..Walk::default() });
            }
        }
        state.more = false;
        Ok(())
    }

    /// Walks every content as far as the window allows; returns those that are wholly here.
    fn walk_all(&self, state: &mut State) -> Result<Vec<ValueRef>> {
        let mut done = Vec::new();
        let State { walks, wants, queue, parked_wants, parked_walks, .. } = state;
        for (&at, walk) in walks.iter_mut() {
            while wants.len() - *parked_wants < WINDOW {
                // Taken off only when it is dealt with: an error of the disk must not lose it.
                let Some(&(hash, height)) = walk.todo.last() else { break };
                let again = height > 0 && walk.visited.contains(&(hash, height));
                if hash.is_hole() || again {
                    walk.todo.pop();
                    continue;
                }
                if let Some(want) = wants.get_mut(&hash) {
                    if want.height == u32::MAX {
                        want.height = height;
                    }
                    want.walks.push(at);
                    walk.listed += 1;
                    if want.parked {
                        walk.parked += 1;
                        *parked_walks += usize::from(walk.parked == 1);
                    }
                    walk.todo.pop();
                    continue;
                }
                // A damaged list node or patch is dropped, and fetched again as one that isn't here.
                let head = self.blocks.store().head(&hash)?;
                if height == 0
                    && let Some(head) = head
                {
                    match self.blocks.base_of(&hash, &head) {
                        Ok(base) => {
                            walk.todo.pop();
                            walk.todo.extend(base.map(|base| (base, 0)));
                            continue;
                        }
                        Err(Error::Absent(_)) => {}
                        Err(Error::Damaged(_)) => {
                            // A list node that begins as a patch: its author's doing, and nothing to wait for.
                            log::warn!("block {} is no patch where one seems to be", hash.short());
                            walk.todo.pop();
                            continue;
                        }
                        Err(e) => return Err(e),
                    }
                } else if head.is_some()
                    && !self.blocks.drop_damaged(&hash)?
                    && let Some(bytes) = self.blocks.get_checked(&hash)?
                {
                    walk.todo.pop();
                    if BlockHash::of_list(&bytes) == hash {
                        walk.visited.insert((hash, height));
                        walk.todo.extend(children(&bytes, height));
                    } else {
                        // Its author's doing as well. What can't get any better must not stand in the way of others.
                        log::warn!("block {} stands where a list should: its content is damaged", hash.short());
                    }
                    continue;
                }
                let mut want = Want::new(height, vec![at]);
                want.enqueue(queue, hash);
                wants.insert(hash, want);
                walk.listed += 1;
                walk.todo.pop();
            }
            if walk.todo.is_empty() && walk.listed == 0 {
                done.push(at);
            }
        }
        Ok(done)
    }
}

impl Want {
    fn new(height: u32, walks: Vec<ValueRef>) -> Self {
        let (lacked_by, readers) = (BTreeSet::new(), Vec::new());
        Self { height, walks, asked: None, lacked_by, queued: false, urgent: false, parked: false, readers }
    }

    fn enqueue(&mut self, queue: &mut VecDeque<BlockHash>, hash: BlockHash) {
        if !std::mem::replace(&mut self.queued, true) {
            queue.push_back(hash);
        }
    }

    fn enqueue_first(&mut self, queue: &mut VecDeque<BlockHash>, hash: BlockHash) {
        if !std::mem::replace(&mut self.queued, true) {
            queue.push_front(hash);
        }
    }
}

impl State {
    /// Notes that a block is stored.
    fn arrived(&mut self, hash: &BlockHash, bytes: &[u8], kind: BlockKind) {
        let Some(want) = self.wants.remove(hash) else { return };
        for reader in &want.readers {
            if reader.left.fetch_sub(1, Ordering::Relaxed) == 1 {
                reader.came.notify_one();
            }
        }
        let list_due = want.height > 0 && want.height < u32::MAX;
        let leads_to = match kind {
            BlockKind::List if list_due => children(bytes, want.height),
            _ if list_due => {
                log::warn!("block {} stands where a list should: its content is damaged", hash.short());
                Vec::new()
            }
            BlockKind::Patch { base } => vec![(base, 0)],
            BlockKind::List | BlockKind::Block => Vec::new(),
        };
        self.parked_wants -= usize::from(want.parked);
        for at in want.walks {
            let Some(walk) = self.walks.get_mut(&at) else { continue };
            walk.listed -= 1;
            if want.parked && walk.parked > 0 {
                walk.parked -= 1;
                self.parked_walks -= usize::from(walk.parked == 0);
            }
            walk.todo.extend(leads_to.iter().copied());
        }
    }

    /// Whether another content may be walked.
    fn has_room(&self) -> bool {
        self.walks.len() - self.parked_walks < CONTENTS
            && self.walks.len() < PARKED
            && self.wants.len() - self.parked_wants < WINDOW
    }

    /// Leaves the contents that wait for what nobody connected has to the store's list, until another peer connects: others
    /// come behind them. All that stand before one of them, of its branch, were looked at: branches grow at their end.
    fn set_parked_aside(&mut self) {
        for (&at, _) in self.walks.iter().filter(|(_, walk)| walk.parked > 0) {
            let last = self.set_aside.entry(at.dot.branch).or_insert(at);
            *last = at.max(*last);
        }
        self.forget_walks(|walk| walk.parked > 0);
    }

    /// Looks at all contents as if none had been; also at those being walked, in their order.
    fn begin_anew(&mut self) {
        self.forget_walks(|_| true);
        self.set_aside.clear();
        self.next.clear();
        self.more = true;
    }

    fn forget_walks(&mut self, which: impl Fn(&Walk) -> bool) {
        let forgotten: BTreeSet<ValueRef> =
            self.walks.iter().filter(|(_, walk)| which(walk)).map(|(at, _)| *at).collect();
        self.walks.retain(|at, _| !forgotten.contains(at));
        self.parked_walks = self.walks.values().filter(|walk| walk.parked > 0).count();
        let parked_wants = &mut self.parked_wants;
        self.wants.retain(|_, want| {
            let waited_for = !want.walks.is_empty();
            want.walks.retain(|at| !forgotten.contains(at));
            let needed = !want.walks.is_empty() || !want.readers.is_empty();
            let keep = !waited_for || needed || want.asked.is_some() || want.urgent;
            *parked_wants -= usize::from(want.parked && !keep);
            keep
        });
    }
}

/// What a list node leads to, the last first (walks take from the end).
pub(crate) fn children(bytes: &[u8], height: u32) -> Vec<(BlockHash, u32)> {
    let hashes = bytes.chunks_exact(BlockHash::LEN).filter_map(|c| BlockHash::try_from(c).ok());
    let mut children: Vec<(BlockHash, u32)> = hashes.map(|hash| (hash, height - 1)).collect();
    children.reverse();
    children
}

/// Shared by the volume and its sessions.
pub(crate) type SharedFetch = Arc<Fetch>;

#[cfg(test)]
mod tests;
