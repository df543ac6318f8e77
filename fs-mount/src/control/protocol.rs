//! What is said over the control socket.

use serde::{Deserialize, Serialize};

use crate::report::{Device, Peer, Scrubbed, Status, User, Verified};

/// No request is longer, in bytes.
pub(crate) const REQUEST_LIMIT: u64 = 16 << 10;
/// No line of an answer is longer: ten thousand members fit.
pub(crate) const ANSWER_LIMIT: u64 = 16 << 20;

/// What the command line asks of the daemon.
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
    /// Answered when everything is checked and, to repair it, fetched as far as it can be.
    Verify {
        repair: bool,
    },
    /// Answered when the mount is gone and the volume is closed.
    Unmount,
}

/// One line from the daemon.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Line {
    /// More lines follow.
    Progress(Progress),
    /// More lines follow.
    Verifying(Scrubbed),
    /// The last line.
    Failed(String),
    /// The last line.
    Reply(Reply),
}

/// How far a wait is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// Connected peers.
    pub(crate) peers: usize,
    /// Of those, the ones in step.
    pub(crate) in_step: usize,
    /// Commits that are still to come or to go.
    pub(crate) commits: u64,
    /// Blocks of content that are still to come.
    pub(crate) blocks: u64,
}

/// What the daemon answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reply {
    Hello(Hello),
    Status(Box<Status>),
    Peers(Vec<Peer>),
    Users(Vec<User>),
    Devices(Vec<Device>),
    Ticket(String),
    Verified(Box<Verified>),
    Done,
}

/// Who the daemon is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Hello {
    /// The volume's label on this machine.
    pub(crate) volume: String,
    /// The user's name in it.
    pub(crate) user: String,
    pub(crate) id: String,
    /// As bytes: a path need not be text.
    pub(crate) mountpoint: Vec<u8>,
    pub(crate) pid: u32,
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
