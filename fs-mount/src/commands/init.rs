//! `p2pfs init`: a new volume and an identity in it.

use clap::{CommandFactory as _, error::ErrorKind};
use crypto::{DeviceKeys, OsEntropy, SymmetricKey, UserKeys, VolumeId};
use peer_net::registry_address::RegistryAddress;
use volume::Volume;

use crate::{
    asking::{ask, can_ask, tell, yes_or_no},
    cli::{self, Cli, Init, NewKeys},
    failure::{Because, Outcome},
    home::Home,
    open_volume::{Stores, close},
    output,
    profile::Profile,
    select::{how_to_mount, refuse_taken_label},
    unlock::{Passphrase, new_passphrase, new_unlock},
};

/// What a volume is called when nobody says otherwise.
const LABEL: &str = "p2pfs";

/// What a new volume needs.
struct Wanted {
    name: String,
    label: String,
    registries: Vec<RegistryAddress>,
    passphrase: Option<Passphrase>,
}

pub(crate) fn run(home: &Home, args: Init) -> Outcome<()> {
    let Wanted { name, label, registries, passphrase } = wanted(home, args)?;
    refuse_taken_label(home, &label, passphrase.as_ref())?;
    let entropy = OsEntropy;
    let dir = home.start_volume(&entropy)?;
    let unlock = new_unlock(dir.path(), passphrase, &entropy)?;
    let mut profile = Profile::new(
        &label,
        &name,
        // Its id is the hash of its first commit: known when that is made.
        VolumeId::ZERO,
        registries,
        SymmetricKey::generate(&entropy),
        &DeviceKeys::generate(&entropy),
        &UserKeys::generate(&entropy),
    );
    let Stores { parts, packs } = Stores::open(dir.path(), &profile)?;
    let volume = Volume::found(parts, &name).because(|| "making the volume".to_owned())?;
    profile.volume = volume.id();
    close(&volume, &packs)?;
    drop((volume, packs));
    profile.save(&dir, &unlock, &entropy)?;
    let dir = dir.finish(&profile.volume)?;

    output::lines(&[
        format!("volume {} ({}) is made, {} owns it", profile.label, &dir.short_id()[..8], profile.user),
        format!("next: {}, `p2pfs invite` prints a ticket for somebody else", how_to_mount(home, &dir)?),
    ])
}

fn wanted(home: &Home, args: Init) -> Outcome<Wanted> {
    let Init { name, volume, registry, keys } = args;
    let Some(name) = name else {
        if !can_ask() {
            let missing = "your name is missing: --name NAME (on a terminal, `p2pfs init` asks for what it needs)";
            Cli::command().error(ErrorKind::MissingRequiredArgument, missing).exit();
        }
        return asked(home, volume, registry, &keys);
    };
    let passphrase = new_passphrase(keys.passphrase_file.as_deref(), keys.no_passphrase)?;
    Ok(Wanted { name, label: volume.unwrap_or_else(|| LABEL.to_owned()), registries: registry, passphrase })
}

/// Asks whoever sits at the terminal for what was not given, and says what it is for.
fn asked(home: &Home, volume: Option<String>, registries: Vec<RegistryAddress>, keys: &NewKeys) -> Outcome<Wanted> {
    tell(
        "A volume is a folder that you share with whom you invite. It lies on each member's machine, encrypted; no server\n\
         is trusted with it. You own the one that is made now. To join somebody else's, use `p2pfs join` with a ticket instead.\n",
    );
    let account =
        std::env::var("USER").ok().map(|name| name.to_lowercase()).filter(|name| cli::user_name(name).is_ok());
    tell("Your name: what the others see beside what you do.");
    let name = ask("name", account.as_deref(), cli::user_name)?;
    let label = match volume {
        Some(label) => label,
        None => {
            tell("\nThe volume's name on this machine; nobody else sees it.");
            ask("volume", Some(LABEL), |text| {
                let label = cli::label(text)?;
                refuse_taken_label(home, &label, None).map_err(|why| why.to_string())?;
                Ok(label)
            })?
        }
    };
    let registries = match registries.is_empty() {
        false => registries,
        true => {
            tell(
                "\nA registry lets devices find each other over the Internet; it sees no names, no contents and not who you are.\n\
                 `p2pfs-registry` prints its address when it starts. Without one, devices are found at the addresses in tickets;\n\
                 one can be given later: `p2pfs mount --registry ADDR:PORT#KEY`.",
            );
            let address = |text: &str| match text {
                "" => Ok(None),
                _ => text.parse().map(Some).map_err(|e: <RegistryAddress as std::str::FromStr>::Err| e.to_string()),
            };
            ask("registry (empty for none)", Some(""), address)?.into_iter().collect()
        }
    };
    let passphrase = if keys.no_passphrase || keys.passphrase_file.is_some() {
        new_passphrase(keys.passphrase_file.as_deref(), keys.no_passphrase)?
    } else {
        tell(
            "\nA passphrase protects your keys if this machine or its disk is stolen; it is asked for at every mount. It can't be\n\
             recovered: `p2pfs key export` prints your key for a safe place. Without one, whoever reads this disk has your keys.",
        );
        match ask("protect the keys with a passphrase?", Some("yes"), yes_or_no)? {
            true => new_passphrase(None, false)?,
            false => None,
        }
    };
    tell("");
    Ok(Wanted { name, label, registries, passphrase })
}
