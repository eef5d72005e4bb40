//! How the program takes memory from the operating system.

/// Lets the process keep what it frees, up to 2 GiB.
///
/// Training frees and takes tensors of the same sizes at every step. By default glibc returns large ones to the system and
/// takes them anew, cleared page by page, which costs up to a third of the time. Other allocators are left as they are.
pub fn keep_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for (parameter, value) in
        [(libc::M_MMAP_MAX, 0), (libc::M_TRIM_THRESHOLD, i32::MAX), (libc::M_TOP_PAD, 256 << 20)]
    {
        // SAFETY: mallopt sets a number of the allocator's under its own lock. Where it refuses one, nothing changes.
        unsafe { libc::mallopt(parameter, value) };
    }
}
