//! Between PostgreSQL's values and the domain's.

use penstock_domain::time::Timestamp;
use penstock_store::decode::{self, key_of};
use penstock_store::{StoreError, StoreResult};
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use uuid::Uuid;

/// An optional time on its way in.
pub fn opt_ms(at: Option<Timestamp>) -> Option<i64> {
    at.map(Timestamp::millis)
}

/// Reads the columns of a table's record by name.
pub struct Columns<'a> {
    row: &'a PgRow,
    table: &'static str,
}

impl<'a> Columns<'a> {
    /// The record `row`, which was read from `table`.
    pub fn of(table: &'static str, row: &'a PgRow) -> Self {
        Self { row, table }
    }

    fn read<T>(&self, column: &'static str) -> StoreResult<T>
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
    {
        self.row.try_get(column).map_err(|_| decode::Columns::inconsistent(self, column))
    }
}

/// An integer of any width. None: the column has another type.
fn integer(row: &PgRow, column: &str) -> Option<Option<i64>> {
    let small = || row.try_get::<Option<i16>, _>(column).map(|value| value.map(i64::from));
    let usual = || row.try_get::<Option<i32>, _>(column).map(|value| value.map(i64::from));
    row.try_get(column).or_else(|_| usual()).or_else(|_| small()).ok()
}

impl decode::Columns for Columns<'_> {
    fn inconsistent(&self, column: &'static str) -> StoreError {
        let key = key_of(|column| {
            let number = integer(self.row, column).flatten().map(|number| number.to_string());
            let uuid = || self.row.try_get::<Uuid, _>(column).ok().map(|id| id.to_string());
            number.or_else(uuid).or_else(|| self.row.try_get(column).ok())
        });
        StoreError::Inconsistent { table: self.table, column, key }
    }

    fn opt_i64(&self, column: &'static str) -> StoreResult<Option<i64>> {
        integer(self.row, column).ok_or_else(|| self.inconsistent(column))
    }

    fn opt_text(&self, column: &'static str) -> StoreResult<Option<String>> {
        self.read(column)
    }

    fn opt_bytes(&self, column: &'static str) -> StoreResult<Option<Vec<u8>>> {
        self.read(column)
    }

    fn opt_uuid(&self, column: &'static str) -> StoreResult<Option<Uuid>> {
        self.read(column)
    }

    fn flag(&self, column: &'static str) -> StoreResult<bool> {
        self.read(column)
    }
}

/// A number on its way into an INTEGER.
pub fn int(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// A small number on its way into a SMALLINT.
pub fn small(number: u16) -> i16 {
    i16::try_from(number).unwrap_or(i16::MAX)
}

/// Numbers on their way into INTEGERs.
pub fn ints(numbers: &[u32]) -> Vec<i32> {
    numbers.iter().copied().map(int).collect()
}
