//! Two at once, and one too late.

use std::collections::HashSet;
use std::sync::Arc;

use penstock_domain::ids::RowRef;
use penstock_store::Store;
use penstock_store::batches::{Created, Idempotency};
use penstock_store::control::RetrySelection;
use penstock_store::work::Claim;

use crate::fixture::{
    LEASE, START, SUITE, claim, completed, die, extracted, failed, look, new_batch, register, release, token,
};

/// Eight workers that want the same rows get each of them once.
pub async fn a_row_is_claimed_once(store: &Arc<dyn Store>) {
    let batch = extracted(store, &new_batch(store, 200).await, 200).await;
    let rows = release(store, batch.seq, 200, START).await;
    let workers: Vec<_> = (0..8)
        .map(|_| {
            let (store, rows) = (store.clone(), rows.clone());
            tokio::spawn(async move {
                let mut mine = Vec::new();
                for group in rows.chunks(30) {
                    mine.extend(claim(&store, group, token(), START).await.into_iter().map(|one| one.row));
                }
                mine
            })
        })
        .collect();
    let mut all = Vec::new();
    for worker in workers {
        all.extend(worker.await.unwrap());
    }
    assert_eq!(all.len(), 200);
    assert_eq!(all.iter().collect::<HashSet<&RowRef>>().len(), 200);
    assert_eq!(look(store, batch.seq).await.ledger.counts.processing, 200);
}

/// A worker whose rows were taken from it settles nothing, keeps nothing and saves no receipt.
pub async fn a_lost_lease_writes_nothing(store: &Arc<dyn Store>) {
    die(store, START).await;
    let batch = extracted(store, &new_batch(store, 2).await, 2).await;
    let rows = release(store, batch.seq, 2, START).await;
    let first = token();
    assert_eq!(claim(store, &rows, first, START).await.len(), 2);
    let later = START + LEASE + LEASE;
    assert_eq!(die(store, later).await.pending, 2);
    let again = release(store, batch.seq, 2, later).await;
    let second = token();
    assert_eq!(claim(store, &again, second, later).await.len(), 2);
    let held: Vec<_> = rows.iter().map(|row| (*row, first)).collect();
    let known = store.held_by(SUITE).await.unwrap();
    assert!(held.iter().all(|one| !known.contains(one)), "{known:?}");
    let stale: Vec<_> = rows.iter().map(|row| completed(*row, first)).collect();
    assert_eq!(store.settle(&stale, later).await.unwrap().lost.len(), 2);
    assert_eq!(look(store, batch.seq).await.ledger.counts.processing, 2);
    let good: Vec<_> = rows.iter().map(|row| completed(*row, second)).collect();
    let report = store.settle(&good, later).await.unwrap();
    assert_eq!((report.lost.len(), report.finished), (0, vec![batch.seq]));
    assert_eq!(store.settle(&good, later).await.unwrap().lost.len(), 2, "a settlement counts once");
}

/// Two retries of one batch: one of them takes the rows up.
pub async fn two_retries_at_once_do_the_work_once(store: &Arc<dyn Store>) {
    let batch = extracted(store, &new_batch(store, 20).await, 20).await;
    let rows = release(store, batch.seq, 20, START).await;
    let held = token();
    claim(store, &rows, held, START).await;
    let settled: Vec<_> = rows.iter().map(|row| failed(*row, held)).collect();
    store.settle(&settled, START).await.unwrap();
    assert!(look(store, batch.seq).await.ledger.is_finished());
    let tries: Vec<_> = (0..2)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                let all = RetrySelection { failed: true, ..RetrySelection::default() };
                store.retry(batch.seq, &all, "operator:suite", START).await.unwrap().1
            })
        })
        .collect();
    let mut taken = Vec::new();
    for one in tries {
        taken.push(one.await.unwrap());
    }
    taken.sort_unstable();
    assert_eq!(taken, [0, 20]);
    let ledger = look(store, batch.seq).await.ledger;
    assert_eq!((ledger.run, ledger.counts.pending, ledger.counts.failed), (2, 20, 0));
}

/// Four requests with one `Idempotency-Key`: one batch.
pub async fn one_idempotency_key_makes_one_batch(store: &Arc<dyn Store>) {
    let template = new_batch(store, 1).await;
    let requests: Vec<_> = (0..4)
        .map(|_| {
            let store = store.clone();
            let mut batch = template.clone();
            batch.id = penstock_domain::ids::BatchId(uuid::Uuid::from_u128(
                u128::from(crate::fixture::unique()) << 8,
            ));
            batch.idempotency =
                Some(Idempotency { key: "once".into(), key_id: "k1".into(), fingerprint: vec![1] });
            tokio::spawn(async move { store.create_batch(&batch).await.unwrap() })
        })
        .collect();
    let (mut new, mut ids) = (0, HashSet::new());
    for request in requests {
        match request.await.unwrap() {
            Created::New(batch) => {
                new += 1;
                ids.insert(batch.id.0);
            }
            Created::Existing { batch, .. } => {
                ids.insert(batch.id.0);
            }
        }
    }
    assert_eq!((new, ids.len()), (1, 1));
}

/// Ten settlers of one batch at once: the counters miss nothing, and one of them finishes it.
pub async fn settlements_of_one_batch_at_once_all_count(store: &Arc<dyn Store>) {
    let batch = extracted(store, &new_batch(store, 100).await, 100).await;
    let rows = release(store, batch.seq, 100, START).await;
    let held = token();
    claim(store, &rows, held, START).await;
    let settlers: Vec<_> = rows
        .chunks(10)
        .map(|group| {
            let store = store.clone();
            let group: Vec<_> = group.iter().map(|row| completed(*row, held)).collect();
            tokio::spawn(async move { store.settle(&group, START).await.unwrap().finished.len() })
        })
        .collect();
    let mut finished = 0;
    for settler in settlers {
        finished += settler.await.unwrap();
    }
    let ledger = look(store, batch.seq).await.ledger;
    assert_eq!((finished, ledger.counts.completed, ledger.is_finished()), (1, 100, true));
}

/// A cancel that comes between what a sweep has seen and what it does: the rows stay where they are, and count as cancelled.
pub async fn a_sweep_and_a_cancel_at_once(store: &Arc<dyn Store>) {
    let late = START + LEASE + LEASE;
    for round in 0..12 {
        let batch = extracted(store, &new_batch(store, 60).await, 60).await;
        release(store, batch.seq, 60, START).await;
        let sweep = async {
            for _ in 0..round % 4 {
                tokio::task::yield_now().await;
            }
            store.sweep(late, 0, false).await
        };
        let (swept, cancelled) = tokio::join!(sweep, store.cancel(batch.seq, "operator:suite", late));
        swept.unwrap();
        cancelled.unwrap();
        let counts = look(store, batch.seq).await.ledger.counts;
        assert_eq!((counts.cancelled, counts.unfinished()), (60, 0));
    }
}

/// What an operator asks for by hand runs of a paused batch, and never of a cancelled one.
pub async fn an_operators_claim_leaves_a_cancelled_batch_alone(store: &Arc<dyn Store>) {
    let batch = extracted(store, &new_batch(store, 4).await, 4).await;
    release(store, batch.seq, 2, START).await;
    store.pause(batch.seq, "operator:suite", START).await.unwrap();
    register(store, SUITE, LEASE).await;
    let by_hand = async |number| {
        let rows = [RowRef { batch: batch.seq, number }];
        let claim = Claim { rows: &rows, token: token(), holder: SUITE, also_pending: true, suspects: true };
        store.claim(&claim, START).await.unwrap().len()
    };
    assert_eq!((by_hand(1).await, by_hand(3).await), (1, 1), "one that was queued, one that never was");
    store.cancel(batch.seq, "operator:suite", START).await.unwrap();
    assert_eq!((by_hand(2).await, by_hand(4).await), (0, 0));
    let counts = look(store, batch.seq).await.ledger.counts;
    assert_eq!((counts.processing, counts.cancelled), (2, 2));
}
