//! `p2pfs config` and `p2pfs snapshot`: what can be typed.

use clap::{Args, Subcommand};

use super::Which;

#[derive(Debug, Args)]
pub(crate) struct Config {
    /// Which setting, as history.keep-all [default: all are shown]
    pub(crate) name: Option<String>,
    /// What it is to be from now on: a time, as 30d or forever; a budget, as 25% or 20GiB
    #[arg(requires = "name")]
    pub(crate) value: Option<String>,
    /// Put it back to its default
    #[arg(long, requires = "name", conflicts_with = "value")]
    pub(crate) default: bool,
    /// For this device only: what it keeps beyond what the volume says
    #[arg(long)]
    pub(crate) device: bool,
    #[command(flatten)]
    pub(crate) which: Which,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Snapshot {
    #[command(subcommand)]
    pub(crate) deed: SnapshotDeed,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotDeed {
    /// Keep the tree as it is now under a name, on every device
    Create(Named),
    /// List the snapshots, the oldest first
    List(super::Listing),
    /// Keep it no longer
    Remove(Named),
}

#[derive(Debug, Args)]
pub(crate) struct Named {
    /// The snapshot's name: it is that of a directory in .p2pfs/snapshots
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) which: Which,
}
