//! The audit log, for admin keys.

use actix_web::{HttpResponse, web};
use penstock_store::operations::AuditEntry;
use penstock_store::owners::KeyRole;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::auth::Caller;
use crate::batches::page_size;
use crate::body;
use crate::problem::Problem;
use crate::query::{self, Query};
use crate::refusals;
use crate::state::ApiState;

/// Bytes that a page may have.
const PAGE_BYTES: u64 = 1024 * 1024;

/// A page of the audit log.
#[derive(Serialize, ToSchema)]
pub struct AuditPage {
    /// The entries, newest first.
    #[schema(value_type = Vec<Object>)]
    pub data: Vec<AuditEntry>,
    /// Gives the next page; none behind the last.
    pub next_cursor: Option<String>,
}

/// Which entries to list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct AuditQuery {
    /// About this batch.
    batch: Option<String>,
    /// At most so many, 1 to 1000; 100 without it.
    limit: Option<u32>,
    /// The last page's `next_cursor`.
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
    let before = query.cursor.as_deref().map(query::number).transpose()?;
    let room = state.budgets.answer(caller.owner, PAGE_BYTES).await?;
    let read = state.budgets.read(caller.owner).await?;
    let mut data = state.engines.store.audit_log(batch, before, limit + 1).await?;
    drop(read);
    let more = data.len() > limit as usize;
    data.truncate(limit as usize);
    let next_cursor = data.last().filter(|_| more).map(|last| last.id.to_string());
    body::answer(&AuditPage { data, next_cursor }, room)
}
