//! The OpenAPI document, made from the handlers themselves.

use utoipa::openapi::RefOr;
use utoipa::openapi::path::ParameterIn;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::{Modify, OpenApi};

use crate::problem::{FileError, Problem};
use crate::{
    audit, batches, callbacks, downloads, events, health, ingest, keyless, presigned, reports, retry, rows,
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
        batches::errors,
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
        presigned::create,
        presigned::put,
        health::livez,
        health::readyz,
        keyless::metrics,
    ),
    components(schemas(Problem, FileError)),
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
