//! Uploads: multipart/form-data, text/csv as the body, or the id of a file that was PUT before.

use std::sync::Arc;

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use penstock_domain::ids::OwnerSeq;
use penstock_domain::pipeline::Pipeline;
use penstock_flow::intake::presigned_batch::{adopt, waiting_bytes};
use penstock_flow::intake::upload::{Accepted, Upload, UploadRequest};
use penstock_flow::read::view::{BatchView, done_view};
use penstock_store::batches::Kept;
use serde::Serialize;
use utoipa::ToSchema;

use crate::auth::Caller;
use crate::body::{self, Coding, Deadline};
use crate::budgets::UploadRoom;
use crate::fields::{RawFields, UploadForm, UploadQuery, UploadedBefore};
use crate::form;
use crate::media::Media;
use crate::problem::Problem;
use crate::progress::Reporter;
use crate::query::{self, Nothing};
use crate::refusals;
use crate::state::ApiState;
use crate::upload_end::{finished, refusal};

/// Uploads a file to a pipeline.
#[utoipa::path(
    post, operation_id = "upload_to_pipeline", path = "/v2/pipelines/{name}/batches", tag = "batches",
    params(("name" = String, Path, description = "The pipeline"), UploadQuery,
        ("Idempotency-Key" = Option<String>, Header, description = "The same key and content is answered with the same batch"),
        ("Upload-Progress" = Option<Uuid>, Header, description = "A UUID of your own: how far the upload is, `GET /v2/uploads/{id}/progress` shows meanwhile")),
    request_body(description = "A form, the file itself with the other fields in the query, or the id of an upload. A workbook and a file with tabs may be sent by their own media types, too",
        content((UploadForm = "multipart/form-data"), (String = "text/csv"), (UploadedBefore = "application/json"))),
    responses((status = 202, description = "The batch was made", body = UploadedBatch), refusals::Asked, refusals::Upload),
    security(("key" = []))
)]
pub async fn upload_to_pipeline(
    caller: Caller,
    state: web::Data<ApiState>,
    name: web::Path<String>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    let pipeline =
        state.services.pipelines.get(&name).ok_or_else(|| Problem::not_found("pipeline of this name"))?;
    upload(caller, state, pipeline, request, payload).await
}

/// What a caller uploads to a pipeline.
pub(crate) fn upload_of(caller: &Caller, pipeline: Arc<Pipeline>) -> UploadRequest {
    UploadRequest {
        owner: caller.owner,
        owner_name: caller.owner_name.clone(),
        actor: caller.actor(),
        pipeline,
        idempotency_key: None,
        form: None,
    }
}

/// The handler behind every route that takes a file.
///
/// # Errors
/// The refusal, as the client reads it.
pub async fn upload(
    caller: Caller,
    state: web::Data<ApiState>,
    pipeline: Arc<Pipeline>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    if !caller.may_use(&pipeline.name) {
        return Err(Problem::forbidden("the key is for other pipelines"));
    }
    state.rates.upload(&caller.key_id, caller.owner, &request)?;
    let idempotency_key = idempotency_key(&request)?;
    let wanted = UploadRequest { idempotency_key, ..upload_of(&caller, pipeline) };
    let media = Media::of(request.headers(), wanted.pipeline.schema.dialect.charset)?;
    let coding = if media == Media::Json { Coding::Identity } else { body::coding(request.headers())? };
    let accepted = match media {
        Media::Form => {
            no_query(&request)?;
            admit(&state, caller.owner, 1, &request).await?;
            let room = room(&state, &wanted, &request).await?;
            let body = body::decoded(body::within(payload, &room), coding);
            form::take(&caller, &state, wanted, &request, body, &room).await?
        }
        Media::File => {
            let raw: RawFields = query::read(request.query_string())?;
            if raw.upload_id.is_some() {
                return Err(Problem::bad_request("bad_query", "`upload_id` goes without a file, as JSON"));
            }
            admit(&state, caller.owner, 1, &request).await?;
            let room = room(&state, &wanted, &request).await?;
            room.hold(raw.weight()?).await?;
            let fields = raw.checked(&state)?;
            let deadline = Deadline::start(&state);
            let mut reporter = Reporter::of(&request, caller.owner)?;
            let mut upload = Upload::start(&state.services, wanted).await?;
            let mut body = body::decoded(body::within(payload, &room), coding);
            while let Some(bytes) = deadline.next(&mut body).await? {
                if let Err(error) = upload.push(&bytes).await {
                    return Err(refusal(&caller, &state, error).await);
                }
                reporter.report(&state, &upload).await;
            }
            caller.still(&state).await?;
            finished(&caller, &state, upload.finish(fields)).await?
        }
        Media::Json => {
            no_query(&request)?;
            from_json(&caller, &state, wanted, &request, payload).await?
        }
    };
    let view = done_view(&state.services, &accepted.batch, state.rows_per_owner).await;
    Ok(HttpResponse::Accepted()
        .insert_header((header::LOCATION, format!("/v2/batches/{}", view.id)))
        .json(UploadedBatch { batch: view, ignored_columns: accepted.ignored_columns }))
}

/// A batch that was just made.
#[derive(Serialize, ToSchema)]
pub struct UploadedBatch {
    /// As it is now.
    #[serde(flatten)]
    pub batch: BatchView,
    /// Columns of the file that begin with `_`, are not declared by the pipeline and are none of a report's own: they were
    /// ignored. At most 100 of them; empty for an upload by its `upload_id`, whose file is read later.
    pub ignored_columns: Vec<String>,
}

/// Whether the owner may keep so many more batches and the file that comes with the request.
///
/// # Errors
/// 429 when it keeps too much.
pub(crate) async fn admit(
    state: &ApiState,
    owner: OwnerSeq,
    batches: u64,
    request: &HttpRequest,
) -> Result<(), Problem> {
    let bytes = body::announced(request.headers()).unwrap_or(0);
    state.quotas.admit(&state.services.store, owner, Kept { batches, bytes }).await
}

/// Memory for a file: a part that fills, and a record as it is parsed.
async fn room(
    state: &ApiState,
    wanted: &UploadRequest,
    request: &HttpRequest,
) -> Result<UploadRoom, Problem> {
    let schema = &wanted.pipeline.schema;
    let most = state.services.part_bytes + schema.limits.max_record_bytes + schema.unique_bytes();
    state.budgets.upload(wanted.owner, body::announced(request.headers()), most).await
}

/// What stands in the query beside a form would be taken for said, and is not.
fn no_query(request: &HttpRequest) -> Result<(), Problem> {
    query::read::<Nothing>(request.query_string()).map(|_| ()).map_err(|_| {
        Problem::bad_request(
            "bad_query",
            "query parameters go with text/csv; a form and JSON have them as fields of their own",
        )
    })
}

fn idempotency_key(request: &HttpRequest) -> Result<Option<String>, Problem> {
    let bad = "bad_idempotency_key";
    let mut sent = request.headers().get_all("idempotency-key");
    let Some(value) = sent.next() else { return Ok(None) };
    if sent.next().is_some() {
        return Err(Problem::bad_request(bad, "send one `Idempotency-Key` header"));
    }
    if value.as_bytes().iter().any(u8::is_ascii_control) {
        return Err(Problem::unprocessable(bad, "Idempotency-Key holds a control character"));
    }
    let key = value.to_str().unwrap_or_default().trim().trim_matches('"').to_owned();
    if key.is_empty() || key.len() > 255 {
        return Err(Problem::bad_request(bad, "Idempotency-Key has 1 to 255 visible ASCII characters"));
    }
    Ok(Some(key))
}

async fn from_json(
    caller: &Caller,
    state: &ApiState,
    wanted: UploadRequest,
    request: &HttpRequest,
    payload: web::Payload,
) -> Result<Accepted, Problem> {
    let body = body::small(state, wanted.owner, request.headers(), payload).await?;
    let (raw, _room) = body.json::<RawFields>(state, wanted.owner).await?;
    caller.still(state).await?;
    let id = raw.upload_id.ok_or_else(|| {
        Problem::bad_request(
            "no_file",
            "send `upload_id` from POST /v2/uploads, or the file itself as multipart/form-data or text/csv",
        )
    })?;
    let fields = raw.checked(state)?;
    // A repeated request makes no further batch, and one without a file makes none: both are answered further on.
    if let Some(bytes) = waiting_bytes(&state.services, wanted.owner, id).await? {
        state.quotas.admit(&state.services.store, wanted.owner, Kept { batches: 1, bytes }).await?;
    }
    let services = state.services.clone();
    finished(caller, state, async move { adopt(&services, wanted, id, fields).await }).await
}
