//! Names of things: what a client sees, and what SQL joins on.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A batch as clients know it: UUID version 7 (RFC 9562), so that newer ones sort after older ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BatchId(pub Uuid);

impl std::fmt::Display for BatchId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::str::FromStr for BatchId {
    type Err = uuid::Error;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Uuid::parse_str(s).map(Self)
    }
}

/// A batch as SQL and the queue know it: eight bytes that keep a million row keys small.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BatchSeq(pub i64);

/// An owner as SQL knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OwnerSeq(pub i64);

/// A row's number in its batch, from 1 in the file's order. At most 2^31 − 1.
pub type RowNumber = u32;

/// One row, wherever it is mentioned: in a message, a claim, a settlement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RowRef {
    /// The row's batch.
    pub batch: BatchSeq,
    /// The row's number in it.
    pub number: RowNumber,
}

/// The secret of one lease. Who does not hold it can write nothing (promise 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeaseToken(pub Uuid);

/// A call that carries many rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CallId(pub Uuid);
