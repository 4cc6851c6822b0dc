//! What can go wrong with a database.

use std::borrow::Cow;

use penstock_domain::ids::BatchSeq;
use penstock_domain::ledger::{Overdrawn, Refusal};

/// The result of every method of a store.
pub type StoreResult<T> = Result<T, StoreError>;

/// Why a transaction did not happen. None of them leaves anything half done.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database cannot be reached, or broke off; the same call may succeed later.
    #[error("the database is not available: {0}")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The database refused the data: a value or a constraint (SQLSTATE classes 22 and 23). The same data is refused again;
    /// without it the others of its group are not.
    #[error("the database refused the data of {transaction}: {source}")]
    InvalidData {
        /// The named transaction.
        transaction: &'static str,
        /// The driver's error.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The database refused a statement for another reason: a missing right, a missing table. Nothing is wrong with the data;
    /// the same call succeeds once somebody has fixed the database.
    #[error("the database refused {transaction}: {source}")]
    Refused {
        /// The named transaction.
        transaction: &'static str,
        /// The driver's error.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A stored value that the schema cannot have: somebody changed it by hand, or it was damaged.
    #[error("invalid value in {table}.{column} ({key})")]
    Inconsistent {
        /// The table.
        table: &'static str,
        /// The column.
        column: &'static str,
        /// The record.
        key: String,
    },
    /// A ledger and its rows contradict each other; nothing was written.
    #[error("the ledger of a batch (its key in SQL is {batch}) does not fit its rows: {overdrawn}")]
    Overdrawn {
        /// The batch's key in SQL.
        batch: i64,
        /// What does not fit.
        overdrawn: Overdrawn,
    },
    /// No such thing.
    #[error("{what} does not exist")]
    NotFound {
        /// What was looked for.
        what: &'static str,
    },
    /// The lease is somebody else's, or ran out: whoever held it can write nothing (promise 2).
    #[error("the lease is no longer held")]
    LeaseLost,
    /// The epoch that wraps a new batch's key was dropped meanwhile: wrap the key in the newest one.
    #[error("the epoch of the batch's key was dropped meanwhile")]
    EpochDropped,
    /// The command does not fit the batch's state.
    #[error(transparent)]
    Refusal(#[from] Refusal),
    /// The schema is another version's.
    #[error("the database's schema is version {found}, this program needs {needed}: {hint}")]
    Schema {
        /// What the database has; 0 when it has none.
        found: i64,
        /// What this program was built for.
        needed: i64,
        /// What to do about it.
        hint: Cow<'static, str>,
    },
}

impl StoreError {
    /// Whether the same call may succeed later without anybody repairing anything.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }

    /// Whether one batch's records are the reason: it is left alone until somebody has repaired it, and the others go on.
    pub fn is_one_batchs(&self) -> bool {
        matches!(self, Self::Overdrawn { .. } | Self::Inconsistent { .. })
    }

    /// Whether the database itself is the reason, and not what was asked of it: who holds something that has to be written
    /// keeps it, and tries again until the database is fixed.
    pub fn is_the_databases(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Refused { .. })
    }
}

/// Notes a batch that is left alone because of an error of its own. Which value is invalid is logged here: no list has it.
pub(crate) fn set_aside(
    batch: BatchSeq,
    error: &StoreError,
    miscounted: &mut Vec<BatchSeq>,
    unreadable: &mut Vec<BatchSeq>,
) {
    if matches!(error, StoreError::Overdrawn { .. }) {
        miscounted.push(batch);
    } else {
        tracing::error!(%error, batch = batch.0, "a batch (its key in SQL) is left alone: a stored value is invalid");
        unreadable.push(batch);
    }
}

/// Names the batch whose ledger does not fit its rows.
pub fn overdrawn(batch: BatchSeq) -> impl Fn(Overdrawn) -> StoreError {
    move |overdrawn| StoreError::Overdrawn { batch: batch.0, overdrawn }
}
