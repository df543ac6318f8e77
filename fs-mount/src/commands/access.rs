//! `p2pfs access`, `p2pfs allow` and `p2pfs chown`: who may use what.

use std::{os::unix::ffi::OsStrExt, path::Path};

use crate::{
    cli::{Access, Allow, Chown},
    control::{
        access::{AboutAccess, Access as Found, Told},
        client::{self, unexpected},
        protocol::{Reply, Request},
    },
    failure::Outcome,
    home::Home,
    inside::{Inside, inside_own},
    open_volume::not_mounted,
    output,
};

pub(crate) fn show(home: &Home, args: &Access) -> Outcome<()> {
    let place = inside_own(home, &args.path)?;
    let Told::Access(found) = ask(&place, AboutAccess::Show { path: names(&place.path) })? else {
        return Err(unexpected());
    };
    if args.json {
        return output::json(&found);
    }
    output::line(&summary(&found))?;
    let may = |reads: bool, writes: bool| match (reads, writes) {
        (_, true) => "reads and writes",
        (true, false) => "reads",
        (false, false) => "nothing",
    };
    let rows: Vec<Vec<String>> =
        found.users.into_iter().map(|u| vec![u.user, may(u.reads, u.writes).to_owned(), u.why]).collect();
    output::table(&["USER", "MAY", "WHY"], &rows)
}

fn summary(found: &Found) -> String {
    let what = if found.folder { "folder" } else { "file" };
    let key = if found.members_read { "all members hold its key" } else { "only who may read it holds its key" };
    let mine = if found.mine_to_change { "; you decide who may use it" } else { "" };
    format!("a {what} of {}; {key}{mine}", found.owner)
}

pub(crate) fn allow(home: &Home, args: &Allow) -> Outcome<()> {
    let place = inside_own(home, &args.path)?;
    let whom = &args.whom;
    let asked =
        AboutAccess::Allow { path: names(&place.path), user: whom.user.clone(), read: whom.read, write: whom.write };
    done(&place, asked)
}

pub(crate) fn chown(home: &Home, args: &Chown) -> Outcome<()> {
    let place = inside_own(home, &args.path)?;
    done(&place, AboutAccess::Give { path: names(&place.path), user: args.user.clone() })
}

fn ask(place: &Inside, asked: AboutAccess) -> Outcome<Told> {
    match client::ask(&place.dir, &Request::Access(asked))? {
        Some(Reply::Access(told)) => Ok(told),
        Some(_) => Err(unexpected()),
        None => Err(not_mounted(&place.dir)),
    }
}

fn done(place: &Inside, asked: AboutAccess) -> Outcome<()> {
    match ask(place, asked)? {
        Told::Done => Ok(()),
        Told::Access(_) => Err(unexpected()),
    }
}

fn names(path: &Path) -> Vec<Vec<u8>> {
    path.iter().map(|name| name.as_bytes().to_vec()).collect()
}
