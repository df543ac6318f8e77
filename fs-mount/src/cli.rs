//! The command line: what can be typed.

use std::{ffi::OsString, net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use peer_net::registry_address::RegistryAddress;

use crate::{duration, size};

mod access;
mod agreed;
mod keys;
pub(crate) mod letters;
pub(crate) mod log;
#[cfg(test)]
mod manual;
mod members;
mod operating;
pub(crate) mod sends;
mod ui;

pub(crate) use access::{Access, Allow, Chown};
pub(crate) use agreed::{Config, Named, Snapshot, SnapshotDeed};
pub(crate) use keys::{ExportKey, Fingerprint, ImportKey, Invitations, InvitationsDeed, Key, KeyDeed, KeyPassphrase};
pub(crate) use members::{Grant, Kept, Quarantine, QuarantineDeed, Revoke, TransferOwnership};
pub(crate) use operating::Operating;
pub(crate) use ui::Ui;

const EXIT_STATUS: &str = "Exit status: 0 done, 1 failed (one line on standard error says why), 2 wrong usage.\n\
    Everything lives under $P2PFS_HOME when it is set, else under the XDG folders.";

/// A filesystem that a group of people share without trusting any server.
#[derive(Debug, Parser)]
#[command(name = "p2pfs", version, after_help = EXIT_STATUS, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a new volume and your identity in it
    Init(Init),
    /// Mount a volume; returns when it is usable
    Mount(Mount),
    /// Unmount a volume and end its daemon
    Unmount(Unmount),
    /// Store and serve the volumes that this device keeps without being able to read them
    Keeper(Keeper),
    /// Print a ticket that lets one more person in
    Invite(Invite),
    /// List the invitations that can still be used, or withdraw one
    Invitations(Invitations),
    /// Join a volume with a ticket
    Join(Join),
    /// Show how a volume is doing
    Status(Listing),
    /// List the other members' devices and how far they are in step
    Peers(Listing),
    /// List the members
    Users(Listing),
    /// List the members' devices
    Devices(Listing),
    /// Show the digits by which people compare their keys: yours, or another member's
    Fingerprint(Fingerprint),
    /// Your key as text that can be printed, being you again with it, and the passphrase of the keys on this device
    Key(Key),
    /// Make a member an admin, writer or reader
    Grant(Grant),
    /// Hand the volume over: that member becomes its owner, and you an admin
    TransferOwnership(TransferOwnership),
    /// Remove a user with all their devices, or one device
    Revoke(Revoke),
    /// Seal everything under new keys that was sealed before somebody was removed
    Reseal(Listing),
    /// What was done apart from the removal of who did it, and is kept aside
    Quarantine(Quarantine),
    /// Find out what keeps this machine from working well, and what to do about it
    Doctor(Doctor),
    /// List the volumes on this machine
    Volumes(Volumes),
    /// Remove a volume from this machine, with its files and keys
    Forget(Forget),
    /// List what several made at once under one name
    Conflicts(Conflicts),
    /// Settle conflicts: keep one version, or both
    Resolve(Resolve),
    /// Bring back what was at a path: a file or a whole folder, also one that was removed
    Restore(Restore),
    /// Take back what one device, or one user, did since some time, and keep what others did
    Undo(Undo),
    /// Wait until connected peers have everything, and everything of theirs is here
    Wait(Wait),
    /// Check everything that this device keeps of a volume, and repair it
    Verify(Verify),
    /// Drop what is no longer kept of history and give its room back, which else happens by itself now and then
    Reclaim(Listing),
    /// Show the settings of a volume, or set one
    Config(Config),
    /// Keep the tree as it is under a name
    Snapshot(Snapshot),
    /// Show what happened to a file or folder, also to one that is gone
    History(History),
    /// Show what changed between two versions of a text
    Diff(Diff),
    /// Messages between members: send one, show them
    Msg(letters::Msg),
    /// Talk with members on a screen of the terminal
    Chat(letters::Chat),
    /// Send files straight to another member's device, past the volume
    Send(sends::Send),
    /// What members send each other: what is offered to you, what is on its way, what came
    Inbox(sends::Inbox),
    /// Show the volume in a browser: files, members, messages, conflicts, the log
    Ui(Ui),
    /// Show what looks like an attack, and what answers it
    Alerts(log::Alerts),
    /// Proofs that a device signed two different things as one: list them, write one to a file, check a file
    Proof(log::Proof),
    /// Show what was done with the volume, by whom, and what was denied
    Log(Box<log::Log>),
    /// Tell who may read and write a file or folder, and why
    Access(Access),
    /// Let one member read or write a file or folder, whatever the others may
    Allow(Allow),
    /// Give a file or folder to another member
    Chown(Chown),
    /// Print a completion script for a shell
    Completions(Completions),
}

/// Which volume, and what opens its keys.
#[derive(Debug, Clone, Args)]
pub(crate) struct Which {
    /// The volume, by its label or the first digits of its id (needed when there are several)
    #[arg(long, value_name = "LABEL|ID")]
    pub(crate) volume: Option<String>,
    /// Read the passphrase from this file (- is standard input)
    #[arg(long, value_name = "FILE")]
    pub(crate) passphrase_file: Option<PathBuf>,
}

/// What protects the keys of a new identity.
#[derive(Debug, Clone, Args)]
pub(crate) struct NewKeys {
    /// Protect the keys with the passphrase in this file (- is standard input)
    #[arg(long, value_name = "FILE")]
    pub(crate) passphrase_file: Option<PathBuf>,
    /// Keep the key to the keys in a file beside them: whoever reads this disk has them
    #[arg(long, conflicts_with = "passphrase_file")]
    pub(crate) no_passphrase: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Init {
    /// Your name in the volume: 1 to 32 of a-z 0-9 . _ -, starting with a letter; without it, everything is asked for
    #[arg(long, value_parser = user_name)]
    pub(crate) name: Option<String>,
    /// What to call the volume on this machine [default: p2pfs]
    #[arg(long, value_name = "LABEL", value_parser = label)]
    pub(crate) volume: Option<String>,
    /// A registry through which peers find each other; may be given several times
    #[arg(long, value_name = "ADDR:PORT#KEY")]
    pub(crate) registry: Vec<RegistryAddress>,
    #[command(flatten)]
    pub(crate) keys: NewKeys,
}

#[derive(Debug, Args)]
pub(crate) struct Mount {
    /// Where; an empty folder [default: ~/p2pfs, made when missing]
    pub(crate) mountpoint: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) which: Which,
    /// Stay in the foreground, log to standard error, tell systemd when ready
    #[arg(long)]
    pub(crate) foreground: bool,
    /// Listen for peers here [default: all addresses, a free port]
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) listen: Option<SocketAddr>,
    /// Let other users of this machine in; as root, owners and modes are then kept as on an ordinary disk
    #[arg(long)]
    pub(crate) allow_other: bool,
    /// What the system's list of mounts shows as mounted
    #[arg(long, value_name = "NAME", default_value = "p2pfs", value_parser = parse_source)]
    pub(crate) source: String,
    /// How long reading waits for contents that nobody has sent yet before it fails
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration::parse)]
    pub(crate) absent_timeout: Duration,
    /// Use this registry from now on instead of those given earlier; may be given several times
    #[arg(long, value_name = "ADDR:PORT#KEY")]
    pub(crate) registry: Vec<RegistryAddress>,
    #[command(flatten)]
    pub(crate) operating: Operating,
    /// Started by `mount` itself to stay in the background
    #[arg(long, hide = true)]
    pub(crate) background_child: bool,
}

/// A name for the list of mounts. It is handed on among options, where commas and backslashes mean something.
fn parse_source(name: &str) -> Result<String, String> {
    if name.is_empty() || name.len() > 255 || name.contains(|c: char| c.is_control() || c == ',' || c == '\\') {
        return Err("up to 255 bytes, without commas and backslashes".to_owned());
    }
    Ok(name.to_owned())
}

#[derive(Debug, Args)]
pub(crate) struct Unmount {
    /// Where it is mounted [default: where the only mounted volume is]
    pub(crate) mountpoint: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) which: Which,
}

#[derive(Debug, Args)]
pub(crate) struct Keeper {
    /// Listen for peers here; each further volume has the next port [default: all addresses, free ports]
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) listen: Option<SocketAddr>,
    /// How much of the disk each volume may take: beyond it no more contents are fetched [default: all of it]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub(crate) quota: Option<u64>,
    /// Only this volume, by its label or the first digits of its id; may be given several times
    #[arg(long, value_name = "LABEL|ID")]
    pub(crate) volume: Vec<String>,
    #[command(flatten)]
    pub(crate) operating: Operating,
    /// Read the passphrase from this file (- is standard input)
    #[arg(long, value_name = "FILE")]
    pub(crate) passphrase_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Invite {
    /// What the new member may do
    #[arg(long, default_value = "writer", value_parser = ["writer", "reader", "admin", "keeper"])]
    pub(crate) role: String,
    /// How long the ticket is good for
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = duration::parse_positive)]
    pub(crate) expires: Duration,
    /// For your own next machine, which then joins as you
    #[arg(long, conflicts_with = "role")]
    pub(crate) device: bool,
    #[command(flatten)]
    pub(crate) which: Which,
}

#[derive(Debug, Args)]
pub(crate) struct Join {
    /// The ticket, as `p2pfs invite` printed it (- is standard input); others on this machine can read what is typed here
    /// [default: it is asked for]
    pub(crate) ticket: Option<String>,
    /// Your name in the volume: 1 to 32 of a-z 0-9 . _ -, starting with a letter (a ticket for your own next machine knows it)
    #[arg(long, value_parser = user_name)]
    pub(crate) name: Option<String>,
    /// What to call the volume on this machine
    #[arg(long, value_name = "LABEL", default_value = "p2pfs", value_parser = label)]
    pub(crate) volume: String,
    #[command(flatten)]
    pub(crate) keys: NewKeys,
}

#[derive(Debug, Args)]
pub(crate) struct Listing {
    #[command(flatten)]
    pub(crate) which: Which,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Volumes {
    /// Read the passphrase from this file (- is standard input), to show labels under it
    #[arg(long, value_name = "FILE")]
    pub(crate) passphrase_file: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Forget {
    /// The volume, by its label or the first digits of its id
    #[arg(long, value_name = "LABEL|ID")]
    pub(crate) volume: String,
    /// Ask nothing
    #[arg(long)]
    pub(crate) yes: bool,
    /// Read the passphrase from this file (- is standard input), to find a label under it
    #[arg(long, value_name = "FILE")]
    pub(crate) passphrase_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Conflicts {
    /// Only what is in conflict there or below; by its own name or by one that shows beside it
    pub(crate) path: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) which: Which,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Restore {
    /// What; nothing need be there any more
    pub(crate) path: PathBuf,
    /// As this version has it, by its name [default: as it was before the last change of a file, or the removal]
    #[arg(long, value_name = "VERSION", conflicts_with = "at")]
    pub(crate) version: Option<String>,
    /// As it was at this time: 2026-11-22T09:15, 09:15, yesterday, 2h-ago (local time, unless it ends in Z), a snapshot's name
    #[arg(long, value_name = "TIME")]
    pub(crate) at: Option<String>,
    /// Put it there instead
    #[arg(long, value_name = "PATH")]
    pub(crate) to: Option<PathBuf>,
    /// Remove what is in a folder and was not there then
    #[arg(long)]
    pub(crate) exact: bool,
    /// Only tell what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("whose").required(true).args(["device", "user"])))]
pub(crate) struct Undo {
    /// What this device did, by the first digits of its id
    #[arg(long, value_name = "ID")]
    pub(crate) device: Option<String>,
    /// What this user did, on any device
    #[arg(long, value_name = "NAME|ID")]
    pub(crate) user: Option<String>,
    /// Since when: 2026-11-22T09:15, 09:15, yesterday, 2h-ago (local time, unless it ends in Z), a snapshot's name
    #[arg(long, value_name = "TIME")]
    pub(crate) since: String,
    /// Only what is, or was then, at this path or below it
    #[arg(long)]
    pub(crate) path: Option<PathBuf>,
    /// Only tell what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) which: Which,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Resolve {
    /// What is in conflict, by its own name or by one that shows beside it
    #[arg(required_unless_present = "all")]
    pub(crate) paths: Vec<PathBuf>,
    /// What to keep: mine, theirs, both, or the name of one as `p2pfs conflicts` lists it
    #[arg(long, value_name = "mine|theirs|both|NAME")]
    pub(crate) keep: OsString,
    /// All conflicts of the volume
    #[arg(long, conflicts_with = "paths")]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) which: Which,
}

#[derive(Debug, Args)]
pub(crate) struct Wait {
    /// How long at most
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration::parse)]
    pub(crate) timeout: Duration,
    #[command(flatten)]
    pub(crate) which: Which,
}

#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// Fetch damaged blocks from peers again; not mounted, also build a damaged store anew
    #[arg(long)]
    pub(crate) repair: bool,
    #[command(flatten)]
    pub(crate) which: Which,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct History {
    /// The file or folder; nothing need be there any more
    pub(crate) path: PathBuf,
    /// So many lines at most, the newest
    #[arg(long, value_name = "NUMBER", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) limit: u64,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Diff {
    /// The file; nothing need be there any more
    pub(crate) path: PathBuf,
    /// One version, to compare with what is there now, or two [default: the one before, and what is there now]
    #[arg(value_name = "VERSION", num_args = 0..=2)]
    pub(crate) versions: Vec<String>,
    /// Print two versions merged, or one and what is there now, on the newest version that both are based on
    #[arg(long)]
    pub(crate) merge: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// The shell
    pub(crate) shell: Shell,
}

/// A user's name: the same rule as the volume's own, so that a slip shows before anything is made.
pub(crate) fn user_name(text: &str) -> Result<String, String> {
    let allowed = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
    let starts = text.bytes().next().is_some_and(|b| b.is_ascii_lowercase());
    if starts && text.len() <= 32 && text.bytes().all(allowed) {
        return Ok(text.to_owned());
    }
    Err("1 to 32 of a-z 0-9 . _ - are needed, starting with a letter".to_owned())
}

/// A volume's label: short and printable, since listings show it.
pub(crate) fn label(text: &str) -> Result<String, String> {
    let printable = !text.chars().any(char::is_control) && text.trim() == text;
    if printable && !text.is_empty() && text.len() <= 64 {
        return Ok(text.to_owned());
    }
    Err("1 to 64 printable characters are needed".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn names() {
        for good in ["a", "alice", "bob-2.x_y", &"a".repeat(32)] {
            assert!(user_name(good).is_ok(), "{good}");
        }
        for bad in ["", "Alice", "2bob", "-a", "al ice", "é", &"a".repeat(33)] {
            assert!(user_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn labels() {
        assert!(label("my documents").is_ok());
        for bad in ["", " a", "a\n", "a\u{1b}[0m"] {
            assert!(label(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_mount_takes_everything() {
        let typed =
            "p2pfs mount /mnt --volume docs --foreground --listen 127.0.0.1:0 --allow-other --absent-timeout 3s";
        let Command::Mount(mount) = Cli::try_parse_from(typed.split(' ')).unwrap().command else { panic!("mount") };
        assert!(mount.foreground && mount.allow_other && mount.listen.is_some());
        assert_eq!(mount.which.volume.as_deref(), Some("docs"));
        assert_eq!(mount.source, "p2pfs");
        assert_eq!(mount.absent_timeout, Duration::from_secs(3));
    }

    #[test]
    fn what_is_mounted_is_one_word_among_options() {
        assert_eq!(parse_source("/srv/a folder").unwrap(), "/srv/a folder");
        let long = "x".repeat(256);
        for bad in ["", "a,allow_other", "a\\", "a\n", &long] {
            assert!(parse_source(bad).is_err(), "{bad:?}");
        }
    }
}
