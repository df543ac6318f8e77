//! Settings and snapshots that the commits give, by the naivest means.

use std::collections::{BTreeMap, BTreeSet};

use crypto::{DeviceId, Label, keyed_tag};
use volume::{
    Volume,
    commit::{ChangeKind, SettingBody, SnapshotBody},
};

use super::history::{Change, History};

impl<'a> History<'a> {
    /// The snapshots that a change makes or drops, by those who may.
    pub(super) fn snapshot(&self, change: &Change<'_>) -> Option<Change<'a>> {
        let mut of = change.supersedes();
        let found = self.find(of.next()?).filter(|old| matches!(old.head.kind, ChangeKind::Snapshot { .. }));
        found.filter(|_| of.next().is_none())
    }

    /// What every setting was set to last; `None`: to its default.
    fn settings(&self) -> BTreeMap<String, Option<String>> {
        let set = self.live(self.changes().filter(|c| matches!(c.head.kind, ChangeKind::Setting { .. })));
        let mut settings = BTreeMap::new();
        for change in set {
            let ChangeKind::Setting { tag, .. } = change.head.kind else { continue };
            let Some(SettingBody { name, value }) = self.body_to_all(&change) else { continue };
            if *tag.as_bytes() == keyed_tag(self.epoch().1, Label::SettingTag, name.as_bytes()) {
                // The greatest comes first.
                settings.entry(name).or_insert(value);
            }
        }
        settings
    }

    /// The snapshots that nobody dropped, the oldest first: the device that made it, and the name it was given.
    fn snapshots(&self) -> Vec<(DeviceId, String)> {
        let mut made = self.live(self.changes().filter(|c| matches!(c.head.kind, ChangeKind::Snapshot { .. })));
        made.reverse();
        let name = |change: &Change<'_>| self.body_to_all(change).map(|body: SnapshotBody| body.name);
        made.iter().map(|change| (change.device(), name(change).unwrap_or_default())).collect()
    }

    /// Where what a volume tells of settings and snapshots isn't what these commits give.
    pub fn disagrees(&self, volume: &Volume) -> Option<String> {
        let (settings, snapshots) = match (volume.settings(), volume.snapshots()) {
            (Ok(settings), Ok(snapshots)) => (settings, snapshots),
            (Err(e), _) | (_, Err(e)) => return Some(format!("settings and snapshots can't be read: {e}")),
        };
        let set: BTreeMap<_, _> = settings.into_iter().filter_map(|s| Some((s.name, s.set?.value))).collect();
        if set != self.settings() {
            return Some(format!("settings {set:?}, expected {:?}", self.settings()));
        }
        let expected = self.snapshots();
        let mut known = BTreeSet::new();
        let fits = snapshots.len() == expected.len()
            && snapshots.iter().zip(&expected).all(|(shown, (device, name))| {
                let first = known.insert(name);
                let named = if first { shown.name == *name } else { shown.name.starts_with(&format!("{name}~")) };
                named && shown.device == *device
            });
        if fits { None } else { Some(format!("snapshots {snapshots:?}, expected {expected:?}")) }
    }
}
