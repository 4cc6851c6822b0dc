//! `penstock limits …`.

use std::collections::BTreeMap;

use clap::Subcommand;
use penstock_app::StartError;
use penstock_downstream::CallLimits;
use penstock_store::limits::{LimitChange, LimitSetting};
use serde_json::json;

use crate::open::{Opened, said};
use crate::output::Output;

#[derive(Subcommand)]
pub enum Command {
    /// Lists dependencies with their limits, and what is set of them
    List,
    /// Changes a dependency's limits without a restart
    Set {
        /// The dependency's name
        dependency: String,
        /// Calls in the period of its rate
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..), required_unless_present = "concurrency")]
        limit: Option<u32>,
        // The settings have an option of that name for all commands: whether it was written here is asked of the command line.
        /// Calls at once
        #[arg(long)]
        concurrency: Option<usize>,
    },
    /// Stops all calls to a dependency; calls under way end
    Pause {
        /// The dependency's name
        dependency: String,
    },
    /// Calls it again
    Resume {
        /// The dependency's name
        dependency: String,
    },
    /// Removes what was set: the definitions count again
    Reset {
        /// The dependency's name
        dependency: String,
    },
}

pub async fn run(
    opened: &Opened,
    command: Command,
    concurrency_is_written: bool,
    out: Output,
) -> Result<bool, StartError> {
    let store = &opened.chosen.services.store;
    match command {
        Command::List => list(opened, out).await?,
        Command::Set { dependency, limit, concurrency } => {
            let concurrency = concurrency.filter(|_| concurrency_is_written);
            let concurrency =
                concurrency.map(u32::try_from).transpose().ok().filter(|given| *given != Some(0));
            let Some(concurrency) = concurrency else {
                return Err(StartError::new("--concurrency is a number of calls above 0".to_owned()));
            };
            if limit.is_some() && is_without_a_rate(opened, &dependency) {
                return Err(StartError::new(format!(
                    "no pipeline gives `{dependency}` a `rate`, so there is no limit that --limit could change; write `rate: {{ limit: …, \
                     period: … }}` in the definition, or set --concurrency"
                )));
            }
            let change = LimitChange { limit, concurrency, paused: None };
            changed(opened, "limits.set", &dependency, change, out).await?;
        }
        Command::Pause { dependency } => {
            let change = LimitChange { paused: Some(true), ..LimitChange::default() };
            changed(opened, "limits.pause", &dependency, change, out).await?;
        }
        Command::Resume { dependency } => {
            let change = LimitChange { paused: Some(false), ..LimitChange::default() };
            changed(opened, "limits.resume", &dependency, change, out).await?;
        }
        Command::Reset { dependency } => {
            let was_set = store.reset_limits(&dependency).await.map_err(said)?;
            if was_set {
                opened.audit_done("limits.reset", dependency.clone()).await;
            }
            out.say(&json!({ "dependency": dependency, "reset": was_set }), || {
                if was_set {
                    format!("{dependency}: as the definitions say")
                } else {
                    format!("{dependency}: nothing was set")
                }
            });
        }
    }
    Ok(true)
}

async fn changed(
    opened: &Opened,
    action: &str,
    dependency: &str,
    change: LimitChange,
    out: Output,
) -> Result<(), StartError> {
    let services = &opened.chosen.services;
    let known: Vec<String> = written(opened).into_keys().collect();
    if !known.is_empty() && !known.iter().any(|name| name == dependency) {
        let message = format!("no pipeline has a dependency `{dependency}`; there are: {}", known.join(", "));
        return Err(StartError::new(message));
    }
    let now = services.clock.now();
    let setting = services.store.change_limits(dependency, &change, now).await.map_err(said)?;
    opened.audit_done(action, format!("{dependency}: {}", told(&setting))).await;
    out.say(&setting, || format!("{dependency}: {}", told(&setting)));
    Ok(())
}

/// Whether definitions have the dependency, and none of them a rate for it.
fn is_without_a_rate(opened: &Opened, name: &str) -> bool {
    let pipelines: Vec<_> = opened.chosen.services.pipelines.iter().collect();
    let mut known = pipelines
        .iter()
        .flat_map(|pipeline| &pipeline.dependencies)
        .filter(|one| one.name == name)
        .peekable();
    known.peek().is_some() && known.all(|one| CallLimits::rate_of_an_operator(one).is_none())
}

/// The limits that the definitions write, by dependency: the rate, and the calls at once.
fn written(opened: &Opened) -> BTreeMap<String, (String, String)> {
    let mut all = BTreeMap::new();
    for pipeline in opened.chosen.services.pipelines.iter() {
        for dependency in &pipeline.dependencies {
            let rate = CallLimits::rate_of_an_operator(dependency);
            let rate = rate.map_or("-".to_owned(), |rate| format!("{} in {:?}", rate.limit, rate.period));
            let slots = dependency.concurrency.map_or("-".to_owned(), |slots| slots.limit.to_string());
            all.insert(dependency.name.clone(), (rate, slots));
        }
    }
    all
}

async fn list(opened: &Opened, out: Output) -> Result<(), StartError> {
    let settings = opened.chosen.services.store.limit_settings().await.map_err(said)?;
    let mut names = written(opened);
    for setting in &settings {
        names.entry(setting.dependency.clone()).or_insert_with(|| ("-".to_owned(), "-".to_owned()));
    }
    let of = |name: &str| settings.iter().find(|setting| setting.dependency == name);
    let rows: Vec<Vec<String>> = names
        .iter()
        .map(|(name, (rate, slots))| {
            let set = of(name).map_or("-".to_owned(), told);
            vec![name.clone(), rate.clone(), slots.clone(), set]
        })
        .collect();
    let json: Vec<_> = names
        .iter()
        .map(|(name, (rate, slots))| {
            json!({ "dependency": name, "rate": rate, "concurrency": slots, "set": of(name) })
        })
        .collect();
    out.table(&json, &["DEPENDENCY", "RATE", "AT ONCE", "SET"], &rows);
    Ok(())
}

/// What is set, in words.
fn told(setting: &LimitSetting) -> String {
    let mut parts = Vec::new();
    parts.extend(setting.paused.then(|| "paused".to_owned()));
    parts.extend(setting.limit.map(|limit| format!("limit {limit}")));
    parts.extend(setting.concurrency.map(|slots| format!("concurrency {slots}")));
    if parts.is_empty() { "as the definitions say".to_owned() } else { parts.join(", ") }
}
