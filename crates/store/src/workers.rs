//! Processes that hold rows: their heartbeats, their deaths, and what comes back from the dead.
//!
//! A claimed row belongs to the process that it names for as long as that process has a record here. Nobody compares clocks:
//! the others look, about once a second and only while they can reach the database, and count the looks since the last
//! heartbeat ([`Workers::look`]). A process whose count passes its patience is dead. So an outage, a suspended machine or a
//! clock that jumps costs nobody a row: while nobody can look, nobody is counted out.

use std::time::Duration;

use async_trait::async_trait;
use penstock_domain::ids::{BatchSeq, RowRef};
use penstock_domain::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::set_aside;
use crate::work::Held;
use crate::{StoreError, StoreResult};

/// Two looks are at least so far apart, in milliseconds, however many processes look.
pub const LOOK_GAP_MS: i64 = 950;

/// A clock that shows less than it did before was set back when it is by more than this, in milliseconds.
pub const SET_BACK_MS: i64 = 3000;

/// What a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i16)]
pub enum WorkerKind {
    /// A service.
    Worker = 0,
    /// An operator's command beside the services.
    Command = 1,
}

impl WorkerKind {
    /// The number that SQL stores.
    pub const fn code(self) -> i16 {
        self as i16
    }

    /// The kind behind a stored number.
    pub fn from_code(code: i16) -> Option<Self> {
        [Self::Worker, Self::Command].into_iter().find(|kind| kind.code() == code)
    }
}

/// A process that begins.
#[derive(Clone, Copy, Debug)]
pub struct NewWorker<'a> {
    /// Its name, unique among all processes, past ones included.
    pub name: &'a str,
    /// What it is.
    pub kind: WorkerKind,
    /// The program's version.
    pub version: &'a str,
    /// How long the others look without a heartbeat until it counts as dead. Whole seconds.
    pub silence: Duration,
}

/// What a heartbeat carries, for people to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkerLoad {
    /// Rows that it holds.
    pub in_flight: u32,
    /// Rows that wait in its lanes.
    pub waiting: u32,
}

/// Something that calls of a process wait for and that no limiter knows of, for people to read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallWait {
    /// The identity of the dependency that is called.
    pub identity: String,
    /// Whose calls wait, where the dependency or its limits are each owner's own; none: everybody's.
    pub owner: Option<String>,
    /// The dependency's name.
    pub dependency: String,
    /// What is waited for, for programs.
    pub reason: String,
    /// A sentence without secrets and without anything of a row.
    pub sentence: String,
    /// When the next call is tried.
    pub until: Timestamp,
}

/// A process, as it is recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerRecord {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: WorkerKind,
    /// The program's version.
    pub version: String,
    /// When it registered first.
    pub started_at: Timestamp,
    /// Its last heartbeat.
    pub beat_at: Timestamp,
    /// See [`NewWorker::silence`].
    pub silence: Duration,
    /// Looks since the last heartbeat.
    pub looks: u32,
    /// How long its last heartbeat is ago, by the database's clock.
    pub silent_for: Duration,
    /// What it said last.
    pub load: WorkerLoad,
}

impl WorkerRecord {
    /// Whether it has been silent for longer than it may. Whoever wants to take its rows has to [look](Workers::look) first.
    pub fn is_silent(&self) -> bool {
        self.silent_for > self.silence
    }
}

/// A row that is queued again because its process died, or let it go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Requeued {
    /// The row.
    pub row: RowRef,
    /// How many processes died while they held it.
    pub crashes: u16,
}

/// What came back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reclaimed {
    /// Rows that are queued now, and need a message.
    pub requeued: Vec<Requeued>,
    /// Rows that are pending now: their batch does not run, or no message was wanted.
    pub pending: u32,
    /// Rows that failed, because nobody can tell whether their last call had its effect.
    pub unknown: u32,
    /// Rows that failed, because too many processes died while they held them.
    pub crashed: u32,
    /// Batches whose counters do not bear what their rows need: left alone until they are reconciled.
    pub miscounted: Vec<BatchSeq>,
    /// Batches with a stored value that is invalid: left alone until somebody has repaired it.
    pub unreadable: Vec<BatchSeq>,
}

impl Reclaimed {
    /// Leaves a batch alone because of an error [of its own](StoreError::is_one_batchs).
    pub fn leave_alone(&mut self, batch: BatchSeq, error: &StoreError) {
        set_aside(batch, error, &mut self.miscounted, &mut self.unreadable);
    }

    /// All rows that moved.
    pub fn rows(&self) -> u32 {
        u32::try_from(self.requeued.len()).unwrap_or(u32::MAX) + self.pending + self.unknown + self.crashed
    }

    /// Adds another part of the same sweep.
    pub fn add(&mut self, other: Self) {
        self.requeued.extend(other.requeued);
        self.pending += other.pending;
        self.unknown += other.unknown;
        self.crashed += other.crashed;
        self.miscounted.extend(other.miscounted);
        self.unreadable.extend(other.unreadable);
    }
}

/// How rows come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ComeBack {
    /// Queued, where their batch runs; the caller enqueues the messages. They count as lost after that moment.
    Queued {
        /// When the sweep counts them as lost.
        lost_after: Timestamp,
    },
    /// Pending: the next dispatcher run releases them.
    Pending,
}

/// Processes that hold rows.
#[async_trait]
pub trait Workers: Send + Sync {
    /// Records a process, or records it again under the same name: rows that nobody took from it meanwhile are its own again.
    async fn register_worker(&self, worker: &NewWorker<'_>) -> StoreResult<()>;
    /// A heartbeat. False: there is no such record, the process counts as dead.
    async fn beat(&self, name: &str, load: WorkerLoad) -> StoreResult<bool>;
    /// Replaces what the calls of a process wait for. It is forgotten with the process's record.
    async fn set_call_waits(&self, name: &str, waits: &[CallWait]) -> StoreResult<()>;
    /// What calls of all processes wait for; of several processes the same may be there several times.
    async fn call_waits(&self) -> StoreResult<Vec<CallWait>>;
    /// Looks at all processes, and counts that for each, unless somebody looked a moment ago. Names those that are dead.
    async fn look(&self) -> StoreResult<Vec<String>>;
    /// Deletes a dead process's record and ends its extraction lease. False: it lives, or somebody else was faster.
    async fn bury(&self, name: &str) -> StoreResult<bool>;
    /// Deletes a process's record, whatever it holds: it has ended, and says so itself.
    async fn leave(&self, name: &str) -> StoreResult<()>;
    /// Deletes the records of all services: for a database that only one service process serves, at that process's start.
    async fn bury_services(&self) -> StoreResult<()>;
    /// All processes, by name.
    async fn workers(&self) -> StoreResult<Vec<WorkerRecord>>;
    /// The rows that a process holds, as SQL knows them.
    async fn held_by(&self, name: &str) -> StoreResult<Vec<Held>>;
    /// Takes rows from processes that have no record, a batch a transaction, and counts a death for each. Rows that died too
    /// often fail as `worker_crashed`, rows with a note of [`Work::record_intents`](crate::work::Work::record_intents) as
    /// `outcome_unknown`. Any number of processes may do so at once.
    async fn reclaim(&self, back: ComeBack, now: Timestamp) -> StoreResult<Reclaimed>;
    /// Sends rows back that their own process holds and does not know of (a claim whose answer was lost): as
    /// [`Workers::reclaim`] does, but no death is counted.
    async fn let_go(&self, rows: &[Held], back: ComeBack, now: Timestamp) -> StoreResult<Reclaimed>;
    /// Notes what the database's clock shows; tells by how much it was set back, when it shows less than before. It does until
    /// somebody [moves](Workers::move_deadlines) the stored deadlines.
    async fn follow_clock(&self) -> StoreResult<Option<Duration>>;
    /// Moves every stored deadline by as much as the database's clock was set back, once, whoever notices; tells by how much. All
    /// processes have to go by the new time before: what they write by the old one afterwards stays an hour away.
    async fn move_deadlines(&self) -> StoreResult<Option<Duration>>;
}
