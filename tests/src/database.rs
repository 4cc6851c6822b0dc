//! A look into a test's database, beside the programs.

use std::process::Command;

use sqlx::{AnyConnection, Connection as _, Row as _};

use crate::Place;

/// A connection of the test's own.
pub struct Database {
    connection: AnyConnection,
    postgres: bool,
}

impl Database {
    /// Opens it.
    pub async fn of(place: &Place) -> Self {
        sqlx::any::install_default_drivers();
        let url = match place.variable("DATABASE_URL") {
            Some(url) => url.to_owned(),
            None => format!("sqlite://{}", place.data().join("penstock.db").display()),
        };
        let connection = AnyConnection::connect(&url).await.expect("a database");
        Self { connection, postgres: url.starts_with("postgres") }
    }

    /// Fills a [bare](Place::bare) place's database with a dump of its engine's, one of `tests/fixtures`.
    pub async fn restore(place: &Place, dump: &str) {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures");
        let Some(url) = place.variable("DATABASE_URL") else {
            std::fs::create_dir_all(place.data()).expect("a folder");
            // A dump's tables come in the order of their names, whatever they point to.
            let file_options =
                sqlx::sqlite::SqliteConnectOptions::new().filename(place.data().join("penstock.db"));
            let options = file_options.create_if_missing(true).foreign_keys(false);
            let text = std::fs::read_to_string(format!("{file}/{dump}.sqlite.sql")).expect("a dump");
            let mut connection = sqlx::SqliteConnection::connect_with(&options).await.expect("a database");
            sqlx::raw_sql(sqlx::AssertSqlSafe(text)).execute(&mut connection).await.expect("it is restored");
            connection.close().await.expect("it is written");
            return;
        };
        let dump = format!("{file}/{dump}.postgres.sql");
        let done = Command::new("psql").args([url, "-qX", "-v", "ON_ERROR_STOP=1", "-f", &dump]).output();
        let done = done.expect("psql");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }

    /// Runs a statement; the rows it touched.
    pub async fn run(&mut self, statement: &'static str) -> u64 {
        sqlx::query(statement).execute(&mut self.connection).await.expect("it runs").rows_affected()
    }

    /// Runs a statement that was put together.
    pub async fn run_owned(&mut self, statement: String) -> u64 {
        let statement = sqlx::AssertSqlSafe(statement);
        sqlx::query(statement).execute(&mut self.connection).await.expect("it runs").rows_affected()
    }

    /// A number.
    pub async fn number(&mut self, query: &'static str) -> i64 {
        sqlx::query_scalar(query).fetch_one(&mut self.connection).await.expect("a number")
    }

    /// The texts of a column.
    pub async fn texts(&mut self, query: &'static str) -> Vec<String> {
        sqlx::query_scalar(query).fetch_all(&mut self.connection).await.expect("texts")
    }

    /// Every row of every table as text, in an order of its own: equal when nothing was written.
    pub async fn contents(&mut self) -> Vec<String> {
        let tables = if self.postgres {
            "SELECT tablename::text FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"
        } else {
            "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1"
        };
        let tables = sqlx::query(tables).fetch_all(&mut self.connection).await.expect("tables");
        let mut all = Vec::new();
        for table in tables {
            let table: String = table.get(0);
            let line = if self.postgres { "t::text".to_owned() } else { self.columns(&table).await };
            let query = format!("SELECT {line} FROM {table} t ORDER BY 1");
            let rows =
                sqlx::query(sqlx::AssertSqlSafe(query)).fetch_all(&mut self.connection).await.expect("rows");
            all.extend(rows.iter().map(|row| format!("{table}: {}", row.get::<String, _>(0))));
        }
        assert!(all.iter().any(|line| line.starts_with("api_keys: ")), "it looked at nothing: {all:?}");
        all
    }

    /// An SQLite expression that writes a row of a table as text.
    async fn columns(&mut self, table: &str) -> String {
        let query = format!("SELECT name FROM pragma_table_info('{table}')");
        let columns =
            sqlx::query(sqlx::AssertSqlSafe(query)).fetch_all(&mut self.connection).await.expect("columns");
        let quoted: Vec<String> =
            columns.iter().map(|column| format!("quote(\"{}\")", column.get::<String, _>(0))).collect();
        quoted.join(" || ',' || ")
    }
}
