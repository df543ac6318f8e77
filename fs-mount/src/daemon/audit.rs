//! What of the network gets into the audit log.

use peer_net::swarm::{Event, OnEvent};
use tokio::runtime::Handle;
use volume::{
    Volume,
    audit::{Act, Op, Outcome},
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
