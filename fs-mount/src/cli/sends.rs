//! `p2pfs send` and `p2pfs inbox`: what can be typed.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Which;

#[derive(Debug, Args)]
pub(crate) struct Send {
    /// Files and folders
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// To whom: a member's name
    #[arg(required = true)]
    pub(crate) user: String,
    /// Return at once, and go on without this command, which ends it otherwise when it is interrupted
    #[arg(long)]
    pub(crate) background: bool,
    #[command(flatten)]
    pub(crate) which: Which,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Inbox {
    #[command(subcommand)]
    pub(crate) deed: Option<InboxDeed>,
    #[command(flatten)]
    pub(crate) which: Which,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum InboxDeed {
    /// Take what is offered, and show how far it is
    Accept(Accept),
    /// Refuse what is offered
    Decline(Numbered),
    /// End what is under way, from here or to here
    Cancel(Numbered),
    /// Show how far something is until it is over
    Follow(Numbered),
    /// Take whatever a member sends from now on, without asking; without a name, list of whom that is so
    Always(Always),
    /// Ask again before anything of a member's is taken
    Ask(Asked),
}

#[derive(Debug, Args)]
pub(crate) struct Accept {
    /// Its number, as `p2pfs inbox` lists it
    pub(crate) id: u64,
    /// Where it is to arrive [default: ~/Downloads, or ~/p2pfs-inbox if there is none; $P2PFS_HOME/inbox if that is set]
    #[arg(long, value_name = "FOLDER")]
    pub(crate) to: Option<PathBuf>,
    /// Return at once
    #[arg(long)]
    pub(crate) background: bool,
    #[command(flatten)]
    pub(crate) which: Which,
}

#[derive(Debug, Args)]
pub(crate) struct Numbered {
    /// Its number, as `p2pfs inbox` lists it
    pub(crate) id: u64,
    #[command(flatten)]
    pub(crate) which: Which,
}

#[derive(Debug, Args)]
pub(crate) struct Always {
    /// Whose: a member's name
    pub(crate) user: Option<String>,
    /// Where it is to arrive [default: as for accept]
    #[arg(long, value_name = "FOLDER", requires = "user")]
    pub(crate) to: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) which: Which,
}

#[derive(Debug, Args)]
pub(crate) struct Asked {
    /// Whose: a member's name
    pub(crate) user: String,
    #[command(flatten)]
    pub(crate) which: Which,
}
