//! `p2pfs invitations`: the tickets that are still good for something, and calling one back.

use crate::{
    cli::{Invitations, InvitationsDeed},
    commands::listings::short,
    control::{
        client::unexpected,
        protocol::{Reply, Request},
    },
    failure::Outcome,
    home::Home,
    open_volume::ask_or_open,
    output,
};

pub(crate) fn run(home: &Home, args: Invitations) -> Outcome<()> {
    match args.deed {
        None => list(home, &args),
        Some(InvitationsDeed::Revoke { id, which }) => {
            match ask_or_open(home, &which, &Request::Withdraw { id: id.clone() })? {
                Reply::Done => output::line(&format!("invitation {id} is withdrawn, for all who hear of it")),
                _ => Err(unexpected()),
            }
        }
    }
}

fn list(home: &Home, args: &Invitations) -> Outcome<()> {
    let Reply::Invitations(open) = ask_or_open(home, &args.which, &Request::Invitations)? else {
        return Err(unexpected());
    };
    if args.json {
        return output::json(&open);
    }
    if open.is_empty() {
        return output::line("no open invitations: `p2pfs invite` makes one");
    }
    let rows: Vec<Vec<String>> = open
        .into_iter()
        .map(|open| {
            let expires = open.expires.unwrap_or_else(|| "never".to_owned());
            let (id, device) = (short(&open.id).to_owned(), short(&open.device).to_owned());
            vec![id, open.of, expires, open.user, device]
        })
        .collect();
    output::table(&["ID", "FOR", "EXPIRES", "BY", "DEVICE"], &rows)
}
