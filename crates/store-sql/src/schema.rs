//! Whether the schema and this program fit.

use std::cmp::Ordering;

use penstock_store::{StoreError, StoreResult};

use crate::{SqlStore, sql};

impl SqlStore {
    /// Migrates up to a version, or as far as this program knows. The versions before and after.
    pub(crate) async fn bring_up_to(&self, version: Option<i64>) -> StoreResult<(i64, i64)> {
        let engine = self.db.engine();
        let from = self.schema_version().await?;
        if from == 0
            && let Some(elsewhere) = engine.tables_elsewhere().await?
        {
            // A second installation would be made beside the one that was meant.
            let needed = engine.needed_schema();
            return Err(StoreError::Schema { found: 0, needed, hint: elsewhere.into() });
        }
        if from > engine.needed_schema() {
            return Err(self.newer(from));
        }
        engine.migrate(version.unwrap_or(engine.needed_schema())).await?;
        Ok((from, self.schema_version().await?))
    }

    pub(crate) async fn schema_fits(&self) -> StoreResult<()> {
        let needed = self.db.engine().needed_schema();
        let found = self.schema_version().await?;
        match found.cmp(&needed) {
            Ordering::Equal => Ok(()),
            Ordering::Less => {
                let elsewhere = if found == 0 { self.db.engine().tables_elsewhere().await? } else { None };
                let hint = elsewhere.map_or("run `penstock migrate`".into(), Into::into);
                Err(StoreError::Schema { found, needed, hint })
            }
            Ordering::Greater if self.serves(found).await? => Ok(()),
            Ordering::Greater => Err(self.newer(found)),
        }
    }

    /// The version that the database has; 0: none.
    pub(crate) async fn schema_version(&self) -> StoreResult<i64> {
        let known = sql("schema_count_tables", "SELECT count(*) AS known FROM {migrations}");
        if self.db.fetch_one(known).await?.of("_sqlx_migrations").i64("known")? == 0 {
            return Ok(0);
        }
        let version = sql(
            "schema_get_version",
            "SELECT coalesce(max(version), 0) AS version FROM _sqlx_migrations WHERE success",
        );
        self.db.fetch_one(version).await?.of("_sqlx_migrations").i64("version")
    }

    /// Whether a newer schema says that it serves this program too.
    async fn serves(&self, found: i64) -> StoreResult<bool> {
        let statement = sql("schema_get_oldest", "SELECT oldest FROM schema_serves WHERE version = $1");
        let Some(row) = self.db.fetch_optional(statement.bind(found)).await? else { return Ok(false) };
        Ok(row.of("schema_serves").i64("oldest")? <= self.db.engine().needed_schema())
    }

    fn newer(&self, found: i64) -> StoreError {
        let needed = self.db.engine().needed_schema();
        StoreError::Schema { found, needed, hint: "run the newer Penstock that made it".into() }
    }
}
