//! `p2pfs restore` and `p2pfs undo`: what is asked of the daemon, what it does, and what it tells.

use serde::{Deserialize, Serialize};
use volume::{
    Error, Volume,
    restore::Restore,
    take_back::{Step, TakeBack, What},
    time::Timestamp,
};

use crate::{
    failure::{Because, Failure, Outcome},
    inside::{NOT_OURS, not_ours},
    report::moment,
};

/// So many steps are told one by one.
const MOST_TOLD: usize = 20_000;
/// Fewer digits of an id may be a name just as well.
const ID_DIGITS: usize = 4;

/// A path from the top of the volume on; as bytes, since it need not be text.
pub(crate) type Names = Vec<Vec<u8>>;

/// What to restore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ToRestore {
    pub(crate) path: Names,
    /// As it was then; else before the last change.
    pub(crate) at: Option<Moment>,
    pub(crate) to: Names,
    pub(crate) exact: bool,
    pub(crate) dry_run: bool,
}

/// What to take back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ToUndo {
    /// The first digits of a device's id,
    pub(crate) device: Option<String>,
    /// or a user's name or the first digits of their id.
    pub(crate) user: Option<String>,
    pub(crate) since: Moment,
    pub(crate) path: Option<Names>,
    pub(crate) dry_run: bool,
}

/// A moment, as [`Timestamp`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Moment {
    pub(crate) secs: i64,
    pub(crate) nanos: u32,
}

impl Moment {
    pub(crate) fn of(moment: jiff::Timestamp) -> Self {
        let (secs, nanos) = (moment.as_second(), moment.subsec_nanosecond());
        // Before 1970 they count down from the second above.
        match u32::try_from(nanos) {
            Ok(nanos) => Self { secs, nanos },
            Err(_) => Self { secs: secs - 1, nanos: (nanos + 1_000_000_000).unsigned_abs() },
        }
    }

    fn time(self) -> Outcome<Timestamp> {
        let time = Timestamp { secs: self.secs, nanos: self.nanos };
        if time.is_valid() { Ok(time) } else { Err(Failure::new("no moment has that many nanoseconds")) }
    }
}

/// What was restored.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Restored {
    pub(crate) path: String,
    pub(crate) to: String,
    /// Since when what was restored had shown.
    pub(crate) shown: String,
    pub(crate) directory: bool,
    pub(crate) files: u64,
    pub(crate) directories: u64,
    pub(crate) unchanged: u64,
    pub(crate) removed: u64,
    pub(crate) bytes: u64,
    pub(crate) dry_run: bool,
    /// To be taken back: this device, and when it began.
    pub(crate) device: String,
    pub(crate) began: String,
}

/// What was taken back.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Undone {
    pub(crate) dry_run: bool,
    pub(crate) steps: Vec<Undid>,
    /// Steps that are not among these.
    pub(crate) more: u64,
    pub(crate) put_back: u64,
    pub(crate) removed: u64,
    /// What stays, or whose contents do, since others changed it.
    pub(crate) kept: u64,
    pub(crate) failed: u64,
    pub(crate) device: String,
    pub(crate) began: String,
}

/// One file or directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Undid {
    pub(crate) path: String,
    /// Where it was before.
    pub(crate) from: Option<String>,
    /// `changed`, `brought back`, `moved back`, `removed`, `kept`, `name removed` or `failed`.
    pub(crate) what: String,
    pub(crate) contents: bool,
    pub(crate) attributes: bool,
    /// Its contents are, or stay, what others made of those that are taken back.
    pub(crate) contents_kept: bool,
    /// Why it failed.
    pub(crate) why: Option<String>,
}

impl Undid {
    fn of(step: Step) -> Self {
        let (what, why) = match step.what {
            What::Stays => ("changed", None),
            What::ComesBack => ("brought back", None),
            What::GoesBack => ("moved back", None),
            What::IsRemoved => ("removed", None),
            What::IsKept => ("kept", None),
            What::LosesName => ("name removed", None),
            What::Failed(why) => ("failed", Some(why)),
        };
        Undid {
            path: text(&step.path),
            from: step.from.as_deref().map(text),
            what: what.to_owned(),
            contents: step.contents,
            attributes: step.attributes,
            contents_kept: step.contents_kept,
            why,
        }
    }
}

fn text(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(path).into_owned();
    if text.is_empty() { ".".to_owned() } else { text }
}

/// This device, and a moment after all that it did so far.
fn now(volume: &Volume) -> Outcome<(String, String)> {
    volume.commit_now().because(|| "writing the last changes".to_owned())?;
    let devices = volume.devices();
    let me = devices.iter().find(|device| device.me);
    let me = me.map(|device| device.id.to_string()).ok_or_else(|| Failure::new("this device is no member yet"))?;
    Ok((me, jiff::Timestamp::now().to_string()))
}

/// Restores something.
pub(crate) fn restore(volume: &Volume, what: ToRestore) -> Outcome<Restored> {
    let names = text(&what.path.join(&b'/'));
    let nothing = |e: Error| match e {
        Error::NotFound => Failure::new(format!("{names}: nothing was there then that this device knows of")),
        Error::NoSpace => Failure::new("the disk is full: make room, then restore again; it goes on where it stopped"),
        Error::ReadOnly => Failure::new("your role is reader: nothing can be changed"),
        e => Failure::from(e),
    };
    if [&what.path, &what.to].iter().any(|path| path.first().is_some_and(|name| name == NOT_OURS.as_bytes())) {
        return Err(not_ours());
    }
    let (device, began) = now(volume)?;
    let at = match what.at {
        Some(moment) => volume.arrival_at(moment.time()?),
        None => volume.before_last_change(&what.path),
    }
    .map_err(nothing)?;
    let to = text(&what.to.join(&b'/'));
    let dry_run = what.dry_run;
    let restored = volume.restore(&Restore { path: what.path, at, to: what.to, exact: what.exact, dry_run });
    let restored = restored.map_err(nothing)?;
    Ok(Restored {
        path: names.clone(),
        to,
        shown: moment(restored.shown),
        directory: restored.directory,
        files: restored.files,
        directories: restored.directories,
        unchanged: restored.unchanged,
        removed: restored.removed,
        bytes: restored.bytes,
        dry_run,
        device,
        began,
    })
}

/// Takes back what a device or a user did.
pub(crate) fn undo(volume: &Volume, what: ToUndo) -> Outcome<Undone> {
    let devices = match (&what.device, &what.user) {
        (Some(digits), None) => {
            let known: Vec<_> = volume.devices().into_iter().map(|device| device.id).collect();
            let known: Vec<_> = known.into_iter().filter(|id| is_prefix(digits, &id.to_string())).collect();
            match known.as_slice() {
                [_] => known,
                [] => return Err(Failure::new(format!("no device begins with {digits}: `p2pfs devices` lists them"))),
                _ => return Err(Failure::new(format!("several devices begin with {digits}: give more digits"))),
            }
        }
        (None, Some(user)) => {
            let members = volume.members();
            let by_name: Vec<_> = members.iter().filter(|member| member.name == *user).collect();
            let by_id = members.iter().filter(|member| is_prefix(user, &member.user.to_string()));
            let found = if by_name.is_empty() { by_id.collect() } else { by_name };
            match found.as_slice() {
                [member] => member.devices.clone(),
                [] => return Err(Failure::new(format!("there is no user {user}: `p2pfs users` lists them"))),
                _ => return Err(Failure::new(format!("several users begin with {user}: give more digits"))),
            }
        }
        _ => return Err(Failure::new("name a device or a user")),
    };
    let (device, began) = now(volume)?;
    let mut undone = Undone {
        dry_run: what.dry_run,
        steps: Vec::new(),
        more: 0,
        put_back: 0,
        removed: 0,
        kept: 0,
        failed: 0,
        device,
        began,
    };
    let take_back = TakeBack { devices, since: what.since.time()?, below: what.path.clone(), dry_run: what.dry_run };
    let done = volume.take_back(&take_back, &mut |step| {
        match step.what {
            What::IsRemoved | What::LosesName => undone.removed += 1,
            What::IsKept => {}
            What::Failed(_) => undone.failed += 1,
            What::Stays | What::ComesBack | What::GoesBack => undone.put_back += 1,
        }
        if step.contents_kept || step.what == What::IsKept {
            undone.kept += 1;
        }
        if undone.steps.len() < MOST_TOLD {
            undone.steps.push(Undid::of(step));
        } else {
            undone.more += 1;
        }
    });
    match done {
        Ok(()) => Ok(undone),
        Err(Error::NotFound) if what.path.is_some() => Err(Failure::new(
            "nothing is at that path, nor was at that time, or this device knows nothing from so long ago",
        )),
        Err(Error::NotFound) => Err(Failure::new("this device knows nothing from so long ago")),
        Err(Error::NoSpace) => {
            Err(Failure::new("the disk is full: make room, then undo again; it goes on where it stopped"))
        }
        Err(Error::ReadOnly) => Err(Failure::new("your role is reader: nothing can be changed")),
        Err(e) => Err(Failure::from(e)),
    }
}

fn is_prefix(digits: &str, id: &str) -> bool {
    digits.len() >= ID_DIGITS && id.starts_with(&digits.to_ascii_lowercase())
}
