//! What the members agree on beside the tree: settings of the volume, and snapshots with names.
//!
//! Owns the rules of these changes and their rows. Does not own what a setting means ([`crate::settings`]), or how
//! snapshots are listed ([`crate::snapshots`]).
//!
//! Invariants: what a row says follows from commits alone, whatever order they came in. Any writer may make snapshots
//! without end, so rows stay in the store: nothing here is kept in memory but what is asked for, which is bounded.

use crypto::{DerivingKey, DeviceId, EpochId, Label, UserId, keyed_tag};
use serde::{Deserialize, Serialize};

use crate::{
    apply::{Body, Origin, decode, rule},
    commit::{ChangeKind, Head, Header, SettingBody, SnapshotBody, encode},
    core::{Core, decode_row},
    error::Result,
    id::{CommitHash, NodeId},
    record,
    row::Value,
    settings, snapshots,
    store::Space,
    time::Timestamp,
    version::ValueRef,
};

/// Rows of settings, and of snapshots, begin with these in [`Space::Members`]. Those of members come before.
const SETTING: u8 = b'v';
const SNAPSHOT: u8 = b'w';
/// Where they begin.
pub(crate) const BEGIN: &[u8] = &[SETTING];
/// Rows read at once.
const PAGE: usize = 64;

/// What somebody set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SettingValue {
    pub user: UserId,
    pub device: DeviceId,
    pub name: String,
    /// `None`: the default again.
    pub value: Option<String>,
}

/// A setting, by the tag of its name.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SettingRow {
    pub tag: NodeId,
    /// In rising order.
    pub values: Vec<Value<SettingValue>>,
}

/// A snapshot.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SnapshotRow {
    pub at: ValueRef,
    pub count: u64,
    pub user: UserId,
    pub device: DeviceId,
    /// `None`: it has a name that can't be read, or be one.
    pub name: Option<String>,
    /// What took it away: it is there again if none of that counts.
    #[serde(default)]
    pub dropped: Vec<ValueRef>,
}

/// A row of either kind, as the running call left it. Encoded once, at the call's end: one commit may set a setting
/// thousands of times.
pub(crate) enum AgreedRow {
    Setting(SettingRow),
    Snapshot(SnapshotRow),
}

impl AgreedRow {
    /// As it is stored.
    pub(crate) fn encoded(&self) -> Vec<u8> {
        match self {
            AgreedRow::Setting(row) => encode(row),
            AgreedRow::Snapshot(row) => encode(row),
        }
    }
}

/// Where a value stands in the order of concurrent ones; the greatest shows.
pub(crate) type Rank = (u64, DeviceId, CommitHash, u32);

fn setting_key(tag: &NodeId) -> Vec<u8> {
    [&[SETTING], &tag.as_bytes()[..]].concat()
}

fn snapshot_key(at: ValueRef) -> Vec<u8> {
    [&[SNAPSHOT], &at.key()[..]].concat()
}

/// Whether a key in [`Space::Members`] is of a row of these.
pub(crate) fn is_ours(key: &[u8]) -> bool {
    key >= BEGIN
}

/// Whether a stored row is one, and where it belongs.
pub(crate) fn is_sound(key: &[u8], plain: &[u8]) -> bool {
    let own_key = match key.first() {
        Some(&SETTING) => record::read::<SettingRow>(plain).ok().map(|row| setting_key(&row.tag)),
        Some(&SNAPSHOT) => record::read::<SnapshotRow>(plain).ok().map(|row| snapshot_key(row.at)),
        _ => None,
    };
    own_key.is_some_and(|own| own == key)
}

/// By what others find a setting that can't read its name.
pub(crate) fn setting_tag(epoch: &DerivingKey, name: &str) -> NodeId {
    NodeId::from_bytes(keyed_tag(epoch.key(), Label::SettingTag, name.as_bytes()))
}

impl Core {
    #[allow(clippy::too_many_arguments, reason = "the parts of one change")]
    pub(crate) fn apply_setting(
        &mut self,
        origin: &Origin,
        at: ValueRef,
        head: &Head,
        (epoch, tag): (&EpochId, &NodeId),
        encoded: &[u8],
        body: Body<'_>,
        gone: &[ValueRef],
    ) -> Result<()> {
        if !origin.role.may_admit() {
            return rule("a setting by someone who may not set any");
        }
        let key = self.epoch_key(epoch);
        let sealing = key.as_ref().map(|key| key.derive(Label::BodyKey));
        let body: Option<SettingBody> = self.open(origin, at.index, encoded, sealing.as_ref(), body);
        let body = body.filter(|b| {
            settings::may_be(&b.name, b.value.as_deref()) && key.is_some_and(|key| setting_tag(&key, &b.name) == *tag)
        });
        let value = body.map(|SettingBody { name, value }| SettingValue {
            user: origin.user,
            device: origin.device,
            name,
            value,
        });
        let mut row = self.setting_row_now(tag)?.unwrap_or(SettingRow { tag: *tag, values: Vec::new() });
        let live: Vec<ValueRef> = row.values.iter().map(|v| v.at).collect();
        self.check_same_register(origin, head, gone, &live)?;
        self.replace(&mut row.values, gone, Some(Value { at, count: origin.count, value }))?;
        self.put_setting_row(row);
        Ok(())
    }

    /// A setting with what the running call made of it, to change and put back.
    pub(crate) fn setting_row_now(&mut self, tag: &NodeId) -> Result<Option<SettingRow>> {
        match self.overlay.agreed.remove(&setting_key(tag)) {
            Some(Some(AgreedRow::Setting(row))) => Ok(Some(row)),
            _ => self.setting_row(tag),
        }
    }

    pub(crate) fn put_setting_row(&mut self, row: SettingRow) {
        self.overlay.agreed.insert(setting_key(&row.tag), Some(AgreedRow::Setting(row)));
    }

    pub(crate) fn apply_snapshot(
        &mut self,
        origin: &Origin,
        at: ValueRef,
        epoch: &EpochId,
        encoded: &[u8],
        body: Body<'_>,
        gone: &[ValueRef],
    ) -> Result<()> {
        if !gone.is_empty() {
            return rule("a snapshot that supersedes");
        }
        let sealing = self.epoch_key(epoch).map(|key| key.derive(Label::BodyKey));
        let body: Option<SnapshotBody> = self.open(origin, at.index, encoded, sealing.as_ref(), body);
        let row = SnapshotRow {
            at,
            count: origin.count,
            user: origin.user,
            device: origin.device,
            name: body.map(|b| b.name).filter(|name| snapshots::check_name(name).is_ok()),
            dropped: Vec::new(),
        };
        self.overlay.agreed.insert(snapshot_key(at), Some(AgreedRow::Snapshot(row)));
        Ok(())
    }

    /// Whoever made a snapshot, and admins, may drop it; that somebody else did so, too, makes no difference.
    pub(crate) fn apply_drop(&mut self, origin: &Origin, at: ValueRef, gone: &[ValueRef]) -> Result<()> {
        let [snapshot] = *gone else { return rule("a removal that is not of one snapshot") };
        let beside = snapshot.dot == origin.dot;
        // (The commit of a void one is none of these: it has no effect to take away.)
        if beside && snapshot.index >= at.index || !beside && self.commit_info(snapshot.dot)?.void {
            return rule("a removal of a snapshot that there is not");
        }
        let head: Head = decode(&self.named(snapshot)?.head)?;
        if !matches!(head.kind, ChangeKind::Snapshot { .. }) {
            return rule("a removal of something that is no snapshot");
        }
        let device = self.branch_of(snapshot.dot)?.device;
        let maker = if beside { origin.user } else { self.author(&device, snapshot.dot)?.0 };
        if maker != origin.user && !origin.role.may_admit() {
            return rule("a removal of another's snapshot");
        }
        let key = snapshot_key(snapshot);
        let row = match self.overlay.agreed.remove(&key) {
            Some(Some(AgreedRow::Snapshot(row))) => Some(row),
            _ => self.store.get(Space::Members, &key)?.map(|row| decode_row("snapshot", &row)).transpose()?,
        };
        // (In a store of an earlier version it may be gone already.)
        if let Some(mut row) = row {
            row.dropped.push(at);
            self.overlay.agreed.insert(key, Some(AgreedRow::Snapshot(row)));
        }
        Ok(())
    }

    /// A setting, as it is without what the running call made of it.
    pub(crate) fn setting_row(&self, tag: &NodeId) -> Result<Option<SettingRow>> {
        let row = self.store.get(Space::Members, &setting_key(tag))?;
        row.map(|row| decode_row("setting", &row)).transpose()
    }

    /// Where a value of one of these stands.
    pub(crate) fn agreed_rank(&mut self, at: ValueRef, count: u64, device: DeviceId) -> Result<Rank> {
        // What no commit holds yet has a greater count than all there is.
        let hash = if self.is_pending(at.dot) { CommitHash::ZERO } else { self.commit_info(at.dot)?.hash };
        Ok((count, device, hash, at.index))
    }

    /// When a change was made, by its author's clock, and the number of its commit's arrival here.
    pub(crate) fn made(&self, at: ValueRef) -> Result<(Timestamp, u64)> {
        match self.commit_row(at.dot)? {
            Some(row) => Ok((decode::<Header>(&row.header)?.time, row.arrival)),
            // No commit holds it yet: it arrives with the next.
            None => Ok((self.now(), self.next_arrival)),
        }
    }

    /// Looks at the stored rows that begin with `kind`.
    fn agreed_rows<T: serde::de::DeserializeOwned>(
        &mut self,
        kind: u8,
        what: &str,
        mut look: impl FnMut(&mut Core, T) -> Result<()>,
    ) -> Result<()> {
        let mut from = vec![kind];
        loop {
            let rows = self.store.scan(Space::Members, &from, &[kind + 1], PAGE)?;
            let Some((last, _)) = rows.last() else { return Ok(()) };
            from = [last.as_slice(), &[0]].concat();
            for (_, bytes) in rows {
                look(self, decode_row(what, &bytes)?)?;
            }
        }
    }

    /// Looks at all settings, of no running call.
    pub(crate) fn setting_rows(&mut self, look: impl FnMut(&mut Core, SettingRow) -> Result<()>) -> Result<()> {
        self.agreed_rows(SETTING, "setting", look)
    }

    /// Looks at all snapshots, of no running call.
    pub(crate) fn snapshot_rows(&mut self, look: impl FnMut(&mut Core, SnapshotRow) -> Result<()>) -> Result<()> {
        self.agreed_rows(SNAPSHOT, "snapshot", look)
    }
}
