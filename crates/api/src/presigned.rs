//! A place to PUT a large file before asking for its batch.

use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use object_store::path::Path;
use penstock_domain::time::Timestamp;
use penstock_flow::FlowError;
use penstock_flow::context::object_writer::PartWriter;
use penstock_flow::intake::presigned;
use penstock_flow::intake::sealed_file::upload_key;
use penstock_store::batches::PendingUpload;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::auth::Caller;
use crate::body::{self, Deadline};
use crate::ingest;
use crate::problem::Problem;
use crate::query::NoQuery;
use crate::refusals;
use crate::state::ApiState;

/// How long an address is good for.
const VALID: Duration = Duration::from_secs(3600);

/// Bytes that go through this API at most; an object store's own address has its own limit.
const MOST_BYTES: u64 = 5 * 1024 * 1024 * 1024;

/// Where to PUT a file.
#[derive(Serialize, ToSchema)]
pub struct UploadPlace {
    /// What the batch is asked for with: `{"upload_id": …}`.
    #[schema(value_type = String, format = Uuid)]
    pub upload_id: Uuid,
    /// Where the file goes.
    pub url: String,
    /// How it goes there.
    pub method: &'static str,
    /// Whether the request carries the same `Authorization` as this one (the object store's own address does not).
    pub authorization: bool,
    /// Until when.
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Timestamp,
}

/// Gives an address to which the client PUTs its file. It is no upload yet, and counts as a request only.
#[utoipa::path(post, operation_id = "create_upload", path = "/v2/uploads", tag = "batches",
    responses((status = 201, description = "A place for a file", body = UploadPlace), refusals::Asked), security(("key" = [])))]
pub async fn create(caller: Caller, state: web::Data<ApiState>, _: NoQuery) -> Result<HttpResponse, Problem> {
    let now = state.services.clock.now();
    let id = state.services.id_generator.uuid(now);
    let key = upload_key(&caller.owner_name, id);
    let expires_at = now + VALID;
    let upload = PendingUpload {
        id,
        owner: caller.owner,
        object_key: key.to_string(),
        created_at: now,
        expires_at,
        batch: None,
    };
    state.services.store.create_upload(&upload).await?;
    let (url, authorization) = match &state.signer {
        Some(signer) => (signer.sign(true, key.as_ref(), VALID).await.map_err(FlowError::from)?, false),
        None => (format!("{}/v2/uploads/{id}/content", state.base), true),
    };
    Ok(HttpResponse::Created().json(UploadPlace {
        upload_id: id,
        url,
        method: "PUT",
        authorization,
        expires_at,
    }))
}

/// The file's bytes: generators of clients know no `text/csv`, and the type makes no difference here.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
#[expect(dead_code, reason = "for the document alone")]
pub struct FileBytes(Vec<u8>);

/// Takes the file itself, where the object store has no addresses of its own.
#[utoipa::path(put, operation_id = "put_upload", path = "/v2/uploads/{id}/content", tag = "batches", params(("id" = String, Path)),
    request_body(content((String = "text/csv"), (inline(FileBytes) = "application/octet-stream"))),
    responses((status = 204, description = "The file is there"), refusals::Asked, refusals::Named, refusals::Small), security(("key" = [])))]
pub async fn put(
    caller: Caller,
    state: web::Data<ApiState>,
    id: web::Path<String>,
    _: NoQuery,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    state.rates.upload(&caller.key_id, caller.owner, &request)?;
    ingest::admit(&state, caller.owner, 0, &request).await?;
    // What is stored are the bytes as they come: with or without the header, who reads a compressed file sees what it is.
    body::coding(request.headers())?;
    let unknown = || Problem::not_found("open upload of this id");
    let id = id.parse().map_err(|_| unknown())?;
    let upload = state.services.store.upload(id, caller.owner).await?.ok_or_else(unknown)?;
    if upload.batch.is_some() || upload.expires_at < state.services.clock.now() {
        return Err(unknown());
    }
    let path = Path::from(upload.object_key.as_str());
    let most = state.services.part_bytes;
    let room = state.budgets.upload(caller.owner, body::announced(request.headers()), most).await?;
    let mut parts = PartWriter::new(&state.services, path);
    let deadline = Deadline::start(&state);
    let mut chunks = body::within(payload, &room);
    let mut bytes = 0;
    // Every way out drops the writer, which takes back what was sent.
    while let Some(chunk) = deadline.next(&mut chunks).await? {
        bytes += chunk.len() as u64;
        if bytes > MOST_BYTES {
            let detail = format!("the file has more than {MOST_BYTES} bytes; split it");
            return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "file_too_large", detail));
        }
        parts.push(&chunk).await?;
    }
    caller.still(&state).await?;
    if finished(&state, upload, parts).await? {
        Ok(HttpResponse::NoContent().finish())
    } else {
        Err(unknown())
    }
}

/// Completes the file, also when its client hangs up meanwhile; false when its upload has ended.
async fn finished(state: &ApiState, upload: PendingUpload, parts: PartWriter) -> Result<bool, Problem> {
    let services = state.services.clone();
    match tokio::spawn(async move { presigned::complete(&services, &upload, parts).await }).await {
        Ok(ended) => Ok(ended?),
        Err(error) => {
            tracing::error!(%error, "the end of a file panicked");
            Err(Problem::internal())
        }
    }
}
