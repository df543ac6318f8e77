//! Looking at commits for what a device does to very many files ([`crate::audit`]'s `mass`), whoever made them.
//!
//! One commit after the other, by the number in which it arrived, beside everything else: what a file was before the
//! commit and after it is read from history and compared. What isn't here yet is looked at when it has come.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::{Duration, Instant},
};

use crypto::{DeviceId, UserId, random_array};

use crate::{
    Volume,
    apply::decode,
    audit::{
        Act, Finding, Op, Outcome,
        mass::{Deed, Done, Ledgers, Mass, finding},
        sample,
    },
    commit::{ChangeKind, Head, encode},
    core::{Core, decode_row},
    error::{Error, Result},
    files::Version,
    history::Past,
    id::NodeId,
    node::{Ino, NodeKind},
    row::{Node, NodeRow},
    store::{Batch, Space},
    tree::PastPlace,
    version::ValueRef,
};

/// Key in [`Space::Meta`] of up to which arrival somebody was told.
const LOOKED_AT: &[u8] = b"mass";
/// What came before the daemon began is looked at for so many commits.
const BACK: u64 = 2000;
/// Files whose contents are looked at in a second; the others count like these.
const SAMPLES: u32 = 200;
/// Files that wait for their contents at most, and for how long.
const WAITING: usize = 4096;
const PATIENCE: Duration = Duration::from_secs(15 * 60);
/// Changes looked at without a pause for others who want the lock.
const STEP: usize = 32;
/// What waits counts with what is told of if it was done so many seconds before it, at most.
const TOGETHER: i64 = 3600;
/// What a commit says of when it was made is taken for true if it differs from when it came by no more seconds.
const CLOCK_ERROR: i64 = 600;

/// A file as it was after the commit that arrived with this number.
type State = (Ino, u64);

/// Something to be looked at closer.
struct Look {
    device: DeviceId,
    done: Done,
    /// What it was; nothing for what was made.
    before: Option<State>,
    after: State,
    since: Instant,
}

impl Look {
    fn key(&self) -> (DeviceId, &'static str) {
        (self.device, self.done.deed.sampled().unwrap_or_default())
    }
}

/// Looks at commits, one after the other.
pub struct Inspector {
    volume: Volume,
    /// Up to this arrival all were looked at.
    at: u64,
    ledgers: Ledgers,
    /// What waits to be looked at, or for a content.
    waiting: VecDeque<Look>,
    /// Of each device and deed: how many are looked at later, and how many are not for want of room.
    passed: HashMap<(DeviceId, &'static str), (u32, u32)>,
    /// Since when samples are counted, and how many were taken.
    second: (Instant, u32),
    /// Devices whose clocks were told to be wrong.
    clocks: HashSet<DeviceId>,
}

impl Inspector {
    /// An inspector of what comes from now on, and of the last that came before and nobody was told about.
    ///
    /// # Errors
    /// The disk failed.
    pub fn new(volume: Volume) -> Result<Self> {
        let told: Option<u64> = volume
            .inner
            .store
            .get(Space::Meta, LOOKED_AT)?
            .map(|row| decode_row("what was looked at", &row))
            .transpose()?;
        let at = told.unwrap_or(0).max(volume.last_arrival().saturating_sub(BACK));
        let second = (Instant::now(), 0);
        Ok(Self {
            volume,
            at,
            ledgers: Ledgers::default(),
            waiting: VecDeque::new(),
            second,
            clocks: HashSet::new(),
            passed: HashMap::new(),
        })
    }

    /// Looks at what is new. Returns what somebody should look at. `goes_on` is asked between small steps.
    pub fn look(&mut self, goes_on: &dyn Fn() -> bool) -> Vec<Finding> {
        let mut found = Vec::new();
        let last = self.volume.last_arrival();
        while self.at < last && goes_on() {
            let arrival = self.at + 1;
            // A commit that can't be read is for `verify` to tell; it keeps nothing else from being looked at.
            match self.changes(arrival, goes_on) {
                Ok(Some((device, looks))) => found.extend(self.judge(device, arrival, looks)),
                Ok(None) => {}
                Err(e) => log::debug!("commit {arrival} can't be inspected: {e}"),
            }
            self.at = arrival;
        }
        for _ in 0..self.waiting.len() {
            if !goes_on() || self.is_spent() {
                break;
            }
            let Some(look) = self.waiting.pop_front() else { break };
            self.passed.entry(look.key()).and_modify(|(later, _)| *later = later.saturating_sub(1));
            let (device, arrival) = (look.device, look.after.1);
            let done = self.sampled(look);
            found.extend(self.count(device, arrival, done.as_slice()));
        }
        let (files, now) = (self.files(), self.volume.inner.clock.now().secs);
        let rest = self.ledgers.rest(files, now);
        found.extend(rest.iter().map(|(device, mass)| self.finding(*device, self.at, mass)));
        found
    }

    /// How many commits were looked at, in the order in which they arrived; less those with files that wait.
    pub fn inspected(&self) -> u64 {
        self.waiting.iter().map(|look| look.after.1 - 1).min().unwrap_or(self.at)
    }

    /// What the author of a commit did to files. `None` for what doesn't count.
    fn changes(&mut self, arrival: u64, goes_on: &dyn Fn() -> bool) -> Result<Option<(DeviceId, Vec<Look>)>> {
        let ahead;
        let (device, changes, time) = {
            let core = self.volume.inner.core.lock();
            let dot = core.arrived_as(arrival)?;
            let row = core.commit_row(dot)?.ok_or_else(|| Error::damaged("a commit is missing"))?;
            if row.void {
                return Ok(None);
            }
            let (made, came) = (core.written(&row)?.secs, row.shown.secs);
            ahead = made.saturating_sub(core.now().secs);
            let time = if made.abs_diff(came) <= CLOCK_ERROR.unsigned_abs() { made.min(came) } else { came };
            (core.branch_of(dot)?.device, core.changes_in(dot)?, (time, came))
        };
        if ahead > CLOCK_ERROR && self.clocks.insert(device) {
            self.tell_clock(&device, ahead);
        }
        let mut commit =
            Commit { device, arrival, time: time.0, came: time.1, removed: HashMap::new(), looks: Vec::new() };
        // Removals first: what is put in a removed one's place stands for it.
        for removals in [true, false] {
            for changes in changes.chunks(STEP) {
                if !goes_on() {
                    return Ok(None);
                }
                let mut core = self.volume.inner.core.lock();
                for (at, raw) in changes {
                    let head: Head = decode(&raw.head)?;
                    if removals == matches!(head.kind, ChangeKind::Removal { .. }) {
                        commit.note(&mut core, &head.kind, *at)?;
                    }
                }
            }
        }
        Ok(Some((device, commit.looks)))
    }

    /// Has everything counted, and those where the contents matter looked at, now or later.
    fn judge(&mut self, device: DeviceId, arrival: u64, looks: Vec<Look>) -> Vec<Finding> {
        let mut done = Vec::with_capacity(looks.len());
        for look in looks {
            match look.done.deed.sampled() {
                None => done.push(look.done),
                Some(_) if !self.is_spent() => done.extend(self.sampled(look)),
                Some(_) => self.wait(look),
            }
        }
        self.count(device, arrival, &done)
    }

    /// Whether as many were looked at in this second as may.
    fn is_spent(&mut self) -> bool {
        if self.second.0.elapsed() >= Duration::from_secs(1) {
            self.second = (Instant::now(), 0);
        }
        self.second.1 >= SAMPLES
    }

    /// Has one looked at later. Where there is no room, it or any other stands for both.
    fn wait(&mut self, look: Look) {
        let mut out = look;
        self.passed.entry(out.key()).or_default().0 += 1;
        if self.waiting.len() < WAITING {
            return self.waiting.push_back(out);
        }
        // Nobody who makes them can know which.
        let entropy = self.volume.inner.core.lock().entropy.clone();
        let place = u64::from_le_bytes(random_array(&*entropy)) % (2 * WAITING as u64);
        if let Some(waiting) = usize::try_from(place).ok().and_then(|place| self.waiting.get_mut(place)) {
            std::mem::swap(waiting, &mut out);
        }
        let (later, never) = self.passed.entry(out.key()).or_default();
        *later = later.saturating_sub(1);
        *never += 1;
    }

    /// Looks at contents. Returns what counts, and for how many: those that nobody will look at count like these.
    fn sampled(&mut self, look: Look) -> Option<Done> {
        self.second.1 += 1;
        let key = look.key();
        let so = match self.is_so(&look) {
            // Whoever holds what was written back may not keep others from being seen.
            Err(Error::Absent(_)) if look.since.elapsed() < PATIENCE => {
                self.wait(look);
                return None;
            }
            // What can't be read here, for want of a key or of history, can't be told about.
            Err(e) => {
                log::debug!("a content can't be inspected: {e}");
                false
            }
            Ok(so) => so,
        };
        let mut stands_for = 0;
        if let Some((later, never)) = self.passed.get_mut(&key) {
            stands_for = never.div_ceil(*later + 1);
            *never -= stands_for;
            if (*later, *never) == (0, 0) {
                self.passed.remove(&key);
            }
        }
        so.then(|| Done { weight: stands_for + 1, ..look.done })
    }

    fn count(&mut self, device: DeviceId, arrival: u64, done: &[Done]) -> Vec<Finding> {
        let found = self.ledgers.take(device, self.files(), done);
        found.iter().map(|mass| self.finding(device, arrival, mass)).collect()
    }

    fn is_so(&self, look: &Look) -> Result<bool> {
        if let (Deed::Lost, Some(before)) = (&look.done.deed, look.before) {
            let before = self.version(before)?;
            let pages = sample::places(before.content.size).into_iter().map(|place| self.page(&before, place));
            return Ok(sample::is_something(&pages.collect::<Result<Vec<_>>>()?));
        }
        let after = self.version(look.after)?;
        let Some(before) = look.before else {
            let pages = sample::places(after.content.size).into_iter().map(|place| self.page(&after, place));
            return Ok(sample::is_noise(&pages.collect::<Result<Vec<_>>>()?));
        };
        let before = self.version(before)?;
        let pages = sample::places(before.content.size).into_iter().map(|place| {
            // (What was read of it is held by history, if by nothing else.)
            Ok((self.page(&before, place)?, self.page(&after, place)?))
        });
        Ok(sample::is_ruined(&pages.collect::<Result<Vec<_>>>()?))
    }

    /// Once for each device: what it dates ahead shows here only from now on.
    fn tell_clock(&self, device: &DeviceId, ahead: i64) {
        let Some(audit) = self.volume.audit() else { return };
        let why = format!("it dates what it does {} minutes ahead of this machine's clock", ahead / 60);
        audit.record(Act { outcome: Outcome::Denied(why), ..self.volume.act_by(Some(device), Op::Clock) });
    }

    fn files(&self) -> u64 {
        self.volume.inner.core.lock().node_count()
    }

    fn version(&self, (ino, arrival): State) -> Result<Version> {
        let mut core = self.volume.inner.core.lock();
        core.as_of(Past::after(arrival), |core| core.version(ino))
    }

    fn page(&self, version: &Version, place: u64) -> Result<Vec<u8>> {
        let mut page = Vec::new();
        self.volume.inner.blocks.read(&version.content, &version.keys, place, sample::PAGE, &mut page)?;
        Ok(page)
    }

    fn finding(&self, device: DeviceId, arrival: u64, mass: &Mass) -> Finding {
        let mut core = self.volume.inner.core.lock();
        let user = core.user_named(&device);
        let before = Past::after(arrival.saturating_sub(1));
        let path = match core.path_of(mass.example) {
            Some(path) => Some(path),
            None => core.as_of(before, |core| Ok(core.path_of(mass.example))).unwrap_or_default(),
        };
        let path = path.filter(|path| !path.is_empty()).map(|path| String::from_utf8_lossy(&path).into_owned());
        // What waits to be looked at may be older, and its answer is to bring that back, too.
        let waiting = self.waiting.iter().filter(|look| look.device == device).map(|look| look.done.time);
        let since = waiting.filter(|time| *time >= mass.since - TOGETHER).fold(mass.since, i64::min);
        finding(&device, user, path, &Mass { since, ..mass.clone() })
    }

    /// Notes that somebody was told of all that was looked at so far.
    ///
    /// # Errors
    /// The disk failed.
    pub fn told(&self) -> Result<()> {
        let core = self.volume.inner.core.lock();
        let mut batch = Batch::new();
        core.store.put(&mut batch, Space::Meta, LOOKED_AT, &encode(&self.at));
        core.store.apply(batch)
    }
}

/// A commit that is being looked at.
struct Commit {
    device: DeviceId,
    arrival: u64,
    /// When it was made, as far as that is believed, and when it came.
    time: i64,
    came: i64,
    /// Files that it removed, by where they were.
    removed: HashMap<(Ino, Vec<u8>), (Ino, Done)>,
    looks: Vec<Look>,
}

impl Commit {
    fn note(&mut self, core: &mut Core, kind: &ChangeKind, at: ValueRef) -> Result<()> {
        match kind {
            ChangeKind::Removal { child, time, .. } => self.removal(core, child, at, time.secs),
            ChangeKind::Content { node, .. } => self.content(core, node),
            ChangeKind::Place { child, link, .. } => self.place(core, child, link.is_some(), at),
            _ => Ok(()),
        }
    }

    /// The node as it was after a commit, but for its places: moves and removals make no other row of it.
    fn node(core: &mut Core, ino: Ino, arrival: u64) -> Result<Option<Box<Node>>> {
        match core.past_row(ino, arrival)?.as_deref() {
            Some(NodeRow::Node(node)) => Ok(Some(node.clone())),
            _ => Ok(None),
        }
    }

    /// Where something was before a change of its place, if it was there before the commit.
    fn place_before(core: &mut Core, at: ValueRef) -> Result<Option<PastPlace>> {
        match core.values_before(at)?.iter().any(|before| before.dot != at.dot) {
            true => core.place_before(at),
            false => Ok(None),
        }
    }

    /// Something done to a file that was there.
    fn done(&self, core: &Core, deed: Deed, (ino, before): (Ino, &Node), directory: Ino) -> Result<Done> {
        let user = |device: &DeviceId| core.members.devices.get(device).map(|device| device.user);
        let writer = match before.content.last() {
            Some(value) => user(&core.branch_of(value.at.dot)?.device).unwrap_or(UserId::ZERO),
            None => before.owner,
        };
        Ok(Done {
            deed,
            ino,
            directory,
            age: self.time.saturating_sub(before.btime.secs),
            foreign: user(&self.device) != Some(writer),
            time: self.time,
            weight: 1,
        })
    }

    fn push(&mut self, done: Done, before: Option<State>, after: State) {
        self.looks.push(Look { device: self.device, done, before, after, since: Instant::now() });
    }

    fn removal(&mut self, core: &mut Core, child: &NodeId, at: ValueRef, time: i64) -> Result<()> {
        let Some(ino) = core.ino_of_node(child)? else { return Ok(()) };
        let Some(before) = Self::node(core, ino, self.arrival - 1)? else { return Ok(()) };
        let shows = Self::node(core, ino, self.arrival)?.is_some_and(|after| after.is_shown());
        let deed = match before.kind {
            NodeKind::Directory => Deed::DirectoryRemoved,
            // (What has another name is still there.)
            NodeKind::File if !shows => Deed::Removed,
            _ => return Ok(()),
        };
        let Some(place) = Self::place_before(core, at)? else { return Ok(()) };
        let mut done = self.done(core, deed, (ino, &before), place.parent)?;
        if time.abs_diff(self.time) <= CLOCK_ERROR.unsigned_abs() {
            done.time = time.min(self.came);
        }
        if before.kind == NodeKind::File {
            self.removed.insert((place.parent, place.name), (ino, done.clone()));
        }
        if done.deed == Deed::Removed {
            let lost = Done { deed: Deed::Lost, ..done.clone() };
            self.push(lost, Some((ino, self.arrival - 1)), (ino, self.arrival));
        }
        self.push(done, None, (ino, self.arrival));
        Ok(())
    }

    fn content(&mut self, core: &mut Core, node: &NodeId) -> Result<()> {
        let Some(ino) = core.ino_of_node(node)? else { return Ok(()) };
        let before = Self::node(core, ino, self.arrival - 1)?;
        let Some(after) = Self::node(core, ino, self.arrival)? else { return Ok(()) };
        let directory = after.links.iter().find_map(|link| link.shown.as_ref()).map_or(Ino::ROOT, |shown| shown.parent);
        let size =
            |node: &Node| node.content.last().and_then(|value| value.value.as_ref()).map_or(0, |value| value.size);
        match before {
            Some(before) if size(&before) > 0 => {
                let done = self.done(core, Deed::Ruined, (ino, &before), directory)?;
                self.push(done, Some((ino, self.arrival - 1)), (ino, self.arrival));
            }
            _ => {
                let done = self.done(core, Deed::MadeOfNoise, (ino, &after), directory)?;
                self.push(done, None, (ino, self.arrival));
            }
        }
        Ok(())
    }

    fn place(&mut self, core: &mut Core, child: &NodeId, moves: bool, at: ValueRef) -> Result<()> {
        let Some(ino) = core.ino_of_node(child)? else { return Ok(()) };
        let Some(node) = Self::node(core, ino, self.arrival)?.filter(|node| node.kind == NodeKind::File) else {
            return Ok(());
        };
        if !moves && self.removed.is_empty() {
            return Ok(());
        }
        let Some(place) = core.past_place(at)? else { return Ok(()) };
        // What comes in the place of another is the other's new content.
        if let Some((old, done)) = self.removed.remove(&(place.parent, place.name.clone())) {
            self.looks.retain(|look| look.done.ino != old || !matches!(look.done.deed, Deed::Removed | Deed::Lost));
            let done = Done { deed: Deed::Ruined, ..done };
            self.push(done, Some((old, self.arrival - 1)), (ino, self.arrival));
            return Ok(());
        }
        if moves
            && let Some(old) = Self::place_before(core, at)?
            && old.parent == place.parent
        {
            let deed = Deed::Renamed { from: old.name, to: place.name };
            let done = self.done(core, deed, (ino, &node), place.parent)?;
            self.push(done, None, (ino, self.arrival));
        }
        Ok(())
    }
}
