//! Which messages there are, without their texts: a look at a conversation asks the daemon for what is shown of it, and not for
//! all that was ever said.
//!
//! Made by one walk through all of them when somebody first looks, then kept up with what comes. Others note messages as read,
//! too, and the oldest go: that is noticed by how many are unread.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tokio::sync::Mutex;
use volume::{Letter, letters::ALL};

use super::daemon::Daemon;
use crate::failure::Outcome;

/// So many are known at a time; the oldest are forgotten. What a device keeps of all others may be more.
const KNOWN: usize = 200_000;

/// What is known of them.
#[derive(Default)]
pub(super) struct Talks(Mutex<Known>);

/// What is shown of a conversation.
pub(super) struct Talk {
    /// In the order in which they came.
    pub(super) letters: Vec<Letter>,
    /// From this one on there are older ones.
    pub(super) older: Option<u64>,
    /// Messages that nobody has read, by with whom they are.
    pub(super) unread: Unread,
}

/// How many are unread with whom.
#[derive(Default)]
pub(super) struct Unread(BTreeMap<Arc<str>, usize>);

impl Unread {
    pub(super) fn with(&self, name: &str) -> usize {
        self.0.get(name).copied().unwrap_or(0)
    }
}

#[derive(Default)]
struct Known {
    /// Names that messages show change with the members.
    members: Vec<String>,
    names: BTreeSet<Arc<str>>,
    /// By number.
    briefs: BTreeMap<u64, Brief>,
    /// None with this number, or a higher one, is known.
    next: u64,
}

/// A message without its text.
struct Brief {
    from: Arc<str>,
    to: Arc<str>,
    unread: bool,
}

impl Brief {
    /// As [`crate::control::letters::is_with`].
    fn is_with(&self, name: &str) -> bool {
        &*self.to == name || (name != ALL && &*self.from == name)
    }
}

impl Talks {
    /// The last `count` messages before number `before`, with one member, with [`ALL`], or any. `members` are the names of all.
    pub(super) async fn look(
        &self,
        daemon: &Daemon,
        members: Vec<String>,
        with: Option<&str>,
        before: Option<u64>,
        count: usize,
    ) -> Outcome<Talk> {
        let mut known = self.0.lock().await;
        if known.members != members {
            *known = Known { members, ..Known::default() };
        }
        known.catch_up(daemon).await?;
        known.see_what_was_read(daemon).await?;
        let (numbers, older) = known.last(with, before, count);
        let letters = known.whole(daemon, numbers).await?;
        Ok(Talk { letters, older, unread: known.unread() })
    }

    /// The number that the next message has at least.
    pub(super) async fn next(&self, daemon: &Daemon) -> Outcome<u64> {
        let mut known = self.0.lock().await;
        known.catch_up(daemon).await?;
        Ok(known.next.max(1))
    }
}

impl Known {
    fn name(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.names.get(name) {
            return known.clone();
        }
        let new: Arc<str> = name.into();
        self.names.insert(new.clone());
        new
    }

    fn note(&mut self, letter: &Letter) {
        let (from, to) = (self.name(&letter.from), self.name(&letter.to));
        self.briefs.insert(letter.n, Brief { from, to, unread: !letter.read && !letter.own });
        self.next = self.next.max(letter.n + 1);
        if self.briefs.len() > KNOWN {
            self.briefs.pop_first();
        }
    }

    async fn catch_up(&mut self, daemon: &Daemon) -> Outcome<()> {
        loop {
            let some = daemon.letters(self.next.max(1)).await?;
            if some.is_empty() {
                return Ok(());
            }
            some.iter().for_each(|letter| self.note(letter));
        }
    }

    /// Nothing becomes unread again: with as many as the daemon counts, they are the same.
    async fn see_what_was_read(&mut self, daemon: &Daemon) -> Outcome<()> {
        let numbers: Vec<u64> = self.briefs.iter().filter(|(_, brief)| brief.unread).map(|(n, _)| *n).collect();
        if numbers.len() as u64 == daemon.status().await?.unread {
            return Ok(());
        }
        self.whole(daemon, numbers).await.map(drop)
    }

    /// The numbers of the last `count` before `before`; and the first of them, if there are others before it.
    fn last(&self, with: Option<&str>, before: Option<u64>, count: usize) -> (Vec<u64>, Option<u64>) {
        let meant = self.briefs.range(..before.unwrap_or(u64::MAX)).rev();
        let mut meant = meant.filter(|(_, brief)| with.is_none_or(|with| brief.is_with(with))).map(|(n, _)| *n);
        let mut numbers: Vec<u64> = meant.by_ref().take(count).collect();
        numbers.reverse();
        let older = numbers.first().copied().filter(|_| meant.next().is_some());
        (numbers, older)
    }

    /// The messages with these numbers, in their order; what is gone is forgotten.
    async fn whole(&mut self, daemon: &Daemon, numbers: Vec<u64>) -> Outcome<Vec<Letter>> {
        let wanted: BTreeSet<u64> = numbers.into_iter().collect();
        let (mut found, mut at) = (Vec::new(), wanted.first().copied());
        while let Some(from) = at {
            let some = daemon.letters(from).await?;
            let end = some.last().map_or(u64::MAX, |last| last.n);
            wanted.range(from..=end).for_each(|n| drop(self.briefs.remove(n)));
            for letter in some.into_iter().filter(|letter| wanted.contains(&letter.n)) {
                self.note(&letter);
                found.push(letter);
            }
            at = end.checked_add(1).and_then(|next| wanted.range(next..).next().copied());
        }
        Ok(found)
    }

    fn unread(&self) -> Unread {
        let mut unread = Unread::default();
        for brief in self.briefs.values().filter(|brief| brief.unread) {
            // To everybody they are with who wrote them as well.
            let ends = [Some(&brief.from), Some(&brief.to).filter(|to| **to != brief.from)];
            ends.into_iter().flatten().for_each(|end| *unread.0.entry(end.clone()).or_default() += 1);
        }
        unread
    }
}

#[cfg(test)]
mod tests {
    use volume::Timestamp;

    use super::*;

    fn letter(n: u64, from: &str, to: &str) -> Letter {
        let at = Timestamp { secs: 0, nanos: 0 };
        Letter {
            n,
            from: from.to_owned(),
            device: String::new(),
            to: to.to_owned(),
            sent: at,
            came: at,
            text: String::new(),
            own: from == "alice",
            read: from == "alice" || n.is_multiple_of(2),
            waiting: 0,
        }
    }

    #[test]
    fn the_last_of_a_conversation_are_shown_and_those_before_them_found() {
        let mut known = Known::default();
        for n in 1..=10 {
            known.note(&letter(n, if n > 5 { "bob" } else { "alice" }, "carol"));
        }
        known.note(&letter(11, "bob", ALL));
        assert_eq!(known.next, 12);
        assert_eq!(known.last(Some("bob"), None, 4), (vec![8, 9, 10, 11], Some(8)));
        assert_eq!(known.last(Some("bob"), Some(8), 4), (vec![6, 7], None));
        assert_eq!(known.last(Some(ALL), None, 4), (vec![11], None));
        assert_eq!(known.last(None, Some(4), 3), (vec![1, 2, 3], None));
        assert_eq!(known.last(Some("dave"), None, 3), (vec![], None));
        let unread = known.unread();
        assert_eq!((unread.with("bob"), unread.with(ALL), unread.with("carol")), (3, 1, 2));
        assert_eq!(unread.with("alice"), 0);
    }
}
