//! The three programs as separate processes, any number of each, on a cluster's services.

use std::process::Stdio;
use std::time::{Duration, Instant};

use penstock_sandbox::Sandbox;

use crate::{PATIENCE, Place, Service};

impl Place {
    /// Starts `penstock-api`; it answers when this returns.
    pub fn api(&self, sandbox: &Sandbox) -> Service {
        self.program(sandbox, "penstock-api", &[], "PENSTOCK_BIND")
    }

    /// Starts `penstock-worker`; it answers when this returns.
    pub fn worker(&self, sandbox: &Sandbox) -> Service {
        self.program(sandbox, "penstock-worker", &[], "PENSTOCK_HEALTH_BIND")
    }

    /// Starts `penstock-dispatcher --every`.
    pub fn dispatcher(&self, sandbox: &Sandbox, every: &str) -> Service {
        Service {
            child: self.spawn(sandbox, "penstock-dispatcher", &["--every", every], None),
            base: String::new(),
        }
    }

    /// One run of the dispatcher, as a CronJob makes it; its report.
    pub fn dispatch_once(&self, sandbox: &Sandbox) -> serde_json::Value {
        let mut command = self.command_of("penstock-dispatcher", sandbox);
        let done = command.arg("--json").env("RUST_LOG", "error").output().expect("it runs");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        serde_json::from_slice(&done.stdout).expect("JSON")
    }

    fn program(&self, sandbox: &Sandbox, name: &str, args: &[&str], bind: &'static str) -> Service {
        let address = free_address();
        let child = self.spawn(sandbox, name, args, Some((bind, address.clone())));
        let mut service = Service { child, base: format!("http://{address}") };
        let began = Instant::now();
        while std::net::TcpStream::connect(&address).is_err() {
            assert!(began.elapsed() < PATIENCE, "{name} does not answer");
            if let Ok(Some(ended)) = service.child.try_wait() {
                let log = std::fs::read_to_string(self.log()).unwrap_or_default();
                panic!("{name} ended with {ended} before it answered:\n{log}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        service
    }

    fn spawn(
        &self,
        sandbox: &Sandbox,
        name: &str,
        args: &[&str],
        bind: Option<(&'static str, String)>,
    ) -> std::process::Child {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log()).expect("a log");
        let mut command = self.command_of(name, sandbox);
        command.args(args).envs(bind).stdout(Stdio::null()).stderr(log);
        command.spawn().unwrap_or_else(|error| panic!("{name}: {error}"))
    }
}

/// A port that was free a moment ago.
fn free_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").to_string()
}
