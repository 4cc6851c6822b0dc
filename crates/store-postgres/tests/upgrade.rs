//! The schema's way up, on the PostgreSQL that `cargo xtask test` starts.

use std::path::Path;

use penstock_store::operations::Operations as _;
use penstock_store_conformance::upgrade;
use penstock_store_postgres::{Options, PostgresStore};
use sqlx::Connection as _;

/// Runs statements beside the store.
async fn run(url: &str, statements: &str) {
    let mut connection = sqlx::PgConnection::connect(url).await.expect("a server");
    sqlx::raw_sql(sqlx::AssertSqlSafe(statements.to_owned()))
        .execute(&mut connection)
        .await
        .expect("it runs");
}

/// A database of the test's own.
async fn database(name: &str) -> String {
    let server = std::env::var("PENSTOCK_TEST_POSTGRES_URL").expect("`cargo xtask test` sets it");
    let name = format!("penstock_{name}_{}", std::process::id());
    run(&server, &format!("CREATE DATABASE {name}")).await;
    let (host, _) = server.rsplit_once('/').expect("a database in the URL");
    format!("{host}/{name}")
}

fn open(url: &str) -> PostgresStore {
    PostgresStore::connect(
        url,
        Options { max_connections: 8, application_name: "upgrade".into(), sessions: None, password: None },
    )
    .expect("a URL")
}

/// The migrations of the first release, as a folder of their own.
async fn first_release(url: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = "0001_penstock.sql";
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../migrations/postgres");
    std::fs::copy(all.join(file), folder.path().join(file)).expect("a copy");
    let migrator = sqlx::migrate::Migrator::new(folder.path()).await.expect("migrations");
    let mut connection = sqlx::PgConnection::connect(url).await.expect("a server");
    migrator.run(&mut connection).await.expect("the first schema");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_disturbs_nobody() {
    let url = database("upgrade").await;
    let store = open(&url);
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
    let url = database("later").await;
    let store = open(&url);
    store.migrate().await.expect("a schema");
    for statement in upgrade::expansion() {
        run(&url, &statement).await;
    }
    penstock_store_conformance::all(store.shared(), 2).await;
}

#[tokio::test]
async fn an_old_schema_is_brought_up_to_date() {
    let url = database("old").await;
    first_release(&url).await;
    upgrade::an_old_schema_is_brought_up_to_date(open(&url).shared()).await;
}

#[tokio::test]
async fn an_installation_before_ids_has_none() {
    let url = database("before_ids").await;
    upgrade::an_installation_before_ids_has_none(open(&url).shared()).await;
}

#[tokio::test]
async fn a_newer_schema_says_whom_it_serves() {
    let url = database("newer").await;
    let store = open(&url);
    store.migrate().await.expect("a schema");
    upgrade::a_newer_schema_says_whom_it_serves(store.shared(), |version, oldest| {
        let url = url.clone();
        async move {
            let serves = oldest.map_or(String::new(), |oldest| {
                format!("INSERT INTO schema_serves (version, oldest) VALUES ({version}, {oldest});")
            });
            let migration = format!(
                "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                 VALUES ({version}, 'later', true, '\\x00', 1); {serves}"
            );
            run(&url, &migration).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_clock_that_is_set_back_moves_deadlines() {
    let url = database("clock").await;
    let store = open(&url);
    store.migrate().await.expect("a schema");
    let store = store.shared();
    penstock_store_conformance::workers::a_clock_that_is_set_back_moves_deadlines(&store, |statement| {
        let url = url.clone();
        async move { run(&url, &statement).await }
    })
    .await;
}
