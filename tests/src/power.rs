//! A disk that can lose power: a file that a small FUSE filesystem serves and records, with a loop device and ext4 on it.
//!
//! Each write and each flush of the block device is kept, in order. From that any moment can be made again as power loss
//! would have left it: all writes before the last flush, and of those since an arbitrary part, down to single sectors.
//! What lies above (the journal of ext4, the kernel's cache, the program under test) is the real thing.
//!
//! Needs root, for loop devices and ext4.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo, LockOwner,
    MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyWrite, Request, WriteFlags,
};
use rustix::fs::{FallocateFlags, fallocate};

use crate::{random::Random, scratch::Scratch, tool::run};

/// What a disk writes in one piece; two of them may be torn apart by a power loss.
const SECTOR: usize = 512;
/// ext4 itself doesn't live through a torn superblock.
const SUPERBLOCK_END: u64 = 4096;
const IMAGE: &str = "disk.img";
/// How long a flush takes, as on a small solid state disk.
const FLUSH_TIME: Duration = Duration::from_millis(4);
const TTL: Duration = Duration::from_secs(3600);

/// Something that the block device was told.
#[derive(Debug, Clone)]
enum Event {
    Write {
        offset: u64,
        bytes: Arc<[u8]>,
    },
    /// What was written before is on the disk now.
    Flush,
}

/// All that a disk was told since it was put in.
#[derive(Debug, Clone, Default)]
pub struct Recording {
    events: Arc<parking_lot::Mutex<Vec<Event>>>,
}

impl Recording {
    /// How much was recorded so far: a moment that [`Platter::after_loss`] can go back to.
    pub fn moment(&self) -> usize {
        self.events.lock().len()
    }

    /// A random moment, half of the time one at which as much as possible is on its way to the disk.
    pub fn some_moment(&self, random: &mut Random) -> usize {
        let any = random.below(self.moment() as u64 + 1) as usize;
        if random.below(2) == 0 {
            return any;
        }
        let events = self.events.lock();
        events[any..].iter().position(|event| matches!(event, Event::Flush)).map_or(events.len(), |more| any + more)
    }

    fn note(&self, event: Event) {
        self.events.lock().push(event);
    }

    fn between(&self, from: usize, to: usize) -> Vec<Event> {
        self.events.lock()[from..to].to_vec()
    }

    fn last_flush_before(&self, moment: usize) -> usize {
        let events = self.events.lock();
        events[..moment].iter().rposition(|event| matches!(event, Event::Flush)).map_or(0, |at| at + 1)
    }
}

/// A disk with ext4 on it, mounted; recorded from the moment it was put in.
pub struct Disk {
    folder: PathBuf,
    served: PathBuf,
    recording: Recording,
    session: Option<BackgroundSession>,
}

/// Makes an image of `mib` MiB with an empty ext4 at `path`, sparse.
pub fn format(path: &Path, mib: u64) {
    assert!(rustix::process::geteuid().is_root(), "a disk that can lose power needs root: run scripts/test");
    File::create_new(path).unwrap().set_len(mib << 20).unwrap();
    let eager = "nodiscard,lazy_itable_init=0,lazy_journal_init=1";
    run("mkfs.ext4", ["-q", "-E", eager, "-N", "1024", "-J", "size=8", "-m", "0", path.to_str().unwrap()]);
}

/// Mounts the ext4 in `image` on `folder`. The loop device goes away with the mount.
pub fn mount(image: &Path, folder: &Path) {
    // Often, so that much of what a program did not ask to be on the disk gets there all the same.
    run("mount", ["-o", "loop,commit=1,noatime", image.to_str().unwrap(), folder.to_str().unwrap()]);
}

/// Takes a mount away in order.
pub fn unmount(folder: &Path) {
    run("umount", [folder]);
}

impl Disk {
    /// Serves a copy of `image` as a disk and mounts it on `folder`.
    pub fn insert(scratch: &Scratch, image: &Path, folder: &Path) -> Self {
        let name = folder.file_name().unwrap().to_str().unwrap();
        let (copy, served) = (scratch.path().join(format!("{name}.copy")), scratch.path().join(format!("{name}.dev")));
        copy_sparse(image, &copy);
        fs::create_dir_all(&served).unwrap();
        let recording = Recording::default();
        let file = File::options().read(true).write(true).open(&copy).unwrap();
        let size = file.metadata().unwrap().len();
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("p2pfs-test-disk".to_owned())];
        let served_image = Served { file, size, recording: recording.clone() };
        let session = fuser::spawn_mount(served_image, &served, &config).unwrap();
        mount(&served.join(IMAGE), folder);
        Self { folder: folder.to_owned(), served, recording, session: Some(session) }
    }

    /// What it was told, also after it is gone.
    pub fn recording(&self) -> Recording {
        self.recording.clone()
    }

    /// Where its ext4 is mounted.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        crate::scratch::detach_below(&self.folder);
        crate::scratch::detach_below(&self.served);
        if let Some(session) = self.session.take() {
            let _ = session.join();
        }
    }
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Disk").field("folder", &self.folder).finish_non_exhaustive()
    }
}

/// What is surely on the disk, going forward in time.
#[derive(Debug)]
pub struct Platter {
    image: PathBuf,
    recording: Recording,
    /// The events before this one are in the image.
    reached: usize,
}

impl Platter {
    /// Begins with `image`, which the recorded disk began with; its copy goes to `work`.
    pub fn new(image: &Path, recording: &Recording, work: &Path) -> Self {
        copy_sparse(image, work);
        Self { image: work.to_owned(), recording: recording.clone(), reached: 0 }
    }

    /// Makes `target` what the disk may hold when power fails at `moment`. Moments must not go backwards.
    pub fn after_loss(&mut self, moment: usize, random: &mut Random, target: &Path) {
        let flushed = self.recording.last_flush_before(moment);
        let file = File::options().write(true).open(&self.image).unwrap();
        for event in self.recording.between(self.reached, flushed) {
            if let Event::Write { offset, bytes } = event {
                file.write_all_at(&bytes, offset).unwrap();
            }
        }
        self.reached = flushed;
        copy_sparse(&self.image, target);
        let file = File::options().write(true).open(target).unwrap();
        // Of 8: how many writes since the flush made it, and how many of those are torn.
        let (made_it, torn) = ([0, 1, 4, 4, 7, 8][random.below(6) as usize], [0, 1, 4][random.below(3) as usize]);
        for event in self.recording.between(flushed, moment) {
            let Event::Write { offset, bytes } = event else { continue };
            if random.below(8) >= made_it {
                continue;
            }
            let tear = random.below(8) < torn;
            for (sector, bytes) in bytes.chunks(SECTOR).enumerate() {
                let at = offset + (sector * SECTOR) as u64;
                if !tear || at < SUPERBLOCK_END || random.below(2) == 0 {
                    file.write_all_at(bytes, at).unwrap();
                }
            }
        }
    }
}

/// Copies a file with its holes.
pub fn copy_sparse(from: &Path, to: &Path) {
    run("cp", ["--sparse=always", from.to_str().unwrap(), to.to_str().unwrap()]);
}

/// Has the kernel write out what some files below `folder` have in its cache, without a flush: as it does by itself,
/// now and then, in any order.
pub fn write_back_some(folder: &Path, random: &mut Random) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            write_back_some(&path, random);
        } else if random.below(3) == 0
            && let Ok(file) = File::open(&path)
        {
            start_write_back(&file);
        }
    }
}

#[allow(unsafe_code, reason = "there is no safe wrapper of sync_file_range")]
fn start_write_back(file: &File) {
    use std::os::fd::AsRawFd;
    // SAFETY: a plain system call on a descriptor that is open.
    unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
}

/// The filesystem with one file that the loop device is on.
struct Served {
    file: File,
    size: u64,
    recording: Recording,
}

impl Served {
    fn attributes(&self, ino: INodeNo) -> FileAttr {
        let directory = ino == INodeNo::ROOT;
        FileAttr {
            ino,
            size: if directory { 0 } else { self.size },
            blocks: 0,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if directory { FileType::Directory } else { FileType::RegularFile },
            perm: if directory { 0o700 } else { 0o600 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            flags: 0,
            blksize: 4096,
        }
    }
}

impl Filesystem for Served {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if name == IMAGE {
            reply.entry(&TTL, &self.attributes(INodeNo(2)), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &self.attributes(ino));
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut bytes = vec![0; u64::from(size).min(self.size.saturating_sub(offset)) as usize];
        match self.file.read_exact_at(&mut bytes, offset) {
            Ok(()) => reply.data(&bytes),
            Err(_) => reply.error(Errno::EIO),
        }
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.recording.note(Event::Write { offset, bytes: data.into() });
        match self.file.write_all_at(data, offset) {
            Ok(()) => reply.written(data.len() as u32),
            Err(_) => reply.error(Errno::EIO),
        }
    }

    /// Zeroing ranges is writing, too; discarding promises nothing and is refused.
    fn fallocate(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        if mode & libc::FALLOC_FL_ZERO_RANGE == 0 {
            reply.error(Errno::EOPNOTSUPP);
            return;
        }
        self.recording.note(Event::Write { offset, bytes: vec![0; length as usize].into() });
        match fallocate(&self.file, FallocateFlags::ZERO_RANGE, offset, length).map_err(io::Error::from) {
            Ok(()) => reply.ok(),
            Err(_) => reply.error(Errno::EIO),
        }
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        // A flush takes its time, and what goes on meanwhile is not in it.
        std::thread::sleep(FLUSH_TIME);
        self.recording.note(Event::Flush);
        reply.ok();
    }
}
