//! Who is in the volume, with which devices and roles; invitations; what is kept aside.

use axum::{http::header, response::IntoResponse};
use maud::{Markup, html};
use qrcode::{EcLevel, QrCode, render::svg};

use super::{
    content::CONTENT_POLICY,
    files::local,
    forms::{Answer, Problem, Visit, see, sentence},
    layout::{self, Room, short},
    links::shown,
    overview,
    sessions::Ticket,
};
use crate::{
    control::{
        invitations::Open,
        members::{Members, Quarantined},
        request::{AboutMembers, Request},
    },
    report::{Device, Peer, User},
};

/// What somebody can be made, or invited as.
const ROLES: [(&str, &str); 4] = [
    ("writer", "reads and writes"),
    ("reader", "only reads"),
    ("admin", "also invites and removes people"),
    ("keeper", "stores it all without being able to read it"),
];
/// Roles that somebody who is in can be given.
const GRANTED: [&str; 3] = ["writer", "reader", "admin"];
/// For how long a ticket is good.
const TIMES: [(&str, u64); 4] = [("an hour", 3600), ("a day", 86400), ("a week", 7 * 86400), ("a month", 30 * 86400)];

pub(super) async fn show(visit: Visit) -> Answer {
    let daemon = &visit.page.daemon;
    let (users, devices, peers, status) =
        tokio::try_join!(daemon.users(), daemon.devices(), daemon.peers(), daemon.status())?;
    // Readers are told nothing of these.
    let (open, kept) = (daemon.invitations().await.unwrap_or_default(), daemon.quarantine().await.unwrap_or_default());
    let decides = status.role.as_deref().is_some_and(|role| matches!(role, "owner" | "admin"));
    let body = html! {
        section.card.flush aria-labelledby="members-title" {
            h2 #members-title { "Members" }
            div #members data-live="members peers" { (members(&visit, &users, &peers, decides)) }
        }
        section.card.flush aria-labelledby="peers-title" {
            h2 #peers-title { "Devices of the others" }
            div #peers data-live="peers" { (overview::table(&peers)) }
        }
        section.card #invite aria-labelledby="invite-title" {
            h2 #invite-title { "Invite" }
            (invitation_form(&visit, decides))
        }
        div #invitations data-live="members" { (invitations(&visit, &open)) }
        div #aside data-live="status" { (quarantine(&visit, &kept)) }
        div #devices data-live="members" { (fingerprints(&visit, &users, &devices)) }
    };
    layout::page(&visit, Room::People, "People", body).await
}

fn members(visit: &Visit, users: &[User], peers: &[Peer], decides: bool) -> Markup {
    let online = |user: &User| peers.iter().any(|peer| peer.connected && user.devices.contains(&peer.device));
    html! {
        table.cards {
            thead { tr { th { "Name" } th { "Role" } th { "Devices" } th { span.quiet { "What to do" } } } }
            tbody { @for user in users { tr {
                td {
                    span class=(if user.me || online(user) { "dot on" } else { "dot" }) aria-hidden="true" {}
                    b { (user.name) } @if user.me { " (you)" } @else { span.quiet { (if online(user) { ", online" } else { ", away" }) } }
                }
                td data-label="Role" { (user.role) }
                td data-label="Devices" { (user.devices.len()) }
                td.act { @if decides && !user.me && user.role != "owner" {
                    form.inline method="post" action="/people/grant" autocomplete="off" {
                        (visit.csrf())
                        input type="hidden" name="user" value=(user.id);
                        select name="role" aria-label=(format!("Role of {}", user.name)) {
                            @for role in GRANTED { option value=(role) selected[user.role == role] { (role) } }
                        }
                        " " button.small { "Set" span.quiet { " the role of " (user.name) } }
                    }
                    " " (visit.button("/people/revoke", "small danger", &format!("Remove {}", user.name), &[("who", &user.id), ("name", &user.name)]))
                } }
            } } }
        }
    }
}

fn invitation_form(visit: &Visit, decides: bool) -> Markup {
    html! {
        form.row method="post" action="/people/invite" {
            (visit.csrf())
            label.grow { "As" select name="of" {
                option value="device" { "a further device of yours" }
                @if decides { @for (role, what) in ROLES { option value=(role) selected[role == "writer"] { (role) ": " (what) } } }
            } }
            label { "Good for" select name="seconds" { @for (label, seconds) in TIMES { option value=(seconds) selected[seconds == 86400] { (label) } } } }
            button.primary { "Make a ticket" }
        }
        p.soft { "A ticket lets in whoever has it, once. This machine has to be mounted when it is used." }
    }
}

fn invitations(visit: &Visit, open: &[Open]) -> Markup {
    if open.is_empty() {
        return html! {};
    }
    html! {
        section.card.flush {
            h2 { "Open invitations" }
            table.cards {
                thead { tr { th { "Id" } th { "As" } th { "Good until" } th { "Made by" } th { span.quiet { "What to do" } } } }
                tbody { @for one in open { tr {
                    td { (short(&one.id)) }
                    td data-label="As" { (one.of) }
                    td data-label="Good until" { @match &one.expires { Some(at) => { (local(at)) } None => "it is withdrawn" } }
                    td data-label="Made by" { (one.user) }
                    td.act { (visit.button("/people/withdraw", "small danger", "Withdraw", &[("id", &one.id)])) }
                } } }
            }
        }
    }
}

fn quarantine(visit: &Visit, kept: &[Quarantined]) -> Markup {
    if kept.is_empty() {
        return html! {};
    }
    html! {
        section.card.flush {
            h2 { "Kept aside" }
            div.head { p.soft { "What somebody did apart from their own removal. It is in nobody’s tree; you may take it in." } }
            table.cards {
                thead { tr { th { "Who" } th { "When" } th { "What" } th { span.quiet { "What to do" } } } }
                tbody { @for one in kept { tr {
                    td { (one.user) " " (short(&one.device)) }
                    td data-label="When" { (local(&one.made)) }
                    td.wide data-label="What" { ul { @for change in one.changes.iter().take(20) {
                        li { (change.does) " " bdi { (change.path.as_deref().map_or_else(|| "something".to_owned(), |path| shown(path.as_bytes()))) } }
                    } } @if one.changes.len() > 20 { "… and " (one.changes.len() - 20) " more" } }
                    td.act { (visit.button("/people/accept", "small", "Take it in", &[("id", &one.id)])) }
                } } }
            }
        }
    }
}

fn fingerprints(visit: &Visit, users: &[User], devices: &[Device]) -> Markup {
    let owner = |device: &Device| users.iter().find(|user| user.id == device.user);
    html! {
        details.card.flush #fingerprints {
            summary.head { "Fingerprints and devices" }
            div.head { p.soft { "Compare these digits with what their owners see, on the phone for one: the same, or somebody stands between." } }
            table.cards {
                thead { tr { th { "Whose" } th { "Device" } th { "Fingerprint" } th { "Since" } th { span.quiet { "What to do" } } } }
                tbody {
                    @for user in users { tr {
                        td { b { (user.name) } }
                        td data-label="Device" { span.soft { "all" } }
                        td.wide data-label="Fingerprint" { code { (user.fingerprint) } }
                        td {} td {}
                    } }
                    @for device in devices { tr {
                        td { (device.name) @if device.me { " (this device)" } }
                        td data-label="Device" { (short(&device.device)) @if device.restored.is_some() { " " span.tag.sure { "older copy" } } }
                        td.wide data-label="Fingerprint" { code { (device.fingerprint) } }
                        td.when data-label="Since" { (local(&device.admitted)) }
                        td.act { @if !device.me && owner(device).is_some() {
                            (visit.button("/people/revoke", "small danger", "Remove this device", &[("who", &device.device), ("name", &format!("the device {} of {}", &device.device[..8], device.name))]))
                        } }
                    } }
                }
            }
        }
    }
}

pub(super) async fn invite(visit: Visit) -> Answer {
    let of = visit.field("of")?.to_owned();
    let seconds = visit.field("seconds")?.parse().map_err(|_| Problem::unfit("That is no time."))?;
    let role = (of != "device").then(|| of.clone());
    let word = visit.page.daemon.invite(role, seconds).await?;
    visit.page.sessions.change(&visit.session, |session| session.ticket = Some(Ticket { word, of }));
    Ok(see("/people/ticket"))
}

/// The ticket that was just made: as text, and as a code for a camera.
pub(super) async fn ticket(visit: Visit) -> Answer {
    let Some(ticket) = &visit.session.ticket else {
        return Err(Problem::unfit(
            "The ticket is shown only where it was made, and not for ever. Make another one, and withdraw that one.",
        ));
    };
    let what =
        if ticket.of == "device" { "a further device of yours".to_owned() } else { format!("a new {}", ticket.of) };
    let command = match ticket.of.as_str() {
        "device" => "p2pfs join TICKET",
        "keeper" => "p2pfs join TICKET --name keeper --no-passphrase",
        _ => "p2pfs join TICKET --name THEIR-NAME",
    };
    let body = html! {
        section.card.ask {
            p { "It lets in " (what) ", once. Give it only to whom it is for, over a way that you trust: whoever has it can use it." }
            img.code src="/people/ticket.svg" alt="The ticket as a QR code";
            br;
            label { "The ticket" textarea.word #ticket readonly rows="5" { (ticket.word) } }
            p { "On the other machine:" } pre { code { (command) } }
            div.buttons {
                button type="button" data-copy="#ticket" hidden { "Copy" }
                a.button href="/people" { "Done" }
            }
        }
    };
    layout::page(&visit, Room::People, "A ticket", body).await
}

/// That code.
pub(super) async fn code(visit: Visit) -> Answer {
    let ticket = visit.session.ticket.as_ref().ok_or_else(Problem::missing)?;
    let code = QrCode::with_error_correction_level(ticket.word.as_bytes(), EcLevel::L)
        .map_err(|_| Problem::unfit("The ticket is too long for a code."))?;
    let image = code.render::<svg::Color<'_>>().min_dimensions(320, 320).build();
    Ok(([(header::CONTENT_TYPE, "image/svg+xml"), (header::CONTENT_SECURITY_POLICY, CONTENT_POLICY)], image)
        .into_response())
}

pub(super) async fn withdraw(visit: Visit) -> Answer {
    let id = visit.field("id")?.to_owned();
    visit.page.daemon.done(Request::Withdraw { id }).await?;
    visit.done("/people", "The invitation is withdrawn.")
}

async fn changed(visit: &Visit, asked: AboutMembers) -> Answer {
    let said = match visit.page.daemon.members(asked).await? {
        Members::Changed(said) => sentence(&said),
        Members::Accepted { done, left } => format!(
            "{done} changes are made anew{}.",
            if left > 0 { format!(", {left} could not be") } else { String::new() }
        ),
        Members::Quarantine(_) => String::new(),
    };
    visit.done("/people", &said)
}

pub(super) async fn grant(visit: Visit) -> Answer {
    let (user, role) = (visit.field("user")?.to_owned(), visit.field("role")?.to_owned());
    changed(&visit, AboutMembers::Grant { user, role }).await
}

pub(super) async fn revoke(visit: Visit) -> Answer {
    let who = visit.field("who")?.to_owned();
    if !visit.is_sure() {
        let name = visit.fields.get("name").unwrap_or("them").to_owned();
        let detail = html! {
            p { b { (name) } " gets nothing new from then on, and what is written is sealed under new keys. What they have they keep: nobody can take that back." }
            p { "To let them in again, you would have to invite them anew." }
        };
        return visit.ask_first(Room::People, &format!("Remove {name}?"), detail, "Remove", "/people").await;
    }
    changed(&visit, AboutMembers::Revoke { who }).await
}

pub(super) async fn accept(visit: Visit) -> Answer {
    let id = visit.field("id")?.to_owned();
    changed(&visit, AboutMembers::Accept { id }).await
}
