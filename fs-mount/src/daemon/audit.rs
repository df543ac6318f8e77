//! What of the network gets into the audit log.

use parking_lot::Mutex;
use peer_net::swarm::{Event, OnEvent};
use tokio::runtime::Handle;
use volume::{
    Volume,
    audit::{Act, Detectors, Op, Outcome},
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

/// Has looked at what is recorded from now on, and alerts raised of what looks like an attack.
pub(crate) fn watch(volume: &Volume) {
    let Some(audit) = volume.audit() else { return };
    let (volume, detectors) = (volume.clone(), Mutex::new(Detectors::default()));
    audit.watch(Box::new(move |entry| {
        let Some(found) = detectors.lock().see(entry) else { return };
        let kind = found.kind;
        match volume.raise(found) {
            // The process's log has no names.
            Ok(true) => log::warn!("alert ({kind:?}, entry {} of the audit log): `p2pfs alerts` tells more", entry.n),
            Ok(false) => {}
            Err(e) => log::error!("an alert ({kind:?}) could not be kept: {e}"),
        }
    }));
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
        Event::Misbehaved { device, reason } => Act {
            outcome: Outcome::Denied(reason),
            note: Some("what it sent was refused, and it is shut out for a while".to_owned()),
            ..volume.act_by(Some(&device), Op::Refused)
        },
    };
    audit.record(act);
}
