//! The ticket: one printable word that lets its bearer join a volume.
//!
//! `p2pfs-` ‖ base32 of (version ‖ MessagePack ‖ checksum). The checksum tells a word that was cut or mistyped from a
//! ticket that is refused. A ticket is a secret: who has it can join, until it is used or expires. It is also what the
//! joiner trusts: it holds the volume's id, so that nobody met on the way can pass off another volume.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use crypto::{DeviceId, Hash, Label, UserId, VolumeId};
use data_encoding::BASE32_NOPAD;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use volume::TicketSecret;
use zeroize::Zeroizing;

use crate::frame;
use crate::registry_address::RegistryAddress;

const PREFIX: &str = "p2pfs-";
/// For a new member.
const VERSION: u8 = 1;
/// For a further device of somebody.
const VERSION_DEVICE: u8 = 2;
const CHECKSUM: usize = 4;
/// Longer words are not looked at.
const MAX_WORD: usize = 8192;
/// How many registries a ticket names at most.
pub const MAX_REGISTRIES: usize = 8;
/// How many addresses of the inviting device a ticket holds at most.
pub const MAX_HINTS: usize = 16;

/// An invitation in transit.
pub struct Ticket {
    /// The volume to join.
    pub volume: VolumeId,
    /// Proves that the bearer was invited.
    pub secret: TicketSecret,
    /// Where to look for a device that lets the bearer in.
    pub registries: Vec<RegistryAddress>,
    /// Where the inviting device was when it invited.
    pub hints: Vec<SocketAddr>,
    /// The inviting device.
    pub inviter: DeviceId,
    /// When it lapses, in seconds since 1970: for messages, those who let in check their own record.
    pub expires: i64,
    /// It is for a further device of this user, and nobody else's answer is to be taken; `None`: for a new member.
    pub user: Option<UserId>,
}

/// Text that is no ticket.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BadTicket {
    /// It does not look like one at all.
    #[error("this is no ticket: a ticket is one word that starts with {PREFIX}")]
    NotATicket,
    /// Cut, or a character is wrong.
    #[error("this ticket is damaged: copy it whole")]
    Damaged,
    /// From a later version of the program.
    #[error("this ticket has format {found}, this program knows {VERSION_DEVICE}: install a newer p2pfs")]
    Newer {
        /// The ticket's version.
        found: u8,
    },
}

/// The MessagePack part.
#[derive(Serialize, Deserialize)]
struct Body {
    volume: VolumeId,
    #[serde(with = "serde_bytes")]
    seed: [u8; 32],
    registries: Vec<RegistryAddress>,
    hints: Vec<SocketAddr>,
    inviter: DeviceId,
    expires: i64,
}

/// The same of a ticket for a further device.
#[derive(Serialize, Deserialize)]
struct DeviceBody {
    body: Body,
    user: UserId,
}

impl Drop for Body {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.seed);
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ticket({:?}, ****)", self.volume)
    }
}

impl Ticket {
    /// Writes the ticket as the word to hand over. Registries and hints beyond what a ticket holds are left out.
    pub fn to_word(&self) -> Zeroizing<String> {
        let body = Body {
            volume: self.volume,
            seed: self.secret.seed(),
            registries: self.registries.iter().take(MAX_REGISTRIES).cloned().collect(),
            hints: self.hints.iter().take(MAX_HINTS).copied().collect(),
            inviter: self.inviter,
            expires: self.expires,
        };
        let (version, encoded) = match self.user {
            None => (VERSION, frame::encode(&body)),
            Some(user) => (VERSION_DEVICE, frame::encode(&DeviceBody { body, user })),
        };
        let mut bytes = Zeroizing::new(vec![version]);
        bytes.extend_from_slice(&Zeroizing::new(encoded));
        let checksum = checksum(&bytes);
        bytes.extend_from_slice(&checksum);
        let mut word = Zeroizing::new(PREFIX.to_owned());
        word.push_str(&Zeroizing::new(BASE32_NOPAD.encode(&bytes)).to_ascii_lowercase());
        word
    }
}

impl FromStr for Ticket {
    type Err = BadTicket;

    /// Reads a word; white space in it (a line break where it was pasted) and its case do not matter.
    fn from_str(text: &str) -> Result<Self, BadTicket> {
        if text.len() > MAX_WORD {
            return Err(BadTicket::NotATicket);
        }
        let word: Zeroizing<String> =
            Zeroizing::new(text.chars().filter(|c| !c.is_whitespace()).map(|c| c.to_ascii_lowercase()).collect());
        let encoded = word.strip_prefix(PREFIX).ok_or(BadTicket::NotATicket)?;
        let encoded = Zeroizing::new(encoded.to_ascii_uppercase());
        let bytes = Zeroizing::new(BASE32_NOPAD.decode(encoded.as_bytes()).map_err(|_| BadTicket::Damaged)?);
        let (content, sum) = bytes.split_last_chunk::<CHECKSUM>().ok_or(BadTicket::Damaged)?;
        if *sum != checksum(content) {
            return Err(BadTicket::Damaged);
        }
        match content.split_first() {
            Some((&VERSION, body)) => Self::from_body(frame::decode(body).map_err(|_| BadTicket::Damaged)?, None),
            Some((&VERSION_DEVICE, body)) => {
                let DeviceBody { body, user } = frame::decode(body).map_err(|_| BadTicket::Damaged)?;
                Self::from_body(body, Some(user))
            }
            Some((&found, _)) if found > VERSION_DEVICE => Err(BadTicket::Newer { found }),
            _ => Err(BadTicket::Damaged),
        }
    }
}

impl Ticket {
    fn from_body(mut body: Body, user: Option<UserId>) -> Result<Self, BadTicket> {
        if body.registries.len() > MAX_REGISTRIES || body.hints.len() > MAX_HINTS {
            return Err(BadTicket::Damaged);
        }
        Ok(Self {
            volume: body.volume,
            secret: TicketSecret::from_seed(body.seed),
            registries: std::mem::take(&mut body.registries),
            hints: std::mem::take(&mut body.hints),
            inviter: body.inviter,
            expires: body.expires,
            user,
        })
    }
}

pub(crate) fn checksum(content: &[u8]) -> [u8; CHECKSUM] {
    // Two parts: never the one-part hash that names an invitation at the registry.
    let hash = Hash::of(Label::TicketToken, &[b"checksum", content]);
    *hash.as_bytes().first_chunk().expect("a hash is longer than a checksum")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket() -> Ticket {
        Ticket {
            volume: VolumeId::from_bytes([1; 32]),
            secret: TicketSecret::from_seed([2; 32]),
            registries: vec![RegistryAddress::new("192.0.2.1:4477".parse().unwrap(), DeviceId::from_bytes([3; 32]))],
            hints: vec!["192.0.2.2:5000".parse().unwrap(), "[2001:db8::1]:5000".parse().unwrap()],
            inviter: DeviceId::from_bytes([4; 32]),
            expires: 1_800_000_000,
            user: None,
        }
    }

    #[test]
    fn a_ticket_reads_back() {
        let word = ticket().to_word();
        assert!(word.starts_with(PREFIX) && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'));
        let broken = format!("  {}\n  {}\n", &word[..100], word[100..].to_uppercase());
        for text in [word.as_str(), &broken] {
            let read: Ticket = text.parse().unwrap();
            let wanted = ticket();
            assert_eq!(read.volume, wanted.volume);
            assert_eq!(read.secret.seed(), wanted.secret.seed());
            assert_eq!(read.registries, wanted.registries);
            assert_eq!(read.hints, wanted.hints);
            assert_eq!((read.inviter, read.expires, read.user), (wanted.inviter, wanted.expires, None));
        }
    }

    #[test]
    fn a_ticket_for_a_device_names_the_user() {
        let user = Some(UserId::from_bytes([5; 32]));
        let read: Ticket = Ticket { user, ..ticket() }.to_word().parse().unwrap();
        assert_eq!((read.user, read.secret.seed()), (user, ticket().secret.seed()));
    }

    #[test]
    fn every_mangled_ticket_is_told_apart() {
        let word = ticket().to_word().to_string();
        let check = |text: String, wanted: BadTicket| {
            assert_eq!(text.parse::<Ticket>().unwrap_err(), wanted, "{text}");
        };
        check("hello".into(), BadTicket::NotATicket);
        check("x".repeat(MAX_WORD + 1), BadTicket::NotATicket);
        check(PREFIX.into(), BadTicket::Damaged);
        for cut in PREFIX.len()..word.len() {
            check(word[..cut].into(), BadTicket::Damaged);
        }
        for place in (PREFIX.len()..word.len() - 1).step_by(7) {
            let mut bytes = word.clone().into_bytes();
            bytes[place] = if bytes[place] == b'a' { b'b' } else { b'a' };
            check(String::from_utf8(bytes).unwrap(), BadTicket::Damaged);
        }
    }

    #[test]
    fn a_newer_format_names_both_versions() {
        let mut bytes = vec![VERSION_DEVICE + 1, 0];
        let sum = checksum(&bytes);
        bytes.extend_from_slice(&sum);
        let error = format!("{PREFIX}{}", BASE32_NOPAD.encode(&bytes)).parse::<Ticket>().unwrap_err();
        assert_eq!(error, BadTicket::Newer { found: VERSION_DEVICE + 1 });
    }
}
