//! How many rows of a pipeline, and of an owner, are claimed: no more than its slots allow and its dependencies can use. More
//! would be requeued, and a row that is requeued waits for the dispatcher's next run.

use std::sync::atomic::Ordering;
use std::time::Duration;

use penstock_domain::ids::OwnerSeq;
use penstock_domain::pipeline::{Dependency, Pipeline, Rate, Step};
use penstock_downstream::BELIEVED_FOR;
use tokio::time::Instant;

use crate::worker::load::Load;
use crate::worker::owner_limits::{Own, Owners};
use crate::worker::slots::Sharing;
use crate::worker::state::{LOOK_AGAIN, Worker};
use crate::worker::uses::Uses;

/// While a dependency's next permit is further away than this, its pipeline claims nothing.
const ADMIT_WITHIN: Duration = Duration::from_millis(500);

/// Rows that do not call a dependency wait for its next permit no longer than this.
const LONG: Duration = Duration::from_secs(2);

/// While a rate is not used up, this many times the rows are claimed that it lets through while one is processed.
const FREE_AHEAD: f64 = 4.0;

/// What a row's calls cost at least, and how many rows are useful at most: numbers that can be counted on.
const LEAST_COST: f64 = 1e-6;
const MOST_USEFUL: f64 = 1e9;

/// This many rows go ahead to a limit that is not known yet, or not for certain any more: of more, all but one would be requeued. Once
/// one has asked for a permit, rows that continue at a later step do not reach the limit at all.
const UNKNOWN_ROWS: f64 = 1.0;

impl Worker {
    /// How many further rows of a pipeline may be claimed now.
    pub(super) fn admitted(&self, pipeline: &str, load: &Load) -> usize {
        let useful =
            [self.useful_slots(pipeline), self.useful_at_rates(pipeline, load)].into_iter().flatten();
        let sharing = self.sharing(pipeline);
        let room = self.slots.room(load, sharing);
        // Those that wait for another row's call have left the limits behind that rows come to first.
        let behind = if sharing.at_once > 1 { 0 } else { load.waiting.riding.load(Ordering::Relaxed) };
        let rows = load.rows.saturating_sub(behind);
        // Of rows that go together as many as fill a call: a part of one would wait for the rest.
        let left = |useful: usize| useful.next_multiple_of(sharing.most).saturating_sub(rows);
        let admitted =
            useful.fold(room, |least, useful| least.min(left(useful).next_multiple_of(sharing.at_once)));
        match self.hold_up(pipeline, &load.waiting.uses) {
            HoldUp::None => admitted,
            HoldUp::ButOne if admitted > 0 && load.rows == 0 && load.waiting.uses.may_try() => 1,
            HoldUp::ButOne | HoldUp::All => 0,
        }
    }

    /// How the pipeline's rows share calls.
    pub(super) fn sharing(&self, pipeline: &str) -> Sharing {
        let pipeline = self.services.pipelines.get(pipeline);
        let at_once = pipeline.as_ref().and_then(|one| one.steps.first()).map_or(1, Step::rows_per_call);
        Sharing { most: pipeline.map_or(1, |pipeline| pipeline.rows_per_call()), at_once }
    }

    /// The most rows that a call of the pipeline carries.
    pub(super) fn rows_per_call(&self, pipeline: &str) -> usize {
        self.services.pipelines.get(pipeline).map_or(1, |pipeline| pipeline.rows_per_call())
    }

    /// Whether one of the pipeline's dependencies is exhausted for longer than a row should wait under a lease. Where it has
    /// refused everything for so long that rows end by it, it holds none of them up.
    pub(super) fn held_up(&self, pipeline: &str) -> bool {
        let load = self.slots.load(pipeline);
        self.hold_up(pipeline, &load.waiting.uses) != HoldUp::None
    }

    fn hold_up(&self, pipeline: &str, uses: &Uses) -> HoldUp {
        let Some(pipeline) = self.services.pipelines.get(pipeline) else { return HoldUp::None };
        let mut hold_up = HoldUp::None;
        for (index, dependency) in pipeline.dependencies.iter().enumerate() {
            let wait = self.caller.predicted_wait(dependency);
            let is_over = self.caller.refused_for(dependency, None) >= pipeline.retry.throttled_for;
            let holds = (wait > ADMIT_WITHIN && !is_over) || self.caller.is_crowded(dependency);
            if !holds || !pipeline.steps.iter().any(|step| step.dependency == index) {
                continue;
            }
            // A short wait is no loss for rows that do not call it. In a long one they go on.
            if pipeline.always_calls(index) || wait <= LONG {
                return HoldUp::All;
            }
            if uses.is_called_by_all(index) {
                hold_up = HoldUp::ButOne;
            }
        }
        hold_up
    }

    /// Whether the next calls of one of the pipeline's dependencies are probes of its breaker.
    pub(super) fn is_probing(&self, pipeline: &str) -> bool {
        let pipeline = self.services.pipelines.get(pipeline);
        pipeline.is_some_and(|pipeline| pipeline.dependencies.iter().any(|one| self.caller.is_probing(one)))
    }

    /// How many of a pipeline's rows are useful in flight: as many as its dependencies accept concurrent calls, and a few
    /// that are about to ask for a permit. None: any number.
    fn useful_slots(&self, pipeline: &str) -> Option<usize> {
        let pipeline = self.services.pipelines.get(pipeline)?;
        let mut useful = 0;
        for dependency in &pipeline.dependencies {
            let limit = dependency.concurrency.as_ref().filter(|limit| !limit.per_owner)?.limit as usize;
            useful += limit + limit / 4 + 1;
        }
        (useful > 0).then_some(useful * pipeline.rows_per_call())
    }

    /// How many of a pipeline's rows are useful in flight at its dependencies' rates (Little's law): as many as a rate
    /// lets through while a row is processed, and as may wait for their permits. None: any number.
    fn useful_at_rates(&self, pipeline: &str, load: &Load) -> Option<usize> {
        let pipeline = self.services.pipelines.get(pipeline)?;
        let is_new = first_rate_limited(&pipeline)
            .is_some_and(|dependency| !load.any_left && !self.caller.has_met(dependency, None));
        let uses = &load.waiting.uses;
        let is_doubtful = called_by_all(&pipeline, uses).any(|(_, one)| self.caller.is_doubtful(one, None));
        let mut useful = (is_new || is_doubtful).then_some(UNKNOWN_ROWS);
        for (index, dependency) in pipeline.dependencies.iter().enumerate() {
            let wait = self.caller.predicted_wait(dependency);
            let paces = |rate: &&Rate| rate.per.is_none() && !rate.per_owner && rate.is_bucket();
            for rate in dependency.unnamed_rates().filter(paces) {
                let share = self.caller.live_share(dependency, rate);
                let rows = useful_at(rate, cost_of(&pipeline, index, uses) / share, load, wait);
                useful = Some(useful.map_or(rows, |least| least.min(rows)));
            }
            for (name, rate) in dependency.named_rates().filter(|(_, rate)| paces(rate)) {
                let calls = Calls::of(&pipeline, index, name, uses);
                let Some(rows) = calls.and_then(|calls| self.useful_at_named(rate, name, &calls, load))
                else {
                    continue;
                };
                useful = Some(useful.map_or(rows, |least| least.min(rows)));
            }
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of rows")]
        useful.map(|rows| rows.ceil().clamp(1.0, MOST_USEFUL) as usize)
    }

    /// How many rows are useful in flight at a limit with a name. None: any number.
    fn useful_at_named(&self, rate: &Rate, name: &str, calls: &Calls<'_>, load: &Load) -> Option<f64> {
        let Some(taken) = load.waiting.uses.taken(calls.index, name) else {
            // The first row finds out what a call takes, unless it ends before it comes to one.
            return (!load.any_left).then_some(UNKNOWN_ROWS);
        };
        let share = self.caller.live_share(calls.dependency, rate);
        let cost = (taken * calls.of_row / share).max(LEAST_COST);
        Some(if calls.are_corrected {
            // A permit is for the estimate. Rows that ask together have theirs apart by that, also when less is taken: so one row waits
            // beside the calls under way.
            1.0 + rate.per_second() * load.service().as_secs_f64() / cost
        } else {
            useful_at(rate, cost, load, self.caller.predicted_wait(calls.dependency))
        })
    }

    /// Until when an owner's own limits hold its rows up, of which `taken` are about to be claimed. None: they do not, and one
    /// more is taken.
    pub(super) fn held_until(
        &self,
        pipeline: &str,
        load: &Load,
        owner: OwnerSeq,
        taken: &mut usize,
        now: Instant,
    ) -> Option<Instant> {
        let pipeline_name = pipeline;
        let pipeline =
            self.services.pipelines.get(pipeline_name).filter(|pipeline| Owners::matter(pipeline))?;
        let own = self.owners.get(pipeline_name, owner)?;
        let held_for = self.owner_held_for(&pipeline, load, &own, own.rows + *taken);
        if held_for.is_none() {
            *taken += 1;
        }
        held_for.map(|duration| now + duration)
    }

    /// How long an owner's own limits hold up its next row while `rows` of them are in flight.
    fn owner_held_for(&self, pipeline: &Pipeline, load: &Load, own: &Own, rows: usize) -> Option<Duration> {
        let is_known = first_rate_limited(pipeline)
            .is_none_or(|dependency| self.caller.has_met(dependency, Some(&own.name)));
        let uses = &load.waiting.uses;
        let is_doubtful =
            called_by_all(pipeline, uses).any(|(_, one)| self.caller.is_doubtful(one, Some(&own.name)));
        if (is_doubtful || (!is_known && !own.any_left)) && rows >= pipeline.rows_per_call() {
            return Some(LOOK_AGAIN);
        }
        for (index, dependency) in pipeline.dependencies.iter().enumerate() {
            let wait = self.caller.predicted_wait_of(dependency, &own.name);
            let is_over =
                self.caller.refused_for(dependency, Some(&own.name)) >= pipeline.retry.throttled_for;
            if wait > ADMIT_WITHIN && !is_over && (wait <= LONG || is_called_by_all(pipeline, index, uses)) {
                return Some(wait.min(BELIEVED_FOR).saturating_sub(ADMIT_WITHIN).max(LOOK_AGAIN));
            }
            let Some(rate) = dependency.rate.as_ref().filter(|rate| rate.per_owner) else { continue };
            let share = self.caller.live_share(dependency, rate);
            let useful = useful_at(rate, cost_of(pipeline, index, uses) / share, load, wait);
            #[allow(clippy::cast_precision_loss, reason = "a number of rows")]
            if rows as f64 >= useful.max(pipeline.rows_per_call() as f64) {
                return Some(LOOK_AGAIN);
            }
        }
        let slots = owner_slots(&pipeline.dependencies).map(|slots| slots * pipeline.rows_per_call());
        slots.filter(|useful| rows >= *useful).map(|_| LOOK_AGAIN)
    }
}

/// The dependency that a pipeline's rows call first, where it has a rate.
fn first_rate_limited(pipeline: &Pipeline) -> Option<&Dependency> {
    let first = &pipeline.dependencies[pipeline.steps.first()?.dependency];
    first.rate.is_some().then_some(first)
}

/// Whether a limit keeps a pipeline's rows from being claimed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum HoldUp {
    None,
    /// All but one now and then, which may not call the dependency: the rows before it did.
    ButOne,
    All,
}

/// Whether every row calls a dependency, as far as its definition and the rows of late say.
fn is_called_by_all(pipeline: &Pipeline, dependency: usize, uses: &Uses) -> bool {
    pipeline.always_calls(dependency) || uses.is_called_by_all(dependency)
}

/// The dependencies that every row calls, with their places in the pipeline.
fn called_by_all<'a>(
    pipeline: &'a Pipeline,
    uses: &'a Uses,
) -> impl Iterator<Item = (usize, &'a Dependency)> {
    let all = pipeline.dependencies.iter().enumerate();
    all.filter(|(index, _)| is_called_by_all(pipeline, *index, uses))
}

/// What a row's calls to a dependency cost in all: where not every row calls it, on average.
fn cost_of(pipeline: &Pipeline, dependency: usize, uses: &Uses) -> f64 {
    let cost = pipeline.cost_of_row(dependency);
    let share = if pipeline.always_calls(dependency) { 1.0 } else { uses.share(dependency) };
    share * if cost > 0.0 { cost } else { 1.0 }
}

/// The calls of a row that take something of a dependency's limit with a name.
struct Calls<'a> {
    dependency: &'a Dependency,
    /// The dependency's place in the pipeline.
    index: usize,
    /// How many they are, on average.
    of_row: f64,
    /// Whether their answers say what they have taken.
    are_corrected: bool,
}

impl<'a> Calls<'a> {
    /// None: no call takes anything of it. Bulk calls are left out: what one takes is not each row's.
    fn of(pipeline: &'a Pipeline, index: usize, name: &str, uses: &Uses) -> Option<Self> {
        let steps = pipeline.steps.iter().filter(|step| step.dependency == index && step.bulk.is_none());
        let steps = steps.filter(|step| step.costs.are_of(name));
        let share = |step: &Step| if step.may_call_nothing() { uses.share(index) } else { 1.0 };
        let of_row: f64 = steps.clone().map(share).sum();
        let are_corrected = steps.clone().any(|step| step.costs.are_corrected_of(name));
        let dependency = &pipeline.dependencies[index];
        (of_row > 0.0).then_some(Self { dependency, index, of_row, are_corrected })
    }
}

/// How many rows are useful in flight at a rate whose next call has to wait for `wait`.
fn useful_at(rate: &Rate, cost: f64, load: &Load, wait: Duration) -> f64 {
    // While it is not used up, many rows may end before they reach it.
    let ahead = if wait.is_zero() { FREE_AHEAD } else { 1.0 };
    let seconds = ahead * load.service().as_secs_f64() + ADMIT_WITHIN.saturating_sub(wait).as_secs_f64();
    (rate.per_second() * seconds + f64::from(rate.burst)) / cost
}

/// How many of an owner's rows are useful in flight where an owner's concurrent calls are limited. None: any number.
fn owner_slots(dependencies: &[Dependency]) -> Option<usize> {
    let limits: Option<Vec<_>> = dependencies.iter().map(|dependency| dependency.concurrency).collect();
    let limits = limits.filter(|limits| limits.iter().any(|limit| limit.per_owner))?;
    Some(limits.iter().map(|limit| (limit.limit + limit.limit / 4 + 1) as usize).sum())
}
