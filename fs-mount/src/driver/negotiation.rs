//! What is agreed with the kernel when the mount begins.

use fuser::{InitFlags, KernelConfig};
use log::debug;

/// The largest read and write; what the kernel allows by default.
pub(super) const MAX_IO: u32 = 1024 * 1024;
/// Requests that the kernel may have under way without a program waiting for each: read-ahead, mostly.
const MAX_BACKGROUND: u16 = 64;
/// What the kernel is asked for, as far as it can. Nothing else, above all not: the writeback cache (the kernel would own
/// size and mtime), locks (it keeps them itself), SETXATTR_EXT (fuser 0.18.0 panics on it), ALLOW_IDMAP (it breaks the mount).
const CAPABILITIES: [InitFlags; 11] = [
    InitFlags::FUSE_ASYNC_READ,
    InitFlags::FUSE_BIG_WRITES,
    InitFlags::FUSE_ATOMIC_O_TRUNC,
    // Else every write asks for `security.capability` first. The volume clears set-user-id bits.
    InitFlags::FUSE_HANDLE_KILLPRIV_V2,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    InitFlags::FUSE_POSIX_ACL,
    // The umask doesn't apply where a default ACL does, and only the volume knows.
    InitFlags::FUSE_DONT_MASK,
    InitFlags::FUSE_CACHE_SYMLINKS,
    // File handles (`name_to_handle_at`, NFS): numbers last, and `lookup` knows "." and "..".
    InitFlags::FUSE_EXPORT_SUPPORT,
];

/// Asks for what this kernel has of it.
pub(super) fn negotiate(config: &mut KernelConfig) {
    for wanted in CAPABILITIES {
        if let Err(missing) = config.add_capabilities(wanted) {
            debug!("the kernel has no {missing:?}");
        }
    }
    // Both are within the limits; what they give back is only the value before.
    let _ = config.set_max_write(MAX_IO);
    let _ = config.set_max_background(MAX_BACKGROUND);
}
