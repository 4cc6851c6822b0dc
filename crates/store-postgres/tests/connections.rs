//! Connections: their settings, what becomes of those that fall silent, and what an error means.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use penstock_sandbox::proxy::Proxy;
use penstock_store::operations::Operations as _;
use penstock_store::reading::RowFilter;
use penstock_store::work::Settlement;
use penstock_store::workers::ComeBack;
use penstock_store::{Store, StoreError};
use penstock_store_conformance::fixture::{
    LEASE, START, SUITE, claim, completed, extracted, look, new_batch, register, release, token,
};
use penstock_store_conformance::{history, races};
use sqlx::{Connection as _, Executor as _, PgConnection};

use crate::support::{database, migrated, open, run, server};

/// Everything goes on within this time after connections have fallen silent.
const GOES_ON: Duration = Duration::from_secs(10);

/// Calls until it works; every error before is one that may pass.
async fn until_it_works<T, F: Future<Output = Result<T, StoreError>>>(call: impl Fn() -> F) -> T {
    loop {
        match call().await {
            Ok(value) => return value,
            Err(error) => assert!(error.is_transient(), "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connections_are_replaced() {
    let (_, url) = migrated("silent").await;
    let (proxy, through) = Proxy::before(&url).expect("a proxy");
    let store: Arc<dyn Store> = open(&through, 6).shared();
    let batches: Vec<_> = {
        let mut all = Vec::new();
        for _ in 0..3 {
            all.push(extracted(&store, &new_batch(&store, 2).await, 2).await);
        }
        all
    };
    // Several idle connections.
    let pings = (0..6).map(|_| store.now());
    futures::future::try_join_all(pings).await.unwrap();
    // One that waits for an answer, and one that is inside a transaction and holds a batch. Both wait for a table that
    // somebody else has locked.
    let mut beside = PgConnection::connect(&url).await.unwrap();
    beside.execute("BEGIN; LOCK TABLE audit IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let held = batches[0].seq;
    let inside = tokio::spawn({
        let store = store.clone();
        async move { store.cancel(held, "operator:suite", START).await }
    });
    let waiting =
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%audit%'";
    // A transaction would see the same activity each time.
    let mut watching = PgConnection::connect(&url).await.unwrap();
    let began = Instant::now();
    while sqlx::query_scalar::<_, i64>(waiting).fetch_one(&mut watching).await.unwrap() != 1 {
        assert!(began.elapsed() < GOES_ON, "it waits for the table");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    proxy.silence();
    let began = Instant::now();
    beside.execute("ROLLBACK").await.unwrap();
    let free = batches[1].seq;
    until_it_works(|| store.pause(free, "operator:suite", START)).await;
    assert!(began.elapsed() < GOES_ON, "another batch: {:?}", began.elapsed());
    until_it_works(|| store.cancel(held, "operator:suite", START)).await;
    assert!(began.elapsed() < GOES_ON, "the batch that was held: {:?}", began.elapsed());
    let broken = inside.await.unwrap().unwrap_err();
    assert!(broken.is_transient(), "{broken}");
    // No connection is lost for good: as many as the pool has can be used at once.
    let all = (0..6).map(|_| store.now());
    futures::future::try_join_all(all).await.unwrap();
    assert!(began.elapsed() < GOES_ON, "all connections: {:?}", began.elapsed());
}

/// A process that was taken for dead is recorded again while its rows are being taken: it waits, and then knows which of them it
/// has lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_recorded_again_knows_what_was_taken() {
    let (store, url) = migrated("recorded").await;
    let store: Arc<dyn Store> = store.shared();
    let batch = extracted(&store, &new_batch(&store, 1).await, 1).await;
    let rows = release(&store, batch.seq, 1, START).await;
    claim(&store, &rows, token(), START).await;
    store.leave(SUITE).await.unwrap();
    // Whoever takes the row has looked for the record already, and waits for the row.
    let mut beside = PgConnection::connect(&url).await.unwrap();
    beside.execute("BEGIN; SELECT 1 FROM row_state FOR UPDATE").await.unwrap();
    let taking = tokio::spawn({
        let store = store.clone();
        async move { store.reclaim(ComeBack::Pending, START).await }
    });
    let mut watching = PgConnection::connect(&url).await.unwrap();
    let waiting = async |watching: &mut PgConnection, what: &str| {
        let query = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database() \
             AND query LIKE '%penstock:{what}%'"
        );
        sqlx::query_scalar::<_, i64>(sqlx::AssertSqlSafe(query)).fetch_one(watching).await.unwrap() > 0
    };
    let began = Instant::now();
    while !waiting(&mut watching, "row_take_back_if_held").await {
        assert!(began.elapsed() < GOES_ON, "it waits for the row");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let recorded = tokio::spawn({
        let store = store.clone();
        async move {
            register(&store, SUITE, LEASE).await;
            store.held_by(SUITE).await
        }
    });
    while !recorded.is_finished() && !waiting(&mut watching, "worker_lock_all").await {
        assert!(began.elapsed() < GOES_ON, "it is recorded, or waits");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    beside.execute("ROLLBACK").await.unwrap();
    assert_eq!(taking.await.unwrap().unwrap().rows(), 1);
    assert_eq!(recorded.await.unwrap().unwrap(), [], "the row is somebody else's");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_lock_of_a_silent_dispatcher_is_freed() {
    let (direct, url) = migrated("run_lock").await;
    let (proxy, through) = Proxy::before(&url).expect("a proxy");
    let far = open(&through, 2);
    let direct: Arc<dyn Store> = direct.shared();
    let far: Arc<dyn Store> = far.shared();
    let lock = far.lock_run().await.unwrap().expect("it is free");
    // Longer than the server waits for a client that says nothing: this one keeps its lock.
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert!(direct.lock_run().await.unwrap().is_none(), "somebody has it");
    proxy.silence();
    let began = Instant::now();
    while direct.lock_run().await.unwrap().is_none() {
        assert!(began.elapsed() < GOES_ON, "it is still held");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    drop(lock);
    // One that is dropped is free at once.
    let lock = until_it_works(|| far.lock_run()).await;
    drop(lock);
    let began = Instant::now();
    while direct.lock_run().await.unwrap().is_none() {
        assert!(began.elapsed() < Duration::from_secs(2), "it was dropped");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// What a team sets for its database or its role is not what the transactions here rely on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_databases_own_settings_change_nothing() {
    let (name, url) = database("settings", None).await;
    open(&url, 2).migrate().await.expect("a schema");
    run(&url, "CREATE SCHEMA somewhere").await;
    for isolation in ["repeatable read", "serializable"] {
        for setting in [
            format!("default_transaction_isolation = '{isolation}'"),
            "statement_timeout = '20ms'".to_owned(),
            "lock_timeout = '1ms'".to_owned(),
            "idle_in_transaction_session_timeout = '20ms'".to_owned(),
            "idle_session_timeout = '20ms'".to_owned(),
            "synchronous_commit = 'off'".to_owned(),
            "search_path = 'somewhere, public'".to_owned(),
        ] {
            // From another database: such settings end a connection of this one at once.
            run(&server(), &format!("ALTER DATABASE {name} SET {setting}")).await;
        }
        let store: Arc<dyn Store> = open(&url, 8).shared();
        store.check_schema().await.expect("the tables are found");
        // Longer than a session may be idle by the database's default, and not long enough for a connection to be tried first.
        tokio::time::sleep(Duration::from_millis(200)).await;
        store.check_schema().await.expect("its connection is still open");
        store.migrate().await.expect("nothing to do");
        races::settlements_of_one_batch_at_once_all_count(&store).await;
        races::a_row_is_claimed_once(&store).await;
        races::one_idempotency_key_makes_one_batch(&store).await;
        for seed in 1..=3 {
            history::walk(&store, seed).await;
        }
    }
}

#[tokio::test]
async fn a_read_only_database_is_unavailable_and_its_connections_are_replaced() {
    let (store, url) = migrated("read_only").await;
    let name = url.rsplit_once('/').unwrap().1;
    let store: Arc<dyn Store> = store.shared();
    let batch = extracted(&store, &new_batch(&store, 1).await, 1).await;
    let rows = release(&store, batch.seq, 1, START).await;
    let held = token();
    claim(&store, &rows, held, START).await;
    run(&url, &format!("ALTER DATABASE {name} SET default_transaction_read_only = on")).await;
    // Present connections have the setting that they were opened with: they are as good as those to an old primary.
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
    run(&url, end).await;
    let settled = [completed(rows[0], held)];
    let settle = |group: &[Settlement]| {
        let (store, group) = (store.clone(), group.to_vec());
        async move { store.settle(&group, START).await }
    };
    let mut read_only = false;
    for _ in 0..20 {
        let error = settle(&settled).await.unwrap_err();
        assert!(error.is_transient(), "{error}");
        read_only |= error.to_string().contains("read-only");
    }
    assert!(read_only, "it says why");
    // From another database: this one takes no command.
    let server = std::env::var("PENSTOCK_TEST_POSTGRES_URL").unwrap();
    run(&server, &format!("ALTER DATABASE {name} RESET default_transaction_read_only")).await;
    let began = Instant::now();
    until_it_works(|| settle(&settled)).await;
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!(look(&store, batch.seq).await.ledger.counts.completed, 1);
}

/// A read whose client hung up ends on the server at once, and its connection serves others: with as many hanging reads as there
/// are connections, and again and again.
#[tokio::test]
async fn a_read_ends_with_its_client() {
    let (_, url) = migrated("hung_up").await;
    let store: Arc<dyn Store> = open(&url, 3).shared();
    let batch = extracted(&store, &new_batch(&store, 2).await, 2).await.seq;
    let filter = RowFilter { limit: 10, ..RowFilter::default() };
    let mut beside = PgConnection::connect(&url).await.unwrap();
    let mut watch = PgConnection::connect(&url).await.unwrap();
    let running = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'active' \
                   AND query LIKE '%penstock:row_list%' AND pid <> pg_backend_pid()";
    for _ in 0..5 {
        beside.execute("BEGIN; LOCK TABLE row_data IN ACCESS EXCLUSIVE MODE").await.unwrap();
        let readers: Vec<_> = (0..3)
            .map(|_| {
                let (store, filter) = (store.clone(), filter.clone());
                tokio::spawn(async move { store.rows(batch, &filter).await.map(|page| page.rows.len()) })
            })
            .collect();
        let mut count = async || sqlx::query_scalar::<_, i64>(running).fetch_one(&mut watch).await.unwrap();
        while count().await < 3 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        readers.iter().for_each(tokio::task::JoinHandle::abort);
        let began = Instant::now();
        while count().await > 0 {
            assert!(began.elapsed() < Duration::from_secs(2), "they run on for nobody");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        beside.execute("ROLLBACK").await.unwrap();
        let began = Instant::now();
        assert_eq!(store.rows(batch, &filter).await.unwrap().rows.len(), 2);
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    }
}

#[tokio::test]
async fn only_errors_about_data_are_about_data() {
    let (_, url) = migrated("errors").await;
    let role = format!("penstock_weak_{}", std::process::id());
    run(&url, &format!("CREATE ROLE {role} LOGIN; GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")).await;
    let weak = url.replacen("postgres@", &format!("{role}@"), 1);
    let store: Arc<dyn Store> = open(&weak, 4).shared();
    let owner = store.ensure_owner("acme", START).await.expect("it may");
    run(&url, &format!("REVOKE SELECT, INSERT ON batches FROM {role}")).await;
    let new = new_batch(&store, 1).await;
    let refused = store.create_batch(&new).await.unwrap_err();
    assert!(matches!(refused, StoreError::Refused { .. }), "a missing right: {refused}");
    run(&url, &format!("GRANT SELECT, INSERT ON batches TO {role}")).await;
    store.create_batch(&new).await.expect("it may again");
    let twice = store.create_batch(&new).await.unwrap_err();
    assert!(matches!(twice, StoreError::InvalidData { .. }), "the same id twice: {twice}");
    run(&url, "ALTER TABLE owners RENAME TO others").await;
    let missing = store.owners().await.unwrap_err();
    assert!(matches!(missing, StoreError::Refused { .. }), "a missing table: {missing}");
    run(&url, "ALTER TABLE others RENAME TO owners").await;
    // A table that is locked for longer than a statement waits.
    let mut beside = PgConnection::connect(&url).await.unwrap();
    beside.execute("BEGIN; LOCK TABLE owners IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let locked = store.set_owner(&owner.name, None, Some(2)).await.unwrap_err();
    assert!(locked.is_transient(), "{locked}");
    beside.execute("ROLLBACK").await.unwrap();
    assert_eq!(store.set_owner(&owner.name, None, Some(2)).await.unwrap().weight, 2);
}
