//! Going back in time: to what somebody chose, to any time they type, or from change to change.
//!
//! Every change of a folder is a stop, of which the tree as it was then contains the change. Looking for them costs what happened in
//! the folder: only whoever opens this has that done.

use axum::http::StatusCode;
use jiff::{Timestamp, tz::TimeZone};
use maud::{Markup, html};

use super::{
    content::when,
    files::local,
    forms::{Answer, Visit},
    layout,
    links::{self, encoded, encoded_value, shown},
    tree::When,
};
use crate::{control::request::Names, history_report::Event};

/// Changes among which the slider goes.
const CHANGES: usize = 400;

/// A moment to which one can go.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stop {
    /// As addresses have it: a moment to the nanosecond, or the name of a snapshot.
    at: String,
    /// The number of the last commit that is in it, where that is known.
    arrival: Option<u64>,
}

/// What leads there, closed unless somebody is on the way.
pub(super) async fn show(visit: &Visit, names: &Names, when: &When) -> Markup {
    let path = encoded(&links::path(names));
    let at = at(when);
    let is_open = at.is_some() || visit.query.get("slide").is_some();
    let query = at.map(|at| format!("?at={}", encoded_value(at.as_bytes()))).unwrap_or_default();
    let typed = at.and_then(|at| at.parse::<Timestamp>().ok());
    let typed = typed.map(|at| at.to_zoned(TimeZone::system()).strftime("%Y-%m-%dT%H:%M:%S").to_string());
    html! {
        details.card #travel open[is_open] {
            summary { "Go back in time" }
            div #stops data-from=(format!("/stops/{path}{query}")) data-open[is_open] {
                @if is_open {
                    (slider(visit, names, when).await)
                } @else {
                    p { a href="?slide=1" { "Choose among what changed here" } }
                }
            }
            form.row method="get" {
                label { "Any day and time" input #any-time type="datetime-local" name="at" step="1" required value=[typed]; }
                button { "Go there" }
            }
        }
    }
}

/// The stops alone, for the script, when somebody opens what they are in.
pub(super) async fn stops(visit: Visit) -> Answer {
    let (names, when) = (visit.names()?, when(&visit));
    let body = html! { div #stops data-open { (slider(&visit, &names, &when).await) } };
    Ok(layout::html(StatusCode::OK, &layout::document("p2pfs", None, &body)))
}

fn at(when: &When) -> Option<&str> {
    match when {
        When::At(at) => Some(at),
        _ => None,
    }
}

/// A moment as somebody reads it, or a snapshot's name.
pub(super) fn named(at: &str) -> String {
    shown(local(at).as_bytes())
}

/// With scripts a slider, without them a list.
async fn slider(visit: &Visit, names: &Names, when: &When) -> Markup {
    // What has no history, or none that may be seen, has no slider.
    let events = visit.page.daemon.history(names, CHANGES).await.unwrap_or_default();
    let mut stops = changes(&events);
    let mut place = stops.len();
    if let Some(at) = at(when) {
        let arrival = match at.parse::<Timestamp>() {
            Ok(_) => None,
            Err(_) => {
                let snapshots = visit.page.daemon.snapshots().await.unwrap_or_default();
                snapshots.iter().find(|snapshot| snapshot.name == at).map(|snapshot| snapshot.arrival)
            }
        };
        place = reach(&mut stops, Stop { at: at.to_owned(), arrival });
    }
    let Some(first) = stops.first() else { return html! { p { "Nothing changed here that is kept." } } };
    html! {
        div #slide hidden {
            label { span.quiet { "Time" } input #slider type="range" min="0" max=(stops.len()) value=(place) step="1"; }
            p.slide { span { (named(&first.at)) } b #moment aria-live="polite" { "now" } span { "now" } }
        }
        form.row #choose method="get" {
            label { "As it was" select #moments name="at" {
                option value="" { "now" }
                @for (nth, stop) in stops.iter().enumerate().rev() {
                    option value=(stop.at) selected[nth == place] { (named(&stop.at)) }
                }
            } }
            button { "Show" }
        }
    }
}

/// What happened in a folder, as stops, the oldest first. The folder is there at each of them.
fn changes(events: &[Event]) -> Vec<Stop> {
    let of_itself = |event: &&Event| event.name.is_none();
    // What went with the folder went in the same commit.
    let is_there = |arrival| {
        let mut own = events.iter().filter(of_itself).filter(|event| event.arrival <= arrival);
        own.next().is_none_or(|last| last.kind.as_deref() == Some("directory"))
    };
    let mut stops: Vec<Stop> = Vec::new();
    for event in events.iter().rev().filter(|event| is_there(event.arrival)) {
        match stops.last_mut() {
            // (Of several that began to show at once the last is what is seen then.)
            Some(last) if last.at == event.at => last.arrival = Some(event.arrival),
            _ => stops.push(Stop { at: event.at.clone(), arrival: Some(event.arrival) }),
        }
    }
    stops
}

/// Finds a stop, or makes it one of its own between what came before and after it; at which place it is.
fn reach(stops: &mut Vec<Stop>, wanted: Stop) -> usize {
    if let Some(place) = stops.iter().position(|stop| stop.at == wanted.at) {
        return place;
    }
    let is_before = |stop: &Stop| match (wanted.arrival, stop.arrival) {
        (Some(wanted), Some(arrival)) => arrival <= wanted,
        // As moments: years need not have as many digits.
        _ => match (stop.at.parse::<Timestamp>(), wanted.at.parse::<Timestamp>()) {
            (Ok(stop), Ok(wanted)) => stop <= wanted,
            _ => true,
        },
    };
    let place = stops.partition_point(is_before);
    stops.insert(place, wanted);
    place
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(arrival: u64, name: Option<&str>, kind: Option<&str>) -> Event {
        serde_json::from_value(json!({
            "version": "", "name": name, "user": "alice", "device": "", "kind": kind, "size": null, "happened": "made",
            "from": null, "to": null, "file": null, "arrival": arrival, "at": format!("2026-11-22T09:15:00.{arrival:09}Z"),
        }))
        .unwrap()
    }

    fn stop(arrival: u64) -> Stop {
        Stop { at: format!("2026-11-22T09:15:00.{arrival:09}Z"), arrival: Some(arrival) }
    }

    #[test]
    fn the_folder_is_there_at_every_stop() {
        let events = [
            event(9, Some("c"), Some("file")),
            event(8, None, Some("directory")),
            event(5, Some("b"), None),
            event(5, None, None),
            event(4, Some("b"), Some("file")),
            event(4, Some("a"), Some("file")),
            event(3, None, Some("directory")),
        ];
        assert_eq!(changes(&events), [3, 4, 8, 9].map(stop));
        assert_eq!(changes(&events[..1]), [stop(9)], "not all of it need be known");
        assert!(changes(&[]).is_empty());
    }

    #[test]
    fn any_time_and_any_snapshot_has_a_place() {
        let all = || -> Vec<Stop> { [3, 4, 8].map(stop).into() };
        let check = |at: &str, arrival, place: usize, count: usize| {
            let mut stops = all();
            assert_eq!(reach(&mut stops, Stop { at: at.to_owned(), arrival }), place, "{at}");
            assert_eq!((stops.len(), stops[place].at.as_str()), (count, at));
        };
        check("2026-11-22T09:15:00.000000004Z", None, 1, 3);
        check("2026-11-22T09:15:00.000000005Z", None, 2, 4);
        check("2026-11-22T09:14:00.000000000Z", None, 0, 4);
        check("2027-01-01T00:00:00.000000000Z", None, 3, 4);
        check("before the party", Some(4), 2, 4);
        check("before the party", Some(7), 2, 4);
        check("gone", None, 3, 4);
    }
}
