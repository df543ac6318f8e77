//! What of the network gets into the audit log.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;
use peer_net::swarm::{Event, OnEvent};
use tokio::runtime::Handle;
use volume::{
    Volume,
    audit::{Act, Detectors, Finding, Op, Outcome},
};

/// Records what happens on the network. Called within the runtime.
pub(crate) fn recorder(volume: &Volume) -> OnEvent {
    let volume = volume.clone();
    let runtime = Handle::current();
    std::sync::Arc::new(move |event| {
        let volume = volume.clone();
        // Whose device it is takes the volume's lock.
        runtime.spawn_blocking(move || record(&volume, event));
    })
}

/// How many entries there were since the start, by what was done and whether it was allowed.
#[derive(Default)]
pub(crate) struct Counts(Mutex<BTreeMap<(Op, bool), u64>>);

impl Counts {
    fn add(&self, op: Op, allowed: bool) {
        *self.0.lock().entry((op, allowed)).or_default() += 1;
    }

    /// All of them, with the word for what was done.
    pub(crate) fn all(&self) -> Vec<(&'static str, bool, u64)> {
        self.0.lock().iter().map(|((op, allowed), count)| (op.word(), *allowed, *count)).collect()
    }
}

/// Has looked at what is recorded from now on, and alerts raised of what looks like an attack. Returns what counts.
pub(crate) fn watch(volume: &Volume) -> Arc<Counts> {
    let counts = Arc::new(Counts::default());
    let Some(audit) = volume.audit() else { return counts };
    let (volume, detectors, counted) = (volume.clone(), Mutex::new(Detectors::default()), counts.clone());
    audit.watch(Box::new(move |n, act| {
        counted.add(act.op, act.outcome == Outcome::Allowed);
        let found = detectors.lock().see(n, act);
        if let Some(found) = found {
            raise(&volume, found);
        }
    }));
    counts
}

/// Has somebody look at what was found.
pub(super) fn raise(volume: &Volume, found: Finding) {
    let kind = found.kind;
    match volume.raise(found) {
        // The process's log has no names.
        Ok(true) => log::warn!("alert ({kind:?}): `p2pfs alerts` tells more"),
        Ok(false) => {}
        Err(e) => log::error!("an alert ({kind:?}) could not be kept: {e}"),
    }
}

fn record(volume: &Volume, event: Event) {
    let Some(audit) = volume.audit() else { return };
    let act = match event {
        Event::Connected { device, address, dialled } => {
            let how = if dialled { "connected, dialled at" } else { "connected, called from" };
            Act { note: Some(format!("{how} {address}")), ..volume.act_by(Some(&device), Op::Connection) }
        }
        Event::Disconnected { device, reason } => {
            Act { note: Some(format!("disconnected: {reason}")), ..volume.act_by(Some(&device), Op::Connection) }
        }
        Event::Joined { device, address } => {
            Act { note: Some(format!("let in, from {address}")), ..volume.act_by(Some(&device), Op::Invitation) }
        }
        Event::JoinRefused { device, address, reason } => Act {
            outcome: Outcome::Denied(reason),
            note: Some(format!("with a ticket, from {address}")),
            ..volume.act_by(Some(&device), Op::Invitation)
        },
        Event::HandshakeFailed { device, address, reason } => Act {
            outcome: Outcome::Denied(reason),
            note: Some(format!("from {address}")),
            ..volume.act_by(device.as_ref(), Op::Handshake)
        },
        Event::Registered { registry, observed } => Act {
            note: Some(format!("registered with {}, which sees this device at {observed}", registry.short())),
            ..volume.own_act(Op::Discovery)
        },
        Event::RegistryLost { registry, reason } => {
            Act { note: Some(format!("lost registry {}: {reason}", registry.short())), ..volume.own_act(Op::Discovery) }
        }
        Event::Sighted { device, addresses } => {
            let places = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            Act { note: Some(format!("found at {places}")), ..volume.act_by(Some(&device), Op::Discovery) }
        }
        Event::Misbehaved { device, reason } => Act {
            outcome: Outcome::Denied(reason),
            note: Some("what it sent was refused, and it is shut out for a while".to_owned()),
            ..volume.act_by(Some(&device), Op::Refused)
        },
    };
    audit.record(act);
}
