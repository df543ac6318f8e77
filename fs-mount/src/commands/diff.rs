//! `p2pfs diff`: what changed between two versions of a text, or both merged.

use std::{fs, io::Read, path::PathBuf};

use crate::{
    cli::Diff,
    commands::history::{events, hexadecimal},
    control::{
        client::{self, unexpected},
        protocol::{Reply, Request},
    },
    failure::{Because, Failure, Outcome},
    home::Home,
    inside::{Inside, inside_own},
    open_volume::not_mounted,
    output::{self, printable},
};

/// Versions among which one is looked for that differs from what is there now.
const LOOKED_AT: usize = 1000;
/// No larger texts are compared: it takes several times their size in memory.
const LARGEST: u64 = 64 << 20;

/// A version of a text.
struct Text {
    label: String,
    /// The version's name; nothing of what is there now.
    version: Option<String>,
    bytes: Vec<u8>,
}

pub(crate) fn run(home: &Home, args: &Diff) -> Outcome<()> {
    if args.merge && args.versions.is_empty() {
        return Err(Failure::new("what to merge is not said: p2pfs diff --merge PATH VERSION [VERSION]"));
    }
    let place = inside_own(home, &args.path)?;
    if !place.is_there() && events(&place, 1)?.is_empty() {
        return Err(Failure::new(format!("nothing was ever at {}", args.path.display())));
    }
    let (old, new) = match args.versions.as_slice() {
        [] => before_and_now(&place)?,
        [one] => (version(&place, one)?, now(&place)?),
        [one, other, ..] => (version(&place, one)?, version(&place, other)?),
    };
    if [&old, &new].into_iter().any(|text| text.bytes.contains(&0)) {
        return match old.bytes == new.bytes {
            true => Ok(()),
            false => output::line(&format!("binary files {} and {} differ", old.label, new.label)),
        };
    }
    if args.merge { merge(&place, &old, &new) } else { compare(&old, &new) }
}

fn compare(old: &Text, new: &Text) -> Outcome<()> {
    if old.bytes == new.bytes {
        return Ok(());
    }
    let mut options = diffy::DiffOptions::new();
    options.set_original_filename(printable(&old.label)).set_modified_filename(printable(&new.label));
    output::raw(&options.create_patch_bytes(&old.bytes, &new.bytes).to_bytes())
}

/// Prints both, merged on what they are based on.
fn merge(place: &Inside, one: &Text, other: &Text) -> Outcome<()> {
    let newest = || -> Outcome<String> {
        let mut events = events(place, LOOKED_AT)?.into_iter();
        let of_file = events.find(|event| event.name.is_none() && event.file.is_some());
        of_file.map(|event| event.version).ok_or_else(|| Failure::new("what is there now is no version yet"))
    };
    let name = |text: &Text| text.version.clone().map_or_else(newest, Ok);
    let (a, b) = (name(one)?, name(other)?);
    let request = Request::Base { path: hexadecimal(&place.path), one: a, other: b };
    let base = match client::ask(&place.dir, &request)?.ok_or_else(|| not_mounted(&place.dir))? {
        Reply::Base(base) => base.ok_or_else(|| Failure::new("these two versions have none that both are based on"))?,
        _ => return Err(unexpected()),
    };
    let base = version(place, &base)?;
    if base.bytes.contains(&0) {
        return Err(Failure::new(format!("{}, on which both are based, is no text", base.label)));
    }
    match diffy::merge_bytes(&base.bytes, &one.bytes, &other.bytes) {
        Ok(merged) => output::raw(&merged),
        Err(marked) => {
            output::raw(&marked)?;
            Err(Failure::new("both changed the same lines: they are marked in what was printed"))
        }
    }
}

/// The folder in which the versions of the path lie.
fn versions(place: &Inside) -> PathBuf {
    place.mountpoint.join(".p2pfs/versions").join(&place.path)
}

/// The version with a typed name.
fn version(place: &Inside, typed: &str) -> Outcome<Text> {
    if typed.is_empty() || typed.contains('/') {
        return Err(Failure::new(format!("there is no version {typed}")));
    }
    let path = versions(place).join(typed);
    if fs::symlink_metadata(&path).is_err() {
        let what = place.path.display();
        return Err(Failure::new(format!("{what} has no version {typed}: `p2pfs history` lists them")));
    }
    let label = format!("{}@{typed}", place.path.display());
    Ok(Text { label, version: Some(typed.to_owned()), bytes: content(&path)? })
}

/// What is there now.
fn now(place: &Inside) -> Outcome<Text> {
    let path = place.mountpoint.join(&place.path);
    if fs::symlink_metadata(&path).is_err() {
        return Err(Failure::new(format!("{} is gone: name two of its versions", place.path.display())));
    }
    Ok(Text { label: place.path.display().to_string(), version: None, bytes: content(&path)? })
}

/// What is there now, and the newest version before that is another; of what is gone, the last two.
fn before_and_now(place: &Inside) -> Outcome<(Text, Text)> {
    let mut found = events(place, LOOKED_AT)?.into_iter().filter(|event| event.name.is_none());
    let mut next = || found.find_map(|event| event.file.map(|_| event.version));
    let none = || Failure::new(format!("there was no other version of {}", place.path.display()));
    let new = match now(place) {
        Ok(now) => now,
        Err(gone) => version(place, &next().ok_or(gone)?)?,
    };
    loop {
        let old = version(place, &next().ok_or_else(none)?)?;
        if old.bytes != new.bytes {
            return Ok((old, new));
        }
    }
}

fn content(path: &PathBuf) -> Outcome<Vec<u8>> {
    let what = || path.display().to_string();
    let known = fs::symlink_metadata(path).because(what)?;
    if known.is_symlink() {
        let target = fs::read_link(path).because(what)?;
        return Ok([std::os::unix::ffi::OsStrExt::as_bytes(target.as_os_str()), b"\n"].concat());
    }
    if !known.is_file() {
        return Err(Failure::new(format!("{} is no file", path.display())));
    }
    let mut bytes = Vec::new();
    fs::File::open(path).and_then(|file| file.take(LARGEST + 1).read_to_end(&mut bytes)).because(what)?;
    match bytes.len() as u64 > LARGEST {
        true => Err(Failure::new(format!("{} is too large to compare", path.display()))),
        false => Ok(bytes),
    }
}
