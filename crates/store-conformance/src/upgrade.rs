//! A schema's way up: while programs work, and what a program says that meets another one.

use std::sync::Arc;

use penstock_store::{Store, StoreError};

use crate::history;

/// Tables that grow by a column in a next release's migration: all that a program beside it reads and writes.
const GROWING: [&str; 11] = [
    "owners",
    "api_keys",
    "batches",
    "batch_keys",
    "row_data",
    "row_state",
    "row_output",
    "row_receipts",
    "callbacks",
    "audit",
    "workers",
];

/// What a next release's migration does first, statement by statement: it expands. Programs of this release work
/// beside it until they are replaced.
pub fn expansion() -> Vec<String> {
    let columns = GROWING.iter().map(|table| format!("ALTER TABLE {table} ADD COLUMN later INTEGER"));
    columns
        .chain([
            "CREATE TABLE later_things (batch BIGINT PRIMARY KEY, body TEXT NOT NULL)".to_owned(),
            "CREATE INDEX row_state_later ON row_state (batch, later) WHERE status = 0".to_owned(),
        ])
        .collect()
}

/// Random histories run on the present schema while a next release expands it: no call fails, every promise holds after
/// every step, and the histories end as they would have. `expand` carries out [`expansion`].
pub async fn an_upgrade_disturbs_nobody<F: Future<Output = ()>>(store: Arc<dyn Store>, expand: F) {
    let working = store.clone();
    let walks = tokio::spawn(async move {
        for seed in 1000..1016 {
            history::walk(&working, seed).await;
        }
    });
    // In the middle of it.
    tokio::time::sleep(std::time::Duration::from_millis(400)).await;
    assert!(!walks.is_finished(), "the histories are still on their way");
    expand.await;
    assert!(!walks.is_finished(), "and go on behind it");
    walks.await.expect("every history ends well");
}

/// The schema of the first release is brought up to date, and a program that meets it before says so.
pub async fn an_old_schema_is_brought_up_to_date(store: Arc<dyn Store>) {
    let old = store.check_schema().await;
    assert!(
        matches!(old, Err(StoreError::Schema { found: 1, .. })),
        "a program says that it is older: {old:?}"
    );
    let (from, to) = store.migrate().await.expect("it is brought up to date");
    assert!(from == 1 && to > from);
    store.check_schema().await.expect("it fits now");
    // Bringing it up twice is harmless.
    assert_eq!(store.migrate().await.expect("nothing to do"), (to, to));
}

/// A newer schema stops a program, unless it says that it serves that program too. `pretend` makes the schema say that
/// its version is the first number and that programs of the second one, if there is one, are served.
pub async fn a_newer_schema_says_whom_it_serves<F>(
    store: Arc<dyn Store>,
    pretend: impl Fn(i64, Option<i64>) -> F,
) where
    F: Future<Output = ()>,
{
    store.check_schema().await.expect("its own schema");
    pretend(9001, None).await;
    let refused = store.check_schema().await.expect_err("nothing is known of it");
    assert!(matches!(refused, StoreError::Schema { found: 9001, .. }), "{refused}");
    assert!(store.migrate().await.is_err(), "an old program brings no newer schema anywhere");
    pretend(9002, Some(9002)).await;
    store.check_schema().await.expect_err("it serves newer programs only");
    pretend(9003, Some(1)).await;
    store.check_schema().await.expect("it serves this one");
}

/// An installation that was in use before installations had ids has none: its keys in Redis keep their names.
pub async fn an_installation_before_ids_has_none(store: Arc<dyn Store>) {
    store.migrate_to(25).await.expect("the schema before ids");
    assert!(store.set_secret("fingerprint", None, b"sealed").await.expect("it is kept"));
    store.migrate().await.expect("it is brought up to date");
    assert_eq!(store.installation().await.expect("it is known"), "");
}
