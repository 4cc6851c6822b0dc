//! Rows whose time is over while they wait, and batches that no worker can process.

use std::sync::Arc;
use std::time::Duration;

use penstock_domain::batch::Outcome;
use penstock_domain::ids::{BatchSeq, RowRef};
use penstock_domain::outcome::code;
use penstock_domain::row::RowStatus;
use penstock_domain::time::Timestamp;
use penstock_store::Store;
use penstock_store::control::RetrySelection;
use penstock_store::work::Expiry;

use crate::fixture::{START, claim, completed, expiring, extracted, look, new_batch, release, token};

const TIME: Duration = Duration::from_secs(30);

fn deadline(at: Timestamp) -> Option<Expiry> {
    Some(Expiry { at, code: code::DEADLINE_EXCEEDED })
}

/// Rows of a new batch that went back until an hour later, each with its expiry.
async fn waiting(store: &Arc<dyn Store>, expires: &[Option<Expiry>]) -> (BatchSeq, Vec<RowRef>) {
    let rows = u32::try_from(expires.len()).unwrap();
    let batch = extracted(store, &new_batch(store, rows).await, rows).await.seq;
    let rows = release(store, batch, rows, START).await;
    let held = token();
    claim(store, &rows, held, START).await;
    let later = START + Duration::from_secs(3600);
    let group: Vec<_> =
        rows.iter().zip(expires).map(|(row, expires)| expiring(*row, held, later, *expires)).collect();
    assert!(store.settle(&group, START).await.unwrap().lost.is_empty());
    (batch, rows)
}

async fn state(store: &Arc<dyn Store>, row: RowRef) -> (RowStatus, Option<String>) {
    let record = store.row(row.batch, row.number).await.unwrap().expect("a row");
    (record.status, record.code)
}

/// Pending and queued rows fail when their time is over, with what is stored of their last call; one that is claimed is its
/// worker's, and one without an expiry goes on.
pub async fn what_waits_beyond_its_time_fails(store: &Arc<dyn Store>) {
    let throttled = Some(Expiry { at: START + TIME, code: code::THROTTLED });
    let expires =
        [deadline(START + TIME), throttled, deadline(START + TIME * 2), None, deadline(START + TIME)];
    let (batch, rows) = waiting(store, &expires).await;
    let row = store.row(batch, rows[0].number).await.unwrap().expect("a row");
    assert_eq!(row.not_before, Some(START + TIME), "it waits for nothing later than its end");
    assert_eq!(store.end_overdue(START + TIME / 2).await.unwrap().rows, 0);

    // Row 1 is queued again, row 5 claimed; the others are pending.
    let queued = release(store, batch, 2, START + TIME).await;
    let mut numbers: Vec<u32> = queued.iter().map(|row| row.number).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [1, 2]);
    let now = START + TIME;
    let third = release(store, batch, 1, now).await;
    assert_eq!(third, [rows[4]]);
    let held = token();
    assert_eq!(claim(store, &third, held, now).await.len(), 1);

    let ended = store.end_overdue(now).await.unwrap();
    assert_eq!((ended.rows, ended.miscounted), (2, Vec::new()));
    assert_eq!(state(store, rows[0]).await, (RowStatus::Failed, Some(code::DEADLINE_EXCEEDED.into())));
    assert_eq!(state(store, rows[1]).await, (RowStatus::Failed, Some(code::THROTTLED.into())));
    for (row, status) in
        [(rows[2], RowStatus::Pending), (rows[3], RowStatus::Pending), (rows[4], RowStatus::Processing)]
    {
        assert_eq!(state(store, row).await.0, status);
    }
    let row = store.row(batch, rows[0].number).await.unwrap().expect("a row");
    assert_eq!((row.attempts, row.step, row.http_status), (1, Some(1), Some(500)), "the last call's");
    assert_eq!((row.not_before, row.error.is_some()), (None, true));
    // A worker that heard of it before does not get it.
    assert!(claim(store, &[rows[0]], token(), now).await.is_empty());
    store.settle(&[completed(rows[4], held)], now).await.unwrap();

    assert_eq!(store.end_overdue(START + TIME * 3).await.unwrap().rows, 1);
    let counts = look(store, batch).await.ledger.counts;
    assert_eq!((counts.failed, counts.completed, counts.pending), (3, 1, 1));
    // Another run begins anew.
    let all = RetrySelection { failed: true, ..RetrySelection::default() };
    store.retry(batch, &all, "operator:suite", START + TIME * 3).await.unwrap();
    assert_eq!(store.end_overdue(START + TIME * 9).await.unwrap().rows, 0);

    // The last row's end is the batch's.
    let (last, _) = waiting(store, &[deadline(START + TIME)]).await;
    assert_eq!(store.end_overdue(now).await.unwrap().rows, 1);
    let ledger = look(store, last).await.ledger;
    assert_eq!((ledger.is_finished(), ledger.outcome), (true, Some(Outcome::Failure)));
}

/// Nothing of a paused or cancelled batch ends by itself; when it goes on, it does.
pub async fn a_batch_that_stands_still_keeps_its_rows(store: &Arc<dyn Store>) {
    let (paused, rows) = waiting(store, &[deadline(START + TIME)]).await;
    let (cancelled, _) = waiting(store, &[deadline(START + TIME), None]).await;
    store.pause(paused, "operator:suite", START).await.unwrap();
    store.cancel(cancelled, "operator:suite", START).await.unwrap();
    assert_eq!(store.end_overdue(START + TIME).await.unwrap().rows, 0);
    store.resume(paused, "operator:suite", START + TIME).await.unwrap();
    assert_eq!(store.end_overdue(START + TIME).await.unwrap().rows, 1);
    assert_eq!(state(store, rows[0]).await.0, RowStatus::Failed);
    // Cancelled rows that run again have their whole time.
    let again = RetrySelection { cancelled: true, ..RetrySelection::default() };
    assert_eq!(store.retry(cancelled, &again, "operator:suite", START + TIME).await.unwrap().1, 2);
    assert_eq!(store.end_overdue(START + TIME).await.unwrap().rows, 0);
}

/// What workers report of a batch is listed until one can process it, or it has ended.
pub async fn an_ended_batch_has_no_fault(store: &Arc<dyn Store>) {
    let broken = extracted(store, &new_batch(store, 1).await, 1).await;
    let fixed = extracted(store, &new_batch(store, 1).await, 1).await;
    let report = async |batches: &[BatchSeq], reason: &str, at: Timestamp| {
        let faults: Vec<_> = batches.iter().map(|batch| (*batch, reason.to_owned())).collect();
        store.report_faults(&faults, "worker-1", at).await.unwrap();
    };
    report(&[broken.seq, fixed.seq], "${A} is not set", START).await;
    report(&[broken.seq], "${B} is not set", START + TIME).await;
    store.clear_faults(&[fixed.seq]).await.unwrap();
    let faults = store.faults().await.unwrap();
    let [fault] = faults.as_slice() else { panic!("{faults:?}") };
    assert_eq!((fault.seq, fault.batch, fault.pipeline.as_str()), (broken.seq, broken.id, "test"));
    assert_eq!((fault.reason.as_str(), fault.worker.as_str()), ("${B} is not set", "worker-1"));
    assert_eq!((fault.since, fault.seen_at), (START, START + TIME));
    store.cancel(broken.seq, "operator:suite", START + TIME).await.unwrap();
    assert_eq!(store.faults().await.unwrap(), []);
}
