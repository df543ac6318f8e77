//! The sends that this device remembers, also after a restart: what is under way, and the last that ended.
//!
//! A file in the volume's folder beside `state`, sealed and written twice as that is. How far one is isn't in it: that lies
//! where it arrives.

use std::{io, path::Path};

use crypto::{DeviceId, Entropy, Hash, Label, SymmetricKey, UserId};
use peer_net::sends::SendId;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use volume::Timestamp;

use super::{
    destination::Hidden,
    place::{Place, Top},
};
use crate::{
    failure::{Failure, Outcome},
    home::{read_twice_up_to, write_twice},
};

/// Sends that ended and are still listed.
const ENDED: usize = 200;
/// Names under which something arrived that are remembered.
const PLACED: usize = 8;
/// Unfinished ones that can't be removed yet.
const LEFTOVERS: usize = 200;
/// The longest file of them. What is open has up to half of it for the paths that were typed ([`MAX_TYPED`]).
const LIMIT: u64 = 32 << 20;
/// Bytes of paths, of everything that is being sent.
pub(super) const MAX_TYPED: usize = 16 << 20;

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

impl Record {
    /// Remembers under which names it is there.
    pub(super) fn place(&mut self, names: Vec<Vec<u8>>) {
        for name in names {
            if self.placed.len() < PLACED {
                self.placed.push(ByteBuf::from(name));
            } else {
                self.placed_more += 1;
            }
        }
    }
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
    /// What is sent.
    pub(super) paths: Vec<Top>,
    /// Which files and folders these were, of those that lie in a volume.
    pub(super) identity: Option<Hash>,
    /// Where it arrives.
    pub(super) to: Option<Place>,
    /// What it comes together in there, once something came.
    pub(super) hidden: Option<Hidden>,
    /// Under which names it is there, the first few.
    pub(super) placed: Vec<ByteBuf>,
    /// How many more.
    pub(super) placed_more: u64,
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
    pub(super) to: Place,
}

/// What came of a send that is wanted no more, and is to be removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Leftover {
    pub(super) to: Place,
    pub(super) hidden: Hidden,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    /// The greatest number so far.
    pub(super) last: u64,
    pub(super) records: Vec<Record>,
    pub(super) always: Vec<Always>,
    /// They may lie on a disk that isn't there now.
    pub(super) leftovers: Vec<Leftover>,
}

fn key(secret: &SymmetricKey) -> SymmetricKey {
    secret.derive(Label::ProfileKey, b"sends")
}

impl Kept {
    /// What was saved last. What can't be read is gone: whoever sends something offers it again.
    pub(super) fn load(dir: &Path, secret: &SymmetricKey) -> Self {
        let path = dir.join("sends");
        let sealed = match read_twice_up_to(&path, LIMIT, |sealed| Self::open(sealed, secret).is_some()) {
            Ok(sealed) => sealed,
            Err(e) => {
                if e.kind() != io::ErrorKind::NotFound {
                    log::warn!("the file of sends can't be read, going on without it: {}", e.kind());
                }
                return Self::default();
            }
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
        // Nor did it come to remove what came of what had ended.
        let over = |record: &&Record| !record.state.is_open() && record.hidden.is_some();
        let over: Vec<u64> = kept.records.iter().filter(over).map(|record| record.n).collect();
        over.into_iter().for_each(|n| kept.let_go(n));
        Some(kept)
    }

    /// Saves it, without those that ended longest ago.
    ///
    /// # Errors
    /// The disk is full, or fails.
    pub(super) fn save(&mut self, dir: &Path, secret: &SymmetricKey, entropy: &dyn Entropy) -> Outcome<()> {
        let ended = self.records.iter().filter(|record| !record.state.is_open()).count();
        let mut surplus = ended.saturating_sub(ENDED);
        self.records.retain(|record| {
            let goes = surplus > 0 && !record.state.is_open() && record.hidden.is_none();
            surplus -= usize::from(goes);
            !goes
        });
        self.records.iter_mut().filter(|record| !record.state.is_open()).for_each(|record| record.paths.clear());
        let plain = rmp_serde::to_vec_named(self).expect("the sends can be encoded");
        let sealed = crypto::seal_padded(&key(secret), b"sends", &plain, entropy);
        if sealed.len() as u64 > LIMIT {
            return Err(Failure::new("too much is being sent to be remembered"));
        }
        write_twice(&dir.join("sends"), &sealed)
    }

    /// Bytes of the paths of what is being sent.
    pub(super) fn typed(&self) -> usize {
        self.records.iter().flat_map(|record| &record.paths).map(Top::len).sum()
    }

    /// Has what came of a send removed.
    pub(super) fn let_go(&mut self, n: u64) {
        let Some(record) = self.record(n) else { return };
        let (Some(to), Some(hidden)) = (record.to.clone(), record.hidden.take()) else { return };
        if self.leftovers.len() >= LEFTOVERS {
            log::warn!("there are too many unfinished sends on disks that aren't there: the oldest is forgotten");
            self.leftovers.remove(0);
        }
        self.leftovers.push(Leftover { to, hidden });
    }

    /// Gives one a new number, as the newest of all. Gives the number.
    pub(super) fn renumber(&mut self, n: u64) -> u64 {
        let Some(at) = self.records.iter().position(|record| record.n == n) else { return n };
        let record = self.records.remove(at);
        self.add(record)
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
    pub(super) fn always(&self, user: &UserId) -> Option<&Place> {
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
            identity: None,
            to: None,
            hidden: None,
            placed: Vec::new(),
            placed_more: 0,
            placing: false,
            state,
            why: None,
            began: Timestamp { secs: 0, nanos: 0 },
        }
    }

    fn top(length: usize) -> Top {
        Top { name: ByteBuf::from(b"p"), path: ByteBuf::from(vec![b'p'; length]) }
    }

    #[test]
    fn however_many_files_came_it_can_be_read_again() {
        let here = tempfile::tempdir().unwrap();
        let secret = SymmetricKey::generate(&OsEntropy);
        let mut kept = Kept::default();
        for _ in 0..ENDED {
            let mut record = Record { paths: vec![top(4096); 100], ..record(State::Done) };
            record.place(vec![vec![b'n'; 255]; 10_000]);
            assert_eq!((record.placed.len(), record.placed_more), (8, 9_992));
            kept.add(record);
        }
        let open = Record { paths: vec![top(4096); 1000], ..record(State::Waiting) };
        kept.add(open.clone());
        assert!(kept.typed() > 4_000_000);
        kept.save(here.path(), &secret, &OsEntropy).unwrap();
        let again = Kept::load(here.path(), &secret);
        assert_eq!(again, kept);
        assert_eq!(again.records[ENDED].paths, open.paths);
        // What could not be read again isn't written over what can be.
        kept.add(Record { paths: vec![top(40 << 20)], ..open });
        kept.save(here.path(), &secret, &OsEntropy).unwrap_err();
        assert_eq!(Kept::load(here.path(), &secret), again);
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
        kept.save(here.path(), &secret, &OsEntropy).unwrap();
        let again = Kept::load(here.path(), &secret);
        assert_eq!((again.records.len(), again.last), (202, 302));
        assert_eq!((again.records[0].state, again.records[1].state), (State::Offered, State::Waiting));
        assert_eq!((again.records[2].n, again.records[201].n), (103, 302));
        let text = std::fs::read(here.path().join("sends")).unwrap();
        assert!(!text.windows(3).any(|part| part == b"bob"));
        assert_eq!(Kept::load(here.path(), &SymmetricKey::generate(&OsEntropy)), Kept::default());
    }
}
