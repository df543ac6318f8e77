//! The audit log: what was done, by whom, and what was denied; as it happens.

use std::time::{Duration, Instant};

use maud::{Markup, html};
use volume::audit::{Entry, Op};

use super::{
    files::local,
    forms::{Answer, Visit},
    layout::{self, Room, empty},
    links::{Pairs, encoded_value, shown},
};

/// Entries that are looked through at once for those that are meant.
const LOOKED: u64 = 5000;
/// As many are shown at a time.
const SHOWN: usize = 200;
/// So long it is looked for as many. Whoever wants more of it goes on from there.
const BUDGET: Duration = Duration::from_millis(300);

pub(super) async fn show(visit: Visit) -> Answer {
    let end = visit.page.daemon.log(u64::MAX).await?.end;
    let last = visit.query.get("before").and_then(|n| n.parse().ok()).unwrap_or(end + 1).min(end + 1);
    let (mut entries, mut from, mut since) = (Vec::new(), last, None);
    let began = Instant::now();
    // An open page asks each second while something happens.
    let budget = if visit.navigates { BUDGET } else { BUDGET / 4 };
    // From the newest on, piece by piece; within a piece forward, as the daemon tells them.
    while from > 1 && entries.len() < SHOWN && (from == last || began.elapsed() < budget) {
        let until = from;
        from = from.saturating_sub(LOOKED).max(1);
        let (mut next, mut found) = (from, Vec::new());
        while next < until {
            let page = visit.page.daemon.log(next).await?;
            if page.next <= next {
                break;
            }
            if next == from {
                since = page.entries.first().map(|entry| local(&entry.time));
            }
            next = page.next;
            found.extend(page.entries.into_iter().filter(|entry| entry.n < until && is_meant(&visit, entry)));
        }
        found.append(&mut entries);
        entries = found;
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
        div #log data-filtered data-live=[visit.query.get("before").is_none().then_some("log")] {
            section.card.flush aria-label="Entries" { (table(&entries)) }
            @let before = older(&entries, from);
            @if let (Some(since), true) = (&since, before > 1 && before == from) {
                p.soft { "That is what there is of it in " (last - from) " entries, since " (since) "." }
            }
            @if before > 1 { p { a href=(format!("/log?before={before}{}", filters(&visit.query))) { "Older entries" } } }
        }
    };
    layout::page(&visit, Room::Log, "Log", body).await
}

/// Before which entry those are that weren't shown, when it was looked through from `from` on.
fn older(entries: &[Entry], from: u64) -> u64 {
    let hidden = entries.len().saturating_sub(SHOWN);
    if hidden > 0 { entries[hidden].n } else { from }
}

/// What filters the log, to be added to an address.
fn filters(query: &Pairs) -> String {
    let given = ["user", "op", "text", "denied"].into_iter().filter_map(|name| Some((name, query.get(name)?)));
    given.map(|(name, value)| format!("&{name}={}", encoded_value(value.as_bytes()))).collect()
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_entry_is_on_some_page() {
        let entry = |n: u64| -> Entry {
            serde_json::from_value(json!({ "n": n, "time": "", "op": "read", "allowed": true, "salt": "" })).unwrap()
        };
        let all: Vec<Entry> = (1..=7000).map(entry).collect();
        let (mut seen, mut last) = (Vec::new(), 7001_u64);
        while last > 1 {
            let from = last.saturating_sub(LOOKED).max(1);
            let found: Vec<Entry> = all.iter().filter(|entry| (from..last).contains(&entry.n)).cloned().collect();
            seen.extend(found.iter().rev().take(SHOWN).map(|entry| entry.n));
            last = older(&found, from);
        }
        assert_eq!(seen, (1..=7000).rev().collect::<Vec<u64>>());
        let few: Vec<Entry> = [3, 9].into_iter().map(entry).collect();
        assert_eq!(older(&few, 2), 2, "all that were found are shown");
    }

    #[test]
    fn older_entries_are_filtered_as_the_newer_ones() {
        let check = |query: &str, expected: &str| assert_eq!(filters(&Pairs::parse(query)), expected);
        check("user=bob&op=&text=a%26b+c&denied=yes&before=7", "&user=bob&text=a%26b%20c&denied=yes");
        check("", "");
    }
}
