//! Results as a stream: results.csv, failed.csv, unprocessed.csv, and the same as NDJSON.

use std::sync::Arc;

use actix_web::http::header::{self, EntityTag, IfNoneMatch};
use actix_web::http::{Method, StatusCode};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder, web};
use bytes::Bytes;
use futures::{Stream, TryStreamExt as _};
use penstock_flow::FlowError;
use penstock_flow::read::results;
use penstock_flow::read::results::{Format, Report, named};
use penstock_store::batches::Batch;

use crate::auth::Caller;
use crate::body::nothing;
use crate::budgets::PIECE;
use crate::error_files;
use crate::file_names;
use crate::problem::Problem;
use crate::query::Query;
use crate::ranges::{Wanted, cut};
use crate::refusals;
use crate::report_index::{Known, Position};
use crate::report_query::{For, ReportQuery};
use crate::shared_answer::takes_gzip;
use crate::state::ApiState;

/// A report as it was asked for.
#[derive(Clone, Copy, Debug)]
pub struct Named<'a> {
    /// Its name, such as `failed.csv`.
    pub name: &'a str,
    /// For whom.
    pub reader: Option<For>,
}

impl<'a> Named<'a> {
    /// The report of that name, for nobody in particular.
    pub const fn plain(name: &'a str) -> Self {
        Self { name, reader: None }
    }

    /// Which one it is, and how it is written; none when there is none of that name, or none for that reader.
    pub fn find(&self) -> Option<(Report, Format)> {
        match (named(self.name)?, self.reader) {
            (found, None) => Some(found),
            ((report, Format::Csv), Some(For::Spreadsheet)) => Some((report, Format::Spreadsheet)),
            (_, Some(For::Spreadsheet)) => None,
        }
    }
}

/// Streams a report of a batch. A finished batch's is the same bytes every time: it has an ETag, and a download that broke
/// off goes on by `Range`.
#[utoipa::path(get, operation_id = "download_report", path = "/v2/batches/{id}/{report}", tag = "results",
    params(("id" = String, Path),
        ("report" = String, Path, description = "results.csv, failed.csv, unprocessed.csv, or the same with .ndjson; errors.csv of a batch whose file failed, for an hour"), ReportQuery),
    responses((status = 200, description = "The file's columns first, then _row, _status, the result's columns, _code, _message, _ref", content((String = "text/csv"), (String = "application/x-ndjson"))),
        (status = 206, description = "A range of a finished batch's report", content((String = "text/csv"), (String = "application/x-ndjson"))),
        (status = 304, description = "It is what If-None-Match names"),
        refusals::Asked, refusals::Named, refusals::Sealed, refusals::Ranged),
    security(("key" = [])))]
pub async fn report(
    caller: Caller,
    state: web::Data<ApiState>,
    path: web::Path<(String, String)>,
    query: Query<ReportQuery>,
    seen: web::Header<IfNoneMatch>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let (id, name) = path.into_inner();
    let batch = caller.batch(&state, &id).await?;
    let wanted = Named { name: &name, reader: query.0.reader };
    send(&state, caller, batch, wanted, seen.into_inner(), &request).await
}

const fn content_type(format: Format) -> &'static str {
    match format {
        Format::Csv | Format::Spreadsheet => "text/csv; charset=utf-8; header=present",
        Format::Ndjson => "application/x-ndjson",
    }
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
    wanted: Named<'_>,
    seen: IfNoneMatch,
    request: &HttpRequest,
) -> Result<HttpResponse, Problem> {
    if wanted.name == error_files::NAME {
        return error_files::send(state, caller, batch, wanted.reader).await;
    }
    let (report, format) = wanted.find().ok_or_else(|| Problem::not_found("such report"))?;
    let name = wanted.name;
    if batch.erased_at.is_some() {
        // Before what the client has of it is compared: a copy of what was erased is not "still the same".
        return Err(FlowError::Erased.into());
    }
    let finished = batch.ledger.is_finished();
    // At one revision of a finished batch the bytes are always the same; compressed they are others.
    let variant = if format == Format::Spreadsheet { "-spreadsheet" } else { "" };
    let opaque = format!("{}-{}-{name}{variant}", batch.id, batch.ledger.revision);
    let head = request.method() == Method::HEAD;
    let ranged = (finished && !head).then(|| Wanted::of(request.headers(), &opaque)).flatten();
    let compressed = ranged.is_none() && takes_gzip(request);
    let tag =
        if finished && !compressed { EntityTag::new_strong } else { EntityTag::new_weak }(opaque.clone());
    let has_it = match seen {
        IfNoneMatch::Any => true,
        IfNoneMatch::Items(tags) => tags.iter().any(|known| known.weak_eq(&tag)),
    };
    if has_it {
        return Ok(HttpResponse::NotModified().insert_header(header::ETag(tag)).finish());
    }
    let mut response = HttpResponse::Ok();
    response.content_type(content_type(format));
    response.insert_header((header::CONTENT_DISPOSITION, file_names::of_report(&batch, name)));
    if finished {
        response.insert_header(header::ETag(tag));
        response.insert_header((header::ACCEPT_RANGES, "bytes"));
    }
    if head {
        return Ok(response.streaming(nothing()));
    }
    let known = state.reports.known(&opaque);
    let writing = Writing { state: state.clone(), caller, batch, report, format, known };
    let Some(wanted) = ranged else {
        if !compressed {
            // The tag is of these bytes: they are not to be compressed on their way out.
            response.insert_header((header::CONTENT_ENCODING, "identity"));
        }
        return Ok(response.streaming(writing.from(Position::default(), compressed).await?));
    };
    send_range(&writing, response, &wanted).await
}

/// Sends what was asked for of a finished batch's report.
async fn send_range(
    writing: &Writing,
    mut response: HttpResponseBuilder,
    wanted: &Wanted,
) -> Result<HttpResponse, Problem> {
    let length = writing.length().await?;
    let Some((first, last)) = wanted.within(length) else {
        return Ok(HttpResponse::RangeNotSatisfiable()
            .insert_header((header::CONTENT_RANGE, format!("bytes */{length}")))
            .finish());
    };
    response.status(StatusCode::PARTIAL_CONTENT);
    response.insert_header((header::CONTENT_RANGE, format!("bytes {first}-{last}/{length}")));
    response.insert_header((header::CONTENT_ENCODING, "identity"));
    response.no_chunking(last - first + 1);
    let start = writing.known.before(first);
    let body = writing.from(start, false).await?;
    Ok(response.streaming(cut(body, first - start.offset, last + 1 - first)))
}

/// A report that is being written, and what is learnt of it meanwhile.
struct Writing {
    state: ApiState,
    caller: Caller,
    batch: Batch,
    report: Report,
    format: Format,
    known: Arc<Known>,
}

impl Writing {
    async fn pages(
        &self,
        start: Position,
    ) -> Result<impl Stream<Item = Result<(Bytes, Position), FlowError>> + 'static + use<>, FlowError> {
        let finished = self.batch.ledger.is_finished();
        let after = (start.after > 0).then_some(start.after);
        let (services, batch) = (self.state.services.clone(), self.batch.clone());
        let reader = self.state.budgets.reader(self.caller.owner);
        let pages = results::stream(services, batch, self.report, self.format, reader, after).await?;
        let known = self.known.clone();
        Ok(async_stream::try_stream! {
            let mut pages = std::pin::pin!(pages);
            let mut offset = start.offset;
            while let Some(page) = pages.try_next().await? {
                offset += page.bytes.len() as u64;
                let position = Position { offset, after: page.last };
                if finished {
                    known.note(position);
                }
                yield (page.bytes, position);
            }
            if finished {
                known.ended(offset);
            }
        })
    }

    /// Its bytes from a position on, in pieces that do not pile up before a slow client. It breaks off with the caller's key.
    async fn from(
        &self,
        start: Position,
        compressed: bool,
    ) -> Result<impl Stream<Item = Result<Bytes, Problem>> + 'static + use<>, Problem> {
        let room =
            if compressed { Some(self.state.budgets.compressor(self.caller.owner).await?) } else { None };
        let pages = self.pages(start).await?;
        let body = async_stream::try_stream! {
            let _room = room;
            let mut pages = std::pin::pin!(pages);
            while let Some((mut bytes, _)) = pages.try_next().await? {
                while !bytes.is_empty() {
                    yield bytes.split_to(bytes.len().min(PIECE));
                }
            }
        };
        let held = self.caller.clone().hold(&self.state, body);
        Ok(Box::pin(
            held.inspect_err(|error: &Problem| tracing::warn!(reason = error.detail, "a report broke off")),
        ))
    }

    /// How long it is: it is written to nobody once, from where it was known to.
    async fn length(&self) -> Result<u64, Problem> {
        if let Some(length) = self.known.length() {
            return Ok(length);
        }
        let _measuring = self.known.measuring.lock().await;
        if let Some(length) = self.known.length() {
            return Ok(length);
        }
        let start = self.known.before(u64::MAX);
        let pages = self.pages(start).await?;
        let end = pages.try_fold(start.offset, async |_, (_, position)| Ok(position.offset)).await?;
        Ok(end)
    }
}
