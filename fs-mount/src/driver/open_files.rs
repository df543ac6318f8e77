//! The handles that the kernel holds.

use std::collections::HashSet;

use parking_lot::Mutex;
use volume::node::Handle;

/// Which handles of the volume the kernel hasn't released. Unmounting aborts RELEASE requests that are still on their
/// way, and an unreleased handle keeps its file's branch.
#[derive(Default)]
pub(super) struct OpenFiles(Mutex<HashSet<Handle>>);

impl OpenFiles {
    pub(super) fn opened(&self, handle: Handle) {
        self.0.lock().insert(handle);
    }

    pub(super) fn released(&self, handle: Handle) {
        self.0.lock().remove(&handle);
    }

    /// Empties this and returns what was in it.
    pub(super) fn take_all(&self) -> Vec<Handle> {
        self.0.lock().drain().collect()
    }
}
