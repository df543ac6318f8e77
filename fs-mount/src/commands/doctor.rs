//! `p2pfs doctor`: what keeps this machine from working well, and what to do about it.
//!
//! Changes nothing, needs no volume and no passphrase, and asks nobody outside of this machine but running daemons.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant, SystemTime},
};

use rustix::process::{Resource, getrlimit};
use serde::Serialize;

use crate::{
    cli::Doctor,
    control::{
        client,
        protocol::{Reply, Request},
    },
    failure::{Failure, Outcome, plain},
    home::{Home, VolumeDir},
    mountpoint::{self, Illness},
    output::{self, bytes, count},
    report::Status,
    select::inspect,
};

/// Less room on the disk, in bytes and in parts of a hundred, is little.
const LITTLE_ROOM: u64 = 1 << 30;
const LITTLE_SHARE: u64 = 5;
/// No room at all.
const NO_ROOM: u64 = 64 << 20;
/// Files are dated ahead of the clock by no more than this, unless it was set back.
const CLOCK_ERROR: Duration = Duration::from_secs(300);
/// A daemon holds a file for each that programs have open.
const FEW_FILES: u64 = 1024;
/// Whoever doesn't answer within this hangs: a mount, and the daemon itself, which has more to do.
const MOUNT_TIME: Duration = Duration::from_secs(2);
const DAEMON_TIME: Duration = Duration::from_secs(5);
/// For asking the system how its clock is kept.
const CLOCK_TIME: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(10);
/// The program is no older than this, in seconds since 1970: 2026.
const NOT_BEFORE: u64 = 1_767_225_600;

/// What to do about a daemon that doesn't answer as it should.
const DAEMON_FIX: &str = "look into its log; once its process has ended, mount again";

/// How it stands with something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Good,
    /// It works, but not as well as it could, or not for long.
    Doubtful,
    /// Something can't work.
    Bad,
}

#[derive(Debug, Serialize)]
struct Check {
    what: String,
    state: State,
    /// What was found.
    found: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}

/// What was found, in order.
#[derive(Default)]
struct Checks(Vec<Check>);

impl Checks {
    fn good(&mut self, what: &str, found: impl Into<String>) {
        self.0.push(Check { what: what.to_owned(), state: State::Good, found: found.into(), fix: None });
    }

    fn not(&mut self, state: State, what: &str, found: impl Into<String>, fix: impl Into<String>) {
        self.0.push(Check { what: what.to_owned(), state, found: found.into(), fix: Some(fix.into()) });
    }
}

pub(crate) fn run(home: &Home, args: &Doctor) -> Outcome<()> {
    let mut checks = Checks::default();
    fuse(&mut checks, Path::new("/dev/fuse"));
    helper(&mut checks);
    clock(&mut checks, SystemTime::now(), is_in_step(), home.data());
    open_files(&mut checks);
    room(&mut checks, home.data());
    mounts(&mut checks);
    volumes(&mut checks, home)?;
    let worst = checks.0.iter().map(|check| check.state).max().unwrap_or(State::Good);
    if args.json {
        output::json(&checks.0)?;
    } else {
        output::lines(&screen(&checks.0))?;
    }
    match worst {
        State::Bad => Err(Failure::new("something can't work as it is: see above")),
        _ => Ok(()),
    }
}

fn screen(checks: &[Check]) -> Vec<String> {
    let mut lines = Vec::new();
    for check in checks {
        let mark = match check.state {
            State::Good => "ok  ",
            State::Doubtful => "look",
            State::Bad => "BAD ",
        };
        lines.push(format!("{mark}  {:<12}  {}", check.what, check.found));
        lines.extend(check.fix.as_ref().map(|fix| format!("                    {fix}")));
    }
    let wrong = checks.iter().filter(|check| check.state != State::Good).count() as u64;
    lines.push(match wrong {
        0 => "nothing is wrong".to_owned(),
        _ => format!("{} to look at", count(wrong, "thing")),
    });
    lines
}

fn fuse(checks: &mut Checks, device: &Path) {
    match fs::metadata(device) {
        Err(_) => checks.not(
            State::Bad,
            "fuse",
            format!("{} is not there", device.display()),
            "load the module (`sudo modprobe fuse`), or give the container the device: nothing can be mounted without it",
        ),
        Ok(about) if !about.file_type().is_char_device() => {
            checks.not(State::Bad, "fuse", format!("{} is no device", device.display()), "restart the machine, or ask who runs it");
        }
        Ok(_) => match fs::OpenOptions::new().read(true).write(true).open(device) {
            Ok(_) => checks.good("fuse", "can be used"),
            Err(e) => checks.not(
                State::Bad,
                "fuse",
                format!("{} can't be opened: {}", device.display(), plain(&e)),
                "let this account use it: `sudo chmod 666 /dev/fuse`, or its group",
            ),
        },
    }
}

/// What lets accounts other than root mount.
fn helper(checks: &mut Checks) {
    let there = Command::new("fusermount3").arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
    match there {
        Ok(status) if status.success() => checks.good("fusermount3", "is installed"),
        Ok(status) => {
            checks.not(State::Doubtful, "fusermount3", format!("ended with {status}"), "install the package fuse3 anew")
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let root = rustix::process::geteuid().is_root();
            let state = if root { State::Doubtful } else { State::Bad };
            checks.not(
                state,
                "fusermount3",
                "is not installed: only root can mount",
                "install it: `sudo apt install fuse3`",
            );
        }
        Err(e) => checks.not(
            State::Doubtful,
            "fusermount3",
            format!("can't be run: {}", plain(&e)),
            "install the package fuse3 anew",
        ),
    }
}

fn clock(checks: &mut Checks, now: SystemTime, in_step: Option<bool>, data: &Path) {
    let fix = "set it: `timedatectl set-ntp true`, or `sudo date -s TIME`; what you change is dated by it";
    if now < SystemTime::UNIX_EPOCH + Duration::from_secs(NOT_BEFORE) {
        return checks.not(State::Bad, "clock", "is years behind: this program is younger than what it says", fix);
    }
    if in_step == Some(true) {
        return checks.good("clock", "is in step (NTP)");
    }
    // What this program wrote before can't be from the future.
    let newest = newest(&data.join("volumes"), 3);
    match newest.and_then(|newest| newest.duration_since(now).ok()).filter(|ahead| *ahead > CLOCK_ERROR) {
        Some(ahead) => checks.not(
            State::Doubtful,
            "clock",
            format!(
                "is {} minutes behind what was written here before: either it is behind now, or it was ahead then",
                ahead.as_secs() / 60
            ),
            fix,
        ),
        None if in_step == Some(false) => {
            let fix = "have it set by others: `timedatectl set-ntp true`; what you change is dated by it";
            checks.not(State::Doubtful, "clock", "is not kept in step (NTP), and goes wrong in time", fix);
        }
        None => checks.good("clock", "says nothing impossible"),
    }
}

/// Whether others keep the clock in step, where somebody here can tell.
fn is_in_step() -> Option<bool> {
    // Without systemd, as in most containers, nobody can.
    if !Path::new("/run/systemd/system").is_dir() {
        return None;
    }
    let mut asked = Command::new("timedatectl");
    asked.args(["show", "-p", "NTPSynchronized", "--value"]);
    let mut child = asked.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()?;
    let deadline = Instant::now() + CLOCK_TIME;
    while child.try_wait().ok()?.is_none() {
        if Instant::now() > deadline {
            // What comes of it is of no use any more.
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        thread::sleep(LOOK);
    }
    match String::from_utf8_lossy(&child.wait_with_output().ok()?.stdout).trim() {
        "yes" => Some(true),
        "no" => Some(false),
        _ => None,
    }
}

/// When the last file below a folder was written.
fn newest(folder: &Path, depth: u32) -> Option<SystemTime> {
    let entries = fs::read_dir(folder).ok()?.filter_map(Result::ok).take(1000);
    let times = entries.filter_map(|entry| {
        let about = entry.metadata().ok()?;
        match about.is_dir() {
            true if depth > 0 => newest(&entry.path(), depth - 1),
            true => None,
            false => about.modified().ok(),
        }
    });
    times.max()
}

fn open_files(checks: &mut Checks) {
    let limit = getrlimit(Resource::Nofile);
    match limit.maximum {
        Some(most) if most < FEW_FILES => checks.not(
            State::Doubtful,
            "open files",
            format!("at most {most}"),
            "raise it: LimitNOFILE= of the service, or \"nofile\" in /etc/security/limits.conf and a new login",
        ),
        Some(most) => checks.good("open files", format!("at most {most}")),
        None => checks.good("open files", "as many as are wanted"),
    }
}

fn room(checks: &mut Checks, data: &Path) {
    let shown = data.display();
    let Some(there) = data.ancestors().find(|folder| folder.exists()) else { return };
    if let Ok(about) = fs::metadata(data)
        && about.uid() != rustix::process::geteuid().as_raw()
    {
        let fix = "run p2pfs as that account, or set P2PFS_HOME to a folder of yours";
        checks.not(State::Bad, "data folder", format!("{shown} belongs to another account"), fix);
    }
    let disk = match rustix::fs::statvfs(there) {
        Ok(disk) => disk,
        Err(e) => {
            let fix = "mount that disk, or set P2PFS_HOME to another folder";
            return checks.not(State::Bad, "disk", format!("{shown}: {}", plain(&e.into())), fix);
        }
    };
    let (free, all) = (disk.f_bavail.saturating_mul(disk.f_frsize), disk.f_blocks.saturating_mul(disk.f_frsize));
    let found = format!("{} of {} free, below {shown}", bytes(free), bytes(all));
    let fix = "make room; `p2pfs reclaim` gives back what history no longer needs, `p2pfs config` keeps less of it";
    if disk.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY) {
        checks.not(
            State::Bad,
            "disk",
            format!("{shown} lies on a disk that can't be written to"),
            "look why (`dmesg`): disks that fail are often made so",
        );
    } else if free < NO_ROOM {
        checks.not(State::Bad, "disk", found, fix);
    } else if free < LITTLE_ROOM || free < all / 100 * LITTLE_SHARE {
        checks.not(State::Doubtful, "disk", found, fix);
    } else {
        checks.good("disk", found);
    }
    if disk.f_files > 0 && disk.f_favail < 1000 {
        checks.not(
            State::Doubtful,
            "disk",
            format!("room for {} more files only", disk.f_favail),
            "remove small files from that disk",
        );
    }
}

fn mounts(checks: &mut Checks) {
    let ill = match mountpoint::ill(MOUNT_TIME) {
        Ok(ill) => ill,
        Err(e) => return checks.not(State::Doubtful, "mounts", e.to_string(), "mount /proc"),
    };
    if ill.is_empty() {
        checks.good("mounts", "none is without its daemon");
    }
    for (path, illness) in ill {
        let shown = path.display();
        match illness {
            Illness::Dead => checks.not(
                State::Doubtful,
                "mounts",
                format!("{shown} is mounted, but its daemon is gone: programs that look there get errors"),
                format!("`p2pfs unmount {}` clears it away, and so does mounting there again", quoted(&path)),
            ),
            Illness::Hangs => checks.not(
                State::Bad,
                "mounts",
                format!("{shown} hangs: its daemon does not answer, and programs that look there wait"),
                "its volume's line below names the process and the log; without one, it is another account's, or of another P2PFS_HOME",
            ),
        }
    }
}

/// A path as a shell takes it for one word.
fn quoted(path: &Path) -> String {
    let shown = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:,@%".contains(c);
    if !shown.is_empty() && shown.chars().all(plain) { shown } else { format!("'{}'", shown.replace('\'', "'\\''")) }
}

fn volumes(checks: &mut Checks, home: &Home) -> Outcome<()> {
    let all = home.volumes()?;
    if all.is_empty() {
        checks.good("volumes", "none yet: `p2pfs init` makes one, `p2pfs join --name YOU` joins one");
    }
    for dir in all {
        volume(checks, dir);
    }
    Ok(())
}

fn volume(checks: &mut Checks, dir: VolumeDir) {
    if let Err(why) = client::hello_within(&dir, DAEMON_TIME) {
        return checks.not(State::Bad, &dir.short_id()[..8], why.to_string(), DAEMON_FIX);
    }
    let known = inspect(dir, None);
    let short = known.dir.short_id()[..8].to_owned();
    let named = known.label.clone().unwrap_or_else(|| short.clone());
    if let Err(e) = known.dir.check_format() {
        return checks.not(
            State::Bad,
            &named,
            e.to_string(),
            "use the newest p2pfs that you have, or restore that folder from a backup",
        );
    }
    if known.daemon.is_none() {
        let log = known.dir.log();
        let found = match known.label {
            Some(_) => "is not mounted",
            None => "is not mounted; its keys are behind a passphrase",
        };
        // Whether this is a keeper's is only known to who opens its store.
        let commands = format!("`p2pfs mount --volume {short}`, or `p2pfs keeper --volume {short}` on a keeper");
        return checks.good(&named, format!("{found} ({commands}; its log: {})", log.display()));
    }
    match client::ask(&known.dir, &Request::Status) {
        Ok(Some(Reply::Status(status))) => running(checks, &named, &status),
        Ok(_) => checks.not(State::Doubtful, &named, "its daemon ends just now", "try again in a moment"),
        Err(why) => checks.not(State::Bad, &named, why.to_string(), DAEMON_FIX),
    }
}

fn running(checks: &mut Checks, named: &str, status: &Status) {
    let at: Option<PathBuf> = status.mountpoint.as_ref().map(PathBuf::from);
    checks.good(named, at.map_or_else(|| "is served".to_owned(), |at| format!("is mounted at {}", at.display())));
    for registry in status.registries.iter().filter(|registry| registry.state.starts_with("unreachable")) {
        checks.not(
            State::Doubtful,
            named,
            format!("registry {}: {}", registry.address, registry.state),
            "see that it runs, that UDP to its port is let through, and that the address and key are right; devices that know each other's addresses don't need it",
        );
    }
    if status.peers_known > 0 && status.peers_connected == 0 {
        let ports: Vec<&str> = status.listen.iter().filter_map(|address| Some(address.rsplit_once(':')?.1)).collect();
        let port = ports.first().map_or_else(String::new, |port| format!(" (UDP port {port})"));
        checks.not(
            State::Doubtful,
            named,
            format!("none of {} is connected", count(status.peers_known as u64, "other device")),
            format!("see that one is on, and that a firewall lets p2pfs through{port}; what you do meanwhile is kept and goes out later"),
        );
    }
    if status.disk_full {
        checks.not(State::Bad, named, "nothing more is stored: there is no room", "make room on that disk");
    }
    if status.quota_reached {
        checks.not(
            State::Doubtful,
            named,
            "the quota is reached: commits are kept, contents are not fetched",
            "begin the keeper with a higher `--quota`, or with none",
        );
    }
    if status.removed {
        checks.not(
            State::Doubtful,
            named,
            "this device was removed from the volume",
            "ask an admin for a new ticket; what is here stays readable",
        );
    }
    if status.alerts > 0 {
        checks.not(State::Doubtful, named, count(status.alerts, "alert"), "`p2pfs alerts` tells of them");
    }
    if status.conflicts > 0 {
        checks.not(
            State::Doubtful,
            named,
            format!("{} with more than one version", count(status.conflicts, "name")),
            "`p2pfs conflicts` tells of them",
        );
    }
    if let Some(first) = status.unpublished.first() {
        checks.not(
            State::Doubtful,
            named,
            format!("what was written to {} is on this device only", first.path.as_deref().unwrap_or("a file")),
            "`p2pfs status` tells why",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(check: impl FnOnce(&mut Checks)) -> Check {
        let mut checks = Checks::default();
        check(&mut checks);
        checks.0.pop().unwrap()
    }

    #[test]
    fn what_is_missing_is_told_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let missing = only(|checks| fuse(checks, &folder.path().join("fuse")));
        assert_eq!(missing.state, State::Bad);
        assert!(missing.fix.unwrap().contains("modprobe fuse"));
        fs::write(folder.path().join("fuse"), "").unwrap();
        assert!(only(|checks| fuse(checks, &folder.path().join("fuse"))).found.contains("is no device"));
    }

    #[test]
    fn a_path_is_one_word_of_a_command() {
        let check = |path: &str, expected: &str| assert_eq!(quoted(Path::new(path)), expected);
        check("/home/alice/p2pfs", "/home/alice/p2pfs");
        check("/home/alice/my files", "'/home/alice/my files'");
        check("/mnt/it's $HOME", "'/mnt/it'\\''s $HOME'");
    }

    #[test]
    fn a_clock_that_contradicts_what_is_here_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let look = |now, in_step| only(|checks| clock(checks, now, in_step, folder.path()));
        assert_eq!(look(now, None).state, State::Good);
        assert_eq!(look(now, Some(false)).state, State::Doubtful);
        fs::create_dir_all(folder.path().join("volumes/4f2a")).unwrap();
        fs::write(folder.path().join("volumes/4f2a/state"), "").unwrap();
        assert_eq!(look(now, None).state, State::Good);
        let hour_ago = now - Duration::from_secs(3600);
        let back = look(hour_ago, None);
        assert!(back.state == State::Doubtful && back.found.contains("or it was ahead then"), "{back:?}");
        assert_eq!(look(hour_ago, Some(true)).state, State::Good);
        let unset = look(SystemTime::UNIX_EPOCH, Some(true));
        assert_eq!(unset.state, State::Bad);
    }
}
