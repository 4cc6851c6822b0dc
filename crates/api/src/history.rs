//! What happened to a batch, and who did it.

use actix_web::{HttpResponse, web};
use penstock_domain::time::Timestamp;
use penstock_store::batches::Batch;
use penstock_store::operations::AuditLine;
use penstock_store::owners::KeyRole;
use serde::Serialize;
use utoipa::ToSchema;

use crate::auth::Caller;
use crate::problem::Problem;
use crate::query::NoQuery;
use crate::refusals;
use crate::state::ApiState;

/// What was done to a batch, at most: the newest.
const KNOWN: u32 = 100;

/// Something that happened to a batch.
#[derive(Serialize, ToSchema)]
pub struct HistoryEvent {
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// What: `uploaded`, `started`, `extracted`, `held`, `paused`, `resumed`, `retried`, `cancelled`, `ended` or `erased`.
    pub event: &'static str,
    /// More of it: the rows that a file had, the code of the answer that held the batch, the outcome.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Who did it: the key's name, or an operator; none when nobody did, or when that is not known any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub who: Option<String>,
}

/// What happened to a batch.
#[derive(Serialize, ToSchema)]
pub struct History {
    /// Oldest first. Of a batch to which more than 100 things were done the oldest are left out.
    pub data: Vec<HistoryEvent>,
}

/// Shows what happened to a batch, and who did it. Operators have a name for admin keys alone.
#[utoipa::path(get, operation_id = "show_history", path = "/v2/batches/{id}/history", tag = "batches", params(("id" = String, Path)),
    responses((status = 200, description = "As it is now", body = History), refusals::Asked, refusals::Named), security(("key" = [])))]
pub async fn show(
    caller: Caller,
    state: web::Data<ApiState>,
    id: web::Path<String>,
    _: NoQuery,
) -> Result<HttpResponse, Problem> {
    let batch = caller.batch(&state, &id).await?;
    let audit = commands(&caller, &state, &batch).await?;
    Ok(HttpResponse::Ok().json(History { data: history(&batch, &audit, caller.role == KeyRole::Admin) }))
}

/// What the audit log has of what was done to a batch, newest first.
///
/// # Errors
/// 503 when others take all reads of the database; when it fails.
pub(crate) async fn commands(
    caller: &Caller,
    state: &ApiState,
    batch: &Batch,
) -> Result<Vec<AuditLine>, Problem> {
    let read = state.budgets.read(caller.owner).await?;
    let lines = state.services.store.batch_commands(batch.id, KNOWN).await?;
    drop(read);
    Ok(lines)
}

/// What happened to a batch, oldest first; `audit` is what is known of it, newest first. Who belongs to the installation's
/// operators has a name for `admin` keys alone.
pub(crate) fn history(batch: &Batch, audit: &[AuditLine], admin: bool) -> Vec<HistoryEvent> {
    let who = |line: &AuditLine| who(line, &batch.owner_name, admin);
    let last = |action: &str| audit.iter().find(|line| line.entry.action == action).and_then(who);
    let event = |at, event, detail, who| HistoryEvent { at, event, detail, who };
    let ledger = &batch.ledger;
    let mut events = vec![event(batch.created_at, "uploaded", None, last("batch.create"))];
    events.extend(ledger.started_at.map(|at| event(at, "started", None, None)));
    let from_audit = |line: &AuditLine| {
        let (name, detail) = match line.entry.action.as_str() {
            "batch.extracted" => ("extracted", line.entry.detail.clone()),
            "batch.hold" => ("held", line.entry.detail.clone()),
            "batch.pause" => ("paused", None),
            "batch.resume" => ("resumed", None),
            "batch.cancel" => ("cancelled", None),
            // A run before a retry.
            "batch.ended" => ("ended", line.entry.detail.clone()),
            "batch.retry" => ("retried", None),
            _ => return None,
        };
        let by_itself = matches!(name, "extracted" | "held" | "ended");
        Some(event(line.entry.at, name, detail, if by_itself { None } else { who(line) }))
    };
    events.extend(audit.iter().rev().filter_map(from_audit));
    // One that was held before holds were written down; a cancellation whose entry is too old to be among these.
    let written_down = |action: &str, since: Timestamp| {
        audit.iter().any(|line| line.entry.action == action && line.entry.at >= since)
    };
    let hold = ledger.hold.as_ref().filter(|hold| !written_down("batch.hold", hold.since));
    events.extend(hold.map(|hold| event(hold.since, "held", Some(hold.code.clone()), None)));
    let cancelled = ledger.cancelled_at.filter(|at| !written_down("batch.cancel", *at));
    events.extend(cancelled.map(|at| event(at, "cancelled", None, None)));
    let outcome = ledger.outcome.map(|outcome| outcome.name().to_owned());
    events.extend(ledger.finished_at.map(|at| event(at, "ended", outcome, None)));
    events.extend(batch.erased_at.map(|at| event(at, "erased", None, last("batch.erase"))));
    events.sort_by_key(|event| event.at);
    events
}

/// Who did it; none where that is not known: of a key that has been deleted since.
fn who(line: &AuditLine, owner: &str, admin: bool) -> Option<String> {
    match &line.key_owner {
        // An owner's programs have uploaded it by a key that the entry does not name.
        None if line.entry.actor.strip_prefix("owner:") == Some(owner) => Some(owner.to_owned()),
        _ if admin => Some(line.who()),
        // A key without a name is known by its number, which says nothing to people.
        Some(of) if of == owner && line.key_name.is_none() => Some(owner.to_owned()),
        Some(of) if of == owner => Some(line.who()),
        None if line.entry.actor.starts_with("key:") => None,
        _ => Some("an operator".to_owned()),
    }
}
