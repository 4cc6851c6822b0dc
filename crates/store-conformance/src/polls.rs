//! Rows that wait for a result.

use std::sync::Arc;
use std::time::Duration;

use penstock_domain::ids::{BatchSeq, LeaseToken, RowRef};
use penstock_domain::outcome::code;
use penstock_domain::row::Receipt;
use penstock_domain::time::Timestamp;
use penstock_store::Store;
use penstock_store::dispatch::{Released, Take};
use penstock_store::polls::PollingRows;
use penstock_store::work::{Expiry, Settled, Settlement};

use crate::fixture::{
    LEASE, START, SUITE, claim, die, extracted, look, new_batch, register, release, requeued, token,
};

fn at(seconds: u64) -> Timestamp {
    START + Duration::from_secs(seconds)
}

fn polls(row: RowRef, token: LeaseToken, next_look: Timestamp, expires: Option<Expiry>) -> Settlement {
    let receipts = vec![Receipt { step: 0, sealed: vec![5; 20] }];
    let not_before = next_look;
    let outcome = Settled::Requeued {
        not_before,
        attempt: false,
        trouble: None,
        receipts,
        expires,
        hold: None,
        polling: true,
    };
    Settlement { row, token, outcome }
}

/// Rows of a batch that wait for a result, the first one until a second after the start, the next a second later, and so on.
async fn polling(store: &Arc<dyn Store>, rows: u32) -> (BatchSeq, Vec<RowRef>) {
    let batch = extracted(store, &new_batch(store, rows).await, rows).await.seq;
    let rows = release(store, batch, rows, START).await;
    let token = token();
    claim(store, &rows, token, START).await;
    let group: Vec<Settlement> =
        rows.iter().zip(1..).map(|(row, seconds)| polls(*row, token, at(seconds), None)).collect();
    assert_eq!(store.settle(&group, START).await.unwrap().lost, []);
    (batch, rows)
}

async fn due(store: &Arc<dyn Store>, batch: BatchSeq, now: Timestamp) -> Option<(u32, u32)> {
    let due = store.due_polls(&["test".to_owned()], 100, now).await.unwrap();
    due.into_iter().find(|due| due.batch == batch).map(|due| (due.due, due.looking))
}

async fn queue(store: &Arc<dyn Store>, batch: BatchSeq, rows: u32, now: Timestamp) -> Vec<Released> {
    store.queue_due_polls(&[Take { batch, rows }], now, now + LEASE).await.unwrap()
}

/// Workers queue what is due for a look, those that are due longest first; the dispatcher leaves such rows alone, and counts
/// them as neither due nor in flight.
pub async fn what_is_due_for_a_look_is_queued_by_workers(store: &Arc<dyn Store>) {
    let (batch, rows) = polling(store, 3).await;
    assert_eq!(store.polling(batch).await.unwrap(), Some(PollingRows { rows: 3, next_look: Some(at(1)) }));
    assert_eq!(store.last_look(batch).await.unwrap(), Some(at(3)));
    assert_eq!(due(store, batch, START).await, None);
    assert_eq!(release(store, batch, 3, at(60)).await, [], "the dispatcher");
    assert_eq!(due(store, batch, at(2)).await, Some((2, 0)));
    assert_eq!(store.due_polls(&["other".to_owned()], 100, at(2)).await.unwrap(), []);
    let queued = queue(store, batch, 1, at(2)).await;
    assert_eq!(queued, [Released { batch, numbers: vec![rows[0].number], suspects: Vec::new() }]);
    assert_eq!(due(store, batch, at(2)).await, Some((1, 1)));
    let loads = store.loads(100, at(60)).await.unwrap();
    assert!(loads.iter().all(|load| load.batches.iter().all(|one| one.batch != batch)), "{loads:?}");
    assert_eq!(store.batches_by_seq(&[batch]).await.unwrap()[0].ledger.counts.queued, 1);
    assert_eq!(
        due(store, batch, START).await,
        Some((0, 1)),
        "what is looked at counts, though nothing is due"
    );
    // The look: the row goes on waiting, or it has its result.
    let token = token();
    let claimed = claim(store, &rows[..1], token, at(2)).await;
    assert_eq!(claimed[0].receipts.len(), 1);
    assert_eq!(store.polling(batch).await.unwrap(), Some(PollingRows { rows: 3, next_look: Some(at(2)) }));
    store.settle(&[polls(rows[0], token, at(9), None)], at(2)).await.unwrap();
    assert_eq!(queue(store, batch, 9, at(8)).await[0].numbers, [rows[1].number, rows[2].number]);
    let again = self::token();
    claim(store, &rows[1..], again, at(8)).await;
    let ends = [
        Settlement { row: rows[1], token: again, outcome: Settled::Completed { result: None, key: None } },
        requeued(rows[2], again, at(8)),
    ];
    store.settle(&ends, at(8)).await.unwrap();
    assert_eq!(store.polling(batch).await.unwrap(), Some(PollingRows { rows: 1, next_look: Some(at(9)) }));
    assert_eq!(store.last_look(batch).await.unwrap(), Some(at(9)));
    assert_eq!(release(store, batch, 3, at(8)).await, [rows[2]], "no look: the dispatcher's again");
    look(store, batch).await;
}

/// A batch that is paused or cancelled is not looked at, and rows go on waiting when it goes on.
pub async fn looks_stand_still_with_their_batch(store: &Arc<dyn Store>) {
    let (batch, _) = polling(store, 2).await;
    store.pause(batch, "operator:suite", at(1)).await.unwrap();
    assert_eq!(due(store, batch, at(5)).await, None);
    assert_eq!(queue(store, batch, 9, at(5)).await, []);
    store.resume(batch, "operator:suite", at(6)).await.unwrap();
    assert_eq!(due(store, batch, at(6)).await, Some((2, 0)));
    store.cancel(batch, "operator:suite", at(7)).await.unwrap();
    assert_eq!(due(store, batch, at(8)).await, None);
    assert!(look(store, batch).await.ledger.is_finished());
}

/// A look whose worker died, and one that no worker took, are due again; a row that has survived a look is no suspect.
pub async fn a_look_that_was_lost_is_due_again(store: &Arc<dyn Store>) {
    let (batch, rows) = polling(store, 2).await;
    queue(store, batch, 9, at(2)).await;
    assert_eq!(store.unqueue(&rows[..1], at(2)).await.unwrap(), 1);
    assert_eq!(due(store, batch, at(2)).await, Some((1, 1)));
    queue(store, batch, 9, at(2)).await;
    claim(store, &rows, token(), at(2)).await;
    assert_eq!(die(store, at(3)).await.pending, 2);
    register(store, SUITE, LEASE).await;
    let queued = queue(store, batch, 9, at(3)).await;
    assert_eq!(queued[0].suspects, [(rows[0].number, 1), (rows[1].number, 1)]);
    let token = token();
    claim(store, &rows[..1], token, at(3)).await;
    store.settle(&[polls(rows[0], token, at(4), None)], at(3)).await.unwrap();
    assert_eq!(queue(store, batch, 1, at(4)).await[0].numbers, [rows[0].number]);
    // A row whose time is over while it waits fails, and waits for nothing any more.
    let again = self::token();
    claim(store, &rows[..1], again, at(4)).await;
    let expiry = Expiry { at: at(6), code: code::DEADLINE_EXCEEDED };
    store.settle(&[polls(rows[0], again, at(9), Some(expiry))], at(4)).await.unwrap();
    assert_eq!(store.end_overdue(at(6)).await.unwrap().rows, 1);
    assert_eq!(store.polling(batch).await.unwrap().map(|polling| polling.rows), Some(1));
}
