//! `p2pfs forget`: removes a volume from this machine, keys and all.

use crate::{
    asking::{ask, can_ask, tell},
    cli::Forget,
    control::client,
    failure::{Failure, Outcome},
    home::Home,
    output::{self, printable},
    select::{Chosen, Known, choose_with, inspect},
    unlock::read_passphrase,
    volume_lock::{VolumeLock, already_mounted},
};

/// Fewer digits of an id are typed by mistake.
const ID_DIGITS: usize = 8;

pub(crate) fn run(home: &Home, args: &Forget) -> Outcome<()> {
    let passphrase = args.passphrase_file.as_deref().map(read_passphrase).transpose()?;
    let Chosen { dir, passphrase } = choose_with(home, Some(&args.volume), passphrase, false)?;
    if let Some(hello) = client::hello(&dir)?.filter(|hello| !hello.ending) {
        return Err(Failure::new(format!("{}: `p2pfs unmount` it first", already_mounted(&dir, hello))));
    }
    // From here on nobody else begins to use it.
    let lock = VolumeLock::wait_for(&dir)?;
    let known = inspect(dir, passphrase.as_ref());
    let short = known.dir.short_id()[..8].to_owned();
    if !args.yes {
        confirm(&known)?;
    }
    home.remove_volume(&known.dir, lock)?;
    output::line(&format!("volume {short} is not on this machine any more"))?;
    output::note("other devices still know this one: `p2pfs revoke` there, if it is not to count any more");
    Ok(())
}

/// Has the user type what is meant, once it is clear what goes.
fn confirm(known: &Known) -> Outcome<()> {
    if !can_ask() {
        return Err(Failure::new("this removes what may be the only copy, and nobody can be asked: give --yes"));
    }
    let short = &known.dir.short_id()[..8];
    let name = match &known.label {
        Some(label) => format!("volume {} ({short})", printable(label)),
        None => format!("volume {short}"),
    };
    tell(&format!(
        "This removes {name} from this machine: its files with all their history, and the keys of this device.\n\
         What no other device has is lost for good. Whether others have everything can't be known while the volume is not\n\
         mounted; when it is, `p2pfs wait` returns once all that are connected then do. Without another device of yours, or a key that you exported\n\
         (`p2pfs key export`), you can't come back as the same member."
    ));
    let typed = ask("type its label or id to remove it", None, |text| Ok(text.to_owned()))?;
    if is_meant(known, &typed) { Ok(()) } else { Err(Failure::new("that is another name: nothing was done")) }
}

fn is_meant(known: &Known, typed: &str) -> bool {
    let digits = typed.to_ascii_lowercase();
    let by_id = digits.len() >= ID_DIGITS && known.dir.short_id().starts_with(&digits);
    by_id || known.label.as_deref() == Some(typed)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::home::VolumeDir;

    #[test]
    fn only_the_volume_itself_is_meant() {
        let dir = VolumeDir::from_parts(PathBuf::from("/nonexistent"), "4f2a91c0aabbccdd");
        let known = |label: Option<&str>| {
            let label = label.map(ToOwned::to_owned);
            Known { dir: dir.clone(), daemon: None, label, user: None }
        };
        for good in ["docs", "4f2a91c0", "4F2A91C0AA"] {
            assert!(is_meant(&known(Some("docs")), good), "{good}");
        }
        for bad in ["", "y", "doc", "4f2a", "4f2a91c1"] {
            assert!(!is_meant(&known(Some("docs")), bad), "{bad}");
        }
        assert!(!is_meant(&known(None), ""));
    }
}
