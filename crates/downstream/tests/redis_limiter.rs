//! The limiter on Redis: what every limiter does, decision by decision as the one in process does it, and what happens
//! when Redis forgets, restarts or is away.
#![allow(clippy::unwrap_used, reason = "a test's way to fail")]

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use penstock_domain::limit::{Ask, Decision, Feedback, Past, Reason};
use penstock_domain::pipeline::template::Template;
use penstock_domain::pipeline::{Breaker, Dependency, Per, Rate, Window};
use penstock_domain::time::{Clock as _, ManualClock, Timestamp};
use penstock_downstream::{CallLimits, Called, Limiter, LocalLimiter, Permit, SharedLimiter, Spend};
use penstock_redis::Prefix;
use penstock_sandbox::proxy::Proxy;
use support::conformance::Scene;
use support::redis::Own;
use support::server::Server;
use support::{Rng, concurrency, dependency, hammer, rate};

/// Most rows have a clean past.
const PASTS: [Past; 8] = [
    Past::Clean,
    Past::Clean,
    Past::Clean,
    Past::Clean,
    Past::Failed,
    Past::Failed,
    Past::Throttled,
    Past::ThrottledAlone,
];

const START: Timestamp = Timestamp::from_millis(1_800_000_000_000);

fn redis_url() -> String {
    std::env::var("PENSTOCK_TEST_REDIS_URL")
        .expect("PENSTOCK_TEST_REDIS_URL is not set: `cargo xtask test` starts a Redis and sets it")
}

fn shared() -> SharedLimiter {
    SharedLimiter::connect(&redis_url(), Prefix::default()).unwrap()
}

#[tokio::test]
async fn it_does_what_every_limiter_does() {
    let clock = Arc::new(ManualClock::new(START));
    support::conformance::all(Arc::new(shared().timed_by(clock.clone())), clock).await;
}

/// Limits beside the first one: for half of the histories none.
fn further_limits(rng: &mut Rng) -> Vec<Rate> {
    let mut limits = Vec::new();
    for id in 0..rng.below(6).saturating_sub(2) {
        let burst = 1 + u32::try_from(rng.below(4)).unwrap();
        let mut limit = Rate { id: id.to_string(), ..rate(5 + burst, burst) };
        limit.window = if rng.below(2) == 0 { Window::Bucket } else { Window::Sliding };
        limit.per_owner = rng.below(3) == 0;
        limit.per = (rng.below(2) == 0)
            .then(|| Per { text: "v".to_owned(), template: Template::Text("v".to_owned()) });
        limits.push(limit);
    }
    limits
}

/// A value for each limit that wants one.
fn values(api: &Dependency, rng: &mut Rng) -> Vec<Option<String>> {
    api.more.iter().map(|limit| limit.per.as_ref().map(|_| format!("value-{}", rng.below(3)))).collect()
}

/// The script against the state machine that it mirrors, over random histories.
#[tokio::test]
async fn it_decides_as_the_one_in_process() {
    for seed in 1..=16 {
        let clock = Arc::new(ManualClock::new(START));
        let (local, shared) = (LocalLimiter::new().timed_by(clock.clone()), shared().timed_by(clock.clone()));
        let mut rng = Rng(seed * 0x9E37_79B9);
        let mut api = dependency("http://api.example");
        api.rate = (rng.below(4) > 0).then(|| Rate {
            per_owner: rng.below(3) == 0,
            ..rate(20, 1 + u32::try_from(rng.below(8)).unwrap())
        });
        api.concurrency = (rng.below(2) > 0).then(|| {
            let mut limit = concurrency(1 + u32::try_from(rng.below(5)).unwrap());
            limit.per_owner = rng.below(2) == 0;
            limit
        });
        api.breaker = Breaker { min_calls: 6, probes: 2, ..Breaker::default() };
        api.more = further_limits(&mut rng);
        let mut under_way: Vec<(Permit, Past)> = Vec::new();
        for step in 0..600_u64 {
            let owner = ["acme", "other"][usize::try_from(rng.below(2)).unwrap()];
            let spend = Spend { values: values(&api, &mut rng), ..Spend::of(1) };
            let limits = CallLimits::of_call(&api, owner, 1e6, &spend, clock.now());
            let burst = api.rate.as_ref().map_or(1, |rate| rate.burst);
            let cost = 1 + u32::try_from(rng.below(u64::from(burst))).unwrap();
            let past = PASTS[usize::try_from(rng.below(8)).unwrap()];
            let lead_us = [0.0, 0.0, 30e3, 200e3][usize::try_from(rng.below(4)).unwrap()];
            let patience_us = [0.0, 1e6][usize::try_from(rng.below(2)).unwrap()];
            let ask = Ask { cost, token: step + 1, lease_us: 3e6, lead_us, past, patience_us };
            match rng.below(10) {
                0..=4 => {
                    let (ours, theirs) =
                        (local.acquire(&limits, &ask).await, shared.acquire(&limits, &ask).await);
                    assert_eq!(ours, theirs, "seed {seed}, step {step}: {limits:?}");
                    if let Decision::Granted { probe, .. } = ours {
                        under_way.push((Permit { token: ask.token, limits, probe }, past));
                    }
                }
                5 if !under_way.is_empty() => {
                    let (permit, _) = &under_way[under_way.len() - 1];
                    let ask = Ask { token: permit.token, ..ask };
                    let ours = local.confirm(&permit.limits, &ask).await;
                    assert_eq!(ours, shared.confirm(&permit.limits, &ask).await, "seed {seed}, step {step}");
                }
                5..=7 if !under_way.is_empty() => {
                    let place = usize::try_from(rng.below(under_way.len() as u64)).unwrap();
                    let (permit, past) = under_way.swap_remove(place);
                    let feedback = match rng.below(8) {
                        0 => Feedback { throttled: true, ..Feedback::default() },
                        #[allow(clippy::cast_precision_loss)]
                        1 => Feedback {
                            throttled: true,
                            pause: Some(rng.below(3000) as f64 * 1000.0),
                            ..Feedback::default()
                        },
                        2 => Feedback::default(),
                        3..=5 => Feedback { healthy: Some(false), ..Feedback::default() },
                        _ => Feedback { healthy: Some(true), ..Feedback::default() },
                    };
                    #[allow(clippy::cast_precision_loss)]
                    let elapsed = rng.below(500) as f64 * 1000.0;
                    let feedback = Feedback { probe: permit.probe, past, elapsed, ..feedback };
                    let limits = permit.limits.clone();
                    let (ours, theirs) =
                        (local.report(permit.clone(), feedback).await, shared.report(permit, feedback).await);
                    assert_eq!(ours, theirs, "seed {seed}, step {step}: {feedback:?}");
                    // Good news travels with the next request: ask at once, so that both learn it at one moment.
                    let (ours, theirs) =
                        (local.acquire(&limits, &ask).await, shared.acquire(&limits, &ask).await);
                    assert_eq!(ours, theirs, "seed {seed}, step {step}, behind {feedback:?}: {limits:?}");
                    if let Decision::Granted { probe, .. } = ours {
                        under_way.push((Permit { token: ask.token, limits, probe }, past));
                    }
                }
                // Which of the further limits are forgotten because they are full is each limiter's own business.
                8 if rng.below(6) == 0 && api.more.is_empty() => {
                    clock.set_back(Duration::from_millis(rng.below(20_000)))
                }
                8 => {
                    let (ours, theirs) = (local.peek(&limits).await, shared.peek(&limits).await);
                    assert_eq!(ours, theirs, "seed {seed}, step {step}");
                }
                _ => {
                    let most = if rng.below(10) == 0 { 15_000 } else { 400 };
                    clock.advance(Duration::from_millis(rng.below(most)));
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_limit_is_used_and_never_passed() {
    let workers: [_; 4] = std::array::from_fn(|_| Arc::new(shared()));
    hammer::exact_limit(workers, (200, 10), 0.97, Duration::from_secs(1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lower_true_limit_is_respected() {
    let workers: [_; 4] = std::array::from_fn(|_| Arc::new(shared()));
    hammer::lower_limit(workers).await;
}

#[tokio::test]
async fn a_decision_is_one_round_trip_and_its_keys_do_not_stay() {
    let limiter = Arc::new(shared());
    let mut api = dependency("http://api.example");
    api.rate = Some(rate(1000, 100));
    let limits = CallLimits::of(&api, "acme", limiter.cold_wait_us());
    let client = redis::Client::open(redis_url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    for token in 1..=10 {
        let ask = Ask { cost: 1, token, lease_us: 1e6, lead_us: 0.0, past: Past::Clean, patience_us: 0.0 };
        assert!(matches!(
            limiter.acquire(&limits, &ask).await,
            Decision::Granted { .. } | Decision::Denied(_)
        ));
        let good = Feedback { healthy: Some(true), ..Feedback::default() };
        limiter.report(Permit { token, limits: limits.clone(), probe: false }, good).await;
    }
    let key = format!("penstock:lim:{{{}}}", limits.dependency);
    let heard: u32 = redis::cmd("HGET").arg(&key).arg("good").query_async(&mut connection).await.unwrap();
    assert_eq!(heard, 9, "each answer but the last travelled with the next question");
    let ttl: i64 = redis::cmd("TTL").arg(&key).query_async(&mut connection).await.unwrap();
    // Six hours, and the second that the rate is used up ahead.
    assert!((3600..=6 * 3600 + 2).contains(&ttl), "{ttl}");
    let ten_days = Duration::from_secs(10 * 24 * 3600);
    let pause = Feedback { pause: Some(penstock_domain::limit::micros(ten_days)), ..Feedback::default() };
    limiter.report(Permit { token: 11, limits: limits.clone(), probe: false }, pause).await;
    let paused_for = limiter.peek(&limits).await.unwrap().paused_for;
    assert!(paused_for > ten_days - Duration::from_secs(60), "{paused_for:?}");
    let ttl: u64 = redis::cmd("TTL").arg(&key).query_async(&mut connection).await.unwrap();
    assert!(ttl > paused_for.as_secs(), "a pause is not forgotten before it ends: {ttl}");
}

#[tokio::test]
async fn the_scripts_memory_and_the_keys_may_be_lost() {
    let limiter = shared();
    let mut api = dependency("http://api.example");
    api.rate = Some(rate(100, 10));
    let limits = CallLimits::of(&api, "acme", limiter.cold_wait_us());
    let client = redis::Client::open(redis_url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let ask =
        |token| Ask { cost: 1, token, lease_us: 1e6, lead_us: 0.0, past: Past::Clean, patience_us: 0.0 };
    let cold = |decision| matches!(decision, Decision::Granted { wait, .. } if wait > 0.95e6);
    assert!(cold(limiter.acquire(&limits, &ask(1)).await));
    let (): () = redis::cmd("SCRIPT").arg("FLUSH").query_async(&mut connection).await.unwrap();
    let next = limiter.acquire(&limits, &ask(2)).await;
    assert!(!matches!(next, Decision::Denied(denied) if denied.reason == Reason::Unavailable), "{next:?}");
    let key = format!("penstock:lim:{{{}}}", limits.dependency);
    let (): () = redis::cmd("DEL").arg(&key).query_async(&mut connection).await.unwrap();
    assert!(
        cold(limiter.acquire(&limits, &ask(3)).await),
        "a lost state waits for reservations that may be out"
    );
}

/// A firewall forgets the limiter's connection: calls go on, on a new one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_connection_is_replaced() {
    let (proxy, url) = Proxy::before(&redis_url()).unwrap();
    let limiter = SharedLimiter::connect(&url, Prefix::default()).unwrap();
    let mut api = dependency("http://silent.example");
    api.rate = Some(rate(100, 10));
    let limits = CallLimits::of(&api, "acme", limiter.cold_wait_us());
    let ask =
        |token| Ask { cost: 1, token, lease_us: 1e6, lead_us: 0.0, past: Past::Clean, patience_us: 0.0 };
    let answers = async |token| !matches!(limiter.acquire(&limits, &ask(token)).await, Decision::Denied(denied) if denied.reason == Reason::Unavailable);
    assert!(answers(1).await);
    for round in 0..2 {
        proxy.silence();
        let began = Instant::now();
        let mut token = 2;
        while !answers(token).await {
            token += 1;
            assert!(began.elapsed() < Duration::from_secs(10), "round {round}");
        }
        assert!(began.elapsed() < Duration::from_secs(10), "round {round}: {:?}", began.elapsed());
    }
}

#[tokio::test]
async fn without_redis_nothing_is_called() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let limiter = SharedLimiter::connect(&format!("redis://{nobody}"), Prefix::default()).unwrap();
    let api = dependency("http://api.example");
    let limits = CallLimits::of(&api, "acme", limiter.cold_wait_us());
    let ask = Ask { cost: 1, token: 1, lease_us: 1e6, lead_us: 0.0, past: Past::Clean, patience_us: 0.0 };
    let began = Instant::now();
    match limiter.acquire(&limits, &ask).await {
        Decision::Denied(denied) => assert_eq!(denied.reason, Reason::Unavailable),
        granted => panic!("{granted:?}"),
    }
    assert_eq!(limiter.confirm(&limits, &ask).await.unwrap_err().reason, Reason::Unavailable);
    assert!(began.elapsed() < Duration::from_secs(4), "a row does not wait for Redis for long");
    assert_eq!(limiter.peek(&limits).await, None, "that it does not answer is told");
}

#[tokio::test]
async fn a_restart_from_an_older_state_gives_no_second_burst() {
    let mut redis = Own::start().await;
    let limiter = Arc::new(SharedLimiter::connect(&redis.url(), Prefix::default()).unwrap());
    let scene = Scene::new(limiter, Arc::default(), |api| api.rate = Some(rate(50, 40)));
    let until = Instant::now() + Duration::from_secs(10);
    let ready = async |what: &str| loop {
        if let Ok(granted) = scene.acquire("acme", 1).await {
            break granted.wait;
        }
        assert!(Instant::now() < until, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    ready("at first").await;
    // The burst has come back when a call need not wait.
    while scene.acquire("acme", 1).await.is_ok_and(|granted| granted.wait > Duration::ZERO) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let client = redis::Client::open(redis.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let (): () = redis::cmd("SAVE").query_async(&mut connection).await.unwrap();
    while scene.acquire("acme", 1).await.is_ok() {}
    redis.kill();
    assert_eq!(scene.acquire("acme", 1).await.unwrap_err().reason, Reason::Unavailable);
    redis.restart().await;
    let wait = ready("behind the restart").await;
    assert!(wait > Duration::from_millis(900), "reservations from before may still come: {wait:?}");
}

/// Calls go on when Redis forgets them: all of it, or only one of a limit's two keys.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flush_does_not_let_more_calls_at_once() {
    forget(|_| redis::cmd("FLUSHALL")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_slots_do_not_let_more_calls_at_once() {
    forget(|gate| redis::cmd("DEL").arg(format!("{gate}:slots")).to_owned()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_gate_whose_slots_are_kept_does_not_let_more_calls_at_once() {
    forget(|gate| redis::cmd("DEL").arg(gate).to_owned()).await;
}

async fn forget(lose: impl Fn(&str) -> redis::Cmd) {
    const SLOTS: u32 = 5;
    let redis = Own::start().await;
    let server = Server::start(1000, 1000);
    let mut api = dependency(server.url());
    api.concurrency = Some(concurrency(SLOTS));
    let api = Arc::new(api);
    let until = Instant::now() + Duration::from_secs(9);
    let rows = rows_until(until, &redis, &api, SLOTS * 2, "/slow");
    let client = redis::Client::open(redis.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let gate = format!("penstock:lim:{{{}}}", CallLimits::of(&api, "acme", 1e6).dependency);
    let mut losses = 0;
    // At any phase of the calls, which outlast the time for which a new state gives no slot away.
    while Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(1_930)).await;
        let (): () = lose(&gate).query_async(&mut connection).await.unwrap();
        losses += 1;
    }
    let called: u32 = rows.join_all().await.into_iter().sum();
    assert_eq!(server.most_at_once(), SLOTS, "{called} calls in {losses} losses");
    assert!(called >= SLOTS * losses / 2, "{called} calls in {losses} losses");
}

/// Two workers' rows that call until a moment; each tells how often it did.
fn rows_until(
    until: Instant,
    redis: &Own,
    api: &Arc<Dependency>,
    rows_per_worker: u32,
    path: &'static str,
) -> tokio::task::JoinSet<u32> {
    let mut rows = tokio::task::JoinSet::new();
    for worker in 1..=2 {
        let caller = hammer::caller(
            Arc::new(SharedLimiter::connect(&redis.url(), Prefix::default()).unwrap()),
            worker,
        );
        for _ in 0..rows_per_worker {
            let (caller, api) = (caller.clone(), api.clone());
            rows.spawn(async move {
                let mut called = 0;
                while Instant::now() < until {
                    match hammer::call(&caller, &api, path).await {
                        Called::Answered { .. } => called += 1,
                        _ => tokio::time::sleep(Duration::from_millis(20)).await,
                    }
                }
                called
            });
        }
    }
    rows
}

/// Redis's clock jumps an hour forward and two back: calls go on, and their limits hold.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_jumps_stops_no_calls() {
    const SLOTS: u32 = 5;
    let redis = Own::with_a_clock().await;
    let server = Server::start(1000, 1000);
    let mut api = dependency(server.url());
    api.concurrency = Some(concurrency(SLOTS));
    api.rate = Some(rate(50, 10));
    let api = Arc::new(api);
    let until = Instant::now() + Duration::from_secs(24);
    let rows = rows_until(until, &redis, &api, 10, "/slow");
    for offset in [0, 3600, -3600] {
        redis.set_clock(offset);
        let set_at = Instant::now();
        // The calls of before have ended by then.
        let well_at = set_at + Duration::from_secs(4);
        while server.arrived().last().is_none_or(|last| last.at < well_at) {
            assert!(
                set_at.elapsed() < Duration::from_secs(10),
                "no call after the clock was set {offset} s ahead"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    drop(rows);
    assert_eq!(server.most_at_once(), SLOTS);
}
