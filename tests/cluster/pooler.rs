//! PostgreSQL behind a pooler whose settings are Debian's, in each of the modes that keep transactions whole.

use penstock_sandbox::{Config, Sandbox};
use penstock_tests::database::Database;
use penstock_tests::pgbouncer::PgBouncer;
use penstock_tests::{Client, Place};

use crate::{ROUTE, invite, people, until_ready};

/// Rows that are uploaded.
const ROWS: u32 = 300;

/// Everything from the first migration on goes through the pooler, which has ten sessions of the server. The owner of the
/// database has settings that would break transactions; in transaction mode no session could keep others.
async fn a_batch_runs_through(mode: &str, connections: u32, dispatchers: usize) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let mut place = Place::bare(&[("invite.yaml", &invite())]);
    let mut beside = Database::of(&place).await;
    let direct = place.unset("DATABASE_URL").expect("a database");
    let (_, name) = direct.rsplit_once('/').expect("a database in the URL");
    for setting in ["default_transaction_isolation = 'serializable'", "lock_timeout = '1ms'"] {
        beside.run_owned(format!("ALTER DATABASE {name} SET {setting}")).await;
    }
    let pooler = PgBouncer::before(&direct, mode);
    place.set("DATABASE_URL", pooler.url(name));
    place.set("PENSTOCK_DATABASE_CONNECTIONS", connections.to_string());
    for _ in 0..2 {
        let (said, good) = place.say(&sandbox, &["migrate"]);
        assert!(good, "{mode}: {said}");
    }
    let (api, worker) = (place.api(&sandbox), place.worker(&sandbox));
    until_ready(&api, 200).await;
    until_ready(&worker, 200).await;
    let client = Client::new(&api, &place.key(&sandbox, "acme"));
    let running: Vec<_> = (0..dispatchers).map(|_| place.dispatcher(&sandbox, "300ms")).collect();
    let (status, batch) = client.upload(ROUTE, people(ROWS, "p")).await.expect("an answer");
    assert_eq!(status, 202, "{batch}");
    let id = batch["id"].as_str().expect("an id");
    let batch = client.finished(id).await;
    assert_eq!(batch["counts"]["completed"], ROWS, "{batch}");
    assert_eq!((sandbox.stats().effects, sandbox.stats().doubled), (u64::from(ROWS), 0));
    // Single runs after each other: none finds the lock of one that has ended.
    drop(running);
    for _ in 0..3 {
        let run = place.dispatch_once(&sandbox);
        assert_eq!(run["locked_out"], false, "{mode}: {run}");
    }
    let (doctor, _) = place.operate(&sandbox, &["doctor"]);
    let failed = doctor.as_array().expect("lines").iter().any(|line| line["verdict"] == "fail");
    assert!(!failed, "{mode}: {doctor}");
    let locks = "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database \
                 WHERE l.locktype = 'advisory' AND d.datname = current_database() AND l.objsubid = 1 AND NOT EXISTS \
                 (SELECT 1 FROM pg_stat_activity a WHERE a.pid = l.pid AND a.state <> 'idle')";
    assert_eq!(beside.number(locks).await, 0, "{mode}: a lock was left in a session");
    let log = std::fs::read_to_string(place.log()).expect("a log");
    assert!(!log.contains("prepared statement"), "{mode}: {}", pooler.log());
}

#[tokio::test]
async fn a_batch_runs_through_a_pooler_in_transaction_mode() {
    a_batch_runs_through("transaction", 16, 2).await;
}

/// Sessions are the programs' own there: the pool has as many as they open together.
#[tokio::test]
async fn a_batch_runs_through_a_pooler_in_session_mode() {
    a_batch_runs_through("session", 2, 1).await;
}
