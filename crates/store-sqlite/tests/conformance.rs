//! The suite that every store passes, on SQLite.

use std::sync::Arc;

use penstock_store::Store;
use penstock_store::operations::Operations as _;
use penstock_store_conformance::decoding;
use penstock_store_sqlite::SqliteStore;
use sqlx::Connection as _;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_does_what_every_store_does() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = SqliteStore::open(&format!("sqlite://{}", folder.path().join("suite.db").display()))
        .await
        .expect("a database");
    store.migrate().await.expect("a schema");
    let store: Arc<dyn Store> = Arc::new(store);
    penstock_store_conformance::all(store, 150).await;
}

#[tokio::test]
async fn values_that_cannot_be_are_errors() {
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("sqlite://{}", folder.path().join("damaged.db").display());
    let store = SqliteStore::open(&url).await.expect("a database");
    store.migrate().await.expect("a schema");
    let store: Arc<dyn Store> = Arc::new(store);
    let beside = |statement: String| {
        let url = url.clone();
        async move {
            let mut connection = sqlx::SqliteConnection::connect(&url).await.expect("the database");
            sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut connection).await.expect("it runs");
        }
    };
    decoding::invalid_values_are_errors(&store, beside).await;
    decoding::an_unreadable_batch_holds_up_no_sweep(&store, beside).await;
    decoding::an_unreadable_batch_holds_up_no_run(&store, beside).await;
}
