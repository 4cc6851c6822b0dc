//! What a worker knows of a batch: everything about it that does not change while its rows run.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use penstock_domain::csv::HeaderMap;
use penstock_domain::ids::BatchSeq;
use penstock_domain::limit;
use penstock_domain::pipeline::{Dependency, Pipeline, SecretValues};
use penstock_domain::time::Timestamp;
use penstock_store::batches::Batch;
use penstock_store::work::ClaimedRow;
use tokio::time::Instant;
use uuid::Uuid;

use crate::context::cache::Kept;
use crate::context::error::FlowError;
use crate::context::owner_values;
use crate::context::secrets::{SecretsOf, unreadable_header};
use crate::context::services::Services;
use crate::worker::held::HeldAt;
use crate::worker::lanes::Owner;

/// A batch that could not be loaded is tried again after this time: less than [`HELD_AFTER_FAULT`](crate::dispatch::run::HELD_AFTER_FAULT).
const RELOAD_AFTER: Duration = Duration::from_secs(5);

/// What a dependency reads of an owner is read again after this time: a new secret is used without a restart.
const OWNERS_VALUES_FOR: Duration = Duration::from_secs(2);

/// A batch, ready to process its rows.
pub struct BatchWork {
    /// Its key in SQL.
    pub seq: BatchSeq,
    /// Its public id.
    pub id: Uuid,
    /// Whose it is, and how it weighs among others.
    pub owner: Owner,
    /// What the client calls it.
    pub name: Option<String>,
    /// The owner's name: limits may be per owner.
    pub owner_name: String,
    /// The definition it was uploaded under.
    pub pipeline: Arc<Pipeline>,
    /// How often definitions had been replaced when it was loaded.
    pub replaced: u64,
    /// That definition's dependencies, in its order, with the limits of today.
    pub dependencies: Vec<Dependency>,
    /// What is shown of its calls is masked by these: its definition's values and its owner's secrets.
    pub secret_values: SecretValues,
    /// Since when it has its owner's values; none: it reads none of them.
    pub owners_values_from: Option<Instant>,
    /// Bytes of its file: no row of it has more.
    pub file_bytes: u64,
    /// When it was uploaded.
    pub created_at: Timestamp,
    /// Which run of it this is.
    pub run: u32,
    /// Its data key and context.
    pub secrets: SecretsOf,
    /// The file's columns.
    pub header: Arc<HeaderMap>,
    /// When an answer held it last.
    pub held: HeldAt,
}

impl BatchWork {
    /// Whether its owner's values, or what its definition reads, may be others by now.
    fn is_stale(&self, services: &Services, now: Instant) -> bool {
        self.replaced != services.pipelines.replaced()
            || self.owners_values_from.is_some_and(|from| now.duration_since(from) >= OWNERS_VALUES_FOR)
    }

    /// How long after the upload a row starts for the first time; none: it has run before.
    pub fn first_start_of(&self, claimed: &ClaimedRow, now: Timestamp) -> Option<Duration> {
        (self.run == 1 && claimed.first_claimed_at.is_none()).then(|| now.since(self.created_at))
    }
}

/// Batches whose rows were received lately.
pub struct BatchCache {
    /// The worker, which reports batches that it cannot process.
    worker: String,
    kept: Kept<BatchSeq, Arc<BatchWork>>,
    /// When batches could not be loaded.
    broken: Mutex<HashMap<BatchSeq, Instant>>,
}

impl BatchCache {
    /// An empty cache of a worker.
    pub fn new(worker: String) -> Self {
        Self { worker, kept: Kept::default(), broken: Mutex::default() }
    }

    /// The batches with those keys. Those that cannot be processed (erased, gone, a definition that does not load
    /// here) are left out, and the reason is logged and reported for operators.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn get(
        &self,
        services: &Services,
        wanted: &[BatchSeq],
    ) -> Result<HashMap<BatchSeq, Arc<BatchWork>>, FlowError> {
        let now = Instant::now();
        let mut found = HashMap::new();
        let mut missing = Vec::new();
        {
            let mut broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
            broken.retain(|_, at| now - *at < RELOAD_AFTER);
            for batch in wanted {
                match self.kept.get(batch).filter(|work| !work.is_stale(services, now)) {
                    Some(work) => {
                        found.insert(*batch, work);
                    }
                    None if !missing.contains(batch) && !broken.contains_key(batch) => missing.push(*batch),
                    None => {}
                }
            }
        }
        if missing.is_empty() {
            return Ok(found);
        }
        let (mut loaded, mut faults) = (Vec::new(), Vec::new());
        for batch in services.store.batches_by_seq(&missing).await? {
            match load(services, &batch).await {
                Ok(work) => {
                    let work = Arc::new(work);
                    // As old as its key: that one leaves every worker a minute after it was opened.
                    let (bytes, opened) = (work.secrets.bytes(), work.secrets.opened());
                    self.kept.insert(work.seq, work.clone(), bytes, opened);
                    found.insert(batch.seq, work);
                    loaded.push(batch.seq);
                }
                Err(FlowError::Store(error)) if error.is_transient() => return Err(error.into()),
                Err(error) => {
                    tracing::error!(%error, batch = %batch.id, "the batch's rows cannot be processed here");
                    faults.push((batch.seq, error.to_string()));
                }
            }
        }
        self.report(services, &loaded, &faults).await;
        Ok(found)
    }

    /// Best effort: what cannot be written now is reported when the batch is tried again.
    pub async fn report(&self, services: &Services, loaded: &[BatchSeq], faults: &[(BatchSeq, String)]) {
        let now = services.clock.now();
        if !faults.is_empty() {
            let mut broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
            broken.extend(faults.iter().map(|(batch, _)| (*batch, Instant::now())));
        }
        let cleared = services.store.clear_faults(loaded).await;
        let reported = match faults {
            [] => Ok(()),
            faults => services.store.report_faults(faults, &self.worker, now).await,
        };
        if let Err(error) = cleared.and(reported) {
            tracing::warn!(%error, "failed to record which batches can be processed");
        }
    }

    /// The batches of claimed rows: read again where a row belongs to another run than what is cached, because a retry may
    /// have given the batch another definition. One whose definition does not load here is left out.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn of_claimed(
        &self,
        services: &Services,
        mut works: HashMap<BatchSeq, Arc<BatchWork>>,
        claimed: &[ClaimedRow],
    ) -> Result<HashMap<BatchSeq, Arc<BatchWork>>, FlowError> {
        let other_run = |row: &&ClaimedRow| works.get(&row.row.batch).is_some_and(|work| work.run != row.run);
        let stale: BTreeSet<BatchSeq> = claimed.iter().filter(other_run).map(|row| row.row.batch).collect();
        if stale.is_empty() {
            return Ok(works);
        }
        let stale: Vec<BatchSeq> = stale.into_iter().collect();
        for batch in &stale {
            works.remove(batch);
            self.kept.remove(batch);
        }
        works.extend(self.get(services, &stale).await?);
        Ok(works)
    }
}

/// Reads what is needed to process a batch's rows.
///
/// # Errors
/// When the database fails, the batch was erased, or its definition does not load here.
pub async fn load(services: &Services, batch: &Batch) -> Result<BatchWork, FlowError> {
    let replaced = services.pipelines.replaced();
    let pipeline = services.definition_of(batch).await?;
    let catalog = services.pipelines.catalog();
    let dependencies = with_limits_of_today(&pipeline, catalog.iter().map(Arc::as_ref));
    let (dependencies, secret_values) = of_owner(services, batch, &pipeline, dependencies).await?;
    let secrets = services.secrets_of(batch).await?;
    let header = secrets.header().cloned().ok_or_else(|| unreadable_header(batch))?;
    let reads_owner = pipeline.dependencies.iter().any(Dependency::reads_owner);
    Ok(BatchWork {
        owners_values_from: reads_owner.then(Instant::now),
        seq: batch.seq,
        id: batch.id.0,
        name: batch.name.clone(),
        owner: Owner { seq: batch.owner, weight: batch.owner_weight },
        owner_name: batch.owner_name.clone(),
        pipeline,
        replaced,
        dependencies,
        secret_values,
        file_bytes: batch.file_bytes,
        created_at: batch.created_at,
        run: batch.ledger.run,
        secrets,
        header,
        held: HeldAt::default(),
    })
}

/// Dependencies that read of an owner, as this batch's owner has them, and what is secret of them.
async fn of_owner(
    services: &Services,
    batch: &Batch,
    pipeline: &Pipeline,
    dependencies: Vec<Dependency>,
) -> Result<(Vec<Dependency>, SecretValues), FlowError> {
    let mut secrets = pipeline.secret_values.clone();
    if !dependencies.iter().any(Dependency::reads_owner) {
        return Ok((dependencies, secrets));
    }
    let owner = owner_values::view(services, batch.owner, &batch.owner_name).await?;
    owner.secrets.values().for_each(|value| secrets.add(value));
    let own = dependencies.iter().map(|dependency| dependency.for_owner(&owner));
    let own = own.collect::<Result<_, _>>();
    let own = own.map_err(|reason| FlowError::Definition { pipeline: batch.pipeline.clone(), reason })?;
    Ok((own, secrets))
}

/// A batch keeps the definition that it was uploaded under: its columns, its steps, where they are sent and with what. Rates,
/// concurrency, breakers and timeouts describe what an API accepts *today*, and an operator who lowers one means the batches
/// that run as well: these come from the loaded pipelines, for each dependency of the same name at the same address
/// ([`limit::identity`]). The pipeline of the batch's name goes first, then the others by name; a dependency that none of
/// them has any more keeps its old limits.
fn with_limits_of_today<'a>(
    frozen: &Pipeline,
    loaded: impl Iterator<Item = &'a Pipeline>,
) -> Vec<Dependency> {
    let mut loaded: Vec<&Pipeline> = loaded.collect();
    loaded.sort_by_key(|pipeline| pipeline.name != frozen.name);
    let identity = |dependency: &Dependency| limit::identity(&dependency.name, &dependency.base_url);
    let merged = frozen.dependencies.iter().map(|dependency| {
        let name = identity(dependency);
        let mut known = loaded.iter().flat_map(|pipeline| &pipeline.dependencies);
        let today = known.find(|known| identity(known) == name).unwrap_or(dependency);
        Dependency {
            name: dependency.name.clone(),
            base_url: dependency.base_url.clone(),
            hosts: dependency.hosts.clone(),
            headers: dependency.headers.clone(),
            auth: dependency.auth.clone(),
            owner: dependency.owner.clone(),
            tls: dependency.tls.clone(),
            proxy: dependency.proxy.clone(),
            rate: today.rate.clone(),
            more: today.more.clone(),
            hours: today.hours.clone(),
            concurrency: today.concurrency,
            timeout: today.timeout,
            breaker: today.breaker,
        }
    });
    merged.collect()
}

#[cfg(test)]
mod tests {
    use penstock_domain::pipeline::NoFiles;

    use super::*;

    /// A pipeline with these dependencies, each a name, an address and its other settings.
    fn pipeline(name: &str, dependencies: &[(&str, &str, &str)]) -> Pipeline {
        let mut text =
            format!("name: {name}\ncsv: {{ columns: [{{ name: a }}] }}\nsteps: []\ndependencies:\n");
        for (name, url, limits) in dependencies {
            text += &format!("  {name}: {{ base_url: \"{url}\", {limits} }}\n");
        }
        Pipeline::load("test", &text, &|_| None).unwrap()
    }

    fn merged(frozen: &Pipeline, loaded: &[Pipeline]) -> Vec<Dependency> {
        with_limits_of_today(frozen, loaded.iter())
    }

    const API: &str = "https://api.example/v1";

    #[test]
    fn limits_are_those_of_today_and_all_else_is_as_it_was() {
        let before = "headers: { X-Is: old }, rate: { limit: 50, period: 1s, burst: 10 }, timeout: 30s, concurrency: 20";
        let today = "headers: { X-Is: new }, rate: { limit: 5, period: 1s, burst: 2 }, timeout: 10s, concurrency: 3, \
                     breaker: { min_calls: 7 }";
        let frozen = pipeline("invite", &[("api", API, before)]);
        let loaded = [pipeline("invite", &[("another", API, ""), ("api", API, today)])];
        let merged = merged(&frozen, &loaded);
        let (now, was) = (&loaded[0].dependencies, &frozen.dependencies[0]);
        let now = now.iter().find(|dependency| dependency.name == "api").unwrap();
        assert_eq!(merged.len(), 1);
        assert_eq!((&merged[0].rate, merged[0].concurrency), (&now.rate, now.concurrency));
        assert_eq!((merged[0].timeout, merged[0].breaker), (now.timeout, now.breaker));
        assert_eq!(merged[0].rate.as_ref().unwrap().limit, 5);
        assert_eq!((&merged[0].name, &merged[0].base_url), (&was.name, &was.base_url));
        let sent = |of: &Dependency| of.headers[0].1.text(&NoFiles).unwrap().into_owned();
        assert_eq!((sent(&merged[0]), sent(was)), ("old".into(), "old".into()));
    }

    #[test]
    fn a_limit_that_was_taken_away_is_gone_and_one_that_is_new_holds() {
        let limited = pipeline("invite", &[("api", API, "rate: { limit: 50, period: 1s }")]);
        let free = pipeline("invite", &[("api", API, "timeout: 5s")]);
        assert_eq!(merged(&limited, &[pipeline("invite", &[("api", API, "timeout: 5s")])])[0].rate, None);
        assert!(merged(&free, &[limited])[0].rate.is_some());
    }

    #[test]
    fn the_pipeline_of_the_same_name_goes_first_then_any() {
        let of = |name: &str, limit: u32| {
            pipeline(name, &[("api", API, &format!("rate: {{ limit: {limit}, period: 1s }}"))])
        };
        let frozen = of("invite", 50);
        let limit = |loaded: &[Pipeline]| merged(&frozen, loaded)[0].rate.as_ref().unwrap().limit;
        assert_eq!(limit(&[of("a", 1), of("invite", 2), of("z", 3)]), 2);
        assert_eq!(limit(&[of("a", 1), of("z", 3)]), 1);
        assert_eq!(limit(&[]), 50, "nobody knows it any more");
        let elsewhere =
            pipeline("invite", &[("api", "https://api.example/v2", "rate: { limit: 9, period: 1s }")]);
        assert_eq!(limit(&[elsewhere]), 50, "the same name at another address is another API");
    }
}
