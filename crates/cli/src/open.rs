//! Services for a command that runs beside the services.

use std::path::{Path, PathBuf};

use penstock_app::services::choose;
use penstock_app::{Chosen, Role, Settings, StartError, Variables, boot, data_dir};
use penstock_domain::ids::BatchId;
use penstock_domain::pipeline::Catalog;
use penstock_store::batches::Batch;
use penstock_store::operations::AuditEntry;

/// Services and settings.
pub struct Opened {
    pub chosen: Chosen,
    pub settings: Settings,
    /// Why the pipelines could not be loaded here. Most commands need none; those that do say it.
    pub pipelines_fault: Option<String>,
}

/// An engine's error as a sentence.
pub fn said(error: impl std::fmt::Display) -> StartError {
    StartError::new(error.to_string())
}

/// Who runs the command, for the audit log and leases.
pub fn operator_name() -> String {
    let user = std::env::var("USER").unwrap_or_else(|_| "unknown".into());
    format!("operator:{user}")
}

/// Opens services for a command. Without a `DATABASE_URL` these are the data folder's, which has to be there unless the
/// command is one of those that begin an installation (`makes`).
pub async fn operator(settings: &mut Settings, data: &Path, makes: bool) -> Result<Opened, StartError> {
    if settings.database_url.is_none() {
        let file = data.join("penstock.db");
        if !makes && !file.exists() {
            return Err(StartError::new(format!(
                "there is no database at {}: start `penstock dev` there once, or give DATABASE_URL (or --data)",
                file.display()
            )));
        }
        data_dir::fill(settings, data)?;
    }
    let cluster = settings.database_url.as_deref().is_some_and(|url| url.starts_with("postgres"));
    // Commands that need none of these must not ask for them. A keyring that was made here would open nothing of a cluster's.
    if settings.object_store_url.is_none() || (settings.encryption_keys.is_none() && !cluster) {
        let mut rest = settings.clone();
        rest.database_url.get_or_insert_default();
        if cluster {
            rest.encryption_keys.get_or_insert_default();
        }
        data_dir::fill(&mut rest, data)?;
        settings.object_store_url = rest.object_store_url;
        if !cluster {
            settings.encryption_keys = rest.encryption_keys;
        }
    }
    if cluster && settings.redis_url.is_none() {
        return Err(StartError::misuse("REDIS_URL is not set: give the one that the services use."));
    }
    let folder = settings.pipelines.clone();
    let asked = folder.is_some();
    let folder = folder.unwrap_or_else(|| PathBuf::from("./pipelines"));
    let loaded = boot::load_pipelines(&folder, &Variables::of(settings, Role::Operator));
    // A definition that is wrong, or a variable that only the services have, keeps no command from its work.
    let (pipelines, fault) = match loaded {
        Ok(pipelines) => (pipelines, None),
        Err(error) => (Catalog::default(), asked.then(|| error.to_string())),
    };
    let chosen = choose(settings, pipelines, Role::Operator).await?;
    chosen.set_clock().await;
    Ok(Opened { chosen, settings: settings.clone(), pipelines_fault: fault })
}

impl Opened {
    /// The batch of that id.
    pub async fn batch(&self, id: BatchId) -> Result<Batch, StartError> {
        self.chosen
            .services
            .store
            .batch(id, None)
            .await
            .map_err(said)?
            .ok_or_else(|| StartError::new(format!("there is no batch {id}")))
    }

    /// Writes down who did what, after it was done. That it cannot be written is reported and does not hide what was done.
    pub async fn audit_done(&self, action: &str, detail: impl Into<Option<String>>) {
        if let Err(error) = self.audit(action, None, detail).await {
            eprintln!("done, but not written to the audit log: {error}");
        }
    }

    /// Writes down who does what, before it is done, where no transaction of the store does.
    pub async fn audit(
        &self,
        action: &str,
        batch: Option<BatchId>,
        detail: impl Into<Option<String>>,
    ) -> Result<(), StartError> {
        let services = &self.chosen.services;
        let entry = AuditEntry {
            id: 0,
            at: services.clock.now(),
            actor: operator_name(),
            action: action.to_owned(),
            batch,
            detail: detail.into(),
        };
        services.store.audit(&entry).await.map_err(said)
    }
}

/// Reads a batch's id from the command line.
pub fn batch_id(text: &str) -> Result<BatchId, String> {
    text.parse().map_err(|_| "a batch's id looks like 01a20b64-4c23-7a77-86b0-6a29b5a1007b".to_owned())
}
