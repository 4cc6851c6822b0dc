//! `cargo xtask verify-release`: a release of the programs that tests use, signed by a key of its own, installed from what it consists of.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::deploy;
use crate::release::programs::{PROGRAMS, said};
use crate::release::{Options, folder, make, read, version, write};
use crate::run_with;

/// Makes one, installs it in every way that it offers, and sees that what was changed is refused.
///
/// # Errors
/// When something is not as released.
pub fn verify() -> Result<(), String> {
    let work = std::env::temp_dir().join(format!("penstock-release-{}", std::process::id()));
    folder(&work)?;
    let done = check(&work);
    if let Err(error) = std::fs::remove_dir_all(&work) {
        eprintln!("{} was not removed: {error}", work.display());
    }
    done
}

fn check(work: &Path) -> Result<(), String> {
    let key = work.join("key");
    run_with(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key))?;
    let out = make(&Options { no_build: true, key: Some(key.clone()), out: Some(work.join("out")) })?;
    let version = version()?;
    let signers = work.join("signers");
    write(&signers, &format!("release {}", read(&key.with_extension("pub"))?))?;
    installs(&out, &signers, &version, work)?;
    is_refused_when_changed(&out, &signers, work)?;
    debian(&out, &version, work)?;
    chart(&out, &version)?;
    bill(&out, &version)
}

fn install(out: &Path, signers: &Path, prefix: &Path) -> Result<Output, String> {
    let mut sh = Command::new("sh");
    sh.arg(out.join("install.sh")).env("PREFIX", prefix).env("PENSTOCK_SIGNERS", signers);
    sh.env("PENSTOCK_DOWNLOAD_URL", format!("file://{}", out.display()));
    sh.output().map_err(|error| format!("install.sh: {error}"))
}

fn installs(out: &Path, signers: &Path, version: &str, work: &Path) -> Result<(), String> {
    let prefix = work.join("installed");
    let output = install(out, signers, &prefix)?;
    if !output.status.success() {
        return Err(format!("install.sh: {}", String::from_utf8_lossy(&output.stderr)));
    }
    are_there(&prefix.join("bin"), version)
}

fn are_there(folder: &Path, version: &str) -> Result<(), String> {
    for program in PROGRAMS {
        let reported = said(Command::new(folder.join(program)).arg("--version"))?;
        if reported != format!("{program} {version}") {
            return Err(format!("{program} reports {reported}, and the release is {version}"));
        }
    }
    Ok(())
}

/// An archive that was changed, and a list of sums that fits it but is not signed: neither is installed.
fn is_refused_when_changed(out: &Path, signers: &Path, work: &Path) -> Result<(), String> {
    let changed = work.join("changed");
    run_with(Command::new("cp").arg("-r").arg(out).arg(&changed))?;
    let archive = file_of(&changed, ".tar.gz")?;
    run_with(Command::new("sh").args(["-c", "printf x >> \"$0\""]).arg(&archive))?;
    let prefix = work.join("refused");
    let refusal = |reason: &str| {
        let output = install(&changed, signers, &prefix)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() || !said.contains(reason) || prefix.exists() {
            return Err(format!("a changed release is installed: {said}"));
        }
        Ok(())
    };
    refusal("is not the file that was released")?;
    run_with(Command::new("sh").args(["-c", "sha256sum penstock* > SHA256SUMS"]).current_dir(&changed))?;
    refusal("was not signed by any of")
}

/// The file with that ending that is no package of the chart.
fn file_of(out: &Path, ending: &str) -> Result<PathBuf, String> {
    let files = std::fs::read_dir(out).map_err(|error| error.to_string())?.flatten();
    let found = files.map(|entry| entry.path()).find(|path| path.to_string_lossy().ends_with(ending));
    found.ok_or(format!("the release has no {ending}"))
}

fn debian(out: &Path, version: &str, work: &Path) -> Result<(), String> {
    let package = file_of(out, ".deb")?;
    let of = said(Command::new("dpkg-deb").args(["--show", "--showformat", "${Version}"]).arg(&package))?;
    if of != version {
        return Err(format!("the Debian package has version {of}"));
    }
    let unpacked = work.join("unpacked");
    run_with(Command::new("dpkg").arg("--extract").arg(&package).arg(&unpacked))?;
    are_there(&unpacked.join("usr/bin"), version)
}

/// The chart as it was packed starts the image of this version.
fn chart(out: &Path, version: &str) -> Result<(), String> {
    let package = file_of(out, ".tgz")?;
    let mut helm = Command::new(deploy::helm_path()?);
    helm.args(["template", "penstock"]).arg(&package).args(["--set", "existingSecret=penstock"]);
    let rendered = said(&mut helm)?;
    let images: Vec<&str> = rendered
        .lines()
        .filter(|line| line.contains("image:") && line.contains("penstock/penstock"))
        .collect();
    let tag = format!(":{version}");
    if images.is_empty() || !images.iter().all(|line| line.trim_end_matches('"').ends_with(&tag)) {
        return Err(format!("the chart starts other images than {tag}: {images:?}"));
    }
    Ok(())
}

fn bill(out: &Path, version: &str) -> Result<(), String> {
    let bill = read(&file_of(out, ".cdx.json")?)?;
    let sums = read(&out.join("SHA256SUMS"))?;
    let missing = std::fs::read_dir(out)
        .map_err(|error| error.to_string())?
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .find(|name| !name.starts_with("SHA256SUMS") && !sums.contains(&format!("  {name}\n")));
    if let Some(missing) = missing {
        return Err(format!("SHA256SUMS does not have {missing}"));
    }
    if !bill.contains("CycloneDX") || !read(&out.join("CHANGES.md"))?.starts_with(&format!("## {version}")) {
        return Err("the bill of materials or the changes are not the release's".into());
    }
    Ok(())
}
