//! The keeper: one process that serves all volumes of which this device is a keeper, without a mount.

use std::{net::SocketAddr, sync::Arc};

use tokio::sync::watch;

use super::{
    Alerting, Failure, KEEPER, Outcome, Own, Passphrase, Running, Signals, Wanted, begin, blocking, remember_peers,
    server, tell_service_manager, the_runtime,
};
use crate::{home::VolumeDir, report};

/// What the keeper is to do.
pub(crate) struct Config {
    pub(crate) volumes: Vec<Kept>,
    /// The first volume's address; those that follow have the next ports, whether those before them open or not.
    pub(crate) listen: Option<SocketAddr>,
    /// How many bytes of the disk each volume may take.
    pub(crate) quota: Option<u64>,
    /// Where metrics are served, if anywhere.
    pub(crate) metrics: Option<SocketAddr>,
    pub(crate) alerts: Wanted,
}

/// A volume that may be kept.
pub(crate) struct Kept {
    pub(crate) dir: VolumeDir,
    pub(crate) passphrase: Option<Passphrase>,
    /// It was asked for by name: that this device can't keep it is a failure.
    pub(crate) named: bool,
}

/// A volume that is served, as it is told to whoever started the keeper.
pub(crate) struct Served {
    pub(crate) label: String,
    pub(crate) id: String,
    pub(crate) warnings: Vec<String>,
}

/// Serves until it is asked to end; `ready` is called once all are served.
pub(crate) fn run(config: Config, ready: impl FnOnce(Vec<Served>)) -> Outcome<()> {
    begin()?;
    let runtime = the_runtime()?;
    let door = runtime.block_on(super::metrics::bind(config.metrics))?;
    let alerting = runtime.block_on(async { Arc::new(Alerting::start(&config.alerts)) });
    let stop = Arc::new(watch::Sender::new(false));
    let mut running = Vec::new();
    let mut lived = Ok(());
    let mut left_alone = None;
    // Those that are kept, whether they open or not: each has the same port the next time.
    let mut nth = 0;
    for kept in config.volumes {
        let (named, short) = (kept.named, kept.dir.short_id()[..8].to_owned());
        let listen = config.listen.map(|first| next_port(first, nth)).transpose();
        match listen.and_then(|listen| start(kept, listen, config.quota, &alerting, &stop)) {
            Ok(started) => {
                nth += usize::from(started.is_some());
                running.extend(started);
            }
            Err(why) if named => {
                lived = Err(why);
                break;
            }
            // The members of the others are served all the same.
            Err(why) => {
                log::warn!("volume {short} is left alone: {why}");
                nth += 1;
                left_alone = left_alone.or(Some(why));
            }
        }
    }
    if lived.is_ok() && running.is_empty() {
        let none =
            "this device is no keeper of any volume here: ask an admin for a ticket (`p2pfs invite --role keeper`)";
        lived = Err(left_alone.unwrap_or_else(|| Failure::new(none)));
    }
    let shared = running.iter().map(|running| running.shared.clone()).collect();
    let watched = runtime.block_on(async { door.map(|door| door.serve(shared)) });
    let lived = lived.and_then(|()| runtime.block_on(live(&running, &stop, ready)));
    if let Some(watched) = watched {
        runtime.block_on(watched.end());
    }
    // All end before the first client is told, which takes that for the end of the process.
    let ended: Vec<_> = running.into_iter().map(|running| running.end(Ok(()))).collect();
    let mut outcome = lived;
    for (shared, ended) in ended {
        runtime.block_on(shared.say_finished());
        outcome = outcome.and(ended);
    }
    outcome
}

fn next_port(first: SocketAddr, nth: usize) -> Outcome<SocketAddr> {
    let port = match first.port() {
        0 => Some(0),
        port => u16::try_from(nth).ok().and_then(|nth| port.checked_add(nth)),
    };
    let port = port.ok_or_else(|| Failure::new("there are not enough ports behind the one given with --listen"))?;
    Ok(SocketAddr::new(first.ip(), port))
}

/// Opens a volume and connects it; nothing if this device is no keeper of it, and nobody asked for it.
fn start(
    kept: Kept,
    listen: Option<SocketAddr>,
    quota: Option<u64>,
    alerting: &Arc<Alerting>,
    stop: &Arc<watch::Sender<bool>>,
) -> Outcome<Option<Running>> {
    let short = kept.dir.short_id()[..8].to_owned();
    let own = Own::take(kept.dir, kept.passphrase.as_ref())?.open()?;
    if !own.volume.is_keeper() {
        own.close()?;
        if kept.named {
            return Err(Failure::new(format!("this device is no keeper of volume {short}: `p2pfs mount` mounts it")));
        }
        return Ok(None);
    }
    own.volume.set_quota(quota);
    let running = own.start(alerting, None, listen, &[], stop.clone())?;
    let served = the_runtime()?.block_on(async { server::serve(running.shared.clone()) });
    if let Err(why) = served {
        let (_, ended) = running.end(Err(why));
        return ended.map(|()| None);
    }
    Ok(Some(running))
}

async fn live(running: &[Running], stop: &watch::Sender<bool>, ready: impl FnOnce(Vec<Served>)) -> Outcome<()> {
    let mut signals = Signals::listen()?;
    let mut served = Vec::new();
    for Running { shared, .. } in running {
        let mut warnings = shared.network.registry_warnings(super::REGISTRY_PATIENCE).await;
        let task = shared.clone();
        warnings.extend(blocking(move || report::older_copy(&task.volume)).await);
        let task = shared.clone();
        blocking(move || task.remember_grant()).await;
        tokio::spawn(remember_peers(shared.clone()));
        log::info!("volume {} is served", &shared.dir.short_id()[..8]);
        let (label, id) = (shared.profile.label.clone(), shared.dir.short_id()[..8].to_owned());
        served.push(Served { label, id, warnings });
    }
    tell_service_manager(&[sd_notify::NotifyState::Ready]);
    ready(served);
    let mut stopped = stop.subscribe();
    tokio::select! {
        _ = stopped.wait_for(|stopped| *stopped) => (),
        () = signals.next() => (),
    }
    log::info!("asked to end");
    Ok(())
}

/// What else is asked of a keeper.
pub(crate) fn unreadable() -> Failure {
    Failure::new(format!("{KEEPER}: ask a member who has a mount"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_volume_has_the_next_port() {
        let first: SocketAddr = "[::]:4480".parse().unwrap();
        assert_eq!(next_port(first, 0).unwrap(), first);
        assert_eq!(next_port(first, 2).unwrap().port(), 4482);
        assert_eq!(next_port("127.0.0.1:0".parse().unwrap(), 2).unwrap().port(), 0);
        assert!(next_port("127.0.0.1:65535".parse().unwrap(), 1).is_err());
    }
}
