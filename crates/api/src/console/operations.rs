//! How the installation does, for admin keys.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use penstock_console::layout::{Nav, Page};
use penstock_console::operations::{Operations, Stuck};
use penstock_flow::operate::operations::{OperationsView, operations};
use penstock_store::owners::Scope;
use serde::Deserialize;

use crate::console::visitor::Visitor;
use crate::console::{Refused, html, query};
use crate::operations::{Findings, fixed, found};
use crate::problem::Problem;
use crate::state::ApiState;

/// The page's title.
pub(super) const TITLE: &str = "Operations";

/// Whether what is stuck is looked for: that may take a while.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Wanted {
    stuck: bool,
}

/// The page.
pub(super) async fn show(
    visitor: Visitor,
    state: web::Data<ApiState>,
    request: HttpRequest,
) -> Result<HttpResponse, Refused> {
    visitor.is_admin()?;
    let wanted: Wanted = query(&request)?;
    let stuck = if wanted.stuck { Some(found(&visitor.caller, &state).await?) } else { None };
    let view = look(&state).await?;
    Ok(html(StatusCode::OK, &page(frame(&visitor, &state), &view, stuck.map(|found| shown(found, false)))))
}

fn shown(found: Findings, applied: bool) -> Stuck {
    Stuck { planned: found.planned, findings: found.data, applied }
}

/// How it does now.
pub(super) async fn look(state: &ApiState) -> Result<OperationsView, Problem> {
    Ok(operations(&state.services, state.rows_per_owner).await?)
}

/// The page that shows it.
pub(super) fn page(page: Page, view: &OperationsView, stuck: Option<Stuck>) -> Operations<'_> {
    Operations { page, view, stuck }
}

fn frame(visitor: &Visitor, state: &ApiState) -> Page {
    visitor.page(state, TITLE, Nav::Operations)
}

/// Fixes what is stuck and can be fixed.
pub(super) async fn reconcile(
    visitor: Visitor,
    state: web::Data<ApiState>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Refused> {
    visitor.is_admin()?;
    visitor.needs(Scope::Admin)?;
    visitor.form(&state, &request, payload).await?;
    let done = fixed(&visitor.caller, &state).await?;
    let view = look(&state).await?;
    Ok(html(StatusCode::OK, &page(frame(&visitor, &state), &view, Some(shown(done, true)))))
}
