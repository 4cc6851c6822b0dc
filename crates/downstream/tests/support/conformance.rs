//! What every limiter does. Time is the test's own, so that decisions are exact.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use penstock_domain::cause::Cause;
use penstock_domain::limit::{Ask, BreakerState, Decision, Denied, Feedback, Past, Reason, Snapshot};
use penstock_domain::pipeline::{Breaker, Concurrency, Dependency, Rate};
use penstock_domain::time::ManualClock;
use penstock_downstream::{CallLimits, Limiter, Permit};

use super::{concurrency, dependency, rate};

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
        let ask = Ask { cost, token, lease_us: 15e6, lead_us: 0.0, past };
        let limits = self.limits(owner);
        match self.limiter.acquire(&limits, &ask).await {
            Decision::Granted { wait, probe, .. } => {
                let wait = penstock_domain::limit::duration(wait);
                Ok(Granted { wait, permit: Permit { token, limits, probe }, ask })
            }
            Decision::Denied(denied) => Err(denied),
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
    a_new_state_is_empty(&scene(|api| api.rate = Some(rate(100, 10)))).await;
    a_slow_rate_begins_an_interval_later(&scene(|api| {
        api.rate = Some(Rate { period: Duration::from_secs(20), ..rate(2, 1) });
    }))
    .await;
    a_full_bucket_gives_a_burst_then_the_rate(&scene(|api| api.rate = Some(rate(100, 10)))).await;
    a_dear_call_takes_more(&scene(|api| api.rate = Some(rate(100, 10)))).await;
    long_waits_are_denied(&scene(|api| api.rate = Some(rate(10, 5)))).await;
    a_pause_holds_everybody(&scene(|api| api.rate = Some(rate(100, 10)))).await;
    owners_have_their_own(&scene(|api| api.rate = Some(Rate { per_owner: true, ..rate(10, 5) }))).await;
    too_fast_without_a_word_halves(&scene(|api| api.rate = Some(rate(100, 10)))).await;
    slots_come_back(&scene(|api| api.concurrency = Some(concurrency(2)))).await;
    a_new_state_gives_no_slot_away(&scene(|api| api.concurrency = Some(concurrency(2)))).await;
    a_late_answer_has_its_slack(&scene(|api| api.rate = Some(rate(100, 10)))).await;
    slots_of_owners(&scene(|api| api.concurrency = Some(Concurrency { limit: 1, per_owner: true }))).await;
    who_waits_holds_no_slot(&scene(|api| {
        api.rate = Some(rate(10, 2));
        api.concurrency = Some(concurrency(3));
    }))
    .await;
    all_limits_or_none(&scene(|api| {
        api.rate = Some(rate(10, 2));
        api.concurrency = Some(concurrency(1));
    }))
    .await;
    let breaker = |api: &mut Dependency| {
        api.breaker = Breaker { failure_bp: 5000, min_calls: 4, probes: 2, ..Breaker::default() };
    };
    the_breaker_opens_and_closes(&scene(breaker)).await;
    the_last_failures_cause_is_known_until_a_call_succeeds(&scene(|_| {})).await;
    rows_that_failed_before_are_no_probes_while_there_are_others(&scene(breaker)).await;
    for per_owner in [false, true] {
        let set = |api: &mut Dependency| api.rate = Some(Rate { per_owner, ..rate(100, 10) });
        let scene = || Scene::new(limiter.clone(), clock.clone(), set);
        a_row_that_is_refused_beside_others_waits_alone(&scene()).await;
        while_nothing_goes_through_pauses_grow(&scene()).await;
        failures_that_ask_for_a_pause_are_learnt(&scene()).await;
    }
    a_clock_that_is_set_back_holds_up_nobody(&scene(|api| {
        api.rate = Some(rate(100, 10));
        api.concurrency = Some(concurrency(1));
    }))
    .await;
    a_pause_is_no_failure(&scene(breaker)).await;
    what_is_not_known_holds_nothing_up(&scene(|api| api.rate = Some(rate(100, 10)))).await;
    what_is_not_known_holds_nothing_up(&scene(|api| {
        api.rate = Some(Rate { per_owner: true, ..rate(100, 10) });
    }))
    .await;
}

async fn a_new_state_is_empty(scene: &Scene) {
    let cold = scene.limiter.cold_wait_us() / 1e6;
    let first = scene.acquire("acme", 1).await.unwrap();
    assert!(about(first.wait, cold), "{first:?}");
    match scene.acquire("acme", 1).await {
        Ok(second) => assert!(about(second.wait, cold + 0.01005), "{second:?}"),
        Err(denied) => assert!(cold > 0.0 && denied.reason == Reason::Rate, "{denied:?}"),
    }
}

/// Whoever was here before may have called a moment ago.
async fn a_slow_rate_begins_an_interval_later(scene: &Scene) {
    let denied = scene.refused("acme").await;
    assert_eq!(denied.reason, Reason::Rate);
    assert!((9.9e6..10.2e6).contains(&denied.retry_after), "{denied:?}");
    scene.pass(10.1);
    scene.acquire("acme", 1).await.unwrap();
}

async fn a_full_bucket_gives_a_burst_then_the_rate(scene: &Scene) {
    scene.warm_up("acme").await;
    let mut waits = Vec::new();
    for _ in 0..20 {
        waits.push(scene.acquire("acme", 1).await.unwrap().wait.as_secs_f64());
    }
    // 25 ms of the burst's 100 are the arrival margin: seven calls go at once, the eighth almost.
    assert!(waits[..7].iter().all(|wait| *wait < 1e-6) && waits[7] > 0.0, "{waits:?}");
    assert!(waits[8..].windows(2).all(|two| (two[1] - two[0] - 0.01005).abs() < 1e-4), "{waits:?}");
}

async fn a_dear_call_takes_more(scene: &Scene) {
    scene.warm_up("acme").await;
    let (before, dear, after) = (
        scene.acquire("acme", 1).await.unwrap(),
        scene.acquire("acme", 10).await.unwrap(),
        scene.acquire("acme", 1).await.unwrap(),
    );
    assert!(about(before.wait, 0.0) && dear.wait > Duration::from_millis(30), "{dear:?}");
    assert!(after.wait > dear.wait, "{after:?}");
}

async fn long_waits_are_denied(scene: &Scene) {
    scene.warm_up("acme").await;
    let mut granted = 0;
    let denied = loop {
        match scene.acquire("acme", 1).await {
            Ok(granted) => assert!(granted.wait <= Duration::from_secs(1)),
            Err(denied) => break denied,
        }
        granted += 1;
    };
    assert!((13..=15).contains(&granted), "{granted}");
    assert_eq!(denied.reason, Reason::Rate);
    assert!(denied.retry_after > 1e6 && denied.retry_after < 1.2e6, "{denied:?}");
    scene.pass(0.2);
    assert!(scene.acquire("acme", 1).await.is_ok(), "denials cost nothing");
}

async fn a_pause_holds_everybody(scene: &Scene) {
    scene.warm_up("acme").await;
    let calls = [scene.acquire("acme", 1).await.unwrap(), scene.acquire("acme", 1).await.unwrap()];
    let waiting = scene.acquire("acme", 1).await.unwrap();
    for (call, seconds) in calls.into_iter().zip([5.0, 1.0]) {
        scene.report(call, asked_to_wait(seconds)).await;
    }
    scene.pass(2.0);
    let denied = scene.refused("other").await;
    assert_eq!(denied, Denied::new(3e6, Reason::Paused), "a shorter pause shortens nothing");
    let confirmed = scene.limiter.confirm(&waiting.permit.limits, &waiting.ask).await;
    assert_eq!(confirmed.unwrap_err().reason, Reason::Paused);
    assert_eq!(scene.peek("acme").await.unwrap().paused_for, Duration::from_secs(3));
    scene.pass(3.0);
    let waits = [scene.acquire("acme", 1).await.unwrap().wait, scene.acquire("acme", 1).await.unwrap().wait];
    assert!(
        about(waits[0], 0.0) && waits[1] > Duration::from_millis(9),
        "no burst behind a pause: {waits:?}"
    );
}

async fn owners_have_their_own(scene: &Scene) {
    scene.warm_up("acme").await;
    scene.warm_up("other").await;
    while scene.acquire("acme", 1).await.is_ok() {}
    assert_eq!(scene.refused("acme").await.reason, Reason::OwnerRate);
    let other = scene.acquire("other", 1).await.unwrap();
    assert!(about(other.wait, 0.0));
    scene.pass(10.0);
    scene.report(other, asked_to_wait(60.0)).await;
    assert_eq!(scene.refused("other").await.reason, Reason::Paused);
    assert!(scene.acquire("acme", 1).await.is_ok(), "the pause is the other's");
    scene.pass(60.0);
}

async fn too_fast_without_a_word_halves(scene: &Scene) {
    scene.warm_up("acme").await;
    let sign = feedback(None, None, true);
    let calls = [scene.acquire("acme", 1).await.unwrap(), scene.acquire("acme", 1).await.unwrap()];
    for call in calls {
        scene.report(call, sign).await;
    }
    let factor = scene.peek("acme").await.unwrap().factor;
    assert!((factor - 0.5).abs() < 1e-9, "two signs of one moment are one: {factor}");
    scene.pass(2.0);
    let factor = scene.peek("acme").await.unwrap().factor;
    // Two of twenty seconds on the way up: 1 - 0.5 · 0.9³.
    assert!((factor - 0.6355).abs() < 1e-9, "{factor}");
    let mut waits = Vec::new();
    for _ in 0..20 {
        waits.push(scene.acquire("acme", 1).await.unwrap().wait.as_secs_f64());
    }
    let spacing = waits[19] - waits[18];
    assert!((spacing - 0.01005 / 0.6355).abs() < 1e-4, "{spacing}");
    scene.pass(600.0);
    assert!((scene.peek("acme").await.unwrap().factor - 1.0).abs() < 1e-9);
}

async fn slots_come_back(scene: &Scene) {
    scene.warm_up("acme").await;
    let (first, _second) = (scene.acquire("acme", 1).await.unwrap(), scene.acquire("acme", 1).await.unwrap());
    assert_eq!(scene.refused("acme").await.reason, Reason::Concurrency);
    assert_eq!(scene.peek("acme").await.unwrap().in_flight, 2);
    scene.report(first, HEALTHY).await;
    let _third = scene.acquire("acme", 1).await.unwrap();
    assert_eq!(scene.refused("acme").await.reason, Reason::Concurrency);
    scene.pass(15.1);
    assert!(scene.acquire("acme", 1).await.is_ok(), "a crashed worker's slot runs out");
}

async fn a_new_state_gives_no_slot_away(scene: &Scene) {
    let cold = scene.limiter.cold_wait_us() / 1e6;
    let first = scene.acquire("acme", 1).await.unwrap();
    assert!(about(first.wait, cold), "{first:?}");
    assert_eq!(scene.peek("acme").await.unwrap().in_flight, usize::from(cold == 0.0));
    if cold > 0.0 {
        let early = scene.limiter.confirm(&first.permit.limits, &first.ask).await.unwrap_err();
        assert_eq!(early, Denied::new(cold * 1e6, Reason::Concurrency));
        scene.pass(cold);
        scene.limiter.confirm(&first.permit.limits, &first.ask).await.unwrap();
    }
    assert!(about(scene.acquire("acme", 1).await.unwrap().wait, 0.0));
    assert_eq!(scene.refused("acme").await.reason, Reason::Concurrency);
}

/// A call may leave as late as the burst that went before it is ahead of the rate.
async fn a_late_answer_has_its_slack(scene: &Scene) {
    scene.warm_up("acme").await;
    let (limits, mut granted) = (scene.limits("acme"), Vec::new());
    for (token, lead_us) in [(1, 0.0), (2, 0.0), (3, 30e3), (4, 0.0)] {
        let ask = Ask { cost: 1, token, lease_us: 15e6, lead_us, past: Past::Clean };
        match scene.limiter.acquire(&limits, &ask).await {
            Decision::Granted { wait, slack, confirm, .. } => granted.push((wait, slack, confirm)),
            Decision::Denied(denied) => panic!("{denied:?}"),
        }
    }
    let interval = 1e4 / 0.995;
    let expected = [(0.0, 0.0), (0.0, interval), (30e3, 0.0), (0.0, 30e3 + interval)];
    for ((wait, slack, confirm), (moment, late)) in granted.iter().zip(expected) {
        assert!((wait - moment).abs() < 1.0 && (slack - late).abs() < 1.0 && !confirm, "{granted:?}");
    }
}

async fn slots_of_owners(scene: &Scene) {
    scene.warm_up("acme").await;
    scene.warm_up("other").await;
    let acme = scene.acquire("acme", 1).await.unwrap();
    let _other = scene.acquire("other", 1).await.unwrap();
    assert_eq!(scene.refused("acme").await.reason, Reason::Concurrency);
    scene.report(acme, HEALTHY).await;
    let acme = scene.acquire("acme", 1).await.unwrap();
    scene.report(acme, asked_to_wait(3600.0)).await;
    assert_eq!(scene.refused("acme").await.reason, Reason::Paused);
    scene.pass(16.0);
    scene.acquire("other", 1).await.expect("the pause is the first owner's");
    scene.pass(3600.0);
}

async fn who_waits_holds_no_slot(scene: &Scene) {
    scene.warm_up("acme").await;
    let mut waiting = Vec::new();
    while let Ok(granted) = scene.acquire("acme", 1).await {
        waiting.push(granted);
    }
    assert!(waiting.len() > 8, "{}", waiting.len());
    assert!(scene.peek("acme").await.unwrap().in_flight <= 2);
    scene.pass(1.0);
    let mut confirmed = 0;
    for granted in waiting.iter().filter(|granted| granted.wait > Duration::from_millis(10)) {
        match scene.limiter.confirm(&granted.permit.limits, &granted.ask).await {
            Ok(()) => confirmed += 1,
            Err(denied) => assert_eq!(denied.reason, Reason::Concurrency),
        }
        assert!(scene.peek("acme").await.unwrap().in_flight <= 3);
    }
    assert!(confirmed > 0);
    assert_eq!(scene.peek("acme").await.unwrap().in_flight, 3);
}

async fn all_limits_or_none(scene: &Scene) {
    scene.warm_up("acme").await;
    let first = scene.acquire("acme", 1).await.unwrap();
    for _ in 0..50 {
        assert_eq!(scene.refused("acme").await.reason, Reason::Concurrency);
    }
    scene.report(first, HEALTHY).await;
    let second = scene.acquire("acme", 1).await.unwrap();
    assert!(second.wait < Duration::from_millis(200), "refusals were charged to the rate: {second:?}");
}

async fn the_breaker_opens_and_closes(scene: &Scene) {
    let call = async |feedback: Feedback| {
        let granted = scene.acquire("acme", 1).await.unwrap();
        assert!(!granted.permit.probe);
        scene.report(granted, feedback).await;
    };
    let early = scene.acquire("acme", 1).await.unwrap();
    for feedback in [HEALTHY, HEALTHY, FAILED, FAILED, FAILED, FAILED] {
        call(feedback).await;
    }
    let denied = scene.refused("acme").await;
    assert_eq!(denied, Denied::new(10e6, Reason::BreakerOpen));
    assert_eq!(scene.peek("acme").await.unwrap().breaker, BreakerState::Open);
    scene.pass(10.0);
    assert_eq!(scene.peek("acme").await.unwrap().breaker, BreakerState::HalfOpen);
    scene.report(early, FAILED).await;
    let (first, second) = (scene.acquire("acme", 1).await.unwrap(), scene.acquire("acme", 1).await.unwrap());
    assert!(first.permit.probe && second.permit.probe);
    assert_eq!(scene.refused("acme").await.reason, Reason::BreakerOpen, "two probes are out");
    scene.report(second, UNUSED).await;
    let second = scene.acquire("acme", 1).await.unwrap();
    assert!(second.permit.probe, "one that was not made makes room for another");
    scene.report(second, HEALTHY).await;
    assert_eq!(scene.peek("acme").await.unwrap().breaker, BreakerState::HalfOpen);
    scene.report(first, HEALTHY).await;
    assert_eq!(scene.peek("acme").await.unwrap().breaker, BreakerState::Closed);
    for _ in 0..4 {
        call(FAILED).await;
    }
    scene.pass(10.0);
    for _ in 0..2 {
        assert_eq!(scene.peek("acme").await.unwrap().breaker, BreakerState::HalfOpen);
        let probe = scene.acquire("acme", 1).await.unwrap();
        scene.report(probe, FAILED).await;
    }
    assert_eq!(scene.peek("acme").await.unwrap().breaker, BreakerState::Open, "failed probes open it again");
}

async fn rows_that_failed_before_are_no_probes_while_there_are_others(scene: &Scene) {
    for _ in 0..4 {
        scene.call(Past::Clean, FAILED).await;
    }
    scene.pass(10.0);
    let denied = scene.acquire_as("acme", 1, Past::Failed).await.unwrap_err();
    assert_eq!(denied, Denied::of_row(2e6, Reason::BreakerOpen), "others may come");
    let probe = scene.acquire("acme", 1).await.unwrap();
    assert!(probe.permit.probe);
    scene.pass(2.0);
    let denied = scene.acquire_as("acme", 1, Past::Failed).await.unwrap_err();
    assert_eq!(denied, Denied::of_row(10e6, Reason::BreakerOpen), "others have come");
    scene.report(probe, HEALTHY).await;
    scene.call(Past::Clean, HEALTHY).await;
    assert_eq!(scene.peek("acme").await.unwrap().breaker, BreakerState::Closed);
    // Now there are only rows that fail each time.
    for _ in 0..4 {
        scene.call(Past::Clean, FAILED).await;
    }
    for state in [BreakerState::Open, BreakerState::Open, BreakerState::HalfOpen] {
        scene.pass(25.0);
        for _ in 0..2 {
            scene.call(Past::Failed, FAILED).await;
        }
        assert_eq!(scene.peek("acme").await.unwrap().breaker, state, "after a minute it is theirs to end");
    }
}

async fn a_row_that_is_refused_beside_others_waits_alone(scene: &Scene) {
    scene.warm_up("acme").await;
    let share = async || scene.peek("acme").await.unwrap().factor;
    assert!(!scene.call(Past::Clean, asked_to_wait(2.0)).await, "a first refusal counts for all");
    assert_eq!(scene.refused("acme").await.reason, Reason::Paused);
    scene.pass(3.0);
    assert!(share().await < 1.0);
    scene.call(Past::Clean, Feedback { elapsed: 0.5e6, ..HEALTHY }).await;
    assert!(scene.call(Past::Throttled, asked_to_wait(60.0)).await, "it was refused again, others were not");
    assert!((share().await - 1.0).abs() < 1e-9, "what it did is undone");
    assert!(scene.call(Past::ThrottledAlone, asked_to_wait(60.0)).await);
    scene.call(Past::Clean, HEALTHY).await;
    assert!(scene.call(Past::Clean, asked_to_wait(60.0)).await, "another one's refusal is doubted");
    assert!(scene.acquire("acme", 1).await.is_ok());
    assert!(!scene.call(Past::Clean, asked_to_wait(1.0)).await, "two in a row are not");
    scene.pass(1.0);
    scene.call(Past::Throttled, HEALTHY).await;
    assert!(!scene.call(Past::Clean, asked_to_wait(1.0)).await, "it was about speed after all");
    scene.pass(600.0);
}

async fn failures_that_ask_for_a_pause_are_learnt(scene: &Scene) {
    scene.warm_up("acme").await;
    let failure = feedback(Some(false), Some(3e6), false);
    assert!(!scene.call(Past::Clean, failure).await);
    assert_eq!(scene.refused("acme").await.reason, Reason::Paused);
    scene.pass(4.0);
    scene.call(Past::Clean, HEALTHY).await;
    assert!(scene.call(Past::Failed, failure).await, "it failed again, others did not");
    scene.call(Past::Clean, HEALTHY).await;
    assert!(scene.call(Past::Clean, failure).await, "another one's is doubted");
    assert!(!scene.call(Past::Clean, failure).await, "two in a row are not");
    assert_eq!(scene.refused("acme").await.reason, Reason::Paused);
    scene.pass(600.0);
}

async fn while_nothing_goes_through_pauses_grow(scene: &Scene) {
    scene.warm_up("acme").await;
    let sign = feedback(None, None, true);
    let paused = async || scene.peek("acme").await.unwrap().paused_for.as_secs();
    let mut pauses = Vec::new();
    for _ in 0..4 {
        scene.call(Past::Clean, sign).await;
        pauses.push(paused().await);
        scene.pass(10.0);
    }
    assert_eq!(pauses, [0, 2, 4, 8]);
    assert_eq!(scene.peek("acme").await.unwrap().refusals, 4);
    let tried = scene.acquire("acme", 1).await.unwrap();
    assert!(tried.permit.probe);
    // Three times ten seconds passed between the four refusals.
    let refused = |denied: Denied| Denied { refused_for: 30e6, ..denied };
    let denied = scene.refused("acme").await;
    assert_eq!(denied, refused(Denied::new(1e6, Reason::Paused)), "one is tried alone");
    let denied = scene.acquire_as("acme", 1, Past::Throttled).await.unwrap_err();
    assert_eq!(denied, refused(Denied::of_row(5e6, Reason::Paused)), "and not one that was refused before");
    scene.report(tried, HEALTHY).await;
    assert!(!scene.acquire("acme", 1).await.unwrap().permit.probe);
    scene.call(Past::Clean, asked_to_wait(5.0)).await;
    assert_eq!(scene.refused("acme").await, Denied::new(5e6, Reason::Paused), "another series");
    scene.pass(600.0);
}

async fn a_clock_that_is_set_back_holds_up_nobody(scene: &Scene) {
    scene.warm_up("acme").await;
    let call = scene.acquire("acme", 1).await.unwrap();
    scene.clock.set_back(Duration::from_secs(3600));
    assert_eq!(scene.peek("acme").await.unwrap().in_flight, 1);
    assert_eq!(scene.refused("acme").await.reason, Reason::Concurrency, "the slot is still taken");
    scene.report(call, asked_to_wait(5.0)).await;
    scene.clock.set_back(Duration::from_secs(3600));
    assert_eq!(scene.refused("acme").await, Denied::new(5e6, Reason::Paused), "a pause is as long as it was");
    scene.pass(5.0);
    scene.call(Past::Clean, HEALTHY).await;
    scene.clock.set_back(Duration::from_secs(3600));
    assert!(scene.acquire("acme", 1).await.is_ok());
    scene.pass(3.0 * 3600.0);
}

async fn the_last_failures_cause_is_known_until_a_call_succeeds(scene: &Scene) {
    let cause = async || scene.peek("acme").await.unwrap().cause;
    assert_eq!(cause().await, None);
    for (feedback, known) in [
        (Feedback { cause: Some(Cause::ConnectionRefused), ..FAILED }, Some(Cause::ConnectionRefused)),
        (UNUSED, Some(Cause::ConnectionRefused)),
        (Feedback { cause: Some(Cause::CertificateExpired), ..FAILED }, Some(Cause::CertificateExpired)),
        // An answer of 500 is no success.
        (FAILED, Some(Cause::CertificateExpired)),
        (HEALTHY, None),
    ] {
        let granted = scene.acquire("acme", 1).await.expect("a permit");
        scene.report(granted, feedback).await;
        // What went well is told with the next question.
        let next = scene.acquire("acme", 1).await.expect("a permit");
        scene.report(next, UNUSED).await;
        assert_eq!(cause().await, known, "{feedback:?}");
    }
}

async fn a_pause_is_no_failure(scene: &Scene) {
    for _ in 0..8 {
        let granted = scene.acquire("acme", 1).await.unwrap();
        scene.report(granted, asked_to_wait(0.0)).await;
        scene.pass(400.0);
    }
    assert_eq!(scene.peek("acme").await.unwrap().breaker, BreakerState::Closed);
}

/// That no call was made yet is something else than a limiter that does not answer.
async fn what_is_not_known_holds_nothing_up(scene: &Scene) {
    let unknown = scene.peek("acme").await.expect("it answers");
    assert_eq!((unknown.free_in, unknown.paused_for, unknown.in_flight), (Duration::ZERO, Duration::ZERO, 0));
    assert_eq!((unknown.breaker, unknown.factor.to_bits()), (BreakerState::Closed, 1.0_f64.to_bits()));
    scene.warm_up("acme").await;
    let seen = scene.peek("acme").await.unwrap();
    assert_eq!((seen.free_in, seen.paused_for, seen.in_flight), (Duration::ZERO, Duration::ZERO, 0));
    while scene.acquire("acme", 1).await.is_ok() {}
    assert!(scene.peek("acme").await.unwrap().free_in > Duration::from_millis(900));
}
