//! The schema: brought up to date by `penstock migrate`, looked at by every service.

use std::sync::LazyLock;

use penstock_store::migrations::{File, SQLITE};
use penstock_store::{StoreError, StoreResult};
use sqlx::SqlStr;
use sqlx::migrate::{Migration, MigrationType, Migrator};

use crate::SqliteStore;
use crate::error::store_error;

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

impl SqliteStore {
    /// The version that the file has; 0: none.
    pub(crate) async fn schema_version(&self) -> StoreResult<i64> {
        let known: i64 = sqlx::query_scalar(
            "/* penstock:schema */ SELECT count(*) FROM sqlite_master WHERE name = '_sqlx_migrations'",
        )
        .fetch_one(&self.readers)
        .await
        .map_err(store_error("schema"))?;
        if known == 0 {
            return Ok(0);
        }
        sqlx::query_scalar("SELECT coalesce(max(version), 0) FROM _sqlx_migrations WHERE success")
            .fetch_one(&self.readers)
            .await
            .map_err(store_error("schema"))
    }

    pub(crate) async fn bring_up_to(&self, version: i64) -> StoreResult<(i64, i64)> {
        let from = self.schema_version().await?;
        if from > needed() {
            return Err(newer(from));
        }
        MIGRATOR
            .run_to(version, &self.writer)
            .await
            .map_err(|error| StoreError::Refused { transaction: "migrate", source: Box::new(error) })?;
        Ok((from, self.schema_version().await?))
    }

    pub(crate) async fn schema_fits(&self) -> StoreResult<()> {
        let found = self.schema_version().await?;
        match found.cmp(&needed()) {
            std::cmp::Ordering::Equal => Ok(()),
            std::cmp::Ordering::Less => {
                Err(StoreError::Schema { found, needed: needed(), hint: "run `penstock migrate`" })
            }
            std::cmp::Ordering::Greater if self.serves(found).await? => Ok(()),
            std::cmp::Ordering::Greater => Err(newer(found)),
        }
    }

    /// Whether a newer schema says that it serves this program too.
    async fn serves(&self, found: i64) -> StoreResult<bool> {
        let oldest: Option<i64> =
            sqlx::query_scalar("/* penstock:schema */ SELECT oldest FROM schema_serves WHERE version = ?1")
                .bind(found)
                .fetch_optional(&self.readers)
                .await
                .map_err(store_error("schema"))?;
        Ok(oldest.is_some_and(|oldest| oldest <= needed()))
    }
}

fn newer(found: i64) -> StoreError {
    StoreError::Schema { found, needed: needed(), hint: "run the newer Penstock that made it" }
}
