//! sqlx's errors as the store's.

use std::borrow::Cow;

use penstock_store::StoreError;

/// SQLSTATE classes (and single codes) of what passes without anybody changing the data: connections (08), transactions that
/// cannot go on (25, with 25006 of a server that is read-only), a password that is replaced (28), serialization and deadlocks (40), resources (53), locks and
/// objects in another state (55), statements and servers that were ended (57), I/O (58), internal errors (XX); a plan or a
/// prepared statement that the server does not know any more (0A000, 26000).
const TRANSIENT: [&str; 11] = ["08", "25", "28", "40", "53", "55", "57", "58", "XX", "0A000", "26000"];

/// SQLSTATE classes about data: values (22) and constraints (23).
const ABOUT_DATA: [&str; 2] = ["22", "23"];

/// The error's SQLSTATE; none: it is not the server's.
pub fn sqlstate(error: &sqlx::Error) -> Option<Cow<'_, str>> {
    match error {
        sqlx::Error::Database(database) => database.code(),
        _ => None,
    }
}

/// Names the transaction in an error of its statements.
pub fn store_error(transaction: &'static str) -> impl Fn(sqlx::Error) -> StoreError {
    move |error| {
        let state = sqlstate(&error).map(Cow::into_owned);
        let is_of = |classes: &[&str]| {
            state.as_deref().is_some_and(|state| classes.iter().any(|class| state.starts_with(class)))
        };
        let transient = match &error {
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed
            | sqlx::Error::BeginFailed => true,
            _ => is_of(&TRANSIENT),
        };
        let source = Box::new(error);
        if transient {
            StoreError::Unavailable(source)
        } else if is_of(&ABOUT_DATA) {
            StoreError::InvalidData { transaction, source }
        } else {
            StoreError::Refused { transaction, source }
        }
    }
}
