//! Some devices, the network between them, and the one sequence of steps that a seed gives.
//!
//! A step's choices do not depend on how many steps follow: the first steps of a longer run are a shorter run.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use crypto::SymmetricKey;
use volume::{
    BlockHash, Error, Ino, Message, NodeKind, Role, TicketSecret,
    commit::{ClaimedCommit, Commit, commit_hash},
    id::CommitHash,
};

use crate::{
    Counts, Options,
    clock::WorldTime,
    device::Device,
    disk::{Disk, Image, Trouble, Value},
    forger::{Joiner, follow},
    ledger::{Ledger, Print, Token, print, tokens},
    lot::Lot,
    rights::Lie,
    trace::Trace,
    user::Trip,
    view::{differences, dump, entries, read},
    wire::Connection,
};

const REPLICAS: [&str; 6] = ["replicas: 2", "replicas: 3", "replicas: 4", "replicas: 5", "replicas: 6", "replicas: 7"];
const WHO: [&str; 7] = ["alice", "bob", "carol", "dora", "erin", "frank", "grace"];
/// A year, in milliseconds.
const YEAR: i64 = 365 * 86_400_000;

/// A device's disk at some step.
pub(crate) struct Backup {
    pub of: usize,
    pub step: usize,
    pub image: Image,
    /// Files that were open, or had something that could not be stored.
    pub open: BTreeSet<Ino>,
    /// Changes were in no commit yet, as far as can be told: signed by both, they stand beside what came of them.
    pub pending: bool,
}

/// What a device showed before its disk was replaced by an older copy.
pub(crate) struct BeforeCopy {
    pub of: usize,
    pub shown: BTreeMap<Ino, Print>,
    /// Which version came before which, as it was known then.
    pub ancestry: Ledger,
}

/// Something that must not be.
#[derive(Debug)]
pub(crate) struct Violation(pub String);

impl From<Error> for Violation {
    fn from(error: Error) -> Self {
        Violation(format!("setting up: {error}"))
    }
}

/// What happens in a step.
#[derive(Clone, Copy, Debug)]
enum Event {
    Act,
    Carry,
    Connect,
    Disconnect,
    Partition,
    Work,
    Look,
    Verify,
    Kill,
    DieSoon,
    PowerLoss,
    Start,
    DiskFails,
    DiskFills,
    BitFlips,
    Repair,
    Backup,
    Restore,
    ClockJumps,
    Pause,
    Mischief,
}

/// See the module.
pub(crate) struct World {
    pub lot: Lot,
    time: Arc<WorldTime>,
    pub devices: Vec<Device>,
    pub connections: Vec<Connection>,
    pub ledger: Ledger,
    pub trace: Trace,
    pub step: usize,
    pub mallory: Option<usize>,
    /// A device's disk at some step.
    pub backup: Option<Backup>,
    /// What was shown where an older copy replaced a disk, and must never be followed by something older.
    pub before_copies: Vec<BeforeCopy>,
    /// Devices that went on from an older copy without noticing.
    pub unnoticed: BTreeSet<usize>,
    /// Blocks of disks that an older copy replaced, which no other honest device had for good by then.
    pub replaced: BTreeMap<BlockHash, Value>,
    /// Every commit that was ever sent.
    pub overheard: Vec<ClaimedCommit>,
    sent: BTreeSet<CommitHash>,
    /// Commits whose signatures were found good.
    pub checked: BTreeMap<CommitHash, Rc<Commit>>,
    /// Who belongs to the volume without a device here: Mallory signs in their names.
    pub joiners: Vec<Joiner>,
    /// The seeds of tickets that were handed out.
    pub tickets: Vec<[u8; 32]>,
    /// With which ticket which device admitted which joiner.
    pub admitted: Vec<([u8; 32], usize, usize)>,
    /// What the devices find each other by; nobody makes an epoch, so it stays.
    pub discovery: Option<SymmetricKey>,
    /// Commits without effect that honest devices must keep all the same: others may build on them.
    pub void: Vec<ClaimedCommit>,
    /// Permissions change, on mounts that stand for members: by this the tree hangs on who looks, so that the reference model
    /// has nothing to say.
    pub rights: bool,
    /// What was signed by who was removed, or who may not.
    pub lies: Vec<Lie>,
    /// What could not be published any more as its writer had lost the right to.
    pub stranded: BTreeSet<Token>,
    /// How often what happened.
    pub counts: Counts,
    /// The network loses, doubles and exchanges messages, as no QUIC connection does.
    bad_network: bool,
    /// In which part of the network each device is.
    part: Vec<usize>,
    events: Vec<(usize, Event)>,
}

impl World {
    /// The beginning of a seed: members who know each other, and some things to fight over.
    pub(crate) fn new(options: &Options) -> Result<World, Violation> {
        let lot = Lot::new(options.seed);
        let chosen = lot.weighted(&[(5, 2), (8, 3), (4, 4), (2, 5), (1, 6), (1, 7)]).unwrap_or(3);
        let count = options.replicas.unwrap_or(chosen).clamp(2, WHO.len());
        let time = Arc::new(WorldTime::default());
        let mallory = (lot.chance(500) && count > 2).then(|| count - 1);
        let reader = lot.chance(150);
        let mut world = World {
            events: Self::swarm(&lot),
            devices: vec![Device::founder(WHO[0], options.seed, &time)?],
            lot,
            time,
            connections: Vec::new(),
            ledger: Ledger::default(),
            trace: Trace::new(options.loud),
            step: 0,
            mallory: None,
            backup: None,
            before_copies: Vec::new(),
            unnoticed: BTreeSet::new(),
            replaced: BTreeMap::new(),
            overheard: Vec::new(),
            sent: BTreeSet::new(),
            checked: BTreeMap::new(),
            joiners: Vec::new(),
            tickets: Vec::new(),
            admitted: Vec::new(),
            discovery: None,
            void: Vec::new(),
            rights: false,
            lies: Vec::new(),
            stranded: BTreeSet::new(),
            counts: Counts::default(),
            bad_network: false,
            part: vec![0; count],
        };
        world.counts.add(REPLICAS[count - 2]);
        world.bad_network = world.lot.chance(400);
        world.rights = world.lot.chance(350);
        let second_admin = world.lot.chance(if world.rights { 800 } else { 400 });
        for (i, who) in WHO.iter().enumerate().take(count).skip(1) {
            let reads = if mallory == Some(i) { world.lot.chance(400) } else { reader && i == 1 && count > 2 };
            let admits = second_admin && i == 1 && mallory != Some(i);
            let role = match reads {
                true => Role::Reader,
                false if admits => Role::Admin,
                false => Role::Writer,
            };
            let seed = options.seed ^ (i as u64) << 56;
            if world.rights && i > 1 && mallory != Some(i) && world.lot.chance(300) {
                let hosts: Vec<usize> = (0..i).filter(|host| world.devices[*host].can_certify()).collect();
                let host = world.lot.pick(&hosts).copied().unwrap_or(0);
                let device = Device::further(who, seed, &world.time, &world.devices[host])?;
                world.devices.push(device);
                world.meet(&[host, i])?;
                continue;
            }
            let admin = world.volume(0)?;
            world.devices.push(Device::joined(who, role, seed, &world.time, &admin)?);
            world.meet(&[0, i])?;
        }
        if mallory.is_some() {
            world.let_liars_in()?;
        }
        let all: Vec<usize> = (0..count).collect();
        if world.rights {
            world.counts.add("rights: a group on mounts of their own");
            all.iter().for_each(|r| world.devices[*r].live_on_own_mount(1000 + *r as u32));
        } else {
            world.discovery = Some(world.volume(0)?.discovery_key()?);
        }
        if world.lot.chance(700) {
            for _ in 0..12 {
                // What is refused here is refused.
                let _ = world.act(0);
            }
            while !world.devices[0].opens.is_empty() {
                let _ = world.close(0, 0);
            }
        }
        world.meet(&all)?;
        world.mallory = mallory;
        if world.lot.chance(500) {
            for r in 0..count {
                let clock = world.devices[r].clock.clone();
                clock.set_off(world.lot.below(2 * 3_600_000) as i64 - 3_600_000);
                clock.set_drift(world.lot.below(200) as i64 - 100);
                world.counts.add("clock: skewed and drifting from the start");
            }
        }
        Ok(world)
    }

    /// Members in whose names Mallory signs: an admin, a reader, a writer, and a keeper, whom the admin invited
    /// with another program.
    fn let_liars_in(&mut self) -> Result<(), Violation> {
        let admin = self.volume(0)?;
        for (i, role) in [Role::Admin, Role::Reader, Role::Writer].into_iter().enumerate() {
            let ticket = admin.invite(role, Duration::from_secs(86_400))?;
            let joiner = Joiner::new(format!("liar{i}"), self.lot.number());
            let request = joiner.request(ticket.seed(), &self.lot).map_err(Violation)?;
            admin.admit(&request, b"exporter")?;
            self.joiners.push(joiner);
        }
        admin.commit_now()?;
        let ticket = TicketSecret::from_seed(crypto::random_array(&self.lot));
        let commits = self.commits(0)?;
        let history = self.history(&commits);
        let forger = self.forger(&history);
        let invitation = forger.invite_keeper(&self.joiners[0], ticket.public());
        let invitation = invitation.ok_or_else(|| Violation("nobody invites a keeper".to_owned()))?;
        follow(&mut self.joiners[0], &invitation);
        let session = admin.session(self.joiners[0].id());
        session.receive(Message::Commits(vec![invitation])).map_err(|e| Violation(e.to_string()))?;
        drop(session);
        let keeper = Joiner::new("liar3".to_owned(), self.lot.number());
        let request = keeper.request(ticket.seed(), &self.lot).map_err(Violation)?;
        admin.admit(&request, b"exporter")?;
        admin.commit_now()?;
        self.joiners.push(keeper);
        Ok(())
    }

    /// What passed since the beginning.
    pub(crate) fn passed(&self) -> Duration {
        self.time.passed()
    }

    /// How often what happened, on the disks too.
    pub(crate) fn all_counts(&self) -> Counts {
        let mut counts = self.counts.clone();
        self.devices.iter().for_each(|d| counts.join(&d.disk.counts()));
        counts
    }

    /// How often what happens: each seed has some kinds of trouble and not others.
    fn swarm(lot: &Lot) -> Vec<(usize, Event)> {
        let mut events = vec![
            (200, Event::Act),
            (150, Event::Carry),
            (16, Event::Connect),
            (10, Event::Work),
            (8, Event::Look),
            (1, Event::Verify),
            (12, Event::Start),
            (6, Event::Pause),
        ];
        let sometimes = [
            (6, Event::Disconnect),
            (3, Event::Partition),
            (3, Event::Kill),
            (3, Event::DieSoon),
            (3, Event::PowerLoss),
            (3, Event::DiskFails),
            (3, Event::DiskFills),
            (2, Event::BitFlips),
            (3, Event::ClockJumps),
        ];
        events.extend(sometimes.into_iter().filter(|_| lot.chance(600)));
        // Of no effect where nobody is malicious.
        events.push((60, Event::Mischief));
        events.push((4, Event::Repair));
        if lot.chance(300) {
            events.extend([(6, Event::Backup), (5, Event::Restore)]);
        }
        events
    }

    /// One step.
    pub(crate) fn take_step(&mut self) -> Result<(), Violation> {
        self.step += 1;
        let wait = self.lot.weighted(&[(60, 0), (30, 5), (8, 2000), (1, 3_600_000)]).unwrap_or(0);
        self.time.pass(Duration::from_millis(1 + self.lot.below(wait + 1) as u64));
        let event = self.lot.weighted(&self.events).unwrap_or(Event::Act);
        let r = self.lot.below(self.devices.len());
        let up = self.devices[r].volume.is_some();
        let troubled = self.devices[r].disk.is_troubled();
        match event {
            Event::Act if up && (self.rights || self.devices[r].role >= Role::Writer) => {
                let outcome = match self.act(r) {
                    Ok(deed) => format!("{deed:?}"),
                    Err((deed, Trip::Refused(error))) => {
                        let excused = troubled || self.devices[r].disk.is_troubled() || self.is_of_rights(&error);
                        if !Self::is_ordinary(&error) && !excused {
                            return Err(Violation(format!("{}: {deed:?}: {error}", self.devices[r].name)));
                        }
                        format!("{deed:?}: {error}")
                    }
                    Err((_, Trip::Violation(violation))) => return Err(violation),
                };
                self.note(r, &outcome);
            }
            Event::Carry => self.carry()?,
            Event::Connect => {
                let other = self.lot.below(self.devices.len());
                if self.connect(r, other) {
                    self.note(r, &format!("connects to {other}"));
                }
            }
            Event::Disconnect => {
                let which = self.lot.below(self.connections.len());
                if which < self.connections.len() {
                    self.counts.add("network: a connection broke");
                    let lanes = &self.connections[which].lanes;
                    let lost = lanes.iter().map(|l| l.control.len() + l.answers.len()).sum::<usize>();
                    self.counts.many("network: messages lost with it", lost as u64);
                    self.connections.remove(which);
                    self.note(r, &format!("connection {which} breaks"));
                }
            }
            Event::Partition => {
                let parts = 1 + self.lot.below(3);
                self.part = (0..self.devices.len()).map(|_| self.lot.below(parts)).collect();
                let part = self.part.clone();
                self.connections.retain(|c| part[c.ends[0]] == part[c.ends[1]]);
                self.counts.add(if parts > 1 { "network: a partition" } else { "network: a partition healed" });
                self.note(r, &format!("partition {part:?}"));
            }
            Event::Work if up => {
                self.work(r)?;
                self.note(r, "works");
            }
            Event::Look if up => self.look(r)?,
            Event::Verify if up => {
                self.verify_alone(r)?;
                self.note(r, "is verified");
            }
            Event::Kill if up => {
                self.counts.add("crash: killed between calls");
                self.note(r, "is killed");
                self.kill(r)?;
            }
            Event::DieSoon if up => {
                self.devices[r].disk.fail(self.lot.below(12) as u32, Trouble::Dead, 1);
                self.note(r, "will die in a call");
            }
            Event::PowerLoss if up => {
                self.counts.add("crash: power lost between calls");
                self.note(r, "loses power");
                self.lose_power(r)?;
            }
            Event::DiskFails | Event::DiskFills if up => {
                let trouble = if matches!(event, Event::DiskFails) { Trouble::Io } else { Trouble::Full };
                let times = if self.lot.chance(500) { 1 } else { 1 + self.lot.below(20) as u32 };
                self.devices[r].disk.fail(self.lot.below(6) as u32, trouble, times);
                self.note(r, &format!("{trouble:?} for {times}"));
            }
            Event::BitFlips => {
                for _ in 0..=self.lot.below(4) {
                    self.devices[r].disk.spoil(&self.lot);
                }
                self.note(r, "has a bit flipped");
            }
            Event::Repair => {
                if self.devices[r].disk.is_spoiled() && up {
                    self.stop(r);
                }
                self.devices[r].disk.repair();
                self.note(r, "is repaired");
            }
            Event::Start if !up => {
                self.counts.add("restart");
                self.start(r)?;
                self.note(r, "starts");
            }
            Event::Backup if self.backup.is_none() => {
                self.backup = Some(self.back_up(r));
                self.note(r, "is backed up");
            }
            Event::Restore => {
                if let Some(backup) = self.backup.take().filter(|b| !self.is_mallory(b.of)) {
                    self.counts.add("an old backup was restored");
                    self.restore(&backup)?;
                    self.note(backup.of, &format!("is back at step {}", backup.step));
                }
            }
            Event::ClockJumps => {
                let off = match self.lot.below(4) {
                    0 => -YEAR,
                    1 => self.lot.below(7_200_000) as i64 - 3_600_000,
                    _ => self.lot.below(2 * YEAR as usize) as i64 - YEAR,
                };
                self.counts.add(if off == -YEAR { "clock: set back a year" } else { "clock: jumped" });
                self.devices[r].clock.set_off(off);
                self.note(r, &format!("has its clock off by {off} ms"));
            }
            Event::Pause => self.time.pass(Duration::from_secs(self.lot.below(7200) as u64)),
            Event::Mischief => {
                let what = self.mischief()?;
                self.trace.tell(|| format!("{}: mallory {what}", self.step));
            }
            _ => {}
        }
        for r in 0..self.devices.len() {
            if self.devices[r].disk.is_dead() {
                self.note(r, "dies");
                if self.lot.chance(500) {
                    self.counts.add("crash: killed within a call");
                    self.kill(r)?;
                } else {
                    self.counts.add("crash: power lost within a call");
                    self.lose_power(r)?;
                }
            }
            self.bounded(r)?;
        }
        Ok(())
    }

    fn note(&mut self, r: usize, what: &str) {
        self.trace.tell(|| format!("{}: {} {what}", self.step, self.devices[r].name));
    }

    /// What a call may be answered with whatever the disk.
    fn is_ordinary(error: &Error) -> bool {
        matches!(
            error,
            Error::Exists
                | Error::NotFound
                | Error::NotEmpty
                | Error::NotDirectory
                | Error::IsDirectory
                | Error::Invalid
                | Error::NotPermitted
                | Error::NoAttribute
                | Error::Absent(_)
        )
    }

    // ---- the network

    pub(crate) fn connect(&mut self, a: usize, b: usize) -> bool {
        if a == b || self.part[a] != self.part[b] || self.connections.iter().any(|c| c.joins(a, b)) {
            return false;
        }
        let (Some(at_a), Some(at_b)) = (&self.devices[a].volume, &self.devices[b].volume) else { return false };
        let sessions = [at_a.session(self.devices[b].id()), at_b.session(self.devices[a].id())];
        self.connections.push(Connection::new([a, b], sessions));
        true
    }

    /// Breaks all connections of a device.
    pub(crate) fn disconnect_all(&mut self, r: usize) {
        self.connections.retain(|c| !c.ends.contains(&r));
    }

    /// Some of what is on its way arrives.
    fn carry(&mut self) -> Result<(), Violation> {
        let c = self.lot.below(self.connections.len());
        for _ in 0..self.lot.below(16) {
            if c >= self.connections.len() {
                return Ok(());
            }
            let side = self.lot.below(2);
            if self.bad_network {
                self.garble(c, side);
            }
            let alive = match self.lot.below(6) {
                0 | 1 => {
                    self.talk(c, side);
                    true
                }
                2 | 3 => self.hear(c, side)?,
                4 => {
                    let max = 1 + self.lot.below(8);
                    self.connections[c].ask(side, max);
                    true
                }
                _ => {
                    for _ in 0..=self.lot.below(3) {
                        self.serve(c, side);
                    }
                    self.arrive(c, side)?
                }
            };
            if !alive {
                self.trace.tell(|| format!("{}: a connection is ended", self.step));
                self.connections.remove(c);
                return Ok(());
            }
        }
        Ok(())
    }

    /// Something happens to what `side` said or was answered.
    fn garble(&mut self, c: usize, side: usize) {
        let lane = &mut self.connections[c].lanes[side];
        let (said, answered) = (lane.control.len(), lane.answers.len());
        match self.lot.below(40) {
            0 if said > 0 => {
                lane.control.pop_front();
                self.counts.add("network: a message lost on its way");
            }
            1 if said > 0 => {
                lane.control.extend(lane.control.front().cloned());
                self.counts.add("network: a message came twice");
            }
            2 | 3 if said > 1 => {
                lane.control.swap(0, said - 1);
                self.counts.add("network: messages came in another order");
            }
            4..8 if answered > 1 => {
                lane.answers.swap(0, answered - 1);
                self.counts.add("network: blocks came in another order");
            }
            _ => {}
        }
    }

    fn talk(&mut self, c: usize, side: usize) -> bool {
        let Some(message) = self.connections[c].talk(side) else { return false };
        self.trace.note(&message);
        if let Ok(Message::Commits(commits)) = Message::decode(&message) {
            for commit in commits {
                if self.sent.insert(commit_hash(&commit.header)) {
                    self.overheard.push(commit);
                }
            }
        }
        true
    }

    /// What `side` said arrives. False: the other side ends the connection.
    pub(crate) fn hear(&mut self, c: usize, side: usize) -> Result<bool, Violation> {
        let connection = &mut self.connections[c];
        let Some(bytes) = connection.lanes[side].control.pop_front() else { return Ok(true) };
        let (from, to) = (connection.ends[side], connection.ends[1 - side]);
        let troubled = self.devices[to].disk.is_troubled();
        self.counts.add("network: messages that came");
        let decoded = Message::decode(&bytes);
        let kept = matches!(&decoded, Ok(Message::Commits(commits)) if commits.iter().all(|c| self.void.contains(c)));
        let received = match decoded {
            Ok(message) => self.connections[c].sessions[1 - side].receive(message),
            Err(malformed) => Err(volume::SessionError::Misbehaved(malformed.to_string())),
        };
        if kept && let Err(volume::SessionError::Misbehaved(why)) = &received {
            return Err(Violation(format!("{} refuses a void commit: {why}", self.devices[to].name)));
        }
        self.ended(from, to, troubled, received)
    }

    /// Judges why a connection ended.
    fn ended(
        &mut self,
        from: usize,
        to: usize,
        troubled: bool,
        result: Result<(), volume::SessionError>,
    ) -> Result<bool, Violation> {
        let Err(why) = result else { return Ok(true) };
        let excused = match why {
            volume::SessionError::Misbehaved(_) => self.is_mallory(from),
            volume::SessionError::Failed(_) => troubled || self.devices[to].disk.is_troubled(),
        };
        if excused || self.is_mallory(to) {
            if self.is_mallory(from) {
                self.counts.add("liar: refused, and its connection ended");
            }
            return Ok(false);
        }
        Err(Violation(format!("{} ends its connection with {}: {why}", self.devices[to].name, self.devices[from].name)))
    }

    /// The other side answers what `side` asked for next.
    fn serve(&mut self, c: usize, side: usize) -> bool {
        let connection = &mut self.connections[c];
        let Some(hash) = connection.lanes[side].asks.pop_front() else { return false };
        let mut answer = connection.sessions[1 - side].serve_block(&hash);
        if self.mallory == Some(connection.ends[1 - side]) {
            match self.lot.below(6) {
                0 => {
                    self.counts.add("liar: withholds a block");
                    answer = None;
                }
                1 => {
                    self.counts.add("liar: sends a wrong block");
                    self.lot.spoil(answer.get_or_insert_with(|| vec![0; 100]));
                }
                2 => {
                    self.counts.add("liar: sends a wrong block");
                    answer = Some(vec![7; 32 * (1 + self.lot.below(200))]);
                }
                _ => {}
            }
        }
        self.trace.note(answer.as_deref().unwrap_or_default());
        self.connections[c].lanes[side].answers.push_back((hash, answer));
        true
    }

    /// An answer to what `side` asked for arrives. False: `side` ends the connection.
    fn arrive(&mut self, c: usize, side: usize) -> Result<bool, Violation> {
        let connection = &mut self.connections[c];
        let Some((hash, answer)) = connection.lanes[side].answers.pop_front() else { return Ok(true) };
        let (to, from) = (connection.ends[side], connection.ends[1 - side]);
        let troubled = self.devices[to].disk.is_troubled();
        let result = match answer {
            Some(bytes) => connection.sessions[side].block_arrived(&hash, &bytes),
            None => {
                connection.sessions[side].block_failed(&hash);
                Ok(())
            }
        };
        self.ended(from, to, troubled, result)
    }

    /// Lets these devices tell each other everything.
    pub(crate) fn meet(&mut self, who: &[usize]) -> Result<(), Violation> {
        self.connections.clear();
        self.part.fill(0);
        for (i, &a) in who.iter().enumerate() {
            for &b in &who[i + 1..] {
                self.connect(a, b);
            }
        }
        for round in 0..2000 {
            let mut moved = false;
            for &r in who {
                // What is brought in line after others were told is for the next round.
                moved |= self.work(r)?.is_some_and(|due| due <= self.time.passed());
            }
            let mut c = 0;
            while c < self.connections.len() {
                let mut alive = true;
                for side in [0, 1] {
                    moved |= self.talk(c, side);
                    while alive && !self.connections[c].lanes[side].control.is_empty() {
                        moved = true;
                        alive = self.hear(c, side)?;
                    }
                    moved |= alive && self.connections[c].ask(side, 32) > 0;
                    while alive && self.serve(c, side) {
                        moved = true;
                        alive = self.arrive(c, side)?;
                    }
                }
                if !alive {
                    return Err(Violation("good devices end a connection".to_owned()));
                }
                c += 1;
            }
            let sessions = || self.connections.iter().flat_map(|c| &c.sessions);
            if !moved && sessions().all(|s| s.retry_in().is_none()) {
                self.connections.clear();
                return Ok(());
            }
            self.time.pass(Duration::from_millis(if moved { 10 } else { 5000 }));
            self.trace.note(&[round as u8]);
        }
        Err(Violation("they never come to an end".to_owned()))
    }

    // ---- a device's life

    /// A round of the committer of `r`; tells when it wants the next.
    fn work(&mut self, r: usize) -> Result<Option<Duration>, Violation> {
        let due = self.volume(r)?.work();
        if self.devices[r].disk.unsynced() == 0 {
            self.ledger.synced(r);
        }
        Ok(due)
    }

    fn stop(&mut self, r: usize) {
        self.disconnect_all(r);
        for index in 0..self.devices[r].opens.len() {
            if self.is_shut(r, self.devices[r].opens[index].ino) {
                self.stranded.extend(tokens(&self.content(r, index)).unwrap_or_default());
            }
        }
        self.devices[r].stop();
    }

    fn start(&mut self, r: usize) -> Result<(), Violation> {
        let troubled = self.devices[r].disk.is_troubled();
        match self.devices[r].start() {
            Err(e) if !troubled => Err(Violation(format!("{} can't be started: {e}", self.devices[r].name))),
            _ => Ok(()),
        }
    }

    /// `kill -9`: what was answered is there when it starts again.
    fn kill(&mut self, r: usize) -> Result<(), Violation> {
        self.devices[r].note_unpublished();
        let device = &self.devices[r];
        let settled = device.opens.is_empty() && device.blurred.is_empty() && !device.disk.is_troubled();
        let before = match &device.volume {
            Some(volume) if settled => Some(dump(volume)),
            _ => None,
        };
        let before = before.map(|tree| self.sound(r, "listing", tree)).transpose()?;
        self.stop(r);
        if self.devices[r].disk.is_dead() {
            self.devices[r].disk.recover();
        }
        if let Some(before) = before {
            self.start(r)?;
            let after = dump(&self.volume(r)?);
            let after = self.sound(r, "listing", after)?;
            if before != after {
                let name = &self.devices[r].name;
                return Err(Violation(format!("{name} shows others after a kill:{}", differences(&before, &after))));
            }
        }
        Ok(())
    }

    /// Power loss: what was synced is there, and so is all that anybody else was told.
    fn lose_power(&mut self, r: usize) -> Result<(), Violation> {
        self.stop(r);
        let device = &mut self.devices[r];
        if device.disk.is_dead() {
            device.disk.recover();
        }
        device.shown = device.shown_for_good.clone();
        let sync_failed = device.disk.sync_failed();
        let before = Self::commit_names(&device.disk);
        device.disk.lose_power(&self.lot);
        let after = Self::commit_names(&device.disk);
        self.ledger.lost_power(r);
        let lost: BTreeSet<&CommitHash> = before.difference(&after).collect();
        let sent = self.overheard.iter().filter(|c| lost.contains(&commit_hash(&c.header)));
        let sent: Vec<ClaimedCommit> = sent.filter(|_| !self.is_mallory(r)).cloned().collect();
        for commit in sent {
            let commit = self.checked(r, commit)?;
            let own = commit.header.device == self.devices[r].id();
            // What came from others while the disk failed to sync is known elsewhere, and comes again.
            if own || !sync_failed {
                let (name, hash) = (&self.devices[r].name, commit.hash.short());
                return Err(Violation(format!("{name} lost a commit that was sent: {hash}, its own: {own}")));
            }
        }
        Ok(())
    }

    /// A copy of a device's disk.
    pub(crate) fn back_up(&self, of: usize) -> Backup {
        let device = &self.devices[of];
        let open = device.files.keys().chain(&device.blurred).copied().collect();
        let pending = device.volume.as_ref().is_none_or(|volume| volume.status().pending_changes > 0);
        Backup { of, step: self.step, image: device.disk.image(), open, pending }
    }

    /// What a device showed, as far as others show the same and the copy has a name for it. What was open when the copy was
    /// made is published a second time, beside what came of it the first time.
    fn before_copy(&self, backup: &Backup, elsewhere: &BTreeSet<Print>) -> BeforeCopy {
        let device = &self.devices[backup.of];
        let volume = device.volume.as_ref().filter(|_| !device.disk.is_troubled() && !backup.pending);
        let files = volume.and_then(|volume| Some((volume, entries(volume).ok()?)));
        let mut shown = BTreeMap::new();
        if let Some((volume, files)) = files {
            for file in files.into_iter().filter(|file| file.kind == NodeKind::File && !backup.open.contains(&file.ino))
            {
                let seen = read(volume, file.ino).ok().map(|bytes| print(&bytes));
                if let Some(seen) = seen.filter(|seen| elsewhere.contains(seen)) {
                    shown.insert(file.ino, seen);
                }
            }
        }
        BeforeCopy { of: backup.of, shown, ancestry: self.ledger.clone() }
    }

    /// An old backup is restored.
    fn restore(&mut self, backup: &Backup) -> Result<(), Violation> {
        let (r, step, image) = (backup.of, backup.step, &backup.image);
        // What others know too must come back from them.
        let sound = |r: &usize| self.devices[*r].volume.is_some() && !self.devices[*r].disk.is_troubled();
        let who: Vec<usize> = (0..self.devices.len()).filter(|r| !self.is_mallory(*r)).filter(sound).collect();
        if who.contains(&r) && self.lot.chance(700) {
            self.meet(&who)?;
        }
        let mut prints = BTreeSet::new();
        for (other, device) in self.devices.iter().enumerate().filter(|(other, _)| *other != r) {
            if let Some(volume) = device.volume.as_ref().filter(|_| !self.is_mallory(other)) {
                prints.extend(World::prints(volume));
            }
        }
        let mut before = self.before_copy(backup, &prints);
        self.stop(r);
        let mut elsewhere = BTreeSet::new();
        for (other, device) in self.devices.iter().enumerate().filter(|(other, _)| *other != r) {
            if let Some(volume) = device.volume.as_ref().filter(|_| !self.is_mallory(other)) {
                elsewhere.extend(Self::visible(volume).unwrap_or_default());
            }
        }
        let mut replaced = self.devices[r].disk.blocks();
        self.devices[r].disk.restore(image);
        let honest: Vec<usize> = (0..self.devices.len()).filter(|r| !self.is_mallory(*r)).collect();
        replaced.retain(|hash, _| !honest.iter().any(|r| self.devices[*r].disk.keeps(hash)));
        self.replaced.extend(replaced);
        let device = &mut self.devices[r];
        device.shown.clear();
        device.shown_for_good.clear();
        self.ledger.rolled_back(r, step, &elsewhere);
        // What the next copy loses was perhaps only here.
        self.before_copies.clear();
        if self.lot.chance(500) {
            self.counts.add("a backup that was restored is noticed");
            self.devices[r].copied = true;
        } else {
            self.unnoticed.insert(r);
        }
        self.start(r)?;
        if let Some(volume) = &self.devices[r].volume {
            // Numbers that the copy hasn't given out come to stand for other files.
            let there: BTreeSet<Ino> = entries(volume).unwrap_or_default().into_iter().map(|e| e.ino).collect();
            self.counts.many("check: files shown as an older copy came", before.shown.len() as u64);
            before.shown.retain(|ino, _| there.contains(ino));
            self.counts.many("check: of these, files that the copy has", before.shown.len() as u64);
            self.before_copies.push(before);
        }
        Ok(())
    }

    /// All troubles end, and everybody but Mallory meets; then everything is checked.
    pub(crate) fn settle(&mut self) -> Result<(), Violation> {
        self.connections.clear();
        let honest: Vec<usize> = (0..self.devices.len()).filter(|r| !self.is_mallory(*r)).collect();
        for &r in &honest {
            if self.devices[r].disk.is_spoiled() {
                self.stop(r);
            }
            let disk: &Disk = &self.devices[r].disk;
            disk.repair();
            if self.devices[r].volume.is_none() {
                self.start(r)?;
            }
            self.look(r)?;
            while !self.devices[r].opens.is_empty() {
                match self.close(r, 0) {
                    Ok(()) => {}
                    Err(Trip::Violation(violation)) => return Err(violation),
                    Err(Trip::Refused(error)) if self.is_of_rights(&error) => {}
                    Err(Trip::Refused(error)) => {
                        return Err(Violation(format!("{}: closing: {error}", self.devices[r].name)));
                    }
                }
            }
        }
        self.time.pass(Duration::from_secs(60));
        self.meet(&honest)?;
        // What its writer may have lost the right to publish stays a draft.
        for &r in honest.iter().filter(|_| !self.rights) {
            self.devices[r].blurred.clear();
        }
        for &r in &honest {
            self.devices[r].note_unpublished();
        }
        match self.rights {
            true => self.verify_rights(&honest)?,
            false => self.verify_all(&honest)?,
        }
        self.trace.tell(|| "all met".to_owned());
        Ok(())
    }
}
