//! What `p2pfs history` tells, and how versions are found by what was typed.

use serde::{Deserialize, Serialize};
use volume::{
    Volume,
    node::NodeKind,
    time::Timestamp,
    versions::{Author, EntryChange, Happened, PathVersion},
};

use crate::failure::{Failure, Outcome};
use fs_mount::version_names;

/// One line of `p2pfs history`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Event {
    /// The version's name, by which it is asked for.
    pub(crate) version: String,
    /// Of a folder, the entry that changed; nothing when it is about the path itself.
    pub(crate) name: Option<String>,
    pub(crate) user: String,
    pub(crate) device: String,
    /// Nothing when nothing was there any more.
    pub(crate) kind: Option<String>,
    pub(crate) size: Option<u64>,
    /// `made`, `written`, `attributes`, `replaced`, `moved_here`, `appeared`, `moved_away`, `removed`.
    pub(crate) happened: String,
    /// Where it was before, from the top of the volume on, if that is known.
    pub(crate) from: Option<String>,
    /// Where it went.
    pub(crate) to: Option<String>,
    /// What the version is called in `.p2pfs/versions/<path>`.
    pub(crate) file: Option<String>,
    /// The number of the commit on this device.
    pub(crate) arrival: u64,
    /// Since when it shows here, to the nanosecond: the tree as of this moment contains it.
    pub(crate) at: String,
}

/// As many fit into an answer of the daemon.
pub(crate) const EVENTS: usize = 20_000;

/// What happened at a path, the newest first, at most so much.
pub(crate) fn history(volume: &Volume, path: &[Vec<u8>], limit: usize) -> Outcome<Vec<Event>> {
    let limit = limit.min(EVENTS);
    let names: Vec<&[u8]> = path.iter().map(Vec::as_slice).collect();
    let versions = volume.versions(&names)?;
    let moments = version_names::moments(&versions);
    let last = path.last().map_or(&[][..], Vec::as_slice);
    let mut events: Vec<Event> =
        versions.iter().zip(moments).take(limit).map(|(version, moment)| of_version(version, moment, last)).collect();
    if versions.iter().any(|v| v.state.as_ref().is_some_and(|state| state.kind == NodeKind::Directory)) {
        events.extend(volume.entry_changes(&names, limit)?.into_iter().map(of_entry));
        // The newest first; what is told of one commit stays in order.
        events.sort_by_key(|event| std::cmp::Reverse(event.arrival));
        events.truncate(limit);
    }
    Ok(events)
}

/// The name of the version on which two others are based.
pub(crate) fn base(volume: &Volume, path: &[Vec<u8>], one: &str, other: &str) -> Outcome<Option<String>> {
    let names: Vec<&[u8]> = path.iter().map(Vec::as_slice).collect();
    let versions = volume.versions(&names)?;
    let moments = version_names::moments(&versions);
    let find = |typed: &str| {
        let place = version_names::find(&moments, typed).and_then(|place| versions.get(place));
        place.map(|version| version.since).ok_or_else(|| Failure::new(format!("there is no version {typed}")))
    };
    let base = volume.common_base(&versions, find(one)?, find(other)?)?;
    let place = base.and_then(|since| versions.iter().position(|version| version.since == since));
    Ok(place.and_then(|place| moments.get(place).cloned()))
}

fn of_version(version: &PathVersion, moment: String, last: &[u8]) -> Event {
    let state = version.state.as_ref();
    let file = state.filter(|state| state.kind != NodeKind::Directory);
    let file = file.map(|_| text(&version_names::file_name(&moment, &version.author, last)));
    Event {
        name: None,
        kind: state.map(|state| kind(state.kind).to_owned()),
        size: state.filter(|state| state.kind != NodeKind::Directory).map(|state| state.size),
        file,
        ..event(moment, version.shown, &version.author, &version.happened, version.since)
    }
}

fn of_entry(change: EntryChange) -> Event {
    let gone = matches!(change.happened, Happened::Removed | Happened::MovedAway { .. });
    Event {
        name: Some(text(&change.name)),
        kind: (!gone).then(|| kind(change.kind).to_owned()),
        ..event(version_names::shown(change.shown), change.shown, &change.author, &change.happened, change.arrival)
    }
}

fn event(version: String, shown: Timestamp, author: &Author, happened: &Happened, arrival: u64) -> Event {
    let (happened, from, to) = match happened {
        Happened::Made => ("made", None, None),
        Happened::Written => ("written", None, None),
        Happened::Attributes => ("attributes", None, None),
        Happened::Replaced { from } => ("replaced", from.as_deref(), None),
        Happened::MovedHere { from } => ("moved_here", Some(from.as_slice()), None),
        Happened::Appeared => ("appeared", None, None),
        Happened::MovedAway { to } => ("moved_away", None, to.as_deref()),
        Happened::Removed => ("removed", None, None),
    };
    Event {
        version,
        name: None,
        user: author.name.clone(),
        device: author.device.to_string(),
        kind: None,
        size: None,
        happened: happened.to_owned(),
        from: from.map(path),
        to: to.map(path),
        file: None,
        arrival,
        at: version_names::text(shown, 9),
    }
}

fn kind(kind: NodeKind) -> &'static str {
    match kind {
        NodeKind::File => "file",
        NodeKind::Directory => "directory",
        NodeKind::Symlink => "symlink",
        NodeKind::Fifo => "fifo",
        NodeKind::Socket => "socket",
        NodeKind::CharDevice | NodeKind::BlockDevice => "device",
    }
}

fn path(names: &[Vec<u8>]) -> String {
    text(&names.join(&b'/'))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
