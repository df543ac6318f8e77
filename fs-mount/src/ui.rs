//! The page: the volume in a browser, served on this machine only.
//!
//! A process of its own, started by the daemon ([`crate::daemon::page`]). It knows no keys: what it tells it asks of the daemon
//! over the control socket, as the command line does, and files it reads and writes on the mount, as any program does.
//!
//! Who may use it: whoever has a session, which a browser gets with a token that `p2pfs ui` had made, once ([`sessions`]). What
//! other pages in that browser, and others on this machine, may try is refused before anything is looked at ([`guard`]).
//!
//! Pages are whole without scripts: links and forms. One script ([`assets`]) adds what needs one: dropping files, and swapping
//! in what changed as it changes ([`live`]). Every region of a page that can change says of which sections it tells
//! (`data-live`), or at which path it looks (`data-path`); the script fetches the page anew when one of them changed. What is part of
//! every page is fetched from an address of its own (`data-from`), for it changes more often and costs less.
//!
//! Invariants:
//! - No text of others gets into a page but through the templates, which escape it; bidirectional controls are spelt out.
//! - Content of files never is a page, a script or a style of this origin: it is downloaded, shown as text in a page of ours, or
//!   an image of a kind that can't act ([`content`]).
//! - Nothing changes by GET.

mod alerts;
mod assets;
mod attributes;
mod conflicts;
mod content;
mod daemon;
mod door;
mod file;
mod files;
mod forms;
mod guard;
mod layout;
mod links;
mod live;
mod log;
mod members;
mod messages;
mod overview;
mod range;
mod routes;
mod sessions;
mod settings;
mod talks;
mod transfers;
mod travel;
mod tree;
mod upload;

use std::{
    ffi::OsString,
    io::{self, BufRead, Write},
    os::unix::ffi::OsStringExt,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use crate::{
    daemon::{
        logging,
        page::{Answer, Begin, Order},
    },
    failure::{Because, Failure, Outcome},
    home::VolumeDir,
    uploads,
};

use daemon::Daemon;
use guard::Own;
use live::Live;
use sessions::Sessions;
use talks::Talks;
use tree::Tree;

/// No order is longer.
const ORDER_LIMIT: u64 = 64 << 10;
/// Threads that read and write files and ask the daemon, at most.
const BLOCKING_THREADS: usize = 16;
/// How long what is under way may take to end; the daemon waits a little longer.
const FAREWELL: Duration = Duration::from_millis(1500);
/// What the process is called where processes are listed, and in the audit log.
const NAME: &std::ffi::CStr = c"p2pfs-page";

/// What all parts of the page share.
struct Page {
    own: Own,
    sessions: Sessions,
    daemon: Daemon,
    tree: Tree,
    talks: Talks,
    live: Live,
}

/// The process: serves the page that standard input tells of, until that ends.
pub(crate) fn serve() -> Outcome<()> {
    logging::start_daemon();
    // A name is for people; without it all works as well.
    let _ = rustix::thread::set_name(NAME);
    let mut orders = io::BufReader::new(io::stdin());
    let begin: Begin = order(&mut orders)?.ok_or_else(wrong)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_name("p2pfs-page")
        .enable_all()
        .build()
        .because(|| "starting threads".to_owned())?;
    let page = match runtime.block_on(door::open(begin.port)) {
        Ok((doors, port)) => {
            let path = |bytes| PathBuf::from(OsString::from_vec(bytes));
            let dir = path(begin.dir);
            let page = Arc::new(Page {
                own: Own::new(port),
                sessions: Sessions::default(),
                tree: Tree::new(path(begin.mountpoint), uploads::folder(&dir)),
                daemon: Daemon::new(VolumeDir::from_parts(dir, &begin.short_id)),
                talks: Talks::default(),
                live: Live::default(),
            });
            runtime.block_on(async { doors.into_iter().for_each(|door| door.serve(page.clone())) });
            answer(&Answer::Serving { port })?;
            page
        }
        Err(why) => {
            answer(&Answer::Failed(why.to_string()))?;
            return Err(why);
        }
    };
    while let Some(Order::Admit) = order(&mut orders)? {
        answer(&match page.sessions.admit() {
            Some(token) => Answer::Address(page.own.address(&token)),
            None => Answer::Failed("many were just let in: wait a minute, then try again".to_owned()),
        })?;
    }
    // Uploads that are under way take what they had begun away. Whatever waits for longer doesn't hold the mount's end up.
    runtime.shutdown_timeout(FAREWELL);
    Ok(())
}

fn wrong() -> Failure {
    Failure::new("--server is for the daemon itself: leave it out")
}

/// The next order; nothing at their end.
fn order<T: serde::de::DeserializeOwned>(orders: &mut impl BufRead) -> Outcome<Option<T>> {
    let mut line = String::new();
    io::Read::take(orders, ORDER_LIMIT).read_line(&mut line).because(|| "reading the order".to_owned())?;
    if line.is_empty() { Ok(None) } else { serde_json::from_str(&line).map(Some).map_err(|_| wrong()) }
}

fn answer(answer: &Answer) -> Outcome<()> {
    let line = serde_json::to_string(answer).expect("an answer can be encoded");
    let mut out = io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).because(|| "answering the daemon".to_owned())
}
