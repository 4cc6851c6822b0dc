//! sqlx's errors as the store's.

use penstock_store::StoreError;

/// Names the transaction in an error of its statements.
pub fn store_error(transaction: &'static str) -> impl Fn(sqlx::Error) -> StoreError {
    move |error| match &error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => StoreError::Unavailable(Box::new(error)),
        // Connection exceptions (08), resources (53), an operator's or the server's own end (57P), serialization (40).
        sqlx::Error::Database(database)
            if database.code().is_some_and(|code| {
                ["08", "53", "57", "40", "25P"].iter().any(|class| code.starts_with(class))
            }) =>
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
