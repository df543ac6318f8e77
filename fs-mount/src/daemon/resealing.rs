//! Sealing old contents anew, beside everything else: a thread that sleeps until somebody asks for it, or goes on with what
//! an earlier daemon began.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use tokio::sync::watch;
use volume::Resealed;

use super::Shared;
use crate::failure::{Because, Outcome};

/// The pause after each step: others' calls come first.
const PAUSE: Duration = Duration::from_millis(1);

/// How far it is, and how it ended the last time.
#[derive(Debug, Clone, Default)]
pub(crate) struct News {
    pub(crate) so_far: Resealed,
    /// How often it ended.
    pub(crate) ends: u64,
    pub(crate) end: Option<Result<Resealed, String>>,
}

/// What the thread and those who wait for it share.
#[derive(Default)]
pub(crate) struct Resealing {
    asked: AtomicBool,
    news: watch::Sender<News>,
}

impl Resealing {
    /// What is told from now on.
    pub(crate) fn news(&self) -> watch::Receiver<News> {
        let mut news = self.news.subscribe();
        news.mark_unchanged();
        news
    }
}

/// Has the thread do what there is to do.
pub(crate) fn ask(shared: &Shared) {
    shared.resealing.asked.store(true, Ordering::Release);
    shared.ending.look();
}

/// Starts the thread.
pub(crate) fn spawn(shared: Arc<Shared>) -> Outcome<thread::JoinHandle<()>> {
    let begun = shared.volume.resealing().because(|| "looking what is to be sealed anew".to_owned())?.is_some();
    shared.resealing.asked.store(begun, Ordering::Release);
    let run = move || {
        let asked = &shared.resealing.asked;
        while shared.ending.wait_for(|| asked.swap(false, Ordering::AcqRel)) {
            let done = shared.volume.reseal(&mut |so_far| {
                shared.resealing.news.send_modify(|news| news.so_far = *so_far);
                shared.ending.pause(PAUSE)
            });
            match &done {
                Ok(done) if done.finished => log::info!("{} files sealed anew, {} bytes", done.files, done.bytes),
                Ok(_) => continue,
                Err(e) => log::warn!("sealing anew: {e}"),
            }
            shared.resealing.news.send_modify(|news| {
                news.ends += 1;
                news.end = Some(done.map_err(|e| e.to_string()));
            });
        }
    };
    thread::Builder::new().name("p2pfs-reseal".to_owned()).spawn(run).because(|| "starting threads".to_owned())
}
