//! Members of one volume, mounted and connected.

use std::{fs, path::Path, sync::Arc};

use crate::{
    patience::eventually,
    peer::{Peer, free_port},
    registry::Registry,
    scratch::Scratch,
    tree,
};

/// The first founded the volume, the others joined with her tickets.
#[derive(Debug)]
pub struct Group {
    /// In the order of their joining.
    pub peers: Vec<Peer>,
    /// Where they find each other.
    pub registry: Registry,
    /// Where they listen when they are together.
    ports: Vec<u16>,
    // Last: everything above is in it.
    scratch: Arc<Scratch>,
}

impl Group {
    /// Alice and bob.
    pub fn two() -> Self {
        Self::of(&["alice", "bob"])
    }

    /// Alice, bob and carol.
    pub fn three() -> Self {
        Self::of(&["alice", "bob", "carol"])
    }

    fn of(names: &[&str]) -> Self {
        let scratch = Arc::new(Scratch::new());
        let registry = Registry::start(&scratch);
        let mut group = Self { scratch, peers: Vec::new(), registry, ports: Vec::new() };
        names.iter().for_each(|name| group.add(name));
        group
    }

    /// Lets one more in, and waits until all know each other.
    pub fn add(&mut self, name: &str) {
        self.add_as(name, "writer");
    }

    /// The same, as what `role` says.
    pub fn add_as(&mut self, name: &str, role: &str) {
        let mut peer = Peer::new(&self.scratch, name);
        match self.peers.first() {
            None => peer.init(&["--registry", self.registry.address()]),
            Some(founder) => peer.join(&founder.run(["invite", "--role", role])),
        }
        peer.mount();
        self.ports.push(peer.port());
        self.peers.push(peer);
        self.all_connected();
    }

    fn all_connected(&self) {
        let others = self.peers.len() as u64 - 1;
        self.peers.iter().for_each(|peer| peer.await_connected(others));
    }

    /// The first member.
    pub fn alice(&self) -> &Peer {
        &self.peers[0]
    }

    /// The second member.
    pub fn bob(&self) -> &Peer {
        &self.peers[1]
    }

    /// The third member.
    pub fn carol(&self) -> &Peer {
        &self.peers[2]
    }

    /// Takes the network away between all of them, with everything in step before. They stay mounted: each is mounted
    /// anew where none of the others will look for it, and the registry is down.
    pub fn part(&mut self) {
        self.in_step();
        self.registry.stop();
        for peer in &mut self.peers {
            peer.unmount();
        }
        for peer in &mut self.peers {
            peer.set_port(free_port());
            peer.mount();
        }
        self.peers.iter().for_each(|peer| assert_eq!(peer.connected(), 0, "{} is apart", peer.name()));
    }

    /// Ends [`part`](Self::part), and waits until all have the same.
    pub fn meet(&mut self) {
        for peer in &self.peers {
            assert_eq!(peer.connected(), 0, "{} is still apart", peer.name());
        }
        for peer in &mut self.peers {
            peer.unmount();
        }
        self.registry.go_on();
        for (peer, port) in self.peers.iter_mut().zip(&self.ports) {
            peer.set_port(*port);
            peer.mount();
        }
        self.all_connected();
        self.in_step();
    }

    /// Waits until all mounts show the same, down to the last byte.
    pub fn in_step(&self) {
        self.peers.iter().for_each(Peer::wait);
        let first = self.alice();
        for other in &self.peers[1..] {
            let what = format!("{} and {} show the same", first.name(), other.name());
            eventually(&what, || tree::differences(first.root(), other.root()));
        }
    }

    /// Waits until `path` reads as `content` on every mount.
    pub fn all_read(&self, path: impl AsRef<Path>, content: &[u8]) {
        let path = path.as_ref();
        for peer in &self.peers {
            eventually(&format!("{} reads {}", peer.name(), path.display()), || match fs::read(peer.at(path)) {
                Ok(bytes) if bytes == content => Ok(()),
                Ok(bytes) => Err(format!("{} other bytes", bytes.len())),
                Err(e) => Err(e.to_string()),
            });
        }
    }
}
