//! Choosing the volume a command is about.
//!
//! Labels are sealed: what they are is known of a volume whose daemon runs, whose key lies beside it, or whose
//! passphrase is at hand.

use std::io::{self, IsTerminal};

use crypto::Unlock;

use crate::{
    asking::tell,
    cli::Which,
    control::{client, protocol::Hello},
    failure::{Failure, Outcome},
    home::{Home, VolumeDir},
    profile::Profile,
    unlock::{Passphrase, prompt, read_passphrase, unlock_unasked},
};

/// Fewer digits of an id than this may be a label just as well.
const ID_DIGITS: usize = 4;

/// What can be known of a volume on this machine without asking anybody for a passphrase.
pub(crate) struct Known {
    pub(crate) dir: VolumeDir,
    /// What the running daemon says of itself.
    pub(crate) daemon: Option<Hello>,
    pub(crate) label: Option<String>,
    pub(crate) user: Option<String>,
}

impl Known {
    /// Its label is behind a passphrase that isn't at hand.
    fn is_locked(&self) -> bool {
        self.label.is_none() && unlock_unasked(&self.dir, None).is_ok_and(|unlock| unlock.is_none())
    }

    /// The same with what shows under `passphrase`.
    fn opened_by(self, passphrase: &Passphrase) -> Self {
        if self.is_locked() { inspect(self.dir, Some(passphrase)) } else { self }
    }
}

/// The volume a command is about, and the passphrase that came with the command.
pub(crate) struct Chosen {
    pub(crate) dir: VolumeDir,
    pub(crate) passphrase: Option<Passphrase>,
}

/// Finds the volume that `which` means; without a name it is the only one there is, or the only one mounted
/// (not mounted, for a command that mounts).
pub(crate) fn choose(home: &Home, which: &Which, to_mount: bool) -> Outcome<Chosen> {
    let passphrase = which.passphrase_file.as_deref().map(read_passphrase).transpose()?;
    choose_with(home, which.volume.as_deref(), passphrase, to_mount)
}

/// The same with the passphrase that is at hand, if any.
pub(crate) fn choose_with(
    home: &Home,
    wanted: Option<&str>,
    passphrase: Option<Passphrase>,
    to_mount: bool,
) -> Outcome<Chosen> {
    let mut volumes = home.volumes()?;
    let dir = match (wanted, volumes.len()) {
        (_, 0) => {
            return Err(Failure::new(
                "there is no volume here: make one with `p2pfs init --name YOU`, or join one with \
                 `p2pfs join --name YOU`",
            ));
        }
        (None, 1) => volumes.remove(0),
        (wanted, _) => {
            let known: Vec<Known> = volumes.into_iter().map(|dir| inspect(dir, passphrase.as_ref())).collect();
            match wanted {
                Some(wanted) => return by_name(known, wanted, passphrase),
                None => the_only(known, to_mount)?,
            }
        }
    };
    Ok(Chosen { dir, passphrase })
}

/// Learns what can be learnt of a volume without asking anybody.
pub(crate) fn inspect(dir: VolumeDir, passphrase: Option<&Passphrase>) -> Known {
    let daemon = client::hello(&dir).ok().flatten();
    if let Some(hello) = &daemon {
        let label = Some(hello.volume.clone());
        let user = Some(hello.user.clone());
        return Known { dir, daemon: daemon.filter(|hello| !hello.ending), label, user };
    }
    let unlock: Option<Unlock> = unlock_unasked(&dir, passphrase).ok().flatten();
    let profile = unlock.and_then(|unlock| Profile::peek(&dir, &unlock).ok());
    let (label, user) = profile.map(|p| (p.label, p.user)).unzip();
    Known { dir, daemon, label, user }
}

/// The volume that is known as `wanted`. When it is none of those whose labels can be read, it may be a locked one: then the
/// passphrase is asked for, once.
fn by_name(known: Vec<Known>, wanted: &str, passphrase: Option<Passphrase>) -> Outcome<Chosen> {
    if let Some(dir) = named(&known, wanted)? {
        return Ok(Chosen { dir, passphrase });
    }
    let can_ask = passphrase.is_none() && io::stdin().is_terminal() && known.iter().any(Known::is_locked);
    if !can_ask {
        return Err(unknown(&known, wanted));
    }
    tell(&format!("no volume that is open here is called {wanted}, and of those under a passphrase it does not show"));
    let passphrase = prompt("passphrase: ")?;
    let known: Vec<Known> = known.into_iter().map(|known| known.opened_by(&passphrase)).collect();
    match named(&known, wanted)? {
        Some(dir) => Ok(Chosen { dir, passphrase: Some(passphrase) }),
        None => Err(unknown(&known, wanted)),
    }
}

fn named(known: &[Known], wanted: &str) -> Outcome<Option<VolumeDir>> {
    let labelled: Vec<&Known> = known.iter().filter(|known| known.label.as_deref() == Some(wanted)).collect();
    let matching = match labelled.as_slice() {
        [] => known.iter().filter(|known| is_prefix(wanted, known.dir.short_id())).collect(),
        _ => labelled,
    };
    match matching.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(one.dir.clone())),
        _ => Err(Failure::new(format!("{wanted} means several volumes: give the id, there is {}", choices(known)))),
    }
}

fn unknown(known: &[Known], wanted: &str) -> Failure {
    let locked: Vec<&str> =
        known.iter().filter(|known| known.is_locked()).map(|known| &known.dir.short_id()[..8]).collect();
    let choices = choices(known);
    Failure::new(match locked.as_slice() {
        [] => format!("no volume here is known as {wanted}: there is {choices}"),
        _ => format!(
            "no volume here is known as {wanted}: there is {choices}; labels of locked ones ({}) show only with \
             their passphrase (--passphrase-file FILE): give that, or the id",
            locked.join(", ")
        ),
    })
}

/// Whether `wanted` is an id, or its first digits, of the volume in the folder `short_id`.
fn is_prefix(wanted: &str, short_id: &str) -> bool {
    let digits = wanted.to_ascii_lowercase();
    digits.len() >= ID_DIGITS && (short_id.starts_with(&digits) || digits.starts_with(short_id))
}

fn the_only(known: Vec<Known>, to_mount: bool) -> Outcome<VolumeDir> {
    let choices = choices(&known);
    let mut fitting = known.into_iter().filter(|k| k.daemon.is_some() != to_mount);
    match (fitting.next(), fitting.next()) {
        (Some(only), None) => Ok(only.dir),
        _ => Err(Failure::new(format!("which volume? give --volume with one of {choices}"))),
    }
}

fn choices(known: &[Known]) -> String {
    let name = |k: &Known| match &k.label {
        Some(label) => format!("{label} ({})", &k.dir.short_id()[..8]),
        None => k.dir.short_id()[..8].to_owned(),
    };
    known.iter().map(name).collect::<Vec<_>>().join(", ")
}

/// The command that mounts a volume that has just been made: the only one here gets the usual place.
pub(crate) fn how_to_mount(home: &Home, made: &VolumeDir) -> Outcome<String> {
    Ok(match home.volumes()?.len() {
        0 | 1 => "`p2pfs mount` mounts it at ~/p2pfs".to_owned(),
        _ => format!("`p2pfs mount --volume {} FOLDER` mounts it at an empty folder", &made.short_id()[..8]),
    })
}

/// Refuses a label that a volume here already has, as far as labels can be known.
pub(crate) fn refuse_taken_label(home: &Home, label: &str, passphrase: Option<&Passphrase>) -> Outcome<()> {
    for dir in home.volumes()? {
        if inspect(dir, passphrase).label.as_deref() == Some(label) {
            return Err(Failure::new(format!(
                "a volume with the label {label} is here already: give the new one another with --volume LABEL"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_told_by_their_first_digits() {
        let short = "4f2a91c0aabbccdd";
        for good in ["4f2a", "4F2A91", short, &format!("{short}0011")] {
            assert!(is_prefix(good, short), "{good}");
        }
        for bad in ["4f2", "4f2b", "docs", ""] {
            assert!(!is_prefix(bad, short), "{bad}");
        }
    }
}
