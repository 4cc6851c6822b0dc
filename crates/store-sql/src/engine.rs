//! What an engine has to do, and what the transactions here stand on: connections, transactions and records.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use penstock_domain::ids::BatchSeq;
use penstock_domain::time::Timestamp;
use penstock_store::decode::{self, key_of};
use penstock_store::dispatch::RunLock;
use penstock_store::extraction::NewRow;
use penstock_store::operations::EngineInfo;
use penstock_store::{StoreError, StoreResult};
use uuid::Uuid;

use crate::Statement;

/// What a transaction, or a statement of its own, is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Its statements touch groups of rows.
    Write,
    /// One of its statements may touch, or look at, all rows of a batch.
    Long,
    /// It reads for a client and ends with it; it sees one moment.
    Read,
    /// It reads for an operator, however long that takes; it sees one moment.
    Snapshot,
}

/// A database.
#[async_trait]
pub trait Engine: fmt::Debug + Send + Sync {
    /// Runs one statement: [`Kind::Write`] or [`Kind::Read`].
    async fn fetch(&self, kind: Kind, statement: Statement<'_>) -> StoreResult<Vec<Row>>;
    /// Runs one statement that writes. How many records it touched.
    async fn execute(&self, statement: Statement<'_>) -> StoreResult<u64>;
    /// Begins a transaction.
    async fn begin(&self, name: &'static str, kind: Kind) -> StoreResult<Box<dyn EngineTransaction>>;

    /// The lock that lets one dispatcher run at a time; none when another run holds it.
    async fn lock_run(&self) -> StoreResult<Option<Box<dyn RunLock>>>;
    /// Whether the database can be written to, beyond the small write that tries it.
    async fn has_room(&self) -> StoreResult<()> {
        Ok(())
    }
    /// Sees to it that the bytes of epochs that were deleted are overwritten.
    async fn shred_epochs(&self) -> StoreResult<()>;
    /// Sees to it that no file keeps what an erasure deleted. False when somebody was in the way.
    async fn shred_erased(&self) -> StoreResult<bool> {
        Ok(true)
    }
    /// Migrates up to a version, or as far as this program knows. The versions before and after.
    async fn migrate(&self, version: Option<i64>) -> StoreResult<(i64, i64)>;
    /// Whether the schema is one that this program can use.
    async fn check_schema(&self) -> StoreResult<()>;
    /// What it is.
    async fn info(&self, now: Timestamp) -> StoreResult<EngineInfo>;
}

/// An open transaction of an engine. Dropping it rolls it back.
#[async_trait]
pub trait EngineTransaction: Send {
    /// Runs a statement.
    async fn fetch(&mut self, statement: Statement<'_>) -> StoreResult<Vec<Row>>;
    /// Runs a statement. How many records it touched.
    async fn execute(&mut self, statement: Statement<'_>) -> StoreResult<u64>;
    /// Stores extracted rows, by the fastest way that there is.
    async fn store_rows(&mut self, batch: BatchSeq, rows: &[NewRow]) -> StoreResult<()>;
    /// Commits it.
    async fn commit(self: Box<Self>, name: &'static str) -> StoreResult<()>;
}

/// A database, for statements of their own.
#[derive(Clone, Debug)]
pub struct Db {
    engine: Arc<dyn Engine>,
}

impl Db {
    /// On an engine.
    pub fn new(engine: Arc<dyn Engine>) -> Self {
        Self { engine }
    }

    /// The engine.
    pub(crate) fn engine(&self) -> &dyn Engine {
        &*self.engine
    }

    /// Reads.
    pub(crate) async fn fetch(&self, statement: Statement<'_>) -> StoreResult<Vec<Row>> {
        if statement.is_idle() {
            return Ok(Vec::new());
        }
        self.engine.fetch(Kind::Read, statement).await
    }

    /// Reads what is there at most once.
    pub(crate) async fn fetch_optional(&self, statement: Statement<'_>) -> StoreResult<Option<Row>> {
        Ok(self.fetch(statement).await?.into_iter().next())
    }

    /// Reads what is always there, as a count.
    pub(crate) async fn fetch_one(&self, statement: Statement<'_>) -> StoreResult<Row> {
        let name = statement.name;
        one(name, self.fetch(statement).await?)
    }

    /// Writes, and reads what was written.
    pub(crate) async fn fetch_written(&self, statement: Statement<'_>) -> StoreResult<Vec<Row>> {
        if statement.is_idle() {
            return Ok(Vec::new());
        }
        self.engine.fetch(Kind::Write, statement).await
    }

    /// Writes one record, and reads it.
    pub(crate) async fn write_optional(&self, statement: Statement<'_>) -> StoreResult<Option<Row>> {
        Ok(self.fetch_written(statement).await?.into_iter().next())
    }

    /// Writes. How many records were touched.
    pub(crate) async fn execute(&self, statement: Statement<'_>) -> StoreResult<u64> {
        if statement.is_idle() {
            return Ok(0);
        }
        self.engine.execute(statement).await
    }

    /// Begins a transaction of a kind.
    pub(crate) async fn begin(&self, name: &'static str, kind: Kind) -> StoreResult<Tx> {
        Ok(Tx { inner: self.engine.begin(name, kind).await?, name })
    }

    /// Begins a transaction that writes groups of rows.
    pub(crate) async fn write(&self, name: &'static str) -> StoreResult<Tx> {
        self.begin(name, Kind::Write).await
    }
}

/// An open, named transaction. Dropping it rolls it back.
pub struct Tx {
    inner: Box<dyn EngineTransaction>,
    name: &'static str,
}

impl Tx {
    /// Runs a statement.
    pub(crate) async fn fetch(&mut self, statement: Statement<'_>) -> StoreResult<Vec<Row>> {
        if statement.is_idle() {
            return Ok(Vec::new());
        }
        self.inner.fetch(statement).await
    }

    /// Runs a statement that finds at most one record.
    pub(crate) async fn fetch_optional(&mut self, statement: Statement<'_>) -> StoreResult<Option<Row>> {
        Ok(self.fetch(statement).await?.into_iter().next())
    }

    /// Runs a statement that finds one record.
    pub(crate) async fn fetch_one(&mut self, statement: Statement<'_>) -> StoreResult<Row> {
        let name = statement.name;
        one(name, self.fetch(statement).await?)
    }

    /// Runs a statement. How many records it touched.
    pub(crate) async fn execute(&mut self, statement: Statement<'_>) -> StoreResult<u64> {
        if statement.is_idle() {
            return Ok(0);
        }
        self.inner.execute(statement).await
    }

    /// Stores extracted rows.
    pub(crate) async fn store_rows(&mut self, batch: BatchSeq, rows: &[NewRow]) -> StoreResult<()> {
        self.inner.store_rows(batch, rows).await
    }

    /// Commits it.
    pub(crate) async fn commit(self) -> StoreResult<()> {
        self.inner.commit(self.name).await
    }
}

fn one(name: &'static str, rows: Vec<Row>) -> StoreResult<Row> {
    let missing = || StoreError::Refused { transaction: name, source: "it found no record".into() };
    rows.into_iter().next().ok_or_else(missing)
}

/// A record as an engine reads it. None: the column is not there, or has another type.
pub trait RawRow: Send + Sync {
    /// An integer of any width.
    fn int(&self, column: &str) -> Option<Option<i64>>;
    /// A text.
    fn text(&self, column: &str) -> Option<Option<String>>;
    /// Bytes.
    fn bytes(&self, column: &str) -> Option<Option<Vec<u8>>>;
    /// A UUID.
    fn uuid(&self, column: &str) -> Option<Option<Uuid>>;
    /// A truth value.
    fn flag(&self, column: &str) -> Option<bool>;
    /// A floating-point number.
    fn real(&self, column: &str) -> Option<f64>;
}

/// A record that was read.
pub struct Row(Box<dyn RawRow>);

impl Row {
    /// From an engine's record.
    pub fn new(row: impl RawRow + 'static) -> Self {
        Self(Box::new(row))
    }

    /// Its columns, as those of a table: an error about one of them names it.
    pub(crate) fn of(&self, table: &'static str) -> Columns<'_> {
        Columns { row: &*self.0, table }
    }
}

/// Reads the columns of a table's record by name.
pub(crate) struct Columns<'a> {
    row: &'a dyn RawRow,
    table: &'static str,
}

impl Columns<'_> {
    /// A floating-point number.
    pub(crate) fn real(&self, column: &'static str) -> StoreResult<f64> {
        decode::Columns::some(self, column, self.row.real(column))
    }

    fn read<T>(&self, column: &'static str, value: Option<T>) -> StoreResult<T> {
        value.ok_or_else(|| decode::Columns::inconsistent(self, column))
    }
}

impl decode::Columns for Columns<'_> {
    fn inconsistent(&self, column: &'static str) -> StoreError {
        let key = key_of(|column| {
            let number = self.row.int(column).flatten().map(|number| number.to_string());
            let uuid = || self.row.uuid(column).flatten().map(|id| id.to_string());
            number.or_else(uuid).or_else(|| self.row.text(column).flatten())
        });
        StoreError::Inconsistent { table: self.table, column, key }
    }

    fn opt_i64(&self, column: &'static str) -> StoreResult<Option<i64>> {
        self.read(column, self.row.int(column))
    }

    fn opt_text(&self, column: &'static str) -> StoreResult<Option<String>> {
        self.read(column, self.row.text(column))
    }

    fn opt_bytes(&self, column: &'static str) -> StoreResult<Option<Vec<u8>>> {
        self.read(column, self.row.bytes(column))
    }

    fn opt_uuid(&self, column: &'static str) -> StoreResult<Option<Uuid>> {
        self.read(column, self.row.uuid(column))
    }

    fn flag(&self, column: &'static str) -> StoreResult<bool> {
        self.read(column, self.row.flag(column))
    }
}
