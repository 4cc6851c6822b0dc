//! What an engine has to do, and what the transactions here stand on: connections and transactions.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use penstock_domain::ids::BatchSeq;
use penstock_domain::time::Timestamp;
use penstock_store::dispatch::RunLock;
use penstock_store::extraction::NewRow;
use penstock_store::operations::EngineInfo;
use penstock_store::{StoreError, StoreResult};

use crate::render::{Dialect, Templates};
use crate::{Row, Statement};

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

/// A database. The texts of statements are given [rendered](Dialect).
#[async_trait]
pub trait Engine: fmt::Debug + Send + Sync {
    /// What it writes its own way.
    fn dialect(&self) -> Dialect;
    /// Runs one statement: [`Kind::Write`] or [`Kind::Read`].
    async fn fetch(&self, kind: Kind, text: Arc<str>, statement: &Statement<'_>) -> StoreResult<Vec<Row>>;
    /// Runs one statement that writes. How many records it touched.
    async fn execute(&self, text: Arc<str>, statement: &Statement<'_>) -> StoreResult<u64>;
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
    /// The schema's version that this program needs.
    fn needed_schema(&self) -> i64;
    /// Where this program's tables are when they are not where it looks for them, and what to do; none: they are nowhere.
    async fn tables_elsewhere(&self) -> StoreResult<Option<String>> {
        Ok(None)
    }
    /// Migrates up to a version, under a lock.
    async fn migrate(&self, version: i64) -> StoreResult<()>;
    /// What it is, with a schema's version and its clock.
    async fn info(&self, schema: i64, now: Timestamp) -> StoreResult<EngineInfo>;
}

/// An open transaction of an engine. Dropping it rolls it back.
#[async_trait]
pub trait EngineTransaction: Send {
    /// Runs a statement.
    async fn fetch(&mut self, text: Arc<str>, statement: &Statement<'_>) -> StoreResult<Vec<Row>>;
    /// Runs a statement. How many records it touched.
    async fn execute(&mut self, text: Arc<str>, statement: &Statement<'_>) -> StoreResult<u64>;
    /// Stores extracted rows, by the fastest way that there is.
    async fn store_rows(&mut self, batch: BatchSeq, rows: &[NewRow]) -> StoreResult<()>;
    /// Commits it.
    async fn commit(self: Box<Self>, name: &'static str) -> StoreResult<()>;
}

/// A database, for statements of their own.
#[derive(Clone, Debug)]
pub struct Db {
    engine: Arc<dyn Engine>,
    templates: Arc<Templates>,
}

impl Db {
    /// On an engine.
    pub fn new(engine: Arc<dyn Engine>) -> Self {
        let templates = Arc::new(Templates::new(engine.dialect()));
        Self { engine, templates }
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
        self.engine.fetch(Kind::Read, self.templates.render(&statement), &statement).await
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
        self.engine.fetch(Kind::Write, self.templates.render(&statement), &statement).await
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
        self.engine.execute(self.templates.render(&statement), &statement).await
    }

    /// Begins a transaction of a kind.
    pub(crate) async fn begin(&self, name: &'static str, kind: Kind) -> StoreResult<Tx> {
        Ok(Tx { inner: self.engine.begin(name, kind).await?, templates: self.templates.clone(), name })
    }

    /// Begins a transaction that writes groups of rows.
    pub(crate) async fn write(&self, name: &'static str) -> StoreResult<Tx> {
        self.begin(name, Kind::Write).await
    }
}

/// An open, named transaction. Dropping it rolls it back.
pub struct Tx {
    inner: Box<dyn EngineTransaction>,
    templates: Arc<Templates>,
    name: &'static str,
}

impl Tx {
    /// Runs a statement.
    pub(crate) async fn fetch(&mut self, statement: Statement<'_>) -> StoreResult<Vec<Row>> {
        if statement.is_idle() {
            return Ok(Vec::new());
        }
        self.inner.fetch(self.templates.render(&statement), &statement).await
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
        self.inner.execute(self.templates.render(&statement), &statement).await
    }

    /// Runs a statement that does nothing but lock records, where that is needed.
    pub(crate) async fn lock(&mut self, statement: Statement<'_>) -> StoreResult<()> {
        if self.templates.locks() { self.fetch(statement).await.map(|_| ()) } else { Ok(()) }
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
