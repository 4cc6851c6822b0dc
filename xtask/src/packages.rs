//! Debian's packages, installed where a tool is missing.

use std::process::{Command, Stdio};

use crate::run;

/// Installs Debian's packages, if there are any.
pub fn install_missing(missing: &[&str]) -> Result<(), String> {
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("installing {} …", missing.join(", "));
    update_packages()?;
    let mut install = privileged("apt-get");
    // No package starts a server of its own: tests use private ones.
    install.env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1");
    install.args(["install", "-y", "-qq", "--no-install-recommends"]).args(missing).stdout(Stdio::null());
    run(install)
}

/// Brings the list of Debian's packages up to date.
pub fn update_packages() -> Result<(), String> {
    let mut update = privileged("apt-get");
    update.args(["update", "-qq"]);
    run(update)
}

fn privileged(program: &str) -> Command {
    if is_root() {
        Command::new(program)
    } else {
        let mut command = Command::new("sudo");
        command.arg(program);
        command
    }
}

/// Whether this runs as root.
pub fn is_root() -> bool {
    std::env::var("USER").is_ok_and(|user| user == "root")
        || Command::new("id").arg("-u").output().is_ok_and(|out| out.stdout.trim_ascii() == b"0")
}

/// Whether a program is found.
pub fn on_path(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(program).is_file()))
}
