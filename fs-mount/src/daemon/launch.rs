//! Going into the background: `mount` starts itself once more and waits until that one is ready.
//!
//! What the child must know, the passphrase included, goes through a pipe to its standard input; its answer, one line
//! of JSON, comes back through its standard output. Arguments and environment, which others can read, carry nothing.

use std::{
    env,
    ffi::OsString,
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::SocketAddr,
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::OpenOptionsExt,
    },
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use super::{Config, Ready, Wanted, logging, memory};
use crate::{
    failure::{Because, Failure, Outcome},
    home::VolumeDir,
    output,
};

/// No order to a child, and no answer of it, is longer.
const LINE_LIMIT: u64 = 1 << 20;
/// A log that has grown past this is put aside when the next daemon starts.
const LOG_LIMIT: u64 = 8 << 20;

/// A [`Config`] on its way to the child. Paths are bytes: they need not be text.
#[derive(Serialize, Deserialize)]
struct Order {
    dir: Vec<u8>,
    short_id: String,
    passphrase: Option<String>,
    mountpoint: Vec<u8>,
    create: bool,
    allow_other: bool,
    source: String,
    listen: Option<SocketAddr>,
    registries: Vec<String>,
    absent_timeout: Duration,
    metrics: Option<SocketAddr>,
    notifications: bool,
    on_alert: Option<Vec<u8>>,
}

impl Drop for Order {
    fn drop(&mut self) {
        self.passphrase.zeroize();
    }
}

/// What the child answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Ready { warnings: Vec<String> },
    Failed(String),
}

/// Starts the daemon in the background; returns when the mount is usable, with the warnings.
pub(crate) fn in_background(config: &Config) -> Outcome<Vec<String>> {
    let mut child = spawn(config)?;
    let order = encode(config);
    let mut stdin = child.stdin.take().expect("the child's input is a pipe");
    let sent = stdin.write_all(order.as_bytes()).and_then(|()| stdin.flush());
    drop(stdin);
    let stdout = child.stdout.take().expect("the child's output is a pipe");
    let mut line = String::new();
    let read = BufReader::new(stdout.take(LINE_LIMIT)).read_line(&mut line);
    match serde_json::from_str(&line) {
        Ok(Answer::Ready { warnings }) => Ok(warnings),
        Ok(Answer::Failed(why)) => {
            // Ends right after it said so; what it returns tells nothing new.
            let _ = child.wait();
            Err(Failure::new(why))
        }
        Err(_) => {
            sent.and(read).because(|| "starting the daemon".to_owned())?;
            let status = child.wait().map_or_else(|_| "an unknown status".to_owned(), |s| s.to_string());
            let log = config.dir.log();
            Err(Failure::new(format!("the daemon ended with {status} before it was ready: see {}", log.display())))
        }
    }
}

fn spawn(config: &Config) -> Outcome<Child> {
    let log = config.dir.log();
    let log = open_log(&log).because(|| format!("opening {}", log.display()))?;
    let program = env::current_exe().because(|| "finding this program".to_owned())?;
    Command::new(program)
        .args(["mount", "--background-child"])
        .envs(memory::missing_settings())
        // A daemon must not keep the folder busy that it happened to be started in.
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .because(|| "starting the daemon".to_owned())
}

fn open_log(path: &Path) -> io::Result<fs::File> {
    if fs::metadata(path).is_ok_and(|found| found.len() > LOG_LIMIT) {
        fs::rename(path, path.with_extension("old"))?;
    }
    fs::OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

/// The child's side: runs the daemon that standard input describes.
pub(crate) fn background_child() -> Outcome<()> {
    close_inherited_files();
    // Fails when this leads a process group already; then somebody else started it, in a session of its own.
    let _ = rustix::process::setsid();
    logging::start_daemon();
    let mut waited_for = true;
    let work = AssertUnwindSafe(|| {
        receive().and_then(|config| {
            super::run(config, |ready: Ready| {
                answer(&Answer::Ready { warnings: ready.warnings });
                waited_for = false;
            })
        })
    });
    // The panic itself is in the log.
    let outcome = catch_unwind(work).unwrap_or_else(|_| Err(Failure::new("internal error: please report it")));
    match &outcome {
        Ok(()) => {}
        Err(why) if waited_for => answer(&Answer::Failed(why.to_string())),
        // What failed has been logged where it did; the whole line may name paths.
        Err(_) => log::error!("the daemon ended with a failure"),
    }
    outcome
}

fn answer(answer: &Answer) {
    let line = serde_json::to_string(answer).expect("an answer can be encoded");
    let mut out = io::stdout().lock();
    if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
        log::warn!("nobody waits for the daemon to be ready any more");
    }
}

fn encode(config: &Config) -> Zeroizing<String> {
    let bytes = |path: &Path| path.as_os_str().as_bytes().to_vec();
    let order = Order {
        dir: bytes(config.dir.path()),
        short_id: config.dir.short_id().to_owned(),
        passphrase: config.passphrase.as_deref().cloned(),
        mountpoint: bytes(&config.mountpoint),
        create: config.create,
        allow_other: config.allow_other,
        source: config.source.clone(),
        listen: config.listen,
        registries: config.registries.iter().map(ToString::to_string).collect(),
        absent_timeout: config.absent_timeout,
        metrics: config.metrics,
        notifications: config.alerts.desktop,
        on_alert: config.alerts.command.as_deref().map(bytes),
    };
    Zeroizing::new(serde_json::to_string(&order).expect("an order can be encoded"))
}

fn receive() -> Outcome<Config> {
    let mut text = Zeroizing::new(String::new());
    io::stdin().lock().take(LINE_LIMIT).read_to_string(&mut text).because(|| "reading the order".to_owned())?;
    decode(&text)
}

fn decode(text: &str) -> Outcome<Config> {
    let wrong = || Failure::new("--background-child is for `p2pfs mount` itself: leave it out");
    let mut order: Order = serde_json::from_str(text).map_err(|_| wrong())?;
    let path = |bytes: &Vec<u8>| PathBuf::from(OsString::from_vec(bytes.clone()));
    Ok(Config {
        dir: VolumeDir::from_parts(path(&order.dir), &order.short_id),
        passphrase: order.passphrase.take().map(Zeroizing::new),
        mountpoint: path(&order.mountpoint),
        create: order.create,
        allow_other: order.allow_other,
        source: order.source.clone(),
        listen: order.listen,
        registries: order.registries.iter().map(|r| r.parse()).collect::<Result<_, _>>().map_err(|_| wrong())?,
        absent_timeout: order.absent_timeout,
        metrics: order.metrics,
        alerts: Wanted { desktop: order.notifications, command: order.on_alert.as_ref().map(path) },
    })
}

/// A daemon outlives whatever started it, so it must not hold that one's locks and pipes open.
#[allow(
    unsafe_code,
    reason = "no safe wrapper exists; called first thing, when this program has opened nothing itself"
)]
fn close_inherited_files() {
    // SAFETY: nothing in this process owns a descriptor above 2 yet.
    unsafe {
        libc::close_range(3, u32::MAX, 0);
    }
}

/// What `mount` prints when the daemon is ready.
pub(crate) fn announce(mountpoint: &Path, warnings: &[String]) -> Outcome<()> {
    for warning in warnings {
        output::note(&format!("warning: {warning}"));
    }
    output::line(&format!("mounted at {}", mountpoint.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_arrives_as_it_was_sent() {
        let config = Config {
            dir: VolumeDir::from_parts("/h/volumes/4f".into(), "4f"),
            passphrase: Some(Zeroizing::new("horse \"battery\"\n".to_owned())),
            mountpoint: PathBuf::from(OsString::from_vec(b"/mnt/\xff x".to_vec())),
            create: true,
            allow_other: false,
            source: "here and there".to_owned(),
            listen: Some("127.0.0.1:0".parse().unwrap()),
            registries: Vec::new(),
            absent_timeout: Duration::from_secs(7),
            metrics: Some("[::1]:9478".parse().unwrap()),
            alerts: Wanted { desktop: true, command: Some(PathBuf::from(OsString::from_vec(b"/bin/\xff x".to_vec()))) },
        };
        let back = decode(&encode(&config)).unwrap();
        assert_eq!(back.dir.path(), config.dir.path());
        assert_eq!(back.dir.short_id(), config.dir.short_id());
        assert_eq!(back.passphrase, config.passphrase);
        assert_eq!(back.mountpoint, config.mountpoint);
        assert_eq!(back.source, config.source);
        assert_eq!(back.absent_timeout, config.absent_timeout);
        assert_eq!((back.metrics, back.alerts), (config.metrics, config.alerts));
        assert_eq!((back.create, back.allow_other, back.listen), (true, false, config.listen));
    }

    #[test]
    fn anything_else_is_no_order() {
        assert!(decode("").is_err());
        assert!(decode("{}").is_err());
    }

    #[test]
    fn a_long_log_is_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        fs::File::create(&log).unwrap().set_len(LOG_LIMIT + 1).unwrap();
        assert_eq!(open_log(&log).unwrap().metadata().unwrap().len(), 0);
        assert!(dir.path().join("log.old").exists());
    }
}
