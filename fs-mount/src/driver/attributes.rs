//! Attributes and times, as the volume has them and as the kernel wants them.

use std::time::{Duration, SystemTime};

use fuser::{FileAttr, FileType, INodeNo, TimeOrNow};
use volume::{
    Error, Result,
    node::{AttributeChange, Attributes, NodeKind, SetTime},
    time::Timestamp,
};

use super::set_ids::SetIds;

/// What tools take for a good size of one read or write: `cp` and `tar` use it.
const PREFERRED_IO: u32 = 128 * 1024;

/// The bits that let a program run as its file's owner or group.
const SET_IDS: u16 = 0o6000;

/// Nodes as this mount shows them.
#[derive(Clone)]
pub(super) struct View {
    /// Own mount: everything is this user's and group's. System mount: nothing, owners show as stored.
    owner: Option<(u32, u32)>,
    set_ids: SetIds,
}

impl View {
    pub(super) fn new(owner: Option<(u32, u32)>, set_ids: SetIds) -> Self {
        Self { owner, set_ids }
    }

    pub(super) fn set_ids(&self) -> &SetIds {
        &self.set_ids
    }

    /// What the kernel is told of a node.
    pub(super) fn shown(&self, node: &Attributes) -> FileAttr {
        if node.kind == NodeKind::File && node.mode & SET_IDS != 0 {
            self.set_ids.told(node.ino);
        }
        let (uid, gid, mode) = match self.owner {
            Some((uid, gid)) => (node.other.unwrap_or(uid), gid, node.own_mode),
            None => (node.uid, node.gid, node.mode),
        };
        FileAttr {
            ino: INodeNo(node.ino.0),
            size: node.size,
            blocks: node.allocated.div_ceil(512),
            atime: system_time(node.atime),
            mtime: system_time(node.mtime),
            ctime: system_time(node.ctime),
            crtime: system_time(node.btime),
            kind: file_type(node.kind),
            perm: mode & 0o7777,
            nlink: node.links,
            uid,
            gid,
            rdev: node.rdev,
            blksize: PREFERRED_IO,
            flags: 0,
        }
    }

    /// What a change of owner and group means on this mount. On a user's own, what shows as owner is a member, or this user,
    /// whose number in the volume is `me`; and everything has one group.
    pub(super) fn chown(
        &self,
        mut change: AttributeChange,
        me: impl FnOnce() -> u32,
        shown: impl FnOnce() -> Result<Attributes>,
    ) -> Result<AttributeChange> {
        let Some((uid, gid)) = self.owner else { return Ok(change) };
        if change.gid.is_some_and(|to| to != gid) {
            return Err(Error::NotPermitted);
        }
        if let Some(to) = change.uid
            && to != shown()?.other.unwrap_or(uid)
        {
            change.owner = Some(if to == uid { me() } else { to });
        }
        change.uid = None;
        change.gid = None;
        Ok(change)
    }
}

/// The reply to a lookup of a name that isn't there: an entry without a node, which the kernel may remember.
pub(super) fn no_node() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: SystemTime::UNIX_EPOCH,
        mtime: SystemTime::UNIX_EPOCH,
        ctime: SystemTime::UNIX_EPOCH,
        crtime: SystemTime::UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: PREFERRED_IO,
        flags: 0,
    }
}

/// Whether nothing is to be set.
pub(super) fn is_empty(change: &AttributeChange) -> bool {
    let AttributeChange { mode, uid, gid, owner, size, atime, mtime } = change;
    let ids = uid.is_none() && gid.is_none() && owner.is_none();
    mode.is_none() && ids && size.is_none() && atime.is_none() && mtime.is_none()
}

pub(super) fn file_type(kind: NodeKind) -> FileType {
    match kind {
        NodeKind::File => FileType::RegularFile,
        NodeKind::Directory => FileType::Directory,
        NodeKind::Symlink => FileType::Symlink,
        NodeKind::Fifo => FileType::NamedPipe,
        NodeKind::Socket => FileType::Socket,
        NodeKind::CharDevice => FileType::CharDevice,
        NodeKind::BlockDevice => FileType::BlockDevice,
    }
}

/// A time to set, as fuser hands it over.
pub(super) fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(time) => SetTime::At(received(time)),
    }
}

/// The time that the kernel sent, from what fuser made of it. Before 1970 fuser takes the nanoseconds away instead of
/// adding them (0.18.0, `system_time_from_time`); both numbers can still be told from the result.
fn received(time: SystemTime) -> Timestamp {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => {
            Timestamp { secs: i64::try_from(since.as_secs()).unwrap_or(i64::MAX), nanos: since.subsec_nanos() }
        }
        Err(before) => {
            let before = before.duration();
            Timestamp { secs: 0_i64.saturating_sub_unsigned(before.as_secs()), nanos: before.subsec_nanos() }
        }
    }
}

/// A time for fuser to send, which it does rightly. One that the system can't express shows as 1970.
fn system_time(time: Timestamp) -> SystemTime {
    let whole = match u64::try_from(time.secs) {
        Ok(secs) => SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(secs)),
        Err(_) => SystemTime::UNIX_EPOCH.checked_sub(Duration::from_secs(time.secs.unsigned_abs())),
    };
    whole.and_then(|whole| whole.checked_add(Duration::from_nanos(time.nanos.into()))).unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use volume::node::Ino;

    use super::*;

    fn node() -> Attributes {
        let time = Timestamp { secs: 5, nanos: 7 };
        Attributes {
            ino: Ino(9),
            kind: NodeKind::File,
            size: 10_000,
            allocated: 4097,
            mtime: time,
            ctime: time,
            atime: time,
            btime: time,
            mode: 0o4755,
            links: 2,
            uid: 1000,
            gid: 1001,
            rdev: 0,
            sealed: false,
            other: None,
            own_mode: 0o4750,
        }
    }

    fn view(owner: Option<(u32, u32)>) -> View {
        View::new(owner, SetIds::new(mpsc::channel().0))
    }

    const ME: u32 = 900;

    fn chown_of(node: Attributes, view: View, uid: Option<u32>, gid: Option<u32>) -> Result<AttributeChange> {
        view.chown(AttributeChange { mode: Some(0o600), uid, gid, ..AttributeChange::default() }, || ME, || Ok(node))
    }

    fn chown(view: View, uid: Option<u32>, gid: Option<u32>) -> Result<AttributeChange> {
        chown_of(node(), view, uid, gid)
    }

    #[test]
    fn blocks_are_counted_in_512_bytes() {
        assert_eq!(view(None).shown(&node()).blocks, 9);
    }

    #[test]
    fn an_own_mount_shows_members_and_a_system_mount_accounts() {
        let own = view(Some((7, 8))).shown(&node());
        assert_eq!((own.uid, own.gid, own.perm), (7, 8, 0o4750));
        let others = view(Some((7, 8))).shown(&Attributes { other: Some(901), ..node() });
        assert_eq!((others.uid, others.gid), (901, 8));
        let system = view(None).shown(&Attributes { other: Some(901), ..node() });
        assert_eq!((system.uid, system.gid, system.perm), (1000, 1001, 0o4755));
    }

    #[test]
    fn on_an_own_mount_chown_to_the_same_is_nothing() {
        let change = chown(view(Some((7, 8))), Some(7), Some(8)).unwrap();
        assert_eq!((change.mode, change.uid, change.gid), (Some(0o600), None, None));
    }

    #[test]
    fn on_an_own_mount_things_are_given_to_members() {
        let own = view(Some((7, 8)));
        let change = chown(own.clone(), Some(901), None).unwrap();
        assert_eq!((change.uid, change.owner), (None, Some(901)));
        assert!(matches!(chown(own.clone(), None, Some(0)), Err(Error::NotPermitted)));
        let others = Attributes { other: Some(901), ..node() };
        assert_eq!(chown_of(others.clone(), own.clone(), Some(901), None).unwrap().owner, None);
        assert_eq!(chown_of(others, own, Some(7), None).unwrap().owner, Some(ME));
    }

    #[test]
    fn on_a_system_mount_chown_passes() {
        let change = chown(view(None), Some(7), Some(8)).unwrap();
        assert_eq!((change.uid, change.gid), (Some(7), Some(8)));
    }

    /// What fuser 0.18.0 makes of a time that the kernel sent.
    fn as_fuser_receives(secs: i64, nanos: u32) -> SystemTime {
        match u64::try_from(secs) {
            Ok(secs) => SystemTime::UNIX_EPOCH + Duration::new(secs, nanos),
            Err(_) => SystemTime::UNIX_EPOCH - Duration::new(secs.unsigned_abs(), nanos),
        }
    }

    #[test]
    fn times_arrive_as_the_kernel_sent_them() {
        for (secs, nanos) in [(0, 0), (1, 999_999_999), (-1, 0), (-2, 800_000_000), (1 << 33, 1), (-(1 << 33), 1)] {
            assert_eq!(received(as_fuser_receives(secs, nanos)), Timestamp { secs, nanos });
        }
    }

    #[test]
    fn times_before_1970_count_up() {
        let time = system_time(Timestamp { secs: -2, nanos: 800_000_000 });
        assert_eq!(time, SystemTime::UNIX_EPOCH - Duration::new(1, 200_000_000));
    }

    #[test]
    fn no_time_is_too_far_off_to_be_told() {
        for secs in [i64::MIN, i64::MAX] {
            system_time(Timestamp { secs, nanos: 999_999_999 });
        }
    }
}
