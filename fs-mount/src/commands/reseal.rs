//! `p2pfs reseal`: seals everything under new keys that was sealed before somebody was removed.

use volume::{Left, Resealed};

use crate::{
    cli::Listing,
    control::{
        client::{News, unexpected},
        protocol::{Reply, Request},
    },
    failure::Outcome,
    home::Home,
    open_volume::ask_or_open_with_progress,
    output::{self, bytes, count},
    progress::Bar,
};

pub(crate) fn run(home: &Home, args: &Listing) -> Outcome<()> {
    let bar = Bar::new("sealing anew");
    let reply = ask_or_open_with_progress(home, &args.which, &Request::Reseal, &mut |news| {
        if let News::Resealing(so_far) = news {
            bar.at(so_far.looked, so_far.nodes, how_far(so_far));
        }
    });
    drop(bar);
    let Reply::Resealed(done) = reply? else { return Err(unexpected()) };
    if args.json { output::json(&done) } else { output::line(&summary(&done)) }
}

pub(crate) fn how_far(so_far: &Resealed) -> String {
    let looked = so_far.looked.min(so_far.nodes);
    format!("{} ({}), {looked} of {} looked at", count(so_far.files, "file"), bytes(so_far.bytes), so_far.nodes)
}

/// One line.
fn summary(done: &Resealed) -> String {
    let Left { open, contested, absent, denied } = done.left;
    let left: Vec<String> = [
        (open, "open for writing"),
        (contested, "in conflict, or being changed"),
        (absent, "whose contents are not here"),
        (denied, "that you may not change"),
    ]
    .into_iter()
    .filter(|(number, _)| *number > 0)
    .map(|(number, why)| format!("{number} {why}"))
    .collect();
    let done = match (done.files, done.names) {
        (0, 0) if left.is_empty() => return "everything is sealed under new keys already".to_owned(),
        (files, names) => {
            format!("sealed {} ({}) and {} anew", count(files, "file"), bytes(done.bytes), count(names, "name"))
        }
    };
    match left.is_empty() {
        true => done,
        false => format!("{done}; left as they are: {}", left.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(done: Resealed, line: &str) {
        assert_eq!(summary(&done), line);
    }

    #[test]
    fn what_was_done_and_what_was_left() {
        let done = Resealed { files: 2, bytes: 20, names: 3, ..Resealed::default() };
        check(Resealed::default(), "everything is sealed under new keys already");
        check(done, "sealed 2 files (20 B) and 3 names anew");
        let left = Left { open: 1, denied: 4, ..Left::default() };
        check(
            Resealed { left, ..done },
            "sealed 2 files (20 B) and 3 names anew; left as they are: 1 open for writing, 4 that you may not change",
        );
    }
}
