//! Between SQLite's values and the domain's.

use penstock_domain::time::Timestamp;
use penstock_store::decode::{self, key_of};
use penstock_store::{StoreError, StoreResult};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

/// An optional time on its way in.
pub fn opt_ms(at: Option<Timestamp>) -> Option<i64> {
    at.map(Timestamp::millis)
}

/// Reads the columns of a table's record by name.
pub struct Columns<'a> {
    row: &'a SqliteRow,
    table: &'static str,
}

impl<'a> Columns<'a> {
    /// The record `row`, which was read from `table`.
    pub fn of(table: &'static str, row: &'a SqliteRow) -> Self {
        Self { row, table }
    }

    /// A column as SQLite's own type: the schema is STRICT, so another one is an error.
    fn read<T>(&self, column: &'static str) -> StoreResult<T>
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>,
    {
        self.row.try_get(column).map_err(|_| decode::Columns::inconsistent(self, column))
    }
}

impl decode::Columns for Columns<'_> {
    fn inconsistent(&self, column: &'static str) -> StoreError {
        let key = key_of(|column| {
            let number = self.row.try_get::<i64, _>(column).map(|number| number.to_string());
            number.or_else(|_| self.row.try_get::<String, _>(column)).ok()
        });
        StoreError::Inconsistent { table: self.table, column, key }
    }

    fn opt_i64(&self, column: &'static str) -> StoreResult<Option<i64>> {
        self.read(column)
    }

    fn opt_text(&self, column: &'static str) -> StoreResult<Option<String>> {
        self.read(column)
    }

    fn opt_bytes(&self, column: &'static str) -> StoreResult<Option<Vec<u8>>> {
        self.read(column)
    }

    fn opt_uuid(&self, column: &'static str) -> StoreResult<Option<Uuid>> {
        let text = self.opt_text(column)?;
        text.map(|text| Uuid::parse_str(&text).map_err(|_| self.inconsistent(column))).transpose()
    }

    fn flag(&self, column: &'static str) -> StoreResult<bool> {
        match self.read::<i64>(column)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.inconsistent(column)),
        }
    }
}
