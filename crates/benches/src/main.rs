//! `cargo xtask bench [ROWS]`: measurements beside a ceiling or a peer that is measured in the same run.

mod bulk;
mod cluster;
mod console;
mod cpu;
mod embedded;
mod files;
mod fixed;
mod flow;
mod million;
mod peers;
mod plain;
mod progress;

use std::process::ExitCode;
use std::time::Duration;

use penstock_tests::Service;

/// A pipeline without a call.
const NOOP: &str = "name: noop\ncsv: { columns: [ { name: email, required: true, format: email }, { name: first_name }, { name: last_name }, { name: phone }, { name: postcode } ] }\nsteps: []\ndispatch: { spread: 0s, rows_per_owner: 50000 }\n";

const ROUTE: &str = "/v2/pipelines/noop/batches";

/// Three calls a row, which nothing limits but so many at once at each of two dependencies.
fn three_calls_definition(concurrency: u32) -> String {
    include_str!("../../../pipelines/invite.yaml")
        .replace("concurrency: 20, ", "")
        .replace(
            "limit: 50, period: 1s, burst: 10 }",
            &format!("limit: 100000, period: 1s, burst: 10000 }}, concurrency: {concurrency}"),
        )
        .replace(
            "limit: 20, period: 1s, burst: 5 }",
            &format!("limit: 100000, period: 1s, burst: 10000 }}, concurrency: {concurrency}"),
        )
        .replace("rows_per_owner: 100", "rows_per_owner: 20000, spread: 0s")
}

#[tokio::main]
async fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let services = args.next().unwrap_or_else(|| "embedded".into());
    let rows: u32 = args.next().and_then(|text| text.parse().ok()).unwrap_or(1_000_000);
    let good = match services.as_str() {
        "embedded" => embedded::run(rows, args.next().as_deref()).await,
        "cluster" => cluster::run(rows, args.next().as_deref()).await,
        "flow" => {
            let mut kept = Promises::default();
            flow::run(rows.min(600), args.next().as_deref(), &mut kept).await;
            kept.all()
        }
        "bulk" => {
            let mut kept = Promises::default();
            bulk::run(rows.min(100_000), args.next().as_deref(), &mut kept).await;
            kept.all()
        }
        "console" => {
            let mut kept = Promises::default();
            console::run(rows, &mut kept).await;
            kept.all()
        }
        "files" => {
            let mut kept = Promises::default();
            files::run(rows, &mut kept).await;
            kept.all()
        }
        "million" => {
            let mut kept = Promises::default();
            million::run(rows, &mut kept).await;
            kept.all()
        }
        "peers" => {
            let mut kept = Promises::default();
            peers::run(rows, &mut kept).await;
            kept.all()
        }
        _ => {
            eprintln!(
                "penstock-benches embedded [ROWS] [calls]\n\
                 penstock-benches cluster [ROWS] [extraction|no-op|three-calls|fast-calls|few-slots|dispatcher]\n\
                 penstock-benches flow [SECONDS] [exact|unrest|lower|hang|fair]\n\
                 penstock-benches console [ROWS]\n\
                 penstock-benches bulk [ROWS] [rate|fair|poison|headline|cache|unique]\n\
                 penstock-benches files [ROWS]\n\
                 penstock-benches million [ROWS]\n\
                 penstock-benches peers [ROWS]"
            );
            return ExitCode::from(2);
        }
    };
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What was promised, and whether all of it was kept so far.
#[derive(Default)]
pub struct Promises {
    missed: bool,
}

impl Promises {
    /// Whether all were kept.
    pub fn all(&self) -> bool {
        !self.missed
    }

    /// Says a figure that is to be so great or small.
    pub fn at_least(&mut self, what: &str, value: f64, promised: f64) {
        self.said(what, value, value >= promised, &format!("at least {promised}"));
    }

    /// Says a figure that is to be so great or small.
    pub fn at_most(&mut self, what: &str, value: f64, promised: f64) {
        self.said(what, value, value <= promised, &format!("at most {promised}"));
    }

    fn said(&mut self, what: &str, value: f64, good: bool, promise: &str) {
        println!("{what:<60} {value:>12.2} ({promise}: {})", if good { "kept" } else { "MISSED" });
        self.missed |= !good;
    }
}

fn head() -> &'static str {
    "email,first_name,last_name,phone,postcode\n"
}

/// About 90 bytes.
fn line(number: u32) -> String {
    format!(
        "person{number:07}@some-company.example.com,Firstname{number:07},Lastname{number:07},+4917{number:08},AB{:04}\n",
        number % 10_000
    )
}

fn body(rows: u32) -> reqwest::Body {
    let blocks = (0..rows.div_ceil(500)).map(move |block| {
        let mut text = if block == 0 { head().to_owned() } else { String::new() };
        (block * 500..rows.min(block * 500 + 500)).for_each(|number| text.push_str(&line(number)));
        Ok::<_, std::io::Error>(text)
    });
    reqwest::Body::wrap_stream(futures::stream::iter(blocks))
}

fn rate(rows: u32, took: Duration) -> f64 {
    f64::from(rows) / took.as_secs_f64()
}

fn say(what: &str, rows: u32, took: Duration) -> f64 {
    let rate = rate(rows, took);
    println!("{what:<60} {rate:>12.0} rows/s");
    rate
}

/// Peak resident memory in MiB, and CPU seconds so far.
fn usage(service: &Service) -> (f64, f64) {
    let status = std::fs::read_to_string(format!("/proc/{}/status", service.pid())).expect("a process");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a figure");
    let peak: f64 = peak.trim().trim_end_matches(" kB").parse().expect("a number");
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", service.pid())).expect("a process");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>().expect("user") + fields[12].parse::<f64>().expect("system");
    (peak / 1024.0, ticks / 100.0)
}
