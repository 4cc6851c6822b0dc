//! Callbacks: written by what causes them, once, and delivered under a lease.

use std::collections::HashSet;
use std::sync::Arc;

use penstock_store::Store;
use penstock_store::batches::NewBatch;
use penstock_store::callbacks::{CallbackStatus, Delivery};
use penstock_store::control::RetrySelection;

use crate::fixture::{LEASE, START, claim, completed, extracted, failed, new_batch, release, token, unique};

/// Created, the first failure, finished: once for each run, under ids that differ.
pub async fn each_event_of_a_run_is_said_once(store: &Arc<dyn Store>) {
    let batch = extracted(store, &new_batch(store, 3).await, 3).await;
    for run in 0..2 {
        let rows = release(store, batch.seq, 3, START).await;
        let held = token();
        claim(store, &rows, held, START).await;
        for row in &rows {
            let one = if run == 0 { failed(*row, held) } else { completed(*row, held) };
            store.settle(&[one], START).await.unwrap();
        }
        if run == 0 {
            let all = RetrySelection { failed: true, ..RetrySelection::default() };
            store.retry(batch.seq, &all, "operator:suite", START).await.unwrap();
        }
    }
    let said = store.callbacks(None, Some(batch.seq), None, 100).await.unwrap();
    let count = |event: &str| said.iter().filter(|callback| callback.event == event).count();
    assert_eq!(count("batch.created"), 1);
    assert_eq!(count("batch.row_failed_first"), 1);
    assert_eq!(count("batch.finished"), 2);
    assert_eq!(count("batch.succeeded"), 1);
    assert_eq!(said.iter().map(|callback| callback.id).collect::<HashSet<_>>().len(), said.len());
}

/// That a batch is delayed is said once in a run, however often it is seen and by however many, only of the pipelines that
/// wait, and never when the run has ended.
pub async fn a_delay_is_said_once_in_a_run(store: &Arc<dyn Store>) {
    let waits = format!("waits{}", unique());
    let other = format!("other{}", unique());
    let mut batches = Vec::new();
    for pipeline in [&waits, &other] {
        let new = NewBatch { pipeline: pipeline.clone(), ..new_batch(store, 1).await };
        batches.push(extracted(store, &new, 1).await);
    }
    let ended = extracted(store, &NewBatch { pipeline: waits.clone(), ..new_batch(store, 1).await }, 1).await;
    let rows = release(store, ended.seq, 1, START).await;
    let held = token();
    claim(store, &rows, held, START).await;
    store.settle(&[completed(rows[0], held)], START).await.unwrap();

    let slice = [waits];
    let (one, two) = tokio::join!(store.say_delayed(&slice, 10, START), store.say_delayed(&slice, 10, START));
    assert!(one.unwrap() + two.unwrap() >= 1);
    assert_eq!(store.say_delayed(&slice, 10, START).await.unwrap(), 0, "it was said");
    for (batch, times) in [(batches[0].seq, 1), (batches[1].seq, 0), (ended.seq, 0)] {
        let said = store.callbacks(None, Some(batch), None, 100).await.unwrap();
        assert_eq!(said.iter().filter(|callback| callback.event == "batch.delayed").count(), times);
    }
}

/// A leased callback is nobody else's; what was delivered does not come again; a late settlement changes nothing.
pub async fn a_callback_is_delivered_under_one_lease(store: &Arc<dyn Store>) {
    let batch = extracted(store, &new_batch(store, 1).await, 1).await;
    let ours = |leased: Vec<penstock_store::callbacks::Callback>| {
        leased.into_iter().filter(|one| one.batch == batch.seq).collect::<Vec<_>>()
    };
    let first = token();
    let leased = ours(store.lease_callbacks(first, START, START + LEASE, 1000).await.unwrap());
    assert_eq!(leased.len(), 1, "batch.created");
    assert_eq!(ours(store.lease_callbacks(token(), START, START + LEASE, 1000).await.unwrap()).len(), 0);
    let later = START + LEASE + LEASE;
    let second = token();
    assert_eq!(ours(store.lease_callbacks(second, later, later + LEASE, 1000).await.unwrap()).len(), 1);
    let delivery = |token| Delivery {
        id: leased[0].id,
        token,
        status: CallbackStatus::Delivered,
        next_at: None,
        http_status: Some(204),
        error: None,
    };
    assert!(!store.settle_callback(&delivery(first)).await.unwrap(), "its lease was lost");
    assert!(store.settle_callback(&delivery(second)).await.unwrap());
    let much_later = later + LEASE + LEASE;
    assert_eq!(
        ours(store.lease_callbacks(token(), much_later, much_later + LEASE, 1000).await.unwrap()).len(),
        0
    );
}
