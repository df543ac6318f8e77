//! `p2pfs keeper`: stores and serves, without a mount, the volumes of which this device is a keeper.

use crypto::Unlock;

use crate::{
    cli::Keeper,
    control::client,
    daemon::keeper::{self, Config, Kept, Served},
    failure::Outcome,
    home::Home,
    output,
    profile::Profile,
    select::{Chosen, choose_with},
    unlock::{ask_passphrase, read_passphrase, unlock_unasked},
    volume_lock::already_mounted,
};

pub(crate) fn run(home: &Home, args: Keeper) -> Outcome<()> {
    let volumes = if args.volume.is_empty() { all(home, &args)? } else { named(home, &args)? };
    let (metrics, alerts) = (args.operating.metrics, args.operating.alerts());
    let config = Config { volumes, listen: args.listen, quota: args.quota, metrics, alerts };
    keeper::run(config, |served| {
        // Whether anybody reads it makes no difference to those who are served.
        let _ = announce(&served);
    })
}

fn named(home: &Home, args: &Keeper) -> Outcome<Vec<Kept>> {
    let mut volumes: Vec<Kept> = Vec::new();
    let given = args.passphrase_file.as_deref().map(read_passphrase).transpose()?;
    let mut typed = None;
    for volume in &args.volume {
        let at_hand = given.clone().or_else(|| typed.clone());
        let chosen = match choose_with(home, Some(volume), at_hand, true) {
            // What was typed for another one may not open it.
            Err(_) if given.is_none() && typed.is_some() => choose_with(home, Some(volume), None, true),
            chosen => chosen,
        };
        let Chosen { dir, passphrase } = chosen?;
        if volumes.iter().any(|other| other.dir.path() == dir.path()) {
            continue;
        }
        dir.check_format()?;
        if let Some(hello) = client::hello(&dir)?.filter(|hello| !hello.ending) {
            return Err(already_mounted(&dir, hello));
        }
        let passphrase = match unlock_unasked(&dir, passphrase.as_ref())? {
            // What was typed for one of them may be another one's as well, or not.
            Some(Unlock::Key(_)) => passphrase,
            Some(unlock) if given.is_some() || Profile::peek(&dir, &unlock).is_ok() => passphrase,
            _ => Some(ask_passphrase(&dir)?),
        };
        typed = typed.or_else(|| passphrase.clone());
        volumes.push(Kept { dir, passphrase, named: true });
    }
    Ok(volumes)
}

/// All that are neither in use nor locked; which of them are to be kept shows when they are opened.
fn all(home: &Home, args: &Keeper) -> Outcome<Vec<Kept>> {
    let passphrase = args.passphrase_file.as_deref().map(read_passphrase).transpose()?;
    let mut volumes = Vec::new();
    for dir in home.volumes()? {
        let short = dir.short_id()[..8].to_owned();
        match client::hello(&dir) {
            Ok(hello) if hello.as_ref().is_none_or(|hello| hello.ending) => {}
            Ok(_) => {
                output::note(&format!("volume {short} is in use here: it is left alone"));
                continue;
            }
            Err(why) => {
                output::note(&format!("volume {short} is left alone: {why}"));
                continue;
            }
        }
        match unlock_unasked(&dir, passphrase.as_ref()) {
            Ok(None) => {
                output::note(&format!("volume {short} is locked: it is left alone (--passphrase-file opens it)"));
            }
            // Why one can't be opened is told when it is tried.
            _ => volumes.push(Kept { dir, passphrase: passphrase.clone(), named: false }),
        }
    }
    Ok(volumes)
}

fn announce(served: &[Served]) -> Outcome<()> {
    for warning in served.iter().flat_map(|one| &one.warnings) {
        output::note(&format!("warning: {warning}"));
    }
    let lines: Vec<String> = served.iter().map(|one| format!("keeping volume {} ({})", one.label, one.id)).collect();
    output::lines(&lines)
}
