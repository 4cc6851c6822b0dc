//! What an operator has set of a limit counts wherever the limit does, and what an answer says was taken is reserved.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use penstock_domain::pipeline::{Dependency, Pipeline};
use penstock_domain::time::{Clock as _, ManualClock, Timestamp};
use penstock_downstream::{
    Caller, Client, LastUse, LiveLimits, LocalLimiter, PeriodKey, Reservations, Spend,
};

/// Remembers what was to be reserved of which limit, and reserves all of it.
#[derive(Default)]
struct Record(Mutex<Vec<(u32, u32)>>);

#[async_trait]
impl Reservations for Record {
    async fn reserve(&self, _: &PeriodKey, amount: u32, limit: u32) -> Option<u32> {
        self.0.lock().unwrap().push((amount, limit));
        Some(amount)
    }

    async fn use_until(&self, _: &str, _: Timestamp) -> Option<LastUse> {
        Some(LastUse::Never)
    }
}

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(Timestamp::from_millis(1_800_000_000_000)))
}

fn dependency(rate: &str) -> Dependency {
    let text = format!(
        "name: p\ncsv: {{ columns: [ {{ name: a }} ] }}\ndependencies: {{ d: {{ base_url: http://d.example, rate: {rate} }} }}\nsteps: []\n"
    );
    Pipeline::load("p.yaml", &text, &|_| None).unwrap().dependencies.remove(0)
}

#[tokio::test]
async fn what_a_call_has_taken_beyond_its_estimate_is_reserved_of_the_operators_limit() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let record = Arc::new(Record::default());
    let clock = clock();
    let caller = Caller::new(Arc::new(LocalLimiter::new()), Client::new().unwrap(), clock.clone(), 1)
        .with_reservations(record.clone());
    let api = dependency("[{ name: tokens, limit: 1000, period: 1d, window: calendar }]");
    let set = LiveLimits { limit: Some(70), ..LiveLimits::default() };
    caller.set_live_limits(HashMap::from([("d".to_owned(), set)]));
    let spend = Spend { named: vec![("tokens".to_owned(), 5)], corrected: Some(1), ..Spend::of(1) };
    let taken = |taken: u32| vec![("tokens".to_owned(), taken)];
    caller.correct(&api, "acme", &spend, &taken(9), clock.now()).await;
    caller.correct(&api, "acme", &spend, &taken(2), clock.now()).await;
    assert_eq!(*record.0.lock().unwrap(), [(4, 70)], "less than was estimated is reserved already");
}

#[tokio::test]
async fn the_share_of_a_rate_is_that_of_the_one_that_an_operator_changed() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let caller = Caller::new(Arc::new(LocalLimiter::new()), Client::new().unwrap(), clock(), 1);
    let api = dependency(
        "[{ limit: 100, period: 1s, per_owner: true }, { limit: 10, period: 1s, burst: 2, window: sliding, per_owner: true }]",
    );
    let set = LiveLimits { limit: Some(50), ..LiveLimits::default() };
    caller.set_live_limits(HashMap::from([("d".to_owned(), set)]));
    let first = api.rate.as_ref().unwrap_or(&api.more[0]);
    assert!((caller.live_share(&api, first) - 50.0 / f64::from(first.limit)).abs() < 1e-9);
    let other = api.more.iter().find(|rate| *rate != first).unwrap();
    assert!((caller.live_share(&api, other) - 1.0).abs() < 1e-9, "nobody has changed it");
}
