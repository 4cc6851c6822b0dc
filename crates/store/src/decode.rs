//! Decoding of stored values. A value that the schema cannot have is an error that names the table, the column and the
//! record; it never becomes a default.

use penstock_domain::time::Timestamp;
use uuid::Uuid;

use crate::{StoreError, StoreResult};

/// The last millisecond of the year 9999: RFC 3339 cannot write a later time.
const LATEST_MS: i64 = 253_402_300_799_999;

/// Columns that identify a record, in the order in which an error names them.
pub const KEY_COLUMNS: [&str; 7] = ["batch", "number", "step", "seq", "id", "name", "key_id"];

/// A record that was read. An engine implements the required methods; the ranges are checked here.
pub trait Columns {
    /// The error for a value of this record that cannot be.
    fn inconsistent(&self, column: &'static str) -> StoreError;
    /// An integer of any width.
    fn opt_i64(&self, column: &'static str) -> StoreResult<Option<i64>>;
    /// A text.
    fn opt_text(&self, column: &'static str) -> StoreResult<Option<String>>;
    /// Bytes.
    fn opt_bytes(&self, column: &'static str) -> StoreResult<Option<Vec<u8>>>;
    /// A UUID.
    fn opt_uuid(&self, column: &'static str) -> StoreResult<Option<Uuid>>;
    /// A truth value.
    fn flag(&self, column: &'static str) -> StoreResult<bool>;

    /// A value that is never NULL.
    fn some<T>(&self, column: &'static str, value: Option<T>) -> StoreResult<T> {
        value.ok_or_else(|| self.inconsistent(column))
    }

    /// An integer in the range of `T`, or NULL.
    fn opt_in_range<T: TryFrom<i64>>(&self, column: &'static str) -> StoreResult<Option<T>> {
        let value = self.opt_i64(column)?;
        value.map(|value| T::try_from(value).map_err(|_| self.inconsistent(column))).transpose()
    }

    /// An integer in the range of `T`.
    fn in_range<T: TryFrom<i64>>(&self, column: &'static str) -> StoreResult<T> {
        self.some(column, self.opt_in_range(column)?)
    }

    /// An integer.
    fn i64(&self, column: &'static str) -> StoreResult<i64> {
        self.in_range(column)
    }

    /// An integer that fits 64 bits without a sign.
    fn u64(&self, column: &'static str) -> StoreResult<u64> {
        self.in_range(column)
    }

    /// An integer that fits 32 bits without a sign.
    fn u32(&self, column: &'static str) -> StoreResult<u32> {
        self.in_range(column)
    }

    /// As [`Columns::u32`], or NULL.
    fn opt_u32(&self, column: &'static str) -> StoreResult<Option<u32>> {
        self.opt_in_range(column)
    }

    /// An integer that fits 16 bits without a sign.
    fn u16(&self, column: &'static str) -> StoreResult<u16> {
        self.in_range(column)
    }

    /// As [`Columns::u16`], or NULL.
    fn opt_u16(&self, column: &'static str) -> StoreResult<Option<u16>> {
        self.opt_in_range(column)
    }

    /// One of the domain's numbered states, or NULL.
    fn opt_code<T>(&self, column: &'static str, from_code: fn(i16) -> Option<T>) -> StoreResult<Option<T>> {
        let code = self.opt_in_range(column)?;
        code.map(|code| from_code(code).ok_or_else(|| self.inconsistent(column))).transpose()
    }

    /// One of the domain's numbered states.
    fn code<T>(&self, column: &'static str, from_code: fn(i16) -> Option<T>) -> StoreResult<T> {
        self.some(column, self.opt_code(column, from_code)?)
    }

    /// A text.
    fn text(&self, column: &'static str) -> StoreResult<String> {
        self.some(column, self.opt_text(column)?)
    }

    /// Bytes.
    fn bytes(&self, column: &'static str) -> StoreResult<Vec<u8>> {
        self.some(column, self.opt_bytes(column)?)
    }

    /// A UUID.
    fn uuid(&self, column: &'static str) -> StoreResult<Uuid> {
        self.some(column, self.opt_uuid(column)?)
    }

    /// An instant: milliseconds since the epoch, until the year 9999; or NULL.
    fn opt_time(&self, column: &'static str) -> StoreResult<Option<Timestamp>> {
        match self.opt_i64(column)? {
            None => Ok(None),
            Some(ms @ 0..=LATEST_MS) => Ok(Some(Timestamp::from_millis(ms))),
            Some(_) => Err(self.inconsistent(column)),
        }
    }

    /// As [`Columns::opt_time`], never NULL.
    fn time(&self, column: &'static str) -> StoreResult<Timestamp> {
        self.some(column, self.opt_time(column)?)
    }
}

/// Names a record by those of its [`KEY_COLUMNS`] that were read.
pub fn key_of(value_of: impl Fn(&'static str) -> Option<String>) -> String {
    let known = KEY_COLUMNS.into_iter().filter_map(|column| Some(format!("{column} {}", value_of(column)?)));
    let known: Vec<String> = known.collect();
    if known.is_empty() { "a record without a key".to_owned() } else { known.join(", ") }
}
