//! Rows of bulk calls whose worker died: they run before all others, in calls of their own, and hold nobody up.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::bulk::{BY_EMAIL, Setting, counts, file, pipeline};

const MAX_WAIT: Duration = Duration::from_secs(5);

/// No other row begins while they run, so that a call of theirs that is not full waits for none.
#[tokio::test]
async fn rows_of_a_dead_worker_do_not_wait_for_rows_that_wait_for_them() {
    let keys = format!("max_rows: 10, max_wait: {}s, {BY_EMAIL}", MAX_WAIT.as_secs());
    let definition = pipeline(&keys, "idempotent: true", "");
    let definition = definition.replace("spread: 0s", "spread: 0s, rows_per_owner: 25");
    let times = Arc::<Mutex<Vec<Instant>>>::default();
    let heard_at = times.clone();
    let setting = Setting::new(&definition, move |_, heard| {
        heard_at.lock().expect("no test panics here").push(heard.at);
        None
    })
    .await;
    let service = setting.place.start(&setting.sandbox, Some("after-call:2"));
    let _answered_before_death =
        setting.client(&service).upload("/v2/pipelines/bulk/batches", file(65)).await;
    service.await_death();
    let id = setting.place.accepted(&setting.sandbox).expect("a batch");
    times.lock().expect("no test panics here").clear();
    let service = setting.place.start(&setting.sandbox, None);
    let ended = setting.client(&service).finished(&id).await;
    assert_eq!(counts(&ended), (65, 0), "{ended}");
    let times = times.lock().expect("no test panics here").clone();
    let pauses: Vec<Duration> = times.windows(2).map(|pair| pair[1].duration_since(pair[0])).collect();
    // On a cluster the others first look for as long as it takes until a worker counts as dead.
    let long = pauses.iter().filter(|pause| **pause >= MAX_WAIT).count();
    assert!(long <= usize::from(setting.place.is_cluster()), "{pauses:?}");
}
