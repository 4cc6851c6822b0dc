//! Databases of the tests' own.

use penstock_store::operations::Operations as _;
use penstock_store_postgres::{Options, PostgresStore};
use sqlx::Connection as _;

/// Runs a statement beside the store.
pub async fn run(url: &str, statement: &str) {
    let mut connection = sqlx::PgConnection::connect(url).await.expect("a server");
    let text = sqlx::AssertSqlSafe(statement.to_owned());
    sqlx::raw_sql(text).execute(&mut connection).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
}

/// The server's own database.
pub fn server() -> String {
    std::env::var("PENSTOCK_TEST_POSTGRES_URL").expect("`cargo xtask test` sets it")
}

/// A new database, empty or as another one is; its name and URL.
pub async fn database(name: &str, template: Option<&str>) -> (String, String) {
    let name = format!("penstock_{name:.40}_{}", std::process::id());
    let like = template.map_or(String::new(), |template| format!(" TEMPLATE {template}"));
    run(&server(), &format!("CREATE DATABASE {name}{like}")).await;
    let server = server();
    let (host, _) = server.rsplit_once('/').expect("a database in the URL");
    let url = format!("{host}/{name}");
    (name, url)
}

/// A store.
pub fn open(url: &str, max_connections: u32) -> PostgresStore {
    let options =
        Options { max_connections, application_name: "suite".into(), sessions: None, password: None };
    PostgresStore::connect(url, options).expect("a URL")
}

/// A store on a database of the test's own that is up to date, and the database's URL.
pub async fn migrated(name: &str) -> (PostgresStore, String) {
    let (_, url) = database(name, None).await;
    let store = open(&url, 12);
    store.migrate().await.expect("a schema");
    (store, url)
}
