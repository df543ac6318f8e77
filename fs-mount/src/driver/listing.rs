//! Open directories: what was fetched for a reader and not handed to the kernel yet.
//!
//! Invariant: entries fetched in an earlier request are used only if nothing changed since. The kernel takes the names
//! and attributes in a reply for valid as of the request, and keeps them for a day.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use fuser::FileHandle;
use parking_lot::Mutex;
use volume::{
    Error, Result,
    node::{DirEntry, Ino},
};

use super::{
    calls::{Calls, Request},
    past::Past,
};

/// Entries fetched at once: about what a reply of 32 KiB (glibc's buffer) holds with attributes.
const BATCH: usize = 192;

/// All open directories.
#[derive(Default)]
pub(super) struct Listings {
    next: AtomicU64,
    open: Mutex<HashMap<u64, Arc<Mutex<Listing>>>>,
}

impl Listings {
    pub(super) fn open(&self) -> FileHandle {
        let handle = self.next.fetch_add(1, Ordering::Relaxed);
        self.open.lock().insert(handle, Arc::default());
        FileHandle(handle)
    }

    pub(super) fn close(&self, handle: FileHandle) {
        self.open.lock().remove(&handle.0);
    }

    /// Hands the entries of `directory` after the cookie `after` to `add`, until it says that the reply is full.
    #[allow(clippy::too_many_arguments, reason = "a request and what serves it")]
    pub(super) fn read(
        &self,
        calls: &Calls,
        past: &Past,
        request: Request,
        handle: FileHandle,
        directory: Ino,
        after: u64,
        add: impl FnMut(&DirEntry) -> bool,
    ) -> Result<()> {
        let listing = self.open.lock().get(&handle.0).cloned().ok_or(Error::BadHandle)?;
        let now = || calls.changes();
        let fetch = |after| calls.read(request, |volume| past.read_directory(volume, directory, after, BATCH));
        listing.lock().read(after, now, fetch, add)
    }
}

/// One open directory.
#[derive(Default)]
struct Listing {
    /// Entries not handed over yet, in order.
    fetched: VecDeque<DirEntry>,
    /// The cookie of the entry before them.
    position: u64,
    /// The count of changes when they were fetched.
    as_of: u64,
}

impl Listing {
    fn read(
        &mut self,
        after: u64,
        now: impl Fn() -> u64,
        fetch: impl Fn(u64) -> Result<Vec<DirEntry>>,
        mut add: impl FnMut(&DirEntry) -> bool,
    ) -> Result<()> {
        // Position 0 is a rewind, which POSIX wants to show the directory as it is now.
        if after == 0 || after != self.position || self.as_of != now() {
            self.fetched.clear();
            self.position = after;
        }
        let mut added = false;
        loop {
            if self.fetched.is_empty() {
                self.as_of = now();
                match fetch(self.position) {
                    Ok(batch) if batch.is_empty() => return Ok(()),
                    Ok(batch) => self.fetched = batch.into(),
                    // The entries before it are good; the next request meets the error again.
                    Err(_) if added => return Ok(()),
                    Err(error) => return Err(error),
                }
            }
            while let Some(entry) = self.fetched.front() {
                if add(entry) {
                    return Ok(());
                }
                added = true;
                self.position = entry.cookie;
                self.fetched.pop_front();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use volume::{
        node::{Attributes, NodeKind},
        time::Timestamp,
    };

    use super::*;

    /// A directory whose entries are their cookies.
    struct Directory {
        cookies: RefCell<Vec<u64>>,
        changes: Cell<u64>,
        fetches: Cell<u32>,
    }

    impl Directory {
        fn new(cookies: impl IntoIterator<Item = u64>) -> Self {
            Self { cookies: RefCell::new(cookies.into_iter().collect()), changes: Cell::new(0), fetches: Cell::new(0) }
        }

        fn remove(&self, cookie: u64) {
            self.cookies.borrow_mut().retain(|c| *c != cookie);
            self.changes.set(self.changes.get() + 1);
        }

        fn fetch(&self, after: u64) -> Result<Vec<DirEntry>> {
            self.fetches.set(self.fetches.get() + 1);
            let cookies = self.cookies.borrow();
            Ok(cookies.iter().filter(|c| **c > after).take(4).map(|c| entry(*c)).collect())
        }

        /// What a reply with room for `room` entries holds.
        fn read(&self, listing: &mut Listing, after: u64, room: usize) -> Vec<u64> {
            let mut reply = Vec::new();
            let add = |entry: &DirEntry| {
                let full = reply.len() == room;
                if !full {
                    reply.push(entry.cookie);
                }
                full
            };
            listing.read(after, || self.changes.get(), |after| self.fetch(after), add).unwrap();
            reply
        }
    }

    fn entry(cookie: u64) -> DirEntry {
        let time = Timestamp::default();
        let attributes = Attributes {
            ino: Ino(cookie),
            kind: NodeKind::File,
            size: 0,
            allocated: 0,
            mtime: time,
            ctime: time,
            atime: time,
            btime: time,
            mode: 0o644,
            links: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            sealed: false,
            other: None,
            own_mode: 0o644,
        };
        DirEntry { name: cookie.to_string().into_bytes(), attributes, cookie }
    }

    #[test]
    fn replies_go_on_where_the_last_one_ended() {
        let directory = Directory::new(1..=10);
        let mut listing = Listing::default();
        assert_eq!(directory.read(&mut listing, 0, 3), [1, 2, 3]);
        assert_eq!(directory.read(&mut listing, 3, 3), [4, 5, 6]);
        assert_eq!(directory.read(&mut listing, 6, 9), [7, 8, 9, 10]);
        assert_eq!(directory.read(&mut listing, 10, 9), [0; 0]);
    }

    #[test]
    fn what_is_left_over_serves_the_next_reply() {
        let directory = Directory::new(1..=4);
        let mut listing = Listing::default();
        directory.read(&mut listing, 0, 2);
        assert_eq!(directory.read(&mut listing, 2, 1), [3]);
        assert_eq!(directory.fetches.get(), 1);
    }

    #[test]
    fn nothing_fetched_before_a_change_is_handed_out() {
        let directory = Directory::new(1..=4);
        let mut listing = Listing::default();
        directory.read(&mut listing, 0, 2);
        directory.remove(3);
        assert_eq!(directory.read(&mut listing, 2, 2), [4]);
    }

    #[test]
    fn rewinding_shows_the_directory_as_it_is() {
        let directory = Directory::new(1..=4);
        let mut listing = Listing::default();
        directory.read(&mut listing, 0, 2);
        directory.cookies.borrow_mut().push(5);
        assert_eq!(directory.read(&mut listing, 0, 9), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn seeking_goes_to_any_cookie() {
        let directory = Directory::new(1..=6);
        let mut listing = Listing::default();
        directory.read(&mut listing, 0, 6);
        assert_eq!(directory.read(&mut listing, 2, 2), [3, 4]);
    }

    #[test]
    fn an_error_comes_after_the_entries_before_it() {
        let mut listing = Listing::default();
        let fetch = |after| {
            if after == 0 { Ok(vec![entry(1)]) } else { Err(Error::damaged("entry")) }
        };
        let mut reply = Vec::new();
        let mut add = |entry: &DirEntry| {
            reply.push(entry.cookie);
            false
        };
        assert!(listing.read(0, || 0, fetch, &mut add).is_ok());
        assert!(listing.read(1, || 0, fetch, &mut add).is_err());
        assert_eq!(reply, [1]);
    }
}
