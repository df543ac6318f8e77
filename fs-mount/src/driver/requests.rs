//! Every request of the kernel: one call on the volume, then a reply or the errno of its error.

use std::{
    cell::RefCell,
    ffi::OsStr,
    io,
    os::unix::ffi::OsStrExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, FileHandle, Filesystem, FopenFlags, INodeNo, IoctlFlags, KernelConfig, LockOwner,
    OpenFlags, PollEvents, PollFlags, PollNotifier, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite,
    ReplyXattr, TimeOrNow, WriteFlags,
};
use volume::{
    Deed, Error, Result, Volume,
    audit::Op,
    is_past,
    node::{AttributeChange, Attributes, Caller, Ino, NewNode, NodeKind, OpenMode},
};

use super::{
    MountOptions,
    ahead::Ahead,
    arguments::{Place, allocation, bits, caller, deed_with, handle, node_of_type, open_mode, rename_mode, set_xattr},
    attributes::{self, View},
    awake::Awake,
    calls::{Calls, Request, failed, is_denial, node_failed},
    invalidation::{Invalidation, Noticed, Outdated},
    listing::Listings,
    mounted::Ending,
    negotiation::{MAX_IO, negotiate},
    open_files::OpenFiles,
    past::{self, Past},
    pool::Pool,
    replies::{GENERATION, VALID, answer_attributes, answer_empty, answer_statistics, answer_written, answer_xattr},
    waits::Waits,
    xattr_name,
};
use crate::errno;

/// Threads for the fsyncs that come while another one is running: they share its sync, or the next.
const SYNCING_MAX: usize = 32;
/// What `copy_file_range` does at once: the reply counts in 32 bits, and a multiple of every block size keeps what
/// follows aligned.
const COPY_MAX: u64 = 1 << 31;
thread_local! {
    /// What a session thread reads into.
    static READ_BUFFER: RefCell<Vec<u8>> = RefCell::default();
}

/// A volume as fuser drives it.
pub(super) struct Driver {
    awake: Awake,
    calls: Calls,
    ahead: Ahead,
    view: View,
    outdated: Outdated,
    open_files: Arc<OpenFiles>,
    listings: Listings,
    past: Past,
    syncing: Arc<AtomicUsize>,
    sync_pool: Pool,
    ending: Arc<Ending>,
}

impl Driver {
    /// Tells `ending` when the session is over and everything is on the disk.
    pub(super) fn new(
        volume: Volume,
        options: &MountOptions,
        noticed: Noticed,
        ending: Arc<Ending>,
        waits: Waits,
    ) -> Self {
        let calls = Calls::new(volume, noticed.changes, options.absent_timeout, waits);
        Self {
            ending,
            awake: Awake::new(),
            ahead: Ahead::new(calls.clone()),
            calls,
            view: View::new(options.owner, noticed.set_ids),
            outdated: noticed.outdated,
            open_files: Arc::default(),
            listings: Listings::default(),
            past: Past::default(),
            syncing: Arc::default(),
            sync_pool: Pool::new("p2pfs-sync", SYNCING_MAX),
        }
    }

    /// Replies with an entry, which the kernel counts from then on.
    fn reply_entry(&self, request: Request, found: Result<Attributes>, reply: ReplyEntry) {
        self.reply_entry_for(request, found, VALID, reply);
    }

    /// The same, with for how long the kernel may keep it.
    fn reply_entry_for(&self, request: Request, found: Result<Attributes>, valid: Duration, reply: ReplyEntry) {
        let told = found.and_then(|node| self.calls.remember(request, node.ino).map(|()| node));
        match told {
            Ok(node) => reply.entry(&valid, &self.view.shown(&node), GENERATION),
            Err(error) => reply.error(failed(request, &error)),
        }
    }

    fn make(&self, req: &fuser::Request, at: Place<'_>, node: NewNode<'_>, mode: u32, umask: u32, reply: ReplyEntry) {
        let made = at.name().and_then(|name| {
            past::check_name(at.parent, name)?;
            self.calls.change(at.request, |volume| volume.make(at.parent, name, node, bits(mode), &caller(req, umask)))
        });
        self.calls.told(at.deed(Op::Create), &caller(req, umask), &made);
        self.reply_entry(at.request, made, reply);
    }

    /// Replies to a request that changes names.
    fn change_names(
        &self,
        request: Request,
        (deed, who): (Deed<'_>, Caller),
        reply: ReplyEmpty,
        change: impl FnOnce(&Volume) -> Result<()>,
    ) {
        let changed = self.calls.change(request, change);
        self.calls.told(deed, &who, &changed);
        match changed {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(failed(request, &error)),
        }
    }

    /// The directory above `directory`.
    fn parent_of(&self, volume: &Volume, directory: Ino) -> Result<Attributes> {
        let first = self.past.read_directory(volume, directory, 0, 2)?;
        first.into_iter().find(|entry| entry.name == b"..").map(|entry| entry.attributes).ok_or(Error::NotFound)
    }

    /// How the kernel is to treat a file that was just opened.
    fn open_flags(&self, ino: INodeNo, mode: OpenMode) -> FopenFlags {
        let mut flags = FopenFlags::empty();
        // Pages stay unless they are known to be old and merely not dropped yet. For whoever may store into them they must
        // not be older than what it is taken to have seen, so also not while news is on its way here.
        let coming = mode.read && mode.write && self.calls.is_telling();
        flags.set(FopenFlags::FOPEN_KEEP_CACHE, !coming && !self.outdated.contains(ino));
        // Closing what was only read has nothing to tell.
        flags.set(FopenFlags::FOPEN_NOFLUSH, !mode.write);
        flags
    }

    /// Makes a call that waits for the disk. While one does so on a session thread, others wait elsewhere: the volume
    /// turns all that wait together into one sync, and requests that needn't wait find a session thread.
    fn sync(&self, request: Request, reply: ReplyEmpty, call: impl FnMut(&Volume) -> Result<()> + Send + 'static) {
        let (calls, syncing) = (self.calls.clone(), self.syncing.clone());
        let job = move || {
            calls.patiently(request, call, move |synced| answer_empty(request, synced, reply));
            syncing.fetch_sub(1, Ordering::Relaxed);
        };
        if self.syncing.fetch_add(1, Ordering::Relaxed) == 0 {
            job();
        } else if let Err(job) = self.sync_pool.offer(Box::new(job)) {
            job();
        }
    }
}

/// What setting or removing an attribute is.
fn op_of_attribute(name: &OsStr) -> Op {
    match name.as_bytes().starts_with(b"system.posix_acl_") {
        true => Op::Permissions,
        false => Op::Attributes,
    }
}

impl Filesystem for Driver {
    fn init(&mut self, _req: &fuser::Request, config: &mut KernelConfig) -> io::Result<()> {
        negotiate(config);
        Ok(())
    }

    fn destroy(&mut self) {
        self.calls.close();
        self.sync_pool.close();
        self.ahead.close();
        for handle in self.open_files.take_all() {
            let request = Request::own("release at unmount", INodeNo(0));
            if let Err(error) = self.calls.change(request, |volume| volume.release(handle)) {
                failed(request, &error);
            }
        }
        let finished = self.calls.read(Request::own("sync at unmount", INodeNo(0)), |volume| {
            Invalidation::unsubscribe(volume);
            volume.sync_all()
        });
        self.ending.told(finished.map_err(|error| format!("bringing changes to the disk: {error}")));
    }

    fn lookup(&self, req: &fuser::Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.awake.serves(req.pid());
        let at = Place::new("lookup", parent, name);
        let mut valid = VALID;
        let found = at.name().and_then(|name| {
            self.calls.read(at.request, |volume| match name {
                // Asked by number alone, for file handles. They don't reach what has no name any more.
                b"." => self
                    .past
                    .attributes(volume, at.parent)
                    .and_then(|node| if node.links > 0 { Ok(node) } else { Err(Error::NotFound) }),
                b".." => self.parent_of(volume, at.parent),
                name => {
                    let (node, kept) = self.past.lookup(volume, at.parent, name)?;
                    self.past.remember(volume, at.parent, name, node.ino)?;
                    valid = kept;
                    Ok(node)
                }
            })
        });
        self.calls.told_if_denied(at.deed(Op::Stat), &caller(req, 0), &found);
        match found {
            // What isn't there now will not be there later, but for times that somebody types.
            Err(Error::NotFound) if past::is_ours(at.parent) => reply.error(failed(at.request, &Error::NotFound)),
            Err(Error::NotFound) => reply.entry(&VALID, &attributes::no_node(), GENERATION),
            Ok(node) if past::is_ours(node.ino) || is_past(node.ino) => {
                self.reply_entry_for(at.request, Ok(node), valid, reply);
            }
            Ok(node) if node.kind == NodeKind::Directory => {
                let directory = node.ino;
                self.reply_entry(at.request, Ok(node), reply);
                self.ahead.found(at.parent, directory);
            }
            found => self.reply_entry(at.request, found, reply),
        }
    }

    fn forget(&self, _req: &fuser::Request, ino: INodeNo, nlookup: u64) {
        let request = Request::new("forget", ino);
        self.calls.forget(request, Ino(ino.0), nlookup);
        if past::is_ours(Ino(ino.0)) {
            let forgotten = self.calls.read(request, |volume| {
                self.past.forget(volume, Ino(ino.0), nlookup);
                Ok(())
            });
            // As above.
            drop(forgotten);
        }
    }

    fn getattr(&self, req: &fuser::Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        self.awake.serves(req.pid());
        let request = Request::new("getattr", ino);
        let node = self.calls.read(request, |volume| self.past.attributes(volume, Ino(ino.0)));
        answer_attributes(request, node, &self.view, reply);
    }

    fn setattr(
        &self,
        req: &fuser::Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        self.awake.serves(req.pid());
        let request = Request::new("setattr", ino);
        let asked = AttributeChange {
            mode: mode.map(bits),
            uid,
            gid,
            owner: None,
            size,
            atime: atime.map(attributes::set_time),
            mtime: mtime.map(attributes::set_time),
        };
        let (shown, view, who, caller_of) = (self.view.clone(), self.view.clone(), caller(req, 0), caller(req, 0));
        let op = match (mode.or(uid).or(gid), size) {
            (Some(_), _) => Op::Permissions,
            // Told as it is published.
            (None, Some(_)) => Op::Write,
            (None, None) => Op::Attributes,
        };
        let calls = self.calls.clone();
        let call = move |volume: &Volume| {
            let node = || volume.attributes(Ino(ino.0));
            let mut change = shown.chown(asked, || volume.own_number(), node)?;
            if attributes::is_empty(&change) {
                // A chown to nobody, or to whom it is already. That is one all the same: it takes set-id bits away.
                change.uid = Some(node()?.uid);
            }
            volume.set_attributes(Ino(ino.0), fh.map(handle), &change, &who)
        };
        self.calls.patiently(request, call, move |node| {
            if op == Op::Write {
                calls.told_if_denied(deed_with(op, ino), &caller_of, &node);
            } else {
                calls.told(deed_with(op, ino), &caller_of, &node);
            }
            answer_attributes(request, node, &view, reply);
        });
    }

    fn readlink(&self, req: &fuser::Request, ino: INodeNo, reply: ReplyData) {
        self.awake.serves(req.pid());
        let request = Request::new("readlink", ino);
        let target = self.calls.read(request, |volume| volume.readlink(Ino(ino.0)));
        self.calls.told(deed_with(Op::Read, ino), &caller(req, 0), &target);
        match target {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(node_failed(request, &error)),
        }
    }

    fn mknod(
        &self,
        req: &fuser::Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        self.awake.serves(req.pid());
        let at = Place::new("mknod", parent, name);
        match node_of_type(mode, rdev) {
            Ok(node) => self.make(req, at, node, mode, umask, reply),
            Err(error) => reply.error(failed(at.request, &error)),
        }
    }

    fn mkdir(&self, req: &fuser::Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        self.awake.serves(req.pid());
        self.make(req, Place::new("mkdir", parent, name), NewNode::Directory, mode, umask, reply);
    }

    fn symlink(&self, req: &fuser::Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        self.awake.serves(req.pid());
        let node = NewNode::Symlink(target.as_os_str().as_bytes());
        self.make(req, Place::new("symlink", parent, name), node, 0o777, 0, reply);
    }

    fn link(&self, req: &fuser::Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.awake.serves(req.pid());
        let at = Place::new("link", parent, name);
        let linked = at.name().and_then(|name| {
            past::check_name(at.parent, name)?;
            self.calls.change(at.request, |volume| volume.link(Ino(ino.0), at.parent, name))
        });
        let deed = Deed { to: at.deed(Op::Link).name.map(|name| (at.parent, name)), ..deed_with(Op::Link, ino) };
        self.calls.told(deed, &caller(req, 0), &linked);
        self.reply_entry(at.request, linked, reply);
    }

    fn unlink(&self, req: &fuser::Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.awake.serves(req.pid());
        let at = Place::new("unlink", parent, name);
        self.change_names(at.request, (at.deed(Op::Remove), caller(req, 0)), reply, |volume| {
            past::check_name(at.parent, at.name()?)?;
            volume.unlink(at.parent, at.name()?)
        });
    }

    fn rmdir(&self, req: &fuser::Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.awake.serves(req.pid());
        let at = Place::new("rmdir", parent, name);
        self.change_names(at.request, (at.deed(Op::Remove), caller(req, 0)), reply, |volume| {
            past::check_name(at.parent, at.name()?)?;
            volume.rmdir(at.parent, at.name()?)
        });
    }

    fn rename(
        &self,
        req: &fuser::Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        self.awake.serves(req.pid());
        let from = Place::new("rename", parent, name);
        let to = from.beside(newparent, newname);
        let told = (from.deed_to(Op::Rename, &to), caller(req, 0));
        self.change_names(from.request, told, reply, |volume| {
            past::check_name(from.parent, from.name()?)?;
            past::check_name(to.parent, to.name()?)?;
            volume.rename(from.parent, from.name()?, to.parent, to.name()?, rename_mode(flags)?)
        });
    }

    fn open(&self, req: &fuser::Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.awake.serves(req.pid());
        let request = Request::new("open", ino);
        let mode = open_mode(flags);
        let who = caller(req, 0);
        let opened = match mode.truncate {
            true => self.calls.change(request, |volume| volume.open(Ino(ino.0), mode, &who)),
            false => self.calls.read(request, |volume| volume.open(Ino(ino.0), mode, &who)),
        };
        // What is written is told as it is published.
        match mode.read && !mode.truncate && !(mode.write && is_denial(&opened)) {
            true => self.calls.told(deed_with(Op::Read, ino), &who, &opened),
            false => self.calls.told_if_denied(deed_with(Op::Write, ino), &who, &opened),
        }
        match opened {
            Ok(handle) => {
                self.open_files.opened(handle);
                if mode.truncate {
                    self.view.set_ids().written(Ino(ino.0), who.uid);
                }
                reply.opened(FileHandle(handle.0), self.open_flags(ino, mode));
            }
            Err(error) => reply.error(node_failed(request, &error)),
        }
    }

    fn create(
        &self,
        req: &fuser::Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        self.awake.serves(req.pid());
        let at = Place::new("create", parent, name);
        let (open, exclusive) = (open_mode(OpenFlags(flags)), flags & libc::O_EXCL != 0);
        let created = at.name().and_then(|name| {
            past::check_name(at.parent, name)?;
            self.calls.change(at.request, |volume| {
                let created = volume.create(at.parent, name, bits(mode), open, exclusive, &caller(req, umask))?;
                volume.remember(created.0.ino);
                Ok(created)
            })
        });
        self.calls.told(at.deed(Op::Create), &caller(req, umask), &created);
        match created {
            Ok((node, handle)) => {
                self.open_files.opened(handle);
                let (shown, flags) = (self.view.shown(&node), self.open_flags(INodeNo(node.ino.0), open));
                reply.created(&VALID, &shown, GENERATION, FileHandle(handle.0), flags);
            }
            Err(error) => reply.error(failed(at.request, &error)),
        }
    }

    fn read(
        &self,
        req: &fuser::Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.awake.serves(req.pid());
        let request = Request::new("read", ino);
        let len = size.min(MAX_IO) as usize;
        READ_BUFFER.with_borrow_mut(|buffer| {
            buffer.clear();
            match self.calls.read(request, |volume| volume.read(handle(fh), offset, len, buffer)) {
                Ok(()) => reply.data(buffer),
                Err(Error::Absent(hashes)) => {
                    let call = move |volume: &Volume| {
                        let mut buffer = Vec::with_capacity(len);
                        volume.read(handle(fh), offset, len, &mut buffer)?;
                        Ok(buffer)
                    };
                    self.calls.wait(request, hashes, call, move |read| match read {
                        Ok(data) => reply.data(&data),
                        Err(error) => reply.error(node_failed(request, &error)),
                    });
                }
                Err(error) => reply.error(node_failed(request, &error)),
            }
        });
    }

    fn write(
        &self,
        req: &fuser::Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.awake.serves(req.pid());
        let request = Request::new("write", ino);
        let who = caller(req, 0);
        // Stores through a mapping come with a guessed handle, which may be another program's.
        let mapped = write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        let set_ids = self.view.set_ids().clone();
        let call = move |volume: &Volume, data: &[u8]| {
            let written = match mapped {
                true => volume.write_mapped(Ino(ino.0), offset, data)?,
                false => volume.write(handle(fh), offset, data, &who)?,
            };
            set_ids.written(Ino(ino.0), who.uid);
            Ok(written)
        };
        match self.calls.change(request, |volume| call(volume, data)) {
            Err(Error::Absent(hashes)) => {
                // `data` is the session thread's buffer.
                let data = data.to_vec();
                let call = move |volume: &Volume| call(volume, &data);
                self.calls.wait(request, hashes, call, move |written| answer_written(request, written, reply));
            }
            written => answer_written(request, written, reply),
        }
    }

    fn flush(&self, req: &fuser::Request, ino: INodeNo, fh: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        self.awake.serves(req.pid());
        let request = Request::new("flush", ino);
        let call = move |volume: &Volume| volume.flush(handle(fh));
        self.calls.patiently(request, call, move |flushed| answer_empty(request, flushed, reply));
    }

    fn fsync(&self, req: &fuser::Request, ino: INodeNo, fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.awake.serves(req.pid());
        self.sync(Request::new("fsync", ino), reply, move |volume| volume.fsync(handle(fh)));
    }

    fn release(
        &self,
        _req: &fuser::Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let request = Request::new("release", ino);
        let open_files = self.open_files.clone();
        let call = move |volume: &Volume| volume.release(handle(fh));
        self.calls.patiently(request, call, move |released| {
            open_files.released(handle(fh));
            answer_empty(request, released, reply);
        });
    }

    fn opendir(&self, req: &fuser::Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.awake.serves(req.pid());
        let request = Request::new("opendir", ino);
        if past::is_ours(Ino(ino.0)) {
            // What is in there changes with everything.
            return reply.opened(self.listings.open(), FopenFlags::empty());
        }
        let opened = self.calls.read(request, |volume| match volume.attributes(Ino(ino.0)) {
            Ok(node) if node.sealed => Err(Error::Denied),
            opened => opened,
        });
        self.calls.told(deed_with(Op::List, ino), &caller(req, 0), &opened);
        if let Err(error) = opened {
            return reply.error(node_failed(request, &error));
        }
        // The kernel keeps the listing as long as it isn't told of a change.
        reply.opened(self.listings.open(), FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR);
    }

    fn readdir(&self, req: &fuser::Request, ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        self.awake.serves(req.pid());
        let request = Request::new("readdir", ino);
        let read = self.listings.read(&self.calls, &self.past, request, fh, Ino(ino.0), offset, |entry| {
            let node = &entry.attributes;
            reply.add(
                INodeNo(node.ino.0),
                entry.cookie,
                attributes::file_type(node.kind),
                OsStr::from_bytes(&entry.name),
            )
        });
        match read {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(node_failed(request, &error)),
        }
    }

    fn readdirplus(
        &self,
        req: &fuser::Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        self.awake.serves(req.pid());
        let request = Request::new("readdirplus", ino);
        if offset == 0 {
            self.ahead.listed(Ino(ino.0));
        }
        let mut subdirectories = Vec::new();
        let read = self.listings.read(&self.calls, &self.past, request, fh, Ino(ino.0), offset, |entry| {
            let shown = self.view.shown(&entry.attributes);
            let name = OsStr::from_bytes(&entry.name);
            let valid = past::entry_validity(Ino(ino.0), entry.attributes.ino);
            let full = reply.add(shown.ino, entry.cookie, name, &valid, &shown, GENERATION);
            // The kernel counts every entry but these two.
            if !full && name != "." && name != ".." {
                let _ = self.calls.remember(request, entry.attributes.ino);
                if past::is_ours(Ino(ino.0)) {
                    let (above, name, found) = (Ino(ino.0), &entry.name, entry.attributes.ino);
                    let _ = self.calls.read(request, |volume| self.past.remember(volume, above, name, found));
                }
                if entry.attributes.kind == NodeKind::Directory {
                    subdirectories.push(entry.attributes.ino);
                }
            }
            full
        });
        match read {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(node_failed(request, &error)),
        }
        self.ahead.told(Ino(ino.0), offset == 0, subdirectories);
    }

    fn releasedir(&self, _req: &fuser::Request, _ino: INodeNo, fh: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        self.listings.close(fh);
        reply.ok();
    }

    fn fsyncdir(&self, _req: &fuser::Request, ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.sync(Request::new("fsyncdir", ino), reply, Volume::sync_all);
    }

    fn statfs(&self, _req: &fuser::Request, ino: INodeNo, reply: ReplyStatfs) {
        let request = Request::new("statfs", ino);
        answer_statistics(request, self.calls.read(request, Volume::statistics), reply);
    }

    fn getxattr(&self, req: &fuser::Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        self.awake.serves(req.pid());
        let request = Request::new("getxattr", ino);
        let value = xattr_name::supported(name.as_bytes())
            .and_then(|name| self.calls.read(request, |volume| self.past.get_xattr(volume, Ino(ino.0), name)));
        self.calls.told_if_denied(deed_with(Op::Stat, ino), &caller(req, 0), &value);
        answer_xattr(request, value, size, reply);
    }

    fn listxattr(&self, req: &fuser::Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        self.awake.serves(req.pid());
        let request = Request::new("listxattr", ino);
        let names = self.calls.read(request, |volume| self.past.list_xattrs(volume, Ino(ino.0)));
        self.calls.told_if_denied(deed_with(Op::Stat, ino), &caller(req, 0), &names);
        answer_xattr(request, names.map(|names| xattr_name::list(&names, req.uid())), size, reply);
    }

    fn setxattr(
        &self,
        req: &fuser::Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        self.awake.serves(req.pid());
        let request = Request::new("setxattr", ino);
        let set = xattr_name::supported(name.as_bytes()).and_then(|name| {
            let how = set_xattr(flags)?;
            self.calls.change(request, |volume| volume.set_xattr(Ino(ino.0), name, value, how, &caller(req, 0)))
        });
        self.calls.told(deed_with(op_of_attribute(name), ino), &caller(req, 0), &set);
        answer_empty(request, set, reply);
    }

    fn removexattr(&self, req: &fuser::Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.awake.serves(req.pid());
        let request = Request::new("removexattr", ino);
        let removed = xattr_name::supported(name.as_bytes())
            .and_then(|name| self.calls.change(request, |volume| volume.remove_xattr(Ino(ino.0), name)));
        self.calls.told(deed_with(op_of_attribute(name), ino), &caller(req, 0), &removed);
        answer_empty(request, removed, reply);
    }

    fn fallocate(
        &self,
        req: &fuser::Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let (request, uid) = (Request::new("fallocate", ino), req.uid());
        let set_ids = self.view.set_ids().clone();
        let call = move |volume: &Volume| {
            volume.allocate(handle(fh), allocation(mode)?, offset, length)?;
            set_ids.written(Ino(ino.0), uid);
            Ok(())
        };
        self.calls.patiently(request, call, move |allocated| answer_empty(request, allocated, reply));
    }

    fn lseek(&self, _req: &fuser::Request, ino: INodeNo, fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let request = Request::new("lseek", ino);
        let call = move |volume: &Volume| {
            let offset = u64::try_from(offset).map_err(|_| Error::NoMoreData)?;
            let found = match whence {
                libc::SEEK_DATA => volume.seek_data(handle(fh), offset)?,
                libc::SEEK_HOLE => volume.seek_hole(handle(fh), offset)?,
                _ => return Err(Error::Invalid),
            };
            i64::try_from(found).map_err(|_| Error::FileTooLarge)
        };
        self.calls.patiently(request, call, move |found| match found {
            Ok(offset) => reply.offset(offset),
            Err(error) => reply.error(node_failed(request, &error)),
        });
    }

    fn copy_file_range(
        &self,
        req: &fuser::Request,
        _ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let (request, uid) = (Request::new("copy_file_range", ino_out), req.uid());
        let set_ids = self.view.set_ids().clone();
        let call = move |volume: &Volume| {
            if !flags.is_empty() {
                return Err(Error::Invalid);
            }
            let copied = volume.copy_range(handle(fh_in), offset_in, handle(fh_out), offset_out, len.min(COPY_MAX))?;
            set_ids.written(Ino(ino_out.0), uid);
            usize::try_from(copied).map_err(|_| Error::FileTooLarge)
        };
        self.calls.patiently(request, call, move |copied| answer_written(request, copied, reply));
    }

    fn ioctl(
        &self,
        _req: &fuser::Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(errno::NO_IOCTL);
    }

    fn poll(
        &self,
        _req: &fuser::Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _notifier: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        // The kernel then takes every file for always ready, as on a disk.
        reply.error(errno::NOT_IMPLEMENTED);
    }
}
