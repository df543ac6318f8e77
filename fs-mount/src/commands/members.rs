//! `p2pfs grant`, `transfer-ownership`, `revoke` and `quarantine`.

use super::reseal;
use crate::{
    cli::{Grant, Kept, Listing, Quarantine, QuarantineDeed, Revoke, TransferOwnership, Which},
    control::{
        client::unexpected,
        members::{AboutMembers, Members},
        protocol::{Reply, Request},
    },
    failure::Outcome,
    home::Home,
    open_volume::ask_or_open,
    output::{self, count},
};

fn ask(home: &Home, which: &Which, request: AboutMembers) -> Outcome<Members> {
    match ask_or_open(home, which, &Request::Members(request))? {
        Reply::Members(answer) => Ok(answer),
        _ => Err(unexpected()),
    }
}

/// Asks for a change, and says what was done.
fn change(home: &Home, which: &Which, request: AboutMembers) -> Outcome<()> {
    let Members::Changed(what) = ask(home, which, request)? else { return Err(unexpected()) };
    output::line(&what)
}

pub(crate) fn grant(home: &Home, args: Grant) -> Outcome<()> {
    change(home, &args.which, AboutMembers::Grant { user: args.user, role: args.role })
}

pub(crate) fn transfer_ownership(home: &Home, args: TransferOwnership) -> Outcome<()> {
    change(home, &args.which, AboutMembers::TransferOwnership { user: args.user })
}

pub(crate) fn revoke(home: &Home, args: Revoke) -> Outcome<()> {
    change(home, &args.which, AboutMembers::Revoke { who: args.who })?;
    match args.reseal {
        true => reseal::run(home, &Listing { which: args.which, json: false }),
        false => Ok(()),
    }
}

pub(crate) fn quarantine(home: &Home, args: Quarantine) -> Outcome<()> {
    match args.deed {
        QuarantineDeed::List(args) => list(home, &args),
        QuarantineDeed::Show(args) => show(home, args),
        QuarantineDeed::Accept(args) => accept(home, args),
    }
}

fn short(id: &str) -> String {
    id.get(..8).unwrap_or(id).to_owned()
}

fn list(home: &Home, args: &Listing) -> Outcome<()> {
    let Members::Quarantine(all) = ask(home, &args.which, AboutMembers::Quarantine { id: None })? else {
        return Err(unexpected());
    };
    if args.json {
        return output::json(&all);
    }
    if all.is_empty() {
        return output::line("nothing is kept aside");
    }
    let rows: Vec<Vec<String>> = all
        .into_iter()
        .map(|one| {
            vec![short(&one.id), one.user, short(&one.device), one.made, count(one.changes.len() as u64, "change")]
        })
        .collect();
    output::table(&["ID", "USER", "DEVICE", "MADE", "WHAT"], &rows)
}

fn show(home: &Home, args: Kept) -> Outcome<()> {
    let request = AboutMembers::Quarantine { id: Some(args.id) };
    let Members::Quarantine(all) = ask(home, &args.which, request)? else { return Err(unexpected()) };
    if args.json {
        return output::json(&all);
    }
    let rows: Vec<Vec<String>> = all
        .into_iter()
        .flat_map(|one| {
            let id = short(&one.id);
            one.changes.into_iter().map(move |change| {
                vec![id.clone(), change.does, change.path.unwrap_or_else(|| "(without a name)".to_owned())]
            })
        })
        .collect();
    output::table(&["ID", "WOULD", "PATH"], &rows)
}

fn accept(home: &Home, args: Kept) -> Outcome<()> {
    let Members::Accepted { done, left } = ask(home, &args.which, AboutMembers::Accept { id: args.id })? else {
        return Err(unexpected());
    };
    if args.json {
        return output::json(&serde_json::json!({ "done": done, "left": left }));
    }
    let mut text = format!("{} done anew", count(done, "change"));
    if left > 0 {
        text += &format!("; {left} left: their names are taken, or what they were in is gone");
    }
    output::line(&text)
}
