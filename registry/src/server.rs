//! The network side: a task per client between its connection and the [`Table`].
//!
//! Whatever goes to a client is put into its queue while the table is locked, so that every client hears of events in
//! the order in which they happened. A client that doesn't read is dropped when its queue is full.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use crypto::{DeviceId, SigningKeys};
use parking_lot::Mutex;
use peer_net::endpoint::{BindError, Caller, Endpoint, remote_address};
use peer_net::frame::{self, FrameError, FrameReader};
use peer_net::identity::{Identity, Protocol, peer_device};
use peer_net::places::{Place, Places};
use peer_net::registry_address::RegistryAddress;
use peer_net::registry_protocol::{MAX_FRAME, Notice, Register};
use quinn::{ConnectionError, SendStream, VarInt};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::limits::{Limits, Pacer};
use crate::table::{ClientId, Push, Registered, Table};

/// How long a caller has for its handshake, and again for its first message.
const PATIENCE: Duration = Duration::from_secs(10);
/// The registry ends.
const CODE_SHUTDOWN: VarInt = VarInt::from_u32(1);
/// The client was refused (it was told why), or did not read.
const CODE_REFUSED: VarInt = VarInt::from_u32(2);

/// A running registry.
#[derive(Debug)]
pub struct Server {
    endpoint: Endpoint,
    state: Arc<State>,
    tasks: JoinSet<()>,
}

/// What the metrics show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Clients connected now.
    pub clients: usize,
    /// Records now.
    pub records: usize,
    /// Tokens with records now.
    pub tokens: usize,
    /// Connections taken in since the start.
    pub connections: u64,
    /// Messages accepted since the start.
    pub registrations: u64,
    /// Connections and messages refused since the start.
    pub refusals: u64,
}

#[derive(Debug)]
struct State {
    limits: Limits,
    started: Instant,
    shared: Mutex<Shared>,
    /// The first lease to end is another one than before.
    leases_changed: Notify,
    connections: AtomicU64,
    registrations: AtomicU64,
    refusals: AtomicU64,
}

#[derive(Debug)]
struct Shared {
    table: Table,
    outboxes: HashMap<ClientId, Outbox>,
}

#[derive(Debug)]
struct Outbox {
    queue: mpsc::Sender<Bytes>,
    connection: quinn::Connection,
}

impl Server {
    /// Begins to serve. Must be called within a tokio runtime.
    pub fn start(keys: &SigningKeys, listen: SocketAddr, limits: Limits) -> Result<Self, BindError> {
        let endpoint = Endpoint::bind(Identity::new(keys)?, Some(listen), Protocol::Registry)?;
        let state = Arc::new(State {
            shared: Mutex::new(Shared { table: Table::new(limits.clone()), outboxes: HashMap::new() }),
            limits,
            started: Instant::now(),
            leases_changed: Notify::new(),
            connections: AtomicU64::new(0),
            registrations: AtomicU64::new(0),
            refusals: AtomicU64::new(0),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(endpoint.clone(), state.clone()));
        tasks.spawn(expire(state.clone()));
        Ok(Self { endpoint, state, tasks })
    }

    /// Returns the address to give to peers. Of a wildcard, the one by which the machine reaches others.
    pub fn address(&self) -> RegistryAddress {
        let reachable = self.endpoint.local_addresses();
        let ip = match default_route() {
            Some(ip) if reachable.iter().any(|address| address.ip() == ip) => ip,
            _ => reachable.first().map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), SocketAddr::ip),
        };
        RegistryAddress::new(SocketAddr::new(ip, self.endpoint.port()), self.endpoint.device())
    }

    /// Returns a function that gives the present counts.
    pub fn counter(&self) -> impl Fn() -> Counts + Send + Sync + 'static {
        let state = self.state.clone();
        move || state.counts()
    }

    /// Says goodbye to all clients and ends.
    pub async fn shutdown(mut self) {
        self.tasks.abort_all();
        self.endpoint.close(CODE_SHUTDOWN, "the registry is shutting down").await;
    }
}

/// Finds the address this machine uses towards others. Connecting a UDP socket asks for the route and sends nothing.
fn default_route() -> Option<IpAddr> {
    let via = |from: &str, to: &str| {
        let socket = UdpSocket::bind(from).ok()?;
        socket.connect(to).ok()?;
        socket.local_addr().ok().map(|address| address.ip())
    };
    // Addresses reserved for documentation (RFC 5737, RFC 3849): nobody has them.
    via("0.0.0.0:0", "192.0.2.1:9").or_else(|| via("[::]:0", "[2001:db8::1]:9"))
}

impl State {
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn counts(&self) -> Counts {
        let shared = self.shared.lock();
        Counts {
            clients: shared.table.clients(),
            records: shared.table.records(),
            tokens: shared.table.tokens(),
            connections: self.connections.load(Ordering::Relaxed),
            registrations: self.registrations.load(Ordering::Relaxed),
            refusals: self.refusals.load(Ordering::Relaxed),
        }
    }

    fn refused(&self) {
        self.refusals.fetch_add(1, Ordering::Relaxed);
    }
}

impl Shared {
    fn deliver(&self, pushes: Vec<Push>) {
        for push in pushes {
            if let Some(outbox) = self.outboxes.get(&push.to)
                && outbox.queue.try_send(push.frame).is_err()
            {
                log::debug!("a client does not read its notices: dropped");
                outbox.connection.close(CODE_REFUSED, b"notices are not read");
            }
        }
    }
}

async fn expire(state: Arc<State>) {
    loop {
        let next = state.shared.lock().table.next_expiry();
        let changed = state.leases_changed.notified();
        match next {
            None => changed.await,
            Some(at) => {
                tokio::select! {
                    () = tokio::time::sleep(at.saturating_sub(state.now())) => {
                        let mut shared = state.shared.lock();
                        let pushes = shared.table.expire(state.now());
                        shared.deliver(pushes);
                    }
                    () = changed => {}
                }
            }
        }
    }
}

async fn accept(endpoint: Endpoint, state: Arc<State>) {
    // Some may be on their way in while others are on their way out.
    let places = Places::new(2 * state.limits.clients, state.limits.clients_per_ip);
    let mut clients = JoinSet::new();
    while let Some(caller) = endpoint.accept().await {
        while clients.try_join_next().is_some() {}
        match places.take(caller.address().ip()) {
            Some(place) => {
                clients.spawn(serve(caller, state.clone(), place));
            }
            None => {
                state.refused();
                log::debug!("too many connections from {}", caller.address().ip());
                caller.refuse();
            }
        }
    }
}

async fn serve(caller: Caller, state: Arc<State>, _place: Place) {
    let address = caller.address();
    let Ok(Ok(connection)) = timeout(PATIENCE, caller.answer()).await else {
        state.refused();
        log::debug!("{address}: no handshake");
        return;
    };
    let Some(device) = peer_device(&connection) else {
        state.refused();
        return;
    };
    let Ok(Ok((send, receive))) = timeout(PATIENCE, connection.accept_bi()).await else {
        state.refused();
        log::debug!("device {}: says nothing", device.short());
        return;
    };
    state.connections.fetch_add(1, Ordering::Relaxed);
    let (queue, outgoing) = mpsc::channel(state.limits.queue);
    let writer = tokio::spawn(write(send, outgoing));
    let observed = remote_address(&connection);
    let joined = {
        let mut shared = state.shared.lock();
        let joined = shared.table.join(device, observed);
        if let Ok(id) = joined {
            shared.outboxes.insert(id, Outbox { queue: queue.clone(), connection: connection.clone() });
        }
        joined
    };
    let ended = match joined {
        Ok(id) => {
            let client = Client { state: state.clone(), id, device, observed, queue: queue.clone() };
            let ended = client.listen(FrameReader::new(receive, MAX_FRAME)).await;
            let goodbye = matches!(connection.close_reason(), Some(ConnectionError::ApplicationClosed(_)));
            let mut shared = state.shared.lock();
            shared.outboxes.remove(&id);
            let pushes = shared.table.leave(id, goodbye);
            shared.deliver(pushes);
            ended
        }
        Err(refusal) => Err(refusal.to_string()),
    };
    if let Err(why) = ended {
        state.refused();
        log::debug!("device {}: {why}", device.short());
        let refused = Notice::Refused(why);
        let _gone = queue.send(frame::encode(&refused).into()).await;
        drop(queue);
        let _slow = timeout(PATIENCE, writer).await;
        connection.close(CODE_REFUSED, b"refused");
    } else {
        writer.abort();
    }
}

async fn write(mut send: SendStream, mut outgoing: mpsc::Receiver<Bytes>) {
    while let Some(frame) = outgoing.recv().await {
        if frame::write_frame(&mut send, &frame).await.is_err() {
            return;
        }
    }
    if send.finish().is_ok() {
        // Until the client has all of it, the connection must stay.
        let _either_way = send.stopped().await;
    }
}

struct Client {
    state: Arc<State>,
    id: ClientId,
    device: DeviceId,
    observed: SocketAddr,
    queue: mpsc::Sender<Bytes>,
}

impl Client {
    /// Takes messages until the client goes (`Ok`) or must (`Err`, with the reason to tell it).
    async fn listen(&self, mut messages: FrameReader<quinn::RecvStream>) -> Result<(), String> {
        let mut pacer = Pacer::new(&self.state.limits);
        let mut patience = PATIENCE;
        loop {
            let message = match timeout(patience, messages.next_value::<Register>()).await {
                Err(_) => return Err("no message for too long".to_owned()),
                Ok(Err(FrameError::Io(_) | FrameError::Truncated) | Ok(None)) => return Ok(()),
                Ok(Err(error)) => return Err(error.to_string()),
                Ok(Ok(Some(message))) => message,
            };
            // A client renews at half its lease; one that doesn't has nothing registered here any more.
            patience = self.state.limits.lease + PATIENCE;
            if !pacer.allow(self.state.now()) {
                return Err("too many messages".to_owned());
            }
            self.register(message).await?;
        }
    }

    async fn register(&self, message: Register) -> Result<(), String> {
        let unread = {
            let mut shared = self.state.shared.lock();
            let before = shared.table.next_expiry();
            let Registered { pushes, unread } =
                shared.table.register(self.state.now(), self.id, message).map_err(|refusal| refusal.to_string())?;
            shared.deliver(pushes);
            if shared.table.next_expiry() != before {
                self.state.leases_changed.notify_one();
            }
            unread
        };
        self.state.registrations.fetch_add(1, Ordering::Relaxed);
        for token in unread {
            let mut after = None;
            loop {
                // First a place in the queue, then the page: so it stands there before any later news.
                let Ok(place) = self.queue.reserve().await else {
                    return Ok(());
                };
                let shared = self.state.shared.lock();
                let Some((frame, last)) = shared.table.page(&token, &self.device, after) else {
                    break;
                };
                place.send(frame);
                after = Some(last);
            }
        }
        let Ok(place) = self.queue.reserve().await else {
            return Ok(());
        };
        place.send(frame::encode(&Notice::Accepted { observed: self.observed }).into());
        Ok(())
    }
}
