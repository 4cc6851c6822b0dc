//! The choice of services, by three URLs.

mod database;
mod objects;
mod queue;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use penstock_crypto::{CurrentKeyring, Keyring};
use penstock_domain::pipeline::Catalog;
use penstock_domain::time::Clock;
use penstock_downstream::{Caller, Client, Limiter};
use penstock_flow::Services;
use penstock_flow::context::definitions::Definitions;
use penstock_flow::context::id_generator::{IdGenerator as _, SystemIdGenerator};
use penstock_flow::context::limits_view::LimitsView;
use penstock_flow::context::object_writer::PARTS_UNDER_WAY;
use penstock_flow::context::periodic::PeriodicTasks;
use penstock_flow::context::reservations::StoreReservations;
use penstock_flow::context::secrets::Secrets;
use penstock_flow::context::token_vault::SealedVault;
use penstock_flow::dispatch::DispatchPolicy;
use penstock_flow::extract::policy::ExtractPolicy;
use penstock_flow::operate::collect_metrics::Sources;
use penstock_flow::telemetry::metrics::RequestMetrics;
use penstock_flow::worker::{WorkerMetrics, WorkerPolicy};
use penstock_store_sqlite::ServiceGuard;
use ring::rand::{SecureRandom, SystemRandom};

use self::database::Database;
use self::objects::Objects;
use crate::StartError;
use crate::clock::{self, SharedClock, SystemClock};
use crate::live_files::LiveFiles;
use crate::secret_files::SecretFiles;
use crate::settings::Settings;
use crate::variables::Variables;

/// What a program does with the services.
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
    /// The object store when it signs URLs to which clients PUT.
    #[cfg(feature = "cluster")]
    pub signer: Option<Arc<dyn object_store::signer::Signer>>,
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

    /// What the process measures. Made when it starts.
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

/// SQLite's one process has the machine's clock; the services of a cluster share the database's.
fn clock_of(sqlite: bool) -> (Arc<dyn Clock>, Option<Arc<SharedClock>>) {
    if sqlite {
        return (Arc::new(SystemClock), None);
    }
    let shared = Arc::<SharedClock>::default();
    (shared.clone(), Some(shared))
}

fn definitions_of(pipelines: Catalog, settings: &Settings, role: Role) -> Definitions {
    let variables = Variables::of(settings, role);
    Definitions::new(pipelines, variables.unset, Box::new(move |name| variables.lookup(name)))
}

fn reads_at_once(settings: &Settings, sqlite: bool) -> usize {
    if sqlite { SQLITE_READS } else { (settings.database_connections as usize / 2).max(2) }
}

/// Opens the services that the settings name.
///
/// # Errors
/// A sentence with a hint. Services of a cluster that cannot be reached yet are no error: readiness tells.
pub async fn choose(settings: &Settings, pipelines: Catalog, role: Role) -> Result<Chosen, StartError> {
    let longest_call = pipelines.iter().map(|pipeline| pipeline.worst_call()).max().unwrap_or_default();
    let lease = settings.lease()?;
    settings.check(lease)?;
    if matches!(role, Role::Api | Role::Everything) {
        settings.check_sign_in()?;
    }
    let url = database::url(settings)?;
    let keyring = keyring_of(settings, role)?;
    let Database { store, guard, reconnect } = database::open(url, settings, role).await?;
    let secret_files = SecretFiles::of(settings, role.reads_rows(), reconnect);
    let sqlite = url.starts_with("sqlite");
    let (clock, shared_clock) = clock_of(sqlite);
    let objects = if role.reads_rows() { objects::open(settings, role)? } else { Objects::none() };
    let (queue, limiter, local) = queue::open(settings, sqlite, &store)?;
    let keyring = Arc::new(CurrentKeyring::new(keyring));
    let random: Arc<dyn SecureRandom + Send + Sync> = Arc::new(SystemRandom::new());
    let vault = SealedVault {
        store: store.clone(),
        keyring: keyring.clone(),
        random: random.clone(),
        clock: clock.clone(),
    };
    let caller = caller_of(settings, limiter, clock.clone())?.with_vault(Arc::new(vault));
    let caller = Arc::new(caller.with_reservations(Arc::new(StoreReservations(store.clone()))));
    let services = Services {
        store,
        objects: objects.store,
        part_bytes: objects.part_bytes,
        parts_under_way: Arc::new(tokio::sync::Semaphore::new(PARTS_UNDER_WAY)),
        unfinished_uploads: objects.unfinished,
        queue,
        keyring,
        pipelines: Arc::new(definitions_of(pipelines, settings, role)),
        secrets: Arc::new(Secrets::default()),
        // An operator's command does not see limits that a service keeps in its own process.
        limits: Arc::new(LimitsView::new((!local || role != Role::Operator).then(|| caller.clone()))),
        periodic: Arc::new(PeriodicTasks::new(clock.clone(), Arc::new(SystemIdGenerator))),
        clock,
        id_generator: Arc::new(SystemIdGenerator),
        last_answers: Arc::default(),
        traces: crate::telemetry::traces(),
        random,
    };
    Ok(Chosen {
        services,
        caller,
        lease,
        reads_at_once: reads_at_once(settings, sqlite),
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

fn caller_of(
    settings: &Settings,
    limiter: Arc<dyn Limiter>,
    clock: Arc<dyn Clock>,
) -> Result<Caller, StartError> {
    let client = Client::new()
        .map_err(|error| StartError::new(format!("no HTTP client can be made: {error}")))?
        .with_files(Arc::new(LiveFiles::default()))
        .with_memory(settings.worker_answers_mib.saturating_mul(1024 * 1024));
    #[allow(clippy::cast_possible_truncation, reason = "any 64 random bits")]
    let seed = SystemIdGenerator.lease_token().0.as_u128() as u64;
    Ok(Caller::new(limiter, client, clock, seed))
}

fn keyring_of(settings: &Settings, role: Role) -> Result<Keyring, StartError> {
    // A command that needs one reports that.
    if role == Role::Dispatcher || role == Role::Operator && settings.encryption_keys.is_none() {
        return Ok(Keyring::none());
    }
    let keys = settings.encryption_keys.as_deref().ok_or_else(|| {
        StartError::misuse("PENSTOCK_ENCRYPTION_KEYS is not set: give `id:base64`, with 32 bytes from `openssl rand -base64 32`.")
    })?;
    Keyring::parse(keys).map_err(|error| StartError::misuse(format!("PENSTOCK_ENCRYPTION_KEYS: {error}.")))
}
