//! `p2pfs msg`: what can be typed.

use clap::{Args, Subcommand};

use super::Which;

#[derive(Debug, Args)]
pub(crate) struct Msg {
    #[command(subcommand)]
    pub(crate) deed: MsgDeed,
}

#[derive(Debug, Subcommand)]
pub(crate) enum MsgDeed {
    /// Send a message; who isn't there gets it when they are back
    Send(SendMsg),
    /// Show messages, the oldest first; on a terminal they count as read from then on
    List(ListMsg),
    /// Note that messages were read
    Read(ReadMsg),
}

#[derive(Debug, Args)]
pub(crate) struct Chat {
    /// With whom to begin: a member's name; without one, all members
    pub(crate) with: Option<String>,
    #[command(flatten)]
    pub(crate) which: Which,
}

#[derive(Debug, Args)]
pub(crate) struct SendMsg {
    /// To whom: a member's name, or @all for all members
    pub(crate) to: String,
    /// What to say (- alone is standard input); up to 16 KiB
    #[arg(required = true)]
    pub(crate) text: Vec<String>,
    #[command(flatten)]
    pub(crate) which: Which,
}

#[derive(Debug, Args)]
pub(crate) struct ListMsg {
    /// Only those from and to this member; @all is those to all members
    #[arg(long, value_name = "NAME")]
    pub(crate) with: Option<String>,
    /// Only those with this in their text, in capitals or not
    #[arg(long, value_name = "TEXT")]
    pub(crate) search: Option<String>,
    /// Only those that came since then: 2026-11-22, 09:15, yesterday, 2h-ago; local time, unless it ends in Z
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
    /// Only those that nobody has read here
    #[arg(long)]
    pub(crate) unread: bool,
    /// Show only the newest so many
    #[arg(long, short = 'n', value_name = "COUNT")]
    pub(crate) lines: Option<usize>,
    /// Go on with what comes, until interrupted; the volume must be mounted
    #[arg(long, short)]
    pub(crate) follow: bool,
    #[command(flatten)]
    pub(crate) which: Which,
    /// Print JSON, one object a line
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ReadMsg {
    /// Their numbers; all of them without one
    pub(crate) numbers: Vec<u64>,
    #[command(flatten)]
    pub(crate) which: Which,
}
