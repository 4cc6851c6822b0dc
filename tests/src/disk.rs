//! A disk that can be full.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A small disk under a folder; it is unmounted with its owner. Where mounting is not allowed, the size of files that a
/// process may write is limited instead: both make writes fail and nothing else.
pub enum Disk {
    /// A tmpfs of its own.
    Mounted(PathBuf),
    /// The process that is limited once [`Disk::fill`] is called.
    Limited,
}

impl Disk {
    /// A disk of that many MiB at a folder, which is made.
    pub fn mount(folder: &Path, mib: u32) -> Self {
        std::fs::create_dir_all(folder).expect("a folder");
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mib}m,mode=0700"), "tmpfs"])
            .arg(folder)
            .output();
        if mount.is_ok_and(|mount| mount.status.success()) {
            println!("a tmpfs of {mib} MiB");
            return Self::Mounted(folder.to_owned());
        }
        println!("no mount: the process' file size is limited");
        Self::Limited
    }

    /// Nothing more can be written, by the process `pid` in any case.
    pub fn fill(&self, pid: u32) {
        match self {
            Self::Mounted(folder) => {
                let filled = std::fs::write(folder.join("filler"), vec![0; 64 * 1024 * 1024]);
                assert!(filled.is_err(), "the disk is smaller");
            }
            Self::Limited => limit(pid, "4096:unlimited"),
        }
    }

    /// There is room again.
    pub fn free(&self, pid: u32) {
        match self {
            Self::Mounted(folder) => std::fs::remove_file(folder.join("filler")).expect("it is there"),
            Self::Limited => limit(pid, "unlimited:unlimited"),
        }
    }
}

fn limit(pid: u32, size: &str) {
    let limited =
        Command::new("prlimit").args([&format!("--pid={pid}"), &format!("--fsize={size}")]).status();
    assert!(limited.is_ok_and(|status| status.success()), "prlimit");
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Self::Mounted(folder) = self {
            // Lazily: a process that a failed test left may still use it.
            let _ = Command::new("umount").arg("-l").arg(folder).status();
        }
    }
}
