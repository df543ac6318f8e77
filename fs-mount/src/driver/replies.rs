//! Replies to the kernel.

use std::time::Duration;

use fuser::{Generation, ReplyAttr, ReplyEmpty, ReplyStatfs, ReplyWrite, ReplyXattr};
use volume::{
    Error, Result,
    node::{Attributes, NAME_MAX, Statistics},
};

use super::{
    attributes::View,
    calls::{Request, node_failed},
    past,
};

/// How long the kernel keeps what it is told: changes are told to it.
pub(super) const VALID: Duration = Duration::from_secs(24 * 60 * 60);
/// Inode numbers are never reused.
pub(super) const GENERATION: Generation = Generation(0);
/// The unit that `statfs` counts in. One for both of its fields, since programs mix them up.
const STATFS_UNIT: u32 = 4096;

/// Replies with attributes.
pub(super) fn answer_attributes(request: Request, node: Result<Attributes>, view: &View, reply: ReplyAttr) {
    match node {
        Ok(node) => reply.attr(&past::validity(node.ino), &view.shown(&node)),
        Err(error) => reply.error(node_failed(request, &error)),
    }
}

pub(super) fn answer_empty(request: Request, result: Result<()>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(node_failed(request, &error)),
    }
}

pub(super) fn answer_written(request: Request, written: Result<usize>, reply: ReplyWrite) {
    match written.and_then(|count| u32::try_from(count).map_err(|_| Error::FileTooLarge)) {
        Ok(count) => reply.written(count),
        Err(error) => reply.error(node_failed(request, &error)),
    }
}

/// Replies with a value, or its size to who offers no room for it.
pub(super) fn answer_xattr(request: Request, value: Result<Vec<u8>>, room: u32, reply: ReplyXattr) {
    let fits = value.and_then(|value| {
        let size = u32::try_from(value.len()).map_err(|_| Error::TooBig)?;
        if room != 0 && size > room { Err(Error::Range) } else { Ok((value, size)) }
    });
    match fits {
        Ok((_, size)) if room == 0 => reply.size(size),
        Ok((value, _)) => reply.data(&value),
        Err(error) => reply.error(node_failed(request, &error)),
    }
}

pub(super) fn answer_statistics(request: Request, found: Result<Statistics>, reply: ReplyStatfs) {
    match found {
        Ok(Statistics { total_bytes, free_bytes, available_bytes, nodes, block_size: _ }) => {
            let [total, free, available] =
                [total_bytes, free_bytes, available_bytes].map(|bytes| bytes / u64::from(STATFS_UNIT));
            // Files are limited by room alone, and each takes some.
            let files = nodes.saturating_add(free);
            let name_max = NAME_MAX as u32;
            reply.statfs(total, free, available, files, free, STATFS_UNIT, name_max, STATFS_UNIT);
        }
        Err(error) => reply.error(node_failed(request, &error)),
    }
}
