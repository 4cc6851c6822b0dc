//! The suite that every store passes, on the PostgreSQL that `cargo xtask test` starts.

use std::sync::Arc;

use penstock_store::Store;
use penstock_store::operations::Operations as _;
use penstock_store_postgres::{Options, PostgresStore};
use sqlx::Connection as _;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_does_what_every_store_does() {
    let server = std::env::var("PENSTOCK_TEST_POSTGRES_URL").expect("`cargo xtask test` sets it");
    let name = format!("penstock_suite_{}", std::process::id());
    let mut connection = sqlx::PgConnection::connect(&server).await.expect("a server");
    let create = sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"));
    sqlx::query(create).execute(&mut connection).await.expect("a database");
    let (host, _) = server.rsplit_once('/').expect("a database in the URL");
    let options = Options { max_connections: 12, application_name: "suite".into() };
    let store = PostgresStore::connect(&format!("{host}/{name}"), options).expect("a URL");
    store.migrate().await.expect("a schema");
    let store: Arc<dyn Store> = Arc::new(store);
    penstock_store_conformance::all(store, 80).await;
}
