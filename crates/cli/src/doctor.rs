//! `penstock doctor`: each engine, the schema, keys, pipelines, their dependencies and runs, each line with what was found and the mend.

use std::path::Path;

use futures::{StreamExt as _, TryStreamExt as _};
use object_store::ObjectStoreExt as _;
use object_store::path::Path as ObjectPath;
use penstock_app::StartError;
use penstock_app::clock::SystemClock;
use penstock_domain::time::Clock as _;
use penstock_flow::context::installation;
use penstock_flow::operate::dependencies;
use penstock_flow::operate::dependencies::DependencyState;
use penstock_flow::operate::rotation;
use penstock_queue::QueueServer;
use penstock_store::workers::WorkerKind;
use serde_json::json;
use url::Url;

use crate::keys::all_of;
use crate::open::Opened;
use crate::output::Output;
use crate::socket::{self, Answer, Question};

/// Runs are expected at least this often, in seconds.
const RUN_LATE_SECONDS: u64 = 180;

/// Clocks may differ by so much, in milliseconds: leases and start times are told between machines.
const SKEW_MS: i64 = 2000;

/// Less free disk than this is worth a word.
const LITTLE_DISK: u64 = 1024 * 1024 * 1024;

/// Dependencies that are asked for a connection at once.
const PROBES: usize = 8;

/// The queue's share of its memory from which it is worth a word.
const MUCH_MEMORY: f64 = 0.8;

/// Batches that no worker can process are listed up to this number.
const MOST_BATCHES: usize = 5;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Ok,
    Warn,
    Fail,
}

struct Line {
    verdict: Verdict,
    what: &'static str,
    found: String,
}

#[derive(Default)]
struct Findings(Vec<Line>);

impl Findings {
    fn say(&mut self, verdict: Verdict, what: &'static str, found: impl Into<String>) {
        self.0.push(Line { verdict, what, found: found.into() });
    }

    fn ok(&mut self, what: &'static str, found: impl Into<String>) {
        self.say(Verdict::Ok, what, found);
    }

    fn warn(&mut self, what: &'static str, found: impl Into<String>) {
        self.say(Verdict::Warn, what, found);
    }

    fn fail(&mut self, what: &'static str, found: impl Into<String>) {
        self.say(Verdict::Fail, what, found);
    }
}

pub async fn run(opened: &Opened, out: Output) -> Result<bool, StartError> {
    let mut findings = Findings::default();
    if database(opened, &mut findings).await {
        keys(opened, &mut findings).await;
        workers(opened, &mut findings).await;
        runs(opened, &mut findings).await;
        batches(opened, &mut findings).await;
    }
    objects(opened, &mut findings).await;
    queue(opened, &mut findings).await;
    pipelines(opened, &mut findings);
    dependencies(opened, &mut findings).await;
    disk(opened, &mut findings);
    let lines = findings.0;
    let healthy = lines.iter().all(|line| line.verdict != Verdict::Fail);
    let word = |verdict| match verdict {
        Verdict::Ok => "ok",
        Verdict::Warn => "warn",
        Verdict::Fail => "fail",
    };
    let value: Vec<_> = lines
        .iter()
        .map(|line| json!({ "verdict": word(line.verdict), "what": line.what, "found": line.found }))
        .collect();
    out.say(&value, || {
        let lines: Vec<String> = lines
            .iter()
            .map(|line| format!("{:<4}  {:<12} {}", word(line.verdict), line.what, line.found))
            .collect();
        lines.join("\n")
    });
    Ok(healthy)
}

/// Whether what lies in the database can be looked at.
async fn database(opened: &Opened, findings: &mut Findings) -> bool {
    let services = &opened.chosen.services;
    let info = match services.store.engine().await {
        Ok(info) => info,
        Err(error) => {
            findings.fail(
                "database",
                format!("{error}; is it up, and is DATABASE_URL right? What needs it was not looked at"),
            );
            return false;
        }
    };
    let found = format!("{} {}, {} MiB", info.engine, info.version, info.bytes / 1024 / 1024);
    if info.supported {
        findings.ok("database", found);
    } else {
        findings.fail("database", format!("{found}: {} or later is needed", info.needed_version));
    }
    if !info.missing_rights.is_empty() {
        let missing = info.missing_rights.join(", ");
        findings.fail("rights", format!("DATABASE_URL's role lacks {missing}: grant them"));
    }
    clock(findings, "clock", "the database's", SystemClock.now().millis() - info.now.millis());
    match services.store.check_schema().await {
        Ok(()) => findings.ok("schema", format!("up to date (version {})", info.schema)),
        Err(error) => {
            findings.fail("schema", error.to_string());
            return false;
        }
    }
    match services.store.probe_writes(services.clock.now()).await {
        Ok(()) => findings.ok("writes", "the database takes them"),
        Err(error) => {
            let hint =
                "is it a standby, read-only, or its disk full? Nothing is processed until it takes writes";
            findings.fail("writes", format!("{error}; {hint}"));
        }
    }
    true
}

fn clock(findings: &mut Findings, what: &'static str, whose: &str, apart: i64) {
    let apart = apart.abs();
    let found = format!("{apart} ms apart from {whose}");
    if apart > SKEW_MS {
        findings.warn(what, format!("{found}: set both by NTP"));
    } else {
        findings.ok(what, found);
    }
}

async fn objects(opened: &Opened, findings: &mut Findings) {
    let objects = &opened.chosen.services.objects;
    if let Err(error) = objects.list(None).try_next().await {
        return findings.fail("objects", format!("{error}; check OBJECT_STORE_URL and its credentials"));
    }
    // What can be listed may still take no writes.
    let probe = ObjectPath::from("probe/writes");
    let written = match objects.put(&probe, "doctor".into()).await {
        Ok(_) => objects.delete(&probe).await,
        Err(error) => Err(error),
    };
    match written {
        Ok(()) | Err(object_store::Error::NotFound { .. }) => {
            findings.ok("objects", "reachable, and takes writes");
        }
        Err(error) => {
            let hint = "uploads are refused until objects can be written and deleted";
            findings.fail("objects", format!("{error}; {hint}: check rights and credentials"));
        }
    }
}

async fn queue(opened: &Opened, findings: &mut Findings) {
    let services = &opened.chosen.services;
    let server = match services.queue.server().await {
        Ok(Some(server)) => server,
        Ok(None) => return findings.ok("queue", "in the service's own process"),
        Err(error) => return findings.fail("queue", format!("{error}; is it up, and is REDIS_URL right?")),
    };
    if let Err(error) = services.queue.ready().await {
        let hint = "is it a replica, or unable to save? Nothing is enqueued until it takes writes";
        return findings.fail("queue", format!("{error}; {hint}"));
    }
    let waiting = match services.queue.backlog().await {
        Ok(backlog) => backlog.values().sum::<u64>(),
        Err(error) => return findings.fail("queue", error.to_string()),
    };
    let found = format!("Redis {}, {waiting} messages wait", server.version);
    if server.is_supported() {
        findings.ok("queue", found);
    } else {
        findings.fail("queue", format!("{found}: {} or later is needed", QueueServer::NEEDED));
    }
    clock(findings, "queue clock", "Redis'", SystemClock.now().millis() - server.now_ms);
    memory(&server, findings);
}

fn memory(server: &QueueServer, findings: &mut Findings) {
    let mib = |bytes: u64| bytes / 1024 / 1024;
    if server.memory_policy != "noeviction" {
        return findings.warn(
            "queue memory",
            format!(
                "maxmemory-policy is {}: limits and messages may be thrown away; set it to noeviction",
                server.memory_policy
            ),
        );
    }
    let Some(most) = server.most_bytes else {
        return findings.ok("queue memory", format!("{} MiB, noeviction", mib(server.used_bytes)));
    };
    let found = format!("{} of {} MiB, noeviction", mib(server.used_bytes), mib(most));
    #[allow(clippy::cast_precision_loss, reason = "a share")]
    let share = server.used_bytes as f64 / most as f64;
    if share > MUCH_MEMORY {
        findings.warn("queue memory", format!("{found}: raise maxmemory"));
    } else {
        findings.ok("queue memory", found);
    }
}

async fn keys(opened: &Opened, findings: &mut Findings) {
    let services = &opened.chosen.services;
    let needs = match rotation::needs(services).await {
        Ok(needs) => needs,
        Err(error) => return findings.fail("keys", error.to_string()),
    };
    let keyring = services.keyring.get();
    let active = keyring.active_id();
    if let Err(error) = installation::check_keyring(services, &keyring).await {
        return findings
            .fail("keys", format!("PENSTOCK_ENCRYPTION_KEYS is not the keyring of this database: {error}"));
    }
    if let Some(need) = needs.iter().find(|need| !keyring.contains(&need.key_id)) {
        return findings.fail(
            "keys",
            format!(
                "{} data keys, {} secrets, {} definitions and {} promises need the key `{}`, which PENSTOCK_ENCRYPTION_KEYS lacks: put it back",
                need.data_keys, need.secrets, need.definitions, need.promises, need.key_id
            ),
        );
    }
    let unneeded: Vec<&str> = keyring
        .ids()
        .filter(|id| *id != active && !needs.iter().any(|need| need.key_id == *id && all_of(need) > 0))
        .collect();
    let left: u64 = needs.iter().filter(|need| need.key_id != active).map(all_of).sum();
    let found = match (unneeded.is_empty(), left) {
        (false, _) => format!("`{active}` seals; nothing needs {} any more", unneeded.join(", ")),
        (true, 0) => format!("`{active}` seals, and all that is sealed is under it"),
        (true, left) => {
            format!("`{active}` seals; {left} things are under other keys (`penstock crypto rewrap`)")
        }
    };
    findings.ok("keys", found);
}

fn pipelines(opened: &Opened, findings: &mut Findings) {
    let names: Vec<&str> =
        opened.chosen.services.pipelines.iter().map(|pipeline| pipeline.name.as_str()).collect();
    match &opened.pipelines_fault {
        Some(fault) => findings.fail("pipelines", fault),
        None if names.is_empty() => findings.warn(
            "pipelines",
            "none is loaded here; set PENSTOCK_PIPELINES and the variables that they name",
        ),
        None => findings.ok("pipelines", names.join(", ")),
    }
}

/// Asks each dependency for a connection, and the limiter how it stands.
async fn dependencies(opened: &Opened, findings: &mut Findings) {
    let chosen = &opened.chosen;
    let (states, unseen) = states(opened).await;
    let all = dependencies::all(chosen.services.pipelines.iter());
    let probing = all.iter().map(|(identity, (_, dependency))| async move {
        (identity, *dependency, chosen.caller.probe(dependency).await)
    });
    let probed: Vec<_> = futures::stream::iter(probing).buffered(PROBES).collect().await;
    for (identity, dependency, probed) in probed {
        let state = states.iter().find(|state| state.identity == *identity);
        let stands = state.map_or_else(|| unseen.clone(), standing);
        let name = format!("`{}` ({})", dependency.name, dependency.base_url.origin().ascii_serialization());
        match probed {
            Err(failure) => findings.fail(
                "dependency",
                format!("{name}: {} ({}); {stands}", failure.cause.sentence(), failure.detail),
            ),
            Ok(took) => {
                let found = format!("{name}: connected in {} ms; {stands}", took.as_millis());
                if state.is_some_and(|state| state.breaker != "closed" || state.paused_until.is_some()) {
                    findings.warn("dependency", found);
                } else {
                    findings.ok("dependency", found);
                }
            }
        }
    }
}

/// How dependencies stand; and a sentence for those of which nothing is known.
async fn states(opened: &Opened) -> (Vec<DependencyState>, String) {
    let chosen = &opened.chosen;
    if !chosen.local {
        let unseen = "the limiter does not say how it stands".to_owned();
        return (dependencies::states(&chosen.services, &chosen.caller).await, unseen);
    }
    let unseen =
        |why: &str| format!("breaker, pause and rate are the service's own and cannot be seen: {why}");
    match socket::ask(&opened.settings, &Question::Dependencies).await {
        Ok(Answer::Dependencies(states)) => (states, unseen("it does not have this dependency")),
        Ok(Answer::Failed(error)) | Err(error) => (Vec::new(), unseen(&error)),
        Ok(Answer::Waits(_)) => (Vec::new(), unseen("it answered something else")),
    }
}

fn standing(state: &DependencyState) -> String {
    let mut parts = vec![format!("breaker {}", state.breaker)];
    parts.extend(state.paused_until.map(|until| format!("paused until {until} as it asked")));
    parts.push(format!("{:.0} % of the rate in use", state.share * 100.0));
    parts.extend(state.cause.as_ref().map(|cause| format!("the last call failed: {cause}")));
    parts.join(", ")
}

/// Who holds rows, and who of them is not heard of any more.
async fn workers(opened: &Opened, findings: &mut Findings) {
    let all = match opened.chosen.services.store.workers().await {
        Ok(all) => all,
        Err(error) => return findings.fail("workers", error.to_string()),
    };
    let (silent, live): (Vec<_>, Vec<_>) = all.iter().partition(|worker| worker.is_silent());
    let live = live.iter().filter(|worker| worker.kind == WorkerKind::Worker).count();
    let of_silent: Vec<String> = silent
        .iter()
        .map(|worker| {
            let (seconds, rows) = (worker.silent_for.as_secs(), worker.load.in_flight);
            format!("{} has been silent for {seconds} s and holds {rows} rows", worker.name)
        })
        .collect();
    match (live, of_silent.is_empty()) {
        (0, true) => findings.warn("workers", "none lives: no row is processed; start a worker"),
        (_, true) => findings.ok("workers", format!("{live} live")),
        (_, false) => findings.warn("workers", format!("{live} live; {}", of_silent.join("; "))),
    }
}

async fn runs(opened: &Opened, findings: &mut Findings) {
    let services = &opened.chosen.services;
    match services.store.runs(1).await {
        Err(error) => findings.fail("dispatcher", error.to_string()),
        Ok(runs) => match runs.first() {
            None => findings.warn("dispatcher", "no run was recorded yet; start the dispatcher"),
            Some(run) => {
                let ago = services.clock.now().since(run.started_at).as_secs();
                let found = format!("the last run began {ago} seconds ago and released {} rows", run.rows);
                match &run.error {
                    Some(error) => findings.warn("dispatcher", format!("{found}, and failed: {error}")),
                    None if ago > RUN_LATE_SECONDS => {
                        findings
                            .warn("dispatcher", format!("{found}; is the CronJob there (docs/runbooks.md)?"));
                    }
                    None => findings.ok("dispatcher", found),
                }
            }
        },
    }
}

/// Batches that no worker can process.
async fn batches(opened: &Opened, findings: &mut Findings) {
    let faults = match opened.chosen.services.store.faults().await {
        Ok(faults) => faults,
        Err(error) => return findings.fail("batches", error.to_string()),
    };
    for fault in faults.iter().take(MOST_BATCHES) {
        let found = format!(
            "no worker can process {} of `{}` since {}: {}",
            fault.batch, fault.pipeline, fault.since, fault.reason
        );
        findings.fail("batches", found);
    }
    match faults.len() {
        0 => findings.ok("batches", "workers can process all that run"),
        all if all > MOST_BATCHES => {
            findings.fail("batches", format!("{} more: `penstock reconcile`", all - MOST_BATCHES));
        }
        _ => {}
    }
}

/// Where this machine keeps something itself.
fn disk(opened: &Opened, findings: &mut Findings) {
    let settings = &opened.settings;
    let file = settings.database_url.as_deref().and_then(|url| url.strip_prefix("sqlite://"));
    let files = settings.object_store_url.as_deref().and_then(|url| Url::parse(url).ok());
    let folder = files.filter(|url| url.scheme() == "file").and_then(|url| url.to_file_path().ok());
    let places = [("disk (rows)", file.map(Path::new)), ("disk (files)", folder.as_deref())];
    for (what, place) in places.into_iter().filter_map(|(what, place)| Some((what, place?))) {
        // The file may not be there yet; its folder is.
        let there = place.ancestors().find(|path| path.exists()).unwrap_or(place);
        match fs4::available_space(there) {
            Err(error) => findings.fail(what, format!("{}: {error}", place.display())),
            Ok(free) if free < LITTLE_DISK => findings
                .warn(what, format!("{} MiB are free at {}: make room", free / 1024 / 1024, place.display())),
            Ok(free) => {
                findings.ok(what, format!("{} GiB are free", free / 1024 / 1024 / 1024));
            }
        }
    }
}
