//! The schema's migrations, by sqlx.

use std::sync::LazyLock;

use futures::FutureExt as _;
use penstock_store::migrations::{File, POSTGRES};
use penstock_store::{StoreError, StoreResult};
use sqlx::SqlStr;
use sqlx::migrate::{Migration, MigrationType, Migrator};

use crate::engine::Server;
use crate::error::store_error;

static MIGRATOR: LazyLock<Migrator> = LazyLock::new(|| {
    let migration = |file: &File| {
        let (version, words) = file.version();
        Migration::new(version, words.into(), MigrationType::Simple, SqlStr::from_static(file.sql), false)
    };
    Migrator::with_migrations(POSTGRES.iter().map(migration).collect())
});

/// The version that this program needs.
pub fn needed() -> i64 {
    MIGRATOR.iter().map(|migration| migration.version).max().unwrap_or(0)
}

impl Server {
    /// Migrates up to a version.
    pub(crate) async fn run_migrations(&self, version: i64) -> StoreResult<()> {
        let unlimited = self.pool.unlimited().await.map_err(store_error("migrate"))?;
        MIGRATOR
            .run_to(version, &unlimited)
            .await
            .map_err(|error| StoreError::Refused { transaction: "migrate", source: Box::new(error) })
    }

    /// Rights on this program's tables that the role lacks.
    pub(crate) async fn missing_rights(&self) -> StoreResult<Vec<String>> {
        let made =
            MIGRATOR.iter().flat_map(|migration| migration.sql.as_str().split("CREATE TABLE ").skip(1));
        let tables: Vec<&str> = made.filter_map(|rest| rest.split([' ', '(']).next()).collect();
        let rights = sqlx::query_scalar(
            "/* penstock:missing_rights */ SELECT r.name || ' on ' || c.relname FROM pg_catalog.pg_class c \
             CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS r(name) \
             WHERE c.relnamespace = to_regnamespace(current_schema()) AND c.relkind = 'r' AND c.relname = ANY($1) \
             AND NOT (c.relname = 'schema_serves' AND r.name <> 'SELECT') \
             AND NOT (c.relname = 'audit' AND r.name IN ('UPDATE', 'DELETE')) \
             AND NOT has_table_privilege(c.oid, r.name) ORDER BY c.relname, r.name",
        );
        self.run("missing_rights", |connection| rights.bind(tables).fetch_all(connection).boxed()).await
    }
}
