//! `p2pfs alerts`: what looks like an attack, and what answers it.

use volume::{Alert, audit::Sure};

use crate::{
    cli::log::{Alerts, AlertsDeed},
    control::{
        client::unexpected,
        protocol::{Reply, Request},
    },
    failure::{Failure, Outcome},
    home::Home,
    open_volume::ask_or_open,
    output::{self, count, printable},
    report::moment,
};

pub(crate) fn run(home: &Home, args: Alerts) -> Outcome<()> {
    if let Some(AlertsDeed::Acknowledge(args)) = args.deed {
        let request = Request::Acknowledge { number: args.number };
        let Reply::Acknowledged(done) = ask_or_open(home, &args.which, &request)? else { return Err(unexpected()) };
        return match (args.number, done) {
            (Some(number), 0) => {
                Err(Failure::new(format!("there is no open alert {number}: `p2pfs alerts` shows which there are")))
            }
            _ => output::line(&format!("{} acknowledged", count(done, "alert"))),
        };
    }
    let Reply::Alerts(mut all) = ask_or_open(home, &args.which, &Request::Alerts)? else { return Err(unexpected()) };
    all.retain(|alert| args.all || !alert.acknowledged);
    if args.json {
        return output::json(&all);
    }
    if all.is_empty() {
        return output::line("no alerts");
    }
    output::lines(&all.iter().flat_map(told).collect::<Vec<_>>())
}

/// An alert for people: what, and below it since when and what to do.
fn told(alert: &Alert) -> [String; 2] {
    let sure = match alert.sure {
        Sure::Certain => "certain",
        Sure::Likely => "likely",
        Sure::Possible => "possible",
    };
    let times = if alert.count > 1 { format!("{} times since ", alert.count) } else { String::new() };
    let seen = if alert.acknowledged { ", acknowledged" } else { "" };
    [
        format!("{}  {sure}: {}", alert.n, printable(&alert.text)),
        format!("   {times}{}{seen}; what answers it: `{}`", moment(alert.first), printable(&alert.answer)),
    ]
}
