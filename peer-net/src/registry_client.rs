//! Keeps this device known at one registry, and tells who else is there.
//!
//! Works in the background for as long as it is held. A registry that is down is no error, only a status: peers that
//! know each other's addresses need none. It wakes for what the registry sends, for changes, and to renew the lease.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crypto::{DeviceId, DeviceKeys};
use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::{MissedTickBehavior, interval_at};

use crate::backoff::Backoff;
use crate::endpoint::{DialError, Endpoint};
use crate::frame::{self, FrameError, FrameReader};
use crate::identity::Protocol;
use crate::registry_address::RegistryAddress;
use crate::registry_protocol::{
    Announcement, LEASE, MAX_FRAME, MAX_RECORDS_PER_TOKEN, MAX_TOKENS, Notice, Record, Register, Sighting, Token,
};

const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);
/// A connection that lasted so long was a success, however it ended.
const STABLE: Duration = Duration::from_secs(60);

/// What this device wants of registries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interest {
    /// Tokens under which to be found; they are watched too.
    pub offer: BTreeSet<Token>,
    /// Tokens only to look for.
    pub watch: BTreeSet<Token>,
    /// Where this device listens.
    pub addresses: Vec<SocketAddr>,
}

impl Interest {
    fn is_empty(&self) -> bool {
        self.offer.is_empty() && self.watch.is_empty()
    }

    fn covers(&self, token: &Token) -> bool {
        self.offer.contains(token) || self.watch.contains(token)
    }

    /// Signs it, with the first tokens that fit.
    fn register(&self, keys: &DeviceKeys) -> Register {
        let records: Vec<_> = self
            .offer
            .iter()
            .take(MAX_TOKENS)
            .map(|token| Record::sign(&keys.signing, *token, &self.addresses))
            .collect();
        let room = MAX_TOKENS - records.len();
        Register { watch: self.watch.difference(&self.offer).take(room).copied().collect(), records }
    }
}

/// What a registry told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Discovery {
    /// A device is there; its record is checked.
    Here(Sighting),
    /// A device left.
    Gone {
        /// Where it was registered.
        token: Token,
        /// Who it was.
        device: DeviceId,
    },
    /// Everybody who is registered now has been told.
    Complete {
        /// By which registry.
        registry: DeviceId,
        /// Where the registry sees this device.
        observed: SocketAddr,
    },
    /// A registry at which this device was registered is reached no more.
    Lost {
        /// Which.
        registry: DeviceId,
        /// Why, for people.
        reason: String,
    },
}

/// How it stands with one registry.
#[derive(Debug, Clone)]
pub struct RegistryStatus {
    /// Which one.
    pub address: RegistryAddress,
    /// Whether this device is registered there now.
    pub connected: bool,
    /// Why not, for people.
    pub error: Option<String>,
    /// This device's address as the registry sees it.
    pub observed: Option<SocketAddr>,
}

/// The connection to one registry, kept up until this is dropped.
#[derive(Debug)]
pub struct RegistryClient {
    status: Arc<Mutex<RegistryStatus>>,
    task: AbortHandle,
}

impl Drop for RegistryClient {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl RegistryClient {
    /// Begins. Registers `interest` again whenever it changes; what the registry tells goes to `found`.
    pub fn start(
        endpoint: Endpoint,
        address: RegistryAddress,
        keys: Arc<DeviceKeys>,
        interest: watch::Receiver<Interest>,
        found: mpsc::Sender<Discovery>,
    ) -> Self {
        let initial = RegistryStatus { address: address.clone(), connected: false, error: None, observed: None };
        let status = Arc::new(Mutex::new(initial));
        let client = Client { endpoint, address, keys, interest, found, status: status.clone() };
        let task = tokio::spawn(client.run()).abort_handle();
        Self { status, task }
    }

    /// Returns how it stands.
    pub fn status(&self) -> RegistryStatus {
        self.status.lock().clone()
    }
}

/// Why there is no connection any more, or none came about.
#[derive(Debug, Error)]
pub(crate) enum Ended {
    #[error("cannot look up the registry's address: {0}")]
    Lookup(std::io::Error),
    #[error("{0}")]
    Dial(#[from] DialError),
    #[error("connection to the registry lost: {0}")]
    Connection(#[from] quinn::ConnectionError),
    #[error("connection to the registry lost: {0}")]
    Frame(#[from] FrameError),
    #[error("refused by the registry: {0}")]
    Refused(String),
    #[error("nobody listens to what is found any more")]
    Unheard,
}

struct Client {
    endpoint: Endpoint,
    address: RegistryAddress,
    keys: Arc<DeviceKeys>,
    interest: watch::Receiver<Interest>,
    found: mpsc::Sender<Discovery>,
    status: Arc<Mutex<RegistryStatus>>,
}

impl Client {
    async fn run(mut self) {
        let mut backoff = Backoff::new(FIRST_RETRY, LAST_RETRY);
        loop {
            if self.interest.wait_for(|interest| !interest.is_empty()).await.is_err() {
                return;
            }
            let started = Instant::now();
            let ended = match self.stay_registered().await {
                Ok(()) | Err(Ended::Unheard) => return,
                Err(ended) => ended,
            };
            log::debug!("registry {}: {ended}", self.address.key().short());
            let was_connected = {
                let mut status = self.status.lock();
                status.error = Some(ended.to_string());
                std::mem::take(&mut status.connected)
            };
            if was_connected {
                log::info!("registry {}: disconnected", self.address.key().short());
                let lost = Discovery::Lost { registry: self.address.key(), reason: ended.to_string() };
                if self.tell(lost).await.is_err() {
                    return;
                }
            }
            if started.elapsed() >= STABLE {
                backoff.reset();
            }
            tokio::time::sleep(backoff.next()).await;
        }
    }

    /// Connects and stays. `Ok` only when the interest's owner is gone.
    async fn stay_registered(&mut self) -> Result<(), Ended> {
        let connection = connect(&self.endpoint, &self.address).await?;
        self.interest.mark_changed();
        let ended = self.exchange(&connection).await;
        match (ended, connection.close_reason()) {
            // What the stream says of a lost connection is only that it is lost.
            (Err(Ended::Frame(FrameError::Io(_))), Some(reason)) => Err(reason.into()),
            (ended, _) => ended,
        }
    }

    async fn exchange(&mut self, connection: &quinn::Connection) -> Result<(), Ended> {
        let (mut send, receive) = connection.open_bi().await?;
        let mut notices = FrameReader::new(receive, MAX_FRAME);
        let mut renew = interval_at(tokio::time::Instant::now() + LEASE / 2, LEASE / 2);
        renew.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut first = true;
        loop {
            tokio::select! {
                notice = notices.expect_value() => {
                    self.handle(notice?, &mut first).await?;
                    continue;
                }
                changed = self.interest.changed() => if changed.is_err() {
                    return Ok(());
                },
                _ = renew.tick() => {}
            }
            let register = self.interest.borrow_and_update().register(&self.keys);
            frame::write_value(&mut send, &register).await?;
        }
    }

    async fn handle(&self, notice: Notice, first: &mut bool) -> Result<(), Ended> {
        match notice {
            Notice::Accepted { observed } => {
                {
                    let mut status = self.status.lock();
                    if !status.connected {
                        log::info!("registry {}: registered", self.address.key().short());
                    }
                    status.connected = true;
                    status.error = None;
                    status.observed = Some(observed);
                }
                if std::mem::take(first) {
                    self.tell(Discovery::Complete { registry: self.address.key(), observed }).await?;
                }
            }
            Notice::Refused(why) => return Err(Ended::Refused(one_line(&why))),
            Notice::Here(announcements) => {
                for announcement in announcements {
                    let ours = self.interest.borrow().covers(&announcement.record.token);
                    if announcement.device == self.endpoint.device() || !ours {
                        continue;
                    }
                    match announcement.verify() {
                        Some(sighting) => self.tell(Discovery::Here(sighting)).await?,
                        None => log::debug!("registry {}: sent a bad record", self.address.key().short()),
                    }
                }
            }
            Notice::Gone { token, device } => self.tell(Discovery::Gone { token, device }).await?,
        }
        Ok(())
    }

    async fn tell(&self, discovery: Discovery) -> Result<(), Ended> {
        self.found.send(discovery).await.map_err(|_| Ended::Unheard)
    }
}

/// How long a registry that knows nobody is listened to: who has just made an invitation is about to tell it.
const NEWS: Duration = Duration::from_secs(2);

/// Asks a registry once who is there under `token`.
pub(crate) async fn look_up(
    endpoint: &Endpoint,
    address: &RegistryAddress,
    token: Token,
) -> Result<Vec<Sighting>, Ended> {
    let connection = connect(endpoint, address).await?;
    let (mut send, receive) = connection.open_bi().await?;
    let mut notices = FrameReader::new(receive, MAX_FRAME);
    frame::write_value(&mut send, &Register { records: Vec::new(), watch: vec![token] }).await?;
    let mut found = Vec::new();
    let mut until = None;
    loop {
        let notice = match until {
            None => notices.expect_value().await?,
            Some(until) => match tokio::time::timeout_at(until, notices.expect_value()).await {
                Ok(notice) => notice?,
                Err(_) => return Ok(found),
            },
        };
        match notice {
            Notice::Accepted { .. } if !found.is_empty() => return Ok(found),
            Notice::Accepted { .. } => until = Some(tokio::time::Instant::now() + NEWS),
            Notice::Refused(why) => return Err(Ended::Refused(one_line(&why))),
            Notice::Here(announcements) => {
                let sightings = announcements.into_iter().filter_map(Announcement::verify);
                let room = MAX_RECORDS_PER_TOKEN - found.len();
                found.extend(sightings.filter(|s| s.token == token && s.device != endpoint.device()).take(room));
                if until.is_some() && !found.is_empty() {
                    return Ok(found);
                }
            }
            Notice::Gone { device, .. } => found.retain(|sighting| sighting.device != device),
        }
    }
}

async fn connect(endpoint: &Endpoint, address: &RegistryAddress) -> Result<quinn::Connection, Ended> {
    let places = address.resolve().await.map_err(Ended::Lookup)?;
    let mut last = Ended::Lookup(std::io::ErrorKind::NotFound.into());
    for place in places {
        match endpoint.connect(place, Protocol::Registry, Some(address.key())).await {
            Ok(connection) => return Ok(connection),
            Err(error) => last = error.into(),
        }
    }
    Err(last)
}

/// Makes text from elsewhere fit for a terminal and a log: one line, printable, not long.
pub(crate) fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect()
}
