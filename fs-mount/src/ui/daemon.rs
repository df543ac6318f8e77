//! What the page asks of the daemon: the same as the command line, over the same socket.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use volume::{Alert, Letter};

use crate::{
    bringing_back::{AsOf, Restored, ToRestore, ToUndo, Undone, When},
    control::{
        access::{Access, Told},
        agreed::{Agreed, Setting, Snapshot},
        client::{self, unexpected},
        conflicts::Conflicts,
        invitations::Open,
        log::Page,
        members::{Members, Quarantined},
        protocol::{Reply, Request},
        request::{AboutAccess, AboutAgreed, AboutLetters, AboutMembers, AboutPage, AboutSends, Bytes, Names},
    },
    daemon::sends::{Transfer, Unasked},
    failure::{Failure, Outcome},
    history_report::Event,
    home::VolumeDir,
    report::{Device, Peer, Status, User},
};

/// So many refused requests of a kind are recorded in [`MINUTE`] one by one: nobody fills the log with them.
const RECORDED: usize = 10;
const MINUTE: Duration = Duration::from_secs(60);

/// The daemon that this page belongs to.
#[derive(Clone)]
pub(super) struct Daemon {
    dir: Arc<VolumeDir>,
    /// By what it says of them.
    refused: Arc<Mutex<BTreeMap<&'static str, Refusals>>>,
}

#[derive(Default)]
struct Refusals {
    lately: Vec<Instant>,
    more: u64,
}

impl Refusals {
    /// What to record of one more, if anything.
    fn one_more(&mut self, what: &str, now: Instant) -> Option<String> {
        self.lately.retain(|refused| now.duration_since(*refused) < MINUTE);
        if self.lately.len() >= RECORDED {
            self.more += 1;
            return None;
        }
        self.lately.push(now);
        match std::mem::take(&mut self.more) {
            0 => Some(what.to_owned()),
            more => Some(format!("{what}; and {more} more before that, which were only counted")),
        }
    }
}

impl Daemon {
    pub(super) fn new(dir: VolumeDir) -> Self {
        Self { dir: Arc::new(dir), refused: Arc::default() }
    }

    /// Asks it.
    pub(super) async fn ask(&self, request: Request) -> Outcome<Reply> {
        let dir = self.dir.clone();
        let asked = tokio::task::spawn_blocking(move || client::ask(&dir, &request)).await;
        asked
            .unwrap_or_else(|_| Err(Failure::new("asking the daemon failed: its log tells why")))?
            .ok_or_else(|| Failure::new("the volume is not mounted any more: `p2pfs mount`, then `p2pfs ui`"))
    }

    /// Does what answers nothing but that it is done.
    pub(super) async fn done(&self, request: Request) -> Outcome<()> {
        self.ask(request).await.map(drop)
    }

    /// Has a refused request recorded; nobody waits for that.
    pub(super) fn refused(&self, what: &'static str) {
        let Some(what) = self.refused.lock().entry(what).or_default().one_more(what, Instant::now()) else { return };
        let daemon = self.clone();
        tokio::spawn(async move { daemon.done(Request::Page(AboutPage::Refused { what })).await });
    }

    /// Has it recorded that a browser was let in.
    pub(super) async fn entered(&self, browser: String) -> Outcome<()> {
        self.done(Request::Page(AboutPage::Entered { browser })).await
    }

    pub(super) async fn status(&self) -> Outcome<Status> {
        expect(self.ask(Request::Status).await?, |reply| if let Reply::Status(it) = reply { Some(*it) } else { None })
    }

    pub(super) async fn peers(&self) -> Outcome<Vec<Peer>> {
        expect(self.ask(Request::Peers).await?, |reply| if let Reply::Peers(it) = reply { Some(it) } else { None })
    }

    pub(super) async fn users(&self) -> Outcome<Vec<User>> {
        expect(self.ask(Request::Users).await?, |reply| if let Reply::Users(it) = reply { Some(it) } else { None })
    }

    pub(super) async fn devices(&self) -> Outcome<Vec<Device>> {
        expect(self.ask(Request::Devices).await?, |reply| if let Reply::Devices(it) = reply { Some(it) } else { None })
    }

    pub(super) async fn invitations(&self) -> Outcome<Vec<Open>> {
        let reply = self.ask(Request::Invitations).await?;
        expect(reply, |reply| if let Reply::Invitations(it) = reply { Some(it) } else { None })
    }

    pub(super) async fn invite(&self, role: Option<String>, seconds: u64) -> Outcome<String> {
        let reply = self.ask(Request::Invite { role, seconds }).await?;
        expect(reply, |reply| if let Reply::Ticket(it) = reply { Some(it) } else { None })
    }

    pub(super) async fn members(&self, asked: AboutMembers) -> Outcome<Members> {
        let reply = self.ask(Request::Members(asked)).await?;
        expect(reply, |reply| if let Reply::Members(it) = reply { Some(it) } else { None })
    }

    pub(super) async fn quarantine(&self) -> Outcome<Vec<Quarantined>> {
        match self.members(AboutMembers::Quarantine { id: None }).await? {
            Members::Quarantine(kept) => Ok(kept),
            _ => Err(unexpected()),
        }
    }

    pub(super) async fn conflicts(&self) -> Outcome<Conflicts> {
        let reply = self.ask(Request::Conflicts { within: Bytes::default() }).await?;
        expect(reply, |reply| if let Reply::Conflicts(it) = reply { Some(it) } else { None })
    }

    pub(super) async fn letters(&self, from: u64) -> Outcome<Vec<Letter>> {
        let reply = self.ask(Request::Letters(AboutLetters::List { from })).await?;
        expect(reply, |reply| if let Reply::Letters(it) = reply { Some(it) } else { None })
    }

    pub(super) async fn transfers(&self) -> Outcome<Vec<Transfer>> {
        let reply = self.ask(Request::Sends(AboutSends::List)).await?;
        expect(reply, |reply| if let Reply::Transfers(it) = reply { Some(it) } else { None })
    }

    pub(super) async fn unasked(&self) -> Outcome<Vec<Unasked>> {
        let reply = self.ask(Request::Sends(AboutSends::Unasked)).await?;
        expect(reply, |reply| if let Reply::Unasked(it) = reply { Some(it) } else { None })
    }

    pub(super) async fn alerts(&self) -> Outcome<Vec<Alert>> {
        expect(self.ask(Request::Alerts).await?, |reply| if let Reply::Alerts(it) = reply { Some(it) } else { None })
    }

    pub(super) async fn log(&self, from: u64) -> Outcome<Page> {
        expect(self.ask(Request::Log { from }).await?, |reply| if let Reply::Log(it) = reply { Some(it) } else { None })
    }

    pub(super) async fn settings(&self) -> Outcome<Vec<Setting>> {
        match self.ask(Request::Agreed(AboutAgreed::Settings)).await? {
            Reply::Agreed(Agreed::Settings(all)) => Ok(all),
            _ => Err(unexpected()),
        }
    }

    pub(super) async fn snapshots(&self) -> Outcome<Vec<Snapshot>> {
        match self.ask(Request::Agreed(AboutAgreed::Snapshots)).await? {
            Reply::Agreed(Agreed::Snapshots(all)) => Ok(all),
            _ => Err(unexpected()),
        }
    }

    pub(super) async fn access(&self, path: Names) -> Outcome<Access> {
        match self.ask(Request::Access(AboutAccess::Show { path })).await? {
            Reply::Access(Told::Access(access)) => Ok(access),
            _ => Err(unexpected()),
        }
    }

    pub(super) async fn history(&self, path: &Names, limit: usize) -> Outcome<Vec<Event>> {
        let path = Bytes(path.join(&b'/')).into();
        let reply = self.ask(Request::History { path, limit }).await?;
        expect(reply, |reply| if let Reply::History(it) = reply { Some(it) } else { None })
    }

    /// Brings back what was at a path; or tells what that would do.
    pub(super) async fn restore(&self, path: Names, when: When, dry_run: bool) -> Outcome<Restored> {
        let reply = self.ask(Request::AsOf { path: path.clone(), when }).await?;
        let as_of: AsOf = expect(reply, |reply| if let Reply::AsOf(it) = reply { Some(it) } else { None })?;
        let what = ToRestore { to: path.clone(), path, at: as_of.arrival, exact: false, dry_run };
        let reply = self.ask(Request::Restore(what)).await?;
        expect(reply, |reply| if let Reply::Restored(it) = reply { Some(*it) } else { None })
    }

    pub(super) async fn undo(&self, what: ToUndo) -> Outcome<Undone> {
        let reply = self.ask(Request::Undo(what)).await?;
        expect(reply, |reply| if let Reply::Undone(it) = reply { Some(*it) } else { None })
    }
}

fn expect<T>(reply: Reply, wanted: impl FnOnce(Reply) -> Option<T>) -> Outcome<T> {
    wanted(reply).ok_or_else(unexpected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_fill_no_log() {
        let (mut refusals, now) = (Refusals::default(), Instant::now());
        let recorded = (0..1000).filter(|_| refusals.one_more("x", now).is_some()).count();
        assert_eq!(recorded, RECORDED);
        let later = refusals.one_more("x", now + MINUTE).unwrap();
        assert_eq!(later, format!("x; and {} more before that, which were only counted", 1000 - RECORDED));
    }
}
