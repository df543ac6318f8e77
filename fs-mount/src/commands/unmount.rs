//! `p2pfs unmount`: takes the mount away and ends its daemon; clears a dead mount away as well.

use std::{
    ffi::OsString,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

use crate::{
    cli::{Unmount, Which},
    control::client,
    failure::{Failure, Outcome},
    home::{Home, VolumeDir},
    inside::mounted,
    mountpoint::{self, Mounted},
    profile::{Profile, State},
    select::choose,
    unlock::unlock_unasked,
};

pub(crate) fn run(home: &Home, args: &Unmount) -> Outcome<()> {
    match &args.mountpoint {
        Some(path) => by_path(home, &mountpoint::absolute(path)?),
        None => by_volume(home, &args.which),
    }
}

fn by_path(home: &Home, path: &Path) -> Outcome<()> {
    let silent = match mounted(home.volumes()?, client::hello, |mountpoint| mountpoint == path) {
        Ok(Some((dir, _))) => return end(&dir),
        Ok(None) => None,
        Err(why) => Some(why),
    };
    match (mountpoint::mounted_at(path)?, silent) {
        (Mounted::Dead, _) => mountpoint::clear_dead(path).map(|_| ()),
        // It may be the one that is mounted there.
        (Mounted::Alive, Some(why)) => Err(why),
        // Its daemon belongs to another user or another P2PFS_HOME; it ends when the mount is gone.
        (Mounted::Alive, None) => mountpoint::unmount(path),
        (Mounted::Nothing, _) => Err(Failure::new(format!("{} is not mounted", path.display()))),
        (Mounted::Other(kind), _) => {
            Err(Failure::new(format!("{} is no p2pfs but another file system ({kind})", path.display())))
        }
    }
}

fn by_volume(home: &Home, which: &Which) -> Outcome<()> {
    let mut volumes = home.volumes()?.into_iter();
    if which.volume.is_none() && volumes.len() > 1 && volumes.all(|dir| !matches!(client::hello(&dir), Ok(Some(_)))) {
        return Err(Failure::new("no volume is mounted: name the folder to clear a dead mount away"));
    }
    let chosen = choose(home, which, false)?;
    if client::hello(&chosen.dir)?.is_some() {
        return end(&chosen.dir);
    }
    // No daemon. It may have been killed and have left its mount behind.
    let unlock = unlock_unasked(&chosen.dir, chosen.passphrase.as_ref())?;
    let last = unlock
        .and_then(|unlock| Profile::load(&chosen.dir, &unlock).ok())
        .and_then(|profile| State::load(&chosen.dir, &profile.secret).mountpoint.map(bytes_to_path));
    match last {
        Some(path) if mountpoint::clear_dead(&path)? => Ok(()),
        _ => Err(not_mounted(&chosen.dir)),
    }
}

fn not_mounted(dir: &VolumeDir) -> Failure {
    Failure::new(format!("volume {} is not mounted", &dir.short_id()[..8]))
}

fn end(dir: &VolumeDir) -> Outcome<()> {
    client::end(dir)?.ok_or_else(|| not_mounted(dir))
}

fn bytes_to_path(bytes: Vec<u8>) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes))
}
