//! Redis as companies have it: shared with others, with few rights, behind Sentinels, as a cluster.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use penstock_sandbox::{Config, Faults, Sandbox};
use penstock_tests::redis::Redis;
use penstock_tests::{Client, PATIENCE, Place, Service};
use serde_json::Value;

use crate::{ROUTE, invite, people, until_ready};

const ROWS: u32 = 300;

/// The programs of an installation, on a Redis of the test's own.
struct Scene {
    sandbox: Sandbox,
    place: Place,
    api: Service,
    worker: Service,
    _dispatcher: Service,
    client: Client,
}

impl Scene {
    fn start(settings: &[(&'static str, String)], latency_ms: u64) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let faults = Faults { latency_ms, ..Faults::default() };
        let sandbox = Sandbox::start(Config { faults, ..Config::default() }).expect("a sandbox");
        let mut place = Place::new(&[("invite.yaml", &invite())]);
        for (name, value) in settings {
            place.unset(name);
            place.set(name, value.clone());
        }
        let key = place.key(&sandbox, "acme");
        let (api, worker) = (place.api(&sandbox), place.worker(&sandbox));
        let dispatcher = place.dispatcher(&sandbox, "200ms");
        let client = Client::new(&api, &key);
        Self { sandbox, place, api, worker, _dispatcher: dispatcher, client }
    }

    async fn upload(&self, rows: u32, word: &str) -> String {
        let (status, batch) = self.client.upload(ROUTE, people(rows, word)).await.expect("an answer");
        assert_eq!(status, 202, "{batch}");
        batch["id"].as_str().expect("an id").to_owned()
    }

    /// Rows are uploaded, called and ended.
    async fn runs(&self, word: &str) {
        let ended = self.client.finished(&self.upload(ROWS, word).await).await;
        assert_eq!(ended["counts"]["completed"], ROWS, "{ended}");
        assert_eq!(self.sandbox.stats().doubled, 0);
    }

    async fn until_effects(&self, effects: u64) {
        let began = Instant::now();
        while self.sandbox.stats().effects < effects {
            assert!(began.elapsed() < PATIENCE, "{:?}", self.sandbox.stats());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn finding(&self, what: &str) -> Value {
        let (doctor, _) = self.place.operate(&self.sandbox, &["doctor"]);
        let line = doctor.as_array().expect("lines").iter().find(|line| line["what"] == what);
        line.unwrap_or_else(|| panic!("{doctor}")).clone()
    }
}

/// The statement that the documentation gives.
fn documented_user() -> Vec<String> {
    let page = include_str!("../../docs/how-to/redis.md");
    let line = page.lines().find(|line| line.starts_with("ACL SETUSER ")).expect("it is documented");
    line.replace(">PASSWORD", ">s/e@cret").split(' ').map(str::to_owned).collect()
}

/// A user with the documented rights is enough for everything, and a right that is missing is named. All keys are under the prefix.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn few_rights_are_enough_and_a_missing_one_is_named() {
    let mut redis = Redis::reserve();
    redis.start(&[]);
    let user = documented_user();
    let asked = redis.ask(&user.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(asked, "OK", "{user:?}");
    let url = format!("redis://penstock:s%2Fe%40cret@127.0.0.1:{}", redis.port());
    let settings = [("REDIS_URL", url), ("PENSTOCK_REDIS_PREFIX", "team-a".to_owned())];
    let scene = Scene::start(&settings, 0);
    until_ready(&scene.worker, 200).await;
    scene.runs("all").await;
    let keys = redis.ask(&["--scan"]);
    assert!(keys.lines().count() > 3 && keys.lines().all(|key| key.starts_with("team-a:")), "{keys}");
    let found = scene.finding("queue");
    assert_eq!(found["verdict"], "ok", "{found}");

    redis.ask(&["ACL", "SETUSER", "penstock", "-info"]);
    let found = scene.finding("queue");
    assert!(
        found["verdict"] == "warn" && found["found"].as_str().expect("text").contains("+info"),
        "{found}"
    );
    scene.runs("without").await;

    redis.ask(&["ACL", "SETUSER", "penstock", "-zadd"]);
    for service in [&scene.worker, &scene.api] {
        let body = until_ready(service, 503).await;
        assert!(body.contains("+zadd") && body.contains("team-a:"), "{body}");
    }
    let found = scene.finding("queue");
    assert!(
        found["verdict"] == "fail" && found["found"].as_str().expect("text").contains("+zadd"),
        "{found}"
    );
    redis.ask(&["ACL", "SETUSER", "penstock", "+zadd", "resetkeys", "~penstock:*"]);
    until_ready(&scene.worker, 503).await;
    redis.ask(&["ACL", "SETUSER", "penstock", "~team-a:*"]);
    until_ready(&scene.worker, 200).await;
    scene.runs("again").await;
}

/// Two installations on one Redis have keys of their own, by their ids: neither takes what the other one enqueued.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_installations_share_a_redis() {
    let mut redis = Redis::reserve();
    redis.start(&[]);
    let settings = [("REDIS_URL", redis.url())];
    let (one, other) = (Scene::start(&settings, 0), Scene::start(&settings, 0));
    until_ready(&one.worker, 200).await;
    until_ready(&other.worker, 200).await;
    tokio::join!(one.runs("one"), other.runs("other"));
    let keys = redis.ask(&["--scan"]);
    let prefix = |key: &str| key.split(':').take(2).collect::<Vec<_>>().join(":");
    let mut prefixes: Vec<_> = keys.lines().map(prefix).collect();
    prefixes.sort();
    prefixes.dedup();
    assert!(prefixes.len() == 2 && prefixes.iter().all(|one| one.len() == "penstock:".len() + 12), "{keys}");
}

/// Redis is gone in the middle of a batch: each of three processes logs few lines, however many lanes it listens to and rows it has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_is_logged_in_few_lines() {
    /// How long Redis is gone, and how many lines three processes may write meanwhile: ten each.
    const OUTAGE: Duration = Duration::from_secs(20);
    const MOST_LINES: usize = 30;
    let mut redis = Redis::reserve();
    redis.start(&[]);
    let scene = Scene::start(&[("REDIS_URL", redis.url()), ("RUST_LOG", "info".to_owned())], 20);
    until_ready(&scene.worker, 200).await;
    let batch = scene.upload(2000, "p").await;
    scene.until_effects(200).await;
    let lines = || {
        std::fs::read_to_string(scene.place.log())
            .expect("a log")
            .lines()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let before = lines().len();
    redis.stop();
    tokio::time::sleep(OUTAGE).await;
    let during = lines().split_off(before);
    redis.start(&[]);
    let text =
        during.iter().map(|line| line.chars().take(200).collect::<String>()).collect::<Vec<_>>().join("\n");
    println!("{} lines in {OUTAGE:?}:\n{text}", during.len());
    assert!(text.contains("the queue is unavailable"), "{text}");
    assert!(during.len() <= MOST_LINES, "{} lines:\n{text}", during.len());
    let ended = scene.client.finished(&batch).await;
    assert_eq!(ended["counts"]["completed"], 2000, "{ended}");
}

/// A server of the test's own; it ends with its owner.
pub(crate) struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a Redis of some kind in a folder of its own.
fn server(folder: &tempfile::TempDir, port: u16, args: &[String]) -> Server {
    let own = folder.path().join(port.to_string());
    std::fs::create_dir_all(&own).expect("a folder");
    let mut command = Command::new("redis-server");
    command.args(args).args(["--port", &port.to_string(), "--bind", "127.0.0.1"]).current_dir(&own);
    let child = command.stdout(Stdio::null()).spawn().expect("redis-server");
    let began = Instant::now();
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(began.elapsed() < PATIENCE, "redis-server does not answer");
        std::thread::sleep(Duration::from_millis(20));
    }
    Server(child)
}

/// A free port whose cluster bus, ten thousand above, is a port too.
fn port() -> u16 {
    loop {
        let port =
            std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("one").port();
        if port < 55_000 {
            return port;
        }
    }
}

fn cli(port: u16, words: &[&str]) -> String {
    let port = port.to_string();
    let output = Command::new("redis-cli").args(["-p", &port]).args(words).output().expect("redis-cli");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !so() {
        assert!(began.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Three Sentinels that watch a primary and its replica.
pub(crate) struct Sentinels {
    primary: Option<Server>,
    replica: (u16, Server),
    sentinels: Vec<(u16, Server)>,
}

impl Sentinels {
    /// Starts them; all know each other.
    pub async fn start(folder: &tempfile::TempDir) -> Self {
        let plain = words("--save  --appendonly no");
        let (first, second) = (port(), port());
        let primary = server(folder, first, &plain);
        let replica =
            server(folder, second, &[plain, words(&format!("--replicaof 127.0.0.1 {first}"))].concat());
        until("the replica follows", || {
            cli(second, &["info", "replication"]).contains("master_link_status:up")
        })
        .await;
        let sentinels: Vec<(u16, Server)> = (0..3)
            .map(|_| {
                let port = port();
                let file = folder.path().join(format!("{port}.conf"));
                let text = format!(
                    "sentinel monitor main 127.0.0.1 {first} 2\nsentinel down-after-milliseconds main 1000\n\
                     sentinel failover-timeout main 3000\n"
                );
                std::fs::write(&file, text).expect("a file");
                let args = vec![file.display().to_string(), "--sentinel".to_owned()];
                (port, server(folder, port, &args))
            })
            .collect();
        until("they know each other", || {
            sentinels.iter().all(|(port, _)| {
                let known = cli(*port, &["sentinel", "master", "main"]);
                known.contains("num-other-sentinels\n2") && known.contains("num-slaves\n1")
            })
        })
        .await;
        Self { primary: Some(primary), replica: (second, replica), sentinels }
    }

    /// The URL that names all of them.
    pub fn url(&self) -> String {
        let hosts: Vec<_> = self.sentinels.iter().map(|(port, _)| format!("127.0.0.1:{port}")).collect();
        format!("redis+sentinel://{}/main", hosts.join(","))
    }

    /// The primary dies, and the replica is named in its place.
    async fn lose_primary(&mut self) {
        self.primary = None;
        let (asked, next) = (self.sentinels[0].0, self.replica.0.to_string());
        until("a new primary is named", || {
            cli(asked, &["sentinel", "get-master-addr-by-name", "main"]).contains(&next)
        })
        .await;
    }
}

/// The primary dies in the middle of a batch: the programs ask the Sentinels for the new one, and go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_name_the_new_primary() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut sentinels = Sentinels::start(&folder).await;
    let scene = Scene::start(&[("REDIS_URL", sentinels.url())], 20);
    until_ready(&scene.worker, 200).await;
    let batch = scene.upload(2000, "p").await;
    scene.until_effects(200).await;
    sentinels.lose_primary().await;
    goes_on(&scene, &batch, "the Sentinels named the new primary").await;
}

/// Calls go on within five seconds, and every row ends once.
async fn goes_on(scene: &Scene, batch: &str, since: &str) {
    let named = Instant::now();
    let before = scene.sandbox.stats().effects;
    assert!(before < 2000, "it was in the middle of it");
    scene.until_effects(before + 1).await;
    let took = named.elapsed();
    println!("calls went on {took:?} after {since}");
    assert!(took < Duration::from_secs(if cfg!(debug_assertions) { 30 } else { 5 }), "{took:?}");
    let ended = scene.client.finished(batch).await;
    assert_eq!(ended["counts"]["completed"], 2000, "{ended}");
    assert_eq!(scene.sandbox.stats().doubled, 0);
    until_ready(&scene.api, 200).await;
}

/// A Redis Cluster of three primaries, each with so many replicas.
pub(crate) async fn cluster(folder: &tempfile::TempDir, replicas: usize) -> Vec<(u16, Server)> {
    let args = words("--save  --appendonly no --cluster-enabled yes --cluster-node-timeout 1000");
    let ports: Vec<u16> = (0..3 * (1 + replicas)).map(|_| port()).collect();
    let servers: Vec<_> = ports.iter().map(|port| (*port, server(folder, *port, &args))).collect();
    let mut create = Command::new("redis-cli");
    create.args(["--cluster", "create"]).args(ports.iter().map(|port| format!("127.0.0.1:{port}")));
    create.args(["--cluster-replicas", &replicas.to_string(), "--cluster-yes"]);
    assert!(create.stdout(Stdio::null()).status().expect("redis-cli").success());
    until("the cluster is up", || {
        ports.iter().all(|port| {
            let nodes = cli(*port, &["cluster", "nodes"]);
            let followers =
                nodes.lines().filter(|line| line.contains("slave") && line.contains(" connected"));
            cli(*port, &["cluster", "info"]).contains("cluster_state:ok") && followers.count() == 3 * replicas
        })
    })
    .await;
    servers
}

/// Which of the first nodes, the primaries, has the keys of a prefix.
fn holder(nodes: &[(u16, Server)], prefix: &str) -> usize {
    let slot = cli(nodes[0].0, &["cluster", "keyslot", &format!("{{{prefix}}}:ready")]);
    slot.parse::<usize>().expect("a slot") * 3 / 16_384
}

/// The node that has all keys dies in the middle of a batch: its replica takes its place, and the programs go on there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_replaces_the_node_that_has_the_keys() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut nodes = cluster(&folder, 1).await;
    let hosts: Vec<_> = nodes.iter().map(|(port, _)| format!("127.0.0.1:{port}")).collect();
    let url = format!("redis+cluster://{}", hosts.join(","));
    let scene = Scene::start(&[("REDIS_URL", url), ("PENSTOCK_REDIS_PREFIX", "team-a".to_owned())], 20);
    until_ready(&scene.worker, 200).await;
    let batch = scene.upload(2000, "p").await;
    scene.until_effects(200).await;
    let (dead, node) = nodes.remove(holder(&nodes, "team-a"));
    drop(node);
    until("a replica is promoted", || {
        let known = cli(nodes[0].0, &["cluster", "nodes"]);
        let of_dead = known.lines().find(|line| line.contains(&format!(":{dead}@")));
        // `fail?` says that only this node believes so.
        let flags = of_dead.and_then(|line| line.split(' ').nth(2)).unwrap_or_default();
        flags.split(',').any(|flag| flag == "fail")
            && cli(nodes[0].0, &["cluster", "info"]).contains("cluster_state:ok")
    })
    .await;
    goes_on(&scene, &batch, "the cluster promoted a replica").await;
}

/// A cluster of three nodes: all keys are in one slot, wherever that is. A plain URL is refused with the one to use.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_keeps_all_keys_in_one_slot() {
    let folder = tempfile::tempdir().expect("a folder");
    let nodes = cluster(&folder, 0).await;
    let ports: Vec<u16> = nodes.iter().map(|(port, _)| *port).collect();
    let url = |scheme: &str| format!("{scheme}://127.0.0.1:{},127.0.0.1:{}", ports[0], ports[1]);
    let settings = |url| [("REDIS_URL", url), ("PENSTOCK_REDIS_PREFIX", "team-a".to_owned())];
    let scene = Scene::start(&settings(url("redis+cluster")), 0);
    until_ready(&scene.worker, 200).await;
    scene.runs("p").await;
    let keys: Vec<String> =
        ports.iter().map(|port| cli(*port, &["--scan"])).filter(|keys| !keys.is_empty()).collect();
    assert_eq!(keys.len(), 1, "one node has them: {keys:?}");
    assert!(keys[0].lines().all(|key| key.starts_with("{team-a}:")), "{keys:?}");
    let found = scene.finding("queue");
    assert_eq!(found["verdict"], "ok", "{found}");
    // A node that does not have the key that is asked for: without a cluster it has no braces.
    let slot: usize = cli(ports[0], &["cluster", "keyslot", "team-a:ready"]).parse().expect("a slot");
    let elsewhere = ports[(slot * 3 / 16_384 + 1) % 3];
    let mut place = Place::new(&[("invite.yaml", &invite())]);
    for (name, value) in settings(format!("redis://127.0.0.1:{elsewhere}")) {
        place.unset(name);
        place.set(name, value);
    }
    let (doctor, _) = place.operate(&scene.sandbox, &["doctor"]);
    assert!(doctor.to_string().contains("redis+cluster://"), "{doctor}");
}
