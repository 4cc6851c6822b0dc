//! The audit log, for admin keys.

use actix_web::{HttpResponse, web};
use penstock_domain::time::Timestamp;
use penstock_store::operations::AuditLine;
use penstock_store::owners::KeyRole;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::auth::Caller;
use crate::batches::page_size;
use crate::body;
use crate::cursors;
use crate::problem::Problem;
use crate::query::Query;
use crate::refusals;
use crate::state::ApiState;

/// Bytes that a page may have.
const PAGE_BYTES: u64 = 1024 * 1024;

/// An entry, for the document: the store knows of none.
#[allow(dead_code, reason = "it describes `AuditLine`")]
#[derive(ToSchema)]
#[schema(as = AuditEntry)]
pub struct AuditEntryView {
    /// Its number: later entries have higher ones.
    id: i64,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// Who: `key:<id>`, `operator:<user>`, `owner:<name>`, `address:<address>`.
    actor: String,
    /// What: `batch.create`, `batch.cancel`, …
    action: String,
    /// To which batch.
    batch: Option<Uuid>,
    /// More, without any row's content.
    detail: Option<String>,
    /// The name of the key that did it; none when it has none, or when it was no key.
    key_name: Option<String>,
    /// The owner whose key it was.
    key_owner: Option<String>,
}

/// A page of the audit log.
#[derive(Serialize, ToSchema)]
pub struct AuditPage {
    /// The entries, newest first.
    #[schema(value_type = Vec<AuditEntryView>)]
    pub data: Vec<AuditLine>,
    /// Gives the next page; none behind the last.
    pub next_cursor: Option<String>,
}

/// Which entries to list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct AuditQuery {
    /// About this batch.
    #[param(pattern = "^[^\\x00-\\x1f\\x7f]*$")]
    batch: Option<String>,
    /// At most so many, 1 to 1000; 100 without it.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// The last page's `next_cursor`.
    #[param(pattern = "^(0|[1-9][0-9]{0,17})$")]
    cursor: Option<String>,
}

/// Who did what, newest first. For admin keys.
#[utoipa::path(get, operation_id = "list_audit", path = "/v2/audit", tag = "operations", params(AuditQuery),
    responses((status = 200, description = "As it is now", body = AuditPage), refusals::Asked, refusals::ForAdmins,
        refusals::Named), security(("key" = [])))]
pub async fn list(
    caller: Caller,
    state: web::Data<ApiState>,
    Query(query): Query<AuditQuery>,
) -> Result<HttpResponse, Problem> {
    if caller.role != KeyRole::Admin {
        return Err(Problem::forbidden("the audit log is for admin keys"));
    }
    caller.for_all_pipelines()?;
    let batch =
        query.batch.as_deref().map(str::parse).transpose().map_err(|_| Problem::not_found("such batch"))?;
    let limit = page_size(query.limit, 100)?;
    let before = query.cursor.as_deref().map(|cursor| cursors::number(cursor, 18)).transpose()?;
    let room = state.budgets.answer(caller.owner, PAGE_BYTES).await?;
    let read = state.budgets.read(caller.owner).await?;
    let mut data = state.services.store.audit_log(batch, before, limit + 1).await?;
    drop(read);
    let more = data.len() > limit as usize;
    data.truncate(limit as usize);
    let next_cursor = data.last().filter(|_| more).map(|last| last.entry.id.to_string());
    body::answer(&AuditPage { data, next_cursor }, room)
}
