//! Keeps freed memory from piling up.
//!
//! glibc gives every thread its own arena and raises its thresholds with the largest buffer it has seen, so that a
//! service which once moved large parts keeps them, eight times over: 30 MiB on two cores with a million-row file
//! (`cargo xtask bench`). Two arenas and fixed thresholds give it back
//! (<https://man7.org/linux/man-pages/man3/mallopt.3.html>).

/// Bounds the arenas. To be called first in `main`, before there are threads.
pub fn bound_arenas() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for (option, value) in
        [(libc::M_ARENA_MAX, 2), (libc::M_MMAP_THRESHOLD, 512 * 1024), (libc::M_TRIM_THRESHOLD, 512 * 1024)]
    {
        // SAFETY: mallopt takes two integers, touches only the allocator's own settings, and there are no other
        // threads yet. A setting that it refuses stays as it was.
        #[allow(unsafe_code)]
        unsafe {
            libc::mallopt(option, value);
        }
    }
}
