//! Between the volume and the registries: what to offer there, and what comes of what they tell.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use volume::Volume;

use super::{Event, Shared};
use crate::blocking::blocking;
use crate::handshake::discovery_keys;
use crate::registry_client::{Discovery, Interest};
use crate::registry_protocol::{LEASE, Token};

/// Many changes arrive in a row; the registries hear of them once.
const SETTLE: Duration = Duration::from_millis(300);

/// For how many used tickets a device can be found: their bearers may have been cut off while they were let in.
const MAX_USED: usize = 8;

/// How many of its own addresses a device remembers from registries.
const MAX_OBSERVED: usize = 4;

/// Of how many devices it is remembered where they were last said to be.
const MAX_SIGHTED: usize = 1024;

/// Hears what registries tell, until there are none.
pub(super) async fn listen(shared: Arc<Shared>, mut discoveries: mpsc::Receiver<Discovery>) {
    let mut sighted = BTreeMap::new();
    while let Some(discovery) = discoveries.recv().await {
        match discovery {
            Discovery::Here(sighting) => {
                let member = shared.knows_as_member(sighting.device).await;
                // Who is there is told again and again.
                if sighted.get(&sighting.device) != Some(&sighting.addresses) {
                    if sighted.len() >= MAX_SIGHTED {
                        sighted.clear();
                    }
                    sighted.insert(sighting.device, sighting.addresses.clone());
                    let addresses = sighting.addresses.clone();
                    shared.event(Event::Sighted { device: sighting.device, addresses });
                }
                shared.heard_of(sighting.device, member, &sighting.addresses, true);
            }
            // Whether it is gone from the network, its connection tells.
            Discovery::Gone { .. } => {}
            Discovery::Lost { registry, reason } => shared.event(Event::RegistryLost { registry, reason }),
            Discovery::Complete { registry, observed } => {
                shared.event(Event::Registered { registry, observed });
                let mut known = shared.observed.lock();
                if !known.contains(&observed) {
                    known.insert(0, observed);
                    known.truncate(MAX_OBSERVED);
                    shared.refresh.notify_one();
                }
                drop(known);
                shared.changed();
            }
        }
    }
}

/// Keeps what the registries are told up to date.
pub(super) async fn keep_offering(shared: Arc<Shared>) {
    let mut changes = shared.changes.subscribe();
    loop {
        tokio::select! {
            () = shared.refresh.notified() => {}
            changed = changes.changed() => {
                if changed.is_err() {
                    return;
                }
                tokio::time::sleep(SETTLE).await;
                changes.mark_unchanged();
            }
            // Interfaces come and go without telling.
            () = tokio::time::sleep(LEASE / 2) => {}
        }
        let volume = shared.volume.clone();
        let (offer, watch) = blocking(move || tokens(&volume)).await;
        let interest = Interest { offer, watch, addresses: shared.own_addresses() };
        shared.interest.send_if_modified(|current| {
            let changed = *current != interest;
            if changed {
                *current = interest;
            }
            changed
        });
    }
}

/// Returns the tokens to offer and those only to watch.
///
/// Offered: the members' token of the present discovery key, and, where joiners or further devices of this user can be let in,
/// one per invitation, a few used ones among them.
/// Watched: the tokens of earlier keys, under which members still show up that were away when the key changed. They
/// are not offered: who was removed could look there.
fn tokens(volume: &Volume) -> (BTreeSet<Token>, BTreeSet<Token>) {
    let mut members = discovery_keys(volume).iter().map(Token::of_members).collect::<Vec<_>>().into_iter();
    let mut offer: BTreeSet<Token> = members.next().into_iter().collect();
    if volume.may_admit() {
        offer.extend(volume.open_invitations().iter().map(|invitation| Token::of_ticket(&invitation.ticket)));
        offer.extend(volume.used_tickets(MAX_USED).iter().map(Token::of_ticket));
    }
    offer.extend(volume.device_tickets(MAX_USED).iter().map(Token::of_ticket));
    (offer, members.collect())
}
