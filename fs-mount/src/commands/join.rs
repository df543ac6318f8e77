//! `p2pfs join`: an identity in somebody else's volume, and the volume's records on this machine.
//!
//! Everything happens in a folder that gets its name at the very end. Before anybody is asked the keys are in it, for
//! good: whoever lets this device in knows it from then on, and a join that is run again goes on as the same device.

use std::{
    fs,
    io::{self, IsTerminal, Read},
    path::Path,
};

use crypto::{DeviceKeys, OsEntropy, SymmetricKey, Unlock, UserKeys, VolumeId};
use peer_net::{
    join::{Grant, JoinError, Joined, join},
    registry_address::RegistryAddress,
    ticket::{BadTicket, Ticket},
};
use volume::{UserSecrets, Volume};
use zeroize::Zeroizing;

use crate::{
    cli::{Join, NewKeys},
    failure::{Because, Failure, Outcome},
    home::{Home, NewVolumeDir, VolumeDir},
    open_volume::{Stores, close},
    output::{self, count},
    profile::{Profile, State},
    progress::Bar,
    select::{how_to_mount, refuse_taken_label},
    unlock::{KEY_NAME, Passphrase, new_passphrase, new_unlock, prompt, unlock_unasked},
};

/// No ticket is longer.
const TICKET_LIMIT: u64 = 16 << 10;

pub(crate) fn run(home: &Home, args: Join) -> Outcome<()> {
    let ticket: Ticket = ticket(&args)?.trim().parse().map_err(|e: BadTicket| Failure::new(e.to_string()))?;
    let name = name_asked_for(&ticket, args.name.as_deref())?;
    let mut begun = begin(home, &ticket.volume, &args.volume, &args.keys, name, &ticket.registries)?;
    // Before anybody is asked: neither a full disk nor a crash may cost the ticket, or leave a member that nobody is.
    begun.save()?;
    let (user, name) = (begun.profile.user_keys(), begun.profile.user.clone());
    begun.redeem(async |device: &DeviceKeys| join(&ticket, &name, &user, device, None).await, None)?;
    begun.finish(home, "joined volume")
}

/// The ticket's text: given with the command, on standard input, or typed now. What a program is started with, every account
/// of the machine can read for as long as it runs.
fn ticket(args: &Join) -> Outcome<Zeroizing<String>> {
    match args.ticket.as_deref() {
        Some("-") if args.keys.passphrase_file.as_deref() == Some(Path::new("-")) => {
            Err(Failure::new("the ticket and the passphrase can't both come from standard input: put one into a file"))
        }
        Some("-") => {
            let mut text = Zeroizing::new(String::new());
            let read = io::stdin().lock().take(TICKET_LIMIT).read_to_string(&mut text);
            read.because(|| "reading the ticket from standard input".to_owned())?;
            Ok(text)
        }
        Some(text) => Ok(Zeroizing::new(text.to_owned())),
        None if io::stdin().is_terminal() => prompt("ticket: "),
        None => Err(Failure::new(
            "a ticket is needed and standard input is no terminal: `p2pfs join -` reads it from there",
        )),
    }
}

/// A volume that is being joined.
pub(super) struct Begun {
    dir: NewVolumeDir,
    pub(super) profile: Profile,
    unlock: Unlock,
    resumed: bool,
    /// It can't read the volume.
    keeper: bool,
}

/// Begins to join, or goes on where it was interrupted.
pub(super) fn begin(
    home: &Home,
    volume: &VolumeId,
    label: &str,
    keys: &NewKeys,
    name: &str,
    registries: &[RegistryAddress],
) -> Outcome<Begun> {
    let place = home.volume_of(volume);
    if place.exists() {
        return Err(Failure::new("this volume is on this machine already: see `p2pfs volumes`"));
    }
    let passphrase = new_passphrase(keys.passphrase_file.as_deref(), keys.no_passphrase)?;
    refuse_taken_label(home, label, passphrase.as_ref())?;
    let entropy = OsEntropy;
    let dir = home.start_joining(volume)?;
    let resumed = dir.is_kept();
    let (profile, unlock) = if resumed {
        output::note("going on with the join that was interrupted, as the same device");
        let (mut profile, unlock) = interrupted(&dir, place.short_id(), passphrase)?;
        label.clone_into(&mut profile.label);
        name.clone_into(&mut profile.user);
        profile.registries = registries.to_vec();
        (profile, unlock)
    } else {
        let profile = Profile::new(
            label,
            name,
            *volume,
            registries.to_vec(),
            SymmetricKey::generate(&entropy),
            &DeviceKeys::generate(&entropy),
            &UserKeys::generate(&entropy),
        );
        (profile, new_unlock(dir.path(), passphrase, &entropy)?)
    };
    Ok(Begun { dir, profile, unlock, resumed, keeper: false })
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

/// The name to ask for. A ticket for a further device of somebody needs none: who lets it in knows it.
fn name_asked_for<'a>(ticket: &Ticket, given: Option<&'a str>) -> Outcome<&'a str> {
    match (ticket.user, given) {
        (_, Some(name)) => Ok(name),
        (Some(_), None) => Ok(""),
        (None, None) => Err(Failure::new("choose your name in the volume with --name NAME")),
    }
}

impl Begun {
    /// Puts the keys on the disk for good.
    pub(super) fn save(&mut self) -> Outcome<()> {
        self.profile.save(&self.dir, &self.unlock, &OsEntropy)?;
        self.dir.keep()?;
        if matches!(self.unlock, Unlock::Passphrase(_)) && self.resumed {
            // Of a first try without a passphrase. Where there was none, there is nothing to remove.
            let _ = fs::remove_file(self.dir.path().join(KEY_NAME));
        }
        Ok(())
    }

    /// Gets this device admitted by `ask` and takes the volume's records over. The profile then has the name that the
    /// volume has for the user: one that was let in earlier keeps the name of then. `secrets` are those of an exported key.
    ///
    /// Once it is admitted the ticket is spent and the name taken, so from then on nothing is thrown away: when the
    /// connection breaks, the rest comes when the volume is mounted.
    pub(super) fn redeem(
        &mut self,
        ask: impl AsyncFnOnce(&DeviceKeys) -> Result<Joined, JoinError>,
        secrets: Option<&UserSecrets>,
    ) -> Outcome<()> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .because(|| "starting threads".to_owned())?;
        let Self { dir, profile, unlock, resumed, keeper } = self;
        let Stores { mut parts, packs } = Stores::open(dir.path(), profile)?;
        let joined = runtime.block_on(async {
            let joined = ask(&profile.device_keys()).await.map_err(|e| {
                // Nobody knows these keys: they were made just now, and everybody who was asked said no.
                if !*resumed && !matches!(e, JoinError::Interrupted) {
                    dir.discard();
                }
                Failure::new(e.to_string())
            })?;
            if let Grant::Device(grant, keys) = &joined.grant {
                // The user's keys in the profile until now were made for nobody, and were never shown to anybody.
                profile.set_user(&grant.name, keys);
                profile.save(dir, unlock, &OsEntropy)?;
                parts.user = profile.user_keys();
            }
            let volume = Volume::load(parts, profile.volume).because(|| "opening the volume".to_owned())?;
            joined.grant.accept(&volume).because(|| "taking the volume's keys".to_owned())?;
            if let Some(secrets) = secrets {
                volume.accept_secrets(secrets)?;
            }
            let bar = Bar::new("taking over the volume");
            let synced = joined
                .first_sync(&volume, |done, total| {
                    bar.at(done, total, format!("{done} of {}", count(total, "commit")));
                })
                .await;
            drop(bar);
            let whole = synced.is_ok();
            let peers = synced.unwrap_or_else(|e| {
                output::note(&format!("{e}: it goes on when the volume is mounted"));
                Vec::new()
            });
            if secrets.is_some() && whole {
                volume.renew_unknown_key()?;
            }
            *keeper = volume.is_keeper();
            // (A keeper can't read its own.)
            let me = volume.members().into_iter().find(|member| member.me && !*keeper);
            let known_as = me.map(|member| member.name);
            close(&volume, &packs)?;
            State { peers, ..State::default() }.save(dir.path(), &profile.secret, &OsEntropy);
            Ok::<_, Failure>(known_as)
        });
        // Everything that has the store open must be gone before it moves.
        drop(runtime);
        if let Some(known_as) = joined?.filter(|name| *name != profile.user) {
            profile.user = known_as;
            profile.save(dir, unlock, &OsEntropy)?;
        }
        Ok(())
    }

    /// Gives the folder its name, and says so.
    pub(super) fn finish(self, home: &Home, did: &str) -> Outcome<()> {
        let dir = self.dir.finish(&self.profile.volume)?;
        output::lines(&[
            format!("{did} {} ({}) as {}", self.profile.label, &dir.short_id()[..8], self.profile.user),
            match self.keeper {
                true => "next: `p2pfs keeper` stores and serves it, without being able to read it".to_owned(),
                false => format!("next: {}", how_to_mount(home, &dir)?),
            },
        ])
    }
}
