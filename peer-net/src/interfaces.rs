//! The addresses under which others may reach this machine.

use std::net::{IpAddr, SocketAddr};

use nix::ifaddrs::getifaddrs;

/// Returns the addresses at which a socket bound to `bound` can be reached, loopback only where nothing else is.
///
/// A socket bound to one address has that one. Link-local addresses are left out: they mean nothing without the
/// interface they belong to.
pub(crate) fn reachable_at(bound: SocketAddr) -> Vec<SocketAddr> {
    let bound = SocketAddr::new(bound.ip().to_canonical(), bound.port());
    if !bound.ip().is_unspecified() {
        return vec![bound];
    }
    let dual = bound.is_ipv6();
    let mut all: Vec<IpAddr> = interface_addresses();
    all.retain(|ip| !is_link_local(ip) && (dual || ip.is_ipv4()));
    if all.iter().any(|ip| !ip.is_loopback()) {
        all.retain(|ip| !ip.is_loopback());
    }
    all.into_iter().map(|ip| SocketAddr::new(ip, bound.port())).collect()
}

/// Whether an address is one of this machine's own.
pub(crate) fn is_here(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    ip.is_loopback() || interface_addresses().contains(&ip)
}

fn interface_addresses() -> Vec<IpAddr> {
    let Ok(interfaces) = getifaddrs() else {
        return Vec::new();
    };
    let mut addresses: Vec<IpAddr> = interfaces
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
        })
        .collect();
    addresses.sort();
    addresses.dedup();
    addresses
}

fn is_link_local(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_address_is_the_only_one() {
        let bound = "127.0.0.1:4000".parse().unwrap();
        assert_eq!(reachable_at(bound), [bound]);
    }

    #[test]
    fn this_machine_is_known_from_others() {
        assert!(is_here("127.0.0.2".parse().unwrap()) && is_here("::ffff:127.0.0.1".parse().unwrap()));
        assert!(interface_addresses().into_iter().all(is_here));
        assert!(!is_here("192.0.2.1".parse().unwrap()));
    }

    #[test]
    fn a_wildcard_gives_real_addresses_of_its_family() {
        let all = reachable_at("0.0.0.0:4000".parse().unwrap());
        assert!(!all.is_empty(), "there is at least loopback");
        assert!(all.iter().all(|a| a.is_ipv4() && a.port() == 4000 && !a.ip().is_unspecified()));
    }
}
