//! Joining with a ticket, let in and refused.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use crate::common::{self, Person, loopback};
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
async fn a_ticket_for_a_device_lets_it_in_as_its_user() {
    let alice = Person::new("alice").found();
    alice.write("plan", b"meet at noon");
    let swarm = alice.swarm(alice.config());
    let ticket: Ticket = alice.device_ticket(swarm.local_addresses()).to_word().parse().unwrap();
    let (laptop, known) = Person::new("").join(&ticket).await.unwrap();
    assert_eq!(laptop.read("plan").unwrap(), b"meet at noon");
    assert_eq!(known, [alice.at(&swarm)]);
    assert_eq!(laptop.person.user().id(), alice.person.user().id());
    let members = laptop.volume.members();
    assert!(members.len() == 1 && members[0].me && members[0].devices.len() == 2, "{members:?}");
    let error = fails(&Person::new(""), &ticket).await;
    assert!(error.to_string().contains("has been used"), "{error}");
    let next = alice.device_ticket(swarm.local_addresses());
    let error = fails(&Person::new("bob"), &next).await;
    assert!(error.to_string().contains("a device of `alice`"), "{error}");
    swarm.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_answers_for_another_user_is_not_believed() {
    let alice = Person::new("alice").found();
    let swarm = alice.swarm(alice.config());
    // As if mallory, who knows of the ticket, answered in bob's place: the ticket says whose answer it must be.
    let mut ticket = alice.device_ticket(swarm.local_addresses());
    ticket.user = Some(Person::new("bob").user().id());
    let error = fails(&Person::new(""), &ticket).await;
    assert!(error.to_string().contains("another user's than the ticket's"), "{error}");
    swarm.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exported_key_brings_its_user_back_whoever_is_there() {
    let alice = Person::new("alice").found();
    let swarm = alice.swarm(alice.config());
    let (bob, _) = Person::new("bob").join(&alice.ticket(&[], swarm.local_addresses())).await.unwrap();
    alice.write("plan", b"meet at noon");
    let exported = alice.volume.export_key().unwrap();
    let serving = bob.swarm_with(&[(&alice, &swarm)]);
    common::until_settled(&swarm, 1).await;
    swarm.shutdown().await;
    // Alice's only device is lost; bob is a writer.
    let signing = alice.person.user().signing.unwrap();
    let user = exported.secrets.whole(signing);
    let device = DeviceKeys::generate(&crypto::OsEntropy);
    let request = |secret: &volume::TicketSecret| {
        volume::ExportedRequest::new(secret, &user, &exported.secrets, &device, &crypto::OsEntropy).unwrap()
    };
    let members = || join::Members {
        volume: alice.volume.id(),
        peers: vec![bob.at(&serving)],
        registries: Vec::new(),
        discovery: exported.epoch.derive(crypto::Label::DiscoveryKey, b""),
    };
    let other = volume::TicketSecret::from_seed([7; 32]);
    match join::come_back(members(), request(&other), &device, loopback()).await {
        Err(error) => assert!(error.to_string().contains("not known"), "{error}"),
        Ok(_) => panic!("let in without an invitation"),
    }
    let joined = join::come_back(members(), request(&exported.ticket), &device, loopback()).await.unwrap();
    let again = Person::with_keys("alice", device, &user).empty(alice.volume.id());
    joined.first_sync(&again.volume, |_, _| {}).await.unwrap();
    assert_eq!(again.read("plan").unwrap(), b"meet at noon");
    let members = again.volume.members();
    let me = members.iter().find(|member| member.me).unwrap();
    assert_eq!((me.name.as_str(), me.role, me.devices.len()), ("alice", volume::Role::Owner, 2));
    again.volume.invite_device(None).unwrap();
    serving.shutdown().await;
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
    let said = error.to_string();
    let expected =
        format!("the inviting device does not answer (tried {address}), and the ticket names no registry: see");
    assert!(said.starts_with(&expected) && !said.contains('\n'), "{said}");
}

#[tokio::test]
async fn a_silent_registry_is_said_in_one_line() {
    let alice = Person::new("alice").found();
    let (address, _silent) = nowhere();
    let (place, _silent_too) = nowhere();
    let registry = RegistryAddress::new(place, DeviceKeys::generate(&crypto::OsEntropy).id());
    let error = fails(&Person::new("bob"), &alice.ticket(std::slice::from_ref(&registry), vec![address])).await;
    let said = error.to_string();
    let expected =
        format!("no registry of this ticket answers (tried {registry}) and no inviting device either ({address}): see");
    assert!(said.starts_with(&expected) && said.ends_with("and try again") && !said.contains('\n'), "{said}");
}
