//! Messages between members, by whom they are with.

use maud::{Markup, html};
use volume::{Letter, letters::ALL};

use super::{
    forms::{Answer, Problem, Visit},
    layout::{self, Room, empty, stamp},
    links::encoded_value,
};
use crate::{
    control::{
        letters::{check, is_with},
        request::{AboutLetters, Bytes, Request},
    },
    failure::Outcome,
};

/// As many of a conversation are shown.
const SHOWN: usize = 300;

pub(super) async fn show(visit: Visit) -> Answer {
    let (users, letters) = (visit.page.daemon.users().await?, all(&visit).await?);
    let with = visit.query.get("with").map(str::to_owned);
    let others: Vec<&str> =
        users.iter().filter(|user| !user.me && user.role != "keeper").map(|user| user.name.as_str()).collect();
    let meant = |letter: &&Letter| with.as_deref().is_none_or(|with| is_with(letter, with));
    let chosen: Vec<&Letter> = letters.iter().filter(meant).collect();
    let tab = |name: Option<&str>, label: &str| {
        let unread = letters.iter().filter(|letter| !letter.read && !letter.own);
        let unread = unread.filter(|letter| name.is_some_and(|name| is_with(letter, name))).count();
        let link = name.map_or_else(
            || "/messages".to_owned(),
            |name| format!("/messages?with={}", encoded_value(name.as_bytes())),
        );
        html! { li { a href=(link) aria-current=[(with.as_deref() == name).then_some("page")] {
            (label) @if unread > 0 { " " span.badge { (unread) span.quiet { " unread" } } }
        } } }
    };
    let body = html! {
        nav.where aria-label="Conversations" { ul.tabs #talks data-live="letters" {
            (tab(None, "All"))
            (tab(Some(ALL), "To everybody"))
            @for name in &others { (tab(Some(name), name)) }
        } }
        div #letters data-live="letters" { (talk(&chosen)) }
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

async fn all(visit: &Visit) -> Outcome<Vec<Letter>> {
    let (mut all, mut from) = (Vec::new(), 1);
    loop {
        let some = visit.page.daemon.letters(from).await?;
        let Some(last) = some.last() else { return Ok(all) };
        from = last.n + 1;
        all.extend(some);
    }
}

fn talk(letters: &[&Letter]) -> Markup {
    if letters.is_empty() {
        return empty(
            "No messages yet",
            html! { p { "They go straight to the devices of whom they are for, and wait for who is away." } },
        );
    }
    let unread: Vec<String> =
        letters.iter().filter(|letter| !letter.read && !letter.own).map(|letter| letter.n.to_string()).collect();
    let numbers = (!unread.is_empty()).then(|| unread.join(" "));
    html! {
        ol.talk data-read=[numbers] {
            @for letter in letters.iter().skip(letters.len().saturating_sub(SHOWN)) {
                li.own[letter.own] {
                    p.from {
                        b { (letter.from) } " to " (if letter.to == ALL { "everybody" } else { &letter.to }) " · " (stamp(letter.sent))
                        @if letter.waiting > 0 { " · " (letter.waiting) " of their devices still to get it" }
                    }
                    p.text dir="auto" { (letter.text) }
                }
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
    Ok(super::forms::see(&format!("/messages?with={}", encoded_value(to.as_bytes()))))
}

/// Notes what was shown as read.
pub(super) async fn read(visit: Visit) -> Answer {
    let numbers = visit.field("numbers")?.split(' ').map(str::parse).collect::<Result<Vec<u64>, _>>();
    let numbers = numbers.map_err(|_| Problem::unfit("Those are no numbers."))?;
    visit.page.daemon.done(Request::Letters(AboutLetters::Read { numbers: Some(numbers) })).await?;
    Ok(super::forms::see("/messages"))
}
