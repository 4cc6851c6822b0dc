//! What Penstock asks of a database. One method is one named transaction. `store-sql` has the same file names as this
//! crate and implements them once; its engines (`store-sqlite`, `store-postgres`) pass the same cases.
//!
//! Rules that both engines follow:
//! - A transaction that moves rows first locks their batches in the order of their sequence numbers, then touches
//!   rows, then writes the [ledger](penstock_domain::ledger::Ledger) that the domain computed, guarded by its
//!   revision. So counters move with rows, and no two transactions wait for each other in a circle.
//! - Every write to a row names the state it leaves and, under a lease, the token.
//! - A callback is an outbox row, written in the transaction that causes it.
//! - Rows that were never released have no state record: they are the numbers from `next_number` to
//!   `release_end`. Extraction therefore writes each row once, a release inserts its states without looking at
//!   the backlog, and a cancel touches one record whatever the batch's size.

pub mod alerts;
pub mod answers;
pub mod batches;
pub mod callbacks;
pub mod calls;
pub mod control;
pub mod crash;
pub mod credentials;
pub mod dispatch;
pub mod duplicates;
pub mod error;
pub mod extraction;
pub mod limits;
pub mod migrations;
pub mod operations;
pub mod owners;
pub mod polls;
pub mod progress;
pub mod reading;
pub mod samples;
pub mod sealing;
pub mod settling;
pub mod waiting;
pub mod work;
pub mod workers;

pub use error::{StoreError, StoreResult, overdrawn};

/// Everything an engine does. Services hold it as `Arc<dyn Store>`.
pub trait Store:
    owners::Owners
    + batches::Batches
    + extraction::Extraction
    + dispatch::Dispatch
    + work::Work
    + calls::Calls
    + workers::Workers
    + control::Control
    + reading::Reading
    + callbacks::Callbacks
    + operations::Operations
    + sealing::Sealing
    + alerts::Alerts
    + waiting::Waiting
    + polls::Polls
    + credentials::Credentials
    + limits::Limits
    + duplicates::Duplicates
    + answers::Answers
    + samples::Samples
    + progress::UploadProgress
{
}

impl<T> Store for T where
    T: owners::Owners
        + batches::Batches
        + extraction::Extraction
        + dispatch::Dispatch
        + work::Work
        + calls::Calls
        + workers::Workers
        + control::Control
        + reading::Reading
        + callbacks::Callbacks
        + operations::Operations
        + sealing::Sealing
        + alerts::Alerts
        + waiting::Waiting
        + polls::Polls
        + credentials::Credentials
        + limits::Limits
        + duplicates::Duplicates
        + answers::Answers
        + samples::Samples
        + progress::UploadProgress
{
}
