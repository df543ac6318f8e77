//! What is said over the control socket about conflicts, and shown as JSON.

use serde::{Deserialize, Serialize};
use volume::{Keep, NodeKind, Volume, time::Timestamp};

pub(crate) use super::request::{Bytes, Choice};
use crate::failure::Outcome;

/// No more conflicts are told of at once: an answer has its limit.
const MOST: usize = 10_000;

impl Choice {
    /// As the volume has it.
    pub(crate) fn keep(self) -> Keep {
        match self {
            Self::Mine => Keep::Mine,
            Self::Theirs => Keep::Theirs,
            Self::Both => Keep::All,
            Self::Named(name) => Keep::Named(name.0),
        }
    }
}

/// `p2pfs conflicts`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Conflicts {
    pub(crate) conflicts: Vec<Conflict>,
    /// How many more there are.
    pub(crate) more: u64,
}

/// A name, and what shows there and beside it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Conflict {
    /// From the top of the volume on.
    pub(crate) path: String,
    /// Its bytes.
    pub(crate) path_hex: Bytes,
    /// What shows under the name itself comes first.
    pub(crate) versions: Vec<Version>,
}

/// One of several that want a name.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Version {
    /// The name under which it shows.
    pub(crate) name: String,
    /// Its bytes.
    pub(crate) name_hex: Bytes,
    pub(crate) kind: String,
    /// Not another version of the first one, but something of its own that got the same name.
    pub(crate) own: bool,
    pub(crate) user: String,
    pub(crate) device: String,
    /// Whether this user made it.
    pub(crate) mine: bool,
    /// When it was made, by its author's clock.
    pub(crate) made: String,
    /// Since when it shows here.
    pub(crate) shown: String,
    pub(crate) size: u64,
}

/// The conflicts within a path; all if it is empty.
pub(crate) fn list(volume: &Volume, within: &Bytes) -> Outcome<Conflicts> {
    let found = volume.conflicts(&within.0, MOST)?;
    let conflicts = found.conflicts.into_iter().map(conflict).collect();
    Ok(Conflicts { conflicts, more: found.more })
}

fn conflict(conflict: volume::Conflict) -> Conflict {
    let path = conflict.path();
    let versions = conflict.versions.into_iter().map(|v| Version {
        name: String::from_utf8_lossy(&v.name).into_owned(),
        name_hex: Bytes(v.name),
        kind: kind(v.kind).to_owned(),
        own: v.own,
        user: v.user,
        device: v.device.to_string(),
        mine: v.mine,
        made: moment(v.made),
        shown: moment(v.shown),
        size: v.size,
    });
    Conflict { path: String::from_utf8_lossy(&path).into_owned(), path_hex: Bytes(path), versions: versions.collect() }
}

/// With all digits it has: versions of a file lie close together at times.
fn moment(time: Timestamp) -> String {
    let exact = i32::try_from(time.nanos).ok().and_then(|nanos| jiff::Timestamp::new(time.secs, nanos).ok());
    exact.map_or_else(|| format!("@{}", time.secs), |t| t.to_string())
}

fn kind(kind: NodeKind) -> &'static str {
    match kind {
        NodeKind::File => "file",
        NodeKind::Directory => "folder",
        NodeKind::Symlink => "symlink",
        NodeKind::Fifo => "fifo",
        NodeKind::Socket => "socket",
        NodeKind::CharDevice | NodeKind::BlockDevice => "device",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_need_not_be_text() {
        let choice = Choice::Named(Bytes(vec![0xFF, b'/', 0x80]));
        let line = serde_json::to_string(&choice).unwrap();
        assert_eq!(line, r#"{"named":"ff2f80"}"#);
        assert_eq!(serde_json::from_str::<Choice>(&line).unwrap(), choice);
        assert!(serde_json::from_str::<Bytes>("\"xy\"").is_err());
    }
}
