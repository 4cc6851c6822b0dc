//! What was completed by key.

use std::sync::Arc;
use std::time::Duration;

use penstock_domain::ids::{BatchSeq, RowRef};
use penstock_domain::row::RowStatus;
use penstock_domain::time::Timestamp;
use penstock_store::Store;
use penstock_store::duplicates::{CompletedBy, CompletedKey, KeyHash, WantedKey};
use penstock_store::reading::RowFilter;
use penstock_store::work::{Settled, Settlement};

use crate::fixture::{START, claim, extracted, look, new_batch, release, token, unique};

fn after(seconds: u64) -> Timestamp {
    START + Duration::from_secs(seconds)
}

fn key() -> KeyHash {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&unique().to_be_bytes());
    key
}

/// Completes rows of a batch of its own, each with its key; the batch and its rows.
async fn complete(store: &Arc<dyn Store>, keys: &[KeyHash], now: Timestamp) -> Vec<RowRef> {
    let count = u32::try_from(keys.len()).unwrap();
    let batch = extracted(store, &new_batch(store, count).await, count).await.seq;
    let rows = release(store, batch, count, now).await;
    let token = token();
    claim(store, &rows, token, now).await;
    let group: Vec<Settlement> = rows
        .iter()
        .zip(keys)
        .map(|(row, key)| {
            let key = CompletedKey { key: *key, expires_at: now + Duration::from_secs(100) };
            Settlement {
                row: *row,
                token,
                outcome: Settled::Completed { result: None, key: Some(Box::new(key)) },
            }
        })
        .collect();
    assert!(store.settle(&group, now).await.unwrap().lost.is_empty());
    rows
}

async fn wanted(
    store: &Arc<dyn Store>,
    keys: &[KeyHash],
    batch: BatchSeq,
    since: Timestamp,
) -> Vec<Option<CompletedBy>> {
    let wanted: Vec<WantedKey> = keys.iter().map(|key| WantedKey { key: *key, batch, since }).collect();
    store.completed_by_others(&wanted).await.unwrap()
}

/// A key is known to other batches from its row's settlement on, for its time, or until it is forgotten or its batch erased.
pub async fn a_completed_key_is_known_to_other_batches(store: &Arc<dyn Store>) {
    let (a, b, never) = (key(), key(), key());
    let rows = complete(store, &[a, b, a], START).await;
    let (first, other) = (rows[0].batch, extracted(store, &new_batch(store, 1).await, 1).await.seq);
    let of_first = look(store, first).await.id;
    let found = wanted(store, &[a, never, b], other, START).await;
    assert_eq!(
        found[0],
        Some(CompletedBy { batch: of_first, number: 3, completed_at: START }),
        "the last one"
    );
    assert_eq!((found[1], found[2].map(|by| by.number)), (None, Some(2)));
    assert_eq!(wanted(store, &[a, b], first, START).await, [None, None], "its own batch's do not count");
    assert_eq!(wanted(store, &[a], other, after(1)).await, [None], "nor older ones");
    // The last one counts.
    let again = complete(store, &[b], after(50)).await[0];
    let found = wanted(store, &[b], other, after(1)).await[0].unwrap();
    assert_eq!((found.batch, found.number), (look(store, again.batch).await.id, 1));
    assert!(store.forget_key(&b).await.unwrap() && !store.forget_key(&b).await.unwrap());
    assert_eq!(wanted(store, &[a, b], other, START).await.iter().flatten().count(), 1);
    // Their time is over: a few at a time.
    while store.drop_expired_keys(after(100), 2).await.unwrap() > 0 {}
    assert!(wanted(store, &[a], other, START).await[0].is_some(), "not before it");
    let more = complete(store, &[key(), key(), key()], START).await[0].batch;
    assert_eq!(store.drop_expired_keys(after(101), 2).await.unwrap(), 2);
    while store.drop_expired_keys(after(101), 2).await.unwrap() > 0 {}
    assert_eq!(wanted(store, &[a], other, START).await, [None]);
    // An erased batch leaves none.
    let c = key();
    let erased = complete(store, &[c], after(60)).await[0].batch;
    store.erase(erased, None, "suite", after(61)).await.unwrap();
    assert_eq!(wanted(store, &[c], other, START).await, [None]);
    assert_ne!(more, erased);
}

/// A duplicate completes with its code, and is found by it.
pub async fn a_duplicate_completes_with_its_code(store: &Arc<dyn Store>) {
    let batch = extracted(store, &new_batch(store, 2).await, 2).await.seq;
    let rows = release(store, batch, 2, START).await;
    let token = token();
    claim(store, &rows, token, START).await;
    let duplicate = Settlement { row: rows[1], token, outcome: Settled::Duplicate { error: vec![5; 30] } };
    store.settle(&[duplicate, crate::fixture::completed(rows[0], token)], START).await.unwrap();
    let ended = look(store, batch).await;
    assert_eq!((ended.ledger.counts.completed, ended.ledger.is_finished()), (2, true));
    let filter = RowFilter { code: Some("duplicate".into()), limit: 10, ..RowFilter::default() };
    let found = store.rows(batch, &filter).await.unwrap().rows;
    let [row] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!((row.number, row.status, row.code.as_deref()), (2, RowStatus::Completed, Some("duplicate")));
    assert_eq!((row.error.as_deref(), &row.result), (Some([5; 30].as_slice()), &None));
    let groups = store.error_groups(batch).await.unwrap();
    assert_eq!((groups.len(), groups[0].code.as_str(), groups[0].count), (1, "duplicate", 1));
    assert_eq!(groups[0].sample, [2]);
}
