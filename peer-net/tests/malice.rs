//! Mallory is a member with a valid device, and speaks the protocol by hand: whatever she sends, alice ends that
//! connection, records it, and goes on with bob.
//!
//! The handshake's messages are written out here once more: a change of their bytes fails these tests.

use std::net::SocketAddr;
use std::time::Duration;

use crate::common::{self, Actor, Person, eventually, until, until_settled};
use crypto::{DeviceId, DeviceKeys, Label, OsEntropy, SymmetricKey, keyed_tag};
use p2pfs_peer_net::close;
use p2pfs_peer_net::endpoint::Endpoint;
use p2pfs_peer_net::frame::{self, FrameReader};
use p2pfs_peer_net::identity::{Identity, Protocol};
use p2pfs_peer_net::swarm::{Event, Swarm};
use quinn::{Connection, ConnectionError, RecvStream, SendStream};
use serde::{Deserialize, Serialize};
use volume::sync::MAX_MESSAGE;
use volume::{Message, Role};

#[derive(Serialize, Deserialize)]
enum Hello {
    Sync(Vec<serde_bytes::ByteArray<16>>),
}

#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Welcome(serde_bytes::ByteArray<16>),
}

type Addresses = (Vec<SocketAddr>, Vec<(DeviceId, Vec<SocketAddr>)>);

/// Mallory's end of a connection to alice.
struct Rogue {
    _endpoint: Endpoint,
    connection: Connection,
    send: SendStream,
    receive: FrameReader<RecvStream>,
}

/// The tag by which `mallory` proves membership on `connection`.
fn proof(mallory: &Actor, connection: &Connection) -> serde_bytes::ByteArray<16> {
    proof_by(&mallory.id(), &mallory.volume.discovery_key().unwrap(), connection)
}

fn proof_by(device: &DeviceId, key: &SymmetricKey, connection: &Connection) -> serde_bytes::ByteArray<16> {
    let mut exporter = [0; 32];
    connection.export_keying_material(&mut exporter, b"p2pfs member proof", b"").unwrap();
    let message = [exporter.as_slice(), b"d", device.as_bytes()].concat();
    keyed_tag(key, Label::MemberProof, &message).into()
}

async fn dial(mallory: &Actor, alice: &Swarm) -> (Endpoint, Connection) {
    dial_as(&mallory.person.device, alice).await
}

async fn dial_as(device: &DeviceKeys, alice: &Swarm) -> (Endpoint, Connection) {
    let identity = Identity::new(&device.signing).unwrap();
    let endpoint = Endpoint::bind(identity, common::loopback(), Protocol::Peer).unwrap();
    let connection = endpoint.connect(alice.local_addresses()[0], Protocol::Peer, None).await.unwrap();
    (endpoint, connection)
}

impl Rogue {
    /// Connects as the member that mallory is.
    async fn connect(mallory: &Actor, alice: &Swarm) -> Self {
        Self::connect_as(&mallory.person.device, &mallory.volume.discovery_key().unwrap(), alice).await
    }

    /// Connects as a device that nobody admitted, but that was given the key.
    async fn connect_as(device: &DeviceKeys, key: &SymmetricKey, alice: &Swarm) -> Self {
        let (endpoint, connection) = dial_as(device, alice).await;
        let (mut send, receive) = connection.open_bi().await.unwrap();
        let mut receive = FrameReader::new(receive, MAX_MESSAGE);
        frame::write_value(&mut send, &Hello::Sync(vec![proof_by(&device.id(), key, &connection)])).await.unwrap();
        let Answer::Welcome(_) = receive.expect_value().await.unwrap();
        frame::write_value(&mut send, &Addresses::default()).await.unwrap();
        // One who is turned away now may not get hers.
        let _alices = receive.expect_value::<Addresses>().await;
        Self { _endpoint: endpoint, connection, send, receive }
    }

    async fn is_thrown_out(&self, alice: &Actor, mallory: &Actor, why: &str) {
        let ended = tokio::time::timeout(Duration::from_secs(10), self.connection.closed()).await;
        let ended = ended.expect("still connected");
        assert!(closed_with(&ended, close::MISBEHAVED), "{ended:?}");
        eventually("an entry for the log", || {
            alice.saw(|event| {
                matches!(event, Event::Misbehaved { device, reason }
                    if *device == mallory.id() && reason.contains(why))
            })
        })
        .await;
    }
}

fn closed_with(error: &ConnectionError, code: quinn::VarInt) -> bool {
    matches!(error, ConnectionError::ApplicationClosed(closed) if closed.error_code == code)
}

struct Scene {
    alice: Actor,
    a: Swarm,
    bob: Actor,
    b: Swarm,
    mallory: Actor,
}

async fn scene() -> Scene {
    let alice = Person::new("alice").found();
    let a = alice.swarm(alice.config());
    let (bob, _) = Person::new("bob").join(&alice.ticket(&[], a.local_addresses())).await.unwrap();
    let (mallory, _) = Person::new("mallory").join(&alice.ticket(&[], a.local_addresses())).await.unwrap();
    let b = bob.swarm_with(&[(&alice, &a)]);
    until_settled(&b, 1).await;
    Scene { alice, a, bob, b, mallory }
}

impl Scene {
    /// Whatever mallory did, alice and bob still work together.
    async fn goes_on(self) {
        self.alice.write("after", b"all is well");
        self.alice.volume.commit_now().unwrap();
        eventually("bob has it", || self.bob.read("after").is_ok_and(|bytes| bytes == b"all is well")).await;
        self.a.shutdown().await;
        self.b.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_in_a_frame_ends_the_connection() {
    let scene = scene().await;
    let mut rogue = Rogue::connect(&scene.mallory, &scene.a).await;
    frame::write_frame(&mut rogue.send, b"not a message").await.unwrap();
    rogue.is_thrown_out(&scene.alice, &scene.mallory, "message").await;
    // For a while she is not even listened to.
    let (_endpoint, connection) = dial(&scene.mallory, &scene.a).await;
    let ended = tokio::time::timeout(Duration::from_secs(10), connection.closed()).await.unwrap();
    assert!(closed_with(&ended, close::MISBEHAVED), "{ended}");
    scene.goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_over_the_limit_ends_the_connection() {
    let scene = scene().await;
    let mut rogue = Rogue::connect(&scene.mallory, &scene.a).await;
    let header = u32::try_from(MAX_MESSAGE + 1).unwrap().to_le_bytes();
    rogue.send.write_all(&header).await.unwrap();
    rogue.is_thrown_out(&scene.alice, &scene.mallory, "at most").await;
    scene.goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_for_too_many_blocks_ends_the_connection() {
    let scene = scene().await;
    let rogue = Rogue::connect(&scene.mallory, &scene.a).await;
    let (mut send, _receive) = rogue.connection.open_bi().await.unwrap();
    send.write_all(&[1, 33]).await.unwrap();
    rogue.is_thrown_out(&scene.alice, &scene.mallory, "bad request").await;
    scene.goes_on().await;
}

/// Speaks as mallory's volume until alice asks for blocks, and returns the stream on which she does, and for how many.
async fn asked_for_blocks(rogue: &mut Rogue, scene: &Scene) -> (SendStream, usize) {
    let session = scene.mallory.volume.session(scene.alice.id());
    for message in session.opening() {
        frame::write_frame(&mut rogue.send, &message.encode()).await.unwrap();
    }
    loop {
        while let Some(message) = session.next_outgoing() {
            frame::write_frame(&mut rogue.send, &message.encode()).await.unwrap();
        }
        tokio::select! {
            frame = rogue.receive.next() => {
                session.receive(Message::decode(&frame.unwrap().unwrap()).unwrap()).unwrap();
            }
            stream = rogue.connection.accept_bi() => {
                let (send, mut receive) = stream.unwrap();
                let request = receive.read_to_end(2 + 32 * 32).await.unwrap();
                assert_eq!(request.len(), 2 + 32 * usize::from(request[1]));
                return (send, usize::from(request[1]));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_block_ends_the_connection() {
    let scene = scene().await;
    scene.mallory.write("bait", &[7; 100_000]);
    scene.mallory.volume.commit_now().unwrap();
    let mut rogue = Rogue::connect(&scene.mallory, &scene.a).await;
    let (mut send, count) = asked_for_blocks(&mut rogue, &scene).await;
    for _ in 0..count {
        send.write_all(&1000_u32.to_le_bytes()).await.unwrap();
        send.write_all(&[0; 1000]).await.unwrap();
    }
    rogue.is_thrown_out(&scene.alice, &scene.mallory, "wrong block").await;
    scene.goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_over_the_limit_ends_the_connection() {
    let scene = scene().await;
    scene.mallory.write("bait", &[7; 100_000]);
    scene.mallory.volume.commit_now().unwrap();
    let mut rogue = Rogue::connect(&scene.mallory, &scene.a).await;
    let (mut send, _) = asked_for_blocks(&mut rogue, &scene).await;
    send.write_all(&(1_u32 << 30).to_le_bytes()).await.unwrap();
    rogue.is_thrown_out(&scene.alice, &scene.mallory, "1073741824").await;
    scene.goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_from_another_connection_is_worth_nothing() {
    let scene = scene().await;
    let (_other_end, other) = dial(&scene.mallory, &scene.a).await;
    let (_end, connection) = dial(&scene.mallory, &scene.a).await;
    let (mut send, _receive) = connection.open_bi().await.unwrap();
    frame::write_value(&mut send, &Hello::Sync(vec![proof(&scene.mallory, &other)])).await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(10), connection.closed()).await.unwrap();
    assert!(closed_with(&ended, close::NOT_A_MEMBER), "{ended}");
    scene.goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registrys_protocol_is_not_spoken_between_peers() {
    let scene = scene().await;
    let identity = Identity::new(&scene.mallory.person.device.signing).unwrap();
    let endpoint = Endpoint::bind(identity, common::loopback(), Protocol::Peer).unwrap();
    assert!(endpoint.connect(scene.a.local_addresses()[0], Protocol::Registry, None).await.is_err());
    scene.goes_on().await;
}

/// Mallory gave the key to somebody who invents devices: few of them are listened to, and none for long.
#[tokio::test(flavor = "multi_thread")]
async fn devices_that_nobody_admitted_take_few_places_and_not_for_long() {
    let scene = scene().await;
    let key = scene.mallory.volume.discovery_key().unwrap();
    let mut invented = Vec::new();
    for _ in 0..8 {
        let device = DeviceKeys::generate(&OsEntropy);
        invented.push((device.id(), Rogue::connect_as(&device, &key, &scene.a).await));
    }
    let strangers = || {
        let peers = scene.a.peers();
        peers.iter().filter(|peer| invented.iter().any(|(device, _)| *device == peer.device)).count()
    };
    let gone = || invented.iter().filter(|(_, rogue)| rogue.connection.close_reason().is_some()).count();
    eventually("most are turned away", || gone() >= 6).await;
    assert!(strangers() <= 2);
    // Members come and stay.
    let rogue = Rogue::connect(&scene.mallory, &scene.a).await;
    until(&scene.a, "mallory and bob", |peers| {
        [scene.mallory.id(), scene.bob.id()].iter().all(|member| peers.iter().any(|peer| peer.device == *member))
    })
    .await;
    eventually("all are turned away", || gone() == 8).await;
    eventually("none is left", || strangers() == 0).await;
    assert!(rogue.connection.close_reason().is_none() && scene.a.peers().len() == 2);
    scene.goes_on().await;
}

/// Who was admitted while alice was away has the newest key, and is nobody to her until she has the admission.
#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_was_admitted_elsewhere_brings_its_admission() {
    let alice = Person::new("alice").found();
    let a = alice.swarm(alice.config());
    let mut ticket = alice.ticket(&[], a.local_addresses());
    ticket.secret = alice.volume.invite(Role::Admin, Duration::from_secs(3600)).unwrap();
    let (bob, _) = Person::new("bob").join(&ticket).await.unwrap();
    let b = bob.swarm(bob.config());
    let (carol, _) = Person::new("carol").join(&bob.ticket(&[], b.local_addresses())).await.unwrap();
    b.shutdown().await;
    assert!(!alice.volume.is_member(&carol.id()));
    let device = DeviceKeys::generate(&OsEntropy);
    let invented = Rogue::connect_as(&device, &alice.volume.discovery_key().unwrap(), &a).await;
    let c = carol.swarm_with(&[(&alice, &a)]);
    eventually("alice knows carol", || alice.volume.is_member(&carol.id())).await;
    let connections = |of: &Swarm| of.peers().iter().map(|peer| peer.connection).collect::<Vec<_>>();
    until(&c, "settled", |peers| peers.len() == 1 && peers[0].progress.i_hold_all_theirs).await;
    let before = connections(&c);
    let ended = tokio::time::timeout(Duration::from_secs(60), invented.connection.closed()).await.unwrap();
    assert!(closed_with(&ended, close::NOT_A_MEMBER), "{ended}");
    // She came at the same time.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(connections(&c), before);
    a.shutdown().await;
    c.shutdown().await;
}
