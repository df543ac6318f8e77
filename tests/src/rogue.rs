//! A member with valid keys who speaks the protocol by hand, in the test's own process, and says what she likes.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crypto::{DeviceId, DeviceKeys, Hash, Label, OsEntropy, SymmetricKey, UserKeys, keyed_tag};
use peer_net::{
    close,
    endpoint::Endpoint,
    frame::{self, FrameReader},
    identity::{Identity, Protocol},
    join,
    ticket::Ticket,
};
use quinn::{Connection, ConnectionError, RecvStream, SendStream};
use serde::{Deserialize, Serialize};
use volume::{
    Caller, Clock, Ino, Message, NewNode, Parts, Session, Timestamp, Volume,
    commit::{ClaimedCommit, Commit, FORMAT_VERSION, Header, RawChange, changes_root, encode},
    content::MemoryBlocks,
    id::CommitHash,
    memory_store::MemoryStore,
    sync::MAX_MESSAGE,
};

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

#[derive(Serialize)]
enum Hello {
    Sync(Vec<serde_bytes::ByteArray<16>>),
}

#[derive(Deserialize)]
#[allow(dead_code, reason = "only that it comes matters")]
enum Answer {
    Welcome(serde_bytes::ByteArray<16>),
}

type Addresses = (Vec<SocketAddr>, Vec<(DeviceId, Vec<SocketAddr>)>);

/// A member with everything in memory.
pub struct Rogue {
    device: Arc<DeviceKeys>,
    /// Her replica.
    pub volume: Volume,
}

/// Her end of a connection.
pub struct Line {
    /// Lives as long as the connection.
    _endpoint: Endpoint,
    /// The connection.
    pub connection: Connection,
    /// The control stream, her half.
    pub send: SendStream,
    /// The other half.
    pub receive: FrameReader<RecvStream>,
}

fn loopback() -> Option<SocketAddr> {
    Some("127.0.0.1:0".parse().unwrap())
}

/// A device that nobody knows, with a socket.
pub fn stranger() -> Endpoint {
    let device = DeviceKeys::generate(&OsEntropy);
    Endpoint::bind(Identity::new(&device.signing).unwrap(), loopback(), Protocol::Peer).unwrap()
}

/// Connects; again where a busy machine did not answer in time.
async fn dial(endpoint: &Endpoint, at: SocketAddr) -> Connection {
    for _ in 0..10 {
        if let Ok(connection) = endpoint.connect(at, Protocol::Peer, None).await {
            return connection;
        }
    }
    endpoint.connect(at, Protocol::Peer, None).await.unwrap()
}

impl Rogue {
    /// Joins as anybody does.
    pub async fn join(ticket: &str, name: &str) -> Self {
        let ticket: Ticket = ticket.parse().unwrap();
        let (device, user) = (Arc::new(DeviceKeys::generate(&OsEntropy)), UserKeys::generate(&OsEntropy));
        let joined = join::join(&ticket, name, &user, &device, loopback()).await.unwrap();
        let parts = Parts {
            store: Arc::new(MemoryStore::new()),
            blocks: Arc::new(MemoryBlocks::new()),
            clock: Arc::new(SystemClock(Instant::now())),
            entropy: Arc::new(OsEntropy),
            secret: SymmetricKey::generate(&OsEntropy),
            device: DeviceKeys::from_bytes(&device.to_bytes()).unwrap(),
            user,
            archive: None,
            directory: None,
        };
        let volume = Volume::load(parts, ticket.volume).unwrap();
        joined.first_sync(&volume, |_, _| {}).await.unwrap();
        Self { device, volume }
    }

    /// Her device, as logs show it.
    pub fn short(&self) -> String {
        self.device.id().short().to_string()
    }

    /// Everything that she would send to the volume's founder if he knew nothing.
    pub fn all_commits(&self) -> Vec<ClaimedCommit> {
        let session = self.to_founder();
        session.receive(Message::Tips(Vec::new())).unwrap();
        let mut all = Vec::new();
        while let Some(message) = session.next_outgoing() {
            if let Message::Commits(commits) = message {
                all.extend(commits);
            }
        }
        all
    }

    /// A commit of these changes in a new log of hers, by somebody who has seen all of these commits; as another device's, signed
    /// by hers, if she pretends to be `device`.
    pub fn sign(
        &self,
        seen: &[ClaimedCommit],
        log: u64,
        changes: Vec<RawChange>,
        device: Option<DeviceId>,
    ) -> ClaimedCommit {
        let seen: Vec<Commit> = seen.iter().map(|commit| commit.clone().check().unwrap()).collect();
        let before = |c: &Commit| c.header.observed.iter().chain([&c.header.prev]).copied().collect::<Vec<_>>();
        let mut newest: BTreeSet<CommitHash> = seen.iter().map(|commit| commit.hash).collect();
        for hash in seen.iter().flat_map(before) {
            newest.remove(&hash);
        }
        let last = seen.iter().max_by_key(|commit| commit.header.count).unwrap();
        let header = encode(&Header {
            version: FORMAT_VERSION,
            volume: self.volume.id(),
            device: device.unwrap_or(self.device.id()),
            log,
            seq: 1,
            prev: CommitHash::ZERO,
            observed: newest.into_iter().collect(),
            count: last.header.count + 1,
            time: last.header.time,
            root: changes_root(changes.iter()),
            changes: changes.len().try_into().unwrap(),
        });
        let signature = self.device.signing.sign(Label::CommitSignature, &header);
        ClaimedCommit { header, signature, changes }
    }

    /// What an honest program would say that it knows.
    fn tips(&self) -> Message {
        let session = self.to_founder();
        let nothing = Message::State { digest: Hash::from_bytes([0; 32]), complete: false, commits: 0 };
        session.receive(nothing).unwrap();
        std::iter::from_fn(|| session.next_outgoing()).find(|message| matches!(message, Message::Tips(_))).unwrap()
    }

    /// Says this to a device, and hears what it has to say for a moment.
    pub async fn tell(&self, at: SocketAddr, commits: Vec<ClaimedCommit>) {
        let Some(mut line) = self.try_connect(at).await else { return };
        line.say(&self.tips()).await;
        line.say(&Message::Commits(commits)).await;
        let session = self.to_founder();
        while let Ok(Ok(Some(frame))) = tokio::time::timeout(Duration::from_millis(500), line.receive.next()).await {
            if let Ok(message) = Message::decode(&frame) {
                let _ = session.receive(message);
            }
        }
    }

    /// Her replica's session with the device that was there first.
    pub fn to_founder(&self) -> Session {
        let devices = self.volume.devices();
        let founder = devices.iter().filter(|device| !device.me).min_by_key(|device| device.admitted).unwrap();
        self.volume.session(founder.id)
    }

    /// Makes so many commits, of a directory each.
    pub fn commits(&self, count: usize) {
        for number in 0..count {
            let name = format!("junk {number}");
            self.volume.make(Ino::ROOT, name.as_bytes(), NewNode::Directory, 0o755, &Caller::default()).unwrap();
            self.volume.commit_now().unwrap();
        }
    }

    /// Connects, and tells whether she is sent away as one who misbehaved.
    pub async fn is_refused(&self, at: SocketAddr) -> bool {
        let identity = Identity::new(&self.device.signing).unwrap();
        let endpoint = Endpoint::bind(identity, loopback(), Protocol::Peer).unwrap();
        let connection = dial(&endpoint, at).await;
        let ended = tokio::time::timeout(Duration::from_secs(10), connection.closed()).await.unwrap();
        matches!(ended, ConnectionError::ApplicationClosed(closed) if closed.error_code == close::MISBEHAVED)
    }

    /// Connects and proves to be a member.
    pub async fn connect(&self, at: SocketAddr) -> Line {
        let endpoint = self.endpoint();
        let connection = dial(&endpoint, at).await;
        let began = Instant::now();
        match self.greet(endpoint, connection.clone()).await {
            Some(line) => line,
            None => panic!("no welcome after {:?}: {:?}", began.elapsed(), connection.close_reason()),
        }
    }

    /// The same where nobody may be, or nobody who hears her.
    pub async fn try_connect(&self, at: SocketAddr) -> Option<Line> {
        let endpoint = self.endpoint();
        let connection = endpoint.connect(at, Protocol::Peer, None).await.ok()?;
        self.greet(endpoint, connection).await
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint::bind(Identity::new(&self.device.signing).unwrap(), loopback(), Protocol::Peer).unwrap()
    }

    async fn greet(&self, endpoint: Endpoint, connection: Connection) -> Option<Line> {
        let mut exporter = [0; 32];
        connection.export_keying_material(&mut exporter, b"p2pfs member proof", b"").unwrap();
        let message = [exporter.as_slice(), b"d", self.device.id().as_bytes()].concat();
        let proof = keyed_tag(&self.volume.discovery_key().unwrap(), Label::MemberProof, &message);
        let (mut send, receive) = connection.open_bi().await.ok()?;
        let mut receive = FrameReader::new(receive, MAX_MESSAGE);
        frame::write_value(&mut send, &Hello::Sync(vec![proof.into()])).await.ok()?;
        let Answer::Welcome(_) = receive.expect_value().await.ok()?;
        frame::write_value(&mut send, &Addresses::default()).await.ok()?;
        let _theirs: Addresses = receive.expect_value().await.ok()?;
        Some(Line { _endpoint: endpoint, connection, send, receive })
    }
}

impl Line {
    /// Says something; `false` when the line is dead.
    pub async fn say(&mut self, message: &Message) -> bool {
        frame::write_frame(&mut self.send, &message.encode()).await.is_ok()
    }
}
