//! OTLP: spans as they end, metrics every `OTEL_METRIC_EXPORT_INTERVAL` milliseconds (60,000 unless set).
//!
//! The SDK reads the other `OTEL_*` variables itself: endpoints, headers, timeouts, sampler, resource attributes
//! (<https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/>).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use opentelemetry::metrics::MeterProvider as _;
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::{
    SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use penstock_downstream::Caller;
use penstock_flow::Engines;
use penstock_flow::metrics::{self, Family, Kind, Sample};
use penstock_flow::process::WorkerFigures;
use penstock_flow::traces::Traces;
use tokio_util::sync::CancellationToken;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::{EnvFilter, Layer};
use uuid::Uuid;

/// The variable of the collector for traces alone.
pub const TRACES: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
/// The variable of the collector for metrics alone.
pub const METRICS: &str = "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT";

/// The specification's default of `OTEL_METRIC_EXPORT_INTERVAL`.
const INTERVAL: Duration = Duration::from_secs(60);

/// Whether a collector is named: for everything, or in that variable.
pub fn wanted(own: &str) -> bool {
    let named = |name: &str| std::env::var(name).is_ok_and(|value| !value.is_empty());
    !named("OTEL_SDK_DISABLED") && (named("OTEL_EXPORTER_OTLP_ENDPOINT") || named(own))
}

/// What sends.
pub struct Otlp {
    service: &'static str,
    traces: SdkTracerProvider,
}

/// Starts to send spans, where a collector is named.
pub fn start(service: &'static str) -> Option<Otlp> {
    if !wanted(TRACES) {
        return None;
    }
    // On a thread of its own: the exporter's HTTP client blocks, and must not be made inside a runtime.
    let made = std::thread::spawn(move || {
        let exporter = opentelemetry_otlp::SpanExporter::builder().with_http().build();
        let exporter =
            exporter.inspect_err(|error| eprintln!("{service}: no traces are sent: {error}")).ok()?;
        Some(
            SdkTracerProvider::builder()
                .with_resource(resource(service))
                .with_batch_exporter(exporter)
                .build(),
        )
    });
    Some(Otlp { service, traces: made.join().ok().flatten()? })
}

fn resource(service: &'static str) -> opentelemetry_sdk::Resource {
    let mut resource = opentelemetry_sdk::Resource::builder();
    if std::env::var_os("OTEL_SERVICE_NAME").is_none() {
        resource = resource.with_service_name(service);
    }
    resource.with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION"))).build()
}

impl Otlp {
    /// The layer that hears of spans.
    pub fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
    {
        // Not where in the source a span was made, nor on which thread: a million rows would each carry it.
        tracing_opentelemetry::layer()
            .with_tracer(self.traces.tracer(self.service))
            .with_location(false)
            .with_threads(false)
            .with_filter(EnvFilter::new("penstock=info"))
    }

    /// Sends what is left.
    pub fn end(self) {
        // Off the runtime: the client blocks.
        let _ = std::thread::spawn(move || self.traces.shutdown()).join();
    }
}

/// Ties spans by OpenTelemetry's contexts.
pub struct Tied;

impl Tied {
    /// A batch's trace has no root span: it begins with the upload and has no end that a span could wait for.
    fn batch(batch: Uuid) -> SpanContext {
        let bytes = batch.into_bytes();
        let span = <[u8; 8]>::try_from(&bytes[8..]).unwrap_or_default();
        let (trace, span) = (TraceId::from_bytes(bytes), SpanId::from_bytes(span));
        SpanContext::new(trace, span, TraceFlags::SAMPLED, true, TraceState::NONE)
    }

    fn name(span: &Span) {
        let context = span.context();
        let context = context.span().span_context().clone();
        if context.is_valid() {
            span.record("trace_id", tracing::field::display(context.trace_id()));
        }
    }
}

impl Traces for Tied {
    fn of_batch(&self, span: &Span, batch: Uuid) {
        // An error means that the span is filtered out.
        let _ = span.set_parent(Context::new().with_remote_span_context(Self::batch(batch)));
        Self::name(span);
    }

    fn linked(&self, span: &Span, batch: Uuid) {
        span.add_link(Self::batch(batch));
        Self::name(span);
    }

    fn continues(&self, span: &Span, traceparent: &str) {
        let carrier = HashMap::from([("traceparent".to_owned(), traceparent.to_owned())]);
        let context = TraceContextPropagator::new().extract_with_context(&Context::new(), &carrier);
        let _ = span.set_parent(context);
        Self::name(span);
    }

    fn traceparent(&self, span: &Span) -> Option<String> {
        let mut carrier: HashMap<String, String> = HashMap::new();
        TraceContextPropagator::new().inject_context(&span.context(), &mut carrier);
        carrier.remove("traceparent")
    }
}

/// What was last collected, by family: instruments are asked for it on the SDK's thread, which cannot wait for a database.
type Latest = Arc<Mutex<HashMap<&'static str, Vec<Sample>>>>;

/// Collects and sends, until `stop`; then once more.
pub async fn metrics(
    engines: Engines,
    worker: Option<Arc<WorkerFigures>>,
    caller: Arc<Caller>,
    stop: CancellationToken,
) {
    let service = if worker.is_some() { "penstock-worker" } else { "penstock-api" };
    let interval = std::env::var("OTEL_METRIC_EXPORT_INTERVAL")
        .ok()
        .and_then(|millis| millis.parse().ok())
        .map_or(INTERVAL, Duration::from_millis);
    let made = tokio::task::spawn_blocking(move || {
        let exporter = opentelemetry_otlp::MetricExporter::builder().with_http().build();
        let exporter = exporter.inspect_err(|error| tracing::warn!(%error, "no metrics are sent")).ok()?;
        // Sent when they were collected, not by the reader's own clock.
        let reader = PeriodicReader::builder(exporter).with_interval(Duration::from_secs(86_400)).build();
        Some(SdkMeterProvider::builder().with_resource(resource(service)).with_reader(reader).build())
    });
    let Ok(Some(provider)) = made.await else { return };
    let latest = Latest::default();
    let meter = provider.meter("penstock");
    let mut known: Vec<&'static str> = Vec::new();
    loop {
        let stopped = tokio::select! {
            () = stop.cancelled() => true,
            () = tokio::time::sleep(interval) => false,
        };
        for family in metrics::collect(&engines, worker.as_deref(), Some(&caller)).await {
            if !known.contains(&family.name) {
                known.push(family.name);
                instrument(&meter, &family, &latest);
            }
            latest.lock().unwrap_or_else(PoisonError::into_inner).insert(family.name, family.samples);
        }
        let sender = provider.clone();
        let sent =
            tokio::task::spawn_blocking(
                move || {
                    if stopped { sender.shutdown() } else { sender.force_flush() }
                },
            );
        if let Ok(Err(error)) = sent.await {
            tracing::debug!(%error, "metrics were not sent; the next ones are");
        }
        if stopped {
            return;
        }
    }
}

fn instrument(meter: &opentelemetry::metrics::Meter, family: &Family, latest: &Latest) {
    let (name, latest) = (family.name, latest.clone());
    let tell = move |tell: &mut dyn FnMut(f64, &[KeyValue])| {
        let latest = latest.lock().unwrap_or_else(PoisonError::into_inner);
        for sample in latest.get(name).map(Vec::as_slice).unwrap_or_default() {
            let labels: Vec<KeyValue> =
                sample.labels.iter().map(|(label, value)| KeyValue::new(*label, value.clone())).collect();
            tell(sample.value, &labels);
        }
    };
    match family.kind {
        Kind::Counter => {
            let counter =
                meter.f64_observable_counter(name).with_description(family.help).with_unit(family.unit);
            counter.with_callback(move |to| tell(&mut |value, labels| to.observe(value, labels))).build();
        }
        Kind::Gauge => {
            let gauge = meter.f64_observable_gauge(name).with_description(family.help).with_unit(family.unit);
            gauge.with_callback(move |to| tell(&mut |value, labels| to.observe(value, labels))).build();
        }
    }
}
