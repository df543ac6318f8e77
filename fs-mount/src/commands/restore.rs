//! `p2pfs restore`: what was at a path comes back.

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use fs_mount::moment;
use jiff::{Timestamp, Zoned};

use crate::{
    bringing_back::{Moment, Names, Restored, ToRestore, When},
    cli::Restore,
    commands::undo,
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
    let when = match (&args.version, &args.at) {
        (Some(version), _) => When::Version(version.clone()),
        (None, Some(at)) => typed(at)?,
        (None, None) => When::LastChange,
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
    let path = names(&from.path);
    let as_of = match client::ask(&from.dir, &Request::AsOf { path: path.clone(), when })? {
        Some(Reply::AsOf(as_of)) => as_of,
        Some(_) => return Err(unexpected()),
        None => return Err(not_mounted(&from.dir)),
    };
    if as_of.directory && !args.dry_run {
        // Whoever is interrupted midway needs it to go on.
        output::note(&format!("restoring {} as of {}", args.path.to_string_lossy(), as_of.moment));
    }
    let place = from.mountpoint.join(to.iter().map(|name| OsStr::from_bytes(name)).collect::<PathBuf>());
    let what = ToRestore { path, at: as_of.arrival, to, exact: args.exact, dry_run: args.dry_run };
    let restored = match client::ask(&from.dir, &Request::Restore(what))? {
        Some(Reply::Restored(restored)) => *restored,
        Some(_) => return Err(unexpected()),
        None => return Err(not_mounted(&from.dir)),
    };
    match args.json {
        true => output::json(&restored)?,
        false => output::lines(&screen(&restored, &place))?,
    }
    let would = if restored.dry_run { "would not be" } else { "was not" };
    match restored.left {
        0 => Ok(()),
        left => Err(Failure::new(format!("{left} of what was there then {would} restored: the rest is"))),
    }
}

/// The names of a path from the top of a volume on.
pub(super) fn names(path: &Path) -> Names {
    path.iter().map(|name| name.as_bytes().to_vec()).collect()
}

/// A moment as somebody typed it, or a snapshot's name.
pub(super) fn typed(text: &str) -> Outcome<When> {
    match moment::parse(text, &Zoned::now()) {
        Some(at) if at > Timestamp::now() => Err(Failure::new(format!("{text} is still to come"))),
        Some(at) => Ok(When::Moment(Moment::of(at))),
        None => Ok(When::Snapshot(text.to_owned())),
    }
}

/// What was done, and how to take it back; the last line tells all of it. `place` is where it was put.
fn screen(restored: &Restored, place: &Path) -> Vec<String> {
    let mut lines: Vec<String> = restored.would.iter().map(undo::line).collect();
    let left = restored.in_the_way.iter().map(|left| format!("{:<13} {}: {}", "left out", left.path, left.why));
    lines.extend(left);
    let told = (restored.would.len() + restored.in_the_way.len()) as u64;
    if restored.changes + restored.left > told {
        lines.push(format!("… and {} more", restored.changes + restored.left - told));
    }
    lines.push(summary(restored, place));
    lines
}

fn summary(restored: &Restored, place: &Path) -> String {
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
        text += &format!(" to {}", to);
    }
    if *removed > 0 {
        text += &format!("; {removed} removed that were not there then");
    }
    if *unchanged == files + directories && *removed == 0 && restored.left == 0 {
        return text + "; all of it is as it was";
    }
    if *unchanged > 0 {
        text += &format!("; {unchanged} were as they were");
    }
    if !restored.dry_run {
        text += &format!("; {}", take_back(&restored.device, &restored.began, Some(place)));
    }
    text
}

fn folders(number: u64) -> String {
    if number == 1 { "1 directory".to_owned() } else { format!("{number} directories") }
}

/// What takes back what this device did since then.
pub(super) fn take_back(device: &str, began: &str, path: Option<&Path>) -> String {
    let device = device.get(..16).unwrap_or(device);
    let path = path.map(|path| format!(" --path {}", quoted(path.as_os_str().as_bytes()))).unwrap_or_default();
    format!("to take that back: p2pfs undo --device {device} --since {began}{path}")
}

/// As a shell takes it for one word; all of it can be printed.
fn quoted(path: &[u8]) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-/+,@%:=".contains(&b);
    match std::str::from_utf8(path) {
        Ok(text) if !text.is_empty() && path.iter().all(|b| plain(*b)) => text.to_owned(),
        Ok(text) if !text.chars().any(char::is_control) => format!("'{}'", text.replace('\'', "'\\''")),
        _ => {
            // The one way that shells have for bytes that aren't text.
            let mut word = "$'".to_owned();
            for byte in path {
                match byte {
                    b'\'' | b'\\' => word.extend(['\\', char::from(*byte)]),
                    b' '..=b'~' => word.push(char::from(*byte)),
                    _ => word += &format!("\\{byte:03o}"),
                }
            }
            word + "'"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_one_word() {
        let check = |path: &[u8], expected: &str| assert_eq!(quoted(path), expected);
        check(b"docs/a.txt", "docs/a.txt");
        check(b"it's $HOME", r"'it'\''s $HOME'");
        check("größe".as_bytes(), "'größe'");
        check(b"a\xff'\\\n1", r"$'a\377\'\\\0121'");
    }

    #[test]
    fn what_is_still_to_come_is_no_moment() {
        let refused = typed("2999-01-01").unwrap_err().to_string();
        assert_eq!(refused, "2999-01-01 is still to come");
        assert_eq!(typed("thesis").unwrap(), When::Snapshot("thesis".to_owned()));
    }
}
