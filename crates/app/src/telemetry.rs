//! Logs, as JSON on standard error (or as text for people); traces and metrics by OTLP where
//! `OTEL_EXPORTER_OTLP_ENDPOINT` names a collector. Nothing of a row's content goes into any of them.

use std::sync::Arc;

use penstock_flow::traces::{Traces, Untraced};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

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
}

/// Starts telemetry. `RUST_LOG` chooses what is logged; `default` without it.
pub fn start(style: LogStyle, service: &'static str, default: &str) -> Telemetry {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let logs = match style {
        LogStyle::Json => {
            tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(std::io::stderr).boxed()
        }
        LogStyle::Text => {
            tracing_subscriber::fmt::layer().compact().with_target(false).with_writer(std::io::stderr).boxed()
        }
    };
    let registry = tracing_subscriber::registry().with(logs.with_filter(filter));
    #[cfg(feature = "otlp")]
    {
        let otlp = crate::otlp::start(service);
        let layer = otlp.as_ref().map(crate::otlp::Otlp::layer);
        // An error means that a test has a subscriber of its own.
        let _ = registry.with(layer).try_init();
        Telemetry { otlp }
    }
    #[cfg(not(feature = "otlp"))]
    {
        let _ = (registry.try_init(), service);
        Telemetry::default()
    }
}

/// What ties spans together: nothing does where no collector is named.
pub fn traces() -> Arc<dyn Traces> {
    #[cfg(feature = "otlp")]
    if crate::otlp::wanted(crate::otlp::TRACES) {
        return Arc::new(crate::otlp::Tied);
    }
    Arc::new(Untraced)
}

/// Sends a service's metrics, until `stop`, where a collector is named.
pub fn send_metrics(
    engines: &penstock_flow::Engines,
    worker: Option<Arc<penstock_flow::process::WorkerFigures>>,
    caller: Arc<penstock_downstream::Caller>,
    stop: tokio_util::sync::CancellationToken,
) {
    #[cfg(feature = "otlp")]
    if crate::otlp::wanted(crate::otlp::METRICS) {
        tokio::spawn(crate::otlp::metrics(engines.clone(), worker, caller, stop));
    }
    #[cfg(not(feature = "otlp"))]
    let _ = (engines, worker, caller, stop);
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        #[cfg(feature = "otlp")]
        if let Some(otlp) = self.otlp.take() {
            otlp.end();
        }
    }
}
