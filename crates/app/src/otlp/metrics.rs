//! Metrics by OTLP, the same as `/metrics` shows: collected, written as the protocol's messages, and sent. The SDK's
//! instruments have no place for a histogram that somebody else keeps.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as AnyValueKind;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as Number;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
    ScopeMetrics, Sum,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use penstock_flow::context::error::with_causes;
use penstock_flow::context::periodic::{Schedule, Task};
use penstock_flow::operate::collect_metrics::Sources;
use penstock_flow::telemetry::metrics::{Family, Kind, Sample, Value};
use prost::Message as _;

use super::settings::Target;

/// Collects and sends metrics; when the service stops, once more.
pub struct Export {
    sources: Sources,
    resource: BTreeMap<String, String>,
    target: Target,
    interval: Duration,
    client: reqwest::Client,
    began: u64,
}

impl Export {
    /// # Errors
    /// When the TLS backend cannot be set up.
    pub fn new(
        sources: Sources,
        resource: BTreeMap<String, String>,
        target: Target,
        interval: Duration,
    ) -> Result<Self, reqwest::Error> {
        let client = reqwest::Client::builder().timeout(target.timeout).build()?;
        Ok(Self { sources, resource, target, interval, client, began: nanos(SystemTime::now()) })
    }
}

impl Task for Export {
    const NAME: &'static str = "metrics export";
    type Error = String;

    fn schedule(&self) -> Schedule {
        Schedule::after(self.interval)
    }

    /// Values are cumulative: the next ones make up for those that were not taken.
    async fn run(&mut self) -> Result<(), String> {
        let families = self.sources.collect().await;
        let request = request(families, &self.resource, self.began, nanos(SystemTime::now()));
        post(&self.client, &self.target, request.encode_to_vec()).await
    }

    async fn finish(&mut self) {
        if let Err(error) = self.run().await {
            tracing::warn!(error, "the last metrics were not taken");
        }
    }
}

async fn post(client: &reqwest::Client, target: &Target, body: Vec<u8>) -> Result<(), String> {
    let mut request = client.post(target.endpoint.clone());
    for (name, value) in &target.headers {
        request = request.header(name, value);
    }
    let request = request.header("content-type", "application/x-protobuf").body(body);
    match request.send().await {
        Ok(answer) if answer.status().is_success() => Ok(()),
        Ok(answer) => Err(format!("the collector answered {}", answer.status())),
        Err(error) => Err(with_causes(&error.without_url())),
    }
}

fn nanos(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn request(
    families: Vec<Family>,
    resource: &BTreeMap<String, String>,
    began: u64,
    now: u64,
) -> ExportMetricsServiceRequest {
    let attributes = resource.iter().map(|(name, value)| attribute(name, value)).collect();
    let scope = InstrumentationScope {
        name: "penstock".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        ..InstrumentationScope::default()
    };
    let metrics = families.into_iter().map(|family| metric(family, began, now)).collect();
    let scope_metrics = vec![ScopeMetrics { scope: Some(scope), metrics, schema_url: String::new() }];
    let resource = Some(Resource { attributes, ..Resource::default() });
    let resource_metrics = vec![ResourceMetrics { resource, scope_metrics, schema_url: String::new() }];
    ExportMetricsServiceRequest { resource_metrics }
}

fn attribute(name: &str, value: &str) -> KeyValue {
    let value = AnyValue { value: Some(AnyValueKind::StringValue(value.to_owned())) };
    KeyValue { key: name.to_owned(), value: Some(value), ..KeyValue::default() }
}

fn metric(family: Family, began: u64, now: u64) -> Metric {
    let (mut numbers, mut histograms) = (Vec::new(), Vec::new());
    // What a gauge shows has no beginning.
    let start_time_unix_nano = if family.kind == Kind::Gauge { 0 } else { began };
    for Sample { labels, value } in family.samples {
        let attributes = labels.iter().map(|(label, value)| attribute(label, value)).collect();
        match value {
            Value::Number(number) => numbers.push(NumberDataPoint {
                attributes,
                start_time_unix_nano,
                time_unix_nano: now,
                value: Some(Number::AsDouble(number)),
                ..NumberDataPoint::default()
            }),
            Value::Histogram(histogram) => histograms.push(HistogramDataPoint {
                attributes,
                start_time_unix_nano,
                time_unix_nano: now,
                count: histogram.count(),
                sum: Some(histogram.sum),
                bucket_counts: histogram.counts,
                explicit_bounds: histogram.bounds.to_vec(),
                ..HistogramDataPoint::default()
            }),
        }
    }
    let aggregation_temporality = AggregationTemporality::Cumulative.into();
    let data = match family.kind {
        Kind::Counter => Data::Sum(Sum { data_points: numbers, aggregation_temporality, is_monotonic: true }),
        Kind::Gauge => Data::Gauge(Gauge { data_points: numbers }),
        Kind::Histogram => Data::Histogram(Histogram { data_points: histograms, aggregation_temporality }),
    };
    Metric {
        name: family.name.to_owned(),
        description: family.help.to_owned(),
        unit: family.unit.to_owned(),
        data: Some(data),
        ..Metric::default()
    }
}
