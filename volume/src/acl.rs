//! POSIX access control lists in the encoding of their extended attributes (version 2, acl(5)):
//! checked, kept in step with the mode, inherited.

use crate::error::{Error, Result};

/// The extended attribute of the access ACL.
pub(crate) const ACCESS: &[u8] = b"system.posix_acl_access";
/// The extended attribute of a directory's default ACL.
pub(crate) const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: [u8; 4] = 2u32.to_le_bytes();
const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;
/// Most entries taken.
const MAX_ENTRIES: usize = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    tag: u16,
    bits: u16,
    id: u32,
}

/// A list that says something: all required entries, each once, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Acl(Vec<Entry>);

impl Acl {
    /// # Errors
    /// [`Error::Invalid`] unless the bytes are a valid list.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Acl> {
        let entries = bytes.strip_prefix(&VERSION).ok_or(Error::Invalid)?;
        if entries.len() % 8 != 0 || entries.len() / 8 > MAX_ENTRIES {
            return Err(Error::Invalid);
        }
        let mut list = Vec::with_capacity(entries.len() / 8);
        for entry in entries.chunks_exact(8) {
            let entry = Entry {
                tag: u16::from_le_bytes([entry[0], entry[1]]),
                bits: u16::from_le_bytes([entry[2], entry[3]]),
                id: u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]),
            };
            if entry.bits > 7 || ![USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER].contains(&entry.tag) {
                return Err(Error::Invalid);
            }
            list.push(entry);
        }
        list.sort_by_key(|e| (e.tag, e.id));
        let count = |tag| list.iter().filter(|e| e.tag == tag).count();
        let named = count(USER) + count(GROUP) > 0;
        let twice =
            list.windows(2).any(|w| w[0].tag == w[1].tag && (w[0].id == w[1].id || ![USER, GROUP].contains(&w[0].tag)));
        if count(USER_OBJ) != 1 || count(GROUP_OBJ) != 1 || count(OTHER) != 1 || count(MASK) > 1 || twice {
            return Err(Error::Invalid);
        }
        if named && count(MASK) == 0 {
            return Err(Error::Invalid);
        }
        Ok(Acl(list))
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = VERSION.to_vec();
        for entry in &self.0 {
            bytes.extend_from_slice(&entry.tag.to_le_bytes());
            bytes.extend_from_slice(&entry.bits.to_le_bytes());
            bytes.extend_from_slice(&entry.id.to_le_bytes());
        }
        bytes
    }

    fn bits(&self, tag: u16) -> Option<u16> {
        self.0.iter().find(|e| e.tag == tag).map(|e| e.bits)
    }

    fn set(&mut self, tag: u16, bits: u16) {
        for entry in self.0.iter_mut().filter(|e| e.tag == tag) {
            entry.bits = bits;
        }
    }

    /// The permission bits that show in the mode: the mask, where there is one, as the group's.
    pub(crate) fn mode(&self) -> u16 {
        let group = self.bits(MASK).or(self.bits(GROUP_OBJ)).unwrap_or(0);
        self.bits(USER_OBJ).unwrap_or(0) << 6 | group << 3 | self.bits(OTHER).unwrap_or(0)
    }

    /// Whether the mode says it all.
    pub(crate) fn is_minimal(&self) -> bool {
        self.0.len() == 3
    }

    /// Follows a chmod.
    pub(crate) fn set_mode(&mut self, mode: u16) {
        self.set(USER_OBJ, mode >> 6 & 7);
        self.set(OTHER, mode & 7);
        let group = if self.bits(MASK).is_some() { MASK } else { GROUP_OBJ };
        self.set(group, mode >> 3 & 7);
    }

    /// As default ACL of a directory, what a new entry made with `mode` gets: its access ACL and mode.
    pub(crate) fn inherit(&self, mode: u16) -> (Acl, u16) {
        let mut acl = self.clone();
        let and = |acl: &mut Acl, tag, bits: u16| {
            let both = acl.bits(tag).unwrap_or(0) & bits;
            acl.set(tag, both);
        };
        and(&mut acl, USER_OBJ, mode >> 6 & 7);
        and(&mut acl, OTHER, mode & 7);
        let group = if acl.bits(MASK).is_some() { MASK } else { GROUP_OBJ };
        and(&mut acl, group, mode >> 3 & 7);
        let mode = mode & 0o7000 | acl.mode();
        (acl, mode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        Acl(entries.iter().map(|&(tag, bits, id)| Entry { tag, bits, id }).collect()).encode()
    }

    const NONE: u32 = u32::MAX;

    #[test]
    fn a_list_needs_its_three_entries_and_a_mask_for_named_ones() {
        let minimal = list(&[(USER_OBJ, 6, NONE), (GROUP_OBJ, 4, NONE), (OTHER, 0, NONE)]);
        assert_eq!(Acl::parse(&minimal).unwrap().mode(), 0o640);
        assert!(Acl::parse(&minimal[..12]).is_err());
        assert!(Acl::parse(b"").is_err());
        let unmasked = list(&[(USER_OBJ, 6, NONE), (USER, 6, 7), (GROUP_OBJ, 4, NONE), (OTHER, 0, NONE)]);
        assert!(Acl::parse(&unmasked).is_err());
        let twice = list(&[(USER_OBJ, 6, NONE), (USER_OBJ, 6, NONE), (GROUP_OBJ, 4, NONE), (OTHER, 0, NONE)]);
        assert!(Acl::parse(&twice).is_err());
    }

    #[test]
    fn mode_and_mask_stay_in_step() {
        let bytes = list(&[(USER_OBJ, 7, NONE), (USER, 6, 7), (GROUP_OBJ, 5, NONE), (MASK, 6, NONE), (OTHER, 1, NONE)]);
        let mut acl = Acl::parse(&bytes).unwrap();
        assert_eq!(acl.mode(), 0o761);
        acl.set_mode(0o640);
        assert_eq!((acl.mode(), acl.bits(GROUP_OBJ)), (0o640, Some(5)));
        let (inherited, mode) = acl.inherit(0o2666);
        assert_eq!((inherited.mode(), mode), (0o640, 0o2640));
    }
}
