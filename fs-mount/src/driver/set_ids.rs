//! Set-user-id and set-group-id bits that the kernel believes in.
//!
//! A write by anybody but root clears them. The kernel leaves that to the filesystem, and afterwards forgets the file's
//! times and size, but not its mode.

use std::{
    collections::HashSet,
    sync::{Arc, mpsc::Sender},
};

use parking_lot::Mutex;
use volume::{Changed, node::Ino};

use super::invalidation::Event;

/// The files whose set-id bits the kernel was told of.
#[derive(Clone)]
pub(super) struct SetIds(Arc<Shared>);

struct Shared {
    told: Mutex<HashSet<Ino>>,
    events: Sender<Event>,
}

impl SetIds {
    /// Keeps none; what the kernel must forget goes to `events`.
    pub(super) fn new(events: Sender<Event>) -> Self {
        Self(Arc::new(Shared { told: Mutex::default(), events }))
    }

    /// Remembers that the kernel is told of `ino`'s bits.
    pub(super) fn told(&self, ino: Ino) {
        self.0.told.lock().insert(ino);
    }

    /// After `uid` changed `ino`'s content: has the kernel ask for its mode again if it may not be what it was.
    pub(super) fn written(&self, ino: Ino, uid: u32) {
        if uid != 0 && self.0.told.lock().remove(&ino) {
            // Nobody listens any more once the mount has ended.
            let _ = self.0.events.send(Event::Changed(Changed::Attributes(ino)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn the_kernel_asks_again_after_a_users_write_to_a_set_id_file() {
        let (sender, events) = mpsc::channel();
        let set_ids = SetIds::new(sender);
        set_ids.told(Ino(5));
        set_ids.written(Ino(6), 1000);
        set_ids.written(Ino(5), 0);
        assert!(events.try_recv().is_err());
        set_ids.written(Ino(5), 1000);
        assert!(matches!(events.try_recv(), Ok(Event::Changed(Changed::Attributes(Ino(5))))));
        set_ids.written(Ino(5), 1000);
        assert!(events.try_recv().is_err());
    }
}
