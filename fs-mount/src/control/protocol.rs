//! What is said over the control socket.

use serde::{Deserialize, Serialize};
use volume::{Alert, Letter, Resealed};

pub(crate) use super::request::Request;
use super::{
    access::Told,
    agreed::Agreed,
    conflicts::Conflicts,
    invitations::{ExportedKey, Open},
    log::{Checked, Page, Proof},
    members::Members,
    request::Bytes,
};
use crate::{
    bringing_back::{AsOf, Restored, Undone},
    daemon::{
        sends::{Transfer, Unasked},
        upkeep,
    },
    history_report::Event,
    report::{Device, Peer, Scrubbed, Status, User, Verified},
};

/// No request is longer, in bytes: as many paths as fit on a command line.
pub(crate) const REQUEST_LIMIT: u64 = 4 << 20;
/// No line of an answer is longer: ten thousand members fit.
pub(crate) const ANSWER_LIMIT: u64 = 16 << 20;

/// One line from the daemon.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Line {
    /// More lines follow.
    Progress(Progress),
    /// More lines follow.
    Verifying(Scrubbed),
    /// More lines follow.
    Resealing(Resealed),
    /// More lines follow.
    Sending(Box<Transfer>),
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
    /// The disk here is full: what is to come waits for room.
    pub(crate) disk_full: bool,
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
    Invitations(Vec<Open>),
    ExportedKey(Box<ExportedKey>),
    Verified(Box<Verified>),
    Reclaimed(upkeep::Done),
    Resealed(Resealed),
    Conflicts(Conflicts),
    Agreed(Agreed),
    Access(Told),
    Log(Page),
    LogChecked(Checked),
    Alerts(Vec<Alert>),
    Acknowledged(u64),
    Letters(Vec<Letter>),
    /// To how many devices a message goes.
    Sent(u64),
    Transfers(Vec<Transfer>),
    Transfer(Box<Transfer>),
    Unasked(Vec<Unasked>),
    Folder(Bytes),
    Proofs(Vec<Proof>),
    /// As it is in a file.
    Proof(Bytes),
    Members(Members),
    AsOf(AsOf),
    Restored(Box<Restored>),
    Undone(Box<Undone>),
    History(Vec<Event>),
    Base(Option<String>),
    /// Where a browser gets in, once and soon.
    Page(String),
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
    /// As bytes: a path need not be text. Empty for a keeper.
    pub(crate) mountpoint: Vec<u8>,
    pub(crate) pid: u32,
    /// Its mount is gone, or it was asked to end: it only brings things to their end.
    #[serde(default)]
    pub(crate) ending: bool,
}
