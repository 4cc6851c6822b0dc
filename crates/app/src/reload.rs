//! Definitions are read again when their folder or a file that they name changes, and on SIGHUP. What cannot be used changes nothing: the definitions from
//! before stay in use, and the log, a metric and `penstock doctor` report why.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use penstock_domain::pipeline::Catalog;
use penstock_flow::Services;
use penstock_flow::context::periodic::{Schedule, Task};
#[cfg(unix)]
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::live_files::Stamp;
use crate::{Role, Settings, StartError, Variables, boot};

/// How often services look at the folder. What is mounted there may take a minute to change by itself.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// How often `penstock dev` does: somebody waits for it.
const LOOK_EVERY_IN_DEV: Duration = Duration::from_secs(1);

/// Definitions that cannot be used are tried again after this time although nothing of the folder has changed: a file that they name
/// may be there by then.
const TRY_AGAIN: Duration = Duration::from_secs(60);

/// Reads the definitions again in the background.
pub struct DefinitionsTask {
    folder: PathBuf,
    variables: Variables,
    services: Services,
    every: Duration,
    /// The folder's files when they were read last; empty: not yet.
    seen: Vec<(PathBuf, Stamp)>,
    read_at: Instant,
    /// Whether somebody has asked for it, whatever the files are.
    asked: bool,
    #[cfg(unix)]
    hangup: Option<Signal>,
}

impl DefinitionsTask {
    /// That of a service, which also listens to SIGHUP; none when the settings name no folder. Needs a tokio runtime.
    pub fn of_service(settings: &Settings, role: Role, services: &Services) -> Option<Self> {
        let folder = settings.pipelines.clone()?;
        let task = Self::new(folder, Variables::of(settings, role), services, LOOK_EVERY);
        #[cfg(unix)]
        let task = Self {
            hangup: signal(SignalKind::hangup())
                .inspect_err(|error| tracing::warn!(%error, "SIGHUP cannot be listened to; definitions are read again when they change"))
                .ok(),
            ..task
        };
        Some(task)
    }

    /// That of `penstock dev`: SIGHUP ends it, as when its terminal is closed.
    pub fn of_dev(folder: PathBuf, settings: &Settings, services: &Services) -> Self {
        Self::new(folder, Variables::of(settings, Role::Everything), services, LOOK_EVERY_IN_DEV)
    }

    fn new(folder: PathBuf, variables: Variables, services: &Services, every: Duration) -> Self {
        Self {
            folder,
            variables,
            services: services.clone(),
            every,
            seen: Vec::new(),
            read_at: Instant::now(),
            asked: false,
            #[cfg(unix)]
            hangup: None,
        }
    }

    /// Uses these from now on: where they are different, or `anyway`, because what they read is.
    fn replace(&self, catalog: Catalog, anyway: bool) {
        let pipelines = &self.services.pipelines;
        let before = pipelines.catalog();
        if catalog.iter().next().is_none() && before.iter().next().is_some() {
            self.refuse(&format!(
                "there is no definition in {} any more; a service without any is started anew",
                self.folder.display()
            ));
            return;
        }
        let was_faulty = pipelines.set_fault(None).is_some();
        let changes = changes(&before, &catalog);
        if anyway || !changes.is_empty() {
            pipelines.replace(catalog);
            tracing::info!(changes, "the definitions were read again and are used from now on");
        } else if was_faulty {
            tracing::info!("the definitions are in order again");
        }
    }

    /// Goes on with those from before. The same reason is logged once.
    fn refuse(&self, reason: &str) {
        let before = self.services.pipelines.set_fault(Some(reason.to_owned()));
        if before.as_deref() != Some(reason) {
            tracing::error!(reason, "the definitions cannot be used; those from before stay in use");
        }
    }
}

impl Task for DefinitionsTask {
    const NAME: &'static str = "definitions";
    type Error = StartError;

    fn schedule(&self) -> Schedule {
        Schedule::after(self.every)
    }

    async fn run(&mut self) -> Result<(), StartError> {
        let asked = std::mem::take(&mut self.asked);
        let is_due = self.services.pipelines.fault().is_some() && self.read_at.elapsed() >= TRY_AGAIN;
        let (folder, variables) = (self.folder.clone(), self.variables.clone());
        let seen = std::mem::take(&mut self.seen);
        let read = tokio::task::spawn_blocking(move || {
            // Before they are read: what changes meanwhile is read the next time.
            let files = stamps(&folder);
            // What was read at the start may have changed by the first look.
            let is_first = seen.is_empty();
            let is_filled_anew = variables.have_files_changed();
            let is_changed = asked || is_due || is_filled_anew || files != seen;
            let load = || {
                variables.forget_files();
                boot::load_pipelines(&folder, &variables)
            };
            let loaded = is_changed.then(load);
            (loaded, is_filled_anew || (is_first && variables.names_files()), files)
        });
        let (loaded, is_filled_anew, files) =
            read.await.map_err(|error| StartError::new(error.to_string()))?;
        self.seen = files;
        if loaded.is_some() {
            self.read_at = Instant::now();
        }
        match loaded {
            None => {}
            Some(Ok(catalog)) => self.replace(catalog, asked || is_filled_anew),
            Some(Err(error)) => self.refuse(&error.to_string()),
        }
        Ok(())
    }

    async fn due_early(&mut self) {
        #[cfg(unix)]
        if let Some(hangup) = &mut self.hangup
            && hangup.recv().await.is_some()
        {
            self.asked = true;
            return;
        }
        std::future::pending().await
    }
}

/// The definitions of a folder, each with what shows that it was changed.
fn stamps(folder: &Path) -> Vec<(PathBuf, Stamp)> {
    let files = boot::definitions_in(folder).unwrap_or_default();
    files.into_iter().filter_map(|file| Stamp::of(&file).ok().map(|stamp| (file, stamp))).collect()
}

/// What is different, for people: `+new ~changed -removed`.
fn changes(before: &Catalog, after: &Catalog) -> String {
    let mut changes = Vec::new();
    for pipeline in after.iter() {
        match before.get(&pipeline.name) {
            None => changes.push(format!("+{}", pipeline.name)),
            Some(known) if known.version != pipeline.version => changes.push(format!("~{}", pipeline.name)),
            Some(_) => {}
        }
    }
    let removed = before.iter().filter(|pipeline| after.get(&pipeline.name).is_none());
    changes.extend(removed.map(|pipeline| format!("-{}", pipeline.name)));
    changes.join(" ")
}
