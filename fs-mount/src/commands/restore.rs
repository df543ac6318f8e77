//! `p2pfs restore`: what was at a path comes back.

use std::{os::unix::ffi::OsStrExt, path::Path};

use fs_mount::moment;
use jiff::{Timestamp, ToSpan, Zoned};

use crate::{
    bringing_back::{Moment, Names, Restored, ToRestore},
    cli::Restore,
    control::{
        client::{self, unexpected},
        protocol::{Reply, Request},
    },
    failure::{Failure, Outcome},
    home::Home,
    inside::inside,
    open_volume::not_mounted,
    output::{self, bytes, count},
};

pub(crate) fn run(home: &Home, args: &Restore) -> Outcome<()> {
    let at = match (&args.version, &args.at) {
        (Some(version), _) => {
            let end = version_end(version);
            Some(end.ok_or_else(|| Failure::new(format!("{version} is no version: `p2pfs history` lists them")))?)
        }
        (None, Some(at)) => Some(typed(at)?),
        (None, None) => None,
    };
    let from = inside(home, &args.path)?;
    let to = match &args.to {
        Some(to) => {
            let to = inside(home, to)?;
            if to.dir.short_id() != from.dir.short_id() {
                return Err(Failure::new(
                    "one volume's past is restored in that volume: copy it out of .p2pfs/at instead",
                ));
            }
            names(&to.path)
        }
        None => names(&from.path),
    };
    let what =
        ToRestore { path: names(&from.path), at: at.map(Moment::of), to, exact: args.exact, dry_run: args.dry_run };
    match client::ask(&from.dir, &Request::Restore(what))? {
        Some(Reply::Restored(restored)) if args.json => output::json(&*restored),
        Some(Reply::Restored(restored)) => output::line(&screen(&restored, &from.mountpoint)),
        Some(_) => Err(unexpected()),
        None => Err(not_mounted(&from.dir)),
    }
}

/// The names of a path from the top of a volume on.
pub(super) fn names(path: &Path) -> Names {
    path.iter().map(|name| name.as_bytes().to_vec()).collect()
}

/// A moment as somebody typed it.
pub(super) fn typed(text: &str) -> Outcome<Timestamp> {
    let why = || Failure::new(format!("{text} is no time: try 2026-11-22T09:15, 09:15, yesterday or 2h-ago"));
    moment::parse(text, &Zoned::now()).ok_or_else(why)
}

/// The last moment that a version's name stands for: it has as many digits as tell it from others.
fn version_end(name: &str) -> Option<Timestamp> {
    let time = name.split('~').next()?;
    let begins: Timestamp = time.parse().ok()?;
    let fraction = time.split_once('.').map_or("", |(_, fraction)| fraction);
    let digits = u32::try_from(fraction.bytes().take_while(u8::is_ascii_digit).count()).ok()?;
    let step = 10_i64.checked_pow(9_u32.checked_sub(digits)?)?;
    begins.checked_add((step - 1).nanoseconds()).ok()
}

/// What was done, in a line, and how to take it back.
fn screen(restored: &Restored, mountpoint: &Path) -> String {
    let Restored { path, to, shown, files, directories, unchanged, removed, .. } = restored;
    let mut text = if restored.dry_run { "would restore " } else { "restored " }.to_owned();
    text += path;
    if restored.directory {
        text += &format!(" ({} in {}, {})", count(*files, "file"), folders(*directories), bytes(restored.bytes));
    } else {
        text += &format!(" ({})", bytes(restored.bytes));
    }
    text += &format!(" as of {shown}");
    if to != path {
        text += &format!(" to {to}");
    }
    if *removed > 0 {
        text += &format!("; {removed} removed that were not there then");
    }
    if *unchanged == files + directories && *removed == 0 {
        return text + "; all of it is as it was";
    }
    if *unchanged > 0 {
        text += &format!("; {unchanged} were as they were");
    }
    if !restored.dry_run {
        text += &format!("; {}", take_back(&restored.device, &restored.began, Some(&mountpoint.join(to))));
    }
    text
}

fn folders(number: u64) -> String {
    if number == 1 { "1 directory".to_owned() } else { format!("{number} directories") }
}

/// What takes back what this device did since then.
pub(super) fn take_back(device: &str, began: &str, path: Option<&Path>) -> String {
    let device = device.get(..16).unwrap_or(device);
    let path = path.map(|path| format!(" --path {}", quoted(&path.display().to_string()))).unwrap_or_default();
    format!("to take that back: p2pfs undo --device {device} --since {began}{path}")
}

/// As a shell takes it for one word.
fn quoted(path: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-/+,@%:=".contains(&b);
    if !path.is_empty() && path.bytes().all(plain) {
        path.to_owned()
    } else {
        format!("'{}'", path.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_what_began_to_show_at_its_name() {
        let check = |name: &str, expected: &str| {
            assert_eq!(version_end(name).map(|end| end.to_string()).unwrap_or_default(), expected, "{name}");
        };
        check("2026-11-26T09:15:03.123Z", "2026-11-26T09:15:03.123999999Z");
        check("2026-11-26T09:15:03.123456Z~bob.txt", "2026-11-26T09:15:03.123456999Z");
        check("2026-11-26T09:15:03.123456789Z~bob.tar.gz", "2026-11-26T09:15:03.123456789Z");
        check("2026-11-26T09:15:03Z", "2026-11-26T09:15:03.999999999Z");
        check("yesterday", "");
        check("", "");
    }

    #[test]
    fn a_path_is_one_word() {
        assert_eq!(quoted("docs/a.txt"), "docs/a.txt");
        assert_eq!(quoted("it's $HOME"), r"'it'\''s $HOME'");
    }
}
