//! A file: what is in it, its versions, who may use it, and what can be done with it.

use fs_mount::moment;
use jiff::Zoned;
use maud::{Markup, html};

use super::{
    content::{Preview, blocking, preview, when},
    files::{folder_of, local, trail, where_it_was},
    forms::{Answer, Problem, Visit},
    layout::{self, Room, empty, size, time},
    links::{self, encoded, encoded_value, shown, shown_text},
    travel,
    tree::{Kind, When},
};
use crate::{
    bringing_back::{self, Moment},
    control::request::{AboutAccess, Names, Request},
    history_report::Event,
    output::count,
};

/// Versions that are listed.
const VERSIONS: usize = 200;

pub(super) async fn show(visit: Visit) -> Answer {
    let (names, when) = (visit.names()?, when(&visit));
    let (tree, asked) = (visit.page.tree.clone(), (names.clone(), when.clone()));
    let (entry, is_there) = blocking(move || {
        let entry = tree.entry(&asked.0, &asked.1)?;
        Ok((entry, asked.1 == When::Now || tree.entry(&asked.0, &When::Now).is_ok_and(|now| now.kind == Kind::File)))
    })
    .await?;
    match entry.kind {
        Kind::File => {}
        Kind::Folder => return Ok(super::forms::see(&format!("/files/{}/", encoded(&links::path(&names))))),
        Kind::Link(_) | Kind::Other if when == When::Now => return show_other(&visit, &names, &entry.kind).await,
        Kind::Link(_) | Kind::Other => {
            return Err(Problem::unfit("It is no file: there is nothing to show of it here."));
        }
    }
    // Not all of it may be here: then the rest of the page is.
    let preview = preview(&visit).await;
    // What was removed has its versions where it was.
    let was = where_it_was(&names);
    let events = match &was {
        Some(_) => Vec::new(),
        // Whoever may not read it any more isn't left looking at what they could read.
        None => visit.page.daemon.history(&names, VERSIONS).await.unwrap_or_default(),
    };
    let path = encoded(&links::path(&names));
    let query = match &when {
        When::Now => String::new(),
        When::At(at) => format!("?at={}", encoded_value(at.as_bytes())),
        When::Version(version) => format!("?version={}", encoded_value(version.as_bytes())),
    };
    let body = html! {
        (trail(&names, if matches!(when, When::At(_)) { &query } else { "" }))
        div #content data-path=(path) {
            @match &when {
                When::Now => {}
                When::At(at) => { p.warn {
                    "This is how it was at " (travel::named(at)) ". "
                    @if is_there { a href=(format!("/view/{path}")) { "Show what is there now" } } @else { "It is not there any more." }
                } }
                When::Version(at) => { p.warn {
                    "This is an older version, of " (layout::moment(at.split('~').next().unwrap_or(at))) ". "
                    @if is_there { a href=(format!("/view/{path}")) { "Show what is there now" } } @else { "It is not there any more." }
                } }
            }
            @if was.is_some() { p.warn { "This was deleted, and is kept for a while." } }
            section.card.flush aria-label="What is in it" {
                @match preview {
                    Ok(Preview::Text(text, _)) if text.is_empty() => { (empty("The file is empty", html! {})) }
                    Ok(Preview::Text(text, whole)) => {
                        pre.preview tabindex="0" dir="auto" { (shown_text(&text)) }
                        @if !whole { p.empty { "This is the beginning. Download the file for all of it." } }
                    }
                    Ok(Preview::Image) => { img.picture src=(format!("/image/{path}{query}")) alt=(names.last().map(|name| shown(name)).unwrap_or_default()); }
                    Ok(Preview::Nothing) => { (empty("It can’t be shown here", html! { p { "Download it to open it with a program." } })) }
                    Err(problem) => { (empty(&problem.title, html! { p { (problem.text) } })) }
                }
            }
            div.row {
                a.button.primary href=(format!("/get/{path}{query}")) download { "Download" }
                @match &when {
                    When::Now => {}
                    When::At(at) => { (visit.button("/restore", "", "Bring back as it was then", &[("path", &path), ("at", at)])) }
                    When::Version(version) => { (visit.button("/restore", "", "Bring back this version", &[("path", &path), ("version", version)])) }
                }
                @if let Some(was) = &was { (visit.button("/restore", "", "Bring back", &[("path", &encoded(&links::path(was)))])) }
                span.soft { (size(entry.size)) ", changed " (time(entry.modified)) }
            }
        }
        br;
        @if was.is_none() { div #versions data-path=(path) { (versions(&visit, &path, &events, &when, is_there)) } }
        // A script that brings this up to date doesn't take what is below.
        @if was.is_none() && when == When::Now && visit.navigates { div.now-only { (doings(&visit, &names, false).await) } }
    };
    let title = names.last().map(|name| shown(name)).unwrap_or_default();
    layout::page(&visit, Room::Files, &title, body).await
}

/// What is no file: it can have another name, or go.
async fn show_other(visit: &Visit, names: &Names, kind: &Kind) -> Answer {
    let path = encoded(&links::path(names));
    let body = html! {
        (trail(names, ""))
        div #content data-path=(path) { section.card { p {
            @match kind {
                Kind::Link(to) => { "This is a link to " bdi { (shown(to)) } ". Links are not followed here: they may lead anywhere on this machine." }
                _ => { "This can’t be looked at here." }
            }
        } } }
        div.now-only { (changing(visit, names, &path, "it")) }
    };
    let title = names.last().map(|name| shown(name)).unwrap_or_default();
    layout::page(visit, Room::Files, &title, body).await
}

fn versions(visit: &Visit, path: &str, events: &[Event], when: &When, is_there: bool) -> Markup {
    // What is there needn't be brought back. Of what is gone the last version is the one that is wanted most.
    let shows = events.first().filter(|_| is_there).map(|event| event.version.as_str());
    html! {
        section.card.flush aria-labelledby="versions-title" {
            h2 #versions-title { "Versions" }
            table.cards {
                thead { tr { th { "Since" } th { "By" } th { "What" } th.number { "Size" } th { span.quiet { "What to do" } } } }
                tbody { @for event in events { tr {
                    td.tight { (local(&event.version)) @if matches!(when, When::Version(shown) if event.file.as_ref() == Some(shown)) { " " span.tag { "shown" } } }
                    td data-label="By" { (event.user) }
                    td data-label="What" { (happened(event)) }
                    td.number data-label="Size" { @if let Some(bytes) = event.size { (size(bytes)) } @else { "–" } }
                    td.act { @if let Some(file) = &event.file {
                        a.button.small href=(format!("/view/{path}?version={}", encoded_value(file.as_bytes()))) { "Show" span.quiet { " the version of " (local(&event.version)) } } " "
                        @if shows != Some(event.version.as_str()) {
                            (visit.button("/restore", "small", "Bring back", &[("path", path), ("version", file)]))
                        }
                    } }
                } } }
            }
        }
    }
}

fn happened(event: &Event) -> Markup {
    let path = |word: &str, path: &Option<String>| html! { @if let Some(path) = path { " " (word) " " bdi { (shown(path.as_bytes())) } } };
    match event.happened.as_str() {
        "made" => html! { "made" },
        "written" => html! { "written" },
        "attributes" => html! { "attributes changed" },
        "replaced" => html! { "replaced" },
        "moved_here" => html! { "moved here" (path("from", &event.from)) },
        "appeared" => html! { "shown again" },
        "moved_away" => html! { "moved away" (path("to", &event.to)) },
        _ => html! { "removed" },
    }
}

/// Who may use something, another name for it, and removing it.
pub(super) async fn doings(visit: &Visit, names: &Names, folder: bool) -> Markup {
    let what = if folder { "this folder" } else { "this file" };
    let path = encoded(&links::path(names));
    let access = visit.page.daemon.access(names.clone()).await;
    html! {
        details.card #permissions {
            summary { "Who may use " (what) }
            @match access {
                Err(why) => { p { (super::forms::sentence(&why.to_string())) } }
                Ok(access) => {
                    p { "It belongs to " b { (access.owner) } @if access.members_read { "; all members may read it." } @else { "; only who is named may read it." } }
                    table.cards {
                        thead { tr { th { "Who" } th { "May" } th { "Why" } th { span.quiet { "What to do" } } } }
                        tbody { @for user in &access.users { tr {
                            td { (user.user) }
                            td data-label="May" { (match (user.reads, user.writes) { (true, true) => "read and write", (true, false) => "read", (false, true) => "write", _ => "nothing" }) }
                            td data-label="Why" { (user.why) }
                            td.act { @if access.mine_to_change && user.user != access.owner {
                                form.row method="post" action="/allow" {
                                    (visit.csrf())
                                    input type="hidden" name="path" value=(path);
                                    input type="hidden" name="user" value=(user.user);
                                    select name="may" aria-label=(format!("What {} may", user.user)) {
                                        option value="" selected[!user.reads] { "nothing" }
                                        option value="r" selected[user.reads && !user.writes] { "read" }
                                        option value="rw" selected[user.writes] { "read and write" }
                                    }
                                    button.small { "Set" span.quiet { " for " (user.user) } }
                                }
                            } }
                        } } }
                    }
                }
            }
        }
        (super::transfers::sending(visit, &path, what).await)
        (changing(visit, names, &path, what))
    }
}

/// Another name for something, and removing it.
fn changing(visit: &Visit, names: &Names, path: &str, what: &str) -> Markup {
    let name = names.last().map(|name| String::from_utf8_lossy(name).into_owned()).unwrap_or_default();
    html! {
        details.card #change {
            summary { "Rename or remove " (what) }
            form.row method="post" action="/rename" {
                (visit.csrf())
                input type="hidden" name="path" value=(path);
                label.grow { "Name (or, beginning with /, where to move it)" input name="name" required value=(name) autocomplete="off"; }
                button { "Rename" }
            }
            br;
            (visit.button("/remove", "danger", &format!("Remove {what}"), &[("path", path)]))
        }
    }
}

/// Brings back a version, what was at a time, or what was removed.
pub(super) async fn restore(visit: Visit) -> Answer {
    let names = visit.path_field("path")?;
    let when = match (visit.fields.get("version"), visit.fields.get("at")) {
        (Some(version), _) => bringing_back::When::Version(version.to_owned()),
        (None, Some(at)) => match moment::parse(at, &Zoned::now()) {
            Some(at) => bringing_back::When::Moment(Moment::of(at)),
            None => bringing_back::When::Snapshot(at.to_owned()),
        },
        (None, None) => bringing_back::When::LastChange,
    };
    if let Some(at) = visit.fields.get("at").filter(|_| !visit.is_sure()) {
        let would = visit.page.daemon.restore(names.clone(), when.clone(), true).await?;
        // A file's versions stay beside each other. In a folder it may be more than somebody sees.
        if would.directory {
            let name = names.last().map(|name| shown(name)).unwrap_or_default();
            let detail = html! {
                p { bdi { b { (name) } } " becomes as it was at " (travel::named(at)) ": " (count(would.changes, "change")) ", on everybody’s machine." }
                p { "What was made there since stays; what is changed by this has what it was as an older version." }
            };
            let back = format!("/files/{}/?at={}", encoded(&links::path(&names)), encoded_value(at.as_bytes()));
            return visit.ask_first(Room::Files, "Bring it back?", detail, "Bring it back", &back).await;
        }
    }
    let restored = visit.page.daemon.restore(names.clone(), when, false).await?;
    if restored.left > 0 {
        let why = restored.in_the_way.first().map_or("something is in the way", |left| left.why.as_str());
        return Err(Problem::unfit(&super::forms::sentence(why)));
    }
    let said = format!("It is as it was at {}. What was there before is a version of its own.", local(&restored.shown));
    match restored.directory {
        true => visit.done(&folder_of(&names), &said),
        false => visit.done(&format!("/view/{}", encoded(&links::path(&names))), &said),
    }
}

pub(super) async fn allow(visit: Visit) -> Answer {
    let path = visit.path_field("path")?;
    let may = visit.fields.get("may").unwrap_or_default();
    let user = visit.field("user")?.to_owned();
    let asked = AboutAccess::Allow {
        path: path.clone(),
        user: user.clone(),
        read: may.contains('r'),
        write: may.contains('w'),
    };
    visit.page.daemon.done(Request::Access(asked)).await?;
    let said = format!("What {user} may is set, on everybody’s machine.");
    visit.done(&format!("/view/{}", encoded(&links::path(&path))), &said)
}
