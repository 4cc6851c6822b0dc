//! Pipelines.

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use penstock_console::batches::Line;
use penstock_console::layout::Nav;
use penstock_console::pipelines::{PipelinePage, Pipelines};
use penstock_flow::read::pipelines::pipeline_view;
use penstock_store::owners::KeyRole;

use crate::batches::{self, ListQuery};
use crate::console::visitor::Visitor;
use crate::console::{Refused, html};
use crate::pipelines::{example_of, named, usable};
use crate::state::ApiState;

/// Batches that a pipeline's page shows.
const RECENT: u32 = 10;

/// Those that the key may use.
pub(super) async fn list(visitor: Visitor, state: web::Data<ApiState>) -> HttpResponse {
    let pipelines = usable(&visitor.caller, &state);
    html(StatusCode::OK, &Pipelines { page: visitor.page(&state, "Pipelines", Nav::Pipelines), pipelines })
}

/// One of them.
pub(super) async fn show(
    visitor: Visitor,
    state: web::Data<ApiState>,
    name: web::Path<String>,
) -> Result<HttpResponse, Refused> {
    let caller = &visitor.caller;
    let pipeline = named(caller, &state, &name)?;
    let asked =
        ListQuery { pipeline: Some(pipeline.name.clone()), limit: Some(RECENT), ..ListQuery::default() };
    let (found, _, _room) = batches::page(caller, &state, asked).await?;
    let page = PipelinePage {
        page: visitor.page(&state, pipeline.name.clone(), Nav::Pipelines),
        view: pipeline_view(&pipeline, caller.role == KeyRole::Admin),
        lines: found.iter().map(|(batch, view)| Line { view, owner: &batch.owner_name }).collect(),
    };
    Ok(html(StatusCode::OK, &page))
}

/// A file to begin with.
pub(super) async fn example(
    visitor: Visitor,
    state: web::Data<ApiState>,
    name: web::Path<String>,
) -> Result<HttpResponse, Refused> {
    Ok(example_of(&*named(&visitor.caller, &state, &name)?))
}
