//! `errors.csv`: the wrong lines of a file that was refused, for an hour.

use actix_web::http::header;
use actix_web::{HttpResponse, web};
use bytes::Bytes;
use futures::{Stream, TryStreamExt as _};
use penstock_domain::ids::BatchId;
use penstock_flow::FlowError;
use penstock_flow::intake::error_file;
use penstock_store::batches::Batch;

use crate::auth::Caller;
use crate::file_names::{attachment, of_report};
use crate::problem::Problem;
use crate::query::Query;
use crate::refusals;
use crate::report_query::{For, ReportQuery};
use crate::state::ApiState;

/// Its name.
pub(crate) const NAME: &str = "errors.csv";

/// What a link calls that of an upload that became no batch.
pub(crate) const OF_UPLOAD: &str = "upload/errors.csv";

/// The wrong lines of a refused upload, one for each of its first 100,000 errors. The file's columns come first; `_line`,
/// `_column`, `_code` and `_message` say what is wrong. It can be read for an hour, by keys of the owner who uploaded the file. The
/// id is the `upload_id` of the refusal, or that of `POST /v2/uploads`.
#[utoipa::path(get, operation_id = "download_upload_errors", path = "/v2/uploads/{id}/errors.csv", tag = "batches", params(("id" = String, Path), ReportQuery),
    responses((status = 200, description = "The wrong lines", content((String = "text/csv"))), refusals::Asked, refusals::Named, refusals::Sealed),
    security(("key" = [])))]
pub async fn of_upload(
    caller: Caller,
    state: web::Data<ApiState>,
    id: web::Path<String>,
    query: Query<ReportQuery>,
) -> Result<HttpResponse, Problem> {
    let id = id.parse().map_err(|_| unknown())?;
    let presigned = state.services.store.upload(id, caller.owner).await?;
    let reader = query.0.reader;
    let Some(presigned) = presigned else { return send_of_upload(&state, caller, BatchId(id), reader).await };
    let batch: Vec<_> = presigned.batch.into_iter().collect();
    let batch = state.services.store.batches_by_seq(&batch).await?.pop().ok_or_else(unknown)?;
    // As by the batch's own address: a key for other pipelines reads nothing of it.
    let batch = caller.batch(&state, &batch.id.to_string()).await?;
    send(&state, caller, batch, reader).await
}

/// Sends the list of a refused upload.
///
/// # Errors
/// 404 when there is none of the caller's owner, or its hour is over.
pub(crate) async fn send_of_upload(
    state: &ApiState,
    caller: Caller,
    id: BatchId,
    reader: Option<For>,
) -> Result<HttpResponse, Problem> {
    let owner = &caller.owner_name;
    let may_read = |pipeline: &str| caller.may_use(pipeline);
    let list = error_file::open(&state.services, owner, id, None, reader.is_some(), may_read).await?;
    Ok(answer(state, &caller, list.ok_or_else(unknown)?, attachment(&format!("{id}-{NAME}"))))
}

/// Sends the list of a batch whose file failed.
///
/// # Errors
/// 404 when there is none, or its hour is over; 410 when the batch was erased.
pub(crate) async fn send(
    state: &ApiState,
    caller: Caller,
    batch: Batch,
    reader: Option<For>,
) -> Result<HttpResponse, Problem> {
    if batch.erased_at.is_some() {
        return Err(FlowError::Erased.into());
    }
    let secrets = state.services.secrets_of(&batch).await?;
    let (owner, key) = (&batch.owner_name, Some(secrets.key()));
    // Whether the key is for the batch's pipeline was looked at with the batch.
    let list = error_file::open(&state.services, owner, batch.id, key, reader.is_some(), |_| true).await?;
    let name = of_report(&batch, NAME);
    Ok(answer(state, &caller, list.ok_or_else(unknown)?, name))
}

fn answer(
    state: &ApiState,
    caller: &Caller,
    list: impl Stream<Item = Result<Bytes, FlowError>> + Send + 'static,
    disposition: String,
) -> HttpResponse {
    let held = caller.clone().hold(state, list.map_err(Problem::from));
    let body = held.inspect_err(|error| tracing::warn!(reason = error.detail, "a list of errors broke off"));
    HttpResponse::Ok()
        .content_type("text/csv; charset=utf-8; header=present")
        .insert_header((header::CONTENT_DISPOSITION, disposition))
        .streaming(Box::pin(body))
}

fn unknown() -> Problem {
    Problem::not_found("list of errors of this upload, or its hour is over,")
}
