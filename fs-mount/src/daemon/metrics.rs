//! What a daemon shows to operators: the numbers of its volumes, over HTTP on a loopback address.
//!
//! Invariant: no name, path, label or address is in it, only numbers, and volumes by the first digits of their ids. Nothing waits for
//! whoever reads it: what isn't at hand is counted now and then.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use fs_mount::driver;
use parking_lot::Mutex;
use peer_net::{
    metrics::{Kind, Page},
    swarm::Traffic,
};
use serde::Serialize;
use tokio::{net::TcpListener, task::JoinHandle};
use volume::Gauges;

use super::{Shared, blocking};
use crate::failure::{Because, Failure, Outcome};

/// How old what takes longer to count may be.
const COUNTED_EVERY: Duration = Duration::from_secs(10);
/// The same of what is looked for in all files.
const MEASURED_EVERY: Duration = Duration::from_secs(60);

/// Where it is shown, before there is anything to show.
pub(crate) struct Door {
    listener: TcpListener,
    started: SystemTime,
}

/// Showing it.
pub(crate) struct Serving(JoinHandle<()>);

/// Takes the address, if there is one. Called within the runtime.
///
/// # Errors
/// Somebody else has it.
pub(crate) async fn bind(address: Option<SocketAddr>) -> Outcome<Option<Door>> {
    let Some(address) = address else { return Ok(None) };
    let bound = TcpListener::bind(address).await;
    if bound.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::AddrInUse) {
        let why = format!("cannot serve metrics on {address}: the port is in use: choose another with --metrics PORT");
        return Err(Failure::new(why));
    }
    let listener = bound.because(|| format!("serving metrics on {address}"))?;
    log::info!("metrics are at http://{address}/metrics");
    Ok(Some(Door { listener, started: SystemTime::now() }))
}

impl Door {
    /// Answers from now on. Called within the runtime.
    pub(crate) fn serve(self, volumes: Vec<Arc<Shared>>) -> Serving {
        let watched: Arc<[Watched]> = volumes.into_iter().map(Watched::new).collect();
        let started = self.started;
        Serving(tokio::spawn(peer_net::metrics::serve(self.listener, move || {
            let watched = watched.clone();
            blocking(move || page(&watched, started))
        })))
    }
}

impl Serving {
    /// Lets the address go: the next daemon may be waiting for it.
    pub(crate) async fn end(self) {
        self.0.abort();
        // (It was cancelled, or broke down, which was logged.)
        let _ = self.0.await;
    }
}

/// A volume, with what was counted lately.
struct Watched {
    shared: Arc<Shared>,
    id: String,
    heads: Lately<(u64, u64)>,
    used: Lately<Option<u64>>,
}

impl Watched {
    fn new(shared: Arc<Shared>) -> Self {
        let id = shared.dir.short_id()[..8].to_owned();
        Self { shared, id, heads: Lately::new(COUNTED_EVERY), used: Lately::new(MEASURED_EVERY) }
    }

    fn look(&self) -> Seen<'_> {
        let Shared { volume, network, audited, .. } = &*self.shared;
        let (members, devices) = self.heads.get(|| volume.head_count());
        let peers = network.connected();
        let disk = rustix::fs::statvfs(self.shared.dir.path()).ok();
        let bytes = |blocks: u64, unit: u64| blocks.saturating_mul(unit);
        Seen {
            id: &self.id,
            gauges: volume.gauges(),
            members,
            devices,
            connected: peers.len() as u64,
            in_step: peers.iter().filter(|peer| peer.progress.in_step).count() as u64,
            traffic: network.traffic(),
            registries: network.registries_connected(),
            used: self.used.get(|| volume.used_bytes()),
            disk: disk.map(|disk| (bytes(disk.f_blocks, disk.f_frsize), bytes(disk.f_bavail, disk.f_frsize))),
            alerts: volume.open_alerts().unwrap_or_default().into_iter().map(|(kind, n)| (word(&kind), n)).collect(),
            audited: audited.all(),
            audit_dropped: volume.audit().map_or(0, |audit| audit.dropped()),
        }
    }
}

/// Something that isn't counted each time.
struct Lately<T> {
    every: Duration,
    last: Mutex<Option<(Instant, T)>>,
}

impl<T: Clone> Lately<T> {
    fn new(every: Duration) -> Self {
        Self { every, last: Mutex::new(None) }
    }

    fn get(&self, count: impl FnOnce() -> T) -> T {
        let mut last = self.last.lock();
        match &*last {
            Some((since, counted)) if since.elapsed() < self.every => counted.clone(),
            _ => last.insert((Instant::now(), count())).1.clone(),
        }
    }
}

/// The numbers of a volume.
struct Seen<'a> {
    id: &'a str,
    gauges: Gauges,
    members: u64,
    devices: u64,
    connected: u64,
    in_step: u64,
    traffic: Traffic,
    /// How many there are, and are connected.
    registries: (u64, u64),
    used: Option<u64>,
    /// Its size, and what is free of it.
    disk: Option<(u64, u64)>,
    alerts: Vec<(String, u64)>,
    /// What was done, whether it was allowed, and how often.
    audited: Vec<(&'static str, bool, u64)>,
    audit_dropped: u64,
}

/// The word that stands for a value in JSON.
pub(super) fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => "other".to_owned(),
    }
}

fn page(watched: &[Watched], started: SystemTime) -> Page {
    let mut page = Page::default();
    let version = env!("CARGO_PKG_VERSION");
    page.family("p2pfs_build_info", Kind::Gauge, "The version, as a label.").value(&[("version", version)], 1);
    let since = started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    page.single("p2pfs_start_time_seconds", Kind::Gauge, "When the daemon was started, in seconds since 1970.", since);
    if watched.iter().any(|one| one.shared.mountpoint.is_some()) {
        tell_requests(&mut page);
    }
    tell_volumes(&mut page, &watched.iter().map(Watched::look).collect::<Vec<_>>());
    page
}

fn tell_requests(page: &mut Page) {
    let requests = driver::requests();
    let mut family = page.family("p2pfs_fuse_requests_total", Kind::Counter, "Requests of the kernel.");
    requests.iter().for_each(|one| family.value(&[("op", one.kind)], one.count));
    let mut family = page.family("p2pfs_fuse_errors_total", Kind::Counter, "Requests of the kernel that failed.");
    for one in &requests {
        one.failures.iter().for_each(|(errno, count)| family.value(&[("op", one.kind), ("errno", errno)], count));
    }
}

fn tell_volumes(page: &mut Page, all: &[Seen<'_>]) {
    let mut tell = |name: &str, kind: Kind, help: &str, value: &dyn Fn(&Seen<'_>) -> Option<u64>| {
        let mut family = page.family(name, kind, help);
        for one in all {
            if let Some(value) = value(one) {
                family.value(&[("volume", one.id)], value);
            }
        }
    };
    let mut gauge =
        |name: &str, help: &str, value: &dyn Fn(&Seen<'_>) -> Option<u64>| tell(name, Kind::Gauge, help, value);
    gauge("p2pfs_peers_connected", "Devices that are connected.", &|one| Some(one.connected));
    gauge("p2pfs_peers_in_step", "Connected devices that know the same commits.", &|one| Some(one.in_step));
    gauge("p2pfs_members", "Members of the volume.", &|one| Some(one.members));
    gauge("p2pfs_devices", "Devices of the members, this one included.", &|one| Some(one.devices));
    gauge("p2pfs_registries", "Registries in use.", &|one| Some(one.registries.0));
    gauge("p2pfs_registries_connected", "Registries that answer.", &|one| Some(one.registries.1));
    gauge("p2pfs_commits", "Commits known here.", &|one| Some(one.gauges.commits));
    gauge("p2pfs_commits_waiting", "Commits that wait for one they refer to.", &|one| Some(one.gauges.waiting_commits));
    gauge("p2pfs_changes_pending", "Changes not yet in a commit.", &|one| Some(one.gauges.pending_changes));
    gauge("p2pfs_nodes", "Files, folders and the like ever made.", &|one| Some(one.gauges.nodes));
    gauge("p2pfs_blocks_missing", "Blocks that are to be fetched.", &|one| Some(one.gauges.missing_blocks));
    gauge("p2pfs_contents_unlisted", "Contents whose missing blocks are not known yet.", &|one| {
        Some(one.gauges.unlisted_contents)
    });
    gauge("p2pfs_conflicts", "Names beside which something shows.", &|one| Some(one.gauges.conflicts));
    gauge(
        "p2pfs_quarantine_commits",
        "Commits taken back for a removal they were made apart from, or made anew since.",
        &|one| Some(one.gauges.late_commits),
    );
    gauge("p2pfs_quarantine_changes", "Changes taken back for the loss of a right, or made anew since.", &|one| {
        Some(one.gauges.late_changes)
    });
    gauge("p2pfs_files_open", "Open handles of files.", &|one| Some(one.gauges.open_files));
    gauge("p2pfs_drafts_unpublished", "Files with writes that are not published yet.", &|one| {
        Some(one.gauges.unpublished_files)
    });
    gauge("p2pfs_store_used_bytes", "Bytes that the volume takes of the disk, counted every minute.", &|one| one.used);
    gauge("p2pfs_store_quota_bytes", "Bytes that it may take, if that is limited.", &|one| one.gauges.quota);
    gauge("p2pfs_disk_size_bytes", "Size of the disk that it is on.", &|one| Some(one.disk?.0));
    gauge("p2pfs_disk_free_bytes", "Bytes of that disk that are free.", &|one| Some(one.disk?.1));
    let mut counter =
        |name: &str, help: &str, value: &dyn Fn(&Seen<'_>) -> Option<u64>| tell(name, Kind::Counter, help, value);
    counter("p2pfs_network_sent_bytes_total", "Bytes sent to other devices.", &|one| Some(one.traffic.sent));
    counter("p2pfs_network_received_bytes_total", "Bytes received of other devices.", &|one| {
        Some(one.traffic.received)
    });
    counter(
        "p2pfs_audit_dropped_total",
        "Entries of the audit log that were dropped: more came than could be written.",
        &|one| Some(one.audit_dropped),
    );
    let mut family = page.family("p2pfs_audit_entries_total", Kind::Counter, "Entries of the audit log.");
    for one in all {
        for (op, allowed, count) in &one.audited {
            let result = if *allowed { "allowed" } else { "denied" };
            family.value(&[("volume", one.id), ("op", op), ("result", result)], count);
        }
    }
    let mut family = page.family("p2pfs_alerts_open", Kind::Gauge, "Alerts that nobody has looked at.");
    for one in all {
        one.alerts.iter().for_each(|(kind, count)| family.value(&[("volume", one.id), ("kind", kind)], count));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_of_several_volumes_is_told_together() {
        let seen = |id, alerts, used| Seen {
            id,
            gauges: Gauges { commits: 7, ..Gauges::default() },
            members: 2,
            devices: 3,
            connected: 1,
            in_step: 1,
            traffic: Traffic { sent: 5, received: 6 },
            registries: (1, 0),
            used,
            disk: None,
            alerts,
            audited: vec![("read", true, 4), ("read", false, 1)],
            audit_dropped: 0,
        };
        let mut page = Page::default();
        let volumes = [seen("4f2a91c0", vec![("tickets".to_owned(), 2)], Some(9)), seen("51b00000", Vec::new(), None)];
        tell_volumes(&mut page, &volumes);
        let text = page.into_text();
        for lines in [
            "# TYPE p2pfs_commits gauge\np2pfs_commits{volume=\"4f2a91c0\"} 7\np2pfs_commits{volume=\"51b00000\"} 7\n# HELP",
            "# TYPE p2pfs_store_used_bytes gauge\np2pfs_store_used_bytes{volume=\"4f2a91c0\"} 9\n# HELP",
            "# TYPE p2pfs_disk_free_bytes gauge\n# HELP",
            "p2pfs_audit_entries_total{volume=\"51b00000\",op=\"read\",result=\"denied\"} 1\n",
        ] {
            assert!(text.contains(lines), "{lines}\n{text}");
        }
        assert!(text.ends_with("p2pfs_alerts_open{volume=\"4f2a91c0\",kind=\"tickets\"} 2\n"), "{text}");
    }

    #[test]
    fn what_takes_long_is_not_counted_each_time() {
        let lately = Lately::new(Duration::from_secs(3600));
        assert_eq!((lately.get(|| 1), lately.get(|| 2)), (1, 1));
        let always = Lately::new(Duration::ZERO);
        assert_eq!((always.get(|| 1), always.get(|| 2)), (1, 2));
    }
}
