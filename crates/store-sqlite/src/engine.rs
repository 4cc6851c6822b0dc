//! What SQLite does differently, each with its reason.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use penstock_domain::ids::BatchSeq;
use penstock_domain::time::Timestamp;
use penstock_store::dispatch::RunLock;
use penstock_store::extraction::NewRow;
use penstock_store::operations::EngineInfo;
use penstock_store::{StoreError, StoreResult};
use penstock_store_sql::{
    Dialect, Engine, EngineTransaction, Group, Kind, RawRow, Row, Statement, Value, sql,
};
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteConnectOptions, SqlitePool, SqliteRow};
use sqlx::{Arguments as _, AssertSqlSafe, Row as _, Sqlite, SqliteConnection};
use uuid::Uuid;

use crate::error::store_error;
use crate::transaction::{ReadTx, Tx};
use crate::{fragments, lock_file, schema};

/// Rows of one statement: SQLite takes 32,766 values a statement, and planning costs more than it saves beyond this.
const GROUP: usize = 500;

/// With less free disk, in bytes, nothing can be relied on to be written: a chunk of rows and its pages in the log.
const LEAST_ROOM: u64 = 1024 * 1024;

/// Where a group of rows goes.
const ROWS: &str = "{rows}";

/// A database file.
#[derive(Debug)]
pub struct Database {
    /// The only connection that writes.
    pub writer: SqlitePool,
    /// Connections that read.
    pub readers: SqlitePool,
    /// The file.
    pub file: PathBuf,
    /// How to connect to it.
    pub options: SqliteConnectOptions,
}

#[async_trait]
impl Engine for Database {
    fn dialect(&self) -> Dialect {
        // SQLite numbers `$1` by where it stands first, `?1` by its number. Rows are written when it is known how many, below.
        Dialect { fragment: fragments::fragment, locks: false, parameter: "?", rows: |_, _| ROWS.to_owned() }
    }

    async fn fetch(&self, kind: Kind, text: Arc<str>, statement: &Statement<'_>) -> StoreResult<Vec<Row>> {
        let pool = if kind == Kind::Write { &self.writer } else { &self.readers };
        let mut connection = pool.acquire().await.map_err(store_error(statement.name))?;
        fetch(&mut connection, text, statement).await
    }

    async fn execute(&self, text: Arc<str>, statement: &Statement<'_>) -> StoreResult<u64> {
        let mut connection = self.writer.acquire().await.map_err(store_error(statement.name))?;
        execute(&mut connection, text, statement).await
    }

    async fn begin(&self, name: &'static str, kind: Kind) -> StoreResult<Box<dyn EngineTransaction>> {
        let begun = match kind {
            // It waits for the writer before it reads, so that what it read stays true.
            Kind::Write | Kind::Long => Tx::begin(&self.writer, "BEGIN IMMEDIATE").await.map(Open::Own),
            Kind::Snapshot => Tx::begin(&self.readers, "BEGIN").await.map(Open::Own),
            Kind::Read => ReadTx::begin(&self.readers).await.map(Open::Clients),
        };
        Ok(Box::new(begun.map_err(store_error(name))?))
    }

    async fn lock_run(&self) -> StoreResult<Option<Box<dyn RunLock>>> {
        let lock = lock_file(&self.file, "dispatch.lock")?;
        Ok(lock.map(|file| Box::new(DispatchLock(file)) as Box<dyn RunLock>))
    }

    /// Whether the disk has room. A small write may still succeed on a full disk, where the write-ahead log has pages to use
    /// again, and the next larger one fails.
    async fn has_room(&self) -> StoreResult<()> {
        let folder = self.file.parent().filter(|folder| !folder.as_os_str().is_empty());
        let unavailable = |error: std::io::Error| StoreError::Unavailable(Box::new(error));
        let free = fs4::available_space(folder.unwrap_or(Path::new("."))).map_err(unavailable)?;
        if free < LEAST_ROOM {
            let text = format!("the disk is full: {} KiB are free at {}", free / 1024, self.file.display());
            return Err(unavailable(std::io::Error::new(std::io::ErrorKind::StorageFull, text)));
        }
        Ok(())
    }

    async fn shred_epochs(&self) -> StoreResult<()> {
        self.truncate_log().await.map(|_| ())
    }

    async fn shred_erased(&self) -> StoreResult<bool> {
        // What was deleted is still in the log until it is cut; somebody who is in the way makes the sweep do it.
        self.truncate_log().await
    }

    fn needed_schema(&self) -> i64 {
        schema::needed()
    }

    async fn migrate(&self, version: i64) -> StoreResult<()> {
        self.run_migrations(version).await
    }

    async fn info(&self, schema: i64, now: Timestamp) -> StoreResult<EngineInfo> {
        let statement = sqlx::query_as(
            "/* penstock:engine */ SELECT sqlite_version(), \
             (SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size())",
        );
        let (version, bytes): (String, i64) =
            statement.fetch_one(&self.readers).await.map_err(store_error("engine"))?;
        Ok(EngineInfo {
            engine: "sqlite",
            version,
            // It is built in.
            needed_version: "3.38",
            supported: true,
            schema,
            needed_schema: schema::needed(),
            now,
            bytes: bytes.unsigned_abs(),
            missing_rights: Vec::new(),
        })
    }
}

struct DispatchLock(#[allow(dead_code, reason = "closing the file frees the lock")] File);

impl RunLock for DispatchLock {}

/// An open transaction.
enum Open {
    /// It is this program's own.
    Own(Tx),
    /// It reads for a client.
    Clients(ReadTx),
}

impl Open {
    fn connection(&mut self) -> &mut SqliteConnection {
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
        let group = Group::new()
            .column(rows.iter().map(|_| batch))
            .column(rows.iter().map(|row| row.number))
            .column(rows.iter().map(|row| row.line))
            .column(rows.iter().map(|row| &row.payload));
        const INSERT: &str = "INSERT INTO row_data (batch, number, line, payload) {rows}";
        if rows.is_empty() {
            return Ok(());
        }
        let statement = sql("row_data_insert", INSERT).rows(group);
        execute(self.connection(), INSERT.into(), &statement).await.map(|_| ())
    }

    async fn commit(self: Box<Self>, name: &'static str) -> StoreResult<()> {
        match *self {
            Self::Own(tx) => tx.commit().await.map_err(store_error(name)),
            Self::Clients(_) => Ok(()),
        }
    }
}

async fn fetch(
    connection: &mut SqliteConnection,
    text: Arc<str>,
    statement: &Statement<'_>,
) -> StoreResult<Vec<Row>> {
    let named = store_error(statement.name);
    let mut found = Vec::new();
    for part in parts(text, statement) {
        let query = part.map_err(&named)?;
        let rows = query.fetch_all(&mut *connection).await.map_err(&named)?;
        found.extend(rows.into_iter().map(|row| Row::new(Record(row))));
    }
    Ok(found)
}

async fn execute(
    connection: &mut SqliteConnection,
    text: Arc<str>,
    statement: &Statement<'_>,
) -> StoreResult<u64> {
    let named = store_error(statement.name);
    let mut touched = 0;
    for part in parts(text, statement) {
        let query = part.map_err(&named)?;
        touched += query.execute(&mut *connection).await.map_err(&named)?.rows_affected();
    }
    Ok(touched)
}

type Part = Result<Query<'static, Sqlite, SqliteArguments>, sqlx::Error>;

/// A statement in parts of at most [`GROUP`] rows. Rows come first, and have no numbers: SQLite looks a number up among all
/// that the statement has.
fn parts<'s>(text: Arc<str>, statement: &'s Statement<'_>) -> impl Iterator<Item = Part> + use<'s> {
    let rows = statement.group.as_ref().map_or(0, Group::len);
    let size = if statement.one_by_one { 1 } else { GROUP };
    (0..rows.div_ceil(size).max(1)).map(move |part| {
        let mut arguments = SqliteArguments::default();
        let mut query = (AssertSqlSafe(text.clone()), true);
        if let Some(group) = &statement.group {
            let rows = part * size..((part + 1) * size).min(group.len());
            // Prepared groups of any size would push the others out of the cache.
            query.1 = rows.len() == 1 || rows.len() == GROUP;
            query.0 = AssertSqlSafe(with_rows(&text, rows.len(), group.columns().len()).into());
            add_rows(&mut arguments, group, rows).map_err(sqlx::Error::Encode)?;
        }
        for value in &statement.values {
            add_value(&mut arguments, value).map_err(sqlx::Error::Encode)?;
        }
        Ok(sqlx::query_with(query.0, arguments).persistent(query.1))
    })
}

/// A text with its rows, and its other parameters behind them: `WITH j AS (VALUES (?,?),(?,?)) … ?5`.
fn with_rows(text: &str, rows: usize, columns: usize) -> String {
    let (before, after) = text.split_once(ROWS).unwrap_or((text, ""));
    let row = format!(",({})", &",?".repeat(columns)[1..]);
    let mut whole = format!("{before}VALUES {}", &row.repeat(rows)[1..]);
    let mut parts = after.split('?');
    whole.push_str(parts.next().unwrap_or_default());
    for part in parts {
        let digits = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
        let number = part[..digits].parse::<usize>().unwrap_or_default() + rows * columns;
        whole.push_str(&format!("?{number}{}", &part[digits..]));
    }
    whole
}

type Added<T> = Result<T, sqlx::error::BoxDynError>;

fn add_value(arguments: &mut SqliteArguments, value: &Value<'_>) -> Added<()> {
    match value {
        Value::Int(value) => arguments.add(value),
        Value::Text(value) => arguments.add(value.as_deref()),
        Value::Bytes(value) => arguments.add(value),
        Value::Uuid(value) => arguments.add(value.map(|id| id.to_string())),
        Value::Bool(value) => arguments.add(value),
        Value::Ints(values) => arguments.add(serde_json::json!(values).to_string()),
        Value::Texts(values) => arguments.add(serde_json::json!(values).to_string()),
        Value::Uuids(values) => arguments.add(serde_json::json!(values).to_string()),
    }
}

fn add_rows(arguments: &mut SqliteArguments, group: &Group<'_>, rows: std::ops::Range<usize>) -> Added<()> {
    for row in rows {
        for column in group.columns() {
            add_value(arguments, &column[row])?;
        }
    }
    Ok(())
}

/// A record. The schema is STRICT: a value of another type is an error.
struct Record(SqliteRow);

impl RawRow for Record {
    fn int(&self, column: &str) -> Option<Option<i64>> {
        self.0.try_get(column).ok()
    }

    fn text(&self, column: &str) -> Option<Option<String>> {
        self.0.try_get(column).ok()
    }

    fn bytes(&self, column: &str) -> Option<Option<Vec<u8>>> {
        self.0.try_get(column).ok()
    }

    fn uuid(&self, column: &str) -> Option<Option<Uuid>> {
        match self.text(column)? {
            None => Some(None),
            Some(text) => Uuid::parse_str(&text).ok().map(Some),
        }
    }

    fn flag(&self, column: &str) -> Option<bool> {
        match self.int(column)? {
            Some(0) => Some(false),
            Some(1) => Some(true),
            _ => None,
        }
    }

    fn real(&self, column: &str) -> Option<f64> {
        self.0.try_get(column).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::with_rows;

    #[test]
    fn rows_come_before_the_other_parameters() {
        let text = "WITH j(a, b) AS ({rows}) UPDATE t SET c = ?1, d = ?12 FROM j";
        let expected = "WITH j(a, b) AS (VALUES (?,?),(?,?)) UPDATE t SET c = ?5, d = ?16 FROM j";
        assert_eq!(with_rows(text, 2, 2), expected);
    }
}
