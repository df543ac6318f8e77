//! `p2pfs config`: shows the settings of a volume, and sets them.

use crate::{
    cli::Config,
    control::{
        agreed::{AboutAgreed, Agreed, Setting},
        client::unexpected,
        protocol::{Reply, Request},
    },
    failure::{Failure, Outcome},
    home::Home,
    open_volume::Session,
    output,
};

pub(crate) fn run(home: &Home, args: Config) -> Outcome<()> {
    let Config { name, value, default, device, which, json } = args;
    let session = Session::begin(home, &which)?;
    match name {
        Some(name) if value.is_some() || default => {
            let request = AboutAgreed::Set { name: name.clone(), value, device };
            let Agreed::Done = ask(&session, request)? else { return Err(unexpected()) };
            // What holds now need not be what was typed.
            show(&session, Some(&name), json)
        }
        name => show(&session, name.as_deref(), json),
    }
}

fn ask(session: &Session, request: AboutAgreed) -> Outcome<Agreed> {
    match session.ask(&Request::Agreed(request))? {
        Reply::Agreed(agreed) => Ok(agreed),
        _ => Err(unexpected()),
    }
}

fn show(session: &Session, name: Option<&str>, json: bool) -> Outcome<()> {
    let Agreed::Settings(mut settings) = ask(session, AboutAgreed::Settings)? else { return Err(unexpected()) };
    if let Some(name) = name {
        let all: Vec<String> = settings.iter().map(|setting| setting.name.clone()).collect();
        settings.retain(|setting| setting.name == name);
        let Some(setting) = settings.first() else {
            return Err(Failure::new(format!("no such setting: `{}` ({})", name.escape_debug(), all.join(", "))));
        };
        if json {
            return output::json(setting);
        }
    }
    if json {
        return output::json(&settings);
    }
    let rows: Vec<Vec<String>> = settings.iter().map(row).collect();
    output::table(&["SETTING", "VALUE", "DEFAULT", "SET"], &rows)
}

fn row(setting: &Setting) -> Vec<String> {
    let mut set = Vec::new();
    if let (Some(by), Some(at)) = (&setting.set_by, &setting.set_at) {
        let to = setting.volume.as_deref().unwrap_or("the default");
        set.push(format!("to {to} by {by} at {at}"));
    }
    if let Some(own) = &setting.device {
        set.push(format!("on this device to {own}"));
    }
    vec![
        setting.name.clone(),
        setting.value.clone(),
        setting.default.clone().unwrap_or_else(|| "(of a later version)".to_owned()),
        if set.is_empty() { "-".to_owned() } else { set.join(", ") },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(volume: Option<&str>, by: Option<&str>, device: Option<&str>, expected: &str) {
        let text = |text: Option<&str>| text.map(ToOwned::to_owned);
        let setting = Setting {
            name: "history.keep-all".to_owned(),
            value: "40d".to_owned(),
            default: text(Some("30d")),
            volume: text(volume),
            set_by: text(by),
            set_on: text(by),
            set_at: text(by.map(|_| "2026-11-26T09:15:03Z")),
            device: text(device),
        };
        assert_eq!(row(&setting)[3], expected);
    }

    #[test]
    fn who_set_what_is_said_in_words() {
        check(None, None, None, "-");
        check(Some("40d"), Some("ada"), None, "to 40d by ada at 2026-11-26T09:15:03Z");
        check(None, Some("ada"), None, "to the default by ada at 2026-11-26T09:15:03Z");
        check(None, None, Some("40d"), "on this device to 40d");
    }
}
