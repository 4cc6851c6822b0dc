//! The programs of a release, for each target that this machine can build, and their archives.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::packages::on_path;
use crate::release::{folder, root};
use crate::{cargo, run, run_with};

/// What a release has.
pub(super) const PROGRAMS: [&str; 4] = ["penstock", "penstock-api", "penstock-worker", "penstock-dispatcher"];

/// Targets beside this machine's own: static ones, and other machines.
const OTHERS: [&str; 3] =
    ["x86_64-unknown-linux-musl", "aarch64-unknown-linux-gnu", "aarch64-unknown-linux-musl"];

/// Programs of a target.
pub(super) struct Built {
    /// The target's name.
    pub target: String,
    /// Where they are.
    pub folder: PathBuf,
    /// How hard they are compressed, as gzip counts: programs of tests are large, and nobody downloads them.
    pub level: u8,
}

/// Builds them, this machine's own first; what cannot be built here is reported. `no_build` takes those of the tests.
pub(super) fn build(no_build: bool) -> Result<Vec<Built>, String> {
    let own = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    if no_build {
        let folder = root().join("target/debug");
        if !folder.join("penstock").is_file() {
            return Err(
                "--no-build takes the programs in target/debug, and there are none: build them".into()
            );
        }
        return Ok(vec![Built { target: own, folder, level: 1 }]);
    }
    let installed = said(Command::new("rustc").args(["--print", "sysroot"]))?;
    let mut built = vec![compile(&own)?];
    for target in OTHERS.into_iter().filter(|target| *target != own) {
        let library = Path::new(installed.trim()).join("lib/rustlib").join(target);
        let compiler = compiler_for(target);
        if !library.is_dir() {
            eprintln!(
                "!! NOT BUILT: {target}: the toolchain has no such target (rustup target add {target})"
            );
        } else if !on_path(compiler) {
            eprintln!("!! NOT BUILT: {target}: {compiler}, which compiles SQLite and ring, is not installed");
        } else {
            built.push(compile(target)?);
        }
    }
    Ok(built)
}

fn compiler_for(target: &str) -> &'static str {
    match target {
        "x86_64-unknown-linux-musl" => "musl-gcc",
        "aarch64-unknown-linux-gnu" => "aarch64-linux-gnu-gcc",
        _ => "aarch64-linux-musl-gcc",
    }
}

fn compile(target: &str) -> Result<Built, String> {
    let mut command = cargo();
    command.args(["build", "--release", "--locked", "--target", target]);
    for package in ["cli", "api", "worker", "dispatcher"] {
        command.args(["--package", &format!("penstock-{package}")]);
    }
    // As the Dockerfile has it: the same commit gives the same bytes as far as Cargo allows.
    command.env("CARGO_PROFILE_RELEASE_STRIP", "symbols").env("CARGO_PROFILE_RELEASE_DEBUG", "false");
    command.env("CARGO_INCREMENTAL", "0");
    if target != format!("{}-unknown-linux-gnu", std::env::consts::ARCH) {
        let name = target.to_uppercase().replace('-', "_");
        command.env(format!("CARGO_TARGET_{name}_LINKER"), compiler_for(target));
    }
    run(command)?;
    let folder = root().join("target").join(target).join("release");
    Ok(Built { target: target.to_owned(), folder, level: 9 })
}

/// Copies the programs into a folder.
pub(super) fn copy(built: &Built, into: &Path) -> Result<(), String> {
    folder(into)?;
    for program in PROGRAMS {
        let from = built.folder.join(program);
        std::fs::copy(&from, into.join(program)).map_err(|error| format!("{}: {error}", from.display()))?;
    }
    Ok(())
}

/// The archive of a target: nothing in it is of the moment or of the machine.
pub(super) fn pack(built: &Built, version: &str, out: &Path) -> Result<(), String> {
    let name = format!("penstock-{version}-{}", built.target);
    let staged = out.join(&name);
    copy(built, &staged.join("bin"))?;
    for file in ["LICENSE", "README.md", "CHANGELOG.md"] {
        std::fs::copy(root().join(file), staged.join(file)).map_err(|error| format!("{file}: {error}"))?;
    }
    let mut tar = Command::new("tar");
    tar.args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--mode=go=rX,u+rw,a-s"]);
    tar.arg(format!("--mtime=@{}", epoch()?)).arg("--use-compress-program");
    tar.arg(format!("gzip -{}n", built.level));
    tar.arg("-cf").arg(out.join(format!("{name}.tar.gz"))).arg("-C").arg(out).arg(&name);
    run_with(&mut tar)?;
    std::fs::remove_dir_all(&staged).map_err(|error| format!("{}: {error}", staged.display()))
}

/// The time of the commit.
pub(super) fn epoch() -> Result<String, String> {
    said(Command::new("git").args(["log", "-1", "--format=%ct"]).current_dir(root()))
}

/// A command's output.
pub(super) fn said(command: &mut Command) -> Result<String, String> {
    let shown = format!("{command:?}");
    let output = command.output().map_err(|error| format!("{shown}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{shown}: {}", String::from_utf8_lossy(&output.stderr)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
