//! `p2pfs fingerprint` and `p2pfs invitations`: what can be typed.

use clap::{Args, Subcommand};

use super::Which;

#[derive(Debug, Args)]
pub(crate) struct Fingerprint {
    /// Whose, by name or the first digits of the id [default: yours]
    pub(crate) user: Option<String>,
    #[command(flatten)]
    pub(crate) which: Which,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Invitations {
    #[command(subcommand)]
    pub(crate) deed: Option<InvitationsDeed>,
    #[command(flatten)]
    pub(crate) which: Which,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum InvitationsDeed {
    /// Withdraw one: its ticket lets nobody in any more
    Revoke {
        /// The first digits of its id
        id: String,
        #[command(flatten)]
        which: Which,
    },
}
