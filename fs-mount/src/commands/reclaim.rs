//! `p2pfs reclaim`: drops what is no longer kept of history, now.

use crate::{
    cli::Listing,
    control::{
        client::{self, unexpected},
        protocol::{Reply, Request},
    },
    failure::Outcome,
    home::Home,
    open_volume::not_mounted,
    output::{self, bytes, count},
    select::choose,
};

pub(crate) fn run(home: &Home, args: &Listing) -> Outcome<()> {
    let dir = choose(home, &args.which, false)?.dir;
    let Some(reply) = client::ask(&dir, &Request::Reclaim)? else { return Err(not_mounted(&dir)) };
    let Reply::Reclaimed(done) = reply else { return Err(unexpected()) };
    if args.json {
        return output::json(&done);
    }
    output::line(&format!(
        "gave back {}; history has {} of older versions, and {} of the time of which not everything is kept",
        bytes(done.freed_bytes),
        bytes(done.history_bytes),
        count(done.moments as u64, "moment"),
    ))
}
