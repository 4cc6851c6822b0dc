//! Uploads: multipart/form-data, text/csv as the body, or the id of a file that was PUT before.

use std::time::Duration;

use actix_multipart::Multipart;
use actix_web::http::{StatusCode, header};
use actix_web::{FromRequest as _, HttpRequest, HttpResponse, web};
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use penstock_domain::ledger::Canary;
use penstock_domain::pipeline::{CanaryDefinition, Pipeline};
use penstock_flow::callbacks::check_address;
use penstock_flow::upload::{Accepted, TooLarge, Upload, UploadError, UploadFields, UploadRequest, adopt};
use penstock_flow::view::{BatchView, batch_view};
use serde::Deserialize;
use serde_json::Value;
use std::sync::Arc;
use tokio::time::Instant;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::auth::Caller;
use crate::problem::Problem;
use crate::state::ApiState;

/// Bytes of a form field besides the file.
const FIELD_BYTES: usize = 256 * 1024;

/// Characters of a batch's name.
const NAME_CHARS: usize = 200;

/// Fields as they come in a query, a form or a JSON body.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawFields {
    name: Option<String>,
    context: Option<Value>,
    allow_failures: Option<Value>,
    callback_url: Option<String>,
    priority: Option<Value>,
    canary: Option<Value>,
    upload_id: Option<Uuid>,
}

impl RawFields {
    /// A browser sends every field of a form: one that is left empty is not given.
    fn without_empty(self) -> Self {
        let text = |value: Option<String>| value.filter(|value| !value.is_empty());
        let any = |value: Option<Value>| value.filter(|value| value != "");
        Self {
            name: text(self.name),
            context: any(self.context),
            allow_failures: any(self.allow_failures),
            callback_url: text(self.callback_url),
            priority: any(self.priority),
            canary: any(self.canary),
            upload_id: self.upload_id,
        }
    }
}

/// A form with a file.
#[allow(dead_code, reason = "it describes what is read as a stream")]
#[derive(ToSchema)]
pub struct UploadForm {
    /// The CSV.
    #[schema(content_media_type = "application/octet-stream", format = Binary)]
    file: String,
    /// What the client calls it, at most 200 characters.
    name: Option<String>,
    /// A JSON object that templates read.
    context: Option<String>,
    /// `false`: the first failed row cancels the rest.
    allow_failures: Option<bool>,
    /// Where callbacks go.
    callback_url: Option<String>,
    /// Higher goes first among the owner's batches.
    priority: Option<i16>,
    /// The trial, in JSON, as a pipeline has it.
    canary: Option<String>,
}

/// What was uploaded before.
#[allow(dead_code, reason = "RawFields reads it")]
#[derive(ToSchema)]
pub struct UploadedBefore {
    /// Of `POST /v2/uploads`.
    upload_id: Uuid,
    /// As in a form.
    name: Option<String>,
    /// As in a form, an object.
    #[schema(value_type = Option<Object>)]
    context: Option<Value>,
    /// As in a form.
    allow_failures: Option<bool>,
    /// As in a form.
    callback_url: Option<String>,
    /// As in a form.
    priority: Option<i16>,
    /// As in a form, an object.
    #[schema(value_type = Option<Object>)]
    canary: Option<Value>,
}

/// Uploads a file to a pipeline.
#[utoipa::path(
    post, operation_id = "upload_to_pipeline", path = "/v2/pipelines/{name}/batches", tag = "batches",
    params(("name" = String, Path, description = "The pipeline"),
        ("Idempotency-Key" = Option<String>, Header, description = "The same key and content is answered with the same batch")),
    request_body(description = "A form, or the CSV itself with the other fields in the query",
        content((UploadForm = "multipart/form-data"), (String = "text/csv"), (UploadedBefore = "application/json"))),
    responses(
        (status = 202, description = "The batch was made", body = BatchView),
        (status = 413, description = "A limit was passed", body = Problem),
        (status = 422, description = "The file has errors", body = Problem),
    ),
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
        state.engines.pipelines.get(&name).ok_or_else(|| Problem::not_found("pipeline of this name"))?;
    upload(caller, state, pipeline, request, payload).await
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
    let wanted = UploadRequest {
        owner: caller.owner,
        owner_name: caller.owner_name.clone(),
        pipeline,
        idempotency_key: idempotency_key(&request)?,
    };
    let deadline = Deadline { end: Instant::now() + state.upload_time, idle: state.upload_idle };
    let content_type = request
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
        .to_ascii_lowercase();
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_owned();
    let accepted = match essence.as_str() {
        "multipart/form-data" => {
            let mut payload = payload.into_inner();
            let form = Multipart::from_request(&request, &mut payload)
                .await
                .map_err(|error| not_multipart(&error))?;
            from_form(&state, wanted, form, deadline).await?
        }
        "text/csv" => {
            if content_type.contains("charset")
                && !content_type.contains("utf-8")
                && !content_type.contains("utf8")
            {
                return Err(unsupported());
            }
            let query = web::Query::<RawFields>::from_query(request.query_string())
                .map_err(|error| Problem::bad_request("bad_query", error.to_string()))?;
            let fields = fields(&state, query.into_inner())?;
            let mut upload = Upload::start(&state.engines, wanted).await?;
            let mut body = payload.map_err(|error| broken_off(&error));
            while let Some(bytes) = deadline.next(&mut body).await? {
                upload.push(&bytes).await.map_err(refusal)?;
            }
            upload.finish(fields).await.map_err(refusal)?
        }
        "application/json" => from_json(&state, wanted, payload, deadline).await?,
        _ => return Err(unsupported()),
    };
    let view = batch_view(&state.engines, &accepted.batch, state.quota(&accepted.batch)).await?;
    Ok(HttpResponse::Accepted()
        .insert_header((header::LOCATION, format!("/v2/batches/{}", view.id)))
        .json(view))
}

fn idempotency_key(request: &HttpRequest) -> Result<Option<String>, Problem> {
    let Some(value) = request.headers().get("idempotency-key") else { return Ok(None) };
    let key = value.to_str().unwrap_or_default().trim().trim_matches('"').to_owned();
    if key.is_empty() || key.len() > 255 {
        return Err(Problem::bad_request(
            "bad_idempotency_key",
            "Idempotency-Key has 1 to 255 visible characters",
        ));
    }
    Ok(Some(key))
}

/// How long an upload may take, and how long it may stand still.
#[derive(Clone, Copy)]
struct Deadline {
    end: Instant,
    idle: Duration,
}

impl Deadline {
    async fn next<S, T>(&self, stream: &mut S) -> Result<Option<T>, Problem>
    where
        S: Stream<Item = Result<T, Problem>> + Unpin,
    {
        let until = (Instant::now() + self.idle).min(self.end);
        match tokio::time::timeout_at(until, stream.next()).await {
            Ok(next) => next.transpose(),
            Err(_) => Err(Problem::new(
                StatusCode::REQUEST_TIMEOUT,
                "upload_timeout",
                "the upload stood still or took too long; send it again",
            )),
        }
    }
}

async fn from_form(
    state: &ApiState,
    wanted: UploadRequest,
    mut form: Multipart,
    deadline: Deadline,
) -> Result<Accepted, Problem> {
    let mut raw = serde_json::Map::new();
    let mut upload: Option<Upload> = None;
    let mut parts = (&mut form).map_err(|error| not_multipart(&error.into()));
    while let Some(mut part) = deadline.next(&mut parts).await? {
        let name = part.name().unwrap_or_default().to_owned();
        let mut chunks = (&mut part).map_err(|error| not_multipart(&error.into()));
        if name == "file" {
            if upload.is_some() {
                return Err(Problem::bad_request("two_files", "send one field `file`"));
            }
            let mut taking = Upload::start(&state.engines, wanted.clone()).await?;
            while let Some(bytes) = deadline.next(&mut chunks).await? {
                taking.push(&bytes).await.map_err(refusal)?;
            }
            upload = Some(taking);
            continue;
        }
        let mut value = Vec::new();
        while let Some(bytes) = deadline.next(&mut chunks).await? {
            if value.len() + bytes.len() > FIELD_BYTES {
                let detail = format!("the field `{name}` has more than {FIELD_BYTES} bytes");
                return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "field_too_large", detail));
            }
            value.extend_from_slice(&bytes);
        }
        let text = String::from_utf8(value)
            .map_err(|_| Problem::bad_request("bad_field", format!("the field `{name}` is not UTF-8")))?;
        if raw.insert(name.clone(), Value::String(text)).is_some() {
            return Err(Problem::bad_request("bad_field", format!("the field `{name}` stands twice")));
        }
    }
    let upload =
        upload.ok_or_else(|| Problem::bad_request("no_file", "send the CSV as the form field `file`"))?;
    let raw: RawFields = serde_json::from_value(Value::Object(raw))
        .map_err(|error| Problem::bad_request("bad_field", error.to_string()))?;
    if raw.upload_id.is_some() {
        return Err(Problem::bad_request("bad_field", "`upload_id` goes without a file, as JSON"));
    }
    let fields = fields(state, raw)?;
    upload.finish(fields).await.map_err(refusal)
}

async fn from_json(
    state: &ApiState,
    wanted: UploadRequest,
    payload: web::Payload,
    deadline: Deadline,
) -> Result<Accepted, Problem> {
    let mut body = Vec::new();
    let mut chunks = payload.map_err(|error| broken_off(&error));
    while let Some(bytes) = deadline.next(&mut chunks).await? {
        if body.len() + bytes.len() > FIELD_BYTES {
            return Err(Problem::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "body_too_large",
                "the JSON body is too large",
            ));
        }
        body.extend_from_slice(&bytes);
    }
    let raw: RawFields =
        serde_json::from_slice(&body).map_err(|error| Problem::bad_request("bad_json", error.to_string()))?;
    let id = raw.upload_id.ok_or_else(|| {
        Problem::bad_request(
            "no_file",
            "send `upload_id` from POST /v2/uploads, or the file itself as multipart/form-data or text/csv",
        )
    })?;
    let fields = fields(state, raw)?;
    let pending = state
        .engines
        .store
        .upload(id, wanted.owner)
        .await?
        .filter(|pending| pending.batch.is_none())
        .ok_or_else(|| Problem::unprocessable("no_such_upload", "there is no unused upload of this id"))?;
    let meta =
        object_store::ObjectStoreExt::head(&state.engines.objects, &pending.object_key.as_str().into()).await;
    let bytes = match meta {
        Ok(meta) => meta.size,
        Err(object_store::Error::NotFound { .. }) => {
            return Err(Problem::unprocessable("not_uploaded", "nothing was PUT to this upload's URL yet"));
        }
        Err(error) => return Err(penstock_flow::FlowError::from(error).into()),
    };
    let batch = adopt(&state.engines, &wanted, id, pending.object_key, bytes, fields).await?;
    Ok(Accepted { batch, replayed: false })
}

fn fields(state: &ApiState, raw: RawFields) -> Result<UploadFields, Problem> {
    let raw = raw.without_empty();
    let bad = |detail: &str| Problem::unprocessable("bad_field", detail);
    let context = match raw.context {
        None => None,
        Some(Value::String(text)) => {
            Some(serde_json::from_str(&text).map_err(|_| bad("`context` is not a JSON object"))?)
        }
        Some(other) => Some(other),
    };
    if context.as_ref().is_some_and(|context| !Value::is_object(context)) {
        return Err(bad("`context` is not a JSON object"));
    }
    let allow_failures = match raw.allow_failures {
        None => None,
        Some(Value::Bool(allow)) => Some(allow),
        Some(Value::String(text)) => Some(match text.to_ascii_lowercase().as_str() {
            "true" | "1" => true,
            "false" | "0" => false,
            _ => return Err(bad("`allow_failures` is true or false")),
        }),
        Some(_) => return Err(bad("`allow_failures` is true or false")),
    };
    let priority = match raw.priority {
        None => None,
        Some(Value::String(text)) => {
            Some(text.parse().map_err(|_| bad("`priority` is a small whole number"))?)
        }
        Some(other) => Some(
            other
                .as_i64()
                .and_then(|n| i16::try_from(n).ok())
                .ok_or_else(|| bad("`priority` is a small whole number"))?,
        ),
    };
    let canary = match raw.canary {
        None => None,
        Some(Value::String(text)) => Some(serde_json::from_str::<CanaryDefinition>(&text)),
        Some(other) => Some(serde_json::from_value::<CanaryDefinition>(other)),
    };
    let canary = canary
        .transpose()
        .ok()
        .filter(|canary| canary.as_ref().is_none_or(|canary| canary.rows > 0))
        .ok_or_else(|| bad("`canary` is an object such as {\"rows\": 20, \"max_failure\": \"10 %\"}"))?;
    if raw.name.as_ref().is_some_and(|name| name.chars().count() > NAME_CHARS) {
        return Err(bad("`name` has at most 200 characters"));
    }
    if let Some(url) = &raw.callback_url {
        check_address(url, state.allow_private_callbacks).map_err(|error| {
            Problem::unprocessable("bad_callback_url", format!("`callback_url`: {error}"))
        })?;
    }
    Ok(UploadFields {
        name: raw.name,
        context,
        allow_failures,
        callback_url: raw.callback_url,
        priority,
        canary: canary.map(Canary::from),
    })
}

fn refusal(error: UploadError) -> Problem {
    match error {
        UploadError::Rejected(rejected) => Problem::unprocessable(
            "invalid_file",
            match rejected.error_count {
                1 => "the file has 1 error".to_owned(),
                count => format!("the file has {count} errors; the first ones are listed"),
            },
        )
        .with_errors(rejected.errors, rejected.error_count),
        UploadError::TooLarge(TooLarge::Bytes(most)) => Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "file_too_large",
            format!("the file has more than {most} bytes; split it"),
        ),
        UploadError::TooLarge(TooLarge::Csv(limit)) => {
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "limit_exceeded", limit.message.clone())
                .with_errors(vec![limit], 1)
        }
        UploadError::KeyReused => Problem::unprocessable(
            "idempotency_key_reused",
            "this Idempotency-Key was used before with other content; send a new key with new content",
        ),
        UploadError::Flow(error) => error.into(),
    }
}

fn unsupported() -> Problem {
    Problem::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "unsupported_media_type",
        "send multipart/form-data with a field `file`, or text/csv (UTF-8) as the body",
    )
}

fn not_multipart(error: &actix_web::Error) -> Problem {
    Problem::bad_request("bad_multipart", format!("the form cannot be read: {error}"))
}

fn broken_off(error: &dyn std::fmt::Display) -> Problem {
    Problem::bad_request("broken_off", format!("the body broke off: {error}"))
}
