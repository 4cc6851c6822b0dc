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
use std::sync::Arc;

use penstock_store::Store;
use penstock_store_sql::{Db, SqlStore};

use crate::connection::Pool;
pub use crate::connection::Sessions;
pub use crate::connection::servers::PasswordFile;
use crate::connection::servers::Servers;
use crate::engine::Server;

/// How a service connects.
#[derive(Clone, Debug)]
pub struct Options {
    /// Connections at most.
    pub max_connections: u32,
    /// Shown in `pg_stat_activity`.
    pub application_name: String,
    /// Whose the server's sessions are; none: it is found out at the first connection.
    pub sessions: Option<Sessions>,
    /// Where the password is, if it is not in the URL.
    pub password: Option<PasswordFile>,
}

/// The database of a cluster.
#[derive(Clone, Debug)]
pub struct PostgresStore {
    store: SqlStore,
    server: Arc<Server>,
    application_name: String,
    password: Option<PasswordFile>,
}

impl PostgresStore {
    /// A store at a `postgres://` URL. Connects when it is first used, so that a service can start before it.
    ///
    /// # Errors
    /// A sentence, when it is no such URL, or has something that is not supported.
    pub fn connect(url: &str, options: Options) -> Result<Self, String> {
        let Options { max_connections, application_name, sessions, password } = options;
        let servers = Servers::parse(url, &application_name, password.clone())?;
        let server = Arc::new(Server { pool: Pool::new(servers, max_connections, sessions) });
        let store = SqlStore::new(Db::new(server.clone()));
        Ok(Self { store, server, application_name, password })
    }

    /// The store, for services.
    pub fn shared(&self) -> Arc<dyn Store> {
        Arc::new(self.store.clone())
    }

    /// Opens connections to another URL from now on, as after a change of the password. Those that are open go on.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub fn connect_anew(&self, url: &str) -> Result<(), String> {
        self.server.pool.set_servers(Servers::parse(url, &self.application_name, self.password.clone())?);
        Ok(())
    }
}

impl Deref for PostgresStore {
    type Target = SqlStore;

    fn deref(&self) -> &SqlStore {
        &self.store
    }
}
