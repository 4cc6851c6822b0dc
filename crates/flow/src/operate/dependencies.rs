//! How the dependencies of all pipelines stand, for an operator: breaker, pause, and the share of the rate that is used.

use std::collections::BTreeMap;
use std::sync::Arc;

use penstock_domain::cause::Cause;
use penstock_domain::limit::{BreakerState, identity};
use penstock_domain::pipeline::{Dependency, Pipeline};
use penstock_domain::time::Timestamp;
use penstock_downstream::Caller;
use serde::{Deserialize, Serialize};

use crate::context::services::Services;

/// One dependency's limits. What is each owner's own is not in it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DependencyState {
    /// The name under which its limits are kept, see [`identity`].
    pub identity: String,
    /// Whether its calls are made, tried by a few, or kept back.
    pub breaker: String,
    /// Until when it asked to be left alone.
    pub paused_until: Option<Timestamp>,
    /// The share of its rate that is used now, above 0 and up to 1.
    pub share: f64,
    /// Why its last call failed, unless one has succeeded since.
    pub cause: Option<String>,
}

/// Every dependency of these pipelines, once, and a pipeline that has it; without those that are each owner's own.
pub fn all<'p>(
    pipelines: impl Iterator<Item = &'p Arc<Pipeline>>,
) -> BTreeMap<String, (&'p Pipeline, &'p Dependency)> {
    let mut found = BTreeMap::new();
    for pipeline in pipelines {
        for dependency in pipeline.dependencies.iter().filter(|dependency| !dependency.reads_owner()) {
            let identity = identity(&dependency.name, &dependency.base_url);
            found.entry(identity).or_insert((pipeline.as_ref(), dependency));
        }
    }
    found
}

/// How each of them stands; none of those that the limiter says nothing of.
pub async fn states(services: &Services, caller: &Caller) -> Vec<DependencyState> {
    let mut states = Vec::new();
    let catalog = services.pipelines.catalog();
    for (identity, (_, dependency)) in all(catalog.iter()) {
        let Some(seen) = caller.peek(dependency, "").await else { continue };
        let paused_until = (!seen.paused_for.is_zero()).then(|| services.clock.now() + seen.paused_for);
        let breaker = match seen.breaker {
            BreakerState::Closed => "closed",
            BreakerState::HalfOpen => "half open",
            BreakerState::Open => "open",
        };
        states.push(DependencyState {
            identity,
            breaker: breaker.to_owned(),
            paused_until,
            share: seen.factor,
            cause: seen.cause.map(Cause::sentence).map(str::to_owned),
        });
    }
    states
}
