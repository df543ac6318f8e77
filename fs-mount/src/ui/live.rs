//! What changes, as it changes: told to every page that is open and looked at.
//!
//! While somebody listens, one task asks the daemon now and then and tells which sections are not what they were. What they are
//! now, pages fetch themselves: the same way as at first, with the same checks.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use axum::response::{
    IntoResponse, Sse,
    sse::{Event, KeepAlive},
};
use futures_util::stream;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::broadcast::{self, error::RecvError};
use volume::audit::{Entry, Op};

use super::{
    Page,
    forms::{Answer, Problem, Visit},
    links::encoded,
    transfers::is_offered,
};
use crate::{
    failure::Outcome,
    report::{Peer, Status},
};

/// How often it is asked.
const EVERY: Duration = Duration::from_secs(1);
/// Of how many of these rounds one asks for what changes seldom, or without end.
const SELDOM: u64 = 10;
/// Pages that listen at a time.
const LISTENERS: usize = 24;
/// Paths that are told one by one; of more, that anything may have changed.
const PATHS: usize = 100;

/// Who listens.
#[derive(Default)]
pub(super) struct Live(Mutex<Option<broadcast::Sender<Arc<str>>>>);

/// What changed.
#[derive(Debug, Default, Serialize)]
struct News {
    sections: BTreeSet<&'static str>,
    /// What is at these, as they are in addresses; `*` for anything.
    paths: BTreeSet<String>,
    /// To be read to who doesn't see it.
    say: Option<String>,
}

impl News {
    /// Adds something to be read.
    fn say(&mut self, text: &str) {
        let said = self.say.take();
        self.say = Some(said.map_or_else(|| text.to_owned(), |said| format!("{said}. {text}")));
    }
}

/// The stream of it.
pub(super) async fn events(visit: Visit) -> Answer {
    let busy = || Problem::unfit("Many pages are open already. Close some.");
    let receiver = subscribe(&visit.page).ok_or_else(busy)?;
    // What changed since the page was made, and before somebody listened.
    let missed = match visit.query.get("seen").and_then(|seen| seen.parse::<u64>().ok()) {
        // (The answer to a form hasn't looked.)
        Some(seen) if seen > 0 => since(&visit.page, seen).await?,
        _ => None,
    };
    let told = stream::unfold((missed, receiver, visit), async |(missed, mut receiver, visit)| {
        let event = match missed {
            Some(missed) => Event::default().data(missed),
            None => match receiver.recv().await {
                Ok(news) => Event::default().data(news),
                // Too slow for all of it: everything may have changed.
                Err(RecvError::Lagged(_)) => Event::default().data(r#"{"sections":["all"],"paths":["*"],"say":null}"#),
                Err(RecvError::Closed) => return None,
            },
        };
        let lives = visit.page.sessions.lives(&visit.session);
        lives.then_some((Ok::<_, std::convert::Infallible>(event), (None, receiver, visit)))
    });
    Ok(Sse::new(told).keep_alive(KeepAlive::default()).into_response())
}

/// What the log tells of since it had so many entries.
async fn since(page: &Page, seen: u64) -> Outcome<Option<String>> {
    let entries = page.daemon.log(seen.saturating_add(1)).await?.entries;
    let mut news = News::default();
    entries.iter().for_each(|entry| note(entry, &mut news));
    if !entries.is_empty() {
        // What that has in the frame isn't told of anywhere else.
        news.sections.extend(["log", "frame"]);
    }
    Ok((!entries.is_empty()).then(|| serde_json::to_string(&news).expect("news can be encoded")))
}

fn subscribe(page: &Arc<Page>) -> Option<broadcast::Receiver<Arc<str>>> {
    let mut live = page.live.0.lock();
    if let Some(sender) = &*live {
        return (sender.receiver_count() < LISTENERS).then(|| sender.subscribe());
    }
    let (sender, receiver) = broadcast::channel(64);
    *live = Some(sender.clone());
    let page = page.clone();
    tokio::spawn(async move {
        let mut watch = Watch::default();
        loop {
            match watch.round(&page).await {
                Ok(Some(news)) => {
                    // Nobody may listen just now.
                    let _ = sender.send(serde_json::to_string(&news).expect("news can be encoded").into());
                }
                Ok(None) => {}
                // The daemon ends: so does this process.
                Err(_) => ::log::debug!("page: the daemon does not answer"),
            }
            tokio::time::sleep(EVERY).await;
            let mut live = page.live.0.lock();
            if sender.receiver_count() == 0 {
                *live = None;
                return;
            }
        }
    });
    Some(receiver)
}

/// What was told last.
#[derive(Default)]
struct Watch {
    rounds: u64,
    status: Option<Status>,
    peers: String,
    transfers: String,
    /// What is offered to this device, and by whom.
    offers: BTreeMap<u64, String>,
    /// Both begin at the first round: pages are new then.
    log: Option<u64>,
    letters: Option<u64>,
}

impl Watch {
    async fn round(&mut self, page: &Page) -> Outcome<Option<News>> {
        let (mut news, first) = (News::default(), self.rounds == 0);
        self.rounds += 1;
        let status = page.daemon.status().await?;
        if let Some(before) = &self.status {
            news.sections.extend(differing(before, &status));
            if status.alerts > before.alerts {
                news.say("Something looks like an attack: a new alert");
            }
        }
        self.status = Some(status);
        let mut peers = page.daemon.peers().await?;
        peers.iter_mut().for_each(steady);
        let text = serde_json::to_string(&peers).unwrap_or_default();
        // (What always differs is told every so often.)
        let due = self.rounds.is_multiple_of(SELDOM) && peers.iter().any(|peer| peer.connected);
        if std::mem::replace(&mut self.peers, text.clone()) != text || due {
            news.sections.insert("peers");
        }
        let transfers = page.daemon.transfers().await?;
        let text = serde_json::to_string(&transfers).unwrap_or_default();
        if std::mem::replace(&mut self.transfers, text.clone()) != text {
            news.sections.insert("sends");
        }
        let offers = transfers.iter().filter(|transfer| is_offered(transfer));
        let offers: BTreeMap<u64, String> = offers.map(|transfer| (transfer.id, transfer.user.clone())).collect();
        if offers != self.offers {
            news.sections.insert("frame");
        }
        for (_, user) in offers.iter().filter(|(id, _)| !self.offers.contains_key(id)) {
            news.say(&format!("{user} offers to send something"));
        }
        self.offers = offers;
        self.look_into_log(page, &mut news).await?;
        self.look_for_letters(page, &mut news).await?;
        let is_news = !news.sections.is_empty() || !news.paths.is_empty();
        Ok((is_news && !first).then_some(news))
    }

    async fn look_into_log(&mut self, page: &Page, news: &mut News) -> Outcome<()> {
        let from = self.log.unwrap_or(u64::MAX);
        let found = page.daemon.log(from).await?;
        let next = if self.log.is_none() { found.end + 1 } else { found.next };
        if self.log.replace(next) != Some(next) {
            news.sections.insert("log");
        }
        for entry in &found.entries {
            note(entry, news);
        }
        Ok(())
    }

    async fn look_for_letters(&mut self, page: &Page, news: &mut News) -> Outcome<()> {
        let Some(mut from) = self.letters else {
            // Those before were there when the page was shown.
            self.letters = Some(page.talks.next(&page.daemon).await?);
            return Ok(());
        };
        let mut heard = None;
        loop {
            let letters = page.daemon.letters(from).await?;
            let Some(last) = letters.last() else { break };
            from = last.n + 1;
            news.sections.insert("letters");
            if let Some(letter) = letters.iter().rfind(|letter| !letter.own) {
                heard = Some(format!("New message from {}", letter.from));
            }
        }
        if let Some(heard) = heard {
            news.say(&heard);
        }
        self.letters = Some(from);
        Ok(())
    }
}

/// Which sections tell of what differs. Counters that grow with everything that is done, and times, are nothing to see.
fn differing(before: &Status, now: &Status) -> Vec<&'static str> {
    let shown = |status: &Status| {
        let mut shown = status.clone();
        (shown.commits, shown.pending, shown.nodes, shown.uninspected) = (0, 0, 0, 0);
        (shown.following, shown.resealing, shown.used) = (0, None, None);
        shown.waiting.iter_mut().for_each(|file| file.seconds = 0);
        serde_json::to_string(&shown).unwrap_or_default()
    };
    let in_frame = |status: &Status| {
        (
            (status.peers_connected, status.peers_known),
            (status.unread, status.conflicts, status.alerts, status.kept_aside),
        )
    };
    // One more version of what is in conflict already isn't counted.
    let conflicts = before.conflicts != now.conflicts || now.conflicts > 0 && before.commits != now.commits;
    let sections = [
        ("frame", in_frame(before) != in_frame(now)),
        ("status", shown(before) != shown(now)),
        ("conflicts", conflicts),
        ("alerts", before.alerts != now.alerts),
        ("letters", before.unread != now.unread),
    ];
    sections.into_iter().filter(|(_, differs)| *differs).map(|(section, _)| section).collect()
}

/// Takes out what differs whenever it is asked for.
fn steady(peer: &mut Peer) {
    peer.rtt_ms = None;
    peer.connected_seconds = None;
}

/// What an entry of the log says of what pages show.
fn note(entry: &Entry, news: &mut News) {
    match entry.op {
        Op::Membership | Op::Invitation => {
            news.sections.insert("members");
        }
        Op::Alert => {
            news.sections.insert("alerts");
        }
        Op::Settle => {
            news.sections.insert("conflicts");
        }
        Op::Settings | Op::Snapshot => {
            news.sections.insert("settings");
        }
        Op::Send => {
            news.sections.insert("sends");
        }
        Op::Message => {
            // Of one that was sent it is told here when it arrives.
            news.sections.insert("letters");
        }
        _ => {}
    }
    let looks = matches!(entry.op, Op::Read | Op::List | Op::Stat);
    for path in [&entry.path, &entry.to].into_iter().flatten().filter(|_| !looks) {
        if news.paths.len() < PATHS {
            news.paths.insert(encoded(path.as_bytes()));
        } else {
            news.paths.insert("*".to_owned());
        }
    }
}
