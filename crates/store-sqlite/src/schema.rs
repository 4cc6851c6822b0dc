//! The schema's migrations, by sqlx.

use std::sync::LazyLock;

use penstock_store::migrations::{File, SQLITE};
use penstock_store::{StoreError, StoreResult};
use sqlx::SqlStr;
use sqlx::migrate::{Migration, MigrationType, Migrator};

use crate::engine::Database;

static MIGRATOR: LazyLock<Migrator> = LazyLock::new(|| {
    let migration = |file: &File| {
        let (version, words) = file.version();
        Migration::new(version, words.into(), MigrationType::Simple, SqlStr::from_static(file.sql), false)
    };
    Migrator::with_migrations(SQLITE.iter().map(migration).collect())
});

/// The version that this program needs.
pub fn needed() -> i64 {
    MIGRATOR.iter().map(|migration| migration.version).max().unwrap_or(0)
}

impl Database {
    /// Migrates up to a version.
    pub(crate) async fn run_migrations(&self, version: i64) -> StoreResult<()> {
        MIGRATOR
            .run_to(version, &self.writer)
            .await
            .map_err(|error| StoreError::Refused { transaction: "migrate", source: Box::new(error) })
    }
}
