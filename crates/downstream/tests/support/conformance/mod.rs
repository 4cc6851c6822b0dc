//! What every limiter does. Time is the test's own, so that decisions are exact.

mod breaker;
mod meters;
mod rate;
mod refusals;
mod slots;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use penstock_domain::limit::{Ask, Decision, Denied, Feedback, Past, Snapshot};
use penstock_domain::pipeline::{Breaker, Concurrency, Dependency, Rate};
use penstock_domain::time::ManualClock;
use penstock_downstream::{CallLimits, Limiter, Permit};

use super::{concurrency, dependency, rate as rate_of};

/// A call that got a permit.
#[derive(Debug)]
pub struct Granted {
    pub wait: Duration,
    pub permit: Permit,
    pub ask: Ask,
}

/// A limiter, its time, and a dependency.
pub struct Scene {
    pub limiter: Arc<dyn Limiter>,
    pub clock: Arc<ManualClock>,
    pub dependency: Dependency,
    tokens: AtomicU64,
}

const HEALTHY: Feedback = feedback(Some(true), None, false);
const FAILED: Feedback = feedback(Some(false), None, false);
const UNUSED: Feedback = feedback(None, None, false);

const fn feedback(healthy: Option<bool>, pause: Option<f64>, throttled: bool) -> Feedback {
    Feedback { healthy, pause, throttled, probe: false, past: Past::Clean, elapsed: 0.0, cause: None }
}

fn asked_to_wait(seconds: f64) -> Feedback {
    feedback(None, Some(seconds * 1e6), true)
}

impl Scene {
    pub fn new(
        limiter: Arc<dyn Limiter>,
        clock: Arc<ManualClock>,
        set: impl FnOnce(&mut Dependency),
    ) -> Self {
        let mut dependency = dependency("http://api.example");
        set(&mut dependency);
        Self { limiter, clock, dependency, tokens: AtomicU64::new(1) }
    }

    pub fn limits(&self, owner: &str) -> CallLimits {
        CallLimits::of(&self.dependency, owner, self.limiter.cold_wait_us())
    }

    pub async fn acquire(&self, owner: &str, cost: u32) -> Result<Granted, Denied> {
        self.acquire_as(owner, cost, Past::Clean).await
    }

    async fn acquire_as(&self, owner: &str, cost: u32, past: Past) -> Result<Granted, Denied> {
        let token = self.tokens.fetch_add(1, Ordering::Relaxed);
        let ask = Ask { cost, token, lease_us: 15e6, lead_us: 0.0, past, patience_us: 0.0 };
        let limits = self.limits(owner);
        match self.limiter.acquire(&limits, &ask).await {
            Decision::Granted { wait, probe, .. } => {
                let wait = penstock_domain::limit::duration(wait);
                Ok(Granted { wait, permit: Permit { token, limits, probe }, ask })
            }
            Decision::Denied(denied) => Err(denied),
            Decision::Unreserved { .. } => panic!("no limit by the calendar"),
        }
    }

    async fn refused(&self, owner: &str) -> Denied {
        self.acquire(owner, 1).await.map(|granted| granted.wait).expect_err("it should have been denied")
    }

    async fn report(&self, granted: Granted, feedback: Feedback) -> bool {
        let feedback = Feedback { probe: granted.permit.probe, past: granted.ask.past, ..feedback };
        self.limiter.report(granted.permit, feedback).await
    }

    /// A call by a row with this past, and its answer. Whether it was throttled for a reason of its row's own.
    async fn call(&self, past: Past, feedback: Feedback) -> bool {
        let granted = self.acquire_as("acme", 1, past).await.unwrap();
        self.report(granted, feedback).await
    }

    async fn peek(&self, owner: &str) -> Option<Snapshot> {
        self.limiter.peek(&self.limits(owner)).await
    }

    fn pass(&self, seconds: f64) {
        self.clock.advance(Duration::from_secs_f64(seconds));
    }

    /// Makes the state known, and lets the bucket fill.
    async fn warm_up(&self, owner: &str) {
        let first = match self.acquire(owner, 1).await {
            Ok(granted) => granted,
            Err(denied) => panic!("the first call was denied: {denied:?}"),
        };
        self.report(first, UNUSED).await;
        self.pass(20.0);
    }
}

fn about(wait: Duration, seconds: f64) -> bool {
    (wait.as_secs_f64() - seconds).abs() < 0.0005
}

/// Runs every case.
pub async fn all(limiter: Arc<dyn Limiter>, clock: Arc<ManualClock>) {
    let scene = |set: fn(&mut Dependency)| Scene::new(limiter.clone(), clock.clone(), set);
    rate::a_new_state_is_empty(&scene(|api| api.rate = Some(rate_of(100, 10)))).await;
    rate::a_slow_rate_begins_an_interval_later(&scene(|api| {
        api.rate = Some(Rate { period: Duration::from_secs(20), ..rate_of(2, 1) });
    }))
    .await;
    let slow =
        |api: &mut Dependency| api.rate = Some(Rate { period: Duration::from_secs(20), ..rate_of(2, 2) });
    rate::what_was_never_used_is_full(&scene(slow)).await;
    rate::what_was_used_before_a_loss_is_as_empty_as_it_may_be(&scene(slow)).await;
    rate::an_owner_that_comes_later_has_its_burst(&scene(|api| {
        api.rate = Some(Rate { period: Duration::from_secs(20), per_owner: true, ..rate_of(2, 2) });
    }))
    .await;
    rate::a_full_bucket_gives_a_burst_then_the_rate(&scene(|api| api.rate = Some(rate_of(100, 10)))).await;
    rate::a_dear_call_takes_more(&scene(|api| api.rate = Some(rate_of(100, 10)))).await;
    rate::long_waits_are_denied(&scene(|api| api.rate = Some(rate_of(10, 5)))).await;
    refusals::a_pause_holds_everybody(&scene(|api| api.rate = Some(rate_of(100, 10)))).await;
    rate::owners_have_their_own(&scene(|api| api.rate = Some(Rate { per_owner: true, ..rate_of(10, 5) })))
        .await;
    rate::too_fast_without_a_word_halves(&scene(|api| api.rate = Some(rate_of(100, 10)))).await;
    slots::slots_come_back(&scene(|api| api.concurrency = Some(concurrency(2)))).await;
    slots::a_new_state_gives_no_slot_away(&scene(|api| api.concurrency = Some(concurrency(2)))).await;
    rate::a_late_answer_has_its_slack(&scene(|api| api.rate = Some(rate_of(100, 10)))).await;
    slots::slots_of_owners(&scene(|api| api.concurrency = Some(Concurrency { limit: 1, per_owner: true })))
        .await;
    slots::who_waits_holds_no_slot(&scene(|api| {
        api.rate = Some(rate_of(10, 2));
        api.concurrency = Some(concurrency(3));
    }))
    .await;
    slots::all_limits_or_none(&scene(|api| {
        api.rate = Some(rate_of(10, 2));
        api.concurrency = Some(concurrency(1));
    }))
    .await;
    let breaker = |api: &mut Dependency| {
        api.breaker = Breaker { failure_bp: 5000, min_calls: 4, probes: 2, ..Breaker::default() };
    };
    breaker::the_breaker_opens_and_closes(&scene(breaker)).await;
    breaker::the_last_failures_cause_is_known_until_a_call_succeeds(&scene(|_| {})).await;
    breaker::rows_that_failed_before_are_no_probes_while_there_are_others(&scene(breaker)).await;
    for per_owner in [false, true] {
        let set = |api: &mut Dependency| api.rate = Some(Rate { per_owner, ..rate_of(100, 10) });
        let scene = || Scene::new(limiter.clone(), clock.clone(), set);
        refusals::a_row_that_is_refused_beside_others_waits_alone(&scene()).await;
        refusals::while_nothing_goes_through_pauses_grow(&scene()).await;
        refusals::failures_that_ask_for_a_pause_are_learnt(&scene()).await;
    }
    slots::a_clock_that_is_set_back_holds_up_nobody(&scene(|api| {
        api.rate = Some(rate_of(100, 10));
        api.concurrency = Some(concurrency(1));
    }))
    .await;
    breaker::a_pause_is_no_failure(&scene(breaker)).await;
    rate::what_is_not_known_holds_nothing_up(&scene(|api| api.rate = Some(rate_of(100, 10)))).await;
    rate::what_is_not_known_holds_nothing_up(&scene(|api| {
        api.rate = Some(Rate { per_owner: true, ..rate_of(100, 10) });
    }))
    .await;
    meters::all(&|set| Scene::new(limiter.clone(), clock.clone(), set)).await;
    meters::what_was_not_taken_is_returned(&scene(meters::tokens)).await;
    meters::a_period_is_used_as_it_is_reserved(&scene(meters::calendar)).await;
}
