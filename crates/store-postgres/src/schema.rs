//! The schema's migrations, by sqlx.

use std::sync::LazyLock;

use futures::FutureExt as _;
use penstock_store::migrations::{File, POSTGRES};
use penstock_store::{StoreError, StoreResult};
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, SqlStr};

use crate::connection::{Sessions, settings};
use crate::engine::Server;
use crate::error::store_error;

static MIGRATOR: LazyLock<Migrator> = LazyLock::new(|| {
    let migration = |file: &File| {
        let (version, words) = file.version();
        Migration::new(version, words.into(), MigrationType::Simple, SqlStr::from_static(file.sql), false)
    };
    let mut migrator = Migrator::with_migrations(POSTGRES.iter().map(migration).collect());
    migrator.set_locking(false);
    migrator
});

/// The number of the lock of migrations: any that nobody else uses in this database.
const LOCK: &str = "SELECT pg_advisory_xact_lock(8099000947015246708)";

/// The version that this program needs.
pub fn needed() -> i64 {
    MIGRATOR.iter().map(|migration| migration.version).max().unwrap_or(0)
}

impl Server {
    /// Migrates up to a version. Each migration is a transaction, and holds the lock of migrations as long: a lock of the
    /// session would be left in it where a pooler hands out sessions.
    pub(crate) async fn run_migrations(&self, version: i64) -> StoreResult<()> {
        let Err(error) = self.try_migrations(version).await else { return Ok(()) };
        let Ok(Some(grant)) = self.missing_grant().await else { return Err(error) };
        let text = format!("{error}. Run as an administrator: {grant}");
        Err(StoreError::Refused { transaction: "migrate", source: text.into() })
    }

    async fn try_migrations(&self, version: i64) -> StoreResult<()> {
        let (mut connection, sessions) = self.pool.unlimited().await.map_err(store_error("migrate"))?;
        let versions: Vec<i64> = MIGRATOR.iter().map(|migration| migration.version).collect();
        for version in versions.into_iter().filter(|one| *one <= version) {
            migrate_to(version, &mut connection, sessions).await?;
        }
        Ok(())
    }

    /// See [`penstock_store_sql::Engine::tables_elsewhere`]. Schemas of the search path have been looked at before
    /// ([`settings`]).
    pub(crate) async fn find_tables_elsewhere(&self) -> StoreResult<Option<String>> {
        let schemas: Vec<String> = self
            .run("find_tables_elsewhere", |connection| {
                sqlx::query_scalar(
                    "/* penstock:find_tables_elsewhere */ SELECT n.nspname::text FROM pg_catalog.pg_class c \
                     JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
                     WHERE c.relkind = 'r' AND c.relname IN ('batch_keys', 'row_receipts') AND n.nspname <> current_schema() AND has_table_privilege(c.oid, 'SELECT') \
                     GROUP BY n.nspname HAVING count(*) = 2 ORDER BY n.nspname",
                )
                .persistent(false)
                .fetch_all(connection)
                .boxed()
            })
            .await?;
        let Some(schema) = schemas.first() else { return Ok(None) };
        Ok(Some(format!(
            "its tables are in the schema {schema}, which the role's search_path does not name: \
             ALTER ROLE … SET search_path = {schema}. A second installation in this database needs a role of its own"
        )))
    }

    /// What the role needs to migrate and lacks, as the statement that grants it; none: it lacks nothing that is known.
    async fn missing_grant(&self) -> StoreResult<Option<String>> {
        let made = MIGRATOR.iter().flat_map(|one| one.sql.as_str().split("CREATE TABLE ").skip(1));
        let tables: Vec<&str> = made.filter_map(|rest| rest.split([' ', '(']).next()).collect();
        self.run("missing_grant", |connection| {
            sqlx::query_scalar(
                "/* penstock:missing_grant */ SELECT CASE \
                 WHEN current_schema() IS NULL THEN format('CREATE SCHEMA %I AUTHORIZATION %I', current_user, current_user) \
                 WHEN NOT has_schema_privilege(current_schema(), 'CREATE') \
                 THEN format('GRANT CREATE ON SCHEMA %I TO %I', current_schema(), current_user) \
                 ELSE (SELECT format('GRANT %I TO %I', pg_get_userbyid(c.relowner), current_user) FROM pg_catalog.pg_class c \
                       WHERE c.relnamespace = to_regnamespace(quote_ident(current_schema())) AND c.relkind = 'r' \
                       AND c.relname = ANY($1) AND NOT pg_has_role(c.relowner, 'MEMBER') LIMIT 1) END",
            )
            .bind(tables)
            .persistent(false)
            .fetch_one(connection)
            .boxed()
        })
        .await
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
             AND NOT (c.relname IN ('schema_serves', 'installation') AND r.name <> 'SELECT') \
             AND NOT (c.relname = 'audit' AND r.name IN ('UPDATE', 'DELETE')) \
             AND NOT has_table_privilege(c.oid, r.name) ORDER BY c.relname, r.name",
        );
        self.run("missing_rights", |connection| {
            rights.bind(tables).persistent(false).fetch_all(connection).boxed()
        })
        .await
    }
}

/// sqlx gives its statements names that are the same in every process, and never takes them back: a session that others use
/// as well must be without them, before and after.
const FORGET: &str = "DEALLOCATE ALL";

async fn migrate_to(version: i64, connection: &mut PgConnection, sessions: Sessions) -> StoreResult<()> {
    let failed = store_error("migrate");
    let mut tx = connection.begin().await.map_err(&failed)?;
    if sessions == Sessions::PerTransaction {
        let settings = AssertSqlSafe(format!("{FORGET}; {}", settings::of_transaction(None)));
        tx.execute(settings).await.map_err(&failed)?;
    }
    tx.execute(LOCK).await.map_err(&failed)?;
    MIGRATOR
        .run_direct(Some(version), &mut *tx, false)
        .await
        .map_err(|error| StoreError::Refused { transaction: "migrate", source: Box::new(error) })?;
    if sessions == Sessions::PerTransaction {
        tx.execute(FORGET).await.map_err(&failed)?;
    }
    tx.commit().await.map_err(&failed)
}
