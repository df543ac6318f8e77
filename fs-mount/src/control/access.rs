//! Who may use what, over the control socket: what is asked, and the answers.

use serde::{Deserialize, Serialize};
use volume::{AccessReport, Error, Volume};

pub(crate) use super::request::AboutAccess;
use crate::failure::{Failure, Outcome};

/// What is answered.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Told {
    Access(Access),
    Done,
}

/// `p2pfs access`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Access {
    pub(crate) folder: bool,
    pub(crate) owner: String,
    /// All members hold the key.
    pub(crate) members_read: bool,
    /// Whether this user decides about it.
    pub(crate) mine_to_change: bool,
    pub(crate) users: Vec<User>,
}

/// What one member may, and why.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct User {
    pub(crate) user: String,
    pub(crate) reads: bool,
    pub(crate) writes: bool,
    pub(crate) why: String,
}

/// Does what is asked.
pub(crate) fn answer(volume: &Volume, asked: &AboutAccess) -> Outcome<Told> {
    let done = match asked {
        AboutAccess::Show { path } => volume.access(path).map(|report| Told::Access(access(report))),
        AboutAccess::Allow { path, user, read, write } => volume.allow(path, user, *read, *write).map(|()| Told::Done),
        AboutAccess::Give { path, user } => volume.give(path, user).map(|()| Told::Done),
    };
    done.map_err(|error| match error {
        Error::NotPermitted => {
            Failure::new("only its owner and admins decide who may use it: `p2pfs access` tells who")
        }
        Error::Denied => Failure::new("you may not read that: ask its owner"),
        Error::ReadOnly => Failure::new("readers change nothing in this volume: ask the owner or an admin"),
        other => Failure::from(other),
    })
}

fn access(report: AccessReport) -> Access {
    let members = if report.members_read { "as a member" } else { "not named" };
    let users = report.users.into_iter().map(|user| {
        let why = match (user.owns, user.held_back, user.named) {
            (true, ..) => "the owner".to_owned(),
            (_, Some(role), _) => format!("would write, but is a {role} in this volume"),
            (.., true) => "named in its permissions, or those of a folder above".to_owned(),
            _ => members.to_owned(),
        };
        User { user: user.user, reads: user.reads, writes: user.writes, why }
    });
    Access {
        folder: report.kind == volume::NodeKind::Directory,
        owner: report.owner,
        members_read: report.members_read,
        mine_to_change: report.mine_to_change,
        users: users.collect(),
    }
}
