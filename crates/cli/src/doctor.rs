//! `penstock doctor`: each engine, the schema, keys, pipelines and runs, with the mend.

use futures::TryStreamExt as _;
use penstock_app::StartError;
use serde_json::json;

use crate::open::{Opened, said};
use crate::output::Output;

/// Runs are expected at least this often, in seconds.
const RUN_LATE_SECONDS: u64 = 180;

/// Clocks may differ by so much, in milliseconds.
const SKEW_MS: i64 = 2000;

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

pub async fn run(opened: &Opened, out: Output) -> Result<bool, StartError> {
    let mut lines = Vec::new();
    database(opened, &mut lines).await;
    objects(opened, &mut lines).await;
    queue(opened, &mut lines).await;
    keys(opened, &mut lines).await;
    pipelines(opened, &mut lines);
    runs(opened, &mut lines).await;
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

async fn database(opened: &Opened, lines: &mut Vec<Line>) {
    let engines = &opened.chosen.engines;
    match engines.store.engine().await {
        Ok(info) => {
            lines.push(Line {
                verdict: Verdict::Ok,
                what: "database",
                found: format!("{} {}, {} MiB", info.engine, info.version, info.bytes / 1024 / 1024),
            });
            let skew = (engines.clock.now().millis() - info.now.millis()).abs();
            let verdict = if skew > SKEW_MS { Verdict::Warn } else { Verdict::Ok };
            lines.push(Line {
                verdict,
                what: "clock",
                found: format!("{skew} ms apart from the database's"),
            });
        }
        Err(error) => lines.push(Line { verdict: Verdict::Fail, what: "database", found: error.to_string() }),
    }
    let (verdict, found) = match engines.store.check_schema().await {
        Ok(()) => (Verdict::Ok, "up to date".to_owned()),
        Err(error) => (Verdict::Fail, error.to_string()),
    };
    lines.push(Line { verdict, what: "schema", found });
}

async fn objects(opened: &Opened, lines: &mut Vec<Line>) {
    let mut listed = opened.chosen.engines.objects.list(None);
    let (verdict, found) = match listed.try_next().await {
        Ok(_) => (Verdict::Ok, "reachable".to_owned()),
        Err(error) => (Verdict::Fail, format!("{error}; check OBJECT_STORE_URL and its credentials")),
    };
    lines.push(Line { verdict, what: "objects", found });
}

async fn queue(opened: &Opened, lines: &mut Vec<Line>) {
    let (verdict, found) = match opened.chosen.engines.bell.backlog().await {
        Ok(_) if opened.chosen.local => (Verdict::Ok, "in the service's own process".to_owned()),
        Ok(backlog) => {
            let messages: u64 = backlog.values().sum();
            (Verdict::Ok, format!("reachable, {messages} messages wait"))
        }
        Err(error) => (Verdict::Fail, format!("{error}; check REDIS_URL")),
    };
    lines.push(Line { verdict, what: "queue", found });
}

async fn keys(opened: &Opened, lines: &mut Vec<Line>) {
    let engines = &opened.chosen.engines;
    let (verdict, found) = match engines.store.key_usage().await {
        Err(error) => (Verdict::Fail, error.to_string()),
        Ok(usage) => {
            let missing: Vec<_> = usage.iter().filter(|(id, _)| !engines.keyring.contains(id)).collect();
            let unneeded: Vec<_> = engines
                .keyring
                .ids()
                .skip(1)
                .filter(|id| !usage.iter().any(|(used, _)| used == id))
                .collect();
            if let Some((id, count)) = missing.first() {
                (
                    Verdict::Fail,
                    format!(
                        "{count} batches need the key `{id}`, which PENSTOCK_ENCRYPTION_KEYS lacks: put it back"
                    ),
                )
            } else if unneeded.is_empty() {
                (Verdict::Ok, format!("`{}` seals; all data keys can be opened", engines.keyring.active_id()))
            } else {
                (
                    Verdict::Ok,
                    format!(
                        "`{}` seals; nothing needs {} any more",
                        engines.keyring.active_id(),
                        unneeded.join(", ")
                    ),
                )
            }
        }
    };
    lines.push(Line { verdict, what: "keys", found });
}

fn pipelines(opened: &Opened, lines: &mut Vec<Line>) {
    let names: Vec<&str> =
        opened.chosen.engines.pipelines.iter().map(|pipeline| pipeline.name.as_str()).collect();
    let (verdict, found) = if names.is_empty() {
        (
            Verdict::Warn,
            "none is loaded here; set PENSTOCK_PIPELINES and the variables that they name".to_owned(),
        )
    } else {
        (Verdict::Ok, names.join(", "))
    };
    lines.push(Line { verdict, what: "pipelines", found });
}

async fn runs(opened: &Opened, lines: &mut Vec<Line>) {
    let engines = &opened.chosen.engines;
    let (verdict, found) = match engines.store.runs(1).await.map_err(said) {
        Err(error) => (Verdict::Fail, error.to_string()),
        Ok(runs) => match runs.first() {
            None => (Verdict::Warn, "no run was recorded yet; start the dispatcher".to_owned()),
            Some(run) => {
                let ago = engines.clock.now().since(run.started_at).as_secs();
                let verdict = if ago > RUN_LATE_SECONDS { Verdict::Warn } else { Verdict::Ok };
                (verdict, format!("the last run began {ago} seconds ago and released {} rows", run.rows))
            }
        },
    };
    lines.push(Line { verdict, what: "dispatcher", found });
}
