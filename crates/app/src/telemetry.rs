//! Logs, as JSON on standard error (or as text for people); traces and metrics by OTLP where
//! `OTEL_EXPORTER_OTLP_ENDPOINT` names a collector. Nothing of a row's content goes into any of them.

use std::sync::Arc;

use penstock_flow::operate::collect_metrics::Sources;
use penstock_flow::telemetry::traces::Traces;
use tokio_util::sync::CancellationToken;
use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::filter::FilterExt as _;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use crate::log_pipe::LogPipe;
use crate::logs::{Json, OwnSpans, dropped_notice};

/// How logs look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogStyle {
    /// A JSON object a line: services.
    Json,
    /// Text: an operator's terminal.
    Text,
}

/// Ends telemetry when it goes: what was not sent yet is sent.
#[derive(Default)]
pub struct Telemetry {
    #[cfg(feature = "otlp")]
    otlp: Option<crate::otlp::Otlp>,
    /// Dropping it writes the log lines that wait.
    _logs: Option<WorkerGuard>,
}

/// What is not logged unless `RUST_LOG` names its crate: lines that anybody can cause without a key, one for each request that
/// cannot be read; the values of parameters in `DATABASE_URL` that are unknown, which may be secrets; and lines for each listener and each
/// try while Redis is away, of which the queue writes one.
const SILENT: [(&str, &str); 3] = [
    ("actix_http", "actix_http::h1=off"),
    ("sqlx_postgres", "sqlx_postgres::options=off"),
    ("apalis_core", "apalis_core=off"),
];

/// What is logged, and what is wrong with what was chosen.
fn filter(chosen: &str, default: &str) -> (EnvFilter, Option<String>) {
    let read = EnvFilter::try_new(if chosen.is_empty() { default } else { chosen });
    let bad = read.as_ref().err().map(ToString::to_string);
    let mut filter = read.unwrap_or_else(|_| EnvFilter::new(default));
    for (name, directive) in SILENT {
        if !chosen.contains(name)
            && let Ok(directive) = directive.parse()
        {
            filter = filter.add_directive(directive);
        }
    }
    (filter, bad)
}

/// Starts telemetry. `RUST_LOG` chooses what is logged; `default` without it.
pub fn start(style: LogStyle, service: &'static str, default: &str) -> Telemetry {
    let chosen = std::env::var("RUST_LOG").unwrap_or_default();
    let (filter, bad) = filter(&chosen, default);
    let filter = filter.or(OwnSpans);
    let mut written = None;
    let logs = match style {
        LogStyle::Json => {
            let (pipe, guard) = LogPipe::to(std::io::stderr(), dropped_notice);
            written = Some(guard);
            log_panics();
            Json::new(move || pipe.writer()).with_filter(filter).boxed()
        }
        LogStyle::Text => {
            let text = tracing_subscriber::fmt::layer().compact().with_target(false);
            text.with_writer(std::io::stderr).with_filter(filter).boxed()
        }
    };
    let registry = tracing_subscriber::registry().with(logs);
    #[cfg(feature = "otlp")]
    let telemetry = {
        let otlp = crate::otlp::start(service);
        let layer = otlp.as_ref().map(crate::otlp::Otlp::layer);
        // An error means that a test has a subscriber of its own.
        let _ = registry.with(layer).try_init();
        crate::otlp::complain();
        Telemetry { otlp, _logs: written }
    };
    #[cfg(not(feature = "otlp"))]
    let telemetry = {
        let _ = (registry.try_init(), service);
        Telemetry { _logs: written }
    };
    crate::panics::log();
    if let Some(error) = bad {
        tracing::warn!("RUST_LOG is `{chosen}`: {error}; `{default}` is taken");
    }
    telemetry
}

/// A panic is a log line as well: what Rust prints by default waits for a pipe that nobody reads.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let location = panic.location().map(ToString::to_string);
        tracing::error!(location, reason = panic.payload_as_str(), "a thread panicked");
    }));
}

/// The last words of a program that ends with an error. They are waited for, but not permanently: nobody may read them.
pub fn last_words(program: &str, error: &dyn std::fmt::Display) {
    let text = format!("{program}: {error}");
    let (written, done) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        eprintln!("{text}");
        // Whoever waited may be gone.
        let _ = written.send(());
    });
    let _ = done.recv_timeout(std::time::Duration::from_secs(1));
}

/// What ties spans together. [`start`] comes first.
pub fn traces() -> Arc<dyn Traces> {
    #[cfg(feature = "otlp")]
    return crate::otlp::traces();
    #[cfg(not(feature = "otlp"))]
    return Arc::new(penstock_flow::telemetry::traces::Local::default());
}

/// Sends a service's metrics, until `stop`, where a collector is named.
pub fn send_metrics(sources: Sources, service: &'static str, stop: CancellationToken) {
    #[cfg(feature = "otlp")]
    crate::otlp::send_metrics(sources, service, stop);
    #[cfg(not(feature = "otlp"))]
    let _ = (sources, service, stop);
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        #[cfg(feature = "otlp")]
        if let Some(otlp) = self.otlp.take() {
            otlp.end();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines that strangers cause, and values that may be secrets, in any crate's words.
    #[test]
    fn strangers_cause_no_lines() {
        let logged = |chosen: &str| {
            let lines = Arc::new(std::sync::Mutex::new(Vec::new()));
            let writer = lines.clone();
            let layer = tracing_subscriber::fmt::layer()
                .with_writer(move || Lines(writer.clone()))
                .with_filter(filter(chosen, "info").0);
            tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
                tracing::error!(target: "actix_http::h1::dispatcher", "stream error");
                tracing::warn!(target: "sqlx_postgres::options::parse", value = "secret", "ignoring");
                tracing::error!(target: "actix_server::worker", "ours");
            });
            let lines = lines.lock().unwrap();
            String::from_utf8(lines.clone()).unwrap().lines().count()
        };
        for chosen in ["", "info", "trace", "no such=filter="] {
            assert_eq!(logged(chosen), 1, "{chosen}");
        }
        assert_eq!(logged("info,actix_http=debug"), 2, "who wants them gets them");
    }

    struct Lines(Arc<std::sync::Mutex<Vec<u8>>>);

    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
}
