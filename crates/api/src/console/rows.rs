//! The rows of a batch, and one of them.

use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use penstock_console::layout::Nav;
use penstock_console::row::{RowPage, StepLine};
use penstock_console::rows::{Chosen, Rows};
use penstock_console::show::number;
use penstock_domain::csv::shows_nothing;
use penstock_domain::pipeline::Pipeline;
use penstock_flow::read::waiting;
use penstock_store::batches::Batch;
use serde::Deserialize;
use url::form_urlencoded;

use crate::console::visitor::Visitor;
use crate::console::{Refused, given, html, query};
use crate::problem::Problem;
use crate::rows::{self, RowQuery};
use crate::state::ApiState;

/// Rows of a page.
const LIMIT: u32 = 50;

/// What the rows are narrowed to.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Filter {
    status: String,
    code: String,
    step: String,
    line: String,
    cursor: String,
}

impl Filter {
    fn asked(&self) -> Result<RowQuery, Problem> {
        let line = given(&self.line).map(|line| line.parse()).transpose();
        let line = line.map_err(|_| Problem::bad_request("bad_line", "a line is a number from 1 on"))?;
        let limit = if line.is_some() && self.cursor.is_empty() { 1 } else { LIMIT };
        Ok(RowQuery {
            status: given(&self.status),
            code: given(&self.code),
            step: given(&self.step),
            line,
            limit: Some(limit),
            cursor: given(&self.cursor),
        })
    }

    /// The address of the page behind a cursor: of a line, what follows it.
    fn next(&self, batch: &Batch, cursor: &str) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        for (name, value) in [("status", &self.status), ("code", &self.code), ("step", &self.step)] {
            if !value.is_empty() {
                query.append_pair(name, value);
            }
        }
        format!("/console/batches/{}/rows?{}", batch.id, query.append_pair("cursor", cursor).finish())
    }
}

/// The steps of its definition, by name. One that no longer loads here keeps nobody from the rows.
async fn steps(state: &ApiState, batch: &Batch) -> Vec<String> {
    let definition = state.services.definition_of(batch).await.ok();
    let names = |pipeline: Arc<Pipeline>| pipeline.steps.iter().map(|step| step.name.clone()).collect();
    definition.map(names).unwrap_or_default()
}

fn name_of(batch: &Batch) -> String {
    batch.name.clone().filter(|name| !shows_nothing(name)).unwrap_or_else(|| batch.id.to_string())
}

/// Rows, in the file's order.
pub(super) async fn list(
    visitor: Visitor,
    state: web::Data<ApiState>,
    id: web::Path<String>,
    request: HttpRequest,
) -> Result<HttpResponse, Refused> {
    let filter: Filter = query(&request)?;
    let batch = visitor.caller.batch(&state, &id).await?;
    let (found, next, _room) = rows::page(&visitor.caller, &state, &batch, filter.asked()?).await?;
    let page = Rows {
        page: visitor.page(&state, "Rows", Nav::Batches),
        batch: batch.id.to_string(),
        name: name_of(&batch),
        steps: steps(&state, &batch).await,
        rows: &found,
        ended: batch.ledger.is_finished(),
        further: !filter.cursor.is_empty(),
        next: next.map(|cursor| filter.next(&batch, &cursor)),
        chosen: Chosen { status: filter.status, code: filter.code, step: filter.step, line: filter.line },
    };
    Ok(html(StatusCode::OK, &page))
}

/// A row without its values.
pub(super) async fn show(
    visitor: Visitor,
    state: web::Data<ApiState>,
    path: web::Path<(String, String)>,
) -> Result<HttpResponse, Refused> {
    one(&visitor, &state, &path, false).await
}

/// A row with its values; who looks at them is written down first.
pub(super) async fn reveal(
    visitor: Visitor,
    state: web::Data<ApiState>,
    path: web::Path<(String, String)>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Refused> {
    visitor.form(&state, &request, payload).await?;
    one(&visitor, &state, &path, true).await
}

async fn one(
    visitor: &Visitor,
    state: &ApiState,
    (id, asked): &(String, String),
    revealed: bool,
) -> Result<HttpResponse, Refused> {
    let batch = visitor.caller.batch(state, id).await?;
    let (row, _room) = rows::one(&visitor.caller, state, &batch, asked, revealed).await?;
    let waits = if row.status.is_terminal() {
        Vec::new()
    } else {
        let (services, calls) = (&state.services, state.caller.as_deref());
        waiting::explain(services, calls, &batch, Some(row.number), state.rows_per_owner, true).await?
    };
    let steps = steps(state, &batch).await;
    let title = format!("Row {}", number(row.number));
    let page = RowPage {
        page: visitor.page(state, title, Nav::Batches),
        batch: batch.id.to_string(),
        name: name_of(&batch),
        steps: StepLine::all(&steps, &row),
        row: &row,
        waits,
        revealed,
    };
    Ok(html(StatusCode::OK, &page))
}
