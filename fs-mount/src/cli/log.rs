//! `p2pfs log` and `alerts`: what can be typed.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{Listing, Which};

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Log {
    #[command(subcommand)]
    pub(crate) deed: Option<LogDeed>,
    #[command(flatten)]
    pub(crate) filter: Filter,
    /// Go on with what comes, until interrupted; the volume must be mounted
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Show only the newest so many
    #[arg(long, short = 'n', value_name = "COUNT")]
    pub(crate) lines: Option<usize>,
    #[command(flatten)]
    pub(crate) which: Which,
    /// Print JSON, one object a line
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Alerts {
    #[command(subcommand)]
    pub(crate) deed: Option<AlertsDeed>,
    /// Also those that somebody has looked at
    #[arg(long)]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) which: Which,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AlertsDeed {
    /// Note that you have looked
    Acknowledge(Acknowledge),
}

#[derive(Debug, Args)]
pub(crate) struct Acknowledge {
    /// Its number; all of them without one
    pub(crate) number: Option<u64>,
    #[command(flatten)]
    pub(crate) which: Which,
}

#[derive(Debug, Args)]
pub(crate) struct Proof {
    #[command(subcommand)]
    pub(crate) deed: ProofDeed,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ProofDeed {
    /// List the proofs that this device keeps
    List(Listing),
    /// Write a proof to a file, for anybody to check: no names or contents are in it
    Export(ExportProof),
    /// Check a proof: works on any machine, without the volume
    Verify(VerifyProof),
}

#[derive(Debug, Args)]
pub(crate) struct ExportProof {
    /// Its number, as `p2pfs proof list` shows it
    pub(crate) number: u64,
    /// Where to; a file that isn't there yet
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) which: Which,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyProof {
    /// The file (- is standard input)
    pub(crate) file: PathBuf,
}

/// Which entries are meant.
#[derive(Debug, Default, Clone, Args)]
pub(crate) struct Filter {
    /// Only what was denied
    #[arg(long)]
    pub(crate) denied: bool,
    /// Only what this user did
    #[arg(long, value_name = "NAME")]
    pub(crate) user: Option<String>,
    /// Only what this device did, by the first digits of its id
    #[arg(long, value_name = "ID")]
    pub(crate) device: Option<String>,
    /// Only what was done with this path, from the top of the volume on, and below it
    #[arg(long, value_name = "PATH")]
    pub(crate) path: Option<String>,
    /// Only these: create, read, write, rename, remove, permissions...
    #[arg(long, value_name = "WHAT", value_delimiter = ',')]
    pub(crate) op: Vec<String>,
    /// Only since then: 2026-11-22, 09:15, yesterday, 2h-ago; local time, unless it ends in Z
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum LogDeed {
    /// Check that nothing of it was changed, cut off or left out
    Verify(Listing),
    /// Print entries for other programs
    Export(Export),
}

#[derive(Debug, Args)]
pub(crate) struct Export {
    /// As what
    #[arg(long, value_enum, default_value_t = Format::Json)]
    pub(crate) format: Format,
    #[command(flatten)]
    pub(crate) filter: Filter,
    #[command(flatten)]
    pub(crate) which: Which,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Lines of JSON, as they are in the log
    Json,
    /// ArcSight's Common Event Format, version 0
    Cef,
    /// The Open Cybersecurity Schema Framework: file system and authorization activity, lines of JSON
    Ocsf,
}
