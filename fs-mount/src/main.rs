//! `p2pfs`: the program that mounts a shared volume, and the commands around it.
//!
//! Everything is assembled here: the command line ([`cli`], [`commands`]), the daemon that has a volume open
//! ([`daemon`]) and the socket between the two ([`control`]). Both stand on what this machine keeps of a volume
//! ([`home`], [`profile`], [`unlock`], [`open_volume`]). The page ([`ui`]) is a process of its own, which knows no keys.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
};

use clap::Parser;
use rustix::fs::Mode;

mod asking;
mod bringing_back;
mod cli;
mod commands;
mod duration;
mod failure;
mod output;
mod progress;
mod report;

mod control;
mod daemon;
mod mountpoint;

mod clock;
mod exported_key;
mod history_report;
mod home;
mod inside;
mod open_volume;
mod profile;
mod repair;
mod select;
mod size;
mod ticket;
mod ui;
mod unlock;
mod unlocks;
mod uploads;
mod volume_lock;

use cli::{Cli, Command};

fn main() -> ExitCode {
    // Nothing that this program makes is for others' eyes.
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    // Wrong usage ends here, with status 2.
    let command = Cli::parse().command;
    match &command {
        // Everything it has to say goes to the one who started it, through a pipe.
        Command::Mount(mount) if mount.background_child => {
            return exit_code(|| daemon::launch::background_child().is_ok());
        }
        Command::Ui(ui) if ui.server => return exit_code(|| ui::serve().is_ok()),
        Command::Mount(mount) if mount.foreground => as_daemon(),
        Command::Keeper(_) => as_daemon(),
        _ => daemon::logging::start_command(),
    }
    exit_code(|| match commands::run(command) {
        Ok(()) => true,
        Err(why) => {
            output::note(&why.to_string());
            false
        }
    })
}

/// What runs until it is asked to end has its log on standard error.
fn as_daemon() {
    daemon::memory::begin_with_settings();
    daemon::logging::start_daemon();
}

/// 0 or 1. A panic has told where it was, and is a failure like others.
fn exit_code(work: impl FnOnce() -> bool) -> ExitCode {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) | Err(_) => ExitCode::FAILURE,
    }
}
