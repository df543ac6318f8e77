//! The audit log: what was done, by whom, and what was denied; as it happens.

use maud::{Markup, html};
use volume::audit::{Entry, Op};

use super::{
    files::local,
    forms::{Answer, Visit},
    layout::{self, Room, empty},
    links::shown,
};

/// Entries that are looked through for those that are meant, and shown of them.
const LOOKED: u64 = 5000;
const SHOWN: usize = 200;

pub(super) async fn show(visit: Visit) -> Answer {
    let end = visit.page.daemon.log(u64::MAX).await?.end;
    let last = visit.query.get("before").and_then(|n| n.parse().ok()).unwrap_or(end + 1).min(end + 1);
    let from = last.saturating_sub(LOOKED).max(1);
    let mut entries = Vec::new();
    let mut next = from;
    while next < last {
        let page = visit.page.daemon.log(next).await?;
        if page.next <= next {
            break;
        }
        next = page.next;
        entries.extend(page.entries.into_iter().filter(|entry| entry.n < last && is_meant(&visit, entry)));
    }
    let users: Vec<String> = visit.page.daemon.users().await?.into_iter().map(|user| user.name).collect();
    let get = |name: &str| visit.query.get(name).unwrap_or_default().to_owned();
    let (user, op) = (get("user"), get("op"));
    let body = html! {
        form.card.row method="get" data-filter="log" role="search" aria-label="Filter the log" {
            label { "Who" select name="user" {
                option value="" { "everybody" }
                @for each in &users { option value=(each) selected[*each == user] { (each) } }
            } }
            label { "What" select name="op" {
                option value="" { "everything" }
                @for (word, _) in Op::ALL { option value=(word) selected[word == op] { (word.replace('_', " ")) } }
            } }
            label.grow { "Path or words" input type="search" name="text" value=(get("text")); }
            label.tick { input type="checkbox" name="denied" value="yes" checked[visit.query.get("denied").is_some()]; "only what was denied" }
            button { "Filter" }
        }
        div #log data-live=[visit.query.get("before").is_none().then_some("log")] {
            section.card.flush aria-label="Entries" { (table(&entries)) }
            @if from > 1 { p { a href=(format!("/log?before={from}&user={user}&op={op}")) { "Older entries" } } }
        }
    };
    layout::page(&visit, Room::Log, "Log", body).await
}

fn is_meant(visit: &Visit, entry: &Entry) -> bool {
    let query = &visit.query;
    let contains =
        |text: &Option<String>, words: &str| text.as_ref().is_some_and(|text| text.to_lowercase().contains(words));
    (query.get("denied").is_none() || !entry.allowed)
        && query.get("user").is_none_or(|user| entry.user.as_deref() == Some(user))
        && query.get("op").is_none_or(|op| entry.op.word() == op)
        && query.get("text").is_none_or(|text| {
            let words = text.to_lowercase();
            [&entry.path, &entry.to, &entry.note, &entry.why, &entry.program, &entry.device]
                .iter()
                .any(|text| contains(text, &words))
        })
}

fn table(entries: &[Entry]) -> Markup {
    if entries.is_empty() {
        return empty(
            "Nothing like that is in the log",
            html! { p { "Take a filter away, or wait: new entries show as they come." } },
        );
    }
    html! {
        table.cards.log {
            thead { tr { th { "When" } th { "Who" } th { "What" } th { "With what" } th { "Outcome" } } }
            tbody { @for entry in entries.iter().rev().take(SHOWN) { tr class=[(!entry.allowed).then_some("denied")] {
                td.tight { (local(&entry.time)) }
                td data-label="Who" { (who(entry)) }
                td data-label="What" { (entry.op.word().replace('_', " ")) }
                td.wide data-label="With what" {
                    @if let Some(path) = &entry.path { bdi { (shown(path.as_bytes())) } }
                    @if let Some(to) = &entry.to { " → " bdi { (shown(to.as_bytes())) } }
                    @if let Some(note) = &entry.note { " " span.soft { (shown(note.as_bytes())) } }
                }
                td data-label="Outcome" { @if entry.allowed { span.soft { "allowed" } } @else { span.tag.bad { "denied" } " " (entry.why.as_deref().map(|why| shown(why.as_bytes())).unwrap_or_default()) } }
            } } }
        }
    }
}

fn who(entry: &Entry) -> Markup {
    html! {
        (entry.user.as_deref().unwrap_or("–"))
        @match (&entry.program, &entry.device) {
            (Some(program), _) => { " " span.soft { "with " (shown(program.as_bytes())) } }
            (None, Some(device)) if entry.pid.is_none() => { " " span.soft { "on " (device.get(..8).unwrap_or(device)) } }
            _ => {}
        }
    }
}
