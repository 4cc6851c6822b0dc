//! The cases that every store passes, on the PostgreSQL that `cargo xtask test` starts.

mod support;

use std::sync::Arc;

use penstock_store::Store;
use penstock_store::operations::Operations as _;
use penstock_store_conformance::decoding;
use tokio::sync::OnceCell;

use crate::support::{database, migrated, open as connect, run, server};

/// A migrated database that the others are copies of: a copy takes a fraction of the migrations.
static TEMPLATE: OnceCell<String> = OnceCell::const_new();

async fn template() -> String {
    let (name, url) = database("template", None).await;
    connect(&url, 1).migrate().await.expect("a schema");
    // Nobody may be connected to what is copied.
    let others = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'");
    run(&server(), &others).await;
    name
}

/// A database of a case's own.
async fn open(case: &str) -> (Arc<dyn Store>, ()) {
    let template = TEMPLATE.get_or_init(template).await;
    let (_, url) = database(case, Some(template)).await;
    (connect(&url, 12).shared(), ())
}

penstock_store_conformance::suite!(open, seeds: 80);

#[tokio::test]
async fn values_that_cannot_be_are_errors() {
    let (store, url) = migrated("damaged").await;
    let store = store.shared();
    let beside = |statement: String| {
        let url = url.clone();
        async move { run(&url, &statement).await }
    };
    decoding::invalid_values_are_errors(&store, beside).await;
    decoding::an_unreadable_batch_holds_up_no_sweep(&store, beside).await;
    decoding::a_row_with_an_invalid_number_holds_up_no_sweep(&store, beside).await;
    decoding::an_unreadable_batch_holds_up_no_run(&store, beside).await;
}
