//! `p2pfs snapshot`: states of the tree that are kept under a name.

use crate::{
    cli::{Listing, Named, Snapshot, SnapshotDeed, Which},
    control::{
        agreed::{AboutAgreed, Agreed},
        client::unexpected,
        protocol::{Reply, Request},
    },
    failure::Outcome,
    home::Home,
    open_volume::ask_or_open,
    output,
};

pub(crate) fn run(home: &Home, args: Snapshot) -> Outcome<()> {
    match args.deed {
        SnapshotDeed::Create(Named { name, which }) => {
            done(home, &which, AboutAgreed::CreateSnapshot { name: name.clone() })?;
            output::line(&format!("the tree as it is now is kept as .p2pfs/snapshots/{name}"))
        }
        SnapshotDeed::Remove(Named { name, which }) => {
            done(home, &which, AboutAgreed::RemoveSnapshot { name: name.clone() })?;
            output::line(&format!("snapshot {name} is removed: what only it kept may go"))
        }
        SnapshotDeed::List(Listing { which, json }) => list(home, &which, json),
    }
}

fn ask(home: &Home, which: &Which, request: AboutAgreed) -> Outcome<Agreed> {
    match ask_or_open(home, which, &Request::Agreed(request))? {
        Reply::Agreed(agreed) => Ok(agreed),
        _ => Err(unexpected()),
    }
}

fn done(home: &Home, which: &Which, request: AboutAgreed) -> Outcome<()> {
    match ask(home, which, request)? {
        Agreed::Done => Ok(()),
        _ => Err(unexpected()),
    }
}

fn list(home: &Home, which: &Which, json: bool) -> Outcome<()> {
    let Agreed::Snapshots(all) = ask(home, which, AboutAgreed::Snapshots)? else { return Err(unexpected()) };
    if json {
        return output::json(&all);
    }
    if all.is_empty() {
        return output::line("no snapshots yet: `p2pfs snapshot create NAME` makes one");
    }
    let short = |id: &str| id.get(..8).unwrap_or(id).to_owned();
    let rows: Vec<Vec<String>> = all.into_iter().map(|s| vec![s.name, s.user, short(&s.device), s.made]).collect();
    output::table(&["NAME", "USER", "DEVICE", "MADE"], &rows)
}
