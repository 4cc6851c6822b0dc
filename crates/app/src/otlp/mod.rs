//! OTLP: spans as they end, metrics every `OTEL_METRIC_EXPORT_INTERVAL` milliseconds.

mod metrics;
mod settings;

use std::collections::HashMap;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};

use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::{
    SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceState, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{Protocol, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::resource::TelemetryResourceDetector;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use penstock_flow::operate::collect_metrics::Sources;
use penstock_flow::telemetry::traces::{Local, TraceId, Traces};
use tokio_util::sync::CancellationToken;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::{EnvFilter, Layer};
use uuid::Uuid;

use settings::{Otel, Sampling, Target, resource};

/// What the variables say.
static OTEL: LazyLock<Otel> = LazyLock::new(|| {
    let faults = std::cell::RefCell::new(Vec::new());
    let mut otel = Otel::read(&|name| {
        crate::variables::value(name).unwrap_or_else(|error| {
            faults.borrow_mut().push(error.to_string());
            None
        })
    });
    otel.complaints.append(&mut faults.into_inner());
    otel
});

/// This process among others of its kind.
static INSTANCE: LazyLock<Uuid> = LazyLock::new(Uuid::new_v4);

/// Whether spans are sent.
static SENDS: AtomicBool = AtomicBool::new(false);

/// Logs which variables cannot be used, and why.
pub fn complain() {
    for complaint in &OTEL.complaints {
        tracing::warn!("{complaint}");
    }
}

/// What ties spans together.
pub fn traces() -> std::sync::Arc<dyn Traces> {
    let propagate = OTEL.propagate;
    if SENDS.load(Ordering::SeqCst) {
        std::sync::Arc::new(Tied { propagate })
    } else {
        std::sync::Arc::new(Local { propagate })
    }
}

/// Sends metrics until `stop`, where a collector is named.
pub fn send_metrics(sources: Sources, service: &'static str, stop: CancellationToken) {
    if let Some(target) = OTEL.metrics.clone() {
        let resource = resource(&OTEL.resource, service, *INSTANCE);
        let periodic = sources.services.periodic.clone();
        match metrics::Export::new(sources, resource, target, OTEL.interval) {
            Ok(export) => drop(periodic.start(export, &stop)),
            Err(error) => tracing::warn!(%error, "no metrics are sent"),
        }
    }
}

/// What sends spans.
pub struct Otlp {
    service: &'static str,
    traces: SdkTracerProvider,
}

/// Starts to send spans, where a collector is named.
pub fn start(service: &'static str) -> Option<Otlp> {
    let target = OTEL.traces.clone()?;
    // On a thread of its own: the exporter's HTTP client blocks, and must not be made inside a runtime.
    let made = std::thread::spawn(move || provider(service, target));
    let traces = made.join().ok().flatten()?;
    SENDS.store(true, Ordering::SeqCst);
    Some(Otlp { service, traces })
}

fn provider(service: &'static str, target: Target) -> Option<SdkTracerProvider> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(target.endpoint)
        .with_headers(target.headers.into_iter().collect())
        .with_timeout(target.timeout)
        .build();
    let exporter = exporter.inspect_err(|error| eprintln!("{service}: no traces are sent: {error}")).ok()?;
    let resource = resource(&OTEL.resource, service, *INSTANCE)
        .into_iter()
        .map(|(name, value)| KeyValue::new(name, value));
    let resource = opentelemetry_sdk::Resource::builder_empty()
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_attributes(resource)
        .build();
    Some(
        SdkTracerProvider::builder()
            .with_resource(resource)
            .with_sampler(sampler(OTEL.sampling))
            .with_batch_exporter(exporter)
            .build(),
    )
}

fn sampler(sampling: Sampling) -> Sampler {
    let own = Sampler::TraceIdRatioBased(sampling.ratio);
    if sampling.parent_based { Sampler::ParentBased(Box::new(own)) } else { own }
}

impl Otlp {
    /// The layer that receives spans.
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
struct Tied {
    propagate: bool,
}

impl Tied {
    /// A batch's trace has no root span: it begins with the upload and has no end that a span could wait for.
    fn batch(batch: Uuid) -> SpanContext {
        let bytes = batch.into_bytes();
        let span = <[u8; 8]>::try_from(&bytes[8..]).unwrap_or_default();
        let trace = opentelemetry::trace::TraceId::from_bytes(bytes);
        SpanContext::new(trace, SpanId::from_bytes(span), TraceFlags::SAMPLED, true, TraceState::NONE)
    }

    /// Fills in the trace that a span is in. One that is in none is filtered out, and then nobody sees its id.
    fn name(span: &Span) -> TraceId {
        let context = span.context();
        let trace = context.span().span_context().trace_id();
        let id = TraceId::from_bytes(trace.to_bytes()).unwrap_or_else(TraceId::random);
        span.record("trace_id", tracing::field::display(id));
        id
    }
}

impl Traces for Tied {
    fn of_batch(&self, span: &Span, batch: Uuid) -> TraceId {
        // An error means that the span is filtered out.
        let _ = span.set_parent(Context::new().with_remote_span_context(Self::batch(batch)));
        Self::name(span)
    }

    fn linked(&self, span: &Span, batch: Uuid) -> TraceId {
        span.add_link(Self::batch(batch));
        Self::name(span)
    }

    fn continues(&self, span: &Span, traceparent: &str) -> TraceId {
        let carrier = HashMap::from([("traceparent".to_owned(), traceparent.to_owned())]);
        let context = TraceContextPropagator::new().extract_with_context(&Context::new(), &carrier);
        let _ = span.set_parent(context);
        Self::name(span)
    }

    fn traceparent(&self, span: &Span, _: TraceId) -> Option<String> {
        if !self.propagate {
            return None;
        }
        let mut carrier: HashMap<String, String> = HashMap::new();
        TraceContextPropagator::new().inject_context(&span.context(), &mut carrier);
        carrier.remove("traceparent")
    }

    fn are_exported(&self) -> bool {
        true
    }
}
