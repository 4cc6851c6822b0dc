//! sqlx's errors as the store's.

use penstock_store::StoreError;

/// SQLite's primary result codes of what passes without anybody changing the data: BUSY, LOCKED, NOMEM, READONLY,
/// INTERRUPT, IOERR, FULL, CANTOPEN, PROTOCOL, SCHEMA.
const TRANSIENT: [u32; 10] = [5, 6, 7, 8, 9, 10, 13, 14, 15, 17];

/// Those about data: TOOBIG, CONSTRAINT, MISMATCH.
const ABOUT_DATA: [u32; 3] = [18, 19, 20];

/// Names the transaction in an error of its statements.
pub fn store_error(transaction: &'static str) -> impl Fn(sqlx::Error) -> StoreError {
    move |error| {
        let code = match &error {
            // The low byte of an extended code is the primary one.
            sqlx::Error::Database(database) => {
                database.code().and_then(|code| code.parse::<u32>().ok()).map(|code| code & 0xFF)
            }
            _ => None,
        };
        let is_of = |codes: &[u32]| code.is_some_and(|code| codes.contains(&code));
        let transient = match &error {
            sqlx::Error::Io(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed
            | sqlx::Error::BeginFailed
            | sqlx::Error::InvalidSavePointStatement => true,
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
