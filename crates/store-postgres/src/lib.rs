//! Penstock's database for a cluster: PostgreSQL 14 and later, READ COMMITTED throughout ([`connection`] sees to it).
//!
//! A transaction that moves rows locks their batches first, in the order of their sequence numbers
//! (`FOR NO KEY UPDATE`), so that counters move with rows and no two transactions wait for each other in a circle.

mod alerts;
mod batches;
mod callbacks;
mod connection;
mod control;
mod convert;
mod copy;
mod dispatch;
mod error;
mod extraction;
mod ledgers;
mod operations;
mod owners;
mod reading;
mod run_lock;
mod schema;
mod sealing;
mod waiting;
mod work;
mod workers;

use std::str::FromStr as _;

use penstock_store::StoreResult;
use sqlx::postgres::PgConnectOptions;

use crate::connection::{Connection, Limit, Pool, ReadTx, Tx};
use crate::error::store_error;

/// How a service connects.
#[derive(Clone, Debug)]
pub struct Options {
    /// Connections at most.
    pub max_connections: u32,
    /// Shown in `pg_stat_activity`.
    pub application_name: String,
}

/// The database of a cluster.
#[derive(Clone, Debug)]
pub struct PostgresStore {
    pool: Pool,
    application_name: String,
}

impl PostgresStore {
    /// A store at a `postgres://` URL. Connects when it is first used, so that a service can start before it.
    ///
    /// # Errors
    /// When it is no such URL.
    pub fn connect(url: &str, options: Options) -> StoreResult<Self> {
        let connect = connect_options(url, &options.application_name)?;
        let pool = Pool::new(connect, options.max_connections);
        Ok(Self { pool, application_name: options.application_name })
    }

    /// Opens connections to another URL from now on, as after a change of the password. Those that are open go on.
    ///
    /// # Errors
    /// When it is no such URL.
    pub fn connect_anew(&self, url: &str) -> StoreResult<()> {
        self.pool.set_connect_options(connect_options(url, &self.application_name)?);
        Ok(())
    }

    /// A transaction whose statements touch groups of rows.
    async fn write(&self, name: &'static str) -> StoreResult<Tx> {
        self.pool.begin(Limit::Ordinary).await.map_err(store_error(name))
    }

    /// A transaction that reads for a client, and ends with it.
    async fn read(&self, name: &'static str) -> StoreResult<ReadTx> {
        self.pool.begin_reading().await.map_err(store_error(name))
    }

    /// A transaction one of whose statements may touch, or look at, all rows of a batch.
    async fn long(&self, name: &'static str) -> StoreResult<Tx> {
        self.pool.begin(Limit::Long).await.map_err(store_error(name))
    }
}

fn connect_options(url: &str, application_name: &str) -> StoreResult<PgConnectOptions> {
    Ok(PgConnectOptions::from_str(url)
        .map_err(store_error("connect"))?
        .application_name(application_name)
        .statement_cache_capacity(256))
}

/// Commits a named transaction.
async fn commit(tx: Tx, name: &'static str) -> StoreResult<()> {
    tx.commit().await.map_err(store_error(name))
}
