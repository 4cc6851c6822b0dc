//! `cargo xtask verify-image`: the image, built from a clean clone by buildah on base images made here from Debian's
//! packages (no registry of images is needed), and its programs run as it would run them: not as root, on a root file
//! system that cannot be written, stopped within their grace.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::packages::{install_missing, on_path};
use crate::run_with;
use crate::services::Services;

/// A service has so long to stop after SIGTERM; compose and the manifests give it 45 seconds and more.
const GRACE: Duration = Duration::from_secs(30);

const BUILD_BASE: &str = "localhost/penstock-build-base";
const RUN_BASE: &str = "localhost/penstock-run-base";
const IMAGE: &str = "localhost/penstock:verify";

/// Builds, runs, and stops. With the name of an image that was built before, runs and stops that one.
///
/// # Errors
/// When the image does not build, or a program in it does not do as it should.
pub fn verify(built: Option<&str>) -> Result<(), String> {
    in_a_folder(|work| {
        let made = if built.is_some() { Ok(()) } else { build(work, &[]) };
        let image = built.unwrap_or(IMAGE);
        let bill = || crate::supply::sbom(&work.join("penstock.cdx.json"));
        made.and_then(|()| inspect(image)).and_then(|()| serve(image, work)).and_then(|()| bill())
    })
}

/// Builds the image of a release, as an archive of an OCI layout: `skopeo copy oci-archive:FILE docker://REGISTRY/NAME:TAG`
/// publishes it.
///
/// # Errors
/// When it does not build.
pub fn build_into(archive: &Path, version: &str) -> Result<(), String> {
    in_a_folder(|work| {
        let revision = said(Command::new("git").args(["rev-parse", "HEAD"]))?;
        build(work, &[format!("VERSION={version}"), format!("REVISION={revision}")])?;
        let to = format!("oci-archive:{}:{version}", archive.display());
        run_with(Command::new("buildah").args(["push", "--quiet", IMAGE, &to]))
    })
}

/// With the tools that are needed, and a folder that goes again.
fn in_a_folder(work: impl FnOnce(&Path) -> Result<(), String>) -> Result<(), String> {
    let tools: Vec<&str> =
        ["buildah", "podman", "mmdebstrap", "runc"].into_iter().filter(|name| !on_path(name)).collect();
    install_missing(&tools)?;
    let folder = std::env::temp_dir().join(format!("penstock-image-{}", std::process::id()));
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let done = work(&folder);
    if let Err(error) = std::fs::remove_dir_all(&folder) {
        eprintln!("{} was not removed: {error}", folder.display());
    }
    done
}

fn build(work: &Path, arguments: &[String]) -> Result<(), String> {
    base_images(work)?;
    let clone = work.join("clone");
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    run_with(Command::new("git").args(["clone", "--quiet"]).arg(&root).arg(&clone))?;
    eprintln!("building the image (from nothing: about as long as a release build) …");
    run_with(
        Command::new("buildah")
            .args([
                "build",
                "--isolation",
                "chroot",
                "--network",
                "host",
                "--target",
                "penstock",
                "--tag",
                IMAGE,
            ])
            .args(["--build-arg", &format!("BUILD_IMAGE={BUILD_BASE}")])
            .args(["--build-arg", &format!("RUN_IMAGE={RUN_BASE}")])
            .args(arguments.iter().flat_map(|argument| ["--build-arg", argument]))
            .arg(&clone),
    )
}

/// Stand-ins for the images that the Dockerfile names: Debian with gcc and this machine's Rust; Debian's C library alone.
fn base_images(work: &Path) -> Result<(), String> {
    for (name, variant, packages) in [
        (BUILD_BASE, "minbase", "gcc,libc6-dev,ca-certificates"),
        (RUN_BASE, "extract", "libc6,libgcc-s1,ca-certificates,base-files"),
    ] {
        let archive = work.join(format!("{variant}.tar"));
        run_with(
            Command::new("mmdebstrap")
                .args([
                    "--quiet",
                    &format!("--variant={variant}"),
                    &format!("--include={packages}"),
                    "bookworm",
                ])
                .arg(&archive),
        )?;
        let container = said(Command::new("buildah").args(["from", "scratch"]))?;
        run_with(Command::new("buildah").args(["add", "--quiet", &container]).arg(&archive).arg("/"))?;
        // Whom this machine trusts, they trust; the package's own script, which would write this file, does not run here.
        let trusted = "/etc/ssl/certs/ca-certificates.crt";
        run_with(Command::new("buildah").args(["add", "--quiet", &container, trusted, trusted]))?;
        if name == BUILD_BASE {
            let toolchain = said(Command::new("rustc").args(["--print", "sysroot"]))?;
            run_with(Command::new("buildah").args([
                "add",
                "--quiet",
                &container,
                &toolchain,
                "/usr/local/rust",
            ]))?;
            run_with(Command::new("buildah").args(["config", "--env", "CARGO_HOME=/usr/local/cargo"]).args(
                [
                    "--env",
                    "PATH=/usr/local/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                    &container,
                ],
            ))?;
        }
        run_with(
            Command::new("buildah")
                .args(["commit", "--quiet", "--rm", &container, name])
                .stdout(Stdio::null()),
        )?;
    }
    Ok(())
}

/// What the image says of itself.
fn inspect(image: &str) -> Result<(), String> {
    let config =
        said(Command::new("podman").args(["image", "inspect", "--format", "{{json .Config}}", image]))?;
    for wanted in ["\"User\":\"65532:65532\"", "org.opencontainers.image.licenses"] {
        if !config.contains(wanted) {
            return Err(format!("the image does not say {wanted}: {config}"));
        }
    }
    let bytes = said(Command::new("podman").args(["image", "inspect", "--format", "{{.Size}}", image]))?;
    eprintln!("the image has {} MB", bytes.parse::<u64>().unwrap_or(0) / 1_000_000);
    Ok(())
}

/// Every program of the image, on real servers.
fn serve(image: &str, work: &Path) -> Result<(), String> {
    let services = Services::start()?;
    let given = services.environment();
    let of = |name: &str| given.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone());
    let files = work.join("files");
    let pipelines = work.join("pipelines");
    let cannot = |error: std::io::Error| error.to_string();
    std::fs::create_dir_all(&files).map_err(cannot)?;
    std::fs::create_dir_all(&pipelines).map_err(cannot)?;
    let smoke = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../charts/penstock/files/smoke.yaml");
    std::fs::copy(smoke, pipelines.join("smoke.yaml")).map_err(cannot)?;
    run_with(Command::new("chmod").args(["-R", "a+rwX"]).arg(work))?;
    let environment = [
        ("DATABASE_URL", of("PENSTOCK_TEST_POSTGRES_URL").unwrap_or_default()),
        ("REDIS_URL", of("PENSTOCK_TEST_REDIS_URL").unwrap_or_default()),
        ("OBJECT_STORE_URL", "file:///files".to_owned()),
        ("PENSTOCK_ENCRYPTION_KEYS", "verify:WX9EIDV99ywIg2xC6vzpTAJnAdGLt132YsRseUckGJk=".to_owned()),
        ("PENSTOCK_BIND", "127.0.0.1:28481".to_owned()),
        ("PENSTOCK_HEALTH_BIND", "127.0.0.1:28482".to_owned()),
    ];
    let container = |name: &str, detached: bool, command: &[&str]| {
        let mut podman = podman_run(name, detached, &files, &pipelines);
        for (variable, value) in &environment {
            podman.args(["--env", &format!("{variable}={value}")]);
        }
        podman.arg(image).args(command).stdout(Stdio::null());
        run_with(&mut podman)
    };
    container("penstock-migrate", false, &["/usr/local/bin/penstock", "migrate"])?;
    let running = ["penstock-api", "penstock-worker", "penstock-dispatcher"];
    let mut checked = (|| {
        container("penstock-api", true, &["/usr/local/bin/penstock-api"])?;
        container("penstock-worker", true, &["/usr/local/bin/penstock-worker"])?;
        container("penstock-dispatcher", true, &["/usr/local/bin/penstock-dispatcher", "--every", "1s"])?;
        container(
            "penstock-smoke",
            false,
            &["/usr/local/bin/penstock", "smoke", "--api", "http://127.0.0.1:28481", "--within", "1m"],
        )?;
        for (name, health) in [("penstock-api", "penstock-api"), ("penstock-worker", "penstock-worker")] {
            run_with(Command::new("podman").args([
                "exec",
                name,
                &format!("/usr/local/bin/{health}"),
                "health",
            ]))?;
            let user = said(Command::new("podman").args(["top", name, "user"]))?;
            if user.contains("root") {
                return Err(format!("{name} runs as root"));
            }
        }
        Ok(())
    })();
    for name in running {
        let stopped = stop(name);
        checked = checked.and(stopped);
    }
    checked
}

/// `podman run` with the files and pipelines of the check, up to the image.
fn podman_run(name: &str, detached: bool, files: &Path, pipelines: &Path) -> Command {
    let mut podman = Command::new("podman");
    podman.args([
        "run",
        "--runtime",
        "runc",
        "--network",
        "host",
        "--name",
        name,
        // Limits that stand within any machine's own.
        "--ulimit",
        "nofile=4096:4096",
        "--ulimit",
        "nproc=4096:4096",
    ]);
    podman.args(["--read-only", "--read-only-tmpfs=false", "--cap-drop", "all"]);
    podman.args(["--volume", &format!("{}:/files", files.display())]);
    podman.args(["--volume", &format!("{}:/etc/penstock/pipelines:ro", pipelines.display())]);
    podman.arg(if detached { "--detach" } else { "--rm" });
    podman
}

/// Stops a service of the image, in order.
fn stop(name: &str) -> Result<(), String> {
    let began = Instant::now();
    let stopped =
        run_with(Command::new("podman").args(["stop", "--time", "120", name]).stdout(Stdio::null()));
    let took = began.elapsed();
    let code = said(Command::new("podman").args(["inspect", "--format", "{{.State.ExitCode}}", name]));
    eprintln!("{name} stopped after {:.1} s, with {}", took.as_secs_f64(), code.as_deref().unwrap_or("?"));
    let checked = match (stopped, code) {
        (Ok(()), Ok(code)) if code == "0" && took < GRACE => Ok(()),
        (stopped, code) => Err(format!("{name} did not stop well: {stopped:?}, {code:?}, {took:?}")),
    };
    let _ = Command::new("podman").args(["logs", "--tail", "5", name]).status();
    let _ = Command::new("podman").args(["rm", "--force", name]).stdout(Stdio::null()).status();
    checked
}

/// A command's output.
fn said(command: &mut Command) -> Result<String, String> {
    let shown = format!("{command:?}");
    let output = command.stderr(Stdio::inherit()).output().map_err(|error| format!("{shown}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{shown} ended with {}", output.status));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
