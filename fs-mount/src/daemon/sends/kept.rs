//! The sends that this device remembers, also after a restart: what is under way, and the last that ended.
//!
//! A file in the volume's folder beside `state`, sealed and written twice as that is. How far one is isn't in it: that lies
//! where it arrives.

use std::path::Path;

use crypto::{DeviceId, Entropy, Label, SymmetricKey, UserId};
use peer_net::sends::SendId;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use volume::Timestamp;

use crate::home::{read_twice, write_twice};

/// Sends that ended and are still listed.
const ENDED: usize = 200;

/// How a send is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    /// For a device to be there to which it can go.
    Waiting,
    /// For the receiver to decide.
    Offered,
    /// They have said yes, and it goes on when both are there.
    Accepted,
    /// It is on its way.
    Running,
    Done,
    Declined,
    Cancelled,
    Failed,
}

impl State {
    pub(crate) fn is_open(self) -> bool {
        matches!(self, Self::Waiting | Self::Offered | Self::Accepted | Self::Running)
    }
}

/// A send.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Its number on this device.
    pub(super) n: u64,
    pub(super) id: SendId,
    pub(super) incoming: bool,
    /// At the other end.
    pub(super) user: UserId,
    pub(super) name: String,
    /// At the other end, once it is one's.
    pub(super) device: Option<DeviceId>,
    pub(super) tops: Vec<ByteBuf>,
    pub(super) files: u64,
    pub(super) bytes: u64,
    /// What is left out.
    pub(super) skipped: u64,
    /// What is sent, absolute.
    pub(super) paths: Vec<ByteBuf>,
    /// Where it arrives.
    pub(super) to: Option<ByteBuf>,
    /// Under which names it is there.
    pub(super) placed: Vec<ByteBuf>,
    /// All of it is there and is being moved to where it belongs.
    pub(super) placing: bool,
    pub(super) state: State,
    /// What keeps it from going on, or how it ended.
    pub(super) why: Option<String>,
    pub(super) began: Timestamp,
}

/// Whose sends are taken without asking.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Always {
    pub(super) user: UserId,
    pub(super) to: ByteBuf,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    /// The greatest number so far.
    pub(super) last: u64,
    pub(super) records: Vec<Record>,
    pub(super) always: Vec<Always>,
}

fn key(secret: &SymmetricKey) -> SymmetricKey {
    secret.derive(Label::ProfileKey, b"sends")
}

impl Kept {
    /// What was saved last. What can't be read is gone: whoever sends something offers it again.
    pub(super) fn load(dir: &Path, secret: &SymmetricKey) -> Self {
        let path = dir.join("sends");
        let Ok(sealed) = read_twice(&path, |sealed| Self::open(sealed, secret).is_some()) else {
            return Self::default();
        };
        Self::open(&sealed, secret).unwrap_or_else(|| {
            log::warn!("the file of sends is damaged, going on without it");
            Self::default()
        })
    }

    fn open(sealed: &[u8], secret: &SymmetricKey) -> Option<Self> {
        let plain = crypto::open_padded(&key(secret), b"sends", sealed).ok()?;
        let mut kept: Self = rmp_serde::from_slice(&plain).ok()?;
        // Whatever ran ended with the process.
        for record in kept.records.iter_mut().filter(|record| record.state == State::Running) {
            record.state = if record.incoming { State::Accepted } else { State::Waiting };
        }
        Some(kept)
    }

    /// Saves it, without those that ended longest ago.
    pub(super) fn save(&mut self, dir: &Path, secret: &SymmetricKey, entropy: &dyn Entropy) {
        let ended = self.records.iter().filter(|record| !record.state.is_open()).count();
        let mut surplus = ended.saturating_sub(ENDED);
        self.records.retain(|record| {
            let goes = surplus > 0 && !record.state.is_open();
            surplus -= usize::from(goes);
            !goes
        });
        let plain = rmp_serde::to_vec_named(self).expect("the sends can be encoded");
        if write_twice(&dir.join("sends"), &crypto::seal_padded(&key(secret), b"sends", &plain, entropy)).is_err() {
            log::warn!("the sends can't be saved");
        }
    }

    pub(super) fn record(&mut self, n: u64) -> Option<&mut Record> {
        self.records.iter_mut().find(|record| record.n == n)
    }

    /// The send that a device offers under this id.
    pub(super) fn offered_by(&mut self, device: &DeviceId, id: &SendId) -> Option<&mut Record> {
        self.records.iter_mut().find(|record| record.incoming && record.device == Some(*device) && record.id == *id)
    }

    /// Remembers one more.
    pub(super) fn add(&mut self, record: Record) -> u64 {
        self.last += 1;
        self.records.push(Record { n: self.last, ..record });
        self.last
    }

    /// Where what a user sends goes without asking.
    pub(super) fn always(&self, user: &UserId) -> Option<&ByteBuf> {
        self.always.iter().find(|always| always.user == *user).map(|always| &always.to)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use crypto::OsEntropy;

    use super::*;

    pub(in super::super) fn record(state: State) -> Record {
        Record {
            n: 0,
            id: SendId::new([1; 16]),
            incoming: false,
            user: UserId::from_bytes([2; 32]),
            name: "bob".to_owned(),
            device: None,
            tops: vec![ByteBuf::from(b"a")],
            files: 1,
            bytes: 1,
            skipped: 0,
            paths: Vec::new(),
            to: None,
            placed: Vec::new(),
            placing: false,
            state,
            why: None,
            began: Timestamp { secs: 0, nanos: 0 },
        }
    }

    #[test]
    fn what_is_open_is_kept_and_of_what_ended_the_last() {
        let here = tempfile::tempdir().unwrap();
        let secret = SymmetricKey::generate(&OsEntropy);
        let mut kept = Kept::default();
        kept.add(record(State::Offered));
        kept.add(record(State::Running));
        for _ in 0..300 {
            kept.add(record(State::Done));
        }
        kept.save(here.path(), &secret, &OsEntropy);
        let again = Kept::load(here.path(), &secret);
        assert_eq!((again.records.len(), again.last), (202, 302));
        assert_eq!((again.records[0].state, again.records[1].state), (State::Offered, State::Waiting));
        assert_eq!((again.records[2].n, again.records[201].n), (103, 302));
        let text = std::fs::read(here.path().join("sends")).unwrap();
        assert!(!text.windows(3).any(|part| part == b"bob"));
        assert_eq!(Kept::load(here.path(), &SymmetricKey::generate(&OsEntropy)), Kept::default());
    }
}
