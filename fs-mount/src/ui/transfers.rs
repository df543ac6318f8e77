//! What members send each other directly: what is offered, what is on its way, what came.

use maud::{Markup, html};

use super::{
    forms::{Answer, Problem, Visit},
    layout::{self, Room, empty, size, stamp},
    links::shown,
};
use crate::{
    commands::sends::state,
    control::request::{AboutSends, Request},
    daemon::sends::{State, Transfer},
    output::count,
};

/// As many that are over are shown.
const SHOWN: usize = 50;

pub(super) async fn show(visit: Visit) -> Answer {
    let all = visit.page.daemon.transfers().await?;
    let (open, over): (Vec<_>, Vec<_>) = all.iter().rev().partition(|transfer| transfer.state.is_open());
    let body = html! {
        div #transfers data-live="sends" {
            @if all.is_empty() {
                (empty("Nothing was sent yet", html! {
                    p { "What others send straight to you, past the volume, shows here. To send something yourself: " code { "p2pfs send FILE… NAME" } }
                }))
            }
            @for transfer in &open { (one(&visit, transfer)) }
            @if !over.is_empty() {
                section.card aria-labelledby="over" {
                    h2 #over { "Over" }
                    @for transfer in over.iter().take(SHOWN) { (one(&visit, transfer)) }
                }
            }
        }
    };
    layout::page(&visit, Room::Transfers, "Transfers", body).await
}

fn one(visit: &Visit, transfer: &Transfer) -> Markup {
    let number = transfer.id.to_string();
    let name = shown(transfer.name.as_bytes());
    let what = format!("{name} ({}, {})", count(transfer.files, "file"), size(transfer.bytes));
    let button = |action: &str, class: &str, label: &str| visit.button(action, class, label, &[("number", &number)]);
    html! {
        article.card aria-label=(format!("Transfer {number}")) {
            p { b { (if transfer.incoming { "From" } else { "To" }) " " (transfer.user) } " · " (what) " · " (stamp(transfer.began)) }
            p { (shown(state(transfer).as_bytes())) }
            @if transfer.state == State::Running {
                p { progress max=(transfer.bytes.max(1)) value=(transfer.done) aria-label=(format!("How much of {name} is there")) {} }
            }
            @if let Some(to) = transfer.to.as_ref().filter(|_| transfer.incoming && transfer.state.is_open()) {
                p.soft { "It arrives in " code { (shown(to.as_bytes())) } }
            }
            div.buttons {
                @if transfer.incoming && transfer.state == State::Offered {
                    (button("/transfers/accept", "primary", "Accept"))
                    (button("/transfers/decline", "", "Decline"))
                } @else if transfer.state.is_open() {
                    (button("/transfers/cancel", "danger", "Cancel"))
                }
            }
        }
    }
}

fn number(visit: &Visit) -> Result<u64, Problem> {
    visit.field("number")?.parse().map_err(|_| Problem::missing())
}

/// Takes it into the inbox. (Another folder only the command line names: this page writes nowhere else.)
pub(super) async fn accept(visit: Visit) -> Answer {
    let id = number(&visit)?;
    visit.page.daemon.done(Request::Sends(AboutSends::Accept { id, to: None })).await?;
    visit.done("/transfers", "Accepted. It arrives in your inbox.")
}

pub(super) async fn decline(visit: Visit) -> Answer {
    let id = number(&visit)?;
    visit.page.daemon.done(Request::Sends(AboutSends::Decline { id })).await?;
    visit.done("/transfers", "Declined.")
}

pub(super) async fn cancel(visit: Visit) -> Answer {
    let id = number(&visit)?;
    visit.page.daemon.done(Request::Sends(AboutSends::Cancel { id })).await?;
    visit.done("/transfers", "Cancelled.")
}
