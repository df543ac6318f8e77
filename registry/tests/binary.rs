//! The program as a service manager sees it.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use peer_net::registry_address::RegistryAddress;

struct Running {
    child: Child,
    address: String,
}

fn start(state: &Path) -> Running {
    let mut child = Command::new(env!("CARGO_BIN_EXE_p2pfs-registry"))
        .args(["--listen", "127.0.0.1:0", "--state"])
        .arg(state)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut address = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut address).unwrap();
    Running { child, address }
}

fn end(mut running: Running) {
    let told = Command::new("kill").args(["-TERM", &running.child.id().to_string()]).status().unwrap();
    assert!(told.success());
    assert!(running.child.wait().unwrap().success(), "SIGTERM is a clean end");
}

#[test]
fn a_restart_keeps_the_key() {
    let home = tempfile::tempdir().unwrap();
    let state = home.path().join("state");
    let mut keys = Vec::new();
    for _ in 0..2 {
        let running = start(&state);
        let line = running.address.strip_suffix('\n').expect("one whole line");
        keys.push(line.parse::<RegistryAddress>().unwrap().key());
        end(running);
    }
    assert_eq!(keys[0], keys[1]);
}

#[test]
fn a_port_in_use_is_one_clear_line() {
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let home = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_p2pfs-registry"))
        .args(["--listen", &address, "--state"])
        .arg(home.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        format!("p2pfs-registry: cannot listen on {address}: the port is in use\n")
    );
    assert!(output.stdout.is_empty());
}
