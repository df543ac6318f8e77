//! How much went over the wire, in both directions.

use std::collections::HashMap;

use quinn::Connection;

/// Bytes of all packets, those on the way again included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// That this device sent to others.
    pub sent: u64,
    /// That it received of them.
    pub received: u64,
}

impl Traffic {
    fn of(connection: &Connection) -> Self {
        let stats = connection.stats();
        Self { sent: stats.udp_tx.bytes, received: stats.udp_rx.bytes }
    }

    fn add(&mut self, other: Self) {
        self.sent = self.sent.saturating_add(other.sent);
        self.received = self.received.saturating_add(other.received);
    }
}

/// Counts it over connections that come and go: never less than before.
#[derive(Debug, Default)]
pub(super) struct Meter {
    /// Of those that are gone.
    before: Traffic,
    connections: HashMap<usize, Connection>,
}

impl Meter {
    pub(super) fn begins(&mut self, connection: &Connection) {
        self.connections.insert(connection.stable_id(), connection.clone());
    }

    pub(super) fn ends(&mut self, connection: &Connection) {
        if self.connections.remove(&connection.stable_id()).is_some() {
            self.before.add(Traffic::of(connection));
        }
    }

    pub(super) fn read(&self) -> Traffic {
        let mut all = self.before;
        self.connections.values().for_each(|connection| all.add(Traffic::of(connection)));
        all
    }
}
