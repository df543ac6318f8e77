//! Open files: the branch that an inode shows while it is written, and when that becomes a version.
//!
//! Locks: a file's own lock is taken before the core's, never after. What is written gathers in
//! the file's draft; `close` publishes it (a signed content value), as does time for files that
//! stay open; `fsync` makes it recoverable, a small file by publishing it the first time, else without.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use parking_lot::RwLock;

use crate::{
    Changed, Volume,
    commit::encode,
    content::{BlockHash, Content, ContentData, Draft, INLINE_MAX, KeyRing},
    core::Core,
    error::{Error, Result},
    history,
    id::RealmId,
    node::{Allocate, AttributeChange, Attributes, Caller, Handle, Ino, NewNode, NodeKind, OpenMode, SetTime},
    row::{Node, NodeRow},
    time::Timestamp,
    version::ValueRef,
};

/// A file that stays open is published this long after its first unpublished write.
pub(crate) const PUBLISH_AFTER: Duration = Duration::from_millis(1500);
/// While others are connected, a file that grew by so much since it was last published is published again: they fetch
/// what is written while more is.
const PUBLISH_GROWTH: u64 = 128 << 20;
/// Bytes that are copied at once where blocks can't be shared.
const COPY_AT_ONCE: usize = 4 << 20;
/// Unsealed bytes of all open files together; beyond, writers seal their own.
const DIRTY_MAX: usize = 48 << 20;

/// A file that somebody has open.
pub(crate) struct OpenFile {
    pub ino: Ino,
    pub state: RwLock<FileState>,
}

/// What one version of a file consists of.
#[derive(Clone)]
pub(crate) struct Version {
    pub content: Content,
    pub keys: KeyRing,
}

#[derive(Default)]
pub(crate) struct FileState {
    refs: u32,
    writers: u32,
    /// What readers see while there is no draft; loaded when needed.
    pub shown: Option<Version>,
    branch: Option<Branch>,
    /// While somebody may write: no page that the kernel keeps is of an older version. That is what a store through a
    /// mapping had seen, as far as anybody can tell.
    pages: Option<Arc<Base>>,
    /// Has set-id bits that a write must clear.
    privileged: bool,
    /// Nobody has it open, but what was written could not be published yet (the disk was full): held until it is.
    kept: bool,
    /// No longer in the table of open files.
    gone: bool,
}

/// A file's own branch: from the first write until the last writer is done.
struct Branch {
    draft: Draft,
    /// The values its writers had seen.
    seen: Vec<ValueRef>,
    mtime: Timestamp,
    /// Differs from what was last published.
    dirty: bool,
    /// Has rows in the store's intent log.
    logged: bool,
    /// Bytes it counts for in the sum of all.
    counted: usize,
    /// Its size when it was last published.
    published: u64,
    /// A version was made of it.
    shared: bool,
    /// As of which count of new keys its own one is known to seal.
    rekeyed: u64,
    /// The account and the number of the process that wrote last.
    who: Option<(u32, u32)>,
    /// It was recorded that it can't be published.
    told: bool,
}

/// What a writer starts from: the values it saw, and what they say.
#[derive(Clone)]
struct Base {
    seen: Vec<ValueRef>,
    version: Version,
}

/// An open handle.
pub(crate) struct OpenHandle {
    mode: OpenMode,
    who: Caller,
    /// What was shown as it was opened; `None` for readers.
    base: Option<Arc<Base>>,
    file: Arc<OpenFile>,
}

/// What was written to a file and nobody else has ([`Volume::unpublished`]).
#[derive(Clone, Debug)]
pub struct Unpublished {
    /// The file.
    pub ino: Ino,
    /// Its path from the volume's root; `None` when it has no name any more.
    pub path: Option<Vec<u8>>,
    /// This user may not write to it any more.
    pub forbidden: bool,
}

/// What an open file shows, at the moment at which its older pages are about to be dropped.
pub struct PagesFrom(Arc<Base>);

impl FileState {
    /// Whether somebody may write to it, or what was written isn't published yet.
    pub(crate) fn is_written(&self) -> bool {
        self.writers > 0 || self.branch.is_some()
    }

    /// Tells the contents and blocks that may still be read here.
    pub(crate) fn needs(&self, content: &mut dyn FnMut(&Content), block: &mut dyn FnMut(BlockHash)) {
        if let Some(shown) = &self.shown {
            content(&shown.content);
        }
        if let Some(pages) = &self.pages {
            content(&pages.version.content);
        }
        if let Some(branch) = &self.branch {
            let mut list = |root, blocks| {
                let data = ContentData::Tree { root, blocks };
                content(&Content { size: 0, allocated: 0, data });
            };
            branch.draft.needs(&mut list, block);
        }
    }
}

impl OpenHandle {
    /// Tells the content that its writer began from.
    pub(crate) fn needs(&self, content: &mut dyn FnMut(&Content)) {
        if let Some(base) = &self.base {
            content(&base.version.content);
        }
    }
}

impl Core {
    /// What a file shows now.
    pub(crate) fn version(&mut self, ino: Ino) -> Result<Version> {
        let mut row = self.row(ino)?.ok_or(Error::NotFound)?;
        let mut view = None;
        if let NodeRow::View { of, value, .. } = *row {
            view = Some(value);
            row = self.row(of)?.ok_or(Error::NotFound)?;
        }
        let NodeRow::Node(node) = &*row else { return Err(Error::NotFound) };
        let at = view.or_else(|| node.content.last().map(|v| v.at));
        if node.kind != NodeKind::File {
            return Err(Error::Invalid);
        }
        if self.is_sealed(node) || self.past.is_some() && self.check_readable(ino).is_err() {
            return Err(Error::Denied);
        }
        let (_, current) = node.current_key().ok_or_else(|| Error::damaged("a node's key"))?;
        let mut keys = KeyRing::new(current);
        for (_, key) in &node.keys {
            keys.add(key);
        }
        let Some(at) = at else { return Ok(Version { content: Content::empty(), keys }) };
        let value = node.content.iter().find(|v| v.at == at).ok_or(Error::NotFound)?;
        let content = value.value.as_ref().ok_or_else(|| Error::damaged("a content that does not decode"))?;
        for key in &content.keys {
            keys.add(key);
        }
        let data = match content.tree {
            Some((root, blocks)) => ContentData::Tree { root, blocks },
            None => ContentData::Inline(self.inline_bytes(node, at, content)?),
        };
        Ok(Version { content: Content { size: content.size, allocated: content.allocated, data }, keys })
    }

    /// What a writer that begins now starts from.
    fn base(&mut self, ino: Ino) -> Result<Base> {
        let seen = self.with_node(ino, |n| n.content.last().map(|v| v.at).into_iter().collect())?;
        Ok(Base { seen, version: self.version(ino)? })
    }

    /// The node that a file's key is of, and whether all members have that: then others may name its blocks. Whoever reads
    /// these gets the key, which is else for its own readers.
    fn is_for_all(&mut self, ino: Ino) -> Result<(Ino, bool)> {
        let ino = self.carrier(ino)?;
        let for_all = |n: &Node| n.shown_access().is_none_or(|access| access.realm == RealmId::MEMBERS);
        Ok((ino, self.with_node(ino, for_all)?))
    }

    /// Whether a file has a name, or lost its last one to somebody elsewhere after its writers had opened it at `seen`.
    fn is_linked(&mut self, ino: Ino, seen: &[ValueRef]) -> Result<bool> {
        Ok(self.with_node(ino, Node::is_shown)? || self.lost_link(ino, seen)?.is_some())
    }
}

impl Volume {
    fn handle(&self, handle: Handle) -> Result<Arc<OpenHandle>> {
        self.inner.handles.get(&handle.0).map(|h| h.clone()).ok_or(Error::BadHandle)
    }

    fn shown_version(&self, ino: Ino) -> Result<Version> {
        self.reading(ino, |core, ino, _| core.version(ino))
    }

    /// The open file of an inode, with one more reference to it.
    fn hold(&self, ino: Ino) -> Arc<OpenFile> {
        loop {
            let make = || Arc::new(OpenFile { ino, state: RwLock::new(FileState::default()) });
            let file = self.inner.files.entry(ino).or_insert_with(make).clone();
            let mut state = file.state.write();
            if !state.gone {
                state.refs += 1;
                drop(state);
                return file;
            }
        }
    }

    fn let_go(&self, file: &OpenFile, state: &mut FileState) {
        state.refs -= 1;
        if state.refs == 0 {
            state.gone = true;
            self.drop_branch(file.ino, state.branch.take());
            self.inner.files.remove(&file.ino);
        }
    }

    /// Ends the branch of a file that nobody writes to any more, once all of it is published, and lets go of what a
    /// failed last close had kept. Tells whether somebody's concurrent version ranks higher, and shows from now on.
    fn end_branch(&self, file: &OpenFile, state: &mut FileState) -> bool {
        if state.writers == 0 {
            state.pages = None;
        }
        if state.branch.as_ref().is_some_and(|branch| branch.dirty) {
            return false;
        }
        let mut other_shows = false;
        if state.writers == 0
            && let Some(branch) = state.branch.take()
        {
            let seen = branch.seen.last().copied();
            self.drop_branch(file.ino, Some(branch));
            let shown = self.inner.core.lock().with_node(file.ino, |n| n.content.last().map(|v| v.at));
            other_shows = shown.is_ok_and(|at| at != seen);
        }
        if std::mem::take(&mut state.kept) {
            self.let_go(file, state);
        }
        other_shows
    }

    /// Lets go of what a failed last close had kept, once that has no name any more: what could not be published for that
    /// reason lives as long as its handles.
    fn forsake(&self, file: &OpenFile, state: &mut FileState) {
        if state.kept && state.writers == 0 && state.branch.as_ref().is_some_and(|branch| branch.dirty) {
            state.kept = false;
            self.let_go(file, state);
        }
    }

    fn drop_branch(&self, ino: Ino, branch: Option<Branch>) {
        if let Some(branch) = branch {
            self.count_dirty(branch.counted, 0);
            self.inner.core.lock().own.remove(&ino);
        }
    }

    fn count_dirty(&self, old: usize, new: usize) {
        self.inner.dirty_bytes.fetch_add(new, Ordering::Relaxed);
        self.inner.dirty_bytes.fetch_sub(old, Ordering::Relaxed);
    }

    /// Opens a file.
    ///
    /// # Errors
    /// [`Error::IsDirectory`], [`Error::ReadOnly`] for a writer without the right, [`Error::NotFound`].
    pub fn open(&self, ino: Ino, mode: OpenMode, who: &Caller) -> Result<Handle> {
        let writing = mode.write || mode.truncate;
        let attributes = self.attributes(ino)?;
        match attributes.kind {
            NodeKind::File => {}
            NodeKind::Directory => return Err(Error::IsDirectory),
            _ => return Err(Error::Invalid),
        }
        if attributes.sealed {
            return Err(Error::Denied);
        }
        let _opening = writing.then(|| self.inner.opening.read());
        let base = if writing {
            history::check_present(&[ino])?;
            Some(self.local(&[], |core| {
                core.may_change()?;
                core.check_writable(ino)?;
                core.renew_key_if_stale(ino)?;
                core.made_real(ino)?;
                core.base(ino).map(Arc::new)
            })?)
        } else {
            None
        };
        self.opened(ino, mode, who, attributes.mode, base)
    }

    /// A handle of a file with these permissions, for a writer who starts from `base`.
    fn opened(&self, ino: Ino, mode: OpenMode, who: &Caller, bits: u16, base: Option<Arc<Base>>) -> Result<Handle> {
        let file = self.hold(ino);
        let handle = OpenHandle { mode, who: *who, base, file: file.clone() };
        {
            let mut state = file.state.write();
            state.privileged = bits & 0o6000 != 0;
            if handle.base.is_some() {
                state.writers += 1;
                if state.pages.is_none() {
                    state.pages = handle.base.clone();
                    state.shown = None;
                }
            }
            if let (true, Some(base)) = (mode.truncate, &handle.base) {
                let result = self.change(&file, &mut state, base, who, |draft| draft.truncate(0));
                if let Err(e) = result {
                    state.writers -= 1;
                    self.end_branch(&file, &mut state);
                    self.let_go(&file, &mut state);
                    return Err(e);
                }
            }
        }
        let number = self.inner.next_handle.fetch_add(1, Ordering::Relaxed);
        self.inner.handles.insert(number, Arc::new(handle));
        Ok(Handle(number))
    }

    /// Makes a file and opens it, or opens what is there already.
    ///
    /// # Errors
    /// [`Error::Exists`] when `exclusive`, else as [`Self::make`] and [`Self::open`].
    pub fn create(
        &self,
        parent: Ino,
        name: &[u8],
        mode: u16,
        open: OpenMode,
        exclusive: bool,
        who: &Caller,
    ) -> Result<(Attributes, Handle)> {
        history::check_present(&[parent])?;
        let made = self.local(&[name], |core| {
            let ino = core.make(parent, name, NewNode::File, mode, who)?;
            // All that opening it would ask for next.
            let base = if open.write { Some(Arc::new(core.base(ino)?)) } else { None };
            Ok((core.attributes(ino)?, base))
        });
        match made {
            Err(Error::Exists) if !exclusive => {
                let ino = self.lookup(parent, name)?.ino;
                let handle = self.open(ino, open, who)?;
                Ok((self.attributes(ino)?, handle))
            }
            made => {
                let (attributes, base) = made?;
                // What was just made is empty as it is.
                let open = OpenMode { truncate: false, ..open };
                let handle = self.opened(attributes.ino, open, who, attributes.mode, base)?;
                Ok((attributes, handle))
            }
        }
    }

    /// The branch to write to, begun from what is shown if there is none.
    fn branch<'a>(&self, file: Ino, state: &'a mut FileState, base: &Base) -> Result<&'a mut Branch> {
        if state.branch.is_none() {
            let Base { seen, version } = base.clone();
            state.shown = None;
            let mtime = self.inner.clock.now();
            let draft = Draft::new(self.inner.blocks.clone(), version.content, version.keys);
            self.inner.core.lock().own.insert(file, seen.clone());
            let published = draft.size();
            state.branch = Some(Branch {
                draft,
                seen,
                mtime,
                dirty: false,
                logged: false,
                counted: 0,
                published,
                shared: false,
                rekeyed: 0,
                who: None,
                told: false,
            });
        }
        state.branch.as_mut().ok_or(Error::BadHandle)
    }

    /// Has a draft seal under the file's newest key: somebody may have lost the one before since it was begun.
    fn follow_key(&self, ino: Ino, branch: &mut Branch) -> Result<()> {
        let rekeyed = self.inner.rekeyed.load(Ordering::Acquire);
        if branch.rekeyed != rekeyed {
            let key = self.inner.core.lock().with_node(ino, |n| n.current_key().map(|(_, key)| key.clone()))?;
            if let Some(key) = key {
                branch.draft.seal_under(&key);
            }
            branch.rekeyed = rekeyed;
        }
        Ok(())
    }

    /// Changes a file's draft; what was changed is published later.
    fn change<R>(
        &self,
        file: &Arc<OpenFile>,
        state: &mut FileState,
        base: &Base,
        who: &Caller,
        f: impl FnOnce(&mut Draft) -> Result<R>,
    ) -> Result<R> {
        if state.privileged && who.uid != 0 {
            self.local(&[], |core| core.drop_privileges(file.ino, who))?;
            state.privileged = false;
        }
        let now = self.inner.clock.now();
        let begins = state.branch.is_none();
        let branch = self.branch(file.ino, state, base)?;
        if begins {
            let shown = self.inner.core.lock().with_node(file.ino, |n| n.content.last().map(|v| v.at));
            if shown.is_ok_and(|at| at.as_ref() != base.seen.last()) {
                // A newer version came since it was opened. What is shown from now on is begun from the older one, and
                // the kernel may have pages of the newer.
                self.hand_on(&[Changed::Content(file.ino)]);
            }
        }
        self.follow_key(file.ino, branch)?;
        let result = f(&mut branch.draft)?;
        branch.mtime = now;
        // (The kernel writes mapped pages out for nobody in particular.)
        if who.pid != 0 {
            branch.who = Some((who.uid, who.pid));
        }
        if !branch.dirty {
            branch.dirty = true;
            self.inner.dirty_files.lock().insert(file.ino, self.inner.clock.monotonic());
            self.wake_committer();
        }
        let dirty = branch.draft.dirty_bytes();
        if dirty != branch.counted {
            self.count_dirty(branch.counted, dirty);
            branch.counted = dirty;
            if self.inner.dirty_bytes.load(Ordering::Relaxed) > DIRTY_MAX && dirty > 1 << 20 {
                branch.draft.seal_oldest(usize::MAX)?;
                let left = branch.draft.dirty_bytes();
                self.count_dirty(branch.counted, left);
                branch.counted = left;
            }
        }
        Ok(result)
    }

    /// Reads up to `len` bytes from `offset` on, appending them to `out`.
    ///
    /// # Errors
    /// [`Error::Absent`] with the blocks that aren't here yet (await them, call again), [`Error::Damaged`].
    pub fn read(&self, handle: Handle, offset: u64, len: usize, out: &mut Vec<u8>) -> Result<()> {
        let handle = self.handle(handle)?;
        let result = self.read_from(&handle, offset, len, out);
        // (A version that no longer shows is only fetched for who waits for it.)
        if let Err(Error::Absent(_)) = &result
            && !history::is_past(handle.file.ino)
            && let Err(e) = self.want_again(handle.file.ino)
        {
            log::error!("inode {}: what it lacks could not be noted: {e}", handle.file.ino.0);
        }
        result
    }

    fn read_from(&self, handle: &OpenHandle, offset: u64, len: usize, out: &mut Vec<u8>) -> Result<()> {
        let state = handle.file.state.read();
        if let Some(branch) = &state.branch {
            return branch.draft.read(offset, len, out);
        }
        if let Some(version) = &state.shown {
            return self.inner.blocks.read(&version.content, &version.keys, offset, len, out);
        }
        drop(state);
        let mut state = handle.file.state.write();
        if state.branch.is_none() && state.shown.is_none() {
            state.shown = Some(self.shown_version(handle.file.ino)?);
        }
        match (&state.branch, &state.shown) {
            (Some(branch), _) => branch.draft.read(offset, len, out),
            (None, Some(version)) => self.inner.blocks.read(&version.content, &version.keys, offset, len, out),
            (None, None) => Err(Error::BadHandle),
        }
    }

    /// Writes bytes at `offset`, or at the end for a handle that appends.
    ///
    /// # Errors
    /// [`Error::Absent`] when it needs blocks that aren't here, [`Error::NoSpace`], [`Error::FileTooLarge`]; nothing was written then.
    pub fn write(&self, handle: Handle, offset: u64, data: &[u8], who: &Caller) -> Result<usize> {
        let handle = self.handle(handle)?;
        if !handle.mode.write {
            return Err(Error::BadHandle);
        }
        self.check_space(data.len())?;
        let mut state = handle.file.state.write();
        let append = handle.mode.append;
        self.change(&handle.file, &mut state, handle.base.as_ref().ok_or(Error::BadHandle)?, who, |draft| {
            draft.write(if append { draft.size() } else { offset }, data)
        })?;
        if let Some(branch) = &mut state.branch
            && branch.draft.size().saturating_sub(branch.published) >= PUBLISH_GROWTH
            && !self.inner.sessions.lock().is_empty()
        {
            branch.published = branch.draft.size();
            // Written it is; what can't be published now is tried again in time, as always.
            if let Err(e) = self.publish(&handle.file, &mut state) {
                log::debug!("inode {}: not published while it is written: {e}", handle.file.ino.0);
            }
        }
        Ok(data.len())
    }

    /// Writes what a shared mapping stored. Which handle it came through isn't known.
    ///
    /// A mapping makes no file longer, but what was stored before a file was cut may come after that: an open that
    /// empties a file doesn't wait for what the kernel is sending. So what lies past the end of a draft is dropped.
    /// Without a draft the end may be another device's doing, which takes nothing from what is stored here.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn write_mapped(&self, ino: Ino, offset: u64, data: &[u8]) -> Result<usize> {
        history::check_present(&[ino])?;
        self.check_space(data.len())?;
        let file = self.hold(ino);
        let mut state = file.state.write();
        let room = state.branch.as_ref().map_or(u64::MAX, |branch| branch.draft.size().saturating_sub(offset));
        let kept = &data[..data.len().min(usize::try_from(room).unwrap_or(usize::MAX))];
        // Not what shows now: the kernel brings stores here as it drops the pages for a version that has come.
        let base = match &state.pages {
            Some(pages) => Ok(pages.clone()),
            None => self.inner.core.lock().base(ino).map(Arc::new),
        };
        let root = Caller::default();
        let result = match kept {
            [] => Ok(()),
            _ => base.and_then(|base| self.change(&file, &mut state, &base, &root, |draft| draft.write(offset, kept))),
        };
        let published = if state.writers == 0 { self.publish(&file, &mut state) } else { Ok(()) };
        let other_shows = self.end_branch(&file, &mut state);
        self.let_go(&file, &mut state);
        drop(state);
        if other_shows {
            self.tell(&[Changed::Content(ino)]);
        }
        result.and(published).map(|()| data.len())
    }

    /// The files that programs here have open for writing. Not to be asked with the core's lock held.
    pub(crate) fn open_for_writing(&self) -> BTreeSet<Ino> {
        // Who lets go of a file has its state, and then wants the table.
        let files: Vec<Arc<OpenFile>> = self.inner.files.iter().map(|file| file.clone()).collect();
        files.into_iter().filter(|file| file.state.read().writers > 0).map(|file| file.ino).collect()
    }

    /// To be called before the kernel is told to drop a file's pages: what it reads anew is of this version or a newer one.
    /// `None` when nobody has the file open for writing.
    pub fn before_pages_drop(&self, ino: Ino) -> Option<PagesFrom> {
        let file = self.inner.files.get(&ino).map(|f| f.clone())?;
        let mut state = file.state.write();
        if state.writers == 0 {
            return None;
        }
        state.shown = None;
        self.inner.core.lock().base(ino).ok().map(|base| PagesFrom(Arc::new(base)))
    }

    /// To be called once it has.
    pub fn pages_dropped(&self, ino: Ino, from: PagesFrom) {
        if let Some(file) = self.inner.files.get(&ino).map(|f| f.clone()) {
            let mut state = file.state.write();
            if state.writers > 0 {
                state.pages = Some(from.0);
            }
        }
    }

    /// Publishes what was written, if anything was since the last time.
    fn publish(&self, file: &Arc<OpenFile>, state: &mut FileState) -> Result<()> {
        let Some(branch) = state.branch.as_mut().filter(|b| b.dirty) else { return Ok(()) };
        let ino = file.ino;
        if !self.inner.core.lock().is_linked(ino, &branch.seen)? {
            // Nobody can ever open it again: it lives as long as its handles.
            return Ok(());
        }
        self.follow_key(ino, branch)?;
        let content = branch.draft.finish()?;
        let keys = branch.draft.extra_keys();
        let (seen, mtime, logged) = (branch.seen.clone(), branch.mtime, branch.logged);
        let (who, size) = (branch.who, content.size);
        let published = self.local(&[], |core| {
            let at = core.publish(ino, content, keys, mtime, &seen)?;
            if logged {
                let store = core.store.clone();
                Draft::forget(ino.0, &store, &mut core.overlay.batch)?;
            }
            Ok(at)
        });
        // What is tried again and again is told once.
        if published.is_ok() || !branch.told {
            branch.told = published.is_err();
            self.tell_written(ino, who, size, published.as_ref().err());
        }
        let at = published?;
        self.inner.core.lock().own.insert(ino, vec![at]);
        branch.seen = vec![at];
        branch.dirty = false;
        branch.logged = false;
        branch.published = branch.draft.size();
        branch.shared = true;
        self.count_dirty(branch.counted, branch.draft.dirty_bytes());
        branch.counted = branch.draft.dirty_bytes();
        self.inner.dirty_files.lock().remove(&ino);
        Ok(())
    }

    /// Publishes the drafts that have waited long enough (all, when `age` is zero). Tells when the next is due.
    pub(crate) fn publish_old(&self, age: Duration) -> Option<Duration> {
        let now = self.inner.clock.monotonic();
        let waiting: Vec<(Ino, Duration)> = self.inner.dirty_files.lock().iter().map(|(i, t)| (*i, *t)).collect();
        let mut next = None;
        for (ino, since) in waiting {
            let due = since + age;
            if due > now {
                next = Some(next.map_or(due, |n: Duration| n.min(due)));
                continue;
            }
            let file = self.inner.files.get(&ino).map(|f| f.clone());
            self.inner.dirty_files.lock().remove(&ino);
            let Some(file) = file else { continue };
            let mut state = file.state.write();
            let result = self.publish(&file, &mut state);
            let mut other_shows = false;
            if result.is_ok() && state.kept {
                self.forsake(&file, &mut state);
                other_shows = self.end_branch(&file, &mut state);
            }
            drop(state);
            if other_shows {
                self.tell(&[Changed::Content(ino)]);
            }
            if let Err(e) = result {
                log::error!("inode {}: what was written could not be published yet: {e}", ino.0);
                self.inner.dirty_files.lock().insert(ino, now);
                let retry = now + PUBLISH_AFTER;
                next = Some(next.map_or(retry, |n: Duration| n.min(retry)));
            }
        }
        next
    }

    /// What was written and can't be published for now, though nobody has it open any more: shown here alone, and tried
    /// again. The disk was full, or the right to write to the file went meanwhile.
    pub fn unpublished(&self) -> Vec<Unpublished> {
        let files: Vec<Arc<OpenFile>> = self.inner.files.iter().map(|file| file.value().clone()).collect();
        // One that is busy is being published.
        let kept = |file: &Arc<OpenFile>| file.state.try_read().is_some_and(|state| state.kept);
        let inos: Vec<Ino> = files.iter().filter(|file| kept(file)).map(|file| file.ino).collect();
        let mut core = self.inner.core.lock();
        let one = |ino: Ino| Unpublished {
            ino,
            path: core.path_of(ino),
            forbidden: !core.is_writer() || core.check_writable(ino).is_err(),
        };
        inos.into_iter().map(one).collect()
    }

    /// `close`: what was written through any handle of this file becomes a version, stored before this returns.
    ///
    /// # Errors
    /// What kept it from being stored; it is kept and tried again.
    pub fn flush(&self, handle: Handle) -> Result<()> {
        let handle = self.handle(handle)?;
        if !handle.mode.write && !handle.mode.truncate {
            return Ok(());
        }
        let mut state = handle.file.state.write();
        self.publish(&handle.file, &mut state)?;
        // A writer, so the branch stays; what an earlier close could not publish is published now.
        self.end_branch(&handle.file, &mut state);
        Ok(())
    }

    /// Makes what was written so far survive power loss.
    ///
    /// # Errors
    /// The disk failed or is full.
    pub fn fsync(&self, handle: Handle) -> Result<()> {
        let handle = self.handle(handle)?;
        {
            let mut state = handle.file.state.write();
            // Most small files are synced just before they are closed. What is then published needs no row in the log
            // before, nor a second one that drops it. Whoever syncs on and on is given the log.
            let first = |b: &Branch| b.dirty && !b.shared && !b.logged && b.draft.size() <= INLINE_MAX as u64;
            let published = state.branch.as_ref().is_some_and(first).then(|| self.publish(&handle.file, &mut state));
            if let Some(Err(e)) = &published {
                // The next close tells, if it can't be published then.
                log::debug!("inode {}: synced without being published: {e}", handle.file.ino.0);
            }
            self.log_draft(&handle.file, &mut state)?;
        }
        self.sync_store()
    }

    /// Puts an unpublished draft into the store's log, so that it survives the death of the daemon.
    fn log_draft(&self, file: &OpenFile, state: &mut FileState) -> Result<()> {
        let Some(branch) = state.branch.as_mut().filter(|b| b.dirty) else { return Ok(()) };
        if !self.inner.core.lock().is_linked(file.ino, &branch.seen)? {
            return Ok(());
        }
        let header = encode(&(&branch.seen, branch.mtime));
        if self.inner.undo.end().is_some() {
            // What is logged isn't taken back: nothing before it may be, either.
            self.sync_blocks()?;
        }
        branch.draft.persist(file.ino.0, &header, &self.inner.store)?;
        branch.logged = true;
        Ok(())
    }

    /// Publishes drafts that were synced but not published when the daemon ended.
    pub(crate) fn recover_drafts(&self) -> Result<()> {
        for number in Draft::drafts_present(&self.inner.store)? {
            if let Err(e) = self.recover_draft(Ino(number)) {
                log::error!("inode {number}: a synced draft could not be recovered yet: {e}");
            }
        }
        Ok(())
    }

    fn recover_draft(&self, ino: Ino) -> Result<()> {
        let keys = self.inner.core.lock().version(ino)?.keys;
        let found = Draft::recover(ino.0, &self.inner.store, self.inner.blocks.clone(), keys)?;
        let Some((draft, header)) = found else { return Ok(()) };
        let (seen, mtime): (Vec<ValueRef>, Timestamp) =
            rmp_serde::from_slice(&header).map_err(|_| Error::damaged("a draft's header"))?;
        if !self.inner.core.lock().is_linked(ino, &seen)? {
            return self.local(&[], |core| {
                let store = core.store.clone();
                Draft::forget(ino.0, &store, &mut core.overlay.batch)
            });
        }
        // As after a last close that failed: shown from now on, and published as soon as the disk lets it be.
        let file = self.hold(ino);
        let mut state = file.state.write();
        self.inner.core.lock().own.insert(ino, seen.clone());
        state.branch = Some(Branch {
            draft,
            seen,
            mtime,
            dirty: true,
            logged: true,
            counted: 0,
            published: 0,
            shared: false,
            rekeyed: 0,
            who: None,
            told: false,
        });
        state.kept = true;
        if let Err(e) = self.publish(&file, &mut state) {
            self.inner.dirty_files.lock().insert(ino, self.inner.clock.monotonic());
            return Err(e);
        }
        self.end_branch(&file, &mut state);
        Ok(())
    }

    /// The last close of a handle.
    ///
    /// # Errors
    /// As [`Self::flush`].
    pub fn release(&self, handle: Handle) -> Result<()> {
        let (_, handle) = self.inner.handles.remove(&handle.0).ok_or(Error::BadHandle)?;
        let file = &handle.file;
        let mut other_shows = false;
        let mut state = file.state.write();
        let mut result = Ok(());
        if handle.mode.write || handle.mode.truncate {
            state.writers -= 1;
            if state.writers == 0 {
                result = self.publish(file, &mut state);
                if result.is_ok() {
                    self.forsake(file, &mut state);
                }
                other_shows = self.end_branch(file, &mut state);
            }
        }
        if let Err(e) = &result
            && !state.kept
        {
            // Its writer was told, and may be gone: it isn't thrown away but tried again.
            log::error!("inode {}: what was written could not be published at its last close: {e}", file.ino.0);
            state.kept = true;
            state.refs += 1;
            self.inner.dirty_files.lock().insert(file.ino, self.inner.clock.monotonic());
        }
        self.let_go(file, &mut state);
        drop(state);
        if other_shows {
            // Somebody's concurrent version ranks higher: that is what shows from now on.
            self.tell(&[Changed::Content(file.ino)]);
        }
        result
    }

    /// Sets attributes; a size cuts or extends the file.
    ///
    /// # Errors
    /// As POSIX has them for chmod, chown, utimensat and truncate.
    pub fn set_attributes(
        &self,
        ino: Ino,
        handle: Option<Handle>,
        change: &AttributeChange,
        who: &Caller,
    ) -> Result<Attributes> {
        history::check_present(&[ino])?;
        if let Some(size) = change.size {
            self.set_size(ino, handle, size, who)?;
        }
        if let Some(mtime) = change.mtime {
            // A time set by hand is for what was written before.
            if let Some(file) = self.inner.files.get(&ino).map(|f| f.clone()) {
                let mut state = file.state.write();
                self.publish(&file, &mut state)?;
                // What has no name any more stays a draft, and shows the draft's time.
                if let Some(branch) = state.branch.as_mut().filter(|branch| branch.dirty) {
                    branch.mtime = match mtime {
                        SetTime::Now => self.inner.clock.now(),
                        SetTime::At(time) => time,
                    };
                }
                let other_shows = state.kept && self.end_branch(&file, &mut state);
                drop(state);
                if other_shows {
                    self.tell(&[Changed::Content(ino)]);
                }
            }
        }
        if change.mode.is_some()
            || change.uid.is_some()
            || change.gid.is_some()
            || change.owner.is_some()
            || change.atime.is_some()
            || change.mtime.is_some()
        {
            self.local(&[], |core| core.set_attributes(ino, change, who))?;
        }
        let attributes = self.attributes(ino)?;
        if (change.mode.is_some() || change.uid.is_some() || change.gid.is_some())
            && let Some(file) = self.inner.files.get(&ino).map(|f| f.clone())
        {
            file.state.write().privileged = attributes.mode & 0o6000 != 0;
        }
        Ok(attributes)
    }

    fn set_size(&self, ino: Ino, handle: Option<Handle>, size: u64, who: &Caller) -> Result<()> {
        let attributes = self.attributes(ino)?;
        match attributes.kind {
            NodeKind::File => {}
            NodeKind::Directory => return Err(Error::IsDirectory),
            _ => return Err(Error::Invalid),
        }
        let _opening = self.inner.opening.read();
        let base = match handle.map(|h| self.handle(h)).transpose()? {
            Some(handle) if handle.base.is_some() => handle.base.clone().ok_or(Error::BadHandle)?,
            _ => self.local(&[], |core| {
                core.may_change()?;
                core.check_writable(ino)?;
                core.renew_key_if_stale(ino)?;
                core.made_real(ino)?;
                core.base(ino).map(Arc::new)
            })?,
        };
        if size > attributes.size {
            self.check_space(0)?;
        }
        let file = self.hold(ino);
        let mut state = file.state.write();
        state.privileged |= attributes.mode & 0o6000 != 0;
        let mut result = self.change(&file, &mut state, &base, who, |draft| draft.truncate(size));
        if result.is_ok() {
            result = if state.writers > 0 {
                // Answered, so it must survive the daemon: as a draft, since the file is still being written.
                self.log_draft(&file, &mut state)
            } else {
                self.publish(&file, &mut state)
            };
        }
        let other_shows = self.end_branch(&file, &mut state);
        self.let_go(&file, &mut state);
        drop(state);
        if other_shows {
            self.tell(&[Changed::Content(ino)]);
        }
        result
    }

    /// Attributes of a node, with what is being written to it.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn attributes(&self, ino: Ino) -> Result<Attributes> {
        let own = self.inner.files.get(&ino).map(|f| f.clone()).and_then(|file| {
            let state = file.state.read();
            let branch = state.branch.as_ref()?;
            Some((branch.draft.size(), branch.draft.allocated(), branch.dirty.then_some(branch.mtime)))
        });
        let mut attributes = self.reading(ino, |core, ino, number| {
            let attributes = core.attributes(ino)?;
            Ok(Attributes { ino: number(attributes.ino), ..attributes })
        })?;
        if let Some((size, allocated, mtime)) = own {
            (attributes.size, attributes.allocated) = (size, allocated);
            if let Some(mtime) = mtime {
                attributes.mtime = mtime;
                attributes.ctime = attributes.ctime.max(mtime);
            }
        }
        Ok(attributes)
    }

    /// What `fallocate` does.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn allocate(&self, handle: Handle, mode: Allocate, offset: u64, len: u64) -> Result<()> {
        let handle = self.handle(handle)?;
        if !handle.mode.write {
            return Err(Error::BadHandle);
        }
        let end = offset.checked_add(len).ok_or(Error::FileTooLarge)?;
        if len == 0 {
            return Err(Error::Invalid);
        }
        self.check_space(0)?;
        let mut state = handle.file.state.write();
        self.change(&handle.file, &mut state, handle.base.as_ref().ok_or(Error::BadHandle)?, &handle.who, |draft| {
            match mode {
                Allocate::Extend => draft.extend(end),
                Allocate::KeepSize => Ok(()),
                Allocate::PunchHole => draft.punch(offset, len),
                Allocate::ZeroRange { keep_size } => draft.zero_range(offset, len, keep_size),
            }
        })
    }

    fn with_content<R>(
        &self,
        handle: Handle,
        draft: impl FnOnce(&Draft) -> Result<R>,
        version: impl FnOnce(&Version) -> Result<R>,
    ) -> Result<R> {
        let handle = self.handle(handle)?;
        let mut state = handle.file.state.write();
        if let Some(branch) = &state.branch {
            return draft(&branch.draft);
        }
        if state.shown.is_none() {
            state.shown = Some(self.shown_version(handle.file.ino)?);
        }
        version(state.shown.as_ref().ok_or(Error::BadHandle)?)
    }

    /// Where the first data at or after `offset` begins.
    ///
    /// # Errors
    /// [`Error::NoMoreData`] when there is none.
    pub fn seek_data(&self, handle: Handle, offset: u64) -> Result<u64> {
        let blocks = &self.inner.blocks;
        self.with_content(handle, |d| d.seek_data(offset), |v| blocks.seek_data(&v.content, offset))
    }

    /// Where the first hole at or after `offset` begins; the end counts as one.
    ///
    /// # Errors
    /// [`Error::NoMoreData`] at or past the end.
    pub fn seek_hole(&self, handle: Handle, offset: u64) -> Result<u64> {
        let blocks = &self.inner.blocks;
        self.with_content(handle, |d| d.seek_hole(offset), |v| blocks.seek_hole(&v.content, offset))
    }

    /// Copies a range between files, sharing the blocks it can. Tells how much was copied.
    ///
    /// # Errors
    /// As [`Self::read`] and [`Self::write`].
    pub fn copy_range(&self, from: Handle, from_offset: u64, to: Handle, to_offset: u64, len: u64) -> Result<u64> {
        let (source, target) = (self.handle(from)?, self.handle(to)?);
        if !target.mode.write || target.mode.append {
            return Err(Error::BadHandle);
        }
        self.check_space(0)?;
        let version = {
            let mut state = source.file.state.write();
            match &mut state.branch {
                Some(branch) => {
                    let content = branch.draft.finish()?;
                    let mut keys = self.inner.core.lock().version(source.file.ino)?.keys;
                    for key in branch.draft.extra_keys() {
                        keys.add(&key);
                    }
                    (content, keys)
                }
                None => {
                    if state.shown.is_none() {
                        state.shown = Some(self.shown_version(source.file.ino)?);
                    }
                    state.shown.clone().map(|v| (v.content, v.keys)).ok_or(Error::BadHandle)?
                }
            }
        };
        let (content, keys) = version;
        let len = len.min(content.size.saturating_sub(from_offset));
        if len == 0 {
            return Ok(0);
        }
        // (It may be one of the past.)
        let (node, for_all) = self.reading(source.file.ino, |core, ino, _| core.is_for_all(ino))?;
        if !for_all && node != self.inner.core.lock().carrier(target.file.ino)? {
            let mut bytes = Vec::new();
            let most = usize::try_from(len).unwrap_or(usize::MAX).min(COPY_AT_ONCE);
            self.read(from, from_offset, most, &mut bytes)?;
            return self.write(to, to_offset, &bytes, &target.who).map(|written| written as u64);
        }
        let mut state = target.file.state.write();
        self.change(&target.file, &mut state, target.base.as_ref().ok_or(Error::BadHandle)?, &target.who, |draft| {
            draft.clone_range(&content, &keys, from_offset, to_offset, len)
        })
    }
}
