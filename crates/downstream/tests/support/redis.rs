//! A Redis of a test's own.

use std::process::{Child, Command, Stdio};

/// Can be flushed and killed: nobody else uses it.
pub struct Own {
    server: Option<Child>,
    port: u16,
    folder: tempfile::TempDir,
    /// Whether its clock can be set.
    faked: bool,
}

impl Own {
    pub async fn start() -> Self {
        Self::run(false).await
    }

    /// One whose clock can be set, see [`Own::set_clock`].
    pub async fn with_a_clock() -> Self {
        Self::run(true).await
    }

    async fn run(faked: bool) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut own = Self { server: None, port, folder: tempfile::tempdir().unwrap(), faked };
        if faked {
            own.set_clock(0);
            let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/clock.c");
            let mut compiler = Command::new("cc");
            let compiled = compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(own.library()).arg(source);
            assert!(compiled.status().expect("a C compiler, which the build needs too").success());
        }
        own.restart().await;
        own
    }

    /// Sets its clock ahead of the system's by so many seconds.
    pub fn set_clock(&self, seconds: i64) {
        use std::os::unix::fs::FileExt as _;
        let file = std::fs::OpenOptions::new().write(true).create(true).truncate(false).open(self.clock());
        file.unwrap().write_all_at(&seconds.to_ne_bytes(), 0).unwrap();
    }

    fn clock(&self) -> std::path::PathBuf {
        self.folder.path().join("clock")
    }

    fn library(&self) -> std::path::PathBuf {
        self.folder.path().join("clock.so")
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub async fn restart(&mut self) {
        let mut command = Command::new("redis-server");
        if self.faked {
            command.env("LD_PRELOAD", self.library()).env("TEST_CLOCK", self.clock());
        }
        let server = command
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"])
            .arg(self.folder.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed by `cargo xtask test`");
        self.server = Some(server);
        while tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_err() {
            tokio::task::yield_now().await;
        }
    }

    pub fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill().unwrap();
            server.wait().unwrap();
        }
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        self.kill();
    }
}
