//! How fast a batch went.

use actix_web::{HttpResponse, web};
use penstock_flow::read::throughput::{ThroughputPoint, throughput};
use penstock_store::batches::Batch;
use serde::Serialize;
use utoipa::ToSchema;

use crate::auth::Caller;
use crate::problem::Problem;
use crate::query::NoQuery;
use crate::refusals;
use crate::state::ApiState;

/// How fast a batch went during the last hour.
#[derive(Serialize, ToSchema)]
pub struct Throughput {
    /// The times of the hour, oldest first, half a minute apart; empty for a batch that did not run in it.
    pub data: Vec<ThroughputPoint>,
}

/// Shows how fast a batch went during the last hour.
#[utoipa::path(get, operation_id = "show_throughput", path = "/v2/batches/{id}/throughput", tag = "batches", params(("id" = String, Path)),
    responses((status = 200, description = "The last hour", body = Throughput), refusals::Asked, refusals::Named), security(("key" = [])))]
pub async fn show(
    caller: Caller,
    state: web::Data<ApiState>,
    id: web::Path<String>,
    _: NoQuery,
) -> Result<HttpResponse, Problem> {
    let batch = caller.batch(&state, &id).await?;
    let data = of(&caller, &state, &batch).await?;
    Ok(HttpResponse::Ok().json(Throughput { data }))
}

/// The last hour of a batch.
///
/// # Errors
/// 503 when others take all reads of the database; when it fails.
pub(crate) async fn of(
    caller: &Caller,
    state: &ApiState,
    batch: &Batch,
) -> Result<Vec<ThroughputPoint>, Problem> {
    let read = state.budgets.read(caller.owner).await?;
    let points = throughput(&state.services, batch).await?;
    drop(read);
    Ok(points)
}
