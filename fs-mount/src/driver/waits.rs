//! Which files' contents are waited for, or were in vain, for people to see.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use volume::{Ino, content::BlockHash};

/// Files that are remembered; those waited for last.
const MOST: usize = 1000;
/// Of a file, so many of the blocks it lacks.
const BLOCKS: usize = 64;

/// A file whose content was waited for.
#[derive(Debug, Clone)]
pub struct Wait {
    /// Which.
    pub ino: Ino,
    /// When the first reader began to wait who didn't get it.
    pub since: Instant,
    /// Readers that wait now; without any, they were given an error.
    pub readers: usize,
    /// Some of the blocks that it lacks.
    pub blocks: Vec<BlockHash>,
    last: Instant,
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub(super) struct Waits(Arc<Mutex<BTreeMap<Ino, Wait>>>);

impl Waits {
    /// A reader begins to wait.
    pub(super) fn begin(&self, ino: Ino, absent: &[BlockHash], now: Instant) {
        let mut waits = self.0.lock();
        if waits.len() >= MOST && !waits.contains_key(&ino) {
            let idle = waits.values().filter(|wait| wait.readers == 0).min_by_key(|wait| wait.last);
            if let Some(oldest) = idle.map(|wait| wait.ino) {
                waits.remove(&oldest);
            }
        }
        let new = || Wait { ino, since: now, readers: 0, blocks: Vec::new(), last: now };
        let wait = waits.entry(ino).or_insert_with(new);
        wait.readers += 1;
        wait.lack(absent, now);
    }

    /// A reader is done with waiting: it came, or these didn't.
    pub(super) fn end(&self, ino: Ino, absent: Option<&[BlockHash]>, now: Instant) {
        let mut waits = self.0.lock();
        let Some(wait) = waits.get_mut(&ino) else { return };
        wait.readers = wait.readers.saturating_sub(1);
        match absent {
            Some(absent) => wait.lack(absent, now),
            None if wait.readers == 0 => drop(waits.remove(&ino)),
            None => {}
        }
    }

    /// What is waited for, or was for at most `lately` and has not come; `has` tells which blocks have.
    pub(super) fn list(&self, lately: Duration, has: impl Fn(&BlockHash) -> bool) -> Vec<Wait> {
        let now = Instant::now();
        let all: Vec<Wait> = self.0.lock().values().cloned().collect();
        let over =
            |wait: &Wait| wait.readers == 0 && (now.duration_since(wait.last) > lately || wait.blocks.iter().all(&has));
        let (over, mut left): (Vec<Wait>, Vec<Wait>) = all.into_iter().partition(over);
        let mut waits = self.0.lock();
        for wait in over {
            if waits.get(&wait.ino).is_some_and(|now| now.readers == 0 && now.last == wait.last) {
                waits.remove(&wait.ino);
            }
        }
        left.sort_by_key(|wait| wait.since);
        left
    }
}

impl Wait {
    fn lack(&mut self, absent: &[BlockHash], now: Instant) {
        self.last = now;
        self.blocks = absent.iter().take(BLOCKS).copied().collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATELY: Duration = Duration::from_secs(600);

    #[test]
    fn what_came_is_no_longer_waited_for() {
        let (waits, now, lacks) = (Waits::default(), Instant::now(), [BlockHash::from_bytes([1; 32])]);
        for ino in [Ino(5), Ino(6)] {
            waits.begin(ino, &lacks, now);
        }
        waits.begin(Ino(5), &lacks, now);
        waits.end(Ino(5), Some(&lacks), now);
        waits.end(Ino(6), None, now);
        let listed = waits.list(LATELY, |_| false);
        assert_eq!(listed.iter().map(|wait| (wait.ino, wait.readers)).collect::<Vec<_>>(), [(Ino(5), 1)]);
        waits.end(Ino(5), Some(&lacks), now);
        assert_eq!(waits.list(LATELY, |_| false)[0].readers, 0, "nobody waits, and it has not come");
        assert!(waits.list(LATELY, |_| true).is_empty(), "it came meanwhile");
        assert!(waits.list(LATELY, |_| false).is_empty());
    }

    #[test]
    fn those_waited_for_last_are_remembered() {
        let (waits, now) = (Waits::default(), Instant::now());
        for number in 0..2 * MOST as u64 {
            let at = now + Duration::from_millis(number);
            waits.begin(Ino(number), &[], at);
            waits.end(Ino(number), Some(&[BlockHash::from_bytes([1; 32])]), at);
        }
        let listed = waits.list(LATELY, |_| false);
        assert_eq!((listed.len(), listed[0].ino), (MOST, Ino(MOST as u64)));
    }
}
