//! Pipelines: what their files look like, and what a row goes through.

use std::sync::Arc;

use actix_web::http::header;
use actix_web::{HttpResponse, web};
use penstock_domain::pipeline::Pipeline;
use penstock_flow::read::pipelines::{PipelineView, example_file, pipeline_view};
use penstock_store::owners::KeyRole;
use serde::Serialize;
use utoipa::ToSchema;

use crate::auth::Caller;
use crate::problem::Problem;
use crate::query::NoQuery;
use crate::refusals;
use crate::state::ApiState;

/// All pipelines.
#[derive(Serialize, ToSchema)]
pub struct PipelineList {
    /// The pipelines that the key may use, by name, without their definitions.
    pub data: Vec<PipelineView>,
}

/// Lists the pipelines that the key may use.
#[utoipa::path(get, operation_id = "list_pipelines", path = "/v2/pipelines", tag = "pipelines",
    responses((status = 200, description = "Those that are loaded now", body = PipelineList), refusals::Asked), security(("key" = [])))]
pub async fn list(caller: Caller, state: web::Data<ApiState>, _: NoQuery) -> HttpResponse {
    HttpResponse::Ok().json(PipelineList { data: usable(&caller, &state) })
}

/// The pipelines that a key may use, by name.
pub(crate) fn usable(caller: &Caller, state: &ApiState) -> Vec<PipelineView> {
    let loaded = state.services.pipelines.iter();
    loaded.filter(|pipeline| caller.may_use(&pipeline.name)).map(|one| pipeline_view(&one, false)).collect()
}

/// Shows a pipeline: its columns, the context that it needs, its steps and limits; to admin keys also its definition.
#[utoipa::path(get, operation_id = "show_pipeline", path = "/v2/pipelines/{name}", tag = "pipelines", params(("name" = String, Path)),
    responses((status = 200, description = "As it is loaded now", body = PipelineView), refusals::Asked, refusals::Named), security(("key" = [])))]
pub async fn show(
    caller: Caller,
    state: web::Data<ApiState>,
    name: web::Path<String>,
    _: NoQuery,
) -> Result<HttpResponse, Problem> {
    let pipeline = named(&caller, &state, &name)?;
    Ok(HttpResponse::Ok().json(pipeline_view(&pipeline, caller.role == KeyRole::Admin)))
}

/// Sends a file to begin with: a pipeline's columns, and a line with a value for each that fits its rule.
#[utoipa::path(get, operation_id = "download_example", path = "/v2/pipelines/{name}/example.csv", tag = "pipelines", params(("name" = String, Path)),
    responses((status = 200, description = "The file", body = String, content_type = "text/csv"), refusals::Asked, refusals::Named), security(("key" = [])))]
pub async fn example(
    caller: Caller,
    state: web::Data<ApiState>,
    name: web::Path<String>,
    _: NoQuery,
) -> Result<HttpResponse, Problem> {
    Ok(example_of(&*named(&caller, &state, &name)?))
}

/// A file to begin with, as a download.
pub(crate) fn example_of(pipeline: &Pipeline) -> HttpResponse {
    let mut response = HttpResponse::Ok();
    response.content_type("text/csv; charset=utf-8; header=present");
    response.insert_header((header::CONTENT_DISPOSITION, "attachment; filename=\"example.csv\""));
    response.body(example_file(pipeline))
}

/// A pipeline that the key may use.
///
/// # Errors
/// 404 when there is none of that name, or the key is for others.
pub(crate) fn named(caller: &Caller, state: &ApiState, name: &str) -> Result<Arc<Pipeline>, Problem> {
    let pipeline = state.services.pipelines.get(name).filter(|_| caller.may_use(name));
    pipeline.ok_or_else(|| Problem::not_found("pipeline of this name"))
}
