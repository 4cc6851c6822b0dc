//! `rediss://`: the queue and the limits in a Redis that speaks TLS, with a certificate of an authority of one's own.
#![allow(clippy::unwrap_used, reason = "a test's way to fail")]

use std::path::Path;
use std::process::{Child, Command, Stdio};

use penstock_domain::limit::{Ask, Decision, LimitPolicy, Past, Reason};
use penstock_downstream::{CallLimits, Limiter as _, SharedLimiter};
use penstock_queue::{Queue as _, SharedQueue};
use penstock_redis::Prefix;

/// Set in the process that connects; its roots are read from `SSL_CERT_FILE`, which has to stand before it starts.
const URL: &str = "PENSTOCK_TEST_TLS_URL";

/// A Redis that takes no connection without TLS.
struct Redis {
    server: Child,
    port: u16,
    folder: tempfile::TempDir,
}

impl Redis {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        certify(folder.path());
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let server = Command::new("redis-server")
            .args(["--port", "0", "--tls-port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""])
            .args(["--tls-cert-file", "server.crt", "--tls-key-file", "server.key"])
            .args(["--tls-ca-cert-file", "ca.crt", "--tls-auth-clients", "no"])
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed by `cargo xtask test`");
        let redis = Self { server, port, folder };
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            std::thread::yield_now();
        }
        redis
    }

    /// This test's other half, in a process of its own. With the authority's certificate, or with the system's roots only.
    fn connect(&self, trusted: bool) -> String {
        let mut process = Command::new(std::env::current_exe().unwrap());
        process.args(["--exact", "queue_and_limits_over_tls", "--nocapture"]);
        process.env(URL, format!("rediss://127.0.0.1:{}", self.port)).env_remove("SSL_CERT_FILE");
        if trusted {
            process.env("SSL_CERT_FILE", self.folder.path().join("ca.crt"));
        }
        let output = process.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.server.kill().unwrap();
        self.server.wait().unwrap();
    }
}

/// An authority, and a certificate by it for this host.
fn certify(folder: &Path) {
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    let openssl = |words: &[&str], more: &[&str]| {
        let output = Command::new("openssl")
            .args(words)
            .args(more)
            .current_dir(folder)
            .output()
            .expect("openssl is installed by `cargo xtask test`");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    std::fs::write(folder.join("names"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    openssl(&["req", "-x509", "-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.crt"], &key);
    openssl(&["req", "-subj", "/CN=server", "-keyout", "server.key", "-out", "server.csr"], &key);
    let signed = ["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names"];
    openssl(&["x509", "-req", "-in", "server.csr", "-out", "server.crt"], &signed);
}

#[tokio::test]
async fn queue_and_limits_over_tls() {
    let Ok(url) = std::env::var(URL) else {
        let redis = Redis::start();
        let (with, without) = (redis.connect(true), redis.connect(false));
        assert!(with.contains("queue true, limits granted"), "{with}");
        assert!(without.contains("queue false, limits Unavailable"), "nobody is trusted unseen: {without}");
        return;
    };
    rustls::crypto::ring::default_provider().install_default().unwrap();
    let queue = SharedQueue::connect(&url, Prefix::default()).unwrap();
    let limiter = SharedLimiter::connect(&url, Prefix::default()).unwrap();
    let policy = LimitPolicy { rate: None, concurrency: Some(1), breaker: None, cold_wait_us: 0.0 };
    let limits =
        CallLimits { dependency: "api".to_owned(), policy, owner: None, meters: Vec::new(), at_us: 0.0 };
    let ask = Ask { cost: 1, token: 1, lease_us: 1e6, lead_us: 0.0, past: Past::Clean, patience_us: 0.0 };
    let limits = match limiter.acquire(&limits, &ask).await {
        Decision::Unreserved { .. } => panic!("no limit by the calendar"),
        Decision::Granted { .. } => "granted".to_owned(),
        Decision::Denied(denied) => {
            assert_eq!(denied.reason, Reason::Unavailable);
            format!("{:?}", denied.reason)
        }
    };
    println!("queue {}, limits {limits}", queue.ready().await.is_ok());
}
