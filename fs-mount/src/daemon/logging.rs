//! Logs and panics: where they go, and what never goes there.

use std::{io::Write, panic};

use env_logger::{Builder, Env, Target};
use log::LevelFilter;

/// The variable that says what is logged.
const VARIABLE: &str = "P2PFS_LOG";
/// Libraries that log more than ids: requests with the names in them, or the paths of this device's store.
const CAPPED: [(&str, LevelFilter); 3] =
    [("fuser", LevelFilter::Warn), ("fjall", LevelFilter::Warn), ("lsm_tree", LevelFilter::Warn)];

/// Logging of the daemon: to standard error, which is the log file in the background.
pub(crate) fn start_daemon() {
    start("info");
    panic::set_hook(Box::new(|info| {
        // The text of a panic may quote data, a file's name for instance. Only texts fixed in the source are safe.
        let text = info.payload().downcast_ref::<&'static str>().copied().unwrap_or("details withheld");
        let place = info.location().map_or_else(|| "unknown place".to_owned(), ToString::to_string);
        log::error!("panic at {place}: {text}");
    }));
}

/// Logging of a command: nothing unless asked for, since standard error is for its one line.
pub(crate) fn start_command() {
    start("off");
    panic::set_hook(Box::new(|info| {
        let place = info.location().map_or_else(|| "unknown place".to_owned(), ToString::to_string);
        // When even standard error is gone, nobody reads it.
        let _ = writeln!(std::io::stderr(), "p2pfs: internal error at {place}: please report it");
    }));
}

fn start(default: &str) {
    let mut builder = Builder::from_env(Env::new().filter_or(VARIABLE, default));
    if default != "off" {
        for (module, level) in CAPPED {
            builder.filter_module(module, level);
        }
    }
    builder.target(Target::Stderr);
    // `mount --foreground` starts as a command and becomes a daemon: the first one stays.
    if builder.try_init().is_err() {
        log::debug!("logging was started before");
    }
}
