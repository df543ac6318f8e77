//! Notices that a peer was set back: that it lacks what it had signed itself, or had said to know.
//!
//! Cheap: of each device a row, of which arrival was the last one here when it knew just the same. Looked at when a peer
//! says which commits it knows, against what it had as the session began: what it does meanwhile may come here sooner by
//! another way.

use std::collections::{BTreeMap, BTreeSet};

use crypto::DeviceId;
use serde::{Deserialize, Serialize};

use crate::{
    audit::{Act, Op, Outcome},
    commit::encode,
    core::{Core, decode_row},
    error::{Error, Result},
    store::{Batch, Space, prefix_end},
    sync::{MAX_TIPS, Tip},
    version::{BranchNo, Dot, VersionVector},
};

const PREFIX: &[u8] = b"knew/";

/// What is kept of a device.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Knew {
    /// The last arrival here when it knew all that was known here.
    up_to: u64,
    /// That it was set back was told, and it has not caught up yet.
    told: Told,
}

/// How it was noticed that a device was set back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Told {
    #[default]
    #[serde(rename = "n")]
    Not,
    /// It lacks what it had; that it begins a new log for it is still to come, if it is honest.
    #[serde(rename = "l")]
    Lacks,
    /// It said so itself.
    #[serde(rename = "s")]
    Said,
}

/// What devices knew.
#[derive(Default)]
pub(crate) struct Knowing {
    of: BTreeMap<DeviceId, Knew>,
    /// Those that aren't stored yet.
    unsaved: BTreeSet<DeviceId>,
}

/// What a peer had as a session with it began.
#[derive(Clone, Debug, Default)]
pub(crate) struct Had {
    up_to: u64,
    /// The newest commits of its own logs that were known here.
    own: Vec<Dot>,
}

impl Core {
    /// Reads what devices knew.
    pub(crate) fn load_knowing(&mut self) -> Result<()> {
        for (key, row) in self.store.scan(Space::Meta, PREFIX, &prefix_end(PREFIX), usize::MAX)? {
            let device = key.get(PREFIX.len()..).and_then(|bytes| DeviceId::try_from(bytes).ok());
            let device = device.ok_or_else(|| Error::damaged("what a device knew"))?;
            self.knowing.of.insert(device, decode_row("what a device knew", &row)?);
        }
        Ok(())
    }

    /// A device knows just what is known here.
    pub(crate) fn knows_all(&mut self, device: DeviceId) {
        // (With the discovery key anybody can call as any number of devices.)
        if self.members.devices.contains_key(&device) {
            self.knowing.of.insert(device, Knew { up_to: self.next_arrival - 1, told: Told::Not });
            self.knowing.unsaved.insert(device);
        }
    }

    /// Stores what changed since the last time.
    pub(crate) fn save_knowing(&mut self) -> Result<()> {
        let mut batch = Batch::new();
        for device in std::mem::take(&mut self.knowing.unsaved) {
            let row = encode(&self.knowing.of.get(&device).copied().unwrap_or_default());
            self.store.put(&mut batch, Space::Meta, [PREFIX, device.as_bytes()].concat(), &row);
        }
        if batch.is_empty() { Ok(()) } else { self.store.apply(batch) }
    }

    /// What a peer has, as far as it is known.
    pub(crate) fn had_by(&self, device: &DeviceId) -> Had {
        let up_to = self.knowing.of.get(device).map_or(0, |knew| knew.up_to);
        let tips = self.branches_by(device).map(|branch| Dot { branch, seq: self.branch(branch).tip });
        Had { up_to, own: tips.filter(|dot| dot.seq > 0).collect() }
    }

    /// The first commit of a branch that is known here and that a peer knowing `known` may lack.
    pub(crate) fn first_lacking_of(&self, branch: BranchNo, known: &VersionVector) -> Option<Dot> {
        let of = self.branch(branch);
        let seq = match of.forked_from {
            Some(fork) => (known.get(branch) + 1).max(fork.seq + 1),
            None => known.get(branch) + 1,
        };
        (seq <= of.tip).then_some(Dot { branch, seq })
    }

    /// Whether a peer with these tips, which surely knows `known` and lacks nothing before arrival `first`, lacks what it had.
    pub(crate) fn lacks_what_it_had(&self, tips: &[Tip], known: &VersionVector, first: u64, had: &Had) -> Result<bool> {
        let lacking = || had.own.iter().filter(|dot| !known.covers(**dot));
        if first > had.up_to && lacking().next().is_none() || tips.len() >= MAX_TIPS {
            return Ok(false);
        }
        // Of a log that forked, and of which it has another branch, the tips do not say what it knows of the ones here.
        let mut unsure = BTreeSet::new();
        for tip in self.forked_tips(tips)? {
            unsure.insert((tip.device, tip.log));
        }
        let is_sure = |no: BranchNo| !unsure.contains(&(self.branch(no).device, self.branch(no).log));
        if lacking().any(|dot| is_sure(dot.branch)) {
            return Ok(true);
        }
        for number in 0..self.branches.len() {
            let no = BranchNo(number as u32);
            if is_sure(no)
                && let Some(dot) = self.first_lacking_of(no, known)
                && self.commit_row(dot)?.is_some_and(|row| row.arrival <= had.up_to)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A peer lacks what it had: told once, until it has caught up.
    pub(crate) fn note_lacks(&mut self, device: &DeviceId) -> Result<()> {
        if self.knowing.of.get(device).is_some_and(|knew| knew.told != Told::Not) {
            return Ok(());
        }
        log::warn!(
            "device {} lacks what it had: it was put back to an older state, or hides something",
            device.short()
        );
        self.tell_set_back(device, "it lacks what it had signed itself or had said to know");
        self.set_told(device, Told::Lacks)
    }

    /// A device has begun a new log, since it found its store to be an older copy.
    pub(crate) fn note_said_set_back(&mut self, device: &DeviceId) -> Result<()> {
        // What was before this device belonged to the volume is history.
        if *device == self.device.id() || !self.members.devices.contains_key(&self.device.id()) {
            return Ok(());
        }
        log::warn!("device {} goes on from an older copy of its store, under a new log", device.short());
        if self.knowing.of.get(device).is_none_or(|knew| knew.told != Told::Lacks) {
            self.tell_set_back(device, "it says so itself, and goes on under a new log");
        }
        self.set_told(device, Told::Said)
    }

    fn set_told(&mut self, device: &DeviceId, told: Told) -> Result<()> {
        self.knowing.of.entry(*device).or_default().told = told;
        self.knowing.unsaved.insert(*device);
        self.save_knowing()
    }

    fn tell_set_back(&self, device: &DeviceId, note: &str) {
        if let Some(audit) = self.audit.get() {
            let why = "was put back to an older state, e.g. from a backup, or shows old versions on purpose";
            let (user, id) = (Some(self.user_named(device)), Some(device.to_string().into()));
            let (outcome, note) = (Outcome::Denied(why.to_owned()), Some(note.to_owned()));
            audit.record(Act { outcome, user, device: id, note, ..Act::new(self.now(), Op::SetBack) });
        }
    }
}
