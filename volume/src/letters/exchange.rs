//! Letters on their way between this device and a connected one: frames out, frames in.
//!
//! After a connection begins, everything that the other device is to have and has not acknowledged goes out in order, then
//! what comes new. What came is acknowledged once it is on the disk; what is lost in between comes again, and is known by its
//! number.

use std::{sync::atomic::Ordering, time::Duration};

use serde::{Deserialize, Serialize};

use super::{ACKNOWLEDGED, AT_ONCE, MAX_TEXT, OUT, Outgoing, Row, SignedLetter, number_in, numbered, of_device};
use crate::{
    audit::{Act, Op, Outcome},
    commit::{decode, encode},
    core::decode_row,
    error::Result,
    member::Role,
    store::{Batch, Space},
    sync::{Session, SessionError},
};

/// More than a text of the greatest length takes sealed and padded.
const MAX_SEALED: usize = MAX_TEXT + MAX_TEXT / 4;
/// A letter carries the keys of one device: its user's, or one to the device.
const MAX_KEYS: usize = 4;
/// How long to wait for the commits that say who the other device is, and for room on the disk.
const UNKNOWN: Duration = Duration::from_millis(250);
const NO_ROOM: Duration = Duration::from_secs(5);

/// What is said about letters.
#[derive(Debug, Serialize, Deserialize)]
enum Frame {
    /// A letter.
    Letter(Box<SignedLetter>),
    /// "Yours up to this number are on my disk."
    Got(u64),
}

/// How far the exchange with one peer is.
#[derive(Debug, Default)]
pub(crate) struct Exchange {
    /// Up to which number it was sent what it is to have; nothing before the first.
    sent: Option<u64>,
    /// What it is to be told that is here.
    due: Option<u64>,
}

/// What became of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Took {
    /// They are taken in.
    All,
    /// Not now: try the same again after so long.
    Later(Duration),
    /// The peer was removed: take nothing more from it.
    Never,
}

fn misbehaved(what: &str) -> SessionError {
    SessionError::Misbehaved(what.to_owned())
}

impl Session {
    /// Frames for the peer: acknowledgements, and letters that it is to have. None for now, if there are none.
    pub fn next_letters(&self) -> Vec<Vec<u8>> {
        let mut exchange = self.letters.lock();
        let due = exchange.due.take().map(|number| encode(&Frame::Got(number)));
        let mut frames: Vec<Vec<u8>> = due.into_iter().collect();
        if let Err(e) = self.add_letters(&mut exchange, &mut frames) {
            log::warn!("device {}: messages for it can't be read: {e}", self.peer().short());
        }
        frames
    }

    fn add_letters(&self, exchange: &mut Exchange, frames: &mut Vec<Vec<u8>>) -> Result<()> {
        let last = self.volume.inner.last_letter.load(Ordering::Acquire);
        if exchange.sent.unwrap_or(0) >= last {
            return Ok(());
        }
        let core = self.volume.inner.core.lock();
        let peer = self.peer();
        let Some(user) = core.members.user_of(&peer).map(|row| row.public.id()) else { return Ok(()) };
        let mut sent = match exchange.sent {
            Some(sent) => sent,
            None => core.acknowledged()?.get(&peer).copied().unwrap_or(0),
        };
        let before = frames.len();
        while frames.len() == before {
            let from = numbered(OUT, sent.saturating_add(1));
            // What is not on the disk yet waits: its number might be given to another one after a power loss.
            let end = numbered(OUT, last.saturating_add(1));
            let rows = core.store.scan(Space::Meta, &from, &end, AT_ONCE)?;
            if rows.is_empty() {
                sent = sent.max(last);
                break;
            }
            for (key, row) in rows {
                let Outgoing { letter, users } = decode_row("a message that was sent", &row)?;
                let keys: Vec<_> = letter.keys_for(&user, &peer).take(MAX_KEYS).cloned().collect();
                if users.contains(&user) && !keys.is_empty() {
                    frames.push(encode(&Frame::Letter(Box::new(SignedLetter { keys, ..letter }))));
                }
                sent = number_in(&key)?;
            }
        }
        exchange.sent = Some(sent);
        Ok(())
    }

    /// Takes in frames that the peer sent, in their order. What of it is new is on the disk when this returns.
    ///
    /// # Errors
    /// [`SessionError::Misbehaved`]: end the connection.
    pub fn letters_came(&self, frames: &[Vec<u8>]) -> Result<Took, SessionError> {
        let (mut letters, mut got) = (Vec::new(), None);
        for frame in frames {
            match decode("a message", frame).map_err(|e| SessionError::Misbehaved(e.to_string()))? {
                Frame::Letter(letter) => letters.push(letter),
                Frame::Got(number) => got = got.max(Some(number)),
            }
        }
        if let Some(number) = got {
            self.note_acknowledged(number)?;
        }
        match letters.is_empty() {
            true => Ok(Took::All),
            false => self.take_letters(&letters),
        }
    }

    fn note_acknowledged(&self, number: u64) -> Result<(), SessionError> {
        // What it has beyond that was sent before this store was put back.
        let number = number.min(self.volume.inner.last_letter.load(Ordering::Acquire));
        let core = self.volume.inner.core.lock();
        let noted = core.acknowledged().and_then(|mut acknowledged| {
            let before = acknowledged.insert(self.peer(), number).unwrap_or(0);
            if before >= number {
                return Ok(());
            }
            let mut batch = Batch::new();
            let key = of_device(ACKNOWLEDGED, &self.peer());
            core.store.put(&mut batch, Space::Meta, key, &number.to_be_bytes());
            core.store.apply(batch)?;
            core.clear_outbox(before, number, &acknowledged)
        });
        // It says so again when it gets them again.
        if let Err(e) = noted {
            log::warn!("device {}: that it has messages can't be noted: {e}", self.peer().short());
        }
        Ok(())
    }

    fn take_letters(&self, letters: &[Box<SignedLetter>]) -> Result<Took, SessionError> {
        let (volume, peer) = (&self.volume, self.peer());
        let name = volume.id();
        for letter in letters {
            if letter.keys.len() > MAX_KEYS || letter.text.len() > MAX_SEALED || !letter.time.is_valid() {
                return Err(misbehaved("a message that is none"));
            }
            if !letter.is_signed(&name, &peer) {
                return Err(misbehaved("a message that it did not sign"));
            }
        }
        if volume.is_removed(&peer) {
            if let Some(audit) = volume.audit() {
                let outcome = Outcome::Denied("its device was removed from the volume".to_owned());
                audit.record(Act { outcome, ..volume.act_by(Some(&peer), Op::Message) });
            }
            return Ok(Took::Never);
        }
        if volume.check_space(letters.iter().map(|letter| 2 * letter.text.len()).sum()).is_err() {
            return Ok(Took::Later(NO_ROOM));
        }
        let mut acts = Vec::new();
        let taken = {
            let core = volume.inner.core.lock();
            let me = core.user.id();
            let Some(user) = core.members.user_of(&peer) else { return Ok(Took::Later(UNKNOWN)) };
            let (user, role) = (user.public.id(), user.role);
            if role <= Role::Keeper {
                return Err(misbehaved("a message from a keeper"));
            }
            if core.members.role_of(&core.device.id()).is_some_and(|role| role <= Role::Keeper) {
                return Err(misbehaved("a message to a keeper"));
            }
            if letters.iter().any(|letter| letter.to.is_some_and(|to| to != me) && user != me) {
                return Err(misbehaved("a message for somebody else"));
            }
            if letters.iter().any(|letter| core.lacks_key_of(letter)) {
                return Ok(Took::Later(UNKNOWN));
            }
            let taken = core.got(&peer).and_then(|got| {
                let (mut rows, mut number) = (Vec::new(), got.number);
                for letter in letters {
                    // It came before, or overtakes one that came: an honest device sends neither.
                    if letter.number <= number {
                        continue;
                    }
                    number = letter.number;
                    let act = told(letter.to.is_none());
                    match core.open_letter(&peer, letter) {
                        Some(text) => {
                            acts.push((Outcome::Allowed, act, Some(text.len() as u64)));
                            rows.push(Row {
                                device: peer,
                                number,
                                user,
                                to: letter.to,
                                sent: letter.time,
                                came: core.now(),
                                text,
                            });
                        }
                        None => {
                            let why = "it is sealed to a key that this device does not have";
                            acts.push((Outcome::Denied(why.to_owned()), act, None));
                        }
                    }
                }
                let mut batch = Batch::new();
                core.keep_letters(&mut batch, &rows)?;
                core.store.apply(batch)?;
                Ok(number)
            });
            taken.map(|number| (number, !acts.is_empty()))
        };
        let (number, is_new) = match taken.and_then(|taken| volume.sync_store().map(|()| taken)) {
            Ok(taken) => taken,
            Err(e) => {
                log::warn!("device {}: its messages can't be kept: {e}: tried again", peer.short());
                return Ok(Took::Later(NO_ROOM));
            }
        };
        self.letters.lock().due = Some(number);
        self.shared.wake();
        if is_new {
            volume.tell_letters();
        }
        if let Some(audit) = volume.audit() {
            for (outcome, note, bytes) in acts {
                let act = volume.act_by(Some(&peer), Op::Message);
                audit.record(Act { outcome, bytes, note: Some(note.to_owned()), ..act });
            }
        }
        Ok(Took::All)
    }
}

/// What [`crate::fuzzing`] and the test vectors reach of the private frames.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing {
    use super::{Frame, decode, encode};
    use crate::commit::Malformed;

    pub(crate) fn recode(bytes: &[u8]) -> Result<Vec<u8>, Malformed> {
        decode::<Frame>("message", bytes).map(|frame| encode(&frame))
    }

    #[cfg(test)]
    pub(crate) fn got(number: u64) -> Vec<u8> {
        encode(&Frame::Got(number))
    }

    /// A letter of `device` to `user`, or to all.
    #[cfg(test)]
    pub(crate) fn letter(
        volume: &crypto::VolumeId,
        device: &crypto::DeviceKeys,
        (number, to, time): (u64, Option<crypto::UserId>, crate::Timestamp),
        reader: &crypto::UserPublic,
        text: &str,
    ) -> Vec<u8> {
        let (reader, entropy) = (crate::epochs::Recipient::user(reader), crypto::SeededEntropy::new(7));
        let letter = super::SignedLetter::seal(volume, device, (number, to, time), &[reader], text, &entropy);
        assert!(letter.is_signed(volume, &device.id()));
        encode(&Frame::Letter(Box::new(letter)))
    }
}

fn told(to_all: bool) -> &'static str {
    if to_all { "came for all members" } else { "came for one member" }
}
