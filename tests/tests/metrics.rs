//! What operators see: numbers of a daemon and of a registry that move as something happens, for scrapers on this machine and for
//! nobody else; and a dashboard that asks for nothing else than there is.

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use p2pfs_tests::{
    group::Group,
    patience::{eventually, holds},
    peer::Peer,
    scraper::{ask, free_address, scrape},
    scratch::Scratch,
};
use serde_json::Value;

/// Somebody alone, mounted with metrics at the address returned.
fn watched() -> (Peer, SocketAddr) {
    let mut peer = Peer::new(&Arc::new(Scratch::new()), "alice");
    let address = free_address();
    peer.init(&[]);
    peer.set_options(&["--metrics", &address.to_string()]);
    peer.mount();
    (peer, address)
}

/// Waits until a metric has a value that is `right`.
fn moves(address: SocketAddr, name: &str, labels: &[&str], right: impl Fn(f64) -> bool) {
    eventually(&format!("{name} {labels:?} moves"), || {
        let value = scrape(address).sum(name, labels);
        holds(right(value), || value.to_string())
    });
}

#[test]
fn numbers_move_with_what_is_done() {
    let mut group = Group::two();
    let address = free_address();
    group.peers[0].unmount();
    group.peers[0].set_options(&["--metrics", &address.to_string()]);
    group.peers[0].mount();
    let (alice, bob) = (group.alice(), group.bob());
    alice.await_connected(1);
    let before = scrape(address);
    assert_eq!(before.sum("p2pfs_build_info", &[r#"version="0.1.0""#]), 1.0);
    assert_eq!((before.sum("p2pfs_members", &[]), before.sum("p2pfs_devices", &[])), (2.0, 2.0));

    fs::write(alice.at("secret plan"), vec![7; 300_000]).unwrap();
    fs::read_dir(alice.root()).unwrap().count();
    assert!(fs::create_dir(alice.at("secret plan")).is_err());
    fs::write(bob.at("of bob"), vec![8; 300_000]).unwrap();
    alice.wait();
    bob.wait();
    moves(address, "p2pfs_commits", &[], |now| now > before.sum("p2pfs_commits", &[]));
    let after = scrape(address);
    for (name, labels) in [
        ("p2pfs_fuse_requests_total", r#"op="create""#),
        ("p2pfs_fuse_requests_total", r#"op="write""#),
        ("p2pfs_fuse_requests_total", r#"op="opendir""#),
        ("p2pfs_nodes", ""),
        ("p2pfs_audit_entries_total", r#"op="create",result="allowed""#),
    ] {
        assert!(after.sum(name, &[labels]) > before.sum(name, &[labels]), "{name} {labels}: {after:?}");
    }
    for name in ["p2pfs_network_sent_bytes_total", "p2pfs_network_received_bytes_total"] {
        assert!(after.sum(name, &[]) > before.sum(name, &[]) + 300_000.0, "{name}: {after:?}");
    }
    for (name, expected) in [("p2pfs_peers_connected", 1.0), ("p2pfs_registries", 1.0), ("p2pfs_blocks_missing", 0.0)] {
        assert_eq!(after.sum(name, &[]), expected, "{name}");
    }
    assert!(after.sum("p2pfs_disk_free_bytes", &[]) > 0.0 && after.sum("p2pfs_store_used_bytes", &[]) > 0.0);

    // What is open, and what failed.
    let open = fs::File::options().append(true).open(alice.at("secret plan")).unwrap();
    moves(address, "p2pfs_files_open", &[], |now| now == after.sum("p2pfs_files_open", &[]) + 1.0);
    (&open).write_all(b"more").unwrap();
    moves(address, "p2pfs_drafts_unpublished", &[], |now| now == 1.0);
    drop(open);
    moves(address, "p2pfs_drafts_unpublished", &[], |now| now == 0.0);
    moves(address, "p2pfs_files_open", &[], |now| now == after.sum("p2pfs_files_open", &[]));
    assert!(rustix::fs::getxattr(alice.at("of bob"), "user.none", &mut [0; 8]).is_err());
    moves(address, "p2pfs_fuse_errors_total", &[r#"op="getxattr""#, r#"errno="ENODATA""#], |now| now >= 1.0);

    // What goes over the wire is never less than before, also when connections end.
    group.peers[1].unmount();
    moves(address, "p2pfs_peers_connected", &[], |now| now == 0.0);
    let then = scrape(address);
    assert!(then.sum("p2pfs_network_sent_bytes_total", &[]) >= after.sum("p2pfs_network_sent_bytes_total", &[]));

    // Nothing of what is in there, or of whose it is.
    let text = ask(address, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
    for name in ["secret", "plan", "alice", "bob", group.registry.address(), group.alice().root().to_str().unwrap()] {
        assert!(!text.contains(name), "{name} is in it: {text}");
    }
}

#[test]
fn nobody_else_gets_in_and_nobody_keeps_it_from_working() {
    let (mut peer, address) = watched();
    let get = |path: &str, host: &str| ask(address, &format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    for host in ["evil.example", &format!("evil.example:{}", address.port()), "127.0.0.1.evil.example", ""] {
        let answer = get("/metrics", host);
        assert!(answer.starts_with("HTTP/1.1 4") && !answer.contains("p2pfs"), "{host}: {answer}");
    }
    for path in ["/", "/metrics/x", "/../etc/passwd"] {
        assert!(get(path, "localhost").starts_with("HTTP/1.1 404 "), "{path}");
    }
    assert!(ask(address, "POST /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").starts_with("HTTP/1.1 405 "));
    assert!(ask(address, "\u{16}\u{3}\u{1}\r\n\r\n").starts_with("HTTP/1.1 400 "));

    // A crowd that says nothing, or never stops.
    let began = Instant::now();
    let silent: Vec<TcpStream> = (0..200).map(|_| TcpStream::connect(address).unwrap()).collect();
    let endless: Vec<_> = (0..4)
        .map(|_| {
            thread::spawn(move || {
                let mut stream = TcpStream::connect(address).unwrap();
                let began = Instant::now();
                while began.elapsed() < Duration::from_secs(3) && stream.write_all(&[b'x'; 4096]).is_ok() {}
            })
        })
        .collect();
    fs::write(peer.at("f"), "works on").unwrap();
    assert_eq!(peer.listing("status")["peers_connected"], 0);
    assert!(began.elapsed() < Duration::from_secs(2), "the mount waits for them: {:?}", began.elapsed());
    assert!(get("/metrics", "localhost").starts_with("HTTP/1.1 200 "));
    assert!(began.elapsed() < Duration::from_secs(4), "scrapers wait for them: {:?}", began.elapsed());
    drop(silent);
    endless.into_iter().for_each(|one| one.join().unwrap());

    // The next one has the same address at once.
    peer.unmount();
    assert!(TcpStream::connect(address).is_err(), "it ended with the daemon");
    peer.mount();
    assert_eq!(scrape(address).sum("p2pfs_peers_connected", &[]), 0.0);
    peer.unmount();
    peer.set_options(&[]);
    peer.mount();
    assert!(TcpStream::connect(address).is_err(), "off unless asked for");
}

#[test]
fn an_address_that_does_not_do_is_refused() {
    let peer = Peer::new(&Arc::new(Scratch::new()), "alice");
    peer.init(&[]);
    for address in ["0.0.0.0:9478", "192.0.2.1:9478", "[::]:9478", "nonsense", "0"] {
        let done = peer.command(["mount", "--metrics", address]).output().unwrap();
        let said = String::from_utf8(done.stderr).unwrap();
        assert_eq!(done.status.code(), Some(2), "{said}");
        assert!(said.contains("a port of this machine is needed, as 9478"), "{said}");
    }
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mountpoint = peer.root().to_str().unwrap();
    let line = peer.refused(["mount", "--metrics", &address, mountpoint]);
    assert!(line.ends_with("the port is in use: choose another with --metrics PORT"), "{line}");
}

/// All names of metrics in what the dashboard asks for.
fn asked_for(dashboard: &Value, names: &mut BTreeSet<String>) {
    match dashboard {
        Value::Object(fields) => {
            for (field, value) in fields {
                match (field.as_str(), value) {
                    ("expr" | "query" | "definition", Value::String(text)) => {
                        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
                        names.extend(words.filter(|word| word.starts_with("p2pfs_")).map(ToOwned::to_owned));
                    }
                    _ => asked_for(value, names),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| asked_for(value, names)),
        _ => {}
    }
}

#[test]
fn the_dashboard_asks_for_what_there_is() {
    let (peer, address) = watched();
    let group_registry = p2pfs_tests::registry::Registry::start(&Arc::new(Scratch::new()));
    let (daemon, registry) = (scrape(address), scrape(group_registry.metrics()));
    let there: BTreeSet<String> = daemon.families.into_keys().chain(registry.families.into_keys()).collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/dashboard.json");
    let dashboard: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let mut asked = BTreeSet::new();
    asked_for(&dashboard, &mut asked);
    assert!(asked.is_subset(&there), "unknown: {:?}", asked.difference(&there));
    let unused: Vec<_> = there.difference(&asked).collect();
    assert!(unused.is_empty(), "nobody sees {unused:?}");
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len(), "every panel has an id of its own");
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{panel}");
        assert!(!panel["targets"].as_array().unwrap().is_empty() && panel["title"].is_string(), "{panel}");
    }
    drop(peer);
}
