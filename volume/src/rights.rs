//! Who may read and write a node, as every replica judges it: arithmetic on sets of users, without any state.
//!
//! Owns what the clear part of an access value means (`docs/format.md`, "Realms"), what a mode and an ACL make of it, and
//! what a directory leaves of that. Bits are those of a mode's class: 4 reads, 2 writes.
//!
//! Invariant of [`Rights`]: who may write may read, since nobody writes without the key; the owner is never named.

use std::collections::{BTreeMap, BTreeSet};

use crypto::{Hash, Label, UserId};

use crate::{acl::Acl, commit::AccessHead, id::RealmId};

/// May hold the key.
pub(crate) const READ: u8 = 4;
/// May change it.
pub(crate) const WRITE: u8 = 2;
/// Both.
pub(crate) const ALL: u8 = READ | WRITE;

/// What every judged mode has: the owner's bits, which nothing takes away.
const OWNER_MODE: u16 = 0o600;

/// What one user may do by the clear part of an access value.
pub(crate) fn bits_of(owner: &UserId, mode: u16, grants: &[(UserId, u8)], user: &UserId) -> u8 {
    if user == owner {
        return ALL;
    }
    match grants.binary_search_by(|(named, _)| named.cmp(user)) {
        Ok(at) => grants[at].1 & ALL,
        Err(_) => members_of(mode),
    }
}

/// What members may do who aren't named.
pub(crate) fn members_of(mode: u16) -> u8 {
    (mode >> 3) as u8 & ALL
}

/// Whether the parts of a clear access value say one thing in the one way there is to say it.
pub(crate) fn agrees(head: &AccessHead) -> bool {
    let sound = |bits: u8| bits & !ALL == 0 && (bits & WRITE == 0 || bits & READ != 0);
    let rising = head.grants.windows(2).all(|pair| pair[0].0 < pair[1].0);
    let named = head.grants.iter().all(|(user, bits)| *user != head.owner && sound(*bits));
    let members = members_of(head.mode);
    rising
        && named
        && sound(members)
        && head.mode == OWNER_MODE | u16::from(members) << 3
        && head.realm == Rights::of(head).realm()
}

/// Who may what with one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rights {
    /// May always do all.
    pub owner: UserId,
    /// What each member may who isn't named.
    pub members: u8,
    /// Single users, who have exactly these bits.
    pub named: BTreeMap<UserId, u8>,
}

/// Who may look into a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Readers {
    Members,
    Users(BTreeSet<UserId>),
}

impl Readers {
    /// Who may look into one of two directories.
    pub(crate) fn or(self, other: Readers) -> Readers {
        match (self, other) {
            (Readers::Users(mut one), Readers::Users(other)) => {
                one.extend(other);
                Readers::Users(one)
            }
            _ => Readers::Members,
        }
    }
}

/// Bits of one class of a mode, as they are judged: who may do anything needs the key.
fn judged(class: u16) -> u8 {
    match class & 7 {
        0 => 0,
        class => READ | class as u8 & WRITE,
    }
}

impl Rights {
    /// Members read and write: what everything has that is made without a mode that counts.
    pub(crate) fn members(owner: UserId) -> Rights {
        Rights { owner, members: ALL, named: BTreeMap::new() }
    }

    /// What the clear part of an access value says.
    pub(crate) fn of(head: &AccessHead) -> Rights {
        Self::of_parts(head.owner, head.mode, &head.grants)
    }

    pub(crate) fn of_parts(owner: UserId, mode: u16, grants: &[(UserId, u8)]) -> Rights {
        Rights { owner, members: members_of(mode), named: grants.iter().copied().collect() }
    }

    /// What a mode and an ACL ask for, wherever the node is. The group's bits are the members'; a named user counts whose
    /// number in the list is a member's. The rest concerns accounts of one machine.
    pub(crate) fn asked(owner: UserId, mode: u16, acl: &[u8], user_of: impl Fn(u32) -> Option<UserId>) -> Rights {
        let mut rights = Rights { owner, members: judged(mode >> 3), named: BTreeMap::new() };
        let Ok(list) = Acl::parse(acl) else { return rights };
        rights.members = judged(list.group());
        for (number, bits) in list.users() {
            if let Some(user) = user_of(number).filter(|user| *user != owner) {
                rights.named.insert(user, judged(bits));
            }
        }
        rights
    }

    /// What is left of these where a node lies in a directory that only `readers` may look into.
    pub(crate) fn within(self, readers: &Readers) -> Rights {
        let Readers::Users(users) = readers else { return self };
        let mut named = BTreeMap::new();
        for user in users.iter().filter(|user| **user != self.owner) {
            let bits = self.bits(user);
            if bits != 0 {
                named.insert(*user, bits);
            }
        }
        Rights { owner: self.owner, members: 0, named }
    }

    /// What one user may.
    pub(crate) fn bits(&self, user: &UserId) -> u8 {
        match self.named.get(user) {
            _ if *user == self.owner => ALL,
            Some(bits) => *bits,
            None => self.members,
        }
    }

    /// Who may look into a directory with these.
    pub(crate) fn readers(&self) -> Readers {
        if self.members & READ != 0 {
            return Readers::Members;
        }
        Readers::Users(self.users_who_read())
    }

    fn users_who_read(&self) -> BTreeSet<UserId> {
        let named = self.named.iter().filter(|(_, bits)| **bits & READ != 0).map(|(user, _)| *user);
        named.chain([self.owner]).collect()
    }

    /// Whether everybody who may read by `self` may by `other`.
    pub(crate) fn are_read_by(&self, other: &Rights) -> bool {
        match (self.readers(), other.readers()) {
            (_, Readers::Members) => true,
            (Readers::Members, Readers::Users(_)) => false,
            (Readers::Users(mine), Readers::Users(others)) => mine.is_subset(&others),
        }
    }

    /// The realm: who shares the key that wraps the node's.
    pub(crate) fn realm(&self) -> RealmId {
        match self.readers() {
            Readers::Members => RealmId::MEMBERS,
            Readers::Users(users) => realm_of(&users),
        }
    }

    /// As the clear part of an access value has it.
    pub(crate) fn mode(&self) -> u16 {
        OWNER_MODE | u16::from(self.members) << 3
    }

    /// As the clear part of an access value has it.
    pub(crate) fn grants(&self) -> Vec<(UserId, u8)> {
        self.named.iter().map(|(user, bits)| (*user, *bits)).collect()
    }
}

/// The id of the realm of these readers.
pub(crate) fn realm_of(users: &BTreeSet<UserId>) -> RealmId {
    let parts: Vec<&[u8]> = users.iter().map(|user| user.as_bytes().as_slice()).collect();
    let mut id = [0; 16];
    id.copy_from_slice(&Hash::of(Label::RealmIdHash, &parts).as_bytes()[..16]);
    RealmId::from_bytes(id)
}

#[cfg(test)]
mod tests {
    use crypto::EpochId;
    use proptest::prelude::*;

    use super::*;

    fn user(n: u8) -> UserId {
        UserId::from_bytes([n; 32])
    }

    fn of_number(number: u32) -> Option<UserId> {
        u8::try_from(number).ok().filter(|n| *n < 9).map(user)
    }

    fn head(rights: &Rights) -> AccessHead {
        AccessHead {
            owner: rights.owner,
            realm: rights.realm(),
            epoch: EpochId::ZERO,
            generation: 1,
            wrapped: Vec::new(),
            mode: rights.mode(),
            grants: rights.grants(),
        }
    }

    fn asked(mode: u16, entries: &[(u16, u16, u32)]) -> Rights {
        let list = if entries.is_empty() { Vec::new() } else { crate::acl::encoded(entries) };
        Rights::asked(user(1), mode, &list, of_number)
    }

    #[test]
    fn the_groups_bits_are_the_members() {
        for (mode, members) in [(0o600, 0), (0o640, READ), (0o660, ALL), (0o610, READ), (0o620, ALL), (0o607, 0)] {
            assert_eq!(asked(mode, &[]).members, members, "{mode:o}");
        }
    }

    #[test]
    fn a_named_user_has_what_the_mask_leaves() {
        let entries = [(1, 6, 0), (2, 6, 2), (2, 4, 3), (2, 6, 900), (4, 4, 0), (0x10, 4, 0), (0x20, 7, 0)];
        let rights = asked(0o640, &entries);
        assert_eq!(rights.named, [(user(2), READ), (user(3), READ)].into());
        assert_eq!((rights.members, rights.bits(&user(1)), rights.bits(&user(7))), (READ, ALL, READ));
        let alone = [(1, 6, 0), (2, 6, 2), (2, 6, 1), (4, 0, 0), (0x10, 6, 0), (0x20, 0, 0)];
        let rights = asked(0o660, &alone);
        assert_eq!((rights.members, &rights.named), (0, &[(user(2), ALL)].into()), "the owner isn't named");
    }

    #[test]
    fn a_private_directory_leaves_its_readers_alone() {
        let readers = Readers::Users([user(1), user(2), user(3)].into());
        let rights = asked(0o664, &[(1, 6, 0), (2, 0, 3), (4, 6, 0), (0x10, 6, 0), (0x20, 4, 0)]).within(&readers);
        assert_eq!((rights.members, &rights.named), (0, &[(user(2), ALL)].into()));
        assert_ne!(rights.realm(), RealmId::MEMBERS);
        assert_eq!(rights.bits(&user(9)), 0);
    }

    #[test]
    fn what_does_not_agree_with_itself_is_told() {
        let good = Rights { owner: user(1), members: 0, named: [(user(2), READ), (user(3), ALL)].into() };
        assert!(agrees(&head(&good)));
        assert!(agrees(&head(&Rights::members(user(1)))));
        type Spoil = fn(&mut AccessHead);
        let bad: [(&str, Spoil); 8] = [
            ("realm", |h| h.realm = RealmId::MEMBERS),
            ("order", |h| h.grants.reverse()),
            ("twice", |h| h.grants[1] = h.grants[0]),
            ("owner", |h| h.owner = h.grants[0].0),
            ("bits", |h| h.grants[0].1 = 5),
            ("write alone", |h| h.grants[0].1 = WRITE),
            ("members write alone", |h| h.mode = 0o620),
            ("other bits", |h| h.mode = 0o604),
        ];
        for (what, spoil) in bad {
            let mut head = head(&good);
            spoil(&mut head);
            assert!(!agrees(&head), "{what}");
        }
    }

    fn rights() -> impl Strategy<Value = Rights> {
        let bits = || prop_oneof![Just(0), Just(READ), Just(ALL)];
        (0u8..6, bits(), proptest::collection::btree_map((0u8..6).prop_map(user), bits(), 0..5)).prop_map(
            |(owner, members, mut named)| {
                named.remove(&user(owner));
                Rights { owner: user(owner), members, named }
            },
        )
    }

    proptest! {
        #[test]
        fn a_head_says_what_the_rights_say(rights in rights()) {
            let head = head(&rights);
            prop_assert!(agrees(&head));
            prop_assert_eq!(Rights::of(&head), rights.clone());
            for n in 0..7 {
                prop_assert_eq!(bits_of(&head.owner, head.mode, &head.grants, &user(n)), rights.bits(&user(n)));
            }
        }

        #[test]
        fn a_directory_only_takes_away(rights in rights(), above in rights()) {
            let readers = above.readers();
            let left = rights.clone().within(&readers);
            for n in 0..7 {
                let (one, searches) = (user(n), above.bits(&user(n)) & READ != 0);
                let owns = one == rights.owner;
                let expected = if owns || searches || readers == Readers::Members { rights.bits(&one) } else { 0 };
                prop_assert_eq!(left.bits(&one), expected);
            }
            prop_assert!(left.are_read_by(&rights));
            prop_assert_eq!(left.clone().within(&readers), left);
        }

        #[test]
        fn equal_readers_share_a_realm(one in rights(), other in rights()) {
            prop_assert_eq!(one.realm() == other.realm(), one.readers() == other.readers());
            let both = one.readers().or(other.readers());
            let union = Rights { owner: one.owner, members: 0, named: match &both {
                Readers::Members => BTreeMap::new(),
                Readers::Users(users) => users.iter().filter(|u| **u != one.owner).map(|u| (*u, READ)).collect(),
            } };
            prop_assert!(both == Readers::Members || one.are_read_by(&union) && other.are_read_by(&union));
        }
    }
}
