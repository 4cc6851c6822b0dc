//! `cargo xtask release`: all that a release consists of, in one folder, up to where a registry would be needed.

mod debian;
mod programs;
mod verify;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::{deploy, image, run_with, supply};

pub use verify::verify;

/// Whoever signs, signs for this.
const NAMESPACE: &str = "penstock-release";

/// Where releases are published.
const SOURCE: &str = "https://github.com/penstock/penstock";

/// What to make.
#[derive(Default)]
pub struct Options {
    /// Takes the programs that were built for tests, and makes no image.
    no_build: bool,
    /// A private key of ssh-keygen's, which signs SHA256SUMS.
    key: Option<PathBuf>,
    /// Where it goes: target/release-VERSION.
    out: Option<PathBuf>,
}

impl Options {
    /// Reads the command line.
    ///
    /// # Errors
    /// When there is a word that it does not know.
    pub fn read(args: &[String]) -> Result<Self, String> {
        let mut options = Self::default();
        let mut args = args.iter();
        while let Some(word) = args.next() {
            let mut value = || args.next().map(PathBuf::from).ok_or(format!("{word} needs a path"));
            match word.as_str() {
                "--no-build" => options.no_build = true,
                "--key" => options.key = Some(value()?),
                "--out" => options.out = Some(value()?),
                _ => return Err(format!("unknown argument `{word}`: --no-build, --key FILE, --out FOLDER")),
            }
        }
        Ok(options)
    }
}

pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

pub(crate) fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

pub(crate) fn write(path: &Path, text: &str) -> Result<(), String> {
    std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

pub(crate) fn folder(path: &Path) -> Result<(), String> {
    std::fs::create_dir_all(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// Makes the release of the version in Cargo.toml; where it is.
///
/// # Errors
/// When the versions differ, a tool is missing, or something does not build.
pub fn make(options: &Options) -> Result<PathBuf, String> {
    let version = version()?;
    let out = options.out.clone().unwrap_or_else(|| root().join("target").join(format!("release-{version}")));
    if out.exists() {
        std::fs::remove_dir_all(&out).map_err(|error| format!("{}: {error}", out.display()))?;
    }
    folder(&out)?;
    write(&out.join("CHANGES.md"), &changes(&version)?)?;
    let built = programs::build(options.no_build)?;
    for target in &built {
        programs::pack(target, &version, &out)?;
    }
    debian::package(&built[0], &version, &out)?;
    chart(&out)?;
    supply::sbom(&out.join(format!("penstock-{version}.cdx.json")))?;
    if options.no_build {
        eprintln!("no image: --no-build");
    } else {
        image::build_into(&out.join(format!("penstock-{version}.oci.tar")), &version)?;
    }
    let script = read(&root().join("xtask/release/install.sh"))?;
    write(&out.join("install.sh"), &script.replace("@VERSION@", &version).replace("@SOURCE@", SOURCE))?;
    sums(&out)?;
    match &options.key {
        Some(key) => sign(&out, key)?,
        None => eprintln!("not signed: give --key FILE, a private key of ssh-keygen's"),
    }
    eprintln!("the release is in {}", out.display());
    Ok(out)
}

/// The version, which Cargo.toml, the chart and the changelog have alike.
fn version() -> Result<String, String> {
    let cargo = read(&root().join("Cargo.toml"))?;
    let version = field(&cargo, "version = \"").ok_or("Cargo.toml has no version")?;
    let version = version.trim_end_matches('"').to_owned();
    let chart = read(&root().join("charts/penstock/Chart.yaml"))?;
    let app = field(&chart, "appVersion: ").unwrap_or_default().trim_matches('"');
    if app != version {
        return Err(format!(
            "Cargo.toml has version {version}, and Chart.yaml has appVersion {app}: make them the same"
        ));
    }
    Ok(version)
}

fn field<'a>(text: &'a str, start: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(start)).map(str::trim)
}

/// The changelog's section of the version.
fn changes(version: &str) -> Result<String, String> {
    let changelog = read(&root().join("CHANGELOG.md"))?;
    let mut sections = changelog.split("\n## ").skip(1);
    let section = sections.find(|section| section.split([' ', '\n']).next() == Some(version));
    section.map(|section| format!("## {section}\n")).ok_or(format!("CHANGELOG.md has no section {version}"))
}

/// The chart as a package. Its image's tag is its appVersion.
fn chart(out: &Path) -> Result<(), String> {
    let mut package = Command::new(deploy::helm_path()?);
    package.arg("package").arg(root().join("charts/penstock")).arg("--destination").arg(out);
    run_with(package.stdout(Stdio::null()))
}

/// SHA256SUMS of all files, as `sha256sum --check` reads it.
fn sums(out: &Path) -> Result<(), String> {
    let output = Command::new("sh").args(["-c", "LC_ALL=C sha256sum -- *"]).current_dir(out).output();
    let output = output.map_err(|error| format!("sha256sum: {error}"))?;
    if !output.status.success() {
        return Err(format!("sha256sum: {}", String::from_utf8_lossy(&output.stderr)));
    }
    write(&out.join("SHA256SUMS"), &String::from_utf8_lossy(&output.stdout))
}

/// SHA256SUMS.sig. The key may be in an agent or on a token: ssh-keygen asks it.
fn sign(out: &Path, key: &Path) -> Result<(), String> {
    let mut sign = Command::new("ssh-keygen");
    sign.args(["-q", "-Y", "sign", "-n", NAMESPACE, "-f"]).arg(key).arg(out.join("SHA256SUMS"));
    run_with(sign.stderr(Stdio::null()))
}
