//! One batch, and its reports.

use actix_web::http::StatusCode;
use actix_web::http::header::IfNoneMatch;
use actix_web::{HttpRequest, HttpResponse, web};
use penstock_console::batch::{BatchPage, ErrorGroup, Event, Live, Sample};
use penstock_console::batches::name_of;
use penstock_console::chart::chart;
use penstock_console::layout::Nav;
use penstock_console::show::number;
use penstock_domain::ledger::Ledger;
use penstock_flow::read::errors::CodeGroup;
use penstock_flow::read::row_view::row_view;
use penstock_flow::read::view::batch_view;
use penstock_flow::read::waiting;
use penstock_flow::read::waits::Wait;
use penstock_store::batches::Batch;
use penstock_store::owners::KeyRole;
use serde::Deserialize;

use crate::auth::Caller;
use crate::console::visitor::Visitor;
use crate::console::{Refused, html, query};
use crate::errors::by_code;
use crate::history::{HistoryEvent, commands, history};
use crate::problem::Problem;
use crate::reports;
use crate::state::ApiState;
use crate::throughput;

/// Groups of failed rows that are shown with samples; a batch has few codes, and reads cost.
const GROUPS: usize = 12;

/// Callbacks and audit entries that are shown.
const LISTED: u32 = 25;

/// What was just done, by its name in the query: never a text of the query itself.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Done {
    done: String,
    rows: Option<u32>,
}

impl Done {
    /// What to say of it, while it is still so: an address may be opened again later.
    fn sentence(&self, ledger: &Ledger, erased: bool) -> Option<String> {
        let sentence = match (self.done.as_str(), self.rows) {
            ("paused", _) if ledger.paused => "Paused: no more rows are released.",
            ("resumed", _) if !ledger.paused && ledger.hold.is_none() => "Resumed.",
            ("cancelled", _) if ledger.cancelled_at.is_some() => {
                "Cancelled: rows that have not started never run."
            }
            ("erased", _) if erased => "Erased.",
            ("redelivered", _) => "The callback is delivered again.",
            ("uploaded", _) => "The file was accepted.",
            ("retried", Some(0)) => "No row was as the retry asked for: nothing changed.",
            ("retried", Some(1)) => "1 row goes back.",
            ("retried", Some(rows)) => return Some(format!("{} rows go back.", number(rows))),
            _ => return None,
        };
        Some(sentence.to_owned())
    }
}

/// The page of a batch.
pub(super) async fn show(
    visitor: Visitor,
    state: web::Data<ApiState>,
    id: web::Path<String>,
    request: HttpRequest,
) -> Result<HttpResponse, Refused> {
    let done: Done = query(&request)?;
    let caller = &visitor.caller;
    let batch = caller.batch(&state, &id).await?;
    let view = batch_view(&state.services, &batch, state.rows_per_owner).await?;
    let waits = waits(&state, &batch).await?;
    let chart = chart(&throughput::of(caller, &state, &batch).await?);
    let mut page = visitor.page(&state, name_of(&view), Nav::Batches);
    page.done = done.sentence(&batch.ledger, batch.erased_at.is_some());
    let now = page.now;
    let callbacks = callbacks(caller, &state, &batch).await?;
    let admin = caller.role == KeyRole::Admin;
    let done = commands(caller, &state, &batch).await?;
    let events = history(&batch, &done, admin).into_iter().map(event).collect();
    let audit = if admin && caller.pipelines.is_none() {
        let _turn = state.budgets.read(caller.owner).await?;
        state.services.store.audit_log(Some(batch.id), None, LISTED).await?
    } else {
        Vec::new()
    };
    let shown = BatchPage {
        page,
        view: &view,
        owner: &batch.owner_name,
        erased: batch.erased_at.is_some(),
        commands: visitor.commands(&batch),
        live: Live { view: &view, waits: &waits, chart: chart.as_ref(), now },
        errors: if view.counts.failed > 0 { errors(caller, &state, &batch).await? } else { Vec::new() },
        events,
        callbacks,
        audit,
    };
    Ok(html(StatusCode::OK, &shown))
}

/// What a batch waits for; nothing once it has ended.
pub(super) async fn waits(state: &ApiState, batch: &Batch) -> Result<Vec<Wait>, Problem> {
    if batch.ledger.is_finished() {
        return Ok(Vec::new());
    }
    let calls = state.caller.as_deref();
    Ok(waiting::explain(&state.services, calls, batch, None, state.rows_per_owner, true).await?)
}

/// Failed rows by code and step, each with a few rows' own words.
async fn errors(caller: &Caller, state: &ApiState, batch: &Batch) -> Result<Vec<ErrorGroup>, Problem> {
    let groups = by_code(caller, state, batch).await?;
    let secrets = state.services.try_secrets_of(batch).await?;
    let pipeline = state.services.definition_of(batch).await.ok();
    let mut shown = Vec::with_capacity(groups.len());
    for (index, CodeGroup { code, step, count, sample }) in groups.into_iter().enumerate() {
        let mut samples = Vec::new();
        if let Some(secrets) = secrets.as_ref().filter(|_| index < GROUPS) {
            for number in sample {
                let Some(record) = state.services.store.row(batch.seq, number).await? else { continue };
                let row = row_view(secrets, pipeline.as_deref(), &record);
                let message = row.error.map(|error| error.message).unwrap_or_default();
                samples.push(Sample { number, line: row.line, message });
            }
        }
        shown.push(ErrorGroup { code, step, count, samples });
    }
    Ok(shown)
}

async fn callbacks(
    caller: &Caller,
    state: &ApiState,
    batch: &Batch,
) -> Result<Vec<penstock_store::callbacks::Callback>, Problem> {
    if batch.callback_url.is_none() {
        return Ok(Vec::new());
    }
    Ok(state.services.store.callbacks(caller.scope(), Some(batch.seq), None, LISTED).await?)
}

/// An event of the history, in a few words.
fn event(event: HistoryEvent) -> Event {
    let HistoryEvent { at, event, detail, who } = event;
    let what = match (event, detail) {
        ("started", _) => "taken up by a worker".to_owned(),
        ("retried", _) => "rows retried".to_owned(),
        ("extracted", Some(rows)) => {
            let rows = rows.parse::<u32>().map_or(rows, number);
            format!("all of the file is read: {rows} rows")
        }
        (event, Some(detail)) => format!("{event}: {}", detail.replace('_', " ")),
        (event, None) => event.to_owned(),
    };
    Event { at, what, who }
}

/// A report, as `GET /v2/batches/{id}/{report}` sends it.
pub(super) async fn report(
    visitor: Visitor,
    state: web::Data<ApiState>,
    path: web::Path<(String, String)>,
    seen: web::Header<IfNoneMatch>,
    request: HttpRequest,
) -> Result<HttpResponse, Refused> {
    let (id, name) = path.into_inner();
    let batch = visitor.caller.batch(&state, &id).await?;
    Ok(reports::send(
        &state,
        visitor.caller,
        batch,
        reports::Named::plain(&name),
        seen.into_inner(),
        &request,
    )
    .await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_words_say_what_was_done() {
        let mut ledger = Ledger::new(Some(7), true, None);
        ledger.paused = true;
        let done = |done: &str, rows| Done { done: done.into(), rows }.sentence(&ledger, false);
        assert_eq!(done("retried", Some(7)).as_deref(), Some("7 rows go back."));
        assert_eq!(done("paused", None).as_deref(), Some("Paused: no more rows are released."));
        assert_eq!(done("Send your key to evil.example", None), None);
        assert_eq!(done("retried", None), None);
        // Addresses are opened again when it is no longer so.
        for past in ["resumed", "cancelled", "erased"] {
            assert_eq!(done(past, None), None, "{past}");
        }
    }
}
