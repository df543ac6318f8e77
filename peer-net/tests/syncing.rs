//! Swarms of members: they find each other, exchange everything, and come back after a loss.

use std::time::Duration;

use crate::common::{Actor, Person, eventually, free_port, until, until_settled};
use p2pfs_peer_net::swarm::{Config, Event, KnownPeer, Swarm};

/// Alice with her swarm, and bob, who joined.
async fn pair() -> (Actor, Swarm, Actor) {
    let alice = Person::new("alice").found();
    let swarm = alice.swarm(alice.config());
    let ticket = alice.ticket(&[], swarm.local_addresses());
    let (bob, _) = Person::new("bob").join(&ticket).await.unwrap();
    (alice, swarm, bob)
}

fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    crypto::Entropy::fill(&crypto::SeededEntropy::new(len as u64), &mut bytes);
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_and_contents_go_both_ways() {
    let (alice, a, bob) = pair().await;
    let b = bob.swarm_with(&[(&alice, &a)]);
    until_settled(&b, 1).await;
    let (large, small) = (noise(20 << 20), noise(300));
    alice.write("large", &large);
    bob.write("small", &small);
    alice.volume.commit_now().unwrap();
    until_settled(&a, 1).await;
    bob.volume.commit_now().unwrap();
    until_settled(&b, 1).await;
    assert!(bob.read("large").unwrap() == large);
    assert!(alice.read("small").unwrap() == small);
    a.shutdown().await;
    b.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_arrives_without_anybody_asking() {
    let (alice, a, bob) = pair().await;
    let b = bob.swarm_with(&[(&alice, &a)]);
    until_settled(&b, 1).await;
    // The committer thread alone sends it on its way.
    alice.write("note", b"hello");
    let started = std::time::Instant::now();
    until(&b, "the note", |_| bob.read("note").is_ok_and(|bytes| bytes == b"hello")).await;
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    a.shutdown().await;
    b.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_that_dial_each_other_keep_one_connection() {
    let (alice, a, bob) = pair().await;
    a.shutdown().await;
    for round in 0..5 {
        // Both know the other's address from the start and dial at once.
        let (at_a, at_b) = (free_port(), free_port());
        let known = |actor: &Actor, at| KnownPeer { device: actor.id(), addresses: vec![at] };
        let config =
            |own: &Actor, listen, other| Config { listen: Some(listen), known_peers: vec![other], ..own.config() };
        let a = alice.swarm(config(&alice, at_a, known(&bob, at_b)));
        let b = bob.swarm(config(&bob, at_b, known(&alice, at_a)));
        until_settled(&a, 1).await;
        until_settled(&b, 1).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let (of_a, of_b) = (a.peers(), b.peers());
        assert_eq!((of_a.len(), of_b.len()), (1, 1));
        // It is one and the same connection, and alive.
        alice.write("again", &noise(1000 + round));
        alice.volume.commit_now().unwrap();
        until_settled(&a, 1).await;
        a.shutdown().await;
        b.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_comes_back_is_connected_again() {
    let (alice, a, bob) = pair().await;
    let b = bob.swarm_with(&[(&alice, &a)]);
    until_settled(&b, 1).await;
    let at = b.local_addresses();
    b.shutdown().await;
    until(&a, "bob gone", |peers| peers.is_empty()).await;
    assert!(alice.saw(|event| matches!(event, Event::Disconnected { reason, .. } if reason == "said goodbye")));
    alice.write("meanwhile", b"news");
    alice.volume.commit_now().unwrap();
    // Bob knows nobody now; alice remembers where he was.
    let b = bob.swarm(Config { listen: Some(at[0]), ..bob.config() });
    until_settled(&b, 1).await;
    assert_eq!(bob.read("meanwhile").unwrap(), b"news");
    assert_eq!(a.known_peers(), [bob.at(&b)]);
    a.shutdown().await;
    b.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_lost_its_connection_without_a_word_is_taken_back() {
    let (alice, a, bob) = pair().await;
    let b = bob.swarm_with(&[(&alice, &a)]);
    until_settled(&b, 1).await;
    // Within five seconds two connections count as dialled at once.
    tokio::time::sleep(Duration::from_millis(5200)).await;
    // A crash: alice hears nothing, and her old connection would live on for 45 s.
    let second = bob.swarm_with(&[(&alice, &a)]);
    until_settled(&second, 1).await;
    assert_eq!(a.peers().len(), 1);
    a.shutdown().await;
    second.shutdown().await;
    drop(b);
}

#[tokio::test(flavor = "multi_thread")]
async fn members_hear_of_each_other_from_a_third() {
    let (alice, a, bob) = pair().await;
    let (carol, _) = Person::new("carol").join(&alice.ticket(&[], a.local_addresses())).await.unwrap();
    let b = bob.swarm_with(&[(&alice, &a)]);
    until_settled(&b, 1).await;
    // Carol knows only alice, and there is no registry.
    let c = carol.swarm_with(&[(&alice, &a)]);
    until(&c, "bob as well", |peers| peers.len() == 2).await;
    a.shutdown().await;
    // Without alice they go on.
    until(&b, "alice gone", |peers| peers.len() == 1).await;
    bob.write("from bob", b"still here");
    bob.volume.commit_now().unwrap();
    until_settled(&b, 1).await;
    assert_eq!(carol.read("from bob").unwrap(), b"still here");
    b.shutdown().await;
    c.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_come_from_whoever_has_them() {
    let (alice, a, bob) = pair().await;
    let (carol, _) = Person::new("carol").join(&alice.ticket(&[], a.local_addresses())).await.unwrap();
    let large = noise(4 << 20);
    alice.write("large", &large);
    alice.volume.commit_now().unwrap();
    let b = bob.swarm_with(&[(&alice, &a)]);
    until_settled(&b, 1).await;
    a.shutdown().await;
    // Bob passes on what alice wrote.
    let c = carol.swarm_with(&[(&bob, &b)]);
    until(&c, "what alice wrote", |_| carol.read("large").is_ok_and(|bytes| bytes == large)).await;
    b.shutdown().await;
    c.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_know_the_volumes_key_is_turned_away() {
    let alice = Person::new("alice").found();
    let a = alice.swarm(alice.config());
    // Mallory has a volume of her own, and knows alice's device and address.
    let mallory = Person::new("mallory").found();
    let m = mallory.swarm_with(&[(&alice, &a)]);
    eventually("the failure in alice's log", || {
        alice.saw(|event| {
            matches!(event, Event::HandshakeFailed { device: Some(device), reason, .. }
                if *device == mallory.id() && reason == "not a member of the volume")
        })
    })
    .await;
    assert!(a.peers().is_empty() && m.peers().is_empty());
    a.shutdown().await;
    m.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_device_at_a_members_address_is_not_talked_to() {
    let (alice, a, bob) = pair().await;
    let mallory = Person::new("mallory").found();
    let m = mallory.swarm(mallory.config());
    let wrong = KnownPeer { device: alice.id(), addresses: m.local_addresses() };
    let b = bob.swarm(Config { known_peers: vec![wrong], ..bob.config() });
    eventually("mallory's refusal", || !mallory.events.lock().is_empty()).await;
    // TLS ended it: mallory does not even learn whose device called.
    assert!(mallory.saw(|event| matches!(event, Event::HandshakeFailed { device: None, .. })));
    assert!(b.peers().is_empty());
    for swarm in [a, b, m] {
        swarm.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_said_clearly() {
    let alice = Person::new("alice").found();
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let config = Config { listen: Some(address), ..alice.config() };
    let error = Swarm::start(alice.volume.clone(), alice.person.device.clone(), config).err().unwrap();
    assert_eq!(error.to_string(), format!("cannot listen on {address}: the port is in use"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_goodbye_is_heard_in_the_middle_of_a_transfer() {
    let (alice, a, bob) = pair().await;
    alice.write("large", &noise(64 << 20));
    alice.volume.commit_now().unwrap();
    let b = bob.swarm_with(&[(&alice, &a)]);
    until(&b, "the transfer to begin", |peers| peers.len() == 1 && bob.volume.status().wanted_blocks > 0).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    a.shutdown().await;
    until(&b, "alice gone", |peers| peers.is_empty()).await;
    assert!(bob.volume.status().wanted_blocks > 0, "nothing was under way any more");
    assert!(
        bob.saw(|event| matches!(event, Event::Disconnected { reason, .. } if reason == "said goodbye")),
        "{:?}",
        bob.events.lock()
    );
    // The rest comes later.
    let a = alice.swarm_with(&[(&bob, &b)]);
    until_settled(&a, 1).await;
    a.shutdown().await;
    b.shutdown().await;
}
