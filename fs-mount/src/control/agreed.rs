//! Settings and snapshots over the control socket: what is asked, and the answers.

use fs_mount::moment;
use serde::{Deserialize, Serialize};
use volume::{Error, Volume};

pub(crate) use super::request::AboutAgreed;
use crate::{
    failure::{Failure, Outcome},
    report::moment as shown_moment,
};

/// What is answered.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Agreed {
    Settings(Vec<Setting>),
    Snapshots(Vec<Snapshot>),
    Done,
}

/// One line of `p2pfs config`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Setting {
    pub(crate) name: String,
    /// What holds on this device.
    pub(crate) value: String,
    /// Nothing for a setting of a later version.
    pub(crate) default: Option<String>,
    /// What it was set to for the volume; nothing when the default holds.
    pub(crate) volume: Option<String>,
    /// Who set it, or put it back, on which device and when.
    pub(crate) set_by: Option<String>,
    pub(crate) set_on: Option<String>,
    pub(crate) set_at: Option<String>,
    /// What this device keeps beyond it.
    pub(crate) device: Option<String>,
}

/// One line of `p2pfs snapshot list`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Snapshot {
    pub(crate) name: String,
    pub(crate) user: String,
    pub(crate) device: String,
    /// By that device's clock.
    pub(crate) made: String,
    /// The number of the arrival here that it keeps the state after.
    pub(crate) arrival: u64,
}

/// Does what is asked.
pub(crate) fn answer(volume: &Volume, asked: &AboutAgreed) -> Outcome<Agreed> {
    if let AboutAgreed::CreateSnapshot { name } = asked
        && moment::parse(name, &jiff::Zoned::now()).is_some()
    {
        return Err(Failure::new(format!(
            "`{name}` is a time, and .p2pfs/at/{name} shows the tree as it was then: give the snapshot another name"
        )));
    }
    let done = match asked {
        AboutAgreed::Settings => volume.settings().map(|all| Agreed::Settings(all.into_iter().map(setting).collect())),
        AboutAgreed::Snapshots => volume.snapshots().map(|all| Agreed::Snapshots(all.iter().map(snapshot).collect())),
        AboutAgreed::Set { name, value, device: false } => {
            volume.set_setting(name, value.as_deref()).map(|()| Agreed::Done)
        }
        AboutAgreed::Set { name, value, device: true } => {
            volume.set_own_setting(name, value.as_deref()).map(|()| Agreed::Done)
        }
        AboutAgreed::CreateSnapshot { name } => volume.create_snapshot(name).map(|()| Agreed::Done),
        AboutAgreed::RemoveSnapshot { name } => volume.remove_snapshot(name).map(|()| Agreed::Done),
    };
    done.map_err(|error| match error {
        Error::ReadOnly => Failure::new("readers change nothing in this volume: ask the owner or an admin"),
        other => Failure::from(other),
    })
}

fn setting(setting: volume::settings::Setting) -> Setting {
    let volume::settings::Setting { name, value, default, set, own } = setting;
    Setting {
        name,
        value,
        default,
        volume: set.as_ref().and_then(|set| set.value.clone()),
        set_by: set.as_ref().map(|set| set.user.clone()),
        set_on: set.as_ref().map(|set| set.device.to_string()),
        set_at: set.as_ref().map(|set| shown_moment(set.time)),
        device: own,
    }
}

fn snapshot(snapshot: &volume::Snapshot) -> Snapshot {
    Snapshot {
        name: snapshot.name.clone(),
        user: snapshot.user.clone(),
        device: snapshot.device.to_string(),
        made: shown_moment(snapshot.time),
        arrival: snapshot.arrival,
    }
}
