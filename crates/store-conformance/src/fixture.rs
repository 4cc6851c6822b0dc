//! Owners, batches and rows to test with.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use penstock_domain::ids::{BatchId, BatchSeq, LeaseToken, RowRef};
use penstock_domain::time::Timestamp;
use penstock_store::Store;
use penstock_store::batches::{Batch, Checkpoint, Created, NewBatch, SealedKey, StoredDefinition};
use penstock_store::dispatch::Take;
use penstock_store::extraction::{ExtractionLease, Leased, NewRow};
use penstock_store::sealing::Epoch;
use penstock_store::work::{Claim, ClaimedRow, Expiry, RowFailure, Settled, Settlement};
use penstock_store::workers::{ComeBack, NewWorker, Reclaimed, WorkerKind};
use uuid::Uuid;

/// When every test begins.
pub const START: Timestamp = Timestamp::from_millis(1_790_000_000_000);

/// How long leases last here.
pub const LEASE: Duration = Duration::from_secs(60);

static NEXT: AtomicU64 = AtomicU64::new(1);

/// A number that no other test has.
pub fn unique() -> u64 {
    NEXT.fetch_add(1, Ordering::SeqCst)
}

/// A lease's secret that no other test has.
pub fn token() -> LeaseToken {
    LeaseToken(Uuid::from_u128(u128::from(unique()) << 64 | 0x7e57))
}

/// A batch as it is uploaded, of an owner of its own.
pub async fn new_batch(store: &Arc<dyn Store>, rows: u32) -> NewBatch {
    let number = unique();
    let owner = store.ensure_owner(&format!("owner{number}"), START).await.unwrap();
    let version = Uuid::from_u128(0xD0);
    let definition = StoredDefinition { name: "test".into(), source: "name: test".into(), mac: None };
    store.save_definition(version, &definition, START).await.unwrap();
    let epoch = Epoch { id: 1, sealed: vec![8; 60], created_at: START, erased: false };
    store.add_epoch(&epoch).await.unwrap();
    NewBatch {
        id: BatchId(Uuid::from_u128(u128::from(number) << 64 | 1)),
        owner: owner.seq,
        actor: String::new(),
        pipeline: "test".into(),
        version,
        name: None,
        labels: Vec::new(),
        object_key: format!("owners/owner{number}/batches/{number}.csv.sealed"),
        file_bytes: 1000,
        unsealed: false,
        rows: Some(rows),
        allow_failures: true,
        canary: None,
        callback_url: Some("https://receiver.example/hook".into()),
        priority: 0,
        checkpoint: Checkpoint { offset: 10, line: 2, rows: 0 },
        key: SealedKey {
            epoch: Some(1),
            key_id: "k1".into(),
            wrapped: vec![1, 2, 3],
            context: None,
            header: Some(b"header".to_vec()),
        },
        idempotency: None,
        upload: None,
        created_at: START,
    }
}

/// Makes a batch.
pub async fn create(store: &Arc<dyn Store>, batch: &NewBatch) -> Batch {
    match store.create_batch(batch).await.unwrap() {
        Created::New(batch) => batch,
        Created::Existing { .. } => panic!("nobody made it before"),
    }
}

/// An extraction lease of its own.
pub fn extraction_lease(batch: BatchSeq, now: Timestamp) -> ExtractionLease {
    ExtractionLease { batch, token: token(), holder: format!("suite{}", unique()), until: now + LEASE }
}

/// Row `number` of a file.
pub fn row(number: u32) -> NewRow {
    NewRow { number, line: number + 1, payload: vec![7; 40], rejected: None }
}

/// Where the file stands behind `rows` rows.
pub fn behind(rows: u32) -> Checkpoint {
    Checkpoint { offset: 10 + u64::from(rows) * 20, line: u64::from(rows) + 2, rows }
}

/// A batch whose rows are all in SQL.
pub async fn extracted(store: &Arc<dyn Store>, batch: &NewBatch, rows: u32) -> Batch {
    let made = create(store, batch).await;
    let lease = extraction_lease(made.seq, START);
    let leased = store.lease_extraction(&lease, false, START).await.unwrap();
    assert!(matches!(leased, Leased::Yours(_)), "{leased:?}");
    let all: Vec<NewRow> = (1..=rows).map(row).collect();
    store.commit_chunk(&lease, &all, made.checkpoint, behind(rows), START).await.unwrap();
    store.finish_extraction(&lease, rows, START).await.unwrap()
}

/// Queues up to `rows` rows of a batch.
pub async fn release(store: &Arc<dyn Store>, batch: BatchSeq, rows: u32, now: Timestamp) -> Vec<RowRef> {
    let released = store.release(&[Take { batch, rows }], now, now + LEASE).await.unwrap();
    released
        .into_iter()
        .flat_map(|one| {
            let suspects = one.suspects.into_iter().map(|(number, _)| number);
            one.numbers.into_iter().chain(suspects).map(move |number| RowRef { batch: one.batch, number })
        })
        .collect()
}

/// The process that claims in most tests.
pub const SUITE: &str = "suite";

/// Records a process that counts as dead after so many looks.
pub async fn register(store: &Arc<dyn Store>, name: &str, silence: Duration) {
    let worker = NewWorker { name, kind: WorkerKind::Worker, version: "test", silence };
    store.register_worker(&worker).await.unwrap();
}

/// The process that claims in most tests dies, and what it held is pending again.
pub async fn die(store: &Arc<dyn Store>, now: Timestamp) -> Reclaimed {
    store.leave(SUITE).await.unwrap();
    store.reclaim(ComeBack::Pending, now).await.unwrap()
}

/// Claims rows under a lease.
pub async fn claim(
    store: &Arc<dyn Store>,
    rows: &[RowRef],
    token: LeaseToken,
    now: Timestamp,
) -> Vec<ClaimedRow> {
    register(store, SUITE, LEASE).await;
    let claim = Claim { rows, token, holder: SUITE, also_pending: false, suspects: true };
    store.claim(&claim, now).await.unwrap()
}

/// The row is done.
pub fn completed(row: RowRef, token: LeaseToken) -> Settlement {
    Settlement { row, token, outcome: Settled::Completed { result: Some(vec![9; 20]), key: None } }
}

/// The row failed.
pub fn failed(row: RowRef, token: LeaseToken) -> Settlement {
    Settlement { row, token, outcome: Settled::Failed(trouble()) }
}

/// The row goes back until `not_before`.
pub fn requeued(row: RowRef, token: LeaseToken, not_before: Timestamp) -> Settlement {
    expiring(row, token, not_before, None)
}

/// The row goes back until `not_before`, and fails as `expires` says.
pub fn expiring(
    row: RowRef,
    token: LeaseToken,
    not_before: Timestamp,
    expires: Option<Expiry>,
) -> Settlement {
    let (trouble, receipts) = (Some(trouble()), Vec::new());
    let outcome = Settled::Requeued {
        not_before,
        attempt: true,
        trouble,
        receipts,
        expires,
        hold: None,
        polling: false,
    };
    Settlement { row, token, outcome }
}

fn trouble() -> RowFailure {
    RowFailure {
        code: "http_500".into(),
        api_code: None,
        step: Some(1),
        http_status: Some(500),
        error: Some(vec![4; 30]),
        receipts: Vec::new(),
    }
}

/// The batch as it stands; its counts add up.
pub async fn look(store: &Arc<dyn Store>, batch: BatchSeq) -> Batch {
    let batch = store.batches_by_seq(&[batch]).await.unwrap().pop().expect("it exists");
    assert!(batch.ledger.counts.add_up(), "{:?}", batch.ledger.counts);
    batch
}
