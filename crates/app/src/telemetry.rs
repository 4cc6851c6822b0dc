//! Logs, as JSON on standard error (or as text for people); traces by OTLP where `OTEL_EXPORTER_OTLP_ENDPOINT` names
//! a collector. Nothing of a row's content goes into either.

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
    provider: Option<opentelemetry_sdk::trace::SdkTracerProvider>,
}

/// Starts telemetry. `RUST_LOG` chooses what is logged; `default` without it.
pub fn start(style: LogStyle, default: &str) -> Telemetry {
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
        use opentelemetry::trace::TracerProvider as _;
        let provider = provider();
        let traces = provider.as_ref().map(|provider| {
            tracing_opentelemetry::layer()
                .with_tracer(provider.tracer("penstock"))
                .with_filter(EnvFilter::new("penstock=info"))
        });
        // An error means that a test has a subscriber of its own.
        let _ = registry.with(traces).try_init();
        Telemetry { provider }
    }
    #[cfg(not(feature = "otlp"))]
    {
        let _ = registry.try_init();
        Telemetry::default()
    }
}

/// The exporter, on a thread of its own: its HTTP client blocks, and must not be made inside a runtime.
#[cfg(feature = "otlp")]
fn provider() -> Option<opentelemetry_sdk::trace::SdkTracerProvider> {
    let named = |name| std::env::var(name).is_ok_and(|value: String| !value.is_empty());
    if !named("OTEL_EXPORTER_OTLP_ENDPOINT") && !named("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") {
        return None;
    }
    let made = std::thread::spawn(|| {
        let exporter = opentelemetry_otlp::SpanExporter::builder().with_http().build().ok()?;
        let resource = opentelemetry_sdk::Resource::builder().with_service_name("penstock").build();
        let provider = opentelemetry_sdk::trace::SdkTracerProvider::builder()
            .with_resource(resource)
            .with_batch_exporter(exporter)
            .build();
        Some(provider)
    });
    made.join().ok().flatten()
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        #[cfg(feature = "otlp")]
        if let Some(provider) = self.provider.take() {
            // Off the runtime: shutting down sends what is left with a client that blocks.
            let _ = std::thread::spawn(move || provider.shutdown()).join();
        }
    }
}
