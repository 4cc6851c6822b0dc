//! What a trace of a batch is made of. How spans leave the process is `app`'s business; here they are only tied together.
//!
//! A batch's trace has the batch's own id (a UUID is 16 bytes, as a trace id is), so that whoever knows a batch finds its
//! trace: upload, extraction, releases, callbacks. A row has a trace of its own, with one span for each call, which links
//! to its batch's: a million rows in one trace are of no use to anybody.

use tracing::Span;
use uuid::Uuid;

/// Ties spans together. A span's `trace_id` field, where it has one, is filled in: that is how logs name the trace.
pub trait Traces: Send + Sync {
    /// Makes a span, which has not begun, a part of a batch's trace.
    fn of_batch(&self, span: &Span, batch: Uuid);
    /// Lets a span, which has a trace of its own, point to a batch's.
    fn linked(&self, span: &Span, batch: Uuid);
    /// Makes a span, which has not begun, go on with a caller's `traceparent` (W3C Trace Context); one that cannot be
    /// read begins a trace.
    fn continues(&self, span: &Span, traceparent: &str);
    /// The `traceparent` that goes downstream; none when nothing is traced.
    fn traceparent(&self, span: &Span) -> Option<String>;
}

/// Nothing is traced.
#[derive(Clone, Copy, Debug, Default)]
pub struct Untraced;

impl Traces for Untraced {
    fn of_batch(&self, _: &Span, _: Uuid) {}
    fn linked(&self, _: &Span, _: Uuid) {}
    fn continues(&self, _: &Span, _: &str) {}
    fn traceparent(&self, _: &Span) -> Option<String> {
        None
    }
}
