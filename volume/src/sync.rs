//! Replication with one peer, as a state machine without I/O: messages in, messages out.
//!
//! Both sides say a digest of what they know. Where they differ, both send the tips of all logs;
//! from then on each streams what the other lacks in the order in which it arrived here (a causal
//! one), and then whatever comes new. When all contents of what a side knows are there, it says so.
//!
//! The network task calls [`Session::receive`] with what came and [`Session::next_outgoing`]
//! whenever it can write: nothing is made before it can be sent, so a slow peer costs no memory.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::ControlFlow,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use crypto::{DeviceId, Hash};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use SessionError::{Failed, Misbehaved};

use crate::{
    Volume,
    apply::Received,
    commit::{ClaimedCommit, Commit, MAX_COMMIT_BYTES, Malformed, decode, encode},
    content::{BlockHash, BlockKind},
    core::{Core, arrival_key},
    error::{Error, Result},
    fetch::PeerNo,
    id::CommitHash,
    letters::Exchange,
    set_back::Had,
    store::Space,
    version::{BranchNo, Dot, VersionVector},
};

/// Largest encoded message, in bytes.
pub const MAX_MESSAGE: usize = 4 << 20;
/// Blocks that a peer lacks though it says to have all: as many are told of. (One or two its disk may have lost.)
const WITHHELD: u32 = 16;
/// Bytes of commits gathered into one message.
const BATCH_BYTES: usize = 512 << 10;
/// Most tips in one message; a volume with more logs needs several.
pub(crate) const MAX_TIPS: usize = 40_000;
/// Commits that wait for one they refer to, over all peers.
pub(crate) const MAX_WAITING: usize = 2048;
/// Bytes of them.
pub(crate) const MAX_WAITING_BYTES: usize = 32 << 20;
/// What a change takes beside its bytes.
const CHANGE_DECODED: usize = 512;
/// What a peer may cost without bringing anything new, in points: at once, and more each second. An honest one stays
/// far below.
const CREDIT: u64 = 10_000;
const CREDIT_PER_SECOND: u64 = 200;
/// A list of tips costs this, and a point for so many of them: each is looked up.
const TIPS_COST: u64 = 100;
const TIPS_PER_POINT: u64 = 5;
/// A flush commits and syncs.
const FLUSH_COST: u64 = 5;
/// A commit that waits for one that isn't here.
const WAITING_COST: u64 = 1;
/// A wanted commit has those that arrived after it looked at once more: a point for so many.
const ARRIVALS_PER_POINT: u64 = 4096;
/// So many arrivals are looked at without letting go of the core.
const ARRIVALS_AT_ONCE: u64 = 2000;
/// After running out of room: when to see whether there is some again.
const RETRY_ROOM: Duration = Duration::from_secs(1);
/// After the disk failed otherwise.
const RETRY_DISK: Duration = Duration::from_secs(30);

/// One branch's newest commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tip {
    /// The author.
    pub device: DeviceId,
    /// Which of its logs.
    pub log: u64,
    /// The commit's number.
    pub seq: u64,
    /// The commit.
    pub hash: CommitHash,
}

/// What peers say to each other about a volume (`docs/format.md`, "Sync messages").
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// What the sender knows, as a digest, and whether it has all contents of it.
    #[serde(rename = "s")]
    State {
        /// Over the tips of all logs.
        digest: Hash,
        /// All contents are there.
        complete: bool,
        /// How many commits the sender knows.
        commits: u64,
    },
    /// The tips of all logs the sender knows: send me what I lack.
    #[serde(rename = "t")]
    Tips(Vec<Tip>),
    /// Commits, in a causal order.
    #[serde(rename = "c")]
    Commits(Vec<ClaimedCommit>),
    /// The sender lacks this commit, which others refer to.
    #[serde(rename = "w")]
    Want(CommitHash),
    /// Commit what is pending and say [`Message::Flushed`] with the same number once all of it is sent.
    #[serde(rename = "f")]
    Flush(u64),
    /// What was done before the [`Message::Flush`] of this number came has been sent.
    #[serde(rename = "d")]
    Flushed(u64),
}

impl Message {
    /// The bytes on the wire.
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// The inverse of [`Self::encode`].
    ///
    /// # Errors
    /// [`Malformed`] for anything but a canonical message within its limits.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        if bytes.len() > MAX_MESSAGE {
            return Err(Malformed::TooLarge("message"));
        }
        decode("message", bytes)
    }
}

/// A message of which all is checked that needs no state: by any thread, also while the messages before it are taken
/// in. What is wrong with it shows when its turn comes.
pub struct CheckedMessage(Checked);

enum Checked {
    Commits(Vec<Commit>),
    /// Commits of which one isn't well-formed.
    Bad(Malformed),
    Other(Message),
}

impl From<Message> for CheckedMessage {
    fn from(message: Message) -> Self {
        Self(match message {
            Message::Commits(commits) => match commits.into_iter().map(ClaimedCommit::check).collect() {
                Ok(commits) => Checked::Commits(commits),
                Err(flaw) => Checked::Bad(flaw),
            },
            other => Checked::Other(other),
        })
    }
}

impl CheckedMessage {
    /// Adds the commits of the message that came next, so that both are synced together.
    ///
    /// # Errors
    /// That message, if these aren't both well-formed commits.
    pub fn join(&mut self, next: CheckedMessage) -> Result<(), CheckedMessage> {
        match (&mut self.0, next.0) {
            (Checked::Commits(commits), Checked::Commits(mut more)) if !commits.is_empty() && !more.is_empty() => {
                commits.append(&mut more);
                Ok(())
            }
            (_, next) => Err(Self(next)),
        }
    }
}

/// Why a connection should be ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// The peer did what no honest one does.
    #[error("peer misbehaves: {0}")]
    Misbehaved(String),
    /// This device can't go on with it now; the peer is not to blame.
    #[error("{0}")]
    Failed(String),
}

/// How far two peers are with each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerProgress {
    /// Commits it has said to have and that aren't here.
    pub their_commits_missing_here: u64,
    /// Commits here that it hasn't.
    pub my_commits_missing_there: u64,
    /// Both know the same commits.
    pub in_step: bool,
    /// It has all contents of all commits known here.
    pub they_hold_all_mine: bool,
    /// All contents of all commits it knows are here.
    pub i_hold_all_theirs: bool,
    /// The last [`Session::ask_flush`] that it has answered; 0: none.
    pub flushed: u64,
}

/// Asking the peer to commit what it has pending.
#[derive(Default)]
struct Flush {
    asked: u64,
    sent: u64,
    answered: u64,
}

/// What a peer may still cost (see [`CREDIT`]).
struct Credit {
    left: u64,
    at: Duration,
}

impl Default for Credit {
    fn default() -> Self {
        Self { left: CREDIT, at: Duration::ZERO }
    }
}

impl Credit {
    fn spend(&mut self, now: Duration, cost: u64) -> Result<(), SessionError> {
        let earned = now.saturating_sub(self.at).as_millis().saturating_mul(CREDIT_PER_SECOND.into()) / 1000;
        if earned > 0 {
            self.left = self.left.saturating_add(u64::try_from(earned).unwrap_or(u64::MAX)).min(CREDIT);
            self.at = now;
        }
        self.left = self.left.checked_sub(cost).ok_or_else(|| Misbehaved("floods".to_owned()))?;
        Ok(())
    }
}

#[derive(Default)]
struct State {
    credit: Credit,
    /// Commits that came though they were here, of as many as may: the tips told it what is here.
    repeated: u64,
    repeats_allowed: u64,
    /// This disk let something go once: what comes after it waits, through no fault of the peer's.
    has_let_go: bool,
    /// What the peer last said of itself.
    theirs: Option<(Hash, bool, u64)>,
    /// Blocks it hasn't got though it says to have all.
    withheld: u32,
    /// What was last said to it.
    said: Option<(Hash, bool)>,
    tips_due: bool,
    tips_sent: bool,
    /// What the peer is known to know; `None` before its tips came.
    known: Option<VersionVector>,
    /// What it has sent and is being taken in: to be sent on to others, not back to it.
    coming: BTreeSet<CommitHash>,
    /// Where in the order of arrival sending goes on.
    next_arrival: u64,
    wants: Vec<CommitHash>,
    /// The first arrival among them.
    wanted_from: Option<u64>,
    /// Commits to ask for, the first noted first.
    to_ask: VecDeque<CommitHash>,
    /// These, and those asked for that have not come.
    asking: BTreeSet<CommitHash>,
    /// This disk could not take what came. Nothing is asked for before this time, and then all of it anew.
    retry: Option<Duration>,
    /// Commits were let go for it.
    let_go: bool,
    /// Commits were let go since too many wait: they must be sent again, once what was asked for has come.
    dropped: bool,
    /// Flushes asked of the peer, and the last one that it answered.
    flush: Flush,
    /// The last flush the peer asked for that is done here, until it is told.
    flushed: Option<u64>,
    wake: Option<Arc<dyn Fn() + Send + Sync>>,
}

impl State {
    /// Notes a commit to be asked for, unless it is already.
    fn ask(&mut self, hash: CommitHash) {
        if self.asking.len() < MAX_WAITING && self.asking.insert(hash) {
            self.to_ask.push_back(hash);
        }
    }
}

/// The replication with one connected peer.
pub struct Session {
    pub(crate) volume: Volume,
    peer: DeviceId,
    number: PeerNo,
    /// What the peer had as the session began.
    had: Had,
    pub(crate) shared: Arc<SessionShared>,
    pub(crate) letters: Mutex<Exchange>,
}

/// The part that the volume knows of, to wake it.
pub(crate) struct SessionShared {
    state: Mutex<State>,
}

impl SessionShared {
    pub(crate) fn wake(&self) {
        let wake = self.state.lock().wake.clone();
        if let Some(wake) = wake {
            wake();
        }
    }
}

/// Commits that wait for one they refer to.
///
/// Each sender may keep as many, and as many bytes, as are left free: whatever some send, there is room for the next one.
#[derive(Default)]
pub(crate) struct Waiting {
    by_missing: BTreeMap<CommitHash, Vec<Kept>>,
    /// For which commit each waits.
    causes: BTreeMap<CommitHash, CommitHash>,
    /// How many each session sent, and their bytes.
    of: BTreeMap<PeerNo, (usize, usize)>,
    bytes: usize,
}

struct Kept {
    /// The sessions that it came from; none if it waited on the disk.
    from: Vec<PeerNo>,
    commit: Commit,
}

impl Waiting {
    /// How many.
    pub(crate) fn len(&self) -> usize {
        self.causes.len()
    }

    /// Keeps a commit; `false` when there is no more room for its sender.
    pub(crate) fn keep(&mut self, missing: CommitHash, commit: Commit, from: Option<PeerNo>) -> bool {
        let bytes = size(&commit);
        if let Some(cause) = self.causes.get(&commit.hash) {
            let kept =
                self.by_missing.get_mut(cause).and_then(|of| of.iter_mut().find(|k| k.commit.hash == commit.hash));
            if let (Some(kept), Some(from)) = (kept, from)
                && !kept.from.is_empty()
                && !kept.from.contains(&from)
            {
                kept.from.push(from);
                self.count_in(from, bytes);
            }
            return true;
        }
        let (free, free_bytes) = (MAX_WAITING - self.len(), MAX_WAITING_BYTES - self.bytes);
        let (mine, my_bytes) = from.and_then(|from| self.of.get(&from)).copied().unwrap_or_default();
        if mine >= free || my_bytes + bytes > free_bytes {
            return false;
        }
        self.causes.insert(commit.hash, missing);
        self.bytes += bytes;
        from.into_iter().for_each(|from| self.count_in(from, bytes));
        self.by_missing.entry(missing).or_default().push(Kept { from: from.into_iter().collect(), commit });
        true
    }

    /// What has to come for these to be known: of one that waits, what it waits for. The session that was to ask for that
    /// may have ended.
    fn lacking(&self, wanted: Vec<CommitHash>) -> Vec<CommitHash> {
        let (mut lacking, mut followed) = (Vec::new(), BTreeSet::new());
        for mut hash in wanted {
            while followed.insert(hash) {
                match self.causes.get(&hash) {
                    Some(cause) => hash = *cause,
                    None => lacking.push(hash),
                }
            }
        }
        lacking
    }

    fn take(&mut self, came: &CommitHash) -> Vec<Commit> {
        let taken = self.by_missing.remove(came).unwrap_or_default();
        taken.into_iter().map(|kept| self.let_go(kept)).collect()
    }

    /// Lets go what came from this session alone.
    fn forget(&mut self, from: PeerNo) {
        if self.of.remove(&from).is_none() {
            return;
        }
        for (missing, all) in std::mem::take(&mut self.by_missing) {
            for mut kept in all {
                let was_its = kept.from.contains(&from);
                kept.from.retain(|other| *other != from);
                if was_its && kept.from.is_empty() {
                    self.let_go(kept);
                } else {
                    self.by_missing.entry(missing).or_default().push(kept);
                }
            }
        }
    }

    fn count_in(&mut self, from: PeerNo, bytes: usize) {
        let (count, of_bytes) = self.of.entry(from).or_default();
        (*count, *of_bytes) = (*count + 1, *of_bytes + bytes);
    }

    fn let_go(&mut self, kept: Kept) -> Commit {
        let bytes = size(&kept.commit);
        self.causes.remove(&kept.commit.hash);
        self.bytes -= bytes;
        for from in kept.from {
            if let Some((count, of_bytes)) = self.of.get_mut(&from) {
                (*count, *of_bytes) = (*count - 1, *of_bytes - bytes);
                if *count == 0 {
                    self.of.remove(&from);
                }
            }
        }
        kept.commit
    }
}

/// About what a commit takes in memory: its header raw and decoded, and of each change what is decoded beside its bytes.
fn size(commit: &Commit) -> usize {
    2 * commit.raw.header.len() + commit.raw.changes.iter().map(|c| c.size() + CHANGE_DECODED).sum::<usize>()
}

/// What became of commits that were taken in.
#[derive(Default)]
pub(crate) struct Taken {
    /// Those that others refer to and that aren't here.
    missing: Vec<CommitHash>,
    /// Some that refer to these could not be kept.
    dropped: bool,
    /// How many were here already.
    known: u64,
    /// How many wait.
    waiting: u64,
}

impl Volume {
    /// Begins replication with a peer that has proven its device.
    pub fn session(&self, peer: DeviceId) -> Session {
        let number = PeerNo(self.inner.next_peer.fetch_add(1, Ordering::Relaxed));
        let shared = Arc::new(SessionShared { state: Mutex::new(State::default()) });
        self.inner.sessions.lock().insert(number, shared.clone());
        self.inner.fetch.add_peer(number);
        let had = self.inner.core.lock().had_by(&peer);
        Session { volume: self.clone(), peer, number, had, shared, letters: Mutex::default() }
    }

    /// What this device would say of itself: digest, completeness, number of commits.
    fn own_state(&self) -> (Hash, bool, u64) {
        let (digest, commits) = {
            let core = self.inner.core.lock();
            (core.digest(), core.next_arrival - 1)
        };
        // Looked at afterwards: what is complete for all that is known now was so for less.
        (digest, self.inner.fetch.is_complete(), commits)
    }
}

impl Core {
    fn all_tips(&self) -> Vec<Tip> {
        let tips = self.branches.iter().filter(|b| b.tip > 0);
        tips.map(|b| Tip { device: b.device, log: b.log, seq: b.tip, hash: b.tip_hash }).collect()
    }

    /// What a peer with these tips surely knows.
    fn known_by(&mut self, tips: &[Tip]) -> Result<VersionVector> {
        let mut known = VersionVector::default();
        let (mut newest, mut seen, mut ahead) = (Vec::new(), Vec::new(), Vec::new());
        for tip in tips {
            match self.dot_of_tip(tip)? {
                Some(dot) if self.branch(dot.branch).tip == dot.seq && !self.frontier.contains(&dot) => seen.push(dot),
                Some(dot) => newest.push((self.commit_info(dot)?.count, dot)),
                None => ahead.push(tip),
            }
        }
        // What had seen most comes first: of ten thousand tips nearly all are then in.
        newest.sort_unstable_by_key(|tip| std::cmp::Reverse(*tip));
        for dot in newest.into_iter().map(|(_, dot)| dot).chain(seen) {
            if !known.covers(dot) {
                known.join(&*self.vector(dot)?);
            }
        }
        for tip in ahead {
            // It is ahead of us in that log, or on another branch of it: then it has a commit
            // with a number that we know otherwise, and knows of ours what came before at most.
            for no in self.branches_of(&tip.device, tip.log).to_vec() {
                if tip.seq > self.branch(no).tip {
                    known.add(Dot { branch: no, seq: self.branch(no).tip });
                }
            }
        }
        Ok(known)
    }

    /// The commit of a tip; that it is the newest of its log here, too, is seen without a look into the store.
    fn dot_of_tip(&self, tip: &Tip) -> Result<Option<Dot>> {
        let same = self.branches_of(&tip.device, tip.log).iter().find(|no| self.branch(**no).tip_hash == tip.hash);
        match same {
            Some(&branch) if tip.hash != CommitHash::ZERO => Ok(Some(Dot { branch, seq: self.branch(branch).tip })),
            _ => self.dot_of(&tip.hash),
        }
    }

    /// Tips that can only be of another branch of a log: of a number known here, but another commit.
    pub(crate) fn forked_tips<'a>(&self, tips: &'a [Tip]) -> Result<Vec<&'a Tip>> {
        let mut forked = Vec::new();
        for tip in tips {
            let known = self.branches_of(&tip.device, tip.log).iter().any(|no| self.branch(*no).tip >= tip.seq);
            if known && self.dot_of_tip(tip)?.is_none() {
                forked.push(tip);
            }
        }
        Ok(forked)
    }

    /// The first arrival that a peer knowing `known` may lack.
    fn first_lacking(&self, known: &VersionVector) -> Result<u64> {
        let mut first = self.next_arrival;
        for number in 0..self.branches.len() {
            if let Some(dot) = self.first_lacking_of(BranchNo(number as u32), known)
                && let Some(row) = self.commit_row(dot)?
            {
                first = first.min(row.arrival);
            }
        }
        Ok(first)
    }
}

impl Session {
    /// The peer.
    pub fn peer(&self) -> DeviceId {
        self.peer
    }

    /// Which session of the volume: no other has this number.
    pub fn number(&self) -> u64 {
        self.number.0
    }

    /// What to send first.
    pub fn opening(&self) -> Vec<Message> {
        let (digest, complete, commits) = self.volume.own_state();
        self.shared.state.lock().said = Some((digest, complete));
        vec![Message::State { digest, complete, commits }]
    }

    /// How many commits are noted to be asked of this peer or sent at its request. Bounded, whatever it says.
    pub fn queued(&self) -> usize {
        let state = self.shared.state.lock();
        state.asking.len() + state.wants.len()
    }

    /// Calls `wake` (from any thread, no locks held) when there may be something to send or to ask for.
    pub fn on_wake(&self, wake: Box<dyn Fn() + Send + Sync>) {
        self.shared.state.lock().wake = Some(Arc::from(wake));
    }

    fn is_member(&self) -> bool {
        self.volume.is_member(&self.peer)
    }

    /// Whether the peer was removed from the volume.
    pub fn is_removed(&self) -> bool {
        self.volume.inner.core.lock().removed_at(&self.peer).is_some()
    }

    /// Whether the peer was removed, and all is sent that tells it so: end the connection.
    pub fn is_cut(&self) -> bool {
        let removed_at = self.volume.inner.core.lock().removed_at(&self.peer);
        let state = self.shared.state.lock();
        removed_at.is_some_and(|removed_at| state.known.is_none() || state.next_arrival > removed_at)
    }

    /// Takes a message in.
    ///
    /// # Errors
    /// [`SessionError`]: end the connection.
    pub fn receive(&self, message: impl Into<CheckedMessage>) -> Result<(), SessionError> {
        let CheckedMessage(message) = message.into();
        let taken = self.spend(self.cost(&message)).and_then(|()| self.take(message));
        if matches!(taken, Err(Misbehaved(_))) {
            self.volume.inner.waiting.lock().forget(self.number);
        }
        taken
    }

    /// What a message costs, for as much as can be told before it is taken in.
    fn cost(&self, message: &Checked) -> u64 {
        let message = match message {
            Checked::Commits(commits) => return u64::from(commits.is_empty()),
            Checked::Bad(_) => return 0,
            Checked::Other(message) => message,
        };
        match message {
            Message::State { commits, .. } => {
                let said = self.shared.state.lock().theirs.map(|(_, _, commits)| commits);
                u64::from(said.is_some_and(|said| *commits <= said))
            }
            Message::Tips(tips) => TIPS_COST + tips.len() as u64 / TIPS_PER_POINT,
            Message::Commits(commits) => u64::from(commits.is_empty()),
            Message::Want(_) | Message::Flushed(_) => 1,
            Message::Flush(_) => FLUSH_COST,
        }
    }

    fn spend(&self, cost: u64) -> Result<(), SessionError> {
        if cost == 0 {
            return Ok(());
        }
        let now = self.volume.inner.clock.monotonic();
        self.shared.state.lock().credit.spend(now, cost)
    }

    fn take(&self, message: Checked) -> Result<(), SessionError> {
        match message {
            Checked::Commits(commits) => self.receive_commits(commits)?,
            Checked::Bad(flaw) => return Err(Misbehaved(flaw.to_string())),
            Checked::Other(message) => self.take_other(message)?,
        }
        self.shared.wake();
        Ok(())
    }

    fn take_other(&self, message: Message) -> Result<(), SessionError> {
        match message {
            Message::State { digest, complete, commits } => {
                let (own, _, _) = self.volume.own_state();
                let mut state = self.shared.state.lock();
                state.theirs = Some((digest, complete, commits));
                if digest != own && !state.tips_sent {
                    state.tips_due = true;
                }
                if digest == own {
                    self.knows_the_same(&own, complete);
                }
                if digest == own && state.known.is_none() {
                    // Equal: there is nothing to send but what comes from now on.
                    let mut core = self.volume.inner.core.lock();
                    let tips = core.all_tips();
                    state.known = core.known_by(&tips).ok();
                    state.next_arrival = core.next_arrival;
                }
            }
            Message::Tips(tips) => {
                let planned = {
                    let mut core = self.volume.inner.core.lock();
                    core.known_by(&tips).and_then(|known| {
                        let first = core.first_lacking(&known)?;
                        if core.lacks_what_it_had(&tips, &known, first, &self.had)? {
                            core.note_lacks(&self.peer)?;
                        }
                        let forked: Vec<CommitHash> = core.forked_tips(&tips)?.iter().map(|tip| tip.hash).collect();
                        Ok((first, forked, known))
                    })
                };
                let (first, forked, known) = planned.map_err(|e| Failed(e.to_string()))?;
                let mut state = self.shared.state.lock();
                forked.into_iter().for_each(|hash| state.ask(hash));
                state.next_arrival = first;
                state.known = Some(known);
                if !state.tips_sent {
                    state.tips_due = true;
                }
            }
            Message::Commits(_) => return self.take(CheckedMessage::from(message).0),
            Message::Want(hash) => {
                let mut state = self.shared.state.lock();
                let row = {
                    let core = self.volume.inner.core.lock();
                    // What can't be read is told of where it is to be sent.
                    core.dot_of(&hash).ok().flatten().and_then(|dot| core.commit_row(dot).ok().flatten())
                };
                if let Some(arrival) = row.map(|row| row.arrival) {
                    let from = state.wanted_from.map_or(state.next_arrival, |from| from.min(state.next_arrival));
                    let cost = from.saturating_sub(arrival) / ARRIVALS_PER_POINT;
                    state.credit.spend(self.volume.inner.clock.monotonic(), cost)?;
                    state.wanted_from = Some(from.min(arrival));
                }
                if state.wants.len() < MAX_WAITING {
                    state.wants.push(hash);
                }
            }
            Message::Flush(number) => match self.volume.commit_unsent() {
                Ok(()) => self.shared.state.lock().flushed = Some(number),
                // Unanswered: whoever asked must not think that it has everything.
                Err(e) => log::error!("the pending commit could not be stored: {e}"),
            },
            Message::Flushed(number) => {
                let mut state = self.shared.state.lock();
                state.flush.answered = number.min(state.flush.sent).max(state.flush.answered);
            }
        }
        Ok(())
    }

    /// The peer has said to know just what is known here.
    fn knows_the_same(&self, digest: &Hash, complete: bool) {
        let mut core = self.volume.inner.core.lock();
        // Not if more has come since.
        if core.digest() != *digest {
            return;
        }
        core.knows_all(self.peer);
        if complete {
            core.said_complete(self.peer);
        }
        if let Err(e) = core.met(self.peer) {
            log::error!("that a device was met can't be stored: {e}");
        }
    }

    fn receive_commits(&self, commits: Vec<Commit>) -> Result<(), SessionError> {
        let hashes: Vec<CommitHash> = commits.iter().map(|c| c.hash).collect();
        self.shared.state.lock().coming = hashes.iter().copied().collect();
        let taken = self.volume.take_commits(commits, Some(self.number));
        let mut state = self.shared.state.lock();
        state.coming.clear();
        let Taken { missing, dropped, known, waiting } = match taken {
            Ok(taken) => taken,
            Err(Error::Refused(rule)) => return Err(Misbehaved(rule)),
            Err(e) => {
                drop(state);
                self.retry_later(&e, true);
                return Ok(());
            }
        };
        state.repeated += known;
        let mut cost = if state.has_let_go { 0 } else { waiting * WAITING_COST };
        if state.repeated > state.repeats_allowed {
            cost += known;
        }
        state.credit.spend(self.volume.inner.clock.monotonic(), cost)?;
        let unaligned = {
            let core = self.volume.inner.core.lock();
            if let Some(known) = &mut state.known {
                for hash in &hashes {
                    if let Ok(Some(dot)) = core.dot_of(hash) {
                        known.add(dot);
                    }
                }
            }
            core.has_unaligned
        };
        if unaligned {
            self.volume.wake_committer();
        }
        for hash in &hashes {
            state.asking.remove(hash);
        }
        missing.into_iter().for_each(|hash| state.ask(hash));
        // Not before what others wait for is here, or it would only be let go again.
        state.dropped |= dropped;
        if state.asking.is_empty() && std::mem::take(&mut state.dropped) {
            state.tips_due = true;
        }
        Ok(())
    }

    /// This disk could not take what the peer sent, which is no fault of the peer's.
    fn retry_later(&self, why: &Error, let_go: bool) {
        let pause = if matches!(why, Error::NoSpace) { RETRY_ROOM } else { RETRY_DISK };
        let mut state = self.shared.state.lock();
        state.let_go |= let_go;
        state.has_let_go |= let_go;
        if state.retry.is_none() {
            log::warn!("device {}: what it sends can't be stored now, tried again later: {why}", self.peer.short());
            state.retry = Some(self.volume.inner.clock.monotonic() + pause);
        }
    }

    /// How long until what this disk could not take is asked for again: call [`Self::next_outgoing`] then even
    /// without having been woken. `None` when all is well.
    pub fn retry_in(&self) -> Option<Duration> {
        let retry = self.shared.state.lock().retry?;
        Some(retry.saturating_sub(self.volume.inner.clock.monotonic()))
    }

    /// Goes on after [`Self::retry_later`] if it is time and there is room.
    fn retry_now(&self) {
        if self.retry_in().is_none_or(|left| !left.is_zero()) {
            return;
        }
        let room = self.volume.check_space(0);
        let mut state = self.shared.state.lock();
        match room {
            Ok(()) => {
                state.retry = None;
                // Told again what is known here, the peer sends again what was let go.
                if std::mem::take(&mut state.let_go) {
                    state.tips_due = true;
                    state.dropped = false;
                    state.asking.clear();
                    state.to_ask.clear();
                }
                drop(state);
                self.shared.wake();
            }
            Err(_) => state.retry = Some(self.volume.inner.clock.monotonic() + RETRY_ROOM),
        }
    }

    /// Asks the peer to commit what it has pending and to send it; [`PeerProgress::flushed`] reaches the number
    /// returned when it has. Then [`PeerProgress::in_step`] speaks of everything done there before this call.
    pub fn ask_flush(&self) -> u64 {
        let number = {
            let mut state = self.shared.state.lock();
            state.flush.asked += 1;
            state.flush.asked
        };
        self.shared.wake();
        number
    }

    /// The next message to send, if there is one now.
    pub fn next_outgoing(&self) -> Option<Message> {
        self.retry_now();
        {
            let mut state = self.shared.state.lock();
            if state.flush.sent < state.flush.asked {
                state.flush.sent = state.flush.asked;
                return Some(Message::Flush(state.flush.sent));
            }
            if state.tips_due {
                state.tips_due = false;
                state.tips_sent = true;
                let (mut tips, here) = {
                    let core = self.volume.inner.core.lock();
                    (core.all_tips(), core.next_arrival)
                };
                // What is under way while it reads this, and what comes meanwhile from others, comes once more.
                state.repeats_allowed = state.repeats_allowed.saturating_add(here).saturating_add(CREDIT);
                tips.truncate(MAX_TIPS);
                return Some(Message::Tips(tips));
            }
            if let Some(hash) = state.to_ask.pop_front() {
                return Some(Message::Want(hash));
            }
        }
        match self.next_commits() {
            Ok(Some(message)) => return Some(message),
            Ok(None) => {}
            Err(e) => log::error!("reading commits to send: {e}"),
        }
        let (digest, complete, commits) = self.volume.own_state();
        let mut state = self.shared.state.lock();
        if state.said == Some((digest, complete)) {
            return state.flushed.take().map(Message::Flushed);
        }
        state.said = Some((digest, complete));
        // What came from others since it said so is perhaps just that.
        if let Some((theirs, their_complete, _)) = state.theirs
            && theirs == digest
        {
            self.knows_the_same(&digest, their_complete);
        }
        Some(Message::State { digest, complete, commits })
    }

    fn next_commits(&self) -> Result<Option<Message>> {
        // Who was removed meanwhile gets what came before, and the removal itself.
        let until = match self.is_member() {
            true => u64::MAX,
            false => match self.volume.inner.core.lock().removed_at(&self.peer) {
                Some(removed_at) => removed_at,
                None => return Ok(None),
            },
        };
        loop {
            // Past whatever the peer knows, however much, but not under one lock: the mount works on.
            if let ControlFlow::Break(found) = self.look_for_commits(until)? {
                return Ok(found);
            }
        }
    }

    /// Goes on in the order of arrival; tells what was found, unless there is more to look at.
    fn look_for_commits(&self, last: u64) -> Result<ControlFlow<Option<Message>>> {
        let sendable = self.volume.inner.synced_arrival.load(Ordering::Acquire).min(last);
        let state = &mut *self.shared.state.lock();
        let mut core = self.volume.inner.core.lock();
        let mut commits = Vec::new();
        let mut bytes = 0;
        while let Some(hash) = state.wants.pop() {
            let Some(dot) = core.dot_of(&hash)? else { continue };
            let Some(row) = core.commit_row(dot)?.filter(|row| row.arrival <= sendable) else { continue };
            match &mut state.known {
                // It was taken to know this one, by a tip of a log that forked: nor does it know what comes after.
                Some(known) => {
                    known.lower(dot.branch, dot.seq - 1);
                    state.next_arrival = state.next_arrival.min(row.arrival);
                }
                None => {
                    if let Some(commit) = core.export(dot)? {
                        return Ok(ControlFlow::Break(Some(Message::Commits(vec![commit]))));
                    }
                }
            }
        }
        state.wanted_from = None;
        if state.known.is_none() {
            return Ok(ControlFlow::Break(None));
        }
        let until = state.next_arrival.saturating_add(ARRIVALS_AT_ONCE);
        while state.next_arrival <= sendable.min(until) && bytes < BATCH_BYTES {
            let arrival = state.next_arrival;
            state.next_arrival += 1;
            let Some(key) = core.store.raw().get(Space::Index, &arrival_key(arrival))? else { continue };
            let dot = Dot::from_key(&key).ok_or_else(|| Error::damaged("arrival index"))?;
            let Some(known) = &mut state.known else { break };
            if known.covers(dot) {
                continue;
            }
            if !state.coming.is_empty() && state.coming.contains(&core.commit_info(dot)?.hash) {
                known.add(dot);
                continue;
            }
            let Some(commit) = core.export(dot)? else { continue };
            known.add(dot);
            bytes += commit.header.len() + 64 + commit.changes.iter().map(|c| c.size() + 10).sum::<usize>();
            commits.push(commit);
            if bytes + MAX_COMMIT_BYTES > MAX_MESSAGE {
                break;
            }
        }
        if commits.is_empty() && state.next_arrival <= sendable {
            return Ok(ControlFlow::Continue(()));
        }
        Ok(ControlFlow::Break((!commits.is_empty()).then_some(Message::Commits(commits))))
    }

    /// Up to `max` blocks to ask this peer for now; each must be answered by [`Self::block_arrived`] or [`Self::block_failed`].
    pub fn wanted(&self, max: usize) -> Vec<BlockHash> {
        if self.shared.state.lock().retry.is_some() || !self.volume.inner.fetch.has_work() {
            return Vec::new();
        }
        if let Err(e) = self.volume.check_space(0) {
            self.retry_later(&e, false);
            // The writer is to look again later.
            self.shared.wake();
            return Vec::new();
        }
        if self.volume.is_over_quota() {
            // Looked at again with whatever comes next, and when something was dropped.
            return Vec::new();
        }
        self.volume.inner.fetch.claim(self.number, max).unwrap_or_else(|e| {
            log::error!("looking for missing contents: {e}");
            Vec::new()
        })
    }

    /// A block asked for has come.
    ///
    /// # Errors
    /// As [`Self::blocks_arrived`].
    pub fn block_arrived(&self, hash: &BlockHash, bytes: &[u8]) -> Result<(), SessionError> {
        self.blocks_arrived(&[(*hash, bytes)])
    }

    /// Blocks asked for have come; they are stored together.
    ///
    /// # Errors
    /// [`SessionError::Misbehaved`] when one isn't what was asked for: those before it are stored.
    pub fn blocks_arrived(&self, blocks: &[(BlockHash, impl AsRef<[u8]>)]) -> Result<(), SessionError> {
        let checked = blocks.iter().map_while(|(hash, bytes)| {
            let bytes = bytes.as_ref();
            BlockKind::of(hash, bytes).map(|kind| (*hash, bytes, kind))
        });
        let checked: Vec<_> = checked.collect();
        let fetch = &self.volume.inner.fetch;
        let len = checked.iter().map(|(_, bytes, _)| bytes.len()).sum();
        self.volume.inner.quota.wrote(len as u64);
        let room = self.volume.check_space(len);
        match room.and_then(|()| fetch.arrived(&checked)) {
            Ok(()) => {
                if let Err(e) = fetch.go_on() {
                    self.retry_later(&e, false);
                }
                if !fetch.has_work() {
                    // Perhaps that was the last one: say so.
                    self.volume.wake_sessions();
                }
            }
            Err(e) => {
                self.retry_later(&e, false);
                checked.iter().for_each(|(hash, ..)| fetch.give_back(self.number, hash));
                self.volume.wake_sessions();
            }
        }
        let Some((wrong, bytes)) = blocks.get(checked.len()) else { return Ok(()) };
        blocks[checked.len()..].iter().for_each(|(hash, _)| self.block_failed(hash));
        let len = bytes.as_ref().len();
        Err(Misbehaved(format!("sent a wrong block: {len} bytes that are not the block {}", wrong.short())))
    }

    /// The peer says that it hasn't got a block it was asked for.
    pub fn block_lacking(&self, hash: &BlockHash) {
        let withheld = {
            let theirs = self.shared.state.lock().theirs.filter(|(_, complete, _)| *complete);
            let digest = theirs.map(|_| self.volume.inner.core.lock().digest());
            let state = &mut *self.shared.state.lock();
            // Who knows the same commits and says to have all contents has those that others lack.
            let claims_all = state.theirs.is_some_and(|(theirs, complete, _)| complete && Some(theirs) == digest);
            state.withheld += u32::from(claims_all);
            claims_all.then_some(state.withheld)
        };
        if withheld == Some(WITHHELD) {
            self.volume.tell_withheld(&self.peer, WITHHELD);
        }
        self.block_failed(hash);
    }

    /// The peer hasn't got a block it was asked for, or the stream broke.
    pub fn block_failed(&self, hash: &BlockHash) {
        self.volume.inner.fetch.failed(self.number, hash);
        self.volume.wake_sessions();
    }

    /// A block that the peer asked for, if it is here and the peer may have it.
    pub fn serve_block(&self, hash: &BlockHash) -> Option<Vec<u8>> {
        if !self.is_member() {
            return None;
        }
        match self.volume.inner.blocks.get_checked(hash) {
            Ok(found) => found,
            Err(e) => {
                log::error!("block {} could not be served: {e}", hash.short());
                None
            }
        }
    }

    /// How far the two are with each other.
    pub fn progress(&self) -> PeerProgress {
        let (digest, complete, commits) = self.volume.own_state();
        let pending = self.volume.inner.core.lock().pending.is_some();
        let state = self.shared.state.lock();
        let Some((theirs, their_complete, their_commits)) = state.theirs else { return PeerProgress::default() };
        let in_step = theirs == digest && !pending;
        PeerProgress {
            their_commits_missing_here: if in_step { 0 } else { their_commits.saturating_sub(commits) },
            my_commits_missing_there: if in_step {
                0
            } else {
                commits.saturating_sub(their_commits).max(u64::from(pending))
            },
            in_step,
            they_hold_all_mine: in_step && their_complete,
            i_hold_all_theirs: in_step && complete,
            flushed: state.flush.answered,
        }
    }

    /// Ends the session; what it was asked for may be asked elsewhere, and what waits on its account is let go.
    pub fn close(&self) {
        self.volume.inner.sessions.lock().remove(&self.number);
        self.volume.inner.waiting.lock().forget(self.number);
        self.volume.inner.fetch.remove_peer(self.number);
        {
            let mut core = self.volume.inner.core.lock();
            if let Err(e) = core.save_complete().and_then(|()| core.save_knowing()) {
                log::debug!("what a device said to have can't be stored: {e}");
            }
        }
        self.volume.wake_sessions();
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.close();
    }
}

impl Volume {
    /// Takes checked commits in, those that can be.
    pub(crate) fn take_commits(&self, commits: Vec<Commit>, from: Option<PeerNo>) -> Result<Taken> {
        // Before the store is touched: one that runs into a full disk can't go on.
        self.check_space(0)?;
        let _telling = self.inner.telling.read();
        let mut changed = Vec::new();
        let mut taken = Taken::default();
        let (mut applied, mut lost) = (false, false);
        let result = {
            let mut core = self.inner.core.lock();
            let mut waiting = self.inner.waiting.lock();
            // What is born from here on nobody can have met before all of this is stored.
            let unborn = core.next_ino();
            let sent: BTreeSet<CommitHash> = commits.iter().map(|c| c.hash).collect();
            let mut todo: Vec<Commit> = commits;
            todo.reverse();
            let mut result = Ok(());
            while let Some(mut commit) = todo.pop() {
                match core.receive(&mut commit) {
                    Ok(Received::Applied) => {
                        applied = true;
                        core.record_commit(&commit.hash);
                        let mut settled = std::mem::take(&mut core.settled);
                        settled.retain(|change| core.may_be_cached(change, unborn));
                        changed.append(&mut settled);
                        todo.extend(waiting.take(&commit.hash));
                    }
                    Ok(Received::Known) => taken.known += 1,
                    Ok(Received::Missing(hash)) => {
                        taken.waiting += 1;
                        taken.dropped |= !waiting.keep(hash, commit, from);
                        taken.missing.push(hash);
                    }
                    // It had waited here: whoever sent it, it wasn't the one who sends now.
                    Err(Error::Refused(rule)) if !sent.contains(&commit.hash) => {
                        log::debug!("a commit that waited is refused: {rule}");
                    }
                    Err(e) => {
                        result = Err(e);
                        lost = todo.iter().chain([&commit]).any(|commit| !sent.contains(&commit.hash));
                        break;
                    }
                }
            }
            if applied {
                // Synced before it is shown: what was seen once is never unseen. Own blocks first, as always.
                let undo = core.undo.end();
                let synced = self.inner.blocks.sync();
                let synced = synced.and_then(|()| undo.map_or(Ok(()), |end| core.undo.forget(&core.store, end)));
                let synced = synced.and_then(|()| core.store.sync());
                match synced {
                    Ok(()) => self.inner.synced_arrival.store(core.next_arrival - 1, Ordering::Release),
                    // Nobody gets what the disk may forget: the committer tries again.
                    Err(_) => self.wake_committer(),
                }
                result = result.and(synced);
                // Before anybody can see the new digest: it must not seem complete yet.
                self.inner.fetch.look_again();
            }
            taken.missing = waiting.lacking(std::mem::take(&mut taken.missing));
            taken.missing.retain(|hash| !core.dot_of(hash).is_ok_and(|d| d.is_some()));
            result
        };
        if applied {
            self.tell(&changed);
            self.wake_sessions();
            if self.archive_is_behind() {
                self.wake_committer();
            }
        }
        if lost {
            self.ask_all_anew();
        }
        result.map(|()| taken)
    }

    /// Tells all peers once more what is here: they send again what had waited and was let go.
    fn ask_all_anew(&self) {
        let sessions: Vec<_> = self.inner.sessions.lock().values().cloned().collect();
        for session in sessions {
            session.state.lock().tips_due = true;
            session.wake();
        }
    }
}
