//! The schema's way up, on SQLite.

use std::path::Path;

use penstock_store::operations::Operations as _;
use penstock_store_conformance::upgrade;
use penstock_store_sqlite::SqliteStore;
use sqlx::Connection as _;

/// Runs statements beside the store.
async fn run(url: &str, statements: &str) {
    let mut connection = sqlx::SqliteConnection::connect(url).await.expect("the database");
    sqlx::raw_sql(sqlx::AssertSqlSafe(statements.to_owned()))
        .execute(&mut connection)
        .await
        .expect("it runs");
}

/// The migrations of the first release, as a folder of their own.
async fn first_release(folder: &Path, url: &str) {
    let first = folder.join("migrations");
    std::fs::create_dir(&first).expect("a folder");
    let file = "0001_penstock.sql";
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../migrations/sqlite");
    std::fs::copy(all.join(file), first.join(file)).expect("a copy");
    let migrator = sqlx::migrate::Migrator::new(first).await.expect("migrations");
    let mut connection = sqlx::SqliteConnection::connect(url).await.expect("the database");
    migrator.run(&mut connection).await.expect("the first schema");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_disturbs_nobody() {
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("sqlite://{}", folder.path().join("upgrade.db").display());
    let store = SqliteStore::open(&url).await.expect("a database");
    store.migrate().await.expect("a schema");
    upgrade::an_upgrade_disturbs_nobody(store.shared(), async {
        for statement in upgrade::expansion() {
            run(&url, &statement).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_later_schema_is_served() {
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("sqlite://{}", folder.path().join("later.db").display());
    let store = SqliteStore::open(&url).await.expect("a database");
    store.migrate().await.expect("a schema");
    for statement in upgrade::expansion() {
        run(&url, &statement).await;
    }
    penstock_store_conformance::all(store.shared(), 2).await;
}

#[tokio::test]
async fn an_old_schema_is_brought_up_to_date() {
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("sqlite://{}", folder.path().join("old.db").display());
    let store = SqliteStore::open(&url).await.expect("a database");
    first_release(folder.path(), &url).await;
    upgrade::an_old_schema_is_brought_up_to_date(store.shared()).await;
}

#[tokio::test]
async fn an_installation_before_ids_has_none() {
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("sqlite://{}", folder.path().join("before_ids.db").display());
    let store = SqliteStore::open(&url).await.expect("a database");
    upgrade::an_installation_before_ids_has_none(store.shared()).await;
}

#[tokio::test]
async fn a_newer_schema_says_whom_it_serves() {
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("sqlite://{}", folder.path().join("newer.db").display());
    let store = SqliteStore::open(&url).await.expect("a database");
    store.migrate().await.expect("a schema");
    upgrade::a_newer_schema_says_whom_it_serves(store.shared(), |version, oldest| {
        let url = url.clone();
        async move {
            let serves = oldest.map_or(String::new(), |oldest| {
                format!("INSERT INTO schema_serves (version, oldest) VALUES ({version}, {oldest});")
            });
            let migration = format!(
                "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                 VALUES ({version}, 'later', true, x'00', 1); {serves}"
            );
            run(&url, &migration).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_clock_that_is_set_back_moves_deadlines() {
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("sqlite://{}", folder.path().join("clock.db").display());
    let store = SqliteStore::open(&url).await.expect("a database");
    store.migrate().await.expect("a schema");
    let store = store.shared();
    penstock_store_conformance::workers::a_clock_that_is_set_back_moves_deadlines(&store, |statement| {
        let url = url.clone();
        async move { run(&url, &statement).await }
    })
    .await;
}
