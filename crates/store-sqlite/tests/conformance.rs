//! The cases that every store passes, on SQLite.

use std::sync::Arc;

use penstock_store::Store;
use penstock_store::operations::Operations as _;
use penstock_store_conformance::decoding;
use penstock_store_sqlite::SqliteStore;
use sqlx::Connection as _;
use tempfile::TempDir;

/// A database of a case's own, and its folder.
async fn open(case: &str) -> (Arc<dyn Store>, TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let store = SqliteStore::open(&url(&folder, case)).await.expect("a database");
    store.migrate().await.expect("a schema");
    (store.shared(), folder)
}

fn url(folder: &TempDir, case: &str) -> String {
    format!("sqlite://{}", folder.path().join(case).display())
}

penstock_store_conformance::suite!(open, seeds: 150);

#[tokio::test]
async fn values_that_cannot_be_are_errors() {
    let (store, folder) = open("damaged").await;
    let url = url(&folder, "damaged");
    let beside = |statement: String| {
        let url = url.clone();
        async move {
            let mut connection = sqlx::SqliteConnection::connect(&url).await.expect("the database");
            sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut connection).await.expect("it runs");
        }
    };
    decoding::invalid_values_are_errors(&store, beside).await;
    decoding::an_unreadable_batch_holds_up_no_sweep(&store, beside).await;
    decoding::a_row_with_an_invalid_number_holds_up_no_sweep(&store, beside).await;
    decoding::an_unreadable_batch_holds_up_no_run(&store, beside).await;
}
