//! Numbers for those who watch over a volume: what is at hand, so that asking costs next to nothing however often it is done.

use crate::Volume;

/// How a volume is doing, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Commits known here.
    pub commits: u64,
    /// Commits that wait for one they refer to.
    pub waiting_commits: u64,
    /// Changes not yet in a commit.
    pub pending_changes: u64,
    /// Blocks listed as missing.
    pub missing_blocks: u64,
    /// Contents of which it isn't known yet what is missing.
    pub unlisted_contents: u64,
    /// Names beside which something shows.
    pub conflicts: u64,
    /// Nodes ever born.
    pub nodes: u64,
    /// Commits that are taken back for a removal that they were made apart from, also those whose changes were made anew.
    pub late_commits: u64,
    /// The same of single changes, for the loss of a right.
    pub late_changes: u64,
    /// Open handles of files.
    pub open_files: u64,
    /// Files with what was written and isn't published yet.
    pub unpublished_files: u64,
    /// How many bytes the volume may take of the disk, if that is limited.
    pub quota: Option<u64>,
}

impl Volume {
    /// How the volume is doing, in numbers that are at hand.
    pub fn gauges(&self) -> Gauges {
        let inner = &self.inner;
        let (missing_blocks, unlisted_contents) = inner.fetch.missing();
        let waiting_commits = inner.waiting.lock().len() as u64;
        let core = inner.core.lock();
        Gauges {
            commits: core.next_arrival - 1,
            waiting_commits,
            pending_changes: core.pending.as_ref().map_or(0, |pending| pending.changes.len() as u64),
            missing_blocks,
            unlisted_contents,
            conflicts: core.conflict_count(),
            nodes: core.node_count(),
            late_commits: core.late.len() as u64,
            late_changes: core.late_values.len() as u64,
            open_files: inner.handles.len() as u64,
            unpublished_files: inner.dirty_files.lock().len() as u64,
            quota: inner.quota.most(),
        }
    }

    /// How many members there are, and devices of theirs. Goes through all of them.
    pub fn head_count(&self) -> (u64, u64) {
        let core = self.inner.core.lock();
        let members = core.members.users.values().filter(|user| !user.removed).count();
        let devices = core.members.devices.keys().filter(|id| core.members.user_of(id).is_some()).count();
        (members as u64, devices as u64)
    }

    /// How many bytes the volume takes of the disk; nothing without one. Goes through all of its files.
    pub fn used_bytes(&self) -> Option<u64> {
        self.inner.quota.used()
    }
}
