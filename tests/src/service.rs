//! A running program under test.

use std::process::{Child, Command};
use std::time::{Duration, Instant};

use crate::PATIENCE;

/// A running service. Dropping it kills it.
pub struct Service {
    pub(crate) child: Child,
    /// Its API.
    pub base: String,
}

impl Service {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub fn lives(&mut self) -> bool {
        self.child.try_wait().expect("a child can be asked").is_none()
    }

    /// Waits until it has died by itself.
    pub fn await_death(mut self) {
        let began = Instant::now();
        while self.lives() {
            assert!(began.elapsed() < PATIENCE, "it lives although it was to crash");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// `kill -9`.
    pub fn kill(mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it has ended");
    }

    /// Stops it (SIGSTOP), or lets it go on (SIGCONT), with all its threads.
    pub fn suspend(&self, suspended: bool) {
        let signal = if suspended { "-STOP" } else { "-CONT" };
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().expect("kill runs").success());
    }

    /// SIGTERM; waits for its end, which has to be in order.
    pub fn terminate(mut self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill runs").success());
        let status = self.child.wait().expect("it has ended");
        assert!(status.success(), "it ended with {status}");
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
