//! Values that the schema cannot have are errors that name their place. None of them is read as a default.

use std::sync::Arc;

use penstock_domain::ids::{BatchSeq, RowRef};
use penstock_domain::outcome::code;
use penstock_store::callbacks::CallbackStatus;
use penstock_store::operations::AuditEntry;
use penstock_store::owners::{ApiKeyRecord, KeyRole, Scopes};
use penstock_store::work::{Claim, Expiry};
use penstock_store::workers::ComeBack;
use penstock_store::{Store, StoreError};

use crate::fixture::{
    LEASE, START, SUITE, claim, expiring, extracted, new_batch, register, release, token, unique,
};

/// Which method has to notice.
#[derive(Clone, Copy)]
enum Read {
    Batch,
    Row,
    Claim,
    Counts,
    Key,
    Callback,
    Audit,
}

/// A value that cannot be.
struct Damage {
    table: &'static str,
    column: &'static str,
    value: &'static str,
    read: Read,
}

const fn damage(table: &'static str, column: &'static str, value: &'static str, read: Read) -> Damage {
    Damage { table, column, value, read }
}

const DAMAGES: [Damage; 24] = [
    damage("batches", "status", "9", Read::Batch),
    damage("batches", "outcome", "9", Read::Batch),
    damage("batches", "priority", "100000", Read::Batch),
    damage("batches", "next_number", "-1", Read::Batch),
    damage("batches", "run", "-1", Read::Batch),
    damage("batches", "progress_said", "300", Read::Batch),
    damage("batches", "canary_rows", "-3", Read::Batch),
    damage("batches", "checkpoint_offset", "-1", Read::Batch),
    damage("batches", "file_bytes", "-1", Read::Batch),
    damage("batches", "created_at", "-1", Read::Batch),
    damage("batches", "finished_at", "253402300800000", Read::Batch),
    damage("row_state", "status", "9", Read::Row),
    damage("row_state", "status", "9", Read::Counts),
    damage("row_state", "attempts", "-1", Read::Row),
    damage("row_state", "attempts", "-1", Read::Claim),
    damage("row_state", "http_status", "-200", Read::Row),
    damage("row_state", "not_before", "-1", Read::Row),
    damage("row_data", "line", "-1", Read::Claim),
    damage("api_keys", "role", "7", Read::Key),
    damage("api_keys", "scopes", "0", Read::Key),
    damage("api_keys", "pipelines", "'no list'", Read::Key),
    damage("callbacks", "status", "9", Read::Callback),
    damage("callbacks", "attempts", "-1", Read::Callback),
    damage("audit", "at", "-1", Read::Audit),
];

/// Every damaged value is an error that names its table and column.
/// `run` runs a statement beside the store.
pub async fn invalid_values_are_errors<F: Future<Output = ()>>(
    store: &Arc<dyn Store>,
    run: impl Fn(String) -> F,
) {
    for damage in DAMAGES {
        let Damage { table, column, value, read } = damage;
        let scene = Scene::new(store).await;
        let condition = scene.condition(table);
        run(format!("UPDATE {table} SET {column} = {value} WHERE {condition}")).await;
        match scene.read(store, read).await {
            // A row's own columns are read together with those of other tables.
            Err(StoreError::Inconsistent { column: found, key, .. }) => {
                assert_eq!(found, column, "{table}.{column} = {value}");
                assert!(key.chars().any(|c| c.is_ascii_digit()), "{table}.{column}: {key}");
            }
            other => panic!("{table}.{column} = {value} was read as {other:?}"),
        }
        for table in ["api_keys", "audit", "callbacks", "row_data", "row_state", "batch_keys", "batches"] {
            run(format!("DELETE FROM {table} WHERE {}", scene.condition(table))).await;
        }
    }
}

/// A batch that cannot be read is left out of a run, and no other one with it. `run` runs a statement beside the store.
pub async fn an_unreadable_batch_holds_up_no_run<F: Future<Output = ()>>(
    store: &Arc<dyn Store>,
    run: impl Fn(String) -> F,
) {
    let (wrong, right) = (Scene::new(store).await, Scene::new(store).await);
    run(format!("UPDATE batches SET run = -1 WHERE {}", wrong.condition("batches"))).await;
    let loads = store.loads(10, START).await.unwrap();
    let offered: Vec<BatchSeq> =
        loads.iter().flat_map(|load| &load.batches).map(|batch| batch.batch).collect();
    assert!(offered.contains(&right.row.batch) && !offered.contains(&wrong.row.batch), "{offered:?}");
}

/// A batch that cannot be read is left alone by all that brings rows back, and holds up no other one's rows. `run` runs a
/// statement beside the store.
pub async fn an_unreadable_batch_holds_up_no_sweep<F: Future<Output = ()>>(
    store: &Arc<dyn Store>,
    run: impl Fn(String) -> F,
) {
    let later = START + LEASE + LEASE;
    let back = ComeBack::Queued { lost_after: later };
    let (let_go, left) = (token(), token());
    let (mut batches, mut held) = (Vec::new(), Vec::new());
    // One row is to be let go, one comes back from the dead, one is lost, one overdue. Of the last batch none is left to do.
    for _ in 0..2 {
        let batch = extracted(store, &new_batch(store, 4).await, 4).await.seq;
        let rows = release(store, batch, 4, START).await;
        claim(store, &rows[..1], let_go, START).await;
        claim(store, &rows[1..2], left, START).await;
        let waits = token();
        claim(store, &rows[3..], waits, START).await;
        let expires = Some(Expiry { at: START + LEASE, code: code::DEADLINE_EXCEEDED });
        store.settle(&[expiring(rows[3], waits, later + LEASE, expires)], START).await.unwrap();
        held.push((rows[0], let_go));
        batches.push(batch);
    }
    let done = extracted(store, &new_batch(store, 1).await, 1).await.seq;
    let [wrong, right] = batches[..] else { panic!("two") };
    let damaged = format!("seq IN ({}, {})", wrong.0, done.0);
    run(format!("UPDATE batches SET run = -1 WHERE {damaged}")).await;
    run(format!("UPDATE batches SET pending = 0, total = 0 WHERE seq = {}", done.0)).await;

    let freed = store.let_go(&held, back, START).await.unwrap();
    assert_eq!((freed.unreadable, freed.requeued.len()), (vec![wrong], 1));
    store.leave(SUITE).await.unwrap();
    let reclaimed = store.reclaim(back, START).await.unwrap();
    assert_eq!((reclaimed.unreadable, reclaimed.requeued.len()), (vec![wrong], 1));
    let overdue = store.end_overdue(later).await.unwrap();
    assert_eq!((overdue.unreadable, overdue.rows), (vec![wrong], 1));
    let swept = store.sweep(later + LEASE, 0, false).await.unwrap();
    assert_eq!((swept.unreadable, swept.lost_rows), (vec![wrong, done], 3));
    let counts = store.batches_by_seq(&[right]).await.unwrap()[0].ledger.counts;
    assert_eq!((counts.pending, counts.failed, counts.processing), (3, 1, 0));
}

/// A row whose number is invalid is requeued with the others. `run` runs a statement beside the store.
pub async fn a_row_with_an_invalid_number_holds_up_no_sweep<F: Future<Output = ()>>(
    store: &Arc<dyn Store>,
    run: impl Fn(String) -> F,
) {
    let (wrong, right) = (Scene::new(store).await, Scene::new(store).await);
    run(format!("UPDATE row_state SET number = -1 WHERE {}", wrong.condition("row_state"))).await;
    store.sweep(START + LEASE + LEASE, 0, false).await.unwrap();
    for batch in store.batches_by_seq(&[wrong.row.batch, right.row.batch]).await.unwrap() {
        assert_eq!((batch.ledger.counts.queued, batch.ledger.counts.pending), (0, 2), "{:?}", batch.seq);
    }
}

/// One of each thing that is read.
struct Scene {
    row: RowRef,
    key: String,
}

impl Scene {
    async fn new(store: &Arc<dyn Store>) -> Self {
        let batch = extracted(store, &new_batch(store, 2).await, 2).await;
        let row = release(store, batch.seq, 1, START).await[0];
        let key = ApiKeyRecord {
            id: format!("key{}", unique()),
            owner: batch.owner_name.clone(),
            owner_seq: batch.owner,
            name: None,
            sign_in: false,
            role: KeyRole::Client,
            scopes: Scopes::CLIENT,
            pipelines: Some(vec!["p".into()]),
            hash: Vec::new(),
            mac: Some(vec![1; 32]),
            created_at: START,
            expires_at: Some(START),
            last_used_at: None,
            revoked_at: None,
        };
        store.create_key(&key).await.unwrap();
        let entry = AuditEntry {
            id: 0,
            at: START,
            actor: "operator:suite".into(),
            action: "suite".into(),
            batch: Some(batch.id),
            detail: None,
        };
        store.audit(&entry).await.unwrap();
        Self { row, key: key.id }
    }

    fn condition(&self, table: &str) -> String {
        let RowRef { batch: BatchSeq(batch), number } = self.row;
        match table {
            "batches" => format!("seq = {batch}"),
            "row_state" => format!("batch = {batch} AND number = {number}"),
            "batch_keys" | "callbacks" | "row_data" => format!("batch = {batch}"),
            "api_keys" => format!("id = '{}'", self.key),
            "audit" => format!("batch = (SELECT id FROM batches WHERE seq = {batch})"),
            other => panic!("{other}"),
        }
    }

    async fn read(&self, store: &Arc<dyn Store>, read: Read) -> Result<(), StoreError> {
        let RowRef { batch, number } = self.row;
        match read {
            Read::Batch => store.batches_by_seq(&[batch]).await.map(|_| ()),
            Read::Row => store.row(batch, number).await.map(|_| ()),
            Read::Counts => store.count_mismatches(START).await.map(|_| ()),
            Read::Key => store.key(&self.key).await.map(|_| ()),
            Read::Callback => {
                let callbacks = store.callbacks(None, Some(batch), None, 10).await?;
                assert!(callbacks.iter().all(|callback| callback.status == CallbackStatus::Pending));
                Ok(())
            }
            Read::Audit => {
                let id = store.batches_by_seq(&[batch]).await?[0].id;
                store.audit_log(Some(id), None, 10).await.map(|_| ())
            }
            Read::Claim => {
                register(store, SUITE, LEASE).await;
                let (rows, token) = ([self.row], token());
                let claim = Claim { rows: &rows, token, holder: SUITE, also_pending: false, suspects: true };
                store.claim(&claim, START).await.map(|_| ())
            }
        }
    }
}
