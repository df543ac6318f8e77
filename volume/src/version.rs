//! Who had seen what: dots, version vectors, and the local numbering of logs.
//!
//! Every log of a device is a chain of commits. Should a device have signed two different commits
//! with one number, its log becomes two *branches* from there; replicas number branches as they
//! meet them, so a [`Dot`] is this device's own name for a commit and never leaves it. What a
//! commit's author had seen is a [`VersionVector`]: for each branch, up to which number (and, for
//! a branch that forked from another, of that one up to the fork, which joining the vector of the
//! previous commit brings in by itself).

use std::collections::BTreeMap;

use crypto::DeviceId;
use serde::{Deserialize, Serialize};

use crate::id::CommitHash;

/// This device's number for a branch of some log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BranchNo(pub u32);

/// A commit, by branch and number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Dot {
    /// The branch.
    pub branch: BranchNo,
    /// The number in it.
    pub seq: u64,
}

/// A value of a register: the commit and the number of the change in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ValueRef {
    /// The commit.
    pub dot: Dot,
    /// The change.
    pub index: u32,
}

impl Dot {
    /// The store's key: branches apart, numbers in order.
    pub fn key(&self) -> [u8; 12] {
        let mut key = [0; 12];
        key[..4].copy_from_slice(&self.branch.0.to_be_bytes());
        key[4..].copy_from_slice(&self.seq.to_be_bytes());
        key
    }

    /// The inverse of [`Self::key`] on a key that starts with it.
    pub fn from_key(key: &[u8]) -> Option<Dot> {
        let branch = u32::from_be_bytes(key.get(..4)?.try_into().ok()?);
        let seq = u64::from_be_bytes(key.get(4..12)?.try_into().ok()?);
        Some(Dot { branch: BranchNo(branch), seq })
    }
}

/// For logs: branch and number.
impl std::fmt::Display for Dot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.branch.0, self.seq)
    }
}

impl ValueRef {
    /// The store's key of the change.
    pub fn key(&self) -> [u8; 16] {
        let mut key = [0; 16];
        key[..12].copy_from_slice(&self.dot.key());
        key[12..].copy_from_slice(&self.index.to_be_bytes());
        key
    }

    /// The inverse of [`Self::key`].
    pub fn from_key(key: &[u8]) -> Option<ValueRef> {
        let dot = Dot::from_key(key)?;
        let index = u32::from_be_bytes(key.get(12..16)?.try_into().ok()?);
        Some(ValueRef { dot, index })
    }
}

/// For each branch, up to which commit its holder had seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionVector(BTreeMap<BranchNo, u64>);

impl VersionVector {
    /// Whether `dot` was seen.
    pub fn covers(&self, dot: Dot) -> bool {
        self.get(dot.branch) >= dot.seq
    }

    /// Up to which number `branch` was seen; 0: not at all.
    pub fn get(&self, branch: BranchNo) -> u64 {
        self.0.get(&branch).copied().unwrap_or(0)
    }

    /// Sees everything up to `dot`; tells whether that was new.
    pub fn add(&mut self, dot: Dot) -> bool {
        let seq = self.0.entry(dot.branch).or_insert(0);
        let new = *seq < dot.seq;
        *seq = (*seq).max(dot.seq);
        new
    }

    /// Has seen no more of `branch` than up to `seq`.
    pub fn lower(&mut self, branch: BranchNo, seq: u64) {
        if let Some(seen) = self.0.get_mut(&branch) {
            *seen = (*seen).min(seq);
        }
    }

    /// Sees what `other` saw.
    pub fn join(&mut self, other: &VersionVector) {
        for (&branch, &seq) in &other.0 {
            self.add(Dot { branch, seq });
        }
    }

    /// The newest dot of each branch.
    pub fn dots(&self) -> impl Iterator<Item = Dot> + '_ {
        self.0.iter().map(|(&branch, &seq)| Dot { branch, seq })
    }
}

/// One branch of one log.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Branch {
    /// The author.
    pub device: DeviceId,
    /// Which of its logs.
    pub log: u64,
    /// The commit it forked from, on another branch; `None` for the branch a log began with.
    pub forked_from: Option<Dot>,
    /// Its newest commit's number.
    #[serde(skip)]
    pub tip: u64,
    /// Its newest commit.
    #[serde(skip, default = "zero_hash")]
    pub tip_hash: CommitHash,
}

fn zero_hash() -> CommitHash {
    CommitHash::ZERO
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn vector() -> impl Strategy<Value = VersionVector> {
        proptest::collection::btree_map((0u32..6).prop_map(BranchNo), 1u64..9, 0..6).prop_map(VersionVector)
    }

    proptest! {
        #[test]
        fn join_is_a_least_upper_bound(a in vector(), b in vector(), c in vector()) {
            let join = |x: &VersionVector, y: &VersionVector| { let mut z = x.clone(); z.join(y); z };
            prop_assert_eq!(join(&a, &b), join(&b, &a));
            prop_assert_eq!(join(&join(&a, &b), &c), join(&a, &join(&b, &c)));
            prop_assert_eq!(join(&a, &a), a.clone());
            let both = join(&a, &b);
            for dot in a.dots().chain(b.dots()) {
                prop_assert!(both.covers(dot));
            }
            for dot in both.dots() {
                prop_assert!(a.covers(dot) || b.covers(dot));
            }
        }
    }

    #[test]
    fn keys_sort_as_dots_do() {
        let at = |branch, seq, index| ValueRef { dot: Dot { branch: BranchNo(branch), seq }, index };
        let (a, b, c) = (at(0, 300, 1), at(1, 2, 0), at(1, 2, 256));
        assert!(a.key() < b.key() && b.key() < c.key());
        assert_eq!(ValueRef::from_key(&c.key()), Some(c));
        assert_eq!(Dot::from_key(&c.key()), Some(c.dot));
    }
}
