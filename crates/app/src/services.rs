//! The choice of services, by three URLs.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use object_store::ObjectStore;
#[cfg(feature = "cluster")]
use object_store::aws::AmazonS3ConfigKey;
use object_store::local::LocalFileSystem;
#[cfg(feature = "cluster")]
use object_store::prefix::PrefixStore;
use penstock_crypto::{CurrentKeyring, Keyring};
use penstock_domain::pipeline::Catalog;
use penstock_domain::time::Clock;
use penstock_downstream::{Caller, Client, Limiter, LocalLimiter};
use penstock_flow::Services;
use penstock_flow::context::definitions::Definitions;
use penstock_flow::context::id_generator::{IdGenerator as _, SystemIdGenerator};
use penstock_flow::context::limits_view::LimitsView;
use penstock_flow::context::object_writer::FILE_PART_BYTES;
#[cfg(feature = "cluster")]
use penstock_flow::context::object_writer::S3_PART_BYTES;
use penstock_flow::context::periodic::PeriodicTasks;
use penstock_flow::context::secrets::Secrets;
use penstock_flow::dispatch::DispatchPolicy;
use penstock_flow::extract::policy::ExtractPolicy;
use penstock_flow::operate::collect_metrics::Sources;
use penstock_flow::telemetry::metrics::RequestMetrics;
use penstock_flow::worker::{WorkerMetrics, WorkerPolicy};
use penstock_queue::{LocalQueue, Queue};
use penstock_store::Store;
use penstock_store_sqlite::{ServiceGuard, SqliteStore};
use ring::rand::SystemRandom;
use url::Url;

use crate::StartError;
use crate::clock::{self, SharedClock, SystemClock};
use crate::permissions::{Writers, refuse_if_written};
use crate::secret_files::{Reconnect, SecretFiles};
use crate::settings::Settings;
use crate::variables::Variables;

/// What a program is to its services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The only service process (`penstock dev`, `demo`).
    Everything,
    /// The HTTP API as a service of its own.
    Api,
    /// A worker as a service of its own.
    Worker,
    /// A dispatcher: it moves rows and reads none of them.
    Dispatcher,
    /// An operator's command beside the services.
    Operator,
}

impl Role {
    /// Whether it calls the pipelines' APIs, and so holds the values of their variables.
    pub fn makes_calls(self) -> bool {
        matches!(self, Self::Everything | Self::Worker | Self::Operator)
    }

    /// Whether it reads or writes rows and files, and so holds the keyring and reaches the object store.
    pub fn reads_rows(self) -> bool {
        self != Self::Dispatcher
    }

    /// Whether it is one service of several.
    fn is_one_of_several(self) -> bool {
        matches!(self, Self::Api | Self::Worker | Self::Dispatcher)
    }
}

/// Services that were chosen, and what has to live as long as they are used.
pub struct Chosen {
    /// The services.
    pub services: Services,
    /// Calls and their limits.
    pub caller: Arc<Caller>,
    /// The lease of an extraction.
    pub lease: Duration,
    reads_at_once: usize,
    /// How long the heartbeat of a process has to be missing until its rows are somebody else's.
    pub silence: Duration,
    /// The object store when it can sign URLs.
    #[cfg(feature = "cluster")]
    pub signer: Option<Arc<object_store::aws::AmazonS3>>,
    /// The path under which signed objects lie.
    pub object_prefix: String,
    /// Whether the queue and the limits live in this process.
    pub local: bool,
    /// Whether the database is a file that one service process serves.
    pub embedded: bool,
    /// The clock, where services on several machines go by the database's.
    pub(crate) shared_clock: Option<Arc<SharedClock>>,
    /// Secrets that are read again when their file changes; taken by whoever watches them.
    pub(crate) secret_files: Mutex<Option<SecretFiles>>,
    _guard: Option<ServiceGuard>,
}

impl Chosen {
    /// How a dispatcher run measures out rows.
    pub fn dispatch_policy(&self, settings: &Settings) -> DispatchPolicy {
        DispatchPolicy {
            rows_per_owner: settings.rows_per_owner,
            rows_per_run: settings.rows_per_run,
            lost_after: Duration::from_secs(settings.lost_after_seconds).max(self.lease),
            extraction_grace: Duration::from_secs(if self.local { 2 } else { 30 }),
            looks_for_dead: !self.embedded,
        }
    }

    /// Sets the clock by the database's, where services on several machines share one. When that fails, a service tries
    /// again in the background.
    pub async fn set_clock(&self) {
        if let Some(clock) = &self.shared_clock
            && let Err(error) = clock.set(self.services.store.as_ref()).await
        {
            tracing::debug!(%error, "the clock was not set by the database's");
        }
    }

    /// What a process has to tell of. Made when it starts.
    pub fn sources(
        &self,
        worker: Option<Arc<WorkerMetrics>>,
        requests: Option<Arc<RequestMetrics>>,
    ) -> Sources {
        Sources {
            services: self.services.clone(),
            started_at: self.services.clock.now(),
            caller: self.caller.clone(),
            worker,
            requests,
            dropped_log_lines: crate::log_pipe::dropped_lines,
        }
    }

    /// Reads for clients that the database bears beside everything else: half of its connections, or of SQLite's readers all
    /// but one.
    pub fn reads_at_once(&self) -> usize {
        self.reads_at_once
    }

    /// How a worker of this name works.
    pub fn worker_policy(&self, settings: &Settings, name: String) -> WorkerPolicy {
        let longest = self.services.pipelines.iter().map(|pipeline| pipeline.worst_call()).max();
        if longest.is_some_and(|longest| Duration::from_secs(settings.grace_seconds) <= longest) {
            tracing::warn!(
                grace_seconds = settings.grace_seconds,
                longest_call_seconds = longest.map_or(0, |longest| longest.as_secs()),
                "calls may be cut short when this worker stops: set PENSTOCK_GRACE_SECONDS to more than the longest call, and the time it has to end to more than that"
            );
        }
        WorkerPolicy {
            extract: self.extract_policy(name.clone()),
            name,
            concurrency: settings.concurrency,
            silence: self.silence,
            lost_after: Duration::from_secs(settings.lost_after_seconds).max(self.lease),
            clock_settles: self.shared_clock.as_ref().map_or(Duration::ZERO, |_| clock::SETTLES),
            grace: Duration::from_secs(settings.grace_seconds),
            memory: settings.worker_memory_mib.saturating_mul(1024 * 1024),
        }
    }

    /// How a holder of this name extracts.
    pub fn extract_policy(&self, holder: String) -> ExtractPolicy {
        // A chunk is a commit. A server's costs a flush and a round trip; the embedded engine's costs little, and its
        // pages are this process's memory.
        let (chunk_rows, chunk_bytes) =
            if self.local { (5000, 768 * 1024) } else { (25_000, 3 * 1024 * 1024) };
        ExtractPolicy { holder, lease: self.lease, chunk_rows, chunk_bytes }
    }
}

/// A name for people to read: what it is, where it runs, and something of its own.
pub fn process_name(what: &str) -> String {
    let host = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
    let host = host.trim();
    let host = if host.is_empty() { "local" } else { host };
    let own = SystemIdGenerator.lease_token().0.simple().to_string();
    format!("{what}@{host}/{}-{}", std::process::id(), &own[..6])
}

/// SQLite has four connections that read.
const SQLITE_READS: usize = 3;

/// Opens the services that the settings name.
///
/// # Errors
/// A sentence with a hint. Services of a cluster that cannot be reached yet are no error: readiness tells.
pub async fn choose(settings: &Settings, pipelines: Catalog, role: Role) -> Result<Chosen, StartError> {
    let longest_call = pipelines.iter().map(|pipeline| pipeline.worst_call()).max().unwrap_or_default();
    let lease = settings.lease()?;
    settings.check(lease)?;
    let database = settings.database_url.as_deref().ok_or_else(|| {
        StartError::misuse(
            "DATABASE_URL is not set: give sqlite://FILE (one machine) or postgres://… (a cluster).",
        )
    })?;
    let keyring = match role {
        Role::Dispatcher => Keyring::none(),
        // A command that needs one says so.
        Role::Operator if settings.encryption_keys.is_none() => Keyring::none(),
        _ => keyring_of(settings)?,
    };
    let Database { store, guard, reconnect } = open_store(database, settings, role).await?;
    let secret_files = SecretFiles::of(settings, role.reads_rows(), reconnect);
    let sqlite = database.starts_with("sqlite");
    let shared_clock = (!sqlite).then(Arc::<SharedClock>::default);
    let clock: Arc<dyn Clock> = match &shared_clock {
        Some(clock) => clock.clone(),
        None => Arc::new(SystemClock),
    };
    let objects = if role.reads_rows() { open_objects(settings, role)? } else { Objects::none() };
    let (queue, limiter, local) = open_queue(settings, sqlite).await?;
    let client = Client::new()
        .map_err(|error| StartError::new(format!("no HTTP client can be made: {error}")))?
        .with_memory(settings.worker_answers_mib.saturating_mul(1024 * 1024));
    #[allow(clippy::cast_possible_truncation, reason = "any 64 random bits")]
    let seed = SystemIdGenerator.lease_token().0.as_u128() as u64;
    let caller = Arc::new(Caller::new(limiter, client, clock.clone(), seed));
    let variables = Variables::of(settings, role);
    let unset = variables.unset;
    let services = Services {
        store,
        objects: objects.store,
        part_bytes: objects.part_bytes,
        parts_under_way: Arc::new(tokio::sync::Semaphore::new(
            penstock_flow::context::object_writer::PARTS_UNDER_WAY,
        )),
        queue,
        keyring: Arc::new(CurrentKeyring::new(keyring)),
        pipelines: Arc::new(Definitions::new(pipelines, unset, Box::new(move |name| variables.lookup(name)))),
        secrets: Arc::new(Secrets::default()),
        // An operator's command does not see limits that a service keeps in its own process.
        limits: Arc::new(LimitsView::new((!local || role != Role::Operator).then(|| caller.clone()))),
        periodic: Arc::new(PeriodicTasks::new(clock.clone(), Arc::new(SystemIdGenerator))),
        clock,
        id_generator: Arc::new(SystemIdGenerator),
        readiness: Arc::default(),
        traces: crate::telemetry::traces(),
        random: Arc::new(SystemRandom::new()),
    };
    Ok(Chosen {
        services,
        caller,
        lease,
        reads_at_once: if sqlite {
            SQLITE_READS
        } else {
            (settings.database_connections as usize / 2).max(2)
        },
        silence: Settings::silence(lease, longest_call),
        #[cfg(feature = "cluster")]
        signer: objects.signer,
        object_prefix: objects.prefix,
        local,
        embedded: sqlite,
        shared_clock,
        secret_files: Mutex::new(secret_files),
        _guard: guard,
    })
}

/// The database, and what belongs to it.
struct Database {
    store: Arc<dyn Store>,
    guard: Option<ServiceGuard>,
    /// None for a file.
    reconnect: Option<Reconnect>,
}

fn keyring_of(settings: &Settings) -> Result<Keyring, StartError> {
    let keys = settings.encryption_keys.as_deref().ok_or_else(|| {
        StartError::misuse("PENSTOCK_ENCRYPTION_KEYS is not set: give `id:base64`, with 32 bytes from `openssl rand -base64 32`.")
    })?;
    Keyring::parse(keys).map_err(|error| StartError::misuse(format!("PENSTOCK_ENCRYPTION_KEYS: {error}.")))
}

async fn open_store(url: &str, settings: &Settings, role: Role) -> Result<Database, StartError> {
    if url.starts_with("sqlite:") {
        if role.is_one_of_several() {
            return Err(StartError::misuse(
                "DATABASE_URL names SQLite, which serves one process: start `penstock dev`, or give postgres://….",
            ));
        }
        if let Some(file) = sqlite_file(url) {
            refuse_if_written(&file, Writers::GroupAndOthers)?;
        }
        let store =
            SqliteStore::open(url).await.map_err(|error| StartError::new(format!("{url}: {error}")))?;
        let guard = match role {
            Role::Everything => {
                Some(store.lock_service().map_err(|error| StartError::new(error.to_string()))?.ok_or_else(
                    || {
                        StartError::new(format!(
                            "{url} is served by another process; stop it, or use another data folder."
                        ))
                    },
                )?)
            }
            _ => None,
        };
        return Ok(Database { store: store.shared(), guard, reconnect: None });
    }
    if url.starts_with("postgres:") || url.starts_with("postgresql:") {
        return open_postgres(url, settings).await;
    }
    Err(StartError::misuse("DATABASE_URL begins with sqlite:// or postgres://."))
}

/// The file that a URL of SQLite names; none for a database in memory.
fn sqlite_file(url: &str) -> Option<PathBuf> {
    let name = url.trim_start_matches("sqlite:").trim_start_matches("//");
    let name = name.split('?').next().unwrap_or_default();
    let in_memory = name.is_empty() || name == ":memory:";
    (!in_memory).then(|| PathBuf::from(name))
}

#[cfg(feature = "cluster")]
async fn open_postgres(url: &str, settings: &Settings) -> Result<Database, StartError> {
    let options = penstock_store_postgres::Options {
        max_connections: settings.database_connections,
        application_name: process_name("penstock"),
    };
    let wrong = |error| StartError::misuse(format!("DATABASE_URL: {error}"));
    let store = penstock_store_postgres::PostgresStore::connect(url, options).map_err(wrong)?;
    let again = store.clone();
    let reconnect: Reconnect = Box::new(move |url| again.connect_anew(url).map_err(wrong));
    Ok(Database { store: store.shared(), guard: None, reconnect: Some(reconnect) })
}

#[cfg(not(feature = "cluster"))]
async fn open_postgres(_url: &str, _settings: &Settings) -> Result<Database, StartError> {
    Err(StartError::misuse("this build has no PostgreSQL: build with the feature `cluster`."))
}

struct Objects {
    store: Arc<dyn ObjectStore>,
    part_bytes: usize,
    #[cfg(feature = "cluster")]
    signer: Option<Arc<object_store::aws::AmazonS3>>,
    prefix: String,
}

impl Objects {
    /// For a program that reads and writes no files: what it would write goes nowhere.
    fn none() -> Self {
        Self {
            store: Arc::new(object_store::memory::InMemory::new()),
            part_bytes: FILE_PART_BYTES,
            #[cfg(feature = "cluster")]
            signer: None,
            prefix: String::new(),
        }
    }
}

fn open_objects(settings: &Settings, role: Role) -> Result<Objects, StartError> {
    let text = settings.object_store_url.as_deref().ok_or_else(|| {
        StartError::misuse("OBJECT_STORE_URL is not set: give file:///FOLDER or s3://BUCKET/PREFIX.")
    })?;
    let url = Url::parse(text).map_err(|error| StartError::misuse(format!("OBJECT_STORE_URL: {error}")))?;
    match url.scheme() {
        "file" => {
            let folder = url.to_file_path().map_err(|()| {
                StartError::misuse("OBJECT_STORE_URL: a file URL names an absolute folder, file:///…")
            })?;
            std::fs::create_dir_all(&folder)
                .map_err(|error| StartError::new(format!("cannot make {}: {error}", folder.display())))?;
            refuse_if_written(&folder, Writers::GroupAndOthers)?;
            if role == Role::Everything {
                clear_staged(&folder);
            }
            let files = LocalFileSystem::new_with_prefix(&folder)
                .map_err(|error| StartError::misuse(format!("OBJECT_STORE_URL: {error}")))?
                .with_automatic_cleanup(true);
            Ok(Objects {
                store: Arc::new(files),
                part_bytes: FILE_PART_BYTES,
                #[cfg(feature = "cluster")]
                signer: None,
                prefix: String::new(),
            })
        }
        "s3" | "s3a" => open_s3(&url),
        other => {
            Err(StartError::misuse(format!("OBJECT_STORE_URL begins with file:// or s3://, not {other}://.")))
        }
    }
}

#[cfg(feature = "cluster")]
fn open_s3(url: &Url) -> Result<Objects, StartError> {
    let mut builder = object_store::aws::AmazonS3Builder::from_env();
    for (name, key) in [
        ("AWS_ACCESS_KEY_ID", AmazonS3ConfigKey::AccessKeyId),
        ("AWS_SECRET_ACCESS_KEY", AmazonS3ConfigKey::SecretAccessKey),
        ("AWS_SESSION_TOKEN", AmazonS3ConfigKey::Token),
    ] {
        if let Some(value) = crate::variables::value(name)? {
            builder = builder.with_config(key, value);
        }
    }
    let store = builder
        .with_url(url.as_str())
        .with_retry(object_store::RetryConfig {
            max_retries: 8,
            retry_timeout: Duration::from_secs(45),
            ..object_store::RetryConfig::default()
        })
        .build()
        .map_err(|error| StartError::misuse(format!("OBJECT_STORE_URL: {error}")))?;
    let store = Arc::new(store);
    let prefix = url.path().trim_matches('/').to_owned();
    let ported: Arc<dyn ObjectStore> = if prefix.is_empty() {
        store.clone()
    } else {
        Arc::new(PrefixStore::new(store.clone(), prefix.clone()))
    };
    Ok(Objects { store: ported, part_bytes: S3_PART_BYTES, signer: Some(store), prefix })
}

#[cfg(not(feature = "cluster"))]
fn open_s3(_url: &Url) -> Result<Objects, StartError> {
    Err(StartError::misuse("this build has no S3: build with the feature `cluster`."))
}

/// Parts of uploads that a killed process left: object_store writes them as `NAME#NUMBER` beside their place.
fn clear_staged(folder: &std::path::Path) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for path in entries.filter_map(|entry| entry.ok().map(|entry| entry.path())) {
        if path.is_dir() {
            clear_staged(&path);
        } else if path.file_name().is_some_and(|name| name.to_string_lossy().contains('#'))
            && let Err(error) = std::fs::remove_file(&path)
        {
            tracing::warn!(%error, path = %path.display(), "what an upload left could not be removed");
        }
    }
}

type QueueAndLimiter = (Arc<dyn Queue>, Arc<dyn Limiter>, bool);

async fn open_queue(settings: &Settings, sqlite: bool) -> Result<QueueAndLimiter, StartError> {
    match &settings.redis_url {
        Some(url) => shared_queue(url).await,
        None if sqlite => Ok((Arc::new(LocalQueue::default()), Arc::new(LocalLimiter::new()), true)),
        None => Err(StartError::misuse(
            "REDIS_URL is not set: services that share a PostgreSQL need a queue and limits that they share too.",
        )),
    }
}

#[cfg(feature = "cluster")]
async fn shared_queue(url: &str) -> Result<QueueAndLimiter, StartError> {
    let queue = penstock_queue::SharedQueue::connect(url)
        .map_err(|error| StartError::misuse(format!("REDIS_URL: {error}")))?;
    let limiter = penstock_downstream::SharedLimiter::connect(url)
        .map_err(|error| StartError::misuse(format!("REDIS_URL: {error}")))?;
    Ok((Arc::new(queue), Arc::new(limiter), false))
}

#[cfg(not(feature = "cluster"))]
async fn shared_queue(_url: &str) -> Result<QueueAndLimiter, StartError> {
    Err(StartError::misuse("this build has no Redis: build with the feature `cluster`."))
}
