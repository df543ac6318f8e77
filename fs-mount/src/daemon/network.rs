//! The daemon's view of the network: the swarm of peers, and what the listings and `wait` need of it.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use crypto::DeviceId;
use parking_lot::Mutex;
use peer_net::{
    registry_address::RegistryAddress,
    registry_client::RegistryStatus,
    sends::{Taker, pipe::Line},
    swarm::{Config, KnownPeer, PeerStatus, Swarm, Traffic},
};
use tokio::sync::watch;
use volume::Volume;

use crate::{
    failure::{Failure, Outcome},
    profile::{Profile, State},
    report,
};

/// How often registries are looked at while starting waits for their first answer.
const LOOK: Duration = Duration::from_millis(50);

/// The connections of this device.
pub(crate) struct Network {
    /// Nothing once it is shut down.
    swarm: Mutex<Option<Swarm>>,
    changes: watch::Receiver<u64>,
    registries: Vec<RegistryAddress>,
}

impl Network {
    /// Listens and looks for peers from now on. Called within the runtime.
    ///
    /// # Errors
    /// The port is in use, or listening fails otherwise. Registries that don't answer are no error.
    pub(crate) fn start(
        volume: &Volume,
        profile: &Profile,
        state: &State,
        listen: Option<SocketAddr>,
        taker: &Taker,
    ) -> Outcome<Self> {
        let registries = state.registries(profile);
        let start = |listen: Option<SocketAddr>| {
            let config = Config {
                listen,
                registries: registries.clone(),
                known_peers: state.peers.clone(),
                on_event: super::audit::recorder(volume),
                taker: taker.clone(),
            };
            Swarm::start(volume.clone(), Arc::new(profile.device_keys()), config)
        };
        let swarm = match (listen, state.port) {
            (Some(given), _) => start(Some(given))
                .map_err(|e| Failure::new(format!("{e}: choose another address with --listen ADDR:PORT")))?,
            // The same port as the last time, so that others find this device where it was; unless it is taken.
            (None, Some(last)) => start(Some((Ipv6Addr::UNSPECIFIED, last).into()))
                .or_else(|_| start(Some((Ipv4Addr::UNSPECIFIED, last).into())))
                .or_else(|_| start(None))
                .map_err(|e| Failure::new(e.to_string()))?,
            (None, None) => start(None).map_err(|e| Failure::new(e.to_string()))?,
        };
        let changes = swarm.subscribe();
        Ok(Self { swarm: Mutex::new(Some(swarm)), changes, registries })
    }

    /// Asks the swarm; after the end there is nothing to tell.
    fn ask<T: Default>(&self, question: impl FnOnce(&Swarm) -> T) -> T {
        self.swarm.lock().as_ref().map(question).unwrap_or_default()
    }

    /// The peers that are connected now.
    pub(crate) fn connected(&self) -> Vec<PeerStatus> {
        self.ask(Swarm::peers)
    }

    /// Asks a connected peer to commit and send what it has pending; see [`Swarm::ask_flush`].
    pub(crate) fn ask_flush(&self, peer: &PeerStatus) -> Option<u64> {
        self.ask(|swarm| swarm.ask_flush(&peer.device, peer.connection))
    }

    pub(crate) fn anybody_connected(&self) -> bool {
        !self.connected().is_empty()
    }

    /// Where streams about sends are opened to a device, if it is connected.
    pub(crate) fn line(&self, device: &DeviceId) -> Option<Line> {
        self.ask(|swarm| swarm.line(device))
    }

    /// Wakes whenever a peer came, went, or has got further.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }

    /// Where others can reach this device.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.ask(Swarm::local_addresses)
    }

    /// The port that it listens on.
    pub(crate) fn port(&self) -> Option<u16> {
        // Those that others see may come from behind a translation; the first are this device's own.
        self.addresses().first().map(SocketAddr::port)
    }

    pub(crate) fn registry_addresses(&self) -> Vec<RegistryAddress> {
        self.registries.clone()
    }

    /// The registries, and whether they answer.
    pub(crate) fn registries(&self) -> Vec<report::Registry> {
        let state = |connected: bool, error: Option<String>| match (connected, error) {
            (true, _) => "connected".to_owned(),
            (false, Some(why)) => format!("unreachable: {why}"),
            (false, None) => "connecting".to_owned(),
        };
        let listed =
            |r: RegistryStatus| report::Registry { address: r.address.to_string(), state: state(r.connected, r.error) };
        self.ask(Swarm::registries).into_iter().map(listed).collect()
    }

    /// How many registries there are, and how many of them answer.
    pub(crate) fn registries_connected(&self) -> (u64, u64) {
        let all = self.ask(Swarm::registries);
        (all.len() as u64, all.iter().filter(|registry| registry.connected).count() as u64)
    }

    /// How much went over the wire.
    pub(crate) fn traffic(&self) -> Traffic {
        self.ask(Swarm::traffic)
    }

    /// One line for each registry that has not answered within `patience`.
    pub(crate) async fn registry_warnings(&self, patience: Duration) -> Vec<String> {
        let settled = async {
            while self.ask(Swarm::registries).iter().any(|r| !r.connected && r.error.is_none()) {
                tokio::time::sleep(LOOK).await;
            }
        };
        // Those that need longer are told below as well.
        let _ = tokio::time::timeout(patience, settled).await;
        self.ask(Swarm::registries)
            .into_iter()
            .filter(|r| !r.connected)
            .map(|r| {
                let why = r.error.unwrap_or_else(|| "no answer yet".to_owned());
                format!("registry {}: {why}; mounted without it, it is tried again in the background", r.address)
            })
            .collect()
    }

    /// Makes this device findable under its volume's new invitations.
    pub(crate) fn invitations_changed(&self) {
        self.ask(Swarm::refresh);
    }

    /// Has this device found under the key that holds after a change of members.
    pub(crate) fn members_changed(&self) {
        self.ask(Swarm::refresh);
    }

    /// The member's device that said that this one was removed.
    pub(crate) fn told_removed(&self) -> Option<DeviceId> {
        self.ask(Swarm::told_removed)
    }

    /// Where other devices were last reached, to be remembered.
    pub(crate) fn known_peers(&self) -> Vec<KnownPeer> {
        self.ask(Swarm::known_peers)
    }

    /// A connected peer, as listed; `known` is what the volume knows of it.
    pub(crate) fn report(&self, peer: &PeerStatus, known: Option<report::Peer>) -> report::Peer {
        let progress = &peer.progress;
        let (name, restored) = known.map_or((None, None), |known| (known.name, known.restored));
        report::Peer {
            name,
            device: peer.device.to_string(),
            connected: true,
            address: Some(peer.address.to_string()),
            rtt_ms: Some(report::milliseconds(peer.rtt)),
            in_step: progress.in_step,
            missing_here: Some(progress.their_commits_missing_here),
            missing_there: Some(progress.my_commits_missing_there),
            holds_all_mine: Some(progress.they_hold_all_mine),
            all_theirs_here: Some(progress.i_hold_all_theirs),
            connected_seconds: Some(peer.since.elapsed().as_secs()),
            restored,
        }
    }

    /// Says goodbye to everybody.
    pub(crate) async fn shutdown(&self) {
        let swarm = self.swarm.lock().take();
        if let Some(swarm) = swarm {
            swarm.shutdown().await;
        }
    }
}
