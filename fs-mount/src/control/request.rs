//! What the command line asks of the daemon: one line of JSON.

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

/// The bytes of a path or a name, which need not be text.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Bytes(pub(crate) Vec<u8>);

impl TryFrom<String> for Bytes {
    type Error = data_encoding::DecodeError;

    fn try_from(hex: String) -> Result<Self, Self::Error> {
        HEXLOWER.decode(hex.as_bytes()).map(Self)
    }
}

impl From<Bytes> for String {
    fn from(bytes: Bytes) -> Self {
        HEXLOWER.encode(&bytes.0)
    }
}

/// What to keep.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Choice {
    Mine,
    Theirs,
    Both,
    Named(Bytes),
}

/// A path from the top of the volume on; as bytes, since it need not be text.
pub(crate) type Names = Vec<Vec<u8>>;

/// Which state is meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum When {
    /// Before the last change of a file, or the removal of anything.
    LastChange,
    Moment(Moment),
    /// What was typed is no time: a snapshot has this name.
    Snapshot(String),
    /// A version of the path, by its name.
    Version(String),
}

/// What to restore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ToRestore {
    pub(crate) path: Names,
    /// As it was after the commit with this number.
    pub(crate) at: u64,
    pub(crate) to: Names,
    pub(crate) exact: bool,
    pub(crate) dry_run: bool,
}

/// What to take back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ToUndo {
    /// The first digits of a device's id,
    pub(crate) device: Option<String>,
    /// or a user's name or the first digits of their id.
    pub(crate) user: Option<String>,
    pub(crate) since: When,
    pub(crate) path: Option<Names>,
    pub(crate) dry_run: bool,
}

/// A moment, as [`volume::time::Timestamp`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Moment {
    pub(crate) secs: i64,
    pub(crate) nanos: u32,
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Request {
    /// Who are you?
    Hello,
    Status,
    Peers,
    Users,
    Devices,
    Invite {
        /// Without one: a further device of this user.
        role: Option<String>,
        seconds: u64,
    },
    Invitations,
    /// Withdraws an invitation, by the first digits of its id.
    Withdraw {
        id: String,
    },
    /// Makes the invitation that an exported key holds, and tells it with the rest of it but for the signing key.
    ExportKey,
    /// Answered when peers are in step, or with a failure when the time is up.
    Wait {
        seconds: u64,
    },
    /// What is in conflict at a path or below; all if it is empty.
    Conflicts {
        within: Bytes,
    },
    /// Answered when the mount shows it.
    Resolve {
        path: Bytes,
        keep: Choice,
    },
    /// Answered when everything is checked and, to repair it, fetched as far as it can be.
    Verify {
        repair: bool,
    },
    /// The audit log from an entry on, some of it.
    Log {
        from: u64,
    },
    Alerts,
    /// The proofs that are kept.
    Proofs,
    Proof {
        number: u64,
    },
    /// Somebody has looked at an alert, or at all.
    Acknowledge {
        number: Option<u64>,
    },
    /// Whether the audit log is as it was written.
    VerifyLog,
    /// Answered when what is no longer kept is gone.
    Reclaim,
    /// Answered when all that can be is sealed under new keys.
    Reseal,
    /// Settings and snapshots.
    Agreed(AboutAgreed),
    /// Who may use what.
    Access(AboutAccess),
    /// Roles, removals, and what is kept aside.
    Members(AboutMembers),
    /// Messages between members.
    Letters(AboutLetters),
    /// Direct sends.
    Sends(AboutSends),
    /// Which state of a path is to be restored.
    AsOf {
        path: Names,
        when: When,
    },
    Restore(ToRestore),
    Undo(ToUndo),
    /// What happened at a path, which is given in hexadecimal digits: the newest `limit` events.
    History {
        path: String,
        limit: usize,
    },
    /// The version of a path on which two others are based.
    Base {
        path: String,
        one: String,
        other: String,
    },
    /// The page that shows the volume in a browser.
    Page(AboutPage),
    /// Answered when the mount is gone and the volume is closed.
    Unmount,
}

/// What is asked about the page, and what its process tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum AboutPage {
    /// Serve it, at this port if it is not served yet, and let one browser in.
    Open { port: Option<u16> },
    /// A browser was let in.
    Entered { browser: String },
    /// What was asked of it was refused.
    Refused { what: String },
}

/// What is asked about who may use what is at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum AboutAccess {
    Show { path: Names },
    Allow { path: Names, user: String, read: bool, write: bool },
    Give { path: Names, user: String },
}

/// What is asked of settings and snapshots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum AboutAgreed {
    Settings,
    /// Without a value: to the default.
    Set {
        name: String,
        value: Option<String>,
        /// For this device only.
        device: bool,
    },
    Snapshots,
    CreateSnapshot {
        name: String,
    },
    RemoveSnapshot {
        name: String,
    },
}

/// What is asked of messages between members.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum AboutLetters {
    Send {
        to: String,
        text: Bytes,
    },
    /// From a place on, some of them.
    List {
        from: u64,
    },
    /// The same, answered when there is one or after a while.
    Await {
        from: u64,
    },
    /// Somebody has read these, or all.
    Read {
        numbers: Option<Vec<u64>>,
    },
}

/// What is asked of direct sends. Paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum AboutSends {
    Offer {
        paths: Vec<Bytes>,
        user: String,
    },
    /// The same, answered when it is over; it ends when the client goes away.
    Send {
        paths: Vec<Bytes>,
        user: String,
    },
    List,
    /// Without a folder: into the inbox.
    Accept {
        id: u64,
        to: Option<Bytes>,
    },
    Decline {
        id: u64,
    },
    Cancel {
        id: u64,
    },
    /// Answered when it is over.
    Follow {
        id: u64,
    },
    /// Takes what a user sends without asking.
    Always {
        user: String,
        to: Option<Bytes>,
    },
    AskAgain {
        user: String,
    },
    /// Whose sends are taken without asking.
    Unasked,
}

/// What is asked of members.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum AboutMembers {
    Grant {
        user: String,
        role: String,
    },
    TransferOwnership {
        user: String,
    },
    /// A user, or a device.
    Revoke {
        who: String,
    },
    /// What is kept aside; of one commit or device, by the first digits of its id.
    Quarantine {
        id: Option<String>,
    },
    Accept {
        id: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(request: Request, line: &str) {
        assert_eq!(serde_json::to_string(&request).unwrap(), line);
        assert_eq!(serde_json::from_str::<Request>(line).unwrap(), request);
    }

    #[test]
    fn requests_are_lines_of_json() {
        check(Request::Status, "\"status\"");
        check(Request::Wait { seconds: 60 }, r#"{"wait":{"seconds":60}}"#);
        let set = AboutAgreed::Set { name: "a".into(), value: None, device: true };
        check(Request::Agreed(set), r#"{"agreed":{"set":{"name":"a","value":null,"device":true}}}"#);
        check(
            Request::Invite { role: Some("writer".into()), seconds: 1 },
            r#"{"invite":{"role":"writer","seconds":1}}"#,
        );
    }

    #[test]
    fn what_is_no_request_is_refused() {
        for line in
            ["", "{}", "\"grant\"", r#"{"wait":{}}"#, r#"{"wait":{"seconds":-1}}"#, r#"{"wait":{"seconds":1,"x":1}}"#]
        {
            assert!(serde_json::from_str::<Request>(line).is_err(), "{line}");
        }
    }
}
