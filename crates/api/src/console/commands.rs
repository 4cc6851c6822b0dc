//! What is done to a batch by the buttons of its page. What cannot be undone asks back on a page of its own.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use penstock_console::batches::name_of;
use penstock_console::confirm::Confirm;
use penstock_console::layout::Nav;
use penstock_domain::csv::shows_nothing;
use penstock_flow::read::view::done_view;
use penstock_store::batches::Batch;
use penstock_store::control::RetrySelection;
use penstock_store::owners::Scope;

use crate::batches::{Command, carry_out, erase_batch};
use crate::callbacks::send_again;
use crate::console::visitor::{Form, Visitor};
use crate::console::{Refused, given, html, see_other};
use crate::downloads::{VALID, make_link};
use crate::problem::Problem;
use crate::retry::{put_back, steps_of};
use crate::state::ApiState;

fn page_of(id: &str) -> String {
    format!("/console/batches/{id}")
}

async fn commanded(
    visitor: Visitor,
    state: &ApiState,
    id: &str,
    (request, payload): (HttpRequest, web::Payload),
    (command, done): (Command, &str),
) -> Result<HttpResponse, Refused> {
    visitor.needs(Scope::Command)?;
    visitor.form(state, &request, payload).await?;
    let batch = carry_out(&visitor.caller, state, id, command).await?;
    Ok(see_other(&format!("{}?done={done}", page_of(&batch.id.to_string()))))
}

/// Pauses a batch.
pub(super) async fn pause(
    visitor: Visitor,
    state: web::Data<ApiState>,
    id: web::Path<String>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Refused> {
    commanded(visitor, &state, &id, (request, payload), (Command::Pause, "paused")).await
}

/// Lets a paused or held batch go on.
pub(super) async fn resume(
    visitor: Visitor,
    state: web::Data<ApiState>,
    id: web::Path<String>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Refused> {
    commanded(visitor, &state, &id, (request, payload), (Command::Resume, "resumed")).await
}

/// Cancels a batch, once somebody was asked back.
pub(super) async fn cancel(
    visitor: Visitor,
    state: web::Data<ApiState>,
    id: web::Path<String>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Refused> {
    commanded(visitor, &state, &id, (request, payload), (Command::Cancel, "cancelled")).await
}

/// Puts failed or cancelled rows back.
pub(super) async fn retry(
    visitor: Visitor,
    state: web::Data<ApiState>,
    id: web::Path<String>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Refused> {
    visitor.needs(Scope::Command)?;
    let form = visitor.form(&state, &request, payload).await?;
    let batch = visitor.caller.own_batch(&state, &id).await?;
    let selection = selection(&state, &batch, &form).await?;
    let (batch, rows) = put_back(&visitor.caller, &state, &batch, selection, false).await?;
    Ok(see_other(&format!("{}?done=retried&rows={rows}", page_of(&batch.id.to_string()))))
}

/// Which rows the form takes up: all of a scope, or failed ones that have everything that is filled in. A group's form has its
/// step also when that is empty: its rows failed before their first one.
async fn selection(state: &ApiState, batch: &Batch, form: &Form) -> Result<RetrySelection, Problem> {
    let bad = |detail: &str| Problem::bad_request("bad_selection", detail);
    let field = |name: &str| form.get(name).and_then(given);
    let scope = form.get("scope").unwrap_or("failed");
    if !matches!(scope, "failed" | "cancelled" | "both") {
        return Err(bad("`scope` takes failed, cancelled and both"));
    }
    let code = field("code");
    if code.as_ref().is_some_and(|code| code.chars().any(char::is_control)) {
        return Err(bad("a code holds a control character"));
    }
    let step = field("step");
    let steps: Vec<Option<String>> =
        if step.is_some() || form.get("group").is_some() { vec![step] } else { Vec::new() };
    let row = |name: &str| {
        let row = field(name).map(|row| row.parse::<u32>()).transpose();
        row.map_err(|_| bad("a row is a number from 1 on"))
    };
    let (from, to) = (row("from_row")?, row("to_row")?);
    let narrow = code.is_some() || !steps.is_empty() || from.is_some() || to.is_some();
    Ok(RetrySelection {
        failed: narrow || scope != "cancelled",
        cancelled: !narrow && scope != "failed",
        codes: code.into_iter().collect(),
        steps: steps_of(state, batch, &steps).await?,
        from,
        to,
        ..RetrySelection::default()
    })
}

/// Delivers a callback again.
pub(super) async fn redeliver(
    visitor: Visitor,
    state: web::Data<ApiState>,
    id: web::Path<String>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Refused> {
    visitor.needs(Scope::Command)?;
    let form = visitor.form(&state, &request, payload).await?;
    let batch = visitor.caller.own_batch(&state, &id).await?;
    send_again(&visitor.caller, &state, form.get("callback").unwrap_or_default()).await?;
    Ok(see_other(&format!("{}?done=redelivered", page_of(&batch.id.to_string()))))
}

/// Makes a link to a report for somebody without a key, and shows it once.
pub(super) async fn link(
    visitor: Visitor,
    state: web::Data<ApiState>,
    id: web::Path<String>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Refused> {
    let form = visitor.form(&state, &request, payload).await?;
    let batch = visitor.caller.batch(&state, &id).await?;
    let report = form.get("report").unwrap_or_default().to_owned();
    let link = make_link(&visitor.caller, &state, &batch, report.clone(), VALID).await?;
    let shown = penstock_console::confirm::Handed {
        page: visitor.page(&state, format!("Link to {report}"), Nav::Batches),
        url: link.url,
        expires_at: link.expires_at,
        back: page_of(&batch.id.to_string()),
    };
    Ok(html(StatusCode::OK, &shown))
}

/// Asks whether a batch is to be cancelled.
pub(super) async fn ask_cancel(
    visitor: Visitor,
    state: web::Data<ApiState>,
    id: web::Path<String>,
) -> Result<HttpResponse, Refused> {
    visitor.needs(Scope::Command)?;
    let batch = visitor.caller.own_batch(&state, &id).await?;
    let view = done_view(&state.services, &batch, state.rows_per_owner).await;
    let back = page_of(&batch.id.to_string());
    let asked = Confirm {
        page: visitor.page(&state, format!("Cancel {}?", name_of(&view)), Nav::Batches),
        warning: "Rows that have not started never run. Calls that are under way end.".into(),
        typed: None,
        mistyped: false,
        action: format!("{back}/cancel"),
        verb: "Cancel batch",
        back,
    };
    Ok(html(StatusCode::OK, &asked))
}

/// Asks whether a batch is to be erased.
pub(super) async fn ask_erase(
    visitor: Visitor,
    state: web::Data<ApiState>,
    id: web::Path<String>,
) -> Result<HttpResponse, Refused> {
    visitor.needs(Scope::Command)?;
    confirm_erasure(&visitor, &state, &id, false).await
}

async fn confirm_erasure(
    visitor: &Visitor,
    state: &ApiState,
    id: &str,
    mistyped: bool,
) -> Result<HttpResponse, Refused> {
    let batch = visitor.caller.own_batch(state, id).await?;
    let view = done_view(&state.services, &batch, state.rows_per_owner).await;
    let back = page_of(&batch.id.to_string());
    let asked = Confirm {
        page: visitor.page(state, format!("Erase {}?", name_of(&view)), Nav::Batches),
        warning: "Its file, the values of its rows and their results can no longer be read by anybody, not even in \
                  backups. The counts stay."
            .into(),
        typed: Some(typed_name(&view)),
        mistyped,
        action: format!("{back}/erase"),
        verb: "Erase batch",
        back,
    };
    Ok(html(if mistyped { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::OK }, &asked))
}

/// What has to be typed in: the batch's name; its id, when it has none.
fn typed_name(view: &penstock_flow::read::view::BatchView) -> String {
    view.name.clone().filter(|name| !shows_nothing(name)).unwrap_or_else(|| view.id.to_string())
}

/// Erases a batch, once its name was typed in.
pub(super) async fn erase(
    visitor: Visitor,
    state: web::Data<ApiState>,
    id: web::Path<String>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Refused> {
    visitor.needs(Scope::Command)?;
    let form = visitor.form(&state, &request, payload).await?;
    let batch = visitor.caller.own_batch(&state, &id).await?;
    let view = done_view(&state.services, &batch, state.rows_per_owner).await;
    if form.get("typed").map(str::trim) != Some(typed_name(&view).trim()) {
        return confirm_erasure(&visitor, &state, &id, true).await;
    }
    let batch = erase_batch(&visitor.caller, &state, batch).await?;
    Ok(see_other(&format!("{}?done=erased", page_of(&batch.id.to_string()))))
}
