//! Workers with more rows than the limit allows, against a server that counts exactly.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use penstock_domain::limit::Past;
use penstock_domain::outcome::Repetition;
use penstock_domain::pipeline::definition::Method;
use penstock_domain::pipeline::{Dependency, RenderedRequest, Target};
use penstock_downstream::{Called, Caller, Client, Demand, LATE, Limiter, Spend};

use super::server::{Arrived, Server};
use super::{SystemClock, dependency, rate};

const ROWS_PER_WORKER: usize = 20;
const RUN: Duration = Duration::from_secs(5);

pub fn caller(limiter: Arc<dyn Limiter>, seed: u64) -> Arc<Caller> {
    // Another test may have installed it already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Arc::new(Caller::new(limiter, Client::new().unwrap(), Arc::new(SystemClock), seed << 40))
}

pub fn get(path: &str) -> RenderedRequest {
    RenderedRequest {
        method: Method::Get,
        target: Target::Path(path.to_owned()),
        query: Vec::new(),
        headers: Vec::new(),
        body: None,
    }
}

/// A call of a step that may be repeated.
pub async fn call(caller: &Caller, api: &Dependency, path: &str) -> Called {
    let demand = Demand {
        dependency: api,
        owner: "acme",
        spend: Spend::of(1),
        timeout: api.timeout,
        answer: Default::default(),
        repetition: Repetition::Harmless,
        unanswered_before: false,
        rules: None,
        reads_body: true,
        traceparent: None,
        past: Past::Clean,
        note: None,
    };
    caller.call(&demand, get(path), &|| true, &|| Box::new(())).await
}

/// Every worker calls `/limited` with all its rows until the time is up.
async fn run(
    server: &Server,
    limiters: [Arc<dyn Limiter>; 4],
    limit: u32,
    burst: u32,
    for_: Duration,
) -> Vec<Arrived> {
    let mut api = dependency(server.url());
    api.rate = Some(rate(limit, burst));
    let api = Arc::new(api);
    let until = Instant::now() + for_;
    let mut rows = tokio::task::JoinSet::new();
    for (worker, limiter) in limiters.into_iter().enumerate() {
        let caller = caller(limiter, worker as u64 + 1);
        for _ in 0..ROWS_PER_WORKER {
            let (caller, api) = (caller.clone(), api.clone());
            rows.spawn(async move {
                while Instant::now() < until {
                    let called = call(&caller, &api, "/limited").await;
                    if let Called::Waits { .. } = called {
                        // As a worker does that gives the row back and takes it up again.
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                }
            });
        }
    }
    while let Some(done) = rows.join_next().await {
        done.unwrap();
    }
    server.arrived()
}

/// The server allows what is configured, `limit` a second and `burst` at once: nothing is refused, and nearly all of it
/// used. `cold` is how long the limiter lets nothing through at first.
pub async fn exact_limit<L: Limiter + 'static>(
    workers: [Arc<L>; 4],
    (limit, burst): (u32, u32),
    least_share: f64,
    cold: Duration,
) {
    in_a_quiet_run(|| async {
        let server = Server::start(limit, burst);
        let workers = workers.clone().map(|worker| worker as Arc<dyn Limiter>);
        let arrived = run(&server, workers, limit, burst, RUN + cold).await;
        let refused = arrived.iter().filter(|call| call.refused).count();
        if refused > 0 {
            return Err(format!("{refused} of {} calls were refused", arrived.len()));
        }
        if arrived.len() < 2 {
            return Err(format!("{} calls were made", arrived.len()));
        }
        // From the first to the last: rows that were still waiting for their moment end behind the time.
        let span = arrived[arrived.len() - 1].at - arrived[0].at;
        let share =
            f64::from(u32::try_from(arrived.len()).unwrap()) / (f64::from(limit) * span.as_secs_f64());
        println!("{share:.3} of {limit} a second used in {span:?}");
        if share < least_share || span < RUN * 3 / 4 {
            Err(format!("only {share} of the limit used, in {span:?}"))
        } else {
            Ok(())
        }
    })
    .await;
}

/// The server allows less than configured and says so: of each pause, at most one call of each worker falls into it.
pub async fn lower_limit<L: Limiter + 'static>(workers: [Arc<L>; 4]) {
    in_a_quiet_run(|| async {
        let server = Server::start(100, 10);
        let workers = workers.clone().map(|worker| worker as Arc<dyn Limiter>);
        let arrived = run(&server, workers, 200, 10, RUN).await;
        let in_pause = arrived.iter().filter(|call| call.in_pause).count();
        let pauses = arrived.iter().filter(|call| call.refused && !call.in_pause).count();
        assert!(pauses > 0, "the limit was never felt");
        assert!(arrived.len() > 100);
        if in_pause > 4 * pauses {
            Err(format!("{in_pause} calls fell into {pauses} pauses"))
        } else {
            Ok(())
        }
    })
    .await;
}

/// What is promised is promised for delays within the arrival margin. A run in which the machine itself was later says
/// nothing, and is made again.
async fn in_a_quiet_run<F: Future<Output = Result<(), String>>>(run: impl Fn() -> F) {
    const RUNS: usize = 8;
    let mut last = String::new();
    for _ in 0..RUNS {
        let latest = Latest::watch();
        match run().await {
            Ok(()) => return,
            Err(what) if latest.so_far() < LATE => {
                panic!("{what}; the machine was at most {:?} late", latest.so_far())
            }
            Err(what) => {
                println!("made again, for the machine was {:?} late: {what}", latest.so_far());
                last = what;
            }
        }
    }
    panic!("no run of {RUNS} was on a quiet machine; the last one: {last}");
}

/// By how much threads of this process are woken late.
struct Latest {
    micros: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Latest {
    fn watch() -> Self {
        let latest = Self { micros: Arc::default(), stop: Arc::default() };
        for _ in 0..2 {
            let (micros, stop) = (latest.micros.clone(), latest.stop.clone());
            std::thread::spawn(move || {
                const NAP: Duration = Duration::from_millis(1);
                while !stop.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    std::thread::sleep(NAP);
                    let late = u64::try_from((began.elapsed() - NAP).as_micros()).unwrap();
                    micros.fetch_max(late, Ordering::Relaxed);
                }
            });
        }
        latest
    }

    fn so_far(&self) -> Duration {
        Duration::from_micros(self.micros.load(Ordering::Relaxed))
    }
}

impl Drop for Latest {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
