//! The browser that the console's tests drive, and what checks pages for who cannot see them: Debian's Chromium, and axe-core of
//! the npm registry.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::deploy::folder;
use crate::packages::{install_missing, on_path};
use crate::run_with;

const AXE: &str = "https://registry.npmjs.org/axe-core/-/axe-core-4.14.1.tgz";
/// SHA-512 of it, as the registry states it.
const AXE_SUM: &str = "1477dafa598d8d065f273d6af302aa203c02e83131707b7fa648cd41bd3d6b734f8c22a0dab86ee6a6f64b8afbe804b214d36db85a2826965edfb3a0b9d546b5";

/// Installs Chromium and its driver where they are missing.
///
/// # Errors
/// When they cannot be installed.
pub fn install() -> Result<(), String> {
    let programs = [("chromium", "chromium"), ("chromedriver", "chromium-driver"), ("curl", "curl")];
    let missing: Vec<&str> =
        programs.into_iter().filter(|(program, _)| !on_path(program)).map(|(_, package)| package).collect();
    install_missing(&missing)
}

/// Where axe-core lies once it was fetched.
///
/// # Errors
/// When it cannot be fetched, or is not what it was.
pub fn axe_path() -> Result<PathBuf, String> {
    let folder = folder()?.join("axe-4.14.1");
    let script = folder.join("package/axe.min.js");
    if !script.is_file() {
        std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        fetch(&folder)?;
    }
    Ok(script)
}

fn fetch(folder: &Path) -> Result<(), String> {
    fetch_package(AXE, AXE_SUM, folder, "package/axe.min.js")
}

/// Fetches a package of the npm registry, checks it, and unpacks a part of it.
///
/// # Errors
/// When it cannot be fetched, or is not what it was.
pub fn fetch_package(url: &str, sha512: &str, folder: &Path, part: &str) -> Result<(), String> {
    let archive = folder.join("package.tgz");
    let mut fetch = Command::new("curl");
    fetch.args(["--silent", "--show-error", "--fail", "--location", "--retry", "3", "--output"]);
    run_with(fetch.arg(&archive).arg(url))?;
    let sums = folder.join("package.sha512");
    std::fs::write(&sums, format!("{sha512}  {}\n", archive.display()))
        .map_err(|error| format!("{}: {error}", sums.display()))?;
    run_with(Command::new("sha512sum").args(["--check", "--quiet"]).arg(&sums))?;
    run_with(
        Command::new("tar")
            .arg("--warning=no-unknown-keyword")
            .arg("-xzf")
            .arg(&archive)
            .arg("-C")
            .arg(folder)
            .arg(part),
    )
}
