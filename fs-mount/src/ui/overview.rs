//! The first page: how the volume is doing, and who is online.

use maud::{Markup, html};

use super::{
    forms::{Answer, Visit},
    layout::{self, Room, empty, short, size},
    links::shown,
};
use crate::report::{Peer, Status};

pub(super) async fn show(visit: Visit) -> Answer {
    let (status, peers) = tokio::try_join!(visit.page.daemon.status(), visit.page.daemon.peers())?;
    let body = html! {
        div #figures data-live="status" { (warnings(&status)) (figures(&status)) }
        section.card.flush aria-labelledby="online-now" {
            h2 #online-now { "Devices of the others" }
            div #peers data-live="peers" { (table(&peers)) }
        }
    };
    layout::page(&visit, Room::Overview, "Overview", body).await
}

fn warnings(status: &Status) -> Markup {
    html! {
        @if status.removed { p.warn role="alert" { "This device was removed from the volume. What is here stays; nothing new comes." } }
        @if let Some(by) = &status.said_removed_by { p.warn role="alert" { (by) " says that this device was removed from the volume." } }
        @if status.disk_full { p.warn role="alert" { "The disk is full: nothing more is stored until there is room." } }
        @if let Some(copy) = &status.older_copy {
            @if !copy.not_met.is_empty() { p.warn { "This device goes on from an older copy of its store: what it had shown since may be missing until the others have connected." } }
        }
        @for file in &status.unpublished { p.warn {
            "What was written to " bdi { (named(file.path.as_deref())) } " is shown on this device alone"
            @if file.forbidden { ": the right to write to it went." } @else { "." }
        } }
    }
}

/// A path, or what there is to say without one.
fn named(path: Option<&str>) -> String {
    path.map_or_else(|| "a file without a name".to_owned(), |path| shown(path.as_bytes()))
}

fn figures(status: &Status) -> Markup {
    let coming = match status.wanted_blocks {
        0 => "Everything".to_owned(),
        _ => format!("{} to come", size(status.wanted_bytes)),
    };
    html! {
        div.grid {
            (figure("Devices online", &format!("{} of {}", status.peers_connected, status.peers_known), "/people"))
            (figure("Contents here", &coming, "/files/"))
            (figure("Unread messages", &status.unread.to_string(), "/messages"))
            (figure("Open alerts", &status.alerts.to_string(), "/alerts"))
        }
        @if !status.waiting.is_empty() {
            section.card {
                h2 { "Waited for" }
                p { "These are being read, and nobody who has them has sent them yet." }
                ul { @for file in &status.waiting { li {
                    bdi { (named(file.path.as_deref())) } " "
                    span.soft { "for " (file.seconds) " s; "
                        @for (i, holder) in file.devices.iter().enumerate() {
                            @if i > 0 { ", " } (holder.name.as_deref().unwrap_or("a device")) " " (holder.why)
                        }
                    }
                } } }
            }
        }
    }
}

fn figure(label: &str, value: &str, link: &str) -> Markup {
    html! { section.card { p.figure { (value) } p.soft { a href=(link) { (label) } } } }
}

/// The other devices: who is online, where, how quickly they answer, and what they lack.
pub(super) fn table(peers: &[Peer]) -> Markup {
    if peers.is_empty() {
        return empty(
            "There is only this device",
            html! {
                p { "Invite somebody, or your own next machine." }
                a.button.primary href="/people#invite" { "Invite" }
            },
        );
    }
    html! {
        table.cards {
            thead { tr { th { "Who" } th { "Device" } th { "State" } th { "Address" } th.number { "Latency" } th { "Still lacks" } } }
            tbody { @for peer in peers { tr {
                td { span class=(if peer.connected { "dot on" } else { "dot" }) aria-hidden="true" {} (peer.name.as_deref().unwrap_or("not known yet")) }
                td data-label="Device" { (short(&peer.device)) @if peer.restored.is_some() { " " span.tag.sure { "older copy" } } }
                td data-label="State" { (if !peer.connected { "away" } else if peer.in_step { "in step" } else { "exchanging" }) }
                td data-label="Address" { (peer.address.as_deref().unwrap_or("–")) }
                td.number data-label="Latency" { @match peer.rtt_ms { Some(ms) => { (format!("{ms:.1} ms")) } None => "–" } }
                td data-label="Still lacks" { (lacks(peer)) }
            } } }
        }
    }
}

fn lacks(peer: &Peer) -> String {
    match (peer.connected, peer.missing_there, peer.holds_all_mine) {
        (false, ..) => "not known while away".to_owned(),
        (_, Some(missing), _) if missing > 0 => format!("{missing} changes"),
        (_, _, Some(true)) => "nothing".to_owned(),
        (_, _, Some(false)) => "contents".to_owned(),
        (_, Some(_), None) => "no changes".to_owned(),
        (_, None, None) => "not known yet".to_owned(),
    }
}
