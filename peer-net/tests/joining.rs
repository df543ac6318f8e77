//! Joining with a ticket, let in and refused.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod common;

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use common::{Person, loopback};
use crypto::DeviceKeys;
use p2pfs_peer_net::join::{self, JoinError};
use p2pfs_peer_net::registry_address::RegistryAddress;
use p2pfs_peer_net::swarm::Event;
use p2pfs_peer_net::ticket::Ticket;

/// An address at which nobody answers.
fn nowhere() -> (SocketAddr, UdpSocket) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    (socket.local_addr().unwrap(), socket)
}

async fn fails(person: &Person, ticket: &Ticket) -> JoinError {
    match join::join(ticket, &person.name, &person.user(), &person.device, loopback()).await {
        Err(error) => error,
        Ok(_) => panic!("{} was let in", person.name),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_lets_one_in_with_everything_there() {
    let alice = Person::new("alice").found();
    alice.write("plan", b"meet at noon");
    let swarm = alice.swarm(alice.config());
    let word = alice.ticket(&[], swarm.local_addresses()).to_word();
    let ticket: Ticket = word.parse().unwrap();

    let (bob, known) = Person::new("bob").join(&ticket).await.unwrap();
    assert!(bob.volume.is_ready());
    assert_eq!(bob.read("plan").unwrap(), b"meet at noon", "a small file comes with the commits");
    assert_eq!(known, [alice.at(&swarm)]);
    let names: Vec<String> = alice.volume.members().into_iter().map(|member| member.name).collect();
    assert_eq!(names, ["alice", "bob"]);
    assert!(alice.saw(|event| matches!(event, Event::Joined { device, .. } if *device == bob.id())));
    swarm.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_used_ticket_and_a_taken_name_are_refused_with_the_reason() {
    let alice = Person::new("alice").found();
    let swarm = alice.swarm(alice.config());
    let ticket = alice.ticket(&[], swarm.local_addresses());
    let error = fails(&Person::new("alice"), &ticket).await;
    assert_eq!(error.to_string(), "the name `alice` is taken: choose another");
    Person::new("bob").join(&ticket).await.unwrap();
    let started = Instant::now();
    let error = fails(&Person::new("carol"), &ticket).await;
    assert!(matches!(&error, JoinError::Refused(why) if why.contains("has been used")), "{error}");
    assert!(started.elapsed() < Duration::from_secs(2), "a refusal is quick: {:?}", started.elapsed());
    common::eventually("the refusals in the log", || {
        alice.events.lock().iter().filter(|event| matches!(event, Event::JoinRefused { .. })).count() == 2
    })
    .await;
    swarm.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn guessing_is_slowed_down() {
    let alice = Person::new("alice").found();
    let swarm = alice.swarm(alice.config());
    let mut ticket = alice.ticket(&[], swarm.local_addresses());
    ticket.secret = volume::TicketSecret::from_seed([7; 32]);
    for _ in 0..5 {
        let error = fails(&Person::new("mallory"), &ticket).await;
        assert!(error.to_string().contains("not known"), "{error}");
    }
    let good = alice.ticket(&[], swarm.local_addresses());
    let error = fails(&Person::new("mallory"), &good).await;
    assert!(error.to_string().contains("wait a minute"), "{error}");
    swarm.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ticket_names_whom_to_trust() {
    let alice = Person::new("alice").found();
    let swarm = alice.swarm(alice.config());
    // Somebody else answers at the inviter's address.
    let mut ticket = alice.ticket(&[], swarm.local_addresses());
    ticket.inviter = DeviceKeys::generate(&crypto::OsEntropy).id();
    let error = fails(&Person::new("bob"), &ticket).await;
    assert!(matches!(error, JoinError::Unreachable(_)), "{error}");
    // The inviter itself passes off another volume.
    let mut ticket = alice.ticket(&[], swarm.local_addresses());
    ticket.volume = crypto::VolumeId::from_bytes([9; 32]);
    let error = fails(&Person::new("bob"), &ticket).await;
    assert!(matches!(error, JoinError::OtherVolume), "{error}");
    swarm.shutdown().await;
}

#[tokio::test]
async fn a_silent_inviter_is_said_in_one_line() {
    let alice = Person::new("alice").found();
    let (address, _silent) = nowhere();
    let error = fails(&Person::new("bob"), &alice.ticket(&[], vec![address])).await;
    assert_eq!(
        error.to_string(),
        format!("the inviting device does not answer (tried {address}), and the ticket names no registry")
    );
}

#[tokio::test]
async fn a_silent_registry_is_said_in_one_line() {
    let alice = Person::new("alice").found();
    let (address, _silent) = nowhere();
    let (place, _silent_too) = nowhere();
    let registry = RegistryAddress::new(place, DeviceKeys::generate(&crypto::OsEntropy).id());
    let error = fails(&Person::new("bob"), &alice.ticket(std::slice::from_ref(&registry), vec![address])).await;
    assert_eq!(
        error.to_string(),
        format!("no registry of this ticket answers (tried {registry}) and no inviting device either: {address}")
    );
}
