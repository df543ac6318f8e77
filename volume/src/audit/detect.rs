//! What in the log looks like an attack: a state machine over its entries, without any clock but theirs.
//!
//! Each detector says how sure it is and what answers it. What innocent people do all the time must not set one off.

use std::collections::{HashMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::{Act, Op, Outcome};

/// For how long things are counted together, in seconds.
const WINDOW: i64 = 600;
/// Handshakes of strangers within that time from one address: a misconfigured peer tries a few times a minute.
const STRANGERS: usize = 30;
/// Wrong passphrases within that time: who has forgotten theirs tries fewer.
const PASSPHRASES: usize = 10;
/// Refused tickets within that time from one address.
const TICKETS: usize = 5;
/// Different paths at which one program is refused within that time.
const REFUSALS: usize = 500;
/// What is counted at once, at most; the oldest goes.
const COUNTED: usize = 2048;
/// Parties that are counted at once; who did nothing for the longest time goes.
const PARTIES: usize = 512;

/// What was noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A member's device sent what no honest program makes.
    Malformed,
    /// A member's device signed what its user knew they may not do.
    BeyondRights,
    /// A device's audit log is not what it had signed.
    LogCut,
    /// A device that was removed goes on trying.
    Removed,
    /// Somebody tries handshakes who is no member.
    Strangers,
    /// Somebody guesses tickets.
    Tickets,
    /// Somebody guesses the passphrase on this machine.
    Passphrases,
    /// A program on this machine tries what it may not, at one path after the other.
    Enumeration,
    /// A device signed two different commits under one number.
    Equivocation,
    /// A device lacks what it had.
    Rollback,
    /// A device encrypts, removes or renames very many files.
    MassChange,
    /// A clock was turned, here or on another device.
    Clock,
    /// What is stored on this machine is not what was written: its disk fails, or somebody changed it.
    Tampering,
    /// A device says to have what it does not give.
    Withholding,
}

/// How sure it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sure {
    /// There may be an innocent reason.
    Possible,
    /// Hardly anything else.
    Likely,
    /// Proven.
    Certain,
}

/// Something that was noticed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What.
    pub kind: Kind,
    /// How sure it is.
    pub sure: Sure,
    /// Whose doing: a device in hexadecimal, an address or a program.
    pub who: String,
    /// The user, if it is one.
    pub user: Option<String>,
    /// What happened, in words.
    pub text: String,
    /// The command that answers it.
    pub answer: String,
}

/// Things that one party did within the window: when, and with what.
#[derive(Default)]
struct Recent {
    all: VecDeque<(i64, u64)>,
    times: HashMap<u64, usize>,
}

impl Recent {
    /// Adds one. Returns with how many different things there are within the window, if this is one that was not.
    fn add(&mut self, time: i64, what: &str) -> Option<usize> {
        let what = xxhash_rust::xxh3::xxh3_64(what.as_bytes());
        self.all.push_back((time, what));
        let times = self.times.entry(what).or_default();
        *times += 1;
        let is_new = *times == 1;
        while self.all.len() > COUNTED || self.all.front().is_some_and(|(at, _)| time - at > WINDOW) {
            let Some((_, old)) = self.all.pop_front() else { break };
            if let Some(times) = self.times.get_mut(&old) {
                *times -= 1;
                if *times == 0 {
                    self.times.remove(&old);
                }
            }
        }
        is_new.then_some(self.times.len())
    }

    fn last(&self) -> i64 {
        self.all.back().map_or(0, |(at, _)| *at)
    }
}

/// Looks at every entry once, in order.
#[derive(Default)]
pub struct Detectors {
    recent: HashMap<(Kind, String), Recent>,
}

impl Detectors {
    /// What an entry gives away, with those before it. `n` is its number.
    pub fn see(&mut self, n: u64, act: &Act) -> Option<Finding> {
        let Outcome::Denied(why) = &act.outcome else { return None };
        let (time, note) = (act.time.secs, act.note.as_deref().unwrap_or_default());
        let device = || act.device.as_deref().unwrap_or_default().to_owned();
        let short = || act.device.as_deref().and_then(|id| id.get(..8)).unwrap_or("?").to_owned();
        let whose = || act.user.as_ref().map_or_else(|| "nobody known".to_owned(), |user| format!("{user}'s"));
        let found = |kind, sure, who: String, text: String, answer: String| {
            Some(Finding { kind, sure, who, user: act.user.clone(), text, answer })
        };
        let revoke = || format!("p2pfs revoke {}", short());
        match act.op {
            Op::Refused if why.contains("audit log was cut") => {
                let text = format!("{} device {}: {why}", whose(), short());
                found(Kind::LogCut, Sure::Likely, device(), text, format!("p2pfs log --device {}", short()))
            }
            Op::Refused if why.contains("does not give") => {
                let text = format!("{} device {}: {why}", whose(), short());
                found(Kind::Withholding, Sure::Possible, device(), text, "p2pfs verify".to_owned())
            }
            Op::Refused => {
                let text = format!("{} device {} sent what no honest program makes: {why}", whose(), short());
                found(Kind::Malformed, Sure::Likely, device(), text, revoke())
            }
            // (That both were signed is proven; not why.)
            Op::Equivocated => {
                let text = format!(
                    "{} device {} {why}, which is proven: it shows different members different things, or its machine was put back \
                     from a backup or a copy and went on before it noticed; ask its user. {note}",
                    whose(),
                    short(),
                );
                found(Kind::Equivocation, Sure::Certain, device(), text, revoke())
            }
            Op::SetBack => {
                let text = format!("{} device {} {why}: {note}", whose(), short());
                found(Kind::Rollback, Sure::Possible, device(), text, "p2pfs peers".to_owned())
            }
            _ if act.process.is_none() && why.starts_with("beyond their rights") => {
                let text = format!("{} device {} signed what its user may not do, and knew it", whose(), short());
                found(Kind::BeyondRights, Sure::Certain, device(), text, revoke())
            }
            Op::Clock => {
                let text = format!("{} device {}: {why}", whose(), short());
                found(Kind::Clock, Sure::Possible, device(), text, "p2pfs log --op clock".to_owned())
            }
            Op::Verify if act.process.is_none() => {
                let answer = if why.contains("audit log") { "p2pfs log verify" } else { "p2pfs verify" };
                found(Kind::Tampering, Sure::Possible, device(), format!("on this machine: {why}"), answer.to_owned())
            }
            // (What strangers say of themselves is no reason: they aren't known.)
            Op::Handshake if act.user.is_some() && why.contains("removed from the volume") => {
                let text = format!("device {}, which was removed, tries to connect {note}", short());
                found(Kind::Removed, Sure::Possible, device(), text, "p2pfs log --op handshake".to_owned())
            }
            Op::Handshake | Op::Invitation if act.process.is_none() && act.user.is_none() => {
                let address = note.rsplit_once("from ").map_or("?", |(_, address)| address);
                let host = address.rsplit_once(':').map_or(address, |(host, _)| host).to_owned();
                let (kind, most) = match act.op {
                    Op::Invitation => (Kind::Tickets, TICKETS),
                    _ => (Kind::Strangers, STRANGERS),
                };
                let count = self.count(kind, &host, time, &n.to_string()).filter(|count| count.is_multiple_of(most))?;
                let (text, answer) = match kind {
                    Kind::Tickets => (format!("{count} tickets were refused to {host}"), "p2pfs invitations list"),
                    _ => {
                        (format!("{count} handshakes failed of {host}, which is no member"), "p2pfs log --op handshake")
                    }
                };
                found(kind, Sure::Likely, host, text, answer.to_owned())
            }
            Op::Unlock => {
                let who =
                    act.process.as_ref().map_or_else(|| "?".to_owned(), |process| format!("account {}", process.uid));
                let count = self.count(Kind::Passphrases, &who, time, &n.to_string());
                let count = count.filter(|count| count.is_multiple_of(PASSPHRASES))?;
                let text = format!("{count} wrong passphrases were tried on this machine by {who}");
                found(Kind::Passphrases, Sure::Possible, who, text, "p2pfs log --op unlock".to_owned())
            }
            // (Not who only looks: listing a folder asks for the attributes of all that is in it.)
            Op::Read | Op::Write | Op::List if act.process.is_some() => {
                let program = act.process.as_ref().and_then(|process| process.program.as_deref());
                let program = program.unwrap_or("a program").to_owned();
                let path = act.path.as_deref().map(String::from_utf8_lossy).unwrap_or_default();
                let count = self.count(Kind::Enumeration, &program, time, &path);
                let count = count.filter(|count| count.is_multiple_of(REFUSALS))?;
                let text = format!("{program} was refused at {count} different paths on this machine");
                found(Kind::Enumeration, Sure::Possible, program, text, "p2pfs log --denied --since 1h-ago".to_owned())
            }
            _ => None,
        }
    }

    fn count(&mut self, kind: Kind, who: &str, time: i64, what: &str) -> Option<usize> {
        // Whoever invents names for themselves doesn't get more room with each.
        if self.recent.len() >= PARTIES {
            let longest_ago =
                self.recent.iter().min_by_key(|(_, recent)| recent.last()).map(|(party, _)| party.clone());
            longest_ago.and_then(|party| self.recent.remove(&party));
        }
        self.recent.entry((kind, who.to_owned())).or_default().add(time, what)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{super::Process, *};
    use crate::time::Timestamp;

    const DEVICE: &str = "4f2a91c04f2a91c0";

    fn act(n: u64, op: Op, change: impl FnOnce(&mut Act)) -> (u64, Act) {
        let time = Timestamp { secs: 1_795_338_900 + n as i64, nanos: 0 };
        let mut act = Act::new(time, op);
        (act.device, act.user) = (Some(DEVICE.into()), Some("bob".to_owned()));
        change(&mut act);
        (n, act)
    }

    fn see(detectors: &mut Detectors, (n, act): (u64, Act)) -> Option<Finding> {
        detectors.see(n, &act)
    }

    fn denied(why: &str) -> Outcome {
        Outcome::Denied(why.to_owned())
    }

    fn process(act: &mut Act, program: &str) {
        act.process = Some(Process { uid: 1000, pid: 7, program: Some(Arc::from(program)) });
    }

    #[test]
    fn what_is_proven_is_found_at_once() {
        let mut detectors = Detectors::default();
        let mut kind =
            |op, why| see(&mut detectors, act(1, op, |act| act.outcome = denied(why))).map(|found| found.kind);
        assert_eq!(kind(Op::Refused, "a bad signature"), Some(Kind::Malformed));
        assert_eq!(kind(Op::Refused, "its audit log was cut or rewritten"), Some(Kind::LogCut));
        assert_eq!(kind(Op::Create, "beyond their rights, which they knew"), Some(Kind::BeyondRights));
        assert_eq!(kind(Op::Handshake, "that device was removed from the volume"), Some(Kind::Removed));
        assert_eq!(kind(Op::Create, "made apart from their removal"), None, "nobody's fault");
        let found = see(&mut detectors, act(1, Op::Refused, |act| act.outcome = denied("x"))).unwrap();
        assert_eq!((found.answer.as_str(), found.sure), ("p2pfs revoke 4f2a91c0", Sure::Likely));
        assert!(see(&mut detectors, act(1, Op::Refused, |_| ())).is_none(), "it was allowed");
    }

    #[test]
    fn strangers_are_told_of_when_they_are_many() {
        let from = |n, op, address: &str| {
            act(n, op, |act| {
                (act.device, act.user, act.outcome) = (None, None, denied("no answer in time"));
                act.note = Some(format!("from {address}:{}", 1000 + n));
            })
        };
        let mut detectors = Detectors::default();
        assert!((1..STRANGERS as u64).all(|n| see(&mut detectors, from(n, Op::Handshake, "10.0.0.1")).is_none()));
        assert!(see(&mut detectors, from(500, Op::Handshake, "10.0.0.2")).is_none(), "another");
        let found = see(&mut detectors, from(501, Op::Handshake, "10.0.0.1")).unwrap();
        assert_eq!((found.kind, found.who.as_str()), (Kind::Strangers, "10.0.0.1"));
        // One a minute is nobody's attack.
        let mut detectors = Detectors::default();
        assert!((1..500).all(|n| see(&mut detectors, from(n * 60, Op::Handshake, "10.0.0.1")).is_none()));
        let mut detectors = Detectors::default();
        let mut tickets = Vec::new();
        for n in 1..=TICKETS as u64 {
            tickets.push(see(&mut detectors, from(n, Op::Invitation, "10.0.0.1")).map(|found| found.kind));
        }
        assert_eq!(tickets, [None, None, None, None, Some(Kind::Tickets)]);
    }

    #[test]
    fn who_guesses_passphrases_is_told_of_and_who_mistypes_is_not() {
        let wrong = |n: u64| {
            act(n, Op::Unlock, |act| {
                act.outcome = denied("wrong passphrase");
                act.process = Some(Process { uid: 1000, pid: n as u32, program: None });
            })
        };
        let mut detectors = Detectors::default();
        assert!((1..PASSPHRASES as u64).all(|n| see(&mut detectors, wrong(n)).is_none()));
        let found = see(&mut detectors, wrong(PASSPHRASES as u64)).unwrap();
        assert_eq!((found.kind, found.who.as_str()), (Kind::Passphrases, "account 1000"));
        let mut detectors = Detectors::default();
        assert!((1..100).all(|n| see(&mut detectors, wrong(n * 120)).is_none()));
    }

    #[test]
    fn a_program_that_tries_everything_is_told_of_and_one_that_tries_one_thing_often_is_not() {
        let refused = |n: u64, path: u64| {
            act(n, Op::Read, |act| {
                act.outcome = denied("its permissions");
                act.path = Some(format!("secret/{path}").into_bytes());
                process(act, "find");
            })
        };
        let mut detectors = Detectors::default();
        assert!((0..1000).all(|n| see(&mut detectors, refused(n / 10, n % 50)).is_none()));
        let mut detectors = Detectors::default();
        let mut all: Vec<_> = (0..REFUSALS as u64).map(|n| see(&mut detectors, refused(n, n))).collect();
        assert_eq!(all.iter().flatten().count(), 1);
        let found = all.pop().flatten().unwrap();
        assert_eq!((found.kind, found.sure, found.who.as_str()), (Kind::Enumeration, Sure::Possible, "find"));
        assert!(found.text.contains("500 different paths"), "{}", found.text);
    }
}
