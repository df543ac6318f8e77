//! Snapshots: states of the tree with a name, that are kept for as long as the name is.
//!
//! A snapshot is a change like others. On each device it stands for the state that showed when it came there: all that
//! its maker saw is in that, and what the device had besides. Whose snapshot it is and when it was made is its commit's.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crypto::{DeviceId, Label, UserId};

use crate::{
    agreed::{Rank, SnapshotRow},
    commit::{ChangeKind, MAX_CHANGES, PlaceBody, SnapshotBody},
    core::Core,
    error::{Error, Result},
    node::{Ino, NAME_MAX},
    time::Timestamp,
    version::ValueRef,
    volume::Volume,
};

/// Of each user's snapshots, so many of the oldest count. Not of all: else one user could drive out another's.
const EACH_MAX: usize = 1000;

/// A snapshot, as listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Its name, unique as shown.
    pub name: String,
    /// Who made it.
    pub user: String,
    /// On which device.
    pub device: DeviceId,
    /// When, by that device's clock.
    pub time: Timestamp,
    /// The number of its arrival here: the tree as it was after it is what it keeps.
    pub arrival: u64,
    pub(crate) at: ValueRef,
    pub(crate) by: UserId,
}

impl Snapshot {
    /// A number that no other snapshot here has or had.
    pub fn number(&self) -> u64 {
        self.arrival.saturating_mul(MAX_CHANGES as u64).saturating_add(u64::from(self.at.index))
    }
}

/// Checks a snapshot's name: it is one of a directory in the mount.
///
/// # Errors
/// What is wrong with it, for people.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    if name.len() > NAME_MAX {
        return Err(format!("a snapshot's name has at most {NAME_MAX} bytes"));
    }
    let possible = crate::apply::is_name(name.as_bytes()) && !name.chars().any(char::is_control);
    if possible { Ok(()) } else { Err(format!("`{}` can't be a snapshot's name", name.escape_debug())) }
}

/// `name` with `suffix`, in as many bytes as a name may have.
fn suffixed(name: &str, suffix: &str) -> String {
    let mut end = name.len().min(NAME_MAX.saturating_sub(suffix.len()));
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{suffix}", &name[..end])
}

/// What each shows as: who made it and the hash of its commit tell two of one name apart. `all` begins with the oldest.
fn shown_names(all: &[(Rank, SnapshotRow)], user: impl Fn(&UserId) -> String) -> Vec<String> {
    let mut taken = BTreeSet::new();
    // Names that somebody gave come before those that are made up here.
    let given: Vec<Option<String>> =
        all.iter().map(|(_, row)| row.name.clone().filter(|name| taken.insert(name.clone()))).collect();
    let made_up = |(rank, row): &(Rank, SnapshotRow), taken: &mut BTreeSet<String>| {
        let (hash, user) = (rank.2.to_string(), user(&row.user));
        let name = row.name.as_deref().unwrap_or("");
        let mut suffixes = vec![format!("~{user}"), format!("~{user}~{}", &hash[..8]), format!("~{user}~{hash}")];
        suffixes.push(format!("~{user}~{hash}~{}", rank.3));
        let mut names = suffixes.iter().map(|suffix| suffixed(name, suffix));
        let free = names.find(|name| taken.insert(name.clone()));
        // Somebody gave all of these as names to others.
        free.unwrap_or_else(|| suffixed("", &format!("~{hash}~{}~", rank.3)))
    };
    given.into_iter().zip(all).map(|(name, one)| name.unwrap_or_else(|| made_up(one, &mut taken))).collect()
}

impl Core {
    /// The snapshots that count, the oldest first.
    pub(crate) fn snapshots(&mut self) -> Result<Arc<Vec<Snapshot>>> {
        if let Some(known) = &self.snapshots {
            return Ok(known.clone());
        }
        let mut of_users: BTreeMap<UserId, BTreeMap<Rank, SnapshotRow>> = BTreeMap::new();
        self.snapshot_rows(|core, row| {
            let counts = |at: &ValueRef| !core.late.contains(&at.dot);
            if !counts(&row.at) || row.dropped.iter().any(counts) {
                return Ok(());
            }
            let rank = core.agreed_rank(row.at, row.count, row.device)?;
            let mine = of_users.entry(row.user).or_default();
            mine.insert(rank, row);
            if mine.len() > EACH_MAX {
                mine.pop_last();
            }
            Ok(())
        })?;
        let mut all: Vec<(Rank, SnapshotRow)> = of_users.into_values().flatten().collect();
        all.sort_unstable_by_key(|(rank, _)| *rank);
        let names = shown_names(&all, |user| self.members.shown_name(user));
        let mut found = Vec::with_capacity(all.len());
        for ((_, row), name) in all.into_iter().zip(names) {
            let (time, arrival) = self.made(row.at)?;
            let user = self.members.shown_name(&row.user);
            let SnapshotRow { at, user: by, device, .. } = row;
            found.push(Snapshot { name, user, device, time, arrival, at, by });
        }
        let found = Arc::new(found);
        self.snapshots = Some(found.clone());
        Ok(found)
    }

    /// The arrivals after which the tree is kept as it was then, in order.
    pub(crate) fn snapshot_arrivals(&mut self) -> Result<Vec<u64>> {
        let mut arrivals: Vec<u64> = self.snapshots()?.iter().map(|snapshot| snapshot.arrival).collect();
        arrivals.sort_unstable();
        arrivals.dedup();
        Ok(arrivals)
    }

    fn create_snapshot(&mut self, name: &str) -> Result<()> {
        self.may_change()?;
        let (all, me) = (self.snapshots()?, self.user.id());
        if let Some(other) = all.iter().find(|snapshot| snapshot.name == name) {
            return Err(Error::Refused(format!("there is a snapshot `{name}` already, which {} made", other.user)));
        }
        if all.iter().filter(|snapshot| snapshot.by == me).count() >= EACH_MAX {
            return Err(Error::Refused(format!("you have made {EACH_MAX} snapshots: remove one first")));
        }
        let (epoch, key) = self.sealing_epoch().ok_or_else(Error::not_synced)?;
        let body = SnapshotBody { name: name.to_owned() };
        self.emit(ChangeKind::Snapshot { epoch }, &[], Some((&key.derive(Label::BodyKey), &body))).map(|_| ())
    }

    fn remove_snapshot(&mut self, name: &str) -> Result<()> {
        self.may_change()?;
        let all = self.snapshots()?;
        let found = all.iter().find(|snapshot| snapshot.name == name);
        let found = found.ok_or_else(|| Error::Refused(format!("there is no snapshot `{}`", name.escape_debug())))?;
        let admits = self.members.user_of(&self.device.id()).is_some_and(|user| user.role.may_admit());
        if found.by != self.user.id() && !admits {
            let why = format!("{} made `{name}`: only they, the owner and admins remove it", found.user);
            return Err(Error::Refused(why));
        }
        self.emit::<PlaceBody>(ChangeKind::Drop {}, &[found.at], None).map(|_| ())
    }
}

impl Volume {
    /// The snapshots, the oldest first.
    ///
    /// # Errors
    /// The disk failed.
    pub fn snapshots(&self) -> Result<Arc<Vec<Snapshot>>> {
        self.inner.core.lock().snapshots()
    }

    /// The arrivals after which the tree is kept as it was then, in order.
    ///
    /// # Errors
    /// The disk failed.
    pub fn snapshot_arrivals(&self) -> Result<Vec<u64>> {
        self.inner.core.lock().snapshot_arrivals()
    }

    /// Gives what shows here now a name, under which it is kept on every device. What is open and written to is
    /// published first.
    ///
    /// # Errors
    /// [`Error::Refused`] for a name that is taken or can be none, [`Error::ReadOnly`] for readers, [`Error::NoSpace`];
    /// or the disk failed.
    pub fn create_snapshot(&self, name: &str) -> Result<()> {
        check_name(name).map_err(Error::Refused)?;
        self.inner.core.lock().may_change()?;
        self.commit_now()?;
        self.local_commit(|core| core.create_snapshot(name))
    }

    /// Removes a snapshot by its name as shown: what only it kept may be let go.
    ///
    /// # Errors
    /// [`Error::Refused`] for one that is not, or another's, [`Error::ReadOnly`] for readers; or the disk failed.
    pub fn remove_snapshot(&self, name: &str) -> Result<()> {
        self.local_commit(|core| core.remove_snapshot(name))
    }

    /// The root of the tree that a snapshot keeps.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none of that name; as [`Self::past`].
    pub fn snapshot(&self, name: &str) -> Result<Ino> {
        let found = self.snapshots()?.iter().find(|snapshot| snapshot.name == name).map(|found| found.arrival);
        self.past(found.ok_or(Error::NotFound)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        id::CommitHash,
        version::{BranchNo, Dot},
    };

    fn row(user: u8, index: u32, name: Option<&str>) -> (Rank, SnapshotRow) {
        let (user, device) = (UserId::from_bytes([user; 32]), DeviceId::from_bytes([user; 32]));
        let at = ValueRef { dot: Dot { branch: BranchNo(0), seq: 1 }, index };
        let name = name.map(ToOwned::to_owned);
        let row = SnapshotRow { at, count: 1, user, device, name, dropped: Vec::new() };
        ((1, device, CommitHash::from_bytes([0xab; 32]), index), row)
    }

    fn check(rows: &[(u8, Option<&str>)], expected: &[&str]) {
        let all: Vec<_> = rows.iter().enumerate().map(|(i, (user, name))| row(*user, i as u32, *name)).collect();
        let names = shown_names(&all, |user| if user.as_bytes()[0] == 1 { "ada".to_owned() } else { "bob".to_owned() });
        assert_eq!(names, expected);
    }

    #[test]
    fn the_oldest_keeps_a_name() {
        check(&[(1, Some("a")), (2, Some("b"))], &["a", "b"]);
        check(&[(1, Some("a")), (2, Some("a"))], &["a", "a~bob"]);
        check(&[(1, Some("a")), (2, Some("a")), (2, Some("a"))], &["a", "a~bob", "a~bob~abababab"]);
        // What somebody gave comes first.
        check(&[(1, Some("a")), (2, Some("a")), (1, Some("a~bob"))], &["a", "a~bob~abababab", "a~bob"]);
        check(&[(1, None), (1, None)], &["~ada", "~ada~abababab"]);
    }

    #[test]
    fn names_stay_within_their_bounds() {
        let long = "é".repeat(127);
        let all = [row(1, 0, Some(&long)), row(2, 1, Some(&long))];
        let names = shown_names(&all, |_| "bob".to_owned());
        assert!(names[1].ends_with("é~bob") && names[1].len() <= NAME_MAX, "{}", names[1]);
    }

    #[test]
    fn what_can_be_a_name() {
        for good in ["a", "before the move", "v1.0~x", &"x".repeat(255)] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a\nb", "\u{1b}[0m", &"x".repeat(256)] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }
}
