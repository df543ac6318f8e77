//! `p2pfs grant`, `transfer-ownership`, `revoke` and `quarantine`: what can be typed.

use clap::{Args, Subcommand};

use super::{Listing, Which};

#[derive(Debug, Args)]
pub(crate) struct Grant {
    /// Whose: a name as `p2pfs users` lists it, or the first digits of an id
    pub(crate) user: String,
    /// What they are to be
    #[arg(value_parser = ["admin", "writer", "reader"])]
    pub(crate) role: String,
    #[command(flatten)]
    pub(crate) which: Which,
}

#[derive(Debug, Args)]
pub(crate) struct TransferOwnership {
    /// To whom: a name as `p2pfs users` lists it, or the first digits of an id
    pub(crate) user: String,
    #[command(flatten)]
    pub(crate) which: Which,
}

#[derive(Debug, Args)]
pub(crate) struct Revoke {
    /// A user's name, or the first digits of a user's or a device's id
    pub(crate) who: String,
    /// Also seal everything there is under new keys, now (`p2pfs reseal` does it later)
    #[arg(long)]
    pub(crate) reseal: bool,
    #[command(flatten)]
    pub(crate) which: Which,
}

#[derive(Debug, Args)]
pub(crate) struct Quarantine {
    #[command(subcommand)]
    pub(crate) deed: QuarantineDeed,
}

#[derive(Debug, Subcommand)]
pub(crate) enum QuarantineDeed {
    /// List what is kept aside: what was done apart from the removal of who did it
    List(Listing),
    /// Show everything that one of them did
    Show(Kept),
    /// Do it anew, as yours
    Accept(Kept),
}

#[derive(Debug, Args)]
pub(crate) struct Kept {
    /// The first digits of its id, or of the device's that made it
    pub(crate) id: String,
    #[command(flatten)]
    pub(crate) which: Which,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}
