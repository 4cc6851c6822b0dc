//! Settings: each a flag and an environment variable, checked against each other before anything starts.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use penstock_flow::operate::retention::Retention;
use penstock_flow::worker::heartbeat;

use crate::oidc::Oidc;
use crate::surface::Surface;
use crate::{StartError, variables};

/// Settings that every program takes.
#[derive(Args, Clone)]
pub struct Settings {
    /// `sqlite://FILE` (one machine) or `postgres://…` (a cluster; several hosts with commas between them)
    #[arg(long, env = "DATABASE_URL", global = true, hide_env_values = true)]
    pub database_url: Option<String>,
    /// A file that holds DATABASE_URL; read again when it changes
    #[arg(long, env = "DATABASE_URL_FILE", global = true)]
    pub database_url_file: Option<PathBuf>,
    /// A file that holds the password of DATABASE_URL's role; read again for each new connection
    #[arg(long, env = "PENSTOCK_DATABASE_PASSWORD_FILE", global = true)]
    pub database_password_file: Option<PathBuf>,
    /// `redis://…`, `rediss://…` for TLS, `redis+sentinel://…`, `redis+cluster://…`; without it the queue and the limits are in this process
    #[arg(long, env = "REDIS_URL", global = true, hide_env_values = true)]
    pub redis_url: Option<String>,
    /// A file that holds REDIS_URL
    #[arg(long, env = "REDIS_URL_FILE", global = true)]
    pub redis_url_file: Option<PathBuf>,
    /// What the names of all keys in Redis begin with; without it `penstock:` and the installation's id
    #[arg(long, env = "PENSTOCK_REDIS_PREFIX", global = true)]
    pub redis_prefix: Option<String>,
    /// `file:///…`, `s3://bucket/prefix`, `gs://bucket/prefix` or `az://container/prefix`
    #[arg(long, env = "OBJECT_STORE_URL", global = true, hide_env_values = true)]
    pub object_store_url: Option<String>,
    /// A file that holds OBJECT_STORE_URL
    #[arg(long, env = "OBJECT_STORE_URL_FILE", global = true)]
    pub object_store_url_file: Option<PathBuf>,
    /// `id:base64,id:base64`: 32-byte keys; the first seals, any opens
    #[arg(long, env = "PENSTOCK_ENCRYPTION_KEYS", global = true, hide_env_values = true)]
    pub encryption_keys: Option<String>,
    /// A file that holds PENSTOCK_ENCRYPTION_KEYS; read again when it changes
    #[arg(long, env = "PENSTOCK_ENCRYPTION_KEYS_FILE", global = true)]
    pub encryption_keys_file: Option<PathBuf>,
    /// A folder of pipeline definitions (*.yaml)
    #[arg(long, env = "PENSTOCK_PIPELINES", global = true)]
    pub pipelines: Option<PathBuf>,
    /// Penstock's own settings that `${NAME}` in a definition may read nevertheless, separated by commas
    #[arg(long, env = "PENSTOCK_PIPELINE_VARIABLES", value_delimiter = ',', global = true)]
    pub pipeline_variables: Vec<String>,
    /// A file of alert rules (YAML); without it no alert is sent
    #[arg(long, env = "PENSTOCK_ALERTS", global = true)]
    pub alerts: Option<PathBuf>,
    /// Rows in flight for an owner that has no quota of its own
    #[arg(long, env = "ROWS_PER_OWNER", default_value_t = 100, global = true)]
    pub rows_per_owner: u32,
    /// Rows of a whole dispatcher run; without it there is no cap
    #[arg(long, env = "ROWS_PER_RUN", global = true)]
    pub rows_per_run: Option<u32>,
    /// Where the API listens
    #[arg(long, env = "PENSTOCK_BIND", default_value = "127.0.0.1:8080", global = true)]
    pub bind: SocketAddr,
    /// Where a worker answers /livez, /readyz and /metrics
    #[arg(long, env = "PENSTOCK_HEALTH_BIND", default_value = "127.0.0.1:9090", global = true)]
    pub health_bind: SocketAddr,
    /// Rows in flight in a worker
    #[arg(long, env = "PENSTOCK_CONCURRENCY", default_value_t = 256, global = true)]
    pub concurrency: usize,
    /// Memory for rows in flight of more than 32 KiB in a worker, in MiB
    #[arg(long, env = "PENSTOCK_WORKER_MEMORY_MIB", default_value_t = 64, global = true)]
    pub worker_memory_mib: usize,
    /// Memory for long answers of APIs in a worker, in MiB
    #[arg(long, env = "PENSTOCK_WORKER_ANSWERS_MIB", default_value_t = 64, global = true)]
    pub worker_answers_mib: usize,
    /// How long the lease of an extraction lasts unless renewed, in seconds (default 30). A worker counts as dead after 10 to 15
    /// seconds without a heartbeat, or after this time, if it is shorter
    #[arg(long, env = "PENSTOCK_LEASE_SECONDS", global = true)]
    pub lease_seconds: Option<u64>,
    /// How long after its start time a queued row counts as lost, in seconds
    #[arg(long, env = "PENSTOCK_LOST_AFTER_SECONDS", default_value_t = 120, global = true)]
    pub lost_after_seconds: u64,
    /// How long an upload may take, in seconds
    #[arg(long, env = "PENSTOCK_UPLOAD_SECONDS", default_value_t = 1800, global = true)]
    pub upload_seconds: u64,
    /// How long an upload may send nothing, in seconds
    #[arg(long, env = "PENSTOCK_UPLOAD_IDLE_SECONDS", default_value_t = 30, global = true)]
    pub upload_idle_seconds: u64,
    /// How long running work may continue after SIGTERM, in seconds
    #[arg(long, env = "PENSTOCK_GRACE_SECONDS", default_value_t = 25, global = true)]
    pub grace_seconds: u64,
    /// Deliver callbacks to private and local addresses too
    #[arg(long, env = "PENSTOCK_ALLOW_PRIVATE_CALLBACKS", default_value_t = false, global = true)]
    pub allow_private_callbacks: bool,
    /// Limits on clients
    #[command(flatten)]
    pub surface: Surface,
    /// Signing in to the console by OpenID Connect
    #[command(flatten)]
    pub oidc: Oidc,
    /// Connections to PostgreSQL
    #[arg(long, env = "PENSTOCK_DATABASE_CONNECTIONS", default_value_t = 16, global = true)]
    pub database_connections: u32,
    /// What a pooler before PostgreSQL hands out: `session` or `transaction`; without it that is found out
    #[arg(long, env = "PENSTOCK_DATABASE_POOLING", global = true)]
    pub database_pooling: Option<String>,
    /// Payloads are erased this many days after their batch finished; without it they are kept
    #[arg(long, env = "PENSTOCK_ERASE_AFTER_DAYS", global = true)]
    pub erase_after_days: Option<u32>,
    /// An erasure is final after this many hours: then the key that wrapped its batch's key is replaced and deleted
    #[arg(long, env = "PENSTOCK_EPOCH_HOURS", default_value_t = 24, global = true)]
    pub epoch_hours: u32,
    /// Batches are deleted this many days after they finished; without it they are kept
    #[arg(long, env = "PENSTOCK_DELETE_AFTER_DAYS", global = true)]
    pub delete_after_days: Option<u32>,
}

/// How long an extraction's lease lasts, unless something else is set: each chunk renews it.
const LEASE: Duration = Duration::from_secs(30);

/// A worker writes a heartbeat every second: with fewer seconds a short pause would cost it its rows.
const SHORTEST_LEASE: Duration = Duration::from_secs(6);

/// A worker counts as dead after as long as its longest call may take, and a late heartbeat; but no sooner than this, and no
/// later than that: 20 seconds after its death its rows are on their way again.
const SILENCE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(15));

impl Settings {
    /// How long batches and their payloads are kept.
    pub fn retention(&self) -> Retention {
        let days = |days: Option<u32>| days.map(|days| hours(u64::from(days) * 24));
        Retention { erase_after: days(self.erase_after_days), delete_after: days(self.delete_after_days) }
    }

    /// After how long an epoch ends in which a batch was erased.
    pub fn epoch(&self) -> Duration {
        hours(self.epoch_hours.into())
    }

    /// Reads the secrets that are given as files.
    ///
    /// # Errors
    /// When one is given twice, or a file cannot be read.
    pub fn read_files(&mut self) -> Result<(), StartError> {
        for (name, value, file) in [
            ("DATABASE_URL", &mut self.database_url, &self.database_url_file),
            ("REDIS_URL", &mut self.redis_url, &self.redis_url_file),
            ("OBJECT_STORE_URL", &mut self.object_store_url, &self.object_store_url_file),
            ("PENSTOCK_ENCRYPTION_KEYS", &mut self.encryption_keys, &self.encryption_keys_file),
        ] {
            let Some(file) = file.as_deref().filter(|file| !file.as_os_str().is_empty()) else { continue };
            if value.is_some() {
                return Err(variables::both(name));
            }
            *value = Some(variables::read_file(name, file)?);
        }
        Ok(())
    }

    /// Whether the console can say where people come back to after they signed in elsewhere.
    ///
    /// # Errors
    /// When it cannot, or something of [`Oidc`](crate::oidc::Oidc) makes no sense.
    pub fn check_sign_in(&self) -> Result<(), StartError> {
        let provider = self.oidc.provider()?;
        if provider.is_some() && self.surface.public_base()?.is_none() && self.bind.ip().is_unspecified() {
            return Err(StartError::misuse(
                "PENSTOCK_PUBLIC_URL is not set, so the OpenID Connect provider cannot send people back: set it to where they \
                 reach the console, https://rows.example.com.",
            ));
        }
        Ok(())
    }

    /// The lease of an extraction.
    ///
    /// # Errors
    /// When it is too short.
    pub fn lease(&self) -> Result<Duration, StartError> {
        let lease = self.lease_seconds.map_or(LEASE, Duration::from_secs);
        if lease < SHORTEST_LEASE {
            return Err(StartError::misuse(format!(
                "PENSTOCK_LEASE_SECONDS is {}: set it to {} or more.",
                lease.as_secs(),
                SHORTEST_LEASE.as_secs()
            )));
        }
        Ok(lease)
    }

    /// How long a worker's heartbeat has to be missing until its rows are somebody else's, in whole seconds.
    pub fn silence(lease: Duration, longest_call: Duration) -> Duration {
        let needed = (longest_call + heartbeat::FRESH).clamp(SILENCE.0, SILENCE.1);
        Duration::from_secs(needed.min(lease).as_secs())
    }

    /// Settings that contradict each other, found before anything starts.
    ///
    /// # Errors
    /// A sentence with a hint.
    pub fn check(&self, lease: Duration) -> Result<(), StartError> {
        if self.rows_per_owner == 0 {
            return Err(StartError::misuse(
                "ROWS_PER_OWNER is 0, so no row would ever run: set it to 1 or more.",
            ));
        }
        if self.rows_per_run == Some(0) {
            return Err(StartError::misuse(
                "ROWS_PER_RUN is 0, so no row would ever run: leave it out for no cap.",
            ));
        }
        if self.concurrency == 0 {
            return Err(StartError::misuse(
                "PENSTOCK_CONCURRENCY is 0, so no row would ever run: set it to 1 or more.",
            ));
        }
        self.surface.check()?;
        if Duration::from_secs(self.lost_after_seconds) < lease {
            return Err(StartError::misuse(format!(
                "PENSTOCK_LOST_AFTER_SECONDS is {}, shorter than a lease ({} seconds): rows would be released again \
                 while they are still on their way; set it to {} or more.",
                self.lost_after_seconds,
                lease.as_secs(),
                lease.as_secs()
            )));
        }
        if self
            .delete_after_days
            .is_some_and(|delete| self.erase_after_days.is_none_or(|erase| erase > delete))
        {
            return Err(StartError::misuse(
                "PENSTOCK_DELETE_AFTER_DAYS deletes batches that were erased before: set PENSTOCK_ERASE_AFTER_DAYS to \
                 the same number of days or fewer.",
            ));
        }
        Ok(())
    }
}

fn hours(hours: u64) -> Duration {
    Duration::from_secs(hours * 3600)
}

/// Reads a flag such as `60s` or `5m`.
///
/// # Errors
/// A sentence, when it is none.
pub fn parse_span(text: &str) -> Result<Duration, String> {
    penstock_domain::pipeline::scalars::parse_duration(text)
        .filter(|span| !span.is_zero())
        .ok_or_else(|| format!("invalid duration `{text}`: use 500ms, 1s, 5m or 1h"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Program {
        #[command(flatten)]
        settings: Settings,
    }

    fn settings(args: &[&str]) -> Settings {
        Program::parse_from(std::iter::once("program").chain(args.iter().copied())).settings
    }

    #[test]
    fn a_lease_is_long_enough_or_the_program_does_not_start() {
        assert_eq!(settings(&[]).lease().unwrap(), Duration::from_secs(30));
        assert_eq!(settings(&["--lease-seconds", "6"]).lease().unwrap(), Duration::from_secs(6));
        let error = settings(&["--lease-seconds", "5"]).lease().unwrap_err().to_string();
        assert!(error.contains("set it to 6 or more"), "{error}");
    }

    #[test]
    fn a_dead_workers_rows_come_back_after_its_longest_call_and_in_time() {
        for (lease, call, silence) in
            [(30, 1, 10), (30, 5, 10), (30, 8, 12), (30, 60, 15), (8, 60, 8), (300, 9, 13)]
        {
            let [lease, call, silence] = [lease, call, silence].map(Duration::from_secs);
            assert_eq!(Settings::silence(lease, call), silence, "{call:?}");
        }
    }

    #[test]
    fn a_secret_comes_from_its_file_and_never_from_two_places() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("url");
        std::fs::write(&file, "redis://:secret@host\n").unwrap();
        let file = file.to_str().unwrap();
        let mut by_file = settings(&["--redis-url-file", file]);
        by_file.read_files().unwrap();
        assert_eq!(by_file.redis_url.as_deref(), Some("redis://:secret@host"));
        let mut twice = settings(&["--redis-url-file", file, "--redis-url", "redis://other"]);
        assert!(twice.read_files().unwrap_err().to_string().contains("both set"));
        assert!(settings(&["--database-url-file", "/no/such/file"]).read_files().is_err());
    }

    #[test]
    fn settings_that_contradict_each_other_are_refused() {
        let lease = Duration::from_secs(30);
        for args in [
            &["--rows-per-owner", "0"][..],
            &["--rows-per-run", "0"],
            &["--concurrency", "0"],
            &["--lost-after-seconds", "10"],
            &["--delete-after-days", "3"],
            &["--delete-after-days", "3", "--erase-after-days", "5"],
        ] {
            assert!(settings(args).check(lease).is_err(), "{args:?}");
        }
        settings(&["--delete-after-days", "5", "--erase-after-days", "5"]).check(lease).unwrap();
    }
}
