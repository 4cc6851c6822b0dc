//! A Redis of a test's own, that can be stopped, started again empty, and looked into.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A server; it ends with its owner.
pub struct Redis {
    child: Option<Child>,
    port: u16,
    environment: Vec<(&'static str, String)>,
}

impl Redis {
    /// Takes a port; nothing listens there yet.
    pub fn reserve() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        Self { child: None, port, environment: Vec::new() }
    }

    /// Gives it these variables when it is started.
    pub fn set(&mut self, environment: Vec<(&'static str, String)>) {
        self.environment = environment;
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Starts it, empty; `more` are options.
    pub fn start(&mut self, more: &[&str]) {
        let child = Command::new("redis-server")
            .args([
                "--port",
                &self.port.to_string(),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--appendonly",
                "no",
            ])
            .args(more)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server");
        self.child = Some(child);
        while std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Kills it: everything in it is lost.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Runs a command of its own client.
    pub fn ask(&self, words: &[&str]) -> String {
        let port = self.port.to_string();
        let output = Command::new("redis-cli").args(["-p", &port]).args(words).output().expect("redis-cli");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Everything in it, as it would write it to disk.
    pub fn dump(&self) -> Vec<u8> {
        contents(&self.url())
    }
}

/// Everything in a Redis, as it would write it to disk, and not compressed.
pub fn contents(url: &str) -> Vec<u8> {
    let ask = |words: &[&str]| {
        let output = Command::new("redis-cli").args(["-u", url]).args(words).output();
        assert!(output.expect("redis-cli").status.success(), "{words:?}");
    };
    let file = tempfile::NamedTempFile::new().expect("a file");
    ask(&["CONFIG", "SET", "rdbcompression", "no"]);
    ask(&["--rdb", &file.path().display().to_string()]);
    let dump = std::fs::read(file.path()).expect("a dump");
    assert!(dump.starts_with(b"REDIS"), "redis-cli writes a dump");
    dump
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.stop();
    }
}
