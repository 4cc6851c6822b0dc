//! What PostgreSQL does differently, each with its reason.

use std::sync::Arc;

use async_trait::async_trait;
use futures::FutureExt as _;
use penstock_domain::ids::BatchSeq;
use penstock_domain::time::Timestamp;
use penstock_store::StoreResult;
use penstock_store::dispatch::RunLock;
use penstock_store::extraction::NewRow;
use penstock_store::operations::EngineInfo;
use penstock_store_sql::{Engine, EngineTransaction, Group, Kind, RawRow, Row, Statement, Templates, Value};
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::{Arguments as _, AssertSqlSafe, Executor, Postgres, Row as _};
use uuid::Uuid;

use crate::connection::{Connection, Limit, Pool, ReadTx, Tx};
use crate::error::store_error;
use crate::{copy, fragments, run_lock, schema};

/// A server's databases, through a pool.
#[derive(Debug)]
pub struct Server {
    /// The connections.
    pub pool: Pool,
    /// The statements.
    pub templates: Arc<Templates>,
}

impl Server {
    /// On a pool.
    pub fn new(pool: Pool) -> Self {
        Self { pool, templates: Arc::new(Templates::new(fragments::fragment, "$")) }
    }
}

#[async_trait]
impl Engine for Server {
    async fn fetch(&self, _: Kind, statement: Statement<'_>) -> StoreResult<Vec<Row>> {
        fetch(&self.pool, &self.templates, statement).await
    }

    async fn execute(&self, statement: Statement<'_>) -> StoreResult<u64> {
        execute(&self.pool, &self.templates, statement).await
    }

    async fn begin(&self, name: &'static str, kind: Kind) -> StoreResult<Box<dyn EngineTransaction>> {
        const SNAPSHOT: &str =
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = '120s'";
        let begun = match kind {
            Kind::Write => self.pool.begin(Limit::Ordinary).await.map(Open::Own),
            Kind::Long => self.pool.begin(Limit::Long).await.map(Open::Own),
            Kind::Snapshot => self.pool.begin_with(SNAPSHOT, Limit::Long).await.map(Open::Own),
            Kind::Read => self.pool.begin_reading().await.map(Open::Clients),
        };
        let open = begun.map_err(store_error(name))?;
        Ok(Box::new(Transaction { open, templates: self.templates.clone() }))
    }

    async fn lock_run(&self) -> StoreResult<Option<Box<dyn RunLock>>> {
        run_lock::acquire(&self.pool).await.map_err(store_error("lock_run"))
    }

    async fn shred_epochs(&self) -> StoreResult<()> {
        // A plain VACUUM frees the record's place and leaves its bytes there; the table has a few records.
        if let Err(error) = sqlx::query("VACUUM (FULL) epochs").execute(&self.pool).await {
            tracing::warn!(%error, "the table of dropped epochs was not written anew; the next drop tries again");
        }
        Ok(())
    }

    async fn migrate(&self, version: Option<i64>) -> StoreResult<(i64, i64)> {
        self.bring_up_to(version.unwrap_or_else(schema::needed)).await
    }

    async fn check_schema(&self) -> StoreResult<()> {
        self.schema_fits().await
    }

    async fn info(&self, now: Timestamp) -> StoreResult<EngineInfo> {
        let statement = sqlx::query_as(
            "/* penstock:engine */ SELECT current_setting('server_version'), \
             current_setting('server_version_num')::int4 >= 140000, pg_database_size(current_database())",
        );
        let (version, supported, bytes): (String, bool, i64) =
            statement.fetch_one(&self.pool).await.map_err(store_error("engine"))?;
        Ok(EngineInfo {
            engine: "postgresql",
            needed_version: "14",
            supported,
            version,
            schema: self.schema_version().await?,
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

struct Transaction {
    open: Open,
    templates: Arc<Templates>,
}

impl Transaction {
    fn connection(&mut self) -> &mut Connection {
        match &mut self.open {
            Open::Own(tx) => tx,
            Open::Clients(tx) => tx,
        }
    }
}

#[async_trait]
impl EngineTransaction for Transaction {
    async fn fetch(&mut self, statement: Statement<'_>) -> StoreResult<Vec<Row>> {
        let templates = self.templates.clone();
        fetch(self.connection(), &templates, statement).await
    }

    async fn execute(&mut self, statement: Statement<'_>) -> StoreResult<u64> {
        let templates = self.templates.clone();
        execute(self.connection(), &templates, statement).await
    }

    async fn store_rows(&mut self, batch: BatchSeq, rows: &[NewRow]) -> StoreResult<()> {
        let copied = self.connection().within_limit(|connection| copy::rows(connection, batch, rows).boxed());
        copied.await.map_err(store_error("row_data_copy"))
    }

    async fn commit(self: Box<Self>, name: &'static str) -> StoreResult<()> {
        match self.open {
            Open::Own(tx) => tx.commit().await.map_err(store_error(name)),
            Open::Clients(_) => Ok(()),
        }
    }
}

async fn fetch(
    executor: impl Executor<'_, Database = Postgres>,
    templates: &Templates,
    statement: Statement<'_>,
) -> StoreResult<Vec<Row>> {
    let named = store_error(statement.name);
    let text = AssertSqlSafe(templates.render(&statement, rows));
    let arguments = arguments(&statement).map_err(&named)?;
    let rows = sqlx::query_with(text, arguments).fetch_all(executor).await.map_err(named)?;
    Ok(rows.into_iter().map(|row| Row::new(Record(row))).collect())
}

async fn execute(
    executor: impl Executor<'_, Database = Postgres>,
    templates: &Templates,
    statement: Statement<'_>,
) -> StoreResult<u64> {
    let named = store_error(statement.name);
    let text = AssertSqlSafe(templates.render(&statement, rows));
    let arguments = arguments(&statement).map_err(&named)?;
    let done = sqlx::query_with(text, arguments).execute(executor).await.map_err(named)?;
    Ok(done.rows_affected())
}

/// A group as arrays, one a column: one statement whatever the number of rows, and prepared once.
fn rows(statement: &Statement<'_>) -> String {
    let columns = statement.group.as_ref().map_or(0, |group| group.columns().len());
    let first = statement.values.len() + 1;
    let arrays: Vec<String> = (first..first + columns).map(|number| format!("${number}")).collect();
    format!("(SELECT * FROM unnest({}))", arrays.join(", "))
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

impl RawRow for Record {
    fn int(&self, column: &str) -> Option<Option<i64>> {
        let small = || self.0.try_get::<Option<i16>, _>(column).map(|value| value.map(i64::from));
        let usual = || self.0.try_get::<Option<i32>, _>(column).map(|value| value.map(i64::from));
        self.0.try_get(column).or_else(|_| usual()).or_else(|_| small()).ok()
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
