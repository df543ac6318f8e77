//! What members send each other directly: what is offered, what is on its way, what came.

use std::os::unix::ffi::OsStringExt;

use maud::{Markup, html};

use super::{
    content::blocking,
    forms::{Answer, Problem, Visit},
    layout::{self, Room, empty, size, stamp},
    links::{self, shown},
    tree::Kind,
};
use crate::{
    commands::sends::state,
    control::request::{AboutSends, Bytes, Request},
    daemon::sends::{State, Transfer},
    failure::Outcome,
    output::count,
};

/// As many that are over are shown.
const SHOWN: usize = 50;

pub(super) async fn show(visit: Visit) -> Answer {
    let (all, others) = (visit.page.daemon.transfers().await?, others(&visit).await?);
    let unasked = visit.page.daemon.unasked().await?;
    let (open, over): (Vec<_>, Vec<_>) = all.iter().rev().partition(|transfer| transfer.state.is_open());
    let body = html! {
        div #transfers data-live="sends" {
            @if all.is_empty() {
                (empty("Nothing was sent yet", html! {
                    p { "What others send straight to you, past the volume, shows here. What is in the volume you send from here or from its own page; anything else with " code { "p2pfs send FILE… NAME" } "." }
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
        @if !others.is_empty() {
            section.card aria-labelledby="send" {
                h2 #send { "Send" }
                form.row method="post" action="/transfers/send" {
                    (visit.csrf())
                    label.grow { "A file or folder of the volume, as in docs/plan.txt" input name="typed" required autocomplete="off"; }
                    label { "To" (choice(&others)) }
                    button { "Send" }
                }
            }
            section.card aria-labelledby="unasked" {
                h2 #unasked { "Without asking" }
                p.soft { "What somebody sends arrives without you accepting it, until you want to be asked again." }
                form.row method="post" action="/transfers/always" {
                    (visit.csrf())
                    label { "From" (choice(&others)) }
                    (destination())
                    button name="always" value="yes" { "Accept always" }
                }
                @if !unasked.is_empty() {
                    ul.plain {
                        @for one in &unasked {
                            li {
                                form.row method="post" action="/transfers/always" {
                                    (visit.csrf())
                                    input type="hidden" name="user" value=(one.user);
                                    span.grow { "What " b { (one.user) } " sends arrives in " code { (shown(one.to.as_bytes())) } }
                                    button name="always" value="no" aria-label=(format!("Ask me again about {}", one.user)) { "Ask me again" }
                                }
                            }
                        }
                    }
                }
            }
        }
    };
    layout::page(&visit, Room::Transfers, "Transfers", body).await
}

/// Whether somebody offers it and waits for an answer.
pub(super) fn is_offered(transfer: &Transfer) -> bool {
    transfer.incoming && transfer.state == State::Offered
}

fn one(visit: &Visit, transfer: &Transfer) -> Markup {
    let number = transfer.id.to_string();
    let name = shown(transfer.name.as_bytes());
    let what = format!("{name} ({}, {})", count(transfer.files, "file"), size(transfer.bytes));
    let button = |action: &str, class: &str, label: &str| visit.button(action, class, label, &[("number", &number)]);
    html! {
        // A region of its own: whoever types where one is to go sees how far the others are.
        article.card id=(format!("transfer-{number}")) data-live="sends" aria-label=(format!("Transfer {number}")) {
            p { b { (if transfer.incoming { "From" } else { "To" }) " " (transfer.user) } " · " (what) " · " (stamp(transfer.began)) }
            p { (shown(state(transfer).as_bytes())) }
            @if transfer.state == State::Running {
                p { progress max=(transfer.bytes.max(1)) value=(transfer.done) aria-label=(format!("How much of {name} is there")) {} }
            }
            @if let Some(to) = transfer.to.as_ref().filter(|_| transfer.incoming && transfer.state.is_open()) {
                p.soft { "It arrives in " code { (shown(to.as_bytes())) } }
            }
            div.buttons {
                @if is_offered(transfer) {
                    form.row method="post" action="/transfers/accept" {
                        (visit.csrf())
                        input type="hidden" name="number" value=(number);
                        (destination())
                        button.primary { "Accept" }
                    }
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

/// Whom something can be sent to, and who may send something.
async fn others(visit: &Visit) -> Outcome<Vec<String>> {
    let users = visit.page.daemon.users().await?;
    Ok(users.into_iter().filter(|user| !user.me && user.role != "keeper").map(|user| user.name).collect())
}

fn choice(others: &[String]) -> Markup {
    html! { select name="user" { @for name in others { option value=(name) { (name) } } } }
}

fn destination() -> Markup {
    html! { label.grow { "Into a folder of the volume, where you alone may read it; with none, your inbox" input name="to" autocomplete="off"; } }
}

/// What sends something of the volume to somebody, on the page of that.
pub(super) async fn sending(visit: &Visit, path: &str, what: &str) -> Markup {
    let others = others(visit).await.unwrap_or_default();
    html! {
        @if !others.is_empty() {
            details.card #send {
                summary { "Send " (what) " to somebody" }
                p.soft { "Straight to their device, as a copy of their own, once they accept it." }
                form.row method="post" action="/transfers/send" {
                    (visit.csrf())
                    input type="hidden" name="path" value=(path);
                    label { "To" (choice(&others)) }
                    button { "Send" }
                }
            }
        }
    }
}

/// The folder that is named, if one is. (One outside the volume only the command line names: this page writes nowhere else.)
async fn folder(visit: &Visit) -> Result<Option<Bytes>, Problem> {
    let Some(to) = visit.fields.get("to") else { return Ok(None) };
    let names = links::typed(to).ok_or_else(Problem::missing)?;
    let tree = visit.page.tree.clone();
    match blocking(move || tree.way_to(&names)).await? {
        (way, Kind::Folder) => Ok(Some(Bytes(way.into_os_string().into_vec()))),
        _ => Err(Problem::unfit("What is there is no folder.")),
    }
}

/// Sends what is at a path.
pub(super) async fn send(visit: Visit) -> Answer {
    let names = match visit.fields.get("typed") {
        Some(typed) => links::typed(typed).ok_or_else(Problem::missing)?,
        None => visit.path_field("path")?,
    };
    if names.is_empty() {
        return Err(Problem::unfit("Name what is to be sent: a file, or a folder below the top one."));
    }
    let (tree, user) = (visit.page.tree.clone(), visit.field("user")?.to_owned());
    let (way, kind) = blocking(move || tree.way_to(&names)).await?;
    if !matches!(kind, Kind::File | Kind::Folder) {
        return Err(Problem::unfit("Only files and folders are sent: links lead nowhere on another machine."));
    }
    let paths = vec![Bytes(way.into_os_string().into_vec())];
    visit.page.daemon.done(Request::Sends(AboutSends::Offer { paths, user: user.clone() })).await?;
    visit.done("/transfers", &format!("It is offered to {user}."))
}

/// Takes what somebody sends without asking from now on, or asks again.
pub(super) async fn always(visit: Visit) -> Answer {
    let user = visit.field("user")?.to_owned();
    let (asked, said) = match visit.field("always")? {
        "yes" => (
            AboutSends::Always { user: user.clone(), to: folder(&visit).await? },
            format!("What {user} sends arrives without your accepting it from now on."),
        ),
        _ => {
            (AboutSends::AskAgain { user: user.clone() }, format!("You are asked before anything of {user}’s arrives."))
        }
    };
    visit.page.daemon.done(Request::Sends(asked)).await?;
    visit.done("/transfers", &said)
}

pub(super) async fn accept(visit: Visit) -> Answer {
    let (id, to) = (number(&visit)?, folder(&visit).await?);
    let said = format!("Accepted. It arrives in {}.", if to.is_some() { "that folder" } else { "your inbox" });
    visit.page.daemon.done(Request::Sends(AboutSends::Accept { id, to })).await?;
    visit.done("/transfers", &said)
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
