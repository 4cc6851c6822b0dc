//! Workers with a SQLite store in a folder of the test's, the queue of one process, and an API.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use object_store::memory::InMemory;
use penstock_crypto::{CurrentKeyring, Keyring};
use penstock_domain::pipeline::{Catalog, Pipeline, Unset};
use penstock_domain::row::RowStatus;
use penstock_domain::time::{Clock, Timestamp};
use penstock_downstream::{Caller, Client};
use penstock_flow::context::definitions::Definitions;
use penstock_flow::context::id_generator::SystemIdGenerator;
use penstock_flow::context::limits_view::LimitsView;
use penstock_flow::context::periodic::PeriodicTasks;
use penstock_flow::context::secrets::Secrets;
use penstock_flow::context::services::Services;
use penstock_flow::dispatch::{DispatchPolicy, run};
use penstock_flow::extract::policy::ExtractPolicy;
use penstock_flow::intake::refused::UploadError;
use penstock_flow::intake::upload::{Upload, UploadFields, UploadRequest};
use penstock_flow::telemetry::traces::Local;
use penstock_flow::worker::observe::{Log, Observer};
use penstock_flow::worker::{Worker, WorkerPolicy};
use penstock_queue::LocalQueue;
use penstock_store::batches::{Batch, Batches as _};
use penstock_store::operations::Operations as _;
use penstock_store::owners::Owners as _;
use penstock_store::reading::{Reading as _, RowRecord};
use penstock_store_sqlite::SqliteStore;
use ring::rand::SystemRandom;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::api::Api;
use crate::awake::Awake;
use crate::limiter::TestLimiter;
use crate::store::TestStore;

/// How long rows that nobody settled stay queued.
pub const LOST_AFTER: Duration = Duration::from_secs(300);

/// No test waits longer than this, in the paused clock's time.
pub const PATIENCE: Duration = Duration::from_secs(1000);

/// The paused clock.
struct TestClock(Instant);

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(1_790_000_000_000) + self.0.elapsed()
    }
}

/// The services of a test.
pub struct Harness {
    pub services: Services,
    pub store: Arc<TestStore>,
    pub api: Api,
    caller: Arc<Caller>,
    _folder: TempDir,
}

/// A worker that runs.
pub struct Running {
    pub worker: Arc<Worker>,
    stop: CancellationToken,
    tasks: [JoinHandle<()>; 2],
}

impl Running {
    /// Asks it to stop.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// A handle that asks it to stop.
    pub fn stop_handle(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Waits until it has no row in flight.
    pub async fn idle(&self) {
        while self.worker.metrics().in_flight.load(Ordering::Relaxed) > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until it has stopped.
    pub async fn stopped(self) {
        for task in self.tasks {
            task.await.unwrap();
        }
    }
}

impl Harness {
    /// A pipeline of two steps, whose dependency has these limits.
    pub async fn new(limits: &str) -> Self {
        let _awake = Awake::new();
        // Fails when another test of this process has installed it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("test.db").display());
        let store = Arc::new(TestStore::new(SqliteStore::open(&url).await.unwrap()));
        store.migrate().await.unwrap();
        let api = Api::start().await;
        let definition = format!(
            "name: test\ncsv: {{ columns: [{{ name: a }}] }}\n\
             dependencies: {{ api: {{ base_url: \"{}\", timeout: 60s, {limits} }} }}\n\
             steps:\n\
             - {{ name: first, dependency: api, request: {{ method: GET, path: \"/first/{{{{ row.a }}}}\" }}, output: {{ id: \"{{{{ body.id }}}}\" }} }}\n\
             - {{ name: second, dependency: api, request: {{ method: GET, path: \"/second/{{{{ row.a }}}}\" }} }}\n\
             result: {{ id: \"{{{{ steps.first.id }}}}\" }}\n",
            api.url
        );
        let pipeline = Pipeline::load("test", &definition, &|_| None).unwrap();
        let catalog = Catalog::new(vec![pipeline]).unwrap();
        let clock: Arc<dyn Clock> = Arc::new(TestClock(Instant::now()));
        let limiter = Arc::new(TestLimiter::new(clock.clone()));
        let caller = Arc::new(Caller::new(limiter, Client::new().unwrap(), clock.clone(), 1 << 20));
        let key = Keyring::new_entry("k1", &SystemRandom::new()).unwrap();
        let services = Services {
            store: store.clone(),
            objects: Arc::new(InMemory::new()),
            part_bytes: 1 << 20,
            parts_under_way: Arc::new(tokio::sync::Semaphore::new(4)),
            unfinished_uploads: None,
            queue: Arc::new(LocalQueue::default()),
            keyring: Arc::new(CurrentKeyring::new(Keyring::parse(&key).unwrap())),
            pipelines: Arc::new(Definitions::new(catalog, Unset::Refused, Box::new(|_| None))),
            secrets: Arc::new(Secrets::default()),
            limits: Arc::new(LimitsView::new(Some(caller.clone()))),
            periodic: Arc::new(PeriodicTasks::new(clock.clone(), Arc::new(SystemIdGenerator))),
            clock,
            id_generator: Arc::new(SystemIdGenerator),
            last_answers: Arc::default(),
            traces: Arc::new(Local::default()),
            random: Arc::new(SystemRandom::new()),
        };
        Self { services, store, api, caller, _folder: folder }
    }

    /// Starts a worker that logs its steps.
    pub fn worker(&self, name: &str) -> Running {
        self.worker_with(name, 8, Arc::new(Log))
    }

    /// Starts a worker after another one has stopped. The queue of a process has one listener, so there is a new one.
    pub fn next_worker(&mut self) -> Running {
        self.services.queue = Arc::new(LocalQueue::default());
        self.worker("next")
    }

    /// Starts a worker.
    pub fn worker_with(&self, name: &str, concurrency: usize, observer: Arc<dyn Observer>) -> Running {
        let policy = WorkerPolicy {
            name: name.to_owned(),
            concurrency,
            silence: Duration::from_secs(120),
            lost_after: LOST_AFTER,
            clock_settles: Duration::ZERO,
            grace: Duration::from_secs(90),
            extract: ExtractPolicy {
                holder: name.to_owned(),
                lease: Duration::from_secs(60),
                chunk_rows: 1,
                chunk_bytes: 1 << 20,
            },
            memory: 1 << 20,
        };
        let worker = Worker::new(self.services.clone(), self.caller.clone(), policy, observer);
        let stop = CancellationToken::new();
        let (queue, handler, until) = (self.services.queue.clone(), worker.queue_handler(), stop.clone());
        let tasks = [
            tokio::spawn(worker.clone().run(stop.clone())),
            tokio::spawn(async move { queue.listen(handler, until).await }),
        ];
        Running { worker, stop, tasks }
    }

    /// Why a file does not become a batch.
    pub async fn refused(&self, file: &[u8]) -> UploadError {
        let mut upload = self.start_upload().await;
        upload.push(file).await.unwrap();
        upload.finish(UploadFields::default()).await.unwrap_err()
    }

    /// Uploads a file whose rows are numbered from 1.
    pub async fn upload(&self, rows: u32) -> Batch {
        let mut upload = self.start_upload().await;
        let rows: String = (1..=rows).map(|number| format!("{number}\n")).collect();
        upload.push(format!("a\n{rows}").as_bytes()).await.unwrap();
        upload.finish(UploadFields::default()).await.unwrap().batch
    }

    async fn start_upload(&self) -> Upload {
        let owner = self.store.ensure_owner("owner", self.services.clock.now()).await.unwrap();
        let request = UploadRequest {
            owner: owner.seq,
            owner_name: owner.name,
            actor: "owner:owner".into(),
            pipeline: self.services.pipelines.get("test").unwrap(),
            idempotency_key: None,
            form: None,
        };
        Upload::start(&self.services, request).await.unwrap()
    }

    /// Uploads a file, and releases its rows when a worker has extracted it.
    pub async fn upload_and_release(&self, rows: u32) -> Batch {
        let batch = self.upload(rows).await;
        self.store.called("finish_extraction", 1).await;
        self.dispatch().await;
        batch
    }

    /// One run of the dispatcher.
    pub async fn dispatch(&self) {
        let policy = DispatchPolicy {
            rows_per_owner: 1000,
            rows_per_run: None,
            lost_after: LOST_AFTER,
            extraction_grace: Duration::ZERO,
            looks_for_dead: false,
        };
        run::run(&self.services, &policy, false).await.unwrap();
    }

    /// The batch as it is now.
    pub async fn batch(&self, batch: &Batch) -> Batch {
        self.store.batch(batch.id, None).await.unwrap().unwrap()
    }

    /// Waits until every row has ended. Rows that are requeued meanwhile are released again.
    pub async fn finished(&self, batch: &Batch) -> Batch {
        let mut settled = self.store.calls("settle");
        let began = Instant::now();
        loop {
            let now = self.batch(batch).await;
            if now.ledger.is_finished() {
                return now;
            }
            assert!(began.elapsed() < PATIENCE, "rows did not end: {:?}", now.ledger);
            tokio::select! {
                () = self.store.called("settle", settled + 1) => settled += 1,
                () = tokio::time::sleep(Duration::from_secs(1)) => self.dispatch().await,
            }
        }
    }

    pub async fn row(&self, batch: &Batch, number: u32) -> RowRecord {
        self.store.row(batch.seq, number).await.unwrap().unwrap()
    }

    /// The states of the batch's first rows.
    pub async fn states(&self, batch: &Batch, rows: u32) -> Vec<RowStatus> {
        let mut states = Vec::new();
        for number in 1..=rows {
            states.push(self.row(batch, number).await.status);
        }
        states
    }
}
