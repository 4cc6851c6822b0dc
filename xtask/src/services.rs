//! The servers that tests need: PostgreSQL and Redis, on private ports and in temporary folders, stopped again at the
//! end. Debian's packages are installed when they are missing.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::packages::{install_missing, is_root, on_path};
use crate::run;

/// A server has so long to answer after its start.
const PATIENCE: Duration = Duration::from_secs(60);

/// Running servers; dropping them stops them.
pub struct Services {
    folder: PathBuf,
    postgres: Option<Postgres>,
    promtool: Option<PathBuf>,
    collector: Option<PathBuf>,
    tools: Option<PathBuf>,
    axe: Option<PathBuf>,
    oidc: Option<PathBuf>,
    azurite: Option<PathBuf>,
    redis: Child,
    redis_port: u16,
}

struct Postgres {
    bin: PathBuf,
    data: PathBuf,
    port: u16,
}

impl Services {
    /// Starts them.
    ///
    /// # Errors
    /// When one can neither be found nor installed, or does not answer.
    pub fn start() -> Result<Self, String> {
        install()?;
        let folder = std::env::temp_dir().join(format!("penstock-test-{}", std::process::id()));
        std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let redis_port = free_port()?;
        let redis = Command::new("redis-server")
            .args([
                "--port",
                &redis_port.to_string(),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--appendonly",
                "no",
            ])
            .args(["--databases", "1024"])
            .args(["--dir", &folder.display().to_string()])
            .stdout(Stdio::null())
            .spawn()
            .map_err(|error| format!("redis-server: {error}"))?;
        let mut services = Self {
            folder,
            postgres: None,
            promtool: None,
            collector: None,
            tools: None,
            axe: None,
            oidc: None,
            azurite: None,
            redis,
            redis_port,
        };
        wait_for(redis_port, "redis-server")?;
        services.postgres = Some(Postgres::start(&services.folder)?);
        services.write_restart_script()?;
        services.promtool = Some(crate::deploy::promtool_path()?);
        services.tools = Some(crate::deploy::tools_path()?);
        services.collector = Some(crate::deploy::collector_path()?);
        crate::browser::install()?;
        services.axe = Some(crate::browser::axe_path()?);
        services.oidc = Some(crate::oidc::modules_path()?);
        services.azurite = Some(crate::azurite::script_path()?);
        Ok(services)
    }

    /// What tests read to find them.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let mut environment =
            vec![("PENSTOCK_TEST_REDIS_URL", format!("redis://127.0.0.1:{}", self.redis_port))];
        if let Some(promtool) = &self.promtool {
            environment.push(("PENSTOCK_TEST_PROMTOOL", promtool.display().to_string()));
            // Debian's package has both.
            let prometheus = promtool.with_file_name("prometheus");
            environment.push(("PENSTOCK_TEST_PROMETHEUS", prometheus.display().to_string()));
        }
        if let Some(library) = faketime() {
            environment.push(("PENSTOCK_TEST_FAKETIME", library.display().to_string()));
        }
        if let Some(tools) = &self.tools {
            environment.push(("PENSTOCK_TEST_TOOLS", tools.display().to_string()));
        }
        if let Some(axe) = &self.axe {
            environment.push(("PENSTOCK_TEST_AXE", axe.display().to_string()));
        }
        if let Some(oidc) = &self.oidc {
            environment.push(("PENSTOCK_TEST_OIDC", oidc.display().to_string()));
        }
        if let Some(azurite) = &self.azurite {
            environment.push(("PENSTOCK_TEST_AZURITE", azurite.display().to_string()));
        }
        if let Some(collector) = &self.collector {
            environment.push(("PENSTOCK_TEST_COLLECTOR", collector.display().to_string()));
        }
        if let Some(postgres) = &self.postgres {
            environment.push((
                "PENSTOCK_TEST_POSTGRES_URL",
                format!("postgres://postgres@127.0.0.1:{}/postgres", postgres.port),
            ));
            environment.push(("PENSTOCK_TEST_RESTART_POSTGRES", self.restart_script().display().to_string()));
        }
        environment
    }

    fn restart_script(&self) -> PathBuf {
        self.folder.join("restart-postgres")
    }

    /// A test that breaks PostgreSQL on purpose runs this: it ends without a shutdown and recovers.
    fn write_restart_script(&self) -> Result<(), String> {
        use std::os::unix::fs::PermissionsExt as _;
        let Some(postgres) = &self.postgres else { return Ok(()) };
        let mut restart = as_postgres(&postgres.bin.join("pg_ctl"));
        restart.arg("-D").arg(&postgres.data).arg("-l").arg(postgres.data.join("log"));
        restart.args(["-s", "-w", "-m", "immediate", "restart"]);
        let words: Vec<String> = std::iter::once(restart.get_program())
            .chain(restart.get_args())
            .map(|word| format!("'{}'", word.to_string_lossy()))
            .collect();
        let script = self.restart_script();
        let text = format!("#!/bin/sh\ncd /\nexec {} >/dev/null 2>&1\n", words.join(" "));
        std::fs::write(&script, text)
            .and_then(|()| std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)))
            .map_err(|error| format!("{}: {error}", script.display()))
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        if let Some(postgres) = &self.postgres {
            let mut stop = as_postgres(&postgres.bin.join("pg_ctl"));
            stop.arg("-D").arg(&postgres.data).args(["-m", "immediate", "-s", "stop"]);
            if let Err(error) = run(stop) {
                eprintln!("PostgreSQL was not stopped: {error}");
            }
        }
        // It may have ended by itself; then there is nothing to kill.
        let _ = self.redis.kill();
        let _ = self.redis.wait();
        if let Err(error) = std::fs::remove_dir_all(&self.folder) {
            eprintln!("{} was not removed: {error}", self.folder.display());
        }
    }
}

impl Postgres {
    fn start(folder: &Path) -> Result<Self, String> {
        let bin = postgres_bin().ok_or("PostgreSQL's programs are not there")?;
        let data = folder.join("postgres");
        let port = free_port()?;
        if is_root() {
            // PostgreSQL refuses to run as root.
            std::fs::create_dir_all(&data).map_err(|error| format!("{}: {error}", data.display()))?;
            let mut chown = Command::new("chown");
            chown.args(["-R", "postgres"]).arg(folder);
            run(chown)?;
        }
        let mut init = as_postgres(&bin.join("initdb"));
        init.arg("-D")
            .arg(&data)
            .args(["-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-sync"])
            .stdout(Stdio::null());
        run(init)?;
        let options = format!(
            "-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c max_connections=500 \
             -c shared_buffers=128MB -c synchronous_commit=on"
        );
        let mut start = as_postgres(&bin.join("pg_ctl"));
        start
            .arg("-D")
            .arg(&data)
            .arg("-l")
            .arg(folder.join("postgres").join("log"))
            .args(["-s", "-w", "-o", &options, "start"]);
        start.stdout(Stdio::null());
        run(start)?;
        wait_for(port, "PostgreSQL")?;
        Ok(Self { bin, data, port })
    }
}

/// Installs Debian's packages when programs are missing.
fn install() -> Result<(), String> {
    let mut missing = Vec::new();
    for program in ["redis-server", "openssl", "sqlite3"] {
        if !on_path(program) {
            missing.push(program);
        }
    }
    // Not on everybody's path.
    if !Path::new("/usr/sbin/pgbouncer").is_file() {
        missing.push("pgbouncer");
    }
    if postgres_bin().is_none() {
        missing.push("postgresql");
    }
    if faketime().is_none() {
        missing.push("libfaketime");
    }
    install_missing(&missing)
}

fn as_postgres(program: &Path) -> Command {
    if is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]).arg(program);
        command.current_dir("/");
        command
    } else {
        Command::new(program)
    }
}

/// A library that gives a program another time than the system's, for tests of clocks that disagree.
fn faketime() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").ok()?.flatten();
    folders.map(|entry| entry.path().join("faketime/libfaketimeMT.so.1")).find(|path| path.is_file())
}

/// Where Debian keeps PostgreSQL's programs, the newest version first.
fn postgres_bin() -> Option<PathBuf> {
    let mut versions: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok().map(|entry| entry.path().join("bin")))
        .filter(|bin| bin.join("initdb").is_file())
        .collect();
    versions.sort();
    versions.pop()
}

fn free_port() -> Result<u16, String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|error| format!("no free port: {error}"))?;
    listener.local_addr().map(|address| address.port()).map_err(|error| error.to_string())
}

fn wait_for(port: u16, what: &str) -> Result<(), String> {
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Err(format!("{what} did not answer within {} s", PATIENCE.as_secs()))
}
