//! `cargo xtask bench`: figures beside a ceiling that is measured in the same run.

use crate::cargo;

/// Builds for speed and measures.
pub fn run(args: &[String]) -> Result<(), String> {
    let mut build = cargo();
    build.args([
        "build",
        "--release",
        "--quiet",
        "--package",
        "penstock-cli",
        "--package",
        "penstock-benches",
    ]);
    crate::run(build)?;
    let mut command = cargo();
    command.args(["run", "--release", "--quiet", "--package", "penstock-benches", "--"]).args(args);
    crate::run(command)
}
