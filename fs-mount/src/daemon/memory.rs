//! Keeping the process small.

/// Each thread would get a heap of its own from the C library, and each would keep what was freed in it.
#[allow(unsafe_code, reason = "no safe wrapper exists; sets two numbers in the allocator")]
pub(super) fn keep_small() {
    const ARENAS: libc::c_int = 2;
    const TRIM_ABOVE: libc::c_int = 1 << 20;
    // SAFETY: mallopt takes two integers and may be called at any time.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, ARENAS);
        libc::mallopt(libc::M_TRIM_THRESHOLD, TRIM_ABOVE);
    }
}
