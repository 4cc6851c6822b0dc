//! What is counted and gauged. Labels are pipelines, states, dependencies and the like: few and known, never an owner or a
//! batch. docs/operate.md lists all of them.
//!
//! Names are OpenTelemetry's; Prometheus' come from them by the rules of
//! <https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics/>: `penstock.calls`, a counter of
//! `{call}`, is `penstock_calls_total` there. [`render`] writes Prometheus' text.

mod requests;

use std::fmt::Write as _;

use penstock_downstream::Histogram;

pub use requests::RequestMetrics;

/// How a family's values behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It grows while its process lives.
    Counter,
    /// It is what it is now.
    Gauge,
    /// Values by size; each bucket grows while its process lives.
    Histogram,
}

impl Kind {
    /// Prometheus' word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// Values of one name.
#[derive(Clone, Debug)]
pub struct Family {
    /// OpenTelemetry's name.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// Unit after UCUM: `s`, `By`, `1`, or `{what is counted}`.
    pub unit: &'static str,
    /// What it tells.
    pub help: &'static str,
    /// Values by labels.
    pub samples: Vec<Sample>,
}

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Its labels.
    pub labels: Vec<(&'static str, String)>,
    /// The value.
    pub value: Value,
}

/// A number, or many.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Of a counter or a gauge.
    Number(f64),
    /// Of a histogram.
    Histogram(Histogram),
}

impl Family {
    fn new(name: &'static str, kind: Kind, unit: &'static str, help: &'static str) -> Self {
        Self { name, kind, unit, help, samples: Vec::new() }
    }

    pub(crate) fn counter(name: &'static str, unit: &'static str, help: &'static str) -> Self {
        Self::new(name, Kind::Counter, unit, help)
    }

    pub(crate) fn gauge(name: &'static str, unit: &'static str, help: &'static str) -> Self {
        Self::new(name, Kind::Gauge, unit, help)
    }

    pub(crate) fn histogram(name: &'static str, unit: &'static str, help: &'static str) -> Self {
        Self::new(name, Kind::Histogram, unit, help)
    }

    pub(crate) fn push<'a>(
        &mut self,
        labels: impl IntoIterator<Item = (&'static str, &'a str)>,
        value: impl Into<Value>,
    ) {
        let labels = labels.into_iter().map(|(label, text)| (label, text.to_owned())).collect();
        self.samples.push(Sample { labels, value: value.into() });
    }

    pub(crate) fn with<'a>(
        mut self,
        labels: impl IntoIterator<Item = (&'static str, &'a str)>,
        value: impl Into<Value>,
    ) -> Self {
        self.push(labels, value);
        self
    }

    pub(crate) fn alone(self, value: impl Into<Value>) -> Self {
        self.with([], value)
    }

    /// Prometheus' name.
    #[must_use]
    pub fn prometheus_name(&self) -> String {
        let mut name = self.name.replace('.', "_");
        match self.unit {
            "s" => name.push_str("_seconds"),
            "By" => name.push_str("_bytes"),
            "1" if self.kind == Kind::Gauge => name.push_str("_ratio"),
            _ => {}
        }
        if self.kind == Kind::Counter {
            name.push_str("_total");
        }
        name
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Self::Number(number)
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Self::Number(f64::from(number))
    }
}

impl From<u64> for Value {
    #[allow(clippy::cast_precision_loss, reason = "a metric may lose digits")]
    fn from(number: u64) -> Self {
        Self::Number(number as f64)
    }
}

impl From<usize> for Value {
    fn from(number: usize) -> Self {
        Self::from(number as u64)
    }
}

impl From<Histogram> for Value {
    fn from(histogram: Histogram) -> Self {
        Self::Histogram(histogram)
    }
}

/// Prometheus' text format, version 0.0.4.
#[must_use]
pub fn render(families: &[Family]) -> String {
    let mut out = String::new();
    for family in families {
        let name = family.prometheus_name();
        // Writing to a string cannot fail.
        let _ = writeln!(out, "# HELP {name} {}\n# TYPE {name} {}", family.help, family.kind.name());
        for Sample { labels, value } in &family.samples {
            match value {
                Value::Number(number) => line(&mut out, &name, labels, None, *number),
                Value::Histogram(histogram) => buckets(&mut out, &name, labels, histogram),
            }
        }
    }
    out
}

#[allow(clippy::cast_precision_loss, reason = "a metric may lose digits")]
fn buckets(out: &mut String, name: &str, labels: &[(&'static str, String)], histogram: &Histogram) {
    let bucket = format!("{name}_bucket");
    let mut so_far = 0;
    let bounds = histogram.bounds.iter().map(ToString::to_string).chain(["+Inf".to_owned()]);
    for (bound, count) in bounds.zip(&histogram.counts) {
        so_far += count;
        line(out, &bucket, labels, Some(&bound), so_far as f64);
    }
    line(out, &format!("{name}_sum"), labels, None, histogram.sum);
    line(out, &format!("{name}_count"), labels, None, so_far as f64);
}

fn line(out: &mut String, name: &str, labels: &[(&'static str, String)], bound: Option<&str>, value: f64) {
    let labels = labels.iter().map(|(label, text)| (label.replace('.', "_"), text.as_str()));
    let labels: Vec<String> = labels
        .chain(bound.map(|bound| ("le".to_owned(), bound)))
        .map(|(label, text)| format!("{label}=\"{}\"", text.replace(['"', '\\', '\n'], "_")))
        .collect();
    let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
    let _ = writeln!(out, "{name}{labels} {value}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rules_of_both_worlds() {
        let name = |name, kind, unit| Family::new(name, kind, unit, "").prometheus_name();
        assert_eq!(name("penstock.calls", Kind::Counter, "{call}"), "penstock_calls_total");
        assert_eq!(
            name("penstock.row.queue.duration", Kind::Histogram, "s"),
            "penstock_row_queue_duration_seconds"
        );
        assert_eq!(
            name("penstock.extraction.read", Kind::Counter, "By"),
            "penstock_extraction_read_bytes_total"
        );
        assert_eq!(name("penstock.batch.failure", Kind::Gauge, "1"), "penstock_batch_failure_ratio");
        assert_eq!(name("penstock.rows", Kind::Gauge, "{row}"), "penstock_rows");
    }

    #[test]
    fn labels_cannot_break_the_format() {
        let family = Family::gauge("a", "", "what").with([("b.c", "x\"y\n")], 1.5);
        assert_eq!(render(&[family]), "# HELP a what\n# TYPE a gauge\na{b_c=\"x_y_\"} 1.5\n");
    }

    #[test]
    fn a_histogram_s_buckets_are_cumulative() {
        let mut histogram = Histogram::new(&[0.5, 2.0]);
        for value in [0.25, 1.0, 1.0, 8.0] {
            histogram.observe(value);
        }
        let family = Family::histogram("a", "s", "what").with([("b", "c")], histogram);
        assert_eq!(
            render(&[family]),
            "# HELP a_seconds what\n# TYPE a_seconds histogram\n\
             a_seconds_bucket{b=\"c\",le=\"0.5\"} 1\n\
             a_seconds_bucket{b=\"c\",le=\"2\"} 3\n\
             a_seconds_bucket{b=\"c\",le=\"+Inf\"} 4\n\
             a_seconds_sum{b=\"c\"} 10.25\n\
             a_seconds_count{b=\"c\"} 4\n"
        );
    }
}
