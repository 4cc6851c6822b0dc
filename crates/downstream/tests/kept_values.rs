//! The bound on the values of a limit. It stands alone: a hundred thousand values take the processor from tests that measure time.

mod support;

use std::sync::Arc;
use std::time::Duration;

use penstock_domain::limit::meter::MOST_LIVE;
use penstock_domain::limit::{Ask, Decision, Past, Reason};
use penstock_domain::pipeline::template::Template;
use penstock_domain::pipeline::{Per, Rate};
use penstock_domain::time::{Clock as _, ManualClock, Timestamp};
use penstock_downstream::{CallLimits, Limiter as _, LocalLimiter, Spend};

/// A limit keeps so many values that are not full again: further ones wait, known ones do not, and there is room when they are full.
#[tokio::test]
async fn values_beyond_what_is_kept_wait_for_room() {
    let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_800_000_000_000)));
    let limiter = LocalLimiter::new().timed_by(clock.clone());
    let mut api = support::dependency("http://api.example");
    let per = Per { text: "v".to_owned(), template: Template::Text("v".to_owned()) };
    let rate = Rate::bucket(3, Duration::from_secs(3600), 3);
    api.more = vec![Rate { id: "v".to_owned(), per: Some(per), ..rate }];
    let spend = Spend { values: vec![Some("v".to_owned())], ..Spend::of(1) };
    let mut limits = CallLimits::of_call(&api, "acme", limiter.cold_wait_us(), &spend, clock.now());
    let mut ask = Ask { cost: 1, token: 0, lease_us: 1e6, lead_us: 0.0, past: Past::Clean, patience_us: 0.0 };
    let mut acquire = async |value: usize| {
        limits.meters[0].member = format!("value {value}");
        ask.token += 1;
        limiter.acquire(&limits, &ask).await
    };
    acquire(0).await;
    clock.advance(Duration::from_secs(7200));
    for value in 0..MOST_LIVE {
        assert!(matches!(acquire(value).await, Decision::Granted { .. }), "{value}");
    }
    let Decision::Denied(denied) = acquire(MOST_LIVE).await else { panic!("there was room") };
    assert!(denied.row_only && denied.reason == Reason::ValueRate, "{denied:?}");
    assert!(matches!(acquire(7).await, Decision::Granted { .. }), "a known value has its own");
    clock.advance(Duration::from_secs(1801));
    assert!(matches!(acquire(MOST_LIVE).await, Decision::Granted { .. }), "others are full again");
}
