//! Everybody this device talks to about one volume.
//!
//! A swarm listens, dials whoever it has heard of, and keeps one connection per device. It hears of devices from
//! registries, from peers (who tell each other where members are, so that a registry may be down) and from what the
//! caller remembered. Of two connections between the same two devices the one dialled by the lesser id stays.
//!
//! When nothing happens, nothing runs but QUIC's keep-alives, the renewal of leases, and attempts to reach members
//! that are away, at least half a minute apart.

mod dial;
mod discover;
mod table;
mod traffic;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crypto::{DeviceId, DeviceKeys};
use parking_lot::Mutex;
use quinn::Connection;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use volume::Volume;
use volume::sync::{PeerProgress, Session};

use crate::blocking::blocking;
use crate::close;
use crate::endpoint::{BindError, Caller, Endpoint, remote_address};
use crate::handshake::{self, Addresses, FailedJoins, Greeted, HandshakeError};
use crate::identity::{Identity, Protocol, peer_device};
use crate::peer;
use crate::places::{Place, Places, network_of};
use crate::registry_address::RegistryAddress;
use crate::registry_client::{Interest, RegistryClient, RegistryStatus};
use crate::registry_protocol::MAX_ADDRESSES;
use crate::sends::{Taker, pipe::Line};
use table::{Link, Table};
use traffic::Meter;
pub use traffic::Traffic;

/// Handshakes at a time, and of those from one network; more callers are turned away and try again.
const MAX_HANDSHAKES: usize = 64;
const MAX_HANDSHAKES_PER_NETWORK: usize = 16;
/// Connections with members; with its windows a connection holds at most some 32 MiB, idle ones next to nothing.
const MAX_CONNECTIONS: usize = 256;
/// Connections with devices that know the key and aren't known as members, and of those from one network. Whoever has
/// the key can invent any number of devices.
const MAX_STRANGERS: usize = 4;
const MAX_STRANGERS_PER_NETWORK: usize = 2;
/// How long such a device may take to bring the commits that say that it is a member.
const PROBATION: Duration = Duration::from_secs(10);
/// How often it is looked whether it has.
const PROBATION_LOOK: Duration = Duration::from_millis(250);
/// How long a caller has for TLS.
const TLS_LIMIT: Duration = Duration::from_secs(10);

/// Where a device may be reached; for remembering across restarts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownPeer {
    /// The device.
    pub device: DeviceId,
    /// Its addresses, the likeliest first.
    pub addresses: Vec<SocketAddr>,
}

/// What happens on the network, for the audit log. Called from network tasks: it must not block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A device is connected.
    Connected {
        /// Which.
        device: DeviceId,
        /// From or at which address.
        address: SocketAddr,
        /// Whether this side dialled.
        dialled: bool,
    },
    /// It is no more.
    Disconnected {
        /// Which.
        device: DeviceId,
        /// Why, for people.
        reason: String,
    },
    /// A device joined the volume here.
    Joined {
        /// Which.
        device: DeviceId,
        /// From where.
        address: SocketAddr,
    },
    /// A ticket was refused.
    JoinRefused {
        /// Who came with it.
        device: DeviceId,
        /// From where.
        address: SocketAddr,
        /// Why.
        reason: String,
    },
    /// Somebody is no member, or does not speak as one.
    HandshakeFailed {
        /// Who, if TLS got that far.
        device: Option<DeviceId>,
        /// From where.
        address: SocketAddr,
        /// Why.
        reason: String,
    },
    /// This device is registered, and found under the volume's token.
    Registered {
        /// With which registry.
        registry: DeviceId,
        /// The address at which it sees this device.
        observed: SocketAddr,
    },
    /// A registry is reached no more.
    RegistryLost {
        /// Which.
        registry: DeviceId,
        /// Why, for people.
        reason: String,
    },
    /// A registry told where a device is.
    Sighted {
        /// Which.
        device: DeviceId,
        /// Where, by its own word.
        addresses: Vec<SocketAddr>,
    },
    /// A connected device did what an honest one never does.
    Misbehaved {
        /// Which.
        device: DeviceId,
        /// What.
        reason: String,
    },
}

/// Receives [`Event`]s.
pub type OnEvent = Arc<dyn Fn(Event) + Send + Sync>;

/// How to start.
#[derive(Clone)]
pub struct Config {
    /// Where to listen; any port of any address without it.
    pub listen: Option<SocketAddr>,
    /// Registries to use, all at once.
    pub registries: Vec<RegistryAddress>,
    /// Who was known the last time.
    pub known_peers: Vec<KnownPeer>,
    /// Hears what happens.
    pub on_event: OnEvent,
    /// Takes what others send directly.
    pub taker: Taker,
}

impl Default for Config {
    fn default() -> Self {
        Self { listen: None, registries: Vec::new(), known_peers: Vec::new(), on_event: Arc::new(|_| {}), taker: None }
    }
}

/// A connected device.
#[derive(Debug, Clone)]
pub struct PeerStatus {
    /// Which.
    pub device: DeviceId,
    /// Where it is.
    pub address: SocketAddr,
    /// Which connection with it: no other has this number.
    pub connection: u64,
    /// The round-trip time.
    pub rtt: Duration,
    /// Since when it is connected.
    pub since: Instant,
    /// How far the two are apart.
    pub progress: PeerProgress,
}

/// The running swarm. Ends when it is dropped; [`shutdown`](Swarm::shutdown) ends it politely.
pub struct Swarm {
    shared: Arc<Shared>,
    registries: Vec<RegistryClient>,
    tasks: JoinSet<()>,
}

/// What all tasks of the swarm share.
struct Shared {
    volume: Volume,
    endpoint: Endpoint,
    started: Instant,
    on_event: OnEvent,
    taker: Taker,
    table: Mutex<Table>,
    meter: Mutex<Meter>,
    failed_joins: Mutex<FailedJoins>,
    /// For connections with devices that aren't known as members.
    strangers: Places,
    /// Counts changes; its value means nothing.
    changes: watch::Sender<u64>,
    /// What the registries are told.
    interest: watch::Sender<Interest>,
    /// Addresses at which registries saw this device, the last few.
    observed: Mutex<Vec<SocketAddr>>,
    /// What this device offers to registries has to be looked at again.
    refresh: Notify,
    /// The member that said that this device was removed.
    told_removed: Mutex<Option<DeviceId>>,
    /// Tasks to run: connections and dials live as long as the swarm.
    spawner: tokio::sync::mpsc::UnboundedSender<Task>,
}

type Task = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

impl Swarm {
    /// Starts. Must be called within a tokio runtime.
    pub fn start(volume: Volume, keys: Arc<DeviceKeys>, config: Config) -> Result<Self, BindError> {
        let endpoint = Endpoint::bind(Identity::new(&keys.signing)?, config.listen, Protocol::Peer)?;
        let (spawner, mut spawned) = tokio::sync::mpsc::unbounded_channel::<Task>();
        let (interest, wanted) = watch::channel(Interest::default());
        let shared = Arc::new(Shared {
            volume,
            endpoint: endpoint.clone(),
            started: Instant::now(),
            on_event: config.on_event,
            taker: config.taker,
            table: Mutex::new(Table::new(endpoint.device())),
            meter: Mutex::default(),
            failed_joins: Mutex::new(FailedJoins::default()),
            strangers: Places::new(MAX_STRANGERS, MAX_STRANGERS_PER_NETWORK),
            changes: watch::Sender::new(0),
            interest,
            observed: Mutex::default(),
            refresh: Notify::new(),
            told_removed: Mutex::default(),
            spawner,
        });
        let mut tasks = JoinSet::new();
        // One owner for all short-lived tasks: they end with it, also when the swarm is only dropped.
        tasks.spawn(async move {
            let mut running = JoinSet::new();
            loop {
                tokio::select! {
                    task = spawned.recv() => match task {
                        Some(task) => {
                            running.spawn(task);
                        }
                        None => return,
                    },
                    Some(_) = running.join_next() => {}
                }
            }
        });
        let (found, discoveries) = tokio::sync::mpsc::channel(256);
        let registries: Vec<_> = config
            .registries
            .into_iter()
            .map(|address| {
                RegistryClient::start(endpoint.clone(), address, keys.clone(), wanted.clone(), found.clone())
            })
            .collect();
        tasks.spawn(accept(shared.clone()));
        tasks.spawn(discover::listen(shared.clone(), discoveries));
        tasks.spawn(discover::keep_offering(shared.clone()));
        shared.refresh.notify_one();
        for known in config.known_peers {
            let member = shared.volume.is_member(&known.device);
            shared.heard_of(known.device, member, &known.addresses, false);
        }
        log::info!("volume {}: listening on port {}", shared.volume.id().short(), endpoint.port());
        Ok(Self { shared, registries, tasks })
    }

    /// Returns who is connected, by device.
    pub fn peers(&self) -> Vec<PeerStatus> {
        let links = self.shared.table.lock().links();
        links
            .into_iter()
            .map(|link| PeerStatus {
                device: link.device,
                address: remote_address(&link.connection),
                connection: link.session.number(),
                rtt: link.connection.rtt(),
                since: link.at,
                progress: link.session.progress(),
            })
            .collect()
    }

    /// Returns how much went over connections with devices since the start; the joining of others is not in it.
    pub fn traffic(&self) -> Traffic {
        self.shared.meter.lock().read()
    }

    /// Asks a connected device to commit and send what it has pending. [`PeerProgress::flushed`] of the same
    /// connection reaches the number returned when it has; `None` when the connection is gone.
    pub fn ask_flush(&self, device: &DeviceId, connection: u64) -> Option<u64> {
        let links = self.shared.table.lock().links();
        let link = links.iter().find(|l| l.device == *device && l.session.number() == connection)?;
        Some(link.session.ask_flush())
    }

    /// Returns where streams about sends are opened to a device; `None` when it isn't connected.
    pub fn line(&self, device: &DeviceId) -> Option<Line> {
        let links = self.shared.table.lock().links();
        let link = links.into_iter().find(|link| link.device == *device)?;
        Some(Line::new(link.connection, link.session.number()))
    }

    /// Returns where members were last seen, for [`Config::known_peers`] of the next start.
    pub fn known_peers(&self) -> Vec<KnownPeer> {
        let mut known = self.shared.table.lock().known();
        known.retain(|peer| self.shared.volume.is_member(&peer.device));
        known
    }

    /// Returns the addresses at which others may reach this device, those that registries saw at the end.
    pub fn local_addresses(&self) -> Vec<SocketAddr> {
        self.shared.own_addresses()
    }

    /// Returns the member's device that said that this one was removed, if one did.
    pub fn told_removed(&self) -> Option<DeviceId> {
        *self.shared.told_removed.lock()
    }

    /// Returns how it stands with each registry.
    pub fn registries(&self) -> Vec<RegistryStatus> {
        self.registries.iter().map(RegistryClient::status).collect()
    }

    /// Returns a receiver that is woken whenever peers or their progress may have changed.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    /// Looks again at what to tell the registries: to be called after a local invitation or change of members.
    pub fn refresh(&self) {
        self.shared.refresh.notify_one();
    }

    /// Disconnects from everybody, and ends.
    pub async fn shutdown(mut self) {
        self.registries.clear();
        self.tasks.shutdown().await;
        let links = self.shared.table.lock().take_links();
        let mut draining = JoinSet::new();
        for link in &links {
            let connection = link.connection.clone();
            draining.spawn(async move { close::drain(&connection).await });
        }
        while draining.join_next().await.is_some() {}
        self.shared.endpoint.close(close::GOODBYE, "goodbye").await;
        blocking(move || links.iter().for_each(|link| link.session.close())).await;
    }
}

impl Drop for Swarm {
    fn drop(&mut self) {
        // Dropping the tasks alone would leave the socket to the connections' own tasks.
        self.shared.endpoint.close_now(close::GOODBYE, "goodbye");
    }
}

impl Shared {
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        // The receiver is gone only when the swarm is, and then nothing is to be run any more.
        let _ended = self.spawner.send(Box::pin(task));
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    fn event(&self, event: Event) {
        (self.on_event)(event);
    }

    /// A member says that this device was removed. (Only members get so far that it is believed to be one's word.)
    fn told_removed(&self, by: DeviceId) {
        log::warn!("device {} says that this device was removed from the volume", by.short());
        *self.told_removed.lock() = Some(by);
        self.changed();
    }

    fn own_addresses(&self) -> Vec<SocketAddr> {
        let mut addresses = self.endpoint.local_addresses();
        for observed in &*self.observed.lock() {
            if !addresses.contains(observed) {
                addresses.push(*observed);
            }
        }
        addresses.truncate(MAX_ADDRESSES);
        addresses
    }

    /// What a proven member is told.
    async fn addresses_to_tell(&self) -> Addresses {
        let known = self.table.lock().known();
        let volume = self.volume.clone();
        let known = blocking(move || known.into_iter().filter(|peer| volume.is_member(&peer.device)).collect()).await;
        let known: Vec<KnownPeer> = known;
        let others = known.into_iter().map(|peer| (peer.device, peer.addresses)).collect();
        Addresses { own: self.own_addresses(), others }
    }

    /// Takes a connection that passed the handshake and runs it to its end.
    async fn adopt(self: Arc<Self>, connection: Connection, device: DeviceId, greeted: Greeted, dialled: bool) {
        let address = remote_address(&connection);
        let Greeted { control, addresses, joined } = greeted;
        let volume = self.volume.clone();
        let member = self.knows_as_member(device).await;
        let probation = if member { None } else { self.strangers.take(address.ip()) };
        if !member && probation.is_none() {
            log::debug!("device {}: too many that aren't known as members", device.short());
            connection.close(close::FAILED, b"not known as a member, and others are looked at first");
            return;
        }
        let session: Arc<Session> = blocking(move || Arc::new(volume.session(device))).await;
        let link = Link {
            device,
            connection: connection.clone(),
            session: session.clone(),
            member,
            dialled,
            at: Instant::now(),
        };
        let connected = self.table.lock().connect(link);
        let replaced = match connected {
            Ok(replaced) => replaced,
            Err(_loser) => {
                connection.close(close::DUPLICATE, b"connected already");
                blocking(move || session.close()).await;
                return;
            }
        };
        if let Some(old) = replaced {
            old.connection.close(close::DUPLICATE, b"replaced by a newer connection");
        }
        log::info!("device {}: connected ({})", device.short(), if dialled { "dialled" } else { "called" });
        if joined {
            self.event(Event::Joined { device, address });
        }
        self.event(Event::Connected { device, address, dialled });
        // Who just joined leaves this socket after the first sync, and comes back from another.
        if !joined {
            self.learn((device, member), address, addresses).await;
        }
        self.changed();
        let on_change: peer::OnChange = {
            let shared = Arc::downgrade(&self);
            Arc::new(move || {
                if let Some(shared) = shared.upgrade() {
                    shared.changed();
                }
            })
        };
        self.meter.lock().begins(&connection);
        let run = peer::run(connection.clone(), control, session, true, self.taker.clone(), on_change);
        let (ended, ()) = tokio::join!(run, self.await_membership(&connection, device, probation));
        self.meter.lock().ends(&connection);
        if ended.is_removal() && self.knows_as_member(device).await {
            self.told_removed(device);
        }
        if self.table.lock().disconnect(&device, connection.stable_id()) {
            let reason = ended.reason();
            log::info!("device {}: disconnected: {reason}", device.short());
            if let peer::Ended::Misbehaved(reason) = &ended {
                self.table.lock().bar(device, Instant::now());
                self.event(Event::Misbehaved { device, reason: reason.clone() });
            }
            self.event(Event::Disconnected { device, reason });
        }
        self.changed();
    }

    /// Ends a connection with a device that isn't a member when its time is up.
    async fn await_membership(&self, connection: &Connection, device: DeviceId, probation: Option<Place>) {
        let Some(_until_then) = probation else { return };
        let deadline = Instant::now() + PROBATION;
        while connection.close_reason().is_none() {
            if self.knows_as_member(device).await {
                self.table.lock().note_member(&device);
                return;
            }
            if Instant::now() >= deadline {
                log::debug!("device {}: it has not proven to be a member", device.short());
                connection.close(close::NOT_A_MEMBER, b"not known as a member");
                return;
            }
            tokio::select! {
                _gone = connection.closed() => {}
                () = tokio::time::sleep(PROBATION_LOOK) => {}
            }
        }
    }

    async fn knows_as_member(&self, device: DeviceId) -> bool {
        let volume = self.volume.clone();
        blocking(move || volume.is_member(&device)).await
    }

    /// Remembers what a peer told of itself and of other members.
    async fn learn(self: &Arc<Self>, (device, member): (DeviceId, bool), address: SocketAddr, told: Addresses) {
        let mut own = vec![address];
        own.extend(told.own);
        self.heard_of(device, member, &own, false);
        let volume = self.volume.clone();
        let members = blocking(move || {
            told.others.into_iter().filter(|(device, _)| volume.is_member(device)).collect::<Vec<_>>()
        })
        .await;
        for (other, addresses) in members {
            self.heard_of(other, true, &addresses, false);
        }
    }

    /// Notes where a device may be, and sees to it that it is dialled.
    fn heard_of(self: &Arc<Self>, device: DeviceId, member: bool, addresses: &[SocketAddr], back: bool) {
        let new = self.table.lock().heard_of(device, member, addresses, back);
        if let Some(wake) = new {
            self.spawn(dial::keep_dialling(self.clone(), device, wake));
        }
    }
}

async fn accept(shared: Arc<Shared>) {
    let handshakes = Places::new(MAX_HANDSHAKES, MAX_HANDSHAKES_PER_NETWORK);
    while let Some(caller) = shared.endpoint.accept().await {
        let full = shared.table.lock().members_connected() >= MAX_CONNECTIONS;
        match handshakes.take(caller.address().ip()) {
            Some(place) if !full => {
                let shared_too = shared.clone();
                shared.spawn(async move {
                    let greeted = receive(&shared_too, caller).await;
                    drop(place);
                    if let Some((connection, device, greeted)) = greeted {
                        shared_too.adopt(connection, device, greeted, false).await;
                    }
                });
            }
            _ => caller.refuse(),
        }
    }
}

/// Brings a caller through TLS and our handshake.
async fn receive(shared: &Arc<Shared>, caller: Caller) -> Option<(Connection, DeviceId, Greeted)> {
    let address = caller.address();
    let failed = |device: Option<DeviceId>, reason: String| {
        log::debug!("{address}: handshake failed: {reason}");
        shared.event(Event::HandshakeFailed { device, address, reason });
    };
    let connection = match tokio::time::timeout(TLS_LIMIT, caller.answer()).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            failed(None, error.to_string());
            return None;
        }
        Err(_) => {
            failed(None, "no answer in time".to_owned());
            return None;
        }
    };
    let Some(device) = peer_device(&connection) else {
        failed(None, "no device key".to_owned());
        return None;
    };
    if shared.table.lock().is_barred(&device, Instant::now()) {
        connection.close(close::MISBEHAVED, b"misbehaved lately");
        failed(Some(device), "it misbehaved lately, and is shut out for a while".to_owned());
        return None;
    }
    let ids = (shared.endpoint.device(), device);
    let may_join = shared.failed_joins.lock().allow(network_of(address.ip()), shared.started.elapsed());
    match handshake::receive(&connection, &shared.volume, ids, shared.addresses_to_tell(), may_join).await {
        Ok(greeted) => Some((connection, device, greeted)),
        Err(error) => {
            error.close(&connection);
            match error {
                HandshakeError::Refused(reason) => {
                    shared.failed_joins.lock().failed(network_of(address.ip()), shared.started.elapsed());
                    // Whoever is only put off comes as often as it likes.
                    let level = if may_join { log::Level::Info } else { log::Level::Debug };
                    log::log!(level, "device {}: not let in: {reason}", device.short());
                    shared.event(Event::JoinRefused { device, address, reason });
                }
                // The caller has a better connection, or ends.
                error if error.is_innocent() => log::debug!("{address}: {error}"),
                error => failed(Some(device), error.to_string()),
            }
            None
        }
    }
}
