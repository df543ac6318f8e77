//! The folder a volume is mounted at: whether it can be, what is there now, and taking a mount away.
//!
//! A mount whose daemon was killed stays in the kernel's table and answers everything with "transport endpoint is
//! not connected". Such a dead mount of ours is detached when somebody mounts or unmounts there.

use std::{
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::mount::UnmountFlags;

use crate::failure::{Because, Failure, Outcome, plain};

/// How the kernel's table names our mounts.
const OUR_TYPE: &str = "fuse.p2pfs";
/// Dead mounts can lie on top of each other, one per daemon that was killed.
const MOST_DEAD: usize = 16;
/// What programs that ask a dead mount are told, in English.
const NOT_CONNECTED: &str = "Transport endpoint is not connected";
/// How often it is looked whether who asks a mount has an answer.
const LOOK: Duration = Duration::from_millis(10);
/// How many users of a busy mount are named.
const MOST_USERS: usize = 5;

/// What is mounted at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Mounted {
    Nothing,
    /// A volume whose daemon answers.
    Alive,
    /// A volume whose daemon is gone.
    Dead,
    /// Some other file system, of this type.
    Other(String),
}

/// What is mounted at `path`, which is [`absolute`].
pub(crate) fn mounted_at(path: &Path) -> Outcome<Mounted> {
    let table = fs::read("/proc/self/mountinfo").because(|| "reading /proc/self/mountinfo".to_owned())?;
    Ok(match topmost(&table, path) {
        None => Mounted::Nothing,
        Some(kind) if kind != OUR_TYPE => Mounted::Other(kind),
        Some(_) if is_dead(path) => Mounted::Dead,
        Some(_) => Mounted::Alive,
    })
}

fn is_dead(path: &Path) -> bool {
    // The kernel answers `stat` from its cache, also for the dead; for this it must ask.
    rustix::fs::statvfs(path).is_err_and(|e| e == rustix::io::Errno::NOTCONN)
}

/// What is wrong with a mount of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Illness {
    /// Its daemon is gone.
    Dead,
    /// Its daemon is there, and does not answer.
    Hangs,
}

/// Where volumes are mounted on which programs get errors, or wait; after `limit`, whatever hangs.
pub(crate) fn ill(limit: Duration) -> Outcome<Vec<(PathBuf, Illness)>> {
    let table = fs::read("/proc/self/mountinfo").because(|| "reading /proc/self/mountinfo".to_owned())?;
    let mut ours: Vec<PathBuf> = table
        .split(|b| *b == b'\n')
        .filter_map(place_and_type)
        .filter(|(_, kind)| kind == OUR_TYPE)
        .map(|(at, _)| at)
        .collect();
    ours.sort();
    ours.dedup();
    let deadline = Instant::now() + limit;
    let asked: Vec<_> = ours.into_iter().map(|path| (ask_elsewhere(&path), path)).collect();
    let found = asked.into_iter().filter_map(|(asked, path)| {
        let illness = match asked {
            Ok(child) => illness(child, deadline),
            Err(_) => is_dead(&path).then_some(Illness::Dead),
        };
        Some((path, illness?))
    });
    Ok(found.collect())
}

/// Has a process of its own look at a mount. A thread would do but for one thing: while a daemon has a request and does not
/// answer it, nothing ends who asked, and the whole program would wait for the thread when it ends.
fn ask_elsewhere(path: &Path) -> io::Result<Child> {
    let mut stat = Command::new("stat");
    stat.env("LC_ALL", "C").args(["-f", "-c", "%T", "--"]).arg(path);
    stat.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()
}

fn illness(mut child: Child, deadline: Instant) -> Option<Illness> {
    loop {
        match child.try_wait() {
            Ok(None) if Instant::now() < deadline => thread::sleep(LOOK),
            Ok(None) => {
                // Best effort: it may only end with what it waits for.
                let _ = child.kill();
                return Some(Illness::Hangs);
            }
            Ok(Some(status)) if status.success() => return None,
            // It has ended, so this does not wait.
            _ => {
                let said = child.wait_with_output().ok()?.stderr;
                return String::from_utf8_lossy(&said).contains(NOT_CONNECTED).then_some(Illness::Dead);
            }
        }
    }
}

/// Where something is mounted, and its type, by a line of the kernel's table.
fn place_and_type(line: &[u8]) -> Option<(PathBuf, String)> {
    // 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
    let mut fields = line.split(|b| *b == b' ');
    let at = unescape(fields.by_ref().nth(4)?);
    let kind = fields.skip_while(|f| *f != b"-").nth(1)?;
    Some((at, String::from_utf8_lossy(kind).into_owned()))
}

/// The type of the file system mounted last at `path`, by the kernel's table.
fn topmost(table: &[u8], path: &Path) -> Option<String> {
    table
        .split(|b| *b == b'\n')
        .filter_map(place_and_type)
        .filter_map(|(at, kind)| (at == path).then_some(kind))
        .next_back()
}

/// Whether `path`, which is [`absolute`], lies in a mounted volume.
///
/// # Errors
/// There is no table of mounts.
pub(crate) fn lies_in_ours(path: &Path) -> io::Result<bool> {
    let table = fs::read("/proc/self/mountinfo")?;
    let around = table.split(|b| *b == b'\n').filter_map(place_and_type).filter(|(at, _)| path.starts_with(at));
    // Of several on one folder the last counts.
    let nearest = around.max_by_key(|(at, _)| at.as_os_str().len());
    Ok(nearest.is_some_and(|(_, kind)| kind == OUR_TYPE))
}

/// Undoes the kernel's `\040` for blanks and the like.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = match tail {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] if first == b'\\' => {
                Some((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'))
            }
            _ => None,
        };
        bytes.push(octal.unwrap_or(first));
        rest = if octal.is_some() { &tail[3..] } else { tail };
    }
    PathBuf::from(OsString::from_vec(bytes))
}

/// `path` from the root and without symlinks above its last part. The last part may be missing or a dead mount,
/// so it isn't followed unless it is a symlink to something that is there.
pub(crate) fn absolute(path: &Path) -> Outcome<PathBuf> {
    if let Ok(found) = fs::canonicalize(path) {
        return Ok(found);
    }
    let full = std::path::absolute(path).because(|| path.display().to_string())?;
    match (full.parent().map(fs::canonicalize), full.file_name()) {
        (Some(Ok(parent)), Some(name)) => Ok(parent.join(name)),
        _ => Ok(full),
    }
}

/// Makes sure that a volume can be mounted at `path`: it is there, a folder, empty, and nothing is mounted on it.
/// A dead mount of ours is cleared away; with `create`, a missing folder is made.
pub(crate) fn prepare(path: &Path, create: bool) -> Outcome<()> {
    let shown = path.display();
    clear_dead(path)?;
    match mounted_at(path)? {
        Mounted::Nothing | Mounted::Dead => {}
        Mounted::Alive => {
            return Err(Failure::new(format!(
                "{shown} is already mounted: unmount it first, or choose another folder"
            )));
        }
        Mounted::Other(kind) => {
            return Err(Failure::new(format!(
                "{shown} has another file system ({kind}) mounted on it: choose another folder"
            )));
        }
    }
    let found = match fs::metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound && create => {
            fs::create_dir_all(path).because(|| format!("making the mount point {shown}"))?;
            fs::metadata(path)
        }
        found => found,
    };
    match found {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(Failure::new(format!("mount point {shown} is not there: make it with `mkdir`")));
        }
        Err(e) => return Err(Failure::new(format!("mount point {shown}: {}", plain(&e)))),
        Ok(found) if !found.is_dir() => {
            return Err(Failure::new(format!("mount point {shown} is not a directory: choose an empty folder")));
        }
        Ok(_) => {}
    }
    let first = fs::read_dir(path).and_then(|mut entries| entries.next().transpose());
    if first.because(|| format!("mount point {shown}"))?.is_some() {
        return Err(Failure::new(format!("mount point {shown} is not empty: choose an empty folder")));
    }
    Ok(())
}

/// Detaches dead mounts of ours at `path`; whether there were any.
pub(crate) fn clear_dead(path: &Path) -> Outcome<bool> {
    let mut found = false;
    for _ in 0..MOST_DEAD {
        if mounted_at(path)? != Mounted::Dead {
            break;
        }
        detach(path)
            .map_err(|e| Failure::new(format!("{} has a dead mount that can't be taken away: {e}", path.display())))?;
        found = true;
    }
    Ok(found)
}

/// Takes a live mount away; its daemon then ends by itself.
///
/// # Errors
/// Programs use it: they are named, and the mount stays.
pub(crate) fn unmount(path: &Path) -> Outcome<()> {
    match rustix::mount::unmount(path, UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::BUSY) => Err(busy(path)),
        // Other users than root go through the helper.
        Err(rustix::io::Errno::PERM) => match helper(&["-u"], path) {
            Ok(()) => Ok(()),
            Err(said) if said.contains("busy") => Err(busy(path)),
            Err(said) => Err(Failure::new(format!("unmounting {}: {said}", path.display()))),
        },
        Err(e) => Err(e).because(|| format!("unmounting {}", path.display())),
    }
}

/// The refusal to unmount what is in use, with who uses it.
pub(crate) fn busy(path: &Path) -> Failure {
    let users = users_of(path);
    let by = if users.is_empty() { String::new() } else { format!(" by {}", users.join(", ")) };
    Failure::new(format!("{} is in use{by}: it stays mounted, end what uses it and try again", path.display()))
}

/// Takes a mount out of the tree at once, also when it is in use.
fn detach(path: &Path) -> Outcome<()> {
    match rustix::mount::unmount(path, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::PERM) => helper(&["-u", "-z"], path).map_err(Failure::new),
        Err(e) => Err(e).because(|| "unmounting".to_owned()),
    }
}

/// Runs `fusermount3`; what it says is kept from our own log, which holds no paths.
fn helper(flags: &[&str], path: &Path) -> Result<(), String> {
    let run = Command::new("fusermount3").args(flags).arg("--").arg(path).stdin(Stdio::null()).output();
    match run {
        Ok(done) if done.status.success() => Ok(()),
        Ok(done) => Err(String::from_utf8_lossy(&done.stderr).trim().trim_start_matches("fusermount3: ").to_owned()),
        Err(e) => Err(format!("fusermount3: {}", plain(&e))),
    }
}

/// Processes with a file or their working directory below `path`, as `bash (1234)`. Only reads links, so a hung
/// mount doesn't hang this.
fn users_of(path: &Path) -> Vec<String> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let mut users = Vec::new();
    for process in processes.flatten() {
        let pid = process.file_name();
        if !pid.as_bytes().iter().all(u8::is_ascii_digit) || !uses(&process.path(), path) {
            continue;
        }
        let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
        users.push(format!("{} ({})", name.trim(), Path::new(&pid).display()));
        if users.len() == MOST_USERS {
            break;
        }
    }
    users
}

fn uses(process: &Path, path: &Path) -> bool {
    let inside = |link: PathBuf| fs::read_link(link).is_ok_and(|target| target.starts_with(path));
    if ["cwd", "root", "exe"].iter().any(|link| inside(process.join(OsStr::new(link)))) {
        return true;
    }
    let links = |folder: &str| fs::read_dir(process.join(folder)).into_iter().flatten().flatten();
    links("fd").chain(links("map_files")).any(|link| inside(link.path()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"22 1 0:20 / / rw - ext4 /dev/sda rw\n\
        30 22 0:21 / /home/a\\040b rw,nosuid shared:1 - fuse.p2pfs p2pfs rw\n\
        31 22 0:22 / /mnt rw - tmpfs tmpfs rw\n\
        32 31 0:23 / /mnt rw - fuse.p2pfs p2pfs rw\n\
        broken line\n";

    fn check(path: &str, expected: Option<&str>) {
        assert_eq!(topmost(TABLE, Path::new(path)).as_deref(), expected, "{path}");
    }

    #[test]
    fn the_last_mount_at_a_path_counts() {
        check("/", Some("ext4"));
        check("/mnt", Some("fuse.p2pfs"));
        check("/home/a b", Some("fuse.p2pfs"));
        check("/home", None);
    }

    #[test]
    fn escapes() {
        assert_eq!(unescape(b"/a\\134b\\011c\\9"), Path::new("/a\\b\tc\\9"));
    }

    #[test]
    fn refusals_name_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        let refused = |path: &Path| prepare(path, false).unwrap_err().to_string();
        assert!(refused(&dir.path().join("none")).contains("not there"));
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(refused(&file).contains("not a directory"));
        assert!(refused(dir.path()).contains("not empty"));
        let empty = dir.path().join("empty");
        prepare(&empty, true).unwrap();
        prepare(&empty, false).unwrap();
    }

    #[test]
    fn paths_to_what_is_not_there_are_absolute() {
        let dir = tempfile::tempdir().unwrap();
        let real = fs::canonicalize(dir.path()).unwrap();
        std::os::unix::fs::symlink(&real, real.join("link")).unwrap();
        assert_eq!(absolute(&real.join("link/none")).unwrap(), real.join("none"));
        assert_eq!(absolute(&real.join("link")).unwrap(), real);
    }

    #[test]
    fn an_open_file_is_a_use() {
        let dir = tempfile::tempdir().unwrap();
        let real = fs::canonicalize(dir.path()).unwrap();
        let me = PathBuf::from("/proc/self");
        assert!(!uses(&me, &real));
        let _open = fs::File::create(real.join("f")).unwrap();
        assert!(uses(&me, &real));
    }
}
