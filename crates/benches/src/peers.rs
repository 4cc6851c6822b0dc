//! Other queues on the same work, alternately with Penstock: rows without a call, and rows of three calls that are answered at once.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use penstock_tests::Place;
use serde_json::Value;

use crate::Promises;
use crate::cluster::{self, Calls};
use crate::cpu::Meter;
use crate::fixed::Fixed;

/// How often each is measured.
const ROUNDS: u32 = 3;

/// Jobs that a peer carries out at once.
const CONCURRENCY: u32 = 64;

const PEERS: [(&str, &str); 2] = [("BullMQ", "bullmq.mjs"), ("Graphile Worker", "graphile.mjs")];

/// What the peers are made of, copied beside the programs and installed there.
const FILES: [(&str, &str); 4] = [
    ("package.json", include_str!("../peers/package.json")),
    ("work.mjs", include_str!("../peers/work.mjs")),
    ("bullmq.mjs", include_str!("../peers/bullmq.mjs")),
    ("graphile.mjs", include_str!("../peers/graphile.mjs")),
];

/// Measures the peers and Penstock by turns.
pub async fn run(rows: u32, kept: &mut Promises) {
    let folder = install();
    let rows = rows.min(20_000);
    for round in 1..=ROUNDS {
        println!("\nround {round} of {ROUNDS}, {rows} rows");
        for calls in [0, 3] {
            println!("{calls} calls a row");
            if calls == 0 {
                cluster::no_op(rows, kept).await;
            } else {
                let calls = Calls { latency_ms: 0, concurrency: CONCURRENCY, share: 0.0 };
                cluster::three_calls(rows, &calls, kept).await;
            }
            for (name, program) in PEERS {
                measure(&folder, name, program, rows, calls);
            }
        }
    }
}

/// Installs the peers by npm, once.
fn install() -> PathBuf {
    let folder = std::env::current_exe().expect("a program").with_file_name("peers");
    std::fs::create_dir_all(&folder).expect("a folder");
    for (name, text) in FILES {
        std::fs::write(folder.join(name), text).expect("a file");
    }
    let npm = Command::new("npm")
        .args(["install", "--no-audit", "--no-fund", "--silent"])
        .current_dir(&folder)
        .status();
    assert!(
        npm.expect("npm runs (Debian: nodejs, npm)").success(),
        "npm install failed in {}",
        folder.display()
    );
    folder
}

/// One peer on a database and a Redis of its own. Its jobs are queued before the time counts.
fn measure(folder: &std::path::Path, name: &str, program: &str, rows: u32, calls: u32) {
    let downstream = Fixed::start();
    let place = Place::new(&[("pipeline.yaml", crate::NOOP)]);
    let variable = |name| place.variable(name).expect("a cluster").to_owned();
    let (database, redis) = (variable("DATABASE_URL"), variable("REDIS_URL"));
    let mut peer = Command::new("node")
        .arg(program)
        .current_dir(folder)
        .env("ROWS", rows.to_string())
        .env("CALLS", calls.to_string())
        .env("CONCURRENCY", CONCURRENCY.to_string())
        .env("DOWNSTREAM_URL", &downstream.url)
        .env("DATABASE_URL", &database)
        .env("REDIS_URL", &redis)
        .env("NO_LOG_SUCCESS", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("node runs");
    let mut lines = BufReader::new(peer.stdout.take().expect("it is piped")).lines().map_while(Result::ok);
    assert!(lines.any(|line| line == "ready"), "{name} ended");
    let (postgres, redis) = cluster::servers(&database, &redis);
    let meter = Meter::start(&[], postgres, redis);
    peer.stdin.take().expect("it is piped").write_all(b"go\n").expect("it reads");
    let result = lines.find_map(|line| serde_json::from_str::<Value>(&line).ok().filter(Value::is_object));
    let servers = meter.used();
    let result = result.unwrap_or_else(|| panic!("{name} ended without a result"));
    end(peer, name);
    let number = |field: &str| result[field].as_f64().expect("a number");
    let thousand = f64::from(rows) / 1000.0;
    println!("{:<60} {:>12.0} rows/s", format!("peer: {name}"), f64::from(rows) / number("seconds"));
    let servers: f64 = servers.iter().map(|(_, used)| used).sum();
    println!(
        "{:<60} {:>12.3} CPU s (node {:.3})",
        "all its processes but the downstream, for 1,000 rows",
        (number("cpu") + servers) / thousand,
        number("cpu") / thousand
    );
}

fn end(mut peer: Child, name: &str) {
    let status = peer.wait().expect("it is a child");
    assert!(status.success(), "{name} ended with {status}");
}
