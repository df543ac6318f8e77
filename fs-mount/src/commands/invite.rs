//! `p2pfs invite`: one ticket, alone on standard output.

use crate::{
    cli::Invite,
    control::{
        client::unexpected,
        protocol::{Reply, Request},
    },
    failure::Outcome,
    home::Home,
    open_volume::ask_or_open,
    output,
};

pub(crate) fn run(home: &Home, args: &Invite) -> Outcome<()> {
    let role = (!args.device).then(|| args.role.clone());
    let request = Request::Invite { role, seconds: args.expires.as_secs() };
    match ask_or_open(home, &args.which, &request)? {
        Reply::Ticket(word) => output::line(&word),
        _ => Err(unexpected()),
    }
}
