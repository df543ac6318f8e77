//! The archive: whether it and the store hold the same commits.

use crate::archive::Fault;

use super::{DamageKind, Verifier};

impl Verifier<'_> {
    pub(super) fn archive(&mut self, repair: bool) {
        let Some(archive) = self.volume.inner.archive.clone() else { return };
        self.volume.archive_all();
        let store = self.volume.inner.store.clone();
        let faults = match archive.check(&store) {
            Ok(faults) => faults,
            Err(e) => {
                let what = format!("the archive of commits can't be read: {e}");
                return self.damage(DamageKind::Archive, what, None, None);
            }
        };
        let mended = repair && !faults.is_empty() && {
            let done = archive.mend(&faults, &store);
            if let Err(e) = &done {
                log::error!("the archive of commits can't be mended: {e}");
            }
            // What the store hasn't whole either can't be.
            done.is_ok_and(|()| archive.check(&store).is_ok_and(|left| left.is_empty()))
        };
        for fault in faults {
            let (kind, what) = match fault {
                Fault::Segment(first) => {
                    (DamageKind::Archive, format!("the archive's commits from {first} on: damaged"))
                }
                Fault::Missing(range) => {
                    let what = format!("the archive's commits {} to {}: missing", range.start, range.end - 1);
                    (DamageKind::Archive, what)
                }
                Fault::Lost(arrival) => {
                    (DamageKind::Commit, format!("commit {arrival} by arrival: only the archive has it"))
                }
            };
            self.damage(kind, what, None, None);
            if let Some(damage) = self.report.damage.last_mut().filter(|damage| damage.kind == DamageKind::Archive) {
                damage.repaired = mended;
            }
        }
        (self.progress)(&self.report.checked);
    }
}
