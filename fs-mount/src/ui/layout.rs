//! The frame of every page: head, navigation, what was just done.

use axum::{
    body::Body,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use maud::{DOCTYPE, Markup, html};
use volume::time::Timestamp;

use super::{
    forms::{Answer, Problem, Visit},
    links::{encoded_value, shown},
    transfers,
};
use crate::{failure::Outcome, output::bytes, report::Status};

/// The parts of the page, in the order in which they are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    Overview,
    Files,
    Messages,
    Transfers,
    Conflicts,
    People,
    Log,
    Alerts,
    Settings,
}

const ROOMS: [(Room, &str, &str); 9] = [
    (Room::Overview, "/", "Overview"),
    (Room::Files, "/files/", "Files"),
    (Room::Messages, "/messages", "Messages"),
    (Room::Transfers, "/transfers", "Transfers"),
    (Room::Conflicts, "/conflicts", "Conflicts"),
    (Room::People, "/people", "People"),
    (Room::Log, "/log", "Log"),
    (Room::Alerts, "/alerts", "Alerts"),
    (Room::Settings, "/settings", "Settings"),
];

/// A page with this in the middle.
pub(super) async fn page(visit: &Visit, room: Room, title: &str, body: Markup) -> Answer {
    // Without the daemon there is nothing else to show either.
    let waiting = Waiting::now(visit).await?;
    Ok(html(StatusCode::OK, &framed(visit, Some(&waiting), Some(room), title, &body)))
}

/// The page of a problem, for somebody who was let in.
pub(super) async fn problem(visit: &Visit, problem: &Problem) -> Response {
    let waiting = Waiting::now(visit).await.ok();
    let body = html! {
        section.card.ask role="alert" {
            p { (problem.text) }
            div.buttons { a.button.primary href="/" { "Overview" } a.button href="/files/" { "Files" } }
        }
    };
    html(problem.status, &framed(visit, waiting.as_ref(), None, &problem.title, &body))
}

/// What is live of every page's frame, for the script: made of what the daemon says, without a look at any file. What a page is
/// about may cost more, and be read from far away.
pub(super) async fn frame(visit: Visit) -> Answer {
    let waiting = Waiting::now(&visit).await?;
    let room = ROOMS.iter().find(|(_, link, _)| visit.query.get("in") == Some(link)).map(|(room, ..)| *room);
    let body = html! { (online(&waiting.status, room)) nav { (rooms(Some(&waiting), room)) } };
    Ok(html(StatusCode::OK, &document("p2pfs", None, &body)))
}

fn framed(visit: &Visit, waiting: Option<&Waiting>, room: Option<Room>, title: &str, body: &Markup) -> Markup {
    let status = waiting.map(|waiting| &waiting.status);
    // For whoever goes somewhere; not for a page that is brought up to date in another window.
    let take_said = || visit.page.sessions.change(&visit.session, |session| session.said.take()).flatten();
    let said = if visit.navigates { take_said() } else { None };
    let volume = status.map_or("p2pfs", |status| status.volume.as_str());
    document(
        &format!("{title} · {volume}"),
        Some((&visit.session.csrf, visit.seen)),
        &html! {
            a.skip href="#main" { "Skip to the content" }
            header.top {
                a.brand href="/" { span.mark aria-hidden="true" {} span { (volume) } }
                @if let Some(status) = status {
                    p.who { (online(status, room)) " · " b { (status.user) } }
                }
            }
            nav aria-label="Parts of the page" { (rooms(waiting, room)) }
            main #main tabindex="-1" {
                h1 { (title) }
                @if let Some(said) = said { p.said role="status" { (said) } }
                (body)
            }
            p #announce.quiet aria-live="polite" {}
            p #lost.lost role="status" hidden { "Not connected to the daemon. What is shown may be old; trying again. If the volume was unmounted, run p2pfs ui again." }
        },
    )
}

/// Where the live parts of the frame are fetched anew.
fn frame_of(room: Option<Room>) -> String {
    let link = ROOMS.iter().find(|(each, ..)| room == Some(*each)).map_or("", |(_, link, _)| link);
    format!("/frame?in={}", encoded_value(link.as_bytes()))
}

fn online(status: &Status, room: Option<Room>) -> Markup {
    let text = match (status.peers_connected, status.peers_known) {
        (_, 0) => "only you".to_owned(),
        (online, known) => format!("{online} of {known} online"),
    };
    html! { span #online data-live="frame" data-from=(frame_of(room)) { (text) } }
}

fn rooms(waiting: Option<&Waiting>, room: Option<Room>) -> Markup {
    html! {
        ul #rooms data-live="frame" data-from=(frame_of(room)) {
            @for (each, link, name) in ROOMS {
                li { a href=(link) aria-current=[(room == Some(each)).then_some("page")] {
                    (name)
                    @let count = waiting.map_or(0, |waiting| waiting.of(each));
                    @if count > 0 { " " span.badge { (count) span.quiet { " " (unit(each)) } } }
                } }
            }
        }
    }
}

/// What waits for somebody to look at it, in the parts of the page.
struct Waiting {
    status: Status,
    /// What others offered to send.
    offered: u64,
}

impl Waiting {
    async fn now(visit: &Visit) -> Outcome<Self> {
        let (status, transfers) = tokio::try_join!(visit.page.daemon.status(), visit.page.daemon.transfers())?;
        let offered = transfers.iter().filter(|transfer| transfers::is_offered(transfer)).count() as u64;
        Ok(Self { status, offered })
    }

    fn of(&self, room: Room) -> u64 {
        match room {
            Room::Messages => self.status.unread,
            Room::Transfers => self.offered,
            Room::Conflicts => self.status.conflicts,
            Room::Alerts => self.status.alerts,
            Room::People => self.status.kept_aside,
            _ => 0,
        }
    }
}

fn unit(room: Room) -> &'static str {
    match room {
        Room::Messages => "unread",
        Room::Transfers => "offered",
        Room::People => "kept aside",
        _ => "open",
    }
}

/// A whole document, with the secret of a session's forms and what its page has seen; without, for who isn't let in.
pub(super) fn document(title: &str, session: Option<(&str, u64)>, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                @if let Some((csrf, seen)) = session { meta name="csrf" content=(csrf); meta name="seen" content=(seen); }
                title { (title) }
                link rel="icon" href="/assets/icon.svg";
                link rel="stylesheet" href="/assets/style.css";
                script src="/assets/page.js" defer {}
            }
            body { (body) }
        }
    }
}

pub(super) fn html(status: StatusCode, markup: &Markup) -> Response {
    let response = Response::builder().status(status).header(header::CONTENT_TYPE, "text/html; charset=utf-8");
    response.body(Body::from(markup.0.clone())).unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

/// A moment by this machine's clock and zone, short; whole in what a pointer shows.
pub(super) fn time(seconds: i64) -> Markup {
    let Ok(at) = jiff::Timestamp::from_second(seconds) else { return html! { "@" (seconds) } };
    let zoned = at.to_zoned(jiff::tz::TimeZone::system());
    let today = jiff::Zoned::now().date() == zoned.date();
    let short = zoned.strftime(if today { "%H:%M" } else { "%Y-%m-%d %H:%M" });
    html! { time datetime=(at) title=(zoned.strftime("%A, %-d %B %Y, %H:%M:%S %Z")) { (short.to_string()) } }
}

/// The same of one of the volume's moments.
pub(super) fn stamp(at: Timestamp) -> Markup {
    time(at.secs)
}

/// The same of one that was told as text; as it is if it is none.
pub(super) fn moment(text: &str) -> Markup {
    match text.split('+').next().unwrap_or(text).trim_end_matches('Z').parse::<jiff::civil::DateTime>() {
        Ok(at) => match at.to_zoned(jiff::tz::TimeZone::UTC) {
            Ok(at) => time(at.timestamp().as_second()),
            Err(_) => html! { (shown(text.as_bytes())) },
        },
        Err(_) => html! { (shown(text.as_bytes())) },
    }
}

/// A number of bytes.
pub(super) fn size(count: u64) -> String {
    bytes(count)
}

/// What is shown where nothing is.
pub(super) fn empty(title: &str, next: Markup) -> Markup {
    html! { div.empty { p.big { (title) } (next) } }
}

/// The first digits of an id, with all of it for who points there.
pub(super) fn short(id: &str) -> Markup {
    html! { code title=(id) { (id.get(..8).unwrap_or(id)) } }
}
