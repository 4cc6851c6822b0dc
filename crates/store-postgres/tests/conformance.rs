//! The suite that every store passes, on the PostgreSQL that `cargo xtask test` starts.

use std::sync::Arc;

use penstock_store::Store;
use penstock_store::operations::Operations as _;
use penstock_store_conformance::decoding;
use penstock_store_postgres::{Options, PostgresStore};
use sqlx::Connection as _;

/// Runs a statement beside the store.
async fn run(url: &str, statement: &str) {
    let mut connection = sqlx::PgConnection::connect(url).await.expect("a server");
    let statement = sqlx::AssertSqlSafe(statement.to_owned());
    sqlx::raw_sql(statement).execute(&mut connection).await.expect("it runs");
}

/// A store on a database of the test's own, and the database's URL.
async fn store(name: &str) -> (Arc<dyn Store>, String) {
    let server = std::env::var("PENSTOCK_TEST_POSTGRES_URL").expect("`cargo xtask test` sets it");
    let name = format!("penstock_{name}_{}", std::process::id());
    run(&server, &format!("CREATE DATABASE {name}")).await;
    let (host, _) = server.rsplit_once('/').expect("a database in the URL");
    let url = format!("{host}/{name}");
    let options = Options { max_connections: 12, application_name: "suite".into() };
    let store = PostgresStore::connect(&url, options).expect("a URL");
    store.migrate().await.expect("a schema");
    (Arc::new(store), url)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_does_what_every_store_does() {
    let (store, _) = store("suite").await;
    penstock_store_conformance::all(store, 80).await;
}

#[tokio::test]
async fn values_that_cannot_be_are_errors() {
    let (store, url) = store("damaged").await;
    let beside = |statement: String| {
        let url = url.clone();
        async move { run(&url, &statement).await }
    };
    decoding::invalid_values_are_errors(&store, beside).await;
    decoding::an_unreadable_batch_holds_up_no_run(&store, beside).await;
}
