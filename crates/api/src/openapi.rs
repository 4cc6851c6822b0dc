//! The OpenAPI document, made from the handlers themselves.

use penstock_domain::ledger::Event;
use penstock_domain::time::Timestamp;
use penstock_flow::callbacks::snapshot::CallbackData;
use serde_json::json;
use utoipa::openapi::RefOr;
use utoipa::openapi::path::ParameterIn;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::{Modify, OpenApi, ToSchema};

use crate::problem::{FileError, FileErrorCount, Problem};
use crate::{
    audit, batches, callbacks, downloads, error_files, errors, events, health, history, ingest, keyless,
    limits, operations, pipelines, presigned, progress, reports, retry, rows, throughput,
};

/// The document.
#[derive(OpenApi)]
#[openapi(
    info(title = "Penstock", description = "Rows of a CSV, each carried once through rate-limited APIs."),
    paths(
        ingest::upload_to_pipeline,
        batches::list,
        batches::show,
        batches::cancel,
        batches::pause,
        batches::resume,
        retry::retry,
        batches::erase,
        errors::summarize,
        throughput::show,
        history::show,
        rows::list,
        rows::show,
        rows::waiting,
        reports::report,
        downloads::create,
        downloads::follow,
        events::stream,
        callbacks::list,
        callbacks::redeliver,
        audit::list,
        pipelines::list,
        pipelines::show,
        pipelines::example,
        limits::list,
        limits::change,
        limits::reset,
        operations::show,
        operations::plan,
        operations::apply,
        presigned::create,
        presigned::put,
        progress::show,
        error_files::of_upload,
        health::livez,
        health::readyz,
        keyless::metrics,
    ),
    components(schemas(Problem, FileError, FileErrorCount, CallbackEvent)),
    modifiers(&Keys),
)]
pub struct Document;

struct Keys;

impl Modify for Keys {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        document.components.get_or_insert_default().add_security_scheme("key", scheme);
    }
}

/// What is sent to a `callback_url`, for the document.
#[allow(dead_code, reason = "it describes what workers send")]
#[derive(ToSchema)]
pub struct CallbackEvent {
    /// What happened.
    #[schema(rename = "type")]
    kind: String,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    timestamp: Timestamp,
    /// The batch as it was then.
    data: CallbackData,
}

/// The document with the callbacks that the API sends, as it is served.
pub fn written(document: &utoipa::openapi::OpenApi) -> String {
    let mut value = serde_json::to_value(document).expect("JSON holds the document");
    let webhooks = Event::ALL.iter().map(|event| (event.name().to_owned(), webhook(event.name())));
    value["webhooks"] = serde_json::Value::Object(webhooks.collect());
    value.to_string()
}

/// A callback (OpenAPI 3.1, "webhooks"): the request that a receiver gets.
fn webhook(event: &str) -> serde_json::Value {
    let header = |name: &str, about: &str| json!({ "name": name, "in": "header", "required": true, "description": about, "schema": { "type": "string" } });
    let schema = json!({ "allOf": [
        { "$ref": "#/components/schemas/CallbackEvent" },
        { "type": "object", "properties": { "type": { "const": event } } },
    ] });
    json!({ "post": {
        "operationId": event.replace('.', "_"),
        "tags": ["callbacks"],
        "summary": format!("Sent to the `callback_url` of a batch: {event}."),
        "parameters": [
            header("webhook-id", "The same at every delivery of one event"),
            header("webhook-timestamp", "Seconds since 1970, of this delivery"),
            header("webhook-signature", "Signatures of Standard Webhooks, with spaces between them"),
        ],
        "requestBody": { "required": true, "content": { "application/json": { "schema": schema } } },
        "responses": {
            "2XX": { "description": "Accepted" },
            "410": { "description": "Nothing more is sent to this address" },
            "default": { "description": "Delivered again later" },
        },
    } })
}

/// The document, with each pipeline's own route beside the general one.
pub fn with_routes(routes: &[String]) -> utoipa::openapi::OpenApi {
    let mut document = Document::openapi();
    let general = document.paths.paths.get("/v2/pipelines/{name}/batches").cloned();
    if let Some(general) = general {
        for route in routes {
            let mut item = general.clone();
            if let Some(post) = &mut item.post {
                if let Some(parameters) = &mut post.parameters {
                    parameters.retain(|parameter| {
                        !matches!(parameter, RefOr::T(parameter) if parameter.parameter_in == ParameterIn::Path)
                    });
                }
                post.operation_id = Some(format!("upload{}", route.replace('/', "_")));
            }
            document.paths.paths.insert(route.clone(), item);
        }
    }
    document
}
