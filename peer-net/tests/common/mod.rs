//! Volumes in memory with real swarms between them, over QUIC on loopback.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part of this")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crypto::{DeviceId, DeviceKeys, OsEntropy, SymmetricKey, UserKeys, VolumeId};
use p2pfs_peer_net::endpoint::BindError;
use p2pfs_peer_net::join::{self, Grant, JoinError};
use p2pfs_peer_net::registry_address::RegistryAddress;
use p2pfs_peer_net::swarm::{Config, Event, KnownPeer, PeerStatus, Swarm};
use p2pfs_peer_net::ticket::Ticket;
use parking_lot::Mutex;
use volume::content::MemoryBlocks;
use volume::memory_store::MemoryStore;
use volume::{Caller, Clock, Ino, OpenMode, Parts, Role, Timestamp, Volume};

/// Long enough for a busy machine; nothing waits so long when it works.
const PATIENCE: Duration = Duration::from_secs(20);

struct SystemClock(Instant);

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        Timestamp { secs: since.as_secs().try_into().unwrap(), nanos: since.subsec_nanos() }
    }

    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
}

/// A port that was free just now.
pub fn free_port() -> SocketAddr {
    std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

pub fn loopback() -> Option<SocketAddr> {
    Some("127.0.0.1:0".parse().unwrap())
}

/// Somebody's keys on a machine, before there is a volume.
pub struct Person {
    pub name: String,
    pub device: Arc<DeviceKeys>,
    user: Vec<u8>,
}

impl Person {
    pub fn new(name: &str) -> Self {
        let user = UserKeys::generate(&OsEntropy).to_bytes().to_vec();
        Self { name: name.to_owned(), device: Arc::new(DeviceKeys::generate(&OsEntropy)), user }
    }

    /// With keys that there are already.
    pub fn with_keys(name: &str, device: DeviceKeys, user: &UserKeys) -> Self {
        Self { name: name.to_owned(), device: Arc::new(device), user: user.to_bytes().to_vec() }
    }

    pub fn id(&self) -> DeviceId {
        self.device.id()
    }

    pub fn user(&self) -> UserKeys {
        UserKeys::from_bytes(&self.user).unwrap()
    }

    fn parts(&self) -> Parts {
        Parts {
            store: Arc::new(MemoryStore::new()),
            blocks: Arc::new(MemoryBlocks::new()),
            clock: Arc::new(SystemClock(Instant::now())),
            entropy: Arc::new(OsEntropy),
            secret: SymmetricKey::generate(&OsEntropy),
            device: DeviceKeys::from_bytes(&self.device.to_bytes()).unwrap(),
            user: self.user(),
            archive: None,
            directory: None,
        }
    }

    /// Makes a volume of one's own.
    pub fn found(self) -> Actor {
        let volume = Volume::found(self.parts(), &self.name).unwrap();
        Actor::new(self, volume)
    }

    /// Opens an empty store, for joining or for pretending.
    pub fn empty(self, id: VolumeId) -> Actor {
        let volume = Volume::load(self.parts(), id).unwrap();
        Actor::new(self, volume)
    }

    /// Joins with a ticket, and takes everything.
    pub async fn join(self, ticket: &Ticket) -> Result<(Actor, Vec<KnownPeer>), JoinError> {
        let joined = join::join(ticket, &self.name, &self.user(), &self.device, loopback()).await?;
        let mut person = self;
        if let Grant::Device(_, keys) = &joined.grant {
            person.user = keys.to_bytes().to_vec();
        }
        let actor = person.empty(ticket.volume);
        let known = joined.first_sync(&actor.volume, |_, _| {}).await?;
        Ok((actor, known))
    }
}

/// A device with its volume.
pub struct Actor {
    pub person: Person,
    pub volume: Volume,
    pub events: Arc<Mutex<Vec<Event>>>,
    committer: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Actor {
    fn drop(&mut self) {
        self.volume.shutdown().unwrap();
        if let Some(committer) = self.committer.take() {
            committer.join().unwrap();
        }
    }
}

impl Actor {
    fn new(person: Person, volume: Volume) -> Self {
        let committing = volume.clone();
        let committer = Some(std::thread::spawn(move || committing.run_committer()));
        Self { person, volume, events: Arc::default(), committer }
    }

    pub fn id(&self) -> DeviceId {
        self.person.id()
    }

    pub fn config(&self) -> Config {
        let events = self.events.clone();
        Config { listen: loopback(), on_event: Arc::new(move |event| events.lock().push(event)), ..Config::default() }
    }

    pub fn swarm(&self, config: Config) -> Swarm {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match Swarm::start(self.volume.clone(), self.person.device.clone(), config.clone()) {
                // The swarm that had the port before is shut down, but its socket goes with its last task.
                Err(BindError::InUse(_)) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
                started => return started.unwrap(),
            }
        }
    }

    /// Starts a swarm that knows where `others` are.
    pub fn swarm_with(&self, others: &[(&Actor, &Swarm)]) -> Swarm {
        let known_peers = others.iter().map(|(actor, swarm)| actor.at(swarm)).collect();
        self.swarm(Config { known_peers, ..self.config() })
    }

    pub fn at(&self, swarm: &Swarm) -> KnownPeer {
        KnownPeer { device: self.id(), addresses: swarm.local_addresses() }
    }

    pub fn ticket(&self, registries: &[RegistryAddress], hints: Vec<SocketAddr>) -> Ticket {
        Ticket {
            volume: self.volume.id(),
            secret: self.volume.invite(Role::Writer, Duration::from_secs(3600)).unwrap(),
            registries: registries.to_vec(),
            hints,
            inviter: self.id(),
            expires: 0,
            user: None,
        }
    }

    /// A ticket for this user's next device.
    pub fn device_ticket(&self, hints: Vec<SocketAddr>) -> Ticket {
        Ticket {
            secret: self.volume.invite_device(Some(Duration::from_secs(3600))).unwrap(),
            user: Some(self.person.user().id()),
            ..self.ticket(&[], hints)
        }
    }

    pub fn write(&self, name: &str, bytes: &[u8]) {
        let who = Caller::default();
        let mode = OpenMode { write: true, truncate: true, ..OpenMode::default() };
        let (_, handle) = self.volume.create(Ino::ROOT, name.as_bytes(), 0o644, mode, false, &who).unwrap();
        for (index, piece) in bytes.chunks(1 << 20).enumerate() {
            self.volume.write(handle, (index << 20) as u64, piece, &who).unwrap();
        }
        self.volume.flush(handle).unwrap();
        self.volume.release(handle).unwrap();
    }

    /// Reads a file whose contents are all here.
    pub fn read(&self, name: &str) -> volume::Result<Vec<u8>> {
        let ino = self.volume.lookup(Ino::ROOT, name.as_bytes())?.ino;
        let handle = self.volume.open(ino, OpenMode { read: true, ..OpenMode::default() }, &Caller::default())?;
        let mut bytes = Vec::new();
        let read = self.volume.read(handle, 0, 1 << 30, &mut bytes);
        self.volume.release(handle)?;
        read.map(|()| bytes)
    }

    pub fn saw(&self, wanted: impl Fn(&Event) -> bool) -> bool {
        self.events.lock().iter().any(wanted)
    }
}

/// Waits until `done`, woken by the swarm's changes.
pub async fn until(swarm: &Swarm, what: &str, done: impl Fn(&[PeerStatus]) -> bool) {
    let mut changes = swarm.subscribe();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        changes.mark_unchanged();
        let peers = swarm.peers();
        if done(&peers) {
            return;
        }
        let changed = tokio::time::timeout_at(deadline, changes.changed()).await;
        assert!(matches!(changed, Ok(Ok(()))), "in vain waited for: {what}; peers: {peers:#?}");
    }
}

/// Waits until so many peers are connected and all hold everything of each other, as far as this side knows: to be
/// asked of the side that wrote last.
pub async fn until_settled(swarm: &Swarm, count: usize) {
    until(swarm, "settled", |peers| {
        peers.len() == count && peers.iter().all(|p| p.progress.i_hold_all_theirs && p.progress.they_hold_all_mine)
    })
    .await;
}

/// Waits for something that no swarm tells of.
pub async fn eventually(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "in vain waited for: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
