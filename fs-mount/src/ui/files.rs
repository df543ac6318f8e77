//! Folders: what is in them, now or then, and what can be done there.

use std::collections::BTreeSet;

use maud::{Markup, html};

use super::{
    content::{blocking, when},
    forms::{Answer, Problem, Visit},
    layout::{self, Room, empty, size, time},
    links::{self, encoded, encoded_value, shown},
    travel,
    tree::{Below, Entry, Kind, Listing, When},
};
use crate::{control::request::Names, output::count};

/// What the driver shows of the past, beside the volume's own names.
const PAST: &[u8] = b".p2pfs";
/// Where it shows what was removed.
const DELETED: &str = ".p2pfs/deleted";

pub(super) async fn show(visit: Visit) -> Answer {
    let (names, when) = (visit.names()?, when(&visit));
    let (tree, asked) = (visit.page.tree.clone(), (names.clone(), when.clone()));
    let (listing, gone) = blocking(move || {
        let listing = tree.list(&asked.0, &asked.1)?;
        let is_gone = |name: &[u8]| {
            let was = where_it_was(&[&asked.0[..], &[name.to_vec()]].concat());
            was.is_some_and(|was| tree.entry(&was, &When::Now).is_err())
        };
        // Beside what was removed are folders that are still there.
        let gone: BTreeSet<Vec<u8>> =
            listing.entries.iter().map(|entry| entry.name.clone()).filter(|name| is_gone(name)).collect();
        Ok((listing, gone))
    })
    .await?;
    let is_past = names.first().is_some_and(|name| name == PAST);
    let now = when == When::Now && !is_past;
    let path = encoded(&links::path(&names));
    let query = match &when {
        When::At(at) => format!("?at={}", encoded_value(at.as_bytes())),
        _ => String::new(),
    };
    let title = match names.last() {
        Some(_) if is_past => "Deleted files".to_owned(),
        Some(name) => shown(name),
        None => "Files".to_owned(),
    };
    let body = html! {
        (trail(&names, &query))
        // A script that brings the listing up to date takes neither this nor what is below.
        @if !is_past && visit.navigates { (travel::show(&visit, &names, &when).await) }
        @if now { div.now-only { (dropping(&path)) } }
        div #listing data-path=(path) {
            @if let When::At(at) = &when {
                p.warn { "This is how it was at " (travel::named(at)) ". " a href=(format!("/files/{path}")) { "Back to now" } }
                @if !names.is_empty() { p { (visit.button("/restore", "", "Bring back as it was then", &[("path", &path), ("at", at)])) } }
            }
            section.card.flush aria-label="What is in this folder" { (table(&visit, &names, &listing, &gone, &query)) }
        }
        @if now && visit.navigates { div.now-only { (tools(&visit, &names, &path).await) } }
        @if names.is_empty() && now { p { a href=(format!("/files/{DELETED}/")) { "Deleted files" } } }
    };
    layout::page(&visit, Room::Files, &title, body).await
}

/// Where it is: each folder above, to go there, at the same time.
pub(super) fn trail(names: &Names, query: &str) -> Markup {
    html! {
        div #trail data-path=(encoded(&links::path(names))) { @if !names.is_empty() {
            nav.where aria-label="Where this is" { ol.path {
                li { a href=(format!("/files/{query}")) { "Files" } }
                @for end in 1..=names.len() {
                    @let above = names[..end].to_vec();
                    @if end < names.len() {
                        li { a href=(format!("/files/{}/{query}", encoded(&links::path(&above)))) { bdi { (shown(&above[end - 1])) } } }
                    } @else {
                        li aria-current="page" { bdi { (shown(&above[end - 1])) } }
                    }
                }
            } }
        } }
    }
}

/// A moment by this machine's clock, as text.
pub(super) fn local(moment: &str) -> String {
    let plain = moment.split('+').next().unwrap_or(moment);
    let plain = if plain.ends_with('Z') { plain.to_owned() } else { format!("{plain}Z") };
    plain.parse::<jiff::Timestamp>().map_or_else(
        |_| moment.to_owned(),
        |at| {
            let at = at.to_zoned(jiff::tz::TimeZone::system());
            let is_today = at.date() == jiff::Zoned::now().date();
            at.strftime(if is_today { "today %H:%M:%S" } else { "%Y-%m-%d %H:%M:%S" }).to_string()
        },
    )
}

fn table(visit: &Visit, names: &Names, listing: &Listing, gone: &BTreeSet<Vec<u8>>, query: &str) -> Markup {
    if listing.entries.is_empty() {
        let deleted = names.first().is_some_and(|name| name == PAST);
        return match deleted {
            true => empty("Nothing was deleted here", html! {}),
            false => empty(
                "Nothing is in this folder",
                html! { p { "Drop files here, or save them into the mounted folder with any program." } },
            ),
        };
    }
    let at = |name: &[u8]| encoded(&links::path(&[&names[..], &[name.to_vec()]].concat()));
    let was =
        |name: &[u8]| where_it_was(&[&names[..], &[name.to_vec()]].concat()).map(|names| encoded(&links::path(&names)));
    html! {
        table.cards {
            thead { tr { th { "Name" } th.number { "Size" } th { "Changed" } th { span.quiet { "What to do" } } } }
            tbody { @for entry in &listing.entries {
                tr {
                    td { (name(entry, &at(&entry.name), query)) }
                    td.number data-label="Size" { @if entry.kind == Kind::File { (size(entry.size)) } @else { span.soft { "–" } } }
                    td.when data-label="Changed" { (time(entry.modified)) }
                    td.act { @match (was(&entry.name), &entry.kind) {
                        (Some(path), Kind::File | Kind::Folder) if gone.contains(&entry.name) => { (visit.button("/restore", "small", "Bring back", &[("path", &path)])) }
                        (None, Kind::File) => { a.button.small href=(format!("/get/{}{query}", at(&entry.name))) download { "Download" span.quiet { " " (shown(&entry.name)) } } }
                        (None, Kind::Link(_) | Kind::Other) if query.is_empty() => { a.button.small href=(format!("/view/{}", at(&entry.name))) { "Rename or remove" span.quiet { " " (shown(&entry.name)) } } }
                        _ => {}
                    } }
                }
            } }
        }
        @if listing.more > 0 { p.empty { "… and " (listing.more) " more, which are not listed here." } }
    }
}

/// Where what is shown as removed was.
pub(super) fn where_it_was(names: &Names) -> Option<Names> {
    names.strip_prefix(&[PAST.to_vec(), b"deleted".to_vec()][..]).map(<[Vec<u8>]>::to_vec)
}

/// A name, with what leads to it.
fn name(entry: &Entry, path: &str, query: &str) -> Markup {
    let text = html! { bdi { (shown(&entry.name)) } };
    match &entry.kind {
        Kind::Folder => {
            html! { a.name href=(format!("/files/{path}/{query}")) { (glyph(&entry.kind)) span { (text) span.quiet { ", folder" } } } }
        }
        Kind::File => html! { a.name.file href=(format!("/view/{path}{query}")) { (glyph(&entry.kind)) (text) } },
        Kind::Link(to) => {
            html! { span.name.file { (glyph(&entry.kind)) span { (text) " " span.soft { "link to " bdi { (shown(to)) } } } } }
        }
        Kind::Other => {
            html! { span.name.file { (glyph(&entry.kind)) span { (text) " " span.soft { "can’t be looked at here" } } } }
        }
    }
}

fn glyph(kind: &Kind) -> Markup {
    let line = match kind {
        Kind::Folder => {
            "M3 6.5A1.5 1.5 0 0 1 4.5 5h4l2 2.5h9A1.5 1.5 0 0 1 21 9v8.5a1.5 1.5 0 0 1-1.5 1.5h-15A1.5 1.5 0 0 1 3 17.5z"
        }
        Kind::File | Kind::Other => "M6 3.5h8l4.5 4.5v12.5H6zM14 3.5V8h4.500",
        Kind::Link(_) => {
            "M10 14a4 4 0 0 0 6 .4l2.500-2.500a4 4 0 0 0-5.600-5.600L11.500 7.700M14 10a4 4 0 0 0-6-.4L5.500 12.100a4 4 0 0 0 5.600 5.600l1.400-1.400"
        }
    };
    html! { svg.glyph viewBox="0 0 24 24" aria-hidden="true" { path d=(line) {} } }
}

/// Where files are dropped: that needs a script, which shows it.
fn dropping(path: &str) -> Markup {
    html! {
        div.drop #drop data-to=(format!("/upload/{path}")) hidden {
            label.grow { "Add files: drop them anywhere on this page, or choose them" input #choose-files type="file" multiple; }
            ul aria-live="polite" {}
        }
    }
}

/// What can be done in this folder, and with it.
async fn tools(visit: &Visit, names: &Names, path: &str) -> Markup {
    html! {
        section.card {
            h2 { "New folder" }
            form.row method="post" action="/make-folder" {
                (visit.csrf())
                input type="hidden" name="path" value=(path);
                label.grow { "Name" input name="name" required maxlength="255" autocomplete="off"; }
                button { "Make it" }
            }
        }
        @if !names.is_empty() { (super::file::doings(visit, names, true).await) }
    }
}

/// Where a path's folder is shown.
pub(super) fn folder_of(names: &Names) -> String {
    match names.split_last() {
        Some((_, above)) if !above.is_empty() => format!("/files/{}/", encoded(&above.join(&b'/'))),
        _ => "/files/".to_owned(),
    }
}

pub(super) async fn make_folder(visit: Visit) -> Answer {
    let folder = visit.path_field("path")?;
    let name = links::new_name(visit.field("name")?).ok_or_else(bad_name)?;
    let (tree, new) = (visit.page.tree.clone(), [folder, vec![name]].concat());
    let asked = new.clone();
    blocking(move || tree.make_folder(&asked)).await?;
    visit.done(&folder_of(&new), "The folder is made.")
}

fn bad_name() -> Problem {
    Problem::unfit("A name has 1 to 255 bytes, and no slash.")
}

pub(super) async fn rename(visit: Visit) -> Answer {
    let from = visit.path_field("path")?;
    // With slashes: somewhere else, from the top on.
    let typed = visit.field("name")?;
    let to: Names = match typed.strip_prefix('/') {
        Some(whole) => whole.split('/').map(links::new_name).collect::<Option<_>>().ok_or_else(bad_name)?,
        None => {
            let above = from.split_last().map(|(_, above)| above.to_vec()).ok_or_else(Problem::missing)?;
            [above, vec![links::new_name(typed).ok_or_else(bad_name)?]].concat()
        }
    };
    let (tree, asked) = (visit.page.tree.clone(), to.clone());
    blocking(move || tree.rename(&from, &asked)).await?;
    visit.done(&folder_of(&to), "It has its new name.")
}

pub(super) async fn remove(mut visit: Visit) -> Answer {
    let names = visit.path_field("path")?;
    let (tree, asked) = (visit.page.tree.clone(), names.clone());
    if !visit.is_sure() {
        let below = blocking(move || tree.below(&asked)).await?;
        let has_more = below != Below::default();
        if has_more {
            // Only who was told what goes with it may have that removed, too.
            visit.fields.add("all", "yes");
        }
        let name = names.last().map(|name| shown(name)).unwrap_or_default();
        let detail = html! {
            p { bdi { b { (name) } } " is removed on everybody’s machine. Its versions are kept for a while: “Deleted files” brings it back." }
            @if has_more { p.warn {
                "With it " b {
                    @if below.more { "more than " }
                    (count(below.files, "file")) " (" (size(below.bytes)) ") in " (count(below.folders + 1, "folder"))
                } " go, which can be brought back in the same way."
            } }
        };
        let label = if has_more { "Remove all of it" } else { "Remove" };
        return visit.ask_first(Room::Files, "Remove it?", detail, label, &folder_of(&names)).await;
    }
    let all = visit.fields.get("all").is_some();
    blocking(move || tree.remove(&asked, all)).await?;
    visit.done(&folder_of(&names), "It is removed.")
}
