//! Calls, from permit to verdict, against a real server.
#![allow(clippy::unwrap_used, reason = "a test's way to fail")]

#[path = "calls/recorded.rs"]
mod recorded;
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use penstock_domain::limit::{Past, Reason};
use penstock_domain::outcome::{Repetition, Verdict};
use penstock_domain::pipeline::definition::Method;
use penstock_domain::pipeline::{Body, Breaker, Dependency, Rate, RenderedRequest, Target};
use penstock_domain::time::Clock as _;
use penstock_downstream::{Called, Caller, Demand, LocalLimiter, Note, Response, Spend};
use serde_json::json;
use support::hammer::{caller, get};
use support::server::Server;
use support::{SystemClock, concurrency, dependency, rate};

fn local() -> Arc<Caller> {
    caller(Arc::new(LocalLimiter::new()), 1)
}

fn demand(dependency: &Dependency) -> Demand<'_> {
    Demand {
        dependency,
        owner: "acme",
        spend: Spend::of(1),
        timeout: dependency.timeout,
        answer: Default::default(),
        repetition: Repetition::Unsaid,
        unanswered_before: false,
        rules: None,
        reads_body: true,
        traceparent: None,
        past: Past::Clean,
        note: None,
    }
}

async fn call(caller: &Caller, demand: &Demand<'_>, request: RenderedRequest) -> Called {
    caller.call(demand, request, &|| true, &|| Box::new(())).await
}

async fn verdict(caller: &Caller, demand: &Demand<'_>, path: &str) -> (Verdict, Option<Response>) {
    match call(caller, demand, get(path)).await {
        Called::Answered { verdict, response, .. } => (verdict, response),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn every_ending_has_its_verdict() {
    let server = Server::start(1000, 1000);
    let mut api = dependency(server.url());
    api.timeout = Duration::from_millis(300);
    let caller = local();
    let once = demand(&api);
    let again = Demand { repetition: Repetition::Harmless, ..demand(&api) };
    let retry = |code: &str| Verdict::Retry { code: code.into() };
    let fail = |code: &str| Verdict::Fail { code: code.into() };
    let unknown = Verdict::Unknown { code: "outcome_unknown".into() };
    for (path, first, repeatable) in [
        ("/ok", Verdict::Success, Verdict::Success),
        ("/nothing", Verdict::Success, Verdict::Success),
        ("/broken", retry("http_500"), retry("http_500")),
        ("/refused", fail("http_422"), fail("http_422")),
        ("/moved", fail("http_302"), fail("http_302")),
        ("/garbage", fail("bad_response"), retry("bad_response")),
        ("/large", fail("bad_response"), retry("bad_response")),
        ("/hang", unknown.clone(), retry("timeout")),
        ("/drop", unknown, retry("connection_lost")),
    ] {
        assert_eq!(verdict(&caller, &once, path).await.0, first, "{path}");
        assert_eq!(verdict(&caller, &again, path).await.0, repeatable, "{path}, safe to repeat");
    }
    let unread = Demand { reads_body: false, ..demand(&api) };
    assert_eq!(verdict(&caller, &unread, "/garbage").await.0, Verdict::Success, "nobody reads it");
    assert_eq!(verdict(&caller, &unread, "/broken").await.0, retry("http_500"));
    let sent = server.arrived().len();
    assert_eq!(sent, 20, "nothing was sent twice, no redirect was followed");
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let gone = dependency(&format!("http://{nobody}"));
    assert_eq!(verdict(&caller, &demand(&gone), "/ok").await.0, retry("connect_failed"));
}

/// A server that takes no further connection: its queue of two is full.
#[tokio::test]
async fn a_connection_that_is_not_made_in_time_shows_that_nothing_was_sent() {
    let full = tokio::net::TcpSocket::new_v4().unwrap();
    full.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let full = full.listen(1).unwrap();
    let address = full.local_addr().unwrap();
    let _queued = [
        tokio::net::TcpStream::connect(address).await.unwrap(),
        tokio::net::TcpStream::connect(address).await.unwrap(),
    ];
    let mut api = dependency(&format!("http://{address}"));
    for timeout in [Duration::from_millis(400), Duration::from_secs(2)] {
        api.timeout = timeout;
        let began = Instant::now();
        let (verdict, _) = verdict(&local(), &demand(&api), "/ok").await;
        assert_eq!(verdict, Verdict::Retry { code: "connect_failed".into() }, "{timeout:?}");
        assert!(began.elapsed() < timeout * 3 / 4, "{:?}", began.elapsed());
    }
}

#[tokio::test]
async fn what_is_sent_and_what_is_read() {
    let server = Server::start(1000, 1000);
    let mut api = dependency(&format!("{}/v1/", server.url()));
    api.headers = vec![("Authorization".into(), "Bearer token".into()), ("X-Kind".into(), "general".into())];
    let request = RenderedRequest {
        method: Method::Post,
        target: Target::Path("/users/a%2Fb".into()),
        query: vec![("q".into(), "x&y=z".into())],
        headers: vec![("x-kind".into(), "special".into()), ("Idempotency-Key".into(), "key-1".into())],
        body: Some(Body::json(&json!({"name": "Ada"}))),
    };
    let demand = Demand {
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
        ..demand(&api)
    };
    let Called::Answered { verdict: Verdict::Success, response: Some(response), elapsed, .. } =
        call(&local(), &demand, request).await
    else {
        panic!("it should have succeeded");
    };
    assert_eq!((response.status, &*response.body), (200, &json!({"ok": true})));
    assert_eq!(response.headers.get("x-request-id").map(String::as_str), Some("7"));
    assert!(elapsed > Duration::ZERO);
    let arrived = server.arrived().remove(0);
    assert_eq!(arrived.line, "POST /v1/users/a%2Fb?q=x%26y%3Dz HTTP/1.1");
    assert_eq!(arrived.body, r#"{"name":"Ada"}"#);
    for (name, value) in [
        ("authorization", "Bearer token"),
        ("x-kind", "special"),
        ("content-type", "application/json"),
        ("idempotency-key", "key-1"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ] {
        assert_eq!(arrived.headers.get(name).map(String::as_str), Some(value), "{name}");
    }
}

#[tokio::test]
async fn what_cannot_be_sent_is_not_sent() {
    let server = Server::start(1000, 1000);
    let api = dependency(server.url());
    let caller = local();
    let (verdict, response) = verdict(&caller, &demand(&api), "/users/../admin").await;
    assert_eq!(verdict, Verdict::Fail { code: "template_error".into() });
    assert!(response.is_none());
    let not_covered = caller.call(&demand(&api), get("/ok"), &|| false, &|| Box::new(())).await;
    assert!(matches!(not_covered, Called::NotCovered), "{not_covered:?}");
    assert!(server.arrived().is_empty());
}

#[tokio::test]
async fn a_word_to_wait_holds_the_dependency_and_costs_no_attempt() {
    let server = Server::start(1000, 1000);
    let api = dependency(server.url());
    let caller = local();
    let before = SystemClock.now();
    let (verdict, _) = verdict(&caller, &demand(&api), "/busy").await;
    let Verdict::Throttled { until: Some(until) } = verdict else { panic!("{verdict:?}") };
    assert!((1990..3000).contains(&until.since(before).as_millis()), "{until}");
    match call(&caller, &demand(&api), get("/ok")).await {
        Called::Waits { until: again, reason: Reason::Paused, .. } => {
            assert!(again.since(before) > Duration::from_millis(1900));
        }
        other => panic!("{other:?}"),
    }
    assert!(caller.predicted_wait(&api) > Duration::from_millis(1500));
    assert_eq!(server.arrived().len(), 1);
}

/// A day is a day; what is about one call only holds nobody else up.
#[tokio::test]
async fn whoever_asks_to_wait_is_left_alone_as_long_as_he_asks() {
    let server = Server::start(1000, 1000);
    let retry = |code: &str| Verdict::Retry { code: code.into() };
    for (path, verdict, wait, pauses) in [
        ("/said/500/90", retry("http_500"), 90, true),
        ("/said/502/2.0", retry("http_502"), 2, true),
        ("/said/408/90", retry("http_408"), 90, false),
        ("/said/425/90", retry("http_425"), 90, false),
        ("/said/529/86400", Verdict::Throttled { until: None }, 86_400, true),
        ("/said/429/864000", Verdict::Throttled { until: None }, 864_000, true),
        ("/said/429/1m30s", Verdict::Throttled { until: None }, 90, true),
    ] {
        let api = dependency(server.url());
        let caller = local();
        let before = SystemClock.now();
        let called = call(&caller, &demand(&api), get(path)).await;
        let Called::Answered { verdict: got, not_before: Some(not_before), .. } = called else {
            panic!("{path}: {called:?}")
        };
        let until = match &got {
            Verdict::Throttled { until } => {
                assert_eq!(*until, Some(not_before), "{path}");
                Verdict::Throttled { until: None }
            }
            other => other.clone(),
        };
        assert_eq!(until, verdict, "{path}");
        let waited = not_before.since(before);
        // Both are whole milliseconds, each cut by itself.
        let least = Duration::from_secs(wait) - Duration::from_millis(1);
        assert!(waited >= least && waited < Duration::from_secs(wait + 10), "{path}: {waited:?}");
        let next = call(&caller, &demand(&api), get("/ok")).await;
        match next {
            Called::Waits { until, reason: Reason::Paused, .. } if pauses => {
                assert!(until.since(before) >= least, "{path}: {until}");
            }
            Called::Answered { verdict: Verdict::Success, .. } if !pauses => {}
            other => panic!("{path}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn of_several_policies_the_one_that_is_used_up_counts_in_whatever_lines_they_come() {
    let server = Server::start(1000, 1000);
    let api = dependency(server.url());
    let before = SystemClock.now();
    let (verdict, _) = verdict(&local(), &demand(&api), "/policies").await;
    let Verdict::Throttled { until: Some(until) } = verdict else { panic!("{verdict:?}") };
    assert!((1990..3000).contains(&until.since(before).as_millis()), "{until}");
}

#[tokio::test]
async fn a_broken_dependency_is_left_alone() {
    let server = Server::start(1000, 1000);
    let mut api = dependency(server.url());
    api.breaker = Breaker { min_calls: 3, ..Breaker::default() };
    let caller = local();
    for _ in 0..3 {
        verdict(&caller, &demand(&api), "/broken").await;
    }
    let denied = call(&caller, &demand(&api), get("/ok")).await;
    assert!(matches!(denied, Called::Waits { reason: Reason::BreakerOpen, .. }), "{denied:?}");
    assert_eq!(server.arrived().len(), 3);
}

#[tokio::test]
async fn a_short_wait_is_waited_out_and_marked() {
    let server = Server::start(1000, 1000);
    let mut api = dependency(server.url());
    api.rate = Some(rate(20, 1));
    let caller = local();
    let marks = Arc::new(AtomicUsize::new(0));
    struct Mark(Arc<AtomicUsize>);
    impl Drop for Mark {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }
    let made = AtomicUsize::new(0);
    let waiting = || -> Box<dyn Send> {
        made.fetch_add(1, Ordering::SeqCst);
        marks.fetch_add(1, Ordering::SeqCst);
        Box::new(Mark(marks.clone()))
    };
    let seen = AtomicUsize::new(0);
    let covered = || {
        seen.fetch_max(marks.load(Ordering::SeqCst), Ordering::SeqCst);
        true
    };
    let began = Instant::now();
    for _ in 0..4 {
        let called = caller.call(&demand(&api), get("/ok"), &covered, &waiting).await;
        assert!(matches!(called, Called::Answered { verdict: Verdict::Success, .. }), "{called:?}");
    }
    assert!(began.elapsed() >= Duration::from_millis(140), "{:?}", began.elapsed());
    assert!(made.load(Ordering::SeqCst) >= 3);
    assert_eq!(seen.load(Ordering::SeqCst), 0, "the mark is gone when the call is made");
    assert!(caller.metrics().values().next().unwrap().waited.sum > 0.1);
}

/// As of a step of an older definition, when the burst was made smaller meanwhile.
#[tokio::test]
async fn a_call_that_costs_more_than_the_burst_takes_all_of_it() {
    let server = Server::start(1000, 1000);
    let mut api = dependency(server.url());
    api.rate = Some(rate(1, 1));
    let dear = Demand { spend: Spend::of(4), ..demand(&api) };
    let called = call(&local(), &dear, get("/ok")).await;
    assert!(matches!(called, Called::Answered { verdict: Verdict::Success, .. }), "{called:?}");
}

#[tokio::test]
async fn a_freed_slot_wakes_who_waits_for_it() {
    let server = Server::start(1000, 1000);
    let mut api = dependency(server.url());
    api.concurrency = Some(concurrency(2));
    let caller = local();
    let api = Arc::new(api);
    let mut rows = tokio::task::JoinSet::new();
    for _ in 0..60 {
        let (caller, api) = (caller.clone(), api.clone());
        rows.spawn(async move { verdict(&caller, &demand(&api), "/ok").await.0 });
    }
    while let Some(done) = rows.join_next().await {
        assert_eq!(done.unwrap(), Verdict::Success, "none was sent away");
    }
    assert_eq!(server.arrived().len(), 60);
    let seen = caller.peek(&api, "acme").await.unwrap();
    assert_eq!(seen.in_flight, 0, "every slot was released");
}

#[tokio::test]
async fn slots_that_stay_taken_send_the_row_away() {
    let server = Server::start(1000, 1000);
    let mut api = dependency(server.url());
    api.concurrency = Some(concurrency(1));
    api.timeout = Duration::from_secs(3);
    let caller = local();
    let (hanging, waiting) = (demand(&api), demand(&api));
    let hang = call(&caller, &hanging, get("/hang"));
    let second = async {
        while server.arrived().is_empty() {
            tokio::task::yield_now().await;
        }
        call(&caller, &waiting, get("/ok")).await
    };
    let (_, second) = tokio::join!(hang, second);
    assert!(matches!(second, Called::Waits { reason: Reason::Concurrency, .. }), "{second:?}");
}

/// A thread that is always busy when a call's moment comes.
#[tokio::test]
async fn a_worker_that_is_woken_too_late_calls_nothing_and_says_why() {
    let server = Server::start(1000, 1000);
    let mut api = dependency(server.url());
    api.rate = Some(rate(20, 1));
    let caller = local();
    let busy = tokio::spawn(async {
        loop {
            std::thread::sleep(Duration::from_millis(200));
            tokio::task::yield_now().await;
        }
    });
    // The first ones ask again at once, until it is plain that most are late.
    let told = async {
        loop {
            let called = call(&caller, &demand(&api), get("/ok")).await;
            if let Called::Waits { reason: Reason::Late, until, .. } = called
                && until.since(SystemClock.now()) > Duration::from_millis(500)
            {
                break;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), told).await.unwrap();
    busy.abort();
    assert_eq!(Reason::Late.code(), "limiter_late");
    assert!(
        caller.predicted_wait(&api) > Duration::from_millis(500),
        "others do not take from the rate as well"
    );
}

#[tokio::test]
async fn what_is_about_an_owner_holds_him_and_what_is_about_the_dependency_everybody() {
    let server = Server::start(1000, 1000);
    let mut api = dependency(server.url());
    api.rate = Some(Rate { per_owner: true, ..rate(1, 1) });
    api.breaker = Breaker { min_calls: 3, failure_bp: 2000, ..Breaker::default() };
    let caller = local();
    let call_of = async |owner: &'static str, path: &str| {
        call(&caller, &Demand { owner, ..demand(&api) }, get(path)).await
    };
    let waits = |owner: &str| caller.predicted_wait_of(&api, owner);
    let first = call_of("acme", "/ok").await;
    assert!(matches!(first, Called::Answered { verdict: Verdict::Success, .. }), "{first:?}");
    // A second may be waited for here, two are not.
    let both = tokio::join!(call_of("acme", "/ok"), call_of("acme", "/ok"));
    let is_denied = |called: &Called| matches!(called, Called::Waits { reason: Reason::OwnerRate, .. });
    assert!(is_denied(&both.0) || is_denied(&both.1), "{both:?}");
    assert!(waits("acme") > Duration::from_millis(500));
    assert_eq!(waits("other"), Duration::ZERO);
    // A word to wait is about him whose rate it is.
    call_of("third", "/busy").await;
    assert!(waits("third") > Duration::from_secs(1));
    assert_eq!((waits("other"), caller.predicted_wait(&api)), (Duration::ZERO, Duration::ZERO));
    for owner in ["a", "b", "c"] {
        call_of(owner, "/broken").await;
    }
    let denied = call_of("other", "/ok").await;
    assert!(matches!(denied, Called::Waits { reason: Reason::BreakerOpen, .. }), "{denied:?}");
    assert!(caller.predicted_wait(&api) > Duration::from_secs(5), "an open breaker is everybody's");
    assert!(waits("somebody") > Duration::from_secs(5));
}
