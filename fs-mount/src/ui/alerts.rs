//! What looks like an attack, and what answers it, as a button.

use fs_mount::moment;
use jiff::Zoned;
use maud::{Markup, html};
use volume::{Alert, audit::Sure};

use super::{
    forms::{Answer, Problem, Visit, sentence},
    layout::{self, Room, empty, short, stamp},
    links::{encoded_value, shown},
};
use crate::{
    bringing_back::{Moment, ToUndo, Undone, When},
    control::{
        members::Members,
        request::{AboutMembers, Request},
    },
    output::count,
};

/// What answers an alert, of what can be done here.
#[derive(Debug, PartialEq, Eq)]
enum Remedy {
    /// Take back what a device did since a time.
    Undo { device: String, since: String },
    /// Remove a device.
    Revoke(String),
    /// Look at a part of this page.
    Look(String, &'static str),
    /// Only the command line does that.
    Command,
}

/// Reads the command that an alert names. Only these are known here: nothing of it is ever run.
fn remedy(answer: &str) -> Remedy {
    let words: Vec<&str> = answer.split_whitespace().collect();
    let log = |query: String| Remedy::Look(format!("/log?{query}"), "Look at the log");
    match words[..] {
        ["p2pfs", "undo", "--device", device, "--since", since] => {
            Remedy::Undo { device: device.to_owned(), since: since.to_owned() }
        }
        ["p2pfs", "revoke", who] => Remedy::Revoke(who.to_owned()),
        ["p2pfs", "log", "--op", op] => log(format!("op={}", encoded_value(op.as_bytes()))),
        ["p2pfs", "log", "--device", device] => log(format!("text={}", encoded_value(device.as_bytes()))),
        ["p2pfs", "log", "--denied", ..] => log("denied=yes".to_owned()),
        ["p2pfs", "invitations", "list"] => Remedy::Look("/people".to_owned(), "Look at the invitations"),
        ["p2pfs", "peers"] => Remedy::Look("/people".to_owned(), "Look at the devices"),
        _ => Remedy::Command,
    }
}

pub(super) async fn show(visit: Visit) -> Answer {
    let all = visit.page.daemon.alerts().await?;
    let (seen, open): (Vec<_>, Vec<_>) = all.iter().rev().partition(|alert| alert.acknowledged);
    let body = html! {
        div #alerts data-live="alerts" {
            @if open.is_empty() { (empty("No alerts", html! { p { "What looks like an attack shows here, with what answers it." } })) }
            @for alert in &open { (one(&visit, alert)) }
            @if !seen.is_empty() {
                details #seen { summary { "Those that somebody has looked at (" (seen.len()) ")" } @for alert in seen.iter().take(50) { (one(&visit, alert)) } }
            }
        }
    };
    layout::page(&visit, Room::Alerts, "Alerts", body).await
}

fn one(visit: &Visit, alert: &Alert) -> Markup {
    let (word, class) = match alert.sure {
        Sure::Certain => ("certain", "tag bad"),
        Sure::Likely => ("likely", "tag sure"),
        Sure::Possible => ("possible", "tag"),
    };
    let number = alert.n.to_string();
    let answer = |class: &str, label: &str| visit.button("/alerts/answer", class, label, &[("number", &number)]);
    html! {
        article.card aria-label=(format!("Alert {number}")) {
            p { span class=(class) { (word) } " " (sentence(&shown(alert.text.as_bytes()))) }
            p.soft {
                @if alert.count > 1 { (alert.count) " times since " }
                (stamp(alert.first))
                @if let Some(user) = &alert.user { ", " (user) "’s device " (short(&alert.who)) }
            }
            div.buttons {
                @match remedy(&alert.answer) {
                    Remedy::Undo { .. } => { (answer("primary", "Take back what it did")) }
                    Remedy::Revoke(who) => { (answer("danger", &format!("Remove the device {}", who.get(..8).unwrap_or(&who)))) }
                    Remedy::Look(link, label) => { a.button href=(link) { (label) } }
                    Remedy::Command => { span { "What answers it: " code { (shown(alert.answer.as_bytes())) } } }
                }
                @if !alert.acknowledged { (visit.button("/alerts/acknowledge", "", "I have looked", &[("number", &number)])) }
            }
        }
    }
}

fn number(visit: &Visit) -> Result<u64, Problem> {
    visit.field("number")?.parse().map_err(|_| Problem::missing())
}

pub(super) async fn acknowledge(visit: Visit) -> Answer {
    let number = Some(number(&visit)?);
    visit.page.daemon.done(Request::Acknowledge { number }).await?;
    visit.done("/alerts", "The alert is put away.")
}

/// Does what answers an alert, once somebody has seen what that means.
pub(super) async fn answer(visit: Visit) -> Answer {
    let number = number(&visit)?;
    let all = visit.page.daemon.alerts().await?;
    let alert = all.iter().find(|alert| alert.n == number).ok_or_else(Problem::missing)?;
    match remedy(&alert.answer) {
        Remedy::Undo { device, since } => {
            let at = moment::parse(&since, &Zoned::now()).ok_or_else(Problem::missing)?;
            let dry_run = !visit.is_sure();
            let since = When::Moment(Moment::of(at));
            let undone =
                visit.page.daemon.undo(ToUndo { device: Some(device), user: None, since, path: None, dry_run }).await?;
            if dry_run {
                return visit
                    .ask_first(Room::Alerts, "Take that back?", steps(&undone), "Take it back", "/alerts")
                    .await;
            }
            visit.done(
                "/alerts",
                &format!("{} put back, {} removed again.", count(undone.put_back, "file"), undone.removed),
            )
        }
        Remedy::Revoke(who) => {
            if !visit.is_sure() {
                let detail = html! { p { "The device " (short(&who)) " gets nothing new from then on, and what is written is sealed under new keys." } };
                return visit.ask_first(Room::Alerts, "Remove that device?", detail, "Remove", "/alerts").await;
            }
            let said = match visit.page.daemon.members(AboutMembers::Revoke { who }).await? {
                Members::Changed(said) => sentence(&said),
                _ => "It is removed.".to_owned(),
            };
            visit.done("/alerts", &said)
        }
        Remedy::Look(..) | Remedy::Command => Err(Problem::unfit("What answers it is not done here.")),
    }
}

fn steps(undone: &Undone) -> Markup {
    const SHOWN: usize = 100;
    html! {
        p { (count(undone.put_back, "file")) " would be put back, " (undone.removed) " removed"
            @if undone.kept > 0 { ", " (undone.kept) " kept as others changed it since" } ". What others did stays." }
        ul { @for step in undone.steps.iter().take(SHOWN) { li { (step.what) ": " bdi { (shown(step.path.as_bytes())) } } } }
        @if undone.steps.len() > SHOWN { p { "… and more." } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_known_is_a_button() {
        let undo = Remedy::Undo { device: "4f2a91c0".to_owned(), since: "2026-11-22T09:15:00Z".to_owned() };
        assert_eq!(remedy("p2pfs undo --device 4f2a91c0 --since 2026-11-22T09:15:00Z"), undo);
        assert_eq!(remedy("p2pfs revoke 4f2a91c0"), Remedy::Revoke("4f2a91c0".to_owned()));
        assert_eq!(remedy("p2pfs log --op a&b"), Remedy::Look("/log?op=a%26b".to_owned(), "Look at the log"));
        for other in ["", "rm -rf /", "p2pfs revoke a; rm b", "p2pfs verify", "p2pfs undo --device a"] {
            assert_eq!(remedy(other), Remedy::Command, "{other}");
        }
    }
}
