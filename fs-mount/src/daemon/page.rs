//! The process that shows the volume in a browser ([`crate::ui`]): started when somebody first asks for it, ended with the
//! daemon.
//!
//! It is a process of its own for two reasons. What a browser sends is taken apart where no keys are in memory. And it uses the
//! mount as any program does, so that permissions and the audit log are the same; a process that waited for files which it
//! serves itself could not be killed.
//!
//! Orders and answers are lines of JSON through its standard input and output. The end of its input is the end of it.

use std::{process::Stdio, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::Mutex,
    task::spawn_blocking,
    time::timeout,
};

use super::{Shared, memory};
use crate::{
    failure::{Because, Failure, Outcome},
    uploads,
};

/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it may take to end by itself.
const FAREWELL: Duration = Duration::from_secs(2);

/// What the process is told first.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Begin {
    /// The volume's folder, as bytes: a path need not be text.
    pub(crate) dir: Vec<u8>,
    pub(crate) short_id: String,
    pub(crate) mountpoint: Vec<u8>,
    /// Where to serve; without it, at any free port.
    pub(crate) port: Option<u16>,
}

/// What it is told then, each time.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Order {
    /// Let one browser in.
    Admit,
}

/// What it answers to either.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    Serving {
        port: u16,
    },
    /// Where that browser gets in.
    Address(String),
    Failed(String),
}

/// The process, if there is one.
#[derive(Default)]
pub(crate) struct Page(Mutex<Option<Running>>);

struct Running {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    port: u16,
}

impl Page {
    /// Has it let one browser in; where.
    pub(crate) async fn open(&self, shared: &Arc<Shared>, port: Option<u16>) -> Outcome<String> {
        let mut place = self.0.lock().await;
        if shared.is_ending() {
            return Err(Failure::new("the volume is being unmounted"));
        }
        // One that broke down is followed by another.
        let lives = place.as_mut().is_some_and(|page| matches!(page.child.try_wait(), Ok(None)));
        let served_at = place.as_ref().filter(|_| lives).map(|page| page.port);
        if let (Some(served), Some(asked)) = (served_at, port)
            && served != asked
        {
            return Err(Failure::new(format!(
                "the page is served at port {served} already: leave --port {asked} out, or unmount and mount first"
            )));
        }
        // Out of its place while it is talked to. A client that goes away ends the conversation, and with it the process: the
        // answer that nobody took would be taken for the next one's.
        let mut page = match place.take().filter(|_| lives) {
            Some(page) => page,
            None => Running::start(shared, port).await?,
        };
        let answer = page.order(&Order::Admit).await?;
        *place = Some(page);
        match answer {
            Answer::Address(address) => Ok(address),
            Answer::Failed(why) => Err(Failure::new(why)),
            Answer::Serving { .. } => Err(Failure::new("the page answers something else: try again")),
        }
    }

    /// Ends it.
    pub(crate) async fn end(&self) {
        let Some(Running { mut child, orders, .. }) = self.0.lock().await.take() else { return };
        drop(orders);
        if timeout(FAREWELL, child.wait()).await.is_err() && child.kill().await.is_err() {
            log::warn!("the process that serves the page can't be ended");
        }
    }
}

impl Running {
    async fn start(shared: &Arc<Shared>, port: Option<u16>) -> Outcome<Self> {
        let mountpoint = shared.mountpoint.as_ref().ok_or_else(super::keeper::unreadable)?;
        // What the one before it may have left.
        let owner = shared.clone();
        let cleared = spawn_blocking(move || uploads::clear(&owner.volume, owner.dir.path())).await;
        if cleared.is_err() {
            log::warn!("unfinished uploads can't be removed");
        }
        // Also when another version lies at that path by now.
        let program = "/proc/self/exe";
        let mut child = Command::new(program)
            .args(["ui", "--server"])
            .envs(memory::missing_settings())
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .because(|| "starting the page".to_owned())?;
        let orders = child.stdin.take().expect("its input is a pipe");
        let answers = BufReader::new(child.stdout.take().expect("its output is a pipe"));
        let mut page = Self { child, orders, answers, port: 0 };
        let bytes = std::os::unix::ffi::OsStrExt::as_bytes;
        let begin = Begin {
            dir: bytes(shared.dir.path().as_os_str()).to_vec(),
            short_id: shared.dir.short_id().to_owned(),
            mountpoint: bytes(mountpoint.as_os_str()).to_vec(),
            port,
        };
        match page.order(&begin).await? {
            Answer::Serving { port } => page.port = port,
            Answer::Failed(why) => return Err(Failure::new(why)),
            Answer::Address(_) => return Err(Failure::new("the page answers something else: try again")),
        }
        log::info!("the page is served at port {}", page.port);
        Ok(page)
    }

    async fn order(&mut self, order: &impl Serialize) -> Outcome<Answer> {
        let ended = || Failure::new("the page's process ended: the daemon's log tells why");
        let mut line = serde_json::to_string(order).expect("an order can be encoded");
        line.push('\n');
        let conversation = async {
            self.orders.write_all(line.as_bytes()).await.map_err(|_| ended())?;
            let mut answer = String::new();
            self.answers.read_line(&mut answer).await.map_err(|_| ended())?;
            serde_json::from_str(&answer).map_err(|_| ended())
        };
        timeout(PATIENCE, conversation).await.map_err(|_| Failure::new("the page does not answer: try again"))?
    }
}
