//! `p2pfs conflicts` and `p2pfs resolve`: what several made at once under one name, and which of it to keep.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

use crate::{
    cli::{Conflicts, Resolve},
    control::{
        client::{self, unexpected},
        conflicts::{Bytes, Choice, Conflict, Conflicts as Found, Version},
        protocol::{Reply, Request},
    },
    failure::{Failure, Outcome},
    home::{Home, VolumeDir},
    inside::inside_own,
    open_volume::{ask_or_open, not_mounted},
    output::{self, bytes, count},
    select::choose,
};

pub(crate) fn list(home: &Home, args: &Conflicts) -> Outcome<()> {
    let (found, top) = match &args.path {
        None => {
            let all = Request::Conflicts { within: Bytes::default() };
            (reply(ask_or_open(home, &args.which, &all)?)?, PathBuf::new())
        }
        Some(path) => {
            let place = inside_own(home, path)?;
            let found = asked(&place.dir, &bytes_of(&place.path))?;
            if found.conflicts.is_empty() && !place.is_there() {
                return Err(Failure::new(format!("there is nothing at {}", path.display())));
            }
            (found, place.mountpoint)
        }
    };
    if args.json {
        return output::json(&found.conflicts);
    }
    if found.conflicts.is_empty() {
        return output::line("no conflicts");
    }
    let mut lines: Vec<String> = found.conflicts.iter().flat_map(|conflict| screen(&top, conflict)).collect();
    if found.more > 0 {
        lines.extend([format!("… and {} more", found.more), String::new()]);
    }
    lines.push("`p2pfs resolve PATH --keep mine|theirs|both|NAME` settles one".to_owned());
    output::lines(&lines)
}

pub(crate) fn resolve(home: &Home, args: &Resolve) -> Outcome<()> {
    let choice = choice(&args.keep);
    if !args.all {
        let mut places = Vec::with_capacity(args.paths.len());
        for path in &args.paths {
            let place = inside_own(home, path)?;
            places.push((path.clone(), place.dir, bytes_of(&place.path)));
        }
        return settle(places, &choice);
    }
    if matches!(choice, Choice::Named(_)) {
        return Err(Failure::new("with --all, what to keep is mine, theirs or both"));
    }
    let dir = choose(home, &args.which, false)?.dir;
    let found = asked(&dir, &Bytes::default())?;
    let place = |conflict: Conflict| {
        let path = PathBuf::from(OsString::from_vec(conflict.path_hex.0.clone()));
        Ok((path, VolumeDir::clone(&dir), conflict.path_hex))
    };
    settle(found.conflicts.into_iter().map(place).collect::<Outcome<Vec<_>>>()?, &choice)?;
    match found.more {
        0 => Ok(()),
        more => Err(Failure::new(format!("{} are left: run it again", count(more, "conflict")))),
    }
}

/// Settles each; goes on after one that can't be.
fn settle(places: Vec<(PathBuf, VolumeDir, Bytes)>, choice: &Choice) -> Outcome<()> {
    let all = places.len() as u64;
    let (mut settled, mut failed) = (0, None);
    for (typed, dir, path) in places {
        let request = Request::Resolve { path, keep: choice.clone() };
        match client::ask(&dir, &request).and_then(|reply| reply.ok_or_else(|| not_mounted(&dir))) {
            Ok(_) => settled += 1,
            Err(why) => failed = failed.or_else(|| Some(format!("{}: {why}", typed.display()))),
        }
    }
    match failed {
        None => output::line(&format!("{} settled", count(settled, "conflict"))),
        Some(why) if all == 1 => Err(Failure::new(why)),
        Some(why) => Err(Failure::new(format!("{settled} of {all} settled; {why}"))),
    }
}

fn asked(dir: &VolumeDir, within: &Bytes) -> Outcome<Found> {
    let request = Request::Conflicts { within: within.clone() };
    reply(client::ask(dir, &request)?.ok_or_else(|| not_mounted(dir))?)
}

fn reply(reply: Reply) -> Outcome<Found> {
    if let Reply::Conflicts(found) = reply { Ok(found) } else { Err(unexpected()) }
}

fn bytes_of(path: &Path) -> Bytes {
    Bytes(path.as_os_str().as_bytes().to_vec())
}

/// What was typed behind `--keep`; of a path its name.
fn choice(typed: &OsStr) -> Choice {
    match typed.as_bytes() {
        b"mine" => Choice::Mine,
        b"theirs" => Choice::Theirs,
        b"both" => Choice::Both,
        name => Choice::Named(Bytes(Path::new(typed).file_name().map_or(name, OsStr::as_bytes).to_vec())),
    }
}

/// A conflict; who typed a path is told whole ones.
fn screen(top: &Path, conflict: &Conflict) -> Vec<String> {
    let rows: Vec<Vec<String>> = conflict.versions.iter().map(row).collect();
    let table = output::layout(&["  NAME", "BY", "DEVICE", "MADE", "SHOWS SINCE", "SIZE"], &rows);
    [vec![top.join(&conflict.path).display().to_string()], table, vec![String::new()]].concat()
}

fn row(version: &Version) -> Vec<String> {
    let you = if version.mine { " (you)" } else { "" };
    let size = if version.kind == "file" { bytes(version.size) } else { version.kind.clone() };
    vec![
        format!("  {}", version.name),
        format!("{}{you}", version.user),
        version.device.get(..8).unwrap_or(&version.device).to_owned(),
        seconds(&version.made),
        seconds(&version.shown),
        size,
    ]
}

/// A moment without the fraction of its second.
fn seconds(moment: &str) -> String {
    match moment.split_once('.') {
        Some((whole, _)) => format!("{whole}Z"),
        None => moment.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_keep_is_a_word_or_a_name() {
        let check = |typed: &str, expected: Choice| assert_eq!(choice(OsStr::new(typed)), expected, "{typed}");
        check("mine", Choice::Mine);
        check("theirs", Choice::Theirs);
        check("both", Choice::Both);
        check("./mine", Choice::Named(Bytes(b"mine".to_vec())));
        check("d/a (conflict of bob).txt", Choice::Named(Bytes(b"a (conflict of bob).txt".to_vec())));
    }

    #[test]
    fn people_see_seconds() {
        assert_eq!(seconds("2026-11-22T09:15:03.123456Z"), "2026-11-22T09:15:03Z");
        assert_eq!(seconds("2026-11-22T09:15:03Z"), "2026-11-22T09:15:03Z");
    }
}
