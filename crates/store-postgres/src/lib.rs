//! Penstock's database for a cluster: PostgreSQL 14 and later, READ COMMITTED throughout ([`connection`] sees to it).
//!
//! A transaction that moves rows locks their batches first, in the order of their sequence numbers
//! (`FOR NO KEY UPDATE`), so that counters move with rows and no two transactions wait for each other in a circle.

mod connection;
mod copy;
mod engine;
mod error;
mod fragments;
mod run_lock;
mod schema;

use std::ops::Deref;
use std::str::FromStr as _;
use std::sync::Arc;

use penstock_store::{Store, StoreResult};
use penstock_store_sql::{Db, SqlStore};
use sqlx::postgres::PgConnectOptions;

use crate::connection::Pool;
pub use crate::connection::Sessions;
use crate::engine::Server;
use crate::error::store_error;

/// How a service connects.
#[derive(Clone, Debug)]
pub struct Options {
    /// Connections at most.
    pub max_connections: u32,
    /// Shown in `pg_stat_activity`.
    pub application_name: String,
    /// Whose the server's sessions are; none: it is found out at the first connection.
    pub sessions: Option<Sessions>,
}

/// The database of a cluster.
#[derive(Clone, Debug)]
pub struct PostgresStore {
    store: SqlStore,
    server: Arc<Server>,
    application_name: String,
}

impl PostgresStore {
    /// A store at a `postgres://` URL. Connects when it is first used, so that a service can start before it.
    ///
    /// # Errors
    /// When it is no such URL.
    pub fn connect(url: &str, options: Options) -> StoreResult<Self> {
        let connect = connect_options(url, &options.application_name)?;
        let server = Arc::new(Server { pool: Pool::new(connect, options.max_connections, options.sessions) });
        let store = SqlStore::new(Db::new(server.clone()));
        Ok(Self { store, server, application_name: options.application_name })
    }

    /// The store, for services.
    pub fn shared(&self) -> Arc<dyn Store> {
        Arc::new(self.store.clone())
    }

    /// Opens connections to another URL from now on, as after a change of the password. Those that are open go on.
    ///
    /// # Errors
    /// When it is no such URL.
    pub fn connect_anew(&self, url: &str) -> StoreResult<()> {
        self.server.pool.set_connect_options(connect_options(url, &self.application_name)?);
        Ok(())
    }
}

impl Deref for PostgresStore {
    type Target = SqlStore;

    fn deref(&self) -> &SqlStore {
        &self.store
    }
}

fn connect_options(url: &str, application_name: &str) -> StoreResult<PgConnectOptions> {
    Ok(PgConnectOptions::from_str(url)
        .map_err(store_error("connect"))?
        .application_name(application_name)
        // PgBouncer refuses to start a session with it, and numbers are read in binary.
        .extra_float_digits(None)
        .statement_cache_capacity(256))
}
