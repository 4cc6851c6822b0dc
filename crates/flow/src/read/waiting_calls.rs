//! What keeps workers from making a batch's calls: the limits as they stand, hours, an operator's pause, and what workers report.

use std::time::Duration;

use penstock_domain::limit::{BreakerState, Snapshot};
use penstock_domain::pipeline::{Dependency, Pipeline};
use penstock_domain::time::Timestamp;
use penstock_downstream::Caller;
use penstock_store::batches::Batch;

use crate::context::call_waits::CallWaits;
use crate::context::error::FlowError;
use crate::context::services::Services;
use crate::read::waits::{Wait, wait};

/// A rate that is free again within this time is waited out by the row itself.
const WORTH_A_WORD: Duration = Duration::from_secs(1);

/// All of it, of the dependencies of today's definition: its limits count, also for batches of an older one. Without a `caller`
/// nothing is said of limits.
pub(super) async fn of(
    services: &Services,
    caller: Option<&Caller>,
    batch: &Batch,
    pipeline: &Pipeline,
) -> Result<Vec<Wait>, FlowError> {
    let (mut waits, now) = (Vec::new(), services.clock.now());
    let reported = CallWaits::read(&*services.store).await?;
    let loaded = services.pipelines.get(&batch.pipeline);
    let mut caller = caller;
    for dependency in &loaded.as_deref().unwrap_or(pipeline).dependencies {
        let dependency = &*dependency.seen_for(&batch.owner_name);
        waits.extend(beside_limits(dependency, &batch.owner_name, &reported, now));
        let Some(limiter) = caller else { continue };
        match limiter.peek(dependency, &batch.owner_name).await {
            // The answer counts from when it came: a moment before would be a moment too early.
            Some(gate) => waits.extend(at_gate(dependency, &gate, services.clock.now())),
            // One limiter keeps them all: the others would only be waited for in vain.
            None => {
                let sentence = "the shared limits do not answer: no call is made without them";
                waits.push(wait("limiter_unavailable", sentence, None));
                caller = None;
            }
        }
    }
    Ok(waits)
}

/// What no limiter knows of.
fn beside_limits(dependency: &Dependency, owner: &str, reported: &CallWaits, now: Timestamp) -> Vec<Wait> {
    let name = &dependency.name;
    let mut waits = Vec::new();
    if reported.is_paused(dependency) {
        let sentence =
            format!("an operator has paused `{name}`: nobody calls it until `penstock limits resume {name}`");
        waits.push(wait("dependency_paused", sentence, None));
    }
    if let Some(opens) = dependency.hours.as_ref().and_then(|hours| hours.closed_until(now)) {
        let sentence = format!("`{name}` is called only within its `hours`; it may be called again then");
        waits.push(wait("outside_hours", sentence, Some(opens)));
    }
    waits.extend(reported.of(dependency, owner, now).into_iter().map(|reported| {
        let until = Some(reported.until).filter(|until| *until > now);
        let then =
            if until.is_some() { "; the next call is tried then" } else { "; the next call is being tried" };
        wait(&reported.reason, format!("{}{then}", reported.sentence), until)
    }));
    waits
}

fn at_gate(dependency: &Dependency, gate: &Snapshot, now: Timestamp) -> Vec<Wait> {
    let name = &dependency.name;
    let mut waits = Vec::new();
    if gate.breaker != BreakerState::Closed {
        let cause = gate.cause.map_or(String::new(), |cause| format!(" (the last: {})", cause.sentence()));
        let sentence = format!(
            "the breaker of `{name}` is open: too many of its calls failed{cause}; it is tried again then"
        );
        waits.push(wait("breaker_open", sentence, Some(now + gate.free_in)));
        return waits;
    }
    if let Some(cause) = gate.cause {
        let sentence = format!("the last call of `{name}` failed: {}", cause.sentence());
        waits.push(wait("calls_fail", sentence, None));
    }
    if !gate.paused_for.is_zero() {
        let sentence = format!("`{name}` asked to be left alone");
        waits.push(wait("throttled", sentence, Some(now + gate.paused_for)));
    } else if gate.free_in > WORTH_A_WORD {
        let sentence = format!("the rate of `{name}` is used up");
        waits.push(wait("rate_limited", sentence, Some(now + gate.free_in)));
    } else if let Some(slots) = dependency.concurrency.as_ref().map(|concurrency| concurrency.limit)
        && gate.in_flight >= slots as usize
    {
        let sentence = format!("all {slots} calls that `{name}` takes at once are under way");
        waits.push(wait("concurrency_limited", sentence, None));
    }
    waits
}
