//! One member's machine: a home folder of its own, a mount point, and the daemon between them.

use std::{
    ffi::OsStr,
    fs,
    io::{BufRead, BufReader},
    net::UdpSocket,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::Arc,
    thread,
    time::Duration,
};

use rustix::process::Signal;
use serde_json::Value;

use crate::{binaries::program, clock::Clock, faults::Faults, patience::eventually, process, scratch::Scratch};

/// How long a daemon may take to end; a connected one first hands over what its peers lack.
const END_PATIENCE: Duration = Duration::from_secs(20);
/// How long a command may take to refuse; some wait for somebody to answer first.
const REFUSAL_PATIENCE: Duration = Duration::from_secs(60);

/// A member. Unmounted and ended when dropped; a daemon that then fails, or had a panic, fails the test.
#[derive(Debug)]
pub struct Peer {
    name: String,
    scratch: Arc<Scratch>,
    home: PathBuf,
    mountpoint: PathBuf,
    log: PathBuf,
    port: u16,
    options: Vec<String>,
    variables: Vec<(String, String)>,
    daemon: Option<Child>,
    faults: Option<Faults>,
    clock: Option<Clock>,
}

impl Peer {
    /// A machine with nothing on it yet.
    pub fn new(scratch: &Arc<Scratch>, name: &str) -> Self {
        let home = scratch.make(name);
        Self::with_home(scratch, name, home)
    }

    /// A machine that keeps everything in `home`.
    pub fn with_home(scratch: &Arc<Scratch>, name: &str, home: PathBuf) -> Self {
        Self {
            name: name.to_owned(),
            scratch: scratch.clone(),
            home,
            mountpoint: scratch.make(&format!("{name}.mnt")),
            log: scratch.path().join(format!("{name}.log")),
            port: free_port(),
            options: Vec::new(),
            variables: Vec::new(),
            daemon: None,
            faults: None,
            clock: None,
        }
    }

    /// A new volume with one member, mounted, without a registry.
    pub fn alone() -> Self {
        let mut peer = Self::new(&Arc::new(Scratch::new()), "alice");
        peer.init(&[]);
        peer.mount();
        peer
    }

    /// The same, mounted for everybody on this machine as an ordinary disk is. Needs root.
    pub fn system() -> Self {
        let mut peer = Self::new(&Arc::new(Scratch::new()), "alice");
        peer.for_everybody();
        peer.init(&[]);
        peer.mount();
        peer
    }

    /// Mounts for everybody on this machine from the next mount on, as an ordinary disk is. Needs root.
    pub fn for_everybody(&mut self) {
        assert!(rustix::process::geteuid().is_root(), "a system mount needs root: run scripts/test");
        // Other users have to get through to the mount.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(self.scratch.path(), open).unwrap();
        self.options = vec!["--allow-other".to_owned()];
    }

    /// From now on what is made at the top follows the umask, and inherits no list, as on any disk.
    pub fn with_plain_umask(&self) {
        crate::tool::run("setfacl", ["-b", "-k", self.mountpoint.to_str().unwrap()]);
    }

    /// The user's name in the volume.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where everything of this machine is kept.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// The test's folder, for what doesn't belong on the mount.
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// Where the volume is mounted.
    pub fn root(&self) -> &Path {
        &self.mountpoint
    }

    /// A path on the mount.
    pub fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        self.mountpoint.join(path)
    }

    /// The daemon's process number.
    pub fn pid(&self) -> u32 {
        self.daemon.as_ref().unwrap().id()
    }

    /// From the next command or mount on, calls on its home folder can fail.
    pub fn with_faults(&mut self) {
        self.faults = Some(Faults::new(&self.scratch, &self.home));
    }

    /// Set by [`Self::with_faults`].
    pub fn faults(&self) -> &Faults {
        self.faults.as_ref().unwrap()
    }

    /// What is started from now on has no faults.
    pub fn without_faults(&mut self) {
        self.faults = None;
    }

    /// From the next command or mount on, this machine's clock can be wrong.
    pub fn with_clock(&mut self) {
        self.clock = Some(Clock::new(&self.scratch, &self.name));
    }

    /// Set by [`Self::with_clock`].
    pub fn clock(&self) -> &Clock {
        self.clock.as_ref().unwrap()
    }

    /// Whether the daemon is dead, by itself or through a fault; then it is forgotten, and its mount stays, dead.
    pub fn is_dead(&mut self) -> bool {
        let dead = self.daemon.as_mut().is_none_or(|child| child.try_wait().unwrap().is_some());
        if dead {
            self.daemon = None;
        }
        dead
    }

    /// Waits until the daemon has ended by itself or through a fault; how.
    pub fn await_end(&mut self) -> ExitStatus {
        let mut child = self.daemon.take().unwrap();
        let status = process::ended_within(&mut child, END_PATIENCE);
        if status.is_none() {
            self.daemon = Some(child);
        }
        status.unwrap_or_else(|| panic!("{}'s daemon goes on", self.name))
    }

    /// Mounts with these options from the next mount on.
    pub fn set_options(&mut self, options: &[&str]) {
        self.options = options.iter().map(ToString::to_string).collect();
    }

    /// Has these variables in its environment from the next command or mount on.
    pub fn set_variables(&mut self, variables: &[(&str, &str)]) {
        self.variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    }

    /// The volume's folder in its home.
    pub fn volume_folder(&self) -> PathBuf {
        let mut found = fs::read_dir(self.home.join("volumes")).unwrap().map(|entry| entry.unwrap().path());
        found.next().unwrap()
    }

    /// Listens there from the next mount on.
    pub fn set_port(&mut self, port: u16) {
        self.port = port;
    }

    /// Where it listens, on the loopback address.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The same with the address.
    pub fn listens_at(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// `p2pfs` as this machine's user starts it.
    pub fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(program("p2pfs"));
        command.args(arguments).env("P2PFS_HOME", &self.home).stdin(Stdio::null());
        // Nobody's desktop is to show what happens here, unless it is asked for.
        command.env_remove("DBUS_SESSION_BUS_ADDRESS").env_remove("XDG_RUNTIME_DIR");
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        if let Some(faults) = &self.faults {
            faults.arm(&mut command);
        }
        if let Some(clock) = &self.clock {
            clock.arm(&mut command);
        }
        command
    }

    /// What `p2pfs` with these words shows on a terminal on which these lines are typed, and whether it did its work.
    pub fn typed(&self, words: &str, lines: &str) -> (String, bool) {
        let mut script = Command::new("script");
        script.args(["-qec", &format!("'{}' {words}", program("p2pfs").display()), "/dev/null"]);
        script.env("P2PFS_HOME", &self.home).env("USER", "root");
        let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), lines.as_bytes()).unwrap();
        let done = child.wait_with_output().unwrap();
        (String::from_utf8_lossy(&done.stdout).into_owned(), done.status.success())
    }

    /// Runs `p2pfs`, which must succeed; returns what it printed, without the last line break.
    pub fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> String {
        crate::tool::succeed(&mut self.command(arguments)).trim_end().to_owned()
    }

    /// Runs `p2pfs`, which must refuse as it promises: status 1, one line on standard error, none on standard output.
    /// Returns the line.
    pub fn refused<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> String {
        let mut command = self.command(arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let ended = process::ended_within(&mut child, REFUSAL_PATIENCE);
        if ended.is_none() {
            process::send(&child, Signal::TERM);
        }
        let done = child.wait_with_output().unwrap();
        assert!(ended.is_some(), "{command:?} went on: {done:?}");
        one_refusal(&format!("{command:?}"), &done)
    }

    /// Makes a volume with this machine's user as its owner.
    pub fn init(&self, more: &[&str]) {
        self.run(["init", "--name", &self.name, "--no-passphrase"].iter().chain(more));
    }

    /// A ticket for somebody else.
    pub fn invite(&self) -> String {
        self.run(["invite"])
    }

    /// Joins the volume that `ticket` is for.
    pub fn join(&self, ticket: &str) {
        self.run(["join", ticket, "--name", &self.name, "--no-passphrase"]);
    }

    /// Mounts, in the foreground of a process that this peer owns.
    pub fn mount(&mut self) {
        let said = self.try_mount();
        assert!(said.starts_with("mounted at "), "{} did not mount: {said:?}\n{}", self.name, self.log_text());
    }

    /// Tries to; what the daemon printed first, nothing if it ended before.
    pub fn try_mount(&mut self) -> String {
        let mut command = self.command(["mount", "--foreground", "--listen", &self.listens_at()]);
        command.args(&self.options).arg(&self.mountpoint);
        self.start(command)
    }

    /// Serves, without a mount, what this device is a keeper of.
    pub fn keep(&mut self) {
        let mut command = self.command(["keeper", "--listen", &self.listens_at()]);
        command.args(&self.options);
        let said = self.start(command);
        assert!(said.starts_with("keeping volume "), "{} does not: {said:?}\n{}", self.name, self.log_text());
    }

    /// Ends that as a user does who names one of the volumes, or need not.
    pub fn stop_keeping(&mut self, which: &[&str]) {
        self.run(["unmount"].iter().chain(which));
        self.await_clean_end();
    }

    fn start(&mut self, mut command: Command) -> String {
        assert!(self.daemon.is_none(), "{} is mounted", self.name);
        let log = fs::File::options().append(true).create(true).open(&self.log).unwrap();
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        self.scratch.note_daemon(child.id());
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        if line.is_empty() {
            child.wait().unwrap();
        } else {
            self.daemon = Some(child);
        }
        line
    }

    /// Unmounts as a user does.
    pub fn unmount(&mut self) {
        self.run([OsStr::new("unmount"), self.mountpoint.as_os_str()]);
        self.await_clean_end();
    }

    /// Unmounts as `umount` does, which doesn't wait for the daemon, and mounts again at once. Needs root.
    pub fn remount(&mut self) {
        crate::tool::succeed(Command::new("umount").arg(&self.mountpoint));
        let mut before = self.daemon.take().unwrap();
        self.mount();
        let status = process::ended_within(&mut before, END_PATIENCE);
        assert!(status.is_some_and(|status| status.success()), "{}'s daemon: {status:?}", self.name);
    }

    /// Ends the daemon as a service manager does.
    pub fn terminate(&mut self) {
        self.signal(Signal::TERM);
        self.await_clean_end();
    }

    fn await_clean_end(&mut self) {
        let mut child = self.daemon.take().unwrap();
        let status = process::ended_within(&mut child, END_PATIENCE);
        if status.is_none() {
            self.daemon = Some(child);
        }
        let text = || format!("{}'s daemon: {status:?}\n{}", self.name, self.log_text());
        assert!(status.is_some_and(|status| status.success()), "{}", text());
    }

    /// Ends the daemon without a chance to do anything about it. Its mount stays, dead.
    pub fn kill9(&mut self) {
        let mut child = self.daemon.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Stops the daemon where it is: to its peers, and to programs on the mount, it is just silent.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        process::send(self.daemon.as_ref().unwrap(), signal);
    }

    /// Waits until connected peers have everything, and everything of theirs is here.
    pub fn wait(&self) {
        self.run(["wait", "--timeout", "60s"]);
    }

    /// `p2pfs WHAT --json`.
    pub fn listing(&self, what: &str) -> Value {
        serde_json::from_str(&self.run([what, "--json"])).unwrap()
    }

    /// How many peers are connected.
    pub fn connected(&self) -> u64 {
        self.listing("status")["peers_connected"].as_u64().unwrap()
    }

    /// Waits until exactly `count` peers are connected.
    pub fn await_connected(&self, count: u64) {
        eventually(&format!("{} has {count} peers", self.name), || match self.connected() {
            now if now == count => Ok(()),
            now => Err(format!("{now} are connected")),
        });
    }

    /// Ends the daemon at any rate; how it ended, when it did so by itself.
    fn end(&self, mut child: Child) -> Option<ExitStatus> {
        // Frozen, it could not end.
        process::send(&child, Signal::CONT);
        process::send(&child, Signal::TERM);
        let status = process::ended_within(&mut child, END_PATIENCE);
        if status.is_none() {
            let _ = child.kill();
            let _ = child.wait();
        }
        crate::scratch::detach_below(&self.mountpoint);
        status
    }

    /// The daemon's log so far.
    pub fn log_text(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let ended = self.daemon.take().map(|child| self.end(child));
        let log = self.log_text();
        if thread::panicking() {
            eprintln!("--- {}'s daemon, {ended:?}, logged:\n{}", self.name, tail(&log));
            return;
        }
        let well = ended.is_none_or(|status| status.is_some_and(|status| status.success()));
        assert!(well && !log.contains("panic at "), "{}'s daemon: {ended:?}\n{}", self.name, tail(&log));
    }
}

/// Checks that a program refused as all of ours do; returns its one line.
pub fn one_refusal(what: &str, done: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert_eq!(done.status.code(), Some(1), "{what}\nout: {out}\nerr: {err}");
    assert!(out.is_empty(), "{what}\nout: {out}\nerr: {err}");
    assert_eq!(err.lines().count(), 1, "{what}\nerr: {err}");
    assert!(err.ends_with('\n'), "{what}\nerr: {err}");
    let line = err.trim_end().to_owned();
    for word in ["panicked", "internal error", "Error {", "Some(", "Err(", "Os {", "os error"] {
        assert!(!line.contains(word), "{what} speaks Rust: {line}");
    }
    line
}

/// A UDP port that nobody has now.
pub fn free_port() -> u16 {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}
