//! `p2pfs reclaim`: drops what is no longer kept of history, now.

use crate::{
    cli::Listing,
    control::{
        agreed::{AboutAgreed, Agreed},
        client::{self, unexpected},
        protocol::{Reply, Request},
    },
    failure::Outcome,
    home::{Home, VolumeDir},
    open_volume::not_mounted,
    output::{self, bytes},
    select::choose,
};

pub(crate) fn run(home: &Home, args: &Listing) -> Outcome<()> {
    let dir = choose(home, &args.which, false)?.dir;
    let Some(reply) = client::ask(&dir, &Request::Reclaim)? else { return Err(not_mounted(&dir)) };
    let Reply::Reclaimed(done) = reply else { return Err(unexpected()) };
    if args.json {
        return output::json(&done);
    }
    let (freed, history) = (bytes(done.freed_bytes), bytes(done.history_bytes));
    let states = match keep_all(&dir)? {
        age if age == "forever" => "everything is kept for ever".to_owned(),
        age if done.moments == 1 => format!("of what is older than {age}, 1 state is kept"),
        age => format!("of what is older than {age}, {} states are kept", done.moments),
    };
    output::line(&format!("gave back {freed}; {history} are kept of older versions; {states}"))
}

/// Up to which age everything is kept.
fn keep_all(dir: &VolumeDir) -> Outcome<String> {
    let settings = client::ask(dir, &Request::Agreed(AboutAgreed::Settings))?;
    let Some(Reply::Agreed(Agreed::Settings(settings))) = settings else { return Err(unexpected()) };
    let found = settings.into_iter().find(|setting| setting.name == "history.keep-all");
    found.map(|setting| setting.value).ok_or_else(unexpected)
}
