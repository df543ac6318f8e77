//! Joining a volume with a ticket, before there is anything of it on this device.
//!
//! Everybody who may let us in is dialled at once: the inviting device where the ticket says it was, and whoever the
//! ticket's registries know. They are asked one after the other, in the order in which they answered: asking two at a
//! time could use the ticket twice.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crypto::{DeviceId, DeviceKeys, OsEntropy, SymmetricKey, UserKeys, VolumeId};
use quinn::Connection;
use thiserror::Error;
use tokio::sync::watch;
use tokio::task::JoinSet;
use volume::sync::Session;
use volume::{DeviceGrant, DeviceRequest, ExportedRequest, JoinGrant, JoinRequest, Volume};

use crate::blocking::blocking;
use crate::close;
use crate::endpoint::{BindError, DialError, Endpoint, remote_address};
use crate::handshake::{self, Addresses, Granted, Greeted, HandshakeError, Hello};
use crate::identity::{Identity, Protocol};
use crate::peer;
use crate::registry_address::RegistryAddress;
use crate::registry_client;
use crate::registry_protocol::{Sighting, Token};
use crate::swarm::KnownPeer;
use crate::ticket::Ticket;

/// For finding somebody and being let in.
const TIME_LIMIT: Duration = Duration::from_secs(20);
/// How long the first sync may stand still.
const STALL: Duration = Duration::from_secs(60);
/// How many devices found through registries are tried.
const MAX_DEVICES: usize = 32;

/// Why nobody let us in. Each is one line for the user.
#[derive(Debug, Error)]
pub enum JoinError {
    /// Nobody at all was reached.
    #[error("{0}")]
    Unreachable(String),
    /// The registries work, but know nobody (or nobody who answers).
    #[error("nobody who can let you in is online: ask the one who invited you to mount the volume, and try again")]
    NobodyOnline,
    /// A registry knows where somebody is who can let us in; from here nothing gets there.
    #[error(
        "who can let you in was online a moment ago, and is not reached from here: see that the volume is still mounted there, and \
         that firewalls on both sides let UDP through, and try again"
    )]
    OutOfReach,
    /// Nobody of the volume was found by who has an exported key.
    #[error("no member of the volume was found: have one of them mount it where it was mounted before, and try again")]
    NoMember,
    /// Whoever can let us in does not.
    #[error("{0}")]
    Refused(String),
    /// Somebody was asked and did not answer: this device may be a member by now.
    #[error("the connection broke while this device was being let in: run the same command again")]
    Interrupted,
    /// The grant is for something else than the ticket.
    #[error("the answer is for another volume than the ticket's: ask for a new ticket")]
    OtherVolume,
    /// The first sync did not come to its end.
    #[error("the first sync was interrupted: {0}")]
    Sync(String),
    /// No socket.
    #[error(transparent)]
    Bind(#[from] BindError),
}

/// What was granted to whoever came with a ticket.
#[derive(Debug)]
pub enum Grant {
    /// To a new member.
    Member(JoinGrant),
    /// To a further device of a member, with what it holds of the user's keys from now on.
    Device(Box<DeviceGrant>, Box<UserKeys>),
}

impl Grant {
    /// Gives the granted keys to the volume.
    ///
    /// # Errors
    /// They aren't for this device, or the disk failed.
    pub fn accept(&self, volume: &Volume) -> volume::Result<()> {
        match self {
            Self::Member(grant) => volume.accept(grant),
            Self::Device(grant, _) => volume.accept_device(grant),
        }
    }
}

/// Let in; the connection to who did it is still there for the first sync.
pub struct Joined {
    /// What was granted.
    pub grant: Grant,
    endpoint: Endpoint,
    connection: Connection,
    device: DeviceId,
    greeted: Greeted,
}

/// Joins with `ticket`: as `user` under `name` or, with a ticket for a further device, as the user whose ticket it is; then
/// the name may be empty.
pub async fn join(
    ticket: &Ticket,
    name: &str,
    user: &UserKeys,
    device: &DeviceKeys,
    listen: Option<SocketAddr>,
) -> Result<Joined, JoinError> {
    let whom = Whom {
        peers: vec![KnownPeer { device: ticket.inviter, addresses: ticket.hints.clone() }],
        inviter: Some(ticket.inviter),
        registries: ticket.registries.clone(),
        token: Token::of_ticket(&ticket.secret.public()),
    };
    let hello = |exporter: &[u8]| match ticket.user {
        Some(_) => {
            let name = Some(name).filter(|name| !name.is_empty());
            Ok(Hello::JoinDevice(Box::new(DeviceRequest::new(&ticket.secret, device, name, exporter))))
        }
        None => JoinRequest::new(&ticket.secret, name, user, device, exporter, &OsEntropy)
            .map(|request| Hello::Join(Box::new(request))),
    };
    ask_around(whom, device, listen, hello, |granted| check(granted, ticket, device)).await
}

/// Where members may be found by who has an exported key.
pub struct Members {
    /// The volume.
    pub volume: VolumeId,
    /// Where they were.
    pub peers: Vec<KnownPeer>,
    /// Where to look for them.
    pub registries: Vec<RegistryAddress>,
    /// The key by which members find each other.
    pub discovery: SymmetricKey,
}

/// Comes back to a volume with a user's exported key, as a further device of that user.
pub async fn come_back(
    members: Members,
    request: ExportedRequest,
    device: &DeviceKeys,
    listen: Option<SocketAddr>,
) -> Result<Joined, JoinError> {
    let Members { volume, peers, registries, discovery } = members;
    let whom = Whom { peers, inviter: None, registries, token: Token::of_members(&discovery) };
    let hello = |_: &[u8]| Ok(Hello::Return(Box::new(request.clone())));
    let check = |granted| match granted {
        Granted::Member(grant) if grant.volume == volume => Ok(Grant::Member(*grant)),
        _ => Err(JoinError::OtherVolume),
    };
    ask_around(whom, device, listen, hello, check).await
}

/// Who may let a device in, and how they are found.
struct Whom {
    peers: Vec<KnownPeer>,
    /// The one of a ticket.
    inviter: Option<DeviceId>,
    registries: Vec<RegistryAddress>,
    token: Token,
}

/// Asks one after the other of those who can be found.
async fn ask_around(
    whom: Whom,
    device: &DeviceKeys,
    listen: Option<SocketAddr>,
    hello: impl Fn(&[u8]) -> Result<Hello, String>,
    check: impl Fn(Granted) -> Result<Grant, JoinError>,
) -> Result<Joined, JoinError> {
    let identity = Identity::new(&device.signing).map_err(BindError::from)?;
    let endpoint = Endpoint::bind(identity, listen, Protocol::Peer)?;
    let mut search = Search::new(&endpoint, whom);
    let (mut refusal, mut unanswered) = (None, false);
    let deadline = tokio::time::Instant::now() + TIME_LIMIT;
    while let Ok(Some((connection, host))) = tokio::time::timeout_at(deadline, search.next()).await {
        match handshake::ask_to_join(&connection, &hello, async { Addresses::default() }).await {
            Ok((granted, greeted)) => match check(granted) {
                Ok(grant) => return Ok(Joined { grant, endpoint, connection, device: host, greeted }),
                Err(error) => {
                    connection.close(close::MISBEHAVED, b"not what was asked for");
                    refusal.get_or_insert(error);
                }
            },
            Err(HandshakeError::Refused(why)) => refusal = Some(JoinError::Refused(why)),
            Err(error) => {
                unanswered = true;
                error.close(&connection);
                log::debug!("device {}: {error}", host.short());
            }
        }
    }
    let error = match unanswered {
        true => JoinError::Interrupted,
        false => refusal.unwrap_or_else(|| search.failure()),
    };
    endpoint.close(close::GOODBYE, "goodbye").await;
    Err(error)
}

/// Whether what was granted is what the ticket is for. Of a further device nobody but its own user can make it up.
fn check(granted: Granted, ticket: &Ticket, device: &DeviceKeys) -> Result<Grant, JoinError> {
    match granted {
        Granted::Member(grant) if grant.volume == ticket.volume => Ok(Grant::Member(*grant)),
        Granted::Device(grant) if grant.volume == ticket.volume => {
            let user = ticket.user.ok_or(JoinError::OtherVolume)?;
            let keys = grant.open(&user, device).map_err(JoinError::Refused)?;
            Ok(Grant::Device(grant, Box::new(keys)))
        }
        _ => Err(JoinError::OtherVolume),
    }
}

/// One step of the search.
enum Step {
    Dialled(SocketAddr, Result<Connection, DialError>, DeviceId),
    LookedUp(RegistryAddress, Result<Vec<Sighting>, registry_client::Ended>),
}

struct Search {
    endpoint: Endpoint,
    steps: JoinSet<Step>,
    tried: BTreeSet<(DeviceId, SocketAddr)>,
    devices: BTreeSet<DeviceId>,
    registries: usize,
    /// A registry knew of somebody.
    sighted: bool,
    /// Registries that did not answer.
    silent: Vec<String>,
    /// Addresses of the inviting device that did not answer.
    no_answer: Vec<String>,
    inviter: Option<DeviceId>,
}

impl Search {
    fn new(endpoint: &Endpoint, whom: Whom) -> Self {
        let Whom { peers, inviter, registries, token } = whom;
        let mut search = Self {
            endpoint: endpoint.clone(),
            steps: JoinSet::new(),
            tried: BTreeSet::new(),
            devices: BTreeSet::new(),
            registries: registries.len(),
            sighted: false,
            silent: Vec::new(),
            no_answer: Vec::new(),
            inviter,
        };
        for peer in &peers {
            search.dial(peer.device, &peer.addresses);
        }
        for address in registries {
            let endpoint = endpoint.clone();
            search.steps.spawn(async move {
                let found = registry_client::look_up(&endpoint, &address, token).await;
                Step::LookedUp(address, found)
            });
        }
        search
    }

    fn dial(&mut self, device: DeviceId, addresses: &[SocketAddr]) {
        if device == self.endpoint.device() || (self.devices.len() >= MAX_DEVICES && !self.devices.contains(&device)) {
            return;
        }
        self.devices.insert(device);
        for &address in addresses {
            if self.tried.insert((device, address)) {
                let endpoint = self.endpoint.clone();
                self.steps.spawn(async move {
                    let dialled = endpoint.connect(address, Protocol::Peer, Some(device)).await;
                    Step::Dialled(address, dialled, device)
                });
            }
        }
    }

    /// Returns the next device that answers, or `None` when everything was tried.
    async fn next(&mut self) -> Option<(Connection, DeviceId)> {
        while let Some(step) = self.steps.join_next().await {
            match step {
                Ok(Step::Dialled(_, Ok(connection), device)) => return Some((connection, device)),
                Ok(Step::Dialled(address, Err(error), device)) => {
                    log::debug!("device {}: {error}", device.short());
                    if self.inviter.is_none_or(|inviter| device == inviter) {
                        self.no_answer.push(address.to_string());
                    }
                }
                Ok(Step::LookedUp(_, Ok(sightings))) => {
                    self.sighted |= !sightings.is_empty();
                    for sighting in sightings {
                        self.dial(sighting.device, &sighting.addresses);
                    }
                }
                Ok(Step::LookedUp(address, Err(error))) => {
                    log::debug!("registry {}: {error}", address.key().short());
                    self.silent.push(address.to_string());
                }
                Err(error) => log::debug!("a search step ended: {error}"),
            }
        }
        None
    }

    /// Says why nobody was found.
    fn failure(&self) -> JoinError {
        if self.inviter.is_none() {
            return JoinError::NoMember;
        }
        if self.registries > self.silent.len() {
            return if self.sighted { JoinError::OutOfReach } else { JoinError::NobodyOnline };
        }
        let addresses = if self.no_answer.is_empty() { "no address known".into() } else { self.no_answer.join(", ") };
        JoinError::Unreachable(if self.registries == 0 {
            format!(
                "the inviting device does not answer (tried {addresses}), and the ticket names no registry: see that the volume \
                 is mounted there and that UDP gets through to it, or ask for a ticket made after `p2pfs mount --registry`"
            )
        } else {
            let registries = self.silent.join(", ");
            format!(
                "no registry of this ticket answers (tried {registries}) and no inviting device either ({addresses}): see that \
                 this machine is online, that a registry runs and that UDP gets through to it, and try again"
            )
        })
    }
}

impl Joined {
    /// Returns where members are, for the first mount.
    pub fn known_peers(&self) -> Vec<KnownPeer> {
        let Addresses { own, others } = self.greeted.addresses.clone();
        let address = remote_address(&self.connection);
        let mut addresses = vec![address];
        addresses.extend(own.into_iter().filter(|own| *own != address));
        let host = KnownPeer { device: self.device, addresses };
        let others = others.into_iter().map(|(device, addresses)| KnownPeer { device, addresses });
        std::iter::once(host).chain(others).collect()
    }

    /// Takes the granted keys and all commits into the empty `volume`, telling `progress` how many are here of how
    /// many. Returns [`known_peers`](Joined::known_peers).
    pub async fn first_sync(self, volume: &Volume, progress: impl Fn(u64, u64)) -> Result<Vec<KnownPeer>, JoinError> {
        let known = self.known_peers();
        let Self { grant, endpoint, connection, device, greeted } = self;
        let control = greeted.control;
        let session: Arc<Session> = {
            let volume = volume.clone();
            let begin = move || grant.accept(&volume).map(|()| Arc::new(volume.session(device)));
            blocking(begin).await.map_err(|error| JoinError::Sync(error.to_string()))?
        };
        let (changes, mut changed) = watch::channel(());
        let on_change: peer::OnChange = Arc::new(move || changes.send_modify(|()| {}));
        let mut run = tokio::spawn(peer::run(connection.clone(), control, session.clone(), false, None, on_change));
        let result = loop {
            let (volume, session) = (volume.clone(), session.clone());
            let look = move || (session.progress(), volume.status().commits, volume.is_ready());
            let (now, here, ready) = blocking(look).await;
            progress(here, here + now.their_commits_missing_here);
            if ready && now.in_step {
                break Ok(());
            }
            tokio::select! {
                ended = &mut run => {
                    let why = ended.map_or_else(|error| error.to_string(), |ended| ended.reason());
                    break Err(JoinError::Sync(why));
                }
                waited = tokio::time::timeout(STALL, changed.changed()) => if waited.is_err() {
                    break Err(JoinError::Sync(format!("nothing came for {} s", STALL.as_secs())));
                },
            }
        };
        connection.close(close::GOODBYE, b"first sync done");
        if !run.is_finished() {
            let _ended = run.await;
        }
        endpoint.close(close::GOODBYE, "goodbye").await;
        result?;
        Ok(known)
    }
}
