//! The list of batches.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use penstock_console::batches::{Batches, Chosen, Line};
use penstock_console::layout::Nav;
use penstock_domain::time::Timestamp;
use penstock_store::owners::KeyRole;
use serde::Deserialize;
use serde_json::json;
use url::form_urlencoded;

use crate::batches::{self, ListQuery};
use crate::console::visitor::Visitor;
use crate::console::{HOME, Refused, given, html, query};
use crate::pipelines::usable;
use crate::problem::Problem;
use crate::state::ApiState;

/// Batches of a page.
const LIMIT: u32 = 25;

/// What the list is narrowed to.
#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Filter {
    search: String,
    label: String,
    pipeline: String,
    status: String,
    outcome: String,
    owner: String,
    from: String,
    from_offset: String,
    to: String,
    to_offset: String,
    cursor: String,
}

impl Filter {
    fn asked(&self) -> Result<ListQuery, Problem> {
        Ok(ListQuery {
            status: given(&self.status),
            outcome: given(&self.outcome),
            search: given(&self.search),
            label: given(&self.label),
            pipeline: given(&self.pipeline),
            owner: given(&self.owner),
            created_from: given(&self.from).map(|day| midnight(&day, &self.from_offset)).transpose()?,
            created_to: given(&self.to).map(|day| midnight(&day, &self.to_offset)).transpose()?,
            limit: Some(LIMIT),
            cursor: given(&self.cursor),
        })
    }

    /// The address of the page behind a cursor.
    fn next(&self, cursor: &str) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        for (name, value) in [
            ("search", &self.search),
            ("label", &self.label),
            ("pipeline", &self.pipeline),
            ("status", &self.status),
            ("outcome", &self.outcome),
            ("owner", &self.owner),
            ("from", &self.from),
            ("from_offset", &self.from_offset),
            ("to", &self.to),
            ("to_offset", &self.to_offset),
        ] {
            if !value.is_empty() {
                query.append_pair(name, value);
            }
        }
        format!("{HOME}?{}", query.append_pair("cursor", cursor).finish())
    }
}

/// The beginning of a day, as a form's date has it, in the reader's zone; in UTC, where no script says which that is.
fn midnight(day: &str, offset: &str) -> Result<Timestamp, Problem> {
    let zone = given(offset).unwrap_or_else(|| "Z".into());
    serde_json::from_value(json!(format!("{day}T00:00:00{zone}")))
        .map_err(|_| Problem::bad_request("bad_date", "write a date as 2026-11-23"))
}

/// Batches, newest first.
pub(super) async fn list(
    visitor: Visitor,
    state: web::Data<ApiState>,
    request: HttpRequest,
) -> Result<HttpResponse, Refused> {
    let filter: Filter = query(&request)?;
    let caller = &visitor.caller;
    let (found, next, _room) = batches::page(caller, &state, filter.asked()?).await?;
    let owners = match caller.role {
        KeyRole::Admin if caller.pipelines.is_none() => {
            state.services.store.owners().await?.into_iter().map(|owner| owner.name).collect()
        }
        KeyRole::Admin | KeyRole::Client => Vec::new(),
    };
    let newest = found.first().map_or(0, |(batch, _)| batch.seq.0);
    let page = Batches {
        page: visitor.page(&state, "Batches", Nav::Batches),
        newest,
        lines: found.iter().map(|(batch, view)| Line { view, owner: &batch.owner_name }).collect(),
        pipelines: usable(caller, &state).into_iter().map(|view| view.name).collect(),
        owners,
        further: !filter.cursor.is_empty(),
        next: next.map(|cursor| filter.next(&cursor)),
        chosen: Chosen {
            search: filter.search,
            label: filter.label,
            pipeline: filter.pipeline,
            status: filter.status,
            outcome: filter.outcome,
            owner: filter.owner,
            from: filter.from,
            from_offset: filter.from_offset,
            to: filter.to,
            to_offset: filter.to_offset,
        },
    };
    Ok(html(StatusCode::OK, &page))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_begins_in_the_readers_zone() {
        let at = |offset: &str| midnight("2026-11-23", offset).map(|at| at.to_string()).ok();
        assert_eq!(at("").as_deref(), Some("2026-11-23T00:00:00.000Z"));
        assert_eq!(at("+05:30").as_deref(), Some("2026-11-22T18:30:00.000Z"));
        assert_eq!(at("Europe/Berlin"), None);
    }
}
