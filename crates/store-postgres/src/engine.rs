//! What PostgreSQL does differently, each with its reason.

use std::sync::Arc;

use async_trait::async_trait;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use penstock_domain::ids::BatchSeq;
use penstock_domain::time::Timestamp;
use penstock_store::StoreResult;
use penstock_store::dispatch::RunLock;
use penstock_store::extraction::NewRow;
use penstock_store::operations::EngineInfo;
use penstock_store_sql::{Dialect, Engine, EngineTransaction, Group, Kind, RawRow, Row, Statement, Value};
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::{
    Arguments as _, AssertSqlSafe, Column as _, Decode, Executor as _, PgConnection, Postgres, Row as _,
    Type, TypeInfo as _,
};
use uuid::Uuid;

use crate::connection::{Connection, Isolation, Limit, Pool, ReadTx, Tx};
use crate::error::store_error;
use crate::{copy, fragments, run_lock, schema};

/// A server's databases, through a pool.
#[derive(Debug)]
pub struct Server {
    /// The connections.
    pub pool: Pool,
}

impl Server {
    /// Runs one statement, which is not kept prepared.
    pub async fn run<T>(
        &self,
        name: &'static str,
        work: impl for<'c> FnOnce(&'c mut PgConnection) -> BoxFuture<'c, Result<T, sqlx::Error>> + Send,
    ) -> StoreResult<T> {
        let mut tx = self.pool.single().await.map_err(store_error(name))?;
        let done = tx.within_limit(work).await.map_err(store_error(name))?;
        tx.commit().await.map_err(store_error(name))?;
        Ok(done)
    }
}

#[async_trait]
impl Engine for Server {
    fn dialect(&self) -> Dialect {
        Dialect { fragment: fragments::fragment, locks: true, parameter: "$", rows }
    }

    async fn fetch(&self, _: Kind, text: Arc<str>, statement: &Statement<'_>) -> StoreResult<Vec<Row>> {
        let mut tx = self.pool.single().await.map_err(store_error(statement.name))?;
        let rows = fetch(&mut tx, text, statement).await?;
        tx.commit().await.map_err(store_error(statement.name))?;
        Ok(rows)
    }

    async fn execute(&self, text: Arc<str>, statement: &Statement<'_>) -> StoreResult<u64> {
        let mut tx = self.pool.single().await.map_err(store_error(statement.name))?;
        let touched = execute(&mut tx, text, statement).await?;
        tx.commit().await.map_err(store_error(statement.name))?;
        Ok(touched)
    }

    async fn begin(&self, name: &'static str, kind: Kind) -> StoreResult<Box<dyn EngineTransaction>> {
        let begun = match kind {
            Kind::Write => self.pool.begin(Limit::Ordinary).await.map(Open::Own),
            Kind::Long => self.pool.begin(Limit::Long).await.map(Open::Own),
            Kind::Snapshot => self.pool.begin_as(Isolation::Snapshot, Limit::Long).await.map(Open::Own),
            Kind::Read => self.pool.begin_reading().await.map(Open::Clients),
        };
        Ok(Box::new(begun.map_err(store_error(name))?))
    }

    async fn lock_run(&self) -> StoreResult<Option<Box<dyn RunLock>>> {
        run_lock::acquire(&self.pool).await.map_err(store_error("lock_run"))
    }

    async fn shred_epochs(&self) -> StoreResult<()> {
        // A plain VACUUM frees the record's place and leaves its bytes there; the table has a few records.
        let vacuum = async {
            let mut connection = self.pool.outside().await?;
            connection.within_limit(|connection| connection.execute("VACUUM (FULL) epochs").boxed()).await
        };
        if let Err(error) = vacuum.await {
            tracing::warn!(%error, "the table of dropped epochs was not written anew; the next drop tries again");
        }
        Ok(())
    }

    fn needed_schema(&self) -> i64 {
        schema::needed()
    }

    async fn tables_elsewhere(&self) -> StoreResult<Option<String>> {
        self.find_tables_elsewhere().await
    }

    async fn migrate(&self, version: i64) -> StoreResult<()> {
        self.run_migrations(version).await
    }

    async fn info(&self, schema: i64, now: Timestamp) -> StoreResult<EngineInfo> {
        let statement = sqlx::query_as(
            "/* penstock:engine */ SELECT current_setting('server_version'), \
             current_setting('server_version_num')::int4 >= 140000, pg_database_size(current_database())",
        );
        let (version, supported, bytes): (String, bool, i64) = self
            .run("engine", |connection| statement.persistent(false).fetch_one(connection).boxed())
            .await?;
        Ok(EngineInfo {
            engine: "postgresql",
            needed_version: "14",
            supported,
            version,
            schema,
            needed_schema: schema::needed(),
            now,
            bytes: bytes.unsigned_abs(),
            missing_rights: self.missing_rights().await?,
        })
    }
}

/// An open transaction.
enum Open {
    /// It is this program's own.
    Own(Tx),
    /// It reads for a client.
    Clients(ReadTx),
}

impl Open {
    fn connection(&mut self) -> &mut Connection {
        match self {
            Self::Own(tx) => tx,
            Self::Clients(tx) => tx,
        }
    }
}

#[async_trait]
impl EngineTransaction for Open {
    async fn fetch(&mut self, text: Arc<str>, statement: &Statement<'_>) -> StoreResult<Vec<Row>> {
        fetch(self.connection(), text, statement).await
    }

    async fn execute(&mut self, text: Arc<str>, statement: &Statement<'_>) -> StoreResult<u64> {
        execute(self.connection(), text, statement).await
    }

    async fn store_rows(&mut self, batch: BatchSeq, rows: &[NewRow]) -> StoreResult<()> {
        let copied = self.connection().within_limit(|connection| copy::rows(connection, batch, rows).boxed());
        copied.await.map_err(store_error("row_data_copy"))
    }

    async fn commit(self: Box<Self>, name: &'static str) -> StoreResult<()> {
        match *self {
            Self::Own(tx) => tx.commit().await.map_err(store_error(name)),
            Self::Clients(_) => Ok(()),
        }
    }
}

async fn fetch(
    connection: &mut Connection,
    text: Arc<str>,
    statement: &Statement<'_>,
) -> StoreResult<Vec<Row>> {
    let named = store_error(statement.name);
    let query = sqlx::query_with(AssertSqlSafe(text), arguments(statement).map_err(&named)?);
    let query = query.persistent(connection.keeps_statements());
    let rows = connection.within_limit(|connection| query.fetch_all(connection).boxed()).await;
    Ok(rows.map_err(named)?.into_iter().map(|row| Row::new(Record(row))).collect())
}

async fn execute(connection: &mut Connection, text: Arc<str>, statement: &Statement<'_>) -> StoreResult<u64> {
    let named = store_error(statement.name);
    let query = sqlx::query_with(AssertSqlSafe(text), arguments(statement).map_err(&named)?);
    let query = query.persistent(connection.keeps_statements());
    let done = connection.within_limit(|connection| query.execute(connection).boxed()).await;
    Ok(done.map_err(named)?.rows_affected())
}

/// A group as arrays, one a column: one statement whatever the number of rows, and prepared once.
fn rows(first: usize, columns: usize) -> String {
    let arrays: Vec<String> = (first..first + columns).map(|number| format!("${number}")).collect();
    format!("SELECT * FROM unnest({})", arrays.join(", "))
}

fn arguments(statement: &Statement<'_>) -> Result<PgArguments, sqlx::Error> {
    let mut arguments = PgArguments::default();
    let mut add = || -> Result<(), sqlx::error::BoxDynError> {
        for value in &statement.values {
            match value {
                Value::Int(value) => arguments.add(value),
                Value::Text(value) => arguments.add(value.as_deref()),
                Value::Bytes(value) => arguments.add(value),
                Value::Uuid(value) => arguments.add(value),
                Value::Bool(value) => arguments.add(value),
                Value::Ints(values) => arguments.add(values),
                Value::Texts(values) => arguments.add(values),
                Value::Uuids(values) => arguments.add(values),
            }?;
        }
        for column in statement.group.as_ref().map_or(&[][..], Group::columns) {
            add_column(&mut arguments, column)?;
        }
        Ok(())
    };
    add().map_err(sqlx::Error::Encode)?;
    Ok(arguments)
}

/// A column's values as an array of their type.
macro_rules! array {
    ($column:expr, $pattern:pat => $value:expr) => {
        $column.iter().map(|value| if let $pattern = value { $value } else { None }).collect::<Vec<_>>()
    };
}

fn add_column(arguments: &mut PgArguments, column: &[Value<'_>]) -> Result<(), sqlx::error::BoxDynError> {
    match column.first() {
        Some(Value::Text(_)) => arguments.add(array!(column, Value::Text(text) => text.as_deref())),
        Some(Value::Bytes(_)) => arguments.add(array!(column, Value::Bytes(bytes) => *bytes)),
        Some(Value::Uuid(_)) => arguments.add(array!(column, Value::Uuid(id) => *id)),
        Some(Value::Bool(_)) => arguments.add(array!(column, Value::Bool(flag) => Some(*flag))),
        _ => arguments.add(array!(column, Value::Int(number) => *number)),
    }
}

/// A record.
struct Record(PgRow);

impl Record {
    /// A number of fewer than eight bytes.
    fn wider<'r, T>(&'r self, ordinal: usize) -> Option<Option<i64>>
    where
        T: Into<i64> + Decode<'r, Postgres> + Type<Postgres>,
    {
        self.0.try_get::<Option<T>, _>(ordinal).ok().map(|value| value.map(Into::into))
    }
}

impl RawRow for Record {
    fn int(&self, column: &str) -> Option<Option<i64>> {
        let column = self.0.try_column(column).ok()?;
        // Asking for a width that it does not have would write an error each time.
        match column.type_info().name() {
            "INT8" => self.0.try_get(column.ordinal()).ok(),
            "INT4" => self.wider::<i32>(column.ordinal()),
            "INT2" => self.wider::<i16>(column.ordinal()),
            _ => None,
        }
    }

    fn text(&self, column: &str) -> Option<Option<String>> {
        self.0.try_get(column).ok()
    }

    fn bytes(&self, column: &str) -> Option<Option<Vec<u8>>> {
        self.0.try_get(column).ok()
    }

    fn uuid(&self, column: &str) -> Option<Option<Uuid>> {
        self.0.try_get(column).ok()
    }

    fn flag(&self, column: &str) -> Option<bool> {
        self.0.try_get(column).ok()
    }

    fn real(&self, column: &str) -> Option<f64> {
        self.0.try_get(column).ok()
    }
}
