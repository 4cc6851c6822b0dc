//! What a trace of a batch is made of. How spans leave the process is `app`'s business; here they are only tied together.
//!
//! A batch's trace has the batch's own id (a UUID is 16 bytes, as a trace id is), so that whoever knows a batch finds its
//! trace: upload, extraction, releases, finish, callbacks. A row has a trace of its own, with one span for each call, which
//! links to its batch's: a million rows in one trace are of no use to anybody.
//!
//! Every line that is logged while one of these spans is worked in carries what the span names: `batch`, `row`, `trace_id`.

use rand::RngExt as _;
use tracing::Span;
use tracing::field::Empty;
use uuid::Uuid;

/// The log target of lines about single rows: a line for each step and settlement at `debug`, for failed rows at `warn`.
pub const ROW_LINES: &str = "penstock::row";

/// A trace's id (W3C Trace Context): 16 bytes, not all of them zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceId(u128);

impl TraceId {
    /// The id of a batch's trace.
    pub fn of_batch(batch: Uuid) -> Self {
        Self(batch.as_u128())
    }

    /// From its bytes; none when all are zero.
    pub fn from_bytes(bytes: [u8; 16]) -> Option<Self> {
        Some(Self(u128::from_be_bytes(bytes))).filter(|id| id.0 != 0)
    }

    /// An id that nobody else has.
    pub fn random() -> Self {
        Self(rand::rng().random_range(1..=u128::MAX))
    }

    /// The id in a `traceparent`; none when it cannot be read.
    pub fn of_traceparent(traceparent: &str) -> Option<Self> {
        let hex = |text: &str, digits: usize| {
            let lower = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
            text.len() == digits && text.bytes().all(lower)
        };
        let mut parts = traceparent.split('-');
        let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        // A version to come may have further parts; 00 has none, and ff is none.
        let known = hex(version, 2) && version != "ff" && (version != "00" || parts.next().is_none());
        let valid = known && hex(trace, 32) && hex(parent, 16) && hex(flags, 2);
        let parent = u64::from_str_radix(parent, 16).ok().filter(|id| *id != 0);
        let id = u128::from_str_radix(trace, 16).ok().filter(|id| *id != 0);
        id.filter(|_| valid && parent.is_some()).map(Self)
    }
}

impl std::fmt::Display for TraceId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Ties spans together. What makes a span a part of a trace fills in the span's field `trace_id`, where it has one: that is
/// how logs name the trace.
pub trait Traces: Send + Sync {
    /// Makes a span, which has not begun, a part of a batch's trace.
    fn of_batch(&self, span: &Span, batch: Uuid) -> TraceId;
    /// Gives a span, which has not begun, a trace of its own that points to a batch's.
    fn linked(&self, span: &Span, batch: Uuid) -> TraceId;
    /// Makes a span, which has not begun, go on with a caller's `traceparent` (W3C Trace Context); one that cannot be
    /// read begins a trace.
    fn continues(&self, span: &Span, traceparent: &str) -> TraceId;
    /// The `traceparent` that goes downstream with a call, which is the span `span` of the trace `trace`; none when
    /// nothing is to be sent.
    fn traceparent(&self, span: &Span, trace: TraceId) -> Option<String>;
    /// Whether spans leave this process.
    fn are_exported(&self) -> bool;
}

/// No spans leave this process: ids are made here, for its logs and for the logs of those whom it calls.
#[derive(Clone, Copy, Debug)]
pub struct Local {
    /// Whether those are told.
    pub propagate: bool,
}

impl Default for Local {
    fn default() -> Self {
        Self { propagate: true }
    }
}

impl Local {
    fn name(span: &Span, id: TraceId) -> TraceId {
        span.record("trace_id", tracing::field::display(id));
        id
    }
}

impl Traces for Local {
    fn of_batch(&self, span: &Span, batch: Uuid) -> TraceId {
        Self::name(span, TraceId::of_batch(batch))
    }

    fn linked(&self, span: &Span, _: Uuid) -> TraceId {
        Self::name(span, TraceId::random())
    }

    fn continues(&self, span: &Span, traceparent: &str) -> TraceId {
        Self::name(span, TraceId::of_traceparent(traceparent).unwrap_or_else(TraceId::random))
    }

    /// Not sampled: nothing of this trace is recorded here.
    fn traceparent(&self, _: &Span, trace: TraceId) -> Option<String> {
        let parent = rand::rng().random_range(1..=u64::MAX);
        self.propagate.then(|| format!("00-{trace}-{parent:016x}-00"))
    }

    fn are_exported(&self) -> bool {
        false
    }
}

/// A row's span, and the trace that begins with it.
#[derive(Clone, Debug)]
pub struct RowTrace {
    /// From its claim to its settlement.
    pub span: Span,
    /// The row's own.
    pub id: TraceId,
}

impl RowTrace {
    /// Of a row that was claimed.
    pub fn new(traces: &dyn Traces, batch: Uuid, row: u32) -> Self {
        let span = tracing::info_span!(parent: None, "row", %batch, row, trace_id = Empty);
        let id = traces.linked(&span, batch);
        Self { span, id }
    }
}

/// The span of a batch's extraction.
pub fn extraction(traces: &dyn Traces, batch: Uuid) -> Span {
    let span = tracing::info_span!(parent: None, "extract", %batch, trace_id = Empty);
    traces.of_batch(&span, batch);
    span
}

/// The moment in which a batch has ended.
pub fn finish(traces: &dyn Traces, batch: Uuid) -> Span {
    let span = tracing::info_span!(parent: None, "finish", %batch, trace_id = Empty);
    traces.of_batch(&span, batch);
    span
}

/// The span of one delivery of a callback.
pub fn callback(traces: &dyn Traces, batch: Uuid, event: &str) -> Span {
    let span = tracing::info_span!(
        parent: None, "callback", otel.kind = "client", %batch, event, http.response.status_code = Empty, trace_id = Empty
    );
    traces.of_batch(&span, batch);
    span
}

/// The span of a dispatcher run, which has a trace of its own.
pub fn dispatcher_run(traces: &dyn Traces) -> Span {
    let span = tracing::info_span!(parent: None, "dispatch", trace_id = Empty, rows = Empty);
    traces.continues(&span, "");
    span
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_is_read_as_the_w3c_has_it_or_not_at_all() {
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let read = |text: &str| TraceId::of_traceparent(text).map(|id| id.to_string());
        for good in [
            format!("00-{trace}-00f067aa0ba902b7-01"),
            format!("00-{trace}-00f067aa0ba902b7-00"),
            format!("cc-{trace}-00f067aa0ba902b7-01-what-comes"),
        ] {
            assert_eq!(read(&good).as_deref(), Some(trace), "{good}");
        }
        for bad in [
            String::new(),
            format!("00-{}-00f067aa0ba902b7-01", trace.to_uppercase()),
            format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            format!("00-{trace}-0000000000000000-01"),
            format!("00-{trace}-00f067aa0ba902b7"),
            format!("00-{trace}-00f067aa0ba902b7-01-more"),
            format!("ff-{trace}-00f067aa0ba902b7-01"),
            format!("00-{}-00f067aa0ba902b7-01", &trace[1..]),
            format!("00-+{}-00f067aa0ba902b7-01", &trace[1..]),
        ] {
            assert_eq!(read(&bad), None, "{bad}");
        }
    }

    #[test]
    fn ids_that_are_made_here_have_the_w3c_s_form() {
        let batch = Uuid::from_u128(0x0192_0000_0000_7000_8000_0000_0000_0001);
        assert_eq!(TraceId::of_batch(batch).to_string(), batch.simple().to_string());
        let parent = Local::default().traceparent(&Span::none(), TraceId::of_batch(batch)).unwrap();
        assert_eq!(TraceId::of_traceparent(&parent), Some(TraceId::of_batch(batch)));
        assert_eq!(Local { propagate: false }.traceparent(&Span::none(), TraceId::random()), None);
        assert_ne!(TraceId::random(), TraceId::random());
    }
}
