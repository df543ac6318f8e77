//! What the listings tell, as records: shown as tables or as JSON.

use std::{collections::HashMap, time::Duration};

use crypto::{DeviceId, Fingerprint};
use fs_mount::driver::Wait;
use serde::{Deserialize, Serialize};
use volume::{DeviceInfo, Resealed, Volume, time::Timestamp};

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
    /// Files, folders and the like that were ever made, also those that are gone: how many are there now nobody counts.
    pub(crate) nodes: u64,
    /// Folders below which permissions are still to follow theirs.
    #[serde(default)]
    pub(crate) following: usize,
    /// Commits and files that were not yet looked at for what is done to very many files.
    #[serde(default)]
    pub(crate) uninspected: u64,
    /// Old contents are being sealed under new keys, and how far that is.
    #[serde(default)]
    pub(crate) resealing: Option<Resealed>,
    /// Nothing more is stored until there is room.
    pub(crate) disk_full: bool,
    pub(crate) peers_connected: usize,
    pub(crate) peers_known: usize,
    pub(crate) registries: Vec<Registry>,
    /// Addresses at which this device can be reached.
    pub(crate) listen: Vec<String>,
    pub(crate) invitations: Vec<Invitation>,
    /// Files whose contents are waited for, or were in vain; the longest first.
    #[serde(default)]
    pub(crate) waiting: Vec<Waiting>,
    /// This device's store was found to be an older copy of what it had.
    #[serde(default)]
    pub(crate) older_copy: Option<OlderCopy>,
    /// Other devices that go on from an older copy of their store.
    #[serde(default)]
    pub(crate) restored: Vec<RestoredDevice>,
    /// This device belongs to the volume no more.
    #[serde(default)]
    pub(crate) removed: bool,
    /// The member's device that says so, while what says it has not come.
    #[serde(default)]
    pub(crate) said_removed_by: Option<String>,
    /// Alerts that nobody has looked at.
    #[serde(default)]
    pub(crate) alerts: u64,
    /// Messages from others that nobody has read.
    #[serde(default)]
    pub(crate) unread: u64,
    /// Commits that were made apart from the removal of who made them.
    #[serde(default)]
    pub(crate) kept_aside: u64,
    /// Files with what was written on this device and is shown here alone.
    #[serde(default)]
    pub(crate) unpublished: Vec<Unpublished>,
    /// Of a keeper: whether it runs. Nothing for who can read the volume.
    #[serde(default)]
    pub(crate) serving: Option<bool>,
    /// Bytes that are taken of the disk, told with a quota or of a keeper.
    #[serde(default)]
    pub(crate) used: Option<u64>,
    #[serde(default)]
    pub(crate) quota: Option<u64>,
    /// Contents are not fetched: there is no room for them within the quota.
    #[serde(default)]
    pub(crate) quota_reached: bool,
}

/// A file whose content isn't here, though somebody wants to read it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Waiting {
    /// From the volume's root; nothing for one without a name.
    pub(crate) path: Option<String>,
    /// It is read as it was (`.p2pfs/at`).
    pub(crate) past: bool,
    /// When somebody began to wait.
    pub(crate) since: String,
    pub(crate) seconds: u64,
    /// Requests that wait now; with none, they were given an error.
    pub(crate) readers: usize,
    /// When the version was made, by its author's clock.
    pub(crate) made: Option<String>,
    pub(crate) devices: Vec<Holder>,
}

/// A device that has, or may have, a content.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Holder {
    pub(crate) name: Option<String>,
    pub(crate) device: String,
    /// `made it` is known; `said to have all` was its word.
    pub(crate) why: String,
    pub(crate) connected: bool,
}

/// What is known of a store that is an older copy.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct OlderCopy {
    pub(crate) noticed: String,
    /// Devices not met since, by name and id: they may know what is missing here.
    pub(crate) not_met: Vec<(String, String)>,
}

/// Another device whose store is an older copy.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RestoredDevice {
    pub(crate) name: String,
    pub(crate) device: String,
    /// By its own clock.
    pub(crate) since: String,
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
    /// Since when it goes on from an older copy of its store, by its own clock.
    #[serde(default)]
    pub(crate) restored: Option<String>,
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
    /// Digits by which people compare keys.
    pub(crate) fingerprint: String,
}

/// One line of `p2pfs devices`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Device {
    pub(crate) device: String,
    pub(crate) name: String,
    pub(crate) commits: u64,
    pub(crate) admitted: String,
    pub(crate) me: bool,
    /// Since when it goes on from an older copy of its store, by its own clock.
    #[serde(default)]
    pub(crate) restored: Option<String>,
    /// Whose it is, by id.
    pub(crate) user: String,
    /// Digits by which people compare keys.
    pub(crate) fingerprint: String,
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

/// A file with what was written on this device and could not be published.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Unpublished {
    pub(crate) path: Option<String>,
    /// The right to write to it went.
    pub(crate) forbidden: bool,
}

/// What the volume itself knows of its status; the daemon adds mount and network.
pub(crate) fn status(volume: &Volume, profile: &Profile) -> Status {
    let status = volume.status();
    let members = volume.members();
    let me = members.iter().find(|m| m.me);
    let own = profile.device_keys().id();
    let devices = volume.devices();
    let keeper = volume.is_keeper();
    Status {
        volume: profile.label.clone(),
        id: profile.volume.to_string(),
        mountpoint: None,
        // A keeper can't read names, but knows what it called itself.
        user: me.filter(|_| !keeper).map_or_else(|| profile.user.clone(), |m| m.name.clone()),
        device: own.to_string(),
        role: me.map(|m| m.role.to_string()),
        commits: status.commits,
        pending: status.pending_changes,
        wanted_blocks: status.wanted_blocks,
        wanted_bytes: status.wanted_bytes,
        conflicts: status.conflicts,
        nodes: status.nodes,
        following: volume.unaligned().unwrap_or_default(),
        uninspected: 0,
        resealing: volume.resealing().unwrap_or_default(),
        disk_full: status.disk_full,
        peers_connected: 0,
        peers_known: devices.iter().filter(|d| !d.me).count(),
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
        waiting: Vec::new(),
        removed: volume.is_removed(&own),
        said_removed_by: None,
        unread: volume.unread_letters().unwrap_or_default().count,
        alerts: volume.open_alerts().map_or(0, |open| open.values().sum()),
        kept_aside: volume.quarantine().map_or(0, |kept| kept.len() as u64),
        unpublished: volume
            .unpublished()
            .into_iter()
            .map(|file| Unpublished {
                path: file.path.map(|path| String::from_utf8_lossy(&path).into_owned()),
                forbidden: file.forbidden,
            })
            .collect(),
        serving: keeper.then_some(false),
        used: status.used_bytes,
        quota: status.quota,
        quota_reached: status.quota_reached,
        older_copy: noticed_copy(volume, &devices),
        restored: devices
            .iter()
            .filter(|d| !d.me)
            .filter_map(|d| {
                let since = moment(d.restored?);
                Some(RestoredDevice { name: d.name.clone(), device: d.id.to_string(), since })
            })
            .collect(),
    }
}

fn noticed_copy(volume: &Volume, devices: &[DeviceInfo]) -> Option<OlderCopy> {
    let (noticed, unmet) = volume.restored()?;
    let not_met = devices.iter().filter(|d| unmet.contains(&d.id)).map(|d| (d.name.clone(), d.id.to_string()));
    Some(OlderCopy { noticed: moment(noticed), not_met: not_met.collect() })
}

/// What is to be said at mounting of a store that is an older copy, until all others have been met.
pub(crate) fn older_copy(volume: &Volume) -> Option<String> {
    let copy = noticed_copy(volume, &volume.devices()).filter(|copy| !copy.not_met.is_empty())?;
    let names: Vec<_> = copy.not_met.iter().map(|(name, _)| name.as_str()).collect();
    Some(format!(
        "the store is an older copy of this device's (noticed {}): what it had shown since may be missing until {} connected",
        copy.noticed,
        if let [name] = names[..] { format!("{name} has") } else { format!("{} have", names.join(", ")) },
    ))
}

/// The files that are waited for, with who has them; `connected` are the peers.
pub(crate) fn waiting(volume: &Volume, waits: &[Wait], connected: &[DeviceId]) -> Vec<Waiting> {
    let names: HashMap<DeviceId, String> = volume.devices().into_iter().map(|d| (d.id, d.name)).collect();
    let holder = |id: &DeviceId, why: &str| Holder {
        name: names.get(id).cloned(),
        device: id.to_string(),
        why: why.to_owned(),
        connected: connected.contains(id),
    };
    let one = |wait: &Wait| {
        let holders = volume.holders(wait.ino).ok();
        let waited = wait.since.elapsed();
        let since = jiff::Timestamp::now() - jiff::SignedDuration::from_secs(waited.as_secs().cast_signed());
        let mut devices = Vec::new();
        if let Some(holders) = &holders {
            devices.push(holder(&holders.author, "made it"));
            devices.extend(holders.complete.iter().map(|id| holder(id, "said to have all")));
        }
        Waiting {
            path: holders.as_ref().and_then(|h| h.path.as_ref()).map(|p| String::from_utf8_lossy(p).into_owned()),
            past: volume::is_past(wait.ino),
            since: moment(Timestamp { secs: since.as_second(), nanos: 0 }),
            seconds: waited.as_secs(),
            readers: wait.readers,
            made: holders.as_ref().map(|holders| moment(holders.made)),
            devices,
        }
    };
    waits.iter().map(one).collect()
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
            fingerprint: Fingerprint::of_user(&m.user).to_string(),
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
            restored: d.restored.map(moment),
            user: d.user.to_string(),
            fingerprint: Fingerprint::of_device(&d.id).to_string(),
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
            restored: d.restored.map(moment),
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
