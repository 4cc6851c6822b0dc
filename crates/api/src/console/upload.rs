//! The upload.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use penstock_console::layout::Nav;
use penstock_console::refused::{FileError, Refused as RefusedFile};
use penstock_console::session::new_token;
use penstock_console::upload::{Filled, UploadPage, errors_file};
use serde::Deserialize;
use url::Url;

use crate::body::unencoded;
use crate::console::sign_in::sealing;
use crate::console::upload_form;
use crate::console::visitor::{Visitor, own_site};
use crate::console::{Refused, html, query, see_other};
use crate::pipelines::usable;
use crate::problem::Problem;
use crate::progress;
use crate::state::ApiState;

/// What the page begins with.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Wanted {
    pipeline: String,
    name: String,
}

/// The form.
pub(super) async fn show(
    visitor: Visitor,
    state: web::Data<ApiState>,
    request: HttpRequest,
) -> Result<HttpResponse, Refused> {
    let wanted: Wanted = query(&request)?;
    let filled = Filled { pipeline: wanted.pipeline, name: wanted.name, ..Filled::default() };
    page(&visitor, &state, filled, None)
}

fn page(
    visitor: &Visitor,
    state: &ApiState,
    mut filled: Filled,
    refused: Option<Problem>,
) -> Result<HttpResponse, Refused> {
    let pipelines = usable(&visitor.caller, state);
    if !pipelines.iter().any(|pipeline| pipeline.name == filled.pipeline) {
        filled.pipeline = pipelines.first().map(|pipeline| pipeline.name.clone()).unwrap_or_default();
    }
    let status = refused.as_ref().map_or(StatusCode::OK, |problem| {
        StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    });
    let refused = refused.map(|problem| {
        let errors = problem.errors.unwrap_or_default();
        RefusedFile {
            // The reader's browser may have come by another address than clients do.
            download: problem
                .errors_url
                .map(|url| path_of(&url))
                .or_else(|| (!errors.is_empty()).then(|| errors_file(&errors))),
            counts: RefusedFile::counts_of(&problem.error_counts.unwrap_or_default()),
            count: problem.error_count.unwrap_or(errors.len() as u64),
            detail: problem.detail,
            errors: errors.iter().map(FileError::from).collect(),
        }
    });
    // A form that is sent twice makes one batch.
    let form = new_token(state.services.random.as_ref()).map_err(sealing)?;
    let page = visitor.page(state, "Upload", Nav::Upload);
    Ok(html(status, &UploadPage { page, form, pipelines, filled, refused }))
}

/// Takes a file: leads to its batch, or shows what is wrong with it.
pub(super) async fn take(
    visitor: Visitor,
    state: web::Data<ApiState>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Refused> {
    own_site(&request)?;
    unencoded(request.headers())?;
    let (filled, accepted) = upload_form::take(&visitor, &state, &request, payload).await;
    match accepted {
        Ok(accepted) => Ok(see_other(&format!("/console/batches/{}?done=uploaded", accepted.batch.id))),
        Err(problem) if problem.code == "forged_form" => Err(problem.into()),
        Err(problem) => page(&visitor, &state, filled, Some(problem)),
    }
}

/// How far an upload of the visitor's is, as `GET /v2/uploads/{id}/progress` shows it; no content while nothing is known of it.
pub(super) async fn progress(
    visitor: Visitor,
    state: web::Data<ApiState>,
    id: web::Path<String>,
) -> Result<HttpResponse, Refused> {
    Ok(match progress::known(&visitor.caller, &state, &id).await? {
        Some(known) => HttpResponse::Ok().json(known),
        None => HttpResponse::NoContent().finish(),
    })
}

/// An address of this service without its host.
fn path_of(url: &str) -> String {
    Url::parse(url).map_or_else(|_| url.to_owned(), |url| url.path().to_owned())
}
