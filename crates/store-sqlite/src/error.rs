//! sqlx's errors as the store's.

use penstock_store::StoreError;

/// Names the transaction in an error of its statements.
pub fn store_error(transaction: &'static str) -> impl Fn(sqlx::Error) -> StoreError {
    move |error| match &error {
        sqlx::Error::Io(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => StoreError::Unavailable(Box::new(error)),
        // SQLITE_BUSY, SQLITE_LOCKED, SQLITE_IOERR, SQLITE_FULL, SQLITE_CANTOPEN: the low byte is the primary code.
        sqlx::Error::Database(database)
            if database
                .code()
                .and_then(|code| code.parse::<u32>().ok())
                .is_some_and(|code| matches!(code & 0xFF, 5 | 6 | 10 | 13 | 14)) =>
        {
            StoreError::Unavailable(Box::new(error))
        }
        _ => StoreError::Refused { transaction, source: Box::new(error) },
    }
}

/// A stored value that cannot be there.
pub fn inconsistent(table: &'static str, column: &'static str, key: impl ToString) -> StoreError {
    StoreError::Inconsistent { table, column, key: key.to_string() }
}
