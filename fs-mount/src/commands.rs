//! The commands, one module each; the listings share one.

use clap::CommandFactory;

use crate::{
    cli::{Cli, Command},
    failure::Outcome,
    home::Home,
};

mod access;
mod alerts;
mod chat;
mod config;
mod conflicts;
mod diff;
mod doctor;
mod fingerprint;
mod forget;
mod history;
mod init;
mod invitations;
mod invite;
mod join;
mod keeper;
mod key;
mod listings;
mod log;
mod members;
mod mount;
mod msg;
mod proof;
mod reclaim;
mod reseal;
mod restore;
pub(crate) mod sends;
mod snapshot;
mod ui;
mod undo;
mod unmount;
mod verify;
mod wait;

/// Does what was typed.
pub(crate) fn run(command: Command) -> Outcome<()> {
    if let Command::Completions(args) = command {
        clap_complete::generate(args.shell, &mut Cli::command(), "p2pfs", &mut std::io::stdout());
        return Ok(());
    }
    // Checking a proof needs nothing of this machine.
    if let Command::Proof(args) = command {
        return proof::run(args);
    }
    let home = Home::locate()?;
    match command {
        Command::Init(args) => init::run(&home, args),
        Command::Mount(args) => mount::run(&home, args),
        Command::Keeper(args) => keeper::run(&home, args),
        Command::Unmount(args) => unmount::run(&home, &args),
        Command::Invite(args) => invite::run(&home, &args),
        Command::Invitations(args) => invitations::run(&home, args),
        Command::Join(args) => join::run(&home, args),
        Command::Status(args) => listings::status(&home, &args),
        Command::Peers(args) => listings::peers(&home, &args),
        Command::Users(args) => listings::users(&home, &args),
        Command::Devices(args) => listings::devices(&home, &args),
        Command::Fingerprint(args) => fingerprint::run(&home, &args),
        Command::Key(args) => key::run(&home, args),
        Command::Grant(args) => members::grant(&home, args),
        Command::TransferOwnership(args) => members::transfer_ownership(&home, args),
        Command::Revoke(args) => members::revoke(&home, args),
        Command::Reseal(args) => reseal::run(&home, &args),
        Command::Quarantine(args) => members::quarantine(&home, args),
        Command::Doctor(args) => doctor::run(&home, &args),
        Command::Forget(args) => forget::run(&home, &args),
        Command::Volumes(args) => listings::volumes(&home, &args),
        Command::Conflicts(args) => conflicts::list(&home, &args),
        Command::Resolve(args) => conflicts::resolve(&home, &args),
        Command::Restore(args) => restore::run(&home, &args),
        Command::Undo(args) => undo::run(&home, &args),
        Command::Wait(args) => wait::run(&home, &args),
        Command::Verify(args) => verify::run(&home, &args),
        Command::Reclaim(args) => reclaim::run(&home, &args),
        Command::Config(args) => config::run(&home, args),
        Command::Snapshot(args) => snapshot::run(&home, args),
        Command::History(args) => history::run(&home, &args),
        Command::Diff(args) => diff::run(&home, &args),
        Command::Msg(args) => msg::run(&home, args),
        Command::Chat(args) => chat::run(&home, &args),
        Command::Send(args) => sends::send(&home, &args),
        Command::Inbox(args) => sends::inbox(&home, args),
        Command::Ui(args) => ui::run(&home, &args),
        Command::Alerts(args) => alerts::run(&home, args),
        Command::Log(args) => log::run(&home, *args),
        Command::Access(args) => access::show(&home, &args),
        Command::Allow(args) => access::allow(&home, &args),
        Command::Chown(args) => access::chown(&home, &args),
        Command::Proof(_) | Command::Completions(_) => Ok(()),
    }
}
