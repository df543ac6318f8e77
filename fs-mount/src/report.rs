//! What the listings tell, as records: shown as tables or as JSON.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use volume::{Volume, time::Timestamp};

use crate::profile::Profile;

/// `p2pfs status`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Status {
    pub(crate) volume: String,
    pub(crate) id: String,
    /// Where it is mounted; nothing when it isn't.
    pub(crate) mountpoint: Option<String>,
    pub(crate) user: String,
    pub(crate) device: String,
    pub(crate) role: Option<String>,
    pub(crate) commits: u64,
    /// Changes that are not in a commit yet.
    pub(crate) pending: u64,
    pub(crate) wanted_blocks: u64,
    pub(crate) wanted_bytes: u64,
    /// Names beside which something shows.
    pub(crate) conflicts: u64,
    pub(crate) nodes: u64,
    /// Nothing more is stored until there is room.
    pub(crate) disk_full: bool,
    pub(crate) peers_connected: usize,
    pub(crate) peers_known: usize,
    pub(crate) registries: Vec<Registry>,
    /// Addresses at which this device can be reached.
    pub(crate) listen: Vec<String>,
    pub(crate) invitations: Vec<Invitation>,
}

/// A registry and whether it answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Registry {
    pub(crate) address: String,
    pub(crate) state: String,
}

/// An invitation that nobody took yet.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Invitation {
    pub(crate) role: String,
    pub(crate) expires: String,
}

/// One line of `p2pfs peers`: another device of the volume.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Peer {
    /// The user's name; nothing for a device that isn't known as a member's yet.
    pub(crate) name: Option<String>,
    pub(crate) device: String,
    pub(crate) connected: bool,
    pub(crate) address: Option<String>,
    pub(crate) rtt_ms: Option<f64>,
    pub(crate) in_step: bool,
    /// Their commits that are not here.
    pub(crate) missing_here: Option<u64>,
    /// Our commits that are not there.
    pub(crate) missing_there: Option<u64>,
    pub(crate) holds_all_mine: Option<bool>,
    pub(crate) all_theirs_here: Option<bool>,
    pub(crate) connected_seconds: Option<u64>,
}

/// One line of `p2pfs users`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) role: String,
    /// The numeric id that stands for this user on the mount.
    pub(crate) number: u32,
    pub(crate) id: String,
    pub(crate) devices: Vec<String>,
    pub(crate) me: bool,
}

/// One line of `p2pfs devices`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Device {
    pub(crate) device: String,
    pub(crate) name: String,
    pub(crate) commits: u64,
    pub(crate) admitted: String,
    pub(crate) me: bool,
}

/// One line of `p2pfs volumes`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct LocalVolume {
    /// Nothing when its keys are locked.
    pub(crate) volume: Option<String>,
    pub(crate) id: String,
    pub(crate) user: Option<String>,
    pub(crate) mountpoint: Option<String>,
    pub(crate) mounted: bool,
}

/// How much `p2pfs verify` looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Scrubbed {
    pub(crate) records: u64,
    pub(crate) commits: u64,
    /// Older versions included.
    pub(crate) contents: u64,
    pub(crate) blocks: u64,
    /// In these blocks.
    pub(crate) bytes: u64,
}

/// One damage that `p2pfs verify` found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Damage {
    /// `block`, `sealing`, `record` or `commit`.
    pub(crate) kind: String,
    /// The path it hurts, from the volume's root.
    pub(crate) path: Option<String>,
    pub(crate) what: String,
    pub(crate) block: Option<String>,
    pub(crate) repaired: bool,
}

/// A store that was built anew.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Rebuilt {
    /// Commits that are in it.
    pub(crate) commits: u64,
    /// Commits that could not be read.
    pub(crate) damaged: u64,
    /// Commits that wait for those.
    pub(crate) waiting: u64,
    /// Where the damaged store is.
    pub(crate) kept: String,
}

/// What `p2pfs verify` found and did.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Verified {
    pub(crate) checked: Scrubbed,
    pub(crate) damages: u64,
    /// At most 10,000 of them.
    pub(crate) damage: Vec<Damage>,
    /// Blocks put aside earlier that are whole again.
    pub(crate) recovered: u64,
    /// Something is damaged that only building the store anew mends.
    pub(crate) needs_rebuild: bool,
    pub(crate) rebuilt: Option<Rebuilt>,
    pub(crate) mounted: bool,
}

impl Verified {
    /// How many damages there still are.
    pub(crate) fn unrepaired(&self) -> u64 {
        self.damages - self.damage.iter().filter(|d| d.repaired).count() as u64
    }
}

/// What the volume itself knows of its status; the daemon adds mount and network.
pub(crate) fn status(volume: &Volume, profile: &Profile) -> Status {
    let status = volume.status();
    let members = volume.members();
    let me = members.iter().find(|m| m.me);
    let own = profile.device_keys().id();
    Status {
        volume: profile.label.clone(),
        id: profile.volume.to_string(),
        mountpoint: None,
        user: me.map_or_else(|| profile.user.clone(), |m| m.name.clone()),
        device: own.to_string(),
        role: me.map(|m| m.role.to_string()),
        commits: status.commits,
        pending: status.pending_changes,
        wanted_blocks: status.wanted_blocks,
        wanted_bytes: status.wanted_bytes,
        conflicts: status.conflicts,
        nodes: status.nodes,
        disk_full: status.disk_full,
        peers_connected: 0,
        peers_known: volume.devices().iter().filter(|d| !d.me).count(),
        registries: profile
            .registries
            .iter()
            .map(|r| Registry { address: r.to_string(), state: "not mounted".to_owned() })
            .collect(),
        listen: Vec::new(),
        invitations: volume
            .open_invitations()
            .iter()
            .map(|i| Invitation { role: i.role.to_string(), expires: moment(i.expires) })
            .collect(),
    }
}

/// The members, as the volume lists them.
pub(crate) fn users(volume: &Volume) -> Vec<User> {
    volume
        .members()
        .into_iter()
        .map(|m| User {
            name: m.name,
            role: m.role.to_string(),
            number: m.number,
            id: m.user.to_string(),
            devices: m.devices.iter().map(ToString::to_string).collect(),
            me: m.me,
        })
        .collect()
}

/// The members' devices, as the volume lists them.
pub(crate) fn devices(volume: &Volume) -> Vec<Device> {
    volume
        .devices()
        .into_iter()
        .map(|d| Device {
            device: d.id.to_string(),
            name: d.name,
            commits: d.commits,
            admitted: moment(d.admitted),
            me: d.me,
        })
        .collect()
}

/// The other members' devices as if none were connected.
pub(crate) fn offline_peers(volume: &Volume) -> Vec<Peer> {
    volume
        .devices()
        .into_iter()
        .filter(|d| !d.me)
        .map(|d| Peer {
            name: Some(d.name),
            device: d.id.to_string(),
            connected: false,
            address: None,
            rtt_ms: None,
            in_step: false,
            missing_here: None,
            missing_there: None,
            holds_all_mine: None,
            all_theirs_here: None,
            connected_seconds: None,
        })
        .collect()
}

/// A moment as `2026-11-22T09:15:00Z`.
pub(crate) fn moment(time: Timestamp) -> String {
    jiff::Timestamp::from_second(time.secs).map_or_else(|_| format!("@{}", time.secs), |t| t.to_string())
}

/// Milliseconds with one digit.
pub(crate) fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 10_000.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_utc() {
        assert_eq!(moment(Timestamp { secs: 0, nanos: 5 }), "1970-01-01T00:00:00Z");
        assert_eq!(moment(Timestamp { secs: i64::MAX, nanos: 0 }), format!("@{}", i64::MAX));
    }

    #[test]
    fn milliseconds_are_short() {
        assert_eq!(milliseconds(Duration::from_micros(1234)), 1.2);
    }
}
