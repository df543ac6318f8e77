//! A registry of the test's own.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use rustix::process::Signal;

use crate::{binaries::program, process, scraper::free_address, scratch::Scratch};

const END_PATIENCE: Duration = Duration::from_secs(10);

/// A running registry, ended when dropped.
#[derive(Debug)]
pub struct Registry {
    scratch: Arc<Scratch>,
    state: PathBuf,
    /// `ADDR:PORT#KEY`.
    address: String,
    metrics: SocketAddr,
    child: Option<Child>,
}

impl Registry {
    /// Starts one on a free port.
    pub fn start(scratch: &Arc<Scratch>) -> Self {
        let state = scratch.make("registry");
        let (address, metrics) = ("127.0.0.1:0#".to_owned(), free_address());
        let mut registry = Self { scratch: scratch.clone(), state, address, metrics, child: None };
        registry.go_on();
        registry
    }

    /// What peers need to know of it.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Where it shows metrics.
    pub fn metrics(&self) -> SocketAddr {
        self.metrics
    }

    /// Where it keeps what it keeps.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Ends it.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            process::send(&child, Signal::TERM);
            if process::ended_within(&mut child, END_PATIENCE).is_none() {
                child.kill().unwrap();
                child.wait().unwrap();
            }
        }
    }

    /// Starts it again where it was.
    pub fn go_on(&mut self) {
        let listen = self.address.split('#').next().unwrap();
        let log = fs::File::options().append(true).create(true).open(self.scratch.path().join("registry.log")).unwrap();
        let mut child = Command::new(program("p2pfs-registry"))
            .args(["--listen", listen, "--metrics", &self.metrics.to_string(), "--state"])
            .arg(&self.state)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        self.scratch.note_daemon(child.id());
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        self.child = Some(child);
        assert!(line.contains('#'), "the registry did not start: {line:?}");
        self.address = line.trim().to_owned();
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stop();
    }
}
