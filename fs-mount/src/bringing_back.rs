//! `p2pfs restore` and `p2pfs undo`: what is asked of the daemon, what it does, and what it tells.

use fs_mount::version_names;
use serde::{Deserialize, Serialize};
use volume::{
    Error, Volume,
    node::{Ino, NodeKind},
    restore::{InTheWay, Restore, Would},
    take_back::{Step, TakeBack, What},
    time::Timestamp,
};

pub(crate) use crate::control::request::{Moment, Names, ToRestore, ToUndo, When};
use crate::{
    failure::{Because, Failure, Outcome},
    inside::{NOT_OURS, not_ours},
    report::moment,
};

/// So many steps are told one by one.
const MOST_TOLD: usize = 20_000;
/// Changes of a folder's entries among which one is looked for.
const ENTRIES: usize = 1_000_000;
/// Fewer digits of an id may be a name just as well.
const ID_DIGITS: usize = 4;

/// That state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AsOf {
    /// The number of the last commit in it, on this device.
    pub(crate) arrival: u64,
    /// A time that means it.
    pub(crate) moment: String,
    /// A directory was there.
    pub(crate) directory: bool,
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
    /// What a dry run would do, and how much that is with what isn't listed.
    pub(crate) would: Vec<Undid>,
    pub(crate) changes: u64,
    /// What isn't restored, and how much that is with what isn't listed.
    pub(crate) in_the_way: Vec<Left>,
    pub(crate) left: u64,
    pub(crate) dry_run: bool,
    /// To be taken back: this device, and when it began.
    pub(crate) device: String,
    pub(crate) began: String,
}

/// Something that isn't restored, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Left {
    pub(crate) path: String,
    pub(crate) why: String,
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

impl Undid {
    /// What restoring would do.
    fn would(path: &[u8], would: Would) -> Self {
        let what = match would {
            Would::Change => "changed",
            Would::ComeBack => "brought back",
            Would::BeRemoved => "removed",
        };
        let (path, what) = (text(path), what.to_owned());
        Undid { path, from: None, what, contents: false, contents_kept: false, attributes: false, why: None }
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

/// Which state of a path is to be restored.
pub(crate) fn as_of(volume: &Volume, path: &Names, when: &When) -> Outcome<AsOf> {
    let named = text(&path.join(&b'/'));
    check_ours(path)?;
    let arrival = match when {
        When::LastChange if matches!(kind(volume, Ino::ROOT, path), Ok(NodeKind::Directory)) => {
            return Err(Failure::new(format!(
                "{named} is there: say as of when, with --at or --version (`p2pfs history` tells what happened in it; a \
                 restore that was interrupted goes on with --at and the time that it printed)"
            )));
        }
        When::LastChange => volume.before_last_change(path).map_err(|e| not_restored(&named, e))?,
        When::Version(typed) => version(volume, path, typed)?,
        When::Moment(_) | When::Snapshot(_) => state(volume, when).map_err(|e| not_restored(&named, e))??,
    };
    let was = volume.past(arrival).and_then(|root| kind(volume, root, path)).map_err(|e| not_restored(&named, e))?;
    Ok(AsOf { arrival, moment: moment_of(volume, arrival)?, directory: was == NodeKind::Directory })
}

/// The number of the last commit of a state that has a time or a name.
fn state(volume: &Volume, when: &When) -> volume::Result<Outcome<u64>> {
    match when {
        When::Moment(moment) => match moment.time() {
            Ok(time) => volume.arrival_at(time).map(Ok),
            Err(e) => Ok(Err(e)),
        },
        When::Snapshot(name) => {
            let snapshots = volume.snapshots()?;
            let found = snapshots.iter().find(|snapshot| snapshot.name == *name).map(|snapshot| snapshot.arrival);
            Ok(found.ok_or_else(|| {
                Failure::new(format!(
                    "'{}' is no time and no snapshot: try 2026-11-22T09:15, 09:15, yesterday or 2h-ago",
                    name.escape_debug()
                ))
            }))
        }
        When::LastChange | When::Version(_) => Ok(Err(Failure::new("that needs a time"))),
    }
}

/// The shortest time that means a state and no other.
fn moment_of(volume: &Volume, arrival: u64) -> Outcome<String> {
    let shown = volume.shown_at(arrival)?;
    for digits in [3, 6] {
        let unit = 10_u32.pow(9 - digits);
        let nanos = u64::from(shown.nanos.div_ceil(unit)) * u64::from(unit);
        let (more, nanos) = (nanos / 1_000_000_000, u32::try_from(nanos % 1_000_000_000).unwrap_or(0));
        let later = Timestamp { secs: shown.secs.saturating_add(i64::from(more > 0)), nanos };
        if volume.arrival_at(later).is_ok_and(|found| found == arrival) {
            return Ok(version_names::text(later, digits));
        }
    }
    Ok(version_names::text(shown, 9))
}

/// What is at a path below a root.
fn kind(volume: &Volume, root: Ino, path: &Names) -> volume::Result<NodeKind> {
    let (mut at, mut kind) = (root, NodeKind::Directory);
    for name in path {
        let found = volume.lookup(at, name)?;
        (at, kind) = (found.ino, found.kind);
    }
    Ok(kind)
}

/// The number of the commit that a version of a path came with; of a folder, also that with which an entry changed.
fn version(volume: &Volume, path: &Names, typed: &str) -> Outcome<u64> {
    let names: Vec<&[u8]> = path.iter().map(Vec::as_slice).collect();
    let last = names.last().copied().unwrap_or_default();
    let named = text(&path.join(&b'/'));
    let versions = volume.versions(&names).because(|| named.clone())?;
    let moments = version_names::moments(&versions);
    let mut found = version_names::find(&moments, typed)
        .and_then(|place| versions.get(place))
        .map(|version| (version.since, version.author.clone()));
    if found.is_none() {
        let wanted = version_names::moment_of(typed);
        let changes = volume.entry_changes(&names, ENTRIES).because(|| named.clone())?;
        let change = changes.into_iter().find(|change| version_names::shown(change.shown) == wanted);
        found = change.map(|change| (change.arrival, change.author));
    }
    let shown = typed.escape_debug();
    let Some((since, author)) = found else {
        return Err(Failure::new(format!("{named} has no version '{shown}': `p2pfs history` lists them")));
    };
    let moment = version_names::moment_of(typed);
    let whole = version_names::file_name(moment, &author, last);
    if typed != moment && typed != format!("{moment}~{}", author.name) && typed.as_bytes() != whole {
        let author = author.name;
        return Err(Failure::new(format!("the version {moment} of {named} is by {author}: '{shown}' is none")));
    }
    Ok(volume.kept_from(since))
}

fn check_ours(path: &Names) -> Outcome<()> {
    if path.first().is_some_and(|name| name == NOT_OURS.as_bytes()) { Err(not_ours()) } else { Ok(()) }
}

/// Why something was not restored.
fn not_restored(named: &str, error: Error) -> Failure {
    match error {
        Error::NotFound => Failure::new(format!("{named}: nothing was there then that this device knows of")),
        Error::NotDirectory => Failure::new(format!("{named}: what it lies in is no folder")),
        Error::NoSpace => Failure::new("the disk is full: make room, then restore again; it goes on where it stopped"),
        Error::ReadOnly => Failure::new("your role is reader: nothing can be changed"),
        Error::Refused(why) => Failure::new(why),
        e => Failure::new(format!("{named}: {}", Failure::from(e))),
    }
}

/// Restores something.
pub(crate) fn restore(volume: &Volume, what: ToRestore) -> Outcome<Restored> {
    let names = text(&what.path.join(&b'/'));
    check_ours(&what.path)?;
    check_ours(&what.to)?;
    let (device, began) = now(volume)?;
    let to = text(&what.to.join(&b'/'));
    let dry_run = what.dry_run;
    let what = Restore { path: what.path, at: what.at, to: what.to, exact: what.exact, dry_run };
    let restored = volume.restore(&what).map_err(|e| not_restored(&names, e))?;
    let in_the_way = restored.in_the_way.iter().map(|(path, why)| {
        let why = match why {
            InTheWay::OtherKind => "something of another kind is there",
            InTheWay::BeingWritten => "it is open for writing on this device",
        };
        Left { path: text(path), why: why.to_owned() }
    });
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
        would: restored.would.iter().map(|(path, would)| Undid::would(path, *would)).collect(),
        changes: restored.changes,
        in_the_way: in_the_way.collect(),
        left: restored.left,
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
    let ancient = || Failure::new("this device knows nothing from so long ago");
    let since = match &what.since {
        When::Moment(moment) => moment.time()?,
        when => match state(volume, when) {
            Err(Error::NotFound) => return Err(ancient()),
            arrival => volume.shown_at(arrival??)?,
        },
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
    let take_back = TakeBack { devices, since, below: what.path.clone(), dry_run: what.dry_run };
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
        Err(Error::NotFound) => Err(ancient()),
        Err(Error::NotDirectory) => {
            let path = what.path.map(|path| text(&path.join(&b'/'))).unwrap_or_default();
            Err(Failure::new(format!("{path}: what it lies in is no folder")))
        }
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
