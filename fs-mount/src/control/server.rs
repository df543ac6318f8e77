//! The daemon's end of the control socket.
//!
//! Only this user and root may talk to it: the socket's folder and mode see to that, and every connection is asked
//! for its user once more. One request per connection; a client that goes away ends what was done for it.

use std::sync::atomic::Ordering;
use std::{
    fs, io,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    sync::Arc,
    time::{Duration, Instant},
};

use data_encoding::HEXLOWER;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Semaphore, watch},
    time::timeout,
};
use volume::BlockHash;

use super::{
    access, agreed,
    conflicts::{self, Choice},
    invitations, letters, log as audit_log, members,
    protocol::{Hello, Line, Progress, REQUEST_LIMIT, Reply, Request},
    request::{AboutPage, AboutSends},
    sends,
    socket::with_short_path,
};
use crate::{
    bringing_back,
    daemon::{
        Shared, blocking, keeper, resealing, upkeep,
        wait::{Waiter, too_late},
    },
    failure::{Because, Failure, Outcome},
    history_report,
    home::VolumeDir,
    report::{self, Scrubbed, Verified},
    ticket,
};

/// How long a client may take to say what it wants.
const REQUEST_TIME: Duration = Duration::from_secs(10);
/// How long repairing waits for blocks from connected peers.
const REPAIR_PATIENCE: Duration = Duration::from_secs(60);
/// How long a command that changed something waits until the kernel was told.
const TELLING: Duration = Duration::from_secs(1);
/// How often a client that waits is told how far it is, at most.
const PROGRESS_PAUSE: Duration = Duration::from_millis(100);
/// So long nobody waits; in place of what no clock can tell.
const FOR_EVER: Duration = Duration::from_secs(10 * 365 * 86400);

/// Whoever looks at what was brought back sees it, unless pages are being read for so long.
const TOLD_TIME: Duration = Duration::from_secs(10);

/// Clients at a time; more wait. Each has a descriptor.
const CLIENTS: usize = 128;
/// After a client could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Listens, and answers from now on. Called within the runtime.
pub(crate) fn serve(shared: Arc<Shared>) -> Outcome<()> {
    let listener = bind(&shared.dir).because(|| format!("listening on {}", shared.dir.socket().display()))?;
    tokio::spawn(accept(listener, shared));
    Ok(())
}

async fn accept(listener: UnixListener, shared: Arc<Shared>) {
    let places = Arc::new(Semaphore::new(CLIENTS));
    let mut failing = false;
    loop {
        let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
        match listener.accept().await {
            Ok((stream, _)) => {
                failing = false;
                let shared = shared.clone();
                tokio::spawn(async move {
                    converse(stream, shared).await;
                    drop(place);
                });
            }
            Err(e) => {
                // Out of descriptors, most likely: they come back.
                if !std::mem::replace(&mut failing, true) {
                    log::warn!("control socket: {e}: tried again until it works");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn bind(dir: &VolumeDir) -> io::Result<UnixListener> {
    let socket = dir.socket();
    // Whoever holds the volume's lock owns the socket: what is there is from one that was killed.
    match fs::remove_file(&socket) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = with_short_path(&socket, |path| UnixListener::bind(path))?;
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Removes the socket when the daemon ends.
pub(crate) fn remove_socket(dir: &VolumeDir) {
    if fs::remove_file(dir.socket()).is_err() {
        log::debug!("the control socket was gone already");
    }
}

async fn converse(stream: UnixStream, shared: Arc<Shared>) {
    let own = rustix::process::geteuid();
    let who = match stream.peer_cred() {
        Ok(peer) if peer.uid() == own.as_raw() || peer.uid() == 0 => {
            (peer.uid(), peer.pid().and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0))
        }
        _ => return log::warn!("control socket: another user was refused"),
    };
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    let Ok(Some(request)) = timeout(REQUEST_TIME, read_request(&mut reader)).await else { return };
    let last = match request {
        Ok(Request::Unmount) => return unmount(&shared, reader, writer).await,
        Ok(Request::Page(AboutPage::Refused { what })) => {
            audit_log::record_refused(&shared.volume, what, who);
            Ok(Reply::Done)
        }
        Ok(request) => {
            let deed = audit_log::deed(&request);
            let last = tokio::select! {
                last = answer(&shared, request, &mut writer) => last,
                () = hung_up(&mut reader) => {
                    return audit_log::record_left(&shared.volume, deed, who);
                }
            };
            audit_log::record(&shared.volume, deed, who, &last);
            last
        }
        Err(()) => Err(Failure::new("the daemon is of another version: unmount and mount again")),
    };
    let last = match last {
        Ok(reply) => Line::Reply(reply),
        Err(why) => Line::Failed(why.to_string()),
    };
    send(&mut writer, &last).await;
}

/// The one line a client sends; `None` when it goes away instead.
async fn read_request(reader: &mut BufReader<OwnedReadHalf>) -> Option<Result<Request, ()>> {
    let mut line = Vec::new();
    reader.take(REQUEST_LIMIT).read_until(b'\n', &mut line).await.ok()?;
    if line.is_empty() {
        return None;
    }
    Some(serde_json::from_slice(&line).map_err(|_| ()))
}

/// Completes when the client is gone.
async fn hung_up(reader: &mut BufReader<OwnedReadHalf>) {
    let mut byte = [0];
    while matches!(reader.read(&mut byte).await, Ok(1..)) {}
}

pub(super) async fn send(writer: &mut OwnedWriteHalf, line: &Line) {
    let mut text = serde_json::to_string(line).expect("an answer can be encoded");
    text.push('\n');
    if writer.write_all(text.as_bytes()).await.is_err() {
        log::debug!("control socket: a client did not wait for its answer");
    }
}

async fn answer(shared: &Arc<Shared>, request: Request, writer: &mut OwnedWriteHalf) -> Outcome<Reply> {
    let with_volume = shared.clone();
    if shared.mountpoint.is_none() && needs_keys(&request) {
        return Err(keeper::unreadable());
    }
    match request {
        Request::Hello => Ok(Reply::Hello(Hello {
            volume: shared.profile.label.clone(),
            user: shared.profile.user.clone(),
            id: shared.profile.volume.to_string(),
            mountpoint: shared.mountpoint.as_ref().map_or_else(Vec::new, |path| path.as_os_str().as_bytes().to_vec()),
            pid: std::process::id(),
            ending: shared.is_ending(),
        })),
        Request::Status => Ok(Reply::Status(Box::new(blocking(move || status(&with_volume)).await))),
        Request::Peers => Ok(Reply::Peers(blocking(move || peers(&with_volume)).await)),
        Request::Users => Ok(Reply::Users(blocking(move || report::users(&with_volume.volume)).await)),
        Request::Devices => Ok(Reply::Devices(blocking(move || report::devices(&with_volume.volume)).await)),
        Request::Invite { role, seconds } => blocking(move || invite(&with_volume, role.as_deref(), seconds)).await,
        Request::Invitations => blocking(move || invitations::list(&with_volume.volume).map(Reply::Invitations)).await,
        Request::Withdraw { id } => {
            blocking(move || {
                invitations::withdraw(&with_volume.volume, &id)?;
                with_volume.network.invitations_changed();
                Ok(Reply::Done)
            })
            .await
        }
        Request::ExportKey => {
            blocking(move || {
                let network = &with_volume.network;
                let (registries, peers) = (network.registry_addresses(), network.known_peers());
                let exported = invitations::export(&with_volume.volume, &registries, peers)?;
                Ok(Reply::ExportedKey(Box::new(exported)))
            })
            .await
        }
        Request::Wait { seconds } => wait_for_peers(shared, Duration::from_secs(seconds), writer).await,
        Request::Conflicts { within } => {
            blocking(move || conflicts::list(&with_volume.volume, &within)).await.map(Reply::Conflicts)
        }
        Request::Resolve { path, keep } => resolve(shared, path.0, keep).await,
        Request::Agreed(asked) => {
            blocking(move || agreed::answer(&with_volume.volume, &asked)).await.map(Reply::Agreed)
        }
        Request::Access(asked) => {
            let told = blocking(move || {
                let told = access::answer(&with_volume.volume, &asked);
                with_volume.wait_until_told(Instant::now() + TOLD_TIME);
                told
            })
            .await;
            told.map(Reply::Access)
        }
        Request::Members(asked) => {
            let answered = blocking(move || {
                let answered = members::answer(&with_volume.volume, &asked);
                with_volume.network.members_changed();
                with_volume.wait_until_told(Instant::now() + TELLING);
                answered
            })
            .await;
            answered.map(Reply::Members)
        }
        Request::Letters(asked) => letters::serve(shared, asked).await,
        Request::Sends(asked @ AboutSends::Send { .. }) => sends::send_and_follow(shared, asked, writer).await,
        Request::Sends(AboutSends::Follow { id }) => sends::follow(shared, id, writer).await,
        Request::Sends(asked) => sends::serve(shared, asked).await,
        Request::Log { from } => blocking(move || audit_log::page(&with_volume.volume, from).map(Reply::Log)).await,
        Request::Alerts => blocking(move || audit_log::alerts(&with_volume.volume).map(Reply::Alerts)).await,
        Request::Proofs => blocking(move || audit_log::proofs(&with_volume.volume).map(Reply::Proofs)).await,
        Request::Proof { number } => {
            blocking(move || audit_log::proof(&with_volume.volume, number).map(Reply::Proof)).await
        }
        Request::Acknowledge { number } => {
            blocking(move || Ok(Reply::Acknowledged(with_volume.volume.acknowledge_alerts(number)?))).await
        }
        Request::VerifyLog => blocking(move || audit_log::verify(&with_volume.volume).map(Reply::LogChecked)).await,
        Request::Verify { repair } => verify(shared, repair, writer).await,
        Request::Reseal => reseal(shared, writer).await,
        Request::Reclaim => blocking(move || upkeep::now(&with_volume).map(Reply::Reclaimed)).await,
        Request::AsOf { path, when } => {
            blocking(move || bringing_back::as_of(&with_volume.volume, &path, &when).map(Reply::AsOf)).await
        }
        Request::Restore(what) => {
            let restored = blocking(move || {
                let restored = bringing_back::restore(&with_volume.volume, what);
                with_volume.wait_until_told(Instant::now() + TOLD_TIME);
                restored
            })
            .await;
            restored.map(|restored| Reply::Restored(Box::new(restored)))
        }
        Request::Undo(what) => {
            let undone = blocking(move || {
                let undone = bringing_back::undo(&with_volume.volume, what);
                with_volume.wait_until_told(Instant::now() + TOLD_TIME);
                undone
            })
            .await;
            undone.map(|undone| Reply::Undone(Box::new(undone)))
        }
        Request::History { path, limit } => {
            blocking(move || Ok(Reply::History(history_report::history(&with_volume.volume, &names(&path)?, limit)?)))
                .await
        }
        Request::Base { path, one, other } => {
            blocking(move || Ok(Reply::Base(history_report::base(&with_volume.volume, &names(&path)?, &one, &other)?)))
                .await
        }
        Request::Page(AboutPage::Open { port }) => shared.page.open(shared, port).await.map(Reply::Page),
        // (That is recorded as it is asked.)
        Request::Page(AboutPage::Entered { .. } | AboutPage::Refused { .. }) => Ok(Reply::Done),
        Request::Unmount => Err(Failure::new("unmounting ends the conversation")),
    }
}

/// Whether only who can read the volume can answer.
fn needs_keys(request: &Request) -> bool {
    matches!(
        request,
        Request::Conflicts { .. }
            | Request::Resolve { .. }
            | Request::AsOf { .. }
            | Request::Restore(_)
            | Request::Undo(_)
            | Request::Reseal
            | Request::History { .. }
            | Request::Base { .. }
            | Request::Letters(_)
            | Request::Sends(_)
            | Request::Page(_)
    )
}

/// The names of a path in hexadecimal digits.
fn names(path: &str) -> Outcome<Vec<Vec<u8>>> {
    let path = HEXLOWER.decode(path.as_bytes()).map_err(|_| Failure::new("that is no path"))?;
    Ok(path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect())
}

/// Unmounts. The client learns that all is closed, and sees the connection end when the process does.
async fn unmount(shared: &Arc<Shared>, mut reader: BufReader<OwnedReadHalf>, mut writer: OwnedWriteHalf) {
    let mut finished = shared.finished();
    let task = shared.clone();
    if let Err(why) = blocking(move || task.unmount()).await {
        return send(&mut writer, &Line::Failed(why.to_string())).await;
    }
    // The sender lives as long as the daemon, so this can't fail.
    let _ = finished.wait_for(|finished| *finished).await;
    send(&mut writer, &Line::Reply(Reply::Done)).await;
    drop(finished);
    hung_up(&mut reader).await;
}

fn status(shared: &Shared) -> report::Status {
    let mut status = report::status(&shared.volume, &shared.profile);
    status.mountpoint = shared.mountpoint.as_ref().map(|path| path.display().to_string());
    status.serving = shared.mountpoint.is_none().then_some(true);
    let connected: Vec<_> = shared.network.connected().iter().map(|peer| peer.device).collect();
    status.peers_connected = connected.len();
    let said = shared.network.told_removed().filter(|_| !status.removed);
    status.said_removed_by = said.map(|said| {
        let devices = shared.volume.devices();
        let name = devices.iter().find(|device| device.id == said).map_or("a member", |device| &device.name);
        format!("{name} ({})", &said.to_string()[..8])
    });
    status.waiting = report::waiting(&shared.volume, &shared.waits(), &connected);
    status.uninspected = shared.volume.last_arrival().saturating_sub(shared.inspected.load(Ordering::Relaxed));
    status.registries = shared.network.registries();
    status.listen = shared.network.addresses().iter().map(ToString::to_string).collect();
    status
}

/// Connected peers first, then the other devices of the volume.
fn peers(shared: &Shared) -> Vec<report::Peer> {
    let mut known = report::offline_peers(&shared.volume);
    let mut peers = Vec::new();
    for connected in shared.network.connected() {
        let device = connected.device.to_string();
        let place = known.iter().position(|peer| peer.device == device);
        let known = place.map(|place| known.remove(place));
        peers.push(shared.network.report(&connected, known));
    }
    peers.extend(known);
    peers
}

fn invite(shared: &Shared, role: Option<&str>, seconds: u64) -> Outcome<Reply> {
    let invitation = ticket::Invitation { role, expires: Duration::from_secs(seconds) };
    let (registries, hints) = (shared.network.registry_addresses(), shared.network.addresses());
    let word = ticket::issue(&shared.volume, &shared.profile, invitation, registries, hints)?;
    shared.network.invitations_changed();
    Ok(Reply::Ticket(word))
}

async fn verify(shared: &Arc<Shared>, repair: bool, writer: &mut OwnedWriteHalf) -> Outcome<Reply> {
    let (told, mut news) = watch::channel(Scrubbed::default());
    let task = shared.clone();
    let verifying = blocking(move || {
        task.volume.verify(repair, &mut |checked| {
            told.send_replace(Scrubbed::of(checked));
        })
    });
    let tell = async {
        while news.changed().await.is_ok() {
            let so_far = news.borrow_and_update().clone();
            send(writer, &Line::Verifying(so_far)).await;
            tokio::time::sleep(PROGRESS_PAUSE).await;
        }
        std::future::pending::<()>().await;
    };
    let report = tokio::select! {
        report = verifying => report.because(|| "verifying".to_owned())?,
        () = tell => return Err(Failure::new("the daemon is ending")),
    };
    let mut verified = Verified { mounted: true, ..Verified::of(&report) };
    if repair {
        let asked = report.bad_blocks();
        // In vain at times: nobody who has them is connected.
        let _ = tokio::time::timeout(REPAIR_PATIENCE, fetched(shared, asked.clone())).await;
        let task = shared.clone();
        let whole: Vec<String> = blocking(move || {
            asked.iter().filter(|hash| task.volume.has_whole(hash)).map(ToString::to_string).collect()
        })
        .await;
        for damage in &mut verified.damage {
            damage.repaired |= damage.block.as_ref().is_some_and(|block| whole.contains(block));
        }
    }
    Ok(Reply::Verified(Box::new(verified)))
}

/// Has old contents sealed anew and tells how far that is; who goes away leaves it going on.
async fn reseal(shared: &Arc<Shared>, writer: &mut OwnedWriteHalf) -> Outcome<Reply> {
    let mut news = shared.resealing.news();
    let ends = news.borrow().ends;
    let task = shared.clone();
    blocking(move || task.volume.begin_reseal()).await.map_err(members::said)?;
    resealing::ask(shared);
    while news.changed().await.is_ok() {
        let resealing::News { so_far, ends: ended, end } = news.borrow_and_update().clone();
        if ended > ends
            && let Some(end) = end
        {
            let task = shared.clone();
            match end {
                Err(why) => {
                    return Err(Failure::new(format!("sealing anew: {why}: `p2pfs reseal` goes on with it")));
                }
                // What ended may have been what was asked for before.
                Ok(done) if !blocking(move || task.volume.resealing()).await.is_ok_and(|job| job.is_some()) => {
                    return Ok(Reply::Resealed(done));
                }
                Ok(_) => {}
            }
        }
        send(writer, &Line::Resealing(so_far)).await;
        // The end is waited for by who sees it come.
        if ended == ends {
            tokio::time::sleep(PROGRESS_PAUSE).await;
        }
    }
    Err(Failure::new("the daemon is ending"))
}

/// Returns when all these blocks are here, or nobody is connected.
async fn fetched(shared: &Arc<Shared>, blocks: Vec<BlockHash>) {
    let mut changes = shared.network.changes();
    loop {
        changes.mark_unchanged();
        let (task, asked) = (shared.clone(), blocks.clone());
        let all = blocking(move || asked.iter().all(|hash| task.volume.has_whole(hash))).await;
        if all
            || !tokio::task::block_in_place(|| shared.network.anybody_connected())
            || changes.changed().await.is_err()
        {
            return;
        }
    }
}

/// Returns when whoever looks into the mount sees what is here: the kernel keeps what it was not told to forget.
async fn shown(shared: &Arc<Shared>, deadline: Instant) -> Outcome<Reply> {
    let task = shared.clone();
    // Being in step may have taken all the time there was.
    let deadline = deadline.max(Instant::now() + Duration::from_secs(1));
    match blocking(move || task.wait_until_told(deadline)).await {
        true => Ok(Reply::Done),
        false => Err(Failure::new("time is up while older contents are still being read: wait again")),
    }
}

async fn resolve(shared: &Arc<Shared>, path: Vec<u8>, keep: Choice) -> Outcome<Reply> {
    let task = shared.clone();
    blocking(move || {
        task.volume.resolve(&path, &keep.keep())?;
        // Who looks next sees it. (What is being read, maybe from far away, may have to be waited for: not here.)
        task.wait_until_told(Instant::now() + TELLING);
        Ok(Reply::Done)
    })
    .await
}

async fn wait_for_peers(shared: &Arc<Shared>, limit: Duration, writer: &mut OwnedWriteHalf) -> Outcome<Reply> {
    let volume = shared.volume.clone();
    blocking(move || volume.commit_now()).await.because(|| "writing the last changes".to_owned())?;
    if shared.volume.devices().len() < 2 {
        return Err(Failure::new("this is the volume's only device: make a ticket for another with `p2pfs invite`"));
    }
    // Whoever waits for longer than there is time waits for ever.
    let deadline = Instant::now().checked_add(limit).unwrap_or_else(|| Instant::now() + FOR_EVER);
    let (told, mut news) = watch::channel(Progress::default());
    let mut waiter = Waiter::new(&shared.volume, &shared.network);
    let in_step = waiter.until_in_step(|how_far| {
        told.send_replace(how_far);
    });
    let tell = async {
        while news.changed().await.is_ok() {
            let how_far = news.borrow_and_update().clone();
            send(writer, &Line::Progress(how_far)).await;
            tokio::time::sleep(PROGRESS_PAUSE).await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        // When the time is up just as everybody is in step, they are in step.
        biased;
        () = in_step => shown(shared, deadline).await,
        () = tokio::time::sleep(limit) => {
            let how_far = news.borrow().clone();
            Err(Failure::new(too_late(&how_far)))
        }
        () = tell => Err(Failure::new("the daemon is ending")),
    }
}
