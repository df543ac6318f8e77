//! Brings new alerts to those whom they concern: into the system's journal, onto the desktop, and to a command of the user's.
//!
//! Invariants: whoever raises an alert never waits, and nothing that fails here is a failure of anything else. Where other
//! accounts of the machine may read, in the journal and in the arguments of programs, there are kinds of alerts and first digits
//! of devices, no names and no paths. No shell sees what others have written.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::{fs::FileTypeExt, net::UnixDatagram},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use serde::Serialize;
use tokio::{
    io::AsyncWriteExt,
    process::Command,
    sync::mpsc::{Receiver, Sender, channel, error::TrySendError},
    time::timeout,
};
use volume::{Alert, audit::Sure};

use super::metrics::word;
use crate::output::{count, printable};

/// Where systemd's journal takes records.
const JOURNAL: &str = "/run/systemd/journal/socket";
/// How long the user's command may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(30);
/// How long showing a notification may take: a desktop that hangs answers never.
const DESKTOP_LIMIT: Duration = Duration::from_secs(10);
/// Alerts that wait for the ones before them, each way.
const WAITING: usize = 64;

/// How a user wants to be told, beside the journal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// On the desktop, where there is one.
    pub(crate) desktop: bool,
    /// Through this program, an absolute path.
    pub(crate) command: Option<PathBuf>,
}

/// Whose alerts they are.
#[derive(Debug, Clone)]
pub(crate) struct Whence {
    /// The volume's label.
    pub(crate) label: String,
    /// The first digits of its id.
    pub(crate) id: String,
    /// Nothing for a keeper.
    pub(crate) mountpoint: Option<PathBuf>,
}

/// The ways on which this process tells of alerts.
#[derive(Debug)]
pub(crate) struct Alerting {
    journal: PathBuf,
    desktop: Option<(Notifier, Way)>,
    command: Option<(PathBuf, Way)>,
}

impl Alerting {
    /// Opens them. Called within the runtime.
    pub(crate) fn start(wanted: &Wanted) -> Self {
        let notifier =
            if wanted.desktop && has_session_bus() { Notifier::find(env::var_os("PATH").as_deref()) } else { None };
        Self {
            journal: PathBuf::from(JOURNAL),
            desktop: notifier.map(|notifier| (notifier, Way::open("the desktop", DESKTOP_LIMIT))),
            command: wanted
                .command
                .clone()
                .map(|program| (program, Way::open("the command for alerts", COMMAND_LIMIT))),
        }
    }

    /// Tells of a new alert. Never waits.
    pub(crate) fn tell(&self, whence: &Whence, alert: &Alert) {
        let plain = Plain::of(alert);
        if let Err(e) = send_datagram(&self.journal, plain.record(&whence.id).as_bytes()) {
            // Most machines without systemd have none.
            log::debug!("the journal takes no alerts: {e}");
        }
        if let Some((notifier, way)) = &self.desktop {
            way.send(notifier.alert(&plain));
        }
        if let Some((program, way)) = &self.command {
            way.send(call(program, whence, alert, &plain));
        }
    }

    /// Shows that somebody offers files. Never waits.
    pub(crate) fn tell_offer(&self) {
        if let Some((notifier, way)) = &self.desktop {
            way.send(notifier.errand("p2pfs: files are offered", "p2pfs inbox tells by whom, and what.", false));
        }
    }

    /// Whether there is a desktop that shows something.
    pub(crate) fn has_desktop(&self) -> bool {
        self.desktop.is_some()
    }

    /// Shows that nobody has read so many messages. Never waits.
    pub(crate) fn tell_messages(&self, unread: u64) {
        if let Some((notifier, way)) = &self.desktop {
            let summary = format!("p2pfs: {}", count(unread, "unread message"));
            way.send(notifier.errand(&summary, "p2pfs msg list shows them, p2pfs chat answers.", false));
        }
    }
}

/// What everybody may read of an alert.
struct Plain {
    /// The word for its kind.
    kind: String,
    sure: Sure,
    /// The first digits of the device whose doing it is, if it is one's.
    device: Option<String>,
}

impl Plain {
    fn of(alert: &Alert) -> Self {
        let is_device =
            alert.who.len() == 2 * crypto::DeviceId::LEN && alert.who.bytes().all(|b| b.is_ascii_hexdigit());
        Self { kind: word(&alert.kind), sure: alert.sure, device: is_device.then(|| alert.who[..8].to_owned()) }
    }

    fn kind_in_words(&self) -> String {
        self.kind.replace('_', " ")
    }

    /// How sure it is, and whose device it was.
    fn details(&self) -> String {
        let device = self.device.as_ref().map(|device| format!(", device {device}")).unwrap_or_default();
        format!("{}{device}", word(&self.sure))
    }

    /// A record of the journal, in its native protocol: fields, one a line.
    fn record(&self, volume: &str) -> String {
        // As syslog counts: critical, warning, notice.
        let priority = match self.sure {
            Sure::Certain => 2,
            Sure::Likely => 4,
            Sure::Possible => 5,
        };
        let (kind, words, details) = (&self.kind, self.kind_in_words(), self.details());
        let device = self.device.as_ref().map(|device| format!("P2PFS_DEVICE={device}\n")).unwrap_or_default();
        format!(
            "MESSAGE=alert: {words} ({details}): `p2pfs alerts` tells more\nPRIORITY={priority}\nSYSLOG_IDENTIFIER=p2pfs\n\
             P2PFS_ALERT={kind}\nP2PFS_VOLUME={volume}\n{device}"
        )
    }
}

fn send_datagram(socket: &Path, record: &[u8]) -> io::Result<()> {
    let from = UnixDatagram::unbound()?;
    from.set_nonblocking(true)?;
    from.send_to(record, socket).map(drop)
}

/// Whether this user has a session bus. Programs would start one where there is none.
fn has_session_bus() -> bool {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty());
    let socket = || fs::metadata(Path::new(&set("XDG_RUNTIME_DIR")?).join("bus")).ok();
    set("DBUS_SESSION_BUS_ADDRESS").is_some() || socket().is_some_and(|found| found.file_type().is_socket())
}

/// A program that shows notifications of org.freedesktop.Notifications.
#[derive(Debug, Clone)]
enum Notifier {
    NotifySend(PathBuf),
    Gdbus(PathBuf),
}

impl Notifier {
    /// The one that there is.
    fn find(path: Option<&OsStr>) -> Option<Self> {
        let send = find_program("notify-send", path).map(Self::NotifySend);
        send.or_else(|| find_program("gdbus", path).map(Self::Gdbus))
    }

    fn alert(&self, plain: &Plain) -> Errand {
        let summary = format!("p2pfs: {}", plain.kind_in_words());
        let body = format!("{}. p2pfs alerts tells who did what, and what answers it.", plain.details());
        self.errand(&summary, &body, plain.sure != Sure::Possible)
    }

    fn errand(&self, summary: &str, body: &str, urgent: bool) -> Errand {
        let (program, arguments): (_, Vec<String>) = match self {
            Self::NotifySend(program) => {
                let urgency = if urgent { "--urgency=critical" } else { "--urgency=normal" };
                (program, ["--app-name=p2pfs", urgency, "--", summary, body].map(str::to_owned).to_vec())
            }
            // Text in quotes: else it would be looked at for what else it may be.
            Self::Gdbus(program) => {
                let [summary, body] = [summary, body].map(|text| format!("'{text}'"));
                let hints = format!("{{'urgency': <byte {}>}}", if urgent { 2 } else { 1 });
                let method = "--method=org.freedesktop.Notifications.Notify";
                let to = ["call", "--session", "--dest=org.freedesktop.Notifications"];
                let at = ["--object-path=/org/freedesktop/Notifications", method, "--"];
                let what = ["'p2pfs'", "0", "''", &summary, &body, "[]", &hints, "-1"];
                (program, to.iter().chain(&at).chain(&what).map(|text| (*text).to_owned()).collect())
            }
        };
        Errand { program: program.clone(), arguments, environment: Vec::new(), input: Vec::new() }
    }
}

/// Where `name` is among the folders of `path`.
pub(crate) fn find_program(name: &str, path: Option<&OsStr>) -> Option<PathBuf> {
    let folders = env::split_paths(path?).filter(|folder| folder.is_absolute());
    folders.map(|folder| folder.join(name)).find(|file| is_program(file))
}

/// Whether this user may run the file.
pub(crate) fn is_program(file: &Path) -> bool {
    file.is_file() && rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok()
}

/// An alert, as the user's command reads it.
#[derive(Serialize)]
struct Told<'a> {
    #[serde(flatten)]
    alert: &'a Alert,
    volume: &'a str,
    volume_id: &'a str,
    mount: Option<String>,
}

/// The user's command, for one alert. What others have written is in variables and in the input, never among arguments.
fn call(program: &Path, whence: &Whence, alert: &Alert, plain: &Plain) -> Errand {
    let mount = whence.mountpoint.as_deref();
    let told = Told {
        alert,
        volume: &whence.label,
        volume_id: &whence.id,
        mount: mount.map(|path| path.to_string_lossy().into_owned()),
    };
    let text = |text: &str| OsString::from(printable(text));
    let environment = [
        ("P2PFS_ALERT_NUMBER", OsString::from(alert.n.to_string())),
        ("P2PFS_ALERT_KIND", text(&plain.kind)),
        ("P2PFS_ALERT_SURE", text(&word(&plain.sure))),
        ("P2PFS_ALERT_WHO", text(&alert.who)),
        ("P2PFS_ALERT_TEXT", text(&alert.text)),
        ("P2PFS_ALERT_ANSWER", text(&alert.answer)),
        ("P2PFS_ALERT_VOLUME", text(&whence.label)),
        ("P2PFS_ALERT_MOUNT", mount.map(|path| path.as_os_str().to_owned()).unwrap_or_default()),
    ];
    let mut input = serde_json::to_vec(&told).expect("an alert can be encoded");
    input.push(b'\n');
    Errand { program: program.to_owned(), arguments: Vec::new(), environment: environment.to_vec(), input }
}

/// A program to be run once.
#[derive(Debug)]
struct Errand {
    program: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(&'static str, OsString)>,
    input: Vec<u8>,
}

/// Errands that are run one after the other.
#[derive(Debug)]
struct Way {
    what: &'static str,
    queue: Sender<Errand>,
}

impl Way {
    /// Runs what is sent from now on, each for as long as `limit` at most. Called within the runtime.
    fn open(what: &'static str, limit: Duration) -> Self {
        let (queue, errands) = channel(WAITING);
        tokio::spawn(run_all(what, errands, limit));
        Self { what, queue }
    }

    fn send(&self, errand: Errand) {
        if let Err(TrySendError::Full(_) | TrySendError::Closed(_)) = self.queue.try_send(errand) {
            log::warn!("{}: more alerts come than it takes: `p2pfs alerts` has all of them", self.what);
        }
    }
}

async fn run_all(what: &'static str, mut errands: Receiver<Errand>, limit: Duration) {
    while let Some(errand) = errands.recv().await {
        if let Err(why) = errand.run(limit).await {
            log::warn!("{what}: {why}");
        }
    }
}

impl Errand {
    async fn run(self, limit: Duration) -> Result<(), String> {
        let stdio = if self.input.is_empty() { Stdio::null() } else { Stdio::piped() };
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).envs(self.environment.iter().map(|(name, value)| (name, value)));
        // What it prints may have names in it, which are nothing for the daemon's log.
        command.current_dir("/").stdin(stdio).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let mut child = command.spawn().map_err(|e| format!("it can't be started: {}", e.kind()))?;
        let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let input = child.stdin.take();
        let ended = timeout(limit, async {
            if let Some(mut input_of) = input {
                // It need not read it.
                let _ = input_of.write_all(&self.input).await;
            }
            child.wait().await
        })
        .await;
        match ended {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(format!("it failed ({status})")),
            Ok(Err(e)) => Err(format!("how it ended can't be told: {}", e.kind())),
            Err(_) => {
                // With all that it started. (Its number is nobody else's, as it was not waited for.)
                if let Some(group) = group {
                    let _ = kill_process_group(group, Signal::KILL);
                }
                let _ = child.wait().await;
                Err(format!("it took longer than {} seconds, and was ended", limit.as_secs()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt, time::Instant};

    use volume::{Timestamp, audit::Kind};

    use super::*;

    fn alert(kind: Kind, who: &str) -> Alert {
        let at = Timestamp { secs: 1_795_338_900, nanos: 0 };
        Alert {
            n: 3,
            kind,
            sure: Sure::Certain,
            who: who.to_owned(),
            user: Some("mallory".to_owned()),
            text: "mallory's device signed \u{1b}[2J`rm -rf ~`; $(reboot)\0\n".to_owned(),
            answer: "p2pfs revoke 4f2a91c0".to_owned(),
            first: at,
            last: at,
            count: 1,
            acknowledged: false,
        }
    }

    fn whence() -> Whence {
        Whence { label: "docs".to_owned(), id: "51b00000".to_owned(), mountpoint: Some("/mnt/x y".into()) }
    }

    fn script(folder: &Path, text: &str) -> PathBuf {
        let file = folder.join("script");
        fs::write(&file, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o700)).unwrap();
        file
    }

    fn called(program: &Path, alert: &Alert) -> Errand {
        call(program, &whence(), alert, &Plain::of(alert))
    }

    #[test]
    fn the_journal_gets_fields_and_no_names() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let journal = UnixDatagram::bind(&path).unwrap();
        let alerting = Alerting { journal: path, desktop: None, command: None };
        alerting.tell(&whence(), &alert(Kind::BeyondRights, &"4f2a91c0".repeat(8)));
        alerting.tell(&whence(), &alert(Kind::Enumeration, "find"));
        let mut bytes = [0; 4096];
        let mut record = || {
            let length = journal.recv(&mut bytes).unwrap();
            String::from_utf8(bytes[..length].to_vec()).unwrap()
        };
        assert_eq!(
            record(),
            "MESSAGE=alert: beyond rights (certain, device 4f2a91c0): `p2pfs alerts` tells more\nPRIORITY=2\n\
             SYSLOG_IDENTIFIER=p2pfs\nP2PFS_ALERT=beyond_rights\nP2PFS_VOLUME=51b00000\nP2PFS_DEVICE=4f2a91c0\n"
        );
        let second = record();
        assert!(second.contains("P2PFS_ALERT=enumeration\n") && !second.contains("find"), "{second}");
        // Nobody there is no failure.
        drop(journal);
        alerting.tell(&whence(), &alert(Kind::Tickets, "10.0.0.1"));
    }

    #[test]
    fn a_notification_names_nobody() {
        let plain = Plain::of(&alert(Kind::BeyondRights, &"4f2a91c0".repeat(8)));
        let send = Notifier::NotifySend("/usr/bin/notify-send".into()).alert(&plain);
        let body = "certain, device 4f2a91c0. p2pfs alerts tells who did what, and what answers it.";
        assert_eq!(send.arguments, ["--app-name=p2pfs", "--urgency=critical", "--", "p2pfs: beyond rights", body]);
        let gdbus = Notifier::Gdbus("/usr/bin/gdbus".into()).alert(&plain);
        assert!(gdbus.arguments.contains(&"'p2pfs: beyond rights'".to_owned()), "{gdbus:?}");
        assert!(gdbus.arguments.ends_with(&["{'urgency': <byte 2>}".to_owned(), "-1".to_owned()]), "{gdbus:?}");
    }

    #[test]
    fn programs_are_found_where_the_user_has_them() {
        let folder = tempfile::tempdir().unwrap();
        script(folder.path(), "");
        fs::write(folder.path().join("text"), "").unwrap();
        let path = env::join_paths([Path::new("relative"), Path::new("/nowhere"), folder.path()]).unwrap();
        assert_eq!(find_program("script", Some(&path)), Some(folder.path().join("script")));
        assert_eq!(find_program("text", Some(&path)), None, "nobody may run it");
        assert_eq!(find_program("script", None), None);
    }

    #[tokio::test]
    async fn a_command_gets_all_of_it_and_no_shell_does() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let file =
            script(folder.path(), &format!("{{ cat; env | grep ^P2PFS_ALERT; echo $#; pwd; }} >'{}'", out.display()));
        called(&file, &alert(Kind::Tickets, "10.0.0.1")).run(COMMAND_LIMIT).await.unwrap();
        let got = fs::read_to_string(out).unwrap();
        let json: serde_json::Value = serde_json::from_str(got.lines().next().unwrap()).unwrap();
        assert_eq!((&json["kind"], &json["sure"], &json["n"]), (&"tickets".into(), &"certain".into(), &3.into()));
        assert_eq!(
            (&json["who"], &json["volume"], &json["mount"]),
            (&"10.0.0.1".into(), &"docs".into(), &"/mnt/x y".into())
        );
        assert_eq!(json["text"], "mallory's device signed \u{1b}[2J`rm -rf ~`; $(reboot)\0\n");
        for line in [
            "P2PFS_ALERT_NUMBER=3",
            "P2PFS_ALERT_KIND=tickets",
            "P2PFS_ALERT_SURE=certain",
            "P2PFS_ALERT_WHO=10.0.0.1",
            r"P2PFS_ALERT_TEXT=mallory's device signed \u{1b}[2J`rm -rf ~`; $(reboot)\u{0}\n",
            "P2PFS_ALERT_ANSWER=p2pfs revoke 4f2a91c0",
            "P2PFS_ALERT_VOLUME=docs",
            "P2PFS_ALERT_MOUNT=/mnt/x y",
            "0",
            "/",
        ] {
            assert!(got.lines().any(|got| got == line), "{line}\n{got}");
        }
    }

    #[tokio::test]
    async fn a_command_that_goes_on_is_ended_with_all_that_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let pid = folder.path().join("pid");
        let file =
            script(folder.path(), &format!("sleep 1000 & echo $! >'{0}.new'; mv '{0}.new' '{0}'; wait", pid.display()));
        let began = Instant::now();
        let why = called(&file, &alert(Kind::Tickets, "x")).run(Duration::from_secs(2)).await.unwrap_err();
        assert_eq!(why, "it took longer than 2 seconds, and was ended");
        assert!(began.elapsed() < Duration::from_secs(20));
        let started = fs::read_to_string(pid).unwrap();
        // It may not have come to the end, and whoever takes in orphans may not have looked yet.
        let stat = || fs::read_to_string(format!("/proc/{}/stat", started.trim())).unwrap_or_default();
        while !(stat().is_empty() || stat().contains(") Z ")) {
            assert!(began.elapsed() < Duration::from_secs(20), "it goes on: {}", stat());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn what_fails_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let of = |errand: Errand| errand.run(COMMAND_LIMIT);
        let failing = script(folder.path(), "exec <&-; exit 3");
        let why = of(called(&failing, &alert(Kind::Tickets, "x"))).await.unwrap_err();
        assert_eq!(why, "it failed (exit status: 3)");
        let why = of(called(&folder.path().join("gone"), &alert(Kind::Tickets, "x"))).await.unwrap_err();
        assert_eq!(why, "it can't be started: entity not found");
    }

    #[tokio::test]
    async fn one_at_a_time_and_so_many_wait() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let text =
            format!("mkdir '{0}.at' && echo $P2PFS_ALERT_NUMBER >>'{0}'; sleep 0.05; rmdir '{0}.at'", out.display());
        let file = script(folder.path(), &text);
        let alerting = Alerting {
            journal: folder.path().join("none"),
            desktop: None,
            command: Some((file, Way::open("the command", COMMAND_LIMIT))),
        };
        let began = Instant::now();
        for n in 0..1000 {
            alerting.tell(&whence(), &Alert { n, ..alert(Kind::Tickets, "x") });
        }
        assert!(began.elapsed() < Duration::from_secs(1), "whoever raises one waits");
        let all = || fs::read_to_string(&out).unwrap_or_default().lines().map(str::to_owned).collect::<Vec<_>>();
        while all().len() < WAITING {
            assert!(began.elapsed() < Duration::from_secs(60));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        let expected: Vec<String> = (0..WAITING).map(|n| n.to_string()).collect();
        assert_eq!(all(), expected);
    }
}
