//! Who may use the page: tokens that let a browser in, once, and the sessions of those that were.
//!
//! Both are random and live in this process only: they end with the daemon.

use std::time::{Duration, Instant};

use crypto::{Entropy, OsEntropy};
use data_encoding::HEXLOWER;
use parking_lot::Mutex;

/// How long a token is good for.
const TOKEN_TIME: Duration = Duration::from_secs(60);
/// Tokens at a time.
const TOKENS: usize = 8;
/// How long a session that nobody uses is kept.
const IDLE: Duration = Duration::from_secs(12 * 3600);
/// Sessions at a time; the one that was used the longest ago goes.
const SESSIONS: usize = 16;
/// So many tries with what is no token are answered within [`TOKEN_TIME`]; then nobody gets in for as long.
const TRIES: usize = 10;

/// 256 random bits as digits.
fn random() -> String {
    HEXLOWER.encode(&OsEntropy.array::<32>())
}

/// Whether two texts are the same; how long that takes tells only how long they are.
pub(super) fn same(one: &str, other: &str) -> bool {
    one.len() == other.len() && one.bytes().zip(other.bytes()).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

/// A browser that was let in.
#[derive(Clone, Debug)]
pub(super) struct Session {
    id: String,
    /// What every form of its pages has, and nobody else knows.
    pub(super) csrf: String,
    used: Instant,
    /// A ticket that was made in it, to be shown and not asked for again.
    pub(super) ticket: Option<Ticket>,
    /// What was done, for the next page to say.
    pub(super) said: Option<String>,
}

/// An invitation's ticket.
#[derive(Clone, Debug)]
pub(super) struct Ticket {
    /// The word itself.
    pub(super) word: String,
    /// What its bearer becomes.
    pub(super) of: String,
}

#[derive(Default)]
struct State {
    tokens: Vec<(String, Instant)>,
    sessions: Vec<Session>,
    failed: Vec<Instant>,
}

/// Whether a browser gets in.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// With this id, for its cookie.
    Session(String),
    /// What it has is no token, or none any more.
    Refused,
    /// The same, and too often.
    TooOften,
}

/// All of them.
#[derive(Default)]
pub(super) struct Sessions(Mutex<State>);

impl Sessions {
    /// Makes a token; nothing when there are many.
    pub(super) fn admit(&self) -> Option<String> {
        self.admit_at(Instant::now())
    }

    fn admit_at(&self, now: Instant) -> Option<String> {
        let mut state = self.0.lock();
        state.tokens.retain(|(_, made)| now.duration_since(*made) < TOKEN_TIME);
        if state.tokens.len() == TOKENS {
            return None;
        }
        let token = random();
        state.tokens.push((token.clone(), now));
        Some(token)
    }

    /// Lets a browser in that has a token; that is gone then.
    pub(super) fn enter(&self, token: &str) -> Entry {
        self.enter_at(token, Instant::now())
    }

    fn enter_at(&self, token: &str, now: Instant) -> Entry {
        let mut state = self.0.lock();
        state.failed.retain(|failed| now.duration_since(*failed) < TOKEN_TIME);
        if state.failed.len() >= TRIES {
            return Entry::TooOften;
        }
        state.tokens.retain(|(_, made)| now.duration_since(*made) < TOKEN_TIME);
        let before = state.tokens.len();
        state.tokens.retain(|(known, _)| !same(known, token));
        if state.tokens.len() == before {
            state.failed.push(now);
            return Entry::Refused;
        }
        state.sessions.retain(|session| now.duration_since(session.used) < IDLE);
        if state.sessions.len() == SESSIONS {
            state.sessions.sort_by_key(|session| session.used);
            state.sessions.remove(0);
        }
        let id = random();
        state.sessions.push(Session { id: id.clone(), csrf: random(), used: now, ticket: None, said: None });
        Entry::Session(id)
    }

    /// The session with this id, which counts as used now.
    pub(super) fn get(&self, id: &str) -> Option<Session> {
        self.get_at(id, Instant::now())
    }

    fn get_at(&self, id: &str, now: Instant) -> Option<Session> {
        let found = self.find_at(id, now)?;
        self.change(&found, |session| session.used = now);
        Some(found)
    }

    /// The session with this id, which doesn't count as used: what a page that is open asks by itself is nobody's use.
    pub(super) fn find(&self, id: &str) -> Option<Session> {
        self.find_at(id, Instant::now())
    }

    fn find_at(&self, id: &str, now: Instant) -> Option<Session> {
        let mut state = self.0.lock();
        state.sessions.retain(|session| now.duration_since(session.used) < IDLE);
        state.sessions.iter().find(|session| same(&session.id, id)).cloned()
    }

    /// Whether that session is still one; it doesn't count as used.
    pub(super) fn lives(&self, session: &Session) -> bool {
        self.0.lock().sessions.iter().any(|known| known.id == session.id && known.used.elapsed() < IDLE)
    }

    /// Changes what is kept in a session.
    pub(super) fn change<T>(&self, session: &Session, change: impl FnOnce(&mut Session) -> T) -> Option<T> {
        self.0.lock().sessions.iter_mut().find(|known| known.id == session.id).map(change)
    }

    /// Ends a session, or all of them.
    pub(super) fn end(&self, session: &Session, all: bool) {
        self.0.lock().sessions.retain(|known| !all && known.id != session.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(entry: Entry) -> String {
        let Entry::Session(id) = entry else { panic!("{entry:?}") };
        id
    }

    #[test]
    fn a_token_is_good_once_and_for_a_minute() {
        let (sessions, now) = (Sessions::default(), Instant::now());
        let token = sessions.admit_at(now).unwrap();
        assert_eq!(token.len(), 64);
        let id = session(sessions.enter_at(&token, now));
        assert!(sessions.get_at(&id, now).is_some());
        assert_eq!(sessions.enter_at(&token, now), Entry::Refused);
        let late = sessions.admit_at(now).unwrap();
        assert_eq!(sessions.enter_at(&late, now + TOKEN_TIME), Entry::Refused);
        for wrong in ["", "0", &"0".repeat(64)] {
            assert_eq!(sessions.enter_at(wrong, now), Entry::Refused);
            assert!(sessions.get_at(wrong, now).is_none());
        }
    }

    #[test]
    fn guessing_ends_soon() {
        let (sessions, now) = (Sessions::default(), Instant::now());
        (0..TRIES).for_each(|_| assert_eq!(sessions.enter_at("guess", now), Entry::Refused));
        let token = sessions.admit_at(now).unwrap();
        assert_eq!(sessions.enter_at(&token, now), Entry::TooOften);
        let later = now + TOKEN_TIME;
        let token = sessions.admit_at(later).unwrap();
        session(sessions.enter_at(&token, later));
    }

    #[test]
    fn sessions_are_bounded_and_end() {
        let (sessions, now) = (Sessions::default(), Instant::now());
        let at = |n: usize| now + TOKEN_TIME * u32::try_from(n).unwrap();
        let enter = |n: usize| session(sessions.enter_at(&sessions.admit_at(at(n)).unwrap(), at(n)));
        let ids: Vec<String> = (0..=SESSIONS).map(enter).collect();
        let end = at(SESSIONS);
        assert!(sessions.get_at(&ids[0], end).is_none(), "the oldest went");
        let one = sessions.get_at(&ids[1], end).unwrap();
        sessions.end(&one, false);
        assert!(sessions.get_at(&ids[1], end).is_none());
        assert!(sessions.get_at(&ids[2], end + IDLE / 2).is_some());
        assert!(sessions.find_at(&ids[3], end + IDLE / 2).is_some());
        assert!(sessions.get_at(&ids[3], end + IDLE).is_none(), "nobody used it");
        assert!(sessions.get_at(&ids[2], end + IDLE).is_some());
        (0..TOKENS).for_each(|_| assert!(sessions.admit_at(end).is_some()));
        assert!(sessions.admit_at(end).is_none());
    }

    #[test]
    fn texts_are_compared_whole() {
        assert!(same("", "") && same("ab", "ab"));
        assert!(!same("ab", "aB") && !same("a", "ab") && !same("ab", ""));
    }
}
