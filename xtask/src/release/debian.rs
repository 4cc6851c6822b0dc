//! The Debian package, by Debian's own dpkg-deb: programs, licence and changelog. It starts nothing.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::release::programs::{Built, copy, epoch};
use crate::release::{SOURCE, folder, root, write};
use crate::run_with;

/// Packs the programs of a target.
pub(super) fn package(built: &Built, version: &str, out: &Path) -> Result<(), String> {
    let architecture = if built.target.starts_with("aarch64") { "arm64" } else { "amd64" };
    let staged = out.join("debian");
    copy(built, &staged.join("usr/bin"))?;
    let documents = staged.join("usr/share/doc/penstock");
    folder(&documents)?;
    for (file, name) in [("LICENSE", "copyright"), ("CHANGELOG.md", "changelog"), ("README.md", "README.md")]
    {
        std::fs::copy(root().join(file), documents.join(name)).map_err(|error| format!("{file}: {error}"))?;
    }
    folder(&staged.join("DEBIAN"))?;
    // The oldest C library that a build on Debian 12 runs on is Debian 12's own.
    let control = format!(
        "Package: penstock\nVersion: {version}\nArchitecture: {architecture}\nSection: net\nPriority: optional\n\
         Maintainer: Penstock <{SOURCE}/issues>\nHomepage: {SOURCE}\nDepends: libc6 (>= 2.36), libgcc-s1, ca-certificates\n\
         Description: CSV uploads, row by row through rate-limited HTTP APIs\n The three services (penstock-api, penstock-worker, penstock-dispatcher), and penstock for operators.\n"
    );
    write(&staged.join("DEBIAN/control"), &control)?;
    run_with(Command::new("chmod").arg("-R").arg("u=rwX,go=rX").arg(&staged))?;
    let mut deb = Command::new("dpkg-deb");
    let compression = if built.level == 9 { "-Zxz".to_owned() } else { format!("-Zgzip -z{}", built.level) };
    deb.arg("--root-owner-group").args(compression.split(' ')).arg("--build").arg(&staged);
    deb.arg(out.join(format!("penstock_{version}_{architecture}.deb"))).env("SOURCE_DATE_EPOCH", epoch()?);
    run_with(deb.stdout(Stdio::null()))?;
    std::fs::remove_dir_all(&staged).map_err(|error| format!("{}: {error}", staged.display()))
}
