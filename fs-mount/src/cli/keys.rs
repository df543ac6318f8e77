//! `p2pfs fingerprint`, `invitations` and `key`: what can be typed.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{NewKeys, Which, label};

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

#[derive(Debug, Args)]
pub(crate) struct Key {
    #[command(subcommand)]
    pub(crate) deed: KeyDeed,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeyDeed {
    /// Write your key as text under a passphrase of its own: with it you are you again when your devices are lost
    Export(ExportKey),
    /// Be yourself again on this machine, as a further device of yours
    Import(ImportKey),
    /// Change what opens the keys on this device: another passphrase, one for the first time, or none
    Passphrase(KeyPassphrase),
}

#[derive(Debug, Args)]
pub(crate) struct ExportKey {
    /// Write it to this file, which must not be there yet [default: standard output]
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Seal it under the passphrase in this file (- is standard input)
    #[arg(long, value_name = "FILE")]
    pub(crate) export_passphrase_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) which: Which,
}

#[derive(Debug, Args)]
pub(crate) struct ImportKey {
    /// The text that `p2pfs key export` wrote, or what was typed in of it (- is standard input)
    pub(crate) file: PathBuf,
    /// Open it with the passphrase in this file
    #[arg(long, value_name = "FILE")]
    pub(crate) export_passphrase_file: Option<PathBuf>,
    /// What to call the volume on this machine
    #[arg(long, value_name = "LABEL", default_value = "p2pfs", value_parser = label)]
    pub(crate) volume: String,
    #[command(flatten)]
    pub(crate) keys: NewKeys,
}

#[derive(Debug, Args)]
pub(crate) struct KeyPassphrase {
    /// From now on the passphrase in this file (- is standard input) opens the keys
    #[arg(long, value_name = "FILE")]
    pub(crate) new_passphrase_file: Option<PathBuf>,
    /// From now on a key in a file beside them opens the keys: whoever reads this disk has them
    #[arg(long, conflicts_with = "new_passphrase_file")]
    pub(crate) no_passphrase: bool,
    #[command(flatten)]
    pub(crate) which: Which,
}
