//! PostgreSQL servers of a test's own, that can be stopped and started again: a primary, and a standby that can be promoted.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sqlx::{Connection as _, PgConnection};

/// A server; it ends with its owner.
pub struct Postgres {
    // Dropped last: the server ends before its folder goes.
    folder: tempfile::TempDir,
    port: u16,
    environment: Vec<(&'static str, String)>,
}

impl Postgres {
    /// A primary with an empty database `penstock`.
    pub async fn start() -> Self {
        Self::start_with(Vec::new()).await
    }

    /// The same, with these variables in the server's environment.
    pub async fn start_with(environment: Vec<(&'static str, String)>) -> Self {
        let mut server = Self::reserve();
        server.environment = environment;
        let mut init = server.tool("initdb");
        init.args(["-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-sync"]);
        run(&mut init);
        server.again();
        let mut connection = PgConnection::connect(&server.url("postgres")).await.expect("it answers");
        sqlx::query("CREATE DATABASE penstock").execute(&mut connection).await.expect("a database");
        server
    }

    /// A standby of this one, up to date.
    pub fn standby(&self) -> Self {
        let standby = Self::reserve();
        let mut copy = standby.program("pg_basebackup");
        copy.args(["-h", "127.0.0.1", "-U", "postgres", "-X", "stream", "-c", "fast", "-R", "-p"]);
        copy.arg(self.port.to_string()).arg("-D").arg(standby.data());
        run(&mut copy);
        standby.again();
        standby
    }

    /// Stops it in order: its standbys have everything before.
    pub fn shut_down(&self) {
        run(self.tool("pg_ctl").args(["-s", "-w", "-m", "fast", "stop"]));
    }

    /// Starts it again, as a standby of another server.
    pub fn come_back_as_standby_of(&self, primary: &Self) {
        let follows = format!("primary_conninfo = 'host=127.0.0.1 port={} user=postgres'\n", primary.port);
        let settings = self.data().join("postgresql.auto.conf");
        let before = std::fs::read_to_string(&settings).expect("its settings");
        std::fs::write(&settings, before + &follows).expect("its settings");
        std::fs::write(self.data().join("standby.signal"), "").expect("a file");
        self.again();
    }

    /// Changes its settings by a statement, which takes effect at once.
    pub async fn configure(&self, statement: &'static str) {
        let mut connection = PgConnection::connect(&self.url("postgres")).await.expect("it answers");
        for statement in [statement, "SELECT pg_reload_conf()"] {
            sqlx::query(statement).execute(&mut connection).await.expect("it runs");
        }
    }

    /// From now on it speaks TLS, with a certificate for 127.0.0.1 by an authority of its own, whose certificate's path is
    /// returned; and everybody but `postgres` needs TLS and a password.
    pub async fn with_tls(&self) -> PathBuf {
        let data = self.data();
        let openssl = |words: &str, more: &str| {
            let mut openssl = Command::new("openssl");
            openssl.args(words.split(' ')).args(more.split(' ').filter(|word| !word.is_empty()));
            run(openssl.current_dir(self.folder.path()));
        };
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
        std::fs::write(self.folder.path().join("names"), "subjectAltName=IP:127.0.0.1\n").expect("a file");
        openssl("req -x509 -subj /CN=authority -keyout ca.key -out ca.crt", key);
        openssl("req -subj /CN=server -keyout data/server.key -out server.csr", key);
        let signed = "-CA ca.crt -CAkey ca.key -CAcreateserial -extfile names";
        openssl("x509 -req -in server.csr -out data/server.crt", signed);
        run(Command::new("chmod").arg("600").arg(data.join("server.key")));
        if is_root() {
            run(Command::new("chown")
                .arg("postgres")
                .arg(data.join("server.key"))
                .arg(data.join("server.crt")));
        }
        let rules = "host all postgres 127.0.0.1/32 trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n";
        std::fs::write(data.join("pg_hba.conf"), rules).expect("a file");
        self.configure("ALTER SYSTEM SET ssl = on").await;
        self.folder.path().join("ca.crt")
    }

    /// Makes it a primary.
    pub fn promote(&self) {
        run(self.tool("pg_ctl").args(["-w", "promote"]));
    }

    /// Its address, `host:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The URL of a database of it.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@{}/{database}", self.address())
    }

    /// A place for a server: its folder is empty.
    pub fn reserve() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        if is_root() {
            // PostgreSQL refuses to run as root.
            run(Command::new("chown").arg("postgres").arg(folder.path()));
        }
        Self { folder, port, environment: Vec::new() }
    }

    /// Gives a folder to the server's user.
    pub fn owns(&self, folder: &Path) {
        if is_root() {
            run(Command::new("chown").arg("-R").arg("postgres").arg(folder));
        }
    }

    /// `sh` as the server's user, with the server's programs on its path.
    pub fn shell(&self) -> Command {
        let mut sh = lower(Path::new("sh"));
        let others = std::env::var("PATH").unwrap_or_default();
        sh.env("PATH", format!("{}:{others}", bin().display()));
        sh
    }

    /// Its data folder.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Stops it at once, as a crash does.
    pub fn stop(&self) {
        run(self.tool("pg_ctl").args(["-s", "-w", "-m", "immediate", "stop"]));
    }

    /// Starts it again.
    pub fn again(&self) {
        let options = format!(
            "-p {} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c max_connections=200 -c shared_buffers=32MB",
            self.port
        );
        // For the server, and not for what starts it as another user.
        let environment = self.environment.iter().map(|(name, value)| format!("{name}={value}"));
        let mut start = lower(Path::new("env"));
        start.args(environment).arg(bin().join("pg_ctl")).arg("-D").arg(self.data());
        start.arg("-l").arg(self.folder.path().join("log")).args(["-s", "-w", "-o", &options, "start"]);
        // The server would keep an inherited pipe open.
        let started = start.stdout(Stdio::null()).stderr(Stdio::null()).status().expect("pg_ctl");
        let log = || std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        assert!(started.success(), "{}", log());
    }

    /// A program of the server's, for its folder.
    fn tool(&self, name: &str) -> Command {
        let mut tool = self.program(name);
        tool.arg("-D").arg(self.data());
        tool
    }

    fn program(&self, name: &str) -> Command {
        lower(&bin().join(name))
    }
}

/// A program as PostgreSQL's user: it refuses to run as root, and so does PgBouncer.
pub(crate) fn lower(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]).arg(program);
    command.current_dir("/");
    command
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let _ = self.tool("pg_ctl").args(["-m", "immediate", "-s", "stop"]).status();
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

pub(crate) fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|id| id.stdout.trim_ascii() == b"0")
}

/// Where the newest server's programs are.
fn bin() -> PathBuf {
    let versions =
        std::fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is installed by `cargo xtask test`");
    let bins = versions.flatten().map(|version| version.path().join("bin"));
    let mut bins: Vec<PathBuf> =
        bins.filter(|bin: &PathBuf| Path::new(bin).join("initdb").is_file()).collect();
    bins.sort();
    bins.pop().expect("PostgreSQL's programs")
}
