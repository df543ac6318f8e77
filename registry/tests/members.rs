//! Members who know nothing of each other but a registry.

use crate::common::{Actor, Person, eventually, loopback, until, until_settled};
use crypto::{DeviceKeys, OsEntropy};
use p2pfs_registry::limits::Limits;
use p2pfs_registry::server::Server;
use peer_net::join::{self, JoinError};
use peer_net::registry_address::RegistryAddress;
use peer_net::swarm::{Config, Swarm};

fn registry() -> Server {
    Server::start(&DeviceKeys::generate(&OsEntropy).signing, loopback().unwrap(), Limits::default()).unwrap()
}

fn swarm(actor: &Actor, registries: &[RegistryAddress]) -> Swarm {
    actor.swarm(Config { registries: registries.to_vec(), ..actor.config() })
}

async fn until_registered(swarm: &Swarm) {
    eventually("registered", || swarm.registries().iter().all(|registry| registry.connected)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn joining_and_meeting_need_only_a_registry() {
    let server = registry();
    let registries = [server.address()];
    let alice = Person::new("alice").found();
    let a = swarm(&alice, &registries);
    until_registered(&a).await;
    // The invitation is made while the swarm runs; nobody but the registry knows where alice is.
    let ticket = alice.ticket(&registries, Vec::new());
    a.refresh();
    eventually("the ticket's token", || server.counter()().tokens == 2).await;
    let (bob, _) = Person::new("bob").join(&ticket).await.unwrap();

    let b = swarm(&bob, &registries);
    until_settled(&b, 1).await;
    // Its bearer may come again, should the answer have been lost: so it stays to be found. Nobody else gets in with it.
    assert_eq!(server.counter()().tokens, 2);
    assert!(Person::new("eve").join(&ticket).await.is_err());

    // With the registry gone they stay together, and find each other again.
    server.shutdown().await;
    let known_peers = b.known_peers();
    b.shutdown().await;
    until(&a, "bob gone", |peers| peers.is_empty()).await;
    let b = bob.swarm(Config { registries: registries.to_vec(), known_peers, ..bob.config() });
    until_settled(&b, 1).await;
    assert!(!b.registries()[0].connected);
    a.shutdown().await;
    b.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_registry_of_two_is_enough() {
    let (up, down) = (registry(), registry());
    let registries = [down.address(), up.address()];
    down.shutdown().await;
    let alice = Person::new("alice").found();
    let a = swarm(&alice, &registries);
    eventually("registered at one", || a.registries().iter().any(|registry| registry.connected)).await;
    let ticket = alice.ticket(&registries, Vec::new());
    a.refresh();
    eventually("the ticket's token", || up.counter()().tokens == 2).await;
    Person::new("bob").join(&ticket).await.unwrap();
    a.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_online_is_said_so() {
    let server = registry();
    let alice = Person::new("alice").found();
    let ticket = alice.ticket(&[server.address()], Vec::new());
    let bob = Person::new("bob");
    let joined = join::join(&ticket, &bob.name, &bob.user(), &bob.device, loopback()).await;
    assert!(matches!(joined, Err(JoinError::NobodyOnline)));
}
