//! The pipelines and the APIs that they call.

use futures::StreamExt as _;
use penstock_app::live_files::LiveFiles;
use penstock_domain::pipeline::Files as _;
use penstock_flow::operate::dependencies;
use penstock_flow::operate::dependencies::DependencyState;
use penstock_flow::operate::health::Findings;

use crate::open::Opened;
use crate::socket::{self, Answer, Question};

/// Dependencies that are asked for a connection at once.
const PROBES: usize = 8;

pub(super) fn pipelines(opened: &Opened, findings: &mut Findings) {
    let names: Vec<String> =
        opened.chosen.services.pipelines.iter().map(|pipeline| pipeline.name.clone()).collect();
    match &opened.pipelines_fault {
        Some(fault) => findings.fail(
            "pipelines",
            format!("{fault}\nservices that run go on with the definitions from before; none can be started"),
        ),
        None if names.is_empty() => findings.warn(
            "pipelines",
            "none is loaded here; set PENSTOCK_PIPELINES and the variables that they name",
        ),
        None => findings.ok("pipelines", names.join(", ")),
    }
}

/// Files that definitions name. Where they are kept away from this command, only the services can read them.
pub(super) fn files(opened: &Opened, findings: &mut Findings) {
    let readable = LiveFiles::default();
    for pipeline in opened.chosen.services.pipelines.iter() {
        for file in pipeline.secret_values.files() {
            if let Err(error) = readable.read(file) {
                let name = &pipeline.name;
                let found = format!(
                    "pipeline `{name}`: {error}; a worker that has read it before uses what it held then"
                );
                findings.warn("file", found);
            }
        }
    }
}

/// Asks each dependency for a connection, and the limiter how it stands.
pub(super) async fn dependencies(opened: &Opened, findings: &mut Findings) {
    let chosen = &opened.chosen;
    let (states, unseen) = states(opened).await;
    let catalog = chosen.services.pipelines.catalog();
    let all = dependencies::all(catalog.iter());
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
        Ok(_) => (Vec::new(), unseen("it answered something else")),
    }
}

fn standing(state: &DependencyState) -> String {
    let mut parts = vec![format!("breaker {}", state.breaker)];
    parts.extend(state.paused_until.map(|until| format!("paused until {until} as it asked")));
    parts.push(format!("{:.0} % of the rate in use", state.share * 100.0));
    parts.extend(state.cause.as_ref().map(|cause| format!("the last call failed: {cause}")));
    parts.join(", ")
}
