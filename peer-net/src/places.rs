//! Limits how many callers of one network are served at once.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use parking_lot::Mutex;

/// So many places, of which one network gets only a part: nobody alone can keep everybody else out.
#[derive(Debug, Clone)]
pub struct Places {
    taken: Arc<Mutex<HashMap<IpAddr, usize>>>,
    all: usize,
    per_network: usize,
}

/// One place, free again when this is dropped.
#[derive(Debug)]
pub struct Place {
    places: Places,
    network: IpAddr,
}

impl Places {
    /// So many in all, and for each network.
    pub fn new(all: usize, per_network: usize) -> Self {
        Self { taken: Arc::default(), all, per_network }
    }

    /// Takes a place for a caller from `ip`, if there is one.
    pub fn take(&self, ip: IpAddr) -> Option<Place> {
        let network = network_of(ip);
        let mut taken = self.taken.lock();
        // There are at most as many networks as places, so this sum is quick.
        let free = taken.values().sum::<usize>() < self.all;
        let here = taken.get(&network).copied().unwrap_or(0);
        if !free || here >= self.per_network {
            return None;
        }
        taken.insert(network, here + 1);
        Some(Place { places: self.clone(), network })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock();
        if let Some(here) = taken.get_mut(&self.network) {
            *here -= 1;
            if *here == 0 {
                taken.remove(&self.network);
            }
        }
    }
}

/// Returns what to count callers by: an IPv4 address, or the IPv6 network of which one customer has all addresses.
pub fn network_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX))),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_network_cannot_take_all_places() {
        let places = Places::new(3, 2);
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let first = places.take(ip("2001:db8::1")).unwrap();
        let _second = places.take(ip("2001:db8::2")).unwrap();
        assert!(places.take(ip("2001:db8::3")).is_none(), "the same network");
        let _other = places.take(ip("192.0.2.1")).unwrap();
        assert!(places.take(ip("192.0.2.2")).is_none(), "all taken");
        drop(first);
        let _again = places.take(ip("2001:db8::3")).unwrap();
    }
}
