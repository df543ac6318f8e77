//! The commits: each as its author signed it, each log without a gap.

use crate::{
    commit::Commit,
    core::Core,
    id::CommitHash,
    version::{BranchNo, Dot},
};

use super::{DamageKind, Verifier};

impl Verifier<'_> {
    pub(super) fn commits(&mut self) {
        let branches = self.volume.inner.core.lock().branches.clone();
        for (number, branch) in branches.iter().enumerate() {
            let no = BranchNo(number as u32);
            let mut previous = match branch.forked_from {
                None => Some(CommitHash::ZERO),
                Some(fork) => self.volume.inner.core.lock().commit_row(fork).ok().flatten().map(|row| row.hash),
            };
            for seq in branch.forked_from.map_or(0, |fork| fork.seq) + 1..=branch.tip {
                let found = stored(&self.volume.inner.core, Dot { branch: no, seq });
                let checked = found.and_then(|(hash, commit)| {
                    let header = &commit.header;
                    let in_place = header.device == branch.device
                        && header.log == branch.log
                        && header.seq == seq
                        && commit.hash == hash
                        && previous.is_none_or(|previous| previous == header.prev);
                    let known = self.volume.inner.core.lock().is_indexed(Dot { branch: no, seq });
                    match (in_place, known) {
                        (true, true) => Ok(hash),
                        (true, false) => Err("it is missing in the index".to_owned()),
                        (false, _) => Err("it is not the one that belongs there".to_owned()),
                    }
                });
                self.report.checked.commits += 1;
                previous = checked.as_ref().ok().copied();
                if let Err(why) = checked {
                    let what = format!("commit {seq} of device {}: {why}", branch.device.short());
                    self.damage(DamageKind::Commit, what, None, None);
                }
            }
            (self.progress)(&self.report.checked);
        }
        self.index();
    }
}

/// A commit with its changes, checked as one that just came; and the hash under which it is known.
fn stored(core: &parking_lot::Mutex<Core>, dot: Dot) -> Result<(CommitHash, Commit), String> {
    let (row, claimed) = {
        let core = core.lock();
        let row = core.commit_row(dot).map_err(|e| e.to_string())?;
        let claimed = core.export(dot).map_err(|e| e.to_string())?;
        row.zip(claimed).ok_or_else(|| "it is missing".to_owned())?
    };
    let commit = claimed.check().map_err(|e| e.to_string())?;
    Ok((row.hash, commit))
}
