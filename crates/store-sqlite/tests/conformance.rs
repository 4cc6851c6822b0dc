//! The suite that every store passes, on SQLite.

use std::sync::Arc;

use penstock_store::Store;
use penstock_store::operations::Operations as _;
use penstock_store_sqlite::SqliteStore;

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
