//! What a service repeats in the background: one driver for all of it, and a status of each task that operators can read
//! (`penstock doctor`).
//!
//! A task that fails runs again when it is due. One that panics stops the service, as any of its parts does.

use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use penstock_domain::time::{Clock, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::context::id_generator::IdGenerator;
use crate::context::tasks::spawn_part;

/// A task that keeps failing for the same reason is logged this often.
const LOG_EVERY: Duration = Duration::from_secs(30);

/// A task that takes longer than its period still pauses, so that it never takes all of what it uses.
const SHORTEST_PAUSE: f64 = 0.1;

/// When a task runs.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// From the start of a run to the start of the next one.
    pub period: Duration,
    /// The share of the period by which a run may come earlier or later, so that processes that started together do not run
    /// it at the same time.
    pub jitter: f64,
    /// Whether it runs at the start, or first when a period has passed.
    pub at_start: bool,
}

impl Schedule {
    /// First at the start, then every `period`.
    pub fn from_start(period: Duration) -> Self {
        Self { period, jitter: 0.0, at_start: true }
    }

    /// First when a period has passed.
    pub fn after(period: Duration) -> Self {
        Self { period, jitter: 0.0, at_start: false }
    }

    /// With this jitter.
    #[must_use]
    pub fn with_jitter(self, jitter: f64) -> Self {
        Self { jitter, ..self }
    }
}

/// A task that runs again and again.
pub trait Task: Send + 'static {
    /// Its name in logs and in the status.
    const NAME: &'static str;

    /// Why a run failed.
    type Error: Display + Send;

    /// When it runs.
    fn schedule(&self) -> Schedule;

    /// One run.
    fn run(&mut self) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Ends when a run is due before its time. Dropped whenever a run begins or the service stops.
    fn due_early(&mut self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }

    /// What it does when the service stops.
    fn finish(&mut self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }
}

/// What became of a task's runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskStatus {
    /// Its name.
    pub name: String,
    /// Its period.
    pub period_ms: u64,
    /// Runs that ended.
    pub runs: u64,
    /// Runs that failed.
    pub failures: u64,
    /// When the last run began.
    pub started_at: Option<Timestamp>,
    /// When a run ended last.
    pub ended_at: Option<Timestamp>,
    /// The last failure.
    pub last_error: Option<TaskError>,
    /// Whether the last run that ended failed.
    pub failing: bool,
}

/// A run's failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskError {
    /// When.
    pub at: Timestamp,
    /// Why.
    pub error: String,
}

/// The background tasks of a process.
pub struct PeriodicTasks {
    clock: Arc<dyn Clock>,
    id_generator: Arc<dyn IdGenerator>,
    statuses: Mutex<Vec<TaskStatus>>,
}

impl PeriodicTasks {
    /// None yet.
    pub fn new(clock: Arc<dyn Clock>, id_generator: Arc<dyn IdGenerator>) -> Self {
        Self { clock, id_generator, statuses: Mutex::default() }
    }

    /// The status of each, in the order of their start.
    pub fn statuses(&self) -> Vec<TaskStatus> {
        self.lock().clone()
    }

    /// Runs a task beside the caller until `stop`.
    pub fn start<T: Task>(self: &Arc<Self>, task: T, stop: &CancellationToken) -> JoinHandle<()> {
        let (tasks, until) = (self.clone(), stop.clone());
        spawn_part(T::NAME, async move { tasks.run(task, &until).await }, stop)
    }

    /// Runs a task until `stop`.
    pub async fn run<T: Task>(&self, mut task: T, stop: &CancellationToken) {
        let Schedule { period, jitter, at_start } = task.schedule();
        let status = self.register(T::NAME, period);
        let next = || period.mul_f64(1.0 + jitter * (2.0 * self.id_generator.unit() - 1.0));
        let mut due = Instant::now() + if at_start { Duration::ZERO } else { next() };
        let mut failures = FailureLog { task: T::NAME, logged: None };
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = tokio::time::sleep_until(due) => {}
                () = task.due_early() => {}
            }
            let began = Instant::now();
            self.began(status);
            let error = task.run().await.err().map(|error| error.to_string());
            failures.log(error.as_deref());
            self.ended(status, error);
            due = (began + next()).max(Instant::now() + period.mul_f64(SHORTEST_PAUSE));
        }
        task.finish().await;
    }

    fn lock(&self) -> MutexGuard<'_, Vec<TaskStatus>> {
        self.statuses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn register(&self, name: &str, period: Duration) -> usize {
        let mut statuses = self.lock();
        statuses.push(TaskStatus {
            name: name.to_owned(),
            period_ms: u64::try_from(period.as_millis()).unwrap_or(u64::MAX),
            runs: 0,
            failures: 0,
            started_at: None,
            ended_at: None,
            last_error: None,
            failing: false,
        });
        statuses.len() - 1
    }

    fn began(&self, status: usize) {
        let now = self.clock.now();
        self.lock()[status].started_at = Some(now);
    }

    fn ended(&self, status: usize, error: Option<String>) {
        let now = self.clock.now();
        let status = &mut self.lock()[status];
        status.runs += 1;
        status.ended_at = Some(now);
        status.failing = error.is_some();
        if let Some(error) = error {
            status.failures += 1;
            status.last_error = Some(TaskError { at: now, error });
        }
    }
}

/// Logs that a task fails, and that it succeeds again, without a line for each run.
struct FailureLog {
    task: &'static str,
    logged: Option<(Instant, String)>,
}

impl FailureLog {
    fn log(&mut self, error: Option<&str>) {
        let task = self.task;
        let known = |(at, text): &(Instant, String)| at.elapsed() < LOG_EVERY && error == Some(text);
        match error {
            None if self.logged.take().is_some() => tracing::info!(task, "a background task succeeds again"),
            None => {}
            Some(_) if self.logged.as_ref().is_some_and(known) => {}
            Some(error) => {
                tracing::warn!(task, error, "a background task failed; will retry");
                self.logged = Some((Instant::now(), error.to_owned()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use penstock_domain::time::ManualClock;
    use tokio::sync::mpsc;

    use super::*;
    use crate::context::id_generator::SystemIdGenerator;

    const PERIOD: Duration = Duration::from_secs(10);

    /// A task that reports each run, takes as long as the test wants, and fails when the test wants it.
    struct Scripted {
        schedule: Schedule,
        lasts: Duration,
        fails: bool,
        early: mpsc::Receiver<()>,
        events: mpsc::UnboundedSender<(&'static str, Instant)>,
    }

    impl Task for Scripted {
        const NAME: &'static str = "scripted";
        type Error = String;

        fn schedule(&self) -> Schedule {
            self.schedule
        }

        async fn run(&mut self) -> Result<(), String> {
            self.events.send(("run", Instant::now())).map_err(|error| error.to_string())?;
            tokio::time::sleep(self.lasts).await;
            if std::mem::take(&mut self.fails) { Err("out of order".into()) } else { Ok(()) }
        }

        async fn due_early(&mut self) {
            if self.early.recv().await.is_none() {
                std::future::pending().await
            }
        }

        async fn finish(&mut self) {
            let _ = self.events.send(("finish", Instant::now()));
        }
    }

    struct Started {
        tasks: Arc<PeriodicTasks>,
        stop: CancellationToken,
        handle: JoinHandle<()>,
        early: mpsc::Sender<()>,
        events: mpsc::UnboundedReceiver<(&'static str, Instant)>,
        began: Instant,
    }

    impl Started {
        fn new(schedule: Schedule, lasts: Duration, fails: bool) -> Self {
            let clock = Arc::new(ManualClock::new(Timestamp::from_millis(5000)));
            let tasks = Arc::new(PeriodicTasks::new(clock, Arc::new(SystemIdGenerator)));
            let (sender, events) = mpsc::unbounded_channel();
            let (early, receiver) = mpsc::channel(1);
            let stop = CancellationToken::new();
            let task = Scripted { schedule, lasts, fails, early: receiver, events: sender };
            let handle = tasks.start(task, &stop);
            Self { tasks, stop, handle, early, events, began: Instant::now() }
        }

        /// What happens next, and how long after the start.
        async fn next(&mut self) -> (&'static str, Duration) {
            let (what, at) = self.events.recv().await.expect("the task lives");
            (what, at - self.began)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_runs_once_a_period_from_start_to_start() {
        let mut started = Started::new(Schedule::from_start(PERIOD), PERIOD / 4, false);
        for number in 0..4 {
            assert_eq!(started.next().await, ("run", PERIOD * number));
        }
        let mut started = Started::new(Schedule::after(PERIOD), PERIOD / 4, false);
        assert_eq!(started.next().await, ("run", PERIOD), "not at the start");
    }

    #[tokio::test(start_paused = true)]
    async fn jitter_moves_a_run_by_its_share_at_most() {
        let mut started = Started::new(Schedule::from_start(PERIOD).with_jitter(0.1), Duration::ZERO, false);
        let mut last = started.next().await.1;
        let mut pauses = Vec::new();
        for _ in 0..50 {
            let at = started.next().await.1;
            pauses.push(at - last);
            last = at;
        }
        let (shortest, longest) = (pauses.iter().min().unwrap(), pauses.iter().max().unwrap());
        assert!(*shortest >= PERIOD.mul_f64(0.89) && *longest <= PERIOD.mul_f64(1.11), "{pauses:?}");
        assert!(longest > shortest, "{pauses:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_is_slower_than_its_period_pauses_all_the_same() {
        let mut started = Started::new(Schedule::from_start(PERIOD), PERIOD * 2, false);
        assert_eq!(started.next().await.1, Duration::ZERO);
        assert_eq!(started.next().await.1, PERIOD * 2 + PERIOD / 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_can_be_due_early_and_finishes_at_the_stop() {
        let mut started = Started::new(Schedule::from_start(PERIOD), Duration::ZERO, false);
        assert_eq!(started.next().await, ("run", Duration::ZERO));
        tokio::time::sleep(PERIOD / 2).await;
        started.early.send(()).await.unwrap();
        assert_eq!(started.next().await, ("run", PERIOD / 2));
        started.stop.cancel();
        assert_eq!(started.next().await.0, "finish");
        started.handle.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn the_status_has_runs_and_the_last_error() {
        let mut started = Started::new(Schedule::from_start(PERIOD), PERIOD / 2, true);
        started.next().await;
        let [status] = &started.tasks.statuses()[..] else { panic!("one task") };
        let at = Timestamp::from_millis(5000);
        assert_eq!((status.name.as_str(), status.period_ms), ("scripted", 10_000));
        assert_eq!((status.started_at, status.ended_at, status.runs), (Some(at), None, 0), "under way");
        started.next().await;
        let [status] = &started.tasks.statuses()[..] else { panic!("one task") };
        assert_eq!((status.runs, status.failures, status.failing), (1, 1, true), "a failure ends no task");
        assert_eq!(status.last_error, Some(TaskError { at, error: "out of order".into() }));
        started.next().await;
        let [status] = &started.tasks.statuses()[..] else { panic!("one task") };
        assert_eq!((status.runs, status.failures, status.failing), (2, 1, false));
        assert!(status.last_error.is_some(), "it is still there to read");
    }
}
