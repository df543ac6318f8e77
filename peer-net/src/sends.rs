//! Direct sends: files that go from one member's device to another's over their connection, beside the volume.
//!
//! Each has a stream of its own, opened by whoever has something to say ([`Opening`]). An offer tells how much there is, no
//! more, and is answered at once ([`Answer`]): by the user's earlier word, or that they are asked. When they have said yes the
//! manifest follows ([`manifest`]), what of it is there already ([`Have`]), the contents ([`contents`]) and how it ended
//! ([`Report`]). Everything begins with an offer, also after a cut: both sides keep what is under way, streams don't.
//!
//! This module owns what is on the wire and every check of it that needs no disk. It opens no file and knows no user: the
//! daemon does both, on threads of its own ([`TakesSends`], [`pipe`]).

pub mod contents;
pub mod manifest;
pub mod pipe;

use std::sync::Arc;

use crypto::{DeviceId, Hash};
use serde::{Deserialize, Serialize};
use serde_bytes::{ByteArray, ByteBuf};

use manifest::{MAX_ENTRIES, is_name};
use pipe::Incoming;

/// What the first byte of a stream says that is about sends. (1 is one about blocks.)
pub(crate) const KIND: u8 = 2;

/// Names that an offer shows at most.
pub const SHOWN_NAMES: usize = 8;
/// What nobody has on a disk.
pub const MAX_BYTES: u64 = 1 << 50;
/// The longest frame that opens a stream.
pub(crate) const MAX_OPENING: usize = 4 << 10;
/// The longest frame otherwise: parts of lists.
pub(crate) const MAX_FRAME: usize = 128 << 10;

/// Names a send: drawn at random by the device that offers it.
pub type SendId = ByteArray<16>;

/// What a stream is opened for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Opening {
    /// "May I send this?"
    Offer(Offer),
    /// "Offer that again: my user has decided."
    Again(SendId),
    /// "I don't offer that any more."
    Withdrawn(SendId),
}

/// What is offered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Which send it is, the same after a cut.
    pub id: SendId,
    /// How many files.
    pub files: u64,
    /// Their length together. The manifest has exactly as many.
    pub bytes: u64,
    /// The names at the top, the first few.
    pub names: Vec<ByteBuf>,
}

impl Opening {
    /// Whether an honest device says so.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> Result<(), String> {
        let Opening::Offer(offer) = self else { return Ok(()) };
        if offer.names.is_empty() || offer.names.len() > SHOWN_NAMES {
            return Err("an offer with no names, or too many".to_owned());
        }
        if !offer.names.iter().all(|name| is_name(name)) {
            return Err("an offer of a name that is none".to_owned());
        }
        if offer.files > MAX_ENTRIES as u64 || offer.bytes > MAX_BYTES {
            return Err("an offer of more than can be sent".to_owned());
        }
        Ok(())
    }
}

/// What is said to an offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// "My user is asked": the stream ends, and I say when they have decided.
    Asked,
    /// "Go on."
    Go,
    /// "No", or "no longer".
    Declined,
    /// "I have all of it."
    Done,
    /// "Not now": offer it again in a while.
    Busy,
    /// "My disk has no room for it": offer it again in a while.
    NoRoom,
}

/// What of a file is there from earlier: so many bytes, which hash to this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Have {
    /// The file's place in the manifest.
    pub entry: u32,
    /// How many bytes.
    pub size: u64,
    /// Their hash.
    pub hash: Hash,
}

/// What the receiver says while contents come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// So many bytes are there, of all.
    Got(u64),
    /// The last word: all is in place.
    Done,
    /// The last word: so many files have to be sent again.
    Lacking(u32),
    /// The last word: the disk is full. What came stays.
    NoRoom,
    /// The last word: the user wants it no more.
    Stopped,
    /// The last word: it can't be written for another reason.
    Failed,
}

/// Takes what others open streams for.
pub trait TakesSends: Send + Sync {
    /// A member opened a stream, or a device that isn't known as one yet. `opening` is checked. Must not block: what takes
    /// time is done on a thread of its own, and the stream ends when `stream` is dropped.
    fn opened(&self, device: DeviceId, opening: Opening, stream: Incoming);
}

/// Who takes them; nobody on a keeper.
pub type Taker = Option<Arc<dyn TakesSends>>;

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(names: &[&[u8]]) -> Opening {
        let names = names.iter().map(|name| ByteBuf::from(name.to_vec())).collect();
        Opening::Offer(Offer { id: SendId::new([1; 16]), files: 1, bytes: 1, names })
    }

    #[test]
    fn an_offer_is_bounded_and_shows_names_that_are_names() {
        offer(&[b"a"]).check().unwrap();
        let nine: [&[u8]; 9] = [b"a"; 9];
        for bad in [&[][..], &nine, &[b"../x"], &[b""], &[b"a", b"b\n"]] {
            assert!(offer(bad).check().is_err(), "{bad:?}");
        }
        let Opening::Offer(good) = offer(&[b"a"]) else { panic!("an offer") };
        for bad in [Offer { files: 1 << 40, ..good.clone() }, Offer { bytes: u64::MAX, ..good }] {
            assert!(Opening::Offer(bad).check().is_err());
        }
        Opening::Again(SendId::new([1; 16])).check().unwrap();
    }
}
