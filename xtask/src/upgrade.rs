//! `cargo xtask verify-upgrade`: the programs of the release before, replaced by today's while they work, and back again.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::services::Services;
use crate::{cargo, check, run};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Builds the programs of a commit, and runs `tests/upgrade` with them.
///
/// # Errors
/// When there is no tag and no commit is given; when something does not build; when the test fails.
pub fn verify(commit: Option<&str>) -> Result<(), String> {
    let commit = match commit {
        Some(commit) => commit.to_owned(),
        None => git(&["describe", "--tags", "--abbrev=0", "HEAD^"])
            .map_err(|_| "there is no tag before this commit: say which commit".to_owned())?,
    };
    let programs = build(&git(&["rev-parse", "--verify", &format!("{commit}^{{commit}}")])?)?;
    check::build_programs()?;
    let services = Services::start()?;
    let mut test = cargo();
    test.args(["test", "--package", "penstock-tests", "--test", "upgrade", "--", "--nocapture"]);
    test.envs(services.environment()).env("PENSTOCK_TEST_ENGINES", "cluster");
    run(within(test, &programs))
}

fn within(mut test: Command, programs: &Path) -> Command {
    test.env("PENSTOCK_TEST_EARLIER_PROGRAMS", programs).current_dir(root());
    test
}

/// Where the programs of a commit are. They are kept, and built in one folder for all commits: dependencies are mostly the same.
fn build(commit: &str) -> Result<PathBuf, String> {
    let folder = root().join("target/upgrade");
    let (sources, target) = (folder.join(commit), folder.join("target"));
    let programs = folder.join(format!("{commit}-programs"));
    if programs.is_dir() {
        return Ok(programs);
    }
    if !sources.is_dir() {
        let text = sources.display().to_string();
        git(&["worktree", "prune"])?;
        git(&["worktree", "add", "--detach", &text, commit])?;
    }
    let mut command = cargo();
    command.args(["build", "--quiet", "--locked"]).current_dir(&sources).env("CARGO_TARGET_DIR", &target);
    for package in ["cli", "api", "worker", "dispatcher"] {
        command.args(["--package", &format!("penstock-{package}")]);
    }
    run(command)?;
    let name = |error: std::io::Error| format!("{}: {error}", programs.display());
    std::fs::create_dir_all(&programs).map_err(name)?;
    for program in ["penstock", "penstock-api", "penstock-worker", "penstock-dispatcher"] {
        std::fs::copy(target.join("debug").join(program), programs.join(program)).map_err(name)?;
    }
    git(&["worktree", "remove", "--force", &sources.display().to_string()])?;
    Ok(programs)
}

fn git(args: &[&str]) -> Result<String, String> {
    let output = Command::new("git").args(args).current_dir(root()).output();
    let output = output.map_err(|error| format!("git: {error}"))?;
    if !output.status.success() {
        return Err(format!("git {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
