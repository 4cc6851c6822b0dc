//! Epochs: one is dropped only when it wraps nothing, whatever runs beside, and a key is wrapped only in one that is there.

use std::sync::Arc;
use std::time::Duration;

use penstock_domain::ids::BatchSeq;
use penstock_store::batches::{Created, SealedKey, StoredDefinition};
use penstock_store::sealing::Epoch;
use penstock_store::{Store, StoreError};
use uuid::Uuid;

use crate::fixture::{self, START, create, new_batch};

/// An epoch behind all others, and behind the one that every new batch has.
async fn begin(store: &Arc<dyn Store>) -> i64 {
    let id = store.newest_epoch().await.unwrap().map_or(2, |epoch| epoch.id + 1);
    let epoch = Epoch { id, sealed: vec![1, b'k', 7, 7, 7], created_at: START, erased: false };
    assert!(store.add_epoch(&epoch).await.unwrap());
    let other = Epoch { sealed: vec![9], ..epoch.clone() };
    assert!(!store.add_epoch(&other).await.unwrap(), "its number is taken");
    assert_eq!(store.newest_epoch().await.unwrap(), Some(epoch));
    id
}

async fn epoch_of(store: &Arc<dyn Store>, batch: BatchSeq) -> (Option<i64>, Option<Vec<u8>>) {
    let stored = store.sealed_key(batch).await.unwrap().unwrap();
    (stored.key.epoch, stored.epoch_key)
}

/// A key moves from one epoch to the next, and the old epoch goes when it wraps nothing any more.
pub async fn an_epoch_ends_when_it_wraps_nothing(store: &Arc<dyn Store>) {
    let old = begin(store).await;
    let mut new = new_batch(store, 1).await;
    new.key.epoch = Some(old);
    let batch = create(store, &new).await;
    let next = begin(store).await;
    store.drop_epochs(next).await.unwrap();
    assert_eq!(epoch_of(store, batch.seq).await.0, Some(old));
    assert!(epoch_of(store, batch.seq).await.1.is_some(), "an epoch that wraps a key stays");
    // A key is moved by who knows it, into an epoch that is there.
    let key = store.sealed_key(batch.seq).await.unwrap().unwrap().key;
    let moved = SealedKey { epoch: Some(next), wrapped: vec![4, 4], ..key.clone() };
    let stale = SealedKey { wrapped: vec![5], ..key.clone() };
    assert!(!store.rewrap_key(batch.seq, &stale, &moved).await.unwrap());
    let nowhere = SealedKey { epoch: Some(next + 100), ..moved.clone() };
    assert!(!store.rewrap_key(batch.seq, &key, &nowhere).await.unwrap());
    let listed = store.batches_to_rewrap(next, BatchSeq(batch.seq.0 - 1), 10).await.unwrap();
    assert_eq!(listed.iter().map(|one| one.seq).collect::<Vec<_>>(), [batch.seq]);
    assert!(store.rewrap_key(batch.seq, &key, &moved).await.unwrap());
    assert!(!store.rewrap_key(batch.seq, &key, &moved).await.unwrap(), "once");
    assert!(store.batches_to_rewrap(next, BatchSeq(batch.seq.0 - 1), 10).await.unwrap().is_empty());
    assert!(store.drop_epochs(next).await.unwrap() >= 1);
    assert_eq!(epoch_of(store, batch.seq).await, (Some(next), Some(vec![1, b'k', 7, 7, 7])));
    // A batch that is wrapped in an epoch that was dropped is not made.
    let mut late = new_batch(store, 1).await;
    late.key.epoch = Some(old);
    let refused = store.create_batch(&late).await.unwrap_err();
    assert!(matches!(refused, StoreError::EpochDropped), "{refused}");
    assert!(store.batch(late.id, None).await.unwrap().is_none());
}

/// An erasure marks the epoch whose key is to go.
pub async fn an_erasure_marks_its_epoch(store: &Arc<dyn Store>) {
    let epoch = begin(store).await;
    let mut new = new_batch(store, 1).await;
    new.key.epoch = Some(epoch);
    let batch = create(store, &new).await;
    assert!(!store.newest_epoch().await.unwrap().unwrap().erased);
    store.erase(batch.seq, None, "test", START).await.unwrap();
    assert!(store.newest_epoch().await.unwrap().unwrap().erased);
    assert!(store.sealed_key(batch.seq).await.unwrap().is_none());
}

/// Uploads beside a rotation: no batch is left with a key that nothing opens.
pub async fn no_key_is_lost_beside_a_drop(store: &Arc<dyn Store>) {
    let first = begin(store).await;
    let mut makers = Vec::new();
    for _ in 0..4 {
        let store = store.clone();
        makers.push(tokio::spawn(async move {
            let mut made = Vec::new();
            while made.len() < 15 {
                let mut batch = new_batch(&store, 1).await;
                // What a service read a moment ago.
                batch.key.epoch = store.newest_epoch().await.unwrap().map(|epoch| epoch.id);
                tokio::time::sleep(Duration::from_millis(3)).await;
                match store.create_batch(&batch).await {
                    Ok(Created::New(batch)) => made.push(batch.seq),
                    Ok(Created::Existing { .. }) => panic!("nobody made it before"),
                    Err(StoreError::EpochDropped) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            made
        }));
    }
    while !makers.iter().all(tokio::task::JoinHandle::is_finished) {
        let next = begin(store).await;
        let mut after = BatchSeq(0);
        loop {
            let page = store.batches_to_rewrap(next, after, 50).await.unwrap();
            let Some(last) = page.last() else { break };
            after = last.seq;
            for batch in &page {
                let Some(old) = store.sealed_key(batch.seq).await.unwrap() else { continue };
                let new = SealedKey {
                    epoch: Some(next),
                    wrapped: fixture::unique().to_be_bytes().to_vec(),
                    ..old.key.clone()
                };
                store.rewrap_key(batch.seq, &old.key, &new).await.unwrap();
            }
        }
        store.drop_epochs(next).await.unwrap();
    }
    for maker in makers {
        for batch in maker.await.unwrap() {
            let (epoch, key) = epoch_of(store, batch).await;
            assert!(epoch >= Some(first) && key.is_some(), "{batch:?} is in {epoch:?}, which was dropped");
        }
    }
}

/// A definition is replaced by one whose MAC is another, and its MAC by who knows the one before.
pub async fn a_definitions_mac_is_replaced_under_guard(store: &Arc<dyn Store>) {
    let version = Uuid::from_u128(u128::from(fixture::unique()) << 64 | 0xDEF);
    let stored = |mac: Option<&[u8]>| StoredDefinition {
        name: "p".into(),
        source: "name: p".into(),
        mac: mac.map(<[u8]>::to_vec),
    };
    store.save_definition(version, &stored(None), START).await.unwrap();
    let mac_of = async || store.definition(version).await.unwrap().unwrap().mac;
    assert!(!store.set_definition_mac(version, Some(b"x"), b"one").await.unwrap());
    assert!(store.set_definition_mac(version, None, b"one").await.unwrap());
    assert!(!store.set_definition_mac(version, None, b"two").await.unwrap());
    assert_eq!(mac_of().await.as_deref(), Some(&b"one"[..]));
    let macs = store.definition_macs().await.unwrap();
    assert!(macs.contains(&(version, Some(b"one".to_vec()))));
    // Whoever uploads has the text itself: what somebody put in its place goes.
    store.save_definition(version, &stored(Some(b"two")), START).await.unwrap();
    assert_eq!(mac_of().await.as_deref(), Some(&b"two"[..]));
}

/// An installation that is new has an id of its own, which stays.
pub async fn an_installation_has_an_id(store: &Arc<dyn Store>) {
    let id = store.installation().await.unwrap();
    assert!(id.len() == 12 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
    assert_eq!(store.installation().await.unwrap(), id);
}
