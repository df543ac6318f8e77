//! The sender's side of one stream: offers, and gives what is wanted.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use crypto::DeviceId;
use peer_net::sends::{
    Answer, Have, Offer, Opening, Report, SHOWN_NAMES,
    manifest::{Kind, Manifest},
    pipe::{Line, Outgoing, Stop},
};
use serde_bytes::ByteBuf;
use volume::audit::Outcome as Ended;

use super::{
    Again, Run, Sends, State, Tried,
    source::{Given, NotFound, NotGiven, Sending, Source},
};
use crate::output::count;

/// How long until what was not wanted now is offered again.
const BUSY: Duration = Duration::from_secs(2);
const NO_ROOM: Duration = Duration::from_secs(10);
/// How long after something went wrong, at first and at most.
const FIRST: Duration = Duration::from_millis(500);
const MOST: Duration = Duration::from_secs(30);
/// What can't be read here may be readable later.
const UNREADABLE: Duration = Duration::from_secs(5);
/// How often files may change while they are sent, or the receiver fail to keep them.
const FAILURES: u32 = 5;

/// How it went.
enum Went {
    Done,
    /// Their user is asked; they say when to offer it again.
    Asked,
    Declined,
    /// Another device of theirs has it.
    Elsewhere,
    /// Another one goes to that device now.
    InTurn,
    /// Offer it again after so long, or longer if that happens again.
    Later(Duration, Option<String>),
    /// The stream broke.
    Broken,
    /// Again, but not for ever.
    Failed(String),
    /// It can't be sent.
    Over(String),
}

/// Tells a device all that it is to hear, one thing after the other: it lets few streams be opened at once.
pub(super) fn tell_all(sends: &Sends, device: DeviceId, line: &Line) {
    let mut core = sends.core.lock();
    while !(core.is_quiet() || line.is_closed()) {
        let Some(at) = core.to_tell.iter().position(|(to, _)| *to == device) else { break };
        let (_, opening) = core.to_tell.remove(at);
        drop(core);
        let heard = line.open(sends.runtime.clone(), Stop::default(), &opening).and_then(|mut stream| stream.answer());
        core = sends.core.lock();
        // Any answer says that it was heard; how the next offer is answered tells the rest.
        if heard.is_err() && !line.is_closed() {
            core.is_to_hear(device, opening);
            sends.ending.wait_for(&mut core, FIRST);
        }
    }
    core.telling.remove(&device);
    sends.wake.notify_one();
}

/// Offers a send to a device, and gives it what it wants.
pub(super) fn give(sends: &Arc<Sends>, n: u64, device: DeviceId, line: &Line, run: &Run) {
    let mut gives = false;
    let went = offer(sends, n, device, line, run, &mut gives);
    let mut core = sends.core.lock();
    if gives {
        core.giving.remove(&device);
    }
    core.runs.remove(&(n, device));
    let (failures, cuts) = core.tried.get(&(n, device)).map_or((0, 0), |tried| (tried.failures, tried.cuts));
    let now = Instant::now();
    // They may have decided before the answer that they are asked was here.
    let again = if run.again.load(Ordering::Relaxed) { Again::At(now) } else { Again::WhenTold };
    let mut tried = Tried { connection: line.number(), again, failures: 0, cuts: 0, at: now };
    let Some(record) = core.kept.record(n) else { return };
    let before = record.clone();
    let (name, bytes) = (record.name.clone(), record.bytes);
    let mut told = None;
    // What one of their devices says of it concerns nobody once it is another one's.
    let went = if record.device.is_some_and(|taken| taken != device) { Went::Elsewhere } else { went };
    if record.state.is_open() {
        if record.state == State::Running && !matches!(went, Went::Elsewhere) {
            record.state = State::Accepted;
        }
        match went {
            Went::Done => {
                (record.state, record.why) = (State::Done, None);
                told = Some((Ended::Allowed, format!("{} arrived at {name}", count(record.files, "file"))));
            }
            Went::Asked => (record.state, record.why) = (State::Offered, None),
            Went::Declined => {
                (record.state, record.why) = (State::Declined, None);
                told = Some((Ended::Denied(format!("{name} declined")), count(record.files, "file")));
            }
            Went::Elsewhere => {}
            Went::InTurn => tried = Tried { again: Again::InTurn, failures, cuts, ..tried },
            Went::Later(first, why) => {
                record.why = why;
                tried = Tried { again: Again::At(now + pause(first, cuts)), failures, cuts: cuts + 1, ..tried };
            }
            Went::Broken => {
                tried = Tried { again: Again::At(now + pause(FIRST, cuts)), failures, cuts: cuts + 1, ..tried };
            }
            Went::Failed(why) if failures + 1 < FAILURES => {
                record.why = Some(why);
                tried = Tried { again: Again::At(now + pause(FIRST, failures)), failures: failures + 1, ..tried };
            }
            Went::Failed(why) | Went::Over(why) => {
                told = Some((Ended::Allowed, format!("failed: {why}")));
                (record.state, record.why) = (State::Failed, Some(why));
            }
        }
    }
    // Their other devices are asked no more, and a device that has a part of it waits no more.
    let changed = *record != before;
    if !record.state.is_open() {
        let (id, user) = (record.id, record.user);
        let knows = record.state != State::Failed;
        let others = sends.volume.other_devices_of(&user).into_iter().filter(|other| !knows || *other != device);
        others.for_each(|other| core.is_to_hear(other, Opening::Withdrawn(id)));
    }
    core.tried.insert((n, device), tried);
    if changed {
        sends.save(&mut core);
    }
    drop(core);
    if let Some((outcome, note)) = told {
        sends.audit(&device, outcome, note, bytes);
    }
}

/// How long until it is tried again, the longer the more often in a row it went wrong.
fn pause(first: Duration, cuts: u32) -> Duration {
    first.max(MOST.min(first * 2_u32.saturating_pow(cuts.min(10))))
}

fn offer(sends: &Arc<Sends>, n: u64, device: DeviceId, line: &Line, run: &Run, gives: &mut bool) -> Went {
    let (id, named, identity) = {
        let mut core = sends.core.lock();
        let Some(record) = core.kept.record(n).filter(|record| record.state.is_open()) else { return Went::Elsewhere };
        (record.id, record.paths.clone(), record.identity)
    };
    // As it is now: what was offered before may have changed.
    let mut source = match Source::find(&named) {
        Ok(source) => source,
        Err(NotFound::Never(why)) => return Went::Over(why.to_string()),
        // A disk that isn't there now may be later.
        Err(NotFound::Now(why)) => return Went::Later(UNREADABLE, Some(why.to_string())),
    };
    // Members may have put other things there, to have them sent.
    if source.identity != identity {
        return Went::Over("others are in the place of what you offered: send it again".to_owned());
    }
    let (files, bytes) = (source.manifest.files(), source.manifest.bytes());
    let names = source.manifest.tops().take(SHOWN_NAMES).map(|name| ByteBuf::from(name.to_vec())).collect();
    sends.change(n, |record| (record.files, record.bytes, record.skipped) = (files, bytes, source.skipped));
    let opening = Opening::Offer(Offer { id, files, bytes, names });
    let Ok(mut stream) = line.open(sends.runtime.clone(), run.stop.clone(), &opening) else { return Went::Broken };
    match stream.answer() {
        Ok(Answer::Go) => {}
        Ok(Answer::Asked) => return Went::Asked,
        Ok(Answer::Declined) => return Went::Declined,
        Ok(Answer::Done) => return Went::Done,
        Ok(Answer::Busy) if sends.core.lock().giving.contains(&device) => return Went::InTurn,
        Ok(Answer::Busy) => return Went::Later(BUSY, None),
        Ok(Answer::NoRoom) => return Went::Later(NO_ROOM, Some(no_room())),
        Err(e) => return broken(&e),
    }
    {
        let mut core = sends.core.lock();
        if core.giving.contains(&device) {
            return Went::InTurn;
        }
        let Some(record) = core.kept.record(n).filter(|record| record.state.is_open()) else { return Went::Elsewhere };
        if record.device.is_some_and(|taken| taken != device) {
            core.is_to_hear(device, Opening::Withdrawn(id));
            return Went::Elsewhere;
        }
        (record.device, record.state, record.why) = (Some(device), State::Running, None);
        core.giving.insert(device);
        *gives = true;
        sends.save(&mut core);
    }
    contents(&mut source, stream, run)
}

fn no_room() -> String {
    "the disk there is full".to_owned()
}

fn broken(error: &io::Error) -> Went {
    log::debug!("a stream of a send broke: {}", error.kind());
    match error.kind() {
        io::ErrorKind::InvalidData => Went::Failed("the other device says what makes no sense".to_owned()),
        _ => Went::Broken,
    }
}

/// Gives what the receiver hasn't got.
fn contents(source: &mut Source, mut stream: Outgoing, run: &Run) -> Went {
    let manifest = source.manifest.clone();
    let haves = match stream.manifest(&manifest) {
        Ok(haves) => haves,
        Err(e) => return broken(&e),
    };
    let resumed = haves.iter().map(|have| have.size).sum::<u64>().min(manifest.bytes());
    run.meter.begin(resumed, Instant::now());
    let meter = run.meter.clone();
    stream.listen(move |got| meter.set(got, Instant::now()));
    let sent = all(source, &manifest, &haves, &run.stop, &mut stream);
    let last = match sent {
        Ok(counts) => stream.finish().map(|report| (report, counts)),
        Err(NotGiven::Unreadable(why)) => return Went::Later(UNREADABLE, Some(why)),
        // It may have said why it takes no more.
        Err(NotGiven::Broken(e)) => stream.last_word().map(|report| (report, (0, 0))).ok_or(e),
    };
    match last {
        Ok((Report::Done, _)) => Went::Done,
        Ok((Report::NoRoom, _)) => Went::Later(NO_ROOM, Some(no_room())),
        Ok((Report::Stopped, _)) => Went::Declined,
        Ok((Report::Failed, _)) => Went::Failed("the other device can't write it".to_owned()),
        Ok((Report::Lacking(_), (changed, _))) => match changed {
            0 => Went::Failed("it did not arrive as it was sent".to_owned()),
            changed => Went::Failed(format!("{} changed while it was sent", count(changed, "file"))),
        },
        Ok((Report::Got(_), _)) => Went::Broken,
        Err(e) => broken(&e),
    }
}

/// How many files changed while they were sent, and how many since a part of them was.
fn all(
    source: &mut Source,
    manifest: &Manifest,
    haves: &[Have],
    stop: &Stop,
    stream: &mut Outgoing,
) -> Result<(u64, u64), NotGiven> {
    let (mut changed, mut anew) = (0, 0);
    let mut write = |bytes: Vec<u8>| stream.write(bytes);
    let mut passed = |_| ();
    let mut out = Sending::new(&mut write, &mut passed, stop);
    let mut haves = haves.iter().peekable();
    for (number, entry) in manifest.entries().iter().enumerate() {
        let have = haves.next_if(|have| have.entry as usize == number);
        if let Kind::File { size, .. } = entry.kind {
            match source.give(&entry.path, size, have, &mut out)? {
                Given::Whole => {}
                Given::Anew => anew += 1,
                Given::Changed => changed += 1,
            }
        }
    }
    out.flush()?;
    if anew > 0 {
        log::info!("{} changed since a part of it was sent, and went anew", count(anew, "file"));
    }
    Ok((changed, anew))
}
