//! Keeping the process small, and its memory quick to get.

use std::{env, os::unix::process::CommandExt, process::Command, thread};

/// Where the C library looks, as a program starts, for how its allocator shall be.
const SETTINGS: &str = "GLIBC_TUNABLES";
/// How many freed pieces of each size a thread keeps at hand. A call gets, and gives back, more of one size than the 7 of
/// the default, and would ask the common heap for the others: that was up to a fifth of what a daemon does itself while files
/// are made. A thread keeps 4 MiB in this way at most.
const KEEP_MORE: &str = "glibc.malloc.tcache_count=128";

/// Says that this was tried: a program with privileges of its own gets its environment without [`SETTINGS`].
const TRIED: (&str, &str) = ("P2PFS_MALLOC_SET", "1");

/// What the environment of a daemon lacks; nothing if somebody has set it otherwise.
pub(super) fn missing_settings() -> Option<(&'static str, &'static str)> {
    env::var_os(SETTINGS).is_none().then_some((SETTINGS, KEEP_MORE))
}

/// Has a process that becomes a daemon begin anew with the settings that can only be given at the start. To be called
/// before anything else is done. Without them it works as well, only slower.
pub(crate) fn begin_with_settings() {
    if env::var_os(TRIED.0).is_some() {
        return;
    }
    let (Some(settings), Ok(program)) = (missing_settings(), env::current_exe()) else { return };
    let mut arguments = env::args_os();
    let mut command = Command::new(program);
    command.arg0(arguments.next().unwrap_or_default()).args(arguments).envs([settings, TRIED]);
    // Returns only when it failed.
    let _ = command.exec();
}

/// Each thread would get a heap of its own from the C library, and each would keep what was freed in it. To be called
/// before there are other threads.
#[allow(unsafe_code, reason = "no safe wrapper exists; sets two numbers in the allocator")]
pub(super) fn keep_small() {
    const ARENAS: libc::c_int = 2;
    const TRIM_ABOVE: libc::c_int = 1 << 20;
    // SAFETY: mallopt takes two integers and may be called at any time.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, ARENAS);
        libc::mallopt(libc::M_TRIM_THRESHOLD, TRIM_ABOVE);
    }
    grow_second_heap();
}

/// The heap of the other threads asks the kernel for each page that it grows by, the first time: thousands of calls while a
/// fresh daemon reads a tree. Once grown and given back, its pages cost no call any more, and no memory.
fn grow_second_heap() {
    // More than a daemon has there before a tree of some 10,000 files is in its memory; each piece is too small to be
    // mapped by itself.
    const PIECES: usize = 400;
    const PIECE: usize = 64 << 10;
    let grown = thread::Builder::new().spawn(|| {
        let pieces: Vec<Vec<u8>> = (0..PIECES).map(|_| Vec::with_capacity(PIECE)).collect();
        drop(std::hint::black_box(pieces));
    });
    if let Ok(grown) = grown {
        // It can't panic; without it all works as well.
        let _ = grown.join();
    }
}
