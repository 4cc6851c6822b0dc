//! Azure's object store for tests: Azurite of the npm registry, which Node runs.

use std::path::{Path, PathBuf};

use crate::browser::fetch_package;
use crate::deploy::folder;
use crate::packages::{install_missing, on_path};

/// Its packages, a line each: the folder below `node_modules`, the address, and SHA-512 as the registry states it.
const PACKAGES: &str = include_str!("azurite.txt");

/// What it loads and does not use here, 330 MB with all that belongs to it: reports about its use, and SQL in place of memory.
const UNUSED: [(&str, &str); 2] = [
    ("applicationinsights", "module.exports = {};\n"),
    ("sequelize", "module.exports = { Model: class {}, Sequelize: class {}, Op: {} };\n"),
];

/// Where the program lies once everything was fetched.
///
/// # Errors
/// When Node cannot be installed, or a package cannot be fetched or is not what it was.
pub fn script_path() -> Result<PathBuf, String> {
    if !on_path("node") {
        install_missing(&["nodejs"])?;
    }
    let modules = folder()?.join("azurite-3.37.0/node_modules");
    for line in PACKAGES.lines() {
        let [place, url, sum] = line.split(' ').collect::<Vec<_>>()[..] else {
            return Err(format!("azurite.txt: {line}"));
        };
        fetch(&modules.join(place), url, sum)?;
    }
    for (name, text) in UNUSED {
        make(&modules.join(name))?;
        let script = modules.join(name).join("index.js");
        std::fs::write(&script, text).map_err(|error| format!("{}: {error}", script.display()))?;
    }
    Ok(modules.join("azurite/dist/src/blob/main.js"))
}

/// Fetches a package into its folder, unless it is there.
fn fetch(home: &Path, url: &str, sum: &str) -> Result<(), String> {
    let complete = home.join("package.complete");
    if complete.is_file() {
        return Ok(());
    }
    make(home)?;
    // Not all archives call their folder `package`.
    fetch_package(url, sum, home, "--strip-components=1")?;
    std::fs::write(&complete, "").map_err(|error| format!("{}: {error}", complete.display()))
}

fn make(folder: &Path) -> Result<(), String> {
    std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))
}
