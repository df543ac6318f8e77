//! What the registry shows to operators.

use std::time::SystemTime;

use peer_net::metrics::{Kind, Page};

use crate::server::Counts;

/// The page of these counts, of a registry that was started then.
pub fn page(counts: &Counts, started: SystemTime) -> Page {
    let mut page = Page::default();
    let version = env!("CARGO_PKG_VERSION");
    page.family("p2pfs_registry_build_info", Kind::Gauge, "The version, as a label.").value(&[("version", version)], 1);
    let started = started.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    for (name, kind, help, value) in [
        ("start_time_seconds", Kind::Gauge, "When it was started, in seconds since 1970.", started),
        ("clients", Kind::Gauge, "Clients connected now.", counts.clients as u64),
        ("records", Kind::Gauge, "Records now.", counts.records as u64),
        ("tokens", Kind::Gauge, "Tokens with records now.", counts.tokens as u64),
        ("connections_total", Kind::Counter, "Connections taken in.", counts.connections),
        ("registrations_total", Kind::Counter, "Messages accepted.", counts.registrations),
        ("refusals_total", Kind::Counter, "Connections and messages refused.", counts.refusals),
    ] {
        page.single(&format!("p2pfs_registry_{name}"), kind, help, value);
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_count_is_told() {
        let counts = Counts { clients: 3, records: 5, tokens: 2, connections: 9, registrations: 20, refusals: 1 };
        let text = page(&counts, SystemTime::UNIX_EPOCH).into_text();
        let values: Vec<_> =
            text.lines().filter(|line| !line.starts_with('#')).map(|line| line.rsplit_once(' ').unwrap()).collect();
        assert_eq!(values[0], (r#"p2pfs_registry_build_info{version="0.1.0"}"#, "1"));
        let numbers: Vec<_> = values.iter().skip(1).map(|(_, value)| *value).collect();
        assert_eq!(numbers, ["0", "3", "5", "2", "9", "20", "1"]);
    }
}
