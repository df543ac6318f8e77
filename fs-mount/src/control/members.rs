//! Roles, removals and what is kept aside, over the control socket: what is asked, and the answers.

use serde::{Deserialize, Serialize};
use volume::{Error, Role, Volume, quarantine};

pub(crate) use super::request::AboutMembers;
use crate::{
    failure::{Failure, Outcome},
    report::moment,
};

/// Fewer digits of an id could be a name.
const ID_DIGITS: usize = 4;

/// What is answered.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Members {
    /// What was done, for people.
    Changed(String),
    Quarantine(Vec<Quarantined>),
    Accepted {
        done: u64,
        left: u64,
    },
}

/// A commit that is kept aside.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Quarantined {
    pub(crate) id: String,
    pub(crate) user: String,
    pub(crate) device: String,
    /// By that device's clock.
    pub(crate) made: String,
    pub(crate) changes: Vec<Kept>,
}

/// What a change in it would do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Kept {
    pub(crate) does: String,
    pub(crate) path: Option<String>,
}

/// Does what is asked.
pub(crate) fn answer(volume: &Volume, asked: &AboutMembers) -> Outcome<Members> {
    match asked {
        AboutMembers::Grant { user, role } => grant(volume, user, role),
        AboutMembers::TransferOwnership { user } => transfer_ownership(volume, user),
        AboutMembers::Revoke { who } => revoke(volume, who),
        AboutMembers::Quarantine { id } => {
            let found = kept(volume, id.as_deref())?;
            Ok(Members::Quarantine(found.iter().map(quarantined).collect()))
        }
        AboutMembers::Accept { id } => {
            let (mut done, mut left) = (0, 0);
            for one in kept(volume, Some(id))? {
                let accepted = volume.accept_quarantined(&one).map_err(said)?;
                (done, left) = (done + accepted.done, left + accepted.left);
            }
            Ok(Members::Accepted { done, left })
        }
    }
}

pub(crate) fn said(error: Error) -> Failure {
    match error {
        Error::ReadOnly => Failure::new("readers change nothing in this volume: ask the owner or an admin"),
        other => Failure::from(other),
    }
}

fn is_prefix(digits: &str, id: &str) -> bool {
    digits.len() >= ID_DIGITS && id.starts_with(&digits.to_ascii_lowercase())
}

fn member(volume: &Volume, user: &str) -> Outcome<Option<volume::Member>> {
    let members = volume.members();
    if let Some(named) = members.iter().find(|member| member.name == user) {
        return Ok(Some(named.clone()));
    }
    let mut found = members.into_iter().filter(|member| is_prefix(user, &member.user.to_string()));
    match (found.next(), found.next()) {
        (found, None) => Ok(found),
        _ => Err(Failure::new(format!("several users' ids begin with {user}: give more digits"))),
    }
}

fn known_member(volume: &Volume, user: &str) -> Outcome<volume::Member> {
    let nobody = || Failure::new(format!("nobody here is called `{user}`: `p2pfs users` lists the members"));
    member(volume, user)?.ok_or_else(nobody)
}

fn grant(volume: &Volume, user: &str, role: &str) -> Outcome<Members> {
    let role: Role = role.parse().map_err(Failure::new)?;
    let member = known_member(volume, user)?;
    if member.role == role {
        return Ok(Members::Changed(format!("{} is {} already", member.name, with_article(role))));
    }
    volume.set_role(&member.user, role).map_err(said)?;
    Ok(Members::Changed(format!("{} is {} now", member.name, with_article(role))))
}

fn with_article(role: Role) -> String {
    let article = if role >= Role::Admin { "an" } else { "a" };
    format!("{article} {role}")
}

fn transfer_ownership(volume: &Volume, user: &str) -> Outcome<Members> {
    let member = known_member(volume, user)?;
    if member.role == Role::Owner {
        return Err(Failure::new(format!("the volume is {}'s already", member.name)));
    }
    volume.transfer_ownership(&member.user).map_err(said)?;
    Ok(Members::Changed(format!("{} is the volume's owner now, and you are an admin", member.name)))
}

fn revoke(volume: &Volume, who: &str) -> Outcome<Members> {
    if let Some(member) = member(volume, who)? {
        if member.me {
            return Err(Failure::new(
                "that is you: to leave, give the id of this device (`p2pfs devices`), or ask an admin",
            ));
        }
        volume.remove_user(&member.user).map_err(said)?;
        return Ok(Members::Changed(format!(
            "{} is removed with all devices, and what is written from now on is sealed under new keys",
            member.name
        )));
    }
    let devices = volume.devices();
    let mut found = devices.iter().filter(|device| is_prefix(who, &device.id.to_string()));
    let device = match (found.next(), found.next()) {
        (Some(device), None) => device,
        (Some(_), Some(_)) => {
            return Err(Failure::new(format!("several devices' ids begin with {who}: give more digits")));
        }
        (None, _) => {
            return Err(Failure::new(format!(
                "no user or device is called `{who}`: `p2pfs users` and `p2pfs devices` list them"
            )));
        }
    };
    volume.remove_device(&device.id).map_err(said)?;
    let short = &device.id.to_string()[..8];
    Ok(Members::Changed(format!(
        "device {short} of {} is removed, and what is written from now on is sealed under new keys",
        device.name
    )))
}

fn kept(volume: &Volume, id: Option<&str>) -> Outcome<Vec<quarantine::Quarantined>> {
    let mut all = volume.quarantine()?;
    if let Some(id) = id {
        all.retain(|one| is_prefix(id, &one.commit.to_string()) || is_prefix(id, &one.device.to_string()));
        if all.is_empty() {
            return Err(Failure::new(format!(
                "nothing of `{id}` is kept aside: `p2pfs quarantine list` shows what is"
            )));
        }
    }
    Ok(all)
}

fn quarantined(one: &quarantine::Quarantined) -> Quarantined {
    let does = |deed| match deed {
        quarantine::Deed::Makes => "make",
        quarantine::Deed::Writes => "write",
        quarantine::Deed::Moves => "move here",
        quarantine::Deed::Removes => "remove",
        quarantine::Deed::Sets => "set attributes",
    };
    let changes = one.changes.iter().map(|change| Kept {
        does: does(change.deed).to_owned(),
        path: change.path.as_ref().map(|path| String::from_utf8_lossy(path).into_owned()),
    });
    Quarantined {
        id: one.commit.to_string(),
        user: one.user.clone(),
        device: one.device.to_string(),
        made: moment(one.made),
        changes: changes.collect(),
    }
}
