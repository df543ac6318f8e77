//! How many requests the kernel made of each kind, and how many failed with what: numbers for operators, of all mounts of this
//! process.

use std::{
    array,
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
};

use fuser::Errno;

use crate::errno;

/// The kinds that are counted: those that reach the volume.
const KINDS: [&str; 31] = [
    "lookup",
    "forget",
    "getattr",
    "setattr",
    "readlink",
    "mknod",
    "mkdir",
    "symlink",
    "link",
    "unlink",
    "rmdir",
    "rename",
    "open",
    "create",
    "read",
    "write",
    "flush",
    "fsync",
    "release",
    "opendir",
    "readdir",
    "readdirplus",
    "fsyncdir",
    "statfs",
    "getxattr",
    "listxattr",
    "setxattr",
    "removexattr",
    "fallocate",
    "lseek",
    "copy_file_range",
];

/// One more than the largest number that Linux has for an error that programs see.
const ERRNOS: usize = 134;

/// By kind.
static COUNTS: LazyLock<[Counts; KINDS.len()]> = LazyLock::new(|| array::from_fn(|_| Counts::default()));

struct Counts {
    requests: AtomicU64,
    /// By errno.
    failures: [AtomicU64; ERRNOS],
}

impl Default for Counts {
    fn default() -> Self {
        Self { requests: AtomicU64::new(0), failures: array::from_fn(|_| AtomicU64::new(0)) }
    }
}

/// A kind of request.
#[derive(Clone, Copy)]
pub(super) struct Kind(usize);

impl Kind {
    pub(super) fn named(what: &str) -> Option<Self> {
        let found = KINDS.iter().position(|kind| *kind == what).map(Self);
        debug_assert!(found.is_some(), "{what} is not counted");
        found
    }

    /// Notes one more.
    pub(super) fn begun(self) {
        COUNTS[self.0].requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that one failed.
    pub(super) fn failed(self, errno: Errno) {
        if let Some(count) = usize::try_from(errno.code()).ok().and_then(|code| COUNTS[self.0].failures.get(code)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// How many requests of one kind there were.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requests {
    /// The kind, as FUSE calls it.
    pub kind: &'static str,
    /// So many since the process began.
    pub count: u64,
    /// Those that failed, by the name of the error.
    pub failures: Vec<(String, u64)>,
}

/// What the kernel has asked of this process's mounts, every kind.
pub fn requests() -> Vec<Requests> {
    let of_kind = |(kind, counts): (&&'static str, &Counts)| {
        let failures = counts.failures.iter().enumerate().filter_map(|(code, count)| {
            let count = count.load(Ordering::Relaxed);
            (count > 0).then(|| (errno::name(code), count))
        });
        Requests { kind, count: counts.requests.load(Ordering::Relaxed), failures: failures.collect() }
    };
    KINDS.iter().zip(COUNTS.iter()).map(of_kind).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_is_told_by_name() {
        // No other test of this process asks for it.
        let kind = Kind::named("copy_file_range").unwrap();
        (0..3).for_each(|_| kind.begun());
        kind.failed(Errno::EXDEV);
        kind.failed(Errno::EIO);
        kind.failed(Errno::EIO);
        let counted = requests().into_iter().find(|one| one.kind == "copy_file_range").unwrap();
        let failures = vec![("EIO".to_owned(), 2), ("errno 18".to_owned(), 1)];
        assert_eq!(counted, Requests { kind: "copy_file_range", count: 3, failures });
    }
}
