//! Dispatch: the sweep, the owners with work, and the release of rows.

use async_trait::async_trait;
use penstock_domain::ids::{BatchId, BatchSeq, OwnerSeq, RowNumber};
use penstock_domain::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::batches::Batch;
use crate::error::set_aside;
use crate::waiting::Overdue;
use crate::workers::Reclaimed;
use crate::{StoreError, StoreResult};

/// Held while a dispatcher runs; dropping it (or losing its connection) frees the lock.
pub trait RunLock: Send + Sync {}

/// What a batch of an owner offers.
#[derive(Clone, Debug)]
pub struct BatchLoad {
    /// The batch.
    pub batch: BatchSeq,
    /// Its public id.
    pub id: BatchId,
    /// Its pipeline.
    pub pipeline: String,
    /// Higher goes first.
    pub priority: i16,
    /// When rows of it were last released.
    pub served_at: Timestamp,
    /// Rows queued or processing.
    pub in_flight: u32,
    /// Rows that were never released and may be.
    pub fresh: u32,
    /// Rows that came back and whose not-before time has come; counted up to the owner's quota.
    pub returned: u32,
}

/// What an owner offers.
#[derive(Clone, Debug)]
pub struct OwnerLoad {
    /// The owner.
    pub owner: OwnerSeq,
    /// Its name.
    pub name: String,
    /// Its own quota, if it has one.
    pub rows: Option<u32>,
    /// Its weight.
    pub weight: u32,
    /// When rows of it were last released.
    pub served_at: Timestamp,
    /// All its rows queued or processing.
    pub in_flight: u32,
    /// Its rows queued or processing by pipeline.
    pub in_flight_by_pipeline: Vec<(String, u32)>,
    /// Its rows that wait for a result, by pipeline. Looks at them are not in flight.
    pub polling_by_pipeline: Vec<(String, u32)>,
    /// Batches with work: all of them, because a cut between some that were served together would fall in the same place
    /// every time, and one between those whose pipeline has no room would hide the others.
    pub batches: Vec<BatchLoad>,
}

/// A running batch as it is read for a dispatcher run.
#[derive(Debug)]
pub struct Running {
    /// The batch.
    pub batch: Batch,
    /// Its rows that came back and whose time has come, see [`BatchLoad::returned`].
    pub due: u32,
    /// Its rows that wait for a result, those included that are looked at.
    pub polling: u32,
    /// Those of them that are queued or processing for a look.
    pub looking: u32,
    /// When rows of it were last released.
    pub served_at: Timestamp,
    /// When rows of its owner were.
    pub owner_served_at: Timestamp,
}

/// Owners with work, from all running batches, owner by owner. What is in flight counts for all of its batches, also for
/// those that offer nothing.
pub fn by_owner(running: Vec<Running>) -> Vec<OwnerLoad> {
    let mut loads: Vec<OwnerLoad> = Vec::new();
    for Running { batch, due, polling, looking, served_at, owner_served_at } in running {
        if loads.last().is_none_or(|load| load.owner != batch.owner) {
            loads.push(OwnerLoad {
                owner: batch.owner,
                name: batch.owner_name.clone(),
                rows: batch.owner_rows,
                weight: batch.owner_weight,
                served_at: owner_served_at,
                in_flight: 0,
                in_flight_by_pipeline: Vec::new(),
                polling_by_pipeline: Vec::new(),
                batches: Vec::new(),
            });
        }
        let Some(load) = loads.last_mut() else { continue };
        let queued = batch.ledger.counts.queued + batch.ledger.counts.processing;
        let in_flight = queued.saturating_sub(looking);
        load.in_flight += in_flight;
        add(&mut load.in_flight_by_pipeline, &batch.pipeline, in_flight);
        if polling > 0 {
            add(&mut load.polling_by_pipeline, &batch.pipeline, polling);
        }
        let fresh = batch.ledger.fresh();
        if fresh + due > 0 {
            load.batches.push(BatchLoad {
                batch: batch.seq,
                id: batch.id,
                pipeline: batch.pipeline,
                priority: batch.priority,
                served_at,
                in_flight,
                fresh,
                returned: due,
            });
        }
    }
    loads.retain(|load| !load.batches.is_empty());
    loads
}

fn add(by_pipeline: &mut Vec<(String, u32)>, pipeline: &str, rows: u32) {
    match by_pipeline.iter_mut().find(|(known, _)| known == pipeline) {
        Some((_, all)) => *all += rows,
        None => by_pipeline.push((pipeline.to_owned(), rows)),
    }
}

/// How many rows of a batch a run wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Take {
    /// The batch.
    pub batch: BatchSeq,
    /// At most so many rows; those that came back go before fresh ones.
    pub rows: u32,
}

/// What of a batch was released. The order of numbers is the order of release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Released {
    /// The batch.
    pub batch: BatchSeq,
    /// The rows, without suspects.
    pub numbers: Vec<RowNumber>,
    /// Rows that a process died of before, each with how many did: they run alone.
    pub suspects: Vec<(RowNumber, u16)>,
}

impl Released {
    /// Rows in the order of release, each with its crashes, told apart.
    pub fn of(batch: BatchSeq, rows: impl IntoIterator<Item = (RowNumber, u16)>) -> Self {
        let (suspects, numbers): (Vec<_>, Vec<_>) = rows.into_iter().partition(|(_, crashes)| *crashes > 0);
        Self { batch, numbers: numbers.into_iter().map(|(number, _)| number).collect(), suspects }
    }

    /// How many rows.
    pub fn rows(&self) -> u32 {
        u32::try_from(self.numbers.len() + self.suspects.len()).unwrap_or(u32::MAX)
    }
}

/// What a sweep found and fixed (or, dry, would fix).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Swept {
    /// Batches whose extraction nobody holds: enqueue them.
    pub extractions: Vec<BatchSeq>,
    /// Queued rows whose message was lost.
    pub lost_rows: u32,
    /// Rows whose process is gone.
    pub expired_rows: u32,
    /// Of these, rows that ended, because nobody can tell whether their last call had its effect.
    #[serde(default)]
    pub unknown_rows: u32,
    /// Rows whose time was over while they waited.
    #[serde(default)]
    pub overdue_rows: u32,
    /// Of these, rows that ended, because too many processes died while they held them.
    #[serde(default)]
    pub crashed_rows: u32,
    /// Batches that were finished.
    pub finished: u32,
    /// Batches whose counters do not bear what their rows need: left alone until they are reconciled.
    #[serde(default)]
    pub miscounted: Vec<BatchSeq>,
    /// Batches with a stored value that is invalid: left alone until somebody has repaired it.
    #[serde(default)]
    pub unreadable: Vec<BatchSeq>,
}

impl Swept {
    /// Leaves a batch alone because of an error [of its own](StoreError::is_one_batchs).
    pub fn leave_alone(&mut self, batch: BatchSeq, error: &StoreError) {
        set_aside(batch, error, &mut self.miscounted, &mut self.unreadable);
    }

    /// Adds what came of rows whose time was over while they waited.
    pub fn overdue(&mut self, overdue: &Overdue) {
        self.overdue_rows += overdue.rows;
        self.miscounted.extend(&overdue.miscounted);
        self.unreadable.extend(&overdue.unreadable);
    }

    /// Adds what came back from dead processes.
    pub fn reclaimed(&mut self, reclaimed: &Reclaimed) {
        self.expired_rows += reclaimed.rows();
        self.unknown_rows += reclaimed.unknown;
        self.crashed_rows += reclaimed.crashed;
        self.miscounted.extend(&reclaimed.miscounted);
        self.unreadable.extend(&reclaimed.unreadable);
    }
}

/// Rows of one batch that are stuck.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StuckRows {
    /// The batch.
    pub batch: BatchId,
    /// How many of its rows.
    pub rows: u32,
    /// Of these, rows that end, because nobody can tell whether their last call had its effect.
    #[serde(skip_serializing_if = "is_none")]
    pub unknown: u32,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_none(rows: &u32) -> bool {
    *rows == 0
}

/// What a sweep would fix, batch by batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SweepPlan {
    /// Batches whose extraction nobody holds.
    pub extractions: Vec<(BatchSeq, BatchId)>,
    /// Queued rows whose message was lost.
    pub lost_rows: Vec<StuckRows>,
    /// Rows whose process is gone, or has been silent for too long.
    pub expired_rows: Vec<StuckRows>,
    /// Batches that should be finished.
    pub finished: Vec<BatchId>,
}

/// One dispatcher run, as it is recorded.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Timestamp,
    /// Owners that were served.
    pub owners: u32,
    /// Rows released.
    pub rows: u32,
    /// Messages enqueued.
    pub messages: u32,
    /// Messages the queue would not bear; their rows come back by the sweep.
    pub held_back: u32,
    /// What the sweep did.
    pub swept: Swept,
    /// Whether it released as many rows as a whole run may, and so perhaps not all that their owners were entitled to.
    #[serde(default)]
    pub capped: bool,
    /// What went wrong, if anything did.
    pub error: Option<String>,
}

/// Dispatch.
#[async_trait]
pub trait Dispatch: Send + Sync {
    /// Takes the database's dispatcher lock; none when another run holds it.
    async fn lock_run(&self) -> StoreResult<Option<Box<dyn RunLock>>>;
    /// Fixes what crashes left: queued rows past their deadline go back to pending, finished batches are finished; tells which
    /// extractions nobody holds (pending for longer than `extraction_grace_ms`, or processing under a lease that ran
    /// out). Rows of dead processes are [`Workers::reclaim`](crate::workers::Workers::reclaim)'s. Works in bounded steps.
    /// `everything` treats every queued row as lost: for an engine that only one process serves, at that process's start.
    async fn sweep(&self, now: Timestamp, extraction_grace_ms: i64, everything: bool) -> StoreResult<Swept>;
    /// What [`Dispatch::sweep`] and [`Workers::reclaim`](crate::workers::Workers::reclaim) would do, without doing it.
    async fn sweep_plan(&self, now: Timestamp, extraction_grace_ms: i64) -> StoreResult<SweepPlan>;
    /// Owners with work, those served longest ago first, each with its batches that have rows to release now; an owner without a quota of its own has
    /// `rows_per_owner`. Costs by running batches and by what could be released of them, never by the backlog.
    async fn loads(&self, rows_per_owner: u32, now: Timestamp) -> StoreResult<Vec<OwnerLoad>>;
    /// Rows of batches that are queued and count as lost at exactly that moment: what a [`release`](Dispatch::release) whose
    /// answer was lost has done, if it did.
    async fn released_until(&self, batches: &[BatchSeq], lost_after: Timestamp)
    -> StoreResult<Vec<Released>>;
    /// Marks rows queued, each batch's at most as many as asked for, and tells which. Rows that came back are
    /// taken when their not-before time has come. `lost_after` is when the sweep counts them as lost.
    async fn release(
        &self,
        takes: &[Take],
        now: Timestamp,
        lost_after: Timestamp,
    ) -> StoreResult<Vec<Released>>;
    /// Records a run, and forgets those older than a month.
    async fn record_run(&self, run: &RunRecord) -> StoreResult<()>;
    /// The latest runs, newest first.
    async fn runs(&self, limit: u32) -> StoreResult<Vec<RunRecord>>;
}
