//! The receiver's side of one stream: answers offers, and takes what was accepted.

use std::{
    collections::HashMap,
    io::{self, Write},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use crypto::{DeviceId, Hash, Hasher};
use peer_net::sends::{
    Answer, Have, Offer, Opening, Report,
    contents::{self, Failed},
    manifest::{Kind, Manifest},
    pipe::Incoming,
};
use volume::{Correspondent, Role, audit::Outcome as Ended};

use super::{
    Again, HasRoom, Run, Sends, State,
    destination::{Destination, Hidden},
    kept::Record,
    place::Place,
};
use crate::output::{bytes as size, count};

/// What is there is told in parts of so many files.
const PART: usize = 1000;
/// Files that are there in part, at most.
const PARTS: usize = 64;
/// How often the sender is told how far it is, in bytes.
const TOLD: u64 = 1 << 20;
/// How often a device may have the same thing offered again.
const AGAIN: Duration = Duration::from_secs(1);
/// After so many bytes it is looked again whether there is room.
const LOOKS: u64 = 32 << 20;
/// The same after so many files.
const LOOKS_FILES: u64 = 500;

/// Takes what a device opened a stream for.
pub(super) fn take(sends: &Arc<Sends>, device: DeviceId, opening: Opening, mut stream: Incoming) {
    let Some(who) = sends.volume.correspondent(&device) else {
        // The commits that say who it is may be on their way.
        let _gone = stream.back.answer(Answer::Busy);
        return stream.finish();
    };
    if who.role <= Role::Keeper {
        sends.audit(&device, Ended::Denied("a keeper sends nothing".to_owned()), "offered files".to_owned(), 0);
        return stream.misbehaved("a keeper that sends files");
    }
    match opening {
        Opening::Offer(offer) => answer(sends, device, &who, &offer, stream),
        Opening::Again(id) => {
            let mut core = sends.core.lock();
            let ours = |record: &&Record| !record.incoming && record.id == id && record.user == who.user;
            match core.kept.records.iter().find(ours).filter(|record| record.state.is_open()).map(|record| record.n) {
                Some(n) => {
                    if let Some(run) = core.runs.get(&(n, device)) {
                        run.again.store(true, Ordering::Relaxed);
                    }
                    // At once, but for whoever says so all the time.
                    if let Some(tried) = core.tried.get_mut(&(n, device)) {
                        tried.again = Again::At(tried.at + AGAIN);
                    }
                }
                // They weren't there to hear it.
                None => core.is_to_hear(device, Opening::Withdrawn(id)),
            }
            drop(core);
            sends.wake.notify_one();
            heard(stream);
        }
        Opening::Withdrawn(id) => {
            let withdrawn = {
                let mut core = sends.core.lock();
                let record =
                    core.kept.offered_by(&device, &id).filter(|record| record.state.is_open() && !record.placing);
                let withdrawn = record.map(|record| {
                    (record.state, record.why) = (State::Cancelled, Some(format!("{} took it back", record.name)));
                    record.n
                });
                if let Some(n) = withdrawn {
                    core.end_runs(n);
                    sends.save(&mut core);
                }
                withdrawn
            };
            if let Some(n) = withdrawn {
                sends.sweep();
                sends.audit(&device, Ended::Allowed, format!("took back transfer {n}"), 0);
            }
            heard(stream);
        }
    }
}

fn heard(mut stream: Incoming) {
    let _gone = stream.back.answer(Answer::Done);
    stream.finish();
}

/// What is said to an offer; with a record's number if it goes on.
fn decide(sends: &Sends, device: DeviceId, who: &Correspondent, offer: &Offer) -> (Answer, Option<u64>) {
    let mut core = sends.core.lock();
    if core.is_quiet() {
        return (Answer::Busy, None);
    }
    let always = core.kept.always(&who.user).cloned();
    let (files, bytes) = (offer.files, offer.bytes);
    if let Some(record) = core.kept.offered_by(&device, &offer.id) {
        let before = record.clone();
        let is_more = files > record.files || bytes > record.bytes || offer.names != record.tops;
        let answer = match record.state {
            State::Done => return (Answer::Done, None),
            _ if record.placing => return (Answer::Busy, None),
            State::Declined | State::Cancelled | State::Failed => return (Answer::Declined, None),
            State::Offered | State::Waiting => Answer::Asked,
            // They said yes to less, or to something else.
            State::Accepted | State::Running if is_more && always.is_none() => {
                (record.state, record.why) = (State::Offered, Some("it is not what it was".to_owned()));
                Answer::Asked
            }
            State::Accepted | State::Running => Answer::Go,
        };
        (record.files, record.bytes, record.tops) = (files, bytes, offer.names.clone());
        let (mut n, changed) = (record.n, *record != before);
        // Whoever says yes to the number that they were shown must not get what it has become since.
        if is_more && before.state == State::Offered {
            n = core.kept.renumber(n);
        }
        core.fresh.insert(n);
        if changed {
            sends.save(&mut core);
        }
        return (answer, Some(n));
    }
    match core.room(&who.user, always.is_some(), Instant::now()) {
        HasRoom::Yes => {}
        HasRoom::No { told } => {
            drop(core);
            if !told {
                let why = "too many offers of theirs wait".to_owned();
                sends.audit(&device, Ended::Denied(why), format!("offered {}", count(files, "file")), bytes);
            }
            return (Answer::Busy, None);
        }
    }
    let state = if always.is_some() { State::Accepted } else { State::Offered };
    let n = core.kept.add(Record {
        n: 0,
        id: offer.id,
        incoming: true,
        user: who.user,
        name: who.name.clone(),
        device: Some(device),
        tops: offer.names.clone(),
        files,
        bytes,
        skipped: 0,
        paths: Vec::new(),
        identity: None,
        to: always,
        hidden: None,
        placed: Vec::new(),
        placed_more: 0,
        placing: false,
        state,
        why: None,
        began: sends.now(),
    });
    core.fresh.insert(n);
    sends.save(&mut core);
    drop(core);
    let note = format!(
        "offered {}{}",
        count(files, "file"),
        if state == State::Accepted { ", taken without asking" } else { "" }
    );
    sends.audit(&device, Ended::Allowed, note, bytes);
    if state == State::Offered {
        (sends.on_offer)();
    }
    (if state == State::Accepted { Answer::Go } else { Answer::Asked }, Some(n))
}

fn answer(sends: &Arc<Sends>, device: DeviceId, who: &Correspondent, offer: &Offer, mut stream: Incoming) {
    let (said, n) = decide(sends, device, who, offer);
    let (Answer::Go, Some(n)) = (said, n) else {
        let _gone = stream.back.answer(said);
        return stream.finish();
    };
    let run = Run::default();
    stream.stop_with(&run.stop);
    {
        let mut core = sends.core.lock();
        let is_open = core.kept.record(n).is_some_and(|record| record.state.is_open());
        // One at a time; what runs may be the same one, of a connection that is gone.
        if !is_open || core.is_quiet() || !core.taking.insert(device) {
            drop(core);
            let _gone = stream.back.answer(if is_open { Answer::Busy } else { Answer::Declined });
            return stream.finish();
        }
        core.runs.insert((n, device), run.clone());
    }
    let went = receive(sends, (n, device), offer, &run, &mut stream);
    let mut core = sends.core.lock();
    core.taking.remove(&device);
    core.runs.remove(&(n, device));
    let Some(record) = core.kept.record(n) else { return };
    let mut told = None;
    let was_stopped = !record.state.is_open();
    if record.state == State::Running {
        record.state = State::Accepted;
    }
    let mut last = None;
    match went {
        Went::Done => {
            told = Some((Ended::Allowed, format!("{} came", count(record.files, "file"))));
            last = Some(Report::Done);
        }
        Went::Refused(answer) => {
            if answer == Answer::NoRoom {
                record.why = Some(no_room(record.bytes));
            }
        }
        Went::Lacking(files) => {
            record.why = Some(format!("{} come again", count(u64::from(files), "file")));
            last = Some(Report::Lacking(files));
        }
        Went::NoRoom => {
            record.why = Some(no_room(record.bytes));
            last = Some(Report::NoRoom);
        }
        Went::Cut if was_stopped => last = Some(Report::Stopped),
        Went::Cut => {}
        Went::Failed(why) => {
            record.why = Some(why);
            last = Some(Report::Failed);
        }
        Went::Misbehaved(what) => {
            (record.state, record.why) = (State::Failed, Some("the sender misbehaved".to_owned()));
            core.end_runs(n);
            sends.save(&mut core);
            drop(core);
            sends.sweep();
            sends.audit(&device, Ended::Denied(what.to_owned()), "was refused".to_owned(), offer.bytes);
            return stream.misbehaved(what);
        }
    }
    if !record.state.is_open() {
        core.end_runs(n);
    }
    sends.save(&mut core);
    drop(core);
    sends.sweep();
    if let Some((outcome, note)) = told {
        sends.audit(&device, outcome, note, offer.bytes);
    }
    if let Some(last) = last {
        // Whoever stopped it stopped the stream's waiting as well, not what is said at last.
        stream.stop_with(&peer_net::sends::pipe::Stop::default());
        let _gone = stream.back.report(last);
    }
    stream.finish();
}

fn no_room(bytes: u64) -> String {
    format!("the disk is full: all of it has {}", size(bytes))
}

/// How it went.
enum Went {
    /// All is in place, and on the disk.
    Done,
    Refused(Answer),
    /// So many files have to come again.
    Lacking(u32),
    NoRoom,
    /// The stream broke, or the user stopped it.
    Cut,
    Failed(String),
    Misbehaved(&'static str),
}

impl From<Failed> for Went {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Cut(_) => Went::Cut,
            Failed::Misbehaved(what) => Went::Misbehaved(what),
            Failed::Kept(error) => Went::of(&error),
        }
    }
}

impl Went {
    /// What it means that something can't be written.
    fn of(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Went::NoRoom,
            _ => Went::Failed(format!("it can't be written: {}", crate::failure::plain(error))),
        }
    }
}

fn receive(sends: &Sends, (n, device): (u64, DeviceId), offer: &Offer, run: &Run, stream: &mut Incoming) -> Went {
    let Some((to, before)) = where_to(sends, n) else { return Went::Cut };
    let mut destination = match Destination::open(&to, before.as_ref()) {
        Ok(destination) => destination,
        Err(e) => {
            let _gone = stream.back.answer(Answer::Busy);
            let why = format!("{}: {}", to.path().display(), crate::failure::plain(&e));
            sends.change(n, |record| record.why = Some(why));
            return Went::Refused(Answer::Busy);
        }
    };
    if before.as_ref() != Some(destination.hidden()) {
        let mut core = sends.core.lock();
        core.kept.let_go(n);
        core.kept.record(n).into_iter().for_each(|record| record.hidden = Some(destination.hidden().clone()));
        sends.save(&mut core);
    }
    if destination.is_fresh() && !destination.room().has(offer.bytes, offer.files) {
        let _gone = stream.back.answer(Answer::NoRoom);
        return Went::Refused(Answer::NoRoom);
    }
    if stream.back.answer(Answer::Go).is_err() {
        return Went::Cut;
    }
    let manifest = match stream.manifest() {
        Ok(manifest) if manifest.is(offer) => manifest,
        Ok(_) => return Went::Misbehaved("a manifest of something else than was offered"),
        Err(failed) => return failed.into(),
    };
    sends.change(n, |record| {
        if record.state == State::Accepted {
            (record.state, record.why) = (State::Running, None);
        }
    });
    let entries = match destination.came() {
        Ok(came) => (manifest.entries().len() as u64).saturating_sub(came),
        Err(e) => return Went::of(&e),
    };
    if !destination.room().has(0, entries) {
        return Went::NoRoom;
    }
    let (there, mut found) = match told_what_is_there(&mut destination, &manifest, run, stream) {
        Ok(there) => there,
        Err(went) => return went,
    };
    if !destination.room().has(manifest.bytes().saturating_sub(there), entries) {
        return Went::NoRoom;
    }
    // The sender reads again what is here before it says anything.
    stream.expect_silence_of(there);
    run.meter.begin(there, Instant::now());
    if there > 0 {
        log::info!("{} of a send were here already", size(there));
    }
    let lacking = match files(&mut destination, &manifest, (there, &mut found), run, stream) {
        Ok(lacking) => lacking,
        Err(went) => return went,
    };
    if lacking > 0 {
        return Went::Lacking(lacking);
    }
    // Whoever hears that it arrived may remove their own, and what is moved out after a power loss isn't looked at again: it is
    // on the disk before either.
    if let Err(e) = destination.sync() {
        // What the disk lost may be in memory still, and would be taken for what is on it: all of it comes again.
        if let Err(e) = destination.clear() {
            log::warn!("what the disk could not keep can't be removed: {}", e.kind());
        }
        return Went::of(&e);
    }
    // From here on nothing stops it but the end of the process, and then it is finished the next time.
    let placing = {
        let mut core = sends.core.lock();
        let is_member = sends.volume.correspondent(&device).is_some();
        let placing = core.kept.record(n).is_some_and(|record| {
            record.placing = is_member && record.state == State::Running;
            record.placing
        });
        sends.save(&mut core);
        placing
    };
    if !placing {
        return Went::Cut;
    }
    if place(sends, n, &mut destination) { Went::Done } else { Went::Cut }
}

/// Where a send arrives, and what came of it.
fn where_to(sends: &Sends, n: u64) -> Option<(Place, Option<Hidden>)> {
    let mut core = sends.core.lock();
    let record = core.kept.record(n)?;
    Some((record.to.clone()?, record.hidden.clone()))
}

/// Moves what came to where it belongs; whether that is over. What can't be moved now is moved later, as it need not come again.
fn place(sends: &Sends, n: u64, destination: &mut Destination) -> bool {
    let (names, moved) = destination.place();
    let placed = moved.and_then(|()| destination.sync_names());
    sends.change(n, |record| {
        record.place(names);
        match &placed {
            _ if !record.placing => {}
            Ok(()) => {
                (record.placing, record.state, record.why) = (false, State::Done, None);
            }
            Err(e) => record.why = Some(format!("it came, and can't be moved: {}", crate::failure::plain(e))),
        }
    });
    if let Err(e) = &placed {
        log::warn!("what arrived can't be moved to where it belongs, and is tried again: {}", e.kind());
    }
    placed.is_ok()
}

/// What is there of a file.
enum There {
    /// All of it, with this hash.
    Whole(Hash),
    /// So many bytes, which this has seen.
    Part(u64, Box<Hasher>),
}

/// Makes the folders and says what of the files is there, with how many bytes that is.
fn told_what_is_there(
    destination: &mut Destination,
    manifest: &Manifest,
    run: &Run,
    stream: &mut Incoming,
) -> Result<(u64, HashMap<u32, There>), Went> {
    destination.prepare(manifest).map_err(|e| Went::of(&e))?;
    let (mut there, mut files, mut part, mut parts) = (0, HashMap::new(), Vec::new(), 0);
    for (entry, number) in manifest.entries().iter().zip(0_u32..) {
        let Kind::File { size, .. } = entry.kind else { continue };
        if run.stop.is_stopped() {
            return Err(Went::Cut);
        }
        if let Some((had, hasher)) = destination.have(&entry.path, size, &run.stop).map_err(|e| Went::of(&e))? {
            let hash = hasher.finish();
            if had < size {
                parts += 1;
                // One is cut at a time: of more than a few somebody else has made them.
                if parts > PARTS {
                    continue;
                }
            }
            there += had;
            part.push(Have { entry: number, size: had, hash });
            files.insert(number, if had == size { There::Whole(hash) } else { There::Part(had, Box::new(hasher)) });
        }
        if part.len() == PART {
            stream.back.have(&std::mem::take(&mut part)).map_err(|_| Went::Cut)?;
        }
    }
    if !part.is_empty() {
        stream.back.have(&part).map_err(|_| Went::Cut)?;
    }
    stream.back.have(&[]).map_err(|_| Went::Cut)?;
    Ok((there, files))
}

/// Takes in all files; how many of them have to come again.
fn files(
    destination: &mut Destination,
    manifest: &Manifest,
    (there, found): (u64, &mut HashMap<u32, There>),
    run: &Run,
    stream: &mut Incoming,
) -> Result<u32, Went> {
    let (mut lacking, mut done, mut told, mut looked) = (0, 0_u64, 0_u64, there);
    let mut files = 0_u64;
    // What is there of files that have not been come to.
    let mut later = there;
    for (entry, number) in manifest.entries().iter().zip(0_u32..) {
        let Kind::File { size, executable } = entry.kind else { continue };
        let from = contents::start(&mut stream.from).map_err(Failed::Cut)?;
        let found = found.remove(&number);
        later -= match &found {
            Some(There::Whole(_)) => size,
            Some(There::Part(had, _)) => *had,
            None => 0,
        };
        let hasher = match found {
            Some(There::Whole(hash)) if from == size => {
                if contents::is_whole(&mut stream.from, &hash)? {
                    done += size;
                } else {
                    lacking += 1;
                    destination.drop_file(&entry.path).map_err(|e| Went::of(&e))?;
                }
                continue;
            }
            Some(There::Part(had, hasher)) if from == had => *hasher,
            _ if from == 0 => contents::hasher(),
            _ => return Err(Went::Misbehaved("a file that goes on where it can't")),
        };
        files += 1;
        if files.is_multiple_of(LOOKS_FILES) && !destination.room().has(0, 0) {
            return Err(Went::NoRoom);
        }
        let mut file = destination.file(&entry.path, executable, from).map_err(|e| Went::of(&e))?;
        let room = &*destination;
        let mut at = from;
        let (from_stream, back) = (&mut stream.from, &mut stream.back);
        let ended = contents::rest(from_stream, from, size, hasher, |bytes| {
            file.write_all(bytes)?;
            at += bytes.len() as u64;
            let now = done + later + at;
            if now.abs_diff(told) >= TOLD {
                told = now;
                run.meter.set(now, Instant::now());
                // A stream that broke shows where it is read.
                let _gone = back.report(Report::Got(now));
            }
            if now.abs_diff(looked) >= LOOKS {
                looked = now;
                // Others fill it as well.
                if !room.room().has(0, 0) {
                    return Err(io::ErrorKind::StorageFull.into());
                }
            }
            Ok(())
        })?;
        match ended {
            contents::Ended::Whole => done += size,
            contents::Ended::Differs | contents::Ended::BrokenOff => {
                lacking += 1;
                destination.drop_file(&entry.path).map_err(|e| Went::of(&e))?;
            }
        }
    }
    run.meter.set(done, Instant::now());
    Ok(lacking)
}

/// Moves what is left of a send that was all there to where it belongs.
pub(super) fn place_the_rest(sends: &Sends, n: u64) {
    let Some((to, Some(hidden))) = where_to(sends, n) else { return };
    match Destination::again(&to, &hidden) {
        Ok(mut destination) => {
            place(sends, n, &mut destination);
        }
        Err(e) => {
            log::warn!("what arrived can't be moved to where it belongs: {}", e.kind());
            sends.change(n, |record| {
                record.why = Some(format!("{}: {}", to.path().display(), crate::failure::plain(&e)));
            });
        }
    }
}
