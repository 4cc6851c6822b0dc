//! `cargo xtask demo | dev | run | test | bench | contract | verify-deploy | release`: the project's tasks, for people and for CI.

mod azurite;
mod bench;
mod browser;
mod check;
mod deploy;
mod image;
mod oidc;
mod packages;
mod release;
mod services;
mod supply;
mod upgrade;
mod within;

use std::path::Path;
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let task = args.next().unwrap_or_default();
    let rest: Vec<String> = args.collect();
    let done = match task.as_str() {
        "demo" => penstock(&[&["demo".to_owned()], rest.as_slice()].concat()),
        "dev" => penstock(&[&["dev".to_owned()], rest.as_slice()].concat()),
        "run" => penstock(rest.strip_prefix(&["--".to_owned()]).unwrap_or(&rest)),
        "test" => check::test(&rest),
        "bench" => bench::run(&rest),
        "with-servers" => with_servers(&rest),
        "contract" => check::record_contract(),
        "pictures" => check::take_pictures(),
        "verify-deploy" => deploy::verify(),
        "sbom" => supply::sbom(Path::new(rest.first().map_or("target/penstock.cdx.json", String::as_str))),
        "advisories" => supply::check(),
        "release" => release::Options::read(&rest).and_then(|options| release::make(&options)).map(drop),
        "verify-release" => release::verify(),
        "verify-upgrade" => upgrade::verify(rest.first().map(String::as_str)),
        "verify-image" => image::verify(rest.first().map(String::as_str)),
        _ => {
            eprintln!(
                "cargo xtask demo [ARGS]   builds and runs `penstock demo`, on SQLite and files\n\
                 cargo xtask dev [ARGS]    the same build, `penstock dev`: your own pipelines\n\
                 cargo xtask run -- COMMAND  the same build, any command of `penstock`\n\
                 cargo xtask test          formats, lints and all tests, with the servers that they need\n\
                 cargo xtask with-servers COMMAND  runs a command beside the servers that tests need, with what tests read to find them\n\
                 cargo xtask bench         measures, as ratios to the machine's own ceiling\n\
                 cargo xtask bench peers   BullMQ and Graphile Worker (npm) on the same work, alternately\n\
                 cargo xtask contract      records the public contract (API, commands, settings, metrics) in docs/contract.txt, and shows what changed\n\
                 cargo xtask pictures      takes the pictures of the console in docs/pictures anew\n\
                 cargo xtask verify-deploy checks chart, manifests, compose, Dockerfile and alert rules\n\
                 cargo xtask advisories    licences, sources and known vulnerabilities of what the programs are made of (cargo-deny)\n\
                 cargo xtask sbom [FILE]   writes what the programs are made of, as CycloneDX\n\
                 cargo xtask verify-image [IMAGE]  builds the image from a clean clone (a release build: not in CI), or takes one, and runs it\n\
                 cargo xtask verify-upgrade [COMMIT]  builds the programs of the last tag, or of that commit, and replaces them by today's under load (a build from nothing: not in CI)\n\
                 cargo xtask release [--key FILE] [--no-build]  programs, image, chart, SBOM, sums, signature, packages of the version in Cargo.toml\n\
                 cargo xtask verify-release  makes one of the programs that tests use, and installs from it"
            );
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Builds and runs `penstock` with SQLite, files and one process only: what a cluster needs would double a newcomer's build.
/// All that a newcomer runs is one build.
fn penstock(args: &[String]) -> Result<(), String> {
    let mut command = cargo();
    command.args(["run", "--package", "penstock-cli", "--bin", "penstock", "--no-default-features"]);
    command.args(["--profile", "demo", "--"]).args(args);
    become_it(command)
}

/// Ends as the command ends, and is interrupted as it is: Ctrl-C is its own, and it may take its time to stop.
#[cfg(unix)]
fn become_it(mut command: Command) -> Result<(), String> {
    use std::os::unix::process::CommandExt as _;
    let shown = format!("{command:?}");
    Err(format!("{shown}: {}", command.exec()))
}

#[cfg(not(unix))]
fn become_it(command: Command) -> Result<(), String> {
    run(command)
}

/// One test at a time, or a tool, against real servers: what `test` does with all of them.
fn with_servers(words: &[String]) -> Result<(), String> {
    let (program, args) = words.split_first().ok_or("say which command")?;
    let services = services::Services::start()?;
    let mut command = Command::new(program);
    command.args(args).envs(services.environment().iter().map(|(name, value)| (*name, value)));
    run(command)
}

/// The cargo that runs this.
fn cargo() -> Command {
    Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()))
}

/// Runs a command to its end; an error names it.
fn run(mut command: Command) -> Result<(), String> {
    run_with(&mut command)
}

fn run_with(command: &mut Command) -> Result<(), String> {
    let shown = format!("{command:?}");
    let status = command.status().map_err(|error| format!("{shown}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{shown} ended with {status}")) }
}
