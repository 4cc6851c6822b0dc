//! A schema's way up: while programs work, and what a program says that meets another one.

use std::sync::Arc;

use penstock_store::operations::Operations;
use penstock_store::{Store, StoreError};

use crate::history;

/// Random histories run on the schema of the first release while the database is brought to the present one: no call
/// fails, every promise holds after every step, and the histories end as they would have.
pub async fn an_upgrade_disturbs_nobody<S: Store + 'static>(store: Arc<S>) {
    let old = store.check_schema().await;
    assert!(
        matches!(old, Err(StoreError::Schema { found: 1, .. })),
        "a program says that it is older: {old:?}"
    );
    let working: Arc<dyn Store> = store.clone();
    let walks = tokio::spawn(async move {
        for seed in 1000..1012 {
            history::walk(&working, seed).await;
        }
    });
    // In the middle of it.
    tokio::time::sleep(std::time::Duration::from_millis(400)).await;
    assert!(!walks.is_finished(), "the histories are still on their way");
    let (from, to) = store.migrate().await.expect("it is brought up to date");
    assert!(from == 1 && to > from);
    walks.await.expect("every history ends well");
    store.check_schema().await.expect("it fits now");
    // Bringing it up twice is harmless.
    assert_eq!(store.migrate().await.expect("nothing to do"), (to, to));
}

/// A newer schema stops a program, unless it says that it serves that program too. `pretend` makes the schema say that
/// its version is the first number and that programs of the second one, if there is one, are served.
pub async fn a_newer_schema_says_whom_it_serves<S, F>(store: Arc<S>, pretend: impl Fn(i64, Option<i64>) -> F)
where
    S: Operations,
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
