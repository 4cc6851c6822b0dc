//! Every transaction of the store, written once for all SQL databases. An engine (`store-postgres`, `store-sqlite`)
//! implements [`Engine`] and says what it does differently, and why; all else is here, in files named as in
//! `penstock-store`.
//!
//! # How a statement is written
//!
//! ```ignore
//! // One statement of its own; a read goes to a reading connection, a write to a writing one.
//! let row = self.db.fetch_optional(sql("owner_get", "SELECT seq FROM owners WHERE name = $1").bind(name)).await?;
//!
//! // A transaction: its name stands in errors; dropping it rolls it back.
//! let mut tx = self.db.write("settle").await?;
//! let held = sql("row_set_asked_if_held",
//!     "WITH j(row_batch, row_number, token, step) AS ({rows}) UPDATE row_state AS s SET asked = j.step FROM j \
//!      WHERE s.batch = j.row_batch AND s.number = j.row_number AND s.lease_token = j.token \
//!      AND s.status + 0 = {row processing} RETURNING batch, number")
//!     .rows(Group::new().column(batches).column(numbers).column(tokens).column(steps));
//! let held = tx.fetch(held).await?;
//! tx.commit().await
//! ```
//!
//! - The name is `entity_verb_guard`. It stands in a comment before the statement, for whoever looks at the database.
//! - Scalars are bound in order and stand as `$1`, `$2`… . Whole numbers are bound with 64 bits whatever their column
//!   has; both engines convert them.
//! - `{…}` is a [fragment](render): `{rows}` a group of rows, bound column by column ([`Group`]); `{in $2}` a list;
//!   `{lock b}` locks the records of `b`; `{row queued}`, `{batch queued}` and `{callback pending}` are the domain's
//!   numbers of states; the others are an engine's own.
//! - On SQLite a large group is run in parts, in one transaction: a statement has to be right for each part of its group.
//! - A statement whose group has no rows is not run: it would do nothing.
//! - `ON CONFLICT` after a `SELECT` needs a `WHERE true` before it: SQLite's grammar is ambiguous there.
//! - `RETURNING` names columns without their table (SQLite), so the columns of a group that is joined have other names
//!   than the table's (PostgreSQL would call them ambiguous).
//! - `IS NOT DISTINCT FROM` compares with NULL on both.
//! - `sum` of counters is cast to BIGINT: PostgreSQL's sum of these is a numeric.

mod alerts;
mod answers;
mod batches;
mod callbacks;
mod calls;
mod claims;
mod codes;
mod control;
mod credentials;
mod dispatch;
mod duplicates;
mod engine;
mod extraction;
mod holds;
mod ledgers;
mod limits;
mod operations;
mod owners;
mod polls;
mod progress;
mod reading;
mod render;
mod row;
mod samples;
mod schema;
mod sealing;
mod statement;
mod sweep;
mod waiting;
mod work;
mod workers;

pub use engine::{Db, Engine, EngineTransaction, Kind, Tx};
pub use render::Dialect;
pub use row::{Columns, RawRow, Row};
pub use statement::{Group, Statement, Value, list, sql};

/// A store on an engine.
#[derive(Clone, Debug)]
pub struct SqlStore {
    db: Db,
}

impl SqlStore {
    /// A store on `db`.
    pub fn new(db: Db) -> Self {
        Self { db }
    }
}
