//! How many rows of each batch a run releases: fair between owners, within their quotas.

use penstock_domain::fair::{self, BatchOffer, OwnerOffer, Share};
use penstock_store::dispatch::OwnerLoad;

use crate::context::pace::Quota;
use crate::context::services::Services;
use crate::dispatch::policy::DispatchPolicy;

/// The shares of the batches in `loads`, at most `cap` rows in all.
pub(super) fn plan(
    services: &Services,
    policy: &DispatchPolicy,
    loads: &[OwnerLoad],
    cap: Option<u32>,
) -> Vec<Share> {
    let offers: Vec<OwnerOffer> = loads.iter().map(|load| offer(services, policy, load)).collect();
    fair::plan(&offers, cap, &mut || services.id_generator.unit())
}

/// Rows of an owner that wait for a result in a pipeline, unless the pipeline has another number.
const ROWS_POLLING_PER_OWNER: u32 = 10_000;

/// How many more rows of a pipeline may begin to wait for a result; those in flight are about to.
fn polling_room(services: &Services, load: &OwnerLoad, pipeline: &str, in_flight: u32) -> u32 {
    let Some(definition) = services.pipelines.get(pipeline).filter(|pipeline| pipeline.awaits()) else {
        return u32::MAX;
    };
    let limit = definition.dispatch.rows_polling_per_owner.unwrap_or(ROWS_POLLING_PER_OWNER);
    let polling = load.polling_by_pipeline.iter().find(|(name, _)| name == pipeline);
    limit.saturating_sub(polling.map_or(0, |(_, rows)| *rows)).saturating_sub(in_flight)
}

fn offer(services: &Services, policy: &DispatchPolicy, load: &OwnerLoad) -> OwnerOffer {
    let mut names: Vec<&str> = Vec::new();
    let mut batches = Vec::with_capacity(load.batches.len());
    for batch in &load.batches {
        let room = names.iter().position(|name| *name == batch.pipeline).unwrap_or_else(|| {
            names.push(&batch.pipeline);
            names.len() - 1
        });
        batches.push(BatchOffer {
            batch: batch.batch,
            room,
            priority: batch.priority,
            served_at: batch.served_at,
            rows: batch.fresh.saturating_add(batch.returned),
        });
    }
    let rooms = names
        .iter()
        .map(|name| {
            let limit = Quota::of(services, load.rows, name, policy.rows_per_owner).pipeline;
            let used = load.in_flight_by_pipeline.iter().find(|(pipeline, _)| pipeline == name);
            let used = used.map_or(0, |(_, rows)| *rows);
            limit.saturating_sub(used).min(polling_room(services, load, name, used))
        })
        .collect();
    let of_pipelines =
        names.iter().map(|name| Quota::of(services, load.rows, name, policy.rows_per_owner).owner);
    let quota = of_pipelines.max().unwrap_or(policy.rows_per_owner);
    OwnerOffer {
        quota: quota.saturating_sub(load.in_flight),
        weight: load.weight,
        served_at: load.served_at,
        rooms,
        batches,
    }
}
