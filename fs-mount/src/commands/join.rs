//! `p2pfs join`: an identity in somebody else's volume, and the volume's records on this machine.
//!
//! Whole or nothing: everything happens in a folder that gets its name at the very end.

use crypto::{DeviceKeys, OsEntropy, SymmetricKey, UserKeys};
use peer_net::{
    join::join,
    ticket::{BadTicket, Ticket},
};
use volume::Volume;

use crate::{
    cli::Join,
    failure::{Because, Failure, Outcome},
    home::{Home, NewVolumeDir},
    open_volume::{Stores, close},
    output::{self, count},
    profile::{Profile, State},
    progress::Bar,
    select::refuse_taken_label,
    unlock::{new_passphrase, new_unlock},
};

pub(crate) fn run(home: &Home, args: Join) -> Outcome<()> {
    let ticket: Ticket = args.ticket.parse().map_err(|e: BadTicket| Failure::new(e.to_string()))?;
    if home.volume_of(&ticket.volume).exists() {
        return Err(Failure::new("this volume is on this machine already: see `p2pfs volumes`"));
    }
    let passphrase = new_passphrase(args.keys.passphrase_file.as_deref(), args.keys.no_passphrase)?;
    refuse_taken_label(home, &args.volume, passphrase.as_ref())?;
    let entropy = OsEntropy;
    let dir = home.start_volume(&entropy)?;
    let unlock = new_unlock(dir.path(), passphrase, &entropy)?;
    let profile = Profile::new(
        &args.volume,
        &args.name,
        ticket.volume,
        ticket.registries.clone(),
        SymmetricKey::generate(&entropy),
        &DeviceKeys::generate(&entropy),
        &UserKeys::generate(&entropy),
    );
    // Before anybody is asked: a full disk must not cost the ticket.
    profile.save(&dir, &unlock, &entropy)?;
    redeem(&dir, &ticket, &profile)?;
    let dir = dir.finish(&profile.volume)?;

    output::line(&format!(
        "joined volume {} ({}) as {}\nnext: `p2pfs mount` mounts it at ~/p2pfs",
        profile.label,
        &dir.short_id()[..8],
        profile.user,
    ))
}

/// Gets this device admitted and takes the volume's records over.
///
/// Once it is admitted the ticket is spent and the name taken, so from then on nothing is thrown away: when the
/// connection breaks, the rest comes when the volume is mounted.
fn redeem(dir: &NewVolumeDir, ticket: &Ticket, profile: &Profile) -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .because(|| "starting threads".to_owned())?;
    let Stores { parts, packs } = Stores::open(dir.path(), profile)?;
    let joined = runtime.block_on(async {
        let (user, device) = (profile.user_keys(), profile.device_keys());
        let joined =
            join(ticket, &profile.user, &user, &device, None).await.map_err(|e| Failure::new(e.to_string()))?;
        let volume = Volume::load(parts, ticket.volume).because(|| "opening the volume".to_owned())?;
        volume.accept(&joined.grant).because(|| "taking the volume's keys".to_owned())?;
        let bar = Bar::new("taking over the volume");
        let synced = joined
            .first_sync(&volume, |done, total| bar.at(done, total, format!("{done} of {}", count(total, "commit"))))
            .await;
        drop(bar);
        let peers = synced.unwrap_or_else(|e| {
            output::note(&format!("{e}: it goes on when the volume is mounted"));
            Vec::new()
        });
        close(&volume, &packs)?;
        State { peers, ..State::default() }.save(dir.path(), &profile.secret, &OsEntropy);
        Ok(())
    });
    // Everything that has the store open must be gone before it moves.
    drop(runtime);
    joined
}
