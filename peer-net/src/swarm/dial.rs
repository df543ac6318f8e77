//! Reaching a known device, again and again, for as long as it is not connected.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crypto::DeviceId;
use quinn::Connection;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::{Shared, remote_address};
use crate::backoff::Backoff;
use crate::close;
use crate::endpoint::DialError;
use crate::handshake::{self, Greeted, HandshakeError};
use crate::identity::Protocol;

const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(30);
/// How long the address before has the field to itself.
const STAGGER: Duration = Duration::from_millis(100);
/// A connection that lasted so long was a success, however it ended.
const STABLE: Duration = Duration::from_secs(10);
/// A device that isn't known as a member is forgotten after so many attempts in vain, which takes some ten minutes.
const PATIENCE: u32 = 20;
/// For so many counts one that answers, and doesn't prove to be a member.
const STRANGE: u32 = 4;

/// Dials `device` whenever it isn't connected, until it turns out to be nobody of ours.
pub(super) async fn keep_dialling(shared: Arc<Shared>, device: DeviceId, wake: Arc<Notify>) {
    let mut backoff = Backoff::new(FIRST_RETRY, LAST_RETRY);
    let (mut member, mut vain) = (false, 0);
    loop {
        // One who is connected, or not needed, is left alone until something is heard of it.
        if !shared.table.lock().wants(&device) {
            wake.notified().await;
            backoff.reset();
            // Both ends notice a lost connection at once: they should not both dial in the same instant.
            tokio::time::sleep(backoff.next()).await;
            continue;
        }
        match reach(&shared, device, &wake).await {
            Ok((connection, greeted)) => {
                let started = Instant::now();
                shared.clone().adopt(connection, device, greeted, true).await;
                if started.elapsed() >= STABLE {
                    backoff.reset();
                }
                // Unless it had no time to bring what says that it is a member.
                vain += if started.elapsed() >= STABLE { STRANGE } else { 1 };
            }
            Err(Failed::News) => backoff.reset(),
            Err(error) => {
                if matches!(error, Failed::Handshake(HandshakeError::Removed)) && shared.knows_as_member(device).await {
                    shared.told_removed(device);
                }
                log::debug!("device {}: {error}", device.short());
                vain += match error {
                    Failed::Handshake(HandshakeError::NotAMember) => STRANGE,
                    Failed::Connected => 0,
                    _ => 1,
                };
            }
        }
        if !member {
            member = shared.knows_as_member(device).await;
            if member {
                shared.table.lock().note_member(&device);
            } else if vain >= PATIENCE {
                shared.table.lock().forget(&device);
                return;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.next()) => {}
            // A new address, or the registry says that it is back.
            () = wake.notified() => backoff.reset(),
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("not reached: {0}")]
    Dial(#[from] DialError),
    #[error("handshake failed: {0}")]
    Handshake(#[from] HandshakeError),
    #[error("no address")]
    NoAddress,
    #[error("connected meanwhile")]
    Connected,
    #[error("misbehaved lately")]
    Barred,
    #[error("there is something newer to try")]
    News,
}

async fn reach(shared: &Arc<Shared>, device: DeviceId, wake: &Notify) -> Result<(Connection, Greeted), Failed> {
    let places = {
        let table = shared.table.lock();
        if table.is_barred(&device, Instant::now()) {
            return Err(Failed::Barred);
        }
        table.places(&device)
    };
    let connection = tokio::select! {
        connection = dial_any(shared, device, places) => connection?,
        // A dial under way tries again more and more slowly; one that starts now is heard at once.
        () = wake.notified() => return Err(Failed::News),
    };
    if shared.table.lock().is_connected(&device) {
        connection.close(close::DUPLICATE, b"connected already");
        return Err(Failed::Connected);
    }
    shared.table.lock().answered(&device, remote_address(&connection));
    let ids = (shared.endpoint.device(), device);
    match handshake::call(&connection, &shared.volume, ids, shared.addresses_to_tell()).await {
        Ok(greeted) => Ok((connection, greeted)),
        Err(error) => {
            error.close(&connection);
            Err(error.into())
        }
    }
}

/// Dials all addresses, each a little after the one before; the first that answers wins.
async fn dial_any(shared: &Arc<Shared>, device: DeviceId, places: Vec<SocketAddr>) -> Result<Connection, Failed> {
    let mut dials = JoinSet::new();
    for (index, place) in (0..).zip(places) {
        let endpoint = shared.endpoint.clone();
        dials.spawn(async move {
            tokio::time::sleep(STAGGER * index).await;
            endpoint.connect(place, Protocol::Peer, Some(device)).await
        });
    }
    let mut last = Failed::NoAddress;
    while let Some(dialled) = dials.join_next().await {
        match dialled {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(error)) => last = error.into(),
            Err(error) => log::debug!("device {}: dialling ended: {error}", device.short()),
        }
    }
    Err(last)
}
