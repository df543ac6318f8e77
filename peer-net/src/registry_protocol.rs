//! What devices and registries say to each other.
//!
//! One bidirectional stream, opened by the device. The device sends [`Register`] whenever what it offers or looks for
//! changes, and before its lease ends; each replaces the one before. The registry answers with [`Notice`]s, and goes
//! on sending them as others come and go. It learns tokens (from which nothing of a volume follows), device keys and
//! addresses. It cannot make up records: each is signed by its device.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crypto::{BadSignature, DeviceId, Hash, Label, PublicKey, Signature, SigningKeys, SymmetricKey, define_id, verify};
use serde::{Deserialize, Serialize};

use crate::frame;

/// How many tokens one client may offer and watch together.
pub const MAX_TOKENS: usize = 64;
/// How many addresses one record may hold.
pub const MAX_ADDRESSES: usize = 16;
/// How many records of one token there may be.
pub const MAX_RECORDS_PER_TOKEN: usize = 4096;
/// How many records go into one notice; with the limits above it then fits a frame.
pub const RECORDS_PER_NOTICE: usize = 64;
/// The longest frame in either direction.
pub const MAX_FRAME: usize = 64 << 10;
/// How long a record stays without being renewed.
pub const LEASE: Duration = Duration::from_secs(600);

define_id! {
    /// What devices look each other up by.
    pub struct Token, 32
}

impl Token {
    /// The token by which members of a volume find each other.
    pub fn of_members(discovery_key: &SymmetricKey) -> Self {
        Self::from_bytes(*discovery_key.derive(Label::RendezvousToken, b"").expose())
    }

    /// The token by which the bearer of a ticket finds those who can let it in.
    pub fn of_ticket(ticket: &PublicKey) -> Self {
        Self::from_bytes(*Hash::of(Label::TicketToken, &[ticket.as_bytes()]).as_bytes())
    }
}

/// Where a device says it is, for those who know the token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Who may find it.
    pub token: Token,
    /// Where the device listens.
    pub addresses: Vec<SocketAddr>,
    /// When it lapses, in seconds since 1970 by the device's clock. Only a date: readers' clocks may be years from it,
    /// and an old record, shown by a registry that lies, costs no more than a dial in vain.
    pub expires: i64,
    /// The device's, over the other fields.
    pub signature: Signature,
}

impl Record {
    /// Signs a record that lasts one lease from now.
    pub fn sign(keys: &SigningKeys, token: Token, addresses: &[SocketAddr]) -> Self {
        let addresses: Vec<_> = addresses.iter().take(MAX_ADDRESSES).copied().collect();
        let expires = unix_now().saturating_add_unsigned(LEASE.as_secs());
        let signature = keys.sign(Label::RegistryRecord, &signed_bytes(&token, &addresses, expires));
        Self { token, addresses, expires, signature }
    }

    /// Checks that `device` signed this record.
    pub fn verify(&self, device: &DeviceId) -> Result<(), BadSignature> {
        let message = signed_bytes(&self.token, &self.addresses, self.expires);
        verify(Label::RegistryRecord, device, &message, &self.signature)
    }
}

fn signed_bytes(token: &Token, addresses: &[SocketAddr], expires: i64) -> Vec<u8> {
    frame::encode(&(token, addresses, expires))
}

fn unix_now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// Device to registry: everything it offers and looks for from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Register {
    /// What others may know; who offers a token also watches it.
    pub records: Vec<Record>,
    /// Tokens only looked for.
    pub watch: Vec<Token>,
}

/// A record as a registry passes it on; nothing in it is believed yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    /// Whose record it is said to be.
    pub device: DeviceId,
    /// The record.
    pub record: Record,
    /// Where the registry saw the device's packets come from.
    pub observed: SocketAddr,
}

/// A device found through a registry. The device signed its addresses; the last is what the registry saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// The token it was found by.
    pub token: Token,
    /// Who it is.
    pub device: DeviceId,
    /// Where it may be.
    pub addresses: Vec<SocketAddr>,
}

impl Announcement {
    /// The only way from what a registry says to something to act on.
    pub fn verify(self) -> Option<Sighting> {
        let Self { device, record, observed } = self;
        if record.addresses.len() > MAX_ADDRESSES {
            return None;
        }
        record.verify(&device).ok()?;
        let mut addresses = record.addresses;
        if !addresses.contains(&observed) {
            addresses.push(observed);
        }
        Some(Sighting { token: record.token, device, addresses })
    }
}

/// Registry to device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Notice {
    /// The last [`Register`] is in force, and everybody who is there has been told. `observed` is where its packets
    /// came from.
    Accepted {
        /// The device's address as seen from the registry.
        observed: SocketAddr,
    },
    /// The last [`Register`] is not; the connection ends. The text is for people.
    Refused(String),
    /// Devices that are there, or whose addresses changed.
    Here(Vec<Announcement>),
    /// A device that left, or whose lease ended.
    Gone {
        /// Where it was registered.
        token: Token,
        /// Who it was.
        device: DeviceId,
    },
}

#[cfg(test)]
mod tests {
    use crypto::SeededEntropy;

    use super::*;

    fn keys() -> (SigningKeys, DeviceId) {
        let keys = SigningKeys::generate(&SeededEntropy::new(1));
        let device = DeviceId::from_bytes(*keys.public().as_bytes());
        (keys, device)
    }

    fn announcement() -> Announcement {
        let (keys, device) = keys();
        let record = Record::sign(&keys, Token::from_bytes([1; 32]), &["192.0.2.1:1".parse().unwrap()]);
        Announcement { device, record, observed: "192.0.2.2:2".parse().unwrap() }
    }

    #[test]
    fn a_signed_record_becomes_a_sighting() {
        let sighting = announcement().verify().unwrap();
        assert_eq!(sighting.addresses, ["192.0.2.1:1".parse().unwrap(), "192.0.2.2:2".parse().unwrap()]);
    }

    #[test]
    fn a_record_changed_in_any_field_is_none() {
        let change = |f: fn(&mut Announcement)| {
            let mut changed = announcement();
            f(&mut changed);
            assert_eq!(changed.verify(), None);
        };
        change(|a| a.device = DeviceId::from_bytes([9; 32]));
        change(|a| a.record.token = Token::from_bytes([2; 32]));
        change(|a| a.record.addresses.clear());
        change(|a| a.record.expires += 1);
        change(|a| a.record.signature = Signature::ZERO);
    }

    /// A device whose clock is wrong by years is found all the same.
    #[test]
    fn a_record_of_any_date_is_taken() {
        let (keys, _) = keys();
        for years in [-50, 50] {
            let mut dated = announcement();
            dated.record.expires += years * 365 * 86_400;
            let message = signed_bytes(&dated.record.token, &dated.record.addresses, dated.record.expires);
            dated.record.signature = keys.sign(Label::RegistryRecord, &message);
            assert!(dated.verify().is_some());
        }
    }

    #[test]
    fn full_messages_fit_a_frame() {
        let (keys, device) = keys();
        let v6: SocketAddr = "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535".parse().unwrap();
        let record = Record::sign(&keys, Token::from_bytes([255; 32]), &[v6; MAX_ADDRESSES]);
        let register = Register { records: vec![record.clone(); MAX_TOKENS], watch: Vec::new() };
        assert!(frame::encode(&register).len() <= MAX_FRAME);
        let here = Notice::Here(vec![Announcement { device, record, observed: v6 }; RECORDS_PER_NOTICE]);
        assert!(frame::encode(&here).len() <= MAX_FRAME);
    }
}
