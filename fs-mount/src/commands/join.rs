//! `p2pfs join`: an identity in somebody else's volume, and the volume's records on this machine.
//!
//! Everything happens in a folder that gets its name at the very end. Before anybody is asked the keys are in it, for
//! good: whoever lets this device in knows it from then on, and a join that is run again goes on as the same device.

use std::fs;

use crypto::{DeviceKeys, OsEntropy, SymmetricKey, Unlock, UserKeys};
use peer_net::{
    join::{JoinError, join},
    ticket::{BadTicket, Ticket},
};
use volume::Volume;

use crate::{
    cli::Join,
    failure::{Because, Failure, Outcome},
    home::{Home, NewVolumeDir, VolumeDir},
    open_volume::{Stores, close},
    output::{self, count},
    profile::{Profile, State},
    progress::Bar,
    select::refuse_taken_label,
    unlock::{KEY_NAME, Passphrase, new_passphrase, new_unlock, unlock_unasked},
};

pub(crate) fn run(home: &Home, args: Join) -> Outcome<()> {
    let ticket: Ticket = args.ticket.parse().map_err(|e: BadTicket| Failure::new(e.to_string()))?;
    let place = home.volume_of(&ticket.volume);
    if place.exists() {
        return Err(Failure::new("this volume is on this machine already: see `p2pfs volumes`"));
    }
    let passphrase = new_passphrase(args.keys.passphrase_file.as_deref(), args.keys.no_passphrase)?;
    refuse_taken_label(home, &args.volume, passphrase.as_ref())?;
    let entropy = OsEntropy;
    let mut dir = home.start_joining(&ticket.volume)?;
    let resumed = dir.is_kept();
    let (mut profile, unlock) = if resumed {
        output::note("going on with the join that was interrupted, as the same device");
        let (mut profile, unlock) = interrupted(&dir, place.short_id(), passphrase)?;
        profile.label.clone_from(&args.volume);
        profile.user.clone_from(&args.name);
        profile.registries.clone_from(&ticket.registries);
        (profile, unlock)
    } else {
        let profile = Profile::new(
            &args.volume,
            &args.name,
            ticket.volume,
            ticket.registries.clone(),
            SymmetricKey::generate(&entropy),
            &DeviceKeys::generate(&entropy),
            &UserKeys::generate(&entropy),
        );
        (profile, new_unlock(dir.path(), passphrase, &entropy)?)
    };
    // Before anybody is asked: neither a full disk nor a crash may cost the ticket, or leave a member that nobody is.
    profile.save(&dir, &unlock, &entropy)?;
    dir.keep()?;
    if matches!(unlock, Unlock::Passphrase(_)) && resumed {
        // Of a first try without a passphrase. Where there was none, there is nothing to remove.
        let _ = fs::remove_file(dir.path().join(KEY_NAME));
    }
    let redeemed = redeem(&mut dir, resumed, &ticket, &profile)?;
    if let Some(known_as) = redeemed.known_as.filter(|name| *name != profile.user) {
        profile.user = known_as;
        profile.save(&dir, &unlock, &entropy)?;
    }
    let dir = dir.finish(&profile.volume)?;
    let next = match redeemed.keeper {
        true => "next: `p2pfs keeper` stores and serves it, without being able to read it",
        false => "next: `p2pfs mount` mounts it at ~/p2pfs",
    };
    output::lines(&[
        format!("joined volume {} ({}) as {}", profile.label, &dir.short_id()[..8], profile.user),
        next.to_owned(),
    ])
}

/// What came of a ticket.
struct Redeemed {
    /// The name that the volume has for the user.
    known_as: Option<String>,
    keeper: bool,
}

/// The profile of a join that was interrupted, and what opens it from now on.
fn interrupted(dir: &NewVolumeDir, short_id: &str, passphrase: Option<Passphrase>) -> Outcome<(Profile, Unlock)> {
    let dir = VolumeDir::from_parts(dir.path().to_owned(), short_id);
    let opened = unlock_unasked(&dir, passphrase.as_ref())?;
    let opened =
        opened.ok_or_else(|| Failure::new("the interrupted join was begun with a passphrase: give the same"))?;
    let profile = Profile::load(&dir, &opened)?;
    Ok((profile, passphrase.map_or(opened, Unlock::Passphrase)))
}

/// Gets this device admitted and takes the volume's records over. Tells the name that the volume has for the user,
/// if it is known already: one that was let in earlier keeps the name of then.
///
/// Once it is admitted the ticket is spent and the name taken, so from then on nothing is thrown away: when the
/// connection breaks, the rest comes when the volume is mounted.
fn redeem(dir: &mut NewVolumeDir, resumed: bool, ticket: &Ticket, profile: &Profile) -> Outcome<Redeemed> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .because(|| "starting threads".to_owned())?;
    let Stores { parts, packs } = Stores::open(dir.path(), profile)?;
    let joined = runtime.block_on(async {
        let (user, device) = (profile.user_keys(), profile.device_keys());
        let joined = join(ticket, &profile.user, &user, &device, None).await.map_err(|e| {
            // Nobody knows these keys: they were made just now, and everybody who was asked said no.
            if !resumed && !matches!(e, JoinError::Interrupted) {
                dir.discard();
            }
            Failure::new(e.to_string())
        })?;
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
        let keeper = volume.is_keeper();
        // (A keeper can't read its own.)
        let me = volume.members().into_iter().find(|member| member.me && !keeper);
        let known_as = me.map(|member| member.name);
        close(&volume, &packs)?;
        State { peers, ..State::default() }.save(dir.path(), &profile.secret, &OsEntropy);
        Ok(Redeemed { known_as, keeper })
    });
    // Everything that has the store open must be gone before it moves.
    drop(runtime);
    joined
}
