//! `p2pfs fingerprint`: the digits that two people read to each other to know that their keys are who they think.

use crate::{
    cli::Fingerprint,
    commands::listings::short,
    control::{
        client::unexpected,
        protocol::{Reply, Request},
    },
    failure::{Failure, Outcome},
    home::Home,
    open_volume::Session,
    output,
    report::{Device, User},
};

/// Groups of digits to a line.
const GROUPS: usize = 4;

pub(crate) fn run(home: &Home, args: &Fingerprint) -> Outcome<()> {
    let session = Session::begin(home, &args.which)?;
    let Reply::Users(users) = session.ask(&Request::Users)? else { return Err(unexpected()) };
    let Reply::Devices(devices) = session.ask(&Request::Devices)? else { return Err(unexpected()) };
    let user = named(&users, args.user.as_deref())?;
    let devices: Vec<&Device> = devices.iter().filter(|device| device.user == user.id).collect();
    if args.json { output::json(&(user, devices)) } else { output::lines(&shown(user, &devices)) }
}

/// The user of that name, or whose id begins with these digits; without any, one's own.
fn named<'a>(users: &'a [User], wanted: Option<&str>) -> Outcome<&'a User> {
    let Some(wanted) = wanted else {
        return users.iter().find(|user| user.me).ok_or_else(|| Failure::new("this device was not admitted yet"));
    };
    let by_id = |user: &&User| wanted.len() >= 4 && user.id.starts_with(wanted);
    match users.iter().find(|user| user.name == wanted) {
        Some(user) => Ok(user),
        None => match users.iter().filter(by_id).collect::<Vec<_>>()[..] {
            [user] => Ok(user),
            [] => Err(Failure::new(format!("no member is called `{wanted}`: see `p2pfs users`"))),
            _ => Err(Failure::new(format!("several members' ids begin with {wanted}: give more digits"))),
        },
    }
}

fn shown(user: &User, devices: &[&Device]) -> Vec<String> {
    let mut lines = vec![format!("{}{}", user.name, if user.me { " (you)" } else { "" })];
    lines.extend(indented(&user.fingerprint));
    for device in devices {
        let this = if device.me { " (this)" } else { "" };
        lines.push(format!("device {}{this}", short(&device.device)));
        lines.extend(indented(&device.fingerprint));
    }
    lines
}

fn indented(digits: &str) -> Vec<String> {
    let groups: Vec<&str> = digits.split(' ').collect();
    groups.chunks(GROUPS).map(|line| format!("    {}", line.join(" "))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str, id: &str, me: bool) -> User {
        let (role, fingerprint) = ("writer".to_owned(), "00001 00002 00003 00004 00005 00006".to_owned());
        User { name: name.to_owned(), role, number: 1, id: id.to_owned(), devices: Vec::new(), me, fingerprint }
    }

    #[test]
    fn a_user_is_meant_by_name_or_id_and_else_oneself() {
        let users = [user("alice", "aabbcc", true), user("bob", "aabbdd", false), user("aabb", "112233", false)];
        let check = |wanted, expected: Option<&str>| {
            assert_eq!(named(&users, wanted).ok().map(|user| user.name.as_str()), expected, "{wanted:?}");
        };
        check(None, Some("alice"));
        check(Some("bob"), Some("bob"));
        check(Some("aabb"), Some("aabb"));
        check(Some("aabbd"), Some("bob"));
        check(Some("aab"), None);
        check(Some("1122"), Some("aabb"));
        check(Some("carol"), None);
    }

    #[test]
    fn digits_are_shown_in_lines() {
        let lines = shown(&user("alice", "aa", true), &[]);
        assert_eq!(lines, ["alice (you)", "    00001 00002 00003 00004", "    00005 00006"]);
    }
}
