//! What an entry of the log says.

use std::{borrow::Cow, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// Bytes of a path that an entry has at most: as many as a system call takes.
const PATH_LIMIT: usize = 4096;
/// Bytes of what is said in words.
const WORDS_LIMIT: usize = 1024;

/// What was done, or tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// Made a file, a folder or something else with a name.
    Create,
    /// Opened a file to read it, or read where a link leads.
    Read,
    /// Published what was written to a file, or tried to open it for that.
    Write,
    /// Gave something another name beside the one that it has.
    Link,
    /// Moved something.
    Rename,
    /// Took a name away.
    Remove,
    /// Opened a folder to list it.
    List,
    /// Looked at attributes. Only recorded when denied.
    Stat,
    /// Set times or attributes.
    Attributes,
    /// Set mode, ACL or owner.
    Permissions,
    /// Brought something back from what was.
    Restore,
    /// Took back what somebody did.
    Undo,
    /// Changed who belongs to the volume, and as what.
    Membership,
    /// Made, withdrew or redeemed an invitation.
    Invitation,
    /// Changed settings of the volume.
    Settings,
    /// Made or removed a snapshot.
    Snapshot,
    /// Settled a conflict.
    Settle,
    /// A connection to a device began or ended.
    Connection,
    /// Somebody tried to connect who isn't let in.
    Handshake,
    /// The volume was mounted or unmounted.
    Mount,
    /// The keys of this device were opened, or somebody tried.
    Unlock,
    /// Somebody signed in to the page that shows the volume in a browser, or what was asked of it was refused.
    Page,
    /// A registry is reached or lost, or tells where a device is.
    Discovery,
    /// Checked or mended the store.
    Verify,
    /// Sent a message to members, or one came. Its text is not in the log.
    Message,
    /// Offered files to a member, or took or declined what one offered.
    Send,
    /// A change that others know was taken back.
    TakenBack,
    /// What a peer sent is no valid commit, or no content that was asked for.
    Refused,
    /// A clock is wrong: this machine's, or that of a device whose commits came.
    Clock,
    /// An alert was raised or acknowledged.
    Alert,
    /// Entries are missing here: more came than could be written.
    Dropped,
    /// A device signed two different commits under one number.
    Equivocated,
    /// A device lacks what it had, or goes on from an older copy of its store.
    SetBack,
}

impl Op {
    /// All of them, by the word that stands for each.
    pub const ALL: [(&str, Op); 33] = [
        ("create", Op::Create),
        ("read", Op::Read),
        ("write", Op::Write),
        ("link", Op::Link),
        ("rename", Op::Rename),
        ("remove", Op::Remove),
        ("list", Op::List),
        ("stat", Op::Stat),
        ("attributes", Op::Attributes),
        ("permissions", Op::Permissions),
        ("restore", Op::Restore),
        ("undo", Op::Undo),
        ("membership", Op::Membership),
        ("invitation", Op::Invitation),
        ("settings", Op::Settings),
        ("snapshot", Op::Snapshot),
        ("settle", Op::Settle),
        ("connection", Op::Connection),
        ("handshake", Op::Handshake),
        ("mount", Op::Mount),
        ("unlock", Op::Unlock),
        ("page", Op::Page),
        ("discovery", Op::Discovery),
        ("verify", Op::Verify),
        ("message", Op::Message),
        ("send", Op::Send),
        ("taken_back", Op::TakenBack),
        ("refused", Op::Refused),
        ("clock", Op::Clock),
        ("alert", Op::Alert),
        ("dropped", Op::Dropped),
        ("equivocated", Op::Equivocated),
        ("set_back", Op::SetBack),
    ];

    /// The word that stands for it.
    pub fn word(self) -> &'static str {
        Self::ALL.iter().find(|(_, op)| *op == self).map_or("", |(word, _)| word)
    }
}

/// How it ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Outcome {
    /// It was done.
    #[default]
    Allowed,
    /// It was not, and why.
    Denied(String),
}

/// A process of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its account.
    pub uid: u32,
    /// Its number.
    pub pid: u32,
    /// Its program's name, as the kernel has it.
    pub program: Option<Arc<str>>,
}

/// Something that happened, before it has a number.
#[derive(Clone, Debug)]
pub struct Act {
    /// When, by this device's clock.
    pub time: Timestamp,
    /// What.
    pub op: Op,
    /// How it ended.
    pub outcome: Outcome,
    /// With what, from the volume's root on.
    pub path: Option<Vec<u8>>,
    /// Where it went.
    pub to: Option<Vec<u8>>,
    /// The user's name in the volume.
    pub user: Option<String>,
    /// The device, in hexadecimal; of a process of this machine, this one.
    pub device: Option<Arc<str>>,
    /// The process, of what was done on this machine.
    pub process: Option<Process>,
    /// Bytes of the file after a write, of a message's text, or of what is sent.
    pub bytes: Option<u64>,
    /// What else there is to say, in words.
    pub note: Option<String>,
}

impl Act {
    /// Something at `time`, to be filled in.
    pub fn new(time: Timestamp, op: Op) -> Self {
        Self {
            time,
            op,
            outcome: Outcome::Allowed,
            path: None,
            to: None,
            user: None,
            device: None,
            process: None,
            bytes: None,
            note: None,
        }
    }

    pub(super) fn dropped(count: u64) -> Self {
        Self {
            note: Some(format!("{count} entries are missing: more came than could be written")),
            ..Self::new(Timestamp::default(), Op::Dropped)
        }
    }
}

/// An entry, as it is in the log: one object of JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Its number: 1, 2, 3...
    pub n: u64,
    /// When, RFC 3339 in UTC, by this device's clock.
    pub time: String,
    /// What.
    pub op: Op,
    /// Whether it was done.
    pub allowed: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// With what, from the volume's root on; bytes that are no UTF-8 are replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Where it went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// The user's name in the volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The device, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// The account on this machine; nothing for what came from a peer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// The process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Its program's name, as the kernel has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
    /// Bytes of the file after a write, of a message's text, or of what is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// What else there is to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Random: the chain's hash, which others see, tells nobody whether a guess at an entry is right.
    pub salt: String,
}

/// An act as it is written: what [`Entry`] is read from.
#[derive(Serialize)]
pub(super) struct Line<'a> {
    n: u64,
    time: String,
    op: Op,
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    program: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<Cow<'a, str>>,
    salt: &'a str,
}

impl<'a> Line<'a> {
    pub(super) fn of(act: &'a Act, time: Timestamp, n: u64, salt: &'a str) -> Self {
        let text = |bytes: &'a Vec<u8>| shortened(String::from_utf8_lossy(bytes), PATH_LIMIT);
        let words = |words: &'a String| shortened(words.into(), WORDS_LIMIT);
        let (allowed, why) = match &act.outcome {
            Outcome::Allowed => (true, None),
            Outcome::Denied(why) => (false, Some(words(why))),
        };
        let process = act.process.as_ref();
        Self {
            n,
            time: rfc3339(time),
            op: act.op,
            allowed,
            why,
            path: act.path.as_ref().map(text),
            to: act.to.as_ref().map(text),
            user: act.user.as_deref(),
            device: act.device.as_deref(),
            uid: process.map(|process| process.uid),
            pid: process.map(|process| process.pid),
            program: process.and_then(|process| process.program.as_deref()),
            bytes: act.bytes,
            note: act.note.as_ref().map(words),
            salt,
        }
    }
}

/// The beginning of a text that is longer than that.
fn shortened(text: Cow<'_, str>, limit: usize) -> Cow<'_, str> {
    if text.len() <= limit {
        return text;
    }
    let end = (0..=limit).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    format!("{}...", &text[..end]).into()
}

fn rfc3339(time: Timestamp) -> String {
    let nanos = i32::try_from(time.nanos).unwrap_or(0);
    jiff::Timestamp::new(time.secs, nanos).map_or_else(|_| format!("@{}", time.secs), |t| format!("{t:.6}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_op_has_a_word_and_that_is_what_json_says() {
        for (word, op) in Op::ALL {
            assert_eq!(op.word(), word);
            assert_eq!(serde_json::to_string(&op).unwrap(), format!("\"{word}\""));
        }
    }

    #[test]
    fn an_entry_says_what_the_act_says() {
        let act = Act {
            outcome: Outcome::Denied("the mode".to_owned()),
            path: Some(b"a/b\xFF".to_vec()),
            process: Some(Process { uid: 1000, pid: 7, program: Some("cat".into()) }),
            bytes: Some(5),
            ..Act::new(Timestamp { secs: 1, nanos: 2_000_000 }, Op::Write)
        };
        let text = serde_json::to_string(&Line::of(&act, act.time, 9, "00")).unwrap();
        let expected = "{\"n\":9,\"time\":\"1970-01-01T00:00:01.002000Z\",\"op\":\"write\",\"allowed\":false,\"why\":\"the mode\",\
            \"path\":\"a/b\u{FFFD}\",\"uid\":1000,\"pid\":7,\"program\":\"cat\",\"bytes\":5,\"salt\":\"00\"}";
        assert_eq!(text, expected);
        let entry: Entry = serde_json::from_str(&text).unwrap();
        assert_eq!((entry.n, entry.bytes, entry.salt.as_str()), (9, Some(5), "00"));
        assert_eq!(serde_json::to_string(&entry).unwrap(), text);
    }
}
