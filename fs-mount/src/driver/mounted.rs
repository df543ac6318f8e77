//! A mount while it lasts: unmounting it, and noticing when somebody else does.

use std::{
    io,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use log::{debug, error, info};
use parking_lot::{Condvar, Mutex};
use rustix::mount::UnmountFlags;
use volume::content::BlockHash;

use super::{
    MountError,
    invalidation::Told,
    mount_table::{self, MountEntry},
    waits::{Wait, Waits},
};

/// How long unmounting tries on while the mount is busy: indexers and file managers look into directories in passing.
const BUSY_PATIENCE: Duration = Duration::from_millis(500);
const BUSY_PAUSE: Duration = Duration::from_millis(50);
/// How long the session may take to end once the mount is gone from the tree. It takes longer only when the mount lives
/// on elsewhere (another mount namespace, an open file after a lazy unmount).
const LINGER: Duration = Duration::from_secs(10);
/// For how long a content is listed that was waited for in vain.
const LATELY: Duration = Duration::from_secs(60 * 60);

/// A mounted volume. Dropping it takes the mount out of the tree, even when busy.
#[derive(Debug)]
pub struct Mounted {
    entry: MountEntry,
    ending: Arc<Ending>,
    told: Told,
    waits: Waits,
}

/// Whether the session is over, and with what outcome.
#[derive(Debug, Default)]
pub(super) struct Ending {
    outcome: Mutex<Option<Result<(), String>>>,
    changed: Condvar,
}

impl Ending {
    /// Wakes all who wait for the end.
    pub(super) fn told(&self, outcome: Result<(), String>) {
        match &outcome {
            Ok(()) => info!("unmounted"),
            Err(failure) => error!("after unmounting: {failure}"),
        }
        *self.outcome.lock() = Some(outcome);
        self.changed.notify_all();
    }
}

impl Mounted {
    /// The mount that `entry` tells of, until `ending` is told.
    pub(super) fn new(entry: MountEntry, ending: Arc<Ending>, told: Told, waits: Waits) -> Self {
        Self { entry, ending, told, waits }
    }

    /// The files whose contents are waited for, or were lately and have not come since; `has` tells which blocks have. Those
    /// waited for longest come first.
    pub fn waits(&self, has: impl Fn(&BlockHash) -> bool) -> Vec<Wait> {
        self.waits.list(LATELY, has)
    }

    /// Where it is mounted.
    pub fn mountpoint(&self) -> &Path {
        &self.entry.mountpoint
    }

    /// Unmounts and waits until all requests are answered and everything is on the disk. When the mount is busy it
    /// stays as it is.
    pub fn unmount(&self) -> Result<(), MountError> {
        let give_up = Instant::now() + BUSY_PATIENCE;
        while self.is_on_top()? {
            match unmount_at(self.mountpoint()) {
                Ok(()) => break,
                Err(failure) if failure.kind() != io::ErrorKind::ResourceBusy => {
                    return Err(self.not_unmounted(failure));
                }
                Err(_) if Instant::now() >= give_up => return Err(self.busy()),
                Err(_) => thread::sleep(BUSY_PAUSE),
            }
        }
        let mut outcome = self.ending.outcome.lock();
        self.ending.changed.wait_while_for(&mut outcome, |outcome| outcome.is_none(), LINGER);
        match &*outcome {
            Some(outcome) => outcome.clone().map_err(MountError::Aftermath),
            None => Err(self.busy()),
        }
    }

    /// Takes the mount out of the tree now; what is open in it goes on until it is closed.
    pub fn detach(&self) -> Result<(), MountError> {
        if self.is_on_top()? {
            detach(self.mountpoint()).map_err(|failure| self.not_unmounted(failure))?;
        }
        Ok(())
    }

    /// Waits until the mount has ended, whoever unmounted it.
    pub fn wait(&self) -> Result<(), MountError> {
        let mut outcome = self.ending.outcome.lock();
        loop {
            if let Some(outcome) = &*outcome {
                return outcome.clone().map_err(MountError::Aftermath);
            }
            self.ending.changed.wait(&mut outcome);
        }
    }

    /// Waits until the kernel was told of everything that the volume has told the mount of, at most until `deadline`. Tells
    /// whether it was. (Pages that are being read stand in the way, maybe for as long as a peer is waited for.)
    pub fn wait_until_told(&self, deadline: Instant) -> bool {
        self.told.wait(deadline)
    }

    /// Whether the mount has ended.
    pub fn has_ended(&self) -> bool {
        self.ending.outcome.lock().is_some()
    }

    /// Whether paths lead to it. It may live on without, for files that are open in it.
    pub fn is_in_tree(&self) -> bool {
        // When the table can't be read, it is taken to be there: so nobody else mounts the volume.
        !self.has_ended() && mount_table::has(&self.entry).unwrap_or(true)
    }

    /// Whether unmounting at the mount point would meet this mount, and not what lies under it or was mounted since.
    fn is_on_top(&self) -> Result<bool, MountError> {
        let topmost = mount_table::topmost_at(self.mountpoint()).map_err(|failure| self.not_unmounted(failure))?;
        Ok(topmost.as_ref() == Some(&self.entry))
    }

    fn busy(&self) -> MountError {
        MountError::Busy(self.mountpoint().to_owned())
    }

    fn not_unmounted(&self, source: io::Error) -> MountError {
        MountError::Unmount { path: self.mountpoint().to_owned(), source }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(failure) = self.detach() {
            debug!("{failure}");
        }
    }
}

/// Unmounts what is mounted at `mountpoint`, unless it is busy.
fn unmount_at(mountpoint: &Path) -> io::Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(rustix::mount::unmount(mountpoint, UnmountFlags::empty())?);
    }
    fusermount(&["-u"], mountpoint)
}

/// Takes what is mounted at `mountpoint` out of the tree, busy or not.
pub(super) fn detach(mountpoint: &Path) -> io::Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(rustix::mount::unmount(mountpoint, UnmountFlags::DETACH)?);
    }
    fusermount(&["-u", "-z"], mountpoint)
}

/// Only root may unmount; for others a set-user-id program does it. Not left to fuser, which unmounts lazily then.
fn fusermount(flags: &[&str], mountpoint: &Path) -> io::Result<()> {
    let output = Command::new("fusermount3").args(flags).arg("--").arg(mountpoint).stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.trim();
    Err(if said.contains("busy") { io::ErrorKind::ResourceBusy.into() } else { io::Error::other(said.to_owned()) })
}
