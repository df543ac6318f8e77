//! Settings of the volume, snapshots, what this device is; and leaving.

use axum::http::{HeaderValue, header};
use maud::{Markup, html};
use volume::settings::keeps_less;

use super::{
    files::local,
    forms::{Answer, Problem, Visit},
    layout::{self, Room, empty, short, size},
    links::{encoded_value, shown},
};
use crate::{
    control::{
        agreed::{Setting, Snapshot},
        request::{AboutAgreed, Request},
    },
    report::Status,
};

pub(super) async fn show(visit: Visit) -> Answer {
    let daemon = &visit.page.daemon;
    let (settings, snapshots, status) = tokio::try_join!(daemon.settings(), daemon.snapshots(), daemon.status())?;
    let body = html! {
        section.card.flush aria-labelledby="settings-title" {
            h2 #settings-title { "Settings of the volume" }
            div #settings data-live="settings" { (table(&visit, &settings)) }
        }
        section.card.flush aria-labelledby="snapshots-title" {
            h2 #snapshots-title { "Snapshots" }
            div #snapshots data-live="settings" { (list(&visit, &snapshots)) }
            div.head {
                form.row method="post" action="/settings/snapshot" {
                    (visit.csrf())
                    label.grow { "Keep the tree as it is now under this name" input name="name" required maxlength="100" autocomplete="off"; }
                    button { "Keep it" }
                }
                br;
            }
        }
        section.card #device data-live="status" { (device(&status)) }
        section.card {
            h2 { "This browser" }
            p { "Its session ends with the daemon, or when nobody uses it for twelve hours." }
            div.buttons {
                (visit.button("/leave", "", "Leave", &[]))
                (visit.button("/leave", "danger", "End the sessions of all browsers", &[("all", "yes")]))
            }
        }
    };
    layout::page(&visit, Room::Settings, "Settings", body).await
}

fn table(visit: &Visit, settings: &[Setting]) -> Markup {
    html! {
        table.cards {
            thead { tr { th { "Setting" } th { "Set by" } th { "Value" } } }
            tbody { @for setting in settings { tr {
                td { code { (shown(setting.name.as_bytes())) } @if let Some(own) = &setting.device { " " span.tag { "here: " (shown(own.as_bytes())) } } }
                td data-label="Set by" { @match &setting.set_by { Some(user) => { (shown(user.as_bytes())) } None => { span.soft { "the default" } } } }
                td.wide data-label="Value" {
                    form.row method="post" action="/settings/set" {
                        (visit.csrf())
                        input type="hidden" name="name" value=(setting.name);
                        input name="value" value=(of_volume(setting)) aria-label=(shown(setting.name.as_bytes())) size="12" autocomplete="off";
                        button.small { "Set" span.quiet { " " (shown(setting.name.as_bytes())) } }
                        @if setting.volume.is_some() { button.small.plain name="default" value="yes" { "Back to " (setting.default.as_deref().unwrap_or("the default")) } }
                    }
                }
            } } }
        }
    }
}

/// What a setting is for the volume: this device may keep more.
fn of_volume(setting: &Setting) -> &str {
    setting.volume.as_deref().or(setting.default.as_deref()).unwrap_or(&setting.value)
}

fn list(visit: &Visit, snapshots: &[Snapshot]) -> Markup {
    if snapshots.is_empty() {
        return empty("No snapshots", html! {});
    }
    html! {
        table.cards {
            thead { tr { th { "Name" } th { "Made" } th { "By" } th { span.quiet { "What to do" } } } }
            tbody { @for snapshot in snapshots { tr {
                td { a href=(format!("/files/?at={}", encoded_value(snapshot.name.as_bytes()))) { bdi { (shown(snapshot.name.as_bytes())) } } }
                td.when data-label="Made" { (local(&snapshot.made)) }
                td data-label="By" { (shown(snapshot.user.as_bytes())) }
                td.act { (visit.button("/settings/remove-snapshot", "small danger", "Remove", &[("name", &snapshot.name)])) }
            } } }
        }
    }
}

fn device(status: &Status) -> Markup {
    html! {
        h2 { "This device" }
        dl.facts {
            dt { "User" } dd { (status.user) @if let Some(role) = &status.role { ", " (role) } }
            dt { "Device" } dd { (short(&status.device)) }
            dt { "Volume" } dd { (status.volume) " " (short(&status.id)) }
            @if let Some(mountpoint) = &status.mountpoint { dt { "Mounted at" } dd { bdi { (shown(mountpoint.as_bytes())) } } }
            dt { "Changes known" } dd { (status.commits) }
            @if let Some(used) = status.used { dt { "Taken of the disk" } dd { (size(used)) } }
            dt { "Reached at" } dd { @if status.listen.is_empty() { "–" } @for address in &status.listen { (address) " " } }
            dt { "Registries" } dd { @if status.registries.is_empty() { "none" } @for registry in &status.registries { (registry.address) " (" (registry.state) ") " } }
        }
    }
}

pub(super) async fn set(visit: Visit) -> Answer {
    let name = visit.field("name")?.to_owned();
    let value = match visit.fields.get("default") {
        Some(_) => None,
        None => Some(visit.field("value")?.trim().to_owned()),
    };
    let told = shown(name.as_bytes());
    if !visit.is_sure() {
        let all = visit.page.daemon.settings().await?;
        let before = all.iter().find(|setting| setting.name == name);
        let less = before.and_then(|before| {
            let after = value.as_deref().or(before.default.as_deref())?;
            keeps_less(&name, of_volume(before), after).then(|| (of_volume(before), after))
        });
        if let Some((before, after)) = less {
            let (before, after) = (shown(before.as_bytes()), shown(after.as_bytes()));
            let detail = html! {
                p { code { (told) } " becomes " b { (after) } " instead of " b { (before) } ", for everybody." }
                p.warn { "Older versions that are kept only because of it are dropped on everybody’s machine. Nothing brings those back." }
            };
            return visit.ask_first(Room::Settings, "Keep less?", detail, "Keep less", "/settings").await;
        }
    }
    visit.page.daemon.done(Request::Agreed(AboutAgreed::Set { name, value, device: false })).await?;
    visit.done("/settings", &format!("{told} is set for everybody."))
}

pub(super) async fn snapshot(visit: Visit) -> Answer {
    let name = visit.field("name")?.trim().to_owned();
    visit.page.daemon.done(Request::Agreed(AboutAgreed::CreateSnapshot { name })).await?;
    visit.done("/settings", "The tree is kept as it is now.")
}

pub(super) async fn remove_snapshot(visit: Visit) -> Answer {
    let name = visit.field("name")?.to_owned();
    if !visit.is_sure() {
        let detail = html! { p { "The snapshot " b { (shown(name.as_bytes())) } " goes for everybody. What only it keeps is dropped in time." } };
        return visit.ask_first(Room::Settings, "Remove that snapshot?", detail, "Remove", "/settings").await;
    }
    visit.page.daemon.done(Request::Agreed(AboutAgreed::RemoveSnapshot { name })).await?;
    visit.done("/settings", "The snapshot is removed.")
}

/// Ends this browser's session, or all.
pub(super) async fn leave(visit: Visit) -> Answer {
    visit.page.sessions.end(&visit.session, visit.fields.get("all").is_some());
    let mut response = super::forms::see("/");
    let gone = format!("{}=; HttpOnly; SameSite=Strict; Path=/; Max-Age=0", visit.page.own.cookie);
    let gone = HeaderValue::from_str(&gone).map_err(|_| Problem::missing())?;
    response.headers_mut().insert(header::SET_COOKIE, gone);
    Ok(response)
}
