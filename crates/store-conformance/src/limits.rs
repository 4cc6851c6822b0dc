//! What of limits has to outlive a limiter.

use std::sync::Arc;
use std::time::Duration;

use penstock_domain::time::Timestamp;
use penstock_store::Store;
use penstock_store::limits::{LimitChange, LimitPeriod, LimitUse};

const END: Timestamp = Timestamp::from_millis(1_800_000_060_000);

fn period(member: &str, ends_at: Timestamp) -> LimitPeriod {
    LimitPeriod { limit: "crm:00:day".into(), member: member.into(), ends_at }
}

/// However many ask, no more is reserved of a period than may be used of it, and all of that.
pub async fn a_period_is_reserved_once(store: &Arc<dyn Store>) {
    // It has not ended when another case drops what has.
    let end = END + Duration::from_secs(24 * 3600);
    let asked = (0..40).map(|_| {
        let store = store.clone();
        tokio::spawn(async move { store.reserve_period(&period("", end), 7, 100).await.unwrap() })
    });
    let mut reserved = 0;
    for asked in asked.collect::<Vec<_>>() {
        reserved += asked.await.unwrap();
    }
    let mut left = store.reserve_period(&period("", end), 7, 100).await.unwrap();
    while left > 0 {
        reserved += left;
        left = store.reserve_period(&period("", end), 7, 100).await.unwrap();
    }
    assert_eq!(reserved, 100);
    assert_eq!(store.reserve_period(&period("", end), 50, 130).await.unwrap(), 30, "the limit was raised");
    assert_eq!(store.reserve_period(&period("", end), 1, 90).await.unwrap(), 0, "the limit was lowered");
}

/// Periods, and those whose they are, are counted each for itself, and forgotten when they have ended.
pub async fn periods_are_apart_and_end(store: &Arc<dyn Store>) {
    let next = END + Duration::from_secs(60);
    for of in [period("", END), period("acme", END), period("", next)] {
        assert_eq!(store.reserve_period(&of, 5, 5).await.unwrap(), 5, "{of:?}");
        assert_eq!(store.reserve_period(&of, 5, 5).await.unwrap(), 0, "{of:?}");
    }
    assert_eq!(store.drop_periods(next).await.unwrap(), 2);
    assert_eq!(store.reserve_period(&period("", next), 5, 5).await.unwrap(), 0, "it has not ended");
}

/// What an operator sets of a dependency stays until it is changed or reset, each part for itself.
pub async fn settings_of_limits_are_kept(store: &Arc<dyn Store>) {
    let change = |limit, concurrency, paused| LimitChange { limit, concurrency, paused };
    let of =
        |setting: &penstock_store::limits::LimitSetting| (setting.limit, setting.concurrency, setting.paused);
    let steps = [
        (change(Some(5), None, None), (Some(5), None, false)),
        (change(None, Some(3), None), (Some(5), Some(3), false)),
        (change(None, None, Some(true)), (Some(5), Some(3), true)),
        (change(Some(7), None, None), (Some(7), Some(3), true)),
        (change(None, None, Some(false)), (Some(7), Some(3), false)),
    ];
    for (change, expected) in steps {
        let changed = store.change_limits("crm", &change, END).await.unwrap();
        assert_eq!(of(&changed), expected);
        assert_eq!(store.limit_settings().await.unwrap(), [changed]);
    }
    assert!(store.reset_limits("crm").await.unwrap());
    assert!(!store.reset_limits("crm").await.unwrap());
    assert_eq!(store.limit_settings().await.unwrap(), []);
}

/// A dependency was never used, or until the latest time that was said.
pub async fn uses_of_dependencies_are_known(store: &Arc<dyn Store>) {
    let later = END + Duration::from_secs(60);
    for (until, before) in [(END, None), (later, Some(END)), (END, Some(later)), (END, Some(later))] {
        assert_eq!(store.use_limits("crm:01", until).await.unwrap(), before);
    }
    assert_eq!(store.use_limits("crm:02", END).await.unwrap(), None, "each for itself");
}

/// Calls of one minute are added up, whoever made them, and old minutes are forgotten.
pub async fn use_of_limits_is_added_up(store: &Arc<dyn Store>) {
    let used = |minute: i64, calls, throttled| LimitUse {
        dependency: "crm".into(),
        minute: Timestamp::from_millis(minute * 60_000),
        calls,
        throttled,
    };
    for (minute, calls, throttled) in [(1, 5, 0), (2, 7, 1), (2, 3, 2)] {
        store.add_limit_use(&used(minute, calls, throttled)).await.unwrap();
    }
    assert_eq!(store.limit_use(Timestamp::from_millis(0)).await.unwrap(), [used(1, 5, 0), used(2, 10, 3)]);
    assert_eq!(store.drop_limit_use(Timestamp::from_millis(120_000)).await.unwrap(), 1);
    assert_eq!(store.limit_use(Timestamp::from_millis(0)).await.unwrap(), [used(2, 10, 3)]);
}
