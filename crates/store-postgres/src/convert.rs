//! Between PostgreSQL's values and the domain's.
#![allow(missing_docs, reason = "the names say it")]

use penstock_domain::time::Timestamp;
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use uuid::Uuid;

/// An optional time on its way in.
pub fn opt_ms(at: Option<Timestamp>) -> Option<i64> {
    at.map(Timestamp::millis)
}

/// Reads columns by name. The schema is ours, so a value of another type is a fault of this program.
pub struct Columns<'a>(pub &'a PgRow);

impl Columns<'_> {
    pub fn i64(&self, column: &str) -> i64 {
        self.opt_i64(column).unwrap_or_default()
    }

    /// Any width of integer.
    pub fn opt_i64(&self, column: &str) -> Option<i64> {
        if let Ok(value) = self.0.try_get::<Option<i64>, _>(column) {
            return value;
        }
        if let Ok(value) = self.0.try_get::<Option<i32>, _>(column) {
            return value.map(i64::from);
        }
        self.0.get::<Option<i16>, _>(column).map(i64::from)
    }

    pub fn u32(&self, column: &str) -> u32 {
        u32::try_from(self.i64(column)).unwrap_or_default()
    }

    pub fn opt_u32(&self, column: &str) -> Option<u32> {
        self.opt_i64(column).and_then(|value| u32::try_from(value).ok())
    }

    pub fn u16(&self, column: &str) -> u16 {
        u16::try_from(self.i64(column)).unwrap_or_default()
    }

    pub fn opt_u16(&self, column: &str) -> Option<u16> {
        self.opt_i64(column).and_then(|value| u16::try_from(value).ok())
    }

    pub fn u64(&self, column: &str) -> u64 {
        u64::try_from(self.i64(column)).unwrap_or_default()
    }

    pub fn flag(&self, column: &str) -> bool {
        self.0.get(column)
    }

    pub fn text(&self, column: &str) -> String {
        self.0.get(column)
    }

    pub fn opt_text(&self, column: &str) -> Option<String> {
        self.0.get(column)
    }

    pub fn bytes(&self, column: &str) -> Vec<u8> {
        self.0.get(column)
    }

    pub fn opt_bytes(&self, column: &str) -> Option<Vec<u8>> {
        self.0.get(column)
    }

    pub fn time(&self, column: &str) -> Timestamp {
        Timestamp::from_millis(self.i64(column))
    }

    pub fn opt_time(&self, column: &str) -> Option<Timestamp> {
        self.opt_i64(column).map(Timestamp::from_millis)
    }

    pub fn uuid(&self, column: &str) -> Uuid {
        self.0.get(column)
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
