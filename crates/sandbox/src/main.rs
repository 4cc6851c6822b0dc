//! `penstock-sandbox`: the downstream as a service of its own.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Parser;
use penstock_sandbox::{Config, Faults, Limit, Sandbox};

/// A downstream API with real limits, to try Penstock with.
#[derive(Parser)]
#[command(version)]
struct Program {
    /// Where it listens
    #[arg(long, env = "SANDBOX_BIND", default_value = "127.0.0.1:8090")]
    bind: SocketAddr,
    /// Calls a second of the address API; 0: no limit
    #[arg(long, default_value_t = 50.0)]
    address_rate: f64,
    /// Calls at once of the address API
    #[arg(long, default_value_t = 10.0)]
    address_burst: f64,
    /// Calls a second of the invite API; 0: no limit
    #[arg(long, default_value_t = 20.0)]
    invite_rate: f64,
    /// Calls at once of the invite API
    #[arg(long, default_value_t = 5.0)]
    invite_burst: f64,
    /// Milliseconds before each answer
    #[arg(long, default_value_t = 0)]
    latency_ms: u64,
    /// Share of calls that answer 500
    #[arg(long, default_value_t = 0.0)]
    error: f64,
    /// Threads that answer
    #[arg(long, default_value_t = 1)]
    workers: usize,
}

fn main() -> ExitCode {
    let program = Program::parse();
    let limit = |rate: f64, burst: f64| (rate > 0.0).then_some(Limit { rate, burst });
    let config = Config {
        bind: program.bind,
        address: limit(program.address_rate, program.address_burst),
        invite: limit(program.invite_rate, program.invite_burst),
        faults: Faults { latency_ms: program.latency_ms, error: program.error, ..Faults::default() },
        workers: program.workers,
    };
    match Sandbox::start(config) {
        Ok(sandbox) => {
            // It serves also when nobody reads what it says.
            let _ = writeln!(std::io::stdout(), "the sandbox listens on {}", sandbox.url());
            // SIGTERM and Ctrl-C end the process; there is nothing to save.
            loop {
                std::thread::park();
            }
        }
        Err(error) => {
            let _ =
                writeln!(std::io::stderr(), "penstock-sandbox: cannot listen on {}: {error}", program.bind);
            ExitCode::FAILURE
        }
    }
}
