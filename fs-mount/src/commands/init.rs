//! `p2pfs init`: a new volume and an identity in it.

use crypto::{DeviceKeys, OsEntropy, SymmetricKey, UserKeys, VolumeId};
use volume::Volume;

use crate::{
    cli::Init,
    failure::{Because, Outcome},
    home::Home,
    open_volume::{Stores, close},
    output,
    profile::Profile,
    select::refuse_taken_label,
    unlock::{new_passphrase, new_unlock},
};

pub(crate) fn run(home: &Home, args: Init) -> Outcome<()> {
    let passphrase = new_passphrase(args.keys.passphrase_file.as_deref(), args.keys.no_passphrase)?;
    refuse_taken_label(home, &args.volume, passphrase.as_ref())?;
    let entropy = OsEntropy;
    let dir = home.start_volume(&entropy)?;
    let unlock = new_unlock(dir.path(), passphrase, &entropy)?;
    let mut profile = Profile::new(
        &args.volume,
        &args.name,
        // Its id is the hash of its first commit: known when that is made.
        VolumeId::ZERO,
        args.registry,
        SymmetricKey::generate(&entropy),
        &DeviceKeys::generate(&entropy),
        &UserKeys::generate(&entropy),
    );
    let Stores { parts, packs } = Stores::open(dir.path(), &profile)?;
    let volume = Volume::found(parts, &args.name).because(|| "making the volume".to_owned())?;
    profile.volume = volume.id();
    close(&volume, &packs)?;
    drop((volume, packs));
    profile.save(&dir, &unlock, &entropy)?;
    let dir = dir.finish(&profile.volume)?;

    output::lines(&[
        format!("volume {} ({}) is made, {} owns it", profile.label, &dir.short_id()[..8], profile.user),
        "next: `p2pfs mount` mounts it at ~/p2pfs, `p2pfs invite` prints a ticket for somebody else".to_owned(),
    ])
}
