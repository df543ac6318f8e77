//! What several made at once under one name, to be looked at and settled.

use maud::{Markup, html};

use super::{
    files::local,
    forms::{Answer, Problem, Visit},
    layout::{self, Room, empty, short, size},
    links::{encoded, shown},
};
use crate::control::{
    conflicts::{Choice, Conflict, Version},
    request::{Bytes, Request},
};

/// Conflicts that are shown at once. What is settled makes room for others.
const SHOWN: usize = 100;

pub(super) async fn show(visit: Visit) -> Answer {
    let found = visit.page.daemon.conflicts().await?;
    let body = html! {
        div #conflicts data-live="conflicts" {
            @if found.conflicts.is_empty() {
                (empty("No conflicts", html! { p { "When two change one file while apart, both versions are kept, and shown here." } }))
            }
            @for conflict in found.conflicts.iter().take(SHOWN) { (one(&visit, conflict)) }
            @let more = found.conflicts.len().saturating_sub(SHOWN) as u64 + found.more;
            @if more > 0 { p.empty { "… and " (more) " more, which show when some of these are settled." } }
        }
    };
    layout::page(&visit, Room::Conflicts, "Conflicts", body).await
}

fn one(visit: &Visit, conflict: &Conflict) -> Markup {
    let path = encoded(&conflict.path_hex.0);
    let above =
        conflict.path_hex.0.iter().rposition(|byte| *byte == b'/').map_or(&b""[..], |end| &conflict.path_hex.0[..=end]);
    let link = |version: &Version| match version.kind.as_str() {
        "folder" => format!("/files/{}{}/", encoded(above), encoded(&version.name_hex.0)),
        _ => format!("/view/{}{}", encoded(above), encoded(&version.name_hex.0)),
    };
    html! {
        section.card.flush {
            h2 { bdi { (shown(&conflict.path_hex.0)) } }
            table.cards {
                thead { tr { th { "By" } th { "Shown as" } th { "Made" } th.number { "Size" } th { span.quiet { "What to do" } } } }
                tbody { @for version in &conflict.versions { tr {
                    td { b { (version.user) } @if version.mine { " (you)" } " " (short(&version.device)) }
                    td data-label="Shown as" { a href=(link(version)) { bdi { (shown(&version.name_hex.0)) } } @if version.own { " " span.tag { "another " (version.kind) } } }
                    td.when data-label="Made" { (local(&version.made)) }
                    td.number data-label="Size" { (size(version.size)) }
                    td.act { (visit.button("/conflicts/resolve", "small", &format!("Keep {}", if version.mine { "yours".to_owned() } else { format!("{}’s", version.user) }), &[
                        ("path", &path), ("keep", &encoded(&version.name_hex.0)),
                    ])) }
                } } }
            }
            div.head { p { (visit.button("/conflicts/resolve", "", "Keep both, under names of their own", &[("path", &path), ("both", "yes")])) } }
        }
    }
}

pub(super) async fn resolve(visit: Visit) -> Answer {
    let path = Bytes(visit.path_field("path")?.join(&b'/'));
    let keep = match visit.fields.get("both") {
        Some(_) => Choice::Both,
        None => {
            let name = visit.path_field("keep")?;
            Choice::Named(Bytes(name.into_iter().next().ok_or_else(Problem::missing)?))
        }
    };
    visit.page.daemon.done(Request::Resolve { path, keep }).await?;
    visit.done("/conflicts", "It is settled. What is not kept is an older version.")
}
