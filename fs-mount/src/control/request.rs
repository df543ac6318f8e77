//! What the command line asks of the daemon: one line of JSON.

use serde::{Deserialize, Serialize};

use super::conflicts::{Bytes, Choice};
use crate::bringing_back::{Names, ToRestore, ToUndo, When};

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
        role: String,
        seconds: u64,
    },
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
    /// Answered when what is no longer kept is gone.
    Reclaim,
    /// Settings and snapshots.
    Agreed(AboutAgreed),
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
    /// Answered when the mount is gone and the volume is closed.
    Unmount,
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
        check(Request::Invite { role: "writer".into(), seconds: 1 }, r#"{"invite":{"role":"writer","seconds":1}}"#);
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
