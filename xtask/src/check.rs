//! `cargo xtask test`: what has to hold before anything lands.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::services::Services;
use crate::within::run_within;
use crate::{cargo, run};
use crate::{deploy, release, supply};

/// The longest that building and running the tests of one step may take: several times what two slow cores need.
const LIMIT: Duration = Duration::from_secs(30 * 60);

/// Whole runs mostly wait: for leases, pauses and rates.
const WHOLE_RUNS_AT_ONCE: &str = "4";

/// Formats, lints, then every test, with real servers. Fails, and never skips, when one of them is missing.
pub fn test(args: &[String]) -> Result<(), String> {
    let began = Instant::now();
    step("format", || {
        let mut command = cargo();
        command.args(["fmt", "--all", "--check"]);
        run(command)
    })?;
    step("lints", || {
        let mut command = cargo();
        command.args(["clippy", "--workspace", "--all-targets", "--quiet", "--", "--deny", "warnings"]);
        run(command)?;
        // `--all-targets` leaves out targets with `test = false`.
        let mut command = cargo();
        command.args(["clippy", "--workspace", "--test", "cluster", "--test", "chaos", "--test", "upgrade"]);
        command.args(["--quiet", "--", "--deny", "warnings"]);
        run(command)
    })?;
    step("what installs it", deploy::verify)?;
    step("what it is made of", || {
        supply::check()?;
        supply::sbom(&std::env::temp_dir().join(format!("penstock-{}.cdx.json", std::process::id())))
    })?;
    let services = Services::start()?;
    step("programs and tests", build_programs)?;
    step("a release of them", release::verify)?;
    step("tests", || {
        let mut command = cargo();
        command.args(["test", "--workspace", "--exclude", "penstock-tests"]).args(args);
        command.envs(services.environment());
        run_within(LIMIT, command)
    })?;
    step("whole runs on SQLite and files", || {
        let mut command = cargo();
        command.args(["test", "--workspace", "--test", "whole_runs", "--test", "docs"]).args(args);
        command.envs(services.environment()).env("RUST_TEST_THREADS", WHOLE_RUNS_AT_ONCE);
        run_within(LIMIT, command)
    })?;
    on_a_cluster(&services)?;
    drop(services);
    eprintln!("all tests passed after {} s", began.elapsed().as_secs());
    Ok(())
}

/// Builds what whole runs start, and all tests with it. Each step selects the whole workspace, whatever it runs of it: Cargo chooses the
/// features of dependencies by what is selected, and would build most of them once more for each selection.
pub(crate) fn build_programs() -> Result<(), String> {
    let build = |targets: &[&str]| {
        let mut command = cargo();
        command.args(["build", "--quiet", "--workspace"]).args(targets);
        run(command)
    };
    build(&["--all-targets"])?;
    // `--all-targets` leaves out targets with `test = false`, also when they are named beside it.
    build(&["--test", "cluster", "--test", "chaos"])
}

/// Writes docs/contract.txt anew, and shows what changed: a line of it is a line of the changelog.
pub fn record_contract() -> Result<(), String> {
    build_programs()?;
    let mut command = cargo();
    command.args(["test", "--quiet", "--package", "penstock-tests", "--test", "docs", "the_public_contract"]);
    command.env("PENSTOCK_TEST_RECORD_CONTRACT", "1");
    run(command)?;
    let mut command = Command::new("git");
    command.args(["--no-pager", "diff", "--unified=0", "--", "docs/contract.txt"]);
    run(command)
}

/// Takes the pictures of the console in the documentation anew.
pub fn take_pictures() -> Result<(), String> {
    build_programs()?;
    crate::browser::install()?;
    let mut command = cargo();
    command.args(["test", "--quiet", "--package", "penstock-tests", "--test", "whole_runs"]);
    command.arg("the_documentation_has_pictures").env("PENSTOCK_TEST_AXE", crate::browser::axe_path()?);
    run(command)?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for name in ["console-batch", "console-batches", "console-row"] {
        let taken = root.join(format!("target/console/docs/{name}.png"));
        std::fs::copy(&taken, root.join(format!("docs/pictures/{name}.png")))
            .map_err(|error| format!("{}: {error}", taken.display()))?;
    }
    Ok(())
}

/// The whole runs, and the chaos run, on PostgreSQL, Redis and S3.
fn on_a_cluster(services: &Services) -> Result<(), String> {
    let tests = |args: &[&str]| {
        let mut command = cargo();
        command.args(["test", "--workspace"]).args(args);
        command.env("PENSTOCK_TEST_ENGINES", "cluster");
        command.envs(services.environment()).env("RUST_TEST_THREADS", WHOLE_RUNS_AT_ONCE);
        run_within(LIMIT, command)
    };
    step("whole runs on PostgreSQL, Redis and S3", || tests(&["--test", "whole_runs", "--test", "cluster"]))?;
    step("chaos", || tests(&["--test", "chaos", "--", "--nocapture"]))
}

fn step(name: &str, work: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    let began = Instant::now();
    eprintln!("== {name}");
    work()?;
    eprintln!("== {name}: {} s", began.elapsed().as_secs());
    Ok(())
}
