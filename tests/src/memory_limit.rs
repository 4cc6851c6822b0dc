//! A bound on a process's memory that the kernel keeps: a control group of its own, where this machine lets us make one.

use std::path::{Path, PathBuf};

/// A group of one process, removed when this is dropped (the process has to be gone by then).
#[derive(Debug)]
pub struct MemoryLimit {
    folder: PathBuf,
    most: &'static str,
    events: &'static str,
}

impl MemoryLimit {
    /// Puts a process into a group with so many bytes; why that cannot be done, otherwise.
    ///
    /// # Errors
    /// When there is no controller of memory, or this user may make no group.
    pub fn of(pid: u32, bytes: u64) -> Result<Self, String> {
        let v2 = Path::new("/sys/fs/cgroup");
        let controllers = std::fs::read_to_string(v2.join("cgroup.subtree_control")).unwrap_or_default();
        let (root, limit, most, events) = if controllers.split_whitespace().any(|one| one == "memory") {
            (v2.to_owned(), "memory.max", "memory.peak", "memory.events")
        } else {
            (v2.join("memory"), "memory.limit_in_bytes", "memory.max_usage_in_bytes", "memory.oom_control")
        };
        let folder = root.join(format!("penstock-test-{pid}"));
        let failed = |what: &str, error: std::io::Error| format!("{what} {}: {error}", folder.display());
        std::fs::create_dir(&folder).map_err(|error| failed("making", error))?;
        let group = Self { folder: folder.clone(), most, events };
        std::fs::write(folder.join(limit), bytes.to_string()).map_err(|error| failed("limiting", error))?;
        std::fs::write(folder.join("cgroup.procs"), pid.to_string())
            .map_err(|error| failed("joining", error))?;
        Ok(group)
    }

    /// The most that the group took, in MiB: what it allocated since it joined, and its share of the page cache.
    pub fn most(&self) -> Option<u64> {
        let text = std::fs::read_to_string(self.folder.join(self.most)).ok()?;
        Some(text.trim().parse::<u64>().ok()? / 1024 / 1024)
    }

    /// How often the kernel killed something in it.
    pub fn kills(&self) -> u64 {
        let text = std::fs::read_to_string(self.folder.join(self.events)).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        line.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
    }
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.folder);
    }
}
