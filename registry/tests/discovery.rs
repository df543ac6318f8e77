//! Real clients at a real registry, over real QUIC on loopback.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crypto::{DeviceKeys, OsEntropy};
use p2pfs_registry::limits::Limits;
use p2pfs_registry::server::Server;
use peer_net::endpoint::Endpoint;
use peer_net::frame::{self, FrameReader};
use peer_net::identity::{Identity, Protocol};
use peer_net::registry_address::RegistryAddress;
use peer_net::registry_client::{Discovery, Interest, RegistryClient};
use peer_net::registry_protocol::{MAX_FRAME, Notice, Record, Register, Token};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

const A: Token = Token::from_bytes([1; 32]);
const B: Token = Token::from_bytes([2; 32]);

fn registry(limits: Limits) -> Server {
    let keys = DeviceKeys::generate(&OsEntropy).signing;
    Server::start(&keys, loopback(), limits).unwrap()
}

fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// A device with a client at a registry.
struct Device {
    keys: Arc<DeviceKeys>,
    endpoint: Endpoint,
    interest: watch::Sender<Interest>,
    found: mpsc::Receiver<Discovery>,
    client: RegistryClient,
}

fn offer(tokens: &[Token], addresses: &[&str]) -> Interest {
    Interest {
        offer: tokens.iter().copied().collect(),
        watch: BTreeSet::new(),
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
    }
}

impl Device {
    fn start(registry: &RegistryAddress, interest: Interest) -> Self {
        let keys = Arc::new(DeviceKeys::generate(&OsEntropy));
        let endpoint = Endpoint::bind(Identity::new(&keys.signing).unwrap(), Some(loopback()), Protocol::Peer).unwrap();
        let (interest, wanted) = watch::channel(interest);
        let (sender, found) = mpsc::channel(64);
        let client = RegistryClient::start(endpoint.clone(), registry.clone(), keys.clone(), wanted, sender);
        Self { keys, endpoint, interest, found, client }
    }

    async fn next(&mut self) -> Discovery {
        timeout(Duration::from_secs(10), self.found.recv()).await.expect("nothing was found").unwrap()
    }

    /// Waits for news of `other` with exactly these addresses and the observed one.
    async fn sees(&mut self, other: &Device, addresses: &[&str]) {
        let Discovery::Here(sighting) = self.next().await else { panic!("not a sighting") };
        assert_eq!(sighting.device, other.keys.id());
        let mut wanted: Vec<SocketAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
        wanted.push(SocketAddr::new([127, 0, 0, 1].into(), other.endpoint.port()));
        assert_eq!(sighting.addresses, wanted);
    }

    async fn is_registered(&mut self) {
        let told = self.next().await;
        assert!(matches!(told, Discovery::Complete { .. }), "{told:?}");
    }

    async fn hears_nothing(&mut self) {
        let heard = timeout(Duration::from_millis(300), self.found.recv()).await;
        assert!(heard.is_err(), "heard {heard:?}");
    }
}

#[tokio::test]
async fn peers_find_each_other_and_hear_of_changes() {
    let server = registry(Limits::default());
    let mut alice = Device::start(&server.address(), offer(&[A], &["192.0.2.1:1"]));
    alice.is_registered().await;
    let mut bob = Device::start(&server.address(), offer(&[A], &["192.0.2.2:2"]));
    bob.sees(&alice, &["192.0.2.1:1"]).await;
    bob.is_registered().await;
    alice.sees(&bob, &["192.0.2.2:2"]).await;
    let status = bob.client.status();
    assert!(status.connected && status.error.is_none());
    assert_eq!(status.observed.unwrap().port(), bob.endpoint.port());

    bob.interest.send(offer(&[A], &["192.0.2.3:3"])).unwrap();
    alice.sees(&bob, &["192.0.2.3:3"]).await;
    bob.interest.send(offer(&[B], &[])).unwrap();
    assert_eq!(alice.next().await, Discovery::Gone { token: A, device: bob.keys.id() });
}

#[tokio::test]
async fn devices_of_different_tokens_see_nothing_of_each_other() {
    let server = registry(Limits::default());
    let mut alice = Device::start(&server.address(), offer(&[A], &[]));
    alice.is_registered().await;
    let mut bob = Device::start(&server.address(), offer(&[B], &[]));
    bob.is_registered().await;
    alice.hears_nothing().await;
    bob.hears_nothing().await;
}

#[tokio::test]
async fn a_searcher_finds_and_is_not_found() {
    let server = registry(Limits::default());
    let mut alice = Device::start(&server.address(), offer(&[A], &[]));
    alice.is_registered().await;
    let search = Interest { watch: [A].into(), ..Interest::default() };
    let mut bob = Device::start(&server.address(), search);
    bob.sees(&alice, &[]).await;
    bob.is_registered().await;
    alice.hears_nothing().await;
}

#[tokio::test]
async fn a_goodbye_is_told_at_once() {
    let server = registry(Limits::default());
    let mut alice = Device::start(&server.address(), offer(&[A], &[]));
    alice.is_registered().await;
    let bob = Device::start(&server.address(), offer(&[A], &[]));
    alice.sees(&bob, &[]).await;
    let id = bob.keys.id();
    drop(bob);
    assert_eq!(alice.next().await, Discovery::Gone { token: A, device: id });
}

#[tokio::test]
async fn a_lease_that_is_not_renewed_ends() {
    let server = registry(Limits { lease: Duration::from_millis(400), ..Limits::default() });
    let mut alice = Device::start(&server.address(), offer(&[A], &[]));
    alice.is_registered().await;
    let bob = Device::start(&server.address(), offer(&[A], &[]));
    alice.sees(&bob, &[]).await;
    // Bob is still connected, but his client renews at half of ten minutes.
    assert_eq!(alice.next().await, Discovery::Gone { token: A, device: bob.keys.id() });
}

#[tokio::test]
async fn clients_come_back_when_the_registry_does() {
    let keys = DeviceKeys::generate(&OsEntropy).signing;
    let server = Server::start(&keys, loopback(), Limits::default()).unwrap();
    let address = server.address();
    let port = address.resolve().await.unwrap()[0];
    let mut alice = Device::start(&address, offer(&[A], &[]));
    alice.is_registered().await;
    server.shutdown().await;
    let lost = alice.next().await;
    let told = matches!(&lost, Discovery::Lost { registry, reason } if *registry == address.key() && reason.contains("shutting down"));
    assert!(told, "{lost:?}");
    let status = alice.client.status();
    assert!(!status.connected);
    assert!(status.error.as_ref().is_some_and(|error| error.contains("shutting down")), "{:?}", status.error);
    // The port is free once the endpoint's own task has ended.
    let again = timeout(Duration::from_secs(10), async {
        loop {
            match Server::start(&keys, port, Limits::default()) {
                Ok(again) => return again,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    });
    let again = again.await.unwrap();
    assert_eq!(again.address(), address);
    alice.is_registered().await;
    assert!(alice.client.status().connected);
}

#[tokio::test]
async fn another_key_at_the_registrys_address_is_not_talked_to() {
    let server = registry(Limits::default());
    let place = server.address().resolve().await.unwrap()[0];
    let wrong = RegistryAddress::new(place, DeviceKeys::generate(&OsEntropy).id());
    let mut alice = Device::start(&wrong, offer(&[A], &[]));
    alice.hears_nothing().await;
    assert!(!alice.client.status().connected);
    assert_eq!(server.counter()().registrations, 0);
}

/// Speaks the protocol by hand, and so can say what a client never would.
struct Rogue {
    keys: DeviceKeys,
    send: quinn::SendStream,
    notices: FrameReader<quinn::RecvStream>,
    _connection: quinn::Connection,
}

impl Rogue {
    async fn connect(server: &Server) -> Self {
        let keys = DeviceKeys::generate(&OsEntropy);
        let endpoint = Endpoint::bind(Identity::new(&keys.signing).unwrap(), None, Protocol::Peer).unwrap();
        let address = server.address();
        let place = address.resolve().await.unwrap()[0];
        let connection = endpoint.connect(place, Protocol::Registry, Some(address.key())).await.unwrap();
        let (send, receive) = connection.open_bi().await.unwrap();
        Self { keys, send, notices: FrameReader::new(receive, MAX_FRAME), _connection: connection }
    }

    async fn says(&mut self, message: &Register) -> Notice {
        frame::write_value(&mut self.send, message).await.unwrap();
        timeout(Duration::from_secs(10), self.notices.expect_value()).await.unwrap().unwrap()
    }
}

#[tokio::test]
async fn a_forged_record_is_refused() {
    let server = registry(Limits::default());
    let mut mallory = Rogue::connect(&server).await;
    let victim = DeviceKeys::generate(&OsEntropy);
    let record = Record::sign(&victim.signing, A, &["192.0.2.1:1".parse().unwrap()]);
    let answer = mallory.says(&Register { records: vec![record], watch: Vec::new() }).await;
    assert_eq!(answer, Notice::Refused("the record's signature is not this device's".to_owned()));
    let counts = server.counter()();
    assert_eq!((counts.records, counts.refusals), (0, 1));
}

#[tokio::test]
async fn a_flood_of_messages_is_refused() {
    let server = registry(Limits { burst: 3, pace: Duration::from_secs(3600), ..Limits::default() });
    let mut mallory = Rogue::connect(&server).await;
    let message = Register { records: Vec::new(), watch: vec![A] };
    for _ in 0..3 {
        assert!(matches!(mallory.says(&message).await, Notice::Accepted { .. }));
    }
    assert_eq!(mallory.says(&message).await, Notice::Refused("too many messages".to_owned()));
}

#[tokio::test]
async fn an_oversized_message_is_refused() {
    let server = registry(Limits::default());
    let mut mallory = Rogue::connect(&server).await;
    tokio::io::AsyncWriteExt::write_all(&mut mallory.send, &u32::MAX.to_le_bytes()).await.unwrap();
    let answer: Notice = timeout(Duration::from_secs(10), mallory.notices.expect_value()).await.unwrap().unwrap();
    assert!(matches!(&answer, Notice::Refused(why) if why.contains("4294967295")), "{answer:?}");
    // And it still serves others.
    let mut honest = Rogue::connect(&server).await;
    let record = Record::sign(&honest.keys.signing, A, &[]);
    let answer = honest.says(&Register { records: vec![record], watch: Vec::new() }).await;
    assert!(matches!(answer, Notice::Accepted { .. }));
}

#[tokio::test]
async fn one_ip_address_has_so_many_places() {
    let server = registry(Limits { clients_per_ip: 2, ..Limits::default() });
    let message = Register { records: Vec::new(), watch: vec![A] };
    let mut first = Rogue::connect(&server).await;
    let mut second = Rogue::connect(&server).await;
    first.says(&message).await;
    second.says(&message).await;
    let endpoint = Endpoint::bind(Identity::new(&first.keys.signing).unwrap(), None, Protocol::Peer).unwrap();
    let place = server.address().resolve().await.unwrap()[0];
    assert!(endpoint.connect(place, Protocol::Registry, None).await.is_err());
}
