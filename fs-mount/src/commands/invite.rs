//! `p2pfs invite`: one ticket, alone on standard output.

use crate::{
    cli::Invite,
    control::{
        client::unexpected,
        protocol::{Reply, Request},
    },
    failure::{Failure, Outcome},
    home::Home,
    open_volume::ask_or_open,
    output,
};

pub(crate) fn run(home: &Home, args: &Invite) -> Outcome<()> {
    if args.device {
        return Err(Failure::new(
            "tickets for one's own next machine are not there yet: invite it as a member of its own, without --device",
        ));
    }
    let request = Request::Invite { role: args.role.clone(), seconds: args.expires.as_secs() };
    match ask_or_open(home, &args.which, &request)? {
        Reply::Ticket(word) => output::line(&word),
        _ => Err(unexpected()),
    }
}
