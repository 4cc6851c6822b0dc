//! Results as a stream: results.csv, failed.csv, unprocessed.csv, and the same as NDJSON.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use actix_web::http::header::{self, EntityTag, IfNoneMatch};
use actix_web::http::{Method, StatusCode};
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::{Buf as _, Bytes};
use futures::{Stream, TryStreamExt as _};
use penstock_flow::FlowError;
use penstock_flow::results::{self, Format, named};
use penstock_store::batches::Batch;

use crate::auth::Caller;
use crate::problem::Problem;
use crate::query::NoQuery;
use crate::refusals;
use crate::state::ApiState;

/// Streams a report of a batch. A finished batch's is the same bytes every time: it has an ETag, and a download that broke
/// off goes on by `Range`.
#[utoipa::path(get, operation_id = "download_report", path = "/v2/batches/{id}/{report}", tag = "results",
    params(("id" = String, Path),
        ("report" = String, Path, description = "results.csv, failed.csv, unprocessed.csv, or the same with .ndjson")),
    responses((status = 200, description = "The file's columns first, then _row, _status, the result's columns, _code, _message, _ref", content((String = "text/csv"), (String = "application/x-ndjson"))),
        (status = 206, description = "A range of a finished batch's report", content((String = "text/csv"), (String = "application/x-ndjson"))),
        (status = 304, description = "It is what If-None-Match names"),
        refusals::Asked, refusals::Named, refusals::Sealed, refusals::Ranged),
    security(("key" = [])))]
pub async fn report(
    caller: Caller,
    state: web::Data<ApiState>,
    path: web::Path<(String, String)>,
    _: NoQuery,
    seen: web::Header<IfNoneMatch>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let (id, name) = path.into_inner();
    let batch = caller.batch(&state, &id).await?;
    send(&state, caller, batch, &name, seen.into_inner(), &request).await
}

/// Sends a report of a batch, as the request's headers ask for it. It breaks off when the caller's key is no longer good, or
/// when the batch is erased.
///
/// # Errors
/// 404 when there is no report of that name, 410 when the batch was erased.
pub async fn send(
    state: &ApiState,
    caller: Caller,
    batch: Batch,
    name: &str,
    seen: IfNoneMatch,
    request: &HttpRequest,
) -> Result<HttpResponse, Problem> {
    let (report, format) = named(name).ok_or_else(|| Problem::not_found("such report"))?;
    if batch.erased_at.is_some() {
        // Before what the client has of it is compared: a copy of what was erased is not "still the same".
        return Err(FlowError::Erased.into());
    }
    let finished = batch.ledger.is_finished();
    // At one revision of a finished batch the bytes are always the same; compressed they are others.
    let opaque = format!("{}-{}-{name}", batch.id, batch.ledger.revision);
    let head = request.method() == Method::HEAD;
    let ranged = (finished && !head).then(|| Wanted::of(request, &opaque)).flatten();
    let compressed = ranged.is_none() && accepts_gzip(request);
    let tag = if finished && !compressed {
        EntityTag::new_strong(opaque.clone())
    } else {
        EntityTag::new_weak(opaque.clone())
    };
    if let IfNoneMatch::Items(tags) = seen
        && tags.iter().any(|known| known.weak_eq(&tag))
    {
        return Ok(HttpResponse::NotModified().insert_header(header::ETag(tag)).finish());
    }
    let content_type = match format {
        Format::Csv => "text/csv; charset=utf-8; header=present",
        Format::Ndjson => "application/x-ndjson",
    };
    let written = || async {
        let body = results::stream(state.engines.clone(), batch.clone(), report, format).await?;
        let body = body.map_err(Problem::from);
        Ok::<_, Problem>(
            caller
                .clone()
                .hold(state, body)
                .inspect_err(|error| tracing::warn!(reason = error.detail, "a report broke off")),
        )
    };
    let mut response = HttpResponse::Ok();
    response.content_type(content_type);
    response.insert_header((header::CONTENT_DISPOSITION, format!("attachment; filename=\"{name}\"")));
    if finished {
        response.insert_header(header::ETag(tag));
        response.insert_header((header::ACCEPT_RANGES, "bytes"));
    }
    if head {
        return Ok(response.streaming(nothing()));
    }
    let Some(wanted) = ranged else { return Ok(response.streaming(written().await?)) };
    let length = match state.lengths.known(&opaque) {
        Some(length) => length,
        None => {
            let length = written().await?.try_fold(0, async |sum, part| Ok(sum + part.len() as u64)).await?;
            state.lengths.note(opaque, length);
            length
        }
    };
    let Some((first, last)) = wanted.within(length) else {
        return Ok(HttpResponse::RangeNotSatisfiable()
            .insert_header((header::CONTENT_RANGE, format!("bytes */{length}")))
            .finish());
    };
    response.status(StatusCode::PARTIAL_CONTENT);
    response.insert_header((header::CONTENT_RANGE, format!("bytes {first}-{last}/{length}")));
    response.insert_header((header::CONTENT_ENCODING, "identity"));
    response.no_chunking(last - first + 1);
    Ok(response.streaming(cut(written().await?, first, last + 1 - first)))
}

/// The body of an answer to HEAD. A stream would be read to its end for nobody, and hold its connection until then.
pub fn nothing() -> impl Stream<Item = Result<Bytes, Problem>> {
    futures::stream::empty()
}

/// Whether the answer is going to be compressed.
fn accepts_gzip(request: &HttpRequest) -> bool {
    let accepted = request.headers().get(header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok());
    accepted.is_some_and(|accepted| accepted.contains("gzip") || accepted.contains('*'))
}

/// One range of bytes that was asked for (RFC 9110, section 14): from here on, or so many of the last ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    From { first: u64, last: Option<u64> },
    Last(u64),
}

impl Wanted {
    /// None: the whole is to be sent. That is so for several ranges too, which nobody has to honour.
    fn of(request: &HttpRequest, opaque: &str) -> Option<Self> {
        let headers = request.headers();
        if let Some(if_range) = headers.get(header::IF_RANGE) {
            // Only a strong match says that the part fits the parts before it.
            if if_range.to_str().ok()? != format!("\"{opaque}\"") {
                return None;
            }
        }
        Self::parse(headers.get(header::RANGE)?.to_str().ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let (first, last) = text.strip_prefix("bytes=")?.trim().split_once('-')?;
        if first.is_empty() {
            return last.parse().ok().map(Self::Last);
        }
        let first = first.parse().ok()?;
        let last = if last.is_empty() { None } else { Some(last.parse().ok()?) };
        if last.is_some_and(|last| last < first) { None } else { Some(Self::From { first, last }) }
    }

    /// The first and the last byte, of so many; none when there is nothing there.
    fn within(self, length: u64) -> Option<(u64, u64)> {
        let end = length.checked_sub(1)?;
        match self {
            Self::From { first, .. } if first > end => None,
            Self::From { first, last } => Some((first, last.map_or(end, |last| last.min(end)))),
            Self::Last(0) => None,
            Self::Last(bytes) => Some((length.saturating_sub(bytes), end)),
        }
    }
}

/// So many bytes of a stream, from one of them on.
fn cut(
    body: impl Stream<Item = Result<Bytes, Problem>>,
    mut skip: u64,
    mut left: u64,
) -> impl Stream<Item = Result<Bytes, Problem>> {
    async_stream::try_stream! {
        let mut body = std::pin::pin!(body);
        while left > 0 {
            let Some(mut part) = body.try_next().await? else { break };
            let passed = skip.min(part.len() as u64);
            skip -= passed;
            part.advance(usize::try_from(passed).unwrap_or(usize::MAX));
            part.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            left -= part.len() as u64;
            if !part.is_empty() {
                yield part;
            }
        }
    }
}

/// How long reports are that were asked for in parts: counted once, by writing them to nobody.
#[derive(Clone, Debug, Default)]
pub struct Lengths(Arc<Mutex<HashMap<String, u64>>>);

/// So many are remembered; then all are forgotten.
const LENGTHS_KEPT: usize = 256;

impl Lengths {
    fn known(&self, opaque: &str) -> Option<u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(opaque).copied()
    }

    fn note(&self, opaque: String, length: u64) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= LENGTHS_KEPT {
            known.clear();
        }
        known.insert(opaque, length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_is_understood_and_kept_within_the_file() {
        for (text, length, expected) in [
            ("bytes=0-9", 100, Some((0, 9))),
            ("bytes=90-", 100, Some((90, 99))),
            ("bytes=90-200", 100, Some((90, 99))),
            ("bytes=-5", 100, Some((95, 99))),
            ("bytes=-500", 100, Some((0, 99))),
            ("bytes=100-", 100, None),
            ("bytes=-0", 100, None),
            ("bytes=0-", 0, None),
        ] {
            assert_eq!(Wanted::parse(text).unwrap().within(length), expected, "{text}");
        }
        for text in ["bytes=5-2", "bytes=0-1,4-5", "lines=0-1", "bytes=", "bytes=a-b", "bytes=-"] {
            assert_eq!(Wanted::parse(text), None, "{text}");
        }
    }
}
