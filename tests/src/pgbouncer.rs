//! A PgBouncer of a test's own, before a server or several.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::PATIENCE;
use crate::postgres::{is_root, lower};

/// Sessions that it opens at most for a database and user.
pub const POOL_SIZE: u32 = 10;

/// A pooler; it ends with its owner.
pub struct PgBouncer {
    child: Child,
    port: u16,
    folder: tempfile::TempDir,
}

impl PgBouncer {
    /// A pooler before the server of a URL, in a mode: `session`, `transaction`. Its settings are Debian's otherwise.
    pub fn before(url: &str, mode: &str) -> Self {
        let server = url.split('@').nth(1).and_then(|rest| rest.split('/').next()).expect("an address");
        let (host, at) = server.rsplit_once(':').expect("a port");
        let folder = tempfile::tempdir().expect("a folder");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        drop(listener);
        let users = folder.path().join("users");
        std::fs::write(&users, "\"postgres\" \"\"\n").expect("a file");
        let settings = folder.path().join("pgbouncer.ini");
        let text = format!(
            "[databases]\n* = host={host} port={at}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_type = trust\nauth_file = {}\npool_mode = {mode}\n\
             default_pool_size = {POOL_SIZE}\nmax_client_conn = 200\nlogfile = {}\n",
            users.display(),
            folder.path().join("log").display()
        );
        std::fs::write(&settings, text).expect("a file");
        if is_root() {
            // It refuses to run as root.
            let owned = Command::new("chown").args(["-R", "postgres"]).arg(folder.path()).status();
            assert!(owned.is_ok_and(|status| status.success()), "chown");
        }
        let mut start = lower(Path::new("/usr/sbin/pgbouncer"));
        start.args(["-q"]).arg(&settings).stdout(Stdio::null()).stderr(Stdio::null());
        let child = start.spawn().expect("PgBouncer is installed by `cargo xtask test`");
        let began = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            let log = || std::fs::read_to_string(folder.path().join("log")).unwrap_or_default();
            assert!(began.elapsed() < PATIENCE, "PgBouncer does not answer: {}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { child, port, folder }
    }

    /// Where it is, as `host:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The URL of a database behind it.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@{}/{database}", self.address())
    }

    /// What it logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
