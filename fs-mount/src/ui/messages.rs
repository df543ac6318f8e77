//! Messages between members, by whom they are with.

use axum::{http::StatusCode, response::IntoResponse};
use maud::{Markup, html};
use volume::{Letter, letters::ALL};

use super::{
    forms::{Answer, Problem, Visit},
    layout::{self, Room, empty, stamp},
    links::{encoded_value, shown_text},
};
use crate::control::{
    letters::check,
    request::{AboutLetters, Bytes, Request},
};

/// As many of a conversation are shown.
const SHOWN: usize = 300;

pub(super) async fn show(visit: Visit) -> Answer {
    let users = visit.page.daemon.users().await?;
    let with = visit.query.get("with").map(str::to_owned);
    let before = visit.query.get("before").and_then(|before| before.parse().ok());
    let names = users.iter().map(|user| user.name.clone()).collect();
    let talk = visit.page.talks.look(&visit.page.daemon, names, with.as_deref(), before, SHOWN).await?;
    let others: Vec<&str> =
        users.iter().filter(|user| !user.me && user.role != "keeper").map(|user| user.name.as_str()).collect();
    let tab = |name: Option<&str>, label: &str| {
        let unread = name.map_or(0, |name| talk.unread.with(name));
        html! { li { a href=(address(name, None)) aria-current=[(with.as_deref() == name).then_some("page")] {
            (label) @if unread > 0 { " " span.badge { (unread) span.quiet { " unread" } } }
        } } }
    };
    let body = html! {
        nav.where aria-label="Conversations" { ul.tabs #talks data-live="letters" {
            (tab(None, "All"))
            (tab(Some(ALL), "To everybody"))
            @for name in &others { (tab(Some(name), name)) }
        } }
        @if before.is_some() { p { a href=(address(with.as_deref(), None)) { "To the newest" } } }
        div #letters data-live="letters" {
            @if let Some(older) = talk.older { p { a href=(address(with.as_deref(), Some(older))) { "Older messages" } } }
            (said(&visit, &talk.letters, with.as_deref()))
        }
        @if others.is_empty() {
            section.card { p { "Nobody else is in the volume yet." } a.button.primary href="/people#invite" { "Invite somebody" } }
        } @else {
            form.card method="post" action="/messages/send" {
                (visit.csrf())
                @match &with {
                    Some(to) => { input type="hidden" name="to" value=(to); }
                    None => { p { label { "To" select name="to" {
                        @for name in &others { option value=(name) { (name) } }
                        option value=(ALL) { "everybody" }
                    } } } }
                }
                p { label { "Message" textarea #say name="text" rows="2" required maxlength="16000" autofocus[with.is_some()] aria-describedby="how" {} } }
                div.row { button.primary { "Send" } span.soft #how { "Return sends; Shift and Return makes a line." } }
            }
        }
    };
    layout::page(&visit, Room::Messages, "Messages", body).await
}

/// Where a conversation is shown, or what was before a message in it.
fn address(with: Option<&str>, before: Option<u64>) -> String {
    let with = with.map(|with| format!("with={}", encoded_value(with.as_bytes())));
    let query: Vec<String> = with.into_iter().chain(before.map(|before| format!("before={before}"))).collect();
    if query.is_empty() { "/messages".to_owned() } else { format!("/messages?{}", query.join("&")) }
}

fn said(visit: &Visit, letters: &[Letter], with: Option<&str>) -> Markup {
    if letters.is_empty() {
        return empty(
            "No messages yet",
            html! { p { "They go straight to the devices of whom they are for, and wait for who is away." } },
        );
    }
    let unread: Vec<String> =
        letters.iter().filter(|letter| !letter.read && !letter.own).map(|letter| letter.n.to_string()).collect();
    html! {
        ol.talk {
            @for letter in letters {
                li.own[letter.own] {
                    p.from {
                        b { (letter.from) } " to " (if letter.to == ALL { "everybody" } else { &letter.to }) " · " (stamp(letter.sent))
                        @if letter.waiting > 0 { " · " (letter.waiting) " of their devices still to get it" }
                    }
                    p.text dir="auto" { (shown_text(&letter.text)) }
                }
            }
        }
        // With scripts what is seen is read.
        @if !unread.is_empty() {
            form method="post" action="/messages/read" data-read="yes" {
                (visit.csrf())
                input type="hidden" name="numbers" value=(unread.join(" "));
                @if let Some(with) = with { input type="hidden" name="with" value=(with); }
                p { button { "Mark as read" } }
            }
        }
    }
}

pub(super) async fn send(visit: Visit) -> Answer {
    let to = visit.field("to")?.to_owned();
    // Browsers send lines as others end them.
    let text = visit.fields.get("text").unwrap_or_default().replace("\r\n", "\n");
    let text = text.trim().as_bytes().to_vec();
    check(&text).map_err(|why| Problem::unfit(&super::forms::sentence(&why.to_string())))?;
    let asked = AboutLetters::Send { to: to.clone(), text: Bytes(text) };
    visit.page.daemon.done(Request::Letters(asked)).await?;
    Ok(super::forms::see(&address(Some(&to), None)))
}

/// Notes what was shown as read.
pub(super) async fn read(visit: Visit) -> Answer {
    let numbers = visit.field("numbers")?.split(' ').map(str::parse).collect::<Result<Vec<u64>, _>>();
    let numbers = numbers.map_err(|_| Problem::unfit("Those are no numbers."))?;
    visit.page.daemon.done(Request::Letters(AboutLetters::Read { numbers: Some(numbers) })).await?;
    // A script needs no page.
    if visit.navigates {
        Ok(super::forms::see(&address(visit.fields.get("with"), None)))
    } else {
        Ok(StatusCode::NO_CONTENT.into_response())
    }
}
