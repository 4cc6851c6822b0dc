//! A service under test: the real program, its own data folder, a sandbox as its downstream.

#![allow(clippy::unwrap_used, reason = "tests")]

pub mod azurite;
pub mod browser;
mod client;
pub mod clock;
pub mod console;
pub mod database;
pub mod disk;
pub mod fleet;
pub mod gcs;
pub mod invite;
pub mod memory_limit;
pub mod pgbouncer;
pub mod postgres;
pub mod provider;
pub mod receiver;
pub mod redis;
pub mod relay;
pub mod s3;
mod service;
pub mod webdriver;

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use penstock_sandbox::Sandbox;
use serde_json::Value;

pub use crate::client::{Client, http};
use crate::s3::S3;
pub use crate::service::Service;

/// Nothing that a test waits for takes longer.
pub const PATIENCE: Duration = Duration::from_secs(if cfg!(debug_assertions) { 400 } else { 900 });

/// A program that was built before: `cargo xtask test` builds them all.
pub fn program(name: &str) -> PathBuf {
    let here = std::env::current_exe().expect("a test has a path");
    // Tests lie in target/debug/deps, benches in target/release: programs one folder up, or beside them.
    let found = here.ancestors().skip(1).take(2).map(|folder| folder.join(name)).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("{name} is not built; `cargo xtask test` (or bench) builds it"))
}

/// The services of a test: SQLite and this process, or, with `PENSTOCK_TEST_ENGINES=cluster`, a PostgreSQL database and
/// a Redis database of the test's own on the servers that `cargo xtask test` starts.
fn cluster() -> Option<Vec<(&'static str, String)>> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    std::env::var("PENSTOCK_TEST_ENGINES").ok().filter(|services| services == "cluster")?;
    let given = |name| {
        std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set; `cargo xtask test` sets it"))
    };
    let number = NEXT.fetch_add(1, Ordering::SeqCst);
    let (postgres, redis) = (given("PENSTOCK_TEST_POSTGRES_URL"), given("PENSTOCK_TEST_REDIS_URL"));
    let name = format!("penstock_{}_{number}", std::process::id());
    let made = Command::new("psql").args([&postgres, "-qc", &format!("CREATE DATABASE {name}")]).status();
    assert!(made.is_ok_and(|status| status.success()), "psql makes a database");
    let (server, _) = postgres.rsplit_once('/').expect("a database in the URL");
    Some(vec![
        ("DATABASE_URL", format!("{server}/{name}")),
        ("REDIS_URL", format!("{redis}/{number}")),
        // The key of tests, the same for all programs of a test.
        ("PENSTOCK_ENCRYPTION_KEYS", "tests:WX9EIDV99ywIg2xC6vzpTAJnAdGLt132YsRseUckGJk=".into()),
        ("PENSTOCK_LEASE_SECONDS", "20".into()),
        ("PENSTOCK_LOST_AFTER_SECONDS", "20".into()),
    ])
}

/// Where a service keeps its data and finds its pipelines.
pub struct Place {
    folder: tempfile::TempDir,
    services: Vec<(&'static str, String)>,
    s3: Option<S3>,
    programs: Option<PathBuf>,
}

impl Place {
    /// An empty place with these pipelines, and a database that is up to date.
    pub fn new(pipelines: &[(&str, &str)]) -> Self {
        let place = Self::bare(pipelines);
        if !place.services.is_empty() {
            let mut migrate = Command::new(program("penstock"));
            let migrated =
                place.engine_variables(&mut migrate).arg("--data").arg(place.data()).arg("migrate").output();
            let migrated = migrated.expect("it runs");
            assert!(migrated.status.success(), "{}", String::from_utf8_lossy(&migrated.stderr));
        }
        place
    }

    /// A place in whose database is nothing yet.
    pub fn bare(pipelines: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let definitions = folder.path().join("pipelines");
        std::fs::create_dir(&definitions).expect("a folder");
        for (name, text) in pipelines {
            std::fs::write(definitions.join(name), text).expect("a file");
        }
        let mut services = cluster().unwrap_or_default();
        let s3 = (!services.is_empty()).then(|| S3::start(&folder.path().join("s3")));
        services.extend(s3.iter().flat_map(S3::environment));
        Self { folder, services, s3, programs: None }
    }

    fn engine_variables<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        command.envs(self.services.iter().map(|(name, value)| (name, value)))
    }

    /// Gives programs that are started from now on a setting.
    pub fn set(&mut self, name: &'static str, value: String) {
        self.services.push((name, value));
    }

    /// Where programs are that are started from now on; none: today's.
    pub fn use_programs(&mut self, folder: Option<PathBuf>) {
        self.programs = folder;
    }

    /// Writes a file beside the data folder; its path.
    pub fn write(&self, name: &str, text: &str) -> String {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path.display().to_string()
    }

    /// The data folder.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// The programs' logs.
    pub fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// The S3 server, when there is one.
    pub fn s3(&self) -> Option<&S3> {
        self.s3.as_ref()
    }

    /// Whether the services are a cluster's.
    pub fn is_cluster(&self) -> bool {
        self.s3.is_some()
    }

    /// What a program is told about this engine, by the variable's name.
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.services.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    fn command(&self, sandbox: &Sandbox) -> Command {
        let mut command = self.command_of("penstock", sandbox);
        command.arg("--data").arg(self.data());
        command
    }

    fn command_of(&self, name: &str, sandbox: &Sandbox) -> Command {
        let path = self.programs.as_ref().map_or_else(|| program(name), |folder| folder.join(name));
        let mut command = Command::new(path);
        command
            .env("PENSTOCK_PIPELINES", self.folder.path().join("pipelines"))
            .env("ADDRESS_API_URL", sandbox.url())
            .env("INVITE_API_URL", sandbox.url())
            .env("INVITE_API_TOKEN", "t0ken")
            .env("ROWS_PER_OWNER", if cfg!(debug_assertions) { "500" } else { "50000" })
            .env("PENSTOCK_BIND", "127.0.0.1:0")
            .env("PENSTOCK_ALLOW_PRIVATE_CALLBACKS", "true")
            .env(
                "RUST_LOG",
                if cfg!(debug_assertions) {
                    "debug,hyper=info,reqwest=info,h2=info,sqlx=info"
                } else {
                    "info"
                },
            );
        self.engine_variables(&mut command);
        command
    }

    /// The id of the only batch that a program accepted before it died. Its answer may have been cut off by the death.
    pub fn accepted(&self, sandbox: &Sandbox) -> Option<String> {
        let (list, good) = self.operate(sandbox, &["batches", "list"]);
        let batches =
            list.as_array().filter(|batches| good && batches.len() <= 1).expect("one batch at most");
        batches.first().map(|batch| batch["id"].as_str().expect("an id").to_owned())
    }

    /// Runs an operator's command; its output as JSON, and whether it ended well.
    pub fn operate(&self, sandbox: &Sandbox, args: &[&str]) -> (Value, bool) {
        let output = self
            .command(sandbox)
            .arg("--json")
            .args(args)
            .env("RUST_LOG", "error")
            .output()
            .expect("it runs");
        let text = String::from_utf8_lossy(&output.stdout);
        let value = serde_json::from_str(&text).unwrap_or_else(|_| {
            panic!("{args:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
        });
        (value, output.status.success())
    }

    /// Runs an operator's command as a person would; what it says, and whether it ended well.
    pub fn say(&self, sandbox: &Sandbox, args: &[&str]) -> (String, bool) {
        let output = self.command(sandbox).args(args).env("RUST_LOG", "error").output().expect("it runs");
        let text = [output.stderr, output.stdout].concat();
        (String::from_utf8_lossy(&text).into_owned(), output.status.success())
    }

    /// Runs an operator's command; what it exits with.
    pub fn exit_code(&self, sandbox: &Sandbox, args: &[&str]) -> Option<i32> {
        self.command(sandbox).args(args).env("RUST_LOG", "error").output().expect("it runs").status.code()
    }

    /// Runs an operator's command whose output nobody reads any more; what it exits with, and its standard error.
    pub fn unread(&self, sandbox: &Sandbox, args: &[&str]) -> (Option<i32>, String) {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let mut command = self.command(sandbox);
        command.args(args).env("RUST_LOG", "error").stdout(writer).stderr(Stdio::piped());
        let output = command.spawn().and_then(std::process::Child::wait_with_output).expect("it runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Starts `penstock dev`.
    pub fn start(&self, sandbox: &Sandbox, crash_at: Option<&str>) -> Service {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log()).expect("a log");
        self.start_logging_to(sandbox, crash_at, log.into())
    }

    /// Starts `penstock dev` with another standard error.
    pub fn start_logging_to(&self, sandbox: &Sandbox, crash_at: Option<&str>, log: Stdio) -> Service {
        self.start_dispatching(sandbox, crash_at, log, "300ms")
    }

    /// Starts `penstock dev`, which releases rows when it starts and after each such time.
    pub fn start_every(&self, sandbox: &Sandbox, every: &str) -> Service {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log()).expect("a log");
        self.start_dispatching(sandbox, None, log.into(), every)
    }

    fn start_dispatching(
        &self,
        sandbox: &Sandbox,
        crash_at: Option<&str>,
        log: Stdio,
        every: &str,
    ) -> Service {
        let mut command = self.command(sandbox);
        command.args(["dev", "--every", every]).stdout(Stdio::piped()).stderr(log);
        if let Some(place) = crash_at {
            command.env("PENSTOCK_CRASH_AT", place);
        }
        let mut child = command.spawn().expect("it starts");
        let output = child.stdout.take().expect("its output");
        let said = Arc::new(Mutex::new(String::new()));
        let (sender, address) = std::sync::mpsc::channel();
        let hear = said.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if let Some(rest) = line.strip_prefix("Penstock listens on http://") {
                    let _ = sender.send(rest.split(' ').next().unwrap_or_default().to_owned());
                }
                hear.lock().expect("no test panics here").push_str(&line);
            }
        });
        let address = address.recv_timeout(PATIENCE).unwrap_or_else(|_| {
            panic!("it did not start: {}", std::fs::read_to_string(self.log()).unwrap_or_default())
        });
        Service { child, base: format!("http://{address}") }
    }

    /// Takes a setting away from programs that are started from now on; what it was.
    pub fn unset(&mut self, name: &str) -> Option<String> {
        let value = self.variable(name).map(str::to_owned);
        self.services.retain(|(known, _)| *known != name);
        value
    }

    /// Starts `penstock dev`, which refuses; what it says.
    pub fn refusal(&self, sandbox: &Sandbox) -> String {
        let mut command = self.command(sandbox);
        command.arg("dev").env("RUST_LOG", "error").stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("it runs");
        let began = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().expect("a child can be asked") {
                break status;
            }
            if began.elapsed() > PATIENCE {
                let _ = child.kill();
                panic!("it started, and was to refuse");
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        let mut said = String::new();
        child.stderr.take().expect("its errors").read_to_string(&mut said).expect("text");
        assert!(!status.success(), "{said}");
        said
    }

    /// Waits until a program's log has a text.
    pub async fn logged(&self, text: &str) {
        let began = Instant::now();
        while !std::fs::read_to_string(self.log()).unwrap_or_default().contains(text) {
            assert!(began.elapsed() < PATIENCE, "nothing is logged of {text}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Makes a key of an owner.
    pub fn key(&self, sandbox: &Sandbox, owner: &str) -> String {
        let (value, good) = self.operate(sandbox, &["keys", "create", "--owner", owner]);
        assert!(good, "{value}");
        value["key"].as_str().expect("a key").to_owned()
    }

    /// Every file of the data folder and the log that holds these bytes.
    pub fn files_with(&self, needle: &[u8]) -> Vec<PathBuf> {
        let mut found = Vec::new();
        search(self.folder.path(), needle, &mut found);
        found
    }

    /// The objects in the object store, parts of uploads included, without the lists of refused files' errors and without the
    /// manifests of files that are there.
    pub fn objects(&self) -> Vec<PathBuf> {
        let mut found = self.all_objects();
        found.retain(|path| {
            !is_list(path)
                && path
                    .to_str()
                    .and_then(|path| path.strip_suffix(".manifest"))
                    .is_none_or(|file| !Path::new(file).exists())
        });
        found
    }

    /// The lists of refused files' errors in the object store.
    pub fn error_lists(&self) -> Vec<PathBuf> {
        let mut found = self.all_objects();
        found.retain(|path| is_list(path));
        found
    }

    /// All objects in the object store.
    pub fn all_objects(&self) -> Vec<PathBuf> {
        if let Some(s3) = &self.s3 {
            return s3.objects();
        }
        let mut found = Vec::new();
        search(&self.data().join("files"), b"", &mut found);
        found
    }
}

fn is_list(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "errors")
}

fn search(folder: &Path, needle: &[u8], found: &mut Vec<PathBuf>) {
    let has_it = |bytes: &[u8]| match std::str::from_utf8(needle) {
        // Much quicker than a search for bytes where nothing is optimised.
        Ok(text) => String::from_utf8_lossy(bytes).contains(text),
        Err(_) => bytes.windows(needle.len()).any(|part| part == needle),
    };
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            search(&path, needle, found);
        } else if std::fs::read(&path).is_ok_and(|bytes| has_it(&bytes)) {
            found.push(path);
        }
    }
}
