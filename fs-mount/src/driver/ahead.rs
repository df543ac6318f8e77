//! Directories that are about to be asked for: whoever walks a tree finds the next ones in memory, read meanwhile by a
//! thread of its own.
//!
//! Nothing is read ahead until somebody goes into a second directory of those that lie beside each other.

use std::{collections::VecDeque, sync::Arc};

use fuser::INodeNo;
use parking_lot::Mutex;
use volume::node::{Ino, NodeKind};

use super::{
    calls::{Calls, Request},
    pool::Pool,
};

/// Directories read ahead of the one that somebody is in. The volume reads none ahead that is large, so all of them fit
/// into what it keeps in memory.
const WINDOW: usize = 16;
/// Directories whose subdirectories are remembered, and how many of each.
const PARENTS: usize = 8;
const SIBLINGS: usize = 1024;

/// What is known of who goes where.
#[derive(Clone)]
pub(super) struct Ahead {
    calls: Calls,
    walks: Arc<Mutex<Walks>>,
    pool: Pool,
}

impl Ahead {
    pub(super) fn new(calls: Calls) -> Self {
        Self { calls, walks: Arc::default(), pool: Pool::new("p2pfs-ahead", 1) }
    }

    pub(super) fn close(&self) {
        self.pool.close();
    }

    /// Somebody is told of these subdirectories of `parent`, in the order of its listing: at its start or later on.
    pub(super) fn told(&self, parent: Ino, at_start: bool, subdirectories: Vec<Ino>) {
        if !subdirectories.is_empty() {
            self.walks.lock().told(parent, at_start, subdirectories);
        }
    }

    /// Somebody begins to list `directory`.
    pub(super) fn listed(&self, directory: Ino) {
        if self.walks.lock().entered(directory) {
            self.go_on();
        }
    }

    /// Somebody looked up `directory` in `parent`.
    pub(super) fn found(&self, parent: Ino, directory: Ino) {
        let mut walks = self.walks.lock();
        if walks.entered(directory) {
            drop(walks);
            self.go_on();
        } else if walks.is_second_in(parent) {
            drop(walks);
            let ahead = self.clone();
            self.run(move || ahead.learn(parent, directory));
        }
    }

    /// Finds out what lies beside a directory. Who goes by names mostly goes in their order.
    fn learn(&self, parent: Ino, directory: Ino) {
        let request = Request::own("read ahead", INodeNo(parent.0));
        let listed = self.calls.read(request, |volume| volume.read_directory(parent, 2, SIBLINGS));
        let mut entries = listed.unwrap_or_default();
        entries.retain(|entry| entry.attributes.kind == NodeKind::Directory);
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let siblings = entries.iter().map(|entry| entry.attributes.ino).collect();
        let mut walks = self.walks.lock();
        walks.learned(parent, siblings);
        walks.entered(directory);
        drop(walks);
        self.read();
    }

    fn go_on(&self) {
        let ahead = self.clone();
        self.run(move || ahead.read());
    }

    /// Without a thread for it nothing is read ahead.
    fn run(&self, job: impl FnOnce() + Send + 'static) {
        let _ = self.pool.offer(Box::new(job));
    }

    fn read(&self) {
        loop {
            let Some(next) = self.walks.lock().next() else { return };
            let request = Request::own("read ahead", INodeNo(next.0));
            // What can't be read is told to who asks for it.
            let _ = self.calls.read(request, |volume| Ok(volume.read_ahead(next)));
        }
    }
}

/// Where somebody walks.
#[derive(Default)]
struct Walks {
    /// What was walked last first.
    siblings: VecDeque<Siblings>,
    /// Where a directory was looked up of which nothing is known.
    looked_in: VecDeque<Ino>,
    /// What is to be read ahead.
    queue: VecDeque<Ino>,
}

/// The subdirectories of one directory.
struct Siblings {
    parent: Ino,
    /// It was looked for them: there is no more to find out.
    learned: bool,
    /// Each, and whether somebody went in or it was read ahead.
    directories: Vec<(Ino, bool)>,
    /// Into how many somebody went.
    entered: usize,
}

impl Walks {
    fn told(&mut self, parent: Ino, at_start: bool, subdirectories: Vec<Ino>) {
        let new = subdirectories.into_iter().map(|ino| (ino, false));
        match self.siblings.iter_mut().find(|known| known.parent == parent) {
            Some(known) if !at_start => {
                let room = SIBLINGS.saturating_sub(known.directories.len());
                known.directories.extend(new.take(room));
            }
            _ => {
                self.siblings.retain(|known| known.parent != parent);
                let directories = new.take(SIBLINGS).collect();
                self.siblings.push_front(Siblings { parent, learned: false, directories, entered: 0 });
                self.siblings.truncate(PARENTS);
            }
        }
    }

    /// These subdirectories were found in `parent`.
    fn learned(&mut self, parent: Ino, subdirectories: Vec<Ino>) {
        self.told(parent, true, subdirectories);
        self.siblings[0].learned = true;
    }

    /// Brings siblings to the front.
    fn walked(&mut self, at: usize) -> &mut Siblings {
        self.siblings.make_contiguous()[..=at].rotate_right(1);
        &mut self.siblings[0]
    }

    /// Notes that somebody goes into a directory. Whether there is something to read ahead now.
    fn entered(&mut self, directory: Ino) -> bool {
        let place = |s: &Siblings| s.directories.iter().position(|(ino, _)| *ino == directory);
        let found = self.siblings.iter().enumerate().find_map(|(number, s)| Some((number, place(s)?)));
        let Some((number, at)) = found else { return false };
        let known = self.walked(number);
        known.directories[at].1 = true;
        known.entered += 1;
        if known.entered < 2 {
            return false;
        }
        let window = known.directories[at + 1..].iter_mut().take(WINDOW);
        let next: Vec<Ino> =
            window.filter_map(|(ino, asked)| (!std::mem::replace(asked, true)).then_some(*ino)).collect();
        self.queue.extend(&next);
        !next.is_empty()
    }

    /// Whether this is not the first directory looked up in `parent` while nothing is known of what is in there.
    fn is_second_in(&mut self, parent: Ino) -> bool {
        // In a large directory most are not among those remembered, and to look again costs as much each time.
        if let Some(at) = self.siblings.iter().position(|known| known.learned && known.parent == parent) {
            self.walked(at);
            return false;
        }
        if let Some(at) = self.looked_in.iter().position(|known| *known == parent) {
            self.looked_in.remove(at);
            return true;
        }
        self.looked_in.push_front(parent);
        self.looked_in.truncate(PARENTS);
        false
    }

    fn next(&mut self) -> Option<Ino> {
        self.queue.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: Ino = Ino(2);

    fn walks(directories: std::ops::Range<u64>) -> Walks {
        let mut walks = Walks::default();
        walks.told(PARENT, true, directories.map(Ino).collect());
        walks
    }

    fn queued(walks: &mut Walks) -> Vec<u64> {
        std::iter::from_fn(|| walks.next()).map(|ino| ino.0).collect()
    }

    #[test]
    fn who_goes_into_one_directory_has_none_read_ahead() {
        let mut walks = walks(10..20);
        assert!(!walks.entered(Ino(10)));
        assert!(!walks.entered(Ino(30)));
        assert_eq!(queued(&mut walks), [0; 0]);
    }

    #[test]
    fn who_walks_on_has_the_next_ones_read_ahead_once() {
        let mut walks = walks(10..40);
        walks.entered(Ino(10));
        assert!(walks.entered(Ino(11)));
        assert_eq!(queued(&mut walks), (12..28).collect::<Vec<_>>());
        assert!(walks.entered(Ino(12)));
        assert_eq!(queued(&mut walks), [28]);
        assert!(!walks.entered(Ino(12)));
    }

    #[test]
    fn a_listing_that_begins_anew_is_walked_anew() {
        let mut walks = walks(10..12);
        walks.told(PARENT, false, vec![Ino(12)]);
        walks.entered(Ino(10));
        assert!(walks.entered(Ino(11)));
        assert_eq!(queued(&mut walks), [12]);
        walks.told(PARENT, true, vec![Ino(11), Ino(12)]);
        assert!(!walks.entered(Ino(11)));
    }

    #[test]
    fn the_second_name_looked_up_makes_a_walk() {
        let mut walks = Walks::default();
        assert!(!walks.is_second_in(PARENT));
        assert!(!walks.is_second_in(Ino(3)));
        assert!(walks.is_second_in(PARENT));
    }

    #[test]
    fn a_large_directory_is_not_looked_through_for_each_name() {
        let mut walks = Walks::default();
        let looks = (1000..1100).filter(|name| {
            let looks = !walks.entered(Ino(*name)) && walks.is_second_in(PARENT);
            if looks {
                // Those looked up are not among the first.
                walks.learned(PARENT, (10..20).map(Ino).collect());
            }
            // Deeper down, too, somebody goes by names.
            walks.learned(Ino(*name), Vec::new());
            looks
        });
        assert_eq!(looks.count(), 1);
    }

    #[test]
    fn who_walks_deeper_goes_on_where_he_was() {
        let mut walks = walks(10..100);
        walks.entered(Ino(10));
        for directory in 11..80 {
            walks.learned(Ino(1000 + directory), Vec::new());
            assert!(walks.entered(Ino(directory)), "{directory}");
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut walks = Walks::default();
        for parent in 0..100 {
            walks.told(Ino(parent), true, (0..5000).map(Ino).collect());
            walks.told(Ino(parent), false, (0..5000).map(Ino).collect());
            walks.is_second_in(Ino(parent));
        }
        assert_eq!((walks.siblings.len(), walks.siblings[0].directories.len()), (PARENTS, SIBLINGS));
        assert_eq!(walks.looked_in.len(), PARENTS);
    }
}
