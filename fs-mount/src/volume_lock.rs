//! One process per volume: a lock on a file in its folder, let go by the kernel when the process ends.

use std::{
    ffi::OsString,
    fs,
    io::{Read, Seek, Write},
    os::unix::{ffi::OsStringExt, fs::OpenOptionsExt},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rustix::fs::{FlockOperation, flock};

use crate::{
    control::{client, protocol::Hello},
    failure::{Because, Failure, Outcome},
    home::VolumeDir,
};

/// How long others may take to let the volume go: a command that has it open for a moment, a daemon whose mount is gone
/// and that still hands over what peers lack.
const PATIENCE: Duration = Duration::from_secs(20);
const RETRY: Duration = Duration::from_millis(50);

/// The volume is this process's while this lives.
#[derive(Debug)]
pub(crate) struct VolumeLock {
    _file: fs::File,
}

/// Who has the volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Holder {
    /// Process number, when it could be read.
    pub(crate) pid: Option<u32>,
}

impl VolumeLock {
    /// Takes the lock of the volume in `dir`.
    ///
    /// # Errors
    /// Somebody holds it, or the file can't be made.
    pub(crate) fn acquire(dir: &Path) -> Outcome<Self> {
        Self::try_acquire(dir)?.map_err(|_| Failure::new("another process is using this volume"))
    }

    /// Takes the lock of the volume in `dir`, once whoever has it for a moment lets it go.
    ///
    /// # Errors
    /// A daemon with a mount has it, or somebody keeps it.
    pub(crate) fn wait_for(dir: &VolumeDir) -> Outcome<Self> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match Self::try_acquire(dir.path())? {
                Ok(lock) => return Ok(lock),
                Err(holder) if Instant::now() > deadline || holder.is_daemon(dir) => return Err(holder.busy(dir)),
                Err(_) => thread::sleep(RETRY),
            }
        }
    }

    /// Takes the lock of the volume in `dir`, or says who has it.
    pub(crate) fn try_acquire(dir: &Path) -> Outcome<Result<Self, Holder>> {
        let path = dir.join("lock");
        let because = || format!("locking {}", path.display());
        let mut file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .because(because)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(Err(Holder { pid: read_pid(&mut file) })),
            Err(e) => return Err(e).because(because),
        }
        // The number is for messages only. On a full disk it can't be written, and that must not keep anybody out.
        if file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id())).is_err()
        {
            log::debug!("the lock stays without this process's number");
        }
        Ok(Ok(Self { _file: file }))
    }
}

impl Holder {
    /// Whether it is a daemon with a mount, which will not go away by itself.
    pub(crate) fn is_daemon(self, dir: &VolumeDir) -> bool {
        matches!(client::hello(dir), Ok(Some(hello)) if !hello.ending)
    }

    /// The refusal for whoever wanted the volume in `dir`: who has it, and where it is mounted.
    pub(crate) fn busy(self, dir: &VolumeDir) -> Failure {
        if let Ok(Some(hello)) = client::hello(dir)
            && !hello.ending
        {
            return already_mounted(dir, hello);
        }
        let who = self.pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"));
        Failure::new(format!("{who} is using volume {}: wait until it ends, or end it", &dir.short_id()[..8]))
    }
}

/// The refusal when a daemon has the volume.
pub(crate) fn already_mounted(dir: &VolumeDir, hello: Hello) -> Failure {
    let mountpoint = PathBuf::from(OsString::from_vec(hello.mountpoint));
    let (short, pid) = (&dir.short_id()[..8], hello.pid);
    if mountpoint.as_os_str().is_empty() {
        return Failure::new(format!("volume {short} is already kept by process {pid}"));
    }
    Failure::new(format!("volume {short} is already mounted at {} by process {pid}", mountpoint.display()))
}

/// The process that has the volume in `dir`, or had it last, when its number can be read.
pub(crate) fn holder(dir: &Path) -> Option<u32> {
    read_pid(&mut fs::File::open(dir.join("lock")).ok()?)
}

fn read_pid(file: &mut fs::File) -> Option<u32> {
    let mut text = String::new();
    file.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_one_learns_who_was_first() {
        let dir = tempfile::tempdir().unwrap();
        let first = VolumeLock::acquire(dir.path()).unwrap();
        let holder = VolumeLock::try_acquire(dir.path()).unwrap().unwrap_err();
        assert_eq!(holder.pid, Some(std::process::id()));
        drop(first);
        VolumeLock::acquire(dir.path()).unwrap();
    }
}
