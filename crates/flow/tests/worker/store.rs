//! A SQLite store whose calls a test can watch, and make fail.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use penstock_domain::ids::*;
use penstock_domain::pipeline::KeptStep;
use penstock_domain::row::Receipt;
use penstock_domain::time::Timestamp;
use penstock_store::alerts::*;
use penstock_store::answers::{AnswerCount, AnswerEnd, FoundAnswer, WantedAnswer};
use penstock_store::batches::*;
use penstock_store::callbacks::*;
use penstock_store::calls::{CallEnd, CallRecord};
use penstock_store::control::*;
use penstock_store::credentials::*;
use penstock_store::dispatch::*;
use penstock_store::duplicates::{CompletedBy, KeyHash, WantedKey};
use penstock_store::extraction::*;
use penstock_store::limits::{LimitChange, LimitPeriod, LimitSetting, LimitUse};
use penstock_store::operations::*;
use penstock_store::owners::*;
use penstock_store::polls::*;
use penstock_store::reading::*;
use penstock_store::sealing::*;
use penstock_store::waiting::*;
use penstock_store::work::*;
use penstock_store::workers::*;
use penstock_store::{StoreError, StoreResult};
use penstock_store_sqlite::SqliteStore;
use tokio::sync::watch;
use uuid::Uuid;

use crate::awake::Awake;

/// How a call fails.
#[derive(Clone, Copy)]
pub enum Fault {
    /// The database is unavailable.
    Unavailable,
    /// The database refuses the data.
    InvalidData,
    /// The transaction is committed, and its answer is lost.
    AnswerLost,
}

type Hook = Box<dyn Fn() + Send>;

/// The store. The paused clock stands still while it works.
pub struct TestStore {
    inner: SqliteStore,
    faults: Mutex<HashMap<&'static str, VecDeque<Fault>>>,
    hooks: Mutex<HashMap<&'static str, Hook>>,
    calls: watch::Sender<HashMap<&'static str, usize>>,
}

impl TestStore {
    pub fn new(inner: SqliteStore) -> Self {
        let (faults, hooks) = Default::default();
        Self { inner, faults, hooks, calls: watch::Sender::new(HashMap::new()) }
    }

    /// The next calls of a method fail.
    pub fn fail(&self, method: &'static str, faults: impl IntoIterator<Item = Fault>) {
        self.faults.lock().unwrap().entry(method).or_default().extend(faults);
    }

    /// Calls `hook` after each call of a method.
    pub fn after(&self, method: &'static str, hook: impl Fn() + Send + 'static) {
        self.hooks.lock().unwrap().insert(method, Box::new(hook));
    }

    /// How often a method was called.
    pub fn calls(&self, method: &'static str) -> usize {
        self.calls.borrow().get(method).copied().unwrap_or(0)
    }

    /// Waits until a method was called this many times.
    pub async fn called(&self, method: &'static str, times: usize) {
        let mut calls = self.calls.subscribe();
        calls.wait_for(|calls| calls.get(method).is_some_and(|count| *count >= times)).await.unwrap();
    }

    async fn call<T>(
        &self,
        method: &'static str,
        answer: impl Future<Output = StoreResult<T>>,
    ) -> StoreResult<T> {
        let _awake = Awake::new();
        let fault = self.faults.lock().unwrap().get_mut(method).and_then(VecDeque::pop_front);
        let source = || "a fault of the test".into();
        let answer = match fault {
            None => answer.await,
            Some(Fault::Unavailable) => Err(StoreError::Unavailable(source())),
            Some(Fault::InvalidData) => {
                Err(StoreError::InvalidData { transaction: method, source: source() })
            }
            Some(Fault::AnswerLost) => answer.await.and(Err(StoreError::Unavailable(source()))),
        };
        if let Some(hook) = self.hooks.lock().unwrap().get(method) {
            hook();
        }
        self.calls.send_modify(|calls| *calls.entry(method).or_default() += 1);
        answer
    }
}

macro_rules! delegate {
    ($($module:ident::$trait:ident { $($name:ident($($arg:ident: $type:ty),*) -> $out:ty;)* })*) => { $(
        #[async_trait]
        impl penstock_store::$module::$trait for TestStore { $(
            async fn $name(&self, $($arg: $type),*) -> StoreResult<$out> {
                self.call(stringify!($name), self.inner.$name($($arg),*)).await
            }
        )* }
    )* };
}

delegate! {
owners::Owners {
    ensure_owner(name: &str, now: Timestamp) -> Owner;
    owners() -> Vec<Owner>;
    set_owner(name: &str, rows: Option<Option<u32>>, weight: Option<u32>) -> Owner;
    create_key(key: &ApiKeyRecord) -> ();
    key(id: &str) -> Option<ApiKeyRecord>;
    keys() -> Vec<ApiKeyRecord>;
    touch_key(id: &str, now: Timestamp) -> ();
    set_key_mac(id: &str, mac: &[u8]) -> bool;
    revoke_key(id: &str, now: Timestamp) -> bool;
    delete_sign_ins(ended_before: Timestamp) -> u64;
    delete_sign_ins_beyond(owner: OwnerSeq, name: &str, newest: u32) -> u64;
    use_ticket(number: &str, ends_at: Timestamp) -> bool;
    drop_tickets(now: Timestamp) -> u64;
    all_callback_secrets() -> Vec<(OwnerSeq, CallbackSecrets)>;
    callback_secrets(owner: OwnerSeq) -> CallbackSecrets;
    set_callback_secrets(owner: OwnerSeq, expected: Option<&[u8]>, secrets: &CallbackSecrets) -> bool;
}
batches::Batches {
    save_definition(version: Uuid, definition: &StoredDefinition, now: Timestamp) -> ();
    definition(version: Uuid) -> Option<StoredDefinition>;
    idempotent(owner: OwnerSeq, key: &str) -> Option<(Batch, Idempotency)>;
    create_batch(batch: &NewBatch) -> Created;
    batch(id: BatchId, owner: Option<OwnerSeq>) -> Option<Batch>;
    batches_by_seq(seqs: &[BatchSeq]) -> Vec<Batch>;
    list_batches(filter: &BatchFilter) -> BatchPage;
    running_batches(owner: OwnerSeq, limit: u32) -> Vec<Batch>;
    kept(owner: OwnerSeq) -> Kept;
    sealed_key(batch: BatchSeq) -> Option<StoredKey>;
    sealed_failure(batch: BatchSeq) -> Option<Vec<u8>>;
    create_upload(upload: &PendingUpload) -> ();
    upload(id: Uuid, owner: OwnerSeq) -> Option<PendingUpload>;
    uploads_of(batch: BatchSeq) -> Vec<PendingUpload>;
}
extraction::Extraction {
    lease_extraction(lease: &ExtractionLease, revive: bool, now: Timestamp) -> Leased;
    renew_extraction(lease: &ExtractionLease) -> ();
    describe_file(lease: &ExtractionLease, header: &[u8], rows: u32, object_key: &str, file_bytes: u64, start: Checkpoint) -> ();
    commit_chunk(lease: &ExtractionLease, rows: &[NewRow], from: Checkpoint, to: Checkpoint, now: Timestamp) -> ();
    finish_extraction(lease: &ExtractionLease, rows: u32, now: Timestamp) -> Batch;
    fail_extraction(lease: &ExtractionLease, failure: &ExtractionFailure, now: Timestamp) -> Batch;
    release_extraction(lease: &ExtractionLease) -> ();
}
dispatch::Dispatch {
    lock_run() -> Option<Box<dyn RunLock>>;
    sweep(now: Timestamp, extraction_grace_ms: i64, everything: bool) -> Swept;
    sweep_plan(now: Timestamp, extraction_grace_ms: i64) -> SweepPlan;
    loads(rows_per_owner: u32, now: Timestamp) -> Vec<OwnerLoad>;
    released_until(batches: &[BatchSeq], lost_after: Timestamp) -> Vec<Released>;
    release(takes: &[Take], now: Timestamp, lost_after: Timestamp) -> Vec<Released>;
    record_run(run: &RunRecord) -> ();
    runs(limit: u32) -> Vec<RunRecord>;
}
work::Work {
    claim(claim: &Claim<'_>, now: Timestamp) -> Vec<ClaimedRow>;
    longer_than(bytes: u64, rows: &[RowRef]) -> Vec<LongRow>;
    record_intents(asked: &[(RowRef, LeaseToken, u16)], receipts: &[(RowRef, LeaseToken, Receipt)]) -> Vec<Held>;
    save_receipts(receipts: &[(RowRef, LeaseToken, Receipt)]) -> ();
    settle(group: &[Settlement], now: Timestamp) -> SettleReport;
    unqueue(rows: &[RowRef], now: Timestamp) -> u32;
    holder(row: RowRef) -> Option<(String, Timestamp)>;
}
calls::Calls {
    record_call(record: &CallRecord<'_>) -> bool;
    settle_call(end: &CallEnd<'_>, now: Timestamp) -> SettleReport;
}
workers::Workers {
    register_worker(worker: &NewWorker<'_>) -> ();
    beat(name: &str, load: WorkerLoad) -> bool;
    set_call_waits(name: &str, waits: &[CallWait]) -> ();
    call_waits() -> Vec<CallWait>;
    look() -> Vec<String>;
    bury(name: &str) -> bool;
    leave(name: &str) -> ();
    bury_services() -> ();
    workers() -> Vec<WorkerRecord>;
    held_by(name: &str) -> Vec<Held>;
    reclaim(back: ComeBack, now: Timestamp) -> Reclaimed;
    let_go(rows: &[Held], back: ComeBack, now: Timestamp) -> Reclaimed;
    follow_clock() -> Option<Duration>;
    move_deadlines() -> Option<Duration>;
}
control::Control {
    cancel(batch: BatchSeq, actor: Actor<'_>, now: Timestamp) -> Batch;
    pause(batch: BatchSeq, actor: Actor<'_>, now: Timestamp) -> Batch;
    resume(batch: BatchSeq, actor: Actor<'_>, now: Timestamp) -> Batch;
    retry(batch: BatchSeq, selection: &RetrySelection, actor: Actor<'_>, now: Timestamp) -> (Batch, u32);
    erase(batch: BatchSeq, ended_before: Option<Timestamp>, actor: Actor<'_>, now: Timestamp) -> Option<Batch>;
    finish_erasure(batch: BatchSeq) -> bool;
    unfinished_erasures(after: BatchSeq, limit: u32) -> Vec<Batch>;
}
reading::Reading {
    rows(batch: BatchSeq, filter: &RowFilter) -> RowPage;
    row(batch: BatchSeq, number: RowNumber) -> Option<RowRecord>;
    kept_steps(batch: BatchSeq) -> Vec<KeptStep>;
    error_groups(batch: BatchSeq) -> Vec<ErrorGroup>;
    hold_words(seq: BatchSeq) -> Option<Vec<u8>>;
    waiting_with_error(batch: BatchSeq) -> Option<RowNumber>;
    next_due(batch: BatchSeq) -> Option<Timestamp>;
}
callbacks::Callbacks {
    lease_callbacks(lease: &CallbackLease) -> Vec<Callback>;
    settle_callback(delivery: &Delivery) -> bool;
    keep_snapshot(id: Uuid, token: LeaseToken, snapshot: &str) -> bool;
    delay_not_reported(pipelines: &[String], limit: u32) -> Vec<BatchSeq>;
    report_delay(batches: &[BatchSeq], now: Timestamp) -> u32;
    callbacks(owner: Option<OwnerSeq>, batch: Option<BatchSeq>, before: Option<(Timestamp, Uuid)>, limit: u32) -> Vec<Callback>;
    redeliver(id: Uuid, owner: Option<OwnerSeq>, now: Timestamp) -> Option<Callback>;
}
progress::UploadProgress {
    report_upload(owner: OwnerSeq, id: Uuid, progress: &penstock_store::progress::Progress) -> ();
    upload_progress(owner: OwnerSeq, id: Uuid) -> Option<penstock_store::progress::Progress>;
}
samples::Samples {
    sample_batches(now: Timestamp) -> ();
    samples(batch: BatchSeq) -> Vec<penstock_store::samples::Sample>;
}
operations::Operations {
    migrate() -> (i64, i64);
    migrate_to(version: i64) -> (i64, i64);
    check_schema() -> ();
    now() -> Timestamp;
    probe_writes(now: Timestamp) -> ();
    installation() -> String;
    engine() -> EngineInfo;
    audit(entry: &AuditEntry) -> ();
    audit_log(batch: Option<BatchId>, before: Option<i64>, limit: u32) -> Vec<AuditLine>;
    batch_commands(batch: BatchId, limit: u32) -> Vec<AuditLine>;
    metrics(now: Timestamp) -> Metrics;
    count_mismatches(ended_after: Timestamp) -> Vec<CountMismatch>;
    repair_counts(mismatch: &CountMismatch, actor: &str, now: Timestamp) -> bool;
    known_objects(keys: &[String]) -> Vec<String>;
    to_erase(finished_before: Timestamp, limit: u32) -> Vec<Batch>;
    delete_batches(finished_before: Timestamp, limit: u32) -> u32;
    expire_uploads(now: Timestamp, limit: u32) -> Vec<PendingUpload>;
}
sealing::Sealing {
    newest_epoch() -> Option<Epoch>;
    add_epoch(epoch: &Epoch) -> bool;
    drop_epochs(newest: i64) -> u32;
    batches_to_rewrap(epoch: i64, after: BatchSeq, limit: u32) -> Vec<Batch>;
    earlier_key() -> Option<(BatchId, SealedKey)>;
    rewrap_key(batch: BatchSeq, old: &SealedKey, new: &SealedKey) -> bool;
    key_usage() -> Vec<KeyUsage>;
    definition_macs() -> Vec<(Uuid, Option<Vec<u8>>)>;
    set_definition_mac(version: Uuid, expected: Option<&[u8]>, mac: &[u8]) -> bool;
    secret(name: &str) -> Option<Vec<u8>>;
    set_secret(name: &str, expected: Option<&[u8]>, sealed: &[u8]) -> bool;
}
credentials::Credentials {
    owner_values(owner: OwnerSeq) -> Vec<OwnerValue>;
    all_owner_values() -> Vec<OwnerValue>;
    set_owner_value(value: &OwnerValue) -> ();
    reseal_owner_value(value: &OwnerValue, before: &[u8]) -> bool;
    unset_owner_value(owner: OwnerSeq, secret: bool, name: &str) -> bool;
    tokens(name: Uuid) -> Option<SealedTokens>;
    begin_renewal(name: Uuid, version: i64, now: Timestamp, until: Timestamp) -> bool;
    end_renewal(name: Uuid, version: i64, sealed: Option<&[u8]>) -> bool;
    all_tokens() -> Vec<(Uuid, Vec<u8>)>;
    reseal_tokens(name: Uuid, before: &[u8], sealed: &[u8]) -> bool;
}
alerts::Alerts {
    failing_batches(since: Timestamp, min_rows: u32, share_bp: u16, limit: u32) -> Vec<FailingBatch>;
    unextractable_batches(since: Timestamp, limit: u32) -> Vec<FailingBatch>;
    firing() -> Vec<(String, String)>;
    note_alerts(found: &[Alert], now: Timestamp) -> ();
    held_batches(limit: u32) -> Vec<Batch>;
    stalled_batches(only: Option<BatchSeq>, began_before: Timestamp, limit: u32) -> Vec<StalledBatch>;
    lease_notices(token: LeaseToken, now: Timestamp, until: Timestamp, limit: u32) -> Vec<Notice>;
    settle_notice(notice: &Notice, token: LeaseToken, again: Option<Timestamp>) -> bool;
}
polls::Polls {
    due_polls(pipelines: &[String], most: u32, now: Timestamp) -> Vec<DuePolls>;
    polling(batch: BatchSeq) -> Option<PollingRows>;
    last_look(batch: BatchSeq) -> Option<Timestamp>;
    queue_due_polls(takes: &[Take], now: Timestamp, lost_after: Timestamp) -> Vec<Released>;
}

waiting::Waiting {
    end_overdue(now: Timestamp) -> Overdue;
    report_faults(faults: &[(BatchSeq, String)], worker: &str, now: Timestamp) -> ();
    clear_faults(batches: &[BatchSeq]) -> ();
    faults() -> Vec<BatchFault>;
}
limits::Limits {
    reserve_period(period: &LimitPeriod, amount: u32, most: u32) -> u32;
    use_limits(dependency: &str, until: Timestamp) -> Option<Timestamp>;
    limit_settings() -> Vec<LimitSetting>;
    change_limits(dependency: &str, change: &LimitChange, now: Timestamp) -> LimitSetting;
    reset_limits(dependency: &str) -> bool;
    add_limit_use(used: &LimitUse) -> ();
    limit_use(since: Timestamp) -> Vec<LimitUse>;
    drop_limit_use(before: Timestamp) -> u64;
    drop_periods(ended_before: Timestamp) -> u64;
}
duplicates::Duplicates {
    completed_by_others(wanted: &[WantedKey]) -> Vec<Option<CompletedBy>>;
    forget_key(key: &KeyHash) -> bool;
    drop_expired_keys(now: Timestamp, limit: u32) -> u64;
}
answers::Answers {
    find_answers(wanted: &[WantedAnswer], now: Timestamp) -> Vec<FoundAnswer>;
    end_answers(ends: &[AnswerEnd], now: Timestamp) -> ();
    count_answers(counts: &[AnswerCount]) -> ();
    answer_counts(batch: BatchSeq) -> Vec<AnswerCount>;
    drop_expired_answers(now: Timestamp, limit: u32) -> u64;
}}
