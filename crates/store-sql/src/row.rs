//! Records as they are read. A value that the schema cannot have is an error that names the table, the column and the
//! record; it never becomes a default.

use penstock_domain::time::Timestamp;
use penstock_store::{StoreError, StoreResult};
use uuid::Uuid;

/// The last millisecond of the year 9999: RFC 3339 cannot write a later time.
const LATEST_MS: i64 = 253_402_300_799_999;

/// Columns that identify a record, in the order in which an error names them.
const KEY_COLUMNS: [&str; 7] = ["batch", "number", "step", "seq", "id", "name", "key_id"];

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
    pub fn of(&self, table: &'static str) -> Columns<'_> {
        Columns { row: &*self.0, table }
    }
}

/// Reads the columns of a table's record by name. An error is [`StoreError::Inconsistent`].
#[allow(clippy::missing_errors_doc, reason = "said above, once for all")]
pub struct Columns<'a> {
    row: &'a dyn RawRow,
    table: &'static str,
}

#[allow(clippy::missing_errors_doc, reason = "said above, once for all")]
impl Columns<'_> {
    /// The error for a value of this record that cannot be.
    pub fn inconsistent(&self, column: &'static str) -> StoreError {
        let known = KEY_COLUMNS.into_iter().filter_map(|column| {
            let number = self.row.int(column).flatten().map(|number| number.to_string());
            let uuid = || self.row.uuid(column).flatten().map(|id| id.to_string());
            let value = number.or_else(uuid).or_else(|| self.row.text(column).flatten());
            Some(format!("{column} {}", value?))
        });
        let known: Vec<String> = known.collect();
        let key = if known.is_empty() { "a record without a key".to_owned() } else { known.join(", ") };
        StoreError::Inconsistent { table: self.table, column, key }
    }

    /// An integer of any width, or NULL.
    pub fn opt_i64(&self, column: &'static str) -> StoreResult<Option<i64>> {
        self.some(column, self.row.int(column))
    }

    /// A text, or NULL.
    pub fn opt_text(&self, column: &'static str) -> StoreResult<Option<String>> {
        self.some(column, self.row.text(column))
    }

    /// Bytes, or NULL.
    pub fn opt_bytes(&self, column: &'static str) -> StoreResult<Option<Vec<u8>>> {
        self.some(column, self.row.bytes(column))
    }

    /// A UUID, or NULL.
    pub fn opt_uuid(&self, column: &'static str) -> StoreResult<Option<Uuid>> {
        self.some(column, self.row.uuid(column))
    }

    /// A truth value.
    pub fn flag(&self, column: &'static str) -> StoreResult<bool> {
        self.some(column, self.row.flag(column))
    }

    /// A floating-point number.
    pub fn real(&self, column: &'static str) -> StoreResult<f64> {
        self.some(column, self.row.real(column))
    }

    /// What is there.
    fn some<T>(&self, column: &'static str, value: Option<T>) -> StoreResult<T> {
        value.ok_or_else(|| self.inconsistent(column))
    }

    /// An integer in the range of `T`, or NULL.
    fn opt_in_range<T: TryFrom<i64>>(&self, column: &'static str) -> StoreResult<Option<T>> {
        let value = self.opt_i64(column)?;
        value.map(|value| T::try_from(value).map_err(|_| self.inconsistent(column))).transpose()
    }

    /// An integer in the range of `T`.
    pub fn in_range<T: TryFrom<i64>>(&self, column: &'static str) -> StoreResult<T> {
        self.some(column, self.opt_in_range(column)?)
    }

    /// An integer.
    pub fn i64(&self, column: &'static str) -> StoreResult<i64> {
        self.in_range(column)
    }

    /// An integer that fits 64 bits without a sign.
    pub fn u64(&self, column: &'static str) -> StoreResult<u64> {
        self.in_range(column)
    }

    /// An integer that fits 32 bits without a sign.
    pub fn u32(&self, column: &'static str) -> StoreResult<u32> {
        self.in_range(column)
    }

    /// As [`Columns::u32`], or NULL.
    pub fn opt_u32(&self, column: &'static str) -> StoreResult<Option<u32>> {
        self.opt_in_range(column)
    }

    /// An integer that fits 16 bits without a sign.
    pub fn u16(&self, column: &'static str) -> StoreResult<u16> {
        self.in_range(column)
    }

    /// As [`Columns::u16`], or NULL.
    pub fn opt_u16(&self, column: &'static str) -> StoreResult<Option<u16>> {
        self.opt_in_range(column)
    }

    /// One of the domain's numbered states, or NULL.
    pub fn opt_code<T>(
        &self,
        column: &'static str,
        from_code: fn(i16) -> Option<T>,
    ) -> StoreResult<Option<T>> {
        let code = self.opt_in_range(column)?;
        code.map(|code| from_code(code).ok_or_else(|| self.inconsistent(column))).transpose()
    }

    /// One of the domain's numbered states.
    pub fn code<T>(&self, column: &'static str, from_code: fn(i16) -> Option<T>) -> StoreResult<T> {
        self.some(column, self.opt_code(column, from_code)?)
    }

    /// A text.
    pub fn text(&self, column: &'static str) -> StoreResult<String> {
        self.some(column, self.opt_text(column)?)
    }

    /// Bytes.
    pub fn bytes(&self, column: &'static str) -> StoreResult<Vec<u8>> {
        self.some(column, self.opt_bytes(column)?)
    }

    /// A UUID.
    pub fn uuid(&self, column: &'static str) -> StoreResult<Uuid> {
        self.some(column, self.opt_uuid(column)?)
    }

    /// An instant: milliseconds since the epoch, until the year 9999; or NULL.
    pub fn opt_time(&self, column: &'static str) -> StoreResult<Option<Timestamp>> {
        match self.opt_i64(column)? {
            None => Ok(None),
            Some(ms @ 0..=LATEST_MS) => Ok(Some(Timestamp::from_millis(ms))),
            Some(_) => Err(self.inconsistent(column)),
        }
    }

    /// As [`Columns::opt_time`], never NULL.
    pub fn time(&self, column: &'static str) -> StoreResult<Timestamp> {
        self.some(column, self.opt_time(column)?)
    }
}
