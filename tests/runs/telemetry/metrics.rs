//! Metrics, as Prometheus, the dashboard, the alert rules and the documentation have them.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use penstock_sandbox::{Config, Faults, Sandbox};
use penstock_tests::receiver::{Answer, Receiver};
use penstock_tests::{Client, PATIENCE, Place, Service};
use serde_json::Value;

use crate::{PEOPLE, invite, people};

const ALERTS: &str = include_str!("../../../charts/penstock/files/alerts.yaml");
const DASHBOARD: &str = include_str!("../../../charts/penstock/files/dashboard.json");
const DOCUMENTED: &str = include_str!("../../../docs/operate.md");

fn tool(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| panic!("{variable} is not set; `cargo xtask test` sets it"))
}

/// A real Prometheus, which scrapes services every second and has the alert rules loaded.
struct Prometheus {
    child: Child,
    base: String,
    _folder: tempfile::TempDir,
}

impl Prometheus {
    fn start(services: &[&Service]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let targets: Vec<&str> = services.iter().map(|one| one.base.trim_start_matches("http://")).collect();
        let rules = folder.path().join("alerts.yaml");
        std::fs::write(&rules, ALERTS).expect("a file");
        let settings = serde_json::json!({
            "global": { "scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s" },
            "rule_files": [rules],
            // As the chart's ServiceMonitor labels them.
            "scrape_configs": [{ "job_name": "penstock", "static_configs": [
                { "targets": targets, "labels": { "namespace": "tests", "app_kubernetes_io_instance": "penstock" } }
            ] }],
        });
        let file = folder.path().join("prometheus.yml");
        // JSON is YAML.
        std::fs::write(&file, settings.to_string()).expect("a file");
        let port =
            std::net::TcpListener::bind("127.0.0.1:0").and_then(|port| port.local_addr()).expect("a port");
        let child = Command::new(tool("PENSTOCK_TEST_PROMETHEUS"))
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address={port}"))
            .arg("--log.level=error")
            .stdout(Stdio::null())
            .spawn()
            .expect("Prometheus");
        Self { child, base: format!("http://{port}"), _folder: folder }
    }

    async fn get(&self, path: &str, query: &[(&str, &str)]) -> Value {
        let http = penstock_tests::http().build().expect("a client");
        let began = Instant::now();
        loop {
            let sent = http.get(format!("{}/api/v1/{path}", self.base)).query(query).send().await;
            // While it starts it does not listen, or answers 503.
            if let Some(answer) = sent.ok().filter(|answer| answer.status().as_u16() != 503) {
                let answer: Value = answer.json().await.expect("JSON");
                assert_eq!(answer["status"], "success", "{query:?}: {answer}");
                return answer["data"].clone();
            }
            assert!(began.elapsed() < PATIENCE, "Prometheus does not answer");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The values that a query has now.
    async fn values(&self, expression: &str) -> Vec<f64> {
        let found = self.get("query", &[("query", expression)]).await;
        let series = found["result"].as_array().expect("series").iter();
        series
            .map(|one| one["value"][1].as_str().and_then(|value| value.parse().ok()).expect("a number"))
            .collect()
    }

    /// Waits until a query has a value that is a number.
    async fn shows(&self, expression: &str, whose: &str) {
        let began = Instant::now();
        while !self.values(expression).await.iter().any(|value| !value.is_nan()) {
            assert!(began.elapsed() < PATIENCE / 6, "{whose} shows nothing: {expression}");
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What `/metrics` tells of one name: its type, its help, and each set of labels that its series have.
#[derive(Debug, Default, PartialEq)]
struct Told {
    kind: String,
    help: String,
    labels: Vec<String>,
}

/// All of a text in Prometheus' format. A histogram's series count for its name.
fn read(text: &str, told: &mut BTreeMap<String, Told>) {
    for line in text.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            told.entry(name.to_owned()).or_default().help = help.to_owned();
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            told.entry(name.to_owned()).or_default().kind = kind.to_owned();
        } else {
            let name = line.split(['{', ' ']).next().expect("a name");
            let labels = line
                .split_once('{')
                .and_then(|(_, rest)| rest.split_once('}'))
                .map_or("", |(labels, _)| labels);
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            let known = base.filter(|base| told.get(*base).is_some_and(|one| one.kind == "histogram"));
            let of =
                told.get_mut(known.unwrap_or(name)).unwrap_or_else(|| panic!("{line} comes before its type"));
            for pair in labels.split("\",").filter(|pair| !pair.is_empty()) {
                let label = pair.split('=').next().expect("a label").to_owned();
                if label != "le" && !of.labels.contains(&label) {
                    of.labels.push(label);
                }
            }
        }
    }
}

/// The table of the documentation, by Prometheus' names.
fn documented() -> BTreeMap<String, Told> {
    let (_, part) = DOCUMENTED.split_once("### Metrics\n").expect("a part about metrics");
    let table =
        part.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    let mut found = BTreeMap::new();
    for row in table.skip(2) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [name, shown, kind, labels, unit, help] = cells[..] else { panic!("{row}") };
        let (name, shown) = (name.trim_matches('`'), shown.trim_matches('`'));
        // OpenTelemetry's rules for names in Prometheus.
        let unit = unit.trim_matches('`');
        let ending = match (unit, kind) {
            ("s", "counter") => "_seconds_total",
            ("s", _) => "_seconds",
            ("By", "counter") => "_bytes_total",
            ("By", _) => "_bytes",
            ("1", "gauge") => "_ratio",
            (_, "counter") => "_total",
            _ => "",
        };
        assert_eq!(shown, format!("{}{ending}", name.replace('.', "_")), "{row}");
        let labels = labels.split(", ").map(|label| label.trim_matches('`').replace('.', "_"));
        let labels = labels.filter(|label| !label.is_empty()).collect();
        let told = Told { kind: kind.to_owned(), help: help.to_owned(), labels };
        assert!(found.insert(shown.to_owned(), told).is_none(), "{shown} stands there twice");
    }
    found
}

/// `promtool check metrics` has nothing to say.
fn lint(text: &str) {
    let mut check = Command::new(tool("PENSTOCK_TEST_PROMTOOL"))
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool");
    check.stdin.take().expect("its input").write_all(text.as_bytes()).expect("it reads");
    let said = check.wait_with_output().expect("it ends");
    let words = [said.stderr, said.stdout].concat();
    assert!(said.status.success() && words.is_empty(), "{}\n{text}", String::from_utf8_lossy(&words));
}

/// Everything that there is: one process, or one of each service with a second worker.
fn install(place: &Place, sandbox: &Sandbox) -> (Vec<Service>, Option<Service>) {
    if place.is_cluster() {
        let watched = vec![place.api(sandbox), place.worker(sandbox), place.worker(sandbox)];
        return (watched, Some(place.dispatcher(sandbox, "300ms")));
    }
    (vec![place.start(sandbox, None)], None)
}

/// A pipeline that waits for a result.
fn jobs(url: &str) -> String {
    format!(
        "name: jobs\ncsv: {{ columns: [ {{ name: id, required: true }} ] }}\n\
        dependencies: {{ jobs: {{ base_url: \"{url}\" }} }}\nsteps:\n\
        \x20 - {{ name: job, dependency: jobs, request: {{ method: POST, path: /jobs, idempotent: true }},\n\
        \x20     poll: {{ until: \"{{{{ body.done }}}}\", path: /jobs/1, every: 200ms }} }}\n\
        dispatch: {{ spread: 0s }}\n"
    )
}

/// Every panel of the dashboard and every variable of it shows something in a real Prometheus that watched real work; its
/// alert rules are evaluated without an error, over metrics that are there; `/metrics` is without a fault in promtool's
/// eyes, and is what the documentation says, both ways.
#[tokio::test]
async fn metrics_are_what_dashboard_alerts_and_documentation_say() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let receiver = Receiver::start().await;
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let api = Receiver::start().await;
    api.answer_with(|heard| Answer::json(format!("{{\"done\": {}}}", heard.path == "/jobs/1")));
    let place =
        Place::new(&[("invite.yaml", &invite()), ("noop.yaml", crate::NOOP), ("jobs.yaml", &jobs(&api.url))]);
    let key = place.key(&sandbox, "acme");
    let (services, _dispatcher) = install(&place, &sandbox);
    let watched: Vec<&Service> = services.iter().collect();
    let prometheus = Prometheus::start(&watched);
    prometheus.shows(&format!("count(up == 1) == {}", watched.len()), "the list of targets").await;
    let client = Client::new(&services[0], &key);
    // A rate is told of what goes on between two scrapes: somebody looks on all the time.
    let somebody = Client::new(&services[0], &key);
    let looks = tokio::spawn(async move {
        loop {
            somebody.get("/v2/batches").await;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    let path = format!("{PEOPLE}&callback_url={}/hook", receiver.url);
    let (_, batch) =
        client.upload(&path, people(60).replace("person1@", "taken1@")).await.expect("an answer");
    client.finished(batch["id"].as_str().expect("an id")).await;
    receiver.until(|heard| heard.json()["type"] == "batch.finished").await;
    // Results that are waited for.
    let (_, batch) = client.upload("/v2/pipelines/jobs/batches", "id\na\n").await.expect("an answer");
    client.finished(batch["id"].as_str().expect("an id")).await;
    // Something that still runs, so that there are rows to tell of.
    sandbox.set_faults(Faults { latency_ms: 3000, ..Faults::default() });
    let (_, running) = client.upload(PEOPLE, people(60)).await.expect("an answer");
    let id = running["id"].as_str().expect("an id").to_owned();
    while client.get(&format!("/v2/batches/{id}")).await["counts"]["processing"] == 0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    let mut told = BTreeMap::new();
    for service in &watched {
        let text = Client::new(service, "").text("/metrics").await;
        lint(&text);
        read(&text, &mut told);
    }
    let documented = documented();
    for (name, one) in &told {
        assert_eq!(documented.get(name), Some(one), "{name}: what docs/operate.md says, and what is told");
    }
    let missing: Vec<_> = documented.keys().filter(|name| !told.contains_key(*name)).collect();
    assert!(missing.is_empty(), "docs/operate.md has what nobody tells: {missing:?}");

    let board: Value = serde_json::from_str(DASHBOARD).expect("JSON");
    let list = |value: &Value| value.as_array().expect("a list").clone();
    let mut variables = Vec::new();
    for variable in list(&board["templating"]["list"]) {
        let name = format!("${}", variable["name"].as_str().expect("a name"));
        if variable["type"] == "query" {
            let query = variable["query"].as_str().expect("a query");
            let (metric, label) = query
                .strip_prefix("label_values(")
                .and_then(|rest| rest.strip_suffix(')')?.split_once(", "))
                .expect("label_values(metric, label)");
            let values = prometheus.get(&format!("label/{label}/values"), &[("match[]", metric)]).await;
            assert!(
                values.as_array().is_some_and(|values| !values.is_empty()),
                "{name} has no values: {query}"
            );
            variables.push((name, variable["allValue"].as_str().expect("a value for all").to_owned()));
        }
    }
    let panels = list(&board["panels"]);
    assert!(panels.len() >= 30, "{}", panels.len());
    for panel in panels {
        for target in list(&panel["targets"]) {
            let mut expression = target["expr"].as_str().expect("a query").to_owned();
            for (name, all) in &variables {
                expression = expression.replace(name, all);
            }
            prometheus.shows(&expression, panel["title"].as_str().expect("a title")).await;
        }
    }

    looks.abort();

    let names = prometheus.get("label/__name__/values", &[]).await;
    let is_known = |name: &str| names.as_array().is_some_and(|names| names.iter().any(|one| one == name));
    let groups = prometheus.get("rules", &[]).await;
    let rules = list(&groups["groups"][0]["rules"]);
    assert_eq!(rules.len(), ALERTS.matches("- alert: ").count());
    for rule in rules {
        assert!(rule["health"] == "ok" && rule["state"] != "firing", "{rule}");
        let expression = rule["query"].as_str().expect("a query");
        for name in expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
            assert!(!name.starts_with("penstock_") || is_known(name), "{name} is read, and not told");
        }
    }
}
