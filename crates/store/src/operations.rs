//! Operations: the schema, checks, repairs, retention and the audit log.

use std::time::Duration;

use async_trait::async_trait;
use penstock_domain::batch::Counts;
use penstock_domain::ids::{BatchId, BatchSeq};
use penstock_domain::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::StoreResult;
use crate::batches::{Batch, PendingUpload};

/// One entry of the audit log.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AuditEntry {
    /// Its number: later entries have higher ones. 0 until it is written.
    #[serde(default)]
    pub id: i64,
    /// When.
    pub at: Timestamp,
    /// Who: `key:<id>` or `operator:<user>`.
    pub actor: String,
    /// What: `batch.create`, `batch.cancel`, …
    pub action: String,
    /// To which batch.
    pub batch: Option<BatchId>,
    /// More, without any row's content.
    pub detail: Option<String>,
}

/// An entry of the audit log as it is read: with the name of the key that did it, as far as that is still there.
#[derive(Clone, Debug, Serialize)]
pub struct AuditLine {
    /// The entry.
    #[serde(flatten)]
    pub entry: AuditEntry,
    /// The key's name; none when it has none, or when it was no key.
    pub key_name: Option<String>,
    /// The owner whose key it was.
    pub key_owner: Option<String>,
}

impl AuditLine {
    /// Who did it, for people: a key's name, or its number, with its owner; or an operator.
    pub fn who(&self) -> String {
        let actor = &self.entry.actor;
        let name = self.key_name.as_ref().unwrap_or(actor);
        self.key_owner.as_ref().map_or_else(|| actor.clone(), |owner| format!("{name} ({owner})"))
    }
}

/// Counters that differ from the rows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CountMismatch {
    /// The batch.
    pub batch: BatchId,
    /// Its key in SQL.
    #[serde(skip)]
    pub seq: BatchSeq,
    /// The ledger's revision when it was read: the repair's guard.
    pub revision: i64,
    /// What the ledger says.
    pub ledger: Counts,
    /// What the rows say.
    pub rows: Counts,
}

/// A row counts as overdue when its lease or its time in the queue ran out so long ago: a sweep comes every minute.
pub const OVERDUE_AFTER: Duration = Duration::from_secs(90);

/// A callback counts as overdue when nobody took it up so long after it was due.
pub const CALLBACK_OVERDUE_AFTER: Duration = Duration::from_secs(600);

/// A batch none of whose rows gets through counts as stalled from so long after its start.
pub const STALLED_AFTER: Duration = Duration::from_secs(120);

/// What counts as recent for batches.
pub const RECENT: Duration = Duration::from_secs(3600);

/// What counts as recent for callbacks, whose schedule takes days.
pub const RECENT_CALLBACKS: Duration = Duration::from_secs(5 * 24 * 3600);

/// A batch's share of failures says something from so many ended rows on.
pub const RATIO_ROWS: u32 = 20;

/// Counts for metrics and `doctor`, cheap to read.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Metrics {
    /// Sums of the counters of unfinished batches, by pipeline.
    pub by_pipeline: Vec<(String, Counts)>,
    /// Callbacks that wait.
    pub callbacks_pending: u32,
    /// Callbacks whose schedule is exhausted.
    pub callbacks_exhausted: u32,
    /// Batches by state, unfinished ones only.
    pub batches_pending: u32,
    /// Batches under extraction.
    pub batches_processing: u32,
    /// Batches that run.
    pub batches_queued: u32,
    /// Running batches that are held.
    pub batches_held: u32,
    /// Running batches that get nowhere, up to a few hundred.
    pub batches_stalled: u32,
    /// Rows of running batches that wait for a result, by pipeline.
    pub polling: Vec<(String, u32)>,
    /// Callbacks that are due since a while, and nobody delivers them.
    pub callbacks_overdue: u32,
    /// Rows in processing whose lease ran out a while ago.
    pub leases_expired: u32,
    /// Rows in the queue whose time ran out a while ago.
    pub rows_lost: u32,
    /// Batches whose file could not be extracted, in the last hour.
    pub batches_failed_recently: u32,
    /// Callbacks of the last five days whose schedule is exhausted.
    pub callbacks_exhausted_recently: u32,
    /// The greatest share of failed rows of any batch that runs or ended in the last hour, by pipeline.
    pub failure_ratio: Vec<(String, f64)>,
}

/// What the engine is, for `doctor`.
#[derive(Clone, Debug, Serialize)]
pub struct EngineInfo {
    /// `sqlite` or `postgresql`.
    pub engine: &'static str,
    /// The server's (or library's) version.
    pub version: String,
    /// The schema's version; 0: none.
    pub schema: i64,
    /// The schema this program needs.
    pub needed_schema: i64,
    /// The oldest version that is supported.
    pub needed_version: &'static str,
    /// Whether its version is at least that.
    pub supported: bool,
    /// The database's clock.
    pub now: Timestamp,
    /// Bytes on disk.
    pub bytes: u64,
    /// Rights that the role lacks, as `SELECT on runs`; none with an embedded engine.
    pub missing_rights: Vec<String>,
}

/// Operations.
#[async_trait]
pub trait Operations: Send + Sync {
    /// Brings the schema up to date under a lock; tells from which version to which.
    async fn migrate(&self) -> StoreResult<(i64, i64)>;
    /// The same up to a version, for what has to be recorded before the next.
    async fn migrate_to(&self, version: i64) -> StoreResult<(i64, i64)>;
    /// # Errors
    /// `Schema` when the schema is older or newer than this program's; `Unavailable`.
    async fn check_schema(&self) -> StoreResult<()>;
    /// The database's clock.
    async fn now(&self) -> StoreResult<Timestamp>;
    /// Writes something small and commits it: a server that became read-only, or whose disk is full, answers questions as
    /// before.
    ///
    /// # Errors
    /// `Unavailable` when nothing can be written now; `Refused` when the right to do so is missing.
    async fn probe_writes(&self, now: Timestamp) -> StoreResult<()>;
    /// The installation's id; an empty text when the database was in use before there were ids.
    async fn installation(&self) -> StoreResult<String>;
    /// What the engine is.
    async fn engine(&self) -> StoreResult<EngineInfo>;
    /// Writes an audit entry that belongs to no other transaction.
    async fn audit(&self, entry: &AuditEntry) -> StoreResult<()>;
    /// The audit log, newest first; `before` is the number of the last entry of the page before.
    async fn audit_log(
        &self,
        batch: Option<BatchId>,
        before: Option<i64>,
        limit: u32,
    ) -> StoreResult<Vec<AuditLine>>;
    /// What the audit log has of what was done to a batch, newest first: neither of what was read of it, nor of what was refused.
    async fn batch_commands(&self, batch: BatchId, limit: u32) -> StoreResult<Vec<AuditLine>>;
    /// Counts for metrics and alerts.
    async fn metrics(&self, now: Timestamp) -> StoreResult<Metrics>;
    /// Extracted batches whose counters differ from their rows, of those that run or ended after `ended_after`; ledger and
    /// rows are read at one moment. Reads rows: for operators, not for services.
    async fn count_mismatches(&self, ended_after: Timestamp) -> StoreResult<Vec<CountMismatch>>;
    /// Writes the rows' counts into the ledger, provided that nothing has moved since; true when it did.
    async fn repair_counts(&self, mismatch: &CountMismatch, actor: &str, now: Timestamp)
    -> StoreResult<bool>;
    /// Which of these object keys belong to a batch or to an upload that is still open.
    async fn known_objects(&self, keys: &[String]) -> StoreResult<Vec<String>>;
    /// Finished batches whose payloads are older than `finished_before` and not erased.
    async fn to_erase(&self, finished_before: Timestamp, limit: u32) -> StoreResult<Vec<Batch>>;
    /// Deletes batches that were erased and finished before; tells how many.
    async fn delete_batches(&self, finished_before: Timestamp, limit: u32) -> StoreResult<u32>;
    /// Removes uploads whose time is over and whose file no batch has yet to read, and tells which, so that what lies at
    /// their addresses can be deleted: the address of a used upload could still be PUT to until then.
    async fn expire_uploads(&self, now: Timestamp, limit: u32) -> StoreResult<Vec<PendingUpload>>;
}
