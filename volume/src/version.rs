//! Who had seen what: dots, version vectors, and the local numbering of logs.
//!
//! Every log of a device is a chain of commits. Should a device have signed two different commits
//! with one number, its log becomes two *branches* from there; replicas number branches as they
//! meet them, so a [`Dot`] is this device's own name for a commit and never leaves it. What a
//! commit's author had seen is a [`VersionVector`]: for each branch, up to which number (and, for
//! a branch that forked from another, of that one up to the fork, which joining the vector of the
//! previous commit brings in by itself).

use std::sync::Arc;

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

/// Branches whose numbers lie together.
const IN_A_RUN: usize = 64;

/// Of branches that follow one another, up to which number each was seen; 0: not at all.
type Run = [u64; IN_A_RUN];

/// For each branch, up to which commit its holder had seen.
///
/// In runs that vectors share as long as they are the same: of ten thousand logs a commit tells of a few, and whoever is
/// next had seen nearly all of what the one before had.
#[derive(Clone, Debug, Default)]
pub struct VersionVector(Vec<Option<Arc<Run>>>);

impl VersionVector {
    /// Whether `dot` was seen.
    pub fn covers(&self, dot: Dot) -> bool {
        self.get(dot.branch) >= dot.seq
    }

    /// Up to which number `branch` was seen; 0: not at all.
    pub fn get(&self, branch: BranchNo) -> u64 {
        let (run, place) = Self::place(branch);
        self.0.get(run).and_then(Option::as_deref).map_or(0, |run| run[place])
    }

    /// Sees everything up to `dot`; tells whether that was new.
    pub fn add(&mut self, dot: Dot) -> bool {
        if self.covers(dot) {
            return false;
        }
        let (run, place) = Self::place(dot.branch);
        if self.0.len() <= run {
            self.0.resize(run + 1, None);
        }
        Arc::make_mut(self.0[run].get_or_insert_with(|| Arc::new([0; IN_A_RUN])))[place] = dot.seq;
        true
    }

    /// Has seen no more of `branch` than up to `seq`.
    pub fn lower(&mut self, branch: BranchNo, seq: u64) {
        let (run, place) = Self::place(branch);
        if self.get(branch) > seq
            && let Some(run) = self.0[run].as_mut()
        {
            Arc::make_mut(run)[place] = seq;
        }
    }

    /// Sees what `other` saw.
    pub fn join(&mut self, other: &VersionVector) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), None);
        }
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            match (&mut *mine, theirs) {
                (_, None) => {}
                (None, Some(_)) => mine.clone_from(theirs),
                (Some(mine), Some(theirs)) if Arc::ptr_eq(mine, theirs) => {}
                (Some(mine), Some(theirs)) => {
                    if mine.iter().zip(&**theirs).any(|(mine, theirs)| mine < theirs) {
                        let mine = Arc::make_mut(mine);
                        mine.iter_mut().zip(&**theirs).for_each(|(mine, theirs)| *mine = (*mine).max(*theirs));
                    }
                }
            }
        }
    }

    /// The newest dot of each branch.
    pub fn dots(&self) -> impl Iterator<Item = Dot> + '_ {
        self.dots_beyond(&EMPTY)
    }

    /// The newest dot of each branch of which `other` had not seen as much.
    pub fn dots_beyond<'a>(&'a self, other: &'a VersionVector) -> impl Iterator<Item = Dot> + 'a {
        let runs = self.0.iter().enumerate().filter_map(|(no, run)| Some((no, run.as_ref()?)));
        let theirs = |no: usize| other.0.get(no).and_then(Option::as_ref);
        let new = runs.filter(move |(no, run)| !theirs(*no).is_some_and(|theirs| Arc::ptr_eq(run, theirs)));
        new.flat_map(move |(no, run)| {
            run.iter().enumerate().filter_map(move |(place, &seq)| {
                let known = theirs(no).map_or(0, |theirs| theirs[place]);
                let branch = BranchNo((no * IN_A_RUN + place) as u32);
                (seq > known).then_some(Dot { branch, seq })
            })
        })
    }

    fn place(branch: BranchNo) -> (usize, usize) {
        (branch.0 as usize / IN_A_RUN, branch.0 as usize % IN_A_RUN)
    }
}

static EMPTY: VersionVector = VersionVector(Vec::new());

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

    /// Of branches in three runs.
    fn vector() -> impl Strategy<Value = VersionVector> {
        let dots = proptest::collection::vec((0u32..6, 1u64..9), 0..6);
        dots.prop_map(|dots| {
            let mut vector = VersionVector::default();
            for (branch, seq) in dots {
                vector.add(Dot { branch: BranchNo(branch * 29), seq });
            }
            vector
        })
    }

    fn dots(vector: &VersionVector) -> Vec<Dot> {
        vector.dots().collect()
    }

    proptest! {
        #[test]
        fn join_is_a_least_upper_bound(a in vector(), b in vector(), c in vector()) {
            let join = |x: &VersionVector, y: &VersionVector| { let mut z = x.clone(); z.join(y); z };
            prop_assert_eq!(dots(&join(&a, &b)), dots(&join(&b, &a)));
            prop_assert_eq!(dots(&join(&join(&a, &b), &c)), dots(&join(&a, &join(&b, &c))));
            prop_assert_eq!(dots(&join(&a, &a)), dots(&a));
            let both = join(&a, &b);
            for dot in a.dots().chain(b.dots()) {
                prop_assert!(both.covers(dot));
            }
            for dot in both.dots() {
                prop_assert!(a.covers(dot) || b.covers(dot));
            }
        }

        #[test]
        fn what_is_beyond_makes_one_of_the_other(a in vector(), b in vector(), branch in 0u32..6, seq in 0u64..9) {
            let mut both = a.clone();
            both.join(&b);
            let mut again = a.clone();
            for dot in both.dots_beyond(&a) {
                prop_assert!(again.add(dot));
            }
            prop_assert_eq!(dots(&again), dots(&both));
            let branch = BranchNo(branch * 29);
            let before = a.get(branch);
            again.lower(branch, seq);
            prop_assert_eq!(again.get(branch), both.get(branch).min(seq));
            prop_assert_eq!(a.get(branch), before);
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
