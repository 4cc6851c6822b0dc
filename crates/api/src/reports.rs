//! Results as a stream: results.csv, failed.csv, unprocessed.csv, and the same as NDJSON.

use actix_web::http::header::{self, EntityTag, IfNoneMatch};
use actix_web::{HttpResponse, web};
use futures::TryStreamExt as _;
use penstock_flow::results::{self, Format, Report};

use crate::auth::Caller;
use crate::problem::Problem;
use crate::state::ApiState;

/// Streams a report of a batch.
#[utoipa::path(get, path = "/v2/batches/{id}/{report}", tag = "results",
    params(("id" = String, Path),
        ("report" = String, Path, description = "results.csv, failed.csv, unprocessed.csv, or the same with .ndjson")),
    responses((status = 200, description = "The file's columns first, then _row, _status, the result's columns, _code, _message")),
    security(("key" = [])))]
pub async fn report(
    caller: Caller,
    state: web::Data<ApiState>,
    path: web::Path<(String, String)>,
    seen: web::Header<IfNoneMatch>,
) -> Result<HttpResponse, Problem> {
    let (id, name) = path.into_inner();
    let (report, format) = named(&name).ok_or_else(|| Problem::not_found("such report"))?;
    let batch = caller.batch(&state, &id).await?;
    let tag = EntityTag::new_weak(format!("{}-{}-{name}", batch.id, batch.ledger.revision));
    if let IfNoneMatch::Items(tags) = seen.into_inner()
        && tags.iter().any(|known| known.weak_eq(&tag))
    {
        return Ok(HttpResponse::NotModified().finish());
    }
    let finished = batch.ledger.is_finished();
    let content_type = match format {
        Format::Csv => "text/csv; charset=utf-8; header=present",
        Format::Ndjson => "application/x-ndjson",
    };
    let body = results::stream(state.engines.clone(), batch, report, format).await?;
    let body = body.inspect_err(|error| tracing::warn!(%error, "a report broke off")).map_err(Problem::from);
    let mut response = HttpResponse::Ok();
    response.content_type(content_type);
    response.insert_header((header::CONTENT_DISPOSITION, format!("attachment; filename=\"{name}\"")));
    response.insert_header((header::CACHE_CONTROL, "private, no-cache"));
    if finished {
        response.insert_header(header::ETag(tag));
    }
    Ok(response.streaming(body))
}

fn named(name: &str) -> Option<(Report, Format)> {
    let (report, format) = name.rsplit_once('.')?;
    let report = match report {
        "results" => Report::Results,
        "failed" => Report::Failed,
        "unprocessed" => Report::Unprocessed,
        _ => return None,
    };
    let format = match format {
        "csv" => Format::Csv,
        "ndjson" => Format::Ndjson,
        _ => return None,
    };
    Some((report, format))
}
