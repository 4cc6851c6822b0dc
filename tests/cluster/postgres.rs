//! PostgreSQL as companies have it: two hosts of which either may be the primary, TLS with an authority of one's own, a
//! password that changes, schemas and rights.

use std::time::{Duration, Instant};

use penstock_sandbox::{Config, Faults, Sandbox};
use penstock_tests::pgbouncer::PgBouncer;
use penstock_tests::postgres::Postgres;
use penstock_tests::{Client, PATIENCE, Place};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use crate::{ROUTE, invite, people, until_ready};

pub(crate) async fn run(url: &str, statements: &str) {
    let mut connection = PgConnection::connect(url).await.expect("it answers");
    sqlx::raw_sql(AssertSqlSafe(statements.to_owned())).execute(&mut connection).await.expect("it runs");
}

/// A place whose database is nowhere yet.
fn bare() -> (Sandbox, Place) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let faults = Faults { latency_ms: 20, ..Faults::default() };
    let sandbox = Sandbox::start(Config { faults, ..Config::default() }).expect("a sandbox");
    let mut place = Place::bare(&[("invite.yaml", &invite())]);
    place.unset("DATABASE_URL");
    (sandbox, place)
}

/// Both hosts are in the URL. The standby becomes the primary in the middle of a batch: the programs find it by themselves, calls
/// go on within five seconds, and every row ends once. `pooler`: the mode of one before each host.
async fn a_promoted_standby_is_found(pooler: Option<&str>) {
    const ROWS: u32 = if cfg!(debug_assertions) { 2000 } else { 20_000 };
    let (sandbox, mut place) = bare();
    let primary = Postgres::start().await;
    let standby = primary.standby();
    let poolers = pooler
        .map(|mode| [&standby, &primary].map(|server| PgBouncer::before(&server.url("penstock"), mode)));
    // The standby comes first: the one that takes writes is not the first one.
    let hosts = match &poolers {
        Some(poolers) => poolers.each_ref().map(PgBouncer::address),
        None => [standby.address(), primary.address()],
    };
    let hosts = hosts.join(",");
    if pooler == Some("session") {
        // A pool has as many sessions as the programs open together.
        place.set("PENSTOCK_DATABASE_CONNECTIONS", "2".to_owned());
    }
    place
        .set("DATABASE_URL", format!("postgres://postgres@{hosts}/penstock?target_session_attrs=read-write"));
    let (said, good) = place.say(&sandbox, &["migrate"]);
    assert!(good, "{said}");
    let client_key = place.key(&sandbox, "acme");
    let (api, worker) = (place.api(&sandbox), place.worker(&sandbox));
    let _dispatcher = place.dispatcher(&sandbox, "200ms");
    until_ready(&api, 200).await;
    let client = Client::new(&api, &client_key);
    let (status, batch) = client.upload(ROUTE, people(ROWS, "p")).await.expect("an answer");
    assert_eq!(status, 202, "{batch}");
    while sandbox.stats().effects < 300 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    primary.shut_down();
    until_ready(&worker, 503).await;
    let before = sandbox.stats().effects;
    assert!(before < u64::from(ROWS), "it was in the middle of it");
    standby.promote();
    let promoted = Instant::now();
    while sandbox.stats().effects == before {
        assert!(promoted.elapsed() < PATIENCE, "nothing goes on");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let stood_still = promoted.elapsed();
    println!("calls went on {stood_still:?} after the promotion");
    assert!(
        stood_still < Duration::from_secs(if cfg!(debug_assertions) { 30 } else { 5 }),
        "{stood_still:?}"
    );
    let ended = client.finished(batch["id"].as_str().expect("an id")).await;
    println!("all {ROWS} rows had ended {:?} after the promotion", promoted.elapsed());
    assert_eq!(ended["counts"]["completed"], ROWS, "{ended}");
    assert_eq!((sandbox.stats().effects, sandbox.stats().doubled), (u64::from(ROWS), 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promoted_standby_is_found_among_the_hosts() {
    a_promoted_standby_is_found(None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promoted_standby_is_found_behind_poolers_in_session_mode() {
    a_promoted_standby_is_found(Some("session")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promoted_standby_is_found_behind_poolers_in_transaction_mode() {
    a_promoted_standby_is_found(Some("transaction")).await;
}

/// `verify-full` with an authority of one's own, and a password of slashes and at signs that is in a file and is replaced while the
/// programs run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_is_verified_and_the_password_may_change() {
    let (sandbox, mut place) = bare();
    let server = Postgres::start().await;
    let authority = server.with_tls().await;
    run(
        &server.url("penstock"),
        "CREATE ROLE app LOGIN PASSWORD 'o/l@d'; GRANT CREATE ON SCHEMA public TO app",
    )
    .await;
    let address = server.address();
    let port = address.rsplit(':').next().expect("a port");
    let tls = format!("sslmode=verify-full&sslrootcert={}", authority.display());
    let url = |user: &str, host: &str, tls: &str| format!("postgres://{user}@{host}:{port}/penstock?{tls}");
    for (url, why) in [
        (url("app:o/l@d", "localhost", &tls), "certificate"),
        (url("app:o/l@d", "127.0.0.1", "sslmode=verify-full"), "certificate"),
        (url("app:o/l@d", "127.0.0.1", &format!("{tls}&channel_binding=require")), "remove it"),
        (url("app:o/l@d", "127.0.0.1", &format!("{tls}&target_session_attrs=standby")), "use read-write"),
    ] {
        place.unset("DATABASE_URL");
        place.set("DATABASE_URL", url);
        let (said, good) = place.say(&sandbox, &["migrate"]);
        assert!(!good && said.contains(why) && !said.contains("l@d"), "{why}: {said}");
    }
    place.unset("DATABASE_URL");
    place.set("DATABASE_URL", url("app:o/l@d", "127.0.0.1", &tls));
    let (said, good) = place.say(&sandbox, &["migrate"]);
    assert!(good, "{said}");
    place.unset("DATABASE_URL");
    place.set("DATABASE_URL", url("app", "127.0.0.1", &tls));
    let file = place.write("password", "o/l@d\n");
    place.set("PENSTOCK_DATABASE_PASSWORD_FILE", file.clone());
    let api = place.api(&sandbox);
    until_ready(&api, 200).await;
    run(&server.url("penstock"), "ALTER ROLE app PASSWORD 'n/e@w'").await;
    std::fs::write(&file, "n/e@w").expect("a file");
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'";
    run(&server.url("penstock"), end).await;
    until_ready(&api, 200).await;
    let key = place.key(&sandbox, "acme");
    let (status, batch) = Client::new(&api, &key).upload(ROUTE, people(3, "p")).await.expect("an answer");
    assert_eq!(status, 202, "{batch} {}", std::fs::read_to_string(place.log()).unwrap_or_default());
}

/// What the role lacks is named as the statement that grants it; and tables in a schema where the role does not look are found, and no
/// second, empty installation is made beside them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rights_and_schemas_are_named() {
    let (sandbox, mut place) = bare();
    let server = Postgres::start().await;
    let own = server.url("penstock");
    run(&own, "CREATE ROLE app LOGIN; CREATE ROLE other LOGIN").await;
    let of = |role: &str| own.replace("postgres@", &format!("{role}@"));
    place.set("DATABASE_URL", of("app"));
    let (said, good) = place.say(&sandbox, &["migrate"]);
    assert!(!good && said.contains("GRANT CREATE ON SCHEMA public TO app"), "{said}");
    run(&own, "CREATE SCHEMA hidden AUTHORIZATION app; ALTER ROLE app SET search_path = hidden").await;
    let (said, good) = place.say(&sandbox, &["migrate"]);
    assert!(good, "{said}");
    run(&own, "ALTER ROLE app RESET search_path; GRANT CREATE ON SCHEMA public TO app, other").await;
    let (said, good) = place.say(&sandbox, &["migrate"]);
    assert!(!good && said.contains("SET search_path = hidden"), "{said}");
    let (doctor, good) = place.operate(&sandbox, &["doctor"]);
    let schema = doctor.as_array().expect("lines").iter().find(|line| line["what"] == "schema");
    let schema = schema.unwrap_or_else(|| panic!("{doctor}"));
    let found = schema["found"].as_str().expect("a sentence");
    assert!(!good && found.contains("hidden") && !found.contains("penstock migrate"), "{schema}");
    // Another role's installation is none of its business.
    place.unset("DATABASE_URL");
    place.set("DATABASE_URL", of("other"));
    let (said, good) = place.say(&sandbox, &["migrate"]);
    assert!(good, "{said}");
    place.unset("DATABASE_URL");
    // As after an update of the program: a migration is to come, and the role that runs it owns nothing.
    run(&own, "GRANT SELECT ON ALL TABLES IN SCHEMA public TO app; ALTER ROLE app SET search_path = public")
        .await;
    run(&own, "DELETE FROM _sqlx_migrations WHERE version = 26; DROP TABLE installation").await;
    place.set("DATABASE_URL", of("app"));
    let (said, good) = place.say(&sandbox, &["migrate"]);
    assert!(!good && said.contains("GRANT other TO app"), "{said}");
}
