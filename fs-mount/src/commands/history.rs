//! `p2pfs history`.

use std::{os::unix::ffi::OsStrExt, path::Path};

use data_encoding::HEXLOWER;

use crate::{
    cli::History,
    control::{
        client::{self, unexpected},
        protocol::{Reply, Request},
    },
    failure::{Failure, Outcome},
    history_report::{EVENTS, Event},
    home::Home,
    inside::{Inside, inside_own},
    open_volume::not_mounted,
    output::{self, bytes},
};

pub(crate) fn run(home: &Home, args: &History) -> Outcome<()> {
    let place = inside_own(home, &args.path)?;
    let limit = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let mut events = events(&place, limit.saturating_add(1))?;
    // One more than asked for, or all that an answer holds.
    let left_out = events.len() > limit || events.len() >= EVENTS;
    events.truncate(limit);
    if left_out && events.len() >= EVENTS {
        output::note("older ones are left out: so many at most are told");
    } else if left_out {
        output::note("older ones are left out: --limit NUMBER shows more");
    }
    if args.json {
        return output::json(&events);
    }
    if events.is_empty() {
        return Err(Failure::new(format!("nothing was ever at {}", args.path.display())));
    }
    let of_folder = events.iter().any(|event| event.name.is_some());
    let rows: Vec<Vec<String>> = events.iter().map(|event| row(event, of_folder)).collect();
    match of_folder {
        true => output::table(&["VERSION", "USER", "DEVICE", "NAME", "WHAT"], &rows),
        false => output::table(&["VERSION", "USER", "DEVICE", "SIZE", "WHAT"], &rows),
    }
}

/// What happened at a path, as the daemon knows it.
pub(super) fn events(place: &Inside, limit: usize) -> Outcome<Vec<Event>> {
    let request = Request::History { path: hexadecimal(&place.path), limit };
    match client::ask(&place.dir, &request)?.ok_or_else(|| not_mounted(&place.dir))? {
        Reply::History(events) => Ok(events),
        _ => Err(unexpected()),
    }
}

/// A path as requests have it: it need not be text.
pub(super) fn hexadecimal(path: &Path) -> String {
    HEXLOWER.encode(path.as_os_str().as_bytes())
}

fn row(event: &Event, of_folder: bool) -> Vec<String> {
    let size = event.size.map_or_else(|| "-".to_owned(), bytes);
    let name = event.name.clone().unwrap_or_else(|| ".".to_owned());
    vec![
        event.version.clone(),
        event.user.clone(),
        event.device.get(..8).unwrap_or(&event.device).to_owned(),
        if of_folder { name } else { size },
        what(event),
    ]
}

fn what(event: &Event) -> String {
    let (from, to) = (&event.from, &event.to);
    let kind = match event.kind.as_deref() {
        None | Some("file") => String::new(),
        Some("directory") => " (folder)".to_owned(),
        Some(kind) => format!(" ({kind})"),
    };
    match (event.happened.as_str(), from, to) {
        ("attributes", ..) => "attributes changed".to_owned(),
        ("replaced", Some(from), _) => format!("replaced by {from}{kind}"),
        ("moved_here", Some(from), _) => format!("moved here from {from}{kind}"),
        ("appeared", ..) => format!("showed again, or got this name{kind}"),
        ("moved_away", _, Some(to)) => format!("moved to {to}"),
        ("moved_away", ..) => "moved away".to_owned(),
        (happened, ..) => format!("{happened}{kind}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(happened: &str, kind: Option<&str>, from: Option<&str>, to: Option<&str>, expected: &str) {
        let text = |text: Option<&str>| text.map(str::to_owned);
        let event = Event {
            version: "2026-11-26T09:15:03.123Z".to_owned(),
            name: None,
            user: "alice".to_owned(),
            device: "4f2a91c0".repeat(8),
            kind: text(kind),
            size: None,
            happened: happened.to_owned(),
            from: text(from),
            to: text(to),
            file: None,
            arrival: 1,
            at: String::new(),
        };
        assert_eq!(what(&event), expected);
    }

    #[test]
    fn what_happened_is_said_in_words() {
        check("made", Some("file"), None, None, "made");
        check("made", Some("directory"), None, None, "made (folder)");
        check("replaced", Some("file"), Some("a/.tmp"), None, "replaced by a/.tmp");
        check("replaced", Some("symlink"), None, None, "replaced (symlink)");
        check("moved_here", Some("file"), Some("b"), None, "moved here from b");
        check("moved_away", None, None, Some("trash/b"), "moved to trash/b");
        check("removed", None, None, None, "removed");
    }
}
