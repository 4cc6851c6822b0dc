//! The programs of an earlier release, replaced by today's under load, and back again: `cargo xtask verify-upgrade` builds them and
//! runs this.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use penstock_sandbox::{Config, Faults, Sandbox};
use penstock_tests::invite::{people, quick_invite};
use penstock_tests::{Client, PATIENCE, Place, Service};
use serde_json::{Value, json};

const ROUTE: &str = "/v2/client/users/batch/invite?context=%7B%22campaign%22%3A%22upgrade%22%7D";

/// Rows of each of the two halves.
const ROWS: u32 = 20_000;

/// Nothing stands still for longer.
const STANDSTILL: Duration = Duration::from_secs(5);

/// Measures the longest time between two effects while rows are left.
struct Watch {
    ends: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Duration>,
}

impl Watch {
    fn begin(sandbox: &Arc<Sandbox>, last: u64) -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        let (stop, sandbox) = (ends.clone(), sandbox.clone());
        let thread = std::thread::spawn(move || {
            let (mut longest, mut effects, mut since) = (Duration::ZERO, 0, Instant::now());
            while !stop.load(Ordering::SeqCst) && effects < last {
                std::thread::sleep(Duration::from_millis(50));
                let now = sandbox.stats().effects;
                if now != effects {
                    (effects, since) = (now, Instant::now());
                }
                longest = longest.max(since.elapsed());
            }
            longest
        });
        Self { ends, thread }
    }

    fn longest(self) -> Duration {
        self.ends.store(true, Ordering::SeqCst);
        self.thread.join().unwrap()
    }
}

/// An API, a dispatcher and two workers.
struct Fleet {
    api: Service,
    dispatcher: Service,
    workers: Vec<Service>,
}

impl Fleet {
    fn start(place: &Place, sandbox: &Sandbox) -> Self {
        let workers = (0..2).map(|_| place.worker(sandbox)).collect();
        Self { api: place.api(sandbox), dispatcher: place.dispatcher(sandbox, "500ms"), workers }
    }

    /// One program after another, workers first, as a rollout does it; some rows are processed between two of them.
    async fn replace(self, place: &Place, sandbox: &Sandbox) -> Self {
        let mut workers = Vec::new();
        for worker in self.workers {
            workers.push(place.worker(sandbox));
            worker.terminate();
            more(sandbox, 1000).await;
        }
        self.dispatcher.terminate();
        let dispatcher = place.dispatcher(sandbox, "500ms");
        more(sandbox, 1000).await;
        let api = place.api(sandbox);
        self.api.terminate();
        Self { api, dispatcher, workers }
    }
}

async fn more(sandbox: &Sandbox, rows: u64) {
    let (began, before) = (Instant::now(), sandbox.stats().effects);
    while sandbox.stats().effects < before + rows {
        assert!(began.elapsed() < PATIENCE, "{:?}", sandbox.stats());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn upload(client: &Client, word: &str) -> String {
    let (status, batch) = client.upload(ROUTE, people(ROWS, word)).await.expect("an answer");
    assert_eq!(status, 202, "{batch}");
    batch["id"].as_str().expect("an id").to_owned()
}

/// All rows of a batch had their effect, once.
async fn ends_well(client: &Client, id: &str, sandbox: &Sandbox, effects: u64, watch: Watch, what: &str) {
    let batch: Value = client.finished(id).await;
    let longest = watch.longest();
    let stats = sandbox.stats();
    eprintln!(
        "{what}: {} rows, {} effects, {} doubled, longest standstill {longest:?}",
        batch["counts"]["completed"], stats.effects, stats.doubled
    );
    assert_eq!(
        (&batch["counts"]["completed"], &batch["counts"]["failed"]),
        (&json!(ROWS), &json!(0)),
        "{batch}"
    );
    assert_eq!((stats.effects, stats.doubled), (effects, 0), "{stats:?}");
    assert!(longest < STANDSTILL, "{what}: nothing happened for {longest:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_are_replaced_under_load_and_back() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let faults = Faults { latency_ms: 5, ..Faults::default() };
    let sandbox = Arc::new(Sandbox::start(Config { faults, ..Config::default() }).expect("a sandbox"));
    let earlier =
        std::env::var_os("PENSTOCK_TEST_EARLIER_PROGRAMS").expect("`cargo xtask verify-upgrade` sets it");
    let mut place = Place::bare(&[("invite.yaml", &quick_invite())]);
    place.use_programs(Some(earlier.clone().into()));
    let (migrated, good) = place.operate(&sandbox, &["migrate"]);
    assert!(good, "{migrated}");
    let key = place.key(&sandbox, "acme");
    let fleet = Fleet::start(&place, &sandbox);
    // Forwards: the schema first, while the earlier programs work.
    let first = upload(&Client::new(&fleet.api, &key), "forth").await;
    more(&sandbox, 500).await;
    let watch = Watch::begin(&sandbox, ROWS.into());
    place.use_programs(None);
    let (after, good) = place.operate(&sandbox, &["migrate"]);
    assert!(good, "{after}");
    eprintln!("schema {} to {}", migrated["to"], after["to"]);
    more(&sandbox, 1000).await;
    let fleet = fleet.replace(&place, &sandbox).await;
    assert!(sandbox.stats().effects < u64::from(ROWS), "it was in the middle of it");
    ends_well(&Client::new(&fleet.api, &key), &first, &sandbox, ROWS.into(), watch, "forwards").await;
    let (doctor, good) = place.operate(&sandbox, &["doctor"]);
    assert!(good, "{doctor}");
    // Back, on today's schema, with a batch that today's programs accepted.
    let second = upload(&Client::new(&fleet.api, &key), "back").await;
    more(&sandbox, 500).await;
    let all = 2 * u64::from(ROWS);
    let watch = Watch::begin(&sandbox, all);
    place.use_programs(Some(earlier.into()));
    let fleet = fleet.replace(&place, &sandbox).await;
    assert!(sandbox.stats().effects < all, "it was in the middle of it");
    ends_well(&Client::new(&fleet.api, &key), &second, &sandbox, all, watch, "back").await;
}
