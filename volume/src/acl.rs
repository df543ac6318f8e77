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

    /// What the group's class may: its own entry, as far as the mask lets it.
    pub(crate) fn group(&self) -> u16 {
        self.bits(GROUP_OBJ).unwrap_or(0) & self.bits(MASK).unwrap_or(7)
    }

    /// The named users, each with what the mask leaves them.
    pub(crate) fn users(&self) -> impl Iterator<Item = (u32, u16)> + '_ {
        let mask = self.bits(MASK).unwrap_or(7);
        self.0.iter().filter(|entry| entry.tag == USER).map(move |entry| (entry.id, entry.bits & mask))
    }

    /// Gives a named user these bits, or takes them off the list. The mask lets them through, and what it kept from others
    /// before, they lose for good: no more comes to count than was asked for.
    pub(crate) fn set_user(&mut self, id: u32, bits: Option<u16>) {
        let mask = self.bits(MASK);
        self.0.retain(|entry| entry.tag != USER || entry.id != id);
        if let Some(mask) = mask {
            for entry in self.0.iter_mut().filter(|entry| [USER, GROUP, GROUP_OBJ].contains(&entry.tag)) {
                entry.bits &= mask;
            }
        }
        if let Some(bits) = bits {
            self.0.push(Entry { tag: USER, bits: bits & 7, id });
        }
        let named = self.0.iter().any(|entry| [USER, GROUP].contains(&entry.tag));
        self.0.retain(|entry| entry.tag != MASK);
        if named {
            let all = self.0.iter().filter(|entry| [USER, GROUP, GROUP_OBJ].contains(&entry.tag));
            let bits = all.fold(0, |all, entry| all | entry.bits);
            self.0.push(Entry { tag: MASK, bits, id: u32::MAX });
        }
        self.0.sort_by_key(|entry| (entry.tag, entry.id));
    }

    /// The list that says what a mode says.
    pub(crate) fn of_mode(mode: u16) -> Acl {
        let entry = |tag, bits| Entry { tag, bits: bits & 7, id: u32::MAX };
        Acl(vec![entry(USER_OBJ, mode >> 6), entry(GROUP_OBJ, mode >> 3), entry(OTHER, mode)])
    }

    /// Exchanges two ids of named users.
    pub(crate) fn swap_users(&mut self, one: u32, other: u32) {
        for entry in self.0.iter_mut().filter(|entry| entry.tag == USER) {
            entry.id = match entry.id {
                id if id == one => other,
                id if id == other => one,
                id => id,
            };
        }
        self.0.sort_by_key(|entry| (entry.tag, entry.id));
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

/// A list of entries (tag, bits, id), encoded.
#[cfg(test)]
pub(crate) fn encoded(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    Acl(entries.iter().map(|&(tag, bits, id)| Entry { tag, bits, id }).collect()).encode()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_user_comes_and_goes() {
        let mut acl = Acl::of_mode(0o640);
        assert!(acl.is_minimal());
        acl.set_user(7, Some(6));
        assert_eq!((acl.mode(), acl.group(), acl.users().collect::<Vec<_>>()), (0o660, 4, vec![(7, 6)]));
        assert_eq!(Acl::parse(&acl.encode()).unwrap(), acl);
        acl.set_mode(0o600);
        acl.set_user(8, Some(4));
        let users: Vec<_> = acl.users().collect();
        assert_eq!((acl.group(), users), (0, vec![(7, 0), (8, 4)]), "what the mask kept away stays away");
        acl.set_user(7, None);
        acl.set_user(8, None);
        assert!(acl.is_minimal());
    }

    #[test]
    fn ids_are_exchanged_both_ways() {
        let mut acl = Acl::of_mode(0o600);
        acl.set_user(7, Some(6));
        acl.set_user(9, Some(4));
        acl.swap_users(9, 3);
        assert_eq!(acl.users().collect::<Vec<_>>(), [(3, 4), (7, 6)]);
        acl.swap_users(3, 7);
        assert_eq!(acl.users().collect::<Vec<_>>(), [(3, 6), (7, 4)]);
    }

    fn list(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        encoded(entries)
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
