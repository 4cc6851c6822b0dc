//! Waiting for services that start later, without a crash loop, and refusing those that cannot serve.

use std::net::SocketAddr;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use penstock_crypto::OpenError;
use penstock_flow::context::installation;
use penstock_flow::{FlowError, Services};
use penstock_queue::QueueServer;
use penstock_store::StoreError;
use tokio_util::sync::CancellationToken;

use crate::clock::ClockTask;
use crate::secret_files::SecretFilesTask;
use crate::waiting_room::WaitingRoom;
use crate::{Chosen, StartError};

const ASK_AGAIN: Duration = Duration::from_millis(500);

/// That a service still waits is logged this often.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// A schema that is an older one for longer than this is not being migrated, as far as a single run goes.
const MIGRATING: Duration = Duration::from_secs(3);

/// How long is waited for a schema that is not there yet, or an older one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// A service: for as long as it takes, because a migration takes as long as it takes, and who is restarted instead
    /// comes the later. `/livez` is answered meanwhile, where there is an address for it.
    Service(Option<SocketAddr>),
    /// A single run: a moment. The next one comes soon.
    Run,
}

/// Waits until the database answers, and sees that its schema is this program's and that the versions of the database and of Redis are supported.
/// Nobody restarts a service for another one's absence: it lives meanwhile. From then on the services' clock is the
/// database's, until `stop`.
///
/// # Errors
/// When the schema is a newer one, or in a single run stays an older one, or an engine's version is an older one than is
/// needed; when it was asked to stop meanwhile.
pub async fn await_services(
    chosen: &Chosen,
    patience: Patience,
    stop: &CancellationToken,
) -> Result<(), StartError> {
    let services = &chosen.services;
    let mut room = None;
    let mut older_since = None;
    let mut logged_at: Option<Instant> = None;
    while let Some(missing) = missing(services, patience, &mut older_since).await? {
        if logged_at.is_none_or(|at| at.elapsed() >= LOG_EVERY) {
            tracing::warn!(error = %missing, "waiting for the database");
            logged_at = Some(Instant::now());
        }
        if let Patience::Service(health) = patience
            && room.is_none()
        {
            room = Some(WaitingRoom::open(health));
        }
        tokio::select! {
            () = stop.cancelled() => return Err(StartError::new("stopped while waiting for the database")),
            () = tokio::time::sleep(ASK_AGAIN) => {}
        }
    }
    if let Some(room) = room {
        room.close().await;
    }
    refuse_old_services(services).await?;
    chosen.set_clock().await;
    if let Some(clock) = &chosen.shared_clock {
        services.periodic.start(ClockTask { clock: clock.clone(), store: services.store.clone() }, stop);
    }
    let files = chosen.secret_files.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(files) = files {
        services.periodic.start(SecretFilesTask { files, services: services.clone() }, stop);
    }
    Ok(())
}

/// What has to be waited for; none when the schema is there.
async fn missing(
    services: &Services,
    patience: Patience,
    older_since: &mut Option<Instant>,
) -> Result<Option<StoreError>, StartError> {
    match services.store.check_schema().await {
        Ok(()) => wrong_keyring(services).await,
        // Before the first migration there is none, and between the first and the last an older one.
        Err(error @ StoreError::Schema { found, needed, .. })
            if found < needed
                && (patience != Patience::Run
                    || older_since.get_or_insert_with(Instant::now).elapsed() < MIGRATING) =>
        {
            Ok(Some(error))
        }
        Err(error) if error.is_transient() => Ok(Some(error)),
        Err(error) => Err(StartError::new(error.to_string())),
    }
}

/// Refuses a keyring under which nothing of this database was sealed: what it would seal, nobody else could open.
async fn wrong_keyring(services: &Services) -> Result<Option<StoreError>, StartError> {
    if services.keyring.get().ids().next().is_none() {
        return Ok(None);
    }
    match installation::claim_keyring(services).await {
        Ok(()) => Ok(None),
        Err(FlowError::Store(error)) if error.is_transient() => Ok(Some(error)),
        Err(error) => Err(keyring_error(&error)),
    }
}

/// Why a program does not go on with its keyring, and what to do.
pub fn keyring_error(error: &FlowError) -> StartError {
    match error {
        FlowError::Sealed { source: OpenError::NoKey, .. } => StartError::misuse(error.to_string()),
        FlowError::Sealed { .. } => StartError::misuse(format!(
            "PENSTOCK_ENCRYPTION_KEYS is not the keyring of this database: {error}. Give the one that its other services use; an old key is dropped only when `penstock doctor` reports that nothing needs it."
        )),
        _ => StartError::new(error.to_string()),
    }
}

/// Redis may come later; `doctor` reports its version then.
async fn refuse_old_services(services: &Services) -> Result<(), StartError> {
    if let Ok(database) = services.store.engine().await
        && !database.supported
    {
        return Err(StartError::new(format!(
            "DATABASE_URL names {} {}, but {} or later is needed.",
            database.engine, database.version, database.needed_version
        )));
    }
    if let Ok(Some(server)) = services.queue.server().await
        && !server.is_supported()
    {
        return Err(StartError::new(format!(
            "REDIS_URL names Redis {}, but {} or later is needed.",
            server.version,
            QueueServer::NEEDED
        )));
    }
    Ok(())
}
