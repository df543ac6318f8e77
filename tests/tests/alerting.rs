//! An alert reaches those whom it concerns: on the desktop, and through a command of the user's. Nothing of it depends on either.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

use p2pfs_tests::{
    group::Group,
    patience::{eventually, holds},
    peer::Peer,
    rogue::Rogue,
    scraper::{free_address, scrape},
};
use serde_json::Value;
use tokio::runtime::Runtime;

/// What shows notifications, on a bus of its own, and prints them.
const DESKTOP: &str = r"
import json, os, sys, threading
import dbus, dbus.service
from dbus.mainloop.glib import DBusGMainLoop
from gi.repository import GLib

DBusGMainLoop(set_as_default=True)
bus = dbus.SessionBus()
NAME = 'org.freedesktop.Notifications'

class Desktop(dbus.service.Object):
    @dbus.service.method(NAME, in_signature='susssasa{sv}i', out_signature='u')
    def Notify(self, app, replaces, icon, summary, body, actions, hints, expires):
        print(json.dumps([app, summary, body, int(hints['urgency'])]), flush=True)
        return 1

    @dbus.service.method(NAME, out_signature='as')
    def GetCapabilities(self):
        return ['body']

    @dbus.service.method(NAME, out_signature='ssss')
    def GetServerInformation(self):
        return 'desktop', 'p2pfs', '1', '1.2'

name = dbus.service.BusName(NAME, bus)
desktop = Desktop(bus, '/org/freedesktop/Notifications')
loop = GLib.MainLoop()
threading.Thread(target=lambda: (sys.stdin.read(), loop.quit())).start()
print(os.environ['DBUS_SESSION_BUS_ADDRESS'], flush=True)
loop.run()
";

/// A session with a desktop, which ends when it is dropped.
struct Desktop {
    child: Child,
    stdin: Option<ChildStdin>,
    address: String,
    shown: Receiver<String>,
}

impl Desktop {
    fn start() -> Self {
        let mut child = Command::new("dbus-run-session")
            .args(["--", "/usr/bin/python3", "-c", DESKTOP])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = lines.next().expect("python3-dbus and python3-gi are there").unwrap();
        let (send, shown) = channel();
        thread::spawn(move || lines.map_while(Result::ok).for_each(|line| drop(send.send(line))));
        let stdin = child.stdin.take();
        Self { child, stdin, address, shown }
    }

    /// The next notification: application, title, text and urgency.
    fn next(&self) -> Value {
        serde_json::from_str(&self.shown.recv_timeout(Duration::from_secs(30)).unwrap()).unwrap()
    }
}

impl Drop for Desktop {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}

struct Scene {
    group: Group,
    runtime: Runtime,
    mallory: Rogue,
}

impl Scene {
    /// Alice has this command and this environment; and there is a member who is up to something.
    fn new(options: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut group = Group::two();
        let alice = &mut group.peers[0];
        alice.unmount();
        alice.set_options(options);
        alice.set_variables(variables);
        alice.mount();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let mallory = runtime.block_on(Rogue::join(&group.alice().invite(), "mallory"));
        Self { group, runtime, mallory }
    }

    /// She sends alice a commit that somebody changed on the way.
    fn forge(&self) {
        self.mallory.commits(1);
        let mut forged = self.mallory.all_commits().pop().unwrap();
        forged.header[20] ^= 1;
        let at: SocketAddr = self.group.alice().listens_at().parse().unwrap();
        self.runtime.block_on(self.mallory.tell(at, vec![forged]));
    }
}

fn script(folder: &Path, text: &str) -> PathBuf {
    let file = folder.join("on alert");
    fs::write(&file, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o700)).unwrap();
    file
}

/// A folder of programs in which this is the only one that shows notifications.
fn path_with(folder: &Path, program: &str) -> String {
    let path = std::env::var_os("PATH").unwrap();
    // Who isn't root mounts with the second one.
    for name in [program, "fusermount3"] {
        let found = std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file());
        assert!(found.is_some() || name != program, "{program} is not there");
        found.into_iter().for_each(|found| symlink(found, folder.join(name)).unwrap());
    }
    folder.to_str().unwrap().to_owned()
}

#[test]
fn the_desktop_shows_it() {
    for program in ["notify-send", "gdbus"] {
        let (folder, desktop) = (tempfile::tempdir().unwrap(), Desktop::start());
        let path = path_with(folder.path(), program);
        let scene = Scene::new(&[], &[("DBUS_SESSION_BUS_ADDRESS", &desktop.address), ("PATH", &path)]);
        scene.forge();
        let shown = desktop.next();
        let text =
            format!("likely, device {}. p2pfs alerts tells who did what, and what answers it.", scene.mallory.short());
        assert_eq!(shown, serde_json::json!(["p2pfs", "p2pfs: malformed", text, 2]), "{program}");
        // So are messages, without what they say.
        scene.group.bob().run(["msg", "send", "alice", "a secret"]);
        let text = "p2pfs msg list shows them, p2pfs chat answers.";
        assert_eq!(desktop.next(), serde_json::json!(["p2pfs", "p2pfs: 1 unread message", text, 1]), "{program}");
    }
}

#[test]
fn the_user_s_command_gets_it_and_may_fail() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let look = "{ cat; env | grep ^P2PFS_ALERT_; ls -l /proc/self/fd; }";
    let text = format!("{look} >'{0}.new'; mv '{0}.new' '{0}'; echo of mallory >&2; exit 7", out.display());
    let file = script(folder.path(), &text);
    let scene = Scene::new(&["--on-alert", file.to_str().unwrap(), "--no-notifications"], &[]);
    let (alice, her) = (scene.group.alice(), scene.mallory.short());
    scene.forge();
    let got = eventually("the command was run", || fs::read_to_string(&out).map_err(|e| e.to_string()));
    let json: Value = serde_json::from_str(got.lines().next().unwrap()).unwrap();
    assert_eq!(
        (&json["kind"], &json["user"], &json["volume"]),
        (&"malformed".into(), &"mallory".into(), &"p2pfs".into())
    );
    assert!(json["who"].as_str().unwrap().starts_with(&her), "{json}");
    for line in [
        "P2PFS_ALERT_KIND=malformed".to_owned(),
        "P2PFS_ALERT_SURE=likely".to_owned(),
        format!("P2PFS_ALERT_WHO={}", json["who"].as_str().unwrap()),
        format!("P2PFS_ALERT_ANSWER=p2pfs revoke {her}"),
        format!("P2PFS_ALERT_MOUNT={}", alice.root().display()),
    ] {
        assert!(got.lines().any(|got| got == line), "{line}\n{got}");
    }
    // Nothing of the daemon's is open in it: no store, no socket, no mount.
    let open: Vec<&str> = got.lines().filter(|line| line.contains(" -> ")).collect();
    let fine = |line: &&&str| {
        line.contains("/dev/null") || line.contains("pipe:") || line.contains("/proc/") || line.contains("out.new")
    };
    assert!(!open.is_empty() && open.iter().all(|line| fine(&line)), "{open:?}");

    // It failed, which is told without names; all else goes on.
    eventually("the failure is told", || {
        let log = alice.log_text();
        holds(log.contains("the command for alerts: it failed (exit status: 7)"), || log.clone())
    });
    assert!(!alice.log_text().contains("mallory"));
    let alerts = alice.run(["alerts"]);
    assert!(alerts.contains(&format!("likely: mallory's device {her} sent what no honest program makes")), "{alerts}");
    assert!(alerts.contains(&format!("what answers it: `p2pfs revoke {her}`")), "{alerts}");
    assert!(alice.run(["status"]).lines().any(|line| line == "alerts      1: `p2pfs alerts` tells of them"));
}

#[test]
fn open_alerts_are_counted_for_operators() {
    let address = free_address();
    let scene = Scene::new(&["--metrics", &address.to_string()], &[]);
    assert_eq!(scrape(address).sum("p2pfs_alerts_open", &[]), 0.0);
    scene.forge();
    let open = |count: f64| {
        eventually("open alerts are counted", || {
            let now = scrape(address).sum("p2pfs_alerts_open", &[]);
            holds(now == count, || now.to_string())
        });
    };
    open(1.0);
    assert_eq!(scrape(address).sum("p2pfs_alerts_open", &[r#"kind="malformed""#]), 1.0);
    assert!(scrape(address).sum("p2pfs_audit_entries_total", &[r#"op="refused",result="denied""#]) >= 1.0);
    scene.group.alice().run(["alerts", "acknowledge"]);
    open(0.0);
}

#[test]
fn a_command_that_is_none_is_refused() {
    let peer = Peer::alone();
    for program in ["no-such-program", "/etc/passwd", "sh -c reboot"] {
        let done = peer.command(["mount", "--on-alert", program]).output().unwrap();
        let said = String::from_utf8(done.stderr).unwrap();
        assert_eq!(done.status.code(), Some(2), "{said}");
        assert!(said.contains("no such program that you may run"), "{said}");
    }
}
