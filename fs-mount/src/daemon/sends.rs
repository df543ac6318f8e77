//! Direct sends: files that members send each other past the volume.
//!
//! [`Sends`] is all that others use: the command line through the control socket, and whatever shows them else. It remembers
//! what was offered and decided ([`kept`]), and begins what can be begun whenever somebody connects or decides. Each stream
//! has a thread of its own, as most of what it does is reading and writing files: [`giving`] and [`taking`].
//!
//! Invariants: a record's state changes under the lock and is saved before anybody is told; of contents one send at a time comes
//! from a device and goes to it; a thread ends when its connection does, and none begins once the end has begun.

mod destination;
mod folders;
mod giving;
mod kept;
mod meter;
mod place;
mod source;
mod taking;

use std::{
    collections::{HashMap, HashSet},
    ffi::OsString,
    io::ErrorKind,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
    sync::{Arc, Weak, atomic::AtomicBool},
    thread,
    time::{Duration, Instant},
};

use crypto::{DeviceId, Entropy, OsEntropy, SymmetricKey, UserId};
use parking_lot::{Condvar, Mutex};
use peer_net::sends::{
    Opening, SHOWN_NAMES, SendId, TakesSends,
    pipe::{Incoming, Line, Stop},
};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use tokio::{
    runtime::Handle,
    sync::{Notify, watch},
};
use volume::{
    Timestamp, Volume,
    audit::{Act, Op, Outcome as Ended},
};

pub(crate) use kept::State;
use kept::{Always, Kept, Leftover, Record};
use meter::{Meter, seconds_left};
use place::{Place, Top};
use source::Source;
pub(crate) use source::absolute;

use super::{Shared, blocking};
use crate::failure::{Failure, Outcome, plain};

/// Offers that are open for this user: of one other user, and of all.
const OFFERS: usize = 16;
const OFFERS_OF_ALL: usize = 64;
/// What this user offers at a time.
const OWN_OFFERS: usize = 1000;
/// The same of a user whose sends are taken without asking.
const OFFERS_UNASKED: usize = 1000;
/// And of all such users: what is remembered of them has to fit into a file.
const OFFERS_KEPT: usize = 4000;
/// How often a user may offer something new: so many at once, and so many more a minute.
const NEW_AT_ONCE: f64 = 30.0;
const NEW_PER_SECOND: f64 = 0.2;
/// Threads at a time.
const THREADS: usize = 64;
/// What a device is to hear at a time. Who misses something asks when it is there again.
const TELLINGS: usize = 1100;
/// How long until what arrived is tried to be moved again, and what is left to be removed.
const TIDIES: Duration = Duration::from_secs(60);
/// How often it is looked whether those with whom something runs are members still.
const LOOKS: Duration = Duration::from_secs(2);
/// How often the log tells that somebody offers too much.
const TELLS: Duration = Duration::from_secs(60);
/// How long the end waits for them.
const END: Duration = Duration::from_secs(3);

/// A member whose sends are taken without asking.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Unasked {
    pub(crate) user: String,
    /// The folder in which they arrive.
    pub(crate) to: String,
}

/// A send, for whoever looks at it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Transfer {
    /// Its number on this device.
    pub(crate) id: u64,
    pub(crate) incoming: bool,
    /// At the other end.
    pub(crate) user: String,
    /// At the other end, in hexadecimal, once it is one's.
    pub(crate) device: Option<String>,
    /// What it is: the first name, and how many more there are.
    pub(crate) name: String,
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    /// Bytes that are there.
    pub(crate) done: u64,
    /// Of those, the ones that were there before this connection.
    pub(crate) resumed: u64,
    /// Bytes in a second, while it is on its way.
    pub(crate) rate: Option<u64>,
    pub(crate) seconds_left: Option<u64>,
    pub(crate) state: State,
    /// What keeps it from going on, or how it ended.
    pub(crate) why: Option<String>,
    /// Where it arrives here.
    pub(crate) to: Option<String>,
    /// What is there, the first few.
    pub(crate) placed: Vec<String>,
    /// How many more.
    pub(crate) placed_more: u64,
    /// Links and the like that are left out.
    pub(crate) skipped: u64,
    pub(crate) began: Timestamp,
}

/// What is on its way.
#[derive(Clone, Default)]
struct Run {
    meter: Arc<Meter>,
    stop: Stop,
    /// They said meanwhile that it is to be offered again.
    again: Arc<AtomicBool>,
}

/// How a device took the last offer of a send.
struct Tried {
    /// On which connection.
    connection: u64,
    again: Again,
    /// How often in a row they could not take it as it was.
    failures: u32,
    /// How often in a row it was cut, or could not go on.
    cuts: u32,
    /// When that was.
    at: Instant,
}

/// When a send is offered again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Again {
    /// Once they say so.
    WhenTold,
    /// After what goes there now and began before.
    InTurn,
    At(Instant),
}

/// How often a user may offer something new.
struct Room {
    room: f64,
    at: Instant,
    /// When the log told last that it was too often.
    told: Option<Instant>,
}

/// Whether a user may offer something new.
enum HasRoom {
    Yes,
    No {
        /// The log told that lately.
        told: bool,
    },
}

#[derive(Default)]
struct Core {
    kept: Kept,
    runs: HashMap<(u64, DeviceId), Run>,
    tried: HashMap<(u64, DeviceId), Tried>,
    /// Devices with which contents are on their way.
    giving: HashSet<DeviceId>,
    taking: HashSet<DeviceId>,
    /// What devices are to be told, if they are there; and who is being told something now.
    to_tell: Vec<(DeviceId, Opening)>,
    telling: HashSet<DeviceId>,
    /// What was just offered to this user: nobody need ask whether that goes on.
    fresh: HashSet<u64>,
    new: HashMap<UserId, Room>,
    threads: usize,
    /// When it was last tried to remove what is left over and to move what can't be moved; whether somebody does.
    tidied: Option<Instant>,
    tidies: bool,
    /// Nothing begins: what is sent or arrives may lie on the mount, which isn't there yet, or is about to go.
    early: bool,
    held: bool,
    ended: bool,
}

/// The sends of one volume on this device.
pub(crate) struct Sends {
    me: Weak<Sends>,
    volume: Volume,
    dir: PathBuf,
    secret: SymmetricKey,
    /// Where things arrive when nobody says where.
    inbox: PathBuf,
    runtime: Handle,
    core: Mutex<Core>,
    ending: Condvar,
    wake: Notify,
    changes: watch::Sender<u64>,
    on_offer: Box<dyn Fn() + Send + Sync>,
}

/// The path that bytes are.
fn path_of(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes.to_vec()))
}

fn no_such(n: u64) -> Failure {
    Failure::new(format!("there is no transfer {n}: `p2pfs inbox` lists them"))
}

impl Sends {
    /// Those that were remembered. Called within the runtime; `on_offer` tells the user of a new one.
    pub(crate) fn open(
        volume: &Volume,
        dir: &Path,
        secret: &SymmetricKey,
        inbox: PathBuf,
        on_offer: impl Fn() + Send + Sync + 'static,
    ) -> Arc<Self> {
        let kept = Kept::load(dir, secret);
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            volume: volume.clone(),
            dir: dir.to_owned(),
            secret: secret.clone(),
            inbox,
            runtime: Handle::current(),
            core: Mutex::new(Core { kept, early: true, ..Core::default() }),
            ending: Condvar::new(),
            wake: Notify::new(),
            changes: watch::Sender::new(0),
            on_offer: Box::new(on_offer),
        })
    }

    /// All of them, the oldest first.
    pub(crate) fn list(&self) -> Vec<Transfer> {
        let core = self.core.lock();
        core.kept.records.iter().map(|record| core.shown(record)).collect()
    }

    /// One of them.
    pub(crate) fn get(&self, n: u64) -> Outcome<Transfer> {
        let core = self.core.lock();
        let record = core.kept.records.iter().find(|record| record.n == n);
        record.map(|record| core.shown(record)).ok_or_else(|| no_such(n))
    }

    /// Wakes when there is another one, or one is in another state. How far they are changes all the time.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Offers what is at these absolute paths to a user, unless whoever wants that has gone away meanwhile.
    pub(crate) fn offer(&self, paths: &[PathBuf], user: &str, wish: &Wish) -> Outcome<Transfer> {
        let to = self.volume.recipient(user)?;
        if self.volume.other_devices_of(&to).is_empty() {
            return Err(Failure::new(format!("{user} has no other device that it could go to")));
        }
        let named = paths.iter().map(|path| Top::named(path)).collect::<Outcome<Vec<_>>>()?;
        let source = Source::find(&named)?;
        let mut id = SendId::new([0; 16]);
        OsEntropy.fill(&mut id[..]);
        let record = Record {
            n: 0,
            id,
            incoming: false,
            user: to,
            name: user.to_owned(),
            device: None,
            tops: source.manifest.tops().take(SHOWN_NAMES).map(|name| ByteBuf::from(name.to_vec())).collect(),
            files: source.manifest.files(),
            bytes: source.manifest.bytes(),
            skipped: source.skipped,
            paths: named,
            identity: source.identity,
            to: None,
            hidden: None,
            placed: Vec::new(),
            placed_more: 0,
            placing: false,
            state: State::Waiting,
            why: None,
            began: self.now(),
        };
        let mut wish = wish.0.lock();
        if wish.gone {
            return Err(Failure::new("it was taken back"));
        }
        let mut core = self.core.lock();
        let open = core.kept.records.iter().filter(|record| !record.incoming && record.state.is_open()).count();
        if open >= OWN_OFFERS {
            return Err(Failure::new("too much is being sent already: `p2pfs inbox` lists it"));
        }
        let typed: usize = record.paths.iter().map(Top::len).sum();
        if core.kept.typed() + typed > kept::MAX_TYPED {
            return Err(Failure::new("these are too many names: send the folder that they are in"));
        }
        let n = core.kept.add(record);
        if let Err(why) = self.try_save(&mut core) {
            core.kept.records.retain(|record| record.n != n);
            return Err(why);
        }
        wish.made = Some(n);
        drop(core);
        self.get(n)
    }

    /// Says yes to what is offered, to arrive in `to`, an absolute path.
    pub(crate) fn accept(&self, n: u64, to: Option<PathBuf>) -> Outcome<Transfer> {
        let named = to.is_some();
        let to = self.arrival(to)?;
        let mut core = self.core.lock();
        let record = core.kept.record(n).filter(|record| record.incoming).ok_or_else(|| no_such(n))?;
        let before = record.clone();
        match record.state {
            State::Offered => {}
            state if state.is_open() => return Err(Failure::new(format!("{n} is accepted already"))),
            _ => return Err(Failure::new(format!("{n} is over"))),
        }
        record.state = State::Accepted;
        // What came of it before it became more stays where it is, unless another place is named.
        let (device, id) = (record.device, record.id);
        if named || before.to.is_none() {
            core.move_to(n, to);
        }
        if let Err(why) = self.try_save(&mut core) {
            core.kept.record(n).into_iter().for_each(|record| *record = before.clone());
            core.kept.leftovers.retain(|left| Some(&left.hidden) != before.hidden.as_ref());
            return Err(why);
        }
        device.into_iter().for_each(|device| core.is_to_hear(device, Opening::Again(id)));
        drop(core);
        self.wake.notify_one();
        self.sweep();
        self.get(n)
    }

    /// Says no to what is offered.
    pub(crate) fn decline(&self, n: u64) -> Outcome<Transfer> {
        self.end_one(n, State::Declined, true)
    }

    /// Ends what is under way, either way.
    pub(crate) fn cancel(&self, n: u64) -> Outcome<Transfer> {
        self.end_one(n, State::Cancelled, false)
    }

    fn end_one(&self, n: u64, state: State, only_incoming: bool) -> Outcome<Transfer> {
        let mut core = self.core.lock();
        let runs = core.runs.keys().any(|(of, _)| *of == n);
        let record =
            core.kept.record(n).filter(|record| record.incoming || !only_incoming).ok_or_else(|| no_such(n))?;
        if !record.state.is_open() || record.placing && runs {
            return Err(Failure::new(format!("{n} is over")));
        }
        (record.state, record.why, record.placing) = (state, None, false);
        let (incoming, id, device, user) = (record.incoming, record.id, record.device, record.user);
        let opening = if incoming { Opening::Again(id) } else { Opening::Withdrawn(id) };
        let devices = device.map_or_else(|| self.volume.other_devices_of(&user), |device| vec![device]);
        devices.into_iter().for_each(|device| core.is_to_hear(device, opening.clone()));
        core.end_runs(n);
        let saved = self.try_save(&mut core);
        drop(core);
        self.sweep();
        saved.and_then(|()| self.get(n))
    }

    /// Takes what a user sends without asking from now on, into `to`.
    pub(crate) fn always(&self, user: &str, to: Option<PathBuf>) -> Outcome<PathBuf> {
        let id = self.volume.recipient(user)?;
        let to = self.arrival(to)?;
        let mut core = self.core.lock();
        let before = core.kept.clone();
        core.kept.always.retain(|always| always.user != id);
        core.kept.always.push(Always { user: id, to: to.clone() });
        let offered = |record: &&Record| {
            record.incoming && record.user == id && record.state == State::Offered && !record.placing
        };
        let taken: Vec<_> =
            before.records.iter().filter(offered).map(|record| (record.n, record.device, record.id)).collect();
        for (n, ..) in &taken {
            core.move_to(*n, to.clone());
            core.kept.record(*n).into_iter().for_each(|record| record.state = State::Accepted);
        }
        if let Err(why) = self.try_save(&mut core) {
            core.kept = before;
            return Err(why);
        }
        for (_, device, id) in taken {
            device.into_iter().for_each(|device| core.is_to_hear(device, Opening::Again(id)));
        }
        drop(core);
        self.wake.notify_one();
        self.sweep();
        Ok(to.path())
    }

    /// Whose sends are taken without asking, of those who are still members.
    pub(crate) fn unasked(&self) -> Vec<Unasked> {
        let always = self.core.lock().kept.always.clone();
        let named = always.into_iter().filter_map(|always| {
            let to = always.to.path().display().to_string();
            Some(Unasked { user: self.volume.recipient_name(&always.user)?, to })
        });
        named.collect()
    }

    /// Asks again from now on. Tells whether that is new.
    pub(crate) fn ask_again(&self, user: &str) -> Outcome<bool> {
        let id = self.volume.recipient(user)?;
        let mut core = self.core.lock();
        let before = core.kept.always.len();
        core.kept.always.retain(|always| always.user != id);
        let changed = core.kept.always.len() != before;
        self.try_save(&mut core)?;
        Ok(changed)
    }

    /// The folder that was named, or the inbox.
    fn arrival(&self, to: Option<PathBuf>) -> Outcome<Place> {
        let made = to.is_none();
        let to = to.unwrap_or_else(|| self.inbox.clone());
        if made && std::fs::create_dir_all(&to).is_err() {
            return Err(Failure::new(format!("{} can't be made: name another folder with --to", to.display())));
        }
        Place::named(&to).map_err(|e| {
            let shown = to.display();
            Failure::new(match e.kind() {
                ErrorKind::NotFound | ErrorKind::NotADirectory => format!("{shown} is no folder: make it first"),
                _ => format!("{shown}: {}", plain(&e)),
            })
        })
    }

    fn now(&self) -> Timestamp {
        self.volume.own_act(Op::Send).time
    }

    /// Saves what changed, tells of it, and has it looked at what can be begun.
    ///
    /// # Errors
    /// It could not be saved, and is gone with the process.
    fn try_save(&self, core: &mut Core) -> Outcome<()> {
        let saved = core.kept.save(&self.dir, &self.secret, &OsEntropy);
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
        self.wake.notify_one();
        saved
    }

    /// The same where nobody waits for it: what went on without a user's word is found out again.
    fn save(&self, core: &mut Core) {
        if let Err(why) = self.try_save(core) {
            log::warn!("sends: {why}");
        }
    }

    /// Changes a record, and saves it if it is another one then.
    fn change(&self, n: u64, change: impl FnOnce(&mut Record)) {
        let mut core = self.core.lock();
        let Some(record) = core.kept.record(n) else { return };
        let before = record.clone();
        change(record);
        if *record != before {
            self.save(&mut core);
        }
    }

    /// Takes away what came of sends that are wanted no more. What can't be removed stays for the next time.
    fn sweep(&self) {
        let left = {
            let mut core = self.core.lock();
            if core.tidies || core.is_quiet() || core.kept.leftovers.is_empty() {
                return;
            }
            (core.tidies, core.tidied) = (true, Some(Instant::now()));
            core.kept.leftovers.clone()
        };
        let is_gone = |left: &&Leftover| match destination::discard(&left.to, &left.hidden) {
            Ok(()) => true,
            Err(e) => {
                log::warn!("what came of a send that is wanted no more can't be removed: {}", e.kind());
                false
            }
        };
        let gone: Vec<&Leftover> = left.iter().filter(is_gone).collect();
        let mut core = self.core.lock();
        core.tidies = false;
        if core.kept.leftovers.iter().any(|one| !left.contains(one)) {
            // There are more meanwhile.
            core.tidied = None;
            self.wake.notify_one();
        }
        if !gone.is_empty() {
            core.kept.leftovers.retain(|left| !gone.contains(&left));
            self.save(&mut core);
        }
    }

    /// Tries again what could not be removed or moved.
    fn tidy(&self, core: &mut Core) {
        if core.tidied.is_some_and(|at| at.elapsed() < TIDIES) {
            return;
        }
        core.tidied = Some(Instant::now());
        let over = |record: &&Record| !record.state.is_open() && record.hidden.is_some();
        let over: Vec<u64> = core.kept.records.iter().filter(over).map(|record| record.n).collect();
        for n in over {
            if !core.runs.keys().any(|(of, _)| *of == n) {
                core.kept.let_go(n);
            }
        }
        let placing = core.kept.records.iter().filter(|record| record.placing);
        let placing: Vec<_> = placing.filter_map(|record| Some((record.n, record.device?))).collect();
        for place in placing {
            if core.runs.contains_key(&place) {
                continue;
            }
            let work = move |sends: Arc<Sends>| {
                taking::place_the_rest(&sends, place.0);
                let mut core = sends.core.lock();
                core.runs.remove(&place);
                if core.kept.record(place.0).is_some_and(|record| !record.state.is_open()) {
                    core.end_runs(place.0);
                }
            };
            if self.spawn(core, work) {
                core.runs.insert(place, Run::default());
            }
        }
        if !core.kept.leftovers.is_empty() {
            self.spawn(core, |sends| sends.sweep());
        }
    }

    fn audit(&self, device: &DeviceId, outcome: Ended, note: String, bytes: u64) {
        if let Some(audit) = self.volume.audit() {
            let act = self.volume.act_by(Some(device), Op::Send);
            audit.record(Act { outcome, bytes: Some(bytes), note: Some(note), ..act });
        }
    }

    /// Runs `work` on a thread of its own, unless there are too many or the end has begun.
    fn spawn(&self, core: &mut Core, work: impl FnOnce(Arc<Sends>) + Send + 'static) -> bool {
        let Some(me) = self.me.upgrade().filter(|_| !core.ended && core.threads < THREADS) else { return false };
        // Made in there: where no thread starts, what it was to run is dropped here, under the lock that this takes to count.
        let started = thread::Builder::new().name("p2pfs-send".to_owned()).spawn(move || {
            let _counted = Counted(me.clone());
            work(me);
        });
        match &started {
            // It can't be over before that: whoever calls this has the lock.
            Ok(_) => core.threads += 1,
            Err(e) => log::warn!("a thread for a send can't be started: {e}"),
        }
        started.is_ok()
    }

    /// Begins what can be begun now. Gives when to look again at the latest.
    fn begin(&self, line: impl Fn(&DeviceId) -> Option<Line>) -> Option<Instant> {
        let mut core = self.core.lock();
        if core.is_quiet() {
            return None;
        }
        self.tidy(&mut core);
        self.begin_telling(&mut core, &line);
        // A device that was removed may keep its connection open.
        let strangers: Vec<_> =
            core.runs.keys().filter(|(_, device)| self.volume.correspondent(device).is_none()).copied().collect();
        strangers.iter().filter_map(|place| core.runs.get(place)).for_each(|run| run.stop.stop());
        let open = core.kept.records.iter().filter(|record| record.state.is_open());
        let mut open: Vec<Open> = open.map(Open::of).collect();
        open.sort_unstable_by_key(|record| record.n);
        let numbers: HashSet<u64> = open.iter().map(|record| record.n).collect();
        core.tried.retain(|(n, _), _| numbers.contains(n));
        core.fresh.retain(|n| numbers.contains(n));
        let mut next = (!core.runs.is_empty()).then(|| Instant::now() + LOOKS);
        if !core.kept.leftovers.is_empty() || core.kept.records.iter().any(|record| record.placing) {
            let tidies = core.tidied.map_or_else(Instant::now, |at| at + TIDIES);
            next = Some(next.map_or(tidies, |next| next.min(tidies)));
        }
        // Which devices get something in its turn now.
        let mut turns = HashSet::new();
        for record in open {
            let (n, user) = (record.n, record.user);
            if let Err(e) = self.volume.is_recipient(&user) {
                self.fail(&mut core, record, &e.to_string());
                continue;
            }
            if record.incoming && record.device.is_none_or(|device| self.volume.correspondent(&device).is_none()) {
                self.fail(&mut core, record, "removed the device that it came from");
                continue;
            }
            if record.incoming {
                self.ask_whether_it_goes_on(&mut core, &record, &line);
                continue;
            }
            let all = self.volume.other_devices_of(&user);
            // Of a device that is theirs no more nobody says whether it has a part.
            let devices = match record.device.filter(|device| all.contains(device)) {
                Some(device) => vec![device],
                None => all,
            };
            if let Some(kept) = core.kept.record(n).filter(|_| record.device.is_some_and(|had| !devices.contains(&had)))
            {
                (kept.device, kept.state) = (None, State::Waiting);
                self.save(&mut core);
            }
            for device in devices {
                if core.runs.contains_key(&(n, device)) {
                    continue;
                }
                let Some(line) = line(&device) else { continue };
                match core
                    .tried
                    .get(&(n, device))
                    .filter(|tried| tried.connection == line.number())
                    .map(|one| one.again)
                {
                    Some(Again::WhenTold) => continue,
                    Some(Again::InTurn) if core.giving.contains(&device) || !turns.insert(device) => continue,
                    Some(Again::At(again)) if again > Instant::now() => {
                        next = Some(next.map_or(again, |next| next.min(again)));
                        continue;
                    }
                    _ => {}
                }
                let run = Run::default();
                let with = run.clone();
                if self.spawn(&mut core, move |sends| giving::give(&sends, n, device, &line, &with)) {
                    core.runs.insert((n, device), run);
                }
            }
        }
        next
    }

    /// Has everybody who is there told what they are to hear, one thing after the other.
    fn begin_telling(&self, core: &mut Core, line: impl Fn(&DeviceId) -> Option<Line>) {
        let devices: HashSet<DeviceId> = core.to_tell.iter().map(|(device, _)| *device).collect();
        for device in devices {
            let Some(line) = line(&device) else {
                // Whoever isn't there hears it by how the next offer is answered, or asks.
                core.to_tell.retain(|(to, _)| *to != device);
                continue;
            };
            if !core.telling.contains(&device) && self.spawn(core, move |sends| giving::tell_all(&sends, device, &line))
            {
                core.telling.insert(device);
            }
        }
    }

    /// Ends one that can't go on, and takes away what came of it.
    fn fail(&self, core: &mut Core, record: Open, why: &str) {
        if record.placing && core.runs.keys().any(|(of, _)| *of == record.n) {
            // It is being moved to where it belongs.
            return;
        }
        if let Some(kept) = core.kept.record(record.n) {
            (kept.state, kept.why, kept.placing) = (State::Failed, Some(format!("{} {why}", record.name)), false);
        }
        core.end_runs(record.n);
        self.save(core);
        self.tidy(core);
    }

    /// Asks on each new connection for what is offered to go on: whoever offers it no more may not have been able to say so.
    fn ask_whether_it_goes_on(&self, core: &mut Core, record: &Open, line: impl Fn(&DeviceId) -> Option<Line>) {
        let Some((device, line)) = record.device.and_then(|device| Some((device, line(&device)?))) else { return };
        let (place, connection) = ((record.n, device), line.number());
        if record.placing || core.tried.get(&place).is_some_and(|tried| tried.connection == connection) {
            return;
        }
        if !core.fresh.remove(&record.n) {
            core.is_to_hear(device, Opening::Again(record.id));
        }
        core.tried
            .insert(place, Tried { connection, again: Again::WhenTold, failures: 0, cuts: 0, at: Instant::now() });
        self.wake.notify_one();
    }

    /// Ends all threads. What was under way goes on the next time.
    pub(crate) fn end(&self) {
        self.stop(|core| core.ended = true);
    }

    /// Has nothing under way, and nothing begun, until it [goes on](Self::go_on): the mount is about to go.
    pub(crate) fn hold(&self) {
        self.stop(|core| core.held = true);
    }

    /// The mount is there, if there is to be one.
    fn go_on_from_the_start(&self) {
        self.core.lock().early = false;
        self.wake.notify_one();
    }

    /// What was under way goes on, and new things begin.
    pub(crate) fn go_on(&self) {
        self.core.lock().held = false;
        self.wake.notify_one();
    }

    fn stop(&self, how: impl FnOnce(&mut Core)) {
        let deadline = Instant::now() + END;
        // A disk that hangs must not keep the end from coming.
        let Some(mut core) = self.core.try_lock_until(deadline) else { return };
        how(&mut core);
        core.runs.values().for_each(|run| run.stop.stop());
        self.ending.notify_all();
        while core.threads > 0 && !self.ending.wait_until(&mut core, deadline).timed_out() {}
    }
}

/// What of a record says whether it can go on.
struct Open {
    n: u64,
    id: SendId,
    incoming: bool,
    user: UserId,
    name: String,
    device: Option<DeviceId>,
    placing: bool,
}

impl Open {
    fn of(record: &Record) -> Self {
        let Record { n, id, incoming, user, device, placing, .. } = *record;
        Self { n, id, incoming, user, name: record.name.clone(), device, placing }
    }
}

/// Somebody who waits for a send: what they wanted ends when they go away, unless it is to go on without them.
#[derive(Clone, Default)]
pub(crate) struct Wish(Arc<Mutex<Wanted>>);

#[derive(Default)]
struct Wanted {
    gone: bool,
    made: Option<u64>,
}

impl Wish {
    /// They go away. Gives what is to be ended.
    pub(crate) fn go(&self) -> Option<u64> {
        let mut wanted = self.0.lock();
        wanted.gone = true;
        wanted.made.take()
    }

    /// What was made goes on without them.
    pub(crate) fn let_go(&self) {
        self.0.lock().made = None;
    }
}

/// A thread that is counted until it is over.
struct Counted(Arc<Sends>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.core.lock().threads -= 1;
        self.0.ending.notify_all();
        self.0.wake.notify_one();
    }
}

impl Core {
    /// Nothing is to begin now.
    fn is_quiet(&self) -> bool {
        self.early || self.held || self.ended
    }

    /// Ends what runs of a send that is over. What came of it is removed when nothing writes there any more.
    fn end_runs(&mut self, n: u64) {
        let mut runs = self.runs.iter().filter(|((of, _), _)| *of == n).peekable();
        let over = runs.peek().is_none();
        runs.for_each(|(_, run)| run.stop.stop());
        if over {
            self.kept.let_go(n);
            self.tidied = None;
        }
    }

    /// Has a send arrive elsewhere than before.
    fn move_to(&mut self, n: u64, to: Place) {
        if self.kept.record(n).is_some_and(|record| record.to.as_ref() != Some(&to)) {
            self.kept.let_go(n);
            self.kept.record(n).into_iter().for_each(|record| record.to = Some(to.clone()));
        }
    }

    /// Has a device told something, once it is there.
    fn is_to_hear(&mut self, device: DeviceId, opening: Opening) {
        let waiting = self.to_tell.iter().filter(|(to, _)| *to == device);
        if waiting.clone().count() < TELLINGS && !waiting.into_iter().any(|(_, other)| *other == opening) {
            self.to_tell.push((device, opening));
        }
    }

    fn shown(&self, record: &Record) -> Transfer {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let first = record.tops.first().map(|name| text(name)).unwrap_or_default();
        let more = record.tops.len().saturating_sub(1);
        let name = match more {
            0 => first,
            more if record.tops.len() >= SHOWN_NAMES => format!("{first} and {more} or more others"),
            1 => format!("{first} and another"),
            more => format!("{first} and {more} others"),
        };
        let run = self.runs.iter().find(|((n, _), _)| *n == record.n).map(|(_, run)| &run.meter);
        let running = record.state == State::Running;
        let rate = run.filter(|_| running).and_then(|meter| meter.rate(Instant::now()));
        let done = match record.state {
            State::Done => record.bytes,
            _ => run.map_or(0, |meter| meter.done().min(record.bytes)),
        };
        let to = record.to.as_ref().map(Place::path);
        let names: Vec<Vec<u8>> = record.placed.iter().map(|name| name.to_vec()).collect();
        Transfer {
            id: record.n,
            incoming: record.incoming,
            user: record.name.clone(),
            device: record.device.map(|device| device.to_string()),
            name,
            files: record.files,
            bytes: record.bytes,
            done,
            resumed: run.map_or(0, |meter| meter.resumed()),
            rate,
            seconds_left: seconds_left(record.bytes.saturating_sub(done), rate),
            state: record.state,
            why: record.why.clone(),
            placed: to.as_ref().map(|to| destination::shown(&names, to)).unwrap_or_default(),
            placed_more: record.placed_more,
            to: to.map(|to| to.display().to_string()),
            skipped: record.skipped,
            began: record.began,
        }
    }

    /// Whether a user may offer something new now; whoever isn't asked isn't bothered.
    fn room(&mut self, user: &UserId, unasked: bool, now: Instant) -> HasRoom {
        let is_open = |record: &&Record| record.incoming && record.state.is_open();
        let all = self.kept.records.iter().filter(is_open);
        let open = all.clone().count();
        let theirs = all.clone().filter(|record| record.user == *user).count();
        let asked = all.filter(|record| record.state == State::Offered).count();
        let is_full = match unasked {
            true => theirs >= OFFERS_UNASKED || open >= OFFERS_KEPT,
            false => theirs >= OFFERS || asked >= OFFERS_OF_ALL,
        };
        let room = self.new.entry(*user).or_insert(Room { room: NEW_AT_ONCE, at: now, told: None });
        let passed = now.saturating_duration_since(room.at).as_secs_f64();
        (room.room, room.at) = ((room.room + passed * NEW_PER_SECOND).min(NEW_AT_ONCE), now);
        if is_full || room.room < 1.0 && !unasked {
            let told = room.told.is_some_and(|at| now.saturating_duration_since(at) < TELLS);
            if !told {
                room.told = Some(now);
            }
            return HasRoom::No { told };
        }
        room.room -= if unasked { 0.0 } else { 1.0 };
        HasRoom::Yes
    }
}

impl TakesSends for Sends {
    fn opened(&self, device: DeviceId, opening: Opening, stream: Incoming) {
        let Some(me) = self.me.upgrade() else { return };
        // Without a thread for it the stream ends, and whoever opened it tries again.
        self.runtime.spawn_blocking(move || {
            let mut core = me.core.lock();
            me.spawn(&mut core, move |sends| taking::take(&sends, device, opening, stream));
        });
    }
}

/// Begins whatever can be begun, from now on. Called within the runtime.
pub(super) fn start(shared: &Arc<Shared>) {
    let shared = shared.clone();
    tokio::spawn(async move {
        shared.sends.go_on_from_the_start();
        let mut changes = shared.network.changes();
        loop {
            let task = shared.clone();
            let next = blocking(move || task.sends.begin(|device| task.network.line(device))).await;
            let until = next.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = shared.sends.wake.notified() => {}
                () = tokio::time::sleep_until(until.into()) => {}
            }
        }
    });
}
