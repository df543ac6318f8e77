//! A test's own folder, and what is left of tests that were killed.
//!
//! The folder is `/tmp/p2pfs-test-XXXX` (short: control sockets lie below it). While its test lives it holds a lock on
//! `lock` in it; `daemons` tells which processes it started. A folder that nobody locks belongs to a killed run: the
//! next test ends the processes, takes the mounts away and removes it.

use std::{
    fs,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::Once,
};

use rustix::{
    fs::{FlockOperation, flock},
    process::{Pid, Signal, kill_process},
};

use crate::process::start_time;

const PARENT: &str = "/tmp";
const PREFIX: &str = "p2pfs-test-";

/// A folder that goes away with its test.
#[derive(Debug)]
pub struct Scratch {
    // First: it is gone before others may take the folder for abandoned.
    folder: tempfile::TempDir,
    _lock: fs::File,
}

impl Scratch {
    /// Makes one; checks first that mounts are possible here at all.
    pub fn new() -> Self {
        assert!(
            Path::new("/dev/fuse").exists(),
            "/dev/fuse is missing: these tests mount. Load the fuse module, or give the container the device"
        );
        static CLEANED: Once = Once::new();
        CLEANED.call_once(remove_abandoned);
        let folder = tempfile::Builder::new().prefix(PREFIX).rand_bytes(6).tempdir_in(PARENT).unwrap();
        let lock = open_lock(folder.path()).unwrap();
        flock(&lock, FlockOperation::LockExclusive).unwrap();
        Self { folder, _lock: lock }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Makes an empty folder in it.
    pub fn make(&self, name: &str) -> PathBuf {
        let path = self.path().join(name);
        fs::create_dir(&path).unwrap();
        path
    }

    /// Notes a process that must not outlive the test.
    pub(crate) fn note_daemon(&self, pid: u32) {
        let mut notes = fs::OpenOptions::new().append(true).create(true).open(self.path().join("daemons")).unwrap();
        writeln!(notes, "{pid} {}", start_time(pid).unwrap_or_default()).unwrap();
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Before anything in it is removed: nothing must be removed through a mount.
        detach_below(self.path());
    }
}

fn open_lock(folder: &Path) -> std::io::Result<fs::File> {
    fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(folder.join("lock"))
}

fn remove_abandoned() {
    for entry in fs::read_dir(PARENT).unwrap().flatten() {
        let folder = entry.path();
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        // A test that has just made its folder has not locked it yet.
        let young =
            entry.metadata().and_then(|m| m.modified()).is_ok_and(|t| t.elapsed().is_ok_and(|e| e.as_secs() < 5));
        let Ok(lock) = open_lock(&folder) else { continue };
        if young || flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            continue;
        }
        eprintln!("removing what a killed test left in {}", folder.display());
        end_noted(&folder);
        detach_below(&folder);
        let _ = fs::remove_dir_all(&folder);
    }
}

/// Ends the processes noted in `folder`, unless their numbers are other processes' by now.
fn end_noted(folder: &Path) {
    let notes = fs::read_to_string(folder.join("daemons")).unwrap_or_default();
    for line in notes.lines() {
        let Some((pid, started)) = line.split_once(' ') else { continue };
        let Ok(number) = pid.parse::<u32>() else { continue };
        if start_time(number).is_some_and(|now| now == started)
            && let Some(pid) = i32::try_from(number).ok().and_then(Pid::from_raw)
        {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// Takes all mounts below `folder` away, the innermost first.
pub fn detach_below(folder: &Path) {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let below = |path: &&str| Path::new(path).starts_with(folder);
    for mountpoint in table.lines().rev().filter_map(|line| line.split(' ').nth(4)).filter(below) {
        let done = Command::new("umount").arg("-l").arg(mountpoint).output().is_ok_and(|o| o.status.success());
        if !done {
            let _ = Command::new("fusermount3").args(["-u", "-z"]).arg(mountpoint).output();
        }
    }
}
