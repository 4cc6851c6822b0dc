//! A batch that goes on under another definition.

use std::sync::Arc;

use penstock_domain::ledger::Refusal;
use penstock_domain::pipeline::KeptStep;
use penstock_domain::row::Receipt;
use penstock_store::batches::{SealedKey, StoredDefinition};
use penstock_store::control::{DefinitionChange, RetrySelection};
use penstock_store::operations::AuditEntry;
use penstock_store::work::{Settled, Settlement};
use penstock_store::{Store, StoreError};
use uuid::Uuid;

use crate::fixture::{START, claim, extracted, failed, look, new_batch, release, token};

/// The definition of a batch changes only when it has ended, and only as it was when somebody saw what its rows keep; a worker
/// that claims a row afterwards sees by its run that what it knew may not hold.
pub async fn a_retry_can_change_the_definition(store: &Arc<dyn Store>) {
    let batch = extracted(store, &new_batch(store, 2).await, 2).await;
    let (seq, from) = (batch.seq, batch.version);
    let to = Uuid::now_v7();
    let definition = StoredDefinition { name: "p".into(), source: "name: p".into(), mac: None };
    store.save_definition(to, &definition, START).await.unwrap();
    let from_key = store.sealed_key(seq).await.unwrap().unwrap().key;
    let to_key = SealedKey { wrapped: vec![8; 40], ..from_key.clone() };
    let change = |from, to, revision| DefinitionChange {
        from,
        to,
        revision,
        from_key: from_key.clone(),
        to_key: to_key.clone(),
    };
    let selection = |to, revision| {
        let definition = Some(change(from, to, revision));
        RetrySelection { failed: true, definition, ..RetrySelection::default() }
    };
    let rows = release(store, seq, 2, START).await;
    let held = token();
    let claimed = claim(store, &rows, held, START).await;
    assert_eq!(claimed.iter().map(|row| row.run).collect::<Vec<_>>(), [1, 1]);
    assert_eq!(store.kept_steps(seq).await.unwrap(), []);
    let revision = look(store, seq).await.ledger.revision;
    let refused = store.retry(seq, &selection(to, revision), "operator:suite", START).await.unwrap_err();
    assert!(matches!(refused, StoreError::Refusal(Refusal::Runs)), "{refused}");
    // The first one failed at step 1, whose answer it keeps; the second one behind all its steps.
    let fails = |at: usize, step: Option<u16>, kept: &[u16]| {
        let mut one = failed(rows[at], held);
        if let Settled::Failed(trouble) = &mut one.outcome {
            trouble.step = step;
            trouble.receipts = kept.iter().map(|step| Receipt { step: *step, sealed: vec![5; 20] }).collect();
        }
        one
    };
    let settlements: Vec<Settlement> = vec![fails(0, Some(1), &[0, 1]), fails(1, None, &[0])];
    store.settle(&settlements, START).await.unwrap();
    let kept = |step, finished| KeptStep { step, finished };
    assert_eq!(store.kept_steps(seq).await.unwrap(), [kept(0, true), kept(1, false)]);
    let revision = look(store, seq).await.ledger.revision;
    for (from_now, revision) in [(from, revision - 1), (to, revision)] {
        let definition = Some(change(from_now, to, revision));
        let selection = RetrySelection { failed: true, definition, ..RetrySelection::default() };
        let refused = store.retry(seq, &selection, "operator:suite", START).await.unwrap_err();
        assert!(matches!(refused, StoreError::Refusal(Refusal::Changed)), "{refused}");
        assert_eq!(look(store, seq).await.version, from);
    }
    // The key is another one since somebody looked.
    let mut stale = selection(to, revision);
    if let Some(change) = &mut stale.definition {
        change.from_key.wrapped = vec![9];
    }
    let refused = store.retry(seq, &stale, "operator:suite", START).await.unwrap_err();
    assert!(matches!(refused, StoreError::Refusal(Refusal::Changed)), "{refused}");
    let mut nobody = selection(to, revision);
    nobody.numbers = vec![99];
    let (after, retried) = store.retry(seq, &nobody, "operator:suite", START).await.unwrap();
    assert_eq!((after.version, retried, look(store, seq).await.version), (from, 0, from));
    let (after, retried) = store.retry(seq, &selection(to, revision), "operator:suite", START).await.unwrap();
    assert_eq!((after.version, retried, look(store, seq).await.version), (to, 2, to));
    // Who looks at a batch, or asks for what is refused, is not among those who did something to it.
    let reading = |action: &str| AuditEntry {
        id: 0,
        at: START,
        actor: "key:suite".into(),
        action: action.into(),
        batch: Some(after.id),
        detail: None,
    };
    store.audit(&reading("row.reveal")).await.unwrap();
    store.audit(&reading("batch.link")).await.unwrap();
    let done = store.batch_commands(after.id, 10).await.unwrap();
    let actions: Vec<&str> = done.iter().map(|line| line.entry.action.as_str()).collect();
    assert_eq!(actions, ["batch.retry", "batch.ended", "batch.extracted", "batch.create"]);
    assert_eq!(store.sealed_key(seq).await.unwrap().unwrap().key.wrapped, to_key.wrapped);
    let rows = release(store, seq, 2, START).await;
    let claimed = claim(store, &rows, token(), START).await;
    assert_eq!(claimed.iter().map(|row| row.run).collect::<Vec<_>>(), [2, 2]);
    assert_eq!(claimed[0].receipts.len() + claimed[1].receipts.len(), 3, "what was done is kept");
}
