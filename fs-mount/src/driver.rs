//! The FUSE driver: shows a volume to the kernel.
//!
//! Owns: the mount itself, the translation of requests into calls on the volume and of its answers into replies, and
//! what the kernel may cache. Does not own: any rule about files. Every request is one call on the volume, then a reply
//! or the errno of its error (`crate::errno`).
//!
//! Invariants:
//! - The two session threads never wait for the network. A call that needs content which isn't here goes on in a
//!   [`Pool`](pool::Pool), for at most [`MountOptions::absent_timeout`].
//! - The kernel caches names (also absent ones), attributes and content for a day, so everything that changes other
//!   than by its own requests is invalidated ([`invalidation`]), from threads that serve no requests: an invalidation
//!   waits for locks which the kernel holds during requests.
//! - The kernel's lookup counts are exact: one `remember` before every reply that carries an entry.
//! - A panic in a handler is an I/O error of that one request.
//! - No name, path or content is logged: inode numbers only.

mod ahead;
mod arguments;
mod attributes;
mod awake;
mod calls;
mod counts;
mod invalidation;
mod listing;
mod mount_table;
#[cfg(test)]
mod mount_tests;
mod mounted;
mod negotiation;
mod open_files;
mod past;
mod pool;
mod replies;
mod requests;
mod set_ids;
mod waits;
mod xattr_name;

use std::{
    io, mem,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use fuser::{Config, MountOption, Session, SessionACL};
use log::info;
use volume::Volume;

pub use counts::{Requests, requests};
pub use mounted::Mounted;
pub use waits::Wait;

use invalidation::Invalidation;
use mounted::Ending;
use requests::Driver;
use waits::Waits;

/// What the mount table has as the type of our mounts, after `fuse.`.
const SUBTYPE: &str = "p2pfs";
/// Threads that serve requests: measured, two are several times one, and four lose it again.
const SESSION_THREADS: usize = 2;
/// How far the kernel reads ahead of a sequential reader. Requests are 1 MiB at most, so this many of them are under
/// way at once; the kernel's own 128 KiB means small requests, one by one.
const READ_AHEAD_KIB: u32 = 8192;

/// How a volume is mounted.
#[derive(Debug, Clone)]
pub struct MountOptions {
    /// An existing directory.
    pub mountpoint: PathBuf,
    /// What the mount table shows as mounted. Without commas and backslashes, which mean something among options.
    pub source: String,
    /// A system mount: every local account may use it, under numeric owners and modes as stored.
    pub allow_other: bool,
    /// An own mount: what its user owns or may write shows as this user and group, all else as its owner's number in the
    /// volume; modes and ACLs decide which members may what.
    pub owner: Option<(u32, u32)>,
    /// The kernel refuses every change.
    pub read_only: bool,
    /// How long a read waits for content that no peer has sent yet.
    pub absent_timeout: Duration,
}

/// Why a mount, or an unmount, failed.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The mount point can't be used.
    #[error("{}: {source}", path.display())]
    Mountpoint {
        /// The mount point.
        path: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },
    /// A p2pfs is mounted there and answers.
    #[error("{}: a p2pfs is mounted there already", .0.display())]
    AlreadyMounted(PathBuf),
    /// The kernel, or fusermount3, refused.
    #[error("mounting {}: {source}", path.display())]
    Mount {
        /// The mount point.
        path: PathBuf,
        /// Its reason.
        source: io::Error,
    },
    /// A program has an open file, or its working directory, in the mount. It goes on as it was.
    #[error("{}: busy (EBUSY): a program has a file open or works in there", .0.display())]
    Busy(PathBuf),
    /// Unmounting failed for another reason.
    #[error("unmounting {}: {source}", path.display())]
    Unmount {
        /// The mount point.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// It is unmounted, but not all of it may be on the disk, or its threads broke down.
    #[error("after unmounting: {0}")]
    Aftermath(String),
}

/// Mounts `volume`. When this returns the mount serves requests.
///
/// A mount that an earlier process left behind at the same place by dying is cleared away first.
pub fn mount(volume: Volume, options: MountOptions) -> Result<Mounted, MountError> {
    let mountpoint = usable_mountpoint(&options.mountpoint)?;
    serve(&volume, &mountpoint, &options).map_err(|source| {
        Invalidation::unsubscribe(&volume);
        MountError::Mount { path: mountpoint, source }
    })
}

fn serve(volume: &Volume, mountpoint: &Path, options: &MountOptions) -> io::Result<Mounted> {
    // Before the first request, so that no change can fall between what the kernel is told and what it is told of.
    let (invalidation, noticed, told) = Invalidation::subscribe(volume);
    let ending = Arc::new(Ending::default());
    let waits = Waits::default();
    volume.set_own_mount(options.owner.map(|(uid, _)| uid));
    let driver = Driver::new(volume.clone(), options, noticed, ending.clone(), waits.clone());
    let session = Session::new(driver, mountpoint, &session_config(options))?;
    invalidation.start(session.notifier())?;
    let session = session.spawn()?;
    // Dropped at its end, it would unmount a second time: what lies under it, or what was mounted there since (0.18.0,
    // `is_mounted` tells the opposite). The driver tells when it is over; what stays behind is one file descriptor.
    mem::forget(session);
    let entry = mount_table::topmost_at(mountpoint)?.ok_or(io::ErrorKind::NotConnected)?;
    entry.raise_read_ahead(READ_AHEAD_KIB);
    Ok(Mounted::new(entry, ending, told, waits))
}

/// `path` without symlinks, once nothing stands against mounting there.
fn usable_mountpoint(path: &Path) -> Result<PathBuf, MountError> {
    let unusable = |source| MountError::Mountpoint { path: path.to_owned(), source };
    let resolved = mount_table::resolve(path).map_err(unusable)?;
    // One that died can lie on another.
    while let Some(entry) = mount_table::topmost_at(&resolved).map_err(unusable)?
        && entry.kind.strip_prefix("fuse.") == Some(SUBTYPE)
    {
        if !mount_table::is_dead(&resolved) {
            return Err(MountError::AlreadyMounted(resolved));
        }
        info!("clearing away the mount that a p2pfs left behind by dying");
        mounted::detach(&resolved).map_err(unusable)?;
    }
    if !resolved.metadata().map_err(unusable)?.is_dir() {
        return Err(unusable(io::ErrorKind::NotADirectory.into()));
    }
    Ok(resolved)
}

fn session_config(options: &MountOptions) -> Config {
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName(options.source.clone()),
        // Not `MountOption::Subtype`, which fuser drops when root mounts.
        MountOption::CUSTOM(format!("subtype={SUBTYPE}")),
        MountOption::DefaultPermissions,
        // Members could plant devices and set-user-id programs in each other's trees.
        MountOption::NoDev,
        MountOption::NoSuid,
        // Reading changes no access time, and the mount table should say so.
        MountOption::NoAtime,
        if options.read_only { MountOption::RO } else { MountOption::RW },
    ];
    config.acl = if options.allow_other { SessionACL::All } else { SessionACL::Owner };
    config.n_threads = Some(SESSION_THREADS);
    config.clone_fd = true;
    config
}
