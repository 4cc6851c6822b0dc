//! Limits of dependencies, for admin keys.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use penstock_console::layout::{Nav, Page};
use penstock_console::limits::Limits;
use penstock_flow::operate::limits::{self, LimitView};
use penstock_store::owners::Scope;

use crate::console::visitor::Visitor;
use crate::console::{Refused, given, html, see_other};
use crate::limits::{LimitBody, set, unset};
use crate::problem::Problem;
use crate::state::ApiState;

const HOME: &str = "/console/limits";

/// Its title.
pub(super) const TITLE: &str = "Limits";

/// The page of all of them.
pub(super) async fn list(visitor: Visitor, state: web::Data<ApiState>) -> Result<HttpResponse, Refused> {
    visitor.is_admin()?;
    Ok(html(StatusCode::OK, &page(visitor.page(&state, TITLE, Nav::Limits), &look(&state).await?)))
}

/// All of them, as they stand.
pub(super) async fn look(state: &ApiState) -> Result<Vec<LimitView>, Problem> {
    Ok(limits::all(&state.services, state.caller.as_deref()).await?)
}

/// The page that shows them.
pub(super) fn page(page: Page, limits: &[LimitView]) -> Limits<'_> {
    Limits { page, limits }
}

/// A number that a form has; nothing when its field is empty.
fn number(value: Option<&str>) -> Result<Option<u32>, Problem> {
    let number = given(value.unwrap_or_default()).map(|text| text.parse::<u32>()).transpose();
    number.map_err(|_| Problem::unprocessable("bad_field", "a limit is a whole number from 1 on"))
}

/// Changes what is set of a dependency.
pub(super) async fn change(
    visitor: Visitor,
    state: web::Data<ApiState>,
    dependency: web::Path<String>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Refused> {
    visitor.is_admin()?;
    visitor.needs(Scope::Admin)?;
    let form = visitor.form(&state, &request, payload).await?;
    let caller = &visitor.caller;
    let body = match form.get("command") {
        Some("pause") => LimitBody { paused: Some(true), ..LimitBody::default() },
        Some("resume") => LimitBody { paused: Some(false), ..LimitBody::default() },
        Some("reset") => {
            unset(caller, &state, &dependency).await?;
            return Ok(see_other(HOME));
        }
        _ => LimitBody {
            limit: number(form.get("limit"))?,
            concurrency: number(form.get("concurrency"))?,
            paused: None,
        },
    };
    set(caller, &state, &dependency, body).await?;
    Ok(see_other(HOME))
}
