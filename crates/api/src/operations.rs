//! How the installation does, and repairs, for admin keys.

use actix_web::{HttpResponse, web};
use penstock_flow::operate::finding::Finding;
use penstock_flow::operate::operations::{OperationsView, operations};
use penstock_flow::operate::reconcile::{self, Permission, Plan};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::auth::Caller;
use crate::limits::for_admins;
use crate::problem::Problem;
use crate::query::NoQuery;
use crate::refusals;
use crate::state::ApiState;

/// Something that is stuck, for the document.
#[allow(dead_code, reason = "it describes `Finding`")]
#[derive(ToSchema)]
#[schema(as = Finding)]
pub struct FindingView {
    /// What.
    what: String,
    /// How many rows, batches, objects, …
    count: usize,
    /// What fixes it.
    repair: String,
    /// Whether a reconciliation does that; otherwise it is for people.
    by_apply: bool,
    /// Which ones.
    detail: Value,
    /// Fixed by this run.
    applied: usize,
    /// Planned, and found otherwise when its turn came.
    overtaken: usize,
}

/// What is stuck.
#[derive(Serialize, ToSchema)]
pub struct Findings {
    /// One for each kind of fault, also for those of which there is none.
    #[schema(value_type = Vec<FindingView>)]
    pub data: Vec<Finding>,
    /// How many of them a reconciliation fixes.
    pub planned: usize,
}

impl From<Plan> for Findings {
    fn from(plan: Plan) -> Self {
        Self { planned: plan.planned(), data: plan.findings }
    }
}

/// Shows how the installation does: services, dispatcher runs, workers, owners, alerts. For admin keys.
#[utoipa::path(get, operation_id = "show_operations", path = "/v2/operations", tag = "operations",
    responses((status = 200, description = "As it is now", body = OperationsView), refusals::Asked, refusals::ForAdmins), security(("key" = [])))]
pub async fn show(caller: Caller, state: web::Data<ApiState>, _: NoQuery) -> Result<HttpResponse, Problem> {
    for_admins(&caller)?;
    let read = state.budgets.read(caller.owner).await?;
    let view = operations(&state.services, state.rows_per_owner).await?;
    drop(read);
    Ok(HttpResponse::Ok().json(view))
}

/// Looks for what is stuck, and changes nothing. For admin keys.
#[utoipa::path(get, operation_id = "plan_reconciliation", path = "/v2/reconcile", tag = "operations",
    responses((status = 200, description = "As it is now", body = Findings), refusals::Asked, refusals::ForAdmins), security(("key" = [])))]
pub async fn plan(caller: Caller, state: web::Data<ApiState>, _: NoQuery) -> Result<HttpResponse, Problem> {
    for_admins(&caller)?;
    Ok(HttpResponse::Ok().json(found(&caller, &state).await?))
}

/// What is stuck.
///
/// # Errors
/// 503 when others take all reads of the database; when a service fails.
pub(crate) async fn found(caller: &Caller, state: &ApiState) -> Result<Findings, Problem> {
    let _read = state.budgets.read(caller.owner).await?;
    Ok(reconcile::plan(&state.services, &state.reconcile).await?.into())
}

/// Fixes what is stuck and can be fixed, as `penstock reconcile --apply` does. For admin keys.
#[utoipa::path(post, operation_id = "reconcile", path = "/v2/reconcile", tag = "operations",
    responses((status = 200, description = "What was found, and what of it was fixed", body = Findings), refusals::Asked, refusals::ForAdmins), security(("key" = [])))]
pub async fn apply(caller: Caller, state: web::Data<ApiState>, _: NoQuery) -> Result<HttpResponse, Problem> {
    for_admins(&caller)?;
    Ok(HttpResponse::Ok().json(fixed(&caller, &state).await?))
}

/// Fixes what is stuck.
///
/// # Errors
/// When a service fails.
pub(crate) async fn fixed(caller: &Caller, state: &ApiState) -> Result<Findings, Problem> {
    let _read = state.budgets.read(caller.owner).await?;
    let (services, policy, actor) = (state.services.clone(), state.reconcile, caller.actor());
    // What was begun is finished, also when its client hangs up meanwhile.
    let fixing = tokio::spawn(async move {
        let mut plan = reconcile::plan(&services, &policy).await?;
        if let Some(permission) = Permission::from_apply_flag(true) {
            reconcile::apply(&services, &policy, &mut plan, &actor, &permission).await?;
        }
        Ok::<_, penstock_flow::FlowError>(plan)
    });
    let plan = fixing.await.map_err(|error| {
        tracing::error!(%error, "a reconciliation panicked");
        Problem::internal()
    })??;
    Ok(plan.into())
}
