//! Logs: JSON, an object a line. What a span names (`batch`, `row`, `trace_id`, …) stands in every line that is written while
//! it is worked in, beside the line's own fields, so that one look finds all lines of a row.

use std::fmt::Debug;
use std::io::Write;

use serde::ser::{SerializeMap as _, Serializer as _};
use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::layer::{Context, Filter};
use tracing_subscriber::registry::LookupSpan;

use crate::repeats::Repeats;

/// Writes JSON to what the function makes.
pub struct Json<W> {
    writer: W,
    repeats: Repeats,
}

impl<W> Json<W> {
    /// To what this function makes.
    pub fn new(writer: W) -> Self {
        Self { writer, repeats: Repeats::default() }
    }
}

/// Fields of an event or a span, in the order in which they came.
#[derive(Default)]
struct Fields(Vec<(&'static str, Value)>);

impl Fields {
    fn set(&mut self, field: &Field, value: Value) {
        match self.0.iter_mut().find(|(name, _)| *name == field.name()) {
            Some((_, known)) => *known = value,
            None => self.0.push((field.name(), value)),
        }
    }

    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(known, _)| *known == name)
    }

    fn text(&self, name: &str) -> &str {
        let found = self.0.iter().find(|(known, _)| *known == name);
        found.and_then(|(_, value)| value.as_str()).unwrap_or_default()
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.set(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field, value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field, value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.set(field, format!("{value:?}").into());
    }
}

impl<S, W, O> Layer<S> for Json<W>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: Fn() -> O + 'static,
    O: Write,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        span.extensions_mut().insert(fields);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(fields) = span.extensions_mut().get_mut::<Fields>() {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let (message, error) = (fields.text("message"), fields.text("error"));
        let Some(repeated) = self.repeats.due(event.metadata(), message, fields.has("task"), error) else {
            return;
        };
        if repeated > 0 {
            fields.0.push(("repeated", repeated.into()));
        }
        let mut span = None;
        for one in context.event_scope(event).into_iter().flatten() {
            span.get_or_insert(one.name());
            if let Some(outer) = one.extensions().get::<Fields>() {
                let news = outer.0.iter().filter(|(name, _)| !name.starts_with("otel."));
                let news: Vec<_> = news.filter(|(name, _)| !fields.has(name)).cloned().collect();
                fields.0.extend(news);
            }
        }
        let mut line = Vec::with_capacity(256);
        // A line that cannot be written is lost: there is nowhere to say so.
        if write(&mut line, event.metadata(), span, &fields).is_ok() {
            line.push(b'\n');
            let _ = (self.writer)().write_all(&line);
        }
    }
}

fn write(
    line: &mut Vec<u8>,
    event: &Metadata<'_>,
    span: Option<&str>,
    fields: &Fields,
) -> Result<(), serde_json::Error> {
    let mut timestamp = String::new();
    let _ = SystemTime.format_time(&mut Writer::new(&mut timestamp));
    let mut serializer = serde_json::Serializer::new(line);
    let mut map = serializer.serialize_map(None)?;
    map.serialize_entry("timestamp", &timestamp)?;
    map.serialize_entry("level", event.level().as_str())?;
    let first = |(name, _): &&(&str, Value)| *name == "message";
    for (name, value) in fields.0.iter().filter(first).chain(fields.0.iter().filter(|one| !first(one))) {
        map.serialize_entry(name, value)?;
    }
    if let Some(span) = span {
        map.serialize_entry("span", span)?;
    }
    map.serialize_entry("target", event.target())?;
    map.end()
}

/// The line that reports dropped ones.
pub fn dropped_notice(lines: usize) -> Vec<u8> {
    let mut timestamp = String::new();
    let _ = SystemTime.format_time(&mut Writer::new(&mut timestamp));
    let notice = serde_json::json!({
        "timestamp": timestamp,
        "level": "WARN",
        "message": "log lines were dropped: nobody read standard error",
        "lines": lines,
        "target": module_path!(),
    });
    format!("{notice}\n").into_bytes()
}

/// Lets our own spans pass, whatever `RUST_LOG` says of lines: a warning has to say which row it is about, though nobody
/// asked for more than warnings.
pub struct OwnSpans;

impl OwnSpans {
    fn passes(metadata: &Metadata<'_>) -> bool {
        metadata.is_span() && metadata.target().starts_with("penstock") && *metadata.level() <= Level::INFO
    }
}

impl<S> Filter<S> for OwnSpans {
    fn enabled(&self, metadata: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        Self::passes(metadata)
    }

    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        if Self::passes(metadata) { Interest::always() } else { Interest::never() }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::INFO)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::field::Empty;
    use tracing_subscriber::EnvFilter;
    use tracing_subscriber::filter::FilterExt as _;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(filter: &str, work: impl FnOnce()) -> Vec<Value> {
        let lines = Lines::default();
        let writer = lines.clone();
        let filter = EnvFilter::new(filter).or(OwnSpans);
        let layer = Json::new(move || writer.clone()).with_filter(filter);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), work);
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn a_line_carries_what_its_spans_name() {
        let lines = logged("debug", || {
            let row = tracing::info_span!("row", batch = %"b1", row = 7, trace_id = Empty);
            row.record("trace_id", "t1");
            let call = tracing::info_span!(parent: &row, "call", otel.kind = "client", step = "invite");
            call.in_scope(
                || tracing::debug!(target: "penstock::row", http_status = 204, "a step \"was\" called"),
            );
            tracing::warn!(parent: &row, row = 8, code = None::<&str>, "its own field stands first");
            tracing::info!("of nothing");
        });
        let line = &lines[0];
        for (name, value) in [
            ("message", Value::from("a step \"was\" called")),
            ("level", "DEBUG".into()),
            ("target", "penstock::row".into()),
            ("http_status", 204.into()),
            ("batch", "b1".into()),
            ("row", 7.into()),
            ("trace_id", "t1".into()),
            ("step", "invite".into()),
            ("span", "call".into()),
        ] {
            assert_eq!(line[name], value, "{name} in {line}");
        }
        assert!(line["timestamp"].as_str().is_some_and(|at| at.ends_with('Z')), "{line}");
        assert_eq!(line.get("otel.kind"), None);
        assert_eq!((&lines[1]["row"], &lines[1]["batch"]), (&8.into(), &"b1".into()));
        assert_eq!(lines[1].get("code"), None);
        assert_eq!((lines[2].get("batch"), lines[2].get("span")), (None, None));
    }

    #[test]
    fn what_is_tried_again_is_logged_once_a_minute() {
        let lines = logged("info", || {
            for number in 0..30 {
                tracing::warn!(error = %number, "failed to claim rows; will retry");
                let error = if number % 2 == 0 { "no connection" } else { "no right" };
                tracing::warn!(task = "sweep", error, "a background task failed; will retry");
                tracing::warn!(number, "a batch cannot be read");
            }
        });
        let of = |message: &str| lines.iter().filter(|line| line["message"] == message).count();
        assert_eq!(of("failed to claim rows; will retry"), 1, "{lines:?}");
        assert_eq!(of("a background task failed; will retry"), 2, "each reason");
        assert_eq!(of("a batch cannot be read"), 30, "each is another one");
    }

    #[test]
    fn a_warning_says_whose_it_is_though_only_warnings_are_asked_for() {
        for filter in ["warn", "error,penstock_app=warn"] {
            let lines = logged(filter, || {
                let row = tracing::info_span!("row", row = 7);
                let _entered = row.enter();
                tracing::info!("not asked for");
                tracing::warn!("asked for");
            });
            assert_eq!(lines.len(), 1, "{filter}: {lines:?}");
            assert_eq!(lines[0]["row"], 7, "{filter}");
        }
        let silent = logged("off", || tracing::info_span!("row", row = 7).in_scope(|| tracing::error!("no")));
        assert_eq!(silent.len(), 0, "{silent:?}");
    }
}
