//! A downstream for demo, tests and benches. It answers exactly three calls: POST /address-links,
//! GET /addresses/{link} and POST /invite/create.
//!
//! [`limits`] are enforced for real, [`faults`] come on demand, [`record`] keeps every call and every effect, so that
//! tests can prove that nothing was doubled and no limit was passed.

pub mod faults;
pub mod limits;
pub mod proxy;
pub mod record;
mod server;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use actix_web::dev::ServerHandle;

pub use faults::Faults;
pub use limits::Limit;
pub use record::{Call, Endpoint, Stats};
use server::State;

/// How a sandbox starts.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where it listens; port 0 takes a free one.
    pub bind: SocketAddr,
    /// The limit of the address API; none: no limit.
    pub address: Option<Limit>,
    /// The limit of the invite API; none: no limit.
    pub invite: Option<Limit>,
    /// What goes wrong.
    pub faults: Faults,
    /// Threads that answer.
    pub workers: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            bind: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            address: None,
            invite: None,
            faults: Faults::default(),
            workers: 1,
        }
    }
}

/// A running sandbox, on a thread and a runtime of its own. Dropping it stops it.
pub struct Sandbox {
    state: Arc<State>,
    address: SocketAddr,
    handle: ServerHandle,
    thread: Option<JoinHandle<()>>,
}

impl Sandbox {
    /// Starts one.
    ///
    /// # Errors
    /// When the address is taken.
    pub fn start(config: Config) -> std::io::Result<Self> {
        let state = Arc::new(State::new(&config));
        let shared = Arc::clone(&state);
        let (started, starts) = mpsc::channel();
        let thread = std::thread::Builder::new().name("sandbox".to_owned()).spawn(move || {
            actix_web::rt::System::new().block_on(async move {
                match server::bind(shared, &config) {
                    Ok((server, address)) => {
                        // Nobody waits any more only when the starter panicked.
                        let _ = started.send(Ok((server.handle(), address)));
                        // What ends the server is its handle; there is nobody to tell.
                        let _ = server.await;
                    }
                    Err(error) => {
                        let _ = started.send(Err(error));
                    }
                }
            });
        })?;
        let (handle, address) = starts.recv().map_err(std::io::Error::other)??;
        Ok(Self { state, address, handle, thread: Some(thread) })
    }

    /// Where it listens, as a base URL without a slash at its end.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What was counted.
    pub fn stats(&self) -> Stats {
        self.state.record().stats()
    }

    /// Every call, in the order of arrival.
    pub fn calls(&self) -> Vec<Call> {
        let mut calls = self.state.record().calls().to_vec();
        // They are kept when they are answered.
        calls.sort_by_key(|call| call.at_us);
        calls
    }

    /// Changes what goes wrong from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.state.set_faults(faults);
    }

    /// Changes the limits from now on.
    pub fn set_limits(&self, address: Option<Limit>, invite: Option<Limit>) {
        self.state.set_limits(address, invite);
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // The command is sent by the call; the thread's end is the answer.
        drop(self.handle.stop(false));
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed.
            let _ = thread.join();
        }
    }
}
