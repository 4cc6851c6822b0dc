//! The lock that lets one dispatcher run at a time.
//!
//! It is an advisory lock of an open transaction, so that it is freed with the transaction, whatever stands between this
//! program and the server. The server ends a transaction whose client says nothing, so the lock is kept by saying something:
//! a dispatcher whose machine or connection is gone holds up the next run for some seconds only.

use std::time::Duration;

use futures::FutureExt as _;
use penstock_store::dispatch::RunLock;
use sqlx::Executor as _;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::connection::{Limit, Pool, Tx};

/// The number of the dispatcher's lock: any that nobody else uses in this database.
const LOCK: i64 = 0x7065_6e73_746f_636b;

/// How often it is kept. The server waits several times as long.
const KEEP_EVERY: Duration = Duration::from_secs(1);

/// Held until it is dropped.
struct DispatchLock(#[allow(dead_code, reason = "dropping it ends the transaction")] DropGuard);

impl RunLock for DispatchLock {}

/// The lock; none when another run holds it.
pub async fn acquire(pool: &Pool) -> Result<Option<Box<dyn RunLock>>, sqlx::Error> {
    let mut tx = pool.begin(Limit::Ordinary).await?;
    let lock = sqlx::query_scalar("/* penstock:lock_run */ SELECT pg_try_advisory_xact_lock($1)").bind(LOCK);
    let locked: bool =
        tx.within_limit(|connection| lock.persistent(false).fetch_one(connection).boxed()).await?;
    if !locked {
        return Ok(None);
    }
    let released = CancellationToken::new();
    tokio::spawn(keep(tx, released.clone()));
    Ok(Some(Box::new(DispatchLock(released.drop_guard()))))
}

/// Keeps the transaction open. When that fails another run may begin beside this one, which is harmless: every statement of
/// a run names the state that it leaves.
async fn keep(mut tx: Tx, released: CancellationToken) {
    loop {
        tokio::select! {
            () = released.cancelled() => break,
            () = tokio::time::sleep(KEEP_EVERY) => {}
        }
        let kept =
            tx.within_limit(|connection| connection.execute("/* penstock:lock_run */ SELECT 1").boxed());
        if let Err(error) = kept.await {
            tracing::warn!(%error, "the lock of this dispatcher run was lost; another run may begin beside it");
            return;
        }
    }
    if let Err(error) = tx.commit().await {
        tracing::debug!(%error, "the lock of a dispatcher run was not released; the server frees it");
    }
}
