//! Engines for a command that runs beside the services.

use std::path::{Path, PathBuf};

use penstock_app::engines::choose;
use penstock_app::{Chosen, Role, Settings, StartError, boot, data_dir};
use penstock_domain::ids::BatchId;
use penstock_store::batches::Batch;

/// Engines and settings.
pub struct Opened {
    pub chosen: Chosen,
    pub settings: Settings,
}

/// An engine's error as a sentence.
pub fn said(error: impl std::fmt::Display) -> StartError {
    StartError(error.to_string())
}

/// Who runs the command, for the audit log and leases.
pub fn operator_name() -> String {
    let user = std::env::var("USER").unwrap_or_else(|_| "unknown".into());
    format!("operator:{user}")
}

/// Opens engines for a command. Without a `DATABASE_URL` these are the data folder's.
pub async fn operator(settings: &mut Settings, data: &Path) -> Result<Opened, StartError> {
    if settings.database_url.is_none() {
        data_dir::fill(settings, data)?;
    }
    let cluster = settings.database_url.as_deref().is_some_and(|url| url.starts_with("postgres"));
    // Commands that need none of these must not ask for them.
    if settings.object_store_url.is_none() || settings.encryption_keys.is_none() {
        let mut rest = settings.clone();
        rest.database_url.get_or_insert_default();
        data_dir::fill(&mut rest, data)?;
        settings.object_store_url = rest.object_store_url;
        settings.encryption_keys = rest.encryption_keys;
    }
    if cluster && settings.redis_url.is_none() {
        return Err(StartError::new("REDIS_URL is not set: give the one that the services use."));
    }
    let pipelines = match &settings.pipelines {
        Some(folder) => boot::load_pipelines(folder, &boot::environment)?,
        // A variable that only the services have keeps no command from its work.
        None => boot::load_pipelines(&PathBuf::from("./pipelines"), &boot::environment).unwrap_or_default(),
    };
    let chosen = choose(settings, pipelines, Role::Operator).await?;
    Ok(Opened { chosen, settings: settings.clone() })
}

impl Opened {
    /// The batch of that id.
    pub async fn batch(&self, id: &str) -> Result<Batch, StartError> {
        let parsed: BatchId = id.parse().map_err(|_| StartError(format!("`{id}` is no batch id")))?;
        self.chosen
            .engines
            .store
            .batch(parsed, None)
            .await
            .map_err(said)?
            .ok_or_else(|| StartError(format!("there is no batch {id}")))
    }
}
