//! `penstock demo`: a newcomer's first look, with nothing faked: the real API, extraction, dispatcher, and calls.

use std::io::{IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use penstock_app::{Settings, StartError, data_dir, shutdown};
use penstock_domain::pipeline::{Catalog, Pipeline};
use penstock_flow::context::api_keys;
use penstock_flow::context::api_keys::Grant;
use penstock_sandbox::{Config, Faults, Limit, Sandbox};
use serde_json::Value;

use crate::DEFAULT_DATA;
use crate::dev::{self, Everything};
use crate::open::said;
use crate::output::Output;

const DEFINITION: &str = include_str!("../demo/demo.yaml");

/// The demo's dispatcher does not keep anybody waiting for a minute.
const RUN_EVERY: Duration = Duration::from_secs(1);

/// Progress is looked at this often.
const LOOK_EVERY: Duration = Duration::from_millis(250);

pub async fn run(
    mut settings: Settings,
    data: &Path,
    rows: u32,
    stays: bool,
    out: Output,
) -> Result<bool, StartError> {
    if rows == 0 {
        return Err(StartError::new("--rows is 1 or more"));
    }
    data_dir::fill(&mut settings, data)?;
    settings.rows_per_owner = settings.rows_per_owner.max(300);
    if std::net::TcpListener::bind(settings.bind).is_err() {
        settings.bind = SocketAddr::from(([127, 0, 0, 1], 0));
    }
    let sandbox = Sandbox::start(Config {
        address: Some(Limit { rate: 300.0, burst: 30.0 }),
        invite: Some(Limit { rate: 150.0, burst: 15.0 }),
        faults: Faults { latency_ms: 5, jitter_ms: 20, ..Faults::default() },
        ..Config::default()
    })
    .map_err(said)?;
    let catalog = catalog(sandbox.url())?;
    let stop = shutdown::on_signal();
    let shows_console = settings.surface.console;
    let everything = dev::start(&settings, catalog, RUN_EVERY, stop.clone()).await?;
    let demo = Demo::new(&everything, shows_console, out).await?;
    let finished = tokio::select! {
        finished = demo.show(rows, &sandbox) => Some(finished?),
        () = stop.cancelled() => None,
    };
    let Some(batch) = finished else {
        everything.finish().await?;
        return Ok(false);
    };
    if stays {
        demo.tell(demo.requests(&batch));
        demo.tell(command(data, &["why", &batch]));
        demo.tell("\nIt stays up until you press Ctrl-C (`--once` ends it at this point).");
        if let Some(console) = &demo.console {
            demo.tell("Look at it in a browser; the link works once:");
            demo.tell(console);
        }
        stop.cancelled().await;
        everything.finish().await?;
    } else {
        everything.finish().await?;
        demo.tell("\nThe service has ended. What it stored is still there:");
        demo.tell(command(data, &["batches", "show", &batch]));
        demo.tell(command(data, &["batches", "list"]));
        demo.tell("To look around while it runs:");
        demo.tell(command(data, &["demo", "--keep"]));
    }
    Ok(true)
}

fn catalog(url: String) -> Result<Catalog, StartError> {
    let vars = |name: &str| match name {
        "ADDRESS_API_URL" | "INVITE_API_URL" => Some(url.clone()),
        "INVITE_API_TOKEN" => Some("demo".to_owned()),
        _ => None,
    };
    Pipeline::load("demo.yaml", DEFINITION, &vars).and_then(|pipeline| Catalog::new(vec![pipeline])).map_err(
        |errors| StartError::new(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")),
    )
}

/// A command of this very program on the demo's data, as it can be pasted into a shell here.
fn command(data: &Path, args: &[&str]) -> String {
    let program = std::env::current_exe().unwrap_or_else(|_| "penstock".into());
    let here = std::env::current_dir().unwrap_or_default();
    let program = program.strip_prefix(&here).unwrap_or(&program);
    let mut words = vec![program.display().to_string()];
    if data != Path::new(DEFAULT_DATA) {
        words.extend(["--data".to_owned(), data.display().to_string()]);
    }
    words.extend(args.iter().map(|word| (*word).to_owned()));
    let words: Vec<String> = words.into_iter().map(quoted).collect();
    format!("  {}", words.join(" "))
}

/// A word as a shell reads it.
fn quoted(word: String) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

struct Demo {
    http: reqwest::Client,
    base: String,
    key: String,
    /// What opens the console in a browser, signed in; none when it is switched off.
    console: Option<String>,
    out: Output,
}

impl Demo {
    async fn new(everything: &Everything, shows_console: bool, out: Output) -> Result<Self, StartError> {
        let services = &everything.chosen.services;
        let now = services.clock.now();
        let owner = services.store.ensure_owner("demo", now).await.map_err(said)?;
        let (key, record) = api_keys::create(services, &owner, Grant::default()).await.map_err(said)?;
        let http = reqwest::Client::builder().no_proxy().build().map_err(said)?;
        let base = format!("http://{}", everything.address);
        let console = match shows_console {
            true => Some(format!(
                "open {base}{}",
                penstock_api::one_time_path(services, &record).await.map_err(said)?
            )),
            false => None,
        };
        Ok(Self { http, base, key: key.reveal(), console, out })
    }

    /// For people; a program gets one JSON object at the end.
    fn tell(&self, text: impl AsRef<str>) {
        if !self.out.json {
            println!("{}", text.as_ref());
        }
    }

    async fn get(&self, path: &str) -> Result<Value, StartError> {
        let response = self
            .http
            .get(format!("{}{path}", self.base))
            .bearer_auth(&self.key)
            .send()
            .await
            .map_err(said)?;
        response.error_for_status().map_err(said)?.json().await.map_err(said)
    }

    /// Requests that the running service answers.
    fn requests(&self, batch: &str) -> String {
        let Self { base, key, .. } = self;
        let url = format!("{base}/v2/batches/{batch}");
        format!(
            "\nLook next (documentation: {base}/docs):\n  curl -H 'Authorization: Bearer {key}' {url}\n  \
             curl -H 'Authorization: Bearer {key}' {url}/results.csv\n  \
             curl -H 'Authorization: Bearer {key}' {url}/failed.csv"
        )
    }

    /// Uploads, watches, and tells the outcome; the batch's id.
    async fn show(&self, rows: u32, sandbox: &Sandbox) -> Result<String, StartError> {
        let began = Instant::now();
        self.tell(format!("Uploading {rows} rows to {}/v2/client/users/batch/invite …", self.base));
        let batch = self.upload(rows).await?;
        let id = batch["id"].as_str().unwrap_or_default().to_owned();
        self.tell(format!(
            "Batch {id} was accepted after {:.1} s; every row was validated on the way.",
            began.elapsed().as_secs_f64()
        ));
        let batch = self.watch(&id, rows).await?;
        let seconds = began.elapsed().as_secs_f64();
        let errors = self.get(&format!("/v2/batches/{id}/errors")).await?;
        let stats = sandbox.stats();
        if self.out.json {
            self.out.say(&serde_json::json!({ "batch": batch, "errors": errors, "downstream": stats, "seconds": seconds }), String::new);
            return Ok(id);
        }
        self.outcome(&id, &batch, &errors, seconds).await?;
        let calls = stats.address_links + stats.addresses + stats.invites;
        println!(
            "\nThe downstream counted {calls} calls and {} invitations, {} of them twice; it said \"too many\" {} times.",
            stats.effects,
            stats.doubled,
            stats.statuses.get(&429).copied().unwrap_or(0)
        );
        Ok(id)
    }

    async fn upload(&self, rows: u32) -> Result<Value, StartError> {
        let head = Bytes::from_static(b"email,first_name,last_name,phone,postcode\n");
        let lines = (0..rows).map(|number| Ok::<_, std::io::Error>(Bytes::from(sample(number))));
        let body = futures::stream::iter(std::iter::once(Ok(head)).chain(lines));
        let response = self
            .http
            .post(format!("{}/v2/client/users/batch/invite", self.base))
            .query(&[("name", "demo"), ("context", r#"{"campaign":"demo"}"#)])
            .bearer_auth(&self.key)
            .header("content-type", "text/csv")
            .body(reqwest::Body::wrap_stream(body))
            .send()
            .await
            .map_err(said)?;
        let good = response.status().is_success();
        let value: Value = response.json().await.map_err(said)?;
        if good { Ok(value) } else { Err(StartError::new(format!("the upload was refused: {value}"))) }
    }

    async fn watch(&self, id: &str, rows: u32) -> Result<Value, StartError> {
        let bar = std::io::stdout().is_terminal() && !self.out.json;
        let began = Instant::now();
        let mut said_at = Instant::now();
        loop {
            let batch = self.get(&format!("/v2/batches/{id}")).await?;
            let done =
                ["completed", "failed"].iter().filter_map(|name| batch["counts"][name].as_u64()).sum::<u64>();
            #[allow(clippy::cast_precision_loss, reason = "shown with no decimals")]
            let rate = done as f64 / began.elapsed().as_secs_f64();
            #[allow(clippy::cast_precision_loss, reason = "shown with no decimals")]
            let left = if rate > 0.0 { (f64::from(rows) - done as f64) / rate } else { 0.0 };
            let progress = usize::try_from(batch["progress"].as_u64().unwrap_or(0)).unwrap_or(0);
            let line = format!(
                "[{:<25}] {progress:>3} %  {done}/{rows} rows  {rate:.0} rows/s  {left:.0} s left",
                "#".repeat(progress / 4)
            );
            let ended = !batch["finished_at"].is_null();
            if bar {
                print!("\r{line} ");
                std::io::stdout().flush().map_err(said)?;
            } else if ended || said_at.elapsed() > Duration::from_secs(2) {
                said_at = Instant::now();
                self.tell(&line);
            }
            if ended {
                if bar {
                    println!();
                }
                return Ok(batch);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn outcome(&self, id: &str, batch: &Value, errors: &Value, seconds: f64) -> Result<(), StartError> {
        let counts = &batch["counts"];
        println!(
            "\nFinished in {seconds:.1} s: {}. {} completed, {} failed.\n",
            batch["outcome"].as_str().unwrap_or_default(),
            counts["completed"],
            counts["failed"]
        );
        println!("{:<12} {:<16} {:>6}  rows such as", "CODE", "STEP", "ROWS");
        let done = self.get(&format!("/v2/batches/{id}/rows?status=completed&limit=3")).await?;
        let samples: Vec<String> = done["data"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|row| {
                format!("{} ({})", row["line"], row["result"]["check_id"].as_str().unwrap_or_default())
            })
            .collect();
        println!(
            "{:<12} {:<16} {:>6}  {}",
            "completed",
            "",
            counts["completed"].to_string(),
            samples.join(", ")
        );
        for group in errors["data"].as_array().into_iter().flatten() {
            let mut samples = Vec::new();
            let mut step = String::new();
            for number in group["sample"].as_array().into_iter().flatten() {
                let row = self.get(&format!("/v2/batches/{id}/rows/{number}")).await?;
                step = row["error"]["step"].as_str().unwrap_or_default().to_owned();
                let reason = row["error"]["detail"]["error"].as_str().unwrap_or_default();
                samples.push(format!("{} ({reason})", row["line"]));
            }
            let code = group["code"].as_str().unwrap_or_default();
            println!("{code:<12} {step:<16} {:>6}  {}", group["count"].to_string(), samples.join(", "));
        }
        println!("(numbers are lines of the file)");
        Ok(())
    }
}

/// A line of the sample; the downstream refuses a few of them.
fn sample(number: u32) -> String {
    let email = match number % 100 {
        17 => format!("taken{number}@example.com"),
        53 => format!("person{number}@blocked.example"),
        _ => format!("person{number}@example.com"),
    };
    let postcode = if number % 100 == 71 {
        format!("ZZ{:04}", number % 10_000)
    } else {
        format!("AB{:04}", number % 10_000)
    };
    let phone = if number.is_multiple_of(3) { format!("+4917{:08}", number) } else { String::new() };
    format!("{email},First{number},Last{number},{phone},{postcode}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_a_quoted_word_as_it_is() {
        for word in ["./data", "it's", "a b", "$HOME", "", "\"x\"", "key_1.2:3"] {
            let quoted = quoted(word.to_owned());
            let output =
                std::process::Command::new("sh").args(["-c", &format!("printf %s {quoted}")]).output();
            assert_eq!(String::from_utf8(output.expect("a shell").stdout).expect("text"), word, "{quoted}");
        }
        assert_eq!(quoted("./data".to_owned()), "./data");
    }
}
