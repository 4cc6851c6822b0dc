//! The suite that every store passes, on the PostgreSQL that `cargo xtask test` starts.

mod support;

use std::sync::Arc;

use penstock_store::Store;
use penstock_store_conformance::decoding;

use crate::support::{migrated, run};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_does_what_every_store_does() {
    let (store, _) = migrated("suite").await;
    penstock_store_conformance::all(Arc::new(store), 80).await;
}

#[tokio::test]
async fn values_that_cannot_be_are_errors() {
    let (store, url) = migrated("damaged").await;
    let store: Arc<dyn Store> = Arc::new(store);
    let beside = |statement: String| {
        let url = url.clone();
        async move { run(&url, &statement).await }
    };
    decoding::invalid_values_are_errors(&store, beside).await;
    decoding::an_unreadable_batch_holds_up_no_sweep(&store, beside).await;
    decoding::an_unreadable_batch_holds_up_no_run(&store, beside).await;
}
