//! Traces and metrics as a collector sees them; [`logs`] and [`metrics`] as people and Prometheus do.

mod logs;
mod metrics;

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use penstock_sandbox::{Config, Sandbox};
use penstock_tests::{Client, PATIENCE, Place};

use crate::{PEOPLE, invite};

/// A collector that writes down, in words, everything that it is sent.
struct Collector {
    child: Child,
    port: u16,
    folder: tempfile::TempDir,
}

impl Collector {
    fn start() -> Self {
        let program = std::env::var("PENSTOCK_TEST_COLLECTOR").expect("`cargo xtask test` names a collector");
        let folder = tempfile::tempdir().expect("a folder");
        let port = || {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
            listener.local_addr().expect("an address").port()
        };
        let (grpc, http) = (port(), port());
        let out = std::fs::File::create(folder.path().join("out")).expect("a file");
        let child = Command::new(program)
            .args(["start", "--exporter", "blackhole", "--debug-log-verbosity", "detailed"])
            .args(["--debug-log", "traces", "--debug-log", "metrics"])
            .args(["--otlp-grpc-endpoint", &format!("127.0.0.1:{grpc}")])
            .args(["--otlp-http-endpoint", &format!("127.0.0.1:{http}")])
            .arg("--pid-file")
            .arg(folder.path().join("pid"))
            .arg("--log-file")
            .arg(folder.path().join("log"))
            .stdout(out.try_clone().expect("the file"))
            .stderr(out)
            .stdin(Stdio::null())
            .spawn()
            .expect("the collector");
        while std::net::TcpStream::connect(("127.0.0.1", http)).is_err() {
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { child, port: http, folder }
    }

    fn heard(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("out")).expect("its words")
    }

    /// Waits until it has heard enough.
    fn when(&self, enough: impl Fn(&str) -> bool) -> String {
        let began = Instant::now();
        loop {
            let heard = self.heard();
            if enough(&heard) {
                return heard;
            }
            assert!(began.elapsed() < PATIENCE, "it never heard enough: {heard}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Waits until it has heard all of that.
    fn until(&self, wanted: &[&str]) -> String {
        self.when(|heard| wanted.iter().all(|words| heard.contains(words)))
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The spans that the collector heard of, each as its lines.
fn spans(heard: &str) -> Vec<&str> {
    heard.split("\nSpan #").skip(1).collect()
}

fn field<'a>(span: &'a str, name: &str) -> Option<&'a str> {
    span.lines().find_map(|line| {
        let (label, value) = line.split_once(':')?;
        (label.trim() == name).then_some(value.trim())
    })
}

/// A batch's trace bears its id, from the upload to the callback; a row's own links to it; a call's span is the parent that
/// the downstream is told; metrics arrive under OpenTelemetry's names; and nothing of a row is in any of it.
#[tokio::test]
async fn traces_and_metrics_arrive_at_a_collector() {
    const MARKER: &str = "Zq7telemetry";
    let collector = Collector::start();
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let mut place = Place::new(&[("invite.yaml", &invite())]);
    place.set("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://127.0.0.1:{}", collector.port));
    // Only `true` disables.
    place.set("OTEL_SDK_DISABLED", "false".into());
    place.set("OTEL_TRACES_SAMPLER", "sometimes".into());
    place.set("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test%20bed".into());
    place.set("OTEL_METRIC_EXPORT_INTERVAL", "1000".into());
    place.set("OTEL_BSP_SCHEDULE_DELAY", "500".into());
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &place.key(&sandbox, "acme"));
    let mut csv = "email,first_name,last_name,phone,postcode\n".to_owned();
    for number in 0..20 {
        csv.push_str(&format!("{MARKER}{number}@example.com,{MARKER},Last,,ZQ7 7QZ\n"));
    }
    let theirs = "4bf92f3577b34da6a3ce929d0e0e4736";
    let sent = client
        .request("POST", &PEOPLE.replace("autumn", MARKER))
        .header("content-type", "text/csv")
        .header("traceparent", format!("00-{theirs}-00f067aa0ba902b7-01"))
        .body(csv)
        .send()
        .await
        .expect("an answer");
    let batch: serde_json::Value = sent.json().await.expect("JSON");
    let batch = client.finished(batch["id"].as_str().expect("an id")).await;
    assert_eq!(batch["counts"]["completed"], 20, "{batch}");
    let stats = sandbox.stats();
    assert_eq!(stats.traced, 60, "each call says which trace it belongs to");
    let last = stats.last_traceparent.expect("one of them");
    let (call_trace, call_span) =
        last.strip_prefix("00-").and_then(|rest| rest.split_once('-')).expect("W3C's form");
    collector.until(&[
        call_trace,
        "penstock.calls",
        "penstock.settled_rows",
        "penstock.rows",
        "penstock.limiter.allowed_rate",
        "http.client.request.duration",
        "POST /v2/client",
    ]);
    service.terminate();
    let id = batch["id"].as_str().expect("an id").replace('-', "");
    // What was sent last is written by the collector when it comes to it.
    let answered = |heard: &str| {
        let calls = spans(heard).into_iter().filter(|span| field(span, "Name") == Some("call"));
        calls.filter(|call| call.contains("http.response.status_code")).count()
    };
    let heard = collector.when(|heard| answered(heard) >= 60);
    let all = spans(&heard);
    let named =
        |name: &str| all.iter().filter(|span| field(span, "Name") == Some(name)).copied().collect::<Vec<_>>();
    for name in ["upload", "extract", "release"] {
        let found = named(name);
        assert!(!found.is_empty(), "no {name} in {heard}");
        assert!(found.iter().all(|span| field(span, "Trace ID") == Some(&id)), "{found:?}");
    }
    let request =
        all.iter().find(|span| field(span, "Trace ID") == Some(theirs)).expect("the client's trace goes on");
    assert!(request.contains("POST /v2"), "{request}");
    let rows = named("row");
    // A row that has to wait for long goes back, and comes again.
    assert!(rows.len() >= 20, "{}", rows.len());
    assert!(rows.iter().all(|row| row.contains(&format!("-> Trace ID: {id}"))), "{}", rows[0]);
    let calls = named("call");
    assert_eq!(answered(&heard), 60, "of {} that were asked for", calls.len());
    let call_span = call_span.split('-').next().expect("a span");
    let told =
        calls.iter().find(|call| field(call, "ID") == Some(call_span)).expect("the parent that was told");
    assert_eq!(field(told, "Trace ID"), Some(call_trace));
    assert!(told.contains("http.response.status_code") && told.contains("SPAN_KIND_CLIENT"), "{told}");
    let of_row = rows
        .iter()
        .find(|row| field(row, "ID") == field(told, "Parent ID"))
        .expect("a call's parent is a row");
    assert_eq!(field(of_row, "Trace ID"), Some(call_trace));
    assert!(!heard.contains(MARKER) && !heard.contains("ZQ7 7QZ"), "content of a row in a trace");
    assert!(heard.contains("deployment.environment.name: Str(test bed)"), "{heard}");
    let log = std::fs::read_to_string(place.log()).expect("a log");
    assert!(!log.contains(MARKER));
    assert!(log.contains("OTEL_TRACES_SAMPLER is `sometimes`"), "what cannot be heeded is told");
    // The same ids that the collector has.
    let told = log.lines().find(|line| line.contains("the row is completed")).expect("a row's end");
    let told: serde_json::Value = serde_json::from_str(told).expect("JSON");
    assert!(rows.iter().any(|row| field(row, "Trace ID") == told["trace_id"].as_str()), "{told}");
}
