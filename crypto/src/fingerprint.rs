//! Fingerprints: digits by which two people find out whether they mean the same key.
//!
//! Twelve groups of five decimal digits, as messengers show them: some 199 bits, so nobody makes a second key with the
//! same ones, and short enough to be read out. A user's and a device's never mean the same.

use std::fmt;

use crate::{DeviceId, Hash, Label, UserId};

/// Groups of digits.
const GROUPS: usize = 12;
/// Digits in a group.
const DIGITS: usize = 5;
/// Bytes of the hash behind a group: many more values than a group has, so that none is likelier than others.
const GROUP_BYTES: usize = 5;

/// The digits of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u32; GROUPS]);

impl Fingerprint {
    /// Returns a user's.
    pub fn of_user(user: &UserId) -> Self {
        Self::of(b"user", user.as_bytes())
    }

    /// Returns a device's.
    pub fn of_device(device: &DeviceId) -> Self {
        Self::of(b"device", device.as_bytes())
    }

    fn of(kind: &[u8], id: &[u8]) -> Self {
        // Two hashes: one has fewer bytes than all groups take.
        let half = |number: u8| *Hash::of(Label::Fingerprint, &[kind, id, &[number]]).as_bytes();
        let bytes = [half(0), half(1)].concat();
        let mut groups = [0; GROUPS];
        for (group, bytes) in groups.iter_mut().zip(bytes.chunks_exact(GROUP_BYTES)) {
            let number = bytes.iter().rev().fold(0, |number: u64, byte| number << 8 | u64::from(*byte));
            *group = (number % 10u64.pow(DIGITS as u32)) as u32;
        }
        Self(groups)
    }
}

/// The groups with a space between them.
impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, group) in self.0.iter().enumerate() {
            let space = if number == 0 { "" } else { " " };
            write!(f, "{space}{group:0DIGITS$}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_twelve_groups_of_five_digits() {
        let text = Fingerprint::of_user(&UserId::from_bytes([7; 32])).to_string();
        assert_eq!(text.split(' ').count(), 12, "{text}");
        assert!(text.split(' ').all(|g| g.len() == 5 && g.bytes().all(|b| b.is_ascii_digit())), "{text}");
    }

    #[test]
    fn another_id_or_kind_has_another() {
        let of = Fingerprint::of_user(&UserId::from_bytes([7; 32]));
        assert_ne!(of, Fingerprint::of_user(&UserId::from_bytes([8; 32])));
        assert_ne!(of, Fingerprint::of_device(&DeviceId::from_bytes([7; 32])));
    }
}
